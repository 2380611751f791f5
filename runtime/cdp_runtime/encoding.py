"""How the columns of a file are encoded: dictionaries and statistics where they pay, pages, bloom filters.

A dictionary makes a column small when its values repeat within a row group, and larger and slower when they
do not. Which it is, no schema tells: the first row group of a writer is tried both ways, column by column,
and what was smaller holds for all files of the writer. Only encodings that every reader knows are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .config import ConfigError

__all__ = ["Choice", "Encoding", "choose", "writer_options"]

DEFAULT_LEVELS: Final = {"zstd": 3}
"""Where ours is not the codec's own: zstd's 1 of Arrow is a tenth faster, and a fifth larger."""

_PAGE_BYTES: Final = 4 << 20
"""Of a page without compression; pages have at most 20,000 rows besides, so that an index of them can tell
rows apart. In small pages the codec sees too little of a long column to find what repeats."""

_DICTIONARY_BYTES: Final = 16 << 20
"""Of a dictionary; what does not fit any more is written without one, and what came before was in vain."""

_VALUES_AT_ONCE: Final = 8_192
"""How many values the encoder takes at once; eight times Arrow's own is a little faster and smaller."""

_TRIED_ROWS: Final = 32_768
_TOO_FEW_ROWS: Final = 4_096
"""A row group of fewer tells too little of those to come: everything gets a dictionary then."""

_LARGE_PART: Final = 0.01
"""Columns with less of the bytes of a row group are not worth trying, and get a dictionary."""

_FEW_VALUES: Final = 0.25
_MANY_VALUES: Final = 0.85
"""Columns with fewer different values than the one, as a part of their rows, get a dictionary without a
trial, and those with more than the other get none."""

_LONG_VALUE: Final = 64
"""Texts and bytes that are longer than this on average have no statistics: nobody asks for the smallest
document, and comparing them takes time."""

_FALSE_POSITIVES: Final = 0.01


class Encoding:
    """How the files of one table are encoded: found out once, with the first row group that tells.

    Args:
        compression: the codec of all columns.
        level: the codec's level; None for its default.
        bloom_filters: the paths of columns that get one.

    Raises:
        ConfigError: bloom filters are asked for, and pyarrow is too old for them.
    """

    def __init__(
        self, compression: str, level: int | None = None, bloom_filters: Sequence[str] = ()
    ) -> None:
        if bloom_filters and "bloom_filter_options" not in signature(pq.ParquetWriter).parameters:
            raise ConfigError(
                f"bloom_filters: pyarrow {pa.__version__} cannot write any; newer ones can: "
                "pip install --upgrade pyarrow"
            )
        self._compression = compression
        self._level = level
        self._bloom_filters = bloom_filters
        self._choice: Choice | None = None

    def options(self, rows: pa.Table | None = None) -> dict[str, Any]:
        """The keyword arguments of `pyarrow.parquet.ParquetWriter` for a file.

        Args:
            rows: the first row group of the file, if there is one yet.
        """
        if self._choice is None and rows is not None:
            self._choice = choose(rows, self._compression, self._level)
        return writer_options(
            self._compression,
            self._level,
            self._choice,
            self._bloom_filters,
            0 if rows is None else rows.num_rows,
        )


class Choice(NamedTuple):
    """What was found out about the columns of a table, each list by their paths.

    Attributes:
        dictionary: those that get a dictionary.
        statistics: those whose smallest and largest values are kept.
    """

    dictionary: list[str]
    statistics: list[str]


