"""HTTP requests read and answers rendered, over twisted.web's request."""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from asynctask import wire
from asynctask.guard import check_host, check_origin
from asynctask.headers import etag, matches
from asynctask.logqueue import QuickLogger
from asynctask.metrics import Metrics
from asynctask.model import (
    ExpectationFailed,
    Invalid,
    NotFound,
    Problem,
    TooLarge,
    UnsupportedMediaType,
)

log = QuickLogger("asynctask.access")

MAX_BODY: Final = 64 * 1024
"""Bytes of a body: what is larger belongs into a file or a store, with its address in the input."""

MAX_BATCH_BODY: Final = 1024 * 1024
"""Bytes of a batch's body, which is parsed in one go on the reactor."""

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"

GONE: Final = 499
"""The status under which a request is counted whose client left before the answer."""


@implementer(IResource)
class Guarded(Resource):
    """Checks who asks before anything else is looked at, and counts the requests.

    :param seconds: the time, to tell how long each took.
    :param access_log: whether each is worth a line.
    """

    isLeaf = True

    def __init__(
        self,
        inner: IResource,
        hosts: Collection[str],
        metrics: Metrics,
        seconds: Callable[[], float],
        access_log: bool = False,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._hosts = frozenset(hosts)
        self._metrics = metrics
        self._seconds = seconds
        self._access_log = access_log

    def render(self, request: Request) -> bytes | int:
        """See `IResource`."""
        request.notifyFinish().addBoth(self._count, request, self._seconds())
        try:
            self._check(request)
        except Problem as problem:
            request.write(answer_problem(request, problem))
            request.finish()
            return NOT_DONE_YET
        rendered: bytes | int = self._inner.render(request)
        return rendered

    def _count(self, lost: object, request: Request, began: float) -> None:
        status = request.code if lost is None or request.startedWriting else GONE
        seconds = self._seconds() - began
        self._metrics.answered(request.method, request.path, status, seconds)
        if self._access_log:
            log.info(
                "Request",
                method=request.method.decode("latin-1"),
                path=request.uri.decode("utf-8", "backslashreplace"),
                status=status,
                ms=round(seconds * 1_000, 1),
                client=getattr(request.getClientAddress(), "host", None),
            )

    def _check(self, request: Request) -> None:
        fields = request.requestHeaders.getRawHeaders
        hosts = fields(b"host", [])
        came_in_on = getattr(request.getHost(), "host", "")
        check_host(hosts, request.clientproto, came_in_on, self._hosts)
        if not hosts:
            # Klein asks for a name, which HTTP/1.0 need not give and a unix socket has not.
            hosts = [b"localhost"]
            request.requestHeaders.setRawHeaders(b"host", hosts)
        check_origin(request.method, hosts[0], fields(b"origin", []), fields(b"sec-fetch-site", []))
        if any(value.lower() != b"100-continue" for value in fields(b"expect", [])):
            raise ExpectationFailed("Only 'Expect: 100-continue' is understood")
        if not _is_utf8(b"/".join(request.postpath or ())):
            raise NotFound("There is nothing at this path; a path is UTF-8")
        if not _is_utf8(request.method):
            raise Invalid("The method must be ASCII")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def fields(request: Request, name: str) -> list[str]:
    """The values of a header field, none where it is missing; bytes that are no UTF-8 as ``\\xff``."""
    values = request.requestHeaders.getRawHeaders(name.encode(), [])
    return [value.decode("utf-8", "backslashreplace") for value in values]


def json_body(request: Request, limit: int) -> bytes:
    """The body of a request that says that it is JSON, or says nothing.

    :param limit: bytes that it may have.
    :raises UnsupportedMediaType: it says that it is something else.
    :raises TooLarge: it is over the limit.
    """
    types = request.requestHeaders.getRawHeaders(b"content-type", [])
    for given in types:
        if given and given.split(b";")[0].strip().lower() != JSON.encode():
            raise UnsupportedMediaType(f"The body must be {JSON}; say so with Content-Type: {JSON}")
    body: bytes = request.content.read() if request.content else b""
    if len(body) > limit:
        raise TooLarge(f"The body must have at most {limit} bytes")
    return body


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
        request.setHeader("Content-Type", content_type)
        request.setHeader("Content-Length", str(len(body)))
    for name, value in headers.items():
        request.setHeader(name, value)
    return body


def answer_tagged(request: Request, body: bytes, headers: Mapping[str, str] = {}) -> bytes:
    """Answer with a body and its validator, or 304 where the client has it already."""
    tag = etag(body)
    known = matches(tag, ", ".join(fields(request, "if-none-match")) or None)
    return answer(request, 304 if known else 200, b"" if known else body, {**headers, "ETag": tag})


def answer_problem(request: Request, problem: Problem) -> bytes:
    """Answer with a problem (RFC 9457)."""
    body = wire.problem_json(problem)
    return answer(request, problem.status, body, dict(problem.headers), PROBLEM)


def answer_too_large(request: Request) -> bytes:
    """Answer a body that is over the limit, before it has all come."""
    return answer_problem(request, TooLarge(f"The body must have at most {MAX_BATCH_BODY} bytes"))
