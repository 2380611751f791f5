"""`cdpgen check`: the evolution check alone, against the lock, another lock or a git ref."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdpgen.descriptors import compile_schemas
from cdpgen.errors import UsageError
from cdpgen.evolution import Comparison, compare
from cdpgen.lock import LOCK_NAME, Lock, lock_plan, read_lock
from cdpgen.model import Plan, plan
from cdpgen.rules import read_rules, reject_misnamed

__all__ = ["Checked", "check"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        tables: how many tables there are.
        newer: by table, the version that a build would make of it; empty where something breaks.
        anew: whether nothing was archived before.
    """

    compared: Comparison
    tables: int
    newer: Mapping[str, int]
    anew: bool


def check(schemas: Path, against: str | None = None) -> Checked:
    """Compares schemas with what was archived.

    Args:
        schemas: the folder.
        against: the path of a lock, or a git ref whose schemas are compared; the lock of the folder
            when left out.

    Returns:
        What was found.

    Raises:
        UsageError: the schemas, rules or lock cannot be used, or there is no such file or ref.
    """
    compiled = compile_schemas(schemas)
    reject_misnamed(schemas)
    rules = read_rules(schemas)
    planned = plan(compiled, rules)
    if against is None:
        previous = read_lock(schemas / LOCK_NAME)
    else:
        path = Path(against)
        previous = read_lock(path) if path.is_file() else _at_ref(schemas, against)
    compared = compare(previous, planned, rules, against=against is not None)
    newer = {} if compared.breaking else _newer(previous, planned, compared)
    return Checked(compared, len(planned.tables), newer, not previous.tables)


def _newer(previous: Lock, planned: Plan, compared: Comparison) -> dict[str, int]:
    tables, _ = lock_plan(planned, previous, compared.going)
    known = {
        name: {version.fingerprint for version in table.versions[-1:]}
        for name, table in previous.tables.items()
    }
    return {
        table.name: table.version
        for table in tables
        if table.fingerprint not in known.get(table.name, ())
    }


def _at_ref(schemas: Path, ref: str) -> Lock:
    """What the schemas were at a git ref, as the lock that a build would have made of them."""
    try:
        prefix = _git(schemas, "rev-parse", "--show-prefix").decode().strip()
    except UsageError as error:
        raise UsageError(f"{ref}: is not the path of a lock, and {error}") from None
    if not _has(schemas, ref):
        raise UsageError(
            f"{ref}: is neither the path of a lock nor a git ref of {schemas} (a shallow "
            "clone, as CI makes it, has few: fetch the ref first)"
        )
    own = schemas / LOCK_NAME
    if not own.is_file() and _has(schemas, f"{ref}:{prefix}{LOCK_NAME}"):
        raise UsageError(
            f"{own}: is not there, and was at {ref}: without it columns get other ids than files have; "
            f"bring it back: git checkout {ref} -- {own}"
        )
    if not _has(schemas, f"{ref}:{prefix}"):  # the schemas are new since
        return Lock(f"{ref}:{schemas / LOCK_NAME}")
    top = Path(_git(schemas, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
    archived = _git(top, "archive", "--format=tar", f"{ref}:{prefix}")
    with tempfile.TemporaryDirectory(prefix="cdpgen-") as name:
        before = Path(name)
        try:
            with tarfile.open(fileobj=io.BytesIO(archived)) as tar:
                tar.extractall(before, filter="data")
        except tarfile.FilterError as error:
            raise UsageError(
                f"{ref}:{schemas / error.tarinfo.name}: is a link out of {schemas}, which cannot be "
                f"followed at a git ref; give --against the path of a lock: git show "
                f"{ref}:{prefix}{LOCK_NAME} > old.lock"
            ) from None
        try:
            planned = plan(compile_schemas(before), read_rules(before))
            _, lock = lock_plan(planned, read_lock(before / LOCK_NAME))
        except UsageError as error:
            said = str(error).replace(str(before), f"{ref}:{schemas}")
            raise UsageError(said) from None
    return Lock(f"{ref}:{schemas / LOCK_NAME}", lock.tables, lock.enums, lock.reserved)


def _has(folder: Path, tree: str) -> bool:
    peeled = tree if ":" in tree else f"{tree}^{{tree}}"
    command = ["git", "rev-parse", "--quiet", "--verify", "--end-of-options", peeled]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def _git(folder: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed; give --against the path of a lock") from None
    if done.returncode != 0:
        raise UsageError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
