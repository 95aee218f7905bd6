"""What is done to the store now and then: it forgets what is old, and follows a clock that was set."""

from math import inf
from time import monotonic
from typing import Final

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask import statements
from asynctask.istore import Forgotten
from asynctask.model import Deleted, News
from asynctask.works import ALONE, Database
from asynctask.writer import Writer

log = Logger(namespace="asynctask.store")

AFTER_KEYS: Final = "keys"
"""The order of a call that locks keys, any of them, and so comes after those that lock one."""

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

    def forget(self, before: float, now: float, limit: int) -> Deferred[Forgotten]:
        """See `IStore`."""

        def run(db: Connection, news: list[News]) -> Forgotten:
            began = monotonic()
            keys = db.execute(statements.FORGET_KEYS, {"now": now, "limit": limit}).all()
            old = db.execute(statements.FORGET_OLD, {"before": before, "limit": limit}).all()
            news += [Deleted(row.task_id, row.kind) for row in old]
            return Forgotten(max(len(keys), len(old)), monotonic() - began)

        return self._writer.call(run, order=AFTER_KEYS)

    def forget_events(self, before: float, most: int, limit: int) -> Deferred[Forgotten]:
        """See `IStore`."""
        given = {"before": before, "most": most, "limit": limit}

        def run(db: Connection, _news: list[News]) -> Forgotten:
            began = monotonic()
            commits = db.execute(statements.FORGET_EVENTS, given).rowcount
            return Forgotten(commits, monotonic() - began)

        return self._writer.call(run)

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
