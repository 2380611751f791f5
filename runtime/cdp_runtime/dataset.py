"""`open_archive`: the files of all versions of a table, as one lazy dataset in today's schema.

What a scan reads, in three steps, each of which leaves out what the next need not look at:

1. folders: their names say what the rows below them hold (`ledger_day=2024-04-21`), without opening a file;
2. row groups: the statistics in the footers of the files that are left, told in today's names and types;
3. rows: the columns that are asked for, made today's (`cdp_runtime.versions`), then filtered.

Arrow itself decides what a filter leaves out in the first two (`_possible`). A file is opened once in a scan
and its footer read from what its data is read from, so that a file replaced meanwhile is read as it was.
"""

from __future__ import annotations

import base64
import datetime
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from .archive import load_tables, writer_of
from .config import ConfigError
from .converter import Converter
from .former import told_implicit, told_needed, told_required
from .partition import Column, Day, Hour, Partition, Range
from .provenance import WRITTEN_AS, other_lock
from .router import NULL
from .storage import Storage, forbid_table_folder, open_storage
from .trouble import FOREIGN, unreadable
from .versions import Evolution, field_id, is_nested, is_text, with_retired, without_columns
from .writer import TableWriter

__all__ = [
    "KEPT",
    "OLDER",
    "Archive",
    "ArchiveError",
    "Scan",
    "ahead",
    "evolution_of",
    "folder_keys",
    "older_ids",
    "open_archive",
    "open_parquet",
    "tells_kept",
    "told_kept",
    "written_as",
]

# The stubs of pyarrow lack too much to type these.
Array: TypeAlias = Any
Expression: TypeAlias = Any
Field: TypeAlias = Any
Scalar: TypeAlias = Any

Columns: TypeAlias = Sequence[str] | Mapping[str, Expression] | None
"""Names of columns, or expressions by the names that they get."""

T = TypeVar("T")
R = TypeVar("R")

OLDER: Final = "cdpgen.older"
"""The key in a footer with the ids of columns that the file has though its rows are older."""

KEPT: Final = "cdpgen.kept"
"""The key in the footer of an upgraded file with the rows that a writer kept whole in `_raw`, and no upgrade:
base64 of zstd of a bit each."""

_FORMAT: Final = ds.ParquetFileFormat()
_NOWHERE: Final = LocalFileSystem()

_BATCH_ROWS: Final = 131_072
_READERS: Final = 4
_FILES_AHEAD: Final = 8
_ROW_GROUPS_AHEAD: Final = 2


class ArchiveError(OSError):
    """An archive cannot be read; the message names the file and what to do."""


