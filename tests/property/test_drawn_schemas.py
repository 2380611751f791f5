"""What holds for the schemas at hand holds for any: Hypothesis draws schemas, rules, messages."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, note, settings
from hypothesis import strategies as st

from cdpgen.errors import UsageError
from tests.built import Table, build_tables
from tests.drawn_schemas import DrawnSchema
from tests.oracle import canonical, drops, parse
from tests.strategies import payload, schemas

EXAMPLES = 4
"""Schemas for each message that is drawn otherwise: building them costs a few milliseconds each."""
MESSAGES = 30


@contextmanager
def tables(schema: DrawnSchema) -> Iterator[list[Table]]:
    """The tables of a drawn schema; one that the generator refuses is not counted."""
    with tempfile.TemporaryDirectory(prefix="cdpgen-drawn-") as folder:
        path = Path(folder, "schemas", schema.path)
        path.parent.mkdir(parents=True)
        path.write_text(schema.proto, encoding="utf-8")
        Path(folder, "schemas", "cdpgen.yaml").write_text(schema.rules, encoding="utf-8")
        package = schema.package.partition(".")[0] + "_generated"
        try:
            built = build_tables(Path(folder, "schemas"), Path(folder, package))
        except UsageError as error:
            event(f"refused: {str(error).partition('`')[2]:.20}")
            assume(False)
        yield list(built.values())


@settings(
    max_examples=EXAMPLES * settings().max_examples,
    suppress_health_check=[*HealthCheck],
)
@given(schema=schemas(), seed=st.integers(0, 1 << 32))
def test_columns_equal_the_oracles_and_messages_come_back(schema: DrawnSchema, seed: int) -> None:
    note(str(schema))
    rng = random.Random(seed)
    with tables(schema) as built:
        for table in built:
            for noise in (0.0, 0.1):
                drawn = [payload(rng, table.message.DESCRIPTOR, noise) for _ in range(MESSAGES)]
                check(table, drawn)


def check(table: Table, drawn: list[bytes]) -> None:
    converter: Any = table.converter()
    batch = table.check(drawn, converter.decode(drawn))
    if not table.program.raw or drops(table.program):
        return
    valid = [each for each in drawn if parse(table.message, each) is not None]
    back = converter.to_protobuf(batch).to_pylist()
    for before, after in zip(valid, back, strict=True):
        assert canonical(table.message, after) == canonical(table.message, before), (
            f"{before.hex()} came back as {after.hex()}"
        )
    assert converter.to_protobuf(converter.to_arrow(back)).to_pylist() == back


@pytest.mark.parametrize(
    ("package", "syntax", "fields", "is_message"),
    [
        ("dropped", "proto2", "oneof what { Link next = 1; string text = 2; }", True),
        ("recurring", "proto3", "Link next = 1; string text = 2;", False),
    ],
)
def test_a_dropped_string_is_checked_as_protobuf_does_where_its_message_is_kept_as_bytes(
    package: str, syntax: str, fields: str, is_message: bool
) -> None:
    name = f"{package}.v1.Link"
    proto = f'syntax = "{syntax}"; package {package}.v1; message Link {{ {fields} }}'
    rules = f"version: 1\ntables: {{{name}: {{columns: {{text: {{drop: true}}}}}}}}\n"
    path = f"{package}/v1/{package}.proto"
    with tables(DrawnSchema(f"{package}.v1", path, proto, rules, (name,))) as built:
        (table,) = built
        payload = b"\x0a\x05\x0a\x03\x12\x01\xff"
        assert (parse(table.message, payload) is not None) == is_message
        check(table, [payload])
