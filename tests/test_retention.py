"""Tasks that ended long ago are forgotten, for a moment at a time, over a real store in memory."""

from collections.abc import Sequence
from typing import cast

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask import maintenance, model
from asynctask.istore import IStore, Key
from asynctask.maintenance import FEWEST
from asynctask.metrics import Metrics
from asynctask.model import (
    Deleted,
    Error,
    News,
    Query,
    Status,
    Submission,
    Task,
    accept,
    after_failure,
    cancel,
    complete,
    start,
)
from asynctask.problems import Unavailable
from asynctask.retention import DAY, IDLE, PAUSE, Retention
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from asynctask.wire import Ids
from tests.turns import Turns

START = 1_700_000_000.0
NO = Error("ValueError", "no")


class RetentionTests(SynchronousTestCase):
    """Whatever ended more than seven days ago."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns()
        self.ids = Ids()
        self.store = SqlStore(Place(None), self.turns, metrics=Metrics())
        self.store.open([], START)
        self.addCleanup(lambda: self.turns.outcome(self.store.close()))
        self.retention = Retention(self.store, 7, self.clock, self.now)

    def now(self) -> float:
        return START + self.clock.seconds()

    def settle(self) -> None:
        self.turns.outcome(self.store._writer.call(lambda _db, _news: None))

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def new(self) -> Task:
        return accept(Submission("a", "simulate", "{}"), self.ids.next(self.now(), bytes(16)), self.now())

    def keep(self, count: int = 1) -> list[Task]:
        """Tasks that are completed now."""
        tasks = [self.new() for _ in range(count)]
        self.turns.outcome(self.store.add([], tasks))
        done = [complete(start(task, self.now()), "null", self.now()) for task in tasks]
        for end in [self.store.end(task, self.now()) for task in done]:
            self.turns.outcome(end)
        return tasks

    def kept(self) -> list[Task]:
        tasks, _ = self.turns.outcome(self.store.list(Query(limit=1_000)))
        return tasks

    def test_a_task_is_kept_for_its_days_and_then_forgotten(self) -> None:
        (task,) = self.keep()
        self.retention.start()
        self.advance(7 * DAY)
        self.assertEqual(len(self.kept()), 1)
        self.advance(IDLE)
        self.assertIsNone(self.turns.outcome(self.store.get(task.task_id)))

    def test_nothing_is_forgotten_for_an_hour_after_the_clock_was_set_forward(self) -> None:
        self.keep()
        self.retention.start()
        self.retention._now = lambda: self.now() + 8 * DAY
        with capturedLogs() as logged:
            for _ in range(3):
                self.retention.hold()
        self.assertEqual(
            [(one["log_format"], one["seconds"]) for one in logged],
            [("Nothing is forgotten for a while, since the clock was set forward", 3_600)],
        )
        for _ in range(59):
            self.advance(IDLE)
        self.assertEqual(len(self.kept()), 1)
        self.advance(IDLE)
        self.assertEqual(self.kept(), [])

    def test_whatever_the_end_a_task_is_forgotten(self) -> None:
        failed, cancelled = self.new(), self.new()
        self.turns.outcome(self.store.add([], [failed, cancelled]))
        self.store.end(model.fail(start(failed, START), NO, START), START)
        self.store.end(cancel(start(cancelled, START), START), START)
        self.settle()
        self.assertEqual({task.status for task in self.kept()}, {Status.FAILED, Status.CANCELLED})
        self.clock.advance(7 * DAY + 1)
        self.retention.start()
        self.advance(PAUSE)
        self.assertEqual(self.kept(), [])

    def test_what_has_not_ended_is_kept_however_old_it_is(self) -> None:
        waiting, running, retrying = self.new(), self.new(), self.new()
        self.turns.outcome(self.store.add([waiting], [running, retrying]))
        self.store.end(after_failure(replace(start(retrying, START), retries=1), NO, START, 1e9), START)
        self.retention.start()
        self.advance(PAUSE)
        self.advance(1_000 * DAY)
        self.assertEqual(
            {task.status for task in self.kept()}, {Status.ACCEPTED, Status.RUNNING, Status.RETRYING}
        )

    def test_a_task_that_was_retried_by_hand_is_kept(self) -> None:
        task = self.new()
        self.turns.outcome(self.store.add([], [task]))
        self.turns.outcome(self.store.end(model.fail(start(task, START), NO, START), START))
        self.turns.outcome(self.store.retry(task.task_id, START + DAY))
        self.retention.start()
        self.advance(PAUSE)
        self.advance(1_000 * DAY)
        self.assertEqual(len(self.kept()), 1)

    def test_a_look_ends_after_its_time_and_the_next_one_goes_on(self) -> None:
        self.patch(maintenance, "ENOUGH", 0.0)
        self.keep(FEWEST)
        self.clock.advance(1)
        newest = [task.task_id for task in self.keep(FEWEST // 2)]
        self.clock.advance(7 * DAY + 1)
        self.retention.start()
        self.advance(PAUSE)
        self.assertEqual(sorted(task.task_id for task in self.kept()), newest)
        self.clock.advance(PAUSE - 0.01)
        self.settle()
        self.assertEqual(len(self.kept()), FEWEST // 2)
        self.advance(0.01)
        self.assertEqual(self.kept(), [])
        (planned,) = self.clock.getDelayedCalls()
        self.assertEqual(planned.getTime() - self.clock.seconds(), IDLE)

    def test_all_of_many_are_forgotten_at_one_look_that_has_the_time(self) -> None:
        self.patch(maintenance, "monotonic", lambda: 0.0)
        self.keep(5 * FEWEST)
        self.clock.advance(7 * DAY + 1)
        self.retention.start()
        self.advance(PAUSE)
        self.assertEqual(self.kept(), [])
        (planned,) = self.clock.getDelayedCalls()
        self.assertEqual(planned.getTime() - self.clock.seconds(), IDLE)

    def events(self) -> list[tuple[int, list[News]]]:
        found = self.turns.outcome(self.store.events(1, 9_999))
        return [] if found is None else [(seq, [*news]) for seq, news in found]

    def test_who_follows_is_told_what_was_forgotten(self) -> None:
        (task,) = self.keep()
        self.clock.advance(7 * DAY + 1)
        self.retention.start()
        self.advance(PAUSE)
        self.assertEqual(self.events()[-1][1], [Deleted(task.task_id, task.kind)])

    def test_what_happened_is_kept_for_a_day_and_256_mib_of_it(self) -> None:
        store = Forgetful(succeed(False))
        Retention(cast(IStore, store), 7, self.clock, self.now).start()
        self.clock.advance(PAUSE)
        self.assertEqual(store.events, [(START + PAUSE - DAY, 256 * 1024 * 1024)])

    def test_much_of_it_is_forgotten_at_several_looks_with_pauses_between_them(self) -> None:
        store = Forgetful(*map(succeed, [False] * 3), more_events=[True, False, False])
        Retention(cast(IStore, store), 7, self.clock, self.now).start()
        for pause, asked in ((PAUSE, 1), (PAUSE, 2), (PAUSE, 2), (IDLE - PAUSE, 3)):
            self.clock.advance(pause)
            self.assertEqual(len(store.events), asked)

    def test_keys_that_have_expired_are_forgotten_too(self) -> None:
        key = Key("k", "digest", "answer", START + DAY)
        self.turns.outcome(self.store.add_once([self.new()], [], key, START))
        self.retention.start()
        self.advance(DAY - 1)
        known = self.turns.outcome(self.store.add_once([self.new()], [], key, START))
        self.assertIsNotNone(known)
        self.advance(IDLE)
        # Asked as if it were still yesterday: it is gone, and not only too old.
        self.assertIsNone(self.turns.outcome(self.store.add_once([self.new()], [], key, START)))

    def test_without_any_days_a_task_is_forgotten_soon_after_its_end(self) -> None:
        self.retention = Retention(self.store, 0, self.clock, self.now)
        self.keep()
        self.retention.start()
        self.advance(PAUSE)
        self.assertEqual(self.kept(), [])

    def test_after_a_stop_nothing_is_forgotten(self) -> None:
        self.keep()
        self.retention.start()
        self.retention.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.advance(8 * DAY)
        self.assertEqual(len(self.kept()), 1)

    def test_a_stop_during_a_look_plans_no_other(self) -> None:
        self.keep()
        self.clock.advance(8 * DAY)
        self.retention.start()
        self.clock.advance(PAUSE)
        self.retention.stop()
        self.settle()
        self.assertEqual((self.kept(), self.clock.getDelayedCalls()), ([], []))

    def test_a_stop_before_a_start_does_nothing(self) -> None:
        self.retention.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_store_that_fails_is_asked_again_later(self) -> None:
        self.keep()
        self.clock.advance(8 * DAY)
        self.retention.start()
        self.store._writer.healthy = False
        self.clock.advance(PAUSE)
        self.store._writer.healthy = True
        self.settle()
        self.assertEqual(len(self.kept()), 1)
        self.advance(IDLE)
        self.assertEqual(self.kept(), [])


class Forgetful:
    """A store that forgets as it is told."""

    def __init__(self, *answers: Deferred[bool], more_events: Sequence[bool] = (False,) * 9) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, float]] = []
        self.more_events = list(more_events)
        self.events: list[tuple[float, int]] = []

    def forget(self, before: float, now: float) -> Deferred[bool]:
        self.asked.append((before, now))
        return self.answers.pop(0)

    def forget_events(self, before: float, most: int) -> Deferred[bool]:
        self.events.append((before, most))
        return succeed(self.more_events.pop(0))


class Full(Forgetful):
    """One in which there is always more."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forget(self, before: float, now: float) -> Deferred[bool]:
        self.asked.append((before, now))
        self.clock.rightNow += 0.125
        return succeed(True)


class Pace(SynchronousTestCase):
    """How much of the time it takes: others wait meanwhile."""

    def test_others_have_as_long_as_a_look_took_before_the_next(self) -> None:
        clock = Clock()
        store = Full(clock)
        Retention(cast(IStore, store), 1, clock, lambda: 10 * DAY).start()
        for seconds, asked in ((PAUSE, 1), (0.125 - PAUSE / 2, 1), (PAUSE, 2)):
            clock.advance(seconds)
            self.assertEqual(len(store.asked), asked)


class Failing(SynchronousTestCase):
    """What goes wrong while it is asked."""

    def test_it_goes_on_after_each_failure_and_logs_what_is_a_bug(self) -> None:
        store = Forgetful(fail(Unavailable("Full")), fail(ValueError("a bug")), succeed(False))
        clock = Clock()
        Retention(cast(IStore, store), 1, clock, lambda: 10 * DAY).start()
        for seconds in (PAUSE, IDLE, IDLE):
            clock.advance(seconds)
        self.assertEqual(store.asked, [(9 * DAY, 10 * DAY)] * 3)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
