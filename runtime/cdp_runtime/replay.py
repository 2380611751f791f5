"""`cdpgen replay`: an archive back as the stream of messages that it was made of.

Messages come out by their source, in the order of the sources' names, and by their position in it; then those
without a position, by the names of their files, which is about the order in which writers opened them.

Footers tell which positions each row group holds (`cdp_runtime.positions`). Row groups are read once, by
their first position; a message goes out as soon as no row group that is still unread can hold one before it.
What has to wait beyond `_HELD_BYTES` (many partitions or sources whose positions lie between each other) is put
aside in sorted slices in a temporary file, from where each comes back when its turn is there.

So what is in memory at any time does not grow with the archive: the messages held and a sorted copy of them,
some `4 * _HELD_BYTES` together; two row groups as their files have them, compressed; a batch of decoded rows of
each; the positions of the rows of `_OPEN_FILES` files; and some hundred bytes for each row group of the archive
and each source in it.
"""

from __future__ import annotations

import bisect
import contextlib
import heapq
import os
import secrets
import stat
import sys
import tempfile
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .archive import load_tables, nested
from .config import STORAGE_KEYS, ConfigError, WriterConfig, check
from .dataset import ArchiveError, ahead, folder_keys, older_ids, open_parquet
from .dead_letter import FOLDER, RETRY_FOLDER
from .positions import Spans, spans
from .storage import Storage, StorageError, open_storage
from .versions import Evolution, field_id
from .writer import TableWriter

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Counts", "Format", "Selection", "replay", "run"]

# The stubs of pyarrow lack too much to type these.
Array: TypeAlias = Any

Format = Literal["delimited", "ndjson"]

_MB: Final = 1 << 20
_HELD_BYTES: Final = 128 * _MB
_EMIT_BYTES: Final = 16 * _MB
_SLICE_BYTES: Final = 4 * _MB
_BATCH_ROWS: Final = 16_384
_BATCH_BYTES: Final = 32 * _MB
_OPEN_FILES: Final = 8
_READERS: Final = 16
_WRAP: Final = 1 << 64
_SHOWN: Final = 10

_U64: Final = pa.uint64()
_BYTES: Final = pa.large_binary()


class Selection(NamedTuple):
    """What of a table is asked for.

    Attributes:
        partitions: by the name of a level of folders, the values that are wanted.
        source: the only source.
        first: the first position; rows without a position are then none of it.
        last: the last position.
        dead_letters: the payloads of dead letters too.
    """

    partitions: Mapping[str, Sequence[str]] = {}
    source: str | None = None
    first: int | None = None
    last: int | None = None
    dead_letters: bool = False


class Counts:
    """What a replay did, filled in while it runs.

    Attributes:
        messages: that came out, dead letters included.
        letters: dead letters that came out.
        left_out: dead letters that the format has no place for, by the reason.
        unknown: messages with fields that today's schema does not know, which JSON cannot hold.
        no_json: messages that protobuf has no JSON for, and the reason for the first.
        lost: for columns that no message can be made of, how many rows had a value in them.
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
        output: the file, which appears whole; standard output when left out.
        format: `delimited` or `ndjson`; by the extension of the output when left out.
        partitions: only these, each as `key=value`.
        source: only this one.
        first: the first position in the source.
        last: the last position in the source.
        dead_letters: whether payloads of dead letters come at their place.
        options: of the store (`{"storage_options.endpoint_url": ...}`).

    Returns:
        The exit code: 0 fine, 1 something could not be read or written, 2 bad usage or configuration.
    """
    counts = Counts()
    began = time.monotonic()
    size = 0
    try:
        storage = _storage(url, options or {})
        writers = load_tables(generated)
        name = table or _only_table(storage, writers, generated)
        chosen = format or ("ndjson" if (output or "").endswith((".ndjson", ".jsonl")) else "delimited")
        wanted = Selection(_partitions(partitions), source, first, last, dead_letters)
        records = _Replay(storage, _writer(writers, name, generated), wanted, chosen, counts)
        frame = _delimited if chosen == "delimited" else _lines
        with _output(output) as write:
            for array in records:
                for part in frame(array):
                    write(part)
                    size += len(part)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1  # who reads has seen enough
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    except OSError as error:
        print(_told(error), file=sys.stderr)
        return 1
    seconds = time.monotonic() - began
    print(
        f"{name}: {counts.messages:,} messages ({size / _MB:,.1f} MB) in {seconds:.1f} s "
        f"({counts.messages / seconds:,.0f}/s)",
        *_remarks(counts),
        sep=f"\n{name}: ",
        file=sys.stderr,
    )
    return 1 if counts.no_json or counts.lost else 0


