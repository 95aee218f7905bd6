"""The routes. The only place that renders HTTP answers."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from zope.interface import implementer

from asynctask import wire
from asynctask.guard import check_host, check_origin
from asynctask.model import (
    ENDED,
    RUNNING,
    ExpectationFailed,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Problem,
    Task,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
    accept,
)
from asynctask.places import Places
from asynctask.registry import Kind
from asynctask.store import IStore

log = Logger(namespace="asynctask.api")

MAX_BODY: Final = 64 * 1024
"""Bytes of a body: what is larger belongs into a file or a store, with its address in the input."""

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"

T = TypeVar("T")


class Api:
    """The HTTP contract.

    :param now: wall time, seconds since the epoch.
    :param draw: draws a number in [0, 2**80).
    :param hosts: further names accepted in ``Host``.
    """

    app = Klein()
    app.url_map.merge_slashes = False

    def __init__(
        self,
        store: IStore,
        places: Places,
        kinds: Mapping[str, Kind],
        now: Callable[[], float],
        draw: Callable[[], int],
        hosts: Collection[str] = (),
    ) -> None:
        self._store = store
        self._places = places
        self._kinds = kinds
        self._now = now
        self._draw = draw
        self._hosts = hosts
        self._ids = wire.Ids()

    def resource(self) -> IResource:
        """What a server renders requests with."""
        return Guarded(self.app.resource(), self._hosts)

    @app.route("/api/tasks", methods=["POST"])
    async def submit(self, request: Request) -> bytes:
        """Accept a task."""
        if self._places.draining:
            raise Unavailable("The service is stopping; try again when it is back")
        new = wire.parse_submission(json_body(request), self._kinds)
        now = self._now()
        task = accept(new, self._ids.next(now, self._draw()), now)
        await shielded(self._keep(task, now))
        seconds = self._seconds(task)
        message = "Task will run in background"
        if seconds is not None:
            message = f"Task will run for {seconds:.0f} seconds in background"
        wait = math.ceil(new.delay + seconds) if seconds is not None else max(1, math.ceil(new.delay))
        headers = {"Location": f"/api/tasks/{task.task_id}", "Retry-After": str(wait)}
        return answer(request, 202, wire.accepted_json(task, message), headers)

    def _keep(self, task: Task, now: float) -> Deferred[None]:
        """Store a task, with a seat if it can start at once; a failed commit gives the seat back."""
        seat = task.run_at <= now and self._places.take(task.kind)

        def give_back(failure: Failure) -> Failure:
            if seat:
                self._places.give_back()
            return failure

        try:
            kept = self._store.add([] if seat else [task], [task] if seat else [])
        except Unavailable:
            give_back(Failure())
            raise
        return kept.addErrback(give_back)

    def _seconds(self, task: Task) -> float | None:
        """How long the task takes, if its kind can tell."""
        kind = self._kinds.get(task.kind)
        return None if kind is None else kind.seconds(wire.read_input(task))

    @app.route("/api/tasks", methods=["GET"])
    async def list(self, request: Request) -> bytes:
        """List tasks, newest first."""
        query = wire.parse_query(request.uri.partition(b"?")[2])
        tasks, following = await self._store.list(query)
        return answer(request, 200, wire.list_json(tasks, following))

    @app.route("/api/tasks/<task_id>", methods=["GET"])
    async def get(self, request: Request, task_id: str) -> bytes:
        """Show a task."""
        task = await self._store.get(task_id) if wire.TASK_ID.fullmatch(task_id) else None
        if task is None:
            raise NotFound(f"There is no task '{wire.shown(task_id)}'")
        headers = {} if task.status in ENDED else {"Retry-After": str(self._left(task))}
        return answer(request, 200, bytes(wire.task_json(task, whole=True)), headers)

    def _left(self, task: Task) -> int:
        """Seconds until the task can have ended, at least 1."""
        begins = task.started_at if task.status is RUNNING else task.run_at
        ends = (begins or task.run_at) + (self._seconds(task) or 0)
        return max(1, math.ceil(ends - self._now()))

    @app.route("/health/live", methods=["GET"])
    async def live(self, request: Request) -> bytes:
        """The process answers."""
        return answer(request, 200, b'{"status":"ok"}')

    @app.route("/health/ready", methods=["GET"])
    async def ready(self, request: Request) -> bytes:
        """Tasks are taken."""
        if self._places.draining:
            raise Unavailable("The service is stopping")
        if not self._store.healthy:
            raise Unavailable("The store does not answer")
        return answer(request, 200, b'{"status":"ok"}')

    @app.handle_errors(Problem)
    def problem(self, request: Any, failure: Any) -> bytes:
        """Answer what the client can understand."""
        return answer_problem(request, failure.value)

    @app.handle_errors(HTTPException)
    def unrouted(self, request: Any, failure: Any) -> bytes:
        """Answer what Werkzeug's routing says of path and method."""
        error = failure.value
        if not isinstance(error, WrongMethod):
            path = wire.shown(request.path.decode("utf-8", "replace"))
            return answer_problem(request, NotFound(f"There is nothing at '{path}'"))
        allowed = ", ".join(sorted({*(error.valid_methods or ()), "OPTIONS"}))
        if request.method == b"OPTIONS":
            return answer(request, 204, b"", {"Allow": allowed})
        method = wire.shown(request.method.decode("utf-8", "replace"))
        return answer_problem(
            request,
            MethodNotAllowed(f"There is no {method} here, only {allowed}", headers=(("Allow", allowed),)),
        )

    @app.handle_errors(Exception)
    def bug(self, request: Any, failure: Any) -> bytes:
        """Answer what should not happen; the log has its traceback, the client has not."""
        log.failure("Request failed", failure, path=request.path.decode("latin-1"))
        return answer_problem(request, Problem("Something went wrong here; the log tells what"))


