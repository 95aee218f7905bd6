"""From an annotation to its `Shape`. Which annotations there are, msgspec decides."""

from collections.abc import Iterator
from types import GenericAlias
from typing import Annotated, Any, Final, Literal, Union, get_origin

import msgspec.inspect as types
from msgspec import Meta

from asynctask.aliases import Reader
from asynctask.shapes import EXACT, WHOLE, Array, Fields, Map, Part, Shape, Tagged
from asynctask.typeinfo import (
    AnyList,
    AnySet,
    Record,
    all_of,
    fields_of,
    has_rules,
    is_anything,
    is_array,
    is_float,
    is_hashable,
    is_hooked,
    is_integral,
    is_number,
    is_object,
    is_salted,
    is_salted_key,
    is_whole,
    is_whole_hashed,
    lengths_of,
    members_of,
    set_by_itself,
)
from asynctask.words import LEAVES, in_words

_NO_KEYS: Final = (types.NoneType, types.BoolType)
"""What msgspec takes for the type of keys, and then reads from no key."""

_LISTS: Final[dict[type[types.Type], type]] = {
    types.ListType: list,
    types.SetType: set,
    types.FrozenSetType: frozenset,
    types.VarTupleType: tuple,
}

_LIMITS: Final = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length")
_CONSTRAINTS: Final = (*_LIMITS, "pattern", "tz")
_LIMITED: Final = (types.IntType, types.FloatType, types.StrType, types.BytesType)

# For mypy these take types only, and here they are given values.
_ANNOTATED: Final[Any] = Annotated
_LITERAL: Final[Any] = Literal
_UNION: Final[Any] = Union


def shape_of(annotation: Any) -> Shape:
    """What an annotation accepts.

    :raises Exception: it cannot be checked. That is a TypeError, unless a type's own code fails.
    """
    for info in all_of(Reader((annotation,)).translate(annotation), set()):
        _check_union(list(members_of(info)))
    return _Builder().shape(types.type_info(annotation))


def classes_of(annotation: Any) -> Iterator[type]:
    """The classes of its own that a handler is given, and `memoryview`; a TypedDict is given as a dict."""
    for info in all_of(types.type_info(annotation), set()):
        for member in members_of(info):
            if isinstance(member, types.TypedDictType):
                continue
            if isinstance(member, Record | types.EnumType):
                yield get_origin(member.cls) or member.cls
            elif isinstance(member, types.MemoryViewType):
                yield memoryview


def not_given(annotation: Any) -> Iterator[tuple[Any, set[str]]]:
    """The classes in it that have fields which only they themselves set (``init=False``), and these."""
    for info in all_of(types.type_info(annotation), set()):
        for member in members_of(info):
            if isinstance(member, types.DataclassType) and (fields := set_by_itself(member.cls)):
                yield member.cls, fields


def _check_union(members: list[types.Type]) -> None:
    """msgspec, up to 0.22 at least, damages its memory when it compiles two sorts of union; what only reads
    annotations finds them before. And of several limits of one type it keeps some of each.

    :raises TypeError: it is one of these.
    """
    if any(isinstance(member, types.TupleType) for member in members) and any(
        getattr(member, limit, None) is not None for member in members for limit in _LIMITS
    ):
        raise TypeError("a tuple of a fixed length and a type with limits cannot be in one union")
    if any(isinstance(member, AnyList | types.DictType) for member in members) and any(
        getattr(member, "pattern", None) is not None for member in members
    ):
        raise TypeError("a string with a pattern cannot be in one union with an array or an object")
    for kind in _LIMITED:
        if len({repr(member) for member in members if isinstance(member, kind)}) > 1:
            raise TypeError("two of one type with different limits cannot be in one union")


