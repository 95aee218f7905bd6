"""Who waits for the end of a task."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from asynctask.feed import Feed
from asynctask.model import ENDED, Status, Task

TASK, OTHER = "task_1", "task_2"


class FeedTests(SynchronousTestCase):
    """`Feed`."""

    def setUp(self) -> None:
        self.feed = Feed(Clock())

    def publish(self, task_id: str, status: Status) -> None:
        task = Task(task_id, "a", "simulate", status, 1, 0, 0)
        self.feed.publish(self.feed.now.seq, [task])

    def assert_nobody_waits(self) -> None:
        self.assertEqual(self.feed._waiting, {})

    def test_every_way_to_end_is_one(self) -> None:
        for status in ENDED:
            waiter = self.feed.ended(TASK)
            self.publish(TASK, status)
            self.assertIsNone(self.successResultOf(waiter))
        self.assert_nobody_waits()

    def test_other_changes_are_no_end(self) -> None:
        waiter = self.feed.ended(TASK)
        for status in set(Status) - ENDED:
            self.publish(TASK, status)
        self.assertNoResult(waiter)

    def test_the_end_of_another_task_is_not_this_one_s(self) -> None:
        waiter = self.feed.ended(TASK)
        self.publish(OTHER, Status.COMPLETED)
        self.assertNoResult(waiter)

    def test_all_who_wait_hear_of_it_once(self) -> None:
        waiters = [self.feed.ended(TASK) for _ in range(3)]
        self.publish(TASK, Status.FAILED)
        self.publish(TASK, Status.COMPLETED)
        self.assertEqual([self.successResultOf(waiter) for waiter in waiters], [None] * 3)

    def test_who_comes_later_waits_for_the_next_end(self) -> None:
        self.publish(TASK, Status.FAILED)
        self.assertNoResult(self.feed.ended(TASK))

    def test_who_leaves_is_not_waited_for(self) -> None:
        leaves, stays = self.feed.ended(TASK), self.feed.ended(TASK)
        leaves.cancel()
        self.failureResultOf(leaves, CancelledError)
        self.publish(TASK, Status.COMPLETED)
        self.assertIsNone(self.successResultOf(stays))
        self.assert_nobody_waits()

    def test_the_last_one_who_leaves_takes_everything_along(self) -> None:
        waiters = [self.feed.ended(task_id) for task_id in (TASK, TASK, OTHER)]
        for waiter in waiters:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        self.assert_nobody_waits()

    def test_who_has_heard_may_leave_too(self) -> None:
        waiter = self.feed.ended(TASK)
        self.publish(TASK, Status.COMPLETED)
        waiter.cancel()
        self.assertIsNone(self.successResultOf(waiter))

    def test_who_hears_of_it_may_wait_again(self) -> None:
        again: list[Deferred[None]] = []
        self.feed.ended(TASK).addCallback(lambda _: again.append(self.feed.ended(TASK)))
        self.publish(TASK, Status.FAILED)
        self.assertNoResult(again[0])
        self.publish(TASK, Status.COMPLETED)
        self.assertIsNone(self.successResultOf(again[0]))

    def test_when_the_service_stops_nobody_waits_any_more(self) -> None:
        waiters = [self.feed.ended(task_id) for task_id in (TASK, TASK, OTHER)]
        self.feed.close()
        waiters.append(self.feed.ended(TASK))
        self.assertEqual([self.successResultOf(waiter) for waiter in waiters], [None] * 4)
        self.assert_nobody_waits()
