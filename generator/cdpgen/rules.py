"""`schemas/cdpgen.yaml`: what a team decides about its tables, checked when it is read.

The models say what may stand in the file. Everything wrong with it is reported by file, line and
column: what YAML or a model objects to here, and paths that name nothing when the tables are
planned (`cdpgen.model`), which asks `Rules.position` for the place of a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cdpgen.errors import Position, UsageError, not_utf8, suggest

__all__ = [
    "LEVELS",
    "Acceptance",
    "ColumnRule",
    "Defaults",
    "EnumForm",
    "Level",
    "PartitionRule",
    "Rules",
    "RulesFile",
    "TableRule",
    "TimeUnit",
    "read_rules",
    "reject_misnamed",
]

RULES_NAME: Final = "cdpgen.yaml"

TimeUnit = Literal["s", "ms", "us", "ns"]
EnumForm = Literal["names", "string", "int32"]
Level = Literal["wire", "archive", "strict"]

LEVELS: Final[tuple[Level, ...]] = ("wire", "archive", "strict")
"""What a table is held to when it changes, mildest first: that its messages decode; that its
files are read right; that nobody who goes by names is surprised either.
"""

_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_TYPES: Final = r"^(json|double|decimal\(\s*\d+\s*,\s*\d+\s*\))$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Defaults(_Strict):
    """What holds for every column or table that has no rule of its own."""

    timestamp_unit: TimeUnit = "us"
    duration_unit: TimeUnit = "us"
    enums: EnumForm = "names"
    oneof_case: bool = False
    lossless: bool = True
    level: Level = "archive"


class ColumnRule(_Strict):
    """How one field becomes a column; which keys fit depends on the field."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    drop: bool = False
    type: Annotated[str, Field(pattern=_TYPES)] | None = None
    encoding: (
        Literal["hex", "base64", "base32", "unix_s", "unix_ms", "unix_us", "serialized"] | None
    ) = None
    size: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    unit: TimeUnit | None = None
    enum: EnumForm | None = None
    large: bool = False
    flatten: bool = False
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    depth: Annotated[int, Field(ge=1, le=20)] | None = None
    case: bool = False

    @property
    def decimal(self) -> tuple[int, int] | None:
        """Precision and scale of a `decimal(p, s)`."""
        found = _DECIMAL.fullmatch(self.type or "")
        return (int(found[1]), int(found[2])) if found else None

    @model_validator(mode="after")
    def _whole(self) -> ColumnRule:
        decimal = self.decimal
        if decimal and not (1 <= decimal[0] <= 76 and decimal[1] <= decimal[0]):
            raise ValueError(
                f"{self.type} does not exist: precision is 1 to 76, and scale at most the precision"
            )
        return self

    def given(self) -> list[str]:
        """The keys that were written."""
        return sorted(self.model_fields_set)


class PartitionRule(_Strict):
    """One level of a partition: a column as it is, its day or hour, or ranges of it."""

    column: str | None = None
    day: str | None = None
    hour: str | None = None
    range: str | None = None
    size: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> PartitionRule:
        given = [name for name in ("column", "day", "hour", "range") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "give one of `column: x`, `day: x`, `hour: x` or `range: x` (with `size: n`)"
            )
        if (self.range is None) != (self.size is None):
            raise ValueError("`range: x` and `size: n` go together")
        return self

    @property
    def transform(self) -> str:
        """`column`, `day`, `hour` or `range`."""
        names = ("column", "day", "hour", "range")
        return next(name for name in names if getattr(self, name) is not None)

    @property
    def source(self) -> str:
        """The column that it goes by."""
        return cast(str, getattr(self, self.transform))


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _named(value: object) -> object:
    """A bare name in `partition_by` stays a name: of a partition or of a column."""
    return [{"column": item} if isinstance(item, str) else item for item in _sequence(value)]


