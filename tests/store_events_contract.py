"""What every store tells of its commits, then and later: mix it into a TestCase that can open one."""

from itertools import count
from time import time
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from asynctask import changes, maintenance
from asynctask.changes import listed
from asynctask.model import (
    Deleted,
    Error,
    InvalidTransition,
    News,
    Progress,
    Task,
    after_failure,
    cancel,
    complete,
    fail,
    interrupt,
)
from asynctask.reading import LARGE, PAGE
from asynctask.recorder import Suspect
from tests.store_contract import NOW, StoreTestCase

NO = Error("ValueError", "no")
ALL = 1_000

if TYPE_CHECKING:
    Base = StoreTestCase
else:
    Base = object


def brief(news: News) -> str:
    return f"{news.status} {news.n}" if isinstance(news, Task) else "deleted"


class EventsContract(Base):
    """The contract of events, to be mixed into a `StoreTestCase`."""

    def kept(self, seq: int = 1, limit: int = ALL) -> list[tuple[int, list[News]]] | None:
        found = self.wait(self.store.events(seq, limit))
        return None if found is None else [(number, list(news)) for number, news in found]

    def told(self) -> list[list[str]]:
        """What each commit told when it happened, which is what is kept of it."""
        published = [
            (seq, [listed(one) if isinstance(one, Task) else one for one in news])
            for seq, news in self.commits
        ]
        if published:
            self.assertEqual(self.kept(published[0][0]), published)
            first, last = published[0][0], published[-1][0]
            self.assertEqual([seq for seq, _ in published], [*range(first, last + 1)])
        return [[brief(one) for one in news] for _, news in published]

    def told_since(self, seq: int) -> list[list[str]]:
        return [[brief(one) for one in news] for _, news in self.kept(seq) or []]

    def test_the_life_of_a_task_is_told_change_by_change(self) -> None:
        task = self.new(delay=1, retries=5)
        self.add(task)
        (running,) = self.claim(now=NOW + 1).tasks
        self.wait(self.store.end(after_failure(running, NO, NOW + 2, 3), NOW + 2))
        (again,) = self.claim(now=NOW + 5).tasks
        self.wait(self.store.end(fail(again, NO, NOW + 6), NOW + 6))
        self.wait(self.store.retry(task.task_id, NOW + 7))
        self.wait(self.store.cancel(task.task_id, NOW + 8))
        self.wait(self.store.delete(task.task_id))
        life = [
            "accepted 1",
            "running 2",
            "retrying 3",
            "running 4",
            "failed 5",
            "accepted 6",
            "cancelled 7",
        ]
        self.assertEqual(self.told(), [[one] for one in [*life, "deleted"]])

    def test_a_task_that_starts_at_once_is_told_accepted_and_then_running(self) -> None:
        task = self.run_one()
        self.assertEqual(self.told(), [["accepted 1", "running 2"]])
        accepted, running = self.commits[0][1]
        assert isinstance(accepted, Task)
        self.assertEqual((accepted.attempt, accepted.started_at), (0, None))
        assert isinstance(running, Task)
        self.assertEqual(listed(self.get(task)), listed(running))

    def test_a_change_is_the_task_as_the_commit_left_it(self) -> None:
        task = self.run_one(retries=3)
        told_so = self.report(task, Progress(1, 3, "one"))
        self.wait(self.store.end(after_failure(told_so, NO, NOW + 2, 3), NOW + 2))
        (told,) = self.commits[-1][1]
        assert isinstance(told, Task)
        self.assertEqual(listed(told), listed(self.get(task)))
        self.assertEqual(told.progress, Progress(1, 3, "one"))

    def test_a_cancel_that_came_first_is_told_instead_of_another_attempt(self) -> None:
        task = self.run_one(retries=3)
        self.wait(self.store.cancel(task.task_id, NOW + 1))
        self.assertEqual(len(self.told()), 1)
        self.wait(self.store.end(after_failure(task, NO, NOW + 2, 3), NOW + 2))
        self.assertEqual(self.told()[1:], [["cancelled 3"]])
        (told,) = self.commits[-1][1]
        assert isinstance(told, Task)
        self.assertEqual(listed(told), listed(self.get(task)))

    def test_what_changes_nothing_tells_nothing(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(interrupt(task, NOW), NOW))
        (again,) = self.claim().tasks
        before = self.told()
        self.wait(self.store.end(complete(task, "1", NOW), NOW))  # given up long ago
        self.wait(self.store.cancel(again.task_id, NOW))
        self.wait(self.store.cancel(again.task_id, NOW))
        self.assertRaises(InvalidTransition, self.wait, self.store.delete(again.task_id))
        self.assertRaises(InvalidTransition, self.wait, self.store.retry(again.task_id, NOW))
        self.claim()
        self.wait(self.store.forget(NOW, NOW))
        self.assertEqual(self.told(), before)
        self.assertRaises(UnicodeEncodeError, self.add, self.new("\ud800"))
        self.assertEqual(self.told(), before)

    def test_tasks_that_are_forgotten_are_told_to_be_gone(self) -> None:
        tasks = [self.run_one() for _ in range(3)]
        for task in tasks:
            self.wait(self.store.end(complete(task, "1", NOW), NOW))
        self.forget_at_once(2)
        self.wait(self.store.forget(NOW + 1, NOW))
        self.wait(self.store.forget(NOW + 1, NOW))
        gone = [one for _, news in self.commits[-2:] for one in news]
        self.assertEqual(
            sorted(gone, key=lambda one: one.task_id), [Deleted(task.task_id, task.kind) for task in tasks]
        )
        self.assertEqual([len(news) for news in self.told()[-2:]], [2, 1])

    def test_what_an_earlier_process_left_is_told_to_be_retried_and_started(self) -> None:
        self.run_one()
        last = self.commits[-1][0]
        self.reopen()
        self.assertEqual(self.store.seq, last)
        self.claim()
        self.assertEqual(self.told()[-1], ["retrying 3", "running 4"])
        self.assertEqual(self.commits[-1][0], last + 1)

    def test_charges_at_the_start_are_told_too(self) -> None:
        task = self.run_one()
        for attempt in (1, 2):
            self.reopen([Suspect(task.task_id, attempt)])
            self.claim()
        last = self.commits[-1][0]
        self.reopen([Suspect(task.task_id, 3)])
        self.assertEqual(self.store.seq, last + 1)
        self.assertEqual(
            self.told_since(1),
            [
                ["accepted 1", "running 2"],
                ["retrying 3"],
                ["running 4"],
                ["retrying 5"],
                ["running 6"],
                ["failed 7"],
            ],
        )
        ((_, (told,)),) = self.kept(last + 1) or []
        self.assertEqual(told, listed(self.get(task)))

    def test_tasks_that_nobody_can_run_now_are_told_to_wait(self) -> None:
        task = self.run_one(kind="other")
        cancelled = self.run_one()
        self.wait(self.store.cancel(cancelled.task_id, NOW))
        last = self.commits[-1][0]
        self.reopen()
        self.assertEqual(
            [sorted(one) for one in self.told_since(last + 1)], [["cancelled 3", "retrying 3"]]
        )
        for _, news in self.kept(last + 1) or []:
            for one in news:
                self.assertEqual(one, listed(self.get(task if one.task_id == task.task_id else cancelled)))

    def test_numbers_go_on_and_the_database_is_the_same_after_a_start(self) -> None:
        self.add(self.new())
        epoch, seq = self.store.epoch, self.commits[-1][0]
        self.assertRegex(epoch, r"\A[0-9a-f]{1,32}\Z")
        self.reopen()
        self.assertEqual((self.store.epoch, self.store.seq), (epoch, seq))
        self.add(self.new())
        self.assertEqual(self.commits[-1][0], seq + 1)

    def test_they_are_read_from_a_number_on(self) -> None:
        for name in "abcd":
            self.add(self.new(name))
        first, last = self.commits[0][0], self.commits[-1][0]
        self.assertEqual([seq for seq, _ in self.kept(first + 1) or []], [first + 1, first + 2, last])
        self.assertEqual([seq for seq, _ in self.kept(first + 1, 2) or []], [first + 1, first + 2])
        self.assertEqual(self.kept(last + 1), [])
        self.assertIsNone(self.kept(last + 2))
        self.assertIsNone(self.kept(first - 1))

    def test_before_the_first_commit_there_is_nothing(self) -> None:
        self.assertEqual((self.kept(self.store.seq + 1), self.kept(self.store.seq + 2)), ([], None))

    def test_a_read_is_about_a_page_and_at_least_a_commit(self) -> None:
        large = "n" * 255
        for _ in range(4):
            self.add(*(self.new(large) for _ in range(100)))
        first = self.commits[0][0]
        size = len(changes.body(self.commits[0][1]))
        self.assertTrue(PAGE / 2 < size < PAGE)
        self.assertEqual([seq for seq, _ in self.kept(first) or []], [first, first + 1])

    def test_a_large_commit_is_decoded_once_for_all_who_follow_in_pieces(self) -> None:
        for _ in range(LARGE + 1):
            self.add(*(self.new("n" * 255) for _ in range(250)))
        self.assertGreater(len(changes.body(self.commits[0][1])), PAGE)
        numbers = [seq for seq, _ in self.commits]
        decoded: list[str] = []
        read = changes.read

        def count(body: str) -> list[News]:
            decoded.append(body)
            return read(body)

        self.patch(changes, "read", count)
        for seq in (*numbers, *numbers[1:]):
            found = self.kept(seq)
            assert found is not None
            self.assertEqual((found[0][0], len(found[0][1])), (seq, 250))
        self.assertEqual(len(decoded), LARGE + 1)
        self.kept(numbers[0])
        self.assertEqual(len(decoded), LARGE + 2)
        self.store.unread()
        self.kept(numbers[0])
        self.assertEqual(len(decoded), LARGE + 3)

    def forget(self, before: float = 0, most: int = 10**12) -> int:
        """How many commits are forgotten."""

        def stored(db: Connection, _news: list[News]) -> int:
            return len(db.execute(text("SELECT seq FROM event")).all())

        number: int = self.wait(self.store._writer.call(stored))
        self.wait(self.store.forget_events(before, most))
        left: int = self.wait(self.store._writer.call(stored))
        return number - left

    def test_what_is_old_is_forgotten_but_never_the_last(self) -> None:
        for name in "abcde":
            self.add(self.new(name))
        first = self.commits[0][0]
        self.assertEqual(self.forget(time() - 1_000), 0)
        self.assertEqual(self.forget(time() + 1_000), 4)
        self.assertIsNone(self.kept(first + 3))
        self.assertEqual([seq for seq, _ in self.kept(first + 4) or []], [first + 4])
        self.add(self.new())
        self.assertEqual(self.commits[-1][0], first + 5)

    def test_they_are_forgotten_for_a_time_and_the_rest_later(self) -> None:
        for name in "abcdefgh":
            self.add(self.new(name))
        first = self.commits[0][0]
        self.patch(maintenance, "FEWEST", 2)
        self.patch(maintenance, "ENOUGH", 0.1)
        self.patch(maintenance, "monotonic", count(step=0.06).__next__)
        for more, left in ((True, first + 4), (False, first + 7)):
            self.assertIs(self.wait(self.store.forget_events(time() + 1_000, 10**12)), more)
            self.assertIsNone(self.kept(left - 1))
            self.assertEqual([seq for seq, _ in self.kept(left) or []], [*range(left, first + 8)])

    def test_what_is_too_many_bytes_ago_is_forgotten(self) -> None:
        for name in "abcde":
            self.add(self.new(name))
        first = self.commits[0][0]
        sizes = [len(changes.body(news)) for _, news in self.commits]
        self.assertEqual(self.forget(most=sum(sizes)), 0)
        self.assertEqual(self.forget(most=sum(sizes[2:]) + 1), 1)
        self.assertEqual(self.forget(most=sum(sizes[2:])), 1)
        self.assertEqual([seq for seq, _ in self.kept(first + 2) or []], [first + 2, first + 3, first + 4])
        self.add(self.new("f"))
        self.assertEqual(self.forget(most=sum(sizes[2:])), 1)
        self.assertEqual(self.forget(most=0), 2)
        self.assertEqual([seq for seq, _ in self.kept(first + 5) or []], [first + 5])

    def test_an_end_by_a_cancel_is_told_once(self) -> None:
        task = self.run_one()
        self.wait(self.store.cancel(task.task_id, NOW))
        self.wait(self.store.end(cancel(task, NOW), NOW))
        self.assertEqual(self.told(), [["accepted 1", "running 2"], ["cancelled 3"]])
