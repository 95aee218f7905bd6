"""A server that answers as it is told, loses and cuts, for the tests of the client."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import directlyProvides, providedBy

from asynctask.client import Client

T = TypeVar("T")

reactor: Any = the_reactor

MOMENT = "2026-11-24T18:00:00.123Z"
TASK = {
    "task_id": "task_1",
    "name": "a",
    "kind": "simulate",
    "status": "running",
    "attempt": 1,
    "accepted_at": MOMENT,
    "run_at": MOMENT,
    "of_a_newer_service": {"x": 1},
}
ACCEPTED = {"task_id": "task_1", "name": "a", "status": "accepted", "message": "m", "newer": 1}


def event(kind: str, data: object, position: str | None = None) -> bytes:
    told = f"event: {kind}\ndata: {json.dumps(data)}\n"
    return (told + (f"id: {position}\n" if position else "") + "\n").encode()


def change(status: str, position: str) -> bytes:
    return event("change", TASK | {"status": status}, position)


class Hurried:
    """The reactor, where a second takes 1/50; it tells what was waited for."""

    FASTER = 50

    def __init__(self) -> None:
        self.waits: list[tuple[float, Callable[..., object]]] = []
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def callLater(self, delay: float, call: Callable[..., object], *args: Any, **more: Any) -> Any:
        self.waits.append((delay, call))
        return reactor.callLater(delay / self.FASTER, call, *args, **more)

    def pauses(self) -> list[float]:
        """Between one request and the next."""
        return [wait for wait, call in self.waits if getattr(call, "__name__", "") == "callback"]


Step = Callable[[Request], None]


class Fake(Resource):
    """Answers each request with the next step of a script."""

    isLeaf = True

    def __init__(self, *script: Step) -> None:
        super().__init__()
        self.script = list(script)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    def render(self, request: Request) -> int:
        headers = {
            name.decode().lower(): values[0].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        method, uri = request.method.decode(), request.uri.decode()
        self.asked.append((method, uri, headers, request.content.read() if request.content else b""))
        self.script.pop(0)(request)
        return NOT_DONE_YET

    def header(self, name: str) -> list[str | None]:
        return [headers.get(name) for _, _, headers, _ in self.asked]


def answer(status: int, body: object = b"", **headers: str | bytes) -> Step:
    def step(request: Request) -> None:
        request.setResponseCode(status)
        for name, value in headers.items():
            given = value.encode() if isinstance(value, str) else value
            request.setHeader(name.replace("_", "-").encode(), given)
        request.write(body if isinstance(body, bytes) else json.dumps(body).encode())
        request.finish()

    return step


def problem(
    status: int,
    detail: str,
    type: str = "about:blank",  # noqa: A002
    **headers: str | bytes,
) -> Step:
    return answer(status, {"type": type, "detail": detail, "status": status}, **headers)


def lose(request: Request) -> None:
    """Take the request, and hang up."""
    request.channel.loseConnection()


def hang(request: Request) -> None:
    """Never answer."""


def tell(*parts: bytes, then: Step = lose, position: str | None = None) -> Step:
    """A stream of events, in these writes."""

    def step(request: Request) -> None:
        if position is not None:
            request.setHeader("Last-Event-ID", position)
        request.setHeader("Content-Type", "text/event-stream; charset=utf-8")
        waiting = list(parts)

        def write() -> None:
            if request.finished or request._disconnected:
                return
            if not waiting:
                then(request)
                return
            request.write(waiting.pop(0))
            reactor.callLater(0, write)

        write()

    return step


def finish(request: Request) -> None:
    request.finish()


class SocketTestCase(TestCase):
    """A client, and a server that does what the script says."""

    timeout = 10

    def serve(self, *script: Step, interface: str = "127.0.0.1", **settings: Any) -> Client:
        self.fake = Fake(*script)
        site = Site(self.fake)
        site.noisy = False
        port = reactor.listenTCP(0, site, interface=interface)
        self.addCleanup(port.stopListening)
        self.hurried = Hurried()
        host = f"[{interface}]" if ":" in interface else interface
        self.url = f"http://{host}:{port.getHost().port}"
        # A busy machine is no failure: 20 real seconds.
        self.client = Client(self.url, self.hurried, **{"timeout": 1_000, **settings})
        self.addCleanup(lambda: ensureDeferred(self.client.close()))
        return self.client