def _sequence(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


class TableRule(_Strict):
    """The rules of one table."""

    skip: bool = False
    lossless: bool | None = None
    level: Level | None = None
    partitions: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")],
        Annotated[list[PartitionRule], BeforeValidator(_listed)],
    ] = {}
    partition_by: Annotated[list[PartitionRule], BeforeValidator(_named)] = []
    sort_by: Annotated[list[str], BeforeValidator(_listed)] = []
    bloom_filters: Annotated[list[str], BeforeValidator(_listed)] = []
    columns: dict[str, ColumnRule] = {}


class Acceptance(_Strict):
    """A breaking change that was decided on."""

    rule: str
    path: str
    reason: Annotated[str, Field(min_length=1)]


class Evolution(_Strict):
    """What is known about changes of the schemas.

    Attributes:
        renames: by a column's old path (`stellar.v1.Event.code`), its new name.
        accept: breaking changes that were decided on.
        ignore: paths of tables, columns, messages and enums that no rule looks at.
        defaults: by a column's path, what rows older than the column have in it.
    """

    renames: dict[str, str] = {}
    accept: list[Acceptance] = []
    ignore: list[str] = []
    defaults: dict[str, Any] = {}


class Rules(_Strict):
    """The whole file."""

    version: Literal[1] = 1
    defaults: Defaults = Defaults()
    tables: dict[str, TableRule] = {}
    evolution: Evolution = Evolution()


class RulesFile:
    """The rules with the places of their keys.

    Attributes:
        rules: the rules; defaults where there is no file.
        path: the file as shown to the user.
    """

    def __init__(self, path: str, rules: Rules, node: yaml.Node | None) -> None:
        self.path = path
        self.rules = rules
        self._node = node

    def position(self, *keys: str | int) -> Position:
        """The place of a key, or of the innermost part of its path that was written."""
        return _position(self.path, self._node, keys)


def read_rules(folder: Path) -> RulesFile:
    """Reads the rules of a schemas folder.

    Args:
        folder: the schemas folder; without a `cdpgen.yaml` in it the defaults hold.

    Returns:
        The rules, valid in themselves; whether their paths name anything is seen when tables are
        planned.

    Raises:
        UsageError: the file is no YAML, or says something that no rule understands; every problem
            is listed with its place.
    """
    path = folder / RULES_NAME
    shown = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return RulesFile(shown, Rules(), None)
    except UnicodeDecodeError:
        raise UsageError(not_utf8(shown, path.read_bytes())) from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _reject_keys(shown, text, node)
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Position(shown, mark.line + 1, mark.column + 1) if mark else Position(shown, 1, 1)
        raise UsageError(f"{place}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{shown}:1:1: {error}") from None
    except RecursionError:
        raise UsageError(
            f"{shown}:1:1: something in it holds itself, or a thousand others"
        ) from None
    try:
        rules = Rules.model_validate(_without_nulls(data))
    except ValidationError as error:
        raise UsageError("\n".join(_explain(shown, node, error))) from None
    return RulesFile(shown, rules, node)


def reject_misnamed(folder: Path) -> None:
    """Objects to rules in a file that is not read, which nobody would notice.

    Not a part of reading them, as a state of long ago was built without such a file as well.
    """
    path = folder / RULES_NAME
    misnamed = path.with_suffix(".yml")
    if misnamed.exists():
        raise UsageError(
            f"{misnamed}: is not read: rules stand in {RULES_NAME}; "
            + ("put them in there, and remove this file" if path.exists() else "rename this file")
        )


def _without_nulls(data: object, level: int = 0) -> object:
    """Takes a key with nothing behind it (`columns:` and then only comments) as an empty
    mapping.
    """
    if data is None:
        return {}
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items()}
    return data


