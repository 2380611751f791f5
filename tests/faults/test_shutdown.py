"""The end: asked for by a signal, by an exception, by a failure inside, or forgotten."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import IO, Any

import pytest

from cdp_runtime.archive import run
from cdp_runtime.journal import Journal
from cdp_runtime.parquet import PublishedFile
from cdp_runtime.store_local import LocalStorage
from cdp_runtime.writer import WriterFailed
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks
from tests.faults.failing_store import FailingStore

MESSAGES = 40_000
CDPGEN = Path(sys.executable).with_name("cdpgen")


def archive(source: str, to: Path, *options: str, **process: Any) -> subprocess.Popen[str]:
    """`cdpgen archive` as a process."""
    return subprocess.Popen(
        [
            *(str(CDPGEN), "archive", "--table", checks.TABLE, "--from", source, "--to", str(to)),
            *("--generated", str(checks.ROOT / "generated"), *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **process,
    )


def wait_until_read(pipe: IO[Any]) -> None:
    """Waits until somebody has taken out of a pipe all that is in it."""
    until = time.monotonic() + 30
    while any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))):
        assert time.monotonic() < until
        time.sleep(0.01)


def archive_into_a_store_that_goes_away(stream: str, to: str) -> None:
    """Archives until the store is gone, and exits as `cdpgen archive` does."""
    FailingStore.plan = lambda call, name, done: (
        ConnectionRefusedError(111, "refused") if name == "mv" else None
    )
    sys.exit(
        run(
            table=checks.TABLE,
            source=[stream],
            to=to,
            generated=str(checks.ROOT / "generated"),
            options={"shutdown_seconds": 0.5, "max_file_rows": 1_000, "buffer_size": 1_000},
        )
    )


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_what_was_sent_is_published_and_the_exit_is_0(
        self, number: signal.Signals, tmp_path: Path
    ) -> None:
        stream = tmp_path / "stream.pb"
        checks.write_stream(stream, range(1_000))
        process = archive("-", tmp_path / "a", "--format", "delimited", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.buffer.write(stream.read_bytes())
        process.stdin.flush()
        wait_until_read(process.stdin)  # and its input never ends
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert checks.numbers_in(tmp_path / "a") == list(range(1_000))
        assert checks.leftovers(tmp_path / "a") == []

    def test_what_cannot_be_published_in_time_is_left_to_the_next_run(self, tmp_path: Path) -> None:
        stream, log = tmp_path / "stream.pb", tmp_path / "log"
        checks.write_stream(stream, range(MESSAGES))
        process = checks.start(
            archive_into_a_store_that_goes_away, str(stream), "failing://b/a", log=log
        )
        until = time.monotonic() + 30
        while "trying again" not in (log.read_text() if log.exists() else ""):
            assert time.monotonic() < until
            time.sleep(0.01)
        began = time.monotonic()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join(30)
        assert process.exitcode == 1
        assert time.monotonic() - began < 10
        assert "not all could be published" in log.read_text()


class TestThreads:
    def test_several_producers_share_a_writer(self, tmp_path: Path) -> None:
        each = 6_000

        def produce(writer: AssetDetailsWriter, first: int) -> None:
            rng = random.Random(first)
            at = first
            while at < first + each:
                numbers = range(at, min(at + rng.randint(1, 300), first + each))
                payloads = [checks.payload(number) for number in numbers]
                if rng.random() < 0.5:
                    writer.write_many(payloads, source="s", positions=numbers)
                else:
                    for number, one in zip(numbers, payloads, strict=True):
                        writer.write(one, source="s", position=number)
                if rng.random() < 0.05:
                    writer.flush()
                at = numbers.stop

        with AssetDetailsWriter(tmp_path, buffer_size=500, row_group_mb=0.1) as writer:
            threads = [threading.Thread(target=produce, args=(writer, each * n)) for n in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)
        assert checks.numbers_in(tmp_path) == list(range(6 * each))
        assert writer.metrics.messages == 6 * each

    @pytest.mark.parametrize("journal", [False, True])
    def test_a_failure_inside_reaches_every_producer_and_nobody_waits_for_ever(
        self, journal: bool, tmp_path: Path
    ) -> None:
        def broken(file: Any) -> None:
            raise RuntimeError("the callback is broken")

        raised: list[WriterFailed] = []

        def produce(writer: AssetDetailsWriter) -> None:
            try:
                while True:
                    writer.write_many([checks.payload(n) for n in range(100)])
            except WriterFailed as failure:
                raised.append(failure)

        writer = AssetDetailsWriter(
            tmp_path / "a",
            buffer_size=200,
            max_file_rows=500,
            journal=str(tmp_path / "j") if journal else None,
            on_published=broken,
        )
        threads = [threading.Thread(target=produce, args=(writer,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(raised) == 4
        assert all("the callback is broken" in str(one) for one in raised)
        with pytest.raises(WriterFailed, match="the callback is broken"):
            writer.close()
        assert checks.leftovers(tmp_path / "a") == []
        assert bool(list((tmp_path / "j").rglob("*.log"))) == journal

    def test_closing_from_several_threads_ends_once(self, tmp_path: Path) -> None:
        writer = AssetDetailsWriter(tmp_path)
        writer.write_many([checks.payload(n) for n in range(1, 50)])
        threads = [threading.Thread(target=writer.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert checks.numbers_in(tmp_path) == list(range(1, 50))


FORGETFUL = """
import sys
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks
writer = AssetDetailsWriter(sys.argv[1], shutdown_seconds=float(sys.argv[2]))
writer.write_many([checks.payload(n) for n in range(1000)])
"""
AWAY = """
from cdp_runtime.patience import Patience
from tests.faults.failing_store import FailingStore
Patience.FIRST_WAIT = 0.01
FailingStore.plan = lambda call, name, done: (
    ConnectionRefusedError(111, "refused") if name == "mv" else None
)
"""


class TestForgotten:
    """The interpreter exits and nobody has closed the writer."""

    def run(self, script: str, to: str, seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "default", "-c", script, to, str(seconds)],
            cwd=checks.ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def test_what_was_written_is_published(self, tmp_path: Path) -> None:
        done = self.run(FORGETFUL, str(tmp_path), 30)
        assert done.returncode == 0
        assert "was not closed" in done.stderr
        assert checks.numbers_in(tmp_path) == list(range(1_000))
        assert checks.leftovers(tmp_path) == []

    def test_a_store_that_is_away_does_not_keep_the_interpreter(self) -> None:
        began = time.monotonic()
        done = self.run(AWAY + FORGETFUL, "failing://b/a", 1)
        assert done.returncode == 0
        assert time.monotonic() - began < 15
        assert "not all was written" in done.stderr


FORKED = """
import os, signal, sys
from cdp_runtime.writer import WriterFailed
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks
writer = AssetDetailsWriter(sys.argv[1], journal=sys.argv[2])
writer.write_many([checks.payload(number) for number in range(1_000)])
writer.flush()
if os.fork() == 0:
    try:
        for call in (lambda: writer.write(b""), writer.flush, writer.close):
            try:
                call()
            except WriterFailed as failure:
                assert "forked" in str(failure)
            else:
                os._exit(1)
    except BaseException:
        os._exit(2)
    sys.exit(0)
