"""One POST to a receiver that may be slow, broken or hostile, to an address that was checked before.

The name is resolved once, every address that it has is checked, and the connection goes to one of these,
so that a name which means another address a moment later leads nowhere else.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from OpenSSL import SSL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.error import ConnectionRefusedError as NobodyListensError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from asynctask.addresses import Allowed, normal_host
from asynctask.agents import AsGiven, Hiding
from asynctask.deliveries import Answer, NoAnswer, Refused
from asynctask.timers import call_off
from asynctask.tls import Named, NotTheHostError

DEADLINE: Final = 15.0
"""Seconds for all of it: the name, the connection, the request, and the answer to its last byte."""

CONNECT: Final = 5.0
"""Seconds for one of several addresses."""

MAX_ANSWER: Final = 64 * 1024
"""Bytes that are read of an answer, head and all; nobody looks at its body."""

LINGER: Final = 1.0
"""Seconds that the receiver has to close a connection after we did."""

HOSTS_KEPT: Final = 32
"""Hosts whose TLS settings are kept: each has all trust roots in memory, half a MiB."""

UNPACKED: Final = {b"Accept-Encoding": b"identity"}
HIDDEN: Final = (b"Set-Cookie", b"Content-Encoding")
"""Answers are not to be packed, and none is unpacked: few bytes can be very many."""

NOT_PUBLIC: Final = "The receiver's address is not public, and --callbacks-to does not name it"

Lookup = Callable[[str, int], Deferred[list[str]]]


class Poster:
    """Sends POSTs.

    :param reactor: connects.
    :param allowed: which addresses may be reached.
    :param lookup: resolves a name.
    :param clock: monotonic: a receiver that hangs is given up in time, though somebody sets the wall clock.
    :param tls: what a connection to a host of this name is secured with.
    :param deadline: seconds for all of it.
    """

    def __init__(
        self,
        reactor: Any,
        allowed: Allowed,
        lookup: Lookup,
        clock: IReactorTime,
        tls: Callable[[str], Any] = Named,
        deadline: float = DEADLINE,
    ) -> None:
        self.reactor = reactor
        self.clock = clock
        self.deadline = deadline
        self.allowed = allowed
        self.lookup = lookup
        # Its trust roots take some ms to read. Never for several hosts: the name is checked by it.
        self.tls = lru_cache(maxsize=HOSTS_KEPT)(tls)

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Deferred[Answer]:
        """Send a POST; fires when its connection is closed.

        :raises Refused: the receiver must not be reached.
        :raises NoAnswer: there was no whole head of an answer in time.
        """
        return ensureDeferred(_Exchange(self).run(url, headers, body))


@implementer(IAgentEndpointFactory)
class _Exchange:
    """One POST and its answer, on one connection."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster
        self._clock = poster.clock
        self._reactor = poster.reactor
        self._endpoint: _Checked | None = None
        self._waiting: Deferred[Any] | None = None
        self._late = False

    async def run(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        timer = self._clock.callLater(self._poster.deadline, self._too_late)
        try:
            response = await self._within(self._send(url, headers, body))
            await self._within(_rest_of(response))
        except EXPECTED as error:
            raise NoAnswer(self._reason(error)) from error
        finally:
            call_off(timer)
            if self._connection is not None:
                await self._connection.close(self._clock)
        retry_after = response.headers.getRawHeaders(b"Retry-After")
        return Answer(response.code, retry_after[0].decode("latin-1") if retry_after else None)

    @property
    def _connection(self) -> "_Connection | None":
        return None if self._endpoint is None else self._endpoint.connection

    def _send(self, url: str, headers: Mapping[str, str], body: bytes) -> Deferred[Any]:
        pool = HTTPConnectionPool(self._reactor, persistent=False)
        agent = Agent.usingEndpointFactory(self._reactor, self, pool)
        client = HTTPClient(Hiding(agent, HIDDEN, UNPACKED))
        return client.post(
            AsGiven.from_text(url),
            headers=Headers({name: [value] for name, value in headers.items()}),
            data=body,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )

    async def _within(self, deferred: Deferred[Any]) -> Any:
        self._waiting = deferred
        try:
            return await deferred
        finally:
            self._waiting = None

    def _too_late(self) -> None:
        self._late = True
        if self._waiting is not None:
            self._waiting.cancel()

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `twisted.web.iweb.IAgentEndpointFactory`."""
        self._endpoint = _Checked(self._poster, uri)
        return self._endpoint

    def _reason(self, error: Exception) -> str:
        if self._late:
            return f"No answer within {self._poster.deadline:g} seconds"
        if self._connection is not None and self._connection.exceeded:
            return f"The head of the answer has more than {MAX_ANSWER // 1024} KiB"
        return _told(error)


def _rest_of(response: Any) -> Deferred[None]:
    """Read on to the end, the limit or the deadline, whichever comes first: its status is the answer."""
    done: Deferred[None] = Deferred(lambda _: done.callback(None))
    response.deliverBody(_Ignoring(done))
    return done


class _Ignoring(Protocol):
    """Reads a body for nothing."""

    def __init__(self, done: Deferred[None]) -> None:
        self._done = done

    def connectionLost(self, _reason: Failure = connectionDone) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        if not self._done.called:
            self._done.callback(None)


@implementer(IStreamClientEndpoint)
class _Checked:
    """Connects to an address of the URL's host, if all that it has may be reached."""

    def __init__(self, poster: Poster, uri: URI) -> None:
        self.connection: _Connection | None = None
        self._poster = poster
        self._uri = uri
        self._host = uri.host.decode("ascii")

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """See `twisted.internet.interfaces.IStreamClientEndpoint`."""
        return ensureDeferred(self._connect(protocolFactory))

    async def _connect(self, factory: Any) -> Any:
        addresses = await self._poster.lookup(self._host, self._uri.port)
        if not addresses or not self._poster.allowed.permits(self._host, addresses):
            raise Refused(NOT_PUBLIC)
        self.connection = _Connection(factory)
        for address in addresses[:-1]:
            try:
                return await self._connect_to(address, self.connection)
            except ConnectError:
                continue
        return await self._connect_to(addresses[-1], self.connection)

    async def _connect_to(self, address: str, connection: "_Connection") -> Any:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        endpoint: Any = kind(self._poster.reactor, address, self._uri.port, timeout=CONNECT)
        if self._uri.scheme == b"https":
            endpoint = wrapClientTLS(self._tls(), endpoint)
        counted = await endpoint.connect(connection)
        return counted.wrappedProtocol

    def _tls(self) -> Any:
        try:
            return self._poster.tls(normal_host(self._host))
        except UnicodeError:
            raise NoAnswer("TLS knows no host of this name") from None


class _Counted(ProtocolWrapper):
    """Reads no more than its connection may."""

    factory: "_Connection"

    def dataReceived(self, data: bytes) -> None:
        self.factory.received += len(data)
        if self.factory.exceeded:
            _transport_of(self).abortConnection()
        else:
            super().dataReceived(data)


class _Connection(WrappingFactory):
    """The one connection of an exchange, of which only so many bytes are read."""

    noisy = False
    protocol = _Counted

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        wrapped.noisy = False
        self.received = 0
        self._closed: Deferred[None] | None = None

    @property
    def exceeded(self) -> bool:
        return self.received > MAX_ANSWER

    async def close(self, clock: Any) -> None:
        """End it, gently at first."""
        for open_one in list(self.protocols):
            self._closed = Deferred()
            transport = _transport_of(open_one)
            transport.loseConnection()
            timer = clock.callLater(LINGER, transport.abortConnection)
            await self._closed
            call_off(timer)

    def unregisterProtocol(self, p: Any) -> None:
        """See `WrappingFactory`: it is closed."""
        super().unregisterProtocol(p)
        if self._closed is not None:
            self._closed.callback(None)


def _transport_of(protocol: Protocol) -> ITCPTransport:
    """TCP, or TLS over it, which can do the same."""
    return cast(ITCPTransport, protocol.transport)


EXPECTED: Final = (
    NoAnswer,
    ConnectError,
    ConnectionClosed,
    ResponseFailed,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    SSL.Error,
    NotTheHostError,
    CancelledError,
    ConnectingCancelledError,
)
"""What a receiver, or its name, may make of an exchange."""


def _told(error: BaseException) -> str:
    """What happened, for whoever asked for the callback."""
    while reasons := getattr(error, "reasons", None):
        error = reasons[0].value
    match error:
        case NoAnswer():
            return str(error)
        case NobodyListensError():
            return "The connection was refused"
        case ConnectError():
            return "The host cannot be reached"
        case NotTheHostError():
            return "The TLS certificate is not the host's"
        case SSL.Error():
            return f"TLS failed ({_of_openssl(error)})"
        case ConnectionClosed() | CancelledError():
            return "The connection was closed before there was an answer"
        case _:
            return "The answer is no HTTP"


def _of_openssl(error: SSL.Error) -> str:
    """OpenSSL's own reason: the last of a list of (library, function, reason)."""
    found = error.args[0] if error.args else ()
    return str(found[-1][-1]) if isinstance(found, list) and found else type(error).__name__
