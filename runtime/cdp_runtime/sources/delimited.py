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
    ended = False
    while True:
        block, got = _read_behind(tail, reader, wanted, exactly=ended)
        try:
            messages, taken = split_delimited(block, max_message_bytes=max_message_bytes)
        except ConversionError as error:
            reason = (
                f"the framing is lost at byte {start}: {error.reason}; "
                "nothing after it can be told apart"
            )
            rest = None if ended else reader
            yield from rest_of(rest, block.to_pybytes(), source, number, reason)
            return
        if len(messages) > 0:
            yield Batch(messages, source, range(number, number + len(messages)))
        number += len(messages)
        tail = block.slice(taken).to_pybytes()
        start += taken
        if got == 0 or ended:
            if not tail or (got == 0 and ended):
                break
            # the rest of this message, and no byte of the next one: what comes after it is for another run
            ended = True
            wanted = _missing(tail)
        else:
            # while a message is larger than a block, twice as much each time: copies stay linear
            wanted = 1 if taken else len(tail)
    if tail:
        reason = (
            f"the input ends inside of the message at byte {start}, or the framing is lost there"
        )
        yield from rest_of(None, tail, source, number, reason)


def _missing(tail: bytes) -> int:
    """How many bytes of a message that is cut are still to come; a byte of its length, where that is cut."""
    size = shift = 0
    for at, byte in enumerate(tail):
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return at + 1 + size - len(tail)
    return 1


def _read_behind(
    tail: bytes, reader: Reader, wanted: int, *, exactly: bool
) -> tuple[pa.Buffer, int]:
    """A block that begins with the tail of the one before, and how many bytes are new: as wanted, or more."""
    block = pa.py_buffer(Block(max(BLOCK, len(tail) + max(BLOCK // 2, wanted))))
    end = len(tail)
    most = end + wanted if exactly else block.size
    with memoryview(block).cast("B") as view:
        view[:end] = tail
        while end - len(tail) < wanted:
            try:
                got = reader.readinto(view[end:most])
            except OSError:
                if end == len(tail):
                    raise
                break  # what came before may end a message; whoever asks again hears of it
            if not got:
                break
            end += got
    filled = block.slice(0, end)
    if end < block.size // 2:  # a pipe may give little, and messages keep their whole block alive
        filled = pa.py_buffer(filled.to_pybytes())
    return filled, end - len(tail)
