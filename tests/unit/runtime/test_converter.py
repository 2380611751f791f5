"""The converter on a small hand-written program: what each method promises, case by case.

The property tests compare it with google.protobuf on whole schemas; here stand the promises
that those cannot show: errors, positions, inputs, memory.
"""

from __future__ import annotations

import base64
import random
import re
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, timestamp_pb2, wrappers_pb2

from cdp_runtime.converter import ConversionError, Converter, message_indexes, split_delimited
from cdp_runtime.program import Enum, Field, Program


class NoteConverter(Converter[timestamp_pb2.Timestamp]):
    """Text, number, time, texts, packed numbers and a map."""

    schema = pa.schema(
        [
            pa.field("title", pa.utf8(), nullable=False),
            pa.field("stars", pa.int64()),
            pa.field("at", pa.timestamp("us", "UTC")),
            pa.field("tags", pa.list_(pa.field("item", pa.utf8(), False)), nullable=False),
            pa.field("sizes", pa.list_(pa.field("item", pa.int32(), False)), nullable=False),
            pa.field("links", pa.map_(pa.utf8(), pa.field("value", pa.int64(), False)), False),
            pa.field("_raw", pa.binary()),
        ]
    )
    program = Program(
        "Note",
        Field(1, "string", "title"),
        Field(2, "int64", "stars", "optional"),
        Field(3, "timestamp", "at", "optional"),
        Field(4, "string", "tags", "repeated"),
        Field(5, "int32", "sizes", "packed"),
        Field(
            6,
            "map",
            "links",
            "repeated",
            program=Program(
                "Note.LinksEntry", Field(1, "string", "key"), Field(2, "int64", "value")
            ),
        ),
        raw="_raw",
    )


def text(number: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([number << 3 | 2, len(body)]) + body


def time(seconds: int, nanos: int) -> bytes:
    return text(3, timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos).SerializeToString())


FULL = text(1, b"hello") + b"\x10\x05" + time(5, 7000) + text(4, b"x") + text(5, b"\x01\x02")


class TestToArrow:
    def test_fields_land_in_their_columns(self) -> None:
        batch = NoteConverter().to_arrow([FULL])
        batch.validate(full=True)
        assert batch.schema.equals(NoteConverter.schema, check_metadata=True)
        row = batch.drop_columns(["at"]).to_pylist()[0]
        assert row == {
            "title": "hello",
            "stars": 5,
            "tags": ["x"],
            "sizes": [1, 2],
            "links": [],
            "_raw": None,
        }
        assert batch.column("at").cast(pa.int64()).to_pylist() == [5_000_007]

    def test_an_empty_message_is_a_row_of_zeros_and_nulls(self) -> None:
        row = NoteConverter().to_arrow([b""]).to_pylist()[0]
        assert row == {
            "title": "",
            "stars": None,
            "at": None,
            "tags": [],
            "sizes": [],
            "links": [],
            "_raw": None,
        }

    def test_no_messages_make_an_empty_batch(self) -> None:
        batch = NoteConverter().to_arrow([])
        batch.validate(full=True)
        assert batch.num_rows == 0

    def test_of_a_singular_field_the_last_wins_and_of_map_keys_too(self) -> None:
        entries = text(6, text(1, b"k") + b"\x10\x01") + text(6, text(1, b"k") + b"\x10\x02")
        batch = NoteConverter().to_arrow([text(1, b"long one") + text(1, b"b") + entries])
        batch.validate(full=True)
        assert batch.column("title").to_pylist() == ["b"]
        assert batch.column("links").to_pylist() == [[("k", 2)]]
        assert batch.column("_raw").null_count == 1

    @pytest.mark.parametrize(
        "payload",
        [b"\x50\x01", time(5, 7001), time(2**62, 0), text(6, text(1, b"k") + b"\x18\x01")],
        ids=["unknown field", "sub-microsecond", "out of range", "unknown in a map entry"],
    )
    def test_what_no_column_holds_is_kept_raw(self, payload: bytes) -> None:
        batch = NoteConverter().to_arrow([b"", payload, FULL])
        assert batch.column("_raw").to_pylist() == [None, payload, None]

    @pytest.mark.parametrize(
        ("payload", "offset", "reason"),
        [
            (b"\xff", 0, "malformed tag"),
            (b"\x00\x01", 0, "field number 0"),
            (text(1, b"ok") + text(1, b"\xff"), 6, "field title (1): invalid UTF-8"),
            (b"\x0a\x05ab", 1, "field title (1): the message ends inside a field"),
            (b"\x10" + b"\xff" * 10, 1, "field stars (2): malformed varint"),
            (b"\x0c", 0, "end of a group that was not begun"),
        ],
    )
    def test_a_bad_payload_raises_with_row_offset_and_reason(
        self, payload: bytes, offset: int, reason: str
    ) -> None:
        with pytest.raises(ConversionError) as caught:
            NoteConverter().to_arrow([FULL, payload, FULL])
        assert (caught.value.row, caught.value.offset, caught.value.reason) == (1, offset, reason)

    @pytest.mark.parametrize("payload", ["text", 5, None])
    def test_what_is_no_payload_is_a_type_error_that_names_the_row(self, payload: object) -> None:
        with pytest.raises(TypeError, match="row 1 is"):
            NoteConverter().to_arrow([b"", payload])  # type: ignore[list-item]

    @pytest.mark.parametrize(
        "array",
        [
            lambda payloads: pa.array(payloads, pa.binary()),
            lambda payloads: pa.array([b"skipped", *payloads], pa.binary())[1:],
            lambda payloads: pa.array(payloads, pa.large_binary()),
            lambda payloads: pa.array(payloads, pa.binary_view()),
            lambda payloads: pa.array([b"skipped", *payloads], pa.binary_view())[1:],
            lambda payloads: [bytearray(payload) for payload in payloads],
        ],
    )
    def test_every_input_gives_the_same_batch(self, array: Callable[[list[bytes]], object]) -> None:
        payloads = [FULL, b"", text(1, b"a title longer than an inline view"), b"\x50\x01"]
        expected = NoteConverter().to_arrow(payloads)
        assert NoteConverter().to_arrow(array(payloads)).equals(expected)  # type: ignore[arg-type]


