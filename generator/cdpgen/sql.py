"""`cdpgen sql`: an archive's tables as definitions for a SQL engine.

What the columns are, the generated writers say; which tables and partitions there are, the archive
does. A database of the proto package's name (`stellar_v1`) holds a table or view for each message
(`contract_data`). A column whose type an engine does not have is left out, and a comment says so.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, cast, get_args

import pyarrow as pa

from cdp_runtime.archive import load_tables
from cdp_runtime.config import ConfigError, destination_of
from cdp_runtime.dataset import ArchiveError, folder_keys, older_ids, open_parquet
from cdp_runtime.dead_letter import FOLDER, RETRY_FOLDER
from cdp_runtime.program import Program
from cdp_runtime.provenance import other_lock
from cdp_runtime.router import NULL
from cdp_runtime.storage import Storage, forbid_table_folder, open_storage
from cdp_runtime.trouble import failed, standard_output
from cdp_runtime.versions import (
    cases_of,
    children_of,
    enums_of,
    field_id,
    is_text,
    names_of,
    renames,
    zero_of,
)
from cdp_runtime.writer import TableWriter
from cdpgen.errors import UsageError
from cdpgen.names import Names, snake

__all__ = [
    "DIALECTS",
    "ArchivedTable",
    "Dialect",
    "archived_tables",
    "define",
    "definitions",
    "run",
]

Dialect = Literal["duckdb", "bigquery", "spark", "clickhouse"]
DIALECTS: Final[tuple[Dialect, ...]] = get_args(Dialect)


class Key(NamedTuple):
    """A level of folders that is no column: its name, and whether its values are days."""

    name: str
    is_day: bool


@dataclass(slots=True)
class Older:
    """What is to know of a table's files of other versions than today's.

    Attributes:
        schemas: of all files, as those of today's version that were upgraded have retired columns.
        numbers: the ids of columns in which an enum's value may stand as its number, as it had no name then.
        raw: rows that are kept whole in `_raw`, some of which may fit today's columns.
        filled: ids of columns that files of today's version have though their rows are older.
    """

    schemas: list[pa.Schema] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    raw: int = 0
    filled: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class ArchivedTable:
    """A table that has files.

    Attributes:
        name: the full name of the message.
        schema: of today's writer, with the ids of its columns.
        program: of the same.
        keys: the levels of folders that all files have and that are no columns.
        folders: whether the files lie in levels of folders at all.
        columns_in_folders: the columns whose values are folders as well.
        defaults: what rows older than a column have in it, by the column's path, where the rules say so.
        older: what is to know of the files of other versions.
        view: the name in SQL, where it is not simply that of the message.
        uneven: the levels of folders that are no columns, where files do not lie in the same ones.
    """

    name: str
    schema: pa.Schema
    program: Program
    keys: tuple[Key, ...] = ()
    folders: bool = False
    columns_in_folders: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    older: Older = field(default_factory=lambda: Older())
    view: str = ""
    uneven: tuple[str, ...] = ()

    @property
    def identifiers(self) -> tuple[str, str]:
        """The names of database and table."""
        package, _, message = self.name.rpartition(".")
        return package.replace(".", "_").lower() or "archive", self.view or snake(message)


def run(
    url: str,
    dialect: Dialect,
    generated: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
) -> int:
    """Prints what `definitions` gives.

    Returns:
        The exit code: 0 fine, 1 there are no files, one cannot be read, or the store does not answer, 2 the URL
        cannot be used.

    Raises:
        UsageError: as `definitions` does.
    """
    try:
        text = definitions(url, dialect, generated, options)
        with standard_output():
            print(text)
    except OSError as error:
        return failed(error)
    return 0


def definitions(
    url: str,
    dialect: Dialect,
    generated: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
) -> str:
    """The statements that define the tables of an archive.

    Args:
        url: the archive: a path or a URL of any fsspec protocol.
        dialect: whose SQL.
        generated: the folder that `cdpgen build` wrote.
        options: of the archive's store, by flat names too (`storage_options.endpoint_url`).

    Raises:
        UsageError: there is no table of the generated writers in the archive, or the engine cannot
            reach it, or `generated` cannot be imported.
        ArchiveError: there are no files, or one cannot be read.
        StorageError: the store cannot be used, or the URL is that of a folder within an archive.
    """
    tables, unknown = archived_tables(url, generated, options)
    if not tables and not unknown:
        raise ArchiveError(f"{url}: there are no files of a table")
    if not tables:
        known = ", ".join(unknown)
        raise UsageError(
            f"{url}: holds no table of the writers in {os.fspath(generated)}; it has {known}"
        )
    head = [_comment(shlex.join(["cdpgen", "sql", url, "--dialect", dialect]))]
    head += [
        _comment(f"{name}: has files but no writer in {generated}; left out") for name in unknown
    ]
    views = Names()
    for i, table in enumerate(tables):
        # `Sale` and `sale` have one name: of two views of a name the second would replace the first.
        database, name = table.identifiers
        view = views.take(f"{database}.{name}").removeprefix(f"{database}.")
        if view != name:
            head.append(f"-- {table.name}: is {view}, as another table is {name}")
            tables[i] = replace(table, view=view)
    return "\n".join([*head, *(define(table, url, dialect) for table in tables)])


def archived_tables(
    url: str, generated: str | os.PathLike[str], options: Mapping[str, Any] | None = None
) -> tuple[list[ArchivedTable], list[str]]:
    """The tables that an archive has files of, by name, and the names of those without a writer."""
    try:
        writers = load_tables(generated)
        found_at, storage_options = destination_of(url, options or {})
    except ConfigError as error:
        raise UsageError(str(error)) from None
    storage = open_storage(found_at, storage_options=storage_options)
    paths: dict[str, list[str]] = {}
    everything = [file.path for file in storage.files()]
    forbid_table_folder(storage, writers, everything)
    for path in everything:
        table, slash, _ = path.partition("/")
        if slash and table not in (FOLDER, RETRY_FOLDER):
            paths.setdefault(table, []).append(path)
    tables = [
        _archived(
            writers[name],
            [folder_keys(path) for path in found],
            _older(storage, writers[name], found),
        )
        for name, found in sorted(paths.items())
        if name in writers
    ]
    return tables, sorted(paths.keys() - writers.keys())


def _older(storage: Storage, writer: type[TableWriter[Any]], paths: Sequence[str]) -> Older:
    """Reads the footers of a table's files."""
    older = Older()
    seen: set[bytes] = set()
    with ThreadPoolExecutor(_READERS) as readers:
        opened = readers.map(lambda path: open_parquet(storage, path), paths)
        for path, parquet in zip(paths, opened, strict=True):
            footer = parquet.metadata
            told = footer.metadata or {}
            if clash := other_lock(told, writer):
                raise UsageError(f"{storage.describe(path)}: {clash}")
            schema = parquet.schema_arrow
            # Not by the fingerprint: files that were upgraded to one version have what each had before.
            key = schema.remove_metadata().serialize().to_pybytes()
            if key not in seen:
                seen.add(key)
                older.schemas.append(schema)
            if told.get(b"cdpgen.fingerprint", b"").decode() == writer.fingerprint:
                older.filled |= set(older_ids(told))
                continue
            for i, leaf in enumerate(_leaves(schema)):
                chunks = (footer.row_group(g).column(i) for g in range(footer.num_row_groups))
                found: list[Any] = [chunk.statistics for chunk in chunks if chunk.statistics]
                # Of others Python may not have the least: of a year 10000, or of nanoseconds without pandas.
                may_be_name = is_text(leaf.type) or pa.types.is_dictionary(leaf.type)
                if may_be_name and any(map(_begins_with_a_number, found)):
                    older.numbers.add(cast(int, field_id(leaf)))
                if leaf.name == writer.converter.program.raw:
                    older.raw += sum(statistics.num_values for statistics in found)
    return older


