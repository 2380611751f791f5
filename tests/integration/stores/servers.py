"""Real servers of object stores, on loopback, on free ports; each ends with the block that started it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from gcsfs.core import GCSFileSystem

BUCKET = "archive"
KEY_ID, SECRET = "canary-key-id", "canary-secret-access-key"


class Server(NamedTuple):
    """A server that runs: its address, and how fsspec reaches its bucket at another address.

    The other address is that of a proxy before it.
    """

    name: str
    protocol: str
    endpoint: str
    options: Callable[[str], dict[str, Any]]

    def url(self, folder: str) -> str:
        return f"{self.protocol}://{BUCKET}/{folder}"

    def filesystem(self) -> Any:
        options = self.options(self.endpoint)
        if self.protocol == "gs":
            return GCSFileSystem(skip_instance_cache=True, **options)
        return fsspec.filesystem(self.protocol, skip_instance_cache=True, **options)


def s3_options(endpoint: str) -> dict[str, Any]:
    return {
        "endpoint_url": endpoint,
        "key": KEY_ID,
        "secret": SECRET,
        "client_kwargs": {"region_name": "eu-central-1"},
    }


def gcs_options(endpoint: str) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "token": "anon", "project": "test"}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def missing(name: str) -> str | None:
    """Why a server cannot run here; None when it can."""
    if name in ("minio", "fake-gcs-server") and binary(name) is None:
        return f"{name} is not here; with Go installed: make servers"
    return None


def binary(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


@contextlib.contextmanager
def moto() -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, f"http://127.0.0.1:{port}/moto-api/") as endpoint:
        yield made(Server("moto", "s3", endpoint, s3_options))


@contextlib.contextmanager
def minio(folder: Path) -> Iterator[Server]:
    port, console = free_port(), free_port()
    command = [str(binary("minio")), "server", "--quiet", "--address", f"127.0.0.1:{port}"]
    command += ["--console-address", f"127.0.0.1:{console}", str(folder)]
    account = {"MINIO_ROOT_USER": KEY_ID, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off"}
    with running(command, f"http://127.0.0.1:{port}/minio/health/live", account) as endpoint:
        yield made(Server("minio", "s3", endpoint, s3_options))


@contextlib.contextmanager
def gcp_storage_emulator() -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--default-bucket", BUCKET]
    with running(command, f"http://127.0.0.1:{port}/storage/v1/b?project=test") as endpoint:
        yield Server("gcp-storage-emulator", "gs", endpoint, gcs_options)


@contextlib.contextmanager
def fake_gcs_server() -> Iterator[Server]:
    port = free_port()
    command = [str(binary("fake-gcs-server")), "-scheme", "http", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-backend", "memory"]
    command += ["-external-url", f"http://127.0.0.1:{port}", "-log-level", "error"]
    with running(command, f"http://127.0.0.1:{port}/storage/v1/b?project=test") as endpoint:
        yield made(Server("fake-gcs-server", "gs", endpoint, gcs_options))


@contextlib.contextmanager
def running(
    command: list[str], ready: str, environment: dict[str, str] | None = None
) -> Iterator[str]:
    """Runs a server until the block ends; gives its address once it answers."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(ready, timeout=2).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not answer at {ready}") from None
                time.sleep(0.05)
        yield ready[: ready.index("/", len("http://"))]
    finally:
        process.kill()
        process.wait()


def made(server: Server) -> Server:
    server.filesystem().mkdir(BUCKET)
    return server
