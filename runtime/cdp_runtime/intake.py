"""What callers' threads have given to a writer and its write thread has not taken yet."""

from __future__ import annotations

import contextlib
import math
import operator
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, get_args

import pyarrow as pa
import pyarrow.compute as pc

from .dead_letter import DeadLetter, Form, shortened
from .metrics import Metrics
from .payloads import Payloads, Positions, size_of
from .writer import WriterFailed

__all__ = ["LOOK_SECONDS", "Chunk", "Intake", "Letter", "Mark", "integers"]

_BATCH_ROWS: Final = 16_384
_BATCH_BYTES: Final = 8 << 20
"""What is decoded at once at most, but for a single message that is larger."""

_JOURNAL_PART: Final = 0.25
"""What of a journal one batch may fill, without what the journal needs itself."""

LOOK_SECONDS: Final = 0.5
"""How often who waits looks for itself whether what it waits for has come, or never will."""

_LINGER_SECONDS: Final = 0.05
"""How long a few messages wait for more before they are decoded."""


class Chunk:
    """Messages of one source on their way to be decoded.

    Args:
        payloads: the messages; while the chunk is at the end of the intake, single ones are added.
        source: where they come from.
        positions: their places in the source, if it has some.
        size: of the payloads in bytes.
        segment: of the journal that holds them; 0 without a journal.
    """

    __slots__ = ("payloads", "positions", "segment", "size", "source")

    def __init__(
        self,
        payloads: Payloads,
        source: str,
        positions: Positions | list[int] | None,
        size: int,
        segment: int = 0,
    ) -> None:
        self.payloads = payloads
        self.source = source
        self.positions = positions
        self.size = size
        self.segment = segment


class Letter:
    """A dead letter on its way to be written.

    Args:
        letter: what it says.
        segment: of the journal that holds it; 0 without a journal.
    """

    __slots__ = ("letter", "segment", "size")

    def __init__(self, letter: DeadLetter, segment: int = 0) -> None:
        self.letter = letter
        self.segment = segment
        self.size: Final = len(letter.payload or b"")


class Mark:
    """Sent down the queues by `flush`, and by `close` as the last thing of all.

    Args:
        last: whether nothing comes behind it.
    """

    size: Final = 0

    def __init__(self, *, last: bool) -> None:
        self.last: Final = last
        self.is_reached = False
        # no Event: who waits may be interrupted by an exception of a signal's handler, and leave its lock taken
        self._told: Final[SimpleQueue[None]] = SimpleQueue()

    def reach(self) -> None:
        """Says that all that was before it is published; never waits."""
        self.is_reached = True
        self._told.put(None)

    def wait(self, seconds: float = math.inf) -> bool:
        """Waits until it is reached, or so long; whether it is."""
        deadline = time.monotonic() + seconds
        while not self.is_reached and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                self._told.get(timeout=min(left, LOOK_SECONDS))
                self._told.put(None)  # for others who wait
        return self.is_reached


