"""The whole runtime, from a file of protobuf to Parquet on disk, beside what does the same or less."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import grpc_tools
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.proto import serialize_length_prefixed

from cdp_runtime.archive import load_tables
from cdp_runtime.config import SourceConfig
from cdp_runtime.converter import Converter
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.parquet_file import Compressor
from cdp_runtime.router import Router
from cdp_runtime.sources import Never, inputs_of, read_inputs
from cdpgen.demo_data import contract_data, events
from tests.benchmarks.test_parquet import flat
from tests.benchmarks.timing import OURS, race

ROWS = 1_000_000
ROUNDS = 3
MEMORY_MESSAGES = int(os.environ.get("CDPGEN_BENCH_MESSAGES", "10000000"))
"""The target of issue 5 is about 100,000,000, which takes minutes: set it by hand."""

ROOT = Path(__file__).parents[2]


SHAPES = pytest.mark.parametrize(
    ("title", "of"),
    [("contract data (flat, strings)", flat), ("contract data with XDR and JSON", dict)],
    ids=["flat", "with XDR"],
)


def write_stream(path: Path, message_type: Any, rows: Iterator[dict[str, Any]]) -> list[bytes]:
    payloads = []
    with path.open("wb") as file:
        for fields in rows:
            message = message_type(**fields)
            payloads.append(message.SerializeToString())
            serialize_length_prefixed(message, file)
    return payloads


def hand_written(payloads: list[bytes], message_type: Any, path: Path) -> None:
    """What a consumer does that somebody writes for one table: parse, dictionaries, a table, a file."""
    names = [field.name for field in message_type.DESCRIPTOR.fields]
    rows = []
    for payload in payloads:
        message = message_type.FromString(payload)
        row = {name: getattr(message, name) for name in names}
        row["closed_at"] = message.closed_at.ToDatetime()
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


@SHAPES
def test_runtime(
    benchmark: Any,
    stellar_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    title: str,
    of: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    writer_type = load_tables(stellar_folder / "stellar_generated")["stellar.v1.ContractData"]
    message_type = writer_type.message_type()
    stream = tmp_path / "stream.pb"
    payloads = write_stream(stream, message_type, map(of, contract_data(ROWS, seed=1)))
    ready = pa.Table.from_batches([writer_type.converter().to_arrow(payloads)])
    inputs = inputs_of([SourceConfig(path=str(stream))])
    archive = tmp_path / "archive"

    def with_the_runtime(**options: Any) -> None:
        with writer_type(archive, **options) as writer:
            for item in read_inputs(inputs, writer_type.message_type, Never()):
                assert not isinstance(item, DeadLetter)
                writer.write_many(item.payloads, source=item.source, positions=item.positions)
        shutil.rmtree(archive)

    contenders: dict[str, Callable[[], object]] = {
        OURS: with_the_runtime,
        "journal": lambda: with_the_runtime(journal=tmp_path / "journal"),
        "write_table alone": lambda: pq.write_table(
            ready, tmp_path / "ready.parquet", compression="zstd"
        ),
        "write_table at our level": lambda: pq.write_table(
            ready, tmp_path / "ready.parquet", compression="zstd", compression_level=3
        ),
        "by hand": lambda: hand_written(payloads, message_type, tmp_path / "by hand.parquet"),
    }
    with contextlib.suppress(ImportError):
        import chdb

        # it looks for the schema below the working directory
        for schemas in (ROOT / "schemas", Path(grpc_tools.__file__).parent / "_proto"):
            shutil.copytree(schemas, tmp_path / "protos", dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path / "protos")
        contenders["chdb"] = lambda: chdb.query(
            f"insert into function file('{tmp_path}/chdb.parquet', Parquet) "
            f"select * from file('{stream}', Protobuf) settings max_threads = 2, "
            "format_schema = 'stellar/v1/contract_data.proto:ContractData', "
            "engine_file_truncate_on_insert = 1, output_format_parquet_compression_method = 'zstd'"
        )
    race(
        benchmark,
        contenders,
        rounds=ROUNDS,
        table="runtime",
        shape=title,
        rows=len(payloads),
        size=sum(map(len, payloads)),
    )


@SHAPES
def test_where_the_time_goes(
    benchmark: Any,
    stellar_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    title: str,
    of: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    writer_type = load_tables(stellar_folder / "stellar_generated")["stellar.v1.ContractData"]
    stream = tmp_path / "stream.pb"
    write_stream(stream, writer_type.message_type(), map(of, contract_data(ROWS, seed=1)))
    inputs = inputs_of([SourceConfig(path=str(stream))])
    spent: Counter[str] = Counter()

    def watch(owner: Any, name: str, step: str) -> None:
        """Adds what the calls of a function take of their thread's processor time to a step."""
        inner = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return inner(*given, **named)
            finally:
                spent[step] += time.thread_time() - began

        monkeypatch.setattr(owner, name, watched)

    def run() -> None:
        spent.clear()
        all_began, began = time.process_time(), time.thread_time()
        with writer_type(tmp_path / "archive") as writer:
            for item in read_inputs(inputs, writer_type.message_type, Never()):
                assert not isinstance(item, DeadLetter)
                writer.write_many(item.payloads, source=item.source, positions=item.positions)
        spent["read, split"] = time.thread_time() - began
        spent["all"] = time.process_time() - all_began
        shutil.rmtree(tmp_path / "archive")

    watch(Converter, "decode", "decode")
    watch(Router, "split", "route by partition")
    watch(Compressor, "compress", "compress")
    run()
    benchmark.pedantic(run, rounds=1)
    rest = spent.pop("all")
    steps = {step: spent[step] for step in ("read, split", "decode", "route by partition")}
    # columns are encoded by threads that Python does not know
    steps["encode (levels, dictionaries, pages), sort, positions, file"] = rest - spent.total()
    steps["compress"] = spent["compress"]
    assert all(seconds >= 0 for seconds in steps.values())
    benchmark.extra_info.update(table="profile", shape=title, steps=steps)


