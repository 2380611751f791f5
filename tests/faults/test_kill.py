"""SIGKILL at any moment: readers see whole files only, and another run makes the archive whole."""

from __future__ import annotations

import os
import random
from pathlib import Path

from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks

RUNS = 200 if os.environ.get("CDPGEN_NIGHTLY") else 20
KILLS_AN_ARCHIVE = 4
MESSAGES = 30_000
OPTIONS = {"max_file_rows": 2_500, "row_group_mb": 0.1}


class TestArchive:
    """`cdpgen archive` of a file."""

    def test_every_message_is_there_once_in_whole_files_and_nothing_is_left_over(
        self, tmp_path: Path
    ) -> None:
        stream, log = tmp_path / "stream.pb", tmp_path / "log"
        checks.write_stream(stream, range(MESSAGES))
        rng = random.Random(1)
        resumed = 0
        for run in range(RUNS):
            to = tmp_path / f"archive{run // KILLS_AN_ARCHIVE}"
            process = checks.start(checks.run_archive, stream, to, OPTIONS, log=log)
            had = len(checks.files(to))
            checks.kill_at(process, to, had + rng.randint(0, 5), rng.uniform(0, 0.01))
            there = checks.numbers_in(to)
            assert len(there) == len(set(there))
            assert set(there) <= set(range(MESSAGES))
            resumed += 0 < len(there) < MESSAGES
            if run % KILLS_AN_ARCHIVE == KILLS_AN_ARCHIVE - 1 or run == RUNS - 1:
                checks.timed(checks.start(checks.run_archive, stream, to, OPTIONS, log=log))
                assert checks.numbers_in(to) == list(range(MESSAGES))
                assert checks.leftovers(to) == []
        assert resumed > RUNS // 2


class TestJournal:
    """A writer with a journal, whose messages nobody sends again."""

    def test_every_message_that_flush_returned_for_is_there_once_after_recovery(
        self, tmp_path: Path
    ) -> None:
        rng = random.Random(2)
        lost = recovered = 0
        for run in range(RUNS):
            archive = run // KILLS_AN_ARCHIVE
            to, journal = tmp_path / f"archive{archive}", tmp_path / f"journal{archive}"
            notes = tmp_path / f"notes{run}"
            first = 1_000_000 * run
            process = checks.start(
                *(checks.write_numbers, to, journal, notes, first, MESSAGES), log=tmp_path / "log"
            )
            had = len(checks.files(to))
            lost += checks.kill_at(process, to, had + rng.randint(0, 12), rng.uniform(0, 0.02))
            before = checks.numbers_in(to)
            if run % KILLS_AN_ARCHIVE == KILLS_AN_ARCHIVE - 1 or run == RUNS - 1:
                with AssetDetailsWriter(to, journal=str(journal)):
                    pass  # it recovers what there is
                there = checks.numbers_in(to)
                recovered += len(there) > len(before)
                assert len(there) == len(set(there))
                for one in range(archive * KILLS_AN_ARCHIVE, run + 1):
                    acknowledged = tmp_path / f"notes{one}"
                    lines = acknowledged.read_text().split() if acknowledged.exists() else []
                    durable = set(range(1_000_000 * one, int(lines[-1]) if lines else 0))
                    own = {n for n in there if n // 1_000_000 == one}
                    assert durable <= own
                    assert own <= set(range(1_000_000 * one, 1_000_000 * one + MESSAGES))
                assert not list(journal.glob("*/*"))
                assert checks.leftovers(to) == []
        assert lost > RUNS // 2
        assert recovered
