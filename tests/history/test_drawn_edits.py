"""Whenever the check lets an edit pass, old files read as `google.protobuf` reads the old bytes today.

`CDPGEN_EDITS=5000` draws as many; without it always the same few.
"""

from __future__ import annotations

import os
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st

from cdp_runtime.program import Presence, Program
from cdp_runtime.upgrade import upgrade
from cdp_runtime.versions import children_of, field_id
from cdpgen.errors import UsageError
from cdpgen.evolution import BreakingError
from tests import oracle
from tests.drawn_schemas import draw_schema
from tests.history.drawn_edits import Edits
from tests.strategies import payload
from tests.versions import History

EXAMPLES = int(os.environ.get("CDPGEN_EDITS", "30"))
MESSAGES = 25

ZEROS: tuple[Any, ...] = (0, "", b"", False, ("float", 0), ("double", 0), [])
ZERO_NAME = re.compile(r"E\w+_0")
"""How an enum that is drawn calls its zero."""

judged = {"safe": 0, "breaking": 0}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="CDPGEN_EDITS" not in os.environ,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(seed=st.integers(0, 1 << 48))
def test_what_the_check_lets_pass_is_read_as_protobuf_reads_it(seed: int) -> None:
    rng = random.Random(seed)
    schema = draw_schema(rng)
    edits = Edits(rng, schema)
    meant_safe = rng.random() < 0.65
    before = edits.proto, edits.rules_text
    for _ in range(rng.randrange(1, 5)):
        edits.edit(safe=meant_safe)
    note(
        f"seed {seed}\n{schema}\n" + "\n".join(edits.done) + f"\n{edits.proto}\n{edits.rules_text}"
    )
    with tempfile.TemporaryDirectory(prefix="cdpgen-edits-") as folder:
        history = History(Path(folder), "", schema.path)
        try:
            history.build(*before)
            written = {table: archive(history, table, rng) for table in history.today.writers}
            history.build(edits.proto, edits.rules_text)
        except UsageError as error:
            event(f"refused: {str(error).partition('`')[2]:.20}")
            return
        except BreakingError as error:
            judged["breaking"] += 1
            event(f"breaking: {sorted({finding.rule.id for finding in error.findings})}")
            return
        judged["safe"] += 1
        event("safe")
        for table, payloads in written.items():
            if payloads and table in history.today.writers:
                history.table = table
                check(history, payloads)


def test_enough_of_the_edits_were_safe_and_some_were_not() -> None:
    """After the above, in the same process."""
    assert judged["safe"] >= EXAMPLES // 4
    assert judged["breaking"] >= EXAMPLES // 10


def archive(history: History, table: str, rng: random.Random) -> list[bytes]:
    """Archives random messages as a writer of this version makes them, and returns them."""
    history.table = table
    message = history.message
    drawn = [payload(rng, message.DESCRIPTOR, 0) for _ in range(MESSAGES)]
    parsed = [found for each in drawn if (found := oracle.parse(message, each)) is not None]
    payloads = [found.SerializePartialToString(deterministic=True) for found in parsed]
    rejected = {bad.row for bad in history.writer.converter().decode(payloads).rejected}
    good = [each for row, each in enumerate(payloads) if row not in rejected]
    if good:
        history.write_payloads(good)
    return good


def check(history: History, payloads: list[bytes]) -> None:
    old = history.versions[0].writers[history.table].converter.schema
    converter = history.writer.converter
    expected = oracle.expect(converter.program, converter.schema, history.message, payloads)
    assert not expected.rejected
    want = oracle.plain(converter.program, history.message, expected.batch)
    assert_same(history, old, want, payloads)
    list(upgrade(history.archive, generated=history.today.generated))
    assert_same(history, old, want, payloads)


