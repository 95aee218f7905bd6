"""What an earlier process left running: who is charged with its death, and what is not to run again."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask import model, sharedstatements, statements
from asynctask.batches import End
from asynctask.changes import listed
from asynctask.database import Database
from asynctask.logqueue import trace_of
from asynctask.metrics import Metrics
from asynctask.model import ENDED, FAILED, RETRYING, News, Task, crash, interrupt
from asynctask.problems import OutcomeUnknown
from asynctask.recorder import FlightRecorder, Suspect
from asynctask.rows import changed_row, task_of
from asynctask.wire import dump, timestamp

log = Logger(namespace="asynctask.store")

T = TypeVar("T")


class Gone:
    """The flight recorders of processes that are gone, while a transaction charges whom they name.

    :param find: opens them.
    """

    def __init__(self, find: Callable[[], list[FlightRecorder]]) -> None:
        self._find = find
        self._found: list[FlightRecorder] = []

    def suspects(self) -> list[Suspect]:
        """Whom they name; the same when the transaction is done again."""
        self._found = self._found or self._find()
        return sorted(suspect for recorder in self._found for suspect in recorder.suspects())

    def close(self, result: T) -> T:
        """Let others have them. Where it is committed, or may be, nobody is to be charged again: rather too
        seldom than a task that fails without a cause."""
        committed = not isinstance(result, Failure) or result.check(OutcomeUnknown)
        for recorder in self._found:
            if committed:
                name(recorder.suspects())
                recorder.clear()
            recorder.close()
        self._found = []
        return result


def gone_owners(connection: Connection) -> list[str]:
    """The processes that are gone and have left running tasks, where many share a database.

    Asked for before any of their tasks is: by then each name is one that no process will have again.
    """
    return list(connection.execute(sharedstatements.GONE).scalars())


def settle(
    connection: Connection,
    database: Database,
    kinds: Collection[str],
    now: float,
    news: list[News],
    gone: Collection[str] | None = None,
) -> bool:
    """End, or set back to wait, what processes that are gone have left and what must not run again here.

    :param gone: these processes, where many share the database and they are known.
    :returns: whether there may be more.
    """
    given: dict[str, Any] = {"kinds": list(kinds)}
    if database.shared:
        given["gone"] = gone_owners(connection) if gone is None else gone
        if not given["gone"]:
            return False
    left = map(task_of, connection.execute(database.cut_off, given).all())
    ends = [End(interrupt(task, now), now) for task in left]
    database.end(connection, ends, news)
    return len(ends) == sharedstatements.SETTLED


def charge(
    connection: Connection, database: Database, suspects: Collection[Suspect], now: float, news: list[News]
) -> None:
    """Charge the tasks in whose handlers processes died."""
    if database.shared:
        blame(connection, suspects, now, news)
    rows = [connection.execute(statements.SUSPECT, one._asdict()).one_or_none() for one in suspects]
    database.end(connection, [End(crash(task_of(row), now), now) for row in rows if row is not None], news)


def moved_in(news: Iterable[News]) -> list[Task]:
    """The tasks that have ended, or are to go on, of what a transaction did with those that were left."""
    return [task for task in news if isinstance(task, Task) and task.status in (*ENDED, RETRYING)]


def note(tasks: Iterable[Task], metrics: Metrics) -> None:
    """Log and count what became of tasks that nobody runs any more."""
    for task in tasks:
        metrics.became(task.kind, task.status)
        fields, trace = {"task_id": task.task_id, "name": task.name}, trace_of(task)
        if task.status is FAILED:
            log.error("Task failed", **fields, error="Crashed", **trace)
        elif task.status is RETRYING:
            log.info("Task retrying", **fields, run_at=timestamp(task.run_at), **trace)
        else:
            log.info("Task cancelled", **fields, **trace)


def name(suspects: Iterable[Suspect]) -> None:
    """Log in which tasks a process died: what became of them looks like what became of all others."""
    for task_id, attempt in suspects:
        log.warn("A process died while it was at work on a task", task_id=task_id, attempt=attempt)


def blame(connection: Connection, suspects: Iterable[Suspect], now: float, news: list[News]) -> None:
    """Charge the attempts with which other processes have gone on since; one too many ends its task."""
    for suspect in suspects:
        row = connection.execute(sharedstatements.BLAMED, suspect._asdict()).one_or_none()
        if row is not None:
            after = model.blame(task_of(row), now)
            ended = after.status is FAILED
            connection.execute(statements.CHANGE, changed_row(after, now, moved=ended))
            news += [listed(after)] if ended else []


def release(
    connection: Connection,
    database: Database,
    strays: Collection[tuple[str, int]],
    now: float,
    news: list[News],
) -> list[Task]:
    """Interrupt attempts that this process has, by the database, and that no handler of it runs.

    :param strays: ids of tasks, and the numbers of their attempts.
    :returns: those that it had still.
    """
    given = {"me": database.owner, "task_ids": dump([task_id for task_id, _ in strays])}
    found = map(task_of, connection.execute(sharedstatements.HELD, given))
    released = [interrupt(task, now) for task in found if (task.task_id, task.attempt) in strays]
    database.end(connection, [End(task, now) for task in released], news)
    return released


def unrun_starts(connection: Connection, started: Sequence[Task], owner: str) -> Iterator[Task]:
    """Attempts that were begun by a commit whose outcome was not known, as they are once interrupted: no
    handler runs them.

    :param started: those that it may have begun.
    :param owner: for whom. Where the commit has failed, another process may have begun an attempt with the
        same number since.
    """
    if started:
        given = {"me": owner, "task_ids": dump([task.task_id for task in started])}
        ours = {(row.task_id, row.attempt) for row in connection.execute(statements.OURS, given)}
        yield from (
            interrupt(task, task.started_at or task.run_at)
            for task in started
            if (task.task_id, task.attempt) in ours
        )
