"""A table, an enum or a message as it was and as it is: which column is which, and what became of
it.

What was comes from the lock, what is from the plan. `cdpgen.checks` says which of the changes found
here are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cdpgen import descriptors
from cdpgen.descriptors import Enum, Message, Reserved
from cdpgen.errors import Position
from cdpgen.lock import (
    DroppedField,
    LockedColumn,
    LockedEnum,
    LockedTable,
    field_at,
    message_at,
)
from cdpgen.model import Column, Path, Table, flat
from cdpgen.rules import RulesFile

__all__ = [
    "REPLACING",
    "Change",
    "EnumChange",
    "Gone",
    "MessageChange",
    "Pair",
    "TableChange",
    "Wire",
    "may_be_one_field",
    "wire_rule",
]


class Change(NamedTuple):
    """A place where a rule is broken.

    Attributes:
        path: what `accept` and `ignore` call it.
        position: where it is written today.
        was: what it was; follows "was".
        now: what it is; follows "is".
        column: the column that it is about, if any.
    """

    path: str
    position: Position
    was: str
    now: str
    column: Path | None = None


class Wire(NamedTuple):
    """The parts of `Column.wire`."""

    presence: str
    kind: str
    encoding: str
    enum: str

    @classmethod
    def of(cls, text: str) -> Wire:
        """Takes a wire form apart."""
        presence, kind, last = (*text.split(), "", "", "")[:3]
        return cls(presence, kind, "" if kind == "enum" else last, last if kind == "enum" else "")

    def __str__(self) -> str:
        """In the words of a `.proto`."""
        presence = "repeated" if self.presence == "packed" else self.presence
        presence = "" if presence == "implicit" or self.kind == "map" else presence
        kind = self.encoding if self.kind == "json" else self.kind
        return " ".join(part for part in (presence, self.enum or kind) if part)

    @property
    def parsed(self) -> str:
        """How a rule parses text to the bytes or number that the column holds; empty if none does."""
        return "" if self.encoding == "lossy_utf8" else self.encoding

    @property
    def cardinality(self) -> str:
        """`singular`, `repeated` or `a map`."""
        if self.kind == "map":
            return "a map"
        return "repeated" if self.presence in ("repeated", "packed") else "singular"


class Pair(NamedTuple):
    """A column as it was and as it is; `broken` is the rule about its type that it breaks."""

    old: LockedColumn
    new: Column
    broken: str


class Gone(NamedTuple):
    """A field that is no longer there: the column that it had, and the message that it was in."""

    column: LockedColumn | DroppedField
    number: int
    message: Message


@dataclass(slots=True)
class TableChange:
    """A table as it was and as it is, its columns matched.

    Attributes:
        moved: by the path of an old column, that under which a declared rename continues it.
        renamed: the paths of the columns that a declared rename is about.
        before: the columns as they were, by their paths of today; also those that a rule left out, for what
            a rule hides meanwhile may change no more than what it does not.
        dropped: the fields that never had a column, by their paths of today.
    """

    old: LockedTable
    new: Table
    rules: RulesFile
    moved: Mapping[Path, Path] = field(default_factory=dict)
    renamed: frozenset[Path] = frozenset()
    pairs: list[Pair] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    before: Mapping[Path, LockedColumn] = field(default_factory=dict)
    dropped: Mapping[Path, DroppedField] = field(default_factory=dict)
    added: list[Column] = field(default_factory=list)
    nesting: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        new = {column.path: column for column in flat(self.new.columns)}
        known = self.old.going_on()
        old = {self.moved.get(path, path): column for path, column in known.items()}
        self.before = old
        self.dropped = {self.moved.get(each.path, each.path): each for each in self.old.dropped}
        unsettled = self._nesting(old, new)
        for path, column in new.items():
            before = old.get(path)
            if before is None:
                self.added.append(column)
            elif not _within(path, unsettled):
                above = path[:-1]
                owners = (old.get(above), new.get(above)) if not column.wire else (before, column)
                broken = _type_rule(before, column, *owners)
                if broken in REPLACING:
                    unsettled.add(path)
                self.pairs.append(Pair(before, column, broken))
        # Of a field that goes on under another number the old one is free.
        dropped = {path: each for path, each in self.dropped.items() if not each.gone}
        left_out = {each.path: each for each in self.old.columns if each.left_out}
        self._find_gone({**dropped, **left_out, **old, **known}, new)

    def path(self, name: str) -> str:
        """What `accept` and `ignore` call a column."""
        return f"{self.new.name}.{name}"

    def _nesting(self, old: Mapping[Path, LockedColumn], new: Mapping[Path, Column]) -> set[Path]:
        """Finds messages that were columns of their own and are flattened now, or the reverse."""
        found = {
            path[:length]
            for own, other in ((old.keys(), new.keys()), (new.keys(), old.keys()))
            for path in own
            for length in range(1, len(path))
            if path[:length] in other and path[:length] not in own
        }
        for path in sorted(found):
            before, now = old.get(path), new.get(path)
            owner = self.field_at(path)
            name = before.name if before else now.full_name if now else ""
            self.nesting.append(
                Change(
                    path=self.path(name),
                    position=owner.position if owner else self.new.message.position,
                    was=_nesting_of(before.type if before else ""),
                    now=_nesting_of(now.type.text if now else ""),
                    column=path,
                )
            )
        return found

    def _find_gone(
        self, old: Mapping[Path, LockedColumn | DroppedField], new: Mapping[Path, Column]
    ) -> None:
        seen: set[Path] = set()
        for path in sorted(old.keys() - new.keys()):
            for length in range(1, len(path) + 1):
                at = path[:length]
                if at in seen:
                    break
                message = self.message_at(at[:-1])
                if at[-1] > 0 and message is not None and self.field_at(at) is None:
                    seen.add(at)
                    self.gone.append(Gone(old.get(at, old[path]), at[-1], message))
                    break

    def message_at(self, path: Path) -> Message | None:
        """The message whose fields a path's next number would name."""
        return message_at(self.new, path)

    def field_at(self, path: Path) -> descriptors.Field | None:
        """The field that a path leads to."""
        return field_at(self.new, path)


