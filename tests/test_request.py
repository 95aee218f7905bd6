"""A request on our own connection is what twisted.web's is."""

from io import BytesIO
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import InvalidHeaderName
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyClass, verifyObject

from asynctask import request
from asynctask.httpserver import HttpServer
from asynctask.request import MOST_CACHED, Request, status_line
from tests.wires import CLIENT, SERVER, Answer, Wire

ASK = (
    b"POST /a%20b/c?d=1&d=&e=2 HTTP/1.1\r\nHost: tasks.example:81\r\nCookie: f=1; g=2; h\r\n"
    b"Authorization: Basic aTpq\r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 4\r\n\r\nbody"
)


class Kept(Resource):
    """Keeps the request for the test."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET


class RequestTestCase(SynchronousTestCase):
    """One request."""

    def setUp(self) -> None:
        self.kept = Kept()
        self.wire = Wire(HttpServer(self.kept, 1_000, Clock()))
        self.wire.send(ASK)
        [self.request] = self.kept.requests

    def finished(self) -> Answer:
        self.request.finish()
        [answer] = self.wire.answers
        return answer


class Asked(RequestTestCase):
    """What the client wants."""

    def test_it_is_a_request_of_twisted_web(self) -> None:
        self.assertTrue(verifyClass(IRequest, Request))
        self.request.prepath = []
        self.assertTrue(verifyObject(IRequest, self.request))

    def test_what_it_has_of_its_head(self) -> None:
        request = self.request
        self.assertEqual(
            (request.method, request.uri, request.path, request.clientproto),
            (b"POST", b"/a%20b/c?d=1&d=&e=2", b"/a%20b/c", b"HTTP/1.1"),
        )
        self.assertEqual(request.args, {b"d": [b"1", b""], b"e": [b"2"]})
        self.assertEqual((request.prepath, request.postpath), ([], [b"a b", b"c"]))
        self.assertEqual(request.requestHeaders.getRawHeaders("X-Twice"), ["1", "2"])
        self.assertEqual((request.getHeader("x-twice"), request.getHeader("none")), ("2", None))
        self.assertEqual(request.getAllHeaders()[b"host"], b"tasks.example:81")
        self.assertEqual(request.getRequestHostname(), b"tasks.example")
        self.assertEqual((request.getCookie(b"f"), request.getCookie(b"h")), (b"1", None))
        self.assertEqual((request.getUser(), request.getPassword()), (b"i", b"j"))

    def test_its_body_can_be_read(self) -> None:
        self.assertIsInstance(self.request.content, BytesIO)
        self.assertEqual((self.request.content.read(), self.request.content.read()), (b"body", b""))

    def test_its_addresses(self) -> None:
        request = self.request
        self.assertEqual((request.getHost(), request.getClientAddress()), (SERVER, CLIENT))
        self.assertFalse(request.isSecure())
        request.setHost(b"other.example", 443, ssl=True)
        self.assertTrue(request.isSecure())
        self.assertEqual(request.getHost(), IPv4Address("TCP", b"other.example", 443))  # type: ignore[arg-type]

    def test_what_is_changed_in_one_changes_no_other(self) -> None:
        self.request.requestHeaders.setRawHeaders("X-Twice", ["3"])
        self.finished()
        self.wire.send(ASK)
        _, other = self.kept.requests
        self.assertEqual(other.requestHeaders.getRawHeaders("X-Twice"), ["1", "2"])


class Answered(RequestTestCase):
    """What the client gets."""

    def test_a_field_set_again_replaces_the_first(self) -> None:
        self.request.setHeader("x-mine", "1")
        self.request.setHeader(b"X-Mine", b"2")
        self.assertEqual(self.finished().fields[b"x-mine"], b"2")

    def test_no_field_forges_another(self) -> None:
        self.request.setHeader("X-Mine", "1\r\nX-Forged: 2")
        self.request.responseHeaders.addRawHeader("X-Other", "1\nX-Forged: 3")
        answer = self.finished()
        self.assertEqual(answer.fields[b"x-mine"], b"1 X-Forged: 2")
        self.assertNotIn(b"x-forged", answer.fields)
        self.assertRaises(InvalidHeaderName, self.request.setHeader, "X:\r\n", "1")

    def test_nor_does_one_with_an_end_of_line_that_is_no_crlf(self) -> None:
        for number, end in enumerate("\n\r"):
            self.request.setHeader(f"X-Mine-{number}", f"1{end}X-Forged: 2")
        fields = self.finished().fields
        self.assertEqual([fields[b"x-mine-%d" % number] for number in range(2)], [b"1 X-Forged: 2"] * 2)

    def test_fields_may_be_set_in_all_the_ways(self) -> None:
        self.request.setHeader("X-First", "1")
        self.request.responseHeaders.setRawHeaders("X-Second", ["2"])
        self.request.setHeader("X-Third", "3")
        self.request.addCookie("k", "v")
        self.request.setETag(b'"tag"')
        self.request.setLastModified(1_700_000_000)
        fields = self.finished().fields
        self.assertEqual(
            [fields[name] for name in (b"x-first", b"x-second", b"x-third")], [b"1", b"2", b"3"]
        )
        self.assertEqual((fields[b"set-cookie"], fields[b"etag"]), (b"k=v", b'"tag"'))
        self.assertEqual(fields[b"last-modified"], b"Tue, 14 Nov 2023 22:13:20 GMT")

    def test_a_date_of_ones_own_is_the_only_one(self) -> None:
        self.request.setHeader("Date", "Tue, 14 Nov 2023 22:13:20 GMT")
        self.assertEqual(self.finished().fields[b"date"], b"Tue, 14 Nov 2023 22:13:20 GMT")

    def test_a_code_may_have_words_of_its_own(self) -> None:
        self.request.setResponseCode(299, b"Nearly")
        self.finished()
        self.assertTrue(self.wire.raw.startswith(b"HTTP/1.1 299 Nearly\r\n"))

    def test_a_redirect(self) -> None:
        self.request.redirect(b"/there")
        answer = self.finished()
        self.assertEqual((answer.status, answer.fields[b"location"]), (302, b"/there"))

    def test_the_head_leaves_when_it_is_asked_to(self) -> None:
        self.request.write(b"")
        self.assertTrue(self.wire.raw.endswith(b"Transfer-Encoding: chunked\r\n\r\n"))

    def test_a_stream_is_sent_in_chunks(self) -> None:
        for piece in (b"ab", b"", b"c" * 20):
            self.request.write(piece)
        self.assertEqual(len(self.wire.transport.writes), 2)
        self.assertTrue(self.wire.raw.endswith(b"\r\n\r\n2\r\nab\r\n14\r\n" + b"c" * 20 + b"\r\n"))
        self.assertEqual(self.finished().body, b"ab" + b"c" * 20)

    def test_an_answer_with_a_length_is_sent_as_it_is(self) -> None:
        self.request.setHeader("Content-Length", "3")
        self.request.write(b"ab")
        self.request.write(b"c")
        self.assertEqual(self.finished().body, b"abc")
        self.assertNotIn(b"chunked", self.wire.raw)

    def test_an_answer_without_anything_says_so(self) -> None:
        self.assertEqual(self.finished().fields[b"content-length"], b"0")

    def test_after_the_end_there_is_nothing_to_write(self) -> None:
        self.finished()
        self.assertRaises(RuntimeError, self.request.write, b"more")
        self.request.finish()
        [warning] = self.flushWarnings()
        self.assertIn("twice", warning["message"])

    def test_what_fails_in_the_middle_breaks_off(self) -> None:
        self.request.write(b"half")
        self.request.processingFailed(Failure(ZeroDivisionError()))
        self.assertTrue(self.wire.transport.ended)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_after_the_client_has_gone_nothing_breaks(self) -> None:
        self.wire.leave()
        self.request.unregisterProducer()
        self.request.processingFailed(Failure(ZeroDivisionError()))
        self.assertEqual(self.wire.raw, b"")

    def test_very_many_names_and_codes_are_not_all_kept(self) -> None:
        for number in range(2 * MOST_CACHED):
            self.request.setHeader(f"X-Name-{number}", "1")
            status_line(b"HTTP/1.1", 200, b"%d" % number)
        self.assertEqual(len(self.finished().fields), 2 * MOST_CACHED + 2)
        self.assertLessEqual(max(len(request._NAMES), len(request._STATUS)), MOST_CACHED)
