"""One asyncio loop in a thread of its own."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import thread as futures_thread
from errno import EMFILE
from time import sleep
from typing import Any
from weakref import ref

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask import loop as asyncio_loop
from asynctask import threads
from asynctask.loop import MAX_HELD, AsyncioLoop, LoopWork
from asynctask.recorder import ASYNCIO, NOBODY, FlightRecorder, Suspect, record
from asynctask.threads import NotStartedError
from tests.turns import PATIENCE, Turns


async def value() -> str:
    """A coroutine that ends at once."""
    return "done"


async def this_thread() -> threading.Thread:
    """Where it runs."""
    return threading.current_thread()


class LoopTestCase(SynchronousTestCase):
    """A loop, and a reactor's thread that the test turns."""

    def setUp(self) -> None:
        self.turns = Turns()
        self.loop = AsyncioLoop(self.turns.callFromThread)
        self.addCleanup(self.loop.stop)
        self.begun = threading.Event()

    def run_on(self, start: Callable[[], Coroutine[Any, Any, Any]]) -> Deferred[Any]:
        """Run it on the loop."""
        return self.loop.run(start, NOBODY).deferred

    def outcome(self, start: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self.turns.outcome(self.run_on(start))

    def begin(self, start: Callable[[], Coroutine[Any, Any, Any]]) -> Deferred[Any]:
        """Run it until it says that it has begun."""
        running = self.run_on(start)
        self.assertTrue(self.begun.wait(PATIENCE))
        return running

    async def endless(self) -> None:
        """Wait for what never comes."""
        self.begun.set()
        await asyncio.Event().wait()


class Outcomes(LoopTestCase):
    """What a coroutine returns or raises comes back."""

    def test_it_runs_in_one_thread_and_its_end_in_the_reactors(self) -> None:
        running = self.run_on(this_thread)
        fired = running.addCallback(lambda thread: (thread, threading.current_thread()))
        thread, reactors = self.turns.outcome(fired)
        self.assertTrue(thread.daemon)
        self.assertIsNot(thread, threading.current_thread())
        self.assertIs(reactors, threading.current_thread())
        self.assertIs(self.outcome(this_thread), thread)

    def test_it_is_started_in_that_thread_too(self) -> None:
        def start() -> Coroutine[Any, Any, Any]:
            started.append(threading.current_thread())
            return this_thread()

        started: list[threading.Thread] = []
        self.assertEqual([self.outcome(start)], started)

    def test_it_awaits_what_asyncio_has(self) -> None:
        async def several() -> tuple[str, str]:
            first, second = await asyncio.gather(value(), asyncio.wait_for(value(), PATIENCE))
            return first, second

        self.assertEqual(self.outcome(several), ("done", "done"))

    def test_a_coroutine_that_is_not_pythons_own_is_driven_step_by_step(self) -> None:
        class Counted(Coroutine[Any, Any, Any]):
            """Steps of a coroutine, counted; not to be awaited."""

            def __init__(self, steps: Coroutine[Any, Any, Any]) -> None:
                self.steps = steps

            def send(self, value: Any) -> Any:
                taken.append("step")
                return self.steps.send(value)

            def throw(self, kind: Any, value: Any = None, _trace: Any = None) -> Any:
                taken.append("error")
                return self.steps.throw(kind if value is None else value)

            def close(self) -> None:
                self.steps.close()

            def __await__(self) -> Any:
                raise TypeError

        async def twice() -> str:
            await asyncio.sleep(0)
            with contextlib.suppress(asyncio.CancelledError):
                await self.endless()
            return "done"

        taken: list[str] = []
        running = self.begin(lambda: Counted(twice()))
        running.cancel()
        self.assertEqual(self.turns.outcome(running), "done")
        self.assertEqual(taken, ["step", "step", "error"])

    def test_the_exit_waits_for_no_thread_of_its(self) -> None:
        """What `threading` and `concurrent.futures` wait for at the end of the process."""

        async def elsewhere() -> tuple[bool, bool]:
            def look() -> tuple[bool, bool]:
                thread = threading.current_thread()
                return thread.daemon, thread in futures_thread._threads_queues

            def fail() -> None:
                raise ZeroDivisionError

            with self.assertRaises(ZeroDivisionError):
                await asyncio.to_thread(fail)
            return await asyncio.to_thread(look)

        self.assertEqual(self.turns.outcome(self.run_on(elsewhere)), (True, False))

    def test_what_is_no_coroutine_is_a_failure(self) -> None:
        start: Any = int
        with self.assertRaises(AttributeError):
            self.outcome(start)

    def test_many_run_at_once(self) -> None:
        arrived: list[asyncio.Future[None]] = []

        async def meet() -> int:
            arrived.append(asyncio.get_running_loop().create_future())
            if len(arrived) == 50:
                for each in arrived:
                    each.set_result(None)
            await arrived[-1]
            return 1

        running = [self.run_on(meet) for _ in range(50)]
        self.assertEqual(sum(self.turns.outcome(each) for each in running), 50)

    def test_whatever_it_raises_is_its_failure_and_the_loop_lives_on(self) -> None:
        thread = self.outcome(this_thread)
        for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()):

            async def raising(error: BaseException = error) -> None:
                await asyncio.sleep(0)
                raise error

            with self.assertRaises(type(error)):
                self.outcome(raising)
        self.assertIs(self.outcome(this_thread), thread)

    def test_what_cannot_even_start_is_a_failure(self) -> None:
        def start() -> Coroutine[Any, Any, Any]:
            raise SystemExit(3)

        with self.assertRaises(SystemExit):
            self.outcome(start)
        self.assertEqual(self.outcome(value), "done")

    def test_for_want_of_descriptors_nothing_is_begun(self) -> None:
        def none_left() -> None:
            raise OSError(EMFILE, "Too many open files")

        made: list[asyncio.AbstractEventLoop] = []
        few = self.patch(asyncio_loop, "socketpair", none_left)
        new = self.patch(asyncio, "new_event_loop", lambda: made.append(asyncio.SelectorEventLoop()))
        self.assertRaises(NotStartedError, self.run_on, value)
        self.assertEqual(made, [])  # it would be half made
        few.restore()
        new.restore()
        patched = self.patch(asyncio, "new_event_loop", none_left)
        self.assertRaises(NotStartedError, self.run_on, value)
        patched.restore()
        self.assertEqual(self.outcome(value), "done")

    def test_a_task_of_its_own_does_not_end_the_loop_either(self) -> None:
        async def leave() -> None:
            raise SystemExit(3)

        async def outer() -> None:
            await asyncio.create_task(leave())

        with self.assertRaises(SystemExit):
            self.outcome(outer)
        self.assertEqual(self.outcome(value), "done")
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)

    def test_a_deferred_cannot_be_its_result(self) -> None:
        async def wrong() -> Deferred[None]:
            return Deferred()

        with self.assertRaises(TypeError):
            self.outcome(wrong)


