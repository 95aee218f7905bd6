"""The bodies of POSTs: tasks of every kind, and batches of them."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct
from twisted.trial.unittest import SynchronousTestCase

from asynctask.model import Submission
from asynctask.problems import Invalid
from asynctask.registry import KINDS, Kind, kinds_of, task
from asynctask.shapes import MAX_TOLD
from asynctask.submissions import NAME_REQUIRED, Body, parse_batch, parse_one
from asynctask.wire import MAX_HINTS


class Size(Struct):
    width: Annotated[int, Meta(ge=1)]
    height: int = 1


@task(retries=3, timeout=60)
def resize(url: str, size: Size, *, quality: int = 80) -> None:
    """Resize an image."""


@task
def duration(duration: int = 1) -> None:
    """Has a parameter of simulate's name."""


@task
def loose(value: Any) -> None:
    """Takes anything."""


@task
def numbers(each: list[int]) -> None:
    """Takes integers."""


LOOSE: Mapping[str, Kind] = {"loose": kinds_of(loose)[-1], "numbers": kinds_of(numbers)[-1]}
ALL: Mapping[str, Kind] = {**KINDS, "resize": kinds_of(resize)[-1], "duration": kinds_of(duration)[-1]}
SOUND = {"url": "u", "size": {"width": 2}}


class SubmissionTestCase(SynchronousTestCase):
    def one(self, **body: Any) -> Submission:
        """The submission that a body is."""
        (submission,) = parse_one(json.dumps({"name": "a", **body}).encode(), ALL).submissions
        return submission

    def refused(self, body: object, parse: Any = parse_one) -> list[tuple[str, str]]:
        """What is wrong with a body: pointers and details."""
        refusal = self.assertRaises(Invalid, parse, json.dumps(body).encode(), ALL)
        assert isinstance(refusal, Invalid)
        details = [error.detail for error in refusal.errors]
        self.assertEqual(refusal.detail, NAME_REQUIRED if NAME_REQUIRED in details else details[0])
        return [(error.pointer, error.detail) for error in refusal.errors]

    def pointers(self, body: object, parse: Any = parse_one) -> list[str]:
        return [pointer for pointer, _ in self.refused(body, parse)]


