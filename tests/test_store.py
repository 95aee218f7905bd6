"""`SqlStore` keeps to the contract, and to its own promises when SQLite fails."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import OperationalError
from twisted.trial.unittest import SynchronousTestCase

from asynctask import backlog, batches, statements
from asynctask.backlog import FEWEST, LONGEST_WAIT
from asynctask.database import BUSY_LOG, Sqlite, _driver_of
from asynctask.istore import Key, Known
from asynctask.live import Live
from asynctask.migrations import upgrade
from asynctask.model import (
    ACCEPTED,
    COMPLETED,
    FAILED,
    RETRYING,
    RUNNING,
    Error,
    News,
    OutcomeUnknown,
    Progress,
    Query,
    Status,
    Task,
    Unavailable,
    after_failure,
    complete,
    fail,
)
from asynctask.reading import page_of
from asynctask.rows import ENDED_COLUMNS, changed_row
from asynctask.sqlite import Place, StartError
from asynctask.store import SqlStore
from tests.store_changes_contract import ChangesContract
from tests.store_contract import NOW, StoreContract, StoreTestCase
from tests.store_events_contract import EventsContract, brief
from tests.turns import PATIENCE


class OnFile(StoreTestCase):
    """In a file of the test's own."""

    def open_store(self) -> SqlStore:
        if not hasattr(self, "path"):
            self.path = Path(self.mktemp()).absolute()
        return SqlStore(Place(self.path, "off"), self.turns, busy=0.01, try_again=0.01)


class SqliteStore(StoreContract, ChangesContract, EventsContract, OnFile):
    """In a file."""


