"""What both connections promise, over real sockets: bodies that are too large, and the end."""

import http.client
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IPullProducer
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.filepath import FilePath
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import File
from zope.interface import implementer

from asynctask import httpserver
from asynctask.deadlines import close_idle
from asynctask.httpserver import finish_answers
from tests.turns import PATIENCE
from tests.wires import parse_answers

LIMIT = 1_000

END = b"\r\n\r\n"
"""Of a head."""

T = TypeVar("T")


@implementer(IPullProducer)
class Pieces:
    """Writes a piece of the answer whenever it is asked for one."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.left = [b"one ", b"two ", b"three"]

    def resumeProducing(self) -> None:
        self.request.write(self.left.pop(0))
        if not self.left:
            self.request.unregisterProducer()
            self.request.finish()

    def stopProducing(self) -> None:
        """See `IPullProducer`."""


class Echo(Resource):
    """Answers how many bytes came; at ``/slow`` only when it is told to, at ``/pieces`` in pieces, and at
    ``/file`` with a file."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Request] = []
        self.file = Resource()

    def render(self, request: Request) -> bytes | int:
        if request.path == b"/file":
            rendered: bytes | int = self.file.render(request)
            return rendered
        if request.path == b"/pieces":
            request.registerProducer(Pieces(request), False)
            return NOT_DONE_YET
        if request.path == b"/slow":
            self.waiting.append(request)
            return NOT_DONE_YET
        if request.path == b"/last":
            request.setHeader("Connection", "close")
        assert request.content is not None
        return b"%d" % len(request.content.read())


if TYPE_CHECKING:
    Base = TestCase
else:
    Base = object


