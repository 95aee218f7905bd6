"""What a task is, and what may happen to it. Pure: no clock, no chance, no I/O."""

from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace


class Status(StrEnum):
    """Where a task stands."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Move(StrEnum):
    """What happens to a task."""

    START = "start"
    COMPLETE = "complete"
    TRY_AGAIN = "try again"
    GIVE_UP = "give up"
    CANCEL = "cancel"
    RETRY = "retry"


ACCEPTED, RUNNING, RETRYING, COMPLETED, FAILED, CANCELLED = Status
START, COMPLETE, TRY_AGAIN, GIVE_UP, CANCEL, RETRY = Move

TRANSITIONS: Final = {
    (ACCEPTED, START): RUNNING,
    (ACCEPTED, CANCEL): CANCELLED,
    (RUNNING, COMPLETE): COMPLETED,
    (RUNNING, TRY_AGAIN): RETRYING,
    (RUNNING, GIVE_UP): FAILED,
    (RUNNING, CANCEL): CANCELLED,
    (RETRYING, START): RUNNING,
    (RETRYING, GIVE_UP): FAILED,
    (RETRYING, CANCEL): CANCELLED,
    (FAILED, RETRY): ACCEPTED,
    (CANCELLED, RETRY): ACCEPTED,
}
WAITING: Final = frozenset(before for before, move in TRANSITIONS if move is START)
ENDED: Final = frozenset(Status) - WAITING - {RUNNING}

KEY_KEPT: Final = 86_400
"""Seconds for which an Idempotency-Key is remembered: a day of retries."""

LONGEST_BACKOFF: Final = 3_600.0
"""Seconds between two attempts at most."""

CRASHES_ALLOWED: Final = 2
"""A task that itself kills the process is failed when it does so once more than this."""


class InvalidTransition(Exception):
    """The state of the task forbids this move."""

    def __init__(self, status: Status, move: Move | None = None) -> None:
        super().__init__(f"A task that is {status} cannot {move or 'be deleted'}")
        self.status = status
        self.move = move


class Error(Struct, frozen=True, gc=False):
    """Why an attempt failed: the exception's class name, or one of ours, and its message."""

    type: str
    message: str


UNFIT: Final = Error("NotSerializable", "The database cannot keep what the attempt has come to")
"""How a task fails whose own end the database refuses."""


class Progress(Struct, frozen=True, gc=False):
    """How far an attempt is."""

    step: int
    total: int
    message: str = ""


class Callback(Struct, frozen=True, gc=False):
    """Whom to tell how the task ended, and how far that is.

    :ivar state: `pending`, `delivered` or `failed`.
    :ivar error: the reason of the last try that did not succeed.
    """

    url: str
    state: str = "pending"
    tries: int = 0
    error: str | None = None


class Submission(Struct, frozen=True, gc=False):
    """What a client asks for, checked.

    ``input`` is JSON text of an object; ``delay`` and ``timeout`` are in seconds.
    """

    name: str
    kind: str
    input: str
    delay: float = 0
    timeout: float | None = None
    retries: int = 0
    callback_url: str | None = None


class Task(Struct, frozen=True, gc=False, array_like=True, tag="task"):
    """A task as it is at one moment.

    ``n`` counts its changes of status. Times are seconds since the epoch, UTC; ``timeout`` is in seconds,
    ``longest_step`` in milliseconds.
    ``failures`` and ``crashes`` count since it was accepted or last retried by hand.
    ``input``, ``result`` and ``history`` are JSON text: they go through us unread, and a task out of a
    list or in the runner's hands has them as None where nobody needs them.
    """

    task_id: str
    name: str
    kind: str
    status: Status
    attempt: int
    accepted_at: float
    run_at: float
    started_at: float | None = None
    finished_at: float | None = None
    timeout: float | None = None
    retries: int = 0
    failures: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    longest_step: float | None = None
    traceparent: str | None = None
    callback: Callback | None = None
    progress: Progress | None = None
    error: Error | None = None
    input: str | None = None
    result: str | None = None
    history: str | None = None
    n: int = 1


class Deleted(Struct, frozen=True, gc=False, array_like=True, tag="deleted"):
    """A task that is gone."""

    task_id: str
    kind: str


News = Task | Deleted
"""What a commit tells to those who follow: a task with its new status, or that it is gone."""


class Query(Struct, frozen=True, gc=False):
    """Which tasks a list shows: newest first, those before ``cursor`` (a task_id)."""

    statuses: tuple[Status, ...] = ()
    kind: str | None = None
    name: str | None = None
    limit: int = 50
    cursor: str | None = None


def accept(new: Submission, task_id: str, now: float, traceparent: str | None = None) -> Task:
    """The task that a submission becomes, waiting for its time or a free seat."""
    return Task(
        task_id=task_id,
        name=new.name,
        kind=new.kind,
        status=ACCEPTED,
        attempt=0,
        accepted_at=now,
        run_at=now + new.delay,
        timeout=new.timeout,
        retries=new.retries,
        traceparent=traceparent,
        callback=None if new.callback_url is None else Callback(new.callback_url),
        input=new.input,
    )


