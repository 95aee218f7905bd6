"""A PID file that a crash has left behind."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from asynctask import pidfile
from asynctask.pidfile import forget_if_stale, why_not_written
from tests.test_sqlitefile import make_null, nobody

SLEEP = "import time; print(flush=True); time.sleep(60)"


class PidFileTests(SynchronousTestCase):
    """What keeps twistd from starting only where it should."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def is_kept(self, text: str) -> bool:
        self.path.write_text(text)
        forget_if_stale(self.path)
        return self.path.exists()

    def process(self, *arguments: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([sys.executable, "-c", SLEEP, *arguments], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_a_twistd_that_lives_keeps_its_file(self) -> None:
        self.assertTrue(self.is_kept(str(self.process("twistd").pid)))

    def test_another_program_of_that_number_is_not_in_the_way(self) -> None:
        self.assertFalse(self.is_kept(str(self.process().pid)))

    def test_a_process_that_nobody_has_reaped_is_not_in_the_way(self) -> None:
        process = self.process("twistd")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        self.assertFalse(self.is_kept(str(process.pid)))

    def test_a_process_that_is_gone_is_not_in_the_way(self) -> None:
        process = self.process("twistd")
        process.kill()
        process.wait()
        self.assertFalse(self.is_kept(str(process.pid)))

    def test_nor_is_its_own_number_from_a_life_before_as_in_a_container(self) -> None:
        self.patch(pidfile, "_is_twistd", lambda _process: True)
        self.assertTrue(self.is_kept(str(os.getppid())))
        self.assertFalse(self.is_kept(str(os.getpid())))

    def test_an_empty_file_is_not_in_the_way(self) -> None:
        self.assertFalse(self.is_kept(""))

    def test_what_is_no_file_is_not_removed(self) -> None:
        make_null(self.path)
        forget_if_stale(self.path)
        self.assertTrue(self.path.is_char_device())
        self.assertEqual(why_not_written(self.path), "it is no file")

    def test_why_it_cannot_be_written_is_told(self) -> None:
        folder = Path(self.mktemp())
        self.assertEqual(why_not_written(folder / "pid"), f"there is no folder {folder}")
        folder.mkdir()
        self.assertIsNone(why_not_written(folder / "pid"))
        self.assertEqual(why_not_written(folder), "it is a folder")
        (folder / "pid").touch()
        self.assertIsNone(why_not_written(folder / "pid"))
        folder.chmod(0o555)
        self.addCleanup(folder.chmod, 0o755)
        (folder / "pid").chmod(0o444)
        with nobody():
            self.assertEqual(why_not_written(folder / "pid"), "this user may not")
            self.assertEqual(why_not_written(folder / "other"), "this user may not")
            self.patch(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
            self.assertEqual(why_not_written(folder / "other"), "Read-only file system")

    def test_a_disk_without_room_is_told_and_nothing_is_left_on_it(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            why = why_not_written(folder / "pid")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.assertEqual(why, "File too large")
        self.assertEqual(list(folder.iterdir()), [])

    def test_what_is_no_pid_file_is_left_alone(self) -> None:
        self.assertTrue(self.is_kept("precious"))
        forget_if_stale(Path(self.mktemp()))
