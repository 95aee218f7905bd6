"""Callbacks over a real store in memory, a clock that the test moves, and receivers that do as told."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from standardwebhooks import Webhook
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, capturedLogs, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask import callbacks, model
from asynctask.callbacks import QUICK, SELDOM, SOON, Callbacks
from asynctask.deliveries import FIRST, GIVE_UP, Answer, NoAnswer, Refused
from asynctask.fairqueue import FairQueue
from asynctask.istore import ToTell
from asynctask.metrics import Metrics
from asynctask.model import Callback, Error, Submission, Task, accept, complete
from asynctask.problems import Unavailable
from asynctask.signing import Signer, new_secret
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from asynctask.wire import Ids
from tests.test_metrics import value
from tests.turns import Turns

START = 1_700_000_000.0
URL = "https://receiver.example/hook"
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"

Outcome = Answer | Refused | NoAnswer | Exception


def failing_with(error: Exception) -> Exception:
    """An error that was raised."""
    try:
        raise error
    except Exception:
        return error


class Sent:
    """One POST that waits for its receiver."""

    def __init__(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        self.url = url
        self.headers = dict(headers)
        self.body = body
        self.deferred: Deferred[Answer] = Deferred()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class CallbacksTestCase(SynchronousTestCase):
    """A store, and what is sent."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns()
        self.ids = Ids()
        self.sent: list[Sent] = []
        self.answers: Callable[[Sent], Outcome | None] = lambda _: Answer(200)
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.store = SqlStore(Place(None), self.turns, metrics=Metrics())
        self.store.open([], START)
        self.addCleanup(lambda: self.turns.outcome(self.store.close()))
        self.metrics = Metrics()
        self.make()
        self.callbacks.start()
        self.settle()

    def make(self, queue: FairQueue[ToTell] | None = None, signer: Signer | None = None) -> None:
        self.callbacks = Callbacks(
            self.store.outbox,
            self.post,
            signer,
            self.clock,
            self.now,
            lambda: 0.0,
            queue,
            metrics=self.metrics,
        )

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Deferred[Answer]:
        sent = Sent(url, headers, body)
        self.sent.append(sent)
        self.reply(sent, self.answers(sent))
        return sent.deferred

    def reply(self, sent: Sent, outcome: Outcome | None) -> None:
        if isinstance(outcome, Answer):
            sent.deferred.callback(outcome)
        elif outcome is not None:
            sent.deferred.errback(outcome)

    def now(self) -> float:
        return START + self.clock.seconds()

    def settle(self) -> None:
        for _ in range(4):
            self.clock.advance(0)
            self.turns.outcome(self.store._write(lambda _: None))

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def running(self, url: str | None = URL, **given: Any) -> Task:
        started: list[Task] = []
        self.store.started = started.extend
        new = Submission("a", "simulate", "{}", callback_url=url, **given)
        task = accept(new, self.ids.next(self.now(), bytes(16)), self.now(), TRACE)
        self.turns.outcome(self.store.add([], [task]))
        return started[0]

    def end(self, task: Task) -> Task:
        self.turns.outcome(self.store.end(complete(task, '{"rows":3}', self.now()), self.now()))
        self.settle()
        return task

    def ended(self, url: str | None = URL) -> Task:
        return self.end(self.running(url))

    def callback(self, task: Task) -> Callback:
        found = self.turns.outcome(self.store.get(task.task_id))
        assert found is not None
        assert found.callback is not None
        return found.callback

    def assert_signed(self, sent: Sent, secret: str) -> None:
        """Not by `Webhook.verify`, which knows no clock but the real one."""
        start = datetime.fromtimestamp(START, UTC)
        expected = Webhook(secret).sign(sent.headers["webhook-id"], start, sent.body.decode())
        self.assertEqual(sent.headers["webhook-signature"], expected)

    def logged(self, message: str) -> list[dict[str, Any]]:
        fields = ("task_id", "host", "tries", "status", "error", "again_at")
        return [
            {field: event[field] for field in fields if field in event}
            for event in self.events
            if event.get("log_format") == message
        ]

    def number(self, sample: str, **labels: str) -> float | None:
        text, _ = self.successResultOf(Deferred.fromCoroutine(self.metrics.exposition(openmetrics=False)))
        return value(text, sample, **labels)


