"""`cdpgen dead-letters`: what was set apart, another try with today's writers, and an end of it.

A retry moves one file of dead letters after the other out of `_dead_letter/` into `_retry/`, writes what is a
message by now to the table and the rest back to the dead letters, and then deletes it. So a letter is never
among the dead letters and in the table at once, whenever it is interrupted: until everything of a file is
published it lies in `_retry/`. What an interrupted retry had published carries the name of that file, by
which the next retry finds and removes it before it begins anew: each letter ends up in one place, once.

Where the store cannot rename, a move is a copy and a removal, and one that was interrupted in between leaves
the file in both folders. Nothing has been begun with it then; it counts as taken, and the next retry ends the
move first. That copies anew, from `_dead_letter/`, where the file is whole for as long as it is there, and
removes no copy: a holder of the lock that was suspended in the midst may yet wake up and remove the other.

A piece of a message that was cut at the end of its input goes when that message has come whole since.

So that no retry takes another that is at work for an interrupted one, each holds a lock in the archive.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from .config import ConfigError, WriterConfig, check, destination_of, nested
from .dataset import ArchiveError
from .dead_letter import (
    DEAD_LETTER_SCHEMA,
    FOLDER,
    RETRY_FOLDER,
    DeadLetter,
    counted,
    printable,
    shortened,
)
from .dry_run import DryRun
from .journal import UNNUMBERED
from .log import STANDARD_ERROR
from .positions import spans
from .provenance import forbid_other_lock, told_in
from .resume import Published, published
from .sources.identity import PIECE
from .storage import Storage, StorageError, forbid_table_folder, is_of_writer, open_storage
from .trouble import failed, standard_output, unreadable
from .writer import TableWriter, WriterFailed

if TYPE_CHECKING:
    from pyarrow.parquet import RowGroupMetaData

__all__ = [
    "LetterFile",
    "Retried",
    "discard",
    "is_unfinished",
    "letter_files",
    "read_letters",
    "retry",
    "run",
]

_BATCH_ROWS: Final = 1_024
_BATCH_BYTES: Final = 16 << 20
_UNEVEN_ROWS: Final = 8
"""How many are read at once, at most, where all together are more than that: the footer tells what letters take
on the average, and the largest may stand side by side."""

_REASONS_SHOWN: Final = 20
_REASONS_KEPT: Final = 1_000
_SOURCES_KEPT: Final = 1_000
_PAYLOAD_SHOWN: Final = 64
_NAME_BYTES: Final = 120
_RETRIED: Final = re.compile(r"r-\d+\.parquet$")
"""The end of the names of files that a retry writes."""


class LetterFile(NamedTuple):
    """A file of dead letters: its table, its path below the archive, and whether a retry has taken it.

    One that is in `_dead_letter/` and taken is in `_retry/` too, by a move that has not ended.
    """

    table: str
    path: str
    taken: bool

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


class Retried(NamedTuple):
    """What came of letters of a table that were retried: rows, those that stay, and pieces that are gone."""

    rows: int
    letters: int
    gone: int = 0


def letter_files(storage: Storage, table: str | None = None) -> list[LetterFile]:
    """The files of dead letters in an archive, of one table or of all.

    Those that a retry has written out of a file which it still has are left out, as they are taken back.

    Raises:
        ArchiveError: there are no files at all: most likely it is another archive.
        StorageError: there are none of that table, or the URL is that of a folder within an archive.
    """
    paths = [file.path for file in storage.files()]
    forbid_table_folder(storage, () if table is None else (table,), paths)
    found: dict[tuple[str, str], LetterFile] = {}
    tables = set()
    for path in paths:
        folder, _, rest = path.partition("/")
        name, _, inside = rest.partition("/")
        if folder in (FOLDER, RETRY_FOLDER) and inside:
            tables.add(name)
            if table in (None, name):
                taken = folder == RETRY_FOLDER
                file_of = found.get((name, inside), LetterFile(name, path, taken))
                found[name, inside] = file_of._replace(taken=taken)
        else:
            tables.add(folder)
    if not tables:
        raise ArchiveError(f"{storage.url}: there are no Parquet files")
    if table is not None and table not in tables:
        raise StorageError(
            f"{storage.url}: there are no files of {table}; it has {', '.join(sorted(tables))}"
        )
    taken_back = [(one.table, _identity(one.name)) for one in found.values() if one.taken]
    return [
        file
        for file in found.values()
        if not any(file.table == of and is_of_writer(file.path, one) for of, one in taken_back)
    ]


def read_letters(
    storage: Storage, path: str, *, payloads: bool = True
) -> Iterator[list[DeadLetter]]:
    """The letters of a file, some at a time.

    Args:
        storage: the archive.
        path: of the file.
        payloads: whether to read these too; they are null otherwise.

    Raises:
        ArchiveError: it cannot be read.
    """
    import pyarrow.parquet as pq

    columns = [one for one in DEAD_LETTER_SCHEMA.names if payloads or one != "payload"]
    try:
        with (
            storage.open(path) as opened,
            pq.ParquetFile(opened, page_checksum_verification=True) as file,
        ):
            for group in range(file.num_row_groups):
                rows = _rows_at_once(file.metadata.row_group(group), columns)
                for batch in file.iter_batches(rows, [group], columns):
                    yield [
                        DeadLetter(
                            row["payload"] if payloads else None,
                            row["reason"],
                            row["source"] or "",
                            row["position"],
                            row["offset"],
                            form=row.get("form", "message"),
                            time=row["time"],
                        )
                        for row in batch.to_pylist()
                    ]
    except KeyError as error:
        raise ArchiveError(
            f"{storage.describe(path)}: is no file of dead letters: it has no column {error}"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(unreadable(storage.describe(path), error)) from error


@contextlib.contextmanager
def _of_files() -> Iterator[None]:
    """What is wrong with a single file says nothing of the URL."""
    try:
        yield
    except StorageError as error:
        raise ArchiveError(str(error)) from error


def _rows_at_once(group: RowGroupMetaData, names: Sequence[str]) -> int:
    """How many letters of a row group may be in memory together, with these columns."""
    size, most = 0, _BATCH_ROWS
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema not in names:
            continue
        if column.path_in_schema == "payload" and column.has_dictionary_page:
            # it holds once what any number of letters may have, and one of them may be all of it
            most = min(most, max(1, _BATCH_BYTES // column.total_uncompressed_size))
        else:
            size += column.total_uncompressed_size
    if size > _BATCH_BYTES:
        most = min(most, _UNEVEN_ROWS, max(1, _BATCH_BYTES * group.num_rows // size))
    return most


def retry(
    url: str,
    writers: Mapping[str, type[TableWriter[Any]]],
    table: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    generated: str = "generated",
) -> dict[str, Retried]:
    """Tries the dead letters of an archive again.

    Args:
        url: the archive.
        writers: today's, by the name of their table; the letters of other tables stay as they are.
        table: only the letters of this table.
        options: of the writers.
        generated: the folder that they are from, for what is said of it.

    Returns:
        What came of them, by table.

    Raises:
        ConfigError: an option is wrong, or the class of the messages cannot be imported.
        ArchiveError: a file cannot be read, or there are none.
        StorageError: the store cannot be used, there are no files of the table, the URL is that of a folder
            within an archive, or another retry is at work on the archive.
        WriterFailed: something could not be written; the letters are safe, and another retry goes on.
    """
    from .archive import import_messages

    config = check(WriterConfig, options or {})
    if config.journal is not None:
        # what it would keep is in the archive, from where the next retry takes it
        raise ConfigError(
            "journal: is not allowed: a retry needs none, as letters stay until they are rows"
        )
    storage: Storage = open_storage(url, None, config.storage_options)
    if config.dry_run:
        storage = DryRun(storage)
    forbid_table_folder(storage, writers)
    if not letter_files(storage, table):
        return {}  # before the lock, which would make a folder of a mistyped path
    done: dict[str, Retried] = {}
    with storage.lock("dead-letters-retry") as still:
        files = letter_files(storage, table)
        for name, writer in writers.items():
            own = [one for one in files if one.table == name]
            if own:
                import_messages(writer, generated)
                with _of_files():
                    forbid_other_lock(storage, writer)
            pieces = _Pieces(storage, writer)
            for file in own:
                came = _retry_file(storage, url, writer, file, config, pieces, still)
                before = done.get(name, Retried(0, 0))
                done[name] = Retried(*map(sum, zip(before, came, strict=True)))
    return done


def discard(
    url: str, table: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[int, int]:
    """Removes the dead letters of a table for good; the next run over their sources reads them again.

    Args:
        url: the archive.
        table: the full name of the table.
        storage_options: what the filesystem takes besides the URL.

    Returns:
        How many letters and files there were.

    Raises:
        ArchiveError: a file cannot be read, there are none, or a retry was interrupted.
        StorageError: the store cannot be used, there are no files of the table, the URL is that of a folder
            within an archive, or a retry is at work on it.
    """
    storage = open_storage(url, storage_options=storage_options)
    if not letter_files(storage, table):
        return 0, 0  # before the lock, as in a retry
    with storage.lock("dead-letters-retry") as still:
        files = letter_files(storage, table)
        if any(file.taken for file in files):
            raise ArchiveError(
                f"{url}: a retry was interrupted, and some letters may be rows already; end it first with: "
                f"cdpgen dead-letters retry {url} --table {table}"
            )
        letters = sum(
            len(some) for file in files for some in read_letters(storage, file.path, payloads=False)
        )
        for file in files:
            still()
            storage.delete(file.path)
    return letters, len(files)


def run(
    action: str,
    url: str,
    *,
    table: str | None = None,
    limit: int = 20,
    generated: str = "generated",
    options: Mapping[str, Any] | None = None,
) -> int:
    """Lists, shows, retries or discards the dead letters of an archive.

    Args:
        action: `list`, `show`, `retry` or `discard`, which needs a table.
        url: the archive.
        table: only the letters of this table.
        limit: how many letters to show.
        generated: the folder that `cdpgen build` wrote, for a retry.
        options: of the writers, for a retry; else of the archive's store.

    Returns:
        The exit code: 0 fine, 1 something could not be read or written, 2 bad usage or configuration, or a URL
        that cannot be used.
    """
    try:
        if action == "retry":
            from .archive import load_tables, writer_of

            writers = load_tables(generated)
            if table is not None:
                writer_of(writers, table, generated)
            own = nested(options or {})
            done = retry(url, writers, table, own, generated=generated)
            with standard_output():
                _print_retried(done)
        else:
            found, storage_options = destination_of(url, options or {})
            if action == "discard":
                assert table is not None
                letters, count = discard(found, table, storage_options)
                with standard_output():
                    print(f"{table}: {counted(letters)} removed, {counted(count, 'file')}")
                return 0
            storage = open_storage(found, storage_options=storage_options)
            files = letter_files(storage, table)
            with standard_output():
                if action == "list":
                    _print_list(storage, files)
                else:
                    _print_letters(storage, files, limit)
    except ConfigError as error:
        print(error, file=STANDARD_ERROR)
        return 2
    except WriterFailed as error:
        print(error, file=STANDARD_ERROR)
        return 1
    except OSError as error:
        return failed(error)
    return 0


def _retry_file(
    storage: Storage,
    url: str,
    writer: type[TableWriter[Any]],
    file: LetterFile,
    config: WriterConfig,
    pieces: _Pieces,
    still: Callable[[], None],
) -> Retried:
    from .pipeline import Pipeline

    decoder = _Decoder(writer)
    path, identity = file.path, _identity(file.name)
    still()
    if not file.taken:
        letters = 0
        for batch in read_letters(storage, path):
            if any(isinstance(one, bytes) for one in decoder.decode(batch)):
                break
            if any(map(pieces.have_come_whole, batch)):
                break
            letters += len(batch)
        else:
            return Retried(0, letters)  # nothing would change
    if not config.dry_run:
        path = _take(storage, file)
        still()  # or another has taken it over, which needs no more than a suspension in the move
    if file.taken:
        next(read_letters(storage, path), None)  # raises before anything is removed for it
        _undo(storage, file.table, identity)
    with _of_files():
        prefixes = spans(told_in(storage, path)).prefixes
    pipeline = Pipeline(writer, url, config, None, identity)
    # by which an input that has grown is known, and told from one that was overwritten
    pipeline.prefixes.update(prefixes)
    try:
        rows = letters = gone = 0
        for batch in read_letters(storage, path):
            for letter, found in zip(batch, decoder.decode(batch), strict=True):
                if pieces.have_come_whole(letter):
                    gone += 1
                elif isinstance(found, DeadLetter):
                    pipeline.intake.put_letter(found)
                    letters += 1
                else:
                    pipeline.intake.put_one(found, letter.source, letter.position)
                    rows += 1
        still()
        pipeline.close()
    except BaseException:
        pipeline.give_up()
        raise
    still()
    storage.delete(path)
    return Retried(rows, letters, gone)


def _take(storage: Storage, file: LetterFile) -> str:
    """Moves a file into `_retry/`, unless it is there alone; its path there."""
    if not file.path.startswith(f"{FOLDER}/"):
        return file.path
    path = f"{RETRY_FOLDER}/{file.table}/{file.name}"
    try:
        storage.move(file.path, path)
    except FileNotFoundError:
        if not file.taken:  # else who had begun the move has woken up and ended it
            raise
    return path


def _undo(storage: Storage, table: str, identity: str) -> None:
    """Removes what a retry that was interrupted had published, and what others had begun with that."""
    below = (f"{table}/", f"{FOLDER}/{table}/", f"{RETRY_FOLDER}/{table}/")
    for file in list(storage.files()):
        if file.path.startswith(below) and is_of_writer(file.path, identity):
            storage.delete(file.path)


def is_unfinished(storage: Storage, path: str) -> bool:
    """Whether a published file is of a retry that is at work or was interrupted, which may take it back."""
    table = path.partition("/")[0]
    taken = storage.files(f"{RETRY_FOLDER}/{table}/") if _RETRIED.search(path) else ()
    return any(is_of_writer(path, _identity(one.path.rpartition("/")[2])) for one in taken)


def _identity(name: str) -> str:
    """The id of the writer that retries a file: always the same for the same file.

    It begins with the id of the file's own writer, whose journal looks for what is published by that.
    """
    stem = name.removesuffix(".parquet").partition("-")[2]
    if len(stem) > _NAME_BYTES:
        import hashlib

        stem = f"{stem.partition('-')[0]}-{hashlib.sha256(stem.encode()).hexdigest()[:16]}"
    return f"{stem}r"


class _Pieces:
    """Tells pieces of what was cut at the end of its input, and is in the archive whole by now."""

    def __init__(self, storage: Storage, writer: type[TableWriter[Any]]) -> None:
        self._storage = storage
        self._writer = writer
        self._published: Published | None = None

    def have_come_whole(self, letter: DeadLetter) -> bool:
        """Whether what the letter is a piece of has come whole."""
        found = PIECE.fullmatch(letter.source)
        if found is None or letter.position is None:
            return False
        if self._published is None:
            self._published = published(self._storage, self._writer, lambda source: True)
        return not self._published.missing(found[1], [letter.position])


class _Decoder:
    """Tells messages from those that still are none."""

    def __init__(self, writer: type[TableWriter[Any]]) -> None:
        self._converter = writer.converter()
        self._message_type = writer.message_type

    def decode(self, letters: Sequence[DeadLetter]) -> list[bytes | DeadLetter]:
        """For each letter its message, or the letter with today's reason."""
        found = [self._message(letter) for letter in letters]
        rows = [row for row, one in enumerate(found) if isinstance(one, bytes)]
        payloads = [one for one in found if isinstance(one, bytes)]
        for row, offset, reason in self._converter.decode(payloads).rejected:
            letter = letters[rows[row]]
            found[rows[row]] = letter._replace(reason=reason, offset=offset)
        return found

    def _message(self, letter: DeadLetter) -> bytes | DeadLetter:
        """The bytes that may be a message."""
        from .sources.ndjson import message_of

        if letter.payload is None or letter.form == "bytes":
            return letter
        if letter.form == "message":
            return letter.payload
        try:
            return message_of(letter.payload, self._message_type(), {}, False)
        except ValueError as error:
            return letter._replace(reason=str(error))


