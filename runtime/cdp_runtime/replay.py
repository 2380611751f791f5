"""`cdpgen replay`: an archive back as the stream of messages that it was made of.

Messages come out by their source, in the order of the sources' names, and by their position in it; then those
without a position, by the names of their files, which is about the order in which writers opened them.

Footers tell which positions each row group holds (`cdp_runtime.positions`). Row groups are read once, by
their first position; a message goes out as soon as no row group that is still unread can hold one before it.
What has to wait for that (many partitions or sources whose positions lie between each other) is held by
`cdp_runtime.replay_order`, which puts aside what is more than `_HELD_BYTES`.

So what is in memory at any time does not grow with the archive: the messages held and a sorted copy of them,
some `4 * _HELD_BYTES` together; the messages of three row groups; a batch of decoded rows; the runs of
positions of `_OPEN_FILES` files; and some hundred bytes for each row group of the archive and each source
in it.
"""

from __future__ import annotations

import bisect
import functools
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .archive import import_messages, load_tables, writer_of
from .config import ConfigError, destination_of
from .dataset import ArchiveError, ahead, folder_keys, older_ids, open_parquet
from .dead_letter import FOLDER, RETRY_FOLDER, counted, printable, shortened
from .former import (
    IMPLICIT,
    cases_of_footer,
    enums_of_footer,
    former_of,
    told_fields,
    told_implicit,
)
from .journal import UNNUMBERED
from .log import STANDARD_ERROR
from .positions import Spans, spans
from .program import Enum
from .provenance import FIRST_FIELD_ID, other_lock
from .replay_order import KEY, Held, Rows
from .replay_output import BYTES, compressed, delimited, lines, output_of
from .sources import format_of
from .sources.files import compression_of
from .sources.identity import place
from .storage import Storage, forbid_table_folder, open_storage
from .trouble import failed, unreadable
from .versions import Evolution, children_of, field_id, is_text, zero_of, zero_scalar
from .writer import TableWriter

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Counts", "Format", "Selection", "replay", "run"]

# The stubs of pyarrow lack too much to type these.
Array: TypeAlias = Any

Format = Literal["delimited", "ndjson"]

_MB: Final = 1 << 20
_BATCH_ROWS: Final = 16_384
_BATCH_BYTES: Final = 32 * _MB
_OPEN_FILES: Final = 8
_READERS: Final = 16
_WRAP: Final = 1 << 64
_SHOWN: Final = 10


class Selection(NamedTuple):
    """What of a table is asked for.

    Attributes:
        partitions: by the name of a level of folders, the values that are wanted.
        source: the only source: its name, or the path or URL of an input that was archived.
        first: the first position; rows without a position are then none of it.
        last: the last position.
        dead_letters: the payloads of dead letters too.
    """

    partitions: Mapping[str, Sequence[str]] = {}
    source: str | None = None
    first: int | None = None
    last: int | None = None
    dead_letters: bool = False

    def chooses(self, name: str) -> bool:
        """Whether the source of this name is asked for."""
        own = name.removesuffix(UNNUMBERED)
        return self.source in (None, name, own) or name.rpartition("#")[0] == _place(self.source)


_place: Final = functools.lru_cache(1)(place)
EVERYTHING: Final = Selection()


