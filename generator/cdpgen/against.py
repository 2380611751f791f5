"""`cdpgen check`: the evolution check alone, against the lock, another lock or a git ref."""

from __future__ import annotations

import io
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

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
        against: the path of a lock, or a git ref whose schemas are compared, or a lock or a folder of
            schemas at one (`main:schemas`); the lock of the folder when left out.

    Returns:
        What was found.

    Raises:
        UsageError: the schemas, rules or lock cannot be used, there is no such file or ref, or the schemas
            lay in another folder at that ref.
    """
    compiled = compile_schemas(schemas)
    reject_misnamed(schemas)
    rules = read_rules(schemas)
    planned = plan(compiled, rules)
    if against is None:
        previous = read_lock(schemas / LOCK_NAME)
    else:
        path = Path(against)
        tables = {table.name for table in planned.tables}
        previous = read_lock(path) if path.is_file() else _at_ref(schemas, against, tables)
        previous = _as_decided_today(previous, schemas / LOCK_NAME)
    compared = compare(previous, planned, rules, against=against is not None)
    newer = {} if compared.breaking else _newer(previous, planned, compared)
    return Checked(compared, len(planned.tables), newer, not previous.tables)


def _as_decided_today(previous: Lock, own: Path) -> Lock:
    """The lock with the acceptances that today's one has still: one that was taken back since is none."""
    if not own.is_file():
        return previous
    known = read_lock(own).tables
    tables = {
        name: replace(
            table,
            accepted=tuple(
                record
                for record in table.accepted
                if name in known and record in known[name].accepted
            ),
        )
        for name, table in previous.tables.items()
    }
    return replace(previous, tables=tables)


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


def _at_ref(schemas: Path, ref: str, tables: Collection[str]) -> Lock:
    """What the schemas were at a git ref, as the lock that a build would have made of them.

    Args:
        schemas: the folder.
        ref: of a commit, or of a lock or a folder of schemas in one.
        tables: those that the schemas have now.
    """
    try:
        prefix = _git(schemas, "rev-parse", "--show-prefix").decode().rstrip("\n")
    except UsageError as error:
        raise UsageError(f"{ref}: is not the path of a lock, and {error}") from None
    found = _object(schemas, ref)
    if found is None:
        raise UsageError(
            f"{ref}: is neither the path of a lock nor a git ref of {schemas} (a shallow "
            "clone, as CI makes it, has few: fetch the ref first)"
        )
    kind = _git(schemas, "cat-file", "-t", found).strip()
    if kind == b"blob":
        return _lock_of(_git(schemas, "cat-file", "blob", found), ref)
    shown, here = f"{ref}:{schemas}", f"{ref}:{prefix}"
    tree = _object(schemas, f"{found}:{prefix}")
    if tree is None and kind == b"tree":
        shown, here, tree = ref, f"{ref}/", found
    known = tree is not None and _object(schemas, f"{tree}:{LOCK_NAME}") is not None
    top = Path(_git(schemas, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
    if not known:
        _reject_moved(schemas, top, ref, found, tables)
    own = schemas / LOCK_NAME
    if tree is None:  # the schemas are new since, or what was archived was not committed then
        return read_lock(own)
    if known and not own.is_file():
        raise UsageError(
            f"{own}: is not there, and was at {ref}: without it columns get other ids than files have; "
            f"bring it back: git show {shlex.quote(here + LOCK_NAME)} > {shlex.quote(str(own))}"
        )
    archived = _git(top, "archive", "--format=tar", tree)
    with tempfile.TemporaryDirectory(prefix="cdpgen-") as name:
        before = Path(name)
        try:
            with tarfile.open(fileobj=io.BytesIO(archived)) as tar:
                tar.extractall(before, filter="data")
        except tarfile.FilterError as error:
            raise UsageError(
                f"{shown}/{error.tarinfo.name}: is a link out of {schemas}, which cannot be "
                f"followed at a git ref; give its lock: --against {here}{LOCK_NAME}"
            ) from None
        try:
            planned = plan(compile_schemas(before), read_rules(before))
            _, lock = lock_plan(planned, read_lock(before / LOCK_NAME))
        except UsageError as error:
            raise UsageError(str(error).replace(str(before), shown)) from None
    return replace(lock, path=f"{shown}/{LOCK_NAME}")


def _lock_of(data: bytes, shown: str) -> Lock:
    """A lock that git has."""
    with tempfile.TemporaryDirectory(prefix="cdpgen-") as name:
        path = Path(name, LOCK_NAME)
        path.write_bytes(data)
        try:
            return replace(read_lock(path), path=shown)
        except UsageError as error:
            raise UsageError(str(error).replace(str(path), shown)) from None


def _reject_moved(schemas: Path, top: Path, ref: str, commit: str, tables: Collection[str]) -> None:
    """Objects to a folder whose tables were those of another one at a git ref.

    Compared with nothing, whatever was done to them would be fine. A folder that is new since is let be.
    """
    names = _git(top, "ls-tree", "-r", "-z", "--name-only", commit).decode(errors="surrogateescape")
    for path in map(PurePosixPath, names.split("\0")):
        if path.name != LOCK_NAME or (top / path).is_file():  # that folder is there still
            continue
        try:
            lock = _lock_of(_git(top, "cat-file", "blob", f"{commit}:{path}"), f"{ref}:{path}")
        except UsageError:  # it stops those whose lock it is
            continue
        both = sorted(lock.tables.keys() & {*tables})
        if both:
            folder = "" if path.parent == PurePosixPath() else path.parent
            raise UsageError(
                f"{schemas}: has no lock at {ref}, where {path} has {both[0]}; if the folder was moved since, "
                f"compare with what it was: --against {shlex.quote(f'{ref}:{folder}')}"
            )


def _object(folder: Path, name: str) -> str | None:
    """The id of what git has of a name, for a tag of what is tagged; None where there is nothing."""
    found = _verified(folder, name)
    return found and _verified(folder, f"{found}^{{}}")


def _verified(folder: Path, name: str) -> str | None:
    command = ["git", "rev-parse", "--quiet", "--verify", "--end-of-options", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return done.stdout.decode().strip() if done.returncode == 0 else None


def _git(folder: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed; give --against the path of a lock") from None
    if done.returncode != 0:
        raise UsageError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
