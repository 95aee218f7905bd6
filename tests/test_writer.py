"""In which order the writer does things, and answers."""

from threading import Event
from time import monotonic, sleep

from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred

from asynctask.model import News
from asynctask.sqlite import Place
from asynctask.store import SqlStore
from asynctask.writer import ANSWERS
from tests.store_contract import NOW, StoreTestCase
from tests.turns import PATIENCE


class Order(StoreTestCase):
    """Who is answered later knows of all that was done before."""

    def setUp(self) -> None:
        super().setUp()
        self.done: list[str] = []
        self.answered: list[str] = []

    def open_store(self) -> SqlStore:
        return SqlStore(Place(None), self.turns)

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
        for number in range(2 * ANSWERS + 5):
            self.call(f"{number:02}")
        self.turns.turn()
        free.set()
        self.wait_until_done("44")
        last = self.call("99")
        self.store._writer._hand_over()
        # Nobody has an answer yet: a reactor that is held does not hold the writer.
        self.wait_until_done("99")
        self.assertEqual(self.answered, [])
        self.wait(last)
        self.assertEqual(self.answered, self.done)

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
