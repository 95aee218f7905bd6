"""A store that many processes share: what the others do reaches those here who wait for it."""

from collections.abc import Callable, Collection, Sequence
from math import ceil
from time import monotonic
from typing import Final, Protocol

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask.heartbeat import Heartbeat
from asynctask.model import News, Progress, Task
from asynctask.pgserver import Server
from asynctask.polling import POLL, Poller, Seen
from asynctask.postgres import Postgres
from asynctask.problems import Unavailable

log = Logger(namespace="asynctask.store")

COMMITS: Final = 200
"""Commits of others that are read at once."""

HEARD: Final = 2_000
"""Attempts of others whose progress is asked for at each poll, for those here who follow them."""

COUNT_EVERY: Final = 30
"""Polls at most between two counts of the tasks that have not ended: others accept and end some of them."""

COUNT_PART: Final = 0.01
"""Part of the time that may be spent with counting: few tasks are counted at each poll."""

SETTLE_AGAIN: Final = 5
"""Polls until what processes have left is looked at again, where that has failed: it may be locked."""

STRAYS: Final = 1_000
"""Strays that are let go of at once."""


class Store(Protocol):
    """What is needed of the store."""

    seq: int
    published: Callable[[int, Sequence[News]], None]
    cancelling: Callable[[Sequence[Task]], None]
    due: Callable[[Collection[str]], None]
    gone: Callable[[], object]
    lost: Callable[[], None]
    timed: Callable[[float, float], float]
    followed: Callable[[], bool]
    watched: Callable[[], Collection[str] | None]
    progressed: Callable[[Task, Progress], None]

    def get(self, task_id: str) -> Deferred[Task | None]:
        """See `asynctask.istore.IStore`."""

    def events(self, seq: int, limit: int) -> Deferred[Sequence[tuple[int, list[News]]] | None]:
        """See `asynctask.istore.IStore`."""

    def unread(self) -> None:
        """Commits that were read may not be there any more."""

    def recount(self) -> Deferred[None]:
        """Count the tasks that have not ended."""

    def keep_progress(self) -> Deferred[None]:
        """Let the others know how far our attempts are."""

    def elsewhere(self, task_ids: Collection[str] | None, limit: int) -> Deferred[list[Task]]:
        """Tasks that run in other processes, of these or of all, and have told how far they are."""

    def orphaned(self) -> None:
        """Processes have gone, and may have left tasks."""

    def settle(self) -> Deferred[bool]:
        """Charge and settle what they left; tells whether there may be more."""

    def beat(self, write: Callable[[Connection], object]) -> Deferred[None]:
        """Show in a transaction that this process is alive."""

    def strays(self) -> Deferred[list[tuple[str, int]]]:
        """Attempts that run here by the database, and do not."""

    def release(self, strays: Sequence[tuple[str, int]]) -> Deferred[None]:
        """Let go of some of them."""


