"""What somebody asks of one task from outside, in its transaction: a cancel, a retry, its removal."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from asynctask import changes, statements
from asynctask.database import Database
from asynctask.model import ENDED, RUNNING, Deleted, InvalidTransition, News, Status, Task, cancel
from asynctask.reading import find
from asynctask.rows import changed_row

ON_THE_WAY: Final = 2.0
"""Seconds that a change may take to be written; one that is later yet is of a clock that was ahead."""

Decide = Callable[[Task, float], Task]
"""Gives the task as it is to be, at a time that is never before its last change."""

Decided = InvalidTransition | tuple[Status, Task] | None
"""Why not; or the status before, and the task as it is now; None where there is no task."""


def change(
    connection: Connection, database: Database, task_id: str, decide: Decide, now: float, news: list[News]
) -> Decided:
    """Read a task, decide, and write what was decided."""
    before = find(connection, task_id, locked=True)
    if before is None:
        return None
    latest = changes.latest(before)  # an attempt may have ended on the way
    at = latest if now < latest < now + ON_THE_WAY else now
    try:
        after = decide(before, at)
    except InvalidTransition as forbidden:
        return forbidden.with_traceback(None)  # whose frames have all of this batch
    if after is before:
        return before.status, before
    given = {"of_task": task_id, "me": database.owner}
    if after.status is RUNNING and connection.scalar(database.is_orphan, given) is not None:
        after = cancel(before, at)  # nobody is there who would end it
    moved = after.status is not before.status
    connection.execute(statements.CHANGE, changed_row(after, at, moved=moved))
    changed = find(connection, task_id)
    assert changed is not None
    if moved:
        news.append(changes.listed(changed))
    return before.status, changed


def remove(connection: Connection, task_id: str, news: list[News]) -> Task | None:
    """Remove a task if it has ended; as it was, None if there is none."""
    task = find(connection, task_id, locked=True)
    if task is not None and task.status in ENDED:
        connection.execute(statements.DELETE, {"of_task": task_id})
        news.append(Deleted(task_id, task.kind))
    return task
