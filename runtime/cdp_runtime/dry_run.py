"""`dry_run`: everything but the writing, told by what would have been written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO

from .storage import FileInfo, Storage, Upload

__all__ = ["DryRun"]


class DryRun:
    """An archive that can be read, and that nothing is written to.

    What is written to its files is encoded, compressed and counted, and then gone.

    Args:
        storage: the archive, opened to read only.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.url = storage.url

    def create(self, path: str, *, replace: bool = False) -> Upload:
        """A file that takes everything and never appears."""
        return _Nowhere()

    def files(self, prefix: str = "") -> Iterator[FileInfo]:
        """What is really there."""
        return self._storage.files(prefix)

    def open(self, path: str) -> IO[bytes]:
        """Opens what is really there."""
        return self._storage.open(path)

    def move(self, path: str, to: str) -> None:
        """Does nothing."""

    def delete(self, path: str) -> None:
        """Does nothing."""

    def lock(self, name: str) -> AbstractContextManager[Callable[[], None]]:
        """Keeps nobody out, as nothing is changed."""
        return contextlib.nullcontext(lambda: None)

    def describe(self, path: str) -> str:
        """The path as a person would type it."""
        return self._storage.describe(path)

    def store(self) -> str:
        """That of the archive."""
        return self._storage.store()

    def close(self) -> None:
        """Lets go of the archive."""
        self._storage.close()


class _Nowhere:
    def write(self, data: bytes) -> None:
        pass

    def drain(self) -> None:
        pass

    def publish(self) -> None:
        pass

    def discard(self) -> None:
        pass
