"""What a try to deliver a callback means."""

import json
from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from asynctask.deliveries import (
    FIRST,
    GIVE_UP,
    LONGEST,
    Answer,
    NoAnswer,
    Refused,
    Tried,
    body,
    judge,
    pause,
    webhook_id,
)
from asynctask.model import CANCELLED, COMPLETED, FAILED, Callback, Error, Task

END = 1_700_000_000.0
TASK = Task(
    task_id="task_1",
    name="a",
    kind="simulate",
    status=COMPLETED,
    attempt=2,
    accepted_at=END - 9,
    run_at=END - 9,
    finished_at=END,
    callback=Callback("https://receiver.example/"),
    input="{}",
    result='{"rows":3}',
    history="[]",
)


def tried(
    outcome: Answer | Refused | NoAnswer, tries: int = 0, now: float = END, chance: float = 0
) -> Tried:
    task = replace(TASK, callback=Callback("https://receiver.example/", tries=tries))
    return judge(task, outcome, now, chance)


class BodyTests(SynchronousTestCase):
    """What is sent."""

    def test_the_task_with_its_result(self) -> None:
        sent = json.loads(body(TASK))
        self.assertEqual(list(sent), ["type", "timestamp", "data"])
        self.assertEqual((sent["type"], sent["timestamp"]), ("task.completed", "2023-11-14T22:13:20.000Z"))
        self.assertEqual(sent["data"]["result"], {"rows": 3})
        self.assertEqual(sent["data"]["callback"]["url"], "https://receiver.example/")

    def test_however_it_ended(self) -> None:
        failed = replace(TASK, status=FAILED, error=Error("ValueError", "no"), result=None)
        self.assertEqual(json.loads(body(failed))["type"], "task.failed")
        self.assertEqual(json.loads(body(failed))["data"]["error"]["type"], "ValueError")
        self.assertEqual(json.loads(body(replace(TASK, status=CANCELLED)))["type"], "task.cancelled")

    def test_each_try_sends_the_same(self) -> None:
        again = Callback("https://receiver.example/", tries=3, error="The receiver answered 500")
        self.assertEqual(body(replace(TASK, callback=again)), body(TASK))

    def test_each_outcome_has_an_id(self) -> None:
        self.assertEqual(webhook_id(TASK), "task_1.2")


class JudgeTests(SynchronousTestCase):
    """What comes of it."""

    def test_only_2xx_is_success(self) -> None:
        for status in range(100, 600):
            found = tried(Answer(status))
            self.assertEqual(found.state == "delivered", 200 <= status < 300, status)
            self.assertEqual(found.error is None, 200 <= status < 300, status)

    def test_410_ends_it(self) -> None:
        self.assertEqual(
            tried(Answer(410)), Tried("task_1", 2, END, "failed", None, "The receiver answered 410")
        )

    def test_an_address_that_is_not_allowed_ends_it(self) -> None:
        self.assertEqual(tried(Refused("No")), Tried("task_1", 2, END, "failed", None, "No"))

    def test_anything_else_is_tried_again(self) -> None:
        for outcome in (Answer(500), Answer(404), Answer(302), Answer(429), NoAnswer("Refused")):
            found = tried(outcome)
            self.assertEqual((found.state, found.due), ("pending", END + FIRST))

    def test_a_redirect_is_said_to_be_one(self) -> None:
        self.assertIn("redirects are not followed", tried(Answer(307)).error or "")

    def test_retry_after_is_waited_for(self) -> None:
        for status in (429, 503, 500):
            self.assertEqual(tried(Answer(status, "120")).due, END + 120)
        self.assertEqual(tried(Answer(429, formatdate(END + 300, usegmt=True))).due, END + 300)

    def test_retry_after_makes_nothing_come_sooner(self) -> None:
        beyond = f"1 Jan {'9' * 20} 00:00:00 GMT"
        for value in ("0", "-1", "soon", "", formatdate(0, usegmt=True), beyond):
            self.assertEqual(tried(Answer(429, value)).due, END + FIRST, value)

    def test_whoever_asks_for_more_than_three_days_gets_no_more(self) -> None:
        for value in (str(int(GIVE_UP) + 1), "9" * 12, "Fri, 31 Dec 9999 23:59:59 GMT"):
            self.assertEqual(tried(Answer(503, value)).state, "failed", value)

    def test_the_last_try_is_after_three_days(self) -> None:
        late = tried(Answer(500), tries=20, now=END + GIVE_UP - 60)
        self.assertEqual(late.due, END + GIVE_UP)
        self.assertEqual(tried(Answer(500), tries=21, now=END + GIVE_UP).state, "failed")
        self.assertEqual(tried(Answer(200), tries=21, now=END + GIVE_UP).state, "delivered")

    @given(st.floats(0, 1, exclude_max=True))
    def test_it_ends_after_so_many_tries(self, chance: float) -> None:
        tries, now = 0, END
        while True:
            found = tried(NoAnswer("Refused"), tries, now, chance)
            tries += 1
            if found.due is None:
                break
            self.assertGreater(found.due, now)
            now = found.due
        self.assertEqual((found.state, now), ("failed", END + GIVE_UP))
        self.assertLessEqual(18, tries)
        self.assertLessEqual(tries, 22)


class PauseTests(SynchronousTestCase):
    """Seconds between tries."""

    def test_they_double(self) -> None:
        self.assertEqual([pause(tries, 0) for tries in range(6)], [5, 10, 20, 40, 80, 160])

    def test_chance_draws_them_out_by_a_quarter_at_most(self) -> None:
        self.assertEqual([pause(0, chance) for chance in (0.0, 0.4, 0.8)], [5, 5.5, 6])

    @given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
    def test_chance_draws_them_out_a_little(self, tries: int, chance: float) -> None:
        seconds = pause(tries, chance)
        self.assertLessEqual(pause(tries, 0), seconds)
        self.assertLessEqual(seconds, pause(tries, 0) * 1.25)
        self.assertLessEqual(pause(tries, 0), LONGEST)