def _nesting_of(type_: str) -> str:
    """What the column of a message is, if it has one."""
    return "a struct" if type_ == "struct" else "bytes" if type_ else "flattened"


class EnumChange(NamedTuple):
    """An enum as it was and as it is; `as_text` when some column holds its names."""

    old: LockedEnum
    new: Enum
    as_text: bool


class MessageChange(NamedTuple):
    """What a message within a table reserved, and the message."""

    reserved: Reserved
    new: Message


# Types

_WIRE_TYPES: Final = {
    **dict.fromkeys(("int32", "int64", "uint32", "uint64", "bool", "enum"), "varint"),
    **dict.fromkeys(("sint32", "sint64"), "zigzag varint"),
    **dict.fromkeys(("fixed32", "sfixed32", "float"), "32 bits"),
    **dict.fromkeys(("fixed64", "sfixed64", "double"), "64 bits"),
    **dict.fromkeys(("string", "bytes"), "bytes"),
    "group": "group",
}
"""What kinds a decoder tells apart; all others are length-prefixed messages."""

_SAFE_KINDS: Final = frozenset(
    {
        ("int32", "int64"),
        ("uint32", "uint64"),
        ("uint32", "int64"),
        ("sint32", "sint64"),
        ("string", "bytes"),
    }
)
_INTEGERS: Final = frozenset({("int32", "int64"), ("uint32", "uint64"), ("uint32", "int64")})
_FLOATS: Final = (("float", "double"), ("double", "float"))
_TEXT: Final = ("string", "large_string", "dictionary")
_BYTES: Final = ("binary", "large_binary")
_TEXTUAL: Final = ("string", "bytes")
_UNITS: Final = ("timestamp", "duration", "time64")