class SqliteTroubleTests(OnFile):
    """When the database fails, nothing that was refused runs, and nothing that was done is lost."""

    def fail_commits(self, times: int, *, reach_disk: bool = False) -> None:
        """Let COMMIT fail so often; ``reach_disk``: the data are there after all."""
        left = [times]

        def commit(connection: Connection) -> None:
            if left[0] > 0:
                left[0] -= 1
                if reach_disk:
                    connection.exec_driver_sql("COMMIT")
                raise OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))

        database: Any = self.store._database
        event.listen(database._writing, "commit", commit)

    def test_a_failed_commit_is_refused_and_leaves_nothing(self) -> None:
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.add, self.new("lost"))
        self.add(self.new("kept"))
        self.assertEqual(self.names(), ["kept"])

    def test_a_failed_commit_that_reached_the_disk_is_taken_back(self) -> None:
        self.fail_commits(1, reach_disk=True)
        task = self.new("lost")
        error = self.assertRaises(Unavailable, self.add, task)
        self.assertEqual(error.type, "about:blank")
        self.assertIsNone(self.wait(self.store.get(task.task_id)))

    def test_a_commit_of_which_nothing_is_known_says_so_and_is_taken_back_later(self) -> None:
        self.fail_commits(2, reach_disk=True)
        task = self.new("perhaps")
        self.assertRaises(OutcomeUnknown, self.add, task)
        self.assertFalse(self.store.healthy)
        self.recover()
        self.assertIsNone(self.wait(self.store.get(task.task_id)))

    def kept(self) -> list[tuple[int, list[str]]]:
        """What is kept of each commit, which has to be what was told."""
        found = self.wait(self.store.events(1, 99))
        told = [(seq, [brief(one) for one in news]) for seq, news in found]
        self.assertEqual([(seq, [brief(one) for one in news]) for seq, news in self.commits], told)
        return told

    def test_a_commit_that_failed_tells_nothing(self) -> None:
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.add, self.new("lost"))
        self.add(self.new("kept"))
        self.assertEqual(self.kept(), [(1, ["accepted 1"])])

    def test_tasks_of_a_commit_that_came_back_are_told_and_told_to_be_gone(self) -> None:
        self.fail_commits(1, reach_disk=True)
        self.assertRaises(Unavailable, self.wait, self.store.add([self.new()], [self.new()]))
        self.add(self.new("kept"))
        came_back = ["accepted 1", "accepted 1", "running 2"]
        self.assertEqual(self.kept(), [(1, came_back), (2, ["deleted"] * 2), (3, ["accepted 1"])])

    def test_what_came_back_is_told_when_the_store_works_again(self) -> None:
        self.add(self.new("before"))
        self.fail_commits(2, reach_disk=True)
        self.assertRaises(OutcomeUnknown, self.add, self.new("perhaps"))
        self.recover()
        self.add(self.new("kept"))
        self.assertEqual(self.kept()[1:], [(2, ["accepted 1"]), (3, ["deleted"]), (4, ["accepted 1"])])

    def test_an_end_that_came_back_is_told_once(self) -> None:
        task = self.run_one()
        self.fail_commits(1, reach_disk=True)
        self.assertIs(self.wait(self.store.end(complete(task, "1", NOW), NOW)), COMPLETED)
        self.assertEqual(self.kept(), [(1, ["accepted 1", "running 2"]), (2, ["completed 3"])])
        self.assertIs(self.get(task).status, COMPLETED)
        self.assertEqual(self.store.unfinished, 0)

    def test_what_came_back_is_not_told_again_at_the_next_failure(self) -> None:
        task = self.run_one()
        self.fail_commits(1, reach_disk=True)
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.add, self.new("lost"))
        self.assertEqual(self.kept(), [(1, ["accepted 1", "running 2"]), (2, ["completed 3"])])

    def test_a_failed_attempt_whose_end_came_back_has_its_next_one(self) -> None:
        task = self.run_one(retries=1)
        self.fail_commits(1, reach_disk=True)
        failed = after_failure(task, Error("E", "no"), NOW, 2.0)
        self.assertIs(self.wait(self.store.end(failed, NOW)), RETRYING)
        self.assertEqual([one.task_id for one in self.waiting], [task.task_id])

    def test_an_end_of_an_attempt_that_was_given_up_is_none_however_often_it_is_tried(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(after_failure(task, Error("E", "no"), NOW, 2.0), NOW))
        self.fail_commits(1)
        self.assertIsNone(self.wait(self.store.end(complete(task, "1", NOW), NOW)))

    def test_what_else_came_back_may_have_been_done_and_is_looked_for(self) -> None:
        self.fail_commits(1, reach_disk=True)
        self.assertRaises(OutcomeUnknown, self.add_once, [self.new("waits")], [])
        self.until_counted(1)
        self.assertIn("waits", [task.name for task in self.waiting])
        task = self.run_one()
        self.wait(self.store.end(fail(task, Error("E", "no"), NOW), NOW))
        del self.waiting[:]
        self.fail_commits(1, reach_disk=True)
        retried = self.store.retry(task.task_id, NOW)
        self.assertRaises(OutcomeUnknown, self.wait, retried)
        self.until_counted(2)
        self.assertEqual([one.task_id for one in self.waiting], [task.task_id])

    def until_counted(self, unfinished: int) -> None:
        """Wait until the store knows how many tasks have not ended."""
        until = monotonic() + PATIENCE
        while self.store.unfinished != unfinished:
            self.assertLess(monotonic(), until)
            self.wait(self.store.count())

    def test_a_failing_store_refuses_at_once(self) -> None:
        self.fail_commits(2)
        self.assertRaises(Unavailable, self.add, self.new())
        self.assertRaises(Unavailable, self.store.add, [self.new()], [])
        self.recover()
        self.add(self.new("kept"))
        self.assertEqual(self.names(), ["kept"])

    def test_an_end_waits_until_it_can_be_written(self) -> None:
        task = self.run_one()
        self.fail_commits(3)
        self.assertTrue(self.wait(self.store.end(complete(task, "1", NOW), NOW)))
        self.assertEqual(self.get(task).status, COMPLETED)

    def test_a_claim_that_may_have_been_committed_is_given_back(self) -> None:
        self.add(self.new())
        self.fail_commits(2, reach_disk=True)
        self.assertRaises(OutcomeUnknown, self.claim)
        self.recover()
        again = self.claim()
        self.assertEqual([task.status for task in again.tasks], [RUNNING])
        self.assertEqual(self.started, again.tasks)

    def test_a_claim_that_is_made_again_outlives_the_next_failure(self) -> None:
        self.add(self.new())
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.claim)
        (task,) = self.claim().tasks
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.add, self.new("lost"))
        self.assertIs(self.get(task).status, RUNNING)
        self.assertIs(self.wait(self.store.end(complete(task, "1", NOW), NOW)), COMPLETED)

    def add_once(self, waiting: list[Task], starting: list[Task]) -> Any:
        return self.wait(self.store.add_once(waiting, starting, Key("k", "d", "answer", NOW + 9), NOW))

    def test_a_key_whose_commit_failed_is_not_known(self) -> None:
        self.fail_commits(1)
        error = self.assertRaises(Unavailable, self.add_once, [self.new("lost")], [self.new("lost")])
        self.assertEqual((error.type, self.started, self.store.unfinished), ("about:blank", [], 0))
        self.assertIsNone(self.add_once([self.new("kept")], []))
        self.assertEqual((self.names(), self.store.unfinished), (["kept"], 1))

    def test_tasks_that_may_be_there_are_found_by_their_key_and_run(self) -> None:
        self.fail_commits(2, reach_disk=True)
        waits, starts = self.new("waits"), self.new("starts")
        self.assertRaises(OutcomeUnknown, self.add_once, [waits], [starts])
        self.assertEqual({task.name for task in self.waiting}, {"waits", "starts"})
        self.recover()
        self.assertEqual(self.add_once([self.new("again")], []), Known("d", "answer"))
        claim = self.claim()
        self.assertEqual({(task.name, task.attempt) for task in claim.tasks}, {("waits", 1), ("starts", 2)})
        self.assertEqual(self.started, claim.tasks)

    def test_tasks_that_were_not_there_after_all_are_accepted_by_the_next_try(self) -> None:
        self.fail_commits(2)
        self.assertRaises(OutcomeUnknown, self.add_once, [], [self.new("lost")])
        self.recover()
        self.assertIsNone(self.add_once([self.new("kept")], []))
        self.assertEqual(([task.name for task in self.claim().tasks], self.names()), (["kept"], ["kept"]))

    def test_changes_that_failed_leave_everything_as_it_was(self) -> None:
        task = self.run_one()
        self.assertIs(self.wait(self.store.end(fail(task, Error("E", ""), NOW), NOW)), FAILED)
        before = self.get(task)
        told = list(self.changed)
        for change in (
            lambda: self.store.retry(task.task_id, NOW),
            lambda: self.store.delete(task.task_id),
            lambda: self.store.forget(NOW + 1, NOW, 9),
        ):
            self.fail_commits(1)
            self.assertRaises(Unavailable, self.wait, change())
            self.assertEqual((self.get(task), self.store.unfinished), (before, 0))
        self.assertEqual((self.waiting, self.changed), ([], told))

    def test_a_cancel_that_failed_asks_nobody_to_end(self) -> None:
        task = self.run_one()
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.wait, self.store.cancel(task.task_id, NOW))
        self.assertEqual((self.cancelling, self.get(task).cancel_requested), ([], False))

    def test_a_failing_store_refuses_changes_at_once(self) -> None:
        self.fail_commits(2)
        self.assertRaises(Unavailable, self.add, self.new())
        key = Key("k", "d", "answer", NOW + 9)
        for change in (
            lambda: self.store.cancel("task_x", NOW),
            lambda: self.store.retry("task_x", NOW),
            lambda: self.store.delete("task_x"),
            lambda: self.store.forget(NOW, NOW, 9),
            lambda: self.store.add_once([self.new()], [], key, NOW),
        ):
            self.assertRaises(Unavailable, change)
        self.assertEqual(self.store.unfinished, 0)
        self.recover()

    def test_a_database_that_another_program_holds_is_waited_for_and_then_refused(self) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.assertRaises(Unavailable, self.add, self.new("lost"))
        self.recover()
        self.add(self.new("kept"))
        self.assertEqual(self.names(), ["kept"])

    def test_what_was_never_begun_is_surely_not_done(self) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            error = self.assertRaises(Unavailable, self.add, self.new("lost"))
        self.assertEqual(error.type, "about:blank")
        self.recover()

    def test_neighbours_of_a_bad_task_are_refused_where_the_database_fails_too(self) -> None:
        self.fail_commits(2)
        waits = [self.store.add([self.new(name)], []) for name in ("first", "\ud800", "third")]
        for wait in waits:
            self.assertRaises(Unavailable, self.wait, wait)
        self.recover()
        self.assertEqual(self.names(), [])

    def test_only_of_those_that_were_tried_the_outcome_is_unknown(self) -> None:
        self.fail_commits(2)
        waits = [self.store.add([self.new(name)], []) for name in ("first", "\ud800", "third")]
        types = [self.assertRaises(Unavailable, self.wait, wait).type for wait in waits]
        self.assertEqual(types, [OutcomeUnknown("").type, "about:blank", "about:blank"])
        self.recover()

    def test_a_database_that_cannot_be_opened_again_is_tried_again(self) -> None:
        connect, tries = self.store._database.connect, []

        def fail_once() -> Connection:
            tries.append(1)
            if len(tries) == 1:
                raise OperationalError("open", None, sqlite3.OperationalError("no file"))
            return connect()

        self.store._database.connect = fail_once  # type: ignore[method-assign]
        self.fail_commits(2)
        self.assertRaises(Unavailable, self.add, self.new())
        self.recover()
        self.assertGreater(len(tries), 1)

    def test_the_end_of_the_service_is_one_more_try(self) -> None:
        self.wait(self.store.close())
        self.store = SqlStore(Place(self.path, "off"), self.turns, busy=0.01, try_again=1_000)
        self.store.started = self.started.extend
        self.store.open([], NOW)
        task = self.run_one()
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.store.end(complete(task, "1", NOW), NOW)
            self.turns.turn()
            while self.store.healthy:
                self.store._writer._thread.join(0.01)
        self.reopen()
        self.assertEqual(self.get(task).status, COMPLETED)

    def test_an_end_of_the_last_moment_is_written(self) -> None:
        task = self.run_one()
        self.store.end(complete(task, "1", NOW), NOW)
        closed = self.store.close()
        self.store._writer._thread.join(PATIENCE)
        self.wait(closed)
        self.store = self.open()
        self.assertEqual(self.get(task).status, COMPLETED)

    def test_a_log_that_cannot_be_shortened_stops_nothing(self) -> None:
        def fail(connection: Connection) -> None:
            raise sqlite3.OperationalError("database is locked")

        self.store._database.keep_log_short = fail  # type: ignore[method-assign]
        self.add(self.new())
        self.add(self.new())
        self.assertEqual(len(self.names()), 2)

    def recover(self) -> None:
        """Wait for the writer's next tries."""
        while not self.store.healthy:
            self.store._writer._thread.join(0.01)


