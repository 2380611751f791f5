"""The options of a writer and the shape of a PIPELINE.yaml, each checked in one place.

The names are those that users of the Go consumer know. Whatever is wrong is said as one line a mistake:
the key, the value given, what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

__all__ = [
    "Compression",
    "ConfigError",
    "Format",
    "PipelineConfig",
    "SourceConfig",
    "TableConfig",
    "WriterConfig",
    "WriterOptions",
    "check",
    "load_pipeline",
]

Compression = Literal["zstd", "snappy", "gzip", "lz4", "brotli", "none"]
Format = Literal["delimited", "ndjson"]

_LEVELS: dict[str, tuple[int, int]] = {
    "zstd": (1, 22),
    "gzip": (1, 9),
    "lz4": (1, 12),
    "brotli": (0, 11),
}
"""The levels of the codecs that have some."""


class ConfigError(ValueError):
    """An option or a pipeline file is wrong; the message has one line for each mistake."""


class WriterOptions(TypedDict, total=False):
    """The options of a writer as keyword arguments; `WriterConfig` says what they mean."""

    buffer_size: int
    buffer_mb: float
    max_file_size_mb: float
    max_file_rows: int | None
    rotation_interval_minutes: float
    row_group_mb: float
    max_open_files: int
    partition_by: str | Sequence[str]
    ledgers_per_file: int | None
    compression: Compression
    compression_level: int | None


def _as_names(value: object) -> object:
    """One name, or several in a text with commas, is a list of names."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def _as_list(value: object) -> object:
    """One thing where a list may stand is a list of one."""
    return value if isinstance(value, list) else [value]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WriterConfig(_Model):
    """How a writer buffers, cuts and compresses files.

    Attributes:
        buffer_size: how many messages wait to be decoded at most; then `write` blocks.
        buffer_mb: the same in megabytes of messages.
        max_file_size_mb: a file is closed and published when it has about this size on disk.
        max_file_rows: ... or when it has exactly this number of rows; None for no such limit.
        rotation_interval_minutes: ... or this long after its first row.
        row_group_mb: the size in memory at which the rows gathered for a file are written to it as a
            row group. The rows gathered for all files together are kept under it too.
        max_open_files: ... or when more partitions than this have an open file and it is the one that
            has gone longest without a row.
        partition_by: names of the table's partitions or of its columns, outermost first; empty for
            none; None for what the schema's rules say.
        ledgers_per_file: the size of ranges in a partition by range, instead of the one in the rules.
        compression: the codec of all columns.
        compression_level: the codec's level; None for its default.
    """

    buffer_size: Annotated[int, Field(ge=1, le=100_000_000)] = 50_000
    buffer_mb: Annotated[float, Field(gt=0, le=65_536)] = 32
    max_file_size_mb: Annotated[float, Field(gt=0, le=65_536)] = 256
    max_file_rows: Annotated[int, Field(ge=1)] | None = None
    rotation_interval_minutes: Annotated[float, Field(gt=0, le=525_600)] = 60
    row_group_mb: Annotated[float, Field(gt=0, le=4_096)] = 64
    max_open_files: Annotated[int, Field(ge=1, le=10_000)] = 64
    partition_by: Annotated[tuple[str, ...], BeforeValidator(_as_names)] | None = None
    ledgers_per_file: Annotated[int, Field(ge=1)] | None = None
    compression: Compression = "zstd"
    compression_level: int | None = None

    @model_validator(mode="after")
    def _level_suits_codec(self) -> Self:
        if self.compression_level is not None:
            levels = _LEVELS.get(self.compression)
            if levels is None:
                raise ValueError(
                    f"compression_level: {self.compression_level} is not allowed: "
                    f"{self.compression} has no levels"
                )
            if not levels[0] <= self.compression_level <= levels[1]:
                raise ValueError(
                    f"compression_level: {self.compression_level} is not allowed: "
                    f"{self.compression} takes {levels[0]} to {levels[1]}"
                )
        return self


