"""The open Parquet files of a table: row groups, rotation, publication.

`TableFiles` is told rows and their partition. It gathers them for each partition until they make a row
group, writes that to the partition's file, and publishes the file when it is big, long or old enough.
It has no locks: one thread owns it (the write thread of `cdp_runtime.pipeline`).
"""

from __future__ import annotations

import itertools
import os
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from .memory import BLOCKS
from .parquet_file import Compressor, Layout, ParquetFile
from .payloads import Positions, concat_positions
from .positions import KEY, Part, PositionsBuilder, Prefix
from .router import column_of

if TYPE_CHECKING:
    from .config import WriterConfig
    from .metrics import Metrics
    from .patience import Patience
    from .storage import Storage, Upload

__all__ = ["PublishedFile", "Table", "TableFiles"]

_MB: Final = 1 << 20
_ROW_GROUP_ROWS: Final = 1 << 20
_AT_ONCE_ROWS: Final = 4_096
_AT_ONCE_BYTES: Final = 1 << 20
"""What is encoded at once where rows come in their order."""

_WORTH_A_ROW_GROUP: Final = 1 << 16
"""A row group of so many rows ends where the order of rows begins anew."""

_WORTH_MAKING_ROOM: Final = 0.0625
"""What of all the memory for row groups a file must take to be written so that others may grow."""

_HELPERS: Final = min(4, os.cpu_count() or 1) - 1
"""Threads that encode and compress beside the one that has the rows; more than processors only take turns on
what is in the caches."""

_AHEAD: Final = 0.125
"""What of the memory for row groups rows may take that wait to be encoded."""

_LARGE_BYTES: Final = 256 << 20
"""Rows that together have so many bytes begin a row group: what is before them may have 1 GiB of a text."""

_MOST_PARTS: Final = 256
"""How many parts of a row group keep their positions as they came."""

_SMALL_ROWS: Final = 64
"""Batches with fewer rows are made one when there are enough of them."""

_SMALL_BATCHES: Final = 8
"""How many small batches are kept at least before they are made one."""

_BATCH_BYTES: Final = 20 << 10
"""What a batch takes besides its rows, about."""

_LEAST_RUN: Final = 64
"""Rows that are out of order are moved run by run if runs are this long on average, else row by row."""

_FIRST_RATIO: Final = 0.25
"""What rows in memory are taken to compress to, until the first row group tells."""


class PublishedFile(NamedTuple):
    """A file that readers can see.

    Attributes:
        table: the full name of the table.
        path: of the file below the archive.
        url: of the file.
        partition: the folders between the table and the file.
        rows: how many there are.
        size: of the file in bytes.
        positions: for each source, the first and last position of the rows in the file.
        dead_letters: whether the rows are messages that could not be decoded.
    """

    table: str
    path: str
    url: str
    partition: str
    rows: int
    size: int
    positions: Mapping[str, tuple[int, int]]
    dead_letters: bool


class Table(NamedTuple):
    """What the files of a table have in common.

    Attributes:
        name: the full name of the table.
        folder: of its files below the archive.
        schema: of its files.
        sort_by: the columns by which rows are sorted within a row group.
        metadata: what the footers say besides positions and messages.
        dead_letters: whether these are the table's dead letters.
        messages: gives what the footers say of the messages that the rows are made of.
        bloom_filters: the columns that get a bloom filter.
    """

    name: str
    folder: str
    schema: pa.Schema
    sort_by: Sequence[str]
    metadata: Mapping[str, str]
    dead_letters: bool
    messages: Callable[[], Mapping[str, str]] | None = None
    bloom_filters: Sequence[str] = ()


