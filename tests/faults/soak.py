"""A writer under load for as long as asked: memory and descriptors stay flat, and nothing is lost.

    python -m tests.faults.soak 600     ten minutes; 86400 for a day

Several threads write through one writer with a journal, files rotate every second, late rows open old
partitions again. Prints what was measured as JSON, and exits with 1 when it was not flat.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from generated.stellar.v1.asset_details_pb2 import AssetDetails
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.process import resident

PRODUCERS: Final = 3
MB: Final = 1 << 20


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def produce(writer: AssetDetailsWriter, seed: int, until: float, written: list[int]) -> None:
    """Writes until it is time, and notes how many messages."""
    rng = random.Random(seed)
    count = 0
    while time.monotonic() < until:
        payloads = []
        for _ in range(rng.randint(1, 2_000)):
            message = AssetDetails(code="X", issuer="G" * rng.randint(0, 60))
            day = int(time.time()) % 10_000 + 100 - rng.choice([0, 0, 0, 1, 40])
            message.timestamp.seconds = 86_400 * day
            payloads.append(message.SerializeToString())
        payloads[0] = b"\x0f"
        writer.write_many(payloads, source=str(seed), positions=range(count, count + len(payloads)))
        count += len(payloads)
        if rng.random() < 0.05:
            writer.flush()
        time.sleep(0.005)
    written.append(count)


def soak(seconds: float) -> dict[str, Any]:
    """Runs for so long; what was measured, and whether it is as it must be."""
    rows = 0
    seen = threading.Lock()
    with tempfile.TemporaryDirectory() as folder:

        def published(file: Any) -> None:
            nonlocal rows
            found = pq.read_metadata(file.url).num_rows
            os.unlink(file.url)
            with seen:
                rows += found

        memory: list[int] = []
        opened: list[int] = []
        written: list[int] = []
        began = time.monotonic()
        with AssetDetailsWriter(
            f"{folder}/archive",
            journal=f"{folder}/journal",
            journal_mb=64,
            buffer_size=10_000,
            row_group_mb=4,
            max_open_files=8,
            rotation_interval_minutes=1 / 60,
            on_published=published,
        ) as writer:
            until = began + seconds
            threads = [
                threading.Thread(target=produce, args=(writer, seed, until, written))
                for seed in range(PRODUCERS)
            ]
            for thread in threads:
                thread.start()
            while time.monotonic() < until:
                time.sleep(seconds / 100)
                memory.append(resident())
                opened.append(descriptors())
            for thread in threads:
                thread.join()
        left = [str(path) for path in Path(folder).rglob("*") if path.is_file()]
    early, late = memory[20:40], memory[-10:]
    report = {
        "seconds": round(time.monotonic() - began, 1),
        "messages": sum(written),
        "published": rows,
        "files": writer.metrics.files,
        "early_mb": round(statistics.median(early) / MB, 1),
        "late_mb": round(statistics.median(late) / MB, 1),
        "early_descriptors": max(opened[20:40]),
        "late_descriptors": max(opened[-10:]),
        "left": left,
    }
    report["flat"] = (
        report["messages"] == report["published"]
        and report["late_mb"] <= report["early_mb"] * 1.1 + 8
        and report["late_descriptors"] <= report["early_descriptors"] + 4
        and not left
    )
    return report


if __name__ == "__main__":
    measured = soak(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
    print(json.dumps(measured))
    sys.exit(0 if measured["flat"] else 1)
