"""The evolution check: whether what the schemas are now goes on from what was archived.

`compare` matches the lock with the plan (`cdpgen.changes`), asks the rules (`cdpgen.checks`), and
sets against what they find what the team decided: renames, acceptances, paths to ignore, a level a
table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from cdpgen import arrow
from cdpgen.changes import Change, EnumChange, MessageChange, TableChange, Wire
from cdpgen.checks import (
    ENUM_CHECKS,
    MESSAGE_CHECKS,
    MESSAGE_NO_DELETE,
    RULES,
    TABLE_CHECKS,
    Rule,
)
from cdpgen.clashes import find_clashes
from cdpgen.defaults import Default, defaults_of
from cdpgen.errors import Position, UsageError, suggest
from cdpgen.lock import Going, Lock, LockedTable
from cdpgen.model import Path, Plan, Table, flat
from cdpgen.rules import LEVELS, Level, RulesFile

__all__ = ["BreakingError", "Comparison", "Finding", "compare"]

_TEXTS: Final = ("string", "large_string", "dictionary")


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that is broken.

    Attributes:
        change: where, what was and what is.
        tables: the tables that it is about.
    """

    rule: Rule
    change: Change
    tables: tuple[str, ...]

    @property
    def key(self) -> str:
        """By what an acceptance names it."""
        return f"{self.rule.id} {self.change.path}"

    @property
    def said(self) -> str:
        """What the lock says of it behind that, once it is accepted."""
        return f"was {self.change.was}, is {self.change.now}"

    def is_in(self, record: str) -> bool:
        """Whether a record of the lock is about it; one is about all that one entry accepted at once."""
        key, _, said = record.partition(": ")
        return key == self.key and f"; {self.said};" in f"; {said};"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found.

    Attributes:
        findings: what is neither accepted nor ignored, by place.
        going: by table, how its columns go on.
        defaults: by table and column, what rows older than the column have in it.
        warnings: names of what was archived that are one to some readers, a line each.
    """

    findings: list[Finding]
    going: Mapping[str, Going]
    defaults: Mapping[str, Mapping[str, Default]]
    warnings: list[str]

    @property
    def breaking(self) -> bool:
        """Whether something stops a build."""
        return any(finding.rule.severity == "error" for finding in self.findings)


class BreakingError(Exception):
    """The schemas changed in a way that breaks an archive; nothing was written.

    Attributes:
        findings: all of them.
    """

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(f"{len(findings)} breaking changes")
        self.findings = findings


def compare(previous: Lock, plan: Plan, rules: RulesFile, *, against: bool = False) -> Comparison:
    """Compares what was archived with what would be from now on.

    Args:
        previous: what was archived.
        plan: the tables as planned.
        rules: the rules, with what the team decided.
        against: whether `previous` is another state than the lock of these schemas, in which what
            was decided need not be about anything.

    Raises:
        UsageError: an acceptance matches nothing, a rename, a default or a path to ignore names nothing, a
            default does not fit its column, or a rule is not known; or new names clash.
    """
    problems, warnings = find_clashes(plan, previous, rules)
    if not against:
        problems += _about_nothing(previous, plan, rules)
    tables = {*(table.name for table in plan.tables), *previous.tables}
    changes = [
        _table_change(old, table, tables, rules, problems, against)
        for table in plan.tables
        if (old := previous.tables.get(table.name)) is not None and old.versions
    ]
    ignored = rules.rules.evolution.ignore
    found = [
        finding
        for finding in _findings(previous, plan, rules, changes)
        if not any(_is_within(finding.change.path, path) for path in ignored)
    ]
    accepted = _accepted(previous, found, rules, problems, against)
    if problems:
        raise UsageError("\n".join(problems))
    left = [finding for finding in found if not any(map(finding.is_in, accepted))]
    left.sort(key=lambda finding: (*finding.change.position, finding.rule.id, finding.change.path))
    going = {name: _going(name, found, accepted, previous.tables.get(name)) for name in tables}
    for change in changes:
        going[change.new.name] = _joined(change, found, going[change.new.name])
    return Comparison(left, going, defaults_of(plan, rules), warnings)


def _is_within(path: str, outer: str) -> bool:
    return path == outer or path.startswith((f"{outer}.", f"{outer}[]"))


def _about_nothing(previous: Lock, plan: Plan, rules: RulesFile) -> Iterator[str]:
    """Complains of renames and paths to ignore that are about nothing, now or before.

    What counts as before stays in the lock, or what this build allows the next one would not.
    """
    decided = rules.rules.evolution
    if not decided.renames and not decided.ignore:
        return
    columns = {
        table.name: {column.path: column.full_name for column in flat(table.columns)}
        for table in plan.tables
    }
    tables = {*columns, *previous.tables}
    for key, value in decided.renames.items():
        place = rules.position("evolution", "renames", key)
        table = _table_of(key, tables)
        if table is None:
            yield f"{place}: `{key}` is of no table; {suggest(key.rpartition('.')[0], tables)}"
        elif table not in previous.tables:
            # Of a lock that begins anew: the next build takes it for done in an earlier one.
            names = columns[table].values()
            if not {*names}.intersection(_renamed_on(table, key, names, rules)):
                yield f"{place}: `{value}` is no column of {table}; {suggest(value, names)}"
    gone = [
        (table.name, column)
        for table in previous.tables.values()
        for column in table.columns
        if column.retired or column.path not in columns.get(table.name, {})
    ]
    enums = {*plan.schemas.enums, *(Wire.of(column.wire).enum for _, column in gone)} - {""}
    known = {
        *tables,
        *(f"{table}.{name}" for table, names in columns.items() for name in names.values()),
        *(f"{table}.{column.name}" for table, column in gone),
        *(f"{old.name}.{each.name}" for old in previous.tables.values() for each in old.dropped),
        *plan.schemas.messages,
        *enums,
    }
    choices = sorted(known, key=lambda name: (name.startswith("google."), name))
    for i, path in enumerate(decided.ignore):
        # Values that an enum has no more, the lock does not remember.
        within = any(_is_within(path, enum) for enum in enums)
        if not within and not any(_is_within(name, path) for name in known):
            place = rules.position("evolution", "ignore", i)
            # Whoever leaves out what a name begins with means what ends in it.
            ends = [name for name in choices if name.endswith(f".{path}")]
            meant = suggest(ends[0] if ends else path, choices)
            yield f"{place}: `{path}` is no table, column, message or enum; {meant}"


def _table_of(path: str, tables: Iterable[str]) -> str | None:
    """The table that a column's path begins with: the longest, as a message in a table may be one."""
    found = [name for name in tables if path.startswith(f"{name}.")]
    return max(found, key=len, default=None)


