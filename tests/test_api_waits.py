"""POSTs and GETs that wait for the end (RFC 7240)."""

from msgspec.structs import replace
from twisted.internet.defer import maybeDeferred

from asynctask.model import FAILED, Task
from asynctask.problems import Unavailable
from tests.repeats import RepeatTestCase


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

    def test_an_end_that_is_told_late_and_was_undone_by_a_retry_ends_no_wait(self) -> None:
        task_id = self.submit(duration=3)
        asked = self.ask("GET", f"/api/tasks/{task_id}", Prefer="wait=5")
        self.settle()
        running: Task = self.turns.outcome(self.store.get(task_id))  # type: ignore[assignment]
        self.feed.publish(self.feed.now.seq, [replace(running, status=FAILED)])
        self.settle()
        self.assertNoResult(asked)
        self.advance(3)
        self.assertEqual(self.answered(asked).json["status"], "completed")

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
