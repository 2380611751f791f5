"""What a path names, how inputs are opened, and how standard input ends."""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import gzip
import io
import os
import pty
import random
import re
import resource
import sys
import threading
import time
import tty
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from cdp_runtime.archive import _Stop
from cdp_runtime.config import ConfigError, SourceConfig
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.positions import Prefix
from cdp_runtime.sources import Batch, Never, Stop, inputs_of, read_inputs
from cdp_runtime.sources.files import (
    BLOCK,
    Reader,
    _Decompressed,
    compression_of,
    expand,
    open_input,
    rest_of,
)
from cdp_runtime.storage import StorageError
from generated.stellar.v1.event_pb2 import Event
from tests.faults.failing_store import FailingStore

DATA = bytes(range(256)) * 4_000

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}

NOISE = random.Random(7).randbytes(1 << 19).hex().encode()

DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda data: data[:-9],
    lambda data: data[: len(data) // 3] + b"\xff" * (len(data) // 3) + data[-(len(data) // 3) :],
    lambda data: b"\0" * 100,
]


def read(path: str | os.PathLike[str]) -> bytes:
    with open_input(os.fspath(path), Never()) as reader:
        return drain(reader)


def drain(reader: Reader) -> bytes:
    data = bytearray()
    buffer = bytearray(100_000)
    while got := reader.readinto(memoryview(buffer)):
        data += buffer[:got]
    return bytes(data)


def read_to_the_break(path: str, stop: Stop | None = None) -> tuple[bytes, OSError]:
    """What is given of an input before the error in which it ends, and that error."""
    data = bytearray()
    buffer = bytearray(BLOCK)
    with open_input(path, stop or Never()) as reader:
        try:
            while got := reader.readinto(memoryview(buffer)):
                data += buffer[:got]
        except OSError as error:
            return bytes(data), error
    raise AssertionError("it has not broken")


def byte_by_byte(codec: str, packed: bytes) -> bytes:
    """What Python's own codec makes of damaged data before it fails."""
    decompressor: Any = zlib.decompressobj(31) if codec == "gz" else bz2.BZ2Decompressor()
    data = bytearray()
    with contextlib.suppress(zlib.error, OSError):
        for byte in packed:
            data += decompressor.decompress(bytes([byte]))
    return bytes(data)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A pipe as standard input; the end to write to."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as file:
        monkeypatch.setattr("sys.stdin", file)
        yield write_end


class TestCompressionOf:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("a.pb.gz", ("gzip", "gz")),
            ("a.pb.ZST", ("zstd", "ZST")),
            ("s3://bucket/a.ndjson.bz2", ("bz2", "bz2")),
            ("a.pb", None),
            ("gz", ("gzip", "gz")),
            ("-", None),
        ],
    )
    def test_the_extension_tells(self, path: str, expected: tuple[str, str] | None) -> None:
        assert compression_of(path) == expected