class TestOtherMessages:
    """Objects of another message are no messages of the table, however much their bytes look like it."""

    @pytest.mark.parametrize("method", ["to_arrow", "decode"])
    @pytest.mark.parametrize(
        ("given", "row"),
        [
            (lambda right, wrong: [wrong], 0),
            (lambda right, wrong: [right, right, wrong, right], 2),
            (lambda right, wrong: [right.SerializeToString(), wrong], 1),
            (lambda right, wrong: (right, wrong), 1),
            (lambda right, wrong: (one for one in (right, wrong)), 1),
            (lambda right, wrong: deque([right, wrong]), 1),
        ],
    )
    def test_they_are_refused(self, method: str, given: Callable[..., Any], row: int) -> None:
        right, wrong = wrappers_pb2.Int64Value(value=7), wrappers_pb2.UInt64Value(value=8)
        said = rf"^row {row}: expected a google\.protobuf\.Int64Value, not a google\.protobuf\.UInt64Value$"
        with pytest.raises(TypeError, match=said):
            getattr(Int64Converter(), method)(given(right, wrong))

    def test_those_of_the_table_and_their_bytes_go_together(self) -> None:
        one = wrappers_pb2.Int64Value(value=7)
        other = wrappers_pb2.Int64Value.FromString(one.SerializeToString())
        payloads = [one, one.SerializeToString(), memoryview(one.SerializeToString()), other]
        for given in (payloads, payloads[::-1], payloads[1:2] * 3, deque(payloads), iter(payloads)):
            column = Int64Converter().to_arrow(given).column(0)  # type: ignore[arg-type]
            assert set(column.to_pylist()) == {7}

    def test_what_is_no_list_is_still_told(self) -> None:
        with pytest.raises(TypeError, match="payloads must be a sequence"):
            Int64Converter().to_arrow(wrappers_pb2.Int64Value(value=7))  # type: ignore[arg-type]


class TestDecode:
    def test_bad_rows_are_set_apart_and_the_others_kept_in_order(self) -> None:
        good = [text(1, bytes([65 + i])) for i in range(20)]
        payloads = [*good[:7], b"\x0a", *good[7:], text(4, b"partly") + b"\xff"]
        batches, rejected = NoteConverter().decode(payloads)
        assert [bad.row for bad in rejected] == [7, 21]
        assert len(batches) == 1
        batches[0].validate(full=True)
        assert batches[0].column("title").to_pylist() == [chr(65 + i) for i in range(20)]
        assert batches[0].column("tags").to_pylist() == [[]] * 20

    def test_a_null_payload_is_rejected(self) -> None:
        rejected = NoteConverter().decode(pa.array([None, b""], pa.binary())).rejected
        assert [(bad.row, bad.reason) for bad in rejected] == [(0, "no payload (null)")]

    def test_a_message_over_the_limit_is_rejected(self) -> None:
        converter = NoteConverter(max_message_bytes=8)
        rejected = converter.decode([text(1, b"1234567"), b""]).rejected
        assert [bad.reason for bad in rejected] == [
            "the message is larger than the limit of 8 bytes"
        ]


