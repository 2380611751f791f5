"""Parts of uploads on their way, several at once, in threads that all uploads of an archive share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

__all__ = ["PART_BYTES", "Lanes"]

PART_BYTES: Final = 8 << 20
"""The size of a part: 10,000 of them, which is all that S3 takes, are 80 GB."""

_LANES: Final = 4


class Lanes:
    """A few threads that send parts, and no more parts in memory than threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_LANES, thread_name_prefix="upload")
        self._free = threading.BoundedSemaphore(_LANES)

    def send(self, call: Callable[[], Any]) -> Future[Any]:
        """Has a part sent; waits until a thread is free for it."""
        self._free.acquire()
        try:
            future = self._pool.submit(call)
        except RuntimeError:  # the interpreter is on its way out and takes no more
            future = Future()
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def close(self) -> None:
        """Ends the threads once they are done."""
        self._pool.shutdown(wait=False)
