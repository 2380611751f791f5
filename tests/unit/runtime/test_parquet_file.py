"""Files as readers find them: what is in them, and how it is encoded."""

from __future__ import annotations

import base64
import contextlib
import decimal
import io
import itertools
import math
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_runtime import parquet_file
from cdp_runtime.descriptor import KEY, descriptor_of
from cdp_runtime.parquet_file import Compressor, Layout, ParquetFile
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


def written(
    tables: Sequence[pa.Table],
    *,
    layout: Layout | None = None,
    batch_rows: int = 1_000,
    **options: Any,
) -> bytes:
    """A file with a row group for each table."""
    out = io.BytesIO()
    file = ParquetFile(layout or Layout(tables[0].schema, Compressor("zstd"), **options), out.write)
    for table in tables:
        for batch in table.to_batches(max_chunksize=batch_rows):
            file.append(batch)
        file.end_row_group()
    file.finish({"key": "value"})
    assert file.size == len(out.getvalue())
    return out.getvalue()


def read(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data), page_checksum_verification=True)


def page_header(data: bytes) -> tuple[int, int, int]:
    """Of a page: the size of its header, that of its body, and that of the body on the disk."""
    reader, header = parquet_file._Thrift(data), parquet_file._Thrift(data)
    numbers = []
    for _ in range(3):  # the first one is the kind of page
        reader.at += 1
        numbers.append(reader.varint() >> 1)
    header.skip(header._STRUCT)
    return header.at, numbers[1], numbers[2]


def first_page(path: Path) -> bytes:
    """The first data page of the first column, without its header and not compressed."""
    column = pq.read_metadata(path).row_group(0).column(0)
    data = path.read_bytes()[column.data_page_offset :]
    begin, size, stored = page_header(data)
    packed = data[begin : begin + stored]
    return bytes(pa.Codec("zstd").decompress(packed, size, asbytes=True))


def pages(data: bytes) -> int:
    """How many data pages the first column of the first row group has, without a dictionary."""
    column = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
    chunk = data[column.data_page_offset :][: column.total_compressed_size]
    count = 0
    while chunk:
        begin, _, stored = page_header(chunk)
        chunk = chunk[begin + stored :]
        count += 1
    return count


def encodings(data: bytes) -> dict[str, set[str]]:
    """Of the columns of the first row group, by their paths."""
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    return {column.path_in_schema: set(column.encodings) for column in columns}


def assert_same(found: pa.Table, wanted: pa.Table) -> None:
    assert found.column_names == wanted.column_names
    for name in wanted.column_names:
        ours, theirs = (_plain(table.column(name)) for table in (found, wanted))
        assert ours.equals(theirs.cast(ours.type)), name


def assert_every_reader_reads(path: Path, wanted: pa.Table) -> None:
    assert pq.read_table(path, page_checksum_verification=True).equals(wanted)
    assert pl.read_parquet(path).to_dict(as_series=False) == wanted.to_pydict()
    with duckdb.connect() as connection:
        found = connection.execute(f"select * from '{path}'").fetchall()
    assert found == [tuple(row.values()) for row in wanted.to_pylist()]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):  # NaN is not equal to itself
        return column.cast(pa.string())
    return column


def _values(make: Any, rows: int, nulls: float) -> list[Any]:
    return [None if RANDOM.random() < nulls else make() for _ in range(rows)]


