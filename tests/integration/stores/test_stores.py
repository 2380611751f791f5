"""One suite for all stores: what is written is there, whole, once, and any engine reads it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from cdp_runtime import store_gcs, store_s3
from cdp_runtime.storage import StorageError, open_storage, writer_id
from cdp_runtime.store_parts import PART_BYTES
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter
from tests.integration.stores import proxy
from tests.integration.stores.conftest import SERVERS, Archive, on, server_of
from tests.integration.stores.servers import BUCKET, Server
from tests.unit.runtime.test_router import HOSTILE

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[3]
SIZES = [0, 10, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 12_345]
CONDITIONAL = ["moto", "minio", "fake-gcs-server"]
"""The servers that know a put on condition; gcp-storage-emulator does not."""


def event(number: int) -> bytes:
    return Event(id=f"{number:09}", contract_id=f"C{number % 3}").SerializeToString()


def ids_in(archive: Archive) -> Counter[str]:
    found: Counter[str] = Counter()
    for name in archive.names():
        if name.endswith(".parquet") and not name.startswith("_"):
            with archive.filesystem.open(f"{archive.root}/{name}") as file:
                found.update(pq.read_table(file, columns=["id"]).column("id").to_pylist())
    return found


class TestUpload:
    @pytest.mark.parametrize("size", SIZES)
    def test_each_byte_is_there_once_it_is_published_and_none_before(
        self, archive: Archive, size: int
    ) -> None:
        storage = open_storage(archive.url, writer_id(), archive.options)
        data = os.urandom(size)
        upload = storage.create("t/day=1/f-w-000001.parquet")
        for start in range(0, size, 3_000_000):
            upload.write(data[start : start + 3_000_000])
            upload.drain()
            assert [name for name in archive.names() if not name.startswith("_tmp/")] == []
        upload.publish()
        upload.publish()
        upload.discard()
        assert archive.names() == ["t/day=1/f-w-000001.parquet"]
        assert archive.read("t/day=1/f-w-000001.parquet") == data
        with storage.open("t/day=1/f-w-000001.parquet") as file:
            assert file.read() == data
        storage.close()

    def test_what_is_discarded_was_never_there(self, archive: Archive) -> None:
        storage = open_storage(archive.url, writer_id(), archive.options)
        for size in (0, 10, 3 * PART_BYTES):
            upload = storage.create(f"t/f-w-{size:06}.parquet")
            upload.write(bytes(size))
            upload.drain()
            upload.discard()
        storage.close()
        assert archive.names() == []
        if isinstance(storage, store_s3.S3Storage):
            assert storage._unfinished()[1] == []

    @pytest.mark.parametrize("server", CONDITIONAL, indirect=True)
    @pytest.mark.parametrize("size", [10, PART_BYTES + 10])
    def test_nothing_is_ever_replaced(self, server: Server, size: int) -> None:
        archive = on(server, f"once-{size}")
        storage = open_storage(archive.url, writer_id(), archive.options)
        for content in (b"first", b"other"):
            upload = storage.create("t/f-w-000001.parquet")
            upload.write(content * size)
            upload.drain()
            if content == b"first":
                upload.publish()
            else:
                upload.write(b"!")
                with pytest.raises(StorageError, match=r"f-w-000001\.parquet"):
                    upload.publish()
                upload.discard()
        storage.close()
        assert archive.read("t/f-w-000001.parquet") == b"first" * size

    @pytest.mark.parametrize("sizes", [(10, 10), (10, PART_BYTES + 1), (PART_BYTES + 1, 20)])
    def test_what_is_to_be_replaced_is_so_when_the_new_file_is_whole(
        self, archive: Archive, sizes: tuple[int, int]
    ) -> None:
        old, new = b"o" * sizes[0], b"n" * sizes[1]
        storage = open_storage(archive.url, writer_id(), archive.options)
        for content, replace in ((old, False), (new[:3], True), (new, True)):
            upload = storage.create("t/f-w-000001.parquet", replace=replace)
            upload.write(content)
            upload.drain()
            if replace:
                assert archive.read("t/f-w-000001.parquet") == old
            if len(content) == 3:
                upload.discard()
            else:
                upload.publish()
        assert archive.read("t/f-w-000001.parquet") == new
        storage.close()
        assert archive.names() == ["t/f-w-000001.parquet"]

    @pytest.mark.parametrize(
        "path",
        ["../f.parquet", "/f.parquet", "t/../../f.parquet", "t//f.parquet", "t/./f", "a\0b", ""],
    )
    def test_no_path_leaves_the_archive(self, archive: Archive, path: str) -> None:
        storage = open_storage(archive.url, writer_id(), archive.options)
        with pytest.raises(StorageError, match="is no path below an archive"):
            storage.create(path)
        with pytest.raises(StorageError, match="is no path below an archive"):
            storage.open(path)
        storage.close()


class TestPartsOnGcs:
    """One after another, so they grow with the file, as far as memory allows."""

    KB = 1 << 10

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_gcs, "PART_BYTES", 256 * self.KB)
        monkeypatch.setattr(store_gcs, "_LARGEST_PART", 1_024 * self.KB)
        monkeypatch.setattr(store_gcs, "_POOL", 2_048 * self.KB)

    @pytest.mark.parametrize(
        ("files", "first", "most"),
        [(1, [256, 1_024, 1_024], 1_024), (4, [256, 512, 512], 512), (16, [256, 256], 256)],
    )
    def test_they_grow_as_far_as_the_files_that_are_open_leave_room(
        self, running: Any, files: int, first: list[int], most: int
    ) -> None:
        server = server_of(running, "gcp-storage-emulator")
        with proxy.before(server.endpoint) as wall:
            archive = on(server, f"parts-{files}", wall.endpoint)
            storage = open_storage(archive.url, writer_id(), archive.options)
            uploads = [storage.create(f"t/f-w-{number:06}.parquet") for number in range(files)]
            for upload in uploads:  # all are open before the second part of any
                upload.write(bytes(300 * self.KB))
                upload.drain()
            data = os.urandom(3_000 * self.KB)
            for start in range(0, len(data), 100 * self.KB):
                for upload in uploads:
                    upload.write(data[start : start + 100 * self.KB])
                    upload.drain()
                    assert upload._taken.size <= most * self.KB  # type: ignore[attr-defined]
            for upload in uploads:
                upload.publish()
            storage.close()
            whole = bytes(300 * self.KB) + data
            for name in archive.names():
                assert archive.read(name) == whole
            parts: dict[str, list[int]] = {}
            for one in wall.passed:
                if found := re.match(r"bytes (\d+)-(\d+)/", one.span):
                    size = int(found[2]) + 1 - int(found[1])
                    parts.setdefault(one.path, []).append(size // self.KB)
        assert len(parts) == files
        for sizes in parts.values():
            assert sum(sizes) == 3_300
            assert sizes[: len(first)] == first
            assert max(sizes) == most


class TestFiles:
    def test_all_are_listed_in_order_with_their_sizes_or_those_of_one_table(
        self, archive: Archive
    ) -> None:
        storage = open_storage(archive.url, writer_id(), archive.options)
        sizes = {"b.V/x=2/f-w-000002.parquet": 2, "b.V/x=1/f-w-000001.parquet": 1}
        sizes |= {"a.U/f-w-000003.parquet": 3, "_dead_letter/a.U/f-w-000004.parquet": 4}
        for path, size in sizes.items():
            upload = storage.create(path)
            upload.write(bytes(size))
            upload.publish()
        storage.close()
        reader = open_storage(archive.url, None, archive.options)
        assert [(file.path, file.size) for file in reader.files()] == sorted(sizes.items())
        assert [file.size for file in reader.files("b.V/")] == [1, 2]
        assert list(reader.files("c.W/")) == []

    def test_a_file_moves_and_goes(self, archive: Archive) -> None:
        storage = open_storage(archive.url, writer_id(), archive.options)
        upload = storage.create("t/f-w-000001.parquet")
        upload.write(b"bytes")
        upload.publish()
        storage.move("t/f-w-000001.parquet", "u/g-w-000001.parquet")
        assert archive.read("u/g-w-000001.parquet") == b"bytes"
        with pytest.raises(FileNotFoundError):
            storage.move("t/f-w-000001.parquet", "u/h-w-000001.parquet")
        storage.delete("u/g-w-000001.parquet")
        storage.delete("u/g-w-000001.parquet")
        storage.close()
        assert archive.names() == []

    @pytest.mark.parametrize("archive", ["memory"], indirect=True)
    def test_it_moves_where_the_store_renames_and_cannot_copy(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def renamed(filesystem: MemoryFileSystem, before: str, after: str) -> None:
            filesystem.store[after] = filesystem.store.pop(before)

        monkeypatch.setattr(MemoryFileSystem, "cp_file", AbstractFileSystem.cp_file)
        monkeypatch.setattr(MemoryFileSystem, "mv", renamed)
        archive.filesystem.pipe_file(f"{archive.root}/t/f-w-000001.parquet", b"bytes")
        storage = open_storage(archive.url, None, archive.options)
        storage.move("t/f-w-000001.parquet", "u/g-w-000001.parquet")
        assert archive.names() == ["u/g-w-000001.parquet"]


class TestWriter:
    def test_rows_rotate_into_files_that_duckdb_and_pyarrow_read(self, archive: Archive) -> None:
        with EventWriter(
            archive.url,
            max_file_rows=400,
            partition_by="contract_id",
            storage_options=archive.options,
        ) as writer:
            writer.write_many([event(number) for number in range(3_000)])
        names = archive.names()
        assert len(names) == 9
        expected = Counter(f"{number:09}" for number in range(3_000))
        root = f"{archive.root}/stellar.v1.Event"
        table = ds.dataset(
            root,
            filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(archive.filesystem)),
            partitioning="hive",
        ).to_table(columns=["id"])
        assert Counter(table.column("id").to_pylist()) == expected
        with duckdb.connect() as base:
            base.register_filesystem(archive.filesystem)
            protocol = archive.filesystem.protocol
            protocol = protocol if isinstance(protocol, str) else protocol[0]
            files = [f"{protocol}://{archive.root}/{name}" for name in names]
            rows = base.execute("select id from read_parquet(?)", [files]).fetchall()
        assert Counter(row[0] for row in rows) == expected

    def test_hostile_partition_values_make_paths_that_duckdb_and_pyarrow_read_the_values_from(
        self, archive: Archive
    ) -> None:
        values = [value for value in HOSTILE if len(value) < 80]
        values += ["x" * 243, "/" * 81, "ü" * 121]  # with `contract_id=` all that a name can hold
        with EventWriter(
            archive.url, partition_by="contract_id", storage_options=archive.options
        ) as writer:
            for number, value in enumerate(values):
                writer.write(Event(id=f"{number}", contract_id=value).SerializeToString())
            writer.write(Event(id="empty").SerializeToString())
        root = f"{archive.root}/stellar.v1.Event"
        expected: list[tuple[str, str | None]] = [(str(n), v) for n, v in enumerate(values)]
        expected.append(("empty", None))
        kind = pa.schema([("contract_id", pa.string())])
        table = ds.dataset(
            root,
            schema=pa.schema([("id", pa.string()), *kind]),
            filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(archive.filesystem)),
            partitioning=ds.HivePartitioning(kind, segment_encoding="uri"),
        ).to_table()
        assert sorted(zip(*table.to_pydict().values(), strict=True)) == sorted(expected)
        with duckdb.connect() as base:
            base.register_filesystem(archive.filesystem)
            protocol = archive.filesystem.protocol
            protocol = protocol if isinstance(protocol, str) else protocol[0]
            files = [f"{protocol}://{archive.root}/{name}" for name in archive.names()]
            rows = base.execute(
                "select id, contract_id from read_parquet(?, hive_partitioning = true, "
                "hive_types = {'contract_id': varchar})",
                [files],
            ).fetchall()
        assert sorted(rows) == sorted(expected)

    def test_two_writers_on_one_archive_do_not_touch_each_other(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # moto says of every upload that it was begun in 2010
        monkeypatch.setattr(store_s3, "GRACE_SECONDS", 100 * 365 * 86_400)
        with (
            EventWriter(archive.url, storage_options=archive.options) as one,
            EventWriter(archive.url, storage_options=archive.options) as two,
        ):
            for number in range(0, 1_000, 2):
                one.write(event(number))
                two.write(event(number + 1))
            one.flush()
        assert ids_in(archive) == Counter(f"{number:09}" for number in range(1_000))


WRITES_FOR_EVER = """
import json, os, sys
from cdp_runtime.storage import open_storage
url, options = sys.argv[1], json.loads(sys.argv[2])
storage = open_storage(url, "0" * 16, options)
upload = storage.create("t/f-0000000000000000-000001.parquet")
written = 0
while True:
    upload.write(os.urandom(1 << 20))
    upload.drain()
    written += 1 << 20
    print(written, flush=True)
    if written > 40 << 20:
        sys.stdin.read()
