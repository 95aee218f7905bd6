"""The kinds of task, and the built-in ``simulate``."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from asynctask.context import Context, Facts
from asynctask.model import Progress
from asynctask.registry import KINDS, simulate

FACTS = Facts("task_17388800000002k4qz7m0a9x3c8v5t", "a", 2)


class Simulation:
    """A task of kind ``simulate`` under way, and what it has told."""

    def __init__(self, duration: int) -> None:
        self.clock = Clock()
        self.told: list[tuple[float, Progress]] = []
        context = Context(FACTS, self.clock, self._report, lambda: False)
        self.deferred: Deferred[Any] = simulate(duration, context=context)

    def _report(self, progress: Progress) -> None:
        self.told.append((self.clock.seconds(), progress))


class Simulate(SynchronousTestCase):
    """The built-in kind."""

    def test_it_runs_for_its_duration(self) -> None:
        simulation = Simulation(5)
        simulation.clock.pump([1, 1, 1, 1, 0.999])
        self.assertNoResult(simulation.deferred)
        simulation.clock.advance(0.001)
        self.assertIsNone(self.successResultOf(simulation.deferred))

    def test_it_tells_of_one_step_a_second(self) -> None:
        simulation = Simulation(3)
        simulation.clock.pump([0.5] * 6)
        self.assertEqual(
            simulation.told,
            [
                (1.0, Progress(1, 3)),
                (2.0, Progress(2, 3)),
                (3.0, Progress(3, 3)),
            ],
        )

    def test_nothing_to_do_is_done_at_once(self) -> None:
        simulation = Simulation(0)
        self.assertIsNone(self.successResultOf(simulation.deferred))
        self.assertEqual(simulation.told, [])
        self.assertEqual(simulation.clock.getDelayedCalls(), [])

    def test_a_cancel_ends_it_in_the_middle(self) -> None:
        simulation = Simulation(5)
        simulation.clock.pump([1, 1])
        simulation.deferred.cancel()
        self.failureResultOf(simulation.deferred, CancelledError)
        self.assertEqual(len(simulation.told), 2)
        self.assertEqual(simulation.clock.getDelayedCalls(), [])

    @given(st.integers(0, 30))
    def test_it_takes_as_long_as_it_says_that_it_will(self, duration: int) -> None:
        simulation = Simulation(duration)
        seconds = 0
        while not simulation.deferred.called:
            simulation.clock.advance(1)
            seconds += 1
        self.assertEqual(seconds, duration)
        self.assertEqual(KINDS["simulate"].seconds({"duration": duration}), duration)
        self.assertEqual(len(simulation.told), duration)


class Kinds(SynchronousTestCase):
    """What tasks there are."""

    def test_simulate_is_built_in(self) -> None:
        self.assertEqual([kind.name for kind in KINDS.values()], ["simulate"])
        self.assertEqual(list(KINDS), ["simulate"])

    def test_a_kind_gives_steps_that_wait_for_the_clock(self) -> None:
        clock = Clock()
        told: list[Progress] = []
        context = Context(FACTS, clock, told.append, lambda: False)
        steps = KINDS["simulate"].steps(context=context, duration=1)
        wait = steps.send(None)
        clock.advance(1)
        self.assertIsNone(self.successResultOf(wait))
        with self.assertRaises(StopIteration):
            steps.send(None)
        self.assertEqual(told, [Progress(1, 1)])
