"""One Parquet file: record batches in, the bytes of the file out.

The native core (`runtime/native/parquet/`) makes pages of rows as they come, so what is in memory of a row
group is what it takes on disk, with the dictionaries. pyarrow says what the schema of a file is, and has the
codecs.

Only encodings that every reader knows are used: dictionaries where they pay, plain values elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from . import _native
from .memory import BLOCKS

__all__ = ["Compressor", "Layout", "ParquetFile"]

DEFAULT_LEVELS: Final = {"zstd": 3}
"""Where ours is not the codec's own: zstd's 1 of Arrow is a tenth faster, and a fifth larger."""

_FAST_LEVELS: Final = {"zstd": 1}
"""For columns (of digests, numbers, places in a dictionary) that a higher level makes no smaller."""

_CODECS: Final = {"none": 0, "snappy": 1, "gzip": 2, "brotli": 4, "zstd": 6, "lz4": 7}
"""Their numbers in parquet.thrift; lz4 is LZ4_RAW there, as the other one is deprecated."""

_TYPES: Final = {
    "BOOLEAN": 0,
    "INT32": 1,
    "INT64": 2,
    "FLOAT": 4,
    "DOUBLE": 5,
    "BYTE_ARRAY": 6,
    "FIXED_LEN_BYTE_ARRAY": 7,
}

_PIECE_BYTES: Final = 2 << 20
"""How many bytes of the file are given away at once."""

_ENDING: Final = 4
"""Row groups that are ending may take so many times what rows may that wait for threads; or it is only one."""

_CREATED_BY: Final = f"cdpgen version {version('cdpgen')}"


class Compressor:
    """Compresses pages, in any number of threads at once.

    Args:
        compression: the codec: zstd, snappy, gzip, lz4, brotli or none.
        level: the codec's level; None for the default.
    """

    def __init__(self, compression: str, level: int | None = None) -> None:
        self.compression: Final = compression
        self._level = level if level is not None else DEFAULT_LEVELS.get(compression)
        self._fast_level = (
            self._level if level is not None else _FAST_LEVELS.get(compression, self._level)
        )
        # codecs have state: each is in one thread's hands at a time
        self._idle: dict[int | None, list[pa.Codec]] = {self._level: [], self._fast_level: []}

    @property
    def has_fast_level(self) -> bool:
        """Whether the codec may choose a faster level than its usual one."""
        return self._fast_level != self._level

    def compress(self, data: Any, *, fast: bool = False) -> Any:
        """The compressed bytes of a buffer."""
        if self.compression == "none":
            return data
        level = self._fast_level if fast else self._level
        try:
            codec = self._idle[level].pop()
        except IndexError:
            name = "lz4_raw" if self.compression == "lz4" else self.compression
            codec = pa.Codec(name, compression_level=level)
        try:
            return codec.compress(data, memory_pool=BLOCKS)
        finally:
            self._idle[level].append(codec)


class Layout:
    """What the files of a table have in common. It learns from the first one which dictionaries pay.

    Not for two threads at once.

    Args:
        schema: of the rows.
        compressor: of the pages.
        sort_by: the columns by which the rows of each row group are sorted, by their paths.
        bloom_filters: the columns that get a bloom filter, by their paths in the file.
        threads: how many encode and compress, beside those that wait for it. They begin with the first rows.
        ahead: bytes of rows of a file that may wait for the threads.
    """

    def __init__(
        self,
        schema: pa.Schema,
        compressor: Compressor,
        sort_by: Sequence[str] = (),
        bloom_filters: Sequence[str] = (),
        threads: int = 0,
        ahead: int = 8 << 20,
    ) -> None:
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, store_schema=True):
            pass
        empty = sink.getvalue()
        metadata = pq.read_metadata(pa.BufferReader(empty))
        self.metadata: Final[dict[str, bytes]] = {
            key.decode(): value for key, value in (metadata.metadata or {}).items()
        }
        columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
        paths = [column.path for column in columns]

        def compress(address: int, size: int, fast: bool) -> Any:
            body = pa.foreign_buffer(address, size) if size else pa.py_buffer(b"")
            return compressor.compress(body, fast=fast)

        # the files with a row group that is ending, and what that takes in memory, about
        self.ending: Final[dict[ParquetFile, int]] = {}
        self.most_ending: Final = _ENDING * ahead
        self.native: Final = _native.ParquetLayout(
            schema,
            _encoded_schema(empty.to_pybytes()),
            [
                (
                    column.path,
                    _TYPES[column.physical_type],
                    column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0,
                    column.max_definition_level,
                    column.max_repetition_level,
                )
                for column in columns
            ],
            _CODECS[compressor.compression],
            compressor.has_fast_level,
            compress,
            [paths.index(path) for path in sort_by],
            [paths.index(path) for path in bloom_filters],
            threads,
            ahead,
        )


class ParquetFile:
    """A file that is being written. Not for two threads at once.

    Args:
        layout: what it has in common with others.
        write: takes the next bytes of the file; may raise, and the file is then lost.
    """

    def __init__(self, layout: Layout, write: Callable[[bytes], object]) -> None:
        self._layout = layout
        self._write = write
        self._native = _native.ParquetFile(layout.native)

    @property
    def rows(self) -> int:
        """In the row group that is open."""
        return self._native.rows

    @property
    def is_full(self) -> bool:
        """Whether the row group has the rows, or a dictionary, that it may have."""
        return self._native.is_full

    @property
    def held(self) -> int:
        """Bytes in memory for the row group."""
        return self._native.held if self._native.rows else 0

    @property
    def size(self) -> int:
        """Of the file so far, without row groups that are open or ending."""
        return self._native.size

    @property
    def is_ending(self) -> bool:
        """Whether a row group is ended and not written yet."""
        return self in self._layout.ending

    def append(self, rows: pa.RecordBatch, size: int | None = None) -> None:
        """Takes rows into the row group, to be encoded by the layout's threads.

        Args:
            rows: what to write.
            size: of the rows in memory, about, if the caller knows.

        Raises:
            ValueError: a null where the schema has none; a later call may be the one to raise it.
        """
        self._native.append(rows, rows.nbytes if size is None else size)
        first = next(iter(self._layout.ending), None)
        if first is not None and first._native.is_settled:
            first.settle()

    def end_row_group(self) -> None:
        """Ends the row group, if it has rows: once the layout's threads have made the rest of it, it is written
        with what comes next.
        """
        if self._native.rows == 0:
            return
        self.settle()
        ending, held = self._layout.ending, self.held
        while ending and sum(ending.values()) + held > self._layout.most_ending:
            next(iter(ending)).settle()
        self._native.end_row_group()
        ending[self] = held

    def settle(self) -> None:
        """Writes the row group that is ending, if there is one; waits for it."""
        if self._layout.ending.pop(self, None) is not None:
            self._native.settle()
            self._hand_over()

    def discard(self) -> None:
        """Leaves nothing of it."""
        self._layout.ending.pop(self, None)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Writes the rest and the footer, with these keys and values."""
        self.end_row_group()
        self.settle()
        told = {**self._layout.metadata, **{k: v.encode() for k, v in metadata.items()}}
        self._native.finish(list(told.items()), _CREATED_BY)
        self._hand_over()

    def _hand_over(self) -> None:
        while piece := self._native.take(_PIECE_BYTES):
            self._write(piece)


