"""What would really have gone wrong: each breaking change made all the same, old files read after it.

The schemas are those of `tests/unit/generator/evolution`. Messages are archived with the writer of `previous`;
then `current` is built although the check objects, every finding accepted, and what comes of it is
shown. Where the harm comes later (a number that is free is given away), that is done too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml

import cdp_runtime
from cdp_runtime.config import ConfigError
from cdp_runtime.dataset import ArchiveError
from cdpgen.checks import RULES
from cdpgen.evolution import BreakingError
from tests import oracle
from tests.versions import History

CASES = Path(__file__).parents[1] / "unit" / "generator" / "evolution"
SALE = "shop.v1.Sale"


class Case:
    """The schemas of a rule's case, and an archive."""

    def __init__(self, folder: Path, rule: str) -> None:
        self.history = History(folder, SALE, "sale.proto")
        self._folder = CASES / rule
        self.become("previous" if not (self._folder / "before").exists() else "before")

    def become(self, state: str) -> None:
        """Builds a state of the case; what breaks is accepted."""
        rules = self._folder / state / "cdpgen.yaml"
        self.build(
            (self._folder / state / "sale.proto").read_text("utf-8"),
            rules.read_text("utf-8") if rules.exists() else "version: 1",
        )

    def build(self, proto: str, rules: str = "version: 1") -> None:
        """Builds a schema; what breaks is accepted."""
        try:
            self.history.build(proto, rules)
        except BreakingError as error:
            found = yaml.safe_load(rules)
            found["evolution"] = {
                "accept": [
                    {"rule": each.rule.id, "path": each.change.path, "reason": "to see"}
                    for each in error.findings
                    if each.rule.severity == "error"
                ]
            }
            self.history.build(proto, yaml.safe_dump(found))

    def edited(self, state: str, old: str, new: str) -> None:
        """Builds a state with something changed in it."""
        proto = (self._folder / state / "sale.proto").read_text("utf-8")
        assert old in proto
        self.build(proto.replace(old, new, 1))

    def write(self, *records: dict[str, Any]) -> list[bytes]:
        return self.history.write(*records)

    def rows(self) -> list[dict[str, Any]]:
        return self.history.rows()

    def decoded(self, payload: bytes) -> dict[str, Any]:
        """What today's writer makes of a payload: of dead letters, `_raw`, and what comes again upstream."""
        row: dict[str, Any] = self.history.writer.converter().to_arrow([payload]).to_pylist()[0]
        return row

    def encoded(self) -> list[bytes]:
        """The messages that come back from the archive."""
        back: list[bytes] = (
            self.history.writer.converter().to_protobuf(self.history.batch()).to_pylist()
        )
        return back

    def message(self, payload: bytes) -> Any:
        """A message of today."""
        return oracle.parse(self.history.message, payload)


def later_message(case: Case, number: int, field: str) -> None:
    """The number of a field that is gone is given to another: old bytes are then read as that."""
    (payload,) = case.write({"article": "book", "price": 5})
    case.become("current")
    case.edited("current", "string article = 1;", f"string article = 1; {field} = {number};")
    assert case.decoded(payload)["stock"] == 5  # which was the price


def no_number(case: Case) -> None:
    later_message(case, 2, "int64 stock")


def no_name(case: Case) -> None:
    case.write({"article": "book", "price": 5})
    case.become("current")
    case.edited("current", "string article = 1;", "string article = 1; string price = 3;")
    case.write({"article": "pen", "price": "cheap"})
    by_name = {pq.read_schema(path).field("price").type for path in files(case)}
    assert by_name == {pa.int64(), pa.string()}  # one name, two meanings, for whoever goes by names


def number_reused(case: Case) -> None:
    (payload,) = case.write({"article": "book", "price": 5})
    case.become("previous")
    case.become("current")
    assert case.message(payload).colour == ""  # it was 5, and is neither that nor a colour now
    assert case.rows()[0]["colour"] == ""
    case.edited("current", "string colour", "int64 stock")
    assert case.decoded(payload)["stock"] == 5  # and here it is one: nobody counted any stock


def same_name(case: Case) -> None:
    case.write({"article": "book", "price": 5})
    case.become("current")
    case.write({"article": "pen", "amount": 7})
    table = ds.dataset(files(case), schema=case.history.writer.converter.schema).to_table()
    assert sorted(table["amount"].to_pylist(), key=str) == [
        7,
        None,
    ]  # by name, the old price is gone


