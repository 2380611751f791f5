"""`cdpgen.lock`: ids that never change, and merges of two branches."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cdpgen.build import build
from cdpgen.descriptors import compile_schemas
from cdpgen.errors import UsageError
from cdpgen.evolution import BreakingError
from cdpgen.lock import LOCK_NAME, DroppedField, lock_plan, read_lock, write_lock
from cdpgen.model import plan
from cdpgen.rules import read_rules

FIELDS = ("string article = 1;", "uint32 count = 2;")


class Shop:
    """A schemas folder whose one message is written anew before each build."""

    def __init__(self, folder: Path) -> None:
        self.schemas = folder / "schemas"
        self.out = folder / "generated"
        self.schemas.mkdir()

    def build(self, *fields: str, rules: str = "version: 1\n") -> None:
        body = "\n".join(fields)
        text = f'syntax = "proto3";\npackage shop;\nmessage Sale {{\n{body}\n}}\n'
        (self.schemas / "sale.proto").write_text(text)
        (self.schemas / "cdpgen.yaml").write_text(rules)
        build(self.schemas, self.out)

    @property
    def lock(self) -> Path:
        return self.schemas / LOCK_NAME

    def ids(self) -> dict[str, tuple[int, bool]]:
        """The id of each column, and whether it is retired."""
        table = read_lock(self.lock).tables["shop.Sale"]
        return {column.name: (column.id, column.retired) for column in table.columns}

    def versions(self) -> list[int]:
        """The table's versions."""
        return [entry.version for entry in read_lock(self.lock).tables["shop.Sale"].versions]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


