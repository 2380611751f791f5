"""An archive that is upgraded to each of its versions reads as one that is left as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from google.protobuf.message import Message

from cdp_runtime.dataset import ArchiveError
from cdp_runtime.upgrade import upgrade
from cdpgen.evolution import BreakingError
from tests.versions import History

SALE = "shop.Sale"
TYPES = (
    "enum E { EZ = 0; OPEN = 1; } enum F { FZ = 0; PAID = 1; }"
    " message Part { int32 a = 1; } message Other { sint32 a = 1; }"
)
MEMBERS = "oneof o { int32 x = 1; int32 y = 2; }"
MORE = ("", "int32 more = 11;", "int32 more = 11; int32 much_more = 12;")
"""What each version after the first adds, as it has to differ from the one before."""

RETYPED = {
    "number": ("int32 x = 1;", "sint32 x = 1;", 5),
    "float": ("fixed32 x = 1;", "float x = 1;", 5),
    "enum": ("E x = 1;", "F x = 1;", "OPEN"),
    "optional": ("optional int32 x = 1;", "optional sint32 x = 1;", 5),
    "list": ("repeated int32 x = 1;", "repeated sint32 x = 1;", [5]),
    "member": (MEMBERS, MEMBERS.replace("int32 x", "sint32 x"), 5),
    "message": ("Part x = 1;", "Other x = 1;", {"a": 5}),
    "messages": ("repeated Part x = 1;", "repeated Other x = 1;", [{"a": 5}]),
    "map": ("map<string, Part> x = 1;", "map<string, Other> x = 1;", {"k": {"a": 5}}),
}


@pytest.mark.parametrize("late", [False, True], ids=["then", "after another upgrade"])
@pytest.mark.parametrize("kind", RETYPED)
def test_a_value_of_another_type_is_not_read_by_the_type_of_today(
    tmp_path: Path, kind: str, late: bool
) -> None:
    before, after, value = RETYPED[kind]
    # late, the message is in `_raw` by a field that goes before this one changes
    changes = [sale(f"{before} reserved 9;")] if late else []
    changes += [sale(f"{after} reserved 9; {more}") for more in MORE]
    records = [{"id": 1, "x": value, "old": "gone"}, {"id": 2}]
    rows = same_at_each(tmp_path, sale(f"{before} string old = 9;"), changes, records)
    nothing = [None, 0, "FZ", [], {"a": 0}, [{"a": 0}], [("k", {"a": 0})]]
    assert all(row["x"] in nothing for row in rows[late:])


def test_nor_where_there_is_a_default(tmp_path: Path) -> None:
    rules = f"version: 1\nevolution: {{defaults: {{{SALE}.x: 7}}}}"
    changes = [sale(f"sint32 x = 1; {more}") for more in MORE]
    rows = same_at_each(tmp_path, sale("int32 x = 1;"), changes, [{"id": 1, "x": 5}], rules)
    assert [row["x"] for row in rows] == [7, 7, 7]


def test_nor_is_one_whose_number_another_field_has(tmp_path: Path) -> None:
    changes = [sale("reserved 1;"), *(sale(f"sint32 y = 1; {more}") for more in MORE)]
    rows = same_at_each(tmp_path, sale("int32 x = 1;"), changes, [{"id": 1, "x": 5}])
    assert [row["y"] for row in rows[1:]] == [0, 0, 0]


@pytest.mark.parametrize("within", ["", "P p = 3;", "repeated P p = 3;"])
def test_the_case_of_a_member_that_is_dropped_stays(tmp_path: Path, within: str) -> None:
    fields = f"message P {{ {MEMBERS} }} {within}" if within else MEMBERS
    value: Any = {"x": 5}
    if within:
        value = {"p": [value] if "repeated" in within else value}
    rules = (
        "version: 1\ndefaults: {oneof_case: true}\n"
        f"tables: {{{SALE}: {{columns: {{{'p.x' if within else 'x'}: {{drop: true}}%s}}}}}}"
    )
    # no column has the member, so that it is not in the message that the upgrade puts into `_raw`
    first = sale(f"{fields} string old = 9;")
    changes = [sale(f"{fields} string old = 9; {more}") for more in MORE]
    records = [{"id": 1, "old": "left out", **value}]
    for row in same_at_each(
        tmp_path, first, changes, records, rules % ", old: {drop: true}", rules % ""
    ):
        inner = row.get("p", row)
        assert (inner[0] if isinstance(inner, list) else inner)["o_case"] == "x"


CASE = "version: 1\ndefaults: {oneof_case: true}"
NO_CASE = "version: 1"
NO_X = f"{CASE}\ntables: {{{SALE}: {{columns: {{x: {{drop: true}}}}}}}}"
LOSSY = f"version: 1\ntables: {{{SALE}: {{lossless: false}}}}"
ONLY_X, ONLY_Y = "oneof o { int32 x = 1; }", "oneof o { int32 y = 1; }"
BETWEEN = {
    "a member that comes back": [(MEMBERS, NO_CASE), (MEMBERS, NO_X), (MEMBERS, CASE)],
    "a case that comes back": [(MEMBERS, CASE), (MEMBERS, NO_CASE), (MEMBERS, CASE)],
    "a case of a new member": [(ONLY_X, CASE), (MEMBERS, NO_CASE), (MEMBERS, CASE)],
    "a member with another name": [(ONLY_X, CASE), (ONLY_Y, NO_CASE), (ONLY_Y, CASE)],
    "no raw at first": [
        ("int32 x = 1; int32 y = 2;", LOSSY),
        ("int32 y = 2; reserved 1;", "version: 1"),
        ("sint32 z = 1; int32 y = 2;", "version: 1"),
    ],
    "no raw meanwhile": [
        ("int32 x = 1; string old = 9;", "version: 1"),
        ("int32 x = 1; reserved 9; int32 y = 2;", LOSSY),
        ("int32 x = 1; reserved 9; int64 y = 2;", "version: 1"),
    ],
}


@pytest.mark.parametrize("late", [False, True], ids=["", "newer messages"])
@pytest.mark.parametrize("steps", BETWEEN.values(), ids=BETWEEN)
def test_what_an_upgrade_in_between_could_not_tell_is_told_later(
    tmp_path: Path, steps: list[tuple[str, str]], late: bool
) -> None:
    history, left = History(tmp_path / "a", SALE), History(tmp_path / "b", SALE)
    # by number, as a member may have another name then
    payloads = [b"\x40\x01\x08\x07", b"\x40\x02\x10\x09", b"\x40\x03", b"\x40\x04\x08\x05\x4a\x01o"]
    for number, (fields, rules) in enumerate(steps):
        for each in (history, left):
            build(each, sale(fields), rules)
            if number == 0:
                each.write_payloads(payloads)
            if number == 1 and late:
                each.write({"id": 5, "y": 6}, version=1)
        list(upgrade(history.archive, generated=history.today.generated))
        assert plain(history) == plain(left)
    if LOSSY not in (rules for _, rules in steps):
        # the files, without positions, come in the order of their names
        assert messages(history.replayed(), left.message) == messages(left.replayed(), left.message)


def test_files_of_an_earlier_cdpgen_may_have_cut_what_was_wider(tmp_path: Path) -> None:
    history = History(tmp_path, SALE)
    for fields in ("", "int32 n = 2; E e = 3;"):
        history.build(sale(fields))
    generated = history.today.generated
    history.build(sale("int64 n = 2; E e = 3;").replace("OPEN = 1;", "OPEN = 1; SHUT = 2;"))
    history.write({"id": 1, "n": 3_000_000_000, "e": "SHUT"}, version=1)
    before = plain(history)
    (done,) = upgrade(history.archive, generated=generated)
    assert not done.problem
    tell_kept(history, None)
    assert plain(history) == before
    list(upgrade(history.archive, generated=history.today.generated))
    assert plain(history) == before


@pytest.mark.parametrize("upgrades", [1, 2], ids=["", "again"])
def test_what_a_writer_did_not_know_is_read_as_soon_as_the_schema_does(
    tmp_path: Path, upgrades: int
) -> None:
    """Every other row has something of it, and every third something that only the writer knew."""
    proto2 = 'syntax = "proto2"; package shop; enum E { EZ = 0; %s } message Sale { %s }'
    id_, e, s = "optional int32 id = 8;", "optional E e = 2;", "optional string s = 3;"
    narrow, wide = "optional int32 n = 1;", "optional int64 n = 1;"
    versions = [
        proto2 % ("", f"{id_} {narrow} optional string old = 9;"),
        proto2 % ("", f"{id_} {narrow} reserved 9; {e}"),
        proto2 % ("", f"{id_} {narrow} reserved 9; {e} optional int32 more = 11;"),
        proto2 % ("ONE = 1;", f"{id_} {wide} reserved 9; {e} optional int32 more = 11; {s}"),
    ]
    gone, late = b"\x4a\x01o", b"\x10\x01\x1a\x01s\x08\x80\x80\x80\x80\x10"
    rows = 300_000
    payloads = [
        b"\x40%b%b%b" % (varint(i), gone * (i % 3 == 0), late * (i % 2 == 0)) for i in range(rows)
    ]
    history = History(tmp_path, SALE)
    for number, proto in enumerate(versions):
        history.build(proto)
        if number == 0:
            history.write_payloads(payloads, row_group_mb=0.5)
        if 0 < number <= upgrades:
            (done,) = upgrade(history.archive, generated=history.today.generated)
            assert not done.problem
    (path,) = history.archive.rglob("*.parquet")
    assert pq.read_metadata(path).num_row_groups > 2
    for _ in range(2):
        table = history.open().to_table(columns=["id", "n", "e", "s"]).sort_by("id").to_pydict()
        assert table["n"] == [1 << 32, None] * (rows // 2)
        assert table["e"] == ["ONE", None] * (rows // 2)
        assert table["s"] == ["s", None] * (rows // 2)
        list(upgrade(history.archive, generated=history.today.generated))


@pytest.mark.parametrize("default", [0, 7])
def test_files_of_an_earlier_cdpgen_do_not_tell_whom_raw_is_of(
    tmp_path: Path, default: int
) -> None:
    history = History(tmp_path, SALE)
    rules = (
        f"version: 1\nevolution: {{defaults: {{{SALE}.x: {default}}}}}" if default else "version: 1"
    )
    history.build(sale("int32 x = 1; repeated Part l = 2; Part p = 3;"))
    # all of the first message is in columns, and of the second something unknown
    history.write_payloads(
        [
            b"\x40\x01\x08\x05\x12\x02\x08\x05\x1a\x02\x08\x05",
            b"\x40\x02\x62\x04\x08\x01\x10\x01\x68\x07",
        ]
    )
    then = "%s repeated Other l = 2; Other p = 3; New new = 12;"
    types = "message New { int32 a = 1; %s }"
    rules = build(history, sale(types % "" + then % "sint32 x = 1;"), rules)
    (done,) = upgrade(history.archive, generated=history.today.generated)
    assert not done.problem
    tell_kept(history, None)
    for more in MORE:
        build(
            history,
            sale(
                types % "int32 b = 2;"
                + then % "sint32 x = 1;"
                + "int32 late = 13;"
                + more.replace("= 1", "= 2")
            ),
            rules,
        )
        first, second = plain(history)
        assert (first["x"], first["l"], first["p"]) == (default, [{"a": 0}], {"a": 0})
        assert (second["new"], second["late"]) == ({"a": 1, "b": 1}, 7)
        list(upgrade(history.archive, generated=history.today.generated))
        assert plain(history) == [first, second]


@pytest.mark.parametrize("said", [b"????", b"AAAA", b""])
def test_a_footer_that_tells_it_in_another_way_is_named(tmp_path: Path, said: bytes) -> None:
    history = History(tmp_path, SALE)
    for fields in ("int32 x = 1;", "reserved 1;"):
        history.build(sale(fields))
        history.write({"id": 1}, version=1)
        list(upgrade(history.archive, generated=history.today.generated))
    path = tell_kept(history, said)
    history.build(sale("reserved 1; int32 y = 2;"))
    with pytest.raises(ArchiveError, match=rf"{path.name}: cdpgen.kept of the footer cannot"):
        history.rows()
    problems = [one.problem for one in upgrade(history.archive, generated=history.today.generated)]
    assert any("cdpgen.kept of the footer cannot be read" in problem for problem in problems)


def tell_kept(history: History, said: bytes | None) -> Path:
    """Says something else, or nothing, of what writers kept in the footer of a file."""
    path = next(iter(history.archive.rglob("*.parquet")))
    told = dict(pq.read_metadata(path).metadata or {})
    del told[b"cdpgen.kept"]
    if said is not None:
        told[b"cdpgen.kept"] = said
    table = pq.read_table(path, partitioning=None)
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(told)  # type: ignore[attr-defined]
    return path


def sale(fields: str) -> str:
    return f'syntax = "proto3"; package shop; {TYPES} message Sale {{ int32 id = 8; {fields} }}'


def same_at_each(
    folder: Path,
    first: str,
    changes: Sequence[str],
    records: Sequence[dict[str, Any]],
    rules: str = "version: 1",
    first_rules: str = "version: 1",
) -> list[dict[str, Any]]:
    """The first row at each version, of an archive that is upgraded each time.

    Args:
        folder: an empty folder.
        first: the schema by which the archive is written.
        changes: the later ones; whatever breaks is accepted.
        records: what is written.
        rules: of the later schemas.
        first_rules: of the first.
    """
    history, left = History(folder / "a", SALE), History(folder / "b", SALE)
    for each in (history, left):
        each.build(first, first_rules)
        each.write(*records)
    written, found = history.replayed(), []
    for proto in changes:
        for each in (history, left):
            rules = build(each, proto, rules)
        for _ in range(2):
            assert plain(history) == plain(left)
            assert history.replayed() == written
            list(upgrade(history.archive, generated=history.today.generated))
        found.append(plain(history)[0])
    return found


def build(history: History, proto: str, rules: str) -> str:
    """Builds the next version; returns the rules with what had to be accepted."""
    try:
        history.build(proto, rules)
    except BreakingError as error:
        keys = dict.fromkeys(finding.key for finding in error.findings)
        accept = ", ".join(
            f"{{rule: {rule}, path: '{path}', reason: so be it}}"
            for rule, path in (key.split(" ", 1) for key in keys)
        )
        if "evolution" in rules:
            rules = rules.replace("evolution: {", f"evolution: {{accept: [{accept}], ")
        else:
            rules = f"{rules}\nevolution: {{accept: [{accept}]}}"
        history.build(proto, rules)
    return rules


def plain(history: History) -> list[dict[str, Any]]:
    """The rows, but for what is in `_raw`."""
    table = history.open().to_table().sort_by("id")
    return list(table.select([name for name in table.column_names if name != "_raw"]).to_pylist())


def messages(stream: bytes, kind: type[Message]) -> list[bytes]:
    """The short messages of a stream, with their fields in one order, sorted."""
    found = []
    while stream:
        message = kind.FromString(stream[1 : 1 + stream[0]])
        found.append(message.SerializeToString(deterministic=True))
        stream = stream[1 + stream[0] :]
    return sorted(found)


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])
