"""A request and its answer on our own connection.

It is twisted.web's own, with all that has, but what costs time is made only when it is asked for, and the
answer's head and the first of its body leave in one write.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from io import BytesIO
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes
from warnings import warn

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import NO_BODY_CODES, datetimeToString, parse_qs
from twisted.web.http_headers import Headers

from asynctask.heads import Head
from asynctask.problems import Problem
from asynctask.wire import problem_json

_NAMES: dict[str | bytes, bytes] = {}
_STATUS: dict[tuple[bytes, int, bytes], bytes] = {}
MOST_CACHED: Final = 1_000
"""Names and status lines that are kept rendered: those that the service itself uses are a few dozen."""

CLOSE: Final = b"Connection: close"
KEEP_ALIVE: Final = b"Connection: keep-alive"


def _named(name: str | bytes, value: str | bytes) -> tuple[bytes, bytes]:
    """A field as twisted.web writes it, without what would begin another one."""
    headers = Headers()
    headers.setRawHeaders(cast(str, name), [cast(str, value)])
    [(written, [clean])] = headers.getAllRawHeaders()
    return written, clean


def canonical(name: str | bytes) -> bytes:
    """A field's name as twisted.web writes it.

    :raises twisted.web.http_headers.InvalidHeaderName: it is none.
    """
    written = _named(name, b"")[0]
    if len(_NAMES) < MOST_CACHED:
        _NAMES[name] = written
    return written


def status_line(version: bytes, code: int, message: bytes) -> bytes:
    """The first line of an answer."""
    key = (version, code, message)
    line = _STATUS.get(key)
    if line is None:
        line = b"%b %d %b\r\n" % key
        if len(_STATUS) < MOST_CACHED:
            _STATUS[key] = line
    return line


def refusal(problem: Problem, date: bytes, *, bodyless: bool) -> bytes:
    """The answer to what is not even a request; nothing comes after it."""
    body = problem_json(problem)
    fields = [f"{name}: {value}\r\n" for name, value in problem.headers if name != "Connection"]
    return b"%bContent-Type: application/problem+json\r\nContent-Length: %d\r\n%b%b\r\n\r\n%b" % (
        status_line(b"HTTP/1.1", problem.status, problem.title.encode()) + date,
        len(body),
        "".join(fields).encode(),
        CLOSE,
        b"" if bodyless else body,
    )


class Request(server.Request):
    """A request with its whole body, and the way to answer it.

    :param connection: the `asynctask.channel.Connection` that it came on; the head of the answer decides at
        last whether that may have another one.
    :ivar head: what its head says.
    :ivar body: its body.
    :ivar arrived: when it had come, where somebody logs that; by its server's clock.
    :ivar began: free for whoever answers it.
    :ivar over: called once the answer is complete or the client has gone, see `status`.
    :ivar lost: called as soon as the client has gone.
    :ivar hurry: called when it should be answered now: its client sends no more, and may have gone.
    """

    channel: Any
    over: Callable[["Request"], object] | None = None
    lost: Callable[[Failure], object] | None = None
    hurry: Callable[[], object] | None = None
    arrived: float | None = None
    began = 0.0

    _bodyless = False
    # Made when they are asked for. Who looks into ``__dict__`` for that makes every attribute slower.
    _headers: Headers | None = None
    _cookies: list[bytes] | None = None
    _notifications: list[Deferred[None]] | None = None

    def __init__(self, connection: Any, head: Head, body: bytes = b"") -> None:
        # Not twisted.web's own: it makes at once what is made on demand below.
        self.channel = connection
        self.transport = connection.transport
        self.head = head
        self.method = head.method
        self.uri = head.uri
        self.path = head.path
        self.clientproto = head.version
        self.body = body
        self._fields: dict[bytes, bytes] = {}

    @cached_property
    def _adapterCache(self) -> dict[str, Any]:  # type: ignore[override]
        """See `twisted.python.components.Componentized`."""
        return {}

    @property
    def notifications(self) -> list[Deferred[None]]:
        """Who waits for the end."""
        if self._notifications is None:
            self._notifications = []
        return self._notifications

    @notifications.setter
    def notifications(self, waiting: list[Deferred[None]]) -> None:
        self._notifications = waiting

    @cached_property
    def requestHeaders(self) -> Headers:  # type: ignore[override]
        """See `twisted.web.iweb.IRequest`."""
        headers = Headers()
        for name, values in self.head.fields.items():
            headers.setRawHeaders(name, list(values))
        return headers

    @property
    def responseHeaders(self) -> Headers:
        """See `twisted.web.iweb.IRequest`."""
        if self._headers is None:
            self._headers = Headers()
            for name, value in self._fields.items():
                self._headers.setRawHeaders(name, [value])
        return self._headers

    @responseHeaders.setter
    def responseHeaders(self, headers: Headers) -> None:
        self._headers = headers

    @cached_property
    def content(self) -> BytesIO:  # type: ignore[override]
        """See `twisted.web.iweb.IRequest`."""
        return BytesIO(self.body)

    @cached_property
    def args(self) -> dict[bytes, list[bytes]]:  # type: ignore[override]
        """The query, parsed."""
        query: dict[bytes, list[bytes]] = parse_qs(self.uri.partition(b"?")[2], 1)
        return query

    @cached_property
    def prepath(self) -> list[bytes]:  # type: ignore[override]
        """The parts of the path that have led here."""
        return []

    @cached_property
    def postpath(self) -> list[bytes]:  # type: ignore[override]
        """The parts of the path that are left."""
        return [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]

    @cached_property
    def received_cookies(self) -> dict[bytes, bytes]:  # type: ignore[override]
        """The client's cookies."""
        self.received_cookies = {}
        self.parseCookies()
        return self.received_cookies

    @property
    def cookies(self) -> list[bytes]:
        """Cookies that the client will be given."""
        if self._cookies is None:
            self._cookies = []
        return self._cookies

    @cookies.setter
    def cookies(self, cookies: list[bytes]) -> None:
        self._cookies = cookies

    @cached_property
    def client(self) -> Any:
        """The client's address."""
        return self.channel.peer

    @cached_property
    def host(self) -> Any:
        """The address of this end."""
        return self.channel.host

    @cached_property
    def site(self) -> Any:  # type: ignore[override]
        """The server."""
        return self.channel.factory

    @property
    def status(self) -> int | None:
        """What the client was told; None where it had left before."""
        return self.code if self.startedWriting else None

    def setHeader(self, name: str | bytes, value: str | bytes) -> None:
        """See `twisted.web.iweb.IRequest`."""
        if self._headers is not None:
            super().setHeader(name, value)
            return
        known = _NAMES.get(name) or canonical(name)
        if isinstance(value, str):
            value = value.encode()
        if b"\r" in value or b"\n" in value:
            value = _named(name, value)[1]
        self._fields[known] = value

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """Do what `setHeader` does, for many."""
        if self._headers is not None or not "".join(headers.values()).isprintable():
            for name, value in headers.items():
                self.setHeader(name, value)
            return
        fields = self._fields
        for name, value in headers.items():
            fields[_NAMES.get(name) or canonical(name)] = value.encode()

    def write(self, data: bytes) -> None:
        """See `twisted.web.iweb.IRequest`: it leaves at once; the first time with the head, and even if
        there is nothing else."""
        if self.finished:
            raise RuntimeError("Request.write called on a request after Request.finish was called.")
        if self._disconnected:
            return
        head = b""
        if not self.startedWriting:
            self.startedWriting = 1
            head = self._head()
        if self._bodyless:
            data = b""
        if data:
            self.sentLength += len(data)
            if self.chunked:
                data = b"%x\r\n%b\r\n" % (len(data), data)
        if head or data:
            self.channel.send(head + data)

    def finish(self) -> None:
        """See `twisted.web.iweb.IRequest`."""
        if self._disconnected:
            raise RuntimeError(
                "Request.finish called on a request after its connection was lost; "
                "use Request.notifyFinish to keep track of this."
            )
        if self.finished:
            warn("Request.finish called twice.", stacklevel=2)
            return
        if not self.startedWriting:
            self.setHeader(b"Content-Length", b"0")
            self.write(b"")
        elif self.chunked:
            self.channel.send(b"0\r\n\r\n")
        self.finished = 1
        if self.producer is not None:
            self.unregisterProducer()
        connection, self.channel, self.lost = self.channel, None, None
        self._tell(None)
        connection.answered(self)

    def reply(self, body: bytes) -> None:
        """Answer with a whole body, and be done."""
        if b"Content-Length" not in self._fields:
            self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()

    def unregisterProducer(self) -> None:
        """See `twisted.internet.interfaces.IConsumer`."""
        self.producer = None
        if self.channel is not None:
            self.channel.unregisterProducer()

    def connectionLost(self, reason: Failure) -> None:
        """The client has gone."""
        self._disconnected = True
        self.channel = self.producer = None
        lost, self.lost = self.lost, None
        if lost is not None:
            lost(reason)
        self._tell(reason)

    def processingFailed(self, reason: Failure) -> Failure:
        """What should have answered has failed; where it had begun, the client sees that it broke off."""
        if self.finished:
            self._log.failure("", failure=reason)
        elif self.startedWriting and not self._disconnected:
            self._log.failure("", failure=reason)
            self.channel.abort()
        elif not self._disconnected:
            super().processingFailed(reason)
        return reason

    def _tell(self, reason: Failure | None) -> None:
        if self.over is not None:
            self.over(self)
        if self._notifications:
            waiting, self._notifications = self._notifications, None
            for each in waiting:
                if reason is None:
                    each.callback(None)
                else:
                    each.errback(reason)

    def _head(self) -> bytes:
        """The head of the answer; whether it has a body, and how that ends, is decided here."""
        connection = self.channel
        if connection.factory.ending:
            connection.persistent = False
        head = self.head
        fields = self._fields
        every: Iterable[tuple[bytes, bytes]] = fields.items()
        if (self._headers, self._cookies, self.etag, self.lastModified) != (None, None, None, None):
            every = self._rare_fields()
            fields = dict(every)
        no_body = self.code in NO_BODY_CODES
        self._bodyless = no_body or head.method == b"HEAD"
        if no_body:
            every = [field for field in every if field[0] != b"Content-Length"]
        lines = list(map(b": ".join, every))
        length = fields.get(b"Content-Length")
        if b"Content-Type" not in fields and length != b"0" and not no_body and self.defaultContentType:
            lines.append(b"Content-Type: %b" % self.defaultContentType)
        if length is None and not self._bodyless:
            if head.version == b"HTTP/1.1":
                self.chunked = 1
                lines.append(b"Transfer-Encoding: chunked")
            else:
                connection.persistent = False
        said = fields.get(b"Connection")
        if said is not None:
            if said.lower() == b"close":
                connection.persistent = False
        elif not connection.persistent:
            lines.append(CLOSE)
        elif head.version == b"HTTP/1.0":
            lines.append(KEEP_ALIVE)
        lines.append(b"\r\n")
        first = status_line(head.version, self.code, self.code_message)
        date = b"" if b"Date" in fields else connection.factory.date
        return first + date + b"\r\n".join(lines)

    def _rare_fields(self) -> list[tuple[bytes, bytes]]:
        """The fields where some were set in other ways than by `setHeader`."""
        headers = self.responseHeaders
        if self.lastModified is not None and not headers.hasHeader(b"Last-Modified"):
            headers.setRawHeaders(b"Last-Modified", [datetimeToString(self.lastModified)])
        if self.etag is not None:
            headers.setRawHeaders(b"ETag", [self.etag])
        if self.cookies:
            headers.setRawHeaders(b"Set-Cookie", self.cookies)
        return [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
