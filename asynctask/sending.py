"""How a client sends a request: with a deadline, and again where it was lost."""

import random
from collections.abc import Mapping
from ipaddress import ip_address
from time import time
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from hyperlink import URL
from treq.client import HTTPClient
from twisted.internet import defer
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, RequestTransmissionFailed, ResponseFailed
from twisted.web.iweb import IResponse

from asynctask import wire
from asynctask.addresses import is_host_name, normal_host
from asynctask.agents import AsGiven, Hiding
from asynctask.responses import Answer, Unavailable, Unexpected, Unreachable
from asynctask.stream import Body
from asynctask.tls import NamedHosts, NotTheHostError

WAIT: Final = 50
"""Seconds that one request waits for an end; the service waits no longer."""

SILENCE: Final = 45.0
"""Seconds without a byte after which a stream of events is dead: a comment comes every 15."""

IDLE: Final = 20
"""Seconds that a connection is kept for the next request; the service closes it after 75."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 60.0
"""Seconds before a request is sent again: doubled each time, with jitter."""

MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of one answer: a task's history has up to 1,000 errors of 10,000 characters, each of up
to 6 bytes."""

UNSENT: Final = (ConnectError, DNSLookupError)
LOST: Final = (*UNSENT, ConnectionClosed, RequestTransmissionFailed, ResponseFailed, defer.TimeoutError)
"""No whole answer came; what is UNSENT, nobody can have served."""

T = TypeVar("T")


class Sender:
    """Sends to the service at a URL; the parameters are those of `asynctask.client.Client`."""

    def __init__(self, base_url: str, reactor: Any, attempts: int, timeout: float, http: Any) -> None:
        self._base = _checked(base_url).rstrip("/")
        self._reactor = reactor
        self._attempts = attempts
        self._timeout = timeout
        self._pool: HTTPConnectionPool | None = None
        if http is None:
            self._pool = HTTPConnectionPool(reactor)
            self._pool.maxPersistentPerHost = 10
            self._pool.retryAutomatically = False  # whoever asks has to know that it may have been served
            self._pool.cachedConnectionTimeout = IDLE
            agent = Agent(reactor, NamedHosts(), pool=self._pool)
            http = HTTPClient(Hiding(agent, (b"Set-Cookie",)))
        self._http = http
        self._chance = random.random
        self._waiting: set[Deferred[Any]] = set()
        self._bodies: set[Body] = set()
        self._closed = False

    async def close(self) -> None:
        """Hang up; what is under way, and what comes later, ends in `CancelledError`."""
        self._closed = True
        for waiting in list(self._waiting):
            waiting.cancel()
        for body in list(self._bodies):
            body.stop()
        if self._pool is not None:
            # One whose answer is being read right now comes back to the pool after this turn.
            await deferLater(self._reactor, 0)
            for kept in self._pool._connections.values():
                for connection in kept:  # the pool would say goodbye over TLS, and wait for an answer
                    connection.transport.abortConnection()
            await self._pool.closeCachedConnections()

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = {},
        wait: int = 0,
        once: bool = False,
    ) -> Answer:
        """A request, sent until it is answered.

        :param wait: seconds for which the service may wait before it answers.
        :param once: never send again what may have been served.
        """
        content = None if body is None else _encoded(body)
        seconds = self._timeout + min(wait, WAIT)
        failures, uncertain = 0, False
        while True:
            try:
                asked = ensureDeferred(self._answer(method, path, headers, content))
                answer = await self._within(seconds, asked)
                if 200 <= answer.status < 300:
                    return answer
                problem = answer.error()
            except LOST as error:
                problem = _unreachable(error)
            failures += 1
            problem.uncertain = uncertain = uncertain or problem.uncertain
            if (
                not isinstance(problem, Unavailable)
                or failures >= self._attempts
                or problem.retry_after > LONGEST_PAUSE
                or (once and uncertain)
            ):
                raise problem
            await self.pause(problem.retry_after, failures - 1)

    async def _answer(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes | None
    ) -> Answer:
        more = {} if content is None else {"Content-Type": "application/json"}
        return await _whole(await self._request(method, path, {**headers, **more}, content))

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> Deferred[IResponse]:
        asked: Deferred[IResponse] = self._http.request(
            method,
            self._base + path if self._pool is None else AsGiven.from_text(self._base + path),
            headers=dict(headers),
            data=content,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        return asked

    def pause(self, at_least: float, failures: int) -> Deferred[None]:
        """Wait before the next try.

        :param at_least: seconds.
        :param failures: how many pauses there were before this one.
        """
        grown = min(FIRST_PAUSE * 2.0 ** min(failures, 60), LONGEST_PAUSE)
        pause = at_least + grown * (1 + self._chance()) / 2
        return self._within(None, deferLater(self._reactor, pause))

    def _within(self, seconds: float | None, under_way: Deferred[T]) -> Deferred[T]:
        """All waiting is here: with a deadline, and ended by `close`.

        Cancelled, it ends in `CancelledError`, whatever treq makes of it.
        """

        def give_up(outcome: Deferred[T]) -> None:
            self._waiting.discard(outcome)
            under_way.cancel()

        def pass_on(result: T | Failure) -> None:
            if outcome in self._waiting:
                self._waiting.discard(outcome)
                outcome.callback(result)

        outcome: Deferred[T] = Deferred(give_up)
        self._waiting.add(outcome)
        under_way.addBoth(pass_on)
        if self._closed:
            outcome.cancel()
        elif seconds is not None:
            outcome.addTimeout(seconds, self._reactor)
        return outcome

    async def open(self, path: str, position: str | None) -> Body | None:
        """Begin to read a stream of events; None where all was told.

        :raises Unavailable: also where it was lost; it is not sent again.
        """
        try:
            asked = ensureDeferred(self._open(path, position))
            body = await self._within(self._timeout, asked)
        except LOST as error:
            raise _unreachable(error) from error
        if body is not None:
            self._bodies.add(body)
        return body

    async def _open(self, path: str, position: str | None) -> Body | None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": position} if position else {})
        response = await self._request("GET", path, headers)
        if response.code != 200:
            answer = await _whole(response)
            if answer.status == 204:
                return None
            raise answer.error()
        body = Body(response)
        [given] = response.headers.getRawHeaders(b"content-type", [b""])[:1]
        if not given.startswith(b"text/event-stream"):
            body.stop()
            raise Unexpected(200, f"These are no events but {wire.shown(given.decode('latin-1'))}")
        return body

    async def read(self, body: Body) -> bytes:
        """What has come since, or nothing at the end.

        :raises Unreachable: it was cut off, or nothing comes any more.
        """
        try:
            return await self._within(SILENCE, body.read())
        except LOST as error:
            raise _unreachable(error) from error

    def leave(self, body: Body) -> None:
        """Read no more of it."""
        body.stop()
        self._bodies.discard(body)


def _checked(url: str) -> str:
    """The same in ASCII.

    :raises ValueError: no service can be there, or Twisted does not connect to its host.
    """
    if "@" in url:
        raise ValueError("The URL of a service has no user and no password")
    try:
        url = url if url.isascii() else URL.from_text(url).to_uri().to_text()
        found = urlsplit(url)
        host, port = found.hostname or "", found.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}") from None
    is_ours = found.scheme in ("http", "https") and not (found.query or found.fragment) and port != 0
    if not is_ours or not _is_host(host) or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r} is no URL of a service, such as http://localhost:8080")
    if "_" in host:
        raise ValueError(f"{url!r}: Twisted connects to no host whose name has a '_'; give it another one")
    return url


