"""The rules of evolution: what may not change in a table that has files, and why.

Each rule is an id (buf's where it means the same), a purpose, what would go wrong, what to write
instead, and a handler that yields the places where it is broken. The question of each is not
whether the wire is compatible but whether a reader of ten years of files still gets the right
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from cdpgen.changes import (
    REPLACING,
    Change,
    EnumChange,
    MessageChange,
    Pair,
    TableChange,
    Wire,
    may_be_one_field,
    wire_rule,
)
from cdpgen.descriptors import Enum, Message, Reserved
from cdpgen.errors import Position
from cdpgen.lock import DroppedField, LockedColumn, field_wire, level_of
from cdpgen.model import Path, flat
from cdpgen.rules import LEVELS, Level

__all__ = ["ENUM_CHECKS", "MESSAGE_CHECKS", "MESSAGE_NO_DELETE", "RULES", "TABLE_CHECKS", "Rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Attributes:
        id: its name.
        purpose: what it checks, in a line.
        level: the mildest level at which it holds.
        breaks: what would go wrong.
        fix: what to write instead.
        severity: an `error` stops the build.
        replaces: whether a column whose change was accepted is another column from then on.
    """

    id: str
    purpose: str
    level: Level
    breaks: str
    fix: str
    severity: Literal["error", "warning"] = "error"
    replaces: bool = False

    def holds_at(self, level: Level) -> bool:
        """Whether a table of this level is held to the rule."""
        return LEVELS.index(self.level) <= LEVELS.index(level)


RULES: Final[dict[str, Rule]] = {}
"""Every rule by its id, in the order in which they are checked and documented."""
TABLE_CHECKS: Final[list[tuple[Rule, Callable[[TableChange], Iterator[Change]]]]] = []
ENUM_CHECKS: Final[list[tuple[Rule, Callable[[EnumChange], Iterator[Change]]]]] = []
MESSAGE_CHECKS: Final[list[tuple[Rule, Callable[[MessageChange], Iterator[Change]]]]] = []


def _rule(rule: Rule) -> Rule:
    RULES[rule.id] = rule
    return rule


def _table(rule: Rule) -> Callable[..., None]:
    return lambda handler: TABLE_CHECKS.append((_rule(rule), handler))


def _enum(rule: Rule) -> Callable[..., None]:
    return lambda handler: ENUM_CHECKS.append((_rule(rule), handler))


def _message(rule: Rule) -> Callable[..., None]:
    return lambda handler: MESSAGE_CHECKS.append((_rule(rule), handler))


MESSAGE_NO_DELETE: Final = _rule(
    Rule(
        "MESSAGE_NO_DELETE",
        "A message that has files stays a table.",
        "archive",
        "nothing knows the schema of the files that are there, and new messages are not archived",
        "bring the message back, name it under `tables` where other messages now hold it, or take "
        "`skip: true` out",
    )
)


def _pairs_of(rule: str, table: TableChange) -> Iterator[Pair]:
    return (pair for pair in table.pairs if pair.broken == rule)


def _types(rule: str, table: TableChange) -> Iterator[Change]:
    for old, new, _ in _pairs_of(rule, table):
        was, now = old.type, new.type.text
        if was == now:  # another text of the same bytes
            was, now = f"{was}{_parsed(old.wire)}", f"{now}{_parsed(new.wire)}"
        yield Change(table.path(new.full_name), new.position, was, now, new.path)


def _parsed(wire: str) -> str:
    encoding = Wire.of(wire).parsed
    return f" of {encoding}" if encoding else ""


def _wires(rule: str, table: TableChange) -> Iterator[Change]:
    for old, new, _ in _pairs_of(rule, table):
        yield Change(
            table.path(new.full_name),
            new.position,
            str(Wire.of(old.wire)),
            str(Wire.of(new.wire)),
            new.path,
        )


