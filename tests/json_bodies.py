"""Bodies as clients send them, good and bad, drawn for tests."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from asynctask import registry
from asynctask.model import Submission
from asynctask.problems import Invalid
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
