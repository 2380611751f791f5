"""What `make bench` measures, and the tables at its end.

Benchmarks run with `--benchmark-only` and are not collected without: `make test` has no peers.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.table import tables
from tests.built import Table, build_tables

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves the benchmarks out of every run that is not for them."""
    asked = config.getoption("benchmark_only", default=False)
    return None if asked or collection_path.suffix != ".py" else True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints the tables."""
    session = getattr(config, "_benchmarksession", None)
    results = [each.extra_info for each in session.benchmarks] if session else []
    if results:
        terminalreporter.section("cdpgen and its peers")
        terminalreporter.write_line(tables(results))


def built(schemas: Path, folder: Path, name: str) -> dict[str, Table]:
    """The tables of a folder of schemas, which stays as it is."""
    shutil.copytree(schemas, folder / "schemas")
    return build_tables(folder / "schemas", folder / name)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """The tables of the shapes, by message."""
    made = built(SCHEMAS, tmp_path_factory.mktemp("shapes"), "bench_generated")
    return {name.rpartition(".")[2]: table for name, table in made.items()}


@pytest.fixture(scope="session")
def stellar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project's own schemas, built into `stellar_generated`."""
    folder = tmp_path_factory.mktemp("stellar")
    built(ROOT / "schemas", folder, "stellar_generated")
    return folder
