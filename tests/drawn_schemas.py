"""Random schemas: a `.proto` of any syntax with the rules for its tables."""

from __future__ import annotations

import itertools
import random
from typing import Any, NamedTuple

import yaml

SCALARS = (
    *("double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64"),
    *("fixed32", "fixed64", "sfixed32", "sfixed64", "bool", "string", "bytes"),
)
KEYS = tuple(kind for kind in SCALARS if kind not in ("double", "float", "bytes"))
WELL_KNOWN = {
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
    "google.protobuf.Any": "any",
    "google.protobuf.Struct": "struct",
    "google.protobuf.Value": "struct",
    "google.protobuf.ListValue": "struct",
    **{
        f"google.protobuf.{name}Value": "wrappers"
        for name in (
            "Double",
            "Float",
            "Int64",
            "UInt64",
            "Int32",
            "UInt32",
            "Bool",
            "String",
            "Bytes",
        )
    },
}
INTEGERS = tuple(kind for kind in SCALARS if "int" in kind or "fixed" in kind)
WIDE = ("int64", "sint64", "sfixed64")

_unique = itertools.count()


class DrawnSchema(NamedTuple):
    """One schema, to be written into a folder of its own.

    Its package is another one every time, as the default descriptor pool never forgets a file.
    """

    package: str
    path: str
    proto: str
    rules: str
    tables: tuple[str, ...]

    def __repr__(self) -> str:
        return f"{self.path}:\n{self.proto}\ncdpgen.yaml:\n{self.rules}"


class _Message(NamedTuple):
    name: str
    path: str
    lines: list[str]
    rules: dict[str, dict[str, Any]]
    """What may be ruled about a column: by the path of the field within the message."""
    parts: list[tuple[str, str]]
    """The fields that are messages of the schema: (field, full type name)."""


