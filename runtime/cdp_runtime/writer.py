"""The base class of generated writers.

The way of a message from `write` to the disk, and who owns what:

    caller's threads      write, write_many        bytes into the `Intake`, which blocks when it is full
    journal thread        pipeline.Pipeline        only with a journal: `journal.Journal`, and on
    write thread          pipeline.Pipeline        `Converter.decode`, `router.Router.split`, and then
                                                   `parquet.TableFiles`: row groups, rotation, publication
    the core's threads    runtime/native/parquet/  encode columns and compress pages

The intake (bounded in messages and bytes) joins the callers to the write thread, which gives the core's
threads so much ahead and then helps them; the journal has a lock of its own. Everything else belongs to one
thread. `flush` and `close` send a mark down the same way and wait until it comes out at the end, so they come
after all that was written before; with a journal `flush` waits for that alone.

What fails and may pass is waited out where it fails (`patience.Patience`), so a store that is away fills the
queues and then blocks the callers. A thread that fails for good keeps taking from its queue and drops what
it takes, so that nobody waits for ever; the next call of the caller raises `WriterFailed`.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self, TypeVar, cast

import pyarrow as pa

from .partition import Column, Day, Hour, Partition, Range

if TYPE_CHECKING:
    from typing import Unpack

    from google.protobuf.message import Message

    from .config import WriterOptions
    from .converter import Converter
    from .dead_letter import Form
    from .metrics import Metrics
    from .parquet import PublishedFile
    from .positions import Prefix
    from .resume import Published

    M = TypeVar("M", bound=Message)
else:
    M = TypeVar("M")

__all__ = ["Column", "Day", "Hour", "Range", "TableWriter", "WriterFailed"]


class WriterFailed(RuntimeError):  # noqa: N818 - what happened, as people say it
    """Not all that was given to the writer is in the archive, and waiting would not help.

    What was not published before is in the journal, where there is one, and the next writer publishes it; or
    it comes again, where its source replays. `__cause__` is the error behind it. The writer takes nothing
    more.
    """


class TableWriter(Generic[M]):
    """Writes messages of one type into an archive, as Parquet.

    May be used by several threads at once. Use it in a `with`, or call `close`.

    Args:
        url: the archive: a path or a URL of any fsspec protocol; or `storage_type` among the options.
            Files lie in a folder below it that has the name of the table.
        on_published: called with each file when it is durable, in a thread of the writer; it must
            not call the writer.
        **options: see `cdp_runtime.config.WriterConfig`.

    Raises:
        ConfigError: an option is wrong; the message names it and what is allowed.
        StorageError: the archive cannot be written, or the journal.
    """

    table: ClassVar[str]
    """The full name of the message."""
    version: ClassVar[int]
    """Of the table, by the lock of the schemas."""
    fingerprint: ClassVar[str]
    """Of schema and program."""
    former_fingerprints: ClassVar[Mapping[int, str]] = {}
    """Those of the versions before, by their numbers."""
    converter: ClassVar[type[Converter[Any]]]
    partitions: ClassVar[Mapping[str, tuple[Partition, ...]]] = {}
    """The partitions that the rules name."""
    partition_by: ClassVar[tuple[str, ...]] = ()
    """What `partition_by` is when the user says nothing."""
    sort_by: ClassVar[tuple[str, ...]] = ()
    bloom_filters: ClassVar[tuple[str, ...]] = ()
    """The columns that get a bloom filter, by their paths in the Parquet file."""
    defaults: ClassVar[Mapping[str, bool | int | float | str | bytes]] = {}
    """What rows older than a column have in it when they are read, by the column's dotted path."""

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        on_published: Callable[[PublishedFile], None] | None = None,
        **options: Unpack[WriterOptions],
    ) -> None:
        from .config import WriterConfig, check
        from .pipeline import Pipeline

        if on_published is not None and not callable(on_published):
            raise TypeError(f"on_published takes a function, not {_kind(on_published)}")
        config = check(WriterConfig, cast("Mapping[str, Any]", options))
        self._pipeline = Pipeline(type(self), url, config, on_published)
        # the threads know the pipeline and not this object: one that is dropped, or still there when the
        # interpreter exits, is found here, and what it was given is published
        self._unclosed = weakref.finalize(self, self._pipeline.close_forgotten)
        _OPEN.add(self)
        _close_at_exit()

    @classmethod
    def message_type(cls) -> type[M]:
        """The class of the messages."""
        raise NotImplementedError(f"{cls.__name__} is not a generated writer")

    @property
    def metrics(self) -> Metrics:
        """What the writer has done so far."""
        return self._pipeline.metrics

    @property
    def url(self) -> str:
        """The archive."""
        return self._pipeline.url

    def write(self, message: M | bytes, *, source: str = "", position: int | None = None) -> None:
        """Takes one message; blocks while the buffer is full.

        Args:
            message: the message or its bytes. Bytes that are no valid message go to the dead letters.
            source: where it comes from, for footers and dead letters.
            position: its place in the source; no two messages of a source have the same.

        Raises:
            TypeError: it is a message of another type, or no message.
            WriterFailed: something that was written before could not be.
            ValueError: the writer is closed.
        """
        if position is not None and not self._pipeline.missing(
            source, range(position, position + 1)
        ):
            return
        payload = message if type(message) is bytes else self._as_bytes(message)
        self._pipeline.intake.put_one(payload, source, position)

    def write_many(
        self,
        payloads: Iterable[M | bytes] | pa.Array,
        *,
        source: str = "",
        positions: Sequence[int] | pa.Int64Array | None = None,
    ) -> None:
        """Takes many messages; returns once they are in the buffer, and blocks while it is full.

        Args:
            payloads: messages or their bytes, or a pyarrow array of type binary, large_binary or
                binary_view, which is not copied.
            source: where they come from, for footers and dead letters.
            positions: their places in the source, one each, none of them twice; a `range` costs
                nothing.

        Raises:
            TypeError: there is a message of another type, or no message, among them.
            WriterFailed: something that was written before could not be.
            ValueError: the writer is closed, or there are not as many positions as messages.
        """
        if not isinstance(payloads, pa.Array):
            if _is_one(payloads):
                raise TypeError(
                    f"write_many takes a list of {self.table} or of their bytes, not {_kind(payloads)}; "
                    "write takes one"
                )
            payloads = [p if type(p) is bytes else self._as_bytes(p) for p in payloads]
        if positions is not None and len(positions) == len(payloads):
            for rows in self._pipeline.missing(source, positions):
                self._pipeline.intake.put_many(payloads[rows], source, positions[rows])
        else:
            self._pipeline.intake.put_many(payloads, source, positions)

    def skip_published(self, sources: Callable[[str], bool]) -> Published:
        """Passes over messages that the archive holds already, from here on; for sources that replay.

        Reads the footers of the table's files. A message is known by its source and position, so
        both must mean the same message each time.

        Args:
            sources: tells which sources replay.

        Returns:
            What the archive holds of them.

        Raises:
            OSError: the archive cannot be read, or a footer in it is damaged.
            TypeError: it is no function, but the name of a source for example.
        """
        if not callable(sources):
            raise TypeError(
                "skip_published takes a function that is given the name of a source, not "
                f"{_kind(sources)}: lambda name: name == ..."
            )
        return self._pipeline.skip_published(sources)

    def note_prefix(self, source: str, prefix: Prefix) -> None:
        """Has footers tell, from here on, how much of a file has been read, so that it is known again."""
        self._pipeline.prefixes[source] = prefix

    def reject(
        self,
        payload: bytes,
        reason: str,
        *,
        source: str = "",
        position: int | None = None,
        offset: int | None = None,
        form: Form = "message",
    ) -> None:
        """Takes bytes that are known to be no message, for the dead letters.

        Args:
            payload: the bytes.
            reason: what is wrong with them, for people.
            source: where they come from.
            position: their place in the source.
            offset: the byte of the payload that is wrong.
            form: what the bytes were taken for; `cdpgen dead-letters retry` goes by it.

        Raises:
            WriterFailed: something that was written before could not be.
            ValueError: the writer is closed.
        """
        from .dead_letter import DeadLetter

        if position is not None and not self._pipeline.missing(
            source, range(position, position + 1)
        ):
            return
        letter = DeadLetter(payload, reason, source, position, offset, form=form)
        self._pipeline.intake.put_letter(letter)

    def flush(self) -> None:
        """Everything written before this line is durable when it returns.

        With a journal it is there, synced to the disk; without one all files are published.

        Raises:
            WriterFailed: something that was written before could not be.
            ValueError: the writer is closed.
        """
        self._pipeline.flush()

    def close(self, seconds: float | None = None) -> None:
        """Publishes all files and ends. Calling it again does nothing.

        Args:
            seconds: how long to try; None for as long as it takes, however long the store is away.

        Raises:
            WriterFailed: something that was written before could not be published, or not in that time. It
                is in the journal where there is one, and the next writer publishes it.
        """
        try:
            self._pipeline.close(seconds)
        except WriterFailed:
            self._unclosed.detach()
            raise
        # where the exception of a signal's handler ends the call, the end of the program closes the writer
        self._unclosed.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes, also when the block failed: what was written before is archived."""
        try:
            self.close()
        except WriterFailed as failure:
            if error is None:
                raise
            if not isinstance(error, WriterFailed):
                error.add_note(str(failure))

    def _as_bytes(self, message: Any) -> bytes:
        if isinstance(message, (bytes, bytearray, memoryview)):
            return bytes(message)
        descriptor = getattr(message, "DESCRIPTOR", None)
        if descriptor is None or isinstance(message, type):
            raise TypeError(f"expected a {self.table} or its bytes, not {_kind(message)}")
        if descriptor.full_name != self.table:
            raise TypeError(f"expected a {self.table}, not a {descriptor.full_name}")
        payload: bytes = message.SerializeToString()
        return payload


def _is_one(payloads: object) -> bool:
    """Whether it is no list: bytes, and some messages, are iterable too."""
    if isinstance(payloads, (bytes, bytearray, memoryview, str)) or hasattr(payloads, "DESCRIPTOR"):
        return True
    return not isinstance(payloads, Iterable)


def _kind(given: object) -> str:
    """The type of something, for people."""
    return f"{type(given).__module__}.{type(given).__qualname__}"


_OPEN: Final[weakref.WeakSet[TableWriter[Any]]] = weakref.WeakSet()


@functools.cache
def _close_at_exit() -> None:
    """Has writers that nobody closed closed while the clients of stores can still work.

    Those hand what they do to executors of `concurrent.futures`, which end before anything that is
    registered with `atexit` is called.
    """
    import concurrent.futures.thread as executors

    def close() -> None:
        workers = getattr(executors, "_threads_queues", {})
        for thread in threading.enumerate():
            own = thread is threading.current_thread() or thread.daemon
            # those of executors are ended after this
            if not own and thread not in workers and "concurrent" not in type(thread).__module__:
                thread.join()  # it may have something to write yet
        for writer in list(_OPEN):
            if writer._unclosed.alive:
                writer._pipeline.intake.end_with_interpreter()
                writer._unclosed()

    getattr(threading, "_register_atexit", atexit.register)(close)
