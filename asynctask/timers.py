"""A timer wheel: a million calls that wait, by a clock that nobody sets, behind one call of the reactor's.

Calls of the same 1/128 of a second share a slot, and those further away a wider one, whose calls are put
into narrower ones before their time. So a call costs the same however many there are, and is moved twice at
most. A slot is sorted only when its time has come.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from math import ceil, inf
from operator import attrgetter
from time import monotonic
from typing import Any, Final

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

log = Logger(namespace="asynctask.timers")

TICKS: Final = 128
"""Slots of a second: a call comes up to 8 ms late, and calls of 8 ms cost the reactor one turn."""

WIDE: Final = 256
"""Ticks of a wide slot, two seconds."""

WIDEST: Final = 65_536
"""Ticks of the widest slots, more than eight minutes: those of a year are 60,000."""

AHEAD: Final = 4
"""How many of its slots a level leaves to the narrower one, so that it is emptied well before its time."""

BUCKET: Final = 682
"""Calls of one dict: what 1,024 places hold, some 0.2 ms to sort, to move, or to grow."""

SHARE: Final = 0.0015
"""Seconds of a turn of the reactor for calls that are due, and as many for those without delay."""

OF_LATENESS: Final = 1 / 16
"""Late calls get this part of their lateness in a turn, where that is more than `SHARE`: else a reactor
that always has something else to do would call ever later."""

MOST: Final = 0.003
"""Seconds of a turn for calls that are late, with which a turn stays below 5 ms."""

LONGEST_SLEEP: Final = 1.0
"""Seconds until the time is looked at again: the reactor's clock may run faster or slower than ours."""

Bucket = dict["Timer", None]
Slot = list[Bucket]

_NOWHERE: Final[Bucket] = {}


@implementer(IDelayedCall)
class Timer:
    """One call that waits."""

    __slots__ = ("_args", "_bucket", "_call", "_kwargs", "_time", "_wheel")

    _bucket: Bucket

    def __init__(
        self,
        wheel: "Wheel",
        time: float,
        call: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object] | None,
    ) -> None:
        self._wheel = wheel
        self._time = time
        # After its end the error of a second one, and no arguments: nothing else is kept.
        self._call: Callable[..., object] = call
        self._args: tuple[object, ...] | None = args
        self._kwargs = kwargs

    def getTime(self) -> float:
        """When it comes, in the seconds of its wheel."""
        return self._time

    def active(self) -> bool:
        """Whether it is still to come."""
        return self._args is not None

    def cancel(self) -> None:
        """Let it never come.

        :raises AlreadyCalled: it has come.
        :raises AlreadyCancelled: it was cancelled.
        """
        self._check()
        bucket = self._bucket
        self._end(AlreadyCancelled)
        if not bucket:
            bucket.clear()  # a dict keeps its room

    def delay(self, secondsLater: float) -> None:
        """Let it come so much later than it would have; a negative number is sooner.

        :raises AlreadyCalled: it has come.
        :raises AlreadyCancelled: it was cancelled.
        """
        self._set(self._time + secondsLater)

    def reset(self, secondsFromNow: float) -> None:
        """Let it come so long after now.

        :raises AlreadyCalled: it has come.
        :raises AlreadyCancelled: it was cancelled.
        """
        self._set(self._wheel.seconds() + secondsFromNow)

    def _set(self, time: float) -> None:
        self._check()
        sooner, self._time = time < self._time, time
        if sooner:  # else it is put right when its old time has come
            self._wheel._put_elsewhere(self, self._wheel.seconds())

    def _check(self) -> None:
        if self._args is None:
            raise self._call()  # type: ignore[misc]

    def _end(self, error: type[Exception]) -> None:
        del self._bucket[self]
        self._bucket, self._call = _NOWHERE, error
        self._args = self._kwargs = None


_BY_TIME: Final = attrgetter("_time")


def call_off(call: IDelayedCall | None) -> None:
    """Let a call, of whatever clock, not come; if there is one, and it is still to come."""
    if call is not None and call.active():
        call.cancel()


