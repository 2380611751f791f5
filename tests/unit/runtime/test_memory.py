"""Blocks of memory that come back to the core's pool, and what is done with them."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator

import pytest

from cdp_runtime._native import Block, limit_idle_memory
from cdp_runtime.pipeline import _IDLE_BYTES
from tests.process import STATM, resident

PAGES = 128


@pytest.fixture(autouse=True)
def little_idle_memory() -> Iterator[None]:
    limit_idle_memory(8 << 20)
    yield
    limit_idle_memory(_IDLE_BYTES)


def fill(block: Block) -> None:
    memoryview(block)[::4096] = bytes(PAGES)


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
class TestPool:
    def test_what_is_used_again_and_again_stays_when_there_is_much_that_nobody_uses(self) -> None:
        del [[Block((1 << 20) + step) for step in range(0, 1 << 20, 1 << 16)]][:]
        before = faults()
        for _ in range(100):
            fill(Block(PAGES * 4096))
        assert faults() - before < 10 * PAGES

    def test_what_nobody_uses_is_given_back(self) -> None:
        limit_idle_memory(0)
        before = resident()
        block = Block(64 << 20)
        memoryview(block)[::4096] = bytes(16 << 10)
        assert resident() - before > 60 << 20
        del block
        assert resident() - before < 4 << 20

    def test_blocks_of_all_sizes_in_any_order_keep_their_bytes_and_leave_nothing(self) -> None:
        limit_idle_memory(1 << 20)
        random_ = random.Random(5)
        before = resident()
        blocks: list[tuple[Block, int]] = []
        for number in range(4_000):
            if len(blocks) > 200:
                block, byte = blocks.pop(random_.randrange(len(blocks)))
                assert memoryview(block).tobytes().count(byte) == memoryview(block).nbytes
            block = Block(random_.randrange(1, 4 << random_.randrange(2, 18)))
            memoryview(block)[:] = bytes([number % 256]) * memoryview(block).nbytes
            blocks.append((block, number % 256))
        del block, blocks
        assert resident() - before < 48 << 20  # of about 130 MB that all took in turn

    def test_what_has_no_room_beside_others_is_not_kept(self) -> None:
        small = Block(PAGES * 4096)
        fill(small)
        del small
        del [Block(8 << 20)][:]
        before = faults()
        fill(Block(PAGES * 4096))
        assert faults() - before < PAGES // 2
