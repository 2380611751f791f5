"""The threads behind a writer, and what goes from one to the next; see `cdp_runtime.writer`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import resource
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from . import _native
from .config import ConfigError
from .converter import Rejected
from .dead_letter import DEAD_LETTER_SCHEMA, FOLDER, DeadLetter, to_batch
from .dry_run import DryRun
from .former import footer_of
from .intake import LOOK_SECONDS, Chunk, Intake, Letter, Mark, integers
from .journal import UNNUMBERED, Frame, Journal, Left, encode, left_behind
from .metrics import Metrics
from .parquet import PublishedFile, Table, TableFiles
from .parquet_file import Compressor
from .patience import GaveUpError, Patience
from .payloads import Payloads, Positions, concat, concat_positions, int_at, take_positions
from .positions import Prefix
from .provenance import forbid_other_versions, schema_with, versions_told, with_provenance
from .resume import Published, published
from .router import Router
from .sources.identity import is_same, place, whole_of
from .storage import Storage, StorageError, open_storage, writer_id
from .store_errors import is_transient
from .writer import TableWriter, WriterFailed

if TYPE_CHECKING:
    from .config import WriterConfig

__all__ = ["Pipeline", "router_of"]

_GIVE_UP_SECONDS: Final = 5.0
"""How long a close that ran out of time waits for the threads to see it."""

_IDLE_BYTES: Final = 16 << 20
"""What the core keeps of batches and pages that are gone, in the whole process. With less the system clears
memory anew all the time; with more a long run takes over 400 MB."""

_OTHER_DESCRIPTORS: Final = 64
"""What a process opens besides the files that it writes, at most."""

_LARGE_BYTES: Final = 3 << 29
"""A page has a row whole and less than 2 GiB, of which other rows and levels take their part."""

_JOURNAL_FAILED: Final = "cannot write to the journal"


def _schema_of(writer: type[TableWriter[Any]], config: WriterConfig) -> pa.Schema:
    schema = writer.converter.schema
    return schema_with(schema) if config.include_metadata else schema


def router_of(writer: type[TableWriter[Any]], config: WriterConfig) -> Router:
    """What splits the rows of a table by partition.

    Raises:
        ConfigError: `partition_by` or `ledgers_per_file` does not fit the table.
    """
    return Router(_schema_of(writer, config), writer.partitions, config, writer.partition_by)


class Pipeline:
    """Journal thread, write thread, and the files of one table in one archive.

    Args:
        writer: the generated class, for what it says about the table.
        url: the archive; None when the config says where it lies.
        config: where and how to write.
        on_published: told of each file, in the write thread.
        identity: the id of the writer; a new one when left out.
    """

    def __init__(
        self,
        writer: type[TableWriter[Any]],
        url: str | os.PathLike[str] | None,
        config: WriterConfig,
        on_published: Callable[[PublishedFile], None] | None,
        identity: str | None = None,
    ) -> None:
        self.metrics: Final = Metrics()
        self._writer = writer
        self._table = writer.table
        self._converter = writer.converter()
        _native.limit_idle_memory(_IDLE_BYTES)
        self._schema = schema = _schema_of(writer, config)
        self._include_metadata = config.include_metadata
        self._router = router_of(writer, config)
        self._identity = identity = identity or writer_id()
        found, options = config.destination(url)
        if config.dry_run:
            self._storage: Storage = DryRun(open_storage(found, None, options))
        else:
            self._storage = open_storage(found, identity, options)
        if not config.schema_evolution:
            forbid_other_versions(self._storage, writer)
        self.url: Final = self._storage.url
        metadata = {
            "cdpgen.table": writer.table,
            **versions_told(writer),
            "cdpgen.writer": identity,
        }
        self._on_published = on_published
        self._known: Final = Published()
        self.prefixes: Final[dict[str, Prefix]] = {}
        self._patience = Patience(f"{writer.table} {identity}", self.metrics)
        numbers = itertools.count(1)  # of rows and dead letters alike: they share a folder before
        rows = Table(
            writer.table,
            writer.table,
            schema,
            writer.sort_by,
            metadata,
            False,
            functools.cache(lambda: footer_of(writer.message_type, self._converter)),
            writer.bloom_filters,
        )
        letters = Table(
            writer.table, f"{FOLDER}/{writer.table}", DEAD_LETTER_SCHEMA, (), metadata, True
        )

        def files_of(table: Table) -> TableFiles:
            return TableFiles(
                table,
                self._storage,
                identity,
                numbers,
                config,
                compressor,
                self.metrics,
                self._patience,
                self.prefixes,
                self._published,
            )

        _check_descriptors(config)
        compressor = Compressor(config.compression, config.compression_level)
        self._rows = files_of(rows)
        self._letters = files_of(letters)
        self._journal: Journal | None = None
        self._recovers: Left | None = None
        size = config.journal_mb * (1 << 20)
        self._urged: Mark | None = None
        if config.journal is not None and not config.dry_run:
            try:
                self._journal = self._open_journal(config.journal, size, url, config)
            except BaseException:
                self._storage.close()
                raise
            self._urge_at = size / 2
        self.intake: Final = Intake(
            config.buffer_size,
            config.buffer_mb * (1 << 20),
            self.metrics,
            journal_bytes=None if self._journal is None else size,
        )
        self._closing = threading.RLock()
        self._end: Final = Mark(last=True)
        self._closed = False
        self._give_up_at = math.inf
        self._shutdown_seconds = config.shutdown_seconds
        # pyarrow imports pandas when it first meets a Python value: in one of the threads, the lock of that
        # import would stay taken for ever in a process that is forked off meanwhile
        pa.scalar(1, pa.int64())
        pa.array([b""], pa.binary())
        # daemons: a writer that nobody closes must not keep the interpreter from exiting
        self._threads = [
            threading.Thread(target=target, name=f"{writer.table} {name}", daemon=True)
            for name, target in (
                *((("journal", self._write_journal),) if self._journal is not None else ()),
                ("write", self._write),
            )
        ]
        for thread in self._threads:
            thread.start()
        _ALIVE.add(self)

    def skip_published(self, sources: Callable[[str], bool]) -> Published:
        """Learns what the archive holds of some more sources, for `missing`."""
        before = {tuple(level.name for level in self._router.levels), *self._known.levels}
        self._known.update(self._read_published(sources))
        for levels in sorted(self._known.levels - before):
            from .log import logger

            logger().warning(
                "files of this table lie in other folders",
                archive=self.url,
                table=self._table,
                theirs="/".join(levels) or "(none)",
                new="/".join(level.name for level in self._router.levels) or "(none)",
                so="DuckDB and Polars do not read both at once as partitions; one partition_by for an archive",
            )
        return self._known

    def _read_published(
        self, sources: Callable[[str], bool], writers: Sequence[str] = ()
    ) -> Published:
        """Reads what the archive holds, as patiently as it is written."""
        try:
            return self._patience.call(
                lambda: published(self._storage, self._writer, sources, writers),
                "read the footers",
            )
        except (StorageError, GaveUpError):
            raise
        except OSError as error:
            raise StorageError(
                f"{self.url}: what is published cannot be read: {error}",
                transient=is_transient(error),
            ) from error

    def missing(self, source: str, positions: Positions | Sequence[int]) -> list[slice]:
        """The messages that are to be written; the others are counted as skipped."""
        if source not in self._known:
            return [slice(None)]
        if not isinstance(positions, range | pa.Int64Array):
            positions = integers(source, positions)
        rows = self._known.missing(source, positions)
        with self.metrics.lock:
            self.metrics.skipped += len(positions) - sum(one.stop - one.start for one in rows)
        return rows

    def flush(self) -> None:
        """Waits until everything before is published, or in the journal where there is one."""
        self._forbid_deadlock("flush")
        mark = Mark(last=False)
        self.intake.put_mark(mark)
        mark.wait()
        self.intake.raise_failure()

    def close(self, seconds: float | None = None) -> None:
        """Publishes everything and ends the threads; after so many seconds only the latter."""
        self._forbid_deadlock("close")
        if self._closed:
            return self.intake.raise_failure()
        self._stop()
        if not self._ended(seconds) and seconds is not None:
            self._abandon()
            self._ended(None)
        self._let_go()
        self.intake.raise_failure()

    def _let_go(self) -> None:
        """Ends what the threads used; one that hangs in a call to the store keeps it."""
        with self._closing:
            if not self._closed and self._end.is_reached:
                self._storage.close()
                if self._journal is not None:
                    if self.intake.failed:
                        self._journal.close()
                    else:
                        self._journal.end()
                self._closed = True  # last: the next call does again what an exception has ended

    def _ended(self, seconds: float | None) -> bool:
        """Waits until the threads are done; not much longer once they were told to give up."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            left = min(deadline, self._give_up_at) - time.monotonic()
            # no join before: one that the exception of a signal's handler ends takes the thread for dead
            if self._end.wait(min(left, LOOK_SECONDS)):
                for thread in self._threads:
                    thread.join()
                return True
            if left <= 0:
                return False

    def give_up(self) -> None:
        """Ends the threads without what is not published; waits for them, but not for a store that hangs."""
        self._abandon()
        self._stop()
        self._ended(None)
        self._let_go()

    def _abandon(self) -> None:
        """Gives up what is not published."""
        left_to = (
            "the next run, where its source replays" if self._journal is None else "the journal"
        )
        self.intake.fail(
            WriterFailed(
                f"{self._table}: not all could be published to {self.url} in the time there was; "
                f"the rest is left to {left_to}"
            )
        )
        self._give_up_at = time.monotonic() + _GIVE_UP_SECONDS
        self._patience.give_up()

    def close_forgotten(self) -> None:
        """What is done for a writer that was never closed."""
        if self._closed:
            return
        warnings.warn(
            f"the writer of {self._table} to {self.url} was not closed",
            ResourceWarning,
            stacklevel=2,
        )
        if threading.current_thread() in self._threads:
            self._stop()  # collected in one of its own threads, which cannot wait for itself
        else:
            try:
                self.close(self._shutdown_seconds)
            except WriterFailed as failure:  # there is nobody left to tell
                from .log import logger

                logger().error("not all was written", error=str(failure))

    def _stop(self) -> None:
        self.intake.put_mark(self._end)

    def _forbid_deadlock(self, call: str) -> None:
        if threading.current_thread() in self._threads:
            raise RuntimeError(f"on_published must not {call} the writer that calls it")
        # in a signal's handler: what this thread was about goes on only after it
        if self.intake.is_interrupted() or self._closing._is_owned():
            raise RuntimeError(
                f"a signal handler that has interrupted the writer cannot {call} it: raise an exception there, "
                "as docs/embedding.md shows"
            )

    def leave_to_parent(self) -> None:
        """Called in a process that was forked off: threads, files and journal are those of the other one."""
        self._closed = True
        self._threads = []
        self.intake.leave_to_parent(
            WriterFailed(
                f"{self._table}: this writer is of the process that this one was forked from: make one here"
            )
        )

    # ---- journal thread

    def _write_journal(self) -> None:
        assert self._journal is not None
        while True:
            taken = self.intake.take_new()
            if isinstance(taken, Mark):
                if taken.last:
                    self.intake.pass_on([taken])
                    return
                try:
                    self._journal.sync()
                except BaseException as error:
                    self._fail(error, _JOURNAL_FAILED)
                taken.reach()
                continue
            try:
                for item in [taken] if isinstance(taken, Letter) else _merge(taken):
                    self._keep_in_journal(item)
            except BaseException as error:
                self._fail(error, _JOURNAL_FAILED)

    def _keep_in_journal(self, item: Chunk | Letter) -> None:
        """Writes it to the journal, when that has room, and then passes it on."""
        assert self._journal is not None
        journal = self._journal
        try:
            rows = 1 if isinstance(item, Letter) else len(item.payloads)
            frame = encode(self._frame_of(item, journal))
            size = sum(map(len, frame))
            while not self.intake.failed:
                if not journal.has_room(size) or journal.size > self._urge_at:
                    self._urge()
                # when what was asked for is published, what came behind it is asked for
                if journal.wait_for_room(size, LOOK_SECONDS, self._has_urged):
                    item.segment = self._patience.call(
                        functools.partial(self._append, journal, frame, rows),
                        "write to the journal",
                    )
                    break
        except BaseException as error:
            self._fail(error, _JOURNAL_FAILED)
        # when the writer has failed, too: who decodes drops it and so makes room for who waits
        self.intake.pass_on([item])

    def _frame_of(self, item: Chunk | Letter, journal: Journal) -> Frame:
        """What the journal keeps of it; what has no position gets one there."""
        if isinstance(item, Letter):
            if item.letter.position is None:
                [position] = journal.unnumbered(1)
                source = item.letter.source + UNNUMBERED
                item.letter = item.letter._replace(source=source, position=position)
            letter = item.letter
            assert letter.position is not None
            return Frame(
                letter.source,
                pa.array([letter.payload], pa.binary()),
                range(letter.position, letter.position + 1),
                {"reason": letter.reason, "offset": letter.offset, "form": letter.form},
                self.prefixes.get(letter.source),
            )
        if item.positions is None:
            item.source += UNNUMBERED
            item.positions = journal.unnumbered(len(item.payloads))
        positions = concat_positions([item.positions])
        assert positions is not None
        return Frame(item.source, item.payloads, positions, prefix=self.prefixes.get(item.source))

    def _append(self, journal: Journal, frame: list[Any], rows: int) -> int:
        try:
            return journal.append(frame, rows)
        except OSError:
            journal.give_back()  # the disk may be full of what is published, or could be
            self._urge()
            raise

    def _has_urged(self) -> bool:
        """Whether nothing that was asked for is still to be published."""
        return self._urged is None or self._urged.is_reached

    def _urge(self) -> None:
        """Has all that was passed on published, so that segments of the journal can go."""
        if self._has_urged():
            self._urged = Mark(last=False)
            self.intake.pass_on([self._urged])

    def _open_journal(
        self, name: str, size: float, url: str | os.PathLike[str] | None, config: WriterConfig
    ) -> Journal:
        """Begins a journal, when those that dead writers left in its folder are published."""
        try:
            folder = Path(name).expanduser().absolute()
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # there is no such home
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"journal: {name!r} is not allowed: it is no folder, and cannot be made one: {why}"
            ) from None
        store = self._storage.store()
        for left in left_behind(folder, self._table, self.url, store):
            self._recover(left, url, config)
        if place(str(folder)) == place(self.url):
            raise ConfigError(
                f"journal: {name!r} is not allowed: it is the folder of the archive itself"
            )
        with _writing(folder):
            return Journal(folder, self._table, self._identity, place(self.url), size, store)

    def _recover(
        self,
        left: Left,
        url: str | os.PathLike[str] | None,
        config: WriterConfig,
    ) -> None:
        """Writes what a dead writer was given and had not published; blocks until that is done."""
        from .log import logger

        inner: Pipeline | None = None
        try:
            known = self._read_published(lambda source: True, left.writers)
            if read := left.prefixes():
                # another run may have read the same file since, without this journal
                others = self._read_published(lambda source: whole_of(source) in read)
                same = {
                    source
                    for source, prefix in read.items()
                    if source in others.prefixes
                    and is_same(source, prefix, others.prefixes[source])
                }
                others.keep(lambda source: whole_of(source) in same)
                known.update(others)
            config = config.model_copy(update={"journal": None})
            inner = Pipeline(self._writer, url, config, self._on_published, left.recoverer())
            inner._known.update(known)
            try:
                for frame in left.frames():
                    inner.put_frame(frame)
                inner.close()
            except BaseException:
                inner.give_up()
                raise
            left.remove()
        finally:
            # nobody else may recover what a thread that hangs in a call to the store still publishes
            if inner is not None:
                inner._recovers = left
            if inner is None or inner._end.is_reached:
                left.close()
        logger().info(
            "recovered from the journal", table=self._table, messages=inner.metrics.messages
        )

    def put_frame(self, frame: Frame) -> None:
        """Takes again what a journal holds, unless it is known to be published."""
        if frame.prefix is not None:
            self.prefixes[frame.source] = frame.prefix
        for rows in self.missing(frame.source, frame.positions):
            payloads: Any = frame.payloads[rows]
            positions = frame.positions[rows]
            if frame.letter is None:
                self.intake.put_many(payloads, frame.source, positions)
            else:
                letter = DeadLetter(
                    payloads[0].as_py(),
                    source=frame.source,
                    position=int_at(positions, 0),
                    **frame.letter,
                )
                self.intake.put_letter(letter)

    # ---- write thread

    def _write(self) -> None:
        while True:
            taken = self.intake.take(self._seconds_to_rotation())
            if not self.intake.failed:
                try:
                    self._write_one(taken)
                except BaseException as error:
                    self._fail(error)
            if isinstance(taken, Mark):
                try:
                    if taken.last:
                        self._end_files()
                finally:
                    taken.reach()
                    if self._journal is not None:
                        self._journal.wake()  # who waits for room there may ask for more
                if taken.last:
                    if self._recovers is not None:
                        self._recovers.close()
                    return

    def _end_files(self) -> None:
        if self.intake.failed:
            self._rows.discard_all()
            self._letters.discard_all()
        self._rows.end_threads()
        self._letters.end_threads()

    def _seconds_to_rotation(self) -> float | None:
        """How long until the oldest open file has reached its age; None without one."""
        times = [self._rows.seconds_to_rotation(), self._letters.seconds_to_rotation()]
        return min((t for t in times if t is not None), default=None)

    def _write_one(self, taken: list[Chunk] | Letter | Mark | None) -> None:
        if isinstance(taken, Mark):
            self._rows.publish_all()
            self._letters.publish_all()
            return
        if isinstance(taken, Letter):
            self._keep([taken.letter], taken.segment)
        elif taken is not None:
            for chunk in _merge(taken):
                self._write_chunk(chunk)
        self._rows.rotate_old()
        self._letters.rotate_old()

    def _write_chunk(self, chunk: Chunk) -> None:
        good, rejected = self._decode(chunk.payloads)
        source = chunk.source.removesuffix(UNNUMBERED)
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
        start = 0
        for batch in good:
            if self._include_metadata:
                batch = with_provenance(batch, self._schema, source, self._identity)
            own = None if positions is None else positions[start : start + batch.num_rows]
            start += batch.num_rows
            size = batch.nbytes
            for partition, rows, places in self._router.split(batch):
                self._rows.add(
                    partition,
                    rows,
                    chunk.source,
                    take_positions(own, places),
                    chunk.segment,
                    size * rows.num_rows // batch.num_rows,
                )
        if letters:
            self._keep(letters, chunk.segment)

    def _decode(self, payloads: Payloads) -> tuple[list[pa.RecordBatch], list[Rejected]]:
        """As the converter does it, but that what no page of Parquet can hold is rejected as well."""
        good, rejected = self._converter.decode(payloads)
        if all(batch.nbytes <= _LARGE_BYTES for batch in good):
            return good, rejected
        bad = {one.row for one in rejected}
        kept = [row for row in range(len(payloads)) if row not in bad]
        sizes = [batch.slice(row, 1).nbytes for batch in good for row in range(batch.num_rows)]
        large = {row for row, size in zip(kept, sizes, strict=True) if size > _LARGE_BYTES}
        if not large:
            return good, rejected
        reason = "the message does not fit a page of Parquet: its columns have over 1.5 GiB"
        rejected = rejected + [Rejected(row, 0, reason) for row in sorted(large)]
        rest = [payloads[row] for row in kept if row not in large]
        return self._converter.decode(rest).batches if rest else [], rejected

    def _keep(self, letters: list[DeadLetter], segment: int) -> None:
        """Adds dead letters, which come from one source, to their file."""
        places = [letter.position for letter in letters if letter.position is not None]
        whole = len(places) == len(letters)
        self._letters.add(
            "",
            to_batch(letters),
            letters[0].source,
            pa.array(places, pa.int64()) if whole else None,
            segment,
        )
        with self.metrics.lock:
            self.metrics.dead_letters += len(letters)

    def _published(self, file: PublishedFile, segments: Mapping[int, int]) -> None:
        self.metrics.files += 1
        if not file.dead_letters:
            self.metrics.rows += file.rows
        if self._on_published is not None:
            try:
                self._on_published(file)
            except BaseException as error:
                self._fail(error, f"on_published failed for {file.path}")
                raise
        if self._journal is not None:
            self._journal.settle(segments)

    # ---- any thread

    def _fail(self, error: BaseException, what: str | None = None) -> None:
        what = what or f"cannot write to {self.url}"
        failure = WriterFailed(f"{self._table}: {what}: {error}")
        failure.__cause__ = error
        self.intake.fail(failure)


