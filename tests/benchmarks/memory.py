"""`python -m tests.benchmarks.memory GENERATED STREAM ARCHIVE MESSAGES`: how much memory a long run takes.

Writes a stream over and over, as many messages as asked for, and prints the resident memory as JSON: its
peak, and its mean in each tenth of the run. Each time the stream's ledgers and times go on, as those of a real
one do: there are new days all the time, and as many open files as may be. Published files are removed, so that
the disk does not fill.

pandas is kept away, which is here for tests: pyarrow imports it wherever it is installed, and it takes 50 MB.
"""

from __future__ import annotations

import importlib.abc
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from cdp_runtime.archive import load_tables
from cdp_runtime.config import SourceConfig
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.parquet import PublishedFile
from cdp_runtime.sources import inputs_of, read_inputs
from tests.process import resident


class NoPandas(importlib.abc.MetaPathFinder):
    """As if it were not installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


sys.meta_path.insert(0, NoPandas())

_LEDGERS: Final = ("ledger_sequence", "last_modified_ledger")
_PIECE: Final = 4 << 20


class GoingStream:
    """A file of messages of contract data whose ledgers and times can go on; in place, as they stay as long.

    Args:
        path: of the file, length-delimited.
        descriptor: of the messages.
    """

    def __init__(self, path: Path, descriptor: Any) -> None:
        self.path = path
        numbers = {field.name: field.number for field in descriptor.fields}
        ledgers = {numbers[name] for name in _LEDGERS}
        data = path.read_bytes()
        # where, how wide, the number, whether it is a time
        places: list[tuple[int, int, int, bool]] = []
        at = 0
        while at < len(data):
            size, at = _varint(data, at)
            end = at + size
            while at < end:
                tag, at = _varint(data, at)
                begin = at
                value, at = _varint(data, at)
                if tag & 7 == 0 and tag >> 3 in ledgers:
                    places.append((begin, at - begin, value, False))
                elif tag & 7 == 2:
                    if tag >> 3 == numbers["closed_at"]:
                        seconds, behind = _varint(data, at + 1)  # behind the tag of the seconds
                        places.append((at + 1, behind - at - 1, seconds, True))
                    at += value
                else:
                    assert tag & 7 == 0
        self._size = len(data)
        self._at, self._width, self._value, is_time = (
            np.array(column) for column in zip(*places, strict=True)
        )
        times, ledger = self._value[is_time], self._value[~is_time]
        step = np.array([np.ptp(ledger[ledger > ledger.max() // 2]) + 1, np.ptp(times) + 5])
        self._step = step[is_time.astype(int)]

    def go_on(self) -> None:
        """Adds as many ledgers and as much time as the stream has."""
        self._value += self._step
        with self.path.open("r+b") as file:
            for begin in range(0, self._size, _PIECE):
                file.seek(begin)
                piece = np.frombuffer(bytearray(file.read(_PIECE + 10)), np.uint8)
                own = slice(*np.searchsorted(self._at, [begin, begin + _PIECE]))
                at, width, value = self._at[own] - begin, self._width[own], self._value[own]
                for byte in range(int(width.max(initial=0))):
                    has = width > byte
                    more = np.where(width[has] > byte + 1, 0x80, 0)
                    piece[at[has] + byte] = value[has] >> 7 * byte & 0x7F | more
                file.seek(begin)
                file.write(piece.tobytes())


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


class Never:
    """No request to stop."""

    requested = False

    def fileno(self) -> int:
        raise AssertionError("nothing waits")


def main(generated: str, stream: str, archive: str, messages: int) -> None:
    writer_type = load_tables(generated)["stellar.v1.ContractData"]
    going = GoingStream(
        Path(shutil.copy(stream, f"{archive}.pb")), writer_type.message_type().DESCRIPTOR
    )
    inputs = inputs_of([SourceConfig(path=str(going.path))])

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
            going.go_on()
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
