"""Where tasks are kept: `IStore`, and `SqlStore` on SQLAlchemy Core."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from secrets import token_hex
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface, implementer

from asynctask import statements, wire
from asynctask.database import Sqlite
from asynctask.migrations import UnreadableSchemaError, upgrade
from asynctask.model import (
    FAILED,
    OutcomeUnknown,
    Progress,
    Query,
    Task,
    crash,
    interrupt,
    start,
)
from asynctask.recorder import Suspect
from asynctask.rows import claimed_row, new_row, saved_row, task_of
from asynctask.sqlite import BUSY, Lock, Place, StartError
from asynctask.writer import TRY_AGAIN, Writer

log = Logger(namespace="asynctask.store")

BYTES_BESIDE: Final = 300
"""About what a waiting task takes in memory beside its name and input."""

T = TypeVar("T")
Hook = Callable[[Sequence[Task]], None]


class Claim(Struct, frozen=True):
    """What a claim found.

    :ivar more: whether others may be due already.
    :ivar next_due: when the next one that waits is due, seconds since the epoch; None if none waits.
    :ivar orphans: whether an earlier process may have left more.
    """

    tasks: list[Task]
    more: bool
    next_due: float | None
    orphans: bool


class IStore(Interface):
    """Keeps tasks. What it answers is committed and synced; `Unavailable` is how it fails."""

    started: Hook = Attribute(
        "Called with the tasks that a commit made this process run, whoever still waits for it."
    )
    waiting: Hook = Attribute("Called with the tasks that a commit left waiting.")
    healthy: bool = Attribute("Whether tasks can be stored now.")

    def open(suspects: Iterable[Suspect], now: float) -> None:  # noqa: N805
        """Open for this process alone, and charge the tasks in which the last one died.

        :raises StartError: it cannot be opened.
        """

    def close() -> Deferred[None]:
        """Write what waits, and let go."""

    def add(waiting: Sequence[Task], starting: Sequence[Task]) -> Deferred[None]:  # noqa: N805
        """Keep accepted tasks, all or none, and claim those that start at once by the same commit.

        :raises Unavailable: at once, where there is no hope.
        """

    def claim(kind: str, limit: int, now: float) -> Deferred[Claim]:  # noqa: N805
        """Take up to ``limit`` tasks of a kind: those an earlier process left, and those due."""

    def report(task_id: str, attempt: int, progress: Progress) -> None:  # noqa: N805
        """Keep in memory how far a running attempt is, for `get`, `list` and the next change."""

    def end(task: Task, now: float) -> Deferred[bool]:  # noqa: N805
        """Write how an attempt ended: fires with False if it was given up meanwhile.

        :param task: as it is after the attempt.
        """

    def get(task_id: str) -> Deferred[Task | None]:  # noqa: N805
        """A task with all that it has."""

    def list(query: Query) -> Deferred[tuple[list[Task], str | None]]:  # noqa: N805
        """A page of tasks without input, result and history, and the cursor of the next page."""


@implementer(IStore)
class SqlStore:
    """A store in an SQL database.

    :param place: where the database is.
    :param reactor: where answers are given.
    :param busy: seconds to wait for another program that holds the database.
    :param try_again: seconds between two tries to reach a database that failed.
    """

    def __init__(
        self,
        place: Place,
        reactor: IReactorFromThreads,
        *,
        busy: float = BUSY,
        try_again: float = TRY_AGAIN,
    ) -> None:
        self.started: Hook = _nobody_cares
        self.waiting: Hook = _nobody_cares
        self._place = place
        self._reactor = reactor
        self._busy = busy
        self._try_again = try_again
        self._owner = token_hex(8)
        self._without_orphans: set[str] = set()
        self._live: dict[str, tuple[int, Progress]] = {}

    def open(self, suspects: Iterable[Suspect], now: float) -> None:
        """See `IStore`."""
        self._lock = Lock(self._place)
        self._database = Sqlite(self._place, self._busy)
        try:
            connection = self._database.connect()
            with connection.begin():
                upgrade(connection)
            with connection.begin():
                failed = [task for suspect in suspects for task in _charge(connection, suspect, now)]
            self._database.start_reading()
        except (UnreadableSchemaError, DBAPIError) as error:
            self._lock.close()
            why = f"cannot be used ({error.orig})" if isinstance(error, DBAPIError) else error
            raise StartError(f"--store {self._place.path} {why}") from None
        for task in failed:
            log.error("Task failed", task_id=task.task_id, name=task.name, error="Crashed")
        self._writer = Writer(connection, self._database, self._reactor.callFromThread, self._try_again)

    def close(self) -> Deferred[None]:
        """See `IStore`."""
        self._database.stop_reading()
        return self._writer.close().addCallback(lambda _: self._lock.close())

    @property
    def healthy(self) -> bool:
        """See `IStore`."""
        return self._writer.healthy

    def add(self, waiting: Sequence[Task], starting: Sequence[Task]) -> Deferred[None]:
        """See `IStore`."""
        started = [start(task, task.accepted_at) for task in starting]
        rows = [new_row(task) for task in waiting]
        rows += [
            claimed_row(row, task, self._owner)
            for row, task in zip(map(new_row, starting), started, strict=True)
        ]
        size = sum(BYTES_BESIDE + len(row["name"]) + len(row["input"]) for row in rows)
        added = self._writer.add(rows, size)
        if started:
            added.addCallback(lambda _: self.started(started))
        if waiting:
            added.addCallback(lambda _: self.waiting(waiting))
        return added

    def claim(self, kind: str, limit: int, now: float) -> Deferred[Claim]:
        """See `IStore`."""
        claimed: list[Task] = []

        def begin(claim: Claim) -> Claim:
            if not claim.orphans:
                self._without_orphans.add(kind)
            if claim.tasks:
                self.started(claim.tasks)
            return claim

        def undo(failure: Failure) -> Failure:
            """Should the commit that failed come back, its tasks must not wait for us."""
            if failure.check(OutcomeUnknown):
                for task in claimed:
                    self.end(interrupt(task, now), now)
            return failure

        done = self._writer.call(lambda db: self._claim(db, claimed, kind, limit, now))
        return done.addCallbacks(begin, undo)

    def _claim(
        self, connection: Connection, claimed: list[Task], kind: str, limit: int, now: float
    ) -> Claim:
        given = {"me": self._owner, "of_kind": kind, "now": now, "at": wire.timestamp(now)}
        orphans = kind not in self._without_orphans
        if orphans:
            rows = connection.execute(statements.CLAIM_ORPHANS, {**given, "limit": limit})
            claimed += map(task_of, rows)
            orphans = len(claimed) == limit
        rows = connection.execute(statements.CLAIM_DUE, {**given, "limit": limit - len(claimed)})
        claimed += sorted(map(task_of, rows), key=lambda task: (task.run_at, task.task_id))
        next_due = connection.scalar(statements.NEXT_DUE, {"of_kind": kind})
        return Claim(claimed, len(claimed) == limit, next_due, orphans)

    def report(self, task_id: str, attempt: int, progress: Progress) -> None:
        """See `IStore`."""
        self._live[task_id] = (attempt, progress)

    def end(self, task: Task, now: float) -> Deferred[bool]:
        """See `IStore`."""
        row = saved_row(self._with_progress(task), now)
        return self._writer.save(row).addBoth(self._forget_progress, task)

    def _forget_progress(self, owned: bool, task: Task) -> bool:
        if self._live.get(task.task_id, (0,))[0] == task.attempt:
            del self._live[task.task_id]
        return owned

    def _with_progress(self, task: Task) -> Task:
        attempt, progress = self._live.get(task.task_id, (0, None))
        return replace(task, progress=progress) if attempt == task.attempt else task

    def get(self, task_id: str) -> Deferred[Task | None]:
        """See `IStore`."""

        def read(connection: Connection) -> Task | None:
            row = connection.execute(statements.GET, {"task_id": task_id}).one_or_none()
            return None if row is None else task_of(row)

        return self._read(read).addCallback(lambda task: task and self._with_progress(task))

    def list(self, query: Query) -> Deferred[tuple[list[Task], str | None]]:
        """See `IStore`."""

        def read(connection: Connection) -> list[Task]:
            return [task_of(row) for row in connection.execute(statements.page(query))]

        def page(found: list[Task]) -> tuple[list[Task], str | None]:
            tasks = [self._with_progress(task) for task in found[: query.limit]]
            return tasks, tasks[-1].task_id if len(found) > query.limit else None

        return self._read(read).addCallback(page)

    def _read(self, read: Callable[[Connection], T]) -> Deferred[T]:
        if self._database.readers is None:
            return self._writer.call(read)
        return deferToThreadPool(self._reactor, self._database.readers, self._database.read, read)


def _nobody_cares(_tasks: Sequence[Task]) -> None:
    """The hook that nobody has set."""


def _charge(connection: Connection, suspect: Suspect, now: float) -> Iterator[Task]:
    """Charge an attempt with the death of its process; yields the task if that was once too often."""
    row = connection.execute(statements.SUSPECT, suspect._asdict()).one_or_none()
    if row is None:
        return
    task = crash(task_of(row), now)
    connection.execute(statements.SAVE, {"rows": wire.dump([saved_row(task, now)])}).all()
    if task.status is FAILED:
        yield task
