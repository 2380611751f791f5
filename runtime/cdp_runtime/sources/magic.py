"""Inputs that are no stream of messages by their first bytes: their garbage would be rows by accident."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from cdp_runtime.store_errors import safe_url

from .files import Reader, compression_of

__all__ = ["Refusing"]

_KINDS: Final = {
    # flags, level and system besides the magic: of these few values only
    re.compile(rb"\x1f\x8b\x08[\0-\x1f].{4}[\0\2\4][\0-\x0d\xff]", re.DOTALL): ("gzip", "gz"),
    re.compile(rb"\x28\xb5\x2f\xfd"): ("zstd", "zst"),
    re.compile(rb"BZh[1-9]1AY&SY"): ("bzip2", "bz2"),
    re.compile(rb"PAR1\x15"): ("Parquet", ""),
}


class Refusing:
    """A stream that is not read where it is something else by its first bytes.

    Args:
        reader: the stream, at its start.
        path: of the input.
        message_type: where sizes stand before messages, gives the class of these: what begins with a message
            is read, whatever its bytes look like.
    """

    def __init__(
        self, reader: Reader, path: str, message_type: Callable[[], type[Any]] | None
    ) -> None:
        self._reader = reader
        self._path = path
        self._message_type = message_type
        self._begun = False

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Reads on.

        Raises:
            OSError: it is something else, or cannot be read on.
        """
        got = self._reader.readinto(buffer)
        if not self._begun:
            self._begun = True
            self._check(bytes(buffer[: min(got or 0, 128)]))
        return got

    def _check(self, start: bytes) -> None:
        found = next((kind for magic, kind in _KINDS.items() if magic.match(start)), None)
        if found is None or self._begins_with_a_message(start):
            return
        kind, extension = found
        remedy = "it is no stream of messages"
        if extension:
            is_file = "://" not in self._path and self._path != "-"
            named = is_file and compression_of(self._path) is None
            remedy = f"name it {self._path}.{extension}" if named else "decompress it first"
        shown = "standard input" if self._path == "-" else safe_url(self._path)
        raise OSError(f"{shown}: is {kind} by its first bytes; {remedy}")

    def _begins_with_a_message(self, start: bytes) -> bool:
        """The magics have sizes below 128: one byte."""
        size = start[0]
        if self._message_type is None or len(start) <= size:
            return False
        try:
            self._message_type().FromString(start[1 : 1 + size])
        except DecodeError:
            return False
        return True
