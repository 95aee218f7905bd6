"""`SqlStore` on a PostgreSQL server that hangs, loses answers, or is shared with processes that do."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from errno import EMFILE
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import ILogObserver, LogEvent, capturedLogs, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask import backlog, heart, leash, pulse, statements, writer
from asynctask.backlog import LARGEST
from asynctask.batches import End
from asynctask.heart import COMING_BACK, Heart
from asynctask.istore import Key
from asynctask.model import (
    ACCEPTED,
    CANCELLED,
    COMPLETED,
    FAILED,
    RETRYING,
    RUNNING,
    InvalidTransition,
    News,
    OutcomeUnknown,
    Task,
    Unavailable,
    complete,
    interrupt,
)
from asynctask.outbox import show_secret
from asynctask.pgbatches import ONE_AFTER_ANOTHER
from asynctask.pgserver import Server, connect
from asynctask.recorder import FlightRecorder, Suspect, abandoned, record
from asynctask.recovery import let_go
from asynctask.sqlite import StartError
from asynctask.store import SqlStore
from asynctask.writer import LATE, REPEATS
from tests import postgres
from tests.faults import cluster
from tests.faults.proxy import Proxy
from tests.store_contract import NOW
from tests.test_postgres import BothOpen, OnServer
from tests.turns import Turns

LEASE = 1.0
"""Seconds; the server has been up for longer."""

SOON = 2.3
"""Seconds in which a client has an answer, with some to spare for a busy machine."""

PATIENCE = 10.0
"""Seconds for what comes within a few."""


class FaultTestCase(OnServer):
    """With connections of the test's own beside the store's."""

    def outside(self) -> "psycopg.Connection[Any]":
        """Another program's connection to the same database."""
        connection = psycopg.connect(postgres.url_of(self.database))
        self.addCleanup(connection.close)
        return connection

    def execute(self, statement: str, *given: Any) -> Any:
        """The first row of a statement that is committed at once, or None."""
        with psycopg.connect(postgres.url_of(self.database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), given)
            return cursor.fetchone() if cursor.description else None

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that comes by itself."""
        deadline = time.monotonic() + PATIENCE
        self.turns.catch_up()
        while not condition():
            self.assertLess(time.monotonic(), deadline, "it never came")
            time.sleep(0.01)
            self.turns.catch_up()

    def until_one_waits(self) -> None:
        """Until a transaction waits for the lock that another one has."""
        self.until(
            lambda: self.execute(
                "SELECT pid FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )

    def until_it_has_looked(self, store: SqlStore) -> None:
        """Until what it writes when it first looks at the others is written."""
        sharing = store._sharing
        self.until(lambda: sharing is not None and sharing._processes is not None)
        self.wait(store.settle())

    def until_healthy(self) -> None:
        self.until(lambda: self.store.healthy)

    def refused(self, deferred: Callable[[], "Deferred[Any]"]) -> Unavailable:
        """It is answered in time, with a 503."""
        began = time.monotonic()
        try:
            self.wait(deferred())
        except Unavailable as refusal:
            self.assertLess(time.monotonic() - began, SOON)
            return refusal
        raise self.failureException("it was not refused")

    @contextmanager
    def logged(self) -> Iterator[list[str]]:
        """What is logged meanwhile."""
        lines: list[str] = []

        def note(event: LogEvent) -> None:
            lines.append(str(event.get("log_format")))

        observer = cast(ILogObserver, note)
        globalLogPublisher.addObserver(observer)
        yield lines
        globalLogPublisher.removeObserver(observer)

    @contextmanager
    def transaction_under_way(self) -> Iterator["Deferred[None]"]:
        """A transaction of the store's that takes as long as this, while others are asked for."""
        begun, go_on = threading.Event(), threading.Event()

        def run(_connection: Connection, _news: list[News]) -> None:
            begun.set()
            go_on.wait(PATIENCE)

        done = self.store._writer.call(run)
        self.until(begun.is_set)
        try:
            yield done
            self.turns.catch_up()
        finally:
            go_on.set()


