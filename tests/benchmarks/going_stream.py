"""`python -m tests.benchmarks.going_stream GENERATED STREAM`: a stream that goes on, by lines of its input.

A process of its own, so that what it needs does not count as memory of the one that is measured.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from cdp_runtime.archive import load_tables

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


def main(generated: str, stream: str) -> None:
    writer_type = load_tables(generated)["stellar.v1.ContractData"]
    going = GoingStream(Path(stream), writer_type.message_type().DESCRIPTOR)
    for line in sys.stdin:
        going.go_on()
        print(line, end="", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
