"""`cdpgen upgrade`: old files of an archive rewritten as today's version.

A file is replaced by one of the same path and the same rows in the same order: columns as `open_archive` reads
them, what was kept whole in `_raw` decoded with today's schema. The new file takes the place of the old one at
once (a rename on a disk, the end of an upload in an object store): a reader sees the old file or the new one,
never both or none, whatever becomes of the process. Run again, it goes on with the files that are left.

What the footer says of positions stays true, so a stream resumes as before. Columns that are retired stay in
the file, but the footer no longer tells what they were made of: each message that a replay would make something
else of from then on is kept whole in `_raw`, so that it gives the same before and after. Defaults of the
rules are not written down, as no message had them: the footer keeps the ids of the columns that the rows are
older than (`cdpgen.older`), and `open_archive` fills them as before. Nor is a zero of a field that became
`optional` made null: the footer keeps that it was absent, or zero, for the replay (`cdpgen.implicit`). And it
keeps which rows a writer put into `_raw` (`cdpgen.kept`): only of those a later schema may know more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from . import descriptor
from .archive import load_tables, writer_of
from .config import ConfigError, destination_of
from .converter import ConversionError, Converter
from .dataset import (
    KEPT,
    OLDER,
    ArchiveError,
    evolution_of,
    open_parquet,
    tells_kept,
    told_kept,
    written_as,
)
from .dead_letters import is_unfinished
from .former import (
    FIELDS,
    IMPLICIT,
    NEEDED,
    footer_of,
    former_of,
    implicit_ids,
    needed_ids,
)
from .log import STANDARD_ERROR
from .metrics import Metrics
from .parquet_file import Compressor, Layout, ParquetFile
from .patience import Patience
from .program import Field, Program
from .provenance import WRITTEN_AS, other_lock, versions_told
from .storage import FileInfo, Storage, forbid_table_folder, open_storage, writer_id
from .trouble import failed, standard_output, unreadable
from .versions import ids_of, with_retired
from .writer import TableWriter

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Upgraded", "run", "upgrade"]

# The stubs of pyarrow lack too much to type these.
Array: TypeAlias = Any


class Upgraded(NamedTuple):
    """What was done for one file.

    Attributes:
        table: the full name of the table.
        url: of the file, as a person would type it.
        version: that it was of; empty when its footer did not say.
        rows: how many it has; 0 when nothing had to be done.
        size: in bytes, before and after.
        problem: why it was left as it is; empty when it is of today's version now.
    """

    table: str
    url: str
    version: str
    rows: int
    size: tuple[int, int]
    problem: str = ""


def run(
    url: str,
    *,
    generated: str = "generated",
    table: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Upgrades the files of an archive and prints a line for each table.

    Args:
        url: the archive.
        generated: the folder that `cdpgen build` wrote.
        table: the full name of the only table to upgrade; all when left out.
        options: of the archive's store, by flat names too.

    Returns:
        The exit code: 0 all files are of today's version, 1 some could not be upgraded, there are none, or the
        store does not answer, 2 bad usage, or a URL that cannot be used.
    """
    done: dict[str, list[Upgraded]] = {}
    try:
        found, storage_options = destination_of(url, options or {})
        with _progress() as step:
            for file in upgrade(
                found,
                generated=generated,
                tables=None if table is None else [table],
                storage_options=storage_options,
            ):
                done.setdefault(file.table, []).append(file)
                step(file)
        with standard_output():
            _print(done)
    except ConfigError as error:
        print(error, file=STANDARD_ERROR)
        return 2
    except KeyboardInterrupt:
        print("stopped; run it again to go on", file=STANDARD_ERROR)
        return 1
    except OSError as error:
        code = failed(error)
        return 1 if done else code
    if not done:
        print(f"{url}: there are no files of the tables in {generated}", file=STANDARD_ERROR)
        return 1
    problems = [file for files in done.values() for file in files if file.problem]
    for file in problems:
        print(f"{file.url}: {file.problem}", file=STANDARD_ERROR)
    return 1 if problems else 0


def _print(done: Mapping[str, Sequence[Upgraded]]) -> None:
    for name, files in done.items():
        new = [file for file in files if file.rows]
        versions = sorted({file.version or "?" for file in new}, key=lambda v: (len(v), v))
        of = f" (of version {', '.join(versions)})" if versions else ""
        before, after = (sum(file.size[i] for file in new) for i in (0, 1))
        print(
            f"{name}: {len(new):,} of {len(files):,} files upgraded{of}, {sum(f.rows for f in new):,} "
            f"rows, {before:,} bytes before, {after:,} after"
        )