class TestToProtobuf:
    def test_it_is_the_inverse_of_to_arrow(self) -> None:
        payloads = [
            FULL,
            b"",
            b"\x50\x01",
            text(6, text(1, b"k") + b"\x10\x02"),
            time(-1, 999_999_000),
        ]
        batch = NoteConverter().to_arrow(payloads)
        assert NoteConverter().to_protobuf(batch).to_pylist() == payloads
        assert NoteConverter().to_protobuf(batch.slice(1, 3)).to_pylist() == payloads[1:4]

    def test_columns_in_another_order_or_width_are_taken(self) -> None:
        batch = NoteConverter().to_arrow([FULL])
        shuffled = batch.select(list(reversed(batch.schema.names)))
        assert NoteConverter().to_protobuf(shuffled).to_pylist() == [FULL]


class EdgeConverter(Converter[timestamp_pb2.Timestamp]):
    """Columns that are not what the field is on the wire."""

    schema = pa.schema(
        [
            pa.field("wide", pa.float64(), nullable=False),
            pa.field("wides", pa.list_(pa.field("item", pa.float64(), False)), nullable=False),
            pa.field("at", pa.timestamp("s", "UTC")),
            pa.field("unix", pa.timestamp("s", "UTC"), nullable=False),
            pa.field("state", pa.utf8(), nullable=False),
            pa.field("_raw", pa.binary()),
        ]
    )
    program = Program(
        "Edge",
        Field(1, "float", "wide"),
        Field(2, "float", "wides", "packed"),
        Field(3, "timestamp", "at", "optional"),
        Field(4, "int64", "unix", encoding="unix_s"),
        Field(5, "enum", "state", "required", enum=Enum("State", (0, "OFF"), (1, "ON"))),
        raw="_raw",
    )


STATE = b"\x28\x01"
MOST_SECONDS = (2**63 - 1) // 1_000_000
"""What engines read, as microseconds."""


