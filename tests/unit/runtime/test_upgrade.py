"""`cdpgen upgrade`: files of old versions become files of today's, and nothing is lost on the way."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.proto import parse_length_prefixed

import cdp_runtime
from cdp_runtime.config import Compression
from cdp_runtime.converter import split_delimited
from cdp_runtime.dead_letter import FOLDER, RETRY_FOLDER
from cdp_runtime.dead_letters import retry
from cdp_runtime.positions import runs
from cdp_runtime.replay import run as replay
from cdp_runtime.upgrade import run as run_here
from cdp_runtime.upgrade import upgrade
from tests.versions import History

TIMES = 'import "google/protobuf/timestamp.proto";'
OLD = "int32 number = 1; string buyer = 2; google.protobuf.Timestamp at = 3;"
NEW = (
    "int64 number = 1; string customer = 2; google.protobuf.Timestamp at = 3; string note = 4;"
    " repeated Status was = 5; optional bool late = 6; Line line = 7; Status status = 8;"
)
STATUS = "enum Status { OPEN = 0; PAID = 1; } message Line { string sku = 1; }"
DEFAULTS = "version: 1\nevolution: {defaults: {shop.Order.status: PAID, shop.Order.note: none}}"


def order(fields: str, before: str = "") -> str:
    return f'syntax = "proto3"; package shop; {TIMES} {before} message Order {{ {fields} }}'


def accepted(rule: str, path: str) -> str:
    return f"evolution: {{accept: [{{rule: {rule}, path: shop.Order.{path}, reason: so be it}}]}}"


def ruled(columns: str, path: str, rule: str = "COLUMN_TYPE_CHANGED") -> str:
    return f"tables: {{shop.Order: {{columns: {{{columns}}}}}}}\n{accepted(rule, path)}"


NODE = order("Node m = 2;", "message Node { int32 a = 1; Node n = 2; }")
SALES = order(
    "int64 x = 1; M one = 2; repeated M many = 3;", "message M { int32 a = 1; int32 b = 2; }"
)
NEEDED = (
    'syntax = "proto2"; package shop; message M { required int32 q = 1; optional string s = 2; }'
    " message Order { required string id = 1; optional M m = 2; optional string n = 3; }"
)
CASES = "oneof o { E e = 7; string s = 14; }"
TEXTS = 'edition = "2023"; package shop; %s message Order { string a = 1; %s }'

CHANGES: dict[str, tuple[str, str, str, list[bytes]]] = {
    "another type": (
        order("int64 x = 2;"),
        order("int32 x = 2;"),
        accepted("FIELD_SAME_TYPE", "x"),
        [b"\x10\x05", b""],
    ),
    "another enum": (
        order("E e = 2;", "enum E { Z = 0; X = 1; }"),
        order("enum E2 { Z = 0; X = 1; } E2 e = 2;"),
        accepted("FIELD_SAME_TYPE", "e"),
        [b"\x10\x01", b""],
    ),
    "a value of an enum that is reserved": (
        order("E e = 1; repeated E es = 2;", "enum E { Z = 0; X = 1; }"),
        order("E e = 1; repeated E es = 2;", "enum E { Z = 0; reserved 1; reserved 'X'; }"),
        "",
        [b"", b"\x08\x01", b"\x08\x02", b"\x12\x02\x00\x01", b"\x08\x01", b""],
    ),
    "a message that is flattened": (
        NODE,
        NODE,
        ruled("m: {flatten: true, prefix: m_}", "m", "COLUMN_SAME_NESTING"),
        [b"\x12\x02\x08\x03", b""],
    ),
    "another depth": (
        NODE,
        NODE,
        ruled("m: {depth: 2}", "m.n"),
        [b"\x12\x0a\x08\x01\x12\x06\x08\x02\x12\x02\x08\x03", b"\x12\x02\x08\x01"],
    ),
    "texts that are decimals": (
        order("string p = 2;"),
        order("string p = 2;"),
        ruled("p: {type: 'decimal(10, 2)'}", "p"),
        [b"\x12\x041.50", b"\x12\x04oops", b""],
    ),
    "what is dropped": (
        SALES,
        SALES,
        "tables: {shop.Order: {columns: {x: {drop: true}, one.a: {drop: true}, many: {drop: true}}}}",
        [b"\x08\x05", b"\x12\x02\x08\x01", b"\x1a\x00", b"\x12\x02\x10\x01"],
    ),
    "what was required": (
        NEEDED,
        NEEDED.replace("required", "optional"),
        "",
        [b"\x0a\x01a\x12\x02\x08\x01", b"\x1a\x01n", b"\x0a\x01x\x12\x03\x12\x01s"],
    ),
    "one text that is not UTF-8 any more": (
        TEXTS % ("option features.utf8_validation = NONE;", "string old = 2;"),
        TEXTS % ("", "reserved 2;"),
        "",
        [b"\x0a\x01\xff\x12\x01o", b"\x0a\x01a\x12\x01o", b"\x0a\x01b", b"\x0a\x01\xff"],
    ),
    "one message that is none any more": (
        order("string id = 1; string old = 2;"),
        order("string id = 1; reserved 2; M m = 5;", "message M { string a = 1; }"),
        "",
        [b"\x0a\x01x\x2a\x02\xff\xff", b"\x0a\x01a\x12\x01o", b"\x0a\x01b"],
    ),
    "what was repeated": (
        order("repeated string tags = 2;"),
        order("string tags = 2; int32 n = 3;"),
        accepted("FIELD_SAME_CARDINALITY", "tags"),
        [b"\x12\x01q\x12\x01r\x18\x05", b"\x12\x01q\x12\x00", b"\x12\x01q", b"", b"\x12\x00"],
    ),
    "bytes that were messages": (
        order("repeated A a = 2;", "message A { string s = 1; }"),
        order("bytes a = 2;", "message A { string s = 1; }"),
        accepted("FIELD_SAME_CARDINALITY", "a"),
        [b"\x12\x02\x10\x05\x12\x03\x0a\x01x", b"\x12\x03\x0a\x01x", b"\x12\x00", b""],
    ),
    "a zero that was written": (
        order("optional int32 x = 2; oneof o { string s = 3; }"),
        order("int32 x = 2; string s = 3;"),
        f"{accepted('COLUMN_MADE_REQUIRED', 'x')[:-2]}, "
        "{rule: FIELD_SAME_ONEOF, path: shop.Order.s, reason: so be it}, "
        "{rule: COLUMN_MADE_REQUIRED, path: shop.Order.s, reason: so be it}]}",
        [b"\x10\x00", b"\x1a\x00", b"\x10\x05\x1a\x01a", b""],
    ),
    "an enum that was closed": (
        TEXTS % ("enum E { option features.enum_type = CLOSED; A = 0; B = 1; }", CASES),
        TEXTS % ("enum E { A = 0; B = 1; }", CASES),
        "",
        [b"\x0a\x01a\x38\x07\x72\x01\x00", b"\x38\x01", b"\x38\x07", b"\x72\x01\x00"],
    ),
}


@pytest.fixture
def orders(tmp_path: Path) -> History:
    """An archive with files of two versions, some rows with more than their columns hold."""
    history = History(tmp_path, "shop.Order")
    history.build(order(OLD))
    history.build(order(NEW, STATUS), DEFAULTS)
    history.write(
        {"number": 1, "customer": "Ann"},
        {"number": 2, "note": "more", "was": ["PAID", "OPEN"], "late": False, "line": {"sku": "a"}},
        {"number": 3, "at": "2024-04-21T20:16:09.123456789Z", "late": True},
        {},
        version=1,
    )
    history.write({"number": 5, "customer": "Bo", "status": "OPEN"})
    return history


def files(history: History) -> list[Path]:
    return sorted(history.archive.rglob("*.parquet"))


def footer(path: Path) -> dict[bytes, bytes]:
    return dict(pq.read_metadata(path).metadata or {})


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdpgen", "upgrade", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


class TestUpgrade:
    def test_what_an_old_writer_did_not_know_is_in_columns_then(self, orders: History) -> None:
        old = next(path for path in files(orders) if footer(path)[b"cdpgen.version"] == b"1")
        assert pq.read_table(old, partitioning=None)["_raw"].null_count == 2
        done = {
            file.version: file for file in upgrade(orders.archive, generated=orders.today.generated)
        }
        assert (done["1"].rows, done["2"].rows) == (4, 0)
        table = pq.read_table(old, partitioning=None)
        assert footer(old)[b"cdpgen.version"] == b"2"
        assert table["note"].to_pylist() == ["", "more", "", ""]
        assert table["was"].to_pylist() == [[], ["PAID", "OPEN"], [], []]
        assert table["late"].to_pylist() == [None, False, True, None]
        assert table["line"].to_pylist() == [None, {"sku": "a"}, None, None]
        assert [raw is not None for raw in table["_raw"].to_pylist()] == [False, False, True, False]

    def test_every_message_comes_back_from_the_new_file(self, orders: History) -> None:
        records = [
            {"number": i, "customer": f"c{i}", "note": "n" * i, "was": ["PAID"] * i}
            for i in range(20)
        ]
        payloads = orders.write(*records, version=1)
        list(upgrade(orders.archive, generated=orders.today.generated))
        converter = orders.writer.converter()
        found = []
        for path in files(orders):
            table = pq.read_table(path, partitioning=None).cast(converter.schema)
            for batch in table.combine_chunks().to_batches():
                found += converter.to_protobuf(batch).to_pylist()
        assert sorted(payloads) == sorted(set(found) & set(payloads))

    def test_the_archive_reads_the_same_before_and_after_defaults_included(
        self, orders: History
    ) -> None:
        before = orders.open().to_table()
        assert sorted(before["status"].to_pylist()) == ["OPEN", "PAID", "PAID", "PAID", "PAID"]
        list(upgrade(orders.archive, generated=orders.today.generated))
        assert orders.open().to_table().to_pylist() == before.to_pylist()

    def test_of_what_is_todays_already_nothing_is_written(self, orders: History) -> None:
        list(upgrade(orders.archive, generated=orders.today.generated))
        stamps = [path.stat().st_mtime_ns for path in files(orders)]
        again = list(upgrade(orders.archive, generated=orders.today.generated))
        assert [file.rows for file in again] == [0, 0]
        assert [path.stat().st_mtime_ns for path in files(orders)] == stamps

    def test_positions_and_writer_stay_so_a_stream_resumes_as_before(self, orders: History) -> None:
        with orders.versions[0].writers["shop.Order"](orders.archive) as writer:
            writer.write_many([b"", b"\x08\x01"], source="a", positions=[5, 6])
        path = next(path for path in files(orders) if b'"a"' in footer(path)[b"cdpgen.positions"])
        before = footer(path)
        list(upgrade(orders.archive, generated=orders.today.generated))
        after = footer(path)
        assert after[b"cdpgen.version"] == b"2"
        assert list(runs(after)) == list(runs(before))
        assert after[b"cdpgen.writer"] == before[b"cdpgen.writer"]

    def test_the_descriptor_in_the_footer_is_todays(self, orders: History) -> None:
        list(upgrade(orders.archive, generated=orders.today.generated))
        old, new = (footer(path) for path in files(orders))
        assert old[b"cdpgen.descriptor"] == new[b"cdpgen.descriptor"]

    def test_a_replay_gives_the_same_bytes_before_and_after(
        self, orders: History, tmp_path: Path
    ) -> None:
        orders.build(order(NEW.replace("string note = 4;", "reserved 4;"), STATUS), "version: 1")
        orders.write({"number": 7})

        def replayed(name: str) -> bytes:
            output = tmp_path / name
            generated = str(orders.today.generated)
            assert replay(str(orders.archive), generated=generated, output=str(output)) == 0
            return output.read_bytes()

        before = replayed("before.pb")
        assert b"more" in before
        done = list(upgrade(orders.archive, generated=orders.today.generated))
        assert sum(file.rows for file in done) == 5
        assert not any(file.problem for file in done)
        assert replayed("after.pb") == before

    def test_what_was_absent_of_a_field_that_became_optional_is_absent_in_a_replay(
        self, tmp_path: Path
    ) -> None:
        line = "message Line { %s int32 a = 1; }"
        fields = "Line one = 1; repeated Line many = 2; map<string, Line> by = 3; %s int32 x = 4;"
        flat = "version: 1\ntables: {shop.Order: {columns: {one: {flatten: true}}}}"
        history = History(tmp_path, "shop.Order")
        history.build(order(fields % "", line % ""), flat)
        history.write(
            {}, {"x": 5, "one": {"a": 1}}, {"one": {}, "many": [{}, {"a": 2}], "by": {"k": {}}}
        )

        def replayed() -> bytes:
            output = tmp_path / "replayed.pb"
            generated = str(history.today.generated)
            assert replay(str(history.archive), generated=generated, output=str(output)) == 0
            return output.read_bytes()

        first = replayed()
        optional, line = fields % "optional", line % "optional"
        for number in (5, 6, 7):
            history.build(order(optional, line), flat)
            optional += f"string more_{number} = {number};"
            assert replayed() == first
            rows = history.rows(columns=["x", "many"])
            assert [row["x"] for row in rows] == [0, 5, 0]
            (done,) = upgrade(history.archive, generated=history.today.generated)
            assert done.rows == 3
            assert history.rows(columns=["x", "many"]) == rows
            assert replayed() == first
        # a zero that was written when the field was optional is one
        history.write({"x": 0})
        assert replayed() in (first + b"\x02\x20\x00", b"\x02\x20\x00" + first)

    def test_its_zero_stays_one_in_messages_that_an_upgrade_kept_whole(
        self, tmp_path: Path
    ) -> None:
        line, dropped = "message Line { %s int32 a = 1; }", "{columns: {r: {drop: true}}}"
        fields = "%s int32 x = 1; Line one = 2; repeated Line many = 3; string r = 4;"
        history = History(tmp_path, "shop.Order")
        history.build(order(fields % "", line % ""))
        history.write({"many": [{}]}, {"one": {}, "many": [{}, {"a": 2}], "r": "kept whole"})
        rules = f"version: 1\ntables: {{shop.Order: {dropped}}}"
        optional, line = fields % "optional", line % "optional"
        history.build(order(optional, line), rules)
        rows = history.rows(columns=["x", "one", "many"])
        assert [row["x"] for row in rows] == [0, 0]
        assert rows[1] == {"x": 0, "one": {"a": 0}, "many": [{"a": 0}, {"a": 2}]}
        for number in (5, 6):
            (done,) = upgrade(history.archive, generated=history.today.generated)
            assert done.rows == 2
            optional += f"string more_{number} = {number};"
            history.build(order(optional, line), rules)
            assert history.rows(columns=["x", "one", "many"]) == rows

    def test_seconds_since_1970_are_seconds_in_a_replay_and_in_what_is_kept_whole(
        self, tmp_path: Path
    ) -> None:
        paths = ("t", "ts", "one.t", "many.t", "by.value.t", "times.value", "flat.t")
        unix = ", ".join(f"{path}: {{encoding: unix_s}}" for path in paths)
        rules = (
            f"version: 1\ntables: {{shop.Order: {{columns: {{{unix}, at: {{unit: s}},"
            " flat: {flatten: true, prefix: flat_}}}}"
        )
        fields = (
            "int64 t = 1; repeated sint64 ts = 2; Line one = 3; repeated Line many = 4; Line flat = 5;"
            " map<string, Line> by = 6; map<string, fixed64> times = 7; google.protobuf.Timestamp at = 8;"
        )
        line = "message Line { int32 sku = 1; int64 t = 2; }"
        history = History(tmp_path, "shop.Order")
        history.build(order(fields + "string gone = 9;", line), rules)
        when = 1_767_225_600
        own = {"sku": 1, "t": when}
        record = {
            **{"t": -1, "ts": [when, 2], "one": own, "many": [own, {"t": -1}], "flat": own},
            **{"by": {"k": own}, "times": {"k": when}, "at": "2026-01-01T00:00:00Z"},
        }
        written = history.write(record, {**record, "gone": "x"}, {})
        # each time what was read from the file goes into `_raw`, and is read from there by the next version
        fields += " reserved 9;"
        for number in (10, 11):
            history.build(order(fields, line), rules)
            fields += f"string more_{number} = {number};"
            rows = history.rows()
            assert rows[0]["t"] == rows[1]["t"]
            assert _replayed(history) == written
            (done,) = upgrade(history.archive, generated=history.today.generated)
            assert not done.problem
            assert _replayed(history) == written
            after = [{**row, "_raw": None} for row in history.rows()]
            assert after == [{**row, "_raw": None} for row in rows]

    def test_a_time_of_which_no_one_knows_the_unit_is_told_and_not_guessed(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        history = History(tmp_path, "shop.Order")
        columns = "{t: {encoding: unix_s}, u: {encoding: unix_us}}"
        rules = f"version: 1\ntables: {{shop.Order: {{columns: {columns}}}}}"
        history.build(order("int64 t = 1; int64 u = 2;"), rules)
        history.write({"t": 5, "u": 6})
        (path,) = files(history)
        told = footer(path)
        del told[b"ARROW:schema"]
        table = pq.read_table(path, partitioning=None)
        with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(told)  # type: ignore[attr-defined]
        history.build(order("int64 t = 1; int64 u = 2; string note = 3;"), rules)
        capfd.readouterr()
        assert _replayed(history) == history.payloads({"u": 6})
        assert "1 value of the column t in no message" in capfd.readouterr().err
        (done,) = upgrade(history.archive, generated=history.today.generated)
        assert not done.problem
        assert _replayed(history) == history.payloads({"t": 5, "u": 6})

    @pytest.mark.parametrize("change", CHANGES)
    def test_what_the_columns_of_today_make_another_message_of_is_kept_whole(
        self, tmp_path: Path, change: str
    ) -> None:
        before, after, rules, payloads = CHANGES[change]
        history = History(tmp_path, "shop.Order")
        history.build(before)
        history.write_payloads(payloads)
        more = after.replace("message Order {", "message Order { repeated string more = 99;")
        for proto in (after, more):
            history.build(proto, f"version: 1\n{rules}")
            assert _replayed_as_it_is(history) == payloads
            (done,) = upgrade(history.archive, generated=history.today.generated)
            assert not done.problem
            assert _replayed_as_it_is(history) == payloads

    def test_a_retired_column_is_of_no_field_that_has_its_name(self, tmp_path: Path) -> None:
        history = History(tmp_path, "shop.Order")
        rules = "version: 1\ntables: {shop.Order: {columns: {block: {drop: true}%s}}}"
        proto = order("string a = 1; Block block = 3; %s", "message Block { string hash = 1; }")
        history.build(proto % "string b = 2;", rules % ", b: {name: hash}")
        written = history.write({"a": "x", "b": "ff"}, {"a": "y"}, {})
        for later in ("", "string c = 4;", "string c = 4; string d = 5;"):
            history.build(proto % f"reserved 2; {later}", rules % "")
            assert _replayed_as_it_is(history) == written
            (done,) = upgrade(history.archive, generated=history.today.generated)
            assert not done.problem
            assert _replayed_as_it_is(history) == written

    def test_what_is_retired_after_an_upgrade_has_its_field(self, tmp_path: Path) -> None:
        # `a` could be the column of `c` by its name, which a rule may give to any; the footer says it is not
        history = History(tmp_path, "shop.Order")
        rules = "version: 1\ntables: {shop.Order: {columns: {c: {drop: true}}}}"
        history.build(order("string a = 2; string c = 4;"), rules)
        written = history.write({"a": "v"}, {})
        history.build(order("string a = 2; string c = 4; int32 q = 9;"), rules)
        (done,) = upgrade(history.archive, generated=history.today.generated)
        assert not done.problem
        history.build(order("reserved 2; string c = 4; int32 q = 9;"), rules)
        assert _replayed_as_it_is(history) == written

    def test_what_they_hold_is_not(self, tmp_path: Path) -> None:
        history = History(tmp_path, "shop.Order")
        fields = "int32 x = 1; optional string gone = 2; repeated int32 many = 3"
        history.build(order(f"{fields};"))
        written = history.write({"x": 1}, {"x": 2, "gone": ""}, {"many": [1, 2]}, {})
        fields = fields.replace("int32 x", "optional int64 x").replace(
            "optional string gone =", "reserved"
        )
        history.build(order(f"{fields} [packed = false];"))
        (done,) = upgrade(history.archive, generated=history.today.generated)
        assert not done.problem
        assert [row["_raw"] for row in history.rows()] == [None, written[1], None, None]
        unpacked = b"\x18\x01\x18\x02"
        assert _replayed_as_it_is(history) == [*written[:2], unpacked, b""]

    def test_what_is_new_in_another_order_is_held_too(self, tmp_path: Path) -> None:
        # as Go writes it: the members of oneofs last
        history = History(tmp_path, "shop.Order")
        node = (
            "message Node { string id = 1; repeated Node nodes = 2; map<string, Node> by = 3; %s }"
        )
        history.build(order("string id = 1; Node node = 2;", node % ""))
        new = "oneof o { int32 a = 4; string b = 5; } int32 n = 6;"
        inner = b"\x0a\x01i\x30\x07\x20\x05"  # `n`, and then `a`
        nested = b"\x12\x07%b\x1a\x0c\x0a\x01k\x12\x07%b\x30\x09\x2a\x01b" % (inner, inner)
        history.write_payloads([b"\x0a\x01x\x12%c%b" % (len(nested), nested)] * 2)
        history.build(order("string id = 1; Node node = 2;", node % new))
        (done,) = upgrade(history.archive, generated=history.today.generated)
        assert not done.problem
        rows = history.rows()
        assert [row["_raw"] for row in rows] == [None, None]
        assert rows[0]["node"]["n"] == 9

    def test_a_zero_that_was_written_when_the_field_was_optional_stays_one(
        self, tmp_path: Path
    ) -> None:
        history = History(tmp_path, "shop.Order")
        history.build(order("int32 x = 1;"))
        history.build(order("optional int32 x = 1; string note = 2;"))
        written = history.write({"x": 0, "note": "n"}, {"note": "n"}, {"x": 5}, {}, version=1)
        for _ in range(2):
            assert _replayed_as_it_is(history) == written
            assert [row["x"] for row in history.rows()] == [0, 0, 5, 0]
            list(upgrade(history.archive, generated=history.today.generated))
        assert [row["_raw"] for row in history.rows()] == [written[0], None, None, None]

    def test_retired_columns_stay_in_the_file(self, orders: History) -> None:
        fewer = "reserved 2; " + NEW.replace("string customer = 2;", "")
        orders.build(order(fewer, STATUS))
        before = orders.open(retired=True).to_table()
        assert "Ann" in before["customer"].to_pylist()
        list(upgrade(orders.archive, generated=orders.today.generated))
        after = orders.open(retired=True).to_table()
        columns = [table.drop_columns("_raw").to_pylist() for table in (after, before)]
        assert columns[0] == columns[1]
        whole = sorted(row["number"] for row in after.to_pylist() if row["_raw"] is not None)
        # 3 has nanoseconds; the others have a customer, for which there is no field now
        assert whole == [1, 3, 5]
        assert "customer" not in orders.open().schema.names

    def test_columns_that_say_where_rows_come_from_stay_too(self, orders: History) -> None:
        orders.write({"number": 9}, version=1, include_metadata=True)
        path = next(p for p in files(orders) if "_writer" in pq.read_schema(p).names)
        names = ["_writer", "_ingested_at"]
        before = pq.read_table(path, partitioning=None).select(names).to_pylist()
        list(upgrade(orders.archive, generated=orders.today.generated))
        assert footer(path)[b"cdpgen.version"] == b"2"
        assert pq.read_table(path, partitioning=None).select(names).to_pylist() == before

    def test_bloom_filters_are_made_of_what_is_in_the_new_columns(self, orders: History) -> None:
        rules = f"{DEFAULTS}\ntables: {{shop.Order: {{bloom_filters: [note, number]}}}}"
        orders.build(order(NEW, STATUS), rules)
        records = [{"number": 7_000 + i, "note": f"note {i}"} for i in range(100)]
        orders.write(*records, version=1)
        path = max(files(orders), key=lambda each: pq.read_metadata(each).num_rows)
        list(upgrade(orders.archive, generated=orders.today.generated))
        probe = "select bloom_filter_excludes from parquet_bloom_probe(?, ?, ?)"
        with duckdb.connect() as connection:

            def excluded(column: str, value: object) -> list[tuple[bool]]:
                return connection.execute(probe, [str(path), column, value]).fetchall()

            assert all(excluded("note", f"note {i}") == [(False,)] for i in range(100))
            missing = [excluded("note", f"other {i}") == [(True,)] for i in range(100)]
            assert sum(missing) > 80
            assert excluded("number", 7_000) == [(False,)]

    def test_row_groups_and_the_order_of_rows_stay(self, orders: History) -> None:
        orders.write(*({"number": i} for i in range(60_000)), version=1, row_group_mb=0.1)
        path = max(files(orders), key=lambda each: each.stat().st_size)
        groups = pq.read_metadata(path).num_row_groups
        assert groups > 2
        list(upgrade(orders.archive, generated=orders.today.generated))
        assert pq.read_metadata(path).num_row_groups == groups
        assert pq.read_table(path, partitioning=None)["number"].to_pylist() == [*range(60_000)]

    @pytest.mark.parametrize("compression", get_args(Compression))
    def test_a_file_stays_compressed_as_it_was(self, orders: History, compression: str) -> None:
        orders.write({"number": 7}, version=1, compression=compression)
        for _ in upgrade(orders.archive, generated=orders.today.generated):
            pass
        codecs = [
            pq.read_metadata(path).row_group(0).column(0).compression for path in files(orders)
        ]
        named = {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
        assert sorted(codecs) == sorted(["ZSTD", "ZSTD", named])
        assert sorted(row["number"] for row in orders.rows()) == [0, 1, 2, 3, 5, 7]

    def test_a_store_that_is_no_disk_is_upgraded_too(self, orders: History) -> None:
        memory = fsspec.filesystem("memory")
        root = f"/{random.randrange(1 << 40)}"
        memory.put(str(orders.archive / "shop.Order"), f"{root}/shop.Order", recursive=True)
        url = f"memory:/{root}"
        generated = orders.today.generated
        before = cdp_runtime.open_archive(url, "shop.Order", generated=generated).to_table()
        done = list(upgrade(url, generated=generated))
        assert sorted(file.rows for file in done) == [0, 4]
        assert sorted(file.rows for file in upgrade(url, generated=generated)) == [0, 0]
        after = cdp_runtime.open_archive(url, "shop.Order", generated=generated).to_table()
        assert after.to_pylist() == before.to_pylist()
        memory.rm(root, recursive=True)


class TestAnotherLock:
    """A lock that was lost and made anew gives other columns the ids of those that the files have."""

    @pytest.fixture(params=["made anew", "made anew for newer files", "of another branch"])
    def lost(self, tmp_path: Path, request: pytest.FixtureRequest) -> History:
        history = History(tmp_path, "shop.Order")
        lock = history.schemas / "cdpgen.lock"
        history.build(order("string a = 1; string b = 2;"))
        before = lock.read_bytes()
        if request.param == "made anew":
            history.write({"a": "1", "b": "2"})
            lock.unlink()
            history.build(order("string b = 2; string a = 1;"))
            return history
        history.build(order("reserved 1; string b = 2; string c = 3;"))
        history.write({"b": "2", "c": "3"})
        if request.param == "made anew for newer files":
            lock.unlink()
        else:
            lock.write_bytes(before)
            history.build(order("string a = 1; string b = 2; string d = 4;"))
        history.build(order("reserved 1; string b = 2; string c = 3; string d = 4;"))
        return history

    def test_nobody_reads_or_rewrites_one_column_as_another(
        self, lost: History, capfd: pytest.CaptureFixture[str]
    ) -> None:
        [path] = files(lost)
        before = path.read_bytes()
        with pytest.raises(OSError, match=r"was cdpgen\.lock lost and made anew\?"):
            lost.open().to_table()
        [upgraded] = upgrade(lost.archive, generated=lost.today.generated)
        assert "was cdpgen.lock lost" in upgraded.problem
        assert path.read_bytes() == before
        assert replay(str(lost.archive), generated=str(lost.today.generated)) == 1
        assert "was cdpgen.lock lost" in capfd.readouterr().err

    def test_nobody_goes_on_writing(self, lost: History) -> None:
        with pytest.raises(OSError, match=r"was cdpgen\.lock lost"):
            lost.writer(lost.archive).skip_published(lambda source: True)

    def test_nor_makes_rows_of_dead_letters(self, lost: History) -> None:
        with lost.writer(lost.archive) as writer:
            writer.reject(b"", "none yet", form="message")
        [letters] = (lost.archive / FOLDER).rglob("*.parquet")
        writers = {lost.writer.table: lost.writer}
        with pytest.raises(OSError, match=r"was cdpgen\.lock lost"):
            retry(str(lost.archive), writers)
        assert letters.exists()
        assert len(files(lost)) == 2

    def test_letters_alone_are_of_no_lock(self, lost: History) -> None:
        [old] = files(lost)
        letters = lost.archive / FOLDER / lost.writer.table / old.name
        letters.parent.mkdir(parents=True)
        old.rename(letters)
        with lost.writer(lost.archive) as writer:
            writer.skip_published(lambda source: True)
            writer.write(b"")
        assert len(files(lost)) == 2


class TestRun:
    def test_it_says_what_it_did(self, orders: History) -> None:
        generated = ("--generated", str(orders.today.generated))
        ran = run("archive", *generated, folder=orders.archive.parent)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("shop.Order: 1 of 2 files upgraded (of version 1), 4 rows, ")
        ran = run("archive", *generated, folder=orders.archive.parent)
        assert ran.stdout.startswith("shop.Order: 0 of 2 files upgraded, 0 rows")

    def test_bytes_that_are_others_than_were_written_are_no_values(self, tmp_path: Path) -> None:
        """No codec notices them where there is none, and a file that is made of them has checksums that fit."""
        history = History(tmp_path, "shop.Order")
        history.build(order(OLD))
        history.write({"buyer": "Ann"}, compression="none")
        history.build(order(NEW, STATUS), DEFAULTS)
        [path] = files(history)
        # the only page that has it, beside statistics
        whole = path.read_bytes().replace(b"\x03\0\0\0Ann", b"\x03\0\0\0Bob")
        assert whole != path.read_bytes()
        path.write_bytes(whole)
        with pytest.raises(OSError, match="CRC"):
            history.rows()
        generated = ("--generated", str(history.today.generated))
        for command in ("upgrade", "replay"):
            ran = subprocess.run(
                [sys.executable, "-m", "cdpgen", command, "archive", *generated],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == 1
            assert f"{path.relative_to(tmp_path)}: row group 0: cannot be read: " in ran.stderr
            assert "CRC" in ran.stderr
        assert path.read_bytes() == whole

    def test_what_a_retry_of_dead_letters_may_take_back_is_left(self, orders: History) -> None:
        with orders.writer(orders.archive) as writer:
            writer.reject(b"", "none then")
        (letters,) = (orders.archive / FOLDER).rglob("*.parquet")
        (taken := orders.archive / RETRY_FOLDER / orders.table).mkdir(parents=True)
        letters.rename(taken / letters.name)
        first = files(orders)[-1]
        stem = letters.stem.partition("-")[2]
        first = first.rename(first.with_name(f"order-{stem}r-000001.parquet"))
        before = first.read_bytes()
        done = list(upgrade(orders.archive, generated=orders.today.generated))
        assert [file.problem for file in done if file.url == str(first)] == [
            "is of a retry of dead letters that is not done; run this again after it"
        ]
        assert first.read_bytes() == before
        (taken / letters.name).unlink()
        done = list(upgrade(orders.archive, generated=orders.today.generated))
        assert [file.problem for file in done if file.problem] == []

    def test_a_damaged_file_is_named_and_the_others_are_upgraded(self, orders: History) -> None:
        bad = orders.archive / "shop.Order" / "bad.parquet"
        bad.write_bytes(b"PAR1 nothing PAR1")
        generated = ("--generated", str(orders.today.generated))
        ran = run("archive", *generated, folder=orders.archive.parent)
        assert ran.returncode == 1
        assert ran.stdout.startswith("shop.Order: 1 of 3 files upgraded")
        assert ran.stderr.startswith(f"{bad}: cannot be read: ")
        assert bad.read_bytes() == b"PAR1 nothing PAR1"

    def test_so_is_one_that_is_damaged_in_its_midst(self, orders: History) -> None:
        orders.write({"number": 6}, version=1)
        bad = next(path for path in files(orders) if footer(path)[b"cdpgen.version"] == b"1")
        data = bytearray(bad.read_bytes())
        data[4:100] = bytes(96)
        bad.write_bytes(data)
        generated = ("--generated", str(orders.today.generated))
        ran = run("archive", *generated, folder=orders.archive.parent)
        assert ran.returncode == 1
        assert ran.stdout.startswith("shop.Order: 1 of 3 files upgraded")
        assert ran.stderr.startswith(f"{bad}: row group 0: cannot be read: ")
        assert ran.stderr.endswith(
            "; move it out of the archive: what was in it comes again from its source, or from a backup\n"
        )
        assert bad.read_bytes() == data

    def test_a_terminal_that_has_gone_ends_nothing(
        self, orders: History, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Gone(io.StringIO):
            def isatty(self) -> bool:
                return True

            def write(self, text: str) -> int:
                raise OSError(errno.EIO, "gone")

        monkeypatch.setattr("sys.stderr", Gone())
        assert run_here(str(orders.archive), generated=str(orders.today.generated)) == 0

    def test_a_full_disk_behind_standard_output_is_1_and_said(self, orders: History) -> None:
        command = [sys.executable, "-m", "cdpgen", "upgrade", str(orders.archive), "--generated"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*command, str(orders.today.generated)],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.stderr == "standard output: No space left on device\n"
        assert done.returncode == 1

    def test_files_of_a_newer_version_are_left_alone(self, orders: History) -> None:
        generated = ("--generated", str(orders.versions[0].generated))
        before = [path.read_bytes() for path in files(orders)]
        ran = run("archive", *generated, folder=orders.archive.parent)
        assert ran.returncode == 1
        assert "is of version 2, and the writer of version 1 only; build anew" in ran.stderr
        assert [path.read_bytes() for path in files(orders)] == before

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (("archive", "--generated", "nowhere"), 2, "cdpgen build SCHEMAS --out nowhere"),
            (("archive", "--table", "shop.Oder"), 2, "shop.Oder: no such table"),
            (("nothing",), 1, "nothing: there are no files of the tables in"),
            (("schemas/cdpgen.yaml",), 2, "cdpgen.yaml: cannot be read: Not a directory"),
            (("archive/shop.Order",), 2, "is within the folder shop.Order of an archive"),
        ],
    )
    def test_what_there_is_not_is_said(
        self, orders: History, arguments: tuple[str, ...], code: int, said: str
    ) -> None:
        if "--generated" not in arguments:
            arguments = (*arguments, "--generated", str(orders.today.generated))
        ran = run(*arguments, folder=orders.archive.parent)
        assert (ran.returncode, ran.stdout) == (code, "")
        assert said in ran.stderr
        assert not (orders.archive.parent / "nothing").exists()

    def test_killed_at_any_point_and_run_again_it_has_every_row_once(self, orders: History) -> None:
        rows = 0
        for part in range(8):
            records = [{"number": rows + i, "note": "x" * 20} for i in range(3_000)]
            orders.write(*records, version=1)
            rows += len(records) * (part >= 0)
        numbers = sorted(orders.open().to_table(columns=["number"])["number"].to_pylist())
        expected = pa.array(numbers)
        command = [sys.executable, "-m", "cdpgen", "upgrade", "archive", "--generated"]
        command.append(str(orders.today.generated))
        began = time.monotonic()
        rng = random.Random(4)
        killed = 0
        for _ in range(12):
            started = subprocess.Popen(
                command, cwd=orders.archive.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            # the interpreter starts, then files are read and replaced
            upgraded = [footer(path)[b"cdpgen.version"] for path in files(orders)]
            left = upgraded.count(b"1")
            if left > 2:
                _wait_for_work(orders, left)
                time.sleep(rng.random() * 0.03)
                started.send_signal(signal.SIGKILL)
            killed += started.wait() == -signal.SIGKILL
            started.communicate()
            found = orders.open().to_table(columns=["number"])["number"]
            assert sorted(found.to_pylist()) == expected.to_pylist()
            if left <= 2 or time.monotonic() - began > 20:
                break
        assert killed >= 1
        ran = run(*command[4:], folder=orders.archive.parent)
        assert ran.returncode == 0, ran.stderr
        assert {footer(path)[b"cdpgen.version"] for path in files(orders)} == {b"2"}
        found = orders.open().to_table(columns=["number", "note"])
        assert sorted(found["number"].to_pylist()) == expected.to_pylist()
        assert found["note"].to_pylist().count("x" * 20) == rows
        assert os.listdir(orders.archive / "_tmp") == []


def _replayed(history: History) -> list[bytes]:
    """The messages of the archive, all of one file, as `cdpgen replay` gives them."""
    output = history.archive.parent / "replayed.pb"
    generated = str(history.today.generated)
    assert replay(str(history.archive), generated=generated, output=str(output)) == 0
    stream = io.BytesIO(output.read_bytes())
    found = []
    while (message := parse_length_prefixed(history.message, stream)) is not None:
        found.append(message.SerializeToString(deterministic=True))
    return found


def _replayed_as_it_is(history: History) -> list[bytes]:
    """The same, and messages that protobuf would not write, or not read."""
    output = history.archive.parent / "replayed.pb"
    generated = str(history.today.generated)
    assert replay(str(history.archive), generated=generated, output=str(output)) == 0
    found: list[bytes] = split_delimited(output.read_bytes())[0].to_pylist()
    return found


def _wait_for_work(orders: History, left: int) -> None:
    """Until the upgrade has begun with another file."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if any((orders.archive / "_tmp").glob("*.tmp")):
            return
        if sum(footer(path)[b"cdpgen.version"] == b"1" for path in files(orders)) < left:
            return
        time.sleep(0.001)
