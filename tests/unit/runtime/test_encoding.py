"""How files are encoded: what is chosen from the rows, and what readers find in the files."""

from __future__ import annotations

import base64
import os
import random
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cdp_runtime.descriptor import KEY, descriptor_of
from cdp_runtime.encoding import Choice, Encoding, choose
from cdp_runtime.parquet import parquet_writer
from cdpgen.demo_data import contract_data, events
from generated.stellar.v1.contract_data_pb2 import ContractData
from generated.stellar.v1.contract_data_writer import ContractDataWriter
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter

ROWS = 20_000
RANDOM = random.Random(7)

TABLE = pa.table(
    {
        "few": pa.array([f"value {n % 7}" for n in range(ROWS)]),
        "unique": pa.array([RANDOM.randbytes(32) for _ in range(ROWS)], pa.binary(32)),
        "document": pa.array([f'{{"{RANDOM.randbytes(60).hex()}": {n}}}' for n in range(ROWS)]),
        "enum": pa.array(["A", "B"] * (ROWS // 2)).dictionary_encode(),
        "flag": pa.array([True, False] * (ROWS // 2)),
        "tags": pa.array([[f"tag {n % 5}", f"tag {n % 3}"] for n in range(ROWS)]),
        "inner": pa.array(
            [{"few": n % 9, "unique": RANDOM.randbytes(20)} for n in range(ROWS)],
            pa.struct([("few", pa.int64()), ("unique", pa.binary())]),
        ),
        "links": pa.array(
            [{f"key {n % 4}": RANDOM.randbytes(16)} for n in range(ROWS)],
            pa.map_(pa.string(), pa.binary()),
        ),
        "nothing": pa.nulls(ROWS, pa.binary()),
    }
)


class TestChoose:
    def test_values_that_repeat_get_a_dictionary_and_others_none(self) -> None:
        choice = choose(TABLE, "zstd", None)
        assert choice is not None
        assert set(choice.dictionary) == {
            "few",
            "enum",
            "tags.list.element",
            "inner.few",
            "links.key_value.key",
            "nothing",
        }

    def test_long_texts_have_no_statistics(self) -> None:
        choice = choose(TABLE, "zstd", None)
        assert choice is not None
        assert set(_paths(TABLE)) - set(choice.statistics) == {"document"}

    def test_a_few_rows_tell_nothing(self) -> None:
        assert choose(TABLE.slice(0, 1_000), "zstd", None) is None

    def test_what_was_found_out_once_holds(self) -> None:
        encoding = Encoding("zstd")
        first = encoding.options(TABLE)
        assert encoding.options(TABLE.slice(0, 10)) == first
        assert encoding.options() == first

    def test_rows_that_tell_nothing_leave_it_open(self) -> None:
        encoding = Encoding("zstd")
        assert encoding.options(TABLE.slice(0, 10))["use_dictionary"] is True
        assert encoding.options(TABLE)["use_dictionary"] is not True

    def test_what_is_chosen_is_smaller_than_a_dictionary_everywhere(self) -> None:
        def size(**options: Any) -> int:
            sink = pa.MockOutputStream()
            pq.write_table(TABLE, sink, **options)
            return int(sink.size())

        chosen = Encoding("zstd").options(TABLE)
        everywhere = {**chosen, "use_dictionary": True}
        assert size(**chosen) < size(**everywhere)


def _paths(table: pa.Table) -> list[str]:
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, 10), sink)
    metadata = pq.read_metadata(pa.BufferReader(sink.getvalue()))
    return [metadata.row_group(0).column(i).path_in_schema for i in range(metadata.num_columns)]


def messages(count: int) -> list[bytes]:
    return [Event(**fields).SerializeToString() for fields in events(count, seed=1)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20,000 events, with bloom filters."""

    class WithBloomFilters(EventWriter):
        bloom_filters = ("tx_hash", "topic.list.element")

    folder = tmp_path_factory.mktemp("archive")
    with WithBloomFilters(folder, partition_by=[]) as writer:
        writer.write_many(messages(20_000))
    (found,) = (folder / "stellar.v1.Event").iterdir()
    return found


class TestFiles:
    def test_they_have_page_indexes(self, path: Path) -> None:
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_columns):
            column = metadata.row_group(0).column(index)
            assert column.has_offset_index
            assert column.has_column_index == column.is_stats_set

    def test_pages_have_checksums_and_a_flipped_bit_is_found(
        self, path: Path, tmp_path: Path
    ) -> None:
        data = bytearray(path.read_bytes())
        column = pq.read_metadata(path).row_group(0).column(9)
        assert column.path_in_schema == "tx_hash"
        data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
        damaged = tmp_path / "damaged.parquet"
        damaged.write_bytes(data)
        with pytest.raises(OSError, match=r"(?i)crc|checksum"):
            pq.read_table(damaged, page_checksum_verification=True)

    def test_bloom_filters_exclude_what_is_not_there_and_nothing_else(self, path: Path) -> None:
        with duckdb.connect() as connection:
            (there,) = connection.execute(f"select tx_hash from '{path}' limit 1").fetchone() or ()

            def excludes(value: bytes) -> list[bool]:
                probe = "select bloom_filter_excludes from parquet_bloom_probe(?, 'tx_hash', ?)"
                found = connection.execute(probe, [str(path), value]).fetchall()
                return [excluded for (excluded,) in found]

            assert excludes(there) == [False]
            missing = [excludes(RANDOM.randbytes(32)) for _ in range(200)]
        assert sum(map(all, missing)) > 180

    def test_columns_of_few_values_have_statistics(self, path: Path) -> None:
        metadata = pq.read_metadata(path)
        ledger = metadata.row_group(0).column(1)
        assert ledger.path_in_schema == "ledger"
        assert ledger.statistics.min > 0

    @pytest.mark.parametrize("codec", ["zstd", "snappy", "gzip", "lz4", "brotli", "none"])
    def test_every_codec_gives_the_rows_back(self, codec: Any, tmp_path: Path) -> None:
        payloads = messages(5_000)
        with EventWriter(tmp_path, partition_by=[], compression=codec) as writer:
            writer.write_many(payloads)
        (found,) = (tmp_path / "stellar.v1.Event").iterdir()
        rows = pq.read_table(found, partitioning=None).combine_chunks()
        (batch,) = rows.to_batches()
        back = EventWriter.converter().to_protobuf(batch)
        assert sorted(back.to_pylist()) == sorted(payloads)

    def test_they_are_a_tenth_smaller_than_those_of_pyarrow_at_its_defaults(
        self, tmp_path: Path
    ) -> None:
        payloads = [
            ContractData(**fields).SerializeToString() for fields in contract_data(40_000, seed=1)
        ]
        table = pa.Table.from_batches([ContractDataWriter.converter().to_arrow(payloads)])
        options = Encoding("zstd").options(table)
        with parquet_writer(str(tmp_path / "ours"), table.schema, options) as writer:
            writer.write_table(table)
        pq.write_table(table, tmp_path / "theirs", compression="zstd")
        assert os.path.getsize(tmp_path / "ours") < 0.9 * os.path.getsize(tmp_path / "theirs")


class TestDescriptor:
    def test_a_file_alone_tells_what_its_messages_are(self, path: Path) -> None:
        text = (pq.read_metadata(path).metadata or {})[KEY.encode()]
        files = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(text))
        pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            pool.Add(file)
        found = message_factory.GetMessageClass(pool.FindMessageTypeByName("stellar.v1.Event"))
        payload = messages(1)[0]
        assert str(found.FromString(payload)) == str(Event.FromString(payload))

    def test_imports_come_before_what_needs_them_once(self) -> None:
        text = descriptor_of(lambda: Event)
        assert text is not None
        files = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(text))
        names = [file.name for file in files.file]
        assert names == ["google/protobuf/timestamp.proto", "stellar/v1/event.proto"]

    def test_it_is_left_out_where_protobuf_knows_another_version_of_the_schema(self) -> None:
        def another() -> type[Event]:
            file = descriptor_pb2.FileDescriptorProto(name="stellar/v1/event.proto")
            file.package = "another"
            descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
            return Event

        assert descriptor_of(another) is None


def test_a_choice_of_nothing_turns_everything_off() -> None:
    from cdp_runtime.encoding import writer_options

    options = writer_options("zstd", None, Choice([], []))
    assert options["use_dictionary"] is False
    assert options["write_statistics"] is False


NUMBERS = pa.array([RANDOM.randrange(2**31) for _ in range(5_000)], pa.int64())
TYPES: list[pa.DataType] = [
    *(pa.int32(), pa.int64(), pa.uint32(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_()),
    *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(4)),
    *(pa.decimal128(38, 2), pa.decimal256(60, 2), pa.date32(), pa.time64("us"), pa.duration("us")),
    *(pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("ns")),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_columns_of_every_type_are_tried_and_written(kind: Any) -> None:
    values: Any
    if pa.types.is_fixed_size_binary(kind):
        values = pa.array([number.as_py().to_bytes(4) for number in NUMBERS], kind)
    elif pa.types.is_date32(kind) or pa.types.is_floating(kind):
        values = NUMBERS.cast(pa.int32()).cast(kind, safe=False)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = NUMBERS.cast(pa.string()).cast(kind)
    else:
        values = NUMBERS.cast(kind)
    offsets = pa.array(range(len(values) + 1), pa.int32())
    keys = NUMBERS.cast(pa.string())
    table = pa.table(
        {
            "flat": values,
            "null": pa.nulls(len(values), kind),
            "list": pa.ListArray.from_arrays(offsets, values),
            "struct": pa.StructArray.from_arrays([values, values], ["a", "b"]),
            "map": pa.MapArray.from_arrays(offsets, keys, values),
        }
    )
    options = Encoding("zstd").options(table)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table)
    read = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert read.num_rows == len(values)
    assert read.column("flat").combine_chunks().cast(kind).equals(values)
