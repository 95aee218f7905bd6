"""When PostgreSQL fails, or transactions of many processes meet."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from asynctask import backlog, cutoff, heartbeat, sharedstatements, statements, writer
from asynctask.backlog import LARGEST
from asynctask.batches import End
from asynctask.istore import Claim, Key
from asynctask.metrics import Metrics
from asynctask.model import (
    ACCEPTED,
    COMPLETED,
    FAILED,
    RETRYING,
    RUNNING,
    InvalidTransition,
    News,
    Task,
    complete,
    interrupt,
)
from asynctask.pgbatches import ONE_AFTER_ANOTHER
from asynctask.pgserver import Server
from asynctask.postgres import BRIEFLY, IDLE
from asynctask.problems import OutcomeUnknown, StartError, Unavailable
from asynctask.recovery import unrun_starts
from asynctask.shownsecret import show as show_secret
from asynctask.store import SqlStore
from asynctask.writer import ENOUGH, LATE, REPEATS
from tests import postgres
from tests.fault_case import PATIENCE, SOON, FaultTestCase
from tests.faults.proxy import Proxy
from tests.store_contract import NOW
from tests.test_postgres import BothOpen
from tests.turns import Turns

WARN: Final = "DO $$ BEGIN RAISE WARNING 'deprecated'; END $$"


class Collisions(FaultTestCase):
    """Transactions of many processes meet."""

    patient = True

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

    def test_who_counts_what_runs_of_a_kind_waits_until_nobody_else_does(self) -> None:
        self.add(self.new())
        other = self.outside()
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('simulate', 0))")
        claim = self.store.claim("simulate", 9, NOW, 2)
        self.until_one_waits()
        other.commit()
        self.assertEqual(len(self.wait(claim).tasks), 1)


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

    patient = True

    def test_a_task_that_is_just_retried_stays(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        with self.outside() as retrying:
            retrying.execute("UPDATE task SET status = 'accepted', finished_at = NULL")
            forgetting = self.store.forget(NOW + 1, NOW)
            self.until(lambda: self.store._writer._backlog.waits is False)
            time.sleep(0.1)  # for a DELETE that waits for the row
        self.wait(forgetting)
        self.assertIs(self.get(task).status, ACCEPTED)

    def test_nor_is_a_key_forgotten_that_is_just_given_again(self) -> None:
        self.wait(self.store.add_once([self.new()], [], Key("k", "digest", "answer", NOW - 1), NOW - 2))
        with self.outside() as renewing:
            renewing.execute(f"UPDATE idempotency SET expires_at = {NOW + 9}".encode())
            forgetting = self.store.forget(NOW - 9, NOW)
            self.until(lambda: self.store._writer._backlog.waits is False)
            time.sleep(0.1)
        self.wait(forgetting)
        self.assertEqual(self.execute("SELECT count(*) FROM idempotency"), (1,))


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

    patient = True

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

    def test_nor_is_a_new_task_to_blame_for_that(self) -> None:
        self.execute("ALTER TABLE event RENAME TO away")
        with self.logged() as lines:
            self.assertRaises(Unavailable, self.add, self.new())
            self.assertFalse(self.store.healthy)
            self.until(lambda: "Store still fails" in lines)
        self.execute("ALTER TABLE away RENAME TO event")
        self.until_healthy()
        self.add(self.new())

    def test_what_one_call_lacks_is_no_reason_to_refuse_the_others(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        missing = statements.DELETE.where(text("nowhere = 1"))
        patched = self.patch(statements, "DELETE", missing)
        with self.logged() as lines:
            for _ in range(3):
                self.assertRaises(Unavailable, self.wait, self.store.delete(task.task_id))
                self.add(self.new())
        self.assertEqual(
            [line for line in lines if line.startswith("Store")], ["Store refuses a statement"]
        )
        patched.restore()
        self.wait(self.store.delete(task.task_id))

    def test_numbers_of_events_that_are_taken_are_passed_over(self) -> None:
        """As after a switch to a server to which only the tables were replicated."""
        task = self.run_one()
        for _ in range(3):
            self.add(self.new())
        behind = "SELECT setval('event_seq_seq', 1, false)"
        self.execute(behind)
        end = self.store.end(complete(task, "1", NOW), NOW)
        self.assertIs(self.wait(end), COMPLETED)
        self.until_healthy()
        self.execute(behind)
        self.assertRaises(Unavailable, self.add, self.new())
        self.until_healthy()
        self.add(self.new())
        self.wait(self.store.close())
        self.execute(behind)
        self.store = self.open()
        self.add(self.new())


class Brief(FaultTestCase):
    """A process that is frozen in the middle of a look at the database."""

    def test_who_rests_in_a_transaction_does_not_hold_up_the_others(self) -> None:
        self.add(self.new())
        other = self.open()
        self.addCleanup(lambda: self.wait(other.close()))
        locked, go_on = threading.Event(), threading.Event()

        def rest(connection: Connection, _news: list[News]) -> None:
            connection.execute(sharedstatements.LOCK_KIND, {"of_kind": "simulate"})
            locked.set()
            go_on.wait(PATIENCE)
            connection.execute(statements.EPOCH)

        resting = self.store._writer.call(rest)
        self.until(locked.is_set)
        self.assertEqual(len(self.wait(other.claim("simulate", 1, NOW, 1)).tasks), 1)
        go_on.set()
        self.assertRaises(Unavailable, self.wait, resting)
        self.until_healthy()

    def test_the_server_does_not_wait_for_it(self) -> None:
        for said in (heartbeat._LIGHTLY, BRIEFLY.encode()):
            with self.outside() as connection:
                connection.execute(said)
                time.sleep(IDLE + 0.2)
                with self.assertRaises(psycopg.errors.IdleInTransactionSessionTimeout):
                    connection.execute("SELECT 1")


class Troubles(FaultTestCase):
    """The server itself is in trouble."""

    def let_the_server_end_it(self) -> None:
        """Its own limit comes first, however slow this machine is: it tells that nothing was done."""
        self.patch(cutoff, "LONGEST", 2 * SOON)

    def test_a_locked_table_refuses_what_would_wait_and_everything_goes_on_after(self) -> None:
        self.let_the_server_end_it()
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
        self.let_the_server_end_it()
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

    def calls_that_take(
        self, part: float, *orders: str, waited: float = 0.0
    ) -> tuple[list[Deferred[str]], Deferred[Claim]]:
        """Calls that have waited together, each of which takes that part of the time; and a claim."""
        self.until_it_has_looked(self.store)
        now = time.monotonic()
        for module in (backlog, writer):
            self.patch(module, "monotonic", lambda: now)

        def take(_connection: Connection, _news: list[News]) -> str:
            nonlocal now
            now += part * ENOUGH
            return "done"

        with self.transaction_under_way():
            calls = [self.store._writer.call(take, order=order) for order in orders]
            claimed = self.store.claim("simulate", 1, NOW)
            self.turns.catch_up()
            now += waited
        return calls, claimed

    def assert_no_time(self, call: Deferred[str]) -> None:
        refusal = self.refused(partial(lambda deferred: deferred, call))
        self.assertNotIsInstance(refusal, OutcomeUnknown)

    def test_calls_for_which_a_transaction_has_no_time_are_refused_and_the_others_done(self) -> None:
        (first, second, late), claimed = self.calls_that_take(0.6, "key 1", "key 2", "key 3")
        self.assertEqual([self.wait(one) for one in (first, second)], ["done", "done"])
        self.assert_no_time(late)
        self.assertEqual((self.wait(claimed).tasks, self.store.healthy), ([], True))
        self.run_one()

    def test_what_has_a_transaction_of_its_own_is_left_some_time(self) -> None:
        (first, late, of_task), _claimed = self.calls_that_take(0.6, "key 1", "key 2", "task 1")
        self.assertEqual([self.wait(one) for one in (first, of_task)], ["done", "done"])
        self.assert_no_time(late)

    def test_who_has_waited_long_is_not_refused_before_anything_has_taken_time(self) -> None:
        calls, _claimed = self.calls_that_take(0.0, "key 1", "task 1", waited=0.9 * LATE)
        self.assertEqual([self.wait(one) for one in calls], ["done", "done"])

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
        quiet = self.store._writer.call(lambda db, _: db.exec_driver_sql("SET client_min_messages = error"))
        self.wait(quiet)  # as a role may have it
        self.wait_for_replicas("a_replica_that_is_gone")
        added = self.store.add([self.new()], [])
        waiting = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'"
        self.until(lambda: self.execute(f"SELECT pg_cancel_backend(pid) {waiting}"))
        self.assertIsInstance(self.refused(lambda: added), OutcomeUnknown)

    def test_what_a_reader_is_warned_of_while_somebody_commits_is_nothing_to_him(self) -> None:
        database: Any = self.store._database
        run = database._run

        def warned(connection: Connection, *statements: str) -> Any:
            if "COMMIT" in statements:
                database.read(lambda db: db.exec_driver_sql(WARN).close(), time.monotonic())
            return run(connection, *statements)

        self.patch(database, "_run", warned)
        self.add(self.new())

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
        return SqlStore(
            Server(postgres.url_by(self.proxy.port, self.database)),
            self.turns,
            metrics=Metrics(),
            try_again=0.01,
        )

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
        self.until_it_has_looked(self.store)
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
        self.until_it_has_looked(self.store)
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
            "from asynctask.metrics import Metrics; from tests.turns import Turns; turns = Turns();"
            "store = SqlStore(Server(sys.argv[1]), turns, metrics=Metrics());"
            "store.open([], 1.0); print(store.epoch);"
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
        store = SqlStore(Server(postgres.url_of(database)), turns, metrics=Metrics())
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
    return [*unrun_starts(connection, [task], owner)]
