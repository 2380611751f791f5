"""Ten years of a schema: each version's files, by its own generated writer, read in the last schema.

`versions/<n>` holds the schema, the rules and the messages of a version. What the columns must be,
`google.protobuf` says: it reads the same bytes with the last descriptor.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cdp_runtime.upgrade import upgrade
from cdpgen.sql import definitions
from tests import oracle
from tests.versions import History

HERE = Path(__file__).parent
TABLE = "shop.v1.Order"
VERSIONS = sorted(int(path.name) for path in (HERE / "versions").iterdir())
Row = dict[str, Any]


class Archived(NamedTuple):
    """All versions, built and archived."""

    history: History
    payloads: dict[int, bytes]
    """The messages, by their numbers."""
    version: dict[int, int]
    """Which version wrote each."""

    def rows(self, **options: Any) -> dict[int, Row]:
        """What the archive says, by the number of the order."""
        return {row["number"]: row for row in self.history.rows(**options)}

    def expected(self) -> dict[int, Row]:
        """What the reference converter makes of the bytes with the last descriptor."""
        converter = self.history.writer.converter
        made = oracle.expect(
            converter.program, converter.schema, self.history.message, self.payloads.values()
        )
        assert not made.rejected
        table = pa.Table.from_batches([made.batch])
        return {row["number"]: row for row in table.to_pylist(maps_as_pydicts="strict")}


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    """All versions, built, and archived each in a process of its own."""
    history = History(tmp_path_factory.mktemp("history"), TABLE)
    running = []
    for version in VERSIONS:
        folder = HERE / "versions" / str(version)
        history.build((folder / "shop.proto").read_text(), (folder / "cdpgen.yaml").read_text())
        script = [HERE / "archive_version.py", history.today.generated, folder / "messages.ndjson"]
        running.append(
            subprocess.Popen(
                [sys.executable, *map(str, [*script, history.archive])],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    payloads: dict[int, bytes] = {}
    versions: dict[int, int] = {}
    for version, process in zip(VERSIONS, running, strict=True):
        out, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        for line in out.splitlines():
            payload = bytes.fromhex(line)
            message: Any = oracle.parse(history.message, payload)
            payloads[message.number] = payload
            versions[message.number] = version
    return Archived(history, payloads, versions)


@pytest.fixture
def upgraded(archived: Archived, tmp_path: Path) -> Archived:
    """A copy of the archive, upgraded."""
    history = copy.copy(archived.history)
    history.archive = tmp_path / "archive"
    shutil.copytree(archived.history.archive, history.archive)
    done = list(upgrade(history.archive, generated=history.today.generated))
    assert sum(bool(file.rows) for file in done) >= len(VERSIONS)
    return archived._replace(history=history)


def adjusted(archived: Archived, number: int, expected: Row, got: Row) -> Row:
    """What the last descriptor says of old bytes, and what was decided since, over it."""
    version = archived.version[number]
    row = dict(expected)
    if version < 7:  # then it was no `optional` field: what is not there is false
        row["gift"] = bool(expected["gift"])
    if version < 8:  # then it was called channel, with another number, and nothing at first
        message = oracle.parse(
            archived.history.versions[version - 1].messages[TABLE],
            archived.payloads[number],
        )
        row["source"] = getattr(message, "channel", "shop")
    # the retired fields of old messages are unknown today, and columns then
    if got["_raw"] is None:
        row["_raw"] = None
    return row


def check(archived: Archived, got: dict[int, Row]) -> None:
    expected = archived.expected()
    assert got.keys() == expected.keys()
    for number, row in got.items():
        row = {name: value for name, value in row.items() if name != "at_day"}
        assert row == adjusted(archived, number, expected[number], row), (
            f"version {archived.version[number]}"
        )


class TestHistory:
    def test_there_are_at_least_eight_versions_and_each_is_another(
        self, archived: Archived
    ) -> None:
        assert len(VERSIONS) >= 8
        lock = json.loads((archived.history.schemas / "cdpgen.lock").read_text())
        versions = lock["tables"][TABLE]["versions"]
        assert [each["version"] for each in versions] == VERSIONS

    def test_every_versions_rows_are_what_protobuf_reads_with_the_last_descriptor(
        self, archived: Archived
    ) -> None:
        check(archived, archived.rows())
        assert set(archived.version.values()) == set(VERSIONS)

    def test_what_is_retired_is_there_on_request(self, archived: Archived) -> None:
        opened = archived.history.open(retired=True)
        rows = {row["number"]: row for row in opened.to_table().to_pylist()}
        assert rows[100]["note"] == "ring twice"
        assert rows[100]["lines"][0]["price"] == 1.5
        assert rows[900]["note"] is None

    def test_the_last_messages_through_every_older_writer_are_read_and_upgraded_whole(
        self, archived: Archived, tmp_path: Path
    ) -> None:
        history = copy.copy(archived.history)
        last = [n for n, version in archived.version.items() if version == VERSIONS[-1]]
        expected = archived.expected()
        for version in VERSIONS[:-1]:
            history.archive = tmp_path / str(version)
            history.write_payloads([archived.payloads[n] for n in last], version=version)
            for upgraded in (False, True):
                rows = history.rows()
                assert sorted(row["number"] for row in rows) == sorted(last)
                for row in rows:
                    del row["at_day"]
                    want = dict(expected[row["number"]])
                    if version < 7:  # of an implicit field, absent and false are one
                        if upgraded and want["gift"] is False:  # the message tells them apart
                            want["_raw"] = archived.payloads[row["number"]]
                        want["gift"] = bool(want["gift"])
                    if version == 1 and not want["source"]:
                        want["source"] = "shop"
                    assert row == want, f"version {version}"
                list(upgrade(history.archive, generated=history.today.generated))
            (path,) = history.archive.rglob("order-*.parquet")
            whole = [n for n in last if version < 7 and expected[n]["gift"] is False]
            raw = pq.read_table(path, partitioning=None)["_raw"]
            assert raw.null_count == len(last) - len(whole)

    def test_numbers_that_an_older_writer_cuts_off_are_whole_in_raw_and_then_in_columns(
        self, archived: Archived, tmp_path: Path
    ) -> None:
        wide = [3_000_000_000, 904, 905, 906, 907]
        history = copy.copy(archived.history)
        history.archive = tmp_path / "archive"
        history.write_payloads([archived.payloads[n] for n in wide], version=2)
        (path,) = history.archive.rglob("order-*.parquet")
        stored = pq.read_table(path, partitioning=None)
        assert stored["_raw"].to_pylist() == [archived.payloads[n] for n in wide]
        cut = [
            (-1_294_967_296, 904, 905, 906, 907),
            [[], [-1_294_967_296, 1_294_967_296], [], [], []],
            [{}, {}, {"tea": 0, "pot": 1}, {}, {}],
            (0, 0, 0, 18_000_000_000_000_000_000 % 2**32, 0),
            (None, None, None, None, 2_147_483_647),
        ]
        names = ["number", "lines", "by_sku", "weight", "rating"]
        counts = [[line["count"] for line in lines] for lines in stored["lines"].to_pylist()]
        columns = {name: stored[name].to_pylist(maps_as_pydicts="strict") for name in names}
        assert [*map(list, ({**columns, "lines": counts}).values())] == [*map(list, cut)]
        expected = archived.expected()
        whole = [{name: expected[n][name] for name in names} for n in wide]
        assert whole[0]["number"] == 3_000_000_000
        for _ in range(2):
            assert history.rows(columns=names) == whole
            assert history.open().count_rows(filter=pc.field("number") > 2**31) == 1
            heavy = pc.field("weight") > pa.scalar(2**63, pa.uint64())
            assert history.open().count_rows(filter=heavy) == 1
            list(upgrade(history.archive, generated=history.today.generated))
        stored = pq.read_table(path, partitioning=None, columns=["number", "weight", "_raw"])
        assert stored.to_pylist() == [
            {"number": row["number"], "weight": row["weight"], "_raw": None} for row in whole
        ]

    def test_upgraded_it_says_the_same(self, archived: Archived, upgraded: Archived) -> None:
        def columns(one: Archived) -> dict[int, Row]:
            # messages with something in retired fields are kept whole by an upgrade
            return {number: {**row, "_raw": None} for number, row in one.rows().items()}

        assert columns(upgraded) == columns(archived)
        check(upgraded, upgraded.rows())


class TestSql:
    def test_duckdb_sees_what_open_archive_does(self, archived: Archived) -> None:
        found = duckdb_rows(archived)
        for number, row in archived.rows().items():
            assert found[number] == row, f"version {archived.version[number]}"

    def test_so_it_does_after_an_upgrade(self, upgraded: Archived) -> None:
        found = duckdb_rows(upgraded)
        for number, row in upgraded.rows().items():
            if upgraded.version[number] == 1:
                row["source"] = ""  # that rows are older than a column, views cannot know any more
            assert found[number] == row


def duckdb_rows(archived: Archived) -> dict[int, Row]:
    """What the view that `cdpgen sql` defines says, by the number of the order."""
    history = archived.history
    with duckdb.connect() as database:
        database.execute("set timezone = 'UTC'")
        database.execute(definitions(str(history.archive), "duckdb", history.today.generated))
        table = database.sql('select * from shop_v1."order"').to_arrow_table()
    return {row["number"]: row for row in table.to_pylist(maps_as_pydicts="strict")}
