"""An archive in a store of which nothing is known but that fsspec reaches it.

A file is spooled on the local disk, copied below `_tmp` in the store when it is done, and moved from there:
as whole as the store's own `mv`. `RemoteStorage` is what the stores behind fsspec have in common.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import IO, Any, Final, cast

from .storage import (
    TEMPORARY,
    FileInfo,
    Upload,
    address,
    checked_path,
    is_archive_file,
    temporary_name,
)
from .store_errors import Secrets, StorageError, is_transient, meant, safe_url
from .store_lock import locked_remotely
from .store_upload import BufferedUpload

__all__ = ["GONE", "GRACE_SECONDS", "OtherStorage", "RemoteStorage"]

GRACE_SECONDS: Final = 24 * 3600
"""What shows no sign of life for so long was left by a writer that died."""

GONE: Final = (
    "the store has dropped the unfinished upload: its rows come again from the journal or the source "
    "when the writer is started anew"
)

_STORE: Final = ("account_name", "account_host", "endpoint_url", "endpoint", "host", "port")
"""What clients call that by which they find a store that the URL does not name."""

_PROBES: Final = 4
"""How often the start asks a store that does not answer."""


class RemoteStorage:
    """An archive behind fsspec.

    Args:
        url: of the archive.
        options: of the filesystem.
        filesystem: of fsspec.
        root: the path of the archive in it.
        writer: the id of the writer; None to read only.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        filesystem: Any,
        root: str,
        writer: str | None,
    ) -> None:
        self.url = safe_url(url).rstrip("/")
        self.filesystem: Final = filesystem
        self.root: Final = root.rstrip("/")
        self.writer: Final = writer
        self._secrets = Secrets(url, options)

    def create(self, path: str, *, replace: bool = False) -> Upload:
        """Begins a file; the store hears of it when there are bytes for it."""
        raise NotImplementedError

    def files(self, prefix: str = "") -> Iterator[FileInfo]:
        """The published files, by their paths; asked in pages, not folder by folder."""
        with self.told("cannot list it"):
            self.filesystem.invalidate_cache()
            found = self.filesystem.find(f"{self.root}/{prefix}".rstrip("/"), detail=True)
        start = len(self.root) + 1
        # a store that marks its root with a slash gives it back with each path
        listed = {path.lstrip("/") if start == 1 else path: info for path, info in found.items()}
        for path in sorted(listed):
            inside = path[start:] if start > 1 else path
            if is_archive_file(inside):
                yield FileInfo(inside, int(listed[path]["size"]))

    def open(self, path: str) -> IO[bytes]:
        """Opens a published file to read."""
        with self.told(f"cannot read {path}"):
            file = self.filesystem.open(f"{self.root}/{checked_path(path)}", "rb")
        return cast(IO[bytes], _Reading(self, path, file))

    def move(self, path: str, to: str) -> None:
        """Gives a published file another path."""
        before, after = f"{self.root}/{checked_path(path)}", f"{self.root}/{checked_path(to)}"
        with self.told(f"cannot move {path}"):
            there = self.size_of(before) is not None
            if there:
                self.filesystem.makedirs(after.rpartition("/")[0], exist_ok=True)
                self._move(before, after)
        if not there:
            raise FileNotFoundError(self.describe(path))

    def _move(self, before: str, after: str) -> None:
        """Copies within the store, and removes then."""
        self.filesystem.cp_file(before, after)
        with contextlib.suppress(FileNotFoundError):  # an earlier attempt's answer was lost
            self.filesystem.rm_file(before)

    def delete(self, path: str) -> None:
        """Removes a published file."""
        inside = f"{self.root}/{checked_path(path)}"
        with self.told(f"cannot delete {path}"), contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(inside)

    def lock(self, name: str) -> AbstractContextManager[Callable[[], None]]:
        """Writes an object below `_tmp` that says so."""
        return locked_remotely(self, f"{self.root}/{TEMPORARY}", name)

    def describe(self, path: str) -> str:
        """The path with that of the archive."""
        return f"{self.url}/{path}"

    def store(self) -> str:
        """What tells its store from another one that has the same URL; holds no secret."""
        told = (
            getattr(self.filesystem, name, None) or self.filesystem.storage_options.get(name)
            for name in _STORE
        )
        return " ".join(address(str(one)) for one in told if isinstance(one, (str, int)) and one)

    def close(self) -> None:
        """There is nothing that marks this writer."""

    @contextlib.contextmanager
    def told(self, action: str) -> Iterator[None]:
        """Whatever a client raises inside comes out as a StorageError without secrets or tracebacks."""
        try:
            yield
        except StorageError:
            raise
        except Exception as raised:
            error = meant(raised)
            raise StorageError(
                f"{self.url}: {action}: {self.reason(error)}", transient=is_transient(error)
            ) from None

    def reason(self, error: Exception) -> str:
        """What an error says, in a line without secrets."""
        text = " ".join(str(error).split())
        if isinstance(error, FileNotFoundError) and text and "not exist" not in text:
            text = f"there is no {text}"
        cause = error.__cause__
        if not text and cause is not None:
            text = " ".join(str(cause).split())
        return self._secrets.hide(text[:500]) or type(error).__name__

    def size_of(self, path: str) -> int | None:
        """The size of what lies at a path of the store; None when there is nothing."""
        self.filesystem.invalidate_cache()
        try:
            return int(self.filesystem.info(path)["size"])
        except FileNotFoundError:
            return None

    def probe(self, once: Any) -> None:
        """Asks the store whether it can be written, again for a while if it does not answer."""
        import tenacity

        tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            stop=tenacity.stop_after_attempt(_PROBES),
            wait=tenacity.wait_random_exponential(multiplier=0.25, max=2),
            reraise=True,
        )(once)