def upgrade(
    url: str | os.PathLike[str],
    *,
    generated: str | os.PathLike[str] = "generated",
    tables: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Upgraded]:
    """Upgrades the files of an archive, one after the other.

    Args:
        url: the archive: a path or a URL of any fsspec protocol.
        generated: the folder that `cdpgen build` wrote.
        tables: the full names of the tables to upgrade; all that have a writer when left out.
        storage_options: what the filesystem takes besides the URL.

    Yields:
        What was done for each file, once it is durable.

    Raises:
        ConfigError: there is no such folder, or no such table in it.
        StorageError: the store cannot be used, or the URL is that of a folder within an archive.
    """
    writers = load_tables(generated)
    for name in tables or ():
        writer_of(writers, name, generated)
    identity = writer_id()
    patience = Patience(f"upgrade {identity}", Metrics())
    # the listing as a whole, before anything changes; read only, so that nothing is made of a mistyped URL
    reader = open_storage(url, storage_options=storage_options)
    try:
        files = patience.call(lambda: list(reader.files()), f"list {reader.url}")
        forbid_table_folder(reader, writers, [file.path for file in files])
    finally:
        reader.close()
    names = writers if tables is None else tables
    files = [file for file in files if file.path.partition("/")[0] in names]
    if not files:
        return
    storage = open_storage(url, identity, storage_options)
    try:
        for file in files:
            yield _upgrade_file(storage, patience, file, writers[file.path.partition("/")[0]])
    finally:
        storage.close()


def _upgrade_file(
    storage: Storage, patience: Patience, file: FileInfo, writer: type[TableWriter[Any]]
) -> Upgraded:
    shown = storage.describe(file.path)
    size = (file.size, file.size)
    doing = f"read {shown}"
    if patience.call(lambda: is_unfinished(storage, file.path), doing):
        # once it is finished it stays; before that it may be removed, and would come back here
        problem = "is of a retry of dead letters that is not done; run this again after it"
        return Upgraded(writer.table, shown, "", 0, size, problem)
    try:
        parquet = patience.call(lambda: open_parquet(storage, file.path), doing)
    except ArchiveError as error:
        return Upgraded(writer.table, shown, "", 0, size, str(error).removeprefix(f"{shown}: "))
    footer = dict(parquet.metadata.metadata or {})
    version = footer.get(b"cdpgen.version", b"").decode()
    if footer.get(b"cdpgen.fingerprint", b"").decode() == writer.fingerprint:
        return Upgraded(writer.table, shown, version, 0, size)
    problem = other_lock(footer, writer)
    if problem:
        return Upgraded(writer.table, shown, version, 0, size, problem)
    if version.isdigit() and int(version) > writer.version:
        problem = (
            f"is of version {version}, and the writer of version {writer.version} only; build anew"
        )
        return Upgraded(writer.table, shown, version, 0, size, problem)
    source = parquet.schema_arrow
    converter = writer.converter()
    schema = with_retired(converter.schema, [source])
    try:
        evolution = evolution_of(parquet, converter, schema, current=False, defaults=None)
    except ValueError as error:
        return Upgraded(writer.table, shown, version, 0, size, str(error))
    told: dict[str, str] = {
        **{key.decode(): value.decode() for key, value in footer.items() if key != b"ARROW:schema"},
        **versions_told(writer),
        OLDER: ",".join(map(str, evolution.older)),
        WRITTEN_AS: written_as(footer),
    }
    for key in (descriptor.KEY, FIELDS, IMPLICIT, NEEDED):
        told.pop(key, None)
    retired = sorted({*ids_of(schema)} - {*ids_of(converter.schema)})
    told |= footer_of(writer.message_type, converter, retired)
    codec = (
        parquet.metadata.row_group(0).column(0).compression if parquet.num_row_groups else "ZSTD"
    ).lower()
    codec = "none" if codec == "uncompressed" else codec
    upload = storage.create(file.path, replace=True)
    try:
        # that rows are sorted is not told: what comes out of `_raw` need not be
        layout = Layout(schema, Compressor(codec), bloom_filters=writer.bloom_filters)
        former = former_of(footer, source, converter)
        ways = None
        if former is not None:
            if implicit := implicit_ids(former, converter):
                told[IMPLICIT] = ",".join(map(str, implicit))
            if needed := needed_ids(footer, former, source, converter):
                told[NEEDED] = ",".join(map(str, needed))
            # without it nobody knows the units of times, and what a replay gives is not all of a row
            is_all = b"ARROW:schema" in footer
            replayed = _replayed(told, layout, schema, converter) if is_all else None
            ways = _Ways(
                former.converter,
                replayed,
                _undropping(converter),
                former.message_type,
                WRITTEN_AS.encode() in footer,
                bool(needed),
            )
        made = ParquetFile(layout, upload.write)
        by_writers: list[Array] = []
        first = 0
        for group in range(parquet.num_row_groups):
            rows_of = patience.call(partial(_read, parquet, group, shown), doing)
            for batch in rows_of.to_batches():
                kept = evolution.kept(batch, first)
                rows = evolution.apply(batch, schema.names, first)
                first += batch.num_rows
                rows = rows if ways is None else _whole(rows, batch, ways)
                if raw := converter.program.raw:
                    kept = pc.and_(kept, rows.column(raw).is_valid())
                by_writers.append(kept)
                made.append(rows)
            made.end_row_group()
            patience.call(upload.drain, f"write {shown}")
        if tells_kept(footer):
            told[KEPT] = told_kept(by_writers)
        made.finish(told)
        after = made.size
        patience.call(upload.publish, f"replace {shown}")
    except (ArchiveError, pa.ArrowException, ValueError) as error:
        upload.discard()
        problem = str(error).removeprefix(f"{shown}: ")
        return Upgraded(writer.table, shown, version, 0, size, problem)
    except BaseException:
        upload.discard()
        raise
    return Upgraded(writer.table, shown, version, parquet.metadata.num_rows, (file.size, after))


