"""A handler's steps, each of them named in the flight recorder."""

import asyncio
import gc
import json
from collections.abc import Callable, Generator
from contextvars import ContextVar
from inspect import unwrap
from threading import Thread
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    inlineCallbacks,
    returnValue,
    succeed,
)
from twisted.internet.task import Clock, deferLater
from twisted.python import threadable
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from asynctask.model import RUNNING, Progress, Task
from asynctask.recorder import FlightRecorder, Suspect
from asynctask.steps import Stepped, Steps, WrongPlaceError
from asynctask.timers import Wheel
from asynctask.tracebacks import stack_of
from asynctask.wire import NotSerializable
from tests.watching import Watching

ONE = "task_17388800000002k4qz7m0a9x3c8v5t"
OTHER = "task_17388800000003k4qz7m0a9x3c8v5t"


class NoEventLoopError(RuntimeError):
    """As anyio has it."""


class StepsTestCase(SynchronousTestCase):
    """Runs steps, and looks into the recorder."""

    def setUp(self) -> None:
        self.recorder = FlightRecorder()
        self.clock: Any = Clock()
        self.seen: list[list[Suspect]] = []

    def look(self) -> None:
        self.seen.append(self.recorder.suspects())

    def run_steps(self, steps: Steps, task_id: str = ONE, attempt: int = 1) -> Deferred[Any]:
        """Its result; a cancel of it is one of the handler."""
        watching = Watching()
        task = Task(task_id, "a", "a", RUNNING, attempt, 0, 0)
        self.stepped = Stepped(task, None, watching)
        self.stepped.begin(steps, self.recorder, self.clock)
        return watching.outcome.addCallback(lambda text: json.loads(text))

    async def coroutine(self, wait: Deferred[str]) -> str:
        """A handler that waits once."""
        self.look()
        result = await wait
        self.look()
        return result

    def generator(self, wait: Deferred[str]) -> Generator[Any, Any, str]:
        """The same as inlineCallbacks has it."""
        self.look()
        result: str = yield wait
        self.look()
        return result


