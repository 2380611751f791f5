"""Opens files, URLs and standard input as streams of bytes, decompressed by their extension."""

from __future__ import annotations

import bz2
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
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa

from cdp_runtime.config import ConfigError
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.storage import filesystem_of
from cdp_runtime.store_errors import (
    Secrets,
    StorageError,
    http_status,
    is_transient,
    meant,
    safe_url,
)

if TYPE_CHECKING:
    from . import Stop

__all__ = ["BLOCK", "EXTENSIONS", "Reader", "compression_of", "expand", "open_input", "rest_of"]

_COMPRESSIONS: Final = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}
EXTENSIONS: Final = tuple(_COMPRESSIONS)
"""Those of files that are compressed."""

BLOCK: Final = (1 << 20) - (4 << 10)
"""How much is read of a stream at once, in bytes: what is still in the caches when it is looked at. With what
the pool has behind each of its blocks it is not over a megabyte, from where on they are larger by an eighth."""

_PIECE: Final = 1 << 20
"""How many bytes of what cannot be framed make one dead letter."""

_PIPE_BYTES: Final = 1 << 20
"""The most that a pipe holds, and what is still read of one after a stop."""

_STEP: Final = 4 << 10
"""How much a codec takes and gives at once of what cannot be read twice, in bytes."""

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
        StorageError: the store of a URL does not tell.
    """
    if path == "-":
        return [path]
    if "://" in path:
        is_http = path.startswith(("http://", "https://"))  # where ? begins what is asked for
        is_glob = glob.has_magic(path.partition("?")[0] if is_http else path)
        with _asked(path, storage_options) as (filesystem, inside):
            names = _globbed(filesystem, inside) if is_glob else [inside]
            found = [
                filesystem.unstrip_protocol(name) for name in names if _is_file(filesystem, name)
            ]
    else:
        path = os.path.expanduser(path)
        # a file whose name has brackets is meant before a glob is
        names = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
        found = [name for name in names if not os.path.isdir(name)]
        if os.path.isdir(path):
            raise ConfigError(f"{path}: is a folder; name its files, for example {path}/*.pb")
    if not found:
        raise ConfigError(f"{safe_url(path)}: there is no such file")
    return found


@contextlib.contextmanager
def _asked(url: str, storage_options: Mapping[str, Any] | None) -> Iterator[tuple[Any, str]]:
    """The filesystem of a URL and the path in it; what its client raises inside becomes a `StorageError`."""
    filesystem, inside = filesystem_of(url, storage_options)
    try:
        yield filesystem, inside
    except Exception as raised:  # clients of stores raise anything
        error = meant(raised)
        told = "there is no such file"
        if not isinstance(error, FileNotFoundError):
            told = f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        hidden = Secrets(url, storage_options or {}).hide(told)
        raise StorageError(f"{safe_url(url)}: {hidden}", transient=is_transient(error)) from error


def _globbed(filesystem: Any, pattern: str) -> list[str]:
    """The names that match; fsspec's own glob knows nothing of what is in folders that cannot be listed."""
    failed: list[OSError] = []
    walk = "_walk" if filesystem.async_impl else "walk"
    setattr(filesystem, walk, partial(getattr(filesystem, walk), on_error=failed.append))
    try:
        names = sorted(filesystem.glob(pattern))
    finally:
        delattr(filesystem, walk)
    for error in failed:
        if not isinstance(error, FileNotFoundError):
            raise error
    return names


def _is_file(filesystem: Any, name: str) -> bool:
    """Whether it is one; to fsspec's own `isfile` a store that refuses or is away has none."""
    try:
        return bool(filesystem.info(name)["type"] == "file")
    except FileNotFoundError as error:
        # with that of HTTP, whatever went wrong is behind it
        if http_status(error) in (None, 404, 410) and not is_transient(error):
            return False
        raise error.__cause__ or error from None


@contextlib.contextmanager
def open_input(
    path: str,
    stop: Stop,
    storage_options: Mapping[str, Any] | None = None,
    *,
    extension: str | None = None,
) -> Iterator[Reader]:
    """Opens an input to be read from its start.

    Args:
        path: a path, a URL, or `-`.
        stop: ends the wait for more.
        storage_options: for the store of a URL.
        extension: what tells the codec; that of the path when left out.

    Raises:
        OSError: it cannot be opened, or not be read on; the message names it.
    """
    with contextlib.ExitStack() as stack:
        if path == "-":
            yield _Named("standard input", _Pipe(stop, sys.stdin.fileno()))
            return
        if "://" in path:
            with _asked(path, storage_options) as (filesystem, inside):
                file = stack.enter_context(filesystem.open(inside, "rb"))
        else:
            file = stack.enter_context(open(path, "rb", buffering=0, opener=_without_waiting))
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file = _Pipe(stop, file.fileno())
        compression = compression_of(path if extension is None else f".{extension}")
        if compression is not None:
            file = _Decompressed(file, compression[0], stop)
        yield _Named(safe_url(path), file)


def _without_waiting(path: str, flags: int) -> int:
    """Opens a named pipe also where nobody writes to it yet: it is read in a way that a stop can end.

    Not where a poll may take a pipe that has had no writer yet for one that has no more.
    """
    if sys.platform == "linux" and stat.S_ISFIFO(os.stat(path).st_mode):
        flags |= os.O_NONBLOCK
    descriptor = os.open(path, flags)
    os.set_blocking(descriptor, True)
    return descriptor


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
    """A stream whose errors tell which one it is: Arrow's codecs and the clients of stores do not know."""

    def __init__(self, name: str, reader: Reader) -> None:
        self._name = name
        self._reader = reader

    def readinto(self, buffer: memoryview, /) -> int | None:
        try:
            return self._reader.readinto(buffer)
        except Exception as raised:  # clients of stores raise anything
            error = meant(raised)
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            kind = BrokenInput if isinstance(error, BrokenInput) else OSError
            raise kind(f"{self._name}: {said}") from error


