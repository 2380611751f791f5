"""Length-delimited protobuf: each message behind its size as a varint."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from cdp_runtime._native import Block
from cdp_runtime.converter import ConversionError, split_delimited
from cdp_runtime.dead_letter import DeadLetter

from . import Batch
from .files import BLOCK, Reader, rest_of

__all__ = ["read_delimited"]


def read_delimited(
    reader: Reader, source: str, *, max_message_bytes: int
) -> Iterator[Batch | DeadLetter]:
    """Reads messages, numbered from 0; they are views of the blocks that were read.

    A length prefix that is malformed or too large, or an end inside of a message, loses the framing:
    from there to the end of the input everything is dead letters, which say so.

    Args:
        reader: the input.
        source: its name.
        max_message_bytes: a length prefix above this is taken for corrupt.

    Raises:
        OSError: the input cannot be read on.
    """
    tail = b""
    start = number = 0
    wanted = 1
    while True:
        block, got = _read_behind(tail, reader, wanted)
        try:
            messages, taken = split_delimited(block, max_message_bytes=max_message_bytes)
        except ConversionError as error:
            reason = (
                f"the framing is lost at byte {start}: {error.reason}; "
                "nothing after it can be told apart"
            )
            yield from rest_of(reader, block.to_pybytes(), source, number, reason)
            return
        if got == 0:
            break
        if len(messages) > 0:
            yield Batch(messages, source, range(number, number + len(messages)))
        number += len(messages)
        tail = block.slice(taken).to_pybytes()
        start += taken
        # while a message is larger than a block, twice as much each time: copies stay linear
        wanted = 1 if taken else len(tail)
    if tail:
        reason = (
            f"the input ends inside of the message at byte {start}, or the framing is lost there"
        )
        yield from rest_of(reader, tail, source, number, reason)


def _read_behind(tail: bytes, reader: Reader, wanted: int) -> tuple[pa.Buffer, int]:
    """A block that begins with the tail of the one before, and how many bytes are new."""
    block = pa.py_buffer(Block(max(BLOCK, len(tail) + max(BLOCK // 2, wanted))))
    end = len(tail)
    with memoryview(block).cast("B") as view:
        view[:end] = tail
        while end - len(tail) < wanted:
            got = reader.readinto(view[end:])
            if not got:
                break
            end += got
    filled = block.slice(0, end)
    if end < block.size // 2:  # a pipe may give little, and messages keep their whole block alive
        filled = pa.py_buffer(filled.to_pybytes())
    return filled, end - len(tail)
