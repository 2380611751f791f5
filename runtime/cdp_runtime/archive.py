"""`cdpgen archive`: streams in, an archive of Parquet out."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from .config import (
    STORAGE_KEYS,
    ConfigError,
    Format,
    PipelineConfig,
    TableConfig,
    WriterConfig,
    check,
    load_pipeline,
    nested,
)
from .dead_letter import FOLDER, DeadLetter, counted
from .log import STANDARD_ERROR, STANDARD_OUTPUT, logger
from .metrics import Metrics
from .parquet import PublishedFile
from .sources import Input, inputs_of, read_inputs
from .sources.identity import names_of
from .storage import StorageError, forbid_table_folder, open_storage
from .trouble import exit_code
from .writer import TableWriter, WriterFailed

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

__all__ = ["Archived", "archive_table", "import_messages", "load_tables", "run", "writer_of"]

_MB: Final = 1 << 20

_MANY_FILES: Final = 100
_SMALL_FILE: Final = 1 << 20
"""So many files of one run, smaller than that on average, are worth a word: engines open each."""

_GRACE_SECONDS: Final = 2.0
"""How long a run that was stopped has to end once its writer has."""


class Archived(NamedTuple):
    """What one run did for one table.

    Attributes:
        table: its full name.
        url: of the archive.
        metrics: of the writer.
        seconds: that it took.
        dry_files: after a dry run, those that it would have published; None otherwise.
        letters: whether the archive holds dead letters of the table.
        broken: how many inputs could not be read to their end.
    """

    table: str
    url: str
    metrics: Metrics
    seconds: float
    dry_files: list[PublishedFile] | None
    letters: bool
    broken: int

    @property
    def only_dead_letters(self) -> bool:
        """Whether not one message was one of this table, as with the wrong `--table` or `--format`."""
        metrics = self.metrics
        return metrics.dead_letters > 0 and metrics.rows == metrics.skipped == 0


class _Job(NamedTuple):
    """One table of a run, with everything about it checked; `url` is None when the options say where."""

    writer: type[TableWriter[Any]]
    inputs: list[Input]
    options: dict[str, Any]
    url: str | None


def run(
    pipeline: str | None = None,
    *,
    table: str | None = None,
    source: Sequence[str] = (),
    to: str | None = None,
    generated: str | None = None,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Archives what a pipeline file or the flags say, a line on standard output for each table.

    Args:
        pipeline: the path of a PIPELINE.yaml; of the rest only `to` and `options` go with it, and count
            over what the file says.
        table: the full name of the table (`stellar.v1.ContractData`).
        source: files, globs or URLs to read; `-` is standard input.
        to: the URL of the archive.
        generated: the folder that `cdpgen build` wrote; `generated` when left out.
        format: `delimited` or `ndjson`; by the extensions of the sources when left out.
        options: options of the writer, also as text (`{"max_file_size_mb": "256"}`); one of the store
            has its place in the name (`storage_options.endpoint_url`).

    Returns:
        The exit code: 0 fine (also after SIGTERM or Ctrl-C), 1 something could not be read or written,
        2 bad usage or configuration. Problems have been printed to standard error.
    """
    try:
        if pipeline is not None:
            beside = {
                "--table": table,
                "--from": source,
                "--generated": generated,
                "--format": format,
            }
            said = [flag for flag, value in beside.items() if value]
            config, base = _from_file(pipeline, said), Path(pipeline).parent
        else:
            stored = to or (options or {}).get("storage_type")
            config = _from_flags(table, source, stored, generated or "generated", format)
            base = Path()
        jobs = _jobs(config, base, nested(options or {}), to)
    except (ConfigError, StorageError) as error:
        print(error, file=STANDARD_ERROR)
        return _code(error)
    failed = False
    try:
        with _Stop() as stop:
            for job in jobs:
                archived = archive_table(job, stop)
                print(_summary(archived), file=STANDARD_OUTPUT, flush=True)
                failed |= archived.broken > 0 or archived.only_dead_letters
                if stop.requested:
                    break
    except (ConfigError, StorageError) as error:
        print(error, file=STANDARD_ERROR)
        return _code(error)
    except (OSError, WriterFailed) as error:
        print(error, *getattr(error, "__notes__", ()), sep="\n", file=STANDARD_ERROR)
        return 1
    return 1 if failed else 0


