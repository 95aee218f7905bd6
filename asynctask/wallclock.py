"""The wall clock, and who hears that somebody has set it."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask.problems import Unavailable

log = Logger(namespace="asynctask.wallclock")

SET: Final = 1.0
"""Seconds by which a clock that was set differs from one that runs on: those that keep clocks right change
their speed for less."""

AT_ONCE: Final = 0.1
"""Seconds that reading both clocks may take: what is read before and after a stop does not go together."""


elapsed: Final = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Seconds that no setting changes, and that go on while the machine sleeps."""


class WallClock:
    """Tells the time; called for it, in the reactor's thread.

    Where processes share a database, they go by its clock: see `follow`.

    :param now: wall time, seconds since the epoch.
    :param elapsed: seconds by a clock that nobody sets.
    :ivar was_set: told that the clock was set, with the time that it would be and the time that it is,
        before anybody else hears of that; and told again if it fails. Until it is a function, the time
        goes on as if nobody had set the clock.
    """

    def __init__(self, now: Callable[[], float], elapsed: Callable[[], float] = elapsed) -> None:
        self._now = now
        self._elapsed = elapsed
        self._ahead = now() - elapsed()
        self._behind = 0.0
        self._told = 0.0
        self.was_set: Callable[[float, float], Deferred[None]] | None = None

    def __call__(self) -> float:
        """Wall time, seconds since the epoch."""
        now = self._now()
        if abs(now - self._elapsed() - self._ahead) > SET:
            self._look()
        return now + self._behind

    def read(self) -> float:
        """Wall time for other threads, which hear of a clock that was set a moment later."""
        return self._now() + self._behind

    def follow(self, theirs: float, ours: float) -> float:
        """Go by another clock, where it differs by more than `SET`.

        :param theirs: what it says, in seconds since the epoch.
        :param ours: what this machine's clock says at the same time.
        :returns: seconds by which the time is another one now.
        """
        self()
        self._tell(theirs - ours)
        change = theirs - ours - self._behind
        if abs(change) <= SET:
            return 0.0
        self._behind += change
        return change

    def _tell(self, behind: float) -> None:
        """Tell by how much this machine's clock is wrong, also where it was set: the time goes on then."""
        before = self._told
        if abs(behind - before) > SET:
            self._told = behind
            if abs(behind) > SET:
                log.warn("This machine's clock and the database's differ", seconds=round(-behind, 3))
            elif abs(before) > SET:
                log.info("This machine's clock and the database's agree again")

    def _look(self) -> None:
        began = self._elapsed()
        now = self._now()
        step = now - began - self._ahead
        if abs(step) > SET and self._elapsed() - began < AT_ONCE:
            self._ahead += step
            if self.was_set is None:
                self._behind -= step
                return
            maybeDeferred(self.was_set, now - step, now).addErrback(self._failed, step)

    def _failed(self, failure: Failure, step: float) -> None:
        self._ahead -= step
        if not failure.check(Unavailable):
            log.failure("What waits cannot follow the clock", failure)
