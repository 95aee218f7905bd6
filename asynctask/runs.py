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

    :param deadline: when it must have ended, seconds since the epoch; None for never.
    :ivar cancelled: whether it was asked to end.
    """

    __slots__ = ("_abandon", "_work", "cancelled", "deadline", "kind", "task", "watcher")

    def __init__(self, task: Task, kind: Kind, deadline: float | None, watcher: Watcher) -> None:
        self.task = task
        self.kind = kind
        self.deadline = deadline
        self.watcher = watcher
        self.cancelled = False
        self._work: Deferred[str] | None = None
        self._abandon: Callable[[], None] | None = None

    @property
    def record(self) -> bytes:
        """The attempt as the flight recorder names it."""
        return record(self.task.task_id, self.task.attempt)

    @property
    def facts(self) -> Facts:
        """The attempt as its handler is told of it."""
        task = self.task
        return Facts(task.task_id, task.name, task.attempt, self.deadline, task.traceparent)

    def arguments(self) -> dict[str, Any]:
        """What the handler takes besides the context."""
        return self.kind.input.arguments(wire.read_input(self.task))

    def with_context(
        self, clock: IReactorTime | None, report: Callable[[Progress], None]
    ) -> dict[str, Any]:
        """All that the handler takes."""
        given = self.arguments()
        if self.kind.input.context is not None:
            given[self.kind.input.context] = Context(self.facts, clock, report, lambda: self.cancelled)
        return given

    def follow(self, work: Deferred[str], abandon: Callable[[], None] | None = None) -> None:
        """It works elsewhere.

        :param work: fires with the result as JSON text, or with whatever went wrong.
        :param abandon: lets go of it.
        """
        self._work, self._abandon = work, abandon
        work.addCallbacks(self.watcher.returned, self.watcher.raised)

    def cancel(self) -> None:
        """Ask it to end: at its ``await``, by its flag, or with its process."""
        self.cancelled = True
        if self._work is not None:
            self._work.cancel()

    def abandon(self) -> None:
        """Let go of it: it did not end, and what it does from now on counts for nothing."""
        if self._abandon is not None:
            self._abandon()
