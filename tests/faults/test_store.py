"""The store fails: what passes is waited out, what does not is told, and nothing is lost or there twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cdp_runtime import pipeline as pipeline_module
from cdp_runtime.journal import Frame, Journal, encode
from cdp_runtime.patience import Patience
from cdp_runtime.resume import published
from cdp_runtime.storage import StorageError
from cdp_runtime.writer import WriterFailed
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks
from tests.faults.failing_store import FailingStore

URL = "failing://bucket/archive"
MESSAGES = 600
STEP = 1 if os.environ.get("CDPGEN_NIGHTLY") else 3
"""Of the calls to the store, one in so many is tried."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Patience, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(Patience, "LONGEST_WAIT", 0.01)
    FailingStore.empty()
    yield
    FailingStore.empty()


def numbers() -> list[int]:
    """The messages in the store, rows and dead letters, sorted."""
    store, found = FailingStore(), []
    plan, FailingStore.plan = FailingStore.plan, None
    for path in store.find("/bucket/archive"):
        if path.endswith(".parquet") and "/_tmp/" not in path:
            table = pq.read_table(pa.BufferReader(store.cat_file(path)))
            if "_dead_letter" in path:
                found += [int(one[1:]) for one in table["payload"].to_pylist()]
            else:
                found += pc.cast(table["code"], pa.int64()).to_pylist()
    FailingStore.plan = plan
    return sorted(found)


def write(journal: Path | None = None) -> AssetDetailsWriter:
    """Writes messages into the store; small row groups and files."""
    with AssetDetailsWriter(
        URL,
        row_group_mb=0.01,
        max_file_rows=300,
        journal=None if journal is None else str(journal),
    ) as writer:
        for start in range(0, MESSAGES, 100):
            writer.write_many([checks.payload(n) for n in range(start, start + 100)])
            if journal is not None or start == 300:
                writer.flush()
    return writer


def calls_of_a_run() -> int:
    write()
    calls = FailingStore.calls
    FailingStore.empty()
    return calls