REPLACING: Final = frozenset(
    {
        "FIELD_SAME_CARDINALITY",
        "FIELD_WIRE_COMPATIBLE_TYPE",
        "FIELD_SAME_TYPE",
        "COLUMN_TYPE_CHANGED",
    }
)
"""Rules about types that, broken and accepted, make another column of it."""


def _type_rule(
    old: LockedColumn,
    new: Column,
    old_owner: LockedColumn | None,
    new_owner: Column | None,
) -> str:
    """The rule that a column's change of type breaks, or empty; owners have the wire form."""
    was = Wire.of(old_owner.wire if old_owner else "")
    now = Wire.of(new_owner.wire if new_owner else "")
    if old.wire and new.wire and old.wire != "oneof":
        broken = wire_rule(was, now)
        if broken:
            return broken
        if was.kind in _TEXTUAL and was.parsed != now.parsed:
            return "COLUMN_TYPE_CHANGED"
    if was.kind == now.kind == "float" and (old.type, new.type.text) in _FLOATS:
        return "" if new.type.text == "double" else "COLUMN_TYPE_NARROWED"
    to_bytes = (was.kind, now.kind) == ("string", "bytes") and not now.encoding
    return _arrow_rule(old.type, new.type.text, to_bytes and not was.parsed)


def wire_rule(was: Wire, now: Wire) -> str:
    """The rule that a change of a field on the wire breaks, or empty."""
    if was.cardinality != now.cardinality:
        return "FIELD_SAME_CARDINALITY"
    if was.kind != now.kind:
        message = "message"
        if _WIRE_TYPES.get(was.kind, message) != _WIRE_TYPES.get(now.kind, message):
            return "FIELD_WIRE_COMPATIBLE_TYPE"
        if (was.kind, now.kind) not in _SAFE_KINDS:
            return "FIELD_SAME_TYPE"
    if was.enum != now.enum or (was.kind == "json" and was.encoding != now.encoding):
        return "FIELD_SAME_TYPE"
    return ""


def may_be_one_field(old: LockedColumn, new: Column) -> bool:
    """Whether the fields of two columns of one number may be one that changed as it safely can."""
    return not _type_rule(old, new, old, new).startswith("FIELD_")


def _arrow_rule(old: str, new: str, to_bytes: bool) -> str:
    """The rule that a change from one Arrow type to another breaks, or empty where it widens."""
    if old == new or (old, new) in _INTEGERS:
        return ""
    was, now = _base(old), _base(new)
    if was == now == "decimal":
        (precision, scale), (new_precision, new_scale) = _numbers(old), _numbers(new)
        if scale != new_scale:
            return "COLUMN_SAME_SCALE"
        return "" if new_precision >= precision else "COLUMN_TYPE_NARROWED"
    if was == now and was in _UNITS:
        return "COLUMN_SAME_UNIT"
    if was in _TEXT and (now in _TEXT or (to_bytes and now in _BYTES)):
        return ""
    if was in (*_BYTES, "fixed_size_binary") and now in _BYTES:
        return ""
    if (new, old) in _INTEGERS or (was in _BYTES and now == "fixed_size_binary"):
        return "COLUMN_TYPE_NARROWED"
    return "COLUMN_TYPE_CHANGED"


def _base(type_: str) -> str:
    """The name of a type without its parameters; decimals of any width are one."""
    return (
        re.split(r"[\[(<]", type_)[0]
        .replace("decimal128", "decimal")
        .replace("decimal256", "decimal")
    )


def _numbers(decimal: str) -> tuple[int, int]:
    precision, scale = re.findall(r"-?\d+", decimal.partition("(")[2])
    return int(precision), int(scale)


def _within(path: Path, roots: set[Path]) -> bool:
    return any(path[:length] in roots for length in range(1, len(path) + 1))
