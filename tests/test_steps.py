"""A handler's steps, each of them named in the flight recorder."""

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from asynctask.recorder import FlightRecorder, Suspect, record
from asynctask.steps import Recorded, Steps

ONE = "task_17388800000002k4qz7m0a9x3c8v5t"
OTHER = "task_17388800000003k4qz7m0a9x3c8v5t"


class StepsTestCase(SynchronousTestCase):
    """Runs steps, and looks into the recorder."""

    def setUp(self) -> None:
        self.recorder = FlightRecorder()
        self.seen: list[list[Suspect]] = []

    def look(self) -> None:
        self.seen.append(self.recorder.suspects())

    def run_steps(self, steps: Steps, task_id: str = ONE, attempt: int = 1) -> Deferred[Any]:
        return ensureDeferred(Recorded(steps, self.recorder, record(task_id, attempt)))

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
            result.cancel()
            self.failureResultOf(result, CancelledError)
            self.assertEqual(len(self.seen), 1)

    def test_steps_can_be_closed(self) -> None:
        ended: list[str] = []

        async def tidy() -> None:
            try:
                await Deferred()
            finally:
                ended.append("tidied")

        steps = Recorded(tidy(), self.recorder, record(ONE, 1))
        steps.send(None)
        steps.close()
        self.assertEqual(ended, ["tidied"])


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

    def test_a_step_within_a_step_is_named_and_then_the_outer_one_again(self) -> None:
        wait: Deferred[str] = Deferred()

        async def outer() -> None:
            self.look()
            self.run_steps(self.coroutine(wait), OTHER, 2)
            self.look()
            wait.callback("done")
            self.look()

        self.run_steps(outer(), ONE, 1)
        self.look()
        mine, other = [Suspect(ONE, 1)], [Suspect(OTHER, 2)]
        self.assertEqual(self.seen, [mine, other, mine, other, mine, []])
