"""Rows of any version of a table as rows of today's: columns found by their ids, widened, filled.

`Evolution` is made for the files of one schema and then converts their batches. Nothing is copied but what
changes: columns of the same type are passed on, nested ones are put together anew from the same buffers.

Rows that a writer kept whole in `_raw`, because its columns could not hold all of them, are decoded again with
today's converter: what was unknown then may be a column now. Those that an upgrade put there are not: it made
them of columns, which the file still has, and their fields may have other types by now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from .converter import Converter
from .program import Enum, Program
from .program import Field as Item

__all__ = [
    "Evolution",
    "cases_of",
    "children_of",
    "enums_of",
    "field_id",
    "ids_of",
    "is_nested",
    "is_text",
    "names_of",
    "renames",
    "with_retired",
    "without_columns",
    "zero_of",
    "zero_scalar",
]

# The stubs of pyarrow lack too much to type these.
Array: TypeAlias = Any
Field: TypeAlias = Any
DataType: TypeAlias = Any

_ID: Final = b"PARQUET:field_id"


def field_id(field: Field) -> int | None:
    """The id of a column; None where it has none, as in files that cdpgen did not write."""
    text = (field.metadata or {}).get(_ID)
    return None if text is None else int(text)


class Evolution:
    """Makes rows of one version of a table rows of today's.

    Args:
        converter: today's.
        schema: what rows become: the converter's schema, and retired columns where they are asked for.
        source: the schema of the files, as pyarrow reads it.
        current: whether the files are of today's version, so that decoding them again would tell nothing new.
        older: ids of columns that the files have though their rows are older (see `cdp_runtime.upgrade`).
        kept: which rows of a file a writer kept whole; all that are in `_raw` when left out.
        settled: ids of columns that decoding again says nothing of, where nobody knows which rows those are.
        upgraded: whether an upgrade has written the files.
        implicit: ids of columns in which zero was absent, or may be, though by now the files could have null
            there.
        required: gives the ids of columns that had to have a value (see `cdp_runtime.former`); it is called
            only if that makes a difference.
        defaults: what rows older than a column have in it, by the column's dotted path, instead of
            protobuf's own default.
    """

    def __init__(
        self,
        converter: Converter[Any],
        schema: pa.Schema,
        source: pa.Schema,
        *,
        current: bool,
        older: Collection[int] = (),
        kept: Array = None,
        settled: Collection[int] = (),
        upgraded: bool = False,
        implicit: Collection[int] = (),
        required: Callable[[], Collection[int]] = tuple,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self._converter = converter
        self._source = _by_id(source)
        self._target = {field.name: field for field in schema}
        self._enums = {} if current else dict(enums_of(converter.program, converter.schema))
        self._names = dict(enums_of(converter.program, converter.schema))
        self._cases = {} if current else dict(_oneofs_of(converter.program, converter.schema))
        self._rivals = {} if current else _rivals_of(converter.program, converter.schema)
        self._known = frozenset(ids_of(converter.schema))
        self._renames = self._renamed(schema, source)
        self._never_null = frozenset([*ids_of(source, nullable=False), *implicit])
        self._told_required = required
        self._older = frozenset(older)
        self._kept = kept
        self._upgraded = upgraded
        self._settled = frozenset(settled) & _alike(source, schema)
        self._defaults = defaults or {}
        self._raw = self._raw_of(current)
        self._new = self._known - set(ids_of(source))
        self.older: Final = sorted(self._new | self._older)
        """The ids of today's columns that the rows are older than."""

    def _raw_of(self, current: bool) -> str | None:
        """The column of the files with messages that today's converter may make more of."""
        name = self._converter.program.raw
        if current or not name:
            return None
        found = self._source.get(
            field_id(self._target.get(name) or self._converter.schema.field(name))
        )
        return None if found is None else str(found.name)

    def _renamed(self, targets: Any, sources: Any) -> dict[str, str]:
        """What a case calls members by now: a retired column may have a name that no member ever had."""
        return renames((field for field in targets if field_id(field) in self._known), sources)

    @cached_property
    def _required(self) -> frozenset[int]:
        """The ids of columns that had to have a value, if any of them can be null by now."""
        nullable = set(ids_of(self._converter.schema))
        nullable.difference_update(ids_of(self._converter.schema, nullable=False))
        return frozenset(self._told_required() if nullable & self._never_null else ())

    @property
    def raw(self) -> str | None:
        """The column of the files with messages that are decoded again."""
        return self._raw

    def source_of(self, column: str) -> Field | None:
        """The column of the files that one of today's goes on from."""
        return self._source.get(field_id(self._target[column]))

    def needs(self, columns: Sequence[str]) -> list[str]:
        """The columns of the files that these of today's are made of."""
        found: dict[str, None] = {}
        for name in columns:
            source = self.source_of(name)
            if source is not None:
                found[source.name] = None
            if name in self._cases:
                told = _telling(self._members_that_tell(name, source), self._target, self._source)
                found.update((member.name, None) for _, member in told)
        if columns and self._raw is not None:
            found[self._raw] = None
        return list(found)

    def is_plain(self, column: str) -> bool:
        """Whether a column has the values that the files have, or one and the same where they have it not."""
        source = self.source_of(column)
        members = self._cases.get(column, ())
        told_by_others = source is None or self._renames or self._members_that_tell(column, source)
        return not (members and told_by_others) and not (
            source is not None
            and field_id(self._target[column]) in self._older
            and column in self._defaults
        )

    def _members_that_tell(self, case: str, source: Field | None) -> _Members:
        """Members of a oneof whose columns tell its case, beside a column of the files that does."""
        members = self._cases.get(case, ())
        return members if source is None or self._upgraded else _flattened(members)

    def missing(self, column: str) -> pa.Scalar[Any]:
        """What rows of files without a column have in it."""
        scalar: pa.Scalar[Any] = self._missing(self._target[column], column, 1)[0]
        return scalar

    def kept(self, batch: pa.RecordBatch, first: int) -> Array:
        """Which rows of a batch a writer kept whole.

        Args:
            batch: with the column that they are in, if there is one.
            first: the number of its first row in the file.
        """
        if self._raw is None and self._converter.program.raw:
            return pa.repeat(pa.scalar(False), batch.num_rows)  # a writer had nowhere to put them
        kept: Array = pa.repeat(pa.scalar(True), batch.num_rows)
        if self._kept is not None:
            kept = self._kept.slice(first, batch.num_rows)
        return kept if self._raw is None else pc.and_(kept, batch.column(self._raw).is_valid())

    def apply(
        self, batch: pa.RecordBatch, columns: Sequence[str], first: int = 0
    ) -> pa.RecordBatch:
        """Makes rows of the files rows of today's.

        Args:
            batch: with at least the columns that these need.
            columns: of today's schema; only they are made.
            first: the number of its first row in the file.

        Raises:
            pyarrow.ArrowInvalid: a value does not fit today's column (after an accepted breaking change).
        """
        rows = batch.num_rows
        fields = [self._target[name] for name in columns]
        at = _Place(self._target, self._source, self._renames, batch.column, rows)
        arrays = []
        for field in fields:
            try:
                arrays.append(self._member(at, field, field.name))
            except pa.ArrowException as error:
                raise pa.ArrowInvalid(f"column {field.name}: {error}") from None
        if self._raw is not None and columns:
            kept = pc.indices_nonzero(self.kept(batch, first))
            arrays = self._decoded_again(batch.column(self._raw), kept, fields, arrays)
        return _batch(arrays, fields, rows)

    def _member(self, at: _Place, target: Field, name: str) -> Array:
        """A column of today's, or a member of one."""
        source = at.known.get(field_id(target))
        members = self._cases.get(name)
        if members is not None and source is None:
            told = _telling(members, at.targets, at.known)
            return _case(told, at.values, target.type, at.rows)
        if source is None:
            return self._missing(target, name, at.rows)
        made = self._convert(at.values(source.name), source, target, name)
        if members is None:
            return made
        told = _telling(self._members_that_tell(name, source), at.targets, at.known)
        made = _case_by_todays_names(made, at.renamed, members, told, at.values)
        if not self._upgraded:
            return made
        # made when a member had no column, maybe, of a message that is not decoded again
        others = _case(told, at.values, target.type, at.rows)
        return _chosen(made, others, made.is_null())

    # ---- values that the files have

    def _convert(self, array: Array, source: Field, target: Field, name: str) -> Array:
        kind = target.type
        if pa.types.is_struct(kind):
            made = self._struct(array, source, target, name)
        elif pa.types.is_map(kind):
            entries = pa.StructArray.from_arrays(
                [
                    self._convert(array.keys, source.type.key_field, kind.key_field, f"{name}.key"),
                    self._convert(
                        array.items, source.type.item_field, kind.item_field, f"{name}.value"
                    ),
                ],
                fields=[kind.key_field, kind.item_field],
            )
            made = _rebuilt(array, kind, entries)
        elif pa.types.is_list(kind):
            items = self._convert(
                array.values, source.type.value_field, kind.value_field, f"{name}[]"
            )
            made = _rebuilt(array, kind, items)
        else:
            array = _with_a_value(array)
            if name in self._enums:
                array = _mapped(array, names_of(self._enums[name]))
            made = _cast(array, kind)
        if source.nullable and not target.nullable and made.null_count:
            made = _chosen(made, self._missing(target, name, len(made)), made.is_null())
        return self._with_default(made, target, name)

    def _struct(self, array: Array, source: Field, target: Field, name: str) -> Array:
        def values(inner: str) -> Array:
            return array.field(source.type.get_field_index(inner))

        at = _Place(
            {child.name: child for child in target.type},
            _by_id(source.type),
            self._renamed(target.type, source.type),
            values,
            len(array),
        )
        children = [self._member(at, child, f"{name}.{child.name}") for child in target.type]
        return pa.StructArray.from_arrays(
            children,
            fields=list(target.type),
            mask=array.is_null() if array.null_count else None,
        )

    def _with_default(self, array: Array, target: Field, name: str) -> Array:
        """The default where rows that are older than a column have nothing in it."""
        if field_id(target) not in self._older or name not in self._defaults:
            return array
        default = self._missing(target, name, len(array))
        return _chosen(array, default, self._absent(array, target, name))

    # ---- values that they have not

    def _missing(self, target: Field, name: str, rows: int) -> Array:
        kind = target.type
        if name in self._defaults:
            return _repeated(self._defaults[name], kind, rows)
        if pa.types.is_struct(kind):
            # the Parquet writer wants values in what is not nullable even where nothing is around it
            children = [self._missing(child, f"{name}.{child.name}", rows) for child in kind]
            mask = pa.repeat(pa.scalar(target.nullable), rows)
            return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
        if target.nullable:
            return pa.nulls(rows, kind)
        return _repeated(zero_of(kind, self._names.get(name)), kind, rows)

    def _absent(self, array: Array, target: Field, name: str) -> Array:
        """Where protobuf would say that nothing is there: null, zero or empty."""
        if target.nullable or pa.types.is_struct(target.type):
            return array.is_null()
        return self._is_zero(array, name)

    def _is_zero(self, array: Array, name: str) -> Array:
        """Where there is nothing but zeros and what is empty or null."""
        if pa.types.is_struct(array.type):
            made: Array = pa.repeat(pa.scalar(True), len(array))
            for child, values in zip(array.type, array.flatten(), strict=True):
                made = pc.and_(made, self._is_zero(values, f"{name}.{child.name}"))
            return made
        if is_nested(array.type):
            return pc.equal(_sizes(array), pa.scalar(0, pa.int32()))
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_floating(array.type):
            # -0.0 equals 0.0, and is a value all the same: protobuf leaves out what has no bit set
            array = array.view(pa.uint64() if array.type.bit_width == 64 else pa.uint32())
        zero = zero_scalar(array.type, self._names.get(name))
        return pc.fill_null(pc.equal(array, zero), True)

    # ---- messages that the columns of the files do not hold

    def _decoded_again(
        self, raw: Array, rows: Array, fields: Sequence[Field], arrays: Sequence[Array]
    ) -> list[Array]:
        if len(rows) == 0:
            return list(arrays)
        decoded, rejected = self._converter.decode(raw.take(rows))
        if rejected:
            bad = pa.array([one.row for one in rejected], pa.uint64())
            good = pc.invert(pc.is_in(pa.array(range(len(rows)), pa.uint64()), value_set=bad))
            rows = rows.filter(good)
        if len(rows) == 0:
            return list(arrays)
        places = rows.to_pylist()
        order = list(range(len(raw)))
        for i, place in enumerate(places):
            order[place] = len(raw) + i
        taken = pa.array(order, pa.int64())

        def found(name: str) -> Array:
            columns = [batch.column(name) for batch in decoded]
            return columns[0] if len(columns) == 1 else pa.concat_arrays(columns)

        kept = found(self._converter.program.raw).is_valid()
        names = {field_id(field): field.name for field in self._converter.schema}
        made = []
        for field, array in zip(fields, arrays, strict=True):
            name = names.get(field_id(field))
            if name is None:  # retired
                made.append(array)
                continue
            again = found(name)
            if name != self._converter.program.raw:
                again = self._retyped(again, field, name)
                if self.source_of(name) is not None or name in self._cases:
                    at = _Again(kept, self._alone(name, found, len(kept)))
                    again = self._merged(again, array.take(rows), field, name, at)
                again = self._older_default(again, field, name)
            made.append(pa.concat_arrays([array, again]).take(taken))
        return made

    def _retyped(self, array: Array, target: Field, name: str) -> Array:
        """Of today's type; with room for retired columns within, where they are asked for."""
        if array.type.equals(target.type):
            return array
        source = self._converter.schema.field(name)
        return self._convert(array, source, target, name)

    def _older_default(self, array: Array, target: Field, name: str) -> Array:
        if name in self._defaults and self.source_of(name) is None:
            default = self._missing(target, name, len(array))
            return _chosen(array, default, self._absent(array, target, name))
        return self._with_default(array, target, name)

    def _merged(self, again: Array, before: Array, target: Field, name: str, at: _Again) -> Array:
        """What decoding again gives, and the value of before where that is nothing and can be right.

        For it knows a field by its number, and a declared rename may have given it another one: one that is
        unknown to today's converter, so that a message of which its columns hold everything has no such field.
        Of a field that became `optional` the zeros of before are no nulls, but for one that was `required`:
        without it a message is in `_raw`, and zero stands for it in the column.
        """
        number = field_id(target)
        if number is not None and number not in self._known:  # retired
            return before
        kind = target.type
        is_settled = number in self._settled
        if is_settled and not is_nested(kind):
            return before
        may = at.alone
        was_required = target.nullable and number in self._required
        if was_required:
            may = pc.and_not(may, self._is_zero(before, name))
        if was_required or not (
            (number in self._never_null and target.nullable)
            or (name in self._defaults and (number in self._older or number in self._new))
        ):
            may = pc.and_(may, at.kept)
        made = _chosen(again, before, pc.and_(may, self._absent(again, target, name)))
        if is_settled:
            made = _chosen(made, before, self._absent(before, target, name))
        if pa.types.is_struct(kind):
            return self._merged_struct(made, before, kind, name, at)
        if any(is_nested(child.type) for child in children_of(kind)):
            return self._merged_items(made, before, kind, name, at)
        return made

    def _merged_struct(
        self, again: Array, before: Array, kind: DataType, name: str, at: _Again
    ) -> Array:
        def values(inner: str) -> Array:
            return again.field(kind.get_field_index(inner))

        there = pc.and_(at.alone, before.is_valid())
        children = []
        for i, child in enumerate(kind):
            inner = f"{name}.{child.name}"
            alone = pc.and_(there, self._alone(inner, values, len(again)))
            children.append(
                self._merged(
                    again.field(i), before.field(i), child, inner, at._replace(alone=alone)
                )
            )
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=again.is_null())

    def _merged_items(
        self, again: Array, before: Array, kind: DataType, name: str, at: _Again
    ) -> Array:
        """Lists or maps, item by item where there are as many."""
        is_alike: Array = pc.equal(_sizes(again), _sizes(before))
        before = _chosen(again, before, is_alike)
        is_map = pa.types.is_map(kind)
        field, inner = (
            (kind.item_field, f"{name}.value") if is_map else (kind.value_field, f"{name}[]")
        )
        items, others = (array.items if is_map else array.values for array in (again, before))
        rows = pc.list_parent_indices(pa.ListArray.from_arrays(again.offsets, items))
        alone: Array = pc.and_(at.alone, is_alike)
        alone = alone.take(rows)
        if is_map:
            alone = pc.and_(alone, pc.equal(again.keys, before.keys))
        made = self._merged(items, others, field, inner, _Again(at.kept.take(rows), alone))
        if is_map:
            entries = [again.keys, made]
            made = pa.StructArray.from_arrays(entries, fields=[kind.key_field, field])
        return _rebuilt(again, kind, made)

    def _alone(self, name: str, values: Callable[[str], Array], rows: int) -> Array:
        """Where no other member of a column's oneof is set."""
        alone: Array = pa.repeat(pa.scalar(True), rows)
        for other in self._rivals.get(name, ()):
            alone = pc.and_(alone, values(other).is_null())
        return alone


