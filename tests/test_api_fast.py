"""Every test of the routes once more, over our own connection; and what only that does."""

from typing import Any

from treq.testing import StubTreq
from twisted.web.resource import Resource

from asynctask.api import Api
from asynctask.deadlines import LEAVING
from asynctask.door import MAX_BATCH_BODY, MAX_BODY
from asynctask.httpserver import HttpServer
from tests import (
    test_api,
    test_api_batches,
    test_api_changes,
    test_api_repeats,
    test_api_waits,
    test_description,
    test_followers,
    test_metrics,
)
from tests.test_api import ApiTestCase
from tests.wires import Answer, Wire


class Fast:
    """Asks over our own connection."""

    clock: Any

    def server_of(self, api: Api) -> Any:
        return HttpServer(api.routes(), MAX_BATCH_BODY, self.clock)

    def client_of(self, api: Api) -> Any:
        client: Any = StubTreq(Resource())
        client._agent._serverFactory = self.server_of(api)
        return client


class WireTestCase(Fast, ApiTestCase):
    """Bytes, and what comes back."""

    def wire(self, line: str, *fields: str, body: bytes = b"") -> Wire:
        """A connection on which this has been asked."""
        head = "\r\n".join((line, *fields, "", "")).encode()
        wire = Wire(self.server).send(head + body)
        self.settle()
        return wire

    def assert_refused(self, wire: Wire, status: int) -> None:
        [answer] = wire.answers
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.fields[b"content-type"], b"application/problem+json")
        self.assertEqual(answer.fields[b"connection"], b"close")
        self.assertTrue(wire.closed)


class ExpectationTests(WireTestCase):
    """`Expect: 100-continue`."""

    def expect(self, path: str, length: int, *fields: str) -> Wire:
        asks = ("Host: localhost", "Expect: 100-continue", f"Content-Length: {length}")
        return self.wire(f"POST {path} HTTP/1.1", *asks, *fields)

    def test_a_body_is_not_asked_for_where_it_would_be_too_large(self) -> None:
        for path, limit in (("/api/tasks", MAX_BODY), ("/api/tasks/batch", MAX_BATCH_BODY)):
            self.assertEqual(self.expect(path, limit).statuses, [100])
            self.assert_refused(self.expect(path, limit + 1), 413)

    def test_nor_where_it_is_of_another_type(self) -> None:
        for path in ("/api/tasks", "/api/tasks/batch"):
            self.assert_refused(self.expect(path, 5, "Content-Type: text/plain"), 415)
            sound = self.expect(path, 5, "Content-Type: application/json; charset=utf-8")
            self.assertEqual(sound.statuses, [100])


class HostTests(WireTestCase):
    """The host of a target."""

    def test_one_that_is_not_ours_is_refused_over_http_1_0_too(self) -> None:
        for target, status in (
            ("http://evil.example/health/live", 403),
            ("http://localhost/health/live", 200),
            ("/health/live", 200),
        ):
            for fields in ((), ("Host: localhost",)):
                self.assertEqual(self.wire(f"GET {target} HTTP/1.0", *fields).statuses, [status], target)


class ServerTests(WireTestCase):
    """What is asked of the server itself."""

    def test_options_tells_which_methods_there_are(self) -> None:
        [answer] = self.wire("OPTIONS * HTTP/1.1", "Host: localhost").answers
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.fields[b"allow"], b"DELETE, GET, HEAD, OPTIONS, POST")


class HalfClosedTests(WireTestCase):
    """Clients that send no more while they wait."""

    prefers = ("Host: localhost", "Prefer: wait=40")

    def left(self, wire: Wire) -> Answer:
        """What is answered to who sends no more, once it may have left."""
        wire.close_half()
        self.advance(LEAVING)
        self.assertEqual((wire.answers, wire.closed), ([], False))
        self.advance(1)
        self.assertFalse(wire.transport.ended)
        while not wire.answers:
            self.turns.turn()
        self.assertTrue(wire.transport.disconnecting)
        [answer] = wire.answers
        return answer

    def test_a_post_is_answered_as_ever(self) -> None:
        body = b'{"name": "a", "duration": 9}'
        length = f"Content-Length: {len(body)}"
        answer = self.left(self.wire("POST /api/tasks HTTP/1.1", *self.prefers, length, body=body))
        self.assertEqual((answer.status, answer.fields[b"retry-after"]), (202, b"9"))
        self.assertEqual(self.feed._waiting, {})
        self.advance(9)
        (task,) = self.get("/api/tasks").json["tasks"]
        self.assertEqual(task["status"], "completed")

    def test_a_get_is_answered_with_the_task_as_it_is(self) -> None:
        task_id = self.submit(duration=9)
        answer = self.left(self.wire(f"GET /api/tasks/{task_id} HTTP/1.1", *self.prefers))
        self.assertEqual((answer.status, answer.fields[b"retry-after"]), (200, b"6"))
        self.assertIn(b'"status":"running"', answer.body)
        self.assertEqual(self.feed._waiting, {})

    def test_what_ends_before_is_answered_with_its_end(self) -> None:
        task_id = self.submit(duration=1)
        wire = self.wire(f"GET /api/tasks/{task_id} HTTP/1.1", *self.prefers)
        wire.close_half()
        self.advance(1)
        self.assertIn(b'"status":"completed"', wire.answers[0].body)
        self.assertTrue(wire.transport.disconnecting)

    def test_who_follows_events_is_cut_off(self) -> None:
        task_id = self.submit(duration=9)
        wire = self.wire(f"GET /api/tasks/{task_id}/events HTTP/1.1", "Host: localhost")
        self.assertIn(b"event: change", wire.raw)
        wire.close_half()
        self.assertTrue(wire.transport.ended)


for module in (
    test_api,
    test_api_changes,
    test_api_batches,
    test_api_repeats,
    test_api_waits,
    test_description,
    test_followers,
    test_metrics,
):
    for name, case in vars(module).items():
        if isinstance(case, type) and issubclass(case, ApiTestCase) and case.__module__ == module.__name__:
            globals()[f"Fast{name}"] = type(f"Fast{name}", (Fast, case), {"__module__": __name__})