class _Reading(io.RawIOBase):
    """A file of a store that is read: the client asks the store only then, and what it raises is told."""

    def __init__(self, storage: RemoteStorage, path: str, file: Any) -> None:
        self._storage = storage
        self._action = f"cannot read {path}"
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def read(self, size: int = -1, /) -> bytes:
        with self._storage.told(self._action):
            return cast(bytes, self._file.read(size))

    def readinto(self, buffer: Any, /) -> int:
        with self._storage.told(self._action):
            return int(self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with self._storage.told(self._action):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()


class OtherStorage(RemoteStorage):
    """Any store of fsspec."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        filesystem: Any,
        root: str,
        writer: str | None,
    ) -> None:
        super().__init__(url, options, filesystem, root, writer)
        self._temporary = f"{self.root}/{TEMPORARY}"
        if writer is not None:
            self.probe(self._try_to_write)
            self._bury()

    def create(self, path: str, *, replace: bool = False) -> Upload:
        """Begins a file."""
        return _SpooledUpload(self, f"{self.root}/{checked_path(path)}", self._temporary, replace)

    def _move(self, before: str, after: str) -> None:
        """As the store does it: some that rename, like SFTP, cannot copy."""
        self.filesystem.mv(before, after)

    def _try_to_write(self) -> None:
        probe = f"{self._temporary}/{self.writer}.probe"
        with self.told("cannot write there"):
            self.filesystem.makedirs(self._temporary, exist_ok=True)
            self.filesystem.pipe_file(probe, b"")
            self.filesystem.rm_file(probe)

    def _bury(self) -> None:
        """Removes what dead writers left below `_tmp`: a file is there for as long as it is copied."""
        with self.told("cannot list it"):
            self.filesystem.invalidate_cache()
            left = self.filesystem.find(self._temporary)
        for path in left:
            found = re.search(r"[^/-]+-([0-9a-f]{8})[^/]*-\d+\.parquet\.tmp$", path)
            # its writer began then, and was alive for as long as the file grew after
            if found and int(found[1], 16) < time.time() - GRACE_SECONDS and self._is_old(path):
                with contextlib.suppress(Exception):
                    self.filesystem.rm_file(path)

    def _is_old(self, path: str) -> bool:
        try:
            changed = self.filesystem.modified(path).timestamp()
        except Exception:  # many stores cannot tell
            return False
        return bool(changed < time.time() - GRACE_SECONDS)


class _SpooledUpload(BufferedUpload):
    def __init__(self, storage: OtherStorage, final: str, temporary: str, replace: bool) -> None:
        super().__init__()
        self._storage = storage
        self._final = final
        self._replace = replace
        name = temporary_name(final.rpartition("/")[2], storage.writer, replace=replace)
        self._copy = f"{temporary}/{name}"
        self._spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed at the end

    def _push(self, *, last: bool) -> None:
        while self._taken.size:
            data = self._taken.cut(1 << 24)
            written = 0
            try:
                written = self._spool.write(data) or 0
            finally:
                self._taken.put_back(data[written:])

    def _finish(self) -> None:
        filesystem = self._storage.filesystem
        size = self._spool.tell()
        with self._storage.told(f"cannot publish {self._final}"):
            # or the last answer was lost
            if self._replace or self._storage.size_of(self._final) != size:
                filesystem.makedirs(self._final.rpartition("/")[0], exist_ok=True)
                self._spool.seek(0)
                try:
                    with filesystem.open(self._copy, "wb") as file:
                        while data := self._spool.read(1 << 22):
                            file.write(data)
                finally:
                    self._spool.seek(size)
                filesystem.mv(self._copy, self._final)
        self._spool.close()

    def _forget(self) -> None:
        self._spool.close()
        with contextlib.suppress(Exception):
            self._storage.filesystem.rm_file(self._copy)