def _by_id(fields: Any) -> dict[int | None, Field]:
    return {number: field for field in fields if (number := field_id(field)) is not None}


def _alike(fields: Any, others: Any) -> frozenset[int]:
    """The ids of columns that have one type in both, and no names of an enum, which may have more by now."""
    types = {field_id(field): field.type for field in _all(fields)}
    return frozenset(
        number
        for field in _all(others)
        if (number := field_id(field)) is not None
        and (is_nested(field.type) or types.get(number) == field.type)
        and not pa.types.is_dictionary(field.type)
    )


def _all(fields: Any) -> Iterator[Field]:
    for field in fields:
        yield field
        yield from _all(children_of(field.type))


def ids_of(fields: Any, *, nullable: bool = True) -> Iterator[int]:
    """The ids of columns and of what is nested in them; of all, or of those that are never null."""
    for field in fields:
        number = field_id(field)
        if number is not None and (nullable or not field.nullable):
            yield number
        yield from ids_of(children_of(field.type), nullable=nullable)


def children_of(kind: DataType) -> list[Field]:
    """The columns within a struct, list or map."""
    if pa.types.is_map(kind):
        return [kind.key_field, kind.item_field]
    if pa.types.is_list(kind):
        return [kind.value_field]
    return list(kind) if pa.types.is_struct(kind) else []


