"""Memory stays where it is, however many batches there are."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from tests.built import Table
from tests.oracle import parse
from tests.process import STATM, resident
from tests.strategies import payload

WARM_UP = 200
BATCHES = 1_000
GROWTH = 1.02

pytestmark = pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")


def assert_flat(work: Callable[[], object]) -> None:
    for _ in range(WARM_UP):
        work()
    gc.collect()
    before = resident()
    for _ in range(BATCHES):
        work()
    gc.collect()
    after = resident()
    assert after <= before * GROWTH, f"{before:,} bytes before, {after:,} after {BATCHES} batches"


@pytest.mark.parametrize("name", ["stellar.v1.ContractData", "kitchen.v1.Nested"])
class TestAThousandBatches:
    """The same input again and again."""

    def payloads(self, table: Table) -> list[bytes]:
        rng = random.Random(table.name)
        return [payload(rng, table.message.DESCRIPTOR) for _ in range(200)]

    def test_of_payloads_good_and_bad(self, built: dict[str, Table], name: str) -> None:
        table = built[name]
        converter: Any = table.converter()
        payloads = self.payloads(table)
        array = pa.array(payloads, pa.binary())
        assert converter.decode(payloads).rejected
        assert_flat(lambda: (converter.decode(payloads), converter.decode(array)))

    def test_back_to_protobuf(self, built: dict[str, Table], name: str) -> None:
        table = built[name]
        converter: Any = table.converter()
        valid = [p for p in self.payloads(table) if parse(table.message, p) is not None]
        batch = converter.to_arrow(valid)
        assert_flat(lambda: converter.to_protobuf(batch))

    def test_with_a_converter_each(self, built: dict[str, Table], name: str) -> None:
        table = built[name]
        payloads = self.payloads(table)[:20]
        assert_flat(lambda: table.converter().decode(payloads))
