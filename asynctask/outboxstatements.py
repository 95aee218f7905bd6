"""The SQL statements about callbacks. Times are seconds since the epoch."""

from typing import Final

from sqlalchemy import and_, bindparam, func, select, text, tuple_, update

from asynctask.deliveries import DELIVERED
from asynctask.statements import WHOLE
from asynctask.tables import meta, task

_TO_CALL: Final = task.c.callback_due.is_not(None)

CALLBACKS_DUE: Final = (
    select(
        *(task.c.task_id, task.c.attempt, task.c.callback_url, task.c.callback_tries), task.c.callback_due
    )
    .where(
        _TO_CALL,
        task.c.callback_due <= bindparam("now"),
        tuple_(task.c.callback_due, task.c.task_id) > tuple_(bindparam("after"), bindparam("after_task")),
    )
    .order_by(task.c.callback_due, task.c.task_id)
    .limit(bindparam("limit"))
)
"""Callbacks that are due, those due first, behind a place in their order."""

NEXT_CALLBACK: Final = select(func.min(task.c.callback_due)).where(
    _TO_CALL, task.c.callback_due > bindparam("now")
)
PENDING_CALLBACKS: Final = select(func.count()).select_from(task).where(_TO_CALL)

MANY: Final = 1_000
"""Tasks that ended last, among which are those of the receivers that matter: read in some milliseconds."""

_ENDED_LAST: Final = (
    select(task.c.callback_url, task.c.callback_state)
    .where(task.c.finished_at.is_not(None), task.c.callback_due.is_(None))
    .order_by(task.c.finished_at.desc())
    .limit(MANY)
    .subquery()
)
DELIVERED_LAST: Final = (
    select(_ENDED_LAST.c.callback_url).where(_ENDED_LAST.c.callback_state == DELIVERED).distinct()
)
"""Whose receivers have answered, not long ago."""

_OF_ATTEMPT: Final = and_(task.c.task_id == bindparam("of_task"), task.c.attempt == bindparam("of_attempt"))
_TO_TELL: Final = and_(_OF_ATTEMPT, task.c.callback_due <= bindparam("now"))
OUTCOME: Final = select(*WHOLE).where(_TO_TELL)
"""A task whose outcome is to be told now."""

CLAIM_OUTCOME: Final = (
    update(task).values(callback_due=bindparam("lease")).where(_TO_TELL).returning(*WHOLE)
)
"""The same where many share a database, so that one of them tells it."""

_THIS_OUTCOME: Final = and_(
    _OF_ATTEMPT,
    # A retry on request and a cancel lead to another outcome of the same attempt.
    task.c.finished_at == bindparam("of_end"),
    _TO_CALL,
)
GIVE_BACK: Final = update(task).values({task.c.callback_due: bindparam("now")}).where(_THIS_OUTCOME)
"""Lets an outcome be told by another one, which was claimed."""

CALLED: Final = (
    update(task)
    .values(
        {
            task.c.callback_state: bindparam("new_state"),
            task.c.callback_due: bindparam("new_due"),
            task.c.callback_tries: task.c.callback_tries + 1,
            task.c.callback_error: func.coalesce(bindparam("new_error"), task.c.callback_error),
        }
    )
    .where(_THIS_OUTCOME)
)
"""What a try has come to, of the outcome that was told and no other."""

SECRET: Final = select(meta.c.value).where(meta.c.key == "callback_secret")
KEEP_SECRET: Final = text(
    "INSERT INTO meta (key, value) VALUES ('callback_secret', :secret) ON CONFLICT (key) DO NOTHING"
)
