"""The two streams of `cdpgen demo`: contract data and events of a Stellar network that never was.

Everything comes from a seed: the accounts, the contracts with their very unequal traffic, the
ledgers, and what happens in them. The shapes are those of mainnet records: addresses are valid
strkeys, hashes have 32 bytes, the XDR of a key or value says the same as the JSON next to it, and
a ledger key hashes to its `ledger_key_hash`.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from base64 import b32encode, b64encode
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["contract_data", "corrupt", "events"]

Fields = dict[str, Any]
"""The fields of one message by name, as its class takes them."""

FIRST_LEDGER: Final = 51_340_657
FIRST_CLOSE: Final = 1_713_740_400  # 2024-04-21T23:00:00Z: an hour on, a new day begins
LEDGERS_A_DAY: Final = 17_280

CONTRACTS: Final = 3_000
ACCOUNTS: Final = 20_000
ENTRIES_A_LEDGER: Final = 200
EVENTS_A_LEDGER: Final = 130
LATE_EVERY: Final = 5_000
"""One message in so many belongs to the ledgers of the day before."""

_PERSISTENT: Final = "ContractDataDurabilityPersistent"
_TEMPORARY: Final = "ContractDataDurabilityTemporary"


class _Value(NamedTuple):
    """An ScVal: its XDR, and its JSON text."""

    xdr: bytes
    json: str


def _u32(value: int) -> _Value:
    return _Value(b"\0\0\0\x03" + value.to_bytes(4), f'{{"u32":{value}}}')


def _u64(value: int) -> _Value:
    return _Value(b"\0\0\0\x05" + value.to_bytes(8), f'{{"u64":"{value}"}}')


def _u128(value: int) -> _Value:
    return _Value(b"\0\0\0\x09" + value.to_bytes(16), f'{{"u128":"{value}"}}')


def _i128(value: int) -> _Value:
    return _Value(b"\0\0\0\x0a" + value.to_bytes(16, signed=True), f'{{"i128":"{value}"}}')


def _bool(value: bool) -> _Value:
    return _Value(bytes(7) + bytes([value]), f'{{"bool":{"true" if value else "false"}}}')


def _opaque(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data + bytes(-len(data) % 4)


def _string(text: str) -> _Value:
    return _Value(b"\0\0\0\x0e" + _opaque(text.encode()), f'{{"string":"{text}"}}')


def _symbol(text: str) -> _Value:
    return _Value(b"\0\0\0\x0f" + _opaque(text.encode()), f'{{"symbol":"{text}"}}')


def _vec(*items: _Value) -> _Value:
    head = b"\0\0\0\x10\0\0\0\x01" + len(items).to_bytes(4)
    return _Value(
        head + b"".join([item.xdr for item in items]),
        f'{{"vec":[{",".join([item.json for item in items])}]}}',
    )


def _map_body(entries: Sequence[tuple[_Value, _Value]]) -> _Value:
    texts = [f'{{"key":{key.json},"val":{val.json}}}' for key, val in entries]
    return _Value(
        len(entries).to_bytes(4) + b"".join([key.xdr + val.xdr for key, val in entries]),
        f"[{','.join(texts)}]",
    )


def _map(*entries: tuple[_Value, _Value]) -> _Value:
    body = _map_body(entries)
    return _Value(b"\0\0\0\x11\0\0\0\x01" + body.xdr, f'{{"map":{body.json}}}')


def _instance(wasm: bytes, *storage: tuple[_Value, _Value]) -> _Value:
    """A contract instance; without the hash of a program it is a Stellar Asset Contract."""
    body = _map_body(storage)
    executable = b"\0\0\0\0" + wasm if wasm else b"\0\0\0\x01"
    name = f'{{"wasm":"{wasm.hex()}"}}' if wasm else '"stellar_asset"'
    return _Value(
        b"\0\0\0\x13" + executable + b"\0\0\0\x01" + body.xdr,
        f'{{"contract_instance":{{"executable":{name},"storage":{body.json}}}}}',
    )


_INSTANCE_KEY: Final = _Value(b"\0\0\0\x14", '"ledger_key_contract_instance"')
_KEY_TYPES: Final = {
    3: "ScValTypeScvU32",
    9: "ScValTypeScvU128",
    16: "ScValTypeScvVec",
    20: "ScValTypeScvLedgerKeyContractInstance",
}
_AMOUNT, _AUTHORIZED, _CLAWBACK = _symbol("amount"), _symbol("authorized"), _symbol("clawback")
_BALANCE, _PRICE, _TIMESTAMP = _symbol("Balance"), _symbol("price"), _symbol("timestamp")
_TRUE, _FALSE = _bool(True), _bool(False)


class _Address(NamedTuple):
    """An account (`G...`) or a contract (`C...`)."""

    strkey: str
    value: _Value

    @classmethod
    def of(cls, raw: bytes, *, contract: bool) -> _Address:
        versioned = bytes([2 << 3 if contract else 6 << 3]) + raw
        strkey = b32encode(versioned + crc_hqx(versioned, 0).to_bytes(2, "little")).decode()
        kind = b"\0\0\0\x01" if contract else bytes(8)
        return cls(strkey, _Value(b"\0\0\0\x12" + kind + raw, f'{{"address":"{strkey}"}}'))


class _Contract(NamedTuple):
    """A contract: what it is decides which entries it writes and which events it emits."""

    kind: str
    address: _Address
    scope: bytes  # its address as XDR, with which its ledger keys and entries begin
    wasm: bytes
    asset_type: str
    asset_code: str
    asset_issuer: str


class _Ledger(NamedTuple):
    sequence: int
    closed: int  # seconds since the Unix epoch


class _World:
    """Who there is: the same for both streams of one seed."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"world {seed}")
        self.accounts: Final = [
            _Address.of(rng.randbytes(32), contract=False) for _ in range(ACCOUNTS)
        ]
        programs = [rng.randbytes(32) for _ in range(120)]
        kinds = rng.choices(
            ["asset", "pool", "token", "collection", "oracle"], [40, 28, 18, 11, 3], k=CONTRACTS
        )
        self.contracts: Final = [self._contract(rng, kind, programs) for kind in kinds]
        # Zipf's law: the contract of rank n has 1/n of the traffic of the first.
        self.contract_weights: Final = _zipf(CONTRACTS, 1.0)
        self.account_weights: Final = _zipf(ACCOUNTS, 0.8)
        self._seed: Final = seed

    def _contract(self, rng: random.Random, kind: str, programs: list[bytes]) -> _Contract:
        raw = rng.randbytes(32)
        asset_type = asset_code = asset_issuer = ""
        if kind == "asset":
            length = rng.choices([3, 4, 6, 8, 12], [20, 60, 10, 6, 4])[0]
            asset_code = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=length))
            asset_type = "credit_alphanum4" if length <= 4 else "credit_alphanum12"
            asset_issuer = rng.choice(self.accounts).strkey
        return _Contract(
            kind,
            _Address.of(raw, contract=True),
            b"\0\0\0\x01" + raw,
            b"" if kind == "asset" else rng.choice(programs),
            asset_type,
            asset_code,
            asset_issuer,
        )

    def ledgers(self) -> Iterator[_Ledger]:
        """Ledger after ledger, five or six seconds apart."""
        rng = random.Random(f"ledgers {self._seed}")
        closed = FIRST_CLOSE
        for sequence in itertools.count(FIRST_LEDGER):
            yield _Ledger(sequence, closed)
            closed += rng.choices([5, 6], [4, 1])[0]

    def busy(self, rng: random.Random, count: int) -> list[_Contract]:
        """The contracts that `count` entries or events of a ledger belong to."""
        return rng.choices(self.contracts, cum_weights=self.contract_weights, k=count)

    def people(self, rng: random.Random, count: int) -> list[_Address]:
        """Accounts that take part in a ledger."""
        return rng.choices(self.accounts, cum_weights=self.account_weights, k=count)


