"""What was given to a writer and is not published yet, on a local disk.

For messages that nobody will send again. Each run of a writer has its own folder, locked while it lives:

    <journal>/<table>/<writer id>.lock        locked by the kernel as long as the process lives
    <journal>/<table>/<writer id>/about.json  the archive, its store, and the id of the writer
    <journal>/<table>/<writer id>/000001.log  a segment
    <journal>/<table>/<writer id>/000001.free was one, and is written over as the next one

A segment is a sequence of frames, each of some messages of one source:

    length u64, CRC32C u32 (changed by the number of the segment: what a file held before is no frame of it)
    then so many bytes:
        length u32 of JSON {"source", "rows", "first", "nulls", "letter", "prefix"}, and this
        positions, int64 each, unless "first" says that they follow each other
        offsets of the payloads, int32 each, one more than there are payloads
        the payloads

or of JSON {"durable"} alone: the segments before that number were whole on the disk by then.

What a frame holds is durable once it is synced (`sync`; group commit: one for all frames before it); until
somebody asks, it is the system's to write. A frame that is not whole ends its segment: it was never
acknowledged, unless the segment was durable, and then it is damage. Segments of which every message is
published are used again: their memory is the system's already, and a disk that is slower than the messages
come sees only some of them. What a dead writer left is written by the next one (`recover`), but for what the
footers of the files that it published say is there: a message is known by source and position.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ._native import crc32c, join_payloads
from .payloads import Payloads, Positions
from .positions import Prefix
from .sources.identity import place
from .storage import writer_id
from .store_errors import StorageError
from .store_lock import lock_of_dead, lock_of_living

__all__ = ["UNNUMBERED", "Frame", "Journal", "Left", "decode", "encode", "left_behind"]

_HEAD: Final = struct.Struct("<QI")
_END: Final = struct.Struct("<i")
_SEGMENTS: Final = 16
"""The journal's bound is cut into so many segments, about."""

_SAME_STORES: Final = (
    ("s3a://", "s3://"),
    ("gcs://", "gs://"),
    ("az://", "abfs://"),
    ("abfss://", "abfs://"),
    ("ssh://", "sftp://"),
)
"""Protocols that are another name for one, which leads to the same archive."""

_ABOUT: Final = "about.json"
_LOOK_SECONDS: Final = 0.1
_TELL_SECONDS: Final = 1.0
"""How often it is looked whether a journal is recovered, and when the log says that this is waited for."""

_SMALLEST_SEGMENT: Final = 1 << 16
_DAMAGED: Final = (
    "a segment of the journal is damaged; from there to its end nothing can be told apart"
)

UNNUMBERED: Final = "~journal"
"""Ends the source of messages that have no position but the one that the journal gives them."""

_PIECE_BYTES: Final = 64 << 20
"""The most that becomes one dead letter of what is damaged."""

_REUSED: Final = 1.25
"""A file that is larger than so many segments is not kept for the next one."""


class Frame(NamedTuple):
    """Messages of one source, or one dead letter.

    Attributes:
        source: where they come from.
        payloads: the messages.
        positions: their places in the source.
        letter: of a dead letter, its reason, offset and form.
        prefix: of a source that is a file, what had been read of it.
    """

    source: str
    payloads: Payloads
    positions: Positions
    letter: Mapping[str, Any] | None = None
    prefix: Prefix | None = None


