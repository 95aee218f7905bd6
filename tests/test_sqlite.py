"""`Sqlite` when the disk fails where nobody expects it."""

import errno
import fcntl
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from twisted.logger import capturedLogs

from asynctask import sqlite
from asynctask.metrics import Metrics
from asynctask.model import COMPLETED, complete
from asynctask.problems import StartError, Unavailable
from asynctask.sqlite import Sqlite
from asynctask.sqlitefile import Lock, Place
from asynctask.store import SqlStore
from tests.on_file import OnFile
from tests.store_contract import NOW

BROKEN = OperationalError("", None, sqlite3.OperationalError("disk I/O error"))


class Stuck:
    """A connection to a file whose journal cannot be changed."""

    def execute(self, statement: str) -> "Stuck":
        return self

    def fetchone(self) -> tuple[str]:
        return ("delete",)


class Broken(OnFile):
    """What is told, what is refused, and what is tried again."""

    def new_store(self) -> SqlStore:
        return SqlStore(Place(self.path, "off"), self.turns, metrics=Metrics())

    def failing(self, code: int) -> Any:
        def fail(*_: object) -> None:
            raise OSError(code, "Broken")

        return fail

    def test_without_a_write_ahead_log_nothing_is_begun(self) -> None:
        made: Any = Sqlite(Place(Path(self.mktemp()).absolute()))
        self.assertRaises(sqlite3.OperationalError, made._prepare_writing, Stuck(), None)

    def test_a_folder_that_cannot_be_synced_ends_the_start_and_the_next_one_can_try(self) -> None:
        self.wait(self.store.close())
        patched = self.patch(sqlite, "_sync_folder", self.failing(errno.EIO))
        error = self.assertRaises(StartError, self.new_store().open, [], NOW)
        self.assertEqual(str(error), f"--store: cannot sync the folder {self.path.parent} (Broken)")
        patched.restore()
        self.patch(sqlite, "_sync_folder", self.failing(errno.EINVAL))  # which not all can do
        self.store = self.open()

    def test_a_lock_that_cannot_be_had_is_not_said_to_be_anothers(self) -> None:
        self.patch(fcntl, "flock", self.failing(errno.EIO))
        error = self.assertRaises(StartError, Lock, Place(Path(self.mktemp()).absolute()))
        self.assertRegex(str(error), r"^--store: cannot lock /.*-lock \(Broken\)$")

    def test_reads_that_fail_are_told_once_and_their_end_too(self) -> None:
        task = self.new()
        self.add(task)
        engine: Any = self.store._database
        broken = [True]

        def read(*_: object) -> None:
            if broken:
                raise BROKEN

        event.listen(engine._reading, "before_cursor_execute", read)
        with capturedLogs() as logged:
            for _ in range(2):
                self.assertRaises(Unavailable, self.get, task)
            broken.clear()
            self.get(task)
        told = [(one["log_format"], one.get("error")) for one in logged]
        self.assertEqual(
            told, [("Store cannot be read", "disk I/O error"), ("Store can be read again", None)]
        )

    def test_a_read_that_takes_too_long_is_ended(self) -> None:
        self.patch(sqlite, "LONGEST", 0.2)
        endless = text("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT count(*) FROM n")
        reading = self.store._read(lambda db: db.scalar(endless))
        self.assertRaises(Unavailable, self.wait, reading)
        self.assertEqual(self.wait(self.store.count()), 0)

    def test_an_end_that_is_refused_again_waits_for_its_next_try(self) -> None:
        self.wait(self.store.close())
        self.store = SqlStore(Place(self.path, "off"), self.turns, metrics=Metrics(), try_again=1_000)
        self.store.started = self.started.extend
        self.store.open([], NOW)
        task = self.run_one()
        tries = []

        def refuse(_connection: object, ends: list[object], _news: object) -> list[None]:
            if ends:
                tries.append(ends)
                raise BROKEN
            return []

        patched = self.patch(self.store._database, "end_as_supposed", refuse)
        self.store.end(complete(task, "1", NOW), NOW)
        self.turns.turn()
        while self.store.healthy:
            self.store._writer._thread.join(0.01)
        self.assertEqual(len(tries), 2)
        self.assertRaises(Unavailable, self.store.add, [self.new()], [])
        self.wait(self.store.close())  # with one more try
        self.assertEqual(len(tries), 3)
        patched.restore()
        self.store = self.open()
        self.assertNotEqual(self.get(task).status, COMPLETED)
