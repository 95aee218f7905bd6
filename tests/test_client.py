"""The client: over the service in memory, and over sockets against a server that loses and cuts."""

import contextlib
import gzip
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import directlyProvides, providedBy

from asynctask import client as api
from asynctask.answered import Event, Unexpected
from asynctask.client import Client
from asynctask.model import Status
from asynctask.sending import LONGEST_PAUSE, MAX_ANSWER
from asynctask.stream import MAX_EVENT, Events
from tests.certificates import ServerSettings, certificate_for
from tests.faults.server import Server
from tests.pages import blocks
from tests.test_api import BASE, ApiTestCase

T = TypeVar("T")

reactor: Any = the_reactor

MOMENT = "2026-11-24T18:00:00.123Z"
TASK = {
    "task_id": "task_1",
    "name": "a",
    "kind": "simulate",
    "status": "running",
    "attempt": 1,
    "accepted_at": MOMENT,
    "run_at": MOMENT,
    "of_a_newer_service": {"x": 1},
}
ACCEPTED = {"task_id": "task_1", "name": "a", "status": "accepted", "message": "m", "newer": 1}


def event(kind: str, data: object, position: str | None = None) -> bytes:
    told = f"event: {kind}\ndata: {json.dumps(data)}\n"
    return (told + (f"id: {position}\n" if position else "") + "\n").encode()


def change(status: str, position: str) -> bytes:
    return event("change", TASK | {"status": status}, position)


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
        return self.run_until(self.client.submit("a", **given)).task_id

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
        self.assertEqual(self.run_until(self.client.cancel(task_id)).status, "cancelled")
        with self.assertRaisesRegex(api.Conflict, "A task that is cancelled cannot be cancelled"):
            self.run_until(self.client.cancel(task_id))
        self.assertEqual(self.run_until(self.client.retry(task_id)).status, "accepted")
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


class Hurried:
    """The reactor, where a second takes 1/50; it tells what was waited for."""

    FASTER = 50

    def __init__(self) -> None:
        self.waits: list[tuple[float, Callable[..., object]]] = []
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def callLater(self, delay: float, call: Callable[..., object], *args: Any, **more: Any) -> Any:
        self.waits.append((delay, call))
        return reactor.callLater(delay / self.FASTER, call, *args, **more)

    def pauses(self) -> list[float]:
        """Between one request and the next."""
        return [wait for wait, call in self.waits if getattr(call, "__name__", "") == "callback"]


Step = Callable[[Request], None]


