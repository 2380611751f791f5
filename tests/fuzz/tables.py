"""Writes the tables that the fuzzer runs, with messages to begin with: `python -m tests.fuzz.tables FILE`.

They are those of the project's own schemas, of the real records, of the kitchen-sink schemas (every
kind of field and rule), and of some schemas drawn at random. The C++ side is `tests/fuzz/tables.cpp`.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from google.protobuf import json_format

from cdp_runtime.program import Enum, Field, Program
from cdpgen import demo_data
from cdpgen.errors import UsageError
from tests.built import Table, build_tables
from tests.drawn_schemas import draw_schema
from tests.strategies import payload

TESTS = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get("CDPGEN_REAL_DATA", TESTS.parents[1] / "shared/data"))
FOLDERS = {
    "stellar": TESTS.parent / "schemas",
    "etl": TESTS / "integration/real_data_schemas",
    "kitchen": TESTS / "property/schemas",
}
REAL_RECORDS = {
    "stellar_etl.v1.ContractData": "contract_data.ndjson",
    "stellar_etl.v1.TokenTransfer": "token_transfers.ndjson",
    "stellar_etl.v1.Asset": "assets.ndjson",
}
DEMO = {
    "stellar.v1.ContractData": demo_data.contract_data,
    "stellar.v1.Event": demo_data.events,
}
DRAWN_SCHEMAS = 8
SEEDS = 48
"""Random messages of each table, and at most as many real ones."""


class ArrowSchema(ctypes.Structure):
    """The structure of the Arrow C data interface."""


ArrowSchema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(ArrowSchema))),
    ("dictionary", ctypes.POINTER(ArrowSchema)),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(ArrowSchema))),
    ("private_data", ctypes.c_void_p),
]


class Output:
    """Little-endian 64-bit integers, and bytes behind their length."""

    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, *values: int | str | bytes) -> None:
        for value in values:
            if isinstance(value, int):
                self.data += struct.pack("<q", value)
            else:
                raw = value.encode() if isinstance(value, str) else value
                self.data += struct.pack("<q", len(raw)) + raw

    def program(self, program: Program) -> None:
        self.put(program.message, len(program.fields))
        for field in program.fields:
            self.field(field)
        self.put(len(program.oneof_cases))
        for oneof, column in program.oneof_cases:
            self.put(oneof, column)
        self.put(program.raw, len(program.contents))
        for content in program.contents:
            self.program(content)

    def field(self, field: Field) -> None:
        self.put(field.number, field.kind, field.column is None, field.column or "")
        self.put(field.presence, field.encoding, field.oneof, field.name)
        self.put(field.enum is not None)
        if field.enum is not None:
            self.enum(field.enum)
        self.put(field.program is not None)
        if field.program is not None:
            self.program(field.program)

    def enum(self, enum: Enum) -> None:
        self.put(enum.name, enum.closed, len(enum.values))
        for number, name in enum.values:
            self.put(number, name)

    def schema(self, schema: ArrowSchema) -> None:
        self.put(schema.format, schema.name or b"", schema.flags, bool(schema.dictionary))
        if schema.dictionary:
            self.schema(schema.dictionary.contents)
        self.put(schema.n_children)
        for index in range(schema.n_children):
            self.schema(schema.children[index].contents)


def pointer_of(capsule: Any) -> int:
    """What a capsule of the Arrow PyCapsule interface holds."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    pointer: int = get(capsule, b"arrow_schema")
    return pointer


def real_messages(table: Table) -> Iterator[bytes]:
    """Messages of the table that somebody really sent, or could have."""
    records = REAL_DATA / REAL_RECORDS.get(table.name, "none")
    if records.is_file():
        for line in records.read_text().splitlines():
            message = json_format.ParseDict(
                json.loads(line), table.message(), ignore_unknown_fields=True
            )
            yield message.SerializePartialToString()
    make: Callable[[int, int], Iterator[dict[str, Any]]] | None = DEMO.get(table.name)
    for fields in make(4 * SEEDS, 0) if make is not None else ():
        yield table.message(**fields).SerializePartialToString()


def seeds(table: Table) -> list[bytes]:
    """Real messages where there are some, and random ones; none that the table rejects."""
    rng = random.Random(table.name)
    real = list(real_messages(table))
    drawn = [payload(rng, table.message.DESCRIPTOR, noise) for noise in [0.0, 0.1] * (SEEDS // 2)]
    found = rng.sample(real, min(SEEDS, len(real))) + drawn
    bad = {rejected.row for rejected in table.converter().decode(found).rejected}
    return [message for row, message in enumerate(found) if row not in bad]


def all_tables(folder: Path) -> Iterator[Table]:
    """Every table, built in a folder of its own."""
    for name, schemas in FOLDERS.items():
        shutil.copytree(schemas, folder / name / "schemas")
        yield from build_tables(folder / name / "schemas", folder / f"{name}_generated").values()
    rng = random.Random(0)
    drawn = 0
    while drawn < DRAWN_SCHEMAS:
        schema = draw_schema(rng)
        package = schema.package.partition(".")[0]
        path = folder / package / schema.path
        path.parent.mkdir(parents=True)
        path.write_text(schema.proto, encoding="utf-8")
        (folder / package / "cdpgen.yaml").write_text(schema.rules, encoding="utf-8")
        try:
            tables = build_tables(folder / package, folder / f"{package}_generated")
        except UsageError:
            continue  # a draw that the rules do not allow
        drawn += 1
        yield from tables.values()


def write_tables(path: Path) -> None:
    """Writes the tables with their seeds to a file."""
    out = Output()
    with tempfile.TemporaryDirectory(prefix="cdpgen-fuzz-") as folder:
        tables = list(all_tables(Path(folder)))
    out.put(len(tables))
    for table in tables:
        out.program(table.program)
        schema: Any = table.converter.schema
        # The fields as the children of a struct, as a record batch has them.
        capsule = pa.schema(schema).__arrow_c_schema__()
        out.schema(ArrowSchema.from_address(pointer_of(capsule)))
        messages = seeds(table)
        out.put(len(messages), *messages)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.data)


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