@_table(
    Rule(
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
        "A field that goes leaves its number reserved.",
        "archive",
        "a later field could take the number, and then old messages (in `_raw`, dead letters and "
        "upstream) would be read as something that they are not",
        "reserve the number in the message",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    for column, number, message in table.gone:
        if not message.reserved.has(number):
            yield Change(
                table.path(column.name),
                message.position,
                f"field {number} of {message.full_name}",
                f"gone, and `reserved {number};` is not there",
                column.path,
            )


@_table(
    Rule(
        "FIELD_NO_DELETE_UNLESS_NAME_RESERVED",
        "A field that goes leaves its name reserved.",
        "strict",
        "a later column could take the name and mean something else by it, for those who query "
        "files by name",
        "reserve the name in the message",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    for column, number, message in table.gone:
        name = column.name.rpartition(".")[2]
        if message.reserved.has(number) and name not in message.reserved.names:
            yield Change(
                table.path(column.name),
                message.position,
                f"a field of {message.full_name}",
                f'gone, and `reserved "{name}";` is not there',
                column.path,
            )


@_table(
    Rule(
        "FIELD_NUMBER_REUSED",
        "The number of a field that is gone is not given to another.",
        "wire",
        "messages that were written with the old field (in `_raw`, dead letters and upstream) are "
        "read as if they had the new one",
        "give the new field a number that was never used",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    retired = {
        table.moved.get(column.path, column.path): column
        for column in table.old.columns
        if column.retired
    }
    renamed = {path: column for column in table.old.columns for path in column.was}
    found: set[Path] = set()
    for column in table.added:
        elsewhere = renamed.get(column.path)
        old = elsewhere or retired.get(column.path)
        if old is None or not column.wire:
            continue
        # What is around it may have another name by now: if that is another field, it is found itself.
        was, now = old.name.rpartition(".")[2], column.full_name.rpartition(".")[2]
        if elsewhere is not None:
            if column.path[:-1] in found:
                continue
        elif (was == now and old.wire == column.wire) or (
            old.left_out and may_be_one_field(old, column)
        ):
            continue
        found.add(column.path)
        yield _reused(table, old, column.full_name, column.wire, column.position, column.path)
    paths = [column.path for column in flat(table.new.columns)]
    for path, dropped in table.dropped.items():
        field = table.field_at(path)
        if field is None or not any(own[: len(path)] == path for own in paths):
            continue
        above, dot, was = dropped.name.rpartition(".")
        wire = field_wire(field)
        if was != field.name or (
            dropped.wire != wire
            and (dropped.gone or wire_rule(Wire.of(dropped.wire), Wire.of(wire)))
        ):
            name = f"{above}{dot}{field.name}"
            yield _reused(table, dropped, name, wire, field.position, path)


def _reused(
    table: TableChange,
    old: LockedColumn | DroppedField,
    name: str,
    wire: str,
    position: Position,
    path: Path,
) -> Change:
    return Change(
        table.path(name),
        position,
        f"`{old.name}` ({Wire.of(old.wire)})",
        f"`{name}` ({Wire.of(wire)}) under the same number",
        path,
    )


@_table(
    Rule(
        "FIELD_SAME_NAME",
        "A field keeps its name.",
        "strict",
        "queries that name the column fail or find nothing in new files",
        "take the old name back, or declare the rename under evolution: renames",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    for old, new, _broken in table.pairs:
        was, now = old.name.rpartition(".")[2], new.full_name.rpartition(".")[2]
        if was != now and new.path not in table.renamed and new.wire not in ("", "oneof"):
            yield Change(table.path(new.full_name), new.position, f"`{was}`", f"`{now}`", new.path)


@_table(
    Rule(
        "FIELD_SAME_CARDINALITY",
        "A field that was singular, repeated or a map stays that.",
        "wire",
        "old files hold a list where new ones hold a value, or the reverse: no reader takes both "
        "as "
        "one column",
        "add a new field with a new number, and reserve the old one",
        replaces=True,
    )
)
def _(table: TableChange) -> Iterator[Change]:
    return _wires("FIELD_SAME_CARDINALITY", table)


@_table(
    Rule(
        "FIELD_WIRE_COMPATIBLE_TYPE",
        "A field keeps a type that is the same on the wire.",
        "wire",
        "old messages (in `_raw`, dead letters and upstream) cannot be decoded any more, and old "
        "files hold a column of another type",
        "add a new field with a new number, and reserve the old one",
        replaces=True,
    )
)
def _(table: TableChange) -> Iterator[Change]:
    return _wires("FIELD_WIRE_COMPATIBLE_TYPE", table)


@_table(
    Rule(
        "FIELD_SAME_TYPE",
        "A field keeps its type, or gets a wider one.",
        "archive",
        "values of old files do not fit the new column, or mean something else in it",
        "add a new field with a new number, and reserve the old one",
        replaces=True,
    )
)
def _(table: TableChange) -> Iterator[Change]:
    return _wires("FIELD_SAME_TYPE", table)


@_table(
    Rule(
        "FIELD_SAME_ONEOF",
        "A field stays in its oneof, or outside of any.",
        "archive",
        "old rows can have two members of one oneof set, which no message can hold",
        "add a new field with a new number to the oneof, and reserve the old one",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    def oneofs(path: Path, name: str) -> tuple[Path, str]:
        return path[:-1], name

    were: dict[tuple[Path, str], set[str]] = {}
    are: dict[tuple[Path, str], set[str]] = {}
    for old, new, _broken in table.pairs:
        were.setdefault(oneofs(new.path, old.oneof), set()).add(new.oneof)
        are.setdefault(oneofs(new.path, new.oneof), set()).add(old.oneof)
    for old, new, _broken in table.pairs:
        if old.oneof == new.oneof:
            continue
        # A oneof that as a whole has another name is the same.
        alone = len(were[oneofs(new.path, old.oneof)]) == len(are[oneofs(new.path, new.oneof)]) == 1
        if old.oneof and new.oneof and alone:
            continue
        yield Change(
            table.path(new.full_name),
            new.position,
            f"in the oneof `{old.oneof}`" if old.oneof else "in no oneof",
            f"in the oneof `{new.oneof}`" if new.oneof else "in no oneof",
            new.path,
        )


@_table(
    Rule(
        "MESSAGE_SAME_REQUIRED_FIELDS",
        "No field becomes `required`.",
        "wire",
        "messages without it, which were valid, are none any more for strict readers; and the column, "
        "which cannot be null, has the same for absent and for empty",
        "make the field optional",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    for old, new, broken in table.pairs:
        became = Wire.of(new.wire).presence == "required"
        if became and Wire.of(old.wire).presence != "required" and broken not in REPLACING:
            yield Change(
                table.path(new.full_name),
                new.position,
                str(Wire.of(old.wire)),
                "required",
                new.path,
            )
    for column in table.added:
        above = [column.path[:n] for n in range(1, len(column.path)) if column.path[n - 1] > 0]
        known = all(path in table.before or table.field_at(path) is not None for path in above)
        fresh = any(path not in table.before and _is_column(table, path) for path in above)
        if Wire.of(column.wire).presence == "required" and known and not fresh:
            yield Change(
                table.path(column.full_name), column.position, "not there", "required", column.path
            )


def _is_column(table: TableChange, path: Path) -> bool:
    return any(column.path == path for column in flat(table.new.columns))


@_table(
    Rule(
        "COLUMN_TYPE_CHANGED",
        "A rule does not make another type of column of the same field.",
        "archive",
        "values of old files do not fit the new column, or mean something else in it",
        "take the rule back, or add a new field with a new number and give it the rule; accept it for a "
        "message that had no fields and has now",
        replaces=True,
    )
)
def _(table: TableChange) -> Iterator[Change]:
    return _types("COLUMN_TYPE_CHANGED", table)


@_table(
    Rule(
        "COLUMN_TYPE_NARROWED",
        "A column's type gets no narrower.",
        "archive",
        "values of old files may not fit any more",
        "keep the wider type",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    return _types("COLUMN_TYPE_NARROWED", table)


@_table(
    Rule(
        "COLUMN_SAME_SCALE",
        "A decimal column keeps its scale.",
        "archive",
        "values of old files have other digits behind the point: read as one column they are "
        "rounded, "
        "or do not fit",
        "keep the scale; a larger precision is fine",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    return _types("COLUMN_SAME_SCALE", table)


@_table(
    Rule(
        "COLUMN_SAME_UNIT",
        "A column of time keeps its unit.",
        "archive",
        "readers that go by the numbers are wrong by factors of a thousand, and finer units do not "
        "reach as far",
        "keep the unit: a rule `unit` on the column, where the default changed",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    return _types("COLUMN_SAME_UNIT", table)


@_table(
    Rule(
        "COLUMN_SAME_NESTING",
        "A message that is a struct stays one, and a flattened one stays flattened.",
        "archive",
        "the columns are found at one place in old files and at another in new ones",
        "take the `flatten` rule back",
        replaces=True,
    )
)
def _(table: TableChange) -> Iterator[Change]:
    yield from table.nesting


@_table(
    Rule(
        "COLUMN_MADE_REQUIRED",
        "A column that may be null stays nullable.",
        "archive",
        "old files hold nulls in it: whether a value was absent or zero is lost, or reading fails",
        "keep the field `optional`, or the rule that made its column nullable",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    for old, new, broken in table.pairs:
        required = Wire.of(new.wire).presence == "required"
        if old.nullable and not new.nullable and broken not in REPLACING and not required:
            yield Change(
                table.path(new.full_name), new.position, "nullable", "not nullable", new.path
            )


@_table(
    Rule(
        "PARTITION_SAME",
        "A table stays partitioned as it is.",
        "archive",
        "old and new files lie in folders of different kinds: engines that take partitions from "
        "folder names read them wrong or not at all",
        "keep the partition; a table's other partitions can be chosen for one archive at run time",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    now = tuple(level_of(table.new, name) for name in table.new.partition_by)
    if now != table.old.partition_by:
        yield Change(
            table.new.name,
            table.rules.position("tables", table.new.name, "partition_by"),
            _listed(table.old.partition_by, "partitioned by ", "not partitioned"),
            _listed(now, "partitioned by ", "not partitioned"),
        )


@_table(
    Rule(
        "SORT_SAME",
        "A table stays sorted as it is.",
        "archive",
        "answers stay right; queries by what the rows were sorted by skip less of new files",
        "keep the order",
        severity="warning",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    names = {old.name: new.full_name for old, new, _ in table.pairs}
    was = tuple(names.get(name, name) for name in table.old.sort_by)
    if table.new.sort_by != was:
        yield Change(
            table.new.name,
            table.rules.position("tables", table.new.name, "sort_by"),
            _listed(was, "sorted by ", "not sorted"),
            _listed(table.new.sort_by, "sorted by ", "not sorted"),
        )


def _listed(names: tuple[str, ...], before: str, none: str) -> str:
    return before + ", ".join(names) if names else none


@_table(
    Rule(
        "LOSSLESS_SAME",
        "A lossless table stays lossless.",
        "archive",
        "what the columns cannot hold (unknown fields of newer messages, values that a rule cannot "
        "parse) is dropped from now on",
        "keep `lossless: true`",
    )
)
def _(table: TableChange) -> Iterator[Change]:
    if () in table.old.present() and not table.new.program.raw:
        yield Change(
            table.new.name,
            table.rules.position("tables", table.new.name, "lossless"),
            "lossless",
            "not",
        )


@_enum(
    Rule(
        "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED",
        "A value that goes leaves its number reserved.",
        "archive",
        "a later value could take the number, and old messages would be read as that",
        "reserve the number in the enum",
    )
)
def _(enum: EnumChange) -> Iterator[Change]:
    for number, name in _gone_values(enum):
        if not enum.new.reserved.has(number):
            yield Change(
                f"{enum.new.full_name}.{name}",
                enum.new.position,
                f"the value {number}",
                f"gone, and `reserved {number};` is not there",
            )


@_enum(
    Rule(
        "ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED",
        "A value that goes leaves its name reserved.",
        "strict",
        "a later value could take the name, and mean something else than the rows that hold it",
        "reserve the name in the enum",
    )
)
def _(enum: EnumChange) -> Iterator[Change]:
    for number, name in _gone_values(enum):
        if enum.new.reserved.has(number) and name not in enum.new.reserved.names:
            yield Change(
                f"{enum.new.full_name}.{name}",
                enum.new.position,
                f"the value {number}",
                f'gone, and `reserved "{name}";` is not there',
            )


def _gone_values(enum: EnumChange) -> list[tuple[int, str]]:
    numbers = {value.number for value in enum.new.values}
    return [(number, name) for number, name in enum.old.values if number not in numbers]


@_enum(
    Rule(
        "ENUM_VALUE_SAME_NAME",
        "The name that a number is archived under stays.",
        "archive",
        "rows of old files hold the old name, rows of new ones the new: a query for either misses "
        "the other",
        "keep the old name first; `option allow_alias = true` lets a second name stand after it",
    )
)
def _(enum: EnumChange) -> Iterator[Change]:
    was: dict[int, str] = {}
    for number, name in enum.old.values:
        was.setdefault(number, name)
    seen: set[int] = set()
    for value in enum.new.values:
        old = was.get(value.number, value.name)
        if enum.as_text and value.number not in seen and old != value.name:
            yield Change(
                f"{enum.new.full_name}.{old}",
                value.position,
                f"the name of {value.number}",
                f"`{value.name}`",
            )
        seen.add(value.number)


@_enum(
    Rule(
        "ENUM_SAME_TYPE",
        "An open enum stays open, and a closed one closed.",
        "strict",
        "a number without a name is a value of the column before the change and an unknown field "
        "after it, or the reverse",
        "set `features.enum_type` as it was",
    )
)
def _(enum: EnumChange) -> Iterator[Change]:
    if enum.old.closed != enum.new.closed:
        forms = ("open", "closed")
        yield Change(
            enum.new.full_name, enum.new.position, forms[enum.old.closed], forms[enum.new.closed]
        )


@_enum(
    Rule(
        "RESERVED_ENUM_NO_DELETE",
        "What an enum reserves stays reserved.",
        "archive",
        "a number or name of a value that is gone can be given to another",
        "put the `reserved` statement back",
    )
)
def _(enum: EnumChange) -> Iterator[Change]:
    return _released(enum.old.reserved, enum.new)


@_message(
    Rule(
        "RESERVED_MESSAGE_NO_DELETE",
        "What a message reserves stays reserved.",
        "archive",
        "a number or name of a field that is gone can be given to another",
        "put the `reserved` statement back",
    )
)
def _(message: MessageChange) -> Iterator[Change]:
    return _released(message.reserved, message.new)


def _released(reserved: Reserved, new: Enum | Message) -> Iterator[Change]:
    free = [
        str(first) if first == last else f"{first} to {last}"
        for first, last in reserved.ranges
        if not _covered(first, last, new.reserved)
    ]
    free += [f'"{name}"' for name in reserved.names if name not in new.reserved.names]
    if free:
        was = f"reserving {', '.join(free)}"
        yield Change(new.full_name, new.position, was, "not reserving it any more")


def _covered(first: int, last: int, reserved: Reserved) -> bool:
    """Whether a range is reserved, be it by several ranges."""
    for low, high in sorted(reserved.ranges):
        if low <= first <= high:
            first = high + 1
    return first > last
