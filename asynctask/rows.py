"""Tasks as rows of the database, and back."""

from typing import Any

from sqlalchemy import Row

from asynctask import wire
from asynctask.model import Status, Task


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
        "run_at": task.run_at,
        "finished_at": task.finished_at,
        "progress": wire.progress_text(task.progress),
        "result": task.result,
        "error": wire.error_text(task.error),
        "change": wire.change_json(task, now),
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
        crashes=found["crashes"],
        accepted_at=found["accepted_at"],
        run_at=found["run_at"],
        started_at=found["started_at"],
        finished_at=found["finished_at"],
        progress=found["progress"] and wire.read_progress(found["progress"]),
        error=found["error"] and wire.read_error(found["error"]),
        input=found.get("input"),
        result=found.get("result"),
        history=changes and f"[{changes}]",
    )
