"""From what a POST asks for to the commit that keeps it: its room, seats, ids, and keys used before."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from twisted.logger import Logger

from asynctask import headers, wire
from asynctask.istore import IStore, Key, Known
from asynctask.model import KEY_KEPT, Task, accept
from asynctask.problems import Invalid, Mismatch, Stopping, Unavailable
from asynctask.registry import Kind
from asynctask.seats import Seats
from asynctask.submissions import Body, digest_of

log = Logger(namespace="asynctask")

FULL_FOR: Final = 5
"""Seconds after which a client may ask a full service again."""

ROOM: Final = 0.1
"""Part of the places that has to be free until a service that was full is told not to be."""

CLOSED: Final = {
    "thread": "Too many handlers that were given up run on in threads; if they hang, restart the service",
    "asyncio": "Too many handlers that were given up hold asyncio loops; if they hang, restart the service",
}
"""Why a place takes no more tasks."""

Accepted = tuple[bytes, dict[str, str]]
"""Body and headers of a 202."""


class Acceptance:
    """Accepts tasks.

    :param now: wall time, seconds since the epoch.
    :param draw: draws the chance of an id.
    :param max_waiting: tasks that may be there without having ended.
    """

    def __init__(
        self,
        store: IStore,
        seats: Seats,
        kinds: Mapping[str, Kind],
        now: Callable[[], float],
        draw: Callable[[], bytes],
        max_waiting: int,
    ) -> None:
        self._store = store
        self._seats = seats
        self._kinds = kinds
        self._now = now
        self._draw = draw
        self._max_waiting = max_waiting
        self._is_full = False
        self._refusing: set[str] = set()
        self.ids = wire.Ids()

    def check_open(self) -> None:
        """:raises Stopping: nothing is accepted any more."""
        if self._seats.draining:
            raise Stopping

    def check_room(self) -> None:
        """:raises Unavailable: there is no room for one task more."""
        if (refusal := self._full(1)) is not None:
            raise refusal

    def new_tasks(self, body: Body, traceparent: Sequence[str]) -> list[Task]:
        """The tasks that a body asks for.

        :param traceparent: the values of that field as the client sent them; they may be anything.
        """
        trace = headers.parse_traceparent(", ".join(traceparent))
        now = self._now()
        return [accept(new, self.ids.next(now, self._draw()), now, trace) for new in body.submissions]

    def accepted(self, task: Task) -> Accepted:
        """What its client is told once it is kept."""
        seconds = self.seconds(task)
        delay = task.run_at - task.accepted_at
        if seconds is None:
            message = "Task will run in background"
            wait = max(1, math.ceil(delay))
        else:
            message = f"Task will run for {seconds:.0f} seconds in background"
            wait = math.ceil(round(delay, 6) + seconds if delay else seconds)
        more = {"Location": f"/api/tasks/{task.task_id}", "Retry-After": str(wait)}
        return wire.accepted_json(task, message), more

    def seconds(self, task: Task) -> float | None:
        """How long a task takes, if its kind can tell."""
        kind = self._kinds.get(task.kind)
        return None if kind is None else kind.seconds(task.input or "{}")

    async def accept(
        self, keys: Sequence[str], body: Body, tasks: list[Task], accepted: Accepted
    ) -> Accepted:
        """Keep tasks; what was answered to the same key before is the answer again.

        :param keys: the values of ``Idempotency-Key``.
        :param accepted: the answer, if there was none before.
        :raises Problem: nothing is kept; but for `OutcomeUnknown`.
        """
        key = headers.parse_key(keys)
        refusal = self._refusal(tasks)
        if key is None:
            if refusal is not None:
                raise refusal
            await self._keep(tasks, None)
            return accepted
        text = wire.dump([accepted[0].decode(), accepted[1]])
        expires_at = tasks[0].accepted_at + KEY_KEPT
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

    async def repeated(self, keys: Sequence[str], given: bytes, shape: type, invalid: Invalid) -> Accepted:
        """What the same body with the same key was answered before: its kind may be gone by now.

        :raises Invalid: nothing was.
        """
        with suppress(Invalid, Unavailable):  # of which the body has more to say
            key = headers.parse_key(keys)
            known = None
            if key is not None:
                known = await self._store.add_once([], [], Key(key, "", "", 0.0), self._now())
            if known is not None:
                value = wire.parse_json(given)
                if isinstance(value, shape) and known.digest == digest_of(value):
                    return _first(known)
        try:
            raise invalid
        finally:  # or it would hold this frame, which holds it, until the collector comes
            del invalid

    def _full(self, more: int) -> Unavailable | None:
        """Why there is no room for so many tasks more, if there is none."""
        unfinished, most = self._store.unfinished, self._max_waiting
        if self._is_full and unfinished < most and unfinished <= most * (1 - ROOM):
            self._is_full = False
            log.info("There is room for new tasks again", not_ended=unfinished)
        if unfinished + more <= most:
            return None
        if not self._is_full and unfinished >= most:  # else it is a batch for which there is no room
            self._is_full = True
            log.warn("Too many tasks have not ended; new ones are refused", max_waiting=most)
        return Unavailable("The service is full: too many tasks have not ended", FULL_FOR)

    def _refusal(self, tasks: Sequence[Task]) -> Unavailable | None:
        """Why there is no room for these tasks, if there is none."""
        if (full := self._full(len(tasks))) is not None:
            return full
        for place in {self._kinds[task.kind].place for task in tasks}:
            if self._seats.closed(place):
                if place not in self._refusing:
                    self._refusing.add(place)
                    log.warn(
                        "Too many handlers that were given up run on; new tasks are refused", place=place
                    )
                return Unavailable(CLOSED[place])
            if place in self._refusing:
                self._refusing.remove(place)
                log.info("New tasks are taken again", place=place)
        return None

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


def _first(known: Known) -> Accepted:
    """The answer that was kept."""
    first, more = wire.parse_json(known.answer.encode())
    return first.encode(), more
