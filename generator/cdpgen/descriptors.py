"""The schemas as protoc reads them: messages, fields and enums, with comments and places.

protoc (that of grpcio-tools) parses and checks; what is built here from its descriptor set are
plain objects in which types are resolved and the features of an edition (or of proto2 and proto3,
which are editions with other defaults) are settled for every field, so nothing later asks which
syntax a file has.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from google.protobuf import descriptor_pb2

from cdpgen.errors import Position, UsageError, not_utf8

__all__ = [
    "LANGUAGE_FEATURES",
    "Enum",
    "EnumValue",
    "Field",
    "File",
    "Message",
    "Oneof",
    "Reserved",
    "Schemas",
    "compile_schemas",
    "walk",
]

_TYPES: Final = {
    1: "double",
    2: "float",
    3: "int64",
    4: "uint64",
    5: "int32",
    6: "fixed64",
    7: "fixed32",
    8: "bool",
    9: "string",
    10: "group",
    11: "message",
    12: "bytes",
    13: "uint32",
    14: "enum",
    15: "sfixed32",
    16: "sfixed64",
    17: "sint32",
    18: "sint64",
}
_REQUIRED: Final = 2
_REPEATED: Final = 3
_UNPACKABLE: Final = frozenset({"string", "bytes", "message", "group"})

LANGUAGE_FEATURES: Final = frozenset(
    f"google/protobuf/{language}_features.proto" for language in ("cpp", "go", "java")
)
"""Files that protoc has and Python's protobuf has no modules of; others only set their options by them,
and an option that nobody knows stays as bytes.
"""

# Field numbers in descriptor.proto, of which the paths in source info are made.
_FILE_DEPENDENCY, _FILE_MESSAGE, _FILE_ENUM, _FILE_EXTENSION = 3, 4, 5, 7
_FILE_PACKAGE, _FILE_SYNTAX, _FILE_EDITION = 2, 12, 14
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM, _MESSAGE_EXTENSION, _MESSAGE_ONEOF = 2, 3, 4, 6, 8
_ENUM_VALUE = 2


class _Features(NamedTuple):
    """The features that decide how a field is on the wire, as numbers of
    `google.protobuf.FeatureSet`.
    """

    field_presence: int
    enum_type: int
    repeated_field_encoding: int
    utf8_validation: int
    message_encoding: int

    def merged(self, options: object) -> _Features:
        """These features with what an element's options say on top."""
        if not options.HasField("features"):  # type: ignore[attr-defined]
            return self
        given = options.features  # type: ignore[attr-defined]
        return _Features(*(getattr(given, name) or value for name, value in self._asdict().items()))


_EXPLICIT, _IMPLICIT, _LEGACY_REQUIRED = 1, 2, 3
_OPEN, _CLOSED = 1, 2
_PACKED, _EXPANDED = 1, 2
_VERIFY, _NONE = 2, 3
_LENGTH_PREFIXED, _DELIMITED = 1, 2

_PROTO2: Final = _Features(_EXPLICIT, _CLOSED, _EXPANDED, _NONE, _LENGTH_PREFIXED)
_PROTO3: Final = _Features(_IMPLICIT, _OPEN, _PACKED, _VERIFY, _LENGTH_PREFIXED)
_EDITIONS: Final = {
    1000: _Features(_EXPLICIT, _OPEN, _PACKED, _VERIFY, _LENGTH_PREFIXED),
    1001: _Features(_EXPLICIT, _OPEN, _PACKED, _VERIFY, _LENGTH_PREFIXED),
}
"""Edition 2023 and 2024: what holds where a file says nothing."""


@dataclass(eq=False, slots=True)
class EnumValue:
    """One name of an enum."""

    number: int
    name: str
    comment: str
    position: Position


@dataclass(frozen=True, slots=True)
class Reserved:
    """What `reserved` statements keep from being used again.

    Attributes:
        ranges: of numbers, both ends included.
        names: of fields or values.
    """

    ranges: tuple[tuple[int, int], ...]
    names: tuple[str, ...]

    def has(self, number: int) -> bool:
        """Whether the number is reserved."""
        return any(first <= number <= last for first, last in self.ranges)


@dataclass(eq=False, slots=True)
class Enum:
    """An enum; `values` are in the order of its file, aliases among them."""

    name: str
    full_name: str
    closed: bool
    values: list[EnumValue]
    reserved: Reserved
    comment: str
    position: Position


