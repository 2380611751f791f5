"""What a serializer never writes and a parser has to take, case by case."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import pytest

from tests.built import Table
from tests.oracle import canonical, parse
from tests.strategies import FIXED32, FIXED64, VARINT, delimited, group, tag, varint

MINUS_ONE = (1 << 64) - 1


class Case(NamedTuple):
    """A payload of a table, and what some of its columns are; of a column in a column by a path."""

    name: str
    table: str
    payload: bytes
    columns: dict[str, Any]
    raw: bool | None = False
    """Whether `_raw` is kept; None where it may be."""


def number(field: int, value: int, overlong: int = 0) -> bytes:
    return tag(field, VARINT) + varint(value, overlong)


def fixed32(field: int, value: float) -> bytes:
    return tag(field, FIXED32) + struct.pack("<f", value)


def fixed64(field: int, value: float) -> bytes:
    return tag(field, FIXED64) + struct.pack("<d", value)


def text(field: int, value: str) -> bytes:
    return delimited(field, value.encode())


def entry(field: int, *parts: bytes) -> bytes:
    return delimited(field, b"".join(parts))


UNIX_US_9999 = 253_402_300_799_000_000

CASES = [
    Case(
        "fields out of order",
        "Scalars",
        text(14, "last") + number(3, 5) + number(4, 6) + number(3, 7),
        {"string": "last", "int32": 7, "int64": 6},
        raw=None,
    ),
    Case(
        "an over-long varint of ten bytes",
        "Scalars",
        number(3, 1, overlong=9) + number(4, 1, overlong=9) + number(13, 1, overlong=9),
        {"int32": 1, "int64": 1, "bool": True},
    ),
    Case(
        "a ten-byte varint with bits beyond the 64th",
        "Scalars",
        tag(4, VARINT) + b"\xff" * 9 + b"\x7f",
        {"int64": -1},
    ),
    Case(
        "32-bit varints are truncated, and kept whole",
        "Scalars",
        number(3, (1 << 32) + 5) + number(5, (7 << 32) + 6) + number(7, (1 << 35) + 3),
        {"int32": 5, "uint32": 6, "sint32": -2},
        raw=True,
    ),
    *(
        Case(
            f"{kind} {value} of more bits is kept whole",
            "Scalars",
            number(field, value),
            {kind: cut},
            raw=True,
        )
        for field, kind, value, cut in [
            (3, "int32", 1 << 31, -(1 << 31)),
            (3, "int32", MINUS_ONE - (1 << 31), (1 << 31) - 1),
            (5, "uint32", 1 << 32, 0),
            (7, "sint32", 1 << 32, 0),
            (13, "bool", 2, True),
        ]
    ),
    *(
        Case(f"the outermost {kind} {value} fits", "Scalars", number(field, value), {kind: held})
        for field, kind, value, held in [
            (3, "int32", (1 << 31) - 1, (1 << 31) - 1),
            (3, "int32", MINUS_ONE + 1 - (1 << 31), -(1 << 31)),
            (5, "uint32", (1 << 32) - 1, (1 << 32) - 1),
            (7, "sint32", (1 << 32) - 1, -(1 << 31)),
        ]
    ),
    Case(
        "packed numbers of more bits are kept whole",
        "Scalars",
        delimited(35, b"".join(varint(n) for n in range(200)) + varint(1 << 35)),
        {"int32_list": [*range(200), 0]},
        raw=True,
    ),
    Case(
        "packed negative numbers fit",
        "Scalars",
        delimited(35, b"".join(varint(MINUS_ONE - n) for n in range(100))),
        {"int32_list": [-1 - n for n in range(100)]},
    ),
    Case(
        "a negative int32 in five bytes, as no serializer writes it",
        "Scalars",
        number(3, (1 << 32) - 1),
        {"int32": -1},
        raw=True,
    ),
    Case("a bool of any bits", "Scalars", number(13, 1 << 40), {"bool": True}, raw=True),
    Case(
        "NaN, -0.0 and the infinities",
        "Scalars",
        fixed64(1, math.nan) + fixed32(2, -0.0),
        {"double": math.nan, "float": -0.0},
    ),
    Case(
        "an implicit -0.0 is there, an implicit 0.0 is not",
        "Scalars",
        fixed64(1, -0.0) + fixed32(2, 0.0),
        {"double": -0.0, "float": 0.0},
    ),
    Case(
        "packed where the schema says expanded, and the other way",
        "Proto2",
        delimited(20, varint(1) + varint(2))
        + number(20, 3)
        + number(54, 4)
        + delimited(54, varint(5)),
        {"int32_list": [1, 2, 3], "int32_packed": [4, 5]},
        raw=None,
    ),
    Case(
        "a packed field in several runs, one of them empty",
        "Scalars",
        delimited(35, varint(1)) + delimited(35, b"") + delimited(35, varint(2) + varint(3)),
        {"int32_list": [1, 2, 3]},
    ),
    Case(
        "a singular message that occurs twice is merged",
        "Nested",
        entry(1, entry(2, text(1, "a"))) + entry(1, entry(2, text(1, "b")), text(5, "x")),
        {
            "middle.leaves": [
                {"name": "a", "numbers": [], "flag": None},
                {"name": "b", "numbers": [], "flag": None},
            ]
        },
        raw=None,
    ),
    Case(
        "a Timestamp that occurs twice is merged",
        "WellKnown",
        entry(1, number(1, 5)) + entry(1, number(2, 7_000)),
        {"timestamp": 5_000_007},
        raw=None,
    ),
    Case(
        "of a oneof's members the last one wins",
        "Nested",
        text(11, "first") + delimited(12, b"second") + number(13, 1),
        {"text_event": None, "bytes_event": None, "colour_event": "COLOUR_RED"},
        raw=None,
    ),
    Case(
        "a message of a oneof that another member interrupts begins anew",
        "Nested",
        entry(8, text(1, "old"), number(2, 1)) + text(11, "between") + entry(8, number(2, 2)),
        {"leaf_event": {"name": "", "numbers": [2], "flag": None}, "text_event": None},
        raw=None,
    ),
    Case(
        "of the entries with one key the last one wins",
        "Nested",
        entry(20, number(1, 1), text(2, "a")) + entry(20, number(1, 1), text(2, "b")),
        {"int32_keys": [(1, "b")]},
        raw=None,
    ),
    Case(
        "map entries without key, value or both",
        "Nested",
        entry(20, text(2, "no key")) + entry(20, number(1, 3)) + entry(21),
        {"int32_keys": [(0, "no key"), (3, "")], "int64_keys": [(0, "")]},
        raw=None,
    ),
    Case(
        "a map entry with the value before the key, and the key twice",
        "Nested",
        entry(20, text(2, "v"), number(1, 9), number(1, 4)),
        {"int32_keys": [(4, "v")]},
        raw=None,
    ),
    Case("unknown fields", "Nested", number(999, 1) + group(998, number(1, 2)), {}, raw=True),
    Case("unknown fields deep inside", "Nested", entry(1, entry(2, number(77, 1))), {}, raw=True),
    Case("a field of another wire type", "Nested", number(1, 5), {"middle": None}, raw=True),
    Case("a negative enum", "Nested", number(13, -5 % (1 << 64)), {"colour_event": "COLOUR_BELOW"}),
    Case("an unknown number of an open enum", "Nested", number(13, 77), {"colour_event": "77"}),
    Case(
        "the first of two names for a number",
        "Nested",
        number(13, 1),
        {"colour_event": "COLOUR_RED"},
    ),
    Case(
        "an unknown number of a closed enum is an unknown field",
        "Proto2",
        number(16, 99) + number(33, 1) + number(33, 98),
        {"closed": None, "closed_list": ["CLOSED_ONE"]},
        raw=True,
    ),
    Case(
        "empty messages",
        "Nested",
        entry(4) + entry(5) + entry(5),
        {"empty": b"", "empties": [b"", b""]},
    ),
    Case("an empty message", "WellKnown", b"", {"timestamp": None, "timestamp_list": []}),
    Case(
        "groups, nested and repeated",
        "Proto2",
        group(69, number(1, 5) + group(3, number(1, 1))) + group(70, number(1, 6)) * 2,
        {"one.a": 5, "one.inner": {"c": "CLOSED_ONE"}},
        raw=None,
    ),
    Case(
        "extensions that the rules name, and one that they do not",
        "Proto2",
        number(1000, 5) + text(1001, "x") + delimited(1002, varint(1) + varint(2)),
        {"extra_number": 5, "extra_text": "x", "extra_list": [-1, 1]},
        raw=None,
    ),
    Case("an extension that no rule names", "Proto2", number(1004, 5), {}, raw=True),
    Case("defaults of proto2 do not show", "Proto2", b"", {"with_default": None}, raw=None),
    Case(
        "a string of proto2 need not be UTF-8",
        "Proto2",
        delimited(14, b"\xff\xfe"),
        {"string": None},
        raw=True,
    ),
    Case(
        "a Timestamp of the year 9999",
        "WellKnown",
        entry(1, number(1, 253_402_300_799), number(2, 999_999_000)),
        {"timestamp": UNIX_US_9999 + 999_999},
    ),
    Case(
        "a Timestamp of the year 9999 does not fit nanoseconds",
        "WellKnown",
        entry(79, number(1, 253_402_300_799)),
        {"timestamp_ns": None},
        raw=True,
    ),
    Case(
        "nanoseconds under the unit",
        "WellKnown",
        entry(1, number(1, 1), number(2, 1_999)),
        {"timestamp": 1_000_001},
        raw=True,
    ),
    Case(
        "a negative Duration",
        "WellKnown",
        entry(2, number(1, -1 % (1 << 64)), number(2, -500_000_000 % (1 << 64))),
        {"duration": -1_500_000},
    ),
    Case(
        "a Date without a day",
        "WellKnown",
        entry(7, number(1, 2024), number(2, 2)),
        {"date": None},
        raw=True,
    ),
    Case(
        "wrappers of nothing",
        "WellKnown",
        entry(17) + entry(12),
        {"string_value": "", "int64_value": 0},
    ),
    Case(
        "a NaN in a Struct is no JSON",
        "WellKnown",
        entry(4, entry(1, text(1, "k"), entry(2, fixed64(2, math.nan)))),
        {"struct": None},
        raw=True,
    ),
    Case("decimal digits", "Ruled", text(1, "-120") + text(2, "1.500000"), {}, raw=False),
    Case(
        "a decimal that would not come back the same",
        "Ruled",
        text(1, "007"),
        {"decimal_38_0": None},
        raw=True,
    ),
    Case("39 digits", "Ruled", text(1, "9" * 39), {"decimal_38_0": None}, raw=True),
    Case("hex", "Ruled", text(5, "36fe1cfb") + text(6, "36fe1cfb"), {"hex": b"\x36\xfe\x1c\xfb"}),
    Case("hex in capitals", "Ruled", text(5, "36FE1CFB"), {"hex": b""}, raw=True),
    Case("hex of another length", "Ruled", text(6, "36fe1c"), {"hex_4": None}, raw=True),
    Case("base64", "Ruled", text(7, "aGVsbG8="), {"base64": b"hello"}),
    Case("base64 with loose bits", "Ruled", text(7, "aGVsbG9="), {"base64": b""}, raw=True),
    Case("base32", "Ruled", text(9, "MZXW6YTB"), {"base32": b"fooba"}),
    Case("base32 in small letters", "Ruled", text(9, "mzxw6ytb"), {"base32": b""}, raw=True),
    Case("a Unix time before 1970", "Ruled", number(52, MINUS_ONE), {"int64_unix_ms": -1}),
    Case("an unsigned Unix time beyond int64", "Ruled", number(55, MINUS_ONE), {}, raw=True),
    Case(
        "enums as numbers and as text",
        "Ruled",
        number(70, 9) + number(71, 2),
        {"colour_int32": 9, "colour_string": "COLOUR_BLUE"},
    ),
    Case(
        "an enum as text that is not there", "Ruled", b"", {"colour_string": "COLOUR_UNSPECIFIED"}
    ),
    Case(
        "flattened", "Ruled", entry(85, text(1, "c"), number(3, 5)), {"code": "c", "issuer": None}
    ),
    Case("flattened and not there", "Ruled", b"", {"code": None, "tags": None}),
    Case("flattened, there and empty", "Ruled", entry(86), {"a": None, "b": None}, raw=True),
    Case("the case of a oneof", "Ruled", number(92, 1), {"cased_by": "cased_number"}),
    Case("a oneof without a case", "Ruled", b"", {"cased_by": None}),
    Case(
        "kept as bytes, and holding each other",
        "Ruled",
        entry(93, entry(2, entry(2, text(1, "t")))) + entry(94, entry(3, text(1, "k") + entry(2))),
        {"kept_chapter": entry(2, entry(2, text(1, "t")))},
    ),
    Case("dropped fields", "Dropped", text(1, "k") + text(2, "d") + number(5, 3), {"kept": "k"}),
]

REJECTED = [
    ("a tag cut short", "Scalars", b"\x80"),
    ("field number 0", "Scalars", b"\x00\x00"),
    ("a varint of eleven bytes", "Scalars", tag(3, VARINT) + b"\x80" * 10 + b"\x01"),
    ("a length beyond the end", "Scalars", tag(14, 2) + b"\x05abcd"),
    ("a length beyond 2 GiB", "Scalars", tag(14, 2) + varint(1 << 33)),
    ("a string that is not UTF-8", "Scalars", delimited(14, b"\xed\xa0\x80")),
    ("a wire type that does not exist", "Scalars", b"\x1e"),
    ("a group that does not end", "Proto2", tag(69, 3) + number(1, 1)),
    ("a group that ends as another", "Proto2", tag(69, 3) + tag(68, 4)),
    ("the end of a group alone", "Proto2", tag(69, 4)),
    ("a packed run cut within a number", "Scalars", delimited(35, b"\x01\x80")),
    ("a message cut within a field", "Nested", entry(1, entry(2, tag(1, 2) + b"\x05a"))),
    ("text in a map that is not UTF-8", "Nested", entry(31, delimited(1, b"\xff"))),
    (
        "text that is not UTF-8, deep in what is kept as bytes",
        "Ruled",
        entry(93, entry(2, entry(2, entry(2, entry(2, delimited(1, b"\xff")))))),
    ),
    (
        "the same in a map",
        "Ruled",
        entry(94, entry(3, entry(2, entry(2, entry(2, delimited(1, b"\xff")))))),
    ),
    ("cut short in what is kept as bytes", "Ruled", entry(94, entry(2, entry(2, tag(1, 2))))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_taken_as_protobuf_does(built: dict[str, Table], case: Case) -> None:
    table = built[f"kitchen.v1.{case.table}"]
    converter: Any = table.converter()
    batch = table.check([case.payload], converter.decode([case.payload]))
    for path, expected in case.columns.items():
        name, _, inner = path.partition(".")
        column: Any = batch.column(name)
        if str(column.type).startswith(("timestamp", "duration")):
            column = column.view("int64")
        value = column.to_pylist()[0]
        value = value[inner] if inner else value
        assert repr(value) == repr(expected)  # for the sake of NaN and -0.0
    if not table.program.raw:
        return
    kept = batch.column(table.program.raw).to_pylist()[0]
    if case.raw is not None:
        assert kept == (case.payload if case.raw else None)
    if case.table != "Dropped":
        back = converter.to_protobuf(batch).to_pylist()[0]
        assert canonical(table.message, back) == canonical(table.message, case.payload)


@pytest.mark.parametrize(
    ("table", "payload"), [case[1:] for case in REJECTED], ids=[c[0] for c in REJECTED]
)
def test_rejected_as_protobuf_does(built: dict[str, Table], table: str, payload: bytes) -> None:
    found = built[f"kitchen.v1.{table}"]
    assert parse(found.message, payload) is None
    around = [b"", payload, b""]
    found.check(around, found.converter().decode(around))


class TestDepth:
    """Messages within messages."""

    def test_as_deep_as_protobuf_takes_and_not_deeper(self, built: dict[str, Table]) -> None:
        table = built["kitchen.v1.Nested"]
        for depth in (98, 99, 100, 101):
            nested = b""
            for _ in range(depth):
                nested = delimited(7, nested)  # Nested.self
            table.check([nested], table.converter().decode([nested]))

    def test_groups_count_too(self, built: dict[str, Table]) -> None:
        table = built["kitchen.v1.Proto2"]
        for depth in (98, 99, 100, 101):
            nested = b""
            for _ in range(depth):
                nested = group(999, nested)  # unknown
            table.check([nested], table.converter().decode([nested]))
