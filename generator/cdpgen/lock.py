"""`schemas/cdpgen.lock`: what has been archived so far, and the ids that columns keep for good.

For each table its versions, and for each column ever written its id, the path of field numbers,
name, type, nullability and whether it is retired; the fields that never had a column, as a rule
drops them; for their enums the values, and what messages and enums reserve. One column or value a
line, so that a schema change is a readable diff; no dates, so that the same schemas make the same
lock.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar

from cdp_runtime.program import Program
from cdpgen.descriptors import Field, Message, Reserved
from cdpgen.errors import UsageError, not_utf8
from cdpgen.model import Column, Path, Plan, Table, flat

__all__ = [
    "LOCK_NAME",
    "DroppedField",
    "Going",
    "Lock",
    "LockedColumn",
    "LockedEnum",
    "LockedTable",
    "Version",
    "assign",
    "field_at",
    "field_wire",
    "known_column",
    "level_of",
    "lock_plan",
    "message_at",
    "read_lock",
    "write_lock",
]

T = TypeVar("T", bound="LockedTable | LockedColumn | DroppedField | Version")

LOCK_NAME: Final = "cdpgen.lock"

_FORMAT: Final = 1
_HOW_TO_MERGE: Final = (
    "Both branches changed this table. Keep the side of the branch that was merged, and may have "
    "archived, first, and drop the other with the lines `<<<<<<<`, `=======` and `>>>>>>>`; then run "
    "`cdpgen build` again: it gives the columns of the other branch new ids."
)


@dataclass(frozen=True, slots=True)
class LockedColumn:
    """One column, present or retired; `wire` and `oneof` are those of `model.Column`.

    Attributes:
        left_out: whether it is retired by a rule alone: its field has been in the `.proto` ever since.
        within: of one that is left out, the id of the column that it was within; 0 for none.
        was: the paths that it had before declared renames gave it others.
    """

    id: int
    path: Path
    name: str
    type: str
    nullable: bool
    wire: str
    retired: bool
    oneof: str = ""
    left_out: bool = False
    within: int = 0
    was: tuple[Path, ...] = ()

    def moved(self, path: Path) -> LockedColumn:
        """The column under another path; the one that it had is remembered."""
        if path == self.path:
            return self
        was = tuple(former for former in (*self.was, self.path) if former != path)
        return replace(self, path=path, was=was)


@dataclass(frozen=True, slots=True)
class DroppedField:
    """A field that never had a column, as a rule has dropped it since it is there; `_raw` may have it.

    Attributes:
        name: as that of its column would be.
        wire: that of `field_wire`.
        gone: whether it is no longer in the `.proto`.
    """

    path: Path
    name: str
    wire: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a table: the fingerprint of its schema and program."""

    version: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class LockedTable:
    """What was archived of one table.

    Attributes:
        accepted: the breaking changes that were accepted so far, in the order of their versions, as `RULE path:
            was x, is y`; those of an earlier cdpgen as `RULE path`.
    """

    name: str
    next_id: int = 1
    retired: bool = False
    partition_by: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()
    columns: tuple[LockedColumn, ...] = ()
    dropped: tuple[DroppedField, ...] = ()
    accepted: tuple[str, ...] = ()

    def present(self) -> dict[Path, LockedColumn]:
        """The columns that are not retired, by path."""
        return {column.path: column for column in self.columns if not column.retired}

    def paths(self) -> set[Path]:
        """The paths of all columns, and of the fields that never had one."""
        return {each.path for part in (self.columns, self.dropped) for each in part}

    def going_on(self) -> dict[Path, LockedColumn]:
        """The columns that are present, and those that would be if no rule left them out, by path.

        One that is left out has to be where it was: a column at the top is another one than one within a
        struct, and one within a struct than one within another that has taken the place of that.
        """
        found = self.present()
        left_out = [column for column in self.columns if column.left_out]
        if not left_out:
            return found
        ids = {path: column.id for path, column in found.items()}
        flattened = {path[:end] for path in found for end in range(1, len(path))} - ids.keys()
        for column in sorted(left_out, key=lambda column: column.path):
            if column.path not in flattened and column.within == _around(ids, column.path):
                found.setdefault(column.path, column)
                ids.setdefault(column.path, column.id)
        return found


