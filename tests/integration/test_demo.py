"""`cdpgen demo`, a small one: what it says is what lies in its folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdpgen import demo
from cdpgen.errors import UsageError

CDPGEN = Path(sys.executable).with_name("cdpgen")
MESSAGES = 20_000


@dataclass(frozen=True)
class Demo:
    """A demo that has run: where it was typed, the folder of its files, and what it printed."""

    typed_in: Path
    folder: Path
    output: str

    def rows(self, what: str, files: str) -> list[tuple[Any, ...]]:
        with duckdb.connect() as connection:
            view = f"read_parquet('{self.folder}/archive/{files}/**/*.parquet')"
            return connection.execute(f"select {what} from {view} group by all").fetchall()


def run(*arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CDPGEN, "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, **variables},
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    ran = run("--to", "here", "--messages", str(MESSAGES), cwd=folder, COLUMNS="200")
    assert ran.returncode == 0, ran.stderr
    return Demo(folder, folder / "here", ran.stdout)


def test_every_message_is_a_row_or_a_dead_letter(shown: Demo) -> None:
    [(contract_data,)] = shown.rows("count(*)", "stellar.v1.ContractData")
    [(events,)] = shown.rows("count(*)", "stellar.v1.Event")
    file = "split_part(parse_filename(source), '#', 1)"
    letters = dict(shown.rows(f"{file}, count(*)", "_dead_letter"))
    assert letters == {"contract_data.pb": 1, "events.pb": 1}
    assert (contract_data, events) == (MESSAGES * 5 // 8 - 1, MESSAGES * 3 // 8 - 1)
    assert f"{MESSAGES - 2:,} rows and 2 dead letters" in shown.output
    assert "What was no message: kept, set apart (" in shown.output


@pytest.mark.parametrize(("letters", "part"), [(2, ""), (6, ""), (7, ", 6 of 7")])
def test_the_heading_of_dead_letters_tells_a_part_from_all(letters: int, part: str) -> None:
    assert demo._heading_of(letters) == f"What was no message{part}: kept, set apart"


def test_late_rows_lie_in_the_day_they_belong_to(shown: Demo) -> None:
    days = dict(shown.rows("ledger_day, count(*)", "stellar.v1.ContractData"))
    assert [str(day) for day in sorted(days)] == ["2024-04-20", "2024-04-21"]
    assert days[min(days)] == 2


def test_the_columns_hold_every_row_without_its_original_bytes(shown: Demo) -> None:
    for table in ("stellar.v1.ContractData", "stellar.v1.Event"):
        assert shown.rows("count(_raw)", table) == [(0,)]


def test_it_says_what_was_measured(shown: Demo) -> None:
    for what in ("speed", "peak memory", "Parquet", "protobuf", "JSON lines"):
        assert re.search(rf"│ {what} +│ +[\d,.]+", shown.output), what
    smaller = re.search(r"JSON lines.*?([\d.]+) times as much", shown.output)
    assert smaller
    assert float(smaller[1]) > 5


def test_the_files_that_it_names_are_there(shown: Demo) -> None:
    named = re.findall(r"^  (here/\S+)  ", shown.output, re.MULTILINE)
    assert len(named) == 5
    assert all((shown.typed_in / path).exists() for path in named)


def test_the_commands_to_type_next_work_when_pasted(shown: Demo) -> None:
    last = shown.output.split("What to type next")[1]
    commands = re.findall(r"^  ([^#\s].*)$", last, re.MULTILINE)
    copy = shutil.copytree(shown.typed_in, shown.typed_in.with_name("pasted"))
    for command in commands:
        pasted = subprocess.run(
            command, shell=True, capture_output=True, text=True, cwd=copy, check=False
        )
        assert pasted.returncode == 0, f"{command}\n{pasted.stderr}"
        assert pasted.stdout or command.startswith("rm")
    assert not (copy / "here").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    ran = run("--to", tmp_path, cwd=tmp_path)
    assert ran.returncode == 2
    assert (
        ran.stderr == f"{tmp_path}: holds something already; give a new or empty folder with --to\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_duckdb_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'cdpgen\[demo\]'"):
        demo.run(tmp_path, messages=1_000, seed=1)


def test_the_same_seed_gives_the_same_streams(tmp_path: Path) -> None:
    for name in ("one", "two"):
        ran = run("--to", name, "--messages", "1000", "--seed", "5", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
    for stream in ("contract_data.pb", "events.pb"):
        one, two = (tmp_path / name / "streams" / stream for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
