"""What a claim takes, in its transaction: what processes have left that are gone, and what is due."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection

from asynctask import changes, statements
from asynctask.istore import Claim
from asynctask.model import News, Task
from asynctask.recovery import gone_owners, moved_in, orphans_of, running_of, settle
from asynctask.wire import timestamp
from asynctask.works import Database


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
            orphans = locked = connection.scalar(statements.LEFT, given_kinds) is not None
    left = moved_in(news[before:])
    claimed += database.claim(connection, {**given, "limit": limit - len(claimed)})
    news += map(changes.listed, claimed)
    next_due = now if locked else connection.scalar(statements.NEXT_DUE, {"of_kind": kind})
    return Claim(claimed, unsettled or len(claimed) == limit, next_due, orphans, left=left)
