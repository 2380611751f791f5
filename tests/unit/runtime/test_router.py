"""Which folder a row goes to, and whether what readers make of the folder is the row's value."""

from __future__ import annotations

import datetime
import tracemalloc
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_runtime.config import ConfigError, WriterConfig
from cdp_runtime.partition import Column, Day, Hour, Partition, Range
from cdp_runtime.router import NULL, Router, column_of

MICROSECONDS = pa.timestamp("us", "UTC")


def split(
    column: pa.Array,
    partition: Partition | None = None,
    *,
    default: Sequence[str] = ("c",),
    **options: Any,
) -> dict[str, list[int]]:
    """The numbers of the rows that a router gives to each partition."""
    batch = pa.record_batch({"c": column, "row": pa.array(range(len(column)), pa.int64())})
    partitions = {} if partition is None else {"p": (partition,)}
    names = ("p",) if partition is not None else default
    router = Router(batch.schema, partitions, WriterConfig(**options), names)
    found: dict[str, list[int]] = {}
    for path, rows, places in router.split(batch):
        numbers = rows.column("row").to_pylist()
        kept = places if isinstance(places, pa.Array) else pa.array(range(len(column)))[places]
        assert kept.to_pylist() == numbers
        found.setdefault(path, []).extend(numbers)
    return found


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def archive(folder: Path, values: pa.Array) -> None:
    """Writes each row into the folder that the router gives it."""
    batch = pa.record_batch({"c": values, "row": pa.array(range(len(values)), pa.int64())})
    router = Router(batch.schema, {}, WriterConfig(), ("c",))
    for number, routed in enumerate(router.split(batch)):
        path = folder / routed.partition
        path.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_batches([routed.rows]), path / f"{number}.parquet")


def read_by_duckdb(folder: Path) -> list[Any]:
    """Column `c` in the order of the rows, as DuckDB takes it from the paths."""
    found = duckdb.sql(
        f"select c from read_parquet('{folder}/**/*.parquet', hive_partitioning = true,"
        " hive_types_autocast = false) order by row"
    )
    return [value for (value,) in found.fetchall()]


def read_by_pyarrow(folder: Path) -> list[Any]:
    """Column `c` in the order of the rows, as pyarrow takes it from the paths."""
    hive = ds.partitioning(pa.schema([("c", pa.string())]), flavor="hive")
    table = ds.dataset(folder, format="parquet", partitioning=hive).to_table()
    found: list[Any] = table.sort_by("row").column("c").to_pylist()
    return found


