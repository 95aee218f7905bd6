"""Where attempts run, and how many threads may hang."""

import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThreadPool
from twisted.python import threadable
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from asynctask.context import Context
from asynctask.loop import AsyncioLoop
from asynctask.model import Progress, Submission, accept, start
from asynctask.places import MAX_ABANDONED, Places
from asynctask.recorder import FlightRecorder, Suspect
from asynctask.registry import Where, kinds_of, task
from asynctask.runs import UNTOLD, Reporter, Run, Watcher
from tests.turns import PATIENCE, Turns
from tests.watching import Watching

TASK = "task_17388800000002k4qz7m0a9x3c8v5t"


class PlacesTests(SynchronousTestCase):
    """Handlers that are started, without a runner around them."""

    def setUp(self) -> None:
        self.turns = Turns()
        self.recorder = FlightRecorder(2)
        self.clock = Clock()
        self.places = Places(self.recorder, self.clock, self.turns.callFromThread, MAX_ABANDONED, 0)
        self.addCleanup(self.places.stop)
        self.watching = Watching()

    def start(self, function: Callable[..., Any], place: Where, given: str = "{}") -> Run:
        kind = kinds_of(task(place=place)(function))[-1]
        accepted = accept(Submission("a", kind.name, given), TASK, 100.0)
        self.watching = Watching()
        return self.places.start(start(accepted, 101.0), kind, None, self.watching)

    def test_while_a_handler_is_at_work_the_recorder_names_it_in_every_place(self) -> None:
        seen: list[list[Suspect]] = []

        def look() -> None:
            seen.append(self.recorder.suspects())

        async def look_async() -> None:
            look()

        for place in ("reactor", "thread", "asyncio"):
            self.start(look if place == "thread" else look_async, place)
            self.assertEqual(self.turns.outcome(self.watching.outcome), "null")
        self.assertEqual(seen, [[Suspect(TASK, 1)]] * 3)
        self.assertEqual(self.recorder.suspects(), [])

    def test_only_steps_on_the_reactor_are_timed(self) -> None:
        async def handler() -> None: ...

        def plain() -> None: ...

        cases: list[tuple[Callable[..., Any], Where, int]] = [
            (handler, "asyncio", 0),
            (plain, "thread", 0),
            (handler, "reactor", 1),
        ]
        for function, place, steps in cases:
            self.start(function, place)
            self.turns.outcome(self.watching.outcome)
            self.assertEqual(len(self.watching.steps), steps)

    def test_an_input_is_handed_over_in_every_place(self) -> None:
        def plain(one: int, two: int = 2) -> list[int]:
            return [one, two]

        async def handler(one: int, two: int = 2) -> list[int]:
            return [one, two]

        for place in ("reactor", "thread", "asyncio"):
            self.start(plain if place == "thread" else handler, place, '{"one":1}')
            self.assertEqual(self.turns.outcome(self.watching.outcome), "[1,2]")

    def test_what_a_handler_keeps_for_itself_is_not_for_the_next_one(self) -> None:
        """Its context variables; it begins with those of the reactor."""
        own: ContextVar[int] = ContextVar("own")
        own.set(7)

        def plain() -> int:
            own.set(own.get() + 1)
            return own.get()

        async def handler() -> int:
            return plain()

        for place in ("reactor", "thread", "asyncio"):
            for _ in range(2):
                self.start(plain if place == "thread" else handler, place)
                self.assertEqual(self.turns.outcome(self.watching.outcome), "8", place)
        self.assertEqual(own.get(), 7)

    def test_a_thread_that_tells_faster_than_the_reactor_hears_is_told_of_at_its_latest(self) -> None:
        told: list[Progress] = []
        calls: list[Callable[[], None]] = []
        watcher = cast(Watcher, SimpleNamespace(progressed=told.append))
        report = Reporter(calls.append, watcher)
        for step in range(100):
            report(Progress(step, 100))
        self.assertEqual(len(calls), 1)
        calls.pop()()
        self.assertEqual([progress.step for progress in told], [*range(100 - UNTOLD, 100)])
        report(Progress(100, 100))
        calls.pop()()
        self.assertEqual((told[-1].step, len(told), calls), (100, UNTOLD + 1, []))

    def test_progress_from_a_thread_that_a_handler_waits_for_arrives_in_the_reactors(self) -> None:
        self.patch(threadable, "ioThread", threading.get_ident())
        pool = ThreadPool(0, 1)
        pool.start()

        async def handler(context: Context) -> None:
            context.progress(1, 2)
            await deferToThreadPool(self.turns, pool, context.progress, 2, 2)

        self.start(handler, "reactor")
        pool.stop()
        self.assertEqual(self.watching.told, [Progress(1, 2)])
        self.turns.outcome(self.watching.outcome)
        self.assertEqual(self.watching.told, [Progress(1, 2), Progress(2, 2)])

    def test_a_cancel_on_the_reactor_arrives_at_the_await(self) -> None:
        async def handler() -> None:
            await Deferred()

        run = self.start(handler, "reactor")
        self.assertNoResult(self.watching.outcome)
        run.cancel()
        self.failureResultOf(self.watching.outcome, CancelledError)

    def test_when_too_many_threads_hang_no_more_work_should_come(self) -> None:
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        begun = threading.Semaphore(0)
        threads: list[threading.Thread] = []

        def hang() -> None:
            threads.append(threading.current_thread())
            begun.release()
            go_on.wait(PATIENCE)

        runs, outcomes = [], []
        for _ in range(MAX_ABANDONED):
            runs.append(self.start(hang, "thread"))
            outcomes.append(self.watching.outcome)
        for _ in runs:
            self.assertTrue(begun.acquire(timeout=PATIENCE))
        for run in runs:
            self.assertFalse(self.places.closed("thread"))
            run.cancel()
            run.abandon()
        self.assertTrue(self.places.closed("thread"))
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertFalse(self.places.closed("thread"))
        self.assertFalse(any(outcome.called for outcome in outcomes))

    def test_nor_when_they_hang_that_asyncio_was_given(self) -> None:
        for hanging, closed in ((MAX_ABANDONED - 1, False), (MAX_ABANDONED, True)):
            self.patch(AsyncioLoop, "hanging", hanging)
            self.assertEqual((self.places.closed("asyncio"), self.places.abandoned), (closed, hanging))
        self.assertFalse(self.places.closed("thread"))