def _begins_with_a_number(statistics: Any) -> bool:
    """Whether the least of some texts is a number; the name of an enum's value never is."""
    text = statistics.min if statistics.has_min_max else None
    return isinstance(text, str) and (text[:1] == "-" or text[:1].isdigit())


def _leaves(fields: Any) -> Iterator[pa.Field[Any]]:
    """The columns that hold values, in the order in which Parquet counts them."""
    for each in fields:
        inner = children_of(each.type)
        yield from _leaves(inner) if inner else (each,)


def _archived(
    writer: type[TableWriter[Any]], files: Sequence[Mapping[str, str]], older: Older
) -> ArchivedTable:
    converter = writer.converter
    alike = all(list(file) == list(files[0]) for file in files)
    columns = set(converter.schema.names)
    return ArchivedTable(
        writer.table,
        converter.schema,
        converter.program,
        keys=tuple(
            Key(key, all(_DAY.fullmatch(file[key]) for file in files if file[key] != NULL))
            for key in files[0]
            if alike and key not in columns
        ),
        folders=any(files),
        uneven=() if alike else tuple(sorted({key for file in files for key in file} - columns)),
        columns_in_folders=tuple(key for key in files[0] if alike and key in columns),
        defaults=writer.defaults,
        older=older,
    )


_READERS: Final = 8
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


