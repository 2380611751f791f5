"""`cdpgen build`: schemas, rules and lock in; generated modules and the new lock out.

Everything is decided, rendered and written beside the files before one of them is touched, so a build
that fails changes nothing. Only what differs is written, the lock first: modules of a version that the
lock does not know could archive what the next build knows nothing of. A file that begins as generated ones
do and that no schema makes any more is removed; every other file is left alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cdpgen.descriptors import Schemas, compile_schemas
from cdpgen.errors import UsageError
from cdpgen.evolution import BreakingError, Finding, compare
from cdpgen.lock import LOCK_NAME, lock_plan, read_lock, write_lock
from cdpgen.model import Plan, Table, plan
from cdpgen.names import module_path
from cdpgen.pb2 import reject_refused
from cdpgen.render import HEADER, ROOT_HEADER, render
from cdpgen.rules import RULES_NAME, RulesFile, read_rules, reject_misnamed

__all__ = ["Built", "build", "reject_misplaced"]

_SUFFIXES = (".py", ".pyi")
_VERSION = re.compile(r'^    table = "(.+)"\n    version = (\d+)\n    fingerprint = "(\w+)"$', re.M)


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did, or with `check` would have done.

    Attributes:
        tables: the names of the tables, in the order of their files.
        written: the files that are new or differ.
        removed: the files that no schema makes any more.
        unchanged: how many files were right already.
        warnings: what protoc warned of, names that clash, and that there is no table at all; a line each.
        findings: changes that do not stop a build but are worth a look.
    """

    tables: list[str]
    written: list[Path]
    removed: list[Path]
    unchanged: int
    warnings: list[str]
    findings: list[Finding]

    @property
    def stale(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.written or self.removed)


def build(schemas: Path, out: Path, *, check: bool = False) -> Built:
    """Brings the generated modules and the lock up to date.

    Args:
        schemas: the folder of the `.proto` files, the rules and the lock.
        out: the folder, a Python package, for the generated modules.
        check: whether to leave everything as it is and only say what would be done.

    Returns:
        What was done.

    Raises:
        BreakingError: the schemas changed in a way that breaks an archive.
        UsageError: the schemas, rules or lock cannot be used, those of another folder seem to be
            meant, the lock is gone, a file that cdpgen did not write is in the way, or one cannot be
            written.
    """
    others = "" if out == Path("generated") else f" --out {shlex.quote(str(out))}"
    reject_misplaced(schemas, "build", others + " --check" * check)
    lock_path = schemas / LOCK_NAME
    with ThreadPoolExecutor(max_workers=1) as meanwhile:  # protoc is a process of its own
        reading = meanwhile.submit(read_lock, lock_path)
        compiled = compile_schemas(schemas)
    reject_misnamed(schemas)
    rules = read_rules(schemas)
    planned = plan(compiled, rules)
    _reject_colliding_modules(compiled)
    reject_refused(compiled)
    known = reading.result()
    compared = compare(known, planned, rules)
    if compared.breaking:
        raise BreakingError(compared.findings)
    tables, lock = lock_plan(planned, known, compared.going)
    tables = [replace(table, defaults=compared.defaults.get(table.name, {})) for table in tables]
    files = {out / path: text for path, text in render(planned, tables).items()}
    generated = set(_generated_below(out))
    _reject_foreign(out, files, generated)
    if not known.tables:
        _reject_lost_lock(lock_path, out, generated, tables)
    removed = sorted(generated - files.keys())
    files = {lock_path: write_lock(lock), **files}
    written = [path for path, text in files.items() if _read(path) != text]
    if not check:
        for path in removed:
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise UsageError(f"{path}: cannot be removed: {path.parent} is read-only")
        _write({path: files[path] for path in written})
        for path in removed:
            _remove(path, out)
    return Built(
        tables=[table.name for table in tables],
        written=written,
        removed=removed,
        unchanged=len(files) - len(written),
        warnings=[*compiled.warnings, *compared.warnings, *_without_tables(planned, rules)],
        findings=compared.findings,
    )


def reject_misplaced(schemas: Path, command: str, options: str = "") -> None:
    """Objects to a folder when the rules or the lock of a project lie below or above it.

    They would not be read: another lock would begin, in which every column has another id, and the
    modules of the right one would be removed. A folder that has some of its own is taken at its word.

    Args:
        schemas: the folder that was given.
        command: what was typed, `build` or `check`.
        options: what is to be typed behind the folder.

    Raises:
        UsageError: there is such a file; the message names it, and what was probably meant.
    """
    if any(os.path.isfile(schemas / own) for own in (LOCK_NAME, RULES_NAME)):
        return
    found, where = next(_below(schemas), None), "below"
    if found is None:
        found, where = next(_above(schemas), None), "above"
    if found is not None:
        meant = f"cdpgen {command} {shlex.quote(str(found.parent))}{options}"
        raise UsageError(
            f"{schemas}: {found} lies in a folder {where}, and only the rules and the lock of the folder "
            f"that is given are read; probably meant: {meant} (if that file was left there by mistake, "
            f"remove it; if {schemas} is right, give it a {RULES_NAME} of its own, with `version: 1`)"
        )


def _below(schemas: Path) -> Iterator[Path]:
    """Locks and rules in the folders of a folder."""
    for name, folders, files in os.walk(schemas):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        if Path(name) != schemas:
            yield from (Path(name, own) for own in (LOCK_NAME, RULES_NAME) if own in files)