class Journal:
    """The journal of one run of a writer. Appended to by one thread, settled by another.

    Args:
        folder: of all journals.
        table: the full name of the table.
        writer: the id of the writer.
        url: the archive.
        limit: of the size of all segments together, bytes.
        store: what tells the store of the archive from another one that has the same URL.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, table: str, writer: str, url: str, limit: float, store: str = ""
    ) -> None:
        own = folder / table
        own.mkdir(parents=True, exist_ok=True)
        self._limit = limit
        self._segment_size = max(limit / _SEGMENTS, _SMALLEST_SEGMENT)
        self._folder = own / writer
        self._room = threading.Condition()
        self._number = 0
        self._descriptor = -1
        self._at = 0
        self._unsynced = False
        self._sealed: dict[int, int] = {}  # not synced yet: the descriptor of each
        self._durable = self._told = 1  # the segments before this one
        # A segment that is written over must not be found under its old number after a power cut, so it is
        # free once the disk knows that it is no segment any more.
        self._freed: list[Path] = []
        self._free: list[Path] = []
        self._has_new_names = False  # that the disk may not know
        self._sizes: dict[int, int] = {}
        self._unpublished: Counter[int] = Counter()
        # behind those of all runs before, so that a replay has these in the order of the runs
        self._next_position = time.time_ns()
        self._lock_path = own / f"{writer}.lock"
        self._lock_file = lock_of_living(self._lock_path)
        try:
            self._folder.mkdir()
            about = {"url": url, "store": store, "table": table, "writers": [writer]}
            _write_about(self._folder, about)
            _sync(own)
        except BaseException:
            self.end()
            raise

    @property
    def size(self) -> int:
        """Of all segments, bytes."""
        return sum(self._sizes.values())

    def unnumbered(self, rows: int) -> range:
        """Positions for messages whose caller gave none."""
        self._next_position += rows
        return range(self._next_position - rows, self._next_position)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes fit; a frame larger than the journal fits when there is no other."""
        return not self._sizes or self.size + size <= self._limit

    def wait_for_room(
        self, size: int, seconds: float, look: Callable[[], bool] = lambda: False
    ) -> bool:
        """Waits a while until so many bytes fit; the segment in use is closed, so that it can go too.

        Args:
            size: so many bytes.
            seconds: how long at most.
            look: whether to wait no longer; asked after each `wake`.
        """
        with self._room:
            if not self.has_room(size) and self._at:
                self._seal()
            self._room.wait_for(lambda: self.has_room(size) or look(), seconds)
            return self.has_room(size)

    def wake(self) -> None:
        """Has who waits for room look whether to go on."""
        with self._room:
            self._room.notify_all()

    def give_back(self) -> None:
        """Gives the disk what room there is: files that are free, and soon the segment in use."""
        with self._room:
            if self._at:
                self._seal()
            for path in [*self._free, *self._freed]:
                path.unlink(missing_ok=True)
            self._free, self._freed = [], []

    def append(self, frame: Sequence[Any], rows: int) -> int:
        """Writes a frame behind the others; the number of its segment.

        May be called again with the same frame when it failed.

        Raises:
            OSError: the disk.
        """
        if self._descriptor < 0 or self._at >= self._segment_size:
            with self._room:
                self._seal()
                self._open()
        if self._at == 0:
            self._tell()
        self._put(frame)
        with self._room:
            self._unpublished[self._number] += rows
        return self._number

    def sync(self) -> None:
        """Makes durable what was appended before.

        Raises:
            OSError: it cannot be known what is durable; the journal must not be used any more.
        """
        while self._sealed:
            with self._room:
                if not self._sealed:  # all that it held is published
                    break
                number = next(iter(self._sealed))
                descriptor = self._sealed.pop(number)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if self._has_new_names:
            _sync(self._folder)
            self._has_new_names = False
        self._durable = self._number + (self._descriptor < 0)
        if self._unsynced:
            if self._told < self._durable:
                with contextlib.suppress(OSError):  # the disk is full: the next one tells
                    self._tell()
            os.fdatasync(self._descriptor)
            self._unsynced = False

    def _tell(self) -> None:
        """Writes down which segments are durable."""
        self._put(_framed({"durable": self._durable}))
        self._told = self._durable

    def _put(self, frame: Sequence[Any]) -> None:
        size, checksum = _HEAD.unpack(frame[0])
        frame = [_HEAD.pack(size, checksum ^ _mark_of(self._number)), *frame[1:]]
        size += _HEAD.size
        written = os.pwritev(self._descriptor, frame, self._at)
        if written < size:  # a signal came, or the disk is about full: the next call says which
            rest = b"".join(frame)[written:]
            while rest:
                more = os.pwrite(self._descriptor, rest, self._at + written)
                written, rest = written + more, rest[more:]
        at = self._at + size
        with self._room:
            self._unsynced = True
            self._at = self._sizes[self._number] = at

    def settle(self, segments: Mapping[int, int]) -> None:
        """Takes note of published messages: how many of each segment."""
        with self._room:
            self._unpublished.subtract(segments)
            for number in list(self._sizes):
                if number != self._number or self._descriptor < 0:
                    self._remove_if_published(number)
            self._room.notify_all()
            freed = list(self._freed)
        if freed:
            with contextlib.suppress(OSError):  # the next time, then
                _sync(self._folder)
                with self._room:
                    self._free += [path for path in freed if path in self._freed]
                    self._freed = [path for path in self._freed if path not in freed]

    def end(self) -> None:
        """Removes the journal: all that it holds is published. May be called again when it was interrupted."""
        self._close_segments()
        # locked to the end: without that another writer would take it for what a dead one has left
        _remove(self._folder)
        self._lock_path.unlink(missing_ok=True)
        self._lock_file.close()

    def close(self) -> None:
        """Leaves the journal to who recovers it."""
        self._close_segments()
        self._lock_file.close()

    def _close_segments(self) -> None:
        with self._room:
            # forgotten first: by the next call its number may be that of another file
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)
            while self._sealed:
                os.close(self._sealed.popitem()[1])

    def _seal(self) -> None:
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self._at)  # of what the file held before
            self._sealed[self._number] = self._descriptor
            self._descriptor = -1
            self._at = 0
            self._unsynced = False
            self._remove_if_published(self._number)

    def _open(self) -> None:
        path = self._path(self._number + 1)
        if self._free:
            self._free[-1].rename(path)
            self._free.pop()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._has_new_names = True
        self._number += 1
        self._at = 0
        self._sizes[self._number] = 0

    def _remove_if_published(self, number: int) -> None:
        if number in self._sizes and self._unpublished[number] == 0:
            if number in self._sealed:
                os.close(self._sealed.pop(number))
            path = self._path(number)
            if self._sizes[number] <= _REUSED * self._segment_size:
                self._freed.append(path.rename(path.with_suffix(".free")))
            else:
                path.unlink(missing_ok=True)
            del self._sizes[number], self._unpublished[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}.log"


