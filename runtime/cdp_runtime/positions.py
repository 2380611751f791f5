"""Where each row of a file comes from, in the file's footer.

The key `cdpgen.positions` of a footer holds JSON:

    {"sources": {name: {"first": int, "last": int, "rows": int, "prefix": [int, int]}}, "runs": text}

`prefix` stands where the source is a file: how many of its bytes had been read when this was published, and
their CRC32C.
`runs` tells for each row, in the order of the file, its source and its position there. It is base64 of
zstd frames, one a row group, each of unsigned LEB128 varints: the number of runs, then for all runs one
column after the other

    the source      its place among `sources` times two, plus one where rows have no position
    the count       of rows
    the step        zigzag of: position of the first row, less the end of the run before (0 at the start)

A row whose caller gave no position has none; `first` and `last` are null for a source without any.
Rows that a partition picked at random make short runs: those cost two or three bytes a row before zstd.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from .payloads import Positions

__all__ = ["KEY", "Part", "PositionsBuilder", "Prefix", "Run", "Spans", "runs", "spans"]

KEY: Final = "cdpgen.positions"
"""The key of footers."""

_WRAP: Final = 1 << 64
_LANE_BITS: Final = 56
"""What a varint of eight bytes holds, which fits a 64-bit lane."""


class Run(NamedTuple):
    """Consecutive rows of a file with consecutive positions.

    Attributes:
        source: where they come from.
        first: the position of the first row, the next ones have `first + 1` and so on; None where the
            caller gave no positions.
        count: how many rows.
    """

    source: str
    first: int | None
    count: int  # type: ignore[assignment]  # tuples have a method of the name


class Part(NamedTuple):
    """Rows of one source on their way into a row group; `positions` has one for each."""

    source: str
    positions: Positions | None
    rows: int


class Prefix(NamedTuple):
    """The first bytes of a source: how many, and their CRC32C."""

    size: int
    checksum: int


class Spans(NamedTuple):
    """The runs of a file, as columns.

    Attributes:
        names: the sources.
        source: the place in `names` of each run's source, int64.
        first: the position of each run's first row, int64; null for rows without a position.
        rows: how many each run has, int64.
        prefixes: what had been read of the sources that are files.
    """

    names: Sequence[str]
    source: pa.Int64Array
    first: pa.Int64Array
    rows: pa.Int64Array
    prefixes: Mapping[str, Prefix]


class PositionsBuilder:
    """Gathers the positions of one file, a row group at a time; holds them compressed."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._frames: list[bytes] = []
        self.ranges: Final[dict[str, tuple[int, int]]] = {}
        """The first and last position of each source that has some."""

    def add_row_group(self, parts: Sequence[Part], order: pa.Array | None = None) -> None:
        """Takes the rows of one row group.

        Args:
            parts: the rows as they were gathered.
            order: for each row of the row group its place among those of the parts; None when they
                were written as they are.
        """
        for part in parts:
            self._codes.setdefault(part.source, len(self._codes))
            self._rows[part.source] = self._rows.get(part.source, 0) + part.rows
            if part.positions is not None and part.rows:
                first, last = _bounds(part.positions)
                known = self.ranges.get(part.source, (first, last))
                self.ranges[part.source] = (min(known[0], first), max(known[1], last))
        columns = self._runs_of_parts(parts) if order is None else None
        if columns is None:
            columns = self._runs_of_rows(parts, order)
        source, count, step = columns
        varints = (
            _to_varints(pa.array([len(source)], pa.int64()))
            + _to_varints(source)
            + _to_varints(count)
            + _to_varints(_zigzag(step))
        )
        self._frames.append(pa.compress(varints, codec="zstd", asbytes=True))

    def metadata(self, prefixes: Mapping[str, Prefix]) -> str:
        """The value for the key `cdpgen.positions` of a footer.

        Args:
            prefixes: what has been read of the sources that are files.
        """
        sources = {
            source: {
                **({"prefix": prefixes[source]} if source in prefixes else {}),
                "first": self.ranges[source][0] if source in self.ranges else None,
                "last": self.ranges[source][1] if source in self.ranges else None,
                "rows": self._rows[source],
            }
            for source in self._codes
        }
        return json.dumps(
            {"sources": sources, "runs": base64.b64encode(b"".join(self._frames)).decode()}
        )

    def _runs_of_parts(self, parts: Sequence[Part]) -> _Columns | None:
        """The runs of unsorted rows where all positions are ranges: no work per row."""
        source: list[int] = []
        count: list[int] = []
        step: list[int] = []
        end = 0
        for part in parts:
            if part.rows == 0:
                continue
            code = 2 * self._codes[part.source]
            first = 0
            if part.positions is None:
                code += 1
            elif isinstance(part.positions, range) and part.positions.step == 1:
                first = part.positions.start
            else:
                return None
            if source and source[-1] == code and (code & 1 or first == end):
                count[-1] += part.rows
            else:
                source.append(code)
                count.append(part.rows)
                step.append(_signed(first - end))
            end = first + part.rows if not code & 1 else 0
        return pa.array(source, pa.int64()), pa.array(count, pa.int64()), pa.array(step, pa.int64())

    def _runs_of_rows(self, parts: Sequence[Part], order: pa.Array | None) -> _Columns:
        codes = []
        places = []
        for source, positions, count in parts:
            own = 2 * self._codes[source] + (positions is None)
            codes.append(pa.repeat(pa.scalar(own, pa.int64()), count))
            if positions is None:
                places.append(pa.repeat(pa.scalar(0, pa.int64()), count))
            elif isinstance(positions, range):
                places.append(pa.array(positions, pa.int64()))
            else:
                places.append(positions)
        code, place = pa.concat_arrays(codes), pa.concat_arrays(places)
        if order is not None:
            code, place = code.take(order), place.take(order)
        rows = len(code)
        if rows == 0:
            nothing = pa.array([], pa.int64())
            return nothing, nothing, nothing
        before, after = code.slice(0, rows - 1), code.slice(1)
        follows = pc.and_(
            pc.equal(before, after),
            pc.or_(
                pc.equal(pc.subtract(place.slice(1), place.slice(0, rows - 1)), 1),
                pc.equal(pc.bit_wise_and(after, 1), 1),
            ),
        )
        begins = pa.concat_arrays([pa.array([True]), pc.invert(follows)])
        starts = pc.indices_nonzero(begins).cast(pa.int64())
        ends = pa.concat_arrays([starts.slice(1), pa.array([rows], pa.int64())])
        whence, first = code.take(starts), place.take(starts)
        length = pc.subtract(ends, starts)
        advance = pc.multiply(length, pc.subtract(1, pc.bit_wise_and(whence, 1)))
        end = pa.concat_arrays([pa.array([0], pa.int64()), pc.add(first, advance)]).slice(
            0, len(first)
        )
        return whence, length, pc.subtract(first, end)


