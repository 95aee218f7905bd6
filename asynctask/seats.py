"""The free seats: where `asynctask.acceptance` and the runner meet.

The former asks for a seat before the commit that accepts a task; the runner takes it over with
the task; a failed commit gives it back.
"""

from collections.abc import Callable, Mapping
from typing import Final

from asynctask.registry import Kind

REACTOR: Final = 1_000_000
"""Attempts at once on the reactor, and on the asyncio loop: each takes some KiB."""

THREADS: Final = 32
"""Attempts at once in threads: they wait more than they count, or they belong into processes."""

DEFAULT: Final = {"reactor": REACTOR, "asyncio": REACTOR, "thread": THREADS, "process": 2}
"""Attempts at once in each place, where nothing else is asked for."""


class Seats:
    """How many attempts may still begin here, in each place and of each kind.

    :param places: attempts at once in each place; 0 only accepts.
    :ivar draining: whether the service ends, and starts nothing more.
    :ivar asked: for how many new tasks a seat was asked for.
    :ivar shared: whether other processes run tasks of the same store.
    :ivar closed: tells whether a place takes no more tasks at all.
    :ivar behind: tells whether the store has to write ends first, before more tasks begin.
    :ivar freed: is told of a place where seats were given back for tasks that were not kept.
    """

    def __init__(self, places: Mapping[str, int]) -> None:
        self.draining = False
        self.shared = False
        self.asked = 0
        self.closed: Callable[[str], bool] = lambda _place: False
        self.behind: Callable[[], bool] = lambda: False
        self.freed: Callable[[str], object] = lambda _place: None
        self._free = dict(places)
        self._taken: dict[str, int] = {}
        self._quiet: set[str] = set()
        """The kinds of which no due task waits in the store, as far as is known."""
        self._turns: dict[str, list[str]] = {}

    def free(self, kind: Kind) -> int:
        """How many attempts of this kind may begin now."""
        free = self._free[kind.place]
        for limit in (kind.concurrency, kind.concurrency_total):
            if limit is not None:
                free = min(free, limit - self._taken.get(kind.name, 0))
        return free if free > 0 else 0

    def free_in(self, place: str) -> int:
        """How many attempts of whatever kind may begin in this place now."""
        return 0 if self.draining or self.closed(place) else max(0, self._free[place])

    def take(self, kind: Kind) -> bool:
        """Take a seat for a new task, unless an older one of its kind waits for one."""
        self.asked += 1
        if self.draining or self.waits(kind.name) or not self.free(kind) or self.behind():
            return False
        if self.shared and kind.concurrency_total is not None:
            return False  # only the store knows how many run elsewhere
        self.reserve(kind, 1)
        return True

    def reserve(self, kind: Kind, seats: int) -> None:
        """Take seats, which must be free."""
        self._free[kind.place] -= seats
        self._taken[kind.name] = self._taken.get(kind.name, 0) + seats

    def give_back(self, kind: Kind, seats: int = 1) -> None:
        """Seats are free again."""
        self.reserve(kind, -seats)

    def waits(self, name: str) -> bool:
        """Whether due tasks of this kind may wait in the store; before the first look they may."""
        return name not in self._quiet

    def note_waiting(self, name: str, waiting: bool) -> None:
        """What the store knows of due tasks of this kind."""
        if waiting:
            self._quiet.discard(name)
        else:
            self._quiet.add(name)

    def share(self, kind: Kind, of: Mapping[str, Kind]) -> int:
        """The free seats of a place, shared among the kinds that wait for them.

        :param of: all kinds.
        """
        free = self.free(kind)
        if not free:  # as for most of many kinds when one seat was given back
            return 0
        waiting = sum(1 for other in of.values() if other.place == kind.place and self.waits(other.name))
        return min(free, max(1, self._free[kind.place] // max(1, waiting)))

    def next_in(self, place: str, of: Mapping[str, Kind]) -> list[Kind]:
        """The kinds that wait for a seat in this place and may have one, the one whose turn it is first."""
        if of.keys() <= self._quiet:  # as it mostly is when an attempt ends
            return []
        turns = self._turns.get(place)
        if turns is None:
            turns = self._turns[place] = [kind.name for kind in of.values() if kind.place == place]
        # One whose own seats are all taken has no turn, or whoever comes after it would have two.
        waiting = [of[name] for name in turns if self.waits(name) and self.free(of[name])]
        if waiting:
            turns.remove(waiting[0].name)
            turns.append(waiting[0].name)
        return waiting
