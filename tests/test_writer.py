"""In which order the writer does things, and answers; and what it does with what cannot be done."""

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from threading import Event
from time import monotonic, sleep

from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask import backlog, hold, writer
from asynctask.backlog import LONGEST_WAIT
from asynctask.batches import End
from asynctask.hold import HELD
from asynctask.istore import Key
from asynctask.metrics import Metrics
from asynctask.model import (
    ACCEPTED,
    CANCELLED,
    COMPLETED,
    FAILED,
    RETRYING,
    Error,
    News,
    Progress,
    Status,
    Task,
    after_failure,
    complete,
)
from asynctask.problems import Unavailable
from asynctask.replies import ANSWERS, PART, Replies
from asynctask.sqlite import _driver_of
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from asynctask.writer import LATE
from tests.store_contract import NOW, StoreTestCase
from tests.turns import PATIENCE

LIMIT = 10_000
"""Bytes of a text that the database keeps."""


def nothing_asked(case: StoreTestCase) -> list[Sequence[End]]:
    """The ends that were found other than supposed, from now on: none yet."""
    asked: list[Sequence[End]] = []
    end = case.store._database.end

    def asking(db: Connection, ends: Sequence[End], news: list[News]) -> list[Status | None]:
        if ends:
            asked.append(ends)
        return end(db, ends, news)

    case.patch(case.store._database, "end", asking)
    return asked


class Order(StoreTestCase):
    """Who is answered later knows of all that was done before."""

    def setUp(self) -> None:
        super().setUp()
        self.done: list[str] = []
        self.answered: list[str] = []

    def open_store(self) -> SqlStore:
        return SqlStore(Place(None), self.turns, metrics=Metrics())

    def call(self, name: str) -> Deferred[None]:
        def run(_connection: Connection, _news: list[News]) -> None:
            self.done.append(name)

        called = self.store._writer.call(run, order=name)
        return called.addCallback(lambda _: self.answered.append(name))

    def hold(self) -> Event:
        """Keep the writer in a transaction until this is set."""
        begun, free = Event(), Event()

        def run(_connection: Connection, _news: list[News]) -> None:
            begun.set()
            free.wait(PATIENCE)

        self.store._writer.call(run)
        self.turns.turn()
        begun.wait(PATIENCE)
        return free

    def test_those_of_one_transaction_are_answered_as_they_were_done(self) -> None:
        free = self.hold()
        last = [self.call(name) for name in ("task b", "kind a", "task a")]
        added = self.store.add([self.new()], []).addCallback(lambda _: self.answered.append("new"))
        self.turns.turn()
        free.set()
        for deferred in (*last, added):
            self.wait(deferred)
        self.assertEqual(self.done, ["kind a", "task a", "task b"])
        self.assertEqual(self.answered, ["new", *self.done])

    def test_those_of_a_later_one_do_not_overtake_them(self) -> None:
        free = self.hold()
        many = 2 * ANSWERS + 5
        for number in range(many):
            self.call(f"{number:03}")
        self.turns.turn()
        free.set()
        self.wait_until_done(f"{many - 1:03}")
        last = self.call("999")
        self.store._writer._hand_over()
        # Nobody has an answer yet: a reactor that is held does not hold the writer.
        self.wait_until_done("999")
        self.assertEqual(self.answered, [])
        self.wait(last)
        self.assertEqual(self.answered, self.done)

    def test_where_an_end_supposes_wrongly_all_is_done_again_and_told_once(self) -> None:
        first, second = self.run_one(retries=1), self.run_one()
        self.wait(self.store.cancel(first.task_id, NOW))
        told: list[News] = []
        self.store.published = lambda _seq, news: told.extend(news)
        failed = self.store.end(after_failure(first, Error("E", ""), NOW, 0), NOW)
        completed = self.store.end(complete(second, "1", NOW), NOW)
        added = self.store.add([new := self.new()], [])
        self.assertEqual((self.wait(failed), self.wait(completed)), (CANCELLED, COMPLETED))
        self.wait(added)
        self.assertEqual(
            [(one.task_id, one.status) for one in told if isinstance(one, Task)],
            [
                (new.task_id, ACCEPTED),
                (first.task_id, CANCELLED),
                (second.task_id, COMPLETED),
            ],
        )
        self.assertEqual(self.history(second), [("accepted", 0), ("running", 1), ("completed", 1)])

    def test_who_has_waited_long_for_a_file_is_answered_all_the_same(self) -> None:
        free = self.hold()
        added = self.store.add([self.new()], [])
        self.turns.turn()
        late = monotonic() + 2 * LATE
        self.patch(writer, "monotonic", lambda: late)
        free.set()
        self.wait(added)

    def test_a_store_that_is_held_up_is_not_healthy_and_the_log_says_so(self) -> None:
        free = self.hold()
        self.assertTrue(self.store.healthy)
        late = monotonic() + 2 * HELD
        patched = self.patch(hold, "monotonic", lambda: late)
        with capturedLogs() as logged:
            self.store.look()
            self.assertFalse(self.store.healthy)
            patched.restore()
            free.set()
            self.wait(self.call("after"))
            while self.store._writer._hold._since != inf:
                self.turns.turn()
            self.patch(hold, "monotonic", lambda: late)
            self.assertTrue(self.store.healthy)
        told = [event["log_format"] for event in logged]
        self.assertEqual(told, ["Store does not answer", "Store answers again"])

    def test_what_fails_by_itself_says_nothing_of_the_database(self) -> None:
        def fail(_connection: Connection, _news: list[News]) -> None:
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, self.wait, self.store._writer.call(fail))
        self.assertTrue(self.store.healthy)

    def test_tasks_without_room_are_refused_with_a_key_or_without_and_nothing_else_is(self) -> None:
        self.patch(backlog, "MAX_WAITING", 10)
        key = Key("k", "digest", "answer", NOW + 9)
        self.assertRaises(Unavailable, self.store.add, [self.new()], [])
        self.assertRaises(Unavailable, self.store.add_once, [self.new()], [], key, NOW)
        self.assertEqual((self.claim().tasks, self.store.unfinished), ([], 0))

    def test_new_ones_are_refused_while_one_waits_for_too_long(self) -> None:
        free = self.hold()
        added = self.store.add([self.new()], [])
        self.turns.turn()
        late = monotonic() + 2 * LONGEST_WAIT
        patched = self.patch(backlog, "monotonic", lambda: late)
        self.assertRaises(Unavailable, self.store.add, [self.new()], [])
        patched.restore()
        free.set()
        self.wait(added)

    def test_a_result_that_was_dropped_takes_no_room(self) -> None:
        task = self.run_one()
        self.store._writer._backlog.most_kept = 3
        self.assertEqual(self.wait(self.store.end(complete(task, "1234", NOW), NOW)), RETRYING)
        self.assertFalse(self.store.is_behind())

    def test_one_without_room_for_its_result_is_written_as_it_supposes(self) -> None:
        task, asked = self.run_one(), nothing_asked(self)
        self.store._writer._backlog.most_kept = 3
        self.assertIs(self.wait(self.store.end(complete(task, "1234", NOW), NOW)), RETRYING)
        self.assertEqual((self.get(task).n, asked), (3, []))

    def test_a_claim_under_way_does_not_hide_what_others_leave_meanwhile(self) -> None:
        self.claim()
        task = self.run_one()
        leave = text("UPDATE task SET owner = 'gone'")
        self.wait(self.store._writer.call(lambda db, _: db.execute(leave).rowcount))
        looking = self.store.claim("simulate", 9, NOW)
        self.turns.turn()
        self.turns.wait_for_more()
        self.store.orphaned()
        self.assertEqual(self.wait(looking).tasks, [])
        found = self.claim().tasks
        self.assertEqual([one.task_id for one in found], [task.task_id])

    def wait_until_done(self, name: str) -> None:
        until = monotonic() + PATIENCE
        while self.done[-1:] != [name]:
            self.assertLess(monotonic(), until)
            sleep(0.01)


