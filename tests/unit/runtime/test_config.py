"""Options and pipeline files: what is taken, what is refused, and what is said then."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdp_runtime.config import (
    STORAGE_KEYS,
    ConfigError,
    PipelineConfig,
    SourceConfig,
    TableConfig,
    WriterConfig,
    WriterOptions,
    check,
    load_pipeline,
)
from tests import configuration_page


def refusal(values: Mapping[str, Any], model: Any = WriterConfig) -> str:
    with pytest.raises(ConfigError) as raised:
        check(model, values)
    return str(raised.value)


class TestWriterConfig:
    def test_every_option_is_a_keyword_argument_of_writers_of_the_same_name(self) -> None:
        assert list(typing.get_type_hints(WriterOptions)) == list(WriterConfig.model_fields)

    def test_the_names_of_the_go_consumer_are_known(self) -> None:
        of_a_go_configuration = yaml.safe_load(
            """
            storage_type: "GCS"
            bucket_name: "stellar-archive"
            path_prefix: "contract_data"
            region: "us-central1"
            buffer_size: 10000
            max_file_size_mb: 128
            rotation_interval_minutes: 60
            partition_by: "ledger_day"
            ledgers_per_file: 10000
            compression: "snappy"
            schema_evolution: true
            include_metadata: true
            debug: false
            dry_run: false
            """
        )
        config = check(WriterConfig, of_a_go_configuration)
        assert config.model_dump(include=set(of_a_go_configuration)) == {
            **of_a_go_configuration,
            "partition_by": ("ledger_day",),
        }

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            (
                {"buffer_size": 0},
                "buffer_size: 0 is not allowed: must be greater than or equal to 1",
            ),
            (
                {"max_file_size_mb": "big"},
                "max_file_size_mb: 'big' is not allowed: must be a number",
            ),
            ({"max_file_size_mb": float("nan")}, "max_file_size_mb: nan is not allowed"),
            (
                {"compression": "zst"},
                "compression: 'zst' is not allowed: must be 'zstd', 'snappy', 'gzip', 'lz4', 'brotli' "
                "or 'none'",
            ),
            (
                {"compresion": "zstd"},
                "compresion: no such option; did you mean compression? allowed",
            ),
            (
                {"compression_level": 23},
                "compression_level: 23 is not allowed: zstd takes 1 to 22",
            ),
            (
                {"compression": "snappy", "compression_level": 1},
                "compression_level: 1 is not allowed: snappy has no levels",
            ),
            ({"dry_run": "maybe"}, "dry_run: 'maybe' is not allowed: must be true or false"),
            (
                {"max_open_files": "abc"},
                "max_open_files: 'abc' is not allowed: must be a whole number",
            ),
            ({"max_open_files": 1.5}, "max_open_files: 1.5 is not allowed: must be a whole number"),
            ({"buffer_size": []}, "buffer_size: [] is not allowed: must be a whole number"),
            ({"partition_by": 5}, "partition_by: 5 is not allowed: must be a list of names"),
            ({"partition_by": [5]}, "partition_by.0: 5 is not allowed: must be text"),
            (
                {"storage_options": "x"},
                "storage_options: 'x' is not allowed: must be keys and values",
            ),
            (
                {"storage_type": "HDFS"},
                "storage_type: 'HDFS' is not allowed: must be 'FS', 'GCS' or 'S3'",
            ),
            (
                {"storage_type": "S3"},
                "bucket_name: is missing: storage_type S3 needs it",
            ),
            ({"storage_type": "FS"}, "local_path: is missing: storage_type FS needs it"),
            (
                {"storage_type": "FS", "local_path": "a", "bucket_name": "b"},
                "bucket_name: 'b' is not allowed: storage_type FS has none",
            ),
            (
                {"storage_type": "FS", "local_path": "a", "region": "eu-west-1"},
                "region: 'eu-west-1' is not allowed: storage_type FS has none",
            ),
            (
                {"storage_type": "GCS", "bucket_name": "b", "local_path": "a"},
                "local_path: 'a' is not allowed: storage_type GCS has none",
            ),
            (
                {"bucket_name": "b"},
                "bucket_name: 'b' is not allowed: it goes with storage_type: FS, GCS or S3",
            ),
            (
                {"storage_type": "S3", "bucket_name": "b/c"},
                "bucket_name: 'b/c' is not allowed: must be a name of letters, digits, ., _, : and -",
            ),
            (
                {"storage_type": "S3", "bucket_name": "b", "path_prefix": "a/../.."},
                "path_prefix: 'a/../..' is not allowed: it names a folder below, without ..",
            ),
        ],
        ids=str,
    )
    def test_a_mistake_is_told_by_key_value_and_what_is_allowed(
        self, values: dict[str, Any], said: str
    ) -> None:
        told = refusal(values)
        assert told.startswith(said)
        assert "valid" not in told  # as pydantic says it

    def test_all_mistakes_are_told_at_once(self) -> None:
        told = refusal({"buffer_size": 0, "row_group_mb": -1, "nothing": 1})
        assert [line.partition(":")[0] for line in told.splitlines()] == [
            "buffer_size",
            "row_group_mb",
            "nothing",
        ]

    def test_texts_are_read_as_what_is_wanted(self) -> None:
        config = check(
            WriterConfig,
            {
                "buffer_size": "7",
                "max_file_size_mb": "1.5",
                "dry_run": "true",
                "partition_by": "day, kind ,",
                "compression": "SNAPPY",
                "storage_type": "fs",
                "local_path": "a",
            },
        )
        assert (config.buffer_size, config.max_file_size_mb, config.dry_run) == (7, 1.5, True)
        assert config.partition_by == ("day", "kind")
        assert (config.compression, config.storage_type) == ("snappy", "FS")

    def test_no_partitions_is_something_else_than_those_of_the_rules(self) -> None:
        assert check(WriterConfig, {"partition_by": ""}).partition_by == ()
        assert check(WriterConfig, {"partition_by": []}).partition_by == ()
        assert check(WriterConfig, {}).partition_by is None

    def test_what_opens_a_store_is_not_shown(self) -> None:
        config = check(WriterConfig, {"storage_options": {"secret": "hunter2"}})
        assert "hunter2" not in repr(config)
        assert "hunter2" not in refusal(
            {"storage_options": {"secret": "hunter2"}, "buffer_size": 0}
        )

    @pytest.mark.parametrize("key", ["buffer_size", "max_file_size_mb", "max_file_rows"])
    def test_yes_is_no_number(self, key: str) -> None:
        assert refusal({key: True}) == f"{key}: True is not allowed: must be a number"


class TestDestination:
    def test_an_empty_one_is_not_here(self) -> None:
        with pytest.raises(ConfigError, match="destination: '' is not allowed"):
            check(WriterConfig, {}).destination("")

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("s3:/bucket/a", "a URL has two slashes: s3://bucket/a"),
            ("gs:bucket", "a URL has two slashes: gs://bucket"),
            ("~nobody-here/a", "there is no such user; ./~ is a folder of that name"),
        ],
    )
    def test_what_would_be_a_folder_that_nobody_means_is_refused(self, url: str, said: str) -> None:
        with pytest.raises(ConfigError, match=f"^destination: '{url}' is not allowed: {said}$"):
            check(WriterConfig, {}).destination(url)
        assert check(WriterConfig, {}).destination(f"./{url}").url == f"./{url}"

    @pytest.mark.parametrize(
        ("values", "url", "expected"),
        [
            ({}, "archive", ("archive", {})),
            ({}, "s3://b/a/", ("s3://b/a/", {})),
            ({}, Path("/data"), ("/data", {})),
            ({"storage_type": "FS", "local_path": "/data/"}, None, ("/data", {})),
            (
                {"storage_type": "FS", "local_path": "/data", "path_prefix": "/a/b/"},
                None,
                ("/data/a/b", {}),
            ),
            ({"storage_type": "FS", "local_path": "/"}, None, ("/", {})),
            ({"storage_type": "GCS", "bucket_name": "b"}, None, ("gs://b", {})),
            (
                {
                    "storage_type": "S3",
                    "bucket_name": "b",
                    "path_prefix": "a",
                    "region": "eu-west-1",
                },
                None,
                ("s3://b/a", {"client_kwargs": {"region_name": "eu-west-1"}}),
            ),
            (
                {"storage_type": "GCS", "bucket_name": "b", "region": "EU"},
                None,
                ("gs://b", {"default_location": "EU"}),
            ),
            ({"region": "x"}, "s3://b", ("s3://b", {"client_kwargs": {"region_name": "x"}})),
        ],
        ids=str,
    )
    def test_it_is_a_url_and_what_opens_it(
        self, values: dict[str, Any], url: str | None, expected: tuple[str, dict[str, Any]]
    ) -> None:
        assert check(WriterConfig, values).destination(url) == expected

    def test_options_of_the_store_go_through_unchanged(self) -> None:
        options = {"key": "k", "client_kwargs": {"region_name": "mine", "verify": False}, "n": 1}
        config = check(WriterConfig, {"region": "theirs", "storage_options": options})
        assert config.destination("s3://b").storage_options == options

    @pytest.mark.parametrize(
        ("url", "own", "expected"),
        [
            (
                "s3://b",
                {"key": "k", "client_kwargs": {"verify": False}},
                {"key": "k", "client_kwargs": {"verify": False, "region_name": "eu-west-1"}},
            ),
            (
                "s3://b",
                {"client_kwargs": None},
                {"client_kwargs": {"region_name": "eu-west-1"}},
            ),
            ("gs://b", {"token": "t"}, {"token": "t", "default_location": "eu-west-1"}),
            ("gs://b", {"default_location": "EU"}, {"default_location": "EU"}),
        ],
    )
    def test_the_region_stands_beside_other_options_of_the_store(
        self, url: str, own: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        config = check(WriterConfig, {"region": "eu-west-1", "storage_options": own})
        assert config.destination(url).storage_options == expected
        assert config.storage_options == own

    def test_the_home_directory_is_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/ada")
        config = check(WriterConfig, {"storage_type": "FS", "local_path": "~/archive"})
        assert config.destination().url == "/home/ada/archive"

    def test_two_destinations_are_refused(self) -> None:
        config = check(WriterConfig, {"storage_type": "S3", "bucket_name": "b"})
        with pytest.raises(ConfigError, match="destination is already given as archive"):
            config.destination("archive")

    def test_none_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"^destination: is missing: give a path or URL, or"):
            check(WriterConfig, {}).destination()

    def test_a_region_of_what_has_none_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"^region: 'x' is not allowed: archive has none"):
            check(WriterConfig, {"region": "x"}).destination("archive")

    def test_the_options_that_say_where_are_those_that_a_url_replaces(self) -> None:
        assert set(STORAGE_KEYS) <= set(WriterConfig.model_fields)


PIPELINE = """\
destination: s3://bucket/archive
writer:
  max_file_size_mb: 128