class OneTests(SubmissionTestCase):
    """The body of one task."""

    def test_without_a_kind_it_simulates(self) -> None:
        self.assertEqual(self.one(), Submission("a", "simulate", '{"duration":3}'))
        self.assertEqual(self.one(kind=None, input=None, timeout=None, retries=None), self.one())

    def test_the_duration_is_the_input_of_simulate(self) -> None:
        for value in ({"duration": 5}, {"input": {"duration": 5}}, {"duration": 5.0}):
            self.assertEqual(self.one(**value).input, '{"duration":5}', value)
        self.assertEqual(self.one(input={}).input, '{"duration":3}')
        self.assertEqual(self.pointers({"name": "a", "input": {"duration": -1}}), ["/input/duration"])

    def test_duration_and_input_are_not_given_together(self) -> None:
        for value in ({"duration": 5}, {}):
            self.assertEqual(
                self.refused({"name": "a", "duration": 5, "input": value}),
                [("/duration", "Field 'duration' is the input of simulate; give one of the two")],
            )

    def test_the_duration_belongs_to_no_other_kind(self) -> None:
        for kind in ("resize", "duration"):
            errors = self.refused({"name": "a", "kind": kind, "duration": 5, "delay": -1})
            self.assertIn(
                ("/duration", f"Field 'duration' belongs to kind 'simulate', not to '{kind}'"), errors
            )
            self.assertIn("/delay", dict(errors))
            given = self.refused({"name": "a", "kind": kind, "duration": 5, "input": {"duration": 5}})
            self.assertEqual(
                [text for field, text in given if field == "/duration"],
                [f"Field 'duration' belongs to kind 'simulate', not to '{kind}'"],
            )
        self.assertEqual(self.one(kind="duration", input={"duration": 5}).input, '{"duration":5}')

    def test_it_is_told_beside_an_input_that_is_wrong_itself(self) -> None:
        given = self.refused({"name": "a", "input": [], "duration": 1})
        self.assertEqual([field for field, _ in given], ["/input", "/duration"])

    def test_the_input_is_checked_against_the_signature(self) -> None:
        found = self.one(kind="resize", input={"size": {"width": 2.0, "height": 3}, "url": "é"})
        self.assertEqual(json.loads(found.input), {"url": "é", "size": {"width": 2, "height": 3}})
        body = {
            "name": "a",
            "kind": "resize",
            "input": {"size": {"width": 0, "hight": 1}, "quality": "80", "more": 1},
        }
        self.assertEqual(
            sorted(self.pointers(body)),
            ["/input/more", "/input/quality", "/input/size/hight", "/input/size/width", "/input/url"],
        )

    def test_what_the_handler_needs_is_missed_without_an_input_too(self) -> None:
        for more in ("", ',"input":{}', ',"input":null'):
            body = json.loads(f'{{"name":"a","kind":"resize"{more}}}')
            self.assertEqual(sorted(self.pointers(body)), ["/input/size", "/input/url"])

    def test_an_input_is_an_object(self) -> None:
        wrong: Any
        for wrong in ([], "x", 1, True, 0, "", False):
            for kind in ("simulate", "resize"):  # of which nothing within is missed besides
                self.assertEqual(
                    self.refused({"name": "a", "kind": kind, "input": wrong}),
                    [("/input", "Field 'input' must be an object")],
                )

    def test_a_kind_has_its_timeout_and_retries_and_a_task_may_have_others(self) -> None:
        found = self.one(kind="resize", input=SOUND)
        self.assertEqual((found.timeout, found.retries), (60, 3))
        found = self.one(kind="resize", input=SOUND, timeout=0.25, retries=0)
        self.assertEqual((found.timeout, found.retries), (0.25, 0))
        self.assertEqual((self.one().timeout, self.one().retries), (None, 0))

    def test_a_timeout_is_a_number_over_0(self) -> None:
        for value in (1, 0.001, 5e-324, 1.5, 1e308, 10**300):
            self.assertEqual(self.one(timeout=value).timeout, float(value))
        wrong: Any
        for wrong in (0, -1, 0.0, -0.5, "1", True, [], {}):
            self.assertEqual(
                self.refused({"name": "a", "timeout": wrong}),
                [("/timeout", "Field 'timeout' must be a number of seconds over 0")],
            )

    def test_retries_are_an_integer_from_0_to_100(self) -> None:
        for value in (0, 1, 100, 5.0):
            self.assertEqual(self.one(retries=value).retries, value)
            self.assertIsInstance(self.one(retries=value).retries, int)
        for value in (-1, 101, 1e300, 10**300):
            self.assertEqual(
                self.refused({"name": "a", "retries": value}),
                [("/retries", "Field 'retries' must be from 0 to 100")],
            )
        wrong: Any
        for wrong in (1.5, "1", True, [], {}):
            self.assertEqual(
                self.refused({"name": "a", "retries": wrong}),
                [("/retries", "Field 'retries' must be an integer from 0 to 100")],
            )

    def test_an_unknown_kind_is_named_and_nothing_is_said_of_its_input(self) -> None:
        for more in ({}, {"duration": 1}):
            self.assertEqual(
                self.refused({"name": "a", "kind": "resise", "input": {"x": 1}, **more}),
                [("/kind", "Unknown kind 'resise'; did you mean 'resize'?")],
            )

    def test_a_callback_has_an_absolute_url(self) -> None:
        for url in ("http://a", "https://a.example:8443/x?y=z", "http://[::1]:80/", "http://10.0.0.1"):
            self.assertEqual(self.one(callback_url=url).callback_url, url)
        self.assertIsNone(self.one(callback_url=None).callback_url)
        detail = (
            "Field 'callback_url' must be an absolute http or https URL with a host, without user "
            "information, of at most 2048 ASCII characters"
        )
        long = "http://a/" + "b" * 2_040
        bad: tuple[Any, ...] = ("", "/x", "ftp://a/", "http://u:p@a/", "http:///", long, 5, True, [], {})
        for wrong in bad:
            body = {"name": "a", "callback_url": wrong}
            self.assertEqual(self.refused(body), [("/callback_url", detail)], wrong)

    def test_every_bad_field_is_said_and_the_name_first(self) -> None:
        body = {
            "x/y~": 1,
            "retries": -1,
            "timeout": 0,
            "kind": "resize",
            "input": {"url": 1, "size": {"width": 1}},
            "name": "",
        }
        self.assertEqual(self.pointers(body), ["/name", "/timeout", "/retries", "/input/url", "/x~1y~0"])

    def test_what_comes_later_is_unknown_as_yet(self) -> None:
        for field in ("schedule", "token", "status"):
            self.assertEqual(self.pointers({"name": "a", field: None}), [f"/{field}"])

    def test_no_object_is_no_task(self) -> None:
        for body in ([], [{"name": "a"}], "a", 1, None):
            self.assertEqual(self.refused(body), [("", "The body must be a JSON object")])


