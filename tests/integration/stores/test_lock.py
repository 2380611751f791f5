"""Only one at a time holds a lock of an archive, and so retries its dead letters."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cdp_runtime import store_lock
from cdp_runtime.dead_letter import FOLDER
from cdp_runtime.dead_letters import Retried, retry
from cdp_runtime.storage import Storage, StorageError, open_storage
from generated.stellar.v1.event_writer import EventWriter
from tests.integration.stores.conftest import SERVERS, Archive
from tests.integration.stores.test_stores import event, ids_in

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[3]
WRITERS = {EventWriter.table: EventWriter}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "_LONGEST_WAIT", 0.05)


def opened(archive: Archive) -> Storage:
    return open_storage(archive.url, None, archive.options)


class TestLock:
    def test_a_second_one_is_refused_until_the_first_has_let_go(self, archive: Archive) -> None:
        with opened(archive).lock("work") as still:
            with (
                pytest.raises(StorageError, match="another work is at work there") as raised,
                opened(archive).lock("work"),
            ):
                pass
            assert raised.value.transient  # it may be taken later
            with opened(archive).lock("play"):
                pass
            still()
        with opened(archive).lock("work"):
            pass
        assert not [name for name in archive.filesystem.find(archive.root) if "work" in name]

    def test_of_many_who_come_at_once_never_two_have_it(self, archive: Archive) -> None:
        inside, most, done = 0, 0, 0
        refusals: list[str] = []
        count = threading.Lock()
        together = threading.Barrier(4)

        def work() -> None:
            nonlocal inside, most, done
            storage = opened(archive)
            together.wait()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    with storage.lock("work"):
                        with count:
                            inside += 1
                            most = max(most, inside)
                        time.sleep(0.02)
                        with count:
                            inside -= 1
                            done += 1
                        return
                except StorageError as error:
                    refusals.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (most, done) == (1, 4)
        assert [one for one in refusals if "another work is at work there" not in one] == []

    @pytest.mark.parametrize("archive", ["memory", *SERVERS], indirect=True)
    def test_one_that_shows_no_life_loses_it_and_sees_so(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(archive).lock("work") as still, monkeypatch.context() as patch:
            patch.setattr(store_lock, "LEASE_SECONDS", -1)
            with opened(archive).lock("work") as others:
                patch.undo()
                with pytest.raises(StorageError, match="another work may have taken over"):
                    still()
                others()

    @pytest.mark.parametrize("archive", ["memory", *SERVERS], indirect=True)
    @pytest.mark.parametrize("answer", ["comes", "is lost"])
    def test_one_that_is_suspended_between_its_look_and_its_write_does_not_bring_it_back(
        self, archive: Archive, answer: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = (
            store_lock._Lock(opened(archive), f"{archive.root}/_tmp", "work")  # type: ignore[arg-type]
            for _ in range(2)
        )
        monkeypatch.setattr(store_lock, "LEASE_SECONDS", 1)
        # of the whole machine, while no clock of its own goes on
        monkeypatch.setattr(store_lock, "_now", lambda: 0.0)
        write = first._write

        def suspended() -> None:
            time.sleep(2.2)  # some stores tell no parts of a second
            second.take()
            write()
            if answer == "is lost":
                raise TimeoutError

        first.take()
        monkeypatch.setattr(first, "_write", suspended)
        with contextlib.suppress(TimeoutError):
            first.renew()
        with pytest.raises(StorageError, match="another work may have taken over"):
            first.check()
        second.check()
        left = [name for name in archive.filesystem.find(archive.root) if name.endswith(".lock")]
        assert [name.rpartition("/")[2] for name in left] == [second._path.rpartition("/")[2]]

    @pytest.mark.parametrize("archive", ["memory"], indirect=True)
    def test_one_that_another_may_take_any_time_is_no_longer_held(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = store_lock._now()
        with opened(archive).lock("work") as still:
            monkeypatch.setattr(store_lock, "_now", lambda: now + store_lock.LEASE_SECONDS)
            still()
            monkeypatch.setattr(store_lock, "_now", lambda: now + store_lock.LEASE_SECONDS + 60)
            for _ in range(2):
                with pytest.raises(StorageError, match="another work may have taken over"):
                    still()
                monkeypatch.setattr(store_lock, "_now", lambda: now)

    @pytest.mark.parametrize("archive", ["memory"], indirect=True)
    def test_it_is_not_lost_to_one_who_only_asks_for_it(self, archive: Archive) -> None:
        with opened(archive).lock("work") as still:
            lock = still.__self__  # type: ignore[attr-defined]
            other = store_lock._Lock(opened(archive), f"{archive.root}/_tmp", "work")  # type: ignore[arg-type]
            other._write()
            lock.renew()
            still()
            other.leave()

    @pytest.mark.parametrize("archive", ["memory", *SERVERS], indirect=True)
    def test_one_that_works_for_long_shows_life(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_lock, "RENEW_SECONDS", 0.2)
        with opened(archive).lock("work") as still:
            (name,) = (name for name in archive.filesystem.find(archive.root) if "work" in name)
            archive.filesystem.invalidate_cache()  # a list knows milliseconds that nothing else does
            first = archive.filesystem.modified(name)
            deadline = time.monotonic() + 5
            while archive.filesystem.modified(name) <= first:
                assert time.monotonic() < deadline
                time.sleep(0.05)
                archive.filesystem.invalidate_cache()
            still()

    def test_on_a_disk_that_of_a_dead_process_is_gone_with_it(self, tmp_path: Path) -> None:
        holds = "import sys; from cdp_runtime.storage import open_storage\n"
        holds += "with open_storage(sys.argv[1]).lock('work'): print('has it', flush=True); input()"
        process = subprocess.Popen(
            [sys.executable, "-c", holds, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"has it\n"
        with pytest.raises(StorageError, match="another work"), open_storage(tmp_path).lock("work"):
            pass
        process.kill()
        process.communicate(timeout=10)
        with open_storage(tmp_path).lock("work"):
            pass
        assert list((tmp_path / "_tmp").iterdir()) == []


class TestRetry:
    def test_while_another_is_at_work_it_says_so_and_changes_nothing(
        self, archive: Archive
    ) -> None:
        with EventWriter(archive.url, storage_options=archive.options) as writer:
            writer.reject(event(1), "not known then")
        with opened(archive).lock("dead-letters-retry"):
            before = archive.names()
            with pytest.raises(StorageError, match="another dead-letters-retry is at work there"):
                retry(archive.url, WRITERS, options={"storage_options": archive.options})
            assert archive.names() == before
            dry = {"storage_options": archive.options, "dry_run": True}
            assert retry(archive.url, WRITERS, options=dry) == {EventWriter.table: Retried(1, 0)}

    def test_of_two_at_once_each_letter_becomes_one_row(self, archive: Archive) -> None:
        with EventWriter(archive.url, storage_options=archive.options, max_file_rows=100) as writer:
            for number in range(400):
                writer.reject(event(number) if number % 2 else b"\xff", "not known then")
        came: list[Retried] = []
        refusals: list[str] = []
        together = threading.Barrier(2)

        def one() -> None:
            together.wait()
            try:
                done = retry(archive.url, WRITERS, options={"storage_options": archive.options})
                came.append(done[EventWriter.table])
            except StorageError as error:
                refusals.append(str(error))

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one for one in refusals if "another dead-letters-retry is at" not in one] == []
        if not came:  # both have withdrawn
            one_more = retry(archive.url, WRITERS, options={"storage_options": archive.options})
            came.append(one_more[EventWriter.table])
        assert sum(one.rows for one in came) == 200
        assert ids_in(archive) == Counter(f"{number:09}" for number in range(1, 400, 2))
        letters = 0
        for name in archive.names():
            if name.startswith(f"{FOLDER}/"):
                with archive.filesystem.open(f"{archive.root}/{name}") as file:
                    letters += pq.read_metadata(file).num_rows
        assert letters == 200
