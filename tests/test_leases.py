"""Processes that go, fall silent or come back: whose tasks are whose."""

import threading
from collections.abc import Collection
from errno import EMFILE
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from twisted.logger import capturedLogs

from asynctask import polling, sharedstatements
from asynctask.heartbeat import COMING_BACK, Heartbeat
from asynctask.model import CANCELLED, COMPLETED, FAILED, RETRYING, RUNNING, News, Task, complete
from asynctask.pgbatches import ONE_AFTER_ANOTHER
from asynctask.pgserver import Server, connect
from asynctask.problems import OutcomeUnknown, Unavailable
from asynctask.recorder import FlightRecorder, Suspect, abandoned, record
from asynctask.recovery import Gone, gone_owners
from asynctask.sharedstatements import SETTLED
from asynctask.store import SqlStore
from tests import postgres
from tests.fault_case import LEASE, PATIENCE, FaultTestCase
from tests.store_contract import NOW
from tests.test_postgres import BothOpen


class Orphans(BothOpen, FaultTestCase):
    """Many processes want what one of them has left."""

    patient = True

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
            self.wait(self.store.add([], [self.new() for _ in range(SETTLED + 1)]))
            self.execute("UPDATE task SET owner = 'gone', cancel_requested = true WHERE status = 'running'")
            self.other.orphaned()
            first, second = [self.wait(self.other.claim("simulate", limit, NOW)) for _ in range(2)]
            self.assertEqual((len(first.left), first.more, first.orphans), (SETTLED, True, True))
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
        given = {"of_kind": "simulate", "limit": 9, "gone": ["gone"]}
        slowly = sharedstatements.ABANDONED.where(text("pg_sleep(0.5)::text = ''"))

        def look(connection: Connection, _news: list[News]) -> list[str]:
            return [row.task_id for row in connection.execute(slowly, given)]

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

        self.patch(polling, "connect", late)
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


class WhatIsShared(BothOpen, FaultTestCase):
    """What two processes have of one database."""

    patient = True

    def test_only_attempts_of_its_own_are_strays_and_let_go_of(self) -> None:
        mine, known, others, over = self.run_one(), self.run_one(), self.run_one(), self.run_one()
        self.wait(self.store.end(complete(over, "1", NOW), NOW))
        self.execute(
            "UPDATE task SET owner = %s WHERE task_id = %s", self.other._database.owner, others.task_id
        )
        self.store.runs = lambda task_id, _attempt: task_id == known.task_id
        self.assertEqual(self.wait(self.store.strays()), [(mine.task_id, 1)])
        unknown = [(task.task_id, 1) for task in (mine, others, over)] + [(known.task_id, 2)]
        self.wait(self.store.release(unknown))
        found = [self.get(task) for task in (mine, known, others, over)]
        self.assertEqual([task.status for task in found], [RETRYING, RUNNING, RUNNING, COMPLETED])
        self.assertEqual((found[0].failures, found[0].attempt), (0, 1))
        self.assertEqual(self.wait(self.store.strays()), [])

    def test_what_is_being_started_is_none_though_the_answer_to_its_commit_comes_late(self) -> None:
        known: list[str] = []
        self.store.runs = lambda task_id, _attempt: task_id in known
        self.store.started = lambda tasks: known.extend(task.task_id for task in tasks)
        commit = self.store._database.commit
        answered = threading.Event()

        def late(*given: Any) -> int:
            seq = commit(*given)
            answered.wait(PATIENCE)
            return seq

        self.patch(self.store._database, "commit", late)
        adding = self.store.add([], [self.new()])
        self.until(lambda: self.execute("SELECT 1 FROM task"))
        found = self.store.strays()
        answered.set()
        self.wait(adding)
        self.assertEqual((self.wait(found), len(known)), ([], 1))

    def test_who_is_gone_is_found_without_a_look_at_each_task(self) -> None:
        for owner in ("gone", "gone", self.other._database.owner, "a"):
            self.run_one()
            self.execute("UPDATE task SET owner = %s WHERE owner = %s", owner, self.store._database.owner)
        self.run_one()

        def ask(db: Connection, _news: object) -> list[str]:
            return gone_owners(db)

        self.assertEqual(self.wait(self.store._writer.call(ask)), ["a", "gone"])
        self.execute("UPDATE task SET status = 'retrying'")
        self.assertEqual(self.wait(self.store._writer.call(ask)), [])

    def test_who_waited_for_his_turn_counts_what_came_meanwhile(self) -> None:
        with psycopg.connect(postgres.url_of(self.database), autocommit=True) as holder:
            holder.execute(f"SELECT pg_advisory_lock({ONE_AFTER_ANOTHER})")
            added = [store.add([self.new()], []) for store in (self.store, self.other)]
            waiting = (
                "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
                "WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
            )
            self.until(lambda: self.execute(waiting) == (2,))
            holder.execute("SELECT pg_advisory_unlock_all()")
            for one in added:
                self.wait(one)
        most, all_of_them = self.execute("SELECT max(upto), sum(length(body)) FROM event")
        self.assertEqual(most, all_of_them)

    def test_times_are_told_exactly_whatever_the_database_has_otherwise(self) -> None:
        self.execute(f'ALTER DATABASE "{self.database}" SET extra_float_digits = 0')
        other = self.open()
        self.addCleanup(lambda: self.wait(other.close()))

        def ask(db: Connection, *_: object) -> Any:
            return db.exec_driver_sql("SHOW extra_float_digits").scalar_one()

        self.assertEqual(self.wait(other._writer.call(ask)), "1")
        self.assertEqual(self.wait(other._read(ask)), "1")