@dataclass(eq=False, slots=True)
class Oneof:
    """A oneof as written; the synthetic ones of proto3 `optional` do not count."""

    name: str
    fields: list[Field]
    comment: str
    position: Position


@dataclass(eq=False, slots=True)
class Field:
    """A field or an extension, with everything about its wire form settled.

    Attributes:
        type: the type by its name in a `.proto`; `group` for every delimited sub-message.
        presence: `implicit`, `optional` or `required`; `repeated` and `packed` for lists and maps.
        utf8: whether a string must be UTF-8.
        oneof: the name of its oneof, or empty.
        extends: the message that an extension extends; None for an ordinary field.
        explicit_presence: whether `HasField` takes it.
    """

    name: str
    full_name: str
    number: int
    type: str
    presence: str
    utf8: bool
    oneof: str
    comment: str
    position: Position
    proto: descriptor_pb2.FieldDescriptorProto
    message: Message | None = None
    enum: Enum | None = None
    extends: Message | None = None

    @property
    def repeated(self) -> bool:
        """Whether there may be many, which a map's entries are too."""
        return self.presence in ("repeated", "packed")

    @property
    def is_map(self) -> bool:
        """Whether it was written `map<key, value>`."""
        return self.message is not None and self.message.map_entry

    @property
    def explicit_presence(self) -> bool:
        """Whether absent and default are told apart."""
        return self.presence in ("optional", "required")


@dataclass(eq=False, slots=True)
class Message:
    """A message type with its fields in the order of its file."""

    name: str
    full_name: str
    file: File
    parent: Message | None
    comment: str
    position: Position
    map_entry: bool
    reserved: Reserved
    message_set: bool
    extendable: bool
    fields: list[Field] = field(default_factory=list)
    oneofs: list[Oneof] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    enums: list[Enum] = field(default_factory=list)
    extensions: list[Field] = field(default_factory=list)

    @property
    def local_name(self) -> str:
        """The name within its file: `Outer.Inner`."""
        return self.name if self.parent is None else f"{self.parent.local_name}.{self.name}"


@dataclass(eq=False, slots=True)
class File:
    """One `.proto`.

    Attributes:
        path: as others import it: relative, with forward slashes.
        own: whether it lies in the schemas folder; others come with protobuf or another package.
        proto: its descriptor, without imports that Python has no modules for.
    """

    path: str
    package: str
    own: bool
    comment: str
    proto: descriptor_pb2.FileDescriptorProto
    messages: list[Message] = field(default_factory=list)
    enums: list[Enum] = field(default_factory=list)
    extensions: list[Field] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Schemas:
    """All that protoc found.

    Attributes:
        root: the folder, as the user wrote it.
        files: every file by path, imported ones first.
        messages: every message by full name, in the order of the files.
        enums: every enum by full name.
        extensions: every extension by full name.
        warnings: what protoc warned of, a line each.
    """

    root: str
    files: dict[str, File]
    messages: dict[str, Message]
    enums: dict[str, Enum]
    extensions: dict[str, Field]
    warnings: list[str]

    @property
    def own_files(self) -> list[File]:
        """The files of the schemas folder, sorted by path."""
        return sorted((file for file in self.files.values() if file.own), key=lambda f: f.path)


def compile_schemas(root: Path) -> Schemas:
    """Compiles every `.proto` below a folder.

    Args:
        root: the folder; imports are looked for in it, then in protobuf's own files, then in
            googleapis-common-protos where that is installed.

    Returns:
        The schemas, resolved.

    Raises:
        UsageError: the folder is missing or holds no `.proto`, something in it cannot be read or is
            imported by a name that it is not compiled by, or protoc rejects a file; then the message is
            protoc's own, with file, line and column.
    """
    if not root.is_dir():
        what = "is a file" if root.is_file() else "no such folder"
        raise UsageError(f"{root}: {what}; give the folder that holds your .proto files")
    paths = _proto_files(root)
    if not paths:
        raise UsageError(f"{root}: no .proto file in it or below")
    serialized, warnings = _protoc(root, paths)
    descriptor_set = descriptor_pb2.FileDescriptorSet.FromString(serialized)
    schemas = _Resolver(root, frozenset(paths), warnings).resolve(descriptor_set.file)
    _reject_passed_over(root, schemas)
    schemas.warnings.extend(_wrong_root(root, schemas))
    return schemas