class TestExpand:
    def test_a_glob_names_its_files_in_the_order_of_names(self, tmp_path: Path) -> None:
        for name in ("b.pb", "a.pb", "c.txt"):
            (tmp_path / name).touch()
        (tmp_path / "d.pb").mkdir()
        assert expand(f"{tmp_path}/*.pb") == [f"{tmp_path}/a.pb", f"{tmp_path}/b.pb"]

    def test_a_file_whose_name_looks_like_a_glob_is_itself(self, tmp_path: Path) -> None:
        for name in ("[ab].pb", "a.pb"):
            (tmp_path / name).touch()
        assert expand(f"{tmp_path}/[ab].pb") == [f"{tmp_path}/[ab].pb"]

    def test_the_home_directory_is_known(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "a.pb").touch()
        assert expand("~/a.pb") == [f"{tmp_path}/a.pb"]

    def test_urls_are_looked_up_in_their_store(self) -> None:
        store = fsspec.filesystem("memory")
        store.pipe({"/expand/b.pb": b"", "/expand/a.pb": b"", "/expand/c.txt": b""})
        assert expand("memory://expand/*.pb") == ["memory:///expand/a.pb", "memory:///expand/b.pb"]
        assert expand("memory://expand/c.txt") == ["memory:///expand/c.txt"]

    def test_what_is_not_there_is_told(self, tmp_path: Path) -> None:
        for path in (f"{tmp_path}/*.pb", f"{tmp_path}/a.pb", "memory://nothing/a.pb"):
            with pytest.raises(ConfigError) as raised:
                expand(path)
            assert str(raised.value) == f"{path}: there is no such file"

    @pytest.mark.parametrize(
        ("error", "transient"), [(PermissionError("no"), False), (TimeoutError(), True)]
    )
    def test_a_store_that_does_not_tell_has_not_none(
        self, error: OSError, transient: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FailingStore.empty()
        for name in "ab":
            fsspec.filesystem("failing").pipe(f"/x/{name}/1.pb", b"")
        files = [f"failing:///x/{name}/1.pb" for name in "ab"]
        assert expand("failing://x/*/1.pb") == files

        def look(self: FailingStore, path: str, **options: Any) -> Any:
            if path.endswith("/b/1.pb"):
                raise error
            return info(self, path, **options)

        def list_(self: FailingStore, path: str, **options: Any) -> Any:
            if path.endswith("/b"):
                raise error
            return ls(self, path, **options)

        # as most filesystems have it: folder by folder
        monkeypatch.setattr(FailingStore, "find", fsspec.AbstractFileSystem.find)
        info, ls = FailingStore.info, FailingStore.ls
        for name, failing, urls in (("info", look, [files[1]]), ("ls", list_, [])):
            with monkeypatch.context() as patched:
                patched.setattr(FailingStore, name, failing)
                for url in ("failing://x/*/1.pb", *urls):
                    with pytest.raises(StorageError, match=f"^{re.escape(url)}: ") as raised:
                        expand(url)
                    assert raised.value.transient is transient
        assert expand("failing://x/*/1.pb") == files

    def test_a_folder_is_told_with_what_to_write(self, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"is a folder; name its files, for example .*/\*\.pb"
        ):
            expand(str(tmp_path))


class TestOpenInput:
    @pytest.mark.parametrize("codec", COMPRESS)
    def test_compressed_files_are_decompressed(self, tmp_path: Path, codec: str) -> None:
        path = tmp_path / f"a.pb.{codec}"
        path.write_bytes(COMPRESS[codec](DATA))
        assert read(path) == DATA

    @pytest.mark.parametrize("codec", COMPRESS)
    def test_files_that_were_appended_to_each_other_are_read_to_the_end(
        self, tmp_path: Path, codec: str
    ) -> None:
        path = tmp_path / f"a.pb.{codec}"
        path.write_bytes(COMPRESS[codec](DATA) + COMPRESS[codec](DATA[::-1]))
        assert read(path) == DATA + DATA[::-1]

    @pytest.mark.parametrize("codec", COMPRESS)
    @pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"junk"])
    def test_a_damaged_one_is_an_error_that_names_it(
        self, tmp_path: Path, codec: str, damage: Callable[[bytes], bytes]
    ) -> None:
        path = tmp_path / f"a.pb.{codec}"
        path.write_bytes(damage(COMPRESS[codec](DATA)))
        with pytest.raises(OSError, match=f"^{path}: .*(stream|header|magic|frame)"):
            read(path)

    @pytest.mark.parametrize("codec", COMPRESS)
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_what_the_codec_gives_before_the_break_is_read(
        self, tmp_path: Path, codec: str, damage: Callable[[bytes], bytes]
    ) -> None:
        path = tmp_path / f"a.pb.{codec}"
        path.write_bytes(COMPRESS[codec](DATA) * 2 + damage(COMPRESS[codec](NOISE)))
        given, error = read_to_the_break(str(path))
        assert given.startswith(DATA * 2)
        assert str(error).startswith(f"{path}: ")

    @pytest.mark.parametrize("codec", COMPRESS)
    @pytest.mark.parametrize("parts", [[b"", DATA], [DATA, b"", b"", NOISE, b""], [b""]])
    def test_members_of_nothing_are_no_break(
        self, tmp_path: Path, codec: str, parts: list[bytes]
    ) -> None:
        path = tmp_path / f"a.pb.{codec}"
        path.write_bytes(b"".join(map(COMPRESS[codec], parts)))
        assert read(path) == b"".join(parts)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("codec", ["gz", "bz2"])
    def test_it_is_all_that_the_codec_gives(self, tmp_path: Path, codec: str, share: float) -> None:
        packed = COMPRESS[codec](NOISE * 3)
        path = tmp_path / f"a.pb.{codec}"
        path.write_bytes(packed[: int(len(packed) * share)])
        given, _ = read_to_the_break(str(path))
        assert given == byte_by_byte(codec, path.read_bytes())

    def test_the_codec_gives_more_when_it_is_asked_byte_by_byte(self, tmp_path: Path) -> None:
        # with the checksum wrong, what is made of the last bytes is more than a block of it
        packed = gzip.compress(DATA * 5)
        path = tmp_path / "a.pb.gz"
        path.write_bytes(packed[:-8] + bytes(8))
        given, error = read_to_the_break(str(path))
        assert given == byte_by_byte("gz", path.read_bytes()) == DATA * 5
        assert "incorrect data check" in str(error)

    def test_what_came_before_an_error_of_the_disk_is_read(self, tmp_path: Path) -> None:
        class Failing(io.BytesIO):
            def readinto(self, buffer: Any, /) -> int:
                if self.tell() > 300_000:
                    raise OSError("the disk fails")
                return super().readinto(buffer)

        packed = gzip.compress(NOISE)
        reader = _Decompressed(Failing(packed), "gzip", Never())
        data = bytearray(len(NOISE))
        got = reader.readinto(memoryview(data))
        assert data[:got] == byte_by_byte("gz", packed[: 5 << 16])
        with pytest.raises(OSError, match="the disk fails"):
            reader.readinto(memoryview(data))

    def test_a_stop_ends_the_second_read_of_one_that_breaks(self) -> None:
        class Stopping(io.BytesIO):
            def seek(self, *place: int) -> int:
                stop.requested = True
                return super().seek(*place)

            def readinto(self, buffer: Any, /) -> int:
                nonlocal read
                got = super().readinto(buffer)
                read += got
                return got

        stop, read = Asked(), 0
        packed = gzip.compress(NOISE * 9)[:-9]
        reader = _Decompressed(Stopping(packed), "gzip", stop)
        with pytest.raises(OSError, match="Truncated"):
            drain(reader)
        assert read == len(packed)

    def test_a_url_that_breaks_is_read_to_there(self) -> None:
        packed = gzip.compress(NOISE)[:-9_000]
        fsspec.filesystem("memory").pipe("/broken/a.pb.gz", packed)
        given, _ = read_to_the_break("memory://broken/a.pb.gz")
        assert given == byte_by_byte("gz", packed)

    @pytest.mark.parametrize("codec", COMPRESS)
    def test_of_a_pipe_no_more_than_a_step_before_the_break_is_dropped(
        self, tmp_path: Path, codec: str
    ) -> None:
        path = tmp_path / f"a.pb.{codec}"
        os.mkfifo(path)
        packed = COMPRESS[codec](DATA) + COMPRESS[codec](NOISE)[:-9]
        sender = threading.Thread(target=lambda: path.write_bytes(packed))
        sender.start()
        with _Stop() as stop:
            given, _ = read_to_the_break(str(path), stop)
        sender.join()
        assert (DATA + NOISE).startswith(given)
        # of zstd and bz2 a block comes as a whole or not at all
        assert len(given) > len(DATA) + (len(NOISE) if codec == "gz" else 0) - 3 * 4096

    def test_an_empty_file_is_empty(self, tmp_path: Path) -> None:
        (tmp_path / "a.pb").touch()
        assert read(tmp_path / "a.pb") == b""

    @pytest.mark.parametrize("error", [RuntimeError("sig=canary"), FileNotFoundError("a.pb")])
    def test_one_that_cannot_be_opened_is_an_error_that_names_it_without_secrets(
        self, error: Exception
    ) -> None:
        FailingStore.empty()
        FailingStore.plan = lambda call, name, done: error if name == "open" else None
        with pytest.raises(StorageError, match=r"^failing://a\.pb\?sig=\*\*\*: ") as raised:
            read("failing://a.pb?sig=canary")
        FailingStore.plan = None
        assert "canary" not in str(raised.value)

    def test_a_url_is_read_from_its_store_decompressed(self) -> None:
        fsspec.filesystem("memory").pipe("/open/a.pb.gz", gzip.compress(DATA))
        assert read("memory://open/a.pb.gz") == DATA


