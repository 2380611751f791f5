"""Mainnet records in JSON lines go through `cdpgen archive`; three engines read them back whole.

Small schemas name what the records hold, as the JSON of stellar-etl nests decoded values where its
protobuf has text. What an engine reads is put back into the form of the JSON and compared with it,
every value of every record.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

REAL_DATA = Path(os.environ.get("CDPGEN_REAL_DATA", Path(__file__).parents[3] / "shared/data"))
CDPGEN = Path(sys.executable).with_name("cdpgen")

pytestmark = pytest.mark.skipif(
    not REAL_DATA.is_dir(),
    reason=f"the real records are not in {REAL_DATA}; CDPGEN_REAL_DATA may say where they are",
)

Row = dict[str, Any]
Back = Callable[[Any], Any]


def second(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digits(value: Decimal | None) -> str:
    return "" if value is None else str(value)


def base64_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


CHANGES = {
    name: number
    for number, name in enumerate(["CREATED", "UPDATED", "REMOVED", "STATE", "RESTORED"])
}


@dataclass(frozen=True)
class Case:
    """A file of records, its table, and for columns of another form than the JSON the way back."""

    file: str
    records: int
    table: str
    back: Mapping[str, Back] = field(default_factory=dict)


SCHEMAS = Path(__file__).with_name("real_data_schemas")
CASES = [
    Case(
        "contract_data.ndjson",
        84,
        "stellar_etl.v1.ContractData",
        {
            "closed_at": second,
            "balance": digits,
            "ledger_entry_change": CHANGES.__getitem__,
            "ledger_key_hash": bytes.hex,
            "key": base64_text,
            "val": base64_text,
            "contract_data_xdr": base64_text,
            "ledger_key_hash_base_64": base64_text,
            "key_decoded": json.loads,
            "val_decoded": json.loads,
        },
    ),
    Case(
        "token_transfers.ndjson",
        668,
        "stellar_etl.v1.TokenTransfer",
        {
            "closed_at": second,
            "amount_raw": digits,
            "to_muxed_id": lambda value: None if value is None else str(value),
            "transaction_hash": bytes.hex,
        },
    ),
    Case("assets.ndjson", 48, "stellar_etl.v1.Asset", {"closed_at": second}),
]


def with_pyarrow(files: list[str]) -> list[Row]:
    return ds.dataset(files, partitioning=None).to_table().to_pylist()


def with_duckdb(files: list[str]) -> list[Row]:
    with duckdb.connect() as connection:
        found = connection.read_parquet(files, hive_partitioning=False)
        rows: list[Row] = found.to_arrow_table().to_pylist()
        return rows


def with_polars(files: list[str]) -> list[Row]:
    return pl.read_parquet(files, hive_partitioning=False).to_dicts()


ENGINES = [with_pyarrow, with_duckdb, with_polars]


@dataclass(frozen=True)
class Archived:
    case: Case
    root: Path
    output: str

    def files(self) -> list[str]:
        return sorted(str(path) for path in (self.root / self.case.table).rglob("*.parquet"))

    def as_json(self, engine: Callable[[list[str]], list[Row]]) -> list[Row]:
        return in_order(
            {
                name: self.case.back[name](value) if name in self.case.back else value
                for name, value in row.items()
                if name != "_raw"
            }
            for row in engine(self.files())
        )


def in_order(rows: Iterator[Row]) -> list[Row]:
    """Records in an order of their own: an archive sorts and splits, and keeps none of a file's."""
    return sorted(rows, key=lambda row: json.dumps({**row, "amount": 0}, sort_keys=True))


def cdpgen(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CDPGEN, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.file)
def archived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Archived:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("real_data")
    schemas, generated, archive = folder / "schemas", folder / "generated", folder / "archive"
    # A copy, as a build writes the lock beside the schemas.
    shutil.copytree(SCHEMAS, schemas)
    built = cdpgen("build", schemas, "--out", generated)
    assert built.returncode == 0, built.stderr
    run = cdpgen(
        *("archive", "--table", case.table, "--generated", generated),
        *("--from", REAL_DATA / case.file, "--to", archive),
    )
    assert run.returncode == 0, run.stderr
    return Archived(case, archive, run.stdout + run.stderr)


def records(case: Case) -> list[Row]:
    lines = (REAL_DATA / case.file).read_text().splitlines()
    return in_order(json.loads(line) for line in lines)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_record_comes_out_with_the_values_of_the_input(
    archived: Archived, engine: Callable[[list[str]], list[Row]]
) -> None:
    expected = records(archived.case)
    found = archived.as_json(engine)
    assert len(found) == len(expected) == archived.case.records
    for row, record in zip(found, expected, strict=True):
        assert row == record


@pytest.mark.parametrize("engine", ENGINES)
def test_the_columns_hold_every_record_without_its_original_bytes(
    archived: Archived, engine: Callable[[list[str]], list[Row]]
) -> None:
    assert all(row["_raw"] is None for row in engine(archived.files()))


def test_no_record_is_a_dead_letter(archived: Archived) -> None:
    assert not list((archived.root / "_dead_letter").rglob("*.parquet"))