def everything(rows: int, nulls: float) -> pa.Table:
    """Columns of all types that a generated schema may have, with nulls at every level."""

    def optional(make: Any) -> Any:
        return None if RANDOM.random() < nulls else make()

    def text() -> str:
        return RANDOM.choice(["", "a", "ü", f"text {RANDOM.randrange(300)}"])

    def several(make: Any) -> list[Any]:
        return [optional(make) for _ in range(RANDOM.randrange(4))]

    def column(make: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(_values(make, rows, nulls), kind)

    node = pa.struct([pa.field("q", pa.int64()), pa.field("deep", pa.list_(pa.utf8()))])
    return pa.table(
        {
            "i32": column(lambda: RANDOM.randrange(-(2**31), 2**31), pa.int32()),
            "u32": column(lambda: RANDOM.randrange(2**32), pa.uint32()),
            "i64": column(lambda: RANDOM.randrange(-(2**63), 2**63), pa.int64()),
            "u64": column(lambda: RANDOM.randrange(2**64), pa.uint64()),
            "f32": column(lambda: RANDOM.choice([0.0, -0.0, math.nan, 1.5]), pa.float32()),
            "f64": column(RANDOM.random, pa.float64()),
            "bool": column(lambda: RANDOM.random() < 0.5, pa.bool_()),
            "text": column(text, pa.utf8()),
            "large_text": column(text, pa.large_utf8()),
            "bytes": column(lambda: RANDOM.randbytes(RANDOM.randrange(20)), pa.binary()),
            "large_bytes": column(lambda: RANDOM.randbytes(3), pa.large_binary()),
            "fixed": column(lambda: RANDOM.randbytes(7), pa.binary(7)),
            "d38": column(
                lambda: decimal.Decimal(RANDOM.randrange(-(10**37), 10**37)).scaleb(-2),
                pa.decimal128(38, 2),
            ),
            "d9": column(
                lambda: decimal.Decimal(RANDOM.randrange(-(10**8), 10**8)), pa.decimal128(9)
            ),
            "d60": column(
                lambda: decimal.Decimal(RANDOM.randrange(-(10**27), 10**27)), pa.decimal256(60)
            ),
            "date": column(lambda: RANDOM.randrange(-9_999, 99_999), pa.date32()),
            "time": column(lambda: RANDOM.randrange(86_400_000_000), pa.time64("us")),
            "seconds": column(lambda: RANDOM.randrange(2**33), pa.timestamp("s", "UTC")),
            "micros": column(lambda: RANDOM.randrange(2**50), pa.timestamp("us", "UTC")),
            "nanos": column(lambda: RANDOM.randrange(2**60), pa.timestamp("ns")),
            "duration": column(lambda: RANDOM.randrange(-(2**50), 2**50), pa.duration("us")),
            "enum": column(lambda: RANDOM.choice("abc"), pa.utf8()).dictionary_encode(),
            "list": column(lambda: several(text), pa.list_(pa.utf8())),
            "large_list": column(lambda: several(RANDOM.random), pa.large_list(pa.float64())),
            "map": column(
                lambda: [(text(), optional(text)) for _ in range(RANDOM.randrange(3))],
                pa.map_(pa.utf8(), pa.utf8()),
            ),
            "struct": column(
                lambda: {
                    "a": optional(lambda: 1),
                    "nodes": optional(
                        lambda: several(lambda: {"q": optional(lambda: 7), "deep": several(text)})
                    ),
                },
                pa.struct([pa.field("a", pa.int32()), pa.field("nodes", pa.list_(node))]),
            ),
            "nothing": pa.nulls(rows, pa.utf8()),
        }
    )


@pytest.fixture(scope="module")
def files() -> tuple[pa.Table, bytes]:
    table = pa.concat_tables([everything(3_000, 0.2), everything(2_000, 0), everything(50, 1)])
    return table, written([table, table.slice(777, 3)], batch_rows=701)


class TestEveryType:
    def test_pyarrow_reads_what_was_written(self, files: tuple[pa.Table, bytes]) -> None:
        table, data = files
        assert_same(read(data), pa.concat_tables([table, table.slice(777, 3)]))

    def test_duckdb_and_polars_read_the_same_as_of_a_file_by_pyarrow(
        self, files: tuple[pa.Table, bytes], tmp_path: Path
    ) -> None:
        table, data = files
        theirs = tmp_path / "theirs.parquet"
        pq.write_table(pa.concat_tables([table, table.slice(777, 3)]), theirs)
        ours = tmp_path / "ours.parquet"
        ours.write_bytes(data)
        columns = [
            name for name in table.column_names if name != "d60"
        ]  # polars has no such decimals
        assert pl.read_parquet(ours, columns=columns).equals(
            pl.read_parquet(theirs, columns=columns)
        )
        with duckdb.connect() as connection:
            for a, b in ((ours, theirs), (theirs, ours)):
                query = f"select count(*) from (select * from '{a}' except all select * from '{b}')"
                assert connection.execute(query).fetchall() == [(0,)]

    @pytest.mark.skipif(not hasattr(pa, "decimal32"), reason="this pyarrow has no narrow decimals")
    def test_narrow_decimals_come_back(self) -> None:
        numbers = [decimal.Decimal(n).scaleb(-2) for n in (-5, 7, 99_999_99, -99_999_99, 0)]
        for kind in (pa.decimal32(7, 2), pa.decimal64(15, 2)):
            table = pa.table({"number": pa.array(numbers, kind)})
            assert read(written([table]))["number"].to_pylist() == numbers

    def test_statistics_are_those_of_pyarrow(self, files: tuple[pa.Table, bytes]) -> None:
        table, data = files
        sink = io.BytesIO()
        pq.write_table(table, sink)
        ours = pq.read_metadata(io.BytesIO(data)).row_group(0)
        theirs = pq.read_metadata(sink).row_group(0)
        told = 0
        for index in range(ours.num_columns):
            a, b = ours.column(index), theirs.column(index)
            assert a.num_values == b.num_values
            assert a.statistics.null_count == b.statistics.null_count
            if a.path_in_schema == "f32":  # has NaN, of which pyarrow makes nothing
                assert not a.statistics.has_min_max
                continue
            assert a.statistics.has_min_max == b.statistics.has_min_max, a.path_in_schema
            if a.statistics.has_min_max:
                assert a.statistics.min_raw == b.statistics.min_raw, a.path_in_schema
                assert a.statistics.max_raw == b.statistics.max_raw, a.path_in_schema
                told += 1
        assert told > 25

    def test_the_schema_is_that_of_pyarrow(self, files: tuple[pa.Table, bytes]) -> None:
        table, data = files
        sink = io.BytesIO()
        pq.write_table(table, sink)
        assert pq.read_schema(io.BytesIO(data)).equals(pq.read_schema(sink))
        ours, theirs = pq.read_metadata(io.BytesIO(data)), pq.read_metadata(sink)
        assert ours.schema.equals(theirs.schema)
        assert ours.metadata is not None
        assert ours.metadata[b"key"] == b"value"


PAGES_ROWS = 150_000
"""More than a page has."""


@pytest.fixture(scope="module")
def table() -> pa.Table:
    numbers = list(range(PAGES_ROWS))
    return pa.table(
        {
            "rising": pa.array(numbers, pa.int64()),
            "falling": pa.array([-n for n in numbers], pa.int64()),
            "sparse": pa.array([n if n % 3 else None for n in numbers], pa.int32()),
            "late": pa.array([None] * 100_000 + numbers[100_000:], pa.int64()),
            "names": pa.array([f"{n // 100:06}" for n in numbers]),
            "texts": pa.array([f"{RANDOM.randrange(2**60):x}" for _ in numbers]),
            "lists": pa.array([list(range(n % 4)) for n in numbers], pa.list_(pa.int32())),
        }
    )


class TestPages:
    def test_all_rows_come_back(self, table: pa.Table) -> None:
        assert_same(read(written([table], batch_rows=8_192)), table)

    def test_an_index_of_pages_leads_polars_and_duckdb_to_the_right_rows(
        self, table: pa.Table, tmp_path: Path
    ) -> None:
        path = tmp_path / "file.parquet"
        path.write_bytes(written([table], batch_rows=8_192))
        for low in (0, 65_535, 65_536, 149_990):
            found = (
                pl.scan_parquet(path)
                .filter(pl.col("rising").is_between(low, low + 3))
                .select("rising", "falling", "names", "lists")
                .collect()
            )
            assert found["rising"].to_list() == list(range(low, low + 4))
            assert found["lists"].to_list() == [list(range(n % 4)) for n in range(low, low + 4)]
            with duckdb.connect() as connection:
                query = f"select falling from '{path}' where names = '{low // 100:06}'"
                rows = connection.execute(query).fetchall()
            first = low // 100 * 100
            assert [-row[0] for row in rows] == list(range(first, min(first + 100, PAGES_ROWS)))

    def test_a_column_without_what_has_no_null_takes_none(self) -> None:
        schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
        file = ParquetFile(Layout(schema, Compressor("none")), io.BytesIO().write)
        batch = pa.record_batch([pa.array([1, None], pa.int64())], schema=schema)
        with pytest.raises(ValueError, match="column n has a null where its schema has none"):
            file.append(batch)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_rows_in_any_pieces_come_back(data: st.DataObject) -> None:
    leaf = st.sampled_from([pa.int32(), pa.utf8(), pa.binary(), pa.bool_(), pa.float64()])
    kind = data.draw(
        st.recursive(
            leaf,
            lambda inner: st.one_of(
                inner.map(pa.list_),
                inner.map(lambda one: pa.map_(pa.utf8(), one)),
                st.lists(inner, min_size=1, max_size=2).map(
                    lambda ones: pa.struct([(f"f{i}", one) for i, one in enumerate(ones)])
                ),
            ),
            max_leaves=4,
        )
    )
    values = data.draw(st.lists(_of(kind), max_size=40))
    table = pa.table({"column": pa.array(values, kind)})
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=3)))
    parts = [table.slice(a, b - a) for a, b in itertools.pairwise([0, *cuts, len(values)])]
    found = read(written(parts, batch_rows=data.draw(st.integers(1, 9))))
    assert found.column("column").to_pylist() == table.column("column").to_pylist()


