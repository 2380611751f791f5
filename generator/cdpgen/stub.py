"""`_pb2.pyi`: the types of the message classes of one `.proto`, with its comments as docstrings.

protobuf makes the classes when a `_pb2` is imported; an editor and a type checker know of them by
this. Every name that the stub needs for itself begins with an underscore; where a `.proto` takes
the name of a builtin or of a message for a field, the stub goes round it by a name of its own.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message as AnyMessage

from cdpgen import descriptors
from cdpgen.descriptors import Enum, Field, File, Message, Schemas
from cdpgen.layout import WIDTH, Group, Item, docstring, import_lines, layout
from cdpgen.names import Names, stub_name
from cdpgen.pb2 import import_of, joined
from cdpgen.templates import quoted, template

__all__ = ["render_stub"]

_SCALARS: Final = {
    "double": "float",
    "float": "float",
    "string": "str",
    "bytes": "bytes",
    "bool": "bool",
}
"""The Python type of a scalar; of all others int."""
_OF_PYTHON: Final = {
    "google.protobuf.Duration": "timedelta",
    "google.protobuf.Timestamp": "datetime",
}
"""What of Python's datetime the constructor takes for a field of such a message, from protobuf 5.28 on."""
_OF_ENUMS: Final = frozenset({*dir(EnumTypeWrapper), "DESCRIPTOR"})
_OF_MESSAGES: Final = frozenset(
    {*dir(AnyMessage), "DESCRIPTOR", "Extensions", "__annotations__", "__dict__"}
)
"""What a class has by itself, and a value or a field of that name in its stead when the program runs."""
_HIDES: Final = "  # type: ignore[assignment, override, misc, no-redef, unused-ignore]"
_BUILTINS: Final = frozenset({"int", "float", "str", "bytes", "bool", "type", "property"})

# What a stub may need, in the order in which it is imported.
_IMPORTS: Final = {
    "_builtins": "import builtins as _builtins",
    "_datetime": "import datetime as _datetime",
    "_Iterable": "from collections.abc import Iterable as _Iterable",
    "_Mapping": "from collections.abc import Mapping as _Mapping",
    "_Any": "from typing import Any as _Any",
    "_Literal": "from typing import Literal as _Literal",
    "_NewType": "from typing import NewType as _NewType",
    "_overload": "from typing import overload as _overload",
    "_TypeAlias": "from typing import TypeAlias as _TypeAlias",
    "_descriptor": "from google.protobuf import descriptor as _descriptor",
    "_message": "from google.protobuf import message as _message",
    "_containers": "from google.protobuf.internal import containers as _containers",
    "_enums": "from google.protobuf.internal import enum_type_wrapper as _enums",
    "_extensions": "from google.protobuf.internal import extension_dict as _extensions",
}


def render_stub(file: File, schemas: Schemas, header: str) -> str:
    """The `_pb2.pyi` of a file."""
    return _Stub(file, schemas).render(header)


