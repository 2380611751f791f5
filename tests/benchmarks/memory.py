"""`python -m tests.benchmarks.memory GENERATED STREAM ARCHIVE MESSAGES`: how much memory a long run takes.

Writes a stream over and over, as many messages as asked for, and prints the resident memory as JSON: its
peak, and its mean in each tenth of the run. Each time the stream's ledgers and times go on, as those of a real
one do: there are new days all the time, and as many open files as may be. Published files are removed, so that
the disk does not fill, and what makes the stream go on is a process of its own.

pandas is kept away, which is here for tests: pyarrow imports it wherever it is installed, and it takes 50 MB.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cdp_runtime.archive import load_tables
from cdp_runtime.config import SourceConfig
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.parquet import PublishedFile
from cdp_runtime.sources import Never, inputs_of, read_inputs
from tests.process import resident


class NoPandas(importlib.abc.MetaPathFinder):
    """As if it were not installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


sys.meta_path.insert(0, NoPandas())


@contextlib.contextmanager
def _going(generated: str, path: str) -> Iterator[Callable[[], None]]:
    """A process that makes a stream go on: each call does, and returns when it has."""
    command = [sys.executable, "-m", "tests.benchmarks.going_stream", generated, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        def go_on() -> None:
            asked.write(b"on\n")
            asked.flush()
            assert told.readline() == b"on\n"

        yield go_on
        asked.close()
    assert process.returncode == 0


def main(generated: str, stream: str, archive: str, messages: int) -> None:
    writer_type = load_tables(generated)["stellar.v1.ContractData"]
    path = shutil.copy(stream, f"{archive}.pb")
    inputs = inputs_of([SourceConfig(path=path)])

    def remove(file: PublishedFile) -> None:
        (Path(archive) / file.path).unlink()

    sums, counts = [0] * 10, [0] * 10  # a list of each would grow with the run itself
    written = 0
    began = time.perf_counter()
    with (
        _going(generated, path) as go_on,
        writer_type(archive, on_published=remove, buffer_size=50_000) as writer,
    ):
        while written < messages:
            for item in read_inputs(inputs, writer_type.message_type, Never()):
                assert not isinstance(item, DeadLetter)
                writer.write_many(item.payloads)
                written += len(item.payloads)
                tenth = min(9, written * 10 // messages)
                sums[tenth] += resident()
                counts[tenth] += 1
            go_on()
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