class _Drawing:
    def __init__(self, rng: random.Random, package: str) -> None:
        self.rng = rng
        self.package = package
        self.syntax = rng.choice(("proto3", "proto3", "proto2", "editions"))
        self.imports: set[str] = set()
        self.enums: list[str] = []
        self.messages: list[str] = []
        self.names = (f"n{i}" for i in itertools.count())
        self.implicit = self.syntax == "proto3"

    def likely(self, chance: float) -> bool:
        return self.rng.random() < chance

    # Enums

    def enum(self, name: str, indent: str) -> list[str]:
        closed = self.syntax == "editions" and self.likely(0.3)
        numbers = [0]  # first, as maps and open enums want it
        for _ in range(self.rng.randrange(5)):
            numbers.append(self.rng.choice((1, 2, 3, 7, -1, 1000, 2**31 - 1, -(2**31))))
        alias = len(set(numbers)) < len(numbers)
        lines = [f"{indent}enum {name} {{"]
        if alias:
            lines.append(f"{indent}  option allow_alias = true;")
        if closed:
            lines.append(f"{indent}  option features.enum_type = CLOSED;")
        for i, number in enumerate(numbers):
            lines.append(f"{indent}  {name.upper()}_{i} = {number};")
        return [*lines, f"{indent}}}"]

    # Messages

    def numbers(self) -> list[int]:
        pool = [*range(1, 30), 100, 1000, 18_999, 20_000, 536_870_911]
        return self.rng.sample(pool, len(pool)) if self.likely(0.3) else pool

    def message(self, name: str, outer: str, indent: str) -> tuple[list[str], dict[str, Any]]:
        """One message with what is nested in it: its lines, and the rules of its columns."""
        path = f"{outer}.{name}" if outer else name
        lines = [f"{indent}message {name} {{"]
        rules: dict[str, Any] = {}
        inside = indent + "  "
        self.messages.append(path)  # from here on: so a message may hold itself
        if self.likely(0.25):
            enum = f"E{next(self.names)}"
            lines += self.enum(enum, inside)
            self.enums.append(f"{path}.{enum}")
        if len(indent) < 4 and self.likely(0.3):
            lines += self.message(f"M{next(self.names)}", path, inside)[0]
        numbers = iter(self.numbers())
        for _ in range(self.rng.randrange(7)):
            if self.likely(0.15):
                lines.append(f"{inside}oneof {next(self.names)} {{")
                for _ in range(self.rng.randrange(1, 4)):
                    lines += self.member(next(numbers), inside + "  ", rules)
                lines.append(f"{inside}}}")
            else:
                lines += self.member(next(numbers), inside, rules, anywhere=True)
        if self.syntax != "proto3" and self.likely(0.2):
            lines.append(f"{inside}extensions 5000 to 5999;")
        return [*lines, f"{indent}}}"], rules

    def kind(self) -> str:
        draw = self.rng.random()
        if draw < 0.15 and self.enums:
            return self.rng.choice(self.enums)
        if draw < 0.35:
            return self.rng.choice(self.messages)
        if draw < 0.5:
            name = self.rng.choice(tuple(WELL_KNOWN))
            self.imports.add(WELL_KNOWN[name])
            return name
        return self.rng.choice(SCALARS)

    def member(
        self, number: int, indent: str, rules: dict[str, Any], anywhere: bool = False
    ) -> list[str]:
        """One field; `anywhere`: not in a oneof, so it may repeat and have its own presence."""
        name = next(self.names)
        if anywhere and self.likely(0.12):
            key, value = self.rng.choice(KEYS), self.kind()
            rule = self.rule(value, repeated=True) if self.likely(0.5) else {}
            if rule and not rule.keys() & {"drop", "name"}:
                rules[f"{name}.value"] = rule
            return [f"{indent}map<{key}, {value}> {name} = {number};"]
        if self.syntax == "proto2" and self.likely(0.08):
            label = self.rng.choice(("optional ", "repeated ", "required ")) if anywhere else ""
            inner = self.rng.choice(SCALARS)
            inside = next(self.names)
            return [
                f"{indent}{label}group {name.upper()} = {number} {{",
                f"{indent}  optional {inner} {inside} = 1;",
                f"{indent}}}",
            ]
        kind = self.kind()
        repeated = anywhere and self.likely(0.25)
        label, options = self.label(kind, repeated, anywhere)
        if self.likely(0.4):
            rule = self.rule(kind, repeated)
            if rule:
                rules[name] = rule
        shown = f" [{', '.join(options)}]" if options else ""
        return [f"{indent}{label}{kind} {name} = {number}{shown};"]

    def label(self, kind: str, repeated: bool, anywhere: bool) -> tuple[str, list[str]]:
        options = []
        number = kind in self.enums or (kind in SCALARS and kind not in ("string", "bytes"))
        packable = repeated and number
        if self.syntax == "editions":
            message = kind in self.messages or kind in WELL_KNOWN
            if packable and self.likely(0.3):
                options.append("features.repeated_field_encoding = EXPANDED")
            if message and self.likely(0.2):
                options.append("features.message_encoding = DELIMITED")
            if kind == "string" and self.likely(0.2):
                options.append("features.utf8_validation = NONE")
            if anywhere and not repeated and self.likely(0.3):
                presence = self.rng.choice(("IMPLICIT", "LEGACY_REQUIRED"))
                if presence == "LEGACY_REQUIRED" or kind in SCALARS:
                    options.append(f"features.field_presence = {presence}")
            return ("repeated " if repeated else ""), options
        if repeated:
            if packable and self.likely(0.3):
                options.append(f"packed = {self.rng.choice(('true', 'false'))}")
            return "repeated ", options
        if not anywhere:
            return "", options
        if self.syntax == "proto3":
            return ("optional " if self.likely(0.3) else ""), options
        if kind in INTEGERS and self.likely(0.2):
            options.append("default = 7")
        return ("required " if self.likely(0.15) else "optional "), options

    def rule(self, kind: str, repeated: bool) -> dict[str, Any]:
        # Within a recursive message protobuf looks into what is dropped, so no messages here.
        if kind in SCALARS and self.likely(0.1):
            return {"drop": True}
        if kind == "string":
            precision = self.rng.choice((1, 9, 18, 19, 38, 76))
            scale = self.rng.choice((0, 0, precision // 2, precision))
            return self.rng.choice(
                (
                    {"type": f"decimal({precision}, {scale})"},
                    {"encoding": "hex"},
                    {"encoding": "hex", "size": self.rng.choice((1, 4, 32))},
                    {"encoding": "base64"},
                    {"encoding": "base32"},
                    {"large": True},
                )
            )
        if kind == "bytes":
            return {"large": True}
        if kind == "float" and self.likely(0.5):
            return {"type": "double"}
        if kind in WIDE:
            return {"encoding": self.rng.choice(("unix_s", "unix_ms", "unix_us"))}
        if kind in self.enums:
            return {"enum": self.rng.choice(("names", "string", "int32"))}
        if kind in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            return {"unit": self.rng.choice(("s", "ms", "us", "ns"))}
        if kind in self.messages and not repeated and self.likely(0.5):
            return {"flatten": True}
        if kind in SCALARS:
            return {"name": next(self.names)}
        return {}


def draw_schema(rng: random.Random) -> DrawnSchema:
    """Draws a schema; its rules may be such that the generator has to refuse them."""
    package = f"drawn{next(_unique)}.v1"
    drawing = _Drawing(rng, package)
    lines: list[str] = []
    tables: dict[str, Any] = {}
    if drawing.likely(0.6):
        name = f"E{next(drawing.names)}"
        lines += drawing.enum(name, "")
        drawing.enums.append(name)
    for _ in range(rng.randrange(1, 4)):
        name = f"M{next(drawing.names)}"
        text, rules = drawing.message(name, "", "")
        lines += text
        tables[f"{package}.{name}"] = {"columns": rules} if rules else {}
    header = {
        "proto2": 'syntax = "proto2";',
        "proto3": 'syntax = "proto3";',
        "editions": 'edition = "2023";',
    }[drawing.syntax]
    imports = [f'import "google/protobuf/{name}.proto";' for name in sorted(drawing.imports)]
    proto = "\n".join([header, f"package {package};", *imports, *lines, ""])
    defaults = {
        "enums": rng.choice(("names", "names", "int32")),
        "timestamp_unit": rng.choice(("us", "ns", "s")),
        "oneof_case": drawing.likely(0.3),
    }
    rules_text = yaml.safe_dump({"version": 1, "defaults": defaults, "tables": tables})
    path = f"{package.replace('.', '/')}/drawn.proto"
    return DrawnSchema(package, path, proto, rules_text, tuple(tables))