class Counts:
    """What a replay did, filled in while it runs.

    Attributes:
        messages: that came out, dead letters included.
        letters: dead letters that came out.
        left_out: dead letters that the format has no place for, by the reason.
        unknown: messages with fields that today's schema does not know, which JSON cannot hold.
        no_json: messages that protobuf has no JSON for, and the reason for the first.
        lost: for columns that there is no field for, how many values they have.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.letters = 0
        self.left_out: Counter[str] = Counter()
        self.unknown = 0
        self.no_json = 0
        self.no_json_reason = ""
        self.lost: Counter[str] = Counter()


def run(
    url: str,
    *,
    table: str | None = None,
    generated: str = "generated",
    output: str | None = None,
    format: Format | None = None,
    partitions: Sequence[str] = (),
    source: str | None = None,
    first: int | None = None,
    last: int | None = None,
    dead_letters: bool = False,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Writes the messages of a table to a file or standard output, and says on standard error what it did.

    Args:
        url: the archive.
        table: the full name of the table; may be left out where the archive has one only.
        generated: the folder that `cdpgen build` wrote.
        output: the file, which appears whole, compressed where it ends in .gz, .zst or .bz2; standard output
            when left out or `-`.
        format: `delimited` or `ndjson`; by the extension of the output when left out.
        partitions: only these, each as `key=value`.
        source: only this one, by its name or the path or URL of an input that was archived.
        first: the first position in the source.
        last: the last position in the source.
        dead_letters: whether payloads of dead letters come at their place.
        options: of the store (`{"storage_options.endpoint_url": ...}`).

    Returns:
        The exit code: 0 fine, 1 something could not be read or written, 2 bad usage or configuration, or a URL
        that cannot be used.
    """
    counts = Counts()
    began = time.monotonic()
    size = 0
    try:
        storage = _storage(url, options or {})
        writers = load_tables(generated)
        name = table or _only_table(storage, writers, generated)
        chosen = format or format_of(output or "") or "delimited"
        if chosen == "delimited" and output is None and os.isatty(1):
            raise ConfigError(
                "length-delimited messages are no text for a terminal: name a file with --output, choose "
                "--format ndjson, or insist with --output -"
            )
        if first is not None and last is not None and last < first:
            raise ConfigError(f"--to {last}: is before --from {first}")
        wanted = Selection(_partitions(partitions), source, first, last, dead_letters)
        writer = writer_of(writers, name, generated)
        if chosen == "ndjson":
            import_messages(writer, generated)
        records = _Replay(storage, writer, wanted, chosen, counts)
        frame = delimited if chosen == "delimited" else lines
        with output_of(output) as raw, compressed(raw, compression_of(output or "")) as write:
            for array in records:
                for part in frame(array):
                    write(part)
                    size += len(part)
    except ConfigError as error:
        print(error, file=STANDARD_ERROR)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=STANDARD_ERROR)
        return 1
    except OSError as error:
        return failed(error)
    seconds = time.monotonic() - began
    print(
        f"{name}: {counted(counts.messages, 'message')} ({size / _MB:,.1f} MB) in {seconds:.1f} s "
        f"({counts.messages / seconds:,.0f}/s)",
        *_remarks(counts),
        sep=f"\n{name}: ",
        file=STANDARD_ERROR,
    )
    return 1 if counts.no_json else 0


def replay(
    url: str | os.PathLike[str],
    table: str,
    *,
    generated: str | os.PathLike[str] = "generated",
    selection: Selection = EVERYTHING,
    storage_options: Mapping[str, Any] | None = None,
    counts: Counts | None = None,
) -> Iterator[pa.LargeBinaryArray]:
    """The messages of a table as they were serialized, in the order of their sources.

    Args:
        url: the archive: a path or a URL of any fsspec protocol.
        table: the full name of the message.
        generated: the folder that `cdpgen build` wrote.
        selection: what of it; everything but dead letters when left out.
        storage_options: what the filesystem takes besides the URL.
        counts: filled in on the way.

    Yields:
        Some of the messages.

    Raises:
        ConfigError: there is no such table, or no such partition or source.
        ArchiveError: there are no files of the table, or one cannot be read.
        StorageError: the store cannot be used, or the URL is that of a folder within an archive.
    """
    storage = open_storage(url, storage_options=storage_options)
    writer = writer_of(load_tables(generated), table, generated)
    yield from _Replay(storage, writer, selection, "delimited", counts or Counts())


# ---- What is there


class _Group(NamedTuple):
    """A row group: of which file, its number there, its rows, and the ranges of its sources.

    Attributes:
        start: the number of its first row in the file.
        ranges: the first and last position of each source.
        unplaced: how many rows have no position, of the sources asked for.
    """

    path: str
    number: int
    start: int
    rows: int
    ranges: Mapping[str, tuple[int, int]]
    unplaced: int

    @property
    def letters(self) -> bool:
        """Whether the rows are dead letters."""
        return self.path.startswith(f"{FOLDER}/")


