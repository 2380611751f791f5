"""Spark reads what is partitioned by hostile values, and runs what `cdpgen sql` prints for it."""

from __future__ import annotations

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter
from tests.unit.runtime.test_router import HOSTILE
from tests.unit.test_sql import EVERYTHING, EVERYTHING_RULES, FULL, Shop

READS = """
import os, pickle, sys
from pyspark.sql import SparkSession
options = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.log.level": "ERROR",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.warehouse.dir": "warehouse",
    "spark.sql.files.openCostInBytes": "1",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
}
builder = SparkSession.builder.master("local[1]")
for key, value in options.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
if sys.argv[1].endswith(".sql"):
    for statement in open(sys.argv[1]).read().split(";\\n"):
        if statement.strip():
            spark.sql(statement)
    rows = spark.sql(sys.argv[2])
else:
    rows = spark.read.parquet(sys.argv[1]).select("id", "contract_id")
with open(sys.argv[3], "wb") as file:
    pickle.dump([row.asDict(recursive=True) for row in rows.collect()], file)
sys.stdout.flush()
os._exit(0)  # without the seconds that Spark takes to end
"""


pytestmark = [
    pytest.mark.skipif(
        shutil.which("java") is None or importlib.util.find_spec("pyspark") is None,
        reason="needs Java 17 and pyspark, 450 MB: `make engines`",
    ),
    pytest.mark.timeout(120),
]


def read(folder: Path, what: Path, query: str = "") -> list[dict[str, Any]]:
    """The rows of a table's folder, or of a query once statements have run."""
    answer = folder / "rows.pickle"
    ended = subprocess.run(
        [sys.executable, "-c", READS, str(what), query, str(answer)],
        cwd=folder,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "TZ": "UTC"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2_000:]
    rows: list[dict[str, Any]] = pickle.loads(answer.read_bytes())
    return rows


def test_it_gets_every_partition_value_back(tmp_path: Path) -> None:
    values = [value for value in HOSTILE if len(value) < 80]
    values += [
        "x" * 243,
        "/" * 81,
        "ü" * 121,
    ]  # with `contract_id=` all that a name on disk can hold
    values += ["__HIVE_DEFAULT_PARTITION__", "\U0010ffff", "x" * 244, ""]
    with EventWriter(tmp_path / "archive", partition_by="contract_id") as writer:
        for number, value in enumerate(values):
            writer.write(Event(id=str(number), contract_id=value).SerializeToString())
    rows = read(tmp_path, tmp_path / "archive" / EventWriter.table)
    found = {row["id"]: row["contract_id"] for row in rows}
    cut, empty = found.pop(str(len(values) - 2)), found.pop(str(len(values) - 1))
    assert found == {str(number): value for number, value in enumerate(values[:-2])}
    # what folders cannot say; the files have both whole
    assert cut.startswith("x" * 200)
    assert empty is None


def test_every_type_has_the_value_that_pyarrow_reads(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.build(EVERYTHING, EVERYTHING_RULES)
    shop.archive("shop.v1.Everything", FULL, {})
    statements = tmp_path / "spark.sql"
    statements.write_text(shop.cdpgen("sql", "archive", "--dialect", "spark"))
    found = read(tmp_path, statements, "select * from shop_v1.everything order by small")
    files = ds.dataset(tmp_path / "archive/shop.v1.Everything", partitioning=None)
    table = files.to_table().sort_by("small").drop_columns(["exactly_at", "digits"])
    table = table.set_column(
        table.schema.get_field_index("took"), "took", table["took"].cast(pa.int64())
    )
    expected = table.to_pylist(maps_as_pydicts="strict")
    expected[0]["placed_at_day"], expected[1]["placed_at_day"] = date(2026, 1, 30), None
    expected[1]["select"] = None  # Hive has no way to write an empty value
    for row in expected:
        for name in ("placed_at", "seen_at"):
            row[name] = row[name] and row[name].replace(tzinfo=None)
    assert found == expected
