"""The SQL statements of the store, but for those on the way of a task (`asynctask.batches`), those about
callbacks (`asynctask.outboxstatements`) and those by which processes share it
(`asynctask.sharedstatements`).

Statuses are literals: a bound one would lose the partial indexes (https://sqlite.org/partialindex.html,
"Queries Using Partial Indexes"). Times are seconds since the epoch.
"""

from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from asynctask.model import KEY_KEPT
from asynctask.tables import event, idempotency, meta, task

KEPT_CHANGES: Final = 1_000
"""Entries of a task's history that are kept, the first ones: a task that a broken machine restarts
all day must not grow without bound."""


LISTED: Final = [
    column
    for column in task.c
    if column.name not in ("input", "result", "changes", "owner", "ended_by", "callback_due")
]
WHOLE: Final = [*LISTED, task.c.input, task.c.result, task.c.changes]
_WAITING: Final = text("status IN ('accepted', 'retrying')")
RUNS: Final = text("status = 'running'")

GET: Final = select(*WHOLE).where(task.c.task_id == bindparam("task_id"))

GET_LOCKED: Final = GET.with_for_update()
"""For a change that depends on what is read, where many processes change tasks."""

PROBE: Final = text(
    "INSERT INTO meta (key, value) VALUES ('probe', :at) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
"""A write that is sure to reach the disk, over whatever a failed commit left there."""


class Elements(GenericFunction[Any]):
    """The texts of a JSON array, each a row."""

    name = "json_each"
    inherit_cache = True


@compiles(Elements, "postgresql")
def _(element: Any, compiler: Any, **given: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **given)} AS json))"


NAMED: Final = Elements(bindparam("task_ids", type_=Text)).table_valued("value")

FORGET: Final = (
    delete(task).where(task.c.task_id.in_(select(NAMED.c.value))).returning(task.c.task_id, task.c.kind)
)
"""Removes tasks whose commit failed, should they be there after all."""


OURS: Final = select(task.c.task_id, task.c.attempt).where(
    task.c.task_id.in_(select(NAMED.c.value)), RUNS, task.c.owner == bindparam("me")
)
"""Which of some tasks this process is running, by the store."""


def _appended(entries: Any, count: Any) -> dict[Any, Any]:
    """Append to the history, as far as it is kept."""
    return {
        task.c.changes: case(
            (task.c.n < KEPT_CHANGES, task.c.changes.concat(",").concat(entries)),
            else_=task.c.changes,
        ),
        task.c.n: task.c.n + count,
    }


def _once(chosen: Select[Any]) -> Any:
    """Rows that are chosen and locked before the statement begins.

    As a mere subquery PostgreSQL may ask for them again for each row that it looks at, where it takes the
    table for empty: without those that are locked already, so that in the end all are taken. An array would
    be faster there; SQLite, which runs these statements too, has none.
    """
    return chosen.with_for_update(skip_locked=True).cte("chosen").prefix_with("MATERIALIZED")


def _claim(which: ColumnElement[bool], entries: Any, count: int) -> Any:
    return (
        update(task)
        .values(
            {
                task.c.status: literal_column("'running'"),
                task.c.owner: bindparam("me"),
                task.c.attempt: task.c.attempt + 1,
                task.c.started_at: bindparam("now"),
                task.c.progress: null(),
                **_appended(entries, count),
            }
        )
        .where(which)
    )


def _entry(status: str, attempt: Any) -> Any:
    """An entry of the history, as `wire.change_json` writes it, with an attempt that the row knows."""
    return (
        literal_column('\'{"at":"\'', Text)
        .concat(bindparam("at", type_=Text))
        .concat(literal_column(f'\'","status":"{status}","attempt":\'', Text))
        .concat(cast(attempt, Text))
        .concat(literal_column("',\"error\":null}'", Text))
    )


