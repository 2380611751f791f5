"""Names in generated Python: modules, classes and constants, and how they keep clear of
keywords.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence

__all__ = [
    "Names",
    "class_name",
    "constant_name",
    "module_path",
    "relative_import",
    "snake",
    "stub_name",
]


def snake(name: str) -> str:
    """`ContractData`, `XDRKey` and `Outer.Inner` as `contract_data`, `xdr_key`, `outer_inner`."""
    name = name.replace(".", "_")
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"__+", "_", name).lower().strip("_") or "_"


def constant_name(local_name: str) -> str:
    """The name of a message within its file as the beginning of a constant's name.

    Empty for `_`: what begins with two underscores is private where a class names it.
    """
    name = snake(local_name).upper().strip("_")
    return f"_{name}" if name[:1].isdigit() else name


def class_name(local_name: str) -> str:
    """The name of a message within its file as the beginning of a class's name."""
    parts = re.split(r"[._]+", local_name)
    name = "".join(part[:1].upper() + part[1:] for part in parts)
    return name if name[:1].isalpha() else f"_{name}"


def stub_name(local_name: str) -> str:
    """The name of a message or an enum within its file as a `_pb2.pyi` has it.

    A class named like a keyword is reached by getattr alone; so that it has a type all the same,
    the stub has it under a name that is not there when the program runs: `Outer.None` as
    `Outer._None_`.
    """
    parts = local_name.split(".")
    return ".".join(f"_{part}_" if keyword.iskeyword(part) else part for part in parts)


def module_path(proto_path: str) -> tuple[tuple[str, ...], str]:
    """The package and the stem that a `.proto` gets in Python.

    Args:
        proto_path: relative, with forward slashes: `stellar/v1/contract-data.proto`.

    Returns:
        The folders, and the stem before `_pb2` or `_writer`; what cannot stand in a Python name
        becomes an underscore, one stands before a digit, and a folder that is a keyword or named
        like the registry gets one behind it. Of underscores that a stem begins with one is left:
        the class of a writer imports the messages, and within a class Python has another name for
        `__private_pb2`.
    """
    *folders, file = map(_word, proto_path.removesuffix(".proto").split("/"))
    file = re.sub("^__+", "_", file)
    package = tuple(f"{name}_" if keyword.iskeyword(name) else name for name in folders)
    if package[:1] == ("TABLES",):
        # Once imported, a package is an attribute of the one around it, in place of what was there.
        package = ("TABLES_", *package[1:])
    return package, file


def _word(name: str) -> str:
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name[:1].isdigit() else name


def relative_import(here: Sequence[str], there: Sequence[str]) -> str:
    """The package `there` as a module in the package `here` imports from it: `..other.v1`."""
    common = 0
    while common < min(len(here), len(there)) and here[common] == there[common]:
        common += 1
    return "." * (len(here) - common + 1) + ".".join(there[common:])


class Names:
    """Gives out names, each once."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self._taken = set(taken)

    def is_free(self, name: str) -> bool:
        """Whether nobody has the name."""
        return name not in self._taken

    def take(self, wanted: str) -> str:
        """The name, or with a number behind it when it is gone."""
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name
