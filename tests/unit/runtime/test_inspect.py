"""What `cdpgen inspect` reads from an archive, and what it prints of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_runtime import inspect as module
from cdp_runtime.inspect import inspect, run
from cdp_runtime.storage import StorageError
from cdp_runtime.store_local import LocalStorage
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter

ROOT = Path(__file__).parents[3]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two days of events and a dead letter."""
    folder = tmp_path / "archive"
    with EventWriter(folder) as writer:
        for seconds in (0, 1, 86_400):
            event = Event(id=f"event {seconds}", topic=["AAAA"])
            event.ledger_closed_at.seconds = seconds
            writer.write(event)
        writer.write(b"\xff")
    return folder


class TestInspect:
    def test_each_file_is_told_from_its_footer(self, archive: Path) -> None:
        dead, *files = sorted(inspect(str(archive)), key=lambda one: one.partition)
        assert [(one.partition, one.rows) for one in files] == [
            ("ledger_day=1970-01-01", 2),
            ("ledger_day=1970-01-02", 1),
        ]
        assert (dead.dead_letters, dead.rows, dead.partition) == (True, 1, "")
        for one in (dead, *files):
            assert (one.table, one.version, one.unreadable) == ("stellar.v1.Event", "1", "")
            assert one.uncompressed > 0
        assert sum(one.size for one in (dead, *files)) == sum(
            path.stat().st_size for path in archive.rglob("*.parquet")
        )

    def test_a_file_that_is_none_is_told_and_does_not_hide_the_others(self, archive: Path) -> None:
        bad = archive / "stellar.v1.Event" / "bad.parquet"
        bad.write_bytes(b"PAR1 and nothing more")
        files = inspect(str(archive))
        assert len(files) == 4
        (broken,) = (one for one in files if one.unreadable)
        assert broken.partition == str(bad)


class TestRun:
    def test_the_tables_say_what_there_is(
        self, archive: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(str(archive)) == 0
        shown = capsys.readouterr().out
        assert re.search(r"stellar\.v1\.Event +1 +2 +2 +3 +[\d.]+ KB +[\d.]+:1 +1\n", shown)
        assert re.search(r"ledger_day=1970-01-01 +1 +1 +2 ", shown)

    def test_names_are_never_cut_where_there_is_no_terminal(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code = "x" * 120
        with EventWriter(tmp_path, partition_by="contract_id") as writer:
            writer.write(Event(contract_id=code))
        assert run(str(tmp_path)) == 0
        assert f"contract_id={code} " in capsys.readouterr().out

    def test_many_partitions_are_cut_in_the_middle_and_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path, partition_by="contract_id") as writer:
            writer.write_many(Event(contract_id=f"c{number:02}") for number in range(50))
        assert run(str(tmp_path)) == 0
        shown = capsys.readouterr().out
        assert "... 10 more ..." in shown
        assert shown.count("contract_id=c") == 40
        assert "contract_id=c00" in shown
        assert "contract_id=c49" in shown

    def test_an_archive_with_nothing_in_it_is_1(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(str(tmp_path)) == 1
        assert capsys.readouterr().err == f"{tmp_path}: there are no Parquet files\n"

    def test_a_broken_file_is_1_and_named(
        self, archive: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad = archive / "stellar.v1.Event" / "bad.parquet"
        bad.write_bytes(b"")
        assert run(str(archive)) == 1
        assert re.fullmatch(
            f"{bad}: cannot be read: .*; move it out of the archive: what was in it comes again from its "
            "source, or from a backup\nthe rows of this file are not counted\n",
            capsys.readouterr().err,
        )

    @pytest.mark.parametrize(
        ("folder", "why"),
        [
            ("stellar.v1.Event", "its columns have no field ids"),
            ("_dead_letter/stellar.v1.Event", "it has no column payload"),
        ],
    )
    def test_somebody_elses_file_is_1_and_named_and_its_rows_do_not_count(
        self, archive: Path, folder: str, why: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = archive / folder / "other.parquet"
        pq.write_table(pa.table({"reason": ["a", "b"]}), other)
        assert run(str(archive)) == 1
        said = capsys.readouterr()
        assert re.search(r"stellar\.v1\.Event +1 +2 +2 +3 +[\d.]+ KB +[\d.]+:1 +1\n", said.out)
        assert said.err == (
            f"{other}: {why}, so cdpgen did not write it; move it out of the archive\n"
            "the rows of this file are not counted\n"
        )

    def test_a_file_that_may_not_be_read_is_named_once(
        self, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(self: LocalStorage, path: str) -> Any:
            raise PermissionError(13, "Permission denied", str(archive / path))

        monkeypatch.setattr(LocalStorage, "open", refuse)
        assert run(str(archive)) == 1
        lines = capsys.readouterr().err.splitlines()
        paths = sorted(archive.rglob("*.parquet"))
        assert lines == [
            *(f"{path}: cannot be read: Permission denied" for path in paths),
            "the rows of these 3 files are not counted",
        ]

    def test_files_in_different_levels_of_folders_are_told(
        self, archive: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(str(archive)) == 0
        assert "different levels" not in capsys.readouterr().out
        with EventWriter(archive, partition_by="contract_id") as writer:
            writer.write(Event(contract_id="c"))
        assert run(str(archive)) == 0
        assert (
            "stellar.v1.Event: its files lie in different levels of folders (contract_id, ledger_day): "
            in capsys.readouterr().out
        )

    @pytest.mark.parametrize(
        "inside",
        [
            "stellar.v1.Event",
            "stellar.v1.Event/ledger_day=1970-01-01",
            "_dead_letter",
            "_dead_letter/stellar.v1.Event",
        ],
    )
    def test_a_folder_within_an_archive_is_2_and_the_archive_is_named(
        self, archive: Path, inside: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(str(archive / inside)) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"{archive / inside}: is within the folder ")
        assert said.err.endswith(f"; give that one: {archive}\n")

    @pytest.mark.parametrize(("transient", "code"), [(True, 1), (False, 2)])
    def test_a_store_that_may_answer_later_is_1_and_one_to_be_mended_2(
        self, transient: bool, code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise StorageError("it is not to be had", transient=transient)

        monkeypatch.setattr(module, "open_storage", fail)
        assert run("s3://bucket") == code

    def test_a_full_disk_behind_standard_output_is_1_and_said(self, archive: Path) -> None:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "cdpgen", "inspect", str(archive)],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.stderr == "standard output: No space left on device\n"
        assert done.returncode == 1

    def test_a_store_that_nobody_knows_is_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("nothing://bucket") == 2
        assert "nothing" in capsys.readouterr().err


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None,
    reason="root may read everything, and setpriv, which takes that away, is not here",
)
def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "a") as writer:
        writer.write(b"")
    folder = tmp_path / "a/stellar.v1.Event"
    folder.chmod(0o300)
    may_not = "-dac_override,-dac_read_search"
    drop = ["setpriv", "--bounding-set", may_not, "--inh-caps", may_not] * (os.geteuid() == 0)
    try:
        for command in (
            ["inspect", "a"],
            ["dead-letters", "list", "a"],
            ["replay", "a", "--table", "stellar.v1.Event", "--generated", str(ROOT / "generated")],
        ):
            done = subprocess.run(
                [*drop, sys.executable, "-m", "cdpgen", *command],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 2 or command[0] == "dead-letters"
            assert done.stderr == f"{folder}: cannot be read: Permission denied\n"
    finally:
        folder.chmod(0o700)
