"""Who wrote what: columns for it, and whether other versions of a table are in an archive.

`include_metadata` adds columns that tell of each row where it came from, who wrote it and when. They are
no part of the table: the lock does not know them, a message cannot hold them, and files with and without
them lie side by side. Their field ids are from a range of their own, above all that a lock gives
(it counts up from 1) and below those that Iceberg keeps for itself (from 2,147,483,447).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from .config import ConfigError
from .storage import Storage, StorageError

if TYPE_CHECKING:
    from .writer import TableWriter

__all__ = [
    "FIELDS",
    "FIRST_FIELD_ID",
    "WRITTEN_AS",
    "forbid_other_lock",
    "forbid_other_versions",
    "other_lock",
    "schema_with",
    "told_in",
    "versions_told",
    "with_provenance",
]

WRITTEN_AS: Final = "cdpgen.written_as"
"""The key in the footer of an upgraded file with the version that first wrote its rows."""

FIRST_FIELD_ID: Final = 2_000_000_001
"""Ids from here on are for columns that no lock has."""

_READERS: Final = 8

_VERSION: Final = b"cdpgen.version"
_FINGERPRINT: Final = b"cdpgen.fingerprint"
_FORMER: Final = b"cdpgen.former_fingerprints"

_NAME: Final = pa.dictionary(pa.int32(), pa.utf8())
_TIME: Final = pa.timestamp("us", "UTC")

FIELDS: Final[tuple[pa.Field[Any], ...]] = (
    # The file, URL or name that the caller gave; null where it gave none.
    pa.field("_source", _NAME, metadata={"PARQUET:field_id": str(FIRST_FIELD_ID)}),
    # The id of the writer, as in the file's name and footer.
    pa.field("_writer", _NAME, False, metadata={"PARQUET:field_id": str(FIRST_FIELD_ID + 1)}),
    # When the message was decoded, which is moments after it was written to the writer.
    pa.field("_ingested_at", _TIME, False, metadata={"PARQUET:field_id": str(FIRST_FIELD_ID + 2)}),
)


def schema_with(schema: pa.Schema) -> pa.Schema:
    """A table's schema with the columns behind its own.

    Raises:
        ConfigError: the table has a column of such a name.
    """
    for field in FIELDS:
        if field.name in schema.names:
            raise ConfigError(
                f"include_metadata: True is not allowed: the table has a column {field.name} of its own"
            )
        schema = schema.append(field)
    return schema


def with_provenance(
    batch: pa.RecordBatch, schema: pa.Schema, source: str, writer: str
) -> pa.RecordBatch:
    """Rows of this moment with the columns.

    Args:
        batch: rows of one source.
        schema: of the result, by `schema_with`.
        source: where they come from; empty when the caller did not say.
        writer: the id of the writer.
    """
    rows = batch.num_rows
    now = datetime.datetime.now(datetime.UTC)
    columns = [
        *batch.columns,
        _names(source or None, rows),
        _names(writer, rows),
        pa.repeat(pa.scalar(now, _TIME), rows),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def forbid_other_versions(storage: Storage, writer: type[TableWriter[Any]]) -> None:
    """Checks that all files of a table are of this version, by their footers.

    Raises:
        ConfigError: one is of another version.
        StorageError: one cannot be read.
    """
    for path, told in _footers(storage, writer.table):
        if told.get(_FINGERPRINT, b"").decode() not in ("", writer.fingerprint):
            raise ConfigError(
                f"schema_evolution: False is not allowed: {storage.describe(path)} is of version "
                f"{told.get(_VERSION, b'').decode()} of {writer.table}, and this writer of version "
                f"{writer.version}"
            )


def forbid_other_lock(storage: Storage, writer: type[TableWriter[Any]]) -> None:
    """Checks that no file of a table is of another lock than the writer, by their footers.

    Raises:
        StorageError: one is, or one cannot be read.
    """
    for path, told in _footers(storage, writer.table):
        if clash := other_lock(told, writer):
            raise StorageError(f"{storage.describe(path)}: {clash}")


def _footers(storage: Storage, table: str) -> Iterator[tuple[str, Mapping[bytes, bytes]]]:
    """What the footers of a table's files say, by their paths."""
    with ThreadPoolExecutor(_READERS) as readers:
        paths = [one.path for one in storage.files(f"{table}/")]
        try:
            yield from zip(
                paths, readers.map(lambda path: told_in(storage, path), paths), strict=True
            )
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def told_in(storage: Storage, path: str) -> Mapping[bytes, bytes]:
    """What the footer of a file says.

    Raises:
        StorageError: it cannot be read.
    """
    import pyarrow.parquet as pq

    try:
        with storage.open(path) as file:
            return pq.read_metadata(file).metadata or {}
    except StorageError:
        raise  # it names the file
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{storage.describe(path)}: {error}") from error


def versions_told(writer: type[TableWriter[Any]]) -> dict[str, str]:
    """What a footer says of the version of its table, and of those before."""
    told = {
        _VERSION.decode(): str(writer.version),
        _FINGERPRINT.decode(): writer.fingerprint,
    }
    if writer.former_fingerprints:
        told[_FORMER.decode()] = json.dumps(writer.former_fingerprints, separators=(",", ":"))
    return told


def other_lock(told: Mapping[bytes, bytes], writer: type[TableWriter[Any]]) -> str:
    """What is wrong where a version that a footer tells of is another one than the writer knows; else nothing.

    Versions and the ids of columns are those of a lock: without the one by which a file was written,
    columns would be taken for each other.
    """
    ours = {**writer.former_fingerprints, writer.version: writer.fingerprint}
    for version, fingerprint in sorted(_fingerprints(told).items()):
        if ours.get(version, fingerprint) != fingerprint:
            return (
                f"knows another version {version} of {writer.table} than {writer.__module__}: was "
                "cdpgen.lock lost and made anew? Or was this written on a branch with a lock of its own? "
                "Bring back the one by which it was written, and run cdpgen build"
            )
    return ""


def _fingerprints(told: Mapping[bytes, bytes]) -> dict[int, str]:
    """The fingerprints of the versions that a footer tells of, by their numbers."""
    version, fingerprint = (told.get(key, b"").decode() for key in (_VERSION, _FINGERPRINT))
    try:
        former = json.loads(told.get(_FORMER, b"{}"))
        known = {int(number): str(one) for number, one in former.items()}
    except (ValueError, AttributeError):  # not by cdpgen
        known = {}
    if version.isdigit() and fingerprint:
        known[int(version)] = fingerprint
    return known


def _names(value: str | None, rows: int) -> pa.Array[Any]:
    indices = pa.repeat(pa.scalar(None if value is None else 0, pa.int32()), rows)
    return pa.DictionaryArray.from_arrays(indices, pa.array([value or ""], pa.utf8()))
