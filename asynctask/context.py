"""What a handler is given besides its input."""

from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from asynctask.model import Progress

MAX_STEP: Final = 2**53
MAX_MESSAGE: Final = 1_000


class Permanent(Exception):
    """Raised by a handler: the task fails, and no retry would help."""


class Retry(Exception):
    """Raised by a handler: the attempt has failed, and it says itself when the next one is worth it.

    It takes one of the retries like any other failure, and fails the task where none is left.

    :ivar after: seconds until then, from 0 to a year; in place of what ``backoff`` says.
    """

    after = 0.0

    def __init__(self, *args: object, after: float) -> None:
        super().__init__(*args)
        self.after = float(after)

    def __reduce__(self) -> tuple[Any, ...]:
        """For those who copy or pickle it."""
        return _made, (type(self), self.args), vars(self)


def _made(cls: type[Retry], args: tuple[object, ...]) -> Retry:
    """Without its ``__init__``, of which only itself knows what that takes."""
    return cls.__new__(cls, *args)


class Facts(Struct, frozen=True):
    """One attempt, in words that may go into another process.

    :ivar deadline: when it must have ended, seconds since the epoch; None for never.
    :ivar traceparent: as the client sent it (W3C Trace Context).
    """

    task_id: str
    name: str
    attempt: int
    deadline: float | None = None
    traceparent: str | None = None

    @property
    def cancelled(self) -> bool:
        """A process is killed, and need not be told before."""
        return False


class Attempted(Protocol):
    """What a context knows of its attempt: `Facts`, or what is nearer to it."""

    @property
    def task_id(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    @property
    def deadline(self) -> float | None: ...

    @property
    def traceparent(self) -> str | None: ...

    @property
    def cancelled(self) -> bool: ...


class Context:
    """One attempt, as its handler sees it: a parameter annotated with this class is given it."""

    __slots__ = ("_clock", "_facts", "_log", "_report")

    def __init__(
        self,
        facts: Attempted,
        clock: IReactorTime | None,
        report: Callable[[Progress], None],
    ) -> None:
        self._facts = facts
        self._log: TaskLogger | None = None
        self._clock = clock
        self._report = report

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self._facts.task_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._facts.attempt

    @property
    def deadline(self) -> float | None:
        """When it must have ended, seconds since the epoch; None for never."""
        return self._facts.deadline

    @property
    def traceparent(self) -> str | None:
        """As the client sent it (W3C Trace Context); None if it sent none."""
        return self._facts.traceparent

    @property
    def log(self) -> "TaskLogger":
        """A logger whose events carry the task's id; made when it is first asked for."""
        if self._log is None:
            self._log = TaskLogger(self._facts)
        return self._log

    @property
    def clock(self) -> IReactorTime:
        """The time that a handler on the reactor waits by, as ``deferLater`` takes it."""
        if self._clock is None:
            raise RuntimeError("Only a handler on the reactor has a clock")
        return self._clock

    @property
    def cancelled(self) -> bool:
        """Whether the attempt should end now: for threads, which nothing can interrupt."""
        return self._facts.cancelled

    def progress(self, step: int, total: int, message: str = "") -> None:
        """Tell how far the attempt is: on the task that GET shows, and in the log.

        :param message: what a person should know; its first 1,000 characters are kept.
        :raises TypeError: step and total are no integers, or the message is no string.
        :raises ValueError: a number is beyond what every JSON reader can hold.
        """
        # Most calls are this one, and there are thousands a second.
        if type(step) is type(total) is int and 0 <= step <= total <= MAX_STEP and message == "":
            self._report(Progress(step, total))
            return
        if not isinstance(step, int) or not isinstance(total, int) or not isinstance(message, str):
            raise TypeError("progress takes two integers and a string")
        if not -MAX_STEP <= step <= MAX_STEP or not -MAX_STEP <= total <= MAX_STEP:
            raise ValueError(f"progress counts up to {MAX_STEP}")
        if message:
            message = message[:MAX_MESSAGE].encode("utf-8", "replace").decode()
            message = message.replace("\0", "\N{SYMBOL FOR NULL}")
        self._report(Progress(int(step), int(total), message))


class TaskLogger(Logger):
    """A logger whose events carry the task's id, and its trace where there is one."""

    def __init__(self, facts: Attempted) -> None:
        super().__init__(namespace="asynctask.handler")
        self._fields = {"task_id": facts.task_id}
        if facts.traceparent is not None:
            self._fields["traceparent"] = facts.traceparent

    def emit(self, level: object, format: str | None = None, **kwargs: object) -> None:  # noqa: A002
        """See `twisted.logger.Logger`."""
        super().emit(level, format, **(self._fields | kwargs))  # type: ignore[arg-type]
