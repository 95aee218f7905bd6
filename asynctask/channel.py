"""The HTTP/1.1 connection: bytes to requests, one after another, and their answers back.

A request is taken out of what has come only when the one before it is answered, so that a client that
asks for much without reading is not read either. Heads are read by `heads`, bodies by `incoming`; here is
what may wait, for how long, and when a connection ends.
"""

from math import inf
from typing import Any, Final, cast

from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection as Socket
from twisted.python.failure import Failure
from zope.interface import implementer

from asynctask.access import CLIENT_LEFT
from asynctask.deadlines import (
    BODY_TIME,
    FLUSH,
    HEAD_TIME,
    IDLE,
    LEAVING,
    LINGER,
    NEVER,
    STALL,
    unread,
    unsent,
)
from asynctask.heads import CHUNKED, END, MAX_HEAD, Head, check_beginning, parse
from asynctask.incoming import Chunks, Sized, too_large
from asynctask.problems import CLOSE, Problem, TooSlow, Unavailable
from asynctask.request import Request, refusal

EAGER: Final = 16 * 1024
"""Bytes that are read ahead while a request is answered, since who does not read sees no client leave."""

BURST: Final = 32
"""Requests of one connection that are answered in one go if they have all come; then others have a turn."""

MOST_COMING: Final = 256 * 1024 * 1024
"""Bytes of bodies that have come in part, on all connections: those of 256 clients that are slow with the
largest there is. More would be the memory that the tasks have."""

MAX_REMEMBERED: Final = 1_024
"""Bytes of a head that is kept, should the next one be the same: a client has not many."""