class TestEdges:
    @pytest.mark.parametrize(
        "bits", [0, 0x80000000, 0x3DCCCCCD, 0x7F800000, 0x7F800001, 0xFFC00000, 1, 0x7F7FFFFF]
    )
    def test_a_float_is_the_same_double_and_comes_back(self, bits: int) -> None:
        one = struct.pack("<I", bits)
        payload = (b"\x0d" + one if bits else b"") + text(2, one + one) + STATE
        batch = EdgeConverter().to_arrow([payload])
        (value,) = struct.unpack("<f", one)
        got = batch.column("wides").to_pylist()[0]
        assert batch.column("_raw").null_count == 1
        assert batch.column("wide").to_pylist() + got == pytest.approx(
            [value] * 3, 0, 0, nan_ok=True
        )
        assert EdgeConverter().to_protobuf(batch).to_pylist() == [payload]

    @pytest.mark.parametrize("value", [0.1, 1e39, 5e-324, 1 + 2**-40])
    def test_a_double_that_is_no_float_does_not_go_back(self, value: float) -> None:
        batch = EdgeConverter().to_arrow([STATE])
        changed = batch.set_column(0, EdgeConverter.schema.field(0), pa.array([value]))
        with pytest.raises(ConversionError, match=r"wide.*no float"):
            EdgeConverter().to_protobuf(changed)

    @pytest.mark.parametrize("seconds", [MOST_SECONDS + 1, -MOST_SECONDS - 1, 2**62])
    def test_seconds_that_parquet_does_not_hold_are_kept_raw(self, seconds: int) -> None:
        message = timestamp_pb2.Timestamp()
        message.seconds = seconds
        number = wrappers_pb2.Int64Value(value=seconds).SerializeToString()[1:]
        for payload in (text(3, message.SerializeToString()), b"\x20" + number):
            batch = EdgeConverter().to_arrow([payload + STATE])
            assert batch.column("_raw").to_pylist() == [payload + STATE]
            pq.write_table(pa.table(batch), pa.BufferOutputStream())

    def test_the_last_second_that_parquet_holds_is_held(self) -> None:
        number = wrappers_pb2.Int64Value(value=MOST_SECONDS).SerializeToString()[1:]
        batch = EdgeConverter().to_arrow([b"\x20" + number + STATE])
        assert batch.column("_raw").null_count == 1
        file = pa.BufferOutputStream()
        pq.write_table(pa.table(batch), file)
        back = pq.read_table(pa.BufferReader(file.getvalue())).column("unix")
        assert back.cast(pa.int64()).to_pylist() == [MOST_SECONDS * 1000]

    def test_duckdb_reads_the_last_times_of_seconds_and_milliseconds(self, tmp_path: Path) -> None:
        for unit, ticks in (("s", MOST_SECONDS), ("ms", MOST_SECONDS * 1_000_000 // 1_000 + 775)):
            both = pa.array([ticks, -ticks], pa.timestamp(unit, "UTC"))
            pq.write_table(pa.table({"time": both}), tmp_path / "f.parquet")
            query = f"select count(*) from '{tmp_path}/f.parquet' where time > '2000-01-01'"
            assert duckdb.sql(query).fetchall() == [(1,)]

    def test_a_required_enum_that_is_absent_is_kept_raw(self) -> None:
        batch = EdgeConverter().to_arrow([b"", STATE])
        assert batch.column("state").to_pylist() == ["OFF", "ON"]
        assert batch.column("_raw").to_pylist() == [b"", None]

    def test_a_tag_that_is_cut_off_says_so_whatever_lies_behind_it(self) -> None:
        class Far(Converter[timestamp_pb2.Timestamp]):
            schema = pa.schema([pa.field("far", pa.utf8(), nullable=False)])
            program = Program("Far", Field(16, "string", "far"))

        good = b"\x82\x01\x14" + b"x" * 20
        payloads = [good, good[:1], good[1:]]
        for given in (payloads, pa.array(payloads, pa.binary())):
            (bad, _) = Far().decode(given).rejected
            assert (bad.row, bad.offset, bad.reason) == (1, 0, "malformed tag")


def check_lists() -> None:
    """Objects of a list are as they were, whatever comes of it, and live as long as they are needed."""
    good = [text(1, b"%d" % n) for n in range(100)]
    bad = bytes(bytearray(b"\x0a\x7f"))
    before = [sys.getrefcount(one) for one in (*good, bad)]
    titles = [f"{n}" for n in range(100)]
    note = NoteConverter()
    for given in (good, tuple(good), iter(good), [*good[:50], *map(memoryview, good[50:])]):
        batch = note.to_arrow(given)  # type: ignore[arg-type]
        assert batch.column("title").to_pylist() == titles
    del given
    decoded = note.decode([*good, bad])
    assert len(decoded.rejected) == 1
    with pytest.raises(ConversionError):
        note.to_arrow([*good, bad])
    with pytest.raises(TypeError, match="row 100"):
        note.to_arrow([*good, "text"])  # type: ignore[list-item]
    assert [sys.getrefcount(one) for one in (*good, bad)] == before

    def clear() -> bytes:
        given.clear()
        return text(1, b"last")

    clears = SimpleNamespace(SerializePartialToString=clear)
    given = [*(text(1, b"%d" % n) for n in range(100)), clears]
    batch = note.to_arrow(given)  # type: ignore[arg-type]
    assert batch.column("title").to_pylist() == [*titles, "last"]


class LossyConverter(Converter[timestamp_pb2.Timestamp]):
    """Lists whose items may be no value of their column, and no column that keeps them."""

    schema = pa.schema(
        pa.field(name, pa.list_(pa.field("item", kind)), nullable=False)
        for name, kind in {
            "prices": pa.decimal128(9, 2),
            "times": pa.timestamp("us", "UTC"),
            "unix": pa.timestamp("s", "UTC"),
            "fixed": pa.timestamp("s", "UTC"),
        }.items()
    )
    program = Program(
        "Lossy",
        Field(1, "string", "prices", "repeated", encoding="decimal"),
        Field(2, "timestamp", "times", "repeated"),
        Field(3, "int64", "unix", "packed", encoding="unix_s"),
        Field(4, "sfixed64", "fixed", "packed", encoding="unix_s"),
    )


class TestLossy:
    def test_an_item_that_no_column_held_goes_back_as_a_zero_among_the_others(self) -> None:
        lost = struct.pack("<q", 1 << 62)
        payload = (
            text(1, b"1.50")
            + text(1, b"oops")
            + text(1, b"2.00")
            + text(2, b"\x08\x01")
            + text(2, b"\x10\xff\xff\xff\xff\x7f")
            + text(3, b"\x05" + b"\x80" * 8 + b"\x40" + b"\x07")
            + text(4, struct.pack("<q", 5) + lost)
        )
        batch = LossyConverter().to_arrow([payload])
        assert [column[0].as_py().count(None) for column in batch.columns] == [1, 1, 1, 1]
        (back,) = LossyConverter().to_protobuf(batch).to_pylist()
        assert back == (
            text(1, b"1.50")
            + text(1, b"")
            + text(1, b"2.00")
            + text(2, b"\x08\x01")
            + text(2, b"")
            + b"\x18\x05\x18\x00\x18\x07"
            + b"\x21"
            + struct.pack("<q", 5)
            + b"\x21"
            + bytes(8)
        )


class TestLists:
    def test_where_another_thread_could_run(self) -> None:
        ended = threading.Event()
        thread = threading.Thread(target=ended.wait)
        thread.start()
        try:
            check_lists()
        finally:
            ended.set()
            thread.join()

    def test_where_no_other_thread_could_run(self) -> None:
        code = (
            "import threading, tests.unit.runtime.test_converter as test; "
            "assert threading.active_count() == 1; test.check_lists()"
        )
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True, timeout=60
        )


class Int64Converter(Converter[wrappers_pb2.Int64Value]):
    """The second or so of several messages of a file."""

    schema = pa.schema([pa.field("value", pa.int64(), nullable=False), ("_raw", pa.binary())])
    program = Program("google.protobuf.Int64Value", Field(1, "int64", "value"), raw="_raw")


def with_prefix(message: Any) -> bytes:
    """As Confluent's own serializer writes it."""
    client = SchemaRegistryClient.new_client({"url": "mock://here"})
    serializer = ProtobufSerializer(type(message), client, {"use.deprecated.format": False})
    payload: bytes = serializer(message, SerializationContext("topic", MessageField.VALUE))
    return payload


class TestRegistryPrefix:
    """Payloads behind the prefix of Confluent's Schema Registry."""

    def test_a_first_message_is_decoded_behind_the_prefix(self) -> None:
        message = timestamp_pb2.Timestamp(seconds=7)
        descriptor = timestamp_pb2.Timestamp.DESCRIPTOR

        class TimestampConverter(Converter[timestamp_pb2.Timestamp]):
            schema = pa.schema([pa.field("seconds", pa.int64(), nullable=False)])
            program = Program("google.protobuf.Timestamp", Field(1, "int64", "seconds"))

        converter = TimestampConverter(registry_indexes=message_indexes(descriptor))
        payload = with_prefix(message)
        spelled_out = payload[:5] + b"\x02\x00" + payload[6:]
        assert payload[5] == 0
        batch = converter.to_arrow([payload, spelled_out])
        assert batch.column("seconds").to_pylist() == [7, 7]

    def test_a_later_message_has_its_number_in_the_prefix(self) -> None:
        indexes = message_indexes(wrappers_pb2.Int64Value.DESCRIPTOR)
        assert indexes == [2]
        converter = Int64Converter(registry_indexes=indexes)
        payload = with_prefix(wrappers_pb2.Int64Value(value=-5))
        assert converter.to_arrow([payload]).column("value").to_pylist() == [-5]

    def test_indexes_name_the_messages_around_first(self) -> None:
        inner = descriptor_pb2.DescriptorProto.ExtensionRange.DESCRIPTOR
        assert message_indexes(inner) == [2, 0]

    def test_raw_is_the_message_without_the_prefix(self) -> None:
        unknown = b"\x50\x01"
        payload = with_prefix(wrappers_pb2.Int64Value(value=1))
        batch = Int64Converter(registry_indexes=[2]).to_arrow([payload + unknown])
        assert batch.column("_raw").to_pylist() == [b"\x08\x01" + unknown]
        assert Int64Converter().to_protobuf(batch).to_pylist() == [b"\x08\x01" + unknown]

    @pytest.mark.parametrize(
        ("payload", "offset", "reason"),
        [
            (b"", 0, "ends inside the Schema Registry's prefix"),
            (b"\0\0\0\0", 0, "ends inside the Schema Registry's prefix"),
            (b"\x08\x01\0\0\0\0\0\0", 0, "no magic byte"),
            (b"\0\0\0\0\x01\0", 5, "message indexes are those of another message"),
            (b"\0\0\0\0\x01\x02\x04\x08", 7, "malformed|ends inside a field"),
        ],
    )
    def test_what_is_not_behind_its_prefix_is_rejected(
        self, payload: bytes, offset: int, reason: str
    ) -> None:
        decoded = Int64Converter(registry_indexes=[2]).decode([payload])
        (bad,) = decoded.rejected
        assert re.search(reason, bad.reason)
        assert bad.offset >= offset


class TestLimits:
    """Each limit has its own error."""

    def test_depth(self) -> None:
        nested = b""
        for _ in range(3):
            nested = b"\x1b" + nested + b"\x1c"  # unknown groups
        (bad,) = NoteConverter(max_depth=2).decode([nested]).rejected
        assert bad.reason == "messages nested deeper than the limit of 2"
        assert not NoteConverter(max_depth=3).decode([nested]).rejected

    def test_columns(self) -> None:
        with pytest.raises(ValueError, match=r"Note: 12 columns, .* over the limit of 11"):
            NoteConverter(max_columns=11)
        NoteConverter(max_columns=12)


class TestSplitDelimited:
    def test_whole_messages_are_split_off_and_the_tail_is_left(self) -> None:
        messages = [b"", b"short", b"x" * 300]
        stream = b"\x00" + b"\x05short" + b"\xac\x02" + messages[2]
        array, taken = split_delimited(stream + b"\x0atail")
        assert array.to_pylist() == messages
        assert taken == len(stream)

    def test_a_bad_prefix_raises_once_it_is_first(self) -> None:
        stream = b"\x01a" + b"\xff" * 11
        array, taken = split_delimited(stream)
        assert (array.to_pylist(), taken) == ([b"a"], 2)
        with pytest.raises(ConversionError, match="malformed length prefix"):
            split_delimited(stream[taken:])
        with pytest.raises(ConversionError, match="over the limit"):
            split_delimited(b"\x05abcde", max_message_bytes=4)


class DigitsConverter(Converter[wrappers_pb2.StringValue]):
    """Bytes as texts of digits."""

    schema = pa.schema(
        [
            pa.field("hex", pa.binary()),
            pa.field("base64", pa.binary()),
            pa.field("_raw", pa.binary()),
        ]
    )
    program = Program(
        "Digits",
        Field(1, "string", "hex", "optional", encoding="hex"),
        Field(2, "string", "base64", "optional", encoding="base64"),
        raw="_raw",
    )


class TestDigits:
    """Texts longer and shorter than what is read at once (32 digits)."""

    @staticmethod
    def payload(hexadecimal: bytes, base64_text: bytes) -> bytes:
        def field(number: int, text: bytes) -> bytes:
            size = len(text)
            prefix = [size] if size < 128 else [size & 127 | 128, size >> 7]
            return bytes([number << 3 | 2, *prefix]) + text

        return field(1, hexadecimal) + field(2, base64_text)

    @pytest.mark.parametrize("size", [*range(70), 200, 1_000])
    def test_bytes_of_every_length_come_out_of_their_digits(self, size: int) -> None:
        data = random.Random(size).randbytes(size)
        payload = self.payload(data.hex().encode(), base64.b64encode(data))
        batch = DigitsConverter().to_arrow([payload])
        assert batch.to_pylist() == [{"hex": data, "base64": data, "_raw": None}]
        assert DigitsConverter().to_protobuf(batch).to_pylist() == [payload]

    @pytest.mark.parametrize("place", [0, 1, 31, 32, 33, 63, 95])
    @pytest.mark.parametrize("other", b"=-_ \x00\x7fAFGg/:`@[{z")
    def test_a_character_that_is_none_at_any_place_is_found(self, place: int, other: int) -> None:
        data = bytes(range(72))
        texts = [bytearray(data.hex().encode()), bytearray(base64.b64encode(data))]
        for text in texts:
            text[place] = other
        [row] = DigitsConverter().decode([self.payload(*map(bytes, texts))]).batches[0].to_pylist()
        hexadecimal, base64_text = (text.decode("latin-1") for text in texts)
        is_hex = all(one in "0123456789abcdef" for one in hexadecimal)
        is_base64 = all(one.isascii() and (one.isalnum() or one in "+/") for one in base64_text)
        assert row["hex"] == (bytes.fromhex(hexadecimal) if is_hex else None)
        assert row["base64"] == (base64.b64decode(base64_text) if is_base64 else None)
        assert (row["_raw"] is None) == (is_hex and is_base64)
