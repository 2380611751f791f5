"""What a replay puts out: framed messages, compressed, in a file that appears whole."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from .config import ConfigError
from .storage import is_transient

__all__ = ["BYTES", "compressed", "delimited", "lines", "output_of"]

# The stubs of pyarrow lack too much to type these.
Array: TypeAlias = Any

Write: TypeAlias = Callable[[memoryview], None]

BYTES: Final = pa.large_binary()
"""The type of messages, and of what is made of them."""


def delimited(records: Array) -> Iterator[memoryview]:
    """Messages with their sizes as varints before them."""
    lengths: Array = pc.binary_length(records)
    encoded = lengths.dictionary_encode()
    prefixes = pa.array([_varint(length) for length in encoded.dictionary.to_pylist()], BYTES)
    yield _joined(prefixes.take(encoded.indices), records)


def lines(records: Array) -> Iterator[memoryview]:
    """Lines with their ends."""
    yield _joined(records, pa.repeat(pa.scalar(b"\n", BYTES), len(records)))


def _joined(left: Array, right: Array) -> memoryview:
    """The values of two arrays by turns, as one run of bytes."""
    both: Any = pc.binary_join_element_wise(left, right, pa.scalar(b"", BYTES))
    if isinstance(both, pa.ChunkedArray):
        both = both.combine_chunks()
    data = both.buffers()[2]
    return memoryview(data if data is not None else b"")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@contextlib.contextmanager
def output_of(path: str | None) -> Iterator[Write]:
    """Where to write: a file that appears whole when the block ends, or standard output.

    Raises:
        ConfigError: there cannot be such a file.
        OSError: what is written is not taken; it names the file, or standard output.
    """
    if path is None or path == "-":
        sys.stdout.flush()
        yield lambda data: _write_all(1, data, "standard output")
        return
    target, is_special = _target(path)
    if is_special:
        with _opened(target, path, "wb") as special:
            yield lambda data: _write_all(special.fileno(), data, path)
        return
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _opened(temporary, path, "xb") as file:
            yield lambda data: _write_all(file.fileno(), data, path)
            with _named(path):
                os.fsync(file.fileno())
        with _named(path):
            temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _target(path: str) -> tuple[Path, bool]:
    """Where a file is to be, and whether a pipe or a device is there."""
    with _possible(path):
        target = Path(path).expanduser()
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            return target, True
        target = target.resolve()
        if not target.parent.is_dir():
            raise ConfigError(f"--output {path}: there is no folder {target.parent}")
        return target, False


def _opened(file: Path, path: str, mode: Literal["wb", "xb"]) -> io.FileIO:
    with _possible(path), _named(path):
        return file.open(mode, buffering=0)


@contextlib.contextmanager
def _possible(path: str) -> Iterator[None]:
    """What no wait mends is for the user to mend."""
    try:
        yield
    except RuntimeError as error:  # a home of nobody, or links in a circle
        said = str(error).rstrip(".")
        raise ConfigError(f"--output {path}: cannot be written: {said}") from None
    except OSError as error:
        if is_transient(error):
            raise
        raise ConfigError(f"--output {path}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors of the block name what the user knows, be it of another name or none until it is whole."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


@contextlib.contextmanager
def compressed(write: Write, compression: tuple[Any, str] | None) -> Iterator[Write]:
    """The same, compressed as the name of the output says."""
    if compression is None:
        yield write
        return

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            write(memoryview(data))
            return len(data)

    with pa.CompressedOutputStream(pa.PythonFile(Sink(), "w"), compression[0]) as stream:

        def compress(data: memoryview) -> None:
            stream.write(data)

        yield compress


def _write_all(descriptor: int, data: memoryview, path: str) -> None:
    with _named(path):
        while data:
            data = data[os.write(descriptor, data) :]
