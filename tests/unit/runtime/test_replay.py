"""An archive comes back as the stream that it was made of: every message, in its order."""

from __future__ import annotations

import io
import json
import os
import pty
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import any_pb2, json_format
from google.protobuf.proto import parse_length_prefixed

from cdp_runtime import open_archive, replay_order
from cdp_runtime import replay as module
from cdp_runtime.archive import load_tables
from cdp_runtime.archive import run as archive
from cdp_runtime.dead_letters import retry
from cdp_runtime.program import Enum
from cdp_runtime.replay import Counts, Selection, replay, run
from cdp_runtime.storage import StorageError
from cdp_runtime.store_local import LocalStorage
from cdp_runtime.upgrade import upgrade
from cdp_runtime.versions import zero_of
from cdpgen.build import build
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter
from tests.versions import History

TABLE = "stellar.v1.Event"
ROOT = Path(__file__).parents[3]
GENERATED = str(ROOT / "generated")
HISTORY = ROOT / "tests/history"
REAL_DATA = Path(os.environ.get("CDPGEN_REAL_DATA", ROOT.parent / "shared/data"))


def event(name: str, day: int = 0) -> bytes:
    one = Event(id=name)
    one.ledger_closed_at.seconds = day * 86_400
    return one.SerializeToString()


def events(name: str, count: int, days: int = 5) -> list[bytes]:
    """Messages of several days in no order."""
    drawn = random.Random(name)
    return [event(f"{name}-{number}", drawn.randrange(days)) for number in range(count)]


def replayed(url: Path, table: str = TABLE, **options: Any) -> list[bytes]:
    generated = options.pop("generated", GENERATED)
    counts = options.pop("counts", None)
    arrays = replay(url, table, generated=generated, selection=Selection(**options), counts=counts)
    return [payload for array in arrays for payload in array.to_pylist()]


def delimited(path: Path) -> list[bytes]:
    """The messages of a file, as `google.protobuf` reads it."""
    stream = io.BytesIO(path.read_bytes())
    found = []
    while (message := parse_length_prefixed(Event, stream)) is not None:
        found.append(message.SerializeToString())
    return found


def command_of(archive: Path) -> list[str]:
    """`cdpgen replay`, to run in a process of its own."""
    return [sys.executable, "-m", "cdpgen", "replay", str(archive), "--generated", GENERATED]


class TestOutput:
    @pytest.mark.parametrize("ending", ["pb.gz", "pb.zst", "pb.bz2", "ndjson.gz"])
    def test_it_is_compressed_as_its_name_says_and_can_be_archived_again(
        self, ending: str, tmp_path: Path
    ) -> None:
        messages = events("a", 50)
        with EventWriter(tmp_path / "a") as writer:
            writer.write_many(messages, source="s", positions=range(50))
        output = tmp_path / f"out.{ending}"
        assert run(str(tmp_path / "a"), table=TABLE, generated=GENERATED, output=str(output)) == 0
        again = {"table": TABLE, "generated": GENERATED, "source": [str(output)]}
        assert archive(**again, to=str(tmp_path / "b")) == 0  # type: ignore[arg-type]
        assert replayed(tmp_path / "b") == messages