class Collisions(FaultTestCase):
    """Transactions of many processes meet."""

    def test_a_transaction_that_met_another_one_is_made_again(self) -> None:
        for state in ("40001", "40P01"):
            self.assertEqual(self.wait(self.store._writer.call(_failing(state))), 2)
        self.assertTrue(self.store.healthy)

    def test_one_that_meets_others_again_and_again_is_refused_in_the_end(self) -> None:
        last = self.store._writer.call(_failing("40001", REPEATS))
        self.assertEqual(self.wait(last), REPEATS + 1)
        self.assertTrue(self.store.healthy)
        refused = self.store._writer.call(_failing("40001", REPEATS + 1))
        self.assertRaises(Unavailable, self.wait, refused)
        self.until_healthy()

    def test_a_claim_that_is_made_again_starts_its_tasks_once(self) -> None:
        tasks = [self.new(), self.new()]
        self.add(*tasks)
        with self.transaction_under_way():
            claim = self.store.claim("simulate", 3, NOW)
            failing = self.store._writer.call(_failing("40001"), order="last")
        more = self.wait(claim).more
        self.wait(failing)
        self.assertEqual([task.task_id for task in self.started], [task.task_id for task in tasks])
        self.assertFalse(more)

    def test_what_waits_together_is_locked_in_one_order(self) -> None:
        order: list[str] = []
        with self.transaction_under_way():
            names = ("key b", "task 1", "key a")
            calls = [self.store._writer.call(_noting(order, name), order=name) for name in names]
        self.wait(gatherResults(calls))
        self.assertEqual(order, ["key a", "key b", "task 1"])

    def test_keys_in_opposite_order_are_no_deadlock(self) -> None:
        other = self.open()
        self.addCleanup(lambda: self.wait(other.close()))
        keys = [Key(name, "digest", "answer", NOW + 9) for name in "abcdefgh"]
        done = []
        with self.transaction_under_way():
            for one, two in zip(keys, reversed(keys), strict=True):
                done.append(self.store.add_once([self.new()], [], one, NOW))
                done.append(other.add_once([self.new()], [], two, NOW))
        self.wait(gatherResults(done))
        self.assertEqual(len(self.names()), len(keys))

    def test_a_cancel_does_not_undo_an_end_that_another_process_is_committing(self) -> None:
        task = self.run_one()
        other = self.outside()
        other.execute("UPDATE task SET status = 'completed', finished_at = %s", (NOW,))
        cancel = self.store.cancel(task.task_id, NOW)
        self.until_one_waits()
        other.commit()
        self.assertRaises(InvalidTransition, self.wait, cancel)
        self.assertEqual(self.get(task).status, COMPLETED)

    def test_a_delete_does_not_meet_a_retry_that_another_process_is_committing(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        other = self.outside()
        other.execute("UPDATE task SET status = 'accepted', finished_at = NULL")
        delete = self.store.delete(task.task_id)
        self.until_one_waits()
        other.commit()
        self.assertRaises(InvalidTransition, self.wait, delete)

    def test_who_rests_in_a_transaction_does_not_hold_up_the_others(self) -> None:
        self.add(self.new())
        other = self.open()
        self.addCleanup(lambda: self.wait(other.close()))
        locked, go_on = threading.Event(), threading.Event()

        def rest(connection: Connection, _news: list[News]) -> None:
            connection.execute(statements.LOCK_KIND, {"of_kind": "simulate"})
            locked.set()
            go_on.wait(PATIENCE)
            connection.execute(statements.EPOCH)

        resting = self.store._writer.call(rest)
        self.until(locked.is_set)
        self.assertEqual(len(self.wait(other.claim("simulate", 1, NOW, 1)).tasks), 1)
        go_on.set()
        self.assertRaises(Unavailable, self.wait, resting)
        self.until_healthy()


class RepeatedEnds(BothOpen):
    """An end is written again, since the answer to its commit was lost."""

    def test_it_changes_nothing_where_another_process_has_gone_on_since(self) -> None:
        task = self.run_one()
        end = End(interrupt(task, NOW), NOW, again=True)
        self.assertEqual(self.wait(self.store.end(end.task, NOW)), RETRYING)
        (again,) = self.wait(self.other.claim("simulate", 9, NOW)).tasks
        news: list[News] = []
        repeated = self.store._writer.call(lambda db, _: self.store._database.end(db, [end], news))
        self.assertEqual((self.wait(repeated), news), ([RETRYING], []))
        self.assertEqual((self.get(task).status, self.get(task).attempt), (RUNNING, 2))
        self.assertEqual(self.wait(self.other.end(complete(again, "1", NOW), NOW)), COMPLETED)

    def test_a_claim_that_failed_after_all_takes_nothing_from_who_claimed_it_since(self) -> None:
        self.add(self.new())
        (theirs,) = self.wait(self.other.claim("simulate", 9, NOW)).tasks
        for store, ours in ((self.store, []), (self.other, [theirs.task_id])):
            found = self.wait(store._writer.call(partial(_let_go, theirs, store._database.owner)))
            self.assertEqual([task.task_id for task in found], ours)


class Retention(FaultTestCase):
    """What is old may be renewed while it is about to be forgotten."""

    def test_a_task_that_is_just_retried_stays(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        with self.outside() as retrying:
            retrying.execute("UPDATE task SET status = 'accepted', finished_at = NULL")
            forgetting = self.store.forget(NOW + 1, NOW, 9)
            self.until(lambda: self.store._writer._backlog.waits is False)
            time.sleep(0.1)  # for a DELETE that waits for the row
        self.assertEqual(self.wait(forgetting), 0)
        self.assertIs(self.get(task).status, ACCEPTED)

    def test_nor_is_a_key_forgotten_that_is_just_given_again(self) -> None:
        self.wait(self.store.add_once([self.new()], [], Key("k", "digest", "answer", NOW - 1), NOW - 2))
        with self.outside() as renewing:
            renewing.execute(f"UPDATE idempotency SET expires_at = {NOW + 9}".encode())
            forgetting = self.store.forget(NOW - 9, NOW, 9)
            self.until(lambda: self.store._writer._backlog.waits is False)
            time.sleep(0.1)
        self.wait(forgetting)
        self.assertEqual(self.execute("SELECT count(*) FROM idempotency"), (1,))


class Orphans(BothOpen, FaultTestCase):
    """Many processes want what one of them has left."""

    def setUp(self) -> None:
        super().setUp()
        for store in (self.store, self.other):
            self.until_it_has_looked(store)

    def test_one_that_was_to_be_cancelled_is_cancelled_logged_and_counted_by_who_finds_it(self) -> None:
        task = self.run_one()
        self.wait(self.store.cancel(task.task_id, NOW))
        self.execute("UPDATE task SET owner = 'gone'")
        with capturedLogs() as logged:
            self.assertEqual(self.wait(self.other.claim("simulate", 9, NOW)).tasks, [])
        told = [one["task_id"] for one in logged if one["log_format"] == "Task cancelled"]
        self.assertEqual((told, self.counted(self.other, CANCELLED)), ([task.task_id], 1))
        self.wait(self.other.claim("simulate", 9, NOW))
        self.assertEqual(self.counted(self.other, CANCELLED), 1)

    def test_one_that_nobody_has_a_seat_for_is_cancelled_all_the_same(self) -> None:
        before, after = self.run_one(), self.run_one()
        self.wait(self.store.cancel(before.task_id, NOW))
        self.execute("UPDATE task SET owner = 'gone'")
        with capturedLogs() as logged:
            self.assertFalse(self.wait(self.other.settle()))
        told = [one["task_id"] for one in logged if one["log_format"] == "Task cancelled"]
        self.assertEqual((told, self.counted(self.other, CANCELLED)), ([before.task_id], 1))
        self.assertEqual(self.wait(self.other.cancel(after.task_id, NOW)).status, CANCELLED)
        self.assertEqual(self.get(before).status, CANCELLED)

    def test_many_that_were_to_be_cancelled_are_settled_a_part_at_a_time(self) -> None:
        for limit, is_full in ((9, False), (0, True)):
            self.wait(self.store.add([], [self.new() for _ in range(statements.SETTLED + 1)]))
            self.execute("UPDATE task SET owner = 'gone', cancel_requested = true WHERE status = 'running'")
            self.other.orphaned()
            first, second = [self.wait(self.other.claim("simulate", limit, NOW)) for _ in range(2)]
            self.assertEqual((len(first.left), first.more, first.orphans), (statements.SETTLED, True, True))
            self.assertEqual((len(second.left), second.more, second.orphans), (1, False, is_full))
            self.assertEqual((first.full, second.full), (is_full, is_full))

    def test_processes_that_go_leave_nothing_unsettled(self) -> None:
        task = self.run_one()
        self.execute("INSERT INTO process (id, seen, version) SELECT 'going', max(seen), '' FROM process")
        sharing = self.other._sharing
        self.until(lambda: sharing is not None and "going" in (sharing._processes or ()))
        self.wait(self.store.cancel(task.task_id, NOW))
        self.execute("UPDATE task SET owner = 'going'")
        self.execute("DELETE FROM process WHERE id = 'going'")
        self.until(lambda: self.get(task).status is CANCELLED)

    def test_what_another_one_has_just_claimed_is_no_orphan_any_more(self) -> None:
        task = self.run_one()
        self.execute("UPDATE task SET owner = 'gone'")
        slowly = statements.ABANDONED.where(text("pg_sleep(0.5)::text = ''"))

        def look(connection: Connection, _news: list[News]) -> list[str]:
            return [row.task_id for row in connection.execute(slowly, {"of_kind": "simulate", "limit": 9})]

        looking = self.store._writer.call(look)
        self.until(lambda: self.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        claim = self.wait(self.other.claim("simulate", 9, NOW))
        self.assertEqual([one.task_id for one in claim.tasks], [task.task_id])
        self.assertEqual(self.wait(looking), [])

    def test_one_has_no_seat_of_its_kind_and_is_given_one(self) -> None:
        task = self.run_one()
        self.execute("UPDATE task SET owner = 'gone'")
        claim = self.wait(self.other.claim("simulate", 9, NOW, 1))
        self.assertEqual([(one.task_id, one.attempt) for one in claim.tasks], [(task.task_id, 2)])
        full = self.wait(self.store.claim("simulate", 9, NOW, 1))
        self.assertEqual((full.tasks, full.full, full.more), ([], True, False))

    def test_one_that_was_to_be_cancelled_is_cancelled_though_its_kind_is_full(self) -> None:
        task, _ = self.run_one(), self.run_one()
        self.wait(self.store.cancel(task.task_id, NOW))
        self.execute("UPDATE task SET owner = 'gone' WHERE task_id = %s", task.task_id)
        claim = self.wait(self.other.claim("simulate", 9, NOW, 1))
        self.assertEqual((claim.tasks, claim.full), ([], True))
        self.assertEqual([one.task_id for one in claim.left], [task.task_id])
        self.assertIs(self.get(task).status, CANCELLED)
        self.assertEqual(self.counted(self.other, CANCELLED), 1)

    def test_one_that_is_locked_at_the_moment_is_looked_for_again(self) -> None:
        task = self.run_one()
        self.execute("UPDATE task SET owner = 'gone'")
        with self.outside() as changing:
            changing.execute("SELECT FROM task FOR UPDATE")
            claim = self.wait(self.other.claim("simulate", 9, NOW))
            self.assertEqual((claim.tasks, claim.orphans, claim.next_due), ([], True, NOW))
        claim = self.wait(self.other.claim("simulate", 9, NOW))
        self.assertEqual([one.task_id for one in claim.tasks], [task.task_id])
        claim = self.wait(self.other.claim("simulate", 9, NOW))
        self.assertEqual((claim.orphans, claim.next_due), (False, None))

    def test_nor_is_one_missed_that_is_just_cancelled(self) -> None:
        task = self.run_one()
        self.execute("UPDATE task SET owner = 'gone'")
        with self.outside() as cancelling:
            cancelling.execute("UPDATE task SET cancel_requested = true")
            self.assertEqual(self.wait(self.other.claim("simulate", 9, NOW)).tasks, [])
        claim = self.wait(self.other.claim("simulate", 9, NOW))
        self.assertEqual([one.task_id for one in claim.left], [task.task_id])
        self.assertIs(self.get(task).status, CANCELLED)

    def test_those_of_a_process_that_goes_before_the_first_look_are_not_missed(self) -> None:
        task = self.run_one()
        self.execute("INSERT INTO process (id, seen, version) SELECT 'going', max(seen), '' FROM process")
        self.execute("UPDATE task SET owner = 'going'")
        look = threading.Event()

        def late(*args: Any, **named: Any) -> Any:
            look.wait(PATIENCE)
            return connect(*args, **named)

        self.patch(pulse, "connect", late)
        store = self.open()
        self.addCleanup(lambda: self.wait(store.close()))
        self.addCleanup(look.set)
        due: list[Collection[str]] = []
        store.due = due.append
        claim = self.wait(store.claim("simulate", 9, NOW))
        self.assertEqual((claim.tasks, claim.orphans), ([], False))
        self.execute("DELETE FROM process WHERE id = 'going'")
        look.set()
        self.until(lambda: due)
        self.assertEqual(due, [["simulate"]])
        claim = self.wait(store.claim("simulate", 9, NOW))
        self.assertEqual([one.task_id for one in claim.tasks], [task.task_id])


class Results(FaultTestCase):
    """Results wait for a server that takes none."""

    def test_so_many_are_kept_and_the_tasks_of_the_others_run_again(self) -> None:
        tasks = [self.run_one() for _ in range(3)]
        self.store._writer._backlog.most_kept = 10
        with self.transaction_under_way():
            ends = [self.store.end(complete(task, "12345678", NOW), NOW) for task in tasks[:2]]
            ends.append(self.store.end(complete(tasks[2], "1", NOW), NOW))
        self.assertEqual([self.wait(end) for end in ends], [COMPLETED, RETRYING, COMPLETED])
        self.assertIsNone(self.get(tasks[1]).result)
        self.assertEqual(
            [(task.task_id, task.attempt) for task in self.claim().tasks], [(tasks[1].task_id, 2)]
        )
        self.assertEqual(self.wait(self.store.end(complete(tasks[0], "12345678", NOW), NOW)), None)

    def test_large_ones_that_come_together_are_all_written_each_transaction_a_few(self) -> None:
        self.wait(self.store.add([], [self.new() for _ in range(40)]))
        before, size = len(self.told_of), LARGEST // 3 * 2
        with self.logged() as lines:
            with self.transaction_under_way():
                ends = [self.store.end(complete(task, "1" * size, NOW), NOW) for task in self.started]
            self.assertEqual([self.wait(end) for end in ends], [COMPLETED] * 40)
        self.assertNotIn("Store failed", lines)
        self.assertLessEqual({len(news) for _, news in self.told_of[before:]}, {0, 2})


class Unfit(FaultTestCase):
    """How an attempt ended cannot be written."""

    def test_what_the_database_can_never_keep_fails_its_task_and_nobody_else_suffers(self) -> None:
        before, bad, after = [self.run_one() for _ in range(3)]
        with self.transaction_under_way():
            ends = [
                self.store.end(complete(task, result, NOW), NOW)
                for task, result in ((before, "1"), (bad, '"\0"'), (after, "2"))
            ]
            added = self.store.add([self.new()], [])
        self.assertEqual([self.wait(end) for end in ends], [COMPLETED, FAILED, COMPLETED])
        self.wait(added)
        found = self.get(bad)
        self.assertEqual((found.result, found.error and found.error.type), (None, "NotSerializable"))
        self.assertEqual(self.history(bad), [("accepted", 0), ("running", 1), ("failed", 1)])
        self.assertEqual((self.counted(self.store, FAILED), self.store.unfinished), (1, 1))
        self.assertTrue(self.store.healthy)

    def test_of_two_that_come_together_the_other_is_done_all_the_same(self) -> None:
        bad = self.run_one()
        self.until_it_has_looked(self.store)
        with self.transaction_under_way():
            end = self.store.end(complete(bad, '"\0"', NOW), NOW)
            added = self.store.add([self.new()], [])
        self.wait(added)
        self.assertIs(self.wait(end), FAILED)

    def test_what_it_cannot_take_for_a_while_waits_until_it_can(self) -> None:
        task = self.run_one()
        self.execute("ALTER TABLE task RENAME TO away")
        end = self.store.end(complete(task, "1", NOW), NOW)
        self.until(lambda: not self.store.healthy)
        self.assertRaises(Unavailable, self.store.add, [self.new()], [])
        self.execute("ALTER TABLE away RENAME TO task")
        self.assertIs(self.wait(end), COMPLETED)
        self.until_healthy()
        self.assertEqual(self.get(task).result, "1")


class LostLeases(BothOpen, FaultTestCase):
    """Others take a process for dead that is not."""

    def setUp(self) -> None:
        super().setUp()
        self.losses: list[str] = []
        self.store.lost = lambda: self.losses.append("lost")

    def lose(self) -> None:
        self.execute("DELETE FROM process WHERE id = %s", self.store._database.owner)

    def test_it_stops_its_attempts_and_goes_on_as_another_one(self) -> None:
        owner = self.store._database.owner
        task = self.run_one()
        self.lose()
        self.other.orphaned()
        (again,) = self.wait(self.other.claim("simulate", 9, NOW)).tasks
        self.assertEqual((again.task_id, again.attempt), (task.task_id, 2))
        # The late writer's end is dropped, and it has noticed.
        self.assertIsNone(self.wait(self.store.end(complete(task, "1", NOW), NOW)))
        self.assertEqual(self.losses, ["lost"])
        self.assertEqual((self.get(task).status, self.get(task).attempt), (RUNNING, 2))
        self.assertNotEqual(self.store._database.owner, owner)
        self.assertEqual(self.wait(self.other.end(complete(again, "2", NOW), NOW)), COMPLETED)
        self.assertEqual(self.get(task).result, "2")
        self.run_one()

    def test_one_that_cannot_come_back_at_once_tries_again(self) -> None:
        database: Any = self.store._database
        register, failures = database.register, []

        def fail(connection: Connection) -> None:
            database.register = register
            failures.append(database.owner)
            connection.exec_driver_sql("SELECT no_such_column")

        database.register = fail
        self.lose()
        self.until(lambda: failures)
        self.until(lambda: self.execute("SELECT 1 FROM process WHERE id = %s", database.owner))
        self.assertEqual((failures, self.losses), ([database.owner], ["lost"]))
        self.until(lambda: self.store.healthy)
        self.run_one()

    def test_nor_does_it_give_up_for_want_of_a_descriptor(self) -> None:
        database: Any = self.store._database
        connect, failures = database.connect, []

        def fail() -> Connection:
            database.connect = connect
            failures.append(database.owner)
            raise OSError(EMFILE, "Too many open files")

        database.connect = fail
        self.lose()
        self.until(lambda: failures)
        self.until(lambda: self.store.healthy)
        self.run_one()

    def test_an_idle_one_notices_by_itself(self) -> None:
        self.lose()
        self.until(lambda: self.losses)
        self.until(lambda: self.execute("SELECT id FROM process WHERE id = %s", self.store._database.owner))

    def open_store(self) -> SqlStore:
        store = super().open_store()
        place = Server(postgres.url_of(self.database), lease=2)
        store._place = store._database._server = place  # type: ignore[attr-defined]
        return store


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
        self.patch(pulse, "connect", lambda url, **named: mute if url == listen else connect(url, **named))
        self.patch(pulse, "POLL", 0.01)
        store = SqlStore(Server(postgres.url_of(self.database), listen), self.turns)
        due: list[Collection[str]] = []
        store.due = due.append
        store.open([], NOW)
        self.addCleanup(lambda: self.wait(store.close()))
        self.until(mute.asked.is_set)
        self.turns.catch_up()
        self.assertEqual(due, [["simulate"]])
        with self.logged() as lines:
            patched = self.patch(leash, "LONGEST", 0.1)
            self.until(lambda: any(line.startswith("Store cannot be listened to") for line in lines))
            patched.restore()
        self.assertIn("Store takes too long, and was cut off", lines)
        self.until(lambda: len(due) > 3)


class Silence(FaultTestCase):
    """Who is taken for dead, whatever the database's clock does."""

    def setUp(self) -> None:
        super().setUp()
        made: Any = Heart.__new__(Heart)
        made._server = Server(postgres.url_of(self.database), lease=LEASE)
        made._database = self.store._database
        made._heard = {}
        self.heart: Heart = made
        self.connection = psycopg.connect(postgres.url_of(self.database), autocommit=True)
        self.addCleanup(self.connection.close)

    def heard(self, ago: float) -> None:
        """Another process beats; so long ago, by the database's clock."""
        now = "extract(epoch FROM clock_timestamp())"
        self.connection.execute("DELETE FROM process WHERE id = 'other'")
        values = f"'other', {now} - {ago}, 'any'"
        self.connection.execute(f"INSERT INTO process (id, seen, version) VALUES ({values})".encode())

    def silent(self, now: float) -> list[str]:
        return [owner for owner, _ in self.heart._silent(self.connection, now)]

    def test_a_clock_that_makes_a_step_forward_takes_no_living_process_for_dead(self) -> None:
        for beat in range(20):
            self.heard(ago=100)
            self.assertEqual(self.silent(beat * LEASE / 4), [])
        last = 19 * LEASE / 4
        self.assertEqual(self.silent(last + LEASE * 0.49), [])
        self.assertEqual(self.silent(last + LEASE * 0.5), ["other"])

    def test_who_is_found_silent_at_the_start_has_a_few_seconds_however_long_the_lease(self) -> None:
        self.heart._server = Server("", lease=50.0)

        class Rows:
            """A connection to a server that has long been up."""

            def execute(self, *_: object) -> "Rows":
                return self

            def fetchall(self) -> list[tuple[str, float, bool]]:
                return [("other", seen[0], True)]

        seen = [1.0]
        self.connection.close()
        self.connection = cast(Any, Rows())
        self.assertEqual((self.silent(0), self.silent(COMING_BACK - 0.1)), ([], []))
        self.assertEqual(self.silent(COMING_BACK), ["other"])
        seen[0] = 2.0  # it lives, and beats
        self.assertEqual((self.silent(60), self.silent(84.9)), ([], []))
        self.assertEqual(self.silent(85), ["other"])

    def test_a_clock_that_makes_a_step_back_keeps_no_dead_process_alive(self) -> None:
        self.heard(ago=-1_000)
        self.assertEqual((self.silent(0), self.silent(LEASE * 0.99)), ([], []))
        self.assertEqual(self.silent(LEASE), ["other"])

    def test_who_beats_again_just_before_is_left_alone(self) -> None:
        self.heard(ago=100)
        self.silent(0)
        found = self.heart._silent(self.connection, LEASE)
        self.heard(ago=99)
        self.assertEqual(self.heart._reap(self.connection, found), 0)
        self.assertEqual(self.heart._reap(self.connection, self.heart._silent(self.connection, 9)), 0)
        found = self.heart._silent(self.connection, 9 + LEASE)
        self.assertEqual(self.heart._reap(self.connection, found), 1)


class Descriptors(FaultTestCase):
    """The threads beside the writer outlive a want of descriptors."""

    def test_they_try_again(self) -> None:
        refused: list[Any] = []
        for module in (heart, pulse):
            self.patch(module, "TRY_AGAIN", 0.01)
            self.patch(module, "connect", partial(self.refuse, module, module.connect, refused))
        store = self.open()
        self.addCleanup(lambda: self.wait(store.close()))
        sharing: Any = store._sharing
        self.until(lambda: len(refused) == 2)
        for thread in (sharing._pulse._thread, sharing._heart._thread):
            thread.join(0.1)
            self.assertTrue(thread.is_alive())

    def refuse(self, module: Any, connect: Any, refused: list[Any], *args: Any, **named: Any) -> Any:
        """Once."""
        if module not in refused:
            refused.append(module)
            raise OSError(EMFILE, "Too many open files")
        return connect(*args, **named)


class Suspects(BothOpen, FaultTestCase):
    """A task kills one process after the other, and is always somewhere else when these start again."""

    def test_it_is_charged_for_each_though_others_have_gone_on_with_it(self) -> None:
        task = self.run_one()
        statuses = []
        for attempt in (1, 2, 3):
            suspect = Suspect(task.task_id, attempt)
            self.other_goes_on(task)
            self.wait(self.open([suspect]).close())
            statuses.append(self.get(task).status)
        self.assertEqual(statuses, [RUNNING, RUNNING, FAILED])
        error = self.get(task).error
        self.assertEqual(error and error.type, "Crashed")
        self.assertIn((task.task_id, FAILED), self.changed_by_all())

    def other_goes_on(self, task: Task) -> None:
        self.wait(self.other._writer.call(lambda db, _: _orphan(db, task)))
        self.other.orphaned()
        self.assertEqual(len(self.wait(self.other.claim("simulate", 9, NOW)).tasks), 1)

    def recorders(self) -> Path:
        """Where the other process finds the flight recorders of those that are gone."""
        self.until_it_has_looked(self.other)
        path = Path(self.mktemp())
        self.other.abandoned = partial(abandoned, path)
        return path

    def test_those_who_go_on_charge_it_where_no_process_starts_again(self) -> None:
        path, task = self.recorders(), self.run_one()
        charged = []
        for attempt in (1, 2, 3):
            dying = FlightRecorder()
            self.assertTrue(dying.open_free(path))
            dying.swap(record(task.task_id, attempt))
            self.wait(self.other._writer.call(lambda db, _: _orphan(db, task)))
            self.other.orphaned()
            self.assertEqual(self.wait(self.other.claim("simulate", 9, NOW)).left[-1].task_id, task.task_id)
            charged.append(self.get(task).crashes)  # not while it lives
            dying.close()
            self.assertFalse(self.wait(self.other.settle()))
            charged.append(self.get(task).crashes)
        self.assertEqual((charged, self.get(task).status), ([0, 1, 1, 2, 2, 3], FAILED))
        self.assertEqual(self.counted(self.other, FAILED), 1)
        self.assertEqual(abandoned(path), [])

    def test_it_is_charged_also_where_somebody_has_gone_on_with_it_before(self) -> None:
        path, task = self.recorders(), self.run_one()
        charged = []
        for attempt in (1, 2, 3):
            self.dies_in(path, task, attempt)
            self.other_goes_on(task)
            self.assertFalse(self.wait(self.other.settle()))
            charged.append(self.get(task).crashes)
        self.assertEqual((charged, self.get(task).status), ([1, 2, 3], FAILED))

    def test_one_death_is_charged_once_though_its_commit_has_lost_its_answer(self) -> None:
        path, task = self.recorders(), self.run_one()
        self.wait(self.other._writer.call(lambda db, _: _orphan(db, task)))
        self.dies_in(path, task, 1)
        commit = self.other._database.commit

        def lost(*given: Any) -> int:
            commit(*given)
            self.patch(self.other._database, "commit", commit)
            raise OperationalError("COMMIT", {}, Exception("lost"), connection_invalidated=True)

        self.patch(self.other._database, "commit", lost)
        self.assertIsInstance(self.refused(self.other.settle), OutcomeUnknown)
        self.until(lambda: self.other.healthy)
        self.assertFalse(self.wait(self.other.settle()))
        self.assertEqual(self.get(task).crashes, 1)

    def dies_in(self, path: Path, task: Task, attempt: int) -> None:
        dying = FlightRecorder()
        self.assertTrue(dying.open_free(path))
        dying.swap(record(task.task_id, attempt))
        dying.close()

    def changed_by_all(self) -> list[tuple[str, str]]:
        commits = self.wait(self.store.events(1, 100))
        return [(one.task_id, one.status) for _, news in commits for one in news if isinstance(one, Task)]

    def test_the_end_of_the_attempt_that_goes_on_forgives_nothing(self) -> None:
        task = self.run_one()
        self.other_goes_on(task)
        (again,) = [one for one in self.started if one.attempt == 2]
        self.wait(self.open([Suspect(task.task_id, 1)]).close())
        self.wait(self.other.end(complete(again, "1", NOW), NOW))
        self.assertEqual(self.get(task).crashes, 1)


class Troubles(FaultTestCase):
    """The server itself is in trouble."""

    def test_a_locked_table_refuses_what_would_wait_and_everything_goes_on_after(self) -> None:
        running = self.run_one()
        other = self.outside()
        other.execute("LOCK TABLE task")
        first, second = self.store.add([self.new()], []), self.store.add([self.new()], [])
        end = self.store.end(complete(running, "1", NOW), NOW)
        self.assertNotIsInstance(self.refused(lambda: first), OutcomeUnknown)
        self.assertRaises(Unavailable, self.wait, second)
        self.assertFalse(self.store.healthy)
        with self.logged() as lines:
            self.refused(lambda: self.store.get(running.task_id))
        self.assertNotIn("Store works again", lines)
        self.assertRaises(Unavailable, self.store.add, [self.new()], [])
        other.rollback()
        self.assertEqual(self.wait(end), COMPLETED)
        self.run_one()

    def test_who_waits_too_long_for_his_turn_to_tell_has_accepted_nothing(self) -> None:
        other = self.outside()
        other.execute(f"SELECT pg_advisory_xact_lock({ONE_AFTER_ANOTHER})")
        task = self.new()
        self.assertNotIsInstance(self.refused(lambda: self.store.add([], [task])), OutcomeUnknown)
        other.rollback()
        self.until_healthy()
        self.assertIsNone(self.wait(self.store.get(task.task_id)))
        self.run_one()

    def test_who_has_waited_too_long_for_his_transaction_is_refused_and_an_end_is_not(self) -> None:
        task = self.run_one()
        self.until_it_has_looked(self.store)
        now = time.monotonic()
        for module in (backlog, writer):
            self.patch(module, "monotonic", lambda: now)
        with self.transaction_under_way():
            end = self.store.end(complete(task, "1", NOW), NOW)
            late = self.store.add([self.new()], []), self.store.cancel(task.task_id, NOW)
            self.turns.catch_up()
            now += LATE / 2
            added = self.store.add([self.new()], [])
            self.turns.catch_up()
            now += LATE * 3 / 4
        for asked in late:
            refusal = self.refused(partial(lambda deferred: deferred, asked))
            self.assertNotIsInstance(refusal, OutcomeUnknown)
        self.wait(added)
        self.assertIs(self.wait(end), COMPLETED)
        self.assertEqual((self.wait(self.store.count()), self.store.healthy), (1, True))

    def test_terminated_connections_are_opened_again(self) -> None:
        task = self.run_one()
        self.get(task)
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        self.assertEqual(self.get(task).status, RUNNING)
        self.assertEqual(self.wait(self.store.end(complete(task, "1", NOW), NOW)), COMPLETED)
        self.until_healthy()
        self.run_one()

    def test_a_commit_that_reached_no_replica_is_no_202(self) -> None:
        self.addCleanup(self.wait_for_replicas, "")
        self.wait_for_replicas("a_replica_that_is_gone")
        self.assertIsInstance(self.refused(lambda: self.store.add([], [self.new()])), OutcomeUnknown)
        self.assertFalse(self.store.healthy)
        self.wait_for_replicas("")
        self.until_healthy()
        # It is on disk here, and nobody runs it: so it is let go of.
        claim = self.claim
        self.until(lambda: self.wait(self.store.count()) == 1 and claim().tasks)

    def test_a_wait_for_replicas_that_somebody_cancels_is_no_202_either(self) -> None:
        self.addCleanup(self.wait_for_replicas, "")
        self.wait_for_replicas("a_replica_that_is_gone")
        added = self.store.add([self.new()], [])
        waiting = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'"
        self.until(lambda: self.execute(f"SELECT pg_cancel_backend(pid) {waiting}"))
        self.assertIsInstance(self.refused(lambda: added), OutcomeUnknown)

    def wait_for_replicas(self, names: str) -> None:
        if names:
            self.until_it_has_looked(self.store)
        self.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.execute("SELECT pg_reload_conf()")
        self.until(lambda: self.execute("SHOW synchronous_standby_names")[0] == names)


class LostAnswers(FaultTestCase):
    """There is a network between."""

    def open_store(self) -> SqlStore:
        if not hasattr(self, "proxy"):
            self.database = postgres.new_database()
            self.addCleanup(postgres.drop, self.database)
            self.proxy = Proxy(postgres.address())
            self.proxy.__enter__()
            self.addCleanup(self.proxy.__exit__)
        return SqlStore(Server(postgres.url_by(self.proxy.port, self.database)), self.turns, try_again=0.01)

    def test_a_task_of_which_nobody_knows_whether_it_started_is_let_go_of(self) -> None:
        for late in (0.0, 0.5):
            self.proxy.losing, self.proxy.late = 1, late
            task = self.new()
            refusal = self.refused(partial(self.store.add, [], [task]))
            self.assertIsInstance(refusal, OutcomeUnknown)
            self.until_healthy()
            self.wait(self.store._writer.call(lambda _db, _news: None))
            self.assertEqual((self.get(task).status, self.get(task).attempt), (RETRYING, 1))
            self.assertEqual(self.started, [])
            self.assertEqual([one.attempt for one in self.claim().tasks], [2])
            self.started.clear()

    def test_a_claim_of_which_nobody_knows_is_let_go_of_too(self) -> None:
        task = self.new()
        self.add(task)
        self.proxy.losing = 1
        self.assertRaises(OutcomeUnknown, self.claim)
        self.until_healthy()
        self.assertEqual([one.attempt for one in self.claim().tasks], [2])

    def test_an_end_whose_answer_was_lost_counts_once(self) -> None:
        task = self.run_one()
        self.proxy.losing = 1
        self.assertEqual(self.wait(self.store.end(complete(task, "1", NOW), NOW)), COMPLETED)
        self.assertEqual(self.history(task), [("accepted", 0), ("running", 1), ("completed", 1)])

    def test_a_delete_of_which_nobody_knows_is_found_out_about(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        self.proxy.losing = 1
        self.assertRaises(OutcomeUnknown, self.wait, self.store.delete(task.task_id))
        self.until_healthy()
        self.assertIsNone(self.wait(self.store.get(task.task_id)))

    def test_a_server_that_hangs_keeps_nobody_waiting(self) -> None:
        task = self.run_one()
        self.get(task)
        self.proxy.hold()
        began = time.monotonic()
        asked = [self.store.add([self.new()], []), self.store.cancel(task.task_id, NOW)]
        asked += [self.store.get(task.task_id) for _ in range(9)]
        for one in asked:
            self.assertRaises(Unavailable, self.wait, one)
        self.assertLess(time.monotonic() - began, SOON)
        self.assertFalse(self.store.healthy)
        self.proxy.go_on()
        self.until_healthy()
        self.until(lambda: self.is_readable(task))
        self.assertEqual(self.wait(self.store.cancel(task.task_id, NOW)).cancel_requested, True)

    def is_readable(self, task: Task) -> bool:
        try:
            return self.get(task).status is RUNNING
        except Unavailable:
            return False

    def test_a_slow_network_refuses_or_accepts_in_time(self) -> None:
        self.proxy.delay = 0.5
        self.refused(lambda: self.store.add([self.new()], []))
        self.proxy.delay = 0
        self.until_healthy()
        self.run_one()


class ManyProcesses(SynchronousTestCase):
    """Short forms of what `tests.faults.cluster` tries at length."""

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.root.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.root)

    def test_nothing_is_lost_when_they_are_killed(self) -> None:
        given = "--processes 2 --seconds 4 --rate 60 --lease 2 --kill-every 1.5 --seed 1"
        run = cluster.run(self.root, given)
        self.assertEqual(run.violations, [])
        self.assertGreater(run.troubles, 0)

    def test_nothing_is_lost_when_the_server_is_in_trouble(self) -> None:
        given = "--processes 2 --seconds 5 --rate 60 --seed 1"
        troubles = "--restart-every 3 --terminate-every 0.9 --lose-every 0.7"
        run = cluster.run(self.root, f"{given} {troubles}")
        self.assertEqual(run.violations, [])
        self.assertGreater(run.troubles, 5)


class Starts(SynchronousTestCase):
    """Many processes start at once on an empty database."""

    def test_the_schema_is_made_once(self) -> None:
        database = f"{postgres.TEMPLATE}_empty"
        # Without an encoding, as servers are made where there is no locale.
        how = "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
        postgres.execute(f"CREATE DATABASE {database} {how}")
        self.addCleanup(postgres.drop, database)
        code = (
            "import sys; from asynctask.pgserver import Server; from asynctask.store import SqlStore;"
            "from tests.turns import Turns; turns = Turns();"
            "store = SqlStore(Server(sys.argv[1]), turns); store.open([], 1.0); print(store.epoch);"
            "turns.outcome(store.close())"
        )
        command = [sys.executable, "-c", code, postgres.url_of(database)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(10)
        ]
        epochs = {process.communicate()[0] for process in processes}
        self.assertEqual({process.returncode for process in processes}, {0})
        self.assertEqual(len(epochs), 1)

    def test_a_database_that_cannot_keep_all_text_is_refused_in_a_sentence(self) -> None:
        refused = self.assertRaises(StartError, self.open, "LATIN1")
        self.assertIn("keeps text as LATIN1; make one with ENCODING 'UTF8'", str(refused))
        place = Server(postgres.url_of(f"{postgres.TEMPLATE}_latin1"))
        self.assertEqual(str(self.assertRaises(StartError, show_secret, place)), str(refused))
        for encoding in ("UTF8", "SQL_ASCII"):
            self.open(encoding)

    def open(self, encoding: str) -> None:
        """Open a store, and close it, in a new database of this encoding."""
        database = f"{postgres.TEMPLATE}_{encoding.lower()}"
        postgres.execute(f"CREATE DATABASE {database} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        self.addCleanup(postgres.drop, database)
        turns = Turns()
        store = SqlStore(Server(postgres.url_of(database)), turns)
        store.open([], NOW)
        turns.outcome(store.close())


def _failing(state: str, times: int = 1) -> Callable[[Connection, list[News]], int]:
    """What fails like a transaction that met another one, so often at first; tells how often it ran."""
    runs: list[str] = []

    def run(connection: Connection, _news: list[News]) -> int:
        runs.append(state)
        if len(runs) <= times:
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")
        return len(runs)

    return run


def _noting(order: list[str], name: str) -> Callable[[Connection, list[News]], None]:
    return lambda _connection, _news: order.append(name)


def _let_go(task: Task, owner: str, connection: Connection, _news: list[News]) -> list[Task]:
    return [*let_go(connection, [task], owner)]


def _orphan(connection: Connection, task: Task) -> None:
    """Let the process that runs it be gone."""
    connection.exec_driver_sql("UPDATE task SET owner = 'gone' WHERE task_id = %s", (task.task_id,))
