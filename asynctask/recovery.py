"""What an earlier process left running: who is charged with its death, and what is not to run again."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, Select
from twisted.logger import Logger

from asynctask import model, statements
from asynctask.changes import listed
from asynctask.metrics import Metrics
from asynctask.model import ENDED, FAILED, RETRYING, News, Task, crash, interrupt
from asynctask.recorder import Suspect
from asynctask.rows import changed_row, task_of
from asynctask.wire import dump

log = Logger(namespace="asynctask.store")


def charged(connection: Connection, suspects: Iterable[Suspect], now: float) -> Iterator[Task]:
    """The attempts that are charged with the death of their process, as they are then."""
    for suspect in suspects:
        row = connection.execute(statements.SUSPECT, suspect._asdict()).one_or_none()
        if row is not None:
            yield crash(task_of(row), now)


def ends_in(news: Iterable[News]) -> list[Task]:
    """The tasks that have ended, of what a transaction did."""
    return [task for task in news if isinstance(task, Task) and task.status in ENDED]


def note_ends(tasks: Iterable[Task], metrics: Metrics) -> None:
    """Log and count tasks that have ended by that, where nobody runs them any more."""
    for task in tasks:
        metrics.became(task.kind, task.status)
        if task.status is FAILED:
            log.error("Task failed", task_id=task.task_id, name=task.name, error="Crashed")
        else:
            log.info("Task cancelled", task_id=task.task_id, name=task.name)


def blame(connection: Connection, suspects: Iterable[Suspect], now: float, news: list[News]) -> None:
    """Charge the attempts with which other processes have gone on since; one too many ends its task."""
    for suspect in suspects:
        row = connection.execute(statements.BLAMED, suspect._asdict()).one_or_none()
        if row is not None:
            after = model.blame(task_of(row), now)
            ended = after.status is FAILED
            connection.execute(statements.CHANGE, changed_row(after, now, moved=ended))
            news += [listed(after)] if ended else []


def let_go(connection: Connection, started: Sequence[Task], owner: str) -> Iterator[Task]:
    """Attempts that a commit of which nothing is known has begun after all: nobody runs them.

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


def settled(
    connection: Connection, cut_off: Select[Any], kinds: Collection[str], now: float
) -> Iterator[Task]:
    """Running tasks that are not to run again now: to be cancelled, or of a kind that is gone.

    :param cut_off: the statement that finds them.
    """
    for row in connection.execute(cut_off, {"kinds": list(kinds)}).all():
        yield interrupt(task_of(row), now)


def running_of(connection: Connection, kind: str) -> int:
    """How many tasks of a kind run in all processes; nobody else starts one before the commit."""
    connection.execute(statements.LOCK_KIND, {"of_kind": kind})
    return connection.execute(statements.RUNNING_OF, {"of_kind": kind}).scalar_one()


def orphans_of(
    connection: Connection, orphans: Select[Any], given: Mapping[str, Any], news: list[News]
) -> list[Task]:
    """Tasks of a kind that a process left which is gone: they go on here.

    :param orphans: the statement that finds them.
    :param given: what that takes, and `asynctask.statements.CLAIM_ORPHANS`.
    """
    rows = connection.execute(orphans, given)
    found = [replace(task, status=RETRYING, n=task.n + 1) for task in map(task_of, rows)]
    news += found
    task_ids = dump([task.task_id for task in found])
    return list(map(task_of, connection.execute(statements.CLAIM_ORPHANS, {**given, "task_ids": task_ids})))
