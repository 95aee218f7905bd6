"""The runner, over a real store in memory and a clock that the test moves: starts, seats, drains."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from threading import Event

from msgspec import ValidationError
from msgspec.structs import replace
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from asynctask import backlog
from asynctask.batches import End
from asynctask.claims import AFTER_FAILURE, BEHIND
from asynctask.context import Context, Retry
from asynctask.model import (
    ACCEPTED,
    CANCELLED,
    COMPLETED,
    FAILED,
    RETRYING,
    RUNNING,
    News,
    Progress,
    Status,
    Submission,
    Task,
    accept,
)
from asynctask.problems import Unavailable
from asynctask.recorder import Suspect
from asynctask.runner import PART, SOON, STARTS, UNWIND
from asynctask.wire import NotSerializable, timestamp
from tests.running import START, RunnerTestCase
from tests.turns import PATIENCE


@dataclass
class Code:
    """A dataclass that may end the program."""

    number: int

    def __post_init__(self) -> None:
        if self.number:
            raise SystemExit(self.number)


class RunnerTests(RunnerTestCase):
    """What happens to a task between its commit and its end."""

    def test_an_attempt_that_may_be_made_again_at_once_ends_before_the_next_begins(self) -> None:
        async def handler() -> None:
            raise Retry("now", after=0)

        ticks = count()
        self.now = lambda: START + next(ticks) * 0.0007  # type: ignore[method-assign]
        self.with_handler(handler)
        task_id = self.submit(None, retries=3)
        while (task := self.get(task_id)).status is not FAILED:
            self.clock.advance(0.001)
            self.settle()
        at = [one["at"] for one in json.loads(task.history or "[]")]
        self.assertEqual((at, len(self.flushLoggedErrors(Retry))), (sorted(at), 1))
        self.assertEqual(task.attempt, 4)

    def test_a_task_runs_a_step_a_second_and_completes(self) -> None:
        task_id = self.submit(duration=3)
        self.assertEqual(self.status(task_id), RUNNING)
        self.advance(1)
        self.assertEqual(self.get(task_id).progress, Progress(1, 3))
        self.advance(2)
        task = self.get(task_id)
        self.assertEqual((task.status, task.result, task.progress), (COMPLETED, "null", Progress(3, 3)))
        self.assertEqual(task.finished_at, START + 3)

    def test_an_end_has_one_time(self) -> None:
        moments = count(START)
        self.runner._now = lambda: next(moments)
        for asked in ("completed", "cancelled"):
            task_id = self.submit(duration=1)
            if asked == "cancelled":
                self.turns.outcome(self.store.cancel(task_id, self.now()))
                self.settle()
            self.advance(1)
            task = self.get(task_id)
            last = json.loads(task.history or "")[-1]
            self.assertEqual((last["status"], last["at"]), (asked, timestamp(task.finished_at or 0)))

    def test_a_step_that_comes_late_delays_no_other(self) -> None:
        task_id = self.submit(duration=3)
        self.clock.advance(1.75)
        self.assertEqual(self.get(task_id).progress, Progress(1, 3))
        self.clock.advance(0.25)
        self.assertEqual(self.get(task_id).progress, Progress(2, 3))
        self.advance(5)
        self.assertEqual(self.status(task_id), COMPLETED)

    def test_the_log_tells_what_happens(self) -> None:
        task_id = self.submit(duration=2, name="report")
        self.advance(2)
        (started,) = self.logged("Task started")
        self.assertEqual(
            [started[key] for key in ("task_id", "name", "kind", "attempt")],
            [task_id, "report", "simulate", 1],
        )
        steps = [(event["step"], event["total"]) for event in self.logged("Task progress")]
        self.assertEqual(steps, [(1, 2), (2, 2)])
        (completed,) = self.logged("Task completed")
        self.assertEqual((completed["task_id"], completed["name"]), (task_id, "report"))

    def test_the_log_tells_the_trace_that_a_task_belongs_to(self) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

        async def handler(context: Context, duration: int) -> None:
            context.progress(1, 1)
            context.progress(1, 1, "at last")
            if duration:
                raise ValueError("no")

        self.with_handler(handler)
        self.submit(duration=0, trace=trace)
        self.submit(duration=1, trace=trace, retries=1)
        self.advance(5)
        for message in ("started", "progress", "completed", "retrying", "failed"):
            traces = [event["traceparent"] for event in self.logged(f"Task {message}")]
            self.assertEqual(set(traces), {trace}, message)
        self.flushLoggedErrors(ValueError)

    def test_an_end_that_nothing_crosses_is_written_at_the_first_try(self) -> None:
        asked: list[object] = []
        end = self.store._database.end

        def asking(db: Connection, ends: list[End], news: list[News]) -> list[Status | None]:
            asked.append(ends)
            return end(db, ends, news)

        self.patch(self.store._database, "end", asking)

        async def work(duration: int, context: Context) -> None:
            await deferLater(context.clock, duration)
            if context.attempt == 1:
                raise ValueError("not yet")

        self.with_handler(work)
        fails = self.submit(duration=1)
        retried = self.submit(duration=1, retries=1)
        late, cancelled = self.submit(duration=9, timeout=2.0), self.submit(duration=9)
        self.advance(1)
        self.cancel(cancelled)
        self.assertEqual(self.retry(fails).status, ACCEPTED)
        self.advance(9)
        ended = [self.status(task_id) for task_id in (fails, retried, late, cancelled)]
        self.assertEqual((ended, asked), ([COMPLETED, COMPLETED, FAILED, CANCELLED], []))
        self.flushLoggedErrors(ValueError)

    def test_no_seconds_are_no_steps(self) -> None:
        task_id = self.submit(duration=0)
        self.assertEqual((self.status(task_id), self.logged("Task progress")), (COMPLETED, []))

    def test_a_task_starts_only_after_the_answers_of_its_commit(self) -> None:
        self.turns.outcome(self.store.add([], [self.task()]))
        self.assertEqual(self.logged("Task started"), [])
        self.settle()
        self.assertEqual(len(self.logged("Task started")), 1)

    def test_of_a_task_that_was_taken_away_and_claimed_anew_only_the_later_attempt_begins(self) -> None:
        self.turns.outcome(self.store.add([], [self.task()]))
        (running,) = self.runner._running.values()
        seats, kind = self.runner._seats, running.kind
        before = seats.free(kind)
        seats.reserve(kind, 1)
        self.runner.begin([replace(running.task, attempt=2)])
        self.settle()
        self.assertEqual([event["attempt"] for event in self.logged("Task started")], [2])
        self.assertEqual(seats.free(kind), before)

    def test_the_seat_of_an_attempt_that_was_taken_away_is_for_who_waits(self) -> None:
        self.make(seats=2)
        self.seats.reserve(self.kinds["simulate"], 2)
        self.turns.outcome(self.store.add([], [self.task()]))
        (running,) = self.runner._running.values()
        self.runner.begin([replace(running.task, attempt=2)])
        self.turns.outcome(self.store.add([waits := self.task()], []))
        self.settle()
        started = [event["task_id"] for event in self.logged("Task started")]
        self.assertEqual((started, self.free), ([running.task.task_id, waits.task_id], 0))

    def test_the_more_tasks_wait_for_their_start_the_more_begin_in_a_turn(self) -> None:
        begun = self.begun(*[1] * (PART * 20))
        self.assertEqual(begun[:3], [20, 17, 15])
        self.assertEqual((begun[-2], sum(begun)), (STARTS - 1, PART * 20))

    def test_single_tasks_and_large_batches_keep_no_start_from_each_other(self) -> None:
        begun = self.begun(20, *[1] * (PART * STARTS))
        self.assertEqual((begun[0], sum(begun)), (STARTS + 1, 20 + PART * STARTS))

    def task(self, given: str = '{"duration":1}') -> Task:
        """A new one, not in the store yet."""
        return accept(Submission("a", "simulate", given), self.ids.next(START, bytes(16)), self.now())

    def begun(self, *commits: int) -> list[int]:
        """How many tasks begin in each turn, after commits of so many."""
        found = []
        start_some = self.runner._start_some

        def count() -> None:
            before = len(self.logged("Task started"))
            start_some()
            found.append(len(self.logged("Task started")) - before)

        patched = self.patch(self.runner, "_start_some", count)
        for size in commits:
            self.turns.outcome(self.store.add([], [self.task() for _ in range(size)]))
        self.settle()
        patched.restore()
        return found

    def test_a_delayed_task_starts_when_it_is_due(self) -> None:
        self.runner.start()
        self.settle()
        task_id = self.submit(duration=1, delay=5, starts=False)
        self.advance(4)
        self.assertEqual(self.status(task_id), ACCEPTED)
        self.advance(1)
        self.assertEqual(self.status(task_id), RUNNING)
        self.advance(1)
        self.assertEqual(self.status(task_id), COMPLETED)

    def test_a_task_that_another_process_has_accepted_starts_once_it_is_seen(self) -> None:
        self.runner.start()
        self.settle()
        self.patch(self.store, "waiting", lambda _tasks: None)
        task_id = self.submit(starts=False)
        self.assertEqual(self.status(task_id), ACCEPTED)
        self.store.due(["simulate"])
        self.settle()
        self.assertEqual(self.status(task_id), RUNNING)

    def test_of_several_delayed_tasks_each_starts_in_its_time(self) -> None:
        later = self.submit(duration=0, delay=9, starts=False)
        sooner = self.submit(duration=0, delay=2, starts=False)
        self.advance(2)
        self.assertEqual((self.status(sooner), self.status(later)), (COMPLETED, ACCEPTED))
        self.advance(7)
        self.assertEqual(self.status(later), COMPLETED)

    def test_tasks_wait_for_seats_and_come_in_order(self) -> None:
        self.make(seats=2)
        self.runner.start()
        self.settle()
        ids = [self.submit(duration=2, starts=False) for _ in range(5)]
        self.assertEqual([self.status(one) for one in ids], [RUNNING] * 2 + [ACCEPTED] * 3)
        self.advance(2)
        self.assertEqual([self.status(one) for one in ids], [COMPLETED] * 2 + [RUNNING] * 2 + [ACCEPTED])
        self.assertFalse(self.take())
        self.advance(4)
        self.assertEqual({self.status(one) for one in ids}, {COMPLETED})
        self.assertEqual(self.free, 2)
        self.assertTrue(self.take())

    def test_what_cannot_be_asked_to_end_keeps_nobody_else_from_it(self) -> None:
        waits: list[Deferred[None]] = []

        def refuse(_: Deferred[None]) -> None:
            raise wrong

        async def handler() -> None:
            waits.append(Deferred(refuse if not waits else None))
            await waits[-1]

        for wrong in (ZeroDivisionError, SystemExit):
            waits.clear()
            self.with_handler(handler)
            stubborn, other = self.submit(None), self.submit(None)
            self.assertTrue(self.cancel(stubborn).cancel_requested)
            self.assertEqual(len(self.flushLoggedErrors(wrong)), 1)
            self.runner.drain(0)
            self.advance(1)
            self.assertEqual(self.status(other), RETRYING)
            self.advance(int(UNWIND))
            self.assertEqual(self.status(stubborn), CANCELLED)

    def test_without_seats_tasks_are_only_kept(self) -> None:
        self.make(seats=0)
        self.runner.start()
        task_id = self.submit(starts=False)
        self.advance(10)
        self.assertEqual(self.status(task_id), ACCEPTED)

    def test_what_an_earlier_process_left_goes_on_as_the_next_attempt(self) -> None:
        task_id = self.submit(duration=2)
        self.store._database.owner = "another"
        self.make()
        self.runner.start()
        self.settle()
        self.advance(2)
        task = self.get(task_id)
        self.assertEqual((task.status, task.attempt), (COMPLETED, 2))
        self.assertEqual(len(self.logged("Task was given up, and its end dropped")), 1)

    def test_the_store_learns_which_attempts_are_under_way_here(self) -> None:
        task_id = self.submit(duration=1)
        self.assertEqual([self.store.runs(task_id, attempt) for attempt in (1, 2)], [True, False])
        self.advance(1)
        self.assertFalse(self.store.runs(task_id, 1))

    def test_attempts_that_others_go_on_with_are_stopped_here(self) -> None:
        ended: list[str] = []

        async def handler() -> None:
            try:
                await Deferred()
            finally:
                ended.append("ended")

        self.with_handler(handler)
        task_id = self.submit(None)
        self.store.lost()
        self.advance(1)
        self.assertEqual((ended, self.get(task_id).attempt), (["ended"], 2))

    def test_a_handler_that_raises_fails_its_task(self) -> None:
        async def handler(context: Context, duration: int) -> None:
            await deferLater(self.clock, 1)
            raise ValueError("no\0t so")

        self.with_handler(handler)
        task_id = self.submit()
        self.advance(1)
        task = self.get(task_id)
        assert task.error is not None
        self.assertEqual((task.status, task.error.type), (FAILED, "ValueError"))
        self.assertEqual(task.error.message, "no\u2400t so")
        (failed,) = self.logged("Task failed")
        self.assertEqual(self.flushLoggedErrors(ValueError), [failed["log_failure"]])
        self.assertEqual(self.free, 100)

    def test_an_input_that_would_end_the_program_fails_its_task_and_no_other(self) -> None:
        def plain(code: Code) -> int:
            return code.number

        async def handler(code: Code) -> int:
            return code.number

        for place in ("reactor", "thread", "asyncio"):
            self.with_handler(plain if place == "thread" else handler, place=place)
            tasks = [self.task(f'{{"code":{{"number":{number}}}}}') for number in (3, 0)]
            self.seats.reserve(self.kind, 2)
            self.turns.outcome(self.store.add([], tasks))
            self.settle()
            ending, other = [self.until_ended(task.task_id) for task in tasks]
            assert ending.error is not None
            self.assertEqual((ending.status, ending.error.type), (FAILED, "ValidationError"), place)
            self.assertEqual(ending.error.message, "Field 'input.code' is not valid")
            self.assertEqual((other.status, other.result), (COMPLETED, "0"), place)
            self.assertEqual(len(self.flushLoggedErrors(ValidationError)), 1)
            self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)

    def test_an_object_that_is_called_like_an_async_def_is_a_handler(self) -> None:
        class Handler:
            async def __call__(self, duration: int) -> int:
                await deferLater(clock, 1)
                return duration

        clock = self.clock
        self.with_handler(Handler())
        task_id = self.submit(duration=3)
        self.assertEqual(self.status(task_id), RUNNING)
        self.advance(1)
        self.assertEqual((self.status(task_id), self.get(task_id).result), (COMPLETED, "3"))

    def test_a_backoff_is_asked_only_for_attempts_that_may_come(self) -> None:
        numbers: list[int] = []

        def backoff(number: int) -> float:
            numbers.append(number)
            return 1

        async def failing() -> None:
            raise ValueError("no")

        async def waiting() -> None:
            await Deferred()

        for handler in (failing, waiting):
            self.with_handler(handler, backoff=backoff)
            for retries, asked in ((2, [2, 3]), (0, [])):
                numbers.clear()
                task_id = self.submit(None, retries=retries, timeout=1.0)
                self.advance(6)
                self.assertEqual((self.status(task_id), numbers), (FAILED, asked))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_a_backoff_that_would_end_the_program_is_replaced_by_ours(self) -> None:
        def backoff(number: int) -> float:
            raise SystemExit(number)

        async def handler() -> None:
            raise ValueError("no")

        self.with_handler(handler, backoff=backoff)
        task = self.get(self.submit(None, retries=1))
        self.assertEqual((task.status, task.run_at), (RETRYING, START + 2))
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)

    def test_a_result_that_is_no_json_fails_its_task(self) -> None:
        for result in ({1, 2}, b"x", float("nan")):

            async def handler(context: Context, duration: int, result: object = result) -> object:
                return result

            self.with_handler(handler)
            task = self.get(self.submit())
            assert task.error is not None
            self.assertEqual((task.status, task.error.type), (FAILED, "NotSerializable"))
        self.assertEqual(len(self.flushLoggedErrors(NotSerializable)), 3)

    def test_the_recorder_names_a_task_only_while_it_is_stepped(self) -> None:
        seen: list[list[Suspect]] = []

        @inlineCallbacks
        def handler(context: Context, duration: int) -> Generator[Deferred[None], None, None]:
            seen.append(self.recorder.suspects())
            yield deferLater(self.clock, 1)
            seen.append(self.recorder.suspects())

        self.with_handler(handler)
        task_id = self.submit()
        self.assertEqual(self.recorder.suspects(), [])
        self.advance(1)
        self.assertEqual(seen, [[Suspect(task_id, 1)]] * 2)

    def test_an_end_that_others_count_too_lets_the_next_task_of_its_kind_be_looked_for(self) -> None:
        async def handler() -> None:
            pass

        for shared, expected in ((True, [["simulate"]]), (False, [])):
            self.with_handler(handler, concurrency_total=1)
            self.seats.shared = shared
            looked: list[list[str]] = []
            self.patch(self.runner._claims, "look", looked.append)
            self.assertEqual(self.status(self.submit(None)), COMPLETED)
            self.assertEqual(looked, expected)

    def test_a_drain_starts_nothing_more_and_waits_for_what_runs(self) -> None:
        running = self.submit(duration=2)
        delayed = self.submit(duration=1, delay=1, starts=False)
        drained = self.runner.drain(10)
        self.assertFalse(self.take())
        self.advance(1)
        self.assertNoResult(drained)
        self.advance(1)
        self.successResultOf(drained)
        self.assertEqual((self.status(running), self.status(delayed)), (COMPLETED, ACCEPTED))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_drain_releases_what_takes_longer(self) -> None:
        ids = [self.submit(duration=60) for _ in range(3)]
        drained = self.runner.drain(2)
        self.advance(2)
        self.successResultOf(drained)
        for task_id in ids:
            task = self.get(task_id)
            self.assertEqual((task.status, task.run_at), (RETRYING, START + 2))
            self.assertEqual(task.progress, Progress(2, 60))
        self.assertEqual(len(self.logged("Task retrying")), 3)

    def test_a_drain_releases_what_was_about_to_start(self) -> None:
        task = accept(Submission("a", "simulate", '{"duration":1}'), self.ids.next(START, bytes(16)), START)
        self.turns.outcome(self.store.add([], [task]))
        drained = self.runner.drain(10)
        self.settle()
        self.successResultOf(drained)
        self.assertEqual((self.status(task.task_id), self.logged("Task started")), (RETRYING, []))

    def test_a_drain_does_not_wait_for_ever_for_a_handler_that_clings(self) -> None:
        async def handler(context: Context, duration: int) -> None:
            try:
                await Deferred()
            except CancelledError:
                await Deferred()

        for grace, unwind in ((0, SOON), (3, 3), (60, UNWIND)):
            self.with_handler(handler)
            task_id = self.submit()
            drained = self.runner.drain(grace)
            self.settle()
            self.advance(grace + int(unwind) - 1)
            self.assertNoResult(drained)
            self.advance(1)
            self.successResultOf(drained)
            self.assertEqual(self.status(task_id), RETRYING)

    def test_a_drain_does_not_wait_for_ever_for_ends_that_cannot_be_written(self) -> None:
        self.patch(self.store, "end", lambda _task, _now: Deferred())
        for grace, unwind in ((0, SOON), (3, 3), (60, UNWIND)):
            self.make()
            self.submit(duration=90)
            drained = self.runner.drain(grace)
            self.settle()
            self.advance(grace + 2 * int(unwind) - 1)
            self.assertNoResult(drained)
            self.advance(1)
            self.successResultOf(drained)

    def test_a_drain_of_nothing_is_over_at_once(self) -> None:
        self.successResultOf(self.runner.drain(10))

    def test_due_tasks_are_looked_for_again_after_the_store_failed(self) -> None:
        self.store._writer.healthy = False
        self.runner.start()
        self.store._writer.healthy = True
        task_id = self.submit(duration=0, starts=False)
        self.clock.advance(AFTER_FAILURE)
        self.settle()
        self.assertEqual(self.status(task_id), COMPLETED)

    def test_a_store_that_fails_refuses(self) -> None:
        self.store._writer.healthy = False
        self.assertRaises(Unavailable, self.store.add, [], [])
        self.store._writer.healthy = True


class BehindTests(RunnerTestCase):
    """Attempts end faster than the store writes it."""

    def setUp(self) -> None:
        super().setUp()
        # Each transaction waits for the answers of the last one, and has two ends beside a new task.
        self.patch(backlog, "GIVEN", PATIENCE)
        self.patch(backlog, "FEWEST", 1)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction of the store's takes as long as this."""
        begun, over = Event(), Event()

        def hold(_db: Connection, _news: list[News]) -> None:
            begun.set()
            over.wait(PATIENCE)

        self.store._writer.call(hold)
        self.turns.catch_up()
        begun.wait(PATIENCE)
        yield
        self.turns.catch_up()
        over.set()

    def started(self, number: int) -> list[str]:
        self.runner.start()
        self.settle()
        return [self.submit(duration=1) for _ in range(number)]

    def assert_new_ones_wait(self, running: list[str]) -> None:
        """Until the ends are written of those that run, which come together now; and all run once."""
        new = Submission("a", "simulate", '{"duration":1}')
        waiting = accept(new, self.ids.next(self.now(), bytes(16)), self.now())
        with self.writing():
            self.clock.advance(1)
            self.turns.catch_up()
            self.assertFalse(self.take())
            added = self.store.add([waiting], [])
        self.turns.outcome(added)
        self.assertEqual(self.status(waiting.task_id), ACCEPTED)
        self.settle()
        self.assertEqual(self.status(waiting.task_id), ACCEPTED)
        self.clock.advance(BEHIND)
        self.settle()
        self.assertEqual(self.status(waiting.task_id), RUNNING)
        self.advance(1)
        tasks = [self.get(task_id) for task_id in (*running, waiting.task_id)]
        self.assertEqual({(task.status, task.attempt) for task in tasks}, {(COMPLETED, 1)})
        self.assertTrue(self.take())

    def test_ends_that_wait_hold_back_new_starts(self) -> None:
        self.patch(backlog, "BEHIND", 2)
        self.assert_new_ones_wait(self.started(5))

    def test_so_do_results_before_there_is_no_room_for_more_of_them(self) -> None:
        async def handler(duration: int) -> str:
            await deferLater(clock, duration)
            return "123456"

        clock = self.clock
        self.with_handler(handler)
        self.store._writer._backlog.most_kept = 40
        self.assert_new_ones_wait(self.started(5))
