"""The buffer: what is let in, what blocks, what is taken together."""

from __future__ import annotations

import contextlib
import dis
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdp_runtime import intake as intake_module
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.intake import Chunk, Intake, Letter, Mark
from cdp_runtime.metrics import Metrics
from cdp_runtime.writer import WriterFailed

WAIT = 0.1
"""Seconds after which somebody who still waits is taken to be blocked."""


def intake(messages: int = 10, size: float = 1_000, **options: Any) -> Intake:
    return Intake(messages, size, Metrics(), **options)


def started(action: Any) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def chunks(taken: Any) -> list[tuple[str, list[bytes], list[int] | None]]:
    return [
        (
            one.source,
            [p if isinstance(p, bytes) else p.as_py() for p in one.payloads],
            None if one.positions is None else list(one.positions),
        )
        for one in taken
    ]


class TestIntake:
    def test_single_messages_of_a_source_are_gathered_in_one_chunk(self) -> None:
        buffer = intake()
        for n in range(3):
            buffer.put_one(b"%d" % n, "s", n)
        buffer.put_one(b"x", "t", None)
        buffer.put_one(b"y", "t", 1)
        assert chunks(buffer.take()) == [
            ("s", [b"0", b"1", b"2"], [0, 1, 2]),
            ("t", [b"x"], None),
            ("t", [b"y"], [1]),
        ]

    def test_many_messages_are_cut_to_what_is_decoded_at_once(self) -> None:
        buffer = intake(100_000, 1e9)
        buffer.put_many(pa.array([b"x"] * 40_000), "s", range(40_000))
        sizes: list[int] = []
        while sum(sizes) < 40_000:
            taken = buffer.take()
            assert isinstance(taken, list)
            sizes.append(sum(len(one.payloads) for one in taken))
        assert max(sizes) <= 16_384

    @pytest.mark.parametrize(("count", "size"), [(11, 1), (3, 400)])
    def test_who_writes_more_than_fits_waits_until_it_is_taken(self, count: int, size: int) -> None:
        buffer = intake(10, 1_000)
        thread = started(lambda: [buffer.put_one(b"x" * size, "s", n) for n in range(count)])
        thread.join(WAIT)
        assert thread.is_alive()
        buffer.take()
        thread.join(5)
        assert not thread.is_alive()

    def test_a_message_larger_than_the_buffer_is_let_in_alone(self) -> None:
        buffer = intake(10, 10)
        buffer.put_one(b"x" * 100, "s", None)
        assert chunks(buffer.take()) == [("s", [b"x" * 100], None)]

    def test_a_few_messages_wait_a_little_for_more(self) -> None:
        buffer = intake(10_000)
        buffer.put_one(b"1", "s", None)
        thread = started(lambda: (time.sleep(0.01), buffer.put_one(b"2", "s", None)))
        assert chunks(buffer.take()) == [("s", [b"1", b"2"], None)]
        thread.join()

    def test_marks_and_letters_keep_their_place(self) -> None:
        buffer = intake()
        buffer.put_one(b"1", "s", None)
        buffer.put_letter(DeadLetter(b"?", "bad" * 1_000_000))
        buffer.put_one(b"2", "s", None)
        buffer.put_mark(Mark(last=True))
        assert isinstance(buffer.take(), list)
        letter = buffer.take()
        assert isinstance(letter, Letter)
        assert letter.letter.payload == b"?"
        assert len(letter.letter.reason) == 500
        assert isinstance(buffer.take(), list)
        assert isinstance(buffer.take(), Mark)

    def test_after_the_last_mark_nothing_is_taken(self) -> None:
        buffer = intake()
        buffer.put_mark(Mark(last=True))
        with pytest.raises(ValueError, match="closed"):
            buffer.put_one(b"", "", None)

    def test_a_failure_wakes_who_waits_and_meets_who_comes(self) -> None:
        buffer = intake(1)
        buffer.put_one(b"", "", None)
        raised = []

        def put() -> None:
            with pytest.raises(WriterFailed) as failure:
                buffer.put_one(b"", "", None)
            raised.append(str(failure.value))

        thread = started(put)
        thread.join(WAIT)
        buffer.fail(WriterFailed("broken"))
        thread.join(5)
        put()
        assert raised == ["broken", "broken"]

    def test_as_many_positions_as_messages(self) -> None:
        with pytest.raises(ValueError, match="2 messages have 3 positions"):
            intake().put_many([b"", b""], "s", range(3))

    def test_single_messages_are_joined_up_to_the_bytes_of_a_batch(self) -> None:
        one = intake(messages=1_000, size=1_000)
        for _ in range(10):
            one.put_one(b"m" * 90, "s", None)
        assert [len(chunk.payloads) for chunk in one._new if isinstance(chunk, Chunk)] == [10]
        other = intake(messages=1_000, size=1_000, journal_bytes=1_600)
        for _ in range(10):
            other.put_one(b"m" * 90, "s", None)
        sizes = [chunk.size for chunk in other._new]
        assert max(sizes) <= other._batch_bytes < 900

    def test_a_position_that_is_none_among_others_is_refused(self) -> None:
        with pytest.raises(ValueError, match="None is not allowed, as that of message 1"):
            intake().put_many([b"", b"", b""], "s", pa.array([5, None, 7], pa.int64()))
        with pytest.raises(ValueError, match=r"position: .* has to be from"):
            intake().put_many([b"", b""], "s", [5, (1 << 63) - 1])

    @pytest.mark.parametrize(
        ("wrong", "culprit"),
        [
            ([1, 1_700_000_000.25], "1700000000.25"),
            ([1.0, 2.0], "1.0"),
            (np.array([1.0, 2.0]), r".*1\.0.*"),
            (np.array([1.5, 2.5]), r".*1\.5.*"),
            (pa.array([1.0, 2.0]), r".*1\.0.*"),
            ([1, True], "True"),
            ([1, "2"], "'2'"),
            ([Decimal(1), Decimal(2)], r"Decimal\('1'\)"),
        ],
    )
    def test_a_position_that_is_no_integer_is_refused_as_that_of_a_single_message(
        self, wrong: Any, culprit: str
    ) -> None:
        one = intake()
        said = f"^position: {culprit} is not allowed: it has to be an integer$"
        with pytest.raises(TypeError, match=said):
            one.put_many([b"", b""], "s", wrong)
        assert one.take(0) is None

    def test_what_is_an_integer_in_its_own_way_is_taken(self) -> None:
        class Place:
            def __index__(self) -> int:
                return 2

        for positions in (
            *((1, 2), [np.int64(1), np.uint8(2)], [1, Place()], np.array([1, 2], np.uint16)),
            *(pa.array([1, 2], pa.int32()), pa.chunked_array([[1], [2]])),
        ):
            one = intake()
            one.put_many([b"a", b"b"], "s", positions)  # type: ignore[arg-type]
            (chunk,) = one.take() or ()  # type: ignore[union-attr, misc]
            assert chunk.positions.to_pylist() == [1, 2]
        with pytest.raises(ValueError, match="None is not allowed, as that of message 0"):
            intake().put_many([b""], "s", [None])  # type: ignore[list-item]
        intake().put_many([], "s", [])

    @pytest.mark.parametrize("source", [b"orders", None, 7])
    def test_a_source_that_is_no_text_is_refused_at_once(self, source: Any) -> None:
        one = intake()
        for put in (
            lambda: one.put_one(b"", source, 1),
            lambda: one.put_many([b""], source, None),
            lambda: one.put_letter(DeadLetter(b"", "why", source)),
        ):
            with pytest.raises(TypeError, match=r"^source: .* has to be a text$"):
                put()
        assert one.take(0) is None

    @pytest.mark.parametrize("position", [1 << 63, (1 << 63) - 1, -(1 << 63) - 1])
    def test_what_no_footer_can_hold_is_refused_at_once(self, position: int) -> None:
        one = intake()
        for put in (
            lambda: one.put_one(b"", "s", position),
            lambda: one.put_letter(DeadLetter(b"", "why", "s", position)),
            lambda: one.put_many([b""], "s", range(position, position + 1)),
        ):
            with pytest.raises(ValueError, match=r"position: .* has to be from"):
                put()
        for put in (
            lambda: one.put_one(b"", "\udce9", None),
            lambda: one.put_letter(DeadLetter(b"", "why", "\udce9")),
            lambda: one.put_many([b""], "\udce9", None),
        ):
            with pytest.raises(ValueError, match="it is no Unicode text"):
                put()
        one.put_many([], "s", range(0))


