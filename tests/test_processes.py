"""Processes for handlers."""

import atexit
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from errno import EMFILE
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from asynctask import processes as asynctask_processes
from asynctask import spawned
from asynctask.context import Facts, Permanent, Retry
from asynctask.inputs import read_signature
from asynctask.model import Progress
from asynctask.processes import ProcessDiedError, Processes
from asynctask.spawned import Spawned
from asynctask.threads import NotStartedError
from asynctask.tracebacks import raised_at
from asynctask.wire import NotSerializable, ResultTooLarge
from asynctask.worker import Call, Raised, Returned
from tests import handlers
from tests.turns import PATIENCE, Turns

FACTS = Facts("task_17388800000002k4qz7m0a9x3c8v5t", "a", 2, 1738880000.5, "00-1-2-01")


class Telling(Exception):
    """Has a name of its own for what a rebuilt one is given."""

    @property
    def told(self) -> str:
        return "something else"


def gone(pid: int) -> bool:
    """Whether a process has ended, or waits to be reaped by somebody."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


TURNS: Final = Turns()
PROCESSES: Final = Processes(2, TURNS.callFromThread)
"""Shared by the tests, since each takes a while to start; the exit of the tests ends them."""


class Numbered(Exception):
    """Wants more than a text."""

    def __new__(cls, text: str) -> "Numbered":
        return super().__new__(cls, int(text))


class Rebuilt(SynchronousTestCase):
    """An exception of another process."""

    def rebuilt(self, error: Exception) -> BaseException:
        kinds = [(kind.__module__, kind.__qualname__) for kind in type(error).__mro__]
        return asynctask_processes._rebuilt(Raised(kinds, str(error), ""))

    def test_each_has_its_text_and_all_of_a_class_one(self) -> None:
        one, other = self.rebuilt(ValueError("one")), self.rebuilt(ValueError("other"))
        self.assertEqual((str(one), str(other)), ("one", "other"))
        self.assertIs(type(one), type(other))
        self.assertIsInstance(one, ValueError)
        self.assertEqual(type(one).__name__, "ValueError")

    def test_whatever_its_class_calls_its_own(self) -> None:
        found = self.rebuilt(Telling("no"))
        self.assertIsInstance(found, Telling)
        self.assertEqual((str(found), found.told), ("no", "something else"))  # type: ignore[attr-defined]

    def test_one_whose_class_takes_no_text_is_below_what_does(self) -> None:
        kinds = [(kind.__module__, kind.__qualname__) for kind in Numbered.__mro__]
        found = asynctask_processes._rebuilt(Raised(kinds, "no", ""))
        self.assertEqual((type(found).__name__, str(found)), ("Numbered", "no"))


class ProcessesTestCase(SynchronousTestCase):
    """Two processes, and a reactor's thread that the test turns."""

    def setUp(self) -> None:
        self.turns = TURNS
        self.processes = PROCESSES
        self.told: list[Progress] = []

    def begin(self, function: Callable[..., Any], **given: Any) -> Deferred[Any]:
        return self.processes.run(function, given, None, FACTS, self.told.append).deferred

    def begin_with_context(self, function: Callable[..., Any], **given: Any) -> Deferred[Any]:
        return self.processes.run(function, given, "context", FACTS, self.told.append).deferred

    def until_told(self) -> int:
        """Wait for progress; its step."""
        while not self.told:
            self.turns.turn()
        return self.told[-1].step

    def outcome(self, function: Callable[..., Any], **given: Any) -> Any:
        """The result as the task has it."""
        return json.loads(self.turns.outcome(self.begin(function, **given)))

    def failure(self, running: Deferred[Any]) -> Failure:
        """How it failed."""
        found: list[Failure] = []
        running.addErrback(found.append)
        self.turns.outcome(running)
        return found[0]

    def wait_until_gone(self, pid: int) -> None:
        """Wait a little: a kill takes a moment."""
        end = time.monotonic() + PATIENCE
        while not gone(pid):
            self.assertLess(time.monotonic(), end, f"{pid} lives")
            time.sleep(0.005)