class Silence(FaultTestCase):
    """Who is taken for dead, whatever the database's clock does."""

    def setUp(self) -> None:
        super().setUp()
        made: Any = Heartbeat.__new__(Heartbeat)
        made._server = Server(postgres.url_of(self.database), lease=LEASE)
        made._database = self.store._database
        made._heard = {}
        self.heartbeat: Heartbeat = made
        self.connection = psycopg.connect(postgres.url_of(self.database), autocommit=True)
        self.addCleanup(self.connection.close)

    def heard(self, ago: float) -> None:
        """Another process beats; so long ago, by the database's clock."""
        now = "extract(epoch FROM clock_timestamp())"
        self.connection.execute("DELETE FROM process WHERE id = 'other'")
        values = f"'other', {now} - {ago}, 'any'"
        self.connection.execute(f"INSERT INTO process (id, seen, version) VALUES ({values})".encode())

    def silent(self, now: float) -> list[str]:
        return [owner for owner, _ in self.heartbeat._silent(self.connection, now)]

    def test_a_clock_that_makes_a_step_forward_takes_no_living_process_for_dead(self) -> None:
        for beat in range(20):
            self.heard(ago=100)
            self.assertEqual(self.silent(beat * LEASE / 4), [])
        last = 19 * LEASE / 4
        self.assertEqual(self.silent(last + LEASE * 0.49), [])
        self.assertEqual(self.silent(last + LEASE * 0.5), ["other"])

    def test_who_is_found_silent_at_the_start_has_a_few_seconds_however_long_the_lease(self) -> None:
        self.heartbeat._server = Server("", lease=50.0)

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
        found = self.heartbeat._silent(self.connection, LEASE)
        self.heard(ago=99)
        self.assertEqual(self.heartbeat._reap(self.connection, found), [])
        self.assertEqual(
            self.heartbeat._reap(self.connection, self.heartbeat._silent(self.connection, 9)), []
        )
        found = self.heartbeat._silent(self.connection, 9 + LEASE)
        self.assertEqual(self.heartbeat._reap(self.connection, found), ["other"])


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
            with self.logged() as lines:
                self.assertFalse(self.wait(self.other.settle()))
            self.assertIn("A process died while it was at work on a task", lines)
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

    def test_it_is_charged_later_where_that_could_not_be_committed(self) -> None:
        path, task = self.recorders(), self.run_one()
        self.wait(self.other._writer.call(lambda db, _: _orphan(db, task)))
        self.dies_in(path, task, 1)
        with self.outside() as other:
            other.execute("SELECT 1 FROM task FOR UPDATE")
            self.assertIs(type(self.refused(self.other.settle)), Unavailable)
        self.until(lambda: self.other.healthy)
        self.assertFalse(self.wait(self.other.settle()))
        self.assertEqual(self.get(task).crashes, 1)

    def test_who_follows_it_is_told_of_no_charge_that_changes_nothing(self) -> None:
        task = self.run_one()
        self.other_goes_on(task)
        told = self.changed_by_all()
        self.wait(self.open([Suspect(task.task_id, 1)]).close())
        self.assertEqual((self.get(task).crashes, self.changed_by_all()), (1, told))

    def test_they_are_the_same_where_the_transaction_is_made_again(self) -> None:
        path, task = self.recorders(), self.run_one()
        self.dies_in(path, task, 1)
        gone = Gone(partial(abandoned, path))
        self.addCleanup(gone.close, None)
        self.assertEqual([gone.suspects(), gone.suspects()], [[Suspect(task.task_id, 1)]] * 2)

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


def _orphan(connection: Connection, task: Task) -> None:
    """Let the process that runs it be gone."""
    connection.exec_driver_sql("UPDATE task SET owner = 'gone' WHERE task_id = %s", (task.task_id,))
