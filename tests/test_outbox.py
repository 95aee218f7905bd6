"""Callbacks in the store: which are due, what became of them, and the secret that signs them."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from asynctask import model, shownsecret
from asynctask.deliveries import GIVE_UP, Tried
from asynctask.istore import Dues, ToTell
from asynctask.metrics import Metrics
from asynctask.model import Callback, Error, Task, complete
from asynctask.outbox import LEASE
from asynctask.pgserver import Server
from asynctask.problems import StartError
from asynctask.sqlitefile import Lock, Place
from asynctask.store import SqlStore
from tests import postgres
from tests.on_file import OnFile
from tests.store_contract import NOW, StoreTestCase
from tests.test_postgres import OnServer

URL = "https://receiver.example/"
NO = Error("ValueError", "no")

if TYPE_CHECKING:
    Base = StoreTestCase
else:
    Base = object


class OutboxContract(Base):
    """What every store keeps to."""

    def setUp(self) -> None:
        self.to_call: list[ToTell] = []
        super().setUp()
        self.store.outbox.to_call = self.to_call.append

    def ended(self, now: float = NOW, url: str | None = URL) -> Task:
        """A task that was completed then."""
        task = self.run_one(callback_url=url)
        self.wait(self.store.end(complete(task, "3", now), now))
        return task

    def due(self, now: float = NOW, after: tuple[float, str] | None = None, limit: int = 100) -> Dues:
        found: Dues = self.wait(self.store.outbox.due(now, after, limit))
        return found

    def due_ids(self, now: float = NOW) -> list[str]:
        return [due.task_id for due in self.due(now).found]

    def outcome(self, task: Task, now: float = NOW) -> Task | None:
        found: Task | None = self.wait(
            self.store.outbox.outcome(ToTell(task.task_id, task.attempt, URL), now)
        )
        return found

    def called(self, task: Task, state: str, due: float | None = None, **given: Any) -> bool:
        of = {"finished_at": NOW, "error": None} | given
        kept: bool = self.wait(
            self.store.outbox.keep(Tried(task.task_id, task.attempt, state=state, due=due, **of))
        )
        return kept

    def callback(self, task: Task) -> Callback:
        found = self.get(task).callback
        assert found is not None
        return found

    def test_a_task_has_its_callback_from_the_first_moment(self) -> None:
        task = self.new(callback_url=URL)
        self.add(task)
        self.assertEqual(self.callback(task), Callback(URL, "pending", 0, None))
        self.assertEqual((self.due(NOW + 9), self.to_call), (Dues([], None, None, 0), []))

    def test_the_commit_that_ends_it_makes_it_due_and_tells(self) -> None:
        task = self.ended()
        due = ToTell(task.task_id, 1, URL)
        self.assertEqual((self.due(), self.to_call), (Dues([due], None, None, 1), [due]))

    def test_whatever_the_end(self) -> None:
        failed, cancelled = self.run_one(callback_url=URL), self.new(callback_url=URL)
        self.wait(self.store.end(model.fail(failed, NO, NOW), NOW))
        self.add(cancelled)
        self.wait(self.store.cancel(cancelled.task_id, NOW))
        self.assertEqual([due.attempt for due in self.to_call], [1, 0])
        self.assertCountEqual(self.due().found, self.to_call)

    def test_a_cancel_that_comes_before_the_next_attempt_is_an_end(self) -> None:
        task = self.run_one(callback_url=URL, retries=1)
        self.wait(self.store.cancel(task.task_id, NOW))
        self.assertEqual(self.to_call, [])
        self.wait(self.store.end(model.after_failure(task, NO, NOW, 60), NOW))
        self.assertEqual(self.get(task).status, "cancelled")
        self.assertEqual(self.due().found, self.to_call)
        self.assertEqual(len(self.to_call), 1)

    def test_without_a_callback_nobody_is_told(self) -> None:
        self.ended(url=None)
        cancelled = self.new()
        self.add(cancelled)
        self.wait(self.store.cancel(cancelled.task_id, NOW))
        self.assertEqual((self.due(), self.to_call), (Dues([], None, None, 0), []))

    def test_an_attempt_that_is_followed_by_another_is_no_end(self) -> None:
        task = self.run_one(callback_url=URL, retries=1)
        self.wait(self.store.end(model.after_failure(task, NO, NOW, 60), NOW))
        self.assertEqual((self.due().found, self.to_call), ([], []))

    def test_what_is_due_comes_in_order_a_page_at_a_time(self) -> None:
        tasks = [self.ended(NOW + moment) for moment in (3, 1, 2, 1, 9)]
        expected = [task.task_id for task in (tasks[1], tasks[3], tasks[2], tasks[0])]
        pages: list[list[str]] = []
        after, first = None, True
        while first or after:
            page = self.due(NOW + 5, after, 2)
            pages.append([due.task_id for due in page.found])
            self.assertEqual(page.next_due, NOW + 9)
            self.assertEqual(page.pending, 5 if first else None)
            after, first = page.after, False
        self.assertEqual([one for page in pages for one in page], expected)
        self.assertEqual([len(page) for page in pages], [2, 2, 0])

    def test_the_outcome_is_the_task_with_all_that_it_has(self) -> None:
        task = self.ended()
        found = self.outcome(task)
        assert found is not None
        self.assertEqual((found.result, found.input, found.finished_at), ("3", '{"duration":3}', NOW))
        self.assertIsNotNone(found.history)

    def test_a_delivery_is_on_the_task(self) -> None:
        task = self.ended()
        self.assertTrue(self.called(task, "delivered"))
        self.assertEqual(self.callback(task), Callback(URL, "delivered", 1, None))
        self.assertEqual((self.due_ids(NOW + 9), self.outcome(task, NOW + 9)), ([], None))
        self.assertFalse(self.called(task, "failed"))

    def test_who_has_answered_is_known(self) -> None:
        for number, state in enumerate(("delivered", "delivered", "failed", "pending")):
            task = self.ended(url=f"https://{number // 2}.example/")
            self.called(task, state, due=NOW if state == "pending" else None)
        self.ended(url=None)
        self.assertEqual(self.wait(self.store.outbox.answered()), ["https://0.example/"])

    def test_a_failed_try_is_due_again_later(self) -> None:
        task = self.ended()
        self.assertTrue(self.called(task, "pending", NOW + 5, error="No"))
        self.assertEqual(self.callback(task), Callback(URL, "pending", 1, "No"))
        self.assertEqual(self.due(NOW + 4), Dues([], None, NOW + 5, 1))
        self.assertIsNone(self.outcome(task, NOW + 4))
        self.assertIsNotNone(self.outcome(task, NOW + 5))
        self.assertTrue(self.called(task, "delivered"))
        self.assertEqual(self.callback(task), Callback(URL, "delivered", 2, "No"))

    def test_what_is_due_is_found_after_a_new_start(self) -> None:
        task = self.ended()
        self.called(task, "pending", NOW + 5, error="No")
        self.reopen()
        self.assertEqual(self.due_ids(NOW + 5), [task.task_id])
        self.assertEqual(self.callback(task), Callback(URL, "pending", 1, "No"))

    def test_an_end_that_a_start_writes_is_due(self) -> None:
        task = self.run_one(callback_url=URL)
        self.wait(self.store.cancel(task.task_id, NOW))
        self.reopen()
        self.assertEqual(self.due_ids(), [task.task_id])

    def test_a_retry_on_request_drops_it(self) -> None:
        task = self.run_one(callback_url=URL)
        self.wait(self.store.end(model.fail(task, NO, NOW), NOW))
        self.called(task, "pending", NOW + 5, error="No")
        self.wait(self.store.retry(task.task_id, NOW + 1))
        self.assertEqual((self.due_ids(NOW + 9), self.outcome(task, NOW + 9)), ([], None))
        self.assertEqual(self.callback(task), Callback(URL))
        self.assertFalse(self.called(task, "delivered"))

    def test_another_outcome_of_the_same_attempt_is_not_told_yet(self) -> None:
        task = self.run_one(callback_url=URL)
        self.wait(self.store.end(model.fail(task, NO, NOW), NOW))
        self.wait(self.store.retry(task.task_id, NOW + 1))
        self.wait(self.store.cancel(task.task_id, NOW + 2))
        self.assertFalse(self.called(task, "delivered", finished_at=NOW))
        self.assertEqual(self.due_ids(NOW + 2), [task.task_id])
        self.assertTrue(self.called(task, "delivered", finished_at=NOW + 2))

    def test_a_delete_drops_it(self) -> None:
        task = self.ended()
        self.wait(self.store.delete(task.task_id))
        self.assertEqual((self.due_ids(), self.outcome(task)), ([], None))
        self.assertFalse(self.called(task, "delivered"))

    def test_retention_waits_for_it(self) -> None:
        task = self.ended()
        late = NOW + GIVE_UP
        self.wait(self.store.forget(late, late))
        self.called(task, "failed", error="No")
        self.assertEqual(self.names(), [task.name])
        self.wait(self.store.forget(late, late))
        self.assertEqual(self.names(), [])

    def test_the_secret_is_drawn_once_and_kept(self) -> None:
        secret = self.store.outbox.secret
        self.assertRegex(secret, "^whsec_[A-Za-z0-9+/=]{32}$")
        self.reopen()
        self.assertEqual(self.store.outbox.secret, secret)


class InFile(OutboxContract, OnFile):
    """In a file."""


class OnPostgres(OutboxContract, OnServer):
    """On a server, which others share."""

    def test_the_secret_is_shown_too(self) -> None:
        place = Server(postgres.url_of(self.database))
        self.assertEqual(shownsecret.show(place), self.store.outbox.secret)
        other = Server(postgres.url_of(f"{self.database}_that_is_not_there"))
        self.assertIn("cannot be used", str(self.assertRaises(StartError, shownsecret.show, other)))

    def test_the_secret_of_a_store_that_only_a_later_version_can_read_is_not_shown(self) -> None:
        later = (
            "UPDATE alembic_version SET version_num = '9999'",
            "UPDATE meta SET value = '9999' WHERE key = 'readable_from'",
        )
        self.wait(self.store._writer.call(lambda db, _: [db.execute(text(one)).rowcount for one in later]))
        place = Server(postgres.url_of(self.database))
        told = str(self.assertRaises(StartError, shownsecret.show, place))
        self.assertRegex(told, "^--store postgresql://.* has schema 9999, ")

    def test_one_process_tells_it(self) -> None:
        task = self.ended()
        self.assertIsNotNone(self.outcome(task))
        self.assertEqual((self.outcome(task), self.due_ids()), (None, []))
        self.assertTrue(self.called(task, "delivered"))

    def test_if_that_one_stops_before_it_has_an_answer_another_tells_it_at_once(self) -> None:
        task = self.ended()
        found = self.outcome(task)
        assert found is not None
        self.wait(self.store.outbox.give_back(found, NOW + 1))
        self.assertEqual(self.due_ids(NOW + 1), [task.task_id])
        self.assertIsNotNone(self.outcome(task, NOW + 1))
        self.assertEqual(self.callback(task).tries, 0)
        self.called(task, "delivered")
        self.wait(self.store.outbox.give_back(found, NOW + 1))
        self.assertEqual(self.due_ids(NOW + 9), [])

    def test_if_that_one_dies_another_tells_it_later(self) -> None:
        task = self.ended()
        self.outcome(task)
        self.assertEqual(self.due_ids(NOW + LEASE), [task.task_id])
        self.assertIsNotNone(self.outcome(task, NOW + LEASE))


class InMemory(OutboxContract, StoreTestCase):
    """In memory there is no second start, but everything else holds."""

    def open_store(self) -> SqlStore:
        return SqlStore(Place(None), self.turns, metrics=Metrics())

    def reopen(self, suspects: object = (), **given: object) -> None:
        self.skipTest("a store in memory keeps nothing")


class ShownTests(OnFile):
    """What ``--show-callback-secret`` prints."""

    def test_the_secret_of_a_service_that_runs(self) -> None:
        self.assertEqual(shownsecret.show(Place(self.path)), self.store.outbox.secret)

    def test_the_secret_of_a_service_that_does_not(self) -> None:
        secret = self.store.outbox.secret
        self.wait(self.store.close())
        self.assertEqual(shownsecret.show(Place(self.path)), secret)
        self.store = self.open()

    def test_the_secret_of_a_store_that_has_none_yet_is_drawn_and_kept(self) -> None:
        before = self.store.outbox.secret
        self.wait(self.store.close())
        with closing(sqlite3.connect(self.path)) as file, file:
            file.execute("DELETE FROM meta WHERE key = 'callback_secret'")
        secret = shownsecret.show(Place(self.path))
        self.assertNotEqual(secret, before)
        self.store = self.open()
        self.assertEqual(self.store.outbox.secret, secret)

    def test_the_secret_of_a_store_that_has_yet_to_be_made(self) -> None:
        place = Place(Path(self.mktemp()).absolute())
        secret = shownsecret.show(place)
        self.assertEqual(shownsecret.show(place), secret)
        store = SqlStore(place, self.turns, metrics=Metrics())
        store.open([], NOW)
        self.assertEqual(store.outbox.secret, secret)
        self.wait(store.close())

    def complaint(self, place: Place) -> str:
        told = str(self.assertRaises(StartError, shownsecret.show, place))
        self.assertEqual(told.splitlines(), [told])
        return told

    def test_a_store_in_memory_has_none_to_show(self) -> None:
        self.assertIn("--callback-secret", self.complaint(Place(None)))

    def test_a_store_that_cannot_be_made(self) -> None:
        self.assertIn("no such folder", self.complaint(Place(Path(self.mktemp()).absolute() / "a")))

    def test_a_file_of_something_else(self) -> None:
        path = Path(self.mktemp()).absolute()
        path.write_bytes(os.urandom(5_000))
        self.assertIn("no sound SQLite database", self.complaint(Place(path)))

    def test_a_store_that_somebody_is_making(self) -> None:
        place = Place(Path(self.mktemp()).absolute())
        lock = Lock(place)
        self.addCleanup(lock.close)
        self.assertIn("in use", self.complaint(place))
