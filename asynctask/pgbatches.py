"""The way of a task in PostgreSQL, as in `asynctask.batches`; the rows of a statement come as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from msgspec import json
from sqlalchemy import Connection, Double, Integer

from asynctask import changes
from asynctask.batches import APPENDED, UPTO, End, Known, ended
from asynctask.model import News, Status, Task
from asynctask.rows import ENDED_COLUMNS, NEW_COLUMNS, NEW_CONSTANTS, ended_row, task_of
from asynctask.statements import CLAIM_DUE
from asynctask.tables import task as table

Driver = psycopg.Connection[Any]

ONE_AFTER_ANOTHER: Final = 0x61746B65
"""The lock under which commits number what they tell: in the order in which they are seen ("atke")."""


def _casts(columns: Sequence[str]) -> list[str]:
    """Each column out of an array ``value``."""
    return [f"(value ->> {place}){_cast(name)}" for place, name in enumerate(columns)]


def _cast(name: str) -> str:
    kind = table.c[name].type if name in table.c else None
    if isinstance(kind, Double):
        return "::double precision"
    if isinstance(kind, Integer):
        return "::integer"
    return "::boolean" if name == "cancel_requested" else ""


_NEW: Final = _casts(NEW_COLUMNS)
_OWNER: Final = NEW_COLUMNS.index("owner")
_NEW[_OWNER] = f"CASE WHEN {_NEW[_OWNER]} IS NOT NULL THEN %s::text END"

_ADD: Final = (
    f"INSERT INTO task ({', '.join((*NEW_COLUMNS, 'crashes'))}) "  # noqa: S608
    f"SELECT {', '.join(_NEW)}, {NEW_CONSTANTS['crashes']} FROM json_array_elements(%s::json)"
)
"""With the owner that we are by now: the lease may have been lost since the rows were made."""

ASK: Final = (
    "SELECT task.task_id, asked.attempt, task.cancel_requested, task.n, "
    "task.status = 'running' AND task.attempt = asked.attempt AS runs "
    "FROM (SELECT value ->> 0 AS task_id, (value ->> 1)::integer AS attempt, "
    "(value ->> 2)::boolean AS again FROM json_array_elements(%s::json)) asked JOIN task USING (task_id) "
    "WHERE (task.status = 'running' AND task.attempt = asked.attempt) "
    "OR (asked.again AND task.ended_by = concat(%s::text, '.', asked.attempt)) "
    "ORDER BY task.task_id FOR UPDATE OF task"
)
"""Which of these attempts are still running, or were ended by us when the answer to it was lost."""

_PLAIN: Final = [name for name in ENDED_COLUMNS if name not in ("task_id", "crashes", "change")]
SAVE: Final = (
    f"UPDATE task SET {', '.join(f'{name} = saved.{name}' for name in _PLAIN)}, "  # noqa: S608
    # Another process may have charged the task meanwhile.
    "crashes = greatest(task.crashes, saved.crashes), "
    f"owner = NULL, ended_by = concat(%s::text, '.', task.attempt), changes = {APPENDED} "
    f"FROM (SELECT {', '.join(map(' AS '.join, zip(_casts(ENDED_COLUMNS), ENDED_COLUMNS, strict=True)))} "
    "FROM json_array_elements(%s::json)) saved WHERE task.task_id = saved.task_id"
)

_TELL: Final = (
    f"SELECT pg_advisory_xact_lock({ONE_AFTER_ANOTHER}); "
    f"INSERT INTO event (at, upto, body) SELECT %s, {UPTO} + %s, %s RETURNING seq"
)
"""Two statements: who has waited for his turn sees with the second one what came meanwhile."""


def adding(driver: Driver, rows: Sequence[tuple[Any, ...]], owner: str) -> str:
    """The statement that inserts new tasks.

    :param owner: of those that start.
    """
    return _complete(driver, _ADD, (owner, _text(rows)))


def asking(driver: Driver, ends: Sequence[End], owner: str) -> str:
    """The statement that asks which of some attempts are still running."""
    asked = _text([(one.task.task_id, one.task.attempt, one.again) for one in ends])
    return _complete(driver, ASK, (asked, owner))


def ending(
    driver: Driver, ends: Sequence[End], running: Sequence[Any], news: list[News], owner: str
) -> tuple[list[Status | None], list[str]]:
    """Add how attempts ended to the news.

    :param running: what `asking` has found.
    :param owner: who ends them, under one name from its start to its end.
    :returns: what `asynctask.batches.end` does; and the statement that writes it, if there is anything.
    """
    known: Known = {}
    before: Known = {}
    for task_id, attempt, cancel_requested, n, runs in running:
        found = known if runs else before
        found[task_id, attempt] = (cancel_requested, n)
    these = [ended(one, known) for one in ends]
    rows = [ended_row(task, one.at) for task, one in zip(these, ends, strict=True) if task is not None]
    news += [task for task in these if task is not None]
    left = [task or ended(one, before) for task, one in zip(these, ends, strict=True)]
    statuses = [None if task is None else task.status for task in left]
    return statuses, [_complete(driver, SAVE, (owner, _text(rows)))] if rows else []


def claim(connection: Connection, given: Mapping[str, Any]) -> list[Task]:
    """See `asynctask.batches.claim`."""
    claimed = map(task_of, connection.execute(CLAIM_DUE, given))
    return sorted(claimed, key=lambda task: (task.run_at, task.task_id))


def telling(driver: Driver, news: Sequence[News], now: float) -> str:
    """The statements that keep what is told; the last gives its number."""
    body = changes.body(news)
    return _complete(driver, _TELL, (now, len(body), body.decode()))


def _complete(driver: Driver, statement: str, values: tuple[Any, ...]) -> str:
    """A statement with its values in it, so that others can go along in the same message."""
    return psycopg.ClientCursor(driver).mogrify(statement, values)


def _text(rows: Sequence[tuple[Any, ...]]) -> str:
    return json.encode(rows).decode()
