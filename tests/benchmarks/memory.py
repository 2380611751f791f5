"""`python -m tests.benchmarks.memory GENERATED STREAM ARCHIVE MESSAGES`: how much memory a long run takes.

Writes a stream over and over, as many messages as asked for, and prints the resident memory as JSON: its
peak, and its mean in each tenth of the run. Published files are removed, so that the disk does not fill.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from cdp_runtime.archive import load_tables
from cdp_runtime.config import SourceConfig
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.parquet import PublishedFile
from cdp_runtime.sources import inputs_of, read_inputs
from tests.process import resident


class Never:
    """No request to stop."""

    requested = False

    def fileno(self) -> int:
        raise AssertionError("nothing waits")


def main(generated: str, stream: str, archive: str, messages: int) -> None:
    writer_type = load_tables(generated)["stellar.v1.ContractData"]
    inputs = inputs_of([SourceConfig(path=stream)])

    def remove(file: PublishedFile) -> None:
        (Path(archive) / file.path).unlink()

    sums, counts = [0] * 10, [0] * 10  # a list of each would grow with the run itself
    written = 0
    began = time.perf_counter()
    with writer_type(archive, on_published=remove, buffer_size=50_000) as writer:
        while written < messages:
            for item in read_inputs(inputs, writer_type.message_type, Never()):
                assert not isinstance(item, DeadLetter)
                writer.write_many(item.payloads)
                written += len(item.payloads)
                tenth = min(9, written * 10 // messages)
                sums[tenth] += resident()
                counts[tenth] += 1
    seconds = time.perf_counter() - began
    means = [round(total / max(count, 1)) for total, count in zip(sums, counts, strict=True)]
    print(json.dumps({"rows": written, "seconds": seconds, "peak": _peak(), "tenths": means}))


def _peak() -> int:
    """Of this program; what `getrusage` tells has that of the process that began it in it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
