"""`cdpgen archive` as a process of its own: messages a second and the most memory it held."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from google.protobuf.proto import serialize_length_prefixed

from cdp_runtime.archive import load_tables
from cdpgen.demo_data import contract_data

MESSAGES = 400_000
ROUNDS = 3


def test_archive(benchmark: Any, stellar_folder: Path, tmp_path: Path) -> None:
    table = "stellar.v1.ContractData"
    message_type = load_tables(stellar_folder / "stellar_generated")[table].message_type()
    stream = tmp_path / "contract_data.pb"
    with stream.open("wb") as file:
        for fields in contract_data(MESSAGES, seed=1):
            serialize_length_prefixed(message_type(**fields), file)
    command = [
        *(sys.executable, "-c", "from cdpgen.cli import main; main()", "archive"),
        *("--table", table, "--from", str(stream), "--to", str(tmp_path / "archive")),
        *("--generated", str(stellar_folder / "stellar_generated")),
    ]
    peaks = []

    def archive() -> None:
        shutil.rmtree(tmp_path / "archive", ignore_errors=True)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))

    benchmark.pedantic(archive, rounds=ROUNDS)
    files = sum(path.stat().st_size for path in (tmp_path / "archive").rglob("*.parquet"))
    benchmark.extra_info.update(
        table="archive",
        rows=MESSAGES,
        size=stream.stat().st_size,
        written=files,
        seconds=benchmark.stats.stats.median,
        peak=statistics.median(peaks),
    )