class WriterTests(OnFile):
    """What waits together is written together, and nobody waits for much else."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The writer is at work until all is asked for."""
        begun, over = Event(), Event()

        def hold(_db: Connection, _news: list[News]) -> None:
            begun.set()
            over.wait(PATIENCE)

        held = self.store._writer.call(hold)
        self.turns.catch_up()
        begun.wait(PATIENCE)
        yield
        self.turns.catch_up()
        over.set()
        self.wait(held)

    def run_many(self, number: int) -> list[Task]:
        self.wait(self.store.add([], [self.new() for _ in range(number)]))
        return self.started

    def told_since(self, commits: int) -> list[list[str]]:
        return [[one.status for one in news if isinstance(one, Task)] for _, news in self.commits[commits:]]

    def test_new_tasks_wait_for_few_ends_and_ends_keep_up_with_them(self) -> None:
        running = self.run_many(110)
        before = len(self.commits)
        with self.busy():
            ends = [self.store.end(complete(task, "1", NOW), NOW) for task in running]
            added = [self.store.add([self.new()], []) for _ in range(60)]
        for one in (*added, *ends):
            self.wait(one)
        self.assertEqual(
            self.told_since(before),
            [["accepted"] * 60 + ["completed"] * (60 + FEWEST), ["completed"] * (50 - FEWEST)],
        )

    def test_a_file_is_written_again_once_the_answers_have_been_given_and_a_server_before(self) -> None:
        writer, before = self.store._writer, len(self.commits)
        self.patch(backlog, "GIVEN", PATIENCE)
        first = self.store.add([self.new()], [])
        self.turns.turn()
        self.turns.wait_for_more()
        second = self.store.add([self.new()], [])
        writer._hand_over()
        self.assertFalse(writer._backlog._may_go_on())
        patched = self.patch(writer._backlog, "patient", False)
        self.assertTrue(writer._backlog._may_go_on())
        patched.restore()
        for one in (first, second):
            self.wait(one)
        self.assertEqual(self.told_since(before), [["accepted"]] * 2)

    def test_a_reactor_that_is_held_up_does_not_hold_up_the_writer(self) -> None:
        self.store.add([self.new()], [])
        self.turns.turn()
        self.turns.wait_for_more()
        self.store.add([self.new()], [])
        self.store._writer._hand_over()
        deadline = monotonic() + PATIENCE
        with closing(sqlite3.connect(self.path)) as other:
            while other.execute("SELECT count(*) FROM task").fetchone() < (2,):
                self.assertLess(monotonic(), deadline)
                sleep(0.01)

    def test_a_reactor_that_was_held_up_refuses_nobody(self) -> None:
        writer = self.store._writer
        with self.busy():
            self.store.add([self.new()], [])
            self.patch(backlog, "monotonic", lambda: monotonic() + LONGEST_WAIT * 2)
            writer._hand_over()
            self.store.add([self.new()], [])
            self.patch(backlog, "monotonic", lambda: monotonic() + LONGEST_WAIT * 4)
            self.assertRaises(Unavailable, self.store.add, [self.new()], [])

    def test_what_is_asked_does_not_wait_for_many_ends(self) -> None:
        running = self.run_many(70)
        before = len(self.commits)
        with self.busy():
            ends = [self.store.end(complete(task, "1", NOW), NOW) for task in running]
            asked = self.store.cancel(running[-1].task_id, NOW)
        self.wait(asked)
        self.assertEqual(self.told_since(before), [["completed"] * FEWEST])
        for one in ends:
            self.wait(one)


