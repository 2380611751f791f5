"""The options of a writer and the shape of a PIPELINE.yaml, each checked in one place.

`WriterConfig` is the one list of options: keyword arguments of a writer, keys in a pipeline file and
`--set` of the command line are the same names with the same meaning, those that users of the Go consumer
know. Whatever is wrong is said as one line a mistake: the key, the value given, what is allowed.
docs/configuration.md is made from the docstrings here (`python -m tests.configuration_page`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    Self,
    TypedDict,
    TypeVar,
    get_args,
)

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    import yaml

__all__ = [
    "STORAGE_KEYS",
    "Compression",
    "ConfigError",
    "Destination",
    "Format",
    "PipelineConfig",
    "SourceConfig",
    "StorageType",
    "TableConfig",
    "WriterConfig",
    "WriterOptions",
    "check",
    "destination_of",
    "load_pipeline",
    "nested",
]

Compression = Literal["zstd", "snappy", "gzip", "lz4", "brotli", "none"]
Format = Literal["delimited", "ndjson"]
StorageType = Literal["FS", "GCS", "S3"]

STORAGE_KEYS: Final = (
    *("storage_type", "bucket_name", "path_prefix", "local_path", "region", "storage_options"),
)
"""The options that say where an archive lies; a URL that is given later replaces them all."""

_LEVELS: Final[dict[str, tuple[int, int]]] = {
    "zstd": (1, 22),
    "gzip": (1, 9),
    "lz4": (1, 12),
    "brotli": (0, 11),
}
"""The levels of the codecs that have some."""

_WANTED: Final = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "keys and values",
    "string_pattern_mismatch": "a name of letters, digits, ., _, : and -",
    "string_type": "text",
    "tuple_type": "a list of names",
}
"""What has to stand there, by pydantic's types of errors, where its own words are for programmers."""

_SCHEMES: Final[dict[StorageType, str]] = {"GCS": "gs", "S3": "s3"}


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
    include_metadata: bool
    schema_evolution: bool
    journal: str | os.PathLike[str] | None
    journal_mb: float
    shutdown_seconds: float
    debug: bool
    dry_run: bool
    storage_type: StorageType | None
    bucket_name: str | None
    path_prefix: str
    local_path: str | os.PathLike[str] | None
    region: str | None
    storage_options: Mapping[str, Any]


class Destination(NamedTuple):
    """Where an archive lies: its URL or path, and what fsspec needs besides to open it."""

    url: str
    storage_options: Mapping[str, Any]


