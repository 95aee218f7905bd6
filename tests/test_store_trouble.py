"""When SQLite fails, nothing that was refused runs, and nothing that was done is lost."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from time import monotonic, sleep
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError
from twisted.logger import capturedLogs

from asynctask import backlog, sqlite
from asynctask.batches import End
from asynctask.istore import Key, Known
from asynctask.metrics import Metrics
from asynctask.model import (
    COMPLETED,
    FAILED,
    RETRYING,
    RUNNING,
    Error,
    Status,
    Task,
    after_failure,
    complete,
    fail,
)
from asynctask.problems import MAY_BE_KEPT, NOT_KEPT, OutcomeUnknown, StartError, Unavailable
from asynctask.sqlite import GONE, LOG_GONE
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from tests.on_file import OnFile
from tests.store_contract import NOW
from tests.store_events_contract import brief
from tests.turns import PATIENCE


class SqliteTroubleTests(OnFile):
    """When the database fails, nothing that was refused runs, and nothing that was done is lost."""

    def fail_commits(self, times: int, *, reach_disk: bool = False) -> Callable[[], None]:
        """Let COMMIT fail so often; ``reach_disk``: the data are there after all.

        :returns: what ends it before.
        """
        left = [None] * times

        def commit(connection: Connection) -> None:
            if left:
                left.pop()
                if reach_disk:
                    connection.exec_driver_sql("COMMIT")
                raise OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))

        database: Any = self.store._database
        event.listen(database._writing, "commit", commit)
        return left.clear

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

    def test_a_small_write_makes_sure_of_what_a_failed_commit_has_left(self) -> None:
        task = self.run_one()
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.wait, self.store.cancel(task.task_id, NOW))
        probe = "SELECT count(*) FROM meta WHERE key = 'probe'"
        written = self.store._writer.call(lambda db, _: db.exec_driver_sql(probe).scalar_one())
        self.assertEqual((self.wait(written), self.store.healthy), (1, True))

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

    def test_nor_is_it_mistaken_for_that_of_a_later_attempt(self) -> None:
        task = self.run_one(retries=1)
        self.wait(self.store.end(after_failure(task, Error("E", "no"), NOW, 0.0), NOW))
        (again,) = self.claim(now=NOW + 3_600).tasks
        self.assertIs(self.wait(self.store.end(complete(again, "2", NOW), NOW)), COMPLETED)
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

    def test_a_file_that_is_removed_or_replaced_takes_nothing_more_until_it_is_back(self) -> None:
        self.patch(sqlite, "LOOK_AT_FILE", 0.0)
        self.add(self.new("before"))
        beside = self.path.with_name("beside")
        self.path.rename(beside)
        for replaced in (False, True):
            if replaced:
                self.path.touch()
            with capturedLogs() as logged:
                self.assertRaises(Unavailable, self.add, self.new("lost"))
                sleep(0.1)
            self.assertFalse(self.store.healthy)
            errors = [event["error"] for event in logged if event["log_format"] == "Store failed"]
            self.assertEqual(errors, [] if replaced else [GONE])
        self.assertEqual(self.path.stat().st_size, 0)
        beside.rename(self.path)
        self.recover()
        self.add(self.new("after"))
        self.assertEqual(self.names(), ["after", "before"])

    def test_a_log_that_is_removed_takes_nothing_with_it(self) -> None:
        self.patch(sqlite, "LOOK_AT_FILE", 0.0)
        self.add(self.new("before"))
        self.names()  # by a reader, which has the log open too
        self.path.with_name(f"{self.path.name}-wal").unlink()
        store: Any = self.store
        store._database._reading.dispose()
        self.assertRaises(Unavailable, self.names)  # it would begin another one
        with capturedLogs() as logged:
            self.assertRaises(Unavailable, self.add, self.new("refused"))
            self.recover()
        self.assertIn(LOG_GONE, [event.get("error") for event in logged])
        self.assertTrue(self.store.healthy)
        self.add(self.new("after"))
        copy = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)  # as after a crash
        with closing(copy):
            names = copy.execute("SELECT name FROM task ORDER BY task_id DESC").fetchall()
        self.assertEqual(names, [("after",), ("before",)])
        self.assertEqual(self.names(), ["after", "before"])

    def test_where_there_are_no_threads_nothing_is_kept_open(self) -> None:
        self.wait(self.store.close())

        def no_more(**_: object) -> None:
            raise RuntimeError("can't start new thread")

        patched = self.patch(threading, "Thread", no_more)
        with self.assertRaisesRegex(StartError, "^The system gives no more threads .*TasksMax"):
            self.open()
        patched.restore()
        self.store = self.open()
        self.add(self.new())

    def test_what_could_not_be_kept_before_the_stop_is_told(self) -> None:
        tasks = [self.run_one(), self.run_one()]
        self.fail_commits(1_000)
        for task in tasks:
            self.store.end(complete(task, "1", NOW), NOW)
        with capturedLogs() as logged:
            self.wait(self.store.close())
        told = [one["tasks"] for one in logged if one["log_format"].endswith("; they will run again")]
        self.assertEqual(told, [2])
        self.store = self.open()
        claimed = self.wait(self.store.claim("simulate", 9, NOW)).tasks
        self.assertEqual({task.task_id for task in claimed}, {task.task_id for task in tasks})

    def test_a_file_that_is_removed_is_missed_though_nothing_is_written(self) -> None:
        self.patch(backlog, "IDLE", 0.01)
        self.add(self.new())
        self.assertTrue(self.store.healthy)
        beside = self.path.with_name("beside")
        self.path.rename(beside)
        with capturedLogs() as logged:
            latest = monotonic() + PATIENCE
            while self.store.healthy and monotonic() < latest:
                sleep(0.01)
        self.assertFalse(self.store.healthy)
        self.assertEqual([one["error"] for one in logged if one["log_format"] == "Store failed"], [GONE])
        beside.rename(self.path)
        self.recover()
        self.assertTrue(self.store.healthy)

    def test_a_cancel_that_may_have_been_done_is_told_to_its_handler(self) -> None:
        for times in (1, 2):
            task, other = self.run_one(), self.run_one()
            self.fail_commits(times, reach_disk=True)
            cancelled = self.store.cancel(task.task_id, NOW)
            self.assertEqual(self.assertRaises(OutcomeUnknown, self.wait, cancelled).detail, MAY_BE_KEPT)
            if times == 2:
                self.recover()
            self.until(lambda: self.cancelling)
            self.assertEqual([one.task_id for one in self.cancelling], [task.task_id])
            for one in (task, other):
                self.wait(self.store.end(complete(one, "1", NOW), NOW))
            del self.cancelling[:]

    def test_a_clock_that_may_have_been_followed_is_followed_once(self) -> None:
        task = replace(self.new(), run_at=NOW + 100)
        self.add(task)
        self.fail_commits(1, reach_disk=True)
        self.assertRaises(Unavailable, self.wait, self.store.clock_was_set(NOW, NOW + 3_600))
        self.wait(self.store.clock_was_set(NOW + 1, NOW + 3_601))
        self.assertEqual(self.get(task).run_at, NOW + 3_700)
        self.wait(self.store.clock_was_set(NOW + 3_602, NOW + 2))
        self.assertEqual(self.get(task).run_at, NOW + 100)
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.wait, self.store.clock_was_set(NOW + 3, NOW + 63))
        self.wait(self.store.clock_was_set(NOW + 4, NOW + 64))
        self.assertEqual(self.get(task).run_at, NOW + 160)

    def test_the_log_names_the_task_for_whose_result_there_is_no_room(self) -> None:
        task = self.run_one()
        self.patch(self.store._writer._backlog, "has_room_for_result", lambda _size: False)
        with capturedLogs() as logged:
            self.assertIs(self.wait(self.store.end(complete(task, "1", NOW), NOW)), RETRYING)
        text = "Too many results wait for the store; a task is to run again"
        self.assertEqual([(one["log_format"], one["task_id"]) for one in logged], [(text, task.task_id)])

    def test_the_log_says_how_many_ends_a_stop_has_lost(self) -> None:
        tasks = [self.run_one() for _ in range(2)]
        self.fail_commits(99)
        self.assertRaises(Unavailable, self.add, self.new())
        for task in tasks:
            self.store.end(complete(task, "1", NOW), NOW)
        with capturedLogs() as logged:
            self.wait(self.store.close())
        text = "Store has not taken how tasks ended; they will run again"
        self.assertEqual([one["tasks"] for one in logged if one["log_format"] == text], [2])
        self.store = self.open()

    def until(self, found: Callable[[], object]) -> None:
        """Turn until it is so."""
        until = monotonic() + PATIENCE
        while not found():
            self.assertLess(monotonic(), until)
            self.wait(self.store.count())

    def until_counted(self, unfinished: int) -> None:
        """Wait until the store knows how many tasks have not ended."""
        self.until(lambda: self.store.unfinished == unfinished)

    def test_a_failing_store_refuses_at_once(self) -> None:
        mend = self.fail_commits(1_000)
        self.assertRaises(Unavailable, self.add, self.new())
        self.assertRaises(Unavailable, self.store.add, [self.new()], [])
        mend()
        self.recover()
        self.add(self.new("kept"))
        self.assertEqual(self.names(), ["kept"])

    def test_an_end_waits_until_it_can_be_written(self) -> None:
        task = self.run_one()
        self.fail_commits(3)
        self.assertTrue(self.wait(self.store.end(complete(task, "1", NOW), NOW)))
        self.assertEqual(self.get(task).status, COMPLETED)

    def test_an_end_that_is_refused_though_a_small_write_is_not_waits_for_its_next_try(self) -> None:
        store: Any = self.store
        refused: list[bool] = []

        def end(_connection: object, ends: Sequence[End], _news: object) -> list[Status | None]:
            if not ends:
                return []
            refused.append(True)
            raise OperationalError("UPDATE", None, sqlite3.OperationalError("database or disk is full"))

        task = self.run_one()
        patched = [self.patch(store._database, name, end) for name in ("end", "end_as_supposed")]
        ended = store.end(complete(task, "1", NOW), NOW)
        while len(refused) < 3:
            self.turns.turn()
        # The first time it is tried again at once; from then on the database is taken for ill in between.
        while store._writer.healthy:
            self.assertLess(len(refused), 1_000)
            self.turns.turn()
        self.assertRaises(Unavailable, self.store.add, [self.new()], [])
        for patch in patched:
            patch.restore()
        self.assertEqual(self.wait(ended), COMPLETED)
        self.recover()

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
            lambda: self.store.forget(NOW + 1, NOW),
        ):
            self.fail_commits(1)
            self.assertEqual(self.assertRaises(Unavailable, self.wait, change()).detail, NOT_KEPT)
            self.assertEqual((self.get(task), self.store.unfinished), (before, 0))
        self.assertEqual((self.waiting, self.changed), ([], told))

    def test_a_cancel_that_failed_asks_nobody_to_end(self) -> None:
        task = self.run_one()
        self.fail_commits(1)
        self.assertRaises(Unavailable, self.wait, self.store.cancel(task.task_id, NOW))
        self.assertEqual((self.cancelling, self.get(task).cancel_requested), ([], False))

    def test_a_failing_store_refuses_changes_at_once(self) -> None:
        mend = self.fail_commits(1_000)
        self.assertRaises(Unavailable, self.add, self.new())
        key = Key("k", "d", "answer", NOW + 9)
        for change in (
            lambda: self.store.cancel("task_x", NOW),
            lambda: self.store.retry("task_x", NOW),
            lambda: self.store.delete("task_x"),
            lambda: self.store.forget(NOW, NOW),
            lambda: self.store.add_once([self.new()], [], key, NOW),
        ):
            self.assertRaises(Unavailable, change)
        self.assertEqual(self.store.unfinished, 0)
        mend()
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
        self.store = SqlStore(
            Place(self.path, "off"), self.turns, metrics=Metrics(), busy=0.01, try_again=1_000
        )
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
