"""Waiting for what passes, and for nothing else."""

from __future__ import annotations

import errno
import io
import json
import threading
import time
from collections.abc import Callable

import pytest

from cdp_runtime.metrics import Metrics
from cdp_runtime.patience import GaveUpError, Patience


class Quick(Patience):
    FIRST_WAIT = 0.001
    LONGEST_WAIT = 0.004


def failing(times: int, error: Exception) -> Callable[[], int]:
    """Fails so many times, and then tells how often it was called."""
    calls = 0

    def action() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise error
        return calls

    return action


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def events(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


class TestCall:
    def test_what_succeeds_is_called_once_and_nothing_is_said(
        self, metrics: Metrics, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert Quick("w", metrics).call(failing(0, OSError()), "do") == 1
        assert events(capsys) == []

    def test_what_passes_is_tried_again_and_said(
        self, metrics: Metrics, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert Quick("w", metrics).call(failing(2, TimeoutError()), "do") == 3
        assert events(capsys) == ["failed, trying again"] * 2
        assert metrics.healthy

    @pytest.mark.parametrize("loaded", [True, False])
    @pytest.mark.parametrize("closed", [True, False])
    def test_it_is_waited_for_also_where_it_cannot_be_said(
        self, closed: bool, loaded: bool, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_descriptors() -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        if not loaded:
            monkeypatch.setattr("cdp_runtime.patience.logger", no_descriptors)
        out = io.StringIO()
        monkeypatch.setattr("sys.stdout", out)
        full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
        monkeypatch.setattr("sys.stderr", None if closed else full)
        assert Quick("w", metrics).call(failing(8, TimeoutError()), "do") == 9
        assert out.getvalue() == ""

    def test_after_some_attempts_the_writer_is_paused_until_one_succeeds(
        self, metrics: Metrics, capsys: pytest.CaptureFixture[str]
    ) -> None:
        seen = []
        action = failing(8, ConnectionError("away"))

        def look() -> int:
            seen.append(metrics.healthy)
            return action()

        assert Quick("w", metrics).call(look, "do") == 9
        assert seen == [True] * 6 + [False] * 3
        assert metrics.healthy
        assert events(capsys) == [
            *["failed, trying again"] * 5,
            *["paused until the store is back"] * 3,
            "resumed",
        ]

    def test_what_does_not_pass_is_raised_at_once(self, metrics: Metrics) -> None:
        with pytest.raises(PermissionError):
            Quick("w", metrics).call(failing(1, PermissionError(13, "no")), "do")

    def test_what_stops_passing_is_raised_then(self, metrics: Metrics) -> None:
        errors = iter([TimeoutError(), TimeoutError(), KeyError("x")])

        def action() -> None:
            raise next(errors)

        with pytest.raises(KeyError):
            Quick("w", metrics).call(action, "do")


class TestGiveUp:
    def test_who_waits_stops_with_what_it_waits_for(self, metrics: Metrics) -> None:
        patience = Patience("w", metrics)
        patience.FIRST_WAIT = 60
        timer = threading.Timer(0.05, patience.give_up)
        timer.start()
        began = time.monotonic()
        with pytest.raises(GaveUpError, match="away") as raised:
            patience.call(failing(99, ConnectionError("away")), "do")
        assert time.monotonic() - began < 5
        assert isinstance(raised.value.__cause__, ConnectionError)
        timer.join()

    def test_nobody_waits_afterwards_but_what_succeeds_succeeds(self, metrics: Metrics) -> None:
        patience = Quick("w", metrics)
        patience.give_up()
        assert patience.call(failing(0, OSError()), "do") == 1
        with pytest.raises(GaveUpError):
            patience.call(failing(1, TimeoutError()), "do")
