"""Python laid out as `ruff format` lays it out: expressions, comments and docstrings.

Only what generated modules need. An expression stands in one line where it fits, else one item a
line with a trailing comma; a comment above an item always opens its brackets.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = [
    "WIDTH",
    "Group",
    "Item",
    "call",
    "comment_lines",
    "docstring",
    "import_lines",
    "layout",
    "listing",
    "mapping",
    "tuple_of",
    "wrap",
]

WIDTH: Final = 100
"""Columns of a line of generated code."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_NEW_ITEM: Final = re.compile(r"[-*+#|>`]|\d+[.)]")
# Comments that tools obey; one in a .proto is not meant for them.
_PRAGMA: Final = re.compile(
    r"#\s*(?=noqa|type:|fmt:|ruff|isort|mypy:|pyright:|pylint|yapf|flake8|nosec|pragma|%%|!)", re.I
)


@dataclass(frozen=True, slots=True)
class Item:
    """One item between brackets; `key` is what stands before its value: `nullable=`."""

    value: str | Group
    comment: str = ""
    key: str = ""


class Group:
    """A call, list, tuple, dict or subscript: brackets and what is between them.

    Args:
        opening: what stands before the first item, bracket included: `Field(`.
        items: what is between.
        closing: the closing bracket.
        always_comma: whether a single item needs a comma after it, as in a tuple.
        remark: a comment behind the opening bracket, for tools.
    """

    __slots__ = ("always_comma", "closing", "items", "line", "opening", "remark")

    def __init__(
        self,
        opening: str,
        items: Sequence[Item],
        closing: str,
        *,
        always_comma: bool = False,
        remark: str = "",
    ) -> None:
        self.opening = opening
        self.items = items
        self.closing = closing
        self.always_comma = always_comma
        self.remark = remark
        self.line = self._line()

    def _line(self) -> str | None:
        """The group in one line; None where a comment or its length forbids that."""
        if self.remark:
            return None
        parts = []
        length = 0
        for item in self.items:
            value = item.value if isinstance(item.value, str) else item.value.line
            if item.comment or value is None:
                return None
            parts.append(item.key + value)
            length += len(parts[-1]) + 2
            if length > WIDTH:
                return None
        comma = "," if self.always_comma and len(parts) == 1 else ""
        return f"{self.opening}{', '.join(parts)}{comma}{self.closing}"


def _items(values: Sequence[str | Group | Item]) -> list[Item]:
    return [value if isinstance(value, Item) else Item(value) for value in values]


def call(name: str, /, *arguments: str | Group | Item, **keywords: str | Group) -> Group:
    """A call; keywords come last, in the order given."""
    named = [Item(value, key=f"{key}=") for key, value in keywords.items()]
    return Group(f"{name}(", [*_items(arguments), *named], ")")


def listing(values: Sequence[str | Group | Item]) -> Group:
    """A list."""
    return Group("[", _items(values), "]")


def tuple_of(values: Sequence[str | Group | Item]) -> Group:
    """A tuple."""
    return Group("(", _items(values), ")", always_comma=True)


def mapping(pairs: Sequence[tuple[str, str | Group]]) -> Group:
    """A dict; keys are given as code."""
    return Group("{", [Item(value, key=f"{key}: ") for key, value in pairs], "}")


def layout(before: str, value: str | Group, after: str = "", indent: int = 0) -> list[str]:
    """The lines of an expression.

    Args:
        before: what stands in its first line before it: `NAME = `.
        value: the expression.
        after: what follows it: a comma.
        indent: how far the lines are indented, in characters.
    """
    lines: list[str] = []
    _lay_out(lines, before, value, after, indent)
    return lines


def _lay_out(lines: list[str], before: str, value: str | Group, after: str, indent: int) -> None:
    margin = " " * indent
    if isinstance(value, str):
        lines.append(f"{margin}{before}{value}{after}")
        return
    line = value.line
    fits = line is not None and indent + len(before) + len(line) + len(after) <= WIDTH
    if fits or not value.items:
        lines.append(f"{margin}{before}{line}{after}")
        return
    lines.append(f"{margin}{before}{value.opening}{f'  {value.remark}' if value.remark else ''}")
    # A lone item, such as the list in `pa.schema([...])`, takes no comma: nothing can follow it.
    comma = "," if len(value.items) > 1 or value.always_comma else ""
    for item in value.items:
        if item.comment:
            lines += comment_lines(item.comment, indent + 4)
        _lay_out(lines, item.key, item.value, comma, indent + 4)
    lines.append(f"{margin}{value.closing}{after}")


def import_lines(module: str, imported: str, remark: str = "") -> list[str]:
    """The lines that import one name: `x` or `x as y`; a remark is a comment for tools."""
    remark = f"  {remark}" if remark else ""
    line = f"from {module} import {imported}"
    # A formatter does not count remarks.
    if len(line) <= WIDTH:
        return [line + remark]
    return [f"from {module} import ({remark}", f"    {imported},", ")"]


def comment_lines(comment: str, indent: int = 0) -> Iterator[str]:
    """Yields a comment as `#` lines, wrapped; nothing for an empty one."""
    margin = " " * indent
    for line in wrap(comment, WIDTH - indent - 2):
        yield margin + _PRAGMA.sub(r"\g<0>> ", f"# {line}" if line else "#")


def docstring(text: str, indent: int = 0) -> str:
    """A docstring for an indented body; the first line is not indented, the others are.

    Args:
        text: what it says; anything may be in it.
        indent: how far its body is indented, in characters.
    """
    text = text.replace('"""', "'''")
    if text.startswith('"'):
        text = f" {text}"
    prefix = "r" if "\\" in text else ""
    first, *rest = wrap(text, WIDTH - indent) or [""]
    opening, closing = f'{prefix}"""', '"""'
    # Neither a quote nor a backslash may touch the closing quotes.
    gap = " " if first.endswith(('"', "\\")) else ""
    if not rest and indent + len(opening) + _width(first) + len(closing) <= WIDTH:
        return f"{opening}{first}{gap}{closing}"
    # Too long for one line: so short that its end comes with the next, as a formatter would pull
    # lone quotes up.
    quotes = len(opening) + (0 if rest else len(closing))
    first, *more = wrap(first, WIDTH - indent - quotes) or [""]
    if not more and not rest:
        # One word that fits nowhere.
        return f"{opening}{first}{gap}{closing}"
    margin = " " * indent
    body = textwrap.dedent("\n".join([*more, *rest])).split("\n")
    lines = [f"{opening}{first}", *(f"{margin}{line}".rstrip() for line in body)]
    return "\n".join([*lines, f"{margin}{closing}"])


def wrap(text: str, width: int) -> list[str]:
    """Breaks lines that are too long between words.

    What a broken line leaves over begins the next one, where that goes on with the same paragraph.
    A line that fits stays as it is.
    """
    lines: list[str] = []
    carried = ""
    for line in text.splitlines():
        line = _CONTROL.sub(" ", line).rstrip()
        margin = line[: len(line) - len(line.lstrip())]
        if carried and (not line or margin or _NEW_ITEM.match(line)):
            lines.append(carried)
            carried = ""
        line = f"{carried} {line}" if carried else line
        carried = ""
        while _width(line) > width:
            head, tail = _split(line, width)
            if not tail:
                break
            lines.append(head)
            line = margin + tail
            carried = "" if margin else line
        if not carried:
            lines.append(line)
        else:
            carried = line
    return [*lines, carried] if carried else lines


def _split(line: str, width: int) -> tuple[str, str]:
    """A line's beginning that fits, but at least one word, and the rest."""
    end = 0
    for space in re.finditer(r"(?<=\S) +", line):
        if end and _width(line[: space.start()]) > width:
            break
        end, rest = space.start(), space.end()
    return (line[:end], line[rest:]) if end else (line, "")


def _width(text: str) -> int:
    """How many columns a text takes; East Asian characters take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
