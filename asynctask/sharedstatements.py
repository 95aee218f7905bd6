"""The SQL statements by which many processes share a store, but for those of each one's own threads
(`asynctask.heartbeat`, `asynctask.polling`). Only for PostgreSQL; otherwise as `asynctask.statements`.
"""

from typing import Final

from sqlalchemy import and_, bindparam, func, or_, select, text

from asynctask.statements import LISTED, NAMED, NOT_TO_GO_ON, OF_TASK, RUNS, WHOLE
from asynctask.tables import process, task

MOST_OWNED: Final = 50_000
"""Attempts that are read at once, in some 0.2 s: a million would take longer than a statement may."""

OWNED: Final = (
    select(task.c.task_id, task.c.attempt).where(RUNS, task.c.owner == bindparam("me")).limit(MOST_OWNED)
)
"""Attempts that this process is running, by the store; all of them, or as many."""

GONE: Final = text(
    "WITH RECURSIVE known (owner) AS ("
    "SELECT min(owner) FROM task WHERE status = 'running' UNION ALL "
    "SELECT (SELECT min(owner) FROM task WHERE status = 'running' AND owner > known.owner) "
    "FROM known WHERE known.owner IS NOT NULL"
    ") SELECT owner FROM known WHERE owner IS NOT NULL AND owner NOT IN (SELECT id FROM process)"
).columns(task.c.owner)
"""Processes that are gone and have left running tasks, found without a look at each of those."""

_of_gone: Final = task.c.owner.in_(bindparam("gone", expanding=True))
# Not NOT EXISTS: that is a join, whose other side PostgreSQL does not look at again when a row was changed
# under it, and so would take what another process has just claimed.
_ownerless: Final = task.c.owner.not_in(select(process.c.id))

ABANDONED: Final = (
    select(*LISTED)
    .where(
        RUNS,
        task.c.kind == bindparam("of_kind"),
        ~task.c.cancel_requested,
        _of_gone,
    )
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
"""As `ORPHANS`: tasks of processes that are no longer there."""

IS_ABANDONED: Final = OF_TASK.where(_ownerless)
"""As `IS_ORPHAN`: whether a running task was left by a process that is gone."""

SETTLED: Final = 100
"""Tasks of processes that are gone that one transaction settles: a client's 503 waits for it."""

CUT_OFF_ABANDONED: Final = (
    select(*WHOLE)
    .where(
        RUNS,
        _of_gone,
        NOT_TO_GO_ON,
    )
    .limit(SETTLED)
    .with_for_update(skip_locked=True, of=task)
)
"""As `CUT_OFF`: those of processes that are gone. Another process may have the kinds that this one has
not."""

LEFT: Final = (
    select(task.c.task_id)
    .where(
        RUNS,
        _of_gone,
        or_(task.c.kind == bindparam("of_kind"), NOT_TO_GO_ON),
    )
    .limit(1)
)
"""Whether there are such, or orphans of the kind, that somebody has locked just now."""

HELD: Final = (
    select(*WHOLE)
    .where(task.c.task_id.in_(select(NAMED.c.value)), RUNS, task.c.owner == bindparam("me"))
    .order_by(task.c.task_id)
    .with_for_update()
)
"""Those of some tasks that this process is running, by the store, until they are written."""

BLAMED: Final = (
    select(*WHOLE)
    .where(
        task.c.task_id == bindparam("task_id"),
        or_(
            and_(RUNS, task.c.attempt > bindparam("attempt")),
            and_(text("status = 'retrying'"), task.c.attempt >= bindparam("attempt")),
        ),
    )
    .with_for_update()
)
"""A task in whose attempt a process died, and with which others have gone on since."""

PROGRESS: Final = text(
    "WITH told AS (SELECT task_id, value ->> 2 AS progress "
    "FROM json_array_elements(CAST(:rows AS json)) JOIN task ON task_id = value ->> 0 "
    "AND attempt = CAST(value ->> 1 AS integer) AND status = 'running' FOR UPDATE OF task SKIP LOCKED) "
    "UPDATE task SET progress = told.progress FROM told WHERE task.task_id = told.task_id"
)
"""What attempts tell of themselves reaches the other processes by it. It waits for nobody who changes a
task: the next time tells more."""

ELSEWHERE: Final = (
    select(*LISTED)
    .where(RUNS, task.c.owner != bindparam("me"), task.c.progress.is_not(None))
    .limit(bindparam("limit"))
)
ELSEWHERE_OF: Final = ELSEWHERE.where(task.c.task_id.in_(bindparam("task_ids", expanding=True)))
"""What attempts of other processes have told, for those here who follow them."""

TIME: Final = text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)")
"""What the clock of a server says."""

LOCK_KIND: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:of_kind, 0))")

RUNNING_OF: Final = select(func.count()).where(task.c.kind == bindparam("of_kind"), RUNS, ~_ownerless)
"""How many run: an orphan takes no seat from those that would go on with it."""
