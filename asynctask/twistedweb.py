"""The HTTP connection as twisted.web has it, with a limit on bodies and a quiet end: the reference."""

from collections.abc import Callable
from time import monotonic
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from asynctask.access import CLIENT_LEFT, Access
from asynctask.deadlines import IDLE, LINGER

Refuse = Callable[[Request], bytes]


class LimitedRequest(Request):
    """A request whose body is refused as soon as it is known to be too large."""

    limit = 0
    refuse: Refuse
    seconds: Callable[[], float]

    _arrived: float | None = None
    _size = 0
    _refused = False
    _lingering: IDelayedCall | None = None

    def gotLength(self, length: int | None) -> None:
        """See `twisted.web.http.IRequest`; None is a chunked body."""
        super().gotLength(0)  # a large one would go into a temporary file, for which there may be no folder
        if (length or 0) > self.limit:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body has come."""
        self._size += len(data)
        if self._refused:
            return
        if self._size > self.limit:
            self._refuse_body()
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The whole request has come."""
        self._arrived = type(self).seconds()
        if not self._refused:
            super().requestReceived(command, path, version)
        elif self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
            self.finish()

    def connectionLost(self, reason: Failure) -> None:
        """The client has left."""
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        elif self._arrived is not None and isinstance(self.site, HttpServer):
            self.site.tell(self, self.code if self.startedWriting else CLIENT_LEFT)
        super().connectionLost(reason)

    def write(self, data: bytes) -> None:
        """Write, and after an answer that says so, close."""
        channel = self.channel  # None once the client has left
        if channel is not None:
            if channel.factory.ending and not self.startedWriting:
                self.setHeader(b"Connection", b"close")
            if self.responseHeaders.getRawHeaders(b"connection") == [b"close"]:
                channel.persistent = False
        super().write(data)

    def _refuse_body(self) -> None:
        """Answer now, and close the connection once the client has had time to read why."""
        self._refused = True
        self.clientproto = b"HTTP/1.1"
        self.path = self.channel._path.partition(b"?")[0]  # which would be set once the body has come
        self.requestHeaders.removeHeader(b"Expect")
        self.setHeader(b"Connection", b"close")
        body = type(self).refuse(self)
        self.write(body)
        self._lingering = self.channel.callLater(LINGER, self.channel.loseConnection)


class Connection(HTTPChannel):
    """One client's connection, on its server's list while it is open."""

    @property
    def busy(self) -> bool:
        """Whether something is being answered."""
        return bool(self.requests)

    def connectionMade(self) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        self.factory.connections.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        self.factory.connections.discard(self)
        super().connectionLost(reason)


class HttpServer(Site):
    """The HTTP server.

    :param limit: bytes that a body may have.
    :param refuse: answers a body over the limit.
    :param access: is told of every request that is over, but for malformed ones.
    :param seconds: a clock that nobody sets.
    :ivar ending: whether each answer is to be the last one of its connection.
    """

    noisy = False
    protocol = Connection  # type: ignore[assignment]

    def __init__(
        self,
        resource: IResource,
        limit: int,
        refuse: Refuse,
        access: Access | None = None,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        given = {"limit": limit, "refuse": refuse, "seconds": staticmethod(seconds)}
        request = type("ServerRequest", (LimitedRequest,), given)
        super().__init__(resource, requestFactory=request, timeout=IDLE, parsePOSTFormSubmission=False)
        self.connections: set[Connection] = set()
        self.ending = False
        self._access = access
        self._seconds = seconds

    def log(self, request: Any) -> None:
        """A request has its answer."""
        self.tell(request, request.code)

    def tell(self, request: Any, status: int) -> None:
        """Tell of a request that is over."""
        if self._access is not None:
            seconds = 0.0 if request._arrived is None else self._seconds() - request._arrived
            self._access(request.method, request.uri, status, request.sentLength, seconds, request.client)
