"""The names of inputs in footers: a path alone does not tell what was read from it.

An input is named by where it lies and a digest of its first message or line: `/data/a.pb#3f2a9c01d4e8`. A
file that has grown keeps its name; one that was overwritten gets another, and is read anew. Symbolic links
are followed, so that a file has one name from wherever it is reached.

A piece that could not be framed has a digest of its own as well (`...~5d0b77aa9c12`), as it reads otherwise
when the file has grown. Standard input is never the same twice: each run gives it a name of its own.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from cdp_runtime.dead_letter import DeadLetter

from .files import Reader

if TYPE_CHECKING:
    from . import Batch, Input

__all__ = ["Beginning", "named", "names_of"]

_DIGESTED: Final = 1 << 16
"""Of a first message that is longer, only so many bytes are digested."""


class Beginning:
    """A stream that remembers its first bytes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.data = b""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fills the start of a buffer with what there is; 0 at the end."""
        got = self._reader.readinto(buffer)
        if got and len(self.data) < _DIGESTED:
            self.data += bytes(buffer[: min(got, _DIGESTED - len(self.data))])
        return got


def named(
    items: Iterable[Batch | DeadLetter], one: Input, beginning: Beginning
) -> Iterator[Batch | DeadLetter]:
    """What was read of an input, with the name that it has in footers."""
    name = ""
    for item in items:
        if not name:
            name = (
                f"-#{secrets.token_hex(6)}"
                if one.path == "-"
                else f"{_place(one.path)}#{_digest(_first(one.format, beginning.data))}"
            )
        if isinstance(item, DeadLetter) and not item.whole:
            yield item._replace(source=f"{name}~{_digest(item.payload or b'')}")
        else:
            yield item._replace(source=name)


def names_of(inputs: Iterable[Input]) -> Callable[[str], bool]:
    """Tells the names of what was read of some inputs, now or earlier, from others."""
    places = {_place(one.path) for one in inputs if one.path != "-"}
    return lambda name: name.rpartition("#")[0] in places


def _place(path: str) -> str:
    if "://" in path and not path.startswith("file://"):
        return path
    return os.path.realpath(path.removeprefix("file://"))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


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