class Sharing:
    """What the looks of the `Poller` mean for the store, in the reactor's thread."""

    def __init__(
        self,
        store: Store,
        server: Server,
        database: Postgres,
        kinds: Sequence[str],
        now: Callable[[], float],
        from_thread: Callable[..., object],
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._next = store.seq + 1
        self._goal = store.seq
        self._behind: int | None = None
        self._reading = False
        self._processes: frozenset[str] | None = None
        self._cancelled: frozenset[tuple[str, int]] = frozenset()
        self._heard: dict[str, tuple[int, Progress]] = {}
        self._polls = 0
        self._count_at = 0
        self._stopped = False
        self._settle_at: int | None = None
        self._may_have_strays = False
        self._database = database
        database.lost = lambda owner: from_thread(self._lost, owner)
        self._poller = Poller(server, database, kinds, now, lambda seen: from_thread(self._look, seen))
        self._heartbeat = Heartbeat(
            server,
            database,
            lambda: from_thread(self._find_out),
            lambda: from_thread(self._poller.hint),
            lambda theirs, ours: from_thread(store.timed, theirs, ours),
        )

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        threads = (self._poller, self._heartbeat)
        for thread in threads:  # before any is waited for
            thread.end()
        for thread in threads:
            thread.join()

    def committed(self, seq: int, news: Sequence[News]) -> None:
        """A commit of our own has changed tasks."""
        self._poller.hint()
        if seq == self._next and not self._reading:
            self._next = seq + 1
            self._goal = max(self._goal, seq)
            self._store.published(seq, news)
        else:
            self._reach(seq)

    def _look(self, seen: Seen) -> None:
        if self._stopped:
            return
        # Before the first look, some may have gone that a claim has still found.
        gone = self._processes is None or not self._processes <= seen.processes
        self._processes = seen.processes
        if gone:
            self._settle_at = self._polls
        if self._settle_at is not None and self._polls >= self._settle_at:
            self._settle_at = None
            self._start(self._settle)
        if due := [kind for kind in self._kinds if kind in seen.due]:
            self._store.due(due)
        if seen.polled:
            # Once more: its attempt may only have begun since, or the task could not be read.
            self._cancelled = frozenset()
        for task_id, attempt in seen.cancelled - self._cancelled:
            self._start(self._cancel, task_id, attempt)
        self._cancelled = seen.cancelled
        self._reach(seen.seq)
        self._look_behind(seen.seq)
        if seen.polled:
            self._start(self._store.keep_progress)
            self._start(self._hear_progress)
            if self._may_have_strays:
                self._start(self._release_strays)
        self._polls += seen.polled
        if self._polls >= self._count_at:
            self._count_at = self._polls + COUNT_EVERY
            self._start(self._count)

    async def _settle(self) -> None:
        """Charge and settle what processes have left, whether or not there is a free seat for it.

        Only then go on with the rest: what has killed its third process must not begin again.
        """
        try:
            while await self._store.settle():
                pass
        except Exception:
            self._settle_at = self._polls + SETTLE_AGAIN
            raise
        self._store.orphaned()
        self._store.due(self._kinds)
        self._store.gone()

    async def _release_strays(self) -> None:
        """Let go of attempts whose ends were lost by a server that took over without them."""
        strays = await self._store.strays()
        self._may_have_strays = bool(strays)
        if strays:
            log.warn("The database has lost how attempts ended; they are made again", attempts=len(strays))
            await self._store.release(strays[:STRAYS])

    async def _cancel(self, task_id: str, attempt: int) -> None:
        task = await self._store.get(task_id)
        if task is not None and task.attempt == attempt:
            self._store.cancelling([task])

    async def _hear_progress(self) -> None:
        """Tell those here who follow tasks how far they are elsewhere, where that is new."""
        followed = self._store.watched()
        nobody = followed is not None and not followed
        found = [] if nobody else await self._store.elsewhere(followed, HEARD)
        before, self._heard = self._heard, {}
        for task in found:
            if task.progress is not None:
                told = self._heard[task.task_id] = (task.attempt, task.progress)
                if before.get(task.task_id) != told:
                    self._store.progressed(task, task.progress)

    async def _count(self) -> None:
        polls, began = self._polls, monotonic()
        await self._store.recount()
        pause = (monotonic() - began) / COUNT_PART / POLL
        self._count_at = polls + max(1, min(ceil(pause), COUNT_EVERY))

    def _reach(self, seq: int) -> None:
        """Tell what was committed up to there."""
        self._goal = max(self._goal, seq)
        if not self._reading and self._next <= self._goal:
            if not self._store.followed():
                self._next = self._goal + 1
                self._store.published(self._goal, [])
                return
            self._reading = True
            self._start(self._read)

    def _look_behind(self, seq: int) -> None:
        """A look that lacks what was told here may be an old one; a second one in a row is looked into."""
        told = self._next
        if seq + 1 < told and self._behind == told and not self._reading:
            self._start(self._go_back, seq, told)
        self._behind = told if seq + 1 < told else None

    async def _go_back(self, seq: int, told: int) -> None:
        """A standby took over that had not all commits: their numbers come a second time."""
        is_there = await self._store.events(told, 1) is not None
        if not is_there and self._next == told and not self._reading:
            log.warn("The database was set back, and has lost some changes", seq=seq, told=told - 1)
            self._next, self._goal = seq + 1, seq
            self._may_have_strays = True
            self._store.unread()
            self._store.published(seq, [])

    async def _read(self) -> None:
        try:
            while self._next <= self._goal:
                commits = await self._store.events(self._next, COMMITS)
                if not commits:  # forgotten already
                    self._next = self._goal + 1
                    self._store.published(self._goal, [])
                    return
                for seq, news in commits:
                    self._next = seq + 1
                    self._store.published(seq, news)
        finally:
            self._reading = False

    def _lost(self, owner: str) -> None:
        if not self._stopped:
            log.error(
                "The other processes took this one for dead; its attempts are stopped",
                owner=owner,
                now=self._database.owner,
            )
            self._store.lost()

    def _find_out(self) -> None:
        """The heartbeat has met trouble: try a transaction, which tells whether the store is healthy."""
        if not self._stopped:
            self._may_have_strays = True
            self._start(self._store.beat, self._database.beat)

    def _start(self, do: Callable[..., object], *given: object) -> None:
        maybeDeferred(do, *given).addErrback(_failed)


def _failed(failure: Failure) -> None:
    """The next look comes soon."""
    if not failure.check(Unavailable):
        log.failure("This should not happen", failure)
