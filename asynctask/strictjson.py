"""Strict JSON, read; and in a sentence what keeps a text from being that. Pure."""

import math
from collections.abc import Iterable
from json import JSONDecodeError, JSONDecoder
from reprlib import Repr
from typing import Any, Final, Never

MAX_DEPTH: Final = 64
"""Nesting that a body may have: enough for any input, far below what exhausts the stack."""

DIGITS: Final = 309
"""Of the least integer that may be beyond a double; a shorter text has none."""

MAX_KEY: Final = 60
"""Characters of a key that a sentence repeats."""


class NotStrict(ValueError):
    """What is wrong with a text and where, as a sentence that repeats little of it."""


def read(body: bytes) -> Any:
    """Read strict JSON.

    :raises NotStrict: for what RFC 8259 forbids, and for what it leaves open and breaks elsewhere: a key
        twice, a number beyond a double, a lone surrogate, nesting deeper than `MAX_DEPTH`.
    """
    try:
        text = body.decode("utf-8").strip(_WHITESPACE)
        value, end = _DECODER.raw_decode(text)  # which does not look for what comes after it
        if end != len(text):
            raise JSONDecodeError("Something comes after the value", text, end)
        if len(text) >= DIGITS or "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH:
            _check_values((value,), 0, surrogates="\\u" in text)
    except (ValueError, RecursionError, OverflowError) as error:
        # UnicodeDecodeError, UnicodeEncodeError and JSONDecodeError are all ValueErrors.
        raise NotStrict(_sentence(error, body)) from None
    return value


def _sentence(error: Exception, body: bytes) -> str:
    match error:
        case NotStrict():
            return str(error)
        case UnicodeDecodeError():
            return f"The body is not UTF-8 at byte {error.start}"
        case UnicodeEncodeError():
            return f"A string has a lone surrogate: \\u{ord(error.object[error.start]):04x}"
        case RecursionError():
            return _TOO_DEEP
        case JSONDecodeError():
            return _of_syntax(error, body.decode("utf-8"))
    return _TOO_LARGE  # an OverflowError, or a ValueError for more digits than Python reads


def _of_syntax(error: JSONDecodeError, text: str) -> str:
    """What the parser has to say, with its place in the whole text."""
    start = len(text) - len(text.lstrip(_WHITESPACE))
    if start == len(text):
        return "The body is empty"
    if text[start] == _BOM:
        return "The body begins with a byte order mark (U+FEFF)"
    return str(JSONDecodeError(error.msg, text, start + error.pos))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, _ in pairs if found.pop(key, _GONE) is _GONE)
        raise NotStrict(f"Key {_shorten(twice)} is in one object twice")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotStrict(_TOO_LARGE)
    return number


def _refuse(constant: str) -> Never:
    raise NotStrict(f"{constant} is no number of JSON")


_WHITESPACE: Final = " \t\n\r"
_BOM: Final = "\ufeff"
_GONE: Final = object()
_DECODER: Final = JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse)

_TOO_DEEP: Final = f"Objects and arrays are nested deeper than {MAX_DEPTH}"
_TOO_LARGE: Final = "A number is beyond a double"

_repr: Final = Repr()
_repr.maxstring = MAX_KEY
_shorten: Final = _repr.repr


def _check_values(values: Iterable[Any], depth: int, *, surrogates: bool) -> None:
    """Check what lies at some depth, and below."""
    if depth > MAX_DEPTH:
        raise NotStrict(_TOO_DEEP)
    for value in values:
        kind = type(value)
        if kind is str:
            if surrogates:
                value.encode("utf-8")
        elif kind is int:
            float(value)
        elif kind is list:
            _check_values(value, depth + 1, surrogates=surrogates)
        elif kind is dict:
            if surrogates:
                _check_values(value, depth, surrogates=True)
            _check_values(value.values(), depth + 1, surrogates=surrogates)
