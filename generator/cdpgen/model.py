"""What will be generated, decided: tables, their columns, programs, partitions and ids.

`plan` joins descriptors and rules to tables; the lock then gives the columns their ids, and
rendering only writes down what is here. Whatever a rule says that does not fit the schemas is found
here, all of it at once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

from cdp_runtime.program import Encoding, Enum, Field, Kind, Presence, Program
from cdpgen import arrow, descriptors
from cdpgen.arrow import ArrowType
from cdpgen.errors import Position, UsageError, suggest
from cdpgen.rules import ColumnRule, PartitionRule, RulesFile, TableRule, split_path

__all__ = ["RAW", "Column", "Partition", "Path", "PathPart", "Plan", "Table", "flat", "plan"]

RAW: Final = "_raw"
"""The column for the bytes of a message that the other columns cannot hold."""

MAX_COLUMNS: Final = 10_000
"""Columns of one table, nested ones included; no engine reads wider ones in comfort."""

PathPart = int
Path = tuple[PathPart, ...]
"""The field numbers that lead to a column. The element of a list is 0, of a map the key is 1 and
the value 2, of a oneof the case column is the negative number of its first member; `_raw` has the
empty path.
"""

_WRAPPERS: Final = {
    "google.protobuf.DoubleValue": "double",
    "google.protobuf.FloatValue": "float",
    "google.protobuf.Int64Value": "int64",
    "google.protobuf.UInt64Value": "uint64",
    "google.protobuf.Int32Value": "int32",
    "google.protobuf.UInt32Value": "uint32",
    "google.protobuf.BoolValue": "bool",
    "google.protobuf.StringValue": "string",
    "google.protobuf.BytesValue": "bytes",
}
_JSON: Final = frozenset(
    {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
)
_TIMES: Final = {
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
    "google.type.Date": "date",
    "google.type.TimeOfDay": "time_of_day",
}
_ASKED: Final = frozenset({"DESCRIPTOR", "SerializePartialToString", "SerializeToString"})
_INTEGERS: Final = frozenset(
    {
        *("int32", "int64", "uint32", "uint64", "sint32", "sint64"),
        *("fixed32", "fixed64", "sfixed32", "sfixed64"),
    }
)

# Which keys of a rule fit which kind of value, besides `name` and `drop`, which fit all.
_UNIX: Final = ("unix_s", "unix_ms", "unix_us")
_TEXT_ENCODINGS: Final = ("hex", "base64", "base32")
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(_INTEGERS, ("encoding",)),
    "float": ("type",),
    "string": ("type", "encoding", "size", "large"),
    "bytes": ("size", "large"),
    "enum": ("enum",),
    "message": ("flatten", "prefix", "encoding", "depth", "large"),
    "group": ("flatten", "prefix", "encoding", "depth", "large"),
    "timestamp": ("unit",),
    "duration": ("unit",),
    "time_of_day": ("unit",),
    "json": ("large",),
    "oneof": ("case",),
}
_ENCODINGS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(_INTEGERS, _UNIX),
    "string": _TEXT_ENCODINGS,
    "message": ("serialized",),
    "group": ("serialized",),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column, or an element, key, value or member of a nested one.

    Attributes:
        name: among its siblings.
        full_name: from the table on: `meta.closed_at`, the element of a list `topic[]`.
        path: the field numbers that lead to it.
        type: its type; nested ones have `children`.
        wire: what it is made of: `implicit string`, `optional string hex`, `packed enum x.Kind`;
            empty for `_raw`.
        oneof: the oneof that it is a member of, or empty.
        comment: the field's comment.
        position: the field's place in its `.proto`.
    """

    name: str
    full_name: str
    path: Path
    type: ArrowType
    nullable: bool
    wire: str
    comment: str
    position: Position
    oneof: str = ""
    children: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """One level of a partition: `transform` is the runtime's class for it."""

    transform: str
    column: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        message: the root message.
        columns: its columns in the order of the schema.
        program: how they are made.
        enums: the enums that the program names, by full name.
        ids: the id of every column, by path; empty until the lock gave them.
        extensions: those of the messages within, by the full name of the extended message.
        version: of the lock; 0 until then.
        fingerprint: of schema and program; empty until then.
        former_fingerprints: those of the versions before, by their numbers.
        defaults: by column, what rows older than the column have in it; empty until they are checked.
    """

    message: descriptors.Message
    columns: tuple[Column, ...]
    program: Program
    enums: Mapping[str, descriptors.Enum]
    comments: Mapping[str, str]
    partitions: Mapping[str, tuple[Partition, ...]]
    partition_by: tuple[str, ...]
    sort_by: tuple[str, ...]
    extensions: Mapping[str, Sequence[descriptors.Field]]
    ids: Mapping[Path, int] = field(default_factory=dict)
    version: int = 0
    fingerprint: str = ""
    former_fingerprints: Mapping[int, str] = field(default_factory=dict)
    defaults: Mapping[str, bool | int | float | str | bytes] = field(default_factory=dict)
    bloom_filters: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The table's name, that of its message."""
        return self.message.full_name

    def locked(self, ids: Mapping[Path, int], fingerprints: Mapping[int, str]) -> Table:
        """The table with what the lock knows of it: the fingerprints of its versions, today's last."""
        *former, (version, fingerprint) = fingerprints.items()
        return replace(
            self,
            ids=ids,
            version=version,
            fingerprint=fingerprint,
            former_fingerprints=dict(former),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All tables, in the order of their files.

    Attributes:
        skipped: the tables that a rule leaves out.
    """

    schemas: descriptors.Schemas
    tables: tuple[Table, ...]
    skipped: frozenset[str]


def flat(columns: Sequence[Column]) -> Iterator[Column]:
    """Yields columns and their children, depth first."""
    for column in columns:
        yield column
        yield from flat(column.children)


def plan(schemas: descriptors.Schemas, rules: RulesFile) -> Plan:
    """Decides what every table looks like.

    Args:
        schemas: the compiled schemas.
        rules: the rules as written.

    Returns:
        The tables, without ids yet.

    Raises:
        UsageError: rules that name nothing or do not fit, columns that collide; all of them.
    """
    problems: list[str] = []
    named = rules.rules.tables
    candidates = {
        message.full_name: message
        for message in schemas.messages.values()
        if message.file.own and not message.map_entry
    }
    for name in named:
        if name not in candidates:
            place = rules.position("tables", name)
            problems.append(
                f"{place}: `{name}` is no message of these schemas; {suggest(name, candidates)}"
            )
    contained = _contained(schemas)
    tables = []
    for name, message in candidates.items():
        rule = named.get(name)
        root = message.parent is None and name not in contained and not name.startswith("google.")
        if (rule is None and not root) or (rule is not None and rule.skip):
            continue
        planner = _TablePlanner(schemas, rules, message, rule or TableRule())
        table = planner.plan()
        problems += planner.problems
        if table is not None:
            tables.append(table)
    if problems:
        raise UsageError("\n".join(problems))
    tables.sort(key=lambda table: (table.message.file.path, table.message.position))
    skipped = frozenset(name for name, rule in named.items() if rule.skip)
    return Plan(schemas, tuple(tables), skipped)


def _contained(schemas: descriptors.Schemas) -> set[str]:
    """The messages that are the type of a field of some other message."""
    found = set()
    for message in schemas.messages.values():
        if not message.file.own:
            continue
        holder = message.parent if message.map_entry and message.parent else message
        for item in message.fields:
            if item.message is not None and item.message is not holder:
                found.add(item.message.full_name)
    for extension in schemas.extensions.values():
        if extension.message is not None and extension.message is not extension.extends:
            found.add(extension.message.full_name)
    return found


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where in the table the planner stands.

    Attributes:
        names: the fields that lead here, as a rule writes them.
        columns: the columns that lead here, as a query writes them.
        path: the field numbers that lead here.
        enclosing: how often each message may still occur further in; at 0 it recurs here.
        absent: whether a flattened message's absence makes every column null.
        prefix: what the names of columns here begin with.
    """

    names: tuple[str, ...]
    columns: str
    path: Path
    enclosing: Mapping[str, int]
    absent: bool = False
    prefix: str = ""


@dataclass(slots=True)
class _Value:
    """What one value of a field becomes; how many there are is not said here."""

    kind: str
    type: ArrowType
    encoding: str = ""
    lossy: bool = False
    """Whether some valid value cannot be represented, so that items must be nullable."""
    empty_is_null: bool = False
    """Whether even a field that is always there may be null."""
    enum: Enum | None = None
    program: Program | None = None
    children: tuple[Column, ...] = ()


class _TooManyColumnsError(Exception):
    """The table grew beyond `MAX_COLUMNS`."""


class _TablePlanner:
    """Plans one table; what is wrong collects in `problems`."""

    def __init__(
        self,
        schemas: descriptors.Schemas,
        rules: RulesFile,
        message: descriptors.Message,
        rule: TableRule,
    ) -> None:
        self.problems: list[str] = []
        self._schemas = schemas
        self._rules = rules
        self._message = message
        self._rule = rule
        self._defaults = rules.rules.defaults
        self._column_rules = {split_path(path): path for path in rule.columns}
        self._seen: dict[tuple[str, ...], str] = {}
        self._enums: dict[str, descriptors.Enum] = {}
        self._comments: dict[str, str] = {}
        self._contents: dict[str, Program] = {}
        self._extensions: dict[str, list[descriptors.Field]] = {}
        for extension in schemas.extensions.values():
            if extension.extends is not None:
                self._extensions.setdefault(extension.extends.full_name, []).append(extension)
        self._count = 0

    def plan(self) -> Table | None:
        message, rule = self._message, self._rule
        scope = _Scope((), "", (), {message.full_name: 0})
        try:
            columns, program = self._struct(message, scope)
        except _TooManyColumnsError:
            self.problems.append(
                f"{message.position}: {message.full_name} has more than {MAX_COLUMNS:,} columns; "
                "give the fields that hold the most of them `encoding: serialized` or `drop: true` "
                f"in {self._rules.path}; most of the first {MAX_COLUMNS:,} are in {self._widest()}"
            )
            return None
        self._unused_rules()
        self._reject_hiding()
        lossless = self._defaults.lossless if rule.lossless is None else rule.lossless
        if lossless:
            self._reject_collision(columns, RAW, message.position)
            columns.append(
                Column(
                    name=RAW,
                    full_name=RAW,
                    path=(),
                    type=arrow.BINARY,
                    nullable=True,
                    wire="",
                    comment="The message as it came, where the other columns cannot hold it all.",
                    position=message.position,
                )
            )
        elif not columns:
            self.problems.append(
                f"{message.position}: {message.full_name} has no columns; leave it out with "
                f"`tables: {{{message.full_name}: {{skip: true}}}}` in {self._rules.path}"
            )
        program = Program(
            program.message,
            *program.fields,
            oneof_cases=program.oneof_cases,
            raw=RAW if lossless else "",
            contents=tuple(self._contents.values()),
        )
        partitions, partition_by = self._partitions(columns)
        return Table(
            message=message,
            columns=tuple(columns),
            program=program,
            enums=self._enums,
            comments=self._comments,
            partitions=partitions,
            partition_by=partition_by,
            sort_by=self._sort_by(columns),
            bloom_filters=self._bloom_filters(columns),
            extensions=self._extensions,
        )

    def _widest(self) -> str:
        """The three fields with the most within, none of them within another or little but a wrapper."""
        counts = Counter(names[:i] for names in self._seen for i in range(1, len(names)))
        most: dict[tuple[str, ...], int] = {}
        for names, count in counts.items():
            most[names[:-1]] = max(most.get(names[:-1], 0), count)
        found: list[tuple[str, ...]] = []
        for names, count in counts.most_common():
            within = any(names[: len(other)] == other for other in found)
            if not within and most.get(names, 0) < 0.9 * count:
                found.append(names)
        return ", ".join(f"`{'.'.join(names)}` ({counts[names]:,})" for names in found[:3])

    def _reject_hiding(self) -> None:
        """Fields may not have the names by which a writer asks a message object what it is."""
        for item in self._message.fields:
            if item.name in _ASKED:
                self.problems.append(
                    f"{item.position}: a field `{item.name}` hides what every message of protobuf's "
                    f"Python has by that name, and no {self._message.full_name} could be written; "
                    "give the field another name (its number stays), or leave the table "
                    f"out with `tables: {{{self._message.full_name}: {{skip: true}}}}` in "
                    f"{self._rules.path}"
                )

    # Messages

    def _struct(self, message: descriptors.Message, scope: _Scope) -> tuple[list[Column], Program]:
        """The columns and the program of a message's fields."""
        self._comments.setdefault(message.full_name, message.comment)
        columns: list[Column] = []
        fields: list[Field] = []
        cases: list[tuple[str, str]] = []
        oneofs = {oneof.name: oneof for oneof in message.oneofs}
        for item in (*message.fields, *self._named_extensions(message, scope)):
            if item.oneof in oneofs:
                case = self._case_column(oneofs.pop(item.oneof), scope)
                if case is not None:
                    self._add(columns, [case])
                    cases.append((item.oneof, case.name))
            made, program_field = self._field(item, scope)
            self._add(columns, made)
            fields.append(program_field)
        return columns, Program(message.full_name, *fields, oneof_cases=cases)

    def _add(self, columns: list[Column], made: Sequence[Column]) -> None:
        for column in made:
            self._reject_collision(columns, column.name, column.position)
            columns.append(column)

    def _reject_collision(self, columns: Sequence[Column], name: str, place: Position) -> None:
        other = next((column for column in columns if column.name == name), None)
        if other is not None:
            self.problems.append(
                f"{place}: {self._message.full_name} would have two columns `{name}` (the other: "
                f"{other.position}); give one of them another name, in {self._rules.path} under "
                f"tables: {{{self._message.full_name}: {{columns: {{<field>: {{name: "
                "<other>}}}}"
            )

    def _named_extensions(
        self, message: descriptors.Message, scope: _Scope
    ) -> list[descriptors.Field]:
        """The extensions of a message that a rule makes columns of."""
        found = []
        for extension in self._extensions.get(message.full_name, ()):
            part = f"[{extension.full_name}]"
            self._seen.setdefault((*scope.names, part), "")
            depth = len(scope.names)
            named = any(
                parts[:depth] == scope.names and len(parts) > depth and parts[depth] == part
                for parts in self._column_rules
            )
            if named and message.message_set:
                place = self._place((*scope.names, part))
                self.problems.append(
                    f"{place}: {message.full_name} is a MessageSet, whose extensions cannot be "
                    "columns"
                )
            elif named:
                found.append(extension)
        return found

    def _case_column(self, oneof: descriptors.Oneof, scope: _Scope) -> Column | None:
        names = (*scope.names, oneof.name)
        self._note(names, "")
        rule = self._rule_of(names)
        self._check_keys(names, rule, "oneof", f"the oneof {oneof.name}")
        if not (rule.case if "case" in rule.model_fields_set else self._defaults.oneof_case):
            if rule.name:
                self._problem(names, "name", "goes with `case: true`: a oneof itself is no column")
            return None
        name = scope.prefix + (rule.name or f"{oneof.name}_case")
        self._note(names, scope.columns + name)
        return self._counted(
            Column(
                name=name,
                full_name=scope.columns + name,
                path=(*scope.path, -min(member.number for member in oneof.fields)),
                type=arrow.DICTIONARY,
                nullable=True,
                wire="oneof",
                comment=oneof.comment or f"Which member of `{oneof.name}` is set.",
                position=oneof.position,
            )
        )

    # Fields

    def _field(self, item: descriptors.Field, scope: _Scope) -> tuple[list[Column], Field]:
        """The columns of one field (none when it is dropped, many when it is flattened)."""
        part = f"[{item.full_name}]" if item.extends is not None else item.name
        names = (*scope.names, part)
        rule = self._rule_of(names)
        name = scope.prefix + (rule.name or item.name)
        path = (*scope.path, item.number)
        full_name = scope.columns + name
        self._note(names, full_name)
        if rule.drop:
            if rule.given() not in (["drop"], ["drop", "name"]):
                self._problem(names, "drop", "leaves nothing that the other keys could say")
            kind = "map" if item.is_map else item.type
            # it counts where the message recurs in a column of its own bytes, which are whole
            lossy = kind == "string" and not item.utf8
            return [], Field(
                item.number,
                cast(Kind, kind),
                None,
                cast(Presence, item.presence),
                encoding="lossy_utf8" if lossy else "",
                oneof=item.oneof,
                name=name if item.oneof else "",
            )
        inner = _Scope(names, f"{full_name}.", path, scope.enclosing)
        if item.is_map:
            self._check_keys(names, rule, "map", f"the map {item.full_name}")
            value = self._map(item, inner, full_name)
        else:
            if item.repeated:
                inner = replace(inner, columns=f"{full_name}[].")
            if rule.flatten:
                flattened = self._flatten(item, rule, scope, inner)
                if flattened is not None:
                    return flattened
            value = self._value(item, rule, inner)
        presence = item.presence
        program_field = Field(
            item.number,
            cast(Kind, value.kind),
            name,
            cast(Presence, presence),
            encoding=cast(Encoding, value.encoding),
            oneof=item.oneof,
            enum=value.enum,
            program=value.program,
        )
        wire = _wire(presence, value)
        if item.is_map:
            type_, children, nullable = arrow.MAP, value.children, False
        elif item.repeated:
            element = Column(
                name="item",
                full_name=f"{full_name}[]",
                path=(*path, 0),
                type=value.type,
                nullable=value.lossy,
                wire="",
                comment="",
                position=item.position,
                children=value.children,
            )
            type_, children, nullable = arrow.LIST, (self._counted(element),), False
        else:
            type_, children = value.type, value.children
            nullable = presence == "optional" or value.empty_is_null
        column = Column(
            name=name,
            full_name=full_name,
            path=path,
            type=type_,
            nullable=nullable or scope.absent,
            wire=wire,
            comment=item.comment,
            position=item.position,
            oneof=item.oneof,
            children=children,
        )
        return [self._counted(column)], program_field

    def _flatten(
        self, item: descriptors.Field, rule: ColumnRule, scope: _Scope, inner: _Scope
    ) -> tuple[list[Column], Field] | None:
        """The columns of a message that stand in its parent's place; None where that cannot be."""
        message = item.message
        names = inner.names
        kind = self._message_kind(item)
        if message is None or kind not in ("message", "group"):
            return None
        if item.repeated:
            self._problem(names, "flatten", f"cannot be: {item.full_name} is repeated")
            return None
        if scope.enclosing.get(message.full_name, 1) == 0:
            self._problem(names, "flatten", f"cannot be: {message.full_name} holds itself")
            return None
        self._check_keys(names, rule, kind, item.full_name)
        if {"encoding", "depth", "name", "large"} & rule.model_fields_set:
            self._problem(names, "flatten", "goes with `prefix` only")
        place = replace(
            inner,
            columns=scope.columns,
            enclosing={**scope.enclosing, message.full_name: 0},
            absent=item.presence != "required" or scope.absent,
            prefix=scope.prefix + (rule.prefix or ""),
        )
        columns, program = self._struct(message, place)
        return columns, Field(
            item.number,
            cast(Kind, item.type),
            "",
            cast(Presence, item.presence),
            encoding="flatten",
            oneof=item.oneof,
            name=item.name if item.oneof else "",
            program=program,
        )

    def _map(self, item: descriptors.Field, inner: _Scope, full_name: str) -> _Value:
        """A map's entries."""
        entry = cast(descriptors.Message, item.message)
        made = []
        fields = []
        for member in entry.fields:
            names = (*inner.names, member.name)
            rule = self._rule_of(names)
            self._note(names, f"{full_name}.{member.name}")
            is_key = member.name == "key"
            if is_key and rule.given():
                self._problem(names, rule.given()[0], "does not fit the key of a map; nothing does")
                rule = ColumnRule()
            for key in ("name", "drop", "flatten", "prefix"):
                if key in rule.model_fields_set:
                    self._problem(names, key, "does not fit the value of a map")
            at = replace(
                inner,
                names=names,
                columns=f"{full_name}.{member.name}.",
                path=(*inner.path, member.number),
            )
            value = self._value(member, rule, at)
            fields.append(
                Field(
                    member.number,
                    cast(Kind, value.kind),
                    member.name,
                    encoding=cast(Encoding, value.encoding),
                    enum=value.enum,
                    program=value.program,
                )
            )
            made.append(
                self._counted(
                    Column(
                        name=member.name,
                        full_name=f"{full_name}.{member.name}",
                        path=(*inner.path, member.number),
                        type=value.type,
                        nullable=value.lossy,
                        wire=_wire("implicit", value),
                        comment="",
                        position=item.position,
                        children=value.children,
                    )
                )
            )
        program = Program(entry.full_name, *fields)
        return _Value(kind="map", type=arrow.MAP, program=program, children=tuple(made))

    # Values

    def _message_kind(self, item: descriptors.Field) -> str:
        """The kind of a field's values, well-known types told from other messages."""
        if item.type != "message" or item.message is None:
            return item.type
        full_name = item.message.full_name
        if full_name in _WRAPPERS:
            return "wrapper"
        if full_name in _JSON:
            return "json"
        return _TIMES.get(full_name, "message")

    def _value(self, item: descriptors.Field, rule: ColumnRule, inner: _Scope) -> _Value:
        """What one value of a field becomes."""
        kind = self._message_kind(item)
        self._check_keys(inner.names, rule, kind, f"{item.full_name} ({_type_name(item)})")
        if kind in ("message", "group"):
            return self._message_value(item, kind, rule, inner)
        if kind == "enum":
            return self._enum_value(cast(descriptors.Enum, item.enum), rule)
        if kind == "string":
            return self._string_value(item, rule, inner)
        if kind == "bytes":
            if rule.size is not None:
                return _Value(kind, arrow.fixed_binary(rule.size), lossy=True, empty_is_null=True)
            return _Value(kind, arrow.large(arrow.BINARY) if rule.large else arrow.BINARY)
        if kind == "float" and rule.type == "double":
            return _Value(kind, arrow.SCALARS["double"])
        if kind in _INTEGERS and rule.encoding in _UNIX:
            unit = rule.encoding.removeprefix("unix_")
            return _Value(kind, arrow.timestamp(unit), rule.encoding, lossy=True)
        if kind == "timestamp":
            unit = rule.unit or self._defaults.timestamp_unit
            return _Value(kind, arrow.timestamp(unit), lossy=True, empty_is_null=True)
        if kind == "duration":
            unit = rule.unit or self._defaults.duration_unit
            return _Value(kind, arrow.duration(unit), lossy=True, empty_is_null=True)
        if kind == "date":
            return _Value(kind, arrow.DATE32, lossy=True, empty_is_null=True)
        if kind == "time_of_day":
            if rule.unit in ("s", "ms"):
                self._problem(inner.names, "unit", "is us or ns for a time of day")
            return _Value(kind, arrow.time64(rule.unit or "us"), lossy=True, empty_is_null=True)
        if kind == "wrapper":
            message = cast(descriptors.Message, item.message)
            scalar = _WRAPPERS[message.full_name]
            program = Program(message.full_name, Field(1, cast(Kind, scalar), "value"))
            return _Value(
                kind, arrow.SCALARS[scalar], lossy=True, empty_is_null=True, program=program
            )
        if kind == "json":
            message = cast(descriptors.Message, item.message)
            type_ = arrow.large(arrow.STRING) if rule.large else arrow.STRING
            program = Program(message.full_name)
            return _Value(kind, type_, lossy=True, empty_is_null=True, program=program)
        return _Value(kind, arrow.SCALARS[kind])

    def _string_value(self, item: descriptors.Field, rule: ColumnRule, inner: _Scope) -> _Value:
        if rule.encoding and (rule.type or rule.large):
            self._problem(inner.names, "encoding", "excludes `type` and `large`")
        if rule.decimal and rule.large:
            self._problem(inner.names, "large", f"does not fit {rule.type}")
        if rule.size is not None and not rule.encoding:
            self._problem(inner.names, "size", "goes with `encoding: hex`, `base64` or `base32`")
        # Text that a rule parses and that need not be UTF-8 is as good as bytes.
        kind = "string" if item.utf8 else "bytes"
        if rule.decimal:
            type_ = arrow.decimal(*rule.decimal)
            return _Value(kind, type_, "decimal", lossy=True, empty_is_null=True)
        if rule.encoding:
            if rule.size is not None:
                type_ = arrow.fixed_binary(rule.size)
                return _Value(kind, type_, rule.encoding, lossy=True, empty_is_null=True)
            return _Value(kind, arrow.BINARY, rule.encoding, lossy=True)
        type_ = arrow.large(arrow.STRING) if rule.large else arrow.STRING
        return _Value("string", type_, "" if item.utf8 else "lossy_utf8")

    def _enum_value(self, enum: descriptors.Enum, rule: ColumnRule) -> _Value:
        self._enums[enum.full_name] = enum
        values = [(value.number, value.name) for value in enum.values]
        form = rule.enum or self._defaults.enums
        type_ = {
            "names": arrow.DICTIONARY,
            "string": arrow.STRING,
            "int32": arrow.SCALARS["int32"],
        }[form]
        return _Value("enum", type_, enum=Enum(enum.full_name, *values, closed=enum.closed))

    def _message_value(
        self, item: descriptors.Field, kind: str, rule: ColumnRule, inner: _Scope
    ) -> _Value:
        message = cast(descriptors.Message, item.message)
        left = inner.enclosing.get(message.full_name)
        if rule.depth is not None:
            left = rule.depth
        named = self._named_extensions(message, inner)
        if left == 0 or rule.encoding or not (message.fields or named):
            type_ = arrow.large(arrow.BINARY) if rule.large else arrow.BINARY
            self._add_contents(message)
            return _Value(kind, type_, "serialized", program=Program(message.full_name))
        if rule.large:
            self._problem(inner.names, "large", "goes with `encoding: serialized`")
        left = 0 if left is None else left - 1
        at = replace(inner, enclosing={**inner.enclosing, message.full_name: left})
        columns, program = self._struct(message, at)
        if not columns:
            self.problems.append(
                f"{self._place(inner.names)}: the rules drop every column of {item.full_name}; "
                "drop the field itself"
            )
        return _Value(kind, arrow.STRUCT, program=program, children=tuple(columns))

    def _add_contents(self, message: descriptors.Message) -> None:
        """Adds what a message that is kept as its bytes is checked by, and the messages within it.

        Of one that recurs too: the program of the message around it passes over what a rule drops.
        """
        left = deque([message])
        while left:
            message = left.popleft()
            name = message.full_name
            if message.fields and name not in self._contents:
                self._comments.setdefault(name, message.comment)
                self._contents[name] = Program(name, *self._content(message, left))

    def _content(
        self, message: descriptors.Message, found: deque[descriptors.Message]
    ) -> Iterator[Field]:
        """The fields of a message without columns; the messages that they hold go to `found`."""
        for item in message.fields:
            kind = "map" if item.is_map else self._message_kind(item)
            program = None
            if item.message is not None and kind not in _TIMES.values():
                named = kind in ("message", "group", "json")
                fields = () if named else self._content(item.message, found)
                program = Program(item.message.full_name, *fields)
                if kind in ("message", "group"):
                    found.append(item.message)
            lossy = kind == "string" and not item.utf8
            yield Field(
                item.number,
                cast(Kind, kind),
                None,
                cast(Presence, item.presence),
                encoding="lossy_utf8" if lossy else "",
                name=item.name,
                program=program,
            )

    def _counted(self, column: Column) -> Column:
        self._count += 1
        if self._count > MAX_COLUMNS:
            raise _TooManyColumnsError
        return column

    # Rules

    def _rule_of(self, names: tuple[str, ...]) -> ColumnRule:
        path = self._column_rules.get(names)
        return self._rule.columns[path] if path is not None else ColumnRule()

    def _note(self, names: tuple[str, ...], column: str) -> None:
        self._seen[names] = column

    def _place(self, names: tuple[str, ...], key: str = "") -> Position:
        keys = ["tables", self._message.full_name, "columns", self._column_rules.get(names, "")]
        return self._rules.position(*keys, *([key] if key else []))

    def _problem(self, names: tuple[str, ...], key: str, text: str) -> None:
        self.problems.append(f"{self._place(names, key)}: `{key}` {text}")

    def _check_keys(self, names: tuple[str, ...], rule: ColumnRule, kind: str, what: str) -> None:
        """Objects to keys of a rule that mean nothing for this kind of value."""
        if not rule.model_fields_set:
            return
        allowed = ("name", "drop", *_KEYS.get(kind, ()))
        if kind == "oneof":
            allowed = ("name", "case")
        for key in rule.given():
            if key not in allowed:
                text = f"does not fit {what}; allowed here: {', '.join(allowed)}"
                if kind == "map":
                    text += f"; for its values write `{'.'.join(names)}.value`"
                self._problem(names, key, text)
        encodings = _ENCODINGS.get(kind, ())
        if rule.encoding and "encoding" in allowed and rule.encoding not in encodings:
            text = f"{rule.encoding} does not fit {what}; allowed here: {', '.join(encodings)}"
            self._problem(names, "encoding", text)
        if rule.type and "type" in allowed and (rule.type == "double") != (kind == "float"):
            wanted = "double" if kind == "float" else 'json, "decimal(precision, scale)"'
            text = f"{rule.type} does not fit {what}; allowed here: {wanted}"
            self._problem(names, "type", text)
        if rule.prefix and not rule.flatten:
            self._problem(names, "prefix", "goes with `flatten: true`")

    def _unused_rules(self) -> None:
        known = [".".join(names) for names in self._seen]
        for names, path in self._column_rules.items():
            if names not in self._seen:
                self.problems.append(
                    f"{self._place(names)}: `{path}` names no field of {self._message.full_name}; "
                    f"{suggest(path, known)}"
                )

    # Partitions

    def _partitions(
        self, columns: Sequence[Column]
    ) -> tuple[dict[str, tuple[Partition, ...]], tuple[str, ...]]:
        table = ("tables", self._message.full_name)
        named: dict[str, tuple[Partition, ...]] = {}
        for name, levels in self._rule.partitions.items():
            keys = (*table, "partitions", name)
            made = (self._partition(level, columns, (*keys, i)) for i, level in enumerate(levels))
            named[name] = tuple(level for level in made if level is not None)
        chosen = []
        for i, level in enumerate(self._rule.partition_by):
            if level.transform == "column" and level.source in named:
                chosen.append(level.source)
                continue
            partition = self._partition(level, columns, (*table, "partition_by", i), named)
            if partition is None:
                continue
            if partition.transform == "Column":
                chosen.append(partition.column)
            else:
                name = f"{partition.column.replace('.', '_')}_{partition.transform.lower()}"
                named.setdefault(name, (partition,))
                chosen.append(name)
        return named, tuple(chosen)

    def _partition(
        self,
        rule: PartitionRule,
        columns: Sequence[Column],
        keys: Sequence[str | int],
        names: Mapping[str, object] | None = None,
    ) -> Partition | None:
        place = self._rules.position(*keys, rule.transform)
        column = self._find(rule.source, columns, place, names or {})
        if column is None:
            return None
        type_ = column.type.text
        fits = {
            "day": type_.startswith(("timestamp", "date")),
            "hour": type_.startswith("timestamp"),
            "range": type_.startswith(("int", "uint")),
            "column": not column.children and type_ not in ("float", "double"),
        }[rule.transform]
        if not fits:
            wants = {
                "day": "a timestamp or a date",
                "hour": "a timestamp",
                "range": "an integer",
                "column": "a column that is neither nested nor a float",
            }[rule.transform]
            self.problems.append(
                f"{place}: `{rule.transform}: {rule.source}` is {type_}; "
                f"{rule.transform} needs {wants}"
            )
            return None
        return Partition(rule.transform.capitalize(), column.full_name, rule.size)

    def _sort_by(self, columns: Sequence[Column]) -> tuple[str, ...]:
        found = []
        for i, name in enumerate(self._rule.sort_by):
            place = self._rules.position("tables", self._message.full_name, "sort_by", i)
            column = self._find(name, columns, place, {})
            if column is not None:
                if column.children:
                    self.problems.append(
                        f"{place}: `{name}` is a {column.type.text}, which has no order"
                    )
                found.append(column.full_name)
        return tuple(found)

    def _bloom_filters(self, columns: Sequence[Column]) -> tuple[str, ...]:
        """The columns that get a bloom filter, by their paths in the Parquet file."""
        found = []
        for i, name in enumerate(self._rule.bloom_filters):
            place = self._rules.position("tables", self._message.full_name, "bloom_filters", i)
            column = self._find(name, columns, place, {})
            if column is None:
                continue
            elements = column.type is arrow.LIST
            inner = column.children[0] if elements else column
            if inner.children or inner.type.text == "bool":
                self.problems.append(
                    f"{place}: `{name}` is a {column.type.text}, which a bloom filter tells nothing of"
                )
            elif inner.type.text.startswith("decimal256"):
                # It reads such a column as DOUBLE, and asks the filter by the bits of one.
                self.problems.append(
                    f"{place}: `{name}` is a {inner.type.text}, and by a bloom filter on more than 38 digits "
                    "DuckDB would miss rows; leave it out, or give the column at most 38 digits"
                )
            found.append(column.full_name + (".list.element" if elements else ""))
        return tuple(found)

    def _find(
        self,
        name: str,
        columns: Sequence[Column],
        place: Position,
        others: Mapping[str, object],
    ) -> Column | None:
        """The column of a name, be it the column's own or the path of its field."""
        reachable = dict(_reachable(columns))
        column = reachable.get(name) or reachable.get(self._seen.get(split_path(name), ""))
        if column is None:
            outer = next((path for path in _above(name) if path in reachable), None)
            if outer and reachable[outer].type in (arrow.LIST, arrow.MAP):
                kind = reachable[outer].type.text
                said = (
                    f"is within `{outer}`, which is a {kind}: a row has many values of it, or none"
                )
            else:
                choices = [*others, *reachable]
                said = f"is no column of {self._message.full_name}; {suggest(name, choices)}"
            self.problems.append(f"{place}: `{name}` {said}")
        return column


def _above(name: str) -> Iterator[str]:
    """The columns that one is within, by its dotted name: of `a.b.c` first `a.b`."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _reachable(columns: Sequence[Column]) -> Iterator[tuple[str, Column]]:
    """Yields the columns that have one value a row: not those within lists and maps."""
    for column in columns:
        yield column.full_name, column
        if column.type is arrow.STRUCT:
            yield from _reachable(column.children)


def _wire(presence: str, value: _Value) -> str:
    named = value.enum.name if value.enum is not None else ""
    if value.kind == "json" and value.program is not None:
        named = value.program.message
    return " ".join(part for part in (presence, value.kind, value.encoding, named) if part)


def _type_name(item: descriptors.Field) -> str:
    named = item.message or item.enum
    return named.full_name if named is not None else item.type
