"""Attempts that take longer than they may, and those that hold the reactor."""

import contextlib
import threading
import time
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from asynctask import steps
from asynctask.context import Permanent
from asynctask.model import (
    COMPLETED,
    FAILED,
    RETRYING,
    RUNNING,
)
from asynctask.recorder import Suspect
from asynctask.runner import UNWIND
from tests.running import EndsTestCase
from tests.turns import PATIENCE


def hold() -> None:
    """Hold whatever thread this is for longer than the reactor should be: no clock moves while it is."""
    time.sleep(0.06)


class Timeouts(EndsTestCase):
    """An attempt that takes longer than it may."""

    def with_waiting(self, **settings: Any) -> None:
        async def handler() -> None:
            await Deferred()

        self.with_handler(handler, **settings)

    def test_a_timeout_arrives_at_the_await(self) -> None:
        self.with_waiting()
        task_id = self.submit(None, timeout=3.0)
        self.advance(2)
        self.assertEqual(self.status(task_id), RUNNING)
        self.advance(1)
        task = self.get(task_id)
        assert task.error is not None
        self.assertEqual((task.status, task.error.type), (FAILED, "Timeout"))
        self.assertEqual(task.error.message, "The attempt took longer than 3 seconds")
        self.assertEqual((self.free, task.cancel_requested), (100, False))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_its_clean_up_raises_is_logged(self) -> None:
        async def handler() -> None:
            try:
                await Deferred()
            finally:
                raise KeyError("bug")

        async def waits() -> None:
            await Deferred()

        for function, told in ((handler, ["KeyError: 'bug'"]), (waits, [])):
            self.with_handler(function)
            for _ in range(2):
                task_id = self.submit(None, timeout=3.0)
                self.advance(3)
                self.assertEqual(self.outcome(task_id), (FAILED, "Timeout", 1))
            logged = [one for one in self.events if one["log_format"] == "Task raised as it was to end"]
            self.assertEqual([one["error"] for one in logged], told * 2)
            for one in logged:
                self.assertRegex(one["place"], r"test_timeouts\.py:\d+$")
            self.events.clear()

    def test_a_timeout_may_be_retried_and_each_attempt_has_its_own(self) -> None:
        self.with_waiting()
        task_id = self.submit(None, timeout=1.0, retries=1)
        self.advance(1)
        self.assertEqual(self.outcome(task_id), (RETRYING, "Timeout", 1))
        self.advance(2)
        self.assertEqual(self.outcome(task_id), (RUNNING, "Timeout", 2))
        self.advance(1)
        self.assertEqual(self.outcome(task_id), (FAILED, "Timeout", 2))

    def test_who_ends_in_time_leaves_no_timer(self) -> None:
        self.make()
        task_id = self.submit(duration=1, timeout=2.0)
        self.advance(1)
        self.assertEqual((self.status(task_id), self.clock.getDelayedCalls()), (COMPLETED, []))

    def test_a_timeout_that_is_swallowed_is_a_timeout_all_the_same(self) -> None:
        async def handler() -> str:
            with contextlib.suppress(CancelledError):
                await Deferred()
            return "in spite of it"

        self.with_handler(handler)
        task_id = self.submit(None, timeout=1.0)
        self.advance(1)
        self.assertEqual(self.outcome(task_id), (FAILED, "Timeout", 1))
        self.assertIsNone(self.get(task_id).result)

    def test_what_is_raised_after_the_timeout_is_a_timeout(self) -> None:
        async def handler() -> None:
            try:
                await Deferred()
            finally:
                raise Permanent("never")

        self.with_handler(handler)
        task_id = self.submit(None, timeout=1.0, retries=1)
        self.advance(1)
        self.assertEqual(self.outcome(task_id), (RETRYING, "Timeout", 1))

    def test_an_attempt_that_holds_the_reactor_beyond_its_deadline_is_a_timeout(self) -> None:
        for error in (None, ValueError("no")):

            async def handler(error: Any = error) -> str:
                self.pass_time(2)
                if error is not None:
                    raise error
                return "late"

            self.with_handler(handler)
            task_id = self.submit(None, timeout=1.5)
            self.assertEqual(self.outcome(task_id), (FAILED, "Timeout", 1))
            self.assertEqual((self.get(task_id).result, self.clock.getDelayedCalls()), (None, []))

    def test_an_attempt_that_holds_the_reactor_until_shortly_before_is_in_time(self) -> None:
        async def handler() -> str:
            self.pass_time(1.4)
            return "in time"

        self.with_handler(handler)
        self.assertEqual(self.status(self.submit(None, timeout=1.5)), COMPLETED)

    def test_who_does_not_unwind_is_given_up(self) -> None:
        async def handler() -> None:
            with contextlib.suppress(CancelledError):
                await Deferred()
            await Deferred()

        self.with_handler(handler)
        task_id = self.submit(None, timeout=1.0)
        self.advance(1 + int(UNWIND) - 1)
        self.assertEqual((self.status(task_id), self.free), (RUNNING, 99))
        self.advance(1)
        self.assertEqual(self.outcome(task_id), (FAILED, "Timeout", 1))
        self.assertEqual(self.free, 100)
        (given_up,) = self.logged("Task does not unwind and was given up")
        self.assertEqual(given_up["task_id"], task_id)

    def test_a_timeout_beyond_what_a_timer_takes_is_kept(self) -> None:
        self.with_waiting()
        year = 365 * 86_400
        task_id = self.submit(None, timeout=year + 10.0)
        self.clock.advance(year)
        self.settle()
        self.advance(9)
        self.assertEqual(self.status(task_id), RUNNING)
        self.advance(1)
        self.assertEqual(self.outcome(task_id), (FAILED, "Timeout", 1))
        endless = self.submit(None, timeout=1e308)
        self.assertEqual(self.status(endless), RUNNING)

    def test_a_thread_that_ends_too_late_is_a_timeout(self) -> None:
        go_on = threading.Event()
        self.with_handler(lambda: go_on.wait(PATIENCE))
        task_id = self.submit(None, timeout=1.0)
        self.advance(2)
        self.assertEqual((self.status(task_id), self.free), (RUNNING, 1))
        go_on.set()
        self.assertEqual(self.until_ended(task_id).status, FAILED)
        self.assertEqual((self.error_type(task_id), self.free), ("Timeout", 2))

    def test_a_thread_that_ends_in_time_is_in_time_whenever_the_reactor_hears_of_it(self) -> None:
        go_on = threading.Event()

        def handler() -> bool:
            return go_on.wait(PATIENCE)

        async def asyncio_handler() -> bool:
            return handler()

        for function, place in ((handler, "thread"), (asyncio_handler, "asyncio")):
            go_on.clear()
            self.with_handler(function, place=place)
            task_id = self.submit(None, timeout=1.0)
            running = self.runner._running.get(task_id)
            assert running is not None
            assert running.run is not None
            go_on.set()
            while running.run.ended_at is None:
                time.sleep(0.001)
            self.pass_time(1.5)
            self.assertEqual(self.until_ended(task_id).status, COMPLETED)


