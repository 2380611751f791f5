"""Length-delimited protobuf: which messages come out, and what becomes of a framing that is lost."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import pytest
from google.protobuf.internal.encoder import _VarintBytes
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.sources import Batch
from cdp_runtime.sources.delimited import read_delimited

MB = 1 << 20


class Trickle:
    """An input that gives its bytes in pieces of these sizes, then in pieces of the last one."""

    def __init__(self, data: bytes, sizes: Sequence[int]) -> None:
        self._data = io.BytesIO(data)
        self._sizes = iter(sizes)
        self._size = 1

    def readinto(self, buffer: memoryview, /) -> int:
        self._size = next(self._sizes, self._size)
        return self._data.readinto(buffer[: self._size])


def framed(*messages: bytes) -> bytes:
    return b"".join(_VarintBytes(len(message)) + message for message in messages)


def read(
    data: bytes, sizes: Sequence[int] = (1 << 30,), limit: int = 64 * MB
) -> tuple[list[bytes], list[DeadLetter]]:
    """The messages, whose positions have been checked, and the dead letters."""
    messages: list[bytes] = []
    letters = []
    for item in read_delimited(Trickle(data, sizes), "orders.pb", max_message_bytes=limit):
        if isinstance(item, DeadLetter):
            letters.append(item)
        else:
            assert isinstance(item, Batch)
            assert item.source == "orders.pb"
            assert list(item.positions) == list(
                range(len(messages), len(messages) + len(item.payloads))
            )
            messages += [payload.as_py() for payload in item.payloads]
    return messages, letters


def letters_at(data: bytes, **options: int) -> Iterator[tuple[int | None, bytes | None, str]]:
    for letter in read(data, **options)[1]:  # type: ignore[arg-type]
        yield letter.position, letter.payload, letter.reason


class TestReadDelimited:
    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.binary(max_size=300), max_size=20),
        st.lists(st.integers(1, 400), min_size=1, max_size=20),
    )
    def test_every_message_comes_out_whatever_pieces_the_input_comes_in(
        self, messages: list[bytes], sizes: list[int]
    ) -> None:
        assert read(framed(*messages), sizes) == (messages, [])

    def test_nothing_has_no_messages(self) -> None:
        assert read(b"") == ([], [])

    def test_empty_messages_are_messages(self) -> None:
        assert read(b"\0\0\0") == ([b"", b"", b""], [])

    def test_a_message_may_be_larger_than_what_is_read_at_once(self) -> None:
        large = bytes(range(256)) * (7 * MB // 256)
        messages, letters = read(framed(b"a", large, b"b"), [MB + 1])
        assert messages == [b"a", large, b"b"]
        assert letters == []

    def test_messages_before_an_end_in_the_middle_are_kept_and_the_rest_is_a_dead_letter(
        self,
    ) -> None:
        data = framed(b"whole", b"cut off")[:-3]
        assert read(data)[0] == [b"whole"]
        assert list(letters_at(data)) == [
            (
                1,
                b"\x07cut ",
                "the input ends inside of the message at byte 6, or the framing is lost there",
            )
        ]

    def test_a_prefix_over_the_limit_loses_the_framing_and_none_of_the_bytes(self) -> None:
        rest = _VarintBytes(1_000) + b"x" * 1_000
        ((position, payload, reason),) = letters_at(framed(b"whole") + rest, limit=999)
        assert (position, payload) == (1, rest)
        assert reason.startswith("the framing is lost at byte 6: ")
        assert reason.endswith("; nothing after it can be told apart")

    def test_a_message_of_the_limit_is_taken(self) -> None:
        assert read(framed(b"x" * 999), limit=999) == ([b"x" * 999], [])

    @pytest.mark.parametrize("sizes", [(1,), (3,), (1 << 30,)])
    def test_a_prefix_that_is_no_varint_loses_the_framing(self, sizes: tuple[int, ...]) -> None:
        messages, letters = read(framed(b"whole") + b"\xff" * 11 + b"more", sizes)
        assert messages == [b"whole"]
        assert b"".join(letter.payload or b"" for letter in letters) == b"\xff" * 11 + b"more"
        assert letters[0].reason.startswith("the framing is lost at byte 6: ")

    def test_a_long_rest_is_cut_into_letters_that_give_it_again_in_order(self) -> None:
        rest = b"\xff" * 11 + bytes(range(256)) * 12_288
        letters = list(letters_at(framed(b"whole") + rest))
        assert [position for position, _, _ in letters] == [1, 2, 3, 4]
        assert b"".join(payload or b"" for _, payload, _ in letters) == rest
        assert len({reason for _, _, reason in letters}) == 1

    def test_messages_of_a_pipe_that_trickles_do_not_each_keep_a_block_alive(self) -> None:
        batches = read_delimited(
            Trickle(framed(b"a", b"b"), [2]), "orders.pb", max_message_bytes=10
        )
        for item in batches:
            assert isinstance(item, Batch)
            assert not isinstance(item.payloads, list)
            assert sum(buffer.size for buffer in item.payloads.buffers() if buffer) < 100


def test_a_message_that_is_whole_before_the_input_breaks_is_read() -> None:
    class Breaking(Trickle):
        def readinto(self, buffer: memoryview, /) -> int:
            got = super().readinto(buffer)
            if not got:
                raise OSError("it breaks here")
            return got

    # larger than a block: more is asked for than is left of it
    message = bytes(MB + MB // 2)
    reader = Breaking(framed(b"1", message), (MB // 2,))
    items = read_delimited(reader, "a.pb", max_message_bytes=64 * MB)
    for expected in (b"1", message):
        item = next(items)
        assert isinstance(item, Batch)
        assert [payload.as_py() for payload in item.payloads] == [expected]
    with pytest.raises(OSError, match="it breaks here"):
        next(items)