def is_nested(kind: DataType) -> bool:
    """Whether a type has types within."""
    return bool(children_of(kind))


def is_text(kind: DataType) -> bool:
    """Whether a type is of texts, and no dictionary of them."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def enums_of(program: Program, fields: Any, prefix: str = "") -> Iterator[tuple[str, Enum]]:
    """The enums that columns hold the names of, by the dotted path of the column."""
    types = {field.name: field.type for field in fields}
    for item in program.fields:
        if item.encoding == "flatten" and item.program is not None:
            yield from enums_of(item.program, fields, prefix)
        if not item.column or item.column not in types:
            continue
        name, kind = prefix + item.column, types[item.column]
        if pa.types.is_list(kind):
            name, kind = f"{name}[]", kind.value_type
        if item.enum is not None and not pa.types.is_integer(kind):
            yield name, item.enum
        elif pa.types.is_map(kind) and item.program is not None:
            yield from enums_of(item.program, [kind.key_field, kind.item_field], f"{name}.")
        elif pa.types.is_struct(kind) and item.program is not None:
            yield from enums_of(item.program, kind, f"{name}.")


def cases_of(program: Program, fields: Any) -> Iterator[str]:
    """The columns that say which member of a oneof is set, by their dotted paths."""
    yield from (path for path, _ in _oneofs_of(program, fields))


class _Place(NamedTuple):
    """Where columns stand side by side: in a batch, or within a message."""

    targets: Mapping[str, Field]
    """Today's, by their names."""
    known: Mapping[int | None, Field]
    """Those of the file, by their ids."""
    renamed: Mapping[str, str]
    """Today's names, by those of the file."""
    values: Callable[[str], Array]
    """The file's values of a column, by its name."""
    rows: int


