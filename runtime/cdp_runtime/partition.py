"""The ways to partition a table, as the generated writers name them; `cdp_runtime.router` does it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Column", "Day", "Hour", "Partition", "Range"]


class Day(NamedTuple):
    """Partition by the UTC day of a timestamp (or date) column: `2024-04-21`."""

    column: str


class Hour(NamedTuple):
    """Partition by the UTC hour of a timestamp column: `2024-04-21T20`."""

    column: str


class Range(NamedTuple):
    """Partition by ranges of `size` numbers of an integer column, for example ledgers: `0-63999`."""

    column: str
    size: int


class Column(NamedTuple):
    """Partition by the values of a column."""

    column: str


Partition = Day | Hour | Range | Column
