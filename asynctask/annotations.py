"""From an annotation to its `Shape`, and to words. Which annotations there are, msgspec decides."""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import takewhile
from math import inf
from types import GenericAlias
from typing import Annotated, Any, Final, Literal, Union, get_origin
from uuid import UUID

import msgspec.inspect as types
from msgspec import Meta, Struct

from asynctask.aliases import Reader
from asynctask.shapes import EXACT, WHOLE, Array, Fields, Map, Part, Shape, Tagged
from asynctask.wire import dump

_Record = types.StructType | types.DataclassType | types.TypedDictType | types.NamedTupleType
_Set = types.SetType | types.FrozenSetType
_List = types.ListType | _Set | types.VarTupleType

_LEAVES: Final[dict[type[types.Type], tuple[Any, str]]] = {
    types.NoneType: (None, "null"),
    types.BoolType: (bool, "true or false"),
    types.IntType: (int, "an integer"),
    types.FloatType: (float, "a number"),
    types.StrType: (str, "a string"),
    types.BytesType: (bytes, "a string in base64"),
    types.ByteArrayType: (bytearray, "a string in base64"),
    types.MemoryViewType: (memoryview, "a string in base64"),
    types.DateTimeType: (datetime, "a date and time (RFC 3339)"),
    types.TimeType: (time, "a time (RFC 3339)"),
    types.DateType: (date, "a date (RFC 3339)"),
    types.TimeDeltaType: (timedelta, "a duration in days, hours, minutes and seconds, such as P1DT2H30M"),
    types.UUIDType: (UUID, "a UUID"),
    types.DecimalType: (Decimal, "a decimal number"),
}

_NO_KEYS: Final = (types.NoneType, types.BoolType)
"""What msgspec takes for the type of keys, and then reads from no key."""

_SALTED: Final = (
    *(types.StrType, types.BytesType, types.MemoryViewType, types.DateType),
    *(types.NoneType, types.BoolType, types.LiteralType, types.EnumType),
)
"""What has a hash that nobody foresees, or few values."""

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
    for info in _all(Reader((annotation,)).translate(annotation), set()):
        _check_union(list(_members(info)))
    return _Builder().shape(types.type_info(annotation))


def classes_of(annotation: Any) -> Iterator[type]:
    """The classes of its own that a handler is given, and `memoryview`; a TypedDict is given as a dict."""
    for info in _all(types.type_info(annotation), set()):
        for member in _members(info):
            if isinstance(member, types.TypedDictType):
                continue
            if isinstance(member, _Record | types.EnumType):
                yield get_origin(member.cls) or member.cls
            elif isinstance(member, types.MemoryViewType):
                yield memoryview


def not_given(annotation: Any) -> Iterator[tuple[Any, set[str]]]:
    """The classes in it that have fields which only they themselves set (``init=False``), and these."""
    for info in _all(types.type_info(annotation), set()):
        for member in _members(info):
            if isinstance(member, types.DataclassType) and (fields := _set_by_itself(member.cls)):
                yield member.cls, fields


def _all(info: types.Type, seen: set[int]) -> Iterator[types.Type]:
    """It, and all that it is made of, each once."""
    if id(info) in seen:
        return
    seen.add(id(info))
    yield info
    for member in _members(info):
        for part in _parts(member):
            yield from _all(part, seen)


def _check_union(members: list[types.Type]) -> None:
    """msgspec, up to 0.22 at least, damages its memory when it compiles two sorts of union; what only reads
    annotations finds them before. And of several limits of one type it keeps some of each.

    :raises TypeError: it is one of these.
    """
    if any(isinstance(member, types.TupleType) for member in members) and any(
        getattr(member, limit, None) is not None for member in members for limit in _LIMITS
    ):
        raise TypeError("a tuple of a fixed length and a type with limits cannot be in one union")
    if any(isinstance(member, _List | types.DictType) for member in members) and any(
        getattr(member, "pattern", None) is not None for member in members
    ):
        raise TypeError("a string with a pattern cannot be in one union with an array or an object")
    for kind in _LIMITED:
        if len({repr(member) for member in members if isinstance(member, kind)}) > 1:
            raise TypeError("two of one type with different limits cannot be in one union")