def _code(error: ConfigError | StorageError) -> int:
    return 2 if isinstance(error, ConfigError) else exit_code(error)


def archive_table(job: _Job, stop: _Stop) -> Archived:
    """Archives all inputs of one table; what was read when something fails or stops is published.

    An input that cannot be read on is told on standard error, and the next one is read.
    """
    config = check(WriterConfig, job.options)
    log = logger(debug=config.debug)
    log.debug(
        "options",
        table=job.writer.table,
        **config.model_dump(exclude={"storage_options"}, exclude_none=True),
    )
    dry_files: list[PublishedFile] = []

    def published(file: PublishedFile) -> None:
        if config.dry_run:
            dry_files.append(file)
        elif file.dead_letters:
            log.warning(
                "dead letters", table=file.table, file=file.url, rows=file.rows, bytes=file.size
            )
        else:
            log.info("published", table=file.table, file=file.url, rows=file.rows, bytes=file.size)

    broken = 0

    def tell(error: OSError) -> None:
        nonlocal broken
        broken += 1
        # the system's own begin with a number and end with the file
        named = error.filename is not None and error.strerror
        said = f"{error.filename}: cannot be read: {error.strerror}" if named else str(error)
        print(said, file=STANDARD_ERROR, flush=True)

    began = time.monotonic()
    stop.limit(config.shutdown_seconds, None)
    with (
        job.writer(job.url, on_published=published, **job.options) as writer,
        _progress(writer.table, writer.metrics, began),
    ):
        stop.limit(config.shutdown_seconds, writer)
        known = writer.skip_published(names_of(job.inputs))
        for item in read_inputs(
            job.inputs,
            job.writer.message_type,
            stop,
            log,
            known=known.prefixes,
            note=writer.note_prefix,
            broken=tell,
        ):
            if isinstance(item, DeadLetter):
                writer.reject(
                    item.payload or b"",
                    item.reason,
                    source=item.source,
                    position=item.position,
                    offset=item.offset,
                    form=item.form,
                )
            else:
                writer.write_many(item.payloads, source=item.source, positions=item.positions)
        # inside, so that the progress shows the last files too
        writer.close()
    return Archived(
        writer.table,
        writer.url,
        writer.metrics,
        time.monotonic() - began,
        dry_files if config.dry_run else None,
        writer.metrics.skipped > 0 and _has_letters(job, config),
        broken,
    )


def _has_letters(job: _Job, config: WriterConfig) -> bool:
    """Whether what was there already may be dead letters in part."""
    url, options = config.destination(job.url)
    try:
        storage = open_storage(url, storage_options=options)
        try:
            return any(storage.files(f"{FOLDER}/{job.writer.table}/"))
        finally:
            storage.close()
    except OSError:  # all is archived: that nobody can say this now is no failure
        return False


def load_tables(generated: str | os.PathLike[str]) -> dict[str, type[TableWriter[Any]]]:
    """The writers in a folder that `cdpgen build` wrote, by the full name of their table.

    Raises:
        ConfigError: there is no such folder, or something in it cannot be imported.
    """
    try:
        folder = Path(generated).expanduser().resolve()
    except RuntimeError as error:  # a home of nobody, or links in a circle
        said = str(error).rstrip(".")
        raise ConfigError(f"{generated}: cannot be read: {said}") from None
    above = _generated_above(folder)
    if above is not None:
        raise ConfigError(
            f"{generated}: lies within a folder of generated writers; give that one: {above}"
        )
    if not (folder / "__init__.py").is_file():
        raise ConfigError(
            f"{generated}: is no folder of generated writers (looked at {folder}); say where it is with "
            f"--generated, or make it with: cdpgen build SCHEMAS --out {generated}"
        )
    with _importing(generated):
        package = _import_folder(folder)
        registry: Mapping[str, tuple[str, str]] = package.TABLES
        return {
            table: getattr(importlib.import_module(module, package.__name__), name)
            for table, (module, name) in registry.items()
        }


