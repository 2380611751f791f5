"""What the evolution check says of a change: `evolution/<case>/previous` and `current` in.

A case is named for the rule that it breaks, and breaks no other; what begins with `safe_` breaks
none. Where it takes three states to break a rule, the first is in `before`.
`pytest tests/unit/generator --update` writes the `expected.txt` of each anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cdpgen import cli
from cdpgen.build import build
from cdpgen.checks import RULES
from cdpgen.descriptors import compile_schemas
from cdpgen.errors import UsageError
from cdpgen.evolution import BreakingError, Finding, compare
from cdpgen.findings import show
from cdpgen.lock import LOCK_NAME, read_lock
from cdpgen.model import plan
from cdpgen.rules import read_rules

CASES = Path(__file__).parent / "evolution"
NAMES = sorted(path.parent.name for path in CASES.glob("*/previous"))


class Change:
    """A schemas folder that is built as it was, and then is as it is now."""

    def __init__(self, case: str) -> None:
        self.schemas = Path("schemas")
        if (CASES / case / "before").is_dir():
            self._become(CASES / case / "before")
            build(self.schemas, Path("generated"))
        self._become(CASES / case / "previous")
        build(self.schemas, Path("generated"))
        self._become(CASES / case / "current")

    def _become(self, state: Path) -> None:
        self.schemas.mkdir(exist_ok=True)
        for path in self.schemas.iterdir():
            if path.name != LOCK_NAME:
                path.unlink()
        shutil.copytree(state, self.schemas, dirs_exist_ok=True)

    def findings(self) -> list[Finding]:
        rules = read_rules(self.schemas)
        planned = plan(compile_schemas(self.schemas), rules)
        return compare(read_lock(self.schemas / LOCK_NAME), planned, rules).findings


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", NAMES)
def test_a_change_is_judged_as_expected(case: str, update: bool) -> None:
    change = Change(case)
    findings: list[Finding] = []
    if case.startswith("error_"):
        with pytest.raises(UsageError) as refused:
            change.findings()
        said = f"{refused.value}\n"
    else:
        findings = change.findings()
        said = show(findings, "text", "schemas/cdpgen.yaml") + "\n" if findings else ""
    if update:
        (CASES / case / "expected.txt").write_text(said, encoding="utf-8")
    assert said == (CASES / case / "expected.txt").read_text("utf-8")
    rule = next((name for name in sorted(RULES, reverse=True) if case.startswith(name)), None)
    if rule is not None:
        assert {finding.rule.id for finding in findings} == {rule}
    elif case != "several":
        assert not findings


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_case(rule: str) -> None:
    assert rule in NAMES


class TestBuild:
    def test_a_breaking_change_writes_nothing_and_exits_1(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change = Change("several")
        before = texts()
        with pytest.raises(BreakingError):
            build(change.schemas, Path("generated"))
        assert run("build", "schemas") == 1
        assert texts() == before
        assert capsys.readouterr().err.count("error:") == 4

    def test_an_accepted_change_makes_another_column_and_stays_accepted(self) -> None:
        change = Change("accepted")
        for _ in range(2):
            build(change.schemas, Path("generated"))
            columns = read_lock(change.schemas / LOCK_NAME).tables["shop.v1.Sale"].columns
            ids = {(column.name, column.type): (column.id, column.retired) for column in columns}
            assert ids["price", "int64"] == (2, True)
            assert ids["price", "double"] == (4, False)

    def test_a_field_renamed_to_another_number_keeps_its_ids(self) -> None:
        change = Change("safe_rename_to_another_number")
        for _ in range(2):
            build(change.schemas, Path("generated"))
            columns = read_lock(change.schemas / LOCK_NAME).tables["shop.v1.Sale"].columns
            ids = {column.name: (column.id, column.retired) for column in columns}
            assert ids == {"piece": (1, False), "piece.name": (2, False), "_raw": (3, False)}

    def test_a_warning_is_said_and_does_not_stop_the_build(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Change("SORT_SAME")
        assert run("build", "schemas") == 0
        assert "warning: shop.v1.Sale was sorted by price" in capsys.readouterr().err


class TestCheck:
    def test_json_has_an_object_for_each_finding(self, capsys: pytest.CaptureFixture[str]) -> None:
        Change("FIELD_SAME_TYPE")
        assert run("check", "schemas", "--format", "json") == 1
        (finding,) = json.loads(capsys.readouterr().out)
        place = (finding["file"], finding["line"], finding["column"])
        assert place == (str(Path("schemas/sale.proto")), 7, 3)
        assert (finding["rule"], finding["was"], finding["is"]) == (
            "FIELD_SAME_TYPE",
            "int64",
            "int32",
        )

    def test_github_has_a_command_for_each_finding(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Change("FIELD_SAME_TYPE")
        assert run("check", "schemas", "--format", "github") == 1
        said = capsys.readouterr().out
        assert said.startswith(
            f"::error file={Path('schemas/sale.proto')},line=7,col=3,title=FIELD_SAME_TYPE::"
            "shop.v1.Sale.price was int64, is int32%0A"
        )
        assert said.count("\n") == 1

    def test_where_all_is_fine_it_says_so_and_what_a_build_makes(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change = Change("safe_add")
        refund = 'syntax = "proto3"; package shop.v1; message Refund { string article = 1; }'
        (change.schemas / "refund.proto").write_text(refund, encoding="utf-8")
        fine = "2 tables, nothing breaks; a build makes version 1 of shop.v1.Refund, version 2 of "
        assert run("check", "schemas") == 0
        assert capsys.readouterr().out == f"{fine}shop.v1.Sale\n"
        shutil.copy(change.schemas / LOCK_NAME, "old.lock")
        build(change.schemas, Path("generated"))
        assert run("check", "schemas") == 0
        assert capsys.readouterr().out == "2 tables, nothing breaks; a build makes no new version\n"
        assert run("check", "schemas", "--against", "old.lock") == 0
        assert capsys.readouterr().out == f"{fine}shop.v1.Sale\n"
        (change.schemas / LOCK_NAME).unlink()
        assert run("check", "schemas") == 0
        assert capsys.readouterr().out == "2 tables, nothing breaks; nothing was archived so far\n"

    @pytest.mark.parametrize(("form", "said"), [("json", "[]\n"), ("github", "")])
    def test_for_tools_it_says_no_more_than_what_it_found(
        self, capsys: pytest.CaptureFixture[str], form: str, said: str
    ) -> None:
        Change("safe_nothing")
        assert run("check", "schemas", "--format", form) == 0
        assert capsys.readouterr().out == said

    def test_it_compares_with_the_schemas_at_a_git_ref(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        git("init", "--quiet", "--initial-branch=main")
        shutil.copytree(CASES / "FIELD_SAME_TYPE/previous", "some/schemas")
        git("add", ".")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "before")
        shutil.copytree(CASES / "FIELD_SAME_TYPE/current", "some/schemas", dirs_exist_ok=True)
        assert run("check", "some/schemas") == 0  # nothing was ever built
        assert run("check", "some/schemas", "--against", "main") == 1
        assert "shop.v1.Sale.price was int64, is int32 [FIELD_SAME_TYPE]" in capsys.readouterr().out
        assert run("check", "some/schemas", "--against", "nowhere") == 2
        assert "nowhere: is neither the path of a lock nor a git ref" in capsys.readouterr().err
        shutil.copytree("some", "new")
        assert run("check", "new/schemas", "--against", "main") == 0  # none were there

    def test_a_lock_that_was_there_at_a_git_ref_has_to_be_there(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        git("init", "--quiet", "--initial-branch=main")
        lock = Change("safe_nothing").schemas / LOCK_NAME
        git("add", ".")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "before")
        assert run("check", "schemas", "--against", "main") == 0
        lock.unlink()
        assert run("check", "schemas", "--against", "main") == 2
        back = "git show main:schemas/cdpgen.lock > schemas/cdpgen.lock"
        assert back in capsys.readouterr().err

    @pytest.mark.parametrize("moved", ["protos", "shop/protos", "schemas/shop"])
    def test_a_folder_that_was_moved_is_compared_with_what_it_was_and_not_with_nothing(
        self, capsys: pytest.CaptureFixture[str], moved: str
    ) -> None:
        schemas = committed(Change("FIELD_SAME_TYPE"))
        Path(moved).parent.mkdir(exist_ok=True)
        shutil.move(schemas, "away")
        shutil.copytree("away", moved)
        assert run("check", moved, "--against", "main") == 2
        assert capsys.readouterr().err == (
            f"{moved}: has no lock at main, where schemas/cdpgen.lock has shop.v1.Sale; if the folder was "
            "moved since, compare with what it was: --against main:schemas\n"
        )
        assert run("check", moved, "--against", "main:schemas") == 1
        (Path(moved) / LOCK_NAME).unlink()
        assert run("check", moved, "--against", "main") == 2
        assert run("check", moved, "--against", "main:schemas") == 2
        said = f"bring it back: git show main:schemas/cdpgen.lock > {moved}/cdpgen.lock\n"
        assert capsys.readouterr().err.endswith(said)

    def test_a_folder_that_is_new_is_compared_with_its_own_lock(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        git("init", "--quiet", "--initial-branch=main")
        commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "before"]
        git(*commit, "--allow-empty")
        Change("FIELD_SAME_TYPE")
        assert run("check", "schemas", "--against", "main") == 1
        shutil.rmtree("schemas")
        Change("safe_add")
        assert run("check", "schemas", "--against", "main") == 0

    @pytest.mark.parametrize(
        "ref",
        [
            *(
                "HEAD:schemas",
                "HEAD:schemas/",
                "HEAD:",
                "HEAD^{tree}",
                "HEAD^{/before: 1}",
                "tagged",
            ),
            *("HEAD:schemas/cdpgen.lock", "tagged:schemas/cdpgen.lock"),
        ],
    )
    def test_what_git_names_of_a_ref_is_one_too(
        self, capsys: pytest.CaptureFixture[str], ref: str
    ) -> None:
        schemas = committed(Change("FIELD_SAME_TYPE"))
        git("-c", "user.name=a", "-c", "user.email=a@b", "tag", "-a", "-m", "first", "tagged")
        assert run("check", "schemas", "--against", ref) == 1
        assert "shop.v1.Sale.price was int64, is int32 [FIELD_SAME_TYPE]" in capsys.readouterr().out
        shutil.rmtree(schemas)
        shutil.copytree(CASES / "FIELD_SAME_TYPE/previous", schemas)
        (schemas / LOCK_NAME).write_text(text_at("HEAD:schemas/cdpgen.lock"), encoding="utf-8")
        assert run("check", "schemas", "--against", ref) == 0
        assert "1 table, nothing breaks; a build makes no new version\n" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("ref", "said"),
        [
            ("HEAD:schemas/cdpgen.yaml", "HEAD:schemas/cdpgen.yaml: is neither the path of a lock"),
            ("HEAD:schemas/sale.proto", "HEAD:schemas/sale.proto:1:1: not JSON"),
            ("HEAD:generated", "HEAD:generated: no .proto file in it or below"),
            ("a" * 40, f"{'a' * 40}: is neither the path of a lock nor a git ref"),
            ("", ": is neither the path of a lock nor a git ref"),
            (":0", ":0: is neither the path of a lock nor a git ref"),
            ("--all", "--all: is neither the path of a lock nor a git ref"),
        ],
    )
    def test_what_is_no_state_of_schemas_is_exit_code_2(
        self, capsys: pytest.CaptureFixture[str], ref: str, said: str
    ) -> None:
        committed(Change("FIELD_SAME_TYPE"))
        assert run("check", "schemas", f"--against={ref}") == 2
        assert capsys.readouterr().err.startswith(said)

    def test_rules_that_were_not_read_at_a_git_ref_may_be_renamed(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        git("init", "--quiet", "--initial-branch=main")
        shutil.copytree(CASES / "FIELD_SAME_TYPE/previous", "schemas")
        Path("schemas/cdpgen.yml").write_text("version: 1\n", encoding="utf-8")
        git("add", ".")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "before")
        assert run("check", "schemas", "--against", "main") == 2
        assert "cdpgen.yml: is not read" in capsys.readouterr().err
        Path("schemas/cdpgen.yml").rename("schemas/cdpgen.yaml")
        assert run("check", "schemas", "--against", "main") == 0

    def test_a_link_out_of_the_schemas_at_a_git_ref_is_named(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        git("init", "--quiet", "--initial-branch=main")
        shutil.copytree(CASES / "FIELD_SAME_TYPE/previous", "elsewhere")
        Path("schemas").mkdir()
        Path("schemas/sale.proto").symlink_to("../elsewhere/sale.proto")
        git("add", ".")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "before")
        assert run("check", "schemas", "--against", "main") == 2
        said = (
            f"main:{Path('schemas/sale.proto')}: is a link out of schemas, which cannot be followed"
        )
        assert capsys.readouterr().err.startswith(said)

    def test_where_there_is_no_repository_it_says_so(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change = Change("safe_nothing")
        assert run("check", str(change.schemas), "--against", "main") == 2
        said = capsys.readouterr().err
        assert said.startswith(
            "main: is not the path of a lock, and git rev-parse: fatal: not a git"
        )

    def test_it_compares_with_another_lock(self, capsys: pytest.CaptureFixture[str]) -> None:
        change = Change("FIELD_SAME_TYPE")
        (change.schemas / LOCK_NAME).rename("old.lock")
        assert run("check", "schemas", "--against", "old.lock") == 1
        assert "[FIELD_SAME_TYPE]" in capsys.readouterr().out


def run(*arguments: str) -> int:
    """What `cdpgen` exits with."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def committed(change: Change) -> Path:
    """The folder of a change, of which git has the state before."""
    current = Path("current")
    change.schemas.rename(current)
    change.schemas.mkdir()
    shutil.copy(current / LOCK_NAME, change.schemas)
    shutil.copytree(CASES / "FIELD_SAME_TYPE/previous", change.schemas, dirs_exist_ok=True)
    git("init", "--quiet", "--initial-branch=main")
    git("add", "schemas", "generated")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "before: 1")
    shutil.rmtree(change.schemas)
    return current.rename(change.schemas)


