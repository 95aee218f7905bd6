"""What msgspec understands of annotations, and what follows from that."""

from collections.abc import Iterator
from itertools import takewhile
from math import inf
from typing import Any, Final, get_origin

import msgspec.inspect as types
from msgspec import Struct

Record = types.StructType | types.DataclassType | types.TypedDictType | types.NamedTupleType
AnySet = types.SetType | types.FrozenSetType
AnyList = types.ListType | AnySet | types.VarTupleType

_SALTED: Final = (
    *(types.StrType, types.BytesType, types.MemoryViewType, types.DateType),
    *(types.NoneType, types.BoolType, types.LiteralType, types.EnumType),
)
"""What has a hash that nobody foresees, or few values."""


def members_of(info: types.Type) -> Iterator[types.Type]:
    """The alternatives of a union; anything else is the only one of its own."""
    if isinstance(info, types.Metadata):
        yield from members_of(info.type)
    elif isinstance(info, types.UnionType):
        for member in info.types:
            yield from members_of(member)
    else:
        yield info


def all_of(info: types.Type, seen: set[int]) -> Iterator[types.Type]:
    """It, and all that it is made of, each once."""
    if id(info) in seen:
        return
    seen.add(id(info))
    yield info
    for member in members_of(info):
        for part in parts_of(member):
            yield from all_of(part, seen)


def parts_of(info: types.Type) -> Iterator[types.Type]:
    """What it is made of, one level below."""
    if isinstance(info, Record):
        yield from (field.type for field in info.fields)
    elif isinstance(info, types.TupleType):
        yield from info.item_types
    else:
        names = ("item_type", "key_type", "value_type")
        yield from (getattr(info, name) for name in names if hasattr(info, name))


def fields_of(info: Record) -> Iterator[types.Field]:
    """Its fields; the first is the tag that tells which struct it is, if it has one."""
    if isinstance(info, types.StructType) and info.tag_field is not None and info.tag is not None:
        yield types.Field(info.tag_field, info.tag_field, types.LiteralType((info.tag,)))
    yield from info.fields


def is_anything(info: types.Type) -> bool:
    return info in (types.AnyType(), types.CustomType(object))


def is_array(info: types.Type) -> bool:
    if isinstance(info, types.StructType):
        return info.array_like
    return isinstance(info, AnyList | types.TupleType | types.NamedTupleType)


def is_object(info: types.Type) -> bool:
    return isinstance(info, Record | types.DictType) and not is_array(info)


def is_integral(info: types.Type) -> bool:
    return isinstance(info, types.IntType) or any(type(value) is int for value in values_of(info))


def is_float(info: types.Type) -> bool:
    return isinstance(info, types.FloatType)


def is_number(info: types.Type) -> bool:
    """Whether a key that stands for it is a number with a point perhaps."""
    members = list(members_of(info))
    numbers = types.IntType | types.FloatType | types.DecimalType
    return all(isinstance(one, numbers) for one in members) and not all(map(is_integral, members))


def is_whole(info: types.Type) -> bool:
    """Whether msgspec accepts nothing that we would not; a record's unknown keys it lets pass, and ``NaN``
    as a decimal number."""
    if isinstance(info, types.ListType | types.VarTupleType):
        return all(map(is_whole, members_of(info.item_type)))
    if isinstance(info, types.TupleType):
        return all(is_whole(member) for item in info.item_types for member in members_of(item))
    if isinstance(info, types.DictType):
        return is_salted_key(info.key_type) and all(map(is_whole, members_of(info.value_type)))
    return not isinstance(info, Record | AnySet | types.DecimalType)


def is_whole_hashed(info: types.Type) -> bool:
    """Whether msgspec accepts nothing that we would not, but for what is in a set twice, or crowded."""
    if isinstance(info, types.DictType):
        return not is_number(info.key_type) and all(map(is_whole, members_of(info.value_type)))
    return isinstance(info, AnySet) and all(map(is_whole, members_of(info.item_type)))


def is_salted(info: types.Type) -> bool:
    """Whether nobody can find many values of one hash: see `asynctask.collisions`."""
    return all(isinstance(member, _SALTED) for member in members_of(info))


def is_salted_key(info: types.Type) -> bool:
    """Whether it is salted, as is a key that may be anything: it is a string."""
    return is_anything(info) or is_salted(info)


def is_hashable(info: types.Type) -> bool:
    """Whether what is made of a value may be in a set."""
    if isinstance(info, types.StructType | types.DataclassType):
        cls = get_origin(info.cls) or info.cls
        config = getattr(cls, "__struct_config__", None)
        if config is not None and config.eq and not config.frozen:  # its own raises a TypeError
            return cls.__hash__ is not Struct.__hash__
        return cls.__hash__ is not None
    if isinstance(info, types.TupleType | types.VarTupleType):
        return all(is_hashable(member) for part in parts_of(info) for member in members_of(part))
    changing = types.ListType | types.SetType | types.DictType | types.TypedDictType | types.ByteArrayType
    return not isinstance(info, changing)


def set_by_itself(cls: Any) -> set[str]:
    """The fields of a dataclass, or of a class of attrs', that its ``__init__`` does not take, and msgspec
    would."""
    cls = get_origin(cls) or cls
    known = getattr(cls, "__dataclass_fields__", {}).values() or getattr(cls, "__attrs_attrs__", ())
    return {field.name for field in known if not field.init}


def has_rules(cls: Any) -> bool:
    """Whether a class is made of more than its fields: pydantic's, or by code of its own, which msgspec
    calls of none of these."""
    if not (hasattr(cls, "__dataclass_params__") or hasattr(cls, "__attrs_attrs__")):
        return False
    made_in = getattr(getattr(cls.__init__, "__code__", None), "co_filename", "")
    is_generated = made_in == "<string>" or made_in.startswith("<attrs generated ")
    return hasattr(cls, "__pydantic_validator__") or not is_generated or cls.__new__ is not object.__new__


def is_hooked(info: types.Type) -> bool:
    """Whether its own code looks at a value, or its items have to be hashable."""
    if isinstance(info, Record):
        cls = get_origin(info.cls) or info.cls
        return hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_attrs__")
    return isinstance(info, AnySet)


def lengths_of(info: Any) -> tuple[float, float]:
    """How many parts an array or object may have."""
    if isinstance(info, types.TupleType):
        return len(info.item_types), len(info.item_types)
    if isinstance(info, Record):
        fields = list(fields_of(info))
        optional = len(list(takewhile(lambda field: not field.required, reversed(fields))))
        return len(fields) - optional, len(fields)
    return info.min_length or 0, inf if info.max_length is None else info.max_length


def values_of(info: types.Type) -> list[Any]:
    """Those of a `Literal` or an enumeration; none of any other type."""
    if isinstance(info, types.LiteralType):
        return list(info.values)
    return [member.value for member in info.cls] if isinstance(info, types.EnumType) else []
