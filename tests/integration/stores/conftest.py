"""The stores of the suite, each started once, and a fresh archive in each for every test."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pytest

from tests.integration.stores import servers
from tests.integration.stores.servers import Server

SERVERS = ["moto", "minio", "gcp-storage-emulator", "fake-gcs-server"]


class Archive(NamedTuple):
    """Where a test may write: a URL, its options, and a filesystem to look behind the runtime's back."""

    store: str
    url: str
    options: dict[str, Any]
    filesystem: Any
    root: str
    server: Server | None

    def names(self) -> list[str]:
        """What lies there, as a stranger sees it."""
        self.filesystem.invalidate_cache()
        return sorted(
            name.removeprefix(self.root).lstrip("/")
            for name in self.filesystem.find(self.root)
            if not name.endswith(".lock")
        )

    def read(self, name: str) -> bytes:
        data: bytes = self.filesystem.cat_file(f"{self.root}/{name}")
        return data


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """The servers that tests have asked for."""
    with contextlib.ExitStack() as stack:
        yield Running(stack, tmp_path_factory)


class Running(dict[str, Server]):
    def __init__(self, stack: contextlib.ExitStack, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._stack = stack
        self._folders = folders

    def __missing__(self, name: str) -> Server:
        start: Any = {
            "moto": servers.moto,
            "minio": lambda: servers.minio(self._folders.mktemp("minio")),
            "gcp-storage-emulator": servers.gcp_storage_emulator,
            "fake-gcs-server": servers.fake_gcs_server,
        }[name]
        self[name] = self._stack.enter_context(start())
        return self[name]


def server_of(running: dict[str, Server], name: str) -> Server:
    why = servers.missing(name)
    if why is not None:
        pytest.skip(why)
    return running[name]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, running: dict[str, Server]) -> Server:
    """Each server in turn."""
    return server_of(running, request.param)


@pytest.fixture(params=["local", "memory", *SERVERS])
def archive(request: pytest.FixtureRequest, running: dict[str, Server], tmp_path: Path) -> Archive:
    """A fresh archive in each kind of store in turn."""
    name, folder = request.param, uuid.uuid4().hex[:12]
    if name == "local":
        root = str(tmp_path / "archive")
        return Archive(name, root, {}, fsspec.filesystem("file"), root, None)
    if name == "memory":
        return Archive(
            name, f"memory://{folder}", {}, fsspec.filesystem("memory"), f"/{folder}", None
        )
    return on(server_of(running, name), folder)


def on(server: Server, folder: str, endpoint: str | None = None) -> Archive:
    """An archive on a server, reached at its own address or at that of a proxy before it."""
    return Archive(
        server.name,
        server.url(folder),
        server.options(endpoint or server.endpoint),
        server.filesystem(),
        f"{servers.BUCKET}/{folder}",
        server,
    )