"""


class TestKilled:
    @pytest.mark.parametrize("archive", ["local", *SERVERS], indirect=True)
    def test_nothing_of_a_killed_upload_is_seen_and_the_next_writer_tidies(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES_FOR_EVER, archive.url, json.dumps(archive.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdout is not None
        while int(process.stdout.readline()) < 20 << 20:
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
        reader = open_storage(archive.url, None, archive.options)
        assert list(reader.files()) == []
        monkeypatch.setattr(store_s3, "GRACE_SECONDS", 0)
        time.sleep(1.1)  # the store tells times in seconds
        storage = open_storage(archive.url, writer_id(), archive.options)
        assert archive.names() == []
        if isinstance(storage, store_s3.S3Storage):
            assert storage._unfinished()[1] == []
        storage.close()


class TestAbandoned:
    def test_an_old_upload_is_left_alone_while_its_writer_shows_life(self) -> None:
        import datetime

        now = datetime.datetime(2026, 1, 10, tzinfo=datetime.UTC)

        def begun(key: str, hours: float) -> store_s3.Unfinished:
            return store_s3.Unfinished(key, key, now - datetime.timedelta(hours=hours))

        living = [begun("a/t/f-aa-000001.parquet", 200), begun("a/_tmp/aa.alive", 1)]
        dead = [begun("a/t/f-bb-000001.parquet", 30), begun("a/_tmp/bb.alive", 29)]
        young = [begun("a/t/f-cc-000001.parquet", 2)]
        strange = [begun("a/t/backup.tar", 900)]
        assert store_s3.abandoned([*living, *dead, *young, *strange], now) == dead


class TestOptions:
    def test_encryption_class_metadata_and_tags_arrive_on_s3(self, running: Any) -> None:
        archive = on(server_of(running, "moto"), "options")
        asked = {
            "ServerSideEncryption": "aws:kms",
            "SSEKMSKeyId": "alias/mine",
            "StorageClass": "STANDARD_IA",
            "Metadata": {"team": "archive"},
            "Tagging": "kind=parquet",
        }
        options = {**archive.options, "s3_additional_kwargs": asked}
        storage = open_storage(archive.url, writer_id(), options)
        for number, size in enumerate((10, PART_BYTES + 10)):
            upload = storage.create(f"t/f-w-{number:06}.parquet")
            upload.write(bytes(size))
            upload.publish()
            key = f"options/t/f-w-{number:06}.parquet"
            head = archive.filesystem.call_s3("head_object", Bucket=BUCKET, Key=key)
            assert head["ServerSideEncryption"] == "aws:kms"
            assert head["SSEKMSKeyId"].endswith("alias/mine")
            assert head["StorageClass"] == "STANDARD_IA"
            assert head["Metadata"] == {"team": "archive"}
            tags = archive.filesystem.call_s3("get_object_tagging", Bucket=BUCKET, Key=key)
            assert tags["TagSet"] == [{"Key": "kind", "Value": "parquet"}]
        storage.close()

    def test_class_and_metadata_arrive_on_gcs(self, running: Any) -> None:
        archive = on(server_of(running, "fake-gcs-server"), "options")
        options = {**archive.options, "metadata": {"team": "archive"}, "storage_class": "NEARLINE"}
        storage = open_storage(archive.url, writer_id(), options)
        for number, size in enumerate((10, PART_BYTES + 10)):
            upload = storage.create(f"t/f-w-{number:06}.parquet")
            upload.write(bytes(size))
            upload.publish()
            info = archive.filesystem.info(f"{archive.root}/t/f-w-{number:06}.parquet")
            assert info["metadata"] == {"team": "archive"}
            assert info["storageClass"] == "NEARLINE"
        storage.close()

    def test_the_customers_key_and_the_acl_are_asked_of_gcs(self, running: Any) -> None:
        server = server_of(running, "gcp-storage-emulator")
        key = "projects/p/locations/eu/keyRings/r/cryptoKeys/k"
        with proxy.before(server.endpoint) as wall:
            archive = on(server, "key", wall.endpoint)
            options = {**archive.options, "kms_key_name": key, "acl": "projectPrivate"}
            storage = open_storage(archive.url, writer_id(), options)
            for number, size in enumerate((10, PART_BYTES + 10)):
                upload = storage.create(f"t/f-w-{number:06}.parquet")
                upload.write(bytes(size))
                upload.publish()
            storage.close()
        begun = [
            dict(parse_qsl(urlsplit(one.path).query))
            for one in wall.passed
            if one.method == "POST" and "uploadType=" in one.path and "upload_id=" not in one.path
        ]
        assert len(begun) >= 2
        assert {one["kmsKeyName"] for one in begun} == {key}
        assert {one["predefinedAcl"] for one in begun} == {"projectPrivate"}
