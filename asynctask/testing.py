"""A context for the tests of handlers, without any service."""

from typing import Any, Final

from twisted.internet.task import Clock

from asynctask.context import Context, Facts
from asynctask.model import Progress

_TASK_ID: Final = "task_17640072000000q4cmx2h8t6wd0zr5"


class FakeContext(Context):
    """What a test gives a handler as its context.

    :param clock: what the handler waits by, an ``IReactorTime``; if none is given, a
        `twisted.internet.task.Clock` of its own.
    :ivar told: its progress, each with ``step``, ``total`` and ``message``.
    :ivar cancelled: whether it should end; the test sets it.
    """

    __slots__ = ("cancelled", "told")

    cancelled: bool

    def __init__(
        self,
        clock: Any = None,
        *,
        task_id: str = _TASK_ID,
        attempt: int = 1,
        deadline: float | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.told: list[Progress] = []
        self.cancelled = False
        facts = Facts(task_id, "a test", attempt, deadline, traceparent)
        super().__init__(facts, clock or Clock(), self.told.append)

    @property
    def clock(self) -> Any:
        """What the handler waits by, in whatever place it is declared; ``advance`` moves a `Clock`."""
        return super().clock
