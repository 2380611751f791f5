"""The power fails: of what was not synced any part may be there, or zeros, or what lay there before."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from cdp_runtime.journal import _HEAD, _bodies
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks

CUTS = 60 if os.environ.get("CDPGEN_NIGHTLY") else 12


def damaged(data: bytes, synced: int, rng: random.Random) -> bytes:
    """What may be found of a file of which the first bytes were synced."""
    at = rng.randint(synced, len(data))
    match rng.randrange(4):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes(len(data) - at)
        case 2:
            return data[:at] + rng.randbytes(len(data) - at)
        case _:  # later pages were written and earlier ones not
            hole = min(at + rng.randint(0, 5_000), len(data))
            return data[:at] + bytes(hole - at) + data[hole:]


def synced_in(journal: Path) -> dict[Path, int]:
    """Of each segment, right after a flush, how many bytes its frames take."""
    found = {}
    for path in journal.glob("*/*/*.log"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # published meanwhile
            found[path] = sum(_HEAD.size + len(body) for body in _bodies(file, path))
    return found


def copied(journal: Path, to: Path) -> None:
    """A journal as it is at a moment; of one in use segments go while it is copied."""
    while True:
        try:
            shutil.copytree(journal, to)
            return
        except shutil.Error:
            shutil.rmtree(to)


@pytest.mark.parametrize("seed", range(3))
def test_all_that_was_flushed_is_there_once_after_recovery(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    to, journal = tmp_path / "archive", tmp_path / "journal"
    recovered = 0
    with AssetDetailsWriter(
        to, journal=str(journal), journal_mb=1, max_file_rows=1_500, row_group_mb=0.05
    ) as writer:
        number = 0
        for cut in range(CUTS):
            for _ in range(rng.randint(1, 6)):
                numbers = range(number, number + rng.randint(1, 300))
                writer.write_many([checks.payload(n) for n in numbers])
                number = numbers.stop
            writer.flush()
            durable = number
            synced = synced_in(journal)
            for _ in range(rng.randint(0, 6)):
                numbers = range(number, number + rng.randint(1, 300))
                writer.write_many([checks.payload(n) for n in numbers])
                number = numbers.stop

            found, kept = tmp_path / f"found{cut}", tmp_path / f"kept{cut}"
            # the journal first: what is published meanwhile was in it
            copied(journal, kept)
            shutil.copytree(to, found, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
            for segment in kept.glob("*/*/*.log"):
                before = synced.get(journal / segment.relative_to(kept), 0)
                segment.write_bytes(damaged(segment.read_bytes(), before, rng))
            for path in kept.glob("*/*/about.json"):
                path.write_text(json.dumps({**json.loads(path.read_text()), "url": str(found)}))

            held = len(checks.numbers_in(found))
            with AssetDetailsWriter(found, journal=str(kept)):
                pass
            there = checks.numbers_in(found)
            recovered += len(there) > held
            assert len(there) == len(set(there))
            assert set(range(durable)) <= set(there) <= set(range(number))
            assert not list(kept.glob("*/*"))
            shutil.rmtree(found)
    assert recovered
    assert checks.numbers_in(to) == list(range(number))