class TestJournaledIntake:
    """With a journal in between."""

    def test_what_is_new_is_not_decoded_before_it_is_passed_on(self) -> None:
        buffer = intake(journal_bytes=1e9)
        buffer.put_one(b"1", "s", None)
        taken: list[Any] = []
        thread = started(lambda: taken.append(buffer.take()))
        thread.join(WAIT)
        assert thread.is_alive()
        new = buffer.take_new()
        assert isinstance(new, list)
        buffer.pass_on(new)
        thread.join(5)
        assert chunks(taken[0]) == [("s", [b"1"], None)]

    def test_messages_fill_the_buffer_until_they_are_decoded(self) -> None:
        buffer = intake(2, journal_bytes=1e9)
        buffer.put_many([b"1", b"2"], "s", None)
        thread = started(lambda: buffer.put_one(b"3", "s", None))
        new = buffer.take_new()
        assert isinstance(new, list)
        thread.join(WAIT)
        assert thread.is_alive()
        buffer.pass_on(new)
        assert isinstance(buffer.take(), list)
        thread.join(5)
        assert not thread.is_alive()
        assert isinstance(buffer.take_new(), list)

    def test_a_chunk_that_the_journal_has_is_not_added_to(self) -> None:
        buffer = intake(journal_bytes=1e9)
        buffer.put_one(b"1", "s", None)
        new = buffer.take_new()
        assert isinstance(new, list)
        buffer.put_one(b"2", "s", None)
        [chunk] = new
        assert isinstance(chunk, Chunk)
        assert chunk.payloads == [b"1"]


