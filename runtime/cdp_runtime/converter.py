"""Bytes to record batches and back: the face of the native core.

Messages and bytes take one road: what is no bytes yet is serialized first, and the native core
(`runtime/native/`) runs the table's decode program over the bytes, with the GIL released.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import pyarrow as pa

from cdp_runtime import _native
from cdp_runtime.program import Program

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from typing_extensions import Buffer

__all__ = [
    "ConversionError",
    "Converter",
    "Decoded",
    "Payloads",
    "Rejected",
    "message_indexes",
    "split_delimited",
]

MAX_MESSAGE_BYTES = 2**31 - 1
"""What protobuf allows a serialized message to be, bytes."""


class Message(Protocol):
    """What a converter needs of a protobuf message object."""

    def SerializePartialToString(self) -> bytes:  # noqa: N802 - protobuf's own name
        """The message in wire format."""


M = TypeVar("M", bound=Message)

Payloads: TypeAlias = (
    Sequence[bytes | M] | pa.BinaryArray | pa.LargeBinaryArray | pa.BinaryViewArray
)
"""Serialized messages, message objects, or an Arrow binary array of serialized messages."""


class Rejected(NamedTuple):
    """A payload that is no valid message.

    Attributes:
        row: its index in the payloads given.
        offset: the byte in it at which decoding stopped.
        reason: what is wrong, for people.
    """

    row: int
    offset: int
    reason: str


class Decoded(NamedTuple):
    """What became of payloads.

    Attributes:
        batches: the valid messages, in the order of the payloads; more than one batch only where an
            int32 offset would overflow.
        rejected: the payloads that are no valid messages, by row.
    """

    batches: list[pa.RecordBatch]
    rejected: list[Rejected]


class ConversionError(ValueError):
    """A payload that is no valid message, or a value that no message can hold.

    Attributes:
        row: its index in what was given.
        offset: the byte in the payload at which decoding stopped.
        reason: what is wrong, for people.
    """

    def __init__(self, row: int, offset: int, reason: str) -> None:
        super().__init__(f"row {row}, byte {offset}: {reason}")
        self.row = row
        self.offset = offset
        self.reason = reason


class Converter(Generic[M]):
    """Converts one table's messages; base of the generated converters.

    Safe to use from several threads, which take turns.

    Args:
        max_depth: how deep messages may nest (protobuf's own limit is 100).
        max_message_bytes: how large one serialized message may be.
        max_columns: how many columns the table may have, those inside of others too.
        registry_indexes: payloads to decode begin with the prefix of Confluent's Schema Registry (magic
            byte, schema id, message indexes), and these are the indexes: where the message stands in the
            registered schema, `[0]` for the first (`message_indexes` tells). Any schema id is taken.

    Raises:
        ValueError: the table has more columns than allowed.
    """

    schema: ClassVar[pa.Schema]
    program: ClassVar[Program]

    def __init__(
        self,
        *,
        max_depth: int = 100,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_columns: int = 10_000,
        registry_indexes: Sequence[int] | None = None,
    ) -> None:
        self._codec = _native.Codec(
            self.program,
            self.schema,
            max_depth,
            max_message_bytes,
            max_columns,
            [] if registry_indexes is None else _encoded_indexes(registry_indexes),
        )

    def to_arrow(self, payloads: Payloads[M]) -> pa.RecordBatch:
        """The messages as one record batch of `schema`, a row a message.

        Raises:
            ConversionError: at the first payload that is no valid message.
            OverflowError: where the payloads need more than one batch (`decode` gives several).
            TypeError: there is a message of another type, or no message, among them.
        """
        payloads = self._checked(payloads)
        batches, rejected = self._codec.decode(payloads, True)
        if rejected:
            raise ConversionError(*rejected[0])
        if len(batches) > 1:
            raise OverflowError(
                f"{len(payloads)} messages overflow the 2 GiB offsets of one record batch; "
                "give fewer at a time, use `decode`, or a large_* rule"
            )
        return self._imported(batches[0])

    def decode(self, payloads: Payloads[M]) -> Decoded:
        """The same, with the payloads that are no valid messages set apart.

        Raises:
            TypeError: there is a message of another type, or no message, among them.
        """
        batches, rejected = self._codec.decode(self._checked(payloads), False)
        return Decoded(
            [self._imported(batch) for batch in batches], [Rejected(*bad) for bad in rejected]
        )

    def to_protobuf(self, batch: pa.RecordBatch) -> pa.BinaryArray:
        """The messages of a record batch, serialized; the inverse of `to_arrow`.

        A row whose `_raw` is not null gives exactly those bytes. Fields are written by number, so
        the bytes of one batch are always the same.

        Args:
            batch: of `schema`; columns in another order or of a type that casts are taken too.

        Raises:
            ConversionError: a value that no message can hold, with its row.
            pyarrow.ArrowInvalid: columns that are missing or do not cast to `schema`.
        """
        if not batch.schema.equals(self.schema):
            batch = batch.select(self.schema.names).cast(self.schema)
        try:
            encoded = self._codec.encode(batch)
        except ValueError as error:
            if len(error.args) != 2:
                raise
            row, reason = error.args
            raise ConversionError(row, 0, reason) from None
        return pa.BinaryArray._import_from_c(encoded.address, pa.binary())

    def _checked(self, payloads: Payloads[M]) -> Payloads[M]:
        """Refuses objects of another message, whose bytes would be read as if they were of this one.

        What begins and ends with bytes is taken for bytes: to look at each takes as long as to decode it.
        """
        if not isinstance(payloads, (list, tuple)):
            if hasattr(payloads, "__arrow_c_array__") or not isinstance(payloads, Iterable):
                return payloads  # the core says what is no list at all
            payloads = list(payloads)
        if not payloads or type(payloads[0]) is type(payloads[-1]) is bytes:
            return payloads
        for kind in dict.fromkeys(map(type, payloads)):
            descriptor = getattr(kind, "DESCRIPTOR", None)
            if descriptor is not None and descriptor.full_name != self.program.message:
                row = next(row for row, one in enumerate(payloads) if type(one) is kind)
                raise TypeError(
                    f"row {row}: expected a {self.program.message}, not a {descriptor.full_name}"
                )
        return payloads

    def _imported(self, batch: _native.Exported) -> pa.RecordBatch:
        return pa.RecordBatch._import_from_c(batch.address, self.schema)


def message_indexes(descriptor: Descriptor) -> list[int]:
    """Where a message stands in its file: its number there, or that of each message around it first."""
    around = descriptor.containing_type
    if around is None:
        return [list(descriptor.file.message_types_by_name.values()).index(descriptor)]
    return [*message_indexes(around), around.nested_types.index(descriptor)]


def _encoded_indexes(indexes: Sequence[int]) -> list[bytes]:
    """The forms that message indexes have in a prefix: zigzag varints behind their count, or 0 for [0]."""
    encoded = b"".join(_zigzag(number) for number in (len(indexes), *indexes))
    return [encoded, b"\0"] if list(indexes) == [0] else [encoded]


def _zigzag(number: int) -> bytes:
    number <<= 1
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def split_delimited(
    data: Buffer, *, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> tuple[pa.BinaryViewArray, int]:
    """The whole length-delimited messages at the start of a buffer, without copying them.

    Each message is preceded by its size as a varint, as `serialize_length_prefixed` of
    `google.protobuf.proto` and Java's `writeDelimitedTo` write it.

    Args:
        data: at most 2 GiB; the views returned keep it alive.
        max_message_bytes: a length prefix over this is taken for corrupt.

    Returns:
        The messages, and how many bytes they and their prefixes took; the rest is incomplete.

    Raises:
        ConversionError: where the first prefix is malformed or over the limit, with row and offset
            0; messages in front of a bad prefix are returned first.
    """
    views, taken, reason = _native.split_views(data, max_message_bytes)
    found = pa.py_buffer(views)
    count = found.size // 16
    if reason and count == 0:
        raise ConversionError(0, 0, reason)
    array: Any = pa.Array.from_buffers(pa.binary_view(), count, [None, found, pa.py_buffer(data)])
    return array, taken