@dataclass(frozen=True, slots=True)
class LockedEnum:
    """An enum that some column holds; `values` are in the order of its `.proto`."""

    closed: bool
    values: tuple[tuple[int, str], ...]
    reserved: Reserved


@dataclass(frozen=True, slots=True)
class Lock:
    """The whole lock.

    Attributes:
        path: the file as shown to the user.
        enums: the enums that columns hold or held, by full name, as they were when one last did.
        reserved: of the messages that are or were within tables and reserve anything, what.
        lines: in which line of the file each table begins.
    """

    path: str
    tables: Mapping[str, LockedTable] = field(default_factory=dict)
    enums: Mapping[str, LockedEnum] = field(default_factory=dict)
    reserved: Mapping[str, Reserved] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)


def read_lock(path: FilePath) -> Lock:
    """Reads a lock.

    Args:
        path: the file; where it is missing nothing has been archived yet.

    Raises:
        UsageError: it holds conflict markers, is not of this format, or gives an id twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Lock(str(path))
    except UnicodeDecodeError:
        raise UsageError(f"{not_utf8(str(path), path.read_bytes())}, or take it from git") from None
    conflict = re.search(r"^(<{7}|={7}|>{7})", text, re.MULTILINE)
    if conflict:
        line = text.count("\n", 0, conflict.start()) + 1
        raise UsageError(f"{path}:{line}:1: git left a merge conflict here. {_HOW_TO_MERGE}")
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}. Was it edited by hand? "
            "`git checkout` brings it back; `cdpgen build` writes it"
        ) from None
    except (RecursionError, ValueError) as error:  # a number of thousands of digits
        raise UsageError(
            f"{path}:1:1: not a lock that cdpgen wrote ({error}); `git checkout` brings it back"
        ) from None
    except _TwiceError as error:
        raise UsageError(
            f"{path}:{_line_of(text, error.key, 2)}:1: `{error.key}` stands here twice. "
            "Keep one of the two (of two `next_id` the larger) and build again"
        ) from None
    if not isinstance(data, dict) or data.get("version") != _FORMAT:
        raise UsageError(
            f"{path}:1:1: not a lock of format {_FORMAT}; it may be of a newer cdpgen: upgrade "
            "cdpgen"
        )
    try:
        tables = {name: _table(name, value) for name, value in data["tables"].items()}
        enums = {name: _enum(value) for name, value in data["enums"].items()}
        reserved = {name: _reserved(value) for name, value in data["messages"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path}:1:1: not a lock that cdpgen wrote ({type(error).__name__}: {error}); "
            "`git checkout` brings it back"
        ) from None
    problems = [problem for table in tables.values() for problem in _problems(path, text, table)]
    if problems:
        raise UsageError("\n".join(problems))
    keys = (re.match(r'\s*"([\w.]+)": \{', line) for line in text.splitlines())
    lines = {key[1]: i for i, key in enumerate(keys, 1) if key}
    return Lock(str(path), tables, enums, reserved, lines)


class _TwiceError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key)
        found[key] = value
    return found


def _line_of(text: str, key: str, occurrence: int) -> int:
    """The line in which a key stands for the nth time within one object, as far as lines tell."""
    lines = [
        i for i, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith(f'"{key}":')
    ]
    return lines[min(occurrence, len(lines)) - 1] if lines else 1


_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "int": lambda value: type(value) is int,
    "bool": lambda value: type(value) is bool,
    "str": lambda value: type(value) is str,
    "tuple[str, ...]": lambda value: all(type(item) is str for item in value),
}
"""What the values of the attributes of a lock have to be, by their annotations; others are made so."""
_CHECKS: Final[Mapping[type[Any], list[tuple[str, Callable[[Any], bool]]]]] = {
    of: [(each.name, _KINDS[str(each.type)]) for each in fields(of) if str(each.type) in _KINDS]
    for of in (LockedTable, LockedColumn, DroppedField, Version)
}
"""The attributes of each class that are of such a kind, with what tells that."""


def _checked(made: T) -> T:
    """What was made of JSON as it is; whoever edits a lock may leave a number where a text belongs."""
    for name, is_fine in _CHECKS[type(made)]:
        value = getattr(made, name)
        if not is_fine(value):
            raise TypeError(f"{name} is {value!r}")
    return made


def _table(name: str, data: Mapping[str, Any]) -> LockedTable:
    found = LockedTable(
        name=name,
        next_id=int(data["next_id"]),
        retired=bool(data["retired"]),
        partition_by=tuple(data["partition_by"]),
        sort_by=tuple(data["sort_by"]),
        versions=tuple(Version(item["version"], item["fingerprint"]) for item in data["versions"]),
        columns=tuple(
            LockedColumn(
                id=item["id"],
                path=tuple(int(part) for part in item["path"]),
                name=item["name"],
                type=item["type"],
                nullable=item["nullable"],
                wire=item["wire"],
                retired=item["retired"],
                oneof=item.get("oneof", ""),
                left_out=item.get("left_out", False),
                within=item.get("within", 0),
                was=tuple(tuple(map(int, path)) for path in item.get("was", ())),
            )
            for item in data["columns"]
        ),
        dropped=tuple(
            DroppedField(
                path=tuple(map(int, item["path"])),
                name=item["name"],
                wire=item["wire"],
                gone=item["gone"],
            )
            for item in data.get("dropped", ())
        ),
        accepted=tuple(data["accepted"]),
    )
    for part in (found.versions, found.columns, found.dropped):
        for each in part:
            _checked(each)
    return _checked(found)


def _enum(data: Mapping[str, Any]) -> LockedEnum:
    values = tuple((int(number), str(name)) for number, name in data["values"])
    return LockedEnum(bool(data["closed"]), values, _reserved(data))


def _reserved(data: Mapping[str, Any]) -> Reserved:
    ranges = tuple((int(first), int(last)) for first, last in data["reserved"])
    return Reserved(ranges, tuple(data["reserved_names"]))


def _problems(path: FilePath, text: str, table: LockedTable) -> Iterable[str]:
    """What a merge of two branches can leave: ids and versions given twice."""
    ids: dict[int, LockedColumn] = {}
    paths: dict[Path, LockedColumn] = {}
    for column in table.columns:
        other = ids.setdefault(column.id, column)
        if other is not column:
            yield (
                f"{path}:{_line_of_column(text, table.name, column)}:1: {table.name}: id "
                f"{column.id} is given to both `{other.name}` and `{column.name}`. Keep the line "
                "of the one that is in archived files already (that of the branch merged first), "
                "delete the other's line, and build again: it gets a new id"
            )
        if not column.retired:
            other = paths.setdefault(column.path, column)
            if other is not column and other.id != column.id:
                yield (
                    f"{path}:{_line_of_column(text, table.name, column)}:1: {table.name}: "
                    f"`{column.name}` has both id {other.id} and id {column.id}. Keep the line "
                    "that is in archived files already, delete the other, and build again"
                )
    versions = [version.version for version in table.versions]
    if len(set(versions)) != len(versions):
        yield (
            f"{path}:{_line_of(text, table.name, 1)}:1: {table.name}: a version stands here twice. "
            "Keep one line for each version and build again: what both branches changed is then "
            "one more version"
        )
    if table.next_id <= max(ids, default=0):
        yield (
            f"{path}:{_line_of(text, table.name, 1)}:1: {table.name}: `next_id` is "
            f"{table.next_id}, but id {max(ids)} is taken; write {max(ids) + 1}"
        )


def _line_of_column(text: str, table: str, column: LockedColumn) -> int:
    lines = text.splitlines()
    start = _line_of(text, table, 1)
    wanted = _column_line(column)
    return next(
        (i for i in range(start, len(lines) + 1) if lines[i - 1].strip().rstrip(",") == wanted),
        start,
    )


def write_lock(lock: Lock) -> str:
    """The lock as text: tables by name, columns by path, one a line."""
    lines = ["{", f'  "version": {_FORMAT},', '  "tables": {']
    tables = sorted(lock.tables.values(), key=lambda table: table.name)
    for i, table in enumerate(tables):
        lines += [
            f"    {json.dumps(table.name)}: {{",
            f'      "retired": {json.dumps(table.retired)},',
            f'      "partition_by": {json.dumps(list(table.partition_by))},',
            f'      "sort_by": {json.dumps(list(table.sort_by))},',
            f'      "accepted": {json.dumps(list(table.accepted))},',
            '      "versions": [',
            *_separated(
                json.dumps({"version": version.version, "fingerprint": version.fingerprint})
                for version in table.versions
            ),
            "      ],",
            *_dropped_lines(table),
            f'      "next_id": {table.next_id},',
            '      "columns": [',
            *_separated(_column_line(column) for column in sorted(table.columns, key=_order)),
            "      ]",
            "    }" + ("," if i + 1 < len(tables) else ""),
        ]
    lines += ["  },", '  "enums": {']
    for i, (name, enum) in enumerate(sorted(lock.enums.items())):
        lines += [
            f"    {json.dumps(name)}: {{",
            f'      "closed": {json.dumps(enum.closed)},',
            *(f"      {line}," for line in _reserved_lines(enum.reserved)),
            '      "values": [',
            *_separated(json.dumps(value) for value in enum.values),
            "      ]",
            "    }" + ("," if i + 1 < len(lock.enums) else ""),
        ]
    lines += ["  },", '  "messages": {']
    for i, (name, reserved) in enumerate(sorted(lock.reserved.items())):
        inside = ", ".join(_reserved_lines(reserved))
        lines.append(f"    {json.dumps(name)}: {{{inside}}}" + "," * (i + 1 < len(lock.reserved)))
    lines += ["  }", "}", ""]
    return "\n".join(lines)


def _reserved_lines(reserved: Reserved) -> list[str]:
    return [
        f'"reserved": {json.dumps(reserved.ranges)}',
        f'"reserved_names": {json.dumps(reserved.names)}',
    ]


def _dropped_lines(table: LockedTable) -> list[str]:
    if not table.dropped:
        return []
    fields = sorted(table.dropped, key=lambda dropped: dropped.path)
    return [
        '      "dropped": [',
        *_separated(json.dumps(asdict(each)) for each in fields),
        "      ],",
    ]


def _order(column: LockedColumn) -> tuple[bool, Path, int]:
    # `_raw`, whose path is empty, stands last: with the others before it, a line added by each of
    # two branches merges without a quarrel over commas.
    return (not column.path, column.path, column.id)


def _separated(lines: Iterable[str]) -> list[str]:
    indented = [f"        {line}" for line in lines]
    return [f"{line}," for line in indented[:-1]] + indented[-1:]


def _column_line(column: LockedColumn) -> str:
    shown = {
        "id": column.id,
        "path": list(column.path),
        "name": column.name,
        "type": column.type,
        "nullable": column.nullable,
        "wire": column.wire,
        "oneof": column.oneof,
        "retired": column.retired,
        "left_out": column.left_out,
        "within": column.within,
        "was": [list(path) for path in column.was],
    }
    for rare in ("oneof", "left_out", "within", "was"):
        if not shown[rare]:
            del shown[rare]
    return json.dumps(shown)


@dataclass(frozen=True, slots=True)
class Going:
    """How the columns of a table go on, where that does not follow from their paths.

    Attributes:
        replaced: paths whose column is another one now, although the number is the same (an
            accepted change): the old column is retired, the new one gets an id of its own.
        moved: by the path of a column in the lock, the path under which it goes on (a declared
            rename to another number), also of those that are retired within it.
        accepted: the breaking changes that are accepted, as the lock has them.
    """

    replaced: frozenset[Path] = frozenset()
    moved: Mapping[Path, Path] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()


def lock_plan(
    plan: Plan, known: Lock, going: Mapping[str, Going] | None = None
) -> tuple[list[Table], Lock]:
    """Gives the columns of all tables their ids.

    Args:
        plan: the tables as planned.
        known: the lock so far.
        going: by table, how its columns go on.

    Returns:
        The tables with ids and versions, and the new lock; a table that is gone is retired in it.
    """
    tables = []
    locked = {name: replace(table, retired=True) for name, table in known.tables.items()}
    for name, how in (going or {}).items():
        if name in locked:
            locked[name] = replace(locked[name], accepted=how.accepted)
    for table in plan.tables:
        old = known.tables.get(table.name)
        how = (going or {}).get(table.name) or Going(accepted=old.accepted if old else ())
        made, locked[table.name] = assign(old, table, how)
        tables.append(made)
    # What no column holds today, as a rule leaves it out, may come back, and files have it.
    held = {
        column.wire.rpartition(" ")[2]
        for table in locked.values()
        for column in table.columns
        if not column.retired or column.left_out
    }
    enums = {
        **{name: enum for name, enum in known.enums.items() if name in held},
        **{
            name: LockedEnum(
                enum.closed,
                tuple((value.number, value.name) for value in enum.values),
                enum.reserved,
            )
            for table in plan.tables
            for name, enum in table.enums.items()
        },
    }
    messages = {name for table in plan.tables for name in table.comments}
    reserved = {
        **{name: kept for name, kept in known.reserved.items() if name not in messages},
        **{
            name: own
            for name in messages
            if (own := plan.schemas.messages[name].reserved).ranges or own.names
        },
    }
    return tables, Lock(known.path, locked, enums, reserved)


def assign(known: LockedTable | None, table: Table, going: Going) -> tuple[Table, LockedTable]:
    """Gives a table's columns their ids: the known ones theirs, new ones the next free.

    Args:
        known: what the lock has of the table; None for a new one.
        table: the table as planned.
        going: how its columns go on.

    Returns:
        The table with ids, version and fingerprint, and what the lock then says of it.
    """
    known = known or LockedTable(table.name)
    moved = (old.moved(going.moved.get(old.path, old.path)) for old in known.columns)
    known = replace(known, columns=tuple(moved))
    before = known.going_on()
    retired = {
        (old.path, old.name, old.type, old.nullable, old.wire): old
        for old in sorted(known.columns, key=lambda old: old.id)
        if old.retired and not old.left_out
    }
    next_id = known.next_id
    ids: dict[Path, int] = {}
    columns: list[LockedColumn] = []
    kept: set[int] = set()
    oneofs: set[tuple[Path, str, str]] = set()
    for column in flat(table.columns):
        old = None
        if column.path not in going.replaced:
            type_ = column.type.text
            as_it_is = (column.path, column.full_name, type_, column.nullable, column.wire)
            old = known_column(before, column, table)
            if old is None or (old.left_out and old.within != _around(ids, column.path)):
                old = retired.get(as_it_is)
        if old is None:
            number, next_id = next_id, next_id + 1
        else:
            number = old.id
            kept.add(number)
            oneofs.add((column.path[:-1], old.oneof, column.oneof))
        ids[column.path] = number
        columns.append(
            LockedColumn(
                id=number,
                path=column.path,
                name=column.full_name,
                type=column.type.text,
                nullable=column.nullable,
                wire=column.wire,
                retired=False,
                oneof=column.oneof,
                was=old.was if old is not None else (),
            )
        )
    ids_before = {path: column.id for path, column in before.items()}
    for old in known.columns:
        if old.id in kept:
            continue
        since = not old.retired or old.left_out
        if since and old.path not in ids and _is_there(table, old.path):
            within = old.within if old.retired else _around(ids_before, old.path)
            # A oneof that has another name is the same to all its members.
            field = field_at(table, old.path)
            oneof = field.oneof if field is not None and old.oneof else ""
            if not oneof or (old.path[:-1], old.oneof, oneof) not in oneofs:
                oneof = old.oneof
            old = replace(old, retired=True, left_out=True, within=within, oneof=oneof)
        else:
            old = replace(old, retired=True, left_out=False, within=0)
        columns.append(old)
    dropped = dict(_dropped_fields(table))
    for former in known.dropped:
        path = going.moved.get(former.path, former.path)
        now = dropped.get(path)
        is_renamed = now is not None and not former.gone and now.wire == former.wire
        dropped[path] = replace(
            former,
            path=path,
            name=now.name if now is not None and is_renamed else former.name,
            gone=former.gone or field_at(table, path) is None,
        )
    own = {old.path for old in columns}
    own |= {path[:end] for path in ids for end in range(1, len(path))}
    fingerprint = fingerprint_of(table, ids)
    versions = known.versions
    if not versions or versions[-1].fingerprint != fingerprint:
        versions = (
            *versions,
            Version(max((v.version for v in versions), default=0) + 1, fingerprint),
        )
    locked = LockedTable(
        name=table.name,
        next_id=next_id,
        partition_by=tuple(level_of(table, name) for name in table.partition_by),
        sort_by=table.sort_by,
        versions=versions,
        columns=tuple(columns),
        dropped=tuple(each for path, each in dropped.items() if path not in own),
        accepted=going.accepted,
    )
    return table.locked(ids, {one.version: one.fingerprint for one in versions}), locked


def _around(ids: Mapping[Path, int], path: Path) -> int:
    """The id of the column that another is within; 0 at the top, and within a message that is flattened."""
    return next((ids[path[:end]] for end in range(len(path) - 1, 0, -1) if path[:end] in ids), 0)


def _is_there(table: Table, path: Path) -> bool:
    """Whether the field of a column is in the `.proto`; of a case column, the first of the oneof."""
    while path[-1:] == (0,):
        path = path[:-1]
    return bool(path) and field_at(table, (*path[:-1], abs(path[-1]))) is not None


def field_at(table: Table, path: Path) -> Field | None:
    """The field that a path leads to."""
    message = message_at(table, path[:-1]) if path else None
    if message is None:
        return None
    known = [*message.fields, *table.extensions.get(message.full_name, ())]
    return next((item for item in known if item.number == path[-1]), None)


def field_wire(field: Field) -> str:
    """A field on the wire, as far as its declaration alone tells that: `implicit string`."""
    return f"{field.presence} {'map' if field.is_map else field.type}"


def _dropped_fields(table: Table) -> Iterator[tuple[Path, DroppedField]]:
    """The fields that rules drop, by their paths."""
    left: list[tuple[Program, Path, str]] = [(table.program, (), "")]
    while left:
        program, above, prefix = left.pop()
        for item in program.fields:
            path = (*above, item.number)
            field = field_at(table, path)
            if item.column is None and field is not None:
                yield path, DroppedField(path, prefix + field.name, field_wire(field))
            elif item.program is not None:
                many = item.kind != "map" and field is not None and field.repeated
                inner = f"{item.column}{'[]' * many}." if item.column else ""
                left.append((item.program, path, prefix + inner))


def message_at(table: Table, path: Path) -> Message | None:
    """The message whose fields a path's next number would name."""
    if not path:
        return table.message
    if path[-1] == 0:
        return message_at(table, path[:-1])
    found = field_at(table, path)
    return found.message if found is not None else None


