"""Realistic messages of the shapes in schemas/cdpgen_bench/v1/shapes.proto, from a fixed seed."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from google.protobuf.message import Message

CLOSED_AT = 1_713_730_569  # the close of ledger 51,340,657
LEDGER = 51_340_657


class Shape(NamedTuple):
    """One row of the tables: what is measured, and how many messages a batch has."""

    title: str
    message: str
    rows: int
    fill: Callable[[random.Random, Message], None]


def _address(rng: random.Random, kind: str) -> str:
    return kind + base64.b32encode(rng.randbytes(35)).decode()[1:56]


class _People:
    """Accounts and contracts, of which few appear often, as on the network."""

    def __init__(self, rng: random.Random) -> None:
        self.accounts = [_address(rng, "G") for _ in range(5_000)]
        self.contracts = [_address(rng, "C") for _ in range(400)]
        self.codes = ["USDC", "AQUA", "yXLM", "EURC", "SHX", "VELO", "XRP", "BTC"]

    def account(self, rng: random.Random) -> str:
        return self.accounts[int(len(self.accounts) * rng.random() ** 3)]

    def contract(self, rng: random.Random) -> str:
        return self.contracts[int(len(self.contracts) * rng.random() ** 3)]


_PEOPLE = _People(random.Random(7))


def _contract_data(rng: random.Random, message: Any) -> None:
    balance = rng.random() < 0.4
    message.contract_id = _PEOPLE.contract(rng)
    message.contract_key_type = "ScValTypeScvVec" if rng.random() < 0.8 else "ScValTypeScvSymbol"
    message.contract_durability = rng.choice(
        ("ContractDataDurabilityPersistent", "ContractDataDurabilityTemporary")
    )
    if balance:
        message.asset_code = rng.choice(_PEOPLE.codes)
        message.asset_issuer = _PEOPLE.account(rng)
        message.asset_type = (
            "AssetTypeAssetTypeCreditAlphanum4"
            if len(message.asset_code) <= 4
            else "AssetTypeAssetTypeCreditAlphanum12"
        )
        message.balance_holder = _PEOPLE.contract(rng)
        message.balance = str(rng.randrange(10 ** rng.randrange(1, 16)))
    message.last_modified_ledger = LEDGER + rng.randrange(64)
    message.ledger_entry_change = rng.randrange(3)
    message.deleted = rng.random() < 0.05
    message.closed_at.seconds = CLOSED_AT + rng.randrange(600)
    message.ledger_sequence = LEDGER + rng.randrange(64)
    message.ledger_key_hash = rng.randbytes(32).hex()


def _contract_data_xdr(rng: random.Random, message: Any) -> None:
    _contract_data(rng, message)
    message.key = base64.b64encode(rng.randbytes(rng.randrange(20, 60))).decode()
    message.key_decoded = json.dumps(
        {"vec": [{"symbol": "Balance"}, {"address": message.contract_id}]}
    )
    message.val = base64.b64encode(rng.randbytes(rng.randrange(40, 240))).decode()
    message.val_decoded = json.dumps(
        {"map": [{"key": {"symbol": "amount"}, "val": {"i128": str(rng.randrange(10**12))}}]}
    )
    message.contract_data_xdr = base64.b64encode(rng.randbytes(rng.randrange(120, 400))).decode()


def _event(rng: random.Random, message: Any) -> None:
    message.type = rng.choice((1, 1, 1, 2, 3))
    message.ledger = LEDGER + rng.randrange(64)
    message.ledger_closed_at.seconds = CLOSED_AT + rng.randrange(600)
    message.contract_id = _PEOPLE.contract(rng)
    operation = rng.randrange(10**18)
    message.id = f"{operation:019d}-{rng.randrange(20):010d}"
    message.paging_token = message.id
    for kind in ("symbol", "address", "address", "string")[: rng.randrange(1, 5)]:
        size = 16 if kind == "symbol" else 40
        message.topic.add(type=kind, value=rng.randbytes(size))
    message.value = rng.randbytes(rng.randrange(16, 120))
    message.in_successful_contract_call = rng.random() < 0.97
    message.tx_hash = rng.randbytes(32)
    for name in ("network", "source", "operation_type")[: rng.randrange(4)]:
        message.attributes[name] = rng.choice(("pubnet", "horizon", "invoke_host_function"))


def _asset(rng: random.Random, asset: Any) -> None:
    if rng.random() < 0.4:
        asset.native = True
    else:
        asset.issued_asset.asset_code = rng.choice(_PEOPLE.codes)
        asset.issued_asset.issuer = _PEOPLE.account(rng)


def _token_transfer(rng: random.Random, message: Any) -> None:
    message.meta.ledger_sequence = LEDGER + rng.randrange(64)
    message.meta.closed_at.seconds = CLOSED_AT + rng.randrange(600)
    message.meta.tx_hash = rng.randbytes(32).hex()
    message.meta.transaction_index = rng.randrange(400)
    if rng.random() < 0.8:
        message.meta.operation_index = rng.randrange(100)
    message.meta.contract_address = _PEOPLE.contract(rng)
    kind = rng.choices(("transfer", "fee", "mint", "burn", "clawback"), (50, 35, 8, 6, 1))[0]
    event = getattr(message, kind)
    if kind != "mint":
        setattr(event, "from", _PEOPLE.account(rng))
    if kind in ("transfer", "mint"):
        event.to = _PEOPLE.account(rng)
    _asset(rng, event.asset)
    event.amount = str(rng.randrange(10 ** rng.randrange(2, 14)))


def _sparse(rng: random.Random, message: Any) -> None:
    for number in rng.sample(range(1, 101), 10):
        field = message.DESCRIPTOR.fields_by_number[number]
        kind = (number - 1) % 14
        value: object = rng.randrange(1, 1 << rng.randrange(1, 31))
        if kind in (10, 11):
            value = rng.random() * 1e6
        elif kind == 12:
            value = True
        elif kind == 13:
            value = rng.choice(_PEOPLE.codes)
        setattr(message, field.name, value)


def _packed(rng: random.Random, message: Any) -> None:
    position = rng.randrange(1 << 40)
    for _ in range(250):
        position += rng.randrange(1, 4_000)
        message.positions.append(position)
        message.prices.append(rng.random() * 100)
        message.counts.append(rng.randrange(1 << rng.randrange(1, 20)))
        message.deltas.append(rng.randrange(-1_000, 1_000))


def _depth(rng: random.Random, message: Any) -> None:
    message.id = f"node-{rng.randrange(1 << 32):08x}"

    def grow(parent: Any, depth: int) -> None:
        for _ in range(rng.randrange(1, 4) if depth < 6 else 2):
            child = parent.children.add()
            if depth == 4:
                child.name = f"leaf-{rng.randrange(1000)}"
            elif depth == 6:
                child.value = rng.randrange(1 << 40)
                child.weight = rng.random()
            else:
                child.key = rng.randrange(1 << 16)
            if depth < 6:
                grow(child, depth + 1)

    grow(message, 2)


SHAPES = (
    Shape("contract data (flat, strings)", "ContractData", 10_000, _contract_data),
    Shape("contract data with XDR and JSON", "ContractData", 5_000, _contract_data_xdr),
    Shape("events (nested repeated, map, bytes)", "Event", 10_000, _event),
    Shape("token transfers (oneof of messages)", "TokenTransfer", 10_000, _token_transfer),
    Shape("100 scalars, sparse", "Sparse", 10_000, _sparse),
    Shape("packed repeated numbers, 1,000 a message", "Packed", 1_000, _packed),
    Shape("depth 6, repeated inside repeated", "Depth1", 2_000, _depth),
)


def messages(shape: Shape, pb2: ModuleType) -> Iterator[Message]:
    """Makes the messages of one shape, of the classes in `pb2`."""
    rng = random.Random(shape.title)
    message_type = getattr(pb2, shape.message)
    for _ in range(shape.rows):
        message = message_type()
        shape.fill(rng, message)
        yield message
