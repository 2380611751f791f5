"""`open_archive`: files of every version in today's schema, and filters and projections that reach them."""

from __future__ import annotations

import datetime
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import cdp_runtime
from cdp_runtime.config import ConfigError
from cdp_runtime.dataset import ArchiveError
from cdp_runtime.upgrade import upgrade
from tests.versions import History

field: Callable[..., Any] = pc.field


@pytest.fixture
def orders(tmp_path: Path) -> History:
    return History(tmp_path, "shop.Order")


def message(*fields: str, before: str = "") -> str:
    body = "\n".join(fields)
    imports = 'import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";'
    return f'syntax = "proto3"; package shop; {imports} {before} message Order {{ {body} }}'


class TestVersions:
    def test_renamed_columns_line_up_at_any_depth(self, orders: History) -> None:
        line = "message Line { string sku = 1; }"
        fields = "string buyer = 1; Line one = 2; repeated Line many = 3; map<string, Line> by = 4;"
        orders.build(message(fields, before=line))
        orders.write(
            {"buyer": "Ann", "one": {"sku": "a"}, "many": [{"sku": "b"}], "by": {"k": {"sku": "c"}}}
        )
        renamed = fields.replace("buyer", "customer").replace("many", "lines")
        orders.build(message(renamed, before=line.replace("sku", "code")))
        assert orders.rows() == [
            {
                "customer": "Ann",
                "one": {"code": "a"},
                "lines": [{"code": "b"}],
                "by": {"k": {"code": "c"}},
                "_raw": None,
            }
        ]

    def test_a_member_of_a_oneof_that_was_renamed_is_the_case_by_its_new_name(
        self, orders: History
    ) -> None:
        rules = (
            "version: 1\ndefaults: {oneof_case: true}\n"
            "tables: {shop.Order: {columns: {lines.how: {case: true}}}}"
        )
        line = "message Line { oneof how { string a = 1; string b = 2; } }"
        fields = "oneof pay { string card = 1; uint64 voucher = 2; } repeated Line lines = 3;"
        orders.build(message(fields, before=line), rules)
        orders.write({"card": "visa", "lines": [{"a": "x"}, {"b": "y"}]}, {"voucher": 7})
        line = line.replace("string a", "string first")
        orders.build(message(fields.replace("string card", "string plastic"), before=line), rules)
        first, second = orders.rows()
        assert (first["pay_case"], second["pay_case"]) == ("plastic", "voucher")
        assert [line["how_case"] for line in first["lines"]] == ["first", "b"]
        assert orders.open().count_rows(filter=field("pay_case") == "plastic") == 1
        assert orders.open().count_rows(filter=field("pay_case") == "card") == 0

    @pytest.mark.parametrize("upgraded", [False, True])
    def test_so_is_one_that_is_flattened_and_has_no_column_of_its_own(
        self, orders: History, upgraded: bool
    ) -> None:
        rules = (
            "version: 1\ndefaults: {oneof_case: true}\ntables:\n  shop.Card: {skip: true}\n"
            "  shop.Order: {columns: {%s: {flatten: true, prefix: c_},"
            " lines.%s: {flatten: true, prefix: l_}}}"
        )
        line = "message Card { int32 a = 1; optional int32 b = 2; } message Line {%s}"
        how = "oneof how { Card %s = 1; string b = 2; }"
        fields = "int32 n = 4; oneof pay { Card %s = 1; string %s = 2; string gone = 5; } %s"
        lines = "repeated Line lines = 3;"
        before = message(fields % ("card", "cash", lines), before=line % how % "first")
        orders.build(before, rules % ("card", "first"))
        orders.write(
            {"n": 1, "card": {"a": 5}, "lines": [{"first": {}}, {"b": "x"}, {}]},
            *({"n": 2, "cash": "x"}, {"n": 3, "gone": "x"}, {"n": 4}, {"n": 5, "card": {}}),
        )
        after = message(fields % ("plastic", "notes", lines), before=line % how % "second")
        after = after.replace("string gone = 5; }", "} reserved 5; reserved 'gone';")
        orders.build(after, rules % ("plastic", "second"))
        if upgraded:
            assert not [
                one
                for one in upgrade(orders.archive, generated=orders.today.generated)
                if one.problem
            ]
        rows = orders.rows(columns=["n", "pay_case", "lines"])
        expected = ["plastic", "notes", "gone", None, "plastic"]
        assert [row["pay_case"] for row in rows] == expected
        assert [line["how_case"] for line in rows[0]["lines"]] == ["second", "b", None]
        found = orders.rows(columns=["pay_case"], filter=field("pay_case") == "plastic")
        assert found == [{"pay_case": "plastic"}] * 2
        for case, count in (("card", 0), ("notes", 1), ("gone", 1)):
            assert orders.open().count_rows(filter=field("pay_case") == case) == count

    @pytest.mark.parametrize("upgraded", [False, True])
    def test_the_case_of_a_oneof_is_told_by_the_members_where_files_have_no_column_for_it(
        self, orders: History, upgraded: bool
    ) -> None:
        before = (
            "message Line { oneof how { string a = 1; int32 b = 2; } } message Empty {}"
            " message Flat { int32 c = 1; repeated int32 d = 2; }"
        )
        fields = (
            "int32 number = 1; repeated Line lines = 2; Line one = 3; oneof pay { string card = 4;"
            " int32 voucher = 5; Empty cash = 6; int32 gone = 7; Flat flat = 8; %s }"
        )
        rules = "version: 1\ntables: {shop.Order: {columns: {flat: {flatten: true}, %s}}}"
        orders.build(message(fields % "", before=before), rules % "")
        orders.write(
            {"number": 1, "card": "", "lines": [{"a": "x"}, {"b": 0}, {}]},
            {"number": 2, "voucher": 0, "one": {"b": 1}},
            {"number": 3, "cash": {}, "one": {}},
            {"number": 4, "gone": 1},
            {"number": 5, "flat": {"d": [2]}},
            {"number": 6},
        )
        before = before.replace("string a", "string first")
        cases = ", ".join(f"{oneof}: {{case: true}}" for oneof in ("pay", "lines.how", "one.how"))
        orders.build(
            message(fields % "string late = 9;", before=before),
            rules % f"{cases}, gone: {{drop: true}}",
        )
        orders.write(
            {"number": 7, "late": "", "lines": [{"b": 1}], "one": {"first": ""}},
            {"number": 8, "card": "y"},
            version=1,
        )
        if upgraded:
            list(upgrade(orders.archive, generated=orders.today.generated))
        rows = {row["number"]: row for row in orders.rows()}
        # of a field that is dropped now nothing is told
        told = ["card", "voucher", "cash", None, "flat", None, "late", "card"]
        assert [rows[number + 1]["pay_case"] for number in range(8)] == told
        assert [line["how_case"] for line in rows[1]["lines"]] == ["first", "b", None]
        assert [line["how_case"] for line in rows[7]["lines"]] == ["b"]
        assert [rows[i]["one"] and rows[i]["one"]["how_case"] for i in (1, 2, 3, 7)] == [
            None,
            "b",
            None,
            "first",
        ]
        for case, count in (("card", 2), ("flat", 1), ("late", 1), ("gone", 0)):
            assert orders.open().count_rows(filter=field("pay_case") == case) == count
        assert orders.rows(columns=["pay_case"], filter=field("number") == 2) == [
            {"pay_case": "voucher"}
        ]

    def test_the_case_goes_with_a_member_that_was_renamed_to_another_number(
        self, orders: History
    ) -> None:
        fields = "oneof pay { string card = 1; int32 voucher = 2; } "
        time = "google.protobuf.Timestamp at = 3;"
        orders.build(message(fields, time))
        orders.write({"card": "a"}, {"card": "b", "at": "2024-04-21T00:00:00.000000001Z"})
        rules = "version: 1\ndefaults: {oneof_case: true}\nevolution: {renames: {shop.Order.card: plastic}}"
        moved = "reserved 1; oneof pay { int32 voucher = 2; string plastic = 4; }"
        orders.build(message(moved, time), rules)
        found = [(row["pay_case"], row["plastic"]) for row in orders.rows()]
        assert found == [("plastic", "a"), ("plastic", "b")]

    @pytest.mark.parametrize("upgraded", [False, True])
    def test_a_member_whose_name_another_column_has_by_now_stays_the_case(
        self, orders: History, upgraded: bool
    ) -> None:
        rules = "version: 1\ndefaults: {oneof_case: true}\n"
        fields = "oneof pay { int32 card = 1; string cash = 2; }"
        lines = "repeated Line lines = 8; map<string, Line> by = 9;"
        orders.build(message(fields + lines, before=f"message Line {{ {fields} }}"), rules)
        line = {"card": 7}
        orders.write({"card": 7, "lines": [line], "by": {"k": line}})
        gone = "reserved 1; oneof pay { string cash = 2; } string card = 5;"  # and another has its name
        accept = "{rule: FIELD_WIRE_COMPATIBLE_TYPE, path: shop.Order.card, reason: so be it}"
        retyped = fields.replace("int32", "string") + lines
        orders.build(
            message(retyped, before=f"message Line {{ {gone} }}"),
            f"{rules}evolution: {{accept: [{accept}]}}",
        )
        if upgraded:
            (done,) = upgrade(orders.archive, generated=orders.today.generated)
            assert not done.problem
        for retired in (False, True):
            (row,) = orders.open(retired=retired).to_table().to_pylist(maps_as_pydicts="strict")
            cases = [row["pay_case"], row["lines"][0]["pay_case"], row["by"]["k"]["pay_case"]]
            assert cases == ["card"] * 3

    @pytest.mark.parametrize("kind", ["names", "string"])
    def test_an_enum_in_a_message_that_no_row_has_is_read_and_upgraded(
        self, orders: History, kind: str
    ) -> None:
        before = "enum Status { OPEN = 0; PAID = 1; } message Line { Status was = 1; %s }"
        fields = "int32 x = 1; Line one = 2; repeated Holder many = 3;"
        before += " message Holder { Line one = 1; }"
        orders.build(message(fields, before=before % ""))
        enums = f"version: 1\ndefaults: {{enums: {kind}}}"
        new = message(fields, "string late = 4;", before=before % "repeated string tags = 2;")
        orders.build(new, enums)
        # rows in `_raw` are decoded again, and the columns of the others put together with them
        orders.write({"x": 1}, {"x": 2, "late": "l", "many": [{}]}, {"many": [{}, {}]}, version=1)
        for _ in range(2):
            table = orders.open().to_table()
            table.validate(full=True)
            assert table["one"].to_pylist() == [None] * 3
            assert table["many"].to_pylist() == [[], [{"one": None}], [{"one": None}] * 2]
            assert table["late"].to_pylist() == ["", "l", ""]
            done = list(upgrade(orders.archive, generated=orders.today.generated))
            assert not any(file.problem for file in done)

    def test_a_column_renamed_to_another_number_keeps_its_values(self, orders: History) -> None:
        orders.build(message("string buyer = 1;", "google.protobuf.Timestamp at = 3;"))
        orders.write({"buyer": "Ann"}, {"buyer": "Bo", "at": "2024-04-21T00:00:00.000000001Z"})
        rules = "version: 1\nevolution: {renames: {shop.Order.buyer: customer}}"
        moved = "reserved 1; string customer = 2;"
        orders.build(message(moved, "google.protobuf.Timestamp at = 3;"), rules)
        assert [row["customer"] for row in orders.rows()] == ["Ann", "Bo"]

    @pytest.mark.parametrize("upgraded", [False, True])
    def test_so_does_one_within_lists_and_maps(self, orders: History, upgraded: bool) -> None:
        line = "message Line { %s string z = 9; } message Box { repeated Line lines = 1; }"
        fields = "repeated Line many = 2; map<string, Line> by = 3; repeated Box boxes = 4;"
        orders.build(message(fields, before=line % "string a = 1;"))
        # what no version knows keeps a message whole
        unknown = b"\xfa\x07\x01q"
        parts = [
            b"\x12\x03\x0a\x01x",
            b"\x12\x03\x4a\x01z",
            b"\x1a\x08\x0a\x01k\x12\x03\x0a\x01x",
            b"\x22\x00",
            b"\x22\x07\x0a\x00\x0a\x03\x0a\x01x",
        ]
        orders.write_payloads([b"".join(parts) + unknown, unknown, b"".join(parts[::-1])])
        paths = ("many[]", "by.value", "boxes[].lines[]")
        renames = ", ".join(f"'shop.Order.{path}.a': b" for path in paths)
        orders.build(
            message(fields, before=line % "reserved 1; string b = 2;"),
            f"version: 1\nevolution: {{renames: {{{renames}}}}}",
        )
        if upgraded:
            list(upgrade(orders.archive, generated=orders.today.generated))
        many = [{"b": "x", "z": ""}, {"b": "", "z": "z"}]
        boxes = [{"lines": []}, {"lines": [{"b": "", "z": ""}, {"b": "x", "z": ""}]}]
        by = {"k": {"b": "x", "z": ""}}
        assert orders.rows(columns=["many", "by", "boxes"]) == [
            {"many": many, "by": by, "boxes": boxes},
            {"many": [], "by": {}, "boxes": []},
            {"many": many[::-1], "by": by, "boxes": boxes[::-1]},
        ]

    @pytest.mark.parametrize("upgraded", [False, True])
    @pytest.mark.parametrize("noise", [b"", b"\xfa\x07\x01q"])
    def test_of_a_oneof_only_the_member_that_came_last_is_set(
        self, orders: History, upgraded: bool, noise: bytes
    ) -> None:
        flat = "version: 1\ntables: {shop.Order: {columns: {flat: {flatten: true}}}}"
        line = (
            "message Line { oneof how { string a = 1; %s } } message Flat { repeated int32 n = 1; }"
        )
        fields = "oneof pay { string a = 1; Line line = 4; Flat flat = 5; %s }"
        fields += " Line one = 2; repeated Line many = 3;"
        orders.build(message(fields % "", before=line % ""), flat)
        orders.build(message(fields % "string b = 7;", before=line % "string b = 2;"), flat)
        both = b"\x0a\x01a\x12\x01b"
        within = b"\x12\x06%b\x1a\x06%b\x1a\x03\x0a\x01a" % (both, both)
        payloads = [
            b"\x0a\x01a\x3a\x01b" + within + noise,
            b"\x22\x03\x0a\x01a\x3a\x01b" + noise,
            b"\x2a\x03\x0a\x01\x05\x3a\x01b" + noise,
            b"\x3a\x01b\x0a\x01a" + noise,
        ]
        orders.write_payloads(payloads, version=1)
        if upgraded:
            list(upgrade(orders.archive, generated=orders.today.generated))
        rows = orders.rows()
        names = ("a", "line", "n", "b")
        assert [[row[name] for name in names] for row in rows] == [
            [None, None, None, "b"],
            [None, None, None, "b"],
            [None, None, None, "b"],
            ["a", None, None, None],
        ]
        assert rows[0]["one"] == {"a": None, "b": "b"}
        assert rows[0]["many"] == [{"a": None, "b": "b"}, {"a": "a", "b": None}]

    @pytest.mark.parametrize(
        ("before", "after", "value", "expected"),
        [
            ("int32 x = 1;", "int64 x = 1;", -5, -5),
            ("uint32 x = 1;", "uint64 x = 1;", 2**32 - 1, 2**32 - 1),
            ("uint32 x = 1;", "int64 x = 1;", 2**32 - 1, 2**32 - 1),
            ("sint32 x = 1;", "sint64 x = 1;", -5, -5),
            ("google.protobuf.Int32Value x = 1;", "google.protobuf.Int64Value x = 1;", 7, 7),
            ("string x = 1;", "bytes x = 1;", "tea", b"tea"),
            ("int32 x = 1;", "optional int32 x = 1;", 5, 5),
            ("repeated int32 x = 1;", "repeated int64 x = 1;", [5, -1], [5, -1]),
            ("map<int32, int32> x = 1;", "map<int32, int64> x = 1;", {"1": 2}, {1: 2}),
            ("repeated string x = 1;", "repeated bytes x = 1;", ["a"], [b"a"]),
        ],
    )
    def test_a_widened_column_has_its_values(
        self, orders: History, before: str, after: str, value: object, expected: object
    ) -> None:
        orders.build(message(before))
        orders.write({"x": value}, {})
        orders.build(message(after))
        assert next(row["x"] for row in orders.rows()) == expected
        schema = orders.open().to_table().schema
        assert schema.equals(orders.writer.converter.schema, check_metadata=True)

    @pytest.mark.parametrize(
        ("declared", "before", "after", "value", "expected"),
        [
            ("Status x = 1;", "{}", "{enum: string}", "PAID", "PAID"),
            ("Status x = 1;", "{enum: string}", "{enum: names}", "PAID", "PAID"),
            ("string x = 1;", '{type: "decimal(4, 1)"}', '{type: "decimal(50, 1)"}', "1.5", "1.5"),
            (
                "optional string x = 1;",
                "{encoding: hex, size: 1}",
                "{encoding: hex}",
                "ff",
                b"\xff",
            ),
            ("string x = 1;", "{}", "{large: true}", "tea", "tea"),
        ],
    )
    def test_so_has_one_widened_by_a_rule(
        self, orders: History, declared: str, before: str, after: str, value: str, expected: object
    ) -> None:
        proto = message(declared, before="enum Status { OPEN = 0; PAID = 1; }")
        rules = "version: 1\ntables: {{shop.Order: {{columns: {{x: {}}}}}}}"
        orders.build(proto, rules.format(before))
        orders.write({"x": value})
        orders.build(proto, rules.format(after))
        (row,) = orders.rows()
        assert str(row["x"]) == str(expected)

    @pytest.mark.parametrize("upgraded", [False, True])
    def test_floats_that_a_rule_makes_doubles_are_the_same_to_the_last_bit(
        self, orders: History, upgraded: bool
    ) -> None:
        proto = message("float x = 1; optional float y = 2; repeated float z = 3;")
        orders.build(proto)
        bits = [0x3DCCCCCD, 0x80000000, 1, 0x7F7FFFFF, 0xFF800000, 0x7FA00001, 0xFFC12345]
        payloads = [
            b"\x0d%b\x15%b\x1a\x08%b%b" % (*[number.to_bytes(4, "little")] * 3, bytes(4))
            for number in bits
        ]
        orders.write_payloads(payloads)
        double = "{type: double}"
        rules = f"{{x: {double}, y: {double}, z: {double}}}"
        orders.build(proto, f"version: 1\ntables: {{shop.Order: {{columns: {rules}}}}}")
        if upgraded:
            list(upgrade(orders.archive, generated=orders.today.generated))
            (path,) = orders.archive.rglob("*.parquet")
            assert pq.read_schema(path).field("x").type == pa.float64()
        table = orders.open().to_table(columns=["x", "y", "z"])
        assert [field.type for field in table.schema][:2] == [pa.float64(), pa.float64()]
        x: Any = table["x"].combine_chunks()
        doubles = x.view(pa.uint64()).to_pylist()
        assert doubles == [
            0x3FB99999A0000000,
            0x8000000000000000,
            0x36A0000000000000,
            0x47EFFFFFE0000000,
            0xFFF0000000000000,
            0x7FF4000020000000,
            0xFFF82468A0000000,
        ]
        assert orders.writer.converter().to_protobuf(orders.batch()).to_pylist() == payloads
        assert orders.open().count_rows(filter=field("x") == 0.10000000149011612) == 1

    def test_a_column_that_a_file_has_not_is_null_or_protobufs_default(
        self, orders: History
    ) -> None:
        orders.build(
            message("string buyer = 1;", "Line line = 2;", before="message Line { int32 a = 1; }")
        )
        orders.write({"buyer": "Ann", "line": {"a": 1}})
        more = [
            "bool b = 3; double d = 4; string s = 5; bytes y = 6; Status e = 7; optional int32 o = 8;",
            "Line m = 9; repeated Line r = 10; map<string, Line> p = 11;",
            "google.protobuf.Timestamp t = 12; optional Status oe = 13;",
        ]
        inner = "message Line { int32 a = 1; int64 b = 2; optional string c = 3; Status e = 4; }"
        status = "enum Status { OPEN = 0; PAID = 1; }"
        orders.build(message("string buyer = 1;", "Line line = 2;", *more, before=inner + status))
        assert orders.rows() == [
            {
                "buyer": "Ann",
                "line": {"a": 1, "b": 0, "c": None, "e": "OPEN"},
                "b": False,
                "d": 0.0,
                "s": "",
                "y": b"",
                "e": "OPEN",
                "o": None,
                "m": None,
                "r": [],
                "p": {},
                "t": None,
                "oe": None,
                "_raw": None,
            }
        ]

    def test_or_the_default_of_the_rules(self, orders: History) -> None:
        line = "message Line { int32 a = 1;%s }"
        status = "enum Status { OPEN = 0; PAID = 1; }"
        orders.build(message("Line line = 1; repeated Line lines = 2;", before=line % "" + status))
        orders.write({"line": {"a": 1}, "lines": [{}, {"a": 2}]}, {})
        rules = """
version: 1
tables: {shop.Order: {columns: {total: {type: "decimal(6, 2)"}}}}
evolution:
  defaults:
    shop.Order.status: PAID
    shop.Order.at: 2024-04-21
    shop.Order.total: "12.5"
    shop.Order.line.b: 7
    shop.Order.lines[].b: 8
    shop.Order.note: none
"""
        added = (
            "Status status = 3; google.protobuf.Timestamp at = 4; string total = 5;"
            " optional string note = 6;"
        )
        before = line % " int32 b = 2;" + status
        orders.build(
            message("Line line = 1; repeated Line lines = 2;", added, before=before), rules
        )
        orders.write({"lines": [{}]})  # not older: what is absent stays so
        at = datetime.datetime(2024, 4, 21, tzinfo=datetime.UTC)
        found = {row["status"]: row for row in orders.rows() if row["line"] is None}
        assert found["PAID"]["at"] == at
        assert str(found["PAID"]["total"]) == "12.50"
        assert found["PAID"]["note"] == "none"
        assert found["OPEN"]["at"] is None
        assert found["OPEN"]["lines"] == [{"a": 0, "b": 0}]
        (whole,) = (row for row in orders.rows() if row["line"])
        assert whole["line"] == {"a": 1, "b": 7}
        assert whole["lines"] == [{"a": 0, "b": 8}, {"a": 2, "b": 8}]

    def test_retired_columns_come_on_request_with_the_name_and_type_that_they_had_last(
        self, orders: History
    ) -> None:
        line = "message Line { int32 a = 1; string old = 2; }"
        orders.build(message("int32 x = 1; string gone = 2; Line line = 3;", before=line))
        orders.write({"x": 1, "gone": "a", "line": {"a": 2, "old": "o"}})
        orders.build(message("int32 x = 1; bytes went = 2; Line line = 3;", before=line))
        orders.write({"x": 2, "went": "Yg=="})
        line = "message Line { int32 a = 1; reserved 2; }"
        orders.build(
            message("int32 x = 1; reserved 2; Line line = 3; string went = 4;", before=line)
        )
        orders.write({"x": 3, "went": "new"})
        assert orders.open().schema.names == ["x", "line", "went", "_raw"]
        opened = orders.open(retired=True)
        old = next(name for name in opened.schema.names if name.startswith("went_"))
        assert opened.schema.names == ["x", "line", "went", "_raw", old]
        rows = sorted(opened.to_table().to_pylist(), key=lambda row: int(row["x"]))
        assert [(row["went"], row[old]) for row in rows] == [("", b"a"), ("", b"b"), ("new", None)]
        assert rows[0]["line"] == {"a": 2, "old": "o"}

    def test_one_whose_name_and_id_are_the_name_of_another_column_has_one_of_its_own(
        self, orders: History
    ) -> None:
        orders.build(message("int32 x = 1;"))
        orders.write({"x": 7})
        orders.build(message("reserved 1; string x = 2; string x_1 = 3;"))
        for _ in range(2):
            (row,) = orders.open(retired=True).to_table().to_pylist()
            assert (row["x"], row["x_1"], row["x_1_1"]) == ("", "", 7)
            list(upgrade(orders.archive, generated=orders.today.generated))

    def test_a_number_that_had_no_name_then_has_the_name_that_it_has_now(
        self, orders: History
    ) -> None:
        fields = "Status x = 1; repeated Status xs = 2;"
        rules = "version: 1\ntables: {shop.Order: {columns: {xs: {enum: string}}}}"
        old = message(fields, before="enum Status { OPEN = 0; PAID = 1; }")
        new = message(fields, before="enum Status { OPEN = 0; PAID = 1; SENT = 2; }")
        orders.build(old, rules)
        orders.build(new, rules)
        orders.write({"x": "SENT", "xs": ["PAID", "SENT", 9]}, {"x": "PAID"}, version=1)
        orders.write({"x": "SENT"})
        assert sorted(row["x"] for row in orders.rows()) == ["PAID", "SENT", "SENT"]
        assert ["PAID", "SENT", "9"] in [row["xs"] for row in orders.rows()]
        assert orders.open().count_rows(filter=field("x") == "SENT") == 2

    def test_what_a_writer_did_not_know_yet_is_read_from_the_raw_message(
        self, orders: History
    ) -> None:
        orders.build(message("int32 x = 1;"))
        orders.build(message("int32 x = 1; string new = 2; optional string more = 3;"))
        orders.write({"x": 1, "new": "a"}, {"x": 2}, {"x": 3, "new": "c"}, version=1)
        assert orders.rows() == [
            {"x": 1, "new": "a", "more": None, "_raw": None},
            {"x": 2, "new": "", "more": None, "_raw": None},
            {"x": 3, "new": "c", "more": None, "_raw": None},
        ]
        assert orders.rows(columns=["new"], filter=field("new") == "c") == [{"new": "c"}]

    @pytest.mark.parametrize("rules", ["", "{shop.Order.d: 5.0, shop.Order.line.f: 7.0}"])
    def test_a_zero_below_nothing_is_a_value_in_a_new_column(
        self, orders: History, rules: str
    ) -> None:
        line = "message Line { int32 a = 1; %s }"
        orders.build(message("Line line = 1;", before=line % ""))
        orders.build(
            message("Line line = 1; double d = 2;", before=line % "float f = 2;"),
            f"version: 1\nevolution: {{defaults: {rules or '{}'}}}",
        )
        payloads = orders.write({"line": {"a": 1, "f": -0.0}, "d": -0.0}, version=1)
        for _ in range(2):
            (row,) = orders.rows()
            assert math.copysign(1, row["d"]) == math.copysign(1, row["line"]["f"]) == -1
            assert row["d"] == row["line"]["f"] == 0
            assert orders.writer.converter().to_protobuf(orders.batch()).to_pylist() == payloads
            list(upgrade(orders.archive, generated=orders.today.generated))

    def test_what_no_column_holds_stays_raw(self, orders: History) -> None:
        orders.build(message("google.protobuf.Timestamp at = 1;"))
        (payload,) = orders.write({"at": "2024-04-21T00:00:00.000000001Z"})
        orders.build(message("google.protobuf.Timestamp at = 1; int32 x = 2;"))
        assert [row["_raw"] for row in orders.rows()] == [payload]

    def test_times_in_seconds_which_parquet_has_not_come_back_as_they_are(
        self, orders: History
    ) -> None:
        rules = "version: 1\ntables: {shop.Order: {columns: {at: {unit: s}}}}"
        orders.build(message("google.protobuf.Timestamp at = 1;"), rules)
        orders.write({"at": "2024-04-21T20:16:09Z"}, {"at": "2024-04-22T20:16:09Z"})
        assert orders.open().to_table().schema.field("at").type == pa.timestamp("s", "UTC")
        day = pa.scalar(datetime.datetime(2024, 4, 22, tzinfo=datetime.UTC))
        assert orders.open().count_rows(filter=field("at") > day) == 1

    def test_rows_go_back_to_their_messages(self, orders: History) -> None:
        orders.build(message("int32 x = 1; string y = 2;"))
        payloads = orders.write({"x": 1, "y": "a"}, {})
        orders.build(message("int64 x = 1; string z = 2; bool more = 3;"))
        assert orders.writer.converter().to_protobuf(orders.batch()).to_pylist() == payloads


