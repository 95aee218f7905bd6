"""What whoever waits relies on, whatever calls it: `task.Clock`, the reactor, or the wheel over either."""

from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object


class TimeContract(TestCase):
    """Delays are in units, so that a real clock need not take long.

    :ivar unit: seconds of one.
    """

    unit = 1.0
    time: Any

    def setUp(self) -> None:
        self.called: list[Any] = []
        self.early: list[Any] = []
        self.time = self.make_time()

    def make_time(self) -> Any:
        raise NotImplementedError

    def tearDown(self) -> None:
        self.assertEqual(self.early, [])

    async def wait(self, units: float) -> None:
        """Let so much time pass, and as much more as the accuracy takes."""
        raise NotImplementedError

    def so_far(self, called: list[Any]) -> None:
        """No more than these were called yet; a real clock may have gone on since."""
        self.assertEqual(self.called, called)

    def later(self, units: float, name: Any = "a") -> Any:
        def come() -> None:
            self.called.append(name)
            if self.time.seconds() < call.getTime():
                self.early.append(name)

        call = self.time.callLater(units * self.unit, come)
        return call

    async def test_it_provides_the_interfaces(self) -> None:
        verifyObject(IReactorTime, self.time)
        verifyObject(IDelayedCall, call := self.later(1))
        call.cancel()

    async def test_a_call_comes_in_its_time_and_not_before(self) -> None:
        self.later(2)
        await self.wait(1)
        self.so_far([])
        await self.wait(1)
        self.assertEqual(self.called, ["a"])
        await self.wait(3)
        self.assertEqual(self.called, ["a"])

    async def test_a_call_has_its_arguments(self) -> None:
        self.time.callLater(self.unit, lambda *args, **kwargs: self.called.append((args, kwargs)), 1, b=2)
        await self.wait(1)
        self.assertEqual(self.called, [((1,), {"b": 2})])

    async def test_calls_come_in_the_order_of_their_times(self) -> None:
        for units in (3, 1, 4, 2):
            self.later(units, units)
        await self.wait(4)
        self.assertEqual(self.called, [1, 2, 3, 4])

    async def test_calls_of_the_same_delay_come_in_turn(self) -> None:
        for number in range(20):
            self.later(1, number)
        await self.wait(1)
        self.assertEqual(self.called, list(range(20)))

    async def test_no_delay_is_not_at_once_and_in_turn(self) -> None:
        for number in range(20):
            self.later(0, number)
        self.assertEqual(self.called, [])
        await self.wait(0)
        self.assertEqual(self.called, list(range(20)))

    async def test_a_call_may_ask_for_another(self) -> None:
        def first() -> None:
            self.later(0, "second")
            self.later(1, "third")
            self.called.append("first")

        self.time.callLater(self.unit, first)
        await self.wait(1)
        self.so_far(["first", "second"])
        await self.wait(1)
        self.assertEqual(self.called, ["first", "second", "third"])

    async def test_it_tells_when_a_call_comes(self) -> None:
        before = self.time.seconds()
        call = self.later(5)
        expected = before + 5 * self.unit
        self.assertTrue(expected <= call.getTime() < expected + 0.1)
        call.delay(self.unit)
        self.assertTrue(expected + self.unit <= call.getTime() < expected + self.unit + 0.1)
        call.reset(self.unit)
        self.assertTrue(before + self.unit <= call.getTime() < before + self.unit + 0.1)
        call.cancel()

    async def test_a_cancelled_call_never_comes(self) -> None:
        one, other, at_once = self.later(1, "one"), self.later(1, "other"), self.later(0, "at once")
        self.assertTrue(one.active())
        one.cancel()
        at_once.cancel()
        self.assertFalse(one.active())
        await self.wait(2)
        self.assertEqual(self.called, ["other"])
        self.assertFalse(other.active())

    async def test_what_was_cancelled_can_not_be_changed(self) -> None:
        call = self.later(1)
        call.cancel()
        self.assertRaises(AlreadyCancelled, call.cancel)
        self.assertRaises(AlreadyCancelled, call.reset, 1)
        self.assertRaises(AlreadyCancelled, call.delay, 1)

    async def test_what_has_come_can_not_be_changed(self) -> None:
        call = self.later(1)
        await self.wait(1)
        self.assertRaises(AlreadyCalled, call.cancel)
        self.assertRaises(AlreadyCalled, call.reset, 1)
        self.assertRaises(AlreadyCalled, call.delay, 1)

    async def test_a_call_can_not_be_changed_by_itself(self) -> None:
        def cancel() -> None:
            self.assertFalse(call.active())
            self.assertRaises(AlreadyCalled, call.cancel)
            self.called.append("it")

        call = self.time.callLater(self.unit, cancel)
        await self.wait(1)
        self.assertEqual(self.called, ["it"])

    async def test_a_call_can_be_put_off_and_forward(self) -> None:
        for name, delay in (("off", 1), ("forward", 3)):
            self.later(delay, name).reset(2 * self.unit)
        for name, delay, more in (("later", 1, 1), ("sooner", 3, -1)):
            self.later(delay, name).delay(more * self.unit)
        await self.wait(1)
        self.so_far([])
        await self.wait(1)
        self.assertEqual(sorted(self.called), ["forward", "later", "off", "sooner"])
        await self.wait(2)
        self.assertEqual(len(self.called), 4)

    async def test_a_call_that_was_put_off_can_be_put_forward_again(self) -> None:
        call = self.later(1)
        call.reset(8 * self.unit)
        call.reset(2 * self.unit)
        await self.wait(1)
        self.so_far([])
        await self.wait(1)
        self.assertEqual(self.called, ["a"])

    async def test_a_call_may_change_another(self) -> None:
        cancelled, off, forward = self.later(2), self.later(2, "off"), self.later(9, "forward")

        def change() -> None:
            cancelled.cancel()
            off.reset(3 * self.unit)
            forward.reset(self.unit)

        self.time.callLater(self.unit, change)
        await self.wait(1)
        await self.wait(1)
        self.so_far(["forward"])
        await self.wait(2)
        self.assertEqual(self.called, ["forward", "off"])

    async def test_it_lists_what_is_to_come(self) -> None:
        calls = [self.later(units) for units in (0, 1, 2000, 40_000_000)]
        self.assertEqual(self.listed(calls), calls)
        calls[3].cancel()
        self.assertEqual(self.listed(calls), calls[:3])
        await self.wait(1)
        self.assertEqual(self.listed(calls), calls[2:3])
        calls[2].cancel()
        self.assertEqual(self.listed(calls), [])

    def listed(self, calls: list[Any]) -> list[Any]:
        """Those of them that are listed; of a reactor there may be others."""
        found = self.time.getDelayedCalls()
        return [call for call in calls if call in found]

    async def test_who_waits_by_a_deferred_waits_so_long(self) -> None:
        deferLater(self.time, self.unit, lambda: "result").addCallback(self.called.append)
        never: Deferred[None] = deferLater(self.time, self.unit)
        never.addErrback(lambda _: None)
        never.cancel()
        await self.wait(1)
        self.assertEqual(self.called, ["result"])

    async def test_a_timeout_comes_in_its_time(self) -> None:
        slow: Deferred[None] = Deferred()
        slow.addTimeout(2 * self.unit, self.time)
        slow.addErrback(lambda failure: self.called.append(failure.check(defer.TimeoutError)))
        await self.wait(1)
        self.so_far([])
        await self.wait(1)
        self.assertEqual(self.called, [defer.TimeoutError])