tables:
  a.B:
    source: b.pb
  a.C:
    source:
      - c.pb
      - {path: d.txt, format: ndjson, fields: {x: y}}
    writer: {compression: snappy}
"""


def load(tmp_path: Path, text: str, **environment: str) -> PipelineConfig:
    (tmp_path / "p.yaml").write_text(text)
    return load_pipeline(tmp_path / "p.yaml", environment)


def mistakes(tmp_path: Path, text: str, **environment: str) -> list[str]:
    """What is said of a file, without its name."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text, **environment)
    return [line.removeprefix(f"{tmp_path}/p.yaml:") for line in str(raised.value).splitlines()]


class TestLoadPipeline:
    def test_sources_may_be_a_path_or_a_list_of_paths_and_sources(self, tmp_path: Path) -> None:
        config = load(tmp_path, PIPELINE)
        assert config.destination == "s3://bucket/archive"
        assert config.tables["a.B"].source == [SourceConfig(path="b.pb")]
        assert config.tables["a.C"].source == [
            SourceConfig(path="c.pb"),
            SourceConfig(path="d.txt", format="ndjson", fields={"x": "y"}),
        ]
        assert config.tables["a.C"].writer == {"compression": "snappy"}

    def test_mistakes_are_told_by_line_and_key(self, tmp_path: Path) -> None:
        text = PIPELINE.replace("128", "lots").replace("snappy", "snapy").replace("c.pb", "''")
        assert mistakes(tmp_path, text.replace("a.B:\n    source", "a.B:\n    sorce")) == [
            "5: tables.a.B.source: is missing",
            "6: tables.a.B.sorce: no such option; did you mean source? allowed are source, writer",
            "9: tables.a.C.source.0.path: '' is not allowed: must not be empty",
        ]
        assert [line.split(" is ")[0] for line in mistakes(tmp_path, text.replace("''", "c"))] == [
            "3: writer.max_file_size_mb: 'lots'",
            "11: tables.a.C.writer.compression: 'snapy'",
        ]

    def test_options_that_only_go_together_with_others_are_not_judged_alone(
        self, tmp_path: Path
    ) -> None:
        text = PIPELINE.replace("max_file_size_mb: 128", "{bucket_name: b, compression_level: 0}")
        config = load(tmp_path, text.replace("writer:\n  {", "writer: {"))
        assert config.writer == {"bucket_name": "b", "compression_level": 0}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: [", "1: expected the node content, but found '<stream end>'"),
            ("a: b: c", "1: mapping values are not allowed here"),
            ("", " expected keys and values (destination, tables, ...)"),
            ("[1]", " expected keys and values (destination, tables, ...)"),
            (
                "a: 1\n---\nb: 2",
                "2: expected a single document in the stream but found another document",
            ),
            (
                "tables: {a.B: {source: }}",
                "1: tables.a.B.source: nothing is not allowed: give a path, or",
            ),
            (
                "tables: {a.B: {source: [a.pb, 3]}}",
                "1: tables.a.B.source: 3 is not allowed: give a",
            ),
            ("version: 2\ntables: {a.B: {source: x}}", "1: version: 2 is not allowed: must be 1"),
            ("tables: {}", "1: tables: {} is not allowed: must not be empty"),
            (
                "tables:\n  a.B: b.pb",
                "2: tables.a.B: 'b.pb' is not allowed: must be keys and values, such as source: orders.pb",
            ),
            ("tables: {a.B: 5}", "1: tables.a.B: 5 is not allowed: must be keys and values"),
            ("tables: [a.B]", "1: tables: ['a.B'] is not allowed: must be keys and values"),
            (
                "tables: {a.B: {source: 5}}",
                "1: tables.a.B.source: 5 is not allowed: give a path, or keys and values",
            ),
        ],
    )
    def test_what_is_no_pipeline_is_told_where(self, tmp_path: Path, text: str, said: str) -> None:
        (line,) = mistakes(tmp_path, text)
        assert line.startswith(said)

    def test_a_file_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file or directory"):
            load_pipeline(tmp_path / "nothing.yaml")

    def test_a_file_of_other_bytes_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "p.yaml").write_bytes(b"a: \xff")
        with pytest.raises(ConfigError, match=r"p\.yaml: not UTF-8: .* at byte 3"):
            load_pipeline(tmp_path / "p.yaml")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("destination: a\ndestination: b\ntables: {}", "2: destination: stands here twice"),
            ("tables:\n  a.B: {source: x.pb}\n  a.B: {source: y.pb}", "3: a.B: stands here twice"),
            ("destination: 2024-99-99", "a value does not fit: month must be in 1..12; put text"),
            ("destination: !!int abc", "a value does not fit: invalid literal"),
            ("[" * 3_000, "is nested too deep"),
            ("writer: &x {storage_options: *x}", "is nested too deep"),
            (
                'destination: "a\\0b"\ntables: {a.B: {source: x.pb}}',
                "must be without zero bytes",
            ),
        ],
    )
    def test_what_yaml_would_drop_or_choke_on_is_said(
        self, text: str, said: str, tmp_path: Path
    ) -> None:
        told = mistakes(tmp_path, text)
        assert any(said in one for one in told), told
        assert ("quotes" in str(told)) is ("a value does not fit" in said)