class Results(StepsTestCase):
    """Steps end as they would without a recorder."""

    def test_a_result_is_passed_on(self) -> None:
        for handler in (self.coroutine, self.generator):
            wait: Deferred[str] = Deferred()
            result = self.run_steps(handler(wait))
            self.assertNoResult(result)
            wait.callback("done")
            self.assertEqual(self.successResultOf(result), "done")

    def test_an_error_that_was_waited_for_is_thrown(self) -> None:
        for handler in (self.coroutine, self.generator):
            wait: Deferred[str] = Deferred()
            result = self.run_steps(handler(wait))
            wait.errback(ValueError("no"))
            failure = self.failureResultOf(result, ValueError)
            self.assertEqual(failure.getErrorMessage(), "no")

    def test_an_error_can_be_caught(self) -> None:
        wait: Deferred[str] = Deferred()

        async def careful() -> str:
            try:
                return await wait
            except ValueError as error:
                return f"caught {error}"

        result = self.run_steps(careful())
        wait.errback(ValueError("no"))
        self.assertEqual(self.successResultOf(result), "caught no")

    def test_an_error_of_the_first_step_is_the_result(self) -> None:
        async def careless() -> None:
            raise ValueError("no")

        self.failureResultOf(self.run_steps(careless()), ValueError)

    def test_a_cancel_arrives_where_it_waits(self) -> None:
        for handler in (self.coroutine, self.generator):
            self.seen.clear()
            result = self.run_steps(handler(Deferred()))
            self.stepped.cancel()
            self.failureResultOf(result, CancelledError)
            self.assertEqual(len(self.seen), 1)

    def test_a_cancel_after_its_end_does_nothing(self) -> None:
        wait: Deferred[str] = Deferred()
        result = self.run_steps(self.coroutine(wait))
        wait.callback("done")
        self.stepped.cancel()
        self.assertEqual(self.successResultOf(result), "done")

    def test_what_threads_tell_of_it_waits_for_the_reactor(self) -> None:
        self.patch(threadable, "ioThread", threadable.getThreadID())
        asked: list[Callable[[], object]] = []
        watching = Watching()
        report = Stepped(Task(ONE, "a", "a", RUNNING, 1, 0, 0), None, watching).reporter(asked.append)
        told = [Progress(step, 3) for step in (1, 2, 3)]
        thread = Thread(target=lambda: [report(progress) for progress in told])
        thread.start()
        thread.join()
        self.assertEqual(watching.told, [])
        [tell] = asked
        tell()
        self.assertEqual(watching.told, told)

    def test_what_is_there_already_is_not_waited_for(self) -> None:
        async def impatient() -> int:
            return sum([await succeed(1) for _ in range(5_000)])

        def generator() -> Generator[Any, Any, int]:
            total = 0
            for _ in range(5_000):
                total += yield succeed(1)
            return total

        for steps in (impatient(), generator()):
            self.assertEqual(self.successResultOf(self.run_steps(steps)), 5_000)

    def test_a_generator_may_yield_whatever_inlineCallbacks_takes(self) -> None:
        async def coroutine() -> int:
            return await succeed(2)

        @inlineCallbacks
        def handler() -> Generator[Any, Any, Any]:
            found = [(yield 1), (yield coroutine()), (yield succeed(3))]
            returnValue([*found, (yield None)])

        self.assertEqual(self.successResultOf(self.run_steps(unwrap(handler)())), [1, 2, 3, None])

    def test_a_handler_that_swallows_its_cancel_goes_on(self) -> None:
        later: Deferred[str] = Deferred()

        async def stubborn() -> str:
            try:
                return await Deferred()
            except CancelledError:
                return await later

        result = self.run_steps(stubborn())
        self.stepped.cancel()
        self.assertNoResult(result)
        later.callback("done")
        self.assertEqual(self.successResultOf(result), "done")

    def test_one_in_the_wrong_place_fails_though_it_waits_in_its_finally_too(self) -> None:
        class Future:
            _asyncio_future_blocking = True

            def __await__(self) -> Generator[Any, Any, None]:
                yield self

        async def handler() -> None:
            try:
                await Future()
            finally:
                await Future()

        failure = self.failureResultOf(self.run_steps(handler()))
        self.assertIsInstance(failure.value, WrongPlaceError)
        self.assertEqual(self.recorder.suspects(), [])

    def test_one_that_only_lets_asyncio_go_on_is_in_the_wrong_place_too(self) -> None:
        async def handler() -> None:
            await asyncio.sleep(0)

        self.failureResultOf(self.run_steps(handler()), WrongPlaceError)

    def test_it_fails_for_that_however_it_ends(self) -> None:
        async def handler() -> None:
            try:
                await asyncio.sleep(0)
            finally:
                raise SystemExit(3)

        self.failureResultOf(self.run_steps(handler()), WrongPlaceError)

    def test_a_library_that_wants_asyncio_is_known_whatever_it_says(self) -> None:
        async def handler() -> None:
            raise NoEventLoopError("Not currently running on any asynchronous event loop")

        self.failureResultOf(self.run_steps(handler()), WrongPlaceError)

    def test_who_does_without_asyncio_fails_for_a_reason_of_his_own(self) -> None:
        async def handler() -> None:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                raise RuntimeError("database is locked")  # noqa: B904

        failure = self.failureResultOf(self.run_steps(handler()), RuntimeError)
        self.assertEqual(str(failure.value), "database is locked")

    def test_whatever_is_raised_is_its_failure(self) -> None:
        for error in (SystemExit, KeyboardInterrupt, GeneratorExit, ValueError, RuntimeError):

            async def handler(error: type[BaseException] = error) -> None:
                await succeed(None)
                raise error

            self.failureResultOf(self.run_steps(handler()), error)

    def test_so_is_what_its_result_raises(self) -> None:
        class Ending(dict[str, int]):
            """Cannot be written as JSON."""

            def items(self) -> Any:
                raise SystemExit(3)

        async def handler() -> dict[str, int]:
            return Ending(one=1)

        self.failureResultOf(self.run_steps(handler()), SystemExit)

    def test_what_a_handler_keeps_for_itself_is_its_own(self) -> None:
        """Its context variables, as with inlineCallbacks and asyncio."""
        own: ContextVar[int] = ContextVar("own")

        async def handler(number: int, wait: Deferred[None]) -> int:
            own.set(number)
            await wait
            return own.get()

        waits: list[Deferred[None]] = [Deferred(), Deferred()]
        results = [self.run_steps(handler(number, wait)) for number, wait in enumerate(waits)]
        for wait in waits:
            wait.callback(None)
        self.assertEqual([self.successResultOf(result) for result in results], [0, 1])

    def test_a_life_without_failure_leaves_nothing_for_the_collector(self) -> None:
        for _ in range(3):  # what other tests have left may need several, where it is finalized
            gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for _ in range(50):
            wait: Deferred[str] = Deferred()
            result = self.run_steps(self.coroutine(wait))
            wait.callback("done")
            self.successResultOf(result)
        del wait, result, self.stepped
        self.assertLess(gc.collect(), 20)

    def test_what_cannot_be_written_is_not_told_whatever_it_is(self) -> None:
        async def handler() -> object:
            return [{"of": Thread(name="secret")}]

        failure = self.failureResultOf(self.run_steps(handler()), NotSerializable)
        self.assertNotIn("StopIteration", stack_of(failure))


