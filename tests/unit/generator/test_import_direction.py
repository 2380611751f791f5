"""Who imports whom: the runtime knows nothing of the generator, and a generated module is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GENERATED = sorted((ROOT / "generated").rglob("*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "runtime").rglob("*.py")), ids=str)
def test_the_runtime_never_imports_the_generator(path: Path) -> None:
    assert "cdpgen" not in tops(path)


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_generated_modules_import_the_runtime_and_each_other_only(path: Path) -> None:
    allowed = {"__future__", "typing", "pyarrow", "cdp_runtime", ""}
    if path.stem.endswith("_pb2"):
        allowed = {"google", ""}
    assert tops(path) <= allowed


def test_a_generated_writer_loads_neither_protobuf_nor_what_writing_needs() -> None:
    code = (
        "import sys, pyarrow\n"
        "before = set(sys.modules)\n"
        "import generated.stellar.v1.contract_data_writer\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"google", "fsspec", "pydantic", "structlog", "tenacity", "yaml", "cdpgen"}
    assert "cdp_runtime" in done.stdout.split()
    assert not heavy & set(done.stdout.split())


def test_the_command_line_loads_the_generator_only_to_build() -> None:
    code = (
        "import sys\n"
        "import cdpgen.cli\n"
        "print(*sorted({name for name in sys.modules if name.startswith(('cdp', 'pyarrow'))}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cdpgen", "cdpgen.cli", "cdpgen.errors"]


def tops(path: Path) -> set[str]:
    """The top-level packages that a module imports; empty for a relative one."""
    return set(imported(ast.parse(path.read_text("utf-8"))))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "" if node.level else (node.module or "").partition(".")[0]
