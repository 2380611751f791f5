"""A field that was `required` and is not: a message without it, which was kept whole, has nothing there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
    first = history.replayed()
    after = before.replace("required", "optional").replace("optional int32 old = 9;", "reserved 9;")
    history.build(after)
    for _ in range(2):
        absent, there = sorted(history.rows(), key=lambda row: row["id"])
        assert {name: absent[name] for name in nothing} == nothing
        assert there["x"] is not None
        assert history.replayed() == first
        list(upgrade(history.archive, generated=history.today.generated))


def test_nor_is_it_a_zero_within_messages(history: History) -> None:
    fields = "optional P one = 1; repeated P many = 2; map<string, P> by = 3;"
    history.build(sale(fields, "required int32 a = 1;"))
    payload = b"\x0a\x00\x12\x00\x12\x02\x08\x00\x1a\x05\x0a\x01k\x12\x00"
    history.write_payloads([payload])
    first = history.replayed()
    history.build(sale(fields, "optional int32 a = 1;"))
    for _ in range(2):
        (row,) = history.rows()
        assert row["one"] == {"a": None}
        assert row["many"] == [{"a": None}, {"a": 0}]
        assert row["by"] == {"k": {"a": None}}
        assert row["_raw"] is None
        assert history.replayed() == first
        list(upgrade(history.archive, generated=history.today.generated))


def test_nor_is_it_one_that_is_flattened(history: History) -> None:
    history.build(f"{EDITION} message Sale {{ P x = 2{REQUIRED}; }}", FLAT)
    history.write_payloads([b"", b"\x12\x00", b"\x12\x02\x08\x05"])
    history.build(f"{EDITION} message Sale {{ P x = 2; }}", FLAT)
    for _ in range(2):
        assert [row["a"] for row in history.rows()] == [None, 0, 5]
        list(upgrade(history.archive, generated=history.today.generated))


PARTS = {
    "": ("%s int32 x = 2;", "x", b"\x10\x00", b""),
    "beside something unknown": ("%s int32 x = 2;", "x", b"\x10\x00\x50\x01", b"\x50\x01"),
    "text": ("%s string x = 2;", "x", b"\x12\x00", b""),
    "message": ("%s P x = 2;", "x", b"\x12\x00", b""),
    "in a message": ("optional P p = 3;", "p.a", b"\x1a\x02\x08\x00", b"\x1a\x00"),
    "in a message that goes": (
        "optional P p = 3;",
        "p",
        b"\x1a\x02\x08\x00",
        b"\x1a\x00",
    ),
    "in a list": ("repeated P p = 3;", "p.a", b"\x1a\x02\x08\x00", b"\x1a\x00"),
    "in a map": (
        "map<string, P> p = 3;",
        "p.value.a",
        b"\x1a\x06\x0a\x00\x12\x02\x08\x00",
        b"\x1a\x04\x0a\x00\x12\x00",
    ),
}


@pytest.mark.parametrize("relaxed", [1, 2, 3, 4], ids=["at once", "later", "then", "never"])
@pytest.mark.parametrize("kind", PARTS)
def test_nor_where_it_was_left_out_for_a_while(history: History, kind: str, relaxed: int) -> None:
    fields, left_out, given, absent = PARTS[kind]
    column, payloads = left_out.split(".")[0], [b"\x08\x01" + absent, b"\x08\x02" + given]
    rules = f"version: 1\ntables: {{{SALE}: {{columns: {{{left_out}: {{drop: true}}}}}}}}"
    for number in range(5):
        label = "optional" if number >= relaxed else "required"
        own = "optional" if "%s" in fields else label
        part = f"{own} int32 a = 1; optional int32 b = 2;"
        field = fields.replace("%s", label)
        more = "".join(f"optional int32 more_{i} = {20 + i};" for i in range(number))
        history.build(
            sale(f"optional int32 id = 1; {field} {more}", part),
            rules if 0 < number < 3 else "version: 1",
        )
        if number == 0:
            history.write_payloads(payloads)
            first = history.replayed()
            zero = {row["id"]: row[column] for row in history.rows()}[2]
        if number >= 3 and relaxed < 4:
            values = {row["id"]: row[column] for row in history.rows()}
            assert values[2] == zero
            assert values[1] != zero
        assert history.replayed() == first
        list(upgrade(history.archive, generated=history.today.generated))
        assert history.replayed() == first


def test_nor_where_its_message_was_flattened(history: History) -> None:
    proto = f"{EDITION} message Sale {{ P x = 2%s; %s }}"
    history.build(proto % (REQUIRED, ""), FLAT)
    payloads = [b"", b"\x12\x00", b"\x12\x02\x08\x05"]
    history.write_payloads(payloads)
    first = history.replayed()
    dropped = FLAT.replace("flatten: true", "drop: true")
    for label, more, rules in (
        (REQUIRED, "", dropped),
        ("", "int32 b = 3;", dropped),
        ("", "int32 b = 3; int32 c = 4;", FLAT),
    ):
        history.build(proto % (label, more), rules)
        assert history.replayed() == first
        list(upgrade(history.archive, generated=history.today.generated))
        assert history.replayed() == first
    assert [row["a"] for row in history.rows()] == [None, 0, 5]


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