def _read(parquet: pq.ParquetFile, group: int, shown: str) -> pa.Table:
    try:
        return parquet.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(unreadable(shown, error, f"row group {group}")) from error


class _Ways(NamedTuple):
    """What makes messages of rows, in a replay of the file and of the upgraded one, and as it should be."""

    before: Converter[Any]
    after: Converter[Any] | None
    """None where that may make more of a row than the replay of the file does."""
    today: Converter[Any]
    message_type: type[Message]
    """By the schema of the file."""
    again: bool
    """Whether the file was upgraded before."""
    all_stay: bool
    """Whether what is in `_raw` stays there: the columns have zero for what a message lacks that was required,
    and today's has no say in it."""


def _replayed(
    told: Mapping[str, str], layout: Layout, schema: pa.Schema, converter: Converter[Any]
) -> Converter[Any]:
    """What makes messages of the rows of an upgraded file in a replay."""
    if IMPLICIT not in told:
        return converter
    own = {key: value.encode() for key, value in told.items()}
    footer = {key.encode(): value for key, value in (layout.metadata | own).items()}
    found = former_of(footer, schema, converter)
    return converter if found is None else found.converter


def _undropping(converter: Converter[Any]) -> Converter[Any]:
    """Today's converter, but for what rules drop: messages that have some of that are kept whole, too."""

    def program_of(program: Program) -> Program:
        fields = (
            Field(
                item.number,
                item.kind,
                item.column,
                item.presence,
                encoding=item.encoding,
                oneof=item.oneof,
                name=item.name,
                enum=item.enum,
                program=item.program
                if item.program is None or item.encoding == "serialized"
                else program_of(item.program),
            )
            for item in program.fields
            if item.column is not None
        )
        return Program(
            program.message,
            *fields,
            oneof_cases=program.oneof_cases,
            raw=program.raw,
            contents=program.contents,
        )

    class Undropping(Converter[Any]):
        schema = converter.schema
        program = program_of(converter.program)

    return Undropping()


