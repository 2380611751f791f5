"""Messages on their way to be decoded, as a list or an Arrow array, and their positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from ._native import total_bytes
from .memory import BLOCKS

__all__ = [
    "Payloads",
    "Positions",
    "concat",
    "concat_positions",
    "int_at",
    "size_of",
    "take_positions",
]

Payloads = list[bytes] | pa.Array
"""Messages: bytes, or an array of type binary, large_binary or binary_view."""

Positions = range | pa.Int64Array
"""Where in its source each of some messages stands; rising."""


def size_of(payloads: Payloads) -> int:
    """The bytes of all messages together."""
    if isinstance(payloads, list):
        return sum(map(len, payloads))
    return total_bytes(payloads)


def concat(parts: Sequence[Payloads]) -> Payloads:
    """Joins lists, or arrays of one type."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], list):
        return [payload for part in parts for payload in part]
    return pa.concat_arrays(list(parts), BLOCKS)


def concat_positions(parts: Sequence[Positions | list[int] | None]) -> Positions | None:
    """Joins the positions of parts, which all have some or all have none."""
    if parts[0] is None:
        return None
    if all(isinstance(part, range) and part.step == 1 for part in parts):
        ranges = [part for part in parts if isinstance(part, range)]
        if all(a.stop == b.start for a, b in pairwise(ranges)):
            return range(ranges[0].start, ranges[-1].stop)
    arrays = [part if isinstance(part, pa.Array) else pa.array(part, pa.int64()) for part in parts]
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


def take_positions(positions: Positions | None, rows: slice | pa.Int64Array) -> Positions | None:
    """The positions of some of the rows, if rows have positions."""
    if positions is None:
        return None
    if isinstance(rows, slice):
        return positions[rows]
    if isinstance(positions, range):
        return pc.add(pc.multiply(rows, positions.step), positions.start)
    return positions.take(rows)


def int_at(positions: Positions, row: int) -> int:
    """The position of one row."""
    found = positions[row]
    return found if isinstance(found, int) else int(found.as_py())
