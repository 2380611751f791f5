"""Schemas built by the generator into a folder of their own, and imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from google.protobuf.message import Message

from cdp_runtime.converter import Converter, Decoded
from cdp_runtime.program import Program
from cdpgen.build import build
from tests import oracle


class Table(NamedTuple):
    """A table of the generated modules."""

    name: str
    message: type[Message]
    converter: type[Converter[Any]]

    @property
    def program(self) -> Program:
        """Its decode program."""
        return self.converter.program

    def expect(self, payloads: list[bytes | None]) -> oracle.Expected:
        """What the reference converter makes of payloads."""
        return oracle.expect(self.program, self.converter.schema, self.message, payloads)

    def check(self, payloads: list[bytes | None], decoded: Decoded) -> pa.RecordBatch:
        """Asserts that this is what had to come of the payloads, and returns the rows."""
        expected = self.expect(payloads)
        rejected = {bad.row for bad in decoded.rejected}
        wrong = [
            f"row {row}, {(payloads[row] or b'').hex()}: "
            + ("rejected" if row in rejected else "taken, but no valid message")
            for row in sorted(rejected ^ set(expected.rejected))
        ]
        assert not wrong, "\n".join(wrong)
        for bad in decoded.rejected:
            size = len(payloads[bad.row] or b"")
            assert 0 <= bad.offset <= size, f"{bad}, in a payload of {size} bytes"
            assert bad.reason, bad
        for batch in decoded.batches:
            batch.validate(full=True)
        batch = (
            pa.concat_batches(decoded.batches) if decoded.batches else expected.batch.slice(0, 0)
        )
        found = oracle.differences(self.program, self.message, expected, batch)
        assert not found, "\n".join(found)
        return batch


def build_tables(schemas: Path, out: Path) -> dict[str, Table]:
    """Builds a folder of schemas and imports what came of it.

    Args:
        schemas: the folder, which gets a `cdpgen.lock` where it has none.
        out: the package to write; its name must not be imported yet.

    Returns:
        The tables by their names.

    Raises:
        UsageError: the generator refuses the schemas or their rules.
    """
    build(schemas, out)
    sys.path.insert(0, str(out.parent))
    try:
        importlib.invalidate_caches()
        registry: dict[str, tuple[str, str]] = importlib.import_module(out.name).TABLES
        tables = {}
        for name, (module, writer) in registry.items():
            found = getattr(importlib.import_module(module, out.name), writer)
            tables[name] = Table(name, found.message_type(), found.converter)
        return tables
    finally:
        sys.path.remove(str(out.parent))
