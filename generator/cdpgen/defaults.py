"""What rows older than a column have in it, where the rules say so (`evolution: defaults`).

Each value is checked against its column and written as the runtime takes it: numbers, text, bytes; points of
time and decimals as text, lengths of time in units of the column.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from cdpgen.descriptors import Enum
from cdpgen.errors import UsageError, suggest
from cdpgen.model import RAW, Column, Plan, flat
from cdpgen.rules import RulesFile

__all__ = ["Default", "defaults_of"]

Default = bool | int | float | str | bytes


def defaults_of(plan: Plan, rules: RulesFile) -> dict[str, dict[str, Default]]:
    """The defaults of each table that has some, by the dotted path of the column.

    Raises:
        UsageError: a default of a column that there is not, or that its column cannot hold; all of them.
    """
    problems: list[str] = []
    found: dict[str, dict[str, Default]] = {}
    tables = {table.name: table for table in plan.tables}
    for key, value in rules.rules.evolution.defaults.items():
        place = rules.position("evolution", "defaults", key)
        parts = key.split(".")
        names = [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]
        table = next((tables[name] for name in names if name in tables), None)
        if table is None:
            problems.append(
                f"{place}: `{key}` is of no table; {suggest(names[0] if names else key, tables)}"
            )
            continue
        name = key.removeprefix(f"{table.name}.")
        columns = {column.full_name: column for column in flat(table.columns)}
        column = columns.get(name)
        if column is None:
            problems.append(
                f"{place}: `{name}` is no column of {table.name}; {suggest(name, columns)}"
            )
            continue
        try:
            found.setdefault(table.name, {})[name] = _value(column, columns, table.enums, value)
        except ValueError as error:
            problems.append(f"{place}: `{key}` {error}")
    if problems:
        raise UsageError("\n".join(problems))
    return found


def _value(
    column: Column, columns: Mapping[str, Column], enums: Mapping[str, Enum], value: Any
) -> Default:
    """The value as the runtime takes it; ValueError says what is allowed."""
    kind = re.split(r"[\[(<]", column.type.text)[0]
    owner = columns[column.full_name.removesuffix("[]")]
    enum = enums.get(owner.wire.rpartition(" ")[2]) if " enum " in f" {owner.wire}" else None
    if column.children or column.type.text in ("struct", "list", "map"):
        raise ValueError(f"is a {column.type.text}; a default is of a column of single values")
    if column.full_name == RAW or owner.wire == "oneof":
        raise ValueError("follows from the message; it has no default")
    if enum is not None and kind != "int32":
        names = [each.name for each in enum.values]
        if value not in names:
            raise ValueError(f"is an enum; {suggest(str(value), names)}")
        return str(value)
    if " json " in owner.wire:
        return _json(value)
    return _KINDS[kind](column.type.text, value)


def _integer(kind: str, value: Any) -> int:
    bits = int(kind.lstrip("uint"))
    low, high = (
        (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"is {kind}; write a whole number from {low} to {high}")
    return value


def _floating(kind: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"is {kind}; write a number")
    return float(value)


def _bool(kind: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is bool; write true or false")
    return value


def _text(kind: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'is text; write it in quotes: "{value}"')
    return value


def _json(value: Any) -> str:
    try:
        json.loads(_text("", value))
    except json.JSONDecodeError:
        raise ValueError("is JSON; write a text that is JSON: '{\"a\": 1}'") from None
    return str(value)


def _bytes(kind: str, value: Any) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None:
        raise ValueError('is bytes; write hex digits in quotes: "00ff"')
    size = re.search(r"\d+", kind)
    if size and len(found) != int(size[0]):
        raise ValueError(f"has {size[0]} bytes; these are {len(found)}")
    return found


def _decimal(kind: str, value: Any) -> str:
    precision, scale = map(int, re.findall(r"-?\d+", kind.partition("(")[2]))
    try:
        found = Decimal(value) if isinstance(value, (str, int)) and value is not True else None
    except InvalidOperation:
        found = None
    if found is None or not found.is_finite():
        raise ValueError(f'is {kind}; write a number in quotes: "12.50"')
    _, digits, exponent = found.normalize().as_tuple()
    assert isinstance(exponent, int)
    if -exponent > scale or (any(digits) and len(digits) + exponent > precision - scale):
        raise ValueError(f"is {kind}, which cannot hold {value}")
    return f"{found:f}"


def _timestamp(kind: str, value: Any) -> str:
    point = value
    try:
        if isinstance(value, str):
            point = datetime.fromisoformat(value)
    except ValueError:
        point = None
    if type(point) is date:
        point = datetime.combine(point, time())
    if not isinstance(point, datetime):
        raise ValueError('is a timestamp; write it as "2024-04-21T20:16:09Z"')
    point = (point if point.tzinfo else point.replace(tzinfo=UTC)).astimezone(UTC)
    under = {"s": 1_000_000, "ms": 1_000}.get(_unit(kind), 1)
    if point.microsecond % under:
        raise ValueError(f"is in units of {_unit(kind)}; {value} is between two of them")
    return f"{point.replace(tzinfo=None).isoformat()}Z"


def _date(kind: str, value: Any) -> str:
    try:
        day = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        day = None
    if type(day) is not date:
        raise ValueError('is a date; write it as "2024-04-21"')
    return day.isoformat()


def _time(kind: str, value: Any) -> int:
    try:
        found = time.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is not None:
        raise ValueError('is a time of day; write it as "20:16:09"')
    seconds = (found.hour * 60 + found.minute) * 60 + found.second
    return (seconds * 1_000_000 + found.microsecond) * _TICKS[_unit(kind)] // 1_000_000


def _duration(kind: str, value: Any) -> int:
    found = re.fullmatch(r"-?\d+(\.\d{1,9})?s", value) if isinstance(value, str) else None
    ticks = Decimal(found[0][:-1]) * _TICKS[_unit(kind)] if found else None
    if ticks is None or ticks != int(ticks):
        raise ValueError(f'is a duration in units of {_unit(kind)}; write it as "90s"')
    return int(ticks)


_TICKS: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _unit(kind: str) -> str:
    return re.split(r"[\[,\]]", kind)[1]


_KINDS: Final[Mapping[str, Callable[[str, Any], Default]]] = {
    "bool": _bool,
    **dict.fromkeys(("int32", "int64", "uint32", "uint64"), _integer),
    **dict.fromkeys(("float", "double"), _floating),
    **dict.fromkeys(("string", "large_string"), _text),
    **dict.fromkeys(("binary", "large_binary", "fixed_size_binary"), _bytes),
    **dict.fromkeys(("decimal128", "decimal256"), _decimal),
    "timestamp": _timestamp,
    "date32": _date,
    "time64": _time,
    "duration": _duration,
}