def start(task: Task, now: float) -> Task:
    """The next attempt begins.

    :raises InvalidTransition: the task does not wait.
    """
    return replace(
        task,
        status=_move(task, START),
        attempt=task.attempt + 1,
        started_at=now,
        progress=None,
        n=task.n + 1,
    )


def complete(task: Task, result: str, now: float) -> Task:
    """The attempt ended with a result, JSON text.

    :raises InvalidTransition: the task is not running.
    """
    return replace(
        task, status=_move(task, COMPLETE), result=result, error=None, finished_at=now, n=task.n + 1
    )


def fail(task: Task, error: Error, now: float) -> Task:
    """The last attempt failed.

    :raises InvalidTransition: the task is neither running nor about to try again.
    """
    return replace(task, status=_move(task, GIVE_UP), error=error, finished_at=now, n=task.n + 1)


def after_failure(task: Task, error: Error, now: float, delay: float) -> Task:
    """Decide what a failed attempt means.

    :param delay: seconds until the next attempt, if there is one.
    :returns: the task, `retrying` with a later ``run_at``, `failed`, or `cancelled` where that was
        asked for.
    :raises InvalidTransition: the task is not running.
    """
    again = _move(task, TRY_AGAIN)
    failed = replace(task, failures=task.failures + 1, error=error)
    if failed.cancel_requested:
        return cancel(failed, now)
    if failed.failures > failed.retries:
        return fail(failed, error, now)
    return replace(failed, status=again, run_at=now + delay, n=task.n + 1)


def interrupt(task: Task, now: float) -> Task:
    """The process stopped or died under the attempt; another may start at once.

    :raises InvalidTransition: the task is not running.
    """
    if task.cancel_requested:
        return cancel(task, now)
    # An error would say that this attempt has failed; it is an earlier one's.
    return replace(task, status=_move(task, TRY_AGAIN), run_at=now, error=None, n=task.n + 1)


def lose(task: Task, now: float) -> Task:
    """What an attempt came to cannot be kept: it counts as interrupted, by the same change."""
    return interrupt(_unended(task), now)


def reject(task: Task, now: float) -> Task:
    """The same where another attempt would come to it again: the task has failed."""
    return fail(_unended(task), UNFIT, now)


def _unended(task: Task) -> Task:
    """As the task was before its attempt ended, of which nobody has been told."""
    return replace(task, status=RUNNING, result=None, progress=None, finished_at=None, n=task.n - 1)


def cancel(task: Task, now: float) -> Task:
    """The task is not to go on, and nothing of it runs.

    :raises InvalidTransition: the task has ended.
    """
    moved = _move(task, CANCEL)
    return replace(task, status=moved, cancel_requested=True, finished_at=now, n=task.n + 1)


def request_cancel(task: Task, now: float) -> Task:
    """Somebody asks for an end: a waiting task has it at once, a running one when it has unwound; and one
    that was cancelled before stays as it is, since whoever has lost the answer asks again.

    :raises InvalidTransition: the task has ended otherwise.
    """
    if task.status is CANCELLED:
        return task
    if task.status is RUNNING:
        return replace(task, cancel_requested=True)
    return cancel(task, now)


def retry(task: Task, now: float) -> Task:
    """Somebody asks for a new beginning; only ``attempt`` goes on counting.

    :raises InvalidTransition: the task neither failed nor was cancelled.
    """
    return replace(
        task,
        status=_move(task, RETRY),
        n=task.n + 1,
        run_at=now,
        finished_at=None,
        failures=0,
        crashes=0,
        cancel_requested=False,
        longest_step=None,
        progress=None,
        callback=task.callback and Callback(task.callback.url),
        error=None,
        result=None,
    )


def crash(task: Task, now: float) -> Task:
    """The attempt itself killed the process: like `interrupt`, but only so often.

    :raises InvalidTransition: the task is not running.
    """
    _move(task, TRY_AGAIN)
    crashed = replace(task, crashes=task.crashes + 1)
    if crashed.crashes <= CRASHES_ALLOWED:
        return interrupt(crashed, now)
    return fail(crashed, _crashed(crashed), now)


def blame(task: Task, now: float) -> Task:
    """An earlier attempt killed its process, as in `crash`, and another process has gone on since.

    :raises InvalidTransition: the task is neither running nor about to try again.
    """
    crashed = replace(task, crashes=task.crashes + 1)
    return crashed if crashed.crashes <= CRASHES_ALLOWED else fail(crashed, _crashed(crashed), now)


def _crashed(task: Task) -> Error:
    return Error("Crashed", f"The process died in this task's handler {task.crashes} times")


def _move(task: Task, move: Move) -> Status:
    after = TRANSITIONS.get((task.status, move))
    if after is None:
        raise InvalidTransition(task.status, move)
    return after


def backoff(attempt: int, chance: float) -> float:
    """Seconds before an attempt: exponential, with full jitter, so that failures spread.

    :param attempt: its number, from 2.
    :param chance: in [0, 1); the caller draws it.
    """
    return chance * min(2.0 ** min(attempt, 60), LONGEST_BACKOFF)
