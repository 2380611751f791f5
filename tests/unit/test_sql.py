"""`cdpgen sql`: DuckDB runs what is printed for it; for the others the text is as it should be."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import date, time
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cdp_runtime.archive import load_tables
from cdp_runtime.program import Program
from cdp_runtime.upgrade import upgrade
from cdpgen import cli
from cdpgen.errors import UsageError
from cdpgen.sql import ArchivedTable, Dialect, Key, define, definitions
from tests.versions import History, messages_of

EVERYTHING = """
syntax = "proto3";
package shop.v1;
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Status { OPEN = 0; PAID = 1; }
message Line { string sku = 1; optional uint32 quantity = 2; repeated Status was = 3; }
message Everything {
  bool flag = 1;
  int32 small = 2;
  int64 large = 3;
  uint32 natural = 4;
  uint64 huge = 5;
  float single = 6;
  double precise = 7;
  string select = 8;
  bytes data = 9;
  Status status = 10;
  Line line = 11;
  repeated Line lines = 12;
  map<string, Line> by_name = 13;
  map<int32, double> weights = 14;
  google.protobuf.Timestamp placed_at = 15;
  google.protobuf.Timestamp exactly_at = 16;
  google.protobuf.Duration took = 17;
  google.protobuf.Int64Value wrapped = 18;
  google.protobuf.Struct extra = 19;
  string total = 20;
  string hash = 21;
  string digits = 22;
  string file = 23;
  oneof how { string card = 24; uint64 voucher = 25; }
  int64 seen_at = 26;
}
"""
EVERYTHING_RULES = """
version: 1
tables:
  shop.v1.Everything:
    partition_by: [{day: placed_at}, select]
    columns:
      exactly_at: {unit: ns}
      total: {type: "decimal(20, 4)"}
      hash: {encoding: hex, size: 4}
      digits: {type: "decimal(76, 0)"}
      how: {case: true}
      seen_at: {encoding: unix_ms}
