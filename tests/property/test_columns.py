"""Columns are what `google.protobuf` says of the same bytes."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_runtime.converter import ConversionError
from tests.built import Table
from tests.oracle import differences, parse
from tests.strategies import mutate, payload, payloads

MUTATIONS = 10_000


class TestDecode:
    """`Converter.decode`."""

    @given(data=st.data())
    def test_columns_and_rejected_rows_equal_the_oracles(self, table: Table, data: Any) -> None:
        drawn = data.draw(st.lists(payloads(table.message.DESCRIPTOR), max_size=4))
        table.check(drawn, table.converter().decode(drawn))

    def test_ten_thousand_mutations_are_taken_or_rejected_as_protobuf_does(
        self, table: Table
    ) -> None:
        rng = random.Random(table.name)
        descriptor = table.message.DESCRIPTOR
        valid = [payload(rng, descriptor, noise=0.02) for _ in range(200)]
        mutants = [mutate(rng, rng.choice(valid), rng.choice(valid)) for _ in range(MUTATIONS)]
        converter = table.converter()
        batch = table.check(mutants, converter.decode(mutants))
        assert 0 < batch.num_rows < MUTATIONS
        # The state that a bad row leaves behind must not show in the next batch.
        table.check(valid, converter.decode(valid))

    def test_one_converter_makes_the_same_of_many_batches(self, table: Table) -> None:
        rng = random.Random(table.name)
        converter = table.converter()
        for rows in (1, 0, 300, 2, 70):
            drawn = [payload(rng, table.message.DESCRIPTOR) for _ in range(rows)]
            table.check(drawn, converter.decode(drawn))

    def test_a_batch_outlives_its_converter_and_later_batches(self, table: Table) -> None:
        rng = random.Random(table.name)
        first, second = (
            [payload(rng, table.message.DESCRIPTOR) for _ in range(50)] for _ in range(2)
        )
        converter = table.converter()
        decoded = converter.decode(first)
        converter.decode(second)
        del converter
        table.check(first, decoded)


class TestToArrow:
    """`Converter.to_arrow`."""

    @given(data=st.data())
    def test_it_is_the_batch_of_decode_or_names_the_first_bad_row(
        self, table: Table, data: Any
    ) -> None:
        drawn = data.draw(st.lists(payloads(table.message.DESCRIPTOR), max_size=3))
        expected = table.expect(drawn)
        converter = table.converter()
        if expected.rejected:
            with pytest.raises(ConversionError) as caught:
                converter.to_arrow(drawn)
            assert caught.value.row == expected.rejected[0]
            return
        batch = converter.to_arrow(drawn)
        assert not differences(table.program, table.message, expected, batch)


class TestInputs:
    """Every form in which payloads may come."""

    def test_bytes_messages_and_binary_arrays_give_the_same_rows(self, table: Table) -> None:
        rng = random.Random(table.name)
        drawn = [payload(rng, table.message.DESCRIPTOR) for _ in range(40)]
        drawn = [each for each in drawn if parse(table.message, each) is not None]
        # As messages they lose what only the wire has: so let all forms start from there.
        messages = [parse(table.message, each) for each in drawn]
        drawn = [message.SerializePartialToString() for message in messages if message is not None]
        padded = [b"\xff", *drawn, b"\xff"]
        forms: list[Any] = [
            drawn,
            tuple(drawn),
            messages,
            [bytearray(each) for each in drawn],
            pa.array(drawn, pa.binary()),
            pa.array(drawn, pa.large_binary()),
            pa.array(drawn, pa.binary_view()),
            pa.array(padded, pa.binary()).slice(1, len(drawn)),
            pa.array(padded, pa.large_binary()).slice(1, len(drawn)),
            pa.array(padded, pa.binary_view()).slice(1, len(drawn)),
        ]
        for form in forms:
            table.check(drawn, table.converter().decode(form))

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
    def test_a_null_in_an_array_is_a_rejected_row(self, table: Table, kind: pa.DataType) -> None:
        drawn = [None, b"", None, b"\xff", b""]
        for start in (0, 1, 2):
            array = pa.array(drawn, kind).slice(start)
            table.check(drawn[start:], table.converter().decode(array))

    def test_messages_need_not_be_initialized(self, built: dict[str, Table]) -> None:
        table = built["kitchen.v1.Proto2"]
        table.check([b""], table.converter().decode([table.message()]))