class _Builder:
    """Makes the shapes of one annotation, in which a type may contain itself."""

    def __init__(self) -> None:
        self._records: dict[int, Part] = {}

    def shape(self, info: types.Type) -> Shape:
        shape = Shape(_rebuilt(info))
        members = list(members_of(info))
        objects = [member for member in members if is_object(member)]
        arrays = [member for member in members if is_array(member)]
        shape.anything = any(map(is_anything, members))
        if objects:
            shape.objects = self._tagged(objects) if len(objects) > 1 else self._object(objects[0])
        if len(arrays) > 1:
            raise TypeError("two kinds of array cannot be told apart")
        if arrays:
            shape.arrays = self._array(arrays[0])
        shape.must = " or ".join(dict.fromkeys(map(in_words, members)))
        shape.decimal = any(isinstance(member, types.DecimalType) for member in members)
        if len(members) > 1:
            shape.floating = EXACT if shape.decimal else WHOLE if any(map(is_float, members)) else 0
        shape.integral = any(map(is_integral, members)) and not any(map(is_float, members))
        shape.whole = all(map(is_whole, members))
        shape.different = all(is_whole(member) or is_whole_hashed(member) for member in members)
        shape.hooked = any(map(is_hooked, members))
        for member in members:
            if isinstance(member, types.DictType) and not is_salted_key(member.key_type):
                shape.crowds[dict] = self._keys(member.key_type)
            elif isinstance(member, AnySet) and not is_salted(member.item_type):
                shape.crowds[list] = Shape(GenericAlias(list, (_rebuilt(member.item_type),)))
        return shape

    def _object(self, info: Any) -> Part:
        if not isinstance(info, types.DictType):
            return self._record(info)
        key = None if info.key_type in (types.AnyType(), types.StrType()) else self._keys(info.key_type)
        return Map(in_words(info), *lengths_of(info), self.shape(info.value_type), key)

    def _keys(self, info: types.Type) -> Shape:
        members = list(members_of(info))
        if any(is_object(one) or is_array(one) for one in members) or all(
            isinstance(one, _NO_KEYS) for one in members
        ):
            raise TypeError("the keys of an object are strings")
        keys = Shape(GenericAlias(dict, (_rebuilt(info), Any)))
        keys.must = " or ".join(map(in_words, members_of(info)))
        keys.decimal = is_number(info)
        return keys

    def _array(self, info: Any) -> Part:
        if isinstance(info, Record):
            return self._record(info)
        different = isinstance(info, AnySet)
        if different and not any(map(is_hashable, members_of(info.item_type))):
            raise TypeError("the items of a set have to be hashable")
        array = Array(in_words(info), *lengths_of(info), different=different)
        if isinstance(info, types.TupleType):
            array.first = [self.shape(item) for item in info.item_types]
        else:
            array.others = [self.shape(info.item_type)]
        return array

    def _record(self, info: Record) -> Part:
        known = self._records.get(id(info))
        if known is not None:
            return known
        fields = list(fields_of(info))
        if has_rules(get_origin(info.cls) or info.cls):
            raise TypeError(f"{info.cls.__name__} would be made without its own checks (msgspec makes it)")
        if isinstance(info, types.DataclassType) and (made := set_by_itself(info.cls)):
            if needed := [field.name for field in fields if field.name in made and field.required]:
                name = f"'{needed[0]}' of {info.cls.__name__}"
                raise TypeError(f"field {name}, which nobody can give (init=False), has no default")
            fields = [field for field in fields if field.name not in made]
        part: Fields | Array
        if is_array(info):
            self._records[id(info)] = part = Array(in_words(info), *lengths_of(info))
            part.first = [self.shape(field.type) for field in fields]
        else:
            self._records[id(info)] = part = Fields()
            part.shapes = {field.encode_name: self.shape(field.type) for field in fields}
            part.required = [field.encode_name for field in fields if field.required]
        return part

    def _tagged(self, structs: list[Any]) -> Part:
        members = {struct.tag: self._record(struct) for struct in structs}
        return Tagged(structs[0].tag_field, self.shape(types.LiteralType(tuple(members))), members)


def _rebuilt(info: types.Type) -> Any:
    """The annotation again, of what msgspec understood of it.

    :raises TypeError: it stands for something that JSON has not.
    """
    constraints = {name: getattr(info, name, None) for name in _CONSTRAINTS}
    given = {name: value for name, value in constraints.items() if value is not None}
    return _ANNOTATED[_bare(info), Meta(**given)] if given else _bare(info)


def _bare(info: types.Type) -> Any:
    match info:
        case types.Metadata(inner):
            return _rebuilt(inner)
        case types.UnionType(members):
            return _UNION[tuple(map(_rebuilt, members))]
        case types.LiteralType(values):
            return _LITERAL[values]
        case types.EnumType(cls):
            return cls
        case types.DictType(key, value):
            return GenericAlias(dict, (_rebuilt(key), _rebuilt(value)))
        case types.TupleType(items):
            return GenericAlias(tuple, tuple(map(_rebuilt, items)))
        case types.VarTupleType(item):
            return GenericAlias(tuple, (_rebuilt(item), ...))
        case types.CollectionType(item):
            return GenericAlias(_LISTS[type(info)], (_rebuilt(item),))
    if isinstance(info, Record):
        return info.cls
    if is_anything(info):
        return Any
    if type(info) in LEAVES:
        return LEAVES[type(info)][0]
    raise TypeError("JSON has no such type; a dataclass, a TypedDict or a msgspec.Struct has fields")
