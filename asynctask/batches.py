"""The way of a task in SQLite: new tasks, claims, ends of attempts and what is told of them, many at once.

The driver lets go of the interpreter's lock at each step of a statement, and gets it back when the loop
rests or its time is over. So a batch takes few steps: the rows are values of one statement, and what is
asked comes back as one row.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Double

from asynctask import changes
from asynctask.model import News, Status, Task, start
from asynctask.rows import ENDED_COLUMNS, NEW_COLUMNS, NEW_CONSTANTS, ended_row, read_task
from asynctask.statements import CLAIM, KEPT_CHANGES, LISTED
from asynctask.tables import task as table

RARE: Final = frozenset(
    {"timeout", "traceparent", "callback_url", "callback_state", "error", "callback_due"}
)
"""Columns that few tasks have. Where none of a statement's rows has any, they are left out: the driver is
slow with NULL, for which it looks whether somebody wants something else stored."""

SIZES: Final = (1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), 128, 192, 256)
"""Rows of one statement. Values are bounded by SQLite (32,766), and how many statements there are by the
driver, which keeps them prepared."""

LARGE: Final = 4 * 1024 * 1024
"""Characters of input from which on no further task is claimed in the same go: they come as one JSON text,
and nobody else does anything while it is read."""

T = TypeVar("T")


class End(NamedTuple):
    """How an attempt ended.

    :ivar task: as the attempt left it.
    :ivar at: when that was, seconds since the epoch.
    :ivar again: whether this was tried before, and nobody knows whether it succeeded.
    """

    task: Task
    at: float
    again: bool = False


Known = dict[tuple[str, int], tuple[bool, int]]
"""By task and attempt, whether its end was asked for, and how many changes the task has had."""


def add(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert new tasks, `rows.new_row` or `rows.claimed_row` of each."""
    for some in map(_padded, _pieces(rows)):
        names, values = _given(some, NEW_COLUMNS)
        connection.exec_driver_sql(adding(len(some), names), values)


class Differs(Exception):
    """A task is not as the end of its attempt supposes."""


def end_as_supposed(connection: Connection, ends: Sequence[End], news: list[News]) -> list[Status | None]:
    """What `end` does, of attempts that run, and of which nobody has asked for a cancel that they do not
    know of.

    :raises Differs: one is another, and the transaction is of no use.
    """
    for some in _pieces(ends):
        if _save(connection, [ended_row(one.task, one.at) for one in some]) != len(some):
            raise Differs
    news += [one.task for one in ends]
    return [one.task.status for one in ends]


def end(connection: Connection, ends: Sequence[End], news: list[News]) -> list[Status | None]:
    """Write how attempts ended, and add it to the news.

    :returns: the status of each task now; None for an attempt that was given up before.
    """
    left: list[Status | None] = []
    for some in _pieces(ends):
        attempts = _padded([(one.task.task_id, one.task.attempt) for one in some])
        given = tuple(chain.from_iterable(attempts))
        found = json.loads(connection.exec_driver_sql(running(len(attempts)), given).scalar_one())
        known = {(task_id, attempt): (bool(asked), n) for task_id, attempt, asked, n in found}
        these = [ended(one, known) for one in some]
        rows = [ended_row(task, one.at) for task, one in zip(these, some, strict=True) if task is not None]
        if rows:
            _save(connection, rows)
        news += [task for task in these if task is not None]
        left += [
            _before(connection, one) if task is None else task.status
            for one, task in zip(some, these, strict=True)
        ]
    return left


