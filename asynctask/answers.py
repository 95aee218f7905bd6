"""HTTP requests read and answers rendered, over twisted.web's request and our own."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from os import SEEK_END
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from asynctask import wire
from asynctask.access import GONE
from asynctask.guard import check_host, check_origin
from asynctask.headers import etag, matches
from asynctask.incoming import too_large
from asynctask.metrics import Metrics
from asynctask.problems import (
    ExpectationFailed,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Problem,
    UnsupportedMediaType,
)
from asynctask.request import Request as OwnRequest

MAX_BODY: Final = 64 * 1024
"""Bytes of a body: what is larger belongs into a file or a store, with its address in the input."""

MAX_BATCH_BODY: Final = 1024 * 1024
"""Bytes of a batch's body, which is parsed in one go on the reactor."""

LIMITS: Final = {b"/api/tasks": MAX_BODY, b"/api/tasks/batch": MAX_BATCH_BODY}
"""Where a body is JSON of so many bytes at most; one that nobody reads has at most `MAX_BODY`."""

JSON: Final = "application/json"
_JSON: Final = JSON.encode()
PROBLEM: Final = "application/problem+json"

STRANGE: Final = b"-"
"""Put before a method that has small letters: it is another (RFC 9110 §9.1), but the same to Klein."""

METHODS: Final = "DELETE, GET, HEAD, OPTIONS, POST"
"""What `OPTIONS *` is answered."""


@implementer(IResource)
class Guarded(Resource):
    """Checks who asks before anything else is looked at, and counts the requests.

    :param seconds: the time, to tell how long each took.
    """

    isLeaf = True

    def __init__(
        self,
        inner: IResource,
        hosts: Collection[str],
        metrics: Metrics,
        seconds: Callable[[], float],
    ) -> None:
        super().__init__()
        self._inner = inner
        self._hosts = frozenset(hosts)
        self._metrics = metrics
        self._seconds = seconds

    def render(self, request: Request) -> bytes | int:
        """See `IResource`."""
        began = self._seconds()
        if isinstance(request, OwnRequest):
            request.began, request.over = began, self._over
        else:
            request.notifyFinish().addBoth(self._count, request, began)
        try:
            self._check(request)
            _check_unread(request)
        except Problem as problem:
            request.write(answer_problem(request, problem))
            request.finish()
            return NOT_DONE_YET
        if request.path == b"*":
            return answer(request, 204, b"", {"Allow": METHODS})
        rendered: bytes | int = self._inner.render(request)
        return rendered

    def takes(self, request: OwnRequest) -> bool:
        """Whether the body of a request will be looked at, as far as its head tells."""
        try:
            self._check(request)
            _check_unread(request)
            if request.path in LIMITS:
                _check_body(request, request.head.length, LIMITS[request.path])
        except Problem:
            return False
        inner: Any = self._inner
        taken: bool = inner.takes(request)
        return taken

    @staticmethod
    def limit_of(path: bytes) -> int:
        """Bytes that a body for this path may have."""
        return LIMITS.get(unquote_to_bytes(path), MAX_BODY)

    def _over(self, request: OwnRequest) -> None:
        seconds = self._seconds() - request.began
        self._metrics.answered(request.method, request.path, request.status or GONE, seconds)

    def _count(self, lost: object, request: Request, began: float) -> None:
        status = request.code if lost is None or request.startedWriting else GONE
        seconds = self._seconds() - began
        self._metrics.answered(request.method, request.path, status, seconds)

    def _check(self, request: Request) -> None:
        if not isinstance(request, OwnRequest):
            self._check_head(request)
        elif not request.head.allowed:
            self._check_head(request)
            request.head.allowed = True
        if not (request.method.isupper() or request.method.startswith(STRANGE)):
            request.method = STRANGE + request.method

    def _check_head(self, request: Request) -> None:
        hosts = raw_fields(request, b"host")
        came_in_on = getattr(request.getHost(), "host", "")
        check_host(hosts, request.clientproto, came_in_on, self._hosts)
        if not hosts and not isinstance(request, OwnRequest):
            # Klein asks for a name, which HTTP/1.0 need not give and a unix socket has not.
            hosts = [b"localhost"]
            request.requestHeaders.setRawHeaders(b"host", hosts)
        origins, sites = raw_fields(request, b"origin"), raw_fields(request, b"sec-fetch-site")
        check_origin(request.method, hosts[0] if hosts else b"localhost", origins, sites)
        if any(value.lower() != b"100-continue" for value in raw_fields(request, b"expect")):
            raise ExpectationFailed("Only 'Expect: 100-continue' is understood")
        parts = request.postpath or ()
        if not _is_utf8(b"/".join(parts)):
            raise NotFound("There is nothing at this path; a path is UTF-8")
        if request.path.startswith(b"//") or any(b"/" in part for part in parts):
            # To Klein it would be the path without the first slash, or with one more.
            raise NotFound(f"There is nothing at '{wire.shown(request.path.decode('utf-8', 'replace'))}'")
        if not _is_utf8(request.method):
            raise Invalid("The method must be ASCII")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def raw_fields(request: Request, name: bytes) -> Sequence[bytes]:
    """The values of a header field, none where it is missing.

    :param name: in lower case.
    """
    if isinstance(request, OwnRequest):
        return request.head.fields.get(name, ())
    return request.requestHeaders.getRawHeaders(name, [])


