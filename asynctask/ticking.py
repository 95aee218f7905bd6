"""The one timer of all connections: a DelayedCall for each of them would cost more than it is worth."""

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.http import datetimeToString

NEVER: Final = 1 << 62
"""A deadline that does not come."""


class Timed(Protocol):
    """What has a deadline, in ticks."""

    deadline: int

    def expire(self) -> None:
        """The deadline is over."""


T = TypeVar("T", bound=Timed)


class Ticking(Generic[T]):
    """Ticks once a second while there is a connection.

    :param clock: any will do: no step of a wall clock moves a deadline.
    :param now: wall time, seconds since the epoch.
    :ivar connections: all that are open.
    :ivar ticks: seconds, roughly, in which there was a connection.
    :ivar date: the field ``Date`` of answers, as a line, about a second old at most.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float]) -> None:
        self.clock = clock
        self.now = now
        self.connections: set[T] = set()
        self.ticks = 0
        self.date = b""
        self._timer: IDelayedCall | None = None

    def add(self, connection: T) -> None:
        """A client has come."""
        self.connections.add(connection)
        if self._timer is None:
            self._tick()

    def remove(self, connection: T) -> None:
        """A client has gone."""
        self.connections.discard(connection)
        if not self.connections and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self.clock.callLater(1, self._tick)
        self.ticks += 1
        self.date = b"Date: %b\r\n" % datetimeToString(self.now())
        for connection in [each for each in self.connections if each.deadline <= self.ticks]:
            connection.expire()
