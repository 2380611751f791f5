"""Where files go: opened under a temporary name, then published whole or not at all.

One interface, and behind it a module for each way of a store to make a file appear at once:

    store_local     a disk: written below `_tmp`, then renamed
    store_s3        S3: a multipart upload, completed last
    store_gcs       Google Cloud Storage: a resumable upload, ended last
    store_other     whatever else fsspec reaches: spooled here, copied below `_tmp`, then moved

`store_upload` holds what they share, `store_errors` what can go wrong, and `store_lock` keeps two from doing at
once what only one may do.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from .store_errors import Secrets, StorageError, is_transient, safe_url

__all__ = [
    "FileInfo",
    "Storage",
    "StorageError",
    "Upload",
    "filesystem_of",
    "forbid_table_folder",
    "is_transient",
    "open_storage",
    "safe_url",
    "writer_id",
]

TEMPORARY: Final = "_tmp"
"""The folder of an archive that holds the files being written."""

_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class FileInfo(NamedTuple):
    """A published file: its path below the archive, and its size in bytes."""

    path: str
    size: int


class Upload(Protocol):
    """A file on its way into the archive.

    Each byte is kept until the store has acknowledged it, so `drain` and `publish` may be called again
    after they raised something of which `is_transient` is true, as often as it takes.
    """

    def write(self, data: bytes) -> None:
        """Takes bytes into memory, and no more: the store's errors never surface here."""

    def drain(self) -> None:
        """Hands what was taken to the store; waits when the store is slower."""

    def publish(self) -> None:
        """Makes the file appear under its final name, whole and durable. Nothing more is taken then."""

    def discard(self) -> None:
        """Leaves nothing of the file; never raises."""


class Storage(Protocol):
    """One archive in a store. May be used by several threads; each upload by one at a time."""

    url: str
    """Of the archive, without the secrets that it was given with."""

    def create(self, path: str, *, replace: bool = False) -> Upload:
        """Begins a file that will have this path below the archive.

        Args:
            path: of a file that is not there yet.
            replace: it is there, and readers see that one until the new one is published.

        Raises:
            StorageError: the path leaves the archive.
        """

    def files(self, prefix: str = "") -> Iterator[FileInfo]:
        """The published Parquet files, dead letters too, in the order of their paths.

        Args:
            prefix: a folder below the archive (`stellar.v1.Event/`); only what lies in it.
        """

    def open(self, path: str) -> IO[bytes]:
        """Opens a published file to read; it can seek."""

    def move(self, path: str, to: str) -> None:
        """Gives a published file another path, in place of what has it: by a rename, or a copy in the store.

        Raises:
            FileNotFoundError: it is not there.
        """

    def delete(self, path: str) -> None:
        """Removes a published file, if it is there."""

    def lock(self, name: str) -> AbstractContextManager[Callable[[], None]]:
        """Keeps others who want the lock of this name out of the archive while the block runs.

        What it gives may be called to see that nobody has taken the lock away meanwhile, as happens to who
        shows no life for minutes, for example a process that was suspended.

        Raises:
            StorageError: another has it; or, of the call, another has taken it.
        """

    def describe(self, path: str) -> str:
        """The path of a published file as a person would type it."""

    def store(self) -> str:
        """What tells its store from another one that has the same URL; empty where nothing has to."""

    def close(self) -> None:
        """Lets go of what marks this writer as alive."""


def writer_id() -> str:
    """A name for one run of one writer: no two are equal, and later ones sort later."""
    return f"{int(time.time()):08x}{secrets.token_hex(4)}"


