"""twisted.web's connection, with a limit on bodies and a quiet end."""

import tempfile
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from asynctask.door import answer_too_large
from asynctask.twistedweb import HttpServer
from tests.channel_contract import LIMIT, ChannelContract
from tests.wires import Wire


class StockTests(ChannelContract, TestCase):
    """`--http twisted.web`."""

    def server_of(self, resource: Resource) -> Any:
        return HttpServer(resource, LIMIT, answer_too_large)


class Slow(Resource):
    """Answers when the test does so."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def render(self, request: Any) -> int:
        self.asked.append(request)
        return NOT_DONE_YET


class Bodies(SynchronousTestCase):
    """What is sent."""

    def test_a_large_one_needs_no_folder_for_temporary_files(self) -> None:
        self.patch(tempfile, "tempdir", self.mktemp())
        size, slow = 200_000, Slow()
        wire = Wire(HttpServer(slow, size, answer_too_large))
        wire.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        [request] = slow.asked
        self.assertEqual(len(request.content.read()), size)
        wire.leave()


class Accesses(SynchronousTestCase):
    """Whoever wants to know of every request."""

    def test_it_is_told_how_long_each_took_by_a_clock_that_nobody_sets(self) -> None:
        told: list[tuple[Any, ...]] = []
        clock, slow = Clock(), Slow()
        server: Any = HttpServer(slow, LIMIT, answer_too_large, lambda *of: told.append(of), clock.seconds)
        server.reactor = Clock()
        left, stayed = (Wire(server).send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(2))
        clock.advance(1.5)
        left.leave()
        clock.advance(1)
        slow.asked[1].finish()
        self.assertEqual(stayed.statuses, [200])
        self.assertEqual(
            [(uri, status, took) for _, uri, status, _, took, _ in told],
            [(b"/a", 499, 1.5), (b"/a", 200, 2.5)],
        )
