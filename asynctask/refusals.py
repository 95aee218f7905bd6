"""Connections that are refused for want of files: one warning, where Twisted has three lines for each."""

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from twisted.logger import LogEvent

REFUSED: Final = "EMFILE recovery: Closed socket from {address}"

FORMATS: Final = (
    "EMFILE encountered; releasing reserved file descriptor.",
    REFUSED,
    "Re-reserving EMFILE recovery file descriptor.",
)
"""What `twisted.internet.tcp` logs, at level info: thousands of lines a second while clients come again."""

OFTEN: Final = 60.0
"""Seconds until the next refusal is worth a warning by itself; before, ten times as many as the last time
are: who looks at the log sees soon how many they are, and it does not grow."""


class Refusals:
    """Counts them.

    :param seconds: monotonic.
    """

    def __init__(self, seconds: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._told_at = -inf
        self._refused = 0
        self._worth = 1

    def hear(self, event: LogEvent) -> int:
        """Take one of Twisted's events.

        :returns: how many connections there is to warn of, those since the last time; 0 for not now.
        """
        if event["log_format"] != REFUSED:
            return 0
        self._refused += 1
        now = self._seconds()
        if now >= self._told_at + OFTEN:
            self._worth = 1
        if self._refused < self._worth:
            return 0
        refused, self._refused, self._told_at = self._refused, 0, now
        self._worth = 10 * refused
        return refused
