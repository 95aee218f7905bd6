"""Forgets tasks that ended long ago, expired keys and old events, for moments: nobody waits long for it."""

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask.istore import IStore
from asynctask.problems import Unavailable
from asynctask.timers import call_off

log = Logger(namespace="asynctask.retention")

PAUSE: Final = 0.02
"""Seconds between two looks while there is more; or as many as the last one took, if these are more."""

IDLE: Final = 60.0
"""Seconds between two looks when there is none."""

HOLD: Final = 3_600.0
"""Seconds for which nothing is forgotten once the clock was set forward by more than `LONG_STEP`."""

LONG_STEP: Final = 3_600.0
"""Seconds by which a clock is set forward, so that what has just ended might be old by it."""

DAY: Final = 86_400.0

EVENTS_KEPT: Final = DAY
"""Seconds for which those who follow tasks can go on where they were cut off."""

MOST_EVENTS: Final = 256 * 1024 * 1024
"""Bytes of events that are kept for them: a busy service writes some megabytes a second."""


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
        self._stopped = True
        self._held_until = 0.0

    def start(self) -> None:
        """Look now and then."""
        self._stopped = False
        self._plan(PAUSE)

    def hold(self) -> None:
        """The clock was set forward: forget nothing for a while, in which it may be set right again."""
        now = self._clock.seconds()
        if now >= self._held_until:  # it may be told again, until the store has followed
            log.warn("Nothing is forgotten for a while, since the clock was set forward", seconds=HOLD)
        self._held_until = now + HOLD

    def stop(self) -> None:
        """Forget no more."""
        self._stopped = True
        call_off(self._next)

    def _plan(self, seconds: float) -> None:
        if not self._stopped:
            self._next = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        ensureDeferred(self._forget()).addErrback(self._failed).addCallback(self._plan)

    async def _forget(self) -> float:
        """Forget some; how long to wait for the next look."""
        if self._clock.seconds() < self._held_until:
            return IDLE
        now, began = self._now(), self._clock.seconds()
        more_tasks = await self._store.forget(now - self._keep, now)
        more_events = await self._store.forget_events(now - EVENTS_KEPT, MOST_EVENTS)
        return max(PAUSE, self._clock.seconds() - began) if more_tasks or more_events else IDLE

    def _failed(self, failure: Failure) -> float:
        if not failure.check(Unavailable):
            log.failure("Old tasks cannot be forgotten", failure)
        return IDLE
