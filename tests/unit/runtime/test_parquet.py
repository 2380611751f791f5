"""Open files: when they rotate, which of them are open, what lies in them."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_runtime import parquet
from cdp_runtime.config import WriterConfig
from cdp_runtime.metrics import Metrics
from cdp_runtime.parquet import PublishedFile, Table, TableFiles
from cdp_runtime.parquet_file import Compressor
from cdp_runtime.patience import Patience
from cdp_runtime.positions import Run, runs
from cdp_runtime.storage import Storage, open_storage

SCHEMA = pa.schema(
    [
        pa.field("n", pa.int64(), nullable=False),
        pa.field("text", pa.utf8(), nullable=False),
        pa.field("kind", pa.dictionary(pa.int32(), pa.utf8()), nullable=False),
    ]
)


def rows(*numbers: int, width: int = 5) -> pa.RecordBatch:
    kinds = pa.array([f"k{n % 3}" for n in numbers]).dictionary_encode()
    texts = [f"{n * 7919 % 10**9:09}" * (width // 9 + 1) for n in numbers]
    return pa.record_batch([pa.array(numbers, pa.int64()), pa.array(texts), kinds], schema=SCHEMA)


class Files:
    """The files of a table, and what was told of those that are published."""

    def __init__(self, folder: Path, storage: Storage, sort_by: tuple[str, ...], **options: Any):
        self.folder = folder
        self.told: list[PublishedFile] = []
        self.segments: list[dict[int, int]] = []
        self.metrics = Metrics()
        config = WriterConfig(**options)
        self.files = TableFiles(
            Table("t.ATable", "t.ATable", SCHEMA, sort_by, {"cdpgen.table": "t.ATable"}, False),
            storage,
            "w1",
            itertools.count(1),
            config,
            Compressor(config.compression),
            self.metrics,
            Patience("w1", self.metrics),
            {},
            self.published,
        )

    def published(self, file: PublishedFile, segments: Any) -> None:
        assert (self.folder / file.path).is_file()
        self.told.append(file)
        self.segments.append(dict(segments))

    def numbers(self) -> list[list[int]]:
        """The rows of each file, in the order in which they were published."""
        return [
            pq.ParquetFile(self.folder / file.path).read()["n"].to_pylist() for file in self.told
        ]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    storage = open_storage(tmp_path, "w1")
    yield lambda sort_by=(), **options: Files(tmp_path, storage, sort_by, **options)
    storage.close()


class TestRotation:
    def test_a_file_has_exactly_the_rows_that_it_may_have(self, make: Any) -> None:
        made = make(max_file_rows=10)
        made.files.add("", rows(*range(4)))
        made.files.add("", rows(*range(4, 29)))
        assert made.numbers() == [list(range(10)), list(range(10, 20))]
        made.files.publish_all()
        assert made.numbers()[2] == list(range(20, 29))

    def test_a_file_has_about_the_bytes_that_it_may_have(self, make: Any) -> None:
        made = make(max_file_size_mb=0.5, row_group_mb=0.2, compression="none")
        for start in range(0, 60_000, 500):
            made.files.add("", rows(*range(start, start + 500), width=40))
        assert len(made.told) >= 4
        for file in made.told:
            assert 0.4 * (1 << 20) < file.size < 0.75 * (1 << 20)
            assert (made.folder / file.path).stat().st_size == file.size

    def test_an_old_file_is_published_and_a_young_one_is_not(self, make: Any) -> None:
        made = make(rotation_interval_minutes=0.05 / 60)
        assert made.files.seconds_to_rotation() is None
        made.files.add("p=1", rows(1))
        time.sleep(0.06)
        made.files.add("p=2", rows(2))
        assert made.files.seconds_to_rotation() == 0
        made.files.rotate_old()
        assert [file.partition for file in made.told] == ["p=1"]
        assert 0 < made.files.seconds_to_rotation() < 0.06

    def test_of_too_many_open_files_the_least_recently_used_is_published(self, make: Any) -> None:
        made = make(max_open_files=3)
        for partition in ("a", "b", "c", "a", "d", "b", "e"):
            made.files.add(partition, rows(1))
        # d pushed b out; b, again, c; e then a
        assert [file.partition for file in made.told] == ["b", "c", "a"]

    def test_all_partitions_together_gather_no_more_than_a_row_group(self, make: Any) -> None:
        made = make(row_group_mb=0.05, max_open_files=50)
        for n in range(4_000):
            made.files.add(f"p={n % 40}", rows(n, width=90))
            held = sum(file.held for file in made.files._files.values())
            assert held <= 0.06 * (1 << 20)
        made.files.publish_all()
        assert sorted(itertools.chain(*made.numbers())) == list(range(4_000))

    @pytest.mark.parametrize("sort_by", [(), ("n",)])
    def test_large_rows_begin_a_row_group(
        self, make: Any, monkeypatch: pytest.MonkeyPatch, sort_by: tuple[str, ...]
    ) -> None:
        monkeypatch.setattr(parquet, "_LARGE_BYTES", 1 << 20)
        monkeypatch.setattr(parquet, "_AT_ONCE_BYTES", 1 << 10)
        made = make(sort_by=sort_by)
        for number, width in enumerate([1 << 11, 1 << 20, 1 << 11, 1 << 21, 1 << 22]):
            made.files.add("", rows(number, width=width))
        made.files.publish_all()
        [file] = made.told
        metadata = pq.read_metadata(made.folder / file.path)
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert groups == [1, 2, 1, 1]
        assert made.numbers() == [[0, 1, 2, 3, 4]]

    def test_a_partition_that_takes_no_rows_makes_room_for_one_that_does(self, make: Any) -> None:
        made = make(row_group_mb=0.5, compression="none")
        for start in range(0, 10_000, 500):
            numbers = range(start, start + 500)
            made.files.add("old" if start < 3_000 else "new", rows(*numbers, width=90))
        made.files.publish_all()
        groups = {
            file.partition: pq.read_metadata(made.folder / file.path).num_row_groups
            for file in made.told
        }
        assert groups == {"old": 1, "new": 2}

    def test_a_few_late_rows_do_not_lie_in_memory_for_ever(self, make: Any) -> None:
        made = make(sort_by=("n",), row_group_mb=1)
        most = 0
        for start in range(0, 120_000, 400):
            made.files.add("new", rows(*range(start, start + 400), width=180))
            made.files.add("late", rows(*range(120_000 - start, 120_040 - start)))
            most = max(most, made.files._files["late"].held)
        made.files.publish_all()
        assert 0.05 * (1 << 20) < most < 0.1 * (1 << 20)
        assert sum(file.rows for file in made.told) == 300 * (400 + 40)

    def test_nothing_of_a_published_file_waits_for_the_garbage_collector(self, make: Any) -> None:
        made = make(max_file_rows=100)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for start in range(0, 1_000, 50):
                made.files.add("", rows(*range(start, start + 50)))
            gc.collect()
            left = {type(one).__name__ for one in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert len(made.told) == 10
        assert not left & {"_OpenFile", "ParquetFile", "PositionsBuilder"}

    def test_what_is_discarded_leaves_nothing(self, make: Any) -> None:
        made = make(row_group_mb=0.001)
        for _ in range(2):  # a row group is written with the next one at the latest
            made.files.add("", rows(*range(1_000)))
        assert list((made.folder / "_tmp").glob("*.tmp"))
        made.files.discard_all()
        assert not list((made.folder / "_tmp").glob("*.tmp"))
        assert made.told == []


class TestPublishedFile:
    def test_it_tells_what_the_file_is(self, make: Any) -> None:
        made = make()
        made.files.add("p=1", rows(1, 2), "a", range(7, 9), 3)
        made.files.add("p=1", rows(3), "b", None, 3)
        made.files.add("p=1", rows(4), "a", range(1, 2), 4)
        made.files.publish_all()
        [file] = made.told
        assert file == PublishedFile(
            table="t.ATable",
            path="t.ATable/p=1/a_table-w1-000001.parquet",
            url=str(made.folder / "t.ATable/p=1/a_table-w1-000001.parquet"),
            partition="p=1",
            rows=4,
            size=(made.folder / file.path).stat().st_size,
            positions={"a": (1, 8)},
            dead_letters=False,
        )
        assert made.segments == [{3: 3, 4: 1}]
        assert made.metrics.file_bytes == file.size


class TestRowGroups:
    def test_they_are_sorted_and_positions_go_with_the_rows(self, make: Any) -> None:
        made = make(sort_by=("kind", "n"), row_group_mb=1)
        made.files.add("", rows(5, 3, 1), "s", range(10, 13))
        made.files.add("", rows(2, 0, 4), "s", range(13, 16))
        made.files.publish_all()
        assert made.numbers() == [[0, 3, 1, 4, 2, 5]]
        footer = pq.read_metadata(made.told[0].url)
        assert runs(footer.metadata) == [
            Run("s", 14, 1),
            Run("s", 11, 2),
            Run("s", 15, 1),
            Run("s", 13, 1),
            Run("s", 10, 1),
        ]
        assert footer.row_group(0).sorting_columns[0].column_index == 2

    @pytest.mark.parametrize("batch", [1, 100, 999], ids="of {} rows".format)
    @pytest.mark.parametrize("late", [(), (400, 401, 7), (999,), tuple(range(0, 999, 9))])
    def test_rows_that_are_late_go_where_they_belong_and_so_do_positions(
        self, make: Any, late: tuple[int, ...], batch: int
    ) -> None:
        made = make(sort_by=("n",))
        given = [n for n in range(1_000) if n not in late] + list(late)
        for start in range(0, len(given), batch):
            source = f"s{start // batch % 2}"
            part = given[start : start + batch]
            numbered = source == "s0" or batch == 100
            positions = pa.array(part, pa.int64()) if numbered else None
            made.files.add("", rows(*part), source, positions)
        made.files.publish_all()
        assert made.numbers() == [list(range(1_000))]
        sources = {n: f"s{i // batch % 2}" for i, n in enumerate(given)}
        told = [
            (run.source, None if run.first is None else run.first + i)
            for run in runs(pq.read_metadata(made.told[0].url).metadata)
            for i in range(run.count)
        ]
        assert told == [
            (sources[n], n if sources[n] == "s0" or batch == 100 else None) for n in range(1_000)
        ]

    def test_batches_with_dictionaries_of_their_own_share_one_in_the_file(self, make: Any) -> None:
        made = make()
        for n in range(200):
            made.files.add("", rows(n))
        made.files.publish_all()
        assert made.numbers() == [list(range(200))]
        column = pq.read_metadata(made.told[0].url).row_group(0).column(2)
        assert column.has_dictionary_page
        assert set(column.encodings) & {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}

    @pytest.mark.parametrize("codec", ["zstd", "snappy", "gzip", "lz4", "brotli", "none"])
    def test_each_codec_reads_back(self, make: Any, codec: str) -> None:
        made = make(compression=codec)
        made.files.add("", rows(*range(100)))
        made.files.publish_all()
        assert made.numbers() == [list(range(100))]
        found = pq.read_metadata(made.told[0].url).row_group(0).column(1).compression
        assert found == ("UNCOMPRESSED" if codec == "none" else codec.upper())
