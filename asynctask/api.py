"""The routes: each parses, calls, and has the answer rendered."""

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from klein import Klein
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import IResource
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from asynctask import headers, sse, wire
from asynctask.answers import (
    MAX_BATCH_BODY,
    MAX_BODY,
    Guarded,
    answer,
    answer_method,
    answer_problem,
    answer_tagged,
    fields,
    has_left,
    if_leaving,
    json_body,
)
from asynctask.description import describe
from asynctask.dispatch import Routes, Segment
from asynctask.feed import Feed
from asynctask.followers import EVENT_STREAM, Follower, OfAll, OfOne
from asynctask.istore import IStore, Key, Known
from asynctask.metrics import Metrics
from asynctask.model import (
    ENDED,
    RUNNING,
    Conflict,
    Invalid,
    InvalidTransition,
    Mismatch,
    NotFound,
    Problem,
    Query,
    Stopping,
    Task,
    Unavailable,
    accept,
)
from asynctask.registry import Kind, kind_json
from asynctask.seats import Seats
from asynctask.sse import Filter
from asynctask.submissions import Body, digest_of, parse_batch, parse_one

log = Logger(namespace="asynctask.api")

FULL_FOR: Final = 5
"""Seconds after which a client may ask a full service again."""

MAX_FOLLOWERS: Final = 10_000
"""Clients that follow events at once: each takes some KiB, and a part of every change."""

LAST: Final = "last-event-id"

Accepted = tuple[bytes, dict[str, str]]