DAYS = """
version: 1
tables:
  shop.Order:
    partition_by: [{day: at}, status, {range: number, size: 100}]
"""
DAY = "google.protobuf.Timestamp at = 1; Status status = 2; int64 number = 3; string text = 4;"
STATUS = "enum Status { OPEN = 0; PAID = 1; }"


def spoil(path: Path, column: str | None = None, group: int = 0) -> None:
    """Makes a file, or one column of a row group, such that reading it fails."""
    data = bytearray(path.read_bytes())
    if column is None:
        data[-8:] = b"\xff" * 8
    else:
        footer = pq.read_metadata(path).row_group(group)
        chunk = next(
            footer.column(i)
            for i in range(footer.num_columns)
            if footer.column(i).path_in_schema == column
        )
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


class TestPushdown:
    """What must not be read is spoilt, and the answer comes all the same."""

    @pytest.fixture
    def days(self, orders: History) -> History:
        orders.build(message(DAY, before=STATUS), DAYS)
        orders.write({"at": "2024-04-21T00:00:00Z", "number": 5})
        orders.write({"at": "2024-04-21T23:59:59Z", "number": 105, "status": "PAID"})
        orders.write({"at": "2024-04-22T00:00:00Z", "number": -5})
        orders.write({"number": 7})
        return orders

    @pytest.mark.parametrize(
        ("filter", "numbers"),
        [
            (field("at_day") == datetime.date(2024, 4, 22), [-5]),
            (field("at_day").is_null(), [7]),
            (field("at") >= pa.scalar(datetime.datetime(2024, 4, 22, tzinfo=datetime.UTC)), [-5]),
            (
                field("at") < pa.scalar(datetime.datetime(2024, 4, 22, tzinfo=datetime.UTC)),
                [5, 105],
            ),
            (field("status") == "PAID", [105]),
            (field("number") < 0, [-5]),
            (field("number").isin([7]), [7]),
            (field("number_range") == "100-199", [105]),
        ],
    )
    def test_files_of_other_partitions_are_not_opened(
        self, days: History, filter: Any, numbers: list[int]
    ) -> None:
        # in the same range as 7 is 5; and of no day is what is in no year that a folder can have
        more = {"number": [5, 7], "at ": [7]}
        left = numbers + next((n for key, n in more.items() if f"({key}" in f"({filter}"), [])
        for path in days.archive.rglob("*.parquet"):
            if (
                pq.read_table(path, columns=["number"], partitioning=None)["number"][0].as_py()
                not in left
            ):
                spoil(path)
        found = days.open().to_table(columns=["number"], filter=filter)
        assert sorted(found["number"].to_pylist()) == sorted(numbers)
        with pytest.raises(ArchiveError, match="cannot be read"):
            days.open().to_table()

    def test_row_groups_outside_of_a_filter_are_not_read_whatever_the_column_was_called(
        self, orders: History
    ) -> None:
        orders.build(message("int32 count = 1; string name = 2;"))
        records = [{"count": i, "name": f"n{i:06}"} for i in range(60_000)]
        orders.write(*records, row_group_mb=0.1)
        orders.build(message("int64 number = 1; string title = 2; bool added = 3;"))
        (path,) = orders.archive.rglob("*.parquet")
        groups = pq.read_metadata(path).num_row_groups
        assert groups > 2
        for group in range(1, groups):
            spoil(path, "name", group)
        first = pq.read_metadata(path).row_group(0).num_rows
        opened = orders.open()
        found = opened.to_table(filter=field("number") < first)
        assert found["title"].to_pylist() == [f"n{i:06}" for i in range(first)]
        assert opened.to_table(filter=field("title") == "n000007").num_rows == 1
        assert opened.to_table(filter=field("added")).num_rows == 0
        query = "select title from opened where number between 5 and 6"
        assert duckdb.sql(query).fetchall() == [("n000005",), ("n000006",)]
        with pytest.raises(ArchiveError):
            opened.to_table()

    def test_columns_that_nobody_asks_for_are_not_read(self, orders: History) -> None:
        orders.build(message("int32 count = 1; string name = 2;"))
        orders.write({"count": 1, "name": "a"})
        orders.build(message("int64 number = 1; string title = 2;"))
        (path,) = orders.archive.rglob("*.parquet")
        spoil(path, "name")
        opened = orders.open()
        assert opened.to_table(columns=["number"]).to_pylist() == [{"number": 1}]
        assert opened.count_rows() == 1
        assert duckdb.sql("select number + 1 from opened").fetchall() == [(2,)]
        assert pl.scan_pyarrow_dataset(opened).select("number").collect().rows() == [(1,)]
        with pytest.raises(ArchiveError):
            opened.to_table(columns=["title"])

    def test_statistics_count_for_nothing_where_rows_are_read_from_raw_messages(
        self, orders: History
    ) -> None:
        orders.build(message("int32 x = 1;"))
        orders.build(message("int32 x = 1; int32 y = 2;"))
        orders.write({"x": 1, "y": 5}, version=1)
        assert orders.rows(filter=field("y") == 5) == [{"x": 1, "y": 5, "_raw": None}]
        assert orders.rows(filter=field("y") == 0) == []

    def test_nan_is_found_by_a_filter_that_no_range_passes(self, orders: History) -> None:
        orders.build(message("double x = 1;"))
        orders.write({"x": "NaN"}, {"x": 1.0})
        assert orders.open().count_rows(filter=~(field("x") <= 5)) == 1


