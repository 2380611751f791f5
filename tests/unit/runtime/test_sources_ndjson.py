"""JSON lines: which of them are messages, and what becomes of those that are none."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.type_pb2 import Option
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.sources import Batch
from cdp_runtime.sources.ndjson import read_ndjson
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.token_transfer_pb2 import TokenTransferEvent

MB = 1 << 20


class Trickle:
    """An input that gives so many bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = io.BytesIO(data)
        self._size = size

    def readinto(self, buffer: memoryview, /) -> int:
        return self._data.readinto(buffer[: self._size])


def read(
    data: bytes | str,
    *,
    message_type: type[Message] = Event,
    size: int = 1 << 30,
    fields: Mapping[str, str] | None = None,
    ignore_unknown: bool = False,
    max_line_bytes: int = 64 * MB,
) -> tuple[dict[int, Any], list[DeadLetter]]:
    """The messages by their line, and the dead letters."""
    messages = {}
    letters = []
    for item in read_ndjson(
        Trickle(data.encode() if isinstance(data, str) else data, size),
        "events.ndjson",
        message_type,
        fields=fields or {},
        ignore_unknown=ignore_unknown,
        max_line_bytes=max_line_bytes,
    ):
        if isinstance(item, DeadLetter):
            assert item.source == "events.ndjson"
            letters.append(item)
        else:
            assert isinstance(item, Batch)
            for position, payload in zip(item.positions, item.payloads, strict=True):
                messages[position] = message_type.FromString(payload)
    return messages, letters


def reason(line: str, **options: bool) -> str:
    """Why a line is no message."""
    messages, (letter,) = read(line, **options)  # type: ignore[arg-type]
    assert messages == {}
    assert letter.position == 1
    assert letter.payload == line.encode()
    return letter.reason