class Cancelled(LoopTestCase):
    """A cancel arrives where it waits."""

    def test_it_fails_as_twisted_has_it(self) -> None:
        running = self.begin(self.endless)
        running.cancel()
        with self.assertRaises(CancelledError):
            self.turns.outcome(running)

    def test_it_waits_for_the_real_end(self) -> None:
        seen: list[str] = []

        async def tidy() -> None:
            try:
                await self.endless()
            except asyncio.CancelledError:
                for _ in range(5):
                    await asyncio.sleep(0)
                seen.append("tidied")
                raise

        running = self.begin(tidy)
        running.cancel()
        self.assertNoResult(running)
        with self.assertRaises(CancelledError):
            self.turns.outcome(running)
        self.assertEqual(seen, ["tidied"])

    def test_what_swallows_it_has_its_result(self) -> None:
        async def stubborn() -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await self.endless()
            return "completed"

        running = self.begin(stubborn)
        running.cancel()
        self.assertEqual(self.turns.outcome(running), "completed")

    def test_what_fails_at_it_has_its_failure(self) -> None:
        async def clumsy() -> None:
            try:
                await self.endless()
            finally:
                raise ValueError("while tidying")

        running = self.begin(clumsy)
        running.cancel()
        with self.assertRaises(ValueError):
            self.turns.outcome(running)

    def test_what_is_cancelled_before_its_first_step_never_takes_it(self) -> None:
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        called: list[str] = []

        async def blocking() -> None:
            self.begun.set()
            go_on.wait(PATIENCE)

        def start() -> Coroutine[Any, Any, Any]:
            called.append("called")
            return value()

        first = self.begin(blocking)
        running = self.run_on(start)
        running.cancel()
        go_on.set()
        self.turns.outcome(first)
        with self.assertRaises(CancelledError):
            self.turns.outcome(running)
        self.assertEqual(called, [])

    def test_what_cancels_itself_is_cancelled(self) -> None:
        async def itself() -> None:
            raise asyncio.CancelledError

        with self.assertRaises(CancelledError):
            self.outcome(itself)