def define(table: ArchivedTable, url: str, dialect: Dialect) -> str:
    """The statements that define one table in a database of the name of its package."""
    local = os.path.abspath(os.path.expanduser(url)) if "://" not in url else url
    return "\n".join(_STATEMENTS[dialect](table, f"{local.rstrip('/')}/{table.name}"))


# ---- Types


@dataclass(frozen=True, slots=True)
class _Types:
    """How an engine writes types; None for those that it cannot read from Parquet.

    Attributes:
        scalars: by Arrow's name of the type, and of `timestamp[us]` and such without the zone.
        decimal: of a precision and scale.
        nested: `list`, `map` and `struct` around the types of their items, `struct`'s joined.
        member: a member of a struct, of its name and type.
        quote: the character around a name.
        nullable: a scalar that may be null.
    """

    scalars: Mapping[str, str]
    decimal: Callable[[int, int], str | None]
    nested: Mapping[str, str]
    member: str
    quote: str
    nullable: str = "{}"

    def name(self, name: str) -> str:
        """A name, quoted."""
        return f"{self.quote}{name.replace(self.quote, self.quote * 2)}{self.quote}"

    def of(self, column: pa.Field[Any]) -> str | None:
        """The type of a column."""
        return self._of(column.type, column.nullable)

    def _of(self, kind: Any, nullable: bool) -> str | None:
        if pa.types.is_dictionary(kind):
            return self._of(kind.value_type, nullable)
        if pa.types.is_map(kind):
            key, item = self.of(kind.key_field), self.of(kind.item_field)
            return self.nested["map"].format(key, item) if key and item else None
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            item = self.of(kind.value_field)
            return self.nested["list"].format(item) if item else None
        if pa.types.is_struct(kind):
            members = [(member.name, self.of(member)) for member in kind]
            if not all(type_ for _, type_ in members):
                return None
            texts = [self.member.format(self.name(name), type_) for name, type_ in members]
            return self.nested["struct"].format(", ".join(texts))
        scalar = self._scalar(kind)
        return self.nullable.format(scalar) if scalar and nullable else scalar

    def _scalar(self, kind: Any) -> str | None:
        if pa.types.is_decimal(kind):
            return self.decimal(kind.precision, kind.scale)
        if pa.types.is_fixed_size_binary(kind):
            return self.scalars["binary"]
        return self.scalars.get(str(kind).removeprefix("large_").replace(", tz=UTC", ""))


def _decimal_to_38(precision: int, scale: int) -> str | None:
    return f"DECIMAL({precision}, {scale})" if precision <= 38 else None


def _bigquery_decimal(precision: int, scale: int) -> str | None:
    if scale <= 9 and precision - scale <= 29:
        return f"NUMERIC({precision}, {scale})"
    return f"BIGNUMERIC({precision}, {scale})" if precision <= 38 else None


def _times(name: str, text: str, units: Sequence[str]) -> dict[str, str]:
    return {f"{name}[{unit}]": text for unit in units}


_UNITS: Final = ("s", "ms", "us", "ns")
_TO_MICROS: Final = _UNITS[:3]

