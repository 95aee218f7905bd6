"""`SqlStore` on SQLite keeps to the contract, and its file to what is promised of it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from time import monotonic, sleep

from msgspec.structs import replace
from sqlalchemy import Connection, Engine, event
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask import backlog, sqlite
from asynctask.backlog import FEWEST, LONGEST_WAIT
from asynctask.istore import Known
from asynctask.live import Live
from asynctask.metrics import Metrics
from asynctask.migrations import upgrade
from asynctask.model import KEY_KEPT, RUNNING, Deleted, News, Progress, Task, complete
from asynctask.problems import StartError, Unavailable
from asynctask.reading import RECOUNTS
from asynctask.sqlite import BESIDE, BUSY_LOG, COPIED, Sqlite, _driver_of
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from tests.on_file import OnFile
from tests.store_changes_contract import ChangesContract
from tests.store_contract import NOW, StoreContract, StoreTestCase
from tests.store_events_contract import EventsContract
from tests.store_keys_contract import KeysContract
from tests.turns import PATIENCE

YEAR = 365 * 86_400.0


class SqliteStore(StoreContract, ChangesContract, KeysContract, EventsContract, OnFile):
    """In a file."""


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

    def test_after_a_commit_came_back_tasks_are_counted_until_it_is_sure_or_often_enough(
        self,
    ) -> None:
        counts: list[int] = []

        def recount() -> Deferred[None]:
            counts.append(self.store.asked)
            return succeed(None)

        self.patch(self.store, "recount", recount)
        self.store.came_back([])
        self.assertEqual(len(counts), 1)
        self.store.asked += 1  # it is on its way for ever
        self.store.came_back([])
        self.assertEqual(len(counts), 1 + RECOUNTS)


class EventTests(OnFile):
    """Events are read while others are forgotten."""

    def test_what_is_forgotten_in_the_middle_of_a_read_is_not_passed_over_in_silence(self) -> None:
        left = 0

        def forget(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            nonlocal left
            left -= "FROM event" in statement
            if left == 0:
                with closing(sqlite3.connect(self.path)) as other:
                    other.execute("DELETE FROM event WHERE seq < (SELECT max(seq) - 1 FROM event)")
                    other.commit()

        for after in (1, 2, 3):
            for _ in range(5):
                self.add(self.new())
            last = self.commits[-1][0]
            left = after
            event.listen(Engine, "after_cursor_execute", forget)
            found = self.wait(self.store.events(last - 3, 9))
            event.remove(Engine, "after_cursor_execute", forget)
            self.assertLess(left, 1)
            self.assertIn(found and [seq for seq, _ in found], (None, [*range(last - 3, last + 1)]))


class ClockTests(OnFile):
    """A machine that does not know the time when it starts."""

    time = NOW

    def open_store(self) -> SqlStore:
        store = super().open_store()
        store._now = lambda: self.time
        return store

    def set_clock(self, to: float) -> None:
        before, self.time = self.time, to
        self.wait(self.store.clock_was_set(before, to))

    def test_a_clock_that_is_set_right_moves_nothing_that_was_written_when_it_had_been_right(self) -> None:
        long_ago, stored = self.new(now=NOW - 6 * YEAR, delay=6 * YEAR + 99), self.new(delay=99)
        self.wait(self.add_with_key([long_ago, stored], expires_at=NOW + KEY_KEPT))
        self.time = wrong = NOW - 5 * YEAR
        self.reopen(now=wrong)
        meanwhile = self.new(now=wrong, delay=99)
        self.wait(self.add_with_key([meanwhile], key="l", now=wrong, expires_at=wrong + KEY_KEPT))
        self.set_clock(NOW + 60)
        due = [self.get(one).run_at - NOW for one in (long_ago, stored, meanwhile)]
        self.assertEqual(due, [99, 99, 159])
        for key in ("k", "l"):
            again = self.add_with_key([self.new()], key=key, now=NOW + KEY_KEPT - 1)
            self.assertEqual(self.wait(again), Known("d", "first"))

    def test_the_log_says_that_it_is_wrong_and_that_it_was_set(self) -> None:
        self.add(self.new(delay=99))
        self.time = NOW - 3_600
        with capturedLogs() as logged:
            self.reopen(now=self.time)
            self.add(self.new(now=self.time, delay=99))
            self.set_clock(NOW)
        self.assertEqual(
            [(one["log_level"], one["log_format"], one["seconds"], one.get("tasks")) for one in logged],
            [
                (LogLevel.warn, "The clock is behind the store's last change", 3_600, None),
                (LogLevel.warn, "The clock was set; what waits follows it", 3_600, 1),
            ],
        )
        self.assertIsNone(self.wait(self.add_with_key([self.new()], now=NOW + KEY_KEPT)))

    def test_once_it_is_right_all_that_waits_follows_it_again(self) -> None:
        stored = self.new(delay=99)
        self.add(stored)
        self.time = NOW - YEAR
        self.reopen(now=self.time)
        self.set_clock(NOW)
        self.set_clock(NOW + 3_600)
        self.assertEqual(self.get(stored).run_at, NOW + 3_699)

    def test_so_does_what_is_older_than_the_wrong_time(self) -> None:
        long_ago, stored = self.new(now=NOW - 6 * YEAR, delay=6 * YEAR + 99), self.new(delay=99)
        self.add(long_ago, stored)
        self.time = NOW - 5 * YEAR
        self.reopen(now=self.time)
        self.set_clock(NOW)
        self.set_clock(NOW + 3_600)
        self.assertEqual([self.get(one).run_at - NOW for one in (long_ago, stored)], [3_699, 3_699])

    def test_it_may_be_set_right_in_several_steps(self) -> None:
        stored = self.new(delay=99)
        self.add(stored)
        self.time = NOW - 5 * YEAR
        self.reopen(now=self.time)
        for to in (NOW - 4 * YEAR, NOW + 60):
            self.set_clock(to)
        self.assertEqual(self.get(stored).run_at, NOW + 99)

    def test_it_may_be_set_back_before_it_is_set_right(self) -> None:
        stored = self.new(delay=99)
        self.add(stored)
        self.time = wrong = NOW - 5 * YEAR
        self.reopen(now=wrong)
        meanwhile = self.new(now=wrong, delay=99)
        self.add(meanwhile)
        for to in (wrong - 3_600, NOW + 60):
            self.set_clock(to)
        self.assertEqual([self.get(one).run_at - NOW for one in (stored, meanwhile)], [99, 159])


def write_much(connection: Connection) -> None:
    """Commit 100,000 bytes."""
    with connection.begin():
        connection.exec_driver_sql("CREATE TABLE junk (x)")
        connection.exec_driver_sql("INSERT INTO junk VALUES (zeroblob(100000))")


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
        other = SqlStore(Place(path, "off"), self.turns, metrics=Metrics())
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

    def test_the_log_is_copied_into_the_file_when_no_commit_waits_for_that(self) -> None:
        path = Path(self.mktemp()).absolute()
        database = Sqlite(Place(path))
        news: list[News] = [Deleted(f"task_{number}", "simulate") for number in range(COPIED)]
        with database.connect() as connection:
            database.prepare(connection)
            upgrade(connection)
            connection.commit()
            database.keep_log_short(connection)
            before = path.stat().st_size
            database.commit(connection, news, 0.0)
            self.assertEqual(path.stat().st_size, before)
            database.keep_log_short(connection)
            self.assertGreater(path.stat().st_size, before)
            after = path.stat().st_size
            database.commit(connection, news[: COPIED - BESIDE - 1], 0.0)
            database.keep_log_short(connection)
            self.assertEqual(path.stat().st_size, after)

    def test_a_long_log_is_reset(self) -> None:
        path = Path(self.mktemp()).absolute()
        database = Sqlite(Place(path), large_log=10_000)
        log = path.with_name(path.name + "-wal")
        with database.connect() as connection:
            write_much(connection)
            self.assertGreater(log.stat().st_size, 100_000)
            database.keep_log_short(connection)
            self.assertEqual(log.stat().st_size, 0)

    def test_but_who_reads_is_not_waited_for_for_long(self) -> None:
        self.patch(sqlite, "PAUSING", 0.01)
        path = Path(self.mktemp()).absolute()
        database = Sqlite(Place(path), large_log=80_000)  # less than the log has, and more than half of it
        log = path.with_name(path.name + "-wal")
        with database.connect() as connection:
            write_much(connection)
            with database._paused:
                database.keep_log_short(connection)
            self.assertGreater(log.stat().st_size, 100_000)
            database._look_at_log = 0.0
            database.keep_log_short(connection)
            self.assertEqual(log.stat().st_size, 0)

    def test_a_long_log_beside_the_file_that_a_link_names_is_seen_too(self) -> None:
        folder = Path(self.mktemp()).absolute()
        (folder / "there").mkdir(parents=True)
        link = folder / "t.sqlite"
        link.symlink_to(folder / "there" / "r.sqlite")
        database = Sqlite(Place(link), large_log=10_000)
        with database.connect() as connection:
            write_much(connection)
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


class LiveTests(SynchronousTestCase):
    """How far attempts are, as long as they run."""

    def setUp(self) -> None:
        self.told: dict[str, tuple[int, Progress]] = {}
        self.live = Live(self.told.get)
        self.task = Task("task_x", "", "", RUNNING, 1, 0, 0)

    def test_only_the_attempt_that_has_told_it_is_that_far(self) -> None:
        self.assertIs(self.live.shown(self.task), self.task)
        self.told["task_x"] = (1, Progress(1, 3))
        self.assertEqual(self.live.shown(self.task).progress, Progress(1, 3))
        self.assertIsNone(self.live.shown(replace(self.task, attempt=2)).progress)

    def test_what_was_told_since_is_taken_once_and_as_it_is_by_then(self) -> None:
        self.live.remembers = True
        for step in (1, 2):
            self.told["task_x"] = (1, Progress(step, 3))
            self.live.note(self.task)
        self.assertEqual(self.live.fresh(9), [("task_x", 1, Progress(2, 3))])
        self.assertEqual(self.live.fresh(9), [])

    def test_nothing_is_taken_of_an_attempt_that_has_ended_nor_where_nobody_asks(self) -> None:
        self.told["task_x"] = (1, Progress(1, 3))
        self.live.note(self.task)
        self.assertEqual(self.live.fresh(9), [])
        self.live.remembers = True
        self.live.note(self.task)
        self.live.forget(self.task)
        self.assertEqual(self.live.fresh(9), [])
        self.live.note(self.task)
        del self.told["task_x"]
        self.assertEqual(self.live.fresh(9), [])


class MemoryStore(StoreContract, ChangesContract, KeysContract, EventsContract, StoreTestCase):
    """In memory there is no second start, but everything else holds."""

    def open_store(self) -> SqlStore:
        return SqlStore(Place(None), self.turns, metrics=Metrics())

    def reopen(self, suspects: object = (), **given: object) -> None:
        self.skipTest("a store in memory keeps nothing")
