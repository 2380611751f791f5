"""Numbered messages, processes that archive them, and what must hold of an archive at any moment."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cdp_runtime import archive
from generated.stellar.v1.asset_details_pb2 import AssetDetails
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter

ROOT: Final = Path(__file__).parents[2]
TABLE: Final = "stellar.v1.AssetDetails"
CORRUPT_EVERY: Final = 97
DAY: Final = 86_400

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__, "cdp_runtime.pipeline"])


def is_corrupt(number: int) -> bool:
    """Whether this message is none."""
    return number % CORRUPT_EVERY == 0


def payload(number: int) -> bytes:
    """A message that tells its number; one in `CORRUPT_EVERY` is none, and tells it all the same."""
    if is_corrupt(number):
        return b"\x0f%d" % number
    message = AssetDetails(code=str(number), issuer="G" * (number % 50))
    message.timestamp.seconds = (number % 3) * DAY + number
    return message.SerializeToString()


def write_stream(path: Path, numbers: range) -> None:
    """Appends messages to a length-delimited file."""
    with path.open("ab") as file:
        for number in numbers:
            message = payload(number)
            assert len(message) < 0x80  # so that its size is a varint of one byte
            file.write(bytes([len(message)]) + message)


def files(folder: Path) -> list[Path]:
    """The files that readers see."""
    return sorted(
        path for path in folder.rglob("*.parquet") if "_tmp" not in path.relative_to(folder).parts
    )


def numbers_in(folder: Path) -> list[int]:
    """The messages of an archive, rows and dead letters, sorted; all files are read whole for it."""
    found: list[int] = []
    for path in files(folder):
        table = pq.ParquetFile(path).read()
        if "_dead_letter" in path.parts:
            payloads = table["payload"].to_pylist()
            assert all(one[:1] == b"\x0f" for one in payloads)
            found += [int(one[1:]) for one in payloads]
            assert all(map(is_corrupt, found[-len(payloads) :]))
        else:
            found += pc.cast(table["code"], pa.int64()).to_pylist()
    return sorted(found)


def leftovers(folder: Path) -> list[str]:
    """What lies under the temporary names of an archive."""
    return sorted(path.name for path in (folder / "_tmp").iterdir())


def run_archive(
    stream: Path | str, to: Path, options: dict[str, Any], *, format: str | None = None
) -> str:
    """`cdpgen archive` of a stream, in this process; what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = archive.run(
            table=TABLE,
            source=[str(stream)],
            to=str(to),
            generated=str(ROOT / "generated"),
            format=format,
            options=options,
        )
    assert code == 0
    return out.getvalue()


def write_numbers(to: Path, journal: Path, acknowledged: Path, start: int, count: int) -> None:
    """Writes messages in every way there is, and notes in a file up to where `flush` made them durable."""
    rng = random.Random(start)
    # small segments, which come and go
    options: Any = {"journal": str(journal), "journal_mb": 0.5, "max_file_rows": 1_000}
    notes = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with AssetDetailsWriter(to, **options) as writer:
        at = start
        while at < start + count:
            numbers = range(at, min(at + rng.randint(1, 400), start + count))
            payloads = [payload(number) for number in numbers]
            match rng.randrange(6):
                case 0:
                    for one in payloads:
                        writer.write(one)
                case 1:
                    for number, one in zip(numbers, payloads, strict=True):
                        writer.write(one, source="one", position=number)
                case 2:
                    writer.write_many(payloads, source="range", positions=numbers)
                case 3:
                    writer.write_many(payloads, source="list", positions=list(numbers))
                case 4:
                    writer.write_many(pa.array(payloads, pa.binary_view()))
                case _:
                    for number, one in zip(numbers, payloads, strict=True):
                        if is_corrupt(number):
                            writer.reject(one, "bad")
                        else:
                            writer.write(one)
            at = numbers.stop
            if rng.random() < 0.3:
                writer.flush()
                os.write(notes, b"%d\n" % at)


def _quiet(target: Callable[..., Any], arguments: tuple[Any, ...], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    target(*arguments)


def start(target: Callable[..., Any], *arguments: Any, log: Path) -> BaseProcess:
    """Runs a function in a process of its own; what that prints goes to a file."""
    process = _processes.Process(target=_quiet, args=(target, arguments, str(log)))
    process.start()
    return process


def kill_at(process: BaseProcess, folder: Path, count: int, delay: float) -> bool:
    """SIGKILL when an archive has so many files, and a little later; whether it was still running."""
    while process.is_alive() and len(files(folder)) < count:
        process.join(0.002)
    process.join(delay)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def timed(process: BaseProcess) -> float:
    """Waits for a process to end well; the seconds that it took."""
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began
