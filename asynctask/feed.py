"""Who wants to hear of which change. A hint: the truth is in the store."""

from twisted.internet.defer import Deferred

from asynctask.model import ENDED, Status


class Feed:
    """Tells those who wait for the end of a task; each of them is a client's connection."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Deferred[None]]] = {}
        self._closed = False

    def ended(self, task_id: str) -> Deferred[None]:
        """Fires when the task ends, or when nobody is to wait any more; may be cancelled.

        Ask for it before reading the task, or its end may be missed.
        """

        def leave(waiter: Deferred[None]) -> None:
            waiters = self._waiting.get(task_id, set())
            waiters.discard(waiter)
            if not waiters:
                self._waiting.pop(task_id, None)

        waiter: Deferred[None] = Deferred(leave)
        if self._closed:
            waiter.callback(None)
            return waiter
        self._waiting.setdefault(task_id, set()).add(waiter)
        return waiter

    def publish(self, task_id: str, status: Status) -> None:
        """A task has changed its status."""
        if status in ENDED:
            for waiter in self._waiting.pop(task_id, ()):
                waiter.callback(None)

    def close(self) -> None:
        """Nobody is to wait any more: the service stops."""
        self._closed = True
        waiting, self._waiting = self._waiting, {}
        for waiters in waiting.values():
            for waiter in waiters:
                waiter.callback(None)