HANDLED_AFTER = ("CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME")
"""The instructions after which Python calls the handler of a signal that has come."""


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


class Interruption:
    """A signal's handler, by itself an exception, where the intake may meet it for the nth time."""

    def __init__(self, nth: int, handle: Callable[[], Any] = interrupt) -> None:
        self._left = nth
        self._handle = handle
        self._before: dict[FrameType, str] = {}

    @property
    def came(self) -> bool:
        return self._left <= 0

    def meets(self, action: Callable[[], Any]) -> bool:
        """Whether the action was ended by it."""
        if self.came:
            action()
            return False
        tracer = sys.gettrace()
        sys.settrace(self._enter)
        try:
            action()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(tracer)
            self._before.clear()
        return False

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in (intake_module.__file__, threading.__file__):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._left -= self._before.get(frame) in HANDLED_AFTER
            self._before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if self.came:
                sys.settrace(None)
                self._handle()
        return self._step


def written(buffer: Intake, interruption: Interruption) -> set[int]:
    """Puts messages 1 to 9 in all ways; gives those whose call was not interrupted."""
    calls: list[tuple[set[int], Callable[..., None], tuple[Any, ...]]] = [
        ({1}, buffer.put_one, (b"1", "s", 1)),
        ({2}, buffer.put_one, (b"2", "s", 2)),
        ({3}, buffer.put_one, (b"3", "s", 3)),
        ({4}, buffer.put_one, (b"4", "s", None)),
        ({5, 6}, buffer.put_many, ([b"5", b"6"], "s", range(5, 7))),
        ({7}, buffer.put_letter, (DeadLetter(b"7", "bad", "s", 7),)),
        (set(), buffer.put_mark, (Mark(last=False),)),
        ({8}, buffer.put_one, (b"8", "s", 8)),
        ({9}, buffer.put_one, (b"9", "s", 9)),
    ]
    return {
        number
        for numbers, put, arguments in calls
        if not interruption.meets(functools.partial(put, *arguments))
        for number in numbers
    }


def read(buffer: Intake, journaled: bool) -> list[int]:
    """Takes all that is there: the messages, each of which has its number for a position, if any."""
    found: list[int] = []
    while buffer._new or buffer._items:
        if journaled and buffer._new:
            new = buffer.take_new()
            buffer.pass_on(new if isinstance(new, list) else [new])
        taken = buffer.take()
        if isinstance(taken, Letter):
            found.append(int(taken.letter.payload or b""))
        elif isinstance(taken, list):
            for _, payloads, positions in chunks(taken):
                numbers = [int(payload) for payload in payloads]
                assert positions in (numbers, None)
                found += numbers
    return found