class TestEngines:
    @pytest.fixture
    def opened(self, orders: History) -> Any:
        orders.build(message("int32 n = 1; Status status = 2; Line line = 3;", before=LINE))
        orders.write({"n": 1, "status": "PAID", "line": {"sku": "a"}}, {"n": 2})
        orders.build(message("int64 number = 1; Status status = 2; Line line = 3;", before=LINE))
        orders.write({"number": 2**40, "status": "PAID", "line": {"sku": "b"}})
        return orders.open()

    def test_duckdb_filters_joins_and_counts(self, opened: Any) -> None:
        query = "select number, line.sku from opened where status = 'PAID' order by number"
        assert duckdb.sql(query).fetchall() == [(1, "a"), (2**40, "b")]
        assert duckdb.sql("select count(*) from opened").fetchall() == [(3,)]
        both = "select count(*) from opened a join opened b using (number) where b.line.sku = 'a'"
        assert duckdb.sql(both).fetchall() == [(1,)]
        some = "select number from opened where number in (2, 3) or line is null"
        assert duckdb.sql(some).fetchall() == [(2,)]

    def test_polars_filters_lazily(self, opened: Any) -> None:
        lazy = pl.scan_pyarrow_dataset(opened).filter(pl.col("number") > 1).select("status")
        assert sorted(lazy.collect().rows()) == [("OPEN",), ("PAID",)]
        assert len(pl.DataFrame(opened)) == 3

    def test_pandas_takes_the_columns_as_they_are(self, opened: Any) -> None:
        table = opened.to_table(columns=["number"]).combine_chunks()
        frame = table.to_pandas(types_mapper=pd.ArrowDtype)
        assert sorted(frame["number"]) == [1, 2, 2**40]
        (chunk,) = pa.chunked_array(frame["number"].array.__arrow_array__()).chunks
        assert chunk.buffers()[1].address == table["number"].chunk(0).buffers()[1].address

    def test_pyarrow_has_tables_batches_heads_and_expressions(self, opened: Any) -> None:
        assert isinstance(opened, ds.Dataset)
        assert opened.head(2, columns=["number"]).num_rows == 2
        doubled = opened.to_table(columns={"x": field("number") * 2}, filter=field("number") < 3)
        assert sorted(doubled["x"].to_pylist()) == [2, 4]
        batches = list(opened.to_batches(columns=["number"], batch_size=1))
        assert [batch.num_rows for batch in batches] == [1, 1, 1]
        reader = opened.scanner(columns=["number"]).to_reader()
        assert reader.read_all().num_rows == 3
        assert opened.take([0]).num_rows == 1
        narrowed = opened.filter(field("number") < 3).filter(field("number") > 1)
        assert narrowed.to_table(columns=["number"]).to_pylist() == [{"number": 2}]

    def test_what_the_page_on_evolution_shows_is_run(self, tmp_path: Path) -> None:
        history = History(tmp_path, "shop.v1.Sale")
        history.build(
            'syntax = "proto3"; package shop.v1; message Sale { string customer = 1; string price = 2; }',
            'version: 1\ntables: {shop.v1.Sale: {columns: {price: {type: "decimal(18, 2)"}}}}',
        )
        history.write({"customer": "Ann", "price": "100.00"}, {"customer": "Bo", "price": "100.01"})
        page = (Path(__file__).parents[3] / "docs/evolution.md").read_text("utf-8")
        shown = re.search(r"## Reading files.*?```python\n(.*?)```", page, re.DOTALL)
        assert shown is not None
        snippet = shown[1].replace("s3://bucket/archive", str(history.archive))
        snippet = snippet.replace('"generated"', repr(str(history.today.generated)))
        names: dict[str, Any] = {}
        exec(snippet, names)
        found = names["sales"].to_table(columns=["customer"], filter=names["costly"])
        assert found.to_pylist() == [{"customer": "Bo"}]

    def test_what_pyarrow_would_do_by_name_it_refuses(self, opened: Any) -> None:
        with pytest.raises(FileNotFoundError, match=r"use to_table\(\)"):
            opened.sort_by("number")
        with pytest.raises(FileNotFoundError, match=r"use to_table\(\)"):
            ds.Scanner.from_dataset(opened).to_table()


