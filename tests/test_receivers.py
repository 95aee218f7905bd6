"""Receivers that are slow, broken or hostile, all at once, and those who wait behind them: real sockets."""

import gzip
from collections.abc import Callable
from random import random
from typing import Any

from standardwebhooks import Webhook
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from asynctask.addresses import Allowed
from asynctask.callbacks import Callbacks
from asynctask.metrics import Metrics
from asynctask.model import Submission, Task, accept, complete
from asynctask.posting import Poster
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from asynctask.wire import Ids
from tests.test_posting import Receiver, Receivers, answer, answers, drips, reactor

METADATA = "169.254.169.254"
HANGS = 8.0
"""Seconds: who hangs is waited for for longer."""

EACH = 20
"""Callbacks of each receiver: five times what it may have at once."""

BOMB = gzip.compress(bytes(20_000_000), mtime=0) * 5

BAD: dict[str, Callable[[Receiver], object]] = {
    "hangs": lambda _: None,
    "drips": drips(b"HTTP/1.1 200 OK\r\nX: "),
    "drips-a-body": drips(b"HTTP/1.1 500 No\r\n\r\n"),
    "redirects": answers(answer(302, f"Location: http://{METADATA}/latest/meta-data/")),
    "fails": answers(answer(500)),
    "resets": lambda receiver: receiver.reset(),
    "bomb": answers(answer(500, "Content-Encoding: gzip", body=BOMB)),
    "flood": answers(b"HTTP/1.1 200 OK\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 10_000),
    "rebinds": answers(answer(503)),
}


class Watched:
    """The reactor, and a note of every address that is connected to."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    def connectTCP(self, host: str, *given: Any, **named: Any) -> Any:
        self.connected.append(host)
        return reactor.connectTCP(host, *given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class ReceiversTests(TestCase):
    """One service that calls them all."""

    timeout = 30

    def setUp(self) -> None:
        self.ids = Ids()
        self.started: list[Task] = []
        self.ports: dict[str, int] = {}
        self.served: dict[str, Receivers] = {}
        self.resolved: dict[str, int] = {}
        self.store = SqlStore(Place(None), reactor, metrics=Metrics())
        self.store.open([], reactor.seconds())
        self.store.started = self.started.extend
        self.watched = Watched()
        poster = Poster(self.watched, Allowed(["127.0.0.1"]), self.lookup, reactor)
        self.callbacks = Callbacks(
            self.store.outbox, poster.post, None, reactor, reactor.seconds, random, metrics=Metrics()
        )
        self.callbacks.start()
        self.addCleanup(self.end_all)

    async def end_all(self) -> None:
        await self.callbacks.stop(0)
        await self.store.close()
        for receivers in self.served.values():
            await receivers.until_closed()

    def lookup(self, host: str, port: int) -> Deferred[list[str]]:
        self.resolved[host] = self.resolved.get(host, 0) + 1
        rebound = host == "rebinds.example" and self.resolved[host] % 2 == 0
        return succeed([METADATA if rebound or host == "internal.example" else "127.0.0.1"])

    def serve(self, name: str, act: Callable[[Receiver], object]) -> None:
        self.served[name] = Receivers(act)
        port = reactor.listenTCP(0, self.served[name], interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.ports[name] = port.getHost().port

    async def end(self, name: str) -> Task:
        """A task that has ended, and whose outcome this receiver is to be told."""
        now = reactor.seconds()
        url = f"http://{name}.example:{self.ports.get(name, 80)}/"
        new = Submission("a", "simulate", "{}", callback_url=url)
        await self.store.add([], [accept(new, self.ids.next(now, bytes(16)), now)])
        task = self.started.pop()
        await self.store.end(complete(task, "3", now), now)
        return task

    async def until_delivered(self, task: Task) -> float:
        """Seconds that it took."""
        began = reactor.seconds()
        while True:
            found = await self.store.get(task.task_id)
            assert found is not None
            assert found.callback is not None
            if found.callback.state == "delivered":
                return float(reactor.seconds() - began)
            await deferLater(reactor, 0.01)

    async def test_an_answer_with_fields_that_are_no_text_is_one(self) -> None:
        said = answer(200, "Set-Cookie: a=value", "Retry-After: value").replace(b"value", b"\xe9")
        self.serve("odd", answers(said))
        task = await self.end("odd")
        while (found := await self.store.get(task.task_id)) and found.callback and not found.callback.tries:
            await deferLater(reactor, 0.01)
        assert found is not None
        assert found.callback is not None
        self.assertEqual((found.callback.state, found.callback.error), ("delivered", None))
        self.assertEqual(len(self.served["odd"].requests), 1)

    async def test_others_do_not_wait_for_them_and_nothing_internal_is_reached(self) -> None:
        for name, act in BAD.items():
            self.serve(name, act)
        for number in range(5):
            self.serve(f"good{number}", answers(answer(200)))
        for _ in range(EACH):
            for name in (*BAD, "internal"):
                await self.end(name)
        for number in range(5):
            task = await self.end(f"good{number}")
            self.assertLess(await self.until_delivered(task), HANGS)
        for name in ("hangs", "drips", "drips-a-body"):
            self.assertLessEqual(self.served[name].most, 4)
        self.assertGreater(len(self.watched.connected), 3 * len(BAD))
        self.assertEqual(set(self.watched.connected), {"127.0.0.1"})
        for number in range(5):
            (request,) = self.served[f"good{number}"].requests
            head, _, body = request.decode().partition("\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
            sent = Webhook(self.store.outbox.secret).verify(body, headers)
            self.assertEqual(sent["data"]["result"], 3)