def open_archive(
    url: str | os.PathLike[str],
    table: str,
    *,
    generated: str | os.PathLike[str] = "generated",
    columns: Sequence[str] | None = None,
    filter: Expression | None = None,
    retired: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Archive:
    """Opens one table of an archive; nothing but the names of its files is read yet.

    Args:
        url: the archive: a path or a URL of any fsspec protocol.
        table: the full name of the message: `stellar.v1.ContractData`.
        generated: the folder that `cdpgen build` wrote; today's schema is what its writer says.
        columns: only these, in this order; all when left out.
        filter: only rows for which this holds, in today's names: `pyarrow.compute.field("ledger") > 5`.
        retired: whether columns that only older files have follow today's, under the names that they had last
            (this reads the footers of all files).
        storage_options: what the filesystem takes besides the URL.

    Returns:
        A pyarrow dataset that DuckDB, Polars and pyarrow read with their projections and filters pushed
        down to partitions and row groups. Besides today's columns it has the levels of folders that all
        files have and that are no columns, as `cdpgen sql` does.

    Raises:
        ConfigError: there is no such table in `generated`, or no such column.
        ArchiveError: the archive has no files of the table, or a footer cannot be read.
        StorageError: the store cannot be used, or the URL is that of a folder within an archive.
    """
    writers = load_tables(generated)
    writer = writer_of(writers, table, generated)
    storage = open_storage(url, storage_options=storage_options)
    forbid_table_folder(storage)
    paths = [file.path for file in storage.files(f"{table}/")]
    if not paths:
        forbid_table_folder(storage, [table], [file.path for file in storage.files()])
        raise ArchiveError(f"{storage.describe(table)}: there are no files of {table}")
    files = _Files(storage, writer, paths, retired)
    unknown = [name for name in columns or () if name not in files.schema.names]
    if unknown:
        raise ConfigError(
            f"{table} has no column {unknown[0]}; it has {', '.join(files.schema.names)}"
        )
    return Archive(files, list(columns) if columns is not None else None, filter)


class Archive(ds.FileSystemDataset):
    """The rows of a table in all its files, in today's schema. Make one with `open_archive`.

    It is a `pyarrow.dataset.Dataset` for those who take one (DuckDB, Polars), and reads by itself: those of
    pyarrow find columns by name only.
    """

    def __init__(
        self, files: _Files, columns: Sequence[str] | None, filter: Expression | None
    ) -> None:
        # What pyarrow would do with the files by itself (`sort_by`, `join`) would find columns by name; it
        # finds this instead.
        nothing = _FORMAT.make_fragment("an archive does not do that: use to_table()", _NOWHERE)
        super().__init__([nothing], files.schema, _FORMAT, _NOWHERE)
        self._files = files
        self._columns = columns
        self._filter = filter

    @property
    def schema(self) -> pa.Schema:
        """Today's columns, those that are retired if asked for, and the levels of folders."""
        if self._columns is None:
            return self._files.schema
        return pa.schema([self._files.schema.field(name) for name in self._columns])

    @property
    def files(self) -> list[str]:
        """The paths of the files as a person would type them."""
        return [self._files.storage.describe(path) for path in self._files.paths]

    def scanner(  # type: ignore[override]
        self,
        columns: Columns = None,
        filter: Expression | None = None,
        batch_size: int = _BATCH_ROWS,
        **options: Any,
    ) -> Scan:
        """A scan of some columns and rows.

        Args:
            columns: names, or expressions by the names that they get; all columns when left out.
            filter: which rows.
            batch_size: rows of a batch at most.
            **options: what else `pyarrow.dataset.Dataset.scanner` takes, which has no meaning here.
        """
        if columns is None:
            columns = self.schema.names
        filters = [each for each in (self._filter, filter) if each is not None]
        both = filters[0] & filters[1] if len(filters) == 2 else filters[0] if filters else None
        return Scan(self._files, columns, both, batch_size)

    def filter(self, expression: Expression) -> Archive:
        """The rows of this for which an expression holds."""
        both = expression if self._filter is None else self._filter & expression
        return Archive(self._files, self._columns, both)

    def to_batches(  # type: ignore[override]
        self, columns: Columns = None, filter: Expression | None = None, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        """The rows, a batch at a time; takes what `scanner` does."""
        return self.scanner(columns, filter, **options).to_batches()

    def to_table(  # type: ignore[override]
        self, columns: Columns = None, filter: Expression | None = None, **options: Any
    ) -> pa.Table:
        """The rows; takes what `scanner` does."""
        return self.scanner(columns, filter, **options).to_table()

    def head(  # type: ignore[override]
        self,
        num_rows: int,
        columns: Columns = None,
        filter: Expression | None = None,
        **options: Any,
    ) -> pa.Table:
        """The first rows; takes what `scanner` does."""
        return self.scanner(columns, filter, **options).head(num_rows)

    def count_rows(  # type: ignore[override]
        self, filter: Expression | None = None, **options: Any
    ) -> int:
        """How many rows there are for which a filter holds."""
        return self.scanner(None, filter, **options).count_rows()

    def take(  # type: ignore[override]
        self,
        indices: Any,
        columns: Columns = None,
        filter: Expression | None = None,
        **options: Any,
    ) -> pa.Table:
        """The rows of these numbers."""
        return self.to_table(columns, filter, **options).take(indices)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows for any library that speaks the Arrow C stream interface."""
        stream: Any = self.scanner().to_reader()
        return stream.__arrow_c_stream__(requested_schema)

    def __reduce__(self) -> Any:
        raise TypeError("an archive does not travel between processes; open it in each")


class Scan:
    """Some columns of some rows of an archive; what `pyarrow.dataset.Scanner` is to a dataset."""

    def __init__(
        self,
        files: _Files,
        columns: Sequence[str] | Mapping[str, Expression],
        filter: Expression | None,
        batch_size: int,
    ) -> None:
        self._files = files
        self._filter = filter
        self._batch_size = batch_size
        by_name = isinstance(columns, Mapping)
        self._expressions = dict(cast("Mapping[str, Expression]", columns)) if by_name else None
        wanted = () if by_name else columns
        asked = [*(self._expressions or {}).values(), *([filter] if filter is not None else [])]
        named = _named_in(asked, files.schema.names)
        unknown = [name for name in wanted if name not in files.schema.names]
        if unknown:
            raise pa.ArrowInvalid(
                f"no column {unknown[0]}; there are {', '.join(files.schema.names)}"
            )
        self._wanted = list(wanted)
        self._needed = list(dict.fromkeys([*wanted, *named]))
        self._named = _named_in([filter], files.schema.names) if filter is not None else []
        self.projected_schema: Final = self._project(self._empty()).schema

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, a batch at a time."""
        for rows in self._rows():
            yield from self._project(rows).to_batches(max_chunksize=self._batch_size)

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows, a batch at a time."""
        return pa.RecordBatchReader.from_batches(self.projected_schema, self.to_batches())

    def to_table(self) -> pa.Table:
        """The rows."""
        return pa.Table.from_batches(self.to_batches(), self.projected_schema)

    def head(self, num_rows: int) -> pa.Table:
        """The first rows."""
        batches: list[pa.RecordBatch] = []
        left = num_rows
        for batch in self.to_batches():
            batches.append(batch.slice(0, left))
            left -= batches[-1].num_rows
            if left <= 0:
                break
        return pa.Table.from_batches(batches, self.projected_schema)

    def count_rows(self) -> int:
        """How many rows there are; from the footers alone where there is no filter."""
        if self._filter is None:
            with ThreadPoolExecutor(_READERS) as pool:
                counts = ahead(pool, self._files.count, self._files.paths, _FILES_AHEAD)
                return sum(counts)
        return sum(rows.num_rows for rows in self._rows())

    def _rows(self) -> Iterator[pa.Table]:
        """The needed columns of the rows that the filter lets pass, a row group at a time."""
        paths = self._files.possible(self._filter)
        with ThreadPoolExecutor(_READERS) as pool:
            opened = ahead(pool, self._open, paths, _FILES_AHEAD)
            groups = ((file, group) for file, numbers in opened for group in numbers)
            for table in ahead(pool, self._read, groups, _ROW_GROUPS_AHEAD):
                if table.num_rows:
                    yield table

    def _open(self, path: str) -> tuple[_File, list[int]]:
        file = _File(self._files, path)
        return file, file.possible(self._filter, self._named)

    def _read(self, task: tuple[_File, int]) -> pa.Table:
        file, group = task
        rows = file.read(group, self._needed)
        return rows if self._filter is None else rows.filter(self._filter)

    def _empty(self) -> pa.Table:
        fields = [self._files.schema.field(name) for name in self._needed]
        empty = pa.schema(fields).empty_table()
        return empty if self._filter is None else empty.filter(self._filter)

    def _project(self, rows: pa.Table) -> pa.Table:
        if self._expressions is None:
            return rows.select(self._wanted)
        from pyarrow import acero

        project = acero.ProjectNodeOptions(
            list(self._expressions.values()), list(self._expressions)
        )
        return acero.Declaration.from_sequence(
            [
                acero.Declaration("table_source", acero.TableSourceNodeOptions(rows)),
                acero.Declaration("project", project),
            ]
        ).to_table(use_threads=False)


def _named_in(expressions: Iterable[Expression], names: Sequence[str]) -> list[str]:
    """The columns that expressions ask for, and perhaps some more: pyarrow does not tell them otherwise."""
    text = " ".join(map(str, expressions))
    if "FieldPath(" in text:  # by number
        return list(names)
    return [name for name in names if name in text]


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], depth: int
) -> Iterator[R]:
    """What a function makes of items, in their order, some of it worked out ahead."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


# ---- Files


class _Files:
    """The files of a table, and what their rows look like from today.

    Attributes:
        schema: today's columns, those that are retired if asked for, and the levels of folders.
    """

    def __init__(
        self,
        storage: Storage,
        writer: type[TableWriter[Any]],
        paths: Sequence[str],
        retired: bool,
    ) -> None:
        self.storage: Final = storage
        self.paths: Final = paths
        self.writer: Final = writer
        self.converter: Final = writer.converter()
        self.defaults: Final[Mapping[str, Any]] = writer.defaults
        today = writer.converter.schema
        if retired:
            with ThreadPoolExecutor(_READERS) as pool:
                found = list(ahead(pool, self._version_of, paths, _FILES_AHEAD))
            newest = sorted(found, key=lambda one: -one[0])
            today = with_retired(today, [schema for _, schema in newest])
        self.columns: Final = today
        keys = [(path, folder_keys(path)) for path in paths]
        levels = _levels([each for _, each in keys], today.names)
        self.keys: Final = {
            path: {name: _key(each[name], kind) for name, kind in levels.items()}
            for path, each in keys
        }
        self.schema: Final = pa.schema(
            [*today, *(pa.field(name, kind) for name, kind in levels.items())]
        )
        self._specs = _specs(writer)

    def possible(self, filter: Expression | None) -> list[str]:
        """The files that may have rows for which a filter holds, told from their folders alone."""
        if filter is None:
            return list(self.paths)
        told: dict[str, Expression] = {}
        guarantees = []
        for path in self.paths:
            folder = path.rpartition("/")[0]
            if folder not in told:
                told[folder] = _all(self._folder(path))
            guarantees.append(told[folder])
        return [self.paths[i] for i in _possible(guarantees, filter, self.schema)]

    def _folder(self, path: str) -> Iterator[Expression]:
        for name, value in self.keys[path].items():
            yield pc.field(name) == value if value.is_valid else pc.field(name).is_null()
        for name, text in folder_keys(path).items():
            if name in self._specs and text != NULL:
                yield from _held(self._specs[name], text, self.columns)

    def guarantees(self, path: str) -> list[Expression]:
        """What a file's folders say of its rows."""
        return list(self._folder(path))

    def count(self, path: str) -> int:
        """How many rows a file has."""
        return open_parquet(self.storage, path).metadata.num_rows

    def _version_of(self, path: str) -> tuple[int, pa.Schema]:
        parquet = open_parquet(self.storage, path)
        return int(written_as(parquet.metadata.metadata or {}) or 0), parquet.schema_arrow


class _File:
    """One open file."""

    def __init__(self, files: _Files, path: str) -> None:
        self._files = files
        self._path = path
        self.shown: Final = files.storage.describe(path)
        self.parquet: Final = open_parquet(files.storage, path)
        # a row group is fetched ahead into what all of a file have in common
        self._reading: Final = threading.Lock()
        told = self.parquet.metadata.metadata or {}
        clash = other_lock(told, files.writer)
        if clash:
            raise ArchiveError(f"{self.shown}: {clash}")
        try:
            self._evolution = evolution_of(
                self.parquet,
                files.converter,
                files.columns,
                current=told.get(b"cdpgen.fingerprint", b"").decode() == files.writer.fingerprint,
                defaults=files.defaults,
            )
        except ValueError as error:
            raise ArchiveError(f"{self.shown}: {error}") from None

    def possible(self, filter: Expression | None, named: Sequence[str]) -> list[int]:
        """The row groups that may have rows for which a filter holds.

        Args:
            filter: in today's names.
            named: the columns that it asks for.
        """
        groups = range(self.parquet.metadata.num_row_groups)
        if filter is None:
            return list(groups)
        folder = self._files.guarantees(self._path)
        leaves = {
            self.parquet.metadata.schema.column(i).path: i
            for i in range(self.parquet.metadata.num_columns)
        }
        guarantees = [_all([*folder, *self._statistics(g, named, leaves)]) for g in groups]
        return _possible(guarantees, filter, self._files.schema)

    def _statistics(
        self, group: int, named: Sequence[str], leaves: Mapping[str, int]
    ) -> Iterator[Expression]:
        footer = self.parquet.metadata.row_group(group)
        raw = self._evolution.raw
        if raw is not None:
            kept: Any = footer.column(leaves[raw]).statistics
            if kept is None or not kept.has_null_count or kept.null_count < footer.num_rows:
                return  # some rows are made of that, and the columns say nothing of them
        for name in named:
            if name in self._files.keys[self._path] or not self._evolution.is_plain(name):
                continue
            target, source = self._files.columns.field(name), self._evolution.source_of(name)
            if source is None:
                if not is_nested(target.type):
                    value = self._evolution.missing(name)
                    yield _equal(pc.field(name), value)
            elif source.name in leaves:
                statistics = footer.column(leaves[source.name]).statistics
                if statistics is not None:
                    yield from _bounds(statistics, source, target)

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """The rows of a row group, as today's.

        Raises:
            ArchiveError: the file is damaged, or a value does not fit today's column.
        """
        keys = self._files.keys[self._path]
        own = [name for name in columns if name not in keys]
        try:
            needed = self._evolution.needs(own)
            with self._reading:
                table = self.parquet.read_row_group(group, columns=needed)
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(unreadable(self.shown, error)) from None
        footer = self.parquet.metadata
        first = sum(footer.row_group(before).num_rows for before in range(group))
        batches = []
        try:
            for batch in _batches(table):
                batches.append(self._evolution.apply(batch, own, first))
                first += batch.num_rows
        except pa.ArrowException as error:
            raise ArchiveError(f"{self.shown}: cannot be read: {error}") from None
        made = pa.Table.from_batches(batches)
        for name in columns:
            if name in keys:
                values = pa.repeat(keys[name], table.num_rows)
                made = made.append_column(self._files.schema.field(name), values)
        return made.select(list(columns)) if made.num_columns else made


def _batches(table: pa.Table) -> list[pa.RecordBatch]:
    return table.to_batches() if table.num_columns else [without_columns(table.num_rows)]


def open_parquet(storage: Storage, path: str) -> pq.ParquetFile:
    """Opens a published file.

    Raises:
        ArchiveError: it is no Parquet file, or none of cdpgen, or the store fails; its cause says whether that
            may pass.
    """
    shown = storage.describe(path)
    try:
        parquet = pq.ParquetFile(
            storage.open(path), pre_buffer=True, page_checksum_verification=True
        )
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ArchiveError(unreadable(shown, error)) from error
    schema = parquet.schema_arrow
    if not len(schema) or any(field_id(field) is None for field in schema):
        raise ArchiveError(f"{shown}: its columns have no field ids, so {FOREIGN}")
    return parquet


def written_as(footer: Mapping[bytes, bytes]) -> str:
    """The version of a table that first wrote the rows of a file."""
    version = footer.get(b"cdpgen.version", b"")
    return footer.get(WRITTEN_AS.encode(), version).decode()


def older_ids(footer: Mapping[bytes, bytes]) -> list[int]:
    """The ids in a footer of the columns that the file has though its rows are older."""
    return [int(number) for number in footer.get(OLDER.encode(), b"").decode().split(",") if number]


def told_kept(kept: Sequence[Array]) -> str:
    """What a footer says under `KEPT`.

    Args:
        kept: true or false for each row of the file, a batch at a time.
    """
    bits = pa.concat_arrays([pa.array([], pa.bool_()), *kept]).buffers()[1]
    return base64.b64encode(pa.compress(bits or b"", codec="zstd", asbytes=True)).decode()


def tells_kept(footer: Mapping[bytes, bytes]) -> bool:
    """Whether it is known which rows a writer kept whole: all that are, or those that an upgrade told."""
    return WRITTEN_AS.encode() not in footer or KEPT.encode() in footer


def evolution_of(
    parquet: pq.ParquetFile,
    converter: Converter[Any],
    schema: pa.Schema,
    *,
    current: bool,
    defaults: Mapping[str, Any] | None,
) -> Evolution:
    """What makes rows of a file rows of today's, by what its footer tells.

    Args:
        parquet: the file.
        converter: today's.
        schema: what rows become; see `Evolution`.
        current: whether the file is of today's version.
        defaults: of the rules.

    Raises:
        ValueError: what the footer tells cannot be read.
    """
    told = parquet.metadata.metadata or {}
    source = parquet.schema_arrow
    return Evolution(
        converter,
        schema,
        source,
        current=current,
        older=older_ids(told),
        kept=_kept_rows(told, parquet.metadata.num_rows),
        settled=_settled_ids(told),
        upgraded=WRITTEN_AS.encode() in told,
        implicit=[*told_implicit(told), *told_needed(told)],
        required=partial(told_required, told, source, converter),
        defaults=defaults,
    )


def _kept_rows(footer: Mapping[bytes, bytes], rows: int) -> Array:
    """Which rows of a file a writer kept whole in `_raw`; None where its footer does not say.

    Args:
        footer: of the file.
        rows: how many it has.

    Raises:
        ValueError: what the footer says cannot be read.
    """
    text = footer.get(KEPT.encode())
    if text is None:
        return None
    try:
        packed = base64.b64decode(text, validate=True)
        bits = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read()
    except (ValueError, OSError) as error:
        raise ValueError(f"{KEPT} of the footer cannot be read: {error}") from error
    if 8 * len(bits) < rows:
        raise ValueError(f"{KEPT} of the footer cannot be read: it is of fewer rows")
    return pa.Array.from_buffers(pa.bool_(), rows, [None, pa.py_buffer(bits)])


def _settled_ids(footer: Mapping[bytes, bytes]) -> list[int]:
    """The ids in a footer of columns that have all that messages in `_raw` say of them.

    An earlier cdpgen upgraded without telling which of those it had put there itself. It had decoded those of
    writers, so the columns that it added are right; what the others have of their numbers may be another field.
    """
    return [] if tells_kept(footer) else older_ids(footer)


# ---- Folders

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


def folder_keys(path: str) -> dict[str, str]:
    """The levels of folders above a file and their values, as they are written: `{"day": "2024-04-21"}`."""
    pairs = (folder.partition("=") for folder in path.split("/")[:-1])
    return {name: value for name, equals, value in pairs if equals}


def _levels(files: Sequence[Mapping[str, str]], columns: Sequence[str]) -> dict[str, pa.DataType]:
    """The levels that all files have and that are no columns, with their types."""
    if any(list(file) != list(files[0]) for file in files):
        return {}
    return {
        name: pa.date32()
        if all(_DAY.fullmatch(file[name]) for file in files if file[name] != NULL)
        else pa.string()
        for name in files[0]
        if name not in columns
    }


def _key(text: str, kind: pa.DataType) -> Scalar:
    value = pa.scalar(None if text == NULL else unquote(text), pa.string())
    return value.cast(kind)


def _specs(writer: type[TableWriter[Any]]) -> dict[str, Partition]:
    """By the name of a level of folders, what of today's columns it is made of.

    Only of the partition that the rules ask for: the lock sees to it that it stays the same, whereas a name
    that somebody chose at run time may have meant another column once.
    """
    specs: dict[str, Partition] = {}
    for name in writer.partition_by:
        levels = writer.partitions.get(name, (Column(name),))
        for level in levels:
            suffix = {Day: "_day", Hour: "_hour", Range: "_range", Column: ""}[type(level)]
            own = level.column.replace(".", "_") + suffix
            specs[name if len(levels) == 1 else own] = level
    return specs


def _held(spec: Partition, text: str, schema: pa.Schema) -> Iterator[Expression]:
    """What the folder of a value says of the column that it is made of."""
    field = schema.field(spec.column) if spec.column in schema.names else None
    if field is None or is_nested(field.type):
        return
    column, kind = pc.field(spec.column), field.type
    try:
        if isinstance(spec, Column):
            value = _folder_value(unquote(text), kind)
            if value is not None:
                yield column == value
        elif isinstance(spec, Range):
            found = re.fullmatch(r"(-?\d+)-(-?\d+)", text)
            if found:
                yield column >= pa.scalar(int(found[1])).cast(kind)
                yield column <= pa.scalar(int(found[2])).cast(kind)
        else:
            form, step = (
                ("%Y-%m-%d", datetime.timedelta(days=1))
                if isinstance(spec, Day)
                else ("%Y-%m-%dT%H", datetime.timedelta(hours=1))
            )
            first = datetime.datetime.strptime(text, form)
            yield column >= _point(first, kind)
            yield column < _point(first + step, kind)
    except (pa.ArrowException, ValueError, OverflowError):
        return  # a folder that says nothing that this column could hold leaves nothing out


def _point(time: datetime.datetime, kind: Any) -> Scalar:
    if pa.types.is_date32(kind):
        return pa.scalar(time.date(), kind)
    return pa.scalar(time.replace(tzinfo=datetime.UTC)).cast(kind)


def _folder_value(text: str, kind: Any) -> Scalar | None:
    """The value in the name of a folder; None where that may not be the whole of it."""
    if pa.types.is_boolean(kind):
        return pa.scalar(text == "true")
    if pa.types.is_integer(kind):
        return pa.scalar(int(text)).cast(kind)
    if "~" in text or not (is_text(kind) or pa.types.is_dictionary(kind)):
        return None
    if pa.types.is_dictionary(kind) and _is_number(text):
        return None  # it may have a name by now
    return pa.scalar(text)


def _is_number(text: str) -> bool:
    return text[:1] == "-" or text[:1].isdigit()


# ---- Statistics


def _bounds(statistics: Any, source: Field, target: Field) -> Iterator[Expression]:
    """What the statistics of a column say of its values in today's type."""
    column = pc.field(target.name)
    nulls = statistics.null_count if statistics.has_null_count else None
    if statistics.num_values == 0 and nulls:
        if target.nullable:
            yield column.is_null()
        return
    if not statistics.has_min_max:
        return
    try:
        low, high = _ends(statistics, source.type, target.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return
    if low is None or (nulls != 0 and source.nullable and not target.nullable):
        return
    between = (column >= low) & (column <= high)
    yield between if nulls == 0 else between | column.is_null()


def _ends(statistics: Any, source: Any, target: Any) -> tuple[Scalar, Scalar] | tuple[None, None]:
    if pa.types.is_temporal(source):
        if not pa.types.is_temporal(target):
            return None, None
        width = pa.int64() if source.bit_width == 64 else pa.int32()
        raw = [
            pa.scalar(value, width).cast(source)
            for value in (statistics.min_raw, statistics.max_raw)
        ]
        return raw[0].cast(target), raw[1].cast(target)
    if pa.types.is_floating(source) or pa.types.is_floating(target):
        return None, None  # NaN is in no range
    if pa.types.is_dictionary(source):
        # a number may have a name by now; names begin with a letter, which comes after all digits
        if _is_number(statistics.min):
            return None, None
        source = source.value_type
    if pa.types.is_dictionary(target):
        target = target.value_type
    ends = [pa.scalar(value, source).cast(target) for value in (statistics.min, statistics.max)]
    return ends[0], ends[1]


def _equal(column: Expression, value: Scalar) -> Expression:
    if not value.is_valid:
        return column.is_null()
    return column == (pa.scalar(value.as_py()) if pa.types.is_dictionary(value.type) else value)


def _all(expressions: Iterable[Expression]) -> Expression:
    found: Expression = pc.scalar(True)
    for expression in expressions:
        found = found & expression
    return found


def _possible(guarantees: Sequence[Expression], filter: Expression, schema: pa.Schema) -> list[int]:
    """Which of the guarantees a filter can hold under.

    Arrow can tell, but only of fragments: each guarantee goes to one that is never opened and whose path is its
    number.
    """
    plain = pa.schema(
        [
            field.with_type(field.type.value_type)
            if pa.types.is_dictionary(cast(Any, field.type))
            else field
            for field in cast("Iterable[Any]", schema)
        ]
    )
    fragments = [
        _FORMAT.make_fragment(str(i), _NOWHERE, partition_expression=guarantee)
        for i, guarantee in enumerate(guarantees)
    ]
    dataset = ds.FileSystemDataset(fragments, plain, _FORMAT, _NOWHERE)
    return [int(fragment.path) for fragment in dataset.get_fragments(filter)]
