"""What it costs to begin: imports, converters, the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.timing import OURS, race
from tests.built import Table

ROUNDS = 9


def child(folder: Path, code: str) -> Callable[[], None]:
    """Runs code in a Python of its own, which finds modules in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}

    def run() -> None:
        command = [sys.executable, "-c", code]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    return run


def test_import_of_a_generated_module(benchmark: Any, stellar_folder: Path) -> None:
    contenders = {
        OURS: child(
            stellar_folder, "import pyarrow, stellar_generated.stellar.v1.contract_data_writer"
        ),
        "bare": child(stellar_folder, "import pyarrow"),
    }
    race(
        benchmark,
        contenders,
        rounds=ROUNDS,
        table="startup",
        what="importing a generated module, over `import pyarrow`",
        most=0.020,
    )


def test_help(benchmark: Any, stellar_folder: Path) -> None:
    code = "import sys; sys.argv = ['cdpgen', '--help']; from cdpgen.cli import main; main()"
    contenders = {OURS: child(stellar_folder, code), "bare": child(stellar_folder, "pass")}
    race(
        benchmark,
        contenders,
        rounds=ROUNDS,
        table="startup",
        what="`cdpgen --help`, over `python -c pass`",
        most=0.250,
    )


def test_converter(benchmark: Any, shapes: dict[str, Table]) -> None:
    table = shapes["Sparse"]
    assert len(table.converter.schema) > 100
    race(
        benchmark,
        {OURS: table.converter, "bare": lambda: None},
        rounds=ROUNDS,
        table="startup",
        what="making a converter of 100 columns",
        most=0.010,
    )