def writer_of(
    writers: Mapping[str, type[TableWriter[Any]]], table: str, generated: str | os.PathLike[str]
) -> type[TableWriter[Any]]:
    """The writer of a table, of those that `load_tables` found.

    Raises:
        ConfigError: there is none, or somebody has edited its module.
    """
    if table not in writers:
        known = ", ".join(sorted(writers))
        raise ConfigError(f"{table}: no such table in {os.fspath(generated)}; it has {known}")
    writer = writers[table]
    _check_converter(writer, generated)
    return writer


def import_messages(writer: type[TableWriter[Any]], generated: str | os.PathLike[str]) -> None:
    """Imports the class of a table's messages, which is in a module of its own.

    Raises:
        ConfigError: that module cannot be imported, or somebody has edited that of the writer.
    """
    with _importing(generated):
        writer.message_type()
    _check_converter(writer, generated)


def _check_converter(writer: type[TableWriter[Any]], generated: str | os.PathLike[str]) -> None:
    """Says which module it is in which schema and program do not go together any more."""
    try:
        writer.converter()
    except Exception as error:  # whatever somebody made of it
        module = (writer.__module__ or "").rpartition(".")[2]
        raise ConfigError(
            f"{os.fspath(generated)}: {module}.py, which has {writer.table}, was edited; make it anew with: "
            f"cdpgen build SCHEMAS --out {os.fspath(generated)} ({error})"
        ) from error


def _generated_above(folder: Path) -> Path | None:
    """The folder that a build wrote, of a package within it."""
    while (folder / "__init__.py").is_file() and not _has_tables(folder):
        folder = folder.parent
        if _has_tables(folder):
            return folder
    return None


