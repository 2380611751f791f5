"""Where files go: opened under a temporary name, then published whole or not at all.

Two strategies, one interface. A disk renames (`_LocalStorage`); every other store that fsspec reaches
completes an upload that nobody sees before (`_FsspecStorage`: `autocommit=False`, the multipart upload
of S3 and GCS).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol

import pyarrow as pa

__all__ = [
    "FileInfo",
    "Storage",
    "StorageError",
    "Upload",
    "filesystem_of",
    "open_storage",
    "writer_id",
]

TEMPORARY: Final = "_tmp"
"""The folder of an archive that holds the files being written."""

_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class StorageError(OSError):
    """A store cannot be used; the message names the URL and what to do."""


class FileInfo(NamedTuple):
    """A published file: its path below the archive, and its size in bytes."""

    path: str
    size: int


class Upload(Protocol):
    """A file on its way into the archive."""

    sink: Any
    """What pyarrow writes to: `pyarrow.NativeFile` or a Python file."""

    def publish(self) -> None:
        """Makes the file appear under its final name, whole and durable. The sink is closed by then."""

    def discard(self) -> None:
        """Leaves nothing of the file."""


class Storage(Protocol):
    """One archive in a store."""

    url: str

    def create(self, path: str) -> Upload:
        """Opens a file that will have this path below the archive."""

    def files(self) -> Iterator[FileInfo]:
        """All published Parquet files, dead letters too, in the order of their paths."""

    def open(self, path: str) -> IO[bytes]:
        """Opens a published file to read; it can seek."""

    def describe(self, path: str) -> str:
        """The path of a published file as a person would type it."""

    def close(self) -> None:
        """Lets go of what marks this writer as alive."""


def writer_id() -> str:
    """A name for one run of one writer: no two are equal, and later ones sort later."""
    return f"{int(time.time()):08x}{secrets.token_hex(4)}"


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL or path (`~` is the home directory), and the path in it.

    Raises:
        StorageError: the protocol is unknown, or what it needs is not installed.
    """
    import fsspec

    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        filesystem, path = fsspec.url_to_fs(url if "://" in url else os.path.expanduser(url))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'cdpgen[{extra}]'" if extra else str(error)
        raise StorageError(
            f"{url}: {protocol}:// needs a package that is missing: {remedy}"
        ) from None
    except ValueError as error:
        raise StorageError(f"{url}: {error}") from None
    return filesystem, path


def open_storage(url: str | os.PathLike[str], writer: str | None = None) -> Storage:
    """Opens an archive.

    Args:
        url: a path or a URL of any fsspec protocol.
        writer: the id of the writer that will create files; None to read only.

    Raises:
        StorageError: the store cannot be used or written.
    """
    from fsspec.implementations.local import LocalFileSystem

    text = os.fspath(url)
    filesystem, root = filesystem_of(text)
    if isinstance(filesystem, LocalFileSystem):
        return _LocalStorage(Path(root), writer)
    return _FsspecStorage(text, filesystem, root)


class _LocalUpload:
    def __init__(self, temporary: Path, final: Path) -> None:
        self._temporary = temporary
        self._final = final
        self.sink = pa.OSFile(str(temporary), "wb")

    def publish(self) -> None:
        _sync(self._temporary)
        _make_folders(self._final.parent)
        os.replace(self._temporary, self._final)
        _sync(self._final.parent)

    def discard(self) -> None:
        if not self.sink.closed:
            with contextlib.suppress(OSError):  # a full disk cannot take the last bytes either
                self.sink.close()
        self._temporary.unlink(missing_ok=True)


class _LocalStorage:
    """A folder on a disk."""

    def __init__(self, root: Path, writer: str | None) -> None:
        self.url = str(root)
        self._root = root
        self._temporary = root / TEMPORARY
        self._life: _Life | None = None
        if writer is not None:
            try:
                _make_folders(self._temporary)
                self._life = _Life(self._temporary, writer)
            except OSError as error:
                raise StorageError(
                    f"{root}: cannot write there: {error.strerror or error}"
                ) from None

    def create(self, path: str) -> Upload:
        final = self._root / path
        return _LocalUpload(self._temporary / f"{final.name}.tmp", final)

    def files(self) -> Iterator[FileInfo]:
        for path in sorted(self._root.rglob("*.parquet")):
            inside = path.relative_to(self._root)
            if inside.parts[0] != TEMPORARY:
                yield FileInfo(inside.as_posix(), path.stat().st_size)

    def open(self, path: str) -> IO[bytes]:
        return (self._root / path).open("rb")

    def describe(self, path: str) -> str:
        return str(self._root / path)

    def close(self) -> None:
        if self._life is not None:
            self._life.end()
            self._life = None


class _Life:
    """Tells the living writers of this host from the dead by a lock that the kernel lets go with them.

    `_tmp/<writer id>@<host>.lock` is locked while the writer lives. Whoever starts and can lock
    that of another writer of the same host removes what that one left behind.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        import fcntl

        self._path = folder / f"{writer}@{socket.gethostname()}.lock"
        unlocked = self._path.with_suffix(".new")
        self._file = unlocked.open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unlocked.rename(self._path)  # nobody ever sees it without its lock
        for lock in folder.glob(f"*@{socket.gethostname()}.lock"):
            if lock != self._path:
                self._bury(lock)

    def end(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()

    @staticmethod
    def _bury(lock: Path) -> None:
        import fcntl

        with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            dead = lock.name.partition("@")[0]
            for orphan in lock.parent.glob(f"*-{dead}-*.tmp"):
                orphan.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


class _FsspecUpload:
    def __init__(self, file: Any) -> None:
        self.sink = file

    def publish(self) -> None:
        self.sink.commit()

    def discard(self) -> None:
        self.sink.discard()


class _FsspecStorage:
    """Any store of fsspec: an upload is seen only when it is committed."""

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.url = url.rstrip("/")
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def create(self, path: str) -> Upload:
        final = f"{self._root}/{path}"
        self._filesystem.makedirs(final.rpartition("/")[0], exist_ok=True)
        return _FsspecUpload(self._filesystem.open(final, "wb", autocommit=False))

    def files(self) -> Iterator[FileInfo]:
        found = self._filesystem.find(self._root, detail=True)
        for path in sorted(found):
            if path.endswith(".parquet"):
                yield FileInfo(path[len(self._root) :].lstrip("/"), found[path]["size"])

    def open(self, path: str) -> IO[bytes]:
        file: IO[bytes] = self._filesystem.open(f"{self._root}/{path}", "rb")
        return file

    def describe(self, path: str) -> str:
        return f"{self.url}/{path}"

    def close(self) -> None:
        pass


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