class Records(StepsTestCase):
    """Who is named, and when."""

    def test_a_task_is_named_while_it_is_stepped_and_not_while_it_waits(self) -> None:
        for handler in (self.coroutine, self.generator):
            self.seen.clear()
            wait: Deferred[str] = Deferred()
            self.run_steps(handler(wait), ONE, 3)
            self.look()
            wait.callback("done")
            self.look()
            self.assertEqual(self.seen, [[Suspect(ONE, 3)], [], [Suspect(ONE, 3)], []])

    def test_a_task_is_named_while_an_error_is_thrown_into_it(self) -> None:
        wait: Deferred[str] = Deferred()

        async def careful() -> None:
            try:
                await wait
            except ValueError:
                self.look()

        self.run_steps(careful())
        wait.errback(ValueError("no"))
        self.look()
        self.assertEqual(self.seen, [[Suspect(ONE, 1)], []])

    def test_a_task_that_fails_is_not_named_any_more(self) -> None:
        for handler in (self.coroutine, self.generator):
            wait: Deferred[str] = Deferred()
            result = self.run_steps(handler(wait))
            wait.errback(ValueError("no"))
            self.failureResultOf(result, ValueError)
            self.assertEqual(self.recorder.suspects(), [])

    def test_whom_another_ones_step_wakes_is_stepped_after_it(self) -> None:
        wait: Deferred[str] = Deferred()
        result = self.run_steps(self.coroutine(wait), OTHER, 2)

        async def waking() -> None:
            self.look()
            wait.callback("done")
            self.look()

        self.run_steps(waking(), ONE, 1)
        self.assertNoResult(result)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(result), "done")
        mine, other = [Suspect(ONE, 1)], [Suspect(OTHER, 2)]
        self.assertEqual(self.seen, [other, mine, mine, other])
        self.assertEqual(self.recorder.suspects(), [])


