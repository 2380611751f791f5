"""The reference converter: what the columns must be, on `google.protobuf` alone.

Slow and plain. It is the judge of the native core, so it shares nothing with it but the program and
the schema that it walks: `google.protobuf` says which payloads are valid messages and what is in
them, this module says what that is in columns, and when the columns do not hold all of it.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import pyarrow as pa
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from cdp_runtime.program import Field, Program

INT64 = range(-(1 << 63), 1 << 63)
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
NANOS = 10**9

T = TypeVar("T")

# The stubs of pyarrow and protobuf lack too much to type these.
ArrowField: TypeAlias = Any
ArrowType: TypeAlias = Any
FieldDescriptor: TypeAlias = Any
Descriptor: TypeAlias = Any


class Expected(NamedTuple):
    """What a converter has to make of some payloads."""

    batch: pa.RecordBatch
    """The valid messages, in order."""
    rejected: list[int]
    """The payloads that are no valid message."""
    payloads: list[bytes]
    """By row of the batch: what it was made of."""
    unsure: set[int]
    """The rows where only `_raw` is sure: keys of a map, each no UTF-8, that became one."""


def expect(
    program: Program,
    schema: pa.Schema,
    message_type: type[Message],
    payloads: Iterable[bytes | None],
) -> Expected:
    """Converts payloads: what `google.protobuf` parses to rows, the rest to rejected rows."""
    rows: list[dict[str, Any]] = []
    rejected: list[int] = []
    taken: list[bytes] = []
    unsure: set[int] = set()
    for number, payload in enumerate(payloads):
        told = _told(program, message_type.DESCRIPTOR, payload) if payload is not None else None
        message = parse(message_type, told)
        if payload is None or told is None or message is None:
            rejected.append(number)
            continue
        row = _Row()
        known = b"".join(_known_entries(program, told))
        if known != told:
            message = message_type.FromString(known)
        columns = row.struct(program, pa.struct(list(schema)), message)
        if program.raw:
            entries_whole = known == _told(program, None, payload)
            whole = row.exact and entries_whole and not _cut_off(program, told)
            columns[program.raw] = None if whole else payload
        if not row.sure:
            unsure.add(len(rows))
        rows.append(columns)
        taken.append(payload)
    arrays = [pa.array([row[f.name] for row in rows], type=f.type) for f in schema]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return Expected(batch, rejected, taken, unsure)


def parse(message_type: type[Message], payload: bytes | None) -> Message | None:
    """The message that the payload is, or None where it is none."""
    if payload is None:
        return None
    message = message_type()
    try:
        message.ParseFromString(payload)
    except DecodeError:
        return None
    return message


class _Row:
    """One message on its way into columns; `exact` until the columns lose something of it."""

    def __init__(self) -> None:
        self.exact = True
        self.sure = True

    def lost(self, value: T) -> T:
        """The value that stands for one that the column cannot hold."""
        self.exact = False
        return value

    def struct(self, program: Program, arrow: ArrowType, message: Message) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        members: dict[str, str | None] = {}
        for field in program.fields:
            descriptor = _descriptor(message.DESCRIPTOR, field.number)
            members[descriptor.name] = field.name or field.column
            if field.encoding == "flatten":
                columns.update(self.flattened(field, arrow, message, descriptor))
            elif field.column is not None:
                at = arrow.field(field.column)
                columns[field.column] = self.field(field, at, message, descriptor)
        known = {field.number for field in program.fields}
        dropped = {field.number for field in program.fields if field.column is None}
        # What has the number of a dropped field is dropped, even where its type is another.
        unknown = {field.field_number for field in UnknownFieldSet(message)} - dropped
        if unknown or any(descriptor.number not in known for descriptor, _ in message.ListFields()):
            self.lost(None)
        for oneof, column in program.oneof_cases:
            member = message.WhichOneof(oneof)
            columns[column] = None if member is None else members[member]
        return columns

    def flattened(
        self, field: Field, arrow: ArrowType, message: Message, descriptor: FieldDescriptor
    ) -> dict[str, Any]:
        assert field.program is not None
        if not message.HasField(descriptor.name):
            if field.presence != "required":
                return dict.fromkeys(_names(field.program))
            self.lost(None)  # its columns have no null
        columns = self.struct(field.program, arrow, getattr(message, descriptor.name))
        if all(value is None for value in columns.values()):
            self.lost(None)  # looks like a message that is not there
        return columns

    def field(
        self, field: Field, arrow: ArrowField, message: Message, descriptor: FieldDescriptor
    ) -> Any:
        value = _value(message, descriptor)
        if field.kind == "map":
            assert field.program is not None
            key, item = field.program.fields
            key_type, item_type = descriptor.message_type.fields
            told = _entries(message, descriptor)
            entries = {
                self.value(key, arrow.type.key_field, k, key_type): self.value(
                    item, arrow.type.item_field, v, item_type
                )
                for k, v in told
            }
            self.sure = self.sure and len(entries) == len(told)
            return list(entries.items())
        if field.presence in ("repeated", "packed"):
            return [self.value(field, arrow.type.value_field, v, descriptor) for v in value]
        if field.presence != "implicit" and not _has(message, descriptor):
            if field.presence == "optional":
                return None
            # A required field that is not there: valid on the wire, but its column has no null.
            self.lost(None)
            if arrow.nullable:
                return None
            if field.encoding == "serialized":
                return b""  # upb would not serialize what is not there
            if not isinstance(value, Message):
                value = type(value)()  # of proto2's defaults the columns know nothing
        return self.value(field, arrow, value, descriptor)

    def value(
        self, field: Field, arrow: ArrowField, value: Any, descriptor: FieldDescriptor
    ) -> Any:
        """One value of a field: the field itself, a list's item, a map's key or value."""
        if field.encoding == "serialized":
            return value.SerializePartialToString(deterministic=True)
        if field.kind in ("message", "group"):
            assert field.program is not None
            return self.struct(field.program, arrow.type, value)
        if field.kind == "wrapper":
            assert field.program is not None
            self.unknown(value)
            inner = field.program.fields[0]
            value = getattr(value, value.DESCRIPTOR.fields_by_number[inner.number].name)
            return self.scalar(inner, arrow, value)
        if field.kind == "enum":
            return self.enum(field, arrow, value)
        if field.kind in _WELL_KNOWN:
            return _WELL_KNOWN[field.kind](self, arrow, value)
        return self.scalar(field, arrow, value)

    def scalar(self, field: Field, arrow: ArrowField, value: Any) -> Any:
        """A number, text or bytes; null (zero, empty) where the column cannot hold it."""
        if field.encoding.startswith("unix_"):
            held = value in INT64 and self.stored(arrow, value)
            return value if held else self.lost(None if arrow.nullable else 0)
        column = value
        text = field.kind == "string" or field.encoding in _TEXTS
        if text and isinstance(value, bytes):
            column = None  # no UTF-8, where the schema does not ask for it
        elif field.encoding in _TEXTS:
            column = _TEXTS[field.encoding](value, arrow.type)
        fixed = pa.types.is_fixed_size_binary(arrow.type)
        if fixed and len(column or b"") != arrow.type.byte_width:
            column = None
        if column is None and (value or field.presence != "implicit"):
            self.lost(None)
        if column is None and not arrow.nullable:
            return b"" if field.encoding in _TEXTS else ""
        return column

    def enum(self, field: Field, arrow: ArrowField, number: int) -> Any:
        if pa.types.is_integer(arrow.type):
            return number
        assert field.enum is not None
        names: dict[int, str] = {}
        for value, name in field.enum.values:
            names.setdefault(value, name)
        return names.get(number, str(number))

    def unknown(self, message: Message) -> None:
        if len(UnknownFieldSet(message)):
            self.lost(None)

    def timestamp(self, arrow: ArrowField, value: Any) -> int | None:
        self.unknown(value)
        if not 0 <= value.nanos < NANOS:
            return self.lost(None)
        ticks, under = divmod(value.nanos, NANOS // TICKS[arrow.type.unit])
        return self.ticks(arrow, value.seconds, ticks, under)

    def duration(self, arrow: ArrowField, value: Any) -> int | None:
        self.unknown(value)
        opposite = value.nanos * value.seconds < 0
        if opposite or abs(value.nanos) >= NANOS:
            return self.lost(None)
        sign = -1 if value.nanos < 0 else 1
        ticks, under = divmod(abs(value.nanos), NANOS // TICKS[arrow.type.unit])
        return self.ticks(arrow, value.seconds, sign * ticks, under)

    def ticks(self, arrow: ArrowField, seconds: int, ticks: int, under: int) -> int | None:
        total = seconds * TICKS[arrow.type.unit] + ticks
        if total not in INT64 or not self.stored(arrow, total):
            return self.lost(None)
        return self.lost(total) if under else total

    def stored(self, arrow: ArrowField, ticks: int) -> bool:
        """Whether engines read a time: they make microseconds of it, of a whole column or of nothing."""
        if not pa.types.is_timestamp(arrow.type):
            return True
        in_micros = ticks * (1_000_000 // min(TICKS[arrow.type.unit], 1_000_000))
        return in_micros in INT64 and (in_micros == ticks or -in_micros in INT64)

    def date(self, arrow: ArrowField, value: Any) -> int | None:
        self.unknown(value)
        try:
            day = datetime.date(value.year, value.month, value.day)
        except (ValueError, OverflowError):
            return self.lost(None)
        return day.toordinal() - datetime.date(1970, 1, 1).toordinal()

    def time_of_day(self, arrow: ArrowField, value: Any) -> int | None:
        self.unknown(value)
        parts = (value.hours, value.minutes, value.seconds, value.nanos)
        if not all(0 <= n < end for n, end in zip(parts, (24, 60, 60, NANOS), strict=True)):
            return self.lost(None)
        seconds = (value.hours * 60 + value.minutes) * 60 + value.seconds
        ticks, under = divmod(value.nanos, NANOS // TICKS[arrow.type.unit])
        return self.ticks(arrow, seconds, ticks, under)

    def json(self, arrow: ArrowField, value: Any) -> str | None:
        try:
            return json.dumps(self.json_value(value), allow_nan=False)
        except ValueError:
            return self.lost(None)

    def json_value(self, value: Any) -> Any:
        """What a Struct, Value or ListValue is in JSON; ValueError where it is nothing there."""
        self.unknown(value)
        kind = value.DESCRIPTOR.name
        if kind == "Struct":
            return {key: self.json_value(value.fields[key]) for key in value.fields}
        if kind == "ListValue":
            return [self.json_value(item) for item in value.values]
        which = value.WhichOneof("kind")
        if which is None or (which == "null_value" and value.null_value != 0):
            raise ValueError("a Value that JSON does not have")
        if which == "null_value":
            return None
        inner = getattr(value, which)
        return self.json_value(inner) if isinstance(inner, Message) else inner


_WELL_KNOWN: Mapping[str, Callable[[_Row, pa.Field, Any], Any]] = {
    "timestamp": _Row.timestamp,
    "duration": _Row.duration,
    "date": _Row.date,
    "time_of_day": _Row.time_of_day,
    "json": _Row.json,
}


# The texts that a rule parses: the column's value, None where that would not give this text back.


def _decimal(text: str, arrow: ArrowType) -> decimal.Decimal | None:
    fraction = rf"\.[0-9]{{{arrow.scale}}}" if arrow.scale else ""
    if not re.fullmatch(rf"-?(?:0|[1-9][0-9]*){fraction}", text, re.ASCII):
        return None
    digits = text.lstrip("-").replace(".", "").lstrip("0")
    if len(digits) > arrow.precision or (not digits and text.startswith("-")):
        return None
    exact = decimal.Context(prec=100)
    return exact.create_decimal(text)


def _hex(text: str, arrow: ArrowType) -> bytes | None:
    return bytes.fromhex(text) if re.fullmatch(r"(?:[0-9a-f]{2})*", text, re.ASCII) else None


def _base64(text: str, arrow: ArrowType) -> bytes | None:
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return value if base64.b64encode(value).decode() == text else None


def _base32(text: str, arrow: ArrowType) -> bytes | None:
    try:
        value = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return None
    return value if base64.b32encode(value).decode().rstrip("=") == text else None


_TEXTS: Mapping[str, Callable[[str, Any], Any]] = {
    "decimal": _decimal,
    "hex": _hex,
    "base64": _base64,
    "base32": _base32,
}


def _descriptor(message: Descriptor, number: int) -> FieldDescriptor:
    """The field or the extension with this number."""
    found = _known(message, number)
    assert found is not None, f"{message.full_name} has no field {number}"
    return found


def _known(message: Descriptor, number: int) -> FieldDescriptor | None:
    found = message.fields_by_number.get(number)
    if found is None and message.is_extendable:
        try:
            found = message.file.pool.FindExtensionByNumber(message, number)
        except KeyError:
            return None
    return found


def _value(message: Message, descriptor: FieldDescriptor) -> Any:
    if descriptor.is_extension:
        return message.Extensions[descriptor]
    return getattr(message, descriptor.name)


def _entries(message: Message, descriptor: FieldDescriptor) -> list[tuple[Any, Any]]:
    """The entries of a map; texts that are no UTF-8 (where that is allowed) as bytes."""
    value = _value(message, descriptor)
    try:
        return [(key, value[key]) for key in value]
    except UnicodeDecodeError:
        payload = message.SerializePartialToString()
        entry: Any = GetMessageClass(descriptor.message_type)
        entries = [
            entry.FromString(payload[span.begin : span.end])
            for span in _spans(payload)
            if span.number == descriptor.number and span.wire == _LENGTH
        ]
        return [(each.key, each.value) for each in entries]


def _has(message: Message, descriptor: FieldDescriptor) -> bool:
    if descriptor.is_extension:
        return message.HasExtension(descriptor)
    return message.HasField(descriptor.name)


def overrides(program: Program, message: Descriptor, payload: bytes) -> bool:
    """Whether a valid payload sets a field, a oneof or the key of a map more than once."""
    return _overrides(message, _told(program, message, payload))


def _overrides(message: Descriptor, payload: bytes) -> bool:
    seen = set()
    for span in _spans(payload):
        number, wire = span.number, span.wire
        content = payload[span.begin : span.end]
        field = _known(message, number)
        if field is None or (field.is_repeated and wire not in (_LENGTH, _GROUP)):
            continue
        here: Any = field.containing_oneof.name if field.containing_oneof else number
        if field.message_type and field.message_type.GetOptions().map_entry:
            entry = parse(GetMessageClass(field.message_type), content)
            here = None if entry is None else (number, entry.key)  # type: ignore[attr-defined]
        elif field.is_repeated:
            here = None
        if here is not None and here in seen:
            return True
        seen.add(here)
        nested = field.message_type and wire in (_LENGTH, _GROUP)
        if nested and _overrides(field.message_type, content):
            return True
    return False


def _told(program: Program | None, message: Descriptor | None, payload: bytes) -> bytes:
    """The payload as protobuf is asked about it.

    There is nothing in the texts, bytes and messages that a rule drops: whether their content would
    be valid is not asked, as nobody will read it. And, unless `message` is None, nothing unknown in
    the entries of maps: there implementations differ (C++ and Java take such an entry, upb takes
    it for an unknown field), and an entry that tells its key and value should be one.
    """
    try:
        return b"".join(_parts_told(program, message, payload))
    except _NumberZeroError:
        return b"\0"  # which upb takes for malformed too
    except IndexError:
        return payload  # malformed, whatever is dropped


def _parts_told(
    program: Program | None, message: Descriptor | None, payload: bytes
) -> Iterator[bytes]:
    fields = {field.number: field for field in program.fields} if program else {}
    is_entry = message is not None and message.GetOptions().map_entry
    for number, wire, start, begin, end, stop in _spans(payload):
        field = fields.get(number)
        known = None if message is None else _known(message, number)
        if is_entry and (known is None or wire != _wire(known)):
            continue
        content = payload[begin:end]
        nested = wire in (_LENGTH, _GROUP)
        if nested and field is not None and field.column is None:
            content = b""
        elif nested:
            inner = field.program if field and field.kind not in ("json", "wrapper") else None
            fits = known is not None and known.message_type and wire == _wire(known)
            message_type = known.message_type if fits else None
            as_message = field is not None and (field.kind == "group") == (wire == _GROUP)
            if field is not None and field.encoding == "serialized":
                list(_parts_told(None, message_type, content))  # kept as it is
            elif message_type or (inner and as_message):
                content = b"".join(_parts_told(inner, message_type, content))
        if content == payload[begin:end]:
            yield payload[start:stop]
        else:
            tag = payload[start : _varint(payload, start)[1]]
            size = _size(len(content)) if wire == _LENGTH else b""
            yield tag + size + content + payload[end:stop]


def _known_entries(program: Program, payload: bytes) -> Iterator[bytes]:
    """A valid payload without the map entries whose value a closed enum does not know.

    They are unknown fields, say the specification and C++; upb at times keeps one, with a zero.
    """
    fields = {field.number: field for field in program.fields}
    for number, wire, start, begin, end, stop in _spans(payload):
        field = fields.get(number)
        content = payload[begin:end]
        wanted = _GROUP if field is not None and field.kind == "group" else _LENGTH
        if field is not None and _has_columns(field) and wire == wanted:
            assert field.program is not None
            content = b"".join(_known_entries(field.program, content))
            enum = field.program.fields[-1].enum if field.kind == "map" else None
            if enum is not None and enum.closed:
                numbers = {value for value, _ in enum.values}
                values = (span for span in _spans(content) if (span.number, span.wire) == (2, 0))
                if any(_int32(_varint(content, v.begin)[0]) not in numbers for v in values):
                    continue
        if content == payload[begin:end]:
            yield payload[start:stop]
        else:
            tag = payload[start : _varint(payload, start)[1]]
            size = _size(len(content)) if wire == _LENGTH else b""
            yield tag + size + content + payload[end:stop]


def _int32(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


_32_BITS: Mapping[str, range] = {
    "int32": range(-(1 << 31), 1 << 31),
    "enum": range(-(1 << 31), 1 << 31),
    "uint32": range(1 << 32),
    "sint32": range(1 << 32),
    "bool": range(2),
}


def _cut_off(program: Program, payload: bytes) -> bool:
    """Whether a varint that has a column is of more bits than its type, and protobuf cuts it off."""
    fields = {field.number: field for field in program.fields}
    for number, wire, _, begin, end, _ in _spans(payload):
        field = fields.get(number)
        content = payload[begin:end]
        if field is None or (field.column is None and field.encoding != "flatten"):
            continue
        if field.kind in _32_BITS:
            many = wire == _LENGTH and field.presence in ("repeated", "packed")
            if wire == _VARINT or many:
                numbers = _varints(content)
                signed = field.kind in ("int32", "enum")
                if any(_signed(n, signed) not in _32_BITS[field.kind] for n in numbers):
                    return True
        elif field.kind in ("message", "map", "wrapper", "group") and field.encoding in (
            "",
            "flatten",
        ):
            assert field.program is not None
            fits = wire == (_GROUP if field.kind == "group" else _LENGTH)
            if fits and _cut_off(field.program, content):
                return True
    return False


def _signed(value: int, signed: bool) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if signed and value >> 63 else value


def _varints(payload: bytes) -> Iterator[int]:
    at = 0
    while at < len(payload):
        value, at = _varint(payload, at)
        yield value


def _wire(field: FieldDescriptor) -> int:
    """The wire type of a field that does not repeat."""
    if field.type in (field.TYPE_DOUBLE, field.TYPE_FIXED64, field.TYPE_SFIXED64):
        return _FIXED64
    if field.type in (field.TYPE_FLOAT, field.TYPE_FIXED32, field.TYPE_SFIXED32):
        return _FIXED32
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_MESSAGE):
        return _LENGTH
    return _GROUP if field.type == field.TYPE_GROUP else _VARINT


def drops(program: Program) -> bool:
    """Whether a rule drops a field, anywhere."""
    return any(
        field.column is None
        or (_has_columns(field) and field.program is not None and drops(field.program))
        for field in program.fields
    )


def _has_columns(field: Field) -> bool:
    """Whether the fields of a field's message have columns, or would if they were not dropped."""
    return field.program is not None and field.encoding != "serialized"


