"""What clients send: bodies, strictly read, and how their faults are named."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask import wire
from asynctask.model import Status, Submission, Task
from asynctask.problems import FieldError, Invalid
from tests.json_bodies import (
    FIELDS,
    KINDS,
    MOMENT,
    NOT_JSON,
    TASK_ID,
    WireTestCase,
    anything,
    bodies,
    deep,
    encodable,
    no_json,
    objects,
    parse_submission,
    sound_fields,
    sound_values,
)


class StrictJson(WireTestCase):
    """What counts as JSON."""

    @given(sound_values, st.booleans(), st.sampled_from([None, 2]))
    def test_what_is_written_is_read(self, value: Any, ascii_only: bool, indent: int | None) -> None:
        body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
        self.assertEqual(wire.parse_json(body), value)

    @given(no_json)
    def test_what_is_no_json_is_refused_wherever_it_stands(self, text: str) -> None:
        refusal = self.refusal(wire.parse_json, text.encode())
        self.assertEqual(refusal.detail, "Invalid JSON")
        [error] = refusal.errors
        self.assertEqual(error.pointer, "")
        self.assertNotIn(error.detail, ("", "Invalid JSON"))

    def test_each_thing_that_is_no_json_is_refused(self) -> None:
        for text in NOT_JSON:
            self.refusal(wire.parse_json, text.encode())
            self.refusal(wire.parse_json, f'{{"a": [{text}, 1]}}'.encode())

    def test_another_encoding_is_refused(self) -> None:
        for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"):
            self.refusal(wire.parse_json, '"ü"'.encode(encoding))

    def test_overlong_and_surrogate_bytes_are_refused(self) -> None:
        for inside in (b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xc3"):
            self.refusal(wire.parse_json, b'"' + inside + b'"')

    def test_trailing_bytes_are_refused(self) -> None:
        for trailing in (b"x", b"{}", b",", b"\0", b"\x0b", b"]"):
            self.refusal(wire.parse_json, b'{"name": "a"}' + trailing)

    def test_white_space_around_is_allowed(self) -> None:
        self.assertEqual(wire.parse_json(b" \t\r\n[1] \n"), [1])

    def test_nesting_of_64_is_allowed(self) -> None:
        found = wire.parse_json(deep(64))
        for _ in range(63):
            [found] = found
        self.assertEqual(found, [])
        self.assertEqual(list(wire.parse_json(deep(64, '{"a":', "}", "1"))), ["a"])

    def test_deeper_nesting_is_refused(self) -> None:
        for depth in (65, 900, 1_100, 100_000):
            self.refusal(wire.parse_json, deep(depth))
            self.refusal(wire.parse_json, deep(depth, '{"a":', "}", "1"))

    def test_a_pair_of_surrogates_is_one_character(self) -> None:
        self.assertEqual(wire.parse_json(b'"\\ud83d\\ude00"'), "\N{GRINNING FACE}")

    def test_the_largest_double_is_a_number(self) -> None:
        self.assertEqual(
            wire.parse_json(b"[1.7976931348623157e308, -1e308]"), [1.7976931348623157e308, -1e308]
        )
        self.assertEqual(wire.parse_json(b"1" + b"0" * 308), 10**308)

    def test_the_same_key_in_two_objects_is_allowed(self) -> None:
        self.assertEqual(wire.parse_json(b'{"a": {"a": 1}}'), {"a": {"a": 1}})

    def test_a_nul_character_is_for_its_field_to_refuse(self) -> None:
        self.assertEqual(wire.parse_json(b'"\\u0000"'), "\0")


class EveryBody(WireTestCase):
    """A body becomes a task or a 400, never anything else."""

    @given(bodies)
    def test_a_body_is_a_submission_or_invalid(self, body: bytes) -> None:
        try:
            new = parse_submission(body, KINDS)
        except Invalid as refusal:
            self.check_refusal(refusal)
        else:
            self.check_submission(new)

    def check_refusal(self, refusal: Invalid) -> None:
        self.assertIn(refusal.detail, ("Invalid JSON", refusal.errors[0].detail))
        for error in refusal.errors:
            self.assertTrue(error.detail)
            self.assertRegex(error.pointer, r"\A(/([^~/]|~[01])*)?\Z")
        told = wire.parse_json(wire.problem_json(refusal))
        self.assertEqual(len(told["errors"]), len(refusal.errors))

    def check_submission(self, new: Submission) -> None:
        self.assertTrue(1 <= len(new.name) <= 255)
        self.assertNotIn("\0", new.name)
        self.assertIn(new.kind, KINDS)
        self.assertTrue(0 <= new.delay <= 31_536_000)
        given = wire.parse_json(new.input.encode())
        self.assertIs(type(given["duration"]), int)
        self.assertTrue(0 <= given["duration"] <= 86_400)
        task = Task(TASK_ID, new.name, new.kind, Status.ACCEPTED, 0, MOMENT, MOMENT, input=new.input)
        self.assertEqual(wire.parse_json(bytes(wire.task_json(task, whole=True)))["name"], new.name)

    @given(sound_fields, st.booleans())
    def test_a_sound_body_is_taken_as_it_is_meant(self, fields: dict[str, Any], ascii_only: bool) -> None:
        new = parse_submission(json.dumps(fields, ensure_ascii=ascii_only).encode(), KINDS)
        meant = {key: value for key, value in fields.items() if value is not None}
        self.assertEqual(new.name, meant["name"])
        self.assertEqual(new.kind, "simulate")
        self.assertEqual(new.delay, meant.get("delay", 0))
        self.assertEqual(json.loads(new.input), {"duration": int(meant.get("duration", 3))})

    @given(objects(encodable, sound_values), st.none() | st.just("") | st.integers() | st.lists(st.text()))
    def test_without_a_name_the_error_is_about_the_name(self, fields: dict[str, Any], name: Any) -> None:
        refusal = self.refusal(parse_submission, json.dumps(fields | {"name": name}).encode(), KINDS)
        self.assertEqual(refusal.detail, "Field 'name' is required (non-empty string)")
        self.assertEqual(refusal.errors[0].pointer, "/name")

    @given(objects(encodable, sound_values))
    def test_every_unknown_field_has_its_pointer_once(self, fields: dict[str, Any]) -> None:
        fields |= {"duration": "unsound"}
        refusal = self.refusal(parse_submission, json.dumps(fields).encode(), KINDS)
        told = [error.pointer for error in refusal.errors]
        self.assertEqual(len(told), len(set(told)))
        unknown = {wire.pointer(field) for field in fields if field not in FIELDS}
        self.assertEqual(set(told) - {wire.pointer(field) for field in FIELDS}, unknown)


class Bodies(WireTestCase):
    """What the body of a POST may hold."""

    def test_a_name_is_enough(self) -> None:
        self.assertEqual(
            parse_submission(b'{"name": "generate-report"}', KINDS),
            Submission("generate-report", "simulate", '{"duration":3}', 0),
        )

    def test_every_field_is_read(self) -> None:
        body = b'{"name": "a", "duration": 5, "kind": "simulate", "delay": 1.5}'
        self.assertEqual(parse_submission(body, KINDS), Submission("a", "simulate", '{"duration":5}', 1.5))

    def test_null_stands_for_not_given(self) -> None:
        self.assertEqual(self.submission(duration=None, kind=None, delay=None), self.submission())

    def test_another_value_than_an_object_is_refused(self) -> None:
        for body in (b"[]", b'[{"name": "a"}]', b'"a"', b"1", b"null", b"true"):
            refusal = self.refusal(parse_submission, body, KINDS)
            self.assertEqual(refusal.detail, "The body must be a JSON object")
            self.assertEqual(refusal.errors, (FieldError("The body must be a JSON object", ""),))

    def test_an_empty_body_is_no_json(self) -> None:
        refusal = self.refusal(parse_submission, b"", KINDS)
        self.assertEqual(refusal.detail, "Invalid JSON")
        self.assertEqual(refusal.errors, (FieldError("The body is empty", ""),))

    def test_a_name_is_required(self) -> None:
        for body in (b"{}", b'{"name": null}', b'{"name": ""}', b'{"name": 5}', b'{"name": ["a"]}'):
            refusal = self.refusal(parse_submission, body, KINDS)
            required = "Field 'name' is required (non-empty string)"
            self.assertEqual(refusal.errors, (FieldError(required, "/name"),))

    def test_the_name_comes_first_whatever_else_is_wrong(self) -> None:
        body = b'{"x": 1, "delay": -1, "kind": "y", "duration": "5", "name": ""}'
        refusal = self.refusal(parse_submission, body, KINDS)
        self.assertEqual(refusal.detail, "Field 'name' is required (non-empty string)")
        self.assertEqual(
            sorted(error.pointer for error in refusal.errors),
            ["/delay", "/duration", "/kind", "/name", "/x"],
        )

    def test_a_name_has_at_most_255_characters(self) -> None:
        self.assertEqual(self.submission(name="ü" * 255).name, "ü" * 255)
        self.assertEqual(len(self.submission(name="\N{GRINNING FACE}" * 255).name), 255)
        self.assertIn("255", self.errors(name="a" * 256)["/name"])

    def test_a_nul_character_is_an_error_of_its_field(self) -> None:
        self.assertIn("NUL", self.errors(name="a\0")["/name"])
        self.assertIn("NUL", self.errors(kind="simulate\0")["/kind"])

    def test_a_name_of_white_space_is_a_name(self) -> None:
        self.assertEqual(self.submission(name=" \n").name, " \n")

    def test_an_integer_is_what_json_schema_calls_one(self) -> None:
        for value in (5, 5.0, 0.5e1):
            self.assertEqual(self.duration(duration=value), 5)
        self.assertEqual(self.duration(duration=-0.0), 0)

    def test_a_duration_is_an_integer_and_nothing_else(self) -> None:
        wrong: list[Any] = [True, False, "5", 5.5, [5], {"seconds": 5}]
        for value in wrong:
            self.assertEqual(
                self.errors(duration=value),
                {"/duration": "Field 'duration' must be an integer from 0 to 86400"},
            )

    def test_a_duration_is_from_nothing_to_a_day(self) -> None:
        self.assertEqual(self.duration(duration=0), 0)
        self.assertEqual(self.duration(duration=86_400), 86_400)
        for value in (-1, 86_401, 10**300, 1e308):
            self.assertIn("86400", self.errors(duration=value)["/duration"])

    def test_a_delay_is_a_number_and_nothing_else(self) -> None:
        wrong: list[Any] = [True, "1", [], {}]
        for value in wrong:
            self.assertIn("must be a number", self.errors(delay=value)["/delay"])

    def test_a_delay_is_from_nothing_to_a_year(self) -> None:
        for value in (0, 0.25, 31_536_000):
            self.assertEqual(self.submission(delay=value).delay, value)
        for value in (-0.001, 31_536_000.001, 10**300, -1e308):
            self.assertIn("31536000", self.errors(delay=value)["/delay"])

    def test_an_unknown_field_is_named(self) -> None:
        self.assertEqual(self.errors(colour=1), {"/colour": "Unknown field 'colour'"})

    def test_an_unknown_field_is_told_which_one_it_resembles(self) -> None:
        self.assertEqual(
            self.errors(duratoin=5), {"/duratoin": "Unknown field 'duratoin'; did you mean 'duration'?"}
        )
        self.assertIn("did you mean 'name'?", self.errors(Name="a")["/Name"])

    def test_every_unknown_field_is_named(self) -> None:
        given = {f"durations{number}": number for number in range(100)}
        self.assertEqual(list(self.errors(**given)), [f"/{field}" for field in given])

    def test_an_unknown_field_is_told_short_and_printable(self) -> None:
        self.assertEqual(
            self.errors(**{"x\0\n": 1, "y" * 1000: 1}),
            {"/x\0\n": "Unknown field 'x??'", "/" + "y" * 1000: f"Unknown field '{'y' * 60}…'"},
        )

    def test_an_unknown_kind_is_told_which_one_it_resembles(self) -> None:
        self.assertEqual(
            self.errors(kind="resize_image"),
            {"/kind": "Unknown kind 'resize_image'; did you mean 'resize-image'?"},
        )
        self.assertEqual(self.errors(kind=""), {"/kind": "Unknown kind ''"})

    def test_a_kind_is_a_string(self) -> None:
        self.assertEqual(self.errors(kind=5), {"/kind": "Field 'kind' must be a string"})

    def test_every_bad_field_is_named(self) -> None:
        self.assertEqual(
            set(self.errors(duration="5", delay=-1, kind="x", y=1)), {"/duration", "/delay", "/kind", "/y"}
        )


class Pointers(SynchronousTestCase):
    """JSON pointers, as RFC 6901 has them."""

    def test_a_pointer_names_every_step(self) -> None:
        self.assertEqual(wire.pointer("input", "width"), "/input/width")
        self.assertEqual(wire.pointer(3, "name"), "/3/name")

    def test_the_whole_body_has_the_empty_pointer(self) -> None:
        self.assertEqual(wire.pointer(), "")

    def test_an_empty_key_has_a_pointer(self) -> None:
        self.assertEqual(wire.pointer(""), "/")

    @given(st.lists(st.text(st.sampled_from("~01/a"), max_size=4), max_size=4))
    def test_a_pointer_leads_back_to_its_keys(self, path: list[str]) -> None:
        _, *steps = wire.pointer(*path).split("/")
        self.assertEqual([step.replace("~1", "/").replace("~0", "~") for step in steps], path)


class ShownText(SynchronousTestCase):
    """A client's own text in an error."""

    def test_plain_text_is_shown_as_it_is(self) -> None:
        self.assertEqual(wire.shown("Größe 5"), "Größe 5")

    def test_what_cannot_be_printed_is_a_question_mark(self) -> None:
        self.assertEqual(wire.shown("a\x1b[1m\r\n\ud800\u202eb"), "a?[1m????b")

    def test_sixty_characters_are_shown(self) -> None:
        self.assertEqual(wire.shown("a" * 60), "a" * 60)
        self.assertEqual(wire.shown("a" * 61), "a" * 60 + "…")

    @given(st.text(anything, max_size=100))
    def test_any_text_is_short_and_printable(self, text: str) -> None:
        shown = wire.shown(text)
        self.assertTrue(shown.isprintable())
        self.assertLessEqual(len(shown), 61)
