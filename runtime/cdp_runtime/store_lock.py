"""Locks: what must not run twice at once on an archive holds one in it, and who lives holds one of its own.

On a disk the kernel holds the lock and lets it go when its process dies. In other stores it is a small object,
written anew every minute: each who wants the lock writes one under a name of its own and then looks for
others. Of two who come at the same time at least one sees the other and withdraws, so that no condition is
needed that only some stores know; a store need only list what was written. An object that was not written for
ten minutes, by the clock of the store, was left by somebody who died, or is suspended and will see that the
lock is lost: by the store's times of what it wrote before and after, and by its own clock.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from .store_errors import StorageError

if TYPE_CHECKING:
    from .store_other import RemoteStorage

__all__ = ["lock_of_dead", "lock_of_living", "locked_on_disk", "locked_remotely"]

LEASE_SECONDS: Final = 600
RENEW_SECONDS: Final = 60
_TRIES: Final = 3
_LONGEST_WAIT: Final = 2.0

_HELD: Final[weakref.WeakSet[IO[bytes]]] = weakref.WeakSet()
"""Files whose locks this process holds."""


@contextlib.contextmanager
def locked_on_disk(folder: Path, name: str) -> Iterator[Callable[[], None]]:
    """Holds the lock of a name in a folder; see `Storage.lock`."""
    import fcntl

    path = folder / f"{name}.lock"
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"{folder.parent}: another {name} is at work there; try again when it is done",
                    transient=True,
                ) from None
            if not _is_at(path, file):
                continue
            _HELD.add(file)
            try:
                yield lambda: None
            finally:
                path.unlink()
            return


def _after_fork() -> None:
    # or they would be locked for as long as the new process lives, though the one that holds them is dead
    for file in list(_HELD):
        file.close()


os.register_at_fork(after_in_child=_after_fork)


def lock_of_living(path: Path) -> IO[bytes]:
    """Makes a file and holds its lock, by which others tell the living from the dead, until it is closed.

    One that is there is taken over: it was left by somebody who died.
    """
    import fcntl

    while True:
        file = path.open("ab")
        fcntl.flock(
            file, fcntl.LOCK_EX
        )  # waits for who takes it for that of a dead one, and removes it
        if _is_at(path, file):
            _HELD.add(file)
            return file
        file.close()


def lock_of_dead(path: Path) -> IO[bytes] | None:
    """The lock of a file that nobody holds any more; None where somebody does, or it is gone."""
    import fcntl

    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return None
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, file):
            _HELD.add(file)
            return file
    file.close()
    return None


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether a file is there still: whoever held its lock may have removed it since it was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked_remotely(storage: RemoteStorage, folder: str, name: str) -> Iterator[Callable[[], None]]:
    """Holds the lock of a name in a folder of a store; see `Storage.lock`."""
    lock = _Lock(storage, folder, name)
    with storage.told(f"cannot lock it for {name}"):
        lock.take()
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # the next minute tries again
                lock.renew()

    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield lock.check
    finally:
        ended.set()
        thread.join()
        lock.leave()


def _now() -> float:
    """The time by a clock that nobody sets, and that goes on while the machine sleeps, where there is one."""
    boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if boot is None else time.clock_gettime(boot)


class _Lock:
    def __init__(self, storage: RemoteStorage, folder: str, name: str) -> None:
        self._storage = storage
        # of its own: others of this process fill the list that is kept of a folder with what was there before
        shared = storage.filesystem
        self._filesystem = type(shared)(
            *shared.storage_args, **{**shared.storage_options, "skip_instance_cache": True}
        )
        self._folder = folder
        self._name = name
        self._path = f"{folder}/{name}-{secrets.token_hex(8)}.lock"
        self._lost = False
        self._looking = threading.Lock()
        self._began = 0.0  # the last write that is known to be there, by our clock
        self._written: datetime.datetime | None = None  # the same by the store's

    def take(self) -> None:
        self._filesystem.makedirs(self._folder, exist_ok=True)
        for left in reversed(range(_TRIES)):
            self._began = _now()
            self._write()
            try:
                self._written = self._time()
                other = self._other()
            except BaseException:
                self.leave()
                raise
            if other is None:
                return
            self.leave()
            if left:  # the other may have come at the same time, and withdrawn too
                time.sleep(random.uniform(0, _LONGEST_WAIT))
        raise StorageError(
            f"{self._storage.url}: another {self._name} is at work there ({other}); try again when it is done, "
            f"or {LEASE_SECONDS // 60} minutes after it died",
            transient=True,
        )

    def renew(self) -> None:
        """Shows life, unless it was taken away."""
        with self._looking:
            if self._holds():
                began = _now()
                self._write()
                if self._holds():
                    self._began = began
                else:  # suspended since the look, it has written anew what another had removed
                    self.leave()

    def check(self) -> None:
        with (
            self._storage.told(f"cannot see whether it is still locked for {self._name}"),
            self._looking,
        ):
            if not self._holds():
                self.leave()
                raise StorageError(
                    f"{self._storage.url}: another {self._name} may have taken over: this one showed no life "
                    f"for {LEASE_SECONDS // 60} minutes; it ends here, and the other, or the next, goes on",
                    transient=True,
                )

    def _holds(self) -> bool:
        """Whether nobody can have taken it away; once somebody can, it is lost for good."""
        if not self._lost:
            before, self._written = self._written, self._time()
            self._lost = (
                before is None
                or self._written is None
                or (self._written - before).total_seconds() > LEASE_SECONDS
                or _now() - self._began > LEASE_SECONDS
            )
        return not self._lost

    def leave(self) -> None:
        with contextlib.suppress(Exception):
            self._filesystem.rm_file(self._path)

    def _time(self) -> datetime.datetime | None:
        """When it was last written, by the store; None when it is gone."""
        self._filesystem.invalidate_cache()
        try:
            written: datetime.datetime = self._filesystem.modified(self._path)
        except FileNotFoundError:
            return None
        return written

    def _write(self) -> None:
        who = f"process {os.getpid()} on {socket.gethostname()}"
        self._filesystem.pipe_file(self._path, who.encode())

    def _other(self) -> str | None:
        """Who else holds the lock, if anybody does who lives; the objects of the dead are removed."""
        self._filesystem.invalidate_cache()
        start = f"{self._folder}/{self._name}-".lstrip("/")
        now = self._filesystem.modified(self._path)
        for path in self._filesystem.find(self._folder):
            if path.lstrip("/").startswith(start) and path.lstrip("/") != self._path.lstrip("/"):
                with contextlib.suppress(FileNotFoundError):  # its holder has let it go
                    age = (now - self._filesystem.modified(path)).total_seconds()
                    if age <= LEASE_SECONDS:
                        who: str = self._filesystem.cat_file(path).decode(errors="replace")
                        return who
                    self._filesystem.rm_file(path)
        return None
