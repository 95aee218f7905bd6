"""Whether a database that is reached again also takes what is wanted of it.

That it has taken a probe says little: a full disk has room for so much.
"""

from math import inf
from typing import Final

from sqlalchemy.exc import DBAPIError

from asynctask.works import why

STEADY: Final = 5.0
"""Seconds for which it has to work until its next failure is another outage."""

SAY_AGAIN: Final = 60.0
"""Seconds after which an outage that lasts is told of again."""

MOST_TOLD: Final = 10
"""Reasons that are told of in that time: a database that comes back has several, and some have numbers."""

PASSING: Final = ("40", "55", "57")
"""Collisions, locks, and statements and servers that are stopped (the classes of SQLSTATE, appendix A)."""


class Outage:
    """What its failures have in common.

    :ivar fails_again: whether it failed within `STEADY` seconds of being reached: the same outage goes on.
    :ivar lasts: whether it may be reached and fail without end: it has to show that it works.
    """

    def __init__(self) -> None:
        self.fails_again = self.lasts = False
        self._reached_at = self._failed_at = -inf
        self._told: dict[str, float] = {}

    def failed(self, error: DBAPIError, now: float) -> bool:
        """Tell whether that is worth a line in the log.

        :param now: by the monotonic clock.
        """
        self.fails_again = now - self._reached_at < STEADY
        self.lasts = self.fails_again and not _passes(error)
        self._failed_at = now
        return self.is_news(error, now)

    def is_news(self, error: Exception, now: float) -> bool:
        """Tell whether it was not said before, or long ago, and there was not too much else."""
        self._told = {told: at for told, at in self._told.items() if now - at < SAY_AGAIN}
        if why(error) in self._told or len(self._told) == MOST_TOLD:
            return False
        self._told[why(error)] = now
        return True

    def reached(self, now: float) -> None:
        """It has taken a probe."""
        self._reached_at = now

    def has_held_out(self, now: float) -> bool:
        """Whether it may be trusted where nothing waits that would show it."""
        return not self.lasts or now - self._failed_at >= STEADY

    def is_over(self) -> None:
        """It works: the next failure is news."""
        self.lasts = False
        self._told = {}


def _passes(error: DBAPIError) -> bool:
    """Whether it says nothing of what comes next."""
    state = getattr(error.orig, "sqlstate", None) or ""
    return error.connection_invalidated or state[:2] in PASSING