"""
FULL = {
    "flag": True,
    "seen_at": "1700000000123",
    "small": -5,
    "large": "-5000000000",
    "natural": 4_000_000_000,
    "huge": "18000000000000000000",
    "single": 0.5,
    "precise": 0.1,
    "select": "it's/a=b",
    "data": "AAH/",
    "status": "PAID",
    "line": {"sku": "tea", "was": ["OPEN", "PAID"]},
    "lines": [{"sku": "pot", "quantity": 1}, {}],
    "by_name": {"x": {"sku": "y"}},
    "weights": {"-1": 2.5},
    "placed_at": "2026-01-30T23:59:58.25Z",
    "exactly_at": "2026-01-30T23:59:58.123456789Z",
    "took": "1.5s",
    "wrapped": "7",
    "extra": {"a": 1},
    "total": "12.5000",
    "hash": "00ff10a0",
    "digits": "1" * 70,
    "file": "name",
    "voucher": "9",
}


class Shop:
    """A team's folder: schemas that change, and an archive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sources = 0

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """What a command exits with and prints; in this process, as a new one takes a second to start."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main(arguments)
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()

    def cdpgen(self, *arguments: str) -> str:
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out

    def build(self, proto: str, rules: str = "version: 1") -> None:
        (self.folder / "schemas").mkdir(exist_ok=True)
        (self.folder / "schemas/shop.proto").write_text(proto)
        (self.folder / "schemas/cdpgen.yaml").write_text(rules)
        self._forget_generated()
        self.cdpgen("build", "schemas")
        self._set_messages()

    def _set_messages(self) -> None:
        # One process cannot have the generated messages of two versions.
        messages = messages_of(self.folder / "schemas", "shop.proto")
        for name, writer in load_tables(self.folder / "generated").items():
            type.__setattr__(writer, "message_type", partial(messages.__getitem__, name))

    def _forget_generated(self) -> None:
        # Python keeps modules, in this process and as bytecode, whose time it compares by seconds only.
        generated = self.folder / "generated"
        shutil.rmtree(generated, ignore_errors=True)
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(generated):
                del sys.modules[name]

    def archive(
        self,
        table: str,
        *records: dict[str, Any],
        options: tuple[str, ...] = (),
        to: str = "archive",
    ) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        self._sources += 1  # the same source again would be in the archive already
        name = f"records_{self._sources}.ndjson"
        (self.folder / name).write_text(text)
        self.cdpgen("archive", "--table", table, "--from", name, "--to", to, *options)

    def query(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect() as database:
            database.execute(self.cdpgen("sql", "archive", "--dialect", "duckdb"))
            return database.execute(query).fetchall()

    def rows(self, query: str) -> list[dict[str, Any]]:
        with duckdb.connect() as database:
            database.execute("set timezone = 'UTC'")
            database.execute(self.cdpgen("sql", "archive"))
            table = database.sql(query).to_arrow_table()
            rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
            return rows


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """An archive with a column of every type, to read only."""
    shop = Shop(tmp_path_factory.mktemp("everything"))
    shop.build(EVERYTHING, EVERYTHING_RULES)
    shop.archive("shop.v1.Everything", FULL, {})
    return shop


class TestDuckdb:
    def test_every_type_has_the_value_that_pyarrow_reads(self, everything: Shop) -> None:
        files = everything.folder / "archive/shop.v1.Everything"
        table = ds.dataset(files, partitioning=None).to_table().drop_columns(["digits"])
        for name in ("exactly_at", "took"):  # Python has no nanoseconds, DuckDB no duration
            index = table.schema.get_field_index(name)
            table = table.set_column(index, name, table[name].cast(pa.int64()))
        expected = table.to_pylist(maps_as_pydicts="strict")
        found = everything.rows(
            "select * exclude (placed_at_day) replace (epoch_ns(exactly_at) as exactly_at) "
            "from shop_v1.everything order by small"
        )
        assert found == sorted(expected, key=lambda row: int(row["small"]))
        assert len(found) == 2

    def test_what_it_cannot_read_is_left_out_with_a_comment(self, everything: Shop) -> None:
        text = everything.cdpgen("sql", "archive")
        assert "-- digits: decimal256(76, 0) cannot be read; left out\n" in text

    def test_partitions_that_are_no_columns_become_columns(self, everything: Shop) -> None:
        rows = everything.query('select placed_at_day, "select" from shop_v1.everything order by 1')
        assert rows == [(date(2026, 1, 30), "it's/a=b"), (None, "")]

    def test_a_filter_on_a_partition_reads_its_files_only(self, everything: Shop) -> None:
        [(_, plan)] = everything.query(
            "explain analyze select count(large) from shop_v1.everything "
            "where placed_at_day = '2026-01-30'"
        )
        assert "Total Files Read: 1" in plan

    def test_files_of_another_layout_have_the_columns_that_all_have(self, shop: Shop) -> None:
        shop.build(EVERYTHING, EVERYTHING_RULES)
        shop.archive("shop.v1.Everything", FULL)
        shop.archive("shop.v1.Everything", FULL, options=("--set", "partition_by=status"))
        [said] = [line for line in shop.cdpgen("sql", "archive").splitlines() if "_day" in line]
        assert said == "-- placed_at_day: is no folder of all files of the table; left out"
        assert shop.query("select count(*) from shop_v1.everything") == [(2,)]

    def test_files_of_every_version_appear_in_todays_schema(self, shop: Shop) -> None:
        shop.build(
            'syntax = "proto3"; package shop; message Order { int32 number = 1; string buyer = 2; }'
        )
        shop.archive("shop.Order", {"number": -1, "buyer": "Ann"})
        shop.build(
            'syntax = "proto3"; package shop; enum Status { OPEN = 0; PAID = 1; } message Order {'
            " int64 number = 1; string customer = 2; Status status = 3; repeated string skus = 4;"
            " optional bool gift = 5; bool late = 6; map<string, int32> by_sku = 7; }"
        )
        shop.archive(
            "shop.Order",
            {
                "number": str(1 << 40),
                "customer": "Bo",
                "status": "PAID",
                "skus": ["tea"],
                "gift": True,
                "late": True,
                "by_sku": {"tea": 1},
            },
        )
        rows = shop.query('select * from shop."order" order by number')
        assert rows == [
            (-1, "Ann", "OPEN", [], None, False, {}, None),
            (1 << 40, "Bo", "PAID", ["tea"], True, True, {"tea": 1}, None),
        ]

    def test_required_messages_stand_beside_columns_of_every_type(self, shop: Shop) -> None:
        # The defaults of all columns are in one MAP, whose values DuckDB wants to be of one type.
        proto = (
            'syntax = "proto2"; package shop; message Feed { enum Kind { ODD = 0; EVEN = 1; }'
            " message Inner { repeated int32 items = 1; map<string, Kind> kinds = 2;"
            " required bytes data = 3; required Kind kind = 4; required string text = 5;"
            " required bool flag = 6; optional string note = 7; }"
            " message Outer { required Inner inner = 1; %s }"
            " repeated string names = 1; required int32 number = 2; %s }"
        )
        inner = {"items": [1], "kinds": {"a": "EVEN"}, "kind": "EVEN", "text": "x", "flag": True}
        zero = {"items": [], "kinds": {}, "data": b"", "kind": "ODD", "text": "", "flag": False}
        read = {**inner, "data": b"\x00\xff", "note": None}
        inner["data"] = "AP8="
        accept = "version: 1\nevolution: {accept: [%s]}"
        added = "{rule: MESSAGE_SAME_REQUIRED_FIELDS, path: %s, reason: read by nobody else}"
        select = 'select * exclude (_raw) from shop.feed order by "number"'
        older: list[dict[str, Any]] = [{"names": ["a"], "number": 1}]

        shop.build(proto % ("", ""))
        shop.archive("shop.Feed", *older)
        outer = "required Outer outer = 3;"
        shop.build(proto % ("", outer), accept % added % "shop.Feed.outer")
        nothing = {**zero, "note": None}
        older[0]["outer"] = {"inner": nothing}
        assert shop.rows(select) == older
        shop.archive("shop.Feed", {"names": [], "number": 2, "outer": {"inner": inner}})
        older.append({"names": [], "number": 2, "outer": {"inner": read}})
        assert shop.rows(select) == older
        # Within a struct, what older files do not have is put in by the view.
        both = f"{added % 'shop.Feed.outer'}, {added % 'shop.Feed.outer.second'}"
        shop.build(proto % ("required Inner second = 2;", outer), accept % both)
        for row in older:
            row["outer"]["second"] = nothing
        assert shop.rows(select) == older

    def test_a_new_required_message_has_no_members_of_before(self, shop: Shop) -> None:
        proto = (
            'syntax = "proto2"; package shop; message Feed { message In { required string %s = 1; }'
            " message Out { required int32 x = 1; %s } required Out out = 1; }"
        )
        added = "required In new = 2;"
        rules = (
            "version: 1\nevolution: {accept: [{rule: MESSAGE_SAME_REQUIRED_FIELDS, path: "
            "shop.Feed.out.new, reason: read by nobody else}]}"
        )
        shop.build(proto % ("a", ""))
        shop.archive("shop.Feed", {"out": {"x": 1}})
        shop.build(proto % ("a", added), rules)
        shop.archive("shop.Feed", {"out": {"x": 2, "new": {"a": "b"}}})
        shop.build(proto % ("renamed", added), rules)
        assert shop.rows("select out from shop.feed order by out.x") == [
            {"out": {"x": 1, "new": {"renamed": ""}}},
            {"out": {"x": 2, "new": {"renamed": "b"}}},
        ]

    def test_the_case_of_a_oneof_is_put_right_where_a_member_had_another_name_alone(
        self, shop: Shop
    ) -> None:
        proto = (
            'syntax = "proto3"; package shop; message Pay { string %s = 1; oneof how { string card = 2;'
            " In in = 3; } oneof who { string %s = 4; } message In { oneof how { string %s = 1; } } }"
        )
        rules = "version: 1\ndefaults: {oneof_case: true}"
        shop.build(proto % ("from", "firm", "a"), rules)
        shop.archive("shop.Pay", {"from": "x", "in": {"a": "b"}, "firm": "c"})
        shop.build(proto % ("origin", "firm", "a"), rules)
        select = 'select how_case, who_case, "in".how_case as inner from shop.pay'
        same = {"how_case": "in", "who_case": "firm", "inner": "a"}
        assert "REPLACE (" not in shop.cdpgen("sql", "archive")
        assert shop.rows(select) == [same]
        shop.build(proto % ("origin", "company", "z"), rules)
        made = shop.cdpgen("sql", "archive")
        assert "CASE \"who_case\" WHEN 'firm' THEN 'company' ELSE \"who_case\" END" in made
        assert ("'from'" in made, made.count('CASE "how_case"')) == (False, 0)
        assert shop.rows(select) == [{"how_case": "in", "who_case": "company", "inner": "z"}]

    def test_line_breaks_in_the_names_of_folders_end_no_comment(self, shop: Shop) -> None:
        shop.build('syntax = "proto3"; package shop; message Order { int32 x = 1; }')
        shop.archive("shop.Order", {"x": 1})
        shop.folder.joinpath("archive").rename(shop.folder / "new\nline\rhere")
        one = next(shop.folder.joinpath("new\nline\rhere/shop.Order").rglob("*.parquet"))
        for folder in ("DROP TABLE\nx", "shop.Order/level\nof=folders"):
            (one.parents[1] / folder).mkdir()
            shutil.copy(one, one.parents[1] / folder)
        made = shop.cdpgen("sql", "new\nline\rhere")
        head = [line for line in made.splitlines() if not line.startswith("CREATE")]
        assert head[:6] == [
            *("-- cdpgen sql 'new", "-- line", "-- here' --dialect duckdb"),
            *("-- DROP TABLE", "-- x: has files but no writer in generated; left out", "-- level"),
        ]
        for dialect in ("spark", "clickhouse"):
            assert "\n-- of: is no folder" in shop.cdpgen(
                "sql", "new\nline\rhere", "--dialect", dialect
            )
        with duckdb.connect() as connection:
            connection.execute(made)

    def test_what_it_cannot_say_of_older_files_it_says_in_comments(self, shop: Shop) -> None:
        shop.build('syntax = "proto3"; package shop; message Order { int32 x = 1; }')
        shop.archive("shop.Order", {"x": 1})
        with (shop.folder / "newer.bin").open("wb") as stream:
            stream.write(b"\x04\x08\x02\x10\x05")  # x: 2, and a field that is not known yet
        source = ("--table", "shop.Order", "--from", "newer.bin", "--format", "delimited")
        shop.cdpgen("archive", *source, "--to", "archive")
        rules = "version: 1\nevolution: {defaults: {shop.Order.y: 7}}"
        shop.build(
            'syntax = "proto3"; package shop; message Order { int32 x = 1; int32 y = 2; }', rules
        )
        said = shop.cdpgen("sql", "archive")
        assert "-- 1 row of older files is kept whole in _raw: until `cdpgen upgrade`" in said
        assert shop.query('select x, y from shop."order" order by x') == [(1, 7), (2, 7)]
        shop.cdpgen("upgrade", "archive")
        said = shop.cdpgen("sql", "archive")
        assert "kept whole" not in said
        assert "-- y: the default of the rules is not in rows of upgraded files" in said
        assert shop.query('select x, y from shop."order" order by x') == [(1, 0), (2, 5)]

    def test_files_of_another_lock_are_refused(self, shop: Shop) -> None:
        proto = 'syntax = "proto3"; package shop; message Order {{ {} }}'
        shop.build(proto.format("string a = 1;"))
        shop.build(proto.format("string a = 1; string b = 2;"))
        shop.archive("shop.Order", {"a": "x", "b": "y"})
        (shop.folder / "schemas/cdpgen.lock").unlink()
        shop.build(proto.format("string b = 2;"))
        code, out, said = shop.run("sql", "archive")
        assert (code, out) == (2, "")
        assert "knows another version 1 of shop.Order than" in said

    def test_a_name_that_meant_another_column_once_is_an_error(self, shop: Shop) -> None:
        proto = 'syntax = "proto3"; package shop; message Line {{ {} }} message Order {{ Line line = 1; }}'
        shop.build(proto.format("string a = 1;"))
        shop.archive("shop.Order", {"line": {"a": "x"}})
        shop.build(proto.format("string b = 1; string a = 2;"))
        code, _, said = shop.run("sql", "archive")
        assert code == 2
        assert "line.a was the name of another column" in said
        shop.cdpgen("upgrade", "archive")
        assert shop.query('select line.b, line.a from shop."order"') == [("x", "")]


@pytest.fixture
def orders(tmp_path: Path) -> History:
    return History(tmp_path, "shop.Order")


def test_older_files_may_have_times_that_python_has_not(orders: History) -> None:
    proto = (
        'syntax = "proto3"; package shop; import "google/protobuf/timestamp.proto"; '
        "message Order { google.protobuf.Timestamp at = 1; %s }"
    )
    orders.build(proto % "")
    at = Timestamp(seconds=253_402_300_800).SerializeToString()  # the year 10000
    orders.write_payloads([b"\x0a" + bytes([len(at)]) + at])
    orders.build(proto % "int32 x = 2;")
    with duckdb.connect() as database:
        database.execute(definitions(str(orders.archive), "duckdb", orders.today.generated))
        found = database.execute('select epoch_us("at"), x from shop."order"').fetchall()
    assert found == [(253_402_300_800_000_000, 0)]


class TestDuckdbWithinMessages:
    """There DuckDB finds columns by their names, and casts them."""

    TEXTS = ("plain", "naïve", r"a\x41b", "\\", "\0", "")
    BYTES = (b"a", rb"\x41", b"\x00\xff\x80", b"")
    ORDER = (
        "string top = 2; Line line = 3; repeated string texts = 4; repeated Line lines = 5; "
        "map<string, string> by_text = 6; map<string, Line> by_name = 7;"
    )
    LINE = "string sku = 1; repeated string names = 2; optional string note = 3;"

    def schema(self, order: str, line: str) -> str:
        return (
            'syntax = "proto3"; package shop; '
            f"message Line {{ {line} }} message Order {{ int32 id = 1; {order} }}"
        )

    def order(self, id: int, text: str | bytes) -> dict[str, Any]:
        value = text if isinstance(text, str) else base64.b64encode(text).decode()
        line = {"sku": value, "names": [value, value], "note": value}
        nested = {"line": line, "texts": [value], "lines": [line, {}]}
        return {"id": id, "top": value, **nested, "by_text": {"k": value}, "by_name": {"k": line}}

    def as_bytes(self, fields: str) -> str:
        return re.sub(r"string( \w+ =|>)", r"bytes\1", fields)

    def rows(self, orders: History) -> list[dict[str, Any]]:
        """The rows of the view, which are those of `open_archive`."""
        with duckdb.connect() as database:
            database.execute(definitions(str(orders.archive), "duckdb", orders.today.generated))
            table = database.sql('select * from shop."order" order by id').to_arrow_table()
        rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
        assert rows == self.opened(orders, with_raw=True)
        return self.opened(orders)

    def opened(self, orders: History, with_raw: bool = False) -> list[dict[str, Any]]:
        names = [*orders.writer.converter.schema.names][: None if with_raw else -1]
        return sorted(orders.rows(columns=names), key=lambda row: int(row["id"]))

    def upgrade(self, orders: History) -> None:
        assert not [
            each.problem
            for each in upgrade(orders.archive, generated=orders.today.generated)
            if each.problem
        ]

    def refused(self, orders: History, name: str) -> None:
        """The view is refused by that name until an upgrade, and right after it."""
        said = f"shop.Order: {re.escape(name)} was the name of another column in files of an older"
        with pytest.raises(UsageError, match=said):
            definitions(str(orders.archive), "duckdb", orders.today.generated)
        before = self.opened(orders)
        self.upgrade(orders)
        assert self.rows(orders) == before

    def test_texts_that_became_bytes_are_the_bytes_of_the_texts(self, orders: History) -> None:
        orders.build(self.schema(self.ORDER, self.LINE))
        orders.write(*(self.order(i, text) for i, text in enumerate(self.TEXTS)), {"id": 6})
        order, line = self.as_bytes(self.ORDER), self.as_bytes(self.LINE)
        orders.build(self.schema(order, line))
        rows = self.rows(orders)
        assert len(rows) == 7
        assert rows[2]["by_name"] == {
            "k": {"sku": rb"a\x41b", "names": [rb"a\x41b"] * 2, "note": rb"a\x41b"}
        }

    def test_so_they_are_beside_files_that_have_bytes(self, orders: History) -> None:
        orders.build(self.schema(self.ORDER, self.LINE))
        orders.write(*(self.order(i, text) for i, text in enumerate(self.TEXTS)))
        order, line = self.as_bytes(self.ORDER), self.as_bytes(self.LINE)
        orders.build(self.schema(order, line))
        orders.write(*(self.order(6 + i, value) for i, value in enumerate(self.BYTES)), {"id": 10})
        rows = self.rows(orders)
        assert [row["line"]["note"] for row in rows[:10]] == [
            *(text.encode() for text in self.TEXTS),
            *self.BYTES,
        ]
        self.upgrade(orders)
        assert self.rows(orders) == rows

    def test_so_they_are_under_a_new_name(self, orders: History) -> None:
        orders.build(self.schema(self.ORDER, self.LINE))
        orders.write(self.order(0, r"a\x41b"), {"id": 1, "line": {}})
        line = self.LINE.replace("note", "remark")
        orders.build(self.schema(self.ORDER, line))
        orders.write({"id": 2, "line": {"remark": "naïve"}})
        orders.build(self.schema(self.as_bytes(self.ORDER), self.as_bytes(line)))
        orders.write({"id": 3, "line": {"remark": "AP+A"}}, {"id": 4, "line": {"remark": ""}})
        notes = [row["line"]["remark"] for row in self.rows(orders)]
        assert notes == [rb"a\x41b", None, "naïve".encode(), b"\x00\xff\x80", b""]

    def test_bytes_that_a_required_message_has_by_default_are_those(self, orders: History) -> None:
        proto = (
            'syntax = "proto2"; package shop; message Order { required int32 id = 1; %s'
            " message Line { required %s sku = 1; } }"
        )
        added = "required Line line = 2;"
        rules = (
            "version: 1\nevolution: {accept: [{rule: MESSAGE_SAME_REQUIRED_FIELDS, path: "
            "shop.Order.line, reason: read by nobody else}], defaults: {%s}}"
        )
        orders.build(proto % ("", "string"))
        orders.write({"id": 1})
        orders.build(proto % (added, "string"), rules % "")
        orders.write({"id": 2, "line": {"sku": r"\x41"}})
        orders.build(proto % (added, "bytes"), rules % 'shop.Order.line.sku: "00ff"')
        orders.write({"id": 3, "line": {"sku": "AP+A"}})
        skus = [row["line"]["sku"] for row in self.rows(orders)]
        assert skus == [b"\x00\xff", rb"\x41", b"\x00\xff\x80"]

    def test_nulls_of_a_column_that_is_required_now_are_its_zero(self, orders: History) -> None:
        fields = (
            "optional string sku = 11; optional Kind kind = 12; optional bytes data = 13; "
            "optional int64 at = 14;"
        )
        order = f"Line line = 2; repeated Line lines = 3; map<string, Line> by_name = 4; {fields}"
        enum = " enum Kind { OPEN = 0; PAID = 1; }"
        places = [f"{above}{{}}" for above in ("", "line.", "lines[].", "by_name.value.")]
        at = [place.format("at").replace("[]", "") for place in places]
        columns = ", ".join(f"{path}: {{encoding: unix_ms}}" for path in at)
        rules = f"version: 1\ntables: {{shop.Order: {{columns: {{{columns}}}}}}}\n"
        orders.build(self.schema(order, fields) + enum, rules)
        full = {"sku": "x", "kind": "PAID", "data": "AAH/", "at": "5"}
        nothing: dict[str, Any] = {"line": {}, "lines": [{}, full], "by_name": {"k": {}}}
        orders.write({"id": 1, **full}, {"id": 2, **nothing}, {"id": 3, "line": full})
        accept = ", ".join(
            f"{{rule: COLUMN_MADE_REQUIRED, path: 'shop.Order.{place.format(name)}', reason: unused}}"
            for place in places
            for name in full
        )
        rules += f"evolution: {{accept: [{accept}]}}"
        required = self.schema(order, fields).replace("optional ", "")
        orders.build(required + enum, rules)
        rows = self.rows(orders)
        assert [row["kind"] for row in rows] == ["PAID", "OPEN", "OPEN"]
        assert rows[1]["by_name"]["k"]["data"] == b""
        orders.write({"id": 4, **full}, {"id": 5, **nothing}, {"id": 6, "line": full})
        assert self.rows(orders)[:3] == rows
        self.upgrade(orders)
        assert self.rows(orders)[:3] == rows

    def test_a_message_that_is_required_now_has_the_zeros_of_its_members(
        self, orders: History
    ) -> None:
        proto = (
            'syntax = "proto2"; package shop; message Order { required int32 id = 1; %s Line line = 2; '
            "message Line { repeated string skus = 1; optional int32 x = 2; %s Inner inner = 3; } "
            "message Inner { required bytes data = 1; } }"
        )
        orders.build(proto % ("optional", "optional"))
        orders.write({"id": 1, "line": {"skus": ["a"]}}, {"id": 2})
        accept = ", ".join(
            f"{{rule: MESSAGE_SAME_REQUIRED_FIELDS, path: shop.Order.{path}, reason: unused}}"
            for path in ("line", "line.inner")
        )
        orders.build(
            proto % ("required", "required"), f"version: 1\nevolution: {{accept: [{accept}]}}"
        )
        inner = {"inner": {"data": b""}}
        assert [row["line"] for row in self.rows(orders)] == [
            {"skus": ["a"], "x": None, **inner},
            {"skus": [], "x": None, **inner},
        ]

    def test_a_time_of_day_that_older_rows_have_by_default_is_that(self, orders: History) -> None:
        proto = (
            'syntax = "proto3"; package shop; import "google/type/timeofday.proto"; '
            "message Order { int32 id = 1; %s }"
        )
        times = orders.schemas / "google/type/timeofday.proto"
        times.parent.mkdir(parents=True)
        times.write_text(
            'syntax = "proto3"; package google.type; message TimeOfDay '
            "{ int32 hours = 1; int32 minutes = 2; int32 seconds = 3; int32 nanos = 4; }"
        )
        orders.build(proto % "")
        orders.write({"id": 1})
        rules = 'version: 1\nevolution: {defaults: {shop.Order.at: "09:30:00.5"}}'
        orders.build(proto % "google.type.TimeOfDay at = 3;", rules)
        orders.write({"id": 2, "at": {"hours": 1}})
        assert [row["at"] for row in self.rows(orders)] == [time(9, 30, 0, 500_000), time(1)]

    @pytest.mark.parametrize(
        "now",
        ["reserved 1; string a = 3;", "reserved 1; string A = 3;", "reserved 1; int32 a = 3;"],
        ids=["of-its-type", "in-another-case", "of-another-type"],
    )
    def test_a_new_column_has_nothing_of_a_retired_one_of_its_name(
        self, orders: History, now: str
    ) -> None:
        orders.build(self.schema("Line line = 2;", "string a = 1; string b = 2;"))
        orders.write({"id": 1, "line": {"a": "x", "b": "y"}}, {"id": 2})
        orders.build(self.schema("Line line = 2;", f"{now} string b = 2;"))
        self.refused(orders, "line.a")

    @pytest.mark.parametrize(
        ("field", "line", "path"),
        [
            ("repeated Line line = 2;", [{"a": "x"}], "line[]"),
            ("map<string, Line> line = 2;", {"k": {"a": "x"}}, "line.value"),
        ],
        ids=["list", "map"],
    )
    def test_so_it_is_in_lists_and_maps(
        self, orders: History, field: str, line: object, path: str
    ) -> None:
        orders.build(self.schema(field, "string a = 1; string b = 2;"))
        orders.write({"id": 1, "line": line})
        orders.build(self.schema(field, "reserved 1; string a = 3; string b = 2;"))
        self.refused(orders, f"{path}.a")

    def test_so_it_is_where_a_change_of_type_was_accepted(self, orders: History) -> None:
        orders.build(self.schema("Line line = 2;", "string a = 1;"))
        orders.write({"id": 1, "line": {"a": "x"}})
        accept = "{rule: FIELD_WIRE_COMPATIBLE_TYPE, path: shop.Order.line.a, reason: unused}"
        rules = f"version: 1\nevolution: {{accept: [{accept}]}}"
        orders.build(self.schema("Line line = 2;", "int32 a = 1;"), rules)
        orders.write({"id": 2, "line": {"a": 5}})
        self.refused(orders, "line.a")

    @pytest.mark.parametrize(
        "order",
        [
            "Line line = 2;",
            "repeated Line line = 2;",
            "map<string, Line> line = 2;",
            "oneof one { Line line = 2; int32 number = 3; }",
            "message Page { int32 number = 1; Line line = 2; } repeated Page line = 2;",
        ],
        ids=["message", "list", "map", "oneof", "deeper"],
    )
    def test_a_message_may_have_other_members_than_ever_before(
        self, orders: History, order: str
    ) -> None:
        def line(value: dict[str, Any]) -> dict[str, Any]:
            if "Page" in order:
                return {"line": [{"number": 1, "line": value}, {}]}
            if "repeated" in order:
                return {"line": [value, {}]}
            return {"line": {"k": value} if "map" in order else value}

        orders.build(self.schema(order, "repeated string a = 1;"))
        orders.write({"id": 1, **line({"a": ["x"]})}, {"id": 2})
        orders.build(self.schema(order, "reserved 1; int32 b = 2; string c = 3;"))
        before = self.rows(orders)
        orders.write({"id": 3, **line({"b": 5, "c": "y"})}, {"id": 4})
        assert self.rows(orders)[:2] == before
        orders.build(self.schema(order, "reserved 1, 2, 3; optional bytes d = 4;"))
        rows = self.rows(orders)
        orders.write({"id": 5, **line({"d": "AAH/"})})
        assert self.rows(orders)[:4] == rows
        self.upgrade(orders)
        assert self.rows(orders)[:4] == rows

    def test_a_column_that_was_dropped_and_came_back_goes_on(self, orders: History) -> None:
        proto = self.schema("Line line = 2;", "string a = 1; string b = 2;")
        orders.build(proto)
        orders.write({"id": 1, "line": {"a": "x", "b": "y"}})
        dropped = "version: 1\ntables: {shop.Order: {columns: {line.a: {drop: true}}}}"
        orders.build(proto, dropped)
        orders.write({"id": 2, "line": {"b": "y"}})
        assert [row["line"] for row in self.rows(orders)] == [{"b": "y"}] * 2
        orders.build(proto)
        orders.write({"id": 3, "line": {"a": "z"}})
        assert [row["line"]["a"] for row in self.rows(orders)] == ["x", "", "z"]

    def test_a_former_name_that_a_retired_column_had_too_is_an_error(self, orders: History) -> None:
        orders.build(self.schema("Line line = 2;", "optional string a = 1;"))
        orders.write({"id": 1, "line": {"a": "x"}})
        orders.build(self.schema("Line line = 2;", "optional string b = 1; optional string a = 2;"))
        orders.write({"id": 2, "line": {"a": "retired"}})
        orders.build(self.schema("Line line = 2;", "optional string b = 1; reserved 2;"))
        self.refused(orders, "line.a")
        # An upgraded file still has what is retired; a writer of the first version may run on.
        orders.write({"id": 3, "line": {"b": "y"}}, version=1)
        self.refused(orders, "line.a")

    def test_two_retired_columns_of_one_name_are_none_of_todays(self, orders: History) -> None:
        for number in (1, 2, 3):
            gone = "".join(f"reserved {before};" for before in range(1, number))
            field = f"optional string a = {number};" if number < 3 else ""
            orders.build(self.schema("Line line = 2;", f"{gone} {field} string b = 9;"))
            orders.write({"id": number, "line": {"b": "x"} | ({"a": "y"} if field else {})})
        assert [row["line"] for row in self.rows(orders)] == [{"b": "x"}] * 3

    def test_a_name_that_differs_in_case_from_the_former_is_found(self, orders: History) -> None:
        orders.build(self.schema("Line line = 2;", "string skuId = 1;"))
        orders.write({"id": 1, "line": {"skuId": "x"}})
        orders.build(self.schema("Line line = 2;", "string skuid = 1;"))
        orders.write({"id": 2, "line": {"skuid": "y"}})
        assert [row["line"] for row in self.rows(orders)] == [{"skuid": "x"}, {"skuid": "y"}]


LINE: list[pa.Field[Any]] = [pa.field("sku", pa.string()), pa.field("hash", pa.binary(4))]
FIELDS: list[pa.Field[Any]] = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("at", pa.timestamp("us", "UTC")),
    pa.field("time", pa.time64("us")),
    pa.field("number", pa.uint64(), nullable=False),
    pa.field("price", pa.decimal128(38, 2)),
    pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    pa.field("line", pa.struct(LINE)),
    pa.field("names", pa.list_(pa.field("item", pa.string(), False)), nullable=False),
    pa.field("by_name", pa.map_(pa.string(), pa.int32()), nullable=False),
]
ORDER = ArchivedTable(
    "shop.v1.Order",
    pa.schema(FIELDS),
    Program("shop.v1.Order"),
    (Key("at_day", True),),
    folders=True,
)
EXPECTED = {
    "bigquery": """\
