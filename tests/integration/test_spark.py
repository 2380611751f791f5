"""Spark reads what is partitioned by hostile values, and gets the values back."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter
from tests.unit.runtime.test_router import HOSTILE

READS = """
import json, os, sys
from pyspark.sql import SparkSession
options = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.log.level": "ERROR",
    "spark.sql.files.openCostInBytes": "1",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
}
builder = SparkSession.builder.master("local[1]")
for key, value in options.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
rows = spark.read.parquet(sys.argv[1]).select("id", "contract_id").collect()
json.dump({row["id"]: row["contract_id"] for row in rows}, open(sys.argv[2], "w"))
sys.stdout.flush()
os._exit(0)  # without the seconds that Spark takes to end
"""


@pytest.mark.skipif(
    shutil.which("java") is None or importlib.util.find_spec("pyspark") is None,
    reason="needs Java 17 and pyspark: pip install 'cdpgen[spark]', 450 MB",
)
@pytest.mark.timeout(120)
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
    folder, answer = tmp_path / "archive" / EventWriter.table, tmp_path / "rows.json"
    ended = subprocess.run(
        [sys.executable, "-c", READS, str(folder), str(answer)],
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2_000:]
    read = json.loads(answer.read_text())
    cut, empty = read.pop(str(len(values) - 2)), read.pop(str(len(values) - 1))
    assert read == {str(number): value for number, value in enumerate(values[:-2])}
    # what folders cannot say; the files have both whole
    assert cut.startswith("x" * 200)
    assert empty is None