def fields(request: Request, name: str) -> list[str]:
    """The same as text; bytes that are no UTF-8 as ``\\xff``."""
    values = raw_fields(request, name.encode())
    return [value.decode("utf-8", "backslashreplace") for value in values] if values else []


def has_left(request: Request) -> bool:
    """Whether nobody waits for the answer any more."""
    return bool(request._disconnected)


def if_leaving(request: Request, hurry: Callable[[], object]) -> None:
    """Have this called when the request should be answered now, see `asynctask.request.Request`."""
    if isinstance(request, OwnRequest):
        request.hurry = hurry


def json_body(request: Request, limit: int) -> bytes:
    """The body of a request that says that it is JSON, or says nothing.

    :param limit: bytes that it may have.
    :raises UnsupportedMediaType: it says that it is something else.
    :raises TooLarge: it is over the limit.
    """
    _check_body(request, _length(request), limit)
    if isinstance(request, OwnRequest):
        return request.body
    return request.content.read() if request.content else b""


def _length(request: Request) -> int:
    """Bytes of a body; of one that was not asked for and has not come, what its head tells."""
    if isinstance(request, OwnRequest):
        return max(len(request.body), request.head.length)
    content = request.content
    if not content:
        return 0
    length: int = content.seek(0, SEEK_END)
    content.seek(0)
    return length


def _check_unread(request: Request) -> None:
    """A body that nobody reads has a limit too."""
    if request.method == b"POST" and request.path in LIMITS:
        return
    if (length := _length(request)) > MAX_BODY:
        _check_length(length, Guarded.limit_of(request.path))


def _check_body(request: Request, length: int, limit: int) -> None:
    for given in raw_fields(request, b"content-type"):
        if given not in (b"", _JSON) and given.split(b";")[0].strip().lower() != _JSON:
            raise UnsupportedMediaType(f"The body must be {JSON}; say so with Content-Type: {JSON}")
    _check_length(length, limit)


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        raise too_large(limit)


def answer(
    request: Request,
    status: int,
    body: bytes,
    headers: Mapping[str, str] = {},
    content_type: str = JSON,
) -> bytes:
    """Set the head of an answer, and give its body back."""
    request.setResponseCode(status)
    if body:
        headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}
    if isinstance(request, OwnRequest):
        request.set_headers(headers)
    else:
        for name, value in headers.items():
            request.setHeader(name, value)
    return body


def answer_tagged(request: Request, body: bytes, headers: Mapping[str, str] = {}) -> bytes:
    """Answer with a body and its validator, or 304 where the client has it already."""
    tag = etag(body)
    known = matches(tag, ", ".join(fields(request, "if-none-match")))
    return answer(request, 304 if known else 200, b"" if known else body, {**headers, "ETag": tag})


def answer_problem(request: Request, problem: Problem) -> bytes:
    """Answer with a problem (RFC 9457)."""
    body = answer(request, problem.status, wire.problem_json(problem), dict(problem.headers), PROBLEM)
    request.setResponseCode(problem.status, problem.title.encode())
    return body


def answer_too_large(request: Request) -> bytes:
    """Answer a body that is over the limit, before it has all come."""
    return answer_problem(request, too_large(Guarded.limit_of(request.path)))


def answer_method(request: Request, known: Iterable[str]) -> bytes:
    """Answer OPTIONS, or a method that is not among those of the path."""
    allowed = ", ".join(sorted({*known, "OPTIONS"}))
    if request.method == b"OPTIONS":
        return answer(request, 204, b"", {"Allow": allowed})
    method = wire.shown(request.method.removeprefix(STRANGE).decode("utf-8", "replace"))
    return answer_problem(
        request,
        MethodNotAllowed(f"There is no {method} here, only {allowed}", headers=(("Allow", allowed),)),
    )
