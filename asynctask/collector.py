"""The garbage collector, tamed: it does not look at a million waiting tasks again and again.

What lives is frozen at short intervals, after a look at it where it is little, so that the collector, which
looks at everything that is young once there is enough of it, has nothing to look at: the life of a task
that succeeds makes no cycles. What is frozen in a cycle would stay for ever; so everything is thawed and
collected when there is something to be found and few tasks are in flight, for the time that it takes grows
with them.

While it is quiet nothing is frozen but what lived before, and the rest is collected every second: an error
that nobody waits for is told by its end, and must not wait for a day with much to do.
"""

import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import suppress
from math import inf, isfinite
from pathlib import Path
from resource import getpagesize
from time import perf_counter
from typing import ClassVar, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from asynctask.timers import call_off

FREEZE: Final = 0.05
"""Seconds between two freezes: what is made meanwhile stays far below the threshold."""

THRESHOLD: Final = 200_000
"""New objects at which Python collects by itself, should the loop be held up."""

QUIET: Final = 500
"""Tasks in flight with which it may be quiet."""

YOUNG: Final = 10_000
"""New objects that live at which it is not: to look at them takes some 1 ms."""

LITTLE: Final = 2_000
"""New objects that live, less the old ones that are gone, which are looked at before they are frozen: what
Twisted and Werkzeug leave in cycles, of each GET of a task, would stay while many tasks are in flight."""

RARELY: Final = 200
"""So many times as long as such a look takes none is made after it."""

TOO_LONG: Final = 0.002
"""Seconds that such a look may take; with what it has left the next one would take longer."""

LOOK: Final = 60.0
"""Seconds between two looks at what was frozen."""

LAST_LOOK: Final = 600.0
"""Seconds after which it is collected, however little it may be."""

LARGE: Final = 1_000_000
"""Frozen objects with which that is not done: it takes 0.2 s."""

LOOK_AT_MEMORY: Final = 1.0
"""Seconds between two looks at the memory: a few objects may hold any number of bytes."""

REST: Final = 5.0
"""Seconds between two collections at least, should memory come and go all the time."""

FEW: Final = 5_000
"""Tasks in flight with which a collection takes less than 0.1 s. With more, not even the frozen objects are
counted, which takes a second of a million tasks."""

OF_A_TASK: Final = 40
"""Objects that a task in flight has, at most."""

WORTH_IT: Final = 100_000
"""Frozen objects without a task for which a collection is worth its time: some 20 MB."""

BYTES_OF_A_TASK: Final = 8_000
"""Memory of a task in flight, at most, but for what its handler keeps."""

MUCH: Final = 200_000_000
"""Bytes by which the process grows beyond few tasks before a collection is worth its time."""

TOO_MUCH: Final = 2_000_000_000
"""The same before it is worth whatever time it takes; or a quarter of the memory, where that is less."""


MANY_DESCRIPTORS: Final = 100
"""More of them than the last collection has left that make one worth its time: a traceback in a cycle keeps
the sockets of its handler, and a process may have a thousand."""