class TestReplay:
    def test_partitions_are_one_stream_again(self, tmp_path: Path) -> None:
        messages = events("a", 1_000)
        with EventWriter(tmp_path, max_file_rows=90) as writer:
            writer.write_many(messages, source="a", positions=range(1_000))
        assert len(list(tmp_path.rglob("*.parquet"))) > 10
        assert replayed(tmp_path) == messages

    def test_sources_follow_each_other_by_name_however_they_were_mixed(
        self, tmp_path: Path
    ) -> None:
        streams = {name: events(name, 600) for name in ("b", "a", "c")}
        with EventWriter(tmp_path, max_file_rows=100) as writer:
            for start in range(0, 600, 50):
                for name, messages in streams.items():
                    part = messages[start : start + 50]
                    writer.write_many(part, source=name, positions=range(start, start + 50))
        assert replayed(tmp_path) == streams["a"] + streams["b"] + streams["c"]

    def test_several_writers_of_one_source_are_one_stream(self, tmp_path: Path) -> None:
        messages = events("a", 300)
        for writer_number in range(3):
            with EventWriter(tmp_path) as writer:
                writer.write_many(
                    messages[writer_number::3],
                    source="a",
                    positions=range(writer_number, 300, 3),
                )
        assert replayed(tmp_path) == messages

    def test_messages_without_a_position_come_last_in_the_order_of_their_files(
        self, tmp_path: Path
    ) -> None:
        unplaced, placed = events("u", 100, days=1), events("p", 100, days=1)
        with EventWriter(tmp_path, max_file_rows=30) as writer:
            writer.write_many(unplaced[:50])
            writer.write_many(placed, source="p", positions=range(100))
            writer.write_many(unplaced[50:])
        assert replayed(tmp_path) == placed + unplaced

    def test_unknown_fields_come_back(self, tmp_path: Path) -> None:
        messages = [event(str(n)) + b"\xf8\x3f\x05" for n in range(10)]
        with EventWriter(tmp_path) as writer:
            writer.write_many(messages, source="a", positions=range(10))
        assert replayed(tmp_path) == messages

    def test_columns_about_the_writing_are_no_part_of_messages(self, tmp_path: Path) -> None:
        messages = events("a", 50)
        with EventWriter(tmp_path, include_metadata=True) as writer:
            writer.write_many(messages, source="a", positions=range(50))
        counts = Counts()
        assert replayed(tmp_path, counts=counts) == messages
        assert not +counts.lost

    def test_positions_may_be_as_far_apart_as_numbers_go(self, tmp_path: Path) -> None:
        streams = {name: events(name, 3) for name in ("a", "b")}
        with EventWriter(tmp_path) as writer:
            for name, messages in streams.items():
                writer.write_many(messages, source=name, positions=[-(2**63), 0, 2**63 - 2])
        assert replayed(tmp_path) == streams["a"] + streams["b"]

    @pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real records are not here")
    @pytest.mark.parametrize(
        ("file", "table"),
        [
            ("contract_data.ndjson", "stellar_etl.v1.ContractData"),
            ("token_transfers.ndjson", "stellar_etl.v1.TokenTransfer"),
            ("assets.ndjson", "stellar_etl.v1.Asset"),
        ],
    )
    def test_real_records_come_back_in_their_order(
        self, tmp_path: Path, file: str, table: str
    ) -> None:
        schemas, generated = tmp_path / "schemas", str(tmp_path / "generated")
        shutil.copytree(ROOT / "tests/integration/real_data_schemas", schemas)
        build(schemas, Path(generated))
        records = REAL_DATA / file
        to, flags = str(tmp_path / "archive"), {"table": table, "generated": generated}
        assert archive(source=[str(records)], to=to, table=table, generated=generated) == 0
        message = load_tables(generated)[table].message_type()
        expected = [
            json_format.ParseDict(json.loads(line), message()).SerializeToString()
            for line in records.read_text("utf-8").splitlines()
        ]
        assert replayed(Path(to), **flags) == expected


class TestMemory:
    @pytest.fixture(autouse=True)
    def _little(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay_order, "_HELD_BYTES", 8_000)
        monkeypatch.setattr(replay_order, "_EMIT_BYTES", 1_000)
        monkeypatch.setattr(replay_order, "_SLICE_BYTES", 500)

    @pytest.mark.parametrize("seed", range(5))
    def test_what_is_put_aside_comes_back_in_its_place(self, tmp_path: Path, seed: int) -> None:
        drawn = random.Random(seed)
        streams = {name: events(name, 800, days=40) for name in ("a", "b")}
        places = [(name, at) for name in streams for at in range(0, 800, 20)]
        drawn.shuffle(places)
        with EventWriter(tmp_path, max_file_rows=200, max_open_files=30) as writer:
            for name, at in places:
                part = streams[name][at : at + 20]
                writer.write_many(part, source=name, positions=range(at, at + 20))
        assert replayed(tmp_path) == streams["a"] + streams["b"]

    def test_it_ends_where_all_have_the_same_position(self, tmp_path: Path) -> None:
        messages = events("a", 500, days=20)
        with EventWriter(tmp_path) as writer:
            for message in messages:
                writer.write(message, source="a", position=7)
        assert sorted(replayed(tmp_path)) == sorted(messages)

    def test_no_more_is_held_than_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes = []
        real = replay_order.Held._put_aside

        def put_aside(held: replay_order.Held) -> None:
            real(held)
            sizes.append(held._size)

        monkeypatch.setattr(replay_order.Held, "_put_aside", put_aside)
        with EventWriter(tmp_path, max_open_files=50) as writer:
            writer.write_many(events("a", 2_000, days=40), source="a", positions=range(2_000))
            writer.write_many(events("b", 2_000, days=40), source="b", positions=range(2_000))
        assert len(replayed(tmp_path)) == 4_000
        assert sizes
        assert max(sizes) <= 8_000


