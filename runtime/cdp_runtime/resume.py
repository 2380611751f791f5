"""What an archive holds already: the positions of each source, read from the footers of its files."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .dead_letter import FOLDER, RETRY_FOLDER
from .payloads import Positions
from .positions import Prefix, Spans, spans
from .provenance import other_lock
from .storage import FileInfo, Storage, StorageError, is_of_writer

if TYPE_CHECKING:
    from .writer import TableWriter

__all__ = ["Published", "published"]

_THREADS: Final = 16
"""Footers are small: what takes time is to wait for the store."""

_OF_LETTERS: Final = (f"{FOLDER}/", f"{RETRY_FOLDER}/")

_MERGE_AT: Final = 1 << 20
"""How many runs of a source are kept before those that touch are made one."""


class Published:
    """The positions of some sources that are in an archive, as rows or as dead letters."""

    def __init__(self) -> None:
        self.prefixes: Final[dict[str, Prefix]] = {}
        """The longest that is known to have been read of each source that is a file."""
        self.levels: Final[set[tuple[str, ...]]] = set()
        """The names of the levels of folders in which files with rows lie."""
        self._new: dict[str, list[tuple[pa.Array, pa.Array]]] = {}
        self._intervals: dict[str, tuple[list[int], list[int]]] = {}

    def add(self, found: Spans, wanted: Callable[[str], bool]) -> None:
        """Takes what one footer tells of the sources that are wanted."""
        known = pc.is_valid(found.first)
        for index, name in enumerate(found.names):
            if not wanted(name):
                continue
            if name in found.prefixes:
                prefix = found.prefixes[name]
                self.prefixes[name] = max(prefix, self.prefixes.get(name, prefix))
            own = pc.and_(known, pc.equal(found.source, index))
            first, rows = found.first.filter(own), found.rows.filter(own)
            if len(first) == 0:
                continue
            new = self._new.setdefault(name, [])
            new.append((first, pc.add(first, rows)))
            if len(new) > 1 and sum(len(one) for one, _ in new) > _MERGE_AT:
                self._new[name] = [_merged(new)]

    def update(self, newer: Published) -> None:
        """Takes what is known by now, in place of what was of the same sources."""
        self.prefixes.update(newer.prefixes)
        self.levels.update(newer.levels)
        self._new.update(newer._new)
        for source in newer._new:
            self._intervals.pop(source, None)

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Forgets all sources but those that are wanted."""
        known: dict[str, Any]
        for known in (self.prefixes, self._new, self._intervals):
            for source in [source for source in known if not wanted(source)]:
                del known[source]

    def __contains__(self, source: str) -> bool:
        return source in self._new

    def missing(self, source: str, positions: Positions | Sequence[int]) -> list[slice]:
        """The messages that the archive does not hold.

        Args:
            source: where they come from.
            positions: their places there.

        Returns:
            Where they stand among the positions, in their order, as slices that do not touch.
        """
        if source not in self._new:
            return [slice(0, len(positions))] if len(positions) else []
        starts, ends = self._of(source)
        if isinstance(positions, range) and positions.step == 1:
            return list(_gaps(positions.start, positions.stop, starts, ends))
        places = positions.to_pylist() if isinstance(positions, pa.Array) else positions
        return list(_slices(not _holds(starts, ends, place) for place in places))

    def _of(self, source: str) -> tuple[list[int], list[int]]:
        if source not in self._intervals:
            first, end = _merged(self._new[source])
            bounds: Any = (first.to_pylist(), end.to_pylist())
            self._intervals[source] = bounds
        return self._intervals[source]


def published(
    storage: Storage,
    writer: type[TableWriter[Any]],
    wanted: Callable[[str], bool],
    writers: Iterable[str] = (),
) -> Published:
    """Reads the footers of a table's files and of its dead letters, and nothing else of them.

    Args:
        storage: the archive.
        writer: of the table.
        wanted: tells the sources of interest from the others.
        writers: the ids of the writers whose files count; all when there are none.

    Raises:
        OSError: a file cannot be read, or its footer is damaged; the message names it.
    """
    ids = tuple(writers)

    def files_in(*folders: str) -> list[FileInfo]:
        return [
            file
            for folder in folders
            for file in storage.files(f"{folder}{writer.table}/")
            if not ids or any(is_of_writer(file.path, one) for one in ids)
        ]

    def footer(file: FileInfo) -> Spans:
        try:
            with storage.open(file.path) as opened:
                told = pq.read_metadata(opened).metadata or {}
                # letters have no columns of the table, whose ids could be other ones
                rows = file.path.startswith(f"{writer.table}/")
                clash = other_lock(told, writer) if rows else ""
                if clash:
                    raise StorageError(f"{storage.describe(file.path)}: {clash}")
                return spans(told)
        except ValueError as error:  # Arrow's own are some too
            raise StorageError(f"{storage.describe(file.path)}: {error}") from error

    # what was in a file once stays in the archive, wherever a retry of dead letters moves it
    found = Published()
    read: set[FileInfo] = set()
    while True:
        letters = files_in(*_OF_LETTERS)
        new = [file for file in (*files_in(""), *letters) if file not in read]
        try:
            with ThreadPoolExecutor(_THREADS) as threads:
                for file, one in zip(new, threads.map(footer, new), strict=True):
                    found.add(one, wanted)
                    read.add(file)
                    if file.path.startswith(f"{writer.table}/"):
                        folders = file.path.split("/")[1:-1]
                        found.levels.add(tuple(name.partition("=")[0] for name in folders))
        except OSError:
            # one that was moved or removed since is no damage
            if set(new) <= set(files_in("", *_OF_LETTERS)):
                raise
        else:
            # what moved between the lists may be in none of them
            if letters == files_in(*_OF_LETTERS):
                return found


def _merged(parts: list[tuple[pa.Array, pa.Array]]) -> tuple[pa.Array, pa.Array]:
    """Intervals that neither touch nor overlap, rising, from ones in any order."""
    first = pa.concat_arrays([one for one, _ in parts])
    end = pa.concat_arrays([one for _, one in parts])
    order = pc.sort_indices(first)
    first, end = first.take(order), end.take(order)
    reached = pc.cumulative_max(end)
    begins = pc.greater(first.slice(1), reached.slice(0, len(first) - 1))
    starts = pa.concat_arrays([pa.array([True]), begins])
    stops = pa.concat_arrays([begins, pa.array([True])])
    return first.filter(starts), reached.filter(stops)


def _holds(starts: list[int], ends: list[int], place: int) -> bool:
    at = bisect.bisect_right(starts, place) - 1
    return at >= 0 and place < ends[at]


def _gaps(start: int, stop: int, starts: list[int], ends: list[int]) -> Iterator[slice]:
    """What of an interval no other holds, seen from its start."""
    free = start
    at = bisect.bisect_right(ends, start)
    while at < len(starts) and starts[at] < stop:
        if free < starts[at]:
            yield slice(free - start, starts[at] - start)
        free = max(free, ends[at])
        at += 1
    if free < stop:
        yield slice(free - start, stop - start)


def _slices(kept: Iterable[bool]) -> Iterator[slice]:
    """The runs of what is kept."""
    begin = None
    at = 0
    for at, keep in enumerate(kept):
        if keep and begin is None:
            begin = at
        elif not keep and begin is not None:
            yield slice(begin, at)
            begin = None
    if begin is not None:
        yield slice(begin, at + 1)