def text_at(name: str) -> str:
    return subprocess.run(["git", "show", name], capture_output=True, text=True, check=True).stdout


def texts() -> dict[Path, bytes]:
    """Every file below the working directory."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def state(body: str, *, rules: str = "", before: str = "") -> tuple[str, str]:
    """A `.proto` and a cdpgen.yaml."""
    proto = f'syntax = "proto3"; package a.v1; {before} message T {{ {body} string z = 99; }}'
    return proto, f"version: 1\n{rules}"


def commit_all() -> None:
    git("init", "--quiet", "--initial-branch=main")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "before")


def columns_of(rules: str) -> str:
    return f"tables: {{a.v1.T: {{columns: {{{rules}}}}}}}\n"


def renames(*pairs: str) -> str:
    return f"evolution: {{renames: {{{', '.join(f'a.v1.T.{pair}' for pair in pairs)}}}}}\n"


def accepts(rule: str, path: str, times: int = 1) -> str:
    entry = f"{{rule: {rule}, path: {path}, reason: decided}}"
    return f"evolution: {{accept: [{', '.join([entry] * times)}]}}\n"


INNER = "message M { string s = 1; }"
FLATTEN = columns_of("m: {flatten: true}") + accepts("COLUMN_SAME_NESTING", "a.v1.T.m")
ONE = "oneof o { string a = 1; string b = 2; }"
TWO = "oneof p { string a = 1; string b = 2; } oneof o { string c = 3; string d = 4; }"
CASES_OF_BOTH = columns_of("o: {case: true}, p: {case: true}")
DROPS_O = columns_of("o: {drop: true}")

HISTORIES: dict[str, tuple[tuple[str, str], ...]] = {
    "an accepted flatten": (
        state("M m = 1;", before=INNER),
        state("M m = 1;", before=INNER, rules=FLATTEN),
    ),
    "a case that was left out, of another oneof": (
        state(f"{ONE} oneof q {{ string c = 3; }}", rules=columns_of("o: {case: true}")),
        state(f"{ONE} oneof q {{ string c = 3; }}"),
        state(
            f"{ONE} oneof q {{ string c = 3; }}", rules=columns_of("q: {case: true, name: o_case}")
        ),
    ),
    "a case that was left out, of a oneof that was renamed": (
        state(ONE, rules=columns_of("o: {case: true}")),
        state(ONE),
        state(TWO),
        state(TWO, rules=CASES_OF_BOTH),
    ),
    "a oneof that was renamed, and another of its name": (
        state(ONE, rules=columns_of("o: {case: true}")),
        state(TWO, rules=CASES_OF_BOTH),
    ),
    "a rename of a name that was another's": (
        state("string a = 1;"),
        state("string o = 1; int32 a = 2;", rules=DROPS_O),
        state("string o = 1; int32 b = 2;", rules=DROPS_O + renames("a: b")),
    ),
    "a chain of renames": (
        state("string a = 1;"),
        state("string b = 1;", rules=renames("a: b")),
        state("string c = 1;", rules=renames("a: b", "b: c")),
    ),
    "a chain of renames to other numbers": (
        state("string a = 1;"),
        state("string b = 2; reserved 1;", rules=renames("a: b")),
        state("string c = 3; reserved 1, 2;", rules=renames("a: b", "b: c")),
    ),
    "a chain of renames of one build": (
        state("string a = 1;"),
        state("string c = 3; reserved 1;", rules=renames("a: b", "b: c")),
    ),
    "a chain of renames within a message, by whole names": (
        state("M m = 1;", before="message M { string a = 1; }"),
        state(
            "M m = 1;",
            before="message M { string b = 2; reserved 1; }",
            rules=renames("m.a: m.b"),
        ),
        state(
            "M m = 1;",
            before="message M { string c = 3; reserved 1, 2; }",
            rules=renames("m.a: m.b", "m.b: m.c"),
        ),
    ),
    "names that go round": (
        state("string a = 1;"),
        state("string b = 1;", rules=renames("a: b")),
        state("string a = 1;", rules=renames("a: b", "b: a")),
    ),
    "an acceptance of two changes at once": (
        state("string a = 1;"),
        state("string old = 1; string a = 2;", rules=columns_of("old: {drop: true}")),
        state("", rules=accepts("FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED", "a.v1.T.a")),
    ),
    "an acceptance about an enum of a column that is left out": (
        state("E e = 1;", before="enum E { A = 0; B = 1; }"),
        state("E e = 1;", before="enum E { A = 0; B = 1; }", rules=columns_of("e: {drop: true}")),
        state(
            "E e = 1;",
            before="enum E { A = 0; C = 1; } message U { E e = 1; }",
            rules=columns_of("e: {drop: true}") + accepts("ENUM_VALUE_SAME_NAME", "a.v1.E.B"),
        ),
    ),
    "an acceptance about a message that only a new table has": (
        state("P p = 1;", before="message P { reserved 7; string s = 1; }"),
        state(
            "P p = 1;",
            before="message P { reserved 7; string s = 1; }",
            rules=columns_of("p: {drop: true}"),
        ),
        state(
            "P p = 1;",
            before="message P { string s = 1; } message U { P p = 1; }",
            rules=columns_of("p: {drop: true}") + accepts("RESERVED_MESSAGE_NO_DELETE", "a.v1.P"),
        ),
    ),
    "a name of an enum that is given again": (
        state("E e = 1;", before="enum E { A = 0; B = 1; }"),
        state("reserved 1;"),
        state("reserved 1; E f = 2;", before="enum E { X = 0; Y = 1; }"),
    ),
}


class TestHistories:
    """Builds one after the other that break nothing."""

    def become(self, proto: str, rules: str, folder: str = "schemas") -> Path:
        schemas = Path(folder)
        schemas.mkdir(exist_ok=True)
        (schemas / "a.proto").write_text(proto)
        (schemas / "cdpgen.yaml").write_text(rules)
        return schemas

    @pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
    def test_each_is_done_once_and_no_id_is_given_twice(
        self, history: tuple[tuple[str, str], ...]
    ) -> None:
        for version, (proto, rules) in enumerate(history):
            schemas = self.become(proto, rules)
            build(schemas, Path("generated"))
            assert not build(schemas, Path("generated"), check=True).written
            lock = read_lock(schemas / LOCK_NAME)  # refuses ids that stand there twice
            assert len(lock.tables["a.v1.T"].versions) <= version + 1

    @pytest.mark.parametrize(
        ("history", "level"),
        [
            *((name, "archive") for name in HISTORIES if "chain" in name or "round" in name),
            ("a chain of renames", "strict"),
            ("names that go round", "strict"),
        ],
    )
    def test_what_was_renamed_since_is_the_same_to_an_earlier_state(
        self, history: str, level: str
    ) -> None:
        *earlier, _ = states = HISTORIES[history]
        for i, (proto, rules) in enumerate(states):
            schemas = self.become(proto, f"{rules}defaults: {{level: {level}}}\n")
            build(schemas, Path("generated"))
            shutil.copy(schemas / LOCK_NAME, f"{i}.lock")
        for i in range(len(earlier)):
            assert run("check", "schemas", "--against", f"{i}.lock") == 0
            # What a merge that keeps this side of a conflict leaves.
            shutil.copy(f"{i}.lock", schemas / LOCK_NAME)
            build(schemas, Path("generated"))
            assert not build(schemas, Path("generated"), check=True).written

    @pytest.mark.parametrize(
        "states",
        [
            (
                state(""),
                state("string a = 1;"),
                state("string b = 2; reserved 1;", rules=renames("a: b")),
            ),
            (
                state("string a = 1;"),
                state("string b = 2; reserved 1;", rules=renames("a: b")),
                state("reserved 1, 2;", rules=renames("a: b")),
            ),
        ],
        ids=["it was not there yet", "it is gone since"],
    )
    def test_a_rename_is_about_nothing_of_a_state_that_has_one_end_of_it(
        self, states: tuple[tuple[str, str], ...]
    ) -> None:
        for proto, rules in states:
            schemas = self.become(proto, rules)
            build(schemas, Path("generated"))
            if proto == states[0][0]:
                shutil.copy(schemas / LOCK_NAME, "first.lock")
        assert run("check", "schemas", "--against", "first.lock") == 0

    def test_of_a_lock_that_begins_anew_a_chain_of_renames_is_done(self) -> None:
        schemas = self.become(*HISTORIES["a chain of renames"][-1])
        for _ in range(2):
            build(schemas, Path("generated"))

    def test_the_case_of_one_oneof_is_never_that_of_another(self) -> None:
        cases = []
        for proto, rules in HISTORIES["a case that was left out, of another oneof"]:
            build(self.become(proto, rules), Path("generated"))
            columns = read_lock(Path("schemas") / LOCK_NAME).tables["a.v1.T"].columns
            cases += [
                column.id for column in columns if column.name == "o_case" and not column.retired
            ]
        assert len(cases) == len(set(cases)) == 2

    def test_an_earlier_cdpgen_recorded_one_for_two_acceptances(self) -> None:
        time = 'import "google/protobuf/timestamp.proto";'
        for times, unit in enumerate(("us", "ms", "s")):
            rules = columns_of(f"at: {{unit: {unit}}}")
            rules += accepts("COLUMN_SAME_UNIT", "a.v1.T.at", times) if times else ""
            schemas = self.become(
                *state("google.protobuf.Timestamp at = 1;", before=time, rules=rules)
            )
            build(schemas, Path("generated"))
        path = schemas / LOCK_NAME
        lock = json.loads(path.read_text())
        assert len(lock["tables"]["a.v1.T"]["accepted"]) == 2
        lock["tables"]["a.v1.T"]["accepted"] = ["COLUMN_SAME_UNIT a.v1.T.at"]
        path.write_text(json.dumps(lock))
        assert not compare(
            read_lock(path),
            plan(compile_schemas(schemas), read_rules(schemas)),
            read_rules(schemas),
        ).breaking

    def test_a_table_that_another_folder_has_as_well_is_new(self) -> None:
        build(self.become(*state("string a = 1;")), Path("generated"))
        commit_all()
        build(self.become(*state("string k = 1;"), folder="other"), Path("generated_other"))
        assert run("check", "other", "--against", "main") == 0

    def test_an_acceptance_that_was_taken_back_since_a_ref_is_none(self) -> None:
        time = 'import "google/protobuf/timestamp.proto";'

        def rules(unit: str, times: int) -> str:
            found = columns_of(f"at: {{unit: {unit}}}")
            return found + (accepts("COLUMN_SAME_UNIT", "a.v1.T.at", times) if times else "")

        for unit, times in (("us", 0), ("ms", 1), ("ms", 0), ("s", 1)):
            body = "google.protobuf.Timestamp at = 1;"
            schemas = self.become(*state(body, before=time, rules=rules(unit, times)))
            build(schemas, Path("generated"))
            if (unit, times) == ("ms", 1):
                commit_all()
        assert run("check", "schemas", "--against", "main") == 0
