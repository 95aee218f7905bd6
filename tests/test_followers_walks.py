"""Those who follow all tasks, however they pause and are cut off, are told each change once."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from asynctask import sse
from asynctask.feed import Feed
from asynctask.followers import OfAll
from asynctask.model import Deleted, News, Progress, Status, Task
from asynctask.responses import Event
from asynctask.sse import Filter, Position
from asynctask.stream import Events


class Line:
    """A request as far as a follower uses one, whose client reads when it is told to.

    :ivar data: what was written.
    """

    def __init__(self) -> None:
        self.transport = self
        self.data = b""
        self.paused = False
        self.head: dict[str, str] = {}
        self.producer: Any = None

    def setHeader(self, name: str, value: str) -> None:
        self.head[name] = value

    def registerProducer(self, producer: Any, _streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self.data += data

    def abortConnection(self) -> None:
        raise AssertionError("nobody is dropped")

    def pause(self) -> None:
        self.paused = True
        self.producer.pauseProducing()

    def resume(self) -> None:
        self.paused = False
        self.producer.resumeProducing()

    @property
    def events(self) -> list[Event]:
        return [*Events(None).feed(self.data)]

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events if event.id is not None]


class Commits:
    """A store of which only the commits are read; each read is answered when the test says so."""

    def __init__(self) -> None:
        self.all: list[list[News]] = []
        self.reads: list[tuple[int, int, Deferred[Any]]] = []

    def events(self, seq: int, limit: int) -> Deferred[Any]:
        self.reads.append((seq, limit, Deferred()))
        return self.reads[-1][-1]

    def answer(self, number: int) -> None:
        """Answer one of the reads that wait, if there is one."""
        if self.reads:
            seq, limit, read = self.reads.pop(number % len(self.reads))
            if 1 <= seq <= len(self.all) + 1:
                read.callback([*enumerate(self.all, 1)][seq - 1 :][: 1 + number % limit])
            else:
                read.callback(None)


class Client:
    """One who follows all tasks over connections that are cut."""

    def __init__(self, walk: "Walk", of: Filter) -> None:
        self.walk = walk
        self.of = of
        self.heard: list[str] = []
        self.since = sse.position_id(EPOCH, walk.feed.now)
        self.connect(None)

    def connect(self, position: str | None) -> None:
        self.line = Line()
        feed, given = self.walk.feed, feed_position(position, self.walk.feed)
        request: Any = self.line
        store: Any = self.walk.store
        self.follower = OfAll(request, feed, store, self.walk.clock, self.of, given)

    def cut(self, lost: int) -> None:
        """The connection is cut, and so many of the last events have not arrived."""
        self.follower.stopProducing()
        arrived = self.line.ids[: max(0, len(self.line.ids) - lost)]
        position = arrived[-1] if arrived else self.line.head["Last-Event-ID"]
        self.heard += arrived
        self.connect(position)


EPOCH = "0123456789ab"
FILTERS = [
    Filter(),
    Filter("b"),
    Filter(None, (Status.RUNNING,)),
    Filter("a", (Status.FAILED, Status.COMPLETED)),
]
STEPS = ["commit", "commit", "publish", "publish", "skip", "turn", "pause", "resume", "read", "join", "cut"]


def feed_position(text: str | None, feed: Feed) -> Position | None:
    return feed.now if text is None else sse.parse_position(text, EPOCH)


class Walk:
    """A feed, a store in which commits are before they are published, and clients that come, pause and
    are cut off."""

    def __init__(self, capacity: int) -> None:
        self.clock = Clock()
        self.feed = Feed(self.clock, capacity)
        self.feed.begin(EPOCH, 0)
        self.store = Commits()
        self.published = 0
        self.clients: list[Client] = []
        self.tasks = 0

    def take(self, step: str, number: int) -> None:
        if step == "commit":
            self.store.all.append([self.news(number + each) for each in range(1 + number % 3)])
        elif step in ("publish", "skip"):
            self.publish(skips=step == "skip")
        elif step == "turn":
            self.feed.report(Task("t", "t", "ab"[number % 2], Status.RUNNING, 1, 0, 0), Progress(1, 2))
            self.clock.advance(0)
        elif step == "read":
            self.store.answer(number)
        elif step == "join":
            self.clients.append(Client(self, FILTERS[number % len(FILTERS)]))
        elif self.clients:
            client = self.clients[number % len(self.clients)]
            if step == "cut":
                client.cut(number // 2)
            elif (step == "pause") is not client.line.paused:
                getattr(client.line, step)()

    def publish(self, *, skips: bool = False) -> None:
        if self.published < len(self.store.all):
            self.published += 1
            if not skips:
                self.feed.publish(self.published, self.store.all[self.published - 1])

    def news(self, number: int) -> News:
        self.tasks += 1
        if number % 7 == 6:
            return Deleted(str(self.tasks), "ab"[number % 2])
        status = [*Status][number % 6]
        return Task(str(self.tasks), "t", "ab"[number % 2], status, 1, 0, 0)

    def finish(self) -> None:
        """All is published, all read on, and every read is answered."""
        self.take("commit", 0)
        while self.published < len(self.store.all):
            self.publish()
        for client in self.clients:
            if client.line.paused:
                client.line.resume()
        self.clock.advance(0)
        while self.store.reads:
            self.store.answer(2)
            self.clock.advance(0)
        for client in self.clients:
            client.heard += client.line.ids

    def wanted(self, client: Client) -> list[str]:
        """The ids of all that was to be told to a client since it came first."""
        since = sse.parse_position(client.since, EPOCH)
        assert since is not None
        places = []
        for seq, commit in enumerate(self.store.all, 1):
            for index, news in enumerate(commit, 1):
                after = Position(seq, index) if index < len(commit) else Position(seq + 1)
                if after > since and client.of.passes(news):
                    places.append(sse.position_id(EPOCH, after))
        return places


class WalkTests(SynchronousTestCase):
    """Whatever the pauses, the cuts and the size of the ring."""

    @given(st.integers(1, 12), st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 20)), max_size=80))
    def test_every_follower_of_all_is_told_each_change_once_and_in_order(
        self, capacity: int, steps: list[tuple[str, int]]
    ) -> None:
        walk = Walk(capacity)
        walk.take("join", 0)
        for step, number in steps:
            walk.take(step, number)
        walk.finish()
        for client in walk.clients:
            self.assertEqual(client.heard, walk.wanted(client))
            self.assertNotIn("reset", [event.type for event in client.line.events])
