"""Bytes to zstd Parquet, beside how it is done without a generator: the ratio of issue 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.json_format import MessageToDict

from cdp_runtime.archive import load_tables
from cdpgen.demo_data import contract_data
from tests.benchmarks.timing import OURS, race

ROWS = 20_000
ROUNDS = 7


def flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what newer ledgers have besides: keys and values as XDR and as JSON."""
    newer = ("key", "key_decoded", "val", "val_decoded", "contract_data_xdr")
    return {name: value for name, value in fields.items() if name not in newer}


@pytest.mark.parametrize(
    ("title", "of"),
    [("contract data (flat, strings)", flat), ("contract data with XDR and JSON", dict)],
    ids=["flat", "with XDR"],
)
def test_bytes_to_parquet(
    benchmark: Any,
    stellar_folder: Path,
    tmp_path: Path,
    title: str,
    of: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    writer_type = load_tables(stellar_folder / "stellar_generated")["stellar.v1.ContractData"]
    message_type = writer_type.message_type()
    payloads = [
        message_type(**of(fields)).SerializeToString() for fields in contract_data(ROWS, seed=1)
    ]
    converter = writer_type.converter()
    ready = pa.Table.from_batches([converter.to_arrow(payloads)])

    def write(table: pa.Table) -> None:
        pq.write_table(table, pa.BufferOutputStream(), compression="zstd")

    def as_dictionaries() -> None:
        parsed = (message_type.FromString(payload) for payload in payloads)
        rows = [MessageToDict(message, preserving_proto_field_name=True) for message in parsed]
        write(pa.Table.from_pylist(rows))

    def with_the_writer() -> None:
        with writer_type(tmp_path / "archive", partition_by=[]) as writer:
            writer.write_many(payloads)
        shutil.rmtree(tmp_path / "archive")

    race(
        benchmark,
        {
            OURS: lambda: write(pa.Table.from_batches([converter.to_arrow(payloads)])),
            "writer": with_the_writer,
            "write_table alone": lambda: write(ready),
            "MessageToDict": as_dictionaries,
        },
        rounds=ROUNDS,
        table="parquet",
        shape=title,
        rows=len(payloads),
        size=sum(map(len, payloads)),
    )