class SourceConfig(_Model):
    """Where the messages of a table come from.

    Attributes:
        path: a file, a glob or a URL; `-` for standard input.
        format: the framing; by the file's extension when left out.
        fields: NDJSON only: the name of a key in the file to the field it fills (`asset: asset.code`).
        ignore_unknown: NDJSON only: keys without a field are passed over instead of being an error.
        max_message_mb: delimited only: a length prefix above this is taken for a corrupt one.
    """

    path: Annotated[str, Field(min_length=1)]
    format: Format | None = None
    fields: dict[str, str] = {}
    ignore_unknown: bool = False
    max_message_mb: Annotated[float, Field(gt=0, le=2_047)] = 64


class TableConfig(_Model):
    """One table of a pipeline: what fills it, and options of its own."""

    source: Annotated[list[SourceConfig], BeforeValidator(_as_list), Field(min_length=1)]
    writer: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _plain_paths(cls, value: Any) -> Any:
        if isinstance(value, dict) and "source" in value:
            sources = [
                {"path": source} if isinstance(source, str) else source
                for source in _each(value["source"])
            ]
            return {**value, "source": sources}
        return value


class PipelineConfig(_Model):
    """A PIPELINE.yaml.

    Attributes:
        version: of this format; 1.
        generated: the folder that `cdpgen build` wrote, relative to the pipeline file.
        destination: the URL of the archive; a plain path is relative to the pipeline file.
        writer: options for the writers of all tables.
        tables: what to archive, by the full name of the table.
    """

    version: Literal[1] = 1
    generated: str = "generated"
    destination: Annotated[str, Field(min_length=1)]
    writer: dict[str, Any] = {}
    tables: Annotated[dict[str, TableConfig], Field(min_length=1)]

    @model_validator(mode="after")
    def _options_of_writers(self) -> Self:
        mistakes = []
        for where, options in [
            ("writer", self.writer),
            *((f"tables.{name}.writer", table.writer) for name, table in self.tables.items()),
        ]:
            try:
                check(WriterConfig, options)
            except ConfigError as error:
                mistakes += [f"{where}.{line}" for line in str(error).splitlines()]
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self


Model = TypeVar("Model", bound=BaseModel)


def check(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Makes a model of values that a person wrote.

    Raises:
        ConfigError: with a line for each mistake.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [line for one in error.errors() for line in _describe(model, one).splitlines()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def load_pipeline(path: str | Path) -> PipelineConfig:
    """Reads and checks a PIPELINE.yaml.

    Raises:
        ConfigError: with the name of the file, and the line where YAML itself is at fault.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values (destination, tables, ...)")
    try:
        return check(PipelineConfig, values)
    except ConfigError as error:
        raise ConfigError(
            "\n".join(f"{path}: {line}" for line in str(error).splitlines())
        ) from None


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _describe(model: type[BaseModel], error: Any) -> str:
    """One mistake that pydantic found, as a line that names key, value and what is allowed."""
    key = ".".join(str(part) for part in error["loc"])
    given = error["input"]
    if error["type"] == "value_error":
        # raised by a validator of this module, which names the key itself where it stands deeper
        return str(error["ctx"]["error"]) if not key else f"{key}: {error['ctx']['error']}"
    if error["type"] == "extra_forbidden":
        allowed = list(_fields_at(model, error["loc"][:-1]))
        near = difflib.get_close_matches(str(error["loc"][-1]), allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{key}: no such option; {hint}allowed are {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{key}: is missing"
    message = error["msg"].removeprefix("Input should be ")
    return f"{key}: {given!r} is not allowed: must be {message}"


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> Iterable[str]:
    """The names of the fields of the model that stands at a place of another."""
    nested: type[BaseModel] = model
    for part in location:
        if part == "tables":
            nested = TableConfig
        elif part == "source":
            nested = SourceConfig
    return nested.model_fields