class BatchTests(SubmissionTestCase):
    """The body of a batch."""

    def test_each_of_its_objects_is_a_task(self) -> None:
        bodies: list[dict[str, Any]] = [
            {"name": "a"},
            {"name": "b", "kind": "resize", "input": SOUND},
            {"name": "c", "delay": 1},
        ]
        batch = parse_batch(json.dumps(bodies).encode(), ALL)
        self.assertEqual(batch.submissions, [self.one(**body) for body in bodies])

    def test_only_some_unknown_fields_of_all_are_told_what_they_resemble(self) -> None:
        each = {"name": "a", "kind": "resize"}
        bodies = [each | {f"duration{n}": 1, "input": SOUND | {f"qualit{n}": 1}} for n in range(50)]
        with self.assertRaises(Invalid) as raised:
            parse_batch(json.dumps(bodies).encode(), ALL)
        told = [error.detail for error in raised.exception.errors]
        self.assertEqual(len(told), 100)
        self.assertEqual(sum("did you mean" in detail for detail in told), MAX_HINTS)

    def test_only_some_unknown_kinds_are_told_what_they_resemble(self) -> None:
        bodies = [{"name": "a", "kind": f"resize{n}"} for n in range(50)]
        with self.assertRaises(Invalid) as raised:
            parse_batch(json.dumps(bodies).encode(), ALL)
        told = [error.detail for error in raised.exception.errors]
        self.assertEqual(len(told), 50)
        self.assertEqual(sum("did you mean" in detail for detail in told), MAX_HINTS)

    def test_what_all_have_wrong_alike_is_told_to_all_alike(self) -> None:
        each = {"name": "a", "durations": 1, "kind": "resize", "input": SOUND | {"quali": 1}}
        bodies = [each] * 50 + [{"name": "a", "kind": "resise"}] * 50
        with self.assertRaises(Invalid) as raised:
            parse_batch(json.dumps(bodies).encode(), ALL)
        told = Counter(error.detail for error in raised.exception.errors)
        self.assertEqual(list(told.values()), [50, 50, 50])
        self.assertTrue(all("did you mean" in detail for detail in told))

    def test_long_keys_are_not_repeated_without_end(self) -> None:
        body = {"name": "a", "kind": "loose", "input": {"value": {"k" * 100_000: ["\0"] * 1_000}}}
        for raw, parse in ((body, parse_one), ([body] * 5, parse_batch)):
            with self.assertRaises(Invalid) as raised:
                parse(json.dumps(raw).encode(), LOOSE)
            told = sum(len(error.pointer) for error in raised.exception.errors)
            self.assertTrue(100_000 < told < 3 * MAX_TOLD)

    def test_numbers_that_are_written_out_have_a_limit(self) -> None:
        few, many = (
            json.dumps({"name": "a", "kind": "numbers", "input": {"each": [1e300] * count}}).encode()
            for count in (1_000, 10_000)
        )
        [found] = parse_one(few, LOOSE).submissions
        self.assertEqual(json.loads(found.input)["each"], [int(1e300)] * 1_000)
        with self.assertRaises(Invalid):
            parse_one(many, LOOSE)

    def test_every_bad_one_is_named(self) -> None:
        bodies = [
            {"name": "a"},
            {"name": "a", "duration": -1, "more": 1},
            [],
            {},
            {"name": "a", "kind": "resize", "input": {"url": "u", "size": {"width": 0}}},
            None,
            {"name": "a", "kind": "resise"},
        ]
        self.assertEqual(
            self.pointers(bodies, parse_batch),
            ["/1/duration", "/1/more", "/2", "/3/name", "/4/input/size/width", "/5", "/6/kind"],
        )
        self.assertEqual(
            self.refused(bodies[2:4], parse_batch),
            [
                ("/0", "The body must be a JSON array of 1 to 1,000 objects"),
                ("/1/name", "Field 'name' is required (non-empty string)"),
            ],
        )

    def test_it_is_an_array_of_1_to_1000(self) -> None:
        for count in (1, 1_000):
            batch = parse_batch(json.dumps([{"name": "a"}] * count).encode(), ALL)
            self.assertEqual(len(batch.submissions), count)
        for body in ([], [{"name": "a"}] * 1_001, {"name": "a"}, {}, "a", 1, None):
            self.assertEqual(
                self.refused(body, parse_batch),
                [("", "The body must be a JSON array of 1 to 1,000 objects")],
            )

    @given(st.lists(st.sampled_from([{"name": "a"}, {"name": ""}, 1, None, []]), min_size=1, max_size=9))
    def test_all_or_none(self, bodies: list[Any]) -> None:
        bad = [number for number, body in enumerate(bodies) if body != {"name": "a"}]
        if bad:
            named = [int(pointer.split("/")[1]) for pointer in self.pointers(bodies, parse_batch)]
            self.assertEqual(named, bad)
        else:
            batch = parse_batch(json.dumps(bodies).encode(), ALL)
            self.assertEqual(len(batch.submissions), len(bodies))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab/~é", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=2), inner, max_size=3)
    ),
    max_leaves=5,
)