def _parts(info: types.Type) -> Iterator[types.Type]:
    """What it is made of, one level below."""
    if isinstance(info, _Record):
        yield from (field.type for field in info.fields)
    elif isinstance(info, types.TupleType):
        yield from info.item_types
    else:
        names = ("item_type", "key_type", "value_type")
        yield from (getattr(info, name) for name in names if hasattr(info, name))


class _Builder:
    """Makes the shapes of one annotation, in which a type may contain itself."""

    def __init__(self) -> None:
        self._records: dict[int, Part] = {}

    def shape(self, info: types.Type) -> Shape:
        shape = Shape(_rebuilt(info))
        members = list(_members(info))
        objects = [member for member in members if _is_object(member)]
        arrays = [member for member in members if _is_array(member)]
        shape.anything = any(map(_is_anything, members))
        if objects:
            shape.objects = self._tagged(objects) if len(objects) > 1 else self._object(objects[0])
        if len(arrays) > 1:
            raise TypeError("two kinds of array cannot be told apart")
        if arrays:
            shape.arrays = self._array(arrays[0])
        shape.must = " or ".join(dict.fromkeys(map(_in_words, members)))
        shape.decimal = any(isinstance(member, types.DecimalType) for member in members)
        if len(members) > 1:
            shape.floating = EXACT if shape.decimal else WHOLE if any(map(_is_float, members)) else 0
        shape.integral = any(map(_is_integral, members)) and not any(map(_is_float, members))
        shape.whole = all(map(_is_whole, members))
        shape.different = all(_is_whole(member) or _is_whole_hashed(member) for member in members)
        shape.hooked = any(map(_is_hooked, members))
        for member in members:
            if isinstance(member, types.DictType) and not _is_salted_key(member.key_type):
                shape.crowds[dict] = self._keys(member.key_type)
            elif isinstance(member, _Set) and not _is_salted(member.item_type):
                shape.crowds[list] = Shape(GenericAlias(list, (_rebuilt(member.item_type),)))
        return shape

    def _object(self, info: Any) -> Part:
        if not isinstance(info, types.DictType):
            return self._record(info)
        key = None if info.key_type in (types.AnyType(), types.StrType()) else self._keys(info.key_type)
        return Map(_in_words(info), *_lengths(info), self.shape(info.value_type), key)

    def _keys(self, info: types.Type) -> Shape:
        members = list(_members(info))
        if any(_is_object(one) or _is_array(one) for one in members) or all(
            isinstance(one, _NO_KEYS) for one in members
        ):
            raise TypeError("the keys of an object are strings")
        keys = Shape(GenericAlias(dict, (_rebuilt(info), Any)))
        keys.must = " or ".join(map(_in_words, _members(info)))
        keys.decimal = _is_number(info)
        return keys

    def _array(self, info: Any) -> Part:
        if isinstance(info, _Record):
            return self._record(info)
        different = isinstance(info, _Set)
        if different and not any(map(_is_hashable, _members(info.item_type))):
            raise TypeError("the items of a set have to be hashable")
        array = Array(_in_words(info), *_lengths(info), different=different)
        if isinstance(info, types.TupleType):
            array.first = [self.shape(item) for item in info.item_types]
        else:
            array.others = [self.shape(info.item_type)]
        return array

    def _record(self, info: _Record) -> Part:
        known = self._records.get(id(info))
        if known is not None:
            return known
        fields = list(_fields(info))
        if _has_rules(get_origin(info.cls) or info.cls):
            raise TypeError(f"{info.cls.__name__} would be made without its own checks (msgspec makes it)")
        if isinstance(info, types.DataclassType) and (made := _set_by_itself(info.cls)):
            if needed := [field.name for field in fields if field.name in made and field.required]:
                name = f"'{needed[0]}' of {info.cls.__name__}"
                raise TypeError(f"field {name}, which nobody can give (init=False), has no default")
            fields = [field for field in fields if field.name not in made]
        part: Fields | Array
        if _is_array(info):
            self._records[id(info)] = part = Array(_in_words(info), *_lengths(info))
            part.first = [self.shape(field.type) for field in fields]
        else:
            self._records[id(info)] = part = Fields()
            part.shapes = {field.encode_name: self.shape(field.type) for field in fields}
            part.required = [field.encode_name for field in fields if field.required]
        return part

    def _tagged(self, structs: list[Any]) -> Part:
        members = {struct.tag: self._record(struct) for struct in structs}
        return Tagged(structs[0].tag_field, self.shape(types.LiteralType(tuple(members))), members)