def _as_names(value: object) -> object:
    """One name, or several in a text with commas, is a list of names."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def _as_list(value: object) -> object:
    """One thing where a list may stand is a list of one."""
    return value if isinstance(value, list) else [value]


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _as_path(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_kind(cls, value: object, info: ValidationInfo) -> object:
        """Refuses what pydantic would take for a number or path, and nobody means."""
        name = info.field_name or ""
        if isinstance(value, bool) and _is_number(cls.model_fields[name].annotation):
            raise PydanticCustomError("kind", "a number")
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("kind", "without zero bytes")
        return value


class WriterConfig(_Model):
    """Where a writer writes to, and how it buffers, cuts and compresses files.

    Attributes:
        buffer_size: how many messages wait to be decoded at most; then `write` blocks.
        buffer_mb: the same in megabytes of messages.
        max_file_size_mb: a file is closed and published when it has about this size on disk.
        max_file_rows: ... or when it has exactly this number of rows; none for no such limit.
        rotation_interval_minutes: ... or this long after its first row.
        row_group_mb: what the row groups of all open files may take in memory together, mostly as
            compressed pages and dictionaries; then the largest is written. One also ends when it has
            1,048,576 rows, or a dictionary of 32 MB.
        max_open_files: ... or when more partitions than this have an open file and it is the one that
            has gone longest without a row.
        partition_by: names of the table's partitions or of its columns, outermost first; empty for
            none; when left out, what the schema's rules say.
        ledgers_per_file: the size of ranges in a partition by range, instead of the one in the rules.
        compression: the codec of all columns.
        compression_level: the codec's level; when left out, zstd's is 3, or 1 for columns that 3 makes no
            smaller, and the others have their own default.
        include_metadata: three more columns tell of each row the source that it came from (`_source`),
            the id of the writer that wrote it (`_writer`) and when it was taken in (`_ingested_at`).
        schema_evolution: whether an archive that holds files of another version of the table is gone
            on with; if not, the writer does not start.
        journal: a folder on a local disk for what was given to the writer and is not published yet, so
            that a crash does not lose it; for messages that nobody will send again. None for none.
        journal_mb: the size that it may have; then `write` blocks until something is published.
        shutdown_seconds: how long a stop waits for what was read to be published; the rest is left to the
            journal, or to the next run where sources replay.
        debug: the log tells more: the options in force, and each input as it begins and ends.
        dry_run: everything happens but nothing is written to the archive.
        storage_type: the kind of store, instead of a URL: `FS` with `local_path`, `GCS` or `S3` with
            `bucket_name`.
        bucket_name: the bucket, for GCS and S3.
        path_prefix: the folder of the archive below the bucket or `local_path`.
        local_path: the folder, for FS; `~` is the home directory.
        region: of the bucket, for S3; for GCS where a bucket that does not exist would be made.
        storage_options: what the store's fsspec client takes besides, passed on unchanged: endpoint,
            credentials, encryption and so on.
    """

    buffer_size: Annotated[int, Field(ge=1, le=100_000_000)] = 50_000
    buffer_mb: Annotated[float, Field(gt=0, le=65_536)] = 16
    max_file_size_mb: Annotated[float, Field(gt=0, le=65_536)] = 256
    max_file_rows: Annotated[int, Field(ge=1)] | None = None
    rotation_interval_minutes: Annotated[float, Field(gt=0, le=525_600)] = 60
    row_group_mb: Annotated[float, Field(gt=0, le=4_096)] = 64
    max_open_files: Annotated[int, Field(ge=1, le=10_000)] = 64
    partition_by: Annotated[tuple[str, ...], BeforeValidator(_as_names)] | None = None
    ledgers_per_file: Annotated[int, Field(ge=1, lt=1 << 63)] | None = None
    compression: Annotated[Compression, BeforeValidator(_lower)] = "zstd"
    compression_level: int | None = None
    include_metadata: bool = False
    schema_evolution: bool = True
    journal: Annotated[str, BeforeValidator(_as_path), Field(min_length=1)] | None = None
    journal_mb: Annotated[float, Field(gt=0, le=1_048_576)] = 1_024
    shutdown_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300
    debug: bool = False
    dry_run: bool = False
    storage_type: Annotated[StorageType, BeforeValidator(_upper)] | None = None
    bucket_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")] | None = None
    path_prefix: str = ""
    local_path: Annotated[str, BeforeValidator(_as_path), Field(min_length=1)] | None = None
    region: Annotated[str, Field(min_length=1)] | None = None
    storage_options: Annotated[dict[str, Any], Field(repr=False)] = {}

    @model_validator(mode="after")
    def _level_suits_codec(self) -> Self:
        if self.compression_level is not None:
            levels = _LEVELS.get(self.compression)
            if levels is None:
                raise _refused(
                    "compression_level", self.compression_level, f"{self.compression} has no levels"
                )
            if not levels[0] <= self.compression_level <= levels[1]:
                raise _refused(
                    "compression_level",
                    self.compression_level,
                    f"{self.compression} takes {levels[0]} to {levels[1]}",
                )
        return self

    @model_validator(mode="after")
    def _storage_is_whole(self) -> Self:
        kind = self.storage_type
        if any(part in (".", "..") for part in self.path_prefix.split("/")):
            raise _refused("path_prefix", self.path_prefix, "it names a folder below, without ..")
        if kind is None:
            for key in ("bucket_name", "path_prefix", "local_path"):
                if value := getattr(self, key):
                    raise _refused(key, value, "it goes with storage_type: FS, GCS or S3")
        elif kind == "FS":
            if self.local_path is None:
                raise ValueError("local_path: is missing: storage_type FS needs it")
            for key in ("bucket_name", "region"):
                if value := getattr(self, key):
                    raise _refused(key, value, "storage_type FS has none")
        else:
            if self.bucket_name is None:
                raise ValueError(f"bucket_name: is missing: storage_type {kind} needs it")
            if self.local_path is not None:
                raise _refused("local_path", self.local_path, f"storage_type {kind} has none")
        return self

    def destination(self, url: str | os.PathLike[str] | None = None) -> Destination:
        """Where the archive lies.

        Args:
            url: a path or a URL of any fsspec protocol; None when `storage_type` says where.

        Raises:
            ConfigError: both say where, or none.
        """
        prefix = self.path_prefix.strip("/")
        if url is not None:
            if self.storage_type is not None:
                raise ConfigError(
                    f"storage_type: {self.storage_type!r} is not allowed: the destination is already "
                    f"given as {os.fspath(url)}"
                )
            found = os.fspath(url)
            _check_destination(found)
        elif self.storage_type is None:
            raise ConfigError(
                "destination: is missing: give a path or URL, or storage_type (FS, GCS or S3) with "
                "local_path or bucket_name"
            )
        elif self.storage_type == "FS":
            found = os.path.join(os.path.expanduser(self.local_path or ""), prefix)
        else:
            found = f"{_SCHEMES[self.storage_type]}://{self.bucket_name}/{prefix}"
        found = found if url is not None else found.rstrip("/") or "/"
        return Destination(found, {**self.storage_options, **self._region_options(found)})

    def _region_options(self, url: str) -> dict[str, Any]:
        """The region as the client of the store wants it told, unless its own options tell it."""
        if self.region is None:
            return {}
        own = self.storage_options
        match url.partition("://")[0]:
            case "s3" | "s3a":
                told = own.get("client_kwargs") or {}
                return {"client_kwargs": {"region_name": self.region, **told}}
            case "gs" | "gcs":
                return {"default_location": own.get("default_location", self.region)}
            case _:
                raise ConfigError(f"region: {self.region!r} is not allowed: {url} has none")


class SourceConfig(_Model):
    """Where the messages of a table come from.

    Attributes:
        path: a file, a glob or a URL; `-` for standard input.
        format: the framing; by the file's extension when left out. Standard input must be told.
        fields: NDJSON only: the name of a key in the file to the field it fills (`asset: asset.code`).
        ignore_unknown: NDJSON only: keys without a field are passed over instead of being an error.
        max_message_mb: a message or line above this is taken for a corrupt one.
        storage_options: what the store's fsspec client takes besides, for URLs.
    """

    path: Annotated[str, Field(min_length=1)]
    format: Format | None = None
    fields: dict[str, str] = {}
    ignore_unknown: bool = False
    max_message_mb: Annotated[float, Field(gt=0, le=2_047)] = 64
    storage_options: Annotated[dict[str, Any], Field(repr=False)] = {}


class TableConfig(_Model):
    """One table of a pipeline.

    Attributes:
        source: what fills it: a path, or a source with options, or a list of them.
        writer: options of its own, over those of all tables.
    """

    source: Annotated[list[SourceConfig], BeforeValidator(_as_list), Field(min_length=1)]
    writer: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _plain_paths(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise PydanticCustomError("kind", "keys and values, such as source: orders.pb")
        if isinstance(value, dict) and "source" in value:
            for source in _each(value["source"]):
                if not isinstance(source, str | dict | SourceConfig):
                    given = "nothing" if source is None else repr(source)
                    raise ValueError(
                        f"source: {given} is not allowed: give a path, or keys and values with a path"
                    )
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
        destination: the URL of the archive; a plain path is relative to the pipeline file. Left out
            where `storage_type` among the options of the writers says where.
        writer: options for the writers of all tables.
        tables: what to archive, by the full name of the table.
    """

    version: Literal[1] = 1
    generated: str = "generated"
    destination: Annotated[str, Field(min_length=1)] | None = None
    writer: dict[str, Any] = {}
    tables: Annotated[dict[str, TableConfig], Field(min_length=1)]


