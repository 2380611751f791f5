"""The way back to messages for files of versions whose generated code is gone, from what their footers say.

Today's program writes today's fields: a column that was retired since has none, and one that was renamed to
another number, or whose field went from `float` to something else, would come back as another field than the
one that it was. A file's footer holds the descriptor of its messages, and its schema the columns. Together they
are the program of then, but for two things that only the rules said: which of `hex`, `base64` and
`base32` a text was, and the names that rules gave to columns. Those are taken from today's program,
by the ids of the columns. What remains are retired columns with such a rule, for which there is no message.
Which unit an integer counted in is what the writer called the column's type: Parquet itself has no seconds, and
they are read back as milliseconds.

A field that became `optional` has zeros in old rows where nothing was written. An upgrade leaves them so and
gives the file today's descriptor; its footer then keeps the ids of such columns (`cdpgen.implicit`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool

from .converter import Converter
from .descriptor import KEY
from .program import Encoding, Enum, Field, Kind, Presence, Program
from .provenance import FIRST_FIELD_ID
from .versions import children_of, field_id

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

__all__ = ["IMPLICIT", "Former", "former_of", "implicit_ids"]

IMPLICIT: Final = "cdpgen.implicit"
"""The key in a footer with the ids of columns in which zero is absent, though their fields are `optional`."""

# The stubs of pyarrow lack too much to type these.
ArrowField: TypeAlias = Any

_TYPES: Final[Mapping[int, Kind]] = {
    1: "double",
    2: "float",
    3: "int64",
    4: "uint64",
    5: "int32",
    6: "fixed64",
    7: "fixed32",
    8: "bool",
    9: "string",
    10: "group",
    11: "message",
    12: "bytes",
    13: "uint32",
    14: "enum",
    15: "sfixed32",
    16: "sfixed64",
    17: "sint32",
    18: "sint64",
}
"""By the numbers of `google.protobuf.FieldDescriptorProto.Type`."""

_MESSAGES: Final[Mapping[str, Kind]] = {
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
    "google.type.Date": "date",
    "google.type.TimeOfDay": "time_of_day",
    "google.protobuf.Struct": "json",
    "google.protobuf.Value": "json",
    "google.protobuf.ListValue": "json",
    "google.protobuf.DoubleValue": "wrapper",
    "google.protobuf.FloatValue": "wrapper",
    "google.protobuf.Int64Value": "wrapper",
    "google.protobuf.UInt64Value": "wrapper",
    "google.protobuf.Int32Value": "wrapper",
    "google.protobuf.UInt32Value": "wrapper",
    "google.protobuf.BoolValue": "wrapper",
    "google.protobuf.StringValue": "wrapper",
    "google.protobuf.BytesValue": "wrapper",
}


class _Known(NamedTuple):
    """What a program says of a column: the fields from the message around it, encoding and presence."""

    path: tuple[int, ...]
    encoding: Encoding
    presence: Presence


class Former(NamedTuple):
    """The way back to messages for the rows of a file.

    Attributes:
        converter: for `to_protobuf` only; its schema has those columns of the file that there are fields for.
        lost: the columns that there are none for, each as the names that lead to it.
    """

    converter: Converter[Any]
    lost: list[tuple[str, ...]]


def former_of(
    metadata: Mapping[bytes, bytes], schema: pa.Schema, today: Converter[Any]
) -> Former | None:
    """What makes messages of the rows of a file.

    Args:
        metadata: the key-value metadata of the file's footer.
        schema: of the file.
        today: the converter of the table, for what the footer does not say.

    Returns:
        It; None where the footer has no descriptor of the message.

    Raises:
        ValueError: the descriptor cannot be read.
    """
    text = metadata.get(KEY.encode())
    if text is None:
        return None
    pool = descriptor_pool.DescriptorPool()
    try:
        for file in descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(text)).file:
            pool.Add(file)
        message = pool.FindMessageTypeByName(today.program.message)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{KEY} of the footer cannot be read: {error}") from error
    told = metadata.get(IMPLICIT.encode(), b"").decode()
    implicit = frozenset(int(number) for number in told.split(",") if number)
    written = _written(metadata, schema)
    former = _Former(
        pool, dict(_known(today.program, today.schema)), implicit, seconds_told=written is not None
    )
    fields: list[ArrowField] = [
        field
        for field in cast("Sequence[ArrowField]", written or schema)
        if (field_id(field) or 0) < FIRST_FIELD_ID
    ]
    raw = _raw(fields, today)
    columns = {field.name: field for field in fields if field.name != raw}
    program = former.program(message, columns)
    former.lost.extend((name,) for name in columns)

    class FormerConverter(Converter[Any]):
        pass

    FormerConverter.schema = pa.schema([field for field in fields if field.name not in columns])
    FormerConverter.program = Program(
        program.message, *program.fields, oneof_cases=program.oneof_cases, raw=raw
    )
    return Former(FormerConverter(), former.lost)


def implicit_ids(former: Former, today: Converter[Any]) -> list[int]:
    """The ids of columns in which zero is absent in the rows of a file, and a value by today's program."""
    then = _known(former.converter.program, former.converter.schema)
    optional = {
        number
        for number, known in _known(today.program, today.schema)
        if known.presence == "optional"
    }
    return sorted(
        number
        for number, known in then
        if number is not None and number in optional and known.presence == "implicit"
    )


