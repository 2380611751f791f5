"""`cdpgen demo`: what the product is for, from schemas to a query, in a folder of its own.

It types what a user would type. `cdpgen archive` runs as a process of its own, so that the seconds
and the memory are those of the real command; so do the makers of the two streams, one a core.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cdpgen import demo_data
from cdpgen.errors import UsageError

if TYPE_CHECKING:
    import duckdb
    from rich.console import Console

__all__ = ["run"]

_CORRUPT_EVERY: Final = 20_011
"""One message in so many is corrupt."""

_JSON_EVERY: Final = 101
"""One message in so many is written as JSON too, to learn how large JSON lines would be."""

_MB: Final = 1 << 20


class _Stream(NamedTuple):
    """A stream: its table, the function of `demo_data` that makes it, its part of all messages."""

    table: str
    name: str
    share: float


_STREAMS: Final = (
    _Stream("stellar.v1.ContractData", "contract_data", 0.625),
    _Stream("stellar.v1.Event", "events", 0.375),
)

_PIPELINE: Final = """\
# What `cdpgen archive` is to do; paths are relative to this file.
version: 1
generated: generated
destination: archive
tables:
  stellar.v1.ContractData:
    source: streams/contract_data.pb
  stellar.v1.Event:
    source: streams/events.pb
"""


@dataclass(frozen=True, slots=True)
class _Made:
    """What a stream came to.

    Attributes:
        messages: how many, the corrupt ones too.
        corrupt: how many of them no parser takes.
        protobuf_bytes: their size without the length prefixes.
        json_bytes: the size that the valid ones would have as JSON lines, from a sample.
    """

    messages: int
    corrupt: int
    protobuf_bytes: int
    json_bytes: int


@dataclass(frozen=True, slots=True)
class _Ran:
    """What running a command came to; memory is its peak, in bytes."""

    exit_code: int
    seconds: float
    memory: int


def run(to: Path | None = None, *, messages: int, seed: int) -> int:
    """Builds, archives two realistic streams, queries the archive, and says what was measured.

    Args:
        to: the folder for everything, new or empty; a new temporary one when left out.
        messages: how many messages to archive.
        seed: of the streams; the same seed gives the same messages.

    Returns:
        The exit code: 0 fine, 1 something could not be written.

    Raises:
        UsageError: DuckDB is not installed, or the folder holds something already.
    """
    from rich.console import Console

    if importlib.util.find_spec("duckdb") is None:
        raise UsageError("the demo queries its archive with DuckDB: pip install 'cdpgen[demo]'")
    # What is to be pasted must not be broken in two: only the terminal itself wraps.
    console = Console(soft_wrap=True, highlight=False)
    try:
        return _demo(console, _folder(to), messages, seed)
    except OSError as error:
        print(f"the demo cannot go on: {error}", file=sys.stderr)
        return 1


def _demo(console: Console, folder: Path, messages: int, seed: int) -> int:
    from cdpgen.build import build

    program = _program()
    schemas, generated = folder / "schemas", folder / "generated"
    _copy_schemas(schemas)

    _say(console, "1. Build", "schemas become typed Parquet writers")
    _show(console, [program, "build", schemas, "--out", generated])
    began = time.perf_counter()
    built = build(schemas, generated)
    console.print(
        f"{len(built.tables)} tables, {len(built.written)} files in "
        f"{time.perf_counter() - began:.1f} s\n"
    )

    _say(console, "2. Two streams", f"realistic, from seed {seed}, a few late and a few corrupt")
    began = time.perf_counter()
    with console.status("making messages ..."):
        made = _make_streams(folder, messages, seed)
    for stream, one in zip(_STREAMS, made, strict=True):
        console.print(
            f"{one.messages:>9,} {stream.table}  {_mb(one.protobuf_bytes)} of protobuf, "
            f"{one.corrupt} corrupt"
        )
    console.print(f"made in {time.perf_counter() - began:.1f} s\n")

    _say(console, "3. Archive", "the main job: a stream in, an archive out")
    pipeline = folder / "pipeline.yaml"
    pipeline.write_text(_PIPELINE, encoding="utf-8")
    _show(console, [program, "archive", pipeline])
    ran = _run([sys.executable, "-m", "cdpgen", "archive", str(pipeline)])
    if ran.exit_code:
        return ran.exit_code
    console.print()

    import duckdb

    with duckdb.connect() as database:
        _say(console, "4. Query", "with DuckDB; any engine that reads Parquet does")
        archive = folder / "archive"
        for stream in _STREAMS:
            _view(database, stream.name, archive / stream.table)
        _query(console, database, _DAYS, "What happened on each day; late rows lie in their own")
        _query(console, database, _HOLDINGS, "Whose balance of which asset is largest now")
        _view(database, "dead_letters", archive / "_dead_letter")
        rows = _count(database, "contract_data") + _count(database, "events")
        letters = _count(database, "dead_letters")
        _query(console, database, _LETTERS, _heading_of(letters))

    _say(console, "5. What was measured", f"on this machine, {os.cpu_count()} cores")
    _measured(console, made, ran, archive, rows, letters)
    _next(console, program, folder)
    return 0


# ---- The parts of it


def _folder(to: Path | None) -> Path:
    if to is None:
        return Path(tempfile.mkdtemp(prefix="cdpgen-demo-"))
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"{to}: holds something already; give a new or empty folder with --to")
    to.mkdir(parents=True, exist_ok=True)
    return to


def _copy_schemas(to: Path) -> None:
    """Copies the project's schemas, as a build writes the lock beside them."""
    packaged = Path(__file__).with_name("schemas")  # in a wheel, see pyproject.toml
    source = packaged if packaged.is_dir() else Path(__file__).parents[2] / "schemas"
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))


