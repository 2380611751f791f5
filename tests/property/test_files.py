"""Messages in files: whatever page a value is in, readers find it, and the message comes back."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from cdp_runtime.parquet_file import Compressor, Layout, ParquetFile
from tests.built import Table
from tests.property.test_round_trip import valid
from tests.strategies import payload

PAGE_ROWS = 65_536


@pytest.mark.parametrize("first", ["values", "nothing"])
def test_pages_without_values_stand_anywhere(table: Table, tmp_path: Path, first: str) -> None:
    rng = random.Random(table.name)
    descriptor = table.message.DESCRIPTOR
    drawn = valid(table.message, [payload(rng, descriptor, 0.0) for _ in range(500)])
    nothing = [_of_nothing(table)] * (PAGE_ROWS + 100)
    converter = table.converter()
    pieces = [drawn, nothing, drawn] if first == "values" else [nothing, drawn, nothing]
    batches = [converter.to_arrow(payloads) for payloads in pieces]
    path = tmp_path / "file.parquet"
    with path.open("wb") as out:
        file = ParquetFile(Layout(batches[0].schema, Compressor("lz4")), out.write)
        for batch in batches:
            file.append(batch)
        file.end_row_group()
        file.append(batches[pieces.index(nothing)].slice(0, 10))  # a row group of nothing
        file.finish({})

    found = pq.read_table(path, page_checksum_verification=True)
    found.validate(full=True)
    rows = sum(map(len, pieces))
    assert found.num_rows == rows + 10
    kept = found.slice(0 if first == "values" else len(nothing), len(drawn)).combine_chunks()
    if table.program.raw:
        (batch,) = kept.to_batches()
        wanted = converter.to_protobuf(batches[pieces.index(drawn)])
        assert converter.to_protobuf(batch).to_pylist() == wanted.to_pylist()
    columns = ", ".join(f'count("{name}")' for name in found.column_names)
    counts = duckdb.sql(f"select count(*), {columns} from '{path}'").fetchall()
    nulls = [found.column(name).null_count for name in found.column_names]
    assert counts == [(rows + 10, *(rows + 10 - null for null in nulls))]


def _of_nothing(table: Table) -> bytes:
    """A message with as little as may be."""
    message = table.message()
    for field in message.DESCRIPTOR.fields:
        if field.is_required:
            getattr(message, field.name)
            if field.message_type is not None:
                getattr(message, field.name).SetInParent()
            else:
                setattr(message, field.name, field.default_value)
    return message.SerializePartialToString()
