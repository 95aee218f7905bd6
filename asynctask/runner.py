"""Starts accepted tasks and ends them: attempts, timeouts, cancels, drain."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Cooperator
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask import model, wire
from asynctask.attempts import Attempt, decision_of, error_of
from asynctask.claims import Claims
from asynctask.context import Retry
from asynctask.istore import IStore
from asynctask.logqueue import Line, trace_of
from asynctask.metrics import Metrics
from asynctask.model import CANCELLED, COMPLETED, FAILED, Progress, Status, Task
from asynctask.parts import Parts
from asynctask.places import Places
from asynctask.registry import Kind
from asynctask.runs import Run
from asynctask.seats import Seats
from asynctask.threads import NotStartedError
from asynctask.timers import call_off
from asynctask.tracebacks import UntoldError, let_go, raised_at

log = Logger("asynctask.task")

_STARTED: Final = Line(log, "Task started", "task_id", "name", "kind", "attempt")
_PROGRESS: Final = Line(log, "Task progress", "task_id", "step", "total")
_PROGRESS_WITH_TEXT: Final = Line(log, "Task progress", "task_id", "step", "total", "text", long=True)
_COMPLETED: Final = Line(log, "Task completed", "task_id", "name")

UNWIND: Final = 5.0
"""Seconds that a handler has to unwind after its cancel or timeout, until it is given up."""

SOON: Final = 1.0
"""The least of these seconds at a stop, where they are no more than its grace."""

STARTS: Final = 10
"""Attempts that begin in one turn of the reactor: together a quarter of a millisecond, or a few if they
fail. With fewer, the turns themselves would take the time."""

PART: Final = 8
"""One in so many of those that wait begins in a turn, where that is more: else a service whose clients send
as much as it takes would accept ever more tasks, and begin them ever later."""

BLOCKING: Final = 50.0
"""Milliseconds of one step on the reactor that are worth a word: everybody else waits for it."""

LONGEST_TIMER: Final = 31_536_000.0
"""Seconds that a timer is set for at most: the reactor cannot wait for every number."""

CANCELLED_ERRORS: Final = (
    "twisted.internet.defer.CancelledError",
    "asyncio.exceptions.CancelledError",
    "concurrent.futures._base.CancelledError",
)
"""What a handler ends by that was asked to end; by name, since two of their modules may not be imported."""


class Running(Attempt):
    """An attempt, its handler at work, and what ends it."""

    __slots__ = ("began", "kind", "run", "runner", "timer", "unwinding")

    def __init__(self, task: Task, kind: Kind, runner: "Runner") -> None:
        super().__init__(task)
        self.kind = kind
        self.runner = runner
        self.began: float | None = None
        self.run: Run | None = None
        self.timer: IDelayedCall | None = None
        self.unwinding = False

    def progressed(self, progress: Progress) -> None:
        """See `asynctask.runs.Watcher`."""
        if self.ended:  # one that was given up tells nobody
            return
        self.progress = progress
        task = self.task
        self.runner.store.report(task, progress)
        if progress.message:
            text = progress.message
            _PROGRESS_WITH_TEXT.write(
                task.task_id, progress.step, progress.total, text, trace=task.traceparent
            )
        else:
            _PROGRESS.write(task.task_id, progress.step, progress.total, trace=task.traceparent)

    def took(self, seconds: float) -> None:
        """See `asynctask.runs.Watcher`."""
        milliseconds = seconds * 1_000
        if milliseconds > self.longest:
            self.longest = milliseconds
        if milliseconds > BLOCKING:
            self.runner.note_block(self.task, milliseconds)

    def returned(self, result: str) -> None:
        """See `asynctask.runs.Watcher`."""
        if not self.ended:
            self.runner.returned(self, result)

    def raised(self, failure: Failure) -> None:
        """See `asynctask.runs.Watcher`."""
        if self.ended:
            return
        try:
            self.runner.raised(self, failure)
        except BaseException:
            if self.ended:
                raise
            self.runner.raised(self, Failure(UntoldError(wire.name_of(failure.value))))


class Runner:
    """Runs tasks: those that the store says have started, and those that it finds due.

    :param clock: monotonic; what handlers wait by.
    :param now: wall time, seconds since the epoch.
    :param chance: draws a number in [0, 1).
    :ivar store: is told of attempts.
    """

    def __init__(
        self,
        store: IStore,
        seats: Seats,
        places: Places,
        kinds: Mapping[str, Kind],
        clock: IReactorTime,
        now: Callable[[], float],
        chance: Callable[[], float] = random.random,
        *,
        metrics: Metrics,
    ) -> None:
        self.store = store
        self._seats = seats
        self._places = places
        self._kinds = kinds
        self._clock = clock
        self._now = now
        self._chance = chance
        self._metrics = metrics
        self._running: Parts[Running] = Parts()
        self._soon: deque[Running] = deque()
        self._later: deque[Running] = deque()
        self._is_starting = False
        self._patience = UNWIND
        self._drained: Deferred[None] | None = None
        self._claims = Claims(store, seats, kinds, clock, now, self._check_drained)
        seats.freed = self._claims.seat_is_free
        seats.behind = store.is_behind
        store.started = self.begin
        store.waiting = self._claims.wait
        store.cancelling = self.cancel
        store.told = self._told
        store.runs = self._runs
        store.due = self._claims.look
        store.lost = self._release

    def start(self) -> None:
        """Go on with everything that had not ended."""
        self._claims.start()

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start attempts that the store has claimed for us, after the 202s of the same commit.

        Few tasks of one commit are soon begun; many wait until there is time.
        """
        starting = self._soon if len(tasks) < STARTS else self._later
        for task in tasks:
            running = Running(task, self._kinds[task.kind], self)
            self._running.put(task.task_id, running)
            starting.append(running)
        if not self._is_starting:
            self._is_starting = True
            # Calls that are made while others run are run in the same turn of the reactor, before it
            # writes to sockets; hence two.
            self._clock.callLater(0, self._clock.callLater, 0, self._start_some)

    def cancel(self, tasks: Sequence[Task]) -> None:
        """The store has been told that these are to end."""
        for task in tasks:
            running = self._running.get(task.task_id)
            if running is not None and running.task.attempt == task.attempt:
                running.cancelled = True
                self._unwind(running)

    def _start_some(self) -> None:
        """Start a few now, and the rest in the reactor's next turns: the task of one POST does not wait for
        the thousand of another, nor these for ever."""
        few = min(len(self._soon), max(STARTS - 1, len(self._soon) // PART))
        now = [self._soon.popleft() for _ in range(few)]
        now += [self._later.popleft() for _ in range(min(len(self._later), max(STARTS - few, 1)))]
        self._is_starting = bool(self._soon or self._later)
        if self._is_starting:
            self._clock.callLater(0, self._start_some)
        for running in now:
            if running.ended:  # before it began
                continue
            if self._running.get(running.task.task_id) is not running:  # taken from us, and claimed anew
                running.ended = True
                self._free(running)
            elif self._seats.draining:
                self._cut_off(running)
            else:
                self._start(running)

    def _start(self, running: Running) -> None:
        task, kind = running.task, running.kind
        _STARTED.write(task.task_id, task.name, task.kind, task.attempt, trace=task.traceparent)
        began = running.began = self._clock.seconds()
        now = self._now()
        self._metrics.began(kind.name, kind.place, now - task.run_at)
        deadline = None
        if task.timeout is not None:
            deadline = now + task.timeout
            wait = min(task.timeout, LONGEST_TIMER)
            running.timer = self._clock.callLater(wait, self._time_out, running, began)
        # What it was given is in the store, and is not kept while it runs.
        running.task = replace(task, input=None)
        run = self._places.start(task, kind, deadline, running)
        run.task = running.task
        if not running.ended:
            running.run = run

    def _told(self, task_id: str) -> tuple[int, Progress] | None:
        """How far the attempt of a task is that runs here, see `asynctask.live.Told`."""
        running = self._running.get(task_id)
        if running is None or running.progress is None:
            return None
        return running.task.attempt, running.progress

    def _runs(self, task_id: str, attempt: int) -> bool:
        """Whether this attempt of a task is under way here, or its end is."""
        running = self._running.get(task_id)
        return running is not None and running.task.attempt == attempt

    def note_block(self, task: Task, milliseconds: float) -> None:
        """A step on the reactor took so long that others had to wait."""
        self._metrics.blocked(task.kind, milliseconds / 1_000)
        self._metrics.longest_step = max(self._metrics.longest_step, milliseconds / 1_000)
        ms = round(milliseconds)
        log.warn("Task blocked the reactor", task_id=task.task_id, kind=task.kind, ms=ms, **trace_of(task))

    def _time_out(self, running: Running, began: float) -> None:
        """The attempt's time is over, unless the clock cannot count so far."""
        left = began + (running.task.timeout or 0) - self._clock.seconds()
        if left > 0:
            running.timer = self._clock.callLater(min(left, LONGEST_TIMER), self._time_out, running, began)
            return
        running.timed_out = True
        self._unwind(running)

    def _unwind(self, running: Running) -> None:
        """Ask a handler to end, once, and give it up if it does not."""
        if running.ended or running.unwinding:
            return
        running.unwinding = True
        call_off(running.timer)
        if running.run is None:  # claimed, and not begun yet
            self._cut_off(running)
            return
        running.timer = self._clock.callLater(self._patience, self._give_up, running)
        try:
            running.run.cancel()
        except BaseException:  # of what it waits for, which may be anybody's
            log.failure("Task cannot be asked to end", **_named(running.task))

    def _give_up(self, running: Running) -> None:
        task = running.task
        log.warn("Task does not unwind and was given up", name=task.name, **_named(task))
        if running.run is not None:
            running.run.abandon()
        self._cut_off(running)

    def _cut_off(self, running: Running) -> None:
        self._end(running, running.given_up(self._now(), partial(self._backoff, running)))

    def returned(self, running: Running, result: str) -> None:
        """A handler has returned."""
        # One that held the reactor ends before its timer can fire.
        running.timed_out |= self._overdue(running)
        self._end(running, running.succeeded(result, self._now(), partial(self._backoff, running)))

    def raised(self, running: Running, failure: Failure) -> None:
        """A handler has raised, or was asked to end."""
        running.timed_out |= self._overdue(running)
        after = running.failed(failure, self._now(), partial(self._backoff, running, failure))
        if failure.check(NotStartedError) and not running.is_to_end:
            log.warn("Task cannot be started now", error=str(failure.value), **_named(after))
        # Only the last one is told whole: thousands may fail at once.
        is_told = after.status is FAILED and not running.is_to_end
        where = "" if is_told else raised_at(failure)
        if running.is_to_end and not failure.check(NotStartedError, *CANCELLED_ERRORS):
            told = error_of(failure)
            error = f"{told.type}: {told.message}"
            log.info("Task raised as it was to end", error=error, place=where, **_named(after))
        self._end(running, after, failure if is_told else None, where)
        if not is_told:
            let_go(failure)

    def _overdue(self, running: Running) -> bool:
        timer = running.timer
        if timer is None or running.unwinding or not timer.active():
            return False
        ended_at = None if running.run is None else running.run.ended_at
        return timer.getTime() <= (self._clock.seconds() if ended_at is None else ended_at)

    def _backoff(self, running: Running, failure: Failure | None = None) -> float:
        """How long a task waits for its next attempt."""
        number, rule = running.task.attempt + 1, running.kind.backoff
        try:
            if failure is not None and isinstance(decision := decision_of(failure), Retry):
                seconds = float(decision.after)
            elif rule is not None:
                seconds = float(rule(number))
            else:
                return model.backoff(number, self._chance())
            return max(0.0, min(seconds, LONGEST_TIMER))
        except BaseException:
            log.failure("The backoff of kind {kind} failed", kind=running.kind.name)
            return model.backoff(number, self._chance())

    def _end(self, running: Running, after: Task, failure: Failure | None = None, where: str = "") -> None:
        """The one place that writes the end; an attempt ends once.

        :param failure: to be told whole.
        :param where: the file and the line where it was raised.
        """
        running.ended = True
        running.run = None
        if running.timer is not None and running.timer.active():
            running.timer.cancel()
        if (longest := running.longest / 1_000) > self._metrics.longest_step:
            self._metrics.longest_step = longest
        if running.began is not None:
            seconds = self._clock.seconds() - running.began
            self._metrics.ran(running.kind.name, running.kind.place, seconds)
        self._free(running)
        # Not after it may run again: it may be claimed by then, which would come first in its history.
        ended_at = min(self._now(), after.run_at) if after.finished_at is None else after.finished_at
        written = self.store.end(after, ended_at)
        written.addCallbacks(self._written, _log_bug, (running, after, failure, where), {})

    def _free(self, running: Running) -> None:
        """Give back the seat of an attempt, and let those know that wait for one."""
        self._seats.give_back(running.kind)
        self._claims.seat_is_free(running.kind.place)

    def _written(
        self, status: Status | None, running: Running, after: Task, failure: Failure | None, where: str
    ) -> None:
        self._running.drop(after.task_id, running)
        if status is COMPLETED:
            _COMPLETED.write(after.task_id, after.name, trace=after.traceparent)
        else:
            self._note_end(status, after, failure, where)
        if failure is not None:
            let_go(failure)
        if running.kind.concurrency_total is not None and self._seats.shared:
            self._claims.look([running.kind.name])  # until now the store has counted this attempt
        self._check_drained()

    def _note_end(self, status: Status | None, after: Task, failure: Failure | None, where: str) -> None:
        """Say what an attempt came to that has no result."""
        fields: dict[str, Any] = {"task_id": after.task_id, "name": after.name}
        error: dict[str, Any] = {}
        trace = trace_of(after)
        if after.error is not None:
            error["error"] = f"{after.error.type}: {after.error.message}"
        if status is None:
            log.warn("Task was given up, and its end dropped", **fields, **trace)
        elif status is CANCELLED:
            log.info("Task cancelled", **fields, **trace)
        elif status is FAILED:
            whole = {} if failure is None else {"log_failure": failure}
            log.error("Task failed", **fields, **error, **trace, **whole)
        else:
            place = {"place": where} if where and error else {}
            run_at = wire.timestamp(after.run_at)
            log.info("Task retrying", **fields, run_at=run_at, **error, **place, **trace)
            self._claims.wait([after])

    def drain(self, grace: float) -> Deferred[None]:
        """Start nothing more, give running attempts their time, and release what is left.

        :param grace: seconds.
        :returns: fires when no attempt is left, or when the ends cannot be written.
        """
        self._seats.draining = True
        self._patience = min(max(grace, SOON), UNWIND)
        self._claims.stop()
        drained = self._drained = Deferred()
        calls = [
            self._clock.callLater(grace, self._release),
            self._clock.callLater(grace + 2 * self._patience, drained.callback, None),
        ]

        def tidy(_: object) -> None:
            self._drained = None
            for call in calls:
                call_off(call)

        drained.addCallback(tidy)
        self._check_drained()
        return drained

    def _check_drained(self) -> None:
        if self._drained is not None and not self._running and not self._claims.looking:
            self._drained.callback(None)

    def _release(self) -> None:
        """Cut off what still runs, a little at a time, so that GETs go on."""

        def each() -> Iterator[None]:
            for running in self._running.values():
                running.releasing = True
                self._unwind(running)
                yield

        cooperator = Cooperator(scheduler=lambda call: self._clock.callLater(0, call))
        cooperator.coiterate(each())


def _named(task: Task) -> dict[str, Any]:
    return {"task_id": task.task_id} | trace_of(task)


def _log_bug(failure: Failure) -> None:
    log.failure("This should not happen", failure)
