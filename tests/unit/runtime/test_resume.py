"""What an archive holds already, and that a second run passes over exactly that."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_runtime.positions import Spans
from cdp_runtime.resume import Published, published
from cdp_runtime.storage import StorageError, open_storage
from generated.stellar.v1.asset_details_pb2 import AssetDetails
from generated.stellar.v1.asset_details_writer import AssetDetailsWriter
from tests.faults import checks

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=12)


def holding(intervals: list[tuple[int, int]]) -> Published:
    found = Published()
    for first, rows in intervals:
        spans = Spans(["s"], *(pa.array([n], pa.int64()) for n in (0, first, rows)), {})
        found.add(spans, lambda name: True)
    return found


class TestPublished:
    @given(INTERVALS, st.integers(0, 70), st.integers(0, 30))
    @settings(deadline=None)
    def test_what_is_missing_of_a_range_is_what_no_footer_tells(
        self, intervals: list[tuple[int, int]], start: int, size: int
    ) -> None:
        held = {place for first, rows in intervals for place in range(first, first + rows)}
        asked = range(start, start + size)
        slices = holding(intervals).missing("s", asked)
        assert [p for one in slices for p in asked[one]] == [p for p in asked if p not in held]

    @given(INTERVALS, st.lists(st.integers(0, 70), max_size=20))
    @settings(deadline=None)
    def test_what_is_missing_of_single_positions_too(
        self, intervals: list[tuple[int, int]], asked: list[int]
    ) -> None:
        held = {place for first, rows in intervals for place in range(first, first + rows)}
        for positions in (asked, pa.array(asked, pa.int64())):
            slices = holding(intervals).missing("s", positions)
            assert [p for one in slices for p in asked[one]] == [p for p in asked if p not in held]

    def test_of_another_source_everything_is_missing(self) -> None:
        assert holding([(0, 10)]).missing("t", range(5)) == [slice(0, 5)]

    def test_rows_without_positions_hold_none(self) -> None:
        found = Published()
        nothing = pa.array([None], pa.int64())
        found.add(
            Spans(["s"], pa.array([0], pa.int64()), nothing, pa.array([5], pa.int64()), {}),
            lambda name: True,
        )
        assert "s" not in found


class TestPublishedOfAnArchive:
    def test_rows_and_dead_letters_count_and_sources_not_asked_for_do_not(
        self, tmp_path: Path
    ) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            writer.write_many([b"", b"\xff", b""], source="s", positions=[3, 4, 9])
            writer.write(b"", source="t", position=1)
            writer.write(b"")
        found = published(open_storage(tmp_path), AssetDetailsWriter, lambda name: name != "t")
        assert found.missing("s", range(12)) == [slice(0, 3), slice(5, 9), slice(10, 12)]
        assert "t" not in found

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / checks.TABLE).mkdir()
        (tmp_path / checks.TABLE / "bad.parquet").write_bytes(b"PAR1 not really PAR1")
        with pytest.raises(StorageError, match=r"bad\.parquet"):
            published(open_storage(tmp_path), AssetDetailsWriter, lambda name: True)

    @pytest.mark.parametrize("of_a_partition", [False, True])
    def test_folders_may_be_links(self, of_a_partition: bool, tmp_path: Path) -> None:
        url, rows = tmp_path / "a", [checks.payload(n) for n in range(1, 97)]

        def write() -> int:
            with AssetDetailsWriter(url) as writer:
                writer.skip_published(lambda source: True)
                writer.write_many(rows, source="s", positions=range(len(rows)))
            return writer.metrics.skipped

        write()
        table = url / checks.TABLE
        folder = next(table.iterdir()) if of_a_partition else table
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        (table / "back").symlink_to(url)
        assert write() == len(rows)
        assert len(list(open_storage(url).files())) == 3

    def test_what_is_no_file_is_none(self, tmp_path: Path) -> None:
        with AssetDetailsWriter(tmp_path) as writer:
            writer.write(checks.payload(1))
        os.mkfifo(tmp_path / checks.TABLE / "pipe.parquet")
        (tmp_path / checks.TABLE / "folder.parquet").mkdir()
        (tmp_path / checks.TABLE / "gone.parquet").symlink_to(tmp_path / "nowhere")
        assert len(list(open_storage(tmp_path).files())) == 1

    def test_files_of_other_tables_are_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "other.Table").mkdir()
        (tmp_path / "other.Table" / "bad.parquet").write_bytes(b"?")
        assert "s" not in published(open_storage(tmp_path), AssetDetailsWriter, lambda name: True)


class TestSkipPublished:
    def test_single_messages_arrays_and_dead_letters_are_written_once(self, tmp_path: Path) -> None:
        for _ in range(2):
            with AssetDetailsWriter(tmp_path) as writer:
                writer.skip_published(lambda name: name == "s")
                writer.write(AssetDetails(code="1"), source="s", position=1)
                writer.reject(b"\x0f97", "bad", source="s", position=97)
                several = [checks.payload(number) for number in (2, 3, 194)]
                writer.write_many(several, source="s", positions=[2, 3, 194])
                writer.write_many(
                    pa.array([checks.payload(4)], pa.binary()), source="s", positions=range(4, 5)
                )
        assert writer.metrics.skipped == 6
        assert writer.metrics.messages == 0
        assert checks.numbers_in(tmp_path) == [1, 2, 3, 4, 97, 194]

    def test_each_call_adds_to_what_is_passed_over(self, tmp_path: Path) -> None:
        for _ in range(2):
            with AssetDetailsWriter(tmp_path) as writer:
                for source in ("a", "b"):
                    writer.skip_published(lambda name, source=source: name == source)
                with pytest.raises(TypeError, match=r"position: 1\.5 is not allowed"):
                    writer.write_many([b""], source="a", positions=[1.5])  # type: ignore[list-item]
                writer.write(AssetDetails(code="1"), source="a", position=1)
                writer.write(AssetDetails(code="2"), source="b", position=1)
        assert checks.numbers_in(tmp_path) == [1, 2]


class TestArchiveAgain:
    """`cdpgen archive` a second time."""

    @pytest.fixture
    def stream(self, tmp_path: Path) -> Path:
        checks.write_stream(tmp_path / "stream.pb", range(1_000))
        return tmp_path / "stream.pb"

    def test_a_second_run_adds_nothing_and_says_so(self, stream: Path, tmp_path: Path) -> None:
        checks.run_archive(stream, tmp_path / "a", {})
        said = checks.run_archive(stream, tmp_path / "a", {})
        assert "1,000 messages were there already" in said
        assert checks.numbers_in(tmp_path / "a") == list(range(1_000))

    def test_files_in_folders_of_another_partition_are_told(
        self, stream: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for options, told in (
            ({"partition_by": "type"}, []),
            ({"partition_by": "type"}, []),
            ({}, [("type", "ledger_day")]),
            ({"partition_by": "code"}, [("ledger_day", "code"), ("type", "code")]),
        ):
            checks.write_stream(stream, range(1_000, 1_010))
            checks.run_archive(stream, tmp_path / "a", options)
            events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
            assert [(one["theirs"], one["new"]) for one in events if "theirs" in one] == told

    def test_which_is_told_once(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        AssetDetailsWriter(tmp_path).close()
        for options in ({"partition_by": "type"}, {"partition_by": "code"}):
            with AssetDetailsWriter(tmp_path, **options) as writer:
                for source in ("a", "b"):
                    writer.skip_published(lambda name, source=source: name == source)
                writer.write(checks.payload(1))
        assert capfd.readouterr().err.count("other folders") == 1

    def test_a_file_that_has_grown_gives_what_is_new(self, stream: Path, tmp_path: Path) -> None:
        checks.run_archive(stream, tmp_path / "a", {})
        checks.write_stream(stream, range(1_000, 1_500))
        checks.run_archive(stream, tmp_path / "a", {})
        assert checks.numbers_in(tmp_path / "a") == list(range(1_500))

    def test_a_message_that_was_half_there_is_archived_when_it_is_whole(
        self, stream: Path, tmp_path: Path
    ) -> None:
        whole = stream.read_bytes()
        stream.write_bytes(whole[:-3])
        checks.run_archive(stream, tmp_path / "a", {})
        shutil.rmtree(tmp_path / "a" / "_dead_letter", ignore_errors=False)
        stream.write_bytes(whole)
        checks.run_archive(stream, tmp_path / "a", {})
        held = checks.numbers_in(tmp_path / "a")
        assert [n for n in held if not checks.is_corrupt(n)] == [
            n for n in range(1_000) if not checks.is_corrupt(n)
        ]

    def test_a_line_that_was_half_there_is_archived_when_it_is_whole(self, tmp_path: Path) -> None:
        stream = tmp_path / "stream.ndjson"
        stream.write_text('{"code": "1"}\n{"code": "2')
        checks.run_archive(stream, tmp_path / "a", {})
        stream.write_text('{"code": "1"}\n{"code": "2"}\n{"code": "3"}')
        checks.run_archive(stream, tmp_path / "a", {})
        stream.write_text('{"code": "1"}\n{"code": "2"}\n{"code": "3"}\n')
        checks.run_archive(stream, tmp_path / "a", {})
        shutil.rmtree(tmp_path / "a" / "_dead_letter")
        assert checks.numbers_in(tmp_path / "a") == [1, 2, 3]

    def test_a_file_that_was_overwritten_is_read_anew(self, stream: Path, tmp_path: Path) -> None:
        checks.run_archive(stream, tmp_path / "a", {})
        stream.unlink()
        checks.write_stream(stream, range(1_000, 1_500))
        checks.run_archive(stream, tmp_path / "a", {})
        assert checks.numbers_in(tmp_path / "a") == list(range(1_500))

    def test_also_when_it_begins_with_the_same_message(self, stream: Path, tmp_path: Path) -> None:
        first = stream.read_bytes()[:3]
        for start in (1_000, 2_000, 3_000):
            checks.run_archive(stream, tmp_path / "a", {})
            checks.run_archive(stream, tmp_path / "a", {})
            stream.write_bytes(first)
            checks.write_stream(stream, range(start, start + 1_000))
        # what had only grown is known again, and not taken for one of the others
        checks.write_stream(stream, range(4_000, 4_500))
        checks.run_archive(stream, tmp_path / "a", {})
        checks.write_stream(stream, range(4_500, 5_000))
        checks.run_archive(stream, tmp_path / "a", {})
        assert checks.numbers_in(tmp_path / "a") == sorted([0, 0, 0, *range(5_000)])

    def test_one_that_is_shorter_now_is_another(self, stream: Path, tmp_path: Path) -> None:
        checks.run_archive(stream, tmp_path / "a", {})
        whole = stream.read_bytes()
        stream.unlink()
        checks.write_stream(stream, range(500))
        assert whole.startswith(stream.read_bytes())
        checks.run_archive(stream, tmp_path / "a", {})
        assert checks.numbers_in(tmp_path / "a") == sorted([*range(500), *range(1_000)])

    def test_it_is_the_same_file_from_wherever_it_is_reached(
        self, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checks.run_archive(stream, tmp_path / "a", {})
        (tmp_path / "link.pb").symlink_to(stream)
        monkeypatch.chdir(tmp_path)
        for other in ("stream.pb", "./s*.pb", "link.pb", stream.as_uri()):
            checks.run_archive(Path(other) if "://" not in other else other, tmp_path / "a", {})
        assert checks.numbers_in(tmp_path / "a") == list(range(1_000))

    def test_a_clock_that_jumps_changes_nothing(
        self, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time
        for step, offset in enumerate((0, 10_000_000, -10_000_000, 500)):
            monkeypatch.setattr(time, "time", lambda offset=offset: now() + offset)
            checks.run_archive(stream, tmp_path / "a", {})
            checks.write_stream(stream, range(1_000 + 10 * step, 1_010 + 10 * step))
        assert checks.numbers_in(tmp_path / "a") == list(range(1_030))

    def test_standard_input_is_never_passed_over(
        self, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(2):
            with stream.open("rb") as file:
                monkeypatch.setattr(sys, "stdin", file)
                checks.run_archive("-", tmp_path / "a", {}, format="delimited")
        assert checks.numbers_in(tmp_path / "a") == sorted([*range(1_000), *range(1_000)])

    def test_partitions_of_random_rows_resume_exactly(self, tmp_path: Path) -> None:
        rng = random.Random(3)
        stream = tmp_path / "s.ndjson"
        with stream.open("w") as file:
            for number in range(3_000):
                file.write(json.dumps({"code": str(number), "type": rng.choice("abc")}) + "\n")
        options = {"partition_by": "type", "max_file_rows": 100}
        checks.run_archive(stream, tmp_path / "a", options)
        held = checks.files(tmp_path / "a")
        for path in rng.sample(held, len(held) // 3):
            path.unlink()
        checks.run_archive(stream, tmp_path / "a", options)
        assert checks.numbers_in(tmp_path / "a") == list(range(3_000))