class _Task(NamedTuple):
    """A row group to be read, with the key of its first message."""

    first: int
    group: _Group


class _Replay:
    """The messages of one table in their order; iterate over it once."""

    def __init__(
        self,
        storage: Storage,
        writer: type[TableWriter[Any]],
        wanted: Selection,
        format: Format,
        counts: Counts,
    ) -> None:
        self._storage = storage
        self._writer = writer
        self._wanted = wanted
        self._counts = counts
        self._letter_form = "message" if format == "delimited" else "json"
        self._json = _Json(writer.message_type(), counts) if format == "ndjson" else None
        self._converter = writer.converter()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._groups: Final = self._find()

    def __iter__(self) -> Iterator[Array]:
        ranges: dict[str, tuple[int, int]] = {}
        for group in self._groups:
            for name, (first, last) in group.ranges.items():
                known = ranges.get(name, (first, last))
                ranges[name] = min(known[0], first), max(known[1], last)
        try:
            for shifts in _passes(ranges):
                yield from self._in_order(shifts)
            if any(group.unplaced for group in self._groups):
                yield from self._in_order(None)
        finally:
            for file in self._files.values():
                file.close()

    # ---- which row groups

    def _find(self) -> list[_Group]:
        """The row groups with rows that are asked for, by the names of their files.

        Raises:
            ConfigError: nothing is called what was asked for.
            StorageError: the URL is that of a folder within an archive.
            ArchiveError: a footer cannot be read, or there are no files.
        """
        table, wanted = self._writer.table, self._wanted
        forbid_table_folder(self._storage)
        paths = [file.path for file in self._storage.files(f"{table}/")]
        if wanted.partitions:
            if wanted.dead_letters:
                raise ConfigError("--dead-letters: does not go with --partition: they have none")
            paths = list(_pruned(table, paths, wanted.partitions))
        elif wanted.dead_letters:
            paths += [file.path for file in self._storage.files(f"{FOLDER}/{table}/")]
            if any(True for _ in self._storage.files(f"{RETRY_FOLDER}/{table}/")):
                raise ArchiveError(
                    "some dead letters are in a retry that runs or was interrupted; end it with: "
                    f"cdpgen dead-letters retry {self._storage.url} --table {table}"
                )
        if not paths:
            everything = [file.path for file in self._storage.files()]
            forbid_table_folder(self._storage, [table], everything)
            raise ArchiveError(f"{self._storage.describe(table)}: there are no files of {table}")
        paths.sort(key=lambda path: (path.rpartition("/")[2], path))
        sources: set[str] = set()
        groups: list[_Group] = []
        with ThreadPoolExecutor(_READERS) as threads:
            for found, names in ahead(threads, self._groups_of, paths, _READERS):
                groups += found
                sources |= names
        chosen = [name for name in sources if wanted.chooses(name)]
        if wanted.source is not None and not chosen:
            raise ConfigError(
                f"--source {wanted.source}: is none of {table}; it has {_some(sorted(sources))}"
            )
        ranged = wanted.first is not None or wanted.last is not None
        if ranged and len(chosen) > 1:
            raise ConfigError(
                f"--from and --to are positions in one source: choose it with --source; "
                f"{table} has {_some(sorted(chosen))}"
            )
        return groups

    def _groups_of(self, path: str) -> tuple[list[_Group], set[str]]:
        """The row groups of a file that have something of what is asked for, and its sources."""
        shown = self._storage.describe(path)
        try:
            with self._storage.open(path) as opened:
                footer = pq.read_metadata(opened)
            found = _runs_of(footer, shown)
        except ArchiveError:
            raise
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise ArchiveError(unreadable(shown, error)) from None
        low, high = self._bounds()
        ranged = self._wanted.first is not None or self._wanted.last is not None
        groups, start = [], 0
        for number in range(footer.num_row_groups):
            rows = footer.row_group(number).num_rows
            ranges: dict[str, tuple[int, int]] = {}
            unplaced = 0
            for name, first, last, count in found.between(start, start + rows):
                if not self._wanted.chooses(name):
                    continue
                if first is None or last is None:
                    unplaced += 0 if ranged else count
                elif first <= high and last >= low:
                    ranges[name] = max(first, low), min(last, high)
            if ranges or unplaced:
                groups.append(_Group(path, number, start, rows, ranges, unplaced))
            start += rows
        return groups, set(found.spans.names)

    def _bounds(self) -> tuple[int, int]:
        low, high = self._wanted.first, self._wanted.last
        return -(_WRAP // 2) if low is None else low, _WRAP // 2 - 1 if high is None else high

    # ---- in their order

    def _in_order(self, shifts: Mapping[str, int] | None) -> Iterator[Array]:
        """The messages of some sources; of all that have no position where there are no shifts."""
        tasks = self._tasks(shifts)

        def load(task: _Task) -> list[Rows]:
            return list(self._load(task, shifts))

        with Held() as held, ThreadPoolExecutor(1) as reader:
            for number, loaded in enumerate(ahead(reader, load, tasks, 1), start=1):
                for rows in loaded:
                    held.add(rows)
                if number < len(tasks):
                    yield from self._counted(held.before(tasks[number].first))
            yield from self._counted(held.rest())

    def _counted(self, arrays: Iterator[Array]) -> Iterator[Array]:
        for array in arrays:
            self._counts.messages += len(array)
            yield array

    def _tasks(self, shifts: Mapping[str, int] | None) -> list[_Task]:
        """What is to be read, in the order of the first messages."""
        tasks = []
        if shifts is None:
            before = 0
            for group in self._groups:
                if group.unplaced:
                    tasks.append(_Task(before, group))
                    before += group.rows
            return tasks
        for group in self._groups:
            firsts = [
                first + shifts[name] for name, (first, _) in group.ranges.items() if name in shifts
            ]
            if firsts:
                tasks.append(_Task(min(firsts), group))
        return sorted(tasks, key=lambda task: task.first)

    def _load(self, task: _Task, shifts: Mapping[str, int] | None) -> Iterator[Rows]:
        """The messages of a row group that are asked for, with their keys."""
        path, number, start = task.group.path, task.group.number, task.group.start
        try:
            file = self._file(path)
            for batch in file.batches(number):
                keys = self._keys(file.runs, start, batch.num_rows, task, shifts)
                start += batch.num_rows
                asked = keys.is_valid()
                if keys.null_count:
                    batch, keys = batch.filter(asked), keys.filter(asked)
                if batch.num_rows:
                    records = self._letters(batch) if task.group.letters else file.encode(batch)
                    yield self._formatted(keys, records, task.group.letters)
        except ArchiveError:
            raise
        except (pa.ArrowException, ValueError) as error:
            shown = self._storage.describe(path)
            raise ArchiveError(f"{shown}: row group {number}: cannot be read: {error}") from None

    def _keys(
        self, runs: _Runs, start: int, rows: int, task: _Task, shifts: Mapping[str, int] | None
    ) -> Array:
        """The keys of consecutive rows of a file, null for those that are not asked for."""
        numbers = _numbers(start, rows)
        if shifts is None:
            keys = pc.add(numbers, pa.scalar((task.first - task.group.start) % _WRAP, KEY))
            names = [name for name in runs.spans.names if self._wanted.chooses(name)]
            return pc.if_else(runs.unplaced(start, rows, names), keys, pa.scalar(None, KEY))
        keys = pc.add(numbers, runs.shifts(start, rows, shifts))
        low, high = self._wanted.first, self._wanted.last
        if low is None and high is None:
            return keys
        (shift,) = shifts.values()
        low, high = self._bounds()
        inside = pc.and_(
            pc.greater_equal(keys, pa.scalar(max(0, low + shift), KEY)),
            pc.less_equal(keys, pa.scalar(min(_WRAP - 1, max(0, high + shift)), KEY)),
        )
        return pc.if_else(inside, keys, pa.scalar(None, KEY))

    def _file(self, path: str) -> _File:
        """An open file; only the reading thread asks."""
        file = self._files.pop(path, None)
        if file is None:
            if len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            file = _File(self._storage, path, self._writer, self._converter, self._counts)
        self._files[path] = file
        return file

    def _letters(self, batch: pa.RecordBatch) -> Array:
        """The payloads of dead letters; null for those that have no place in the format."""
        payloads = batch.column("payload").cast(BYTES)
        forms = batch.column("form") if "form" in batch.schema.names else "message"
        form = pc.if_else(payloads.is_valid(), forms, "null")
        fits: Array = pc.equal(form, pa.scalar(self._letter_form))
        for each in form.filter(pc.invert(fits)).value_counts().to_pylist():
            self._counts.left_out[each["values"]] += each["counts"]
        return pc.if_else(fits, payloads, pa.scalar(None, BYTES))

    def _formatted(self, keys: Array, records: Array, letters: bool) -> Rows:
        """What goes out of messages, less those that have no form."""
        if self._json is not None:
            records = self._json.lines(records, letters)
        if records.null_count:
            valid = records.is_valid()
            keys, records = keys.filter(valid), records.filter(valid)
        if letters:
            self._counts.letters += len(records)
        return Rows(keys, records)


def _passes(ranges: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, int]]:
    """For each source what to add to its positions so that these are keys, which tell sources apart too.

    Keys have 64 bits: where the positions of all sources do not fit together, it takes several passes.
    """
    shifts: dict[str, int] = {}
    end = 0
    for name in sorted(ranges):
        first, last = ranges[name]
        if end + last - first >= _WRAP:
            yield shifts
            shifts, end = {}, 0
        shifts[name] = end - first
        end += last - first + 1
    if shifts:
        yield shifts


