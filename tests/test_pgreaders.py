"""Who reads gets no connection, while who writes has his."""

import threading
from errno import EMFILE
from typing import Any

import psycopg
from twisted.logger import capturedLogs

from asynctask import pgreaders, pgserver, postgres
from asynctask.model import RUNNING
from asynctask.problems import Unavailable
from tests.fault_case import FaultTestCase
from tests.store_contract import NOW

FULL = psycopg.OperationalError('FATAL:  too many connections\nfor role "app"')
NO_DESCRIPTOR = OSError(EMFILE, "Too many open files")


class NoConnection(FaultTestCase):
    """The server, or the machine, has none for the threads that read."""

    refusal: psycopg.Error | OSError | None = FULL

    def setUp(self) -> None:
        connect = pgserver.connect

        def open_or_refuse(*given: Any, **named: Any) -> Any:
            if self.refusal is not None and "asynctask-reader" in threading.current_thread().name:
                raise self.refusal
            return connect(*given, **named)

        self.patch(postgres, "connect", open_or_refuse)
        self.patch(pgreaders, "TRY_AGAIN", 0.0)
        super().setUp()

    def test_that_is_logged_once_and_also_when_it_is_over(self) -> None:
        with capturedLogs() as logged:
            task = self.run_one()
            for self.refusal in (FULL, FULL, NO_DESCRIPTOR):
                self.assertRaises(Unavailable, self.get, task)
            self.refusal = None
            found = [self.get(task).status, self.get(task).status]
        self.assertEqual(found, [RUNNING, RUNNING])
        told = [one for one in logged if "read" in one["log_format"]]
        self.assertEqual(
            [(one["log_format"], one.get("error")) for one in told],
            [
                ("Store cannot be read", 'FATAL: too many connections for role "app"'),
                ("Store can be read again", None),
            ],
        )

    def test_tasks_are_taken_all_the_same(self) -> None:
        self.run_one()
        self.assertTrue(self.store.healthy)
        self.assertEqual(len(self.wait(self.store.claim("simulate", 1, NOW)).tasks), 0)