def _members(info: types.Type) -> Iterator[types.Type]:
    """The alternatives of a union; anything else is the only one of its own."""
    if isinstance(info, types.Metadata):
        yield from _members(info.type)
    elif isinstance(info, types.UnionType):
        for member in info.types:
            yield from _members(member)
    else:
        yield info


def _fields(info: _Record) -> Iterator[types.Field]:
    if isinstance(info, types.StructType) and info.tag_field is not None and info.tag is not None:
        yield types.Field(info.tag_field, info.tag_field, types.LiteralType((info.tag,)))
    yield from info.fields


def _is_anything(info: types.Type) -> bool:
    return info in (types.AnyType(), types.CustomType(object))


def _is_array(info: types.Type) -> bool:
    if isinstance(info, types.StructType):
        return info.array_like
    return isinstance(info, _List | types.TupleType | types.NamedTupleType)


def _is_object(info: types.Type) -> bool:
    return isinstance(info, _Record | types.DictType) and not _is_array(info)


def _is_integral(info: types.Type) -> bool:
    return isinstance(info, types.IntType) or any(type(value) is int for value in _values(info))


def _is_float(info: types.Type) -> bool:
    return isinstance(info, types.FloatType)


def _is_number(info: types.Type) -> bool:
    """Whether a key that stands for it is a number with a point perhaps."""
    members = list(_members(info))
    numbers = types.IntType | types.FloatType | types.DecimalType
    return all(isinstance(one, numbers) for one in members) and not all(map(_is_integral, members))


def _is_whole(info: types.Type) -> bool:
    """Whether msgspec accepts nothing that we would not; a record's unknown keys it lets pass, and ``NaN``
    as a decimal number."""
    if isinstance(info, types.ListType | types.VarTupleType):
        return all(map(_is_whole, _members(info.item_type)))
    if isinstance(info, types.TupleType):
        return all(_is_whole(member) for item in info.item_types for member in _members(item))
    if isinstance(info, types.DictType):
        return _is_salted_key(info.key_type) and all(map(_is_whole, _members(info.value_type)))
    return not isinstance(info, _Record | _Set | types.DecimalType)


def _is_whole_hashed(info: types.Type) -> bool:
    """Whether msgspec accepts nothing that we would not, but for what is in a set twice, or crowded."""
    if isinstance(info, types.DictType):
        return not _is_number(info.key_type) and all(map(_is_whole, _members(info.value_type)))
    return isinstance(info, _Set) and all(map(_is_whole, _members(info.item_type)))


def _is_salted(info: types.Type) -> bool:
    """Whether nobody can find many values of one hash: see `asynctask.collisions`."""
    return all(isinstance(member, _SALTED) for member in _members(info))


def _is_salted_key(info: types.Type) -> bool:
    """Whether it is salted, as is a key that may be anything: it is a string."""
    return _is_anything(info) or _is_salted(info)


def _is_hashable(info: types.Type) -> bool:
    """Whether what is made of a value may be in a set."""
    if isinstance(info, types.StructType | types.DataclassType):
        cls = get_origin(info.cls) or info.cls
        config = getattr(cls, "__struct_config__", None)
        if config is not None and config.eq and not config.frozen:  # its own raises a TypeError
            return cls.__hash__ is not Struct.__hash__
        return cls.__hash__ is not None
    if isinstance(info, types.TupleType | types.VarTupleType):
        return all(_is_hashable(member) for part in _parts(info) for member in _members(part))
    changing = types.ListType | types.SetType | types.DictType | types.TypedDictType | types.ByteArrayType
    return not isinstance(info, changing)


