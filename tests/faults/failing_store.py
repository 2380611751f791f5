"""A store in memory, reached through fsspec, that fails when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class FailingStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Counts the calls that reach it; `plan` says which of them fail, before or after they have done it."""

    protocol = "failing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    calls: ClassVar[int] = 0
    plan: ClassVar[Callable[[int, str, bool], Exception | None] | None] = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.removeprefix("failing://"))
        return stripped

    @classmethod
    def empty(cls) -> None:
        """As if nothing had ever been there."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.calls = 0
        cls.plan = None


def _counted(name: str) -> Callable[..., Any]:
    real = getattr(MemoryFileSystem, name)

    def method(self: FailingStore, *arguments: Any, **options: Any) -> Any:
        FailingStore.calls += 1
        call = FailingStore.calls
        plan = FailingStore.plan
        error = plan(call, name, False) if plan is not None else None
        if error is not None:
            raise error
        result = real(self, *arguments, **options)
        error = plan(call, name, True) if plan is not None else None
        if error is not None:
            raise error
        return result

    return method


for _name in (
    "cp_file",
    "find",
    "info",
    "makedirs",
    "mv",
    "open",
    "pipe_file",
    "put_file",
    "rm_file",
):
    setattr(FailingStore, _name, _counted(_name))

fsspec.register_implementation("failing", FailingStore, clobber=True)
