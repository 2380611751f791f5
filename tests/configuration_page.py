"""docs/configuration.md, made from the models in `cdp_runtime.config`, where each option is described once.

`python -m tests.configuration_page > docs/configuration.md` writes it; a test holds it to the models.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cdp_runtime.config import PipelineConfig, SourceConfig, TableConfig, WriterConfig

_NAMES: Final = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    dict: "keys and values",
    list: "one or a list",
    tuple: "names, with commas or as a list",
}

_PAGE: Final = """# Configuration

Made by `python -m tests.configuration_page` from the models in `runtime/cdp_runtime/config.py`. What becomes
a table or column is decided in another file, `cdpgen.yaml`: [rules.md](rules.md). Each option has one name
and one meaning, wherever it is written:

| where | for example |
|---|---|
| Python | `ContractDataWriter("archive", max_file_size_mb=128)` |
| PIPELINE.yaml, for all tables or for one | `writer: {{max_file_size_mb: 128}}` |
| command line | `--set max_file_size_mb=128`; one of the store: `--set storage_options.endpoint_url=...` |

What is nearer to the table counts more, and the command line counts most. A destination that comes later
(`--to`, `storage_type`) replaces one before it whole. Whatever is wrong is told with its key and with what is
allowed, before anything starts; the exit code is then 2. In a pipeline file it is told with file and line,
too, and in turns, of each all at once: variables that are not set; then what is wrong outside of `writer:`;
then the options under it. Whether options go together, and whether tables and sources are there, is seen
last, one by one and without a line.

The tables of a pipeline file are archived one after the other, and so are the sources of a table: for streams
that never end (standard input, named pipes) run one `cdpgen archive` for each.

## Options of a writer

{writer}

The columns of `include_metadata` are no part of the table: no version of it has them, messages cannot hold
them, and files with and without them can be read together (DuckDB: `union_by_name`). Their field ids
begin at 2,000,000,001, where no lock gives any.

The files of a partition by a column of text have its values in their path, as Hive writes them: an empty
text is there the same as null (Hive has no other way), and one that is too long is cut and ends in `~` and
a digest. The name of a folder has 255 bytes at most, and with more than three levels 768 divided by their
number, less one (191, 152, 127 and so on): the key of an object has 1,024 bytes, of which the archive's own
folders, the table and the file need some. In the files the column has the value itself.

## PIPELINE.yaml

```yaml
version: 1
generated: generated            # what `cdpgen build` wrote
destination: ${{ARCHIVE:-archive}}
writer:
  rotation_interval_minutes: 30
tables:
  stellar.v1.ContractData:
    source: streams/contract_data-*.pb.zst
    writer: {{partition_by: "ledger_day,asset_type"}}
  stellar.v1.Event:
    source:
      - path: s3://bucket/events.ndjson
        fields: {{event_id: id}}
        storage_options: {{key: "${{KEY}}", secret: "${{SECRET}}"}}
```

`${{NAME}}` in a value is the variable of the environment, and an error when that is not set;
`${{NAME:-text}}` is the text when it is not set or empty; `$${{` is `${{`. What comes of it is text, read
as a number or as true or false where one is wanted. Keys are taken as they are.

{pipeline}

### A table

{table}

### A source

{source}

A line of NDJSON is read as `google.protobuf.json_format` reads it, and base64 of fields of `bytes` leniently
so: characters that are not base64 are left out (`A Q!I*=` is `AQI=`), `-` and `_` are `+` and `/`, and the
padding may be missing.
"""


def described(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring of a model says of each of its fields."""
    attributes = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def allowed(annotation: Any, field: FieldInfo | None = None) -> str:
    """The values that a field takes, for people."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [each for each in get_args(annotation) if each is not type(None)]
        return " or ".join(allowed(each, field) for each in inner)
    metadata = list(field.metadata) if field is not None else []
    while hasattr(annotation, "__metadata__"):
        for each in annotation.__metadata__:
            metadata += each.metadata if isinstance(each, FieldInfo) else [each]
        annotation = annotation.__origin__
    if get_origin(annotation) is Literal:
        return allowed(annotation)
    return _NAMES[get_origin(annotation) or annotation] + _limits(metadata)


def rows(model: type[BaseModel]) -> Iterator[str]:
    """A line of Markdown for each field of a model."""
    texts = described(model)
    for name, field in model.model_fields.items():
        if field.is_required():
            default = "needed"
        elif field.default in (None, "", {}):
            default = ""
        else:
            default = f"`{str(field.default).lower()}`"
        yield f"| `{name}` | {allowed(field.annotation, field)} | {default} | {texts[name]} |"


def page() -> str:
    """The whole page."""
    return _PAGE.format(
        writer=_table(WriterConfig),
        pipeline=_table(PipelineConfig),
        table=_table(TableConfig),
        source=_table(SourceConfig),
    )


def _table(model: type[BaseModel]) -> str:
    return "\n".join(
        ["| option | values | default | what it means |", "|---|---|---|---|", *rows(model)]
    )


def _limits(metadata: list[Any]) -> str:
    least = next((str(m.ge) for m in metadata if hasattr(m, "ge")), None)
    above = next((str(m.gt) for m in metadata if hasattr(m, "gt")), None)
    most = next((f"{m.le:,}" for m in metadata if hasattr(m, "le")), None)
    parts = [
        *([f"from {least}"] if least is not None else []),
        *([f"above {above}"] if above is not None else []),
        *([f"to {most}"] if most is not None else []),
    ]
    return f", {' '.join(parts)}" if parts else ""


if __name__ == "__main__":
    print(page(), end="")