class Outcomes(ProcessesTestCase):
    """What a function returns or raises comes back."""

    def test_the_result_is_json_text(self) -> None:
        self.assertEqual(self.turns.outcome(self.begin(handlers.add, one=1, two=2)), "3")

    def test_it_runs_in_a_process_that_stays(self) -> None:
        pid = self.outcome(handlers.pid)
        self.assertNotEqual(pid, os.getpid())
        self.assertEqual(self.outcome(handlers.pid), pid)

    def test_the_process_is_spawned_and_not_forked(self) -> None:
        handlers.marked.append("by the parent")
        self.addCleanup(handlers.marked.clear)
        found = self.outcome(handlers.look)
        self.assertEqual(found["marked"], [])
        self.assertTrue(found["group"])
        self.assertEqual([path for path in sys.path if path not in found["path"]], [])

    def test_it_knows_its_attempt(self) -> None:
        running = self.processes.run(handlers.facts, {}, "given", FACTS, self.told.append).deferred
        self.assertEqual(
            json.loads(self.turns.outcome(running)),
            [FACTS.task_id, 2, FACTS.deadline, FACTS.traceparent, False],
        )

    def test_no_result_that_is_no_json(self) -> None:
        for kind in ("set", "lambda", "nan"):
            failure = self.failure(self.begin(handlers.value, kind=kind))
            self.assertTrue(failure.check(NotSerializable), failure)
            self.assertIn("The result is no JSON", failure.getErrorMessage())
            self.assertEqual(type(failure.value).__name__, "NotSerializable")

    def test_no_result_beyond_the_limit(self) -> None:
        failure = self.failure(self.begin(handlers.value, kind="big"))
        self.assertTrue(failure.check(ResultTooLarge), failure)

    def test_an_exception_arrives_with_its_class_its_text_and_its_traceback(self) -> None:
        failure = self.failure(self.begin(handlers.raise_, kind="plain"))
        self.assertTrue(failure.check(ValueError), failure)
        self.assertEqual(failure.getErrorMessage(), "no")
        self.assertEqual(type(failure.value).__name__, "ValueError")
        self.assertIn("handlers.py", failure.getTraceback())

    def test_exceptions_that_cannot_be_pickled_arrive_too(self) -> None:
        for kind, name, text, above in (
            ("awkward", "Awkward", "1 and 2", Permanent),
            ("silent", "Silent", "(its text cannot be shown)", handlers.Silent),
            ("local", "Local", "from within", ValueError),
            ("exit", "SystemExit", "3", SystemExit),
            ("interrupt", "KeyboardInterrupt", "", KeyboardInterrupt),
            ("long", "ValueError", "x" * 10_000, ValueError),
            ("unicode", "UnicodeDecodeError", "can't decode byte 0x78", UnicodeDecodeError),
            ("busy", "Retry", "429", Retry),
            ("group", "ExceptionGroup", "several (2 sub-exceptions): Permanent: gone", Permanent),
        ):
            failure = self.failure(self.begin(handlers.raise_, kind=kind))
            self.assertEqual(type(failure.value).__name__, name)
            self.assertIn(text, failure.getErrorMessage())
            assert failure.value is not None
            self.assertEqual(failure.value.args, (failure.getErrorMessage(),) if text else ())
            self.assertLessEqual(len(failure.getErrorMessage()), 10_000)
            self.assertIsInstance(failure.value, above)
            self.assertEqual(getattr(failure.value, "after", None), 30 if kind == "busy" else None)
            self.assertRegex(raised_at(failure), r"handlers\.py:\d+$")

    def test_its_defaults_are_its_own(self) -> None:
        given = read_signature(handlers.defaults).arguments({})
        self.assertEqual(self.outcome(handlers.defaults, **given), [True, True])

    def test_what_a_call_keeps_for_itself_is_not_for_the_next_one(self) -> None:
        """Its context variables, as in every place."""
        self.assertEqual(self.outcome(handlers.count), self.outcome(handlers.count))

    def test_a_function_without_a_name_is_a_failure(self) -> None:
        failure = self.failure(self.begin(lambda: None))
        self.assertIn("<lambda>", failure.getErrorMessage())

    def test_two_run_at_once_and_more_wait(self) -> None:
        first, second = (self.begin_with_context(handlers.loop) for _ in range(2))
        while len(self.told) < 2:
            self.turns.turn()
        third = self.begin(handlers.pid)
        first.cancel()
        self.turns.outcome(third)
        second.cancel()
        for each in (first, second):
            self.assertTrue(self.failure(each).check(CancelledError))


