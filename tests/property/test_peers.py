"""What the fastest peer gets wrong, by name, beside what becomes of the same bytes here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.built import Table
from tests.strategies import VARINT, delimited, tag, varint

ptars = pytest.importorskip("ptars", reason="ptars is not installed: pip install -e '.[bench]'")

LAST_SECOND_OF_9999 = 253_402_300_799


@pytest.fixture
def table(built: dict[str, Table]) -> Table:
    return built["stellar.v1.AssetDetails"]


@pytest.fixture
def peer(table: Table) -> Any:
    return ptars.HandlerPool([table.message.DESCRIPTOR.file]).get_for_message(
        table.message.DESCRIPTOR
    )


class TestOneBadMessage:
    """Three payloads, the second of which is cut short."""

    def payloads(self, table: Table) -> list[bytes]:
        good = table.message(code="USDC").SerializeToString()
        return [good, good[:-1], good]

    def test_the_peer_gives_nothing(self, table: Table, peer: Any) -> None:
        with pytest.raises(Exception, match=r"(?i)decode|buffer|truncated|eof|protobuf"):
            peer.list_to_record_batch(self.payloads(table))

    def test_here_it_is_one_rejected_row(self, table: Table) -> None:
        payloads = self.payloads(table)
        batch = table.check(payloads, table.converter().decode(payloads))
        assert batch.column("code").to_pylist() == ["USDC", "USDC"]


class TestTimestampOfTheYear9999:
    """The last second that a Timestamp may be."""

    def payload(self, table: Table) -> bytes:
        field = table.message.DESCRIPTOR.fields_by_name["timestamp"]
        return delimited(field.number, tag(1, VARINT) + varint(LAST_SECOND_OF_9999))

    def test_the_peer_gives_another_time(self, table: Table, peer: Any) -> None:
        column = peer.list_to_record_batch([self.payload(table)]).column("timestamp")
        assert column.view("int64").to_pylist()[0] == (1 << 63) - 1

    def test_here_it_is_that_second(self, table: Table) -> None:
        payloads = [self.payload(table)]
        batch = table.check(payloads, table.converter().decode(payloads))
        assert batch.column("timestamp").view("int64").to_pylist() == [LAST_SECOND_OF_9999 * 10**6]
        assert batch.column("_raw").to_pylist() == [None]


class TestUnknownFields:
    """A message of a newer schema."""

    def payload(self, table: Table) -> bytes:
        known: bytes = table.message(code="USDC").SerializeToString()
        return known + delimited(999, b"newer")

    def test_with_the_peer_they_vanish(self, table: Table, peer: Any) -> None:
        batch = peer.list_to_record_batch([self.payload(table)])
        back = peer.record_batch_to_array(batch).to_pylist()[0]
        assert b"newer" not in back

    def test_here_they_come_back(self, table: Table) -> None:
        converter: Any = table.converter()
        payload = self.payload(table)
        batch = converter.to_arrow([payload])
        assert batch.column("code").to_pylist() == ["USDC"]
        assert converter.to_protobuf(batch).to_pylist() == [payload]
