"""A wheel whose time is the test's."""

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from asynctask.timers import Wheel


class WheelClock(Clock):
    """A clock that the test moves, and whose calls are a wheel's.

    :ivar below: what the wheel takes for the reactor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.below = Clock()
        self.wheel = Wheel(self.below, self.below.seconds)

    @property
    def rightNow(self) -> float:
        return self.below.rightNow

    @rightNow.setter
    def rightNow(self, seconds: float) -> None:
        self.below.rightNow = seconds

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        return self.wheel.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return self.wheel.getDelayedCalls()

    def advance(self, amount: float) -> None:
        self.below.advance(amount)
