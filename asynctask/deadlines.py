"""The one timer of all connections: a DelayedCall for each of them would cost more than it is worth."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fcntl import ioctl
from math import inf
from sys import byteorder
from termios import TIOCOUTQ
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.http import datetimeToString

NEVER: Final = inf
"""A deadline that does not come."""

TICK: Final = 0.25
"""Seconds between two looks at all deadlines: ten thousand connections take half a millisecond."""

LONGEST_TICK: Final = 1.0
"""Seconds that count at most, though more have passed since the last look: what clients have sent while the
process was stopped has yet to be read."""

IDLE: Final = 75
"""Seconds that a connection may stay open between requests. Proxies close theirs after 60, and should be
first: a request that meets our end on its way is lost, and none of them may send a POST again."""

STALL: Final = 60
"""Seconds that a request may stop in the middle of its body."""

HEAD_TIME: Final = 10
"""Seconds from the first byte of a head to its last, however they drip."""

BODY_TIME: Final = 300
"""Seconds from the head to the last byte of the body: at 1 MiB, 3.5 KB/s."""

LINGER: Final = 2
"""Seconds for which the rest of a refused request is read and dropped: closing at once would reset the
connection, and the client might never see why."""

LEAVING: Final = 2
"""Seconds that an answer may take once its client sends no more: that may read on, or have left."""

FLUSH: Final = 15
"""Seconds in which some of the last answer has to go out once a connection is to be closed."""


def _layers(transport: Any) -> Iterator[Any]:
    """It, and what is below it: that of TLS has one of TCP there."""
    while transport is not None:
        yield transport
        transport = getattr(transport, "transport", None)


def unsent(transport: Any) -> int:
    """Bytes that were written and that the system has not taken yet; those of TLS wait below it."""
    found = 0
    for layer in _layers(transport):
        found += len(getattr(layer, "dataBuffer", b"")) - getattr(layer, "offset", 0)
        found += getattr(layer, "_tempDataLen", 0)
    return found


def unread(transport: Any) -> int:
    """The same, with what the system has taken and the other end has not: a slow reader takes some of that
    long before there is room for more of ours."""
    found = unsent(transport)
    with suppress(AttributeError, OSError, ValueError):  # it is closed, or no socket
        *_, lowest = _layers(transport)
        found += int.from_bytes(ioctl(lowest.fileno(), TIOCOUTQ, bytes(4)), byteorder)
    return found


def is_ending(transport: Any) -> bool:
    """Whether TLS has ended the connection below it, at its client's word, and all has gone out: what is
    written now goes nowhere, and while there is a producer nobody closes it."""
    *above, lowest = _layers(transport)
    return bool(above) and getattr(lowest, "disconnecting", False) and not unsent(transport)


def close_idle(connections: Iterable[Any]) -> int:
    """Close those on which nothing is being answered; tell on how many something is, or has still to go
    out."""
    busy = 0
    for connection in list(connections):
        if connection.busy:
            busy += 1
        else:
            busy += unsent(connection.transport) > 0
            connection.loseConnection()
    return busy


class Deadlines:
    """Ticks while there is a connection.

    :param clock: any will do: no step of a wall clock moves a deadline.
    :param now: wall time, seconds since the epoch.
    :ivar connections: all that are open; each has a ``deadline``, in the seconds of ``ticked``, and an
        ``expire``.
    :ivar ticked: seconds in which there was a connection, and in which nothing stopped this process; a
        deadline comes up to one `TICK` later.
    :ivar date: the field ``Date`` of answers, as a line, about a second old at most.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float]) -> None:
        self.clock = clock
        self.now = now
        self.connections: set[Any] = set()
        self.ticked = 0.0
        self._last = 0.0
        self.date = b""
        self._timer: IDelayedCall | None = None

    def add(self, connection: Any) -> None:
        """A client has come."""
        self.connections.add(connection)
        if self._timer is None:
            self._last = self.clock.seconds()
            self._tick()

    def remove(self, connection: Any) -> None:
        """A client has gone."""
        self.connections.discard(connection)
        if not self.connections and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self.clock.callLater(TICK, self._tick)
        now = self.clock.seconds()
        self.ticked += min(now - self._last, LONGEST_TICK)
        self._last = now
        self.date = b"Date: %b\r\n" % datetimeToString(self.now())
        if self._overdue():
            # Not now: while something held the reactor, clients may have sent what it reads first.
            self.clock.callLater(0, self._expire)

    def _overdue(self) -> list[Any]:
        return [each for each in self.connections if each.deadline + TICK <= self.ticked]

    def _expire(self) -> None:
        for connection in self._overdue():
            connection.expire()
