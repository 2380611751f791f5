"""`cdpgen upgrade`: old files of an archive rewritten as today's version.

A file is replaced by one of the same path and the same rows in the same order: columns as `open_archive` reads
them, what was kept whole in `_raw` decoded with today's schema. The new file takes the place of the old one at
once (a rename on a disk, the end of an upload in an object store): a reader sees the old file or the new one,
never both or none, whatever becomes of the process. Run again, it goes on with the files that are left.

What the footer says of positions stays true, so a stream resumes as before. Columns that are retired stay in
the file, and messages that had something in them are kept whole in `_raw` from then on, as the footer no longer
tells what they were made of: a replay gives the same bytes before and after. Defaults of the rules are not
written down, as no message had them: the footer keeps the ids of the columns that the rows are older than
(`cdpgen.older`), and `open_archive` fills them as before. Nor is a zero of a field that became `optional` made
null: the footer keeps that it was absent, or zero, for the replay (`cdpgen.implicit`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from . import descriptor
from .archive import load_tables, writer_of
from .config import ConfigError, destination_of
from .converter import Converter
from .dataset import OLDER, WRITTEN_AS, ArchiveError, older_ids, open_parquet, written_as
from .dead_letters import is_unfinished
from .former import IMPLICIT, Former, former_of, implicit_ids
from .metrics import Metrics
from .parquet_file import Compressor, Layout, ParquetFile
from .patience import Patience
from .provenance import other_lock
from .storage import FileInfo, Storage, open_storage, writer_id
from .versions import Evolution, with_retired
from .writer import TableWriter

__all__ = ["Upgraded", "run", "upgrade"]


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
        The exit code: 0 all files are of today's version, 1 some could not be upgraded, 2 bad usage.
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
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run it again to go on", file=sys.stderr)
        return 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    for name, files in done.items():
        new = [file for file in files if file.rows]
        versions = sorted({file.version or "?" for file in new}, key=lambda v: (len(v), v))
        of = f" (of version {', '.join(versions)})" if versions else ""
        before, after = (sum(file.size[i] for file in new) for i in (0, 1))
        print(
            f"{name}: {len(new):,} of {len(files):,} files upgraded{of}, {sum(f.rows for f in new):,} "
            f"rows, {before:,} bytes before, {after:,} after"
        )
    if not done:
        print(f"{url}: there are no files of the tables in {generated}", file=sys.stderr)
        return 1
    problems = [file for files in done.values() for file in files if file.problem]
    for file in problems:
        print(f"{file.url}: {file.problem}", file=sys.stderr)
    return 1 if problems else 0


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
        StorageError: the store cannot be used.
    """
    writers = load_tables(generated)
    for name in tables or ():
        writer_of(writers, name, generated)
    identity = writer_id()
    storage = open_storage(url, identity, storage_options)
    try:
        # the listing as a whole, before anything in it changes
        for file in list(storage.files()):
            table = file.path.partition("/")[0]
            if table in writers and (tables is None or table in tables):
                yield _upgrade_file(storage, identity, file, writers[table])
    finally:
        storage.close()


def _upgrade_file(
    storage: Storage, identity: str, file: FileInfo, writer: type[TableWriter[Any]]
) -> Upgraded:
    shown = storage.describe(file.path)
    size = (file.size, file.size)
    if is_unfinished(storage, file.path):
        # once it is finished it stays; before that it may be removed, and would come back here
        problem = "is of a retry of dead letters that is not done; run this again after it"
        return Upgraded(writer.table, shown, "", 0, size, problem)
    try:
        parquet = open_parquet(storage, file.path)
    except ArchiveError as error:
        return Upgraded(writer.table, shown, "", 0, size, str(error).removeprefix(f"{shown}: "))
    footer = dict(parquet.metadata.metadata or {})
    version = footer.get(b"cdpgen.version", b"").decode()
    if footer.get(b"cdpgen.fingerprint", b"").decode() == writer.fingerprint:
        return Upgraded(writer.table, shown, version, 0, size)
    if version.isdigit() and int(version) > writer.version:
        problem = (
            f"is of version {version}, and the writer of version {writer.version} only; build anew"
        )
        return Upgraded(writer.table, shown, version, 0, size, problem)
    problem = other_lock(footer, writer)
    if problem:
        return Upgraded(writer.table, shown, version, 0, size, problem)
    source = parquet.schema_arrow
    converter = writer.converter()
    schema = with_retired(converter.schema, [source])
    evolution = Evolution(
        converter, schema, source, current=False, older=older_ids(footer), defaults=None
    )
    told: dict[str, str] = {
        **{key.decode(): value.decode() for key, value in footer.items() if key != b"ARROW:schema"},
        "cdpgen.version": str(writer.version),
        "cdpgen.fingerprint": writer.fingerprint,
        OLDER: ",".join(map(str, evolution.older)),
        WRITTEN_AS: written_as(footer),
    }
    told.pop(descriptor.KEY, None)
    told.pop(IMPLICIT, None)
    today = descriptor.descriptor_of(writer.message_type())
    if today is not None:
        told[descriptor.KEY] = today
    codec = (
        parquet.metadata.row_group(0).column(0).compression if parquet.num_row_groups else "ZSTD"
    ).lower()
    patience = Patience(f"upgrade {identity}", Metrics())
    upload = storage.create(file.path, replace=True)
    try:
        former = former_of(footer, source, converter)
        if former is not None and (implicit := implicit_ids(former, converter)):
            told[IMPLICIT] = ",".join(map(str, implicit))
        # that rows are sorted is not told: what comes out of `_raw` need not be
        layout = Layout(schema, Compressor(codec), bloom_filters=writer.bloom_filters)
        made = ParquetFile(layout, upload.write)
        for group in range(parquet.num_row_groups):
            for batch in parquet.read_row_group(group).to_batches():
                rows = evolution.apply(batch, schema.names)
                made.append(rows if former is None else _whole(rows, batch, former, converter))
            made.end_row_group()
            patience.call(upload.drain, f"write {shown}")
        made.finish(told)
        after = made.size
        patience.call(upload.publish, f"replace {shown}")
    except (pa.ArrowException, ValueError) as error:
        upload.discard()
        return Upgraded(writer.table, shown, version, 0, size, str(error))
    except BaseException:
        upload.discard()
        raise
    return Upgraded(writer.table, shown, version, parquet.metadata.num_rows, (file.size, after))


def _whole(
    rows: pa.RecordBatch, before: pa.RecordBatch, former: Former, converter: Converter[Any]
) -> pa.RecordBatch:
    """Rows of today, with the messages in `_raw` that today's columns cannot hold."""
    raw = converter.program.raw
    if not raw:
        return rows
    messages = former.converter.to_protobuf(before.select(former.converter.schema.names))
    batches, rejected = converter.decode(messages)
    # after an accepted breaking change there may be none for today's fields
    if rejected or len(batches) != 1:
        return rows
    place = rows.schema.get_field_index(raw)
    return rows.set_column(place, rows.schema.field(place), batches[0].column(raw))


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Upgraded], None]]:
    """A line on a terminal that tells how far things are, while the block runs."""
    if not sys.stderr.isatty():
        yield lambda file: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("files", total=None)

        def step(file: Upgraded) -> None:
            progress.update(task, advance=1, description=f"{file.table}  {file.url}")

        yield step