def _encoded_schema(file: bytes) -> bytes:
    """The list of schema elements in the footer of a file: field 2 of FileMetaData, as it is encoded."""
    footer = file[-8 - int.from_bytes(file[-8:-4], "little") : -8]
    reader = _Thrift(footer)
    field = 0
    while True:
        step, kind = divmod(footer[reader.at], 16)
        reader.at += 1
        field += step
        begin = reader.at
        reader.skip(kind)
        if field == 2:
            return footer[begin : reader.at]


class _Thrift:
    """Steps over values of Thrift's compact protocol, in what pyarrow has written."""

    _STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BYTES, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def skip(self, kind: int, *, in_list: bool = False) -> None:
        if kind in (self._TRUE, self._FALSE):
            self.at += in_list
        elif kind == self._BYTE:
            self.at += 1
        elif kind == self._DOUBLE:
            self.at += 8
        elif kind == self._BYTES:
            size = self.varint()
            self.at += size
        elif kind in (self._LIST, self._SET):
            size, element = divmod(self.data[self.at], 16)
            self.at += 1
            if size == 15:
                size = self.varint()
            for _ in range(size):
                self.skip(element, in_list=True)
        elif kind == self._STRUCT:
            while (head := self.data[self.at]) != self._STOP:
                self.at += 1
                if head < 16:
                    self.varint()
                self.skip(head % 16)
            self.at += 1
        else:
            self.varint()