# Renames


def _table_change(
    old: LockedTable,
    table: Table,
    tables: Collection[str],
    rules: RulesFile,
    problems: list[str],
    against: bool,
) -> TableChange:
    """The table's change, with the renames that are declared for it."""
    going_on = old.going_on()
    # of two of a name that which is present, which comes last so
    known = {column.name: column for column in reversed(going_on.values())}
    columns = {column.full_name: column for column in flat(table.columns)}
    paths = {column.path for column in columns.values()}
    gone = {column.name for column in old.columns if column.retired or column.path not in paths}
    chains = {
        key.removeprefix(f"{table.name}."): _renamed_on(table.name, key, columns, rules)
        for key in rules.rules.evolution.renames
        if _table_of(key, tables) == table.name
    }
    moved: dict[Path, Path] = {}
    renamed: set[Path] = set()
    for name, links in chains.items():
        key = f"{table.name}.{name}"
        value = rules.rules.evolution.renames[key]
        # A name that was archived goes on by a rename of its own.
        ends = takewhile(lambda link: link not in known or link in columns, links)
        target = next((columns[link] for link in ends if link in columns), None)
        before = known.get(name)
        if before is not None and before.retired and target and target.path in old.present():
            before = None  # one that a rule leaves out had the name, too, and the rename is done
        place = rules.position("evolution", "renames", key)
        again = columns.get(name)
        if target and again and again.path not in (target.path, before.path if before else None):
            # The next build would take it for the one that is meant.
            problems.append(
                f"{place}: `{name}` is another column now than the one that goes on as `{value}`: take the "
                "rename out once a build has done it, and only then give that name to another"
            )
        elif before is None:
            # Done in an earlier build, when the lock's column got the new name; gone since, maybe.
            done = target is not None and target.path in going_on
            done = done or value in gone or links[0] in gone
            done = done or (len(links) > 1 and any(link in known for link in links))
            # Or its column goes on from one that the lock has under an earlier name.
            done = done or any(first in known and name in of for first, of in chains.items())
            if not done and not against:
                problems.append(
                    f"{place}: `{name}` is no column that was archived; {suggest(name, known)}"
                )
        elif target is None:
            if not against:  # it was renamed, and is gone since
                problems.append(
                    f"{place}: `{value}` is no column of {table.name}; {suggest(value, columns)}"
                )
        elif before.path == target.path:
            renamed.add(target.path)
        elif before.path in paths or target.path in going_on:
            problems.append(
                f"{place}: `{name}` cannot go on as `{value}`: both were there at once; rename a "
                "field that is gone to one that is new"
            )
        else:
            renamed.add(target.path)
            depth = len(before.path)
            for path in old.paths():
                if path[:depth] == before.path:
                    moved[path] = (*target.path, *path[depth:])
    return TableChange(old, table, rules, moved, frozenset(renamed))


