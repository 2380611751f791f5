"""Positions in footers: what is read is what was written, row by row."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_runtime.payloads import Positions
from cdp_runtime.positions import KEY, Part, PositionsBuilder, Run, runs
from generated.stellar.v1.asset_details_pb2 import AssetDetails
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter

INT64 = st.integers(-(2**63), 2**63 - 1)
ARRAYS = st.lists(INT64 | st.integers(0, 300), min_size=1, max_size=20)
RANGES = st.builds(
    lambda start, rows, step: range(start, start + rows * step, step),
    st.integers(-1_000, 2**60),
    st.integers(1, 50),
    st.sampled_from([1, 1, 1, 3]),
)


@st.composite
def row_groups(draw: st.DrawFn) -> list[tuple[list[Part], list[int] | None]]:
    """Row groups of parts, some of them sorted into another order."""
    groups = []
    for _ in range(draw(st.integers(0, 4))):
        parts = []
        for _ in range(draw(st.integers(1, 5))):
            source = draw(st.sampled_from(["", "a", "ü.pb", 'b"']))
            drawn = draw(ARRAYS | RANGES | st.integers(1, 30))
            positions: Positions | None = (
                None
                if isinstance(drawn, int)
                else drawn
                if isinstance(drawn, range)
                else pa.array(drawn, pa.int64())
            )
            parts.append(Part(source, positions, drawn if isinstance(drawn, int) else len(drawn)))
        rows = sum(part.rows for part in parts)
        groups.append((parts, draw(st.none() | st.permutations(range(rows)))))
    return groups


def metadata(groups: list[tuple[list[Part], list[int] | None]]) -> dict[bytes, bytes]:
    builder = PositionsBuilder()
    for parts, order in groups:
        builder.add_row_group(parts, None if order is None else pa.array(order, pa.uint64()))
    return {KEY.encode(): builder.metadata({}).encode()}


def rows_of(found: list[Run]) -> list[tuple[str, int | None]]:
    return [
        (run.source, None if run.first is None else run.first + i)
        for run in found
        for i in range(run.count)
    ]


def given_rows(groups: list[tuple[list[Part], list[int] | None]]) -> list[tuple[str, int | None]]:
    out = []
    for parts, order in groups:
        rows: list[tuple[str, int | None]] = []
        for source, positions, count in parts:
            values: list[Any] = (
                [None] * count
                if positions is None
                else list(positions)
                if isinstance(positions, range)
                else positions.to_pylist()
            )
            rows += [(source, value) for value in values]
        out += rows if order is None else [rows[i] for i in order]
    return out


class TestRuns:
    @given(row_groups())
    @settings(max_examples=200, deadline=None)
    def test_every_row_has_the_source_and_position_it_was_written_with(
        self, groups: list[tuple[list[Part], list[int] | None]]
    ) -> None:
        assert rows_of(runs(metadata(groups))) == given_rows(groups)

    def test_ranges_that_follow_each_other_are_one_run(self) -> None:
        parts = [Part("a", range(0, 10), 10), Part("a", range(10, 30), 20)]
        assert runs(metadata([(parts, None)])) == [Run("a", 0, 30)]

    def test_a_footer_without_the_key_has_no_runs(self) -> None:
        assert runs({b"other": b"x"}) == []

    @pytest.mark.parametrize(
        "text",
        [
            "no json",
            "[]",
            '{"sources": {}}',
            '{"sources": {}, "runs": "!"}',
            '{"sources": {}, "runs": "AAAA"}',
            json.dumps(
                {
                    "sources": {"a": {}},
                    "runs": base64.b64encode(
                        pa.compress(b"\x05\x00", codec="zstd", asbytes=True)
                    ).decode(),
                }
            ),
        ],
    )
    def test_a_damaged_footer_is_a_value_error(self, text: str) -> None:
        with pytest.raises(ValueError, match="of the footer cannot be read"):
            runs({KEY.encode(): text.encode()})

    def test_positions_picked_at_random_cost_at_most_three_bytes_a_row(self) -> None:
        positions = list(itertools.accumulate((i * 7919) % 127 + 1 for i in range(50_000)))
        [value] = metadata([([Part("a", pa.array(positions, pa.int64()), 50_000)], None)]).values()
        assert len(value) < 3 * 50_000


class TestPositionsBuilder:
    @given(row_groups())
    @settings(max_examples=50, deadline=None)
    def test_it_tells_first_and_last_position_and_rows_of_each_source(
        self, groups: list[tuple[list[Part], list[int] | None]]
    ) -> None:
        told = json.loads(metadata(groups)[KEY.encode()])["sources"]
        rows = given_rows(groups)
        assert list(told) == list(dict.fromkeys(p.source for parts, _ in groups for p in parts))
        for source, one in told.items():
            known = [p for s, p in rows if s == source and p is not None]
            assert one == {
                "first": min(known, default=None),
                "last": max(known, default=None),
                "rows": sum(s == source for s, _ in rows),
            }


class TestFooters:
    def test_positions_follow_the_rows_through_partitions_and_sorting(self, tmp_path: Any) -> None:
        day = 86_400
        expected = {}
        with AssetDetailsWriter(tmp_path, row_group_mb=0.01) as writer:
            for source in ("a", "b"):
                messages = []
                for i in range(3_000):
                    message = AssetDetails(code=f"{source}{i}")
                    # three days, and within each an order that is not the one of writing
                    message.timestamp.seconds = (i % 3) * day + (i * 7919) % 1_000
                    messages.append(message)
                    expected[message.code] = (source, 10 * i)
                writer.write_many(messages, source=source, positions=[10 * i for i in range(3_000)])
            for i in range(100):
                writer.write(AssetDetails(code=f"none{i}"))
                expected[f"none{i}"] = ("", None)
            for i in range(100):
                writer.write(AssetDetails(code=f"one{i}"), source="one", position=i)
                expected[f"one{i}"] = ("one", i)
        found = {}
        for path in tmp_path.rglob("*.parquet"):
            file = pq.ParquetFile(path)
            codes = file.read(["code"])["code"].to_pylist()
            rows = rows_of(runs(file.metadata.metadata))
            assert len(rows) == len(codes)
            found.update(zip(codes, rows, strict=True))
        assert found == expected

    def test_dead_letters_have_positions_too(self, tmp_path: Any) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            writer.write_many([b"\xff", b"", b"\xff"], source="s", positions=[4, 7, 9])
            writer.reject(b"?", "no message", source="t", position=1)
        [path] = tmp_path.glob("_dead_letter/*/*.parquet")
        assert rows_of(runs(pq.read_metadata(path).metadata)) == [("s", 4), ("s", 9), ("t", 1)]
