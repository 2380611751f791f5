"""Between writer and store things go wrong: nothing is lost, nothing is there twice, and it is counted."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cdp_runtime import dead_letters, inspect
from cdp_runtime.archive import _Stop
from cdp_runtime.dead_letter import FOLDER, RETRY_FOLDER
from cdp_runtime.dead_letters import retry
from cdp_runtime.metrics import Metrics
from cdp_runtime.patience import Patience
from cdp_runtime.sources.files import open_input
from cdp_runtime.storage import StorageError, open_storage, writer_id
from cdp_runtime.store_parts import PART_BYTES
from generated.stellar.v1.event_writer import EventWriter
from tests.integration.stores import proxy
from tests.integration.stores.conftest import Archive, on
from tests.integration.stores.proxy import Proxy, Request
from tests.integration.stores.servers import Server
from tests.integration.stores.test_stores import event, ids_in

pytestmark = pytest.mark.timeout(60)

WRITERS = {EventWriter.table: EventWriter}
GENERATED = str(Path(__file__).parents[3] / "generated")
PASSING = ["reset", "reset-after", "stall", "truncate", "429", "500", "503"]
SMALL, LARGE = 1_000, 2 * PART_BYTES + 1_000
CASES = [
    *((name, fault, SMALL) for name in ("moto", "gcp-storage-emulator") for fault in PASSING),
    *(
        (name, fault, LARGE)
        for name in ("moto", "gcp-storage-emulator")
        for fault in ("reset", "reset-after", "truncate", "503")
    ),
    *(("minio", fault, LARGE) for fault in ("reset-after", "503")),
    # asked how far a large upload is, fake-gcs-server ends it
    *(("fake-gcs-server", fault, SMALL) for fault in ("reset-after", "503")),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(Patience, "LONGEST_WAIT", 0.05)


def behind(server: Server, wall: Proxy, folder: str) -> Archive:
    archive = on(server, folder, wall.endpoint)
    if server.protocol == "s3":
        archive.options["config_kwargs"] = {"read_timeout": 1}
    return archive


class TestUpload:
    @pytest.mark.parametrize(("server", "fault", "size"), CASES, indirect=["server"])
    def test_a_file_is_there_once_and_whole_whatever_happens_to_each_request(
        self, server: Server, fault: str, size: int
    ) -> None:
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, f"{fault}-{size}")
            metrics = Metrics()
            patience = Patience("test", metrics)
            storage = open_storage(archive.url, writer_id(), archive.options)
            wall.spoil_writes(fault)
            data = os.urandom(size)
            upload = storage.create("t/f-w-000001.parquet")
            for start in range(0, size, 5_000_000):
                upload.write(data[start : start + 5_000_000])
                patience.call(upload.drain, "drain")
            patience.call(upload.publish, "publish")
            assert archive.names() == ["t/f-w-000001.parquet"]
            assert archive.read("t/f-w-000001.parquet") == data
            assert len(wall.spoiled) >= 1
            assert (metrics.retries > 0) >= fault.isdigit()  # aiohttp itself sends a PUT again once
            assert metrics.retries <= len(wall.spoiled)
            wall.choose = lambda request: None
            storage.close()

    def test_what_waiting_does_not_mend_is_raised_at_once(self, server: Server) -> None:
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, "forbidden")
            storage = open_storage(archive.url, writer_id(), archive.options)
            wall.spoil_writes("403")
            upload = storage.create("t/f-w-000001.parquet")
            upload.write(b"data")
            metrics = Metrics()
            with pytest.raises(StorageError) as raised:
                Patience("test", metrics).call(upload.publish, "publish")
            assert not raised.value.transient
            assert metrics.retries == 0
            upload.discard()
            storage.close()
            assert archive.names() == []

    @pytest.mark.parametrize(
        "server", ["moto", "minio", "gcp-storage-emulator", "fake-gcs-server"], indirect=True
    )
    def test_when_an_answer_is_lost_it_is_enough_to_list(self, server: Server) -> None:
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, "write-only")
            storage = open_storage(archive.url, writer_id(), archive.options)
            upload = storage.create("t/f-w-000001.parquet")
            upload.write(b"data")

            def choose(request: Request) -> str | None:
                """As who may create and list, and not read, is answered."""
                if request.method in ("GET", "HEAD"):
                    return "403" if "f-w-000001" in request.path.partition("?")[0] else None
                # an emulator does not know the condition that there is no such file yet
                refused = "412" if server.name == "gcp-storage-emulator" else None
                return refused if wall.spoiled else "reset-after"

            wall.choose = choose
            Patience("test", Metrics()).call(upload.publish, "publish")
            wall.choose = lambda request: None
            storage.close()
            assert archive.names() == ["t/f-w-000001.parquet"]

    @pytest.mark.parametrize("server", ["moto"], indirect=True)
    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_a_conflict_with_an_attempt_that_the_store_is_still_at_is_waited_for(
        self, server: Server, size: int
    ) -> None:
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, f"conflict-{size}")
            storage = open_storage(archive.url, writer_id(), archive.options)
            upload = storage.create("t/f-w-000001.parquet")
            upload.write(data := os.urandom(size))
            upload.drain()
            wall.choose = lambda request: (
                None
                if wall.spoiled or "partNumber" in request.path
                else "409 ConditionalRequestConflict"
            )
            Patience("test", metrics := Metrics()).call(upload.publish, "publish")
            assert metrics.retries == 1
            assert archive.read("t/f-w-000001.parquet") == data
            storage.close()

    @pytest.mark.parametrize("server", ["moto"], indirect=True)
    def test_an_upload_that_a_conflict_has_ended_comes_again_from_its_source(
        self, server: Server
    ) -> None:
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, "conflict-gone")
            storage = open_storage(archive.url, writer_id(), archive.options)
            upload = storage.create("t/f-w-000001.parquet")
            upload.write(os.urandom(LARGE))
            upload.drain()

            def choose(request: Request) -> str | None:
                if request.method != "POST":
                    return None
                return "404 NoSuchUpload" if wall.spoiled else "409 ConditionalRequestConflict"

            wall.choose = choose
            with pytest.raises(StorageError, match="when the writer is started anew") as raised:
                Patience("test", Metrics()).call(upload.publish, "publish")
            assert not raised.value.transient
            wall.choose = lambda request: None
            upload.discard()
            storage.close()
            assert archive.names() == []


class TestReading:
    @pytest.fixture
    def spoiled(self, server: Server, wall: Proxy, fault: str) -> Archive:
        """An archive with rows and a dead letter, of whose files each answer is spoiled."""
        archive = behind(server, wall, f"read-{fault.replace(' ', '-')}-{uuid.uuid4().hex}")
        with EventWriter(archive.url, storage_options=archive.options) as writer:
            writer.write_many([event(number) for number in range(10)])
            writer.reject(b"\xff", "no message")
        wall.choose = lambda request: (
            fault if request.method == "GET" and ".parquet" in request.path else None
        )
        return archive

    @pytest.fixture
    def wall(self, server: Server) -> Iterator[Proxy]:
        with proxy.before(server.endpoint) as wall:
            yield wall

    @pytest.mark.parametrize("server", ["moto"], indirect=True)
    @pytest.mark.parametrize(
        ("fault", "transient"),
        [
            ("truncate", True),
            ("reset", True),
            ("503", True),
            ("400 RequestTimeout", True),
            ("408 RequestTimeout", True),
            ("403 AccessDenied", False),
        ],
    )
    def test_what_goes_wrong_after_a_file_was_opened_is_told_as_the_store_s_error(
        self, spoiled: Archive, transient: bool
    ) -> None:
        storage = open_storage(spoiled.url, writer_id(), spoiled.options)
        for file in storage.files():
            with (
                storage.open(file.path) as opened,
                pytest.raises(StorageError, match=f"^{storage.url}: cannot read ") as raised,
            ):
                pq.read_metadata(opened)
            assert raised.value.transient == transient
            assert "index out of range" not in str(raised.value)
        storage.close()

    @pytest.mark.parametrize("server", ["moto"], indirect=True)
    @pytest.mark.parametrize("fault", ["truncate", "403 AccessDenied"])
    def test_the_commands_end_with_a_line(
        self, spoiled: Archive, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = {"storage_options": spoiled.options}
        assert inspect.run(spoiled.url, options) == 1
        *named, uncounted = capsys.readouterr().err.splitlines()
        assert uncounted == "the rows of these 2 files are not counted"
        assert len(named) == 2
        assert all(line.startswith(f"{spoiled.url}/") for line in named)
        assert dead_letters.run("show", spoiled.url, options=options) == 1
        assert dead_letters.run("retry", spoiled.url, generated=GENERATED, options=options) == 1
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 2
        # a retry looks at the table's own files first
        for folder, line in zip((f"{FOLDER}/", ""), said, strict=True):
            assert line.startswith(f"{spoiled.url}: cannot read {folder}")
            assert line.count(".parquet") == 1

    @pytest.mark.parametrize("server", ["moto"], indirect=True)
    @pytest.mark.parametrize("fault", ["truncate"])
    @pytest.mark.parametrize("name", ["a.pb", "a.pb.gz"])
    def test_an_input_that_cannot_be_read_on_is_an_error_that_names_it(
        self, spoiled: Archive, wall: Proxy, name: str
    ) -> None:
        spoiled.filesystem.pipe_file(f"{spoiled.root}/{name}", bytes(1000))
        wall.choose = lambda request: "truncate" if name in request.path else None
        options = spoiled.options
        with _Stop() as stop, open_input(f"{spoiled.url}/{name}", stop, options) as reader:
            for _ in range(2):
                with pytest.raises(OSError, match=f"^{spoiled.url}/{name}: "):
                    reader.readinto(memoryview(bytearray(100)))


class TestWriter:
    @pytest.mark.parametrize("fault", ["reset-after", "503"])
    def test_each_row_is_there_once_and_the_retries_are_counted(
        self, server: Server, fault: str
    ) -> None:
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, f"rows-{fault}")
            options: dict[str, Any] = {"max_file_rows": 300, "storage_options": archive.options}
            with EventWriter(archive.url, **options) as writer:
                wall.spoil_writes(fault)
                writer.write_many([event(number) for number in range(1_000)])
                writer.flush()
                assert writer.metrics.healthy
                assert len(wall.spoiled) >= 1
                assert (writer.metrics.retries > 0) >= fault.isdigit()
                assert writer.metrics.retries <= len(wall.spoiled)
                wall.choose = lambda request: None
            assert ids_in(archive) == Counter(f"{number:09}" for number in range(1_000))


class TestRetry:
    def test_a_move_that_ends_before_the_old_file_is_gone_is_ended_by_the_next(
        self, server: Server
    ) -> None:
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, "moves")
            options: dict[str, Any] = {"storage_options": archive.options}
            with EventWriter(archive.url, **options) as writer:
                for number in range(10):
                    writer.reject(event(number) if number % 2 else b"\xff", "not known then")

            def choose(request: Request) -> str | None:
                return "403" if request.method == "DELETE" and FOLDER in request.path else None

            wall.choose = choose
            with pytest.raises(StorageError, match="cannot move _dead_letter/"):
                retry(archive.url, WRITERS, options=options)
            wall.choose = lambda request: None
            assert retry(archive.url, WRITERS, options=options) == {EventWriter.table: (5, 5, 0)}
            assert retry(archive.url, WRITERS, options=options) == {EventWriter.table: (0, 5, 0)}
            assert ids_in(archive) == Counter(f"{number:09}" for number in range(1, 10, 2))
            assert not [name for name in archive.names() if name.startswith(f"{RETRY_FOLDER}/")]
