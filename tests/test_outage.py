"""A shared database that can be reached, and does not take what is wanted of it."""

import threading
from collections.abc import Sequence
from typing import Any, cast

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from twisted.trial.unittest import SynchronousTestCase

from asynctask import outage, postgres
from asynctask.batches import End
from asynctask.model import ACCEPTED, COMPLETED, News, Status, complete
from asynctask.outage import MOST_TOLD, SAY_AGAIN, STEADY, Outage
from asynctask.problems import Unavailable
from tests.fault_case import FaultTestCase
from tests.store_contract import NOW

FULL = OperationalError("end", None, psycopg.errors.DiskFull("No space left on device"))
OTHER = OperationalError("end", None, psycopg.errors.IoError("could not read block"))
LOST = OperationalError("end", None, psycopg.OperationalError("closed"), connection_invalidated=True)
LOCKED = OperationalError("end", None, psycopg.errors.LockNotAvailable("timeout"))


class Outages(SynchronousTestCase):
    """What is one outage, and what is said of it."""

    def setUp(self) -> None:
        self.outage = Outage()

    def fail(self, now: float, error: OperationalError = FULL) -> bool:  # type: ignore[override]
        return self.outage.failed(error, now)

    def test_what_fails_after_a_long_time_is_tried_again_at_once(self) -> None:
        self.assertTrue(self.fail(100))
        self.assertEqual((self.outage.fails_again, self.outage.lasts), (False, False))
        self.assertTrue(self.outage.has_held_out(100))

    def test_what_fails_again_soon_has_to_hold_out(self) -> None:
        self.fail(100)
        self.outage.reached(100.1)
        self.fail(100.2)
        self.assertEqual((self.outage.fails_again, self.outage.lasts), (True, True))
        self.assertFalse(self.outage.has_held_out(100.2 + STEADY * 0.9))
        self.assertTrue(self.outage.has_held_out(100.2 + STEADY))
        self.outage.reached(200)
        self.fail(200 + STEADY)
        self.assertEqual((self.outage.fails_again, self.outage.lasts), (False, False))

    def test_a_lost_connection_or_a_lock_says_nothing_of_the_next_time(self) -> None:
        for error in (LOST, LOCKED):
            self.outage.reached(100)
            self.fail(100.1, error)
            self.assertEqual((self.outage.fails_again, self.outage.lasts), (True, False))
            self.assertTrue(self.outage.has_held_out(100.2))

    def test_the_same_is_said_once_a_minute_while_nothing_else_was(self) -> None:
        self.outage.reached(100)
        said = [self.fail(now) for now in (100, 101, 102)]
        self.assertEqual(said, [True, False, False])
        self.assertEqual([self.fail(103, OTHER), self.fail(104, OTHER)], [True, False])
        self.assertTrue(self.fail(103 + SAY_AGAIN, OTHER))
        self.outage.is_over()
        self.assertTrue(self.fail(104 + SAY_AGAIN, OTHER))

    def test_only_so_many_reasons_are_told_of_in_a_minute(self) -> None:
        reasons = [
            OperationalError("end", None, psycopg.errors.IoError(f"could not read block {number}"))
            for number in range(MOST_TOLD + 1)
        ]
        self.assertEqual([self.fail(100, one) for one in reasons], [True] * MOST_TOLD + [False])
        self.assertTrue(self.fail(100 + SAY_AGAIN, reasons[-1]))


REFUSE = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'No space left on device'; END $$",
    "CREATE TRIGGER no_room BEFORE INSERT ON event EXECUTE FUNCTION refuse()",
)


class NoRoom(FaultTestCase):
    """A disk is full, but for rows that are changed in place."""

    def test_it_is_not_taken_for_healthy_until_there_is_room(self) -> None:
        self.patch(outage, "STEADY", 0.0)
        database: Any = self.store._database
        probe, probes = database.probe, []

        def note(connection: Connection) -> None:
            probes.append(self.store.healthy)
            probe(connection)

        database.probe = note
        for statement in REFUSE:
            self.execute(statement)
        with self.logged() as lines:
            self.refused(lambda: self.store.add([self.new()], []))
            self.until(lambda: len(probes) > 3)
            self.assertFalse(self.store.healthy)
            self.execute("DROP TRIGGER no_room ON event")
            self.until_healthy()
            self.add(self.new())
        self.assertEqual(lines, ["Store failed", "Store works again"])