class Intake:
    """What callers' threads have written and the write thread has not yet taken.

    Bounded in messages and bytes; the one place where threads meet under a lock. With a journal it has
    two ends: `take_new` is for who writes the journal and passes on (`pass_on`) what is in it, `take` for who
    decodes that. Messages count until they are decoded.

    The exception of a signal's handler may end a caller's call between any two of its steps. So what callers
    count can be counted again by what is there (`_mend`); the rest is counted by threads that no signal meets.

    Args:
        max_messages: what may wait at most, in messages.
        max_bytes: the same in bytes; a single larger message is let in alone.
        metrics: counts what is taken in.
        journal_bytes: what a journal in between may hold, in bytes; None without one.
    """

    def __init__(
        self,
        max_messages: int,
        max_bytes: float,
        metrics: Metrics,
        *,
        journal_bytes: float | None = None,
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._batch_rows = min(_BATCH_ROWS, max_messages)
        self._batch_bytes = min(_BATCH_BYTES, max_bytes)
        journaled = journal_bytes is not None
        if journal_bytes is not None:
            self._batch_bytes = min(self._batch_bytes, journal_bytes * _JOURNAL_PART)
        self._lock = threading.RLock()
        self._drained = threading.Condition(self._lock)  # callers wait for it
        self._filled = threading.Condition(self._lock)  # who takes what is new does
        self._new: deque[Chunk | Letter | Mark] = deque()
        self._ready = threading.Condition(self._lock) if journaled else self._filled
        self._items: deque[Chunk | Letter | Mark] = deque() if journaled else self._new
        self._new_messages = 0
        self._new_bytes = 0
        self._controls = 0  # of what is new: marks and letters
        self._passed_messages = 0  # no longer new, and not decoded yet
        self._passed_bytes = 0
        self._taken_messages = 0  # that are not new any more, since the beginning
        self._taken_bytes = 0
        self._is_last_taken = False
        self._is_torn = False
        self._blocked: set[int] = set()  # the threads that wait for room
        self._closed = False
        self._ended_with_interpreter = False
        self._failure: WriterFailed | None = None

    def put_one(self, payload: bytes, source: str, position: int | None) -> None:
        """Adds a message to the chunk at the end, if that is of its source."""
        _check_place(source, position)
        with self._lock:
            self._wait_for_room(1, len(payload))
            last = self._new[-1] if self._new else None
            if (
                isinstance(last, Chunk)
                and last.source == source
                and type(last.payloads) is list
                and (
                    last.positions is None
                    if position is None
                    # of as many, unless a signal's handler writes in the midst of this
                    else type(last.positions) is list and len(last.positions) == len(last.payloads)
                )
                and len(last.payloads) < self._batch_rows
                and last.size + len(payload) <= self._batch_bytes
            ):
                try:
                    last.payloads.append(payload)
                    last.size += len(payload)
                    if position is not None:
                        last.positions.append(position)  # type: ignore[union-attr]
                    self._count(1, len(payload))
                except BaseException:
                    self._mend()
                    raise
            else:
                positions = None if position is None else [position]
                self._add(Chunk([payload], source, positions, len(payload)))

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
                positions = integers(source, positions)
        _check_place(source, None)
        if isinstance(positions, range) and positions:
            for end in (positions[0], positions[-1]):
                _check_place(source, end)
        elif isinstance(positions, pa.Int64Array):
            if positions.null_count:
                row = pc.index(positions.is_null(), True).as_py()
                raise ValueError(f"positions: None is not allowed, as that of message {row}")
            _check_place(source, pc.max(positions).as_py())
        for chunk in self._pieces(Chunk(payloads, source, positions, size_of(payloads))):
            with self._lock:
                self._wait_for_room(len(chunk.payloads), chunk.size)
                self._add(chunk)

    def put_letter(self, letter: DeadLetter) -> None:
        """Adds bytes that need no decoding."""
        _check_place(letter.source, letter.position)
        _check_letter(letter)
        item = Letter(letter._replace(reason=shortened(letter.reason)))
        with self._lock:
            self._wait_for_room(1, item.size)
            self._add(item)

    def put_mark(self, mark: Mark) -> None:
        """Adds a mark behind everything; after the last one nothing more is taken, nor another last one.

        That may be tried again when an exception has ended it.
        """
        with self._lock:
            if self._is_torn:
                self._mend()
            if mark.last:
                self._closed = True  # before it is there: nothing may come behind it
                end = self._new[-1] if self._new else None
                if self._is_last_taken or (isinstance(end, Mark) and end.last):
                    return
            else:
                self._check()
            self._add(mark)
            self._drained.notify_all()

    def is_interrupted(self) -> bool:
        """Whether this thread holds the lock: it is in a signal's handler that has interrupted a call."""
        held: bool = self._lock._is_owned()  # type: ignore[attr-defined]
        return held

    def fail(self, failure: WriterFailed) -> None:
        """Makes this and every later call of a caller raise."""
        with self._lock:
            self._failure = self._failure or failure
            self._drained.notify_all()

    def leave_to_parent(self, failure: WriterFailed) -> None:
        """Called in a process that was forked off, where nobody is left to let go of the lock."""
        self._lock = threading.RLock()
        self._drained = threading.Condition(self._lock)
        self._filled = threading.Condition(self._lock)
        self._failure = failure

    @property
    def failed(self) -> bool:
        """Whether the pipeline has failed, so that whatever comes is dropped."""
        return self._failure is not None

    def raise_failure(self) -> None:
        """Raises what made the pipeline fail, if it did."""
        if self._failure is not None:
            raise WriterFailed(*self._failure.args) from self._failure.__cause__

    def take(self, seconds: float | None = None) -> list[Chunk] | Letter | Mark | None:
        """Waits for messages, and a little for more of them; gives about one batch, or what is no chunk.

        Args:
            seconds: how long to wait at most; None for ever.

        Returns:
            What is next; None when that took too long.
        """
        with self._lock:
            if not self._ready.wait_for(lambda: self._items, seconds):
                return None
            if self._items is self._new:
                self._wait_for_batch()
                taken = self._pop_new()
            else:
                taken = self._pop(self._items)
                messages, size = _sizes(taken)
                self._passed_messages -= messages
                self._passed_bytes -= size
            if not isinstance(taken, Mark):
                self._drained.notify_all()
            return taken

    def take_new(self) -> list[Chunk] | Letter | Mark:
        """The same for who writes the journal; what is taken still fills the buffer."""
        with self._lock:
            self._filled.wait_for(lambda: self._new)
            self._wait_for_batch()
            return self._pop_new()

    def pass_on(self, items: Sequence[Chunk | Letter | Mark]) -> None:
        """Leaves to the write thread what the journal holds."""
        with self._lock:
            self._items.extend(items)
            self._ready.notify()

    def _wait_for_batch(self) -> None:
        deadline = time.monotonic() + _LINGER_SECONDS
        while not self._is_batch() and self._filled.wait(deadline - time.monotonic()):
            pass

    def _pop_new(self) -> list[Chunk] | Letter | Mark:
        if self._is_torn:
            self._mend()
        taken = self._pop(self._new)
        messages, size = _sizes(taken)
        self._new_messages -= messages
        self._new_bytes -= size
        self._taken_messages += messages
        self._taken_bytes += size
        if self._items is not self._new:
            self._passed_messages += messages
            self._passed_bytes += size
        if not isinstance(taken, list):
            self._controls -= 1
            self._is_last_taken = isinstance(taken, Mark) and taken.last
        return taken

    def _pop(self, items: deque[Chunk | Letter | Mark]) -> list[Chunk] | Letter | Mark:
        taken: list[Chunk] = []
        rows = size = 0
        while items and isinstance(chunk := items[0], Chunk):
            rows += len(chunk.payloads)
            size += chunk.size
            if taken and (rows > self._batch_rows or size > self._batch_bytes):
                break
            taken.append(chunk)
            items.popleft()
        if taken:
            return taken
        item = items.popleft()
        assert not isinstance(item, Chunk)
        return item

    def _is_batch(self) -> bool:
        return (
            self._new_messages >= self._batch_rows
            or self._new_bytes >= self._batch_bytes
            or self._controls > 0
            or bool(self._blocked)
        )

    def _wait_for_room(self, messages: int, size: int) -> None:
        # each `write` comes here, and a call costs more than this
        if self._is_torn or self._closed or self._failure is not None:
            self._check()
        while (waiting := self._new_messages + self._passed_messages) and (
            waiting + messages > self._max_messages
            or self._new_bytes + self._passed_bytes + size > self._max_bytes
        ):
            thread = threading.get_ident()
            try:
                self._blocked.add(thread)
                self._filled.notify()
                self._wait_until_drained()
            finally:
                self._blocked.discard(thread)
            self._check()

    def _wait_until_drained(self) -> None:
        """Waits for a while; whatever a signal's handler raises meanwhile, the lock is held as before.

        Python's own wait has let go of the lock for some steps already, and takes it back only after those.
        """
        lock: Any = self._lock
        # more than once by a handler that writes; Pythons before 3.11.6 and 3.12.1 do not tell
        held = getattr(lock, "_recursion_count", lambda: 1)()
        try:
            self._drained.wait()
        except BaseException:
            if not lock._is_owned():
                lock._acquire_restore((held, threading.get_ident()))
            raise

    def end_with_interpreter(self) -> None:
        """Says that the writer is closed because the interpreter ends: who writes now may not hear of it."""
        self._ended_with_interpreter = True

    def _check(self) -> None:
        if self._is_torn:
            self._mend()
        self.raise_failure()
        if self._closed:
            if self._ended_with_interpreter:
                from .log import logger

                self._ended_with_interpreter = False  # once is enough
                logger().error(
                    "not all was written: jobs of an executor wrote after the end of the program had closed "
                    "the writer; close it there, when they are done"
                )
            raise ValueError("the writer is closed")

    def _add(self, item: Chunk | Letter | Mark) -> None:
        try:
            self._new.append(item)
            if not isinstance(item, Chunk):
                self._controls += 1
            self._count(_rows(item), item.size)
        except BaseException:
            self._mend()
            raise

    def _count(self, messages: int, size: int) -> None:
        self._metrics.messages += messages
        self._metrics.message_bytes += size
        was_empty = self._new_messages == 0
        self._new_messages += messages
        self._new_bytes += size
        if was_empty or self._is_batch():
            self._filled.notify()

    def _mend(self) -> None:
        """Makes whole what an exception has left half done; a message that is not all there is not taken."""
        self._is_torn = True  # another exception may come in here, and then the next call goes on
        last = self._new[-1] if self._new else None
        if isinstance(last, Chunk) and isinstance(last.payloads, list):
            if isinstance(last.positions, list):
                whole = min(len(last.payloads), len(last.positions))
                del last.payloads[whole:], last.positions[whole:]
            last.size = size_of(last.payloads)
        self._new_messages = sum(map(_rows, self._new))
        self._new_bytes = sum(item.size for item in self._new)
        self._controls = sum(not isinstance(item, Chunk) for item in self._new)
        self._metrics.messages = self._taken_messages + self._new_messages
        self._metrics.message_bytes = self._taken_bytes + self._new_bytes
        self._filled.notify()  # of whom nobody may have been told
        self._is_torn = False

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


def _check_place(source: str, position: int | None) -> None:
    """Refuses what a footer cannot hold where the caller still sees it."""
    if not isinstance(source, str):
        raise TypeError(f"source: {source!r} is not allowed: it has to be a text")
    if position is not None and (isinstance(position, bool) or not hasattr(position, "__index__")):
        raise TypeError(f"position: {position!r} is not allowed: it has to be an integer")
    # ranges of positions end behind the last one, with 64 bits as well
    if position is not None and not -(1 << 63) <= operator.index(position) < (1 << 63) - 1:
        raise ValueError(
            f"position: {position} is not allowed: it has to be from -2^63 to 2^63 - 2"
        )
    if not source.isascii():
        try:
            source.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"source: {source!r} is not allowed: it is no Unicode text; "
                "of a file's name os.fsencode(name).decode(errors='backslashreplace') makes one"
            ) from None


