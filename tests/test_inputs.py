"""What a handler takes, by its signature."""

import inspect
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypedDict, TypeVar
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import Meta, Raw, Struct, ValidationError, defstruct
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase

from asynctask import wire
from asynctask.context import Context
from asynctask.inputs import Input, UnusableError, read_signature
from asynctask.shapes import _alike

T = TypeVar("T")

Width = Annotated[int, Meta(ge=1, le=4096)]


@dataclass
class Node:
    """A dataclass that contains itself."""

    name: str
    size: int = 1
    children: "list[Node]" = field(default_factory=list)


@dataclass
class Span:
    """A dataclass with a rule of its own."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"{self.first} comes after {self.last}")
        if self.first == 13:
            raise RuntimeError("a bug")


class Options(TypedDict):
    """A TypedDict."""

    depth: int
    label: NotRequired[str]


class Point(NamedTuple):
    """A NamedTuple, which is an array in JSON."""

    x: int
    y: int = 0


class Pair(Struct, array_like=True):
    """A Struct that is an array in JSON."""

    left: int
    right: int = 0


class Circle(Struct, tag="circle"):
    """One of two Structs that a field tells apart."""

    radius: int


class Square(Struct, tag="square", rename="camel"):
    """The other one, with another name for its field."""

    side_length: float = 1.0


class Left(Struct, tag="left", array_like=True):
    """One of two Structs that the first item of an array tells apart."""


class Right(Struct, tag="right", array_like=True):
    """The other one."""


class Frozen(Struct, Generic[T], frozen=True):
    """A Struct that may be in a set."""

    value: T


class Hashed(Struct):
    """One that says itself how."""

    key: int

    def __hash__(self) -> int:
        return self.key


@dataclass
class Cached:
    """A dataclass that keeps something to itself."""

    key: int
    cache: dict[str, int] = field(init=False, default_factory=dict)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(Enum):
    LOW = 1
    HIGH = 2


def everything(  # type: ignore[no-untyped-def]
    url: Annotated[str, Meta(min_length=1, max_length=5, pattern="^a")],
    width: Width = 200,
    *,
    ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.5,
    node: Node | None = None,
    spans: tuple[Span, ...] = (),
    options: Optional[Options] = None,  # noqa: UP045 - users write it
    point: Point = Point(1),  # noqa: B008 - it is immutable
    pair: Pair | None = None,
    figure: Circle | Square | int | None = None,
    counts: Annotated[dict[Annotated[str, Meta(max_length=3)], int], Meta(max_length=2)] | None = None,
    by_number: dict[int, list[Width]] | None = None,
    chosen: Annotated[set[int], Meta(min_length=1)] | None = None,
    row: tuple[int, str] | None = None,
    at: datetime | None = None,
    price: Decimal | None = None,
    key: UUID | None = None,
    colour: Colour | Level = Colour.RED,
    mode: Literal["a", "b", 3] = "a",
    data: bytes = b"",
    words: Annotated[Sequence[str], Meta(max_length=2)] = (),
    other: object = None,
    loose=None,
    context: Context,
) -> None: ...


EVERYTHING = read_signature(everything)


def details(taken: Input, value: dict[str, Any]) -> list[str]:
    """What is wrong with an input, in the order in which it is told."""
    return [error.detail for error in taken.check(value)[1]]


def pointers(taken: Input, value: dict[str, Any]) -> list[str]:
    return [error.pointer for error in taken.check(value)[1]]


def taking(annotation: Any) -> Input:
    """What a handler takes that is given one value."""

    def handler(x: Any) -> None: ...

    handler.__annotations__["x"] = annotation
    return read_signature(handler)


def arguments(taken: Input, value: dict[str, Any]) -> dict[str, Any]:
    """What the handler gets for an input in which nothing is wrong."""
    stored, errors = taken.check(value)
    assert errors == []
    return taken.arguments(stored)


UNHASHABLE: Any = (dict, list[int], bytearray, Span, Circle)
NO_KEYS: Any = (bool, None, bool | None)


class Signatures(SynchronousTestCase):
    """Which functions can be handlers."""

    def refused(self, function: Callable[..., Any], sentence: str) -> None:
        error = self.assertRaises(UnusableError, read_signature, function)
        self.assertIn(sentence, str(error))
        self.assertNotIn("\n", str(error))

    def test_nothing_may_be_asked_for(self) -> None:
        def handler() -> None: ...

        taken = read_signature(handler)
        self.assertEqual((taken.context, taken.check({}), taken.arguments({})), (None, ({}, []), {}))
        self.assertEqual(details(taken, {"a": 1}), ["Unknown field 'a'"])

    def test_a_parameter_without_annotation_may_be_anything(self) -> None:
        def handler(x, y=2): ...  # type: ignore[no-untyped-def]

        taken = read_signature(handler)
        value = {"x": {"deep": [1.0, None, True]}}
        self.assertEqual(taken.check(value), (value, []))
        self.assertEqual(arguments(taken, value), value)

    def test_the_context_is_found_by_its_annotation(self) -> None:
        def plain(a: int, ctx: Context) -> None: ...
        def optional(a: int, ctx: Context | None = None) -> None: ...
        def old(a: int, ctx: Optional[Context] = None) -> None: ...  # noqa: UP045 - users write it
        def quoted(ctx: "Context", a: int) -> None: ...
        def quoted_within(ctx: Optional["Context"], a: int) -> None: ...
        def annotated(ctx: Annotated[Context, "ours"], a: int) -> None: ...

        for handler in (plain, optional, old, quoted, quoted_within, annotated):
            taken = read_signature(handler)
            self.assertEqual(taken.context, "ctx", handler)
            self.assertEqual(list(taken.schema["properties"]), ["a"], handler)
            self.assertEqual(arguments(taken, {"a": 1}), {"a": 1}, handler)

    def test_the_context_cannot_be_sent(self) -> None:
        def handler(context: Context) -> None: ...

        self.assertEqual(details(read_signature(handler), {"context": 1}), ["Unknown field 'context'"])

    def test_the_name_alone_makes_no_context(self) -> None:
        def handler(context: str) -> None: ...

        self.assertIsNone(read_signature(handler).context)

    def test_one_context_is_enough(self) -> None:
        def handler(a: Context, b: Context | None = None) -> None: ...

        self.refused(handler, "parameters 'a' and 'b' are both annotated Context")

    def test_a_decorated_function_is_looked_through(self) -> None:
        @inlineCallbacks
        def handler(context: Context, n: Width) -> Generator[Deferred[None], None, None]:
            yield Deferred()

        taken = read_signature(handler)
        self.assertEqual(taken.context, "context")
        self.assertEqual(pointers(taken, {"n": 0}), ["/input/n"])

    def test_a_method_is_read_without_its_object(self) -> None:
        class Handler:
            def handle(self, n: int) -> None: ...

        self.assertEqual(list(read_signature(Handler().handle).schema["properties"]), ["n"])
        self.assertEqual(list(read_signature(Handler.handle).schema["properties"]), ["self", "n"])

    def test_names_that_msgspec_has_itself_are_like_any_other(self) -> None:
        def handler(self: int, __struct_fields__: int, __init__: int = 3, value: int = 4) -> None: ...

        taken = read_signature(handler)
        self.assertEqual(
            arguments(taken, {"self": 1.0, "__struct_fields__": 2}),
            {"self": 1, "__struct_fields__": 2},
        )

    def test_a_positional_only_parameter_is_refused(self) -> None:
        def handler(x: int, /) -> None: ...

        self.refused(handler, "parameter 'x' is positional-only")

    def test_any_number_of_parameters_is_refused(self) -> None:
        def positions(*args: int) -> None: ...
        def names(**options: int) -> None: ...

        self.refused(positions, "parameter '*args' takes any number of values")
        self.refused(names, "parameter '**options' takes any number of values")

    def test_an_annotation_that_cannot_be_resolved_is_named(self) -> None:
        def missing(x: "list[Missing]") -> None: ...  # type: ignore[name-defined]  # noqa: F821
        def wrong(x: "1+") -> None: ...  # type: ignore[valid-type]  # noqa: F722

        self.refused(missing, "the annotation of parameter 'x', list[Missing], cannot be resolved: name")
        self.refused(wrong, "the annotation of parameter 'x', 1+, cannot be resolved")

    def test_an_annotation_that_json_cannot_meet_is_named(self) -> None:
        def path(x: Path) -> None: ...
        def deep(x: list[complex]) -> None: ...
        def raw(x: Raw) -> None: ...
        def keys(x: dict[tuple[int, int], int]) -> None: ...
        def records(x: dict[Node, int]) -> None: ...
        def context(x: list[Context]) -> None: ...
        def untagged(x: Node | Span) -> None: ...
        def arrays(x: Pair | list[int]) -> None: ...
        def tagged_arrays(x: Left | Right) -> None: ...
        def constraint(x: Annotated[str, Meta(ge=1)]) -> None: ...

        unmet = (path, deep, raw, keys, records, context, untagged, arrays, tagged_arrays, constraint)
        for handler in unmet:
            [parameter] = inspect.signature(handler).parameters.values()
            text = inspect.formatannotation(parameter.annotation)
            self.refused(handler, f"the annotation of parameter 'x', {text}, cannot be checked: ")

    def test_a_union_that_msgspec_cannot_hold_is_refused_before_it_is_compiled(self) -> None:
        sku = Annotated[str, Meta(pattern="^[A-Z]{2}$")]
        some = Annotated[int, Meta(ge=1)]
        few = Annotated[dict[str, int], Meta(max_length=2)]

        @dataclass
        class Holder:
            """One of them is deep inside."""

            side: "list[some | tuple[int, int]]"

        Holder.__annotations__["side"] = list[some | tuple[int, int]]
        pattern = "a string with a pattern cannot be in one union with an array or an object"
        limits = "a tuple of a fixed length and a type with limits cannot be in one union"
        for annotation, why in (
            *((sku | other, pattern) for other in (list[sku], tuple[int, ...], set[int], dict[str, int])),
            *(
                (other | tuple[int, int], limits)
                for other in (some, few, Annotated[str, Meta(min_length=1)])
            ),
            (Holder, limits),
            (dict[str, Holder] | None, limits),
        ):

            def look_up(article: Any) -> None:
                """Take one of two."""

            look_up.__annotations__["article"] = annotation
            with self.assertRaisesRegex(UnusableError, why):
                read_signature(look_up)
        sound: Any = (sku | int, sku | None, some | list[int], str | tuple[int, int], list[sku])
        for annotation in sound:
            look_up.__annotations__["article"] = annotation
            read_signature(look_up)

    def test_what_no_value_would_ever_fit_is_refused(self) -> None:
        @dataclass
        class Measured:
            """Makes one of its fields itself."""

            low: int
            length: int = field(init=False)

        for annotation, why in (
            *((GenericAlias(set, (item,)), "have to be hashable") for item in UNHASHABLE),
            (frozenset[tuple[list[int], int]], "have to be hashable"),
            *((GenericAlias(dict, (key, int)), "the keys of an object are strings") for key in NO_KEYS),
            (Measured, "field 'length' of Measured is none that can be given"),
            (list[Measured], "field 'length' of Measured"),
        ):

            def take(value: Any) -> None:
                """Take it."""

            take.__annotations__["value"] = annotation
            with self.assertRaisesRegex(UnusableError, why):
                read_signature(take)
        sound: Any = (
            *(
                set[tuple[int, str]],
                set[Colour],
                frozenset[int | str],
                set[int | list[int]],
                set[Frozen[int]],
            ),
            *(set[Hashed], dict[int, int], dict[str | None, int], dict[bool | str, int], Cached),
        )
        for annotation in sound:
            take.__annotations__["value"] = annotation
            read_signature(take)
        self.assertEqual(read_signature(take).arguments({"value": {"key": 2}}), {"value": Cached(2)})

    def test_types_that_cannot_be_described_together_are_an_error_of_the_handler(self) -> None:
        first, second = (defstruct("Row", [(name, int)]) for name in "ab")

        def copy(source: Any, target: Any) -> None:
            """Take two types of one name."""

        copy.__annotations__ |= {"source": first, "target": second}
        with self.assertRaisesRegex(UnusableError, r"its input cannot be described \(KeyError: .*Row"):
            read_signature(copy)

        def paint(colour: Annotated[str, Meta(examples=[Colour])]) -> None:
            """Have an example that is no JSON."""

        with self.assertRaisesRegex(UnusableError, r"its input cannot be described \(TypeError: "):
            read_signature(paint)

    def test_what_has_no_signature_is_refused(self) -> None:
        self.refused(int, "its signature cannot be read")
        self.refused(5, "its signature cannot be read")  # type: ignore[arg-type]


class Schemas(SynchronousTestCase):
    """What a client is told of an input."""

    def test_it_is_an_object_with_the_parameters(self) -> None:
        def handler(url: str, width: Width = 200, *, context: Context) -> None: ...

        self.assertEqual(
            read_signature(handler).schema,
            {
                "type": "object",
                "properties": {
                    "url": {"type": "string"},
                    "width": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 200},
                },
                "required": ["url"],
                "additionalProperties": False,
            },
        )

    def test_a_decimal_is_a_string_or_a_number(self) -> None:
        def handler(one: Decimal, many: list[Decimal]) -> None: ...

        found = read_signature(handler)
        decimal = {"type": ["string", "number"], "format": "decimal"}
        self.assertEqual(
            found.schema["properties"], {"one": decimal, "many": {"type": "array", "items": decimal}}
        )
        value, errors = found.check({"one": 12.5, "many": ["1.10", 2]})
        self.assertEqual(errors, [])
        given = found.arguments(value)
        self.assertEqual(given, {"one": Decimal("12.5"), "many": [Decimal("1.10"), 2]})

    def test_nothing_else_is_accepted_at_any_depth(self) -> None:
        components = EVERYTHING.schema["$defs"]
        self.assertLessEqual({"Node", "Span", "Options", "Circle", "Square"}, set(components))
        for name, component in components.items():
            if component.get("type") == "object":
                self.assertIs(component["additionalProperties"], False, name)
            if component.get("type") == "array":
                self.assertEqual(component["maxItems"], 2, name)

    def test_a_tuple_without_items_has_a_sound_one(self) -> None:
        class Nothing(NamedTuple):
            """No field."""

        def handler(a: Nothing) -> None: ...

        taken = read_signature(handler)
        Draft202012Validator.check_schema(taken.schema)
        self.assertEqual(taken.check({"a": []})[1], [])
        self.assertFalse(Draft202012Validator(taken.schema).is_valid({"a": [1]}))
        self.assertEqual([error.pointer for error in taken.check({"a": [1]})[1]], ["/input/a"])

    def test_every_reference_is_within_it(self) -> None:
        text = wire.dump(EVERYTHING.schema)
        names = {part.partition('"')[0] for part in text.split('"#/$defs/')[1:]}
        self.assertLessEqual({"Node", "Point"}, names)
        self.assertLessEqual(names, set(EVERYTHING.schema["$defs"]))

    def test_a_parameter_may_be_described(self) -> None:
        def handler(x: Annotated[int, Meta(ge=0, description="How many")]) -> None: ...

        taken = read_signature(handler)
        self.assertEqual(
            taken.schema["properties"]["x"], {"type": "integer", "minimum": 0, "description": "How many"}
        )
        self.assertEqual(details(taken, {"x": -1}), ["Field 'input.x' must be an integer of at least 0"])

    def test_a_default_that_is_no_json_is_not_shown(self) -> None:
        nothing = object()

        @dataclass
        class Limits:
            """With no limit."""

            most: float = float("inf")

        def handler(
            a: Any = nothing,
            b: float = float("inf"),
            c: Point = Point(1),  # noqa: B008
            d: str = "\ud800",
            e: Limits = Limits(),  # noqa: B008
        ) -> None: ...

        taken = read_signature(handler)
        properties = taken.schema["properties"]
        self.assertEqual(properties["a"], {})
        for name in "bd":
            self.assertNotIn("default", properties[name])
        self.assertNotIn("default", taken.schema["$defs"]["Limits"]["properties"]["most"])
        self.assertEqual(wire.dump(properties["c"]["default"]), "[1,0]")
        self.assertEqual(taken.schema["required"], [])
        self.assertEqual(taken.arguments({}), {})  # the function has them


class Errors(SynchronousTestCase):
    """What is told of a bad input."""

    def test_every_bad_field_is_told_at_once(self) -> None:
        value: dict[str, Any] = {
            "widht": 1,
            "width": 0,
            "node": {"name": 5, "sice": 1, "children": [{"size": "x"}, 7]},
            "spans": [{"first": 2, "last": 1}, {"first": 1, "last": 2}],
            "options": {"label": None, "other": 1},
            "point": [1, "a", 3],
            "figure": {"type": "square", "sideLenght": 1, "radius": 1},
            "counts": {"a": "x", "long": 1, "c": 1},
            "by_number": {"one": [1], "2": [0, 1, 5000]},
        }
        self.assertEqual(
            [(error.pointer, error.detail) for error in EVERYTHING.check(value)[1]],
            [
                ("/input/widht", "Unknown field 'widht'; did you mean 'width'?"),
                ("/input/width", "Field 'input.width' must be an integer from 1 to 4096"),
                ("/input/node/name", "Field 'input.node.name' must be a string"),
                ("/input/node/sice", "Unknown field 'sice'; did you mean 'size'?"),
                ("/input/node/children/0/size", "Field 'input.node.children.0.size' must be an integer"),
                ("/input/node/children/0/name", "Field 'input.node.children.0.name' is required"),
                ("/input/node/children/1", "Field 'input.node.children.1' must be an object"),
                ("/input/spans/0", "Field 'input.spans.0' is not valid: 2 comes after 1"),
                ("/input/options/label", "Field 'input.options.label' must be a string"),
                ("/input/options/other", "Unknown field 'other'"),
                ("/input/options/depth", "Field 'input.options.depth' is required"),
                ("/input/point/1", "Field 'input.point.1' must be an integer"),
                ("/input/point", "Field 'input.point' must be an array of 1 to 2 items"),
                ("/input/figure/sideLenght", "Unknown field 'sideLenght'; did you mean 'sideLength'?"),
                ("/input/figure/radius", "Unknown field 'radius'"),
                ("/input/counts", "Field 'input.counts' must be an object of at most 2 fields"),
                ("/input/counts/a", "Field 'input.counts.a' must be an integer"),
                (
                    "/input/counts/long",
                    "Field 'input.counts.long' must have a name that is a string of at most 3 characters",
                ),
                ("/input/by_number/one", "Field 'input.by_number.one' must have a name that is an integer"),
                ("/input/by_number/2/0", "Field 'input.by_number.2.0' must be an integer from 1 to 4096"),
                ("/input/by_number/2/2", "Field 'input.by_number.2.2' must be an integer from 1 to 4096"),
                ("/input/url", "Field 'input.url' is required"),
            ],
        )

    def test_a_field_is_told_what_it_must_be(self) -> None:
        for name, wrong, must in (
            ("url", "", "a string of 1 to 5 characters that matches '^a'"),
            ("url", "b", "a string of 1 to 5 characters that matches '^a'"),
            ("ratio", 1, "a number greater than 0 and less than 1"),
            ("node", 1, "an object or null"),
            ("figure", "x", "an object or an integer or null"),
            ("pair", [], "an array of 1 to 2 items"),
            ("chosen", [], "an array of at least 1 different item"),
            ("row", [1], "an array of 2 items"),
            ("at", "yesterday", "a date and time (RFC 3339) or null"),
            ("price", "x", "a decimal number or null"),
            ("key", "x", "a UUID or null"),
            ("colour", "green", "one of 'red', 'blue' or one of 1, 2"),
            ("mode", "c", "one of 3, 'a', 'b'"),
            ("data", "!", "a string in base64"),
            ("words", ["a", "b", "c"], "an array of at most 2 items"),
        ):
            told = details(EVERYTHING, {"url": "a", name: wrong})
            self.assertEqual(told, [f"Field 'input.{name}' must be {must}"])

    def test_bounds_are_told_in_words(self) -> None:
        def handler(
            low: Annotated[int, Meta(ge=0, lt=5)] = 0,
            high: Annotated[float, Meta(le=0.5)] = 0,
            even: Annotated[int, Meta(ge=0, le=8, multiple_of=2)] = 0,
            exact: Annotated[list[int], Meta(min_length=1, max_length=1)] | None = None,
            aware: Annotated[datetime, Meta(tz=True)] | None = None,
            naive: Annotated[datetime, Meta(tz=False)] | None = None,
            short: Annotated[bytes, Meta(max_length=1)] = b"",
            one: Literal["x"] = "x",
            some: set[int] | None = None,
        ) -> None: ...

        value = dict.fromkeys(inspect.signature(handler).parameters, "?")
        self.assertEqual(
            [detail.partition(" must be ")[2] for detail in details(read_signature(handler), value)],
            [
                "an integer of at least 0 and less than 5",
                "a number of at most 0.5",
                "an integer from 0 to 8 and a multiple of 2",
                "an array of 1 item or null",
                "a date and time (RFC 3339) with an offset or null",
                "a date and time (RFC 3339) without an offset or null",
                "a string in base64 of at most 1 byte",
                "'x'",
                "an array of different items or null",
            ],
        )

    def test_a_path_may_begin_elsewhere(self) -> None:
        [error] = EVERYTHING.check({"url": "a", "width": 0}, (3, "input"))[1]
        self.assertEqual(error.pointer, "/3/input/width")
        self.assertEqual(error.detail, "Field 'input.width' must be an integer from 1 to 4096")

    def test_null_is_a_value(self) -> None:
        self.assertEqual(pointers(EVERYTHING, {"url": None, "width": None}), ["/input/url", "/input/width"])
        self.assertEqual(details(EVERYTHING, {"url": "a", "node": None, "loose": None}), [])

    def test_one_of_several_structs_is_told_by_its_tag(self) -> None:
        for figure, pointer, detail in (
            ({}, "/input/figure/type", "Field 'input.figure.type' is required"),
            ({"type": "cube"}, "/input/figure/type", "one of 'circle', 'square'"),
            ({"type": ["circle"]}, "/input/figure/type", "one of 'circle', 'square'"),
            ({"type": "circle"}, "/input/figure/radius", "is required"),
        ):
            [error] = EVERYTHING.check({"url": "a", "figure": figure})[1]
            self.assertEqual(error.pointer, pointer)
            self.assertIn(detail, error.detail)

    def test_a_struct_alone_has_its_tag_too(self) -> None:
        def handler(figure: Circle) -> None: ...

        self.assertEqual(
            pointers(read_signature(handler), {"figure": {"radius": 1}}), ["/input/figure/type"]
        )

    def test_a_bug_in_a_type_of_the_handler_tells_the_client_nothing(self) -> None:
        value = {"url": "a", "spans": [{"first": 13, "last": 14}]}
        self.assertEqual(details(EVERYTHING, value), ["Field 'input.spans.0' is not valid"])

    def test_a_type_that_would_end_the_program_refuses_its_field(self) -> None:
        def leave() -> int:
            raise SystemExit(3)

        @dataclass
        class Code:
            number: int

            def __post_init__(self) -> None:
                leave()

        @dataclass
        class Lacking:
            number: int = field(default_factory=leave)

        def handler(code: Code | None = None, lacking: Lacking | None = None) -> None: ...

        taken = read_signature(handler)
        for name, value in (("code", {"number": 1}), ("lacking", {})):
            told = f"Field 'input.{name}' is not valid"
            self.assertEqual(details(taken, {name: value}), [told])
            error = self.assertRaises(ValidationError, taken.arguments, {name: value})
            self.assertEqual(str(error), told)

    def test_a_default_that_cannot_be_made_is_an_error_of_its_parameter(self) -> None:
        def fail() -> int:
            raise RuntimeError("a bug")

        @dataclass
        class Broken:
            n: int = field(default_factory=fail)

        def handler(x: Broken) -> None: ...

        taken = read_signature(handler)
        self.assertEqual(details(taken, {"x": {}}), ["Field 'input.x' is not valid"])
        self.assertEqual(arguments(taken, {"x": {"n": 1}}), {"x": Broken(1)})

    def test_a_set_takes_nothing_twice(self) -> None:
        self.assertEqual(pointers(EVERYTHING, {"url": "a", "chosen": [1, 2, 1.0]}), ["/input/chosen"])

    def test_what_a_set_takes_twice_is_the_same_however_it_is_written(self) -> None:
        @dataclass(frozen=True)
        class Point:
            x: int
            y: int

        def handler(sizes: set[float] | None = None, points: set[Point] | None = None) -> None: ...

        taken = read_signature(handler)
        for value in ({"sizes": [1, 1.0]}, {"points": [{"x": 1, "y": 2}, {"y": 2, "x": 1}]}):
            [name] = value
            self.assertEqual(pointers(taken, value), [f"/input/{name}"])
            self.assertFalse(Draft202012Validator(taken.schema).is_valid(value))

    def test_a_large_set_is_not_looked_at_item_by_item(self) -> None:
        def handler(x: set[str], y: frozenset[int] | None = None) -> None: ...

        taken = read_signature(handler)
        looked_at: list[object] = []

        def check(value: object, *_: object) -> object:
            looked_at.append(value)
            return value

        for name in ("x", "y"):
            item: Any = taken._fields.shapes[name].arrays.others[0]  # type: ignore[union-attr]
            self.patch(item, "check", check)
        self.assertEqual(pointers(taken, {"x": ["1", "2"], "y": [1, 2]}), [])
        self.assertEqual(looked_at, [])
        self.assertEqual(pointers(taken, {"x": ["1", "1"], "y": [1, 1]}), ["/input/x", "/input/y"])

    def test_numbers_of_a_set_are_told_apart_as_its_schema_does(self) -> None:
        def handler(x: set[int | bool | str | None]) -> None: ...

        taken = read_signature(handler)
        for value in ([1, True, "1", None, 0, False], [1, 1.0], [True, True], [None, None], [1e22, 10**22]):
            right = Draft202012Validator(taken.schema).is_valid({"x": value})
            self.assertEqual(pointers(taken, {"x": value}), [] if right else ["/input/x"], value)

    def test_a_set_takes_nothing_that_cannot_be_in_one(self) -> None:
        def handler(x: set[Any]) -> None: ...

        self.assertEqual(details(read_signature(handler), {"x": [[1]]}), ["Field 'input.x' is not valid"])

    def test_numbers_that_would_hold_a_set_or_a_dict_are_refused(self) -> None:
        @dataclass(frozen=True)
        class Only:
            n: int

        numbers = [n * (2**61 - 1) for n in range(2_000)]  # all of them have the hash 0
        texts = [*map(str, numbers)]
        uuids = [str(UUID(int=number)) for number in numbers]
        annotation: Any
        value: Any
        for annotation, value in (
            *((of, numbers) for of in (set[int], set[int | str], set[object])),
            (Annotated[frozenset[int], Meta(min_length=2)] | None, numbers),
            (set[Any], [*numbers, []]),
            (set[Decimal], texts),
            (set[UUID], uuids),
            (set[tuple[int, str]], [[number, "a"] for number in numbers]),
            (set[frozenset[int]], [[number] for number in numbers]),
            (set[Only], [{"n": number} for number in numbers]),
            *((of, dict.fromkeys(texts, 1)) for of in (dict[int, int], dict[Decimal, int])),
            (dict[Annotated[int, Meta(ge=0)], set[int]], {text: [1] for text in texts}),
            (dict[UUID, str], dict.fromkeys(uuids, "a")),
        ):
            for whole, sent, place in (
                (annotation, value, "/input/x"),
                (GenericAlias(list, (annotation,)), [value], "/input/x/0"),
            ):
                taken = taking(whole)
                [error] = taken.check({"x": sent})[1]
                self.assertEqual(error.pointer, place)
                self.assertIn("of one hash (Python's); send at most 128 of them at once", error.detail)
                refused = self.assertRaises(ValidationError, taken.arguments, {"x": sent})
                self.assertIn("of one hash", str(refused))
            few = dict([*value.items()][:128]) if isinstance(value, dict) else value[:128]
            self.assertEqual(details(taking(annotation), {"x": few}), [])

    def test_what_else_is_wrong_with_such_numbers_is_told(self) -> None:
        numbers = [n * (2**61 - 1) for n in range(2_000)]
        for annotation, value, pointer in (
            (set[int], [*numbers, "a"], "/input/x/2000"),
            (set[int], [*range(2_000), 1], "/input/x"),
            (dict[int, int], {"a": 1} | dict.fromkeys(map(str, numbers), 1), "/input/x/a"),
        ):
            [error] = taking(annotation).check({"x": value})[1]
            self.assertEqual(error.pointer, pointer)
            self.assertNotIn("hash", error.detail)

    def test_numbers_are_compared_by_what_is_salted(self) -> None:
        self.assertEqual(len({hash(_alike(n * (2**61 - 1))) for n in range(1_000)}), 1_000)

    def test_a_set_or_dict_of_many_ids_is_taken(self) -> None:
        ids = range(10**6, 10**6 + 50_000)
        self.assertEqual(arguments(taking(set[int]), {"x": [*ids]}), {"x": {*ids}})
        counts = arguments(taking(dict[int, int]), {"x": dict.fromkeys(map(str, ids), 1)})
        self.assertEqual(counts, {"x": dict.fromkeys(ids, 1)})

    def test_a_nul_is_an_error_of_its_field(self) -> None:
        value = {
            "url": "a\0",
            "colour": "\0",
            "node": {"name": "\0", "\0": 1},
            "counts": {"\0": 1},
            "words": ["a", "\0"],
            "other": {"a": ["\0"], "b\0": {"c": "\0"}, "d\0": "\0"},
        }
        errors = EVERYTHING.check(value)[1]
        self.assertEqual(
            [error.pointer for error in errors],
            [
                *("/input/url", "/input/colour", "/input/node/name", "/input/node/\0", "/input/counts/\0"),
                *("/input/words/1", "/input/other/a/0"),
                *("/input/other/b\0", "/input/other/b\0/c", "/input/other/d\0"),
            ],
        )
        for error in errors:
            self.assertNotIn("\0", error.detail)
        self.assertEqual(errors[-1].detail, "Field 'input.other.d?' must not contain a NUL character")

    def test_what_only_looks_like_a_nul_is_none(self) -> None:
        value = {"url": "a", "loose": "\\u0000", "words": ["\\u0000"]}
        self.assertEqual(EVERYTHING.check(value), (value, []))

    def test_only_some_of_many_unknown_fields_are_told_what_they_resemble(self) -> None:
        told = details(EVERYTHING, {"url": "a"} | {f"width{n}": 0 for n in range(5000)})
        self.assertEqual(len(told), 5000)
        self.assertEqual(sum("did you mean" in detail for detail in told), wire.MAX_HINTS)
        self.assertEqual(told[-1], "Unknown field 'width4999'")

    def test_what_a_client_sent_is_told_short_and_printable(self) -> None:
        key = "é\n" * 5000
        for value in ({key: 1}, {"counts": {key: "x"}}):
            for detail in details(EVERYTHING, {"url": "a"} | value):
                self.assertLess(len(detail), 200)
                self.assertTrue(detail.isprintable())

    def test_what_is_nested_too_deep_to_look_at_is_refused(self) -> None:
        deep: Any = None
        for _ in range(100_000):
            deep = [deep]
        for name in ("loose", "node"):
            self.assertEqual(len(EVERYTHING.check({"url": "a", name: deep})[1]), 1)


class Values(SynchronousTestCase):
    """What is stored, and what the handler gets."""

    def test_an_integer_is_what_json_schema_calls_one(self) -> None:
        given: dict[str, Any] = {
            "url": "a",
            "width": 5.0,
            "node": {"name": "a", "children": [{"name": "b", "size": -0.0}]},
            "point": [1.0],
            "figure": 1e3,
            "counts": {"a": 1.0, "b": 2},
            "chosen": [1.0, 2],
            "row": [1.0, "a"],
            "colour": 2.0,
            "mode": 3.0,
        }
        stored, errors = EVERYTHING.check(given)
        self.assertEqual(errors, [])
        self.assertEqual(stored, given)
        self.assertNotIn(".0", wire.dump(stored))

    def test_what_is_no_integer_is_refused(self) -> None:
        wrongs: tuple[Any, ...] = (True, 1.5, "1", [1], {}, None)
        for wrong in wrongs:
            self.assertEqual(pointers(EVERYTHING, {"url": "a", "width": wrong}), ["/input/width"], wrong)
        self.assertEqual(pointers(EVERYTHING, {"url": "a", "mode": True}), ["/input/mode"])

    def test_a_number_may_be_an_integer(self) -> None:
        def handler(x: float, y: int | float) -> None: ...

        stored, errors = read_signature(handler).check({"x": 5, "y": 5.0})
        self.assertEqual((wire.dump(stored), errors), ('{"x":5,"y":5.0}', []))

    def test_what_may_be_anything_is_stored_as_it_came(self) -> None:
        value = {"url": "a", "loose": [5.0, {"a": 1.0}], "other": 5.0}
        self.assertEqual(wire.dump(EVERYTHING.check(value)[0]), wire.dump(value))

    def test_an_integer_may_be_large(self) -> None:
        def handler(x: int, y: Annotated[int, Meta(ge=1)] = 1, z: float = 0) -> None: ...

        taken = read_signature(handler)
        for large in (2**63, 2**64, -(2**70), 10**300, 1e300):
            self.assertEqual(arguments(taken, {"x": large})["x"], large)
            self.assertEqual(pointers(taken, {"x": 1, "y": -abs(large)}), ["/input/y"])
            self.assertEqual(arguments(taken, {"x": 1, "z": large})["z"], float(large))
        self.assertEqual(pointers(taken, {"x": 1, "z": 10**400}), ["/input/z"])

    def test_defaults_are_neither_stored_nor_given(self) -> None:
        stored, errors = EVERYTHING.check({"url": "a"})
        self.assertEqual((stored, errors), ({"url": "a"}, []))
        self.assertEqual(EVERYTHING.arguments(stored), {"url": "a"})

    def test_the_handler_gets_what_its_annotations_say(self) -> None:
        given = arguments(
            EVERYTHING,
            {
                "url": "a",
                "node": {"name": "a", "children": [{"name": "b"}]},
                "spans": [{"first": 1, "last": 2}],
                "options": {"depth": 1},
                "point": [1, 2],
                "pair": [3],
                "figure": {"type": "square", "sideLength": 2},
                "by_number": {"1": [2]},
                "chosen": [1, 2],
                "row": [1, "a"],
                "at": "2026-11-24T18:00:00Z",
                "price": "1.10",
                "key": "12345678-1234-5678-1234-567812345678",
                "colour": "blue",
                "data": "AAE=",
            },
        )
        expected = {
            "node": Node("a", 1, [Node("b")]),
            "spans": (Span(1, 2),),
            "options": {"depth": 1},
            "point": Point(1, 2),
            "pair": Pair(3),
            "figure": Square(2.0),
            "by_number": {1: [2]},
            "chosen": {1, 2},
            "row": (1, "a"),
            "at": datetime(2026, 11, 24, 18, tzinfo=UTC),
            "price": Decimal("1.10"),
            "key": UUID("12345678-1234-5678-1234-567812345678"),
            "colour": Colour.BLUE,
            "data": b"\0\x01",
        }
        self.assertEqual({name: given[name] for name in expected}, expected)

    def test_what_does_not_fit_any_more_is_not_given(self) -> None:
        for stored, told in (
            ({}, "Field 'input.url' is required"),
            ({"url": "a", "gone": 1}, "Unknown field 'gone'"),
            ({"url": "a", "width": 0}, "Field 'input.width' is not valid"),
            ({"url": "a", "spans": [{"first": 13, "last": 14}]}, "Field 'input.spans.0' is not valid"),
            ({"url": "a", "node": {"name": "b", "gone": 1}}, "Unknown field 'gone'"),
            ({"url": "a", "spans": [7] * 10_001}, "Field 'input.spans.0' must be an object"),
            ({"url": "a", "width": 1.5}, "Field 'input.width' must be an integer from 1 to 4096"),
        ):
            error = self.assertRaises(ValidationError, EVERYTHING.arguments, stored)
            self.assertEqual(str(error), told)

    def test_a_whole_number_that_was_stored_as_any_is_an_integer_for_a_handler_that_asks_for_one(
        self,
    ) -> None:
        given = EVERYTHING.arguments({"url": "a", "width": 5.0})
        self.assertEqual(given, {"url": "a", "width": 5})
        self.assertIs(type(given["width"]), int)

    def test_a_decimal_is_a_number_and_nothing_else(self) -> None:
        def pay(
            amount: Decimal,
            each: list[Decimal] = [],  # noqa: B006
            by: dict[Decimal, int] = {},  # noqa: B006
            at: dict[float, int] = {},  # noqa: B006
        ) -> None:
            """Take decimals."""

        reads = read_signature(pay)
        for good in ("1", "-0.50", "1e3", "1.5E-7", 1, 1.5):
            self.assertEqual(reads.check({"amount": good, "each": [good]})[1], [], good)
        sound = {"amount": 1, "by": {"1.5": 1}, "at": {"1.5": 1, "2": 2}}
        self.assertEqual(reads.check(sound)[1], [])
        self.assertEqual(reads.arguments(sound)["at"], {1.5: 1, 2.0: 2})
        errors = reads.check(sound | {"by": {"NaN": 1}, "at": {"nan": 1, "Infinity": 2}})[1]
        self.assertEqual(
            [error.pointer for error in errors], ["/input/by/NaN", "/input/at/nan", "/input/at/Infinity"]
        )
        for bad in (
            "NaN",
            "sNaN",
            "Infinity",
            "-inf",
            " 1 ",
            "1_0",
            "",
            ".",
            "+1",
            "1.",
            "\u0661",
            True,
            None,
        ):
            errors = reads.check({"amount": bad, "each": [bad]})[1]
            self.assertEqual([error.pointer for error in errors], ["/input/amount", "/input/each/0"], bad)
            self.assertEqual(errors[0].detail, "Field 'input.amount' must be a decimal number")


NAMES = (
    *inspect.signature(everything).parameters,
    *("name", "size", "children", "first", "last", "depth", "label", "type", "radius", "sideLength"),
    *("1", "a", "\0", "widht", "long"),
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1.0, 5e3, 2**64, -(2**63) - 1, 10**400])
    | st.sampled_from(["a", "abc", "red", "circle", "square", "1.5", "AAE=", "2026-11-24T18:00:00Z"])
    | st.text(st.characters(exclude_categories=()), max_size=5)
)
keys = st.sampled_from(NAMES) | st.text(st.characters(exclude_categories=()), max_size=3)
jsons = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4)
)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
integers = st.integers() | st.integers(-(2**60), 2**60).map(float)
nodes: st.SearchStrategy[Any] = st.deferred(
    lambda: st.fixed_dictionaries(
        {"name": texts}, optional={"size": integers, "children": st.lists(nodes, max_size=2)}
    )
)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "width": st.integers(1, 4096) | st.integers(1, 4096).map(float),
    "node": nodes | st.none(),
    "spans": st.lists(st.fixed_dictionaries({"first": st.integers(0, 9), "last": st.integers(9, 15)})),
    "options": st.fixed_dictionaries({"depth": integers}, optional={"label": texts}),
    "point": st.lists(integers, min_size=1, max_size=2),
    "figure": st.fixed_dictionaries({"type": st.just("circle"), "radius": integers}) | integers,
    "counts": st.dictionaries(texts, integers, max_size=2),
    "by_number": st.dictionaries(st.integers().map(str), st.lists(st.integers(1, 9))),
    "chosen": st.lists(integers, min_size=1, unique=True),
    "row": st.tuples(integers, texts).map(list),
    "colour": st.sampled_from(["red", "blue", 1, 2.0]),
    "words": st.lists(texts, max_size=2),
}
url = {"url": st.just("a")}
good = st.fixed_dictionaries(url, optional=PARTS)
mixed = st.fixed_dictionaries(url, optional={name: part | jsons for name, part in PARTS.items()})
inputs = good | mixed | st.dictionaries(keys, jsons, max_size=6)


class Properties(SynchronousTestCase):
    """Whatever comes."""

    @given(inputs)
    def test_an_input_is_taken_or_told_what_is_wrong_with_it(self, value: dict[str, Any]) -> None:
        stored, errors = EVERYTHING.check(value)
        if not errors:
            self.assertEqual(stored, value)
            self.assertEqual(EVERYTHING.check(stored), (stored, []))
            self.assertEqual(EVERYTHING.arguments(stored)["url"], value["url"])

    @given(good)
    def test_an_input_with_nothing_wrong_is_taken(self, value: dict[str, Any]) -> None:
        given = arguments(EVERYTHING, value)
        self.assertEqual(set(given), set(value))

    @given(inputs)
    def test_every_error_points_into_the_input(self, value: dict[str, Any]) -> None:
        for error in EVERYTHING.check(value)[1]:
            parts = [part.replace("~1", "/").replace("~0", "~") for part in error.pointer.split("/")]
            self.assertEqual(parts[:2], ["", "input"])
            parent: Any = value
            for part in parts[2:-1]:
                parent = parent[int(part)] if isinstance(parent, list) else parent[part]
            self.assertIsInstance(parent, dict | list)

    @given(st.lists(nodes, min_size=1, max_size=3), st.data())
    def test_a_single_fault_is_found_wherever_it_is(self, children: list[Any], data: st.DataObject) -> None:
        root: dict[str, Any] = {"name": "root", "children": children}
        value = {"url": "a", "node": root}
        found, path = root, "/input/node"
        while found.get("children") and (path == "/input/node" or data.draw(st.booleans())):
            number = data.draw(st.integers(0, len(found["children"]) - 1))
            found, path = found["children"][number], f"{path}/children/{number}"
        fault = data.draw(st.sampled_from(["size", "name", "unknown"]))
        found[fault] = None
        self.assertEqual(pointers(EVERYTHING, value), [f"{path}/{fault}"])
