"""Every valid message can be had back from its row."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from cdp_runtime.converter import Converter
from tests.built import Table
from tests.oracle import canonical, parse
from tests.strategies import payload, payloads

pytestmark = pytest.mark.skipif(
    not hasattr(Converter, "to_protobuf"), reason="this core has no encoder"
)


def valid(message: type[Message], drawn: list[bytes]) -> list[bytes]:
    """The payloads that are messages."""
    return [each for each in drawn if parse(message, each) is not None]


def check(table: Table, drawn: list[bytes]) -> pa.BinaryArray:
    """Asserts that what comes back of payloads parses equal to them."""
    assert table.program.raw
    converter = table.converter()
    batch = converter.to_arrow(drawn)
    back = converter.to_protobuf(batch)
    assert isinstance(back, pa.BinaryArray)
    assert back.null_count == 0
    for row, (before, after) in enumerate(zip(drawn, back.to_pylist(), strict=True)):
        assert canonical(table.message, after) == canonical(table.message, before), (
            f"row {row}: {before.hex()} came back as {after.hex()}"
        )
    return back


class TestToProtobuf:
    """`Converter.to_protobuf`."""

    @given(data=st.data())
    def test_what_comes_back_parses_equal(self, built: dict[str, Table], data: Any) -> None:
        for table in lossless(built):
            drawn = data.draw(st.lists(payloads(table.message.DESCRIPTOR), max_size=2))
            check(table, valid(table.message, drawn))

    def test_a_thousand_of_each_table_come_back_equal(self, built: dict[str, Table]) -> None:
        for table in lossless(built):
            for noise in (0.0, 0.1):
                rng = random.Random(table.name)
                descriptor = table.message.DESCRIPTOR
                drawn = [payload(rng, descriptor, noise) for _ in range(1_000)]
                check(table, valid(table.message, drawn))

    def test_it_is_deterministic(self, built: dict[str, Table]) -> None:
        for table in lossless(built):
            rng = random.Random(table.name)
            drawn = [payload(rng, table.message.DESCRIPTOR, 0.0) for _ in range(100)]
            drawn = valid(table.message, drawn)
            assert check(table, drawn).equals(check(table, drawn))

    def test_a_slice_of_a_batch_gives_the_messages_of_its_rows(
        self, built: dict[str, Table]
    ) -> None:
        for table in lossless(built):
            rng = random.Random(table.name)
            drawn = [payload(rng, table.message.DESCRIPTOR) for _ in range(60)]
            drawn = valid(table.message, drawn)
            converter = table.converter()
            batch = converter.to_arrow(drawn)
            whole = converter.to_protobuf(batch)
            for start, length in ((0, 0), (1, 7), (13, 30)):
                part = converter.to_protobuf(batch.slice(start, length))
                assert part.equals(whole.slice(start, length))

    def test_columns_alone_rebuild_what_needs_no_raw(self, built: dict[str, Table]) -> None:
        # Scalars has no `_raw`: it must not need one for what a serializer writes.
        table = built["kitchen.v1.Scalars"]
        rng = random.Random(1)
        drawn = [payload(rng, table.message.DESCRIPTOR, 0.0) for _ in range(500)]
        drawn = valid(table.message, drawn)
        converter = table.converter()
        back = converter.to_protobuf(converter.to_arrow(drawn)).to_pylist()
        for before, after in zip(drawn, back, strict=True):
            assert canonical(table.message, after) == canonical(table.message, before)


def lossless(built: dict[str, Table]) -> list[Table]:
    """The tables that keep all of every message."""
    return [t for t in built.values() if t.program.raw and t.name != "kitchen.v1.Dropped"]
