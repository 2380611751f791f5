"""Waits while a store or a disk fails in a way that passes: nothing is lost by it, and it is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

# not first where something has failed: with no descriptor left no module can be loaded
import tenacity

from .log import STANDARD_ERROR, logger
from .store_errors import is_transient

if TYPE_CHECKING:
    from .metrics import Metrics

__all__ = ["GaveUpError", "Patience"]

T = TypeVar("T")


class GaveUpError(OSError):
    """Waiting was ended from outside; `__cause__` is what it waited for."""


class Patience:
    """Calls what may fail until it does not, or fails for good.

    What is transient is tried again after waits that grow, with jitter. After some attempts the writer
    counts as paused: it says so in the log, its metrics are unhealthy, and it goes on trying at the longest
    wait until the store is back.

    Args:
        name: of what waits, for the log.
        metrics: `healthy` and `retries` are set there.
    """

    FIRST_WAIT: float = 0.1
    """Seconds before the second attempt, on average."""
    LONGEST_WAIT: float = 30.0
    """Seconds between attempts at most."""
    ATTEMPTS: int = 6
    """How many fail before the writer counts as paused."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self._name: Final = name
        self._metrics = metrics
        self._ended = threading.Event()

    def give_up(self) -> None:
        """Makes every wait, now and later, end with the error that it waits for."""
        self._ended.set()

    def call(self, action: Callable[[], T], doing: str) -> T:
        """Calls something that can be called again, until it succeeds.

        Args:
            action: what to call.
            doing: what it does, for the log: `publish file.parquet`.

        Raises:
            GaveUpError: `give_up` was called while it failed.
            Exception: what it raises that will not pass.
        """
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
            return self._again(action, doing, error)

    def _again(self, action: Callable[[], T], doing: str, first: Exception) -> T:
        tried = [first]

        def attempt() -> T:
            if tried:
                raise tried.pop()
            return action()

        result = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_random_exponential(self.FIRST_WAIT, self.LONGEST_WAIT)
            + tenacity.wait_fixed(self.FIRST_WAIT / 2),
            before_sleep=lambda state: self._tell(state, doing),
            sleep=self._wait,
            stop=self._stop,
            retry_error_callback=self._raise,
        )(attempt)
        if not self._metrics.healthy:
            self._metrics.healthy = True
            self._log("info", "resumed", writer=self._name, doing=doing)
        return result

    def _wait(self, seconds: float) -> None:
        self._ended.wait(seconds)

    def _stop(self, state: tenacity.RetryCallState) -> bool:
        return self._ended.is_set()

    def _raise(self, state: tenacity.RetryCallState) -> Any:
        assert state.outcome is not None
        error = state.outcome.exception()
        raise GaveUpError(f"gave up waiting: {error}") from error

    def _tell(self, state: tenacity.RetryCallState, doing: str) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        self._metrics.retries += 1
        about = {
            "writer": self._name,
            "doing": doing,
            "error": str(state.outcome.exception()),
            "attempt": state.attempt_number,
            "seconds_to_next": round(state.next_action.sleep, 1),
        }
        if state.attempt_number < self.ATTEMPTS:
            self._log("warning", "failed, trying again", **about)
        else:
            self._metrics.healthy = False
            self._log("error", "paused until the store is back", **about)

    @staticmethod
    def _log(level: str, event: str, **about: Any) -> None:
        try:
            log = logger()
        except OSError:  # a lack of descriptors, by which what it needs cannot be loaded either
            print(json.dumps({**about, "event": event, "level": level}), file=STANDARD_ERROR)
            return
        getattr(log, level)(event, **about)
