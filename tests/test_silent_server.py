"""A server that does not answer, and threads and descriptors that are not to be had."""

import gc
import socket
import threading
from collections.abc import Collection
from contextlib import nullcontext
from errno import EMFILE
from functools import partial
from time import monotonic, sleep
from typing import Any, Self, cast

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from twisted.trial.unittest import SynchronousTestCase

from asynctask import cutoff, heartbeat, pgreaders, polling
from asynctask import postgres as connections
from asynctask.cutoff import Cutoff, Cutoffs
from asynctask.metrics import Metrics
from asynctask.model import Task
from asynctask.pgreaders import EARLY, Readers
from asynctask.pgserver import Server, connect
from asynctask.postgres import Postgres
from asynctask.problems import StartError, Unavailable
from asynctask.readers import LONGEST
from asynctask.store import SqlStore
from tests import postgres
from tests.fault_case import PATIENCE, FaultTestCase
from tests.store_contract import NOW
from tests.test_postgres import BothOpen

TRIES = 10
"""More than the connections that a store opens beside."""


class Deaf(BothOpen, FaultTestCase):
    """The server that would tell of hints cannot be had."""

    def open_store(self) -> SqlStore:
        store = super().open_store()
        if hasattr(self, "store"):  # the first one hears
            place = Server(postgres.url_of(self.database), listen="host=127.0.0.1 port=1")
            store._place = store._database._server = place  # type: ignore[attr-defined]
        return store

    def test_what_others_do_is_seen_all_the_same(self) -> None:
        told: list[Task] = []
        self.other.cancelling = told.extend
        self.add(self.new())
        [task] = self.wait(self.other.claim("simulate", 9, NOW)).tasks
        self.wait(self.store.cancel(task.task_id, NOW))
        self.until(lambda: told)
        self.assertEqual(told[0].task_id, task.task_id)