def assert_same(
    history: History, old: pa.Schema, want: dict[str, list[Any]], payloads: list[bytes]
) -> None:
    converter = history.writer.converter
    batch = history.batch()
    have = oracle.plain(converter.program, history.message, batch)
    replayed = converter().to_protobuf(batch).to_pylist()
    before = history.versions[0].writers[history.table].converter.program
    implicit, required = (set(with_presence(before, each)) for each in ("implicit", "required"))
    # in a flattened message zero without presence may be null; zero of what is required is no absence
    known = {
        field_id(field): field.with_nullable(
            (field.nullable or field.name in required) and field.name not in implicit
        )
        for field in old
    }
    dropped = {item.number for item in converter.program.fields if item.column is None}
    retired = set(ids(old)) - set(ids(converter.schema))
    retired_of_flattened = bool(retired) and flattens(converter.program)
    for field in converter.schema:
        for row, (a, b) in enumerate(zip(want[field.name], have[field.name], strict=True)):
            if field.name == converter.program.raw:
                # what is retired is unknown to the new schema, and was a column of the old; so was perhaps
                # what told a flattened message without any values from none. An upgrade keeps such messages as
                # the columns gave them, without what a rule drops.
                same = a == b or (
                    (b is None or has_unknown(history, b))
                    and (has_unknown(history, payloads[row]) or retired_of_flattened)
                )
                # nor does it keep one whole of which the columns give every byte; but one that was whole in the
                # file, as the columns of then could not hold it, it keeps for what a rule drops
                same = same or (b is None and replayed[row] == payloads[row])
                same = same or (b == payloads[row] and has_field(history, b, dropped))
            else:
                same = is_same(a, b, field, known.get(field_id(field)))
            assert same, f"row {row}, {payloads[row].hex()}, {field}: expected {a!r}, got {b!r}"


def ids(fields: Any) -> Iterator[int | None]:
    """The ids of columns and of those within."""
    for field in fields:
        yield field_id(field)
        yield from ids(children_of(field.type))


def flattens(program: Program) -> bool:
    return any(
        item.encoding == "flatten" or (item.program is not None and flattens(item.program))
        for item in program.fields
    )


def with_presence(program: Program, presence: Presence) -> Iterator[str]:
    """The columns of fields with that presence, those of flattened messages too."""
    for item in program.fields:
        if item.encoding == "flatten" and item.program is not None:
            yield from with_presence(item.program, presence)
        elif item.presence == presence and item.column:
            yield item.column


def has_field(history: History, payload: bytes, numbers: set[int]) -> bool:
    message: Any = history.message.FromString(payload)
    return any(field.number in numbers for field, _ in message.ListFields())


def has_unknown(history: History, payload: bytes) -> bool:
    message: Any = history.message.FromString(payload)
    whole = message.SerializePartialToString()
    message.DiscardUnknownFields()
    return bool(message.SerializePartialToString() != whole)


def is_same(want: Any, have: Any, field: Any, old: Any) -> bool:
    """Equal; but what was not there and had no presence, and has it now, is the zero that it was.

    And a column that is new in a flattened message is null in old rows, whether that was there or not.
    """
    if want == have:
        return True
    if old is None and have is None:
        return is_zero(want)
    if old is None or have is None:
        return False
    if want is None and field.name.endswith("_case"):
        return str(have).startswith("n")  # a member that is retired
    if want is None:
        return not old.nullable and is_zero(have)
    kind, before = field.type, old.type
    if pa.types.is_struct(kind):
        known = {field_id(child): child for child in before}
        return all(is_same(want[c.name], have[c.name], c, known.get(field_id(c))) for c in kind)
    if pa.types.is_map(kind):
        wanted, had = dict(map(by_key, want)), dict(map(by_key, have))
        return wanted.keys() == had.keys() and all(
            is_same(wanted[key], had[key], kind.item_field, before.item_field) for key in wanted
        )
    if pa.types.is_list(kind):
        return len(want) == len(have) and all(
            is_same(a, b, kind.value_field, before.value_field)
            for a, b in zip(want, have, strict=True)
        )
    return False


def is_zero(value: Any) -> bool:
    return value in ZEROS or (isinstance(value, str) and bool(ZERO_NAME.fullmatch(value)))


def by_key(entry: tuple[Any, Any]) -> tuple[str, Any]:
    return repr(entry[0]), entry[1]