class DeliveryTests(CallbacksTestCase):
    """The way of one callback."""

    def test_the_outcome_is_sent_at_once_and_signed(self) -> None:
        task = self.ended()
        (sent,) = self.sent
        self.assertEqual((sent.url, sent.json["type"]), (URL, "task.completed"))
        self.assertEqual(sent.json["data"]["result"], {"rows": 3})
        self.assertEqual(sent.headers["Content-Type"], "application/json")
        self.assertEqual(sent.headers["webhook-id"], f"{task.task_id}.1")
        self.assertEqual(sent.headers["traceparent"], TRACE)
        webhook = Webhook(self.store.outbox.secret)
        at = webhook.sign(
            sent.headers["webhook-id"], datetime.fromtimestamp(START, UTC), sent.body.decode()
        )
        self.assertEqual(sent.headers["webhook-signature"], at)
        self.assertEqual(self.callback(task), Callback(URL, "delivered", 1, None))

    def test_secrets_of_a_file_sign_instead(self) -> None:
        secret = new_secret()
        self.make(signer=Signer([secret]))
        self.callbacks.start()
        self.ended()
        (sent,) = self.sent
        at = Webhook(secret).sign(
            sent.headers["webhook-id"], datetime.fromtimestamp(START, UTC), sent.body.decode()
        )
        self.assertEqual(sent.headers["webhook-signature"], at)

    def test_without_a_callback_nothing_is_sent(self) -> None:
        self.ended(None)
        self.assertEqual(self.sent, [])

    def test_the_log_tells_of_it_without_the_whole_url(self) -> None:
        task = self.ended("https://Receiver.example/hook?token=secret")
        told = {"task_id": task.task_id, "host": "receiver.example", "tries": 1, "status": 200}
        self.assertEqual(self.logged("Callback delivered"), [told])
        self.assertNotIn("secret", str(self.events))

    def test_it_is_tried_again_and_again_with_the_same_id(self) -> None:
        self.answers = lambda _: Answer(500)
        task = self.ended()
        self.assertEqual(self.callback(task), Callback(URL, "pending", 1, "The receiver answered 500"))
        for seconds in (5, 10, 20):
            before = len(self.sent)
            self.advance(seconds - 0.5)
            self.assertEqual(len(self.sent), before)
            self.advance(0.5)
            self.assertEqual(len(self.sent), before + 1)
        self.answers = lambda _: Answer(204)
        self.advance(40)
        self.assertEqual(self.callback(task), Callback(URL, "delivered", 5, "The receiver answered 500"))
        self.assertEqual({sent.headers["webhook-id"] for sent in self.sent}, {f"{task.task_id}.1"})
        self.assertEqual(len({sent.json["timestamp"] for sent in self.sent}), 1)
        self.assertEqual(len({sent.headers["webhook-timestamp"] for sent in self.sent}), 5)
        first = self.logged("Callback failed")[0]
        self.assertEqual(first["again_at"], "2023-11-14T22:13:25.000Z")

    def test_an_error_keeps_nothing_once_it_is_noted(self) -> None:
        error = NoAnswer("The connection was refused")
        error.__cause__ = failing_with(KeyError("why"))
        self.answers = lambda _: error
        self.ended()
        self.advance(1)
        self.assertEqual((error.__traceback__, error.__cause__.__traceback__), (None, None))

    def test_it_is_given_up_after_three_days(self) -> None:
        self.answers = lambda _: NoAnswer("The connection was refused")
        task = self.ended()
        while self.callback(task).state == "pending" and self.clock.seconds() < GIVE_UP + SELDOM:
            self.advance(SELDOM)
        found = self.callback(task)
        self.assertEqual((found.state, found.error), ("failed", "The connection was refused"))
        self.assertLessEqual(18, found.tries)
        self.assertLessEqual(GIVE_UP, self.clock.seconds())

    def test_what_ends_it_at_once(self) -> None:
        for outcome in (Answer(410), Refused("Not public")):
            self.answers = lambda _, outcome=outcome: outcome  # type: ignore[misc]
            task = self.ended()
            self.assertEqual((self.callback(task).state, self.callback(task).tries), ("failed", 1))
        before = len(self.sent)
        self.advance(3_600)
        self.assertEqual(len(self.sent), before)

    def test_a_bug_of_ours_is_logged_and_is_a_failed_try(self) -> None:
        self.answers = lambda _: ZeroDivisionError("a bug")
        task = self.ended()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.callback(task).error, "It could not be sent (ZeroDivisionError)")

    def test_a_try_that_is_over_is_not_waited_for(self) -> None:
        self.ended()
        self.assertEqual(self.callbacks._under_way, set())

    def test_numbers_are_kept(self) -> None:
        codes = [500, 200]
        self.answers = lambda _: Answer(codes.pop(0))
        self.ended()
        self.assertEqual(self.callbacks.pending, 1)
        self.advance(5)
        self.assertEqual(self.callbacks.pending, 0)
        self.answers = lambda _: Answer(410)
        self.ended()
        for outcome in ("retried", "delivered", "failed"):
            self.assertEqual(self.number("callback_tries_total", outcome=outcome), 1, outcome)


