"""The names of inputs in footers: a path alone does not tell what was read from it.

An input is named by where it lies and a digest of its first message or line: `/data/a.pb#3f2a9c01d4e8`.
Footers tell besides how much of it had been read, and the checksum of that. A file that has grown keeps its
name; one that was overwritten gets another (`/data/a.pb#3f2a9c01d4e8-2`), and is read anew. Symbolic
links are followed, so that a file has one name from wherever it is reached.

A piece that could not be framed has a digest of its own as well (`...~5d0b77aa9c12`), as it reads otherwise
when the file has grown. Where already the first message is cut, the input has the digest of that piece; footers
tell with the piece what had been read, by which the file keeps its name when it has grown.

Standard input and pipes are never the same twice: each run gives them new names.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from cdp_runtime._native import crc32c
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.positions import Prefix

from . import Never
from .files import BLOCK, EXTENSIONS, BrokenInput, Reader, open_input

if TYPE_CHECKING:
    from . import Batch, Input, Stop

__all__ = ["PIECE", "Beginning", "file_at", "is_same", "named", "names_of", "place", "whole_of"]

PIECE: Final = re.compile(r"(.+#[0-9a-f]{12}(?:-\d+)?)~[0-9a-f]{12}")
"""The name of a piece, with that of its input."""

_DIGEST_BYTES: Final = 6
_DIGESTED: Final = 1 << 16
"""Of a first message that is longer, only so many bytes are digested."""


class Beginning:
    """A stream that remembers its first bytes, and the checksum of all that were read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.data = b""
        self.prefix = Prefix(0, 0)

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fills the start of a buffer with what there is; 0 at the end."""
        got = self._reader.readinto(buffer)
        if got:
            read = buffer[:got]
            if len(self.data) < _DIGESTED:
                self.data += read[: _DIGESTED - len(self.data)]
            size, checksum = self.prefix
            self.prefix = Prefix(size + got, crc32c(read, checksum))
        return got


def named(
    items: Iterable[Batch | DeadLetter],
    one: Input,
    beginning: Beginning,
    reopen: Callable[[], AbstractContextManager[Reader]],
    known: Mapping[str, Prefix],
    note: Callable[[str, Prefix], None],
    stop: Stop,
) -> Iterator[Batch | DeadLetter]:
    """What was read of an input, with the name that it has in footers.

    Args:
        items: what was read.
        one: the input.
        beginning: the stream that it is read from.
        reopen: opens it once more.
        known: what footers tell of the beginnings of inputs.
        note: told, before each item, of what was read so far, for footers.
        stop: ends it before the first item while it is looked up whether the input is a known one.
    """
    name = ""
    is_stream = one.is_stream
    for index, item in enumerate(items):
        if is_stream:
            name = name or f"{place(one.path) if one.path != '-' else '-'}#{secrets.token_hex(6)}"
        else:
            if not name:
                first = _first(one.format, beginning.data)
                found = _matching(place(one.path), first, known, reopen, stop)
                if found is None:
                    return
                name = found
            note(name, beginning.prefix)
        if isinstance(item, DeadLetter) and not item.whole:
            piece = f"{name}~{_digest(item.payload or b'')}"
            if index == 0 and not is_stream:
                note(piece, beginning.prefix)
            yield item._replace(source=piece)
        else:
            yield item._replace(source=name)


def names_of(inputs: Iterable[Input]) -> Callable[[str], bool]:
    """Tells the names of what was read of some inputs, now or earlier, from others."""
    places = {place(one.path) for one in inputs if not one.is_stream}
    return lambda name: _place(name) in places


def whole_of(name: str) -> str:
    """The name of an input, by its own or that of a piece of it."""
    cut = PIECE.fullmatch(name)
    return cut[1] if cut else name


def is_same(name: str, one: Prefix, other: Prefix) -> bool:
    """Whether two runs have read the same under the name of an input, as a file on a disk shows it still."""
    return one == other or any(
        _begins_with(path, extension, (one, other))
        for path in _paths_at(_place(name))
        # not by the path, as it was a link, maybe, whose name told the codec
        for extension in ("", *EXTENSIONS)
    )


def _paths_at(where: str) -> list[str]:
    """The files that may lie at a place: where a name is no Unicode, a place has it with escapes."""
    raw = re.sub(
        rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), where.encode()
    )
    return [path for path in dict.fromkeys((where, os.fsdecode(raw))) if os.path.isfile(path)]


def _begins_with(path: str, extension: str, prefixes: Iterable[Prefix]) -> bool:
    """Whether a file begins so, read as with this extension."""
    try:
        with open_input(path, never := Never(), extension=extension) as reader:
            stream = Beginning(reader)
            return all(
                _read_on(stream, prefix.size, never) and stream.prefix == prefix
                for prefix in sorted(prefixes)
            )
    except OSError:
        return False


def _matching(
    where: str,
    first: bytes,
    known: Mapping[str, Prefix],
    reopen: Callable[[], AbstractContextManager[Reader]],
    stop: Stop,
) -> str | None:
    """The name under which an input is known, if it begins with all that was read then; or a new one.

    None where a stop was requested before that was known.
    """
    own_digest = _digest(first)
    base = f"{where}#{own_digest}"
    beginnings: set[str] = set()
    own: dict[str, set[Prefix]] = {}
    for name, prefix in known.items():
        if name.startswith(f"{where}#"):
            whole = whole_of(name)
            digest = whole[len(where) + 1 :].partition("-")[0]
            if digest != own_digest:
                # its first message was cut when it got its name, which is of what there was of it
                beginnings = beginnings or _digests_of_beginnings(first)
                if digest not in beginnings:
                    continue
            own.setdefault(whole, set()).add(prefix)
    if not own:
        return base
    for name, prefixes in own.items():
        if name in known:
            prefixes.add(known[name])
    read: set[Prefix] = set()
    with reopen() as reader:
        stream = Beginning(reader)
        for prefix in sorted(set().union(*own.values())):
            if not _read_on(stream, prefix.size, stop):
                break  # it is shorter than it was
            if stream.prefix == prefix:
                read.add(prefix)
    if stop.requested:
        return None
    matching = [name for name, prefixes in own.items() if prefixes <= read]
    if matching:
        return max(matching, key=lambda name: max(own[name]))
    numbered = (f"{base}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([base], numbered) if name not in own)


def _read_on(stream: Beginning, size: int, stop: Stop) -> bool:
    """Reads up to that size; whether there is so much. A stop ends it."""
    buffer = memoryview(bytearray(BLOCK))
    try:
        while stream.prefix.size < size:
            if stop.requested or not stream.readinto(buffer[: size - stream.prefix.size]):
                return False
    except BrokenInput:  # there is no more by now than before the break
        return False
    return True


def place(path: str) -> str:
    """Where an input or an archive lies, the same for whatever leads there."""
    if "://" in path and not path.startswith("file://"):
        return path
    found = os.path.realpath(path.removeprefix("file://"))
    return os.fsencode(found).decode(errors="backslashreplace")  # a name on disk may be no Unicode


def file_at(path: str) -> str | tuple[int, int]:
    """What is the same for all paths of a file: its place, or its number where it has hard links."""
    where = place(path)
    if "://" not in where:
        with contextlib.suppress(OSError):  # whoever opens it will say why
            found = os.stat(path.removeprefix("file://"))
            # a number alone is not believed: not every filesystem has one for each file
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                return found.st_dev, found.st_ino
    return where


def _place(name: str) -> str:
    """That of an input, by its name."""
    return name.rpartition("#")[0]


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _digests_of_beginnings(data: bytes) -> set[str]:
    """Those of all that it begins with."""
    found = set()
    sum_ = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for byte in data:
        found.add(sum_.hexdigest())
        sum_.update(bytes((byte,)))
    return found


def _first(format: str, data: bytes) -> bytes:
    """The first message or line of what an input begins with; all of that where it is longer."""
    if format == "ndjson":
        return data.lstrip().partition(b"\n")[0].rstrip()
    size = shift = 0
    for at, byte in enumerate(data[:10]):
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return data[: at + 1 + size]
    return data
