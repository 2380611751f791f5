"""The order of a replay: messages that wait for others that come before them.

What has to wait beyond `_HELD_BYTES` (many partitions or sources whose positions lie between each other) is put
aside in sorted slices in a temporary file, from where each comes back when its turn is there.
"""

from __future__ import annotations

import bisect
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["KEY", "Held", "Rows"]

# The stubs of pyarrow lack too much to type these.
Array: TypeAlias = Any

KEY: Final = pa.uint64()
"""The type of the keys by which messages are ordered."""

_HELD_BYTES: Final = 128 << 20
_EMIT_BYTES: Final = 16 << 20
_SLICE_BYTES: Final = 4 << 20
_BESIDE: Final = 16


class Rows(NamedTuple):
    """Messages and their keys, by which they are ordered."""

    keys: Array
    records: Array

    @property
    def size(self) -> int:
        """The bytes that they take in memory, about."""
        return _size(self.records)


class _Slice(NamedTuple):
    """Messages put aside, in their order: where they are in the temporary file."""

    first: int
    number: int
    offset: int
    size: int


class Held:
    """Messages that wait for others that come before them; beyond a size in a temporary file."""

    def __init__(self) -> None:
        self._chunks: list[Rows] = []
        self._size = 0
        self._fresh = 0
        self._file: IO[bytes] | None = None
        self._slices: list[_Slice] = []
        self._end = 0
        self._number = 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, rows: Rows) -> None:
        """Takes messages."""
        if len(rows.keys):
            self._chunks.append(rows)
            self._size += rows.size
            self._fresh += rows.size

    def before(self, limit: int) -> Iterator[Array]:
        """The messages with smaller keys, in their order, once they are worth the work."""
        if self._fresh >= _EMIT_BYTES:
            self._fresh = 0
            yield from self._until(limit)
            self._put_aside()

    def rest(self) -> Iterator[Array]:
        """All messages, in their order."""
        yield from self._until(None)

    def _until(self, limit: int | None) -> Iterator[Array]:
        while True:
            ends = [self._slices[0].first] if self._slices else []
            if limit is not None:
                ends.append(limit)
            yield from self._taken(min(ends, default=None))
            if not self._slices or (limit is not None and self._slices[0].first >= limit):
                return
            self._bring_back()
            self._put_aside()

    def _taken(self, limit: int | None) -> Iterator[Array]:
        """Gives the messages in memory with smaller keys, or the same.

        Those of one key have no order; to give them is to go on even where a caller gave one position to all.
        """
        taken, kept = [], []
        for chunk in self._chunks:
            if limit is None:
                taken.append(chunk)
                continue
            inside: Array = pc.less_equal(chunk.keys, pa.scalar(limit, KEY))
            count = pc.sum(inside, min_count=0).as_py()
            if count == len(inside):
                taken.append(chunk)
            elif count == 0:
                kept.append(chunk)
            else:
                outside = pc.invert(inside)
                taken.append(Rows(*(column.filter(inside) for column in chunk)))
                kept.append(Rows(*(column.filter(outside) for column in chunk)))
        if taken:
            self._chunks = kept
            self._size = sum(chunk.size for chunk in kept)
            yield _sorted(taken).records

    def _put_aside(self) -> None:
        """Writes what comes last to the temporary file, where too much is in memory."""
        if self._size <= _HELD_BYTES:
            return
        keys, records = _sorted(self._chunks)
        rows = len(keys)
        at = max(1, _rows_within(records, 0, _HELD_BYTES // 2))
        self._chunks = [Rows(_copied(keys, 0, at), _copied(records, 0, at))]
        while at < rows:
            count = max(1, _rows_within(records, at, _SLICE_BYTES))
            self._write(Rows(keys.slice(at, count), records.slice(at, count)))
            at += count
        self._size = self._chunks[0].size

    def _write(self, rows: Rows) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="cdpgen-replay-")  # noqa: SIM115 - closed in __exit__
        batch = pa.record_batch(list(rows), names=["key", "record"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(
            sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
        ) as stream:
            stream.write_batch(batch)
        data = sink.getvalue()
        if not self._slices:
            self._end = 0  # nobody needs anymore what is there
        self._file.seek(self._end)
        self._file.write(memoryview(data))
        self._file.flush()
        self._number += 1
        first = rows.keys[0].as_py()
        heapq.heappush(self._slices, _Slice(first, self._number, self._end, data.size))
        self._end += data.size

    def _bring_back(self) -> None:
        assert self._file is not None
        taken = heapq.heappop(self._slices)
        self._file.seek(taken.offset)
        with pa.ipc.open_stream(self._file.read(taken.size)) as stream:
            batch = stream.read_next_batch()
        self._chunks.append(Rows(*batch.columns))
        self._size += self._chunks[-1].size


def _sorted(chunks: Sequence[Rows]) -> Rows:
    """Messages as one, in the order of their keys."""
    keys = pa.concat_arrays([chunk.keys for chunk in chunks])
    records = pa.concat_arrays([chunk.records for chunk in chunks])
    if pc.all(pc.less_equal(keys.slice(0, len(keys) - 1), keys.slice(1)), min_count=0).as_py():
        return Rows(keys, records)
    order = pc.sort_indices(keys)
    return Rows(keys.take(order), records.take(order))


def _size(records: Array) -> int:
    """The bytes of an array's values and of what stands around them."""
    ends = _ends(records)
    length: int = ends[len(records)].as_py() - ends[0].as_py()
    return length + _BESIDE * len(records)


def _ends(records: Array) -> Array:
    """Where in an array's data each value begins, and the last one ends."""
    buffers = [None, records.buffers()[1]]
    return pa.Array.from_buffers(pa.int64(), len(records) + 1, buffers, offset=records.offset)


def _rows_within(records: Array, start: int, size: int) -> int:
    """How many values from one on take no more than so many bytes, counted as `_size` does."""
    ends = _ends(records)
    first = ends[start].as_py()
    rows = range(1, len(records) - start + 1)
    return bisect.bisect_right(
        rows, size, key=lambda count: ends[start + count].as_py() - first + _BESIDE * count
    )


def _copied(array: Array, start: int, count: int) -> Array:
    """A part of an array that does not keep the rest in memory."""
    return pa.concat_arrays([array.slice(start, count), array.slice(0, 0)])
