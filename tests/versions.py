"""A schema that changes, and an archive that each of its versions writes to.

Every version is built into a folder of its own and its writer loaded from there, so all of them live in one
process; messages come from a descriptor pool of their own, as the default one never forgets a file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message
from grpc_tools import protoc

import cdp_runtime
from cdp_runtime.archive import load_tables
from cdp_runtime.dataset import Archive
from cdp_runtime.replay import run as replay
from cdp_runtime.writer import TableWriter
from cdpgen.build import build


class Version(NamedTuple):
    """One version of the schemas, built."""

    generated: Path
    writers: Mapping[str, type[TableWriter[Any]]]
    messages: Mapping[str, type[Message]]


class History:
    """A folder with schemas, what was generated of each version, and an archive.

    Args:
        folder: an empty folder.
        table: the full name of the message that is archived.
        proto: the path of its file.
    """

    def __init__(self, folder: Path, table: str, proto: str = "shop.proto") -> None:
        self.schemas = folder / "schemas"
        self.archive = folder / "archive"
        self.table = table
        self.versions: list[Version] = []
        self._folder = folder
        self._proto = proto

    @property
    def today(self) -> Version:
        """The last version."""
        return self.versions[-1]

    @property
    def writer(self) -> type[TableWriter[Any]]:
        """Today's writer."""
        return self.today.writers[self.table]

    @property
    def message(self) -> type[Message]:
        """Today's message."""
        return self.today.messages[self.table]

    def build(self, proto: str, rules: str = "version: 1") -> None:
        """Builds the next version.

        Raises:
            BreakingError: it does not go on from the one before.
            UsageError: the schema or the rules are wrong.
        """
        path = self.schemas / self._proto
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(proto, encoding="utf-8")
        (self.schemas / "cdpgen.yaml").write_text(rules, encoding="utf-8")
        generated = self._folder / f"generated_{len(self.versions) + 1}"
        build(self.schemas, generated)
        writers, messages = load_tables(generated), messages_of(self.schemas, self._proto)
        for name, message in messages.items():
            if name in writers:  # the generated one would be a second file of that name in one pool
                type.__setattr__(writers[name], "message_type", functools.partial(_same, message))
        self.versions.append(Version(generated, writers, messages))

    def payloads(self, *records: Mapping[str, Any]) -> list[bytes]:
        """Messages of today, from their JSON forms."""
        return [
            json_format.ParseDict(record, self.message()).SerializeToString() for record in records
        ]

    def write(self, *records: Mapping[str, Any], version: int = 0, **options: Any) -> list[bytes]:
        """Archives messages of today with the writer of a version (1 is the first; the last if left out)."""
        payloads = self.payloads(*records)
        self.write_payloads(payloads, version=version, **options)
        return payloads

    def write_payloads(self, payloads: Sequence[bytes], version: int = 0, **options: Any) -> None:
        """Archives payloads with the writer of a version."""
        with self.versions[version - 1].writers[self.table](self.archive, **options) as writer:
            writer.write_many(list(payloads))

    def open(self, **options: Any) -> Archive:
        """The archive, in today's schema."""
        return cdp_runtime.open_archive(
            self.archive, self.table, generated=self.today.generated, **options
        )

    def rows(self, **options: Any) -> list[dict[str, Any]]:
        """Its rows."""
        rows: list[dict[str, Any]] = (
            self.open().to_table(**options).to_pylist(maps_as_pydicts="strict")
        )
        return rows

    def replayed(self) -> bytes:
        """Its messages, length-delimited."""
        output = self._folder / "replayed.pb"
        output.unlink(missing_ok=True)
        generated = str(self.today.generated)
        assert replay(str(self.archive), generated=generated, output=str(output)) == 0
        return output.read_bytes()

    def batch(self) -> pa.RecordBatch:
        """All its rows as one batch, but for the levels of folders."""
        names = self.writer.converter.schema.names
        table = self.open().to_table(columns=names).combine_chunks()
        batches = table.to_batches()
        assert len(batches) == 1
        return batches[0]


def _same(message: type[Message]) -> type[Message]:
    return message


def messages_of(schemas: Path, proto: str) -> dict[str, type[Message]]:
    """The message classes of a `.proto`, in a pool of their own."""
    out = schemas.parent / "descriptors.bin"
    google = Path(protoc.__file__).parent / "_proto"
    arguments = [f"-I{schemas}", f"-I{google}", f"--descriptor_set_out={out}", "--include_imports"]
    assert protoc.main(["protoc", *arguments, proto]) == 0
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    found = pool.FindFileByName(proto)
    return {
        each.full_name: message_factory.GetMessageClass(each)
        for each in found.message_types_by_name.values()
    }