class TestSelection:
    @pytest.fixture
    def url(self, tmp_path: Path) -> Path:
        with EventWriter(tmp_path) as writer:
            for name in ("a", "b"):
                writer.write_many(
                    [event(f"{name}{n}", n % 3) for n in range(90)],
                    source=name,
                    positions=range(0, 900, 10),
                )
        return tmp_path

    def test_a_source_alone(self, url: Path) -> None:
        assert replayed(url, source="b") == [event(f"b{n}", n % 3) for n in range(90)]

    def test_a_source_may_be_the_path_of_a_file_that_was_archived(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("a", "b"):
            framed = b"".join(bytes([len(one)]) + one for one in events(name, 20))
            Path(f"{name}.pb").write_bytes(framed)
        assert archive(table=TABLE, source=["*.pb"], to="to", generated=GENERATED) == 0
        assert replayed(tmp_path / "to", source="b.pb") == events("b", 20)
        assert (
            replayed(tmp_path / "to", source=str(tmp_path / "b.pb"), first=18)
            == (events("b", 20)[18:])
        )
        flags = {"generated": GENERATED, "table": TABLE}
        assert run("to", source="c.pb", **flags) == 2  # type: ignore[arg-type]
        assert "c.pb: is none of" in capfd.readouterr().err

    @pytest.mark.parametrize(
        ("first", "last", "wanted"),
        [(100, 130, range(10, 14)), (None, 15, range(2)), (881, None, range(89, 90))],
    )
    def test_from_and_to_are_the_first_and_last_position(
        self, url: Path, first: int | None, last: int | None, wanted: Sequence[int]
    ) -> None:
        found = replayed(url, source="a", first=first, last=last)
        assert found == [event(f"a{n}", n % 3) for n in wanted]

    def test_partitions_are_those_of_the_folders(self, url: Path) -> None:
        days = {"ledger_day": ["1970-01-01", "1970-01-03"]}
        found = replayed(url, source="a", partitions=days)
        assert found == [event(f"a{n}", n % 3) for n in range(90) if n % 3 != 1]

    def test_a_range_that_holds_nothing_is_empty(self, url: Path) -> None:
        assert replayed(url, source="a", first=901) == []

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"partitions": ["day=1970-01-01"]}, "it has ledger_day"),
            ({"partitions": ["ledger_day=1970-01-09"]}, "there are 1970-01-01, 1970-01-02"),
            ({"partitions": ["ledger_day"]}, "write it as key=value"),
            ({"source": "c"}, "it has a, b"),
            ({"first": 3}, "choose it with --source"),
            ({"source": "a", "first": 40, "last": 39}, "--to 39: is before --from 40"),
            ({"output": "/nowhere/x.pb"}, "--output /nowhere/x.pb: there is no folder /nowhere"),
            ({"output": "/"}, "--output /: cannot be written: Is a directory"),
            ({"output": "/proc/x.pb"}, "--output /proc/x.pb: cannot be written: "),
            ({"table": "stellar.v1.Evnt"}, "no such table"),
            ({"generated": "/nowhere"}, "is no folder of generated writers"),
            ({"options": {"max_file_rows": "3"}}, "says nothing about a store"),
            ({"partitions": ["ledger_day=1970-01-01"], "dead_letters": True}, "--dead-letters"),
        ],
    )
    def test_what_is_wrong_is_2_and_told(
        self, url: Path, options: dict[str, Any], told: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        flags = {"generated": GENERATED, "table": TABLE, **options}
        assert run(str(url), **flags) == 2
        said = capfd.readouterr()
        assert told in said.err
        assert said.out == ""


class TestDeadLetters:
    @pytest.fixture
    def url(self, tmp_path: Path) -> Path:
        with EventWriter(tmp_path) as writer:
            for number, (payload, form) in enumerate(
                [
                    (event("first"), None),
                    (b"\xff\xff", "message"),
                    (event("third"), None),
                    (b'{"id": ', "json"),
                    (b"piece", "bytes"),
                ]
            ):
                if form is None:
                    writer.write(payload, source="a", position=number)
                else:
                    writer.reject(
                        payload,
                        "bad",
                        source="a",
                        position=number,
                        form=form,  # type: ignore[arg-type]
                    )
        return tmp_path

    def test_they_come_at_their_place(self, url: Path) -> None:
        counts = Counts()
        found = replayed(url, dead_letters=True, counts=counts)
        assert found == [event("first"), b"\xff\xff", event("third")]
        assert counts.letters == 1
        assert counts.left_out == {"json": 1, "bytes": 1}

    def test_json_lines_have_those_that_were_lines(
        self, url: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        flags: dict[str, Any] = {"generated": GENERATED, "format": "ndjson"}
        assert run(str(url), table=TABLE, dead_letters=True, **flags) == 0
        said = capfd.readouterr()
        assert said.out.splitlines()[2] == '{"id": '
        assert "1 dead letter left out: bytes, which are no JSON" in said.err
        assert "1 dead letter left out: pieces of a stream" in said.err

    def test_without_the_flag_there_are_none(self, url: Path) -> None:
        assert replayed(url) == [event("first"), event("third")]

    def test_letters_alone_are_an_archive_too(self, tmp_path: Path) -> None:
        with EventWriter(tmp_path) as writer:
            writer.reject(b"\xff", "bad", source="a", position=3)
        assert replayed(tmp_path, dead_letters=True) == [b"\xff"]

    def test_what_a_retry_made_rows_of_has_its_place(self, tmp_path: Path) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write(event("0"), source="a", position=0)
            writer.reject(event("1"), "not known then", source="a", position=1)
            writer.write(event("2"), source="a", position=2)
        retry(str(tmp_path), {TABLE: EventWriter})
        assert replayed(tmp_path, dead_letters=True) == [event(str(n)) for n in range(3)]


class TestVersions:
    def test_messages_of_every_version_come_back_as_they_were_then_and_whole_after_an_upgrade(
        self, tmp_path: Path
    ) -> None:
        history, payloads = every_version(tmp_path)
        counts = Counts()
        url, generated = history.archive, history.today.generated
        found = replayed(url, history.table, generated=generated, counts=counts)
        assert sorted(found) == sorted(payloads)
        assert not +counts.lost
        assert not [one for one in upgrade(url, generated=generated) if one.problem]
        found = replayed(url, history.table, generated=generated, counts=counts)
        # `gift`, which is field 9, has presence since, so that its zero is written
        without = [[one.replace(b"\x48\x00", b"") for one in some] for some in (found, payloads)]
        assert sorted(without[0]) == sorted(without[1])
        assert not +counts.lost

    def test_a_column_that_was_retired_is_in_its_messages(self, tmp_path: Path) -> None:
        history = History(tmp_path, "shop.v1.Sale")
        history.build(SALE.format("string note = 2; float rate = 3;"))
        old = history.write({"id": 1, "note": "ring twice", "rate": 0.5})
        history.build(SALE.format("reserved 2; reserved 'note'; float rate = 3;"))
        new = history.write({"id": 2, "rate": 0.25})
        generated = history.today.generated
        found = replayed(history.archive, history.table, generated=generated)
        assert sorted(found) == sorted(old + new)

    @pytest.mark.parametrize("lossless", [True, False])
    def test_values_of_a_retired_decimal_are_counted_after_an_upgrade(
        self, lossless: bool, tmp_path: Path
    ) -> None:
        rules = f"version: 1\ndefaults: {{lossless: {lossless}}}\n"
        column = 'tables: {shop.v1.Sale: {columns: {price: {type: "decimal(10, 2)"}}}}'
        history = History(tmp_path, "shop.v1.Sale")
        history.build(SALE.format("string price = 2;"), rules + column)
        written = history.write({"id": 1, "price": "1.50"}, {"id": 2})
        history.build(SALE.format("reserved 2; reserved 'price';"), rules)
        generated = history.today.generated
        assert replayed(history.archive, history.table, generated=generated) == written
        assert not [one for one in upgrade(history.archive, generated=generated) if one.problem]
        counts = Counts()
        found = replayed(history.archive, history.table, generated=generated, counts=counts)
        assert found == (written if lossless else history.payloads({"id": 1}, {"id": 2}))
        assert +counts.lost == ({} if lossless else {"price": 1})

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (pa.bool_(), True),
            *((kind, 1) for kind in (pa.int32(), pa.int64(), pa.uint32(), pa.uint64())),
            *((kind, 0.5) for kind in (pa.float32(), pa.float64())),
            *((kind, "a") for kind in (pa.string(), pa.large_string())),
            (pa.dictionary(pa.int32(), pa.string()), "a"),
            *((kind, b"1234") for kind in (pa.binary(), pa.large_binary(), pa.binary(4))),
            *((pa.timestamp(unit, "UTC"), 1) for unit in ("s", "ms", "us", "ns")),
            *((pa.duration(unit), 1) for unit in ("s", "ms", "us", "ns")),
            *((kind, 1) for kind in (pa.date32(), pa.time64("us"), pa.time64("ns"))),
            *((kind, Decimal("0.5")) for kind in (pa.decimal128(1, 1), pa.decimal128(38, 38))),
            *((kind, Decimal("0.5")) for kind in (pa.decimal256(39, 1), pa.decimal256(76, 76))),
            (pa.list_(pa.int32()), [1]),
            (pa.map_(pa.string(), pa.int32()), [("a", 1)]),
            (pa.struct([("a", pa.int32())]), {"a": 0}),
        ],
        ids=str,
    )
    def test_values_are_counted_in_columns_of_every_type(
        self, kind: pa.DataType, value: object
    ) -> None:
        nothing = [None] if pa.types.is_struct(kind) else [zero_of(kind), None]
        array: Any = pa.array([value, *nothing, value], kind)
        assert module._values(array, ()) == 2

    def test_without_a_descriptor_todays_fields_come_back_and_the_rest_is_told(
        self, tmp_path: Path
    ) -> None:
        history = History(tmp_path, "shop.v1.Sale")
        history.build(SALE.format("string note = 2; int32 count = 3;"))
        history.write({"id": 1, "note": "ring twice", "count": 3})
        (path,) = history.archive.rglob("*.parquet")
        footer = dict(pq.read_metadata(path).metadata)
        del footer[b"cdpgen.descriptor"], footer[b"ARROW:schema"]
        pq.write_table(pq.read_table(path).replace_schema_metadata(footer), path)
        history.build(SALE.format("reserved 2; reserved 'note'; int64 count = 3;"))
        counts = Counts()
        generated = history.today.generated
        found = replayed(history.archive, history.table, generated=generated, counts=counts)
        assert found == history.payloads({"id": 1, "count": 3})
        assert counts.lost == {"note": 1}

    def test_a_message_that_holds_itself_and_was_dropped_is_no_matter(self, tmp_path: Path) -> None:
        history = History(tmp_path, "shop.v1.Sale")
        node = "message Node { Node up = 1; string name = 2; }"
        history.build(SALE.format("Node node = 2;") + node, columns("node: {drop: true}"))
        written = history.write({"id": 1})
        history.build(
            SALE.format("Node node = 2; int32 n = 3;") + node, columns("node: {drop: true}")
        )
        assert told(history) == (written, {})

    def test_of_what_was_dropped_no_more_is_looked_at_than_a_table_can_have(
        self, tmp_path: Path
    ) -> None:
        levels = [f"message L{n} {{ L{n + 1} a = 1; L{n + 1} b = 2; }}" for n in range(40)]
        fields = "".join(levels) + " message L40 { string note = 1; }"
        history = History(tmp_path, "shop.v1.Sale")
        history.build(
            SALE.format("L0 all = 2; string note = 3;") + fields, columns("all: {drop: true}")
        )
        written = history.write({"id": 1, "note": "ring twice"})
        history.build(SALE.format("L0 all = 2; reserved 3;") + fields, columns("all: {drop: true}"))
        assert told(history) == (written, {})
        forget(history)
        assert told(history) == (history.payloads({"id": 1}), {"note": 1})

    def test_well_known_messages_may_be_delimited(self, tmp_path: Path) -> None:
        proto = (
            'edition = "2023"; package shop.v1; option features.message_encoding = DELIMITED;'
            'import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";'
            "message Sale {{ int32 id = 1; google.protobuf.Timestamp at = 2;"
            " repeated google.protobuf.StringValue notes = 3; {} }}"
        )
        history = History(tmp_path, "shop.v1.Sale")
        history.build(proto.format(""))
        written = history.write({"id": 1, "at": "2026-01-01T00:00:00Z", "notes": ["a", ""]}, {})
        history.build(proto.format("int32 n = 4;"))
        assert told(history) == (written, {})

    @pytest.mark.parametrize(
        ("fields", "rules", "later", "later_rules", "record", "rest"),
        [
            (
                "string price = 2; string price_v2 = 3;",
                "price: {drop: true}, price_v2: {name: price}",
                "string price = 2; reserved 3;",
                "price: {drop: true}",
                {"priceV2": "x"},
                {},
            ),
            (
                "string host = 2; Meta meta = 3;",
                "host: {drop: true}, meta: {flatten: true}",
                "string host = 2; Meta meta = 3;",
                "host: {drop: true}, meta: {flatten: true}, meta.host: {drop: true}",
                {"meta": {"host": "h", "port": 1}},
                {"meta": {"port": 1}},
            ),
            (
                "string host_name = 2; Meta meta = 3;",
                "host_name: {name: host}, meta: {drop: true}",
                "reserved 2; Meta meta = 3;",
                "meta: {drop: true}",
                {"hostName": "h"},
                {},
            ),
            (
                "Meta meta = 2; repeated Meta all = 3;",
                "meta: {flatten: true, prefix: m_}, all.port: {name: host}, all.host: {name: h}",
                "reserved 2; repeated Meta all = 3;",
                "all.port: {drop: true}, all.host: {drop: true}",
                {"meta": {"host": "h"}, "all": [{"host": "x", "port": 1}, {"port": 2}]},
                {"all": [{}, {}]},
            ),
        ],
        ids=["a name", "flattened", "the name of one within", "a prefix, in a list"],
    )
    def test_a_retired_column_goes_where_it_came_from_and_where_no_one_knows_nowhere(
        self,
        fields: str,
        rules: str,
        later: str,
        later_rules: str,
        record: dict[str, Any],
        rest: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        meta = "message Meta { string host = 1; int32 port = 2; bool more = 3; }"
        rest, record = {"id": 1, **rest}, {"id": 1, **record}
        history = History(tmp_path, "shop.v1.Sale")
        history.build(SALE.format(fields) + meta, columns(rules))
        written = history.write(record, {"id": 2})
        history.build(SALE.format(later) + meta, columns(later_rules))
        assert told(history) == (written, {})
        forget(history)
        found, lost = told(history)
        assert found == history.payloads(rest, {"id": 2})
        assert lost

    def test_footers_tell_fields_only_where_names_do_not(self, tmp_path: Path) -> None:
        history = History(tmp_path, "shop.v1.Sale")
        meta = "message Meta { string host = 1; int32 port = 2; }"
        proto = "string a = 2; string b = 3; Meta meta = 4; oneof o { int32 x = 5; string y = 6; }"
        flat = "meta: {flatten: true}, a: {encoding: hex}"
        for rules, wanted in (
            ("o: {case: true}", None),
            (flat, None),
            (f"{flat}, o: {{case: true, name: which}}", {"6": [-5]}),
            ("b: {drop: true}", {}),
            ("meta.host: {name: at}, b: {name: c}", {"3": [3], "5": [1]}),
        ):
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
            history.build(SALE.format(proto) + meta, columns(rules))
            history.write({"id": 1})
            (path,) = history.archive.rglob("*.parquet")
            found = pq.read_metadata(path).metadata.get(b"cdpgen.fields")
            assert (None if found is None else json.loads(found)) == wanted, rules

    def test_a_case_is_no_value_and_the_zero_of_an_enum_is_none(self, tmp_path: Path) -> None:
        enum = "enum Kind { NONE = 0; GIFT = 1; }"
        oneof = "Kind kind = 2; oneof o { int32 x = 5; string y = 6; }"
        case = "o: {case: true, name: which}"
        history = History(tmp_path, "shop.v1.Sale")
        history.build(SALE.format(oneof) + enum, columns(f"kind: {{name: sort}}, {case}"))
        history.write({"id": 1, "x": 0}, {"id": 2, "kind": "GIFT"}, {"id": 3})
        forget(history)
        history.build(SALE.format(oneof.replace("Kind kind =", "reserved")) + enum, columns(case))
        found, lost = told(history)
        assert found == history.payloads({"id": 1, "x": 0}, {"id": 2}, {"id": 3})
        assert lost == {"sort": 1}

    def test_so_it_is_where_names_are_plain_texts(self, tmp_path: Path) -> None:
        proto = SALE.format("%s Line line = 3; repeated Line lines = 4;") + (
            "message Line { int32 x = 1; %s } enum Kind { NONE = 0; GIFT = 1; }"
        )
        as_text = "\ndefaults: {enums: string}"
        renamed = ", ".join(
            f"{path}: {{name: sort}}" for path in ("kind", "line.kind", "lines.kind")
        )
        history = History(tmp_path, "shop.v1.Sale")
        history.build(proto % (("Kind kind = 2;",) * 2), columns(renamed) + as_text)
        gift = {"kind": "GIFT"}
        history.write({"id": 1, **gift, "line": gift, "lines": [{}, gift]}, {"id": 2, "line": {}})
        forget(history)
        history.build(proto % (("reserved 2;",) * 2), columns("") + as_text)
        _, lost = told(history)
        assert lost == {"sort": 1, "line.sort": 1, "lines.sort": 1}

    def test_texts_are_values_though_some_are_named_like_the_zero_of_an_enum(self) -> None:
        enums = [Enum("Kind", (0, "NONE"), (1, "GIFT"))]
        for texts in (["NONE", "other"], ["NONE", "GIFT", "", "7"], ["", None, "5"], []):
            found = module._values(pa.array(texts, pa.string()), (), enums)
            assert found == len([text for text in texts if text])


SALE = """syntax = "proto3";
package shop.v1;
message Sale {{ int32 id = 1; {} }}
"""


def columns(rules: str) -> str:
    return f"version: 1\ntables: {{shop.v1.Sale: {{columns: {{{rules}}}}}}}"


def told(history: History) -> tuple[list[bytes], dict[str, int]]:
    """What a replay gives, and what it says is in no message."""
    counts = Counts()
    generated = history.today.generated
    found = replayed(history.archive, history.table, generated=generated, counts=counts)
    return found, dict(+counts.lost)


def forget(history: History) -> None:
    """Makes the files as they were before footers told the fields of columns."""
    for path in history.archive.rglob("*.parquet"):
        footer = dict(pq.read_metadata(path).metadata)
        for key in (b"cdpgen.fields", b"ARROW:schema"):
            footer.pop(key, None)
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.replace_schema_metadata(footer), path)