def _set_by_itself(cls: Any) -> set[str]:
    """The fields of a dataclass, or of a class of attrs', that its ``__init__`` does not take, and msgspec
    would."""
    cls = get_origin(cls) or cls
    known = getattr(cls, "__dataclass_fields__", {}).values() or getattr(cls, "__attrs_attrs__", ())
    return {field.name for field in known if not field.init}


def _has_rules(cls: Any) -> bool:
    """Whether a class is made of more than its fields: pydantic's, or by code of its own, which msgspec
    calls of none of these."""
    if not (hasattr(cls, "__dataclass_params__") or hasattr(cls, "__attrs_attrs__")):
        return False
    made_in = getattr(getattr(cls.__init__, "__code__", None), "co_filename", "")
    is_generated = made_in == "<string>" or made_in.startswith("<attrs generated ")
    return hasattr(cls, "__pydantic_validator__") or not is_generated or cls.__new__ is not object.__new__


def _is_hooked(info: types.Type) -> bool:
    """Whether its own code looks at a value, or its items have to be hashable."""
    if isinstance(info, _Record):
        cls = get_origin(info.cls) or info.cls
        return hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_attrs__")
    return isinstance(info, _Set)


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
    if isinstance(info, _Record):
        return info.cls
    if _is_anything(info):
        return Any
    if type(info) in _LEAVES:
        return _LEAVES[type(info)][0]
    raise TypeError("JSON has no such type; a dataclass, a TypedDict or a msgspec.Struct has fields")


def _lengths(info: Any) -> tuple[float, float]:
    """How many parts an array or object may have."""
    if isinstance(info, types.TupleType):
        return len(info.item_types), len(info.item_types)
    if isinstance(info, _Record):
        fields = list(_fields(info))
        optional = len(list(takewhile(lambda field: not field.required, reversed(fields))))
        return len(fields) - optional, len(fields)
    return info.min_length or 0, inf if info.max_length is None else info.max_length


def _values(info: types.Type) -> list[Any]:
    if isinstance(info, types.LiteralType):
        return list(info.values)
    return [member.value for member in info.cls] if isinstance(info, types.EnumType) else []


def _in_words(info: types.Type) -> str:
    """What a value must be."""
    if values := _values(info):
        words = [f"'{value}'" if isinstance(value, str) else dump(value) for value in values]
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if isinstance(info, _Set):
        return "an array" + (_amount(info, "different item") or " of different items")
    if _is_array(info):
        return "an array" + _amount(info, "item")
    if isinstance(info, types.DictType):
        return "an object" + _amount(info, "field")
    if isinstance(info, types.IntType | types.FloatType):
        return _LEAVES[type(info)][1] + _range(info)
    if isinstance(info, types.StrType):
        matching = f" that matches '{info.pattern}'" if info.pattern is not None else ""
        return "a string" + _amount(info, "character") + matching
    if isinstance(info, types.BytesType | types.ByteArrayType | types.MemoryViewType):
        return _LEAVES[type(info)][1] + _amount(info, "byte")
    if isinstance(info, types.DateTimeType | types.TimeType) and info.tz is not None:
        return _LEAVES[type(info)][1] + (" with an offset" if info.tz else " without an offset")
    if isinstance(info, _Record):
        return "an object"
    return _LEAVES[type(info)][1] if type(info) in _LEAVES else "anything"


def _amount(info: Any, unit: str) -> str:
    low, high = _lengths(info)
    units = unit if (low if high == inf else high) == 1 else f"{unit}s"
    if low == high:
        return f" of {high} {units}"
    if high == inf:
        return f" of at least {low} {units}" if low else ""
    return f" of {low} to {high} {units}" if low else f" of at most {high} {units}"


def _range(info: types.IntType | types.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        parts = [f"from {info.ge} to {info.le}"]
    else:
        bounds = (
            *(("of at least", info.ge), ("of at most", info.le)),
            *(("greater than", info.gt), ("less than", info.lt)),
        )
        parts = [f"{words} {bound}" for words, bound in bounds if bound is not None]
    if info.multiple_of is not None:
        parts.append(f"{'' if parts else 'that is '}a multiple of {info.multiple_of}")
    return " " + " and ".join(parts) if parts else ""