class TestIds:
    def test_a_new_column_gets_the_next_id_wherever_it_stands(self, shop: Shop) -> None:
        shop.build(*FIELDS)
        assert shop.ids() == {"article": (1, False), "count": (2, False), "_raw": (3, False)}
        shop.build("bool new = 9;", *FIELDS)
        assert shop.ids()["new"] == (4, False)
        assert shop.ids()["article"] == (1, False)
        assert shop.versions() == [1, 2]

    def test_a_renamed_column_keeps_its_id(self, shop: Shop) -> None:
        shop.build(*FIELDS)
        rule = "version: 1\ntables: {shop.Sale: {columns: {article: {name: code}}}}\n"
        shop.build(*FIELDS, rules=rule)
        assert shop.ids()["code"] == (1, False)
        assert shop.versions() == [1, 2]

    def test_one_under_another_number_keeps_those_that_it_had(self, shop: Shop) -> None:
        part = "message Part { string name = 1; int32 size = 2; }"

        def dropped(name: str, before: str = "") -> str:
            renames = f"evolution: {{renames: {{shop.Sale.{before}: {name}}}}}\n" if before else ""
            columns = f"columns: {{{name}.size: {{drop: true}}}}"
            return f"version: 1\ntables: {{shop.Sale: {{{columns}}}}}\n{renames}"

        shop.build("Part a = 3;", part)
        before = shop.ids()
        shop.build("Part a = 3;", part, rules=dropped("a"))
        shop.build("reserved 3; Part b = 4;", part, rules=dropped("b", "a"))
        shop.build("reserved 3, 4; Part c = 5;", part, rules=dropped("c", "b"))
        columns = read_lock(shop.lock).tables["shop.Sale"].columns
        assert {one.path: one.was for one in columns} == {
            (5,): ((3,), (4,)),
            (5, 1): ((3, 1), (4, 1)),
            (5, 2): ((3, 2), (4, 2)),
            (): (),
        }
        shop.build("reserved 3, 4; Part c = 5;", part)
        assert [*shop.ids().values()] == [*before.values()]

    def test_what_is_gone_within_one_keeps_its_number_under_another(self, shop: Shop) -> None:
        wire = "version: 1\ndefaults: {level: wire}\n"
        shop.build("Part a = 3;", "message Part { string name = 1; int32 size = 2; }", rules=wire)
        shop.build("Part a = 3;", "message Part { string name = 1; }", rules=wire)
        renames = f"{wire}evolution: {{renames: {{shop.Sale.a: b}}}}\n"
        part = "message Part { string name = 1; bytes key = 2; }"
        with pytest.raises(BreakingError) as broken:
            shop.build("Part b = 4;", part, rules=renames)
        assert [each.rule.id for each in broken.value.findings] == ["FIELD_NUMBER_REUSED"]

    def test_a_retired_id_stays_and_is_never_given_again(self, shop: Shop) -> None:
        shop.build(*FIELDS)
        shop.build("reserved 2; reserved 'count';", FIELDS[0])
        assert shop.ids()["count"] == (2, True)
        shop.build("reserved 2; reserved 'count';", FIELDS[0], "string more = 3;")
        assert shop.ids()["more"] == (4, False)

    def test_a_column_that_comes_back_as_it_was_has_its_id_again(self, shop: Shop) -> None:
        fields = (*FIELDS, "Part part = 3; message Part { string name = 1; int32 size = 2; }")
        shop.build(*fields)
        before = shop.ids()
        columns = "{count: {drop: true}, part: {drop: true}}"
        shop.build(*fields, rules=f"version: 1\ntables: {{shop.Sale: {{columns: {columns}}}}}\n")
        assert [name for name, (_, gone) in shop.ids().items() if gone] == [
            *("count", "part", "part.name", "part.size")
        ]
        shop.build(*fields)
        assert shop.ids() == before

    def test_so_it_has_under_the_name_that_its_field_has_by_then(self, shop: Shop) -> None:
        dropped = "version: 1\ntables: {shop.Sale: {columns: {parts: {drop: true}}}}\n"
        shop.build(*FIELDS, "repeated Old old = 3; message Old { oneof one { bool is = 1; } }")
        before = shop.ids()
        part = "message Part { oneof two { bool was = 1; } }"
        for rules in (dropped, dropped, "version: 1\n"):
            shop.build(*FIELDS, "repeated Part parts = 3;", part, rules=rules)
        names = {"old": "parts", "old[]": "parts[]", "old[].is": "parts[].was"}
        assert shop.ids() == {names.get(name, name): id for name, id in before.items()}

    @pytest.mark.parametrize("within", ["", "n."])
    def test_one_that_stood_at_another_place_is_another(self, shop: Shop, within: str) -> None:
        fields = (
            *FIELDS,
            "message M { optional string s = 1; }",
            "message N { M m = 1; int32 i = 2; }",
        )
        fields = (*fields, "N n = 3;" if within else "M m = 3;")
        wire = "version: 1\ndefaults: {level: wire}\n"  # others have to accept it
        rules = f"{wire}tables: {{shop.Sale: {{columns: {{{within}m: {{%s: true}}}}}}}}\n"
        shop.build(*fields, rules=rules % "flatten")
        flattened = shop.ids()[f"{within}s"]
        shop.build(*fields, rules=rules % "drop")
        shop.build(*fields, rules=wire)
        assert shop.ids()[f"{within}m.s"] > flattened
        assert shop.ids()[f"{within}s"] == (flattened[0], True)
        shop.build(*fields, rules=rules % "drop")
        shop.build(*fields, rules=rules % "flatten")
        assert shop.ids()[f"{within}s"] == flattened

    @pytest.mark.parametrize(
        ("field", "rule", "now", "rule_now"),
        [
            ("int32 x = 3;", "", "int64 x = 3;", ""),
            ("int32 x = 3;", "", "optional int32 x = 3;", ""),
            ("string x = 3;", "", "string x = 3;", "large: true"),
            ("string x = 3;", "", "bytes y = 3;", ""),
            ("string x = 3;", "type: 'decimal(9, 2)'", "string x = 3;", "type: 'decimal(18, 2)'"),
        ],
    )
    def test_one_that_changed_meanwhile_as_it_may_has_its_id_again(
        self, shop: Shop, field: str, rule: str, now: str, rule_now: str
    ) -> None:
        rules = "version: 1\ntables: {{shop.Sale: {{columns: {{{}: {{{}}}}}}}}}\n"
        name = now.split()[-3]
        shop.build(*FIELDS, field, rules=rules.format("x", rule))
        before = shop.ids()["x"]
        shop.build(*FIELDS, field, rules=rules.format("x", "drop: true"))
        shop.build(*FIELDS, now, rules=rules.format(name, "drop: true"))
        shop.build(*FIELDS, now, rules=rules.format(name, rule_now))
        assert shop.ids()[name] == before

    def test_one_whose_field_was_gone_meanwhile_is_another(self, shop: Shop) -> None:
        wire = "version: 1\ndefaults: {level: wire}\n"
        columns = "tables: {shop.Sale: {columns: {more: {drop: true}}}}\n"
        shop.build(*FIELDS, "string more = 3;", rules=wire)
        shop.build(*FIELDS, "string more = 3;", rules=wire + columns)
        assert '"retired": true, "left_out": true}' in shop.lock.read_text()
        shop.build(*FIELDS, rules=wire)
        assert "left_out" not in shop.lock.read_text()
        other = "string other = 3;"
        shop.build(*FIELDS, other, rules=wire + columns.replace("more", "other"))
        with pytest.raises(BreakingError) as broken:
            shop.build(*FIELDS, other, rules=wire)
        assert [each.rule.id for each in broken.value.findings] == ["FIELD_NUMBER_REUSED"]
        path = "path: shop.Sale.other, reason: it was never sent"
        accept = f"evolution: {{accept: [{{rule: FIELD_NUMBER_REUSED, {path}}}]}}\n"
        shop.build(*FIELDS, other, rules=wire + accept)
        assert (shop.ids()["more"], shop.ids()["other"]) == ((3, True), (5, False))

    def test_one_that_comes_back_as_another_type_has_a_new_id(self, shop: Shop) -> None:
        rules = "version: 1\ntables: {{shop.Sale: {{columns: {{code: {{{}}}}}}}}}\n"
        fields = (*FIELDS, "string code = 3;")
        shop.build(*fields)
        before = shop.ids()["code"]
        shop.build(*fields, rules=rules.format("drop: true"))
        hexed = rules.format("encoding: hex")
        with pytest.raises(BreakingError) as broken:
            shop.build(*fields, rules=hexed)
        assert [each.rule.id for each in broken.value.findings] == ["COLUMN_TYPE_CHANGED"]
        path = "path: shop.Sale.code, reason: it was empty"
        accept = f"evolution: {{accept: [{{rule: COLUMN_TYPE_CHANGED, {path}}}]}}\n"
        shop.build(*fields, rules=hexed + accept)
        assert shop.ids()["code"] > before

    def test_what_was_dropped_of_a_struct_stays_in_that(self, shop: Shop) -> None:
        part = "message Part { string name = 1; int32 size = 2; }"
        path = "path: shop.Sale.part, reason: it was empty"
        accept = f"evolution: {{accept: [{{rule: FIELD_SAME_CARDINALITY, {path}}}]}}\n"
        rules = "version: 1\ntables: {shop.Sale: {columns: {part.size: {drop: true}}}}\n"
        shop.build(*FIELDS, "Part part = 3;", part)
        before = shop.ids()["part.size"]
        shop.build(*FIELDS, "Part part = 3;", part, rules=rules)
        shop.build(*FIELDS, "repeated Part part = 3;", part, rules=rules + accept)
        without = part.replace("int32 size = 2;", "")
        with pytest.raises(BreakingError) as broken:
            shop.build(*FIELDS, "repeated Part part = 3;", without, rules=f"version: 1\n{accept}")
        assert [each.change.was for each in broken.value.findings] == ["field 2 of shop.Sale.Part"]
        shop.build(*FIELDS, "repeated Part part = 3;", part, rules=f"version: 1\n{accept}")
        assert shop.ids()["part.size"] == (before[0], True)
        assert shop.ids()["part[].size"] > before

    def test_what_a_list_or_map_holds_is_another_with_the_whole_of_it(self, shop: Shop) -> None:
        part = "message Part {{ {} }}"
        fields = (*FIELDS, "repeated Part parts = 3; map<string, Part> named = 4;")
        shop.build(*fields, part.format(""))
        before = shop.ids()
        accepted = ", ".join(
            f"{{rule: COLUMN_TYPE_CHANGED, path: 'shop.Sale.{path}', reason: none of them was sent}}"
            for path in ("parts[]", "named.value")
        )
        rules = f"version: 1\nevolution: {{accept: [{accepted}]}}\n"
        shop.build(*fields, part.format("string name = 1;"), rules=rules)
        changed = {name for name, was in before.items() if shop.ids()[name] != was}
        assert changed == {"parts", "parts[]", "named", "named.key", "named.value"}

    def test_a_field_that_never_had_a_column_is_kept_until_it_has_one(self, shop: Shop) -> None:
        part = "repeated Part parts = 3; message Part { string name = 1; bytes key = 4; }"
        rules = "version: 1\ntables: {shop.Sale: {columns: {count: {drop: true}, parts.key: {drop: true}}}}\n"
        dropped = [
            DroppedField((2,), "count", "implicit uint32"),
            DroppedField((3, 4), "parts[].key", "implicit bytes"),
        ]
        shop.build(*FIELDS, part, rules=rules)
        assert [*read_lock(shop.lock).tables["shop.Sale"].dropped] == dropped
        without = part.replace("bytes key = 4;", "reserved 4;")
        shop.build(*FIELDS, without)
        assert [*read_lock(shop.lock).tables["shop.Sale"].dropped] == [
            replace(dropped[1], gone=True)
        ]
        before = shop.lock.read_text()
        shop.build(*FIELDS, without)
        assert shop.lock.read_text() == before

    def test_a_comment_changes_no_version(self, shop: Shop) -> None:
        shop.build(*FIELDS)
        before = shop.lock.read_text()
        shop.build("// What was sold.", *FIELDS)
        assert shop.lock.read_text() == before