assert os.wait()[1] == 0
os.kill(os.getpid(), signal.SIGKILL)
"""


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=checks.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestInterrupted:
    """An exception that the handler of a signal raises, as `docs/embedding.md` tells to."""

    @pytest.mark.parametrize("journal", [False, True])
    def test_close_goes_on_when_it_is_called_again(self, journal: bool, tmp_path: Path) -> None:
        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        folder = tmp_path / "journal"
        before = signal.signal(signal.SIGUSR1, interrupt)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
        try:
            writer = AssetDetailsWriter(
                tmp_path / "a",
                on_published=lambda file: time.sleep(0.5),  # of three days, one after the other
                **({"journal": folder} if journal else {}),
            )
            writer.write_many([checks.payload(number) for number in range(1, 97)])
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                writer.close()
            writer.close()
        finally:
            timer.cancel()
            signal.signal(signal.SIGUSR1, before)
        assert checks.numbers_in(tmp_path / "a") == list(range(1, 97))
        assert [path for path in folder.rglob("*") if path.is_file()] == []

    @pytest.mark.parametrize("step", ["LocalStorage.close", "Journal.end"])
    @pytest.mark.parametrize("done", [False, True])
    def test_what_close_had_not_let_go_of_the_next_one_does(
        self, step: str, done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind, _, name = step.partition(".")
        of: Any = {"LocalStorage": LocalStorage, "Journal": Journal}[kind]
        real = getattr(of, name)

        def interrupted(self: Any) -> None:
            monkeypatch.undo()
            if done:
                real(self)
            raise KeyboardInterrupt

        writer = AssetDetailsWriter(tmp_path / "a", journal=tmp_path / "j")
        writer.write(checks.payload(1))
        monkeypatch.setattr(of, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.close()
        writer.close()
        assert checks.numbers_in(tmp_path / "a") == [1]
        assert checks.leftovers(tmp_path / "a") == []
        assert list((tmp_path / "j" / checks.TABLE).iterdir()) == []

    def test_a_recovery_is_made_again_and_nothing_of_the_first_is_left(
        self, tmp_path: Path
    ) -> None:
        script = """
