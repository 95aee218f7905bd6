"""The wheel: like the reactor's own calls, only that a million of them cost no more than one each."""

import gc
import random
import sys
from collections.abc import Callable, Iterator
from math import ceil, floor, inf, nan
from typing import Any, cast
from weakref import ref

import treq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet import reactor
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyClass

from asynctask.composition import AsyncTask
from asynctask.sqlitefile import Place
from asynctask.timers import BUCKET, MOST, OF_LATENESS, SHARE, TICKS, WIDE, WIDEST, Slots, Timer, Wheel
from tests import test_runner
from tests.time_contract import TimeContract
from tests.wheels import WheelClock

HOUR = 3_600.0


class OfTheClock(TimeContract, TestCase):
    """What tests are driven by."""

    def make_time(self) -> Any:
        return Clock()

    async def wait(self, units: float) -> None:
        self.time.advance(units * self.unit)


class OfTheWheel(OfTheClock):
    """The wheel, over what tests are driven by."""

    def make_time(self) -> Any:
        clock = WheelClock()
        self.advance = clock.below.advance
        return clock.wheel

    async def wait(self, units: float) -> None:
        self.advance(units * self.unit)


class OfTheReactor(TimeContract, TestCase):
    """The reactor, by the real time."""

    unit = 0.03

    def make_time(self) -> Any:
        return reactor

    async def wait(self, units: float) -> None:
        await deferLater(cast(IReactorTime, reactor), units * self.unit + 0.02)

    def so_far(self, called: list[Any]) -> None:
        """It may have taken longer: that nothing comes early is what each call looks at itself."""


class OfTheWheelOnTheReactor(OfTheReactor):
    """The wheel, as it is used."""

    def make_time(self) -> Any:
        wheel = Wheel(cast(IReactorTime, reactor))
        self.addCleanup(wheel.stop)
        return wheel


class RunnerOnTheWheel(test_runner.RunnerTests):
    """The runner, its handlers and its claims wait by the wheel as they do by the clock."""

    def new_clock(self) -> Clock:
        return WheelClock()


class InTheService(TestCase):
    """The whole service, in a program of somebody's own."""

    async def test_after_its_stop_nothing_waits_although_a_task_did(self) -> None:
        """Whether the reactor is left clean trial itself looks at."""
        service = AsyncTask(Place(None), "tcp:0:interface=127.0.0.1", reactor, grace=0)
        service.startService()
        assert service.port is not None
        url = f"http://127.0.0.1:{cast(Any, service.port).getHost().port}/api/tasks"
        answer = await treq.post(url, json={"name": "a", "duration": 60}, persistent=False)
        self.assertEqual(answer.code, 202)
        await answer.content()
        await service.stopService()
        self.assertIs(service._clock._next is None or service._clock._next.active(), False)


