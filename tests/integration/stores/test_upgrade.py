"""`cdpgen upgrade` dies in the midst of a request to the store; run again it goes on, each row there once."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import cdp_runtime
from cdp_runtime.patience import Patience
from cdp_runtime.upgrade import upgrade
from tests.integration.stores import proxy
from tests.integration.stores.conftest import Archive
from tests.integration.stores.proxy import Proxy, Request
from tests.integration.stores.test_faults import behind
from tests.versions import History

TABLE = "shop.v1.Order"
OLD = 'syntax = "proto3"; package shop.v1; message Order { int32 number = 1; }'
NEW = 'syntax = "proto3"; package shop.v1; message Order { int64 number = 1; string note = 2; }'
FILES = 3
ROWS = [
    {"number": file * 100 + row + (1 << 33) * (row % 2), "note": f"{row}"}
    for file in range(FILES)
    for row in range(50)
]


@pytest.fixture
def orders(tmp_path: Path) -> History:
    """Files of an older writer on a disk; half of the numbers do not fit its column, no note has one."""
    history = History(tmp_path, TABLE)
    history.build(OLD)
    history.build(NEW)
    for file in range(FILES):
        history.write(*ROWS[file * 50 : file * 50 + 50], version=1)
    return history


def put(orders: History, archive: Archive) -> None:
    archive.filesystem.put(str(orders.archive / TABLE), f"{archive.root}/{TABLE}", recursive=True)


def versions(archive: Archive) -> list[str]:
    """The versions of the files that a reader sees, by their paths."""
    found = []
    for name in archive.names():
        if name.startswith(TABLE):
            with archive.filesystem.open(f"{archive.root}/{name}") as file:
                found.append((pq.read_metadata(file).metadata or {})[b"cdpgen.version"].decode())
    return found


def rows(archive: Archive, orders: History) -> list[dict[str, object]]:
    """What a reader sees, in the order of the numbers' last digits."""
    generated = orders.today.generated
    opened = cdp_runtime.open_archive(
        archive.url, TABLE, generated=generated, storage_options=archive.options
    )
    found = opened.to_table(columns=["number", "note"]).to_pylist()
    return sorted(found, key=lambda row: row["number"] % (1 << 33))


def replaces(request: Request) -> bool:
    """Whether this puts a file in place of an old one."""
    return (request.method == "PUT" and f"/{TABLE}/" in request.path) or (
        request.method == "POST" and "uploadType=multipart" in request.path
    )


def killed(
    archive: Archive,
    orders: History,
    wall: Proxy,
    *,
    arrives: bool,
) -> None:
    """Upgrades until the first file is replaced; SIGKILL then, whether or not that arrives."""
    once = threading.Lock()

    def choose(request: Request) -> str | None:
        if replaces(request) and once.acquire(blocking=False):
            process.send_signal(signal.SIGKILL)
            return "reset-after" if arrives else "reset"
        return None

    wall.choose = choose
    command = [sys.executable, "-m", "cdpgen", "upgrade", archive.url]
    command += ["--generated", str(orders.today.generated)]
    protocol = archive.url.partition("://")[0].upper()
    environment = {**os.environ, f"FSSPEC_{protocol}": json.dumps(archive.options)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, _ = process.communicate(timeout=40)
    assert process.returncode == -signal.SIGKILL, said
    wall.settle()


@pytest.mark.parametrize("archive", ["moto", "gcp-storage-emulator"], indirect=True)
def test_killed_before_and_after_a_file_is_replaced_and_run_again_it_has_every_row_once(
    archive: Archive, orders: History
) -> None:
    put(orders, archive)
    assert rows(archive, orders) == ROWS
    assert archive.server is not None
    upgraded = []
    with proxy.before(archive.server.endpoint) as wall:
        walled = behind(archive.server, wall, archive.root.partition("/")[2])
        for arrives in (False, True):
            killed(walled, orders, wall, arrives=arrives)
            upgraded.append(versions(archive).count("2"))
            assert rows(archive, orders) == ROWS
    assert upgraded == [0, 1]
    generated = orders.today.generated
    done = list(upgrade(archive.url, generated=generated, storage_options=archive.options))
    assert sorted(file.rows for file in done) == [0, 50, 50]
    assert versions(archive) == ["2"] * FILES
    assert rows(archive, orders) == ROWS
    assert [name for name in archive.names() if not name.startswith(TABLE)] == []


def upgraded_behind_a_wall(
    archive: Archive, orders: History, choose: Callable[[Request], str | None]
) -> list[tuple[str, str]]:
    """Upgrades all files though the store fails as chosen; how, and which requests it spoiled."""
    put(orders, archive)
    assert archive.server is not None
    with proxy.before(archive.server.endpoint) as wall:
        walled = behind(archive.server, wall, archive.root.partition("/")[2])
        wall.choose = choose
        generated = orders.today.generated
        done = list(upgrade(walled.url, generated=generated, storage_options=walled.options))
    assert [(file.rows, file.problem) for file in done] == [(50, "")] * FILES
    return wall.spoiled


@pytest.mark.parametrize("archive", ["moto", "gcp-storage-emulator"], indirect=True)
def test_where_the_answer_to_each_request_that_changes_something_is_lost_it_comes_to_its_end(
    archive: Archive, orders: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Patience, "FIRST_WAIT", 0.01)
    attempts = itertools.count()

    def choose(request: Request) -> str | None:
        return "reset-after" if replaces(request) and not next(attempts) % 2 else None

    spoiled = upgraded_behind_a_wall(archive, orders, choose)
    assert len(spoiled) == FILES
    assert versions(archive) == ["2"] * FILES
    assert rows(archive, orders) == ROWS
    assert [name for name in archive.names() if name.startswith("_tmp")] == []


@pytest.mark.parametrize("archive", ["moto", "gcp-storage-emulator"], indirect=True)
@pytest.mark.parametrize("fault", ["truncate", "503"])
def test_what_fails_in_a_way_that_passes_while_it_is_read_is_read_again(
    archive: Archive, orders: History, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Patience, "FIRST_WAIT", 0.01)
    attempts = itertools.count()

    def choose(request: Request) -> str | None:
        return fault if request.method == "GET" and next(attempts) % 2 else None

    spoiled = upgraded_behind_a_wall(archive, orders, choose)
    assert len(spoiled) >= FILES
    assert rows(archive, orders) == ROWS