class Wakings(StepsTestCase):
    """Handlers that wait for one another."""

    def wake(self, wait: Deferred[str], outcome: Any = "done") -> None:
        """Fire it within a step."""

        async def waking() -> None:
            wait.callback(outcome)

        self.run_steps(waking())

    def test_a_thousand_may_hand_on_one_lock(self) -> None:
        lock, done = DeferredLock(), []

        async def handler(number: int) -> None:
            async with lock:
                await deferLater(self.clock, 1 if number == 0 else 0)
            done.append(number)

        for number in range(1_000):
            self.run_steps(handler(number))
        self.clock.pump([1, *[0] * 3_000])
        self.assertEqual(done, list(range(1_000)))
        self.assertFalse(lock.locked)

    def test_what_others_make_of_what_it_waits_for_is_theirs(self) -> None:
        def spoil(_: object) -> object:
            raise ValueError("theirs")

        others: list[Callable[[object], object]] = [lambda _: None, lambda _: Deferred(), spoil]
        for other in others:
            wait: Deferred[str] = Deferred()
            result = self.run_steps(self.coroutine(wait))

            async def waking(wait: Deferred[Any] = wait, other: Any = other) -> None:
                wait.callback("done")
                wait.addCallback(other).addErrback(lambda _: None)

            self.run_steps(waking())
            self.clock.advance(0)
            self.assertEqual(self.successResultOf(result), "done")

    def test_to_cancel_what_has_fired_does_nothing(self) -> None:
        for is_at_once in (True, False):
            wait: Deferred[str] = Deferred()
            result = self.run_steps(self.coroutine(wait))

            async def waking(wait: Deferred[str] = wait, is_at_once: bool = is_at_once) -> None:
                wait.callback("done")
                if is_at_once:
                    wait.cancel()

            self.run_steps(waking())
            wait.cancel()
            self.clock.advance(0)
            self.assertEqual(self.successResultOf(result), "done")

    def test_a_lock_that_was_given_is_not_lost_by_a_cancel_of_its_deferred(self) -> None:
        lock = DeferredLock()
        lock.acquire()
        got = lock.acquire()

        async def handler() -> bool:
            await got
            lock.release()
            return True

        async def waking() -> None:
            lock.release()
            got.cancel()

        result = self.run_steps(handler())
        self.run_steps(waking())
        self.clock.advance(0)
        self.assertTrue(self.successResultOf(result))
        self.assertFalse(lock.locked)

    def test_of_many_that_wait_for_the_same_the_first_gets_it_as_ever(self) -> None:
        wait: Deferred[str] = Deferred()
        results = [self.run_steps(self.coroutine(wait)) for _ in range(3)]
        self.wake(wait)
        self.clock.pump([0, 0, 0])
        self.assertEqual([self.successResultOf(result) for result in results], ["done", None, None])

    def test_one_that_wakes_while_a_step_runs_the_reactor_goes_on_after_that(self) -> None:
        wait: Deferred[str] = Deferred()
        wheel = self.clock = Wheel(Clock())

        async def handler() -> None:
            await wait
            await Deferred()

        result = self.run_steps(handler())
        woken = self.stepped

        async def waking() -> None:
            wait.callback("done")
            woken.cancel()
            wheel.wake()
            self.assertNoResult(result)

        self.run_steps(waking())
        self.assertNoResult(result)
        wheel.wake()
        self.failureResultOf(result, CancelledError)

    def test_one_that_begins_within_a_step_does_so_after_it(self) -> None:
        wait: Deferred[str] = Deferred()
        begun: list[Deferred[Any]] = []

        async def starting() -> None:
            begun.append(self.run_steps(self.coroutine(wait)))
            self.assertEqual(self.seen, [])

        self.run_steps(starting())
        wait.callback("done")
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(begun[0]), "done")

    def test_an_error_wakes_too(self) -> None:
        wait: Deferred[str] = Deferred()
        result = self.run_steps(self.coroutine(wait))
        self.wake(wait, Failure(ValueError("no")))
        self.clock.advance(0)
        self.failureResultOf(result, ValueError)

    def test_a_cancel_in_between_arrives_where_it_waits_next(self) -> None:
        wait: Deferred[str] = Deferred()
        given: list[str] = []

        async def handler() -> None:
            given.append(await wait)
            await Deferred()

        result = self.run_steps(handler())
        woken = self.stepped
        self.wake(wait)
        woken.cancel()
        self.assertNoResult(result)
        self.clock.advance(0)
        self.failureResultOf(result, CancelledError)
        self.assertEqual(given, ["done"])

    def test_a_cancel_in_between_of_one_that_waits_for_nothing_more_does_nothing(self) -> None:
        wait: Deferred[str] = Deferred()
        result = self.run_steps(self.coroutine(wait))
        woken = self.stepped
        self.wake(wait)
        woken.cancel()
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(result), "done")
