"""`cdpgen archive`: streams in, an archive of Parquet out. (H2 is writing this; the signature stands.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def run(
    pipeline: str | None = None,
    *,
    table: str | None = None,
    source: Sequence[str] = (),
    to: str | None = None,
    generated: str = "generated",
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Archives what a pipeline file or the flags say.

    Args:
        pipeline: the path of a PIPELINE.yaml; everything else is then left out, except `to` and
            `options`, which override what the file says.
        table: the full name of the table (`stellar.v1.ContractData`).
        source: files, globs or URLs to read; `-` is standard input.
        to: the URL of the archive.
        generated: the folder that `cdpgen build` wrote (only with `table`).
        format: `delimited` or `ndjson`; by the sources' extensions when left out.
        options: options of the writer as typed (`{"max_file_size_mb": "256"}`), from `--set KEY=VALUE`.

    Returns:
        The exit code: 0 fine (also after SIGTERM or Ctrl-C), 1 the archive could not be written, 2
        bad usage or configuration. Problems have been printed to standard error.
    """
    raise NotImplementedError