class TestText:
    def test_it_is_json_with_a_line_for_each_column_and_no_date(self, shop: Shop) -> None:
        shop.build(*FIELDS)
        text = shop.lock.read_text()
        assert json.loads(text)["version"] == 1
        lines = [line for line in text.splitlines() if '"id":' in line]
        assert lines[0] == (
            '        {"id": 1, "path": [1], "name": "article", "type": "string", '
            '"nullable": false, "wire": "implicit string", "retired": false},'
        )
        assert len(lines) == 3


class TestAcceptances:
    def test_of_one_by_an_earlier_cdpgen_only_the_rule_and_path_are_known(self, shop: Shop) -> None:
        entry = "{rule: FIELD_SAME_TYPE, path: shop.Sale.count, reason: none was sent}"
        shop.build(FIELDS[0], "int64 count = 2;")
        earlier = '"accepted": ["FIELD_SAME_TYPE shop.Sale.count"]'
        shop.lock.write_text(shop.lock.read_text().replace('"accepted": []', earlier))
        rules = f"version: 1\nevolution: {{accept: [{entry}]}}\n"
        shop.build(FIELDS[0], "int64 count = 2;", rules=rules)
        assert earlier in shop.lock.read_text()
        with pytest.raises(BreakingError):
            shop.build(FIELDS[0], "int32 count = 2;", rules=rules)
        rules = f"version: 1\nevolution: {{accept: [{entry}, {entry}]}}\n"
        for _ in range(2):
            shop.build(FIELDS[0], "int32 count = 2;", rules=rules)
            assert read_lock(shop.lock).tables["shop.Sale"].accepted == (
                "FIELD_SAME_TYPE shop.Sale.count",
                "FIELD_SAME_TYPE shop.Sale.count: was int64, is int32",
            )
        # as a check against a git ref makes the lock of then
        planned = plan(compile_schemas(shop.schemas), read_rules(shop.schemas))
        _, again = lock_plan(planned, read_lock(shop.lock))
        assert write_lock(again) == shop.lock.read_text()


