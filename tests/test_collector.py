"""The garbage collector: what is frozen in a cycle does not stay for ever."""

import ctypes
import gc
import os
from errno import EMFILE
from itertools import chain, count, repeat
from math import inf
from pathlib import Path
from resource import getpagesize
from weakref import ref

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from asynctask import collector
from asynctask.collector import (
    BYTES_OF_A_TASK,
    FEW,
    FREEZE,
    LAST_LOOK,
    LITTLE,
    LOOK,
    LOOK_AT_MEMORY,
    MANY_DESCRIPTORS,
    MUCH,
    QUIET,
    RARELY,
    REST,
    TOO_LONG,
    TOO_MUCH,
    WORTH_IT,
    YOUNG,
    Collector,
    descriptors,
    memory,
    resident,
    trim,
)


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


class CollectorTests(SynchronousTestCase):
    """`Collector`."""

    def setUp(self) -> None:
        self.before = gc.get_threshold()
        self.clock = Clock()
        self.clock.advance(1_795_543_200.0)  # as the reactor's, which begins long ago
        self.tasks = 0
        self.bytes = 100_000_000
        self.open = 20.0
        self.collector = self.make()
        self.collector.start()
        self.addCleanup(self.stop)

    def make(self) -> Collector:
        return Collector(
            self.clock, lambda: self.tasks, lambda: self.bytes, lambda: self.open, lambda: self.trim()
        )

    def trim(self) -> None:
        """Nothing is free."""

    def stop(self) -> None:
        self.collector.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((gc.get_threshold(), gc.get_freeze_count()), (self.before, 0))

    def leave(self, count: int) -> "ref[Cycle]":
        """Leave cycles behind, and let them be frozen."""
        first = ref(Cycle())
        for _ in range(count):
            Cycle()
        much = [Cycle() for _ in range(LITTLE)]
        tasks, self.tasks = self.tasks, max(self.tasks, QUIET + 1)
        self.clock.advance(FREEZE)
        self.tasks = tasks
        del much
        return first

    def test_memory_that_was_only_kept_for_later_does_not_count_as_what_lives(self) -> None:
        before = self.bytes
        self.patch(self, "trim", lambda: setattr(self, "bytes", before))
        for _ in range(3):
            lost = self.leave(10)
            self.bytes += MUCH + 1
            self.clock.advance(REST)
            self.assertEqual((lost(), self.bytes), (None, before))

    def test_memory_that_comes_and_goes_is_not_looked_through_all_the_time(self) -> None:
        for seconds, is_collected in ((LOOK_AT_MEMORY, True), (LOOK_AT_MEMORY, False), (REST, True)):
            lost = self.leave(10)
            self.bytes += MUCH + 1
            self.clock.advance(seconds)
            self.assertEqual(lost() is None, is_collected)

    def test_the_system_gets_its_memory_back(self) -> None:
        kept = [bytes(64_000) for _ in range(2_000)]
        before = resident()
        del kept[:-1]  # which is the last, so that the others are not simply the end of all
        trim()
        self.assertLess(resident(), before - 50_000_000)
        self.patch(ctypes, "CDLL", lambda _: object())  # a library that cannot do that
        trim()

    def test_descriptors_that_cycles_keep_are_let_go_of(self) -> None:
        for more, is_collected in (
            *((MANY_DESCRIPTORS, False), (1, True)),
            *((MANY_DESCRIPTORS, False), (inf, True)),
        ):
            left = self.leave(10)
            self.open += more
            self.clock.advance(REST)
            self.assertEqual(left() is None, is_collected, more)

    def test_with_many_tasks_in_flight_descriptors_wait(self) -> None:
        self.tasks = FEW + 1
        left = self.leave(10)
        self.open += 2 * MANY_DESCRIPTORS
        self.clock.advance(LOOK_AT_MEMORY)
        self.assertIsNotNone(left())

    def test_how_many_are_open_is_told_by_the_lowest_free_one(self) -> None:
        before = descriptors()
        opened = [os.dup(1) for _ in range(50)]
        self.assertGreaterEqual(descriptors() - before, 50)
        for one in opened:
            os.close(one)
        self.assertEqual(descriptors(), before)

        def none_left(*_: object) -> int:
            raise OSError(EMFILE, "Too many open files")

        self.patch(os, "open", none_left)
        self.assertEqual(descriptors(), inf)

    def test_what_lives_is_frozen(self) -> None:
        self.tasks = QUIET + 1
        kept = [Cycle() for _ in range(1_000)]
        before = gc.get_freeze_count()
        self.clock.advance(FREEZE)
        self.assertGreaterEqual(gc.get_freeze_count() - before, len(kept))
        self.assertLess(gc.get_count()[0], 1_000)

    def test_what_is_little_is_looked_at_before_it_is_frozen_however_many_tasks_are_in_flight(self) -> None:
        self.tasks = 10 * FEW
        lost, kept = ref(Cycle()), Cycle()
        frozen = gc.get_freeze_count()
        self.clock.advance(FREEZE)
        self.assertIsNone(lost())
        self.assertGreater(gc.get_freeze_count(), frozen)
        del kept

    def test_the_longer_that_takes_the_longer_it_is_not_done(self) -> None:
        self.tasks = QUIET + 1
        times = count(0, 9.9 * FREEZE / RARELY)
        self.patch(collector, "perf_counter", lambda: next(times))
        looked = [self.is_found_by_the_next_freeze() for _ in range(21)]
        self.assertEqual([number for number, found in enumerate(looked) if found], [0, 10, 20])

    def is_found_by_the_next_freeze(self) -> bool:
        lost = ref(Cycle())
        self.clock.advance(FREEZE)
        return lost() is None

    def test_garbage_that_was_frozen_is_collected_when_there_is_much_of_it(self) -> None:
        lost = self.leave(WORTH_IT + 10)
        self.assertIsNotNone(lost())
        self.clock.advance(LOOK)
        self.assertIsNone(lost())

    def test_however_much_lives_it_is_collected_once(self) -> None:
        kept = [Cycle() for _ in range(WORTH_IT + 10)]
        lost = self.leave(10)
        self.clock.advance(LOOK)
        self.assertIsNone(lost())
        lost = self.leave(10)
        self.clock.advance(LOOK)
        self.assertIsNotNone(lost())
        del kept

    def test_while_it_is_quiet_what_is_young_is_collected_and_what_lives_is_not_frozen(self) -> None:
        self.patch(collector, "perf_counter", lambda: 0.0)
        frozen = gc.get_freeze_count()
        lost = ref(Cycle())
        self.clock.advance(FREEZE)
        self.assertIsNotNone(lost())
        self.clock.advance(LOOK_AT_MEMORY)
        self.assertIsNone(lost())
        self.assertLessEqual(gc.get_freeze_count(), frozen)

    def test_if_that_takes_too_long_what_lives_is_frozen(self) -> None:
        times = chain([0.0, 2 * TOO_LONG], repeat(0.0))
        self.patch(collector, "perf_counter", lambda: next(times))
        self.clock.advance(LOOK_AT_MEMORY)
        self.assert_is_loud_for_a_while()

    def test_where_much_is_made_that_lives_it_is_frozen_and_not_looked_at(self) -> None:
        patched = self.patch(collector, "perf_counter", self.fail)
        kept = [Cycle() for _ in range(YOUNG)]
        self.clock.advance(FREEZE)
        patched.restore()
        self.assert_is_loud_for_a_while()
        del kept

    def assert_is_loud_for_a_while(self) -> None:
        """What lives is frozen though few tasks are in flight, and not for ever."""
        frozen = gc.get_freeze_count()
        kept = [Cycle() for _ in range(1_000)]
        self.clock.advance(FREEZE)
        self.assertGreaterEqual(gc.get_freeze_count() - frozen, len(kept))
        self.patch(collector, "perf_counter", lambda: 0.0)
        self.clock.pump([LOOK_AT_MEMORY] * int(LOOK / LOOK_AT_MEMORY))
        lost = ref(Cycle())
        self.clock.advance(LOOK_AT_MEMORY)
        self.assertIsNone(lost())

    def test_what_is_young_at_the_end_is_collected(self) -> None:
        lost = ref(Cycle())
        self.collector.stop()
        self.assertIsNone(lost())

    def test_however_little_of_it_there_is_it_is_collected_in_the_end(self) -> None:
        self.patch(collector, "LARGE", inf)
        lost = self.leave(10)
        self.clock.advance(LAST_LOOK - LOOK)
        self.assertIsNotNone(lost())
        self.clock.pump([LOOK, LOOK])
        self.assertIsNone(lost())

    def test_but_not_if_that_would_take_long(self) -> None:
        self.patch(collector, "LARGE", 0)
        lost = self.leave(10)
        self.clock.pump([LAST_LOOK, LOOK, LOOK])
        self.assertIsNotNone(lost())

    def test_for_little_of_it_nobody_has_to_wait(self) -> None:
        lost = self.leave(10)
        self.clock.advance(LOOK)
        self.assertIsNotNone(lost())

    def test_while_many_tasks_are_in_flight_it_waits(self) -> None:
        lost = self.leave(WORTH_IT + 10)
        self.tasks = FEW + 1
        self.clock.advance(LOOK)
        self.assertIsNotNone(lost())
        self.tasks = 0
        self.clock.advance(LOOK)
        self.assertIsNone(lost())

    def test_objects_of_tasks_in_flight_are_not_mistaken_for_garbage(self) -> None:
        lost = self.leave(WORTH_IT + 10)
        self.tasks = FEW
        self.clock.advance(LOOK)
        self.assertIsNotNone(lost())
        self.tasks = 0
        self.clock.advance(LOOK)
        self.assertIsNone(lost())

    def test_however_many_are_in_flight_memory_does_not_grow_for_ever(self) -> None:
        lost = self.leave(WORTH_IT + 10)
        self.tasks = FEW + 1
        self.bytes += TOO_MUCH
        self.clock.advance(LOOK)
        self.assertIsNotNone(lost())
        self.bytes += TOO_MUCH
        self.clock.advance(LOOK)
        self.assertIsNone(lost())

    def test_few_objects_may_hold_much_memory(self) -> None:
        lost = self.leave(10)
        self.bytes += MUCH
        self.clock.advance(LOOK_AT_MEMORY)
        self.assertIsNotNone(lost())
        self.bytes += 1
        self.clock.advance(LOOK_AT_MEMORY)
        self.assertIsNone(lost())
        lost = self.leave(10)
        self.bytes += MUCH
        self.clock.advance(LOOK_AT_MEMORY)
        self.assertIsNotNone(lost())

    def test_a_small_machine_is_not_filled_first(self) -> None:
        self.patch(collector, "memory", lambda: 400_000_000)
        self.collector.stop()
        self.open = 20.0
        self.collector = self.make()
        self.collector.start()
        self.tasks = FEW + 1
        lost = self.leave(10)
        self.bytes += 100_000_000 + self.tasks * BYTES_OF_A_TASK
        self.clock.advance(REST)
        for _ in range(2):  # what the tasks took at the last collection does not count for the next
            self.assertIsNotNone(lost())
            self.bytes += 1
            self.clock.advance(REST)
            self.assertIsNone(lost())
            lost = self.leave(10)
            self.bytes += 100_000_000
            self.clock.advance(REST)

    def test_the_system_tells_how_much_memory_there_may_be(self) -> None:
        self.assertTrue(resident() < memory() <= os.sysconf("SC_PHYS_PAGES") * getpagesize())

    def test_a_control_group_may_have_less_of_it(self) -> None:
        machine = os.sysconf("SC_PHYS_PAGES") * getpagesize()
        for told, expected in (("max\n", machine), ("1000\n", 1_000), (f"{machine + 1}\n", machine)):
            path = Path(self.mktemp())
            path.write_text(told)
            self.patch(collector, "Path", {"/sys/fs/cgroup/memory.max": path}.__getitem__)
            self.assertEqual(memory(), expected)

    def test_while_many_are_in_flight_frozen_objects_are_not_even_counted(self) -> None:
        self.tasks = FEW + 1
        self.patch(gc, "get_freeze_count", self.fail)
        self.clock.advance(LOOK)

    def test_the_system_tells_how_much_memory_there_is(self) -> None:
        before = resident()
        much = bytearray(b"x") * 50_000_000
        self.assertGreater(resident() - before, len(much) * 0.9)