def choose(rows: pa.Table, compression: str, level: int | None) -> Choice | None:
    """Finds out what suits a row group.

    Args:
        rows: the row group.
        compression: the codec of all columns.
        level: the codec's level.

    Returns:
        What suits it; None when it has too few rows to tell.
    """
    if rows.num_rows < _TOO_FEW_ROWS:
        return None
    tried = rows.slice(0, _TRIED_ROWS)
    large = tried.nbytes * _LARGE_PART
    dictionary, statistics = [], []
    for path, values in _leaves_of(tried):
        if not _is_long(values):
            statistics.append(path)
        if pa.types.is_boolean(values.type):
            continue  # a bit a value is less than any dictionary
        if (
            pa.types.is_dictionary(values.type)
            or values.nbytes < large
            or _repeats(values, compression, level)
        ):
            dictionary.append(path)
    return Choice(dictionary, statistics)


def writer_options(
    compression: str,
    level: int | None,
    choice: Choice | None,
    bloom_filters: Sequence[str] = (),
    rows: int = 0,
) -> dict[str, Any]:
    """The keyword arguments of `pyarrow.parquet.ParquetWriter`.

    Args:
        compression: the codec of all columns.
        level: the codec's level; None for its default.
        choice: what was found out about the columns.
        bloom_filters: the paths of columns that get one.
        rows: how many values a bloom filter is for: those of a row group.
    """
    options: dict[str, Any] = {
        "compression": compression.upper(),
        "compression_level": level if level is not None else DEFAULT_LEVELS.get(compression),
        "use_dictionary": True if choice is None else choice.dictionary or False,
        "write_statistics": True if choice is None else choice.statistics or False,
        "dictionary_pagesize_limit": _DICTIONARY_BYTES,
        "data_page_size": _PAGE_BYTES,
        "write_batch_size": _VALUES_AT_ONCE,
        "write_page_index": True,
        "write_page_checksum": True,
        "data_page_version": "1.0",  # every reader has it; what 2.0 adds, flat columns do not need
        "store_schema": True,
    }
    if bloom_filters:
        wanted = {"ndv": max(rows, 1), "fpp": _FALSE_POSITIVES}
        options["bloom_filter_options"] = dict.fromkeys(bloom_filters, wanted)
    return options


def _leaves_of(rows: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The columns of the Parquet file: their paths there, and their values without what is around them."""
    for name in rows.column_names:
        yield from _leaves(name, rows.column(name))


def _leaves(path: str, column: pa.ChunkedArray) -> Iterator[tuple[str, pa.ChunkedArray]]:
    kind = column.type
    if pa.types.is_struct(kind):
        for index, field in enumerate(kind.fields):
            yield from _leaves(f"{path}.{field.name}", pc.struct_field(column, [index]))
    elif pa.types.is_map(kind):
        for part, inner, chunks in (
            ("key", kind.key_type, [chunk.keys for chunk in column.chunks]),
            ("value", kind.item_type, [chunk.items for chunk in column.chunks]),
        ):
            yield from _leaves(f"{path}.key_value.{part}", pa.chunked_array(chunks, inner))
    elif isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        yield from _leaves(f"{path}.list.element", pc.list_flatten(column))
    else:
        yield path, column


def _is_long(values: pa.ChunkedArray) -> bool:
    """Whether values are texts or bytes, and long on average."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or _is_large(kind):
        mean: float | None = pc.mean(pc.binary_length(values)).as_py()
        return (mean or 0) > _LONG_VALUE
    return False


def _is_large(kind: pa.DataType) -> bool:
    return pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)


def _repeats(values: pa.ChunkedArray, compression: str, level: int | None) -> bool:
    """Whether values are smaller with a dictionary."""
    different: float = pc.count_distinct(values).as_py() / max(len(values), 1)
    if not _FEW_VALUES < different < _MANY_VALUES:
        return different <= _FEW_VALUES
    column = pa.table({"values": values})

    def size(dictionary: bool) -> int:
        sink = pa.MockOutputStream()
        options = writer_options(compression, level, Choice(["values"] if dictionary else [], []))
        with pq.ParquetWriter(sink, column.schema, **options) as writer:
            writer.write_table(column, row_group_size=max(column.num_rows, 1))
        return int(sink.size())

    return size(True) <= size(False)