class _Member(NamedTuple):
    """A member of a oneof: what its case says, and the columns that are null unless it is set."""

    case: str
    columns: Sequence[str]
    is_flattened: bool


_Members: TypeAlias = Sequence[_Member]


class _Again(NamedTuple):
    """Of messages that are decoded again, or of what is nested in them."""

    kept: Array
    """Where the message has something that today's columns do not hold."""
    alone: Array
    """Where the value of before can be beside what decoding again gives: there is one, and no other member of
    its oneof is set."""


def _programs_of(program: Program, fields: Any, prefix: str = "") -> Iterator[tuple[str, Program]]:
    """A program and those within it, each with what stands before the names of its columns in dotted paths."""
    yield prefix, program
    types = {field.name: field.type for field in fields}
    for item in program.fields:
        if item.encoding == "flatten" and item.program is not None:
            yield from _programs_of(item.program, fields, prefix)
        if not item.column or item.column not in types or item.program is None:
            continue
        name, kind = prefix + item.column, types[item.column]
        if pa.types.is_list(kind):
            name, kind = f"{name}[]", kind.value_type
        if pa.types.is_map(kind):
            yield from _programs_of(item.program, [kind.key_field, kind.item_field], f"{name}.")
        elif pa.types.is_struct(kind):
            yield from _programs_of(item.program, kind, f"{name}.")