class TestInterrupted:
    """By an exception of a signal's handler, which comes between any two steps of a caller."""

    @pytest.fixture(autouse=True)
    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intake_module, "_LINGER_SECONDS", 0)

    @pytest.mark.parametrize("journaled", [False, True])
    def test_what_was_taken_before_and_after_is_whole_and_counted(self, journaled: bool) -> None:
        for nth in itertools.count(1):
            interruption = Interruption(nth)
            buffer = intake(1_000, 1e6, journal_bytes=1e9 if journaled else None)
            sure = written(buffer, interruption)
            found = read(buffer, journaled)
            assert sure <= set(found)
            assert len(found) == len(set(found))
            assert buffer._metrics.messages == buffer._metrics.message_bytes == len(found)
            assert (buffer._new_messages, buffer._new_bytes, buffer._controls) == (0, 0, 0)
            assert (buffer._passed_messages, buffer._passed_bytes) == (0, 0)
            if not interruption.came:
                break

    @pytest.mark.parametrize("journaled", [False, True])
    @pytest.mark.parametrize("taken", [False, True])
    def test_the_last_mark_is_put_by_who_tries_again_and_nothing_comes_behind_it(
        self, journaled: bool, taken: bool
    ) -> None:
        for nth in itertools.count(1):
            interruption = Interruption(nth)
            buffer = intake(journal_bytes=1e9 if journaled else None)
            buffer.put_one(b"1", "s", 1)
            mark, passed = Mark(last=True), []
            take: Any = buffer.take_new if journaled else buffer.take
            interruption.meets(functools.partial(buffer.put_mark, mark))
            while taken and buffer._new:
                passed.append(take())
            if mark in passed or mark in buffer._new:
                with pytest.raises(ValueError, match="closed"):
                    buffer.put_one(b"2", "s", 2)
                with pytest.raises(ValueError, match="closed"):
                    buffer.put_mark(Mark(last=False))
            buffer.put_mark(mark)
            while buffer._new:
                passed.append(take())
            assert [one for one in passed if not isinstance(one, list)] == [mark]
            if not interruption.came:
                break

    def test_a_handler_may_write_in_the_midst_of_a_write(self) -> None:
        for nth in itertools.count(1):
            buffer = intake(1_000, 1e6)
            write = functools.partial(buffer.put_one, b"0", "s", 0)
            interruption = Interruption(nth, write)
            assert written(buffer, interruption) == set(range(1, 10))
            assert sorted(read(buffer, journaled=False)) == list(
                range(0 if interruption.came else 1, 10)
            )
            if not interruption.came:
                break

    @pytest.mark.parametrize("held", [0, 1], ids=["by itself", "in a handler"])
    def test_who_waits_for_room_holds_the_lock_as_often_as_before(self, held: int) -> None:
        for nth in itertools.count(1):
            buffer = intake(1)
            buffer.put_one(b"1", "s", None)
            interruption = Interruption(nth)
            timer = threading.Timer(0.02, buffer.take, (5,))  # what is to be put waits first
            timer.start()
            with buffer._lock if held else contextlib.nullcontext():
                interruption.meets(functools.partial(buffer.put_one, b"2", "s", None))
                assert buffer.is_interrupted() == bool(held)
            assert not buffer.is_interrupted()
            timer.join(5)
            assert not timer.is_alive()
            if not interruption.came:
                break

    def test_who_takes_is_told_of_what_comes_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        buffer = intake()
        with monkeypatch.context() as patched:
            patched.setattr(buffer, "_count", interrupt)
            with pytest.raises(KeyboardInterrupt):
                buffer.put_one(b"1", "s", None)
        assert chunks(buffer.take()) == [("s", [b"1"], None)]
        taken: list[Any] = []
        thread = started(lambda: taken.append(buffer.take()))
        while not buffer._filled._waiters:  # type: ignore[attr-defined]
            time.sleep(0.01)
        buffer.put_one(b"2", "s", None)
        thread.join(5)
        assert chunks(taken[0]) == [("s", [b"2"], None)]

    def test_who_takes_is_told_of_what_was_half_put(self, monkeypatch: pytest.MonkeyPatch) -> None:
        buffer = intake()
        taken: list[Any] = []
        thread = started(lambda: taken.append(buffer.take()))
        while not buffer._filled._waiters:  # type: ignore[attr-defined]
            time.sleep(0.01)
        with monkeypatch.context() as patched:
            patched.setattr(buffer, "_count", interrupt)
            with pytest.raises(KeyboardInterrupt):
                buffer.put_one(b"1", "s", None)
        thread.join(5)
        assert chunks(taken[0]) == [("s", [b"1"], None)]

    def test_who_does_not_wait_for_room_any_more_hurries_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        buffer = intake(2)
        buffer.put_many([b"1", b"2"], "s", None)
        with monkeypatch.context() as patched:
            patched.setattr(buffer._filled, "notify", interrupt)
            with pytest.raises(KeyboardInterrupt):
                buffer.put_one(b"3", "s", None)
        buffer.take()
        assert not buffer._is_batch()

    def test_another_exception_while_that_is_mended_is_mended_by_the_next_call(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        buffer = intake()
        buffer.put_one(b"1", "s", 1)
        with monkeypatch.context() as patched:
            patched.setattr(buffer, "_count", interrupt)
            patched.setattr(intake_module, "size_of", interrupt)
            with pytest.raises(KeyboardInterrupt):
                buffer.put_one(b"2", "s", 2)
        buffer.put_mark(Mark(last=True))
        assert chunks(buffer.take()) == [("s", [b"1", b"2"], [1, 2])]
        assert buffer._metrics.messages == 2


class TestMark:
    def test_who_waits_is_told_and_so_are_all_others(self) -> None:
        mark = Mark(last=False)
        assert not mark.wait(0.01)
        came: list[bool] = []
        threads = [threading.Thread(target=lambda: came.append(mark.wait(10))) for _ in range(3)]
        for thread in threads:
            thread.start()
        mark.reach()
        for thread in threads:
            thread.join()
        assert came == [True] * 3
        assert mark.wait(0)
