"""The journal: what is read is what was appended, up to where the disk ends."""

from __future__ import annotations

import fcntl
import gc
import gzip
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_runtime import journal as journal_module
from cdp_runtime import pipeline as pipeline_module
from cdp_runtime._native import crc32c
from cdp_runtime.archive import run
from cdp_runtime.config import SourceConfig
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.journal import Frame, Journal, Left, decode, encode, left_behind
from cdp_runtime.positions import Prefix, spans
from cdp_runtime.replay import Selection, replay
from cdp_runtime.sources import Never, inputs_of, read_inputs
from cdp_runtime.sources.identity import is_same, place
from cdp_runtime.storage import StorageError, is_of_writer
from cdp_runtime.store_lock import lock_of_dead, lock_of_living
from generated.stellar.v1.asset_details_pb2 import AssetDetails
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks

HEAD = 12
"""Length and checksum of a frame, bytes."""


def listed(values: Any) -> list[Any]:
    return values.to_pylist() if isinstance(values, pa.Array) else list(values)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    values = draw(st.lists(st.binary(max_size=40), min_size=1, max_size=9))
    rows = len(values)
    payloads: Any = values
    if kind := draw(st.sampled_from([None, pa.binary(), pa.large_binary(), pa.binary_view()])):
        nullable = [None if draw(st.integers(0, 9)) == 0 else value for value in values]
        payloads = pa.array([b"before", *nullable, b"behind"], kind).slice(1, rows)
    positions: Any = draw(
        st.builds(lambda start: range(start, start + rows), st.integers(-(2**40), 2**40))
        | st.builds(lambda start: range(start, start + 3 * rows, 3), st.integers(0, 99))
        | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=rows, max_size=rows)
    )
    if isinstance(positions, list):
        positions = pa.array([0, *positions], pa.int64()).slice(1)
    letter = {"reason": "ü", "offset": None, "form": "json"} if draw(st.booleans()) else None
    prefix = draw(st.none() | st.builds(Prefix, st.integers(0, 2**50), st.integers(0, 2**32 - 1)))
    return Frame(draw(st.text(max_size=9)), payloads, positions, letter, prefix)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, "a.B", "w1", "/archive", 1 << 20)


def frame(number: int, size: int = 10) -> list[Any]:
    return encode(Frame("s", [b"U" * size], range(number, number + 1)))


def append(journal: Journal, numbers: range, size: int = 10) -> list[int]:
    """Appends a frame for each number; gives their segments."""
    return [journal.append(frame(number, size), 1) for number in numbers]


def is_damage(one: Frame) -> bool:
    return one.letter is not None and one.letter["form"] == "bytes"


def positions_left(folder: Path) -> list[int | str]:
    """What a dead writer left, after which it is nobody's again."""
    [left] = left_behind(folder, "a.B", "/archive")
    found: list[int | str] = []
    for one in left.frames():
        found += ["damaged"] if is_damage(one) else listed(one.positions)
    left.close()
    return found


class TestEncode:
    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
    def test_the_checksum_is_that_of_all_of_large_payloads(self, kind: pa.DataType) -> None:
        random = Random(3)
        values = [
            random.randbytes(random.choice([0, 9, 1 << 10, 70_000, 1 << 17])) for _ in range(99)
        ]
        written = b"".join(encode(Frame("s", pa.array(values, kind), range(99))))
        assert struct.unpack_from("<QI", written) == (len(written) - HEAD, crc32c(written[HEAD:]))
        assert listed(decode(written[HEAD:]).payloads) == values

    @given(frames())
    @settings(deadline=None)
    def test_what_is_decoded_is_what_was_encoded(self, frame: Frame) -> None:
        written = b"".join(encode(frame))
        back = decode(written[HEAD:])
        assert struct.unpack_from("<QI", written) == (len(written) - HEAD, crc32c(written[HEAD:]))
        assert back.source == frame.source
        assert (back.letter, back.prefix) == (frame.letter, frame.prefix)
        assert listed(back.payloads) == listed(frame.payloads)
        assert listed(back.positions) == listed(frame.positions)


