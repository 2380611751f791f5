"""Uploads: the runtime's against the client library of each store, the same bytes, the same server, one run.

`.venv/bin/python -m pytest tests/benchmarks/test_stores.py -s` prints the table of docs/stores.md.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_runtime.storage import open_storage, writer_id
from tests.integration.stores import servers
from tests.integration.stores.servers import BUCKET, KEY_ID, SECRET, Server

SIZE = 64 << 20
STEP = 16 << 20
RUNS = 5
DATA = os.urandom(SIZE)

Run = Callable[[int], None]


def runtime(server: Server) -> Run:
    storage = open_storage(server.url("bench"), writer_id(), server.options(server.endpoint))

    def run(number: int) -> None:
        upload = storage.create(f"t/f-w-{number:06}.parquet")
        for start in range(0, SIZE, STEP):
            upload.write(DATA[start : start + STEP])
            upload.drain()
        upload.publish()

    return run


def boto3(server: Server) -> Run:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name="eu-central-1",
    )
    return lambda number: client.upload_fileobj(io.BytesIO(DATA), BUCKET, f"boto3/{number}")


def google_cloud_storage(server: Server) -> Run:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(
        project="test",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": server.endpoint},
    )
    bucket = client.bucket(BUCKET)

    def run(number: int) -> None:  # of a stream, as ours: nobody knows how long it will be
        with bucket.blob(f"google/{number}").open("wb") as file:
            for start in range(0, SIZE, STEP):
                file.write(DATA[start : start + STEP])

    return run


def rates(kinds: dict[str, Run]) -> dict[str, float]:
    """MB/s of each, the median of some runs that take turns."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(RUNS + 1):
        for kind, run in kinds.items():
            began = time.perf_counter()
            run(number)
            if number:  # the first connects
                seconds[kind].append(time.perf_counter() - began)
    return {kind: SIZE / 1e6 / statistics.median(taken) for kind, taken in seconds.items()}


class TestUpload:
    def test_it_has_four_fifths_of_the_speed_of_the_clients_of_s3(self, tmp_path: Path) -> None:
        why = servers.missing("minio")
        if why is not None:
            pytest.skip(why)
        with servers.minio(tmp_path) as server:
            found = rates({"cdpgen": runtime(server), "boto3": boto3(server)})
        print(f"\nS3 (MinIO): {found}")
        assert found["cdpgen"] >= 0.8 * found["boto3"]

    def test_it_has_four_fifths_of_the_speed_of_the_client_of_gcs(self) -> None:
        with servers.gcp_storage_emulator() as server:
            found = rates(
                {
                    "cdpgen": runtime(server),
                    "google-cloud-storage": google_cloud_storage(server),
                }
            )
        print(f"\nGCS (gcp-storage-emulator): {found}")
        assert found["cdpgen"] >= 0.8 * found["google-cloud-storage"]
