"""Timing contenders against each other: in turns, in one process, medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

OURS = "cdpgen"


def race(
    benchmark: Any,
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    **about: object,
) -> dict[str, float]:
    """Runs every contender once a round and keeps the median of each in the benchmark's report.

    They take turns, so that whatever slows the machine down for a while slows all of them. What one
    makes is dropped before the next begins, and dropping it counts.

    Args:
        benchmark: the fixture of pytest-benchmark, which itself times the contender `cdpgen`.
        contenders: what to run, by name; one of them is `cdpgen`.
        rounds: how often, after one round that does not count.
        about: what the tables need besides.

    Returns:
        The median of each contender, seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders if name != OURS}

    def others() -> None:
        for name, seconds in taken.items():
            began = time.perf_counter()
            contenders[name]()
            seconds.append(time.perf_counter() - began)

    def ours() -> None:
        contenders[OURS]()  # not returned: pytest-benchmark would keep it

    with _quiet():
        benchmark.pedantic(ours, setup=others, rounds=rounds, warmup_rounds=1)
    # The setup ran before the warm-up too.
    medians = {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}
    medians = {OURS: benchmark.stats.stats.median, **medians}
    benchmark.extra_info.update(about, seconds=medians)
    return medians


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection meanwhile, of objects that were there before or that come."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