class Api:
    """The HTTP contract.

    :param clock: monotonic.
    :param now: wall time, seconds since the epoch.
    :param draw: draws the chance of an id.
    :param hosts: further names accepted in ``Host``.
    :param max_waiting: tasks that may be there without having ended.
    """

    app = Klein()
    app.url_map.merge_slashes = False
    app.url_map.converters["default"] = Segment

    def __init__(
        self,
        store: IStore,
        seats: Seats,
        feed: Feed,
        kinds: Mapping[str, Kind],
        clock: IReactorTime,
        now: Callable[[], float],
        draw: Callable[[], bytes],
        hosts: Collection[str] = (),
        max_waiting: int = 10_000_000,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._seats = seats
        self._feed = feed
        self._kinds = kinds
        self._clock = clock
        self._now = now
        self._draw = draw
        self._hosts = hosts
        self._max_waiting = max_waiting
        self.ids = wire.Ids()
        self._description = describe(kinds)
        self._metrics = metrics or Metrics(kinds)
        self._metrics.name_routes(rule.rule for rule in self.app.url_map.iter_rules())

    def resource(self) -> IResource:
        """What twisted.web's server renders requests with, in Klein's own way."""
        return Guarded(self.app.resource(), self._hosts, self._metrics, self._clock.seconds)

    def routes(self) -> IResource:
        """The same for our own connection, with less between it and the handlers."""
        return Guarded(Routes(self.app), self._hosts, self._metrics, self._clock.seconds)

    @app.route("/api/tasks", methods=["POST"])
    async def submit(self, request: Request) -> bytes:
        """Accept a task."""
        self._refuse_while_stopping()
        given = json_body(request, MAX_BODY)
        seconds = headers.parse_wait(fields(request, "prefer"))
        try:
            body = parse_one(given, self._kinds)
        except Invalid as invalid:
            accepted = await self._repeated(request, given, dict, invalid)
        else:
            tasks = self._tasks(request, body)
            accepted = await self._accept(request, body, tasks, self._accepted(tasks[0]))
        if seconds is None:
            return answer(request, 202, *accepted)
        request.setHeader("Preference-Applied", f"wait={seconds}")
        try:
            task = await self._wait_for(request, wire.task_id_of(accepted[0]), seconds)
        except Unavailable:  # it was accepted all the same
            task = None
        if task is None or task.status not in ENDED:
            return answer(request, 202, *accepted)
        return self._show(request, task)

    @app.route("/api/tasks/batch", methods=["POST"])
    async def submit_batch(self, request: Request) -> bytes:
        """Accept many tasks in one commit, or none."""
        self._refuse_while_stopping()
        given = json_body(request, MAX_BATCH_BODY)
        try:
            body = parse_batch(given, self._kinds)
        except Invalid as invalid:
            return answer(request, 202, *await self._repeated(request, given, list, invalid))
        tasks = self._tasks(request, body)
        each = [self._accepted(task) for task in tasks]
        wait = max(int(more["Retry-After"]) for _, more in each)
        whole = wire.batch_json([text for text, _ in each])
        accepted = await self._accept(request, body, tasks, (whole, {"Retry-After": str(wait)}))
        return answer(request, 202, *accepted)

    def _refuse_while_stopping(self) -> None:
        if self._seats.draining:
            raise Stopping

    def _tasks(self, request: Request, body: Body) -> list[Task]:
        """The tasks of a body."""
        trace = headers.parse_traceparent(", ".join(fields(request, "traceparent")))
        now = self._now()
        return [accept(new, self.ids.next(now, self._draw()), now, trace) for new in body.submissions]

    def _refusal(self, tasks: list[Task], more: int = 0) -> Unavailable | None:
        """Why there is no room for new tasks and so many more, if there is none."""
        if self._store.unfinished + len(tasks) + more > self._max_waiting:
            return Unavailable("The service is full: too many tasks have not ended", FULL_FOR)
        if any(self._seats.closed(self._kinds[task.kind].place) for task in tasks):
            return Unavailable("Too many handlers hang in threads; the service must be restarted")
        return None

    def _accepted(self, task: Task) -> Accepted:
        """Body and headers of the 202."""
        seconds = self._seconds(task)
        delay = task.run_at - task.accepted_at
        message = "Task will run in background"
        wait = max(1, math.ceil(delay))
        if seconds is not None:
            message = f"Task will run for {seconds:.0f} seconds in background"
            wait = math.ceil(round(delay, 6) + seconds)
        more = {"Location": f"/api/tasks/{task.task_id}", "Retry-After": str(wait)}
        return wire.accepted_json(task, message), more

    async def _accept(
        self, request: Request, body: Body, tasks: list[Task], accepted: Accepted
    ) -> Accepted:
        """Store tasks; what was answered to the same key before is the answer again."""
        key = headers.parse_key(fields(request, "idempotency-key"))
        refusal = self._refusal(tasks)
        if key is None:
            if refusal is not None:
                raise refusal
            await self._keep(tasks, None)
            return accepted
        text = wire.dump([accepted[0].decode(), accepted[1]])
        expires_at = tasks[0].accepted_at + headers.KEY_KEPT
        # Where there is no room, what was accepted before is answered all the same.
        new = tasks if refusal is None else []
        known = await self._keep(new, Key(key, body.digest, text, expires_at))
        if known is None:
            if refusal is not None:
                raise refusal
            return accepted
        if known.digest != body.digest:
            raise Mismatch("This Idempotency-Key was used with another body; take a new key")
        return _first(known)

    async def _repeated(self, request: Request, given: bytes, shape: type, invalid: Invalid) -> Accepted:
        """What was answered to the same body, of this shape, and key before: its kind may be gone since.

        :raises Invalid: nothing was.
        """
        with suppress(Invalid, Unavailable):  # of which the body has more to say
            key = headers.parse_key(fields(request, "idempotency-key"))
            value = None if key is None else wire.parse_json(given)
            if key is not None and isinstance(value, shape):
                digest = digest_of(value)
                known = await self._store.add_once([], [], Key(key, digest, "", 0.0), self._now())
                if known is not None and known.digest == digest:
                    return _first(known)
        raise invalid

    async def _keep(self, tasks: list[Task], key: Key | None) -> Known | None:
        """Store tasks, with seats for those that can start at once; else the seats are given back."""
        starting: list[Task] = []
        waiting: list[Task] = []
        for task in tasks:
            starts = task.run_at <= task.accepted_at and self._seats.take(self._kinds[task.kind])
            (starting if starts else waiting).append(task)
        known = None
        kept = False
        try:
            # A client that leaves meanwhile cancels nothing, so that this goes on after every commit.
            if key is None:
                await self._store.add(waiting, starting)
            else:
                known = await self._store.add_once(waiting, starting, key, self._now())
            kept = known is None
        finally:
            if not kept:
                for task in starting:
                    self._seats.give_back(self._kinds[task.kind])
                for place in {self._kinds[task.kind].place for task in starting}:
                    self._seats.freed(place)
        return known

    async def _wait_for(self, request: Request, task_id: str, seconds: int) -> Task | None:
        """The task when it has ended, or as it is after so many seconds, or as soon as nobody waits."""
        ended = self._feed.ended(task_id)
        reasons: list[type[Exception]] = [defer.TimeoutError]

        def hurry() -> None:
            reasons.append(CancelledError)
            ended.cancel()

        try:
            task = await self._store.get(task_id)
            if task is None or task.status in ENDED or has_left(request):
                return task
            ended.addTimeout(seconds, self._clock)
            if_leaving(request, hurry)
            await ended.addErrback(lambda failure: failure.trap(*reasons))
            return await self._store.get(task_id)
        finally:
            ended.addErrback(lambda failure: failure.trap(CancelledError))
            ended.cancel()

    def _seconds(self, task: Task) -> float | None:
        """How long the task takes, if its kind can tell."""
        kind = self._kinds.get(task.kind)
        return None if kind is None else kind.seconds(task.input or "{}")

    @app.route("/api/tasks", methods=["GET"])
    async def list(self, request: Request) -> bytes:
        """List tasks, newest first."""
        query = wire.parse_query(request.uri.partition(b"?")[2])
        tasks, following = await self._store.list(query)
        if not tasks and query.kind is not None and query.kind not in self._kinds:
            # There may be tasks whose handler is gone.
            of_kind, _ = await self._store.list(Query(kind=query.kind, limit=1))
            if not of_kind:
                raise Invalid(f"Parameter 'kind': {wire.unknown('kind', query.kind, self._kinds)}")
        return answer(request, 200, wire.list_json(tasks, following))

    @app.route("/api/tasks/<task_id>", methods=["GET"])
    async def get(self, request: Request, task_id: str) -> bytes:
        """Show a task."""
        known, seconds = wire.known_id(task_id), headers.parse_wait(fields(request, "prefer"))
        if seconds is None:
            return self._show(request, await self._store.get(known))
        shown = self._show(request, await self._wait_for(request, known, seconds))
        request.setHeader("Preference-Applied", f"wait={seconds}")
        return shown

    def _show(self, request: Request, task: Task | None, status: int = 200) -> bytes:
        if task is None:
            raise NotFound(wire.NO_TASK)
        more = {} if task.status in ENDED else {"Retry-After": str(self._left(task, status))}
        body = bytes(wire.task_json(task, whole=True))
        if request.method not in (b"GET", b"HEAD"):
            return answer(request, status, body, more)
        return answer_tagged(request, body, more)

    def _left(self, task: Task, status: int) -> int:
        """Seconds until the task can have ended, at least 1; for a 202 as in `_accepted`."""
        now, seconds = self._now(), self._seconds(task)
        # A clock that was set back shows beginnings that are still to come.
        begins = min(task.started_at or task.run_at, now) if task.status is RUNNING else task.run_at
        ends = begins + (seconds or 0)
        return max(0 if status == 202 and seconds is not None else 1, math.ceil(ends - now))

    @app.route("/api/tasks/<task_id>/cancel", methods=["POST"])
    async def cancel(self, request: Request, task_id: str) -> bytes:
        """Ask for a task's end."""
        done = self._store.cancel(wire.known_id(task_id), self._now())
        return self._show(request, await self._allowed(done, "cancelled"))

    @app.route("/api/tasks/<task_id>/retry", methods=["POST"])
    async def retry(self, request: Request, task_id: str) -> bytes:
        """Let a task begin anew."""
        self._refuse_while_stopping()
        if (refusal := self._refusal([], 1)) is not None:
            raise refusal
        done = self._store.retry(wire.known_id(task_id), self._now())
        return self._show(request, await self._allowed(done, "retried"), 202)

    @app.route("/api/tasks/<task_id>", methods=["DELETE"])
    async def delete(self, request: Request, task_id: str) -> bytes:
        """Forget a task."""
        if await self._allowed(self._store.delete(wire.known_id(task_id)), "deleted") is None:
            raise NotFound(wire.NO_TASK)
        return answer(request, 204, b"")

    async def _allowed(self, done: Deferred[Task | None], what: str) -> Task | None:
        try:
            return await done
        except InvalidTransition as refusal:
            raise Conflict(f"A task that is {refusal.status} cannot be {what}") from None

    @app.route("/api/events", methods=["GET"])
    async def events(self, request: Request) -> bytes:
        """Tell what happens to all tasks from now on, or from where the client was."""
        query = wire.parse_filter(request.uri.partition(b"?")[2])
        of, given = Filter(query.kind, query.statuses), headers.parse_last_event_id(fields(request, LAST))
        position = self._feed.now if given is None else sse.parse_position(given, self._feed.epoch)
        return await self._follow(
            request, lambda: OfAll(request, self._feed, self._store, self._clock, of, position)
        )

    @app.route("/api/tasks/<task_id>/events", methods=["GET"])
    async def events_of(self, request: Request, task_id: str) -> bytes:
        """Tell what happens to a task, from its beginning or from where the client was, to its end."""
        wire.parse_no_query(request.uri.partition(b"?")[2])
        task = await self._store.get(wire.known_id(task_id))
        if task is None:
            raise NotFound(wire.NO_TASK)
        given = headers.parse_last_event_id(fields(request, LAST))
        told = 0 if given is None else sse.parse_count(given, task_id)
        if task.status in ENDED and told == task.n:
            return answer(request, 204, b"")
        return await self._follow(
            request, lambda: OfOne(request, self._feed, self._store, self._clock, task_id, told)
        )

    async def _follow(self, request: Request, begin: Callable[[], Follower]) -> bytes:
        """Answer until there is nothing more to be told, or nobody there."""
        self._refuse_while_stopping()
        if self._feed.followers >= MAX_FOLLOWERS:
            raise Unavailable("Too many clients follow events", FULL_FOR)
        for name, value in EVENT_STREAM.items():
            request.setHeader(name, value)
        if request.method == b"HEAD":
            request.write(b"")  # the head alone, without a length, since the answer to GET has none
            return b""
        if has_left(request):  # while the task was looked for
            return b""
        follower = begin()
        try:
            await follower.over
        finally:
            follower.leave()
        return b""

    @app.route("/api/kinds", methods=["GET"])
    async def kinds(self, request: Request) -> bytes:
        """Tell which kinds there are, and what they take."""
        shown = [kind_json(kind) for kind in self._kinds.values()]
        return answer(request, 200, wire.encode({"kinds": shown}))

    @app.route("/openapi.json", methods=["GET"])
    async def openapi(self, request: Request) -> bytes:
        """Tell which calls there are."""
        return answer_tagged(request, self._description)

    @app.route("/health/live", methods=["GET"])
    async def live(self, request: Request) -> bytes:
        """The process answers."""
        return answer(request, 200, b'{"status":"ok"}')

    @app.route("/health/ready", methods=["GET"])
    async def ready(self, request: Request) -> bytes:
        """Tasks are taken."""
        if self._seats.draining:
            raise Stopping
        if not self._store.healthy:
            raise Unavailable("The store does not answer")
        return answer(request, 200, b'{"status":"ok"}')

    @app.route("/metrics", methods=["GET"])
    async def metrics(self, request: Request) -> bytes:
        """Tell the numbers, to Prometheus."""
        openmetrics = headers.wants_openmetrics(fields(request, "accept"))
        body, content_type = await self._metrics.exposition(openmetrics=openmetrics)
        return answer(request, 200, body, {"Vary": "Accept"}, content_type)

    @app.handle_errors(Problem)
    def problem(self, request: Any, failure: Any) -> bytes:
        """Answer what the client can understand."""
        return answer_problem(request, failure.value)

    @app.handle_errors(HTTPException)
    def unrouted(self, request: Any, failure: Any) -> bytes:
        """Answer what Werkzeug's routing says of path and method."""
        if isinstance(failure.value, WrongMethod):
            return answer_method(request, failure.value.valid_methods or ())
        path = wire.shown(request.path.decode("utf-8", "replace"))
        return answer_problem(request, NotFound(f"There is nothing at '{path}'"))

    @app.handle_errors(Exception)
    def bug(self, request: Any, failure: Any) -> bytes:
        """Answer what should not happen; the log has its traceback, the client has not."""
        log.failure("Request failed", failure, path=request.path.decode("latin-1"))
        return answer_problem(request, Problem("Something went wrong here; the log tells what"))


def _first(known: Known) -> Accepted:
    """The answer that was kept."""
    first, more = wire.parse_json(known.answer.encode())
    return first.encode(), more
