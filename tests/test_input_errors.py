"""What is wrong with an input, in words and by its place."""

import inspect
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import GenericAlias
from typing import Annotated, Any, Literal
from uuid import UUID

from jsonschema import Draft202012Validator
from msgspec import Meta, ValidationError
from twisted.trial.unittest import SynchronousTestCase

from asynctask import wire
from asynctask.collisions import MOST_KEYS
from asynctask.inputs import read_signature
from asynctask.shapes import _alike
from tests.signatures import EVERYTHING, Circle, Span, arguments, details, pointers, taking


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
            fives: Annotated[int, Meta(multiple_of=5)] = 0,
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
                "an integer that is a multiple of 5",
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

    def test_a_bug_in_a_type_of_the_handler_tells_the_client_nothing_and_the_log_once(self) -> None:
        def handler(spans: list[Span]) -> None: ...

        taken = read_signature(handler)
        for _ in range(3):
            value = {"spans": [{"first": 13, "last": 14}]}
            self.assertEqual(details(taken, value), ["Field 'input.spans.0' is not valid"])
        [failure] = self.flushLoggedErrors(RuntimeError)
        self.assertIn("__post_init__", failure.getTraceback())

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
            self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)

    def test_a_default_that_cannot_be_made_is_an_error_of_its_parameter(self) -> None:
        def fail() -> int:
            raise RuntimeError("a bug")

        @dataclass
        class Broken:
            n: int = field(default_factory=fail)

        def handler(x: Broken) -> None: ...

        taken = read_signature(handler)
        self.assertEqual(details(taken, {"x": {}}), ["Field 'input.x' is not valid"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
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
        most = ids[:MOST_KEYS]
        counts = arguments(taking(dict[int, int]), {"x": dict.fromkeys(map(str, most), 1)})
        self.assertEqual(counts, {"x": dict.fromkeys(most, 1)})
        texts = {"x": dict.fromkeys(map(str, ids), 1)}
        self.assertEqual(arguments(taking(dict[str, int]), texts), texts)
        more = dict.fromkeys(map(str, ids[: MOST_KEYS + 1]), 1)
        self.assertEqual(
            details(taking(dict[int, int]), {"x": more}),
            ["Field 'input.x' must have at most 10000 fields, since their names are more than plain text"],
        )

    def test_the_same_value_many_times_is_one(self) -> None:
        @dataclass(frozen=True)
        class Note:
            n: int
            text: str = field(default="", compare=False)

        notes = [{"n": number % 2, "text": str(number)} for number in range(200)]
        self.assertEqual(arguments(taking(set[Note]), {"x": notes}), {"x": {Note(0), Note(1)}})

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
        for _ in range(1_000_000):
            deep = [deep]
        for name in ("loose", "node"):
            self.assertEqual(len(EVERYTHING.check({"url": "a", name: deep})[1]), 1)