class TestWhatPasses:
    @pytest.mark.parametrize("after", [False, True])
    def test_each_call_in_turn_may_fail_before_or_after_it_was_done(self, after: bool) -> None:
        calls = calls_of_a_run()
        for failing in range(1, calls + 1, STEP):
            FailingStore.empty()
            FailingStore.plan = lambda call, name, done, failing=failing: (
                ConnectionResetError(104, "reset") if call == failing and done == after else None
            )
            try:
                write()
            except StorageError:  # it could not even start, and nothing was taken
                assert numbers() == []
                write()
            assert numbers() == list(range(MESSAGES)), failing

    def test_a_slow_store_makes_the_caller_wait_and_no_more(self) -> None:
        FailingStore.plan = lambda call, name, done: time.sleep(0.002)
        with AssetDetailsWriter(URL, max_file_rows=50, buffer_size=20) as writer:
            for number in range(MESSAGES):
                writer.write(checks.payload(number))
        assert numbers() == list(range(MESSAGES))

    def test_a_store_that_is_away_pauses_the_writer_and_it_goes_on_by_itself(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        away = threading.Event()
        FailingStore.plan = lambda call, name, done: (
            ConnectionRefusedError(111, "refused") if away.is_set() and not done else None
        )
        with AssetDetailsWriter(URL) as writer:
            away.set()
            writer.write_many([checks.payload(n) for n in range(MESSAGES)])
            flushing = threading.Thread(target=writer.flush)
            flushing.start()
            until = time.monotonic() + 10
            while writer.metrics.healthy and time.monotonic() < until:
                time.sleep(0.005)
            assert not writer.metrics.healthy
            assert flushing.is_alive()
            away.clear()
            flushing.join(10)
            assert writer.metrics.healthy
        assert numbers() == list(range(MESSAGES))
        events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
        assert "failed, trying again" in events
        assert "paused until the store is back" in events
        assert events[-1] == "resumed"

    def test_with_a_journal_flush_returns_while_the_store_is_away(self, tmp_path: Path) -> None:
        away = threading.Event()
        FailingStore.plan = lambda call, name, done: (
            ConnectionRefusedError(111, "refused") if away.is_set() and not done else None
        )
        with AssetDetailsWriter(URL, journal=str(tmp_path), max_file_rows=10) as writer:
            away.set()
            for start in range(0, MESSAGES, 100):
                writer.write_many([checks.payload(n) for n in range(start, start + 100)])
                writer.flush()
            assert numbers() == []
            away.clear()
        assert numbers() == list(range(MESSAGES))

    def test_a_recovery_waits_for_what_it_asks_of_the_store(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = write()
        left = Journal(tmp_path, checks.TABLE, before._pipeline._identity, URL, 1 << 20)
        left.append(encode(Frame("s", [checks.payload(MESSAGES + 1)], range(1))), 1)
        left.close()
        attempts = 0
        failing = []

        def attempt(*arguments: Any) -> Any:
            """Each fails one call later than the one before."""
            nonlocal attempts
            attempts += 1
            FailingStore.calls = 0
            FailingStore.plan = lambda call, name, done: (
                ConnectionResetError(104, "reset") if call == attempts and not done else None
            )
            try:
                return published(*arguments)
            finally:
                failing.append(FailingStore.calls >= attempts)
                FailingStore.plan = None

        monkeypatch.setattr(pipeline_module, "published", attempt)
        AssetDetailsWriter(URL, journal=str(tmp_path)).close()
        assert failing == [True] * (attempts - 1) + [False]
        assert attempts > 3
        assert numbers() == [*range(MESSAGES), MESSAGES + 1]
        assert not list(tmp_path.glob("*/*"))

    def test_a_close_that_runs_out_of_time_leaves_the_rest_to_the_journal(
        self, tmp_path: Path
    ) -> None:
        away = threading.Event()
        FailingStore.plan = lambda call, name, done: (
            ConnectionRefusedError(111, "refused") if away.is_set() and not done else None
        )
        writer = AssetDetailsWriter(URL, journal=str(tmp_path), max_file_rows=100)
        writer.write_many([checks.payload(n) for n in range(MESSAGES // 2)])
        writer.flush()
        away.set()
        writer.write_many([checks.payload(n) for n in range(MESSAGES // 2, MESSAGES)])
        began = time.monotonic()
        with pytest.raises(
            WriterFailed, match="in the time there was; the rest is left to the journal"
        ):
            writer.close(0.2)
        assert time.monotonic() - began < 3
        with pytest.raises(WriterFailed):
            writer.close()
        away.clear()
        assert len(numbers()) < MESSAGES
        AssetDetailsWriter(URL, journal=str(tmp_path)).close()
        assert numbers() == list(range(MESSAGES))


class TestWhatDoesNot:
    @pytest.mark.parametrize("after", [False, True])
    def test_each_call_in_turn_may_fail_for_good_and_the_journal_has_the_rest(
        self, after: bool, tmp_path: Path
    ) -> None:
        calls = calls_of_a_run()
        failed = 0
        for failing in range(1, calls + 1, STEP):
            FailingStore.empty()
            journal = tmp_path / str(failing)
            FailingStore.plan = lambda call, name, done, failing=failing: (
                PermissionError(13, "forbidden") if call >= failing and done == after else None
            )
            try:
                write(journal)
            except (WriterFailed, OSError):
                failed += 1
            FailingStore.plan = None
            before = numbers()
            assert len(before) == len(set(before))
            if list(journal.glob("*/*/*.log")):
                AssetDetailsWriter(URL, journal=str(journal)).close()
                there = numbers()
                assert len(there) == len(set(there))
                # all that was flushed, and perhaps what was written just before it failed
                assert there == list(range(len(there)))
                assert len(there) % 100 == 0
            assert not list(journal.glob("*/*"))
        assert failed > 5

    def test_a_recovery_that_cannot_read_what_is_published_says_so_and_leaves_the_journal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = Journal(tmp_path, checks.TABLE, "w", URL, 1 << 20)
        left.append(encode(Frame("s", [checks.payload(1)], range(1))), 1)
        left.close()

        def refuse(*_: Any) -> None:
            raise PermissionError(13, "Permission denied", "/a/b.parquet")

        with monkeypatch.context() as patched:
            patched.setattr(pipeline_module, "published", refuse)
            with pytest.raises(StorageError, match="cannot be read") as raised:
                AssetDetailsWriter(URL, journal=str(tmp_path))
        assert not raised.value.transient
        AssetDetailsWriter(URL, journal=str(tmp_path)).close()
        assert numbers() == [1]

    def test_the_next_call_of_the_caller_tells_what_it_was(self) -> None:
        writer = AssetDetailsWriter(URL)
        FailingStore.plan = lambda call, name, done: PermissionError(13, "forbidden")
        writer.write(checks.payload(1))
        with pytest.raises(WriterFailed, match="forbidden") as raised:
            writer.flush()
        assert raised.value.__cause__ is not None
        for call in (writer.flush, writer.close, lambda: writer.write(b"")):
            with pytest.raises(WriterFailed, match="forbidden"):
                call()


FULL_DISK = """
import os, sys, threading, time
from cdp_runtime import pipeline as pipeline_module
from cdp_runtime.journal import Frame, Journal, encode
from cdp_runtime.patience import Patience
from cdp_runtime.resume import published
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks

Patience.FIRST_WAIT, Patience.LONGEST_WAIT = 0.005, 0.05
folder, where = sys.argv[1:]
with open(f"{folder}/ballast", "wb") as file:
    file.write(bytes(os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - 100_000))
options = {"max_file_rows": 4_000, "row_group_mb": 0.05, "compression": "none"}
archive = f"{folder}/archive"
if where == "journal":
    archive, options["journal"] = "/tmp/%d" % os.getpid(), f"{folder}/journal"
with AssetDetailsWriter(archive, **options) as writer:
    def make_room():
        while writer.metrics.healthy:
            time.sleep(0.01)
        print("paused", flush=True)
        os.unlink(f"{folder}/ballast")
    thread = threading.Thread(target=make_room)
    thread.start()
    for start in range(0, 20_000, 500):
        writer.write_many([checks.payload(n) for n in range(start, start + 500)])
    writer.flush()
    thread.join()
assert writer.metrics.healthy
from pathlib import Path
assert checks.numbers_in(Path(archive)) == list(range(20_000))
print("whole", flush=True)
if where == "journal":
    import shutil
    shutil.rmtree(archive)
"""


SMALL_DISK = """
import sys
from pathlib import Path
from cdp_runtime import pipeline as pipeline_module
from cdp_runtime.journal import Frame, Journal, encode
from cdp_runtime.patience import Patience
from cdp_runtime.resume import published
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks
folder, archive = sys.argv[1:]
Patience.FIRST_WAIT = Patience.LONGEST_WAIT = 0.01
with AssetDetailsWriter(archive, journal=f"{folder}/journal") as writer:
    for start in range(0, 800_000, 10_000):
        writer.write_many([checks.payload(n) for n in range(start, start + 10_000)])
    writer.flush()
    assert writer.metrics.retries
    print("flushed", flush=True)
assert checks.numbers_in(Path(archive)) == list(range(800_000))
print("whole", flush=True)
"""

A_MOUNT_OF_ITS_OWN = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="a small disk needs a mount of one's own, which this machine does not allow",
)


def on_a_small_disk(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script where the folder is a disk of eight megabytes."""
    mount = f'mount -t tmpfs -o size=8m tmpfs "{folder}" && exec "$@"'
    python = [sys.executable, "-c", script, str(folder), *arguments]
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", *python],
        cwd=checks.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@A_MOUNT_OF_ITS_OWN
def test_a_journal_larger_than_its_disk_makes_room_by_itself(tmp_path: Path) -> None:
    """It publishes what it holds, though no file is full or old enough."""
    (tmp_path / "disk").mkdir()
    done = on_a_small_disk(tmp_path / "disk", SMALL_DISK, str(tmp_path / "a"))
    assert done.stdout.split() == ["flushed", "whole"], done.stderr[-3_000:]
    assert done.returncode == 0


DEAD_ON_A_FULL_DISK = """
import os, sys
from pathlib import Path
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks
disk, archive = map(Path, sys.argv[1:])
if not os.fork():
    writer = AssetDetailsWriter(archive, journal=str(disk / "j"))
    writer.write_many([checks.payload(number) for number in range(500)])
    writer.flush()
    with (disk / "of another").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(100))
        except OSError:
            os._exit(0)
os.wait()
assert checks.numbers_in(archive) == []
AssetDetailsWriter(archive, journal=str(disk / "j")).close()
print(checks.numbers_in(archive) == list(range(500)))
"""


@A_MOUNT_OF_ITS_OWN
def test_what_a_dead_writer_left_on_a_full_disk_is_published_and_makes_room(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    done = on_a_small_disk(tmp_path / "disk", DEAD_ON_A_FULL_DISK, str(tmp_path / "a"))
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-3_000:]


@A_MOUNT_OF_ITS_OWN
@pytest.mark.parametrize("where", ["archive", "journal"])
def test_a_full_disk_is_waited_for(where: str, tmp_path: Path) -> None:
    done = on_a_small_disk(tmp_path, FULL_DISK, where)
    assert done.stdout.split() == ["paused", "whole"], done.stderr[-3_000:]
    assert done.returncode == 0
    assert "No space left on device" in done.stderr


NO_DESCRIPTORS = """
import os, resource, sys, threading
from pathlib import Path
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
with AssetDetailsWriter(sys.argv[1], journal=sys.argv[2], max_open_files=16) as writer:
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    threading.Timer(0.5, lambda: [os.close(one) for one in taken]).start()
    writer.write(checks.payload(1))
assert writer.metrics.retries and writer.metrics.healthy
print(checks.numbers_in(Path(sys.argv[1])))
"""


def test_a_lack_of_descriptors_is_waited_for(tmp_path: Path) -> None:
    """No module can be loaded meanwhile, and none is that waiting needs."""
    arguments = [str(tmp_path / "archive"), str(tmp_path / "journal")]
    done = subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTORS, *arguments],
        cwd=checks.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr[-3_000:]
    assert "Too many open files" in done.stderr
