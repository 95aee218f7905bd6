"""The client: over the service in memory, and over sockets against a real one."""

import os
from collections.abc import AsyncIterator, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from twisted.web.server import Site

from asynctask import client as api
from asynctask.client import Client
from asynctask.model import Status
from asynctask.responses import Event, Unexpected
from asynctask.stream import MAX_EVENT, Events
from asynctask.testing import FakeContext
from tests.certificates import ServerSettings, certificate_for
from tests.client_peer import (
    ACCEPTED,
    TASK,
    Fake,
    SocketTestCase,
    T,
    answer,
    change,
    event,
    hang,
    reactor,
    tell,
)
from tests.faults.server import Server
from tests.pages import blocks
from tests.test_api import BASE, ApiTestCase
from tests.turns import PATIENCE


class InMemoryTests(ApiTestCase):
    """The calls, against the real service."""

    max_waiting = 5

    def setUp(self) -> None:
        super().setUp()
        self.client = Client(BASE, self.clock, attempts=3, http=self.treq)

    def run_until(self, call: Coroutine[Any, Any, T]) -> T:
        """Let the time go on until it has its answer."""
        asked = ensureDeferred(call)
        found: list[Any] = []
        asked.addBoth(found.append)
        for _ in range(200):
            self.treq.flush()
            self.settle()
            if found:
                break
            self.clock.advance(1)
        self.assertTrue(found)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        outcome: T = found[0]
        return outcome

    def submit_one(self, **given: Any) -> str:
        accepted: api.Accepted = self.run_until(self.client.submit("a", **given))
        return accepted.task_id

    def test_a_task_is_accepted_and_waited_for(self) -> None:
        accepted = self.run_until(self.client.submit("report", duration=2, retries=1, timeout=9.5))
        assert isinstance(accepted, api.Accepted)
        self.assertEqual(accepted.status, Status.ACCEPTED)
        self.assertEqual(accepted.message, "Task will run for 2 seconds in background")
        task = self.run_until(self.client.wait(accepted.task_id))
        self.assertEqual((task.status, task.name, task.input), ("completed", "report", {"duration": 2}))
        self.assertEqual((task.retries, task.timeout, task.error), (1, 9.5, None))
        self.assertEqual([one.status for one in task.history], ["accepted", "running", "completed"])
        assert task.finished_at is not None
        assert task.started_at is not None
        self.assertEqual((task.finished_at - task.started_at).total_seconds(), 2)

    def test_waiting_goes_on_beyond_what_one_request_can_wait(self) -> None:
        task_id = self.submit_one(duration=120)
        self.assertEqual(self.run_until(self.client.wait(task_id)).status, "completed")

    def test_waiting_has_an_end(self) -> None:
        task_id = self.submit_one(duration=120)
        with self.assertRaisesRegex(TimeoutError, f"Task {task_id} has not ended within 60 seconds"):
            self.run_until(self.client.wait(task_id, timeout=60))

    def test_a_post_may_wait_for_the_end(self) -> None:
        ended = self.run_until(self.client.submit("a", duration=2, wait=10))
        assert isinstance(ended, api.Task)
        self.assertEqual(ended.status, "completed")
        self.assertIsInstance(self.run_until(self.client.submit("a", duration=20, wait=3)), api.Accepted)

    def test_the_same_key_gives_the_same_task(self) -> None:
        first = self.submit_one(idempotency_key="k")
        self.assertEqual(self.submit_one(idempotency_key="k"), first)
        self.assertNotEqual(self.submit_one(), first)
        with self.assertRaises(api.Mismatch):
            self.submit_one(idempotency_key="k", duration=9)

    def test_a_trace_goes_with_the_task(self) -> None:
        trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        task = self.run_until(self.client.get(self.submit_one(traceparent=trace)))
        self.assertEqual(task.traceparent, trace)

    def test_many_are_accepted_at_once_or_none(self) -> None:
        first, second = self.run_until(self.client.submit_many([{"name": "a"}, {"name": "b", "delay": 9}]))
        self.assertEqual((first.name, second.name), ("a", "b"))
        with self.assertRaises(api.Invalid) as refused:
            self.run_until(self.client.submit_many([{"name": "a"}, {"name": "", "duration": -1}]))
        self.assertEqual(refused.exception.status, 400)
        self.assertEqual(sorted(e.pointer for e in refused.exception.errors), ["/1/duration", "/1/name"])

    def test_a_list_goes_through_its_pages(self) -> None:
        ids = [self.submit_one(delay=50) for _ in range(3)]

        async def listed() -> list[api.Task]:
            return [task async for task in self.client.list(status=["accepted", "running"], page_size=2)]

        tasks = self.run_until(listed())
        self.assertEqual([task.task_id for task in tasks], ids[::-1])
        self.assertEqual((tasks[0].input, tasks[0].history), (None, ()))

    def test_a_waiting_task_is_cancelled_retried_and_deleted(self) -> None:
        task_id = self.submit_one(delay=50)
        for _ in range(2):
            self.assertEqual(self.run_until(self.client.cancel(task_id)).status, "cancelled")
        self.assertEqual(self.run_until(self.client.retry(task_id)).status, "accepted")
        with self.assertRaisesRegex(api.Conflict, "A task that is running cannot be retried"):
            self.run_until(self.client.retry(task_id))
        with self.assertRaises(api.Conflict):
            self.run_until(self.client.delete(task_id))
        self.run_until(self.client.wait(task_id))
        self.run_until(self.client.delete(task_id))
        with self.assertRaises(api.NotFound) as gone:
            self.run_until(self.client.get(task_id))
        self.assertEqual((gone.exception.status, gone.exception.detail), (404, "There is no such task"))

    def test_a_task_is_followed_to_its_end(self) -> None:
        task_id = self.submit_one(duration=2)

        async def follow(position: str | None = None) -> list[Event]:
            return [told async for told in self.client.events(task_id, last_event_id=position)]

        told = self.run_until(follow())
        self.assertEqual(
            [one.task.status if one.task else one.progress and one.progress.step for one in told],
            ["accepted", "running", 1, 2, "completed"],
        )
        self.assertEqual(self.run_until(follow(told[0].id)), [told[1], told[-1]])
        self.assertEqual(self.run_until(follow(told[-1].id)), [])
        with self.assertRaises(api.NotFound):
            self.run_until(anext(self.client.events("task_nobody")))

    def test_all_tasks_are_followed_from_now_on(self) -> None:
        self.submit_one(duration=0)
        events = self.client.events(kind="simulate", status=["completed", "cancelled"])
        first = self.run_until(self.after_a_start(events, duration=0))
        assert first.task is not None
        self.assertEqual(first.task.status, "completed")
        self.run_until(events.aclose())
        later = self.submit_one(duration=0)
        again = self.client.events(status="completed", last_event_id=first.id)
        self.assertEqual(self.run_until(anext(again)).task_id, later)
        self.run_until(again.aclose())
        lost = self.client.events(last_event_id="nonsense")
        self.assertEqual(self.run_until(anext(lost)).type, "reset")
        self.run_until(lost.aclose())
        self.settle()
        self.assertEqual(self.feed.followers, 0)

    async def after_a_start(self, events: AsyncIterator[Event], **given: Any) -> Event:
        """The first event of a stream that was there before a task was."""

        async def first() -> Event:
            return await anext(events)

        told = ensureDeferred(first())
        await deferLater(self.clock, 1)
        await self.client.submit("a", **given)
        return await told

    def test_kinds_have_their_schema(self) -> None:
        (kind,) = self.run_until(self.client.kinds())
        self.assertEqual((kind.kind, kind.place), ("simulate", "reactor"))
        self.assertIn("duration", kind.input["properties"])

    def test_what_is_no_json_is_not_sent_and_an_id_is_no_path(self) -> None:
        with self.assertRaises(ValueError):
            self.run_until(self.client.submit("a", delay=float("nan")))
        with self.assertRaisesRegex(api.NotFound, "There is nothing at '/api/tasks/..%2Fkinds%3Fx'"):
            self.run_until(self.client.get("../kinds?x"))

    def test_a_full_service_is_asked_again_when_it_said(self) -> None:
        for _ in range(5):
            self.submit_one(duration=6)
        began = self.clock.seconds()
        self.submit_one(duration=6)
        self.assertGreater(self.clock.seconds() - began, 5)

    def test_a_service_that_stays_full_is_given_up(self) -> None:
        for _ in range(5):
            self.submit_one(duration=100)
        with self.assertRaises(api.Unavailable) as refused:
            self.submit_one()
        self.assertEqual((refused.exception.status, refused.exception.retry_after), (503, 5))
        self.assertFalse(refused.exception.uncertain)


