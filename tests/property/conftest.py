"""The tables under test, and how long to test them: `HYPOTHESIS_PROFILE=nightly` takes an hour.

Without it (`ci`) the same examples are drawn every time, and all of it takes about a minute.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.built import Table, build_tables

ROOT = Path(__file__).parents[2]

TABLES = {
    "stellar": (
        "stellar.v1.AssetDetails",
        "stellar.v1.ContractData",
        "stellar.v1.Event",
        "stellar.v1.TokenTransferEvent",
    ),
    "kitchen": (
        "kitchen.v1.Dropped",
        "kitchen.v1.Editions",
        "kitchen.v1.Nested",
        "kitchen.v1.Proto2",
        "kitchen.v1.Ruled",
        "kitchen.v1.Scalars",
        "kitchen.v1.WellKnown",
    ),
}
FOLDERS = {"stellar": ROOT / "schemas", "kitchen": Path(__file__).parent / "schemas"}

_common = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# What fails is not made smaller there, which takes minutes: the assertion shows the payload.
_quick = settings(_common, phases=[Phase.explicit, Phase.generate], database=None)
settings.register_profile("ci", _quick, max_examples=50, derandomize=True)
settings.register_profile("nightly", _common, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """All tables of the project and of the kitchen-sink schemas."""
    tables: dict[str, Table] = {}
    for name, folder in FOLDERS.items():
        copy = tmp_path_factory.mktemp(name)
        shutil.copytree(folder, copy / "schemas")
        made = build_tables(copy / "schemas", copy / f"{name}_generated")
        assert sorted(made) == list(TABLES[name])  # so that no new table goes untested
        tables |= made
    return tables


@pytest.fixture(scope="session", params=[name for names in TABLES.values() for name in names])
def table(request: pytest.FixtureRequest, built: dict[str, Table]) -> Table:
    """Each table."""
    return built[request.param]