class SqliteFileTests(OnFile):
    """What concerns the file itself."""

    def test_a_second_store_on_the_same_file_is_refused(self) -> None:
        error = self.assertRaises(StartError, self.open_store().open, [], NOW)
        self.assertIn("in use by another asynctask process", str(error))

    def test_the_connection_that_writes_is_synced(self) -> None:
        for synchronous, number in (("full", 2), ("normal", 1), ("off", 0)):
            database = Sqlite(Place(Path(self.mktemp()).absolute(), synchronous))
            with database.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA synchronous").scalar()
                mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            self.assertEqual((found, mode), (number, "wal"))

    def test_new_files_can_be_read_by_their_user_only_and_an_old_one_stays_as_it_is(self) -> None:
        umask = os.umask(0o022)
        self.addCleanup(os.umask, umask)
        self.path.chmod(0o640)
        self.reopen()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)
        path = self.path.with_name("new")
        other = SqlStore(Place(path, "off"), self.turns)
        other.open([], NOW)
        self.addCleanup(lambda: self.wait(other.close()))
        for name in ("new", "new-wal", "new-shm", "new-lock"):
            self.assertEqual(path.with_name(name).stat().st_mode & 0o777, 0o600, name)

    def test_a_transaction_makes_no_temporary_files(self) -> None:
        with Sqlite(Place(Path(self.mktemp()).absolute())).connect() as connection:
            self.assertEqual(connection.exec_driver_sql("PRAGMA temp_store").scalar(), 2)

    def test_a_reader_cannot_write(self) -> None:
        def write(connection: Connection) -> None:
            connection.exec_driver_sql("DELETE FROM task")

        self.assertRaises(Unavailable, self.store._database.read, write, 0.0)

    def test_a_long_log_is_reset(self) -> None:
        path = Path(self.mktemp()).absolute()
        database = Sqlite(Place(path), large_log=10_000)
        log = path.with_name(path.name + "-wal")
        with database.connect() as connection:
            with connection.begin():
                connection.exec_driver_sql("CREATE TABLE junk (x)")
                connection.exec_driver_sql("INSERT INTO junk VALUES (zeroblob(100000))")
            self.assertGreater(log.stat().st_size, 100_000)
            database.keep_log_short(connection)
            self.assertEqual(log.stat().st_size, 0)

    def test_a_long_log_beside_the_file_that_a_link_names_is_seen_too(self) -> None:
        folder = Path(self.mktemp()).absolute()
        (folder / "there").mkdir(parents=True)
        link = folder / "t.sqlite"
        link.symlink_to(folder / "there" / "r.sqlite")
        database = Sqlite(Place(link), large_log=10_000)
        with database.connect() as connection:
            with connection.begin():
                connection.exec_driver_sql("CREATE TABLE junk (x)")
                connection.exec_driver_sql("INSERT INTO junk VALUES (zeroblob(100000))")
            database.keep_log_short(connection)
            self.assertEqual((folder / "there" / "r.sqlite-wal").stat().st_size, 0)

    def test_another_program_that_reads_it_holds_nobody_up(self) -> None:
        path = Path(self.mktemp()).absolute()
        database = Sqlite(Place(path), busy=60.0, large_log=10_000)
        with database.connect() as connection, closing(sqlite3.connect(path)) as other:
            with connection.begin():
                connection.exec_driver_sql("CREATE TABLE junk (x)")
            other.execute("BEGIN")
            other.execute("SELECT * FROM junk").fetchall()
            with connection.begin():
                connection.exec_driver_sql("INSERT INTO junk VALUES (zeroblob(100000))")
            began = monotonic()
            database.keep_log_short(connection)
            self.assertLess(monotonic() - began, 30.0)
            other.execute("COMMIT")
            looked = database._look_at_log
            self.assertGreater(looked - began, BUSY_LOG - 1)
            database.keep_log_short(connection)
            self.assertEqual(database._look_at_log, looked)
            (timeout,) = _driver_of(connection).execute("PRAGMA busy_timeout").fetchone()
            self.assertEqual(timeout, 60_000)