def _reject_keys(shown: str, text: str, node: yaml.Node | None) -> None:
    """Objects to keys that stand twice, and to those that are no text."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, yaml.Node] = {}
        for key, value in node.value:
            place = _mark(shown, key)
            if not isinstance(key, yaml.ScalarNode):
                written = " ".join(text[key.start_mark.index : key.end_mark.index].split())
                raise UsageError(
                    f"{place}: `{_shown(written)}` is no text, as a key has to be; the name of an "
                    'extension stands in quotes: `"[shop.v1.rebate]"`'
                )
            if key.value in seen:
                first = seen[key.value].start_mark.line + 1
                raise UsageError(
                    f"{place}: `{key.value}` stands here twice (first in line {first})"
                )
            seen[key.value] = key
            _reject_keys(shown, text, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _reject_keys(shown, text, item)


def _mark(shown: str, node: yaml.Node) -> Position:
    return Position(shown, node.start_mark.line + 1, node.start_mark.column + 1)


def _position(shown: str, node: yaml.Node | None, keys: Sequence[str | int]) -> Position:
    place = Position(shown, 1, 1)
    for part in keys:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if found is None:
                break
            place, node = _mark(shown, found[0]), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            place = _mark(shown, node)
    return place


def _explain(shown: str, node: yaml.Node | None, error: ValidationError) -> list[str]:
    """What pydantic found, a line each, in the words of the file."""
    lines = []
    for problem in error.errors():
        keys = tuple(part for part in problem["loc"] if part != "[key]")
        place = _position(shown, node, keys)
        key = next((part for part in reversed(keys) if isinstance(part, str)), "")
        kind, context = problem["type"], problem.get("ctx", {})
        if kind == "extra_forbidden":
            text = f"unknown key `{key}`; {suggest(key, _fields_at(keys[:-1]))}"
        elif kind == "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
            text = f"`{key}: {_shown(problem['input'])}`: {suggest(str(problem['input']), allowed)}"
        elif kind == "missing":
            text = f"`{key}` is missing"
        elif kind == "value_error":
            text = f"`{key}`: {context['error']}"
        elif kind == "string_pattern_mismatch":
            text = f"`{key}: {_shown(problem['input'])}`: {_PATTERNS.get(key, _NAME_PATTERN)}"
        elif kind in ("model_type", "dict_type", "model_attributes_type"):
            allowed = _fields_at(keys)
            keyed = f"; {suggest('', allowed)}" if allowed else ""
            given = f"{key}: {_shown(problem['input'])}" if key else _shown(problem["input"])
            text = f"`{given}`: keys and values belong here{keyed}"
        else:
            said = problem["msg"]
            text = f"`{key}: {_shown(problem['input'])}`: {said[0].lower()}{said[1:]}"
        lines.append(f"{place}: {text}")
    return lines


_NAME_PATTERN: Final = "a name is made of letters, digits and _, and does not begin with a digit"
_PATTERNS: Final = {"type": 'allowed: json, "decimal(precision, scale)", double'}


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields_at(keys: Sequence[str | int]) -> list[str]:
    """The keys that the model at a path knows."""
    model: Any = Rules
    for part in keys:
        if isinstance(model, type) and issubclass(model, BaseModel):
            if part not in model.model_fields:
                return []
            model = model.model_fields[str(part)].annotation
        else:
            arguments = get_args(model)
            model = arguments[-1] if arguments else None
        while get_origin(model) is Annotated:
            model = get_args(model)[0]
    if get_origin(model) is list:
        model = get_args(model)[0]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []


def as_mapping(rules: Mapping[str, ColumnRule]) -> dict[tuple[str, ...], tuple[str, ColumnRule]]:
    """Column rules by the parts of their paths: `a.[pkg.ext].b` is `("a", "[pkg.ext]", "b")`."""
    return {split_path(path): (path, rule) for path, rule in rules.items()}


def split_path(path: str) -> tuple[str, ...]:
    """The parts of a path; an extension's name in brackets is one part."""
    return tuple(re.findall(r"\[[^\]]*\]|[^.]+", path))
