"""Tasks that somebody wants to end, and a service that stops."""

import asyncio
import contextlib
import threading

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from asynctask.context import Context
from asynctask.model import (
    ACCEPTED,
    CANCELLED,
    COMPLETED,
    RETRYING,
    RUNNING,
    Progress,
    Submission,
    accept,
)
from asynctask.runner import UNWIND
from tests.running import START, EndsTestCase
from tests.turns import PATIENCE


class Cancels(EndsTestCase):
    """A task that somebody wants to end."""

    def test_a_waiting_task_never_starts(self) -> None:
        self.runner.start()
        self.settle()
        task_id = self.submit(delay=2, starts=False)
        self.assertEqual(self.cancel(task_id).status, CANCELLED)
        self.advance(5)
        self.assertEqual((self.status(task_id), self.logged("Task started")), (CANCELLED, []))

    def test_a_task_that_waits_for_its_retry_never_starts_again(self) -> None:
        self.with_failing(ValueError("no"))
        task_id = self.submit(None, retries=1)
        self.assertEqual(self.cancel(task_id).status, CANCELLED)
        self.advance(5)
        self.assertEqual(self.outcome(task_id), (CANCELLED, "ValueError", 1))

    def claimed(self) -> str:
        """A task that its commit has claimed, and that has not begun."""
        new = Submission("a", "simulate", '{"duration":1}')
        task = accept(new, self.ids.next(self.now(), bytes(16)), self.now())
        self.seats.reserve(self.kinds["simulate"], 1)
        self.turns.outcome(self.store.add([], [task]))
        return task.task_id

    def test_a_claimed_task_that_has_not_begun_never_does(self) -> None:
        task_id = self.claimed()
        self.cancel(task_id)
        task = self.get(task_id)
        self.assertEqual((task.status, task.attempt, task.cancel_requested), (CANCELLED, 1, True))
        self.assertEqual((self.logged("Task started"), self.free), ([], 100))

    def test_a_cancel_of_another_attempt_ends_nobody(self) -> None:
        task_id = self.submit(duration=2)
        task = self.get(task_id)
        self.runner.cancel([replace(task, attempt=2), replace(task, task_id="task_2")])
        self.advance(2)
        self.assertEqual(self.outcome(task_id), (COMPLETED, None, 1))

    def test_a_cancel_while_the_end_is_being_written_gives_back_no_second_seat(self) -> None:
        task_id = self.submit(duration=1)
        task = self.get(task_id)
        self.clock.advance(1)
        self.runner.cancel([task])
        self.settle()
        self.assertEqual((self.outcome(task_id), self.free), ((COMPLETED, None, 1), 100))

    def test_others_of_the_same_commit_start_though_one_has_ended_before(self) -> None:
        tasks = [
            accept(Submission("a", "simulate", '{"duration":0}'), self.ids.next(START, bytes(16)), START)
            for _ in range(3)
        ]
        self.seats.reserve(self.kinds["simulate"], 3)
        self.turns.outcome(self.store.add([], tasks))
        self.turns.outcome(self.store.cancel(tasks[0].task_id, START))
        # Its end is written, and known, before the reactor comes to start the three.
        self.turns.outcome(self.store._writer.call(lambda _db, _news: None))
        self.settle()
        found = [self.status(task.task_id) for task in tasks]
        self.assertEqual(found, [CANCELLED, COMPLETED, COMPLETED])
        self.assertEqual(self.free, 100)

    def test_a_running_task_is_cancelled_when_it_has_unwound(self) -> None:
        unwinding = Deferred[None]()

        async def handler() -> None:
            try:
                await Deferred()
            finally:
                await unwinding

        self.with_handler(handler)
        task_id = self.submit(None, retries=5)
        asked = self.cancel(task_id)
        self.assertEqual((asked.status, asked.cancel_requested), (RUNNING, True))
        self.advance(2)
        self.assertEqual((self.status(task_id), self.free), (RUNNING, 99))
        unwinding.callback(None)
        self.settle()
        task = self.get(task_id)
        self.assertEqual((task.status, task.finished_at, task.error), (CANCELLED, START + 2, None))
        self.assertEqual((self.free, self.clock.getDelayedCalls()), (100, []))
        self.assertEqual(len(self.logged("Task cancelled")), 1)

    def test_to_ask_again_neither_disturbs_nor_delays_the_end(self) -> None:
        cancels = 0

        async def handler() -> None:
            nonlocal cancels
            while True:
                try:
                    await Deferred()
                except CancelledError:
                    cancels += 1

        self.with_handler(handler)
        task_id = self.submit(None)
        for _ in range(int(UNWIND)):
            self.assertEqual(self.cancel(task_id).status, RUNNING)
            self.advance(1)
        self.assertEqual((self.status(task_id), self.free, cancels), (CANCELLED, 100, 1))

    def test_a_cancel_after_the_timeout_does_not_delay_the_end(self) -> None:
        async def handler() -> None:
            with contextlib.suppress(CancelledError):
                await Deferred()
            await Deferred()

        self.with_handler(handler)
        task_id = self.submit(None, timeout=1.0, retries=5)
        self.advance(4)
        self.assertEqual(self.cancel(task_id).status, RUNNING)
        self.advance(2)
        self.assertEqual((self.status(task_id), self.free), (CANCELLED, 100))

    def test_who_swallows_a_cancel_and_returns_has_completed(self) -> None:
        async def handler() -> str:
            with contextlib.suppress(CancelledError):
                await Deferred()
            return "in spite of it"

        self.with_handler(handler)
        task_id = self.submit(None)
        self.cancel(task_id)
        task = self.get(task_id)
        self.assertEqual((task.status, task.result), (COMPLETED, '"in spite of it"'))
        self.assertTrue(task.cancel_requested)

    def test_who_unwinds_after_a_cancel_has_no_timeout_any_more(self) -> None:
        async def handler() -> str:
            with contextlib.suppress(CancelledError):
                await Deferred()
            await deferLater(clock, 2)
            return "in spite of it"

        clock = self.clock
        self.with_handler(handler)
        task_id = self.submit(None, timeout=2.0)
        self.advance(1)
        self.cancel(task_id)
        self.advance(2)
        self.assertEqual(self.outcome(task_id), (COMPLETED, None, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_swallows_a_cancel_and_goes_on_is_given_up(self) -> None:
        going_on = Deferred[None]()
        contexts: list[Context] = []

        async def handler(context: Context) -> str:
            contexts.append(context)
            context.progress(1, 3)
            with contextlib.suppress(CancelledError):
                await Deferred()
            await going_on
            context.progress(2, 3)
            return "too late"

        self.with_handler(handler)
        task_id = self.submit(None)
        self.cancel(task_id)
        self.advance(int(UNWIND) - 1)
        self.assertEqual((self.status(task_id), self.free), (RUNNING, 99))
        self.advance(1)
        self.assertEqual((self.status(task_id), self.free), (CANCELLED, 100))

        going_on.callback(None)
        contexts[0].progress(3, 3)
        self.settle()
        task = self.get(task_id)
        self.assertEqual((task.status, task.result, task.progress), (CANCELLED, None, Progress(1, 3)))
        self.assertEqual((self.free, len(self.logged("Task progress"))), (100, 1))

    def test_the_failure_of_one_that_was_given_up_is_dropped(self) -> None:
        going_on = Deferred[None]()

        async def handler() -> None:
            with contextlib.suppress(CancelledError):
                await Deferred()
            await going_on
            raise ValueError("too late")

        self.with_handler(handler)
        task_id = self.submit(None, timeout=1.0, retries=1)
        self.advance(1 + int(UNWIND))
        self.assertEqual(self.outcome(task_id), (RETRYING, "Timeout", 1))
        going_on.callback(None)
        self.settle()
        self.assertEqual((self.outcome(task_id), self.free), ((RETRYING, "Timeout", 1), 100))

    def test_one_that_was_given_up_does_not_write_into_the_next_attempt(self) -> None:
        contexts: list[Context] = []

        async def handler(context: Context) -> None:
            contexts.append(context)
            with contextlib.suppress(CancelledError):
                await Deferred()
            await Deferred()

        self.with_handler(handler)
        task_id = self.submit(None, timeout=1.0, retries=1)
        self.advance(1 + int(UNWIND) + 2)
        self.assertEqual(self.outcome(task_id), (RUNNING, "Timeout", 2))
        contexts[0].progress(7, 7)
        self.assertIsNone(self.get(task_id).progress)
        contexts[1].progress(1, 7)
        self.assertEqual(self.get(task_id).progress, Progress(1, 7))

    def test_a_cancelled_task_can_be_retried_by_hand(self) -> None:
        task_id = self.submit(duration=2)
        self.cancel(task_id)
        self.assertEqual(self.status(task_id), CANCELLED)
        again = self.retry(task_id)
        self.assertEqual((again.status, again.cancel_requested, again.progress), (ACCEPTED, False, None))
        self.advance(2)
        self.assertEqual(self.outcome(task_id), (COMPLETED, None, 2))

    def test_a_thread_learns_of_its_cancel_by_the_flag(self) -> None:
        flags: list[bool] = []
        go_on = threading.Event()

        def handler(context: Context) -> str:
            flags.append(context.cancelled)
            context.progress(1, 2)
            go_on.wait(PATIENCE)
            flags.append(context.cancelled)
            raise ValueError("stopped in the middle")

        self.with_handler(handler)
        task_id = self.submit(None)
        self.until_logged("Task progress")
        self.cancel(task_id)
        go_on.set()
        self.assertEqual(self.until_ended(task_id).status, CANCELLED)
        self.assertEqual((flags, self.free, self.get(task_id).progress), ([False, True], 2, Progress(1, 2)))

    def test_a_thread_that_does_not_end_is_given_up_and_replaced(self) -> None:
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        stuck = [True] * 2
        told = threading.Semaphore(0)
        let_go: list[bool] = []

        def handler(context: Context) -> str:
            if stuck:
                stuck.pop()
                context.progress(1, 2)
                let_go.append(go_on.wait(PATIENCE))
                context.progress(2, 2)
                told.release()
            return "done"

        self.with_handler(handler)
        ids = [self.submit(None) for _ in range(2)]
        self.until_logged("Task progress", 2)
        for task_id in ids:
            self.cancel(task_id)
        self.advance(int(UNWIND))
        self.assertEqual({self.status(task_id) for task_id in ids}, {CANCELLED})
        self.assertEqual(self.free, 2)
        self.assertEqual(self.until_ended(self.submit(None)).status, COMPLETED)

        go_on.set()
        for _ in ids:
            self.assertTrue(told.acquire(timeout=PATIENCE))
        self.settle()
        task = self.get(ids[0])
        self.assertEqual((task.status, task.result, task.progress), (CANCELLED, None, Progress(1, 2)))
        self.assertEqual(len(self.logged("Task progress")), 2)
        # They hung until now: the third did not get its thread from one of them.
        self.assertEqual(let_go, [True, True])


class OnAsyncio(EndsTestCase):
    """A cancel of what asyncio runs, in its own thread."""

    def running(self, swallows: bool, goes_on: bool = False) -> str:
        """A task that waits for its cancel, and what it does then."""

        async def handler(context: Context) -> str:
            context.progress(1, 3)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                context.progress(2, 3)
                if not swallows:
                    raise
            if goes_on:
                await asyncio.Event().wait()
            return "in spite of it"

        self.with_handler(handler, place="asyncio")
        task_id = self.submit(None)
        self.until_logged("Task progress")
        self.cancel(task_id)
        return task_id

    def test_it_arrives_at_the_await(self) -> None:
        task = self.until_ended(self.running(swallows=False))
        self.assertEqual((task.status, task.error, self.free), (CANCELLED, None, 2))

    def test_who_swallows_it_and_returns_has_completed(self) -> None:
        task = self.until_ended(self.running(swallows=True))
        self.assertEqual((task.status, task.result, self.free), (COMPLETED, '"in spite of it"', 2))
        self.assertTrue(task.cancel_requested)

    def test_who_swallows_it_and_goes_on_is_given_up(self) -> None:
        task_id = self.running(swallows=True, goes_on=True)
        self.until_logged("Task progress", 2)
        self.advance(int(UNWIND) - 1)
        self.assertEqual((self.status(task_id), self.free), (RUNNING, 1))
        self.advance(1)
        self.assertEqual((self.status(task_id), self.free), (CANCELLED, 2))


class Draining(EndsTestCase):
    """The service ends."""

    def test_a_drain_waits_for_a_thread(self) -> None:
        go_on = threading.Event()
        self.with_handler(lambda: go_on.wait(PATIENCE))
        task_id = self.submit(None)
        drained = self.runner.drain(10)
        self.advance(3)
        self.assertNoResult(drained)
        go_on.set()
        self.until_ended(task_id)
        self.successResultOf(drained)
        self.assertEqual((self.status(task_id), self.get(task_id).result), (COMPLETED, "true"))

    def test_a_drain_asks_a_thread_to_end_and_releases_its_task(self) -> None:
        go_on = threading.Event()
        flags: list[bool] = []

        def handler(context: Context) -> None:
            go_on.wait(PATIENCE)
            flags.append(context.cancelled)
            raise CancelledError

        self.with_handler(handler)
        task_id = self.submit(None)
        drained = self.runner.drain(1)
        self.advance(1)
        self.assertNoResult(drained)
        go_on.set()
        self.until_ended(task_id)
        self.successResultOf(drained)
        self.assertEqual((self.outcome(task_id), flags), ((RETRYING, None, 1), [True]))

    def test_a_drain_gives_up_a_thread_that_hangs(self) -> None:
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.with_handler(lambda: go_on.wait(PATIENCE))
        task_id = self.submit(None)
        drained = self.runner.drain(1)
        self.advance(1 + int(UNWIND))
        self.successResultOf(drained)
        self.assertEqual(self.outcome(task_id), (RETRYING, None, 1))

    def test_one_that_holds_the_reactor_while_it_unwinds_is_released(self) -> None:
        async def handler() -> None:
            try:
                await Deferred()
            finally:
                self.pass_time(UNWIND + 1)

        for timeout in (None, 60.0):
            self.with_handler(handler)
            task_id = self.submit(None, timeout=timeout)
            drained = self.runner.drain(1)
            self.advance(1)
            self.successResultOf(drained)
            self.assertEqual(self.outcome(task_id), (RETRYING, None, 1))

    def test_a_task_that_was_cancelled_before_is_not_released_but_cancelled(self) -> None:
        async def handler() -> None:
            with contextlib.suppress(CancelledError):
                await Deferred()
            await Deferred()

        self.with_handler(handler)
        task_id = self.submit(None)
        self.cancel(task_id)
        drained = self.runner.drain(1)
        self.advance(int(UNWIND))
        self.successResultOf(drained)
        self.assertEqual(self.status(task_id), CANCELLED)
