"""What an annotation accepts, checked field by field.

msgspec knows the types, but tells only the first thing that is wrong, lets an unknown key of a
dataclass pass and takes no 5.0 for an integer. So a `Shape` follows a value down to what has no
parts; that alone is left to msgspec.
"""

import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import chain, repeat
from types import NoneType
from typing import Any, Final, Protocol

from msgspec import ValidationError, convert, defstruct
from twisted.logger import Logger

from asynctask.collisions import FEW, MOST_KEYS, collide
from asynctask.problems import FieldError
from asynctask.wire import MAX_ERRORS, MAX_HINTS, MAX_SHOWN, pointer, shown, unknown

log = Logger(namespace="asynctask.handler")

Path = tuple[str | int, ...]

MAX_REASON: Final = 200
"""Characters that an error repeats of what a type's own code had to say."""

MAX_TOLD: Final = 1024 * 1024
"""Characters of all pointers of a body's errors, each of which may name a key as long as the body."""

NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
"""A decimal number as a string: `Decimal` takes ``NaN``, `` 1_0 `` and digits of other scripts too."""

EXACT: Final = 2**53
"""Up to it every integer is a double of its own."""

SIMPLE: Final = (int, str, bool, float, NoneType)
"""What JSON has that has no keys in it."""

WHOLE: Final = 1e22
"""Below it, 5.0 is the same as 5; 1e300 and its 301 digits are not."""

_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

NUL: Final = "must not contain a NUL character"

MANY_KEYS: Final = f"must have at most {MOST_KEYS} fields, since their names are more than plain text"
CROWDED: Final = f"has too many values of one hash (Python's); send at most {FEW} of them at once"


class Hints:
    """Says what is unknown in one body, and for the first `MAX_HINTS` what may have been meant."""

    def __init__(self) -> None:
        self._left = MAX_HINTS
        self._said: dict[tuple[str, str, tuple[str, ...]], str] = {}

    def unknown(self, what: str, given: str, known: Collection[str]) -> str:
        """See `asynctask.wire.unknown`; even a search among no names takes longer than all the rest.

        What a thousand elements have wrong alike is looked for once.
        """
        asked = (what, given, tuple(known))
        if (said := self._said.get(asked)) is not None:
            return said
        if not self._left:
            return f"Unknown {what} '{_short(given)}'"
        self._left -= 1
        said = self._said[asked] = unknown(what, given, known)
        return said


class EnoughError(Exception):
    """So much is wrong that nobody needs to be told the rest."""


class Found:
    """What is wrong with one input.

    Finding one more than `MAX_ERRORS`, or than `MAX_TOLD` allows, raises `EnoughError`.

    :param may_have_nul: whether it is worth looking for NUL characters.
    """

    def __init__(self, hints: Hints, *, may_have_nul: bool) -> None:
        self.may_have_nul = may_have_nul
        self.errors: list[FieldError] = []
        self._hints = hints
        self._told = 0

    def add(self, path: Path, what: str) -> None:
        within = path[1:] if isinstance(path[0], int) else path  # which of a batch it is, the pointer says
        name = _short(".".join(map(str, within)))
        self._found(FieldError(f"Field '{name}' {what}", pointer(*path)))

    def _found(self, error: FieldError) -> None:
        if len(self.errors) >= MAX_ERRORS or self._told > MAX_TOLD:
            raise EnoughError
        self._told += len(error.pointer)
        self.errors.append(error)

    def unknown(self, path: Path, key: str, known: Mapping[str, Any]) -> None:
        self._found(FieldError(self._hints.unknown("field", key, known), pointer(*path, key)))

    def nul(self, value: Any, path: Path) -> None:
        """Look for NUL characters in what may be anything."""
        if not self.may_have_nul:
            return
        if isinstance(value, str):
            if "\0" in value:
                self.add(path, NUL)
        elif isinstance(value, dict):
            for key, item in value.items():
                if "\0" in key:
                    self.add((*path, key), NUL)
                if "\0" not in key or not isinstance(item, str):
                    self.nul(item, (*path, key))
        elif isinstance(value, list):
            for number, item in enumerate(value):
                self.nul(item, (*path, number))


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN and text.isprintable() else shown(text)


def canonical(value: Any) -> str:
    """The same text for the same JSON, whatever the order of its keys."""
    return _encode(_plain(value))


