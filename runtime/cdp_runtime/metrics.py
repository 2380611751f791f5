"""What a writer has done so far, as plain numbers that anyone may read at any time."""

from __future__ import annotations

import threading

__all__ = ["Metrics"]


class Metrics:
    """Counters of one writer, each written under some lock: that of the intake, or `lock`.

    Attributes:
        messages: taken by `write` and `write_many`.
        message_bytes: their size.
        skipped: messages that the archive held already, which are not counted among the others.
        rows: in published files.
        dead_letters: messages set apart.
        files: published, those of dead letters too.
        healthy: False while the writer waits for a store that fails.
        retries: attempts to write that failed in a way that passes, and were made again.
        file_bytes: written to files, whether published or still open.
        lock: held by the write threads while they count.
    """

    __slots__ = (
        "dead_letters",
        "file_bytes",
        "files",
        "healthy",
        "lock",
        "message_bytes",
        "messages",
        "retries",
        "rows",
        "skipped",
    )

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.messages = 0
        self.message_bytes = 0
        self.healthy = True
        self.skipped = 0
        self.retries = 0
        self.rows = 0
        self.dead_letters = 0
        self.files = 0
        self.file_bytes = 0

    def __repr__(self) -> str:
        counts = (f"{name}={getattr(self, name)}" for name in self.__slots__ if name != "lock")
        return f"Metrics({', '.join(counts)})"
