"""Signatures as inputs: what is read of them, and what a handler gets."""

import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum, IntFlag
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Raw, ValidationError, defstruct
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase

from asynctask import wire
from asynctask.context import Context
from asynctask.inputs import UnusableError, read_signature
from tests.signatures import (
    EVERYTHING,
    NO_KEYS,
    UNHASHABLE,
    Cached,
    Colour,
    Frozen,
    Hashed,
    Left,
    Node,
    Pair,
    Point,
    Right,
    Span,
    Square,
    Width,
    arguments,
    details,
    everything,
    pointers,
)


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
        def flags(x: list[IntFlag]) -> None: ...
        def untagged(x: Node | Span) -> None: ...
        def arrays(x: Pair | list[int]) -> None: ...
        def tagged_arrays(x: Left | Right) -> None: ...
        def constraint(x: Annotated[str, Meta(ge=1)]) -> None: ...

        unmet = (
            path,
            deep,
            raw,
            keys,
            records,
            context,
            flags,
            untagged,
            arrays,
            tagged_arrays,
            constraint,
        )
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

    def test_two_of_one_type_with_different_limits_are_refused(self) -> None:
        low: Any = Annotated[int, Meta(le=-1)]
        high: Any = Annotated[int, Meta(ge=1)]
        here: Any = Annotated[str, Meta(pattern="^https://")]
        there: Any = Annotated[str, Meta(pattern="^s3://")]

        def take(value: Any) -> None: ...

        for annotation in (low | high, list[low | high], here | there, dict[str, here | there | None]):
            take.__annotations__["value"] = annotation
            with self.assertRaisesRegex(UnusableError, "two of one type with different limits"):
                read_signature(take)
        for annotation in (low | low, low | here, Annotated[float, Meta(ge=1)] | low, list[low] | high):
            take.__annotations__["value"] = annotation
            read_signature(take)

    def test_what_only_a_class_sets_cannot_be_given(self) -> None:
        @dataclass
        class Order:
            item: str
            approved: bool = field(init=False, default=False)

        def take(order: Order, others: list[Order] | None = None) -> None: ...

        taken = read_signature(take)
        [described] = taken.schema["$defs"].values()
        self.assertEqual(list(described["properties"]), ["item"])
        forged = {"item": "a", "approved": True}
        found = pointers(taken, {"order": forged, "others": [forged]})
        self.assertEqual(found, ["/input/order/approved", "/input/others/0/approved"])
        self.assertEqual(arguments(taken, {"order": {"item": "a"}}), {"order": Order("a")})

    def test_rules_at_which_nobody_would_look_are_refused(self) -> None:
        @dataclass(init=False)
        class Bounded:
            """Checks itself what it is made of."""

            amount: int

        @dataclass
        class Own:
            """Checks it, too."""

            amount: int

            def __init__(self, amount: int) -> None:
                self.amount = abs(amount)

        class Below(Own):
            """Leaves that to the one above."""

        @define
        class Attrs:
            """Not made by attrs alone."""

            amount: int

            def __new__(cls, **_given: Any) -> Any:
                return super().__new__(cls)

        @dataclass
        class Pydantic:
            """As `pydantic.dataclasses` makes them."""

            amount: int

            __pydantic_validator__ = None

        def take(value: Any) -> None: ...

        without = "would be made without its own checks"
        positive: Any = Annotated
        positive = positive[int, type("Gt", (), {"__module__": "annotated_types"})()]
        for annotation, why in (
            *((one, f"{one.__name__} {without}") for one in (Bounded, Own, Below)),
            (Attrs | None, f"Attrs {without}"),
            (list[Pydantic], f"Pydantic {without}"),
            (dict[str, positive], "what annotated_types says is not looked at: take msgspec.Meta"),
        ):
            take.__annotations__["value"] = annotation
            with self.assertRaisesRegex(UnusableError, why):
                read_signature(take)
        positive = Annotated
        take.__annotations__["value"] = positive[int, "more than nothing", Meta(gt=0)]
        self.assertEqual(pointers(read_signature(take), {"value": 0}), ["/input/value"])

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
            (Measured, "field 'length' of Measured, which nobody can give .*, has no default"),
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

    def test_types_of_one_name_are_described_each_or_are_an_error_of_the_handler(self) -> None:
        first, second = (defstruct("Row", [(name, int)]) for name in "ab")

        def copy(source: Any, target: Any) -> None:
            """Take two types of one name."""

        copy.__annotations__ |= {"source": first, "target": second}
        try:
            taken = read_signature(copy)
        except UnusableError as error:  # msgspec before 0.23 cannot tell them apart.
            self.assertRegex(str(error), r"^its input cannot be described \(KeyError: .*Row")
        else:
            described = [list(row["properties"]) for row in taken.schema["$defs"].values()]
            self.assertEqual(described, [["a"], ["b"]])
            given = {"source": {"a": 1}, "target": {"b": 2}}
            self.assertEqual(taken.arguments(given), {"source": first(1), "target": second(2)})

    def test_an_example_that_is_no_json_is_an_error_of_the_handler(self) -> None:
        def paint(colour: Annotated[str, Meta(examples=[Colour])]) -> None:
            """Have an example that is no JSON."""

        with self.assertRaisesRegex(UnusableError, r"its input cannot be described \(TypeError: "):
            read_signature(paint)

    def test_what_has_no_signature_is_refused(self) -> None:
        self.refused(int, "its signature cannot be read (ValueError: ")
        self.refused(5, "its signature cannot be read (TypeError: ")  # type: ignore[arg-type]

    def test_a_signature_that_is_code_and_fails_is_refused(self) -> None:
        class Handler:
            """As a function of Python 3.14 whose annotation names what is not there."""

            @property
            def __signature__(self) -> object:
                raise NameError("name 'Decimal'\nis not defined")

            def __call__(self) -> None:
                """Do nothing."""

        why = "its signature cannot be read (NameError: name 'Decimal' is not defined)"
        self.refused(Handler(), why)


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

    def test_a_number_beside_chosen_ones_may_be_an_integer_too(self) -> None:
        exact: Any = Literal[1] | Decimal
        code: Any = IntEnum("code", "A B")
        for annotation, sent, got in (
            (float | Literal[-1], 5, 5.0),
            (float | Literal[-1], -1, -1),
            (list[Literal[0] | float], [0, 3, 2.5], [0, 3.0, 2.5]),
            (dict[str, code | float], {"a": 7}, {"a": 7.0}),
            (exact, 5, Decimal(5)),
            (exact, 1, 1),
            (exact, str(2**53 + 1), Decimal(2**53 + 1)),
        ):

            def handler(x: Any) -> None: ...

            handler.__annotations__["x"] = annotation
            self.assertEqual(arguments(read_signature(handler), {"x": sent}), {"x": got})
        handler.__annotations__["x"] = exact
        self.assertEqual(
            pointers(read_signature(handler), {"x": 2**53 + 1}), ["/input/x"]
        )  # it would be another

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
        self.flushLoggedErrors(RuntimeError)  # of the bug, unless another test had it told

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
