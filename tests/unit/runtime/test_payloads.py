"""Messages as lists and arrays, and their positions: lengths, joins, picks."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_runtime.payloads import (
    concat,
    concat_positions,
    int_at,
    size_of,
    take_positions,
)

KINDS = [pa.binary(), pa.large_binary(), pa.binary_view()]
MESSAGES = st.lists(st.none() | st.binary(max_size=40), max_size=30)


class TestSizeOf:
    @given(MESSAGES, st.sampled_from(KINDS), st.integers(0, 30), st.integers(0, 30))
    def test_arrays_weigh_what_their_messages_do_also_a_slice(
        self, messages: list[bytes | None], kind: Any, start: int, count: int
    ) -> None:
        array = pa.array(messages, kind).slice(min(start, len(messages)), count)
        assert size_of(array) == sum(len(one or b"") for one in array.to_pylist())

    def test_lists_do_too(self) -> None:
        assert size_of([b"abc", b"", b"d"]) == 4
        assert size_of([]) == 0


class TestConcat:
    def test_lists_become_one_list(self) -> None:
        assert concat([[b"a"], [b"b", b"c"]]) == [b"a", b"b", b"c"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_arrays_become_one_array(self, kind: Any) -> None:
        joined = concat([pa.array([b"a", None], kind), pa.array([b"c"], kind)])
        assert isinstance(joined, pa.Array)
        assert joined.to_pylist() == [b"a", None, b"c"]
        assert joined.type == kind

    def test_one_part_is_given_as_it_is(self) -> None:
        part = [b"a"]
        assert concat([part]) is part


class TestConcatPositions:
    def test_ranges_that_touch_stay_a_range(self) -> None:
        assert concat_positions([range(3, 5), range(5, 9)]) == range(3, 9)

    @pytest.mark.parametrize(
        "parts",
        [
            [range(3, 5), range(6, 8)],
            [[3, 4], range(6, 8)],
            [pa.array([3, 4], pa.int64()), [6, 7]],
            [[3, 4, 6, 7]],
            [range(3, 5), [6], range(7, 8)],
        ],
        ids=range(5),
    )
    def test_others_become_one_array(self, parts: list[Any]) -> None:
        joined = concat_positions(parts)
        assert isinstance(joined, pa.Array)
        assert joined.to_pylist() == [3, 4, 6, 7]

    def test_a_range_with_steps_is_no_run(self) -> None:
        joined = concat_positions([range(0, 4, 2), range(4, 8, 2)])
        assert joined is not None
        assert [int_at(joined, row) for row in range(4)] == [0, 2, 4, 6]

    def test_without_positions_there_are_none(self) -> None:
        assert concat_positions([None, None]) is None


class TestTakePositions:
    @given(
        st.integers(-5, 5),
        st.sampled_from([1, 3]),
        st.lists(st.integers(0, 9), max_size=10),
    )
    def test_ranges_and_arrays_give_the_same(self, start: int, step: int, rows: list[int]) -> None:
        of = range(start, start + 10 * step, step)
        expected = [of[row] for row in rows]
        picked = pa.array(rows, pa.int64())
        for positions in (of, pa.array(of, pa.int64())):
            taken = take_positions(positions, picked)
            assert taken is not None
            assert pa.array(taken, pa.int64()).to_pylist() == expected

    def test_a_slice_of_a_range_is_a_range(self) -> None:
        assert take_positions(range(10, 20), slice(2, 5)) == range(12, 15)

    def test_a_slice_of_an_array_is_one(self) -> None:
        taken = take_positions(pa.array([5, 7, 9], pa.int64()), slice(1, 3))
        assert isinstance(taken, pa.Array)
        assert taken.to_pylist() == [7, 9]

    def test_without_positions_there_are_none(self) -> None:
        assert take_positions(None, slice(0, 1)) is None


class TestIntAt:
    def test_it_is_a_plain_number_from_the_front_and_the_end(self) -> None:
        for positions in (range(5, 8), pa.array([5, 6, 7], pa.int64())):
            assert (int_at(positions, 0), int_at(positions, -1)) == (5, 7)
            assert type(int_at(positions, 0)) is int
