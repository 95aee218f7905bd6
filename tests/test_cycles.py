"""What comes by the thousand leaves nothing for the garbage collector, which is kept from looking."""

import asyncio
import gc
import json
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import CodeType

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

import asynctask
from asynctask import Context, Permanent, task
from asynctask.door import MAX_BODY
from asynctask.registry import KINDS, Kind, kinds_of
from tests.test_api_fast import WireTestCase
from tests.test_tracebacks import Frozen, Wilder

TIMES = 20
OURS = str(Path(asynctask.__file__).parent)


def is_ours(one: object) -> bool:
    """Whether it is of a class of ours or a statement, or a function, coroutine or generator of ours."""
    codes = (getattr(one, name, None) for name in ("__code__", "cr_code", "gi_code"))
    files = [code.co_filename for code in codes if isinstance(code, CodeType)]
    module = type(one).__module__
    return module.startswith(("asynctask", "sqlalchemy")) or any(file.startswith(OURS) for file in files)


@task
async def fails_at_once() -> None:
    raise ValueError("no")


@task
@inlineCallbacks
def fails_later(*, context: Context) -> Generator[Deferred[None], None, None]:
    yield deferLater(context.clock, 1)
    raise Permanent


@task
async def passes_on(*, context: Context) -> None:
    failing: Deferred[None] = Deferred()
    context.clock.callLater(1, failing.errback, ValueError("no"))
    await failing


@task
async def fails_by_another(*, context: Context) -> None:
    try:
        await passes_on(context=context)
    except ValueError as error:
        raise KeyError from error


@task
async def fails_frozen() -> None:
    raise Frozen("no")


@task(retries=1, backoff=lambda _: 1)
async def fails_wild() -> None:
    raise Wilder("no")


@task(timeout=1)
async def takes_too_long() -> None:
    await Deferred()


@task(retries=1, backoff=lambda _: 1)
async def is_tried_again() -> None:
    raise ValueError("no")


@task
def in_a_thread() -> int:
    return 1


@task
def fails_in_a_thread() -> None:
    raise ValueError("no")


@task(place="asyncio")
async def on_asyncio() -> int:
    return 1


@task(place="asyncio")
async def fails_on_asyncio() -> None:
    raise ValueError("no")


@task(place="asyncio", timeout=1)
async def takes_too_long_on_asyncio() -> None:
    await asyncio.sleep(60)


HANDLERS = (
    *(fails_at_once, fails_frozen, fails_wild, fails_later, passes_on, fails_by_another),
    *(takes_too_long, is_tried_again, in_a_thread, fails_in_a_thread),
    *(on_asyncio, fails_on_asyncio, takes_too_long_on_asyncio),
)