def every_version(folder: Path) -> tuple[History, list[bytes]]:
    """The versions of `tests/history`, each archived by its own code in a process of its own."""
    history = History(folder, "shop.v1.Order")
    running = []
    for version in sorted((HISTORY / "versions").iterdir(), key=lambda path: int(path.name)):
        history.build((version / "shop.proto").read_text(), (version / "cdpgen.yaml").read_text())
        script = [HISTORY / "archive_version.py", history.today.generated]
        running.append(
            subprocess.Popen(
                [
                    sys.executable,
                    *map(str, [*script, version / "messages.ndjson", history.archive]),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    payloads = []
    for process in running:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        payloads += [bytes.fromhex(line) for line in out.splitlines()]
    return history, payloads


class TestRun:
    def test_a_file_is_length_delimited(self, tmp_path: Path) -> None:
        messages = [*events("a", 300), event("x" * 20_000), event("y" * 300)]
        with EventWriter(tmp_path / "archive") as writer:
            writer.write_many(messages, source="a", positions=range(302))
        out = tmp_path / "out.pb"
        assert (
            run(str(tmp_path / "archive"), table=TABLE, generated=GENERATED, output=str(out)) == 0
        )
        assert delimited(out) == messages
        assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out.pb"]

    def test_json_lines_are_what_protobuf_makes_of_the_messages(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        messages = [*events("a", 100), event("ä\n\u2028"), event("more") + b"\xf8\x3f\x05"]
        with EventWriter(tmp_path / "archive") as writer:
            writer.write_many(messages, source="a", positions=range(102))
        out = tmp_path / "out.ndjson"
        assert (
            run(str(tmp_path / "archive"), table=TABLE, generated=GENERATED, output=str(out)) == 0
        )
        lines = out.read_text("utf-8").split("\n")
        assert lines.pop() == ""
        assert [json.loads(line) for line in lines] == [
            json_format.MessageToDict(Event.FromString(one), preserving_proto_field_name=True)
            for one in messages
        ]
        assert "1 message with fields that today's schema does not know" in capfd.readouterr().err

    def test_a_message_without_json_is_told_and_1(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write_many([event("a"), event("b", day=10**9)], source="a", positions=range(2))
        assert run(str(tmp_path), table=TABLE, generated=GENERATED, format="ndjson") == 1
        said = capfd.readouterr()
        assert len(said.out.splitlines()) == 1
        assert "1 message left out: no JSON" in said.err

    def test_so_is_one_that_is_no_message_by_todays_schema(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        schemas, generated = tmp_path / "schemas", tmp_path / "generated"
        schemas.mkdir()
        (schemas / "extended.proto").write_text(
            'syntax = "proto2"; package extended; message Inner { optional int32 z = 1; }'
            "message Outer { optional int32 id = 1; extensions 100 to 199; }"
            "extend Outer { optional Inner more = 100; }"
        )
        build(schemas, generated)
        with load_tables(generated)["extended.Outer"](tmp_path / "archive") as writer:
            writer.write_many([b"\x08\x01", b"\x08\x02\xa2\x06\x01\xff", b"\x08\x03"])
        flags: dict[str, Any] = {"generated": str(generated), "format": "ndjson"}
        assert run(str(tmp_path / "archive"), table="extended.Outer", **flags) == 1
        said = capfd.readouterr()
        assert said.out == '{"id": 1}\n{"id": 3}\n'
        assert "1 message left out: no JSON (Error parsing message" in said.err

    def test_so_is_one_that_holds_itself_deeper_than_protobuf_goes_for_json(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        schemas, generated = tmp_path / "schemas", tmp_path / "generated"
        schemas.mkdir()
        (schemas / "holding.proto").write_text(
            'syntax = "proto3"; package holding; import "google/protobuf/any.proto";'
            "message Holder { int32 id = 1; google.protobuf.Any held = 2; }"
        )
        build(schemas, generated)
        deep = any_pb2.Any()
        for _ in range(600):  # in bytes, so that protobuf's own limit does not count them
            deep = any_pb2.Any(type_url="x.y/google.protobuf.Any", value=deep.SerializeToString())
        writer_class = load_tables(generated)["holding.Holder"]
        holder = writer_class.message_type()
        with writer_class(tmp_path / "archive") as writer:
            writer.write_many(
                [
                    one.SerializeToString()
                    for one in (holder(id=1), holder(id=2, held=deep), holder(id=3))
                ]
            )
        flags: dict[str, Any] = {"generated": str(generated), "format": "ndjson"}
        assert run(str(tmp_path / "archive"), table="holding.Holder", **flags) == 1
        said = capfd.readouterr()
        assert said.out == '{"id": 1}\n{"id": 3}\n'
        assert "1 message left out: no JSON (maximum recursion depth exceeded" in said.err

    def test_where_one_table_is_there_it_needs_no_name(self, tmp_path: Path) -> None:
        with EventWriter(tmp_path / "archive") as writer:
            writer.write(event("a"))
        out = tmp_path / "out.pb"
        assert run(str(tmp_path / "archive"), generated=GENERATED, output=str(out)) == 0
        assert delimited(out) == [event("a")]

    def test_an_empty_archive_is_1_and_leaves_no_file(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out.pb"
        flags: dict[str, Any] = {"generated": GENERATED, "output": str(out)}
        assert run(str(tmp_path), table=TABLE, **flags) == 1
        assert run(str(tmp_path), **flags) == 1
        assert "there are no" in capfd.readouterr().err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("damage", ["footer", "data"])
    def test_a_damaged_file_is_1_and_named_and_the_output_stays_as_it_was(
        self, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path / "archive") as writer:
            writer.write_many(events("a", 500, days=1), source="a", positions=range(500))
        (path,) = (tmp_path / "archive").rglob("*.parquet")
        data = bytearray(path.read_bytes())
        if damage == "footer":
            data = data[:-3]
        else:
            data[4:900] = bytes(896)
        path.write_bytes(data)
        out = tmp_path / "out.pb"
        out.write_bytes(b"before")
        flags: dict[str, Any] = {"generated": GENERATED, "output": str(out)}
        assert run(str(tmp_path / "archive"), table=TABLE, **flags) == 1
        assert str(path) in capfd.readouterr().err
        assert out.read_bytes() == b"before"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["archive", "out.pb"]

    def test_what_to_do_with_it_is_told_and_of_one_that_may_not_be_read_the_path_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write(event("a"))
        (path,) = tmp_path.rglob("*.parquet")
        data = path.read_bytes()
        path.write_bytes(data[:-3])
        assert run(str(tmp_path), table=TABLE, generated=GENERATED, output="-") == 1
        assert capfd.readouterr().err.endswith(
            "; move it out of the archive: what was in it comes again from its source, or from a backup\n"
        )
        for error, line in (
            (
                PermissionError(13, "Permission denied", str(path)),
                f"{path}: cannot be read: Permission",
            ),
            (
                StorageError(f"{path}: cannot read it: Forbidden"),
                f"{path}: cannot read it: Forbidden\n",
            ),
        ):

            def refuse(self: LocalStorage, path: str, error: OSError = error) -> Any:
                raise error

            monkeypatch.setattr(LocalStorage, "open", refuse)
            assert run(str(tmp_path), table=TABLE, generated=GENERATED, output="-") == 1
            said = capfd.readouterr().err
            assert said.startswith(line)
            assert said.count(str(path)) == said.count("cannot") == 1

    @pytest.mark.parametrize("inside", [TABLE, f"{TABLE}/ledger_day=1970-01-01", "_dead_letter"])
    @pytest.mark.parametrize("table", [TABLE, None])
    def test_a_folder_within_an_archive_is_2_and_the_archive_is_named(
        self, tmp_path: Path, inside: str, table: str | None, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write(event("a"))
            writer.reject(b"", "none")
        assert run(str(tmp_path / inside), table=table, generated=GENERATED, output="-") == 2
        assert capfd.readouterr().err.endswith(f"; give that one: {tmp_path}\n")
        with pytest.raises(StorageError, match="give that one"):
            open_archive(tmp_path / inside, TABLE, generated=GENERATED)

    def test_what_is_no_archive_is_2(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert run(str(tmp_path / "file"), table=TABLE, generated=GENERATED, output="-") == 2

    def test_a_store_that_does_not_answer_is_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise StorageError("nothing answers there", transient=True)

        monkeypatch.setattr(module, "open_storage", fail)
        assert run("s3://bucket", table=TABLE, generated=GENERATED, output="-") == 1

    def test_a_full_disk_is_1_and_named(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write(event("a"))
        flags = {"table": TABLE, "generated": GENERATED}
        assert run(str(tmp_path), output="/dev/full", **flags) == 1
        assert capfd.readouterr().err == "/dev/full: No space left on device\n"
        command = command_of(tmp_path)
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*command, "--table", TABLE],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        assert done.stderr == b"standard output: No space left on device\n"
        assert done.returncode == 1

    @pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full"])
    def test_where_nobody_can_be_told_what_was_written_it_is_written(
        self, tmp_path: Path, redirected: str
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write(event("a"))
        paths = [str(tmp_path), GENERATED, str(tmp_path / "o.ndjson")]
        said = f'"$1" --generated "$2" --table {TABLE} --output "$3" {redirected}'
        done = subprocess.run(
            ["sh", "-c", f'"$0" -m cdpgen replay {said}', sys.executable, *paths],
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            timeout=60,
            check=False,
        )
        assert done.returncode == 0
        assert len((tmp_path / "o.ndjson").read_text().splitlines()) == 1

    def test_an_output_in_the_home_of_nobody_is_2(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write(event("a"))
        flags: dict[str, Any] = {"table": TABLE, "generated": GENERATED}
        assert run(str(tmp_path), output="~nobody-here/o", **flags) == 2
        assert capsys.readouterr().err.startswith("--output ~nobody-here/o: cannot be written: ")
        assert run(str(tmp_path), table=TABLE, generated="~nobody-here/g") == 2
        assert capsys.readouterr().err.startswith("~nobody-here/g: cannot be read: ")

    def test_why_there_is_no_json_is_kept_short_and_in_a_line(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(message: Any, **options: Any) -> str:
            raise json_format.SerializeToJsonError("\x1b[2J" + "x" * 100_000)

        monkeypatch.setattr(json_format, "MessageToJson", refuse)
        with EventWriter(tmp_path) as writer:
            writer.write(event("a"))
        assert run(str(tmp_path), table=TABLE, generated=GENERATED, format="ndjson") == 1
        said = capfd.readouterr().err
        assert "no JSON (\\x1b[2Jxxx" in said
        assert len(said) < 1_000

    def test_no_bytes_go_to_a_terminal_unless_asked_for(self, tmp_path: Path) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write(event("a"))
        command = command_of(tmp_path)
        command += ["--table", TABLE]
        master, terminal = pty.openpty()
        try:
            for options, code in (([], 2), (["--output", "-"], 0), (["--format", "ndjson"], 0)):
                done = subprocess.run(
                    [*command, *options],
                    stdout=terminal,
                    stderr=subprocess.PIPE,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert done.returncode == code, done.stderr
                assert ("no text for a terminal" in done.stderr) == (code == 2)
        finally:
            os.close(master)
            os.close(terminal)

    def test_a_reader_that_has_seen_enough_gets_no_complaint(self, tmp_path: Path) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write_many([event("x" * 1_000)] * 1_000, source="a", positions=range(1_000))
        command = [sys.executable, "-m", "cdpgen", "replay", str(tmp_path), "--table", TABLE]
        with subprocess.Popen(
            [*command, "--generated", GENERATED],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(60) == 1

    def test_the_command_writes_to_standard_output(self, tmp_path: Path) -> None:
        messages = events("a", 50)
        with EventWriter(tmp_path / "archive") as writer:
            writer.write_many(messages, source="a", positions=range(50))
        command = [sys.executable, "-m", "cdpgen", "replay", str(tmp_path / "archive")]
        done = subprocess.run(
            [*command, "--from", "10", "--to", "19", "--generated", GENERATED],
            capture_output=True,
            timeout=60,
            check=True,
        )
        (tmp_path / "out.pb").write_bytes(done.stdout)
        assert delimited(tmp_path / "out.pb") == messages[10:20]
        assert done.stderr.startswith(f"{TABLE}: 10 messages".encode())