class TableFiles:
    """The open files of one table in one archive.

    Args:
        table: what the files have in common.
        storage: where they go.
        writer: the id of the writer, for the names of the files.
        numbers: the rest of their names; no two files of a writer may have the same.
        config: when to rotate.
        compressor: of what is written.
        metrics: told of bytes as they are written.
        patience: waits while the store fails.
        prefixes: what has been read of sources that are files, for the footers.
        on_published: told of each file once it is durable, and how many of its rows are in each segment
            of the journal.
    """

    def __init__(
        self,
        table: Table,
        storage: Storage,
        writer: str,
        numbers: Iterator[int],
        config: WriterConfig,
        compressor: Compressor,
        metrics: Metrics,
        patience: Patience,
        prefixes: Mapping[str, Prefix],
        on_published: Callable[[PublishedFile, Mapping[int, int]], None],
    ) -> None:
        self._table = table
        self._storage = storage
        self._stem = f"{_snake(table.name.rpartition('.')[2])}-{writer}"
        self._config = config
        self._metrics = metrics
        self._patience = patience
        self._prefixes = prefixes
        self._on_published = on_published
        self._numbers = numbers
        self._held = 0
        self._ratio: float | None = None
        self._layout = Layout(
            table.schema,
            compressor,
            table.sort_by,
            table.bloom_filters,
            _HELPERS,
            int(config.row_group_mb * _MB * _AHEAD),
        )
        # by partition; the one that has gone longest without a row comes first
        self._files: dict[str, _OpenFile] = {}

    def add(
        self,
        partition: str,
        rows: pa.RecordBatch,
        source: str = "",
        positions: Positions | None = None,
        segment: int = 0,
        size: int | None = None,
    ) -> None:
        """Takes rows of one partition, and the positions that each has in their one source.

        Args:
            partition: the folders between the table and the file.
            rows: what to write.
            source: where all of them come from.
            positions: of each, if the caller knows.
            segment: of the journal that holds them; 0 without a journal.
            size: of the rows in memory, if the caller knows.
        """
        limit = self._config.max_file_rows
        while limit is not None:
            file = self._file(partition)
            room = limit - file.rows
            if rows.num_rows < room:
                break
            size = None
            self._gather(
                file, rows.slice(0, room), source, positions and positions[:room], segment, size
            )
            self._publish(partition)
            rows, positions = rows.slice(room), positions and positions[room:]
            if rows.num_rows == 0:
                return
        file = self._file(partition)
        self._gather(file, rows, source, positions, segment, size)
        if file.is_full():
            self._publish(partition)

    def seconds_to_rotation(self) -> float | None:
        """How long until the oldest file has reached its age; None without an open file."""
        if not self._files:
            return None
        opened = min(file.opened for file in self._files.values())
        return max(0.0, opened + self._config.rotation_interval_minutes * 60 - time.monotonic())

    def rotate_old(self) -> None:
        """Publishes the files that have reached their age."""
        born_before = time.monotonic() - self._config.rotation_interval_minutes * 60
        for partition in [p for p, file in self._files.items() if file.opened <= born_before]:
            self._publish(partition)

    def publish_all(self) -> None:
        """Publishes all open files."""
        for file in self._files.values():
            file.write_row_group()  # the rest of it is made while the files before are published
        for partition in list(self._files):
            self._publish(partition)

    def discard_all(self) -> None:
        """Leaves nothing of the open files."""
        for file in self._files.values():
            file.discard()
        self._files.clear()
        self._held = 0

    def end_threads(self) -> None:
        """Ends the threads that encode: one that is at work when the interpreter ends would take it along."""
        self._layout.native.end()

    def _file(self, partition: str) -> _OpenFile:
        """The partition's open file, now the most recently used."""
        file = self._files.pop(partition, None)
        if file is None:
            if len(self._files) >= self._config.max_open_files:
                self._publish(next(iter(self._files)))
            path = "/".join(
                part
                for part in (
                    self._table.folder,
                    partition,
                    f"{self._stem}-{next(self._numbers):06}.parquet",
                )
                if part
            )
            file = _OpenFile(
                self._table,
                self._config,
                self._storage,
                self._metrics,
                self._patience,
                path,
                self._ratio,
                self._layout,
            )
        self._files[partition] = file
        return file

    def _gather(
        self,
        file: _OpenFile,
        rows: pa.RecordBatch,
        source: str,
        positions: Positions | None,
        segment: int,
        size: int | None,
    ) -> None:
        file.segments[segment] += rows.num_rows
        file.add(rows, rows.nbytes if size is None else size, source, positions)
        self._count(file)
        room = self._config.row_group_mb * _MB
        while self._held > room:
            # the one that takes rows now shall have large row groups, if another can make room
            others = [one for one in self._files.values() if one is not file]
            largest = max(others, key=lambda one: one.counted, default=file)
            if largest.counted < room * _WORTH_MAKING_ROOM:
                largest = file
            largest.write_row_group()
            self._count(largest)

    def _count(self, file: _OpenFile) -> None:
        held = file.held
        self._held += held - file.counted
        file.counted = held

    def _publish(self, partition: str) -> None:
        file = self._files[partition]
        size = file.publish(self._prefixes)
        self._count(file)
        self._ratio = file.ratio
        # only now: a file that could not be published is still there to be discarded
        del self._files[partition]
        self._on_published(
            PublishedFile(
                table=self._table.name,
                path=file.path,
                url=self._storage.describe(file.path),
                partition=partition,
                rows=file.rows,
                size=size,
                positions=file.positions.ranges,
                dead_letters=self._table.dead_letters,
            ),
            file.segments,
        )