class Model(RuleBasedStateMachine):
    """The wheel beside a dict of what is to come."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.wheel = Wheel(self.clock, self.clock.seconds)
        self.calls: dict[int, Timer] = {}
        self.times: dict[int, float] = {}
        self.without_delay: set[int] = set()
        self.changed: set[int] = set()
        self.called: list[int] = []

    delays = st.one_of(
        st.just(0.0),
        st.floats(0, 0.05),
        st.floats(0, 20),
        st.integers(0, 5).map(lambda n: n * WIDE / TICKS),
        st.floats(0, 5_000),
        st.integers(0, 5).map(lambda n: n * WIDEST / TICKS),
        st.floats(0, 1e8),
    )

    def one_of(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.times)))

    @rule(delay=delays)
    def call_later(self, delay: float) -> None:
        number = len(self.calls)
        self.calls[number] = self.wheel.callLater(delay, self.called.append, number)
        self.times[number] = self.clock.seconds() + delay
        if not delay:
            self.without_delay.add(number)

    @precondition(lambda self: self.times)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = self.one_of(data)
        self.calls[number].cancel()
        del self.times[number]

    @precondition(lambda self: self.times)
    @rule(data=st.data(), delay=delays)
    def reset(self, data: st.DataObject, delay: float) -> None:
        number = self.one_of(data)
        self.calls[number].reset(delay)
        self.change(number, self.clock.seconds() + delay)

    @precondition(lambda self: self.times)
    @rule(data=st.data(), more=delays, sign=st.sampled_from([1, -1]))
    def delay(self, data: st.DataObject, more: float, sign: int) -> None:
        number = self.one_of(data)
        self.calls[number].delay(sign * more)
        self.change(number, self.times[number] + sign * more)

    def change(self, number: int, time: float) -> None:
        if time < self.times[number]:
            self.without_delay.discard(number)
        self.times[number] = time
        self.changed.add(number)

    @rule(seconds=delays)
    def advance(self, seconds: float) -> None:
        """All that is due by now comes, in the order of its time; nothing else does."""
        self.called.clear()
        self.clock.advance(seconds)
        now = self.clock.seconds()
        due = {number for number, time in self.times.items() if self.is_due(number, time, now)}
        self.assert_equal(set(self.called), due)
        self.assert_equal(len(self.called), len(due))
        with_delay = [self.times[number] for number in self.called if number not in self.without_delay]
        self.assert_equal(with_delay, sorted(with_delay))
        without = [number for number in self.called if number in self.without_delay - self.changed]
        self.assert_equal(without, sorted(without))
        for number in due:
            del self.times[number]
        # What was put off and is not due yet now lies among the others.
        self.without_delay.clear()

    def is_due(self, number: int, time: float, now: float) -> bool:
        if number in self.without_delay and time <= now:
            return True
        return ceil(time * TICKS) <= floor(now * TICKS)

    @invariant()
    def what_it_tells_of_them_is_true(self) -> None:
        waiting = {self.calls[number] for number in self.times}
        self.assert_equal(set(self.wheel.getDelayedCalls()), waiting)
        self.assert_equal({call for call in self.calls.values() if call.active()}, waiting)
        for number, time in self.times.items():
            self.assert_equal(self.calls[number].getTime(), time)

    def assert_equal(self, found: object, expected: object) -> None:
        assert found == expected, f"{found} != {expected}"


class AgainstAModel(SynchronousTestCase):
    """Any order of calls, cancels, changes and times."""

    def test_it_does_what_a_sorted_list_would(self) -> None:
        run_state_machine_as_test(Model, settings=settings(max_examples=settings().max_examples))


class WheelTestCase(SynchronousTestCase):
    """A wheel by a clock that the test moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock, self.clock.seconds)
        self.called: list[Any] = []

    def later(self, delay: float, name: Any = "a") -> Timer:
        return self.wheel.callLater(delay, self.called.append, name)


