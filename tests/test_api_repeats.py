"""POSTs that are safe to repeat, that wait for the end, and that bring many tasks at once."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, maybeDeferred

from asynctask.model import Unavailable
from asynctask.registry import KINDS, Kind
from tests.test_api import BASE, JSON, Answer, ApiTestCase

SHOUT = replace(KINDS["simulate"], name="shout", function=print)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WHOLE = ("Content-Type", "Location", "Retry-After", "Content-Length")


class RepeatTestCase(ApiTestCase):
    """Asks without waiting for the answer."""

    def ask(self, method: str, path: str, body: object = None, **headers: str | bytes) -> Deferred[Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body).encode()
        asked: Deferred[Any] = self.treq.request(method, BASE + path, data=data, headers=JSON | named)
        self.treq.flush()
        return asked

    def answered(self, asked: Deferred[Any]) -> Answer:
        response = self._fired(asked)
        return Answer(response, self._fired(response.content()))

    def listed(self) -> list[str]:
        """The ids of all tasks."""
        return [task["task_id"] for task in self.get("/api/tasks?limit=1000").json["tasks"]]

    def assert_same(self, one: Answer, other: Answer) -> None:
        self.assertEqual((one.status, one.body), (other.status, other.body))
        for name in WHOLE:
            self.assertEqual(one.header(name), other.header(name), name)


class SeatTests(RepeatTestCase):
    """The seat that a POST has for a moment."""

    seats = 1

    def test_a_repeat_gives_it_to_who_has_come_due_meanwhile(self) -> None:
        body = {"name": "a", "duration": 0}
        self.post(body, Idempotency_Key="k")
        waits = self.submit(delay=1, duration=0)
        self.settle()
        again = self.ask("POST", "/api/tasks", body, Idempotency_Key="k")
        self.clock.advance(1)
        self.assertEqual(self.answered(again).status, 202)
        self.settle()
        self.assertEqual(self.get(f"/api/tasks/{waits}").json["status"], "completed")


class KeyTests(RepeatTestCase):
    """Idempotency-Key."""

    def test_a_repeat_gets_the_first_answer_byte_for_byte(self) -> None:
        body = {"name": "ü", "duration": 2, "delay": 3}
        first = self.post(body, Idempotency_Key="k")
        self.assertEqual((first.status, first.header("Retry-After")), (202, "5"))
        for seconds in (0, 1, 9):
            self.advance(seconds)
            self.assert_same(self.post(body, Idempotency_Key="k"), first)
        self.assertEqual(self.listed(), [first.json["task_id"]])

    def test_spaces_and_the_order_of_keys_make_no_other_body(self) -> None:
        first = self.post(b'{"name":"a","duration":1}', Idempotency_Key="k")
        again = self.post(b' { "duration" : 1, "n\\u0061me":"a" } ', Idempotency_Key="k")
        self.assert_same(again, first)

    def test_another_body_is_refused_and_the_first_is_still_known(self) -> None:
        first = self.post({"name": "a"}, Idempotency_Key="k")
        answer = self.post({"name": "b"}, Idempotency_Key="k")
        self.assert_problem(answer, 422, "This Idempotency-Key was used with another body; take a new key")
        self.assertEqual(answer.json["title"], "Unprocessable Content")
        self.assert_same(self.post({"name": "a"}, Idempotency_Key="k"), first)
        self.assertEqual(len(self.listed()), 1)

    def test_with_and_without_quotes_it_is_one_key(self) -> None:
        first = self.post({"name": "a"}, Idempotency_Key='"k"')
        self.assert_same(self.post({"name": "a"}, Idempotency_Key="k"), first)

    def test_another_key_is_another_task(self) -> None:
        answers = [self.post({"name": "a"}, Idempotency_Key=key) for key in ("k", "K", "k2", "'k'")]
        self.assertEqual(len({answer.json["task_id"] for answer in answers}), 4)
        self.assertEqual(len(self.listed()), 4)

    def test_a_key_has_1_to_255_characters(self) -> None:
        self.assertEqual(self.post({"name": "a"}, Idempotency_Key="x" * 255).status, 202)
        for key in ("", '""', "x" * 256):
            answer = self.post({"name": "a"}, Idempotency_Key=key)
            sentence = "Idempotency-Key must be given once, with 1 to 255 characters"
            self.assert_problem(answer, 400, sentence)
        self.assertEqual(len(self.listed()), 1)
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats - 1)

    def test_a_key_is_known_for_a_day(self) -> None:
        first = self.post({"name": "a", "duration": 0}, Idempotency_Key="k")
        self.settle()
        self.clock.advance(86_399)
        self.assert_same(self.post({"name": "a", "duration": 0}, Idempotency_Key="k"), first)
        self.clock.advance(1)
        again = self.post({"name": "b"}, Idempotency_Key="k")
        self.assertEqual(again.status, 202)
        self.assertNotEqual(again.json["task_id"], first.json["task_id"])

    def test_only_a_202_is_remembered(self) -> None:
        self.assertEqual(self.post({"name": ""}, Idempotency_Key="k").status, 400)
        self.assertEqual(self.post({"name": "a"}, Idempotency_Key="k", Content_Type="a/b").status, 415)
        self.store._writer.healthy = False
        self.assertEqual(self.post({"name": "a"}, Idempotency_Key="k").status, 503)
        self.store._writer.healthy = True
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats)
        self.assertEqual(self.post({"name": "b"}, Idempotency_Key="k").status, 202)
        self.assertEqual(len(self.listed()), 1)

    def test_a_key_outlives_its_task(self) -> None:
        first = self.post({"name": "a", "duration": 0}, Idempotency_Key="k")
        self.settle()
        self.assertEqual(self.request("DELETE", first.header("Location") or "").status, 204)
        for headers in ({}, {"Prefer": "wait=5"}):
            self.assert_same(self.post({"name": "a", "duration": 0}, Idempotency_Key="k", **headers), first)
        self.assertEqual(self.listed(), [])

    def test_many_at_once_give_one_task(self) -> None:
        asked = [self.ask("POST", "/api/tasks", {"name": "a"}, Idempotency_Key="k") for _ in range(100)]
        first, *others = [self.answered(one) for one in asked]
        self.assertEqual(first.status, 202)
        for other in others:
            self.assert_same(other, first)
        self.settle()
        self.assertEqual(self.listed(), [first.json["task_id"]])
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats - 1)
        self.assertEqual(self.store.unfinished, 1)

    def test_many_at_once_with_different_bodies_give_one_task(self) -> None:
        asked = [self.ask("POST", "/api/tasks", {"name": f"{n}"}, Idempotency_Key="k") for n in range(9)]
        self.assertEqual(sorted(self.answered(one).status for one in asked), [202] + [422] * 8)
        self.assertEqual(len(self.listed()), 1)

    def test_batches_with_the_same_keys_in_opposite_order_do_not_wait_for_each_other(self) -> None:
        batch = [{"name": "a"}, {"name": "b"}]
        asked = {
            (turn, key): self.ask("POST", "/api/tasks/batch", batch, Idempotency_Key=key)
            for turn, keys in enumerate((("k1", "k2"), ("k2", "k1")))
            for key in keys
        }
        answers = {name: self.answered(one) for name, one in asked.items()}
        for key in ("k1", "k2"):
            self.assert_same(answers[0, key], answers[1, key])
        self.assertEqual((answers[0, "k1"].status, len(self.listed())), (202, 4))

    def test_a_key_of_a_task_is_none_of_a_batch(self) -> None:
        self.assertEqual(self.post({"name": "a"}, Idempotency_Key="k").status, 202)
        self.assertEqual(self.post([{"name": "a"}], "/api/tasks/batch", Idempotency_Key="k").status, 422)

    def test_a_batch_is_repeated_like_a_task(self) -> None:
        batch = [{"name": "a", "delay": 9}, {"name": "b"}]
        first = self.post(batch, "/api/tasks/batch", Idempotency_Key="k")
        self.advance(5)
        self.assert_same(self.post(batch, "/api/tasks/batch", Idempotency_Key="k"), first)
        self.assertEqual(self.post(batch[::-1], "/api/tasks/batch", Idempotency_Key="k").status, 422)
        self.assertEqual(len(self.listed()), 2)

    def test_a_field_that_is_no_utf_8_is_no_bug_of_ours(self) -> None:
        asked = [
            self.ask("POST", "/api/tasks", {"name": "a"}, **{name: b"\xff\xfe"})
            for name in ("Idempotency_Key", "Idempotency_Key", "Prefer", "traceparent")
        ]
        first, again, *others = [self.answered(one) for one in asked]
        self.assertEqual([one.status for one in (first, again, *others)], [202] * 4)
        self.assert_same(first, again)
        path = first.header("Location") or ""
        self.assertEqual(self.answered(self.ask("GET", path, If_None_Match=b'"\xff"')).status, 200)


class WaitTests(RepeatTestCase):
    """Prefer: wait=N."""

    def test_a_post_is_answered_with_the_task_when_it_ends_in_time(self) -> None:
        asked = self.ask("POST", "/api/tasks", {"name": "a", "duration": 2}, Prefer="wait=5")
        self.settle()
        self.advance(1)
        self.assertNoResult(asked)
        self.advance(1)
        answer = self.answered(asked)
        self.assertEqual((answer.status, answer.json["status"]), (200, "completed"))
        self.assertEqual(answer.header("Preference-Applied"), "wait=5")
        self.assertEqual((answer.header("Location"), answer.header("Retry-After")), (None, None))
        self.assertEqual(answer.body, self.get(f"/api/tasks/{answer.json['task_id']}").body)

    def test_a_post_is_answered_as_ever_when_the_task_takes_longer(self) -> None:
        asked = self.ask("POST", "/api/tasks", {"name": "a", "duration": 9}, Prefer="wait=2")
        self.settle()
        self.advance(1)
        self.assertNoResult(asked)
        self.advance(1)
        answer = self.answered(asked)
        self.assertEqual((answer.status, answer.header("Retry-After")), (202, "9"))
        self.assertEqual(list(answer.json), ["task_id", "name", "status", "message"])
        self.assertEqual(answer.header("Preference-Applied"), "wait=2")
        self.assertEqual(answer.header("Location"), f"/api/tasks/{answer.json['task_id']}")

    def test_a_get_is_answered_when_the_task_ends(self) -> None:
        task_id = self.submit(duration=2)
        asked = self.ask("GET", f"/api/tasks/{task_id}", Prefer="wait=5")
        self.advance(1)
        self.assertNoResult(asked)
        self.advance(1)
        answer = self.answered(asked)
        self.assertEqual((answer.status, answer.json["status"]), (200, "completed"))
        self.assertEqual(answer.header("Preference-Applied"), "wait=5")
        self.assertEqual(answer.header("Retry-After"), None)

    def test_a_get_is_answered_with_the_task_as_it_is_when_it_takes_longer(self) -> None:
        task_id = self.submit(duration=9)
        asked = self.ask("GET", f"/api/tasks/{task_id}", Prefer="wait=2")
        self.settle()
        self.advance(2)
        answer = self.answered(asked)
        self.assertEqual((answer.status, answer.json["status"]), (200, "running"))
        self.assertEqual(answer.json["progress"]["step"], 2)
        self.assertEqual(answer.header("Retry-After"), "7")

    def test_a_task_that_has_ended_or_never_was_is_not_waited_for(self) -> None:
        task_id = self.submit(duration=0)
        answer = self.get(f"/api/tasks/{task_id}", Prefer="wait=5")
        self.assertEqual(
            (answer.json["status"], answer.header("Preference-Applied")), ("completed", "wait=5")
        )
        self.assertEqual(self.get("/api/tasks/task_" + "0" * 30, Prefer="wait=5").status, 404)
        self.assertEqual(self.feed._waiting, {})

    def test_nobody_waits_longer_than_50_seconds(self) -> None:
        task_id = self.submit(duration=99)
        asked = self.ask("GET", f"/api/tasks/{task_id}", Prefer="wait=86400")
        self.settle()
        self.advance(49)
        self.assertNoResult(asked)
        self.advance(1)
        answer = self.answered(asked)
        self.assertEqual((answer.status, answer.header("Preference-Applied")), (200, "wait=50"))

    def test_waiting_no_second_is_not_waiting(self) -> None:
        asked = self.ask("POST", "/api/tasks", {"name": "a"}, Prefer="wait=0")
        self.settle()
        answer = self.answered(asked)
        self.assertEqual((answer.status, answer.header("Preference-Applied")), (202, "wait=0"))

    def test_other_preferences_are_passed_over(self) -> None:
        answer = self.post({"name": "a"}, Prefer="respond-async, wait=soon")
        self.assertEqual((answer.status, answer.header("Preference-Applied")), (202, None))

    def test_a_cancel_is_an_end_too(self) -> None:
        asked = self.ask("POST", "/api/tasks", {"name": "a", "delay": 60}, Prefer="wait=5")
        self.settle()
        (task_id,) = self.listed()
        self.assertEqual(self.request("POST", f"/api/tasks/{task_id}/cancel").status, 200)
        answer = self.answered(asked)
        self.assertEqual((answer.status, answer.json["status"]), (200, "cancelled"))

    def test_a_task_that_is_deleted_at_its_end_is_accepted_all_the_same(self) -> None:
        asked = self.ask("POST", "/api/tasks", {"name": "a", "delay": 60}, Prefer="wait=5")
        self.settle()
        (task_id,) = self.listed()
        # Committed with the cancel, before whoever waits has read the task again.
        cancelled, deleted = self.store.cancel(task_id, self.now()), self.store.delete(task_id)
        self.turns.outcome(cancelled)
        self.turns.outcome(deleted)
        self.assertEqual(self.answered(asked).status, 202)

    def test_all_who_wait_for_a_task_are_answered(self) -> None:
        task_id = self.submit(duration=2)
        asked = [self.ask("GET", f"/api/tasks/{task_id}", Prefer="wait=5") for _ in range(5)]
        self.settle()
        self.advance(2)
        self.assertEqual([self.answered(one).json["status"] for one in asked], ["completed"] * 5)
        self.assertEqual(self.feed._waiting, {})

    def test_a_repeat_waits_by_its_own_wish(self) -> None:
        body = {"name": "a", "duration": 3}
        first = self.post(body, Idempotency_Key="k")
        asked = self.ask("POST", "/api/tasks", body, Idempotency_Key="k", Prefer="wait=9")
        self.settle()
        self.advance(3)
        answer = self.answered(asked)
        self.assertEqual((answer.status, answer.json["status"]), (200, "completed"))
        self.assertEqual(answer.json["task_id"], first.json["task_id"])
        again = self.post(body, Idempotency_Key="k")
        self.assert_same(again, first)
        self.assertIsNone(again.header("Preference-Applied"))

    def test_what_was_answered_after_a_wait_is_repeated_as_a_202(self) -> None:
        body = {"name": "a", "duration": 0}
        waited = self.ask("POST", "/api/tasks", body, Idempotency_Key="k", Prefer="wait=9")
        self.settle()
        self.assertEqual(self.answered(waited).status, 200)
        again = self.post(body, Idempotency_Key="k")
        self.assertEqual((again.status, again.header("Retry-After")), (202, "0"))

    def test_a_client_that_hangs_up_while_it_waits_leaves_nothing_behind(self) -> None:
        task_id = self.submit(duration=60, name="b")
        before = len(self.clock.getDelayedCalls())
        for reads in (True, False):
            asked = self.ask("GET", f"/api/tasks/{task_id}", Prefer="wait=50")
            if not reads:
                self.settle()
            self.assertEqual(len(self.feed._waiting), 1)
            asked.addErrback(lambda _: None)
            asked.cancel()
            self.treq.flush()
            self.settle()
            self.assertEqual(self.feed._waiting, {})
            self.assertEqual(len(self.clock.getDelayedCalls()), before)

    def test_a_post_whose_client_hangs_up_while_it_waits_runs_on(self) -> None:
        asked = self.ask("POST", "/api/tasks", {"name": "a", "duration": 1}, Prefer="wait=50")
        self.settle()
        self.assertEqual(len(self.feed._waiting), 1)
        asked.addErrback(lambda _: None)
        asked.cancel()
        self.treq.flush()
        self.assertEqual(self.feed._waiting, {})
        self.advance(1)
        (task,) = self.get("/api/tasks").json["tasks"]
        self.assertEqual(task["status"], "completed")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_drain_answers_open_waits(self) -> None:
        task_id = self.submit(duration=60)
        get = self.ask("GET", f"/api/tasks/{task_id}", Prefer="wait=50")
        post = self.ask("POST", "/api/tasks", {"name": "b"}, Prefer="wait=50")
        self.settle()
        self.runner.drain(10)
        self.feed.close()
        answer = self.answered(get)
        self.assertEqual((answer.status, answer.json["status"]), (200, "running"))
        self.assertEqual(self.answered(post).status, 202)
        # Who comes now does not wait either.
        answer = self.get(f"/api/tasks/{task_id}", Prefer="wait=50")
        self.assertEqual((answer.status, answer.json["status"]), (200, "running"))
        self.assertEqual(self.feed._waiting, {})

    def test_a_post_that_is_committed_while_the_drain_begins_does_not_wait(self) -> None:
        asked = self.ask("POST", "/api/tasks", {"name": "a"}, Prefer="wait=50")
        self.feed.close()
        self.settle()
        self.assertEqual(self.answered(asked).status, 202)

    def test_what_was_accepted_is_said_so_although_it_cannot_be_read(self) -> None:
        def fail(_task_id: str) -> None:
            raise Unavailable("The store does not answer now")

        for broken in (fail, lambda task_id: maybeDeferred(fail, task_id)):
            self.store.get = broken  # type: ignore[method-assign, assignment]
            asked = self.ask("POST", "/api/tasks", {"name": "a", "delay": 9}, Prefer="wait=5")
            answer = self.answered(asked)
            self.assertEqual((answer.status, answer.header("Retry-After")), (202, "12"))
            self.assertEqual(self.get(f"/api/tasks/{answer.json['task_id']}", Prefer="wait=5").status, 503)
        self.assertEqual((len(self.listed()), self.feed._waiting), (2, {}))


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
        self.assert_problem(answer, 400, "Unknown field 'durration'; did you mean 'duration'?")
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


class ChangedKindTests(RepeatTestCase):
    """A key of a task whose kind is not what it was."""

    kinds: Mapping[str, Kind] = MappingProxyType({**KINDS, "shout": SHOUT})

    def setUp(self) -> None:
        self.kinds = dict(self.kinds)
        super().setUp()

    def test_the_same_body_is_answered_as_before(self) -> None:
        body = {"name": "a", "kind": "shout", "delay": 60, "input": {"duration": 1}}
        for path, given in (("/api/tasks", body), ("/api/tasks/batch", [body, body])):
            first = self.post(given, path, Idempotency_Key=path)
            self.assertEqual(first.status, 202)
            shout = self.kinds.pop("shout")  # type: ignore[attr-defined]
            self.assert_same(self.post(given, path, Idempotency_Key=path), first)
            for key in ({}, {"Idempotency_Key": "another"}, {"Idempotency_Key": ""}):
                self.assert_problem(self.post(given, path, **key), 400, "Unknown kind 'shout'")
            other = {**body, "name": "b"}
            refused = self.post(other if path == "/api/tasks" else [other], path, Idempotency_Key=path)
            self.assert_problem(refused, 400, "Unknown kind 'shout'")
            self.kinds["shout"] = shout  # type: ignore[index]

    def test_it_waits_by_its_own_wish(self) -> None:
        body = {"name": "a", "kind": "shout", "input": {"duration": 0}}
        self.post(body, Idempotency_Key="k")
        self.settle()
        del self.kinds["shout"]  # type: ignore[attr-defined]
        again = self.post(body, Idempotency_Key="k", Prefer="wait=9")
        self.assertEqual((again.status, again.header("Preference-Applied")), (200, "wait=9"))

    def test_what_belongs_to_the_other_path_is_no_answer_here(self) -> None:
        body = {"name": "a", "delay": 60}
        self.assertEqual(self.post([body], "/api/tasks/batch", Idempotency_Key="k").status, 202)
        self.assertEqual(self.post([body], Idempotency_Key="k").status, 400)
        self.assertEqual(self.post(body, Idempotency_Key="one").status, 202)
        self.assertEqual(self.post(body, "/api/tasks/batch", Idempotency_Key="one").status, 400)


class MaxWaitingTests(RepeatTestCase):
    """--max-waiting."""

    max_waiting = 3

    def test_above_it_the_service_is_full_until_a_task_has_ended(self) -> None:
        first = self.submit(duration=1)
        for _ in range(2):
            self.submit(delay=60)
        answer = self.post({"name": "a"})
        self.assert_problem(answer, 503, "The service is full: too many tasks have not ended")
        self.assertEqual(answer.header("Retry-After"), "5")
        self.advance(1)
        self.assertEqual(self.get(f"/api/tasks/{first}").json["status"], "completed")
        self.assertEqual(self.post({"name": "a"}).status, 202)

    def test_a_retry_needs_room_too(self) -> None:
        task_id = self.submit(delay=60)
        retry = f"/api/tasks/{task_id}/retry"
        self.assertEqual(self.post(b"", f"/api/tasks/{task_id}/cancel").status, 200)
        for _ in range(3):
            self.submit(delay=60)
        self.assert_problem(
            self.post(b"", retry), 503, "The service is full: too many tasks have not ended"
        )
        self.assertEqual(self.post(b"", f"/api/tasks/{self.listed()[0]}/cancel").status, 200)
        self.assertEqual(self.post(b"", retry).status, 202)

    def test_a_batch_fits_whole_or_not_at_all(self) -> None:
        self.submit()
        batch = "/api/tasks/batch"
        self.assertEqual(self.post([{"name": "a"}] * 3, batch).status, 503)
        self.assertEqual(self.post([{"name": "a"}] * 2, batch).status, 202)
        self.assertEqual(len(self.listed()), 3)

    def test_those_on_their_way_count(self) -> None:
        asked = [self.ask("POST", "/api/tasks", {"name": "a"}) for _ in range(5)]
        statuses = [self.answered(one).status for one in asked]
        self.assertEqual(statuses, [202, 202, 202, 503, 503])

    def test_those_with_a_key_on_their_way_count_too(self) -> None:
        asked = [self.ask("POST", "/api/tasks", {"name": "a"}, Idempotency_Key=f"{n}") for n in range(5)]
        statuses = [self.answered(one).status for one in asked]
        self.assertEqual(statuses, [202, 202, 202, 503, 503])


class FullRepeatTests(ApiTestCase):
    """A service that has no room."""

    max_waiting = 1

    def test_what_was_accepted_is_answered_again_although_it_is_full(self) -> None:
        first = self.post({"name": "a", "delay": 60}, Idempotency_Key="k")
        self.assertEqual(first.status, 202)
        self.assertEqual(self.post({"name": "a", "delay": 60}, Idempotency_Key="k").body, first.body)
        for headers in ({"Idempotency_Key": "other"}, {}):
            refused = self.post({"name": "a", "delay": 60}, **headers)
            self.assertEqual((refused.status, refused.header("Retry-After")), (503, "5"))
        self.assertEqual(len(self.get("/api/tasks").json["tasks"]), 1)

    def test_the_same_number_written_otherwise_is_the_same_body(self) -> None:
        first = self.post({"name": "a", "duration": 60}, Idempotency_Key="k")
        again = self.post({"duration": 60.0, "name": "a"}, Idempotency_Key="k")
        self.assertEqual((again.status, again.body), (202, first.body))