def _renamed_on(table: str, key: str, columns: Collection[str], rules: RulesFile) -> list[str]:
    """The names that renames give to a column one after the other, each from the table on."""
    renames = rules.rules.evolution.renames
    links: list[str] = []
    while (value := renames.get(key)) is not None:
        parent, dot, _ = key.removeprefix(f"{table}.").rpartition(".")
        link = f"{parent}{dot}{value}"
        if value in columns or ("." in value and link not in columns):
            link = value
        if link in links:
            break
        links.append(link)
        key = f"{table}.{link}"
    return links


# Rules


def _findings(
    previous: Lock, plan: Plan, rules: RulesFile, changes: Iterable[TableChange]
) -> Iterator[Finding]:
    yield from _deleted_tables(previous, plan, rules)
    levels = {table.name: _level(rules, table.name) for table in plan.tables}
    for table in changes:
        for rule, check in TABLE_CHECKS:
            if rule.holds_at(levels[table.new.name]):
                for change in check(table):
                    yield Finding(rule, change, (table.new.name,))
    holders = _holders(previous, plan) if previous.enums else {}
    enums = {name: enum for table in plan.tables for name, enum in table.enums.items()}
    for name, old in previous.enums.items():
        users = holders.get(name, {})
        if not users or name not in enums:
            continue
        level = _strictest(_level(rules, table) for table in users)
        enum = EnumChange(old, enums[name], any(users.values()))
        for rule, enum_check in ENUM_CHECKS:
            if rule.holds_at(level):
                for change in enum_check(enum):
                    yield Finding(rule, change, tuple(users))
    for name, reserved in previous.reserved.items():
        within = [table.name for table in plan.tables if name in table.comments]
        if not within:
            continue
        known = [table for table in within if table in previous.tables]
        # Where only new tables have it, any that was archived may have had it.
        level = _strictest(_level(rules, table) for table in known or (*previous.tables, *within))
        message = MessageChange(reserved, plan.schemas.messages[name])
        for rule, message_check in MESSAGE_CHECKS:
            if rule.holds_at(level):
                for change in message_check(message):
                    yield Finding(rule, change, tuple(known or within))


def _deleted_tables(previous: Lock, plan: Plan, rules: RulesFile) -> Iterator[Finding]:
    present = {table.name for table in plan.tables}
    for name, old in previous.tables.items():
        if old.retired or name in present:
            continue
        message = plan.schemas.messages.get(name)
        if name in plan.skipped:
            position, now = rules.position("tables", name, "skip"), "skipped"
        elif message is not None:
            position, now = message.position, "part of other messages, and no table"
        else:
            position, now = Position(previous.path, previous.lines.get(name, 1), 1), "gone"
        if MESSAGE_NO_DELETE.holds_at(_level(rules, name)):
            yield Finding(MESSAGE_NO_DELETE, Change(name, position, "a table", now), (name,))


