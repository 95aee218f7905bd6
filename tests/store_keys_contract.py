"""What every store keeps to when a client says by a key that a POST is the same: mix it into a
TestCase that can open one."""

from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from asynctask.istore import Known
from asynctask.model import complete
from tests.store_contract import NOW, StoreTestCase

if TYPE_CHECKING:
    Base = StoreTestCase
else:
    Base = object


class KeysContract(Base):
    """The contract of keys, to be mixed into a `StoreTestCase`."""

    def test_a_new_key_keeps_the_tasks(self) -> None:
        waiting, starting = self.new("waits", delay=5), self.new("starts")
        self.assertIsNone(self.wait(self.add_with_key([waiting], [starting])))
        self.assertEqual(self.names(), ["starts", "waits"])
        self.assertEqual(self.waiting, [waiting])
        self.assertEqual([(one.task_id, one.attempt) for one in self.started], [(starting.task_id, 1)])
        self.assertEqual(self.history(starting), [("accepted", 0), ("running", 1)])
        self.assertEqual(self.history(waiting), [("accepted", 0)])

    def test_a_known_key_keeps_nothing_and_tells_what_was_answered(self) -> None:
        self.wait(self.add_with_key([self.new("a")]))
        known = self.wait(self.add_with_key([self.new("b")], [self.new("c")], answer="second"))
        self.assertEqual(known, Known("d", "first"))
        known = self.wait(self.add_with_key([self.new("b")], digest="other", answer="second"))
        self.assertEqual(known, Known("d", "first"))
        self.assertEqual((self.names(), self.store.unfinished), (["a"], 1))
        self.assertEqual((len(self.waiting), self.started), (1, []))

    def test_another_key_is_another_task(self) -> None:
        for key in ("k", "K", "k ", "", "ключ", "k\n"):
            self.assertIsNone(self.wait(self.add_with_key([self.new(key)], key=key)), key)
        self.assertEqual(self.store.unfinished, 6)

    def test_a_key_is_known_until_it_expires(self) -> None:
        self.wait(self.add_with_key([self.new("a")]))
        self.assertEqual(self.wait(self.add_with_key([self.new("b")], now=NOW + 99.9)), Known("d", "first"))
        again = self.add_with_key(
            [self.new("c")], digest="e", answer="new", now=NOW + 100, expires_at=NOW + 200
        )
        self.assertIsNone(self.wait(again))
        self.assertEqual(self.wait(self.add_with_key([self.new("d")], now=NOW + 199)), Known("e", "new"))
        self.assertEqual(self.names(), ["c", "a"])

    def test_expired_keys_are_forgotten(self) -> None:
        self.wait(self.add_with_key([self.new("a")], key="old", expires_at=NOW + 1))
        self.wait(self.add_with_key([self.new("b")], key="young", expires_at=NOW + 2))
        self.forget_at_once(1)
        self.assertIs(self.wait(self.store.forget(NOW, NOW + 1)), True)
        self.assertIs(self.wait(self.store.forget(NOW, NOW + 1)), False)
        # Asked as of a moment at which both would be known.
        self.assertIsNone(self.wait(self.add_with_key([self.new("c")], key="old")))
        self.assertEqual(self.wait(self.add_with_key([self.new("d")], key="young")), Known("d", "first"))

    def test_two_at_once_with_one_key_give_one_task(self) -> None:
        first, second = (
            self.add_with_key([self.new("a")]),
            self.add_with_key([self.new("b")], answer="second"),
        )
        self.assertIsNone(self.wait(first))
        self.assertEqual(self.wait(second), Known("d", "first"))
        self.assertEqual((self.names(), self.store.unfinished), (["a"], 1))

    def test_a_key_outlives_its_task_and_the_process(self) -> None:
        self.wait(self.add_with_key([], [self.new()]))
        task = self.started.pop()
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        self.wait(self.store.delete(task.task_id))
        self.assertEqual(self.wait(self.add_with_key([self.new("b")])), Known("d", "first"))
        self.reopen()
        self.assertEqual(self.wait(self.add_with_key([self.new("c")])), Known("d", "first"))
        self.assertEqual(self.names(), [])

    def test_tasks_that_cannot_be_stored_leave_no_key(self) -> None:
        task = self.new()
        self.add(task)
        twice = self.add_with_key([self.new("b"), task])
        self.assertRaises(IntegrityError, self.wait, twice)
        self.assertEqual((self.names(), self.store.unfinished), (["a"], 1))
        self.assertIsNone(self.wait(self.add_with_key([self.new("c")])))
