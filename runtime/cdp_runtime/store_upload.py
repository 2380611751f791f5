"""Bytes on their way to a store: taken at once, handed over when the store can, kept until it has them."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["BufferedUpload", "Taken"]


class Taken:
    """The bytes that an upload has taken and the store not yet."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Takes bytes."""
        self._chunks.append(data)
        self.size += len(data)

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
    """What every upload has in common: what it has taken, and the order of things.

    A store's own upload says how bytes are handed over (`_push`), what makes the file appear (`_finish`)
    and how nothing is left of it (`_forget`); the first two may raise and be called again.
    """

    def __init__(self) -> None:
        self._taken: Final = Taken()
        self._published = False

    def write(self, data: bytes) -> None:
        """Takes bytes."""
        self._taken.write(data)

    def drain(self) -> None:
        """Hands what was taken to the store."""
        self._push(last=False)

    def publish(self) -> None:
        """Hands over the rest and makes the file appear."""
        if not self._published:
            self._push(last=True)
            self._finish()
            self._published = True

    def discard(self) -> None:
        """Leaves nothing, unless it is published."""
        self._taken.clear()
        if not self._published:
            self._forget()

    def _push(self, *, last: bool) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def _forget(self) -> None:
        raise NotImplementedError