class ChannelContract(Base):
    """A server with a small limit, and clients in threads."""

    def server_of(self, resource: Resource) -> Any:
        raise NotImplementedError

    def setUp(self) -> None:
        self.echo = Echo()
        self.server = self.server_of(self.echo)
        listens: Any = reactor
        tcp = listens.listenTCP(0, self.server, interface="127.0.0.1")
        self.port: int = tcp.getHost().port
        self.path = self.mktemp()
        for listening in (tcp, listens.listenUNIX(self.path, self.server)):
            self.addCleanup(listening.stopListening)
        self.addCleanup(self._close_all)

    async def _close_all(self) -> None:
        while close_idle(self.server.connections):
            await self.pause()

    def pause(self) -> Deferred[None]:
        return deferLater(reactor, 0.01)

    async def client(self, run: Callable[..., T], *args: Any) -> T:
        found: T = await deferToThread(run, *args)
        return found

    def raw(self, *pieces: bytes, until: bytes = b"") -> bytes:
        """Send pieces, and read until the server closes, or this has come."""
        return self.read(socket.create_connection(("127.0.0.1", self.port)), *pieces, until=until)

    def raw_unix(self, *pieces: bytes) -> bytes:
        """The same over a unix socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        return self.read(connection, *pieces)

    def read(self, connection: socket.socket, *pieces: bytes, until: bytes = b"") -> bytes:
        answer = b""
        with connection, suppress(ConnectionError):
            connection.settimeout(PATIENCE)
            for piece in pieces:
                connection.sendall(piece)
            while not (until and until in answer) and (chunk := connection.recv(65_536)):
                answer += chunk
        return answer

    def post(self, size: int) -> tuple[int, bytes, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("POST", "/", b"x" * size)
        response = connection.getresponse()
        body, close = response.read(), response.getheader("Connection")
        connection.close()
        return response.status, body, close

    async def test_a_body_up_to_the_limit_is_taken(self) -> None:
        self.assertEqual(await self.client(self.post, LIMIT), (200, b"1000", None))

    async def test_a_larger_body_is_refused_and_the_client_reads_why(self) -> None:
        for size in (LIMIT + 1, 5_000_000):
            status, body, close = await self.client(self.post, size)
            self.assertEqual((status, close), (413, "close"))
            self.assertIn(b'"status":413', body)

    async def test_a_larger_body_in_chunks_is_refused_too(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = b"100\r\n" + b"x" * 256 + b"\r\n"
        answer = await self.client(self.raw, head, *[chunks] * 20, b"0\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 413"), answer)
        self.assertEqual(answer.count(b"HTTP/1.1"), 1)

    async def test_a_refused_client_is_not_asked_to_go_on(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        refused = await self.client(partial(self.raw, head % 5_000, until=END))
        self.assertTrue(refused.startswith(b"HTTP/1.1 413"), refused)
        taken = await self.client(partial(self.raw, head % 5, until=END))
        self.assertTrue(taken.startswith(b"HTTP/1.1 100"), taken)

    async def test_a_client_that_leaves_in_the_middle_of_a_refused_body_disturbs_nothing(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"

        def leave() -> None:
            with socket.create_connection(("127.0.0.1", self.port)) as connection:
                connection.sendall(head + b"x" * 1_500)

        await self.client(leave)
        self.assertEqual((await self.client(self.post, 1))[0], 200)

    async def test_forms_are_not_parsed(self) -> None:
        body = b"a=1&b=2"
        head = (
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" % len(body)
        )
        answer = await self.client(self.raw, head + body)
        self.assertTrue(answer.endswith(b"\r\n\r\n7"), answer)

    async def test_at_the_end_idle_connections_are_closed_and_answers_finished(self) -> None:
        ask = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
        slow = deferToThread(self.raw, ask)
        idle = deferToThread(self.raw, b"")
        while not self.echo.waiting:
            await self.pause()
        while close_idle(self.server.connections) != 1 or not idle.called:
            await self.pause()
        self.assertFalse(slow.called)
        self.echo.waiting[0].write(b"done")
        self.echo.waiting[0].finish()
        while close_idle(self.server.connections):
            await self.pause()
        answer: bytes = await slow
        self.assertIn(b"done", answer)

    async def test_at_the_end_each_answer_is_the_last_of_its_connection(self) -> None:
        self.server.ending = True
        self.assertEqual(await self.client(self.post, 1), (200, b"1", "close"))

    async def test_an_answer_to_a_client_that_has_left_goes_nowhere(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            while not self.echo.waiting:
                await self.pause()
        while self.server.connections:
            await self.pause()
        self.echo.waiting[0].write(b"done")
        self.assertEqual((await self.client(self.post, 1))[:2], (200, b"1"))

    async def test_so_is_one_that_was_asked_for_before(self) -> None:
        asking = deferToThread(self.raw, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        while not self.echo.waiting:
            await self.pause()
        self.server.ending = True
        self.echo.waiting[0].finish()
        answer: bytes = await asking
        self.assertIn(b"connection: close\r\n", answer.lower())

    async def test_at_the_end_who_has_just_come_is_answered(self) -> None:
        clock: Any = reactor
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            while not self.server.connections:
                await self.pause()
            ended = ensureDeferred(finish_answers(self.server.connections, clock))
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await ended
            self.assertEqual((await self.client(client.recv, 12)), b"HTTP/1.1 200")

    async def test_at_the_end_whoever_does_not_read_his_answer_is_cut_off(self) -> None:
        self.patch(httpserver, "LAST_ANSWERS", 0.2)
        clock: Any = reactor
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            while not self.echo.waiting:
                await self.pause()
            self.echo.waiting[0].write(b"x" * 20_000_000)
            self.echo.waiting[0].finish()
            await finish_answers(self.server.connections, clock)
            while self.server.connections:
                await self.pause()

    async def test_an_answer_that_says_so_is_the_last(self) -> None:
        ask = b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = await self.client(self.raw, ask * 2)
        self.assertEqual(answer.count(b"HTTP/1.1 200"), 1)

    async def assert_comes_whole(self, path: bytes, expected: bytes) -> None:
        ask = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path
        for way in (self.raw, self.raw_unix):
            [answer] = parse_answers(await self.client(way, ask))
            self.assertEqual((answer.status, answer.body == expected), (200, True), len(answer.body))

    async def test_what_is_asked_for_each_piece_comes_whole(self) -> None:
        await self.assert_comes_whole(b"/pieces", b"one two three")

    async def test_a_file_comes_whole(self) -> None:
        path, content = FilePath(self.mktemp()), bytes(range(250)) * 1_200
        path.setContent(content)
        self.echo.file = File(path.path)
        await self.assert_comes_whole(b"/file", content)
