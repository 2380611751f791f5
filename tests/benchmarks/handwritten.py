"""Batches as one writes them by hand: parsed messages, then a list comprehension a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

Messages: TypeAlias = Sequence[Any]
Columns: TypeAlias = dict[str, list[Any]]


def record_batch(schema: pa.Schema, message_type: Any, payloads: Sequence[bytes]) -> pa.RecordBatch:
    """Parses payloads and makes columns of the types in `schema` (`_raw` left out)."""
    messages = [message_type.FromString(payload) for payload in payloads]
    columns = _SHAPES.get(message_type.DESCRIPTOR.name, _flat)(messages)
    return pa.record_batch(
        [pa.array(values, schema.field(name).type) for name, values in columns.items()],
        names=list(columns),
    )


def _flat(messages: Messages) -> Columns:
    return _scalars(messages, [field.name for field in messages[0].DESCRIPTOR.fields])


def _scalars(messages: Messages, names: Sequence[str]) -> Columns:
    return {name: [getattr(message, name) for message in messages] for name in names}


def _time(messages: Messages, name: str) -> list[int | None]:
    return [
        getattr(message, name).ToMicroseconds() if message.HasField(name) else None
        for message in messages
    ]


def _contract_data(messages: Messages) -> Columns:
    names = [field.name for field in messages[0].DESCRIPTOR.fields]
    columns = _scalars(messages, [name for name in names if name != "closed_at"])
    return {**columns, "closed_at": _time(messages, "closed_at")}


def _event(messages: Messages) -> Columns:
    names = ("ledger", "contract_id", "id", "paging_token", "value", "tx_hash")
    type_names = messages[0].Type.Name
    return {
        **_scalars(messages, [*names, "in_successful_contract_call"]),
        "type": [type_names(message.type) for message in messages],
        "ledger_closed_at": _time(messages, "ledger_closed_at"),
        "topic": [
            [{"type": topic.type, "value": topic.value} for topic in message.topic]
            for message in messages
        ],
        "attributes": [list(message.attributes.items()) for message in messages],
    }


def _token_transfer(messages: Messages) -> Columns:
    def asset(event: Any) -> dict[str, Any] | None:
        if not event.HasField("asset"):
            return None
        kind = event.asset.WhichOneof("asset_type")
        issued = event.asset.issued_asset
        return {
            "native": event.asset.native if kind == "native" else None,
            "issued_asset": {"asset_code": issued.asset_code, "issuer": issued.issuer}
            if kind == "issued_asset"
            else None,
        }

    def events(name: str, *texts: str) -> list[dict[str, Any] | None]:
        return [
            {
                **{text: getattr(getattr(message, name), text) for text in texts},
                "asset": asset(getattr(message, name)),
            }
            if message.HasField(name)
            else None
            for message in messages
        ]

    return {
        "meta": [
            {
                "ledger_sequence": message.meta.ledger_sequence,
                "closed_at": message.meta.closed_at.ToMicroseconds(),
                "tx_hash": message.meta.tx_hash,
                "transaction_index": message.meta.transaction_index,
                "operation_index": message.meta.operation_index
                if message.meta.HasField("operation_index")
                else None,
                "contract_address": message.meta.contract_address,
            }
            for message in messages
        ],
        "transfer": events("transfer", "from", "to", "amount"),
        "mint": events("mint", "to", "amount"),
        "burn": events("burn", "from", "amount"),
        "clawback": events("clawback", "from", "amount"),
        "fee": events("fee", "from", "amount"),
    }


def _packed(messages: Messages) -> Columns:
    return {
        "positions": [list(message.positions) for message in messages],
        "prices": [list(message.prices) for message in messages],
        "counts": [list(message.counts) for message in messages],
        "deltas": [list(message.deltas) for message in messages],
    }


def _depth(messages: Messages) -> Columns:
    return {
        "id": [message.id for message in messages],
        "children": [
            [
                {
                    "key": second.key,
                    "children": [
                        {
                            "key": third.key,
                            "children": [
                                {
                                    "name": fourth.name,
                                    "children": [
                                        {
                                            "key": fifth.key,
                                            "children": [
                                                {"value": sixth.value, "weight": sixth.weight}
                                                for sixth in fifth.children
                                            ],
                                        }
                                        for fifth in fourth.children
                                    ],
                                }
                                for fourth in third.children
                            ],
                        }
                        for third in second.children
                    ],
                }
                for second in message.children
            ]
            for message in messages
        ],
    }


_SHAPES: dict[str, Callable[[Messages], Columns]] = {
    "ContractData": _contract_data,
    "Event": _event,
    "TokenTransfer": _token_transfer,
    "Packed": _packed,
    "Depth1": _depth,
}