_ALIVE: Final[weakref.WeakSet[Pipeline]] = weakref.WeakSet()


def _after_fork() -> None:
    for pipeline in list(_ALIVE):
        pipeline.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says of which folder an error of the system is."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"journal: {folder}: cannot be written: {error.strerror or error}",
            transient=is_transient(error),
        ) from None


def _check_descriptors(config: WriterConfig) -> None:
    """An open file has a descriptor, and without one nothing could be said or published either."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and config.max_open_files + _OTHER_DESCRIPTORS > allowed:
        raise ConfigError(
            f"max_open_files: {config.max_open_files} is not allowed: this process may have {allowed} open "
            f"files (ulimit -n), and needs {_OTHER_DESCRIPTORS} for the rest"
        )


def _merge(chunks: list[Chunk]) -> Iterator[Chunk]:
    """Joins chunks of one source and kind, as far as they go together in one batch."""

    def kind(chunk: Chunk) -> tuple[str, str, bool, int]:
        payloads = chunk.payloads
        holder = "list" if isinstance(payloads, list) else str(payloads.type)
        return chunk.source, holder, chunk.positions is None, chunk.segment

    # between sources there is no order to keep
    chunks.sort(key=lambda chunk: chunk.source)
    for _, group in itertools.groupby(chunks, key=kind):
        alike = list(group)
        yield Chunk(
            concat([chunk.payloads for chunk in alike]),
            alike[0].source,
            concat_positions([chunk.positions for chunk in alike]),
            sum(chunk.size for chunk in alike),
            alike[0].segment,
        )


def _without(rows: int, rejected: set[int]) -> pa.Array:
    """The numbers of the rows that were not rejected."""
    return pa.array([row for row in range(rows) if row not in rejected], pa.int64())
