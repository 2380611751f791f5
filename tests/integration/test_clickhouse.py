"""ClickHouse runs what `cdpgen sql` prints for it, and reads what pyarrow does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from tests.unit.test_sql import EVERYTHING, EVERYTHING_RULES, FULL, Shop

READS = """
import sys
from pathlib import Path
from chdb.session import Session
session = Session()
for statement in Path(sys.argv[1]).read_text().split(";\\n"):
    if statement.strip():
        session.query(statement)
for query, answer in zip(sys.argv[2::2], sys.argv[3::2]):
    Path(answer).write_bytes(session.query(query, "Arrow").bytes())
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def read(shop: Shop, *queries: str) -> list[pa.Table]:
    """What ClickHouse answers; in a process of its own, which it leaves by itself."""
    statements = shop.folder / "clickhouse.sql"
    statements.write_text(shop.cdpgen("sql", "archive", "--dialect", "clickhouse"))
    answers = [shop.folder / f"answer-{number}.arrow" for number, _ in enumerate(queries)]
    asked = [str(one) for pair in zip(queries, answers, strict=True) for one in pair]
    ended = subprocess.run(
        [sys.executable, "-c", READS, str(statements), *asked],
        cwd=shop.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2_000:]
    return [pa.ipc.open_file(answer).read_all() for answer in answers]


@pytest.mark.skipif(
    importlib.util.find_spec("chdb") is None,
    reason="needs chdb, which is ClickHouse, 540 MB: `make engines`",
)
class TestClickhouse:
    def test_every_type_has_the_value_that_pyarrow_reads(self, shop: Shop) -> None:
        shop.build(EVERYTHING, EVERYTHING_RULES)
        shop.archive("shop.v1.Everything", FULL, {})
        files = ds.dataset(shop.folder / "archive/shop.v1.Everything", partitioning=None)
        expected = files.to_table().sort_by("small")
        [found] = read(shop, "select * from shop_v1.everything order by small")
        assert found.column_names == [*expected.column_names, "placed_at_day"]
        assert found["placed_at_day"].to_pylist() == [date(2026, 1, 30), None]
        # ClickHouse has neither a message that is null, nor durations, nor bytes apart from texts.
        nothing = {"sku": "", "quantity": None, "was": []}
        assert expected["line"].to_pylist()[1] is None
        assert found["line"].to_pylist()[1] == nothing
        assert found["line"].to_pylist()[0] == expected["line"].to_pylist()[0]
        for name in expected.column_names:
            kind = expected[name].type
            if name == "line":
                continue
            if pa.types.is_fixed_size_binary(kind):
                kind = pa.binary()
            elif pa.types.is_duration(kind) or name == "exactly_at":
                kind = pa.int64()
            values = found[name].cast(kind) if not pa.types.is_nested(kind) else found[name]
            assert values.to_pylist() == expected[name].cast(kind).to_pylist(), name

    def test_values_of_folders_are_those_of_the_columns(self, shop: Shop) -> None:
        shop.build(
            'syntax = "proto3"; package shop; message Sale { Buyer buyer = 1; string city = 2; }'
            " message Buyer { string name = 1; }",
            "version: 1\ntables: {shop.Sale: {partition_by: [buyer.name, city]}}",
        )
        names = ["it's/a=b", "100%", "ü", "__HIVE_DEFAULT_PARTITION__", "2024-1-1"]
        shop.archive("shop.Sale", *({"buyer": {"name": name}, "city": name} for name in names))
        query = "select buyer_name, buyer.name as name, city from shop.sale order by name"
        [found] = read(shop, query)
        assert found.to_pylist() == [
            {"buyer_name": name, "name": name, "city": name} for name in sorted(names)
        ]
        assert shop.rows(query) == found.to_pylist()

    def test_older_files_have_null_or_zero_for_what_is_new(self, shop: Shop) -> None:
        shop.build('syntax = "proto3"; package shop; message Order { int32 number = 1; }')
        shop.archive("shop.Order", {"number": -1})
        shop.build(
            'syntax = "proto3"; package shop; message Order { int64 number = 1; string buyer = 2;'
            " optional bool gift = 3; repeated string skus = 4; }"
        )
        row = {"number": 1 << 40, "buyer": "Bo", "gift": True, "skus": ["tea"]}
        shop.archive("shop.Order", row)
        [found] = read(shop, "select * except _raw from shop.order order by number")
        older = {"number": -1, "buyer": "", "gift": None, "skus": []}
        assert found.to_pylist() == [older, row]
