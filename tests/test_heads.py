"""The head of a request."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.heads import CHUNKED, MAX_FIELDS, MAX_HEAD, Head, check_beginning, parse
from asynctask.problems import HeadTooLarge, Invalid, Problem

LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: a\r\n"


def head_of(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> Head:
    return parse(b"\r\n".join((line, *fields, b"", b"")))


class Reading(SynchronousTestCase):
    """What a head says."""

    def test_method_target_and_version(self) -> None:
        head = head_of(b"Host: a", line=b"POST /a/b?c=d HTTP/1.1")
        self.assertEqual(
            (head.method, head.uri, head.path, head.version), (b"POST", b"/a/b?c=d", b"/a/b", b"HTTP/1.1")
        )
        self.assertEqual(head_of(line=b"GET / HTTP/1.0").version, b"HTTP/1.0")

    def test_any_method_is_one(self) -> None:
        for method in (b"FOO", b"get", b"M-SEARCH", b"!#$%&'*+-.^_`|~", b"DESCRIBE"):
            self.assertEqual(head_of(line=method + b" / HTTP/1.1").method, method)

    def test_a_target_may_have_letters_beyond_ascii(self) -> None:
        self.assertEqual(head_of(line=b"GET /?name=\xc3\xa9 HTTP/1.1").uri, b"/?name=\xc3\xa9")

    def test_names_of_fields_have_no_case_and_values_no_space_around(self) -> None:
        head = head_of(b"HoSt:\t a b \t ", b"X-Empty:", b"X-Blank:  ", b"x-twice: 1", b"X-Twice: 2")
        expected = {b"host": [b"a b"], b"x-empty": [b""], b"x-blank": [b""], b"x-twice": [b"1", b"2"]}
        self.assertEqual(head.fields, expected)

    def test_the_host_of_an_absolute_target_is_the_host(self) -> None:
        for target, uri in (
            (b"http://b.example:80/c?d", b"/c?d"),
            (b"HTTPS://b.example:80", b"/"),
            (b"http://b.example:80?d", b"/?d"),
        ):
            head = head_of(b"Host: a", line=b"GET " + target + b" HTTP/1.1")
            self.assertEqual((head.uri, head.fields[b"host"]), (uri, [b"b.example:80"]))

    def test_that_does_not_replace_a_host_that_is_missing_or_there_twice(self) -> None:
        line = b"GET http://b/ HTTP/1.1"
        self.assertNotIn(b"host", head_of(line=line).fields)
        self.assertEqual(head_of(b"Host: a", b"Host: a", line=line).fields[b"host"], [b"a", b"a"])

    def test_over_http_1_0_it_is_the_host_where_there_is_none(self) -> None:
        line = b"GET http://b/ HTTP/1.0"
        self.assertEqual(head_of(line=line).fields[b"host"], [b"b"])
        self.assertEqual(head_of(b"Host: a", line=line).fields[b"host"], [b"b"])
        self.assertEqual(head_of(b"Host: a", b"Host: a", line=line).fields[b"host"], [b"a", b"a"])

    def test_options_may_be_of_the_whole_server(self) -> None:
        self.assertEqual(head_of(line=b"OPTIONS * HTTP/1.1").path, b"*")

    def test_the_length_of_the_body(self) -> None:
        self.assertEqual(head_of().length, 0)
        self.assertEqual(head_of(b"Content-Length: 0012").length, 12)
        self.assertEqual(head_of(b"Content-Length: 9999999999999").length, 9_999_999_999_999)
        self.assertEqual(head_of(b"Transfer-Encoding: CHUNKED").length, CHUNKED)

    def test_whether_the_connection_goes_on(self) -> None:
        for line, connection, expected in (
            (b"GET / HTTP/1.1", b"X: y", True),
            (b"GET / HTTP/1.1", b"Connection: close", False),
            (b"GET / HTTP/1.1", b"Connection: te,Close", False),
            (b"GET / HTTP/1.1", b"Connection: te\r\nConnection: close", False),
            (b"GET / HTTP/1.1", b"Connection: enclose", True),
            (b"GET / HTTP/1.0", b"X: y", False),
            (b"GET / HTTP/1.0", b"Connection: Keep-Alive", True),
            (b"GET / HTTP/1.0", b"Connection: keep-alive, close", False),
        ):
            self.assertEqual(head_of(connection, line=line).persistent, expected, connection)

    def test_an_upgrade_is_passed_over(self) -> None:
        head = head_of(
            b"Upgrade: h2c",
            b"Connection: Upgrade, HTTP2-Settings",
            b"HTTP2-Settings: AA",
            b"Content-Length: 5",
        )
        self.assertEqual((head.length, head.persistent), (5, True))


class Refusing(SynchronousTestCase):
    """What is no head of HTTP/1."""

    def refused(self, *heads: bytes) -> None:
        for head in heads:
            with self.assertRaises(Invalid, msg=head) as caught:
                parse(head + b"\r\n\r\n")
            self.assertIn(("Connection", "close"), caught.exception.headers)

    def test_first_lines(self) -> None:
        self.refused(
            *(
                b"GET /",
                b"GET / HTTP/0.9",
                b"GET / HTTP/1.2",
                b"GET / HTTP/2.0",
                b"GET / http/1.1",
                b"GET /  HTTP/1.1",
            ),
            *(
                b"GET  / HTTP/1.1",
                b"GET\t/ HTTP/1.1",
                b" GET / HTTP/1.1",
                b"GET / HTTP/1.1 ",
                b"GET / HTTP/1.11",
            ),
            *(
                b"G(T / HTTP/1.1",
                b"G\xc3\xa9T / HTTP/1.1",
                b"GET /a b HTTP/1.1",
                b"GET /\x01 HTTP/1.1",
                b"GET /\x7f HTTP/1.1",
            ),
            *(
                b"GET a HTTP/1.1",
                b"GET * HTTP/1.1",
                b"CONNECT a:443 HTTP/1.1",
                b"GET ftp://a/ HTTP/1.1",
                b"OPTIONS a HTTP/1.1",
                b"PRI * HTTP/2.0",
            ),
        )

    def test_what_is_refused_before_llhttp_sees_it(self) -> None:
        for field, why in (
            (b"X: a\nY: b", "CR and LF"),
            (b"X: a\rb", "CR and LF"),
            (b"X: a\x00b", "NUL"),
            (b"X: a\r\n b", "folded"),
            (b"X:\r\n\tb", "folded"),
        ):
            with self.assertRaises(Invalid, msg=field) as caught:
                head_of(field)
            self.assertIn(why, caught.exception.detail)

    def test_fields(self) -> None:
        self.refused(
            *(
                LINE + b"X: a\r\n b",
                LINE + b"X:\r\n\tb",
                LINE + b" X: a",
                LINE + b"X : a",
                LINE + b"X\t: a",
            ),
            *(
                LINE + b"X: a\nY: b",
                LINE + b"X: a\rb",
                LINE + b"X: a\x00b",
                LINE + b"X: \x01",
                LINE + b"X: \x7f",
            ),
            *(LINE + b"X(: a", LINE + b": a", LINE + b"X", LINE + b"\xc3\xa9: a", LINE + b'"X": a'),
        )

    def test_lengths(self) -> None:
        self.refused(
            *(LINE + b"Content-Length: 5\r\ncontent-length: 5", LINE + b"Content-Length: 5, 5"),
            *(
                LINE + b"Content-Length: " + length
                for length in (b"", b"+5", b"-5", b"0x5", b"5 5", b"5;", b"\xb2")
            ),
            LINE + b"Content-Length: " + b"1" * 5_000,
        )

    def test_codings(self) -> None:
        coding = b"Transfer-Encoding: "
        self.refused(
            *(
                LINE + coding + b"chunked\r\nContent-Length: 5",
                LINE + b"Content-Length: 5\r\n" + coding + b"chunked",
            ),
            *(LINE + coding + b"chunked\r\n" + coding + b"chunked", LINE + coding + b"gzip, chunked"),
            *(
                LINE + coding + b"chunked, chunked",
                LINE + coding + b"identity",
                LINE + coding + b"xchunked",
            ),
            *(
                LINE + coding + b"\x0bchunked",
                LINE + coding + b'"chunked"',
                LINE + coding,
                LINE + coding + b"chunked;q=1",
            ),
            b"GET / HTTP/1.0\r\n" + coding + b"chunked",
        )

    def test_a_body_with_two_lengths_whatever_llhttp_thinks_of_it(self) -> None:
        for fields in (
            {b"transfer-encoding": [b"chunked"], b"content-length": [b"5"]},
            {b"content-length": [b"5", b"5"]},
            {b"content-length": [b"+5"]},
        ):
            self.assertRaises(Invalid, Head, b"POST", b"/", b"HTTP/1.1", fields)

    def test_a_head_without_an_end(self) -> None:
        self.assertRaises(Invalid, parse, LINE + HOST)

    def test_too_many_fields(self) -> None:
        parse(LINE + b"X: y\r\n" * MAX_FIELDS + b"\r\n")
        with self.assertRaises(HeadTooLarge):
            parse(LINE + b"X: y\r\n" * (MAX_FIELDS + 1) + b"\r\n")

    @given(st.binary(max_size=60), st.binary(max_size=60))
    def test_whatever_comes_is_read_or_refused(self, before: bytes, after: bytes) -> None:
        for raw in (before + b"\r\n\r\n", LINE + before + b"X" + after + b"\r\n\r\n"):
            try:
                head = parse(raw)
            except Problem:
                continue
            self.assertNotIn(b"\n", b"".join(head.fields) + head.uri)


class Beginning(SynchronousTestCase):
    """A head of which only a part has come."""

    def test_a_head_may_come_bit_by_bit(self) -> None:
        whole = LINE + HOST + b"\r\n"
        for size in range(1, len(whole)):
            check_beginning(whole[:size])

    def test_what_can_be_no_head_is_refused_at_once(self) -> None:
        for begun in (
            b"\x16\x03\x01",
            b" GET",
            b"\r\r",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\nX: a\rb",
            b"{",
        ):
            with self.assertRaises(Invalid, msg=begun):
                check_beginning(begun)

    def test_a_first_line_that_is_none_is_refused_before_the_head_is_whole(self) -> None:
        for line in (b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.2\r\n", b"GET /\r\nHost: a"):
            with self.assertRaises(Invalid, msg=line):
                check_beginning(line)

    def test_it_has_a_limit(self) -> None:
        check_beginning(b"G" * (MAX_HEAD - 1))
        with self.assertRaises(HeadTooLarge) as caught:
            check_beginning(b"G" * MAX_HEAD)
        self.assertIn(("Connection", "close"), caught.exception.headers)