_DUCKDB: Final = _Types(
    {
        "bool": "BOOLEAN",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "uint32": "UINTEGER",
        "uint64": "UBIGINT",
        "float": "FLOAT",
        "double": "DOUBLE",
        "string": "VARCHAR",
        "binary": "BLOB",
        "date32[day]": "DATE",
        **_times("time64", "TIME", ["us"]),
        **_times("timestamp", "TIMESTAMP WITH TIME ZONE", _TO_MICROS),
        "timestamp[ns]": "TIMESTAMP_NS",
        **_times("duration", "BIGINT", _UNITS),
    },
    _decimal_to_38,
    {"list": "{}[]", "map": "MAP({}, {})", "struct": "STRUCT({})"},
    "{} {}",
    '"',
)
_BIGQUERY: Final = _Types(
    {
        "bool": "BOOL",
        **dict.fromkeys(("int32", "int64", "uint32", "uint64"), "INT64"),
        **dict.fromkeys(("float", "double"), "FLOAT64"),
        "string": "STRING",
        "binary": "BYTES",
        "date32[day]": "DATE",
        **_times("time64", "TIME", ["us"]),
        **_times("timestamp", "TIMESTAMP", _TO_MICROS),
        **_times("duration", "INT64", _UNITS),
    },
    _bigquery_decimal,
    {
        "list": "ARRAY<{}>",
        "map": "ARRAY<STRUCT<`key` {}, `value` {}>>",
        "struct": "STRUCT<{}>",
    },
    "{} {}",
    "`",
)
_SPARK: Final = _Types(
    {
        "bool": "BOOLEAN",
        "int32": "INT",
        "int64": "BIGINT",
        "uint32": "BIGINT",
        "uint64": "DECIMAL(20, 0)",
        "float": "FLOAT",
        "double": "DOUBLE",
        "string": "STRING",
        "binary": "BINARY",
        "date32[day]": "DATE",
        **_times("timestamp", "TIMESTAMP", _TO_MICROS),
        **_times("duration", "BIGINT", _UNITS),
    },
    _decimal_to_38,
    {"list": "ARRAY<{}>", "map": "MAP<{}, {}>", "struct": "STRUCT<{}>"},
    "{}: {}",
    "`",
)
_CLICKHOUSE: Final = _Types(
    {
        "bool": "Bool",
        "int32": "Int32",
        "int64": "Int64",
        "uint32": "UInt32",
        "uint64": "UInt64",
        "float": "Float32",
        "double": "Float64",
        "string": "String",
        "binary": "String",
        "date32[day]": "Date32",
        **_times("timestamp", "DateTime64(6, 'UTC')", ["us"]),
        **_times("timestamp", "DateTime64(3, 'UTC')", ["s", "ms"]),
        "timestamp[ns]": "DateTime64(9, 'UTC')",
        **_times("duration", "Int64", _UNITS),
    },
    lambda precision, scale: f"Decimal({precision}, {scale})",
    {"list": "Array({})", "map": "Map({}, {})", "struct": "Tuple({})"},
    "{} {}",
    "`",
    "Nullable({})",
)


