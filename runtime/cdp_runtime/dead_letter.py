"""Dead letters: what could not be decoded, kept with the reason as Parquet beside the tables."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import pyarrow as pa

__all__ = [
    "DEAD_LETTER_SCHEMA",
    "FOLDER",
    "RETRY_FOLDER",
    "DeadLetter",
    "Form",
    "counted",
    "printable",
    "shortened",
    "to_batch",
]

FOLDER: Final = "_dead_letter"
"""The folder of an archive that has a folder of dead letters for each table."""

RETRY_FOLDER: Final = "_retry"
"""The folder of letters that are being retried; see `cdp_runtime.dead_letters`."""

Form = Literal["message", "json", "bytes"]
"""What a payload was taken for: a serialized message, a message as JSON text, or a piece of a stream whose
messages cannot be told apart any more."""

_REASON: Final = 500
"""How many characters of a reason are kept."""

DEAD_LETTER_SCHEMA: Final = pa.schema(
    [
        pa.field("payload", pa.binary()),
        pa.field("reason", pa.utf8(), nullable=False),
        pa.field("source", pa.utf8()),
        pa.field("position", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("form", pa.utf8(), nullable=False),
    ]
)


class DeadLetter(NamedTuple):
    """A message that is none.

    Attributes:
        payload: its bytes; None for a null among payloads.
        reason: what is wrong, for people; its beginning is kept.
        source: where it comes from; empty when the caller did not say.
        position: where it stands in its source.
        offset: the byte of the payload at which decoding stopped.
        whole: whether it stood alone in its source; False for a piece of one that lost its framing or
            ends too early, which reads otherwise when the source has grown.
        form: what the payload was taken for.
        time: when it became a dead letter; None for now.
    """

    payload: bytes | None
    reason: str
    source: str = ""
    position: int | None = None
    offset: int | None = None
    whole: bool = True
    form: Form = "message"
    time: datetime.datetime | None = None


def to_batch(letters: Sequence[DeadLetter]) -> pa.RecordBatch:
    """Dead letters as rows of `DEAD_LETTER_SCHEMA`."""
    now = datetime.datetime.now(datetime.UTC)
    return pa.record_batch(
        [
            pa.array([letter.payload for letter in letters], pa.binary()),
            pa.array([shortened(letter.reason) for letter in letters], pa.utf8()),
            pa.array([letter.source or None for letter in letters], pa.utf8()),
            pa.array([letter.position for letter in letters], pa.int64()),
            pa.array([letter.offset for letter in letters], pa.int64()),
            pa.array([letter.time or now for letter in letters], pa.timestamp("us", "UTC")),
            pa.array([letter.form for letter in letters], pa.utf8()),
        ],
        schema=DEAD_LETTER_SCHEMA,
    )


def counted(number: int, what: str = "dead letter") -> str:
    """A number of something, for people."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """A text without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(reason: str) -> str:
    """A reason as it is kept: what an error quotes may be a whole message, or half of a surrogate pair, which
    is no text in a file.
    """
    text = reason[: _REASON + 1].encode(errors="backslashreplace").decode()
    return text if len(text) <= _REASON else f"{text[: _REASON - 1]}…"
