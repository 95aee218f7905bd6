"""Two processes on one PostgreSQL change each other's tasks, and none waits for one that waits for it."""

from threading import Barrier
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, gatherResults

from asynctask import writer
from asynctask.deliveries import Tried
from asynctask.istore import Key, Known, ToTell
from asynctask.model import CANCELLED, COMPLETED, RUNNING, InvalidTransition, News, Progress, Task, complete
from asynctask.problems import Unavailable
from asynctask.store import SqlStore
from asynctask.works import Call, transactions
from tests.fault_case import PATIENCE, FaultTestCase
from tests.store_contract import NOW
from tests.test_postgres import BothOpen

URL = "https://receiver.example/"


class Meeting:
    """Two transactions are under way at once: each waits here until the other has come.

    :ivar runs: how often each was made; a transaction that met the other one is made again.
    """

    def __init__(self) -> None:
        self.runs: list[SqlStore] = []
        self._barrier = Barrier(2)

    def attend(self, store: SqlStore, order: str) -> "Deferred[Any]":
        def run(_connection: Connection, _news: list[News]) -> None:
            self.runs.append(store)
            if self.runs.count(store) == 1:
                self._barrier.wait(PATIENCE)

        return store._writer.call(run, order=order)


class Crosswise(BothOpen, FaultTestCase):
    """Each holds what the other wants."""

    patient = True

    def setUp(self) -> None:
        super().setUp()
        self.meeting = Meeting()

    def running(self, store: SqlStore, url: str | None = None) -> Task:
        """A task that runs in this process."""
        self.wait(store.add([], [self.new(callback_url=url)]))
        return self.started.pop()

    def together(self, *asked: "Deferred[Any]") -> list[Any]:
        """What comes of all that was asked for, errors too; no transaction was made twice."""
        for one in asked:
            one.addErrback(lambda failure: failure.type)
        found: list[Any] = self.wait(gatherResults(asked))
        self.assertCountEqual(self.meeting.runs, {*self.meeting.runs})
        return found

    def test_ends_and_cancels(self) -> None:
        ours, theirs = self.running(self.store), self.running(self.other)
        ended = (COMPLETED, InvalidTransition)
        with self.transaction_under_way():
            found: list[Deferred[Any]] = [
                self.store.cancel(theirs.task_id, NOW),
                self.store.end(complete(ours, "1", NOW), NOW),
                self.meeting.attend(self.store, "kind"),
            ]
            found += [
                self.other.cancel(ours.task_id, NOW),
                self.other.end(complete(theirs, "1", NOW), NOW),
                self.meeting.attend(self.other, "kind"),
            ]
        refused, end, _, other_refused, other_end, _ = self.together(*found)
        self.assertEqual([(end, refused), (other_end, other_refused)], [ended, ended])

    def test_kinds_and_cancels(self) -> None:
        ours = self.running(self.store)
        claim = self.store.claim("simulate", 1, NOW, 9)
        with self.transaction_under_way():
            found: list[Deferred[Any]] = [
                self.store.cancel(ours.task_id, NOW),
                self.meeting.attend(self.store, "key"),
                self.store.claim("simulate", 1, NOW, 9),
            ]
            found += [
                self.other.end(complete(ours, "1", NOW), NOW),
                self.meeting.attend(self.other, "key"),
                self.other.claim("simulate", 1, NOW, 9),
            ]
        self.together(claim, *found)

    def test_batches_of_cancels(self) -> None:
        tasks = [self.running(store) for store in (self.store, self.other) * 3]
        with self.transaction_under_way():
            found: list[Deferred[Any]] = [self.store.cancel(task.task_id, NOW) for task in tasks]
            found += [self.other.cancel(task.task_id, NOW) for task in reversed(tasks)]
            found += [self.meeting.attend(store, "kind") for store in (self.store, self.other)]
        self.together(*found)
        self.assertEqual([self.get(task).cancel_requested for task in tasks], [True] * len(tasks))

    def test_what_callbacks_came_to(self) -> None:
        done, ours = self.running(self.other, URL), self.running(self.store)
        self.wait(self.other.end(complete(done, "1", NOW), NOW))
        told = Tried(done.task_id, 1, state="delivered", due=None, finished_at=NOW, error=None)
        with self.transaction_under_way():
            found: list[Deferred[Any]] = [
                self.store.end(complete(ours, "1", NOW), NOW),
                self.meeting.attend(self.store, ""),
                self.store.outbox.keep(told),
                self.store.outbox.outcome(ToTell(done.task_id, 1, URL), NOW),
                self.other.retry(done.task_id, NOW),
                self.meeting.attend(self.other, f"task {done.task_id} is locked"),
                self.other.cancel(ours.task_id, NOW),
            ]
        self.assertIs(self.together(*found)[-1], InvalidTransition)

    def test_callbacks_that_are_given_back(self) -> None:
        done, ours = self.running(self.other, URL), self.running(self.store)
        self.wait(self.other.end(complete(done, "1", NOW), NOW))
        claimed = self.wait(self.store.outbox.outcome(ToTell(done.task_id, 1, URL), NOW))
        with self.transaction_under_way():
            found: list[Deferred[Any]] = [
                self.store.end(complete(ours, "1", NOW), NOW),
                self.meeting.attend(self.store, ""),
                self.store.outbox.give_back(claimed, NOW),
                self.other.retry(done.task_id, NOW),
                self.meeting.attend(self.other, f"task {done.task_id} is locked"),
                self.other.cancel(ours.task_id, NOW),
            ]
        self.assertIs(self.together(*found)[-1], InvalidTransition)

    def test_keys_that_are_forgotten_and_given_again(self) -> None:
        first, old = (Key(name, "digest", "answer", NOW + 9) for name in "ab")
        self.wait(self.store.add_once([self.new()], [], Key("b", "digest", "answer", NOW - 1), NOW - 2))
        with self.transaction_under_way():
            found: list[Deferred[Any]] = [
                self.store.forget(NOW - 9, NOW),
                self.meeting.attend(self.store, ""),
                self.store.add_once([self.new()], [], first, NOW),
                self.other.add_once([self.new()], [], first, NOW),
                self.meeting.attend(self.other, "key a is locked"),
                self.other.add_once([self.new()], [], old, NOW),
            ]
        _, _, *known = self.together(*found)
        known.append(self.wait(self.store.add_once([self.new()], [], old, NOW)))  # it is not forgotten
        self.assertEqual(known, [Known("digest", "answer"), *[None] * 3, Known("digest", "answer")])

    def test_progress_waits_for_nobody(self) -> None:
        first, second = self.running(self.store), self.running(self.store)
        for task in (first, second):
            self.report(task, Progress(1, 3))
        with self.outside() as cancelling:
            cancelling.execute("SELECT FROM task WHERE task_id = %s FOR UPDATE", (first.task_id,))
            self.wait(self.store.keep_progress())
        found = [self.wait(self.other.get(task.task_id)).progress for task in (first, second)]
        self.assertEqual(found, [None, Progress(1, 3)])