def _oneofs_of(program: Program, fields: Any) -> Iterator[tuple[str, _Members]]:
    """The oneofs that have a column for the case, by its dotted path; columns are named as beside it."""
    for prefix, inner in _programs_of(program, fields):
        for oneof, column in inner.oneof_cases:
            members = [item for item in inner.fields if item.oneof == oneof]
            yield (
                prefix + column,
                [
                    _Member(
                        item.name or item.column or "",
                        list(_columns_of(item)),
                        item.encoding == "flatten",
                    )
                    for item in members
                ],
            )


def _rivals_of(program: Program, fields: Any) -> dict[str, list[str]]:
    """By the dotted path of a column, the columns beside it of the other members of its oneof."""
    rivals: dict[str, list[str]] = {}
    for prefix, inner in _programs_of(program, fields):
        members = [item for item in inner.fields if item.oneof]
        for item in members:
            others = [each for each in members if each.oneof == item.oneof and each is not item]
            for column in _columns_of(item):
                found = rivals.setdefault(prefix + column, [])
                found += (name for other in others for name in _columns_of(other))
    return rivals


def _columns_of(item: Item) -> Iterator[str]:
    """The columns of a field: many where it is flattened, none where it is dropped."""
    if item.encoding == "flatten" and item.program is not None:
        for inner in item.program.fields:
            yield from _columns_of(inner)
    elif item.column:
        yield item.column


