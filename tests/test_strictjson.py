"""What keeps a body from being strict JSON, in a sentence."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.strictjson import NotStrict, read


class Sentences(SynchronousTestCase):
    """They say what and where."""

    def sentence(self, body: bytes | str) -> str:
        if isinstance(body, str):
            body = body.encode()
        return str(self.assertRaises(NotStrict, read, body))

    def test_an_empty_body_is_told_so(self) -> None:
        for body in (b"", b" \r\n"):
            self.assertEqual(self.sentence(body), "The body is empty")

    def test_the_parser_tells_the_place(self) -> None:
        for body, sentence in (
            ("{'name': 1}", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            ("name=x", "Expecting value: line 1 column 1 (char 0)"),
            ('{"name": "x" 1}', "Expecting ',' delimiter: line 1 column 14 (char 13)"),
            ('["x', "Unterminated string starting at: line 1 column 2 (char 1)"),
        ):
            self.assertEqual(self.sentence(body), sentence)

    def test_the_place_is_that_in_the_body_as_it_came(self) -> None:
        self.assertEqual(self.sentence('\r\n {"a" 1}'), "Expecting ':' delimiter: line 2 column 7 (char 8)")
        self.assertEqual(
            self.sentence(" {} x "), "Something comes after the value: line 1 column 4 (char 3)"
        )

    def test_what_is_not_utf_8_is_told_with_its_byte(self) -> None:
        self.assertEqual(
            self.sentence('{"name": "ü"}'.encode("latin-1")), "The body is not UTF-8 at byte 10"
        )

    def test_a_byte_order_mark_is_named_since_nobody_sees_it(self) -> None:
        self.assertEqual(self.sentence("\ufeff{}"), "The body begins with a byte order mark (U+FEFF)")

    def test_a_key_that_is_there_twice_is_named(self) -> None:
        for body in ('{"b": 1, "name": 2, "name": 3, "b": 4}', '[{"a": 1}, {"name": 1, "n\\u0061me": 2}]'):
            self.assertEqual(self.sentence(body), "Key 'name' is in one object twice")

    def test_a_number_a_surrogate_and_a_depth_that_are_too_much_are_named(self) -> None:
        for number in ("1e400", "-1e400", "9" * 310, "9" * 5_000):
            self.assertEqual(self.sentence(f'{{"a": [{number}]}}'), "A number is beyond a double")
        for number in ("NaN", "Infinity", "-Infinity"):
            self.assertEqual(self.sentence(f"[{number}]"), f"{number} is no number of JSON")
        for body in ('["\\uDC00a"]', '{"\\uDC00": 1}'):
            self.assertEqual(self.sentence(body), "A string has a lone surrogate: \\udc00")
        for depth in (65, 100_000):
            self.assertEqual(
                self.sentence("[" * depth + "]" * depth), "Objects and arrays are nested deeper than 64"
            )

    @given(st.text(min_size=1))
    def test_little_of_a_long_key_is_repeated(self, text: str) -> None:
        key = json.dumps(text * 100)
        self.assertLess(len(self.sentence(f"{{{key}: 1, {key}: 2}}")), 100)
        long = json.dumps("x" * 1_000)
        shortened = f"Key '{'x' * 27}...{'x' * 28}' is in one object twice"
        self.assertEqual(self.sentence(f"{{{long}: 1, {long}: 2}}"), shortened)
