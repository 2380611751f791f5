"""Structured logs on standard error: for people on a terminal, JSON lines otherwise."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final, Literal, TextIO, TypeVar

__all__ = ["STANDARD_ERROR", "STANDARD_OUTPUT", "logger"]

T = TypeVar("T")


class _Standard:
    """Whatever `sys.stdout` or `sys.stderr` is at the time; a progress display puts itself in its place.

    What it does not take is dropped: no work ends because the disk of its log is full, or nobody reads that
    any more.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name: Final = name

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return self._try(lambda stream: stream.isatty()) or False

    def forget(self) -> None:
        """Drops what it has kept to try again; else the interpreter does at its end, and exits with 120."""
        stream: TextIO | None = getattr(sys, self._name)
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            assert stream is not None
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)

    def _try(self, do: Callable[[TextIO], T]) -> T | None:
        stream: TextIO | None = getattr(sys, self._name)  # None where it was closed from the start
        # ValueError: it is closed by now; RuntimeError: a signal's handler writes in the midst of a write
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            return None if stream is None else do(stream)
        return None


STANDARD_ERROR: Final = _Standard("stderr")
"""One for all loggers: structlog has a lock a stream, by which the lines of two threads stay apart."""

STANDARD_OUTPUT: Final = _Standard("stdout")


def logger(stream: TextIO | None = None, *, debug: bool = False) -> Any:
    """A logger; each call makes one event: `log.info("published", file=..., rows=...)`.

    Args:
        stream: where to write; standard error when left out, which may be closed or full.
        debug: whether events of the level debug are written too.
    """
    import structlog  # takes time and memory that who never logs does not need

    out = stream or STANDARD_ERROR
    terminal = out.isatty()
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
    ]
    if terminal:
        processors.append(structlog.dev.ConsoleRenderer(colors=True, pad_event_to=0))
    else:
        processors.append(structlog.processors.JSONRenderer())
    return structlog.wrap_logger(
        structlog.PrintLogger(out),  # type: ignore[arg-type]
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
    )