class Mute:
    """A connection to a pooler that has none to the server for us."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._wire, self._other_end = socket.socketpair()
        self._wire.settimeout(PATIENCE)

    def fileno(self) -> int:
        """Of its socket."""
        return self._wire.fileno()

    def execute(self, _statement: bytes) -> None:
        """Wait for an answer that does not come."""
        self.asked.set()
        self._wire.recv(1)
        raise psycopg.OperationalError("the connection was lost")

    def close(self) -> None:
        """Give up."""
        self._wire.close()
        self._other_end.close()


class NoAnswer(FaultTestCase):
    """Who is asked for hints does not answer."""

    def test_looks_begin_before_and_go_on_after_it_is_cut_off(self) -> None:
        self.add(self.new())
        mute, listen = Mute(), "host=127.0.0.1 port=1"
        self.patch(
            polling, "connect", lambda url, **named: mute if url == listen else connect(url, **named)
        )
        self.patch(polling, "POLL", 0.01)
        store = SqlStore(Server(postgres.url_of(self.database), listen), self.turns, metrics=Metrics())
        due: list[Collection[str]] = []
        store.due = due.append
        store.open([], NOW)
        self.addCleanup(lambda: self.wait(store.close()))
        self.until(mute.asked.is_set)
        self.turns.catch_up()
        self.assertEqual(due, [["simulate"]])
        with self.logged() as lines:
            patched = self.patch(cutoff, "LONGEST", 0.1)
            self.until(lambda: any(line.startswith("Store cannot be listened to") for line in lines))
            patched.restore()
        self.assertIn("Store takes too long, and was cut off", lines)
        self.until(lambda: len(due) > 3)


class ComingBack(FaultTestCase):
    """A server that can be reached, but does not do what is needed."""

    def ours(self) -> int:
        """Connections of this process to its database."""
        found: int = self.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'asynctask'"
        )[0]
        return found

    def test_tries_that_fail_leave_no_connections(self) -> None:
        database = Postgres(Server(postgres.url_of(self.database)))
        database.open()
        self.addCleanup(database.close)
        with database.connect() as first, first.begin():
            database.start(first)
        self.patch(connections, "_PATIENT", "BEGIN; SET LOCAL statement_timeout = 50")
        gc.disable()
        self.addCleanup(gc.enable)
        before = self.ours()
        with self.outside() as other:
            other.execute("SELECT 1 FROM process FOR UPDATE")
            for _ in range(TRIES):
                self.assertRaises(DBAPIError, database.connect)
            self.until(lambda: self.ours() < before + TRIES)

    def test_a_start_that_fails_leaves_no_connection(self) -> None:
        gc.disable()
        self.addCleanup(gc.enable)
        before = self.ours()
        self.execute("ALTER TABLE meta RENAME TO hidden")
        self.addCleanup(self.execute, "ALTER TABLE hidden RENAME TO meta")
        for _ in range(TRIES):
            self.assertRaises(StartError, self.open)
        self.until(lambda: self.ours() < before + TRIES)

    def test_who_waited_too_long_for_a_connection_is_refused_and_the_next_finds_it_open(self) -> None:
        late: list[Any] = []

        def slowly(cutoff: Cutoff) -> "psycopg.Connection[Any]":
            late.append(self.patch(pgreaders, "LONGEST", -1.0))
            connection = connect(postgres.url_of(self.database), autocommit=True)
            cutoff.hold(connection)
            return connection

        readers = Readers(Cutoffs(), slowly, lambda _connection: None)
        self.addCleanup(readers.stop)

        def read(connection: Connection) -> Any:
            return connection.exec_driver_sql("SELECT 1").scalar_one()

        self.assertRaises(Unavailable, readers.read, read, monotonic())
        late[0].restore()
        self.assertEqual(readers.read(read, monotonic()), 1)
        self.assertEqual(len(late), 1)

    def test_who_has_waited_long_opens_none_and_who_has_waited_too_long_reads_nothing(self) -> None:
        opened: list[Cutoff] = []

        def open_one(cutoff: Cutoff) -> "psycopg.Connection[Any]":
            opened.append(cutoff)
            return connect(postgres.url_of(self.database), autocommit=True)

        readers = Readers(Cutoffs(), open_one, lambda _connection: None)
        self.addCleanup(readers.stop)
        read: list[Connection] = []
        self.assertRaises(Unavailable, readers.read, read.append, monotonic() - 2 * EARLY)
        self.assertEqual(opened, [])
        readers.read(read.append, monotonic())
        readers.read(read.append, monotonic() - 2 * EARLY)
        self.assertRaises(Unavailable, readers.read, read.append, monotonic() - 2 * LONGEST)
        self.assertEqual((len(opened), len(read)), (1, 2))

    def test_a_database_that_cannot_be_reached_is_not_tried_by_each_who_reads(self) -> None:
        tries: list[Cutoff] = []

        def fail(cutoff: Cutoff) -> "psycopg.Connection[Any]":
            tries.append(cutoff)
            raise psycopg.OperationalError("refused")

        readers = Readers(Cutoffs(), fail, lambda _connection: None)
        self.addCleanup(readers.stop)
        for _ in range(3):
            self.assertRaises(Unavailable, readers.read, lambda _: None, monotonic())
        self.assertEqual(len(tries), 1)


class Waiting(SynchronousTestCase):
    """One after the other, connections are waited for, and none for too long."""

    def setUp(self) -> None:
        self.cutoff = Cutoff()
        self.addCleanup(self.cutoff.let_go)

    def hold(self) -> socket.socket:
        """The other end of the connection at hand."""
        one, other = socket.socketpair()
        self.addCleanup(other.close)
        other.setblocking(False)
        with one:
            self.cutoff.hold(cast(Any, one))
        return other

    def test_each_has_its_time_however_long_a_host_before_it_was_waited_for(self) -> None:
        with self.cutoff.waiting(monotonic() - 2 * LONGEST):
            self.hold()
            self.cutoff.look(monotonic())
            self.assertFalse(self.cutoff.is_cut)
            self.cutoff.look(monotonic() + 2 * LONGEST)
            self.assertTrue(self.cutoff.is_cut)

    def test_it_is_cut_off_when_that_is_over_and_not_before(self) -> None:
        other = self.hold()
        with self.cutoff.waiting(NOW):
            self.cutoff.look(NOW + 0.9 * LONGEST)
            self.assertRaises(BlockingIOError, other.recv, 1)
            self.cutoff.look(NOW + 1.1 * LONGEST)
        self.assertEqual((self.cutoff.is_cut, other.recv(1)), (True, b""))

    def test_the_next_one_is_cut_off_too(self) -> None:
        for _ in range(2):
            other = self.hold()
            with self.cutoff.waiting(NOW):
                self.cutoff.look(NOW + 1.1 * LONGEST)
            self.assertEqual(other.recv(1), b"")

    def test_one_that_is_no_longer_connected_is_no_error(self) -> None:
        with socket.socket() as unconnected:
            self.cutoff.hold(cast(Any, unconnected))
        with self.cutoff.waiting(NOW):
            self.cutoff.look(NOW + 1.1 * LONGEST)
        self.assertTrue(self.cutoff.is_cut)


class Limited(FaultTestCase):
    """A database that ends sessions which are idle."""

    def test_ours_are_not_ended(self) -> None:
        self.execute(f"ALTER DATABASE {self.database} SET idle_session_timeout = '100ms'")
        self.wait(self.store.close())
        self.store = self.open()
        self.until_it_has_looked(self.store)
        task = self.new()
        self.add(task)
        self.get(task)
        with self.logged() as lines:
            sleep(0.5)
            self.add(self.new())
            self.get(task)
        self.assertEqual(lines, [])


class Refusing(FaultTestCase):
    """A server that takes connections, and no statement."""

    def test_that_is_told_once(self) -> None:
        asked = threading.Semaphore(0)

        class Refused(Mute):
            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                self.close()

            def execute(self, _statement: object, _given: object = None) -> None:
                asked.release()
                raise psycopg.OperationalError("not now")

            transaction = nullcontext

        for module in (heartbeat, polling):
            self.patch(module, "TRY_AGAIN", 0.01)
            self.patch(module, "connect", lambda *_, **__: Refused())
        with self.logged() as lines:
            store = self.open()
            self.addCleanup(lambda: self.wait(store.close()))
            for _ in range(20):
                asked.acquire(timeout=PATIENCE)
            self.turns.catch_up()
        for message in ("Store does not tell what others do", "Store does not answer the heartbeat"):
            self.assertEqual(len([line for line in lines if line.startswith(message)]), 1, lines)


class Descriptors(FaultTestCase):
    """The threads beside the writer outlive a want of descriptors."""

    def test_they_try_again(self) -> None:
        refused: list[Any] = []
        for module in (heartbeat, polling):
            self.patch(module, "TRY_AGAIN", 0.01)
            self.patch(module, "connect", partial(self.refuse, module, module.connect, refused))
        store = self.open()
        self.addCleanup(lambda: self.wait(store.close()))
        sharing: Any = store._sharing
        self.until(lambda: len(refused) == 2)
        for thread in (sharing._poller._thread, sharing._heartbeat._thread):
            thread.join(0.1)
            self.assertTrue(thread.is_alive())

    def refuse(self, module: Any, connect: Any, refused: list[Any], *args: Any, **named: Any) -> Any:
        """Once."""
        if module not in refused:
            refused.append(module)
            raise OSError(EMFILE, "Too many open files")
        return connect(*args, **named)
