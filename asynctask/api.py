"""The routes: each parses, calls, and has the answer rendered."""

import math
from collections.abc import Callable, Collection, Mapping
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

from asynctask import headers, queries, sse, wire
from asynctask.acceptance import FULL_FOR, Acceptance
from asynctask.answers import (
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
from asynctask.door import MAX_BATCH_BODY, MAX_BODY, Guarded
from asynctask.feed import Feed
from asynctask.followers import ENDING_STREAM, EVENT_STREAM, Follower, OfAll, OfOne
from asynctask.istore import IStore
from asynctask.metrics import Metrics
from asynctask.model import ENDED, RUNNING, InvalidTransition, Query, Task
from asynctask.problems import Conflict, Invalid, NotFound, Problem, Stopping, Unavailable
from asynctask.registry import Kind, kind_json
from asynctask.seats import Seats
from asynctask.sse import Filter
from asynctask.submissions import parse_batch, parse_one

log = Logger(namespace="asynctask.api")

MAX_FOLLOWERS: Final = 10_000
"""Clients that follow events at once: each takes some KiB, and a part of every change."""

KEY: Final = "idempotency-key"
LAST: Final = "last-event-id"
TRACE: Final = "traceparent"


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
        hosts: Collection[str],
        max_waiting: int,
        *,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._seats = seats
        self._feed = feed
        self._kinds = kinds
        self._clock = clock
        self._now = now
        self._hosts = hosts
        self._acceptance = Acceptance(store, seats, kinds, now, draw, max_waiting)
        self.ids = self._acceptance.ids
        self._description = describe(kinds)
        self._metrics = metrics
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
        self._acceptance.check_open()
        given = json_body(request, MAX_BODY)
        seconds = headers.parse_wait(fields(request, "prefer"))
        try:
            body = parse_one(given, self._kinds)
        except Invalid as invalid:
            accepted = await self._acceptance.repeated(fields(request, KEY), given, dict, invalid)
        else:
            tasks = self._acceptance.new_tasks(body, fields(request, TRACE))
            first = self._acceptance.accepted(tasks[0])
            accepted = await self._acceptance.accept(fields(request, KEY), body, tasks, first)
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
        self._acceptance.check_open()
        given = json_body(request, MAX_BATCH_BODY)
        try:
            body = parse_batch(given, self._kinds)
        except Invalid as invalid:
            accepted = await self._acceptance.repeated(fields(request, KEY), given, list, invalid)
            return answer(request, 202, *accepted)
        tasks = self._acceptance.new_tasks(body, fields(request, TRACE))
        each = [self._acceptance.accepted(task) for task in tasks]
        wait = max(int(more["Retry-After"]) for _, more in each)
        whole = wire.batch_json([text for text, _ in each])
        all_of_them = whole, {"Retry-After": str(wait)}
        accepted = await self._acceptance.accept(fields(request, KEY), body, tasks, all_of_them)
        return answer(request, 202, *accepted)

    async def _wait_for(self, request: Request, task_id: str, seconds: int) -> Task | None:
        """The task when it has ended, or as it is after so many seconds, or as soon as nobody waits."""
        until = self._clock.seconds() + seconds
        while True:
            ended = self._feed.ended(task_id)
            stops = ended.called
            try:
                task = await self._store.get(task_id)
                left = until - self._clock.seconds()
                if task is None or task.status in ENDED or stops or left <= 0 or has_left(request):
                    return task
                if not await self._is_told(request, ended, left):
                    return await self._store.get(task_id)
            finally:
                ended.addErrback(lambda failure: failure.trap(CancelledError))
                ended.cancel()
            # Another process may tell late of an end that a retry has undone by now: it is read again.

    async def _is_told(self, request: Request, ended: Deferred[None], seconds: float) -> bool:
        """Whether this fires before the seconds are over, and while somebody waits."""
        reasons: list[type[Exception]] = [defer.TimeoutError]

        def hurry() -> None:
            reasons.append(CancelledError)
            ended.cancel()

        ended.addTimeout(seconds, self._clock)
        if_leaving(request, hurry)
        return await ended.addErrback(lambda failure: failure.trap(*reasons)) is None

    @app.route("/api/tasks", methods=["GET"])
    async def list(self, request: Request) -> bytes:
        """List tasks, newest first."""
        query = queries.parse_query(request.uri.partition(b"?")[2])
        tasks, following = await self._store.list(query)
        if not tasks:
            await self._check_kind(query.kind)
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
        """Seconds until the task can have ended, at least 1; for a 202 as in `Acceptance.accepted`."""
        now, seconds = self._now(), self._acceptance.seconds(task)
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
        self._acceptance.check_open()
        self._acceptance.check_room()
        done = self._store.retry(wire.known_id(task_id), self._now())
        return self._show(request, await self._allowed(done, "retried"), 202)

    @app.route("/api/tasks/<task_id>", methods=["DELETE"])
    async def delete(self, request: Request, task_id: str) -> bytes:
        """Forget a task."""
        if await self._allowed(self._store.delete(wire.known_id(task_id)), "deleted") is None:
            raise NotFound(wire.NO_TASK)
        return answer(request, 204, b"")

    async def _check_kind(self, kind: str | None) -> None:
        """Refuse a kind that there never was; of others whose handler is gone, tasks may be left.

        :raises Invalid: it is most likely a typo.
        """
        if kind is not None and kind not in self._kinds:
            of_kind, _ = await self._store.list(Query(kind=kind, limit=1))
            if not of_kind:
                raise Invalid(f"Parameter 'kind': {wire.unknown('kind', kind, self._kinds)}")

    async def _allowed(self, done: Deferred[Task | None], what: str) -> Task | None:
        try:
            return await done
        except InvalidTransition as refusal:
            raise Conflict(f"A task that is {refusal.status} cannot be {what}") from None

    @app.route("/api/events", methods=["GET"])
    async def events(self, request: Request) -> bytes:
        """Tell what happens to all tasks from now on, or from where the client was."""
        query = queries.parse_filter(request.uri.partition(b"?")[2])
        await self._check_kind(query.kind)
        of, given = Filter(query.kind, query.statuses), headers.parse_last_event_id(fields(request, LAST))
        position = self._feed.now if given is None else sse.parse_position(given, self._feed.epoch)
        return await self._follow(
            request,
            EVENT_STREAM,
            lambda: OfAll(request, self._feed, self._store, self._clock, of, position),
        )

    @app.route("/api/tasks/<task_id>/events", methods=["GET"])
    async def events_of(self, request: Request, task_id: str) -> bytes:
        """Tell what happens to a task, from its beginning or from where the client was, to its end."""
        queries.parse_no_query(request.uri.partition(b"?")[2])
        task = await self._store.get(wire.known_id(task_id))
        if task is None:
            raise NotFound(wire.NO_TASK)
        given = headers.parse_last_event_id(fields(request, LAST))
        told = 0 if given is None else sse.parse_count(given, task_id)
        if task.status in ENDED and told == task.n:
            return answer(request, 204, b"")
        return await self._follow(
            request,
            ENDING_STREAM,
            lambda: OfOne(request, self._feed, self._store, self._clock, task_id, told),
        )

    async def _follow(
        self, request: Request, head: Mapping[str, str], begin: Callable[[], Follower]
    ) -> bytes:
        """Answer until there is nothing more to be told, or nobody there."""
        self._acceptance.check_open()
        if self._feed.followers >= MAX_FOLLOWERS:
            raise Unavailable("Too many clients follow events", FULL_FOR)
        for name, value in head.items():
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