class CyclesTests(WireTestCase):
    """With the collector off."""

    kinds: Mapping[str, Kind] = {
        **KINDS,
        **{kind.name: kind for handler in HANDLERS for kind in kinds_of(handler)},
    }

    def left_by(self, live: Callable[[], None]) -> list[object]:
        """Objects of ours that only the collector would find."""
        live()  # what is made once
        gc.collect()
        earlier = gc.get_objects()  # held: what an earlier test has left may be garbage only now
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            live()
            gc.collect()
            return [one for one in gc.garbage if is_ours(one)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
            del earlier

    def ask(self, line: str, body: bytes = b"", *fields: str) -> str:
        """The answer's status, and its task's id if it has one."""
        head = (f"{line} HTTP/1.1", "Host: localhost", *fields, f"Content-Length: {len(body)}")
        [answer] = self.wire(*head, body=body).answers
        location = answer.fields.get(b"location", b"").decode()
        return f"{answer.status} {location.rpartition('/')[2]}".strip()

    def have_accepted(self, **body: object) -> str:
        """The id of a task."""
        answer = self.ask("POST /api/tasks", json.dumps({"name": "a", **body}).encode())
        self.assertRegex(answer, "^202 task_")
        return answer.removeprefix("202 ")

    def until_all_have_ended(self) -> None:
        while self.store.unfinished:
            self.turns.turn()
            self.settle()
        self.flushLoggedErrors()

    def test_tasks_of_all_kinds(self) -> None:
        for kind in self.kinds.keys() - {"takes_too_long_on_asyncio"}:

            def live(kind: str = kind) -> None:
                for _ in range(TIMES):
                    self.have_accepted(kind=kind)
                self.advance(4)
                self.until_all_have_ended()

            self.assertEqual(self.left_by(live)[:3], [], kind)

    def test_tasks_on_asyncio_that_take_too_long(self) -> None:
        def live() -> None:
            for _ in range(TIMES):
                self.have_accepted(kind="takes_too_long_on_asyncio")
                self.advance(1)
                self.until_all_have_ended()

        self.assertEqual(self.left_by(live)[:3], [])

    def test_tasks_that_are_cancelled(self) -> None:
        def live() -> None:
            tasks = [self.have_accepted(duration=600) for _ in range(TIMES)]
            self.advance(1)
            for task_id in tasks:
                self.assertEqual(self.ask(f"POST /api/tasks/{task_id}/cancel"), "200")
            self.until_all_have_ended()

        self.assertEqual(self.left_by(live)[:3], [])

    def test_clients_that_leave(self) -> None:
        running = self.have_accepted(duration=600)
        for line in ("GET /api/events", f"GET /api/tasks/{running}/events", f"GET /api/tasks/{running}"):

            def live(line: str = line) -> None:
                for _ in range(TIMES):
                    wire = self.wire(f"{line} HTTP/1.1", "Host: localhost", "Prefer: wait=9")
                    self.settle()
                    wire.leave()
                    self.settle()

            self.assertEqual(self.left_by(live)[:3], [], line)

    def test_lists(self) -> None:
        self.have_accepted(duration=600)
        for query in ("", "?kind=simulate", "?status=accepted,running&limit=7", "?name=a&kind=simulate"):

            def live(query: str = query) -> None:
                for _ in range(TIMES):
                    self.assertEqual(self.ask(f"GET /api/tasks{query}"), "200")

            self.assertEqual(self.left_by(live)[:3], [], query)

    def test_refused_requests(self) -> None:
        running = self.have_accepted(duration=600)
        ended = self.have_accepted(duration=0)
        self.settle()
        post, batch, key = "POST /api/tasks", "POST /api/tasks/batch", "Idempotency-Key: a"
        self.ask(post, b'{"name":"a"}', key)
        refused: list[tuple[str, bytes, str]] = [
            (post, b"{", ""),
            (post, b'{"duration":1}', ""),
            (post, b'{"duration":1}', "Idempotency-Key: b"),
            (post, b'{"name":"b"}', key),
            (post, b'{"name":"b"}', 'Idempotency-Key: ""'),
            (post, b"a=b", "Content-Type: text/plain"),
            (post, b"{}", "Sec-Fetch-Site: cross-site"),
            (post, b" " * (MAX_BODY + 1), ""),
            (batch, b"[{}]", ""),
            (batch, b"[{}]", "Idempotency-Key: b"),
            (f"POST /api/tasks/{ended}/cancel", b"", ""),
            (f"POST /api/tasks/{running}/retry", b"", ""),
            (f"DELETE /api/tasks/{running}", b"", ""),
            ("GET /api/tasks/task_1", b"", ""),
            ("GET /api/tasks?limit=x", b"", ""),
            ("GET /api/tasks?kind=x", b"", ""),
            ("GET /api/events?status=x", b"", ""),
            ("GET /api/nothing", b"", ""),
            ("DELETE /api/tasks", b"", ""),
        ]
        for line, body, field in refused:

            def live(line: str = line, body: bytes = body, field: str = field) -> None:
                for _ in range(TIMES):
                    self.assertRegex(self.ask(line, body, *([field] if field else [])), "^4..$")

            self.assertEqual(self.left_by(live)[:3], [], (line, body[:20], field))