class OthersTests(CallbacksTestCase):
    """What else happens to the task meanwhile."""

    def setUp(self) -> None:
        super().setUp()
        self.answers = lambda _: None

    def failed(self) -> Task:
        task = self.running()
        self.turns.outcome(self.store.end(model.fail(task, Error("A", "b"), self.now()), self.now()))
        self.settle()
        return task

    def test_a_task_that_was_deleted_is_forgotten(self) -> None:
        task = self.ended()
        self.turns.outcome(self.store.delete(task.task_id))
        self.reply(self.sent[0], Answer(500))
        self.advance(3_600)
        self.assertEqual((len(self.sent), self.callbacks.pending), (1, 0))

    def test_one_that_was_delivered_meanwhile_counts_all_the_same(self) -> None:
        task = self.ended()
        self.turns.outcome(self.store.delete(task.task_id))
        with capturedLogs() as logged:
            self.reply(self.sent[0], Answer(200))
            self.settle()
        self.assertEqual(self.number("callback_tries_total", outcome="delivered"), 1)
        told = [event["task_id"] for event in logged if event["log_format"] == "Callback delivered"]
        self.assertEqual(told, [task.task_id])

    def test_one_that_was_deleted_before_its_turn_is_not_told(self) -> None:
        first, *_, last = [self.ended() for _ in range(5)]
        self.turns.outcome(self.store.delete(last.task_id))
        self.reply(self.sent[0], Answer(200))
        self.settle()
        self.assertEqual((self.callback(first).state, len(self.sent)), ("delivered", 4))

    def test_a_task_that_was_retried_tells_its_new_outcome_only(self) -> None:
        task = self.failed()
        self.clock.advance(1)
        self.turns.outcome(self.store.retry(task.task_id, self.now()))
        self.turns.outcome(self.store.cancel(task.task_id, self.now()))
        self.reply(self.sent[0], Answer(200))
        self.settle()
        self.advance(SOON)
        self.assertEqual([sent.json["type"] for sent in self.sent], ["task.failed", "task.cancelled"])
        self.assertEqual(self.callback(task).state, "pending")
        self.reply(self.sent[1], Answer(200))
        self.settle()
        self.assertEqual(self.callback(task).state, "delivered")


class FairnessTests(CallbacksTestCase):
    """One dead receiver, and the others."""

    def setUp(self) -> None:
        super().setUp()
        self.answers = lambda sent: None if "dead" in sent.url else Answer(200)

    def hosts(self) -> list[str]:
        return [sent.url.split("/")[2] for sent in self.sent]

    def test_a_dead_receiver_has_four_connections_and_the_others_wait_for_none(self) -> None:
        for _ in range(20):
            self.ended("http://dead.example/")
        self.assertEqual(self.hosts(), ["dead.example"] * 4)
        task = self.ended("http://a.example/")
        self.assertEqual(self.callback(task).state, "delivered")

    def test_however_many_dead_receivers_keep_no_place_from_one_that_answered(self) -> None:
        self.ended("http://a.example/")
        for number in range(12):
            for _ in range(8):
                self.ended(f"http://dead{number}.example/")
        self.assertEqual(len(self.sent) - 1, 48)
        self.assertEqual(self.callback(self.ended("http://a.example/")).state, "delivered")
        stranger = self.ended("http://b.example/")
        self.assertEqual(self.callback(stranger).state, "pending")
        self.reply(self.sent[1], NoAnswer("No answer"))
        self.settle()
        self.assertEqual(self.callback(stranger).state, "delivered")

    def test_one_that_refuses_at_once_is_no_worse_off(self) -> None:
        answers = self.answers
        self.ended("http://a.example/")
        self.answers = lambda _: NoAnswer("The connection was refused")
        self.ended("http://a.example/")
        self.answers = answers
        for number in range(64):
            self.ended(f"http://dead{number}.example/")
        self.assertEqual(self.callback(self.ended("http://a.example/")).state, "delivered")

    def test_those_that_were_tried_in_vain_keep_no_place_from_one_that_was_never_asked(self) -> None:
        for number in range(48):
            self.ended(f"http://dead{number}.example/")
        for sent in self.sent[:]:
            self.clock.advance(QUICK)
            self.reply(sent, NoAnswer("No answer"))
        self.advance(10)
        self.assertEqual(self.callback(self.ended("http://new.example/")).state, "delivered")

    def test_nor_do_new_ones_of_those(self) -> None:
        self.callbacks.stop(0)
        self.make(FairQueue(at_once=4))
        self.callbacks.start()
        dead = [f"http://dead{number}.example/" for number in range(3)]
        for url in dead:
            self.ended(url)
        self.clock.advance(QUICK)
        for sent in self.sent[:]:
            self.reply(sent, NoAnswer("No answer"))
        self.settle()
        for url in dead:
            self.ended(url)
        self.assertEqual(self.callback(self.ended("http://new.example/")).state, "delivered")

    def test_those_that_did_not_answer_keep_none_from_it_either(self) -> None:
        self.callbacks.stop(0)
        self.make(FairQueue(at_once=4))
        self.callbacks.start()
        self.ended("http://a.example/")
        self.answers = lambda _: NoAnswer("No answer")
        for number in range(4):
            self.ended(f"http://dead{number}.example/")
        self.answers = lambda _: None
        self.advance(FIRST)
        self.ended("http://a.example/")
        self.assertEqual(self.hosts()[-1], "a.example")

    def test_sixty_four_connections_in_all(self) -> None:
        for number in range(20):
            self.ended(f"http://{number}.example/")
        self.answers = lambda _: None
        for number in range(20):
            for _ in range(8):
                self.ended(f"http://{number}.example/")
        self.assertEqual(len(self.sent) - 20, 64)

    def test_what_has_no_room_here_is_found_in_the_store_again(self) -> None:
        self.callbacks.stop(0)
        self.make(FairQueue(longest=2))
        for _ in range(9):
            self.ended("http://dead.example/")
            self.ended("http://a.example/")
        self.callbacks.start()
        self.settle()
        self.answers = lambda _: Answer(200)
        for sent in list(self.sent):
            if not sent.deferred.called:
                self.reply(sent, Answer(200))
        for _ in range(9):
            self.advance(SOON)
        self.assertEqual(len(self.sent), 18)
        self.assertEqual(len({sent.headers["webhook-id"] for sent in self.sent}), 18)
        self.assertEqual(self.callbacks.pending, 0)


