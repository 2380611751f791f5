"""What a rule leaves out for a while changes meanwhile: it reads right afterwards, or the build stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cdp_runtime.upgrade import upgrade
from cdpgen.evolution import BreakingError
from tests.versions import History

SALE = "shop.v1.Sale"
PROTO = """
syntax = "proto3";
package shop.v1;
message Part { string name = 1; }
enum Kind { NONE = 0; NEW = 1; }
message Sale { int32 id = 1; %s }
"""


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path, SALE)


@pytest.mark.parametrize(
    ("field", "now", "rule", "value", "read"),
    [
        ("int32 x = 2;", "int64 x = 2;", "", 7, 7),
        ("int32 x = 2;", "optional int32 x = 2;", "", 7, 7),
        ("string x = 2;", "bytes x = 2;", "", "a", b"a"),
        ("float x = 2;", "float x = 2;", "type: double", 0.5, 0.5),
        ("Kind x = 2;", "Kind x = 2;", "enum: string", "NEW", "NEW"),
        ("repeated int32 x = 2;", "repeated int64 x = 2;", "", [1, 2], [1, 2]),
        ("Part x = 2;", "Part x = 2;", "", {"name": "a"}, {"name": "a"}),
    ],
)
def test_values_of_before_are_read_as_if_it_had_never_been_left_out(
    history: History, field: str, now: str, rule: str, value: Any, read: Any
) -> None:
    rules = f"version: 1\ntables: {{{SALE}: {{columns: {{x: {{%s}}}}}}}}\n"
    history.build(PROTO % field)
    history.write({"id": 1, "x": value})
    history.build(PROTO % field, rules % "drop: true")
    history.build(PROTO % now, rules % "drop: true")
    history.write({"id": 2})
    history.build(PROTO % now, rules % rule)
    for _ in range(2):
        first, _other = sorted(history.rows(), key=lambda row: row["id"])
        assert first == {"id": 1, "x": read, "_raw": None}
        list(upgrade(history.archive, generated=history.today.generated))


@pytest.mark.parametrize(
    "rules",
    [
        f"tables: {{{SALE}: {{columns: {{x: {{drop: true}}}}}}}}",
        f"tables: {{{SALE}: {{skip: true}}}}\n"
        f"evolution: {{accept: [{{rule: MESSAGE_NO_DELETE, path: {SALE}, reason: to see}}]}}",
    ],
)
@pytest.mark.parametrize("then", ["FRESH = 1;", "FRESH = 1; NEW = 2;"])
def test_an_enum_does_not_change_either_while_only_a_new_table_has_it(
    history: History, rules: str, then: str
) -> None:
    proto = PROTO % "Kind x = 2;"
    history.build(proto)
    history.write({"id": 1, "x": "NEW"})
    history.build(proto, f"version: 1\n{rules}")
    proto += "message Other { Kind x = 1; }"
    with pytest.raises(BreakingError) as refused:
        history.build(proto.replace("NEW = 1;", then), f"version: 1\n{rules}")
    assert [finding.key for finding in refused.value.findings] == [
        "ENUM_VALUE_SAME_NAME shop.v1.Kind.NEW"
    ]
    history.build(proto, f"version: 1\n{rules}")
