"""Columns of `include_metadata`, and `schema_evolution: false`, in archives that several engines read."""

from __future__ import annotations

import datetime
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cdp_runtime.config import ConfigError
from cdp_runtime.converter import Converter
from cdp_runtime.provenance import FIELDS, FIRST_FIELD_ID, schema_with
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EVENT_SCHEMA, EventConverter, EventWriter

NAMES = [field.name for field in FIELDS]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A file with the columns, and then one without, in the order of their names."""
    with EventWriter(tmp_path, include_metadata=True, partition_by=[]) as writer:
        writer.write_many([Event(id="a"), Event(id="b")], source="a.pb", positions=range(2))
        writer.write(Event(id="c"))
    with EventWriter(tmp_path, partition_by=[]) as writer:
        writer.write(Event(id="d"))
    with_them, without = sorted(
        (tmp_path / "stellar.v1.Event").iterdir(), key=lambda path: -pq.read_table(path).num_rows
    )
    (tmp_path / "read").mkdir()
    with_them.rename(tmp_path / "read" / with_them.name)
    without.rename(tmp_path / "read" / f"zz-{without.name}")
    return tmp_path / "read"


class TestFields:
    def test_their_ids_are_above_those_of_locks_and_below_those_of_iceberg(self) -> None:
        ids = [int((field.metadata or {})[b"PARQUET:field_id"]) for field in FIELDS]
        assert ids == list(range(FIRST_FIELD_ID, FIRST_FIELD_ID + len(FIELDS)))
        assert max(ids) < 2**31 - 1 - 200


class TestIncludeMetadata:
    def test_rows_tell_source_writer_and_time(self, archive: Path) -> None:
        path = min(archive.iterdir())
        rows = pq.read_table(path).select(["id", *NAMES]).sort_by("id").to_pylist()
        assert [(row["id"], row["_source"]) for row in rows] == [
            ("a", "a.pb"),
            ("b", "a.pb"),
            ("c", None),
        ]
        assert {f"event-{row['_writer']}-000001.parquet" for row in rows} == {path.name}
        now = datetime.datetime.now(datetime.UTC)
        assert all(
            datetime.timedelta(0) <= now - row["_ingested_at"] < datetime.timedelta(minutes=1)
            for row in rows
        )

    def test_their_field_ids_are_in_the_file(self, archive: Path) -> None:
        schema = pq.ParquetFile(min(archive.iterdir())).schema_arrow
        assert [
            (schema.field(field.name).metadata or {})[b"PARQUET:field_id"] for field in FIELDS
        ] == [(field.metadata or {})[b"PARQUET:field_id"] for field in FIELDS]

    def test_duckdb_reads_files_with_and_without(self, archive: Path) -> None:
        found = duckdb.sql(
            "select id, _source, _writer is null, _ingested_at is null "
            f"from read_parquet('{archive}/*.parquet', union_by_name = true) order by id"
        )
        assert found.fetchall() == [
            ("a", "a.pb", False, False),
            ("b", "a.pb", False, False),
            ("c", None, False, False),
            ("d", None, True, True),
        ]

    def test_pyarrow_reads_files_with_and_without(self, archive: Path) -> None:
        dataset = ds.dataset(archive, schema=schema_with(EVENT_SCHEMA))
        rows = dataset.to_table(columns=["id", *NAMES]).sort_by("id").to_pylist()
        assert [(row["id"], row["_source"], row["_writer"] is None) for row in rows] == [
            ("a", "a.pb", False),
            ("b", "a.pb", False),
            ("c", None, False),
            ("d", None, True),
        ]

    def test_polars_reads_files_with_and_without(self, archive: Path) -> None:
        first, second = sorted(archive.iterdir())
        rows = pl.concat(
            [pl.read_parquet(first), pl.read_parquet(second)], how="diagonal_relaxed"
        ).sort("id")
        assert rows["_source"].to_list() == ["a.pb", "a.pb", None, None]

    def test_messages_come_back_from_rows_that_have_them(self, archive: Path) -> None:
        (batch,) = pq.read_table(min(archive.iterdir())).combine_chunks().to_batches()
        payloads = EventConverter().to_protobuf(batch)
        assert {Event.FromString(payload.as_py()).id for payload in payloads} == {"a", "b", "c"}

    def test_a_table_with_such_a_column_of_its_own_is_refused(self, tmp_path: Path) -> None:
        class Clashing(Converter[Event]):
            schema = EVENT_SCHEMA.append(pa.field("_source", pa.utf8()))
            program = EventConverter.program

        class ClashingWriter(EventWriter):
            converter = Clashing

        with pytest.raises(ConfigError, match="the table has a column _source of its own"):
            schema_with(Clashing.schema)


class TestSchemaEvolution:
    def test_an_archive_of_the_same_version_is_gone_on_with(self, tmp_path: Path) -> None:
        for _ in range(2):
            with EventWriter(tmp_path, schema_evolution=False) as writer:
                writer.write(Event(id="a"))
        assert writer.metrics.rows == 1

    def test_one_of_another_version_is_refused_and_left_as_it_is(self, tmp_path: Path) -> None:
        class Later(EventWriter):
            version = EventWriter.version + 1
            fingerprint = "another"

        with EventWriter(tmp_path) as writer:
            writer.write(Event(id="a"))
        before = sorted(tmp_path.rglob("*.parquet"))
        with pytest.raises(
            ConfigError, match=r"^schema_evolution: False is not allowed: .* of ver"
        ):
            Later(tmp_path, schema_evolution=False)
        assert sorted(tmp_path.rglob("*.parquet")) == before
        with Later(tmp_path) as later:
            later.write(Event(id="b"))
        with pytest.raises(ConfigError, match=r"is of version 2 of stellar\.v1\.Event, and this"):
            EventWriter(tmp_path, schema_evolution=False)
