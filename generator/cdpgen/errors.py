"""Errors for the person at the terminal: what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Position", "UsageError", "suggest"]


class Position(NamedTuple):
    """A place in a text file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class UsageError(Exception):
    """Something that the user wrote cannot be used; the command ends with exit code 2.

    The message holds one problem a line, each beginning with its place where it has one.
    """


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Says what would have been right.

    Args:
        given: what was written.
        allowed: what may stand there.

    Returns:
        A close match as `did you mean "x"?`, or all that is allowed when it is a short list.
    """
    choices = list(allowed)
    close = difflib.get_close_matches(given, choices, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    if not choices:
        return "nothing may stand here"
    shown = ", ".join(choices[:20])
    return f"allowed: {shown}" + (f", ... ({len(choices)} in all)" if len(choices) > 20 else "")