class InParts(FaultTestCase):
    """What locks the tasks of others has a transaction of its own."""

    patient = True

    def call(self, order: str) -> "Deferred[Any]":
        def run(connection: Connection, _news: list[News]) -> int:
            return int(connection.exec_driver_sql("SELECT txid_current()").scalar_one())

        return self.store._writer.call(run, order=order)

    def test_each_is_answered_after_what_was_done_before(self) -> None:
        answered: list[str] = []

        def note(number: int, order: str) -> int:
            answered.append(order)
            return number

        orders = ("", "key a", "kind a", "task", "task a", "task b")
        with self.transaction_under_way():
            found = [self.call(order) for order in reversed(orders)]
            for one, order in zip(found, reversed(orders), strict=True):
                one.addCallback(note, order)
        numbers = self.wait(gatherResults(found))[::-1]
        self.assertEqual(answered, list(orders))
        self.assertEqual(numbers, sorted(numbers))
        self.assertEqual([numbers.index(number) for number in numbers], [0, 0, 0, 3, 4, 4])

    def test_a_cancel_finds_the_end_of_its_attempt_and_a_new_task(self) -> None:
        task, new = self.run_one(), self.new()
        with self.transaction_under_way():
            late = self.store.cancel(task.task_id, NOW)
            end = self.store.end(complete(task, "1", NOW), NOW)
            soon = self.store.cancel(new.task_id, NOW)
            added = self.store.add([new], [])
        self.assertRaises(InvalidTransition, self.wait, late)
        self.assertEqual((self.wait(end), self.wait(soon).status), (COMPLETED, CANCELLED))
        self.wait(added)

    def test_where_the_first_fails_the_others_are_not_tried(self) -> None:
        task = self.run_one()
        with self.transaction_under_way():
            failing = self.store._writer.call(
                lambda db, _: db.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
            )
            cancel = self.store.cancel(task.task_id, NOW)
        self.assertRaises(Unavailable, self.wait, failing)
        self.refused(lambda: cancel)
        self.until_healthy()
        found = self.get(task)
        self.assertEqual((found.status, found.cancel_requested), (RUNNING, False))

    def test_whose_turn_comes_too_late_is_refused(self) -> None:
        task = self.run_one()
        with self.transaction_under_way():
            self.store._writer.call(lambda _db, _news: self.patch(writer, "LATE", -1.0))
            cancel = self.store.cancel(task.task_id, NOW)
        self.refused(lambda: cancel)
        self.assertTrue(self.store.healthy)
        self.assertFalse(self.get(task).cancel_requested)

    def test_a_process_that_is_alone_has_one_transaction_for_all(self) -> None:
        calls = [Call(lambda _db, _news: None, order, Deferred()) for order in ("task a", "")]
        self.assertEqual(transactions(calls, shared=False), [calls[::-1]])