def _numbers(start: int, rows: int) -> Array:
    """Consecutive numbers."""
    if rows == 0:
        return pa.array([], KEY)
    ones = pa.repeat(pa.scalar(1, KEY), rows)
    return pc.add(pc.cumulative_sum(ones), pa.scalar((start - 1) % _WRAP, KEY))


# ---- Files


class _Runs:
    """Whence the rows of a file come."""

    def __init__(self, found: Spans, rows: int) -> None:
        if len(found.source) == 0:
            everything = pa.array([rows] if rows else [], pa.int64())
            nothing = pa.nulls(len(everything), pa.int64())
            found = Spans([""], pc.multiply(everything, 0), nothing, everything, {})
        self.spans: Final = found
        self.ends: Final = pc.cumulative_sum(found.rows)
        self._shifts: tuple[int, Array] | None = None
        self._unplaced: Array | None = None
        if pc.sum(found.rows, min_count=0).as_py() != rows:
            raise ValueError("the positions in the footer are not those of its rows")

    def between(self, start: int, end: int) -> Iterator[tuple[str, int | None, int | None, int]]:
        """Of each source among some rows: first and last position, and how many rows; apart those without.

        Runs that go beyond these rows count whole, which is never too little.
        """
        low = bisect.bisect_right(self.ends, start, key=lambda value: value.as_py())
        high = bisect.bisect_left(self.ends, end, key=lambda value: value.as_py()) + 1
        source, first, rows = (
            column.slice(low, high - low)
            for column in (self.spans.source, self.spans.first, self.spans.rows)
        )
        last = pc.subtract(pc.add(first, rows), 1)
        known = pa.table({"s": source, "p": first.is_valid(), "f": first, "l": last, "r": rows})
        found = known.group_by(["s", "p"]).aggregate([("f", "min"), ("l", "max"), ("r", "sum")])
        for one in found.to_pylist():
            yield self.spans.names[one["s"]], one["f_min"], one["l_max"], one["r_sum"]

    def shifts(self, start: int, rows: int, shifts: Mapping[str, int]) -> Array:
        """For each row what to add to its number for its key; null for those of other sources."""
        if self._shifts is None or self._shifts[0] != id(shifts):
            own = pa.array(
                [shifts[name] % _WRAP if name in shifts else None for name in self.spans.names],
                KEY,
            )
            begins = pc.subtract(self.ends, self.spans.rows)
            less = pc.subtract(self.spans.first, begins).view(KEY)
            self._shifts = id(shifts), pc.add(own.take(self.spans.source), less)
        return self._rows(self._shifts[1], start, rows)

    def unplaced(self, start: int, rows: int, names: Sequence[str]) -> Array:
        """For each row whether it has no position, and is of one of the sources."""
        if self._unplaced is None:
            own = pa.array([name in names for name in self.spans.names], pa.bool_())
            self._unplaced = pc.and_(own.take(self.spans.source), self.spans.first.is_null())
        return self._rows(self._unplaced, start, rows)

    def _rows(self, values: Array, start: int, rows: int) -> Array:
        """Values of runs as those of rows."""
        runs: Any = pa.RunEndEncodedArray.from_arrays(self.ends, values)
        return pc.call_function("run_end_decode", [runs.slice(start, rows)])


