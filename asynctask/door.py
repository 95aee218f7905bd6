"""Who may ask, and how much may come: looked at before anything else, and every request is counted."""

from collections.abc import Callable, Collection
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from asynctask import wire
from asynctask.access import CLIENT_LEFT
from asynctask.answers import STRANGE, answer, answer_problem, check_body, length_of, raw_fields
from asynctask.guard import check_host, check_origin
from asynctask.incoming import too_large
from asynctask.metrics import METHODS, Metrics
from asynctask.problems import ExpectationFailed, Invalid, NotFound, Problem
from asynctask.request import Request as OwnRequest

MAX_BODY: Final = 64 * 1024
"""Bytes of a body: what is larger belongs into a file or a store, with its address in the input."""

MAX_BATCH_BODY: Final = 1024 * 1024
"""Bytes of a batch's body, which is parsed in one go on the reactor."""

LIMITS: Final = {b"/api/tasks": MAX_BODY, b"/api/tasks/batch": MAX_BATCH_BODY}
"""Where a body is JSON of so many bytes at most; one that nobody reads has at most `MAX_BODY`."""

ALLOWED: Final = ", ".join(sorted(METHODS))
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
            return answer(request, 204, b"", {"Allow": ALLOWED})
        rendered: bytes | int = self._inner.render(request)
        return rendered

    def takes(self, request: OwnRequest) -> bool:
        """Whether the body of a request will be looked at, as far as its head tells."""
        try:
            self._check(request)
            _check_unread(request)
            if request.path in LIMITS:
                check_body(request, request.head.length, LIMITS[request.path])
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
        self._metrics.answered(request.method, request.path, request.status or CLIENT_LEFT, seconds)

    def _count(self, lost: object, request: Request, began: float) -> None:
        status = request.code if lost is None or request.startedWriting else CLIENT_LEFT
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


def _check_unread(request: Request) -> None:
    """A body that nobody reads has a limit too."""
    if request.method == b"POST" and request.path in LIMITS:
        return
    if (length := length_of(request)) > MAX_BODY and length > (limit := Guarded.limit_of(request.path)):
        raise too_large(limit)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def answer_too_large(request: Request) -> bytes:
    """Answer a body that is over the limit, before it has all come."""
    return answer_problem(request, too_large(Guarded.limit_of(request.path)))