class Fake(Resource):
    """Answers each request with the next step of a script."""

    isLeaf = True

    def __init__(self, *script: Step) -> None:
        super().__init__()
        self.script = list(script)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    def render(self, request: Request) -> int:
        headers = {
            name.decode().lower(): values[0].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        method, uri = request.method.decode(), request.uri.decode()
        self.asked.append((method, uri, headers, request.content.read() if request.content else b""))
        self.script.pop(0)(request)
        return NOT_DONE_YET

    def header(self, name: str) -> list[str | None]:
        return [headers.get(name) for _, _, headers, _ in self.asked]


def answer(status: int, body: object = b"", **headers: str | bytes) -> Step:
    def step(request: Request) -> None:
        request.setResponseCode(status)
        for name, value in headers.items():
            given = value.encode() if isinstance(value, str) else value
            request.setHeader(name.replace("_", "-").encode(), given)
        request.write(body if isinstance(body, bytes) else json.dumps(body).encode())
        request.finish()

    return step


def problem(
    status: int,
    detail: str,
    type: str = "about:blank",  # noqa: A002
    **headers: str | bytes,
) -> Step:
    return answer(status, {"type": type, "detail": detail, "status": status}, **headers)


def lose(request: Request) -> None:
    """Take the request, and hang up."""
    request.channel.loseConnection()


def hang(request: Request) -> None:
    """Never answer."""


def tell(*parts: bytes, then: Step = lose, position: str | None = None) -> Step:
    """A stream of events, in these writes."""

    def step(request: Request) -> None:
        if position is not None:
            request.setHeader("Last-Event-ID", position)
        request.setHeader("Content-Type", "text/event-stream; charset=utf-8")
        waiting = list(parts)

        def write() -> None:
            if request.finished or request._disconnected:
                return
            if not waiting:
                then(request)
                return
            request.write(waiting.pop(0))
            reactor.callLater(0, write)

        write()

    return step


def finish(request: Request) -> None:
    request.finish()


class SocketTestCase(TestCase):
    """A client, and a server that does what the script says."""

    timeout = 10

    def serve(self, *script: Step, interface: str = "127.0.0.1", **settings: Any) -> Client:
        self.fake = Fake(*script)
        site = Site(self.fake)
        site.noisy = False
        port = reactor.listenTCP(0, site, interface=interface)
        self.addCleanup(port.stopListening)
        self.hurried = Hurried()
        host = f"[{interface}]" if ":" in interface else interface
        self.url = f"http://{host}:{port.getHost().port}"
        # A busy machine is no failure: 20 real seconds.
        self.client = Client(self.url, self.hurried, **{"timeout": 1_000, **settings})
        self.addCleanup(lambda: ensureDeferred(self.client.close()))
        return self.client


class BaseUrlTests(SocketTestCase):
    """Where the service is."""

    async def test_it_may_be_an_ipv6_address(self) -> None:
        try:
            client = self.serve(answer(202, ACCEPTED), interface="::1")
        except CannotListenError:
            raise SkipTest("There is no IPv6 here") from None
        self.assertEqual((await client.submit("a")).task_id, "task_1")

    async def test_over_https_its_certificate_names_it(self) -> None:
        for names, reached in (((x509.DNSName("localhost"),), True), ((), False)):
            context, trusted = certificate_for(*names, common="localhost")
            file = FilePath(self.mktemp())
            file.setContent(trusted.dumpPEM())
            self.enterContext(patch.dict(os.environ, {"SSL_CERT_FILE": file.path}))
            fake = Fake(answer(200, TASK))
            site = Site(fake, reactor=Clock())
            site.noisy = False
            port = reactor.listenSSL(0, site, ServerSettings(context), interface="127.0.0.1")
            self.addCleanup(port.stopListening)
            async with Client(f"https://localhost:{port.getHost().port}", attempts=1) as client:
                if reached:
                    self.assertEqual((await client.get("task_1")).task_id, "task_1")
                else:
                    with self.assertRaises(api.Unreachable):
                        await client.get("task_1")
            self.assertEqual(len(fake.asked), int(reached))

    def test_what_cannot_be_one_is_told_at_once(self) -> None:
        wrong = ("localhost:8080", "http://", "ftp://a", "http://a:99999", "http://[::1", "http://a b")
        for url in (*wrong, "http://a/?b=c", "http://a/#b"):
            with self.assertRaisesRegex(ValueError, "is no URL"):
                api.Client(url)
        with self.assertRaisesRegex(ValueError, "has no user and no password$"):
            api.Client("http://user:secret@a")
        with self.assertRaisesRegex(ValueError, "give it another one"):
            api.Client("http://my_service:8080")

    def test_a_name_that_is_no_ascii_is_taken(self) -> None:
        self.assertEqual(api.Client("http://bücher.example/")._sender._base, "http://xn--bcher-kva.example")


class LostTests(SocketTestCase):
    """What is lost on the way."""

    async def test_a_lost_post_is_sent_again_with_the_same_key(self) -> None:
        client = self.serve(lose, problem(502, "bad gateway"), answer(202, ACCEPTED))
        self.assertEqual((await client.submit("a", duration=1)).task_id, "task_1")
        first, second, third = self.fake.asked
        self.assertEqual((first[3], second[3]), (second[3], third[3]))
        self.assertEqual(json.loads(first[3]), {"name": "a", "kind": "simulate", "duration": 1, "delay": 0})
        keys = self.fake.header("idempotency-key")
        self.assertEqual(len(set(keys)), 1)
        self.assertRegex(keys[0] or "", "^[0-9a-f]{32}$")

    async def test_every_task_has_a_key_of_its_own(self) -> None:
        client = self.serve(
            answer(202, ACCEPTED), answer(202, {"tasks": [ACCEPTED]}), answer(202, ACCEPTED)
        )
        await client.submit("a")
        await client.submit_many([{"name": "a"}])
        await client.submit("a")
        self.assertEqual(len(set(self.fake.header("idempotency-key"))), 3)

    async def test_pauses_grow_and_what_the_service_asks_for_is_waited(self) -> None:
        busy = problem(503, "full", Retry_After="7")
        client = self.serve(lose, lose, busy, answer(200, TASK))
        self.assertEqual((await client.get("task_1")).status, "running")
        first, second, third = self.hurried.pauses()
        self.assertTrue(0.25 <= first <= 0.5)
        self.assertTrue(0.5 <= second <= 1)
        self.assertTrue(8 <= third <= 9)

    async def test_a_pause_that_is_no_number_is_none_that_is_asked_for(self) -> None:
        client = self.serve(
            *(problem(503, "full", Retry_After=value) for value in (b"\xe9", "\u0667", "-7")),
            answer(202, ACCEPTED),
        )
        self.assertEqual((await client.submit("a")).task_id, "task_1")
        for pause, longest in zip(self.hurried.pauses(), (0.5, 1, 2), strict=True):
            self.assertLessEqual(pause, longest)

    async def test_it_is_given_up_after_so_many_attempts(self) -> None:
        client = self.serve(lose, lose, attempts=2)
        with self.assertRaisesRegex(api.Unreachable, "No whole answer came") as lost:
            await client.submit("a")
        self.assertEqual((lost.exception.status, lost.exception.uncertain), (0, True))
        self.assertIsNotNone(lost.exception.__cause__)

    async def test_where_nobody_listens_nothing_can_have_been_served(self) -> None:
        await self.serve().close()
        async with Client("http://127.0.0.1:1", self.hurried, attempts=2) as client:
            with self.assertRaises(api.Unreachable) as lost:
                await client.submit("a")
        self.assertFalse(lost.exception.uncertain)

    async def test_an_answer_that_asks_for_too_long_a_pause_is_given_up_at_once(self) -> None:
        client = self.serve(problem(503, "tomorrow", Retry_After="86400"))
        with self.assertRaisesRegex(api.Unavailable, "tomorrow") as refused:
            await client.get("task_1")
        self.assertEqual(refused.exception.retry_after, 86400)

    async def test_an_unknown_outcome_is_told(self) -> None:
        unknown = "urn:asynctask:problem/outcome-unknown"
        client = self.serve(problem(503, "perhaps", unknown, Retry_After="1"), attempts=1)
        with self.assertRaises(api.Unavailable) as refused:
            await client.submit("a")
        self.assertTrue(refused.exception.uncertain)
        self.assertEqual(refused.exception.type, unknown)

    async def test_a_lost_retry_is_not_sent_again(self) -> None:
        client = self.serve(problem(503, "full", Retry_After="1"), lose)
        with self.assertRaises(api.Unreachable):
            await client.retry("task_1")
        self.assertEqual(len(self.fake.asked), 2)

    async def test_a_lost_delete_that_was_served_is_done(self) -> None:
        client = self.serve(lose, problem(404, "gone"), problem(404, "gone"))
        await client.delete("task_1")
        with self.assertRaises(api.NotFound):
            await client.delete("task_1")

    async def test_a_lost_cancel_that_was_served_is_done(self) -> None:
        cancelled = answer(200, TASK | {"status": "cancelled"})
        client = self.serve(
            lose, problem(409, "ended"), cancelled, lose, problem(409, "ended"), answer(200, TASK)
        )
        self.assertEqual((await client.cancel("task_1")).status, "cancelled")
        with self.assertRaises(api.Conflict):
            await client.cancel("task_1")


class AnswerTests(SocketTestCase):
    """Answers of every sort."""

    async def test_each_refusal_has_its_exception(self) -> None:
        expected: dict[int, type[api.ApiError]] = {
            400: api.Invalid,
            403: api.Forbidden,
            404: api.NotFound,
            409: api.Conflict,
            413: api.TooLarge,
            418: api.ApiError,
            422: api.Mismatch,
            500: api.ApiError,
        }
        client = self.serve(*(problem(status, f"no {status}") for status in expected))
        for status, kind in expected.items():
            with self.assertRaisesRegex(api.ApiError, f"no {status}") as refused:
                await client.kinds()
            self.assertIs(type(refused.exception), kind)
            self.assertEqual(refused.exception.status, status)

    async def test_a_redirect_is_not_followed(self) -> None:
        client = self.serve(answer(302, Location="http://169.254.169.254/"))
        with self.assertRaisesRegex(api.ApiError, "The answer was 302, without a reason"):
            await client.submit("a")

    async def test_what_is_no_answer_of_the_service_is_told(self) -> None:
        deep = b"[" * 100_000
        client = self.serve(answer(200, b"<html>"), answer(200, {"task_id": 1}), answer(200, deep))
        for _ in range(3):
            with self.assertRaisesRegex(api.Unexpected, "This is no answer of asynctask"):
                await client.get("task_1")

    async def test_a_cookie_is_passed_over_whatever_it_is(self) -> None:
        odd = answer(202, ACCEPTED, Set_Cookie=b"a=\xe9; Path=/")
        client = self.serve(odd, answer(202, ACCEPTED, Set_Cookie="a=b; Path=/"), odd)
        for _ in range(3):
            self.assertEqual((await client.submit("a")).task_id, "task_1")
        self.assertEqual(self.fake.header("cookie"), [None] * 3)

    async def test_so_is_a_position_that_is_no_text(self) -> None:
        client = self.serve(answer(202, ACCEPTED, Last_Event_ID=b"\xe9"))
        self.assertEqual((await client.submit("a")).task_id, "task_1")

    async def test_an_answer_has_a_limit_also_unpacked(self) -> None:
        bomb = gzip.compress(b" " * (MAX_ANSWER + 1))
        client = self.serve(answer(200, bomb, Content_Encoding="gzip"))
        with self.assertRaisesRegex(api.Unexpected, f"more than {MAX_ANSWER} bytes"):
            await client.get("task_1")

    async def test_the_deadline_is_around_the_body_too(self) -> None:
        def drip(request: Request) -> None:
            request.setHeader("Content-Length", "1000")
            request.write(b"{")

        client = self.serve(drip, timeout=25, attempts=1)
        with self.assertRaisesRegex(api.Unreachable, "TimeoutError"):
            await client.get("task_1")
        self.assertEqual(len(self.fake.asked), 1)

    async def test_connections_are_used_again(self) -> None:
        ports = set()

        def note(request: Request) -> None:
            ports.add(request.getClientAddress().port)
            answer(200, TASK)(request)

        client = self.serve(*[note] * 3)
        for _ in range(3):
            await client.get("task_1")
        self.assertEqual(len(ports), 1)

    async def test_a_path_before_the_api_and_odd_ids_are_kept(self) -> None:
        self.serve(answer(200, TASK))
        async with Client(self.url + "/tasks/", self.hurried) as client:
            await client.get("a/b?c#d")
        self.assertEqual(self.fake.asked[0][1], "/tasks/api/tasks/a%2Fb%3Fc%23d")

    async def test_a_service_that_knows_no_waiting_is_not_asked_without_a_pause(self) -> None:
        client = self.serve(answer(200, TASK, Retry_After="3"), answer(200, TASK | {"status": "failed"}))
        self.assertEqual((await client.wait("task_1")).status, "failed")
        self.assertEqual(self.fake.header("prefer"), ["wait=50"] * 2)
        [pause] = self.hurried.pauses()
        self.assertTrue(3.25 <= pause <= 3.5)

    async def test_nor_left_alone_for_as_long_as_the_task_may_take(self) -> None:
        waits = answer(200, TASK, Retry_After="31536000")
        client = self.serve(waits, answer(200, TASK | {"status": "cancelled"}))
        self.assertEqual((await client.wait("task_1")).status, "cancelled")
        [pause] = self.hurried.pauses()
        self.assertLessEqual(pause, 2 * LONGEST_PAUSE)

    async def test_a_cancelled_call_hangs_up_and_is_not_sent_again(self) -> None:
        gone: Deferred[None] = Deferred()

        def watch(request: Request) -> None:
            request.notifyFinish().addErrback(lambda _: gone.callback(None))
            asked.cancel()

        client = self.serve(watch)
        asked = ensureDeferred(client.get("task_1"))
        with self.assertRaises(CancelledError):
            await asked
        await gone
        self.assertEqual(len(self.fake.asked), 1)

    async def test_closing_ends_what_is_under_way(self) -> None:
        arrived: Deferred[Request] = Deferred()
        client = self.serve(arrived.callback, tell(change("running", "1"), then=hang))
        asked = ensureDeferred(client.get("task_1"))
        await arrived
        events = client.events()
        self.assertEqual((await anext(events)).id, "1")
        await client.close()
        for call in (asked, ensureDeferred(anext(events)), ensureDeferred(client.kinds())):
            with self.assertRaises(CancelledError):
                await call


class EventTests(SocketTestCase):
    """Events, whatever happens to the connection."""

    async def collect(self, events: AsyncIterator[Event]) -> list[tuple[str, str | None]]:
        return [(told.type, told.id) async for told in events]

    async def test_a_task_that_is_deleted_at_its_end_was_followed_to_it(self) -> None:
        gone = problem(404, "There is no task")
        client = self.serve(tell(change("completed", "2"), then=finish), gone, gone)
        self.assertEqual(await self.collect(client.events("task_1")), [("change", "2")])
        with self.assertRaises(api.NotFound):
            await self.collect(client.events("task_1"))

    async def test_a_task_is_followed_to_its_end(self) -> None:
        progress = {"task_id": "task_1", "attempt": 1, "progress": {"step": 1, "total": 2, "message": "x"}}
        client = self.serve(
            tell(
                b": hello\n\n",
                change("running", "1"),
                event("progress", progress),
                change("completed", "2"),
                event("deleted", {"task_id": "task_1"}, "3"),
                then=finish,
            ),
            answer(204),
        )
        first, second, third, last = [told async for told in client.events("task_1")]
        assert first.task is not None
        self.assertEqual((first.type, first.task.status, first.id), ("change", "running", "1"))
        assert second.progress is not None
        self.assertEqual((second.type, second.id, second.attempt), ("progress", None, 1))
        self.assertEqual((second.progress.step, second.progress.total), (1, 2))
        self.assertEqual((third.task_id, third.data["status"]), ("task_1", "completed"))
        self.assertEqual((last.type, last.task_id), ("deleted", "task_1"))
        self.assertEqual([uri for _, uri, _, _ in self.fake.asked], ["/api/tasks/task_1/events"] * 2)
        self.assertEqual(self.fake.header("last-event-id"), [None, "3"])
        self.assertEqual(self.fake.header("accept"), ["text/event-stream"] * 2)

    async def test_events_go_on_after_a_cut_in_the_middle_of_one(self) -> None:
        second = change("completed", "2")
        client = self.serve(
            tell(change("accepted", "1"), second[:-1]),
            lose,
            problem(503, "starting", Retry_After="4"),
            tell(second),
            answer(204),
        )
        self.assertEqual(await self.collect(client.events()), [("change", "1"), ("change", "2")])
        self.assertEqual(self.fake.header("last-event-id"), [None, "1", "1", "1", "2"])
        first, grown, asked_for, after = self.hurried.pauses()
        self.assertTrue(first <= 0.5 <= grown <= 1)
        self.assertTrue(5 <= asked_for <= 6)
        self.assertLessEqual(after, 0.5)

    async def test_who_is_cut_off_before_the_first_event_goes_on_where_the_stream_began(self) -> None:
        client = self.serve(
            tell(b":\n", position="7"),
            tell(b":\n", position="later"),
            tell(change("running", "8")),
            answer(204),
        )
        self.assertEqual(await self.collect(client.events()), [("change", "8")])
        self.assertEqual(self.fake.header("last-event-id"), [None, "7", "7", "8"])

    async def test_the_pause_is_the_one_that_the_service_asks_for(self) -> None:
        client = self.serve(tell(b"retry: 3000\n\n"), answer(204))
        self.assertEqual(await self.collect(client.events()), [])
        [pause] = self.hurried.pauses()
        self.assertTrue(3.25 <= pause <= 3.5)

    async def test_a_reset_is_told_and_its_position_taken(self) -> None:
        client = self.serve(tell(event("reset", {}, "9")), answer(204))
        events = client.events(kind="simulate", status=["failed", "cancelled"], last_event_id="old")
        self.assertEqual(await self.collect(events), [("reset", "9")])
        self.assertEqual(self.fake.asked[0][1], "/api/events?status=failed%2Ccancelled&kind=simulate")
        self.assertEqual(self.fake.header("last-event-id"), ["old", "9"])

    async def test_a_stream_that_falls_silent_is_left(self) -> None:
        client = self.serve(tell(change("running", "1"), then=hang), answer(204))
        self.assertEqual(await self.collect(client.events()), [("change", "1")])
        self.assertIn(45, [wait for wait, _ in self.hurried.waits])

    async def test_a_service_that_was_never_reached_is_an_error(self) -> None:
        client = self.serve(lose, lose, attempts=2)
        with self.assertRaises(api.Unreachable):
            await self.collect(client.events())

    async def test_once_connected_it_connects_again_for_ever(self) -> None:
        client = self.serve(tell(b":\n"), *[lose] * 4, answer(204), attempts=2)
        self.assertEqual(await self.collect(client.events()), [])

    async def test_refusals_are_errors_at_once(self) -> None:
        client = self.serve(
            problem(404, "There is no such task"),
            answer(200, b"<html>", Content_Type="text/html"),
            answer(200, b"<html>", Content_Type=b"text/\xe9"),
            tell(event("change", {"task_id": 5}, "1")),
        )
        with self.assertRaises(api.NotFound):
            await self.collect(client.events("task_1"))
        for shown in ("html", "\xe9"):
            with self.assertRaisesRegex(api.Unexpected, f"These are no events but text/{shown}"):
                await self.collect(client.events())
        with self.assertRaisesRegex(api.Unexpected, "no answer of asynctask"):
            await self.collect(client.events())

    async def test_who_stops_reading_hangs_up(self) -> None:
        gone: Deferred[None] = Deferred()

        def watch(request: Request) -> None:
            request.notifyFinish().addErrback(lambda _: gone.callback(None))
            tell(change("running", "1"), then=hang)(request)

        client = self.serve(watch)
        async with contextlib.aclosing(client.events()) as events:
            async for told in events:
                self.assertEqual(told.id, "1")
                break
        await gone

    async def test_a_slow_reader_holds_the_stream_back(self) -> None:
        total = 200
        sent: list[int] = []

        class Pour:
            """Writes whenever it may."""

            def __init__(self, request: Request) -> None:
                self.request = request
                request.setHeader("Content-Type", "text/event-stream")
                request.registerProducer(self, False)

            def resumeProducing(self) -> None:
                if len(sent) == total:
                    self.request.unregisterProducer()
                    self.request.finish()
                    return
                sent.append(1)
                self.request.write(event("noise", "x" * 60_000, str(len(sent))))

            def stopProducing(self) -> None:
                pass

        def pour(request: Request) -> None:
            Pour(request)

        client = self.serve(pour, answer(204))
        events = client.events()
        await anext(events)
        before = 0
        while before != (before := len(sent)):
            await deferLater(reactor, 0.05)
        self.assertLess(before, total)
        ids = [told.id async for told in events]
        self.assertEqual(ids, [str(number) for number in range(2, total + 1)])


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
