"""What a store does for `asynctask.sharing`: some of many processes leave tasks, or lose them."""

from collections.abc import Callable, Collection, Sequence
from typing import Final

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, succeed

from asynctask import sharedstatements, wire
from asynctask.database import Database
from asynctask.istore import Abandoned, Runs
from asynctask.live import Live
from asynctask.metrics import Metrics
from asynctask.model import News, Task
from asynctask.recovery import Gone, charge, moved_in, note, release, settle
from asynctask.writer import Writer

PROGRESS: Final = 500
"""Tasks whose progress is written at once, each second, for those who ask another process."""


class ForOthers:
    """The part of a store that is there for other processes, and for what they left.

    :ivar _seated: the kinds that this process can run.
    :ivar _without_orphans: those of which no process has left any.
    """

    _database: Database
    _writer: Writer
    _live: Live
    _metrics: Metrics
    _now: Callable[[], float]
    runs: Runs
    abandoned: Abandoned
    _seated: Sequence[str]
    _without_orphans: set[str]

    def orphaned(self) -> None:
        """Other processes have gone, and may have left tasks."""
        self._without_orphans = set()  # a claim under way has looked before, and notes it in the old one

    def settle(self) -> Deferred[bool]:
        """Charge whom other processes died in, and settle what is not to run again of what they left.

        :returns: whether there may be more.
        """
        gone = Gone(self.abandoned)

        def run(db: Connection, news: list[News]) -> tuple[bool, list[Task]]:
            before = len(news)
            now = self._now()
            charge(db, self._database, gone.suspects(), now, news)
            more = settle(db, self._database, self._seated, now, news)
            return more, moved_in(news[before:])

        def tell(found: tuple[bool, list[Task]]) -> bool:
            note(found[1], self._metrics)
            return found[0]

        # Tasks are locked after kinds, which claims lock.
        return self._writer.call(run, order="task").addCallback(tell).addBoth(gone.close)

    def beat(self, write: Callable[[Connection], object]) -> Deferred[None]:
        """Show in a transaction that this process is alive, in place of its heartbeat.

        Where it is taken for dead, that fails, and the writer makes it one of the living again.

        :param write: writes the beat.
        """
        return self._writer.call(lambda db, _news: write(db)).addCallback(lambda _: None)

    def strays(self) -> Deferred[list[tuple[str, int]]]:
        """Attempts that run here by the database, and that nobody here knows.

        By the connection that writes: what it has committed before is known here before its answer is.
        """
        given = {"me": self._database.owner}

        def read(db: Connection, _news: list[News]) -> list[tuple[str, int]]:
            return [(row.task_id, row.attempt) for row in db.execute(sharedstatements.OWNED, given)]

        return self._writer.call(read).addCallback(
            lambda ours: [one for one in ours if not self.runs(*one)]
        )

    def release(self, strays: Collection[tuple[str, int]]) -> Deferred[None]:
        """Let such attempts be made again: nothing runs them."""

        def run(db: Connection, news: list[News]) -> list[Task]:
            return release(db, self._database, strays, self._now(), news)

        # Tasks are locked after kinds, which claims lock.
        return self._writer.call(run, order="task").addCallback(note, self._metrics)

    def keep_progress(self) -> Deferred[None]:
        """Write some of what attempts have told since, for those who ask another process."""
        fresh = self._live.fresh(PROGRESS)
        rows = [(task_id, attempt, wire.progress_text(told)) for task_id, attempt, told in fresh]
        if not rows:
            return succeed(None)
        given = {"rows": wire.dump(rows)}
        return self._writer.call(
            lambda db, _news: db.execute(sharedstatements.PROGRESS, given)
        ).addCallback(lambda _: None)