class TestSplit:
    def test_days_are_those_of_utc(self) -> None:
        times = [at("2024-04-21T23:59:59.999999"), at("2024-04-22T00:00:00")]
        assert split(pa.array(times, MICROSECONDS), Day("c")) == {
            "p=2024-04-21": [0],
            "p=2024-04-22": [1],
        }

    def test_days_before_1970_are_counted_downwards(self) -> None:
        times = [at("1969-12-31T23:59:59.999999"), at("1970-01-01"), at("0001-01-01")]
        assert split(pa.array(times, MICROSECONDS), Day("c")) == {
            "p=1969-12-31": [0],
            "p=1970-01-01": [1],
            "p=0001-01-01": [2],
        }

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    def test_every_unit_of_time_has_the_same_days_and_hours(self, unit: Any) -> None:
        column = pa.array([at("2024-04-21T20:15:00")], MICROSECONDS).cast(pa.timestamp(unit, "UTC"))
        assert list(split(column, Day("c"))) == ["p=2024-04-21"]
        assert list(split(column, Hour("c"))) == ["p=2024-04-21T20"]

    def test_a_date_has_a_day(self) -> None:
        column = pa.array([datetime.date(2024, 4, 21), None], pa.date32())
        assert split(column, Day("c")) == {"p=2024-04-21": [0], f"p={NULL}": [1]}

    def test_a_time_that_no_calendar_has_goes_where_nulls_go(self) -> None:
        column = pa.array([2**62, None, -(2**62)], pa.int64()).cast(MICROSECONDS)
        found = split(column, Day("c"))
        assert list(found) == [f"p={NULL}"]
        assert sorted(found[f"p={NULL}"]) == [0, 1, 2]

    def test_ranges_name_their_first_and_last_number(self) -> None:
        column = pa.array([0, 63_999, 64_000, -1, None], pa.int64())
        assert split(column, Range("c", 64_000)) == {
            "p=0-63999": [0, 1],
            "p=64000-127999": [2],
            "p=-64000--1": [3],
            f"p={NULL}": [4],
        }

    def test_ranges_reach_to_the_ends_of_each_type(self) -> None:
        wide = pa.array([0, 2**64 - 1], pa.uint64())
        assert set(split(wide, Range("c", 2**63))) == {
            f"p=0-{2**63 - 1}",
            f"p={2**63}-{2**64 - 1}",
        }
        low = pa.array([-(2**63), 2**63 - 1], pa.int64())
        assert set(split(low, Range("c", 2**62))) == {
            f"p={-(2**63)}-{-(2**62) - 1}",
            f"p={2**62}-{2**63 - 1}",
        }

    def test_ledgers_per_file_is_the_size_of_ranges(self) -> None:
        column = pa.array([5, 15], pa.uint32())
        found = split(column, Range("c", 64_000), ledgers_per_file=10)
        assert found == {"p=0-9": [0], "p=10-19": [1]}

    def test_late_rows_go_where_they_belong(self) -> None:
        days = [at("2024-04-22")] * 500
        days[200] = at("2024-04-21")
        found = split(pa.array(days, MICROSECONDS), Day("c"))
        assert found["p=2024-04-21"] == [200]
        assert found["p=2024-04-22"] == [*range(200), *range(201, 500)]

    def test_rows_of_many_partitions_in_no_order_keep_their_order_in_each(self) -> None:
        keys = [number * 7 % 10 for number in range(1_000)]
        found = split(pa.array(keys, pa.int64()))
        assert found == {
            f"c={key}": [n for n in range(1_000) if n * 7 % 10 == key] for key in range(10)
        }

    def test_a_batch_of_one_partition_is_given_as_it_is(self) -> None:
        batch = pa.record_batch({"c": ["a", "a"]})
        (routed,) = Router(batch.schema, {}, WriterConfig(), ("c",)).split(batch)
        assert routed.rows is batch

    def test_no_rows_have_no_partition(self) -> None:
        assert split(pa.array([], pa.string())) == {}

    def test_without_partitions_everything_is_in_one(self) -> None:
        assert split(pa.array(["a", "b"]), default=()) == {"": [0, 1]}

    def test_levels_are_folders_within_folders_in_the_order_asked_for(self) -> None:
        batch = pa.record_batch(
            {"kind": ["x", "y", "x"], "at": pa.array([at("2024-04-21")] * 3, MICROSECONDS)}
        )
        partitions: Mapping[str, Sequence[Partition]] = {"ledger_day": (Day("at"),)}
        config = WriterConfig(partition_by=("ledger_day", "kind"))
        found = Router(batch.schema, partitions, config, ()).split(batch)
        assert {one.partition for one in found} == {
            "ledger_day=2024-04-21/kind=x",
            "ledger_day=2024-04-21/kind=y",
        }

    def test_a_partition_of_several_levels_names_each_by_its_column(self) -> None:
        batch = pa.record_batch({"n": pa.array([3], pa.int64()), "kind": ["x"]})
        partitions = {"both": (Range("n", 10), Column("kind"))}
        (one,) = Router(batch.schema, partitions, WriterConfig(), ("both",)).split(batch)
        assert one.partition == "n_range=0-9/kind=x"

    def test_a_column_may_lie_in_a_struct_which_may_be_null(self) -> None:
        meta = pa.array([{"code": "x"}, None, {"code": None}], pa.struct([("code", pa.string())]))
        batch = pa.record_batch({"meta": meta})
        found = Router(batch.schema, {}, WriterConfig(), ("meta.code",)).split(batch)
        assert {one.partition: one.rows.num_rows for one in found} == {
            "meta_code=x": 1,
            f"meta_code={NULL}": 2,
        }

    @pytest.mark.parametrize(
        ("column", "expected"),
        [
            (pa.array([True, False]), ["true", "false"]),
            (pa.array([-5, 2**63 - 1], pa.int64()), ["-5", "9223372036854775807"]),
            (pa.array([Decimal("0E-10")], pa.decimal128(20, 10)), ["0.0000000000"]),
            (pa.array([b"\x00/\xff"]), ["002fff"]),
            (pa.array(["B", "A"]).dictionary_encode(), ["B", "A"]),
            (pa.array([1_500_000], pa.duration("us")), ["1500000"]),
            (pa.array([datetime.date(2024, 4, 21)]), ["2024-04-21"]),
            (pa.array([datetime.time(20, 15)], pa.time64("us")), ["20%3A15%3A00.000000"]),
        ],
        ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
    )
    def test_columns_of_every_type_of_single_values_have_a_text(
        self, column: pa.Array, expected: list[str]
    ) -> None:
        assert list(split(column)) == [f"c={text}" for text in expected]

    @pytest.mark.parametrize("rows_a_run", [1, 70], ids=["sorted", "cut"])
    @pytest.mark.parametrize("constant", [0, 7], ids=["outermost", "within"])
    def test_rows_are_where_they_belong_with_more_combinations_than_64_bits_can_count(
        self, rows_a_run: int, constant: int
    ) -> None:
        columns = [
            [f"{number * factor % 128}" for number in range(128) for _ in range(rows_a_run)]
            for factor in range(1, 41, 2)  # odd, so that each column has all of the 128 values
        ]
        columns.insert(constant, ["one"] * (128 * rows_a_run))
        batch = pa.record_batch({f"k{n}": column for n, column in enumerate(columns)})
        found = {}
        for path, rows, _ in Router(batch.schema, {}, WriterConfig(), batch.schema.names).split(
            batch
        ):
            found[path] = rows.to_pylist()
        assert found == {
            "/".join(f"{name}={value}" for name, value in row.items()): [row] * rows_a_run
            for row in batch.to_pylist()
        }

    @pytest.mark.parametrize("kind", [pa.string(), pa.binary()], ids=str)
    def test_long_values_are_not_kept(self, kind: pa.DataType) -> None:
        router = Router(pa.schema({"c": kind}), {}, WriterConfig(), ("c",))

        def split_one(number: int) -> None:
            value = f"{number}" + "x" * 1_000_000
            (one,) = router.split(pa.record_batch({"c": pa.array([value.encode()]).cast(kind)}))
            assert len(one.partition) == 255

        split_one(0)
        tracemalloc.start()
        try:
            for number in range(1, 10):
                split_one(number)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 1_000_000

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([None, "", "a", "b", "/"]), st.sampled_from([None, -65, 0, 1, 64])
            ),
            max_size=300,
        )
    )
    def test_each_row_is_in_the_partition_of_its_own_values_once(
        self, rows: list[tuple[str | None, int | None]]
    ) -> None:
        batch = pa.record_batch(
            {
                "s": pa.array([s for s, _ in rows], pa.string()),
                "n": pa.array([n for _, n in rows], pa.int64()),
                "row": pa.array(range(len(rows)), pa.int64()),
            }
        )
        router = Router(
            batch.schema, {"r": (Range("n", 64),)}, WriterConfig(partition_by=("s", "r")), ()
        )
        seen = {}
        for path, part, _ in router.split(batch):
            for row in part.column("row").to_pylist():
                assert row not in seen
                seen[row] = path
        texts = {None: NULL, "": NULL, "/": "%2F"}
        ranges = {None: NULL, -65: "-128--65", 0: "0-63", 1: "0-63", 64: "64-127"}
        assert seen == {
            row: f"s={texts.get(s, s)}/r={ranges[n]}" for row, (s, n) in enumerate(rows)
        }