def _runs_of(footer: pq.FileMetaData, shown: str) -> _Runs:
    try:
        return _Runs(spans(footer.metadata or {}), footer.num_rows)
    except ValueError as error:
        raise ArchiveError(f"{shown}: {error}") from None


def _opened(storage: Storage, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(storage.open(path), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(unreadable(storage.describe(path), error)) from None


class _File:
    """One open file, and how its rows become messages."""

    def __init__(
        self,
        storage: Storage,
        path: str,
        writer: type[TableWriter[Any]],
        converter: Any,
        counts: Counts,
    ) -> None:
        self._shown = storage.describe(path)
        self._counts = counts
        self._converter = converter
        letters = path.startswith(f"{FOLDER}/")
        self._parquet = _opened(storage, path) if letters else open_parquet(storage, path)
        footer = self._parquet.metadata
        told = footer.metadata or {}
        self.runs: Final = _runs_of(footer, self._shown)
        self._evolution: Evolution | None = None
        self._lost: list[tuple[str, ...]] = []
        self._enums: list[Enum] = []
        schema = self._parquet.schema_arrow
        if letters:
            self._columns = ["payload", "form"]
            return
        clash = other_lock(told, writer)
        if clash:
            raise ArchiveError(f"{self._shown}: {clash}")
        current = told.get(b"cdpgen.fingerprint", b"").decode() == writer.fingerprint
        if current and IMPLICIT.encode() not in told:
            self._lost = _lost(told, schema, converter.schema)
        else:
            former = former_of(told, schema, converter)
            if former is not None:
                self._converter, self._lost = former.converter, former.lost
            else:
                self._lost = _lost(told, schema, converter.schema)
                self._evolution = Evolution(
                    converter,
                    converter.schema,
                    schema,
                    current=False,
                    older=older_ids(told),
                    implicit=told_implicit(told),
                    defaults=None,
                )
        if self._lost:
            self._enums = enums_of_footer(told)
        self._columns = list(self._converter.schema.names)
        if self._evolution is not None:
            self._columns = self._evolution.needs(self._columns)
        self._columns += [path[0] for path in self._lost if path[0] not in self._columns]

    def close(self) -> None:
        """Closes it."""
        self._parquet.close(force=True)

    def batches(self, group: int) -> Iterator[pa.RecordBatch]:
        """The rows of a row group, with the columns that `encode` needs."""
        footer = self._parquet.metadata.row_group(group)
        rows = max(1, footer.num_rows * _BATCH_BYTES // max(1, footer.total_byte_size))
        try:
            yield from self._parquet.iter_batches(
                min(rows, _BATCH_ROWS), row_groups=[group], columns=self._columns
            )
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(unreadable(self._shown, error, f"row group {group}")) from None

    def encode(self, batch: pa.RecordBatch) -> Array:
        """Rows as messages."""
        raw = self._converter.program.raw if self._evolution is None else self._evolution.raw
        if self._lost:
            # a message that is kept whole has them
            made_of = batch.filter(batch.column(raw).is_null()) if raw else batch
            for path in self._lost:
                self._counts.lost[".".join(path)] += _values(
                    made_of.column(path[0]), path[1:], self._enums
                )
        if self._evolution is None:
            own = batch.select(self._converter.schema.names)
            return self._converter.to_protobuf(own).cast(BYTES)
        made = self._evolution.apply(batch, self._converter.schema.names)
        encoded = self._converter.to_protobuf(made).cast(BYTES)
        return encoded if raw is None else pc.coalesce(batch.column(raw).cast(BYTES), encoded)


def _lost(told: Mapping[bytes, bytes], schema: Any, today: Any) -> list[tuple[str, ...]]:
    """The columns of a file that today's schema has not, each as the names that lead to it.

    Less those with the case of a oneof, which only say of others which of them is set.
    """
    found = list(_retired(schema, today))
    if not found:
        return []
    cases = {number for number, path in told_fields(told).items() if path and path[-1] < 0}
    names = cases_of_footer(told)
    return [
        (*above, field.name)
        for above, field in found
        if field_id(field) not in cases
        and not (field.name in names and pa.types.is_dictionary(field.type))
    ]


def _retired(
    fields: Any, today: Any, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    known = {field_id(field): field for field in today}
    for field in fields:
        number = field_id(field)
        if number is not None and number >= FIRST_FIELD_ID:
            continue
        if number not in known:
            yield above, field
        else:
            inner, target = field.type, known[number].type
            if pa.types.is_list(inner) and pa.types.is_list(target):
                inner, target = inner.value_type, target.value_type
            yield from _retired(children_of(inner), children_of(target), (*above, field.name))


def _values(array: Array, path: Sequence[str], enums: Sequence[Enum] = ()) -> int:
    """How many values a column has, or one within it, that are not absent, zero or empty.

    Args:
        array: the column.
        path: the names that lead from it to the one within it.
        enums: those that columns of names or texts may be of.
    """
    kind = array.type
    if path and pa.types.is_list(kind):
        return _values(array.flatten(), path, enums)
    if path and pa.types.is_map(kind):
        return _values(array.keys if path[0] == "key" else array.items, path[1:], enums)
    if path:
        return _values(array.flatten()[kind.get_field_index(path[0])], path[1:], enums)
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        offsets = array.offsets
        there: Array = pc.not_equal(offsets[1:], offsets[:-1])
    elif pa.types.is_struct(kind):
        there = array.is_valid()
    elif pa.types.is_dictionary(kind) or is_text(kind):
        names: Array = array if is_text(kind) else array.dictionary_decode()
        empty = pa.scalar("", names.type)
        # Plain texts are names where all of them are; an enum has none that is empty.
        is_enum = not is_text(kind) or not pc.any(pc.equal(names, empty)).as_py()
        zero = pa.scalar(_zero_of_names(names, enums), names.type) if is_enum else empty
        there = pc.not_equal(names, zero)
    else:
        there = pc.not_equal(array, zero_scalar(kind))
    found: int | None = pc.sum(there).as_py()
    return found or 0


def _zero_of_names(names: Array, enums: Sequence[Enum]) -> str:
    """What zero is called among names; empty where the enums that have them all do not agree on it."""
    there = {name for name in names.unique().to_pylist() if name and not _is_number(name)}
    zeros = {
        zero_of(names.type, enum) for enum in enums if there <= {name for _, name in enum.values}
    }
    return str(zeros.pop()) if len(zeros) == 1 else ""


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()  # of one that had no name


# ---- What goes out


class _Json:
    """Messages as lines of JSON."""

    def __init__(self, message_type: type[Message], counts: Counts) -> None:
        self._type = message_type
        self._counts = counts

    def lines(self, records: Array, letters: bool) -> Array:
        """Lines without their ends; null for what has none."""
        if letters:
            broken: Array = pc.match_substring(records, "\n")
            self._counts.left_out["json"] += pc.sum(broken, min_count=0).as_py()
            return pc.if_else(broken, pa.scalar(None, BYTES), records)
        return pa.array([self._line(payload) for payload in records.to_pylist()], BYTES)

    def _line(self, payload: bytes) -> bytes | None:
        from google.protobuf import json_format
        from google.protobuf.message import Error

        try:
            message = self._type.FromString(payload)
            size = message.ByteSize()
            message.DiscardUnknownFields()
            unknown = message.ByteSize() != size
            text = json_format.MessageToJson(
                message, indent=None, preserving_proto_field_name=True, ensure_ascii=False
            )
        except (Error, json_format.Error, ValueError, TypeError, RecursionError) as error:
            # some are none by today's schema, and are kept as their bytes alone
            self._counts.no_json += 1
            # it may quote half of the message
            self._counts.no_json_reason = self._counts.no_json_reason or printable(
                shortened(str(error))
            )
            return None
        self._counts.unknown += unknown
        return text.encode()


# ---- What is asked for, and what is said


def _storage(url: str, options: Mapping[str, Any]) -> Storage:
    found, own = destination_of(url, options)
    return open_storage(found, storage_options=own)


def _only_table(
    storage: Storage, writers: Mapping[str, type[TableWriter[Any]]], generated: str
) -> str:
    """The table that is meant where none is named."""
    if len(writers) == 1:
        return next(iter(writers))
    paths = [file.path for file in storage.files()]
    forbid_table_folder(storage, writers, paths)
    folders = (path.split("/") for path in paths)
    there = {
        parts[1] if parts[0] in (FOLDER, RETRY_FOLDER) else parts[0]
        for parts in folders
        if len(parts) > 1
    }
    if len(there) == 1:
        return next(iter(there))
    if not there:
        raise ArchiveError(f"{storage.url}: there are no Parquet files")
    raise ConfigError(f"--table: is missing: {storage.url} has {_some(sorted(there))}")


def _partitions(texts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"--partition {text}: write it as key=value: --partition ledger_day=2024-04-21"
            )
        found.setdefault(name, []).append(value)
    return found


def _pruned(table: str, paths: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The files in folders of the partitions."""
    keys = {path: folder_keys(path) for path in paths}
    for name, values in wanted.items():
        there = {unquote(own[name]) for own in keys.values() if name in own}
        there |= {own[name] for own in keys.values() if name in own}
        if paths and not there:
            levels = sorted({level for own in keys.values() for level in own})
            have = f"it has {', '.join(levels)}" if levels else "it has none"
            raise ConfigError(f"--partition {name}={values[0]}: {table} has no such level; {have}")
        missing = next((value for value in values if value not in there), None)
        if missing is not None:
            raise ConfigError(
                f"--partition {name}={missing}: there is no such; there are {_some(sorted(there))}"
            )
    for path, own in keys.items():
        if all(
            name in own and (own[name] in values or unquote(own[name]) in values)
            for name, values in wanted.items()
        ):
            yield path


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name or "one without a name" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else shown


_FORMS: Final = {
    "message": "bytes, which are no JSON",
    "json": "JSON, which is no serialized message",
    "null": "nulls",
    "bytes": "pieces of a stream whose messages cannot be told apart",
}


def _remarks(counts: Counts) -> Iterator[str]:
    """What a person should know besides."""
    if counts.letters:
        yield f"{counted(counts.letters)} among the messages"
    for form, letters in sorted((+counts.left_out).items()):
        yield f"{counted(letters)} left out: {_FORMS.get(form, form)}"
    if counts.unknown:
        yield (
            f"{counted(counts.unknown, 'message')} with fields that today's schema does not know and "
            "JSON cannot hold; --format delimited keeps them"
        )
    if counts.no_json:
        yield (
            f"{counted(counts.no_json, 'message')} left out: no JSON ({counts.no_json_reason}); "
            "--format delimited keeps them"
        )
    for column, values in sorted((+counts.lost).items()):
        yield f"{counted(values, 'value')} of the column {column} in no message: there is no field for it"
