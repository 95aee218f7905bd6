"""What msgspec would read wrongly: type aliases, ``type A = …``, some of them without an end, limits of
others' making, which it passes over, and flags, of which it knows the members only."""

import typing
from enum import Flag
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec.inspect as types

_ALIAS: Final = getattr(typing, "TypeAliasType", None)
"""Python 3.11 has none."""

_OTHERS: Final = ("pydantic", "annotated_types")
"""Whose limits in ``Annotated`` msgspec passes over."""

_MANY: Final = 100
"""So many aliases of aliases nobody writes."""


class Reader(types._Translator):
    """Reads annotations as msgspec does, without compiling anything."""

    def translate(self, typ: Any) -> types.Type:
        """What msgspec understands of a type.

        :raises TypeError: it cannot be read, or an alias in it cannot, or nobody would look at its limits.
        """
        _check(typ)
        try:
            understood: types.Type = super().translate(typ)
        except RecursionError:
            raise TypeError("a type alias in it contains itself; a class may, or take Any") from None
        return understood


def unaliased(annotation: Any) -> Any:
    """What it stands for, if it is an alias.

    :raises TypeError: it stands for itself, or takes its parameters as msgspec does not.
    """
    first = annotation
    for _ in range(_MANY):
        if type(annotation) is _ALIAS:
            annotation = annotation.__value__
        elif type(get_origin(annotation)) is _ALIAS:
            annotation = _filled(get_origin(annotation), get_args(annotation))
        else:
            return annotation
    raise TypeError(f"the type alias {first} stands for itself")


def _filled(alias: Any, args: tuple[Any, ...]) -> Any:
    """msgspec gives the arguments to the value, in whose own order they may be others'."""
    if getattr(alias.__value__, "__parameters__", ()) != alias.__type_params__:
        raise TypeError(
            f"the type alias {alias} has to use each of its parameters within another type, in their order"
        )
    return alias.__value__[args]


def _check(annotation: Any) -> None:
    """Look at what msgspec removes around a type, and at the aliases within."""
    first = annotation
    for _ in range(_MANY):
        annotation = unaliased(annotation)
        if get_origin(annotation) is Annotated or get_origin(annotation) is Final:
            annotation, *notes = get_args(annotation)
            for note in notes:
                module = type(note).__module__.partition(".")[0]
                if module in _OTHERS:
                    raise TypeError(f"what {module} says is not looked at: take msgspec.Meta for limits")
        elif (inner := getattr(annotation, "__supertype__", None)) is not None:
            annotation = inner
        elif isinstance(annotation, type) and issubclass(annotation, Flag):
            # It makes a member of each number that it is given, and an IntFlag keeps them all for ever.
            raise TypeError("a Flag has more values than members; a list of an Enum's has not")
        else:
            return
    raise TypeError(f"the type alias {first} stands for itself")