def _zipf(count: int, exponent: float) -> list[float]:
    return list(itertools.accumulate((rank + 1) ** -exponent for rank in range(count)))


def _amount(rng: random.Random) -> int:
    """An amount in stroops, from dust to hundreds of millions; people like round ones."""
    digits = rng.randrange(1, 16)
    amount = rng.randrange(1, 10**digits)
    return amount * 10**7 if digits < 5 else amount


def _when(ledger: _Ledger, late: bool) -> _Ledger:
    """The ledger of a message: a late one comes from the day before."""
    return _Ledger(ledger.sequence - LEDGERS_A_DAY, ledger.closed - 86_400) if late else ledger


def contract_data(records: int, seed: int) -> Iterator[Fields]:
    """`records` changes of contract data entries in ledger order, a few of them late."""
    world = _World(seed)
    rng = random.Random(f"contract data {seed}")
    written: dict[bytes, int] = {}  # by ledger key hash: the ledger that wrote the entry last
    made = 0
    for ledger in world.ledgers():
        count = rng.randrange(ENTRIES_A_LEDGER // 2, ENTRIES_A_LEDGER * 3 // 2)
        holders = world.people(rng, count)
        for contract, holder in zip(world.busy(rng, count), holders, strict=True):
            if made == records:
                return
            made += 1
            at = _when(ledger, made % LATE_EVERY == 0)
            yield _entry(rng, world, contract, holder, at, written)


def _entry(
    rng: random.Random,
    world: _World,
    contract: _Contract,
    holder: _Address,
    ledger: _Ledger,
    written: dict[bytes, int],
) -> Fields:
    durability = _PERSISTENT
    asset_type = asset_code = asset_issuer = balance_holder = balance = ""
    chance = rng.random()
    if chance < 0.05 or contract.kind == "pool":
        key = _INSTANCE_KEY
        if contract.kind == "asset":
            asset_type, asset_code = contract.asset_type, contract.asset_code
            asset_issuer = contract.asset_issuer
            value = _instance(b"", (_symbol("METADATA"), _metadata(contract)))
        else:
            value = _instance(
                contract.wasm,
                (_string("admin"), holder.value),
                (_string("reserve_0"), _i128(_amount(rng))),
                (_string("reserve_1"), _i128(_amount(rng))),
                (_string("last_update"), _u64(ledger.closed)),
            )
    elif contract.kind == "asset":
        owner = world.contracts[int(chance * 1_000)].address
        amount = _amount(rng)
        balance_holder, balance = owner.strkey, str(amount)
        key = _vec(_BALANCE, owner.value)
        value = _map((_AMOUNT, _i128(amount)), (_AUTHORIZED, _TRUE), (_CLAWBACK, _FALSE))
    elif contract.kind == "token":
        key = _vec(_BALANCE, holder.value)
        value = _i128(_amount(rng))
    elif contract.kind == "collection":
        number = int(chance * 10_000)
        key = _vec(_symbol("Token"), _u32(number))
        value = _map(
            (_symbol("approvals"), _map()),
            (_symbol("owner"), holder.value),
            (_symbol("token_uri"), _string(f"ipfs://{contract.wasm.hex()[:59]}/{number}.json")),
        )
    else:
        durability = _TEMPORARY
        round_time = ledger.closed // 300 * 300
        key = _u128(round_time * 1000 << 64 | int(chance * 64))
        value = (
            _map((_PRICE, _i128(_amount(rng) * 10**7)), (_TIMESTAMP, _u64(round_time)))
            if chance < 0.25
            else _i128(_amount(rng) * 10**7)
        )

    lasting = b"\0\0\0\x01" if durability is _PERSISTENT else b"\0\0\0\0"
    ledger_key = b"\0\0\0\x06" + contract.scope + key.xdr + lasting
    ledger_key_hash = hashlib.sha256(ledger_key).digest()
    before = written.get(ledger_key_hash)
    removed = before is not None and key is not _INSTANCE_KEY and rng.random() < 0.02
    if removed:
        del written[ledger_key_hash]
    else:
        written[ledger_key_hash] = ledger.sequence
    return {
        "contract_id": contract.address.strkey,
        "contract_key_type": _KEY_TYPES[key.xdr[3]],
        "contract_durability": durability,
        "asset_code": asset_code,
        "asset_issuer": asset_issuer,
        "asset_type": asset_type,
        "balance_holder": balance_holder,
        "balance": balance,
        "last_modified_ledger": before if removed else ledger.sequence,
        "ledger_entry_change": 2 if removed else 0 if before is None else 1,
        "deleted": removed,
        "closed_at": {"seconds": ledger.closed},
        "ledger_sequence": ledger.sequence,
        "ledger_key_hash": ledger_key_hash.hex(),
        "key": b64encode(key.xdr).decode(),
        "key_decoded": key.json,
        "val": b64encode(value.xdr).decode(),
        "val_decoded": value.json,
        "contract_data_xdr": b64encode(
            bytes(4) + contract.scope + key.xdr + lasting + value.xdr
        ).decode(),
        "ledger_key_hash_base_64": b64encode(ledger_key).decode(),
    }


def _metadata(contract: _Contract) -> _Value:
    name = f"{contract.asset_code}:{contract.asset_issuer}"
    return _map(
        (_symbol("decimal"), _u32(7)),
        (_symbol("name"), _string(name)),
        (_symbol("symbol"), _string(contract.asset_code)),
    )


def events(records: int, seed: int) -> Iterator[Fields]:
    """`records` events in ledger order, a few of them late."""
    world = _World(seed)
    rng = random.Random(f"events {seed}")
    made = 0
    for ledger in world.ledgers():
        count = rng.randrange(EVENTS_A_LEDGER // 2, EVENTS_A_LEDGER * 3 // 2)
        contracts = world.busy(rng, count)
        people = world.people(rng, 2 * count)
        transaction, index, tx_hash = 0, 0, ""
        for contract, giver, taker in zip(contracts, people[::2], people[1::2], strict=True):
            if made == records:
                return
            made += 1
            if index == 0 or rng.random() < 0.45:
                transaction, index, tx_hash = transaction + 1, 0, rng.randbytes(32).hex()
            at = _when(ledger, made % LATE_EVERY == 0)
            event_id = f"{at.sequence << 32 | transaction << 12 | 1:019}-{index:010}"
            index += 1
            topic, value = _event(rng, contract, giver.value, taker.value, at)
            diagnostic = rng.random() < 0.01
            yield {
                "type": 3 if diagnostic else 1,
                "ledger": at.sequence,
                "ledger_closed_at": {"seconds": at.closed},
                "contract_id": contract.address.strkey,
                "id": event_id,
                "paging_token": event_id,
                "topic": [b64encode(item.xdr).decode() for item in topic],
                "value": b64encode(value.xdr).decode(),
                "in_successful_contract_call": not diagnostic or rng.random() < 0.5,
                "tx_hash": tx_hash,
            }


_TRANSFER, _MINT, _BURN = _symbol("transfer"), _symbol("mint"), _symbol("burn")
_PAIR, _SWAP, _SYNC = _string("SoroswapPair"), _symbol("swap"), _symbol("sync")
_REFLECTOR, _UPDATE, _ZERO = _symbol("REFLECTOR"), _symbol("update"), _i128(0)
_PRICES = _symbol("prices")
_RESERVE_0, _RESERVE_1 = _symbol("new_reserve_0"), _symbol("new_reserve_1")
_IN_0, _IN_1, _OUT_0, _OUT_1, _TO = (
    _symbol(name) for name in ("amount_0_in", "amount_1_in", "amount_0_out", "amount_1_out", "to")
)


def _event(
    rng: random.Random, contract: _Contract, giver: _Value, taker: _Value, ledger: _Ledger
) -> tuple[tuple[_Value, ...], _Value]:
    chance = rng.random()
    if contract.kind == "pool":
        if chance < 0.5:
            reserves = _i128(_amount(rng)), _i128(_amount(rng))
            return (_PAIR, _SYNC), _map((_RESERVE_0, reserves[0]), (_RESERVE_1, reserves[1]))
        paid, got = _i128(_amount(rng)), _i128(_amount(rng))
        return (_PAIR, _SWAP), _map(
            (_IN_0, paid), (_OUT_0, _ZERO), (_IN_1, _ZERO), (_OUT_1, got), (_TO, taker)
        )
    if contract.kind == "oracle":
        stamp = _u64(ledger.closed // 300 * 300_000)
        prices = _vec(*[_i128(_amount(rng)) for _ in range(4)])
        return (_REFLECTOR, _UPDATE, stamp), _vec(_PRICES, prices)
    value = _u32(int(chance * 10_000)) if contract.kind == "collection" else _i128(_amount(rng))
    who: tuple[_Value, ...]
    if chance < 0.8:
        who = (_TRANSFER, giver, taker)
    else:
        who = (_MINT, taker) if chance < 0.9 else (_BURN, giver)
    if contract.kind == "asset":
        return (*who, _string(f"{contract.asset_code}:{contract.asset_issuer}")), value
    return who, value


def corrupt(payload: bytes, kind: int) -> bytes:
    """The message as a bad line or a bad disk leaves it: no longer a valid one.

    Args:
        payload: a message of either stream; its last field is a long text.
        kind: which of three ways: cut short, a text that is not UTF-8, an unknown wire type.
    """
    if kind % 3 == 0:
        return payload[:-20]
    if kind % 3 == 1:
        return payload[:-20] + b"\xff" * 20
    return payload + b"\x0f"