def _is_host(host: str) -> bool:
    """Whether it is an address, or a name that may be one."""
    if is_host_name(normal_host(host)):
        return True
    try:
        return not getattr(ip_address(host), "scope_id", None)
    except ValueError:
        return False


def _encoded(body: object) -> bytes:
    try:
        return wire.dump(body).encode()
    except RecursionError:
        raise ValueError("It is nested too deep") from None


async def _whole(response: IResponse) -> Answer:
    """:raises Unexpected: it has more than `MAX_ANSWER` bytes."""
    body, content = Body(response), bytearray()
    while part := await body.read():
        content += part
        if len(content) > MAX_ANSWER:
            body.stop()
            told = f"The answer has more than {MAX_ANSWER} bytes"
            raise Unexpected(response.code, told, uncertain=True)
    [after] = response.headers.getRawHeaders(b"retry-after", [b""])[:1]
    now = int(time())  # whole, as both forms of it are
    again_at = wire.retry_at(after.decode("latin-1"), now) or now
    return Answer(response.code, max(0.0, again_at - now), bytes(content))


def _unreachable(error: Exception) -> Unreachable:
    is_unsent = isinstance(error, UNSENT) or any(map(_is_distrust, getattr(error, "reasons", ())))
    problem = Unreachable(0, f"No whole answer came: {error!r}", uncertain=not is_unsent)
    problem.__cause__ = error
    return problem


def _is_distrust(reason: Failure) -> bool:
    """Whether it is about the certificate: nothing was sent to whoever has shown that."""
    return bool(reason.check(NotTheHostError)) or "certificate verify failed" in str(reason.value)