def replay(
    url: str | os.PathLike[str],
    table: str,
    *,
    generated: str | os.PathLike[str] = "generated",
    selection: Selection = Selection(),
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
        StorageError: the store cannot be used.
    """
    storage = open_storage(url, storage_options=storage_options)
    writer = _writer(load_tables(generated), table, generated)
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


class _Rows(NamedTuple):
    """Messages and their keys, by which they are ordered."""

    keys: Array
    records: Array

    @property
    def size(self) -> int:
        return _size(self.records)


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
        for shifts in _passes(ranges):
            yield from self._in_order(shifts)
        if any(group.unplaced for group in self._groups):
            yield from self._in_order(None)

    # ---- which row groups

    def _find(self) -> list[_Group]:
        """The row groups with rows that are asked for, by the names of their files.

        Raises:
            ConfigError: nothing is called what was asked for.
            ArchiveError: a footer cannot be read, or there are no files.
        """
        table, wanted = self._writer.table, self._wanted
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
            raise ArchiveError(f"{self._storage.describe(table)}: there are no files of {table}")
        paths.sort(key=lambda path: (path.rpartition("/")[2], path))
        sources: set[str] = set()
        groups: list[_Group] = []
        with ThreadPoolExecutor(_READERS) as threads:
            for found, names in ahead(threads, self._groups_of, paths, _READERS):
                groups += found
                sources |= names
        if wanted.source is not None and wanted.source not in sources:
            raise ConfigError(
                f"--source {wanted.source}: is none of {table}; it has {_some(sorted(sources))}"
            )
        ranged = wanted.first is not None or wanted.last is not None
        if ranged and wanted.source is None and len(sources) > 1:
            raise ConfigError(
                f"--from and --to are positions in one source: choose it with --source; "
                f"{table} has {_some(sorted(sources))}"
            )
        return groups

    def _groups_of(self, path: str) -> tuple[list[_Group], set[str]]:
        """The row groups of a file that have something of what is asked for, and its sources."""
        shown = self._storage.describe(path)
        try:
            with self._storage.open(path) as opened:
                footer = pq.read_metadata(opened)
            found = _runs_of(footer, shown)
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(f"{shown}: cannot be read: {error}") from None
        low, high = self._bounds()
        ranged = self._wanted.first is not None or self._wanted.last is not None
        groups, start = [], 0
        for number in range(footer.num_row_groups):
            rows = footer.row_group(number).num_rows
            ranges: dict[str, tuple[int, int]] = {}
            unplaced = 0
            for name, first, last, count in found.between(start, start + rows):
                if self._wanted.source not in (None, name):
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
        held = _Held()

        def load(task: _Task) -> list[_Rows]:
            return self._load(task.group, shifts)

        with held, ThreadPoolExecutor(1) as reader:
            loaded = ahead(reader, load, tasks, 1)
            for number in range(len(tasks)):
                yield from held.before(tasks[number].first)
                for rows in next(loaded):
                    held.add(rows)
                    yield from held.relieved(tasks[number].first)
            yield from held.before(None)

    def _tasks(self, shifts: Mapping[str, int] | None) -> list[_Task]:
        tasks = []
        before, path = 0, ""
        for group in self._groups:
            if shifts is None:
                if group.unplaced:
                    tasks.append(_Task(before, group))
                    before += group.rows
            else:
                firsts = [
                    first + shifts[name]
                    for name, (first, _) in group.ranges.items()
                    if name in shifts
                ]
                if firsts:
                    tasks.append(_Task(min(firsts), group))
        return sorted(tasks, key=lambda task: task.first)
