"""Those who follow tasks over HTTP: each is an answer that goes on (Server-Sent Events)."""

from collections.abc import Coroutine, Sequence
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from asynctask import changes, sse
from asynctask.deadlines import is_ending, unread
from asynctask.feed import CHUNK, Feed
from asynctask.istore import IStore
from asynctask.model import ENDED, RUNNING, Deleted, News, Task
from asynctask.problems import Unavailable
from asynctask.sse import Filter, Position, Progressed

log = Logger(namespace="asynctask.feed")

PATIENCE: Final = 15.0
"""Seconds for which a follower may read nothing, until he is dropped."""

UNSENT: Final = 32 * 1024
"""Bytes that the system may hold back for a follower; left to itself it holds megabytes for each."""

COMMITS: Final = 50
"""Commits that are read at once for one who was away."""

EVENT_STREAM: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
"""The head of such an answer; the last line keeps nginx from collecting it first."""

ENDING_STREAM: Final = EVENT_STREAM | {"Connection": "close"}
"""That of one with a last event: there are clients to which only a connection's end is the end."""

TRY_AGAIN: Final = 1.0
"""Seconds until the store is asked again when it could not be read."""


@implementer(IPushProducer)
class Follower:
    """An answer that goes on until there is nothing more to be told, or nobody there.

    :ivar over: fires at its end; the connection is not closed by us.
    """

    def __init__(self, request: Request, feed: Feed, clock: IReactorTime, task_id: str | None) -> None:
        self.over: Deferred[None] = Deferred(lambda _: self.leave())
        self._request = request
        self._feed = feed
        self._clock = clock
        self._task_id = task_id
        self._paused: float | None = None
        self._unread = 0
        self._retry: IDelayedCall | None = None
        self._commented = clock.seconds()
        self._left = False
        self._reading = False

    def start(self, position: str) -> int:
        """Begin the answer.

        :param position: from where it tells; for who is cut off before the first event.
        :returns: where in the feed's ring that is.
        """
        self._request.setHeader("Last-Event-ID", position)
        at = self._feed.join(self, self._task_id)
        self._bound_buffers()
        self._request.registerProducer(self, True)
        self._comment()
        return at

    def _bound_buffers(self) -> None:
        transport: Any = self._request.transport
        connection = getattr(transport, "socket", None)
        if connection is not None:
            connection.setsockopt(SOL_SOCKET, SO_SNDBUF, UNSENT)
            transport.bufferSize = CHUNK

    def write(self, data: bytes) -> None:
        """Send something."""
        self._request.write(data)

    def _comment(self) -> None:
        self._commented = self._clock.seconds()
        self.write(sse.COMMENT)

    @property
    def ready(self) -> bool:
        """Whether something may be sent now."""
        return self._paused is None and not self._left and not self._reading and self._retry is None

    def leave(self) -> None:
        """Tell nothing more."""
        if not self._left:
            self._left = True
            if self._retry is not None:
                self._retry.cancel()
            self._feed.leave(self, self._task_id)

    def reset(self) -> None:
        """See `asynctask.feed.Follower`; asked of those who follow all tasks."""

    def end(self) -> None:
        """There is nothing more to be told."""
        if not self._left:
            self.leave()
            self._request.unregisterProducer()
            self.over.callback(None)

    def beat(self) -> None:
        """Drop who does not read; let others know that we are there."""
        if self._left:
            return
        now = self._clock.seconds()
        transport: Any = self._request.transport
        if is_ending(transport):
            self.leave()
            transport.abortConnection()
        elif self._paused is not None:
            before, self._unread = self._unread, unread(transport)
            if self._unread < before:  # who reads slowly reads all the same
                self._paused = now
            elif now - self._paused >= PATIENCE:
                client = getattr(self._request.client, "host", None)
                log.info("A follower does not read and was dropped", client=client, task_id=self._task_id)
                self.leave()
                transport.abortConnection()
        elif now - self._commented >= sse.COMMENT_EVERY:
            self._comment()

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        if self._paused is None:
            self._paused = self._clock.seconds()
            self._unread = 0

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._paused = None
        if self.ready:
            self.serve()

    def stopProducing(self) -> None:
        """See `IPushProducer`."""
        self.leave()

    def serve(self) -> None:
        """Send what is new."""
        raise NotImplementedError

    def hear(self, news: News | Progressed) -> None:
        """Something happened to the task that is followed."""
        raise NotImplementedError

    def read(self, reading: Coroutine[Deferred[Any], Any, None]) -> None:
        """Wait for the store, and then go on; what happens meanwhile is told afterwards."""
        self._reading = True

        def done(result: Failure | None) -> None:
            self._reading = False
            if result is None:
                if self.ready:
                    self.serve()
                return
            if not result.check(Unavailable):
                log.failure("Events cannot be told", result)
                self.end()
                return
            if not self._left:
                self._retry = self._clock.callLater(TRY_AGAIN, self._try_again)

        ensureDeferred(reading).addBoth(done)

    def _try_again(self) -> None:
        self._retry = None
        if self.ready:
            self.serve()


