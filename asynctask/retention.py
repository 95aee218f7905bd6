"""Forgets tasks that ended long ago, a few at a time, so that nobody waits for it."""

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask.istore import IStore
from asynctask.model import Unavailable

log = Logger(namespace="asynctask.retention")

BATCH: Final = 500
"""Tasks of one transaction: some milliseconds."""

PAUSE: Final = 0.2
"""Seconds between two batches while there is more."""

IDLE: Final = 60.0
"""Seconds between two looks when there is none."""

DAY: Final = 86_400.0


class Retention:
    """Forgets what ended more than ``keep`` days ago.

    :param clock: monotonic.
    :param now: wall time, seconds since the epoch.
    """

    def __init__(self, store: IStore, keep: float, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._store = store
        self._keep = keep * DAY
        self._clock = clock
        self._now = now
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """Look now and then."""
        self._plan(PAUSE)

    def stop(self) -> None:
        """Forget no more."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def _plan(self, seconds: float) -> None:
        self._next = self._clock.callLater(seconds, self._forget)

    def _forget(self) -> None:
        now = self._now()
        try:
            forgotten = self._store.forget(now - self._keep, now, BATCH)
        except Unavailable:
            self._plan(IDLE)
            return
        forgotten.addCallbacks(self._forgot, self._failed)

    def _forgot(self, tasks: int) -> None:
        if self._next is not None:
            self._plan(PAUSE if tasks == BATCH else IDLE)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(Unavailable):
            log.failure("Old tasks cannot be forgotten", failure)
        if self._next is not None:
            self._plan(IDLE)