def _make_streams(folder: Path, messages: int, seed: int) -> list[_Made]:
    (folder / "streams").mkdir()
    first = round(messages * _STREAMS[0].share)
    with ProcessPoolExecutor(len(_STREAMS), get_context("spawn")) as makers:
        jobs = [
            makers.submit(_make_stream, folder, stream, count, seed)
            for stream, count in zip(_STREAMS, (first, messages - first), strict=True)
        ]
        return [job.result() for job in jobs]


def _make_stream(folder: Path, stream: _Stream, messages: int, seed: int) -> _Made:
    """Writes a stream as length-delimited protobuf; runs in a process of its own."""
    from google.protobuf.json_format import MessageToDict

    from cdp_runtime.archive import load_tables

    message_type: Any = load_tables(folder / "generated")[stream.table].message_type()
    corrupt = size = sampled = json_bytes = 0
    with (folder / "streams" / f"{stream.name}.pb").open("wb") as file:
        for number, fields in enumerate(getattr(demo_data, stream.name)(messages, seed), 1):
            message = message_type(**fields)
            payload: bytes = message.SerializeToString()
            if number % _JSON_EVERY == 1:
                record = MessageToDict(
                    message,
                    preserving_proto_field_name=True,
                    always_print_fields_with_no_presence=True,
                )
                json_bytes += len(json.dumps(record, separators=(",", ":"))) + 1
                sampled += 1
            if number % _CORRUPT_EVERY == min(messages, _CORRUPT_EVERY) // 2:
                payload = demo_data.corrupt(payload, corrupt)
                corrupt += 1
            size += len(payload)
            file.write(_prefix(len(payload)))
            file.write(payload)
    return _Made(messages, corrupt, size, round(json_bytes / max(sampled, 1) * messages))


def _prefix(size: int) -> bytes:
    """A size as a varint."""
    prefix = bytearray()
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix)


def _run(command: list[str]) -> _Ran:
    """Runs a command that shares this terminal, and measures it."""
    sys.stdout.flush()
    began = time.perf_counter()
    process = subprocess.Popen(command)
    while True:
        try:
            _, status, usage = os.wait4(process.pid, 0)
            break
        except KeyboardInterrupt:  # the command got it too, and publishes what it has
            continue
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return _Ran(process.returncode, seconds, usage.ru_maxrss * unit)


def _view(database: duckdb.DuckDBPyConnection, name: str, folder: Path) -> None:
    files = str(folder / "**" / "*.parquet").replace("'", "''")
    database.execute(
        f"create view {name} as from read_parquet('{files}', hive_partitioning = true)"
    )


def _count(database: duckdb.DuckDBPyConnection, view: str) -> int:
    found = database.execute(f"select count(*) from {view}").fetchone()
    assert found is not None
    return int(found[0])


_DAYS: Final = """\
select ledger_day,
       count(*) as entries,
       count(distinct contract_id) as contracts,
       count(*) filter (ledger_entry_change = 'LEDGER_ENTRY_CHANGE_CREATED') as created,
       count(*) filter (deleted) as removed
from contract_data group by all order by all"""

_HOLDINGS: Final = """\
with latest as (
    select contract_id, balance_holder, arg_max(balance, ledger_sequence) as balance
    from contract_data where balance is not null group by all)
select asset_code as asset, left(balance_holder, 8) as holder,
       (balance / 10_000_000)::decimal(20, 2) as amount
from latest join (
    select contract_id, any_value(asset_code) as asset_code
    from contract_data where asset_code <> '' group by all) using (contract_id)
order by balance desc limit 5"""