def resident() -> int:
    """Bytes of memory that this process has; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * getpagesize()
    except OSError:
        return 0


def descriptors() -> float:
    """The lowest free descriptor, about as many as are open for long; infinite where none is to be had."""
    try:
        lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return inf
    os.close(lowest)
    return lowest


def memory() -> int:
    """Bytes of memory that this process may have: the machine's, or its control group's."""
    found = os.sysconf("SC_PHYS_PAGES") * getpagesize()
    with suppress(OSError, ValueError):  # "max" is no number
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def trim() -> None:
    """Give free memory back to the system, where its library can (``malloc_trim(3)``).

    What is only kept for later would count as what lives.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Collector:
    """Freezes and collects.

    :param in_flight: how many attempts are under way.
    :param resident: bytes of memory that the process has.
    :param descriptors: about how many descriptors it has.
    :param trim: gives free memory back to the system.
    """

    _started: ClassVar[list["Collector"]] = []
    _before: ClassVar[tuple[int, int, int]]

    def __init__(
        self,
        clock: IReactorTime,
        in_flight: Callable[[], int],
        resident: Callable[[], int] = resident,
        descriptors: Callable[[], float] = descriptors,
        trim: Callable[[], object] = trim,
    ) -> None:
        self._clock = clock
        self._in_flight = in_flight
        self._resident = resident
        self._descriptors = descriptors
        self._trim = trim
        self._collected_at = 0.0
        self._quiet_from = 0.0
        self._rests_until = 0.0
        self._has_frozen = False
        self._kept = 0
        self._kept_bytes = 0
        self._kept_descriptors = 0.0
        self._too_much = min(TOO_MUCH, memory() // 4)
        self._frozen: IDelayedCall | None = None
        self._looked: IDelayedCall | None = None
        self._looked_at_memory: IDelayedCall | None = None

    def start(self) -> None:
        """From now on the collector is ours."""
        if not self._started:  # several services may be in one program
            Collector._before = gc.get_threshold()
        self._started.append(self)
        gc.set_threshold(THRESHOLD, *self._before[1:])
        gc.freeze()
        self._keep()
        self._collected_at = self._clock.seconds() - REST
        self._quiet_from = self._clock.seconds()
        self._frozen = self._clock.callLater(FREEZE, self._freeze)
        self._looked = self._clock.callLater(LOOK, self._look)
        self._looked_at_memory = self._clock.callLater(LOOK_AT_MEMORY, self._look_at_memory)

    def stop(self) -> None:
        """Leave it as it was, unless another service needs it."""
        for call in (self._frozen, self._looked, self._looked_at_memory):
            call_off(call)
        if self in self._started:
            self._started.remove(self)
            self._collect_if_quiet()
            if not self._started:
                gc.unfreeze()
                gc.set_threshold(*self._before)

    def _freeze(self) -> None:
        self._frozen = self._clock.callLater(FREEZE, self._freeze)
        if self._is_quiet():
            if gc.get_count()[0] < YOUNG:
                return
            self._quiet_from = self._clock.seconds() + LOOK
        self._collect_if_little()
        gc.freeze()
        self._has_frozen = True

    def _collect_if_little(self) -> None:
        if self._clock.seconds() >= self._rests_until and gc.get_count()[0] < LITTLE:
            began = perf_counter()
            gc.collect(0)
            self._rests_until = self._clock.seconds() + RARELY * (perf_counter() - began)

    def _is_quiet(self) -> bool:
        return self._in_flight() <= QUIET and self._clock.seconds() >= self._quiet_from

    def _collect_if_quiet(self) -> None:
        if self._is_quiet():
            began = perf_counter()
            gc.collect()
            if perf_counter() - began > TOO_LONG:
                self._quiet_from = self._clock.seconds() + LOOK

    def _look(self) -> None:
        self._looked = self._clock.callLater(LOOK, self._look)
        tasks = self._in_flight()
        if tasks > FEW:
            return
        frozen = gc.get_freeze_count()
        is_old = self._has_frozen and self._clock.seconds() - self._collected_at >= LAST_LOOK
        if frozen - tasks * OF_A_TASK - self._kept > WORTH_IT or (is_old and frozen < LARGE):
            self._collect()

    def _look_at_memory(self) -> None:
        self._looked_at_memory = self._clock.callLater(LOOK_AT_MEMORY, self._look_at_memory)
        self._collect_if_quiet()
        tasks = self._in_flight()
        grown = self._resident() - tasks * BYTES_OF_A_TASK - self._kept_bytes
        if tasks > FEW:
            worth_it = grown > self._too_much
        else:
            opened = self._descriptors() - self._kept_descriptors
            worth_it = grown > min(MUCH, self._too_much) or opened > MANY_DESCRIPTORS
        if worth_it and self._clock.seconds() - self._collected_at >= REST:
            self._collect()

    def _collect(self) -> None:
        self._collected_at = self._clock.seconds()
        self._has_frozen = False
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._trim()
        self._keep()

    def _keep(self) -> None:
        """What lives now is what the looks compare with."""
        self._kept = gc.get_freeze_count()
        self._kept_bytes = self._resident() - self._in_flight() * BYTES_OF_A_TASK
        if isfinite(found := self._descriptors()):
            self._kept_descriptors = found