_Columns = tuple[Any, Any, Any]
"""Of int64, one element a run."""


def runs(metadata: Mapping[bytes, bytes]) -> list[Run]:
    """The source and position of each row of a file, as runs in the order of the rows.

    Args:
        metadata: the key-value metadata of the file's footer, as `pyarrow.parquet` gives it.

    Returns:
        The runs; their counts add up to the rows of the file. Empty where the footer says nothing.

    Raises:
        ValueError: what the footer says cannot be read.
    """
    found = spans(metadata)
    columns: tuple[list[Any], ...] = tuple(column.to_pylist() for column in found[1:4])
    return [
        Run(found.names[source], first, count)
        for source, first, count in zip(*columns, strict=True)
    ]


def spans(metadata: Mapping[bytes, bytes]) -> Spans:
    """The same as columns, for who has many files to read.

    Raises:
        ValueError: what the footer says cannot be read.
    """
    text = metadata.get(KEY.encode())
    if text is None:
        nothing = pa.array([], pa.int64())
        return Spans([], nothing, nothing, nothing, {})
    try:
        told: dict[str, Any] = json.loads(text)
        names = list(told["sources"])
        prefixes = {
            name: Prefix(*one["prefix"]) for name, one in told["sources"].items() if "prefix" in one
        }
        packed = base64.b64decode(told["runs"], validate=True)
        values = _from_varints(_decompress(packed))
        blocks = list(_blocks(values))
    except (KeyError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(f"{KEY} of the footer cannot be read: {error}") from error
    if not blocks:
        blocks = [(values, values, values)]
    source, first, count = (pa.concat_arrays(column) for column in zip(*blocks, strict=True))
    return Spans(names, source, first, count, prefixes)


def _blocks(values: pa.Int64Array) -> Iterable[_Columns]:
    """The row groups: source, first position and count of the runs of each."""
    at = 0
    while at < len(values):
        length = values[at].as_py()
        if length < 0 or at + 1 + 3 * length > len(values):
            raise ValueError("the runs end too early")
        source, count, step = (values.slice(at + 1 + i * length, length) for i in range(3))
        at += 1 + 3 * length
        step = pc.bit_wise_xor(_shift_right(step, 1), pc.negate(pc.bit_wise_and(step, 1)))
        unknown = pc.equal(pc.bit_wise_and(source, 1), 1)
        advance = pc.if_else(unknown, 0, count)
        first = pc.subtract(pc.cumulative_sum(pc.add(step, advance)), advance)
        yield (
            pc.shift_right(source, 1),
            pc.if_else(unknown, pa.scalar(None, pa.int64()), first),
            count,
        )


def _bounds(positions: Positions) -> tuple[int, int]:
    if isinstance(positions, range):
        return min(positions[0], positions[-1]), max(positions[0], positions[-1])
    found = pc.min_max(positions)
    return found["min"].as_py(), found["max"].as_py()


def _signed(value: int) -> int:
    """A number modulo 2^64 as a signed one, as Arrow's arithmetic wraps it."""
    value %= _WRAP
    return value - _WRAP if value >= _WRAP // 2 else value


def _zigzag(values: Any) -> Any:
    """Small numbers of either sign as small unsigned ones, of which int64 holds the bits."""
    return pc.bit_wise_xor(
        pc.add(values, values), pc.if_else(pc.less(values, 0), pa.scalar(-1, pa.int64()), 0)
    )


def _shift_right(values: Any, bits: int) -> Any:
    """Shifts the bits of 64-bit numbers as if they had no sign."""
    return pc.shift_right(values.view(pa.uint64()), pa.scalar(bits, pa.uint64())).view(pa.int64())


def _to_varints(values: Any) -> bytes:
    """Unsigned LEB128 of numbers whose 64 bits int64 holds; no work per value in Python.

    Each varint is laid out in a lane of 64 bits; then the bytes that are none of it are left out.
    """
    if len(values) == 0:
        return b""
    unsigned = values.view(pa.uint64())
    largest = pc.max(unsigned).as_py()
    if largest < 0x80:
        return _to_bytes(unsigned.cast(pa.uint8()))
    if largest >> _LANE_BITS:
        return b"".join(map(_to_varint, unsigned.to_pylist()))

    def of(number: int) -> Any:
        return pa.scalar(number, pa.uint64())

    lanes = pa.repeat(of(0), len(values))
    used = pa.repeat(of(1), len(values))  # zero is a varint of one byte too
    for k in range((largest.bit_length() + 6) // 7):
        rest = pc.shift_right(unsigned, of(7 * k))
        more = pc.greater(rest, of(0x7F)).cast(pa.uint64())
        byte = pc.bit_wise_or(pc.bit_wise_and(rest, of(0x7F)), pc.shift_left(more, of(7)))
        here = pc.greater(rest, of(0)).cast(pa.uint64())
        lanes = pc.bit_wise_or(lanes, pc.shift_left(byte, of(8 * k)))
        used = pc.bit_wise_or(used, pc.shift_left(here, of(8 * k)))
    mask = _bytes_of(used).cast(pa.bool_())
    return _to_bytes(_bytes_of(lanes).filter(mask))


def _bytes_of(lanes: pa.Array) -> pa.Array:
    """The bytes of 64-bit numbers, the lowest first."""
    return pa.Array.from_buffers(pa.uint8(), 8 * len(lanes), [None, lanes.buffers()[1]])


def _to_bytes(octets: Any) -> bytes:
    data: bytes = octets.buffers()[1].to_pybytes()
    return data[: len(octets)]


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _from_varints(data: bytes) -> Any:
    """The inverse of `_to_varints`.

    Raises:
        ValueError: the last varint has no end, or one has more than 64 bits.
    """
    if not data:
        return pa.array([], pa.int64())
    if data[-1] & 0x80:
        raise ValueError("the runs end inside of a number")
    octets = pa.Array.from_buffers(pa.uint8(), len(data), [None, pa.py_buffer(data)])
    ends = pc.indices_nonzero(pc.less(octets, 0x80)).cast(pa.int64())
    if len(ends) == len(data):
        return octets.cast(pa.int64())
    starts = pa.concat_arrays([pa.array([0], pa.int64()), pc.add(ends, 1).slice(0, len(ends) - 1)])
    sizes = pc.subtract(ends, starts)  # the bytes behind the first
    longest = pc.max(sizes).as_py()
    if longest > 9:
        raise ValueError("a number of the runs is too long")
    values = pa.repeat(pa.scalar(0, pa.uint64()), len(ends))
    for k in range(longest + 1):
        inside = pc.greater_equal(sizes, k)
        byte = octets.take(pc.min_element_wise(pc.add(starts, k), ends)).cast(pa.uint64())
        bits = pc.shift_left(
            pc.bit_wise_and(byte, pa.scalar(0x7F, pa.uint64())), pa.scalar(7 * k, pa.uint64())
        )
        bits = pc.if_else(inside, bits, pa.scalar(0, pa.uint64()))
        values = pc.bit_wise_or(values, bits)
    return values.view(pa.int64())


def _decompress(frames: bytes) -> bytes:
    if not frames:
        return b""
    return pa.CompressedInputStream(pa.BufferReader(frames), "zstd").read()
