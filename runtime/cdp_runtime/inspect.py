"""`cdpgen inspect`: what lies in an archive, told from the footers of its files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import pyarrow as pa

from .config import ConfigError, destination_of
from .dead_letter import FOLDER, RETRY_FOLDER
from .storage import FileInfo, Storage, forbid_table_folder, open_storage
from .trouble import FOREIGN, failed, reason, standard_output

__all__ = ["FileFacts", "inspect", "run"]

_READERS: Final = 8
_PARTITIONS_SHOWN: Final = 40
_MB: Final = 1 << 20
_WIDTH_OF_TEXT: Final = 400
"""How wide the tables may be where no terminal has a width: nothing in a file or pipe is cut."""


class FileFacts(NamedTuple):
    """What a footer says of a file.

    Attributes:
        table: the full name of the table.
        partition: the folders between the table and the file.
        rows: how many there are.
        size: of the file in bytes.
        uncompressed: the size that its columns would have without compression, in bytes.
        version: of the table when the file was written; empty when the footer does not say.
        dead_letters: whether the rows are dead letters.
        unreadable: why the rows are not counted, be it that the footer cannot be read or that cdpgen did not
            write the file; empty when they are.
    """

    table: str
    partition: str
    rows: int
    size: int
    uncompressed: int
    version: str
    dead_letters: bool
    unreadable: str


def inspect(url: str, storage_options: Mapping[str, Any] | None = None) -> list[FileFacts]:
    """Reads the footers of all files of an archive.

    Args:
        url: the archive.
        storage_options: what the filesystem takes besides the URL.

    Raises:
        StorageError: the store cannot be used, or the URL is that of a folder within an archive.
    """
    storage = open_storage(url, storage_options=storage_options)
    files = list(storage.files())
    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(lambda file: _facts(storage, file), files))
    tables = {file.table for file in found if not file.unreadable}
    forbid_table_folder(storage, tables, [file.path for file in files])
    return found


def run(url: str, options: Mapping[str, Any] | None = None) -> int:
    """Prints what lies in an archive.

    Args:
        url: the archive.
        options: of its store, by flat names too.

    Returns:
        The exit code: 0 fine, 1 nothing is there, the rows of a file are not counted, or the store does not
        answer, 2 the URL cannot be used.
    """
    try:
        files = inspect(*destination_of(url, options or {}))
        if not files:
            print(f"{url}: there are no Parquet files", file=sys.stderr)
            return 1
        with standard_output():
            _print(url, files)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        return failed(error)
    broken = [file for file in files if file.unreadable]
    for file in broken:
        print(f"{file.partition}: {file.unreadable}", file=sys.stderr)
    if broken:
        of = "this file" if len(broken) == 1 else f"these {len(broken):,} files"
        print(f"the rows of {of} are not counted", file=sys.stderr)
    return 1 if broken else 0


def _facts(storage: Storage, file: FileInfo) -> FileFacts:
    import pyarrow.parquet as pq

    folders = file.path.split("/")[:-1]
    dead = bool(folders) and folders[0] in (FOLDER, RETRY_FOLDER)
    if dead:
        folders = folders[1:]
    shown = storage.describe(file.path)
    try:
        with storage.open(file.path) as opened:
            footer = pq.read_metadata(opened)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        # the file is named beside it
        why = reason(error).removeprefix(f"{storage.url}: cannot read {file.path}: ")
        return FileFacts("", shown, 0, file.size, 0, "", dead, f"cannot be read: {why}")
    if foreign := _foreign(footer.schema.to_arrow_schema(), dead):
        return FileFacts("", shown, 0, file.size, 0, "", dead, f"{foreign}, so {FOREIGN}")
    own = footer.metadata or {}
    return FileFacts(
        table=own.get(b"cdpgen.table", folders[0].encode() if folders else b"").decode(),
        partition="/".join(folders[1:]),
        rows=footer.num_rows,
        size=file.size,
        uncompressed=sum(
            footer.row_group(g).column(c).total_uncompressed_size
            for g in range(footer.num_row_groups)
            for c in range(footer.num_columns)
        ),
        version=own.get(b"cdpgen.version", b"").decode(),
        dead_letters=dead,
        unreadable="",
    )


def _foreign(schema: pa.Schema, dead_letters: bool) -> str:
    """By what a file is known to be none of cdpgen; empty where it is one."""
    if dead_letters:
        missing = {"payload", "reason"} - {*schema.names}
        return f"it has no column {min(missing)}" if missing else ""
    fields: Iterable[Any] = schema
    has_ids = all(b"PARQUET:field_id" in (field.metadata or {}) for field in fields)
    return "" if has_ids else "its columns have no field ids"


def _print(url: str, files: Sequence[FileFacts]) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_OF_TEXT
    readable = [file for file in files if not file.unreadable]
    tables = _table(url)
    for heading in (
        "table",
        "versions",
        "partitions",
        "files",
        "rows",
        "on disk",
        "columns\nto disk",
        "dead\nletters",
    ):
        tables.add_column(
            heading,
            justify="left" if heading in ("table", "versions") else "right",
            overflow="fold",
            no_wrap=heading not in ("table", "versions"),
        )
    for name in sorted({file.table for file in readable}):
        rows = [file for file in readable if file.table == name and not file.dead_letters]
        dead = sum(file.rows for file in readable if file.table == name and file.dead_letters)
        tables.add_row(
            name,
            _versions(rows),
            f"{len({file.partition for file in rows}):,}",
            *_sums(rows),
            f"[red]{dead:,}[/red]" if dead else "0",
        )
    console.print(tables)
    for name in sorted({file.table for file in readable if not file.dead_letters}):
        rows = [file for file in readable if file.table == name and not file.dead_letters]
        partitions = sorted({file.partition for file in rows})
        if partitions != [""]:
            console.print()
            console.print(_partitions(name, partitions, rows))
        levels = {_levels(partition) for partition in partitions}
        if len(levels) > 1:
            line = (
                f"{name}: its files lie in different levels of folders ({', '.join(sorted(levels))}): "
                "what reads them as columns (hive partitioning of DuckDB, Polars) refuses the table"
            )
            console.print()
            console.print(line, soft_wrap=True, markup=False, highlight=False)


def _levels(partition: str) -> str:
    """The names of levels of folders: `day/state`."""
    return "/".join(level.partition("=")[0] for level in partition.split("/")) or "none"


def _partitions(name: str, partitions: Sequence[str], files: Sequence[FileFacts]) -> object:
    table = _table(name)
    for heading in ("partition", "versions", "files", "rows", "on disk", "columns\nto disk"):
        left = heading in ("partition", "versions")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    hidden = len(partitions) - _PARTITIONS_SHOWN
    half = _PARTITIONS_SHOWN // 2
    for number, partition in enumerate(partitions):
        if hidden > 0 and number == half:
            table.add_row(f"... {hidden:,} more ...", "", "", "", "", "")
        if hidden > 0 and half <= number < half + hidden:
            continue
        rows = [file for file in files if file.partition == partition]
        table.add_row(partition or ".", _versions(rows), *_sums(rows))
    return table


def _table(title: str) -> Any:
    """A table of rich, without lines between its columns so that 80 of a terminal are enough."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )


def _versions(files: Iterable[FileFacts]) -> str:
    return ", ".join(
        sorted({file.version for file in files if file.version}, key=lambda v: (len(v), v))
    )


def _sums(files: Sequence[FileFacts]) -> tuple[str, str, str, str]:
    """Files, rows, bytes on disk, and how many times that the columns are without compression."""
    size = sum(file.size for file in files)
    uncompressed = sum(file.uncompressed for file in files)
    return (
        f"{len(files):,}",
        f"{sum(file.rows for file in files):,}",
        f"{size / _MB:,.1f} MB" if size >= _MB else f"{size / 1024:,.1f} KB",
        f"{uncompressed / size:.1f}:1" if size else "-",
    )