class Told(ProcessesTestCase):
    """What a handler tells while it runs."""

    def test_progress_comes_in_order_and_before_the_result(self) -> None:
        running = self.begin_with_context(handlers.tell, steps=100)
        running.addCallback(lambda result: (result, len(self.told)))
        self.assertEqual(self.turns.outcome(running), ('"told"', 100))
        self.assertEqual(self.told, [Progress(n, 100, f"step {n}") for n in range(1, 101)])

    def test_its_log_is_our_log(self) -> None:
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.turns.outcome(self.begin_with_context(handlers.tell, steps=0))
        [told] = [event for event in events if event.get("task_id") == FACTS.task_id]
        self.assertEqual((told["log_format"], told["log_level"].name), ("Told all", "info"))
        self.assertEqual(told["odd"], "<class 'object'>")
        [mine] = [event for event in events if event.get("log_namespace") == "mine"]
        self.assertEqual((mine["log_format"], mine["number"]), ("plain", 7))
        self.assertEqual(mine["log_level"].name, "warn")
        [printed] = [event for event in events if event.get("log_namespace") == "stdout"]
        self.assertEqual(formatEvent(printed), "{printed}")

    def test_a_report_that_fails_is_logged_and_no_more(self) -> None:
        def failing(_progress: Progress) -> None:
            raise ValueError("a bug")

        running = self.processes.run(handlers.tell, {"steps": 1}, "context", FACTS, failing).deferred
        self.assertEqual(self.turns.outcome(running), '"told"')
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_what_a_call_tells_after_its_end_is_no_other_calls(self) -> None:
        self.turns.outcome(self.begin_with_context(handlers.late))
        self.told.clear()
        self.turns.outcome(self.begin_with_context(handlers.tell, steps=50))
        self.assertNotIn("late", [progress.message for progress in self.told])


class Forked(ProcessesTestCase):
    """A child of a handler's own that comes to the end of its code."""

    def forked(self, how: str) -> Any:
        return json.loads(self.turns.outcome(self.begin_with_context(handlers.fork, how=how)))

    def test_one_that_raises_ends_with_its_traceback_as_any_program(self) -> None:
        code, told = self.forked("raise")
        self.assertEqual(code, 1)
        self.assertTrue(told.startswith("Traceback (most recent call last):\n"), told)
        self.assertTrue(told.endswith("\nValueError: of the child\n"), told)

    def test_one_that_returns_ends_in_silence(self) -> None:
        self.assertEqual(self.forked("return"), [0, ""])
        self.assertEqual(self.forked("exit"), [3, ""])

    def test_it_answers_for_nobody(self) -> None:
        pid = self.outcome(handlers.pid)
        for how in ("raise", "return"):
            self.forked(how)
            self.assertEqual(self.outcome(handlers.add, one=1, two=2), 3)
            self.assertEqual(self.outcome(handlers.pid), pid)
        self.assertEqual(self.told, [])


