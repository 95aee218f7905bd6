"""Who wants to hear of which change. A hint: the truth is in the store.

What is told to all who follow all tasks is kept in one ring, which each of them reads at his own pace;
who is slower than the ring goes on from the store.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from asynctask import sse
from asynctask.changes import listed
from asynctask.model import ENDED, News, Progress, Task
from asynctask.sse import Filter, Position, Progressed
from asynctask.timers import call_off

RING: Final = 20_000
"""Changes that are kept in memory for those who follow: some seconds of a busy service, 20 MB."""

RING_BYTES: Final = 32 * 1024 * 1024
"""About what they may take: the messages of errors and of progress may be long."""

ITEM: Final = 1_000
"""Bytes that a change takes without such a message."""

WRITTEN: Final = 8
"""Bytes that a character of a message takes at most, kept as text and in the event."""

CHUNK: Final = 16 * 1024
"""Bytes that are written to one follower at once: what a thousand of them leave unread fits in memory."""

SERVED: Final = 50
"""Followers that are served in one turn of the reactor: some milliseconds."""

UNHEARD: Final = 20_000
"""Messages that may wait for their turn. With more, progress is left out: the next report says as much."""

BEAT: Final = 1.0
"""Seconds between two looks at who reads and who does not."""


class Follower(Protocol):
    """One who follows tasks."""

    def serve(self) -> None:
        """Read what is new in the ring."""

    def hear(self, news: News | Progressed) -> None:
        """Something happened to the task that is followed."""

    def beat(self) -> None:
        """A second has passed."""

    def reset(self) -> None:
        """Let the client know that it has to look at the tasks."""

    def end(self) -> None:
        """There is nothing more to be told."""


class Item(Struct):
    """Something that happened.

    :ivar after: where a follower is who has read it.
    :ivar size: about how many bytes it takes.
    :ivar frame: the event, made when the first one asks for it.
    """

    news: News | Progressed
    after: Position
    size: int
    frame: bytes = b""


class Read(Struct):
    """What a follower has read: events, and where he is then."""

    frames: bytes
    at: int
    position: Position


class Feed:
    """Tells those who wait for the end of a task, and those who follow one or all.

    :param clock: monotonic.
    :param capacity: changes that are kept for those who follow.
    :ivar epoch: which database it is, see `begin`.
    :ivar now: where a follower is who has read everything.
    """

    def __init__(self, clock: IReactorTime, capacity: int = RING) -> None:
        self._clock = clock
        self._waiting: dict[str, set[Deferred[None]]] = {}
        self._closed = False
        self.epoch = ""
        self.now = Position(1)
        self._capacity = capacity
        self._ring: dict[int, Item] = {}
        self._ring_bytes = 0
        self._first = self._next = 0
        self._all: set[Follower] = set()
        self._one: dict[str, set[Follower]] = {}
        self._served: list[Follower] = []
        self._told: deque[tuple[Follower, News | Progressed]] = deque()
        self._beaten: deque[Follower] = deque()
        self._together: dict[tuple[Filter, int, int, int], Read] = {}
        self._fresh = False
        self._planned: IDelayedCall | None = None
        self._heartbeat: IDelayedCall | None = None

    def begin(self, epoch: str, seq: int) -> None:
        """The store is open.

        :param epoch: which database it is.
        :param seq: the number of its last commit that changed tasks.
        """
        self.epoch, self.now = epoch, Position(seq + 1)

    @property
    def wanted(self) -> bool:
        """Whether anybody follows, or waits."""
        return bool(self._all or self._one or self._waiting)

    def watched(self) -> Collection[str] | None:
        """Which tasks are followed; None for all."""
        return None if self._all else self._one.keys()

    @property
    def followers(self) -> int:
        """How many follow."""
        return len(self._all) + sum(map(len, self._one.values()))

    def ended(self, task_id: str) -> Deferred[None]:
        """Fires when the task ends, or when nobody is to wait any more; may be cancelled.

        Ask for it before reading the task, or its end may be missed.
        """

        def leave(waiter: Deferred[None]) -> None:
            waiters = self._waiting.get(task_id, set())
            waiters.discard(waiter)
            if not waiters:
                self._waiting.pop(task_id, None)

        waiter: Deferred[None] = Deferred(leave)
        if self._closed:
            waiter.callback(None)
            return waiter
        self._waiting.setdefault(task_id, set()).add(waiter)
        return waiter

    def publish(self, seq: int, news: Sequence[News]) -> None:
        """A commit has changed tasks; they are published in the order of their numbers.

        A number that comes again is of a database that was set back: who follows all looks at the tasks.
        """
        if seq != self.now.seq:  # what was between is in the store, and nobody here has read it
            self._next += 1
            self._drop_all()
        was_set_back = seq + 1 < self.now.seq
        self.now = Position(seq + 1)
        if was_set_back:
            for follower in list(self._all):
                follower.reset()
        if self._all:
            for index, one in enumerate(news, 1):
                after = Position(seq, index) if index < len(news) else self.now
                self._keep(listed(one) if isinstance(one, Task) else one, after)
            self._serve_soon()
        if self._one:
            for one in news:
                self._tell(one.task_id, one)
        if self._waiting:
            self._wake([one.task_id for one in news if isinstance(one, Task) and one.status in ENDED])

    def _wake(self, task_ids: Iterable[str]) -> None:
        """These tasks have ended."""
        for task_id in task_ids:
            for waiter in self._waiting.pop(task_id, ()):
                waiter.callback(None)

    def report(self, task: Task, progress: Progress) -> None:
        """A running attempt tells how far it is."""
        if not self._all and task.task_id not in self._one:
            return
        told = Progressed(task.task_id, task.kind, task.attempt, progress)
        self._tell(task.task_id, told)
        if self._all:
            self._keep(told, self.now)
            self._serve_soon()

    def _tell(self, task_id: str, news: News | Progressed) -> None:
        """Tell those who follow this task: some now, and if they are many, the rest in the next turns."""
        followers = self._one.get(task_id, ())
        if isinstance(news, Progressed) and len(self._told) > UNHEARD:
            return
        waits = bool(self._told)
        self._told += [(follower, news) for follower in followers]
        if not waits:
            self._tell_some()

    def _tell_some(self) -> None:
        try:
            for _ in range(min(SERVED, len(self._told))):
                follower, news = self._told.popleft()
                follower.hear(news)
        finally:
            if self._told:
                self._clock.callLater(0, self._tell_some)

    def _keep(self, news: News | Progressed, after: Position) -> None:
        self._fresh = True
        item = self._ring[self._next] = Item(news, after, ITEM + WRITTEN * _message_of(news))
        self._next += 1
        self._ring_bytes += item.size
        while len(self._ring) > self._capacity or self._ring_bytes > RING_BYTES:
            self._ring_bytes -= self._ring.pop(self._first).size
            self._first += 1

    def _drop_all(self) -> None:
        self._ring.clear()
        self._ring_bytes = 0
        self._first = self._next

    def join(self, follower: Follower, task_id: str | None) -> int:
        """Follow one task, or all; tells where in the ring a follower of all begins."""
        if task_id is None:
            self._all.add(follower)
        else:
            self._one.setdefault(task_id, set()).add(follower)
        if self._heartbeat is None:
            self._heartbeat = self._clock.callLater(BEAT, self._beat)
        return self._next

    def leave(self, follower: Follower, task_id: str | None) -> None:
        """Follow no more."""
        if task_id is None:
            self._all.discard(follower)
            if not self._all:  # nothing is kept for nobody
                self._drop_all()
        else:
            followers = self._one.get(task_id, set())
            followers.discard(follower)
            if not followers:
                self._one.pop(task_id, None)

    def find(self, position: Position) -> int | None:
        """Where in the ring that position is, if it reaches so far back."""
        if position == self.now:
            return self._next
        kept = range(self._first, self._next)
        at = bisect_left(kept, position, key=lambda number: self._ring[number].after)
        if at == len(kept) or self._ring[kept[at]].after != position:
            return None
        return kept[at] + 1

    def read(self, of: Filter, at: int, joined: int = 0) -> Read | None:
        """What is new for a follower, about `CHUNK` bytes of it; None where the ring has lost it.

        :param joined: from where on he is told of progress, which nobody is told again.
        """
        if at < self._first:
            return None
        key = (of, at, self._next, max(at, joined))
        read = self._together.get(key)
        if read is None:
            read = self._together[key] = self._read(of, at, joined)
        return read

    def _read(self, of: Filter, at: int, joined: int) -> Read:
        frames: list[bytes] = []
        size, position = 0, self.now
        while at < self._next and size < CHUNK:
            item = self._ring[at]
            at, position = at + 1, item.after
            if of.passes(item.news) and (at > joined or not isinstance(item.news, Progressed)):
                if not item.frame:
                    item.frame = sse.event(item.news, sse.position_id(self.epoch, item.after))
                frames.append(item.frame)
                size += len(item.frame)
        return Read(b"".join(frames), at, position)

    def _serve_soon(self) -> None:
        """Once for all that happens in a turn of the reactor."""
        if self._planned is None:
            self._planned = self._clock.callLater(0, self._serve)

    def _serve(self) -> None:
        """Serve some, and the others in the next turns; then all over again if there is news."""
        self._planned = None
        self._together.clear()
        if not self._served:
            self._served, self._fresh = list(self._all), False
        some, self._served = self._served[:SERVED], self._served[SERVED:]
        for follower in some:
            follower.serve()
        if self._served or self._fresh:
            self._serve_soon()

    def _beat(self) -> None:
        self._beaten += self._everybody()
        self._beat_some()

    def _beat_some(self) -> None:
        self._together.clear()
        self._heartbeat = None
        try:
            for _ in range(min(SERVED, len(self._beaten))):
                self._beaten.popleft().beat()
        finally:
            if self._beaten:
                self._heartbeat = self._clock.callLater(0, self._beat_some)
            elif self.followers:
                self._heartbeat = self._clock.callLater(BEAT, self._beat)

    def _everybody(self) -> list[Follower]:
        return [*self._all, *(one for some in self._one.values() for one in some)]

    def close(self) -> None:
        """Nobody is to wait any more: the service stops."""
        self._closed = True
        self._wake(list(self._waiting))

    def end(self) -> None:
        """Nobody is to follow any more: nothing happens from now on, and what has happened is told."""
        while self._told:
            follower, news = self._told.popleft()
            follower.hear(news)
        for follower in list(self._all):
            follower.serve()
        for follower in self._everybody():
            follower.end()
        for call in (self._heartbeat, self._planned):
            call_off(call)
        self._heartbeat = self._planned = None


def _message_of(news: News | Progressed) -> int:
    """Characters of what it says in words."""
    if isinstance(news, Progressed):
        return len(news.progress.message)
    return len(news.error.message) if isinstance(news, Task) and news.error is not None else 0