@implementer(IResource)
class Guarded(Resource):
    """Checks who asks before anything else is looked at."""

    isLeaf = True

    def __init__(self, inner: IResource, hosts: Collection[str]) -> None:
        super().__init__()
        self._inner = inner
        self._hosts = frozenset(hosts)

    def render(self, request: Request) -> bytes | int:
        """See `IResource`."""
        try:
            self._check(request)
        except Problem as problem:
            request.write(answer_problem(request, problem))
            request.finish()
            return NOT_DONE_YET
        rendered: bytes | int = self._inner.render(request)
        return rendered

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


def json_body(request: Request) -> bytes:
    """The body of a request that says that it is JSON, or says nothing.

    :raises UnsupportedMediaType: it says that it is something else.
    """
    types = request.requestHeaders.getRawHeaders(b"content-type", [])
    for given in types:
        if given and given.split(b";")[0].strip().lower() != JSON.encode():
            raise UnsupportedMediaType(f"The body must be {JSON}; say so with Content-Type: {JSON}")
    body: bytes = request.content.read() if request.content else b""
    return body


def shielded(deferred: Deferred[T]) -> Deferred[T]:
    """Wait for a Deferred that is not to be cancelled with whoever waits for it."""
    waiter: Deferred[T] = Deferred()

    def pass_on(result: T | Failure) -> T | Failure | None:
        if waiter.called:
            return None if isinstance(result, Failure) else result
        if isinstance(result, Failure):
            waiter.errback(result)
            return None
        waiter.callback(result)
        return result

    deferred.addBoth(pass_on)
    return waiter


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


def answer_problem(request: Request, problem: Problem) -> bytes:
    """Answer with a problem (RFC 9457)."""
    body = wire.problem_json(problem)
    return answer(request, problem.status, body, dict(problem.headers), PROBLEM)


def answer_too_large(request: Request) -> bytes:
    """Answer a body that is over the limit, before it has all come."""
    return answer_problem(request, TooLarge(f"The body must have at most {MAX_BODY} bytes"))