class DigestTests(SubmissionTestCase):
    """What tells a repeat from another body."""

    def digest(self, text: str) -> str:
        return parse_one(text.encode(), ALL).digest

    def test_spaces_escapes_and_the_order_of_keys_do_not_count(self) -> None:
        same = {
            self.digest(text)
            for text in (
                '{"name":"é","kind":"simulate","input":{"duration":1}}',
                ' {\n"input" : { "duration":1 } , "kind":"simulate","name":"\\u00e9"}\t',
            )
        }
        self.assertEqual(len(same), 1)

    def test_everything_else_counts(self) -> None:
        texts = (
            '{"name":"a"}',
            '{"name":"b"}',
            '{"name":"a","duration":1}',
            '{"name":"a","duration":2}',
            '{"name":"a","input":{"duration":2}}',
            '{"name":"a","delay":2}',
        )
        self.assertEqual(len({self.digest(text) for text in texts}), len(texts))

    def test_a_batch_is_another_body_than_its_only_task(self) -> None:
        batch: Body = parse_batch(b'[{"name":"a"}]', ALL)
        self.assertNotEqual(batch.digest, self.digest('{"name":"a"}'))

    def test_in_a_batch_the_order_counts(self) -> None:
        one, other = (
            parse_batch(json.dumps([{"name": n} for n in names]).encode(), ALL) for names in ("ab", "ba")
        )
        self.assertNotEqual(one.digest, other.digest)

    @given(st.lists(json_values, min_size=2, max_size=2))
    def test_equal_bodies_have_equal_digests_and_others_have_not(self, values: list[Any]) -> None:
        def digest(value: Any, *, turned: bool) -> str:
            body = {"name": "a", "kind": "free", "input": {"value": value}}
            if turned:
                body = dict(reversed(body.items()))
            return parse_one(json.dumps(body, ensure_ascii=turned, indent=1).encode(), FREE).digest

        one, other = values
        self.assertEqual(digest(one, turned=False), digest(one, turned=True))
        # Not ==, by which True is 1.
        same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
        self.assertEqual(digest(one, turned=False) == digest(other, turned=False), same)


@task(name="free")
def anything(value: Any) -> None:
    """Take whatever comes."""


FREE = {"free": kinds_of(anything)[-1]}