@pytest.mark.parametrize(
    ("table", "of"), [("ContractData", contract_data), ("Event", events)], ids=["data", "events"]
)
def test_size(benchmark: Any, stellar_folder: Path, tmp_path: Path, table: str, of: Any) -> None:
    writer_type = load_tables(stellar_folder / "stellar_generated")[f"stellar.v1.{table}"]
    message_type = writer_type.message_type()
    messages = [message_type(**fields) for fields in of(ROWS, 1)]
    payloads = [message.SerializeToString() for message in messages]
    json_bytes = sum(
        len(json.dumps(_record(message), separators=(",", ":"))) + 1 for message in messages[::20]
    )
    ready = pa.Table.from_batches([writer_type.converter().to_arrow(payloads)])

    def write() -> None:
        with writer_type(tmp_path / "archive") as writer:
            writer.write_many(payloads)

    benchmark.pedantic(write, rounds=1)
    sizes = {OURS: sum(p.stat().st_size for p in (tmp_path / "archive").rglob("*.parquet"))}
    plain = tmp_path / "pyarrow.parquet"
    pq.write_table(ready, plain, compression="zstd")
    sizes["pyarrow"] = plain.stat().st_size
    duckdb.sql(f"copy ready to '{tmp_path}/duckdb.parquet' (format parquet, compression zstd)")
    sizes["DuckDB"] = (tmp_path / "duckdb.parquet").stat().st_size
    with contextlib.suppress(ImportError):
        import chdb

        chdb.query(
            f"insert into function file('{tmp_path}/chdb.parquet', Parquet) "
            f"select * from file('{plain}', Parquet) "
            "settings output_format_parquet_compression_method = 'zstd'"
        )
        sizes["chdb"] = (tmp_path / "chdb.parquet").stat().st_size
    benchmark.extra_info.update(
        table="size",
        shape=f"stellar.v1.{table}",
        rows=ROWS,
        json=json_bytes * 20,
        protobuf=sum(map(len, payloads)),
        sizes=sizes,
    )


def _record(message: Any) -> dict[str, Any]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


@pytest.mark.timeout(300 + MEMORY_MESSAGES // 100_000)
def test_memory(benchmark: Any, stellar_folder: Path, tmp_path: Path) -> None:
    """Peak memory of a process that writes for long, and whether it grows."""
    writer_type = load_tables(stellar_folder / "stellar_generated")["stellar.v1.ContractData"]
    stream = tmp_path / "stream.pb"
    write_stream(stream, writer_type.message_type(), contract_data(100_000, seed=1))
    command = [
        *(sys.executable, "-m", "tests.benchmarks.memory"),
        *(str(stellar_folder / "stellar_generated"), str(stream), str(tmp_path / "archive")),
        str(MEMORY_MESSAGES),
    ]
    found: dict[str, Any] = {}

    def run() -> None:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found.update(json.loads(ran.stdout))

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(table="memory", **found)