def _whole(rows: pa.RecordBatch, before: pa.RecordBatch, ways: _Ways) -> pa.RecordBatch:
    """Rows of today, with the messages in `_raw` that a replay would make something else of.

    Args:
        rows: of today.
        before: the same as they are in the file.
        ways: to their messages.
    """
    raw = ways.today.program.raw
    if not raw:
        return rows
    place = rows.schema.get_field_index(raw)
    field = rows.schema.field(place)
    rows = rows.set_column(place, field, pa.nulls(rows.num_rows, field.type))
    messages: Array = ways.before.to_protobuf(before.select(ways.before.schema.names))
    made: Array = None
    is_other: Array = messages.is_valid()
    if ways.after is not None:
        wanted = ways.after.schema
        made = _encoded(ways.after, rows.select(wanted.names).cast(wanted))
        is_other = pc.not_equal(messages, made)
        is_other = is_other.fill_null(True)
    # Other bytes may be the same message (fields in another order, or packed by now), by the schema of today
    # and by that of the file: what is one value today may have been several, and zero is not always nothing.
    # What an earlier upgrade kept whole may be of a schema that nobody knows any more: only its own bytes are.
    known: Array = pa.repeat(True, rows.num_rows)
    if ways.again and (name := ways.before.program.raw):
        known = before.column(name).is_null()
    others = pc.indices_nonzero(is_other)
    batches, rejected = ways.today.decode(messages.take(others))
    bad = pa.array([one.row for one in rejected], pa.uint64())
    is_good: Array = pc.invert(pc.is_in(_places(len(others)), value_set=bad))
    others = others.filter(is_good)
    held = [pa.array([], pa.uint64())]
    for batch in batches:
        own, others = others[: batch.num_rows], others[batch.num_rows :]
        is_held: Array = batch.column(raw).is_null()
        again = ways.today.to_protobuf(batch)
        if made is not None:
            is_held = pc.equal(again, made.take(own))
        is_held = pc.and_(is_held, pc.or_(known.take(own), pc.equal(again, messages.take(own))))
        own, again = own.filter(is_held), again.filter(is_held)
        held.append(own.filter(_are_same(ways.message_type, messages.take(own), again)))
    is_held = pc.is_in(_places(rows.num_rows), value_set=pa.concat_arrays(held))
    is_kept: Array = pc.and_not(is_other, is_held)
    if ways.all_stay and (name := ways.before.program.raw):
        is_kept = pc.or_(is_kept, before.column(name).is_valid())
    kept: Array = pc.if_else(is_kept, messages, None)
    return rows.set_column(place, field, kept.cast(field.type))


def _are_same(message_type: type[Message], ones: Array, others: Array) -> Array:
    """Whether pairs of serialized messages are the same, what is unknown and what is absent too."""

    def is_same(pair: tuple[bytes, bytes]) -> bool:
        try:
            one, other = (message_type.FromString(data) for data in pair)
        except DecodeError:  # it is deeper than Python reads
            return False
        if _serialized(one) == _serialized(other):
            return True
        # what is not known comes out in the order in which it came, and Go writes oneofs last
        unknown = _unknown(one) == _unknown(other)
        for message in (one, other):
            message.DiscardUnknownFields()
        return unknown and _serialized(one) == _serialized(other)

    pairs = zip(ones.to_pylist(), others.to_pylist(), strict=True)
    return pa.array(map(is_same, pairs), pa.bool_())


def _serialized(message: Message) -> bytes:
    return message.SerializePartialToString(deterministic=True)


def _unknown(message: Message) -> list[Any]:
    """What is not known of a message and of those within, by the numbers of the fields."""
    found = sorted(_unknown_fields(UnknownFieldSet(message)), key=itemgetter(0))
    for item, value in message.ListFields():
        if item.message_type is None:
            continue
        if item.message_type.GetOptions().map_entry:
            if item.message_type.fields_by_name["value"].message_type is not None:
                found += [(item.number, key, _unknown(value[key])) for key in sorted(value)]
        else:
            inner = value if isinstance(value, Sequence) else [value]
            found += [(item.number, _unknown(each)) for each in inner]
    return found


def _unknown_fields(fields: Any) -> Iterator[tuple[Any, ...]]:
    """Number, wire type and value of each; of a group the fields within."""
    for field in fields:
        is_group = isinstance(field.data, UnknownFieldSet)
        data = [*_unknown_fields(field.data)] if is_group else field.data
        yield field.field_number, field.wire_type, data


def _encoded(converter: Converter[Any], rows: pa.RecordBatch) -> Array:
    """The messages of rows; null where no message can hold a value."""
    try:
        return converter.to_protobuf(rows)
    except ConversionError:
        if rows.num_rows == 1:
            return pa.nulls(1, pa.binary())
    places = _places(rows.num_rows)
    middle = rows.num_rows // 2
    # no slices: the encoder makes room for all that they are of
    halves = (rows.take(part) for part in (places[:middle], places[middle:]))
    return pa.concat_arrays([_encoded(converter, half) for half in halves])


def _places(rows: int) -> Array:
    return pa.array(range(rows), pa.uint64())


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Upgraded], None]]:
    """A line on a terminal that tells how far things are, while the block runs."""
    if not STANDARD_ERROR.isatty():
        yield lambda file: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("files", total=None)

    def step(file: Upgraded) -> None:
        progress.update(task, advance=1, description=f"{file.table}  {file.url}")

    with contextlib.suppress(OSError):  # the terminal may be gone by now
        progress.start()
    try:
        yield step
    finally:
        with contextlib.suppress(OSError):
            progress.stop()
