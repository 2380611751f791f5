"""`_pb2.py`: the message classes of one `.proto` (`cdpgen.stub` has their types).

The module is made from the file's descriptor alone and not by protoc's Python generator, so it is
the same whatever protoc is installed, and imports its neighbours relatively. The descriptor goes
into protobuf's default pool, as that of any other `_pb2` does: messages mix with those of
google.protobuf and of other libraries, and the same file from another place is the same type. Two
different files of one path cannot live in one process; that is protobuf's rule, and its error says
so.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from cdpgen.descriptors import LANGUAGE_FEATURES, Field, File, Schemas, walk
from cdpgen.errors import UsageError
from cdpgen.layout import WIDTH, import_lines
from cdpgen.names import module_path, relative_import
from cdpgen.templates import template

__all__ = ["import_of", "joined", "reject_refused", "render_module"]

_MARGIN: Final = 4
_ESCAPES: Final = {10: "\\n", 13: "\\r", 9: "\\t", 92: "\\\\"}
_LITERALS: Final = [
    _ESCAPES.get(byte)
    or (chr(byte) if 32 <= byte < 127 and byte not in b"\"'" else f"\\x{byte:02x}")
    for byte in range(256)
]
"""Each byte as it stands in a literal."""


def render_module(file: File, schemas: Schemas, header: str) -> str:
    """The `_pb2.py` of a file."""
    imports = []
    public = []
    for i, path in enumerate(file.proto.dependency):
        package, module, alias = import_of(schemas.files[path], file)
        imports += import_lines(package, f"{module} as {alias}")
        if i in file.proto.public_dependency:
            public.append(joined(package, module))
    return template("pb2.py.j2").render(
        header=header,
        path=file.path,
        imports=imports,
        public=public,
        register=list(_call("_descriptor_pool.Default().AddSerializedFile", _serialized(file))),
    )


def reject_refused(schemas: Schemas) -> None:
    """What protoc takes Python's protobuf may refuse: said now, and not when a module is imported."""
    pool = DescriptorPool()
    problems: list[str] = []
    refused: set[str] = set()
    for file in schemas.files.values():
        if refused.intersection(file.proto.dependency):
            refused.add(file.path)  # for that alone
            continue
        if not file.own and file.path in LANGUAGE_FEATURES:
            continue  # nothing can be imported of it
        try:
            pool.AddSerializedFile(_serialized(file))
        except TypeError as error:
            refused.add(file.path)
            what = str(error).removeprefix("Couldn't build proto file into descriptor pool: ")
            named = list(_same_in_json(file)) if "json_name" in what else []
            problems += named or [
                f"{Path(schemas.root) / file.path}:1:1: Python's protobuf refuses this file: {what}"
            ]
    if problems:
        raise UsageError("\n".join(problems))


def _same_in_json(file: File) -> Iterator[str]:
    """The fields of one message with one name in JSON, of which protoc only warns in proto2."""
    for message in walk(file.messages):
        seen: dict[str, Field] = {}
        for field in message.fields:
            name = field.proto.json_name
            first = seen.setdefault(name, field)
            if first is not field:
                yield (
                    f"{field.position}: the fields `{field.name}` and `{first.name}` "
                    f"({first.position}) of {message.full_name} are both `{name}` in JSON, which "
                    "Python's protobuf refuses; give one of them another name there, with "
                    '`[json_name = "..."]`'
                )


def import_of(target: File, importer: File) -> tuple[str, str, str]:
    """How one file's `_pb2` imports another's.

    Returns:
        The package as the importer writes it (relative within the schemas), the module in it, and
        the name under which it is known there.
    """
    package, stem = module_path(target.path)
    module = f"{stem}_pb2"
    alias = "_" + "_".join((*package, module))
    if not target.own:
        return ".".join(package), module, alias
    return relative_import(module_path(importer.path)[0], package), module, alias


def joined(package: str, module: str) -> str:
    """The module in a package, relative or not: `..common` and `x` as `..common.x`."""
    return f"{package}{'' if package.endswith('.') else '.'}{module}"


def _serialized(file: File) -> bytes:
    """The descriptor as it is registered: without comments, places and JSON names that go without
    saying.

    That is also what protoc's own Python modules register, so both may be imported in one process.
    """
    proto = descriptor_pb2.FileDescriptorProto()
    proto.CopyFrom(file.proto)
    proto.ClearField("source_code_info")
    fields = list(proto.extension)
    pending = list(proto.message_type)
    while pending:
        message = pending.pop()
        pending += message.nested_type
        fields += message.field
        fields += message.extension
    for field in fields:
        if field.extendee or field.json_name == _json_name(field.name):
            field.ClearField("json_name")
    return proto.SerializeToString(deterministic=True)


def _json_name(name: str) -> str:
    """The name in JSON of a field for which the `.proto` gives none."""
    return re.sub(r"_+(.?)", lambda found: found[1].upper(), name)


def _call(function: str, data: bytes) -> Iterator[str]:
    """Yields the lines of `DESCRIPTOR = function(data)`."""
    lines = list(_bytes_literal(data))
    short = f"DESCRIPTOR = {function}({lines[0]})"
    if len(lines) == 1 and len(short) <= WIDTH:
        yield short
        return
    yield f"DESCRIPTOR = {function}("
    yield from (" " * _MARGIN + line for line in lines)
    yield ")"


def _bytes_literal(data: bytes) -> Iterator[str]:
    """Yields the lines of a bytes literal, as many characters in each as fit."""
    room = WIDTH - _MARGIN - len('b""')
    pieces = [_LITERALS[byte] for byte in data]
    lengths = list(accumulate(map(len, pieces), initial=0))
    at, end = 0, -1
    while end < len(pieces):
        end = bisect_right(lengths, lengths[at] + room) - 1
        yield f'b"{"".join(pieces[at:end])}"'
        at = end
