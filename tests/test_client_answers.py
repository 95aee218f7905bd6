"""The client over sockets: what it sends again, and what it makes of answers."""

import gzip
import json

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.web.server import Request

from asynctask import client as api
from asynctask import sending
from asynctask.client import Client
from asynctask.sending import MAX_ANSWER
from tests.client_peer import (
    ACCEPTED,
    TASK,
    SocketTestCase,
    answer,
    change,
    hang,
    lose,
    problem,
    tell,
)

BEYOND = "Tue, 24 Nov 2026 18:00:07 +9999999999999"
"""A date with a zone that no clock can hold."""


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

    async def test_a_deadline_that_is_over_is_one(self) -> None:
        for over in (-1, float("nan")):
            client = self.serve(lambda _request: None)
            with self.assertRaisesRegex(TimeoutError, "has not ended within"):
                await client.wait("task_1", timeout=over)

    async def test_what_is_refused_for_now_is_sent_again(self) -> None:
        statuses = (429, 502, 503, 504)
        served = answer(202, ACCEPTED)
        client = self.serve(*(step for status in statuses for step in (problem(status, "busy"), served)))
        for status in statuses:
            self.assertEqual((await client.submit("a")).task_id, "task_1", status)

    async def test_what_a_proxy_has_passed_on_may_have_been_served(self) -> None:
        expected = {502: True, 503: False, 504: True}
        client = self.serve(*(problem(status, "gone") for status in expected), attempts=1)
        for status, uncertain in expected.items():
            with self.assertRaises(api.Unavailable) as refused:
                await client.submit("a")
            self.assertEqual((refused.exception.status, refused.exception.uncertain), (status, uncertain))

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

    async def test_it_may_ask_with_a_date(self) -> None:
        self.patch(sending, "time", lambda: 1_795_543_200.0)
        dates = ("Tue, 24 Nov 2026 18:00:07 GMT", "Tue, 24 Nov 2026 17:00:00 GMT")
        client = self.serve(*(problem(503, "full", Retry_After=date) for date in dates), answer(200, TASK))
        await client.get("task_1")
        first, second = self.hurried.pauses()
        self.assertTrue(7.25 <= first <= 7.5)
        self.assertLessEqual(second, 1)

    async def test_a_pause_that_is_no_number_is_none_that_is_asked_for(self) -> None:
        client = self.serve(
            *(problem(503, "full", Retry_After=value) for value in (b"\xe9", "\u0667", "-7", BEYOND)),
            answer(202, ACCEPTED),
        )
        self.assertEqual((await client.submit("a")).task_id, "task_1")
        for pause, longest in zip(self.hurried.pauses(), (0.5, 1, 2, 4), strict=True):
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

    async def test_a_lost_cancel_is_asked_for_again(self) -> None:
        client = self.serve(lose, answer(200, TASK | {"status": "cancelled"}))
        self.assertEqual((await client.cancel("task_1")).status, "cancelled")
        self.assertEqual(len(self.fake.asked), 2)

    async def test_what_a_kept_connection_has_lost_is_told_like_any_other(self) -> None:
        client = self.serve(answer(200, TASK), lose, problem(404, "There is no such task"))
        await client.get("task_1")
        await client.delete("task_1")
        self.assertEqual([method for method, *_ in self.fake.asked], ["GET", "DELETE", "DELETE"])
        self.assertEqual(len(self.hurried.pauses()), 1)


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
            with self.assertRaisesRegex(api.Unexpected, "This is no answer of asynctask") as caught:
                await client.get("task_1")
            self.assertTrue(caught.exception.uncertain)

    async def test_an_input_that_is_nested_too_deep_is_told(self) -> None:
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]
        with self.assertRaisesRegex(ValueError, "nested too deep"):
            await self.serve().submit("a", "kind", input={"x": deep})

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
        self.assertLessEqual(pause, 2 * api.LOOK_AGAIN)

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