class BaseUrlTests(SocketTestCase):
    """Where the service is."""

    async def test_it_may_be_an_ipv6_address(self) -> None:
        try:
            client = self.serve(answer(202, ACCEPTED), interface="::1")
        except CannotListenError:
            raise SkipTest("There is no IPv6 here") from None
        self.assertEqual((await client.submit("a")).task_id, "task_1")

    def serve_over_https(self, context: Any) -> tuple[Fake, Client]:
        """A server with one answer, and a client that asks once."""
        fake = Fake(answer(200, TASK))
        site = Site(fake, reactor=Clock())
        site.noisy = False
        port = reactor.listenSSL(0, site, ServerSettings(context), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return fake, Client(f"https://localhost:{port.getHost().port}", attempts=1)

    async def test_over_https_its_certificate_names_it(self) -> None:
        for names, reached in (((x509.DNSName("localhost"),), True), ((), False)):
            context, trusted = certificate_for(*names, common="localhost")
            file = FilePath(self.mktemp())
            file.setContent(trusted.dumpPEM())
            os.environ["SSL_CERT_FILE"] = file.path
            self.addCleanup(os.environ.pop, "SSL_CERT_FILE", None)
            fake, client = self.serve_over_https(context)
            async with client:
                if reached:
                    self.assertEqual((await client.get("task_1")).task_id, "task_1")
                else:
                    with self.assertRaises(api.Unreachable) as caught:
                        await client.retry("task_1")
                    self.assertFalse(caught.exception.uncertain)
            self.assertEqual(len(fake.asked), int(reached))

    async def test_a_peer_that_is_stuck_does_not_hold_up_the_end(self) -> None:
        context, trusted = certificate_for(x509.DNSName("localhost"), common="localhost")
        file = FilePath(self.mktemp())
        file.setContent(trusted.dumpPEM())
        os.environ["SSL_CERT_FILE"] = file.path
        self.addCleanup(os.environ.pop, "SSL_CERT_FILE", None)
        served: list[Any] = []
        build = Site.buildProtocol

        def keep(site: Site, address: Any) -> Any:
            served.append(build(site, address))
            return served[-1]

        self.patch(Site, "buildProtocol", keep)
        _, client = self.serve_over_https(context)
        await client.get("task_1")
        tls = served[0]._channel.transport
        tls.transport.stopReading()
        await Deferred.fromCoroutine(client.close()).addTimeout(PATIENCE, reactor)
        tls.abortConnection()

    async def test_nothing_is_sent_to_whom_it_does_not_trust(self) -> None:
        context, _ = certificate_for(x509.DNSName("localhost"), common="localhost")
        fake, client = self.serve_over_https(context)
        async with client:
            with self.assertRaises(api.Unreachable) as caught:
                await client.retry("task_1")
        self.assertEqual((caught.exception.uncertain, fake.asked), (False, []))

    def test_what_cannot_be_one_is_told_at_once(self) -> None:
        wrong = ("localhost:8080", "http://", "ftp://a", "http://a:99999", "http://[::1", "http://a b")
        hosts = (
            *("a..b", "*", "-x-", "a" * 64, "ex%61mple", "a\tb", "[fe80::1%25eth0]", "a:0", "999.9.9.9"),
            "127.0.0.1.",
        )
        for url in (
            *wrong,
            *(f"http://{host}" for host in hosts),
            "http://a/?b=c",
            "http://a/#b",
            "http://a/\0",
        ):
            with self.assertRaisesRegex(ValueError, "is no URL"):
                api.Client(url)
        with self.assertRaisesRegex(ValueError, "has no user and no password$"):
            api.Client("http://user:secret@a")
        with self.assertRaisesRegex(ValueError, "give it another one"):
            api.Client("http://my_service:8080")
        for name, values in {"attempts": (0, 1.5), "timeout": (0, float("nan"), "1", None)}.items():
            for value in values:
                given: Any = {name: value}
                with self.assertRaisesRegex(ValueError, f"^{name} is a "):
                    api.Client("http://localhost:8080", **given)

    def test_only_whole_seconds_can_be_waited_for(self) -> None:
        client = api.Client("http://localhost:8080")
        for wait in (2.5, 2.0, True, -1, "3"):
            given: Any = {"wait": wait}
            failure = self.failureResultOf(ensureDeferred(client.submit("a", **given)), ValueError)
            self.assertIn("wait is a whole number of seconds", str(failure.value))

    def test_a_name_that_is_no_ascii_is_taken(self) -> None:
        self.assertEqual(api.Client("http://bücher.example/")._sender._base, "http://xn--bcher-kva.example")


class RealServerTests(SocketTestCase):
    """Against the service itself, and the samples of docs/client.md."""

    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.lines: list[str] = []
        self.samples: dict[str, Any] = {"__name__": "sample"}
        for code in blocks("docs/client.md", "python"):
            exec(code, self.samples)
        self.samples["print"] = lambda *words: self.lines.append(" ".join(map(str, words)))

    def start(self, folder: Path, port: int = 0) -> Server:
        server = Server(folder, options=["--port", str(port)])
        self.addCleanup(server.__exit__)
        return server.ready()

    async def test_a_task_is_waited_for_through_a_kill_and_the_samples_run(self) -> None:
        server = self.start(self.folder)
        assert server.port is not None
        url = f"http://localhost:{server.port}"

        class There(Client):
            def __init__(self, _url: str, *settings: Any) -> None:
                super().__init__(url, *settings)

        async with There("", reactor) as client:
            accepted = await client.submit("a", duration=3)
            ended = ensureDeferred(client.wait(accepted.task_id))
            await deferLater(reactor, 0.1)
            server.kill()
            self.start(self.folder, server.port)
            self.samples["Client"] = There
            sample = ensureDeferred(self.samples["main"](reactor))
            task = await ended
            self.assertEqual((task.status, task.attempt), ("completed", 2))
            self.assertEqual(
                await self.samples["invoice"](client, -1),
                ["/duration: Field 'duration' must be from 0 to 86400"],
            )
            await sample
        self.assertEqual(self.lines, ["completed {'duration': 1}"])

    async def test_a_task_and_all_are_followed_through_a_kill(self) -> None:
        server = self.start(self.folder)
        client = Client(f"http://localhost:{server.port}", reactor)
        self.addCleanup(lambda: ensureDeferred(client.close()))
        idle, every = client.events(status="completed"), client.events(status="running,completed")
        # Nothing is told before the service is killed, and yet nothing is missed afterwards.
        nothing = ensureDeferred(self.first(idle, 1))
        accepted = await client.submit("a", delay=2, duration=1)
        one = client.events(accepted.task_id)
        told = [await anext(one)]
        of_all = ensureDeferred(self.first(every, 3))
        await deferLater(reactor, 0.3)
        server.kill()
        self.start(self.folder, server.port or 0)
        told += [event async for event in one]
        changes = [event.task.status for event in told if event.task is not None]
        self.assertEqual(changes, ["accepted", "running", "completed"])
        self.assertEqual([event.task.status for event in await of_all if event.task], changes[1:])
        self.assertEqual([event.task_id for event in await nothing], [accepted.task_id])
        for events in (idle, every):
            await events.aclose()

    async def first(self, events: AsyncIterator[Event], count: int) -> list[Event]:
        return [await anext(events) for _ in range(count)]

    async def test_the_samples_retry_what_failed_and_cancel_what_waits(self) -> None:
        (self.folder / "mine.py").write_text("from asynctask import task\n\n@task\ndef bad(): 1 / 0\n")
        server = Server(self.folder, options=["--tasks", "mine"])
        self.addCleanup(server.__exit__)
        client = Client(
            f"http://localhost:{server.ready().port}", reactor, http=self.samples["WithPassword"]()
        )
        self.addCleanup(lambda: ensureDeferred(client.close()))
        bad = await client.submit("a", "bad", wait=20)
        waits = await client.submit("b", delay=1_000)
        await self.samples["retry_failed"](client)
        self.assertEqual((await client.wait(bad.task_id)).attempt, 2)
        await self.samples["cancel_waiting"](client)
        self.assertEqual((await client.get(waits.task_id)).status, "cancelled")

    async def test_a_sample_submits_parts_and_waits_for_them(self) -> None:
        words, *_ = blocks("docs/handlers.md", "python")
        (self.folder / "words.py").write_text(words)
        (self.folder / "a.txt").write_text("a tale\nof two cities\n")
        server = Server(self.folder, options=["--tasks", "words"])
        self.addCleanup(server.__exit__)
        url = f"http://localhost:{server.ready().port}"
        self.patch(os, "environ", os.environ | {"TASKS_URL": url})
        given = FakeContext(task_id="task_1")
        self.assertEqual(await self.samples["total"](["a.txt", "a.txt"], context=given), 10)

    async def test_the_samples_follow_events(self) -> None:
        progress = {"task_id": "task_1", "attempt": 1, "progress": {"step": 1, "total": 2, "message": ""}}
        failed = TASK | {"status": "failed", "error": {"type": "ValueError", "message": "no"}}
        client = self.serve(
            tell(change("running", "1"), event("progress", progress), change("completed", "2")),
            answer(204),
            tell(event("reset", {}, "5"), event("change", failed, "6"), then=hang),
        )
        await self.samples["follow"](client, "task_1")
        self.assertEqual(self.lines, ["running", "1 of 2", "completed"])
        self.assertEqual(await self.samples["first_failure"](client, "4"), ("no", "6"))


class ParserTests(SynchronousTestCase):
    """Bytes to events."""

    STREAM = (
        b': c\r\n\r\nevent: a\rdata:{"x":\rdata: "1"}\rid: 1\r\rretry: 5\nretry: x\n\n'
        b"id: 2\n\nevent: b\ndata: 3\nid: 4\0\nother\n:\n\ndata\n\ndata: 5\n\nevent: cut\ndata: 6\nid: 7\n"
    )
    EVENTS = (Event("a", {"x": "1"}, "1"), Event("b", 3), Event("message", 5))

    def read(self, parts: list[bytes]) -> tuple[list[Event], str | None, float]:
        events = Events(None)
        found = [told for part in parts for told in events.feed(part)]
        return found, events.position, events.retry

    @given(st.lists(st.integers(0, len(STREAM))))
    def test_it_does_not_matter_how_the_bytes_come(self, cuts: list[int]) -> None:
        at = [0, *sorted(cuts), len(self.STREAM)]
        parts = [self.STREAM[a:b] for a, b in pairwise(at) if a < b]
        self.assertEqual(self.read(parts), ([*self.EVENTS], "2", 0.005))

    def test_byte_by_byte(self) -> None:
        parts = [self.STREAM[i : i + 1] for i in range(len(self.STREAM))]
        self.assertEqual(self.read(parts), ([*self.EVENTS], "2", 0.005))

    def test_an_event_is_whole_though_it_is_cut_in_the_end_of_a_line(self) -> None:
        stream = b"id: 1\r\nevent: reset\r\ndata: {}\r\n\r\n" * 2
        for cut in range(1, len(stream)):
            found, *_ = self.read([stream[:cut], stream[cut:]])
            self.assertEqual(found, [Event("reset", {}, "1")] * 2, cut)

    def test_what_was_cut_off_counts_for_nothing(self) -> None:
        events = Events("0")
        self.assertEqual(list(events.feed(b"event: a\ndata: 1\nid: 1\n")), [])
        events.cut()
        self.assertEqual(events.position, "0")
        self.assertEqual(list(events.feed(b"data: 2\n\n")), [Event("message", 2)])

    def test_an_event_has_a_limit(self) -> None:
        for line in (b"data: " + b"1" * MAX_EVENT + b"1", (b"data:" + b"1" * 9_999 + b"\n") * 105):
            with self.assertRaisesRegex(Unexpected, "An event has more than"):
                list(Events(None).feed(line))