class _Stub:
    """Writes the stub of one file and notes what it has to import."""

    def __init__(self, file: File, schemas: Schemas) -> None:
        self._file = file
        self._schemas = schemas
        self._used = {"_descriptor"}
        self._others: dict[tuple[str, str], str] = {}
        self._aliases: dict[str, str] = {}
        # What is a name within some class, and so hides that name of the module or of Python there.
        self._inner = {
            name for message in descriptors.walk(file.messages) for name in _names_in(message)
        }
        outer = {name for name, _ in _names_on_top(file, schemas)}
        self._builtins = (self._inner | outer) & _BUILTINS
        enums = [*file.enums, *(e for m in descriptors.walk(file.messages) for e in m.enums)]
        self._made = {name for enum in enums for name in (f"_{enum.name}", f"_{enum.name}Wrapper")}
        # An enum `descriptor` has a class `_descriptor`, so that the module is imported under another name.
        helpers = Names(
            [*self._inner, *outer, *self._made, *(f"_{name}" for name in self._inner & outer)]
        )
        self._helpers = {name: helpers.take(name) for name in (*_IMPORTS, "_Fields")}
        # What a name given to something imported may not be: helpers, and the names made below.
        self._names = Names([*self._helpers.values(), *(f"_{name}" for name in self._inner)])
        for message in descriptors.walk(file.messages):
            self._reserve([message.name], message.enums)
        self._reserve([], file.enums)
        self._owners: dict[int, tuple[File, str]] = {}
        for owner in schemas.files.values():
            for message in descriptors.walk(owner.messages):
                self._owners[id(message)] = (owner, message.local_name)
                for enum in message.enums:
                    self._owners[id(enum)] = (owner, f"{message.local_name}.{enum.name}")
            for enum in owner.enums:
                self._owners[id(enum)] = (owner, enum.name)

    def render(self, header: str) -> str:
        body = []
        for enum in self._file.enums:
            body += ["", *self._enum(enum, 0)]
        for message in self._file.messages:
            body += ["", *self._message(message, 0)]
        if self._file.extensions:
            body += ["", *self._extensions(self._file.extensions, 0)]
        aliases = [(shown, stub_name(name)) for name, shown in sorted(self._aliases.items())]
        if "_Fields" in self._used:
            fields = f"{self._use('_Mapping')}[{self._builtin('str')}, {self._use('_Any')}]"
            aliases.append((self._helpers["_Fields"], fields))
        if aliases:
            alias = self._use("_TypeAlias")
            body.append("")
            for shown, meant in aliases:
                body += _in_parentheses(f"{shown}: {alias} = ", meant, 0)
        imports = [
            line.removesuffix(name) + self._helpers[name]
            for name, line in _IMPORTS.items()
            if name in self._used
        ]
        hidden = "DESCRIPTOR" in _own_names(self._file)
        others = [self._import(path, top, name) for (path, top), name in self._others.items()]
        return template("pb2.pyi.j2").render(
            header=header,
            path=self._file.path,
            descriptor="" if hidden else self._helpers["_descriptor"],
            imports=[*imports, *(line for lines in sorted(others) for line in lines)],
            public=self._public(),
            body=body,
        )

    # Names

    def _reserve(self, names: Iterable[str], enums: Iterable[Enum]) -> None:
        for name in (*names, *(enum.name for enum in enums)):
            self._names.take(f"_{name}")
            self._names.take(f"_{name}Wrapper")

    def _use(self, name: str) -> str:
        self._used.add(name)
        return self._helpers[name]

    def _builtin(self, name: str) -> str:
        return f"{self._use('_builtins')}.{name}" if name in self._builtins else name

    def _named(self, named: Message | Enum) -> str:
        """A message or an enum as it is referred to from within a class of this stub."""
        owner, name = self._owners[id(named)]
        if owner is self._file:
            return self._own(name)
        top, dot, rest = name.partition(".")
        key = (owner.path, top)
        if key not in self._others:
            self._others[key] = self._names.take(f"_{top}")
        return f"{self._others[key]}{dot}{stub_name(rest)}"

    def _own(self, name: str) -> str:
        """The same of one of this file, by its name in it."""
        top, dot, rest = name.partition(".")
        if top in self._inner:
            if top not in self._aliases:
                alias = f"_{top}"  # which an enum of that name within a message hides again
                self._aliases[top] = self._names.take(alias) if alias in self._made else alias
            return f"{self._aliases[top]}{dot}{stub_name(rest)}"
        return stub_name(name)

    def _import(self, path: str, name: str, shown: str) -> list[str]:
        owner = self._schemas.files[path]
        package, module, _ = import_of(owner, self._file)
        # Of packages that are neither ours nor protobuf's, few have types.
        known = owner.own or package == "google.protobuf"
        remark = "" if known else "# type: ignore[import-untyped, unused-ignore]"
        return import_lines(joined(package, module), f"{stub_name(name)} as {shown}", remark)

    def _public(self) -> list[str]:
        """The lines that import what other files have, for those who import it from this one."""
        lines: list[str] = []
        hidden = dict.fromkeys(_own_names(self._file), self._file.path)
        # As when the program runs, what is defined here counts, and of what is imported the last.
        for target in reversed(list(_public_files(self._file, self._schemas))):
            package, module, _ = import_of(target, self._file)
            names = dict(_names_on_top(target, self._schemas))
            imported = joined(package, module)
            if all(hidden.get(name, path) == path for name, path in names.items()):
                found = [f"from {imported} import *"]
            else:
                found = []
                for name in filter(_is_seen, sorted(names.keys() - hidden.keys())):
                    found += import_lines(imported, f"{name} as {name}")
            lines = [*found, *lines]
            hidden = {**names, **hidden}
        return lines

    # Types

    def _type(self, field: Field) -> str:
        """The type of one value of a field."""
        if field.message is not None:
            return self._named(field.message)
        if field.enum is not None:
            return f"{self._named(field.enum)}.ValueType"
        return self._builtin(_SCALARS.get(field.type, "int"))

    def _given(self, field: Field) -> str:
        """The type of one value as the constructor takes it: enums by name too, messages by their fields."""
        text = self._type(field)
        if field.enum is not None:
            return f"{text} | {self._builtin('str')}"
        if field.message is not None:
            return f"{text} | {self._use('_Fields')}"
        return text

    def _field_type(self, field: Field) -> str:
        """The type of the attribute."""
        if field.message is not None and field.is_map:
            key, value = field.message.fields
            name = "MessageMap" if value.message is not None else "ScalarMap"
            return f"{self._use('_containers')}.{name}[{self._type(key)}, {self._type(value)}]"
        if field.repeated:
            name = "Composite" if field.message is not None else "Scalar"
            return f"{self._use('_containers')}.Repeated{name}FieldContainer[{self._type(field)}]"
        return self._type(field)

    def _parameter_type(self, field: Field) -> str:
        if field.message is not None and field.is_map:
            key, value = field.message.fields
            given = self._given(value) if value.enum is not None else self._type(value)
            return f"{self._use('_Mapping')}[{self._type(key)}, {given}]"
        given = self._given(field)
        if field.repeated:
            return f"{self._use('_Iterable')}[{given}]"
        of_python = _OF_PYTHON.get(field.message.full_name) if field.message is not None else None
        return f"{given} | {self._use('_datetime')}.{of_python}" if of_python else given

    # Enums

    def _enum(self, enum: Enum, indent: int) -> Iterator[str]:
        margin = " " * indent
        new_type, wrapper = self._use("_NewType"), f"{self._use('_enums')}._EnumTypeWrapper"
        values = [value for value in enum.values if not keyword.iskeyword(value.name)]
        holder, dot, _ = self._owners[id(enum)][1].rpartition(".")
        own = f"{self._own(holder)}{dot}_{enum.name}"
        yield f"{margin}class _{enum.name}:"
        yield f'{margin}    ValueType = {new_type}("ValueType", {self._builtin("int")})'
        yield ""
        base = [Item(Group(f"{wrapper}[", [Item(f"{own}.ValueType")], "]"))]
        yield from layout("", Group(f"class _{enum.name}Wrapper(", base, ")"), ":", indent)
        for value in values:
            remark = _HIDES if value.name in _OF_ENUMS else ""
            yield from _in_parentheses(f"{value.name}: ", f"{own}.ValueType", indent + 4, remark)
            yield from self._doc(value.comment, indent + 4)
        if not values:
            yield f"{margin}    DESCRIPTOR: {self._use('_descriptor')}.EnumDescriptor"
        yield ""
        bases = [Item(f"_{enum.name}"), Item(f"_{enum.name}Wrapper", key="metaclass=")]
        end = ":" if enum.comment else ": ..."
        yield from layout("", Group(f"class {stub_name(enum.name)}(", bases, ")"), end, indent)
        yield from self._doc(enum.comment, indent + 4)
        yield ""
        for value in values:
            remark = _HIDES if indent and value.name in _OF_MESSAGES else ""
            yield from _in_parentheses(f"{value.name}: ", f"{own}.ValueType", indent, remark)

    # Messages

    def _message(self, message: Message, indent: int) -> Iterator[str]:
        inside = indent + 4
        base = [Item(f"{self._use('_message')}.Message")]
        yield from layout("", Group(f"class {stub_name(message.name)}(", base, ")"), ":", indent)
        if message.comment:
            yield from self._doc(message.comment, inside)
            yield ""
        for enum in message.enums:
            yield from self._enum(enum, inside)
            yield ""
        for nested in message.messages:
            if not nested.map_entry:
                yield from self._message(nested, inside)
                yield ""
        yield from self._extensions(message.extensions, inside)
        for field in message.fields:
            yield from self._number(field, inside)
        # A keyword names an attribute that only getattr reaches; of `__init__` the class has one.
        fields = [
            field
            for field in message.fields
            if not keyword.iskeyword(field.name) and field.name != "__init__"
        ]
        for field in fields:
            yield from self._attribute(field, inside)
        yield from self._methods(message, fields, inside)

    def _number(self, field: Field, indent: int) -> Iterator[str]:
        name = f"{field.name.upper()}_FIELD_NUMBER: "
        yield from _in_parentheses(name, self._builtin("int"), indent)

    def _attribute(self, field: Field, indent: int) -> Iterator[str]:
        margin = " " * indent
        type_ = self._field_type(field)
        remark = _HIDES if field.name in _OF_MESSAGES else ""
        if field.message is None and not field.repeated:
            yield from _in_parentheses(f"{field.name}: ", type_, indent, remark)
            yield from self._doc(field.comment, indent)
            return
        short = indent + len(f") -> {type_}: ...") <= WIDTH
        if not short:
            alias, name = self._use("_TypeAlias"), f"_type_{field.number}"
            container, bracket, items = type_.partition("[")
            group = Group(container + bracket, [Item(i) for i in items[:-1].split(", ")], "]")
            yield from layout(f"{name}: {alias} = ", group if bracket else type_, indent=indent)
            type_ = name
        yield f"{margin}@{self._builtin('property')}"
        head = f"{margin}def {field.name}(self) -> {type_}:"
        if len(head) + (0 if field.comment else len(" ...")) > WIDTH:
            yield f"{margin}def {field.name}({remark}"
            yield f"{margin}    self,"
            head, remark = f"{margin}) -> {type_}:", ""
        if field.comment:
            yield f"{head}{remark}"
            yield from self._doc(field.comment, indent + 4)
        else:
            yield f"{head} ...{remark}"

    def _doc(self, comment: str, indent: int) -> Iterator[str]:
        if comment:
            yield f"{' ' * indent}{docstring(comment, indent)}"

    def _methods(self, message: Message, fields: list[Field], indent: int) -> Iterator[str]:
        taken = {field.name for field in message.fields}
        this = "self" if "self" not in taken else "_self"
        optional = []
        for field in fields:
            type_ = f"{self._parameter_type(field)} | None"
            if len(f"{field.name}: {type_} = ...,") + indent + 4 > WIDTH:
                given = f"_given_{field.number}"
                alias = f"{given}: {self._use('_TypeAlias')} = "
                yield from _union(alias, type_, indent)
                type_ = given
            optional.append(Item(f"{type_} = ...", key=f"{field.name}: "))
        parameters = [Item(this), *([Item("*"), *optional] if optional else [])]
        yield from layout("", Group("def __init__(", parameters, ")"), " -> None: ...", indent)
        oneofs = message.oneofs
        if "HasField" not in taken:
            present = [field.name for field in message.fields if field.explicit_presence]
            yield from self._by_name(
                "HasField",
                "field_name",
                [*present, *(oneof.name for oneof in oneofs)],
                "bool",
                indent,
            )
        if "ClearField" not in taken:
            every = [field.name for field in message.fields]
            names = [*every, *(oneof.name for oneof in oneofs)]
            yield from self._by_name("ClearField", "field_name", names, "None", indent)
        if "WhichOneof" in taken:
            return
        for oneof in oneofs:
            choices = self._literal([field.name for field in oneof.fields])
            member = f"_{oneof.name}_member: {self._use('_TypeAlias')} = "
            yield from layout(member, choices, indent=indent)
        for oneof in oneofs:
            if len(oneofs) > 1:
                yield f"{' ' * indent}@{self._use('_overload')}"
            returned = f"_{oneof.name}_member | None"
            yield from self._by_name("WhichOneof", "oneof_group", [oneof.name], returned, indent)

    def _by_name(
        self, method: str, parameter: str, names: Iterable[str], returned: str, indent: int
    ) -> Iterator[str]:
        """A method that takes one of some names."""
        names = list(names)
        if not names:
            return
        returned = self._builtin(returned)
        parameters = [Item("self"), Item(self._literal(names), key=f"{parameter}: ")]
        yield from layout(
            "", Group(f"def {method}(", parameters, ")"), f" -> {returned}: ...", indent
        )

    def _literal(self, names: Iterable[str]) -> Group:
        return Group(f"{self._use('_Literal')}[", [Item(quoted(name)) for name in names], "]")

    def _extensions(self, extensions: Iterable[Field], indent: int) -> Iterator[str]:
        margin = " " * indent
        for extension in extensions:
            if extension.extends is None or keyword.iskeyword(extension.name):
                continue
            yield from self._number(extension, indent)
            types = [Item(self._named(extension.extends)), Item(self._field_type(extension))]
            descriptor = f"{self._use('_extensions')}._ExtensionFieldDescriptor["
            yield from layout(f"{extension.name}: ", Group(descriptor, types, "]"), indent=indent)
            if extension.comment:
                yield f"{margin}{docstring(extension.comment, indent)}"


