"""Tasks as rows of the database, and back."""

from typing import Any

from sqlalchemy import Row, RowMapping

from asynctask import wire
from asynctask.model import Callback, Status, Task


def new_row(task: Task) -> dict[str, Any]:
    """The row of a task that was just accepted."""
    return {
        "task_id": task.task_id,
        "name": task.name,
        "kind": task.kind,
        "input": task.input,
        "status": task.status.value,
        "attempt": task.attempt,
        "crashes": task.crashes,
        "timeout": task.timeout,
        "retries": task.retries,
        "failures": 0,
        "cancel_requested": False,
        "longest_step": None,
        "traceparent": task.traceparent,
        "callback_url": task.callback and task.callback.url,
        "callback_state": task.callback and task.callback.state,
        "callback_due": None,
        "callback_tries": 0,
        "callback_error": None,
        "owner": None,
        "accepted_at": task.accepted_at,
        "run_at": task.run_at,
        "started_at": None,
        "finished_at": None,
        "progress": None,
        "result": None,
        "error": None,
        "changes": wire.change_json(task, task.accepted_at),
        "n": 1,
    }


def claimed_row(row: dict[str, Any], task: Task, owner: str) -> dict[str, Any]:
    """The new row of a task that starts by the commit that accepts it."""
    return row | {
        "status": task.status.value,
        "attempt": task.attempt,
        "owner": owner,
        "started_at": task.started_at,
        "changes": f"{row['changes']},{wire.change_json(task, task.accepted_at)}",
        "n": 2,
    }


def saved_row(task: Task, now: float) -> dict[str, Any]:
    """What `statements.SAVE` reads of a task whose attempt ended."""
    return {
        "task_id": task.task_id,
        "attempt": task.attempt,
        "status": task.status.value,
        "crashes": task.crashes,
        "failures": task.failures,
        "run_at": task.run_at,
        "finished_at": task.finished_at,
        "longest_step": task.longest_step,
        "progress": wire.progress_text(task.progress),
        "result": task.result,
        "error": wire.error_text(task.error),
        "change": wire.change_json(task, now),
        "at": now,
    }


def changed_row(task: Task, now: float, *, moved: bool) -> dict[str, Any]:
    """What `statements.CHANGE` takes of a task that somebody changed from outside.

    :param moved: whether its status is another one now, which its history tells.
    """
    callback = task.callback
    return {
        "of_task": task.task_id,
        "new_status": task.status.value,
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
    found = row._mapping
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


def _callback(found: RowMapping) -> Callback:
    return Callback(
        found["callback_url"], found["callback_state"], found["callback_tries"], found["callback_error"]
    )
