"""One attempt after its end: what the task is then; the time and the pause are given."""

from collections.abc import Callable
from math import floor
from typing import Final

from msgspec.structs import replace
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr

from asynctask.context import Permanent, Retry
from asynctask.model import (
    RETRYING,
    Error,
    Progress,
    Task,
    after_failure,
    cancel,
    complete,
    fail,
    interrupt,
)
from asynctask.processes import ProcessDiedError
from asynctask.threads import NotStartedError
from asynctask.tracebacks import decisive, full_text_of
from asynctask.wire import name_of

MAX_MESSAGE: Final = 10_000
"""Characters of an exception's message that are kept."""

SHORTAGE: Final = 5.0
"""Seconds until an attempt is made for which the system had no thread or process."""


class Attempt:
    """One attempt under way, and why it is to end if it is.

    :ivar task: as it was when the attempt began.
    :ivar progress: how far it has told that it is.
    :ivar longest: milliseconds of its longest step on the reactor.
    :ivar cancelled: somebody asked for its end.
    :ivar timed_out: its time is over.
    :ivar releasing: the service ends and has no more time for it.
    :ivar ended: what its handler does from now on counts for nothing.
    """

    __slots__ = ("cancelled", "ended", "longest", "progress", "releasing", "task", "timed_out")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.progress: Progress | None = None
        self.longest = 0.0
        self.cancelled = False
        self.timed_out = False
        self.releasing = False
        self.ended = False

    def _now(self) -> Task:
        task, longest = self.task, self.longest
        if task.longest_step is not None and task.longest_step > longest:
            longest = task.longest_step
        return replace(
            task,
            cancel_requested=task.cancel_requested or self.cancelled,
            longest_step=_to_three_digits(longest) if longest else None,
            progress=self.progress,
        )

    @property
    def is_to_end(self) -> bool:
        """Whether it was asked to end."""
        return self.cancelled or self.timed_out or self.releasing

    def succeeded(self, result: str, now: float, backoff: Callable[[], float]) -> Task:
        """The handler returned; too late, or although it was cancelled."""
        if self.timed_out:
            return self.given_up(now, backoff)
        return complete(self._now(), result, now)

    def failed(self, failure: Failure, now: float, backoff: Callable[[], float]) -> Task:
        """The handler raised, or unwound because it was asked to."""
        if self.is_to_end:
            return self.given_up(now, backoff)
        task = self._now()
        if failure.check(NotStartedError):
            return _later(interrupt(task, now), now)
        if issubclass(type(decision_of(failure)), Permanent):
            return fail(task, error_of(failure), now)
        return _after_failure(task, error_of(failure), now, backoff)

    def given_up(self, now: float, backoff: Callable[[], float]) -> Task:
        """What the handler does counts for nothing: it was asked to end, or has not begun."""
        task = self._now()
        if self.cancelled:
            return cancel(task, now)
        if self.timed_out:
            error = Error("Timeout", f"The attempt took longer than {task.timeout:g} seconds")
            return _after_failure(task, error, now, backoff)
        return interrupt(task, now)


def _to_three_digits(number: float) -> float:
    """What `round` does in ten times as long, which is exact for those in the middle too."""
    return floor(number * 1_000.0 + 0.5) / 1_000.0


def _after_failure(task: Task, error: Error, now: float, backoff: Callable[[], float]) -> Task:
    """See `asynctask.model.after_failure`; a rule is asked only for attempts that may come."""
    delay = backoff() if task.failures < task.retries else 0.0
    return after_failure(task, error, now, delay)


def _later(task: Task, now: float) -> Task:
    """Not at once, or all that wait for a thread would try it in turn."""
    return replace(task, run_at=now + SHORTAGE) if task.status is RETRYING else task


def decision_of(failure: Failure) -> BaseException | None:
    """The exception, or the one among many that says how to go on."""
    return None if failure.value is None else decisive(failure.value, Permanent, Retry)


def error_of(failure: Failure) -> Error:
    """What a task says of the exception that ended it."""
    kind = "Crashed" if failure.check(ProcessDiedError) else name_of(failure.value)
    text = (full_text_of(failure.value, Permanent, Retry) or safe_repr(failure.value))[:MAX_MESSAGE]
    message = text.encode("utf-8", "replace").decode()
    return Error(kind, message.replace("\0", "\N{SYMBOL FOR NULL}"))
