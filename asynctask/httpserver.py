"""The HTTP server: it has the connections, and closes them when it ends."""

import time
from collections.abc import Callable, Collection
from typing import Any, Final

from twisted.internet.interfaces import IProtocolNegotiationFactory, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.web.resource import IResource
from zope.interface import implementer

from asynctask.access import Access
from asynctask.channel import Connection
from asynctask.deadlines import Deadlines, close_idle, unsent
from asynctask.request import Request

LAST_ANSWERS: Final = 2.0
"""Seconds that answers under way have to go out once the port is closed."""

MOST_UNREAD: Final = 256 * 1024 * 1024
"""Bytes of answers that clients do not read, on all connections: those with most of them are cut off."""

LOOK: Final = 0.05
"""Seconds between two looks whether the answers have gone out."""


@implementer(IProtocolNegotiationFactory)
class HttpServer(Deadlines, ServerFactory):
    """The HTTP server.

    :param resource: answers every request. Where it has a method ``takes``, that is asked whether the body
        of a request will be taken, if the client waits to know. Where it has ``limit_of``, that says for a
        path what a client is told whose body is over the limit of all.
    :param limit: bytes that a body may have.
    :param clock: for the deadlines, and how long a request took.
    :param access: is told of every request that is over.
    :param now: wall time, seconds since the epoch.
    :ivar coming: bytes of bodies that are not whole yet.
    :ivar ending: whether each answer is to be the last one of its connection.
    """

    noisy = False
    protocol = Connection
    displayTracebacks = False

    def __init__(
        self,
        resource: IResource,
        limit: int,
        clock: IReactorTime,
        access: Access | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock, now)
        self.resource = resource
        self.limit = limit
        self.access = access
        self.coming = 0
        self.ending = False
        self.limit_of: Callable[[bytes], int] = getattr(resource, "limit_of", lambda _path: limit)
        self.takes: Callable[[Request], bool] = getattr(resource, "takes", lambda _: True)

    def acceptableProtocols(self) -> list[bytes]:
        """See `twisted.internet.interfaces.IProtocolNegotiationFactory`: what TLS may agree on."""
        return [b"http/1.1", b"http/1.0"]

    def _tick(self) -> None:
        super()._tick()
        left = {one: unsent(one.transport) for one in self.connections if one.clogged}
        too_much = sum(left.values()) - MOST_UNREAD
        for one in sorted(left, key=left.__getitem__, reverse=True):
            if too_much <= 0:
                break
            too_much -= left[one]
            one.abort()

    def log(self, connection: Connection, request: Request | None, status: int, sent: int = 0) -> None:
        """Tell `access` of a request that is over; None was none.

        :param sent: bytes of a body that the request itself has not sent.
        """
        assert self.access is not None
        if request is None:
            self.access(b"", b"", status, sent, 0.0, connection.peer)
        else:
            seconds = 0.0 if request.arrived is None else self.clock.seconds() - request.arrived
            method = request.head.method  # as it came
            self.access(method, request.uri, status, sent or request.sentLength, seconds, connection.peer)


async def finish_answers(connections: Collection[Any], clock: IReactorTime) -> None:
    """Let go of idle connections, and wait a moment for those with an answer under way.

    The rest is cut off, since a program may go on when its service has ended.

    :param connections: all that are open, at any moment.
    """
    if connections:
        await deferLater(clock, LOOK)  # for the requests of those who have come last
    for _ in range(int(LAST_ANSWERS / LOOK)):
        await deferLater(clock, 0)  # a turn in which what has come is read
        if not close_idle(connections):
            return
        await deferLater(clock, LOOK)
    for connection in list(connections):
        connection.transport.abortConnection()
