"""A field that was `required` and is not: a message without it, which was kept whole, has nothing there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cdp_runtime.replay import run as replay
from cdp_runtime.upgrade import upgrade
from tests.versions import History

SALE = "shop.Sale"
PROTO2 = 'syntax = "proto2"; package shop; enum E { Z = 0; X = 1; } message P { %s }'
EDITION = 'edition = "2023"; package shop; message P { int32 a = 1 [features.field_presence = IMPLICIT]; }'
REQUIRED = " [features.field_presence = LEGACY_REQUIRED]"
FLAT = f"version: 1\ntables: {{{SALE}: {{columns: {{x: {{flatten: true}}}}}}}}\n"


def sale(fields: str, part: str = "optional int32 a = 1;") -> str:
    return f"{PROTO2 % part} message Sale {{ {fields} }}"


@pytest.mark.parametrize(
    ("field", "given", "nothing"),
    [
        ("required int32 x = 2;", b"\x10\x00", {"x": None}),
        ("required string x = 2;", b"\x12\x00", {"x": None}),
        ("required bytes x = 2;", b"\x12\x00", {"x": None}),
        ("required double x = 2;", b"\x11" + bytes(8), {"x": None}),
        ("required E x = 2;", b"\x10\x00", {"x": None}),
        ("required P x = 2;", b"\x12\x00", {"x": None}),
        ("required int32 x = 2; required string y = 3;", b"\x10\x00", {"x": None, "y": None}),
    ],
)
@pytest.mark.parametrize("more", [b"", b"\x48\x01", b"\x50\x01"], ids=["", "retired", "unknown"])
def test_what_was_not_there_is_null(
    history: History, field: str, given: bytes, nothing: dict[str, Any], more: bytes
) -> None:
    before = sale(f"optional int32 id = 1; {field} optional int32 old = 9;")
    history.build(before)
    history.write_payloads([b"\x08\x01" + more, b"\x08\x02" + given + more])
    first = replayed(history)
    after = before.replace("required", "optional").replace("optional int32 old = 9;", "reserved 9;")
    history.build(after)
    for _ in range(2):
        absent, there = sorted(history.rows(), key=lambda row: row["id"])
        assert {name: absent[name] for name in nothing} == nothing
        assert there["x"] is not None
        assert replayed(history) == first
        list(upgrade(history.archive, generated=history.today.generated))


def test_nor_is_it_a_zero_within_messages(history: History) -> None:
    fields = "optional P one = 1; repeated P many = 2; map<string, P> by = 3;"
    history.build(sale(fields, "required int32 a = 1;"))
    payload = b"\x0a\x00\x12\x00\x12\x02\x08\x00\x1a\x05\x0a\x01k\x12\x00"
    history.write_payloads([payload])
    first = replayed(history)
    history.build(sale(fields, "optional int32 a = 1;"))
    for _ in range(2):
        (row,) = history.rows()
        assert row["one"] == {"a": None}
        assert row["many"] == [{"a": None}, {"a": 0}]
        assert row["by"] == {"k": {"a": None}}
        assert row["_raw"] is None
        assert replayed(history) == first
        list(upgrade(history.archive, generated=history.today.generated))


def test_nor_is_it_one_that_is_flattened(history: History) -> None:
    history.build(f"{EDITION} message Sale {{ P x = 2{REQUIRED}; }}", FLAT)
    history.write_payloads([b"", b"\x12\x00", b"\x12\x02\x08\x05"])
    history.build(f"{EDITION} message Sale {{ P x = 2; }}", FLAT)
    for _ in range(2):
        assert [row["a"] for row in history.rows()] == [None, 0, 5]
        list(upgrade(history.archive, generated=history.today.generated))


def test_a_value_under_another_number_stays(history: History) -> None:
    before = sale("required int32 x = 2; required int32 y = 3;")
    history.build(before)
    history.write_payloads([b"\x10\x05"])
    after = sale("reserved 2; optional int32 now = 4; optional int32 y = 3;")
    history.build(after, f"version: 1\nevolution: {{renames: {{{SALE}.x: now}}}}\n")
    for _ in range(2):
        (row,) = history.rows()
        assert (row["now"], row["y"]) == (5, None)
        list(upgrade(history.archive, generated=history.today.generated))


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path, SALE)


def replayed(history: History) -> bytes:
    output = history.archive.parent / "replayed.pb"
    output.unlink(missing_ok=True)
    generated = str(history.today.generated)
    assert replay(str(history.archive), generated=generated, output=str(output)) == 0
    return output.read_bytes()