import os, signal, sys
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks

writer = AssetDetailsWriter(sys.argv[1], journal=sys.argv[2])
writer.write_many([checks.payload(number) for number in range(1, 97)])
writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
        assert python(script, str(tmp_path / "a"), str(tmp_path / "j")).returncode < 0
        slow = threading.Event()
        lock = threading.Lock()

        def once(file: PublishedFile) -> None:
            if lock.acquire(blocking=False):  # of three days, the first
                slow.wait(1)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, interrupt)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1))
        options: Any = {"journal": tmp_path / "j", "on_published": once}
        try:
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                AssetDetailsWriter(tmp_path / "a", **options)
            AssetDetailsWriter(tmp_path / "a", **options).close()
        finally:
            timer.cancel()
            signal.signal(signal.SIGUSR1, before)
        assert checks.numbers_in(tmp_path / "a") == list(range(1, 97))

    def test_a_program_that_ends_by_it_closes_its_writer(self, tmp_path: Path) -> None:
        script = """
import os, signal, sys, threading, time
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
slow = lambda file: time.sleep(0.5)
with AssetDetailsWriter(sys.argv[1], on_published=slow) as writer:
    writer.write_many([checks.payload(number) for number in range(1, 97)])
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
"""
        ended = python(script, str(tmp_path / "a"))
        assert ended.returncode == 0, ended.stderr
        assert checks.numbers_in(tmp_path / "a") == list(range(1, 97))

    def test_a_handler_that_would_wait_for_what_it_has_interrupted_is_refused(
        self, tmp_path: Path
    ) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            writer.write(checks.payload(1))
            for lock in (writer._pipeline.intake._lock, writer._pipeline._closing):
                with lock:  # as in the midst of a write, or a close
                    for call in (writer.flush, writer.close):
                        with pytest.raises(RuntimeError, match="raise an exception there"):
                            call()
            writer.flush()
        assert checks.numbers_in(tmp_path) == [1]


