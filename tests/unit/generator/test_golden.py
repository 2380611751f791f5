"""What the generator makes of a folder: `testdata/<case>/schemas` in, `testdata/<case>/expected`
out.

A case is added by adding a folder, with `schemas/` in it, and running
`pytest tests/unit/generator --update`; `expected/error.txt` holds what a user would read instead.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from cdpgen.build import build
from cdpgen.errors import UsageError

TESTDATA = Path(__file__).parent / "testdata"
CASES = sorted(path.parent.name for path in TESTDATA.glob("*/schemas"))
SHIELD = "\n# fmt: off\n# ruff: noqa\n"
GOOD = [case for case in CASES if not case.startswith("error_")]


@pytest.mark.parametrize("case", CASES)
def test_a_build_makes_what_is_expected(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: bool
) -> None:
    made = make(case, tmp_path, monkeypatch)
    assert (list(made) == ["error.txt"]) == case.startswith("error_"), made.get("error.txt")
    folder = TESTDATA / case / "expected"
    if update:
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    expected = read(folder)
    assert sorted(made) == sorted(expected)
    for path, text in made.items():
        assert text == expected[path], path


@pytest.mark.parametrize("case", GOOD)
def test_what_is_expected_imports_and_the_core_takes_its_programs(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TESTDATA))
    importlib.invalidate_caches()
    package = f"{case}.expected.generated"
    registry: dict[str, tuple[str, str]] = importlib.import_module(package).TABLES
    assert registry
    for table, (module, name) in registry.items():
        writer = getattr(importlib.import_module(module, package), name)
        assert writer.table == table
        assert writer.message_type().DESCRIPTOR.full_name == table
        batch = writer.converter().to_arrow([])
        assert batch.schema.equals(writer.converter.schema, check_metadata=True)
        ids = [field_id(field) for field in flat(list(batch.schema))]
        assert len(set(ids)) == len(ids)


def test_what_is_expected_is_formatted_and_passes_the_linter(tmp_path: Path) -> None:
    for path in (path for case in GOOD for path in (TESTDATA / case).rglob("expected/**/*.py*")):
        text = path.read_text("utf-8")
        assert text.count(SHIELD) == 1
        copy = tmp_path / path.relative_to(TESTDATA)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace(SHIELD, "\n"), "utf-8")
    settings = ["--config", str(Path(__file__).parents[3] / "pyproject.toml")]
    for command in (["format", "--check", "--diff"], ["check"]):
        done = ruff(*command, *settings, str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_type_checker_takes_stubs_where_one_name_is_several_things(tmp_path: Path) -> None:
    shutil.copytree(TESTDATA / "same_names/expected/generated", tmp_path / "generated")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "generated"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_type_checker_takes_what_constructors_take(tmp_path: Path) -> None:
    shutil.copytree(TESTDATA / "well_known/expected/generated", tmp_path / "generated")
    program = tmp_path / "program.py"
    program.write_text(
        """from datetime import datetime, timedelta, timezone
from generated.well_known.v1.times_pb2 import Times

AT = datetime(2026, 11, 27, tzinfo=timezone.utc)
message = Times(
    at=AT,
    at_ns={"seconds": 1},
    took=timedelta(seconds=2),
    string_value={"value": "text"},
    struct={"key": 1},
    all=[{"seconds": 3}, Times(at=AT).at],
    words=[{"value": "word"}],
)
print(message.at.ToDatetime(timezone.utc) == AT, message.all[1] == message.at)
try:
    Times(at="2026")  # type: ignore[arg-type]
except TypeError:
    print("no text")
"""
    )
    check = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "program.py"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "True True\nno text\n", done.stderr


def test_a_projects_own_formatter_and_linter_leave_it_alone(tmp_path: Path) -> None:
    shutil.copytree(TESTDATA / "nested/expected/generated", tmp_path / "generated")
    before = read(tmp_path)
    every = ["--select", "ALL", "--ignore", "PGH004", "--fix", "--unsafe-fixes"]
    for command in (["format"], ["check", *every]):
        done = ruff(*command, "--isolated", "--line-length", "60", str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path) == before


def ruff(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What ruff says."""
    command = [sys.executable, "-m", "ruff", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def make(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a build of a case writes, or says."""
    shutil.copytree(TESTDATA / case / "schemas", tmp_path / "schemas")
    monkeypatch.chdir(tmp_path)
    try:
        build(Path("schemas"), Path("generated"))
    except UsageError as error:
        assert sorted(os.listdir(tmp_path)) == ["schemas"], "a build that fails changes nothing"
        return {"error.txt": f"{error}\n"}
    files = {f"generated/{path}": text for path, text in read(tmp_path / "generated").items()}
    return {"cdpgen.lock": (tmp_path / "schemas" / "cdpgen.lock").read_text("utf-8"), **files}


def read(folder: Path) -> dict[str, str]:
    """The text of the files below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def flat(fields: list[pa.Field]) -> list[pa.Field]:
    """The fields and those within them."""
    found = []
    for field in fields:
        type_ = field.type
        if pa.types.is_map(type_):
            children = [type_.key_field, type_.item_field]
        elif pa.types.is_nested(type_):
            children = [type_.field(i) for i in range(type_.num_fields)]
        else:
            children = []
        found += [field, *flat(children)]
    return found


def field_id(field: pa.Field) -> int:
    """The Parquet id of a field."""
    return int(field.metadata[b"PARQUET:field_id"])
