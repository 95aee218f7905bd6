"""A handler's signature as the schema of its input, and as what checks it."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import isfinite
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from msgspec import ValidationError, json, to_builtins

from asynctask.aliases import unaliased
from asynctask.annotations import classes_of, not_given, shape_of
from asynctask.context import Context
from asynctask.problems import FieldError
from asynctask.shapes import EnoughError, Fields, Found, Hints, Path, Shape
from asynctask.wire import dump, encode, in_a_line, shown


class UnusableError(Exception):
    """The function cannot be a handler; the message is a sentence without the function's name."""


class Input:
    """What a handler takes besides its context; `read_signature` makes it.

    :ivar context: the name of the parameter that is annotated `Context`, if there is one.
    :ivar schema: JSON Schema of the input, complete in itself.
    :ivar classes: of what the handler is given.
    """

    def __init__(
        self, context: str | None, schema: dict[str, Any], fields: Fields, classes: Sequence[type]
    ) -> None:
        self.context = context
        self.schema = schema
        self.classes = classes
        self._fields = fields

    def check(
        self, value: dict[str, Any], path: Path = ("input",), hints: Hints | None = None
    ) -> tuple[dict[str, Any], list[FieldError]]:
        """Look at all of an input.

        :param value: parsed JSON.
        :param path: where it is in the body.
        :param hints: those of the body, if it has other parts too.
        :returns: the input as it is to be stored, with 5 for 5.0 and without the defaults; and every
            bad field. If there is none, `arguments` takes it.
        """
        found = Found(hints or Hints(), may_have_nul=_may_have_nul(value))
        try:
            checked = self._fields.check(value, path, found)
        except EnoughError:
            return value, found.errors
        except RecursionError:
            found.add(path, "is nested too deep")
            return value, found.errors
        if not found.errors:
            for name, item in checked.items():
                if reason := self._fields.shapes[name].refusal(item):
                    found.add((*path, name), reason)
        return checked, found.errors

    def arguments(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the handler: without its context, and without its defaults, which it has.

        :param value: what `check` gave, perhaps that of an earlier version of the handler.
        :raises ValidationError: it does not fit any more.
        """
        shapes = self._fields.shapes
        for name in value:
            if name not in shapes:
                raise ValidationError(f"Unknown field '{shown(name)}'")
        for name in self._fields.required:
            if name not in value:
                raise ValidationError(f"Field 'input.{name}' is required")
        return {name: _argument(name, shapes[name], value[name]) for name in value}


_LOOSE: Final = (dict, list, float)
"""Types of which msgspec is less strict than `Input.check`."""


def _argument(name: str, shape: Shape, value: Any) -> Any:
    if type(value) in _LOOSE:
        found = Found(Hints(), may_have_nul=False)
        with suppress(EnoughError):
            value = shape.check(value, ("input", name), found)
        if found.errors:
            raise ValidationError(found.errors[0].detail)
    try:
        return shape.convert(value)
    except ValidationError as error:
        raise ValidationError(f"Field 'input.{name}' {error}") from error


def _may_have_nul(value: Any) -> bool:
    """Whether it is worth looking: to write it as JSON is much faster than to walk through it."""
    try:
        return b"\\u0000" in encode(value)
    except (ValueError, RecursionError):
        return True


def read_signature(function: Callable[..., Any]) -> Input:
    """What a handler takes, by its parameters' annotations; without one it may be anything.

    :raises UnusableError: it cannot be a handler.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
        names = _names(_innermost(function))
    except Exception as error:  # From Python 3.14 on, annotations are code that runs only now.
        raise UnusableError(f"its signature cannot be read ({_named(error)})") from error
    annotations = {parameter.name: _annotation(parameter, names) for parameter in parameters}
    context = _context(annotations)
    given = [parameter for parameter in parameters if parameter.name != context]
    defaults = {p.name: p.default for p in given if p.default is not p.empty}
    fields = Fields()
    for parameter in given:
        fields.shapes[parameter.name] = _shape(parameter, annotations[parameter.name])
    fields.required = [name for name in fields.shapes if name not in defaults]
    try:
        schema = _schema({name: annotations[name] for name in fields.shapes}, defaults, fields)
        encode(schema)
    except Exception as error:  # Two types of one name (msgspec < 0.23); an example that is no JSON.
        raise UnusableError(f"its input cannot be described ({_named(error)})") from error
    classes = [cls for name in fields.shapes for cls in classes_of(annotations[name])]
    return Input(context, schema, fields, classes)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {in_a_line(error)}"


def called(function: Any) -> Any:
    """The function that a call of it runs: behind partials, and the ``__call__`` of an object."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _innermost(function: Any) -> Any:
    """The function that was written, behind decorators too."""
    while (inner := called(inspect.unwrap(function))) is not function:
        function = inner
    return inner


def _names(function: Any) -> dict[str, Any]:
    """What quoted annotations may name: what the module has, and the function's own type parameters."""
    own = {parameter.__name__: parameter for parameter in getattr(function, "__type_params__", ())}
    return getattr(function, "__globals__", {}) | own


def _annotation(parameter: inspect.Parameter, names: dict[str, Any]) -> Any:
    """The annotation, with the names in it looked up that were quoted."""
    name = parameter.name
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise UnusableError(f"parameter '{name}' is positional-only; the fields of an input have names")
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        raise UnusableError(f"parameter '{stars}{name}' takes any number of values; name each of them")
    if parameter.annotation is parameter.empty:
        if name == "context":
            raise UnusableError("parameter 'context' has no annotation: Context, or what its input is")
        return Any
    holder = SimpleNamespace(__annotations__={name: parameter.annotation})
    try:
        return unaliased(get_type_hints(holder, names, include_extras=True)[name])
    except Exception as error:  # It is code, and may raise anything.
        hint = "; import it outside of TYPE_CHECKING too" if isinstance(error, NameError) else ""
        raise _unusable(parameter, f"cannot be resolved: {error}{hint}") from error


def _context(annotations: Mapping[str, Any]) -> str | None:
    found = [name for name, annotation in annotations.items() if _is_context(annotation)]
    if len(found) > 1:
        raise UnusableError(f"parameters '{found[0]}' and '{found[1]}' are both annotated Context")
    return found[0] if found else None


def _is_context(annotation: Any) -> bool:
    with suppress(TypeError):
        annotation = unaliased(annotation)
    if get_origin(annotation) is Annotated:
        return _is_context(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        others = [one for one in get_args(annotation) if one is not NoneType]
        return len(others) == 1 and _is_context(others[0])
    return annotation is Context


def _shape(parameter: inspect.Parameter, annotation: Any) -> Shape:
    try:
        shape = shape_of(annotation)
        _schemas([annotation])
    except Exception as error:  # A TypeError from msgspec, or anything from a type's own code.
        raise _unusable(parameter, f"cannot be checked: {error}") from error
    return shape


def _unusable(parameter: inspect.Parameter, why: str) -> UnusableError:
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return UnusableError(f"the annotation of parameter '{parameter.name}', {text}, {' '.join(why.split())}")


def _schema(annotations: Mapping[str, Any], defaults: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    schemas, components = _schemas(annotations.values())
    properties = dict(zip(annotations, schemas, strict=True))
    for name, default in defaults.items():
        # One that is no JSON, such as a sentinel or an infinite number, or could not be sent, is not shown.
        with suppress(TypeError, ValueError, RecursionError, ValidationError):
            value = _json(default)
            _argument(name, fields.shapes[name], value)
            properties[name]["default"] = value
    schema = {
        "type": "object",
        "properties": properties,
        "required": [name for name in annotations if name not in defaults],
        "additionalProperties": False,
    }
    return {**schema, "$defs": components} if components else schema


def _json(default: Any) -> Any:
    value = to_builtins(default, str_keys=True)
    dump(value).encode()
    return value


def _schemas(annotations: Collection[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    some = [found for annotation in annotations for found in not_given(annotation)]
    described = [*annotations, *[cls for cls, _ in some]]
    schemas, components = json.schema_components(described, schema_hook=_object)
    for (_, fields), schema in zip(some, schemas[len(annotations) :], strict=True):
        for field in fields:
            components[schema["$ref"].rpartition("/")[2]]["properties"].pop(field, None)
    for component in components.values():
        if "properties" in component:
            component["additionalProperties"] = False
        elif "prefixItems" in component:
            component["maxItems"] = len(component["prefixItems"])
    for schema in (*schemas, *components.values()):
        _mend(schema)
    return schemas[: len(annotations)], components


def _mend(schema: Any) -> None:
    """What msgspec says otherwise than we, or otherwise than JSON Schema has it."""
    if isinstance(schema, dict):
        if schema.get("format") == "decimal":  # in JSON they may be written as either
            schema["type"] = ["string", "number"]
        if schema.get("prefixItems") == []:  # of a tuple without items; there has to be one in it
            del schema["prefixItems"]
        if isinstance(default := schema.get("default"), float) and not isfinite(default):
            del schema["default"]
        for part in schema.values():
            _mend(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _mend(part)


def _object(_: type) -> dict[str, Any]:
    """What is said of ``object``, the only class that msgspec does not know and `shape_of` takes."""
    return {"type": ["object", "array", "string", "number", "boolean", "null"]}
