"""Opens files, URLs and standard input as streams of bytes, decompressed by their extension."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import io
import os
import select
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa

from cdp_runtime.config import ConfigError
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.storage import filesystem_of

if TYPE_CHECKING:
    from . import Stop

__all__ = ["BLOCK", "Reader", "compression_of", "expand", "open_input", "rest_of"]

_COMPRESSIONS: Final = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}

BLOCK: Final = (1 << 20) - (4 << 10)
"""How much is read of a stream at once, in bytes: what is still in the caches when it is looked at. With what
the pool has behind each of its blocks it is not over a megabyte, from where on they are larger by an eighth."""

_PIECE: Final = 1 << 20
"""How many bytes of what cannot be framed make one dead letter."""

_PIPE_BYTES: Final = 1 << 20
"""The most that a pipe holds, and what is still read of one after a stop."""

_REST_SECONDS: Final = 2.0
"""How long the rest of a message is waited for after a stop."""


class Reader(Protocol):
    """A stream of bytes."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fills the start of a buffer with what there is; 0 at the end.

        Who asks again after the end gets what has come since, so that a message or line that was cut there
        can be made whole.
        """


def compression_of(path: str) -> tuple[str, str] | None:
    """The codec of a file by its extension, and the extension; None when it is not compressed."""
    extension = path.rpartition(".")[2].lower()
    codec = _COMPRESSIONS.get(extension)
    return None if codec is None else (codec, path[len(path) - len(extension) :])


def expand(path: str, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """The files that a path, glob or URL names; the options are for the store of a URL.

    Raises:
        ConfigError: there is none.
    """
    if path == "-":
        return [path]
    if "://" in path:
        filesystem, inside = filesystem_of(path, storage_options)
        names = [inside] if not glob.has_magic(path) else sorted(filesystem.glob(inside))
        found = [filesystem.unstrip_protocol(name) for name in names if filesystem.isfile(name)]
    else:
        path = os.path.expanduser(path)
        # a file whose name has brackets is meant before a glob is
        names = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
        found = [name for name in names if not os.path.isdir(name)]
        if os.path.isdir(path):
            raise ConfigError(f"{path}: is a folder; name its files, for example {path}/*.pb")
    if not found:
        raise ConfigError(f"{path}: there is no such file")
    return found


@contextlib.contextmanager
def open_input(
    path: str, stop: Stop, storage_options: Mapping[str, Any] | None = None
) -> Iterator[Reader]:
    """Opens an input to be read from its start; the options are for the store of a URL.

    Raises:
        OSError: it cannot be opened, or not be read on; the message names it.
    """
    with contextlib.ExitStack() as stack:
        if path == "-":
            yield _Named("standard input", _Pipe(stop, sys.stdin.fileno()))
            return
        if "://" in path:
            filesystem, inside = filesystem_of(path, storage_options)
            file = stack.enter_context(filesystem.open(inside, "rb"))
        else:
            file = stack.enter_context(open(path, "rb", buffering=0))
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                file = _Pipe(stop, file.fileno())
        compression = compression_of(path)
        if compression is not None:
            native = stack.enter_context(pa.PythonFile(file, "r"))
            file = stack.enter_context(pa.CompressedInputStream(native, compression[0]))
        yield _Named(path, file)


def rest_of(
    reader: Reader | None, start: bytes, source: str, position: int, reason: str
) -> Iterator[DeadLetter]:
    """Makes dead letters of the rest of an input that cannot be framed any more.

    Args:
        reader: the input; None when it has ended.
        start: what has been read of the rest already.
        source: the name of the input.
        position: of the first message in `start`; each piece of the rest has one more.
        reason: why it cannot be framed.
    """
    piece = bytearray(start)
    ended = reader is None
    while piece or not ended:
        while len(piece) < _PIECE and reader is not None and not ended:
            buffer = bytearray(_PIECE)
            got = reader.readinto(memoryview(buffer))
            piece += buffer[: got or 0]
            ended = not got
        if piece:
            yield DeadLetter(bytes(piece[:_PIECE]), reason, source, position, 0, False, "bytes")
            del piece[:_PIECE]
            position += 1


class _Named:
    """A stream whose errors tell which one it is: Arrow's codecs do not know."""

    def __init__(self, name: str, reader: Reader) -> None:
        self._name = name
        self._reader = reader

    def readinto(self, buffer: memoryview, /) -> int | None:
        try:
            return self._reader.readinto(buffer)
        except OSError as error:
            raise OSError(f"{self._name}: {error.strerror or error}") from error


class _Pipe(io.RawIOBase):
    """Standard input or a named pipe: gives what has been sent without waiting for a block of it to be full.

    A request to stop ends the wait for more; what has been sent by then is still read. Who asks again after
    that end waits a moment for the rest of a message, as whoever reads the pipe next would begin in its midst.
    """

    def __init__(self, stop: Stop, descriptor: int) -> None:
        self._stop = stop
        self._descriptor = descriptor
        self._left = _PIPE_BYTES
        self._ended: float | None = None
        with contextlib.suppress(OSError):  # no pipe, or not allowed: it is only faster
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._stop.requested:
            select.select([self._descriptor, self._stop], [], [])
        if self._ended is not None:
            wait = max(0, self._ended + _REST_SECONDS - time.monotonic())
            ready, _, _ = select.select([self._descriptor], [], [], wait)
            return os.readv(self._descriptor, [buffer]) if ready else 0
        if self._stop.requested:
            ready, _, _ = select.select([self._descriptor], [], [], 0)
            if not ready or self._left <= 0:
                self._ended = time.monotonic()
                return 0
        got = os.readv(self._descriptor, [buffer])
        if self._stop.requested:
            self._left -= got
        return got