class QueryPlanTests(SynchronousTestCase):
    """Everything that is done often goes by an index."""

    def setUp(self) -> None:
        self.engine = create_engine("sqlite://")
        with self.engine.begin() as connection:
            upgrade(connection)
        self.addCleanup(self.engine.dispose)

    def plan(self, statement: Any, **given: Any) -> str:
        whole = statement.compile(self.engine).construct_expanded_state(given)
        values = tuple(whole.parameters[name] for name in whole.positiontup or ())
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {whole.statement}", values)
            return "\n".join(row[3] for row in rows)

    def assert_indexed(self, plan: str, *indexes: str) -> None:
        for index in indexes:
            self.assertIn(index, plan)
        self.assertNotIn("SCAN task", plan.replace("SCAN task USING INDEX", ""))
        self.assertNotIn("TEMP B-TREE", plan)

    def test_a_task_is_found_by_its_id(self) -> None:
        self.assert_indexed(self.plan(statements.GET, task_id="x"), "autoindex_task_1 (task_id=?)")

    def test_due_tasks_are_found_in_order(self) -> None:
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {batches.DUE}", ("simulate", NOW, 9))
            plan = "\n".join(row[3] for row in rows)
        self.assert_indexed(plan.replace("SCAN (subquery", ""), "task_due (kind=? AND run_at<?)")
        plan = self.plan(statements.CLAIM, task_ids="[]", now=NOW, me="m", at="")
        self.assert_indexed(plan, "autoindex_task_1 (task_id=?)")
        self.assert_indexed(self.plan(statements.NEXT_DUE, of_kind="simulate"), "task_due (kind=?)")

    def test_orphans_are_found_among_the_running_ones_only(self) -> None:
        plan = self.plan(statements.ORPHANS, of_kind="simulate", limit=9, me="m")
        self.assertIn("SEARCH task USING INDEX task_owner (owner<?)", plan)
        self.assertIn("SEARCH task USING INDEX task_owner (owner>?)", plan)

    def test_ends_are_written_by_id(self) -> None:
        for sql, values in ((batches.running(2), 2), (batches.ending(2), len(ENDED_COLUMNS))):
            with self.engine.connect() as connection:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", (None,) * 2 * values)
                plan = "\n".join(row[3] for row in rows)
            self.assert_indexed(plan, "autoindex_task_1 (task_id=?)")

    def test_what_is_changed_from_outside_is_found_by_its_id(self) -> None:
        given = dict.fromkeys(changed_row(Task("", "", "", ACCEPTED, 0, 0, 0), NOW, moved=True))
        self.assert_indexed(self.plan(statements.CHANGE, **given), "autoindex_task_1 (task_id=?)")
        for statement in (statements.DELETE, statements.SUSPECT):
            plan = self.plan(statement, of_task="x", task_id="x", attempt=1)
            self.assert_indexed(plan, "autoindex_task_1 (task_id=?)")

    def test_what_ended_long_ago_is_found_in_order(self) -> None:
        plan = self.plan(statements.FORGET_OLD, before=NOW, limit=9)
        self.assert_indexed(plan, "task_finished (finished_at<?)", "autoindex_task_1 (task_id=?)")

    def test_callbacks_are_found_when_they_are_due(self) -> None:
        plan = self.plan(statements.CALLBACKS_DUE, now=NOW, after=0, after_task="", limit=9)
        self.assertIn("SEARCH task USING INDEX task_callback (callback_due>? AND callback_due<?)", plan)
        for statement in (statements.NEXT_CALLBACK, statements.PENDING_CALLBACKS):
            self.assertIn("COVERING INDEX task_callback", self.plan(statement, now=NOW))
        given = {"of_task": "x", "of_attempt": 1, "of_end": NOW}
        given |= {"new_state": "failed", "new_due": None, "new_error": None}
        self.assert_indexed(self.plan(statements.CALLED, **given), "autoindex_task_1 (task_id=?)")
        plan = self.plan(statements.OUTCOME, of_task="x", of_attempt=1, now=NOW)
        self.assert_indexed(plan, "autoindex_task_1 (task_id=?)")

    def test_events_are_found_by_their_number_and_forgotten_from_the_oldest_on(self) -> None:
        by_number = "SEARCH event USING INTEGER PRIMARY KEY (rowid>?)"
        self.assertEqual(self.plan(statements.EVENTS, from_seq=5, limit=9), by_number)
        for statement in (statements.FIRST_EVENT, statements.LAST_EVENT):
            self.assertEqual(self.plan(statement), "SEARCH event")
        self.assertNotIn("B-TREE", self.plan(statements.FORGET_EVENTS, before=NOW, most=9, limit=9))

    def test_keys_are_found_by_name_and_by_age(self) -> None:
        self.assertEqual(
            self.plan(statements.KEY, key="k", now=NOW),
            "SEARCH idempotency USING INDEX sqlite_autoindex_idempotency_1 (scope=? AND key=?)",
        )
        self.assertIn(
            "SEARCH idempotency USING INDEX idempotency_expires (expires_at<?)",
            self.plan(statements.FORGET_KEYS, now=NOW, limit=9),
        )

    def test_the_start_reads_nothing_of_what_has_ended(self) -> None:
        plan = self.plan(statements.UNFINISHED)
        self.assertIn("COVERING INDEX task_kind_status (kind=? AND status=?)", plan)
        self.assertNotIn("SCAN task", plan)
        self.assertIn("task_status (status=?)", self.plan(statements.CUT_OFF, kinds=["simulate"]))

    def test_lists_are_read_in_order(self) -> None:
        cursor = "task_x"
        self.assert_indexed(self.plan(page_of(Query(cursor=cursor))), "autoindex_task_1")
        plan = self.plan(page_of(Query(statuses=(ACCEPTED,), cursor=cursor)))
        self.assert_indexed(plan, "task_status (status=? AND task_id<?)")
        plan = self.plan(page_of(Query(statuses=(ACCEPTED, RUNNING))))
        self.assertEqual(plan.count("USING INDEX task_status (status=?)"), 2)
        plan = self.plan(page_of(Query(statuses=(ACCEPTED,), kind="simulate", cursor=cursor)))
        self.assert_indexed(plan, "task_kind_status (kind=? AND status=? AND task_id<?)")
        plan = self.plan(page_of(Query(kind="simulate", cursor=cursor)))
        self.assertEqual(plan.count("task_kind_status (kind=? AND status=? AND task_id<?)"), len(Status))

    def test_a_list_with_a_name_reads_only_what_has_it(self) -> None:
        for query in (
            Query(name="a", cursor="x"),
            Query(name="a", kind="simulate", cursor="x"),
            Query(name="a", kind="simulate", statuses=(ACCEPTED, RUNNING), cursor="x"),
        ):
            self.assert_indexed(self.plan(page_of(query)), "task_name (name=? AND task_id<?)")


class LiveTests(SynchronousTestCase):
    """How far attempts are, as long as they run."""

    def test_nothing_is_left_of_an_attempt_that_has_ended(self) -> None:
        task = Task("task_x", "", "", RUNNING, 1, 0, 0)
        for remembers in (False, True):
            live = Live()
            live.remembers = remembers
            live.report(task, Progress(1, 3))
            live.forget(replace(task, attempt=2))
            self.assertEqual(live.shown(task).progress, Progress(1, 3))
            self.assertEqual(len(live.fresh(9)), remembers)
            live.report(task, Progress(2, 3))
            live.forget(task)
            self.assertIsNone(live.shown(task).progress)
            self.assertEqual((len(live._latest), len(live._since)), (0, 0))


class MemoryStore(StoreContract, ChangesContract, EventsContract, StoreTestCase):
    """In memory there is no second start, but everything else holds."""

    def open_store(self) -> SqlStore:
        return SqlStore(Place(None), self.turns)

    def reopen(self, suspects: object = (), **given: object) -> None:
        self.skipTest("a store in memory keeps nothing")