def _written(metadata: Mapping[bytes, bytes], schema: pa.Schema) -> pa.Schema | None:
    """The schema that a file was written with; None where the footer has none of these columns."""
    text = metadata.get(b"ARROW:schema")
    if text is None:
        return None
    try:
        written: pa.Schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    except (ValueError, OSError) as error:
        raise ValueError(f"ARROW:schema of the footer cannot be read: {error}") from error
    ids = [[field_id(field) for field in fields] for fields in (written, schema)]
    return written if written.names == schema.names and ids[0] == ids[1] else None


def _raw(fields: Sequence[ArrowField], today: Converter[Any]) -> str:
    """The column for messages that the others cannot hold, or empty."""
    name = today.program.raw or "_raw"
    wanted = field_id(today.schema.field(name)) if today.program.raw else None
    for field in fields:
        if field_id(field) == wanted or (wanted is None and field.name == name):
            return str(field.name)
    return ""


def _known(
    program: Program, fields: Any, path: tuple[int, ...] = ()
) -> Iterator[tuple[int | None, _Known]]:
    """What a program says of columns, by their ids."""
    columns = {field.name: field for field in fields}
    for item in program.fields:
        if item.column is None:
            continue
        own = (*path, item.number)
        if item.encoding == "flatten" and item.program is not None:
            yield from _known(item.program, fields, own)
            continue
        column = columns[item.column]
        yield field_id(column), _Known(own, item.encoding, item.presence)
        kind = column.type.value_type if pa.types.is_list(column.type) else column.type
        if item.program is not None and children_of(kind):
            yield from _known(item.program, children_of(kind))


