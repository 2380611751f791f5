"""The end: asked for by a signal, by an exception, by a failure inside, or forgotten."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cdp_runtime.archive import run
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
        until = time.monotonic() + 30
        while not (tmp_path / "a" / "_tmp").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)  # it reads by now, and its input never ends
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