def _level(rules: RulesFile, table: str) -> Level:
    rule = rules.rules.tables.get(table)
    return (rule.level if rule else None) or rules.rules.defaults.level


def _strictest(levels: Iterable[Level]) -> Level:
    return max(levels, key=LEVELS.index)


def _holders(previous: Lock, plan: Plan) -> dict[str, dict[str, bool]]:
    """By enum, the archived tables with columns of it, or that would have some if no rule left them out.

    Each with whether such a column holds the names and not the numbers.
    """
    forms = {
        (name, path): (column.wire, column.type)
        for name, table in previous.tables.items()
        for path, column in table.going_on().items()
    }
    for table in plan.tables:
        if table.name in previous.tables:
            for column in flat(table.columns):
                forms[table.name, column.path] = (column.wire, column.type.text)
    found: dict[str, dict[str, bool]] = {}
    for (name, path), (wire, own) in forms.items():
        _, type_ = forms.get((name, (*path, 0)), (wire, own))
        holding = found.setdefault(Wire.of(wire).enum, {})
        holding[name] = holding.get(name, False) or type_.startswith(_TEXTS)
    return found


# Acceptances


def _accepted(
    previous: Lock,
    found: Iterable[Finding],
    rules: RulesFile,
    problems: list[str],
    against: bool,
) -> set[str]:
    """The changes that are accepted, as the lock records them; complains of acceptances without any.

    One that was used stays right, but is for that change alone: a later one of the same rule and path takes
    another. The lock remembers which were used.
    """
    used: dict[str, list[str]] = {}
    for table in previous.tables.values():
        for record in table.accepted:
            of_key = used.setdefault(record.partition(": ")[0], [])
            if record not in of_key:
                of_key.append(record)
    fresh: dict[str, set[str]] = {}
    for finding in found:
        if not any(map(finding.is_in, used.get(finding.key, ()))):
            fresh.setdefault(finding.key, set()).add(finding.said)
    written: Counter[str] = Counter()
    for i, acceptance in enumerate(rules.rules.evolution.accept):
        key = f"{acceptance.rule} {acceptance.path}"
        written[key] += 1
        place = rules.position("evolution", "accept", i, "rule")
        # an earlier cdpgen recorded one for however many
        most = math.inf if key in used.get(key, ()) else len(used.get(key, ()))
        if acceptance.rule not in RULES:
            problems.append(
                f"{place}: `{acceptance.rule}` is no rule; {suggest(acceptance.rule, RULES)}"
            )
        elif written[key] > most + (key in fresh) and not against:
            problems.append(
                f"{place}: nothing changed that {key} would accept, now or before; take it out"
            )
    accepted: set[str] = set()
    for key, times in written.items():
        before = used.get(key, [])
        accepted.update(before[-times:])
        if times > len(before) and key in fresh:
            accepted.add(f"{key}: {'; '.join(sorted(fresh[key]))}")
    return accepted


def _going(
    name: str, found: Iterable[Finding], accepted: set[str], old: LockedTable | None
) -> Going:
    """What of the acceptances the lock remembers for a table, in the order of their use."""
    kept = [record for record in (old.accepted if old else ()) if record in accepted]
    own = [finding for finding in found if name in finding.tables]
    new = {record for record in accepted if any(finding.is_in(record) for finding in own)}
    return Going(accepted=(*kept, *sorted(new.difference(kept))))


def _joined(change: TableChange, found: Iterable[Finding], going: Going) -> Going:
    """How a table's columns go on: which are moved, and which are others now.

    What a list or map holds is another with the whole of it: readers find columns by their ids, but what is
    within a list by its place.
    """
    columns = list(flat(change.new.columns))
    holders = {
        child.path: column.path
        for column in columns
        if column.type in (arrow.LIST, arrow.MAP)
        for child in column.children
    }
    roots = {
        holders.get(column, column)
        for finding in found
        if finding.rule.replaces and change.new.name in finding.tables
        if (column := finding.change.column) is not None
    }
    replaced = {
        column.path
        for column in columns
        if any(column.path[:length] in roots for length in range(1, len(column.path) + 1))
    }
    return replace(going, replaced=frozenset(replaced), moved=change.moved)