class Turns(SynchronousTestCase):
    """How many answers a turn of the reactor gives."""

    def test_some_are_given_in_each_and_of_many_an_eighth(self) -> None:
        turns: deque[Callable[[], object]] = deque()
        given: list[int] = []
        replies = Replies(lambda do, *told: turns.append(partial(do, *told)))
        many = 2 * PART * ANSWERS
        replies.send(*((given.append, number) for number in range(many)))
        counts = []
        while turns:
            before = len(given)
            turns.popleft()()
            counts.append(len(given) - before)
        self.assertEqual(given, [*range(many)])
        self.assertEqual(counts[:2], [many // PART, (many - many // PART) // PART])
        self.assertEqual(counts[-2:], [ANSWERS, many - sum(counts[:-1])])


class Unfit(StoreTestCase):
    """How an attempt ended cannot be kept."""

    def open_store(self) -> SqlStore:
        return SqlStore(Place(None), self.turns, metrics=Metrics())

    def setUp(self) -> None:
        super().setUp()

        def limit(connection: Connection, _news: list[News]) -> None:
            _driver_of(connection).setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LIMIT)

        self.wait(self.store._writer.call(limit))

    def test_its_task_fails_and_nobody_else_suffers(self) -> None:
        before, bad, after = [self.run_one() for _ in range(3)]
        bad = self.report(bad, Progress(1, 3))
        results = ("1", "1" * LIMIT, "2")
        ends = [
            self.store.end(complete(task, result, NOW + 1), NOW + 1)
            for task, result in zip((before, bad, after), results, strict=True)
        ]
        added = self.store.add([self.new()], [])
        self.assertEqual([self.wait(end) for end in ends], [COMPLETED, FAILED, COMPLETED])
        self.wait(added)
        self.progress.clear()
        found = self.get(bad)
        self.assertEqual(found.error and found.error.type, "NotSerializable")
        self.assertEqual((found.result, found.progress, found.finished_at), (None, None, NOW + 1))
        self.assertEqual(self.history(bad), [("accepted", 0), ("running", 1), ("failed", 1)])
        self.assertEqual([self.get(task).result for task in (before, after)], ["1", "2"])
        self.assertEqual((self.counted(self.store, FAILED), self.store.unfinished), (1, 1))
        self.assertTrue(self.store.healthy)

    def test_it_fails_whatever_attempts_were_to_come(self) -> None:
        task, asked = self.run_one(retries=3), nothing_asked(self)
        failed = after_failure(task, Error("E", "1" * LIMIT), NOW, 5)
        self.assertIs(self.wait(self.store.end(failed, NOW)), FAILED)
        self.assertEqual(asked, [])
        self.assertEqual(self.claim(now=NOW + 9).tasks, [])

    def test_what_even_so_cannot_be_kept_is_tried_no_more(self) -> None:
        task = self.run_one()

        def limit(connection: Connection, _news: list[News]) -> None:
            _driver_of(connection).setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100)

        self.wait(self.store._writer.call(limit))
        with capturedLogs() as logged:
            self.assertRaises(DataError, self.wait, self.store.end(complete(task, "1" * LIMIT, NOW), NOW))
        told = [one["task_id"] for one in logged if one["log_format"].startswith("Store cannot take")]
        self.assertEqual((told, self.store.healthy), ([task.task_id], True))
