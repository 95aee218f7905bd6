"""Where tasks are kept: `SqlStore`, on SQLAlchemy Core."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import asdict
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from asynctask import changes, sharedstatements, statements
from asynctask.changing import Decide, Decided, change, remove
from asynctask.claiming import Wanted, take
from asynctask.forothers import ForOthers
from asynctask.hooks import Hooks
from asynctask.istore import Claim, IStore, Key, Known
from asynctask.live import Live
from asynctask.maintenance import Maintenance
from asynctask.metrics import Metrics
from asynctask.model import (
    ACCEPTED,
    CANCELLED,
    ENDED,
    RUNNING,
    InvalidTransition,
    News,
    Progress,
    Status,
    Task,
    request_cancel,
    retry,
    start,
)
from asynctask.outbox import Outbox
from asynctask.problems import OutcomeUnknown
from asynctask.reading import Reading
from asynctask.recorder import Suspect
from asynctask.recovery import note
from asynctask.rows import claimed_row, new_row, size_of
from asynctask.sqlitefile import BUSY, Place
from asynctask.starting import begin, bring_up, database_of, usable
from asynctask.threads import threads_at_the_start
from asynctask.works import CLAIM
from asynctask.writer import TRY_AGAIN, Writer

if TYPE_CHECKING:
    from asynctask.pgserver import Server
    from asynctask.sharing import Sharing

log = Logger(namespace="asynctask.store")

T = TypeVar("T")


@implementer(IStore)
class SqlStore(Hooks, Reading, Maintenance, ForOthers):
    """A store in an SQL database.

    :param place: where the database is.
    :param reactor: where answers are given.
    :param busy: seconds to wait for another program that holds the database.
    :param try_again: seconds between two tries to reach a database that failed.
    :param now: wall time, seconds since the epoch.
    """

    def __init__(
        self,
        place: "Place | Server",
        reactor: IReactorFromThreads,
        *,
        metrics: Metrics,
        busy: float = BUSY,
        try_again: float = TRY_AGAIN,
        now: Callable[[], float] = time,
    ) -> None:
        self._now = now
        super().__init__()
        self._sharing: Sharing | None = None
        self.epoch = ""
        self.seq = 0
        self.newest: str | None = None
        self.unfinished = 0
        self.asked = self.answered = 0
        self._place = place
        self._reactor = reactor
        self._try_again = try_again
        self._metrics = metrics
        self._database = database_of(place, busy)
        self._kinds: list[str] = []
        self._seated: list[str] = []
        self._without_orphans: set[str] = set()
        self._live = Live(lambda task_id: self.told(task_id))
        self._large: dict[int, list[News]] = {}
        self.outbox = Outbox(self._read, self._write, self._database.shared, lambda: self.healthy)

    def open(
        self,
        suspects: Iterable[Suspect],
        now: float,
        kinds: Collection[str] = ("simulate",),
        seated: Collection[str] | None = None,
    ) -> dict[str, int]:
        """See `IStore`."""
        self._kinds = list(kinds)
        self._seated = self._kinds if seated is None else list(seated)
        self._database.open()
        with ExitStack() as undo:
            undo.callback(self._database.close)
            with usable(self._place.path):
                connection = self._database.connect()
                undo.callback(connection.close)
                bring_up(connection, self._database)
                with connection.begin():
                    self._database.start(connection)
                    now += self._look_at_clocks(connection)
                    found = begin(connection, self._database, list(suspects), self._seated, now)
                    self.outbox.open(connection)
                self._database.start_reading()
            with threads_at_the_start():
                self._writer = self._start_writing(connection, found.seq)
            undo.pop_all()
        note(found.left, self._metrics)
        self.epoch, self.seq, self.newest = found.epoch, found.seq, found.newest
        self.unfinished = sum(found.unfinished.values())
        if not isinstance(self._place, Place):
            with threads_at_the_start():
                self._share(self._place)
        return {kind: tasks for kind, tasks in found.unfinished.items() if kind not in kinds}

    def _start_writing(self, connection: Connection, seq: int) -> Writer:
        return Writer(
            connection,
            self._database,
            self._reactor.callFromThread,
            try_again=self._try_again,
            stored=self._metrics.stored,
            published=self._publish,
            returned=self.came_back,
            seq=seq,
            now=self._now,
        )

    def _look_at_clocks(self, connection: Connection) -> float:
        """See whether this machine's clock is right; by how much the time is another one now."""
        if self._database.shared:
            return self.timed(connection.execute(sharedstatements.TIME).scalar_one(), time())
        self.note_clock(self._now(), connection.scalar(statements.TOLD_AT))
        return 0.0

    def _share(self, server: "Server") -> None:
        """From now on hear of what other processes do."""
        from asynctask.postgres import Postgres
        from asynctask.sharing import Sharing

        assert isinstance(self._database, Postgres)
        self._live.remembers = True
        self._sharing = Sharing(
            self, server, self._database, self._kinds, self._now, self._reactor.callFromThread
        )

    def _publish(self, seq: int, news: Sequence[News]) -> None:
        if self._sharing is None:
            self.published(seq, news)
        else:
            self._sharing.committed(seq, news)
        self.outbox.tell(news)

    def close(self) -> Deferred[None]:
        """See `IStore`."""
        if self._sharing is not None:
            self._sharing.stop()
        self._database.stop_reading()
        return self._writer.close().addCallback(lambda _: self._database.close())

    @property
    def owner(self) -> str:
        """This process, as its tasks name it."""
        return self._database.owner

    @property
    def healthy(self) -> bool:
        """See `IStore`."""
        return self._writer.is_open and not self._writer.is_held()

    def look(self) -> None:
        """Let the log know of a transaction that is held up."""
        self._writer.is_held()

    def is_behind(self) -> bool:
        """See `IStore`."""
        return self._writer.is_behind()

    def add(self, waiting: Sequence[Task], starting: Sequence[Task]) -> Deferred[None]:
        """See `IStore`."""
        rows, started = self._new_rows(waiting, starting)
        added = self._writer.add(rows, changes.of_new(waiting, starting, started), size_of(rows))
        self.unfinished += len(rows)
        self.asked += len(rows)
        # With a dict: without one, it is a mapping whose merging takes longer than the call.
        return added.addCallbacks(self._added, self._not_added, (waiting, started), {}, (len(rows),))

    def _added(self, _: None, waiting: Sequence[Task], started: Sequence[Task]) -> None:
        """New tasks are stored."""
        self.answered += len(waiting) + len(started)
        self._tell(waiting, started)

    def _not_added(self, failure: Failure, tasks: int) -> Failure:
        """So many new tasks are not."""
        self.answered += tasks
        self.unfinished -= tasks
        return failure

    def add_once(
        self, waiting: Sequence[Task], starting: Sequence[Task], key: Key, now: float
    ) -> Deferred[Known | None]:
        """See `IStore`."""
        rows, started = self._new_rows(waiting, starting)

        def run(db: Connection, news: list[News]) -> Known | None:
            if rows:
                given = {"task_id": rows[0][0], "now": now, **asdict(key)}
                if db.execute(statements.ADD_KEY, given).rowcount:
                    self._database.add(db, rows)
                    news += changes.of_new(waiting, starting, started)
                    return None
            known = db.execute(statements.KEY, {"key": key.key, "now": now}).one_or_none()
            return None if known is None else Known(known.digest, known.answer)

        def tell(known: Known | None) -> Known | None:
            self.answered += len(rows)
            if known is None:
                self._tell(waiting, started)
            else:
                self.unfinished -= len(rows)
            return known

        def undo(failure: Failure) -> Failure:
            """Should the commit that failed come back, its tasks must not wait for us."""
            self.answered += len(rows)
            self.unfinished -= len(rows)
            if failure.check(OutcomeUnknown):
                self.waiting([*waiting, *starting])
            return failure

        added = self._writer.call(run, size_of(rows), f"key {key.key}")
        self.unfinished += len(rows)
        self.asked += len(rows)
        return added.addCallbacks(tell, undo)

    def _new_rows(
        self, waiting: Sequence[Task], starting: Sequence[Task]
    ) -> tuple[list[tuple[Any, ...]], list[Task]]:
        started = [start(task, task.accepted_at) for task in starting]
        rows = [new_row(task) for task in waiting]
        rows += [claimed_row(task, self._database.owner) for task in started]
        return rows, started

    def _tell(self, waiting: Sequence[Task], started: Sequence[Task]) -> None:
        for task in (*waiting, *started):
            self._metrics.became(task.kind, ACCEPTED)
        if started:
            self.started(started)
        if waiting:
            self.waiting(waiting)

    def claim(self, kind: str, limit: int, now: float, total: int | None = None) -> Deferred[Claim]:
        """See `IStore`."""

        without_orphans = self._without_orphans

        def begin(claim: Claim) -> Claim:
            if not claim.orphans:
                without_orphans.add(kind)
            note(claim.left, self._metrics)
            if claim.tasks:
                self.started(claim.tasks)
            self.cancelling([task for task in claim.tasks if task.cancel_requested])
            return claim

        def run(db: Connection, news: list[News]) -> Claim:
            orphans = kind not in self._without_orphans
            wanted = Wanted(kind, limit, now, total, orphans, self._seated)
            return take(db, self._database, wanted, news)

        return self._writer.call(run, order=f"{CLAIM}{kind}").addCallback(begin)

    def report(self, task: Task, progress: Progress) -> None:
        """See `IStore`."""
        self._live.note(task)
        self.progressed(task, progress)

    def end(self, task: Task, now: float) -> Deferred[Status | None]:
        """See `IStore`."""
        self.asked += 1
        return self._writer.save(task, now).addCallbacks(self._ended, self._failed, (task,), {})

    def _ended(self, status: Status | None, task: Task) -> Status | None:
        """The end of an attempt is written."""
        self.answered += 1
        self._live.forget(task)
        if status is not None:
            self._count(RUNNING, status)
            self._metrics.became(task.kind, status)
        return status

    def _failed(self, failure: Failure) -> Failure:
        """The state of a task has not changed."""
        self.answered += 1
        return failure

    def _count(self, before: Status, after: Status) -> None:
        """A commit has changed a task's state."""
        self.unfinished += (before in ENDED) - (after in ENDED)

    def cancel(self, task_id: str, now: float) -> Deferred[Task | None]:
        """See `IStore`."""
        return self._change(task_id, request_cancel, now)

    def retry(self, task_id: str, now: float) -> Deferred[Task | None]:
        """See `IStore`."""
        changed = self._change(task_id, retry, now)
        self.unfinished += 1  # from now on: many may ask at once

        def counted(result: T) -> T:
            self.unfinished -= 1
            return result

        return changed.addBoth(counted)

    def _change(self, task_id: str, decide: Decide, now: float) -> Deferred[Task | None]:
        """Change a task as is decided once it is read.

        :returns: the task, None if there is none; fails with `InvalidTransition` if its state forbids it.
        """

        def run(db: Connection, news: list[News]) -> Decided:
            return change(db, self._database, task_id, decide, now, news)

        def tell(decided: Decided) -> Task | None:
            self.answered += 1
            if isinstance(decided, InvalidTransition):
                # Not itself: it would hold the frames that have given it to us.
                raise InvalidTransition(decided.status, decided.move)
            if decided is None:
                return None
            before, task = decided
            self._count(before, task.status)
            if task.status is CANCELLED:
                if before is not CANCELLED:
                    note([task], self._metrics)
                return self._live.shown(task)
            self._metrics.became(task.kind, task.status)
            (self.cancelling if task.status is RUNNING else self.waiting)([task])
            return self._live.shown(task)

        called = self._writer.call(run, order=f"task {task_id}")
        self.asked += 1
        return called.addCallbacks(tell, self._failed)

    def delete(self, task_id: str) -> Deferred[Task | None]:
        """See `IStore`."""

        def tell(task: Task | None) -> Task | None:
            if task is not None and task.status not in ENDED:
                raise InvalidTransition(task.status)
            return task

        removed = self._writer.call(lambda db, news: remove(db, task_id, news), order=f"task {task_id}")
        return removed.addCallback(tell)
