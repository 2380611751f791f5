"""The way back to messages for files of versions whose generated code is gone, from what their footers say.

Today's program writes today's fields: a column that was retired since has none, and one that was renamed to
another number, or whose field went from `float` to something else, would come back as another field than the
one that it was. A file's footer holds the descriptor of its messages, and its schema the columns. Together they
are the program of then, but for two things that only the rules said: which of `hex`, `base64` and
`base32` a text was, and which columns have other names than their fields. The latter the footer tells too
(`cdpgen.fields`), if need be; both are taken from today's program, by the ids of the columns. What remains are
retired columns, for which there is no message: texts with such a rule, and in files that do not tell fields
those that could be of several. Which unit an integer counted in is what the writer called the column's type:
Parquet itself has no seconds, and they are read back as milliseconds.

A field that became `optional` has zeros in old rows where nothing was written. An upgrade leaves them so and
gives the file today's descriptor; its footer then keeps the ids of such columns (`cdpgen.implicit`), and of
those that had to have a value and are retired or left out by now (`cdpgen.needed`).
"""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

import pyarrow as pa
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from .converter import Converter
from .descriptor import KEY, descriptor_of
from .program import Encoding, Enum, Field, Kind, Presence, Program
from .provenance import FIRST_FIELD_ID
from .versions import children_of, field_id, ids_of, is_text

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
    from google.protobuf.message import Message

__all__ = [
    "FIELDS",
    "IMPLICIT",
    "NEEDED",
    "Former",
    "cases_of_footer",
    "enums_of_footer",
    "footer_of",
    "former_of",
    "implicit_ids",
    "needed_ids",
    "told_fields",
    "told_implicit",
    "told_needed",
    "told_required",
]

IMPLICIT: Final = "cdpgen.implicit"
"""The key in a footer with the ids of columns in which zero is absent, though their fields are `optional`."""

NEEDED: Final = "cdpgen.needed"
"""The key in a footer with the ids of columns that had to have a value, and that its version has not. Their
zero is none where a message came without it; such a message stays in `_raw`, as the column may come back."""

FIELDS: Final = "cdpgen.fields"
"""The key in a footer with the fields of columns whose names do not tell them; see `footer_of`."""

# The stubs of pyarrow lack too much to type these.
ArrowField: TypeAlias = Any

Path: TypeAlias = tuple[int, ...]
"""The numbers of fields from the message of a struct to that of a column: several where messages are
flattened. The last of a column with the case of a oneof is the negative number of its first member."""

Shape: TypeAlias = tuple[str, ...]

_MOST_FREE: Final = 10_000
"""A message of which more fields have no column, those within others too, says nothing by their names."""

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

    path: Path
    encoding: Encoding
    presence: Presence


class Former(NamedTuple):
    """The way back to messages for the rows of a file.

    Attributes:
        converter: for `to_protobuf` only; its schema has those columns of the file that there are fields for.
        lost: the columns that there are none for, each as the names that lead to it.
        message_type: of the messages, by the descriptor of the file.
    """

    converter: Converter[Any]
    lost: list[tuple[str, ...]]
    message_type: type[Message]


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
    pool, message = _message(text, today.program.message)
    written = _written(metadata, schema)
    fields: list[ArrowField] = [
        field
        for field in cast("Sequence[ArrowField]", written or schema)
        if (field_id(field) or 0) < FIRST_FIELD_ID
    ]
    raw = _raw(fields, today)
    columns = {field.name: field for field in fields if field.name != raw}
    former = _Former(
        pool,
        dict.fromkeys(_retired(fields, raw)) | told_fields(metadata),
        _known_by_id(today),
        frozenset(told_implicit(metadata)),
        seconds_told=written is not None,
        names_told=FIELDS.encode() in metadata,
    )
    program = former.program(message, columns)

    class FormerConverter(Converter[Any]):
        pass

    FormerConverter.schema = pa.schema([field for field in fields if field.name not in columns])
    FormerConverter.program = Program(
        program.message, *program.fields, oneof_cases=program.oneof_cases, raw=raw
    )
    return Former(FormerConverter(), former.lost, message_factory.GetMessageClass(message))


