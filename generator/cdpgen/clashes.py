"""Names that are one to whoever takes no notice of case: SQL engines, and the disks of some.

What is new is not let in. Columns that were archived under such names are only warned of, as their
files are right; and tables are let be, as they cannot have other names: `cdpgen sql` numbers them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cdpgen.lock import Lock, LockedTable
from cdpgen.model import Column, Plan, Table
from cdpgen.rules import RulesFile

__all__ = ["find_clashes"]


def find_clashes(plan: Plan, known: Lock, rules: RulesFile) -> tuple[list[str], list[str]]:
    """Tables, and columns of one table or struct, whose names differ in case alone.

    Args:
        plan: the tables as planned.
        known: what was archived so far.
        rules: the rules, for what to write in them.

    Returns:
        What stops a build, and what is to be warned of; a line each, with its place.
    """
    problems: list[str] = []
    warnings: list[str] = []
    found: dict[str, Table] = {}
    for table in plan.tables:
        other = found.setdefault(table.name.lower(), table)
        new, old = (table, other) if _is_new(table, known) else (other, table)
        if other is not table and _is_new(new, known):
            problems.append(
                f"{new.message.position}: the tables {new.name} and {old.name} "
                f"({old.message.position}) are one to {_WHOM}; rename the message, or leave the "
                f"table out with `tables: {{{new.name}: {{skip: true}}}}` in {rules.path}"
            )
        present = _names(known.tables.get(table.name))
        for column, first in _alike(table.columns):
            text = (
                f"the columns `{column.full_name}` and `{first.full_name}` ({first.position}) of "
                f"{table.name} are one to {_WHOM}; give one of them another name, in {rules.path} "
                f"under tables: {{{table.name}: {{columns: {{<field>: {{name: <other>}}}}}}}}"
            )
            if {(each.path, each.full_name) for each in (column, first)} <= present:
                warnings.append(f"{column.position}: warning: {text}")
            else:
                problems.append(f"{column.position}: {text}")
    return problems, warnings


_WHOM: Final = "DuckDB, Spark and whoever else takes no notice of case"


def _is_new(table: Table, known: Lock) -> bool:
    locked = known.tables.get(table.name)
    return locked is None or locked.retired


def _names(table: LockedTable | None) -> set[tuple[tuple[int, ...], str]]:
    present = table.present() if table is not None else {}
    return {(path, column.name) for path, column in present.items()}


def _alike(columns: Sequence[Column]) -> Iterator[tuple[Column, Column]]:
    """Yields each column with the one before it, among its siblings, whose name is like its own."""
    found: dict[str, Column] = {}
    for column in columns:
        first = found.setdefault(column.name.lower(), column)
        if first is not column:
            yield column, first
        yield from _alike(column.children)