class Held(LoopTestCase):
    """A coroutine that holds the loop."""

    def setUp(self) -> None:
        super().setUp()
        self.go_on = threading.Event()
        self.addCleanup(self.go_on.set)

    def with_loop(self, **given: Any) -> None:
        """Have another loop."""
        self.loop = AsyncioLoop(self.turns.callFromThread, **given)
        self.addCleanup(self.loop.stop)

    async def blocking(self) -> threading.Thread:
        """Hold the loop."""
        self.begun.set()
        self.go_on.wait(PATIENCE)
        return threading.current_thread()

    def hold(self, start: Callable[[], Coroutine[Any, Any, Any]]) -> LoopWork:
        """Let a coroutine hold the loop, be asked to end, and be given up."""
        running = self.loop.run(start, NOBODY)
        self.assertTrue(self.begun.wait(PATIENCE))
        self.begun.clear()
        running.deferred.cancel()
        return running

    def test_given_up_it_keeps_its_loop_until_that_is_free_and_others_have_another(self) -> None:
        recorder = FlightRecorder(1)
        self.with_loop(recorder=recorder)
        first = self.outcome(this_thread)
        running = self.hold(self.blocking)
        running.abandon()
        running.abandon()
        self.assertEqual(self.loop.abandoned, 1)
        other = self.outcome(this_thread)
        self.assertIsNot(other, first)
        self.assertIsNone(recorder.hold(NOBODY))  # the other loop has the slot
        self.go_on.set()
        self.assertIs(self.turns.outcome(running.deferred), first)
        other.join(PATIENCE)
        self.assertEqual((other.is_alive(), self.loop.abandoned), (False, 0))
        self.assertIs(self.outcome(this_thread), first)
        self.assertEqual(recorder.hold(NOBODY), ASYNCIO + 1)

    def test_the_steps_of_each_loop_are_named_where_there_is_room(self) -> None:
        for room, seen in ((1, [Suspect("task_".ljust(35, "1"), 3)]), (0, [])):
            recorder = FlightRecorder(room)
            self.with_loop(recorder=recorder)

            async def look(recorder: FlightRecorder = recorder) -> list[Suspect]:
                await asyncio.sleep(0)
                return recorder.suspects()

            named = record("task_".ljust(35, "1"), 3)
            first = self.turns.outcome(self.loop.run(look, named).deferred)
            self.assertEqual(first, [Suspect("task_".ljust(35, "1"), 3)])
            self.hold(self.blocking).abandon()
            self.assertEqual(self.turns.outcome(self.loop.run(look, named).deferred), seen)
            self.assertEqual(recorder.suspects(), [])

    async def hanging(self) -> None:
        """Wait for a thread that hangs."""

        def hang() -> None:
            self.begun.set()
            self.go_on.wait(PATIENCE)

        await asyncio.to_thread(hang)

    def test_what_hangs_in_a_thread_after_its_cancel_has_another_one_in_its_place(self) -> None:
        self.patch(asyncio_loop, "EXECUTOR", 1)
        self.patch(asyncio_loop, "GIVE_UP_AFTER", 0.0)
        self.with_loop()

        async def given() -> str:
            return await asyncio.to_thread(str, "done")

        for number in (1, 2):
            running = self.begin(self.hanging)
            self.begun.clear()
            self.assertEqual(self.loop.hanging, number - 1)
            waiting = self.run_on(given)
            running.cancel()
            self.turns.outcome(running.addErrback(lambda failure: failure.trap(CancelledError)))
            self.assertEqual(self.turns.outcome(waiting), "done")
            self.assertEqual(self.loop.hanging, number)
        self.go_on.set()
        while self.loop.hanging:
            sleep(0.001)
        self.assertEqual(self.outcome(given), "done")

    def test_what_ends_soon_after_its_cancel_keeps_its_thread(self) -> None:
        self.with_loop()
        running = self.begin(self.hanging)
        running.cancel()
        self.turns.outcome(running.addErrback(lambda failure: failure.trap(CancelledError)))
        self.assertEqual(self.loop.hanging, 0)

    def test_what_still_runs_on_the_other_loop_ends_there(self) -> None:
        running = self.hold(self.blocking)
        running.abandon()
        there = self.begin(self.endless)
        other = self.outcome(this_thread)
        self.go_on.set()
        first = self.turns.outcome(running.deferred)
        while self.outcome(this_thread) is not first:
            sleep(0.001)
        self.assertTrue(other.is_alive())
        there.cancel()
        with self.assertRaises(CancelledError):
            self.turns.outcome(there)
        other.join(PATIENCE)
        self.assertFalse(other.is_alive())

    def test_one_that_holds_it_after_its_cancel_is_one_too(self) -> None:
        async def tidy() -> None:
            try:
                await self.endless()
            finally:
                self.begun.set()
                self.go_on.wait(PATIENCE)

        running = self.hold(tidy)
        self.assertTrue(self.begun.wait(PATIENCE))
        running.abandon()
        self.assertEqual(self.loop.abandoned, 1)
        self.outcome(this_thread)

    def test_only_so_many_are_held(self) -> None:
        with capturedLogs() as logged:
            for number in range(MAX_HELD):
                self.assertFalse(self.loop.full_of_abandoned)
                self.hold(self.blocking).abandon()
                self.assertEqual(self.loop.abandoned, number + 1)
            self.assertTrue(self.loop.full_of_abandoned)
            self.hold(self.blocking).abandon()
        self.assertEqual(self.loop.abandoned, MAX_HELD)
        held = "A task holds the asyncio loop; those that come get another one"
        full = "Too many tasks hold asyncio loops; those that come are refused until one lets go"
        self.assertEqual([one["log_format"] for one in logged], [held] * (MAX_HELD - 1) + [full])

    def test_at_the_end_of_the_service_what_waits_on_a_held_loop_is_cancelled_too(self) -> None:
        waiting = self.begin(self.endless)
        self.begun.clear()
        self.hold(self.blocking).abandon()
        self.loop.stop()
        self.go_on.set()
        with self.assertRaises(CancelledError):
            self.turns.outcome(waiting)

    def test_one_that_waits_and_does_not_unwind_holds_nobody(self) -> None:
        running = self.loop.run(self.stubborn, NOBODY)
        self.assertTrue(self.begun.wait(PATIENCE))
        thread = self.outcome(this_thread)
        running.deferred.cancel()
        self.outcome(this_thread)
        running.abandon()
        self.assertEqual(self.loop.abandoned, 0)
        self.assertIs(self.outcome(this_thread), thread)

    async def stubborn(self) -> None:
        """Wait on, whoever asks."""
        self.begun.set()
        while not self.go_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    def test_a_thread_that_a_handler_cannot_have_is_an_error_of_its_own(self) -> None:
        def no_more(**_: object) -> None:
            raise RuntimeError("can't start new thread")

        async def asks() -> str:
            patched = self.patch(threads, "Thread", no_more)
            try:
                await asyncio.to_thread(int)
            except RuntimeError as error:
                return str(error)
            finally:
                patched.restore()
            return "it had one"

        self.assertEqual(self.outcome(asks), "can't start new thread")

    def test_what_would_end_the_program_in_such_a_thread_is_raised_where_it_is_awaited(self) -> None:
        async def asks() -> str:
            try:
                await asyncio.to_thread(sys.exit, 3)
            except SystemExit:
                return "it ended"
            return "it went on"

        self.assertEqual(self.outcome(asks), "it ended")

    def test_the_recorder_names_who_has_given_something_to_a_thread(self) -> None:
        recorder = FlightRecorder(1)
        self.with_loop(recorder=recorder)
        seen: list[list[Suspect]] = []

        async def give() -> None:
            await asyncio.gather(asyncio.to_thread(lambda: seen.append(recorder.suspects())))
            seen.append(recorder.suspects())

        named = record("task_".ljust(35, "1"), 3)
        running = self.loop.run(give, named)
        self.turns.outcome(running.deferred)
        self.assertEqual(seen, [[Suspect("task_".ljust(35, "1"), 3)]] * 2)
        self.assertEqual(recorder.suspects(), [])

    def test_but_not_after_that_has_raised(self) -> None:
        recorder = FlightRecorder(1)
        self.with_loop(recorder=recorder)

        def fail() -> None:
            raise ZeroDivisionError

        async def give() -> None:
            with contextlib.suppress(ZeroDivisionError):
                await asyncio.to_thread(fail)

        named = record("task_".ljust(35, "1"), 3)
        self.turns.outcome(self.loop.run(give, named).deferred)
        self.assertEqual(recorder.suspects(), [])

    def test_when_it_ended_is_known_before_the_reactor_hears_of_it(self) -> None:
        time = [5.0]
        self.with_loop(seconds=lambda: time[0])
        running = self.loop.run(this_thread, NOBODY)
        while running.ended_at is None:
            sleep(0.001)
        time[0] = 9.0
        self.turns.outcome(running.deferred)
        self.assertEqual(running.ended_at, 5.0)