def _above(schemas: Path) -> Iterator[Path]:
    """Locks and rules in the folders around a folder, up to that of the repository or the home directory."""
    folder, home = schemas.resolve(), Path(os.path.expanduser("~"))
    while folder not in (folder.parent, home) and not os.path.exists(folder / ".git"):
        folder = folder.parent
        shown = folder if schemas.is_absolute() else Path(os.path.relpath(folder))
        for own in (LOCK_NAME, RULES_NAME):
            if os.path.isfile(folder / own):
                yield shown / own


def _without_tables(planned: Plan, rules: RulesFile) -> Iterator[str]:
    """Why there is no table, where no rule says so."""
    top = [message for file in planned.schemas.own_files for message in file.messages]
    names = [message.full_name for message in top if message.full_name not in planned.skipped]
    if not top:
        yield f"{planned.schemas.root}: warning: no .proto in it has a message, so there is no table"
    if names and not planned.tables:
        yield (
            f"{rules.path}: warning: no message is a table: those that others use and those in packages "
            f"`google.*` are tables only where they are named, as with `tables: {{{names[0]}: {{}}}}`"
        )


def _reject_colliding_modules(schemas: Schemas) -> None:
    """Two files may not make one module, also where a file system takes capitals for small
    letters.
    """
    seen: dict[tuple[str, ...], str] = {}
    for file in schemas.own_files:
        package, stem = module_path(file.path)
        key = tuple(part.lower() for part in (*package, stem))
        other = seen.setdefault(key, file.path)
        if other != file.path:
            root = Path(schemas.root)
            raise UsageError(
                f"{root / file.path}:1:1: makes the same Python module as {root / other}; "
                "rename one of the two"
            )


def _read(path: Path) -> str | None:
    """The text of a file with its line ends as they are; None where there is none, or no text."""
    try:
        return path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def _begins(path: Path, header: str) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(header)) == header.encode()
    except OSError:
        return False


def _generated_below(folder: Path, top: bool = True) -> Iterator[Path]:
    """Yields the generated files of a folder, but for those of another build further down."""
    if not top and _begins(folder / "__init__.py", ROOT_HEADER):
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UsageError(f"{folder}: is a file; `--out` takes a folder") from None
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith(".") and entry.name != "__pycache__":
                yield from _generated_below(path, top=False)
        elif path.suffix in _SUFFIXES and _begins(path, HEADER):
            yield path


def _reject_foreign(out: Path, files: dict[Path, str], generated: set[Path]) -> None:
    """A file in the way that is not generated is an error; a package's `__init__.py` may be its
    own.
    """
    problems = []
    for path in list(files):
        if path in generated or not path.exists():
            continue
        if path.name == "__init__.py" and path.parent != out:
            del files[path]
        else:
            problems.append(
                f"{path}: is in the way: cdpgen did not write it and leaves it alone; move it, or "
                "give another folder with --out"
            )
    if problems:
        raise UsageError("\n".join(problems))


def _reject_lost_lock(lock: Path, out: Path, generated: set[Path], tables: Sequence[Table]) -> None:
    """Objects to a new lock where writers are there that an older one made with other ids."""
    versions = {table.name: (str(table.version), table.fingerprint) for table in tables}
    for path in sorted(generated):
        for name, *version in _VERSION.findall(_read(path) or ""):
            if versions.get(name) != (*version,):
                raise UsageError(
                    f"{lock}: is not there, though {path} is of a version {version[0]} of {name} that a new "
                    "lock would not make: its columns would have other ids than those in files. Bring it back "
                    f"(git checkout {lock}); if nothing is archived yet, remove {out}, too"
                )


def _write(files: Mapping[Path, str]) -> None:
    """Writes files in their order, all or, where one cannot be written, none."""
    staged: list[tuple[Path, Path]] = []
    folders: list[Path] = []
    try:
        for path, text in files.items():
            missing = [each for each in (path.parent, *path.parent.parents) if not each.exists()]
            folders += reversed(missing)
            path.parent.mkdir(parents=True, exist_ok=True)
            # What a link leads to is replaced, and not the link.
            target = Path(os.path.realpath(path))
            beside = target.with_name(f".cdpgen-{os.getpid()}-{len(staged)}")
            staged.append((path, beside))
            beside.write_bytes(text.encode("utf-8"))
            if target.exists():
                target.open("r+b").close()  # what is read-only could be replaced all the same
                shutil.copymode(target, beside)
        for path, beside in staged:
            os.replace(beside, os.path.realpath(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        for _, beside in staged:
            with suppress(OSError):
                beside.unlink()
        for folder in reversed(folders):
            with suppress(OSError):  # but where it holds files by now
                folder.rmdir()


def _remove(path: Path, out: Path) -> None:
    """Removes a file, and the folders below `out` that then hold nothing but compiled leftovers."""
    path.unlink()
    folder = path.parent
    while folder != out and out in folder.parents:
        left = [entry for entry in folder.iterdir() if entry.name != "__pycache__"]
        if left:
            break
        cache = folder / "__pycache__"
        if cache.is_dir():
            for compiled in cache.iterdir():
                compiled.unlink()
            cache.rmdir()
        folder.rmdir()
        folder = folder.parent