def no_later(
    planned: IDelayedCall | None,
    clock: IReactorTime,
    seconds: float,
    call: Callable[..., object],
    *given: object,
) -> IDelayedCall:
    """Have it called after so many seconds, unless it is planned for then or before.

    :param planned: the plan that there was, if there was one; it may be over.
    :returns: the plan that there is.
    """
    if planned is not None and planned.active():
        if planned.getTime() <= clock.seconds() + seconds:
            return planned
        planned.cancel()
    return clock.callLater(seconds, call, *given)


class Slots:
    """Slots by the tick at which each is opened.

    :param width: ticks of a slot.
    :ivar first: the tick of the first one.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.first: float = inf
        self._slots: dict[int, Slot] = {}
        self._ticks: list[int] = []

    def add(self, tick: int, timer: Timer) -> None:
        """Put a call into the slot that is opened then."""
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = [{}]
            heapq.heappush(self._ticks, tick)
            self.first = self._ticks[0]
        _add(slot, timer)

    def take(self) -> Slot:
        """The first slot, which is here no more."""
        tick = heapq.heappop(self._ticks)
        self.first = self._ticks[0] if self._ticks else inf
        return self._slots.pop(tick)

    def take_some(self) -> Bucket:
        """Some calls of the first slot, which is here until it is empty."""
        slot = self._slots[self._ticks[0]]
        some = slot.pop(0)
        if not slot:
            self.take()
        return some

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())


def _add(slot: Slot, timer: Timer) -> None:
    bucket = slot[-1]
    if len(bucket) >= BUCKET:
        bucket = {}
        slot.append(bucket)
    timer._bucket = bucket
    bucket[timer] = None


def _in_order(slot: Slot) -> Iterator[Timer | None]:
    """Its calls in the order of their times; before many some None, each after a moment's work."""
    return iter(sorted(slot[0], key=_BY_TIME)) if len(slot) == 1 else _merged(slot)


def _merged(slot: Slot) -> Iterator[Timer | None]:
    runs: list[list[Timer]] = []
    for bucket in slot:
        runs.append(sorted(bucket, key=_BY_TIME))
        yield None
    yield from heapq.merge(*map(_drained, runs), key=_BY_TIME)


def _drained(run: list[Timer]) -> Iterator[Timer]:
    """Its calls one by one, none of them kept: many would take long to be let go of at once."""
    run.reverse()
    while run:
        yield run.pop()


