"""What a writer says when its store cannot be used, and what it never says."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from cdp_runtime import store_other
from cdp_runtime.config import ConfigError
from cdp_runtime.sources.files import expand
from cdp_runtime.storage import StorageError, open_storage, writer_id
from cdpgen.cli import main
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter
from tests.integration.stores import proxy
from tests.integration.stores.conftest import on, server_of
from tests.integration.stores.servers import KEY_ID, SECRET, Server, free_port, s3_options
from tests.integration.stores.test_faults import behind
from tests.integration.stores.test_stores import event

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[3]


def refused(url: str, options: dict[str, Any]) -> StorageError:
    with pytest.raises(StorageError) as raised:
        open_storage(url, writer_id(), options)
    return raised.value


class TestProbe:
    def test_it_leaves_nothing(self, server: Server) -> None:
        archive = on(server, "probed")
        open_storage(archive.url, writer_id(), archive.options).close()
        assert archive.names() == []

    def test_a_bucket_that_is_not_there_is_named_with_how_to_make_it(self, server: Server) -> None:
        options = server.options(server.endpoint)
        error = refused(f"{server.protocol}://nowhere/archive", options)
        assert not error.transient
        assert f"{server.protocol}://nowhere" in str(error)
        assert "aws s3 mb" in str(error) or "gcloud storage buckets create" in str(error)

    def test_who_reads_from_a_bucket_that_is_not_there_is_told_so(self, server: Server) -> None:
        options = server.options(server.endpoint)
        storage = open_storage(f"{server.protocol}://nowhere/archive", None, options)
        with pytest.raises(StorageError) as raised:
            list(storage.files())
        assert "nowhere" in str(raised.value)
        assert "there is no The" not in str(raised.value)

    def test_a_permission_that_is_missing_is_named(self, server: Server) -> None:
        with proxy.before(server.endpoint) as wall:
            wall.spoil_writes("403")
            archive = behind(server, wall, "forbidden")
            error = refused(archive.url, archive.options)
        assert not error.transient
        wanted = "s3:PutObject on arn:aws:s3:::archive/forbidden/*"
        if server.protocol == "gs":
            wanted = "storage.objects.create on gs://archive"
        assert wanted in str(error)

    def test_a_store_that_does_not_answer_may_later(self, server: Server) -> None:
        endpoint = f"http://127.0.0.1:{free_port()}"
        error = refused(server.url("x"), server.options(endpoint))
        assert error.transient
        assert server.url("x") in str(error)

    def test_one_that_answers_the_second_time_is_used(self, server: Server) -> None:
        with proxy.before(server.endpoint) as wall:
            faults = ["503", "reset-after"]
            wall.choose = lambda request: faults.pop() if faults else None
            archive = behind(server, wall, "second")
            open_storage(archive.url, writer_id(), archive.options).close()
            assert len(wall.spoiled) == 2

    def test_wrong_credentials_are_told_from_missing_ones(self, running: Any) -> None:
        server = server_of(running, "minio")
        wrong = {**server.options(server.endpoint), "secret": "canary-wrong-secret"}
        told = str(refused(server.url("x"), wrong))
        assert "the secret does not belong to the key id" in told
        assert "canary" not in told

    def test_credentials_in_a_url_are_refused_and_not_repeated(self) -> None:
        told = str(refused(f"s3://{KEY_ID}:{SECRET}@bucket/x", {}))
        assert "credentials do not go into the URL" in told
        assert "canary" not in told

    def test_a_disk_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        error = refused(str(tmp_path / "file"), {})
        assert not error.transient
        assert "cannot write there" in str(error)

    @pytest.mark.parametrize(("bucket", "code"), [("nowhere", 2), ("", 2)])
    def test_the_command_says_it_in_a_line(
        self, running: Any, tmp_path: Path, bucket: str, code: int
    ) -> None:
        server = server_of(running, "moto")
        ended = archive_command(tmp_path, f"s3://{bucket}/a", server.endpoint)
        assert ended.returncode == code
        assert "Traceback" not in ended.stderr
        assert len(ended.stderr.splitlines()) == 1

    def test_a_store_that_is_away_ends_the_command_with_1(self, tmp_path: Path) -> None:
        ended = archive_command(tmp_path, "s3://archive/a", f"http://127.0.0.1:{free_port()}")
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr


class TestSources:
    def test_one_that_is_there_is_told_from_one_that_is_not(self, server: Server) -> None:
        archive = on(server, "sources")
        for name in ("a/1.pb", "b/1.pb"):
            archive.filesystem.pipe_file(f"{archive.root}/{name}", b"")
        url, options = archive.url, archive.options
        assert expand(f"{url}/a/1.pb", options) == [f"{url}/a/1.pb"]
        assert expand(f"{url}/*/1.pb", options) == [f"{url}/a/1.pb", f"{url}/b/1.pb"]
        for name in ("a/2.pb", "a", "a/2*.pb", "c/*.pb"):
            with pytest.raises(ConfigError, match=r"there is no such file$"):
                expand(f"{url}/{name}", options)

    def test_a_store_that_refuses_is_told(self, server: Server) -> None:
        archive = on(server, "refusing")
        archive.filesystem.pipe_file(f"{archive.root}/a/1.pb", b"")
        with proxy.before(server.endpoint) as wall:
            wall.choose = lambda request: "403"
            options = server.options(wall.endpoint)
            for name in ("a/1.pb", "a/*.pb", "*/1.pb"):
                with pytest.raises(StorageError, match=r": cannot be read: ") as raised:
                    expand(f"{archive.url}/{name}", options)
                assert str(raised.value).startswith(f"{archive.url}/{name}: ")
                assert not raised.value.transient

    @pytest.mark.parametrize("server", ["moto", "minio"], indirect=True)
    def test_a_folder_that_cannot_be_listed_is_not_left_out_of_a_glob(self, server: Server) -> None:
        archive = on(server, "folders")
        for name in ("a/1.pb", "b/1.pb"):
            archive.filesystem.pipe_file(f"{archive.root}/{name}", b"")
        with proxy.before(server.endpoint) as wall:
            wall.choose = lambda request: "403" if "folders%2Fb%2F" in request.path else None
            with pytest.raises(StorageError, match=r"/\*/1\.pb: cannot be read: "):
                expand(f"{archive.url}/*/1.pb", server.options(wall.endpoint))

    def test_a_store_that_is_away_may_come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(S3FileSystem, "retries", 1)
        options = s3_options(f"http://127.0.0.1:{free_port()}")
        options["config_kwargs"] = {"retries": {"max_attempts": 0}}
        for name in ("a.pb", "*.pb"):
            with pytest.raises(StorageError, match=r"^s3://archive/.*: cannot be read: ") as raised:
                expand(f"s3://archive/{name}", options)
            assert raised.value.transient

    def test_http_has_a_reason_for_what_is_not_there(self, running: dict[str, Server]) -> None:
        endpoint = server_of(running, "moto").endpoint
        with proxy.before(endpoint) as wall:
            wall.choose = lambda request: "403"
            with pytest.raises(StorageError, match="403") as raised:
                expand(f"{wall.endpoint}/archive/a.pb?X-Signature=canary")
        assert not raised.value.transient
        assert "canary" not in str(raised.value)
        with pytest.raises(ConfigError, match=r"a\.pb: there is no such file$"):
            expand(f"{endpoint}/archive/a.pb")
        with pytest.raises(StorageError) as raised:
            expand(f"http://127.0.0.1:{free_port()}/archive/a.pb?X-Signature=canary")
        assert raised.value.transient


def archive_command(
    folder: Path, url: str, endpoint: str, payload: bytes = b""
) -> subprocess.CompletedProcess[str]:
    source = folder / "in.delimited"
    source.write_bytes(bytes([len(payload)]) + payload if payload else b"")
    command = [sys.executable, "-m", "cdpgen", "archive", "--table", "stellar.v1.Event"]
    command += ["--from", str(source), "--to", url]
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": "canary-session-token",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


class TestSecrets:
    def test_nothing_that_comes_out_holds_one(
        self, running: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
    ) -> None:
        caplog.set_level(logging.WARNING)
        server = server_of(running, "moto")
        message = Event(id="1").SerializeToString()
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, "secrets")
            archive.options["token"] = "canary-session-token"
            journal = tmp_path / "journal"
            with EventWriter(
                archive.url, storage_options=archive.options, journal=journal
            ) as writer:
                wall.spoil_writes("503")
                writer.write(message)
                writer.write(b"\xff")
                writer.flush()
                kept = [path for path in journal.rglob("*") if path.is_file()]
                texts = [path.read_text("latin-1") for path in kept]
                assert archive.url in "".join(texts)  # it is there, and was looked at
            texts += [writer.url, repr(writer), json.dumps(archive.names())]
            wall.spoil_writes("403")
            with pytest.raises(StorageError) as raised:
                open_storage(archive.url, writer_id(), archive.options)
            texts += [str(raised.value), repr(raised.value)]
        texts += [archive.read(name).decode("latin-1") for name in archive.names()]
        ended = archive_command(tmp_path, "s3://archive/secrets-2", server.endpoint, message)
        assert ended.returncode == 0, ended.stderr
        seen = capfd.readouterr()
        texts += [ended.stdout, ended.stderr, caplog.text, seen.out, seen.err]
        assert "canary" not in "".join(texts)

    def test_the_address_of_an_upload_is_not_repeated(self, server: Server) -> None:
        with proxy.before(server.endpoint) as wall:
            archive = behind(server, wall, "address")
            storage = open_storage(archive.url, writer_id(), archive.options)
            upload = storage.create("t/f-w-000001.parquet")
            upload.write(bytes(20_000_000))
            upload.drain()
            wall.spoil_writes("403")
            with pytest.raises(StorageError) as raised:
                upload.publish()
            upload.discard()
            storage.close()
        assert "upload_id=" not in str(raised.value).replace("upload_id=***", "")
        assert store_other.GONE not in str(raised.value)


class TestCommands:
    """What looks at an archive takes the options of its store as what writes it does."""

    @pytest.mark.parametrize("name", ["moto", "gcp-storage-emulator"])
    def test_each_reaches_an_archive_at_an_endpoint_of_its_own(
        self, running: dict[str, Server], name: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        archive = on(server_of(running, name), "commands")
        with EventWriter(archive.url, storage_options=archive.options) as writer:
            writer.write_many([event(1), event(2), b"\xff"])
        texts = {key: value for key, value in archive.options.items() if isinstance(value, str)}
        given = [f"--set=storage_options.{key}={value}" for key, value in texts.items()]
        if name == "moto":
            given.append("--set=region=eu-central-1")
        said = {}
        for command in (
            ["inspect", archive.url],
            ["dead-letters", "list", archive.url],
            ["dead-letters", "show", archive.url],
            ["upgrade", archive.url, "--generated", str(ROOT / "generated")],
            ["replay", archive.url, "--generated", str(ROOT / "generated"), "--format=ndjson"],
            ["sql", archive.url, "--generated", str(ROOT / "generated")],
            ["dead-letters", "retry", archive.url, "--generated", str(ROOT / "generated")],
        ):
            with pytest.raises(SystemExit) as ended:
                main([*command, *given])
            found = capfd.readouterr()
            assert ended.value.code == 0, (command, found.err)
            said[" ".join(command[:2])] = found.out
        assert said[f"replay {archive.url}"].count("\n") == 2
        assert "stellar.v1.Event" in said[f"inspect {archive.url}"]
        assert "stellar_v1" in said[f"sql {archive.url}"]
        assert "1 x" in said["dead-letters list"]
