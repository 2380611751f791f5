"""Bytes on their way to a store: taken at once, handed over when the store can, kept until it has them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa

if TYPE_CHECKING:
    from io import IOBase

__all__ = ["BufferedUpload", "Taken"]

_SINK_BUFFER: Final = 1 << 20
"""Small writes are gathered in C++ to this size: each that reaches Python waits for its lock."""


class Taken:
    """The bytes that a sink has taken and the store not yet, as a file that pyarrow can write."""

    closed = False

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Takes bytes; always all of them."""
        self._chunks.append(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """There is nothing behind it yet."""

    def close(self) -> None:
        """Nothing more is taken, and what was taken stays."""

    def cut(self, size: int) -> bytes:
        """Gives the first bytes away, at most so many."""
        parts = []
        while self._chunks and size > 0:
            chunk = self._chunks.popleft()
            if len(chunk) > size:
                self._chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            parts.append(chunk)
            size -= len(chunk)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.size -= len(data)
        return data

    def put_back(self, data: bytes) -> None:
        """Takes bytes back to the front."""
        if data:
            self._chunks.appendleft(data)
            self.size += len(data)

    def clear(self) -> None:
        """Forgets everything."""
        self._chunks.clear()
        self.size = 0


class BufferedUpload:
    """What every upload has in common: the sink, and the order of things.

    A store's own upload says how bytes are handed over (`_push`), what makes the file appear (`_finish`)
    and how nothing is left of it (`_forget`); the first two may raise and be called again.
    """

    def __init__(self) -> None:
        self._taken: Final = Taken()
        self.sink: Any = pa.BufferedOutputStream(
            pa.PythonFile(cast("IOBase", self._taken), mode="w"), _SINK_BUFFER
        )
        self._published = False

    def drain(self) -> None:
        """Hands what the sink has taken to the store."""
        if not self.sink.closed:
            self.sink.flush()
        self._push(last=False)

    def publish(self) -> None:
        """Hands over the rest and makes the file appear."""
        if not self.sink.closed:
            self.sink.close()
        if not self._published:
            self._push(last=True)
            self._finish()
            self._published = True

    def discard(self) -> None:
        """Leaves nothing, unless it is published."""
        if not self.sink.closed:
            self.sink.close()
        self._taken.clear()
        if not self._published:
            self._forget()

    def _push(self, *, last: bool) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def _forget(self) -> None:
        raise NotImplementedError