class Full(FaultTestCase):
    """It takes a probe, and nothing that is wanted."""

    def setUp(self) -> None:
        super().setUp()
        self.until_it_has_looked(self.store)
        self.patch(outage, "STEADY", 1e9)
        self.healthy: list[bool] = []
        self.pauses: list[float] = []
        self.is_full = True
        database: Any = self.store._database
        self.database_end, self.database_add = database.end, database.add
        database.end = database.end_as_supposed = self.end
        database.add = self.fill
        backlog: Any = self.store._writer._backlog
        self.pause, backlog.pause = backlog.pause, self.note_pause

    def end(self, connection: Any, ends: Sequence[End], news: list[News]) -> Sequence[Status | None]:
        if ends:
            self.refuse()
        return cast(Sequence[Status | None], self.database_end(connection, ends, news))

    def fill(self, connection: Any, rows: Any) -> None:
        self.refuse()
        self.database_add(connection, rows)

    def refuse(self) -> None:
        self.healthy.append(self.store.healthy)
        if self.is_full:
            raise FULL

    def note_pause(self, seconds: float) -> Any:
        self.pauses.append(seconds)
        return self.pause(seconds)

    def test_it_is_healthy_again_when_an_end_has_been_written(self) -> None:
        self.is_full = False
        task = self.run_one()
        self.healthy.clear()
        self.is_full = True
        with self.logged() as lines:
            end = self.store.end(complete(task, "1", NOW), NOW)
            self.until(lambda: len(self.healthy) > 5)
            self.assertFalse(self.store.healthy)
            self.is_full = False
            self.assertIs(self.wait(end), COMPLETED)
            self.until_healthy()
            self.add(self.new())
        self.assertEqual(set(self.healthy[2:-1]), {False})
        self.assertEqual(self.pauses[0], 0.0)
        self.assertEqual(set(self.pauses[1:]), {0.01})
        said = [line for line in lines if line.startswith("Store")]
        self.assertEqual(said, ["Store failed", "Store works again"] * 2)

    def test_where_nothing_waits_it_has_to_hold_out(self) -> None:
        self.assertRaises(Unavailable, self.wait, self.store.add([self.new()], []))
        self.until_healthy()
        self.assertRaises(Unavailable, self.wait, self.store.add([self.new()], []))
        self.until(lambda: len(self.pauses) > 5)
        self.assertFalse(self.store.healthy)
        self.is_full = False
        self.patch(outage, "STEADY", 0.0)
        self.until_healthy()
        task = self.new()
        self.add(task)
        self.assertIs(self.get(task).status, ACCEPTED)


class Stops(FaultTestCase):
    """A process ends."""

    def processes(self) -> int:
        """How many are among those alive."""
        found: tuple[int] = self.execute("SELECT count(*) FROM process")
        return found[0]

    def test_it_says_good_bye(self) -> None:
        store = self.open()
        self.assertEqual(self.processes(), 2)
        self.wait(store.close())
        self.assertEqual(self.processes(), 1)

    def test_where_the_database_is_away_it_does_not_wait_for_that_on_the_reactor(self) -> None:
        store = self.open()
        self.until_it_has_looked(store)
        threads: list[threading.Thread] = []

        def refuse(*_given: Any, **_named: Any) -> None:
            threads.append(threading.current_thread())
            raise psycopg.OperationalError("the database is away")

        self.patch(postgres, "connect", refuse)
        self.assertRaises(Unavailable, self.wait, store._writer.call(end_connection))
        self.wait(store.close())
        self.assertFalse(store.healthy)
        self.assertIn(store._writer._thread, threads)
        self.assertNotIn(threading.current_thread(), threads)


def end_connection(connection: Connection, _news: list[News]) -> None:
    """Have the server end the connection that this runs in."""
    connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
