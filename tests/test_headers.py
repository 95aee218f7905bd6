"""Header fields of requests."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.headers import etag, matches, parse_key, parse_traceparent, parse_wait
from asynctask.problems import Invalid

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REFUSED = "Idempotency-Key must be given once, with 1 to 255 characters"

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


class Keys(SynchronousTestCase):
    """``Idempotency-Key``."""

    def test_without_one_there_is_none(self) -> None:
        self.assertIsNone(parse_key([]))

    @given(visible.filter(lambda key: '"' not in key))
    def test_with_and_without_quotes_it_is_the_same(self, key: str) -> None:
        self.assertEqual({parse_key([field]) for field in (key, f'"{key}"', f' "{key}" ')}, {key})

    def test_quotes_are_part_of_a_key_unless_they_are_around_it(self) -> None:
        for field in ('"a', 'a"', 'a"b', '"', "'a'"):
            self.assertEqual(parse_key([field]), field)
        self.assertEqual(parse_key(['""a""']), '"a"')

    def test_it_has_1_to_255_characters(self) -> None:
        for count in (1, 255):
            key = "x" * count
            self.assertEqual((parse_key([key]), parse_key([f'"{key}"'])), (key, key))
        for field in ("", " ", '""', "x" * 256, f'"{"x" * 256}"'):
            self.assertEqual(self.assertRaises(Invalid, parse_key, [field]).detail, REFUSED)

    def test_it_is_given_once(self) -> None:
        self.assertEqual(self.assertRaises(Invalid, parse_key, ["a", "a"]).detail, REFUSED)


class Waits(SynchronousTestCase):
    """``Prefer: wait=N``."""

    def test_it_is_read_in_every_way_that_it_is_written(self) -> None:
        for field in (
            "wait=7",
            "wait=007",
            "Wait=7",
            "WAIT = 7",
            'wait="7"',
            " wait=7 ",
            "respond-async, wait=7",
            "wait=7; a=b",
            "return=minimal,wait=7,handling=lenient",
            "waiting=3, await=4, wait=7",
            'note="a, \\", wait=1", wait=7; b="c, d"',
            "wait=soon, wait=-1, wait=7",
        ):
            self.assertEqual(parse_wait([field]), 7, field)

    def test_it_may_come_in_another_field_and_the_first_one_counts(self) -> None:
        self.assertEqual(parse_wait(["respond-async", "wait=7", "wait=9"]), 7)
        self.assertEqual(parse_wait(["wait=7, wait=9"]), 7)

    def test_what_is_no_wait_counts_for_nothing(self) -> None:
        for field in (
            "",
            "wait",
            "wait=",
            "wait=x",
            "wait=-1",
            "wait=1.5",
            "wait=1 s",
            "wait=\u0661",
            "wait=1e1",
            'wait="1',
            'wait=1"',
            "handling=lenient; wait=1",
            'note="a, wait=1"',
            'note="\\", wait=1"',
            'note="a, wait=1',
            "waits=1",
            "=1",
        ):
            self.assertIsNone(parse_wait([field]), field)
        self.assertIsNone(parse_wait([]))

    def test_zeros_before_it_mean_nothing_however_many(self) -> None:
        zeros = "0" * 16_000  # a head's worth: a search that goes back at each would take seconds
        for field, seconds in (("0", 0), ("00", 0), ("007", 7), (zeros, 0), (zeros + "7", 7)):
            self.assertEqual(parse_wait([f"wait={field}"]), seconds)
        self.assertIsNone(parse_wait([f"wait={zeros}x"]))

    def test_quotes_that_never_end_take_no_longer(self) -> None:
        for field in ('"\\' * 8_000, '"' * 15_999, 'wait="' * 3_000):  # as above
            self.assertIsNone(parse_wait([field]))

    @given(st.integers(0, 999_999_999))
    def test_nobody_waits_longer_than_50_seconds(self, seconds: int) -> None:
        self.assertEqual(parse_wait([f"wait={seconds}"]), min(seconds, 50))
        self.assertEqual(parse_wait([f"wait=00{seconds}"]), min(seconds, 50))
        self.assertEqual(parse_wait([f"wait={'9' * 5000}"]), 50)


class Traces(SynchronousTestCase):
    """``traceparent``."""

    def test_a_sound_one_is_kept(self) -> None:
        for field in (TRACE, TRACE.replace("00-", "fe-", 1), TRACE[:-2] + "ff"):
            self.assertEqual(parse_traceparent(field), field)

    def test_of_a_later_version_the_known_fields_are_kept(self) -> None:
        later = TRACE.replace("00-", "01-", 1)
        for more in ("", "-", "-more", "-what-will-be"):
            self.assertEqual(parse_traceparent(later + more), later)
        for more in ("more", "\n", ", " + later):
            self.assertIsNone(parse_traceparent(later + more), more)

    def test_a_malformed_one_counts_for_nothing(self) -> None:
        version, trace, parent, flags = TRACE.split("-")
        for field in (
            "",
            TRACE.upper(),
            f" {TRACE}",
            f"{TRACE}\n",
            f"{TRACE}-more",
            f"{TRACE}, {TRACE}",
            TRACE.replace("4bf92f", "4bf92g"),
            f"ff-{trace}-{parent}-{flags}",
            f"{version}-{'0' * 32}-{parent}-{flags}",
            f"{version}-{trace}-{'0' * 16}-{flags}",
            f"{version}-{trace[1:]}-{parent}-{flags}",
            f"{version}-{trace}-{parent}",
        ):
            self.assertIsNone(parse_traceparent(field), field)


class Tags(SynchronousTestCase):
    """``ETag`` and ``If-None-Match``."""

    def test_a_tag_is_strong_and_the_same_for_the_same_body(self) -> None:
        self.assertRegex(etag(b"a"), '^"[0-9a-f]{32}"$')
        self.assertEqual(etag(b"a"), etag(b"a"))

    @given(st.binary(), st.binary())
    def test_another_body_has_another_tag(self, one: bytes, other: bytes) -> None:
        self.assertEqual(etag(one) == etag(other), one == other)

    def test_a_client_has_what_it_names(self) -> None:
        for field in ('"a"', 'W/"a"', ' "a" ', '"b", "a"', 'W/"b","a",W/"c"', "*", " * "):
            self.assertTrue(matches('"a"', field), field)

    def test_a_client_has_not_what_it_does_not_name(self) -> None:
        for field in ("", "a", '"A"', '"b"', '"a', 'a"', '"ba"', '"*"', '"b, a"', "**"):
            self.assertFalse(matches('"a"', field), field)
