"""One handler at work, wherever it runs."""

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from asynctask import wire
from asynctask.context import Context, Facts
from asynctask.model import Progress, Task
from asynctask.recorder import record
from asynctask.registry import Kind


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


class Run:
    """A handler at work.

    :ivar cancelled: whether it was asked to end.
    """

    __slots__ = ("cancelled", "task", "watcher")

    def __init__(self, task: Task, watcher: Watcher) -> None:
        self.task = task
        self.watcher = watcher
        self.cancelled = False

    @property
    def record(self) -> bytes:
        """The attempt as the flight recorder names it."""
        return record(self.task.task_id, self.task.attempt)

    def facts(self, deadline: float | None) -> Facts:
        """The attempt as its handler is told of it.

        :param deadline: when it must have ended, seconds since the epoch; None for never.
        """
        task = self.task
        return Facts(task.task_id, task.name, task.attempt, deadline, task.traceparent)

    def with_context(
        self,
        kind: Kind,
        deadline: float | None,
        clock: IReactorTime | None,
        report: Callable[[Progress], None],
    ) -> dict[str, Any]:
        """All that the handler takes."""
        given = kind.input.arguments(wire.read_input(self.task))
        if kind.input.context is not None:
            facts = self.facts(deadline)
            given[kind.input.context] = Context(facts, clock, report, lambda: self.cancelled)
        return given

    def cancel(self) -> None:
        """Ask it to end: at its ``await``, by its flag, or with its process."""
        self.cancelled = True

    def abandon(self) -> None:
        """Let go of it: it did not end, and what it does from now on counts for nothing."""


class Elsewhere(Run):
    """A handler that does not work on the reactor."""

    __slots__ = ("_abandon", "_work")

    def follow(self, work: Deferred[str], abandon: Callable[[], None] = lambda: None) -> None:
        """It is at work.

        :param work: fires with the result as JSON text, or with whatever went wrong.
        :param abandon: lets go of it.
        """
        self._work, self._abandon = work, abandon
        work.addCallbacks(self.watcher.returned, self.watcher.raised)

    def cancel(self) -> None:
        """See `Run`."""
        super().cancel()
        self._work.cancel()

    def abandon(self) -> None:
        """See `Run`."""
        self._abandon()