def integers(source: str, positions: Sequence[int]) -> pa.Int64Array:
    """Positions as Arrow has them, which cuts fractions off when it is told what they are to be."""
    found: Any = None
    with contextlib.suppress(pa.ArrowException, OverflowError):
        found = pa.array(positions)
    if found is None or not (pa.types.is_integer(found.type) or pa.types.is_null(found.type)):
        for position in positions:
            _check_place(source, position)
        # what Arrow does not know, and says itself that it is an integer
        found = pa.array([operator.index(position) for position in positions])
    integers: pa.Int64Array = found.cast(pa.int64())
    return integers


def _check_letter(letter: DeadLetter) -> None:
    """Refuses what no file of dead letters can hold where the caller still sees it."""
    if not isinstance(letter.payload, bytes | None):
        raise TypeError(f"payload: expected bytes, not {type(letter.payload).__name__}")
    if not isinstance(letter.reason, str):
        raise TypeError(f"reason: expected a text, not {type(letter.reason).__name__}")
    offset = letter.offset
    if offset is not None and (not isinstance(offset, int) or not 0 <= offset < 1 << 63):
        raise ValueError(f"offset: {offset!r} is not allowed: it has to be from 0 to 2^63 - 1")
    if letter.form not in get_args(Form):
        allowed = ", ".join(get_args(Form))
        raise ValueError(f"form: {letter.form!r} is not allowed: allowed are {allowed}")


def _rows(item: Chunk | Letter | Mark) -> int:
    return len(item.payloads) if isinstance(item, Chunk) else int(isinstance(item, Letter))


def _sizes(taken: list[Chunk] | Letter | Mark) -> tuple[int, int]:
    """The messages in what was taken, and their bytes."""
    items: Sequence[Chunk | Letter | Mark] = taken if isinstance(taken, list) else [taken]
    return sum(map(_rows, items)), sum(item.size for item in items)