def _telling(
    members: _Members, targets: Mapping[str, Field], sources: Mapping[int | None, Field]
) -> list[tuple[str, Field]]:
    """Members of a oneof, each with a column of a file that is null unless that member is set.

    Args:
        members: of the oneof.
        targets: today's columns beside the case, by their names.
        sources: the columns of the file, by their ids.
    """
    return [
        (member.case, source)
        for member in members
        for column in member.columns
        if (source := sources.get(field_id(targets[column]))) is not None
        and source.nullable  # a field that was in no oneof then tells nothing
    ]


def _case(
    told: Sequence[tuple[str, Field]], values: Callable[[str], Array], kind: DataType, rows: int
) -> Array:
    """Which member of a oneof is set in rows of a file without a column that says so."""
    case: Array = pa.nulls(rows, pa.string())
    for member, source in told:
        case = pc.if_else(values(source.name).is_valid(), member, case)
    return _cast(case, kind)


def _flattened(members: _Members) -> _Members:
    return [member for member in members if member.is_flattened]


def _case_by_todays_names(
    case: Array,
    before: Mapping[str, str],
    members: _Members,
    flattened: Sequence[tuple[str, Field]],
    values: Callable[[str], Array],
) -> Array:
    """The case of a oneof as files have it, where members had other names.

    What a flattened member was called no column says; that it is set, those within it do.

    Args:
        case: of the rows.
        before: today's names of columns, by those of then.
        members: of the oneof.
        flattened: those that are flattened, each with a column of the file (see `_telling`).
        values: the columns of the file, by their names.
    """
    made = _mapped(case, before)
    if flattened:
        made = _cast(made, pa.string())
        known = pa.array([member.case for member in members], pa.string())
        told = _case(flattened, values, pa.string(), len(made))
        renamed = pc.and_(pc.invert(pc.is_in(made, value_set=known)), made.is_valid())
        made = pc.if_else(pc.and_(renamed, told.is_valid()), told, made)
    return _cast(made, case.type)


