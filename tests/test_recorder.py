"""The flight recorder: which task was being stepped when the process died."""

import os
import signal
import time
from errno import EMFILE, ENOSPC
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from asynctask import recorder as recorder_module
from asynctask.recorder import NOBODY, FlightRecorder, Suspect, abandoned, record

ONE = "task_17388800000002k4qz7m0a9x3c8v5t"
OTHER = "task_17388800000003k4qz7m0a9x3c8v5t"


class Recorder(SynchronousTestCase):
    """One file, over several lives of the process."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(TemporaryDirectory())) / "recorder"

    def opened(self) -> FlightRecorder:
        """As the process opens it when it starts."""
        recorder = FlightRecorder()
        recorder.open(self.path)
        self.addCleanup(recorder.close)
        return recorder

    def test_at_the_first_start_nobody_is_suspected(self) -> None:
        self.assertEqual(self.opened().suspects(), [])

    def test_who_was_being_stepped_when_the_process_died_is_suspected(self) -> None:
        self.opened().swap(record(ONE, 3))
        self.assertEqual(self.opened().suspects(), [Suspect(ONE, 3)])

    def test_a_suspicion_is_on_record_without_closing_the_file(self) -> None:
        dying = self.opened()
        dying.swap(record(ONE, 1))
        # A kill closes nothing and flushes nothing.
        self.assertIn(ONE.encode(), self.path.read_bytes())

    def test_who_had_been_stepped_before_is_not_suspected(self) -> None:
        recorder = self.opened()
        before = recorder.swap(record(ONE, 1))
        recorder.swap(before)
        self.assertEqual(self.opened().suspects(), [])

    def test_the_innermost_step_is_suspected(self) -> None:
        recorder = self.opened()
        recorder.swap(record(ONE, 1))
        outer = recorder.swap(record(OTHER, 2))
        self.assertEqual(self.opened().suspects(), [Suspect(OTHER, 2)])
        recorder.swap(outer)
        self.assertEqual(self.opened().suspects(), [Suspect(ONE, 1)])

    def test_a_task_is_suspected_once_by_its_latest_attempt_though_earlier_ones_hang(self) -> None:
        recorder = FlightRecorder(4)
        for task_id, attempt in ((ONE, 1), (ONE, 3), (OTHER, 1), (ONE, 2)):
            recorder.hold(record(task_id, attempt))
        self.assertCountEqual(recorder.suspects(), [Suspect(ONE, 3), Suspect(OTHER, 1)])

    def test_nobody_is_suspected_twice(self) -> None:
        self.opened().swap(record(ONE, 1))
        self.opened().clear()
        self.assertEqual(self.opened().suspects(), [])

    def test_a_step_that_ends_after_the_record_was_cleared_names_nobody(self) -> None:
        recorder = self.opened()
        recorder.swap(record(ONE, 1))
        recorder.clear()
        recorder.swap(recorder.swap(record(OTHER, 1)))
        self.assertEqual(self.opened().suspects(), [])

    def test_what_still_runs_at_the_end_is_named_no_more(self) -> None:
        recorder = self.opened()
        recorder.swap(record(ONE, 1))
        recorder.stop()
        recorder.swap(record(OTHER, 1))
        self.assertEqual(self.opened().suspects(), [])

    def test_an_attempt_may_have_a_high_number(self) -> None:
        self.opened().swap(record(ONE, 2**32 - 1))
        self.assertEqual(self.opened().suspects(), [Suspect(ONE, 2**32 - 1)])

    def test_a_file_of_another_size_is_made_to_fit(self) -> None:
        for data in (b"", b"\0", b"\0" * 10_000):
            self.path.write_bytes(data)
            self.assertEqual(self.opened().suspects(), [])
            self.opened().swap(record(ONE, 1))
            self.assertEqual(self.opened().suspects(), [Suspect(ONE, 1)])

    def test_a_file_of_nonsense_does_not_keep_the_service_from_starting(self) -> None:
        self.path.write_bytes(b"\xff" * 100)
        self.assertEqual(self.opened().suspects(), [])

    def test_nobody_else_may_read_it(self) -> None:
        self.opened()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_each_process_has_a_file_of_its_own_while_there_are_any(self) -> None:
        self.patch(recorder_module, "MOST_FILES", 2)
        first, second, third = (FlightRecorder() for _ in range(3))
        self.addCleanup(second.close)
        self.addCleanup(third.close)
        self.assertEqual([one.open_free(self.path) for one in (first, second, third)], [True, True, False])
        self.assertEqual(sorted(file.suffix for file in self.path.parent.iterdir()), [".0", ".1"])
        first.swap(record(ONE, 1))
        first.close()
        self.assertTrue(third.open_free(self.path))
        self.assertEqual(third.suspects(), [Suspect(ONE, 1)])

    def test_those_of_processes_that_are_gone_are_held_if_they_name_somebody(self) -> None:
        named, nameless, living = (FlightRecorder() for _ in range(3))
        for one in (named, nameless, living):
            self.assertTrue(one.open_free(self.path))
        for one in (named, living):
            one.swap(record(ONE, 2))
        self.path.with_name("recorder.0.bak").write_bytes(self.path.with_name("recorder.0").read_bytes())
        self.path.with_name("recorder.7").write_bytes(record(ONE[:9] + "\0" * 26, 1))
        named.close()
        nameless.close()
        opened = len(os.listdir("/proc/self/fd"))
        (found,) = abandoned(self.path)
        self.assertEqual((found.suspects(), abandoned(self.path)), ([Suspect(ONE, 2)], []))
        found.clear()
        found.close()
        self.assertEqual(abandoned(self.path), [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), opened)
        living.close()

    def test_where_nobody_can_look_there_are_none(self) -> None:
        def none_left(*_: object) -> None:
            raise OSError(EMFILE, "Too many open files")

        self.patch(Path, "glob", none_left)
        self.assertEqual(abandoned(self.path), [])

    def test_one_for_which_there_is_no_room_leaves_nothing_open(self) -> None:
        def full(*_: object) -> None:
            raise OSError(ENOSPC, "No space left on device")

        opened = len(os.listdir("/proc/self/fd"))
        self.patch(os, "posix_fallocate", full)
        with self.assertRaises(OSError):
            FlightRecorder().open(self.path, alone=True)
        self.assertEqual(len(os.listdir("/proc/self/fd")), opened)

    def test_a_child_that_is_forked_in_a_thread_takes_no_name_out_of_it(self) -> None:
        recorder = FlightRecorder(1)
        recorder.open(self.path)
        self.addCleanup(recorder.close)
        slot = recorder.hold(record(ONE, 1))
        if (child := os.fork()) == 0:
            recorder.let_go(slot)
            os._exit(0)
        os.waitpid(child, 0)
        self.assertEqual(recorder.suspects(), [Suspect(ONE, 1)])
        recorder.let_go(slot)
        self.assertEqual(recorder.suspects(), [])

    def test_who_stops_again_after_the_end_disturbs_nobody(self) -> None:
        recorder = self.opened()
        recorder.close()
        recorder.stop()

    def test_a_child_has_not_its_lock(self) -> None:
        recorder = FlightRecorder()
        recorder.open(self.path, alone=True)
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writes, b"forked")
            time.sleep(1_000)
            os._exit(0)
        self.addCleanup(os.waitpid, child, 0)
        self.addCleanup(os.kill, child, signal.SIGKILL)
        os.read(reads, 6)
        os.close(reads)
        os.close(writes)
        recorder.close()
        recorder.open(self.path, alone=True)
        recorder.close()

    def test_who_still_runs_after_the_end_is_named_nowhere(self) -> None:
        recorder = self.opened()
        recorder.close()
        self.assertEqual(recorder.swap(record(ONE, 1)), NOBODY)
        self.assertEqual(self.opened().suspects(), [])

    def test_a_file_that_was_let_go_of_is_closed(self) -> None:
        recorder = FlightRecorder()
        recorder.open(self.path, alone=True)
        self.assertTrue(self.is_open())
        recorder.close()
        self.assertFalse(self.is_open())

    def is_open(self) -> bool:
        """Whether this process has the file open."""
        return any(Path(link).resolve() == self.path.resolve() for link in Path("/proc/self/fd").iterdir())

    def test_a_file_that_cannot_be_made_is_an_error(self) -> None:
        self.assertRaises(OSError, FlightRecorder().open, self.path / "none")


class Unopened(SynchronousTestCase):
    """A recorder for a store that keeps nothing."""

    def test_it_records_for_this_process_alone(self) -> None:
        recorder = FlightRecorder()
        self.assertEqual(recorder.suspects(), [])
        before = recorder.swap(record(ONE, 1))
        self.assertEqual(recorder.suspects(), [Suspect(ONE, 1)])
        recorder.swap(before)
        self.assertEqual(recorder.suspects(), [])
        self.assertEqual(FlightRecorder().suspects(), [])
