"""The buffer: what is let in, what blocks, what is taken together."""

from __future__ import annotations

import threading
import time
from typing import Any

import pyarrow as pa
import pytest

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
        buffer.put_letter(DeadLetter(b"?", "bad"))
        buffer.put_one(b"2", "s", None)
        buffer.put_mark(Mark(last=True))
        assert isinstance(buffer.take(), list)
        letter = buffer.take()
        assert isinstance(letter, Letter)
        assert letter.letter.payload == b"?"
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