@dataclass(slots=True)
class _Columns:
    """The columns that an engine can read, with their types, and comments on the others."""

    types: _Types
    table: ArchivedTable
    readable: list[tuple[pa.Field[Any], str]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for column in self.table.schema:
            found = self.types.of(column)
            if found:
                self.readable.append((column, found))
            else:
                self.comments.append(f"-- {column.name}: {column.type} cannot be read; left out")
        for level in self.table.uneven:
            self.comments.append(
                _comment(f"{level}: is no folder of all files of the table; left out")
            )

    def lines(self, without: Sequence[str] = ()) -> list[str]:
        """Name and type of each column."""
        return [
            f"  {self.types.name(column.name)} {type_}"
            for column, type_ in self.readable
            if column.name not in without
        ]


def _comment(text: str) -> str:
    """What may have line breaks, as names of folders may."""
    return "\n".join(f"-- {line}" for line in text.splitlines())


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# ---- Statements


def _duckdb(table: ArchivedTable, folder: str) -> Iterator[str]:
    """A view that finds columns by their ids, whatever the version of a file.

    DuckDB does not combine that with partitions in folders, so those are cut from the names of the
    files; a filter on one still leaves out the files of the others. Within structs it goes by names: what
    had another name, or was not there, in files that are older is put right in the view.
    """
    files = f"{_literal_glob(folder)}/**/*.parquet"
    columns = _Columns(_DUCKDB, table)
    database, name = map(_DUCKDB.name, table.identifiers)
    file_name = _DUCKDB.name(_free("file", table.schema.names))
    readings = [_Reading(table, column) for column, _ in columns.readable]
    replaced = [
        f"{each.expression} AS {_DUCKDB.name(each.name)}" for each in readings if each.expression
    ]
    yield from columns.comments
    yield from _remarks(table)
    yield f"CREATE SCHEMA IF NOT EXISTS {database};"
    yield f"CREATE OR REPLACE VIEW {database}.{name} AS"
    replace = " REPLACE (\n  " + ",\n  ".join(replaced) + "\n)" if replaced else ""
    yield f"SELECT * EXCLUDE ({file_name}){replace}" + "".join(
        f",\n  {_of_folder(key, file_name)} AS {_DUCKDB.name(key.name)}" for key in table.keys
    )
    yield "FROM read_parquet("
    yield f"  {_text(files)},"
    yield f"  hive_partitioning = false, filename = {_text(file_name.strip(chr(34)))},"
    yield "  schema = MAP {"
    yield ",\n".join(
        f"    {each.id}: {{name: {_text(each.name)}, type: {_text(each.type)}, "
        f"default_value: {each.default}}}"
        for each in readings
    )
    yield "  });"


def _of_folder(key: Key, file_name: str) -> str:
    """What the folder of a level says, out of the name of a file."""
    value = f"regexp_extract({file_name}, {_text(f'/{key.name}=([^/]*)/')}, 1)"
    found = f"nullif({value}, {_text(NULL)})"
    return f"{found}::DATE" if key.is_day else f"url_decode({found})"


def _literal_glob(folder: str) -> str:
    """The pattern by which DuckDB finds this folder and not others that a `*` in its name fits too."""
    if "\\" in folder:
        raise UsageError(
            f"{folder}: DuckDB finds no files there, as it takes `\\` for the end of a folder's name; "
            "rename the folder, or copy the archive to one without it"
        )
    return re.sub(r"[*?[]", r"[\g<0>]", folder)


def _remarks(table: ArchivedTable) -> Iterator[str]:
    older = table.older
    if older.raw:
        rows = (
            "1 row of older files is" if older.raw == 1 else f"{older.raw} rows of older files are"
        )
        yield (
            f"-- {rows} kept whole in {table.program.raw}: until "
            "`cdpgen upgrade` puts what is known today into its columns, newer ones have their default there, "
            "and numbers that got wider are cut off."
        )
    ids = {
        field_id(column): column.name for column in cast("Iterable[pa.Field[Any]]", table.schema)
    }
    for number in sorted(older.filled & ids.keys()):
        if ids[number] in table.defaults:
            yield (
                f"-- {ids[number]}: the default of the rules is not in rows of upgraded files that are "
                "older than the column."
            )


class _Reading:
    """How DuckDB reads a column from files of every version.

    Attributes:
        name: of the column.
        id: of the column.
        type: that DuckDB is told, with the names that anything within had before.
        default: of files that do not have it.
        expression: what is then made of it to be today's; empty where it is that already.
    """

    def __init__(self, table: ArchivedTable, column: pa.Field[Any]) -> None:
        self._table = table
        self._enums = dict(enums_of(table.program, table.schema))
        self._cases = set(cases_of(table.program, table.schema))
        self.name = column.name
        self.id = field_id(column)
        known = [_with_id(schema, self.id) for schema in table.older.schemas]
        before = [each for each in known if each is not None]
        self.default = self._zero(column, column.name)
        quoted = _DUCKDB.name(column.name)
        is_struct = pa.types.is_struct(column.type)
        self.type, made = self._value(column, before, quoted, column.name, missing=is_struct)
        if is_struct:
            # All defaults stand in one MAP, which takes values of one type only, and the others are texts.
            self.default = "NULL"
        if column.name in self._cases:
            made = self._renamed(made, column.name, table.schema, table.older.schemas)
        self.expression = made if made != quoted else ""

    def _value(
        self,
        today: pa.Field[Any],
        before: Sequence[Any],
        ref: str,
        path: str,
        missing: bool = False,
    ) -> tuple[str, str]:
        """The type to read and what to make of it; `ref` itself where that is it.

        Args:
            today: the column.
            before: as files have it.
            ref: what is read.
            path: of the column.
            missing: whether null is read of files that do not have it.
        """
        type_, made = self._read(today.type, today, before, ref, path)
        if not today.nullable and (missing or any(each.nullable for each in before)):
            # As today's type: the one to read has the names of before among its members.
            made = f"coalesce({made}, {self._zero(today, path)}::{_DUCKDB.of(today)})"
        return type_, made

    def _read(
        self, kind: Any, today: pa.Field[Any], before: Sequence[Any], ref: str, path: str
    ) -> tuple[str, str]:
        """The same, with a null wherever one is read."""
        types = [each.type for each in before]
        if pa.types.is_struct(kind):
            return self._struct(kind, types, ref, path)
        loop = f"x{path.count('.') + path.count('[')}"
        if pa.types.is_map(kind):
            items = [each.item_field for each in types]
            key = cast(str, _DUCKDB.of(kind.key_field))
            item = kind.item_field
            type_, made = self._value(item, items, f"{loop}.value", f"{path}.value")
            if made == f"{loop}.value":
                return f"MAP({key}, {type_})", ref
            entry = f"struct_pack(k := {loop}.key, v := {made})"
            return (
                f"MAP({key}, {type_})",
                f"map_from_entries([{entry} for {loop} in map_entries({ref})])",
            )
        if pa.types.is_list(kind):
            item = kind.value_field
            items = [each.value_field for each in types]
            type_, made = self._value(item, items, loop, f"{path}[]")
            return f"{type_}[]", ref if made == loop else f"[{made} for {loop} in {ref}]"
        enum = self._enums.get(path)
        if enum is not None and any(field_id(each) in self._table.older.numbers for each in before):
            ref = _case(ref, names_of(enum))
        type_ = cast(str, _DUCKDB.of(today))
        if (
            type_ == "BLOB"
            and path != self.name
            and any(
                is_text(each.value_type if pa.types.is_dictionary(each) else each) for each in types
            )
        ):
            # Within columns DuckDB makes bytes of a text by a cast, which takes `\x41` for `A` and fails
            # at `ï`. Files of today have bytes, of which a text would be made as badly.
            return "UNION(text VARCHAR, data BLOB)", f"coalesce(encode({ref}.text), {ref}.data)"
        return type_, ref

    def _struct(self, kind: Any, types: Sequence[Any], ref: str, path: str) -> tuple[str, str]:
        self._check_names(kind, types, path)
        members: dict[str, str] = {}
        made: list[str] = []
        changed = False
        for child in kind:
            matched = [_with_id(each, field_id(child)) for each in types]
            before = [each for each in matched if each is not None]
            names = [each.name for each in _by_name([child, *before]).values()]
            refs = [f"{ref}.{_DUCKDB.name(name)}" for name in names]
            inner = refs[0] if len(refs) == 1 else f"coalesce({', '.join(refs)})"
            missing = len(before) < len(types)
            type_, value = self._value(child, before, inner, f"{path}.{child.name}", missing)
            if f"{path}.{child.name}" in self._cases:
                value = self._renamed(value, child.name, kind, types)
            members.update(dict.fromkeys(names, type_))
            changed = changed or value != f"{ref}.{_DUCKDB.name(child.name)}"
            made.append(f"{_DUCKDB.name(child.name)} := {value}")
        for fields in types:
            # DuckDB casts no message to one that it shares no name with, so a retired member is read along: as
            # a text, since of everything there is one.
            if not _by_name(fields).keys() & {name.lower() for name in members}:
                members[fields[0].name] = "VARCHAR"
                changed = True
        texts = [
            _DUCKDB.member.format(_DUCKDB.name(name), type_) for name, type_ in members.items()
        ]
        whole = f"CASE WHEN {ref} IS NOT NULL THEN struct_pack({', '.join(made)}) END"
        return _DUCKDB.nested["struct"].format(", ".join(texts)), whole if changed else ref

    def _check_names(self, kind: Any, types: Sequence[Any], path: str) -> None:
        """Each name that is asked for has to mean the same column in all files, or none."""
        todays = {field_id(child) for child in kind}
        meant = {
            child.name.lower(): field_id(child)
            for fields in (*types, kind)
            for child in fields
            if field_id(child) in todays
        }
        for fields in types:
            for name, child in _by_name(fields).items():
                if meant.get(name, field_id(child)) != field_id(child):
                    raise UsageError(
                        f"{self._table.name}: {path}.{child.name} was the name of another column in files "
                        "of an older version, which DuckDB cannot tell from today's: run `cdpgen upgrade` "
                        "first"
                    )

    def _renamed(self, ref: str, name: str, today: Any, before: Sequence[Any]) -> str:
        """The case of a oneof whose members had other names."""
        names = {old: new for fields in before for old, new in renames(today, fields).items()}
        if names:
            members = _members(self._table.program, name)
            names = {old: new for old, new in names.items() if new in members}
        return _case(ref, names) if names else ref

    def _zero(self, column: pa.Field[Any], path: str) -> str:
        """What rows older than a column have in it."""
        kind: Any = column.type
        default = self._table.defaults.get(path)
        if default is None and column.nullable:
            return "NULL"
        if pa.types.is_map(kind):
            return "'{}'"
        if default is None and pa.types.is_struct(kind):
            inner = [self._zero(child, f"{path}.{child.name}") for child in kind]
            names = [_DUCKDB.name(child.name) for child in kind]
            pairs = ", ".join(f"{n} := {z}" for n, z in zip(names, inner, strict=True))
            return f"struct_pack({pairs})"
        value = zero_of(kind, self._enums.get(path)) if default is None else default
        is_point = pa.types.is_timestamp(kind) or pa.types.is_time(kind)
        if is_point and isinstance(value, int):
            value = pa.scalar(value, pa.int64()).cast(kind).cast(pa.utf8()).as_py()
        if isinstance(value, bytes):
            return _text("".join(f"\\x{byte:02X}" for byte in value))
        return _text(str(value).lower() if isinstance(value, bool) else str(value))


def _members(program: Program, case: str) -> set[str]:
    """What a column of that name may say is set: where several messages have one, of each of them."""
    oneofs = {oneof for oneof, column in program.oneof_cases if column == case}
    found = {item.name or item.column or "" for item in program.fields if item.oneof in oneofs}
    return found.union(*(_members(item.program, case) for item in program.fields if item.program))


def _case(ref: str, names: Mapping[str, str]) -> str:
    """A text, or another for some."""
    whens = " ".join(f"WHEN {_text(old)} THEN {_text(new)}" for old, new in names.items())
    return f"CASE {ref} {whens} ELSE {ref} END"


def _by_name(fields: Iterable[pa.Field[Any]]) -> dict[str, pa.Field[Any]]:
    """Columns within one, as DuckDB finds them: of names that differ in case alone it takes the first."""
    found: dict[str, pa.Field[Any]] = {}
    for each in fields:
        found.setdefault(each.name.lower(), each)
    return found


def _with_id(fields: Any, number: int | None) -> pa.Field[Any] | None:
    return next((each for each in fields if field_id(each) == number), None)


def _free(name: str, taken: Sequence[str]) -> str:
    """A name that no column has."""
    while name in taken:
        name += "_"
    return name


def _bigquery(table: ArchivedTable, folder: str) -> Iterator[str]:
    if not folder.startswith("gs://"):
        raise UsageError(f"{folder}: BigQuery reads archives on gs:// only")
    columns = _Columns(_BIGQUERY, table)
    database, name = map(_BIGQUERY.name, table.identifiers)
    # BigQuery takes folders for partitions only where none of them is a column of the files too.
    by_folder = bool(table.keys) and not table.columns_in_folders
    yield from columns.comments
    yield _BY_NAME
    yield f"CREATE SCHEMA IF NOT EXISTS {database};"
    yield f"CREATE OR REPLACE EXTERNAL TABLE {database}.{name} ("
    yield ",\n".join(columns.lines())
    yield ")"
    if by_folder:
        keys = [
            f"  {_BIGQUERY.name(key.name)} {'DATE' if key.is_day else 'STRING'}"
            for key in table.keys
        ]
        yield "WITH PARTITION COLUMNS (\n" + ",\n".join(keys) + "\n)"
    options = [
        "format = 'PARQUET'",
        f"uris = [{_backslashed(f'{folder}/*.parquet')}]",
        "enable_list_inference = true",
        "map_target_type = 'ARRAY_OF_STRUCT'",
    ]
    if by_folder:
        options.append(f"hive_partition_uri_prefix = {_backslashed(folder)}")
    yield "OPTIONS (\n  " + ",\n  ".join(options) + "\n);"


def _spark(table: ArchivedTable, folder: str) -> Iterator[str]:
    columns = _Columns(_SPARK, table)
    database, name = map(_SPARK.name, table.identifiers)
    in_folders = table.columns_in_folders
    partitions = [(key.name, "DATE" if key.is_day else "STRING") for key in table.keys]
    partitions += [(c.name, type_) for c, type_ in columns.readable if c.name in in_folders]
    lines = [f"  {_SPARK.name(name)} {type_}" for name, type_ in partitions]
    location = folder if "://" in folder else f"file://{folder}"
    location = re.sub("^s3://", "s3a://", location)
    if not partitions:  # else Spark lists what is below the folder, and has no pattern
        _check_no_pattern(folder, "Spark", r"[*?{[\\]")
    yield from columns.comments
    yield _BY_NAME
    yield f"CREATE DATABASE IF NOT EXISTS {database};"
    yield f"DROP TABLE IF EXISTS {database}.{name};"
    yield f"CREATE TABLE {database}.{name} ("
    yield ",\n".join([*columns.lines(without=in_folders), *lines])
    yield ")\nUSING PARQUET"
    if not partitions and table.folders:
        yield "OPTIONS (recursiveFileLookup = 'true')"
    if partitions:
        yield f"PARTITIONED BY ({', '.join(_SPARK.name(key) for key, _ in partitions)})"
    yield f"LOCATION {_backslashed(location)};"
    if partitions:
        yield f"MSCK REPAIR TABLE {database}.{name};"


def _clickhouse(table: ArchivedTable, folder: str) -> Iterator[str]:
    columns = _Columns(_CLICKHOUSE, table)
    database, name = map(_CLICKHOUSE.name, table.identifiers)
    protocol = folder.partition("://")[0] if "://" in folder else "file"
    if protocol not in _CLICKHOUSE_FUNCTIONS:
        raise UsageError(f"{folder}: ClickHouse does not read {protocol}://")
    _check_no_pattern(folder, "ClickHouse", r"[*?{]")
    structure = ", ".join(line.strip() for line in columns.lines())
    yield from columns.comments
    yield _BY_NAME
    yield f"CREATE DATABASE IF NOT EXISTS {database};"
    yield f"CREATE OR REPLACE VIEW {database}.{name} AS"
    yield "SELECT *" + "".join(
        f",\n  {_of_path(key)} AS {_CLICKHOUSE.name(key.name)}" for key in table.keys
    )
    yield f"FROM {_CLICKHOUSE_FUNCTIONS[protocol]}("
    yield f"  {_backslashed(f'{folder}/**/*.parquet')}, 'Parquet',"
    yield f"  {_backslashed(structure)}"
    # else a column that is a folder too would have what the folder's name says, escaped
    yield ")\nSETTINGS use_hive_partitioning = 0;"


def _check_no_pattern(folder: str, engine: str, special: str) -> None:
    if found := re.search(special, folder):
        raise UsageError(
            f"{folder}: {engine} takes `{found[0]}` for part of a pattern, and reads other folders than this; "
            "rename the folder, or copy the archive to one without it"
        )


def _of_path(key: Key) -> str:
    """What the folder of a level says, out of ClickHouse's column of where a file is."""
    value = f"extract(_path, {_backslashed(f'/{key.name}=([^/]*)/')})"
    found = f"nullIf({value}, {_text(NULL)})"
    return f"toDate32OrNull({found})" if key.is_day else f"decodeURLComponent({found})"


_BY_NAME: Final = "-- Found by name: a column renamed since a file was written is not found in it."
_CLICKHOUSE_FUNCTIONS: Final = {"file": "file", "s3": "s3", "gs": "gcs", "gcs": "gcs"}


def _backslashed(text: str) -> str:
    """A text for the engines that escape with a backslash."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_STATEMENTS: Final[Mapping[Dialect, Callable[[ArchivedTable, str], Iterator[str]]]] = {
    "duckdb": _duckdb,
    "bigquery": _bigquery,
    "spark": _spark,
    "clickhouse": _clickhouse,
}
