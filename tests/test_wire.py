"""What goes over the wire: bodies, queries, ids, answers."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from asynctask import registry, wire
from asynctask.model import (
    Error,
    FieldError,
    Invalid,
    OutcomeUnknown,
    Problem,
    Progress,
    Query,
    Status,
    Submission,
    Task,
)
from asynctask.submissions import parse_one

RESIZE = replace(registry.KINDS["simulate"], name="resize-image", function=print)
KINDS = {"simulate": registry.KINDS["simulate"], "resize-image": RESIZE}


def parse_submission(body: bytes, kinds: Mapping[str, registry.Kind]) -> Submission:
    """The one task of a body."""
    (submission,) = parse_one(body, kinds).submissions
    return submission


TASK_ID = "task_17388800000002k4qz7m0a9x3c8v5t"
MOMENT = 1_795_543_200.123
SHOWN_MOMENT = "2026-11-24T18:00:00.123Z"
LATEST = 4_102_444_800_000
"""Milliseconds until the year 2100."""

anything = st.characters(exclude_categories=())
"""Any character, lone surrogates and NUL among them."""

encodable = st.characters(codec="utf-8")

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**330), 10**330)
    | st.floats()
    | st.text(anything, max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(anything, max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
sound_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(encodable, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(encodable, max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
"""What strict JSON can say."""

NOT_JSON = (
    "nul",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "9" * 310,
    "9" * 5_000,
    "01",
    "+1",
    ".5",
    "1.",
    "0x10",
    "'a'",
    '"a',
    '"\t"',
    '"\x00"',
    '"\\x41"',
    '"\\ud800"',
    '"\\udc00a"',
    '"\\udc00\\ud800"',
    '{"\\udfff": 1}',
    '{"a": 1, "a": 1}',
    '{"a": 1, "\\u0061": 2}',
    '{"a": 1,}',
    "{a: 1}",
    '{"a"}',
    "[1,]",
    "[1 2]",
    "/**/ 1",
    "\xa01",
    "\ufeff1",
)
"""Each of these is no strict JSON, wherever in a document it stands."""

AROUND = ("[$]", "[1, $]", '[[], $, "a"]', '{"a": $}', '{"a": 1, "b": $, "c": {}}', " $\r\n")
"""Sound as long as what takes the place of the ``$`` is sound."""


def nested(text: str, shells: list[str]) -> str:
    for shell in shells:
        text = shell.replace("$", text)
    return text


def deep(depth: int, opening: str = "[", closing: str = "]", inner: str = "") -> bytes:
    return (opening * depth + inner + closing * depth).encode()


no_json = st.builds(nested, st.sampled_from(NOT_JSON), st.lists(st.sampled_from(AROUND), max_size=5))

FIELDS = ("name", "duration", "kind", "delay")


def objects(
    characters: st.SearchStrategy[str], inside: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that resemble a submission."""
    return st.dictionaries(
        st.sampled_from([*FIELDS, "durations", "a/b~c", "\0"]) | st.text(characters, max_size=8),
        inside | st.sampled_from(["simulate", "resize-image", 0, 5, 5.0, 86_400, 86_401]),
        max_size=5,
    )


