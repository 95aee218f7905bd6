"""POSTs that bring many tasks at once, and the limits of bodies."""

import json
from collections.abc import Mapping
from types import MappingProxyType

from asynctask.registry import KINDS, Kind
from tests.repeats import SHOUT, TRACE, RepeatTestCase
from tests.test_api import Answer


class BatchTests(RepeatTestCase):
    """POST /api/tasks/batch."""

    kinds: Mapping[str, Kind] = MappingProxyType({**KINDS, "shout": SHOUT})

    def batch(self, body: object, **headers: str) -> Answer:
        return self.post(body, "/api/tasks/batch", **headers)

    def test_all_are_accepted_in_their_order(self) -> None:
        answer = self.batch([{"name": f"{n}", "duration": n} for n in range(3)])
        self.assertEqual((answer.status, list(answer.json)), (202, ["tasks"]))
        self.assertEqual(answer.header("Content-Type"), "application/json")
        tasks = answer.json["tasks"]
        self.assertEqual(
            [list(task.values())[1:] for task in tasks],
            [[f"{n}", "accepted", f"Task will run for {n} seconds in background"] for n in range(3)],
        )
        ids = [task["task_id"] for task in tasks]
        self.assertEqual(ids, sorted(set(ids)))
        self.assertEqual(self.listed(), ids[::-1])
        self.settle()
        self.advance(2)
        for task_id in ids:
            self.assertEqual(self.get(f"/api/tasks/{task_id}").json["status"], "completed")

    def test_it_has_no_location_and_waits_for_the_longest(self) -> None:
        answer = self.batch([{"name": "a", "duration": 2}, {"name": "b", "delay": 7}, {"name": "c"}])
        self.assertEqual((answer.header("Location"), answer.header("Retry-After")), (None, "10"))

    def test_it_does_not_wait(self) -> None:
        answer = self.batch([{"name": "a"}], Prefer="wait=5")
        self.assertEqual((answer.status, answer.header("Preference-Applied")), (202, None))

    def test_all_or_none_with_a_pointer_to_every_bad_one(self) -> None:
        answer = self.batch(
            [
                {"name": "a"},
                {"name": "b", "durration": 1},
                7,
                {"duration": -1},
                {"name": "c", "kind": "shout", "input": {"duration": -1, "x": 1}},
            ]
        )
        self.assert_problem(answer, 400, "Field 'name' is required (non-empty string)")
        self.assertEqual(
            answer.json["errors"][0]["detail"], "Unknown field 'durration'; did you mean 'duration'?"
        )
        self.assertEqual(
            [error["pointer"] for error in answer.json["errors"]],
            ["/1/durration", "/2", "/3/name", "/3/duration", "/4/input/duration", "/4/input/x"],
        )
        self.assertEqual(self.listed(), [])
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats)
        self.assertEqual(self.store.unfinished, 0)

    def test_what_is_no_such_array_is_refused(self) -> None:
        for body in ({}, {"name": "a"}, [], [{"name": "a"}] * 1001, "a", None):
            self.assert_problem(
                self.batch(body), 400, "The body must be a JSON array of 1 to 1,000 objects"
            )
        self.assert_problem(self.batch(b"["), 400, "Invalid JSON")

    def test_1000_tasks_are_one_batch(self) -> None:
        answer = self.batch([{"name": "a", "delay": 60}] * 1000)
        self.assertEqual((answer.status, len(answer.json["tasks"])), (202, 1000))
        self.assertEqual(len(self.listed()), 1000)

    def test_tasks_without_a_seat_wait_their_turn(self) -> None:
        self.batch([{"name": "a", "duration": 1}] * (self.seats + 5))
        self.settle()
        running = self.get("/api/tasks?status=running&limit=1000").json["tasks"]
        self.assertEqual(len(running), self.seats)
        self.advance(2)
        ended = self.get("/api/tasks?status=completed&limit=1000").json["tasks"]
        self.assertEqual(len(ended), self.seats + 5)

    def test_a_batch_may_be_larger_than_a_task(self) -> None:
        name = "x" * 255
        body = json.dumps([{"name": name, "delay": 60}] * 1000).encode()
        padded = body + b" " * (1024 * 1024 - len(body))
        self.assertEqual(self.batch(padded).status, 202)
        answer = self.batch(padded + b" ")
        self.assert_problem(answer, 413, "The body must have at most 1048576 bytes")

    def test_a_task_has_at_most_64_kib(self) -> None:
        body = b'{"name":"a"}'.ljust(64 * 1024)
        self.assertEqual(self.post(body).status, 202)
        self.assert_problem(self.post(body + b" "), 413, "The body must have at most 65536 bytes")

    def test_a_body_that_nobody_reads_has_at_most_as_much(self) -> None:
        task_id = self.post({"name": "a", "delay": 60}).json["task_id"]
        for method, path in (
            ("GET", f"/api/tasks/{task_id}"),
            ("GET", "/api/tasks"),
            ("POST", f"/api/tasks/{task_id}/cancel"),
            ("DELETE", f"/api/tasks/{task_id}"),
            ("POST", "/nothing"),
        ):
            answer = self.request(method, path, b"x" * (64 * 1024 + 1))
            self.assert_problem(answer, 413, "The body must have at most 65536 bytes")
        self.assertEqual(self.get(f"/api/tasks/{task_id}").json["status"], "accepted")
        cancelled = self.request("POST", f"/api/tasks/{task_id}/cancel", b"x" * 64 * 1024)
        self.assertEqual(cancelled.json["status"], "cancelled")

    def test_it_is_json_like_every_body(self) -> None:
        self.assertEqual(self.batch([{"name": "a"}], Content_Type="text/plain").status, 415)

    def test_its_tasks_have_the_trace_of_the_batch(self) -> None:
        answer = self.batch([{"name": "a"}, {"name": "b"}], traceparent=TRACE)
        for task in answer.json["tasks"]:
            self.assertEqual(self.get(f"/api/tasks/{task['task_id']}").json["traceparent"], TRACE)

    def test_while_the_service_stops_nothing_is_accepted(self) -> None:
        self.runner.drain(10)
        answer = self.batch([{"name": "a"}])
        self.assertEqual((answer.status, answer.header("Retry-After")), (503, "1"))

    def test_only_a_post_is_a_batch(self) -> None:
        for method in ("GET", "HEAD", "DELETE", "PUT"):
            answer = self.request(method, "/api/tasks/batch")
            self.assertEqual((answer.status, answer.header("Allow")), (405, "OPTIONS, POST"))
        self.assertEqual(self.request("OPTIONS", "/api/tasks/batch").header("Allow"), "OPTIONS, POST")
