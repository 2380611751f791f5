"""Random edits of random schemas, as a person would make them in the `.proto` and the rules."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, Final

import yaml

from tests.drawn_schemas import SCALARS, DrawnSchema

FIELD: Final = re.compile(
    r"(?P<indent> +)(?P<label>optional |required |repeated |)(?P<kind>[\w.]+) (?P<name>n\d+\w*) = "
    r"(?P<number>\d+)(?P<options> \[.*\])?;"
)
VALUE: Final = re.compile(r"(?P<indent> +)(?P<name>E\w+)_\d+ = -?\d+;")
WIDER: Final = {
    "int32": ("int64",),
    "uint32": ("uint64", "int64"),
    "sint32": ("sint64",),
    "string": ("bytes",),
    "google.protobuf.Int32Value": ("google.protobuf.Int64Value",),
    "google.protobuf.UInt32Value": ("google.protobuf.UInt64Value",),
}


class Edits:
    """A schema that is edited in place.

    Args:
        rng: where everything is drawn from.
        schema: what to begin with.
    """

    def __init__(self, rng: random.Random, schema: DrawnSchema) -> None:
        self.rng = rng
        self.lines = schema.proto.splitlines()
        self.rules: dict[str, Any] = yaml.safe_load(schema.rules)
        self.done: list[str] = []
        self._number = 40
        self._proto3 = self.lines[0] == 'syntax = "proto3";'
        self._proto2 = self.lines[0] == 'syntax = "proto2";'

    @property
    def proto(self) -> str:
        """The schema as it is now."""
        return "\n".join([*self.lines, ""])

    @property
    def rules_text(self) -> str:
        """The rules as they are now."""
        return yaml.safe_dump(self.rules)

    def edit(self, *, safe: bool) -> None:
        """Makes one edit, if there is anything to edit so; a safe one is at least meant to be so."""
        safes: list[Callable[[], str]] = [
            self.widen,
            self.add_field,
            self.add_field,
            self.add_value,
            self.rename,
            self.retire,
            self.reorder,
            self.relax,
            self.widen_rule,
            self.widen_float,
        ]
        others = [self.retype, self.remove, self.relabel, self.change_rule]
        done = self.rng.choice(safes if safe else others)()
        if done:
            self.done.append(done)

    # ---- edits; each says what it did

    def widen(self) -> str:
        """A wider type of the same field."""
        return self._replace(
            lambda f: f["kind"] in WIDER, kind=lambda f: self.rng.choice(WIDER[f["kind"]])
        )

    def retype(self) -> str:
        """Any other type."""
        return self._replace(
            lambda f: True, kind=lambda f: self.rng.choice(SCALARS), options=lambda f: ""
        )

    def rename(self) -> str:
        """Another name of the same number."""
        return self._replace(lambda f: True, name=lambda f: f"{f['name']}r")

    def relax(self) -> str:
        """Presence where there was none."""
        if not self._proto3:
            return ""
        return self._replace(
            lambda f: not f["label"] and f["kind"] in SCALARS and not self._in_oneof(f["at"]),
            label=lambda f: "optional ",
        )

    def relabel(self) -> str:
        """Singular or repeated, whichever it was not."""
        return self._replace(
            lambda f: not self._in_oneof(f["at"]),
            label=lambda f: self.rng.choice(("repeated ", "optional ", "")),
            options=lambda f: "",
        )

    def retire(self) -> str:
        """A field goes, and its number stays reserved."""
        found = self._any(lambda f: True)
        if found is None:
            return ""
        del self.lines[found["at"]]
        top = self._message_of(found["at"])
        self.lines.insert(top + 1, f"{found['indent']}reserved {found['number']};")
        return f"retire {found['name']}"

    def remove(self) -> str:
        """A field goes."""
        found = self._any(lambda f: True)
        if found is None:
            return ""
        del self.lines[found["at"]]
        return f"remove {found['name']}"

    def add_field(self) -> str:
        """A new field somewhere."""
        tops = [i for i, line in enumerate(self.lines) if re.match(r" *message ", line)]
        self._number += 1
        at = self.rng.choice(tops)
        indent = " " * (len(self.lines[at]) - len(self.lines[at].lstrip()) + 2)
        labels = ("optional ", "repeated ") if self._proto2 else ("", "repeated ")
        kind = self.rng.choice(SCALARS)
        line = f"{indent}{self.rng.choice(labels)}{kind} n{self._number}new = {self._number};"
        self.lines.insert(at + 1, line)
        return f"add {line.strip()}"

    def add_value(self) -> str:
        """A new value of an enum."""
        places = [i for i, line in enumerate(self.lines) if VALUE.fullmatch(line)]
        if not places:
            return ""
        at = self.rng.choice(places)
        found = VALUE.fullmatch(self.lines[at])
        assert found is not None
        self._number += 1
        line = f"{found['indent']}{found['name']}_NEW{self._number} = {self._number};"
        self.lines.insert(at + 1, line)
        return f"add {line.strip()}"

    def reorder(self) -> str:
        """Two fields change places."""
        one, other = self._any(lambda f: True), self._any(lambda f: True)
        if one is None or other is None or self._block_of(one["at"]) != self._block_of(other["at"]):
            return ""
        i, j = one["at"], other["at"]
        self.lines[i], self.lines[j] = self.lines[j], self.lines[i]
        return f"reorder {one['name']} {other['name']}"

    def widen_rule(self) -> str:
        """A rule that makes the column wider."""
        columns = self._columns()
        if not columns:
            return ""
        column, rule = self.rng.choice(columns)
        if "decimal" in str(rule.get("type", "")):
            scale = re.findall(r"\d+", rule["type"])[1]
            rule["type"] = f"decimal(76, {scale})"
        elif rule.get("enum") in ("names", "string"):
            rule["enum"] = self.rng.choice(("names", "string"))
        elif "size" in rule:
            del rule["size"]
        else:
            return ""
        return f"widen the rule of {column}: {rule}"

    def widen_float(self) -> str:
        """A rule that makes a column of floats one of doubles."""
        found = self._any(lambda f: f["kind"] == "float" and self._table_of(f["at"]) is not None)
        if found is None:
            return ""
        columns = self.rules["tables"][self._table_of(found["at"])].setdefault("columns", {})
        rule = columns.setdefault(found["name"], {})
        if rule.get("drop"):
            return ""
        rule["type"] = "double"
        return f"widen {found['name']} by rule"

    def change_rule(self) -> str:
        """A rule that goes."""
        columns = self._columns()
        if not columns:
            return ""
        column, rule = self.rng.choice(columns)
        rule.clear()
        rule["drop"] = False
        return f"no rule for {column}"

    # ---- finding

    def _columns(self) -> list[tuple[str, dict[str, Any]]]:
        """The rules, but for those that drop: what was dropped is in no old file, whatever one does."""
        return [
            (name, rule)
            for table in self.rules["tables"].values()
            for name, rule in table.get("columns", {}).items()
            if not rule.get("drop")
        ]

    def _any(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        found = []
        for at, line in enumerate(self.lines):
            match = FIELD.fullmatch(line)
            if match:
                item = {**match.groupdict(default=""), "at": at}
                if fits(item):
                    found.append(item)
        return self.rng.choice(found) if found else None

    def _replace(
        self,
        fits: Callable[[dict[str, Any]], bool],
        **parts: Callable[[dict[str, Any]], str],
    ) -> str:
        found = self._any(fits)
        if found is None:
            return ""
        new = {**found, **{part: make(found) for part, make in parts.items()}}
        self.lines[found["at"]] = "{indent}{label}{kind} {name} = {number}{options};".format(**new)
        if new["name"] != found["name"]:
            for table in self.rules["tables"].values():
                columns = table.get("columns", {})
                if found["name"] in columns:
                    columns[new["name"]] = columns.pop(found["name"])
        return f"{self.lines[found['at']].strip()} was {found['kind']} {found['name']}"

    def _block_of(self, at: int) -> int:
        """The line in which the block around a line begins."""
        indent = len(self.lines[at]) - len(self.lines[at].lstrip())
        return next(
            i
            for i in range(at - 1, -1, -1)
            if self.lines[i].endswith("{")
            and len(self.lines[i]) - len(self.lines[i].lstrip()) < indent
        )

    def _table_of(self, at: int) -> str | None:
        """The table whose message has a field in this line, if one has it itself."""
        top = self.lines[self._block_of(at)].split()
        return next(
            (t for t in self.rules["tables"] if top[:2] == ["message", t.split(".")[-1]]), None
        )

    def _in_oneof(self, at: int) -> bool:
        return self.lines[self._block_of(at)].lstrip().startswith("oneof ")

    def _message_of(self, at: int) -> int:
        top = at
        while not re.match(r" *(message|optional|repeated|required) .*\{$", self.lines[top]):
            top -= 1
        while self.lines[top].lstrip().startswith("oneof "):
            top -= 1
        return top
