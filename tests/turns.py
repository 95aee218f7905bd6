"""A reactor's thread that only moves when a test says so."""

from collections.abc import Callable
from queue import Queue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from zope.interface import implementer

T = TypeVar("T")

PATIENCE = 60
"""Seconds for another thread, or a process that is spawned for it, to hand something over: it comes at once
where the machine has nothing else to do, and only a test that fails waits so long."""


@implementer(IReactorFromThreads)
class Turns:
    """Runs what other threads hand over, in the test's own thread."""

    def __init__(self) -> None:
        self._calls: Queue[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]] = Queue()

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002
        *args: object,
        **kwargs: object,
    ) -> None:
        """See `twisted.internet.interfaces.IReactorFromThreads`."""
        self._calls.put((callable, args, kwargs))

    def turn(self) -> None:
        """Wait for the next thing that another thread hands over, and run it."""
        call, args, kwargs = self._calls.get(timeout=PATIENCE)
        call(*args, **kwargs)

    def wait_for_more(self) -> None:
        """Wait until another thread has handed something over, and leave it there."""
        self._calls.put(self._calls.get(timeout=PATIENCE))

    def catch_up(self) -> None:
        """Run whatever other threads have handed over by now."""
        while not self._calls.empty():
            self.turn()

    def outcome(self, deferred: Deferred[T]) -> T:
        """Turn until it fires; its result, or its error is raised."""
        found: list[Any] = []
        deferred.addBoth(found.append)
        while not found:
            self.turn()
        if isinstance(found[0], Failure):
            found[0].raiseException()
        result: T = found[0]
        return result
