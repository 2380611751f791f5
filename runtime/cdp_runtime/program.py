"""The decode program: how each protobuf field of a message becomes an Arrow column, and back.

The generator writes programs out as literals in the generated modules, so that a schema change is
a readable diff; the native core compiles one once per converter (`cdp_runtime.converter`) together
with the table's Arrow schema, which alone says what type a column has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

__all__ = ["Encoding", "Enum", "Field", "Kind", "Presence", "Program"]

Kind = Literal[
    # the scalar types of the language, by their names in a .proto
    "double",
    "float",
    "int32",
    "int64",
    "uint32",
    "uint64",
    "sint32",
    "sint64",
    "fixed32",
    "fixed64",
    "sfixed32",
    "sfixed64",
    "bool",
    "string",
    "bytes",
    "enum",
    # length-prefixed and delimited (proto2 group) sub-messages, and map entries
    "message",
    "group",
    "map",
    # well-known types that are one column, not a struct
    "timestamp",
    "duration",
    "wrapper",
    "json",
    "date",
    "time_of_day",
]
"""What a field is on the wire."""

Presence = Literal["implicit", "optional", "required", "repeated", "packed"]
"""`implicit`: absent and zero are one; `optional`: absent is null; `packed`: repeated, packed."""

Encoding = Literal[
    "",
    "decimal",
    "hex",
    "base64",
    "base32",
    "unix_s",
    "unix_ms",
    "unix_us",
    "serialized",
    "lossy_utf8",
    "flatten",
]
"""How the wire value becomes the column's: parsed text (`decimal`, `hex`, `base64`, `base32`), an
integer since the Unix epoch (`unix_*`), a sub-message kept as its bytes (`serialized`), a string
that need not be UTF-8 (`lossy_utf8`), a sub-message whose columns stand in its parent's place
(`flatten`)."""


class Enum:
    """The numbers and names of one enum, in the order of its `.proto`; the first alias counts."""

    __slots__ = ("closed", "name", "values")

    def __init__(self, name: str, *values: tuple[int, str], closed: bool = False) -> None:
        self.name: Final = name
        self.values: Final = values
        self.closed: Final = closed


class Field:
    """One field of a message: its number and kind on the wire, and the column that takes it.

    Args:
        number: the field number, 1 to 536,870,911.
        kind: the type on the wire.
        column: the name of the column among those of the enclosing struct; empty for a `flatten`ed
            message; None for a field that a rule drops: known, and not kept.
        presence: how absence is told, or that the field repeats.
        encoding: how the wire value becomes the column's value; empty: as it is (a `float` also as the
            same double, where the column is of doubles).
        oneof: the name of the oneof that the field is a member of, if any.
        name: what the oneof's case column and errors say, where that is not the column's name.
        enum: the names, for kind `enum` (None: the column holds the numbers).
        program: the fields of a sub-message or map entry (key is 1, value is 2); for kind `wrapper`
            the one field of the wrapper message. Of a message that is kept as its bytes the name is
            enough where a message around it, or the `contents` of the outermost program, has that.
    """

    __slots__ = (
        "column",
        "encoding",
        "enum",
        "kind",
        "name",
        "number",
        "oneof",
        "presence",
        "program",
    )

    def __init__(
        self,
        number: int,
        kind: Kind,
        column: str | None,
        presence: Presence = "implicit",
        *,
        encoding: Encoding = "",
        oneof: str = "",
        name: str = "",
        enum: Enum | None = None,
        program: Program | None = None,
    ) -> None:
        self.number: Final = number
        self.kind: Final = kind
        self.column: Final = column
        self.presence: Final = presence
        self.encoding: Final = encoding
        self.oneof: Final = oneof
        self.name: Final = name
        self.enum: Final = enum
        self.program: Final = program


class Program:
    """The fields of one message, in the order of its columns.

    Args:
        message: the full protobuf name of the message.
        fields: its fields.
        oneof_cases: for each oneof that has a case column, (oneof, column).
        raw: the name of the column that takes the original bytes of a message that the other
            columns cannot hold; empty where lossless is off. Only the outermost program has one.
        contents: what messages that are kept as their bytes are checked by, and those within them:
            one program a message, its fields without columns. Only the outermost program has any.
    """

    __slots__ = ("contents", "fields", "message", "oneof_cases", "raw")

    def __init__(
        self,
        message: str,
        *fields: Field,
        oneof_cases: Sequence[tuple[str, str]] = (),
        raw: str = "",
        contents: Sequence[Program] = (),
    ) -> None:
        self.message: Final = message
        self.fields: Final = fields
        self.oneof_cases: Final = tuple(oneof_cases)
        self.raw: Final = raw
        self.contents: Final = tuple(contents)