-- Found by name: a column renamed since a file was written is not found in it.
CREATE SCHEMA IF NOT EXISTS `shop_v1`;
CREATE OR REPLACE EXTERNAL TABLE `shop_v1`.`order` (
  `id` STRING,
  `at` TIMESTAMP,
  `time` TIME,
  `number` INT64,
  `price` BIGNUMERIC(38, 2),
  `status` STRING,
  `line` STRUCT<`sku` STRING, `hash` BYTES>,
  `names` ARRAY<STRING>,
  `by_name` ARRAY<STRUCT<`key` STRING, `value` INT64>>
)
WITH PARTITION COLUMNS (
  `at_day` DATE
)
OPTIONS (
  format = 'PARQUET',
  uris = ['gs://bucket/archive/shop.v1.Order/*.parquet'],
  enable_list_inference = true,
  map_target_type = 'ARRAY_OF_STRUCT',
  hive_partition_uri_prefix = 'gs://bucket/archive/shop.v1.Order'
);""",
    "spark": """\
-- time: time64[us] cannot be read; left out
-- Found by name: a column renamed since a file was written is not found in it.
CREATE DATABASE IF NOT EXISTS `shop_v1`;
DROP TABLE IF EXISTS `shop_v1`.`order`;
CREATE TABLE `shop_v1`.`order` (
  `id` STRING,
  `at` TIMESTAMP,
  `number` DECIMAL(20, 0),
  `price` DECIMAL(38, 2),
  `status` STRING,
  `line` STRUCT<`sku`: STRING, `hash`: BINARY>,
  `names` ARRAY<STRING>,
  `by_name` MAP<STRING, INT>,
  `at_day` DATE
)
USING PARQUET
PARTITIONED BY (`at_day`)
LOCATION 'gs://bucket/archive/shop.v1.Order';
MSCK REPAIR TABLE `shop_v1`.`order`;""",
    "clickhouse": """\
