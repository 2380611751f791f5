"""A journal is for one archive: where two stores have the same bucket and folder, for that in its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cdp_runtime.journal import Frame, Journal, encode
from cdp_runtime.storage import open_storage
from generated.stellar.v1.event_writer import EventWriter
from tests.faults.failing_store import FailingStore
from tests.integration.stores import servers
from tests.integration.stores.conftest import on, server_of
from tests.integration.stores.servers import KEY_ID, SECRET, gcs_options, s3_options
from tests.integration.stores.test_stores import event, ids_in

pytestmark = pytest.mark.timeout(60)

HERE, THERE = "http://127.0.0.1:9000", "http://127.0.0.1:9001"


def store(url: str, options: dict[str, Any]) -> str:
    """What tells the store of an archive from others."""
    storage: Any = open_storage(url, None, {**options, "skip_instance_cache": True})
    told: str = storage.store()
    return told


class TestStore:
    def test_an_endpoint_tells_wherever_the_client_has_it_from(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        s3, gs = s3_options(HERE), gcs_options(HERE)
        assert store("s3://b/f", s3) == store("gs://b/f", gs) == "127.0.0.1:9000"
        del s3["endpoint_url"], gs["endpoint_url"]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"{THERE}/")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", THERE)
        assert store("s3a://b/f", s3) == store("gcs://b/f", gs) == "127.0.0.1:9001"
        assert (
            store("s3://b/f", {**s3, "client_kwargs": {"endpoint_url": HERE}}) == "127.0.0.1:9000"
        )

    def test_it_holds_no_secret(self) -> None:
        endpoint = f"http://{KEY_ID}:{SECRET}@Minio:9000/s3/?token={SECRET}"
        assert store("s3://b/f", s3_options(endpoint)) == "minio:9000/s3"

    @pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
    def test_the_regions_of_amazon_are_one_store(
        self, region: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        for s3 in ({}, {"use_dualstack_endpoint": True}):
            options = {"anon": True, "client_kwargs": {"region_name": region}}
            assert store("s3://b/f", {**options, "config_kwargs": {"s3": s3}}) == "aws"

    def test_google_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        assert store("gs://b/f", {"token": "anon"}) == "googleapis.com"

    def test_of_other_stores_accounts_and_hosts_tell(self) -> None:
        assert FailingStore.protocol == "failing"
        assert store("failing://b/f", {}) == ""
        assert store("failing://b/f", {"account_name": "one", "account_key": SECRET}) == "one"
        assert store("failing://b/f", {"host": "one", "port": 22}) == "one 22"


def test_what_was_left_for_one_store_is_not_published_in_another(
    running: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = on(server_of(running, "moto"), "twice")
    left = Journal(
        tmp_path, EventWriter.table, "w", here.url, 1 << 20, store(here.url, here.options)
    )
    left.append(encode(Frame("s", [event(1)], range(1))), 1)
    left.close()
    with servers.moto() as other:
        there = on(other, "twice")
        assert there.url == here.url
        EventWriter(there.url, storage_options=there.options, journal=tmp_path).close()
        [told] = map(json.loads, capfd.readouterr().err.splitlines())
        assert told["journal"] == str(tmp_path / EventWriter.table / "w")
        assert there.names() == []
    url = here.url.replace("s3://", "s3a://")
    EventWriter(url, storage_options=here.options, journal=tmp_path).close()
    assert ids_in(here) == Counter(["000000001"])
    assert not list(tmp_path.glob("*/*"))
