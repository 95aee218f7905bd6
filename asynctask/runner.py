"""Starts accepted tasks and ends them: claims, attempts, drain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Cooperator
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask import wire
from asynctask.context import Context
from asynctask.model import COMPLETED, FAILED, Error, Task, Unavailable, complete, fail, interrupt
from asynctask.places import Places
from asynctask.recorder import FlightRecorder, record
from asynctask.registry import Kind
from asynctask.steps import Recorded
from asynctask.store import Claim, IStore

log = Logger(namespace="asynctask.task")

BATCH: Final = 1_000
"""Tasks of one claim: enough to be fast, few enough that POSTs need not wait for their transaction."""

LOOK_AGAIN: Final = 60.0
"""Seconds after which due tasks are looked for at the latest, since the wall clock may step."""

AFTER_FAILURE: Final = 1.0
"""Seconds until due tasks are looked for again when the store failed."""

UNWIND: Final = 5.0
"""Seconds beyond the grace for handlers to unwind and for their ends to be written."""

MAX_MESSAGE: Final = 10_000
"""Characters of an exception's message that are kept."""


class Attempt:
    """One attempt under way; ``releasing`` once the drain has no more time for it."""

    __slots__ = ("deferred", "ended", "releasing", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.deferred: Deferred[Any] | None = None
        self.releasing = False
        self.ended = False


class Runner:
    """Runs tasks: those that the store says have started, and those that it finds due.

    :param clock: monotonic; what handlers wait by.
    :param now: wall time, seconds since the epoch.
    """

    def __init__(
        self,
        store: IStore,
        places: Places,
        kinds: Mapping[str, Kind],
        recorder: FlightRecorder,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._places = places
        self._kinds = kinds
        self._recorder = recorder
        self._clock = clock
        self._now = now
        self._attempts: dict[str, Attempt] = {}
        self._looking: set[str] = set()
        self._next_look: dict[str, IDelayedCall] = {}
        self._drained: Deferred[None] | None = None
        store.started = self.begin
        store.waiting = self.wait

    def start(self) -> None:
        """Go on with everything that had not ended."""
        for kind in self._kinds:
            self._look(kind)

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start attempts that the store has claimed for us, after the 202s of the same commit.

        Calls that are made while others run are run in the same turn of the reactor, before it writes
        to sockets; hence two.
        """
        for task in tasks:
            self._attempts[task.task_id] = Attempt(task)
        self._clock.callLater(0, self._clock.callLater, 0, self._start_all, tasks)

    def wait(self, tasks: Sequence[Task]) -> None:
        """Look for these tasks when they are due."""
        for task in tasks:
            if task.run_at <= self._now():
                self._look_due(task.kind)
            else:
                self._look_at(task.kind, task.run_at)

    def _look_due(self, kind: str) -> None:
        """Due tasks wait: take them as soon as there are seats."""
        self._places.note_waiting(kind, True)
        self._look(kind)

    def _look(self, kind: str) -> None:
        """Claim as many due tasks as there are free seats, unless that is under way."""
        seats = min(self._places.free, BATCH)
        if self._places.draining or kind in self._looking or seats <= 0:
            return
        self._looking.add(kind)
        self._places.free -= seats
        found = maybeDeferred(self._store.claim, kind, seats, self._now())
        found.addCallbacks(
            self._found, self._not_found, callbackArgs=(kind, seats), errbackArgs=(kind, seats)
        )
        found.addErrback(_log_bug)

    def _found(self, claim: Claim, kind: str, seats: int) -> None:
        self._looking.discard(kind)
        self._places.note_waiting(kind, claim.more)
        self._places.give_back(seats - len(claim.tasks))
        if claim.more:
            self._look(kind)
        elif claim.next_due is not None:
            self._look_at(kind, claim.next_due)
        self._check_drained()

    def _not_found(self, failure: Failure, kind: str, seats: int) -> None:
        """Try again in a while; that the store fails, it has logged itself."""
        if not failure.check(Unavailable):
            _log_bug(failure)
        self._looking.discard(kind)
        self._places.note_waiting(kind, True)
        self._places.give_back(seats)
        self._look_at(kind, self._now() + AFTER_FAILURE)
        self._check_drained()

    def _look_at(self, kind: str, when: float) -> None:
        """Look for due tasks then, or before."""
        if self._places.draining:
            return
        wait = min(max(0.0, when - self._now()), LOOK_AGAIN)
        planned = self._next_look.get(kind)
        if planned is not None and planned.active():
            if planned.getTime() <= self._clock.seconds() + wait:
                return
            planned.cancel()
        self._next_look[kind] = self._clock.callLater(wait, self._look_due, kind)

    def _start_all(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if self._places.draining:
                self._end(self._attempts[task.task_id], interrupt(task, self._now()))
            else:
                self._start(self._attempts[task.task_id])

    def _start(self, attempt: Attempt) -> None:
        task = attempt.task
        log.info(
            "Task started",
            task_id=task.task_id,
            name=task.name,
            kind=task.kind,
            attempt=task.attempt,
        )
        running = attempt.deferred = maybeDeferred(self._step, task)
        running.addCallbacks(self._completed, self._failed, callbackArgs=(attempt,), errbackArgs=(attempt,))
        running.addErrback(_log_bug)

    def _step(self, task: Task) -> Deferred[Any]:
        """Take the handler's first step; its Deferred fires with the last."""
        context = Context(task, self._clock, self._store.report)
        steps = self._kinds[task.kind].steps(context, **wire.read_input(task))
        return ensureDeferred(Recorded(steps, self._recorder, record(task.task_id, task.attempt)))

    def _completed(self, result: Any, attempt: Attempt) -> None:
        try:
            text = wire.dump_result(result)
        except wire.NotSerializable:
            self._failed(Failure(), attempt)
        else:
            self._end(attempt, complete(attempt.task, text, self._now()))

    def _failed(self, failure: Failure, attempt: Attempt) -> None:
        if attempt.releasing:
            self._end(attempt, interrupt(attempt.task, self._now()))
        else:
            self._end(attempt, fail(attempt.task, error_of(failure), self._now()), failure)

    def _end(self, attempt: Attempt, after: Task, failure: Failure | None = None) -> None:
        """The one place that frees the seat and writes the end; an attempt ends once."""
        if attempt.ended:
            return
        attempt.ended = True
        attempt.deferred = None
        self._places.give_back()
        if self._places.waits(after.kind):
            self._look(after.kind)
        written = self._store.end(after, self._now())
        written.addCallback(self._written, after, failure)
        written.addErrback(_log_bug)

    def _written(self, owned: bool, after: Task, failure: Failure | None) -> None:
        del self._attempts[after.task_id]
        fields: dict[str, Any] = {"task_id": after.task_id, "name": after.name}
        if not owned:
            log.warn("Task was given up, and its end dropped", **fields)
        elif after.status is COMPLETED:
            log.info("Task completed", **fields)
        elif after.status is FAILED:
            error = after.error and f"{after.error.type}: {after.error.message}"
            log.error("Task failed", **fields, error=error, log_failure=failure)
        else:
            log.info("Task retrying", **fields, run_at=wire.timestamp(after.run_at))
            self.wait([after])
        self._check_drained()

    def drain(self, grace: float) -> Deferred[None]:
        """Start nothing more, give running attempts their time, and release what is left.

        :param grace: seconds.
        :returns: fires when no attempt is left, or when the ends cannot be written.
        """
        self._places.draining = True
        for planned in self._next_look.values():
            if planned.active():
                planned.cancel()
        self._drained = Deferred()
        calls = [
            self._clock.callLater(grace, self._release),
            self._clock.callLater(grace + UNWIND, self._drained.callback, None),
        ]
        drained = self._drained

        def tidy(_: object) -> None:
            self._drained = None
            for call in calls:
                if call.active():
                    call.cancel()

        drained.addCallback(tidy)
        self._check_drained()
        return drained

    def _check_drained(self) -> None:
        if self._drained is not None and not self._attempts and not self._looking:
            self._drained.callback(None)

    def _release(self) -> None:
        """Cut off what still runs, a little at a time, so that GETs go on."""

        def each() -> Iterator[None]:
            for attempt in list(self._attempts.values()):
                attempt.releasing = True
                if attempt.deferred is not None:
                    attempt.deferred.cancel()
                yield

        cooperator = Cooperator(scheduler=lambda call: self._clock.callLater(0, call))
        cooperator.coiterate(each())


def error_of(failure: Failure) -> Error:
    """What a task says of the exception that ended it."""
    message = failure.getErrorMessage().encode("utf-8", "replace").decode()
    return Error(type(failure.value).__name__, message.replace("\0", "\N{SYMBOL FOR NULL}")[:MAX_MESSAGE])


def _log_bug(failure: Failure) -> None:
    log.failure("This should not happen", failure)
