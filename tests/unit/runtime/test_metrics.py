"""What a writer counts, seen on a real one."""

from __future__ import annotations

from pathlib import Path

from cdp_runtime.metrics import Metrics
from generated.stellar.v1.event_pb2 import Event
from generated.stellar.v1.event_writer import EventWriter


class TestMetrics:
    def test_everything_begins_at_nothing_and_healthy(self) -> None:
        metrics = Metrics()
        counters = {name: getattr(metrics, name) for name in metrics.__slots__ if name != "lock"}
        assert counters.pop("healthy") is True
        assert set(counters.values()) == {0}
        assert repr(metrics).startswith(
            "Metrics(dead_letters=0, file_bytes=0, files=0, healthy=True, "
        )
        assert "lock" not in repr(metrics)

    def test_a_writer_counts_what_it_took_and_what_it_published(self, tmp_path: Path) -> None:
        payloads = [Event(id="a").SerializeToString(), Event(id="bc").SerializeToString(), b"\xff"]
        with EventWriter(tmp_path) as writer:
            writer.write_many(payloads)
            writer.reject(b"none", "no message")
        metrics = writer.metrics
        assert metrics.messages == 4
        assert metrics.message_bytes == sum(map(len, payloads)) + 4
        assert (metrics.rows, metrics.dead_letters) == (2, 2)
        files = list(tmp_path.rglob("*.parquet"))
        assert metrics.files == len(files) == 2
        assert metrics.file_bytes == sum(path.stat().st_size for path in files)
