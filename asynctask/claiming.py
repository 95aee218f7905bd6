"""What a claim takes, in its transaction: what processes have left that are gone, and what is due."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select

from asynctask import changes, sharedstatements, statements
from asynctask.database import Database
from asynctask.istore import Claim
from asynctask.model import News, Task, interrupt
from asynctask.recovery import gone_owners, moved_in, settle
from asynctask.rows import task_of
from asynctask.wire import dump, timestamp


class Wanted(NamedTuple):
    """What is claimed.

    :ivar limit: how many tasks at most.
    :ivar total: how many of the kind may run in all processes; None for any number.
    :ivar orphans: whether there may be some that were left.
    :ivar kinds: all that have a handler and seats here.
    """

    kind: str
    limit: int
    now: float
    total: int | None
    orphans: bool
    kinds: Collection[str]


def take(connection: Connection, database: Database, wanted: Wanted, news: list[News]) -> Claim:
    """Claim tasks: those that were left first."""
    kind, limit, now, total, orphans, kinds = wanted
    if total is not None and database.shared:
        limit = min(limit, total - running_of(connection, kind))
    given = {"me": database.owner, "of_kind": kind, "now": now, "at": timestamp(now)}
    claimed: list[Task] = []
    unsettled, locked, before = False, False, len(news)
    gone = gone_owners(connection) if orphans and database.shared else []
    orphans = orphans and (bool(gone) or not database.shared)
    if gone:
        unsettled = settle(connection, database, kinds, now, news, gone)
    if limit <= 0:
        left = moved_in(news[before:])
        return Claim([], more=unsettled, next_due=None, orphans=orphans, full=True, left=left)
    if orphans:
        of_them = {**given, "limit": limit, "gone": gone}
        claimed += orphans_of(connection, database.orphans, of_them, news)
        orphans = unsettled or len(claimed) == limit
        if database.shared and not orphans:
            given_kinds = {"of_kind": kind, "kinds": kinds, "gone": gone}
            orphans = locked = connection.scalar(sharedstatements.LEFT, given_kinds) is not None
    left = moved_in(news[before:])
    claimed += database.claim(connection, {**given, "limit": limit - len(claimed)})
    news += map(changes.listed, claimed)
    next_due = now if locked else connection.scalar(statements.NEXT_DUE, {"of_kind": kind})
    return Claim(claimed, unsettled or len(claimed) == limit, next_due, orphans, left=left)


def running_of(connection: Connection, kind: str) -> int:
    """How many tasks of a kind run in all processes; nobody else starts one before the commit."""
    connection.execute(sharedstatements.LOCK_KIND, {"of_kind": kind})
    return connection.execute(sharedstatements.RUNNING_OF, {"of_kind": kind}).scalar_one()


def orphans_of(
    connection: Connection, orphans: Select[Any], given: Mapping[str, Any], news: list[News]
) -> list[Task]:
    """Tasks of a kind that were left by a process that is gone: they go on here.

    :param orphans: the statement that finds them, but for those that are to be cancelled.
    :param given: what that takes, and `asynctask.statements.CLAIM_ORPHANS`.
    """
    rows = connection.execute(orphans, given)
    found = [interrupt(task, given["now"]) for task in map(task_of, rows)]
    news += found
    task_ids = dump([task.task_id for task in found])
    return list(map(task_of, connection.execute(statements.CLAIM_ORPHANS, {**given, "task_ids": task_ids})))