class _Former:
    """Makes programs of descriptors and the columns that there are."""

    def __init__(
        self,
        pool: Any,
        known: Mapping[int | None, _Known],
        implicit: frozenset[int],
        *,
        seconds_told: bool,
    ) -> None:
        self.lost: Final[list[tuple[str, ...]]] = []
        self._pool = pool
        self._known = known
        self._implicit = implicit
        self._seconds_told = seconds_told

    def program(
        self,
        message: Descriptor,
        columns: dict[str, ArrowField],
        path: tuple[int, ...] = (),
        above: tuple[str, ...] = (),
    ) -> Program:
        """The program of a message; takes the columns that it writes from those given.

        Args:
            message: its descriptor.
            columns: those of the struct that it is, or is flattened into.
            path: where flattened, the numbers of the fields from the message of that struct.
            above: the names of the columns that the struct is within.
        """
        items: list[FieldDescriptor] = [
            *message.fields,
            *self._pool.FindAllExtensions(message),
        ]
        found: dict[int, Field] = {}
        by_path = {
            self._known[number].path: name
            for name, column in columns.items()
            if (number := field_id(column)) in self._known
        }
        for take in (lambda item: by_path.get((*path, item.number)), lambda item: item.name):
            for item in items:
                name = take(item)
                if item.number in found or name not in columns:
                    continue
                made = self._field(item, columns[name], above)
                if made is not None:
                    found[item.number] = made
                    del columns[name]
        cases = list(_cases(message, columns))
        for item in items:  # those that are flattened have no column of their own
            if item.number not in found and item.message_type and not _is_repeated(item):
                inner = (*path, item.number)
                program = self.program(item.message_type, columns, inner, above)
                if program.fields:
                    found[item.number] = Field(
                        item.number,
                        _TYPES[item.type],
                        "",
                        _presence(item),
                        encoding="flatten",
                        oneof=_oneof(item),
                        name=item.name,
                        program=program,
                    )
        fields = (found[item.number] for item in items if item.number in found)
        return Program(message.full_name, *fields, oneof_cases=cases)

    def _field(
        self, item: FieldDescriptor, column: ArrowField, above: tuple[str, ...]
    ) -> Field | None:
        """The program of a field and its column; None where nobody knows how the one became the other."""
        kind = column.type
        above = (*above, column.name)
        if item.message_type is not None and item.message_type.GetOptions().map_entry:
            if not pa.types.is_map(kind):
                return None
            members = {"key": kind.key_field, "value": kind.item_field}
            fields = [
                self._value(
                    each,
                    members[each.name].type,
                    each.name,
                    members[each.name],
                    (*above, each.name),
                )
                for each in item.message_type.fields
            ]
            if None in fields:
                return None
            program = Program(item.message_type.full_name, *cast("list[Field]", fields))
            return Field(item.number, "map", column.name, "repeated", program=program)
        if _is_repeated(item):
            if not pa.types.is_list(kind):
                return None
            kind = kind.value_type
        return self._value(item, kind, column.name, column, above)

    def _value(
        self,
        item: FieldDescriptor,
        kind: Any,
        name: str,
        column: ArrowField,
        above: tuple[str, ...],
    ) -> Field | None:
        wire = _TYPES[item.type]
        encoding: Encoding = ""
        enum: Enum | None = None
        program: Program | None = None
        if item.message_type is not None:
            wire = _MESSAGES.get(item.message_type.full_name, wire)
            program = Program(item.message_type.full_name)
            if wire == "wrapper":
                (inner,) = item.message_type.fields
                program = Program(program.message, Field(1, _TYPES[inner.type], "value"))
            elif wire in ("message", "group") and pa.types.is_struct(kind):
                children = {child.name: child for child in children_of(kind)}
                program = self.program(item.message_type, children, (), above)
                self.lost.extend((*above, child) for child in children)
            elif wire in ("message", "group"):
                encoding = "serialized"
            elif wire != "json":
                program = None
        elif item.enum_type is not None:
            enum = _enum(item.enum_type)
        elif pa.types.is_decimal(kind):
            encoding = "decimal"
        elif pa.types.is_timestamp(kind):
            if kind.unit == "ms" and not self._seconds_told:
                return None  # they may be seconds, and today's unit need not be the one of then
            encoding = cast(Encoding, f"unix_{kind.unit}")
        elif wire == "string" and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            known = self._known.get(field_id(column))
            if known is None or not known.encoding:
                return None
            encoding = known.encoding
        return Field(
            item.number,
            wire,
            name,
            "implicit" if field_id(column) in self._implicit else _presence(item),
            encoding=encoding,
            oneof=_oneof(item),
            enum=enum,
            program=program,
        )


def _cases(message: Descriptor, columns: dict[str, ArrowField]) -> Iterator[tuple[str, str]]:
    """The columns that say which member of a oneof is set; they are taken."""
    for oneof in message.oneofs:
        if f"{oneof.name}_case" in columns:
            del columns[f"{oneof.name}_case"]
            yield oneof.name, f"{oneof.name}_case"


def _is_repeated(item: Any) -> bool:
    # protobuf before 6.30 has the label only, and from 7 on it has not
    return bool(item.is_repeated if hasattr(item, "is_repeated") else item.label == 3)


def _is_required(item: Any) -> bool:
    return bool(item.is_required if hasattr(item, "is_required") else item.label == 2)


def _presence(item: FieldDescriptor) -> Presence:
    if _is_repeated(item):
        return "packed" if getattr(item, "is_packed", False) else "repeated"
    if _is_required(item):
        return "required"
    return "optional" if item.has_presence else "implicit"


def _oneof(item: FieldDescriptor) -> str:
    oneof = item.containing_oneof
    if oneof is None or (len(oneof.fields) == 1 and oneof.name == f"_{item.name}"):
        return ""  # the one around an `optional` is none
    return oneof.name


def _enum(enum: EnumDescriptor) -> Enum:
    values = [(value.number, value.name) for value in enum.values]
    return Enum(enum.full_name, *values, closed=enum.is_closed)
