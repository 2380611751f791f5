"""Splits record batches by partition: by day, hour, range or the value of a column.

`Router` turns rows into the names of folders below the table: `ledger_day=2024-04-21/asset_type=native`.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import itertools
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from .config import ConfigError, WriterConfig
from .memory import BLOCKS
from .partition import Column, Day, Hour, Partition, Range

__all__ = ["Routed", "Router", "column_of"]

NULL: Final = "__HIVE_DEFAULT_PARTITION__"
"""The folder for null, as Hive, Spark, DuckDB and pyarrow know it."""

_RAW: Final = "_raw"
"""The column of original bytes, which hardly two rows have the same."""

_MAX_NAME_BYTES: Final = 255
"""The longest name of a folder on disk."""

_MAX_PATH_BYTES: Final = 3 * (_MAX_NAME_BYTES + 1)
"""The longest path of a partition. Keys of S3 and GCS have 1,024 bytes: what is left is for the folders of the
archive and the table, and for the name of the file."""

_MOST_GROUPS: Final = 1 << 62
"""Numbers of groups are int64, which wraps without a word."""

_ROWS_A_RUN: Final = 64
"""A batch whose partitions come in runs shorter than this is sorted instead of cut."""

_COPIED_PART: Final = 8
"""A partition that has less than one row in so many of a batch is copied out of it."""

_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH: Final = datetime.date(1970, 1, 1).toordinal()


class Routed(NamedTuple):
    """Rows of a batch that belong to one partition.

    Attributes:
        partition: the path below the table's folder; empty when the table is not partitioned.
        rows: the rows, in their order in the batch.
        places: where they stand in the batch.
    """

    partition: str
    rows: pa.RecordBatch
    places: slice | pa.Int64Array


class _Level(NamedTuple):
    """One level of folders: how to get a key for each row, and the name of a key's folder."""

    name: str
    column: str
    keys: Callable[[pa.Array], pa.Array]
    text: Callable[[Any], str | None]


class _Keys(NamedTuple):
    """The keys of one level in a batch.

    Attributes:
        own: each key once; its place is its code.
        outer: where the groups of the levels before were numbered anew, what each was before.
    """

    own: pa.Array[Any]
    outer: pa.Int64Array | None


