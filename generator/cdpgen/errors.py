"""Errors for the person at the terminal: what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Position", "UsageError", "not_utf8", "suggest"]


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


def not_utf8(path: str, data: bytes) -> str:
    """Says where a file that has to be UTF-8 is not.

    Args:
        path: the file as shown to the user.
        data: what is in it.
    """
    good = data.decode("utf-8", errors="surrogateescape")
    before = re.split(r"[\udc80-\udcff]", good, maxsplit=1)[0]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    byte = data[len(before.encode("utf-8")) :][:1].hex()
    return f"{Position(path, line, column)}: not UTF-8: the byte 0x{byte}; save the file as UTF-8"