class Left:
    """The journal of a writer that is dead, locked for who recovers it."""

    def __init__(self, lock: Path, held: Sequence[IO[bytes]]) -> None:
        self._lock = lock
        self._held = held
        self._folder = lock.with_suffix("")
        self._about: dict[str, Any] = {"url": "", "writers": []}
        path = self._folder / _ABOUT
        try:
            about = json.loads(path.read_bytes())
            if not isinstance(about["url"], str) or not isinstance(about["writers"], list):
                raise TypeError(about)
            self._about = about
        except FileNotFoundError as error:
            if not any(segment.stat().st_size for segment in self._segments()):
                return  # it died before it had written anything
            raise StorageError(
                f"{path}: is gone, and only it says which archive this journal is for ({error}); bring it "
                f"back, or remove {self._folder} with what was not published"
            ) from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StorageError(
                f"{path}: says no more of which archive this journal is: {error!r}; mend it, and start again"
            ) from None

    @property
    def url(self) -> str:
        """The archive that it is for; empty when it holds nothing."""
        url: str = self._about["url"]
        return url

    @property
    def store(self) -> str:
        """What tells the store of the archive from others; empty where nothing does, and of old."""
        store: str = self._about.get("store", "")
        return store

    def is_of(self, url: str, store: str) -> bool:
        """Whether it is for this archive."""
        return _archive(self.url) == _archive(url) and self.store in ("", store)

    @property
    def writers(self) -> list[str]:
        """The ids of the writers that may have published something of it."""
        return [self._folder.name, *self._about["writers"]]

    def recoverer(self) -> str:
        """An id for a writer that will publish from here: who recovers after it finds by ours what it did."""
        return f"{self._folder.name}-{writer_id()}j"

    def frames(self) -> Iterator[Frame]:
        """What it holds; what is left of a segment that no crash explains as dead letters, in pieces."""
        segments = self._segments()
        for nth, path in enumerate(segments):
            with path.open("rb") as file:
                at = 0
                for body in _bodies(file, path):
                    at += _HEAD.size + len(body)
                    if _durable_in(body) is None:
                        yield decode(body)
                file.seek(at)
                if (piece := file.read(_PIECE_BYTES)) and self._is_durable(
                    path, segments[nth + 1 :]
                ):
                    while piece:
                        source, letter = (
                            path.name + UNNUMBERED,
                            {"reason": _DAMAGED, "form": "bytes"},
                        )
                        yield Frame(source, pa.array([piece]), range(at, at + 1), letter)
                        at += len(piece)
                        piece = file.read(_PIECE_BYTES)

    def _segments(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.log") if path.stem.isdecimal())

    def prefixes(self) -> dict[str, Prefix]:
        """How much was read of the sources in it that are files."""
        found: dict[str, Prefix] = {}
        for path in self._segments():
            with path.open("rb") as file:
                for body in _bodies(file, path):
                    meta, _ = _meta_in(body)
                    if "prefix" in meta:
                        found[meta["source"]] = Prefix(*meta["prefix"])
        return found

    def _is_durable(self, path: Path, later: Sequence[Path]) -> bool:
        """Whether a later segment says that this one was whole."""
        for one in later:
            with one.open("rb") as file:
                if any(int(path.stem) < (_durable_in(body) or 0) for body in _bodies(file, one)):
                    return True
        return False

    def remove(self) -> None:
        """Leaves nothing of it: all that it holds is published."""
        _remove(self._folder)
        self._lock.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leaves it to another."""
        for file in self._held:
            file.close()

    def tell(self) -> None:
        """Says that it stays, as it is for another archive, and what to do."""
        from .log import logger

        logger().warning(
            "a journal stays: it is for another archive",
            journal=str(self._folder),
            archive=self.url,
            store=self.store,
            to_publish_it="start a writer of that archive with this journal; where only the address of "
            "the store is another now, take store out of about.json in the journal",
        )


def left_behind(folder: Path, table: str, url: str, store: str = "") -> Iterator[Left]:
    """The journals that dead writers of this machine left for an archive; of others it is told.

    Waits for who recovers one of them: only then the archive tells what its writer had been given.
    """
    for lock in sorted((folder / table).glob("*.lock")):
        held = _locks_of_dead(lock)
        if not held:
            continue
        try:
            left = Left(lock, held)
        except StorageError:
            for file in held:
                file.close()
            raise
        if not left.url:
            left.remove()
        elif left.is_of(url, store):
            yield left
        else:
            left.close()
            left.tell()


def _locks_of_dead(lock: Path) -> list[IO[bytes]]:
    """The locks of a journal whose writer is dead, that of the writer first; none where it lives or is gone.

    Who recovers a journal holds that of its `about.json` too, and took it before: so others tell who is still
    at that from a writer that lives.
    """
    about = lock.with_suffix("") / _ABOUT
    began = time.monotonic()
    told = False
    while (turn := lock_of_dead(about)) is None and about.exists():
        if not told and time.monotonic() - began > _TELL_SECONDS:
            from .log import logger

            logger().info(
                "waits for another writer that recovers a journal", journal=str(about.parent)
            )
            told = True
        time.sleep(_LOOK_SECONDS)
    file = lock_of_dead(lock)
    if file is not None:
        return [one for one in (file, turn) if one is not None]
    if turn is not None:
        turn.close()
    return []


def encode(frame: Frame) -> list[Any]:
    """A frame as buffers to write one after the other; no work per message in Python.

    Raises:
        ValueError: payloads of over 2 GiB together.
    """
    payloads: Any = frame.payloads
    array = pa.array(payloads, pa.binary()) if isinstance(payloads, list) else payloads
    rows = len(array)
    meta: dict[str, Any] = {"source": frame.source, "rows": rows}
    each: Any = b""
    if isinstance(frame.positions, range) and frame.positions.step == 1:
        meta["first"] = frame.positions.start
    else:
        places: Any = pa.array(frame.positions, pa.int64())
        each = places.buffers()[1].slice(8 * places.offset, 8 * rows)
    if array.null_count:
        meta["nulls"] = pc.indices_nonzero(array.is_null()).to_pylist()
    if frame.letter is not None:
        meta["letter"] = frame.letter
    if frame.prefix is not None:
        meta["prefix"] = frame.prefix
    if not pa.types.is_binary(array.type):
        return _framed(meta, each, payloads=array)
    ends: Any
    data: Any
    _, ends, data = array.buffers()
    ends = ends.slice(4 * array.offset, 4 * (rows + 1))
    first, last = _END.unpack_from(ends, 0)[0], _END.unpack_from(ends, 4 * rows)[0]
    data = b"" if data is None else data.slice(first, last - first)
    return _framed(meta, each, ends, data)


def decode(body: bytes) -> Frame:
    """The inverse of `encode`, of what is behind length and checksum."""
    buffer = pa.py_buffer(body)
    meta, at = _meta_in(body)
    rows = meta["rows"]
    positions: Any
    if "first" in meta:
        positions = range(meta["first"], meta["first"] + rows)
    else:
        positions = pa.Array.from_buffers(pa.int64(), rows, [None, buffer.slice(at, 8 * rows)])
        at += 8 * rows
    # a copy of the ends, as they count from the start of what the array was a part of
    ends = pa.Array.from_buffers(
        pa.int32(), rows + 1, [None, pa.py_buffer(body[at : at + 4 * (rows + 1)])]
    )
    ends = pc.subtract(ends, ends[0])
    payloads: Any = pa.Array.from_buffers(
        pa.binary(), rows, [None, ends.buffers()[1], buffer.slice(at + 4 * (rows + 1))]
    )
    if "nulls" in meta:
        gone = set(meta["nulls"])
        values = enumerate(payloads.to_pylist())
        payloads = pa.array([None if row in gone else value for row, value in values], pa.binary())
    prefix = Prefix(*meta["prefix"]) if "prefix" in meta else None
    return Frame(meta["source"], payloads, positions, meta.get("letter"), prefix)


def _framed(meta: Mapping[str, Any], *parts: Any, payloads: Any = None) -> list[Any]:
    """A frame of what is told as JSON and the rest, as buffers.

    Args:
        meta: what is told.
        parts: the rest.
        payloads: behind that, an array that is to be made one of ends and bytes.
    """
    told = json.dumps(meta).encode()
    body = [_END.pack(len(told)) + told, *parts]
    checksum = 0
    for part in body:
        checksum = crc32c(part, checksum)
    if payloads is not None:
        joined, checksum = join_payloads(payloads, checksum)
        body.append(memoryview(joined))
    return [_HEAD.pack(sum(map(len, body)), checksum), *body]


def _meta_in(body: bytes) -> tuple[dict[str, Any], int]:
    """What a frame tells as JSON, and where the rest begins."""
    end = _END.size + _END.unpack_from(body, 0)[0]
    return json.loads(body[_END.size : end]), end


def _durable_in(body: bytes) -> int | None:
    """The segments before which number a frame says to be durable; None of one that holds messages."""
    return _meta_in(body)[0].get("durable")


def _archive(url: str) -> str:
    """Where an archive lies, the same for whatever leads there."""
    for other, name in _SAME_STORES:
        if url.startswith(other):
            url = name + url.removeprefix(other)
    return place(url)


def _mark_of(number: int) -> int:
    """By what the checksums of a segment's frames differ from those of all others."""
    return crc32c(number.to_bytes(8, "little"))


def _bodies(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The bodies of the frames of a segment, up to the first that is not whole; one in memory at a time."""
    mark = _mark_of(int(path.stem))
    left = os.fstat(file.fileno()).st_size
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        size, checksum = _HEAD.unpack(head)
        left -= _HEAD.size + size
        # zeros, which a power cut may leave, are no frame of nothing
        if size == 0 or left < 0 or crc32c(body := file.read(size)) ^ mark != checksum:
            return
        yield body


def _write_about(folder: Path, about: Mapping[str, Any]) -> None:
    path = folder / "about.new"
    with path.open("w", encoding="utf-8") as file:
        json.dump(about, file)
        file.flush()
        os.fsync(file.fileno())
    path.rename(folder / _ABOUT)
    _sync(folder)


def _remove(folder: Path) -> None:
    """Removes a journal's folder; what says whose it is goes last, as somebody may die meanwhile."""
    for path in folder.glob("*"):
        if path.name != _ABOUT:
            path.unlink()
    if folder.exists():
        shutil.rmtree(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