class TestRestOf:
    def test_it_gives_every_byte_again_in_pieces(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pb"
        path.write_bytes(DATA * 3)
        with open_input(str(path), Never()) as reader:
            letters = list(rest_of(reader, b"start", "a.pb", 7, "lost"))
        assert b"".join(one.payload or b"" for one in letters) == b"start" + DATA * 3
        assert max(len(one.payload or b"") for one in letters) == 1 << 20
        assert [one.position for one in letters] == list(range(7, 7 + len(letters)))
        assert {(one.source, one.reason) for one in letters} == {("a.pb", "lost")}


class TestStandardInput:
    def test_it_gives_what_was_sent_before_more_comes(self, sent: int) -> None:
        with _Stop() as stop, open_input("-", stop) as reader:
            buffer = bytearray(100)
            for text in (b"one", b"two"):
                os.write(sent, text)
                assert reader.readinto(memoryview(buffer)) == 3
                assert buffer[:3] == text
            os.close(sent)
            assert reader.readinto(memoryview(buffer)) == 0

    def test_a_request_to_stop_ends_the_wait_and_what_was_sent_is_read(self, sent: int) -> None:
        with _Stop() as stop, open_input("-", stop) as reader:
            os.write(sent, b"sent")
            timer = threading.Timer(0.1, lambda: stop._ask(15, None))
            timer.start()
            assert drain(reader) == b"sent"
            timer.join()
        os.close(sent)

    def test_after_a_stop_no_more_is_read_than_a_pipe_holds(self, sent: int) -> None:
        ended = threading.Event()

        def flood() -> None:
            try:
                while True:
                    os.write(sent, bytes(1 << 16))
            except BrokenPipeError:
                ended.set()

        with _Stop() as stop, open_input("-", stop) as reader:
            stop._ask(15, None)
            thread = threading.Thread(target=flood)
            thread.start()
            read_after = len(drain(reader))
        assert read_after < (1 << 20) + 100_000
        sys.stdin.close()
        thread.join(10)
        assert ended.is_set()
        os.close(sent)

    def test_its_descriptor_may_have_any_number(
        self, sent: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
        try:
            high = fcntl.fcntl(sys.stdin, fcntl.F_DUPFD_CLOEXEC, 1_024)
            os.write(sent, b"sent")
            os.close(sent)
            with os.fdopen(high) as file, _Stop() as stop:
                monkeypatch.setattr("sys.stdin", file)
                with open_input("-", stop) as reader:
                    assert drain(reader) == b"sent"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class TestNamedPipe:
    @pytest.mark.timeout(30)
    @pytest.mark.parametrize("name", ["a.pb", "a.pb.gz", "a.pb.zst"])
    def test_a_stop_ends_the_wait_for_somebody_who_writes(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / name)
        with _Stop() as stop:
            stop.limit(60, None)
            timer = threading.Timer(0.2, lambda: stop._ask(15, None))
            timer.start()
            with open_input(str(tmp_path / name), stop) as reader:
                assert drain(reader) == b""
            timer.join()

    def test_who_comes_late_and_writes_slowly_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pb"
        os.mkfifo(path)

        def send() -> None:
            time.sleep(0.2)
            with path.open("wb", buffering=0) as file:
                for text in (b"one ", b"two ", b"three"):
                    time.sleep(0.1)
                    file.write(text)

        sender = threading.Thread(target=send)
        sender.start()
        with _Stop() as stop, open_input(str(path), stop) as reader:
            assert drain(reader) == b"one two three"
        sender.join()


class TestDevice:
    @pytest.mark.timeout(30)
    def test_a_stop_ends_the_wait_for_more_and_what_was_sent_is_read(self) -> None:
        here, there = pty.openpty()
        tty.setraw(there)
        try:
            with _Stop() as stop, open_input(os.ttyname(there), stop) as reader:
                stop.limit(60, None)
                os.write(here, b"sent")
                timer = threading.Timer(0.2, lambda: stop._ask(15, None))
                timer.start()
                assert drain(reader) == b"sent"
                timer.join()
        finally:
            os.close(here)
            os.close(there)

    def test_one_that_never_ends_is_left_soon_after_a_stop(self) -> None:
        with _Stop() as stop, open_input("/dev/zero", stop) as reader:
            stop.limit(60, None)
            stop._ask(15, None)
            assert len(drain(reader)) < (1 << 20) + 100_000


class TestInputsOf:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            *(("a.pb", "delimited"), ("a.binpb", "delimited"), ("a.delimited", "delimited")),
            *(("a.ndjson", "ndjson"), ("a.jsonl", "ndjson"), ("a.JSONL.gz", "ndjson")),
        ],
    )
    def test_the_extension_tells_the_format(self, tmp_path: Path, name: str, expected: str) -> None:
        (tmp_path / name).touch()
        (found,) = inputs_of([SourceConfig(path=str(tmp_path / name))])
        assert found.format == expected

    def test_the_format_that_is_asked_for_counts_more(self, tmp_path: Path) -> None:
        (tmp_path / "a.pb").touch()
        (found,) = inputs_of([SourceConfig(path=str(tmp_path / "a.pb"), format="ndjson")])
        assert found.format == "ndjson"

    def test_a_name_that_tells_nothing_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").touch()
        with pytest.raises(ConfigError, match="its name does not tell the format: say delimited"):
            inputs_of([SourceConfig(path=str(tmp_path / "a.bin"))])

    def test_all_names_of_a_file_are_one_input_and_other_files_are_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("-", "a.pb", "b.pb"):
            Path(name).touch()
        Path("hard.pb").hardlink_to("a.pb")
        Path("soft.pb").symlink_to("hard.pb")
        url = Path("hard.pb").absolute().as_uri()
        paths = ["-", "a.pb", "b.pb", "hard.pb", "soft.pb", url, "./-"]
        inputs = inputs_of([SourceConfig(path=path, format="delimited") for path in paths])
        assert [one.path for one in inputs] == ["-", "a.pb", "b.pb", "./-"]

    def test_standard_input_must_be_told_its_format(self) -> None:
        with pytest.raises(ConfigError, match=r"standard input \(-\) does not tell its format"):
            inputs_of([SourceConfig(path="-")])
        (found,) = inputs_of([SourceConfig(path="-", format="delimited")])
        assert found.format == "delimited"


