"""What a writer has done so far, as plain numbers that anyone may read at any time."""

from __future__ import annotations

__all__ = ["Metrics"]


class Metrics:
    """Counters of one writer; each is written by one thread only, or under the lock of the intake.

    Attributes:
        messages: taken by `write` and `write_many`.
        message_bytes: their size.
        rows: in published files.
        dead_letters: messages set apart.
        files: published, those of dead letters too.
        file_bytes: written to files, whether published or still open.
    """

    __slots__ = ("dead_letters", "file_bytes", "files", "message_bytes", "messages", "rows")

    def __init__(self) -> None:
        self.messages = 0
        self.message_bytes = 0
        self.rows = 0
        self.dead_letters = 0
        self.files = 0
        self.file_bytes = 0
