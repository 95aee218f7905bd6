"""One handler at work, wherever it runs."""

from collections.abc import Callable
from threading import RLock
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from asynctask import wire
from asynctask.context import Context, Facts
from asynctask.model import Progress, Task
from asynctask.recorder import record
from asynctask.registry import Kind

UNTOLD: Final = 10
"""Reports of one attempt that wait for the reactor: with all threads at work, some 20 ms of it."""


class Watcher(Protocol):
    """Hears of a handler at work, in the reactor's thread."""

    def progressed(self, progress: Progress) -> None:
        """It tells how far it is."""

    def took(self, seconds: float) -> None:
        """It has taken a step on the reactor."""

    def returned(self, result: str) -> None:
        """It has returned; JSON text."""

    def raised(self, failure: Failure) -> None:
        """It has raised, or what it returned is no JSON."""


class Reporter:
    """Takes the progress of a handler in any thread, and tells it in the reactor's.

    Of what comes faster than the reactor hears it, the last `UNTOLD` are told, or threads could hold it up.

    :param from_thread: runs a function in the reactor's thread.
    """

    __slots__ = ("_from_thread", "_is_asked", "_lock", "_untold", "_watcher")

    def __init__(self, from_thread: Callable[..., object], watcher: Watcher) -> None:
        self._from_thread = from_thread
        self._watcher = watcher
        self._untold: list[Progress] = []
        self._is_asked = False
        self._lock = RLock()

    def __call__(self, progress: Progress) -> None:
        """Take it, and go on."""
        with self._lock:
            self._untold.append(progress)
            del self._untold[:-UNTOLD]
            if not self._is_asked:
                self._is_asked = True
                # In here, so that no other thread's report is told after the end of its handler.
                self._from_thread(self._tell)

    def _tell(self) -> None:
        with self._lock:
            told, self._untold = self._untold, []
            self._is_asked = False
        for progress in told:
            self._watcher.progressed(progress)


class AtWork(Protocol):
    """A handler's work that another thread or process does.

    :ivar deferred: fires with the result as JSON text, or with whatever went wrong.
    :ivar ended_at: when it ended; None while it has not.
    """

    ended_at: float | None

    @property
    def deferred(self) -> Deferred[Any]:
        """See above."""

    def abandon(self) -> None:
        """Let go of it."""


class Run:
    """A handler at work.

    It is what the handler's context tells, too.

    :ivar deadline: when it must have ended, seconds since the epoch; None for never.
    :ivar cancelled: whether it was asked to end.
    """

    __slots__ = ("cancelled", "deadline", "task", "watcher")

    def __init__(self, task: Task, deadline: float | None, watcher: Watcher) -> None:
        self.task = task
        self.deadline = deadline
        self.watcher = watcher
        self.cancelled = False

    @property
    def ended_at(self) -> float | None:
        """When its work ended, where that is not when the reactor hears of it."""
        return None

    @property
    def record(self) -> bytes:
        """The attempt as the flight recorder names it."""
        return record(self.task.task_id, self.task.attempt)

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.task.task_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.task.attempt

    @property
    def traceparent(self) -> str | None:
        """As the client sent it (W3C Trace Context)."""
        return self.task.traceparent

    @property
    def facts(self) -> Facts:
        """The attempt in words that may go into another process."""
        return Facts(self.task_id, self.task.name, self.attempt, self.deadline, self.traceparent)

    def with_context(
        self, kind: Kind, clock: IReactorTime | None, report: Callable[[Progress], None]
    ) -> dict[str, Any]:
        """All that the handler takes."""
        given = kind.input.arguments(wire.read_input(self.task))
        if kind.input.context is not None:
            given[kind.input.context] = Context(self, clock, report)
        return given

    def cancel(self) -> None:
        """Ask it to end: at its ``await``, by its flag, or with its process."""
        self.cancelled = True

    def abandon(self) -> None:
        """Let go of it: it did not end, and what it does from now on counts for nothing."""


class Elsewhere(Run):
    """A handler that does not work on the reactor."""

    __slots__ = ("_work",)

    def follow(self, work: AtWork) -> None:
        """It is at work."""
        self._work = work
        work.deferred.addCallbacks(self.watcher.returned, self.watcher.raised)

    @property
    def ended_at(self) -> float | None:
        """See `Run`."""
        return self._work.ended_at

    def cancel(self) -> None:
        """See `Run`."""
        super().cancel()
        self._work.deferred.cancel()

    def abandon(self) -> None:
        """See `Run`."""
        self._work.abandon()