def same_cardinality(case: Case) -> None:
    case.write({"article": "book", "price": 5})
    case.become("current")
    assert case.rows()[0]["price"] == []
    with pytest.raises(pa.ArrowException):
        ds.dataset(files(case), schema=case.history.writer.converter.schema).to_table()


def wire_type(case: Case) -> None:
    (payload,) = case.write({"article": "book", "price": 5})
    case.become("current")
    assert case.message(payload).price == 0
    assert case.rows()[0]["price"] == 0


def same_type(case: Case) -> None:
    (payload,) = case.write({"article": "book", "price": 5 << 32})
    case.become("current")
    assert case.message(payload).price == 0  # cut off
    assert case.rows()[0]["price"] == 0  # another column now


def same_oneof(case: Case) -> None:
    case.write({"article": "book"})
    case.become("current")
    (back,) = case.encoded()
    assert case.message(back).WhichOneof("either") == "price"  # which nobody ever set


def required(case: Case) -> None:
    (payload,) = case.write({})
    assert case.rows()[0]["article"] is None
    case.become("current")
    message = case.message(payload)
    assert not message.IsInitialized()  # what was a message is none for strict readers
    assert case.rows()[0]["article"] == ""  # and what was absent is empty


def made_required(case: Case) -> None:
    case.write({}, {"article": ""})
    assert [row["article"] for row in case.rows()] == [None, ""]
    case.become("current")
    assert [row["article"] for row in case.rows()] == ["", ""]


def type_changed(case: Case) -> None:
    case.write({"hash": "00ff"})
    case.become("current")
    assert case.rows()[0]["hash"] == b""


def narrowed(case: Case) -> None:
    case.write({"hash": "9" * 30 + ".00"})
    case.become("current")
    with pytest.raises(ArchiveError, match="does not fit"):
        case.rows()


def same_scale(case: Case) -> None:
    (payload,) = case.write({"hash": "12.50"})
    case.become("current")
    (back,) = case.encoded()
    assert case.message(payload).hash == "12.50"
    assert case.message(back).hash == "12.5000000"


def same_unit(case: Case) -> None:
    case.write({"at": "2024-04-21T00:00:00Z"}, {"at": "3000-01-01T00:00:00Z"})
    case.become("current")
    (path,) = files(case)
    stored = pq.read_table(path)["at"].cast(pa.int64())[0].as_py()
    (payload,) = case.history.payloads({"at": "2024-04-21T00:00:00Z"})
    now = case.history.writer.converter().to_arrow([payload])["at"].cast(pa.int64())[0].as_py()
    assert now == 1000 * stored
    with pytest.raises(ArchiveError):  # nanoseconds end in 2262
        case.rows()


def same_nesting(case: Case) -> None:
    case.write({"part": {"name": "wheel"}})
    case.become("current")
    assert case.rows()[0]["name"] is None


def partition(case: Case) -> None:
    case.write({"article": "book", "price": 5})
    case.become("current")
    case.write({"article": "book", "price": 5})
    folders = {path.parent.name.partition("=")[0] for path in files(case)}
    assert folders == {"article", "price_range"}
    hive = ds.dataset(case.history.archive / SALE, partitioning="hive", format="parquet")
    keys = hive.to_table()["price_range"].to_pylist()
    assert sorted(keys, key=str) == ["0-99", None]  # for engines old rows are in no range


def sort(case: Case) -> None:
    records = [{"article": f"{9 - i}", "price": i} for i in range(10)]
    case.write(*reversed(records))
    case.become("current")
    case.write(*records)
    ordered = [pq.read_table(path)["price"].to_pylist() for path in files(case)]
    assert [prices == sorted(prices) for prices in ordered] == [True, False]


def lossless(case: Case) -> None:
    newer = b"\x0a\x04book\x18\x07"  # a field that this version does not know
    case.history.write_payloads([newer])
    assert case.encoded() == [newer]
    case.become("current")
    (row,) = case.history.writer.converter().to_arrow([newer]).to_pylist()
    assert row == {"article": "book", "price": 0}  # gone for good