class Killed(ProcessesTestCase):
    """A cancel kills the process, and the pool lives on."""

    def test_endless_loops_are_killed(self) -> None:
        for handler in (handlers.loop, handlers.stubborn):
            self.told.clear()
            running = self.begin_with_context(handler)
            pid = self.until_told()
            running.cancel()
            self.assertNoResult(running)
            self.assertTrue(self.failure(running).check(CancelledError))
            self.assertTrue(gone(pid))
            self.assertNotEqual(self.outcome(handlers.pid), pid)

    def test_what_it_has_started_is_killed_too(self) -> None:
        running = self.begin_with_context(handlers.with_child)
        child = self.until_told()
        running.cancel()
        self.failure(running)
        self.wait_until_gone(child)

    def test_a_cancel_before_the_process_is_there_starts_nothing(self) -> None:
        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        running = processes.run(handlers.loop, {}, "context", FACTS, self.told.append).deferred
        running.cancel()
        self.assertTrue(self.failure(running).check(CancelledError))
        self.assertEqual(self.told, [])

    def test_a_cancel_once_the_process_is_there_asks_it_for_nothing(self) -> None:
        begin, ask = Spawned.begin, Spawned.ask
        cancelled = Event()
        asked: list[bytes] = []

        def cancel() -> None:
            running.cancel()
            cancelled.set()

        def begin_and_cancel(worker: Spawned, gives_up: Callable[[], bool]) -> None:
            begin(worker, gives_up)
            self.turns.callFromThread(cancel)
            cancelled.wait(PATIENCE)

        def note(worker: Spawned, call: bytes) -> None:
            asked.append(call)
            ask(worker, call)

        self.patch(Spawned, "begin", begin_and_cancel)
        self.patch(Spawned, "ask", note)
        running = self.begin(handlers.pid)
        self.assertTrue(self.failure(running).check(CancelledError))
        self.assertEqual(asked, [])

    def test_a_cancel_that_comes_after_the_end_kills_nobody(self) -> None:
        running = self.processes.run(handlers.pid, {}, None, FACTS, self.told.append)
        while running.ended_at is None:
            time.sleep(0.001)
        running.deferred.cancel()
        pid = int(self.turns.outcome(running.deferred))
        self.assertEqual(self.outcome(handlers.pid), pid)

    def test_one_that_came_up_too_late_for_one_call_is_there_for_the_next(self) -> None:
        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        started: list[Spawned] = []

        def spawn() -> Spawned:
            started.append(Spawned())
            return started[-1]

        self.patch(asynctask_processes, "Spawned", spawn)
        for _ in range(3):
            late = processes.run(handlers.pid, {}, None, FACTS, self.told.append).deferred
            while not started:
                time.sleep(0.001)
            late.cancel()
            self.assertTrue(self.failure(late).check(CancelledError))
        running = processes.run(handlers.pid, {}, None, FACTS, self.told.append).deferred
        self.assertEqual(json.loads(self.turns.outcome(running)), started[0]._pid)
        self.assertEqual(len(started), 1)

    def test_one_that_never_comes_up_is_not_waited_for_for_ever(self) -> None:
        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        worker = processes.take()
        worker._started -= spawned.LATE
        processes.give_back(worker, lives=True)
        another = processes.take()
        self.assertIsNot(another, worker)
        self.assertTrue(worker._end.cancelled())

    def test_those_that_are_up_are_taken_first(self) -> None:
        processes = Processes(2, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        up, cold = processes.take(), processes.take()
        up.begin(bool)
        processes.give_back(up, lives=True)
        processes.give_back(cold, lives=True)
        self.assertEqual([processes.take(), processes.take()], [up, cold])

    def test_one_that_has_not_come_up_is_gone_with_the_others(self) -> None:
        processes = Processes(1, self.turns.callFromThread)
        worker = processes.take()
        processes.give_back(worker, lives=True)
        processes.stop()
        self.assertTrue(worker._end.cancelled())
        with contextlib.suppress(EOFError, ConnectionResetError):
            self.wait_until_gone(worker._pipe.recv().pid)

    def test_one_that_has_left_its_group_is_killed_too(self) -> None:
        running = self.begin_with_context(handlers.leave_group)
        pid = self.until_told()
        running.cancel()
        self.failure(running)
        self.wait_until_gone(pid)

    def test_for_want_of_descriptors_nothing_is_begun(self) -> None:
        def none_left() -> None:
            raise OSError(EMFILE, "Too many open files")

        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        self.patch(asynctask_processes, "Spawned", none_left)
        running = processes.run(handlers.loop, {}, "context", FACTS, self.told.append).deferred
        failure = self.failure(running)
        self.assertTrue(failure.check(NotStartedError))
        self.assertIn("Too many open files", str(failure.value))

    def test_nor_without_a_working_directory_of_which_it_would_be_told(self) -> None:
        here, gone = os.getcwd(), self.mktemp()
        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        os.mkdir(gone)
        os.chdir(gone)
        try:
            os.rmdir(os.getcwd())
            running = processes.run(handlers.loop, {}, "context", FACTS, self.told.append).deferred
            failure = self.failure(running)
        finally:
            os.chdir(here)
        self.assertTrue(failure.check(NotStartedError))
        self.assertIn("working directory was removed", str(failure.value))

    def test_one_that_comes_up_although_nobody_waits_any_more_is_killed(self) -> None:
        self.patch(spawned, "REAP", PATIENCE)
        unwanted = spawned.Spawned()
        self.assertEqual(unwanted.end(), "SIGKILL")
        self.assertFalse(unwanted.lives)

    def test_one_that_does_not_come_up_in_time_is_waited_for_no_longer(self) -> None:
        self.patch(spawned, "REAP", 0)
        unwanted = spawned.Spawned()
        self.assertEqual(unwanted.end(), "nobody knows how")
        self.assertFalse(unwanted.lives)

    def test_one_that_is_told_to_have_ended_when_nobody_waits_any_more_is_no_error(self) -> None:
        late: Future[None] = spawned.forgiving(Future())
        late.cancel()
        late.set_exception(OSError())
        self.assertTrue(late.cancelled())
        in_time: Future[None] = spawned.forgiving(Future())
        in_time.set_exception(OSError())
        self.assertIsInstance(in_time.exception(), OSError)

    def test_signals_to_all_processes_are_the_parents_to_decide_upon(self) -> None:
        self.assertEqual(self.outcome(handlers.signalled, folder=self.mktemp_folder()), "went on")

    def mktemp_folder(self) -> str:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        return str(folder)


class Died(ProcessesTestCase):
    """A process that ends by itself."""

    def test_however_it_dies_it_is_told_and_the_pool_lives_on(self) -> None:
        for how, told in (
            ("0", "exit code 0"),
            ("3", "exit code 3"),
            ("segfault", "SIGSEGV"),
            ("kill", "SIGKILL"),
        ):
            failure = self.failure(self.begin(handlers.die, how=how))
            self.assertTrue(failure.check(ProcessDiedError), failure)
            self.assertEqual(failure.getErrorMessage(), f"The process of the handler died ({told})")
        self.assertEqual(self.outcome(handlers.add, one=1, two=2), 3)

    def test_one_that_never_comes_up_is_told_too(self) -> None:
        self.patch(spawned, "serve_handlers", handlers.come_to_nothing)
        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        running = processes.run(handlers.pid, {}, None, FACTS, self.told.append).deferred
        failure = self.failure(running)
        self.assertTrue(failure.check(ProcessDiedError), failure)

    def test_many_that_die_leave_nothing_to_the_exit(self) -> None:
        self.outcome(os.getpid)
        before = atexit._ncallbacks()
        for _ in range(3):
            self.failure(self.begin(os._exit, status=3))
        self.outcome(os.getpid)
        self.assertEqual(atexit._ncallbacks(), before)

    def test_one_that_dies_while_it_is_idle_is_replaced(self) -> None:
        pid = self.outcome(handlers.pid)
        os.kill(pid, signal.SIGKILL)
        self.wait_until_gone(pid)
        self.assertNotEqual(self.outcome(handlers.pid), pid)

    def test_it_is_noticed_although_a_child_of_its_own_holds_the_pipe(self) -> None:
        running = self.begin_with_context(handlers.leave_child_and_die)
        child = self.until_told()
        self.addCleanup(os.kill, child, signal.SIGKILL)
        failure = self.failure(running)
        self.assertTrue(failure.check(ProcessDiedError), failure)


class TheEnd(ProcessesTestCase):
    """No process is left behind."""

    def test_a_stop_kills_idle_and_busy_ones(self) -> None:
        processes = Processes(2, self.turns.callFromThread)
        running = processes.run(handlers.loop, {}, "context", FACTS, self.told.append).deferred
        busy = self.until_told()
        idle = json.loads(
            self.turns.outcome(processes.run(handlers.pid, {}, None, FACTS, self.told.append).deferred)
        )
        processes.stop()
        self.failure(running)
        self.wait_until_gone(busy)
        self.wait_until_gone(idle)

    def parent(self, last: str) -> "subprocess.Popen[str]":
        """Another process with a busy and an idle process, whose ids it prints."""
        code = (
            "import sys, time\n"
            "from asynctask.context import Facts\n"
            "from asynctask.processes import Processes\n"
            "from tests import handlers\n"
            "from tests.turns import Turns\n"
            "turns, told = Turns(), []\n"
            "processes = Processes(2, turns.callFromThread)\n"
            "processes.run(handlers.loop, {}, 'context', Facts('t', 'a', 1), told.append)\n"
            "while not told: turns.turn()\n"
            "run = processes.run(handlers.pid, {}, None, Facts('t', 'a', 1), print)\n"
            "idle = turns.outcome(run.deferred)\n"
            "print(told[0].step, idle, flush=True)\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code + last],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        )

    def test_they_are_gone_with_a_parent_that_is_killed(self) -> None:
        with self.parent("time.sleep(1000)\n") as parent:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            self.assertEqual(len(pids), 2)
            parent.kill()
        for pid in pids:
            self.wait_until_gone(pid)

    def test_they_do_not_hold_up_a_parent_that_forgets_to_stop_them(self) -> None:
        with self.parent("") as parent:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            self.assertEqual(len(pids), 2)
            self.assertEqual(parent.wait(PATIENCE), 0)
        for pid in pids:
            self.wait_until_gone(pid)

    def test_without_a_thread_that_starts_them_none_is_started_later_either(self) -> None:
        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        begun: list[object] = []
        self.patch(asynctask_processes, "Spawned", lambda: begun.append(1))

        def no_more(**_: object) -> Thread:
            raise RuntimeError("can't start new thread")

        patched = self.patch(asynctask_processes, "Thread", no_more)
        for _ in range(3):
            self.assertRaises(NotStartedError, processes.take)
        patched.restore()
        processes._all.discard(processes.take())
        self.assertEqual(len(begun), 1)

    def test_it_outlives_the_thread_that_has_asked_for_it(self) -> None:
        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        taken: list[Spawned] = []

        def take() -> None:
            taken.append(processes.take())
            taken[0].begin(lambda: False)

        thread = Thread(target=take)
        thread.start()
        thread.join()
        [worker] = taken
        time.sleep(0.1)  # Python's thread ends before the system's
        worker.ask(pickle.dumps(Call(handlers.add, {"one": 1, "two": 2}, None, FACTS)))
        self.assertEqual(worker.hear(), Returned("3"))
        processes.give_back(worker, lives=True)


class WithoutPebble(ProcessesTestCase):
    """The extra that was not installed."""

    def test_it_is_named(self) -> None:
        hidden = {
            name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pebble"
        }
        for name in hidden:
            del sys.modules[name]
        cast(dict[str, Any], sys.modules)["pebble"] = None
        self.addCleanup(sys.modules.update, hidden)
        self.addCleanup(sys.modules.pop, "pebble")
        processes = Processes(1, self.turns.callFromThread)
        self.addCleanup(processes.stop)
        failure = self.failure(processes.run(handlers.pid, {}, None, FACTS, self.told.append).deferred)
        self.assertTrue(failure.check(ImportError), failure)
        told = "Handlers in processes need pebble: pip install 'pebble>=5.1'"
        self.assertEqual(failure.getErrorMessage(), told)