class OfAll(Follower):
    """One who follows all tasks, or those of a filter.

    :param position: where to go on; None where that is not known any more.
    """

    def __init__(
        self,
        request: Request,
        feed: Feed,
        store: IStore,
        clock: IReactorTime,
        of: Filter,
        position: Position | None,
    ) -> None:
        super().__init__(request, feed, clock, None)
        self._store = store
        self._filter = of
        self._position = position or feed.now
        self._joined = self.start(sse.position_id(feed.epoch, self._position))
        self._at = self._joined if self._position == feed.now else None
        if position is None:
            self.reset()
        if self._position > feed.now:  # given by another process, or by none
            self.read(self._catch_up())
        else:
            self.serve()

    def reset(self) -> None:
        """Have the client look at the tasks, and go on from here."""
        self._position = self._feed.now
        self._at = self._feed.find(self._position)
        self.write(sse.reset(sse.position_id(self._feed.epoch, self._position)))

    def hear(self, news: News | Progressed) -> None:
        """Is for those who follow one task."""

    def serve(self) -> None:
        """Send what is new, from the ring or, to who is too slow for it, from the store."""
        while self.ready:
            if self._at is None:
                self._at = self._feed.find(self._position)
            read = None if self._at is None else self._feed.read(self._filter, self._at, self._joined)
            if read is None:
                self._at = None
                if self._position.seq <= self._feed.now.seq:
                    self.read(self._catch_up())
                return
            if read.at == self._at:
                return
            self._at, self._position = read.at, read.position
            if read.frames:
                self.write(read.frames)

    async def _catch_up(self) -> None:
        commits = await self._store.events(self._position.seq, COMMITS)
        if self._left:
            return
        if commits is None or self._beyond(commits):
            self.reset()
            return
        for seq, news in commits:
            begin = self._position.index if seq == self._position.seq else 0
            for index, one in enumerate(news[begin:], begin + 1):
                if self._left or self._paused is not None:
                    return
                self._position = Position(seq, index) if index < len(news) else Position(seq + 1)
                if self._filter.passes(one):
                    self.write(sse.event(one, sse.position_id(self._feed.epoch, self._position)))
            self._position = Position(seq + 1)

    def _beyond(self, commits: Sequence[tuple[int, list[News]]]) -> bool:
        """Whether the position is one that we never gave."""
        if not commits:
            return self._position.index > 0
        seq, news = commits[0]
        return seq == self._position.seq and self._position.index > len(news)


class OfOne(Follower):
    """One who follows one task, until it has ended.

    :param told: how many of its changes he knows; None where that is not known any more.
    """

    def __init__(
        self,
        request: Request,
        feed: Feed,
        store: IStore,
        clock: IReactorTime,
        task_id: str,
        told: int | None,
    ) -> None:
        super().__init__(request, feed, clock, task_id)
        self._store = store
        self._of = task_id
        self._told = told
        self._behind = True
        self.start(sse.count_id(task_id, told or 0))
        self.serve()

    def hear(self, news: News | Progressed) -> None:
        """Send it, if it is what comes next; else everything is read again."""
        if not self.ready or self._behind:
            self._behind = self._behind or not isinstance(news, Progressed)
            return
        if isinstance(news, Task):
            self._change(news)
        elif isinstance(news, Progressed):
            self.write(sse.event(news))
        else:
            self._is_gone()

    def _change(self, task: Task) -> None:
        told = self._told or 0
        if task.n == told + 1:
            self._tell(task)
            if task.status in ENDED:
                self.end()
        elif task.n > told:
            self._behind = True
            self.serve()

    def _tell(self, task: Task) -> None:
        self._told = task.n
        self.write(sse.event(task, sse.count_id(self._of, task.n)))

    def _go_on_from(self, told: int) -> None:
        """What was before is not kept."""
        self._told = told
        self.write(sse.reset(sse.count_id(self._of, told)))

    def _is_gone(self) -> None:
        self.write(sse.event(Deleted(self._of, ""), sse.count_id(self._of, (self._told or 0) + 1)))
        self.end()

    def serve(self) -> None:
        """Send what was missed."""
        if self._behind:
            self.read(self._catch_up())

    async def _catch_up(self) -> None:
        self._behind = False
        try:
            task = await self._store.get(self._of)
        except Unavailable:
            self._behind = True
            raise
        if self._left:
            return
        if task is None:
            self._is_gone()
            return
        if self._told is None or self._told > task.n:
            self._go_on_from(task.n)
        for then in changes.past(task):
            if self._paused is not None:
                self._behind = True
                return
            told = self._told or 0
            if then.n > told + 1:
                self._go_on_from(then.n - 1)
            if then.n > told:
                self._tell(then)
        if task.status in ENDED:
            self.end()
        elif task.status is RUNNING and task.progress is not None:
            self.write(sse.event(Progressed(task.task_id, task.kind, task.attempt, task.progress)))
