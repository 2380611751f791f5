"""Structured logs on standard error: for people on a terminal, JSON lines otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

__all__ = ["logger"]


class _StandardError:
    """Whatever `sys.stderr` is when a line is written; a progress display puts itself in its place."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def logger(stream: TextIO | None = None, *, debug: bool = False) -> Any:
    """A logger; each call makes one event: `log.info("published", file=..., rows=...)`.

    Args:
        stream: where to write; standard error when left out.
        debug: whether events of the level debug are written too.
    """
    terminal = (stream or sys.stderr).isatty()
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
    ]
    if terminal:
        processors.append(structlog.dev.ConsoleRenderer(colors=True, pad_event_to=0))
    else:
        processors.append(structlog.processors.JSONRenderer())
    return structlog.wrap_logger(
        structlog.PrintLogger(stream or _StandardError()),  # type: ignore[arg-type]
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
    )
