"""Arrow types as the generator needs them: how they are written in code and in the lock.

No pyarrow here: what a build needs is the text, and importing it takes longer than a build.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "BINARY",
    "DATE32",
    "DICTIONARY",
    "LIST",
    "MAP",
    "SCALARS",
    "STRING",
    "STRUCT",
    "ArrowType",
    "decimal",
    "duration",
    "fixed_binary",
    "large",
    "time64",
    "timestamp",
]


@dataclass(frozen=True, slots=True)
class ArrowType:
    """A type.

    Attributes:
        text: as `str(pyarrow_type)` has it, which the lock keeps; of nested types only the name, as
            their children are columns of their own.
        code: the expression that makes it; of nested types the function that takes the children.
    """

    text: str
    code: str


STRING: Final = ArrowType("string", "pa.string()")
BINARY: Final = ArrowType("binary", "pa.binary()")
DATE32: Final = ArrowType("date32[day]", "pa.date32()")
DICTIONARY: Final = ArrowType(
    "dictionary<values=string, indices=int32, ordered=0>", "pa.dictionary(pa.int32(), pa.string())"
)
STRUCT: Final = ArrowType("struct", "pa.struct")
LIST: Final = ArrowType("list", "pa.list_")
MAP: Final = ArrowType("map", "pa.map_")

_INT32: Final = ArrowType("int32", "pa.int32()")
_INT64: Final = ArrowType("int64", "pa.int64()")
_UINT32: Final = ArrowType("uint32", "pa.uint32()")
_UINT64: Final = ArrowType("uint64", "pa.uint64()")

SCALARS: Final = {
    "double": ArrowType("double", "pa.float64()"),
    "float": ArrowType("float", "pa.float32()"),
    "int32": _INT32,
    "sint32": _INT32,
    "sfixed32": _INT32,
    "int64": _INT64,
    "sint64": _INT64,
    "sfixed64": _INT64,
    "uint32": _UINT32,
    "fixed32": _UINT32,
    "uint64": _UINT64,
    "fixed64": _UINT64,
    "bool": ArrowType("bool", "pa.bool_()"),
    "string": STRING,
    "bytes": BINARY,
}
"""The Arrow type of each scalar type: the same width and sign."""


def large(type_: ArrowType) -> ArrowType:
    """The type with 64-bit offsets."""
    return {
        STRING: ArrowType("large_string", "pa.large_string()"),
        BINARY: ArrowType("large_binary", "pa.large_binary()"),
    }[type_]


def timestamp(unit: str) -> ArrowType:
    """A point of time in UTC."""
    return ArrowType(f"timestamp[{unit}, tz=UTC]", f'pa.timestamp("{unit}", tz="UTC")')


def duration(unit: str) -> ArrowType:
    """A length of time."""
    return ArrowType(f"duration[{unit}]", f'pa.duration("{unit}")')


def time64(unit: str) -> ArrowType:
    """A time of the day; `unit` is us or ns."""
    return ArrowType(f"time64[{unit}]", f'pa.time64("{unit}")')


def decimal(precision: int, scale: int) -> ArrowType:
    """A decimal of the narrowest width that holds the precision: 128 bits up to 38 digits."""
    width = 128 if precision <= 38 else 256
    return ArrowType(
        f"decimal{width}({precision}, {scale})", f"pa.decimal{width}({precision}, {scale})"
    )


def fixed_binary(size: int) -> ArrowType:
    """Bytes of one length."""
    return ArrowType(f"fixed_size_binary[{size}]", f"pa.binary({size})")