class TestLostLock:
    def test_it_is_missed_where_writers_are_of_a_version_that_a_new_one_would_not_make(
        self, shop: Shop
    ) -> None:
        shop.build(*FIELDS)
        shop.lock.unlink()
        shop.build(*FIELDS)  # as if nothing had happened
        shop.build(*FIELDS, "string more = 3;")
        shop.lock.unlink()
        with pytest.raises(UsageError, match=r"cdpgen\.lock: is not there, though .*version 2 of"):
            shop.build(*FIELDS, "string more = 3;")
        assert not shop.lock.exists()


class TestMerge:
    def test_two_branches_that_each_added_a_column_merge_or_say_how(self, shop: Shop) -> None:
        shop.build(*FIELDS)
        base = shop.lock.read_text()
        shop.build(*FIELDS, "string ours = 3;")
        ours = shop.lock.read_text()
        shop.lock.write_text(base)
        shop.build(*FIELDS, "string theirs = 4;")
        merged = merge(shop.lock.parent, ours, base, shop.lock.read_text())
        shop.lock.write_text(merged)
        with pytest.raises(UsageError, match=r"git left a merge conflict here\. .*Keep the side"):
            shop.build(*FIELDS, "string ours = 3;", "string theirs = 4;")

    def test_what_the_errors_say_settles_a_real_merge_step_by_step(self, shop: Shop) -> None:
        git = Git(shop.schemas)
        shop.build(*FIELDS)
        git("add", ".")
        git("commit", "--quiet", "-m", "base")
        git("switch", "--quiet", "-c", "theirs")
        shop.build(*FIELDS, "string theirs = 4;")
        git("commit", "--quiet", "-am", "theirs")
        git("switch", "--quiet", "main")
        shop.build(*FIELDS, "string ours = 3;")
        git("commit", "--quiet", "-am", "ours")
        assert git("merge", "theirs", fails=True)
        both = (*FIELDS, "string ours = 3;", "string theirs = 4;")
        with pytest.raises(UsageError, match=r"cdpgen\.lock:\d+:1: git left a merge conflict here"):
            shop.build(*both)
        # "keep the side of the branch that was merged, and may have archived, first"
        git("checkout", "--quiet", "--ours", str(shop.lock))
        shop.build(*both)
        assert shop.ids()["ours"] == (4, False)
        assert shop.ids()["theirs"] == (5, False)
        assert shop.versions() == [1, 2, 3]

    def test_branches_that_changed_different_tables_merge_cleanly(self, shop: Shop) -> None:
        git = Git(shop.schemas)
        refund = shop.schemas / "refund.proto"
        text = 'syntax = "proto3"; package shop; message Refund { string article = 1; %s }'
        refund.write_text(text % "")
        shop.build(*FIELDS)
        git("add", ".")
        git("commit", "--quiet", "-m", "base")
        git("switch", "--quiet", "-c", "theirs")
        refund.write_text(text % "string reason = 2;")
        shop.build(*FIELDS)
        git("commit", "--quiet", "-am", "theirs")
        git("switch", "--quiet", "main")
        shop.build(*FIELDS, "string ours = 3;")
        git("commit", "--quiet", "-am", "ours")
        git("merge", "--quiet", "--no-edit", "theirs")
        merged = shop.lock.read_text()
        shop.build(*FIELDS, "string ours = 3;")
        assert shop.lock.read_text() == merged
        assert shop.ids()["ours"] == (4, False)
        columns = read_lock(shop.lock).tables["shop.Refund"].columns
        assert "reason" in [column.name for column in columns]

    def test_both_sides_taken_then_the_ids_given_twice_are_named(self, shop: Shop) -> None:
        shop.build(*FIELDS, "string ours = 3;")
        double = shop.lock.read_text().replace(
            '{"id": 3, "path": [3], "name": "ours"',
            '{"id": 3, "path": [4], "name": "theirs", "type": "string", "nullable": false, '
            '"wire": "implicit string", "retired": false},\n'
            '        {"id": 3, "path": [3], "name": "ours"',
        )
        shop.lock.write_text(double)
        with pytest.raises(UsageError) as error:
            shop.build(*FIELDS, "string ours = 3;", "string theirs = 4;")
        assert "id 3 is given to both `theirs` and `ours`" in str(error.value)
        kept = [line for line in double.splitlines() if '"theirs"' not in line]
        shop.lock.write_text("\n".join(kept))
        shop.build(*FIELDS, "string ours = 3;", "string theirs = 4;")
        assert shop.ids()["ours"] == (3, False)
        assert shop.ids()["theirs"] == (5, False)

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ('"next_id": 4', '"next_id": 2', r"`next_id` is 2, but id 3 is taken; write 4"),
            ('"next_id": 4,', '"next_id": 4,\n"next_id": 5,', r"`next_id` stands here twice"),
            ('"version": 1,\n', '"version": 7,\n', r"not a lock of format 1"),
            ('"wire"', '"wires"', r"not a lock that cdpgen wrote"),
            ('"id": 1', '"id": ' + "1" * 5_000, r"not a lock that cdpgen wrote"),
            ('"id": 1', '"id": ' + "[" * 100_000, r"not a lock that cdpgen wrote"),
            ('"wire": "', '"wire": 7, "_": "', r"not a lock that cdpgen wrote .*wire is 7"),
            ('"sort_by": []', '"sort_by": [1]', r"not a lock that cdpgen wrote .*sort_by is"),
            ('"id": 1', '"id": "1"', r"not a lock that cdpgen wrote .*id is '1'"),
            ('"retired": false}', '"retired": []}', r"not a lock that cdpgen wrote .*retired is"),
        ],
    )
    def test_what_hands_and_merges_break_is_named(
        self, shop: Shop, old: str, new: str, expected: str
    ) -> None:
        shop.build(*FIELDS)
        shop.lock.write_text(shop.lock.read_text().replace(old, new, 1))
        with pytest.raises(UsageError, match=expected):
            shop.build(*FIELDS)


class Git:
    """A repository in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self("init", "--quiet", "--initial-branch=main")

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *names, *arguments]
        done = subprocess.run(
            command, cwd=self._folder, capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stdout


def merge(folder: Path, ours: str, base: str, theirs: str) -> str:
    """What git makes of three versions of a file."""
    names = []
    for name, text in (("ours", ours), ("base", base), ("theirs", theirs)):
        (folder / name).write_text(text)
        names.append(name)
    command = ["git", "merge-file", "-p", *names]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
