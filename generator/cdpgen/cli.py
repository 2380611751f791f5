"""The command line: what is typed, and which function it calls.

Thin on purpose. Each command imports what it needs when it runs, so `cdpgen --help` answers at once
and the runtime's commands never load the generator.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import typer
from typer.core import TyperGroup

from cdpgen.errors import UsageError

__all__ = ["app", "main"]

_OWN_WORDS: Final = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "must be a whole number",
    "Input should be ": "must be ",
}
"""What pydantic, which typer asks, says of an argument to programmers; and what is said here."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Runs a command; what is wrong with its arguments is said for people."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            for theirs, own in _OWN_WORDS.items():
                error.message = error.message.replace(theirs, own)
            raise


app = typer.Typer(
    name="cdpgen",
    cls=_Commands,
    help="Protocol Buffers streams into typed, lossless Parquet archives.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"cdpgen {version('cdpgen')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None: ...


_Schemas = Annotated[
    Path,
    # Whether it can be read is asked where the files in it are, of which the same is to be said.
    typer.Argument(help="Folder of the .proto files, cdpgen.yaml and cdpgen.lock.", readable=False),
]


_Archive = Annotated[str, typer.Argument(help="URL or path of the archive.")]
_Options = Annotated[
    list[str] | None,
    typer.Option("--set", help="An option of the writer: max_file_size_mb=256. Repeatable."),
]


_StoreOptions = Annotated[
    list[str] | None,
    typer.Option("--set", help="An option of the store: storage_options.anon=true. Repeatable."),
]


class _Format(StrEnum):
    text = "text"
    json = "json"
    github = "github"


@app.command()
def build(
    schemas: _Schemas,
    out: Annotated[Path, typer.Option(help="Folder for the generated modules.")] = Path(
        "generated"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 when anything is stale.")
    ] = False,
) -> None:
    """Generate the writers of a folder of schemas."""
    from cdpgen.build import build as run
    from cdpgen.evolution import BreakingError
    from cdpgen.findings import show

    began = time.perf_counter()
    rules = str(schemas / "cdpgen.yaml")
    gc.disable()  # what a build makes lives to its end: looking for garbage is a tenth of its time
    try:
        built = run(schemas, out, check=check)
    except BreakingError as error:
        _complain([show(error.findings, "text", rules)])
        raise typer.Exit(1) from None
    finally:
        gc.enable()
    _complain(built.warnings)
    if built.findings:
        _complain([show(built.findings, "text", rules)])
    verb = ("stale", "left over") if check else ("wrote", "removed")
    for path in built.written:
        print(f"{verb[0]} {path}")
    for path in built.removed:
        print(f"{verb[1]} {path}")
    if check and built.stale:
        suffix = "" if out == Path("generated") else f" --out {out}"
        _complain([f"{out} is stale; run: cdpgen build {schemas}{suffix}"])
        raise typer.Exit(1)
    took = time.perf_counter() - began
    print(
        f"{_count(len(built.tables), 'table')}; {_count(built.unchanged, 'file')} unchanged, "
        f"{len(built.written)} written, {len(built.removed)} removed in {took:.1f} s"
    )


@app.command()
def check(
    schemas: _Schemas,
    against: Annotated[
        str | None,
        typer.Option(
            help="The path of a lock, or a git ref (main, main:schemas); else the lock of the folder."
        ),
    ] = None,
    format: Annotated[_Format, typer.Option(help="How findings are written.")] = _Format.text,
) -> None:
    """Check whether the schemas go on from what was archived."""
    from cdpgen.against import check as run
    from cdpgen.build import reject_misplaced
    from cdpgen.findings import show

    reject_misplaced(schemas, "check")
    checked = run(schemas, against)
    found = checked.compared
    _complain(found.warnings)
    if found.findings or format is _Format.json:
        print(show(found.findings, format.value, str(schemas / "cdpgen.yaml")))
    if format is _Format.text and not found.breaking:
        if checked.anew:
            newer = "nothing was archived so far"
        else:
            versions = [f"version {number} of {name}" for name, number in checked.newer.items()]
            newer = f"a build makes {', '.join(versions) or 'no new version'}"
        print(f"{_count(checked.tables, 'table')}, nothing breaks; {newer}")
    raise typer.Exit(int(found.breaking))


@app.command()
def archive(
    pipeline: Annotated[
        str | None, typer.Argument(help="A PIPELINE.yaml; or give --table, --from and --to.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="The table: stellar.v1.ContractData.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="A file, glob or URL to read; - is standard input. Repeatable."
        ),
    ] = None,
    to: Annotated[str | None, typer.Option(help="URL or path of the archive.")] = None,
    generated: Annotated[
        str | None, typer.Option(help="Folder that `cdpgen build` wrote; else `generated`.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="delimited or ndjson; else by the file's extension.")
    ] = None,
    option: _Options = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would have been written.")
    ] = False,
) -> None:
    """Archive a stream of messages as Parquet."""
    from cdp_runtime.archive import run

    options = _given(option)
    if dry_run:
        options["dry_run"] = "true"
    _end(
        run(
            pipeline,
            table=table,
            source=source or (),
            to=to,
            generated=generated,
            format=format,
            options=options,
        )
    )


dead_letters = typer.Typer(
    name="dead-letters", help="What could not be decoded and was set apart.", no_args_is_help=True
)
app.add_typer(dead_letters)

_Table = Annotated[str | None, typer.Option(help="Only of this table: stellar.v1.Event.")]


@dead_letters.command("list")
def list_letters(url: _Archive, table: _Table = None, option: _StoreOptions = None) -> None:
    """How many there are of each table, and why."""
    from cdp_runtime.dead_letters import run

    _end(run("list", url, table=table, options=_given(option)))


@dead_letters.command("show")
def show_letters(
    url: _Archive,
    table: _Table = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    option: _StoreOptions = None,
) -> None:
    """The letters: where they come from, what is wrong, how they begin."""
    from cdp_runtime.dead_letters import run

    _end(run("show", url, table=table, limit=limit, options=_given(option)))


@dead_letters.command("retry")
def retry_letters(
    url: _Archive,
    table: _Table = None,
    generated: Annotated[str, typer.Option(help="Folder that `cdpgen build` wrote.")] = "generated",
    option: _Options = None,
) -> None:
    """Decode them anew, and move what is a message now to its table."""
    from cdp_runtime.dead_letters import run

    _end(run("retry", url, table=table, generated=generated, options=_given(option)))


@dead_letters.command("discard")
def discard_letters(
    url: _Archive,
    table: Annotated[str, typer.Option(help="Of this table: stellar.v1.Event.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    option: _StoreOptions = None,
) -> None:
    """Remove them for good; `cdpgen archive` then reads them again where their source is still there."""
    from cdp_runtime.dead_letters import run

    if not yes:
        if not sys.stdin.isatty():
            print("--yes: is needed where nobody can be asked", file=sys.stderr)
            raise typer.Exit(2)
        typer.confirm(f"Remove the dead letters of {table} in {url} for good?", abort=True)
    _end(run("discard", url, table=table, options=_given(option)))


@app.command()
def inspect(url: _Archive, option: _StoreOptions = None) -> None:
    """Show what lies in an archive."""
    from cdp_runtime.inspect import run

    _end(run(url, _given(option)))


@app.command()
def upgrade(
    url: Annotated[str, typer.Argument(help="URL or path of the archive.")],
    table: Annotated[str | None, typer.Option(help="The only table to upgrade.")] = None,
    generated: Annotated[str, typer.Option(help="Folder that `cdpgen build` wrote.")] = "generated",
    option: _StoreOptions = None,
) -> None:
    """Rewrite files of older versions as today's, what was unknown then in its columns."""
    from cdp_runtime.upgrade import run

    _end(run(url, generated=generated, table=table, options=_given(option)))


@app.command()
def replay(
    url: _Archive,
    table: Annotated[
        str | None, typer.Option(help="The table; may be left out where there is one only.")
    ] = None,
    generated: Annotated[str, typer.Option(help="Folder that `cdpgen build` wrote.")] = "generated",
    output: Annotated[
        str | None, typer.Option(help="File to write; standard output when left out.")
    ] = None,
    format: Annotated[
        Literal["delimited", "ndjson"] | None,
        typer.Option(help="What is written; else by the file's extension, and delimited."),
    ] = None,
    partition: Annotated[
        list[str] | None,
        typer.Option(help="Only this partition: ledger_day=2024-04-21. Repeatable."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Only what came from this source: a file that was archived, or a source's full name."
        ),
    ] = None,
    first: Annotated[
        int | None, typer.Option("--from", help="The first position in the source.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", help="The last position in the source.")
    ] = None,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="Also what could not be decoded, at its place.")
    ] = False,
    option: _StoreOptions = None,
) -> None:
    """Write an archive back as the stream of messages that it was."""
    from cdp_runtime.replay import run

    _end(
        run(
            url,
            table=table,
            generated=generated,
            output=output,
            format=format,
            partitions=partition or (),
            source=source,
            first=first,
            last=last,
            dead_letters=dead_letters,
            options=_given(option),
        )
    )


@app.command()
def sql(
    url: _Archive,
    dialect: Annotated[
        Literal["duckdb", "bigquery", "spark", "clickhouse"], typer.Option(help="Whose SQL.")
    ] = "duckdb",
    generated: Annotated[str, typer.Option(help="Folder that `cdpgen build` wrote.")] = "generated",
    option: _StoreOptions = None,
) -> None:
    """Print the definitions of an archive's tables for a SQL engine."""
    from cdpgen.sql import run

    if isinstance(sys.stdout, io.TextIOWrapper):  # engines read it, whatever the locale is
        sys.stdout.reconfigure(encoding="utf-8", errors="strict")
    _end(run(url, dialect, generated, _given(option)))


@app.command()
def demo(
    to: Annotated[
        Path | None, typer.Option(help="Folder for everything; else a new temporary one.")
    ] = None,
    messages: Annotated[int, typer.Option(min=1_000, help="How many to archive.")] = 320_000,
    seed: Annotated[int, typer.Option(help="Of what happens in the two streams.")] = 1,
) -> None:
    """Build, archive a realistic stream and query it, with nothing to set up."""
    from cdpgen.demo import run

    raise typer.Exit(run(to, messages=messages, seed=seed))


def _end(code: int) -> NoReturn:
    """Ends a command of the runtime: what is done is done, whether or not anybody could be told."""
    from cdp_runtime.log import STANDARD_ERROR, STANDARD_OUTPUT

    STANDARD_OUTPUT.forget()
    STANDARD_ERROR.forget()
    raise typer.Exit(code)


def _given(option: Sequence[str] | None) -> dict[str, str]:
    """What `--set` says, by name."""
    options = {}
    for text in option or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: write it as name=value: --set max_file_size_mb=256")
        options[name] = value
    return options


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _complain(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; the entry point `cdpgen`.

    Args:
        arguments: what was typed after the program's name; that of this process when left out.

    Raises:
        SystemExit: always; with 0 when all is well, 1 when a check failed, 2 when something that
            the user wrote cannot be used.
    """
    # what clients of stores leave to it is no news for people
    logging.getLogger("asyncio").addHandler(logging.NullHandler())
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: the next file that is opened would have its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # a path may have what the locale has not, and all is done when it is told
            stream.reconfigure(errors="backslashreplace")
    try:
        app(arguments)
    except UsageError as error:
        _complain([str(error)])
    except OSError as error:
        _complain([f"{error.filename}: {error.strerror}" if error.filename else str(error)])
    sys.exit(2)