class LifeTests(CallbacksTestCase):
    """Starts and stops, and a store that fails."""

    def stop(self, grace: float = 2) -> Deferred[None]:
        stopped = self.callbacks.stop(grace)
        self.settle()
        return stopped

    def restart(self) -> None:
        self.make()
        self.callbacks.start()
        self.settle()

    def test_what_ended_before_the_start_is_told(self) -> None:
        self.stop()
        task = self.ended()
        self.assertEqual(self.sent, [])
        self.restart()
        self.assertEqual(self.callback(task).state, "delivered")

    def test_however_much_of_it_there_is_all_is_looked_through(self) -> None:
        self.patch(callbacks, "PAGE", 2)
        self.stop()
        for number in range(5):
            self.ended(f"http://{number}.example/")
        self.restart()
        self.settle()
        self.assertEqual(len(self.sent), 5)

    def test_who_answered_before_the_start_keeps_its_places(self) -> None:
        self.assertEqual(self.callback(self.ended()).state, "delivered")
        self.answers = lambda sent: Answer(200) if sent.url == URL else None
        self.stop()
        for number in range(99):
            self.ended(f"https://dead{number}.example/")
        self.restart()
        self.assertEqual(len(self.sent), 1 + 48)
        self.assertEqual(self.callback(self.ended()).state, "delivered")

    def test_the_time_of_a_next_try_outlives_a_restart(self) -> None:
        self.answers = lambda _: Answer(500)
        self.ended()
        self.stop()
        self.restart()
        self.advance(4.5)
        self.assertEqual(len(self.sent), 1)
        self.advance(0.5)
        self.assertEqual(len(self.sent), 2)

    def test_a_stop_with_nothing_under_way_takes_no_time(self) -> None:
        self.successResultOf(self.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_waits_a_moment_for_answers(self) -> None:
        self.answers = lambda _: None
        task = self.ended()
        stopped = self.stop()
        self.assertNoResult(stopped)
        self.reply(self.sent[0], Answer(200))
        self.settle()
        self.successResultOf(stopped)
        self.assertEqual(self.callback(task).state, "delivered")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_after_a_stop_nothing_is_planned(self) -> None:
        self.answers = lambda _: None
        self.ended()
        stopped = self.stop()
        self.reply(self.sent[0], Answer(500))
        self.settle()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_was_not_answered_by_then_is_tried_anew_and_counts_for_nothing(self) -> None:
        self.given_back: list[str] = []
        give_back = self.store.outbox.give_back

        def note(task: Task, now: float) -> Deferred[None]:
            self.given_back.append(task.task_id)
            return give_back(task, now)

        self.patch(self.store.outbox, "give_back", note)
        self.answers = lambda _: None
        task = self.ended()
        stopped = self.stop()
        self.advance(2)
        self.successResultOf(stopped)
        self.assertEqual(self.callback(task), Callback(URL, "pending", 0, None))
        self.assertEqual(self.given_back, [task.task_id])
        self.restart()
        self.assertEqual(len({sent.headers["webhook-id"] for sent in self.sent}), 1)
        self.assertEqual(len(self.sent), 2)

    def test_nothing_begins_while_it_stops(self) -> None:
        self.answers = lambda _: None
        for _ in range(9):
            self.ended()
        self.stop()
        for sent in self.sent:
            self.reply(sent, Answer(200))
        self.settle()
        self.assertEqual(len(self.sent), 4)

    def test_a_stop_before_a_start_does_nothing(self) -> None:
        self.make()
        self.successResultOf(self.callbacks.stop(2))

    def test_a_store_that_fails_is_asked_again_and_nothing_is_sent_twice(self) -> None:
        self.answers = lambda _: None
        task = self.ended()
        self.store._writer.healthy = False
        self.reply(self.sent[0], Answer(200))
        for _ in range(3):
            self.clock.advance(SOON)
        self.store._writer.healthy = True
        self.advance(SOON)
        self.assertEqual(self.callback(task).state, "delivered")
        self.advance(SELDOM)
        self.assertEqual(len(self.sent), 1)

    def test_what_a_stop_leaves_no_time_to_keep_is_told_again(self) -> None:
        self.answers = lambda _: None
        task = self.ended()
        self.store._writer.healthy = False
        stopped = self.callbacks.stop(2)
        self.reply(self.sent[0], Answer(200))
        self.successResultOf(stopped)
        self.store._writer.healthy = True
        self.assertEqual(self.logged("Callback delivered"), [])
        self.answers = lambda _: Answer(200)
        self.restart()
        self.assertEqual((len(self.sent), self.callback(task).state), (2, "delivered"))

    def test_a_delivery_that_fails_for_a_bug_is_made_again(self) -> None:
        def broken(*_: object) -> Deferred[Any]:
            raise ValueError("a bug")

        sound = self.store.outbox.outcome
        self.store.outbox.outcome = broken  # type: ignore[method-assign, assignment]
        task = self.ended()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.store.outbox.outcome = sound  # type: ignore[method-assign]
        self.advance(SOON)
        self.assertEqual(self.callback(task).state, "delivered")

    def test_while_the_store_fails_nothing_is_sent(self) -> None:
        task = self.running()
        self.store._writer.healthy = False
        self.end_while_failing(task)
        self.clock.advance(SOON)
        self.assertEqual(self.sent, [])
        self.store._writer.healthy = True
        self.advance(SOON)
        self.assertEqual(len(self.sent), 1)

    def test_what_waits_for_its_turn_meanwhile_is_sent_soon_after(self) -> None:
        task = self.running()
        asked: list[float] = []
        self.patch(self.callbacks, "_look_in", asked.append)
        self.store._writer.healthy = False
        self.callbacks.add(ToTell(task.task_id, 1, URL))
        self.assertEqual(asked, [SOON])

    def end_while_failing(self, task: Task) -> None:
        ended = self.store.end(complete(task, "3", self.now()), self.now())
        self.store._writer.healthy = True
        self.turns.outcome(ended.addCallback(self.fail_store))

    def fail_store(self, status: object) -> object:
        self.store._writer.healthy = False
        return status

    def test_a_clock_that_was_set_forward_is_noticed(self) -> None:
        self.answers = lambda _: Answer(500)
        task = self.ended()
        for _ in range(9):
            self.advance(3_600)
        before = self.callback(task).tries
        ahead = 43_200.0
        real = self.now
        self.callbacks._now = lambda: real() + ahead
        self.advance(SELDOM)
        self.assertEqual(self.callback(task).tries, before + 1)

    def test_a_look_that_fails_for_a_bug_is_repeated(self) -> None:
        def broken(*_: object) -> Deferred[Any]:
            raise ValueError("a bug")

        def unavailable(*_: object) -> Deferred[Any]:
            raise Unavailable("Not now")

        self.stop()
        task = self.ended()
        sound = self.store.outbox.due
        for failing in (broken, unavailable):
            self.store.outbox.due = failing  # type: ignore[method-assign, assignment]
            self.restart()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.store.outbox.due = sound  # type: ignore[method-assign]
        self.advance(SOON)
        self.assertEqual(self.callback(task).state, "delivered")
