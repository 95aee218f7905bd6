"""What a value must be, in words."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import inf
from typing import Any, Final
from uuid import UUID

import msgspec.inspect as types

from asynctask.typeinfo import AnySet, Record, is_array, lengths_of, values_of
from asynctask.wire import dump

LEAVES: Final[dict[type[types.Type], tuple[Any, str]]] = {
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


def in_words(info: types.Type) -> str:
    """What a value must be."""
    if values := values_of(info):
        words = [f"'{value}'" if isinstance(value, str) else dump(value) for value in values]
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if isinstance(info, AnySet):
        return "an array" + (_amount(info, "different item") or " of different items")
    if is_array(info):
        return "an array" + _amount(info, "item")
    if isinstance(info, types.DictType):
        return "an object" + _amount(info, "field")
    if isinstance(info, types.IntType | types.FloatType):
        return LEAVES[type(info)][1] + _range(info)
    if isinstance(info, types.StrType):
        matching = f" that matches '{info.pattern}'" if info.pattern is not None else ""
        return "a string" + _amount(info, "character") + matching
    if isinstance(info, types.BytesType | types.ByteArrayType | types.MemoryViewType):
        return LEAVES[type(info)][1] + _amount(info, "byte")
    if isinstance(info, types.DateTimeType | types.TimeType) and info.tz is not None:
        return LEAVES[type(info)][1] + (" with an offset" if info.tz else " without an offset")
    if isinstance(info, Record):
        return "an object"
    return LEAVES[type(info)][1] if type(info) in LEAVES else "anything"


def _amount(info: Any, unit: str) -> str:
    low, high = lengths_of(info)
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