Model = TypeVar("Model", bound=BaseModel)


def check(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Makes a model of values that a person wrote.

    Raises:
        ConfigError: with a line for each mistake.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = (mistake.text for mistake in _mistakes(model, error))
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def load_pipeline(path: str | Path, environment: Mapping[str, str] = os.environ) -> PipelineConfig:
    """Reads and checks a PIPELINE.yaml.

    In its values `${NAME}` is the variable of the environment, `${NAME:-text}` the same or, where that is
    not set or empty, the text, and `$${` is `${`. What comes of it is text, which is read as a
    number or truth value where one is wanted.

    Raises:
        ConfigError: with the name of the file, and the line and key of each mistake.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        twice = list(_twice(node))
        if twice:
            raise ConfigError("\n".join(f"{path}:{line}: {text}" for line, text in twice))
        mistakes = list(_substitute(node, environment))
        values = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = error.problem or "not YAML"
        if problem.startswith("but "):  # goes on from there
            problem = f"{error.context} {problem}"
        raise ConfigError(f"{path}:{line}: {problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    except ConfigError:
        raise
    except ValueError as error:  # of a date that is none, or of a tag that a value does not fit
        raise ConfigError(f"{path}: a value does not fit: {error}; put text in quotes") from None
    except RecursionError:
        raise ConfigError(
            f"{path}: is nested too deep, or an alias in it is within itself"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values (destination, tables, ...)")
    if not mistakes:
        try:
            config = PipelineConfig.model_validate(values)
            mistakes = list(_mistakes_of_writers(config))
            if not mistakes:
                return config
        except ValidationError as error:
            mistakes = list(_mistakes(PipelineConfig, error))
    placed = sorted({(_line_of(node, one.location), one.text) for one in mistakes})
    raise ConfigError("\n".join(f"{path}:{line}: {text}" for line, text in placed))


class _Mistake(NamedTuple):
    """Something wrong in what a person wrote: the keys and indices that lead there, and the line about it."""

    location: tuple[int | str, ...]
    text: str


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _is_number(kind: Any) -> bool:
    return kind in (int, float) or any(map(_is_number, get_args(kind)))


def _check_destination(url: str) -> None:
    """Refuses what would be a folder that nobody means."""
    why = None
    scheme = re.match("(s3a?|gs|gcs|az|abfss?|https?|s?ftp|ssh):/*", url)
    if not url:
        why = "give a path or URL (. for here)"
    elif scheme and not scheme[0].endswith("://"):
        why = f"a URL has two slashes: {scheme[1]}://{url[scheme.end() :]}"
    elif url.startswith("~") and os.path.expanduser(url) == url:
        why = "there is no such user; ./~ is a folder of that name"
    if why is not None:
        raise ConfigError(f"destination: {url!r} is not allowed: {why}")


def _refused(key: str, value: object, why: str) -> ValueError:
    return ValueError(f"{key}: {value!r} is not allowed: {why}")


def _mistakes_of_writers(config: PipelineConfig) -> Iterator[_Mistake]:
    """What is wrong with single options; whether they go together is seen when all are known."""
    for where, options in [
        (("writer",), config.writer),
        *((("tables", name, "writer"), table.writer) for name, table in config.tables.items()),
    ]:
        try:
            WriterConfig.model_validate(options)
        except ValidationError as error:
            for location, text in _mistakes(WriterConfig, error):
                if location:
                    yield _Mistake((*where, *location), f"{'.'.join(where)}.{text}")


def _mistakes(model: type[BaseModel], error: ValidationError) -> Iterator[_Mistake]:
    """What pydantic found, as lines that name key, value and what is allowed."""
    for one in error.errors():
        location = tuple(part for part in one["loc"] if part != "[key]")
        key = ".".join(str(part) for part in location)
        if one["type"] == "value_error":
            # raised by a validator of this module, which names the key itself
            said = str(one["ctx"]["error"])
            text = f"{key}.{said}" if key else said
        elif one["type"] == "extra_forbidden":
            allowed = list(_fields_at(model, location[:-1]))
            near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            text = f"{key}: no such option; {hint}allowed are {', '.join(allowed)}"
        elif one["type"] == "missing":
            text = f"{key}: is missing"
        elif one["type"] in ("too_short", "string_too_short"):
            text = f"{key}: {one['input']!r} is not allowed: must not be empty"
        else:
            message = _WANTED.get(one["type"], one["msg"].removeprefix("Input should be "))
            text = f"{key}: {one['input']!r} is not allowed: must be {message}"
        yield _Mistake(location, text)


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> Iterable[str]:
    """The names of the fields of the model that stands at a place of another."""
    nested: type[BaseModel] = model
    for part in location:
        if part == "tables":
            nested = TableConfig
        elif part == "source":
            nested = SourceConfig
    return nested.model_fields


def _twice(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """The keys that stand twice in one place, of which YAML would drop all but the last."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        known: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            before = known.setdefault(str(key.value), line)
            if before != line:
                yield line, f"{key.value}: stands here twice, in line {before} too"
            yield from _twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item)


