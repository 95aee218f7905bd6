"""Our own connection in memory, for its tests."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from asynctask.httpserver import HttpServer
from asynctask.request import Request
from tests.channel_contract import LIMIT
from tests.wires import Wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD = b"GET /\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nConnection: close\r\nHost: a\r\n\r\n"


class Answers(Resource):
    """Answers method, path and body; at ``/slow`` when the test does so; at ``/big`` with a MiB, at
    ``/some`` with an eighth of it."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Request] = []
        self.taking = True
        self.secure = False

    def render(self, request: Any) -> bytes | int:
        self.asked.append(request)
        self.secure = request.isSecure()
        if request.path == b"/slow":
            return NOT_DONE_YET
        if request.path == b"/big":
            return b"x" * 2**20
        if request.path == b"/some":
            return b"x" * 2**17
        if request.path == b"/bug":
            raise ZeroDivisionError
        if request.path == b"/late-bug":
            request.write(b"whole")
            request.finish()
            raise ZeroDivisionError
        return b" ".join((request.method, request.uri, request.content.read()))

    def takes(self, request: Request) -> bool:
        return self.taking


class InMemory(SynchronousTestCase):
    """A server without sockets, and a clock that the test moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.app = Answers()
        self.log: list[tuple[Any, ...]] = []
        self.server = HttpServer(self.app, LIMIT, self.clock, now=lambda: 1_700_000_000)
        self.wire = Wire(self.server)

    def send(self, *pieces: bytes) -> list[int]:
        """Send, and tell the statuses of all answers so far."""
        return self.wire.send(*pieces).statuses

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)

    def assert_refused(self, status: int, wire: Wire | None = None) -> None:
        wire = wire or self.wire
        answer = wire.answers[-1]
        self.assertEqual((answer.status, wire.closed), (status, True), answer)
        self.assertEqual(answer.fields[b"content-type"], b"application/problem+json")
        self.assertEqual(answer.fields[b"connection"], b"close")
        self.assertIn(b'"status":%d' % status, answer.body)