def _alike(value: Any) -> Any:
    """What is equal for the same JSON, and has a salted hash: see `asynctask.collisions`."""
    if type(value) is str:
        return value
    if type(value) is int or (type(value) is float and value.is_integer()):
        return (hex(int(value)),)
    return (canonical(value),)


def _plain(value: Any) -> Any:
    """The same value, where 5.0 is 5."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < WHOLE
    return int(value) if is_whole else value


class Part(Protocol):
    """What has parts: objects or arrays of one annotation."""

    def check(self, value: Any, path: Path, found: Found) -> Any:
        """The value as it is to be stored."""


class Shape:
    """What one annotation accepts.

    :ivar must: what a value must be, in words.
    :ivar anything: all that JSON has.
    :ivar objects: what is accepted of objects; None for nothing.
    :ivar arrays: what is accepted of arrays.
    :ivar integral: whether 5.0 is meant as 5.
    :ivar floating: up to which number 5 is meant as 5.0, if it fits as nothing else.
    :ivar decimal: whether a string stands for a number.
    :ivar whole: whether msgspec accepts nothing that we would not.
    :ivar different: whether it is ``whole`` but for an array in which something is twice, or for what is
        crowded.
    :ivar hooked: whether a value may be wrong though its parts are right.
    :ivar crowds: of what becomes a set or a dict of unsalted hashes, by the type that JSON has for it: the
        shape of an array of such items, or of an object without its values.
    """

    def __init__(self, annotation: Any) -> None:
        # A Struct's types are compiled once, those of a bare annotation at every call.
        self._box: Any = defstruct("Box", [("value", annotation)], array_like=True)
        self.must = "anything"
        self.anything = self.integral = self.decimal = self.whole = False
        self.different = self.hooked = False
        self.floating = 0.0
        self.objects: Part | None = None
        self.arrays: Part | None = None
        self.crowds: dict[type, Shape] = {}
        self._failed = False
        """Whether the log was told that its own code does, which clients could have it told all day."""

    def check(self, value: Any, path: Path, found: Found) -> Any:
        """Add what is wrong to ``found``.

        :returns: the value as it is to be stored.
        """
        if self.anything:
            found.nul(value, path)
            return value
        part = crowd = None
        if isinstance(value, dict | list):
            if not found.may_have_nul and (
                (self.whole and self.fits(value))
                or (self.different and not (crowd := self._crowd(value)) and self._fits_as_a_set(value))
            ):
                return value
            part = self.objects if isinstance(value, dict) else self.arrays
        if part is None:
            return self._check_leaf(value, path, found)
        before = len(found.errors)
        value = part.check(value, path, found)
        if len(found.errors) == before:
            crowd = crowd if crowd in (CROWDED, MANY_KEYS) else self._crowd(value)
            reason = crowd or (self.refusal(value) if self.hooked else None)
            if reason is not None:
                found.add(path, reason)
        return value

    def _check_leaf(self, value: Any, path: Path, found: Found) -> Any:
        if self.integral and isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and abs(value) <= self.floating and not self.fits(value):
            value = float(value)
        if isinstance(value, str) and "\0" in value:
            found.add(path, NUL)
        elif not self.fits(value) or (isinstance(value, str) and not self.may_be(value)):
            found.add(path, f"must be {self.must}")
        return value

    def may_be(self, text: str) -> bool:
        """Whether it is written as JSON writes numbers, where it stands for one."""
        return not self.decimal or NUMBER.fullmatch(text) is not None

    def fits(self, value: Any) -> bool:
        """Whether msgspec and the type's own code take it."""
        try:
            convert((value,), self._box, str_keys=True)
        except BaseException:  # A `__post_init__` may raise anything.
            return False
        return True

    def _fits_as_a_set(self, value: list[Any] | dict[str, Any]) -> bool:
        """Whether it fits, and has as many items as a set of them."""
        try:
            return len(self.convert(value)) == len(value)
        except ValidationError:
            return False

    def _crowd(self, value: list[Any] | dict[str, Any]) -> str | None:
        """Why no set or dict of it is made to see whether it fits; None if that is quick."""
        shape = self.crowds.get(type(value))
        if shape is None or len(value) <= FEW:
            return None
        if isinstance(value, dict) and len(value) > MOST_KEYS:
            return MANY_KEYS
        given, values, hashes = list(value), list[Any](), list[int]()
        try:
            for start in range(0, len(given), FEW):
                some = given[start : start + FEW]
                parts = list(shape.convert(dict.fromkeys(some) if isinstance(value, dict) else some))
                with suppress(BaseException):  # What has no hash is the end of the set too; and as above.
                    hashes.extend(map(hash, parts))
                values += parts[: len(hashes) - len(values)]
        except ValidationError as error:
            return str(error)
        with suppress(BaseException):  # of an ``__eq__``
            return CROWDED if collide(values, hashes) else None
        return None

    def refusal(self, value: Any) -> str | None:
        """Why it does not fit; None if it does."""
        try:
            self.convert(value)
        except ValidationError as error:
            return str(error)
        return None

    def convert(self, value: Any) -> Any:
        """:raises ValidationError: whatever goes wrong."""
        try:
            if type(value) in SIMPLE:  # to read the word takes longer than all else
                return convert((value,), self._box).value
            return convert((value,), self._box, str_keys=True).value
        except BaseException as error:  # As above.
            known = isinstance(error, ValidationError | RecursionError) or _is_of_msgspec(error)
            if not (known or self._failed):
                self._failed = True
                log.failure("A type's own code has failed; what it is given is refused")
            raise ValidationError(_reason(error)) from error