class Router:
    """Splits batches of one table.

    Args:
        schema: of the table.
        partitions: the partitions that the table's rules name.
        config: what the user asks for; `partition_by` and `ledgers_per_file` count.
        default: what the rules ask for.

    Raises:
        ConfigError: a name that is neither a partition nor a column or comes twice, a column that
            cannot be partitioned in that way, or names that leave the path no room for values.
    """

    def __init__(
        self,
        schema: pa.Schema,
        partitions: Mapping[str, Sequence[Partition]],
        config: WriterConfig,
        default: Sequence[str],
    ) -> None:
        names = default if config.partition_by is None else config.partition_by
        specs: list[tuple[str, Partition]] = []
        for name in names:
            if name in partitions:
                found = partitions[name]
                specs += [(name if len(found) == 1 else _default_name(s), s) for s in found]
            elif name != _RAW and _field(schema, name) is not None:
                specs.append((_default_name(Column(name)), Column(name)))
            else:
                columns = [
                    each.name for each in schema if each.name != _RAW and _has_values(each.type)
                ]
                raise ConfigError(
                    f"partition_by: {name!r} is not allowed: this table has the partitions "
                    f"{', '.join(partitions) or '(none)'} and the columns {', '.join(columns) or '(none)'}"
                )
        folders = [name for name, _ in specs]
        twice = next((name for name in folders if folders.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(
                f"partition_by: {', '.join(names)} is not allowed: two levels are named {twice}"
            )
        self._room = min(_MAX_NAME_BYTES, _MAX_PATH_BYTES // max(len(folders), 1) - 1)
        long = next((name for name in folders if self._room_of(name) < len(NULL)), None)
        if long is not None:
            raise ConfigError(
                f"partition_by: {', '.join(names)} is not allowed: {long} and a value do not fit into the "
                f"{self._room} bytes that the names of these folders may have"
            )
        if config.ledgers_per_file is not None:
            if not any(isinstance(spec, Range) for _, spec in specs):
                raise ConfigError(
                    f"ledgers_per_file: {config.ledgers_per_file} is not allowed: only a partition by "
                    f"range has ranges, and partition_by is {', '.join(names) or '(none)'}"
                )
            size = config.ledgers_per_file
            specs = [(n, s._replace(size=size) if isinstance(s, Range) else s) for n, s in specs]
        self.levels: Final = [_level(schema, name, spec) for name, spec in specs]
        self._paths: dict[tuple[Any, ...], str] = {}
        self._encoded = [
            number for number, field in enumerate(schema) if _has_dictionary(field.type)
        ]
        self._dictionaries: dict[int, pa.Array[Any]] = {}

    def split(self, batch: pa.RecordBatch) -> list[Routed]:
        """Gives the rows of a batch by partition, those of each partition in their order.

        A batch of one partition is given as it is, and of one that comes in long runs the larger
        partitions are views of it. The others are copies, so that a few late rows do not keep the
        memory of a whole batch alive.
        """
        rows = batch.num_rows
        if rows == 0:
            return []
        groups, keys = self._groups(batch)
        if groups is None:
            return [Routed(self._path(0, keys), batch, slice(0, rows))]
        runs = pc.run_end_encode(groups)
        ends = runs.run_ends.to_pylist()
        if len(ends) > 2 + rows // _ROWS_A_RUN:
            return [
                Routed(self._path(group, keys), self._copy(batch, places), places)
                for group, places in _places(groups)
            ]
        slices: dict[int, list[slice]] = {}
        for start, end, group in zip([0, *ends[:-1]], ends, runs.values.to_pylist(), strict=True):
            slices.setdefault(group, []).append(slice(start, end))
        routed = []
        for group, own in slices.items():
            path = self._path(group, keys)
            if _COPIED_PART * sum(one.stop - one.start for one in own) < rows:
                places = pa.array(
                    itertools.chain(*(range(s.start, s.stop) for s in own)), pa.int64()
                )
                routed.append(Routed(path, self._copy(batch, places), places))
            else:
                routed += [Routed(path, batch.slice(s.start, s.stop - s.start), s) for s in own]
        return routed

    def _copy(self, batch: pa.RecordBatch, places: pa.Int64Array) -> pa.RecordBatch:
        """Rows of a batch that keep nothing of it in memory."""
        columns = pc.take(batch, places, memory_pool=BLOCKS).columns
        for number in self._encoded:
            # taken rows have the batch's own dictionary, and with that all of the batch
            columns[number] = self._without_batch(number, columns[number])
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _without_batch(self, number: int, column: pa.Array) -> pa.Array:
        if not isinstance(column, pa.DictionaryArray):
            return pickle.loads(pickle.dumps(column))
        own = self._dictionaries.get(number)
        if own is None or not own.equals(column.dictionary):
            own = column.dictionary.take(pa.array(range(len(column.dictionary)), pa.int32()))
            self._dictionaries[number] = own
        return pa.DictionaryArray.from_arrays(column.indices, own)

    def _groups(self, batch: pa.RecordBatch) -> tuple[pa.Int64Array | None, list[_Keys]]:
        """The partition of each row as a number, and the keys that it is made of, level by level.

        None for the numbers where all rows are of one partition, which is 0.
        """
        groups: Any = None
        count = 1
        keys = []
        for level in self.levels:
            column = column_of(batch, level.column)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            # rows that follow each other mostly have one value
            runs = pc.run_end_encode(column)
            encoded = level.keys(runs.values).dictionary_encode(null_encoding="encode")
            size = len(encoded.dictionary)
            outer = None
            if size > 1:  # a level with one key adds nothing to the number
                codes = pc.run_end_decode(
                    pa.RunEndEncodedArray.from_arrays(
                        runs.run_ends, encoded.indices.cast(pa.int64())
                    )
                )
                if count * size > _MOST_GROUPS:
                    dense = groups.dictionary_encode()
                    groups, outer = dense.indices.cast(pa.int64()), dense.dictionary
                    count = len(outer)
                if groups is not None:
                    codes = pc.add(pc.multiply(groups, size), codes)
                groups = codes
                count *= size
            keys.append(_Keys(encoded.dictionary, outer))
        return groups, keys

    def _path(self, group: int, keys: Sequence[_Keys]) -> str:
        values: list[Any] = []
        for own, outer in reversed(keys):
            group, code = divmod(group, len(own))
            values.append(own[code].as_py())
            if outer is not None:
                group = outer[group].as_py()
        key = tuple(reversed(values))
        path = self._paths.get(key)
        if path is None:
            texts = [
                None if value is None else level.text(value)
                for level, value in zip(self.levels, key, strict=True)
            ]
            path = "/".join(
                _folder(level.name, text, self._room_of(level.name))
                for level, text in zip(self.levels, texts, strict=True)
            )
            # a value may have any size, and what is kept is little
            if sum(len(text) for text in texts if text) <= _MAX_PATH_BYTES:
                if len(self._paths) >= 10_000:
                    self._paths.clear()
                self._paths[key] = path
        return path

    def _room_of(self, name: str) -> int:
        """The bytes that a value may have in the name of a level's folder."""
        return self._room - len(name.encode()) - 1


def _places(groups: pa.Int64Array) -> Iterator[tuple[int, pa.Int64Array]]:
    """Each group, and the rows that are of it."""
    order = pc.sort_indices(groups).cast(pa.int64())  # stable
    runs = pc.run_end_encode(groups.take(order))
    start = 0
    for group, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield group, order.slice(start, end - start)
        start = end


def column_of(batch: pa.RecordBatch | pa.Table, path: str) -> Any:
    """The column (pyarrow Array or ChunkedArray) at a dotted path; null where a struct on the way is."""
    if path in batch.schema.names:
        return batch.column(path)
    name, *inner = path.split(".")
    return pc.struct_field(batch.column(name), inner)


def _has_dictionary(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_dictionary(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_dictionary(kind)


def _field(schema: pa.Schema, path: str) -> pa.Field | None:
    """The field at a dotted path, if the schema has it."""
    if path in schema.names:
        return schema.field(path)
    name, *inner = path.split(".")
    if name not in schema.names:
        return None
    field = schema.field(name)
    for part in inner:
        if not pa.types.is_struct(field.type) or field.type.get_field_index(part) < 0:
            return None
        field = field.type.field(part)
    return field


def _has_values(kind: pa.DataType) -> bool:
    """Whether folders can have the names of values of this type."""
    return not (pa.types.is_nested(kind) or pa.types.is_floating(kind))


def _default_name(spec: Partition) -> str:
    suffix = {Day: "_day", Hour: "_hour", Range: "_range", Column: ""}[type(spec)]
    return spec.column.replace(".", "_") + suffix


def _level(schema: pa.Schema, name: str, spec: Partition) -> _Level:
    field = _field(schema, spec.column)
    if field is None:
        raise ConfigError(
            f"partition_by: {name} is by {spec.column!r}, which is no column of the table"
        )
    kind = field.type

    def refuse(wanted: str) -> ConfigError:
        return ConfigError(f"partition_by: {name} needs {wanted}; {spec.column} is {kind}")

    match spec:
        case Day() if pa.types.is_date32(kind):
            return _Level(name, spec.column, lambda a: a.cast(pa.int32()).cast(pa.int64()), _day)
        case Day() if pa.types.is_timestamp(kind):
            unit = 86_400 * _PER_SECOND[kind.unit]
            return _Level(name, spec.column, lambda a: _floor_div(a.cast(pa.int64()), unit), _day)
        case Hour() if pa.types.is_timestamp(kind):
            unit = 3_600 * _PER_SECOND[kind.unit]
            return _Level(name, spec.column, lambda a: _floor_div(a.cast(pa.int64()), unit), _hour)
        case Range(size=size) if pa.types.is_integer(kind):
            wide = pa.uint64() if pa.types.is_uint64(kind) else pa.int64()
            return _Level(
                name,
                spec.column,
                lambda a: _floor_div(a.cast(wide), size),
                lambda key: f"{key * size}-{(key + 1) * size - 1}",
            )
        case Column() if pa.types.is_duration(kind):
            return _Level(name, spec.column, lambda a: a.cast(pa.int64()), _value)
        case Column() if pa.types.is_temporal(kind):
            # as text, because Python's own types have neither all the years nor the nanoseconds
            return _Level(name, spec.column, lambda a: a.cast(pa.utf8()), _value)
        case Column() if _has_values(kind):
            return _Level(name, spec.column, lambda a: a, _value)
        case Column():
            raise refuse("a column that is neither nested nor a float")
        case Range():
            raise refuse("a column of integers")
        case _:
            raise refuse("a column of timestamps")


def _floor_div(values: pa.Array, by: int) -> pa.Array:
    """Integer division that rounds down, where Arrow's rounds towards zero."""
    quotient = pc.divide(values, pa.scalar(by, values.type))
    if pa.types.is_uint64(values.type):
        return quotient
    below = pc.less(pc.subtract(values, pc.multiply(quotient, pa.scalar(by, values.type))), 0)
    return pc.subtract(quotient, below.cast(values.type))


def _day(days: int) -> str | None:
    try:
        return datetime.date.fromordinal(days + _EPOCH).isoformat()
    except (ValueError, OverflowError):
        return None  # before the year 1 or after 9999: no reader's date; the column has it


def _hour(hours: int) -> str | None:
    day = _day(hours // 24)
    return None if day is None else f"{day}T{hours % 24:02}"


def _value(value: Any) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.hex()
        case decimal.Decimal():
            return f"{value:f}"
        case _:
            return str(value)


def _folder(name: str, value: str | None, room: int) -> str:
    """The folder of a value, as Hive writes it: nothing in the value can lead out of it.

    Hive has no way to write an empty value: Spark fails on it, and writes null itself. A value that has
    more bytes than there is room is cut and told apart by a digest. Readers that take a column from the
    path see those two so; in the files the column is whole.
    """
    if not value:
        return f"{name}={NULL}"
    escaped = value.translate(_ESCAPES)
    if escaped == NULL:
        escaped = f"%5F{escaped[1:]}"
    encoded = escaped.encode()
    if len(encoded) > room:
        digest = hashlib.sha256(value.encode()).hexdigest()[:16]
        cut = encoded[: room - len(digest) - 1].decode(errors="ignore")
        escaped = f"{re.sub('%.?$', '', cut)}~{digest}"
    return f"{name}={escaped}"


_ESCAPES: Final = {
    code: f"%{code:02X}" for code in [*range(0x20), 0x7F, *map(ord, "\"#%'*+/:=?\\{[]^}<>|&")]
}
