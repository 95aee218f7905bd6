"""Tasks as rows of the database, and back."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import Row, RowMapping

from asynctask import wire
from asynctask.model import ACCEPTED, RUNNING, Callback, Status, Task

NEW_COLUMNS: Final = (
    *("task_id", "name", "kind", "input", "status", "attempt", "timeout", "retries", "traceparent"),
    *("callback_url", "callback_state", "owner", "accepted_at", "run_at", "started_at", "changes", "n"),
)
"""What `new_row` and `claimed_row` give, in this order."""

NEW_CONSTANTS: Final = {"crashes": 0, "failures": 0, "cancel_requested": 0, "callback_tries": 0}
"""What all new tasks have."""

ENDED_COLUMNS: Final = (
    *("task_id", "status", "crashes", "failures", "cancel_requested", "run_at", "finished_at"),
    *("longest_step", "progress", "result", "error", "callback_due", "n", "change"),
)
"""What `ended_row` gives, in this order."""

BYTES_BESIDE: Final = 300
"""About what a waiting task takes in memory beside its name and input."""


def new_row(task: Task) -> tuple[Any, ...]:
    """The row of a task that was just accepted."""
    return _new(task, None, wire.change_json(task, task.accepted_at), 1)


def claimed_row(task: Task, owner: str) -> tuple[Any, ...]:
    """The row of a task that starts by the commit that accepts it.

    :param task: as it is once it has started.
    """
    at = wire.timestamp(task.accepted_at)
    history = f"{wire.entry_json(at, ACCEPTED, 0)},{wire.entry_json(at, RUNNING, task.attempt)}"
    return _new(task, owner, history, 2)


def _new(task: Task, owner: str | None, history: str, n: int) -> tuple[Any, ...]:
    callback = task.callback
    return (
        task.task_id,
        task.name,
        task.kind,
        task.input,
        str(task.status),
        task.attempt,
        task.timeout,
        task.retries,
        task.traceparent,
        callback and callback.url,
        callback and callback.state,
        owner,
        task.accepted_at,
        task.run_at,
        task.started_at,
        history,
        n,
    )


def size_of(rows: Iterable[tuple[Any, ...]]) -> int:
    """About how many bytes the rows of new tasks are."""
    return sum([BYTES_BESIDE + len(row[1]) + len(row[3]) for row in rows])


def ended_row(task: Task, at: float) -> tuple[Any, ...]:
    """What is written of a task whose attempt ended."""
    return (
        task.task_id,
        str(task.status),
        task.crashes,
        task.failures,
        int(task.cancel_requested),
        task.run_at,
        task.finished_at,
        task.longest_step,
        wire.progress_text(task.progress),
        task.result,
        wire.error_text(task.error),
        task.finished_at if task.callback is not None else None,
        task.n,
        wire.change_json(task, at),
    )


def changed_row(task: Task, now: float, *, moved: bool) -> dict[str, Any]:
    """What `statements.CHANGE` takes of a task that somebody changed from outside.

    :param moved: whether its status is another one now, which its history tells.
    """
    callback = task.callback
    return {
        "of_task": task.task_id,
        "new_status": str(task.status),
        "new_crashes": task.crashes,
        "new_failures": task.failures,
        "new_cancel_requested": task.cancel_requested,
        "new_run_at": task.run_at,
        "new_finished_at": task.finished_at,
        "new_longest_step": task.longest_step,
        "new_callback_state": callback and callback.state,
        "new_callback_due": task.finished_at if callback and moved else None,
        "new_callback_tries": callback.tries if callback else 0,
        "new_callback_error": callback and callback.error,
        "new_progress": wire.progress_text(task.progress),
        "new_result": task.result,
        "new_error": wire.error_text(task.error),
        "change": "," + wire.change_json(task, now) if moved else "",
        "count": int(moved),
    }


def task_of(row: Row[Any]) -> Task:
    """The task of a row, as far as the statement has read it."""
    return read_task(row._mapping)


def read_task(found: Mapping[str, Any] | RowMapping) -> Task:
    """The same of its columns by their names."""
    changes = found.get("changes")
    return Task(
        task_id=found["task_id"],
        name=found["name"],
        kind=found["kind"],
        status=Status(found["status"]),
        attempt=found["attempt"],
        timeout=found["timeout"],
        retries=found["retries"],
        failures=found["failures"],
        crashes=found["crashes"],
        cancel_requested=bool(found["cancel_requested"]),
        longest_step=found["longest_step"],
        traceparent=found["traceparent"],
        callback=found["callback_url"] and _callback(found),
        accepted_at=found["accepted_at"],
        run_at=found["run_at"],
        started_at=found["started_at"],
        finished_at=found["finished_at"],
        progress=found["progress"] and wire.read_progress(found["progress"]),
        error=found["error"] and wire.read_error(found["error"]),
        input=found.get("input"),
        result=found.get("result"),
        history=changes and f"[{changes}]",
        n=found["n"],
    )


def _callback(found: Mapping[str, Any] | RowMapping) -> Callback:
    return Callback(
        found["callback_url"], found["callback_state"], found["callback_tries"], found["callback_error"]
    )