def test_a_process_that_is_forked_off_leaves_the_writer_alone(tmp_path: Path) -> None:
    done = python(FORKED, str(tmp_path / "a"), str(tmp_path / "j"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not checks.files(tmp_path / "a")
    AssetDetailsWriter(tmp_path / "a", journal=tmp_path / "j").close()
    assert checks.numbers_in(tmp_path / "a") == list(range(1_000))


IMPORTED = """
import sys
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
assert "pandas" not in sys.modules
from tests.faults import checks
writer = AssetDetailsWriter(sys.argv[1], journal=sys.argv[2])
before = set(sys.modules)
writer.write_many([checks.payload(1), b"?"])
writer.close()
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - {"google"}))
"""


def test_the_threads_of_a_writer_import_nothing_of_pyarrows(tmp_path: Path) -> None:
    """The lock of an import is copied to a process that is forked off, where nobody lets go of it."""
    done = python(IMPORTED, str(tmp_path / "a"), str(tmp_path / "j"))
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


FORGOTTEN = """
import threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults.failing_store import FailingStore
pool, processes = ThreadPoolExecutor(1), ProcessPoolExecutor(1)
processes.submit(int).result()
FailingStore.plan = lambda *call: pool.submit(lambda: None).result()
writer = AssetDetailsWriter("failing://b/a", on_published=lambda file: print(file.rows, flush=True))
writer.write(b"")
def later():
    time.sleep(0.3)
    writer.write(b"")
threading.Thread(target=later).start()
"""


def test_a_forgotten_writer_is_closed_while_the_clients_of_stores_can_work() -> None:
    """They use executors, which end before anything that is registered with `atexit` is called."""
    done = python(FORGOTTEN)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


EXECUTOR = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
writer = AssetDetailsWriter(sys.argv[1])
def job():
    time.sleep(0.1)
    writer.write(b"")
pool = ThreadPoolExecutor(1)
for _ in range(20):
    pool.submit(job)
"""


def test_jobs_that_come_after_the_end_of_the_program_are_told(tmp_path: Path) -> None:
    """Nobody reads what is raised in them."""
    done = python(EXECUTOR, str(tmp_path / "a"))
    assert done.stderr.count("jobs of an executor wrote after the end of the program") == 1


FAILED = """
import sys
from cdp_runtime.writer import WriterFailed
from generated.stellar.v1.contract_data_writer import ContractDataWriter
from cdpgen.demo_data import contract_data
message = ContractDataWriter.message_type()
some = [message(**fields).SerializeToString() for fields in contract_data(4_000, 1)]
def gone():
    raise ImportError("gone")
ContractDataWriter.message_type = gone
writer = ContractDataWriter(sys.argv[1])
for _ in range(8):
    writer.write_many(some)
try:
    writer.close()
except WriterFailed as failure:
    sys.exit(str(failure))
"""


def test_threads_of_a_writer_that_failed_do_not_crash_the_interpreter_at_its_end(
    tmp_path: Path,
) -> None:
    for _ in range(5):
        done = python(FAILED, str(tmp_path / "a"))
        assert done.returncode == 1, done.stderr
        assert done.stderr.endswith(": gone\n")


class TestStopInTime:
    def test_a_pipe_that_gives_nothing_is_left(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe.pb"
        os.mkfifo(pipe)
        process = archive(str(pipe), tmp_path / "a")
        with pipe.open("wb") as feed:
            checks.write_stream(tmp_path / "some.pb", range(500))
            feed.write((tmp_path / "some.pb").read_bytes())
            feed.flush()
            wait_until_read(feed)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        assert checks.numbers_in(tmp_path / "a") == list(range(500))

    @pytest.mark.parametrize("format", ["delimited", "ndjson"])
    def test_a_message_that_is_half_sent_is_read_to_its_end_and_the_next_run_goes_on_there(
        self, tmp_path: Path, format: str
    ) -> None:
        pipe, rows = tmp_path / "pipe", range(1, 90)
        os.mkfifo(pipe)
        if format == "ndjson":
            framed = [b'{"code": "%d"}\n' % number for number in rows]
        else:
            framed = [bytes([len(one)]) + one for one in map(checks.payload, rows)]
        first, rest = b"".join(framed[:40]), b"".join(framed[40:])
        with open(
            pipe, "r+b", buffering=0
        ) as feed:  # both ends, so that what is sent stays in the pipe
            for sent, then in ((first[:-3], first[-3:] + rest[:9]), (rest[9:-4], rest[-4:])):
                process = archive(str(pipe), tmp_path / "a", "--format", format)
                feed.write(sent)
                wait_until_read(feed)
                process.send_signal(signal.SIGTERM)
                assert process.stderr is not None
                assert "stopping" in process.stderr.readline()
                time.sleep(0.3)
                feed.write(then)
                _, errors = process.communicate(timeout=20)
                assert process.returncode == 0, errors
        assert checks.numbers_in(tmp_path / "a") == list(rows)

    def test_so_is_what_a_journal_held_while_the_store_is_away(self, tmp_path: Path) -> None:
        stream = tmp_path / "stream.pb"
        checks.write_stream(stream, range(10))
        done = python(RECOVERING, str(stream), str(tmp_path / "j"))
        assert done.returncode == 1, done.stderr
        assert "stopped: it took longer than shutdown_seconds" in done.stderr


RECOVERING = """
import os, signal, sys, threading
from pathlib import Path
from cdp_runtime.archive import run
from cdp_runtime.parquet import PublishedFile
from cdp_runtime.journal import Frame, Journal, encode
from tests.faults import checks
from tests.faults.failing_store import FailingStore
stream, folder = sys.argv[1:]
left = Journal(Path(folder), checks.TABLE, "w", "failing://b/a", 1 << 20)
left.append(encode(Frame("s", [b""], range(1))), 1)
left.sync()
left.close()
FailingStore.plan = lambda call, name, done: (
    ConnectionRefusedError(111, "refused") if name == "mv" else None
)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
sys.exit(
    run(
        table=checks.TABLE,
        source=[stream],
        to="failing://b/a",
        generated=str(checks.ROOT / "generated"),
        options={"shutdown_seconds": 0.5, "journal": folder},
    )
)
"""