class TestJournal:
    def test_frames_are_left_in_their_order(self, journal: Journal, tmp_path: Path) -> None:
        append(journal, range(9))
        journal.sync()
        journal.close()
        assert positions_left(tmp_path) == list(range(9))

    def test_a_journal_that_ended_leaves_nothing(self, journal: Journal, tmp_path: Path) -> None:
        journal.append(frame(1), 1)
        journal.end()
        assert not list((tmp_path / "a.B").iterdir())

    def test_nobody_recovers_what_is_being_removed(
        self, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: list[Left] = []

        def others_look(call: Callable[..., None]) -> Callable[..., None]:
            def looked(*arguments: Any, **options: Any) -> None:
                found.extend(left_behind(tmp_path, "a.B", "/archive"))
                call(*arguments, **options)
                found.extend(left_behind(tmp_path, "a.B", "/archive"))

            return looked

        append(journal, range(3))
        monkeypatch.setattr(shutil, "rmtree", others_look(shutil.rmtree))
        monkeypatch.setattr(Path, "unlink", others_look(Path.unlink))
        journal.end()
        assert found == []
        assert list((tmp_path / "a.B").iterdir()) == []

    @pytest.mark.parametrize("of", [shutil, Path])
    def test_an_end_that_was_interrupted_may_be_called_again(
        self, of: Any, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = {shutil: "rmtree", Path: "unlink"}[of]
        real = getattr(of, name)

        def interrupted(*arguments: Any, **options: Any) -> None:
            real(*arguments, **options)
            raise KeyboardInterrupt

        append(journal, range(3))
        with monkeypatch.context() as patched:
            patched.setattr(of, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.end()
        journal.end()
        journal.end()
        assert list((tmp_path / "a.B").iterdir()) == []

    def test_a_segment_goes_when_all_of_it_is_published(
        self, journal: Journal, tmp_path: Path
    ) -> None:
        segments = append(journal, range(12), 30_000)
        assert sorted(set(segments)) == [1, 2, 3, 4]
        journal.settle({1: 2})
        journal.settle({2: 3})
        assert sorted(path.name for path in tmp_path.rglob("*.log")) == [
            "000001.log",
            "000003.log",
            "000004.log",
        ]
        journal.settle({1: 1, 3: 3, 4: 3})
        # the one in use stays: more is appended to it
        assert [path.name for path in tmp_path.rglob("*.log")] == ["000004.log"]
        journal.close()

    def test_a_segment_whose_messages_are_published_is_written_over(
        self, journal: Journal, tmp_path: Path
    ) -> None:
        append(journal, range(9), 20_000)  # four in a segment
        first = {path.stat().st_ino for path in tmp_path.rglob("*.log")}
        journal.settle({1: 4, 2: 4})
        assert len(list(tmp_path.rglob("*.free"))) == 2
        append(journal, range(9, 17), 19_000)
        assert {path.stat().st_ino for path in tmp_path.rglob("*.log")} == first
        journal.close()
        assert positions_left(tmp_path) == list(range(8, 17))

    def test_what_a_file_held_before_is_not_left_behind_the_last_frame(
        self, journal: Journal, tmp_path: Path
    ) -> None:
        append(journal, range(5), 20_000)
        journal.settle({1: 4})
        append(journal, range(5, 9), 20_000)  # the last one is written over the first segment
        last = max(tmp_path.rglob("*.log"))
        assert last.name == "000003.log"
        assert last.stat().st_size > 80_000
        journal.close()
        assert positions_left(tmp_path) == list(range(4, 9))

    def test_a_file_that_is_much_larger_than_a_segment_is_not_kept(
        self, journal: Journal, tmp_path: Path
    ) -> None:
        append(journal, range(2), 90_000)
        journal.settle({1: 1})
        assert [path.name for path in tmp_path.rglob("0*")] == ["000002.log"]
        journal.close()

    def test_a_full_journal_has_room_again_when_something_is_published(
        self, journal: Journal
    ) -> None:
        size = 300_000
        segments = append(journal, range(3), size)
        assert not journal.has_room(size)
        assert not journal.wait_for_room(size, 0.01)
        journal.settle({segments[0]: 1})
        assert journal.wait_for_room(size, 0.01)
        journal.close()

    def test_the_segment_in_use_makes_room_as_well(self, journal: Journal) -> None:
        segment = journal.append(frame(0, 1_000_000), 1)
        assert not journal.wait_for_room(100_000, 0.01)
        journal.settle({segment: 1})
        assert journal.wait_for_room(100_000, 0.01)
        journal.close()

    def test_a_frame_larger_than_the_journal_fits_alone(self, journal: Journal) -> None:
        assert journal.has_room(1 << 30)
        journal.close()


class TestPowerCut:
    """The disk has the names of segments as they were at any moment since the folder was synced last."""

    @pytest.mark.parametrize("seed", range(8))
    def test_what_was_synced_is_found_whatever_names_the_disk_has(
        self, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        random = Random(seed)
        journal = Journal(tmp_path / "live", "a.B", "w1", "/archive", 1 << 20)
        folder = tmp_path / "live" / "a.B" / "w1"
        names: list[dict[str, int]] = []  # of segments, at each moment that the disk may have

        def note() -> None:
            names.append({path.name: path.stat().st_ino for path in folder.iterdir()})

        def sync(path: Path) -> None:
            assert path == folder
            names.clear()
            note()

        def noted(name: str) -> None:
            inner = getattr(journal, name)

            def call(*given: Any) -> None:
                inner(*given)
                note()

            monkeypatch.setattr(journal, name, call)

        monkeypatch.setattr(journal_module, "_sync", sync)
        noted("_open")
        noted("_remove_if_published")
        note()
        held: dict[int, list[int]] = {}  # what is not published of each segment
        durable = 0
        for number in range(150):
            segment = journal.append(frame(number, 18_000), 1)
            held.setdefault(segment, []).append(number)
            if random.random() < 0.1:
                journal.sync()
                durable = number + 1
            if len(held) > 3 and random.random() < 0.3:
                for published in random.sample(sorted(held)[:-1], 2):
                    journal.settle({published: len(held.pop(published))})
            cut = tmp_path / str(number)
            after = cut / "a.B" / "w1"
            after.mkdir(parents=True)
            inodes = {path.stat().st_ino: path for path in folder.iterdir()}
            for name, inode in random.choice(names).items():
                if inode in inodes:
                    shutil.copy(inodes[inode], after / name)
            (cut / "a.B" / "w1.lock").touch()
            found = positions_left(cut)
            assert "damaged" not in found
            wanted = [n for numbers in held.values() for n in numbers if n < durable]
            assert set(wanted) <= set(found)
            shutil.rmtree(cut)
        journal.close()


class TestLeftBehind:
    def test_the_journal_of_a_living_writer_is_not_touched(
        self, journal: Journal, tmp_path: Path
    ) -> None:
        assert list(left_behind(tmp_path, "a.B", "/archive")) == []
        journal.close()
        assert len(list(left_behind(tmp_path, "a.B", "/archive"))) == 1

    def test_nor_that_of_another_table_or_archive(self, journal: Journal, tmp_path: Path) -> None:
        journal.append(frame(1), 1)
        journal.close()
        assert list(left_behind(tmp_path, "a.C", "/archive")) == []
        assert list(left_behind(tmp_path, "a.B", "/other")) == []
        assert positions_left(tmp_path) == [1]

    def test_nor_that_of_another_store_which_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Journal(tmp_path, "a.B", "w1", "s3://b/a", 1 << 20, "one:9000").close()
        assert list(left_behind(tmp_path, "a.B", "s3://b/a", "other:9000")) == []
        told = json.loads(capsys.readouterr().err)
        assert told["journal"] == str(tmp_path / "a.B" / "w1")
        assert (told["archive"], told["store"]) == ("s3://b/a", "one:9000")
        [left] = left_behind(tmp_path, "a.B", "s3://b/a", "one:9000")
        left.remove()
        assert capsys.readouterr().err == ""

    def test_one_from_before_stores_were_noted_is_for_its_url(self, tmp_path: Path) -> None:
        Journal(tmp_path, "a.B", "w1", "s3://b/a", 1 << 20, "one:9000").close()
        [path] = tmp_path.rglob("about.json")
        about = json.loads(path.read_bytes())
        del about["store"]
        path.write_text(json.dumps(about))
        [left] = left_behind(tmp_path, "a.B", "s3://b/a", "other:9000")
        left.remove()

    @pytest.mark.parametrize(("one", "other"), [("s3", "s3a"), ("gs", "gcs")])
    def test_protocols_with_two_names_are_one(self, tmp_path: Path, one: str, other: str) -> None:
        for before, now in ((one, other), (other, one)):
            Journal(tmp_path, "a.B", "w1", f"{before}://b/a", 1 << 20).close()
            assert list(left_behind(tmp_path, "a.B", f"{now}://b/other")) == []
            [left] = left_behind(tmp_path, "a.B", f"{now}://b/a")
            left.remove()

    @pytest.mark.parametrize("ends", [Left.remove, Left.close])
    def test_only_one_recovers_it_and_others_wait_for_that(
        self,
        journal: Journal,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        ends: Callable[[Left], None],
    ) -> None:
        monkeypatch.setattr(journal_module, "_TELL_SECONDS", 0)
        journal.close()
        living = Journal(tmp_path, "a.B", "w2", "/archive", 1 << 20)
        [left] = left_behind(tmp_path, "a.B", "/archive")
        found: list[Left] = []
        other = threading.Thread(
            target=lambda: found.extend(left_behind(tmp_path, "a.B", "/archive"))
        )
        other.start()
        other.join(0.5)
        assert other.is_alive()
        ends(left)
        other.join(60)
        assert len(found) == (ends is Left.close)
        assert "waits for another writer that recovers a journal" in capsys.readouterr().err
        for one in found:
            one.remove()
        living.end()

    def test_a_process_that_is_forked_off_holds_no_lock(self, tmp_path: Path) -> None:
        Journal(tmp_path, "a.B", "w1", "/archive", 1 << 20).close()
        program = f"""if True:
            import os, pathlib
            from cdp_runtime.journal import left_behind

            folder = pathlib.Path({str(tmp_path)!r})
            [left] = left_behind(folder, "a.B", "/archive")
            end, ended = os.pipe()
            if os.fork() == 0:
                os.read(end, 1)
                os._exit(0)
            left.close()
            print(len(list(left_behind(folder, "a.B", "/archive"))), flush=True)
            os.write(ended, b".")
        """
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "1\n", done.stderr

    def test_a_lock_without_a_journal_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / "a.B").mkdir()
        (tmp_path / "a.B" / "w0.lock").touch()
        assert list(left_behind(tmp_path, "a.B", "/archive")) == []
        assert not list((tmp_path / "a.B").iterdir())

    @pytest.mark.parametrize("locks", [0, 1])
    def test_who_dies_before_it_holds_its_lock_leaves_nothing_for_ever(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: int
    ) -> None:
        folder, archive = tmp_path / "journal", tmp_path / "archive"
        left, flock = [locks], fcntl.flock

        def die(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            flock(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "flock", die)
            with pytest.raises(KeyboardInterrupt):
                AssetDetailsWriter(archive, journal=str(folder))
        assert list((archive / "_tmp" if locks == 0 else folder).rglob("*.*"))
        AssetDetailsWriter(archive, journal=str(folder)).close()
        assert not list(folder.glob("*/*"))
        assert not list(archive.glob("_tmp/*"))

    def test_the_living_have_their_locks_whoever_looks_for_the_dead(self, tmp_path: Path) -> None:
        ended = threading.Event()

        def bury() -> None:
            while not ended.is_set():
                for lock in tmp_path.glob("*.lock"):
                    file = lock_of_dead(lock)
                    if file is not None:
                        with file:
                            lock.unlink()

        threads = [threading.Thread(target=bury) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for number in range(500):
                path = tmp_path / f"{number % 3}.lock"
                with lock_of_living(path) as file:
                    assert os.path.samestat(path.stat(), os.fstat(file.fileno()))
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def test_who_recovers_is_known_by_the_dead_ones_id(
        self, journal: Journal, tmp_path: Path
    ) -> None:
        journal.close()
        [left] = left_behind(tmp_path, "a.B", "/archive")
        ids = [left.recoverer() for _ in range(2)]
        assert ids[0] != ids[1]
        assert all(is_of_writer(f"a.B/0-{one}-000001.parquet", "w1") for one in ids)
        left.close()

    @pytest.mark.parametrize(
        "about",
        [b'{"url": "/archive",}', b"[]", b"{}", b"\xff", b'{"url": 1, "writers": []}'],
    )
    def test_notes_that_nobody_can_read_are_named(
        self, journal: Journal, tmp_path: Path, about: bytes
    ) -> None:
        journal.close()
        [path] = tmp_path.rglob("about.json")
        path.write_bytes(about)
        for _ in range(2):  # the lock is let go
            with pytest.raises(StorageError, match=f"^{path}: says no more of which archive"):
                list(left_behind(tmp_path, "a.B", "/archive"))

    def test_whose_it_is_its_folder_says_as_well(self, journal: Journal, tmp_path: Path) -> None:
        journal.close()
        [path] = tmp_path.rglob("about.json")
        path.write_text('{"url": "/archive", "writers": []}')
        [left] = left_behind(tmp_path, "a.B", "/archive")
        assert left.writers == ["w1"]
        assert left.recoverer().startswith("w1-")
        left.close()


class TestFrames:
    def test_cut_anywhere_the_frames_before_the_cut_are_left(
        self, journal: Journal, tmp_path: Path
    ) -> None:
        ends = []
        for number in range(4):
            journal.append(frame(number, number + 1), 1)
            ends.append(next(tmp_path.rglob("*.log")).stat().st_size)
        journal.close()
        [segment] = tmp_path.rglob("*.log")
        data = segment.read_bytes()
        for size in range(len(data) + 1):
            for tail in (b"", bytes(40), b"\xa7" * 40):
                segment.write_bytes(data[:size] + tail)
                assert positions_left(tmp_path) == list(range(sum(end <= size for end in ends)))

    def test_any_flipped_bit_is_seen(self, journal: Journal, tmp_path: Path) -> None:
        journal.append(frame(0), 1)
        journal.close()
        [segment] = tmp_path.rglob("*.log")
        data = segment.read_bytes()
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            segment.write_bytes(changed)
            assert positions_left(tmp_path) == []

    @pytest.mark.parametrize(
        ("synced_after", "found"),
        [
            (6, [0, "damaged", 3, 4, 5]),
            (4, [0, "damaged", 3, 4, 5]),
            (2, [0, 3, 4, 5]),
            (0, [0, 3, 4, 5]),
        ],
    )
    def test_damage_of_what_was_durable_is_told_and_the_rest_ends_there(
        self, journal: Journal, tmp_path: Path, synced_after: int, found: list[Any]
    ) -> None:
        for number in range(6):  # three in a segment
            journal.append(frame(number, 30_000), 1)
            if number + 1 == synced_after:
                journal.sync()
        journal.close()
        first = min(tmp_path.rglob("*.log"))
        data = bytearray(first.read_bytes())
        data[40_000] ^= 1
        first.write_bytes(data)
        assert positions_left(tmp_path) == found

    def test_that_a_segment_was_durable_is_told_in_each_that_follows(
        self, journal: Journal, tmp_path: Path
    ) -> None:
        for number in range(9):
            journal.append(frame(number, 30_000), 1)
            journal.sync()
        journal.settle({2: 3})
        journal.close()
        first = min(tmp_path.rglob("*.log"))
        first.write_bytes(first.read_bytes()[:-1])
        assert positions_left(tmp_path) == [0, 1, "damaged", 6, 7, 8]

    def test_one_at_a_time_is_in_memory(
        self, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append(journal, range(9), 5_000)
        journal.sync()
        append(journal, range(20), 30_000)
        journal.sync()
        journal.close()
        first = min(tmp_path.rglob("*.log"))
        data = bytearray(first.read_bytes())
        data[20_000] ^= 1
        first.write_bytes(data)
        monkeypatch.setattr(journal_module, "_PIECE_BYTES", 10_000)
        [left] = left_behind(tmp_path, "a.B", "/archive")
        tracemalloc.start()
        pieces = [one.payloads[0].as_py() for one in left.frames() if is_damage(one)]
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
        tracemalloc.stop()
        left.close()
        assert {len(one) for one in pieces[:-1]} == {10_000}
        whole = first.read_bytes()
        assert whole.endswith(b"".join(pieces))
        assert len(pieces) > 3


class TestWriter:
    """The option `journal` of a writer."""

    def crashed(self, tmp_path: Path, payloads: list[bytes]) -> None:
        """Leaves a journal as a writer does that dies before anything is published."""
        left = Journal(tmp_path / "j", checks.TABLE, "dead", str(tmp_path / "archive"), 1 << 20)
        left.append(encode(Frame("s", payloads, range(5, 5 + len(payloads)))), len(payloads))
        left.append(
            encode(
                Frame(
                    "s",
                    pa.array([None], pa.binary()),
                    range(99, 100),
                    {"reason": "why", "offset": 3, "form": "json"},
                )
            ),
            1,
        )
        left.close()

    def test_a_writer_that_ended_well_leaves_no_journal(self, tmp_path: Path) -> None:
        with AssetDetailsWriter(tmp_path / "archive", journal=str(tmp_path / "j")) as writer:
            writer.write(AssetDetails(code="1"))
            writer.flush()
            assert list((tmp_path / "j").rglob("*.log"))
            assert checks.numbers_in(tmp_path / "archive") == []
        assert not list((tmp_path / "j").glob("*/*"))
        assert checks.numbers_in(tmp_path / "archive") == [1]

    def test_the_next_writer_writes_what_was_left(self, tmp_path: Path) -> None:
        self.crashed(tmp_path, [checks.payload(1), checks.payload(97)])
        AssetDetailsWriter(tmp_path / "archive", journal=str(tmp_path / "j")).close()
        rows = [pq.read_table(p) for p in checks.files(tmp_path / "archive")]
        [letters] = [t.to_pylist() for t in rows if "reason" in t.column_names]
        assert [(one["position"], one["payload"], one["form"]) for one in letters] == [
            (6, checks.payload(97), "message"),
            (99, None, "json"),
        ]
        assert (letters[1]["reason"], letters[1]["offset"]) == ("why", 3)
        [messages] = [t["code"].to_pylist() for t in rows if "code" in t.column_names]
        assert messages == ["1"]

    def test_how_much_of_a_file_was_read_is_kept_with_its_messages(self, tmp_path: Path) -> None:
        archive, folder = tmp_path / "archive", str(tmp_path / "j")
        read = Prefix(7, 8)
        with AssetDetailsWriter(archive, journal=folder) as writer:
            writer.note_prefix("s", read)
            writer.write(checks.payload(1), source="s", position=0)
            writer.reject(b"?", "why", source="s", position=1)
            writer.flush()
            shutil.copytree(tmp_path / "j", tmp_path / "copy")
        shutil.rmtree(archive)
        shutil.copytree(tmp_path / "copy", tmp_path / "j", dirs_exist_ok=True)
        AssetDetailsWriter(archive, journal=folder).close()
        for kind in ("", "_dead_letter/"):
            [path] = (archive / kind / checks.TABLE).rglob("*.parquet")
            assert spans(pq.read_metadata(path).metadata).prefixes == {"s": read}

    @pytest.mark.parametrize("then", ["as it was", "overwritten"])
    def test_what_another_run_has_read_of_the_same_file_since_is_not_written_again(
        self, tmp_path: Path, then: str
    ) -> None:
        stream, archive, folder = (str(tmp_path / name) for name in ("stream.pb", "archive", "j"))

        def messages(numbers: range) -> bytes:
            payloads = [AssetDetails(code=str(n)).SerializeToString() for n in numbers]
            return b"".join(bytes([len(payload)]) + payload for payload in payloads)

        Path(stream).write_bytes(messages(range(4)) + b"\x05cut")
        inputs = inputs_of([SourceConfig(path=stream)])
        with AssetDetailsWriter(archive, journal=folder) as writer:
            for item in read_inputs(
                inputs, AssetDetailsWriter.message_type, Never(), note=writer.note_prefix
            ):
                if isinstance(item, DeadLetter):
                    writer.reject(
                        item.payload or b"", "cut", source=item.source, position=item.position
                    )
                else:
                    writer.write_many(item.payloads, source=item.source, positions=item.positions)
            writer.flush()
            shutil.copytree(folder, tmp_path / "copy")
        shutil.rmtree(archive)  # as when it had died before
        shutil.copytree(tmp_path / "copy", folder, dirs_exist_ok=True)
        if then == "overwritten":
            Path(stream).write_bytes(messages(range(3)))
        flags: Any = {"table": checks.TABLE, "source": [stream], "to": archive}
        flags["generated"] = str(checks.ROOT / "generated")
        assert run(**flags) == 0
        AssetDetailsWriter(archive, journal=folder).close()
        tables = [pq.read_table(file) for file in checks.files(Path(archive))]
        codes = [table["code"].to_pylist() for table in tables if "code" in table.column_names]
        wanted = (
            ["0", "1", "2", "3"] if then == "as it was" else ["0", "0", "1", "1", "2", "2", "3"]
        )
        assert sorted(itertools.chain(*codes)) == wanted
        assert sum(table.num_rows for table in tables if "reason" in table.column_names) == 1

    @pytest.mark.parametrize(
        "shown", ["a.pb.gz", "link.pb.gz", b"a\xff.pb".decode(errors="surrogateescape")]
    )
    def test_a_file_is_known_again_whatever_its_name_is(self, tmp_path: Path, shown: str) -> None:
        data = bytes(range(256)) * 100
        path = tmp_path / ("blob" if shown.startswith("link") else shown)
        path.write_bytes(gzip.compress(data) if shown.endswith("gz") else data)
        prefixes = [Prefix(size, crc32c(data[:size])) for size in (1_000, 20_000)]
        other = Prefix(1_000, crc32c(data[1:1_001]))
        name = f"{place(str(path))}#0123456789ab"
        assert is_same(name, *prefixes)
        assert not is_same(name, other, prefixes[1])
        assert not is_same(name, prefixes[0], Prefix(30_000, 1))

    def test_a_recovery_that_hangs_keeps_its_journal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline_module, "_GIVE_UP_SECONDS", 0.1)
        self.crashed(tmp_path, [checks.payload(1)])
        archive, folder = tmp_path / "archive", tmp_path / "j"
        hangs, goes_on = threading.Event(), threading.Event()

        def hang(self: Path, target: Path) -> None:
            hangs.set()
            goes_on.wait(60)
            replace(self, target)

        replace = os.replace
        monkeypatch.setattr(os, "replace", hang)

        def interrupt() -> None:
            hangs.wait(60)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            AssetDetailsWriter(archive, journal=folder)
        gc.collect()
        other = threading.Thread(target=lambda: AssetDetailsWriter(archive, journal=folder).close())
        other.start()
        other.join(1)
        assert other.is_alive()
        goes_on.set()
        other.join(60)
        assert not other.is_alive()
        [rows] = (archive / checks.TABLE).rglob("*.parquet")
        assert pq.read_table(rows)["code"].to_pylist() == ["1"]

    def test_a_journal_that_lost_what_it_is_for_is_not_removed(self, tmp_path: Path) -> None:
        self.crashed(tmp_path, [checks.payload(1)])
        [about] = (tmp_path / "j").rglob("about.json")
        about.rename(tmp_path / "about.json")
        with pytest.raises(
            StorageError, match=r"about\.json: is gone, .*; bring it back, or remove"
        ):
            AssetDetailsWriter(tmp_path / "archive", journal=tmp_path / "j")
        (tmp_path / "about.json").rename(about)
        (about.parent / "notes.log").write_text("of somebody else")
        AssetDetailsWriter(tmp_path / "archive", journal=tmp_path / "j").close()
        [rows] = (tmp_path / "archive" / checks.TABLE).rglob("*.parquet")
        assert pq.read_table(rows)["code"].to_pylist() == ["1"]

    def test_damage_becomes_a_dead_letter(self, tmp_path: Path) -> None:
        left = Journal(tmp_path / "j", checks.TABLE, "dead", str(tmp_path / "archive"), 1 << 20)
        for number in range(3):
            payload = AssetDetails(code=str(number), issuer="G" * 40_000).SerializeToString()
            left.append(encode(Frame("s", [payload], range(number, number + 1))), 1)
        left.sync()
        left.close()
        first = min((tmp_path / "j").rglob("*.log"))
        first.write_bytes(first.read_bytes()[:-1])
        shutil.copytree(tmp_path / "j", tmp_path / "copy")
        for _ in range(2):  # the second time as when the first one had died before its end
            AssetDetailsWriter(tmp_path / "archive", journal=str(tmp_path / "j")).close()
            [letters] = (tmp_path / "archive" / "_dead_letter").rglob("*.parquet")
            [letter] = pq.read_table(letters).to_pylist()
            assert "damaged" in letter["reason"]
            assert letter["payload"]
            shutil.rmtree(tmp_path / "j")
            shutil.copytree(tmp_path / "copy", tmp_path / "j")

    def test_a_small_journal_makes_the_writer_wait_and_loses_nothing(self, tmp_path: Path) -> None:
        with AssetDetailsWriter(
            tmp_path / "archive", journal=str(tmp_path / "j"), journal_mb=0.2
        ) as writer:
            for start in range(0, 30_000, 1_000):
                writer.write_many([checks.payload(n) for n in range(start, start + 1_000)])
                segments = (tmp_path / "j").rglob("*.log")
                sizes = 0
                for one in segments:
                    try:
                        sizes += one.stat().st_size
                    except FileNotFoundError:
                        continue
                assert sizes <= 0.2 * (1 << 20)
        assert checks.numbers_in(tmp_path / "archive") == list(range(30_000))

    @pytest.mark.timeout(60)
    def test_what_came_behind_what_was_asked_for_is_asked_for_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline_module, "LOOK_SECONDS", 3600)
        with AssetDetailsWriter(
            tmp_path / "archive", journal=str(tmp_path / "j"), journal_mb=0.1
        ) as writer:
            for number in range(6_000):
                writer.write(AssetDetails(code=str(number), issuer="G" * 200))
        assert checks.numbers_in(tmp_path / "archive") == list(range(6_000))

    def test_messages_without_positions_are_replayed_in_the_order_of_the_runs(
        self, tmp_path: Path
    ) -> None:
        archive, generated = tmp_path / "archive", checks.ROOT / "generated"
        for start in range(0, 12, 4):
            with AssetDetailsWriter(archive, journal=tmp_path / "j") as writer:
                for number in range(start, start + 4):
                    writer.write(AssetDetails(code=str(number)), source="orders")
        for selection in (Selection(), Selection(source="orders")):
            found = replay(archive, checks.TABLE, generated=generated, selection=selection)
            codes = [AssetDetails.FromString(one.as_py()).code for many in found for one in many]
            assert codes == [str(number) for number in range(12)]

    def test_two_writers_may_have_one_journal_folder(self, tmp_path: Path) -> None:
        writers = [
            AssetDetailsWriter(tmp_path / "archive", journal=str(tmp_path / "j")) for _ in range(2)
        ]
        for number, writer in enumerate(writers):
            writer.write(AssetDetails(code=str(number + 1)))
            writer.flush()
        for writer in writers:
            writer.close()
        assert checks.numbers_in(tmp_path / "archive") == [1, 2]


def test_the_lock_goes_with_the_process_and_not_with_the_file(
    journal: Journal, tmp_path: Path
) -> None:
    path = tmp_path / "a.B" / "w1.lock"
    with path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    journal.close()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
