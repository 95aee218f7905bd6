"""Finds due tasks in the store as seats become free: those that waited longest first, each kind in turn."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask.istore import Claim, IStore
from asynctask.model import Task
from asynctask.problems import Unavailable
from asynctask.registry import Kind
from asynctask.seats import Seats
from asynctask.timers import call_off, no_later

log = Logger(namespace="asynctask.claims")

BATCH: Final = 50
"""Tasks of one claim: enough to be fast."""

FEW: Final = 12
"""Tasks of one claim while POSTs come, since one may have to wait for its transaction. And as many as came
since the last claim, or those that wait would become ever more; up to `MANY`."""

MANY: Final = 200
"""Tasks of one claim at most: more than come between two transactions of a service that is busy."""

QUIET: Final = 1.0
"""Seconds without a POST after which none is expected soon."""

LOOK_AGAIN: Final = 60.0
"""Seconds after which due tasks are looked for at the latest, since the wall clock may step."""

PAUSE: Final = 0.02
"""Seconds until due tasks are looked for again that another process may be about to take."""

BEHIND: Final = 0.1
"""Seconds until due tasks are looked for again when the store was behind with what has ended."""

AFTER_FAILURE: Final = 1.0
"""Seconds until due tasks are looked for again when the store failed, or too many threads hang."""


class Claims:
    """Looks for due tasks when there are seats, and when the next one is due.

    :param clock: monotonic.
    :param now: wall time, seconds since the epoch.
    :param idle: called whenever no look is under way any more.
    """

    def __init__(
        self,
        store: IStore,
        seats: Seats,
        kinds: Mapping[str, Kind],
        clock: IReactorTime,
        now: Callable[[], float],
        idle: Callable[[], None],
    ) -> None:
        self._store = store
        self._seats = seats
        self._kinds = kinds
        self._clock = clock
        self._now = now
        self._idle = idle
        self._asked = 0
        self._asked_at = -QUIET
        self._next: dict[str, IDelayedCall] = {}
        self.looking: set[str] = set()
        self._again: set[str] = set()
        self._full: set[str] = set()

    def start(self) -> None:
        """Look for everything that an earlier process left."""
        for kind in self._kinds.values():
            self._look(kind)

    def stop(self) -> None:
        """Look for nothing more."""
        for planned in self._next.values():
            call_off(planned)

    def wait(self, tasks: Sequence[Task]) -> None:
        """Look for these tasks when they are due."""
        for task in tasks:
            kind = self._kinds.get(task.kind)
            if kind is None:
                continue
            if task.run_at <= self._now():
                self._look_due(kind)
            else:
                self._look_at(kind, task.run_at)

    def look(self, kinds: Collection[str]) -> None:
        """Look for due tasks of these kinds: others may have left them, or a shared seat is free."""
        for name in kinds:
            self._look_due(self._kinds[name])

    def seat_is_free(self, place: str) -> None:
        """Give seats to the kinds that wait for one in this place, in turn."""
        self._share_out(place, but_for=())

    def _share_out(self, place: str, but_for: Collection[str]) -> None:
        for kind in self._seats.next_in(place, self._kinds):
            if kind.name not in but_for:
                self._look(kind)

    def _look_due(self, kind: Kind) -> None:
        """Due tasks wait: take them as soon as there are seats."""
        self._seats.note_waiting(kind.name, True)
        self._full.discard(kind.name)
        if kind.name in self.looking:
            self._again.add(kind.name)  # what is under way may have looked before they came
        self._look(kind)

    def _look(self, kind: Kind) -> None:
        """Claim as many due tasks as this kind may have seats, unless that is under way."""
        # First what costs nothing: each of many kinds asks for all others, and a share looks at all again.
        if self._seats.draining or kind.name in self.looking:
            return
        seats = self._seats.share(kind, self._kinds)
        if seats <= 0:
            return
        if self._seats.closed(kind.place):
            self._look_at(kind, self._now() + AFTER_FAILURE)
            return
        if self._seats.behind():
            self._look_at(kind, self._now() + BEHIND)
            return
        seats = min(seats, self._batch())
        self.looking.add(kind.name)
        self._seats.reserve(kind, seats)
        found = maybeDeferred(self._store.claim, kind.name, seats, self._now(), kind.concurrency_total)
        found.addCallbacks(
            self._found, self._not_found, callbackArgs=(kind, seats), errbackArgs=(kind, seats)
        )
        found.addErrback(lambda failure: log.failure("This should not happen", failure))

    def _batch(self) -> int:
        """How many tasks to claim at most."""
        new = self._seats.asked - self._asked
        if new:
            self._asked = self._seats.asked
            self._asked_at = self._clock.seconds()
        is_quiet = self._clock.seconds() - self._asked_at >= QUIET
        return BATCH if is_quiet else min(FEW + new, MANY)

    def _found(self, claim: Claim, kind: Kind, seats: int) -> None:
        more = claim.more or kind.name in self._again
        self.looking.discard(kind.name)
        self._again.discard(kind.name)
        self._seats.note_waiting(kind.name, more or claim.full)
        if free := seats - len(claim.tasks):
            self._seats.give_back(kind, free)
        if claim.full:
            self._full.add(kind.name)
        else:
            self._full.discard(kind.name)
        if more:
            self._look(kind)
        elif claim.next_due is not None:
            # What is due and cannot be had, another process is just about to take.
            self._look_at(kind, max(claim.next_due, self._now() + (0 if claim.tasks else PAUSE)))
        if free:
            # Those that are full wait for an end, here or, as the other processes tell, elsewhere.
            self._share_out(kind.place, self._full)
        self._idle()

    def _not_found(self, failure: Failure, kind: Kind, seats: int) -> None:
        """Try again in a while; that the store fails, it has logged itself."""
        if not failure.check(Unavailable):
            log.failure("This should not happen", failure)
        self.looking.discard(kind.name)
        self._again.discard(kind.name)
        self._seats.note_waiting(kind.name, True)
        self._seats.give_back(kind, seats)
        for waiting in (kind, *self._seats.next_in(kind.place, self._kinds)):
            # The others too: they may have found no seat, since this look had it.
            self._look_at(waiting, self._now() + AFTER_FAILURE)
        self._idle()

    def _look_at(self, kind: Kind, when: float) -> None:
        """Look for due tasks then, or before."""
        if self._seats.draining:
            return
        wait = min(max(0.0, when - self._now()), LOOK_AGAIN)
        planned = self._next.get(kind.name)
        self._next[kind.name] = no_later(planned, self._clock, wait, self._look_due, kind)
