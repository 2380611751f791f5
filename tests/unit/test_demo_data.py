"""The streams of `cdpgen demo` look like those of the network whose records they stand in for."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import struct
from binascii import crc_hqx
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cdpgen import demo_data

REAL = Path(__file__).parents[3] / "shared/data/contract_data.ndjson"


def take(stream: str, records: int = 3_000, seed: int = 7) -> list[dict[str, Any]]:
    return list(getattr(demo_data, stream)(records, seed))


class ScVals:
    """Reads ScVals from XDR into what their JSON says: the format read the other way round."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        assert len(part) == size, "the XDR ends too early"
        self.at += size
        return part

    def int(self) -> int:
        return int(struct.unpack(">I", self.take(4))[0])

    def text(self) -> str:
        size = self.int()
        padded = self.take(size + -size % 4)
        assert not any(padded[size:])
        return padded[:size].decode()

    def address(self) -> str:
        contract = self.int() == 1
        if not contract:
            assert self.int() == 0
        return strkey("C" if contract else "G", self.take(32))

    def entries(self) -> list[dict[str, Any]]:
        return [{"key": self.value(), "val": self.value()} for _ in range(self.int())]

    def value(self) -> Any:
        kind = self.int()
        match kind:
            case 0:
                return {"bool": self.int() == 1}
            case 1:
                return "void"
            case 3:
                return {"u32": self.int()}
            case 5:
                return {"u64": str(int.from_bytes(self.take(8)))}
            case 9:
                return {"u128": str(int.from_bytes(self.take(16)))}
            case 10:
                return {"i128": str(int.from_bytes(self.take(16), signed=True))}
            case 14:
                return {"string": self.text()}
            case 15:
                return {"symbol": self.text()}
            case 16:
                assert self.int() == 1
                return {"vec": [self.value() for _ in range(self.int())]}
            case 17:
                assert self.int() == 1
                return {"map": self.entries()}
            case 18:
                return {"address": self.address()}
            case 19:
                executable: Any = (
                    {"wasm": self.take(32).hex()} if self.int() == 0 else "stellar_asset"
                )
                assert self.int() == 1
                return {"contract_instance": {"executable": executable, "storage": self.entries()}}
            case 20:
                return "ledger_key_contract_instance"
        raise AssertionError(f"no ScVal of type {kind}")


def scval(text: str) -> Any:
    reader = ScVals(base64.b64decode(text, validate=True))
    value = reader.value()
    assert reader.at == len(reader.data)
    return value


def strkey(letter: str, raw: bytes) -> str:
    versioned = bytes([{"C": 16, "G": 48}[letter]]) + raw
    return base64.b32encode(versioned + crc_hqx(versioned, 0).to_bytes(2, "little")).decode()


def is_strkey(text: str, letters: str = "CG") -> bool:
    return text[0] in letters and strkey(text[0], base64.b32decode(text)[1:33]) == text


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")
def test_this_reader_of_xdr_agrees_with_the_json_of_mainnet_records() -> None:
    for line in REAL.read_text().splitlines():
        record = json.loads(line)
        assert scval(record["key"]) == record["key_decoded"]
        assert scval(record["val"]) == record["val_decoded"]


@pytest.mark.parametrize("stream", ["contract_data", "events"])
class TestBothStreams:
    def test_the_same_seed_gives_the_same_messages(self, stream: str) -> None:
        assert take(stream, seed=3) == take(stream, seed=3)

    def test_another_seed_gives_other_messages(self, stream: str) -> None:
        assert take(stream, seed=3) != take(stream, seed=4)

    def test_fewer_records_are_the_beginning_of_more(self, stream: str) -> None:
        assert take(stream, 500) == take(stream)[:500]

    @pytest.mark.parametrize("records", [0, 1, 777])
    def test_there_are_as_many_messages_as_asked_for(self, stream: str, records: int) -> None:
        assert len(take(stream, records)) == records

    def test_a_few_contracts_have_much_of_the_traffic_and_many_have_some(self, stream: str) -> None:
        counts = Counter(fields["contract_id"] for fields in take(stream, 20_000))
        top = sum(count for _, count in counts.most_common(10))
        assert 0.2 < top / 20_000 < 0.6
        assert 1_000 < len(counts) < 4_000