_SHOWN: Final = 6
"""So many dead letters are shown at most."""

_LETTERS: Final = f"""\
select parse_filename(source) as stream, position, octet_length(payload) as bytes, reason
from dead_letters order by all limit {_SHOWN}"""


def _heading_of(letters: int) -> str:
    part = f", {_SHOWN} of {letters}" if letters > _SHOWN else ""
    return f"What was no message{part}: kept, set apart"


def _query(
    console: Console, database: duckdb.DuckDBPyConnection, query: str, question: str
) -> None:
    from rich.table import Table

    began = time.perf_counter()
    result = database.execute(query)
    names = [column[0] for column in result.description]
    rows = result.fetchall()
    seconds = time.perf_counter() - began
    console.print(f"{query}\n", style="dim", markup=False)
    table = Table(
        title=f"{question} ({seconds * 1000:.0f} ms)", title_justify="left", title_style="bold"
    )
    for name, value in zip(names, rows[0] if rows else names, strict=True):
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, (int, Decimal)) else str(v) for v in row))
    console.print(table)
    console.print()


def _measured(
    console: Console, made: list[_Made], ran: _Ran, archive: Path, rows: int, letters: int
) -> None:
    from rich.table import Table

    messages = sum(one.messages for one in made)
    protobuf = sum(one.protobuf_bytes for one in made)
    as_json = sum(one.json_bytes for one in made)
    parquet = sum(path.stat().st_size for path in archive.rglob("*.parquet"))
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    for what, value, remark in (
        ("messages", f"{messages:,}", f"{rows:,} rows and {letters:,} dead letters"),
        ("time", f"{ran.seconds:.1f} s", "the whole of `cdpgen archive`, start to exit"),
        ("speed", f"{messages / ran.seconds:,.0f}", "records a second"),
        ("", f"{protobuf / _MB / ran.seconds:,.0f} MB", "of protobuf a second"),
        ("peak memory", _mb(ran.memory), "of `cdpgen archive`"),
        ("Parquet", _mb(parquet), "what is kept"),
        ("protobuf", _mb(protobuf), f"{protobuf / parquet:.1f} times as much"),
        ("JSON lines", _mb(as_json), f"{as_json / parquet:.1f} times as much (from a sample)"),
    ):
        table.add_row(what, value, remark)
    console.print(table)
    console.print()


def _next(console: Console, program: str, folder: Path) -> None:
    """Says where the files are and what to type; a command has a line to itself, to be pasted."""
    python = str(Path(program).with_name("python")) if "/" in program else "python"
    events = folder / "archive" / "stellar.v1.Event" / "**" / "*.parquet"
    query = f'import duckdb; print(duckdb.read_parquet("{events}").aggregate("type, count(*)"))'
    console.print("Where the files are", style="bold")
    for name, what in (
        ("archive", "the Parquet files, a folder a table and day"),
        ("generated", "the writers: read stellar/v1/contract_data_writer.py"),
        ("schemas", "the .proto files and their rules, cdpgen.yaml"),
        ("streams", "what was archived, length-delimited protobuf"),
        ("pipeline.yaml", "what `cdpgen archive` was told"),
    ):
        path = str(folder / name).ljust(len(str(folder)) + len("/pipeline.yaml"))
        console.print(f"  {path}  [dim]{what}[/dim]")
    console.print("\nWhat to type next", style="bold")
    for what, command in (
        ("what lies in the archive", [program, "inspect", folder / "archive"]),
        (
            "its tables as views, for a SQL engine",
            [program, "sql", folder / "archive", "--generated", folder / "generated"],
        ),
        ("a query of your own", [python, "-c", query]),
        ("remove all of it", ["rm", "-r", folder]),
    ):
        console.print(f"  # {what}", style="dim")
        console.print(f"  {shlex.join(map(str, command))}", markup=False)


def _say(console: Console, title: str, what: str) -> None:
    console.rule(f"[bold]{title}[/bold]: {what}", align="left")


def _show(console: Console, command: list[str | Path]) -> None:
    console.print(f"$ {shlex.join(map(str, command))}", style="cyan", markup=False)


def _program() -> str:
    """What to type for cdpgen: its name where that finds this one, else the path to it."""
    own = Path(sys.executable).with_name("cdpgen")
    found = shutil.which("cdpgen")
    if not own.exists() or (found and Path(found).samefile(own)):
        return "cdpgen"
    with contextlib.suppress(ValueError):
        own = own.relative_to(Path.cwd())
    return str(own)


def _mb(size: int) -> str:
    return f"{size / _MB:,.1f} MB"
