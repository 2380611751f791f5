"""`pytest tests/unit/generator --update` writes the expected files anew, for a look at their
diff.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write what the golden tests expect")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether the expected files are to be written anew."""
    return bool(request.config.getoption("--update", default=False))
