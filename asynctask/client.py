"""A client for Twisted programs: sends again what was lost, goes on where events were cut off."""

import math
from collections.abc import AsyncGenerator, Iterable, Mapping
from secrets import token_hex
from typing import Any, Final, Self, overload
from urllib.parse import quote, urlencode

from twisted.internet import defer
from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from asynctask.model import ENDED, Error, Progress, Status
from asynctask.problems import FieldError
from asynctask.responses import (
    Accepted,
    ApiError,
    Batch,
    Callback,
    Change,
    Conflict,
    Event,
    Forbidden,
    Invalid,
    Kind,
    Kinds,
    Mismatch,
    New,
    NotFound,
    Page,
    Task,
    TooLarge,
    Unavailable,
    Unexpected,
    Unreachable,
)
from asynctask.sending import LONGEST_PAUSE, WAIT, Sender
from asynctask.stream import Events

__all__ = [
    "Accepted",
    "ApiError",
    "Callback",
    "Change",
    "Client",
    "Conflict",
    "Error",
    "Event",
    "FieldError",
    "Forbidden",
    "Invalid",
    "Kind",
    "Mismatch",
    "New",
    "NotFound",
    "Progress",
    "Status",
    "Task",
    "TooLarge",
    "Unavailable",
    "Unexpected",
    "Unreachable",
]

log = Logger(namespace="asynctask.client")

LOOK_AGAIN: Final = 5.0
"""Seconds at most until the next look, where the service has answered at once though it was asked to wait:
it stops, or a proxy has dropped the ``Prefer``."""


