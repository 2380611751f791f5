"""`cdpgen archive`: what it is told, what it says, and its exit code."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_runtime.archive import load_tables, run, writer_of
from cdp_runtime.config import ConfigError
from cdp_runtime.store_local import LocalStorage
from tests.faults import checks
from tests.faults.failing_store import FailingStore

GENERATED = str(checks.ROOT / "generated")
CDPGEN = str(Path(sys.executable).with_name("cdpgen"))


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    checks.write_stream(tmp_path / "stream.pb", range(300))
    return tmp_path / "stream.pb"


def archive(**options: Any) -> int:
    return run(**{"table": checks.TABLE, "generated": GENERATED, **options})


def pipeline(folder: Path, table: str, *more: str) -> str:
    """Writes a pipeline file for one table, of which this is said; gives its path."""
    lines = [f"generated: {GENERATED}", "destination: a", *more]
    path = folder / "p.yaml"
    path.write_text("\n".join([*lines, f"tables: {{{checks.TABLE}: {table}}}", ""]))
    return str(path)


class TestRun:
    def test_one_line_tells_what_was_done_and_another_where_the_dead_letters_are(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        to = tmp_path / "a"
        assert archive(source=[str(stream)], to=str(to)) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith(f"{checks.TABLE}: 300 messages")
        assert "296 rows, 4 files" in first
        assert second == (
            f"{checks.TABLE}: 4 dead letters in {to}/_dead_letter/{checks.TABLE}: "
            f"cdpgen dead-letters list {to}"
        )
        assert checks.numbers_in(to) == list(range(300))

    def test_a_tables_folder_is_no_archive_for_any_table(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        to = tmp_path / "a"
        assert archive(source=[str(stream)], to=str(to)) == 0
        before = sorted(to.rglob("*"))
        for table in (checks.TABLE, "stellar.v1.ContractData"):
            inside = str(to / checks.TABLE)
            assert archive(table=table, source=[str(stream)], to=inside) == 2
            assert f"give that one: {to}\n" in capsys.readouterr().err
        assert sorted(to.rglob("*")) == before

    def test_an_archive_in_a_folder_of_a_tables_name_goes_on(
        self, stream: Path, tmp_path: Path
    ) -> None:
        for _ in range(2):
            assert archive(source=[str(stream)], to=str(tmp_path / checks.TABLE)) == 0
        assert checks.numbers_in(tmp_path / checks.TABLE) == list(range(300))

    def test_nothing_is_listed_for_a_url_without_a_tables_name(
        self, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listed = []
        whole = LocalStorage.files

        def files(storage: LocalStorage, prefix: str = "") -> Any:
            listed.append(prefix)
            return whole(storage, prefix)

        monkeypatch.setattr(LocalStorage, "files", files)
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 0
        assert "" not in listed

    def test_one_of_each_is_no_plural(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stream.write_bytes(b"")
        checks.write_stream(stream, range(1, 2))
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 0
        assert ": 1 message (" in (told := capsys.readouterr().out)
        assert "): 1 row, 1 file, " in told
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 0
        assert capsys.readouterr().out.endswith(": 1 message was there already\n")
        options = {"dry_run": "true"}
        assert archive(source=[str(stream)], to=str(tmp_path / "b"), options=options) == 0
        assert ": 1 file, 1 row, " in capsys.readouterr().out

    def test_what_was_there_already_is_told_from_rows_where_there_are_dead_letters(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        to = tmp_path / "an archive"
        stream.write_bytes(b"")
        checks.write_stream(stream, range(1, 4))
        for _ in range(2):
            assert archive(source=[str(stream)], to=str(to)) == 0
        assert capsys.readouterr().out.endswith("3 messages were there already\n")
        with stream.open("ab") as file:
            file.write(b"\x01\xff")
        assert archive(source=[str(stream)], to=str(to)) == 0
        assert archive(source=[str(stream)], to=str(to)) == 0
        assert capsys.readouterr().out.endswith(
            f"4 messages were there already, as rows or dead letters: cdpgen dead-letters list '{to}'\n"
        )

    def test_a_run_that_reads_nothing_but_dead_letters_fails(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stream.write_bytes(b"\x01\xff" * 3)
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 1
        assert "3 dead letters in" in (told := capsys.readouterr().out)
        assert "not one message is of this table: is the table right" in told
        # what follows them later is fine, and so is a run that finds nothing new
        checks.write_stream(stream, range(1, 3))
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 0
        with stream.open("ab") as file:
            file.write(b"\x01\xff")
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 0
        assert "not one message" not in capsys.readouterr().out

    @pytest.mark.parametrize(("letters", "said"), [(2, False), (3, True)])
    def test_a_run_that_reads_mostly_dead_letters_asks_whether_that_is_meant(
        self,
        stream: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        letters: int,
        said: bool,
    ) -> None:
        stream.write_bytes(b"\x01\xff" * letters)
        checks.write_stream(stream, range(1, 3))
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 0
        assert ("most messages are not of this table" in capsys.readouterr().out) == said

    @pytest.mark.parametrize(
        ("codec", "told"),
        [
            ("gzip", "gzip by its first bytes; name it {}.gz"),
            ("zstd", "zstd by its first bytes; name it {}.zst"),
            ("bz2", "bzip2 by its first bytes; name it {}.bz2"),
            ("", "Parquet by its first bytes; it is no stream of messages"),
        ],
    )
    @pytest.mark.parametrize("format", ["delimited", "ndjson"])
    def test_what_is_something_else_by_its_first_bytes_is_not_read(
        self,
        stream: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        codec: str,
        told: str,
        format: str,
    ) -> None:
        other = tmp_path / "other.pb"
        if codec:
            with pa.CompressedOutputStream(str(other), codec) as file:
                file.write(stream.read_bytes())
        else:
            pq.write_table(pa.table({"a": [1]}), other)
        sources = [str(other), *([str(stream)] if format == "delimited" else [])]
        assert archive(source=sources, to=str(tmp_path / "a"), format=format) == 1
        assert capsys.readouterr().err.startswith(f"{other}: is {told.format(other)}\n")
        if format == "delimited":
            assert checks.numbers_in(tmp_path / "a") == list(range(300))

    def test_a_message_may_begin_as_something_else_does(self, stream: Path, tmp_path: Path) -> None:
        # 80 bytes of a field 8 of eight bytes and one of the rest, which nobody knows
        first = b"PAR1\x15".ljust(10, b"x") + b"\x7a\x45" + b"y" * 69
        assert len(first) == 81
        stream.write_bytes(first + stream.read_bytes())
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 0

    @pytest.mark.parametrize(("rows", "said"), [(2, True), (5, False)])
    def test_many_small_files_are_worth_a_word(
        self,
        stream: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        rows: int,
        said: bool,
    ) -> None:
        options = {"max_file_rows": str(rows)}
        assert archive(source=[str(stream)], to=str(tmp_path / "a"), options=options) == 0
        assert ("its files are small (" in capsys.readouterr().out) is said

    def test_several_sources_of_a_table_end_up_in_one_archive(
        self, stream: Path, tmp_path: Path
    ) -> None:
        checks.write_stream(tmp_path / "more.pb", range(300, 400))
        sources = [str(stream), str(tmp_path / "m*.pb")]
        assert archive(source=sources, to=str(tmp_path / "a")) == 0
        assert checks.numbers_in(tmp_path / "a") == list(range(400))

    def test_a_path_is_the_path_that_it_is(self, stream: Path, tmp_path: Path) -> None:
        to = tmp_path / "a::b #?%41"
        assert archive(source=[str(stream)], to=str(to)) == 0
        assert checks.numbers_in(to) == list(range(300))
        assert not (tmp_path / "a").exists()

    def test_a_pipeline_file_does_the_same_relative_to_itself(
        self, stream: Path, tmp_path: Path
    ) -> None:
        table = f"{{source: {stream.name}, writer: {{max_file_rows: 50}}}}"
        assert run(pipeline(tmp_path, table)) == 0
        assert checks.numbers_in(tmp_path / "a") == list(range(300))
        assert len(checks.files(tmp_path / "a")) == 7

    @pytest.mark.parametrize(
        ("options", "code", "said"),
        [
            ({"source": [], "to": "a"}, 2, "missing: --from"),
            ({"source": ["no.pb"], "to": "a"}, 2, "no.pb: there is no such file"),
            ({"source": ["{stream}"], "to": "a", "table": "x.Y"}, 2, "x.Y: no such table"),
            ({"source": ["{stream}"], "to": "a", "generated": "no"}, 2, "cdpgen build"),
            ({"source": ["{stream}"], "to": "a", "options": {"max": 1}}, 2, "max: no such option"),
            ({"source": ["{stream}"], "to": "{stream}/a"}, 2, "stream.pb is no folder"),
            ({"source": ["{stream}"], "to": "{stream}"}, 2, "stream.pb is no folder"),
            ({"source": [""], "to": "a"}, 2, "--from: '' is not allowed: give a file, a glob or"),
            (
                {"source": ["{stream}", ""], "to": "a", "format": "xml"},
                2,
                "--format: 'xml' is not allowed: must be delimited or ndjson\n",
            ),
            (
                {"source": ["{stream}"], "to": "a", "options": {"partition_by": "_raw"}},
                2,
                f"{checks.TABLE}: partition_by: '_raw' is not allowed: this table has",
            ),
            (
                {"source": ["{stream}"], "to": "a", "options": {"ledgers_per_file": 7}},
                2,
                f"{checks.TABLE}: ledgers_per_file: 7 is not allowed",
            ),
            (
                {"source": ["{stream}"], "to": "a", "options": {"ledgers_per_file": 1 << 63}},
                2,
                "ledgers_per_file: 9223372036854775808 is not allowed: must be less than",
            ),
            (
                {"source": ["{stream}"], "to": "a", "options": {"journal": "stream.pb"}},
                2,
                "journal: 'stream.pb' is not allowed: it is no folder, and cannot be made one: File",
            ),
        ],
    )
    def test_what_is_wrong_is_said_without_a_traceback(
        self,
        stream: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        options: dict[str, Any],
        code: int,
        said: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        filled = {
            key: [one.format(stream=stream) for one in value]
            if isinstance(value, list)
            else value.format(stream=stream)
            if isinstance(value, str)
            else value
            for key, value in options.items()
        }
        assert archive(**filled) == code
        captured = capsys.readouterr()
        assert said in captured.err
        assert "Traceback" not in captured.err
        assert captured.out == ""

    def test_what_was_read_before_the_input_broke_is_published(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import gzip

        checks.write_stream(tmp_path / "whole.pb", range(200_000))
        packed = gzip.compress((tmp_path / "whole.pb").read_bytes())
        (tmp_path / "s.pb.gz").write_bytes(packed[:-9_000])
        assert archive(source=[str(tmp_path / "s.pb.gz")], to=str(tmp_path / "a")) == 1
        assert "s.pb.gz" in capsys.readouterr().err
        there = checks.numbers_in(tmp_path / "a")
        assert len(there) > 50_000
        (tmp_path / "s.pb.gz").write_bytes(packed)
        assert archive(source=[str(tmp_path / "s.pb.gz")], to=str(tmp_path / "a")) == 0
        assert checks.numbers_in(tmp_path / "a") == list(range(200_000))

    def test_the_inputs_and_tables_after_one_that_broke_are_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import gzip

        for name, part in (("a", range(100)), ("b", range(100, 200)), ("c", range(200, 300))):
            checks.write_stream(tmp_path / f"{name}.pb", part)
            packed = gzip.compress((tmp_path / f"{name}.pb").read_bytes())
            (tmp_path / f"{name}.pb").unlink()
            (tmp_path / f"{name}.pb.gz").write_bytes(packed if name != "b" else b"no gzip at all")
        assert archive(source=[str(tmp_path / "*.pb.gz")], to=str(tmp_path / "to")) == 1
        out, err = capsys.readouterr()
        assert "1 input could not be read to the end" in out
        assert f"{tmp_path}/b.pb.gz: " in err
        assert checks.numbers_in(tmp_path / "to") == [*range(100), *range(200, 300)]

    def test_an_input_that_is_named_twice_is_read_once(self, stream: Path, tmp_path: Path) -> None:
        (tmp_path / "link.pb").symlink_to(stream)
        (tmp_path / "hard.pb").hardlink_to(stream)
        sources = [str(stream), str(tmp_path / "*.pb"), str(tmp_path / "link.pb"), stream.as_uri()]
        assert archive(source=sources, to=str(tmp_path / "a")) == 0
        assert checks.numbers_in(tmp_path / "a") == list(range(300))

    def test_an_input_that_is_to_be_read_in_two_ways_is_refused(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        table = f"{{source: [{stream.name}, {{path: s*.pb, max_message_mb: 1}}]}}"
        assert run(pipeline(tmp_path, table)) == 2
        assert "stream.pb: is to be read in two ways" in capsys.readouterr().err

    def test_what_does_not_go_with_a_pipeline_file_is_refused(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = pipeline(tmp_path, f"{{source: {stream}}}")
        for flag, option in (
            ("--table", {"table": "x.Y"}),
            ("--from", {"source": ["b.pb"]}),
            ("--format", {"format": "ndjson"}),
            ("--generated", {"generated": "g"}),
        ):
            assert run(path, **option) == 2  # type: ignore[arg-type]
            assert f"{flag}: does not go with a pipeline file" in capsys.readouterr().err
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize("flags", [{}, {"table": "x.Y", "to": "a"}])
    @pytest.mark.parametrize("given", ["stream.pb", "no.pb", "."])
    def test_a_stream_where_a_pipeline_file_belongs_is_told_where_to_stand(
        self,
        flags: dict[str, Any],
        given: str,
        stream: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(stream.parent)
        stream.write_bytes(b"\xff" * 10)
        assert run(given, **flags) == 2
        first, second = capsys.readouterr().err.splitlines()
        assert ("--table: does not go with a pipeline file" in first) is bool(flags)
        assert "say it in" not in first
        assert second == (
            f"{given}: was taken for a PIPELINE.yaml; a stream goes behind --from: --from {given}"
        )

    def test_a_pipeline_file_is_not_taken_for_a_stream(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = pipeline(tmp_path, f"{{source: {stream}}}")
        assert run(path, table="x.Y") == 2
        assert capsys.readouterr().err.endswith(f"; say it in {path}\n")
        assert run(str(Path(path).rename(tmp_path / "p.conf"))) == 0

    def test_an_input_that_may_not_be_read_is_told_in_one_line(
        self,
        stream: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def refuse(*arguments: Any, **options: Any) -> Any:
            raise PermissionError(errno.EACCES, "Permission denied", str(stream))

        monkeypatch.setattr("cdp_runtime.sources.files.open_input", refuse)
        assert archive(source=[str(stream)], to=str(tmp_path / "a")) == 1
        assert capsys.readouterr().err == f"{stream}: cannot be read: Permission denied\n"

    def test_a_module_in_which_schema_and_program_differ_is_named(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        generated = tmp_path / "mine"
        shutil.copytree(GENERATED, generated)
        module = generated / "stellar/v1/asset_details_writer.py"
        edited = module.read_text().replace('pa.field("code",', 'pa.field("kode",')
        assert edited != module.read_text()
        module.write_text(edited)
        to = tmp_path / "a"
        assert archive(source=[str(stream)], to=str(to), generated=str(generated)) == 2
        assert capsys.readouterr().err == (
            f"{generated}: asset_details_writer.py, which has {checks.TABLE}, was edited; make it anew "
            f"with: cdpgen build SCHEMAS --out {generated} "
            f"({checks.TABLE}.code: the schema has no column 'code')\n"
        )
        assert not to.exists()
        with pytest.raises(ConfigError, match="was edited"):
            writer_of(load_tables(generated), checks.TABLE, generated)

    def test_keys_are_renamed_in_ndjson_alone(
        self, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        table = f"{{source: {{path: {stream.name}, fields: {{a: code}}}}}}"
        assert run(pipeline(tmp_path, table)) == 2
        assert "stream.pb is delimited, and only ndjson has keys" in capsys.readouterr().err

    @pytest.mark.parametrize("said", ["raise RuntimeError('no')", "import nothing_like_it", "None"])
    def test_messages_that_cannot_be_imported_are_said_before_anything_begins(
        self, said: str, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        generated = tmp_path / "mine"
        shutil.copytree(GENERATED, generated)
        (generated / "stellar/v1/asset_details_pb2.py").write_text(said)
        to = tmp_path / "a"
        code = archive(source=[str(stream)], to=str(to), generated=str(generated))
        assert code == 2
        assert f"{generated}: cannot be imported (" in capsys.readouterr().err
        assert not to.exists()

    def test_what_was_read_is_published_at_a_stop_while_nobody_writes_to_the_next_pipe(
        self, stream: Path, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "pipe.pb")
        said = ["--table", checks.TABLE, "--from", "-", "--from", "pipe.pb", "--set", "debug=true"]
        limit = ["--set", "shutdown_seconds=5"]
        to = ["--format", "delimited", "--to", "a", "--generated", GENERATED]
        with (
            stream.open("rb") as file,
            subprocess.Popen(
                [CDPGEN, "archive", *said, *to, *limit],
                cwd=tmp_path,
                stdin=file,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            assert process.stderr is not None
            assert any('"source": "pipe.pb"' in line for line in process.stderr)
            process.terminate()
            process.communicate(timeout=60)
        assert process.returncode == 0
        assert checks.numbers_in(tmp_path / "a") == list(range(300))

    @pytest.mark.parametrize(
        ("error", "code"), [(PermissionError("no"), 2), (ConnectionRefusedError("away"), 1)]
    )
    def test_a_source_of_which_the_store_does_not_tell(
        self, error: OSError, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FailingStore.empty()
        FailingStore.plan = lambda call, name, done: error if name == "info" else None
        assert archive(source=["failing://x/a.pb"], to=str(tmp_path / "a")) == code
        FailingStore.plan = None
        assert capsys.readouterr().err == f"failing://x/a.pb: cannot be read: {error}\n"

    def test_the_journal_of_a_pipeline_file_lies_relative_to_it(
        self, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = pipeline(tmp_path, f"{{source: {stream.name}}}", "writer: {journal: j}")
        monkeypatch.chdir("/")
        assert run(path) == 0
        assert (tmp_path / "j" / checks.TABLE).is_dir()


class TestWhereNobodyCanBeTold:
    """What is archived is archived, and the exit code says no more than that."""

    @pytest.mark.parametrize("redirected", ["2>&-", ">&- 2>&-", "2>/dev/full", ">/dev/full"])
    def test_the_exit_is_0(self, redirected: str, stream: Path, tmp_path: Path) -> None:
        said = f'--table {checks.TABLE} --from "$1" --to "$2" --generated "$3" {redirected}'
        ended = subprocess.run(
            ["sh", "-c", f'"$0" archive {said}', CDPGEN, stream, tmp_path / "a", GENERATED],
            # what Python has not written yet it tries to write at its end
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            capture_output=True,
            timeout=60,
        )
        assert ended.returncode == 0
        assert checks.numbers_in(tmp_path / "a") == list(range(300))

    def test_what_the_locale_does_not_have_is_escaped_but_for_engines(
        self, stream: Path, tmp_path: Path
    ) -> None:
        def said(*arguments: str | Path) -> tuple[bytes, bytes]:
            ended = subprocess.run(
                [CDPGEN, *arguments, "--generated", GENERATED],
                env={**os.environ, "PYTHONIOENCODING": "ascii"},
                cwd=tmp_path,
                capture_output=True,
                timeout=60,
            )
            return ended.stdout, ended.stderr

        table = ["--table", checks.TABLE]
        out, _ = said("archive", *table, "--from", stream, "--to", "archivé")
        assert b"/archiv\\xe9/_dead_letter/" in out
        assert "archivé/" in said("sql", "archivé")[0].decode()
        assert said("archive", *table, "--from", "é.pb", "--to", "a") == (
            b"",
            b"\\xe9.pb: there is no such file\n",
        )

    def test_every_input_and_table_is_archived(
        self, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "broken.pb.gz").write_bytes(b"no gzip at all")
        other = "stellar.v1.ContractData"
        path = pipeline(
            tmp_path, f"{{source: [broken.pb.gz, {stream.name}]}}, {other}: {{source: e.pb}}"
        )
        (tmp_path / "e.pb").write_bytes(b"\0")
        full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
        monkeypatch.setattr("sys.stdout", full)
        monkeypatch.setattr("sys.stderr", full)
        assert run(path) == 1
        assert checks.numbers_in(tmp_path / "a" / checks.TABLE) == [
            number for number in range(300) if not checks.is_corrupt(number)
        ]
        assert len(checks.files(tmp_path / "a" / other)) == 1

    def test_a_terminal_that_has_gone_ends_nothing(self, stream: Path, tmp_path: Path) -> None:
        read_end, write_end = os.pipe()
        terminal, its_end = os.openpty()
        said = ["--table", checks.TABLE, "--from", "-", "--format", "delimited"]
        with subprocess.Popen(
            [CDPGEN, "archive", *said, "--to", tmp_path / "a", "--generated", GENERATED],
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=its_end,
        ) as process:
            os.close(its_end)
            os.close(read_end)
            os.read(terminal, 1)  # the progress has begun
            os.close(terminal)
            os.write(write_end, stream.read_bytes())
            os.close(write_end)
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert b"300 messages" in out
        assert checks.numbers_in(tmp_path / "a") == list(range(300))


class TestLoadTables:
    def test_a_folder_of_any_name_is_imported_from_where_it_lies(self, tmp_path: Path) -> None:
        (tmp_path / "json").symlink_to(GENERATED)
        before = list(sys.path)
        tables = load_tables(tmp_path / "json")
        assert sorted(tables)[0] == checks.TABLE
        assert tables[checks.TABLE].table == checks.TABLE
        assert sys.path == before

    def test_where_there_is_none_it_is_told_where_was_looked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        said = (
            rf"^generated: is no folder .* \(looked at {tmp_path}/generated\); .* --generated, or"
        )
        with pytest.raises(ConfigError, match=said):
            load_tables("generated")

    @pytest.mark.parametrize("inside", ["stellar", "stellar/v1"])
    def test_a_folder_within_one_is_told_which_is_meant(self, inside: str) -> None:
        said = rf"{inside}: lies within a folder of generated writers; give that one: {GENERATED}$"
        with pytest.raises(ConfigError, match=said):
            load_tables(f"{GENERATED}/{inside}")

    @pytest.mark.parametrize("content", ["TABLES = ", "import nothing_like_it", "TABLES = 3", ""])
    def test_one_that_cannot_be_imported_is_told_how_to_be_made(
        self, content: str, tmp_path: Path
    ) -> None:
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "__init__.py").write_text(content)
        with pytest.raises(ConfigError, match="cdpgen build SCHEMAS --out"):
            load_tables(tmp_path / "broken")
