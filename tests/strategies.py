"""Random payloads of any message, mutations of payloads, and Hypothesis strategies of both.

Everything is drawn from a `random.Random`. Given Hypothesis's own (`st.randoms`), what fails
shrinks; given a seeded one, ten thousand payloads take a second.

Payloads are written field by field and not by `SerializeToString`, which never writes most of what
a parser has to take: fields twice and in any order, the other packing, overlong varints, map
entries without key or value, unknown fields.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

from tests.drawn_schemas import DrawnSchema, draw_schema

# The stubs of protobuf lack too much to type these.
Descriptor: TypeAlias = Any
FieldOf: TypeAlias = Any

VARINT, FIXED64, LENGTH, START, END, FIXED32 = range(6)

INTEGERS = (
    *(0, 1, 2, 3, 127, 128, 300, 16_383, 16_384, 1 << 28),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, (1 << 53) + 1),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 2, (1 << 64) - (1 << 31)),
)
NUMBERS = (0.0, -0.0, 1.0, 0.1, -1.5, 3e38, 1e-45, math.inf, -math.inf, math.nan)
DOUBLES = (
    *(struct.unpack("<Q", struct.pack("<d", x))[0] for x in NUMBERS),
    *(0xFFF8_0000_0000_0001, 0x7FF0_0000_0000_0001, 1, 0x7FEF_FFFF_FFFF_FFFF),
)
FLOATS = (
    *(struct.unpack("<I", struct.pack("<f", x))[0] for x in NUMBERS),
    *(0xFFC0_0001, 0x7F80_0001, 1, 0x7F7F_FFFF),
)
TEXTS = (
    *("", "a", "USDC", "naïve", "日本", "😀", "\0", "\U0010ffff", "x" * 40, "é" * 30, " ", '"\\\n'),
    # decimals, canonical and not
    *("0", "1", "-1", "12345", "-0", "+1", "007", "1.5", "1.50", "-0.01", "1.505", "1.500", ".5"),
    *("5.", "1e3", " 1", "9" * 38, "9" * 39, "-" + "9" * 36 + ".99", "9" * 76, "0.00", "1.0"),
    # hex, base64, base32, canonical and not
    *("00", "ff", "FF", "0g", "abc", "36fe1cfb", "36FE1cfb", "ab" * 32, "AB" * 32),
    *("AA==", "AB==", "AAAA", "/+8=", "_-8=", "AAA", "AAA=", "A", "aGVsbG8="),
    *("AA", "AE", "MZXW6", "mzxw6", "MZXW6YTB", "MZXW6===", "A1", "GA" + "A" * 54),
    *("\ufeff", "ascii and then é", "ascii " * 8 + "日"),
)
NO_TEXTS = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"abc\xe2\x82",
    b"a" * 20 + b"\x80",
)

_SECONDS = (
    *(0, 1, -1, 1_713_730_569, -62_135_596_800, 253_402_300_799, -62_135_596_801),
    *(253_402_300_800, 9_223_372_036, 9_223_372_037, -9_223_372_037, 9_223_372_036_854),
    *(9_223_372_036_855, 9_223_372_036_854_775, -9_223_372_036_854_776, (1 << 63) - 1, -(1 << 63)),
)
_NANOS = (0, 0, 0, 500_000_000, 1_000_000, 1_000, 1, 999_999_999, 999_999_000, 1_000_000_000, -1)
# What makes sense of the fields of well-known types, beside some that does not.
POOLS: Mapping[str, Sequence[int]] = {
    "google.protobuf.Timestamp.seconds": _SECONDS,
    "google.protobuf.Timestamp.nanos": _NANOS,
    "google.protobuf.Duration.seconds": (*_SECONDS, 0, 0, 5, -5),
    "google.protobuf.Duration.nanos": (*_NANOS, -500_000_000, -1_000, -999_999_999),
    "google.protobuf.Value.null_value": (0, 0, 0, 0, 1),
    "google.type.Date.year": (1970, 2024, 2023, 1, 9999, 0, 10_000, -1),
    "google.type.Date.month": (1, 2, 2, 12, 0, 13),
    "google.type.Date.day": (1, 28, 29, 30, 31, 0, 32),
    "google.type.TimeOfDay.hours": (0, 1, 12, 23, 24, 25, -1),
    "google.type.TimeOfDay.minutes": (0, 1, 59, 60, -1),
    "google.type.TimeOfDay.seconds": (0, 1, 59, 60, 61),
    "google.type.TimeOfDay.nanos": _NANOS,
}

_ZIGZAG = {FieldDescriptor.TYPE_SINT32: 32, FieldDescriptor.TYPE_SINT64: 64}
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: DOUBLES,
    FieldDescriptor.TYPE_FIXED64: INTEGERS,
    FieldDescriptor.TYPE_SFIXED64: INTEGERS,
    FieldDescriptor.TYPE_FLOAT: FLOATS,
    FieldDescriptor.TYPE_FIXED32: INTEGERS,
    FieldDescriptor.TYPE_SFIXED32: INTEGERS,
}
_WIRE = {
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_FIXED64: FIXED64,
    FieldDescriptor.TYPE_SFIXED64: FIXED64,
    FieldDescriptor.TYPE_FLOAT: FIXED32,
    FieldDescriptor.TYPE_FIXED32: FIXED32,
    FieldDescriptor.TYPE_SFIXED32: FIXED32,
    FieldDescriptor.TYPE_STRING: LENGTH,
    FieldDescriptor.TYPE_BYTES: LENGTH,
    FieldDescriptor.TYPE_MESSAGE: LENGTH,
    FieldDescriptor.TYPE_GROUP: START,
}


def varint(value: int, overlong: int = 0) -> bytes:
    """The varint of a value below 2^64, `overlong` bytes longer than it need be (at most 10)."""
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    groups += [0] * min(overlong, 10 - len(groups))
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def tag(number: int, wire: int) -> bytes:
    """The tag of a field."""
    return varint(number << 3 | wire)


def delimited(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return tag(number, LENGTH) + varint(len(content)) + content


def group(number: int, content: bytes) -> bytes:
    """A group."""
    return tag(number, START) + content + tag(number, END)


class Writer:
    """Writes random payloads.

    Args:
        rng: where everything is drawn from.
        noise: how likely each oddity is: 0 for payloads as a serializer writes them.
        depth: how deep messages nest at most.
    """

    def __init__(self, rng: random.Random, noise: float = 0.1, depth: int = 5) -> None:
        self.rng = rng
        self.noise = noise
        self.depth = depth

    def odd(self) -> bool:
        """Whether to do something that a serializer would not."""
        return self.noise > 0 and self.rng.random() < self.noise

    def payload(self, message: Descriptor, depth: int = 0) -> bytes:
        """The bytes of one message; valid but for a text in a few that is not UTF-8."""
        fields = [*message.fields, *message.file.pool.FindAllExtensions(message)]
        if not fields or depth > self.depth:
            chosen = []
        elif message.GetOptions().map_entry:
            chosen = [field for field in fields if not self.odd()]
        else:
            few = self.rng.randrange(min(len(fields), 12 if depth == 0 else 5) + 1)
            chosen = self.rng.sample(fields, few)
            if not self.odd():
                chosen.sort(key=lambda field: field.number)
            if chosen and self.odd():
                chosen.append(self.rng.choice(chosen))
        parts = [self.field(field, depth) for field in chosen]
        if self.odd():
            parts.insert(self.rng.randrange(len(parts) + 1), self.unknown(message, depth))
        return b"".join(parts)

    def field(self, field: FieldOf, depth: int) -> bytes:
        if not field.is_repeated:
            return self.value(field, depth)
        count = self.rng.randrange(4)
        packable = field.type in _FIXED or field.type not in _WIRE
        if packable and field.is_packed != self.odd():
            return delimited(field.number, b"".join(self.bare(field, depth) for _ in range(count)))
        return b"".join(self.value(field, depth) for _ in range(count))

    def value(self, field: FieldOf, depth: int) -> bytes:
        wire = _WIRE.get(field.type, VARINT)
        content = self.bare(field, depth)
        if wire == LENGTH:
            return delimited(field.number, content)
        return (
            tag(field.number, wire) + content + (tag(field.number, END) if wire == START else b"")
        )

    def bare(self, field: FieldOf, depth: int) -> bytes:
        """A value without its tag and length."""
        kind = field.type
        if kind in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP):
            return self.payload(field.message_type, depth + 1)
        if kind == FieldDescriptor.TYPE_STRING:
            if self.odd() and self.odd():
                return self.rng.choice(NO_TEXTS)
            return self.rng.choice(TEXTS).encode()
        if kind == FieldDescriptor.TYPE_BYTES:
            return self.rng.choice((b"", b"\0", b"\xff\xfe", b"a" * 32, b"bytes"))
        if kind in _FIXED:
            size = 8 if _WIRE[kind] == FIXED64 else 4
            return (self.rng.choice(_FIXED[kind]) % (1 << 8 * size)).to_bytes(size, "little")
        return varint(self.number(field), overlong=self.rng.randrange(9) if self.odd() else 0)

    def number(self, field: FieldOf) -> int:
        """A number as its varint holds it."""
        if field.full_name in POOLS:
            return self.rng.choice(POOLS[field.full_name]) % (1 << 64)
        if field.type == FieldDescriptor.TYPE_ENUM and not self.odd():
            return self.rng.choice(field.enum_type.values).number % (1 << 64)
        value = self.rng.choice(INTEGERS)
        signed32 = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM)
        if field.type in signed32 and not self.odd() and value >= 1 << 31:
            return value | (1 << 64) - (1 << 32)  # as a serializer writes negative numbers
        return value

    def unknown(self, message: Descriptor, depth: int) -> bytes:
        """A field that the message does not have, or has with another type."""
        number = self.rng.choice((*range(1, 20), 999, 18_999, (1 << 29) - 1))
        wire = self.rng.choice((VARINT, FIXED64, LENGTH, START, FIXED32))
        if number in message.fields_by_number and _WIRE.get(
            message.fields_by_number[number].type, VARINT
        ) in (wire, LENGTH):
            number = 777
        if wire == VARINT:
            return tag(number, wire) + varint(self.rng.choice(INTEGERS))
        if wire == LENGTH:
            return delimited(number, self.rng.choice((b"", b"\x08\x01", b"\xff", b"newer field")))
        if wire == START:
            inner = self.unknown(message, depth + 1) if depth < self.depth else b""
            return group(number, inner)
        return tag(number, wire) + self.rng.randbytes(8 if wire == FIXED64 else 4)


def payload(rng: random.Random, message: Descriptor, noise: float = 0.1) -> bytes:
    """The bytes of one random message, see `Writer`."""
    return Writer(rng, noise).payload(message)


def mutate(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """The bytes after one to four accidents; `other` is what may be spliced in."""
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(mutant) + 1)
        match rng.randrange(7):
            case 0 | 1 if at < len(mutant):
                mutant[at] ^= 1 << rng.randrange(8)
            case 2:
                del mutant[at:]
            case 3:
                mutant[at:at] = rng.randbytes(rng.randrange(1, 4))
            case 4:
                del mutant[at : at + rng.randrange(1, 4)]
            case 5:
                start = rng.randrange(len(other) + 1)
                mutant[at:at] = other[start : start + rng.randrange(16)]
            case _ if at < len(mutant):
                mutant[at] = rng.choice((0x00, 0x7F, 0x80, 0xFF))
    return bytes(mutant)


def payloads(message: Descriptor, noise: float = 0.1) -> st.SearchStrategy[bytes]:
    """Payloads of a message."""
    return st.builds(payload, st.randoms(use_true_random=False), st.just(message), st.just(noise))


def schemas() -> st.SearchStrategy[DrawnSchema]:
    """Whole schemas with their rules."""
    return st.builds(draw_schema, st.randoms(use_true_random=False))
