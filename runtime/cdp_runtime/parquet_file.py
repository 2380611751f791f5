"""One Parquet file: record batches in, the bytes of the file out.

The native core (`runtime/native/parquet/`) makes pages of rows as they come, so what is in memory of a row
group is what it takes on disk, with the dictionaries. pyarrow says what the schema of a file is, and has the
codecs.

Only encodings that every reader knows are used: dictionaries where they pay, plain values elsewhere.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
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

_WAITING_BYTES: Final = 8 << 20
"""Of pages that wait to be compressed; who adds more compresses one itself."""

_PIECE_BYTES: Final = 2 << 20
"""How many bytes of the file are given away at once."""

_CREATED_BY: Final = f"cdpgen version {version('cdpgen')}"


class Compressor:
    """Compresses pages, in threads of its own and in those that wait for it.

    Args:
        compression: the codec: zstd, snappy, gzip, lz4, brotli or none.
        level: the codec's level; None for the default.
        threads: how many it has of its own.
    """

    def __init__(self, compression: str, level: int | None = None, threads: int = 0) -> None:
        self.compression: Final = compression
        self._level = level if level is not None else DEFAULT_LEVELS.get(compression)
        self._fast_level = (
            self._level if level is not None else _FAST_LEVELS.get(compression, self._level)
        )
        self._own = threading.local()  # codecs have state
        self._changed = threading.Condition()
        self._pages: deque[tuple[_native.ParquetPage, _Pending]] = deque()
        self._waiting = 0
        self._closed = False
        # daemons: a writer that nobody closes must not keep the interpreter from exiting
        self._to_start = [
            threading.Thread(target=self._run, name=f"compress {number}", daemon=True)
            for number in range(threads)
        ]

    @property
    def has_fast_level(self) -> bool:
        """Whether the codec may choose a faster level than its usual one."""
        return self._fast_level != self._level

    def compress(self, data: Any, *, fast: bool = False) -> Any:
        """The compressed bytes of a buffer."""
        if self.compression == "none":
            return data
        level = self._fast_level if fast else self._level
        if not hasattr(self._own, "codecs"):
            self._own.codecs = {}
        codec = self._own.codecs.get(level)
        if codec is None:
            name = "lz4_raw" if self.compression == "lz4" else self.compression
            codec = self._own.codecs[level] = pa.Codec(name, compression_level=level)
        return codec.compress(data, memory_pool=BLOCKS)

    def close(self) -> None:
        """Ends the threads; pages that wait are for who waits for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, pages: Iterable[_native.ParquetPage], pending: _Pending) -> None:
        for page in pages:
            with self._changed:
                while self._to_start:
                    self._to_start.pop().start()
                pending.pages += 1
                self._pages.append((page, pending))
                self._waiting += page.size
                self._changed.notify_all()
                much = self._waiting > _WAITING_BYTES
            if much:
                self._do_one()

    def _wait(self, pending: _Pending) -> None:
        """Returns when all pages are stored, and raises what was wrong with one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pages or pending.pages == 0)
                if pending.pages == 0:
                    break
            self._do_one()
        if pending.error is not None:
            raise pending.error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pages or self._closed)
                if self._closed:
                    return
            self._do_one()

    def _do_one(self) -> None:
        with self._changed:
            if not self._pages:
                return
            page, pending = self._pages.popleft()
            self._waiting -= page.size
        error: BaseException | None = None
        try:
            page.store(self.compress(_body_of(page), fast=page.is_fast))
        except BaseException as raised:
            error = raised
        with self._changed:
            pending.pages -= 1
            pending.error = pending.error or error
            self._changed.notify_all()


class _Pending:
    """How many pages of a file wait or are at work, and what was wrong with one."""

    def __init__(self) -> None:
        self.pages = 0
        self.error: BaseException | None = None


class Layout:
    """What the files of a table have in common. It learns from the first one which dictionaries pay.

    Not for two threads at once.

    Args:
        schema: of the rows.
        compressor: of the pages.
        sort_by: the columns by which the rows of each row group are sorted, by their paths.
        bloom_filters: the columns that get a bloom filter, by their paths in the file.
        threads: how many help to encode columns.
    """

    def __init__(
        self,
        schema: pa.Schema,
        compressor: Compressor,
        sort_by: Sequence[str] = (),
        bloom_filters: Sequence[str] = (),
        threads: int = 0,
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

        def size_of(address: int, size: int, fast: bool) -> int:
            if fast and not compressor.has_fast_level:
                return 0
            body = pa.foreign_buffer(address, size)
            return int(compressor.compress(body, fast=fast).size)

        self.compressor: Final = compressor
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
            [paths.index(path) for path in sort_by],
            [paths.index(path) for path in bloom_filters],
            threads,
            size_of,
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
        self._pending = _Pending()

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
        """Of the file so far, the open row group left out."""
        return self._native.size

    def append(self, rows: pa.RecordBatch) -> None:
        """Takes rows into the row group.

        Raises:
            ValueError: a null where the schema has none.
        """
        self._native.append(rows)
        self._layout.compressor._add(self._native.take_pages(), self._pending)

    def end_row_group(self) -> None:
        """Writes the row group, if it has rows."""
        if self._native.rows == 0:
            return
        self._native.end_row_group()
        self._layout.compressor._add(self._native.take_pages(), self._pending)
        self._layout.compressor._wait(self._pending)
        self._native.write_row_group()
        self._hand_over()

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Writes the rest and the footer, with these keys and values."""
        self.end_row_group()
        told = {**self._layout.metadata, **{k: v.encode() for k, v in metadata.items()}}
        self._native.finish(list(told.items()), _CREATED_BY)
        self._hand_over()

    def _hand_over(self) -> None:
        while piece := self._native.take(_PIECE_BYTES):
            self._write(piece)


def _body_of(page: _native.ParquetPage) -> pa.Buffer:
    """The bytes of a page, which live as long as they are needed."""
    if page.size == 0:
        return pa.py_buffer(b"")
    return pa.foreign_buffer(page.address, page.size, page)


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
