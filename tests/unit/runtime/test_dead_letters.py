"""Dead letters listed, shown and retried; a retry that dies leaves each letter in one place."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_runtime.archive import run as archive
from cdp_runtime.config import ConfigError
from cdp_runtime.dataset import ArchiveError
from cdp_runtime.dead_letter import FOLDER, RETRY_FOLDER
from cdp_runtime.dead_letters import _identity, letter_files, read_letters, retry, run
from cdp_runtime.positions import runs
from cdp_runtime.storage import FileInfo, StorageError, open_storage
from cdp_runtime.store_local import LocalStorage
from cdp_runtime.writer import WriterFailed
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter
from tests.faults.failing_store import FailingStore

TABLE = "stellar.v1.Event"
ROOT = Path(__file__).parents[3]
GENERATED = str(ROOT / "generated")
WRITERS = {TABLE: EventWriter}


def event(name: str, day: int = 0) -> bytes:
    one = Event(id=name)
    one.ledger_closed_at.seconds = day * 86_400
    return one.SerializeToString()


def set_apart(url: str | Path) -> None:
    """An archive with a row, letters that are messages by now, and letters that still are none."""
    with EventWriter(url) as writer:
        writer.write(event("row"), source="events.pb", position=0)
        for position, (payload, form) in enumerate(
            [
                (event("a"), "message"),
                (b"\xff\xff", "message"),
                (event("b", day=1), "message"),
                (b'{"id": "c"}', "json"),
                (b'{"id": ', "json"),
                (event("piece"), "bytes"),
            ],
            start=1,
        ):
            writer.reject(
                payload,
                "the schema of then did not know it",
                source="events.pb",
                position=position,
                form=form,  # type: ignore[arg-type]
            )


def rows_in(folder: Path) -> Counter[str]:
    """The ids of the rows of the table, which may be there twice."""
    return Counter(
        name
        for path in (folder / TABLE).rglob("*.parquet")
        for name in pq.read_table(path).column("id").to_pylist()
    )


def letters_in(folder: Path, below: str = FOLDER) -> Counter[bytes]:
    """The payloads of dead letters."""
    return Counter(
        payload
        for path in (folder / below).rglob("*.parquet")
        for payload in pq.read_table(path).column("payload").to_pylist()
    )


def inputs(folder: Path, format: str) -> Callable[..., None]:
    """Archives files into `to`, the first of which, `s`, holds some bytes now."""

    def archived(data: bytes, *names: str) -> None:
        (folder / "s").write_bytes(data)
        paths = [str(folder / name) for name in names or ("s",)]
        flags: dict[str, str] = {"table": TABLE, "generated": GENERATED, "format": format}
        code = archive(source=paths, to=str(folder / "to"), **flags)  # type: ignore[arg-type]
        assert code in (
            0,
            1,
        )  # where there is nothing but a piece it asks whether the table is right

    return archived


STAYING = Counter([b"\xff\xff", b'{"id": ', event("piece")])


class TestRetry:
    def test_json_that_protobuf_trips_over_stays_a_letter(self, tmp_path: Path) -> None:
        line = b'{"type": 1e999}'
        with EventWriter(tmp_path) as writer:
            for position, payload in enumerate((line, b'{"id": "a"}')):
                writer.reject(payload, "no field", source="s", position=position, form="json")
        assert retry(str(tmp_path), WRITERS) == {TABLE: (1, 1, 0)}
        assert letters_in(tmp_path) == Counter([line])
        storage = open_storage(str(tmp_path))
        (file,) = letter_files(storage)
        ((letter,),) = read_letters(storage, file.path)
        assert letter.reason == "the value of 'type' does not fit its field: a number is too large"

    def test_messages_become_rows_and_the_rest_stay_letters(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        assert retry(str(tmp_path), WRITERS) == {TABLE: (3, 3, 0)}
        assert rows_in(tmp_path) == Counter(["row", "a", "b", "c"])
        assert letters_in(tmp_path) == STAYING
        assert letters_in(tmp_path, RETRY_FOLDER) == Counter()

    @pytest.mark.parametrize("format", ["delimited", "ndjson"])
    def test_a_piece_of_what_has_come_whole_since_is_gone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
    ) -> None:
        if format == "delimited":
            framed = [bytes([len(one)]) + one for one in map(event, "abcd")]
        else:
            framed = [b'{"id": "%s"}\n' % one.encode() for one in "abcd"]
        stream, to = tmp_path / "s", str(tmp_path / "to")

        def archived() -> None:
            flags = {"table": TABLE, "generated": GENERATED, "format": format}
            assert archive(source=[str(stream)], to=to, **flags) == 0  # type: ignore[arg-type]

        stream.write_bytes(b"".join(framed)[:-3])
        archived()
        assert retry(to, WRITERS) == {TABLE: (0, 1, 0)}
        stream.write_bytes(b"".join(framed) + framed[0][:3])
        archived()
        assert letters_in(tmp_path / "to").total() == 2
        capsys.readouterr()
        assert run("retry", to, generated=GENERATED) == 0
        said = capsys.readouterr().out
        assert said.endswith("1 stay, 1 gone, as what they were pieces of has come whole\n")
        assert letters_in(tmp_path / "to") == Counter([framed[0][:3]])
        assert rows_in(tmp_path / "to") == Counter("abcd")

    @pytest.mark.parametrize("format", ["delimited", "ndjson"])
    def test_nor_does_a_piece_of_the_first_message_stay(self, tmp_path: Path, format: str) -> None:
        framed = (
            [bytes([len(one)]) + one for one in map(event, ["first", "b"])]
            if format == "delimited"
            else [b'{"id": "first"}\n', b'{"id": "b"}\n']
        )
        archived = inputs(tmp_path, format)
        for end in (1, 4, 6):
            archived(framed[0][:end])
        assert retry(str(tmp_path / "to"), WRITERS) == {TABLE: (0, 3, 0)}
        assert letters_in(tmp_path / "to") == Counter(framed[0][:end] for end in (1, 4, 6))
        archived(b"".join(framed))
        archived(b"".join(framed))
        assert retry(str(tmp_path / "to"), WRITERS) == {TABLE: (0, 0, 3)}
        assert letters_in(tmp_path / "to") == Counter()
        archived(b"".join(framed))  # whose name is still that of the first piece
        assert rows_in(tmp_path / "to") == Counter(["first", "b"])

    def test_what_has_taken_its_place_may_be_shorter_and_broken(self, tmp_path: Path) -> None:
        first, second = (
            b"".join(
                b'{"id": "%s"}\n' % (b"a" if n == 0 else b"%s%d" % (name, n)) for n in range(rows)
            )
            for name, rows in ((b"x", 200), (b"y", 100))
        )
        flags: dict[str, Any] = {"table": TABLE, "generated": GENERATED, "format": "ndjson"}
        for data, code in ((first, 0), (second, 1)):
            packed = gzip.compress(data)[: -8 if data is second else None]
            (tmp_path / "s.gz").write_bytes(packed)
            to = str(tmp_path / "to")
            assert archive(source=[str(tmp_path / "s.gz")], to=to, **flags) == code
        names = [f"x{n}" for n in range(1, 200)] + [f"y{n}" for n in range(1, 100)]
        assert rows_in(tmp_path / "to") == Counter(["a", "a", *names])

    def test_letters_that_stay_in_a_retry_keep_what_was_read_of_their_input(
        self, tmp_path: Path
    ) -> None:
        archived, other = inputs(tmp_path, "ndjson"), tmp_path / "t"
        other.write_bytes(b'{"id": "t1"}\n{"id": ')
        archived(b'{"id"', "s", "t")
        with other.open("ab") as file:
            file.write(b'"t2"}\n')
        archived(b'{"id"', "s", "t")
        # the piece of the other one goes, and that of this one is written anew
        assert retry(str(tmp_path / "to"), WRITERS) == {TABLE: (0, 1, 1)}
        archived(b'{"id": "s1"}\n')
        assert retry(str(tmp_path / "to"), WRITERS) == {TABLE: (0, 0, 1)}
        assert rows_in(tmp_path / "to") == Counter(["t1", "t2", "s1"])

    def test_what_only_looks_like_the_rest_of_a_piece_removes_nothing_else(
        self, tmp_path: Path
    ) -> None:
        archived = inputs(tmp_path, "ndjson")
        archived(b'{"id": "pie')
        archived(b'{"id": "other"}\n')
        assert retry(str(tmp_path / "to"), WRITERS) == {TABLE: (0, 1, 0)}
        # each begins with the piece, and is another input than the one before
        archived(b'{"id": "piece"}\n{"id": "b"}\n')
        archived(b'{"id": "pieces"}\n{"id": "c"}\n')
        archived(b'{"id": "pieta"}\n{"id": "d"}\n')
        assert rows_in(tmp_path / "to") == Counter(
            ["other", "piece", "b", "pieces", "c", "pieta", "d"]
        )
        assert retry(str(tmp_path / "to"), WRITERS)[TABLE].gone == 1

    def test_of_two_pieces_at_one_place_none_goes_for_the_other(self, tmp_path: Path) -> None:
        archived = inputs(tmp_path, "ndjson")
        archived(b'{"id"')
        archived(b'{"id": "one')
        archived(b'{"id": "two"}\n')
        assert rows_in(tmp_path / "to") == Counter(["two"])
        retry(str(tmp_path / "to"), WRITERS)
        assert b'{"id": "one' in letters_in(tmp_path / "to")

    def test_rows_go_to_their_partitions_with_their_source_and_position(
        self, tmp_path: Path
    ) -> None:
        set_apart(tmp_path)
        retry(str(tmp_path), WRITERS)
        (path,) = (tmp_path / TABLE / "ledger_day=1970-01-02").iterdir()
        (run_,) = runs(pq.read_metadata(path).metadata or {})
        assert run_ == ("events.pb", 3, 1)

    def test_what_stays_has_its_time_source_and_position_and_the_reason_of_today(
        self, tmp_path: Path
    ) -> None:
        set_apart(tmp_path)
        (before,) = letter_files(open_storage(tmp_path))
        old = {
            letter.position: letter
            for batch in read_letters(open_storage(tmp_path), before.path)
            for letter in batch
        }
        retry(str(tmp_path), WRITERS)
        (after,) = letter_files(open_storage(tmp_path))
        new = [
            letter for batch in read_letters(open_storage(tmp_path), after.path) for letter in batch
        ]
        assert [letter.position for letter in new] == [2, 5, 6]
        for letter in new:
            then = old[letter.position]
            assert (letter.time, letter.source, letter.payload, letter.form) == (
                then.time,
                then.source,
                then.payload,
                then.form,
            )
        assert new[0].reason != old[2].reason
        assert new[0].offset is not None
        assert new[2].reason == old[6].reason

    def test_where_nothing_has_become_a_message_no_file_is_touched(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        retry(str(tmp_path), WRITERS)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
        assert retry(str(tmp_path), WRITERS) == {TABLE: (0, 3, 0)}
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before

    def test_a_journal_is_refused_as_it_would_give_them_again(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        with pytest.raises(ConfigError, match="journal: is not allowed"):
            retry(str(tmp_path), WRITERS, options={"journal": str(tmp_path / "j")})

    def test_one_that_begins_anew_removes_what_it_had_begun(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        (file,) = letter_files(open_storage(tmp_path))
        identity = _identity(file.name)
        left = tmp_path / "_tmp"
        for name in (
            f"{identity}@{socket.gethostname()}.lock",
            f"event-{identity}-000009.parquet.tmp",
        ):
            (left / name).touch()
        retry(str(tmp_path), WRITERS)
        assert list(left.iterdir()) == []

    def test_letters_of_other_tables_stay(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        with pytest.raises(StorageError, match=r"no files of stellar\.v1\.ContractData; it has"):
            retry(str(tmp_path), WRITERS, "stellar.v1.ContractData")
        assert retry(str(tmp_path), {}) == {}
        assert sum(letters_in(tmp_path).values()) == 6

    def test_a_dry_run_changes_nothing(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
        assert retry(str(tmp_path), WRITERS, options={"dry_run": True}) == {TABLE: (3, 3, 0)}
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before

    def test_what_was_retried_in_part_can_be_retried_again_and_again(self, tmp_path: Path) -> None:
        with EventWriter(tmp_path) as writer:
            for number in range(3):
                writer.reject(event(str(number)), "later", form="bytes")
        for number in range(3):
            (path,) = (tmp_path / FOLDER / TABLE).iterdir()
            table = pq.read_table(path)
            forms = ["message"] + ["bytes"] * (table.num_rows - 1)
            index = table.column_names.index("form")
            pq.write_table(table.set_column(index, "form", pa.array(forms)), path)
            assert retry(str(tmp_path), WRITERS) == {TABLE: (1, 2 - number, 0)}
        assert rows_in(tmp_path) == Counter("012")

    def test_other_stores_work_the_same(self) -> None:
        store = fsspec.filesystem("memory")
        if store.exists("/letters"):
            store.rm("/letters", recursive=True)
        set_apart("memory://letters")
        assert retry("memory://letters", WRITERS) == {TABLE: (3, 3, 0)}
        names = store.find("/letters")
        assert not [name for name in names if name.startswith(f"/letters/{RETRY_FOLDER}/")]
        found = Counter(
            value
            for name in names
            if name.startswith(f"/letters/{TABLE}/")
            for value in pq.read_table(store.open(name)).column("id").to_pylist()
        )
        assert found == Counter(["row", "a", "b", "c"])


DIES = """
import os, sys
from cdp_runtime import store_local
from cdp_runtime.dead_letters import retry
from generated.stellar.v1.event_writer import EventWriter