HOSTILE = [
    *(
        "a/b",
        "../../etc/passwd",
        "..",
        ".",
        "/",
        "a\\b",
        "nul\0byte",
        "line\nbreak",
        "\x7f",
        "\x85",
    ),
    *("100%", "%2F", "a=b", "a b", " ", "a+b", "it's", '"', "{*}", "[a-z]?", "a:b", "~", "#?&"),
    *("null", "NULL", "true", "001", "1e5", "2024-04-21", "ü", "e\u0301", "中文", "\U0001f600"),
    *("\u202egpj", "x" * 253, "/" * 84, "ü" * 126, "_x", ".x", "-"),
]


class TestFolders:
    @pytest.mark.parametrize("value", HOSTILE, ids=ascii)
    def test_readers_of_hive_paths_get_the_value_back(self, tmp_path: Path, value: str) -> None:
        archive(tmp_path / "t", pa.array(["other", value]))
        assert read_by_duckdb(tmp_path / "t") == ["other", value]
        assert read_by_pyarrow(tmp_path / "t") == ["other", value]

    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
    def test_so_they_do_for_any_short_text(
        self, tmp_path_factory: pytest.TempPathFactory, value: str
    ) -> None:
        folder = tmp_path_factory.mktemp("any")
        archive(folder, pa.array(["other", value]))
        assert read_by_duckdb(folder) == ["other", value]
        assert read_by_pyarrow(folder) == ["other", value]

    def test_null_is_null(self, tmp_path: Path) -> None:
        archive(tmp_path, pa.array(["other", None]))
        assert read_by_duckdb(tmp_path) == ["other", None]
        assert read_by_pyarrow(tmp_path) == ["other", None]

    def test_an_empty_text_which_hive_cannot_write_is_in_the_file_still(
        self, tmp_path: Path
    ) -> None:
        archive(tmp_path, pa.array(["other", ""]))
        assert (tmp_path / f"c={NULL}").is_dir()
        read = duckdb.read_parquet(f"{tmp_path}/**/*.parquet", hive_partitioning=False)
        assert read.order("row").fetchall() == [("other", 0), ("", 1)]

    def test_the_word_for_null_is_no_null_to_duckdb(self, tmp_path: Path) -> None:
        archive(tmp_path, pa.array(["other", NULL]))
        assert read_by_duckdb(tmp_path) == ["other", NULL]

    def test_values_too_long_for_a_name_are_cut_told_apart_and_whole_in_the_files(
        self, tmp_path: Path
    ) -> None:
        values = ["é" * 300 + "1", "é" * 300 + "2", "%" * 300]
        archive(tmp_path, pa.array(values))
        folders = [path.name for path in tmp_path.iterdir()]
        assert len(folders) == 3
        assert max(len(name.encode()) for name in folders) <= 255
        read = duckdb.read_parquet(f"{tmp_path}/**/*.parquet", hive_partitioning=False)
        assert [value for value, _ in read.order("row").fetchall()] == values

    @pytest.mark.parametrize("levels", [1, 2, 3])
    def test_of_up_to_three_levels_a_name_has_all_that_a_disk_allows(self, levels: int) -> None:
        value = "x" * (255 - len("level_0="))
        batch = pa.record_batch({f"level_{n}": [value] for n in range(levels)})
        (one,) = Router(batch.schema, {}, WriterConfig(), batch.schema.names).split(batch)
        assert one.partition == "/".join(f"level_{n}={value}" for n in range(levels))

    @pytest.mark.parametrize("levels", range(1, 18))
    def test_a_path_of_any_values_leaves_room_in_the_key_of_an_object(self, levels: int) -> None:
        long = [char * 1_000 for char in ("x", "é", "/", "\U0001f600")]
        values = [None, "x", NULL, *long, *(f"{value}1" for value in long)]
        names = [f"level_{n}" for n in range(levels)]
        batch = pa.record_batch(
            {name: values[n % 11 :] + values[: n % 11] for n, name in enumerate(names)}
        )
        paths = {
            one.partition for one in Router(batch.schema, {}, WriterConfig(), names).split(batch)
        }
        assert len(paths) == len(values)
        for path in paths:
            assert len(path.encode()) < 768
            folders = path.split("/")
            assert max(len(folder.encode()) for folder in folders) <= 255
            assert [folder.partition("=")[0] for folder in folders] == names

    def test_nothing_leaves_the_archive(self, tmp_path: Path) -> None:
        archive(tmp_path / "t", pa.array(HOSTILE))
        assert [path.name for path in tmp_path.iterdir()] == ["t"]
        for folder in (tmp_path / "t").iterdir():
            assert all(path.suffix == ".parquet" for path in folder.iterdir())


