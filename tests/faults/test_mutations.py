"""10,000 damaged messages: each is a row or a dead letter, once, as google.protobuf tells them apart."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from google.protobuf.message import DecodeError

from cdp_runtime.positions import runs
from cdpgen.demo_data import contract_data
from generated.stellar.v1.contract_data_pb2 import ContractData
from generated.stellar.v1.contract_data_writer import ContractDataConverter, ContractDataWriter
from tests.faults import checks

MUTATIONS = 10_000


def mutated(payload: bytes, rng: random.Random) -> bytes:
    """A message after one to three accidents."""
    data = bytearray(payload)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice([0, 0x7F, 0x80, 0xFF])
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 12))
            case 3:
                del data[at : at + rng.randint(1, 12)]
            case 4:
                del data[at:]
            case _:
                start = rng.randrange(len(data) + 1)
                data[at:at] = data[start : start + rng.randint(1, 60)]
    return bytes(data)


@pytest.fixture(scope="module")
def payloads() -> list[bytes]:
    rng = random.Random(5)
    valid = [ContractData(**fields).SerializeToString() for fields in contract_data(500, seed=5)]
    return [mutated(rng.choice(valid), rng) for _ in range(MUTATIONS)]


def test_each_is_a_row_or_a_dead_letter_once(payloads: list[bytes], tmp_path: Path) -> None:
    with ContractDataWriter(tmp_path, row_group_mb=0.5, max_open_files=4) as writer:
        for start in range(0, MUTATIONS, 777):
            part = payloads[start : start + 777]
            writer.write_many(part, source="s", positions=range(start, start + len(part)))

    back: dict[int, tuple[bool, bytes]] = {}
    converter = ContractDataConverter()
    for path in checks.files(tmp_path):
        file = pq.ParquetFile(path)
        table = file.read()
        dead = "_dead_letter" in path.parts
        column = (
            table["payload"]
            if dead
            else converter.to_protobuf(table.combine_chunks().to_batches()[0])
        )
        positions = [
            run.first + i
            for run in runs(file.metadata.metadata)
            for i in range(run.count)
            if run.first is not None
        ]
        for position, payload in zip(positions, column.to_pylist(), strict=True):
            assert position not in back
            back[position] = dead, payload

    assert sorted(back) == list(range(MUTATIONS))
    for position, (dead, payload) in back.items():
        try:
            message = ContractData.FromString(payloads[position])
        except DecodeError:
            assert dead, payloads[position].hex()
            assert payload == payloads[position]
        else:
            assert not dead, payloads[position].hex()
            again = ContractData.FromString(payload)
            assert again.SerializeToString(deterministic=True) == message.SerializeToString(
                deterministic=True
            )
    assert 1_000 < sum(dead for dead, _ in back.values()) < MUTATIONS - 1_000