@implementer(IReactorTime)
class Wheel:
    """Calls later, like the reactor, but by its own clock. For one thread only.

    Calls come in the order of their times, give or take a slot where a time is changed meanwhile; of those
    with the same delay the one that was asked for first comes first.

    :param reactor: calls the wheel.
    :param seconds: a clock that only goes forward.
    """

    def __init__(self, reactor: IReactorTime, seconds: Callable[[], float] = monotonic) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self.seconds = seconds  # type: ignore[method-assign]  # who asks often asks nobody in between
        self._next: IDelayedCall | None = None
        # The tick of that call; below every other where none is needed: while we call, and after the stop.
        self._planned: float = inf
        self._stopped = False
        self._soon: Slot = []
        self._due = Slots(1)
        self._later = (Slots(WIDE), Slots(WIDEST))
        self._opened: Slot = []
        self._opened_at = 0.0
        self._order: Iterator[Timer | None] = iter(())

    def seconds(self) -> float:
        """Seconds since some moment."""
        return self._seconds()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002
        *args: object,
        **kwargs: object,
    ) -> Timer:
        """Call it so many seconds from now.

        :raises ValueError: the delay is negative, infinite or no number.
        """
        if not 0 <= delay < inf:
            raise ValueError(f"A delay is a number of seconds from 0, not {delay}")
        now = self._seconds()
        timer = Timer(self, now + delay, callable, args, kwargs or None)
        if delay:
            self._put(timer, now)
        else:
            if not self._soon:
                self._soon.append({})
            _add(self._soon, timer)
            if self._planned > 0:
                self._plan()
        return timer

    def getDelayedCalls(self) -> Sequence[Timer]:
        """All calls that are still to come."""
        slots = [self._soon, self._opened, *(slot for level in (self._due, *self._later) for slot in level)]
        return [timer for slot in slots for bucket in slot for timer in bucket]

    def wake(self) -> None:
        """Look at the time, should the reactor's clock have been set back, so that it does not call."""
        self._turn()

    def stop(self) -> None:
        """Call nothing any more, and leave nothing with the reactor."""
        self._stopped = True
        self._plan()

    def _put(self, timer: Timer, now: float) -> None:
        tick = ceil(timer._time * TICKS)
        away = tick - now * TICKS
        if away < AHEAD * WIDE:
            self._due.add(tick, timer)
        else:
            level = self._later[away >= AHEAD * WIDEST]
            tick = (tick // level.width - 1) * level.width
            level.add(tick, timer)
        if tick < self._planned:
            self._plan()

    def _put_elsewhere(self, timer: Timer, now: float) -> None:
        del timer._bucket[timer]
        self._put(timer, now)

    def _plan(self) -> None:
        """Set the reactor's one call for what comes next."""
        tick = 0 if self._soon or self._opened else self._first()
        self._planned = -inf if self._stopped else tick
        active = self._next is not None and self._next.active()
        if self._stopped or tick == inf:
            if self._next is not None and active:
                self._next.cancel()
            return
        wait = min(tick / TICKS - self._seconds(), LONGEST_SLEEP) if tick else 0.0
        if wait < 0.0:
            wait = 0.0
        if self._next is not None and active:
            self._next.reset(wait)
        else:
            self._next = self._reactor.callLater(wait, self._turn)

    def _first(self) -> float:
        """The tick of the first slot."""
        wide, widest = self._later
        return min(self._due.first, wide.first, widest.first)

    def _turn(self) -> None:
        """Call what is to be called now, for a few milliseconds."""
        self._planned = -inf
        now = self._seconds()
        if self._soon:
            self._call_soon(now)
        self._call_due(now)
        self._move(now)
        self._plan()

    def _call_soon(self, now: float) -> None:
        """Call what has no delay; what is asked for meanwhile comes in the next turn."""
        until = self._seconds() + SHARE
        for timer in list(self._soon[0]):
            self._call(timer, now)
            if self._seconds() > until:
                break
        if not self._soon[0]:
            del self._soon[0]

    def _call_due(self, now: float) -> None:
        """Call what is due, but nothing before a call that still lies in a wider slot."""
        until = self._seconds() + self._share(now)
        wide, widest = self._later
        wider = min(wide.first + WIDE, widest.first + WIDEST)
        while True:
            for timer in self._order:
                if timer is not None:
                    self._call(timer, self._opened_at)
                if self._seconds() > until:
                    return
            self._opened = []
            if self._due.first > now * TICKS or self._due.first >= wider:
                return
            self._opened_at = self._due.first / TICKS
            self._opened = self._due.take()
            self._order = _in_order(self._opened)

    def _share(self, now: float) -> float:
        """Seconds for what is due: the later it is, the more."""
        first = self._opened_at if self._opened else self._due.first / TICKS
        return min(max(SHARE, (now - first) * OF_LATENESS), MOST)

    def _call(self, timer: Timer, until: float) -> None:
        """Call it, unless it was cancelled or put off while it lay here."""
        args = timer._args
        if args is None:
            return
        if timer._time > until:
            self._put_elsewhere(timer, self._seconds())
            return
        call, kwargs = timer._call, timer._kwargs
        timer._end(AlreadyCalled)
        try:
            if kwargs is None:
                call(*args)
            else:
                call(*args, **kwargs)
        except BaseException:  # as the reactor does
            log.failure("Unexpected error in a delayed call")

    def _move(self, now: float) -> None:
        """Put some calls into narrower slots, well before they are due."""
        if opened := [level for level in self._later if level.first <= now * TICKS]:
            for timer in min(opened, key=lambda level: level.first + level.width).take_some():
                self._put(timer, now)