-- time: time64[us] cannot be read; left out
-- Found by name: a column renamed since a file was written is not found in it.
CREATE DATABASE IF NOT EXISTS `shop_v1`;
CREATE OR REPLACE VIEW `shop_v1`.`order` AS
SELECT *,
  toDate32OrNull(nullIf(extract(_path, '/at_day=([^/]*)/'), '__HIVE_DEFAULT_PARTITION__')) AS `at_day`
FROM gcs(
  'gs://bucket/archive/shop.v1.Order/**/*.parquet', 'Parquet',
  '`id` String, `at` Nullable(DateTime64(6, \\'UTC\\')), `number` UInt64, \
`price` Nullable(Decimal(38, 2)), `status` String, \
`line` Tuple(`sku` Nullable(String), `hash` Nullable(String)), `names` Array(String), \
`by_name` Map(String, Nullable(Int32))'
)
SETTINGS use_hive_partitioning = 0;""",
}


class TestOtherEngines:
    @pytest.mark.parametrize("dialect", EXPECTED)
    def test_the_statements_are_these(self, dialect: Dialect) -> None:
        assert define(ORDER, "gs://bucket/archive/", dialect) == EXPECTED[dialect]

    def test_spark_has_a_column_that_is_a_folder_once_among_the_partitions(self) -> None:
        table = ArchivedTable(
            "shop.Order", ORDER.schema, ORDER.program, folders=True, columns_in_folders=("status",)
        )
        text = define(table, "s3://bucket", "spark")
        assert text.count("`status`") == 2
        assert "PARTITIONED BY (`status`)\nLOCATION 's3a://bucket/shop.Order';" in text

    def test_bigquery_has_no_partitions_where_a_folder_is_a_column(self) -> None:
        table = ArchivedTable(
            "shop.Order", ORDER.schema, ORDER.program, ORDER.keys, True, ("status",)
        )
        assert "PARTITION" not in define(table, "gs://bucket", "bigquery")

    @pytest.mark.parametrize(("dialect", "name"), [("clickhouse", "a{b,c}"), ("spark", "a[b]")])
    def test_a_folder_that_is_a_pattern_is_refused(self, dialect: Dialect, name: str) -> None:
        table = replace(ORDER, keys=())
        with pytest.raises(UsageError, match=r"takes `.` for part of a pattern"):
            define(table, f"/data/{name}", dialect)
        assert define(table, f"/data/{name[0]}", dialect)

    def test_spark_has_no_patterns_where_there_are_partitions(self) -> None:
        assert "LOCATION 'file:///a[b]/shop.v1.Order'" in define(ORDER, "/a[b]", "spark")

    @pytest.mark.parametrize(
        ("dialect", "url", "message"),
        [
            ("bigquery", "s3://bucket", "BigQuery reads archives on gs:// only"),
            ("clickhouse", "memory://x", "ClickHouse does not read memory://"),
        ],
    )
    def test_a_store_that_an_engine_cannot_reach_is_an_error(
        self, dialect: Dialect, url: str, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            define(ORDER, url, dialect)


class TestCommand:
    ORDERS = 'syntax = "proto3"; package shop; message Order { string id = 1; }'

    def fail(self, shop: Shop, *arguments: str, code: int = 2) -> str:
        ended, out, said = shop.run("sql", *arguments)
        assert (ended, out) == (code, "")
        return said

    def test_an_archive_without_a_known_table_is_an_error_that_says_what_there_is(
        self, shop: Shop
    ) -> None:
        shop.build(self.ORDERS)
        said = self.fail(shop, "archive", code=1)
        assert said == "archive: there are no files of a table\n"
        shop.archive("shop.Order", {"id": "1"})
        (shop.folder / "schemas" / "cdpgen.lock").unlink()  # or the build would refuse
        shop.build(self.ORDERS.replace("Order", "Sale"))
        said = self.fail(shop, "archive")
        assert said == "archive: holds no table of the writers in generated; it has shop.Order\n"

    def test_a_folder_within_an_archive_is_refused_and_a_damaged_file_is_1(
        self, shop: Shop
    ) -> None:
        shop.build(self.ORDERS)
        shop.archive("shop.Order", {"id": "1"})
        assert "give that one: " in self.fail(shop, "archive/shop.Order")
        file = next((shop.folder / "archive" / "shop.Order").glob("*.parquet"))
        assert self.fail(shop, f"archive/shop.Order/{file.name}")
        file.write_bytes(b"nothing")
        assert f"{file.name}: cannot be read: " in self.fail(shop, "archive", code=1)

    def test_letters_that_a_retry_has_are_no_table(self, shop: Shop) -> None:
        shop.build(self.ORDERS)
        shop.archive("shop.Order", {"id": "1"})
        taken = shop.folder / "archive" / "_retry" / "shop.Order"
        shutil.copytree(shop.folder / "archive" / "shop.Order", taken)
        assert "-- _retry" not in shop.cdpgen("sql", "archive")

    def test_a_full_disk_behind_standard_output_is_1_and_said(self, shop: Shop) -> None:
        shop.build(self.ORDERS)
        shop.archive("shop.Order", {"id": "1"})
        command = [sys.executable, "-m", "cdpgen", "sql", "archive"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command,
                cwd=shop.folder,
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        assert done.stderr == b"standard output: No space left on device\n"
        assert done.returncode == 1

    def test_a_table_without_a_writer_is_left_out_with_a_comment(self, shop: Shop) -> None:
        shop.build(self.ORDERS)
        shop.archive("shop.Order", {"id": "1"})
        shop.build(self.ORDERS + " message Sale { string id = 1; }")
        shop.archive("shop.Sale", {"id": "1"})
        (shop.folder / "schemas" / "cdpgen.lock").unlink()  # or the build would refuse
        shop.build(self.ORDERS)
        text = shop.cdpgen("sql", "archive")
        assert "-- shop.Sale: has files but no writer in generated; left out\n" in text
        assert '"shop"."order"' in text

    def test_two_tables_of_one_name_in_sql_are_numbered(self, shop: Shop) -> None:
        more = " message OrderLine { string id = 1; } message Order_line { string id = 1; }"
        shop.build(self.ORDERS + more)
        shop.archive("shop.OrderLine", {"id": "1"})
        shop.archive("shop.Order_line", {"id": "2"})
        found = "select a.id, b.id from shop.order_line a, shop.order_line_2 b"
        assert shop.query(found) == [("1", "2")]
        text = shop.cdpgen("sql", "archive")
        assert "-- shop.Order_line: is order_line_2, as another table is order_line\n" in text

    def test_dead_letters_are_no_table(self, shop: Shop) -> None:
        shop.build(self.ORDERS)
        shop.archive("shop.Order", {"id": "1"}, {"id": 1})
        assert list((shop.folder / "archive/_dead_letter").rglob("*.parquet"))
        assert "/_dead_letter/" not in shop.cdpgen("sql", "archive")

    def test_an_archive_whose_name_is_a_pattern_is_read_and_no_other(self, shop: Shop) -> None:
        shop.build(self.ORDERS)
        shop.archive("shop.Order", {"id": "beside"})
        for other in ("aa?[x]", "a*a[x]", "a*?x"):
            shutil.copytree(shop.folder / "archive", shop.folder / other)
        shop.archive("shop.Order", {"id": "1"}, to="a*?[x]")
        for url in ("a*?[x]", f"file://{shop.folder}/a*?[x]"):
            with duckdb.connect() as database:
                database.execute(shop.cdpgen("sql", url, "--dialect", "duckdb"))
                assert database.execute('select id from shop."order"').fetchall() == [("1",)]

    def test_an_archive_that_duckdb_cannot_find_is_an_error(self, shop: Shop) -> None:
        shop.build(self.ORDERS)
        shop.archive("shop.Order", {"id": "1"}, to=r"a\b")
        said = self.fail(shop, r"a\b", "--dialect", "duckdb")
        assert r"a\b/shop.Order: DuckDB finds no files there, as it takes `\` for" in said

    def test_without_generated_writers_it_says_how_to_make_them(self, shop: Shop) -> None:
        assert "cdpgen build SCHEMAS --out nowhere" in self.fail(
            shop, "archive", "--generated", "nowhere"
        )