_due: Final = (
    select(task.c.task_id)
    .where(task.c.kind == bindparam("of_kind"), _WAITING, task.c.run_at <= bindparam("now"))
    .order_by(task.c.run_at, task.c.task_id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
# An array is made once, as `_once` has it, and is found fast whatever the table is taken for.
CLAIM_DUE: Final = _claim(
    task.c.task_id == any_(func.array(_due.scalar_subquery())),
    _entry("running", task.c.attempt + 1),
    1,
).returning(*LISTED, task.c.input)
"""Take due tasks, those due first, and count the attempt before it begins."""

CLAIM: Final = _claim(task.c.task_id.in_(select(NAMED.c.value)), _entry("running", task.c.attempt + 1), 1)
"""The same of tasks that are known to be due."""

ORPHANS: Final = select(*LISTED).where(
    task.c.task_id.in_(
        # Left to itself, SQLite reads all tasks of the kind, or all that run, again for each batch.
        text(
            "SELECT task_id FROM task INDEXED BY task_owner "
            "WHERE status = 'running' AND owner < :me AND kind = :of_kind UNION ALL "
            "SELECT task_id FROM task INDEXED BY task_owner "
            "WHERE status = 'running' AND owner > :me AND kind = :of_kind LIMIT :limit"
        ).columns(task.c.task_id)
    )
)
"""Tasks that an earlier process was running when it ended."""


OF_TASK: Final = select(task.c.task_id).where(task.c.task_id == bindparam("of_task"), RUNS)
IS_ORPHAN: Final = OF_TASK.where(task.c.owner != bindparam("me"))
"""Whether a running task was left by an earlier process."""

CLAIM_ORPHANS: Final = (
    _claim(
        task.c.task_id.in_(select(NAMED.c.value)),
        _entry("retrying", task.c.attempt).concat(",").concat(_entry("running", task.c.attempt + 1)),
        2,
    )
    .values({task.c.run_at: bindparam("now"), task.c.error: null()})
    .returning(*LISTED, task.c.input)
)
"""Take them, once they are interrupted as `asynctask.model.interrupt` has it."""

NEXT_DUE: Final = (
    select(task.c.run_at)
    .where(task.c.kind == bindparam("of_kind"), _WAITING)
    .order_by(task.c.run_at, task.c.task_id)
    .limit(1)
)

CHANGE: Final = (
    update(task)
    .values(
        {
            task.c.status: bindparam("new_status"),
            task.c.owner: case((bindparam("new_status") == "running", task.c.owner), else_=null()),
            task.c.crashes: bindparam("new_crashes"),
            task.c.failures: bindparam("new_failures"),
            task.c.cancel_requested: bindparam("new_cancel_requested"),
            task.c.run_at: bindparam("new_run_at"),
            task.c.finished_at: bindparam("new_finished_at"),
            task.c.longest_step: bindparam("new_longest_step"),
            task.c.callback_state: bindparam("new_callback_state"),
            task.c.callback_due: bindparam("new_callback_due"),
            task.c.callback_tries: bindparam("new_callback_tries"),
            task.c.callback_error: bindparam("new_callback_error"),
            task.c.progress: bindparam("new_progress"),
            task.c.result: bindparam("new_result"),
            task.c.error: bindparam("new_error"),
            task.c.changes: case(
                (task.c.n < KEPT_CHANGES, task.c.changes.concat(bindparam("change", type_=Text))),
                else_=task.c.changes,
            ),
            task.c.n: task.c.n + bindparam("count"),
        }
    )
    .where(task.c.task_id == bindparam("of_task"))
)
"""Writes what somebody changed from outside, in the transaction that has read the task."""

DELETE: Final = delete(task).where(task.c.task_id == bindparam("of_task"))

_old: Final = _once(
    select(task.c.task_id)
    .where(task.c.finished_at < bindparam("before"), task.c.callback_due.is_(None))
    .order_by(task.c.finished_at)
    .limit(bindparam("limit"))
)
FORGET_OLD: Final = (
    delete(task).where(task.c.task_id.in_(select(_old.c.task_id))).returning(task.c.task_id, task.c.kind)
)
"""Retention: those that ended first. They are locked when they are chosen, or a task that is retried
meanwhile would be deleted all the same. SQLite, which has one writer, leaves the lock out."""

KEY: Final = select(idempotency.c.digest, idempotency.c.answer).where(
    idempotency.c.scope == "",
    idempotency.c.key == bindparam("key"),
    idempotency.c.expires_at > bindparam("now"),
)
ADD_KEY: Final = text(
    "INSERT INTO idempotency (scope, key, digest, task_id, answer, expires_at) "
    "VALUES ('', :key, :digest, :task_id, :answer, :expires_at) "
    "ON CONFLICT (scope, key) DO UPDATE SET digest = excluded.digest, task_id = excluded.task_id, "
    "answer = excluded.answer, expires_at = excluded.expires_at WHERE idempotency.expires_at <= :now"
)
"""Changes no row where the key is known and has not expired; many processes may try at once."""
_expired: Final = _once(
    select(idempotency.c.scope, idempotency.c.key)
    .where(idempotency.c.expires_at <= bindparam("now"))
    .limit(bindparam("limit"))
)
FORGET_KEYS: Final = (
    delete(idempotency)
    .where(tuple_(idempotency.c.scope, idempotency.c.key).in_(select(_expired.c.scope, _expired.c.key)))
    .returning(idempotency.c.key)
)
"""It returns the keys, since SQLite's driver counts no rows of a statement that begins with WITH."""

_upto: Final = select(event.c.upto).order_by(event.c.seq.desc()).limit(1).scalar_subquery()

EVENTS: Final = (
    select(event.c.seq, event.c.body)
    .where(event.c.seq >= bindparam("from_seq"))
    .order_by(event.c.seq)
    .limit(bindparam("limit"))
)
EPOCH: Final = select(meta.c.value).where(meta.c.key == "epoch")
FIRST_EVENT: Final = select(func.min(event.c.seq))
TOLD_AT: Final = select(event.c.at).order_by(event.c.seq.desc()).limit(1)
LAST_EVENT: Final = select(func.max(event.c.seq))
EARLIEST: Final = select(event.c.upto, event.c.body).order_by(event.c.seq).limit(1)

_oldest: Final = (
    select(event.c.seq, event.c.at, event.c.upto).order_by(event.c.seq).limit(bindparam("limit")).subquery()
)
FORGET_EVENTS: Final = delete(event).where(
    event.c.seq
    <= select(func.max(_oldest.c.seq))
    .where(or_(_oldest.c.at < bindparam("before"), _oldest.c.upto <= _upto - bindparam("most")))
    .scalar_subquery(),
    event.c.seq < select(func.max(event.c.seq)).scalar_subquery(),
)
"""Forgets commits that are too old, or too many bytes ago, and all before them; never the last, which
places cursors."""

TO_BE_CANCELLED: Final = select(*LISTED).where(
    task.c.owner == bindparam("me"), RUNS, text("cancel_requested")
)
"""Attempts of a process that are to end."""

UNFINISHED: Final = text(
    "WITH RECURSIVE known (kind) AS (SELECT min(kind) FROM task UNION ALL "
    "SELECT (SELECT min(kind) FROM task WHERE kind > known.kind) FROM known WHERE known.kind IS NOT NULL) "
    "SELECT known.kind, (SELECT count(*) FROM task WHERE task.kind = known.kind "
    "AND status IN ('accepted', 'running', 'retrying')) AS tasks FROM known"
)
"""How many tasks of each kind have not ended, 0 too: kind after kind by an index that has the status."""


NEWEST: Final = select(func.max(task.c.task_id))
"""The greatest id, None where there is no task."""


NOT_TO_GO_ON: Final = or_(task.c.cancel_requested, task.c.kind.not_in(bindparam("kinds", expanding=True)))

CUT_OFF: Final = select(*WHOLE).where(
    RUNS,
    NOT_TO_GO_ON,
)
"""At a start: running tasks that must not run again, to be cancelled or of a kind that is gone."""


SUSPECT: Final = (
    select(*WHOLE)
    .where(task.c.task_id == bindparam("task_id"), RUNS, task.c.attempt == bindparam("attempt"))
    .with_for_update()
)


def _moved(table: str, column: str, which: str, written: str) -> Any:
    """:param written: an expression: when the row was written, as far as it tells."""
    return text(
        f"UPDATE {table} SET {column} = CASE WHEN {column} > :before THEN {column} + (:now - :before) "  # noqa: S608
        f"ELSE :now END WHERE {which} AND {column} > :least AND {written} BETWEEN :since AND :until"
    )


CLOCK: Final = text(
    "INSERT INTO meta (key, value) VALUES ('clock', :time) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE meta.value <> excluded.value"
)
"""Notes that this setting of the clock was followed; changes no row if that is noted already."""

SET_CLOCK: Final = (
    _moved("task", "run_at", "status IN ('accepted', 'retrying')", "accepted_at"),
    _moved("task", "callback_due", "callback_due IS NOT NULL", "accepted_at"),
)
"""After the clock was set: what was not due yet waits for as long as it would have, what was due is due."""

SET_CLOCK_OF_KEYS: Final = _moved("idempotency", "expires_at", "TRUE", f"expires_at - {KEY_KEPT}")
"""The same for keys: they are known for as long as was promised."""