class TestReadNdjson:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.text(max_size=20), max_size=10), st.integers(1, 60))
    def test_every_line_comes_out_whatever_pieces_the_input_comes_in(
        self, ids: list[str], size: int
    ) -> None:
        lines = "".join(json.dumps({"id": one}, ensure_ascii=False) + "\n" for one in ids)
        messages, letters = read(lines, size=size)
        assert [message.id for message in messages.values()] == ids
        assert list(messages) == list(range(1, len(ids) + 1))
        assert letters == []

    def test_the_last_line_needs_no_end(self) -> None:
        messages, _ = read('{"id": "a"}\n{"id": "b"}')
        assert [message.id for message in messages.values()] == ["a", "b"]

    def test_blank_lines_count_and_are_passed_over(self) -> None:
        messages, letters = read('\n  \r\n{"id": "a"}\r\n\n')
        assert {line: message.id for line, message in messages.items()} == {3: "a"}
        assert letters == []

    def test_a_bad_line_is_a_dead_letter_and_its_neighbours_are_messages(self) -> None:
        messages, letters = read('{"id": "a"}\n{"id": \n{"id": "c"}\n')
        assert {line: message.id for line, message in messages.items()} == {1: "a", 3: "c"}
        assert [(one.position, one.payload) for one in letters] == [(2, b'{"id": ')]
        assert letters[0].reason.startswith("line 2: ")

    def test_messages_and_dead_letters_come_in_the_order_of_their_lines(self) -> None:
        lines = io.BytesIO(b'{"id": "a"}\n?\n{"id": "b"}\n{"id": "c"}\n?\n')
        items = read_ndjson(lines, "a", Event, fields={}, ignore_unknown=False, max_line_bytes=MB)
        places = [
            [one.position] if isinstance(one, DeadLetter) else list(one.positions) for one in items
        ]
        assert places == [[1], [2], [3, 4], [5]]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("[1]", "line 1: expected an object, not list"),
            ("null", "line 1: expected an object, not NoneType"),
            ('{"id": "a", "id": "b"}', "line 1: the key 'id' stands there twice"),
            ('{"ledger": "many"}', "ledger"),
            ('{"ledger": 4294967296}', "out of range"),
            ('{"nothing": 1}', "nothing"),
            ('{"ledger_closed_at": "yesterday"}', "ledger_closed_at"),
            ('{"id": "\\ud800"}', "line 1: "),
            ("{" * 50, "line 1: "),
            ("[" * 100_000, "line 1: "),
            ("x", "line 1: "),
        ],
        ids=lambda text: text[:20],
    )
    def test_the_reason_tells_what_is_wrong_in_one_line(self, line: str, said: str) -> None:
        told = reason(line)
        assert said in told
        assert "\n" not in told

    def test_bytes_that_are_no_utf8_are_a_dead_letter(self) -> None:
        messages, (letter,) = read(b'{"id": "\xff"}\n')
        assert messages == {}
        assert letter.payload == b'{"id": "\xff"}'

    def test_keys_without_a_field_may_be_passed_over(self) -> None:
        messages, letters = read('{"id": "a", "nothing": 1}', ignore_unknown=True)
        assert messages[1].id == "a"
        assert letters == []

    def test_a_line_over_the_limit_ends_the_input_and_loses_none_of_its_bytes(self) -> None:
        long = '{"id": "' + "x" * (3 * MB)
        messages, letters = read('{"id": "a"}\n' + long, max_line_bytes=2 * MB)
        assert list(messages) == [1]
        assert b"".join(letter.payload or b"" for letter in letters) == long.encode()
        assert letters[0].reason == (
            f"line 2 is longer than {2 * MB} bytes; nothing after its start can be read"
        )

    @pytest.mark.parametrize(
        ("message_type", "key", "value", "why"),
        [
            (Event, "\\ud800", "1", "a text has half of a surrogate pair"),
            (Event, "type", '"\\ud800"', "a text has half of a surrogate pair"),
            (Event, "type", "1e999", "a number is too large"),
            (Struct, "a", "1" + "0" * 310, "a number is too large"),
            (Option, "value", '{"@type": "x.y/google.protobuf.Value"}', "a key is missing"),
            (Option, "value", '{"@type": 1}', "it, or something in it, is of the wrong kind"),
        ],
    )
    def test_what_protobuf_trips_over_is_a_dead_letter_in_words_for_people(
        self, message_type: type[Message], key: str, value: str, why: str
    ) -> None:
        bad = f'{{"{key}": {value}}}'
        lines = f"{{}}\n{bad}\n{{}}\n"
        messages, (letter,) = read(lines, message_type=message_type)
        assert list(messages) == [1, 3]
        assert letter.payload == bad.encode()
        assert letter.reason == f"line 2: the value of '{key}' does not fit its field: {why}"

    def test_memory_that_is_short_says_nothing_of_a_line(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def short(*arguments: object, **options: object) -> None:
            raise MemoryError

        monkeypatch.setattr("google.protobuf.json_format.ParseDict", short)
        with pytest.raises(MemoryError):
            read('{"id": "a"}')


class TestFields:
    def test_a_key_fills_the_field_that_it_is_mapped_to(self) -> None:
        messages, _ = read('{"event_id": "a"}', fields={"event_id": "id"})
        assert messages[1].id == "a"

    def test_a_dotted_field_is_one_of_a_message_inside(self) -> None:
        messages, _ = read(
            '{"hash": "ab", "meta": {"ledger_sequence": 7}}',
            message_type=TokenTransferEvent,
            fields={"hash": "meta.tx_hash"},
        )
        meta = messages[1].meta
        assert (meta.tx_hash, meta.ledger_sequence) == ("ab", 7)

    def test_a_field_that_is_given_twice_is_a_dead_letter(self) -> None:
        _, (letter,) = read('{"a": "1", "id": "2"}', fields={"a": "id"})
        assert letter.reason == "line 1: the field 'id' is given twice"

    def test_a_path_through_what_is_no_object_is_a_dead_letter(self) -> None:
        _, (letter,) = read('{"a": "1", "id": "2"}', fields={"a": "id.x"})
        assert letter.reason == "line 1: id.x: 'id' is no object"

    def test_names_may_be_swapped(self) -> None:
        messages, letters = read(
            '{"id": "a", "paging_token": "b"}', fields={"id": "paging_token", "paging_token": "id"}
        )
        assert letters == []
        assert (messages[1].id, messages[1].paging_token) == ("b", "a")
