"""What happened to tasks: as it is kept, and as it was then. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from asynctask.model import (
    CANCELLED,
    ENDED,
    RETRYING,
    RUNNING,
    WAITING,
    Callback,
    Error,
    News,
    Task,
    cancel,
)
from asynctask.wire import Change

AT: Final = '{"at":"'
"""How an entry of a history begins; in a text in it, quotes are escaped."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[News]).decode
_history: Final = msgspec.json.Decoder(list[Change]).decode


def listed(task: Task) -> Task:
    """A task as a change tells it: without what lists leave out."""
    return replace(task, input=None, result=None, history=None)


def ended(task: Task, cancel_requested: bool, n: int, now: float) -> Task:
    """What becomes of a task whose attempt ended as ``task`` says.

    :param cancel_requested: whether its cancel was committed while the end was on its way: then there is
        no next attempt.
    :param n: how many changes the task has had before.
    """
    if cancel_requested and task.status is RETRYING:
        task = cancel(task, now)
    return replace(task, n=n + 1, cancel_requested=cancel_requested or task.cancel_requested)


def latest(task: Task) -> float:
    """When the last change of a task happened that is kept: seconds since the epoch, or 0."""
    _, found, last = (task.history or "").rpartition(AT)
    return _seconds(last.partition('"')[0]) if found else 0.0


def of_new(waiting: Sequence[Task], starting: Sequence[Task], started: Sequence[Task]) -> list[News]:
    """What is told of new tasks: they are accepted, and some have started."""
    news: list[News] = list(waiting)
    for number, task in enumerate(started):  # mostly one, for which to zip two takes longer
        news += starting[number], task
    return news


def body(news: Sequence[News]) -> bytes:
    """The changes of one commit, as they are kept."""
    return _encode([listed(one) if isinstance(one, Task) else one for one in news])


def read(body: str) -> list[News]:
    """The changes of one commit."""
    return _decode(body)


def past(task: Task) -> list[Task]:
    """The changes of a task by its history, each with the task as it was then, oldest first.

    What only the latest state tells is left out of earlier ones. ``run_at`` of an earlier one is when it
    did start, unless it still holds. Where the history was capped, the task as it is comes last.
    """
    entries = _history(task.history or "[]")
    changes: list[Task] = []
    started: float | None = None
    error: Error | None = None
    run_at = task.run_at
    starts = [_seconds(entry.at) if entry.status is RUNNING else None for entry in entries]
    moved = any(entry.status in WAITING for entry in entries[1:])
    callback = task.callback and Callback(task.callback.url)
    for number, entry in enumerate(entries, 1):
        at = _seconds(entry.at)
        if entry.status is RUNNING:
            started = at
        elif entry.status not in ENDED and moved:
            run_at = next((start for start in starts[number:] if start is not None), task.run_at)
        if entry.status is not RUNNING:
            error = entry.error
        changes.append(
            replace(
                task,
                status=entry.status,
                attempt=entry.attempt,
                error=error,
                run_at=run_at,
                started_at=started,
                finished_at=at if entry.status in ENDED else None,
                cancel_requested=entry.status is CANCELLED,
                callback=callback,
                longest_step=None,
                progress=None,
                input=None,
                result=None,
                history=None,
                n=number,
            )
        )
    if changes:
        # What a running task has told since is told apart, as its progress.
        now = replace(listed(task), progress=None) if task.status is RUNNING else listed(task)
        if task.n <= len(entries):
            changes.pop()
        changes.append(now)
    return changes


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
