"""Threads of our own."""

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from asynctask import threads
from asynctask.threads import NotStartedError, Threads
from tests.turns import PATIENCE, Turns


def raising(error: BaseException) -> Callable[[], Any]:
    """Something to call that raises."""

    def call() -> Any:
        raise error

    return call


class Stuck:
    """Something to call that hangs until it is let go."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self.begun = threading.Event()
        self.thread: threading.Thread | None = None
        self._go_on = threading.Event()
        test.addCleanup(self._go_on.set)

    def __call__(self) -> str:
        self.thread = threading.current_thread()
        self.begun.set()
        self._go_on.wait()
        return "at last"

    def let_go(self) -> None:
        """Let it return."""
        self._go_on.set()

    def wait_for_thread(self) -> None:
        """Wait until the thread that ran it has ended."""
        assert self.thread is not None
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


class ThreadsTestCase(SynchronousTestCase):
    """Two threads, and a reactor's thread that the test turns."""

    def setUp(self) -> None:
        self.turns = Turns()
        self.threads = Threads(2, self.turns.callFromThread)
        self.addCleanup(self.threads.stop)

    def outcome(self, call: Callable[[], Any]) -> Any:
        return self.turns.outcome(self.threads.run(call).deferred)

    def stuck(self) -> Stuck:
        return Stuck(self)


class Outcomes(ThreadsTestCase):
    """What a call returns or raises comes back."""

    def test_the_call_runs_in_another_thread_and_its_end_in_the_reactors(self) -> None:
        work = self.threads.run(threading.current_thread)
        fired = work.deferred.addCallback(lambda thread: (thread, threading.current_thread()))
        thread, reactors = self.turns.outcome(fired)
        self.assertTrue(thread.daemon)
        self.assertIsNot(thread, threading.current_thread())
        self.assertIs(reactors, threading.current_thread())

    def test_whatever_it_raises_is_its_failure_and_the_thread_lives_on(self) -> None:
        thread = self.outcome(threading.current_thread)
        for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
            work = self.threads.run(raising(error))
            with self.assertRaises(type(error)):
                self.turns.outcome(work.deferred)
        self.assertIs(self.outcome(threading.current_thread), thread)

    def test_a_deferred_cannot_be_its_result(self) -> None:
        with self.assertRaises(TypeError):
            self.outcome(Deferred)

    def test_a_result_is_not_kept_while_the_thread_waits(self) -> None:
        class Big:
            """Told when it is let go of."""

            def __del__(self) -> None:
                gone.set()

        gone = threading.Event()
        self.outcome(Big)
        self.assertTrue(gone.wait(PATIENCE))


class ThePool(ThreadsTestCase):
    """How many threads there are."""

    def test_a_thread_is_started_only_when_none_is_idle(self) -> None:
        first = self.outcome(threading.get_ident)
        self.assertEqual({self.outcome(threading.get_ident) for _ in range(5)}, {first})

    def test_calls_run_at_once_up_to_the_size(self) -> None:
        meeting = threading.Barrier(2, timeout=PATIENCE)
        works = [self.threads.run(meeting.wait) for _ in range(2)]
        self.assertEqual(sorted(self.turns.outcome(work.deferred) for work in works), [0, 1])

    def test_more_than_that_wait(self) -> None:
        stuck = [self.stuck(), self.stuck()]
        works = [self.threads.run(each) for each in stuck]
        waiting = self.threads.run(threading.current_thread)
        stuck[1].let_go()
        self.assertIs(self.turns.outcome(waiting.deferred), stuck[1].thread)
        stuck[0].let_go()
        self.turns.outcome(works[0].deferred)

    def test_what_could_not_be_started_is_never_called(self) -> None:
        def no_more(**_: object) -> None:
            raise RuntimeError("can't start new thread")

        called: list[str] = []
        patched = self.patch(threads, "Thread", no_more)
        self.assertRaises(NotStartedError, self.threads.run, lambda: called.append("called"))
        patched.restore()
        self.assertEqual([self.outcome(int), self.outcome(int), called], [0, 0, []])

    def test_threads_end_at_a_stop(self) -> None:
        thread = self.outcome(threading.current_thread)
        self.threads.stop()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())

    def test_what_runs_at_a_stop_ends_and_so_does_its_thread(self) -> None:
        stuck = self.stuck()
        work = self.threads.run(stuck)
        self.assertTrue(stuck.begun.wait(PATIENCE))
        self.threads.stop()
        stuck.let_go()
        self.assertEqual(self.turns.outcome(work.deferred), "at last")
        stuck.wait_for_thread()

    def test_a_stuck_thread_does_not_hold_up_the_exit(self) -> None:
        code = (
            "import threading\n"
            "from asynctask.threads import Threads\n"
            "begun = threading.Event()\n"
            "def stuck():\n"
            "    begun.set()\n"
            "    while True: pass\n"
            "Threads(1, print).run(stuck)\n"
            "begun.wait()\n"
        )
        ended = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False)
        self.assertEqual(ended.returncode, 0)

    def test_a_child_that_a_call_forks_ends_with_it_as_any_program(self) -> None:
        code = (
            "import os, sys\n"
            "from threading import Event\n"
            "from asynctask.threads import Threads\n"
            "ended = Event()\n"
            "def fork(end):\n"
            "    if (child := os.fork()) == 0:\n"
            "        return end()\n"
            "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
            "    ended.set()\n"
            "for end in (int, lambda: sys.exit(3), lambda: sys.exit('so'), lambda: 1 / 0):\n"
            "    ended.clear()\n"
            "    Threads(1, lambda *_: None).run(lambda: fork(end))\n"
            "    ended.wait()\n"
        )
        # Python 3.12 warns of a fork beside threads.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
        ran = subprocess.run(command, timeout=PATIENCE, check=False, capture_output=True, text=True)
        self.assertEqual(ran.stdout.split(), ["0", "3", "1", "1"])
        first, *_, last = ran.stderr.splitlines()
        self.assertEqual((first, last), ("so", "ZeroDivisionError: division by zero"))