_VARINT, _FIXED64, _LENGTH, _GROUP, _END, _FIXED32 = range(6)


class _Span(NamedTuple):
    """Where a field stands in a payload: from its tag to its end, and the content within."""

    number: int
    wire: int
    start: int
    begin: int
    end: int
    stop: int


def _spans(payload: bytes) -> Iterator[_Span]:
    """The fields of a message.

    Raises:
        IndexError: the payload is malformed.
    """
    at = 0
    while at < len(payload):
        tag, begin = _varint(payload, at)
        _check_number(tag)
        stop = end = _end(payload, tag, begin)
        if tag & 7 == _LENGTH:
            begin = _varint(payload, begin)[1]
        elif tag & 7 == _GROUP:
            end = _end_of_group(payload, tag >> 3, begin)[0]
        yield _Span(tag >> 3, tag & 7, at, begin, end, stop)
        at = stop


def _varint(payload: bytes, at: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (payload[at + shift // 7] & 127) << shift
        if payload[at + shift // 7] < 128:
            return value, at + shift // 7 + 1
    raise IndexError("a varint of more than ten bytes")


def _size(value: int) -> bytes:
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def _end(payload: bytes, tag: int, at: int) -> int:
    """Where the value that starts at `at` ends."""
    match tag & 7:
        case 0:
            end = _varint(payload, at)[1]
        case 1:
            end = at + 8
        case 2:
            size, at = _varint(payload, at)
            end = at + size
        case 3:
            end = _end_of_group(payload, tag >> 3, at)[1]
        case 5:
            end = at + 4
        case _:
            raise IndexError("a wire type that begins no field")
    if end > len(payload):
        raise IndexError("the payload ends inside of a field")
    return end


class _NumberZeroError(IndexError):
    """A field number 0: upb alone overlooks one in an unknown group."""


def _check_number(tag: int) -> None:
    if tag >> 3 == 0:
        raise _NumberZeroError
    if tag >= 1 << 32:
        raise IndexError("no such field number")


def _end_of_group(payload: bytes, number: int, at: int) -> tuple[int, int]:
    """Where the content of a group that starts at `at` ends, and its end tag."""
    while True:
        tag, after = _varint(payload, at)
        _check_number(tag)
        if tag == number << 3 | _END:
            return at, after
        at = _end(payload, tag, after)


def _names(program: Program) -> Iterator[str]:
    """The columns of a program's struct."""
    yield from (column for _, column in program.oneof_cases)
    for field in program.fields:
        if field.encoding == "flatten":
            assert field.program is not None
            yield from _names(field.program)
        elif field.column is not None:
            yield field.column


def columns_of(program: Program, message: Descriptor) -> dict[str, tuple[Field, FieldDescriptor]]:
    """The columns of a program's struct (oneof cases aside) with the fields they come from."""
    columns: dict[str, tuple[Field, FieldDescriptor]] = {}
    for field in program.fields:
        descriptor = _descriptor(message, field.number)
        if field.encoding == "flatten":
            assert field.program is not None
            columns.update(columns_of(field.program, descriptor.message_type))
        elif field.column is not None:
            columns[field.column] = field, descriptor
    cases = {column for _, column in program.oneof_cases}
    assert not cases & columns.keys()
    return columns


# Comparing. Batches are compared as plain values, since Arrow has NaN unequal to itself, and what
# means the same may look different: dictionaries, JSON, serialized sub-messages, the order of maps.


def differences(
    program: Program,
    message_type: type[Message],
    expected: Expected,
    got: pa.RecordBatch,
) -> list[str]:
    """What is not equal, a line each; empty where all is.

    Raises:
        AssertionError: a non-nullable field of one of the batches holds a null.
    """
    batch = expected.batch
    if not batch.schema.equals(got.schema, check_metadata=True):
        return [f"schema: expected {batch.schema}, got {got.schema}"]
    if batch.num_rows != got.num_rows:
        return [f"rows: expected {batch.num_rows}, got {got.num_rows}"]
    want, have = (plain(program, message_type, each) for each in (batch, got))
    if program.raw:
        # `_raw` may be kept, though the columns hold all, for the sake of what was overridden.
        for row, (a, b) in enumerate(zip(want[program.raw], have[program.raw], strict=True)):
            payload = expected.payloads[row]
            if a is None and b == payload and overrides(program, message_type.DESCRIPTOR, payload):
                want[program.raw][row] = payload
    return [
        f"row {row}, column {name}: expected {a!r}, got {b!r}, of {expected.payloads[row].hex()}"
        for name in want
        for row, (a, b) in enumerate(zip(want[name], have[name], strict=True))
        if a != b and (row not in expected.unsure or name == program.raw)
    ]


def plain(
    program: Program, message_type: type[Message], batch: pa.RecordBatch
) -> dict[str, list[Any]]:
    """The columns of a batch as values that compare by `==`, floats by their bits.

    Raises:
        AssertionError: a non-nullable field holds a null.
    """
    columns = columns_of(program, message_type.DESCRIPTOR)
    plains: dict[str, list[Any]] = {}
    for field, array in zip(batch.schema, batch.columns, strict=True):
        assert field.name not in plains, f"two columns {field.name}"
        plains[field.name] = _plain(array, *columns.get(field.name, (None, None)))
        for value in plains[field.name]:
            _check_null(field, value)
    return plains


def _check_null(field: ArrowField, value: Any) -> None:
    assert value is not None or field.nullable, f"null in non-nullable {field}"


def _plain(array: Any, field: Field | None, descriptor: FieldDescriptor | None) -> list[Any]:
    kind: Any = array.type
    if pa.types.is_map(kind):
        assert field is not None
        assert field.program is not None
        assert descriptor is not None
        key_type, item_type = descriptor.message_type.fields
        keys = _plain(array.keys, field.program.fields[0], key_type)
        items = _plain(array.items, field.program.fields[1], item_type)
        return [
            None
            if ends is None
            else sorted(
                (
                    (_required(kind.key_field, keys[at]), _required(kind.item_field, items[at]))
                    for at in ends
                ),
                key=repr,
            )
            for ends in _ranges(array)
        ]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = _plain(array.values, field, descriptor)
        return [
            None if ends is None else [_required(kind.value_field, items[at]) for at in ends]
            for ends in _ranges(array)
        ]
    valid = array.is_valid().to_pylist()
    values: list[Any]
    if pa.types.is_struct(kind):
        assert field is not None
        assert field.program is not None
        assert descriptor is not None
        columns = columns_of(field.program, descriptor.message_type)
        # flattened, so that what is within a null is null at any depth: pyarrow leaves out which values of a
        # message that is not nullable are there, but tells it of one within that has lists only
        children = [
            _plain(child, *columns.get(kind.field(i).name, (None, None)))
            for i, child in enumerate(array.flatten())
        ]
        names = [kind.field(i).name for i in range(kind.num_fields)]
        values = [dict(zip(names, row, strict=True)) for row in zip(*children, strict=True)]
        values = values or [{}] * len(array)
        for row, value in enumerate(values):
            for i, name in enumerate(names):
                if valid[row]:
                    _required(kind.field(i), value[name])
    elif pa.types.is_dictionary(kind):
        names = array.dictionary.to_pylist()
        outside = "outside of the dictionary"  # no matter in the children of a null
        values = [
            None if i is None else names[i] if 0 <= i < len(names) else outside
            for i in array.indices.to_pylist()
        ]
    elif pa.types.is_floating(kind):
        values = [None if v is None else _bits(v, kind.bit_width) for v in array.to_pylist()]
    elif pa.types.is_temporal(kind):
        values = array.view(pa.int64() if kind.bit_width == 64 else pa.int32()).to_pylist()
    else:
        values = array.to_pylist()
    if field is not None and field.kind == "json":
        # Empty text is no JSON: it may only stand in the children of a null.
        values = [_json(v) if v else v for v in values]
    elif field is not None and field.encoding == "serialized":
        assert descriptor is not None
        message_type = GetMessageClass(descriptor.message_type)
        values = [None if v is None else canonical(message_type, v) for v in values]
    return [value if ok else None for value, ok in zip(values, valid, strict=True)]


def _required(field: ArrowField, value: Any) -> Any:
    _check_null(field, value)
    return value


def _ranges(array: Any) -> list[range | None]:
    offsets: Sequence[int] = array.offsets.to_pylist()
    valid = array.is_valid().to_pylist()
    return [
        range(offsets[row], offsets[row + 1]) if valid[row] else None for row in range(len(array))
    ]


def _bits(value: float, width: int) -> tuple[str, int]:
    """The bits; a signalling NaN as the quiet one that Python's own conversion makes of it."""
    if width == 32 and not math.isnan(value):
        return "float", struct.unpack("<I", struct.pack("<f", value))[0]
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return "double", bits | (1 << 51 if math.isnan(value) else 0)


def _json(text: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(items)) == len(items), f"a key twice: {text}"
        return dict(items)

    def number(digits: str) -> tuple[str, int]:
        return _bits(float(digits), 64)

    def constant(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON: {text}")

    return json.loads(
        text, object_pairs_hook=pairs, parse_int=number, parse_float=number, parse_constant=constant
    )


def canonical(message_type: type[Message], payload: bytes) -> bytes:
    """Equal for payloads that parse equal, NaNs and unknown fields included.

    Raises:
        DecodeError: the payload is no valid message.
    """
    message = message_type.FromString(payload)
    written = message.SerializePartialToString(deterministic=True)
    return _with_sorted_maps(message_type.DESCRIPTOR, written)


def _with_sorted_maps(message: Descriptor, payload: bytes) -> bytes:
    """The payload with the entries of each map in order: upb does not always sort nested ones."""
    parts: list[tuple[int, bytes]] = []
    places: dict[int, int] = {}
    for place, (number, wire, start, begin, end, stop) in enumerate(_spans(payload)):
        part = payload[start:stop]
        known = _known(message, number)
        if known is not None and known.message_type and wire == _wire(known):
            content = _with_sorted_maps(known.message_type, payload[begin:end])
            tag = payload[start : _varint(payload, start)[1]]
            size = _size(len(content)) if wire == _LENGTH else b""
            part = tag + size + content + payload[end:stop]
            if known.message_type.GetOptions().map_entry:
                place = places.setdefault(number, place)
        parts.append((place, part))
    return b"".join(part for _, part in sorted(parts))
