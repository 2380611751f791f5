"""Bytes to record batches and back, beside the peers: the table of issue 3."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import protarrow
import ptars
import pyarrow as pa
import pybufarrow
import pytest

from tests.benchmarks import handwritten
from tests.benchmarks.conftest import SCHEMAS
from tests.benchmarks.payloads import SHAPES, Shape, messages
from tests.benchmarks.timing import OURS, race
from tests.built import Table

ROUNDS = 31
SLOW_ROUNDS = 7


class Case(NamedTuple):
    """A shape with everything that turns it into something else."""

    shape: Shape
    table: Table
    payloads: list[bytes]
    array: pa.BinaryArray
    converter: Any
    ptars: Any

    @property
    def about(self) -> dict[str, object]:
        return {
            "shape": self.shape.title,
            "rows": len(self.payloads),
            "size": sum(map(len, self.payloads)),
        }


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: shape.title)
def case(request: pytest.FixtureRequest, shapes: dict[str, Table]) -> Case:
    shape: Shape = request.param
    table = shapes[shape.message]
    payloads = [
        message.SerializeToString()
        for message in messages(shape, sys.modules[table.message.__module__])
    ]
    pool = ptars.HandlerPool(
        [table.message.DESCRIPTOR.file], ptars.PtarsConfig(timestamp_unit="us")
    )
    return Case(
        shape,
        table,
        payloads,
        pa.array(payloads, pa.binary()),
        table.converter(),
        pool.get_for_message(table.message.DESCRIPTOR),
    )


def same(ours: pa.RecordBatch, theirs: pa.RecordBatch) -> bool:
    """Whether two batches hold the same, as far as both have columns of one type for it."""
    shared = [
        name
        for name in theirs.schema.names
        if name in ours.schema.names and ours.schema.field(name).type == theirs.field(name).type
    ]
    return ours.num_rows == theirs.num_rows and all(
        _values(ours.column(name)).equals(_values(theirs.column(name))) for name in shared
    )


def _values(column: pa.Array) -> pa.Array:
    """Without a dictionary, which may have its values in any order."""
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def memcpy(payloads: list[bytes]) -> Callable[[], object]:
    source = pa.py_buffer(b"".join(payloads))
    target = pa.allocate_buffer(source.size)
    return lambda: ctypes.memmove(target.address, source.address, source.size)


def test_list_in(benchmark: Any, case: Case) -> None:
    payloads, ours, theirs = case.payloads, case.converter, case.ptars
    assert same(ours.to_arrow(payloads), theirs.list_to_record_batch(payloads))
    contenders = {
        OURS: lambda: ours.to_arrow(payloads),
        "ptars": lambda: theirs.list_to_record_batch(payloads),
        "memcpy": memcpy(payloads),
    }
    race(benchmark, contenders, rounds=ROUNDS, table="convert", road="list in", **case.about)


def test_array_in(benchmark: Any, case: Case) -> None:
    array, ours, theirs = case.array, case.converter, case.ptars
    assert same(ours.to_arrow(array), theirs.array_to_record_batch(array))
    contenders = {
        OURS: lambda: ours.to_arrow(array),
        "ptars": lambda: theirs.array_to_record_batch(array),
        "memcpy": memcpy(case.payloads),
    }
    race(benchmark, contenders, rounds=ROUNDS, table="convert", road="array in", **case.about)


def test_arrow_back_to_protobuf(benchmark: Any, case: Case) -> None:
    ours, theirs = case.converter, case.ptars
    our_batch = ours.to_arrow(case.array)
    their_batch = theirs.array_to_record_batch(case.array)
    parse = case.table.message.FromString
    for batch, back in (
        (our_batch, ours.to_protobuf(our_batch)),
        (their_batch, theirs.record_batch_to_array(their_batch)),
    ):
        assert len(back) == batch.num_rows
        for before, after in zip(case.payloads[:50], back[:50].to_pylist(), strict=True):
            assert parse(before) == parse(after)
    contenders = {
        OURS: lambda: ours.to_protobuf(our_batch),
        "ptars": lambda: theirs.record_batch_to_array(their_batch),
        "memcpy": memcpy(case.payloads),
    }
    race(benchmark, contenders, rounds=ROUNDS, table="convert", road="back", **case.about)


def test_slower_peers(benchmark: Any, case: Case) -> None:
    payloads, ours = case.payloads, case.converter
    message_type = case.table.message
    schema = case.table.converter.schema
    by_hand = handwritten.record_batch(schema, message_type, payloads)
    maps = [field.name for field in by_hand.schema if pa.types.is_map(field.type)]
    assert same(ours.to_arrow(payloads), by_hand.drop_columns(maps))  # theirs in any order
    proto = "cdpgen_bench/v1/shapes.proto"
    hyper = pybufarrow.HyperType(proto, case.shape.message, [str(SCHEMAS)])
    transcoder = pybufarrow.Transcoder.from_proto_file(
        proto, case.shape.message, [str(SCHEMAS)], hyper_type=hyper, well_known_types=True
    )

    def with_pybufarrow() -> pa.RecordBatch:
        for payload in payloads:
            transcoder.append(payload)
        return transcoder.flush()

    assert with_pybufarrow().num_rows == len(payloads)
    contenders = {
        OURS: lambda: ours.to_arrow(payloads),
        "pybufarrow": with_pybufarrow,
        "protarrow": lambda: protarrow.messages_to_record_batch(
            [message_type.FromString(payload) for payload in payloads], message_type
        ),
        "by hand": lambda: handwritten.record_batch(schema, message_type, payloads),
    }
    race(benchmark, contenders, rounds=SLOW_ROUNDS, table="peers", **case.about)