class Cancelled(ThreadsTestCase):
    """A cancel cannot end a thread."""

    def test_it_still_waits_for_the_real_end(self) -> None:
        stuck = self.stuck()
        work = self.threads.run(stuck)
        work.deferred.cancel()
        self.assertNoResult(work.deferred)
        stuck.let_go()
        self.assertEqual(self.turns.outcome(work.deferred), "at last")

    def test_the_call_may_be_asked_to_end(self) -> None:
        stuck = self.stuck()
        work = self.threads.run(stuck, cancel=stuck.let_go)
        work.deferred.cancel()
        self.assertEqual(self.turns.outcome(work.deferred), "at last")


class Abandoned(ThreadsTestCase):
    """Threads that are given up."""

    def test_the_pool_goes_on_without_them(self) -> None:
        stuck = [self.stuck() for _ in range(5)]
        works = [self.threads.run(each) for each in stuck[:2]]
        for work, each in zip(works, stuck, strict=False):
            self.assertTrue(each.begun.wait(PATIENCE))
            work.abandon()
        self.assertEqual(self.threads.abandoned, 2)
        meeting = threading.Barrier(2, timeout=PATIENCE)
        others = [self.threads.run(meeting.wait) for _ in range(2)]
        self.assertEqual(sorted(self.turns.outcome(work.deferred) for work in others), [0, 1])

    def test_the_thread_ends_with_its_call_and_the_result_is_dropped(self) -> None:
        stuck = self.stuck()
        work = self.threads.run(stuck)
        self.assertTrue(stuck.begun.wait(PATIENCE))
        work.abandon()
        stuck.let_go()
        stuck.wait_for_thread()
        self.assertEqual(self.threads.abandoned, 0)
        self.outcome(int)
        self.assertNoResult(work.deferred)

    def test_twice_counts_once(self) -> None:
        stuck = self.stuck()
        work = self.threads.run(stuck)
        self.assertTrue(stuck.begun.wait(PATIENCE))
        work.abandon()
        work.abandon()
        self.assertEqual(self.threads.abandoned, 1)

    def test_what_waits_is_taken_by_a_new_thread(self) -> None:
        stuck = [self.stuck(), self.stuck()]
        works = [self.threads.run(each) for each in stuck]
        waiting = self.threads.run(int)
        self.assertTrue(stuck[0].begun.wait(PATIENCE))
        works[0].abandon()
        self.assertEqual(self.turns.outcome(waiting.deferred), 0)

    def test_what_waits_can_be_given_up_itself(self) -> None:
        stuck = [self.stuck(), self.stuck()]
        works = [self.threads.run(each) for each in stuck]
        called: list[str] = []
        waiting = self.threads.run(lambda: called.append("called"))
        waiting.abandon()
        self.assertEqual(self.threads.abandoned, 0)
        for each, work in zip(stuck, works, strict=True):
            each.let_go()
            self.turns.outcome(work.deferred)
        self.outcome(int)
        self.assertEqual(called, [])

    def test_all_that_waits_can_be_given_up_and_no_thread_ends_by_it(self) -> None:
        stuck = [self.stuck(), self.stuck()]
        works = [self.threads.run(each) for each in stuck]
        for waiting in [self.threads.run(int) for _ in works]:
            waiting.abandon()
        for each, work in zip(stuck, works, strict=True):
            each.let_go()
            self.turns.outcome(work.deferred)
        self.assertEqual(self.outcome(int), 0)

    def test_what_has_ended_meanwhile_is_dropped_and_its_thread_stays(self) -> None:
        ended = threading.Event()

        def from_thread(call: Callable[..., object], *args: object) -> None:
            self.turns.callFromThread(call, *args)
            ended.set()

        self.threads = Threads(2, from_thread)
        self.addCleanup(self.threads.stop)
        found: list[threading.Thread] = []
        work = self.threads.run(lambda: found.append(threading.current_thread()))
        self.assertTrue(ended.wait(PATIENCE))
        work.abandon()
        self.turns.turn()
        self.assertNoResult(work.deferred)
        self.assertEqual(self.threads.abandoned, 0)
        self.assertEqual([self.outcome(threading.current_thread)], found)

    def test_an_endless_loop_is_given_up_and_the_pool_goes_on(self) -> None:
        end = threading.Event()
        begun = threading.Event()
        self.addCleanup(end.set)

        def endless() -> None:
            begun.set()
            while not end.is_set():
                pass

        works = [self.threads.run(endless) for _ in range(2)]
        self.assertTrue(begun.wait(PATIENCE))
        for work in works:
            work.abandon()
        self.assertEqual([self.outcome(int) for _ in range(3)], [0, 0, 0])