def _print_retried(done: Mapping[str, Retried]) -> None:
    if not done:
        print("there are no dead letters of a table that can be retried")
    for table, came in sorted(done.items()):
        text = f"{table}: {came.rows:,} of {sum(came):,} dead letters are rows now, {came.letters:,} stay"
        if came.gone:
            text += f", {came.gone:,} gone, as what they were pieces of has come whole"
        print(text)


class _Reason:
    """Letters of one reason."""

    def __init__(self) -> None:
        self.letters = 0
        self.times: list[datetime] = []
        self.sources: set[str] = set()

    def add(self, letter: DeadLetter) -> None:
        assert letter.time is not None
        self.letters += 1
        self.times = [min([*self.times, letter.time]), max([*self.times, letter.time])]
        if len(self.sources) <= _SOURCES_KEPT:
            self.sources.add(_source(letter))

    def lines(self, reason: str) -> Iterator[str]:
        sources = sorted(self.sources)
        more = f" and {len(sources) - 3:,} more" if len(sources) > 3 else ""
        if len(sources) > _SOURCES_KEPT:
            more = f" and over {_SOURCES_KEPT - 3:,} more"
        yield f"  {self.letters:,} x {printable(reason)}"
        yield (
            f"      {self.times[0]:%Y-%m-%d %H:%M:%S} to {self.times[1]:%Y-%m-%d %H:%M:%S} UTC, "
            f"from {', '.join(sources[:3])}{more}"
        )