LINE = f"{STATUS} message Line {{ string sku = 1; }}"


class TestOpenArchive:
    def test_it_takes_columns_and_a_filter(self, orders: History) -> None:
        orders.build(message("int32 x = 1; string y = 2;"))
        orders.write({"x": 1, "y": "a"}, {"x": 2, "y": "b"})
        opened = orders.open(columns=["y"], filter=field("x") > 1)
        assert opened.schema.names == ["y"]
        assert opened.to_table().to_pylist() == [{"y": "b"}]
        assert opened.to_table(filter=field("y") == "a").num_rows == 0

    def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(
        self, orders: History
    ) -> None:
        orders.build(message("int32 x = 1; string y = 2;"))
        orders.write(*({"x": i, "y": f"{i}"} for i in range(30_000)), row_group_mb=0.1)
        (path,) = orders.archive.rglob("*.parquet")
        batches = orders.open().to_batches()
        next(batches)
        other = path.with_suffix(".new")
        other.write_bytes(b"something else")
        other.replace(path)
        assert sum(batch.num_rows for batch in batches) > 0

    def test_row_groups_of_one_file_are_read_by_several_threads(self, orders: History) -> None:
        orders.build(message("int64 x = 1; string y = 2; repeated int32 z = 3;"))
        with orders.writer(orders.archive, row_group_mb=0.25, buffer_size=5_000) as writer:
            for i in range(100_000):
                writer.write(orders.message(x=i, y=f"{i * 7919 % 100_003}", z=range(i % 5)))
        (path,) = orders.archive.rglob("*.parquet")
        assert pq.read_metadata(path).num_row_groups > 3
        scans = (
            "import sys\n"
            "from cdp_runtime import open_archive\n"
            "for _ in range(30):\n"
            "    rows = open_archive(*sys.argv[1:3], generated=sys.argv[3]).to_table()\n"
            "    assert rows['x'].to_pylist() == list(range(100_000))\n"
        )
        where = [str(orders.archive), "shop.Order", str(orders.today.generated)]
        # a process of its own: threads that share what they read from have crashed it
        ended = subprocess.run(
            [sys.executable, "-c", scans, *where], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 0, ended.stderr

    @pytest.mark.parametrize(
        ("table", "options", "error", "said"),
        [
            ("shop.Oder", {}, ConfigError, "shop.Oder: no such table in .*; it has shop.Order"),
            ("shop.Order", {"columns": ["z"]}, ConfigError, "shop.Order has no column z; it has x"),
        ],
    )
    def test_what_there_is_not_is_an_error_that_says_what_there_is(
        self,
        orders: History,
        table: str,
        options: dict[str, Any],
        error: type[Exception],
        said: str,
    ) -> None:
        orders.build(message("int32 x = 1;"))
        orders.write({"x": 1})
        generated = orders.today.generated
        with pytest.raises(error, match=said):
            cdp_runtime.open_archive(orders.archive, table, generated=generated, **options)

    def test_an_archive_without_files_of_the_table_is_an_error(self, orders: History) -> None:
        orders.build(message("int32 x = 1;"))
        with pytest.raises(ArchiveError, match=r"archive/shop\.Order: there are no files"):
            orders.open()

    def test_a_file_that_cdpgen_did_not_write_is_named(self, orders: History) -> None:
        orders.build(message("int32 x = 1;"))
        orders.write({"x": 1})
        other = orders.archive / "shop.Order" / "other.parquet"
        pq.write_table(pa.table({"x": [1]}), other)
        with pytest.raises(ArchiveError, match=r"other\.parquet: its columns have no field ids"):
            orders.open().to_table()

    def test_a_value_that_does_not_fit_after_an_accepted_change_is_named(
        self, orders: History
    ) -> None:
        rules = "version: 1\ntables: {{shop.Order: {{columns: {{x: {{type: 'decimal({}, 0)'}}}}}}}}"
        accept = (
            "\nevolution: {accept: [{rule: COLUMN_TYPE_NARROWED, path: shop.Order.x, reason: y}]}"
        )
        orders.build(message("string x = 1;"), rules.format(9))
        orders.write({"x": "12345"})
        orders.build(message("string x = 1;"), rules.format(3) + accept)
        with pytest.raises(ArchiveError, match=r"\.parquet: .*column x: .*precision"):
            orders.open().to_table()


def test_a_file_whose_names_are_no_text_is_refused_by_all(orders: History) -> None:
    orders.build(message("int32 number = 1;"))
    orders.write({"number": 1})
    other = orders.archive / "shop.Order" / "other.parquet"
    pq.write_table(pa.table({"abcd": [1]}), other)
    other.write_bytes(other.read_bytes().replace(b"abcd", b"ab\xff\xfe"))
    said = "columns have names that are no UTF-8, so cdpgen did not write it; move it out"
    with pytest.raises(ArchiveError, match=said):
        orders.rows()
    for command in (["inspect"], ["upgrade", "--generated", str(orders.today.generated)]):
        ran = subprocess.run(
            [sys.executable, "-m", "cdpgen", command[0], str(orders.archive), *command[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 1
        assert said in ran.stderr
        assert "Traceback" not in ran.stderr
