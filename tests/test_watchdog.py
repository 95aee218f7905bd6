"""The watchdog: it tells who holds the reactor."""

from queue import Empty, Queue
from typing import cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask import watchdog
from asynctask.watchdog import HELD, LOOK, Watchdog
from tests.turns import PATIENCE, Turns

TASK = "task_17388800000002k4qz7m0a9x3c8v5t"


class WatchdogTests(SynchronousTestCase):
    """A reactor that is alive when the test says so, and a clock that the test moves."""

    def setUp(self) -> None:
        self.now = 0.0
        self.patch(watchdog, "monotonic", lambda: self.now)
        self.reactor = Turns()
        self.told: Queue[LogEvent] = Queue()
        self.late: list[float] = []
        self.beats = 0
        observer = cast(ILogObserver, self.note)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.watchdog = Watchdog(
            self.reactor.callFromThread, lambda: TASK, self.late.append, self.count_beat
        )
        self.watchdog.start()
        self.addCleanup(self.end)

    def note(self, event: LogEvent) -> None:
        if event.get("log_namespace") == "asynctask.watchdog":
            self.told.put(event)

    def count_beat(self) -> None:
        self.beats += 1

    def end(self) -> None:
        self.watchdog.stop()
        assert self.watchdog._thread is not None
        self.watchdog._thread.join(PATIENCE)

    def hold(self) -> LogEvent:
        """Hold the reactor for so long that it is told."""
        self.reactor.wait_for_more()
        self.now += HELD + 0.5
        return self.told.get(timeout=PATIENCE)

    def test_a_held_reactor_is_told_with_the_task_and_the_stack(self) -> None:
        event = self.hold()
        self.assertEqual(event["log_format"], "The reactor is held")
        self.assertEqual(event["log_level"].name, "warn")
        self.assertEqual((event["task_id"], event["seconds"]), (TASK, HELD + 0.5))
        self.assertIn("test_a_held_reactor_is_told_with_the_task_and_the_stack", event["log_stack"])
        self.assertIn("self.told.get(timeout=PATIENCE)", event["log_stack"])

    def test_each_hold_is_told_once(self) -> None:
        self.hold()
        self.now += HELD
        self.assertRaises(Empty, self.told.get, timeout=2 * LOOK)
        self.reactor.turn()
        self.hold()

    def test_a_reactor_that_comes_back_in_time_is_not_worth_a_word(self) -> None:
        for _ in range(3):
            self.reactor.wait_for_more()
            self.now += HELD
            self.assertRaises(Empty, self.told.get, timeout=2 * LOOK)
            self.reactor.turn()

    def test_each_beat_is_told_and_how_late_it_came(self) -> None:
        self.reactor.turn()
        self.hold()
        self.reactor.turn()
        self.assertEqual((self.beats, self.late), (2, [0, HELD + 0.5]))

    def test_a_held_reactor_is_not_asked_again_and_again(self) -> None:
        self.hold()
        self.assertEqual(self.reactor._calls.qsize(), 1)

    def test_after_a_stop_nothing_is_left(self) -> None:
        self.hold()
        self.end()
        thread = self.watchdog._thread
        assert thread is not None
        self.assertFalse(thread.is_alive())
        self.reactor.turn()
        self.assertEqual((self.late, self.beats), ([], 0))

    def test_a_stop_before_a_start_does_nothing(self) -> None:
        Watchdog(self.reactor.callFromThread, lambda: "").stop()
