"""What a line of the log looks like, for people and for machines."""

from __future__ import annotations

import datetime
import io
import json
import sys

import pytest

from cdp_runtime.log import STANDARD_ERROR, logger


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class TestLogger:
    def test_a_file_or_pipe_gets_one_json_object_a_line(self) -> None:
        stream = io.StringIO()
        log = logger(stream)
        log.info("published", file="a.parquet", rows=3)
        log.warning("dead letters", reason="line\nbreak")
        first, second = (json.loads(line) for line in stream.getvalue().splitlines())
        assert (first["event"], first["level"]) == ("published", "info")
        assert (first["file"], first["rows"]) == ("a.parquet", 3)
        assert (second["level"], second["reason"]) == ("warning", "line\nbreak")

    def test_times_are_of_utc(self) -> None:
        stream = io.StringIO()
        logger(stream).info("published")
        said = datetime.datetime.fromisoformat(json.loads(stream.getvalue())["timestamp"])
        assert said.utcoffset() == datetime.timedelta(0)
        assert abs(datetime.datetime.now(datetime.UTC) - said) < datetime.timedelta(minutes=1)

    def test_a_terminal_gets_text_for_people(self) -> None:
        stream = Terminal()
        logger(stream).info("published", rows=3)
        assert "published" in stream.getvalue()
        assert not stream.getvalue().startswith("{")

    def test_without_a_stream_it_writes_to_what_standard_error_is_at_the_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stderr", io.StringIO())
        log = logger()
        later = io.StringIO()
        monkeypatch.setattr("sys.stderr", later)
        log.info("published")
        assert json.loads(later.getvalue())["event"] == "published"

    def test_what_standard_error_does_not_take_is_dropped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = io.StringIO()
        closed.close()
        full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
        for stream in (None, closed, full):
            monkeypatch.setattr("sys.stderr", stream)
            logger().info("published")
        later = io.StringIO()
        log = logger()
        monkeypatch.setattr("sys.stderr", later)
        log.info("published")
        assert json.loads(later.getvalue())["event"] == "published"

    def test_loggers_of_standard_error_share_a_lock(self) -> None:
        from structlog._output import WRITE_LOCKS

        loggers = [logger()]
        before = len(WRITE_LOCKS)
        loggers += [logger(), logger()]
        assert len(WRITE_LOCKS) == before

    def test_where_nothing_was_kept_back_nothing_is_forgotten(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        print("said", end="", file=sys.stderr)
        STANDARD_ERROR.forget()
        print(" and more", end="", file=sys.stderr)
        assert capfd.readouterr().err == "said and more"
