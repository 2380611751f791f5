"""The two threads behind a writer, and the queues that lead to them; see `cdp_runtime.writer`."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from .dead_letter import DEAD_LETTER_SCHEMA, FOLDER, DeadLetter, to_batch
from .metrics import Metrics
from .parquet import PublishedFile, Table, TableFiles
from .payloads import (
    Payloads,
    Positions,
    concat,
    concat_positions,
    int_at,
    size_of,
    take_positions,
)
from .router import Router
from .storage import open_storage, writer_id
from .writer import TableWriter, WriterFailed

if TYPE_CHECKING:
    from .config import WriterConfig

__all__ = ["Intake", "Pipeline"]

_BATCH_ROWS: Final = 4_096
_BATCH_BYTES: Final = 2 << 20
"""What is decoded at once at most, but for a single message that is larger."""

_LINGER_SECONDS: Final = 0.05
"""How long a few messages wait for more before they are decoded."""


class Chunk:
    """Messages of one source on their way to be decoded.

    Args:
        payloads: the messages; while the chunk is at the end of the intake, single ones are added.
        source: where they come from.
        positions: their places in the source, if it has some.
        size: of the payloads in bytes.
    """

    __slots__ = ("payloads", "positions", "size", "source")

    def __init__(
        self,
        payloads: Payloads,
        source: str,
        positions: Positions | list[int] | None,
        size: int,
    ) -> None:
        self.payloads = payloads
        self.source = source
        self.positions = positions
        self.size = size


class Rows(NamedTuple):
    """Decoded rows of one partition and one source."""

    partition: str
    batch: pa.RecordBatch
    source: str
    positions: Positions | None


class Decoded(NamedTuple):
    """What one chunk became; `size` is that of the rows in bytes."""

    rows: list[Rows]
    letters: list[DeadLetter]
    size: int


class Mark:
    """Sent down the queues by `flush`, and by `close` as the last thing of all."""

    size: Final = 0

    def __init__(self, *, last: bool) -> None:
        self.last: Final = last
        self.reached: Final = threading.Event()


class DecodedQueue(queue.Queue["Decoded | Mark"]):
    """Leads from the decode thread to the encode thread, and is full at a number of bytes.

    While the encode thread compresses a row group, the next one is decoded into it.
    """

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._size = 0

    def _qsize(self) -> int:
        return self._size

    def _put(self, item: Decoded | Mark) -> None:
        super()._put(item)
        self._size += item.size + 1

    def _get(self) -> Decoded | Mark:
        item: Decoded | Mark = super()._get()
        self._size -= item.size + 1
        return item


class Intake:
    """What callers' threads have written and the decode thread has not yet taken.

    Bounded in messages and bytes; the one place where threads meet under a lock.

    Args:
        max_messages: what may wait at most, in messages.
        max_bytes: the same in bytes; a single larger message is let in alone.
        metrics: counts what is taken in.
    """

    def __init__(self, max_messages: int, max_bytes: float, metrics: Metrics) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._batch_rows = min(_BATCH_ROWS, max_messages)
        self._batch_bytes = min(_BATCH_BYTES, max_bytes)
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)  # the decode thread waits for it
        self._drained = threading.Condition(self._lock)  # callers do
        self._items: deque[Chunk | DeadLetter | Mark] = deque()
        self._messages = 0
        self._bytes = 0
        self._blocked = 0
        self._controls = 0
        self._closed = False
        self._failure: WriterFailed | None = None

    def put_one(self, payload: bytes, source: str, position: int | None) -> None:
        """Adds a message to the chunk at the end, if that is of its source."""
        with self._lock:
            self._wait_for_room(1, len(payload))
            last = self._items[-1] if self._items else None
            if (
                isinstance(last, Chunk)
                and last.source == source
                and type(last.payloads) is list
                and type(last.positions) is (list if position is not None else type(None))
                and len(last.payloads) < self._batch_rows
            ):
                last.payloads.append(payload)
                last.size += len(payload)
                if position is not None:
                    last.positions.append(position)  # type: ignore[union-attr]
            else:
                positions = None if position is None else [position]
                self._items.append(Chunk([payload], source, positions, len(payload)))
            self._count(1, len(payload))

    def put_many(
        self,
        payloads: Payloads,
        source: str,
        positions: Sequence[int] | pa.Int64Array | None,
    ) -> None:
        """Adds messages in chunks that are each small enough to be decoded at once."""
        if positions is not None:
            if len(positions) != len(payloads):
                raise ValueError(f"{len(payloads)} messages have {len(positions)} positions")
            if not isinstance(positions, (range, pa.Int64Array)):
                positions = pa.array(positions, pa.int64())
        for chunk in self._pieces(Chunk(payloads, source, positions, size_of(payloads))):
            with self._lock:
                self._wait_for_room(len(chunk.payloads), chunk.size)
                self._items.append(chunk)
                self._count(len(chunk.payloads), chunk.size)

    def put_letter(self, letter: DeadLetter) -> None:
        """Adds bytes that need no decoding."""
        size = len(letter.payload or b"")
        with self._lock:
            self._wait_for_room(1, size)
            self._items.append(letter)
            self._controls += 1
            self._count(1, size)

    def put_mark(self, mark: Mark) -> None:
        """Adds a mark behind everything; after the last one nothing more is taken."""
        with self._lock:
            if mark.last:
                self._closed = True
            else:
                self._check()
            self._items.append(mark)
            self._controls += 1
            self._filled.notify()
            self._drained.notify_all()

    def fail(self, failure: WriterFailed) -> None:
        """Makes this and every later call of a caller raise."""
        with self._lock:
            self._failure = self._failure or failure
            self._drained.notify_all()

    @property
    def failed(self) -> bool:
        """Whether the pipeline has failed, so that whatever comes is dropped."""
        return self._failure is not None

    def raise_failure(self) -> None:
        """Raises what made the pipeline fail, if it did."""
        if self._failure is not None:
            raise WriterFailed(*self._failure.args) from self._failure.__cause__

    def take(self) -> list[Chunk] | DeadLetter | Mark:
        """Waits for messages, and a little for more of them; gives about one batch, or what is no chunk."""
        with self._lock:
            while not self._items:
                self._filled.wait()
            deadline = time.monotonic() + _LINGER_SECONDS
            while not self._is_batch() and self._filled.wait(deadline - time.monotonic()):
                pass
            chunks: list[Chunk] = []
            rows = size = 0
            while self._items and isinstance(self._items[0], Chunk):
                chunk = self._items[0]
                rows += len(chunk.payloads)
                size += chunk.size
                if chunks and (rows > self._batch_rows or size > self._batch_bytes):
                    break
                chunks.append(self._items.popleft())
            if chunks:
                self._release(sum(len(c.payloads) for c in chunks), sum(c.size for c in chunks))
                return chunks
            item = self._items.popleft()
            assert not isinstance(item, Chunk)
            self._controls -= 1
            if isinstance(item, DeadLetter):
                self._release(1, len(item.payload or b""))
            return item

    def _is_batch(self) -> bool:
        return (
            self._messages >= self._batch_rows
            or self._bytes >= self._batch_bytes
            or self._controls > 0
            or self._blocked > 0
        )

    def _wait_for_room(self, messages: int, size: int) -> None:
        self._check()
        while self._messages > 0 and (
            self._messages + messages > self._max_messages or self._bytes + size > self._max_bytes
        ):
            self._blocked += 1
            self._filled.notify()
            try:
                self._drained.wait()
            finally:
                self._blocked -= 1
            self._check()

    def _check(self) -> None:
        self.raise_failure()
        if self._closed:
            raise ValueError("the writer is closed")

    def _count(self, messages: int, size: int) -> None:
        self._metrics.messages += messages
        self._metrics.message_bytes += size
        was_empty = self._messages == 0
        self._messages += messages
        self._bytes += size
        if was_empty or self._is_batch():
            self._filled.notify()

    def _release(self, messages: int, size: int) -> None:
        self._messages -= messages
        self._bytes -= size
        self._drained.notify_all()

    def _pieces(self, chunk: Chunk) -> Iterator[Chunk]:
        """Halves a chunk until each part can be decoded at once."""
        rows = len(chunk.payloads)
        if rows == 0:
            return
        if rows == 1 or (rows <= self._batch_rows and chunk.size <= self._batch_bytes):
            yield chunk
            return
        half = rows // 2
        for part in (slice(0, half), slice(half, rows)):
            payloads = chunk.payloads[part]
            positions = None if chunk.positions is None else chunk.positions[part]
            yield from self._pieces(Chunk(payloads, chunk.source, positions, size_of(payloads)))


class Pipeline:
    """Decode thread, encode thread, and the files of one table in one archive.

    Args:
        writer: the generated class, for what it says about the table.
        url: the archive.
        config: how to buffer and write.
        on_published: told of each file in the encode thread.
    """

    def __init__(
        self,
        writer: type[TableWriter[Any]],
        url: str | os.PathLike[str],
        config: WriterConfig,
        on_published: Callable[[PublishedFile], None] | None,
    ) -> None:
        self.metrics: Final = Metrics()
        self._table = writer.table
        self._converter = writer.converter()
        schema = writer.converter.schema
        self._router = Router(schema, writer.partitions, config, writer.partition_by)
        identity = writer_id()
        self._storage = open_storage(url, identity)
        self.url: Final = self._storage.url
        metadata = {
            "cdpgen.table": writer.table,
            "cdpgen.version": str(writer.version),
            "cdpgen.fingerprint": writer.fingerprint,
            "cdpgen.writer": identity,
        }
        self._on_published = on_published
        self._files = TableFiles(
            Table(writer.table, writer.table, schema, writer.sort_by, metadata, False),
            self._storage,
            identity,
            config,
            self.metrics,
            self._published,
        )
        self._letters = TableFiles(
            Table(writer.table, f"{FOLDER}/{writer.table}", DEAD_LETTER_SCHEMA, (), metadata, True),
            self._storage,
            identity,
            config,
            self.metrics,
            self._published,
        )
        self.intake: Final = Intake(config.buffer_size, config.buffer_mb * (1 << 20), self.metrics)
        self._decoded: Final = DecodedQueue(int(config.row_group_mb * (1 << 20)))
        self._closing = threading.Lock()
        self._end: Mark | None = None
        # daemons: a writer that nobody closes must not keep the interpreter from exiting
        self._threads = [
            threading.Thread(target=target, name=f"{writer.table} {name}", daemon=True)
            for name, target in (("decode", self._decode), ("encode", self._encode))
        ]
        for thread in self._threads:
            thread.start()

    def flush(self) -> None:
        """Waits until everything before is published."""
        self._forbid_own_threads("flush")
        mark = Mark(last=False)
        self.intake.put_mark(mark)
        mark.reached.wait()
        self.intake.raise_failure()

    def close(self) -> None:
        """Publishes everything and ends the threads."""
        self._forbid_own_threads("close")
        self._stop()
        for thread in self._threads:
            thread.join()
        self._storage.close()
        self.intake.raise_failure()

    def close_forgotten(self) -> None:
        """What is done for a writer that was never closed."""
        warnings.warn(
            f"the writer of {self._table} to {self.url} was not closed",
            ResourceWarning,
            stacklevel=2,
        )
        if threading.current_thread() in self._threads:
            self._stop()  # collected in one of its own threads, which cannot wait for itself
        else:
            with contextlib.suppress(WriterFailed):
                self.close()

    def _stop(self) -> None:
        with self._closing:
            if self._end is None:
                self._end = Mark(last=True)
                self.intake.put_mark(self._end)

    def _forbid_own_threads(self, call: str) -> None:
        if threading.current_thread() in self._threads:
            raise RuntimeError(f"on_published must not {call} the writer that calls it")

    # ---- decode thread

    def _decode(self) -> None:
        while True:
            taken = self.intake.take()
            if isinstance(taken, Mark):
                self._decoded.put(taken)
                if taken.last:
                    return
            elif not self.intake.failed:
                try:
                    if isinstance(taken, DeadLetter):
                        self._decoded.put(Decoded([], [taken], 0))
                    else:
                        for chunk in _merge(taken):
                            self._decoded.put(self._decode_chunk(chunk))
                except BaseException as error:
                    self._fail(error)

    def _decode_chunk(self, chunk: Chunk) -> Decoded:
        good, rejected = self._converter.decode(chunk.payloads)
        positions = concat_positions([chunk.positions])
        letters = []
        if rejected:
            for row, offset, reason in rejected:
                payload = chunk.payloads[row]
                letters.append(
                    DeadLetter(
                        payload if isinstance(payload, bytes) else payload.as_py(),
                        reason,
                        chunk.source,
                        None if positions is None else int_at(positions, row),
                        offset,
                    )
                )
            if positions is not None:
                kept = _without(len(chunk.payloads), {one.row for one in rejected})
                positions = take_positions(positions, kept)
        rows = []
        start = 0
        for batch in good:
            own = None if positions is None else positions[start : start + batch.num_rows]
            start += batch.num_rows
            rows += [
                Rows(partition, part, chunk.source, take_positions(own, places))
                for partition, part, places in self._router.split(batch)
            ]
        return Decoded(rows, letters, sum(batch.nbytes for batch in good))

    # ---- encode thread

    def _encode(self) -> None:
        while True:
            try:
                taken = self._decoded.get(timeout=self._seconds_to_rotation())
            except queue.Empty:
                taken = None
            if not self.intake.failed:
                try:
                    self._encode_one(taken)
                except BaseException as error:
                    self._fail(error)
            if isinstance(taken, Mark):
                if taken.last and self.intake.failed:
                    self._files.discard_all()
                    self._letters.discard_all()
                taken.reached.set()
                if taken.last:
                    return

    def _encode_one(self, taken: Decoded | Mark | None) -> None:
        if isinstance(taken, Mark):
            self._files.publish_all()
            self._letters.publish_all()
            return
        if taken is not None:
            for rows in taken.rows:
                self._files.add(rows.partition, rows.batch, rows.source, rows.positions)
            if taken.letters:
                self._keep(taken.letters)
        self._files.rotate_old()
        self._letters.rotate_old()

    def _keep(self, letters: list[DeadLetter]) -> None:
        """Adds dead letters, which come from one source, to their files."""
        places = [letter.position for letter in letters if letter.position is not None]
        whole = len(places) == len(letters)
        self._letters.add(
            "",
            to_batch(letters),
            letters[0].source,
            pa.array(places, pa.int64()) if whole else None,
        )
        self.metrics.dead_letters += len(letters)

    def _seconds_to_rotation(self) -> float | None:
        times = [self._files.seconds_to_rotation(), self._letters.seconds_to_rotation()]
        return min((t for t in times if t is not None), default=None)

    def _published(self, file: PublishedFile) -> None:
        self.metrics.files += 1
        if not file.dead_letters:
            self.metrics.rows += file.rows
        if self._on_published is not None:
            self._on_published(file)

    # ---- either thread

    def _fail(self, error: BaseException) -> None:
        failure = WriterFailed(f"{self._table}: cannot write to {self.url}: {error}")
        failure.__cause__ = error
        self.intake.fail(failure)


def _merge(chunks: list[Chunk]) -> Iterator[Chunk]:
    """Joins chunks of one source and kind, as far as they go together in one batch."""

    def kind(chunk: Chunk) -> tuple[str, str, bool]:
        payloads = chunk.payloads
        holder = "list" if isinstance(payloads, list) else str(payloads.type)
        return chunk.source, holder, chunk.positions is None

    # between sources there is no order to keep
    chunks.sort(key=lambda chunk: chunk.source)
    for _, group in itertools.groupby(chunks, key=kind):
        alike = list(group)
        yield Chunk(
            concat([chunk.payloads for chunk in alike]),
            alike[0].source,
            concat_positions([chunk.positions for chunk in alike]),
            sum(chunk.size for chunk in alike),
        )


def _without(rows: int, rejected: set[int]) -> pa.Array:
    """The numbers of the rows that were not rejected."""
    return pa.array([row for row in range(rows) if row not in rejected], pa.int64())