def renames(fields: Any, sources: Any) -> dict[str, str]:
    """The names of today of columns that had another one, by that."""
    names = {field_id(field): field.name for field in fields}
    found = ((source.name, names.get(field_id(source))) for source in sources)
    return {before: now for before, now in found if now is not None and now != before}


def names_of(enum: Enum) -> dict[str, str]:
    """The names of an enum's numbers, by how a number without a name is written."""
    return {str(number): name for number, name in reversed(enum.values)}


def _mapped(array: Array, names: Mapping[str, str]) -> Array:
    """Texts with some of them changed."""
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if not any(value in names for value in values):
        return array
    known = pa.array([names.get(value, value) for value in values], pa.string())
    return pa.DictionaryArray.from_arrays(encoded.indices, known).dictionary_decode()


def _with_a_value(array: Array) -> Array:
    """An array whose dictionary is not empty, where it has values.

    Of an enum in a message that is null in all rows pyarrow reads numbers of values and no values, and looks
    beyond the end of those when it concatenates or decodes.
    """
    if not pa.types.is_dictionary(array.type) or len(array.dictionary):
        return array
    if array.null_count == len(array):
        return array
    nothing = pa.array([""], array.type.value_type)
    return pa.DictionaryArray.from_arrays(array.indices, nothing)


def _cast(array: Array, kind: DataType) -> Array:
    if array.type.equals(kind):
        return array
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_dictionary(kind):
        return array.cast(kind.value_type).dictionary_encode()
    if pa.types.is_float32(array.type) and pa.types.is_float64(kind):
        return _doubles(array)
    return array.cast(kind)


def _doubles(floats: Array) -> Array:
    """Floats as the same doubles; a cast would quiet signalling NaNs, whose bits a replay gives back."""

    def number(value: int) -> Array:
        return pa.scalar(value, pa.uint64())

    bits = floats.view(pa.uint32()).cast(pa.uint64())
    sign = pc.shift_left(pc.bit_wise_and(bits, number(1 << 31)), number(32))
    fraction = pc.shift_left(pc.bit_wise_and(bits, number((1 << 23) - 1)), number(52 - 23))
    nans = pc.bit_wise_or(pc.bit_wise_or(sign, number(0x7FF << 52)), fraction)
    others = floats.cast(pa.float64()).view(pa.uint64())
    return pc.if_else(pc.is_nan(floats), nans, others).view(pa.float64())


def _rebuilt(array: Array, kind: DataType, child: Array) -> Array:
    """A list or map with the offsets of another."""
    return pa.Array.from_buffers(
        kind,
        len(array),
        array.buffers()[:2],
        offset=array.offset,
        children=[child],
    )