def _proto_files(root: Path) -> list[str]:
    """The files to compile, as others import them.

    Each is opened once: protoc does not say why it cannot read one, and a folder passed over would
    be taken for tables that are gone.
    """
    problems = []

    def complain(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    paths = []
    top = Path(os.path.realpath(root))
    seen = {top}
    for folder, folders, files in os.walk(root, onerror=complain, followlinks=True):
        # A hidden folder is nobody's schemas: `.venv` has those of protoc.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in folders if _is_first(Path(folder, name), top, seen)]
        for name in (*folders, *files):
            path = Path(folder, name)
            if not name.endswith(".proto") or name.startswith("."):
                continue
            inside = str(path.relative_to(root))
            if len(inside.splitlines()) > 1 or os.fsencode(inside) != inside.encode(
                errors="replace"
            ):
                problems.append(
                    f"{str(path)!r}: has a line break, or no UTF-8, in its name; rename it"
                )
                continue
            try:
                if path.is_symlink() and not path.exists():
                    problems.append(f"{path}: is a link to {path.readlink()}, which is not there")
                elif not path.is_file():
                    problems.append(
                        f"{path}: is {'a folder' if path.is_dir() else 'no file'}; name only files "
                        "that hold messages *.proto"
                    )
                else:
                    path.open("rb").close()
                    paths.append(path.relative_to(root).as_posix())
            except OSError as error:
                complain(error)
    if problems:
        raise UsageError("\n".join(sorted(problems)))
    return sorted(paths)


def _is_first(folder: Path, top: Path, seen: set[Path]) -> bool:
    """Whether the files of a folder are not found by another name, too, as those behind a link may be."""
    real = Path(os.path.realpath(folder))
    inside = real.relative_to(top).parts if real.is_relative_to(top) else (".",)
    by_itself = folder.is_symlink() and not any(name.startswith(".") for name in inside)
    if by_itself or real in seen:
        return False
    seen.add(real)
    return True


def _reject_passed_over(root: Path, schemas: Schemas) -> None:
    """What protoc finds in the folder though it is not compiled would be an import of no module."""
    problems = [
        f"{root / file.path}:{_line_of_import(file, path)}: {path} is not compiled, as only files are that end "
        "in .proto and lie in no hidden folder; give it such a name"
        for file in schemas.own_files
        for path in file.proto.dependency
        if not schemas.files[path].own and (root / path).exists()
    ]
    if problems:
        raise UsageError("\n".join(problems))


def _wrong_root(root: Path, schemas: Schemas) -> list[str]:
    """A warning where the packages say that the schemas begin in a folder further up.

    A folder with rules of its own is taken at its word.
    """
    if (root / "cdpgen.yaml").exists():
        return []
    folders = root.resolve().parts
    for file in schemas.own_files:
        package = tuple(file.package.split("."))
        inside = Path(file.path).parent.parts
        above = package[: len(package) - len(inside)]
        if above and package[len(above) :] == inside and folders[-len(above) :] == above:
            begin = os.path.normpath(root / Path(*[".."] * len(above)))
            return [
                f"{root / file.path}:1:1: warning: package {file.package} begins in {begin}, not in "
                f"{root}: others import this file as {'/'.join(above)}/{file.path}; if so, build "
                f"{begin}"
            ]
    return []


def _on_missing(root: Path, said: Sequence[str]) -> Iterator[str]:
    """Where files that protoc does not find lie, or would have to."""
    missing = [found[1] for line in said if (found := re.match(r"(.*): File not found\.", line))]
    above = next((name for name in missing if (root.resolve().parent / name).is_file()), "")
    if above:
        begin = os.path.normpath(root / "..")
        yield f"{above} lies in {begin}: build that folder, not {root}"
    elif missing:
        yield (
            f"imports are looked for in {root}, and among the files of protobuf and "
            f"googleapis-common-protos; put the folder, or a link to it, there, so that "
            f"{root / missing[0]} is a file"
        )


def _protoc(root: Path, paths: Sequence[str]) -> tuple[bytes, list[str]]:
    """Runs protoc; returns the serialized descriptor set and its warnings."""
    bundled = _package_folder("grpc_tools")
    if bundled is None:
        raise UsageError("grpcio-tools is not installed; pip install grpcio-tools")
    includes = [root, bundled / "_proto"]
    common = _package_folder("google.type")
    if common is not None and (common / "date.proto").is_file():
        includes.append(common.parent.parent)
    with tempfile.TemporaryDirectory(prefix="cdpgen-") as folder:
        out = os.path.join(folder, "descriptors")
        # By other names, as protoc parts folders at a `:` and a `=`, and takes `-x.proto` for an option.
        links = [Path(folder, str(i)) for i in range(len(includes))]
        for link, include in zip(links, includes, strict=True):
            link.symlink_to(os.path.abspath(include))
        arguments = [
            *(f"-I{link}" for link in links),
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={out}",
            *(f"{links[0]}/{path}" for path in paths),
        ]
        # A process of its own: what protoc says arrives as text, and its end is not ours.
        done = subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        said = [
            _placed(root, line.removeprefix(f"{links[0]}/"))
            for line in _without_log(done.stderr.splitlines())
        ]
        if done.returncode != 0 or not os.path.exists(out):
            said += _on_missing(root, said)
            raise UsageError("\n".join(said) or f"protoc ended with exit code {done.returncode}")
        return Path(out).read_bytes(), said


_LOG: Final = re.compile(r"[IWEF]\d{4} \S+ +\d+ [\w.]+:\d+\] ")
_NO_SYNTAX: Final = re.compile(
    r"No edition or syntax specified for the proto file: (.*?\.proto)\. "
)


def _without_log(lines: Sequence[str]) -> Iterator[str]:
    """What protoc said, where it is for its log in the form of what is for people."""
    for line in lines:
        text = _LOG.sub("", line).strip()
        silent = _NO_SYNTAX.match(text)
        if silent:
            yield (
                f"{silent[1]}:1:1: warning: says no `syntax`, and is taken for proto2; write "
                '`syntax = "proto2";` on top'
            )
        elif text and "absl::InitializeLog" not in text:
            yield text


def _placed(root: Path, line: str) -> str:
    """A line of protoc's with the path as seen from here, so that a terminal can open it."""
    name, end, rest = line.partition(".proto:")
    path = root / f"{name}.proto"
    return f"{path}:{rest}" if end and path.is_file() else line


def _package_folder(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _line_of_import(file: File, path: str) -> str:
    """Line and column of an import of a file."""
    wanted = [_FILE_DEPENDENCY, list(file.proto.dependency).index(path)]
    found = (each for each in file.proto.source_code_info.location if list(each.path) == wanted)
    span = next((each.span for each in found), (0, 0))
    return f"{span[0] + 1}:{span[1] + 1}"


class _Source:
    """Comments and places of one file's elements, by their paths in its descriptor."""

    def __init__(self, shown: str, proto: descriptor_pb2.FileDescriptorProto) -> None:
        self._shown = shown
        # Elements have paths of even length; the odd ones are their parts (name, type, number).
        self._locations = {
            tuple(location.path): location
            for location in proto.source_code_info.location
            if len(location.path) % 2 == 0 or len(location.path) == 1
        }

    def position(self, path: tuple[int, ...]) -> Position:
        location = self._locations.get(path)
        if location is None:
            return Position(self._shown, 1, 1)
        return Position(self._shown, location.span[0] + 1, location.span[1] + 1)

    def comment(self, path: tuple[int, ...]) -> str:
        location = self._locations.get(path)
        if location is None:
            return ""
        parts = [self._clean(location.leading_comments), self._clean(location.trailing_comments)]
        return "\n\n".join(part for part in parts if part)

    def file_comment(self) -> str:
        """The comment on top of the file that is about it, and no license."""
        for path in ((_FILE_PACKAGE,), (_FILE_SYNTAX,), (_FILE_EDITION,)):
            location = self._locations.get(path)
            if location is None:
                continue
            for text in (location.leading_comments, *reversed(location.leading_detached_comments)):
                comment = self._clean(text)
                lowered = comment.lower()
                if comment and "copyright" not in lowered and "license" not in lowered:
                    return comment
        return ""

    def _clean(self, comment: str) -> str:
        """A comment's lines without what the comment syntax left at their ends."""
        if isinstance(comment, bytes):  # what is no UTF-8 protobuf hands over as it is
            raise UsageError(not_utf8(self._shown, Path(self._shown).read_bytes()))
        lines = [line.rstrip() for line in comment.expandtabs(4).splitlines()]
        return textwrap.dedent("\n".join(lines)).strip("\n").strip()


class _Resolver:
    """Builds the objects of all files, then joins fields to the types that they name."""

    def __init__(self, root: Path, own: frozenset[str], warnings: list[str]) -> None:
        self._root = root
        self._own = own
        self._schemas = Schemas(str(root), {}, {}, {}, {}, warnings)
        self._unresolved: list[tuple[Field, _Features]] = []

    def resolve(self, protos: Sequence[descriptor_pb2.FileDescriptorProto]) -> Schemas:
        for proto in protos:
            _leave_out(LANGUAGE_FEATURES - self._own, proto)
            self._file(proto)
        schemas = self._schemas
        for target, features in self._unresolved:
            named = target.proto
            if named.extendee:
                target.extends = schemas.messages[named.extendee[1:]]
            if target.type == "enum":
                target.enum = schemas.enums[named.type_name[1:]]
            elif named.type_name:
                target.message = schemas.messages[named.type_name[1:]]
                holder = schemas.messages.get(target.full_name.rpartition(".")[0])
                # Maps are length-prefixed whatever the features say.
                in_map = target.is_map or (holder is not None and holder.map_entry)
                if features.message_encoding == _DELIMITED and not in_map:
                    target.type = "group"
        return schemas

    def _file(self, proto: descriptor_pb2.FileDescriptorProto) -> None:
        features = {"": _PROTO2, "proto2": _PROTO2, "proto3": _PROTO3}.get(proto.syntax)
        if features is None:
            features = _EDITIONS.get(proto.edition)
        shown = str(self._root / proto.name) if proto.name in self._own else proto.name
        if features is None:
            edition = descriptor_pb2.Edition.Name(proto.edition).removeprefix("EDITION_")
            raise UsageError(f"{shown}:1:1: edition {edition} is not supported; 2023 and 2024 are")
        features = features.merged(proto.options)
        source = _Source(shown, proto)
        file = File(
            path=proto.name,
            package=proto.package,
            own=proto.name in self._own,
            comment=source.file_comment(),
            proto=proto,
        )
        self._schemas.files[proto.name] = file
        scope = proto.package
        for i, enum in enumerate(proto.enum_type):
            file.enums.append(self._enum(enum, scope, source, (_FILE_ENUM, i), features))
        for i, message in enumerate(proto.message_type):
            path = (_FILE_MESSAGE, i)
            file.messages.append(self._message(message, scope, file, None, source, path, features))
        for i, extension in enumerate(proto.extension):
            path = (_FILE_EXTENSION, i)
            file.extensions.append(self._extension(extension, scope, source, path, features))

    def _message(
        self,
        proto: descriptor_pb2.DescriptorProto,
        scope: str,
        file: File,
        parent: Message | None,
        source: _Source,
        path: tuple[int, ...],
        features: _Features,
    ) -> Message:
        full_name = f"{scope}.{proto.name}" if scope else proto.name
        features = features.merged(proto.options)
        message = Message(
            name=proto.name,
            full_name=full_name,
            file=file,
            parent=parent,
            comment=source.comment(path),
            position=source.position(path),
            map_entry=proto.options.map_entry,
            reserved=Reserved(
                tuple((r.start, r.end - 1) for r in proto.reserved_range),
                tuple(proto.reserved_name),
            ),
            message_set=proto.options.message_set_wire_format,
            extendable=bool(proto.extension_range),
        )
        self._schemas.messages[full_name] = message
        oneofs = []
        for i, declared in enumerate(proto.oneof_decl):
            place = (*path, _MESSAGE_ONEOF, i)
            made = Oneof(declared.name, [], source.comment(place), source.position(place))
            oneofs.append((made, features.merged(declared.options)))
        for i, item in enumerate(proto.field):
            place = (*path, _MESSAGE_FIELD, i)
            in_oneof = item.HasField("oneof_index") and not item.proto3_optional
            oneof: Oneof | None = None
            inherited = features
            if in_oneof:
                oneof, inherited = oneofs[item.oneof_index]
            made_field = self._field(item, full_name, source, place, inherited, oneof)
            message.fields.append(made_field)
            if oneof is not None:
                oneof.fields.append(made_field)
        message.oneofs = [oneof for oneof, _ in oneofs if oneof.fields]
        for i, enum in enumerate(proto.enum_type):
            place = (*path, _MESSAGE_ENUM, i)
            message.enums.append(self._enum(enum, full_name, source, place, features))
        for i, nested in enumerate(proto.nested_type):
            place = (*path, _MESSAGE_NESTED, i)
            message.messages.append(
                self._message(nested, full_name, file, message, source, place, features)
            )
        for i, extension in enumerate(proto.extension):
            place = (*path, _MESSAGE_EXTENSION, i)
            message.extensions.append(
                self._extension(extension, full_name, source, place, features)
            )
        return message

    def _extension(
        self,
        proto: descriptor_pb2.FieldDescriptorProto,
        scope: str,
        source: _Source,
        path: tuple[int, ...],
        features: _Features,
    ) -> Field:
        extension = self._field(proto, scope, source, path, features, None)
        self._schemas.extensions[extension.full_name] = extension
        return extension

    def _field(
        self,
        proto: descriptor_pb2.FieldDescriptorProto,
        scope: str,
        source: _Source,
        path: tuple[int, ...],
        features: _Features,
        oneof: Oneof | None,
    ) -> Field:
        features = features.merged(proto.options)
        type_ = _TYPES[proto.type]
        made = Field(
            name=proto.name,
            full_name=f"{scope}.{proto.name}" if scope else proto.name,
            number=proto.number,
            type=type_,
            presence=_presence(proto, type_, features, oneof),
            utf8=features.utf8_validation == _VERIFY,
            oneof=oneof.name if oneof else "",
            comment=source.comment(path),
            position=source.position(path),
            proto=proto,
        )
        if proto.type_name or proto.extendee:
            self._unresolved.append((made, features))
        return made

    def _enum(
        self,
        proto: descriptor_pb2.EnumDescriptorProto,
        scope: str,
        source: _Source,
        path: tuple[int, ...],
        features: _Features,
    ) -> Enum:
        full_name = f"{scope}.{proto.name}" if scope else proto.name
        enum = Enum(
            name=proto.name,
            full_name=full_name,
            closed=features.merged(proto.options).enum_type == _CLOSED,
            values=[
                EnumValue(
                    value.number,
                    value.name,
                    source.comment((*path, _ENUM_VALUE, i)),
                    source.position((*path, _ENUM_VALUE, i)),
                )
                for i, value in enumerate(proto.value)
            ],
            reserved=Reserved(
                tuple((r.start, r.end) for r in proto.reserved_range), tuple(proto.reserved_name)
            ),
            comment=source.comment(path),
            position=source.position(path),
        )
        self._schemas.enums[full_name] = enum
        return enum


def _leave_out(paths: Set[str], proto: descriptor_pb2.FileDescriptorProto) -> None:
    """Takes imports out of a file, and out of the indexes of those that are public or weak."""
    kept = [i for i, path in enumerate(proto.dependency) if path not in paths]
    if len(kept) == len(proto.dependency):
        return
    proto.dependency[:] = [proto.dependency[i] for i in kept]
    for indexes in (proto.public_dependency, proto.weak_dependency):
        indexes[:] = [kept.index(i) for i in indexes if i in kept]


def _presence(
    proto: descriptor_pb2.FieldDescriptorProto,
    type_: str,
    features: _Features,
    oneof: Oneof | None,
) -> str:
    """How absence is told on the wire, or that the field repeats."""
    if proto.label == _REPEATED:
        if type_ in _UNPACKABLE:
            return "repeated"
        if proto.options.HasField("packed"):
            return "packed" if proto.options.packed else "repeated"
        return "packed" if features.repeated_field_encoding == _PACKED else "repeated"
    if proto.label == _REQUIRED or features.field_presence == _LEGACY_REQUIRED:
        return "required"
    explicit = (
        features.field_presence == _EXPLICIT
        or type_ in ("message", "group")
        or proto.proto3_optional
        or proto.extendee
        or oneof is not None
    )
    return "optional" if explicit else "implicit"


def walk(messages: Sequence[Message]) -> Iterator[Message]:
    """Yields messages and those nested in them, outer ones first, in the order of their file."""
    for message in messages:
        yield message
        yield from walk(message.messages)