def message_deleted(case: Case) -> None:
    refunds = case.history.today.writers["shop.v1.Refund"]
    with refunds(case.history.archive) as writer:
        writer.write(b"\x0a\x04book")
    case.become("current")
    with pytest.raises(ConfigError, match=r"shop\.v1\.Refund: no such table"):
        cdp_runtime.open_archive(
            case.history.archive, "shop.v1.Refund", generated=case.history.today.generated
        )


def value_deleted(case: Case) -> None:
    (payload,) = case.write({"kind": "KIND_USED"})
    case.become("current")
    case.edited("current", "KIND_NEW = 1;", "KIND_NEW = 1; KIND_RENTED = 2;")
    assert case.decoded(payload)["kind"] == "KIND_RENTED"


def value_name_deleted(case: Case) -> None:
    case.write({"kind": "KIND_USED"})
    case.become("current")
    case.edited("current", "KIND_NEW = 1;", "KIND_NEW = 1; KIND_USED = 3;")
    case.write({"kind": "KIND_USED"})
    numbers = {dict(oracle_values(case, v))["KIND_USED"] for v in (0, -1)}
    assert [row["kind"] for row in case.rows()] == ["KIND_USED", "KIND_USED"]
    assert numbers == {2, 3}  # two things under one name


def value_renamed(case: Case) -> None:
    case.write({"kind": "KIND_USED"})
    case.become("current")
    case.write({"kind": "KIND_OLD"})
    assert sorted(row["kind"] for row in case.rows()) == [
        "KIND_OLD",
        "KIND_USED",
    ]  # one thing, two names


def enum_type(case: Case) -> None:
    payload = b"\x08\x09"
    assert case.decoded(payload) == {"kind": "9", "_raw": None}
    case.become("current")
    assert case.decoded(payload) == {"kind": None, "_raw": payload}


def enum_released(case: Case) -> None:
    payload = b"\x08\x07"  # KIND_LOST, long ago
    case.become("current")
    case.edited("current", "KIND_NEW = 1;", "KIND_NEW = 1; KIND_FOUND = 7;")
    assert case.decoded(payload)["kind"] == "KIND_FOUND"


def message_released(case: Case) -> None:
    payload = b"\x38\x05"  # field 7, long ago
    case.become("current")
    case.edited("current", "string article = 1;", "string article = 1; int64 stock = 7;")
    assert case.decoded(payload)["stock"] == 5


HARM: dict[str, Callable[[Case], None]] = {
    "MESSAGE_NO_DELETE": message_deleted,
    "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED": no_number,
    "FIELD_NO_DELETE_UNLESS_NAME_RESERVED": no_name,
    "FIELD_NUMBER_REUSED": number_reused,
    "FIELD_SAME_NAME": same_name,
    "FIELD_SAME_CARDINALITY": same_cardinality,
    "FIELD_WIRE_COMPATIBLE_TYPE": wire_type,
    "FIELD_SAME_TYPE": same_type,
    "FIELD_SAME_ONEOF": same_oneof,
    "MESSAGE_SAME_REQUIRED_FIELDS": required,
    "COLUMN_TYPE_CHANGED": type_changed,
    "COLUMN_TYPE_NARROWED": narrowed,
    "COLUMN_SAME_SCALE": same_scale,
    "COLUMN_SAME_UNIT": same_unit,
    "COLUMN_SAME_NESTING": same_nesting,
    "COLUMN_MADE_REQUIRED": made_required,
    "PARTITION_SAME": partition,
    "SORT_SAME": sort,
    "LOSSLESS_SAME": lossless,
    "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED": value_deleted,
    "ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED": value_name_deleted,
    "ENUM_VALUE_SAME_NAME": value_renamed,
    "ENUM_SAME_TYPE": enum_type,
    "RESERVED_ENUM_NO_DELETE": enum_released,
    "RESERVED_MESSAGE_NO_DELETE": message_released,
}


def files(case: Case) -> list[Path]:
    return sorted(case.history.archive.rglob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)


def oracle_values(case: Case, version: int) -> list[tuple[str, int]]:
    descriptor: Any = case.history.versions[version].messages[SALE].DESCRIPTOR
    kinds = descriptor.fields_by_name["kind"].enum_type.values
    return [(value.name, value.number) for value in kinds]


def test_every_rule_has_its_harm_and_no_harm_is_without_a_rule() -> None:
    assert HARM.keys() == RULES.keys()


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_keeps_from_happening_really_happens(rule: str, tmp_path: Path) -> None:
    HARM[rule](Case(tmp_path, rule))