class TestContractData:
    def test_ledgers_come_in_order_five_or_six_seconds_apart_but_for_a_few_late(self) -> None:
        records = take("contract_data", 20_000)
        first = records[0]["ledger_sequence"]
        late = [fields for fields in records if fields["ledger_sequence"] < first]
        assert len(late) == 4
        assert all(
            records[0]["closed_at"]["seconds"] - fields["closed_at"]["seconds"] > 80_000
            for fields in late
        )
        ledgers = {
            (fields["ledger_sequence"], fields["closed_at"]["seconds"])
            for fields in records
            if fields["ledger_sequence"] >= first
        }
        assert [number for number, _ in sorted(ledgers)] == list(range(first, first + len(ledgers)))
        for (_, before), (_, after) in itertools.pairwise(sorted(ledgers)):
            assert after - before in (5, 6)
        in_order = [f["ledger_sequence"] for f in records if f["ledger_sequence"] >= first]
        assert in_order == sorted(in_order)
        assert 150 < len(records) / len(ledgers) < 250

    def test_the_json_of_key_and_value_says_what_their_xdr_says(self) -> None:
        for fields in take("contract_data"):
            assert scval(fields["key"]) == json.loads(fields["key_decoded"])
            assert scval(fields["val"]) == json.loads(fields["val_decoded"])

    def test_the_entry_holds_contract_key_durability_and_value(self) -> None:
        for fields in take("contract_data"):
            reader = ScVals(base64.b64decode(fields["contract_data_xdr"]))
            assert reader.int() == 0
            assert reader.address() == fields["contract_id"]
            assert reader.value() == json.loads(fields["key_decoded"])
            durability = ["Temporary", "Persistent"][reader.int()]
            assert fields["contract_durability"] == f"ContractDataDurability{durability}"
            assert reader.value() == json.loads(fields["val_decoded"])

    def test_the_key_hash_is_that_of_the_ledger_key(self) -> None:
        for fields in take("contract_data"):
            ledger_key = base64.b64decode(fields["ledger_key_hash_base_64"])
            assert hashlib.sha256(ledger_key).hexdigest() == fields["ledger_key_hash"]

    def test_balances_are_those_of_asset_contracts_and_their_xdr_holds_the_same_amount(
        self,
    ) -> None:
        balances = [fields for fields in take("contract_data") if fields["balance"]]
        assert 0.25 < len(balances) / 3_000 < 0.6
        for fields in balances:
            assert is_strkey(fields["balance_holder"])
            amount = json.loads(fields["val_decoded"])["map"][0]["val"]["i128"]
            assert amount == fields["balance"]

    def test_assets_stand_on_the_instances_of_asset_contracts(self) -> None:
        instances = [f for f in take("contract_data", 10_000) if f["asset_code"]]
        assert instances
        for fields in instances:
            assert fields["key_decoded"] == '"ledger_key_contract_instance"'
            long_code = len(fields["asset_code"]) > 4
            assert fields["asset_type"] == f"credit_alphanum{12 if long_code else 4}"
            assert is_strkey(fields["asset_issuer"], "G")

    def test_an_entry_is_created_then_updated_and_what_is_removed_was_there(self) -> None:
        there: dict[str, int] = {}
        changes: Counter[int] = Counter()
        for fields in take("contract_data", 20_000):
            change, name = fields["ledger_entry_change"], fields["ledger_key_hash"]
            changes[change] += 1
            assert (change == 0) == (name not in there)
            assert fields["deleted"] == (change == 2)
            if change == 2:
                assert fields["last_modified_ledger"] == there.pop(name)
            else:
                assert fields["last_modified_ledger"] == fields["ledger_sequence"]
                there[name] = fields["ledger_sequence"]
        assert set(changes) == {0, 1, 2}


class TestEvents:
    def test_topics_and_value_are_xdr_and_addresses_are_strkeys(self) -> None:
        shapes: Counter[str] = Counter()
        for fields in take("events"):
            topic = [scval(item) for item in fields["topic"]]
            assert 1 <= len(topic) <= 4
            shapes[json.dumps(topic[0])] += 1
            scval(fields["value"])
            assert is_strkey(fields["contract_id"], "C")
            assert len(bytes.fromhex(fields["tx_hash"])) == 32
        assert len(shapes) >= 4

    def test_ids_tell_the_ledger_and_never_repeat(self) -> None:
        records = take("events", 20_000)
        assert len({fields["id"] for fields in records}) == len(records)
        for fields in records:
            operation, _, index = fields["id"].partition("-")
            assert (len(operation), len(index)) == (19, 10)
            assert int(operation) >> 32 == fields["ledger"]
            assert fields["paging_token"] == fields["id"]

    def test_only_diagnostic_events_come_from_failed_calls(self) -> None:
        for fields in take("events"):
            assert fields["in_successful_contract_call"] or fields["type"] == 3


class TestCorrupt:
    @pytest.mark.parametrize("kind", [0, 1, 2])
    @pytest.mark.parametrize("stream", ["contract_data", "events"])
    def test_no_parser_takes_a_corrupt_message(self, stream: str, kind: int) -> None:
        from google.protobuf.message import DecodeError

        from generated.stellar.v1.contract_data_pb2 import ContractData
        from generated.stellar.v1.event_pb2 import Event

        message_type: Any = ContractData if stream == "contract_data" else Event
        for fields in take(stream, 200):
            payload = message_type(**fields).SerializeToString()
            assert message_type.FromString(payload) == message_type(**fields)
            with pytest.raises(DecodeError):
                message_type.FromString(demo_data.corrupt(payload, kind))
