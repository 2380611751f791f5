"""What a build costs, the start of the process with it: of everything, and where nothing has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.timing import OURS, race

FILES, MESSAGES, FIELDS = 20, 10, 20
SHAPE = f"{FILES * MESSAGES} messages of {FILES * MESSAGES * FIELDS:,} fields"


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    """200 messages with 4,000 fields of all kinds."""
    folder = tmp_path / "schemas"
    folder.mkdir()
    kinds = ("string", "int64", "repeated int32", "optional double", "map<string, Part>", "Part")
    fields = "".join(
        f"  // What {i} is.\n  {kinds[i % len(kinds)]} field_{i} = {i};\n"
        for i in range(1, FIELDS + 1)
    )
    part = "message Part { string name = 1; bytes id = 2; }\n"
    for file in range(FILES):
        messages = "".join(f"message M{i} {{\n{fields}}}\n" for i in range(MESSAGES))
        text = f'syntax = "proto3";\npackage f{file};\n{part}{messages}'
        (folder / f"f{file}.proto").write_text(text, encoding="utf-8")
    return folder


def build(schemas: Path) -> None:
    command = [sys.executable, "-m", "cdpgen", "build", "schemas"]
    # Compiled, as pip leaves what it installs, also where the environment forbids to keep it.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(schemas.parent / "compiled")
    subprocess.run(
        command, check=True, cwd=schemas.parent, stdout=subprocess.DEVNULL, env=environment
    )


def test_build(benchmark: Any, schemas: Path) -> None:
    def anew() -> None:
        (schemas / "cdpgen.lock").unlink(missing_ok=True)
        shutil.rmtree(schemas.parent / "generated", ignore_errors=True)
        build(schemas)

    race(
        benchmark,
        {OURS: anew, "bare": lambda: None},
        rounds=5,
        table="startup",
        what=f"`cdpgen build` of {SHAPE}",
        most=5.0,
    )
    assert len(list((schemas.parent / "generated").rglob("*_writer.py"))) == FILES


def test_build_of_nothing_new(benchmark: Any, schemas: Path) -> None:
    build(schemas)
    before = (schemas / "cdpgen.lock").stat().st_mtime_ns
    race(
        benchmark,
        {OURS: lambda: build(schemas), "bare": lambda: None},
        rounds=5,
        table="startup",
        what=f"`cdpgen build` of {SHAPE}, nothing changed",
        most=1.0,
    )
    assert (schemas / "cdpgen.lock").stat().st_mtime_ns == before