def _of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of a type, null too."""
    made: st.SearchStrategy[Any]
    if pa.types.is_map(kind):
        made = st.lists(st.tuples(st.text(max_size=3), _of(kind.item_type)), max_size=3)
    elif pa.types.is_list(kind):
        made = st.lists(_of(kind.value_type), max_size=3)
    elif pa.types.is_struct(kind):
        made = st.fixed_dictionaries({field.name: _of(field.type) for field in kind})
    elif pa.types.is_boolean(kind):
        made = st.booleans()
    elif pa.types.is_int32(kind):
        made = st.integers(-(2**31), 2**31 - 1)
    elif pa.types.is_float64(kind):
        made = st.floats(allow_nan=False)
    else:
        made = st.text(max_size=4) if pa.types.is_string(kind) else st.binary(max_size=4)
    return st.none() | made


class TestDictionaries:
    def test_values_that_repeat_have_one_and_others_none(self) -> None:
        found = encodings(written([TABLE]))
        assert {path for path, used in found.items() if "RLE_DICTIONARY" in used} == {
            "few",
            "enum",
            "tags.list.element",
            "inner.few",
            "links.key_value.key",
        }

    def test_a_few_rows_tell_nothing(self) -> None:
        assert "RLE_DICTIONARY" in encodings(written([TABLE.slice(0, 1_000)]))["unique"]

    def test_what_a_whole_page_told_holds_for_files_to_come(self) -> None:
        table = pa.table({"unique": pa.array([RANDOM.randbytes(8) for _ in range(70_000)])})
        layout = Layout(table.schema, Compressor("zstd"))
        written([table], layout=layout)
        same = pa.table({"unique": pa.array([b"again"] * 10)})
        assert "RLE_DICTIONARY" not in encodings(written([same], layout=layout))["unique"]

    def test_what_counts_is_the_size_of_what_is_compressed(self) -> None:
        # a dictionary halves the texts, but the codec finds what repeats, and places do not compress
        texts = [f"{'the same beginning of all' * 4}{row // 2}" for row in range(70_000)]
        found = encodings(written([pa.table({"twice": pa.array(texts)})]))
        assert "RLE_DICTIONARY" not in found["twice"]

    def test_places_are_in_whole_bytes_where_the_codec_finds_more_in_them(
        self, tmp_path: Path
    ) -> None:
        rising = [n // 5 for n in range(70_000)]
        anyhow = [RANDOM.randrange(14_000) for _ in range(70_000)]
        for numbers, wanted in ((rising, 16), (anyhow, 14)):
            schema = pa.schema([pa.field("text", pa.utf8(), nullable=False)])
            table = pa.table({"text": [f"a text, number {n}" for n in numbers]}, schema)
            path = tmp_path / f"{wanted}.parquet"
            path.write_bytes(written([table]))
            assert_every_reader_reads(path, table)
            assert first_page(path)[0] == wanted

    def test_values_that_no_longer_repeat_get_another_look(self) -> None:
        few = pa.table({"n": pa.array([n % 9 for n in range(70_000)], pa.int64())})
        many = pa.table({"n": pa.array(RANDOM.sample(range(2**60), 70_000), pa.int64())})
        layout = Layout(few.schema, Compressor("zstd"))
        data = written([few, many, many], layout=layout)
        metadata = pq.read_metadata(io.BytesIO(data))
        used = [
            "RLE_DICTIONARY" in metadata.row_group(group).column(0).encodings for group in range(3)
        ]
        assert used == [True, True, False]

    def test_a_row_group_ends_when_a_dictionary_has_all_that_it_may_have(self) -> None:
        rows = [RANDOM.randbytes(512) for _ in range(80_000)]
        table = pa.table({"twice": pa.array([row for row in rows for _ in range(2)])})
        file = ParquetFile(Layout(table.schema, Compressor("none")), io.BytesIO().write)
        ended = []
        for batch in table.to_batches(max_chunksize=8_192):
            file.append(batch)
            if file.is_full:
                ended.append(file.rows)
                file.end_row_group()
        assert len(ended) == 1
        assert 32 << 20 <= ended[0] * 256 < 40 << 20

    def test_a_row_group_ends_before_its_texts_are_more_than_readers_take(self) -> None:
        table = pa.table({"text": pa.array(["x" * (1 << 22), "y" * (1 << 22)] * 8)})
        file = ParquetFile(Layout(table.schema, Compressor("none")), io.BytesIO().write)
        (batch,) = table.to_batches()
        appended = 0
        while not file.is_full and appended < 32:
            file.append(batch)
            appended += 1
        assert appended * batch.nbytes // (1 << 20) == 1 << 10

    def test_a_column_with_few_values_in_a_page_finds_out_that_they_are_all_different(self) -> None:
        texts = [RANDOM.randbytes(64).hex() if n % 20 == 0 else None for n in range(400_000)]
        late = [None] * 70_000 + [RANDOM.randbytes(64).hex() for _ in range(100_000)]
        for rows in (texts, late):
            data = written([pa.table({"text": rows})], batch_rows=50_000)
            assert "RLE_DICTIONARY" not in encodings(data)["text"]
            assert read(data)["text"].to_pylist() == rows
            assert pages(data) <= len(rows) // 16_384 + 1

    def test_names_are_places_in_a_dictionary_also_where_there_are_none(
        self, tmp_path: Path
    ) -> None:
        # pyarrow reads no others in a message: it has made the dictionary when it sees a page of nulls
        names = pa.dictionary(pa.int32(), pa.string())
        inner = pa.struct([pa.field("kind", names, nullable=False)])
        schema = pa.schema([pa.field("inner", inner), pa.field("list", pa.list_(names))])

        def rows(kinds: Sequence[int | None]) -> pa.RecordBatch:
            texts = pa.array(["KIND_A", "KIND_B"])
            places = pa.array([kind or 0 for kind in kinds], pa.int32())
            values = pa.DictionaryArray.from_arrays(places, texts)
            gone = pa.array([kind is None for kind in kinds])
            some = pa.array([kind for kind in kinds if kind is not None], pa.int32())
            counts = itertools.accumulate((kind is not None for kind in kinds), initial=0)
            lists = pa.ListArray.from_arrays(
                pa.array(counts, pa.int32()),
                pa.DictionaryArray.from_arrays(some, texts),
                type=schema.field("list").type,
            )
            structs = pa.StructArray.from_arrays([values], fields=list(inner), mask=gone)
            return pa.record_batch([structs, lists], schema=schema)

        nothing: list[int | None] = [None] * 70_000
        for kinds in ([*nothing, 1, 0], [*nothing, 1, *nothing], nothing):
            wanted = [None if kind is None else {"kind": f"KIND_{'AB'[kind]}"} for kind in kinds]
            path = tmp_path / "names.parquet"
            path.write_bytes(written([pa.Table.from_batches([rows(kinds)])], batch_rows=80_000))
            table = pq.read_table(path)
            table.validate(full=True)
            assert table["inner"].to_pylist() == wanted
            assert pq.ParquetFile(path).read_row_group(0)["list"].to_pylist() == [
                [row["kind"]] if row else [] for row in wanted
            ]
            assert pl.read_parquet(path)["inner"].to_list() == wanted
            found = duckdb.sql(f"select \"inner\" from '{path}'").fetchall()
            assert [row for (row,) in found] == wanted

    def test_files_are_smaller_than_with_a_dictionary_everywhere_or_nowhere(self) -> None:
        theirs = []
        for dictionaries in (True, False):
            sink = io.BytesIO()
            options: dict[str, Any] = {"use_dictionary": dictionaries, "compression_level": 3}
            pq.write_table(TABLE, sink, compression="zstd", **options)
            theirs.append(len(sink.getvalue()))
        assert len(written([TABLE])) < min(theirs)

    def test_a_file_is_a_seventh_smaller_than_that_of_pyarrow_at_its_defaults(self) -> None:
        payloads = [
            ContractData(**fields).SerializeToString() for fields in contract_data(40_000, seed=1)
        ]
        table = pa.Table.from_batches([ContractDataWriter.converter().to_arrow(payloads)])
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        assert len(written([table])) < 0.86 * len(sink.getvalue())


class TestTextsOfOneLength:
    """Without the length before each: DELTA_LENGTH_BYTE_ARRAY."""

    @pytest.mark.parametrize("size", [1, 20, 200])
    @pytest.mark.parametrize("rows", [1, 2, 128, 129, 130, 70_000])
    def test_every_reader_reads_them(self, tmp_path: Path, size: int, rows: int) -> None:
        texts = [RANDOM.randbytes(size).hex() for _ in range(rows)]
        table = pa.table(
            {
                "text": texts,
                "optional": [None if row % 7 == 3 else text for row, text in enumerate(texts)],
                "list": [
                    [] if row % 5 == 1 else [text, text[::-1]] for row, text in enumerate(texts)
                ],
            }
        )
        layout = Layout(table.schema, Compressor("zstd"))
        if rows < 70_000:  # which alone tell nothing
            written([self.unlike(table.schema)], layout=layout)
        path = tmp_path / "texts.parquet"
        path.write_bytes(written([table], layout=layout))
        if size > 1:
            for used in encodings(path.read_bytes()).values():
                assert used == {"DELTA_LENGTH_BYTE_ARRAY", "RLE"}
        assert_every_reader_reads(path, table)

    def test_pages_with_other_lengths_stand_beside_them(self, tmp_path: Path) -> None:
        alike = [RANDOM.randbytes(16).hex() for _ in range(70_000)]
        texts = [*alike, *(text[: 20 + row % 9] for row, text in enumerate(alike)), *alike[::-1]]
        table = pa.table({"text": texts})
        path = tmp_path / "texts.parquet"
        path.write_bytes(written([table]))
        assert encodings(path.read_bytes())["text"] == {"PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "RLE"}
        assert_every_reader_reads(path, table)

    def test_texts_that_begin_and_end_as_if_alike_are_not(self) -> None:
        # as many bytes together as if all had the length of the first
        texts = [RANDOM.randbytes(8).hex() for _ in range(70_000)]
        texts[100], texts[60_000] = texts[100] + "x", texts[60_000][1:]
        data = written([pa.table({"text": texts})])
        assert read(data)["text"].to_pylist() == texts
        assert "PLAIN" in encodings(data)["text"]

    @staticmethod
    def unlike(schema: pa.Schema) -> pa.Table:
        """Rows that tell that no dictionary pays."""
        texts = [RANDOM.randbytes(16).hex()[: 20 + row % 9] for row in range(70_000)]
        return pa.table(
            {"text": texts, "optional": texts, "list": [[text] for text in texts]}, schema
        )


class TestCompressor:
    def test_columns_that_a_level_makes_no_smaller_have_the_fast_one(self) -> None:
        values = pa.array([RANDOM.randbytes(32) for _ in range(20_000)], pa.binary(32))
        digests = pa.table({"digest": values})
        documents = [fields["val_decoded"] for fields in contract_data(20_000, seed=1)]
        texts = pa.table({"json": pa.array(documents)})
        sizes = [
            [
                len(written([table], layout=Layout(table.schema, Compressor("zstd", level))))
                for level in (None, 1, 3)
            ]
            for table in (digests, texts)
        ]
        assert sizes[0][0] == sizes[0][1]
        assert sizes[1][0] == sizes[1][2] < sizes[1][1]

    def test_several_threads_and_files_give_the_bytes_of_one(self) -> None:
        tables = [TABLE.slice(n * 100) for n in range(4)]
        wanted = [written([table]) for table in tables]
        compressor = Compressor("zstd")
        found: dict[int, bytes] = {}

        def write(number: int) -> None:
            layout = Layout(TABLE.schema, compressor, threads=2)
            found[number] = written([tables[number]], layout=layout)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [found[n] for n in range(4)] == wanted


class TestThreads:
    """Of a layout, which encode and compress while the caller does something else."""

    def test_row_groups_are_as_without_them(self) -> None:
        tables = [TABLE.slice(n * 700, 5_000) for n in range(9)]
        for options in ({}, {"bloom_filters": ["unique", "inner.few"]}):
            alone = written(tables, layout=Layout(TABLE.schema, Compressor("zstd"), **options))
            for threads in (1, 3):
                layout = Layout(TABLE.schema, Compressor("zstd"), threads=threads, **options)
                assert written(tables, layout=layout, batch_rows=300) == alone

    @pytest.mark.parametrize(("ahead", "together"), [(1 << 16, 1), (8 << 20, 5)])
    def test_files_that_are_open_together_are_each_as_if_alone(
        self, ahead: int, together: int
    ) -> None:
        layout = Layout(TABLE.schema, Compressor("zstd"), threads=2, ahead=ahead)
        outs = [io.BytesIO() for _ in range(5)]
        files = [ParquetFile(layout, out.write) for out in outs]
        batches = TABLE.to_batches(max_chunksize=500)
        for number, batch in enumerate(batches):
            files[number % 5].append(batch)
            if number % 7 == 6:
                files[number % 5].end_row_group()
                assert 1 <= [file.is_ending for file in files].count(True) <= together
        for number, (file, out) in enumerate(zip(files, outs, strict=True)):
            file.finish({})
            assert not file.is_ending
            assert read(out.getvalue()) == pa.Table.from_batches(batches[number::5])

    def test_a_row_group_that_ended_is_written_with_what_comes_next(self) -> None:
        out = io.BytesIO()
        file = ParquetFile(Layout(TABLE.schema, Compressor("zstd"), threads=1), out.write)
        batch = TABLE.slice(0, 5_000).to_batches()[0]
        file.append(batch)
        file.end_row_group()
        assert file.is_ending
        assert (file.rows, file.held, out.getvalue()) == (0, 0, b"")
        deadline = time.monotonic() + 60
        while file.is_ending and time.monotonic() < deadline:
            file.append(batch)
        assert not file.is_ending
        assert file.size == len(out.getvalue()) > 0

    @pytest.mark.parametrize("threads", [0, 1])
    def test_what_is_wrong_with_a_page_reaches_who_waits_for_its_row_group(
        self, monkeypatch: pytest.MonkeyPatch, threads: int
    ) -> None:
        compressor = Compressor("zstd")
        file = ParquetFile(Layout(TABLE.schema, compressor, threads=threads), io.BytesIO().write)

        def fail(data: object, *, fast: bool) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(compressor, "compress", fail)
        file.append(TABLE.slice(0, 100).to_batches()[0])
        file.end_row_group()
        with pytest.raises(MemoryError, match="no room"):
            file.settle()
        with pytest.raises(RuntimeError, match="the file is lost"):
            file.append(TABLE.slice(0, 100).to_batches()[0])
        with pytest.raises(RuntimeError, match="the file is lost"):
            file.finish({})

    def test_a_null_where_none_may_be_reaches_a_later_call(self) -> None:
        schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
        file = ParquetFile(Layout(schema, Compressor("zstd"), threads=1), io.BytesIO().write)
        batch = pa.RecordBatch.from_arrays([pa.array([1, None, 3], pa.int64())], schema=schema)
        file.append(batch)
        file.end_row_group()
        with pytest.raises(ValueError, match="column n has a null where its schema has none"):
            file.settle()

    def test_a_file_that_is_given_up_leaves_the_others_alone(self) -> None:
        layout = Layout(TABLE.schema, Compressor("zstd"), threads=2)
        for _ in range(20):
            lost = ParquetFile(layout, io.BytesIO().write)
            for batch in TABLE.to_batches(max_chunksize=4_000):
                lost.append(batch)
            lost.end_row_group()
            lost.discard()
            del lost
        assert written([TABLE], layout=layout) == written([TABLE])

    @pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
    def test_they_begin_with_the_first_rows_and_end_with_the_layout(self) -> None:
        def threads() -> set[str]:
            found = set()
            for path in Path("/proc/self/task").glob("*/comm"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
                    if path.read_text() == "cdp parquet\n":
                        found.add(path.parent.name)
            return found

        before = threads()  # those of other tests may be ending
        layout = Layout(TABLE.schema, Compressor("zstd"), threads=2)
        assert not threads() - before
        file = ParquetFile(layout, io.BytesIO().write)
        for batch in TABLE.to_batches(max_chunksize=4_000):
            file.append(batch)
        deadline = time.monotonic() + 60
        while len(threads() - before) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(threads() - before) == 2
        del file, layout  # with work left
        assert not threads() - before


def messages(count: int) -> list[bytes]:
    return [Event(**fields).SerializeToString() for fields in events(count, seed=1)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20,000 events, with bloom filters."""

    class WithBloomFilters(EventWriter):
        bloom_filters = ("tx_hash", "topic.list.element", "ledger")

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
            told = column.statistics.has_min_max
            assert column.has_column_index == (
                told or column.num_values == column.statistics.null_count
            )

    def test_pages_have_checksums_and_a_flipped_bit_is_found(
        self, path: Path, tmp_path: Path
    ) -> None:
        data = bytearray(path.read_bytes())
        column = pq.read_metadata(path).row_group(0).column(9)
        assert column.path_in_schema == "tx_hash"
        start = column.dictionary_page_offset or column.data_page_offset
        data[start + column.total_compressed_size // 2] ^= 1
        damaged = tmp_path / "damaged.parquet"
        damaged.write_bytes(data)
        with pytest.raises(OSError, match=r"(?i)crc|checksum"):
            pq.read_table(damaged, page_checksum_verification=True)

    @pytest.mark.parametrize("size", [0, 1, 40, 59, 60, 61, 75, 76, 77, 123, 124, 125, 5_000])
    def test_checksums_are_right_for_pages_of_any_size(self, size: int) -> None:
        table = pa.table({"bytes": pa.array([RANDOM.randbytes(size)])})
        assert read(written([table], layout=Layout(table.schema, Compressor("none")))) == table

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


class TestStatistics:
    """A filter must find what a full scan finds: a range that is too narrow loses rows without a word."""

    def test_what_another_file_learns_of_a_column_does_not_cut_the_range_of_an_open_page(
        self, tmp_path: Path
    ) -> None:
        schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
        layout = Layout(schema, Compressor("zstd"))
        paths = [tmp_path / f"{number}.parquet" for number in range(3)]
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(path.open("wb")) for path in paths]
            long, one, other = (ParquetFile(layout, file.write) for file in files)

            def add(to: ParquetFile, texts: list[str]) -> None:
                to.append(pa.record_batch([pa.array(texts)], schema=schema))

            add(long, [f"{number:0300}" for number in range(5_000)])
            long.finish({})
            add(one, [f"a{number:05}" for number in range(5_000)])
            add(other, [f"m{number:05}" for number in range(70_000)])
            add(one, [f"z{number:05}" for number in range(5_000)])
            one.finish({})
            other.finish({})
        for path in paths[1:]:
            rows = pq.read_table(path)["text"].to_pylist()
            for group in range(pq.read_metadata(path).num_row_groups):
                told = pq.read_metadata(path).row_group(group).column(0).statistics
                assert not told.has_min_max or (told.min, told.max) == (min(rows), max(rows))
        found = duckdb.sql(f"select count(*) from '{paths[1]}' where text < 'b'").fetchall()
        assert found == [(5_000,)]

    def test_names_stay_where_they_are_when_a_dictionary_hardly_pays(self, tmp_path: Path) -> None:
        names = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema([pa.field("name", pa.list_(pa.field("element", names, False)), False)])
        layout = Layout(schema, Compressor("zstd"))

        def batch(rows: list[list[int]], texts: list[str]) -> pa.RecordBatch:
            values = pa.DictionaryArray.from_arrays(
                pa.array([place for row in rows for place in row], pa.int32()), pa.array(texts)
            )
            offsets = pa.array(itertools.accumulate(map(len, rows), initial=0), pa.int32())
            lists = pa.ListArray.from_arrays(offsets, values, type=schema.field(0).type)
            return pa.record_batch([lists], schema=schema)

        # more than a page of names that are all different, then some that the page before had
        each = [[*range(start, start + 1_000)] for start in range(0, 1_024_000, 1_000)]
        rows = [*each, *[each[0]] * 1_000]
        many = batch(rows, [str(number) for number in range(1_024_000)])
        paths = [tmp_path / "one.parquet", tmp_path / "many.parquet"]
        for path, one in zip(paths, (batch([[0]], ["ONE"]), many), strict=True):
            with path.open("wb") as file:
                made = ParquetFile(layout, file.write)
                made.append(one)
                made.finish({})
        found = pl.read_parquet(paths[1])["name"].to_list()
        assert [row[0] for row in found] == [str(row[0]) for row in rows]
        assert found[-1] == [str(number) for number in range(1_000)]

    def test_values_that_are_long_do_not_go_into_the_footer(self, tmp_path: Path) -> None:
        short = [f"{number:06}" for number in range(70_000)]
        layout = Layout(pa.schema([("text", pa.string())]), Compressor("zstd"))
        for name, texts in (("short", short), ("long", ["y" * 5_000_000, *short[:100]])):
            with (tmp_path / name).open("wb") as file:
                made = ParquetFile(layout, file.write)
                made.append(pa.record_batch([pa.array(texts)], ["text"]))
                made.finish({})
        metadata = pq.read_metadata(tmp_path / "long")
        assert metadata.serialized_size < 5_000
        assert not metadata.row_group(0).column(0).statistics.has_min_max
        assert (tmp_path / "long").stat().st_size < 20_000
        assert pq.read_table(tmp_path / "long")["text"].to_pylist()[1:] == short[:100]

    @pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
    def test_with_nan_a_filter_finds_what_a_full_scan_finds(
        self, kind: pa.DataType, tmp_path: Path
    ) -> None:
        rows = pa.table({"number": pa.array([math.nan, 1, 2] * 50, kind)})
        path = tmp_path / "nan.parquet"
        path.write_bytes(written([rows]))
        assert not pq.read_metadata(path).row_group(0).column(0).statistics.has_min_max
        for condition in ("number > 1e30", "number = 'nan'", "number < 1.5"):
            scanned = duckdb.sql(f"select count(*) from rows where {condition}").fetchall()
            found = duckdb.sql(f"select count(*) from '{path}' where {condition}").fetchall()
            assert found == scanned == [(50,)]
