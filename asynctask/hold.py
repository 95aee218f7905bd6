"""Whether a transaction is held up, seen from another thread than the one that writes."""

from math import inf
from time import monotonic
from typing import Final

from twisted.logger import Logger

HELD: Final = 3.0
"""Seconds after which it is: the disk hangs, or another program holds the database. A server's connections
are cut off before."""

log = Logger(namespace="asynctask.store")


class Hold:
    """Knows since when a transaction is under way."""

    def __init__(self) -> None:
        self._since = inf
        self._told = False

    def begins(self, now: float) -> None:
        """A transaction begins; ``now`` by the monotonic clock."""
        self._since = now

    def is_over(self) -> None:
        """None is under way."""
        self._since = inf
        if self._told:
            self._told = False
            log.info("Store answers again")

    def lasts(self) -> bool:
        """Whether it is held up; the log is told once."""
        seconds = monotonic() - self._since
        if seconds > HELD and not self._told:
            self._told = True
            log.warn("Store does not answer", seconds=round(seconds, 1))
        return seconds > HELD
