"""Reads that wait for a thread, and a system that gives no more of these."""

import gc
import os
import subprocess
import sys
from threading import Event, Semaphore, Thread
from types import FunctionType
from typing import Any

from sqlalchemy import Connection
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import TestCase

from asynctask import sqlite
from asynctask.model import RUNNING
from asynctask.problems import Unavailable
from asynctask.readers import READERS
from tests.on_file import OnFile
from tests.turns import PATIENCE


class NotToBeHad(Thread):
    """A thread that the system does not give."""

    def start(self) -> None:
        """See `Thread`."""
        raise RuntimeError("can't start new thread")


FAILS = """
from twisted.internet import reactor
from asynctask.service import Options, makeService

def fail(_):
    reactor.stop()
    raise ValueError("a mistake of the program's")

options = Options()
options.parseOptions(["--port", "0", "--store", "sqlite:///a.sqlite"])
service = makeService(options)
service.startService()
reactor.callWhenRunning(lambda: service._store.count().addCallback(fail))
reactor.run()
"""
"""A program in which the service runs, and that ends without stopping it."""


class Ended(TestCase):
    """A program that has ended."""

    def test_no_thread_that_reads_keeps_it(self) -> None:
        folder = self.mktemp()
        os.mkdir(folder)
        ended = subprocess.run(
            [sys.executable, "-c", FAILS], cwd=folder, timeout=PATIENCE, capture_output=True
        )
        self.assertEqual(ended.returncode, 0, ended.stderr)


class Reads(OnFile):
    """What reads leave."""

    def test_they_leave_nothing_of_theirs_to_the_collector(self) -> None:
        gc.collect()
        self.addCleanup(gc.enable)
        self.addCleanup(gc.garbage.clear)
        self.addCleanup(gc.set_debug, 0)
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        for _ in range(20):
            self.assertIsNone(self.wait(self.store.get("task_1")))
            failing = self.store._read(self.broken).addErrback(lambda failure: failure.type)
            self.assertIs(self.wait(failing), ZeroDivisionError)
        gc.collect()
        left = [one for one in gc.garbage if isinstance(one, FunctionType | Failure)]
        self.assertEqual(left, [])

    def broken(self, _connection: Connection) -> float:
        return 1 / 0


class Busy(OnFile):
    """All threads read what takes long."""

    def test_what_has_waited_for_too_long_is_not_read_and_keeps_nobody(self) -> None:
        task, begun, go_on = self.run_one(), Semaphore(0), Event()
        self.addCleanup(go_on.set)

        def hold(_connection: Connection) -> bool:
            begun.release()
            return go_on.wait(PATIENCE)

        reads = [self.store._read(hold) for _ in range(READERS)]
        for _ in reads:
            self.assertTrue(begun.acquire(timeout=PATIENCE))
        late = self.store.get(task.task_id)
        patched = self.patch(sqlite, "LONGEST", 0.0)
        go_on.set()
        self.assertEqual([self.wait(read) for read in reads], [True] * READERS)
        self.assertRaises(Unavailable, self.wait, late)
        patched.restore()
        self.assertEqual(self.get(task).status, RUNNING)


class NoThreads(OnFile):
    """On a file, whose first read starts the first of them."""

    def test_a_read_is_refused_until_there_is_one(self) -> None:
        task, threads = self.run_one(), self.threads
        threads.threadFactory = NotToBeHad
        with capturedLogs() as logged:
            for _ in range(2):
                self.assertRaises(Unavailable, self.get, task)
            threads.threadFactory = Thread
            self.assertEqual((self.get(task).status, self.get(task).status), (RUNNING, RUNNING))
        told = [(one["log_format"], one.get("error")) for one in logged if "read" in one["log_format"]]
        self.assertEqual(
            told, [("Store cannot be read", "can't start new thread"), ("Store can be read again", None)]
        )

    def test_a_stop_waits_for_none_that_did_not_start(self) -> None:
        task = self.run_one()
        self.threads.threadFactory = NotToBeHad
        self.assertRaises(Unavailable, self.get, task)
        self.reopen()
        self.assertEqual(self.get(task).name, "a")

    @property
    def threads(self) -> Any:
        """Those of the store."""
        threads = self.store._database.readers
        assert isinstance(threads, ThreadPool)
        return threads