def _sizes(array: Array) -> Array:
    """How many items lists or maps have."""
    return pc.subtract(array.offsets[1:], array.offsets[:-1])


def zero_of(kind: DataType, enum: Enum | None = None) -> Any:
    """What protobuf says of a field that is not there, as the column has it."""
    if enum is not None:
        return dict(reversed(enum.values)).get(0, "0")
    if pa.types.is_dictionary(kind) or is_text(kind):
        return ""
    if is_nested(kind):
        return []
    if pa.types.is_boolean(kind):
        return False
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    return b"" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else 0


def zero_scalar(kind: DataType, enum: Enum | None = None) -> Any:
    """The same as a scalar of the column's type, to compare with; not for dictionaries."""
    # not by a cast: of an integer there is none to dates and small decimals
    return _repeated(zero_of(kind, enum), kind, 1)[0]


def _repeated(value: Any, kind: DataType, rows: int) -> Array:
    """One value in all rows."""
    if rows == 0:  # of nothing pyarrow makes no list
        return pa.array([], kind)
    if pa.types.is_dictionary(kind):
        indices = pa.repeat(pa.scalar(0, kind.index_type), rows)
        return pa.DictionaryArray.from_arrays(indices, pa.array([value], kind.value_type))
    if pa.types.is_temporal(kind) and isinstance(value, int):
        width = pa.int64() if kind.bit_width == 64 else pa.int32()
        point: Any = pa.scalar(value, width).cast(kind)
        return pa.repeat(point, rows)
    if isinstance(value, str) and not is_text(kind):
        return pa.repeat(pa.scalar(value).cast(kind), rows)
    return pa.repeat(pa.scalar(value, kind), rows)


def _chosen(array: Array, other: Array, mask: Array) -> Array:
    """The values of another array where the mask says so; for any type."""
    rows = len(array)
    places = pa.array(range(rows), pa.int64())
    taken = pc.if_else(mask, pc.add(places, rows), places)
    return pa.concat_arrays([array, other]).take(taken)


def _batch(arrays: Sequence[Array], fields: Sequence[Field], rows: int) -> pa.RecordBatch:
    if not fields:
        return without_columns(rows)
    return pa.RecordBatch.from_arrays(list(arrays), schema=pa.schema(list(fields)))


def without_columns(rows: int) -> pa.RecordBatch:
    """What has no columns and still has rows."""
    nothing: Any = pa.array([{}], pa.struct([]))
    return pa.RecordBatch.from_struct_array(nothing.take(pa.array([0] * rows, pa.int8())))


def with_retired(schema: pa.Schema, sources: Sequence[pa.Schema]) -> pa.Schema:
    """A schema and the columns that only older files have, within messages too.

    Args:
        schema: today's.
        sources: the schemas of files, newest first; a retired column has the type that it had last. Where its
            name is taken by now, its id follows.
    """
    fields = list(schema)
    for source in sources:
        fields = _joined(fields, list(source))
    return pa.schema(fields)


def _joined(fields: list[Field], sources: list[Field]) -> list[Field]:
    known = {field_id(field): i for i, field in enumerate(fields)}
    joined = list(fields)
    for source in sources:
        at = known.get(field_id(source))
        if at is None:
            names = {field.name for field in joined}
            name = source.name
            while name in names:
                name = f"{name}_{field_id(source)}"
            joined.append(source.with_name(name).with_nullable(True))
        else:
            joined[at] = joined[at].with_type(_joined_type(joined[at].type, source.type))
    return joined


def _joined_type(kind: DataType, source: DataType) -> DataType:
    if pa.types.is_struct(kind) and pa.types.is_struct(source):
        return pa.struct(_joined(list(kind), list(source)))
    if pa.types.is_map(kind) and pa.types.is_map(source):
        key, item = kind.key_field, kind.item_field
        return pa.map_(key, item.with_type(_joined_type(item.type, source.item_field.type)))
    if pa.types.is_list(kind) and pa.types.is_list(source):
        item = kind.value_field
        return pa.list_(item.with_type(_joined_type(item.type, source.value_field.type)))
    return kind
