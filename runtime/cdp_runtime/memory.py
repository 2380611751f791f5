"""Arrow's memory for large blocks that come and go, in several threads."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

__all__ = ["BLOCKS"]


def _blocks() -> pa.MemoryPool:
    try:
        return pa.jemalloc_memory_pool()
    except NotImplementedError:  # pyarrow was built without it
        return pa.default_memory_pool()


BLOCKS: Final = _blocks()
"""Of the allocators that pyarrow has, the one that keeps nothing for good of blocks that one thread makes and
another frees: with the others a long run grows by a fifth."""