@implementer(IPushProducer, IHalfCloseableProtocol)
class Connection(Protocol):
    """One client's connection.

    :ivar factory: the `asynctask.httpserver.HttpServer` that it came to.
    :ivar clogged: whether its client does not read what was written.
    :ivar persistent: whether it may have another request after the one that is answered.
    """

    factory: Any
    transport: Any

    def __init__(self) -> None:
        self.persistent = True
        self.deadline: float = NEVER
        self._request: Request | None = None
        self._buffer = b""
        self._begun = False
        self._blank = False
        self._head: Head | None = None
        self._body: Chunks | Sized | None = None
        self._body_ends = NEVER
        self._coming = 0
        self._last: tuple[bytes, Head | None] = b"", None
        self._advancing = False
        self._direct = False
        self._registered = False
        self.clogged = False
        self._paused = False
        self._dropping: float = 0
        self._left = False
        self._closing = False
        self._unread: float = inf
        # No `cached_property`: it looks into ``__dict__``, which makes every attribute slower from then on.
        self._peer: IAddress | None = None
        self._host: IAddress | None = None

    @property
    def peer(self) -> IAddress:
        """The client's address."""
        if self._peer is None:
            self._peer = cast(IAddress, self.transport.getPeer())
        return self._peer

    @property
    def host(self) -> IAddress:
        """The address of this end."""
        if self._host is None:
            self._host = cast(IAddress, self.transport.getHost())
        return self._host

    @property
    def busy(self) -> bool:
        """Whether a request is answered, or on its way."""
        return self._request is not None or self._head is not None or bool(self._buffer)

    def isSecure(self) -> bool:
        """Whether it is encrypted."""
        return ISSLTransport(self.transport, None) is not None

    def connectionMade(self) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._watch()
        self.factory.add(self)
        self.deadline = self.factory.ticked + IDLE

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        self._closing = True
        self.factory.remove(self)
        self._hold(0)
        self._buffer, self._head, self._body = b"", None, None
        request, self._request = self._request, None
        if request is not None:
            if self.factory.access is not None:
                self.factory.log(self, request, request.status or CLIENT_LEFT)
            request.connectionLost(reason)
        self._let_go()  # TLS would hold us, whom we hold

    def dataReceived(self, data: bytes) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        if self._dropping or self._closing:
            self._drop(len(data))
        elif self._request is not None or self.clogged:
            self._buffer += data
            if len(self._buffer) > EAGER:
                self._pause()
        else:
            self._buffer = self._buffer + data if self._buffer else data
            self._advance()

    def readConnectionLost(self) -> None:
        """See `twisted.internet.interfaces.IHalfCloseableProtocol`: what is answered soon is still sent."""
        self._left = True
        if self._dropping:
            self.loseConnection()
        elif self._request is None:
            self._advance()
        elif self._request.startedWriting:  # who follows something reads no end of it
            self.abort()
        else:
            self.deadline = self.factory.ticked + LEAVING

    def writeConnectionLost(self) -> None:
        """See `twisted.internet.interfaces.IHalfCloseableProtocol`."""

    def _advance(self) -> None:
        """Take requests out of what has come and have them answered, until something is waited for."""
        if self._advancing:
            return
        self._advancing = True
        turns = BURST
        try:
            while self._request is None and self._buffer and not (self.clogged or self._closing):
                if not turns:
                    self._pause()
                    self.factory.clock.callLater(0, self._advance)
                    return
                turns -= 1
                if not (self._take_head() if self._head is None else self._take_body()):
                    break
        except Problem as problem:
            self.refuse(problem)
        finally:
            self._advancing = False
        if self._request is not None and len(self._buffer) <= EAGER and not self._closing:
            self._resume()  # to see it leave
        elif self._request is None and not (self.clogged or self._closing):
            if self._left:
                self.loseConnection()
            else:
                self._resume()

    def _take_head(self) -> bool:
        """Take a head, and its request if that has come too; False while it has not."""
        buffer = self._buffer
        if buffer[0] == 13 and not self._blank and b"\r\n".startswith(buffer[:2]):
            return self._take_blank()
        end = buffer.find(END, 0, MAX_HEAD)
        if end < 0:
            check_beginning(buffer)
            self._begin_head()
            return False
        raw = buffer[: end + 4]
        last, head = self._last
        if head is None or raw != last:
            head = parse(raw)
            if len(raw) <= MAX_REMEMBERED:
                self._last = raw, head
        self._begun = self._blank = False
        self._buffer = buffer = buffer[end + 4 :]
        self.persistent = head.persistent
        length = head.length
        if not length:
            self._answer(Request(self, head))
        elif 0 < length <= len(buffer) and length <= self.factory.limit:
            self._buffer = buffer[length:]
            self._answer(Request(self, head, buffer[:length]))
        else:
            self._begin_body(head)
        return True

    def _take_blank(self) -> bool:
        """One empty line before a head is passed over (RFC 9112 §2.2)."""
        if len(self._buffer) < 2:
            self._begin_head()
            return False
        self._blank = True
        self._buffer = self._buffer[2:]
        return True

    def _begin_head(self) -> None:
        """From its first byte on, a head has its time."""
        if not self._begun:
            self._begun = True
            self.deadline = self.factory.ticked + HEAD_TIME

    def _begin_body(self, head: Head) -> None:
        """The body is still to come: refuse it now, or ask for it, or wait."""
        limit = self.factory.limit
        told = self.factory.limit_of(head.path)
        self._head = head
        if head.length > limit:
            raise too_large(told, CLOSE)
        if head.expects and not self._buffer:
            request = Request(self, head)
            if not self.factory.takes(request):
                self.persistent = False
                self._answer(request)
                return
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._body = Chunks(limit, told) if head.length == CHUNKED else Sized(head.length)
        self._body_ends = self.factory.ticked + BODY_TIME
        self.deadline = self.factory.ticked + STALL

    def _take_body(self) -> bool:
        """Take some of the body, and have the request answered once that is whole."""
        head, body = self._head, self._body
        assert head is not None
        assert body is not None
        self.deadline = min(self.factory.ticked + STALL, self._body_ends)
        data, self._buffer = self._buffer, b""
        rest = body.feed(data)
        if rest is None:
            self._hold(len(body.body))
            return False
        self._hold(0)
        self._buffer = rest
        self._head = self._body = None
        self._answer(Request(self, head, bytes(body.body)))
        return True

    def _hold(self, size: int) -> None:
        """So much of a body has come and is not whole yet.

        :raises Unavailable: as much as may is coming already.
        """
        more, self._coming = size - self._coming, size
        self.factory.coming += more
        if more > 0 and self.factory.coming > MOST_COMING:
            raise Unavailable("Too many bodies are on their way; try again", headers=CLOSE)

    def _answer(self, request: Request) -> None:
        """Have a request answered."""
        self._request = request
        server = self.factory
        self.deadline = server.ticked + LEAVING if self._left else NEVER
        if server.access is not None:
            request.arrived = server.clock.seconds()
        try:
            request.render(server.resource)
        except Exception:
            request.processingFailed(Failure())

    def answered(self, request: Request) -> None:
        """A request has its whole answer."""
        server = self.factory
        if server.access is not None:
            server.log(self, request, request.code)
        self._request = None
        if self.persistent:
            self.deadline = server.ticked + IDLE
            if self._buffer or self._paused or self._left:
                self._advance()
        elif self._head is not None:  # whose body was not asked for, and may come all the same
            self._linger()
        else:
            self.loseConnection()

    def refuse(self, problem: Problem) -> None:
        """Answer what is not even a request, and listen to nothing else."""
        head = self._head
        bodyless = self._buffer.startswith(b"HEAD ") if head is None else head.method == b"HEAD"
        answer = refusal(problem, self.factory.date, bodyless=bodyless)
        self.send(answer)
        if self.factory.access is not None:
            request = None if head is None else Request(self, head)
            self.factory.log(self, request, problem.status, len(answer.partition(END)[2]))
        self._linger()

    def _linger(self) -> None:
        """Read on for a moment, so that the client sees the answer, and drop what comes."""
        length = 0 if self._head is None else self._head.length
        left = length if length > 0 else NEVER
        self._dropping = self._body.missing if isinstance(self._body, Sized) else left
        self.persistent = False
        self.deadline = self.factory.ticked + LINGER
        buffered, self._buffer, self._head, self._body = len(self._buffer), b"", None, None
        self._hold(0)
        self._let_go()
        half_closeable = bool(IHalfCloseableDescriptor.providedBy(self.transport))
        if half_closeable and not self.isSecure():  # what is encrypted only says that it is
            self.transport.loseWriteConnection()
        self._resume()
        self._drop(buffered)

    def _drop(self, size: int) -> None:
        """Some bytes that nobody reads have come."""
        self._dropping -= size
        if self._dropping <= 0:
            self.loseConnection()

    def expire(self) -> None:
        """The deadline is over."""
        left = unsent(self.transport)
        before, self._unread = self._unread, unread(self.transport)
        if left and self._unread < before:  # who reads slowly reads all the same
            self.deadline = self.factory.ticked + FLUSH
        elif self._closing and self.isSecure() and not left:
            # The system has it all; without a goodbye of TLS, for which who reads slowly has no time yet.
            self.deadline = NEVER
            self.transport.transport.loseConnection()
        elif self._left and self._request is not None and self._request.hurry is not None:
            hurry, self._request.hurry = self._request.hurry, None
            self.deadline = self.factory.ticked + LEAVING
            hurry()
        elif self._closing or self._left:
            self.abort()
        elif self._dropping:
            self.loseConnection()
        elif self._buffer or self._head is not None:
            self.refuse(TooSlow("The request did not come to its end in time", headers=CLOSE))
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close it, once all that was written has gone out."""
        if not self._closing:
            self._closing = True
            self._unread = unread(self.transport)
            self.deadline = self.factory.ticked + FLUSH
            self._let_go()
            self.transport.loseConnection()

    def abort(self) -> None:
        """Close it at once."""
        self._closing = True
        self.deadline = NEVER
        self.transport.abortConnection()

    def send(self, data: bytes) -> None:
        """Write to the client: at once if nothing else waits for that, or soon will.

        So an answer costs one system call; the reactor would need three, and another turn.
        """
        transport = self.transport
        if self._direct and not (self._buffer or transport.dataBuffer or transport._tempDataBuffer):
            try:
                sent = transport.socket.send(data)
            except OSError:  # it takes nothing now, or is lost, which the reactor will see
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `twisted.internet.interfaces.IConsumer`: what writes is told by the transport itself."""
        self._let_go()
        self._registered = True
        # Who gives a piece when he is asked is asked where the reactor has written the one before.
        self._direct = self._direct and streaming
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """See `twisted.internet.interfaces.IConsumer`."""
        self._let_go()
        if not self._closing:
            self._watch()

    def _watch(self) -> None:
        """Be told from now on whether the client reads."""
        self._registered = True
        self._direct = isinstance(self.transport, Socket) and not self.transport.TLS
        self.clogged = False
        self.transport.registerProducer(self, True)

    def _let_go(self) -> None:
        """Let nobody be told any more, without which a connection does not close."""
        if self._registered:
            self._registered = False
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        """The client does not read: neither do we, unless to see it leave."""
        self.clogged = True
        if self._request is None:
            self._pause()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self.clogged = False
        if self._request is None:
            self._resume()
            self._advance()

    def stopProducing(self) -> None:
        """See `twisted.internet.interfaces.IProducer`; `connectionLost` follows."""

    def _pause(self) -> None:
        self._paused = True
        self.transport.pauseProducing()

    def _resume(self) -> None:
        if self._paused and not self._left:
            self._paused = False
            self.transport.resumeProducing()
