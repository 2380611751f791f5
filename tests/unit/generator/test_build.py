"""`cdpgen build`: what it writes, removes, leaves alone and says."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from cdpgen import cli

PROTO = """
syntax = "proto3";
package shop.v1;
message Sale { string article = 1; }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `schemas/shop/v1/sale.proto`."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "schemas/shop/v1/sale.proto", PROTO)
    return tmp_path


class TestBuild:
    def test_the_second_build_writes_nothing(self, folder: Path) -> None:
        assert run("build", "schemas") == 0
        before = stamps(folder)
        assert run("build", "schemas") == 0
        assert stamps(folder) == before

    def test_two_builds_of_the_same_schemas_are_the_same_bytes(self, folder: Path) -> None:
        # Processes with other hash seeds order their sets otherwise.
        made = []
        for seed in ("1", "2"):
            command = [sys.executable, "-m", "cdpgen", "build", "schemas", "--out", f"out{seed}"]
            subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
            made.append(texts(folder / f"out{seed}") | texts(folder / "schemas"))
            (folder / "schemas/cdpgen.lock").unlink()
        assert made[0] == made[1]

    def test_modules_may_lie_anywhere_and_import_each_other_relatively(self, folder: Path) -> None:
        other = 'syntax = "proto3"; package shop; import "shop/v1/sale.proto";'
        write(folder / "schemas/shop/order.proto", other + "message Order { v1.Sale sale = 1; }")
        assert run("build", "schemas", "--out", "some/deep/place") == 0
        code = (
            "from deep.place.shop.order_pb2 import Order\n"
            "from deep.place.shop.order_writer import OrderConverter\n"
            "order = Order(sale={'article': 'book'})\n"
            "print(OrderConverter().to_arrow([order]).to_pylist())"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder / "some", capture_output=True, text=True)
        assert done.stdout == "[{'sale': {'article': 'book'}, '_raw': None}]\n", done.stderr

    def test_files_whose_names_no_module_can_have_are_imported_under_others(
        self, folder: Path
    ) -> None:
        write(folder / "schemas/2024/1-sale.proto", PROTO.replace("shop.v1", "old"))
        write(
            folder / "schemas/2024/2.proto",
            'syntax = "proto3"; package new; import "2024/1-sale.proto";'
            "message Order { old.Sale sale = 1; } message None { string at = 1; }",
        )
        assert run("build", "schemas") == 0
        code = (
            "from generated._2024._2_writer import OrderConverter, NoneWriter\n"
            "order = OrderConverter().to_arrow([b'\\x0a\\x03\\x0a\\x01b']).to_pylist()\n"
            "with NoneWriter('archive') as writer:\n"
            "    writer.write(NoneWriter.message_type()(at='noon'))\n"
            "print(order, NoneWriter.message_type()(at='noon'))"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        said = "[{'sale': {'article': 'b'}, '_raw': None}] at: \"noon\"\n\n"
        assert done.stdout == said, done.stderr

    @pytest.mark.parametrize(
        ("path", "module"),
        [
            ("__private.proto", "_private"),
            ("__init__.proto", "_init__"),
            ("__a/__b.proto", "__a._b"),
            ("__1.proto", "_1"),
        ],
    )
    def test_files_whose_names_python_takes_for_private_within_a_class_are_archived(
        self, folder: Path, path: str, module: str
    ) -> None:
        write(folder / "schemas" / path, PROTO.replace("shop.v1", "old").replace("Sale", "Old"))
        importing = f'syntax = "proto3"; import "{path}"; message New {{ old.Old old = 1; }}'
        write(folder / "schemas/new.proto", importing)
        write(folder / "schemas/cdpgen.yaml", "version: 1\ntables: {old.Old: {}}")
        assert run("build", "schemas") == 0
        code = (
            f"from generated.{module}_writer import OldWriter\n"
            "from generated.new_writer import NewWriter\n"
            "old = OldWriter.message_type()(article='book')\n"
            "print(NewWriter.message_type()(old=old))"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.stdout == 'old {\n  article: "book"\n}\n\n', done.stderr

    def test_messages_whose_names_begin_no_name_of_a_constant_or_class_are_archived(
        self, folder: Path
    ) -> None:
        names = ("_", "__", "_1", "_Converter")
        messages = " ".join(f"message {name} {{ string article = 1; }}" for name in names)
        write(folder / "schemas/odd.proto", f'syntax = "proto3"; package odd; {messages}')
        assert run("build", "schemas") == 0
        code = (
            "from cdp_runtime.archive import load_tables\n"
            "for name, writer in load_tables('generated').items():\n"
            "    print(name, writer.message_type()(article='book'))"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        said = {line for line in done.stdout.splitlines() if line}
        every = ("shop.v1.Sale", *(f"odd.{name}" for name in names))
        assert said == {f'{name} article: "book"' for name in every}, done.stderr

    def test_a_folder_named_like_the_registry_does_not_take_its_place(self, folder: Path) -> None:
        shutil.move(folder / "schemas/shop", folder / "schemas/TABLES")
        assert run("build", "schemas") == 0
        code = "import generated, generated.TABLES_.v1.sale_writer\nprint(generated.TABLES)"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        found = {"shop.v1.Sale": (".TABLES_.v1.sale_writer", "SaleWriter")}
        assert done.stdout == f"{found}\n", done.stderr

    def test_what_no_schema_makes_any_more_is_removed_with_its_folder(self, folder: Path) -> None:
        assert run("build", "schemas") == 0
        write(folder / "generated/shop/v1/__pycache__/sale_pb2.cpython-311.pyc", "")
        (folder / "schemas/shop/v1/sale.proto").unlink()
        write(folder / "schemas/other.proto", 'syntax = "proto3"; message Other {}')
        write(folder / "schemas/cdpgen.yaml", ACCEPT_REMOVAL)
        assert run("build", "schemas") == 0
        assert sorted(texts(folder / "generated")) == [
            "__init__.py",
            "other_pb2.py",
            "other_pb2.pyi",
            "other_writer.py",
        ]

    def test_files_that_it_did_not_write_are_left_alone(self, folder: Path) -> None:
        mine = {
            "generated/notes.py": "# mine",
            "generated/shop/__init__.py": "# mine too",
            "generated/shop/v1/old_pb2.py": "# by protoc",
        }
        for path, text in mine.items():
            write(folder / path, text)
        assert run("build", "schemas") == 0
        assert {path: (folder / path).read_text() for path in mine} == mine

    def test_generated_modules_of_another_build_further_down_are_left_alone(
        self, folder: Path
    ) -> None:
        assert run("build", "schemas", "--out", "all/nested") == 0
        before = stamps(folder / "all/nested")
        assert run("build", "schemas", "--out", "all") == 0
        assert stamps(folder / "all/nested") == before

    def test_a_file_of_somebody_else_in_the_way_is_an_error(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(folder / "generated/shop/v1/sale_pb2.py", "# by protoc")
        assert run("build", "schemas") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"{Path('generated/shop/v1/sale_pb2.py')}: is in the way")
        assert sorted(texts(folder / "generated")) == ["shop/v1/sale_pb2.py"]
        assert not (folder / "schemas/cdpgen.lock").exists()

    def test_hidden_folders_are_nobodys_schemas(self, folder: Path) -> None:
        write(folder / "schemas/.venv/lib/broken.proto", "nonsense")
        assert run("build", "schemas") == 0


class TestLinks:
    """`schemas/order.proto` imports `common/money.proto`, and `common` is a link."""

    @pytest.fixture(autouse=True)
    def _order(self, folder: Path) -> None:
        text = 'syntax = "proto3";\n  import "common/money.proto"; message Order { Money m = 1; }'
        write(folder / "schemas/order.proto", text)
        money = 'syntax = "proto3"; message Money { int32 n = 1; } message Rate { int32 n = 1; }'
        write(folder / "shared/money.proto", money)

    def test_a_folder_that_is_one_is_compiled_as_others_are(self, folder: Path) -> None:
        (folder / "schemas/common").symlink_to("../shared")
        assert run("build", "schemas") == 0
        code = "import generated.order_pb2\nfrom generated import TABLES\nprint(*sorted(TABLES))\n"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.stdout == "Order Rate shop.v1.Sale\n", done.stderr

    def test_those_that_lead_round_and_round_end(self, folder: Path) -> None:
        (folder / "schemas/common").symlink_to("../shared")
        for link, target in {"schemas/self": ".", "schemas/up": "..", "shared/all": ".."}.items():
            (folder / link).symlink_to(target)
        (folder / "schemas/once_more").symlink_to("shop")
        assert run("build", "schemas") == 0
        lock = (folder / "schemas/cdpgen.lock").read_text()
        assert all(lock.count(f'"{name}": {{') == 1 for name in ("Order", "Rate", "shop.v1.Sale"))

    @pytest.mark.parametrize("target", ["money", "a/money"])
    def test_one_to_a_folder_that_is_compiled_anyway_is_no_other_file(
        self, folder: Path, capsys: pytest.CaptureFixture[str], target: str
    ) -> None:
        (folder / "schemas" / target).parent.mkdir(exist_ok=True)
        (folder / "shared").rename(folder / "schemas" / target)
        (folder / "schemas/common").symlink_to(target)
        assert run("build", "schemas") == 2
        again = f'schemas/common/money.proto:1:28: "Money" is already defined in file "{target}/money.proto".'
        assert again in capsys.readouterr().err.splitlines()
        assert not (folder / "generated").exists()

    def test_an_import_of_what_is_not_compiled_is_refused(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "shared").rename(folder / "schemas/.common")
        text = 'syntax = "proto3"; import "a.txt";\nimport ".common/money.proto"; message Order {}'
        write(folder / "schemas/order.proto", text)
        write(folder / "schemas/a.txt", 'syntax = "proto3"; message A {}')
        assert run("build", "schemas") == 2
        why = (
            "is not compiled, as only files are that end in .proto and lie in no hidden folder; give it such "
            "a name"
        )
        said = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
        assert said == [
            f"schemas/order.proto:1:20: a.txt {why}",
            f"schemas/order.proto:2:1: .common/money.proto {why}",
        ]


class TestNames:
    """What protoc takes for something else where it stands alone."""

    @pytest.mark.parametrize(
        "path",
        [
            *("-x.proto", "@x.proto", "a:b.proto", "a=b.proto", "a:b/c=d/x.proto", "-/x.proto"),
            *(" .proto", "--version.proto"),
        ],
    )
    @pytest.mark.parametrize("root", ["schemas", "a:b/c=d"])
    def test_files_and_folders_may_have_any(
        self, folder: Path, capsys: pytest.CaptureFixture[str], root: str, path: str
    ) -> None:
        proto = folder / root / path
        write(proto, 'syntax = "proto3"; message Other {}')
        assert run("build", root) == 0
        assert '"Other": {' in (folder / root / "cdpgen.lock").read_text()
        write(proto, 'syntax = "proto3"; message Other { Gone gone = 1; }')
        capsys.readouterr()
        assert run("build", root) == 2
        said = f'{Path(root, path)}:1:36: "Gone" is not defined.\n'
        assert capsys.readouterr().err == said

    @pytest.mark.parametrize(
        ("path", "shown"), [("a\nb/x.proto", "a\\nb/x.proto"), ("\udcff.proto", "\\udcff.proto")]
    )
    def test_but_what_cannot_stand_in_a_comment(
        self, folder: Path, capsys: pytest.CaptureFixture[str], path: str, shown: str
    ) -> None:
        write(folder / "schemas" / path, 'syntax = "proto3"; message Other {}')
        assert run("build", "schemas") == 2
        said = f"'schemas/{shown}': has a line break, or no UTF-8, in its name; rename it\n"
        assert capsys.readouterr().err == said


class TestRoot:
    """`schemas/` holds `shop/v1/sale.proto` of the package `shop.v1`."""

    def test_a_folder_below_the_root_is_built_with_a_warning(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("build", "schemas/shop") == 0
        assert capsys.readouterr().err == (
            "schemas/shop/v1/sale.proto:1:1: warning: package shop.v1 begins in schemas, not in "
            "schemas/shop: others import this file as shop/v1/sale.proto; if so, build schemas\n"
        )

    def test_the_root_and_a_folder_with_rules_of_its_own_are_taken_at_their_word(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("build", "schemas") == 0
        write(folder / "schemas/shop/cdpgen.yaml", "version: 1\n")
        assert run("build", "schemas/shop", "--out", "other") == 0
        assert capsys.readouterr().err == ""

    def test_an_import_that_lies_further_up_is_named(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = 'syntax = "proto3"; package shop; import "shop/v1/sale.proto";'
        write(folder / "schemas/shop/order.proto", other + "message Order { v1.Sale sale = 1; }")
        assert run("build", "schemas/shop") == 2
        said = "shop/v1/sale.proto lies in schemas: build that folder, not schemas/shop\n"
        assert capsys.readouterr().err.endswith(said)


class TestOtherFolder:
    """The folder that is given is not the one whose rules and lock there are."""

    @pytest.mark.parametrize("command", ["build", "check"])
    @pytest.mark.parametrize("own", ["cdpgen.lock", "cdpgen.yaml"])
    @pytest.mark.parametrize(
        "given", [".", "schemas/shop", "schemas/shop/v1", "{folder}/schemas/shop"]
    )
    def test_it_is_refused_and_the_right_one_named(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        command: str,
        own: str,
        given: str,
    ) -> None:
        write(folder / "schemas/cdpgen.yaml", "version: 1\n")
        assert run("build", "schemas") == 0
        if own == "cdpgen.yaml":
            (folder / "schemas/cdpgen.lock").unlink()
        before = stamps(folder)
        capsys.readouterr()
        given = given.format(folder=folder)
        assert run(command, given) == 2
        assert stamps(folder) == before
        right = folder / "schemas" if given.startswith("/") else Path("schemas")
        where = "below" if given == "." else "above"
        said = capsys.readouterr()
        assert said.err.startswith(f"{given}: {right / own} lies in a folder {where}, and only")
        assert f"; probably meant: cdpgen {command} {right} (if that" in said.err
        assert said.out == ""

    def test_what_was_meant_has_the_options_that_were_given(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(folder / "my schemas/shop/v1/sale.proto", PROTO)
        assert run("build", "my schemas", "--out", "mine") == 0
        assert run("build", ".", "--out", "mine", "--check") == 2
        meant = "cdpgen build 'my schemas' --out mine --check (if"
        assert meant in capsys.readouterr().err

    def test_a_folder_is_built_from_within(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(folder / "schemas/cdpgen.yaml", "version: 1\n")
        monkeypatch.chdir(folder / "schemas")
        assert run("build", ".", "--out", "../generated") == 0
        monkeypatch.chdir(folder / "schemas/shop")
        assert run("check", ".") == 2
        assert "probably meant: cdpgen check .. (if" in capsys.readouterr().err

    @pytest.mark.parametrize("end", [".git", "home"])
    def test_what_lies_around_the_repository_or_the_home_directory_is_not_looked_at(
        self, end: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(folder / "cdpgen.lock", "")
        project = folder / "project"
        (folder / "schemas").rename(project.with_name("project"))
        if end == "home":
            monkeypatch.setenv("HOME", str(project))
        else:
            (project / ".git").mkdir()
        assert run("build", "project/shop") == 0
        (project / "shop/cdpgen.lock").unlink()
        write(project / "cdpgen.yaml", "version: 1\n")
        assert run("build", "project/shop") == 2

    @pytest.mark.parametrize("own", ["cdpgen.lock", "cdpgen.yaml"])
    def test_what_lies_elsewhere_does_not_matter_to_a_folder_with_rules_or_a_lock(
        self, folder: Path, own: str
    ) -> None:
        write(folder / "schemas/cdpgen.yaml", "version: 1\n")
        assert run("build", "schemas") == 0
        if own == "cdpgen.lock":
            (folder / "schemas/cdpgen.yaml").unlink()
        for name in ("cdpgen.lock", "schemas/shop/cdpgen.lock", "schemas/vendor/cdpgen.yaml"):
            write(folder / name, "version: 1\n")
        assert run("build", "schemas") == 0

    def test_a_folder_below_does_not_replace_the_writers_of_another(self, folder: Path) -> None:
        write(folder / "schemas/other.proto", 'syntax = "proto3"; message Other { int32 x = 1; }')
        write(folder / "schemas/shop/cdpgen.yaml", "version: 1\n")
        write(folder / "schemas/cdpgen.yaml", "version: 1\n")
        assert run("build", "schemas") == 0
        before = stamps(folder)
        assert run("build", "schemas/shop") == 2
        assert stamps(folder) == before

    def test_what_lies_in_hidden_folders_is_nobodys(self, folder: Path) -> None:
        write(folder / "schemas/.venv/cdpgen.lock", "")
        assert run("build", "schemas") == 0


class TestWarnings:
    def test_a_file_without_syntax_is_named_and_nothing_of_protocs_log(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(folder / "schemas/old.proto", "message Old { optional string a = 1; }")
        expected = (
            f"{Path('schemas/old.proto')}:1:1: warning: says no `syntax`, and is taken for proto2; "
            'write `syntax = "proto2";` on top\n'
        )
        assert run("build", "schemas") == 0
        assert capsys.readouterr().err == expected
        write(folder / "schemas/other.proto", 'syntax = "proto3"; message Other { Gone a = 1; }')
        assert run("build", "schemas") == 2
        wrong = f'{Path("schemas/other.proto")}:1:36: "Gone" is not defined.\n'
        assert sorted(capsys.readouterr().err.splitlines(True)) == [expected, wrong]

    @pytest.mark.parametrize(
        ("proto", "name"),
        [
            ("package google.sale; message Sale { string id = 1; }", "google.sale.Sale"),
            ("package shop; message A { B b = 1; } message B { A a = 1; }", "shop.A"),
        ],
    )
    def test_without_a_table_it_says_why_and_what_makes_one(
        self, folder: Path, capsys: pytest.CaptureFixture[str], proto: str, name: str
    ) -> None:
        write(folder / "schemas/shop/v1/sale.proto", f'syntax = "proto3"; {proto}')
        assert run("build", "schemas") == 0
        said = capsys.readouterr()
        assert said.out.splitlines()[-1].startswith("0 tables; ")
        assert said.err == (
            f"{Path('schemas/cdpgen.yaml')}: warning: no message is a table: those that others use and "
            "those in packages `google.*` are tables only where they are named, as with "
            f"`tables: {{{name}: {{}}}}`\n"
        )
        (folder / "schemas/cdpgen.lock").unlink()
        write(folder / "schemas/cdpgen.yaml", f"version: 1\ntables: {{{name}: {{}}}}")
        assert run("build", "schemas") == 0
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        "text",
        [
            'syntax = "proto3";',
            'syntax = "proto3"; service Shop {}',
            'syntax = "proto3"; enum A { B = 0; }',
        ],
    )
    def test_without_a_message_it_says_that_there_is_no_table(
        self, folder: Path, capsys: pytest.CaptureFixture[str], text: str
    ) -> None:
        write(folder / "schemas/shop/v1/sale.proto", text)
        assert run("build", "schemas") == 0
        said = "schemas: warning: no .proto in it has a message, so there is no table\n"
        assert capsys.readouterr().err == said

    def test_without_a_table_as_the_rules_want_it_says_nothing(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(folder / "schemas/cdpgen.yaml", "version: 1\ntables: {shop.v1.Sale: {skip: true}}")
        assert run("build", "schemas") == 0
        assert capsys.readouterr().err == ""


class TestWhatCannotBeRead:
    """`schemas/shop/v1/sale.proto`, and what lies beside it."""

    @pytest.mark.parametrize(
        "locked", ["schemas", "schemas/shop", "schemas/shop/v1", "schemas/shop/v1/sale.proto"]
    )
    @pytest.mark.parametrize("command", ["build", "check"])
    def test_a_file_or_folder_without_the_right_to_it(
        self, folder: Path, locked: str, command: str
    ) -> None:
        write(folder / "schemas/other.proto", 'syntax = "proto3"; message Other {}')
        assert run("build", "schemas") == 0
        before = stamps(folder)
        (folder / locked).chmod(0)
        try:
            done = unprivileged(command, "schemas")
        finally:
            (folder / locked).chmod(0o755)
        assert done.stderr == f"{Path(locked)}: cannot be read: Permission denied\n"
        assert (done.returncode, done.stdout) == (2, "")
        assert stamps(folder) == before

    def test_what_is_no_file(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "schemas/gone.proto").symlink_to("nowhere.proto")
        (folder / "schemas/shop/v2.proto").mkdir()
        os.mkfifo(folder / "schemas/pipe.proto")
        assert run("build", "schemas") == 2
        assert capsys.readouterr().err == (
            f"{Path('schemas/gone.proto')}: is a link to nowhere.proto, which is not there\n"
            f"{Path('schemas/pipe.proto')}: is no file; name only files that hold messages *.proto\n"
            f"{Path('schemas/shop/v2.proto')}: is a folder; name only files that hold messages "
            "*.proto\n"
        )

    def test_a_link_to_a_file_is_one(self, folder: Path) -> None:
        write(folder / "elsewhere.proto", 'syntax = "proto3"; message Other {}')
        (folder / "schemas/other.proto").symlink_to(folder / "elsewhere.proto")
        assert run("build", "schemas") == 0
        assert (folder / "generated/other_writer.py").exists()


class TestWhatCannotBeWritten:
    """`schemas/` was built, and `shop/v1/sale.proto` has one more field since; `old.proto` is gone."""

    @pytest.fixture(autouse=True)
    def _changed(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write(folder / "schemas/cdpgen.yaml", ACCEPT_REMOVAL.replace("shop.v1.Sale", "Old"))
        write(folder / "schemas/old/old.proto", 'syntax = "proto3"; message Old {}')
        (folder / "schemas/cdpgen.yaml").rename(folder / "later.yaml")
        assert run("build", "schemas") == 0
        (folder / "later.yaml").rename(folder / "schemas/cdpgen.yaml")
        (folder / "schemas/old/old.proto").unlink()
        write(folder / "schemas/shop/v1/sale.proto", PROTO.replace("}", "uint32 count = 2; }"))
        capsys.readouterr()

    @pytest.mark.parametrize(
        ("locked", "said"),
        [
            ("schemas/cdpgen.lock", "schemas/cdpgen.lock: cannot be written: Permission denied\n"),
            ("schemas", "schemas/cdpgen.lock: cannot be written: Permission denied\n"),
            (
                "generated/shop/v1/sale_writer.py",
                "generated/shop/v1/sale_writer.py: cannot be written: Permission denied\n",
            ),
            (
                "generated/shop/v1",
                "generated/shop/v1/sale_pb2.py: cannot be written: Permission denied\n",
            ),
            (
                "generated/old",
                "generated/old/__init__.py: cannot be removed: generated/old is read-only\n",
            ),
        ],
    )
    def test_a_file_or_folder_that_is_read_only_leaves_all_as_it_was(
        self, folder: Path, locked: str, said: str
    ) -> None:
        before = stamps(folder)
        mode = (folder / locked).stat().st_mode
        (folder / locked).chmod(mode & ~0o222)
        try:
            done = unprivileged("build", "schemas")
        finally:
            (folder / locked).chmod(mode)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
        assert stamps(folder) == before
        assert run("build", "schemas") == 0

    def test_folders_that_were_made_are_removed(self, folder: Path) -> None:
        write(folder / "schemas/a/b/new.proto", 'syntax = "proto3"; message New {}')
        (folder / "schemas/cdpgen.lock").chmod(0o444)
        (folder / "generated/shop/v1/sale_writer.py").chmod(0o444)
        assert unprivileged("build", "schemas").returncode == 2
        (folder / "schemas/cdpgen.lock").chmod(0o644)
        assert unprivileged("build", "schemas").returncode == 2
        assert not (folder / "generated/a").exists()

    @pytest.mark.parametrize("done", [1, 3])
    def test_the_lock_is_never_older_than_modules_that_archive(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, done: int
    ) -> None:
        renamed, replace = iter(range(100)), os.replace

        def fails(*arguments: Path) -> None:
            if next(renamed) == done:
                raise OSError(5, "Input/output error")
            replace(*arguments)

        before = stamps(folder)
        monkeypatch.setattr(os, "replace", fails)
        assert run("build", "schemas") == 2
        monkeypatch.undo()
        monkeypatch.chdir(folder)
        assert stamps(folder).keys() == before.keys()
        assert '"version": 2,' in (folder / "schemas/cdpgen.lock").read_text()
        assert run("build", "schemas") == 0
        assert run("build", "schemas", "--check") == 0
        assert "version = 2" in (folder / "generated/shop/v1/sale_writer.py").read_text()

    def test_a_link_stays_one_and_a_mode_what_it_was(self, folder: Path) -> None:
        lock, kept = folder / "schemas/cdpgen.lock", folder / "kept.lock"
        lock.rename(kept)
        lock.symlink_to("../kept.lock")
        kept.chmod(0o640)
        assert run("build", "schemas") == 0
        assert lock.is_symlink()
        assert kept.stat().st_mode & 0o777 == 0o640
        assert '"version": 2,' in kept.read_text()


class TestNamesThatDifferInCase:
    """What is new is refused: `testdata/error_case`."""

    def test_columns_that_were_archived_are_warned_of(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        two = PROTO.replace("}", "string b = 2; }")
        self.archived_as(folder, two, "b", "Article")
        for command in (["build", "schemas"], ["check", "schemas"]):
            assert run(*command) == 0
            said = capsys.readouterr().err
            assert said.startswith(
                f"{Path('schemas/shop/v1/sale.proto')}:4:36: warning: the columns `Article` and "
                "`article` (schemas/shop/v1/sale.proto:4:16) of shop.v1.Sale are one to DuckDB, "
            )
            assert said.count("\n") == 1

    def test_tables_that_were_archived_are_let_be_and_a_new_one_is_not(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        two = "message Old { string article = 1; }"
        self.archived_as(folder, PROTO + two, "Old", "sale")
        assert run("build", "schemas") == 0
        assert capsys.readouterr().err == ""
        text = (folder / "schemas/shop/v1/sale.proto").read_text("utf-8")
        write(folder / "schemas/shop/v1/sale.proto", text.replace("Sale", "SALE"))
        assert run("build", "schemas") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"{Path('schemas/shop/v1/sale.proto')}:4:1: the tables shop.v1.SALE")

    @staticmethod
    def archived_as(folder: Path, proto: str, name: str, then: str) -> None:
        """Schemas and a lock with another name than that with which they were built."""
        write(folder / "schemas/shop/v1/sale.proto", proto)
        assert run("build", "schemas") == 0
        lock = folder / "schemas/cdpgen.lock"
        text = lock.read_text("utf-8")
        write(lock, text.replace(f'"{name}"', f'"{then}"').replace(f".{name}", f".{then}"))
        write(folder / "schemas/shop/v1/sale.proto", proto.replace(f" {name} ", f" {then} "))
        shutil.rmtree(folder / "generated")


class TestVersion:
    def test_it_is_that_of_the_distribution(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--version") == 0
        assert capsys.readouterr().out == f"cdpgen {metadata.version('cdpgen')}\n"


class TestStubs:
    def test_what_hides_what_its_class_has_by_itself_is_no_error_of_a_type_checker(
        self, folder: Path
    ) -> None:
        enum = "enum %s { Name = 0; Value = 1; keys = 2; values = 3; items = 4; %s }"
        fields = (
            "int32 HasField = 1; Sale CopyFrom = 2; repeated string ListFields = 3; Sale Clear = 4;"
            "int32 __init__ = 6; int32 __dict__ = 7; repeated int32 __annotations__ = 8;"
        )
        text = (
            f'syntax = "proto3"; {enum % ("Out", "DESCRIPTOR = 5;")} '
            f"message Sale {{ {enum % ('In', '')} {fields} // Of it.\n Out MergeFrom = 5; }}"
        )
        write(folder / "schemas/shop/v1/sale.proto", text)
        of_a_file = 'syntax = "proto3"; package other; message DESCRIPTOR { string name = 1; }'
        write(folder / "schemas/shop/v1/other.proto", of_a_file)
        assert run("build", "schemas") == 0
        stubs = [f"generated/shop/v1/{name}_pb2.pyi" for name in ("sale", "other")]
        command = [sys.executable, "-m", "mypy", "--strict", *stubs]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    @pytest.mark.parametrize("end", ['"', "\\"])
    def test_a_comment_of_one_word_that_fits_no_line_leaves_them_python(
        self, folder: Path, end: str
    ) -> None:
        said = f"// {'x' * 100}{end}\n"
        text = f"""syntax = "proto3";
            {said} message Sale {{ {said} int32 price = 1; {said} Sale part = 2; }}
            {said} enum Kind {{ {said} NONE = 0; }}"""
        write(folder / "schemas/shop/v1/sale.proto", text)
        assert run("build", "schemas") == 0
        for path in (folder / "generated").rglob("*.py*"):
            ast.parse(path.read_text("utf-8"))


class TestSpeed:
    def test_200_messages_of_4000_fields_build_at_once(self, folder: Path) -> None:
        fields = "".join(f"// What {i} is.\n string field_{i} = {i};\n" for i in range(1, 21))
        for file in range(20):
            messages = "".join(f"message M{i} {{ {fields} }}\n" for i in range(10))
            text = f'syntax = "proto3"; package f{file};\n{messages}'
            write(folder / f"schemas/f{file}.proto", text)
        assert timed("build", "schemas") < 5
        assert timed("build", "schemas") < 1


class TestCheck:
    def test_it_is_content_after_a_build(self, folder: Path) -> None:
        assert run("build", "schemas") == 0
        assert run("build", "schemas", "--check") == 0

    def test_it_exits_1_changes_nothing_and_names_what_is_stale(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("build", "schemas") == 0
        more = PROTO.replace("}", "// How many.\n uint32 count = 2; }")
        write(folder / "schemas/shop/v1/sale.proto", more)
        before = stamps(folder)
        capsys.readouterr()
        assert run("build", "schemas", "--check") == 1
        assert stamps(folder) == before
        said = capsys.readouterr()
        assert f"stale {Path('generated/shop/v1/sale_writer.py')}" in said.out
        assert f"stale {Path('schemas/cdpgen.lock')}" in said.out
        assert said.err == "generated is stale; run: cdpgen build schemas\n"

    @pytest.mark.parametrize("path", ["generated/shop/v1/sale_pb2.pyi", "schemas/cdpgen.lock"])
    def test_it_notices_an_edited_or_missing_file(self, folder: Path, path: str) -> None:
        assert run("build", "schemas") == 0
        (folder / path).unlink()
        assert run("build", "schemas", "--check") == 1

    def test_it_notices_a_file_left_over(self, folder: Path) -> None:
        assert run("build", "schemas") == 0
        text = (folder / "generated/shop/v1/sale_pb2.py").read_text()
        write(folder / "generated/shop/v1/gone_pb2.py", text)
        assert run("build", "schemas", "--check") == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("path", "text", "expected"),
        [
            (
                "schemas/shop/v1/sale.proto",
                'syntax = "proto3";\nmessage Sale {\n  strin article = 1;\n}\n',
                'schemas/shop/v1/sale.proto:3:3: "strin" is not defined.\n',
            ),
            (
                "schemas/cdpgen.yaml",
                "version: 1\ntables:\n  shop.v1.Sale:\n    sort_by: [artikel]\n",
                "schemas/cdpgen.yaml:4:15: `artikel` is no column of shop.v1.Sale; "
                'did you mean "article"?\n',
            ),
            (
                "schemas/cdpgen.yaml",
                "version: 1\ntabels: {}\n",
                'schemas/cdpgen.yaml:2:1: unknown key `tabels`; did you mean "tables"?\n',
            ),
            (
                "schemas/cdpgen.yaml",
                "version: 1\ntables:\n  shop.v1.Sale:\n    columns:\n      [shop.rebate]: {}\n",
                "schemas/cdpgen.yaml:5:7: `[shop.rebate]` is no text, as a key has to be; the name of an "
                'extension stands in quotes: `"[shop.v1.rebate]"`\n',
            ),
            (
                "schemas/cdpgen.yaml",
                "tables: {? {a:\n b} : {}}\n",
                "schemas/cdpgen.yaml:1:12: `{a: b}` is no text, as a key has to be; the name of an "
                'extension stands in quotes: `"[shop.v1.rebate]"`\n',
            ),
            (
                "schemas/cdpgen.yaml",
                "tables: &all {Sale: *all}\n",
                "schemas/cdpgen.yaml:1:1: something in it holds itself, or a thousand others\n",
            ),
            (
                "schemas/cdpgen.yaml",
                "evolution: {ignore: [Sale]}\n",
                "schemas/cdpgen.yaml:1:22: `Sale` is no table, column, message or enum; did you mean "
                '"shop.v1.Sale"?\n',
            ),
            (
                "schemas/cdpgen.yaml",
                "evolution: {ignore: [nosuch]}\n",
                "schemas/cdpgen.yaml:1:22: `nosuch` is no table, column, message or enum; allowed: "
                "shop.v1.Sale, shop.v1.Sale._raw, shop.v1.Sale.article\n",
            ),
            (
                "schemas/cdpgen.lock",
                "{\n",
                "schemas/cdpgen.lock:2:1: not JSON: Expecting property name enclosed in double "
                "quotes. Was it edited by hand? `git checkout` brings it back; `cdpgen build` "
                "writes it\n",
            ),
        ],
    )
    def test_bad_input_is_named_by_file_and_line_with_exit_code_2(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        path: str,
        text: str,
        expected: str,
    ) -> None:
        write(folder / path, text)
        assert run("build", "schemas") == 2
        assert capsys.readouterr().err == expected

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            (
                "shop/v1/sale.proto",
                PROTO.replace("message", "// vendu à Liège, prix en €\nmessage"),
            ),
            ("cdpgen.yaml", "version: 1\n# Zwei Zeilen.\n\n# à Liège: prix en €\n"),
            ("cdpgen.lock", '{\n\n\n"a à Liège €": 1}'),
        ],
    )
    def test_what_is_not_utf8_is_named_by_its_place(
        self, folder: Path, capsys: pytest.CaptureFixture[str], path: str, text: str
    ) -> None:
        # The first byte that is not UTF-8 counts: the à before it is.
        data = text.encode("utf-8").replace("è".encode(), "è".encode("latin-1"))
        (folder / "schemas" / path).write_bytes(data)
        assert run("build", "schemas") == 2
        line = text.split("\n")[3]
        place = f"{Path('schemas') / path}:4:{line.index('è') + 1}"
        assert capsys.readouterr().err.startswith(
            f"{place}: not UTF-8: the byte 0xe8; save the file"
        )

    @pytest.mark.parametrize("key", ["sort_by", "bloom_filters", "partition_by"])
    def test_a_column_within_a_list_or_map_is_told_as_that(
        self, folder: Path, capsys: pytest.CaptureFixture[str], key: str
    ) -> None:
        text = PROTO.replace(
            "}", "repeated In ins = 2; map<int32, In> by = 3; message In { int32 x = 1; } }"
        )
        write(folder / "schemas/shop/v1/sale.proto", text)
        for name, kind in {"ins.x": "list", "by.value": "map"}.items():
            write(folder / "schemas/cdpgen.yaml", f"tables: {{shop.v1.Sale: {{{key}: {name}}}}}\n")
            assert run("build", "schemas") == 2
            outer = name.partition(".")[0]
            said = f"`{name}` is within `{outer}`, which is a {kind}: a row has many values of it, or none\n"
            assert capsys.readouterr().err.endswith(said)

    def test_rules_in_a_file_of_another_name_are_not_passed_over(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(folder / "schemas/cdpgen.yml", "version: 1\n")
        said = f"{Path('schemas/cdpgen.yml')}: is not read: rules stand in cdpgen.yaml; "
        assert run("build", "schemas") == 2
        assert capsys.readouterr().err == f"{said}rename this file\n"
        write(folder / "schemas/cdpgen.yaml", "version: 1\n")
        assert run("check", "schemas") == 2
        assert capsys.readouterr().err == f"{said}put them in there, and remove this file\n"

    def test_too_many_columns_name_the_fields_that_hold_most_of_them(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        many = " ".join(f"int32 f{i} = {i};" for i in range(1, 100))
        parts = " ".join(f"Part p{i} = {i};" for i in range(1, 100))
        proto = f"""syntax = "proto3"; package shop;
            message Part {{ {many} }} message Parts {{ {parts} }}
            message Box {{ Part one = 1; Parts all = 2; }}
            message Sale {{ string id = 1; Part part = 2; Box box = 3; Box other = 4; }}"""
        write(folder / "schemas/shop/v1/sale.proto", proto)
        assert run("build", "schemas") == 2
        assert capsys.readouterr().err.endswith(
            "; most of the first 10,000 are in `box.all` (9,800), `part` (99), `box.one` (99)\n"
        )
        rules = "version: 1\ntables: {shop.Sale: {columns: {box.all: {encoding: serialized}}}}"
        write(folder / "schemas/cdpgen.yaml", rules)
        assert run("build", "schemas") == 2
        assert "are in `other.all` (" in capsys.readouterr().err

    def test_messages_that_hold_each_other_are_written_once_where_they_are_kept_as_bytes(
        self, folder: Path
    ) -> None:
        # By each way through them it would be a million times.
        each = " ".join(f"M{i} m{i} = {i};" for i in range(1, 10))
        messages = "".join(f"message M{i} {{ {each} string name{i} = 10; }}" for i in range(1, 10))
        proto = f'syntax = "proto3"; package shop; {messages} message Sale {{ M1 all = 1; }}'
        write(folder / "schemas/shop/v1/sale.proto", proto)
        rules = "version: 1\ntables: {shop.Sale: {columns: {all: {encoding: serialized}}}}"
        write(folder / "schemas/cdpgen.yaml", rules)
        assert run("build", "schemas") == 0
        made = (folder / "generated/shop/v1/sale_writer.py").read_text()
        assert [made.count(f'name="name{i}"') for i in range(1, 10)] == [1] * 9

    @pytest.mark.parametrize("arguments", [["build"], ["build", "nowhere"], ["nonsense"]])
    def test_bad_usage_is_exit_code_2(self, folder: Path, arguments: list[str]) -> None:
        assert run(*arguments) == 2

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("sql a --dialect oracle", "'oracle' is not one of 'duckdb', 'bigquery', 'spark',"),
            ("check schemas --format xml", "'xml' is not one of 'text', 'json', 'github'."),
            ("dead-letters show a --limit few", "must be a whole number"),
            ("demo --messages 5", "must be greater than or equal to 1000"),
        ],
    )
    def test_a_value_that_an_option_does_not_take_is_told_for_people(
        self, capsys: pytest.CaptureFixture[str], arguments: str, said: str
    ) -> None:
        assert run(*arguments.split()) == 2
        option = next(each for each in arguments.split() if each.startswith("--"))
        assert f"Error: Invalid value for '{option}': {said}" in capsys.readouterr().err

    def test_a_folder_that_is_a_file_is_exit_code_2(self, folder: Path) -> None:
        write(folder / "generated", "")
        assert run("build", "schemas") == 2


ACCEPT_REMOVAL = """
evolution:
  accept:
    - {rule: MESSAGE_NO_DELETE, path: shop.v1.Sale, reason: never used}
"""


def unprivileged(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `cdpgen` does for somebody who may not read everything, as root may."""
    without: list[str] = []
    if os.geteuid() == 0:
        rights = "-dac_override,-dac_read_search"
        without = ["setpriv", "--bounding-set", rights, "--inh-caps", rights]
        tried = shutil.which("setpriv") and subprocess.run([*without, "true"], capture_output=True)
        if not tried or tried.returncode != 0:
            pytest.skip("root, who may read everything, and cannot drop the right to it here")
    command = [*without, sys.executable, "-m", "cdpgen", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def timed(*arguments: str) -> float:
    """The seconds of processor time that `cdpgen` takes, its children's included."""
    before = os.times()
    assert run(*arguments) == 0
    return sum(os.times()[:4]) - sum(before[:4])


def run(*arguments: str) -> int:
    """What `cdpgen` exits with."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def texts(folder: Path) -> dict[str, str]:
    """The files below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """When each file below a folder was written, and which it is."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }
