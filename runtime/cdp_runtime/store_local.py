"""An archive in a folder on a disk: files are written below `_tmp`, synced, and renamed."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from .storage import TEMPORARY, FileInfo, Upload, checked_path, is_archive_file, temporary_name
from .store_errors import StorageError, is_transient
from .store_lock import lock_of_dead, lock_of_living, locked_on_disk
from .store_upload import BufferedUpload

__all__ = ["LocalStorage"]


class LocalStorage:
    """A folder on a disk.

    Args:
        root: the folder.
        writer: the id of the writer that will create files; None to read only.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, root: Path, writer: str | None) -> None:
        self.url = str(root)
        self._root = root
        self._temporary = root / TEMPORARY
        self._writer = writer
        self._life: _Life | None = None
        if writer is not None:
            try:
                _make_folders(self._temporary)
                self._life = _Life(self._temporary, writer)
            except OSError as error:
                is_file = isinstance(error, FileExistsError | NotADirectoryError)
                reason = f"{error.filename} is no folder" if is_file else error.strerror or error
                raise StorageError(
                    f"{root}: cannot write there: {reason}",
                    transient=is_transient(error),
                ) from None

    def create(self, path: str, *, replace: bool = False) -> Upload:
        """Begins a file."""
        final = self._root / checked_path(path)
        name = temporary_name(final.name, self._writer, replace=replace)
        return _LocalUpload(self._temporary / name, final)

    def files(self, prefix: str = "") -> Iterator[FileInfo]:
        """The published files, by their paths."""

        def refuse(error: OSError) -> None:
            # a folder that is not there, or not any more, has no files; of another nobody knows
            if not isinstance(error, FileNotFoundError):
                raise StorageError(
                    f"{error.filename}: cannot be read: {error.strerror or error}",
                    transient=is_transient(error),
                )

        paths = []
        # through links too, as writers go: a folder may lie on another disk
        for folder, inner, names in os.walk(self._root / prefix, onerror=refuse, followlinks=True):
            inner[:] = [name for name in inner if not _leads_back(Path(folder, name))]
            paths += [Path(folder, name) for name in names if name.endswith(".parquet")]
        for path in sorted(paths):
            inside = path.relative_to(self._root).as_posix()
            if not is_archive_file(inside):
                continue
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # moved or removed meanwhile
            if stat.S_ISREG(found.st_mode):  # a pipe would be waited for
                yield FileInfo(inside, found.st_size)

    def open(self, path: str) -> IO[bytes]:
        """Opens a published file to read."""
        return (self._root / checked_path(path)).open("rb")

    def move(self, path: str, to: str) -> None:
        """Renames a published file."""
        before, after = self._root / checked_path(path), self._root / checked_path(to)
        _make_folders(after.parent)
        before.rename(after)
        _sync(after.parent)
        _sync(before.parent)

    def delete(self, path: str) -> None:
        """Removes a published file."""
        file = self._root / checked_path(path)
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
            _sync(file.parent)

    def lock(self, name: str) -> AbstractContextManager[Callable[[], None]]:
        """Locks a file below `_tmp`."""
        _make_folders(self._temporary)
        return locked_on_disk(self._temporary, name)

    def describe(self, path: str) -> str:
        """The path with that of the archive."""
        return str(self._root / path)

    def store(self) -> str:
        """Nothing: a path is a path."""
        return ""

    def close(self) -> None:
        """Lets go of the lock."""
        if self._life is not None:
            self._life.end()
            self._life = None


class _LocalUpload(BufferedUpload):
    def __init__(self, temporary: Path, final: Path) -> None:
        super().__init__()
        self._temporary = temporary
        self._final = final
        self._descriptor: int | None = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666
        )
        self._renamed = False

    def _push(self, *, last: bool) -> None:
        while self._taken.size:
            data = self._taken.cut(1 << 24)
            written = 0
            try:
                # on a disk that is about full a part is taken, and the next call says so
                assert self._descriptor is not None
                written = os.write(self._descriptor, data)
            finally:
                self._taken.put_back(data[written:])

    def _finish(self) -> None:
        if self._descriptor is not None:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                # after a failed fsync the kernel may have dropped the pages: a second one would lie
                raise StorageError(
                    f"{self._temporary}: the disk did not take it: {error.strerror or error}"
                ) from None
            os.close(self._descriptor)
            self._descriptor = None
        if not self._renamed:
            _make_folders(self._final.parent)
            os.replace(self._temporary, self._final)
            self._renamed = True
        _sync(self._final.parent)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


class _Life:
    """Tells the living writers of this host from the dead by a lock that the kernel lets go with them.

    `_tmp/<writer id>@<host>.lock` is locked while the writer lives. Whoever starts and can lock
    that of another writer of the same host removes what that one left behind.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        self._path = folder / f"{writer}@{socket.gethostname()}.lock"
        self._file = lock_of_living(self._path)
        self._remove_orphans(self._path)  # of a retry that was killed and begins anew
        for lock in folder.glob(f"*@{socket.gethostname()}.lock"):
            if lock != self._path:
                self._bury(lock)

    def end(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()

    def _bury(self, lock: Path) -> None:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            file = lock_of_dead(lock)
            if file is not None:
                with file:
                    self._remove_orphans(lock)
                    lock.unlink(missing_ok=True)

    @staticmethod
    def _remove_orphans(lock: Path) -> None:
        """Removes what the dead one whose lock that is has begun and not published."""
        dead = re.escape(lock.name.partition("@")[0])
        # not those of a retry of its dead letters, whose name goes on from that
        own = re.compile(rf".*-{dead}-\d+\.parquet\.tmp")
        for orphan in lock.parent.iterdir():
            if own.fullmatch(orphan.name):
                orphan.unlink(missing_ok=True)


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one of those on the way to it."""
    return folder.is_symlink() and any(map(folder.samefile, folder.parents))


def _make_folders(folder: Path) -> None:
    """Makes a folder and those above it, each durable in the one that holds it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        _sync(one.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
