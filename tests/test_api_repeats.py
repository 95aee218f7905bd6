"""POSTs that are safe to repeat, and a service that is full."""

from collections.abc import Mapping
from types import MappingProxyType

from twisted.logger import LogLevel, capturedLogs

from asynctask.registry import KINDS, Kind
from tests.repeats import SHOUT, RepeatTestCase
from tests.test_api import ApiTestCase


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


class NoneWaitsTests(RepeatTestCase):
    """--max-waiting 0."""

    max_waiting = 0

    def test_it_takes_no_task_and_says_so_once(self) -> None:
        with capturedLogs() as logged:
            self.assertEqual([self.post({"name": "a"}).status for _ in range(2)], [503, 503])
        told = [event["log_format"] for event in logged]
        self.assertEqual(told, ["Too many tasks have not ended; new ones are refused"])


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

    def test_the_log_says_when_it_is_full_and_when_it_is_no_more(self) -> None:
        self.assertEqual(self.post([{"name": "a"}] * 4, "/api/tasks/batch").status, 503)
        for _ in range(3):
            self.submit(duration=1)
        with capturedLogs() as logged:
            statuses = [self.post({"name": "a"}).status for _ in range(2)]
            self.advance(1)
            statuses += [self.post({"name": "a"}).status for _ in range(4)]
        self.assertEqual(statuses, [503, 503, 202, 202, 202, 503])
        full = (LogLevel.warn, "Too many tasks have not ended; new ones are refused")
        room = (LogLevel.info, "There is room for new tasks again")
        told = [(event["log_level"], event["log_format"]) for event in logged]
        self.assertEqual([one for one in told if not one[1].startswith("Task ")], [full, room, full])

    def test_while_there_is_room_for_one_a_batch_that_is_too_large_is_not_told(self) -> None:
        for _ in range(2):
            self.submit(delay=60)
        with capturedLogs() as logged:
            self.assertEqual(self.post([{"name": "a"}] * 2, "/api/tasks/batch").status, 503)
        self.assertEqual(logged, [])

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
