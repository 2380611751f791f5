"""A generated writer, as its users see it."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.struct_pb2 import ListValue

from cdp_runtime import journal as journal_module
from cdp_runtime.config import ConfigError
from cdp_runtime.journal import Frame, Journal, encode
from cdp_runtime.parquet import PublishedFile
from cdp_runtime.storage import StorageError
from cdp_runtime.writer import TableWriter, WriterFailed
from generated.stellar.v1.asset_details_pb2 import AssetDetails
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from generated.stellar.v1.event_pb2 import Event
from tests.faults import checks

SOME = [checks.payload(n) for n in range(1, 97)]


class TestWrite:
    def test_messages_and_their_bytes_are_the_same(self, tmp_path: Path) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            writer.write(AssetDetails.FromString(SOME[0]))
            writer.write(SOME[1])
            writer.write(bytearray(SOME[2]))  # type: ignore[arg-type]
            writer.write_many([AssetDetails.FromString(SOME[3]), SOME[4]])
            writer.write_many(pa.array([SOME[5]], pa.large_binary()))
            writer.write_many(one for one in SOME[6:8])
        assert checks.numbers_in(tmp_path) == list(range(1, 9))

    def test_a_message_of_another_type_is_refused(self, tmp_path: Path) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            with pytest.raises(TypeError, match=r"expected a stellar\.v1\.AssetDetails, not a"):
                writer.write(Event())  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"or its bytes, not builtins\.str"):
                writer.write_many(["text"])  # type: ignore[list-item]
            with pytest.raises(TypeError, match=r"or its bytes, not "):
                writer.write(AssetDetails)  # type: ignore[arg-type]
        assert checks.files(tmp_path) == []

    def test_what_is_to_be_called_is_a_function(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match=r"on_published takes a function, not builtins\.int"):
            AssetDetailsWriter(tmp_path, on_published=3)  # type: ignore[arg-type]
        said = r"the name of a source, not builtins\.str: lambda"
        with AssetDetailsWriter(tmp_path) as writer, pytest.raises(TypeError, match=said):
            writer.skip_published("orders")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "one",
        [AssetDetails(), ListValue(), b"abc", bytearray(b"abc"), memoryview(b""), "abc", 5, None],
    )
    def test_one_where_many_are_taken_is_refused(self, tmp_path: Path, one: Any) -> None:
        said = (
            r"^write_many takes a list of stellar\.v1\.AssetDetails or of their bytes, not [\w.]+; "
            "write takes one$"
        )
        with AssetDetailsWriter(tmp_path) as writer, pytest.raises(TypeError, match=said):
            writer.write_many(one)
        assert writer.metrics.messages == 0

    def test_null_and_what_is_no_message_go_to_the_dead_letters(self, tmp_path: Path) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            writer.write_many(pa.array([SOME[0], None, b"\x0f"], pa.binary()))
        assert writer.metrics.dead_letters == 2
        assert writer.metrics.rows == 1

    def test_what_no_page_of_parquet_can_hold_goes_there_too_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cdp_runtime.pipeline._LARGE_BYTES", 10_000)
        large = AssetDetails(code="x" * 20_000).SerializeToString()
        with AssetDetailsWriter(tmp_path, journal=tmp_path / "j") as writer:
            writer.write_many([*SOME[:40], large, b"\x0f", *SOME[40:]])
        assert (writer.metrics.dead_letters, writer.metrics.rows) == (2, len(SOME))
        (letters,) = (tmp_path / "_dead_letter").rglob("*.parquet")
        found = pq.read_table(letters, partitioning=None)
        assert sorted(found["payload"].to_pylist()) == sorted([large, b"\x0f"])
        assert any("does not fit a page" in one for one in found["reason"].to_pylist())

    def test_the_source_of_a_row_is_the_one_that_was_given_with_a_journal_too(
        self, tmp_path: Path
    ) -> None:
        with AssetDetailsWriter(
            tmp_path / "a", journal=tmp_path / "j", include_metadata=True
        ) as writer:
            writer.write(SOME[0], source="kafka")
            writer.write(SOME[1])
        tables = [pq.read_table(path, partitioning=None) for path in checks.files(tmp_path / "a")]
        sources = {source for table in tables for source in table["_source"].to_pylist()}
        assert sources == {"kafka", None}

    def test_a_closed_writer_takes_nothing(self, tmp_path: Path) -> None:
        writer = AssetDetailsWriter(tmp_path)
        writer.close()
        for call in (lambda: writer.write(b""), lambda: writer.write_many([b""]), writer.flush):
            with pytest.raises(ValueError, match="closed"):
                call()

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"payload": "text"}, "payload: expected bytes, not str"),
            ({"reason": None}, "reason: expected a text, not NoneType"),
            ({"offset": 1 << 63}, "offset: 9223372036854775808 is not allowed"),
            ({"offset": "3"}, "offset: '3' is not allowed"),
            ({"form": "xml"}, "form: 'xml' is not allowed: allowed are message, json, bytes"),
            ({"position": True}, "position: True is not allowed: it has to be an integer"),
        ],
    )
    def test_what_no_dead_letter_can_be_is_refused_where_the_caller_sees_it(
        self, wrong: dict[str, Any], said: str, tmp_path: Path
    ) -> None:
        given: dict[str, Any] = {"payload": b"x", "reason": "none"} | wrong
        with AssetDetailsWriter(tmp_path, journal=tmp_path / "j") as writer:
            writer.write(SOME[0], position=1)
            with pytest.raises((TypeError, ValueError), match=said):
                writer.reject(**given)
        assert checks.numbers_in(tmp_path) == [1]

    def test_the_base_class_is_no_writer(self) -> None:
        with pytest.raises(NotImplementedError, match="no"):
            TableWriter.message_type()


class TestFlush:
    def test_everything_before_it_is_in_whole_files_when_it_returns(self, tmp_path: Path) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            for start in range(0, 96, 24):
                writer.write_many(SOME[start : start + 24])
                writer.flush()
                assert checks.numbers_in(tmp_path) == list(range(1, start + 25))

    def test_with_nothing_written_it_writes_nothing(self, tmp_path: Path) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            writer.flush()
        assert checks.files(tmp_path) == []


class TestClose:
    def test_it_publishes_and_may_be_called_again(self, tmp_path: Path) -> None:
        writer = AssetDetailsWriter(tmp_path)
        writer.write_many(SOME)
        writer.close()
        writer.close()
        assert checks.numbers_in(tmp_path) == list(range(1, 97))
        assert checks.leftovers(tmp_path) == []

    def test_what_was_written_before_an_exception_is_archived(self, tmp_path: Path) -> None:
        def write() -> None:
            with AssetDetailsWriter(tmp_path) as writer:
                writer.write_many(SOME)
                raise KeyError

        with pytest.raises(KeyError):
            write()
        assert checks.numbers_in(tmp_path) == list(range(1, 97))

    def test_an_exception_is_told_that_the_writer_failed_as_well(self, tmp_path: Path) -> None:
        def broken(file: PublishedFile) -> None:
            raise RuntimeError("broken")

        def write() -> None:
            with AssetDetailsWriter(tmp_path, on_published=broken) as writer:
                writer.write_many(SOME)
                raise KeyError

        with pytest.raises(KeyError) as raised:
            write()
        assert "broken" in raised.value.__notes__[0]

    def test_a_writer_that_is_dropped_publishes_with_a_warning(self, tmp_path: Path) -> None:
        def drop() -> None:
            writer = AssetDetailsWriter(tmp_path)
            writer.write_many(SOME)
            del writer
            gc.collect()

        with pytest.warns(ResourceWarning, match="was not closed"):
            drop()
        assert checks.numbers_in(tmp_path) == list(range(1, 97))


class TestOnPublished:
    def test_positions_are_told_when_readers_can_see_the_file(self, tmp_path: Path) -> None:
        told: list[PublishedFile] = []

        def published(file: PublishedFile) -> None:
            assert Path(file.url).is_file()
            told.append(file)

        with AssetDetailsWriter(tmp_path, partition_by="", on_published=published) as writer:
            writer.write_many(SOME, source="s", positions=range(96))
            writer.reject(b"?", "bad", source="s", position=96)
            time.sleep(0.2)
            assert told == []
        assert [(file.positions, file.dead_letters) for file in told] == [
            ({"s": (0, 95)}, False),
            ({"s": (96, 96)}, True),
        ]

    @pytest.mark.parametrize("call", ["flush", "close"])
    def test_it_must_not_call_the_writer(self, call: str, tmp_path: Path) -> None:
        raised = []

        def published(file: PublishedFile) -> None:
            try:
                getattr(writer, call)()
            except RuntimeError as error:
                raised.append(str(error))

        with AssetDetailsWriter(tmp_path, partition_by="", on_published=published) as writer:
            writer.write_many(SOME)
        assert raised == [f"on_published must not {call} the writer that calls it"]

    def test_what_it_raises_is_told_as_its_own(self, tmp_path: Path) -> None:
        def published(file: PublishedFile) -> None:
            raise KeyError("mine")

        writer = AssetDetailsWriter(tmp_path, partition_by="", on_published=published)
        writer.write_many(SOME)
        with pytest.raises(WriterFailed, match=r"on_published failed for stellar.*: 'mine'"):
            writer.close()


class TestOptions:
    def test_a_wrong_one_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="buffer_size: 0 is not allowed"):
            AssetDetailsWriter(tmp_path, buffer_size=0)

    def test_files_rotate_by_age_with_nobody_writing(self, tmp_path: Path) -> None:
        seen = threading.Event()
        with AssetDetailsWriter(
            tmp_path, rotation_interval_minutes=0.05 / 60, on_published=lambda file: seen.set()
        ) as writer:
            writer.write(SOME[0])
            assert seen.wait(10)
            assert checks.numbers_in(tmp_path) == [1]

    def test_rows_and_dead_letters_in_the_making_do_not_meet(self, tmp_path: Path) -> None:
        # both have files in `_tmp` at once, from their first row groups on
        with AssetDetailsWriter(tmp_path, row_group_mb=0.001) as writer:
            for start in range(0, 5_000, 100):
                writer.write_many([checks.payload(n) for n in range(start, start + 100)])
        assert checks.numbers_in(tmp_path) == list(range(5_000))


class TestTwoWriters:
    def test_on_one_archive_are_kept_apart_by_their_ids(self, tmp_path: Path) -> None:
        def write(first: int) -> None:
            with AssetDetailsWriter(tmp_path, max_file_rows=300) as writer:
                for start in range(first, first + 5_000, 100):
                    writer.write_many([checks.payload(n) for n in range(start, start + 100)])

        threads: list[Any] = [threading.Thread(target=write, args=(5_000 * n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert checks.numbers_in(tmp_path) == list(range(15_000))
        assert len({path.name.split("-")[1] for path in checks.files(tmp_path)}) == 3
        assert checks.leftovers(tmp_path) == []


def test_the_failure_names_table_archive_and_cause(tmp_path: Path) -> None:
    writer = AssetDetailsWriter(tmp_path / "a")
    writer.write_many(SOME)
    (tmp_path / "a" / checks.TABLE).write_text("in the way")
    with pytest.raises(WriterFailed, match=rf"{checks.TABLE}: cannot write to {tmp_path}/a: .*"):
        writer.close()


def test_more_open_files_than_the_system_allows_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1_024, 4_096))
    with pytest.raises(
        ConfigError, match=r"max_open_files: 1000 .* this process may have 1024 open"
    ):
        AssetDetailsWriter(tmp_path, max_open_files=1_000)
    AssetDetailsWriter(tmp_path, max_open_files=900).close()


def test_a_journal_is_recovered_through_a_link_to_the_archive(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    left = Journal(tmp_path / "j", AssetDetailsWriter.table, "w", str(tmp_path / "real"), 1 << 20)
    left.append(encode(Frame("s", [b""], range(1))), 1)
    left.sync()
    left.close()
    AssetDetailsWriter(tmp_path / "link", journal=tmp_path / "j").close()
    assert len(list((tmp_path / "real").rglob("*.parquet"))) == 1


def test_a_journal_in_the_place_of_the_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    left = Journal(tmp_path, AssetDetailsWriter.table, "w", str(tmp_path), 1 << 20)
    left.append(encode(Frame("s", [SOME[0]], range(1))), 1)
    left.sync()
    left.close()
    with pytest.raises(ConfigError, match="it is the folder of the archive itself"):
        AssetDetailsWriter(tmp_path, journal=tmp_path / "link")
    assert list((tmp_path / "_tmp").iterdir()) == []
    assert checks.numbers_in(tmp_path) == [1]  # of an earlier version, which let it be there


def test_a_journal_at_the_home_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="journal: '~nobody-here/j' is not allowed: it is no folder"
    ):
        AssetDetailsWriter(tmp_path, journal="~nobody-here/j")


@pytest.mark.parametrize("recovers", [False, True])
def test_a_journal_that_cannot_be_begun_is_named_and_nothing_is_left(
    recovers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    if recovers:
        left = Journal(folder, AssetDetailsWriter.table, "w", str(tmp_path / "a"), 1 << 20)
        left.append(encode(Frame("s", [SOME[0]], range(1))), 1)
        left.sync()
        left.close()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(journal_module, "_write_about", full)
        with pytest.raises(StorageError) as raised:
            AssetDetailsWriter(tmp_path / "a", journal=folder)
        assert str(raised.value) == f"journal: {folder}: cannot be written: No space left on device"
        assert raised.value.transient
    assert list((tmp_path / "a" / "_tmp").iterdir()) == []
    # what a dead writer left is published first, which makes room
    assert checks.numbers_in(tmp_path / "a") == [1] * recovers
    assert list((folder / checks.TABLE).iterdir()) == []


def test_what_a_dead_letter_says_may_quote_what_is_no_text(tmp_path: Path) -> None:
    with AssetDetailsWriter(tmp_path) as writer:
        writer.reject(b"x", "no field \ud800", source="s", position=1)
    [path] = tmp_path.rglob("*.parquet")
    assert pq.read_table(path)["reason"].to_pylist() == ["no field \\ud800"]


def test_the_files_of_a_retry_at_work_are_not_those_of_the_dead_writer(tmp_path: Path) -> None:
    host = socket.gethostname()
    temporary = tmp_path / "_tmp"
    temporary.mkdir()
    (temporary / f"dead@{host}.lock").touch()
    for name in ("asset_details-dead-000001.parquet.tmp", "t-dead-000001r-000001.parquet.tmp"):
        (temporary / name).touch()
    AssetDetailsWriter(tmp_path).close()
    assert [path.name for path in temporary.iterdir()] == ["t-dead-000001r-000001.parquet.tmp"]
