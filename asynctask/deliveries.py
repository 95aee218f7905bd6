"""What a try to deliver a callback means, and when to try again. Pure."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from asynctask.model import Callback, Task
from asynctask.wire import encode, retry_at, task_json, timestamp

FIRST: Final = 5.0
"""Seconds between the first try that failed and the second; each further pause is twice as long."""

LONGEST: Final = 43_200.0
"""Seconds between two tries at most: else a receiver that is back would wait for a day and more."""

JITTER: Final = 0.25
"""The part by which a pause is drawn out at most, so that what failed together does not come together."""

GIVE_UP: Final = 259_200.0
"""Seconds after its task's end in which a callback is tried: three days, a weekend and a bit."""

GONE: Final = 410
"""A receiver that answers so wants no more (RFC 9110 §15.5.11)."""

DELIVERED, FAILED, PENDING = "delivered", "failed", "pending"


class Answer(Struct, frozen=True):
    """What a receiver answered.

    :ivar retry_after: its ``Retry-After``, as it came.
    """

    status: int
    retry_after: str | None = None


class Tried(Struct, frozen=True):
    """What a try to deliver a callback has come to.

    :ivar finished_at: of the outcome that was told, as it was read.
    :ivar state: `pending`, `delivered` or `failed`.
    :ivar due: when to try again, seconds since the epoch; None for never.
    :ivar error: why it did not succeed; None leaves an earlier reason.
    """

    task_id: str
    attempt: int
    finished_at: float
    state: str
    due: float | None
    error: str | None


class Refused(Exception):
    """The receiver must not be reached; the message says why, for whoever asked for the callback."""


class NoAnswer(Exception):
    """The receiver did not answer; the message says what happened."""


def body(task: Task) -> str:
    """What the receiver of a task that has ended is sent: JSON text, the same at each try."""
    assert task.callback is not None
    first = replace(task, callback=Callback(task.callback.url))
    shape = {
        "type": f"task.{task.status}",
        "timestamp": timestamp(_end(task)),
        "data": task_json(first, whole=True),
    }
    return encode(shape).decode()


def webhook_id(task: Task) -> str:
    """The same for every delivery of one outcome."""
    return f"{task.task_id}.{task.attempt}"


def judge(task: Task, outcome: Answer | Refused | NoAnswer, now: float, chance: float) -> Tried:
    """Decide what a try has come to.

    :param task: as it was told, with the tries before this one.
    :param now: seconds since the epoch.
    :param chance: in [0, 1); the caller draws it.
    """
    error = _reason(outcome)
    if error is None:
        return _tried(task, DELIVERED)
    if isinstance(outcome, Refused) or (isinstance(outcome, Answer) and outcome.status == GONE):
        return _tried(task, FAILED, None, error)
    last = _end(task) + GIVE_UP
    due = min(now + pause(task.callback.tries if task.callback else 0, chance), last)
    if isinstance(outcome, Answer) and outcome.retry_after is not None:
        due = max(due, retry_at(outcome.retry_after, now) or 0)
    if now >= last or due > last:
        return _tried(task, FAILED, None, error)
    return _tried(task, PENDING, due, error)


def pause(tries: int, chance: float) -> float:
    """Seconds until the next try.

    :param tries: those before the one that has just failed.
    :param chance: in [0, 1).
    """
    return min(FIRST * 2.0 ** min(tries, 60), LONGEST) * (1 + JITTER * chance)


def _reason(outcome: Answer | Refused | NoAnswer) -> str | None:
    """Why it did not succeed; None if it did."""
    if not isinstance(outcome, Answer):
        return str(outcome)
    if 200 <= outcome.status < 300:
        return None
    if 300 <= outcome.status < 400:
        return f"The receiver answered {outcome.status}; redirects are not followed"
    return f"The receiver answered {outcome.status}"


def _tried(task: Task, state: str, due: float | None = None, error: str | None = None) -> Tried:
    return Tried(task.task_id, task.attempt, _end(task), state, due, error)


def _end(task: Task) -> float:
    assert task.finished_at is not None, "It has not ended"
    return task.finished_at