class Client:
    """The service at a URL.

    What is lost on the way, or answered 429, 502, 503 or 504, is sent again, after `Retry-After` and a
    growing pause. Cancelling a call hangs up. What the service refuses is an `ApiError`.

    :param attempts: how often a request is sent at most.
    :param timeout: seconds that one try may take, from the connection to the last byte of the answer.
    :param http: asks instead of a client of its own, like `treq.testing.StubTreq`.
    :raises ValueError: no service can be at this URL, or a number is none that is meant here.
    """

    def __init__(
        self,
        base_url: str,
        reactor: Any = None,
        *,
        attempts: int = 6,
        timeout: float = 30,
        http: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        if not isinstance(attempts, int) or attempts < 1:
            raise ValueError(f"attempts is a whole number from 1, not {attempts!r}")
        if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
        self._reactor = reactor
        self._attempts = attempts
        self._sender = Sender(base_url, reactor, attempts, timeout, http)

    async def __aenter__(self) -> Self:
        """Use it with ``async with``, and it is closed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """See `close`."""
        await self.close()

    async def close(self) -> None:
        """Hang up; calls under way, and later ones, end in `CancelledError`."""
        await self._sender.close()

    @overload
    async def submit(
        self,
        name: str,
        kind: str = "simulate",
        *,
        duration: int | None = None,
        input: Mapping[str, Any] | None = None,
        delay: float = 0,
        timeout: float | None = None,  # noqa: ASYNC109
        retries: int | None = None,
        callback_url: str | None = None,
        wait: None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Accepted: ...

    @overload
    async def submit(
        self,
        name: str,
        kind: str = "simulate",
        *,
        duration: int | None = None,
        input: Mapping[str, Any] | None = None,
        delay: float = 0,
        timeout: float | None = None,  # noqa: ASYNC109
        retries: int | None = None,
        callback_url: str | None = None,
        wait: int,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Accepted | Task: ...

    async def submit(
        self,
        name: str,
        kind: str = "simulate",
        *,
        duration: int | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002
        delay: float = 0,
        timeout: float | None = None,  # noqa: ASYNC109
        retries: int | None = None,
        callback_url: str | None = None,
        wait: int | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Accepted | Task:
        """Have a task accepted, once, however often it has to be sent.

        :param delay: seconds before it may start.
        :param timeout: seconds that one attempt of the task may take.
        :param wait: seconds, at most 50, to wait for its end; the answer is the `Task` where it came.
        :raises ValueError: ``wait`` is no whole number of seconds.
        """
        if wait is not None and (type(wait) is not int or wait < 0):
            raise ValueError(f"wait is a whole number of seconds from 0, not {wait!r}")
        body = {
            "name": name,
            "kind": kind,
            "duration": duration,
            "input": input,
            "delay": delay,
            "timeout": timeout,
            "retries": retries,
            "callback_url": callback_url,
        }
        given = {field: value for field, value in body.items() if value is not None}
        headers = _headers(idempotency_key, traceparent, wait)
        answer = await self._sender.ask("POST", "/api/tasks", given, headers, wait or 0)
        return answer.read(Task) if answer.status == 200 else answer.read(Accepted)

    async def submit_many(
        self,
        tasks: Iterable[New],
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> tuple[Accepted, ...]:
        """Have 1 to 1,000 tasks accepted, all or none."""
        headers = _headers(idempotency_key, traceparent)
        return (await self._sender.ask("POST", "/api/tasks/batch", [*tasks], headers)).read(Batch).tasks

    async def get(self, task_id: str) -> Task:
        """The task as it is."""
        return (await self._sender.ask("GET", _path(task_id))).read(Task)

    async def wait(self, task_id: str, timeout: float | None = None) -> Task:  # noqa: ASYNC109
        """The task when it has ended.

        :param timeout: seconds; forever where there is none.
        :raises TimeoutError: it has not ended by then.
        """
        ended = ensureDeferred(self._until_ended(task_id))
        if timeout is not None:
            ended.addTimeout(max(0.0, timeout), self._reactor)
        try:
            return await ended
        except defer.TimeoutError:
            raise TimeoutError(f"Task {task_id} has not ended within {timeout} seconds") from None

    async def _until_ended(self, task_id: str) -> Task:
        while True:
            began = self._reactor.seconds()
            answer = await self._sender.ask("GET", _path(task_id), None, {"Prefer": f"wait={WAIT}"}, WAIT)
            task = answer.read(Task)
            if task.status in ENDED:
                return task
            if self._reactor.seconds() - began < 1:  # the service stops, or a proxy drops the wish
                await self._sender.pause(min(answer.retry_after, LOOK_AGAIN), 0)

    async def list(
        self,
        *,
        status: str | Iterable[str] | None = None,
        kind: str | None = None,
        name: str | None = None,
        page_size: int | None = None,
    ) -> AsyncGenerator[Task, None]:
        """Every task that matches, newest first; the next page is asked for when it is reached."""
        cursor = None
        while True:
            query = _query(status=status, kind=kind, name=name, limit=page_size, cursor=cursor)
            page = (await self._sender.ask("GET", "/api/tasks" + query)).read(Page)
            for task in page.tasks:
                yield task
            cursor = page.next
            if cursor is None:
                return

    async def cancel(self, task_id: str) -> Task:
        """Ask for its end: `cancelled` if it waited, else it is when it has unwound."""
        return (await self._sender.ask("POST", _path(task_id) + "/cancel")).read(Task)

    async def retry(self, task_id: str) -> Task:
        """Let it begin anew. Not sent again where it may have been served: that might begin it twice."""
        return (await self._sender.ask("POST", _path(task_id) + "/retry", once=True)).read(Task)

    async def delete(self, task_id: str) -> None:
        """Have it forgotten, with its input and result."""
        try:
            await self._sender.ask("DELETE", _path(task_id))
        except NotFound as gone:
            if not gone.uncertain:
                raise

    async def kinds(self) -> tuple[Kind, ...]:
        """The kinds of task that there are."""
        return (await self._sender.ask("GET", "/api/kinds")).read(Kinds).kinds

    async def events(
        self,
        task_id: str | None = None,
        *,
        kind: str | None = None,
        status: str | Iterable[str] | None = None,
        last_event_id: str | None = None,
    ) -> AsyncGenerator[Event, None]:
        """What happens to one task, until all is told, or to all tasks from now on.

        Once it was connected, it connects again for ever, and goes on where it was.
        """
        path = ("/api/events" if task_id is None else _path(task_id) + "/events") + _query(
            kind=kind, status=status
        )
        events, connected, over, failures = Events(last_event_id), False, False, 0
        while True:
            problem: ApiError | None = None
            try:
                body = await self._sender.open(path, events.position)
                if body is None:
                    return
                connected = True
                events.position = events.position or body.position
                try:
                    while data := await self._sender.read(body):
                        failures = 0
                        for event in events.feed(data):
                            over = event.type == "deleted" or _has_ended(event.task)
                            yield event
                finally:
                    self._sender.leave(body)
                    events.cut()
            except Unavailable as unavailable:
                problem = unavailable
            except NotFound:
                if over and task_id is not None:  # deleted since
                    return
                raise
            failures += 1
            retry_after = 0.0 if problem is None else problem.retry_after
            is_over = failures >= self._attempts or retry_after > LONGEST_PAUSE
            if problem is not None and not connected and is_over:
                raise problem
            log.debug("Events end here: {why}", why=problem or "the service closed them")
            await self._sender.pause(min(max(events.retry, retry_after), LONGEST_PAUSE), failures - 1)


def _has_ended(task: Task | None) -> bool:
    return task is not None and task.status in ENDED


def _headers(key: str | None, traceparent: str | None, wait: int | None = None) -> dict[str, str]:
    headers = {"Idempotency-Key": token_hex(16) if key is None else key}
    if traceparent is not None:
        headers["traceparent"] = traceparent
    if wait is not None:
        headers["Prefer"] = f"wait={wait}"
    return headers


def _path(task_id: str) -> str:
    return f"/api/tasks/{quote(task_id, safe='')}"


def _query(status: str | Iterable[str] | None = None, **more: object) -> str:
    asked = {"status": status if isinstance(status, str | None) else ",".join(status), **more}
    given = {name: value for name, value in asked.items() if value is not None}
    return "?" + urlencode(given) if given else ""
