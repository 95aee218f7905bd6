"""The watchdog: it tells who holds the reactor. Its thread looks by the real clock."""

from queue import Empty, Queue
from typing import cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask.watch import HELD, LOOK, Watchdog
from tests.turns import PATIENCE

TASK = "task_17388800000002k4qz7m0a9x3c8v5t"


class WatchdogTests(SynchronousTestCase):
    """A reactor that beats as the test moves its clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: Queue[LogEvent] = Queue()
        observer = cast(ILogObserver, self.note)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.watchdog = Watchdog(self.clock, lambda: TASK)
        self.watchdog.start()
        self.addCleanup(self.end)

    def note(self, event: LogEvent) -> None:
        if event.get("log_namespace") == "asynctask.watch":
            self.told.put(event)

    def end(self) -> None:
        self.watchdog.stop()
        assert self.watchdog._thread is not None
        self.watchdog._thread.join(PATIENCE)

    def hold(self, seconds: float = HELD + 2 * LOOK) -> None:
        """As if the last beat had been so long ago."""
        self.watchdog._beat -= seconds

    def test_a_held_reactor_is_told_with_the_task_and_the_stack(self) -> None:
        self.hold()
        event = self.told.get(timeout=PATIENCE)
        self.assertEqual(event["log_format"], "The reactor is held")
        self.assertEqual(event["log_level"].name, "warn")
        self.assertEqual(event["task_id"], TASK)
        self.assertGreaterEqual(event["seconds"], HELD)
        self.assertIn("test_a_held_reactor_is_told_with_the_task_and_the_stack", event["log_stack"])
        self.assertIn("self.told.get(timeout=PATIENCE)", event["log_stack"])

    def test_each_hold_is_told_once(self) -> None:
        self.hold()
        self.told.get(timeout=PATIENCE)
        self.assertRaises(Empty, self.told.get, timeout=1.5 * LOOK)
        self.clock.advance(LOOK)
        self.hold()
        self.told.get(timeout=PATIENCE)

    def test_a_reactor_that_comes_back_in_time_is_not_worth_a_word(self) -> None:
        self.hold(HELD - LOOK)
        self.assertRaises(Empty, self.told.get, timeout=1.5 * LOOK)

    def test_the_heart_goes_on_beating(self) -> None:
        before = self.watchdog._beat
        for _ in range(3):
            self.hold()
            self.clock.advance(LOOK)
            self.assertGreater(self.watchdog._beat, before)

    def test_after_a_stop_nothing_is_left(self) -> None:
        self.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        thread = self.watchdog._thread
        assert thread is not None
        self.assertFalse(thread.is_alive())

    def test_a_stop_before_a_start_does_nothing(self) -> None:
        Watchdog(Clock(), lambda: "").stop()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