def _in_parentheses(before: str, type_: str, indent: int, remark: str = "") -> Iterator[str]:
    """Yields the lines of what ends in a type, in parentheses where that makes it fit."""
    margin = " " * indent
    line = f"{margin}{before}{type_}"
    fits_inside = max(len(f"{margin}{before}("), len(f"{margin}    {type_}")) <= WIDTH
    if len(line) > WIDTH and fits_inside:
        yield from (f"{margin}{before}({remark}", f"{margin}    {type_}", f"{margin})")
    else:
        yield f"{line}{remark}"


def _union(before: str, type_: str, indent: int) -> Iterator[str]:
    """Yields the lines of what ends in a union with None, a member a line where that is needed."""
    lines = list(_in_parentheses(before, type_, indent))
    if len(lines) > 1 or len(lines[0]) <= WIDTH:
        yield from lines
        return
    container, bracket, items = type_.removesuffix(" | None").removesuffix("]").partition("[")
    members: list[str | Group] = (
        [Group(container + bracket, [Item(i) for i in items.split(", ")], "]")]
        if bracket
        else list(container.split(" | "))
    )
    yield f"{' ' * indent}{before}("
    for i, member in enumerate([*members, "None"]):
        yield from layout("| " if i else "", member, indent=indent + 4)
    yield f"{' ' * indent})"


