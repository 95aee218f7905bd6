"""The wall clock: who hears that it was set, and what waits meanwhile."""

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask.problems import Unavailable
from asynctask.wallclock import SET, WallClock, elapsed

START = 1_700_000_000.0
HOUR = 3_600.0

DIFFER = ("This machine's clock and the database's differ", 300.0)
AGREE = ("This machine's clock and the database's agree again", None)


class WallTests(SynchronousTestCase):
    """A clock that is set, beside one that runs on."""

    def setUp(self) -> None:
        self.wall_time, self.elapsed = START, 50.0
        self.heard: list[tuple[float, float]] = []
        self.wall = WallClock(lambda: self.wall_time, self.clock)
        self.wall.was_set = self.hear

    def clock(self) -> float:
        return self.elapsed

    def hear(self, before: float, now: float) -> Deferred[None]:
        self.heard.append((before, now))
        return succeed(None)

    def run_on(self, seconds: float) -> None:
        self.wall_time += seconds
        self.elapsed += seconds

    def test_it_tells_the_time(self) -> None:
        self.run_on(2.5)
        self.assertEqual((self.wall(), self.heard), (START + 2.5, []))

    def test_a_clock_that_was_set_is_told_once_before_its_time_is(self) -> None:
        for step in (-HOUR, HOUR, 2 * SET):
            self.heard.clear()
            self.run_on(10)
            before = self.wall()
            self.run_on(5)
            self.wall_time += step
            self.assertEqual(self.wall(), before + 5 + step)
            self.assertEqual(self.heard, [(before + 5, before + 5 + step)])
            self.run_on(HOUR)
            self.wall()
            self.assertEqual(len(self.heard), 1)

    def test_a_clock_that_is_kept_right_is_none_that_was_set(self) -> None:
        self.wall_time += SET / 2
        self.wall()
        self.assertEqual(self.heard, [])

    def test_small_steps_add_up(self) -> None:
        for _ in range(3):
            self.wall_time += SET / 2
            self.wall()
        self.assertEqual(self.heard, [(START, START + 1.5 * SET)])

    def test_who_was_stopped_between_the_two_clocks_knows_nothing(self) -> None:
        times = iter([START, START, START + 2 * HOUR])
        others = iter([50.0, 50.0 + HOUR, 50.0 + HOUR, 50.0 + 2 * HOUR])
        wall = WallClock(lambda: next(times), lambda: next(others))
        wall.was_set = self.hear
        wall()
        self.assertEqual((self.heard, list(times), list(others)), ([], [], []))

    def test_where_nobody_hears_it_time_goes_on(self) -> None:
        self.wall.was_set = None
        for step in (-HOUR, 3 * HOUR):
            before = self.wall()
            self.wall_time += step
            self.assertEqual([self.wall(), self.wall.read()], [before] * 2)
            self.run_on(2)
            self.assertEqual(self.wall(), before + 2)

    def test_it_goes_by_another_clock(self) -> None:
        self.wall.was_set = None
        with capturedLogs() as events:
            self.assertEqual(self.wall.follow(self.wall_time + SET / 2, self.wall_time), 0)
            self.assertEqual(self.wall(), START)
            self.assertEqual(self.wall.follow(self.wall_time - 300, self.wall_time), -300)
            self.assertEqual([self.wall(), self.wall.read()], [START - 300] * 2)
            self.assertEqual(self.wall.follow(self.wall_time - 300 + SET / 2, self.wall_time), 0)
            self.assertEqual(self.wall(), START - 300)
            self.wall_time += 300  # it is set right
            self.assertEqual(self.wall.follow(self.wall_time, self.wall_time), 600)
        self.assertEqual(self.wall(), START + 300)
        self.assertEqual([(event["log_format"], event.get("seconds")) for event in events], [DIFFER, AGREE])

    def test_it_tells_when_it_no_longer_agrees_with_the_other_and_when_it_does_again(self) -> None:
        self.wall.was_set = None
        for wrong, told in ((0, []), (300, [DIFFER]), (300, []), (0, [AGREE]), (SET, []), (-SET, [])):
            self.run_on(4)
            self.wall_time = START + self.elapsed + wrong
            with capturedLogs() as events:
                self.wall.follow(START + self.elapsed, self.wall_time)
            self.assertEqual([(event["log_format"], event.get("seconds")) for event in events], told, wrong)

    def test_it_is_told_again_where_nothing_could_be_done(self) -> None:
        def fails(before: float, now: float) -> Deferred[None]:
            self.hear(before, now)
            return fail(Unavailable("later"))

        def refuses(before: float, now: float) -> Deferred[None]:
            self.hear(before, now)
            raise Unavailable("later")

        self.wall_time -= HOUR
        for was_set in (fails, refuses, self.hear, self.hear):
            self.wall.was_set = was_set
            self.wall()
        self.assertEqual(self.heard, [(START, START - HOUR)] * 3)

    def test_a_defect_is_logged(self) -> None:
        self.wall.was_set = lambda _before, _now: fail(ValueError("x"))
        self.wall_time -= HOUR
        self.wall()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_the_other_clock_runs(self) -> None:
        self.assertLessEqual(elapsed(), elapsed())
