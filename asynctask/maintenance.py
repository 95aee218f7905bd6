"""What is done to the store now and then: it forgets what is old, and follows a clock that was set."""

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask import statements
from asynctask.database import Database
from asynctask.model import Deleted, News
from asynctask.works import ALONE
from asynctask.writer import Writer

log = Logger(namespace="asynctask.store")

AFTER_KEYS: Final = "keys"
"""The order of a call that locks keys, any of them, and so comes after those that lock one."""

FEWEST: Final = 20
"""Tasks, keys or commits that a statement forgets, and so a transaction at least: a second, if each task
has the largest result and the disk is slow."""

MOST: Final = 500
"""Of them that a transaction forgets at most: those who follow are told of all in one go."""

ENOUGH: Final = 0.1
"""Seconds after which a transaction begins to forget no more: hardly anybody notices such a wait, and what
a transaction costs anyway, some milliseconds, is little beside it. Where results are large, its COMMIT
takes about as long again."""

BEHIND: Final = 60.0
"""Seconds by which the clock may be behind the last change at a start, and still be right."""


class Maintenance:
    """The part of a store that forgets, and follows the clock.

    :ivar _told_at: when the last change was told before the start, where the clock is still behind that.
    :ivar _wrong_since: the earliest that it has said since then; ``_wrong_until``: the latest.
    """

    _database: Database
    _writer: Writer
    _clocks = 0
    _told_at: float | None = None
    _wrong_since = _wrong_until = 0.0

    def forget(self, before: float, now: float) -> Deferred[bool]:
        """See `IStore`."""
        given = {"before": before, "now": now, "limit": FEWEST}

        def some(db: Connection, news: list[News]) -> int:
            keys = db.execute(statements.FORGET_KEYS, given).all()
            old = db.execute(statements.FORGET_OLD, given).all()
            news += [Deleted(row.task_id, row.kind) for row in old]
            return max(len(keys), len(old))

        return self._writer.call(_for_a_while(some), order=AFTER_KEYS)

    def forget_events(self, before: float, most: int) -> Deferred[bool]:
        """See `IStore`."""
        given = {"before": before, "most": most, "limit": FEWEST}

        def some(db: Connection, _news: list[News]) -> int:
            return db.execute(statements.FORGET_EVENTS, given).rowcount

        return self._writer.call(_for_a_while(some))

    def note_clock(self, now: float, told_at: float | None) -> None:
        """At the start, see whether the clock is right.

        :param told_at: when the last change was told, by the clock of that time.
        """
        if told_at is not None and now < told_at - BEHIND:
            self._told_at, self._wrong_since, self._wrong_until = told_at, now, now
            log.warn("The clock is behind the store's last change", seconds=round(told_at - now, 1))

    def clock_was_set(self, before: float, now: float) -> Deferred[None]:
        """See `IStore`."""
        since, until = -inf, inf
        if self._told_at is not None:
            self._wrong_since = min(self._wrong_since, now)
            self._wrong_until = max(self._wrong_until, before)
            # Nothing is moved that was written when it had been right.
            since, until = self._wrong_since, self._wrong_until
        given = {"before": before, "now": now, "least": min(before, now), "since": since, "until": until}
        # Asked for again, it is not done twice, should the COMMIT that failed have come back. The next
        # setting, which may come before this one is followed, has a number of its own.
        number = self._clocks + 1
        this = {"time": f"{self._database.owner} {number}"}

        def run(db: Connection, _news: list[News]) -> int:
            if not db.execute(statements.CLOCK, this).rowcount:
                return 0
            db.execute(statements.SET_CLOCK_OF_KEYS, given)
            return sum(db.execute(statement, given).rowcount for statement in statements.SET_CLOCK)

        def tell(moved: int) -> None:
            if self._told_at is not None and now >= self._told_at - BEHIND:
                self._told_at = None
            log.warn(
                "The clock was set; what waits follows it", seconds=round(now - before, 3), tasks=moved
            )

        def again(failure: Failure) -> Failure:
            self._clocks = number - 1
            return failure

        # All before it went by the time that it would be, and all after it goes by the new one.
        asked = self._writer.call(run, order=ALONE)
        self._clocks = number
        return asked.addCallbacks(tell, again)


def _for_a_while(some: Callable[[Connection, list[News]], int]) -> Callable[[Connection, list[News]], bool]:
    """Forget some while there are as many as may be, and there is time; tell whether there may be more."""

    def run(db: Connection, news: list[News]) -> bool:
        until = monotonic() + ENOUGH
        for _ in range(MOST // FEWEST):
            if some(db, news) < FEWEST:
                return False
            if monotonic() >= until:
                break
        return True

    return run