left = int(sys.argv[2])

def dying(real):
    def call(*args):
        global left
        for at in ("before", "after"):
            left -= 1
            if left == 0:
                os._exit(9)
            if at == "before":
                result = real(*args)
        return result
    return call

store_local.LocalStorage.move = dying(store_local.LocalStorage.move)
store_local.LocalStorage.delete = dying(store_local.LocalStorage.delete)
store_local._LocalUpload.publish = dying(store_local._LocalUpload.publish)
retry(sys.argv[1], {"stellar.v1.Event": EventWriter})
"""


class TestDiscard:
    def test_the_next_run_reads_them_again(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "events.ndjson").write_text('{"event": "a"}\n{"id": "b"}\n')
        pipeline = tmp_path / "pipeline.yaml"
        archived = tmp_path / "archive"

        def run_it(fields: dict[str, str]) -> None:
            source = {"path": "events.ndjson", "fields": fields}
            config = {
                "generated": GENERATED,
                "destination": "archive",
                "tables": {TABLE: {"source": source}},
            }
            pipeline.write_text(json.dumps(config))
            assert archive(str(pipeline)) == 0

        run_it({})
        run_it({"event": "id"})
        assert rows_in(archived) == Counter(["b"])
        assert letters_in(archived) == Counter([b'{"event": "a"}'])
        assert run("discard", str(archived), table=TABLE) == 0
        assert f"{TABLE}: 1 dead letter removed, 1 file\n" in capsys.readouterr().out
        assert not letters_in(archived)
        run_it({"event": "id"})
        assert rows_in(archived) == Counter(["a", "b"])

    def test_nothing_is_removed_where_nobody_can_be_asked(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        command = [sys.executable, "-m", "cdpgen", "dead-letters", "discard", str(tmp_path)]
        ended = subprocess.run(
            [*command, "--table", TABLE], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert (ended.returncode, ended.stderr.split()[0]) == (2, b"--yes:")
        assert sum(letters_in(tmp_path).values()) == 6

    def test_letters_of_a_retry_that_was_interrupted_may_be_rows_already(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_apart(tmp_path)
        [file] = (tmp_path / FOLDER / TABLE).glob("*.parquet")
        taken = tmp_path / RETRY_FOLDER / TABLE / file.name
        taken.parent.mkdir(parents=True)
        file.rename(taken)
        assert run("discard", str(tmp_path), table=TABLE) == 1
        assert "end it first with: cdpgen dead-letters retry" in capsys.readouterr().err
        assert taken.exists()


class TestInterrupted:
    @pytest.mark.parametrize("died_at", range(1, 13))
    def test_each_letter_is_in_one_place_then_and_after_another_retry(
        self, tmp_path: Path, died_at: int
    ) -> None:
        set_apart(tmp_path)
        died = subprocess.run(
            [sys.executable, "-c", DIES, str(tmp_path), str(died_at)],
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        assert died.returncode == 9
        rows, letters = rows_in(tmp_path), letters_in(tmp_path)
        for name, payload in {
            "a": event("a"),
            "b": event("b", day=1),
            "c": b'{"id": "c"}',
        }.items():
            assert not (rows[name] and letters[payload]), f"{name} is in both"
            taken = letters_in(tmp_path, RETRY_FOLDER)[payload]
            assert rows[name] + letters[payload] + taken >= 1, f"{name} is lost"
        retry(str(tmp_path), WRITERS)
        assert rows_in(tmp_path) == Counter(["row", "a", "b", "c"])
        assert letters_in(tmp_path) == STAYING
        assert letters_in(tmp_path, RETRY_FOLDER) == Counter()

    def test_there_are_no_other_moments_to_die_at(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        subprocess.run(
            [sys.executable, "-c", DIES, str(tmp_path), "13"], cwd=ROOT, timeout=60, check=True
        )

    def test_the_list_tells_of_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        set_apart(tmp_path)
        subprocess.run(
            [sys.executable, "-c", DIES, str(tmp_path), "2"], cwd=ROOT, timeout=60, check=False
        )
        assert run("list", str(tmp_path)) == 0
        assert "6 of them in a retry that runs or was interrupted" in capsys.readouterr().out

    def test_each_call_to_a_store_that_cannot_rename_may_be_the_first_that_is_not_made(
        self,
    ) -> None:
        url = "failing://bucket/letters"
        calls = died_at = 0
        while died_at <= calls:
            FailingStore.empty()
            set_apart(url)
            FailingStore.calls = 0

            def dead(call: int, name: str, done: bool, first: int = died_at) -> Exception | None:
                return PermissionError("dead") if call >= first else None

            if died_at:
                FailingStore.plan = dead
                with contextlib.suppress(
                    ArchiveError, StorageError, WriterFailed
                ):  # the last ones let the lock go
                    retry(url, WRITERS)
                FailingStore.plan = None
                for name in [name for name in FailingStore.store if name.endswith(".lock")]:
                    del FailingStore.store[name]  # it counts for minutes
            retry(url, WRITERS)
            calls = calls or FailingStore.calls
            assert calls > 40
            rows: Counter[str] = Counter()
            letters: Counter[bytes] = Counter()
            for name, file in FailingStore.store.items():
                assert RETRY_FOLDER not in name, died_at
                if name.endswith(".parquet"):
                    table = pq.read_table(pa.BufferReader(file.getvalue()))
                    if FOLDER in name:
                        letters.update(table["payload"].to_pylist())
                    else:
                        rows.update(table["id"].to_pylist())
            assert (rows, letters) == (Counter(["row", "a", "b", "c"]), STAYING), died_at
            died_at += 1


class TestInBothFolders:
    """Where a move is a copy and a removal, an interrupted one leaves a file in both folders."""

    @pytest.fixture(params=["whole", "half"])
    def archive(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        set_apart(tmp_path)
        (file,) = letter_files(open_storage(tmp_path))
        data = (tmp_path / file.path).read_bytes()
        copy = tmp_path / RETRY_FOLDER / TABLE / file.name
        copy.parent.mkdir(parents=True)
        copy.write_bytes(data if request.param == "whole" else data[: len(data) // 2])
        return tmp_path

    def test_a_retry_takes_it_once(self, archive: Path) -> None:
        assert retry(str(archive), WRITERS) == {TABLE: (3, 3, 0)}
        assert rows_in(archive) == Counter(["row", "a", "b", "c"])
        assert letters_in(archive) == STAYING
        assert letters_in(archive, RETRY_FOLDER) == Counter()
        assert retry(str(archive), WRITERS) == {TABLE: (0, 3, 0)}

    def test_its_letters_are_counted_once(
        self, archive: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("list", str(archive)) == 0
        shown = capsys.readouterr().out
        assert f"{TABLE}: 6 dead letters\n" in shown
        assert "6 of them in a retry that runs or was interrupted" in shown
        assert run("show", str(archive)) == 0
        assert capsys.readouterr().out.count("events.pb, position") == 6

    def test_a_dry_run_changes_nothing(self, archive: Path) -> None:
        before = {path: path.read_bytes() for path in archive.rglob("*.parquet")}
        assert retry(str(archive), WRITERS, options={"dry_run": True}) == {TABLE: (3, 3, 0)}
        assert {path: path.read_bytes() for path in archive.rglob("*.parquet")} == before

    def test_who_has_lost_the_lock_in_the_midst_of_a_move_begins_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_apart(tmp_path)

        def still() -> None:
            if letters_in(tmp_path, RETRY_FOLDER):
                raise StorageError("another has taken over")

        with monkeypatch.context() as patch:
            patch.setattr(LocalStorage, "lock", lambda *_: contextlib.nullcontext(still))
            with pytest.raises(StorageError, match="another has taken over"):
                retry(str(tmp_path), WRITERS)
        assert rows_in(tmp_path) == Counter(["row"])
        assert letters_in(tmp_path) == Counter()
        assert letters_in(tmp_path, RETRY_FOLDER).total() == 6

    def test_nothing_is_removed_for_a_file_that_cannot_be_read(self, archive: Path) -> None:
        (file,) = (archive / RETRY_FOLDER).rglob("*.parquet")
        retry(str(archive), WRITERS)
        file.write_bytes(b"PAR1")
        before = rows_in(archive), letters_in(archive)
        with pytest.raises(ArchiveError, match=r"_retry/.*: cannot be read: Parquet"):
            retry(str(archive), WRITERS)
        assert (rows_in(archive), letters_in(archive)) == before

    def test_what_a_retry_had_begun_with_letters_that_it_had_written_itself_goes_with_them(
        self, tmp_path: Path
    ) -> None:
        set_apart(tmp_path)
        (file,) = letter_files(open_storage(tmp_path))
        data = (tmp_path / file.path).read_bytes()
        assert retry(str(tmp_path), WRITERS) == {TABLE: (3, 3, 0)}
        (own,) = letter_files(open_storage(tmp_path))
        (tmp_path / RETRY_FOLDER / TABLE / file.name).write_bytes(data)
        assert [one.name for one in letter_files(open_storage(tmp_path))] == [file.name]
        (tmp_path / own.path).rename(tmp_path / RETRY_FOLDER / TABLE / own.name)
        assert [one.name for one in letter_files(open_storage(tmp_path))] == [file.name]
        assert retry(str(tmp_path), WRITERS) == {TABLE: (3, 3, 0)}
        assert rows_in(tmp_path) == Counter(["row", "a", "b", "c"])
        assert letters_in(tmp_path) == STAYING
        assert letters_in(tmp_path, RETRY_FOLDER) == Counter()


class TestBesideAWriter:
    """A source is archived again while letters of it move: what is held is known all the same."""

    @pytest.mark.parametrize("before", ["", f"{FOLDER}/", f"{RETRY_FOLDER}/"])
    def test_between_its_lists(
        self, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_apart(tmp_path)
        real = LocalStorage.files
        retried: list[dict[str, Any]] = []

        def files(storage: LocalStorage, prefix: str = "") -> Iterator[FileInfo]:
            found = list(real(storage, prefix))
            if prefix == f"{before}{TABLE}/" and not retried:
                retried.append({})  # which lists files as well
                retried[0] |= retry(str(tmp_path), WRITERS)
            return iter(found)

        monkeypatch.setattr(LocalStorage, "files", files)
        with EventWriter(tmp_path) as writer:
            writer.skip_published(lambda source: True)
            writer.write_many([event("a")] * 7, source="events.pb", positions=range(7))
        assert retried == [{TABLE: (3, 3, 0)}]
        assert writer.metrics.skipped == 7

    def test_a_file_in_both_folders_is_held_once(self, tmp_path: Path) -> None:
        set_apart(tmp_path)
        (file,) = letter_files(open_storage(tmp_path))
        (copy := tmp_path / RETRY_FOLDER / TABLE).mkdir(parents=True)
        (copy / file.name).write_bytes((tmp_path / file.path).read_bytes())
        with EventWriter(tmp_path) as writer:
            writer.skip_published(lambda source: True)
            writer.write_many([event("a")] * 7, source="events.pb", positions=range(7))
        assert writer.metrics.skipped == 7

    def test_a_file_that_is_gone_when_it_is_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_apart(tmp_path)
        real = LocalStorage.open
        retried = []

        def opened(storage: LocalStorage, path: str) -> IO[bytes]:
            if path.startswith(FOLDER) and not retried:
                retried.append(None)
                retry(str(tmp_path), WRITERS)
            return real(storage, path)

        monkeypatch.setattr(LocalStorage, "open", opened)
        with EventWriter(tmp_path) as writer:
            writer.skip_published(lambda source: True)
            writer.write_many([event("a")] * 7, source="events.pb", positions=range(7))
        assert writer.metrics.skipped == 7


class TestReadLetters:
    @staticmethod
    def read(folder: Path, payloads: Iterable[bytes]) -> list[list[int]]:
        """Sizes of letters, in the lists that they come in when they were written."""
        with EventWriter(folder) as writer:
            for payload in payloads:
                writer.reject(payload, "no message")
        (file,) = letter_files(open_storage(folder))
        return [
            [len(letter.payload or b"") for letter in batch]
            for batch in read_letters(open_storage(folder), file.path)
        ]

    @pytest.mark.parametrize("alike", [True, False])
    def test_of_large_ones_no_more_come_at_once_than_memory_bears(
        self, tmp_path: Path, alike: bool
    ) -> None:
        found = self.read(tmp_path, (bytes([not alike and n]) * 3_000_000 for n in range(60)))
        assert sum(map(sum, found)) == 60 * 3_000_000
        assert max(map(sum, found)) <= 16 << 20

    def test_nor_of_large_ones_among_small_ones(self, tmp_path: Path) -> None:
        sizes = [9] * 3_000 + [3_000_000] * 20 + [9] * 3_000
        found = self.read(tmp_path, (bytes([n % 251]) * size for n, size in enumerate(sizes)))
        assert [size for batch in found for size in batch] == sizes
        assert max(map(sum, found)) <= 8 * 3_000_000

    def test_small_ones_come_many_at_once(self, tmp_path: Path) -> None:
        found = self.read(tmp_path, (os.urandom(20) for _ in range(20_000)))
        assert [len(batch) for batch in found] == [1_024] * 19 + [544]
        found = self.read(tmp_path / "few", (b"%d" % (n % 9) for n in range(3_000)))
        assert [len(batch) for batch in found] == [1_024, 1_024, 952]

    def test_those_that_are_larger_than_that_come_one_by_one(self, tmp_path: Path) -> None:
        found = self.read(tmp_path, (bytes([n]) * 20_000_000 for n in range(3)))
        assert [len(batch) for batch in found] == [1, 1, 1]


class TestRun:
    def test_list_counts_letters_by_reason(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.reject(b"1", "line 1: no object", source="a.ndjson", position=1)
            writer.reject(b"2", "line 2: no object", source="b.ndjson", position=2)
            writer.reject(b"3", "too long")
        assert run("list", str(tmp_path)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{TABLE}: 3 dead letters"
        assert lines[1] == "  2 x no object"
        assert lines[2].endswith("UTC, from a.ndjson, b.ndjson")
        assert lines[3] == "  1 x too long"

    def test_list_reads_no_payloads(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.reject(b"\xff" * 100, "no object")
        (path,) = (tmp_path / FOLDER / TABLE).iterdir()
        payloads = pq.read_metadata(path).row_group(0).column(0)
        assert payloads.path_in_schema == "payload"
        start = payloads.dictionary_page_offset or payloads.data_page_offset
        with path.open("r+b") as file:
            file.seek(start)
            file.write(b"\xff" * payloads.total_compressed_size)
        assert run("show", str(tmp_path)) == 1
        capsys.readouterr()
        assert run("list", str(tmp_path)) == 0
        assert "  1 x no object\n" in capsys.readouterr().out

    def test_of_a_reason_that_quotes_a_message_the_beginning_is_kept(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "s").write_text(json.dumps({"y" * 100_000: 1}))
        flags: dict[str, Any] = {"table": TABLE, "generated": GENERATED, "format": "ndjson"}
        archive(source=[str(tmp_path / "s")], to=str(tmp_path / "a"), **flags)
        with EventWriter(tmp_path / "a") as writer:
            writer.reject(b"", "\ud83d" * 1_000)
        files = letter_files(open_storage(tmp_path / "a"))
        reasons = [
            letter.reason
            for file in files
            for batch in read_letters(open_storage(tmp_path / "a"), file.path)
            for letter in batch
        ]
        assert sorted(len(reason) for reason in reasons) == [500, 500]
        assert all(reason.endswith("…") for reason in reasons)
        capsys.readouterr()
        for action in ("list", "show"):
            assert run(action, str(tmp_path / "a")) == 0
            assert len(capsys.readouterr().out) < 2_500

    def test_reasons_of_before_are_cut_where_they_are_shown_and_read_a_few_at_a_time(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            for _ in range(100):
                writer.reject(b"", "no message")
        (file,) = letter_files(open_storage(tmp_path))
        table = pq.read_table(tmp_path / file.path)
        reasons = pa.array([f"{n} " + "y" * 300_000 for n in range(100)])
        pq.write_table(table.set_column(1, "reason", reasons), tmp_path / file.path)
        for payloads in (True, False):
            read = read_letters(open_storage(tmp_path), file.path, payloads=payloads)
            assert max(map(len, read)) <= 8
        for action in ("list", "show"):
            assert run(action, str(tmp_path)) == 0
            assert len(capsys.readouterr().out) < 20 * 700

    def test_what_a_terminal_would_obey_is_escaped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.reject(b"", "no field \x1b]0;mine\x07", source="a\x1b[2J.pb", position=0)
        for action in ("list", "show"):
            assert run(action, str(tmp_path)) == 0
            shown = capsys.readouterr().out
            assert "no field \\x1b]0;mine\\x07" in shown
            assert "a\\x1b[2J.pb" in shown
            assert "\x1b" not in shown

    def test_list_keeps_no_more_reasons_and_sources_than_memory_bears(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("_REASONS_KEPT", "_SOURCES_KEPT"):
            monkeypatch.setattr(f"cdp_runtime.dead_letters.{name}", 30)
        with EventWriter(tmp_path) as writer:
            for number in range(300):
                writer.reject(b"", f"its own, {number}")
                if number >= 150:
                    writer.reject(b"", "of many", source=f"{number}.pb", position=0)
        assert run("list", str(tmp_path)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{TABLE}: 450 dead letters"
        assert lines[1] == "  150 x of many"
        assert lines[2].endswith("UTC, from 150.pb, 151.pb, 152.pb and over 27 more")
        assert lines[3].startswith("  1 x its own, ")
        assert re.fullmatch(r"  \.\.\. 281 more, of over \d\d other reasons", lines[-1])

    def test_show_tells_where_what_and_how_it_begins(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.reject(b"\xff" * 100, "bad tag", source="a.pb", position=1_000, offset=3)
            writer.reject(b'{"id"\x1b[31m', "no json", form="json")
        assert run("show", str(tmp_path)) == 0
        shown = capsys.readouterr().out
        assert f"{TABLE}: a.pb, position 1,000, 2" in shown
        assert "  bad tag at byte 3\n  100 bytes: ff ff" in shown
        assert " ff ...\n" in shown
        assert f"{TABLE}: no source, 2" in shown
        assert '10 bytes: {"id"\\x1b[31m\n' in shown

    def test_places_that_only_the_journal_knows_are_not_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        archive = tmp_path / "archive"
        with EventWriter(archive, journal=tmp_path / "j") as writer:
            writer.reject(b"?", "bad tag", source="orders")
            writer.reject(b"?", "bad tag")
        assert run("show", str(archive)) == 0
        shown = capsys.readouterr().out
        assert f"{TABLE}: orders, 2" in shown
        assert f"{TABLE}: no source, 2" in shown
        assert run("list", str(archive)) == 0
        assert "UTC, from no source, orders\n" in capsys.readouterr().out

    def test_show_ends_at_its_limit_and_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_apart(tmp_path)
        assert run("show", str(tmp_path), limit=2) == 0
        shown = capsys.readouterr().out
        assert shown.count("events.pb, position") == 2
        assert shown.endswith("... and more; --limit 20 shows more of them\n")

    def test_retry_tells_what_came_of_them(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_apart(tmp_path)
        assert run("retry", str(tmp_path), generated=GENERATED) == 0
        assert capsys.readouterr().out == f"{TABLE}: 3 of 6 dead letters are rows now, 3 stay\n"

    def test_without_letters_each_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with EventWriter(tmp_path) as writer:
            writer.write(b"")
        for action in ("list", "show"):
            assert run(action, str(tmp_path)) == 0
            assert capsys.readouterr().out == "there are no dead letters\n"
        assert run("retry", str(tmp_path), generated=GENERATED) == 0
        assert capsys.readouterr().out.startswith("there are no dead letters of a table")

    def test_a_wrong_name_does_not_look_as_if_all_were_well(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for action in ("list", "show", "retry"):
            assert run(action, str(tmp_path / "nope"), generated=GENERATED) == 1
            assert capsys.readouterr().err == f"{tmp_path}/nope: there are no Parquet files\n"
            assert not (tmp_path / "nope").exists()
        set_apart(tmp_path)
        for action in ("list", "show", "discard"):
            assert run(action, str(tmp_path), table="stellar.v1.Nope") == 2
            assert "there are no files of stellar.v1.Nope; it has" in capsys.readouterr().err
        assert run("retry", str(tmp_path), table="stellar.v1.Nope", generated=GENERATED) == 2
        assert "stellar.v1.Nope: no such table in" in capsys.readouterr().err

    def test_a_url_that_is_not_to_be_used_is_2_and_nothing_is_made_there(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_apart(tmp_path)
        folders = [tmp_path / TABLE, tmp_path / FOLDER, tmp_path / FOLDER / TABLE]
        for action in ("list", "show", "retry", "discard"):
            for folder in folders:
                before = sorted(folder.iterdir())
                assert run(action, str(folder), table=TABLE, generated=GENERATED) == 2
                assert f"give that one: {tmp_path}\n" in capsys.readouterr().err
                assert sorted(folder.iterdir()) == before
            file = next((tmp_path / TABLE).rglob("*.parquet"))
            assert run(action, str(file), table=TABLE, generated=GENERATED) == 2
        assert run("list", str(tmp_path / TABLE)) == 2
        assert f"{tmp_path / TABLE}: is no archive" in capsys.readouterr().err

    def test_where_a_retry_is_at_work_another_may_wait_for_its_end(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_apart(tmp_path)
        with open_storage(tmp_path).lock("dead-letters-retry"):
            for action in ("retry", "discard"):
                assert run(action, str(tmp_path), table=TABLE, generated=GENERATED) == 1
                assert "at work there; try again when it is done" in capsys.readouterr().err

    @pytest.mark.parametrize("action", ["list", "show", "retry", "discard"])
    def test_a_full_disk_behind_standard_output_is_1_and_said(
        self, tmp_path: Path, action: str
    ) -> None:
        set_apart(tmp_path)
        command = [sys.executable, "-m", "cdpgen", "dead-letters", action, str(tmp_path)]
        command += ["--table", TABLE, "--yes"] if action == "discard" else []
        command += ["--generated", GENERATED] if action == "retry" else []
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
            )
        assert done.stderr == b"standard output: No space left on device\n"
        assert done.returncode == 1

    def test_a_file_of_the_table_that_is_damaged_is_1(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_apart(tmp_path)
        path = next((tmp_path / TABLE).rglob("*.parquet"))
        path.write_bytes(b"nothing")
        assert run("retry", str(tmp_path), generated=GENERATED) == 1
        assert capsys.readouterr().err.startswith(f"{path}: ")

    def test_a_file_that_cannot_be_read_is_1_and_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_apart(tmp_path)
        (path,) = (tmp_path / FOLDER / TABLE).iterdir()
        path.write_bytes(b"nothing")
        for action in ("list", "show", "retry"):
            assert run(action, str(tmp_path), generated=GENERATED) == 1
            assert capsys.readouterr().err.startswith(f"{path}: ")

    def test_wrong_options_are_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("retry", str(tmp_path), generated=GENERATED, options={"x": "1"}) == 2
        assert capsys.readouterr().err.startswith("x: no such option")