class HoldingTheReactor(EndsTestCase):
    """A handler that lets nobody else in."""

    def test_a_long_step_is_named_in_the_log_and_in_the_task(self) -> None:
        async def handler() -> None:
            await deferLater(self.clock, 1)
            hold()
            await deferLater(self.clock, 1)

        self.with_handler(handler)
        task_id = self.submit(None)
        self.advance(2)
        longest = self.get(task_id).longest_step
        assert longest is not None
        self.assertGreaterEqual(longest, 60)
        (blocked,) = self.logged("Task blocked the reactor")
        self.assertEqual(blocked["log_level"].name, "warn")
        self.assertEqual((blocked["task_id"], blocked["kind"]), (task_id, "simulate"))
        self.assertEqual(blocked["ms"], round(longest))

    def test_writing_a_large_result_is_a_step_too(self) -> None:
        named: list[list[Suspect]] = []
        recorder = self.recorder

        class Slow(dict[str, int]):
            def items(self) -> Any:
                hold()
                named.append(recorder.suspects())
                return super().items()

        async def handler() -> dict[str, int]:
            return Slow(one=1)

        self.with_handler(handler)
        task_id = self.submit(None)
        task = self.get(task_id)
        self.assertEqual((task.status, task.result), (COMPLETED, '{"one":1}'))
        assert task.longest_step is not None
        self.assertGreaterEqual(task.longest_step, 60)
        self.assertIn([Suspect(task_id, 1)], named)
        self.assertEqual(self.recorder.suspects(), [])

    def test_short_steps_are_measured_and_not_worth_a_word(self) -> None:
        self.patch(steps, "perf_counter", count(0, 0.03125).__next__)
        self.make()
        task_id = self.submit(duration=1)
        self.advance(1)
        self.assertEqual(self.get(task_id).longest_step, 31.25)
        self.assertEqual(self.logged("Task blocked the reactor"), [])

    def test_a_thread_does_not_hold_it(self) -> None:
        self.with_handler(hold)
        task = self.until_ended(self.submit(None))
        self.assertEqual((task.status, task.longest_step), (COMPLETED, None))
        self.assertEqual(self.logged("Task blocked the reactor"), [])