class Slices(WheelTestCase):
    """What only the wheel promises."""

    def test_it_keeps_to_the_interfaces(self) -> None:
        verifyClass(IReactorTime, Wheel)
        verifyClass(IDelayedCall, Timer)

    def test_a_call_is_late_by_less_than_a_slot(self) -> None:
        for number in range(1, 100):
            self.wheel.callLater(number / 1_000, lambda number=number: self.note(number / 1_000))
        for _ in range(200):
            self.clock.advance(0.001)
        self.assertEqual(len(self.called), 99)
        self.assertTrue(all(0 <= late <= 1 / TICKS + 0.001 for late in self.called), self.called)
        self.assertLess(1 / TICKS, 0.01)

    def note(self, due: float) -> None:
        self.called.append(self.clock.seconds() - due + 1e-9)

    def test_the_reactor_has_one_call_for_all(self) -> None:
        for delay in (5, 0, 3, 0.001, 100, 4_000, 2, 1e7):
            self.later(delay)
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_without_calls_it_leaves_the_reactor_alone(self) -> None:
        self.later(2)
        self.clock.advance(3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_leaves_nothing_and_nothing_comes_after_it(self) -> None:
        self.later(0)
        self.later(1)
        self.wheel.stop()
        self.later(0)
        self.later(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.wheel.wake()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_delay_that_is_none_is_refused(self) -> None:
        for delay in (-1, -1e-9, inf, -inf, nan):
            self.assertRaises(ValueError, self.later, delay)
        self.assertEqual(self.wheel.getDelayedCalls(), [])

    def test_an_error_of_one_call_is_logged_and_does_not_keep_the_others(self) -> None:
        for delay in (0, 1):
            self.later(delay, "before")
            self.wheel.callLater(delay, lambda: 1 / 0)
            self.later(delay, "after")
        self.clock.advance(1)
        self.assertEqual(self.called, ["before", "after"] * 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_what_comes_together_may_change_one_another(self) -> None:
        def change() -> None:
            calls["cancelled"].cancel()
            calls["off"].reset(1)
            calls["off and forward"].reset(2)
            calls["off and forward"].reset(1)
            calls["forward"].reset(0)

        self.wheel.callLater(1, change)
        names = ("cancelled", "off", "off and forward", "forward")
        calls = {name: self.later(1 + number / 10_000, name) for number, name in enumerate(names)}
        self.clock.advance(1.01)
        self.clock.advance(0.01)
        self.assertEqual(self.called, ["forward"])
        self.clock.advance(1.01)
        self.assertEqual(sorted(self.called), ["forward", "off", "off and forward"])

    def test_calls_of_one_moment_come_in_turn_however_many_and_however_far(self) -> None:
        for delay in (0, 0.001, 1, 100, 10_000):
            many = range(2 * BUCKET + 3)
            for number in many:
                self.later(delay, number)
            self.clock.advance(delay + 0.01)
            self.assertEqual(self.called, list(many), delay)
            self.called.clear()

    def test_after_a_long_hold_all_come_in_the_order_of_their_times(self) -> None:
        times = [100 + number / 1_000 for number in range(3 * BUCKET)]
        for time in random.Random(1).sample(times, len(times)):
            self.later(time, time)
        self.clock.advance(95)
        self.later(8.5, 103.5)
        self.clock.advance(5_000)
        self.assertEqual(self.called, sorted([*times, 103.5]))

    def test_a_call_far_away_is_as_accurate_as_a_near_one(self) -> None:
        for delay in (7.5, 100.25, 3_000.75, 10_000_000.5):
            self.later(delay)
            while self.wheel.getDelayedCalls():
                self.assertLess(self.clock.seconds(), delay)
                following = self.clock.getDelayedCalls()[0].getTime()
                self.clock.advance(max(following - self.clock.seconds(), delay / 1_000))
            self.called.clear()
            self.setUp()


class Steps(WheelTestCase):
    """The reactor's clock is set by somebody; the wheel's is not."""

    def setUp(self) -> None:
        self.wall, self.monotonic = Clock(), Clock()
        self.wall.rightNow = 1e9
        self.wheel = Wheel(self.wall, self.monotonic.seconds)
        self.called = []

    def pass_time(self, seconds: float) -> None:
        self.monotonic.advance(seconds)
        self.wall.advance(seconds)

    def test_a_clock_that_is_set_back_stops_nothing_as_long_as_the_wheel_is_woken(self) -> None:
        self.later(0)
        self.later(10)
        self.wall.rightNow -= HOUR
        for second in range(1, 10):
            self.pass_time(1)
            self.wheel.wake()
            self.assertEqual(self.called, ["a"], second)
        self.pass_time(1)
        self.wheel.wake()
        self.assertEqual(self.called, ["a", "a"])

    def test_once_woken_it_goes_on_by_itself(self) -> None:
        self.later(10)
        self.wall.rightNow -= HOUR
        self.wheel.wake()
        self.pass_time(10)
        self.assertEqual(self.called, ["a"])

    def test_a_clock_that_is_set_forward_brings_nothing_forward(self) -> None:
        self.later(10)
        self.wall.advance(HOUR)
        self.pass_time(9)
        self.assertEqual(self.called, [])
        self.pass_time(1)
        self.assertEqual(self.called, ["a"])

    def test_a_clock_that_is_slow_makes_nothing_much_later(self) -> None:
        self.later(600)
        for _ in range(599):
            self.monotonic.advance(1)
            self.wall.advance(0.99)
        self.assertEqual(self.called, [])
        self.monotonic.advance(1)
        self.wall.advance(1.02)
        self.assertEqual(self.called, ["a"])


class Watched(Clock):
    """A clock that goes on whenever somebody looks, and counts how often it calls.

    :ivar turns: the seconds that each call took.
    """

    def __init__(self, look: float) -> None:
        super().__init__()
        self.look = look
        self.turns: list[float] = []

    def seconds(self) -> float:
        self.rightNow += self.look
        return self.rightNow

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        def turn() -> None:
            before = self.rightNow
            callable(*args, **kw)
            self.turns.append(self.rightNow - before)

        return super().callLater(delay, turn)


class Portions(WheelTestCase):
    """Many calls at once do not hold the reactor."""

    LOOK = 5e-6

    def setUp(self) -> None:
        self.watched = Watched(self.LOOK)
        self.clock = self.watched
        self.wheel = Wheel(self.clock, self.clock.seconds)
        self.called = []

    def run_all(self) -> list[float]:
        """What each turn took until nothing was left."""
        while waiting := self.clock.getDelayedCalls():
            self.clock.advance(max(0.0, waiting[0].getTime() - self.clock.rightNow))
        return self.watched.turns

    def assert_in_portions(self, calls: int) -> None:
        self.assertEqual(len(self.called), calls)
        turns = self.run_all()
        self.assertGreater(len(turns), calls * self.LOOK / MOST)
        self.assertLess(max(turns), SHARE + MOST + 20 * self.LOOK)

    def test_those_of_one_slot_come_in_order_and_in_portions(self) -> None:
        times = [1 + number / 1e7 for number in range(10_000)]
        random.Random(1).shuffle(times)
        base = self.clock.rightNow
        for time in times:
            self.later(base + time - self.clock.rightNow, time)
        self.run_all()
        self.assertEqual(self.called, sorted(times))
        self.assert_in_portions(10_000)

    def test_the_later_calls_are_the_more_come_in_a_turn(self) -> None:
        first = []
        for late in (0.0, 1.2 * SHARE / OF_LATENESS, 60.0):
            self.watched.turns.clear()
            for number in range(1_000):
                self.later(1, number)
            self.clock.advance(1 + 1 / TICKS + late)
            first.append(self.watched.turns[0])
            self.run_all()
        self.assertApproximates(first[0], SHARE, 0.1 * SHARE)
        self.assertApproximates(first[2], MOST, 0.1 * SHARE)
        self.assertTrue(first[0] * 1.1 < first[1] < first[2] * 0.95, first)

    def test_those_without_delay_come_in_order_and_in_portions(self) -> None:
        for number in range(10_000):
            self.later(0, number)
        self.run_all()
        self.assertEqual(self.called, list(range(10_000)))
        self.assert_in_portions(10_000)

    def test_what_asks_for_itself_again_leaves_the_reactor_its_turn(self) -> None:
        def again() -> None:
            if len(self.called) < 10:
                self.later(0)
                self.wheel.callLater(0, again)

        again()
        self.run_all()
        self.assertGreaterEqual(len(self.watched.turns), 10)

    def test_those_of_a_wide_slot_are_moved_a_few_at_a_time(self) -> None:
        for _ in range(10):
            for number in range(1_000):
                self.later(3_000 + number / 10_000)
        levels = self.wheel._later
        self.assertTrue(all(len(bucket) <= BUCKET for level in levels for slot in level for bucket in slot))
        self.clock.advance(3_000 - 1.5 * WIDEST / TICKS)
        self.run_all()
        self.assert_in_portions(10_000)


class Memory(WheelTestCase):
    """A million of them."""

    def test_a_timer_is_small(self) -> None:
        timer = self.later(600)
        self.assertLessEqual(sys.getsizeof(timer), 80)
        self.assertFalse(hasattr(timer, "__dict__"))

    def test_calls_of_a_year_lie_in_few_slots(self) -> None:
        for number in range(20_000):
            self.later(number * 1_577.0)
        slots = sum(1 for level in (self.wheel._due, *self.wheel._later) for _ in level)
        self.assertLess(slots, 365 * 86_400 * TICKS / WIDEST + 2_000)

    def test_cancelled_calls_leave_their_room(self) -> None:
        def room() -> int:
            levels: list[Slots] = [self.wheel._due, *self.wheel._later]
            return sum(sys.getsizeof(bucket) for level in levels for slot in level for bucket in slot)

        calls = [self.later(600 + number / 1_000) for number in range(5_000)]
        before = room()
        for call in calls:
            call.cancel()
        self.assertLess(room(), before / 10)

    def test_what_came_or_was_cancelled_is_let_go_of_without_the_collector(self) -> None:
        class Thing:
            def call(self, *_: object, **__: object) -> None:
                pass

        def make() -> Iterator[ref[Any]]:
            for delay in (0, 1, 100, 10_000):
                for cancelled in (False, True):
                    thing = Thing()
                    call = self.wheel.callLater(delay, thing.call, thing, thing=thing)
                    deferred = deferLater(self.wheel, delay, thing.call)
                    if cancelled:
                        call.cancel()
                        deferred.addErrback(lambda _: None)
                        deferred.cancel()
                    yield from (ref(thing), ref(deferred))

        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        left = list(make())
        self.clock.advance(20_000)
        self.assertEqual([one() for one in left], [None] * len(left))