class Stopped(LoopTestCase):
    """The end of the loop."""

    def test_what_runs_is_cancelled_and_the_thread_ends(self) -> None:
        thread = self.outcome(this_thread)
        running = self.begin(self.endless)
        self.loop.stop()
        with self.assertRaises(CancelledError):
            self.turns.outcome(running)
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())

    def test_what_was_cancelled_before_it_began_is_not_kept(self) -> None:
        go_on = threading.Event()

        async def hold() -> None:
            self.begun.set()
            go_on.wait()

        def start() -> Coroutine[Any, Any, str]:
            return value()

        first, kept = self.begin(hold), ref(start)
        second = self.loop.run(start, NOBODY)
        del start
        second.deferred.cancel()
        go_on.set()
        self.turns.outcome(first)
        with self.assertRaises(CancelledError):
            self.turns.outcome(second.deferred)
        self.assertIsNone(kept())

    def test_a_cancel_after_it_is_nothing(self) -> None:
        running = self.begin(self.endless)
        thread = self.outcome(this_thread)
        self.loop.stop()
        thread.join(PATIENCE)
        running.cancel()
        with self.assertRaises(CancelledError):
            self.turns.outcome(running)

    def test_what_never_ran_has_nothing_to_stop(self) -> None:
        before = set(threading.enumerate())
        AsyncioLoop(self.turns.callFromThread).stop()
        self.assertLessEqual(set(threading.enumerate()), before)