class TestVariables:
    text = "destination: {}\nwriter:\n  buffer_size: {}\ntables: {{a.B: {{source: '${{DIR}}/x'}}}}"

    def given(self, tmp_path: Path, value: str, **environment: str) -> str | None:
        return load(tmp_path, self.text.format(value, 1), DIR="d", **environment).destination

    @pytest.mark.parametrize(
        ("value", "environment", "expected"),
        [
            ("${A}", {"A": "x"}, "x"),
            ("s3://${A}/${B}", {"A": "x", "B": "y"}, "s3://x/y"),
            ("${A:-z}", {}, "z"),
            ("${A:-z}", {"A": ""}, "z"),
            ("${A:-z}", {"A": "x"}, "x"),
            ("x${A:-}", {}, "x"),
            ("x${A}", {"A": ""}, "x"),
            ("${A:-s3://b/c}", {}, "s3://b/c"),
            ("$${A}", {}, "${A}"),
            ("a$b", {}, "a$b"),
            ("${A}", {"A": "${B}"}, "${B}"),
            ("${A}", {"A": "0123"}, "0123"),
            ("${A}", {"A": "null"}, "null"),
            ("${A}", {"A": "x: {y"}, "x: {y"),
        ],
    )
    def test_they_stand_for_their_text(
        self, tmp_path: Path, value: str, environment: dict[str, str], expected: str
    ) -> None:
        assert self.given(tmp_path, f"'{value}'", **environment) == expected

    def test_numbers_are_read_from_them(self, tmp_path: Path) -> None:
        config = load(tmp_path, self.text.format("x", "${N}"), DIR="d", N="7")
        assert check(WriterConfig, config.writer).buffer_size == 7

    def test_they_are_put_into_lists_and_deep_inside(self, tmp_path: Path) -> None:
        text = "tables: {a.B: {source: [{path: x, storage_options: {a: [{b: '${S}'}]}}]}}"
        config = load(tmp_path, text, S="s")
        assert config.tables["a.B"].source[0].storage_options == {"a": [{"b": "s"}]}

    def test_those_that_are_not_set_are_told_with_key_and_line_all_at_once(
        self, tmp_path: Path
    ) -> None:
        assert mistakes(tmp_path, self.text.format("${A}", "${N}")) == [
            "1: destination: the environment has no A: set it, or write ${A:-default}",
            "3: writer.buffer_size: the environment has no N: set it, or write ${N:-default}",
            "4: tables.a.B.source: the environment has no DIR: set it, or write ${DIR:-default}",
        ]

    @pytest.mark.parametrize("value", ["${", "${}", "${1A}", "${A", "${A-b}", "${ A }"])
    def test_what_begins_one_and_is_none_is_told(self, tmp_path: Path, value: str) -> None:
        (line,) = mistakes(tmp_path, self.text.format(f"'{value}'", 1), DIR="d", A="a")
        assert line == (
            "1: destination: ${ begins a variable: write ${NAME}, ${NAME:-default}, or $${ for itself"
        )

    def test_values_of_the_environment_are_not_told_when_something_else_is_wrong(
        self, tmp_path: Path
    ) -> None:
        text = "tables: {a.B: {source: {path: x, storage_options: {s: '${S}'}}}}\nwriter: {x: 1}"
        assert "hunter2" not in "".join(mistakes(tmp_path, text, S="hunter2"))

    def test_an_alias_is_put_once(self, tmp_path: Path) -> None:
        text = (
            'destination: &here "j$${A}"\nwriter: {journal: *here}\ntables: {a.B: {source: x.pb}}'
        )
        config = load(tmp_path, text)
        assert (config.destination, config.writer["journal"]) == ("j${A}", "j${A}")

    def test_a_default_has_no_variables(self, tmp_path: Path) -> None:
        text = "destination: ${NOPE:-${OTHER}}\ntables: {a.B: {source: x.pb}}"
        [said] = mistakes(tmp_path, text)
        assert "a default is plain text" in said


class TestPage:
    def test_the_page_is_made_of_the_models(self) -> None:
        page = Path(__file__).parents[3] / "docs" / "configuration.md"
        assert page.read_text() == configuration_page.page(), (
            "run: python -m tests.configuration_page > docs/configuration.md"
        )

    @pytest.mark.parametrize("model", [WriterConfig, SourceConfig, TableConfig, PipelineConfig])
    def test_every_option_is_described_and_nothing_else(self, model: Any) -> None:
        assert list(configuration_page.described(model)) == list(model.model_fields)

    def test_the_example_on_the_page_is_a_pipeline(self, tmp_path: Path) -> None:
        page = configuration_page.page()
        example = page.partition("```yaml\n")[2].partition("```")[0]
        config = load(tmp_path, example, KEY="k", SECRET="s")
        assert config.destination == "archive"
        check(WriterConfig, {**config.writer, **config.tables["stellar.v1.ContractData"].writer})