sound_fields = st.fixed_dictionaries(
    {"name": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=255)},
    optional={
        "duration": st.none() | st.integers(0, 86_400) | st.integers(0, 86_400).map(float),
        "kind": st.none() | st.just("simulate"),
        "delay": st.none() | st.integers(0, 31_536_000) | st.floats(0, 31_536_000),
    },
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A sound body of which a part was replaced by something else."""
    body = json.dumps(draw(sound_fields)).encode()
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, len(body)))
    return body[:start] + draw(st.binary(max_size=4)) + body[end:]


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "latin-1", "utf-7")
bodies = st.one_of(
    st.binary(max_size=100),
    values.map(lambda value: json.dumps(value).encode()),
    objects(anything, values).map(lambda value: json.dumps(value).encode()),
    sound_fields.map(lambda value: json.dumps(value, ensure_ascii=False).encode()),
    spoiled(),
    no_json.map(str.encode),
    st.builds(
        lambda value, encoding: json.dumps(value, ensure_ascii=False).encode(encoding, "replace"),
        sound_fields,
        st.sampled_from(ENCODINGS),
    ),
    st.integers(1, 50_000).map(deep),
    st.integers(1, 10_000).map(lambda depth: deep(depth, '{"name":', "}", '"a"')),
    st.integers(1, 50_000).map(lambda depth: b"[" * depth),
    st.integers(1, 6_000).map(lambda digits: b'{"name": "a", "duration": %s}' % (b"9" * digits)),
    st.integers(1, 300).map(lambda times: b'{"name": "a"%s}' % (b', "x": 1' * times)),
    st.integers(1, 300).map(lambda length: json.dumps({"name": "\N{PILE OF POO}" * length}).encode()),
)


class WireTestCase(SynchronousTestCase):
    """Says what a refusal says."""

    def refusal(self, parse: Callable[..., object], *arguments: Any) -> Invalid:
        with self.assertRaises(Invalid) as caught:
            parse(*arguments)
        refusal = caught.exception
        assert isinstance(refusal, Invalid)
        return refusal

    def errors(self, **given: Any) -> dict[str, str]:
        """What is wrong with a body that has a name and these fields: pointer to sentence."""
        body = json.dumps({"name": "a"} | given).encode()
        refusal = self.refusal(parse_submission, body, KINDS)
        self.assertEqual(refusal.detail, refusal.errors[0].detail)
        return {error.pointer: error.detail for error in refusal.errors}

    def submission(self, **given: Any) -> Submission:
        return parse_submission(json.dumps({"name": "a"} | given).encode(), KINDS)

    def duration(self, **given: Any) -> Any:
        return json.loads(self.submission(**given).input)["duration"]


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


PIECES = (
    *(b"status=", b"name=", b"limit=", b"cursor=", b"page=", b"&", b"=", b";", b"#", b"?", b",", b"+"),
    *(b"%", b"%0", b"%00", b"%ff", b"%C3%BC", b"\xc3\xbc", b"failed", b"7", TASK_ID.encode()),
)
queries = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join)


class Queries(WireTestCase):
    """What the list may be asked."""

    def test_nothing_asks_for_the_newest_fifty(self) -> None:
        self.assertEqual(wire.parse_query(b""), Query((), None, None, 50, None))

    def test_every_parameter_is_read(self) -> None:
        query = f"status=running,failed&kind=simulate&name=a+b&limit=7&cursor={TASK_ID}"
        self.assertEqual(
            wire.parse_query(query.encode()),
            Query((Status.RUNNING, Status.FAILED), "simulate", "a b", 7, TASK_ID),
        )

    def test_each_status_can_be_asked_for(self) -> None:
        for status in Status:
            self.assertEqual(wire.parse_query(f"status={status}".encode()).statuses, (status,))

    def test_a_status_given_twice_counts_once(self) -> None:
        self.assertEqual(
            wire.parse_query(b"status=failed,running,failed").statuses, (Status.FAILED, Status.RUNNING)
        )

    def test_commas_may_be_escaped(self) -> None:
        self.assertEqual(len(wire.parse_query(b"status=failed%2crunning").statuses), 2)

    def test_an_unknown_status_is_told_which_there_are(self) -> None:
        for query in (b"status=done", b"status=", b"status=failed,", b"status=Failed"):
            refusal = self.refusal(wire.parse_query, query)
            for status in Status:
                self.assertIn(status.value, refusal.detail)

    def test_a_name_may_hold_any_characters(self) -> None:
        for query, name in (
            (b"name=caf%C3%A9", "café"),
            (b"name=%F0%9F%98%80", "\N{GRINNING FACE}"),
            (b"name=a%26b%3Dc%2Bd", "a&b=c+d"),
            (b"name=a;b", "a;b"),
        ):
            self.assertEqual(wire.parse_query(query).name, name)

    def test_a_name_has_1_to_255_characters(self) -> None:
        self.assertEqual(wire.parse_query(b"name=" + b"a" * 255).name, "a" * 255)
        for query in (b"name=", b"name", b"name=%00", b"name=" + b"a" * 256, b"kind="):
            self.assertIn("1 to 255", self.refusal(wire.parse_query, query).detail)

    def test_a_limit_is_from_1_to_1000(self) -> None:
        self.assertEqual(wire.parse_query(b"limit=1").limit, 1)
        self.assertEqual(wire.parse_query(b"limit=1000").limit, 1000)
        for query in (b"0", b"1001", b"-1", b"5.0", b"", b"+5", b"1_0", b"5%0a", b"9" * 5000, b"x"):
            self.assertIn("from 1 to 1000", self.refusal(wire.parse_query, b"limit=" + query).detail)

    def test_a_cursor_is_one_that_was_given(self) -> None:
        for query in (b"cursor=", b"cursor=1", f"cursor={TASK_ID}0".encode(), b"cursor=task_"):
            self.assertIn("'next'", self.refusal(wire.parse_query, query).detail)

    def test_an_unknown_parameter_is_named(self) -> None:
        self.assertEqual(self.refusal(wire.parse_query, b"page=2").detail, "Unknown parameter 'page'")

    def test_an_unknown_parameter_is_told_which_one_it_resembles(self) -> None:
        self.assertEqual(
            self.refusal(wire.parse_query, b"statuses=failed").detail,
            "Unknown parameter 'statuses'; did you mean 'status'?",
        )

    def test_an_unknown_parameter_beyond_ascii_is_named(self) -> None:
        self.assertIn("'größe'", self.refusal(wire.parse_query, b"gr%C3%B6%C3%9Fe=2").detail)

    def test_a_parameter_cannot_be_given_twice(self) -> None:
        self.assertIn("twice", self.refusal(wire.parse_query, b"limit=5&limit=5").detail)

    def test_what_is_not_utf_8_is_told_so(self) -> None:
        for query in (b"name=%ff", b"%ff=1", b"name=\xff", b"name=%ED%A0%80"):
            self.assertEqual(self.refusal(wire.parse_query, query).detail, "The query must be UTF-8")

    def test_many_parameters_are_refused(self) -> None:
        refusal = self.refusal(wire.parse_query, b"&".join([b"name=a"] * 101))
        self.assertIn("at most 100", refusal.detail)

    @given(queries)
    def test_any_query_is_a_query_or_invalid(self, query: bytes) -> None:
        try:
            found = wire.parse_query(query)
        except Invalid as refusal:
            told = wire.parse_json(wire.problem_json(refusal))
            self.assertEqual(told["error"], refusal.detail)
        else:
            self.assertTrue(1 <= found.limit <= 1000)

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30))
    def test_any_name_can_be_looked_for(self, name: str) -> None:
        escaped = "".join(f"%{byte:02x}" for byte in name.encode())
        self.assertEqual(wire.parse_query(f"name={escaped}".encode()).name, name)


class Ids(SynchronousTestCase):
    """Task ids."""

    def test_an_id_has_its_second_a_count_and_chance(self) -> None:
        ids = wire.Ids()
        self.assertEqual(ids.next(1_738_880_000.9, bytes(16)), "task_1738880000" + "0000" + "0" * 16)
        self.assertEqual(ids.next(1_738_880_000.9, b"\xff" * 16), "task_1738880000" + "0001" + "z" * 16)

    def test_the_count_begins_anew_with_each_second(self) -> None:
        ids = wire.Ids()
        seconds = [ids.next(now, bytes(16))[5:19] for now in (7.0, 7.999, 8.0, 8.1)]
        self.assertEqual(seconds, ["00000000070000", "00000000070001", "00000000080000", "00000000080001"])

    def test_an_id_of_the_contract_is_an_id(self) -> None:
        self.assertTrue(wire.TASK_ID.fullmatch(TASK_ID))

    def test_what_is_no_id_is_told_from_one(self) -> None:
        for text in (TASK_ID[:-1], TASK_ID + "0", TASK_ID.upper(), TASK_ID + "\n", TASK_ID[:-1] + "u", ""):
            self.assertFalse(wire.TASK_ID.fullmatch(text))

    def test_a_full_count_takes_the_next_second(self) -> None:
        ids = wire.Ids()
        ids.next(7, bytes(16))
        ids._count = wire.Ids.PER_SECOND - 1
        heads = [ids.next(now, bytes(16))[5:19] for now in (7.1, 7.2, 7.3, 8.5, 9)]
        self.assertEqual(
            heads,
            ["0000000007zzzz", "00000000080000", "00000000080001", "00000000080002", "00000000090000"],
        )

    def test_they_go_on_after_those_of_an_earlier_process(self) -> None:
        for count in ("0000", "0zzz", "z0a9", "zzzz"):
            ids = wire.Ids()
            newest = f"task_1738880000{count}{'z' * 16}"
            ids.go_on(newest, 1_738_870_000)
            made = [ids.next(now, bytes(16)) for now in (1_738_870_000, 1_738_870_001, 1_738_880_002)]
            self.assertEqual([newest, *made], sorted([newest, *made]))
            self.assertEqual(made[2][5:19], "17388800020000")

    def test_a_clock_that_was_far_ahead_once_is_forgotten(self) -> None:
        ids = wire.Ids()
        ids.go_on("task_1738880000" + "0" * 20, 1_738_880_000 - 1.1 * wire.Ids.AHEAD)
        self.assertEqual(ids.next(1_738_780_000, bytes(16))[5:19], "17387800000000")

    @given(
        st.integers(0, 9_999_000_000),
        st.lists(
            st.tuples(st.floats(-100, 100) | st.just(0.0), st.binary(min_size=16, max_size=16)),
            min_size=2,
            max_size=50,
        ),
    )
    def test_ids_sort_and_never_repeat_whatever_the_clock_does(
        self, start: int, steps: list[tuple[float, bytes]]
    ) -> None:
        ids = wire.Ids()
        now = latest = start + 100.0
        made: list[str] = []
        for step, chance in steps:
            now = max(0.0, now + step)
            latest = max(latest if made else now, now)
            made.append(ids.next(now, chance))
            self.assertTrue(wire.TASK_ID.fullmatch(made[-1]))
            self.assertEqual(int(made[-1][5:15]), int(latest))
        for before, after in pairwise(made):
            self.assertLess(before, after)

    @given(st.binary(min_size=16, max_size=16))
    def test_each_byte_of_chance_gives_five_bits(self, chance: bytes) -> None:
        drawn = wire.Ids().next(7, chance)[-16:]
        self.assertEqual([wire.ALPHABET.index(letter) for letter in drawn], [byte % 32 for byte in chance])


class Timestamps(SynchronousTestCase):
    """RFC 3339, in UTC."""

    def test_a_moment_is_told_to_the_millisecond(self) -> None:
        self.assertEqual(wire.timestamp(MOMENT), SHOWN_MOMENT)

    def test_a_whole_second_has_its_milliseconds_too(self) -> None:
        self.assertEqual(wire.timestamp(0), "1970-01-01T00:00:00.000Z")

    @given(st.integers(0, LATEST))
    def test_a_timestamp_leads_back_to_its_millisecond(self, milliseconds: int) -> None:
        text = wire.timestamp(milliseconds / 1000)
        self.assertRegex(text, r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")
        self.assertEqual(round(datetime.fromisoformat(text).timestamp() * 1000), milliseconds)

    @given(st.floats(0, LATEST / 1000), st.floats(0, LATEST / 1000))
    def test_timestamps_sort_as_their_moments(self, one: float, other: float) -> None:
        early, late = sorted([one, other])
        self.assertLessEqual(wire.timestamp(early), wire.timestamp(late))


KEYS = [
    *("task_id", "name", "kind", "input", "status", "progress", "attempt", "retries", "timeout"),
    *("cancel_requested", "accepted_at", "run_at", "started_at", "finished_at", "result", "error"),
    *("longest_step", "traceparent", "callback", "history"),
]
"""All the keys of a task, as the contract lists them."""


def a_task(**different: Any) -> Task:
    usual: dict[str, Any] = {
        "task_id": TASK_ID,
        "name": "generate-report",
        "kind": "simulate",
        "status": Status.ACCEPTED,
        "attempt": 0,
        "accepted_at": MOMENT,
        "run_at": MOMENT,
        "input": '{"duration":5}',
    }
    return Task(**(usual | different))


def shape(task: Task, *, whole: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(wire.task_json(task, whole=whole)))
    return found


class Answers(SynchronousTestCase):
    """What clients are told of tasks."""

    def test_the_202_has_these_four_keys_in_this_order(self) -> None:
        body = wire.accepted_json(a_task(), "Task will run for 5 seconds in background")
        self.assertEqual(
            body.decode(),
            f'{{"task_id":"{TASK_ID}","name":"generate-report","status":"accepted",'
            '"message":"Task will run for 5 seconds in background"}',
        )

    def test_the_202_says_accepted_of_a_task_that_starts_at_once(self) -> None:
        body = json.loads(wire.accepted_json(a_task(status=Status.RUNNING, attempt=1), "…"))
        self.assertEqual(body["status"], "accepted")

    def test_a_task_has_all_its_keys_from_the_first_day_on(self) -> None:
        self.assertEqual(list(shape(a_task())), KEYS)

    def test_a_list_has_neither_input_nor_result_nor_history(self) -> None:
        listed = list(shape(a_task(), whole=False))
        self.assertEqual(listed, [key for key in KEYS if key not in ("input", "result", "history")])

    def test_a_new_task_has_nothing_to_tell_yet(self) -> None:
        told = shape(a_task())
        for key in (
            *("progress", "started_at", "finished_at", "result", "error", "longest_step"),
            *("timeout", "traceparent", "callback"),
        ):
            self.assertIsNone(told[key])
        self.assertEqual(told["status"], "accepted")
        self.assertEqual((told["attempt"], told["retries"]), (0, 0))
        self.assertIs(told["cancel_requested"], False)

    def test_an_ended_task_tells_it_all(self) -> None:
        told = shape(
            a_task(
                status=Status.FAILED,
                attempt=2,
                started_at=MOMENT + 1,
                finished_at=MOMENT + 2,
                progress=Progress(1, 5, "half way"),
                error=Error("ValueError", "no such file"),
                result='{"a":[1]}',
                history='[{"at":"…"}]',
            )
        )
        self.assertEqual(told["progress"], {"step": 1, "total": 5, "message": "half way"})
        self.assertEqual(told["error"], {"type": "ValueError", "message": "no such file"})
        self.assertEqual(told["result"], {"a": [1]})
        self.assertEqual(told["history"], [{"at": "…"}])
        self.assertEqual(told["input"], {"duration": 5})
        self.assertEqual(told["started_at"], "2026-11-24T18:00:01.123Z")
        self.assertEqual(told["finished_at"], "2026-11-24T18:00:02.123Z")
        self.assertEqual(told["accepted_at"], SHOWN_MOMENT)
        self.assertEqual(told["run_at"], SHOWN_MOMENT)

    def test_a_result_of_null_is_a_result(self) -> None:
        self.assertIsNone(shape(a_task(result="null"))["result"])

    def test_a_page_tells_where_the_next_one_begins(self) -> None:
        page = json.loads(wire.list_json([a_task(), a_task(name="b")], TASK_ID))
        self.assertEqual(list(page), ["tasks", "next"])
        self.assertEqual([task["name"] for task in page["tasks"]], ["generate-report", "b"])
        self.assertEqual(page["next"], TASK_ID)

    def test_the_last_page_has_no_next(self) -> None:
        self.assertEqual(wire.list_json([], None), b'{"tasks":[],"next":null}')

    def test_a_change_tells_when_what_and_why(self) -> None:
        failed = a_task(status=Status.FAILED, attempt=2, error=Error("ValueError", "no"))
        self.assertEqual(
            json.loads(wire.change_json(failed, MOMENT)),
            {
                "at": SHOWN_MOMENT,
                "status": "failed",
                "attempt": 2,
                "error": {"type": "ValueError", "message": "no"},
            },
        )

    def test_a_change_without_an_error_says_so(self) -> None:
        self.assertEqual(
            wire.change_json(a_task(), MOMENT),
            f'{{"at":"{SHOWN_MOMENT}","status":"accepted","attempt":0,"error":null}}',
        )

    @given(st.text(encodable, max_size=50))
    def test_any_name_is_told_as_it_was_given(self, name: str) -> None:
        self.assertEqual(shape(a_task(name=name))["name"], name)


class Problems(SynchronousTestCase):
    """What clients are told of errors."""

    def test_a_problem_says_what_rfc_9457_asks_for_and_the_older_error(self) -> None:
        self.assertEqual(
            json.loads(wire.problem_json(Invalid("The query must be UTF-8"))),
            {
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "detail": "The query must be UTF-8",
                "error": "The query must be UTF-8",
            },
        )

    def test_a_bad_body_has_every_bad_field(self) -> None:
        errors = (FieldError("No", "/name"), FieldError("Never", "/a~1b"))
        self.assertEqual(
            json.loads(wire.problem_json(Invalid("No", errors)))["errors"],
            [{"detail": "No", "pointer": "/name"}, {"detail": "Never", "pointer": "/a~1b"}],
        )

    def test_an_unknown_outcome_has_a_type_of_its_own(self) -> None:
        told = json.loads(wire.problem_json(OutcomeUnknown("Perhaps")))
        self.assertEqual(told["status"], 503)
        self.assertTrue(told["type"].endswith("/outcome-unknown"))

    def test_a_bug_is_a_500(self) -> None:
        told = json.loads(wire.problem_json(Problem("Something went wrong here")))
        self.assertEqual((told["status"], told["title"]), (500, "Internal Server Error"))


class Stored(SynchronousTestCase):
    """What is stored of a task, and read again."""

    def test_progress_is_read_as_it_was_stored(self) -> None:
        for progress in (Progress(1, 5), Progress(0, 0, "ü\n")):
            text = wire.progress_text(progress)
            assert text is not None
            self.assertEqual(wire.read_progress(text), progress)

    def test_an_error_is_read_as_it_was_stored(self) -> None:
        error = Error("ValueError", 'no "such" file\n')
        text = wire.error_text(error)
        assert text is not None
        self.assertEqual(wire.read_error(text), error)

    def test_nothing_is_stored_as_nothing(self) -> None:
        self.assertIsNone(wire.progress_text(None))
        self.assertIsNone(wire.error_text(None))

    def test_the_input_goes_to_the_handler(self) -> None:
        self.assertEqual(wire.read_input(a_task()), {"duration": 5})
        self.assertEqual(wire.read_input(a_task(input=None)), {})

    def test_what_is_dumped_is_short(self) -> None:
        self.assertEqual(wire.dump({"a": [1, "ü", None]}), '{"a":[1,"ü",null]}')

    def test_what_is_no_json_cannot_be_dumped(self) -> None:
        for value in (float("nan"), float("inf")):
            self.assertRaises(ValueError, wire.dump, value)
        self.assertRaises(TypeError, wire.dump, {"a": object()})

    @given(values)
    def test_a_result_is_kept_as_json_or_said_to_be_none(self, result: Any) -> None:
        try:
            text = wire.dump_result(result)
        except wire.NotSerializable:
            with self.assertRaises((ValueError, Invalid)):
                wire.parse_json(json.dumps(result, ensure_ascii=False, allow_nan=False).encode())
        else:
            self.assertEqual(json.loads(text.encode("utf-8")), result)

    def test_a_result_that_is_no_json_says_so(self) -> None:
        endless: list[object] = []
        endless.append(endless)
        for result in (float("nan"), "\ud800", {1, 2}, b"a", object(), {(1, 2): 3}, endless):
            with self.assertRaises(wire.NotSerializable) as caught:
                wire.dump_result(result)
            self.assertIn("The result is no JSON", str(caught.exception))