class BrokenInput(OSError):  # noqa: N818
    """What there is of a compressed input is not what its codec makes: it is cut, or damaged."""


class _Decompressed:
    """What a codec makes of a file, up to the byte where the file breaks.

    Where the codec fails, Arrow drops what it had made in that call, and the codec what it made of the bytes
    that it was given last. So the file is read once more, and the last of it byte by byte. What cannot be read
    twice is read in small steps from its start: what comes of the last of them is dropped. A stop ends the
    second read; what it would have given is for the next run.
    """

    def __init__(self, file: Any, codec: str, stop: Stop) -> None:
        self._file = file
        self._codec = codec
        self._stop = stop
        self._again = bool(file.seekable())
        self._step = BLOCK if self._again else _STEP
        self._compressed = _Compressed(file, self._step)
        self._stream = self._begin()
        self._given = 0
        self._error: Exception | None = None
        self._is_broken = False

    def readinto(self, buffer: memoryview, /) -> int:
        got = 0
        if self._error is None:
            got, self._error = _filled(self._stream, buffer, self._step)
            self._is_broken = self._error is not None and not self._compressed.failed
            if self._error is not None and self._again:
                self._again = False
                got, self._error = self._to_the_break(buffer, self._error)
            self._given += got
        if not got and self._error is not None:
            raise BrokenInput(str(self._error)) if self._is_broken else self._error
        return got

    def _begin(self) -> Any:
        if self._codec == "bz2":  # Arrow's fails at a member of nothing
            return _Bz2(self._compressed)
        return pa.CompressedInputStream(pa.PythonFile(self._compressed, "r"), self._codec)

    def _to_the_break(self, buffer: memoryview, error: Exception) -> tuple[int, Exception | None]:
        """Gives what comes before the break and has not been given, or the first of it."""
        self._file.seek(0)
        self._compressed = _Compressed(self._file, 1, self._compressed, error)
        self._stream = self._begin()
        self._step = 1
        left = self._given
        while left:
            if self._stop.requested:
                return 0, error
            got, _ = _filled(self._stream, buffer[:left], BLOCK)
            if not got:
                return 0, error  # it is another file by now
            left -= got
        return _filled(self._stream, buffer, 1)


class _Compressed(io.RawIOBase):
    """A file as a codec reads it.

    Args:
        file: at its start.
        most: how many bytes are given at once at most.
        before: how it was read before, if it was: only what was given last is given otherwise now.
        error: raised where it had been read to before.
    """

    def __init__(
        self,
        file: Reader,
        most: int,
        before: _Compressed | None = None,
        error: Exception | None = None,
    ) -> None:
        self._file = file
        self._most = most
        self._error = error
        self.failed = False
        """Whether it could not be read."""
        self.at: int = 0
        self.last: int = 0
        """Where the bytes begin that were given last."""
        self._from, self._to = (0, -1) if before is None else (before.last, before.at)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self.at == self._to and self._error is not None:
            raise self._error
        self.last = self.at
        most = self._most if self.at >= self._from else self._from - self.at
        self.failed = True
        got = self._file.readinto(memoryview(buffer)[:most]) or 0
        self.failed = False
        self.at += got
        return got


class _Bz2:
    """What bzip2 makes of a file, all members of it."""

    def __init__(self, file: Reader) -> None:
        self._file = file
        self._member = bz2.BZ2Decompressor()
        self._begun = False
        self._taken = memoryview(bytearray(BLOCK))

    def readinto(self, buffer: memoryview, /) -> int:
        """Fills the start of a buffer with what there is; 0 at the end.

        Raises:
            OSError: it is no bzip2, or ends in the midst of a member.
        """
        while True:
            data: bytes | memoryview = b""
            if self._member.eof:
                data = self._member.unused_data
                self._member, self._begun = bz2.BZ2Decompressor(), False
            if not data and self._member.needs_input:
                data = self._taken[: self._file.readinto(self._taken) or 0]
                if not data:
                    if self._begun:
                        raise OSError("Truncated compressed stream")
                    return 0
            self._begun = True
            made = self._member.decompress(data, len(buffer))
            if made:
                buffer[: len(made)] = made
                return len(made)


def _filled(reader: Reader, buffer: memoryview, step: int) -> tuple[int, Exception | None]:
    """How many bytes a stream gives, read in steps, and the error in which it ends."""
    got = 0
    try:
        while got < len(buffer):
            part = buffer[got : got + step]
            new = reader.readinto(part) or 0
            got += new
            if new < len(part):
                break
    except Exception as error:  # clients of stores raise anything
        return got, error
    return got, None


class _Pipe(io.RawIOBase):
    """Standard input, a named pipe or a device: gives what has been sent, and waits for no full block of it.

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
            self._polled(self._stop)
        if self._ended is not None:
            wait = max(0, self._ended + _REST_SECONDS - time.monotonic())
            return os.readv(self._descriptor, [buffer]) if self._polled(seconds=wait) else 0
        if self._stop.requested and (self._left <= 0 or not self._polled(seconds=0)):
            self._ended = time.monotonic()
            return 0
        got = os.readv(self._descriptor, [buffer])
        if self._stop.requested:
            self._left -= got
        return got

    def _polled(self, *others: Stop, seconds: float | None = None) -> bool:
        """Waits until there is something to read, or at one of others; whether there is any of it."""
        poll = select.poll()  # not `select`, which takes no descriptor above 1,023
        for one in (self._descriptor, *others):
            poll.register(one, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1_000))