class _Reasons:
    """Letters by their reasons; where there are very many of these, what the rarest have is only counted."""

    def __init__(self) -> None:
        self.letters = 0
        self._reasons: defaultdict[str, _Reason] = defaultdict(_Reason)
        self._rare = 0

    def add(self, letter: DeadLetter) -> None:
        self.letters += 1
        self._reasons[_plain(letter.reason)].add(letter)
        if len(self._reasons) > 2 * _REASONS_KEPT:
            most = self._most()
            self._rare += sum(reason.letters for _, reason in most[_REASONS_KEPT:])
            self._reasons = defaultdict(_Reason, most[:_REASONS_KEPT])

    def lines(self) -> Iterator[str]:
        most = self._most()
        for text, reason in most[:_REASONS_SHOWN]:
            yield from reason.lines(text)
        more = len(most) - _REASONS_SHOWN
        if self._rare:
            letters = self._rare + sum(reason.letters for _, reason in most[_REASONS_SHOWN:])
            yield f"  ... {letters:,} more, of over {more:,} other reasons"
        elif more > 0:
            yield f"  ... {more:,} more reasons"

    def _most(self) -> list[tuple[str, _Reason]]:
        return sorted(self._reasons.items(), key=lambda item: -item[1].letters)


def _print_list(storage: Storage, files: Sequence[LetterFile]) -> None:
    """How many letters there are of each table, and why."""
    if not files:
        print("there are no dead letters")
    for table in sorted({file.table for file in files}):
        reasons, taken = _Reasons(), 0
        for file in (one for one in files if one.table == table):
            for batch in read_letters(storage, file.path, payloads=False):
                taken += len(batch) * file.taken
                for letter in batch:
                    reasons.add(letter)
        print(f"{printable(table)}: {counted(reasons.letters)}")
        if taken:
            print(f"  {taken:,} of them in a retry that runs or was interrupted; another goes on")
        for line in reasons.lines():
            print(line)