def _public_files(file: File, schemas: Schemas) -> Iterator[File]:
    """The files of public imports."""
    for i in file.proto.public_dependency:
        yield schemas.files[file.proto.dependency[i]]


def _names_on_top(file: File, schemas: Schemas) -> Iterator[tuple[str, str]]:
    """The names that a file's module has, those of public imports too, with the file that each is of."""
    for target in _public_files(file, schemas):
        yield from _names_on_top(target, schemas)
    yield from ((name, file.path) for name in _own_names(file))


def _own_names(file: File) -> Iterator[str]:
    """The names that a file's module has of its own."""
    yield from (message.name for message in file.messages)
    for extension in file.extensions:
        yield extension.name
        if not keyword.iskeyword(extension.name):
            yield f"{extension.name.upper()}_FIELD_NUMBER"
    for enum in file.enums:
        yield enum.name
        yield from (value.name for value in enum.values)


def _is_seen(name: str) -> bool:
    """Whether a module's name can be imported, and is when all are."""
    return not keyword.iskeyword(name) and not name.startswith("_")


def _names_in(message: Message) -> Iterator[str]:
    """The names that a message's class has of its own."""
    yield from (field.name for field in message.fields)
    yield from (nested.name for nested in message.messages)
    yield from (extension.name for extension in message.extensions)
    for enum in message.enums:
        yield enum.name
        yield from (value.name for value in enum.values)