def _save(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Write what `rows.ended_row` gives; how many of these attempts were running, and as supposed."""
    padded = _padded(rows)
    names, values = _given(padded, ENDED_COLUMNS)
    return connection.exec_driver_sql(ending(len(padded), names), values).rowcount


def _before(connection: Connection, end: End) -> Status | None:
    """The status that an end has left whose first try may have succeeded; None if it has not."""
    if not end.again:
        return None
    found = connection.exec_driver_sql(_STATUS, (end.task.task_id, end.task.attempt)).scalar_one_or_none()
    return Status(found) if found in (end.task.status, Status.CANCELLED) else None


def ended(end: End, known: Known) -> Task | None:
    """The task as it is now, if its attempt is among those that run; an attempt ends once."""
    running = known.pop((end.task.task_id, end.task.attempt), None)
    return None if running is None else changes.ended(end.task, *running, end.at)


def claim(connection: Connection, given: Mapping[str, Any]) -> list[Task]:
    """Take due tasks, those due first.

    :param given: what `asynctask.statements.CLAIM_DUE` takes.
    """
    asked = (given["of_kind"], given["now"], given["limit"])
    found = json.loads(connection.exec_driver_sql(DUE, asked).scalar_one())
    tasks = [start(_read(values), given["now"]) for values in found]
    if tasks:
        task_ids = json.dumps([task.task_id for task in tasks])
        connection.execute(CLAIM, {**given, "task_ids": task_ids})
    return tasks


def _read(values: list[Any]) -> Task:
    found = dict(zip(_CLAIMED, values, strict=True))
    for name in _TIMES:
        if found[name] is not None:
            found[name] = float(found[name])
    return read_task(found)


def tell(connection: Connection, news: Sequence[News], now: float) -> int:
    """Keep what this transaction changes for those who follow, and tell its number; 0 for nothing."""
    if not news:
        return 0
    body = changes.body(news)
    row: int = connection.exec_driver_sql(_TELL, (now, len(body), body.decode())).lastrowid
    return row


def _given(
    rows: Sequence[tuple[Any, ...]], columns: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The columns that are written, and the values, row by row: without those of `RARE`, or with all of
    them, so that there are few statements."""
    each = dict(zip(columns, zip(*rows, strict=True), strict=True))
    if all(each[name].count(None) == len(rows) for name in columns if name in RARE):
        each = {name: values for name, values in each.items() if name not in RARE}
    return tuple(each), tuple(chain.from_iterable(zip(*each.values(), strict=True)))


def _pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many rows at a time as a statement has at most."""
    return (rows[begin : begin + SIZES[-1]] for begin in range(0, len(rows), SIZES[-1]))


def _padded(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The same, filled up with rows of no task to a number for which there is a statement: a few more rows
    take less time than a statement more."""
    size = SIZES[bisect_left(SIZES, len(rows))]
    nothing = ["" if isinstance(value, str) else value for value in rows[-1]]
    return [*rows, *[tuple(nothing)] * (size - len(rows))]


_CLAIMED: Final = [column.name for column in (*LISTED, table.c.input)]
_TIMES: Final = [name for name in _CLAIMED if isinstance(table.c[name].type, Double)]


def _exact(name: str) -> str:
    """A column as JSON has it: a number beyond an integer as text, since SQLite would round it."""
    return f"iif({name} IS NULL, NULL, printf('%!.17g', {name}))" if name in _TIMES else name


DUE: Final = (
    f"SELECT json_group_array(json_array({', '.join(map(_exact, _CLAIMED))})) FROM "  # noqa: S608
    "(SELECT *, sum(length(input)) OVER (ROWS UNBOUNDED PRECEDING) - length(input) AS before FROM "
    "(SELECT * FROM task WHERE kind = ? AND status IN ('accepted', 'retrying') AND run_at <= ? "
    f"ORDER BY run_at, task_id LIMIT ?)) WHERE before < {LARGE}"
)
"""Which tasks are due, in their order. SQLite cannot take them and tell of them as one row at once."""


def _values(row: str, size: int) -> str:
    return ", ".join([row] * size)


APPENDED: Final = (
    f"CASE WHEN task.n < {KEPT_CHANGES} THEN task.changes || ',' || saved.change ELSE task.changes END"
)
"""The history with what happened, as far as it is kept."""

UPTO: Final = "coalesce((SELECT upto FROM event ORDER BY seq DESC LIMIT 1), 0)"
"""Bytes of all that was ever told."""

_RUNS: Final = "coalesce(task.status, '') = 'running'"
"""Kept from the status's index, by which SQLite would read every running task."""


@cache
def adding(size: int, names: tuple[str, ...]) -> str:
    columns = (*names, *NEW_CONSTANTS)
    row = ", ".join(["?"] * len(names) + [str(value) for value in NEW_CONSTANTS.values()])
    return (
        f"INSERT INTO task ({', '.join(columns)}) "  # noqa: S608
        f"SELECT * FROM (VALUES {_values(f'({row})', size)}) WHERE column1 <> ''"
    )


@cache
def running(size: int) -> str:
    """Which of these attempts are still running."""
    return (
        f"WITH asked (task_id, attempt) AS (VALUES {_values('(?, ?)', size)}) "  # noqa: S608
        "SELECT json_group_array(json_array(task.task_id, task.attempt, task.cancel_requested, task.n)) "
        "FROM asked JOIN task ON task.task_id = asked.task_id AND task.attempt = asked.attempt "
        f"AND {_RUNS}"
    )


@cache
def ending(size: int, names: tuple[str, ...]) -> str:
    row = f"({', '.join('?' * len(names))})"
    plain = [name for name in ENDED_COLUMNS if name not in ("task_id", "change")]
    new = [f"{name} = {f'saved.{name}' if name in names else 'NULL'}" for name in plain]
    rows = f"WITH saved ({', '.join(names)}) AS (VALUES {_values(row, size)}) SELECT * FROM saved"  # noqa: S608
    # It begins so that the driver counts its rows.
    return (
        f"UPDATE task SET {', '.join(new)}, owner = NULL, changes = {APPENDED} "  # noqa: S608
        f"FROM ({rows}) saved WHERE task.task_id = saved.task_id AND task.n = saved.n - 1 AND {_RUNS} "
        "AND task.cancel_requested <= saved.cancel_requested"
    )


_STATUS: Final = "SELECT status FROM task WHERE task_id = ? AND attempt = ?"

_TELL: Final = f"INSERT INTO event (at, upto, body) VALUES (?, {UPTO} + ?, ?)"  # noqa: S608
