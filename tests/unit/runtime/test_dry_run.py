"""A dry run does everything but write, and tells what it would have written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.proto import serialize_length_prefixed

from cdp_runtime.archive import run
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter

GENERATED = str(Path(__file__).parents[3] / "generated")


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Events of two days, and what is none."""
    path = tmp_path / "events.pb"
    with path.open("wb") as file:
        for number in range(3_000):
            event = Event(id=f"event {number}", topic=["AAAA"])
            event.ledger_closed_at.seconds = 40_000 + 25 * number
            serialize_length_prefixed(event, file)
        file.write(b"\x01\xff")
    return path


def archive(stream: Path, to: Path, *, dry: bool) -> int:
    return run(
        table="stellar.v1.Event",
        source=[str(stream)],
        to=str(to),
        generated=GENERATED,
        options={"dry_run": "true"} if dry else {},
    )


class TestDryRun:
    def test_the_report_is_what_a_real_run_writes(
        self, tmp_path: Path, stream: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert archive(stream, tmp_path / "archive", dry=True) == 0
        told = capsys.readouterr().out
        assert not (tmp_path / "archive").exists()
        assert archive(stream, tmp_path / "archive", dry=False) == 0
        real = sorted((tmp_path / "archive").rglob("*.parquet"))
        said = re.findall(r"^  (\S+): 1 file, ([\d,]+) rows?, ([\d.]+) KB$", told, re.MULTILINE)
        assert [partition for partition, _, _ in said] == [
            str(path.parent.relative_to(tmp_path / "archive")) for path in real
        ]
        assert [int(rows.replace(",", "")) for _, rows, _ in said] == [1, 1_856, 1_144]
        for (_, _, size), path in zip(said, real, strict=True):
            assert float(size) == pytest.approx(path.stat().st_size / 1024, abs=0.2)

    def test_an_archive_that_is_there_stays_as_it_is(self, tmp_path: Path, stream: Path) -> None:
        assert archive(stream, tmp_path / "archive", dry=False) == 0
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "archive").rglob("*")}
        assert archive(stream, tmp_path / "archive", dry=True) == 0
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / "archive").rglob("*")} == before

    def test_files_rotate_and_are_counted(self, tmp_path: Path) -> None:
        with EventWriter(tmp_path / "archive", dry_run=True, max_file_rows=100) as writer:
            writer.write_many([Event(id=f"{n}") for n in range(1_000)])
        assert (writer.metrics.files, writer.metrics.rows) == (10, 1_000)
        assert writer.metrics.file_bytes > 10_000
        assert list(tmp_path.iterdir()) == []