def _has_tables(folder: Path) -> bool:
    try:
        return "\nTABLES: " in (folder / "__init__.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def _importing(generated: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a module raises that somebody has changed
        raise ConfigError(
            f"{os.fspath(generated)}: cannot be imported ({error}); make it anew with: "
            f"cdpgen build SCHEMAS --out {os.fspath(generated)}"
        ) from error


def _import_folder(folder: Path) -> ModuleType:
    """Imports a package from where it lies, whatever its name and `sys.path` are."""
    name = folder.name
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__path__", None) and folder == Path(known.__path__[0]):
        return known
    if known is not None or not name.isidentifier() or importlib.util.find_spec(name) is not None:
        name = f"_generated_{abs(hash(folder)):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[name]
        raise
    return package


def _from_file(pipeline: str, flags: Sequence[str]) -> PipelineConfig:
    """Reads a pipeline file, beside which these flags were given."""
    hint = ""
    if Path(pipeline).suffix.lower() not in (".yaml", ".yml"):
        hint = (
            f"\n{pipeline}: was taken for a PIPELINE.yaml; a stream goes behind --from: "
            f"--from {shlex.quote(pipeline)}"
        )
    if flags:
        where = "" if hint else f"; say it in {pipeline}"
        raise ConfigError(f"{', '.join(flags)}: does not go with a pipeline file{where}{hint}")
    try:
        return load_pipeline(pipeline)
    except ConfigError as error:
        raise ConfigError(f"{error}{hint}") from None


def _from_flags(
    table: str | None, source: Sequence[str], stored: str | None, generated: str, format: str | None
) -> PipelineConfig:
    missing = [
        flag
        for flag, value in (("--table", table), ("--from", source), ("--to", stored))
        if not value
    ]
    if missing:
        raise ConfigError(
            f"give a PIPELINE.yaml, or --table, --from and --to; missing: {', '.join(missing)}"
        )
    wrong = []
    if "" in source:
        wrong.append(
            "--from: '' is not allowed: give a file, a glob or a URL, or - for standard input"
        )
    if format and format not in get_args(Format):
        allowed = " or ".join(get_args(Format))
        wrong.append(f"--format: {format!r} is not allowed: must be {allowed}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    sources = [{"path": path, **({"format": format} if format else {})} for path in source]
    return check(PipelineConfig, {"generated": generated, "tables": {table: {"source": sources}}})


def _jobs(
    config: PipelineConfig, base: Path, options: Mapping[str, Any], to: str | None
) -> list[_Job]:
    """What there is to do, with all that can be checked checked before anything starts.

    Options count from the file's over the table's to those given; a destination that comes later replaces
    one before whole.
    """
    from .pipeline import router_of

    generated = _below(base, config.generated)
    writers = load_tables(generated)
    jobs = []
    for name, table in config.tables.items():
        writer = writer_of(writers, name, config.generated)
        url = None if config.destination is None else _below(base, config.destination)
        own: dict[str, Any] = {}
        for later in (_local_below(base, config.writer), _local_below(base, table.writer), options):
            if later.get("storage_type") is not None:
                own, url = _without_storage(own), None
            own |= later
        if to is not None:
            own, url = {**_without_storage(own), **_storage_of(options, to)}, to
        checked = check(WriterConfig, own)
        checked.destination(url)
        try:
            router_of(writer, checked)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        import_messages(writer, generated)  # the footers need them, too
        for source in table.source:
            for key, path in source.fields.items():
                _check_field(writer.message_type().DESCRIPTOR, key, path)
        jobs.append(_Job(writer, inputs_of(_sources_below(base, table)), own, url))
    if sum(one.path == "-" for job in jobs for one in job.inputs) > 1:
        raise ConfigError("standard input (-) can be read once only")
    for job in jobs:
        _forbid_table_folder(job, writers)
    return jobs


def _forbid_table_folder(job: _Job, tables: Collection[str]) -> None:
    """Refuses a URL of a table's folder: what is archived would be in that table's files a second time."""
    url, options = check(WriterConfig, job.options).destination(job.url)
    storage = open_storage(url, storage_options=options)
    try:
        forbid_table_folder(storage, tables)
    finally:
        storage.close()


def _check_field(message: Descriptor, key: str, path: str) -> None:
    """Refuses a path of `fields` that names no field; what is in a map or a Struct has any name."""
    within: Descriptor | None = message
    for name in path.split("."):
        if within is not None and (
            within.full_name.startswith("google.protobuf.") or within.GetOptions().map_entry
        ):
            return
        known = {} if within is None else within.fields_by_name
        field = known.get(name) or (within and within.fields_by_camelcase_name.get(name))
        if not field:
            of = "a single value" if within is None else f"{within.full_name} ({', '.join(known)})"
            raise ConfigError(
                f"fields: {key}: {path!r} is not allowed: {name!r} is no field of {of}"
            )
        within = field.message_type


def _without_storage(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in STORAGE_KEYS}


def _storage_of(options: Mapping[str, Any], to: str) -> dict[str, Any]:
    """What the flags say about the store of `--to`."""
    if options.get("storage_type") is not None:
        raise ConfigError(f"storage_type: goes instead of --to {to}, not with it")
    return {key: value for key, value in options.items() if key in STORAGE_KEYS}


def _local_below(base: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a pipeline file as seen from here."""
    paths = {
        key: _below(base, path)
        for key in ("local_path", "journal")
        if isinstance(path := options.get(key), str)
    }
    return {**options, **paths}


def _sources_below(base: Path, table: TableConfig) -> list[Any]:
    return [
        source.model_copy(update={"path": _below(base, source.path)}) for source in table.source
    ]


def _below(base: Path, path: str) -> str:
    """A path in a pipeline file as seen from here; URLs, `~` and `-` are what they are."""
    if path == "-" or path.startswith("~") or "://" in path:
        return path
    return str(base / path)


class _Stop:
    """SIGTERM and Ctrl-C ask to stop; the second one ends the process as if nobody had listened."""

    def __init__(self) -> None:
        self.requested = False
        self._read, self._write = os.pipe()
        self._before: dict[signal.Signals, Any] = {}
        self._seconds = 0.0
        self._writer: TableWriter[Any] | None = None
        self._timer: threading.Timer | None = None
        self._ended = threading.Event()

    def fileno(self) -> int:
        return self._read

    def limit(self, seconds: float, writer: TableWriter[Any] | None) -> None:
        """What a stop gives the writer at work to publish what was read; None while there is none yet."""
        self._seconds, self._writer = seconds, writer

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._timer is not None:
            self._timer.cancel()
        os.close(self._read)
        os.close(self._write)

    def _ask(self, number: int, frame: object) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
        os.write(self._write, b".")
        self._timer = threading.Timer(self._seconds, self._time_is_over)
        self._timer.daemon = True
        self._timer.start()
        print("stopping: publishing what was read; once more to abort", file=STANDARD_ERROR)

    def _time_is_over(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(WriterFailed):  # which the writer's own thread will see
                self._writer.close(0)
        if self._ended.wait(_GRACE_SECONDS):
            return
        # who still waits, for an input or for what a journal held to be published, would wait on for ever;
        # nothing is lost that was not lost if this process were killed
        print("stopped: it took longer than shutdown_seconds", file=STANDARD_ERROR, flush=True)
        os._exit(1)


@contextlib.contextmanager
def _progress(table: str, metrics: Metrics, began: float) -> Iterator[None]:
    """A line on a terminal that tells how far things are, while the block runs."""
    if not STANDARD_ERROR.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def line() -> Text:
        seconds = time.monotonic() - began
        return Text.assemble(
            (table, "bold"),
            f"  {metrics.messages:,} records",
            (f"  {metrics.messages / seconds if seconds else 0:,.0f}/s", "green"),
            f"  in {_bytes(metrics.message_bytes)}  out {_bytes(metrics.file_bytes)}",
            (f"  {_ratio(metrics)}", "cyan"),
            (f"  {counted(metrics.dead_letters)}" if metrics.dead_letters else "", "red"),
        )

    live = Live(
        get_renderable=line, console=Console(stderr=True), refresh_per_second=8, transient=True
    )
    with contextlib.suppress(OSError):  # the terminal may be gone by now
        live.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            live.stop()


def _summary(archived: Archived) -> str:
    """What a run did for a table, in one line, and where its dead letters are in another."""
    table, url, metrics, seconds, dry_files, letters, broken = archived
    rate = metrics.messages / seconds if seconds else 0
    text = (
        f"{table}: {counted(metrics.messages, 'message')} ({_bytes(metrics.message_bytes)}) in "
        f"{seconds:.1f} s ({rate:,.0f}/s): {counted(metrics.rows, 'row')}, "
        f"{counted(metrics.files, 'file')}, {_bytes(metrics.file_bytes)} ({_ratio(metrics)})"
    )
    look = f"cdpgen dead-letters list {shlex.quote(url)}"
    if metrics.skipped:
        were = "was" if metrics.skipped == 1 else "were"
        text += f"\n{table}: {counted(metrics.skipped, 'message')} {were} there already"
        if letters:
            text += f", as rows or dead letters: {look}"
    if metrics.files >= _MANY_FILES and metrics.file_bytes < metrics.files * _SMALL_FILE:
        text += (
            f"\n{table}: its files are small ({_bytes(metrics.file_bytes // metrics.files)} on average), and "
            "engines open each: a coarser partition_by, or more max_open_files, makes fewer and larger ones"
        )
    if broken:
        text += f"\n{table}: {counted(broken, 'input')} could not be read to the end"
    if metrics.dead_letters:
        text += f"\n{table}: {counted(metrics.dead_letters)} in {url}/{FOLDER}/{table}"
        if dry_files is None:
            text += f": {look}"
    if metrics.dead_letters > metrics.rows + metrics.skipped:
        few = "not one message is" if archived.only_dead_letters else "most messages are not"
        text += f"\n{table}: {few} of this table: is the table right, and the format of the input?"
    if dry_files is not None:
        text += "\n" + "\n".join(_dry_lines(table, url, dry_files))
    return text


def _dry_lines(table: str, url: str, files: Sequence[PublishedFile]) -> Iterator[str]:
    """What would have been written, a line for each partition."""
    yield f"{table}: dry run: nothing was written; to {url} it would have been"
    for partition, group in itertools.groupby(
        sorted(files, key=lambda file: file.path), key=lambda file: file.path.rpartition("/")[0]
    ):
        own = list(group)
        yield (
            f"  {partition}: {counted(len(own), 'file')}, "
            f"{counted(sum(file.rows for file in own), 'row')}, {_bytes(sum(file.size for file in own))}"
        )


def _ratio(metrics: Metrics) -> str:
    return f"{metrics.message_bytes / metrics.file_bytes:.1f}:1" if metrics.file_bytes else "-"


def _bytes(size: int) -> str:
    return f"{size / _MB:,.1f} MB" if size >= _MB else f"{size / 1024:,.1f} KB"
