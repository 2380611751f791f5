"""The runtime that generated writers stand on: converter, writer, storage, reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset import open_archive

__all__ = ["open_archive"]


def __getattr__(name: str) -> Any:
    # a writer must not wait for the import of what only readers need
    if name in __all__:
        from . import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
