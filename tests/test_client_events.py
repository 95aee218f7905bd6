"""The client follows events: over sockets, against a server that cuts them off."""

import contextlib
from collections.abc import AsyncIterator

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.server import Request

from asynctask import client as api
from asynctask.client import Client
from asynctask.responses import Event
from tests.client_peer import (
    SocketTestCase,
    answer,
    change,
    event,
    finish,
    hang,
    lose,
    problem,
    reactor,
    tell,
)


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

    async def test_one_that_is_deleted_and_cut_off_was_followed_to_its_end(self) -> None:
        deleted = event("deleted", {"task_id": "task_1"}, "2")
        client = self.serve(tell(change("running", "1"), deleted), problem(404, "There is no task"))
        told = await self.collect(client.events("task_1"))
        self.assertEqual(told, [("change", "1"), ("deleted", "2")])

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

    async def test_so_is_one_that_asks_for_too_long_a_pause(self) -> None:
        client = self.serve(problem(503, "tomorrow", Retry_After="86400"))
        with self.assertRaisesRegex(api.Unavailable, "tomorrow"):
            await self.collect(client.events())
        self.assertEqual(self.hurried.pauses(), [])

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

    def serve_one(self) -> tuple[Client, Deferred[None]]:
        """A client that is told one event, and what fires when it hangs up."""
        gone: Deferred[None] = Deferred()

        def watch(request: Request) -> None:
            request.notifyFinish().addErrback(lambda _: gone.callback(None))
            tell(change("running", "1"), then=hang)(request)

        return self.serve(watch), gone

    async def test_who_stops_reading_hangs_up(self) -> None:
        client, gone = self.serve_one()
        async with contextlib.aclosing(client.events()) as events:
            async for told in events:
                self.assertEqual(told.id, "1")
                break
        await gone
        self.assertEqual(client._sender._bodies, set())

    async def test_who_closes_the_client_between_two_events_hangs_up(self) -> None:
        client, gone = self.serve_one()
        events = client.events()
        self.assertEqual((await anext(events)).id, "1")
        await client.close()
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
