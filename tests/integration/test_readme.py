"""What the README says to type works when it is pasted, and what it shows is what is generated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str, heading: str) -> list[str]:
    section = re.split(r"^## ", README.read_text(), flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(f"{heading}\n"))
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The directory in which a newcomer has typed the quick start, and what each block printed."""
    folder = tmp_path_factory.mktemp("newcomer")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = []
    for block in blocks("sh", "Quick start with your own `.proto`"):
        ran = subprocess.run(
            ["bash", "-e"],
            input=block,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=folder,
            env={**os.environ, "PATH": path, "COLUMNS": "120"},
        )
        assert ran.returncode == 0, f"{block}\n{ran.stdout}\n{ran.stderr}"
        printed.append(ran.stdout)
    return folder, printed


def test_the_quick_start_archives_and_shows_what_it_says(
    followed: tuple[Path, list[str]],
) -> None:
    _, (written, built, archived, queried, embedded) = followed
    assert written == embedded == ""
    assert "1 table" in built
    assert "3 messages" in archived
    assert "2 rows" in archived
    assert re.search(r"^shop.v1.Order +1 +2 +2 +2 ", archived, re.MULTILINE)
    assert "A-1" in queried
    assert "39.00" in queried
    assert "line 3: Failed" in queried


def test_the_module_shown_is_the_one_generated(followed: tuple[Path, list[str]]) -> None:
    module = (followed[0] / "generated/shop/v1/order_writer.py").read_text()
    shown = blocks("python", "What is generated")
    assert shown
    for block in shown:
        assert block in module


def test_a_mended_line_is_archived_from_a_file_of_its_own(
    followed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    lines = (followed[0] / "orders.ndjson").read_text().splitlines(keepends=True)
    mended = lines[2].replace("yesterday", "2026-01-31T09:00:00Z")

    def archive(to: str, name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        flags = f"--table shop.v1.Order --from {name} --to {to}"
        command = [sys.executable, "-m", "cdpgen", "archive", *flags.split()]
        command += ["--generated", str(followed[0] / "generated")]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    archive("own", "orders.ndjson", "".join(lines))
    assert ": 1 row," in archive("own", "mended.ndjson", mended)
    archive("again", "orders.ndjson", "".join(lines))
    assert ": 3 rows," in archive("again", "orders.ndjson", "".join([*lines[:2], mended]))


def test_the_example_for_asyncio_writes_what_it_is_given(
    followed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    page = README.with_name("docs") / "embedding.md"
    section = page.read_text().partition("\n## asyncio\n")[2]
    [example] = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    program = f"""\
from generated.shop.v1.order_pb2 import Order
from generated.shop.v1.order_writer import OrderWriter
{example}

async def batches():
    for number in range(3):
        yield [Order(id=f"B-{{number}}")] * 2

asyncio.run(archive(batches()))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(followed[0])},
    )
    assert ran.returncode == 0, ran.stderr
    files = (tmp_path / "archive/shop.v1.Order").rglob("*.parquet")
    assert sum(pq.read_metadata(path).num_rows for path in files) == 6


def test_the_commands_in_the_table_are_those_there_are() -> None:
    from cdpgen.cli import app

    listed = re.findall(r"^\| `cdpgen ([\w-]+)", README.read_text(), re.MULTILINE)
    commands = [
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    ]
    groups = [group.typer_instance.info.name for group in app.registered_groups]
    assert sorted(listed) == sorted([*commands, *groups])