def _is_of_msgspec(error: BaseException) -> bool:
    """Whether it is what msgspec before 0.23 says of a value that cannot be in a set."""
    return type(error) is TypeError and str(error).startswith("unhashable type: ")


def _reason(error: BaseException) -> str:
    """What a type's own code says, where it says it in the way of msgspec: by a ValueError or TypeError."""
    cause = error.__cause__ if isinstance(error, ValidationError) else None
    if cause is None:
        return "is not valid"
    text = " ".join(str(cause).encode("utf-8", "replace").decode("utf-8").split())
    return f"is not valid: {text[:MAX_REASON]}"


class Fields:
    """Objects with named fields."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}
        self.required: list[str] = []

    def check(self, value: dict[str, Any], path: Path, found: Found) -> dict[str, Any]:
        checked = {}
        for name, item in value.items():
            shape = self.shapes.get(name)
            if shape is None:
                found.unknown(path, name, self.shapes)
            else:
                checked[name] = shape.check(item, (*path, name), found)
        for name in self.required:
            if name not in value:
                found.add((*path, name), "is required")
        return checked


class Tagged:
    """Objects of which one field tells which of several Structs it is."""

    def __init__(self, field: str, tag: Shape, members: Mapping[Any, Part]) -> None:
        self._field = field
        self._tag = tag
        self._members = members

    def check(self, value: dict[str, Any], path: Path, found: Found) -> Any:
        tag = value.get(self._field)
        member = self._members.get(tag) if isinstance(tag, str | int | float) else None
        if member is not None:
            return member.check(value, path, found)
        if self._field in value:
            self._tag.check(tag, (*path, self._field), found)
        else:
            found.add((*path, self._field), "is required")
        return value


class Map:
    """Objects with any keys of one type. ``key`` is the shape of such an object without its values."""

    def __init__(self, must: str, low: float, high: float, item: Shape, key: Shape | None) -> None:
        self._must = must
        self._low, self._high = low, high
        self._item = item
        self._key = key

    def check(self, value: dict[str, Any], path: Path, found: Found) -> dict[str, Any]:
        if not self._low <= len(value) <= self._high:
            found.add(path, f"must be {self._must}")
        checked = {}
        for key, item in value.items():
            at = (*path, key)
            if "\0" in key:
                found.add(at, NUL)
            elif self._key is not None and not (self._key.fits({key: None}) and self._key.may_be(key)):
                found.add(at, f"must have a name that is {self._key.must}")
            checked[key] = self._item.check(item, at, found)
        return checked


class Array:
    """Arrays: of these items first, and then of any number of the others."""

    def __init__(self, must: str, low: float, high: float, *, different: bool = False) -> None:
        self.first: list[Shape] = []
        self.others: list[Shape] = []
        self._must = must
        self._low, self._high = low, high
        self._different = different

    def check(self, value: list[Any], path: Path, found: Found) -> list[Any]:
        shapes = chain(self.first, *map(repeat, self.others))
        checked = [
            shape.check(item, (*path, number), found)
            for number, (item, shape) in enumerate(zip(value, shapes, strict=False))
        ]
        same = self._different and len(set(map(_alike, checked))) < len(checked)
        if same or not self._low <= len(value) <= self._high:
            found.add(path, f"must be {self._must}")
        return checked