def _print_letters(storage: Storage, files: Iterable[LetterFile], limit: int) -> None:
    """The letters themselves, oldest file first."""
    shown = 0
    for file in files:
        for batch in read_letters(storage, file.path):
            for letter in batch:
                if shown == limit:
                    print(f"... and more; --limit {limit * 10} shows more of them")
                    return
                shown += 1
                print(_letter(file.table, letter))
    if shown == 0:
        print("there are no dead letters")


def _letter(table: str, letter: DeadLetter) -> str:
    place = _source(letter)
    # what the journal numbered itself tells nobody anything; of its own damage it is where that begins
    given = letter.form == "bytes" or not letter.source.endswith(UNNUMBERED)
    if letter.position is not None and given:
        place += f", position {letter.position:,}"
    where = "" if letter.offset is None else f" at byte {letter.offset:,}"
    return (
        f"{printable(table)}: {place}, {letter.time:%Y-%m-%d %H:%M:%S} UTC\n"
        f"  {printable(shortened(letter.reason))}{where}\n"
        f"  {_payload(letter)}"
    )


def _source(letter: DeadLetter) -> str:
    return printable(letter.source.removesuffix(UNNUMBERED)) or "no source"


def _payload(letter: DeadLetter) -> str:
    payload = letter.payload
    if payload is None:
        return "null"
    start = payload[:_PAYLOAD_SHOWN]
    text = start.hex(" ")
    if letter.form == "json":
        text = printable(start.decode(errors="backslashreplace"))
    return f"{len(payload):,} bytes: {text}{' ...' if len(payload) > _PAYLOAD_SHOWN else ''}"


def _plain(reason: str) -> str:
    """A reason without the number of the line, so that the same ones are counted together."""
    head, colon, rest = reason.partition(": ")
    return shortened(rest if colon and head.startswith("line ") else reason)