def told_fields(metadata: Mapping[bytes, bytes]) -> dict[int, Path | None]:
    """The fields of columns, by their ids, as a footer has them; None where nobody knows the field.

    Raises:
        ValueError: it has them not as they should be.
    """
    try:
        told = json.loads(metadata.get(FIELDS.encode(), b"{}"))
        return {int(number): tuple(map(int, path or ())) or None for number, path in told.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{FIELDS} of the footer cannot be read: {error}") from error


def told_implicit(metadata: Mapping[bytes, bytes]) -> list[int]:
    """The ids in a footer of columns in which zero is absent, though their fields are `optional`."""
    return _ids(metadata, IMPLICIT)


def told_needed(metadata: Mapping[bytes, bytes]) -> list[int]:
    """The ids in a footer of columns that had to have a value, and that its version has not."""
    return _ids(metadata, NEEDED)


def _ids(metadata: Mapping[bytes, bytes], key: str) -> list[int]:
    return [int(number) for number in metadata.get(key.encode(), b"").decode().split(",") if number]


def told_required(
    metadata: Mapping[bytes, bytes], schema: pa.Schema, today: Converter[Any]
) -> list[int]:
    """The ids of columns that had to have a value: of what was `required`, or within such a message.

    A row without one is in `_raw`, and its zero in the column is none. Of those within a message there are
    those without presence, which can be null today only as that can.

    Args:
        metadata: the key-value metadata of the footer.
        schema: of the file.
        today: the converter of the table.
    """
    try:
        former = former_of(metadata, schema, today)
    except ValueError:  # a descriptor that cannot be read tells nothing; who needs it says so
        return []
    if former is None:
        return []
    known = _known_by_id(today)
    return [
        number
        for number, then in _known_by_id(former.converter).items()
        if number in known and (then.presence == "required" or known[number].presence == "implicit")
    ] + told_needed(metadata)


def footer_of(
    message_type: Callable[[], type[Message]],
    converter: Converter[Any],
    retired: Sequence[int] = (),
) -> dict[str, str]:
    """What a footer says of the messages that its rows are made of.

    Args:
        message_type: gives the type, and imports it for that.
        converter: of the rows.
        retired: the ids of columns beside them that are of none of the fields, whatever their names.

    Returns:
        The descriptor, and under `FIELDS` which fields the columns are of that names would mistake: JSON, by
        the ids of the columns. It is there, if need be without any, as soon as somebody who does not know
        that there are no others could mistake one.
    """
    descriptor = descriptor_of(message_type)
    if descriptor is None:
        return {}
    told = _mistaken(descriptor, converter)
    if told is None and not retired:
        return {KEY: descriptor}
    fields = {**(told or {}), **dict.fromkeys(retired)}
    return {KEY: descriptor, FIELDS: json.dumps(fields, separators=(",", ":"))}


def _mistaken(descriptor: str, converter: Converter[Any]) -> dict[int, Path] | None:
    pool, message = _message(descriptor, converter.program.message)
    fields = _known_by_id(converter)
    encodings = {number: one._replace(path=()) for number, one in fields.items()}

    def mistaken(told: Mapping[int, Path], names_told: bool) -> dict[int, Path]:
        former = _Former(pool, told, encodings, names_told=names_told)
        columns = {field.name: field for field in cast("Any", converter.schema)}
        columns.pop(converter.program.raw, None)
        former.program(message, columns)
        return {
            number: one.path
            for number, one in fields.items()
            if number in former.seen and former.paths.get(number) != one.path
        }

    if not mistaken({}, False):
        return None
    told: dict[int, Path] = {}
    # those within a struct are seen only when that is found
    while (more := mistaken(told, True)).keys() - told.keys():
        told |= more
    return told


def enums_of_footer(metadata: Mapping[bytes, bytes]) -> list[Enum]:
    """The enums that the descriptor in a footer has, whatever uses them."""
    return [
        Enum(enum.name, *((value.number, value.name) for value in enum.value))
        for part in _parts(metadata)
        for enum in part.enum_type
    ]


def cases_of_footer(metadata: Mapping[bytes, bytes]) -> list[str]:
    """The names that columns with the case of a oneof have, if no rule gives them another one."""
    messages = (part for part in _parts(metadata) if isinstance(part, DescriptorProto))
    return [f"{oneof.name}_case" for message in messages for oneof in message.oneof_decl]


def _parts(metadata: Mapping[bytes, bytes]) -> Iterator[FileDescriptorProto | DescriptorProto]:
    """The files and messages of the descriptor in a footer."""
    left: list[FileDescriptorProto | DescriptorProto] = [*_files(metadata.get(KEY.encode(), b""))]
    while left:
        part = left.pop()
        yield part
        left += part.message_type if isinstance(part, FileDescriptorProto) else part.nested_type


def _message(descriptor: str | bytes, name: str) -> tuple[Any, Descriptor]:
    """A message as a footer has it, and the pool that it is in."""
    pool = descriptor_pool.DescriptorPool()
    files = _files(descriptor)
    try:
        for file in files:
            pool.Add(file)
        return pool, pool.FindMessageTypeByName(name)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{KEY} of the footer cannot be read: {error}") from error


def _files(descriptor: str | bytes) -> Sequence[FileDescriptorProto]:
    try:
        return FileDescriptorSet.FromString(base64.b64decode(descriptor)).file
    except (ValueError, DecodeError) as error:
        raise ValueError(f"{KEY} of the footer cannot be read: {error}") from error


def implicit_ids(former: Former, today: Converter[Any]) -> list[int]:
    """The ids of columns in which zero is absent in the rows of a file, and a value by today's program."""
    known = _known_by_id(today)
    return sorted(
        number
        for number, then in _known_by_id(former.converter).items()
        if then.presence == "implicit" and number in known and known[number].presence == "optional"
    )


def needed_ids(
    metadata: Mapping[bytes, bytes], former: Former, schema: pa.Schema, today: Converter[Any]
) -> list[int]:
    """The ids of columns of a file that had to have a value, and that today's program has not.

    Args:
        metadata: the key-value metadata of its footer.
        former: by its descriptor.
        schema: of the file.
        today: the converter of the table.
    """
    never_null = frozenset(ids_of(schema, nullable=False))
    needed = {
        number
        for number, then in _known_by_id(former.converter).items()
        if number in never_null
        # one that is flattened is never null where the message that it is within was required
        and (then.presence == "required" or (then.presence == "implicit" and len(then.path) > 1))
    }
    return sorted(needed.union(told_needed(metadata)).difference(ids_of(today.schema)))


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


def _retired(fields: Sequence[ArrowField], raw: str) -> list[int]:
    """The ids of columns of which an upgraded file's descriptor tells nothing, as they were retired before."""
    names = [field.name for field in fields]
    behind = fields[names.index(raw) + 1 :] if raw else []  # there an upgrade puts them
    return [number for field in behind if (number := field_id(field)) is not None]


def _known_by_id(converter: Converter[Any]) -> dict[int, _Known]:
    known = _known(converter.program, converter.schema)
    return {number: one for number, one in known if number is not None}


def _known(program: Program, fields: Any, path: Path = ()) -> Iterator[tuple[int | None, _Known]]:
    """What a program says of columns, by their ids."""
    columns = {field.name: field for field in fields}
    for oneof, case in program.oneof_cases:
        first = min((item.number for item in program.fields if item.oneof == oneof), default=1)
        yield field_id(columns[case]), _Known((*path, -first), "", "optional")
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


class _Taken:
    """Which field of a message each column of its struct is of, as far as that is known."""

    def __init__(self) -> None:
        self.columns: Final[dict[Path, ArrowField]] = {}
        self.names: Final[set[str]] = set()
        self.flattened: Final[set[Path]] = set()
        """The fields that have no column of their own, as those within them have."""

    def copy(self) -> _Taken:
        other = _Taken()
        for path, column in self.columns.items():
            other.add(path, column)
        return other

    def add(self, path: Path, column: ArrowField) -> None:
        self.columns[path] = column
        self.names.add(column.name)
        self.flattened.update(path[:end] for end in range(1, len(path)))

    def is_free(self, path: Path) -> bool:
        """Whether a field can have a column beside those that are known."""
        prefixes = (path[:end] for end in range(1, len(path) + 1))
        return path not in self.flattened and not any(one in self.columns for one in prefixes)


class _Former:
    """Makes programs of descriptors and the columns that there are.

    Args:
        pool: has the messages.
        told: the fields of columns by their ids, as the footer has them; None where nobody knows.
        known: what today's program says of columns, by their ids.
        implicit: the ids of columns in which zero is absent.
        seconds_told: whether times in milliseconds cannot be seconds.
        names_told: whether columns that are not told have the names of their fields.
    """

    def __init__(
        self,
        pool: Any,
        told: Mapping[int, Path | None],
        known: Mapping[int, _Known],
        implicit: frozenset[int] = frozenset(),
        *,
        seconds_told: bool = True,
        names_told: bool,
    ) -> None:
        self.lost: Final[list[tuple[str, ...]]] = []
        self.paths: Final[dict[int | None, Path]] = {}
        self.seen: Final[set[int | None]] = set()
        self._pool = pool
        self._told = told
        self._known = known
        self._known_paths = {number: one.path for number, one in known.items()}
        self._implicit = implicit
        self._seconds_told = seconds_told
        self._names_told = names_told

    def program(
        self,
        message: Descriptor,
        columns: dict[str, ArrowField],
        around: frozenset[str] = frozenset(),
        above: tuple[str, ...] = (),
    ) -> Program:
        """The program of a message; takes the columns that it writes from those given, and tells the rest.

        Args:
            message: its descriptor.
            columns: those of the struct that it is.
            around: the messages that the struct is within.
            above: the names of the columns that the struct is within.
        """
        around = around | {message.full_name}
        self.seen.update(map(field_id, columns.values()))
        taken = self._by_names(message, columns, self._by_ids(message, columns), around)
        program = self._program(message, columns, taken, around, above)
        self.lost.extend((*above, column.name) for column in columns.values() if self._has(column))
        return program

    def _has(self, column: ArrowField) -> bool:
        """Whether a column has values of its own; a case says of others which of them is set."""
        number = field_id(column) or 0
        path = self._told.get(number) or self._known_paths.get(number)
        return not path or path[-1] >= 0

    # ---- which field a column is of

    def _by_ids(self, message: Descriptor, columns: Mapping[str, ArrowField]) -> _Taken:
        taken = _Taken()
        for paths in (self._told, self._known_paths):
            for name, column in columns.items():
                path = paths.get(field_id(column) or 0)
                if (
                    path
                    and name not in taken.names
                    and taken.is_free(path)
                    and self._is_at(message, path, column)
                ):
                    taken.add(path, column)
        return taken

    def _is_at(self, message: Descriptor, path: Path, column: ArrowField) -> bool:
        """Whether there is a field at a path that a column can be of."""
        for number in path[:-1]:
            item = self._item(message, number)
            if item is None or not _may_be_flattened(item):
                return False
            message = _type(item)
        item = self._item(message, abs(path[-1]))
        if item is None:
            return False
        if path[-1] < 0:
            return bool(_oneof(item)) and pa.types.is_dictionary(column.type)
        return _holds(_shape(item), column.type)

    def _by_names(
        self,
        message: Descriptor,
        columns: Mapping[str, ArrowField],
        known: _Taken,
        around: frozenset[str],
    ) -> _Taken:
        """The columns that are known, and those that have the names of their fields.

        A rule may have given a column any name, that of another field too, and made columns of fields within a
        message: where nobody told that it did not, a name says something only if no other field could have
        the column.
        """
        left = {
            name: column
            for name, column in columns.items()
            if name not in known.names and field_id(column) not in self._told
        }
        while left:
            taken = known.copy()
            for path, item in self._free(message, taken, around):
                column = left.get(item.name)
                if column is None or column.name in taken.names:
                    continue
                if _holds(_shape(item), column.type):
                    taken.add(path, column)
                    if len(taken.names) == len(known.names) + len(left):
                        break
            if self._names_told:
                return taken
            others = list(self._free(message, taken, around))
            shapes = {_shape(item) for _, item in others}
            doubtful = [
                name
                for name, column in left.items()
                if name in taken.names
                and (len(others) == _MOST_FREE or any(_holds(one, column.type) for one in shapes))
            ]
            if not doubtful:
                return taken
            for name in doubtful:
                del left[name]
        return known

    def _free(
        self, message: Descriptor, taken: _Taken, around: frozenset[str]
    ) -> Iterator[tuple[Path, FieldDescriptor]]:
        """The fields that have no column, then those within messages that may be flattened, and so on."""
        left: deque[tuple[Descriptor, Path, frozenset[str]]] = deque([(message, (), around)])
        count = 0
        while left:
            message, path, around = left.popleft()
            if path in taken.columns:
                continue
            for item in self._items(message):
                own = (*path, item.number)
                if own in taken.columns:
                    continue
                if own not in taken.flattened:
                    yield own, item
                    count += 1
                    if count == _MOST_FREE:
                        return
                if _may_be_flattened(item) and _type(item).full_name not in around:
                    left.append((_type(item), own, around | {_type(item).full_name}))

    def _items(self, message: Descriptor) -> list[FieldDescriptor]:
        return [*message.fields, *self._pool.FindAllExtensions(message)]

    def _item(self, message: Descriptor, number: int) -> FieldDescriptor | None:
        found: FieldDescriptor | None = message.fields_by_number.get(number)
        if found is None:
            extensions = self._pool.FindAllExtensions(message)
            found = next((item for item in extensions if item.number == number), None)
        return found

    # ---- what they become

    def _program(
        self,
        message: Descriptor,
        columns: dict[str, ArrowField],
        taken: _Taken,
        around: frozenset[str],
        above: tuple[str, ...],
        path: Path = (),
    ) -> Program:
        cases = list(self._cases(message, columns, taken, path))
        fields: list[Field] = []
        for item in self._items(message):
            own = (*path, item.number)
            column = taken.columns.get(own)
            if column is not None:
                made = self._field(item, column, around, above)
                if made is not None:
                    fields.append(made)
                    self.paths[field_id(column)] = own
                    del columns[column.name]
            elif own in taken.flattened:
                inner = around | {_type(item).full_name}
                program = self._program(_type(item), columns, taken, inner, above, own)
                if program.fields:
                    fields.append(
                        Field(
                            item.number,
                            _TYPES[item.type],
                            "",
                            _presence(item),
                            encoding="flatten",
                            oneof=_oneof(item),
                            name=item.name,
                            program=program,
                        )
                    )
        return Program(message.full_name, *fields, oneof_cases=cases)

    def _cases(
        self, message: Descriptor, columns: dict[str, ArrowField], taken: _Taken, path: Path
    ) -> Iterator[tuple[str, str]]:
        """The columns that say which member of a oneof is set; they are taken."""
        for oneof in message.oneofs:
            numbers = sorted(member.number for member in oneof.fields)
            by_ids = (taken.columns.get((*path, -number)) for number in numbers)
            column = next((one for one in by_ids if one is not None), None)
            if column is None and f"{oneof.name}_case" not in taken.names:
                column = columns.get(f"{oneof.name}_case")
            if column is not None and pa.types.is_dictionary(column.type):
                self.paths[field_id(column)] = (*path, -numbers[0])
                del columns[column.name]
                yield oneof.name, column.name

    def _field(
        self,
        item: FieldDescriptor,
        column: ArrowField,
        around: frozenset[str],
        above: tuple[str, ...],
    ) -> Field | None:
        """The program of a field and its column; None where nobody knows how the one became the other."""
        kind = column.type
        above = (*above, column.name)
        if _is_map(item):
            members = {"key": kind.key_field, "value": kind.item_field}
            fields = []
            for each in _type(item).fields:
                member = members[each.name]
                own = (*above, each.name)
                fields.append(self._value(each, member.type, each.name, member, around, own))
            if None in fields:
                return None
            program = Program(_type(item).full_name, *cast("list[Field]", fields))
            return Field(item.number, "map", column.name, "repeated", program=program)
        if _is_repeated(item):
            kind = kind.value_type
        return self._value(item, kind, column.name, column, around, above)

    def _value(
        self,
        item: FieldDescriptor,
        kind: Any,
        name: str,
        column: ArrowField,
        around: frozenset[str],
        above: tuple[str, ...],
    ) -> Field | None:
        wire = _kind(item)
        encoding: Encoding = ""
        enum: Enum | None = None
        program: Program | None = None
        if item.message_type is not None:
            program = Program(item.message_type.full_name)
            if wire == "wrapper":
                (inner,) = item.message_type.fields
                program = Program(program.message, Field(1, _TYPES[inner.type], "value"))
            elif wire in ("message", "group") and pa.types.is_struct(kind):
                children = {child.name: child for child in children_of(kind)}
                program = self.program(item.message_type, children, around, above)
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
        elif wire == "string" and not is_text(kind):
            known = self._known.get(field_id(column) or 0)
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


def _type(item: FieldDescriptor) -> Descriptor:
    """The message that a field of that type is."""
    return cast("Descriptor", item.message_type)


def _kind(item: FieldDescriptor) -> Kind:
    wire = _TYPES[item.type]
    # delimited, a well-known message is a struct as any other
    return _MESSAGES.get(_type(item).full_name, wire) if wire == "message" else wire


def _may_be_flattened(item: FieldDescriptor) -> bool:
    return _kind(item) in ("message", "group") and not _is_repeated(item)


def _shape(item: FieldDescriptor) -> Shape:
    """What of a field says which columns it can have."""
    if _is_map(item):
        return "map", *(_shape(each)[-1] for each in _type(item).fields)
    kind: str = _kind(item)
    if kind == "wrapper":
        (inner,) = _type(item).fields
        kind = _TYPES[inner.type]
    return ("list", kind) if _is_repeated(item) else (kind,)


def _holds(shape: Shape, kind: Any) -> bool:
    """Whether a column of a type can be that of a field."""
    if shape[0] == "map":
        return (
            pa.types.is_map(kind)
            and _holds(shape[1:2], kind.key_type)
            and _holds(shape[2:], kind.item_type)
        )
    if shape[0] == "list":
        return pa.types.is_list(kind) and _holds(shape[1:], kind.value_type)
    return any(test(kind) for test in _COLUMNS[shape[0]])


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


_Tests: TypeAlias = tuple[Callable[[Any], bool], ...]

_INT32: Final[_Tests] = (pa.types.is_int32, pa.types.is_timestamp)
_INT64: Final[_Tests] = (pa.types.is_int64, pa.types.is_timestamp)
_UINT32: Final[_Tests] = (pa.types.is_uint32, pa.types.is_timestamp)
_UINT64: Final[_Tests] = (pa.types.is_uint64, pa.types.is_timestamp)
_BYTES: Final[_Tests] = (_is_bytes, pa.types.is_fixed_size_binary)

_COLUMNS: Final[Mapping[str, _Tests]] = {
    "double": (pa.types.is_float64,),
    "float": (pa.types.is_float32, pa.types.is_float64),
    "int32": _INT32,
    "sint32": _INT32,
    "sfixed32": _INT32,
    "int64": _INT64,
    "sint64": _INT64,
    "sfixed64": _INT64,
    "uint32": _UINT32,
    "fixed32": _UINT32,
    "uint64": _UINT64,
    "fixed64": _UINT64,
    "bool": (pa.types.is_boolean,),
    "string": (is_text, pa.types.is_decimal, *_BYTES),
    "bytes": _BYTES,
    "enum": (pa.types.is_dictionary, is_text, pa.types.is_int32),
    "message": (pa.types.is_struct, _is_bytes),
    "group": (pa.types.is_struct, _is_bytes),
    "timestamp": (pa.types.is_timestamp,),
    "duration": (pa.types.is_duration,),
    "date": (pa.types.is_date32,),
    "time_of_day": (pa.types.is_time64,),
    "json": (is_text,),
}
"""The types of columns that the values of a kind of field can have, by any rule."""


def _is_map(item: FieldDescriptor) -> bool:
    return item.message_type is not None and bool(item.message_type.GetOptions().map_entry)


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
