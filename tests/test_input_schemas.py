"""A signature as a JSON Schema."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

from jsonschema import Draft202012Validator
from msgspec import Meta
from twisted.trial.unittest import SynchronousTestCase

from asynctask import wire
from asynctask.context import Context
from asynctask.inputs import read_signature
from tests.signatures import EVERYTHING, Point, Width, details


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

    def test_a_default_that_could_not_be_sent_is_not_shown(self) -> None:
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
            f: int = None,  # type: ignore[assignment]  # noqa: RUF013
        ) -> None: ...

        taken = read_signature(handler)
        properties = taken.schema["properties"]
        self.assertEqual(properties["a"], {})
        for name in "bdf":
            self.assertNotIn("default", properties[name])
        self.assertNotIn("default", taken.schema["$defs"]["Limits"]["properties"]["most"])
        self.assertEqual(wire.dump(properties["c"]["default"]), "[1,0]")
        self.assertEqual(taken.schema["required"], [])
        self.assertEqual(taken.arguments({}), {})  # the function has them