class _Output:
    """Where the bytes of a file go; waits while the store fails.

    Apart from `_OpenFile`, so that nothing of a file that is published is left to the garbage collector.
    """

    def __init__(self, storage: Storage, path: str, patience: Patience) -> None:
        self._storage = storage
        self._path = path
        self._patience = patience
        self._upload: Upload | None = None

    def write(self, data: bytes) -> None:
        if self._upload is None:
            self._upload = self._patience.call(
                lambda: self._storage.create(self._path), f"create {self._path}"
            )
        self._upload.write(data)
        self._patience.call(self._upload.drain, f"write {self._path}")

    def publish(self) -> None:
        assert self._upload is not None
        self._patience.call(self._upload.publish, f"publish {self._path}")

    def discard(self) -> None:
        if self._upload is not None:
            self._upload.discard()


class _OpenFile:
    """One file on its way: rows that are gathered, the row group that is open, and what is written.

    Rows that come in their order are encoded as they come, and their memory is free. Where they do not, as
    many as there is room for are gathered and sorted first.
    """

    def __init__(
        self,
        table: Table,
        config: WriterConfig,
        storage: Storage,
        metrics: Metrics,
        patience: Patience,
        path: str,
        ratio: float | None,
        layout: Layout,
    ) -> None:
        self.ratio = ratio
        self.path: Final = path
        self.opened: Final = time.monotonic()
        self.rows = 0
        self.counted = 0
        self.positions: Final = PositionsBuilder()
        self.segments: Final[Counter[int]] = Counter()
        self._table = table
        self._config = config
        self._metrics = metrics
        self._output = _Output(storage, path, patience)
        self._file = ParquetFile(layout, self._output.write)
        self._in_order = True
        self._last: tuple[Any, ...] | None = None  # the sort key of the row group's last row
        # not encoded yet:
        self._batches: list[pa.RecordBatch] = []
        self._parts: list[Part] = []
        self._small = 0
        self._gathered_rows = 0
        self._gathered = 0
        # of the open row group:
        self._encoded_parts: list[Part] = []
        self._encoded = 0
        # of the one that is ending:
        self._ending = 0
        # of all before:
        self._all_encoded = 0
        self._written = 0

    @property
    def held(self) -> int:
        """Bytes in memory for rows that are not written yet."""
        return self._gathered + self._file.held

    def add(
        self, rows: pa.RecordBatch, size: int, source: str, positions: Positions | None
    ) -> None:
        """Takes rows of so many bytes; encodes them and writes a row group when it is time."""
        self._count_written()
        self._batches.append(rows)
        self._parts.append(Part(source, positions, rows.num_rows))
        self._gathered_rows += rows.num_rows
        self._gathered += size + (0 if isinstance(positions, range) else 8 * rows.num_rows)
        self.rows += rows.num_rows
        self._small += rows.num_rows < _SMALL_ROWS
        # the more rows there are to be copied, the longer it has to be worth it
        if self._small >= max(_SMALL_BATCHES, self._gathered // (4 * _BATCH_BYTES)):
            table = pa.Table.from_batches(self._batches, self._table.schema)
            self._batches = table.unify_dictionaries(BLOCKS).combine_chunks(BLOCKS).to_batches()
            self._parts = _joined(self._parts)
            self._small = 0
        room = self._config.row_group_mb * _MB
        if self._in_order and (
            self._gathered_rows >= _AT_ONCE_ROWS or self._gathered >= _AT_ONCE_BYTES
        ):
            self._in_order = self._encode_in_order()
        if self._gathered_rows >= _ROW_GROUP_ROWS or self._gathered >= room / 2:
            self._encode(sort=True)
        if self._file.is_full or self.held >= room:
            self.write_row_group()
        elif self.ratio is None and self.is_full():  # the guess may be far off: see what it is
            self.write_row_group()
            self._file.settle()
            self._count_written()

    def is_full(self) -> bool:
        """Whether the file has its size; what is not written counts with the ratio seen so far."""
        return self._expected_size() >= self._config.max_file_size_mb * _MB

    def write_row_group(self) -> None:
        """Writes what is gathered and encoded; everything in memory is then free."""
        self._encode(sort=True)
        self._end_row_group()

    def publish(self, prefixes: Mapping[str, Prefix]) -> int:
        """Writes the rest and the footer, makes the file appear, and gives its size in bytes."""
        self.write_row_group()
        told = {**self._table.metadata, KEY: self.positions.metadata(prefixes)}
        if self._table.messages is not None:
            told |= self._table.messages()
        self._file.finish(told)
        self._count_written()
        self._output.publish()
        return self._written

    def discard(self) -> None:
        """Leaves nothing of the file."""
        self._file.discard()
        self._output.discard()

    def _encode_in_order(self) -> bool:
        """Encodes what is gathered, in a row group of its own if need be; False when it has to be sorted."""
        if self._encode(sort=False):
            return True
        if self._file.rows < _WORTH_A_ROW_GROUP:
            return False
        self._end_row_group()
        return self._encode(sort=False)

    def _encode(self, *, sort: bool) -> bool:
        """Encodes what is gathered; False when it would have to be sorted and shall not be."""
        if not self._batches:
            return True
        table = pa.Table.from_batches(self._batches, self._table.schema)
        keys = [_comparable(column_of(table, path)) for path in self._table.sort_by]
        parts, size, order = self._parts, self._gathered, None
        if keys and not (self._follows(keys) and _is_sorted(keys)):
            if not sort:
                return False
            table, parts, order = self._sorted(table, keys)
            keys = [_comparable(column_of(table, path)) for path in self._table.sort_by]
            if not self._follows(keys):
                self._end_row_group()
        if size >= _LARGE_BYTES:
            self._end_row_group()  # with more of these readers could not take its texts
        if keys:
            self._last = tuple(key[-1].as_py() for key in keys)
        self._encoded += size
        self._batches, self._parts = [], []
        self._small = self._gathered_rows = self._gathered = 0
        batches, all_rows = deque(table.to_batches()), max(table.num_rows, 1)
        del table, keys
        while batches:
            batch = batches.popleft()
            self._file.append(batch, size * batch.num_rows // all_rows)
            del batch
        self._encoded_parts += parts
        if order is not None or len(self._encoded_parts) >= _MOST_PARTS:
            self._keep_positions(order)
        return True

    def _follows(self, keys: list[pa.ChunkedArray]) -> bool:
        """Whether rows may stand behind the last one of the row group."""
        if self._last is None:
            return True
        first = tuple(key[0].as_py() for key in keys)
        return None not in first and None not in self._last and self._last <= first

    def _sorted(
        self, table: pa.Table, keys: list[pa.ChunkedArray]
    ) -> tuple[pa.Table, list[Part], pa.Array | None]:
        """The rows in the table's order with their parts, and the order where the parts are not in it."""
        import pyarrow.compute as pc

        named = {str(i): key for i, key in enumerate(keys)}
        order = pc.sort_indices(
            pa.table(named), sort_keys=[(key, "ascending") for key in named]
        ).cast(pa.int64())
        runs = _runs(order)
        if runs is not None:
            # hardly anything is out of order: no row is copied
            table = pa.concat_tables([table.slice(start, rows) for start, rows in runs])
            return table, _slices(self._parts, runs), None
        self._keep_positions(None)
        return pc.take(table.unify_dictionaries(), order, memory_pool=BLOCKS), self._parts, order

    def _keep_positions(self, order: pa.Array | None) -> None:
        self.positions.add_row_group(self._encoded_parts, order)
        self._encoded_parts = []

    def _end_row_group(self) -> None:
        if self._encoded == 0:
            return
        self._keep_positions(None)
        self._last = None
        self._file.settle()
        self._count_written()
        self._file.end_row_group()
        # by themselves the allocators keep what they once had
        pa.default_memory_pool().release_unused()
        pa.system_memory_pool().release_unused()
        self._ending = self._encoded
        self._encoded = 0

    def _count_written(self) -> None:
        size = self._file.size
        with self._metrics.lock:
            self._metrics.file_bytes += size - self._written
        self._written = size
        if self._ending and not self._file.is_ending:
            self._all_encoded += self._ending
            self._ending = 0
            self.ratio = size / self._all_encoded

    def _expected_size(self) -> float:
        ratio = _FIRST_RATIO if self.ratio is None else self.ratio
        return self._written + (self._gathered + self._encoded + self._ending) * ratio


def _runs(order: pa.Int64Array) -> list[tuple[int, int]] | None:
    """Where runs of consecutive rows start in an order, and how many rows each has; None if they are short."""
    import pyarrow.compute as pc

    breaks = pc.indices_nonzero(pc.not_equal(pc.subtract(order[1:], order[:-1]), 1))
    if (len(breaks) + 1) * _LEAST_RUN > len(order):
        return None
    bounds: list[Any] = [0, *pc.add(breaks, 1).to_pylist(), len(order)]
    starts = order.take(pa.array(bounds[:-1], pa.int64())).to_pylist()
    return [
        (start, end - begin) for start, (begin, end) in zip(starts, pairwise(bounds), strict=True)
    ]


def _slices(parts: list[Part], runs: Sequence[tuple[int, int]]) -> list[Part]:
    """The parts of some runs of their rows."""
    ends = list(itertools.accumulate(part.rows for part in parts))
    found = []
    for start, rows in runs:
        end = start + rows
        for number in range(bisect_right(ends, start), len(parts)):
            part = parts[number]
            first = ends[number] - part.rows
            if first >= end:
                break
            own = slice(max(start - first, 0), min(end - first, part.rows))
            positions = None if part.positions is None else part.positions[own]
            found.append(Part(part.source, positions, own.stop - own.start))
    return found


def _joined(parts: list[Part]) -> list[Part]:
    """Parts of one source as one, where they follow each other."""
    return [
        Part(
            source,
            concat_positions([part.positions for part in alike]) if known else None,
            sum(part.rows for part in alike),
        )
        for (source, known), group in itertools.groupby(
            parts, key=lambda part: (part.source, part.positions is not None)
        )
        for alike in [list(group)]
    ]


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that Arrow can sort, and Python compare: dictionaries decoded, times as numbers."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_date32(kind):
        return column.cast(pa.int32())
    return column.cast(pa.int64()) if pa.types.is_temporal(kind) else column


def _is_sorted(keys: Sequence[pa.ChunkedArray]) -> bool:
    """Whether rows are in the order of their keys."""
    import pyarrow.compute as pc

    if any(key.null_count for key in keys):
        return False
    sorted_: Any = None
    for key in reversed(keys):
        before, after = key.slice(0, len(key) - 1), key.slice(1)
        if sorted_ is None:
            sorted_ = pc.less_equal(before, after)
        else:
            same = pc.and_(pc.equal(before, after), sorted_)
            sorted_ = pc.or_(pc.less(before, after), same)
    return pc.all(sorted_, min_count=0).as_py() is True


def _snake(name: str) -> str:
    """`ContractData` is `contract_data`, `HTTPCall` is `http_call`."""
    import re

    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
