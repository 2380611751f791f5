"""The soak, as long as a test may take; `python -m tests.faults.soak 600` runs it longer."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.faults import checks

SECONDS = "600" if os.environ.get("CDPGEN_NIGHTLY") else "8"


def test_memory_and_descriptors_are_flat_and_counts_are_equal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", SECONDS],
        cwd=checks.ROOT,
        capture_output=True,
        text=True,
        timeout=float(SECONDS) + 60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["files"] > 5
