"""Newline-delimited JSON: a message a line, by protobuf's own mapping to JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format
from google.protobuf.message import EncodeError

from cdp_runtime.dead_letter import DeadLetter, Form

from . import Batch
from .files import BLOCK, Reader, rest_of

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["message_of", "read_ndjson"]

_TOLD: Final = (ValueError, TypeError, RecursionError, json_format.Error, EncodeError)
"""What json, json_format and protobuf raise with words for a line that is no message."""

_UNTOLD: Final[dict[type[Exception], str]] = {
    OverflowError: "a number is too large",
    KeyError: "a key is missing",
    SystemError: "a text has half of a surrogate pair",
}
"""Words for what else comes out of them, where the kind of the error tells what is wrong."""


def read_ndjson(
    reader: Reader,
    source: str,
    message_type: type[Message],
    *,
    fields: Mapping[str, str],
    ignore_unknown: bool,
    max_line_bytes: int,
) -> Iterator[Batch | DeadLetter]:
    """Reads messages with the numbers of their lines, from 1; blank lines are passed over.

    A line that is no message of this type is a dead letter.

    Args:
        reader: the input.
        source: its name.
        message_type: what the lines are.
        fields: the name of a key in the input to the field that it fills, dotted where that is one of
            a message inside.
        ignore_unknown: keys without a field are passed over instead of making the line a dead letter.
        max_line_bytes: a line above this ends what can be read of the input.

    Raises:
        OSError: the input cannot be read on.
    """
    number = 1
    tail = b""
    ended = False
    while not ended:
        block = bytearray(BLOCK)
        got = reader.readinto(memoryview(block)) or 0
        ended = got == 0
        *lines, tail = (tail + block[:got]).split(b"\n")
        whole = True
        if ended and tail:
            tail, whole = _read_line(tail, reader, max_line_bytes)
            lines, tail = [tail], b""
        payloads: list[bytes] = []
        numbers: list[int] = []
        for line in lines:
            if text := line.strip():
                try:
                    payloads.append(message_of(text, message_type, fields, ignore_unknown))
                    numbers.append(number)
                except ValueError as error:
                    if payloads:  # whoever stops here has had everything before
                        yield Batch(payloads, source, numbers)
                        payloads, numbers = [], []
                    reason = f"line {number}: {error}"
                    # with other names for its keys it is no message as protobuf writes one, and a retry,
                    # which does not know these names, would fill other fields
                    form: Form = "bytes" if fields or ignore_unknown else "json"
                    yield DeadLetter(bytes(line), reason, source, number, whole=whole, form=form)
            number += 1
        if payloads:
            yield Batch(payloads, source, numbers)
        if len(tail) > max_line_bytes:
            reason = f"line {number} is longer than {max_line_bytes} bytes; nothing after its start can be read"
            yield from rest_of(reader, tail, source, number, reason)
            return


def _read_line(start: bytes, reader: Reader, most: int) -> tuple[bytes, bool]:
    """A line that was cut, with what has come since of it, and no byte of the next; whether it is whole."""
    line, byte = bytearray(start), bytearray(1)
    while len(line) <= most and reader.readinto(memoryview(byte)):
        if byte == b"\n":
            return bytes(line), True
        line += byte
    return bytes(line), False


def message_of(
    text: bytes, message_type: type[Message], fields: Mapping[str, str], ignore_unknown: bool
) -> bytes:
    """One line as a serialized message.

    Raises:
        ValueError: it is no such message; says why, in a line.
    """
    value: Any = {}
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, not {type(value).__name__}")
        # all are taken out before one is put in, so that names can be swapped
        moved = [(path, value.pop(key)) for key, path in fields.items() if key in value]
        for path, item in moved:
            _put(value, path, item)
        message = json_format.ParseDict(value, message_type(), ignore_unknown_fields=ignore_unknown)
        return message.SerializeToString()
    except MemoryError:  # says nothing of the line
        raise
    except _TOLD as error:
        raise ValueError(" ".join(str(error).split())) from error
    except Exception as error:  # json_format trips over values that it does not expect
        key = _key_of(error, value, message_type, ignore_unknown)
        what = "a value" if key is None else f"the value of {key!r}"
        why = _UNTOLD.get(type(error), "it, or something in it, is of the wrong kind")
        raise ValueError(f"{what} does not fit its field: {why}") from error


def _key_of(
    error: Exception, value: dict[str, Any], message_type: type[Message], ignore_unknown: bool
) -> str | None:
    """The key that json_format trips over in this way; None where it is none alone."""
    for key, item in value.items():
        try:
            json_format.ParseDict({key: item}, message_type(), ignore_unknown_fields=ignore_unknown)
        except Exception as raised:
            if type(raised) is type(error):
                return key
    return None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different, so that no value is lost to another."""
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands there twice")
    return value


def _put(value: dict[str, Any], path: str, item: Any) -> None:
    """Sets a value at a dotted path."""
    *outer, last = path.split(".")
    for name in outer:
        inner = value.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{path}: {name!r} is no object")
        value = inner
    if last in value:
        raise ValueError(f"the field {path!r} is given twice")
    value[last] = item