def filesystem_of(url: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of a URL or path (`~` is the home directory), and the path in it.

    Args:
        url: a path or a URL of any fsspec protocol.
        storage_options: what the filesystem takes besides, as it is.

    Raises:
        StorageError: the protocol is unknown, what it needs is not installed, or an option is wrong.
    """
    import fsspec

    protocol = url.partition("://")[0] if "://" in url else "file"
    shown = safe_url(url)
    if protocol in _EXTRAS and "@" in url.partition("://")[2].partition("/")[0]:
        raise StorageError(
            f"{shown}: credentials do not go into the URL: give them in storage_options, in the "
            f"environment or in a profile; docs/stores.md tells how"
        )
    if "://" in url:
        _mute_clients()
    try:
        if protocol in ("gs", "gcs"):
            # the class that gcsfs registers asks Google over gRPC what kind of bucket it is, past
            # `endpoint_url` and any proxy
            from gcsfs.core import GCSFileSystem

            return GCSFileSystem(**(storage_options or {})), GCSFileSystem._strip_protocol(url)
        if "://" not in url:  # as it is: in a path `::` joins nothing
            local = fsspec.filesystem("file", **(storage_options or {}))
            return local, local._strip_protocol(os.path.expanduser(url))
        filesystem, path = fsspec.url_to_fs(url, **(storage_options or {}))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'cdpgen[{extra}]'" if extra else str(error)
        raise StorageError(
            f"{shown}: {protocol}:// needs a package that is missing: {remedy}"
        ) from None
    except Exception as error:  # each client refuses its options, or connects, in its own way
        told = Secrets(url, storage_options or {}).hide(str(error) or type(error).__name__)
        raise StorageError(f"{shown}: {told}", transient=is_transient(error)) from None
    return filesystem, path


@functools.cache
def _mute_clients() -> None:
    """What clients log of errors, with tracebacks, is for those who ask for it: ours go up to the caller."""
    for client in ("botocore", "aiobotocore", "s3fs", "gcsfs", "fsspec"):
        logging.getLogger(client).addHandler(logging.NullHandler())


def open_storage(
    url: str | os.PathLike[str],
    writer: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Storage:
    """Opens an archive; to write, it is first seen that it can be written, and tidied.

    Args:
        url: a path or a URL of any fsspec protocol.
        writer: the id of the writer that will create files; None to read only.
        storage_options: what the filesystem takes besides, as it is. For gs:// those of its files too:
            `metadata`, `kms_key_name`, `storage_class`, `fixed_key_metadata`.

    Raises:
        StorageError: the store cannot be used or written; `transient` when it may be later.
    """
    from fsspec.implementations.local import LocalFileSystem

    text = os.fspath(url)
    options = dict(storage_options or {})
    protocol = text.partition("://")[0] if "://" in text else "file"
    if protocol in ("gs", "gcs"):
        from .store_gcs import GcsStorage

        return GcsStorage(text, options, writer)
    if protocol in ("s3", "s3a"):
        from .store_s3 import S3Storage

        return S3Storage(text, options, writer)
    filesystem, root = filesystem_of(text, options)
    if isinstance(filesystem, LocalFileSystem):
        from .store_local import LocalStorage

        return LocalStorage(Path(root), writer)
    from .store_other import OtherStorage

    return OtherStorage(text, options, filesystem, root, writer)


def forbid_table_folder(
    storage: Storage, tables: Collection[str] = (), paths: Iterable[str] | None = None
) -> None:
    """Refuses a URL that is of a table's folder, or of one within it, where that of the archive is meant.

    An archive may well lie in a folder that has the name of a table (one for each table), so what lies there
    decides.

    Args:
        storage: opened by that URL.
        tables: the names of tables that it may have.
        paths: of the files in it; asked for where they are left out and the URL has the name of a table.

    Raises:
        StorageError: it is, or what lies there is no archive.
    """
    from .dead_letter import FOLDER, RETRY_FOLDER

    parts = storage.url.split("/")
    named = [i for i, part in enumerate(parts) if part in tables]
    of_letters = [i for i in range(len(parts))[-2:] if parts[i] in (FOLDER, RETRY_FOLDER)]
    if paths is None:
        paths = (file.path for file in storage.files()) if named or of_letters else ()
    found = list(paths)
    loose = [path for path in found if _is_loose(path)]
    inside = None
    if of_letters and (loose or of_letters[0] == len(parts) - 1):
        inside = of_letters[0]
    elif named and loose:
        inside = named[-1]
    if inside is not None:
        raise StorageError(
            f"{storage.url}: is within the folder {parts[inside]} of an archive, and none itself; "
            f"give that one: {'/'.join(parts[:inside]) or '/'}"
        )
    if loose and loose == found:
        raise StorageError(
            f"{storage.url}: is no archive: {storage.describe(loose[0])} is in no folder of a table"
        )


def _is_loose(path: str) -> bool:
    """Whether a file lies in no folder of a table: in none, or in one of a partition."""
    folder, slash, _ = path.partition("/")
    return not slash or "=" in folder


def address(endpoint: str) -> str:
    """Where the endpoint of a store is, as far as that tells it from others: host, port and path."""
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    return parts.netloc.rpartition("@")[2].lower() + parts.path.rstrip("/")


def checked_path(path: str) -> str:
    """A path below an archive, if it stays there.

    Raises:
        StorageError: it is absolute, climbs, or no path at all.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise StorageError(f"{path!r}: is no path below an archive")
    return path


def temporary_name(name: str, writer: str | None, *, replace: bool) -> str:
    """What a file is called below `_tmp`; that of an old file has the id of another writer in its name."""
    stem = name.removesuffix(".parquet")
    return f"{stem}-{writer}-000000.parquet.tmp" if replace else f"{name}.tmp"


def is_of_writer(path: str, writer: str) -> bool:
    """Whether a file has the id of a writer in its name."""
    return f"-{writer}-" in path.rpartition("/")[2]


def is_archive_file(path: str) -> bool:
    """Whether a path below an archive is that of a published file."""
    return path.endswith(".parquet") and not path.startswith(f"{TEMPORARY}/")
