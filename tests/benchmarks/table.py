"""The tables of `make bench`, in Markdown that reads well on a terminal too.

`python -m tests.benchmarks.table REPORT.json > docs/benchmarks.md` writes the page from the report
that `make bench` left. Every number on it was measured.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tests.benchmarks.timing import OURS

Result: TypeAlias = Mapping[str, Any]
"""What one benchmark left in pytest-benchmark's `extra_info`."""

LIST_TARGETS = {"contract data (flat, strings)": 4.0}
"""How much faster than ptars; 3 for every other shape."""

ROADS = {"list in": "a list of bytes in", "array in": "one BinaryArray in", "back": "Arrow back"}
PEERS = ("pybufarrow", "protarrow", "by hand")


def target(road: str, shape: str) -> float:
    """How many times as fast as ptars it shall be."""
    if road == "back":
        return 1.5
    return LIST_TARGETS.get(shape, 3.0) if road == "list in" else 3.0


def tables(results: Sequence[Result]) -> str:
    """All tables of what was measured."""
    made = []
    for name, draw in _TABLES.items():
        found = [result for result in results if result.get("table") == name]
        if found:
            made.append(draw(found))
    return "\n\n".join(made)


def _convert(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        seconds, road, shape = result["seconds"], result["road"], result["shape"]
        ratio = seconds["ptars"] / seconds[OURS]
        wanted = target(road, shape)
        rows.append(
            [
                shape,
                ROADS[road],
                _milliseconds(seconds[OURS]),
                _milliseconds(seconds["ptars"]),
                f"**{ratio:.1f}x**",
                f"{wanted:g}x" + ("" if ratio >= wanted else " missed"),
                f"{result['rows'] / seconds[OURS] / 1e6:.2f} M/s",
                f"{result['size'] / seconds[OURS] / 1e9:.2f} GB/s",
                f"{seconds['memcpy'] / seconds[OURS]:.0%}",
            ]
        )
    head = [
        *("shape", "road", "cdpgen", "ptars", "times as fast", "target"),
        *("messages", "protobuf", "of memcpy"),
    ]
    return _titled("Converting, beside ptars", head, rows)


def _peers(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        seconds = result["seconds"]
        others = (f"{seconds[peer] / seconds[OURS]:.0f}x" for peer in PEERS)
        rows.append([result["shape"], _milliseconds(seconds[OURS]), *others])
    head = ["shape (a list of bytes in)", "cdpgen", *(f"over {peer}" for peer in PEERS)]
    return _titled("Converting, beside the other peers", head, rows)


def _parquet(results: Sequence[Result]) -> str:
    rows = []
    targets = {"MessageToDict": 10.0}
    names = {
        OURS: "`to_arrow` and `pyarrow.parquet.write_table`",
        "writer": "`ContractDataWriter`, to disk with fsync",
        "write_table alone": "`write_table` of the ready table",
        "MessageToDict": "`MessageToDict`, `Table.from_pylist`, `write_table`",
    }
    for result in results:
        seconds = result["seconds"]
        for name, taken in seconds.items():
            ratio = taken / seconds[OURS]
            wanted = targets.get(name)
            met = "" if wanted is None or ratio >= wanted else " missed"
            rows.append(
                [
                    result["shape"],
                    names[name],
                    _milliseconds(taken),
                    f"{result['rows'] / taken:,.0f}/s",
                    f"{ratio:.2f}x",
                    "" if wanted is None else f"{wanted:g}x{met}",
                ]
            )
    head = ["bytes to zstd Parquet", "by", "time", "messages", "cdpgen is faster by", "target"]
    return _titled("Bytes to zstd Parquet", head, rows)


def _archive(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        rate, peak = result["rows"] / result["seconds"], result["peak"] / 1e6
        rows += [
            ["messages a second", f"{rate:,.0f}", _met("at least 100,000", rate >= 100_000)],
            ["peak memory", f"{peak:,.0f} MB", _met("under 500 MB", peak < 500)],
            ["protobuf in", f"{result['size'] / 1e6:,.0f} MB", ""],
            ["Parquet out", f"{result['written'] / 1e6:,.0f} MB", ""],
            ["messages", f"{result['rows']:,}", ""],
        ]
    return _titled(
        "`cdpgen archive` of contract data, a process of its own", ["what", "", "target"], rows
    )


def _startup(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        over = result["seconds"][OURS] - result["seconds"]["bare"]
        most = result["most"]
        wanted = _met(f"at most {most * 1e3:.0f} ms", over <= most)
        rows.append([result["what"], _milliseconds(over), wanted])
    return _titled("Beginning", ["what", "time", "target"], rows)


def _runtime(results: Sequence[Result]) -> str:
    names = {
        OURS: "the runtime: a file in, Parquet on disk out",
        "journal": "the same with the journal",
        "write_table alone": "`pyarrow.parquet.write_table` of the ready table",
        "write_table at our level": "`write_table` at zstd level 3, which is ours",
        "chdb": "ClickHouse (chdb), Protobuf to Parquet, two threads",
        "by hand": "a consumer by hand: parse, dictionaries, `from_pylist`, `write_table`",
    }
    targets = {"write_table alone": 1.0, "chdb": 4.0, "by hand": 25.0}
    rows = []
    for result in results:
        seconds = result["seconds"]
        ours = seconds[OURS]
        for name, taken in seconds.items():
            ratio, wanted = taken / ours, ""
            if name == "journal":
                least = 0.7 * ours / seconds["write_table alone"]
                wanted = _met("0.7 of `write_table`", ours / taken >= least)
            elif name in targets:
                wanted = _met(f"{targets[name]:g}x", ratio >= targets[name])
            rows.append(
                [
                    result["shape"],
                    names[name],
                    _milliseconds(taken),
                    f"{result['rows'] / taken:,.0f}/s",
                    f"{ratio:.2f}x",
                    wanted,
                ]
            )
    head = ["bytes to zstd Parquet", "by", "time", "messages", "cdpgen is faster by", "target"]
    return _titled("The whole runtime", head, rows)


def _size(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        ours = result["sizes"][OURS]
        ratio = result["json"] / ours
        rows.append(
            [
                result["shape"],
                "JSON lines",
                f"{result['json'] / 1e6:,.1f} MB",
                f"{ratio:.1f} times ours",
                _met("12", ratio >= 12),
            ]
        )
        rows.append([result["shape"], "protobuf", f"{result['protobuf'] / 1e6:,.1f} MB", "", ""])
        for name, size in result["sizes"].items():
            smaller = 1 - ours / size
            rows.append(
                [
                    result["shape"],
                    f"Parquet by {name}",
                    f"{size / 1e6:,.1f} MB",
                    "" if name == OURS else f"ours is {smaller:.0%} smaller",
                    "" if name == OURS else _met("10%", smaller >= 0.1),
                ]
            )
    return _titled("Size of the same rows", ["table", "what", "size", "", "target"], rows)


def _memory(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        peak, tenths = result["peak"] / 1e6, result["tenths"]
        growth = tenths[-1] / tenths[1] - 1
        rows += [
            ["messages", f"{result['rows']:,}", ""],
            ["messages a second", f"{result['rows'] / result['seconds']:,.0f}", ""],
            ["peak memory", f"{peak:,.0f} MB", _met("under 400 MB", peak < 400)],
            ["the last tenth over the second", f"{growth:+.1%}", _met("3%", growth <= 0.03)],
        ]
    return _titled("Memory of a long run (contract data)", ["what", "", "target"], rows)


def _profile(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        whole = sum(result["steps"].values())
        rows += [
            [result["shape"], step, f"{seconds * 1e3:,.0f} ms", f"{seconds / whole:.0%}"]
            for step, seconds in result["steps"].items()
        ]
        rows.append([result["shape"], "all", f"{whole * 1e3:,.0f} ms", ""])
    return _titled(
        "Where the time goes: processor time of a million messages, from a file to Parquet on disk",
        ["messages", "step", "time", "of all"],
        rows,
    )


_TABLES: dict[str, Callable[[Sequence[Result]], str]] = {
    "convert": _convert,
    "peers": _peers,
    "parquet": _parquet,
    "runtime": _runtime,
    "profile": _profile,
    "size": _size,
    "memory": _memory,
    "archive": _archive,
    "startup": _startup,
}


def _met(wanted: str, met: bool) -> str:
    return wanted if met else f"{wanted}: missed"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"


def _titled(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"## {title}", "", lines[0], rule, *lines[1:]])


_PAGE = """# Benchmarks

Written by `python -m tests.benchmarks.table` from one run of `make bench`; no number was typed by
hand. One process and one thread (but for `ContractDataWriter` and `cdpgen archive`, which have
threads of their own); contenders take turns; medians; the same payloads for all. What is measured
includes dropping what was made. "Of memcpy" is the speed beside that of copying the same payload
bytes within memory, the limit of anything that has to write columns.

{where}

The peers differ in what they give: ptars takes enums as numbers and loses unknown fields; protarrow
and "by hand" (a list comprehension a column) parse with `google.protobuf` first, which is counted.

{tables}
"""


def page(report: Mapping[str, Any]) -> str:
    """`docs/benchmarks.md`, of a report of pytest-benchmark."""
    machine = report["machine_info"]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("pyarrow", "protobuf", "ptars", "protarrow", "pybufarrow")
    )
    where = (
        f"{machine['cpu']['brand_raw']}, {machine['cpu']['count']} cores, {machine['system']}, "
        f"Python {machine['python_version']}; {versions}; {report['datetime'][:10]}."
    )
    return _PAGE.format(
        where=where, tables=tables([each["extra_info"] for each in report["benchmarks"]])
    )


def main(arguments: Sequence[str]) -> int:
    """Prints the page of a report."""
    if len(arguments) != 1:
        print("usage: python -m tests.benchmarks.table REPORT.json > docs/benchmarks.md")
        return 2
    print(page(json.loads(Path(arguments[0]).read_text(encoding="utf-8"))), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