def known_column(
    present: Mapping[Path, LockedColumn], column: Column, table: Table
) -> LockedColumn | None:
    """The column of the lock that a planned one goes on from.

    A case column has its oneof's name for a number, so to say: any of its members leads to it.
    """
    found = present.get(column.path)
    if found is None and column.path and column.path[-1] < 0:
        parent = column.path[:-1]
        siblings = [
            old
            for path, old in present.items()
            if path and path[-1] < 0 and path[:-1] == parent and old.name == column.full_name
            if (first := field_at(table, (*parent, -path[-1]))) is None
            or ((now := field_at(table, (*parent, -column.path[-1]))) and now.oneof == first.oneof)
        ]
        found = siblings[0] if siblings else None
    return found


def level_of(table: Table, name: str) -> str:
    """A level of `partition_by` by what it does, as its name may stay when that changes."""
    levels = table.partitions.get(name)
    if levels is None:
        return name
    return ", ".join(
        f"{level.transform.lower()}({level.column}{f', {level.size}' if level.size else ''})"
        for level in levels
    )


def fingerprint_of(table: Table, ids: Mapping[Path, int]) -> str:
    """The first 16 hex digits of SHA-256 over a table's schema and program."""
    text = json.dumps([_schema(table.columns, ids), _program(table.program)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _schema(columns: Sequence[Column], ids: Mapping[Path, int]) -> list[Any]:
    return [
        [
            ids[column.path],
            column.name,
            column.type.text,
            column.nullable,
            _schema(column.children, ids),
        ]
        for column in columns
    ]


def _program(program: Program) -> list[Any]:
    fields = [
        [
            item.number,
            item.kind,
            item.name or item.column,
            item.presence,
            item.encoding,
            item.oneof,
            [item.enum.name, item.enum.closed, *map(list, item.enum.values)] if item.enum else None,
            _program(item.program) if item.program else None,
        ]
        for item in program.fields
    ]
    contents = [list(map(_program, program.contents))] if program.contents else []
    cases = [list(case) for case in program.oneof_cases]
    return [program.message, fields, cases, program.raw, *contents]
