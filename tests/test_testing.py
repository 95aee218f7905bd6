"""The context that tests of handlers are given."""

from concurrent.futures import CancelledError
from typing import cast

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask import Context, task
from asynctask.model import Progress
from asynctask.testing import FakeContext


@task
async def wait(context: Context) -> int:
    await deferLater(context.clock, 5)
    context.progress(1, 1, "rested")
    return context.attempt


@task
def look(context: Context) -> None:
    context.log.info("Looking")
    if context.cancelled:
        raise CancelledError


class FakeContextTests(SynchronousTestCase):
    """It is all that a handler needs."""

    def test_its_clock_is_moved_by_the_test_and_its_progress_is_kept(self) -> None:
        context = FakeContext(attempt=2)
        done = ensureDeferred(wait(context))
        context.clock.advance(4.9)
        self.assertNoResult(done)
        context.clock.advance(0.1)
        self.assertEqual(self.successResultOf(done), 2)
        self.assertEqual(context.told, [Progress(1, 1, "rested")])

    def test_a_clock_may_be_given(self) -> None:
        clock = Clock()
        self.assertIs(FakeContext(clock).clock, clock)

    def test_it_is_cancelled_when_the_test_says_so(self) -> None:
        context = FakeContext()
        look(context)
        context.cancelled = True
        self.assertRaises(CancelledError, look, context)

    def test_what_it_tells_of_the_attempt_may_be_given(self) -> None:
        context = FakeContext(task_id="task_1", deadline=7.5, traceparent="00-1-2-01")
        told = (context.task_id, context.attempt, context.deadline, context.traceparent)
        self.assertEqual(told, ("task_1", 1, 7.5, "00-1-2-01"))

    def test_its_log_carries_the_task(self) -> None:
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        context = FakeContext()
        look(context)
        self.assertEqual([event["task_id"] for event in events], [context.task_id])

    def test_what_no_service_takes_it_does_not_take_either(self) -> None:
        self.assertRaises(TypeError, FakeContext().progress, 0.5, 1)