class TestRouter:
    schema = pa.schema(
        {
            "day": MICROSECONDS,
            "text": pa.string(),
            "tags": pa.list_(pa.string()),
            "rate": pa.float64(),
            "_raw": pa.binary(),
        }
    )

    def refusal(self, partition: Partition | None, name: str = "p", **options: Any) -> str:
        partitions = {} if partition is None else {"p": (partition,)}
        with pytest.raises(ConfigError) as raised:
            Router(self.schema, partitions, WriterConfig(partition_by=name, **options), ())
        return str(raised.value)

    @pytest.mark.parametrize("name", ["dya", "_raw"])
    def test_an_unknown_name_is_told_with_the_names_there_are(self, name: str) -> None:
        message = self.refusal(Day("day"), name)
        assert message == (
            f"partition_by: {name!r} is not allowed: this table has the partitions p and the columns "
            "day, text"
        )

    def test_a_column_of_another_type_is_told_with_its_type(self) -> None:
        assert self.refusal(Day("text")) == (
            "partition_by: p needs a column of timestamps; text is string"
        )
        assert self.refusal(Hour("text")) == (
            "partition_by: p needs a column of timestamps; text is string"
        )
        assert self.refusal(Range("text", 5)) == (
            "partition_by: p needs a column of integers; text is string"
        )
        for name, kind in (("tags", "list"), ("rate", "double")):
            wanted = f"needs a column that is neither nested nor a float; {name} is {kind}"
            assert wanted in self.refusal(None, name)

    def test_names_that_leave_a_path_no_room_for_values_are_told(self) -> None:
        long = "x" * 230
        with pytest.raises(ConfigError) as raised:
            Router(pa.schema({long: pa.string()}), {}, WriterConfig(), (long,))
        assert str(raised.value) == (
            f"partition_by: {long} is not allowed: {long} and a value do not fit into the 255 bytes "
            "that the names of these folders may have"
        )
        names = [f"the_name_of_level_{n:02}" for n in range(17)]
        with pytest.raises(
            ConfigError, match="the_name_of_level_00 and a value do not fit into the 44"
        ):
            Router(pa.schema([(name, pa.string()) for name in names]), {}, WriterConfig(), names)

    def test_a_partition_by_no_column_is_told(self) -> None:
        assert "'gone', which is no column of the table" in self.refusal(Day("gone"))

    def test_ledgers_per_file_without_a_range_is_told(self) -> None:
        message = self.refusal(Day("day"), ledgers_per_file=100)
        assert message.startswith("ledgers_per_file: 100 is not allowed: only a partition by range")

    def test_the_same_partition_twice_is_told(self) -> None:
        assert self.refusal(Day("day"), "p,p") == (
            "partition_by: p, p is not allowed: two levels are named p"
        )


class TestColumnOf:
    def test_a_name_with_dots_in_the_schema_comes_before_a_path(self) -> None:
        batch = pa.record_batch(
            {"a.b": [1], "a": pa.array([{"b": 2}], pa.struct([("b", pa.int64())]))}
        )
        assert column_of(batch, "a.b").to_pylist() == [1]

    def test_a_path_leads_into_structs_and_is_null_where_one_is(self) -> None:
        batch = pa.record_batch({"a": pa.array([{"b": 2}, None], pa.struct([("b", pa.int64())]))})
        assert column_of(batch, "a.b").to_pylist() == [2, None]