_VARIABLE: Final = re.compile(
    r"\$(?P<escaped>\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{"
)


def _substitute(
    node: yaml.Node | None,
    environment: Mapping[str, str],
    location: tuple[int | str, ...] = (),
    seen: set[int] | None = None,
) -> Iterator[_Mistake]:
    """Puts the environment's values into the values of a document; gives what cannot be put."""
    import yaml

    seen = set() if seen is None else seen
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _substitute(value, environment, (*location, str(key.value)), seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _substitute(item, environment, (*location, index), seen)
    elif isinstance(node, yaml.ScalarNode) and "${" in node.value:
        found: list[str] = []

        def value_of(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if match["escaped"]:
                return "${"
            if name is None:
                found.append(
                    "${ begins a variable: write ${NAME}, ${NAME:-default}, or $${ for itself"
                )
                return ""
            value = environment.get(name)
            if default is not None:
                if "${" in default:
                    found.append("a default is plain text: ${ has no meaning in it")
                return value or default
            if value is None:
                found.append(
                    f"the environment has no {name}: set it, or write ${{{name}:-default}}"
                )
            return value or ""

        node.value = _VARIABLE.sub(value_of, node.value)
        node.tag = "tag:yaml.org,2002:str"
        for text in found:
            yield _Mistake(location, f"{'.'.join(map(str, location))}: {text}")


def _line_of(node: yaml.Node | None, location: Sequence[int | str]) -> int:
    """The line of a key, or of the innermost of those above it that was written."""
    import yaml

    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next((one for one in node.value if one[0].value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose names have a dot are within the one before it."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        outer, dot, inner = key.partition(".")
        if dot:
            before = found.get(outer, {})
            if not isinstance(before, Mapping):
                raise ConfigError(f"{key}: does not go with {outer}: {before}")
            found[outer] = {**before, inner: value}
        else:
            found[key] = value
    return found


def destination_of(url: str, options: Mapping[str, Any]) -> Destination:
    """Where an archive lies that is only looked at.

    Args:
        url: of the archive.
        options: of its store, by flat names too (`storage_options.endpoint_url`).

    Raises:
        ConfigError: an option says nothing about a store, or is wrong.
    """
    for name in options:
        if name.partition(".")[0] not in STORAGE_KEYS:
            raise ConfigError(f"{name}: says nothing about a store, and nothing else counts here")
    return check(WriterConfig, nested(options)).destination(url)