class Asked:
    """A request to stop that comes when it is set."""

    def __init__(self) -> None:
        self.requested = False

    def fileno(self) -> int:
        raise AssertionError("nothing waits")


class TestReadInputs:
    @pytest.fixture
    def inputs(self, tmp_path: Path) -> list[Any]:
        (tmp_path / "a.ndjson").write_text('{"id": "1"}\nno json\n')
        (tmp_path / "b.pb.gz").write_bytes(gzip.compress(b"\x03*\x012"))
        return inputs_of([SourceConfig(path=f"{tmp_path}/{name}") for name in ("a*", "b*")])

    def test_inputs_come_one_after_the_other_each_by_its_format(self, inputs: list[Any]) -> None:
        lines, letter, blocks = read_inputs(inputs, lambda: Event, Asked())
        assert isinstance(letter, DeadLetter)
        assert letter.payload == b"no json"
        assert isinstance(lines, Batch)
        assert Event.FromString(lines.payloads[0]).id == "1"
        assert isinstance(blocks, Batch)
        assert Event.FromString(blocks.payloads[0].as_py()).id == "2"
        assert [source.rpartition("#")[0] for source in (lines.source, blocks.source)] == [
            one.path for one in inputs
        ]

    def test_a_stop_while_it_is_looked_up_whether_one_is_known_leaves_it_unbegun(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.ndjson").write_text('{"id": "1"}\n' * 300_000)
        inputs = inputs_of([SourceConfig(path=f"{tmp_path}/a.ndjson")])
        known: dict[str, Prefix] = {}
        assert list(read_inputs(inputs, lambda: Event, Asked(), note=known.__setitem__))
        stop, opened, noted = Asked(), [], []

        class Counting:
            def __init__(self, reader: Reader) -> None:
                self._reader = reader
                self.blocks = 0
                opened.append(self)

            def readinto(self, buffer: memoryview, /) -> int | None:
                self.blocks += 1
                stop.requested = len(opened) == 2
                return self._reader.readinto(buffer)

        @contextlib.contextmanager
        def open_counting(*arguments: Any) -> Iterator[Reader]:
            with open_input(*arguments) as reader:
                yield Counting(reader)

        monkeypatch.setattr("cdp_runtime.sources.files.open_input", open_counting)
        items = read_inputs(
            inputs, lambda: Event, stop, known=known, note=lambda *told: noted.append(told)
        )
        assert list(items) == noted == []
        assert [one.blocks for one in opened] == [1, 1]

    def test_files_are_left_at_a_request_to_stop(self, inputs: list[Any]) -> None:
        stop = Asked()
        items = read_inputs(inputs, lambda: Event, stop)
        next(items)
        stop.requested = True
        assert list(items) == []
