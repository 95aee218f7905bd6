"""What every store keeps to when somebody changes tasks from outside: mix it into a TestCase that can
open one."""

import json
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from sqlalchemy.exc import IntegrityError
from twisted.logger import capturedLogs

from asynctask import maintenance
from asynctask.deliveries import NoAnswer, judge
from asynctask.istore import Known, ToTell
from asynctask.model import (
    ACCEPTED,
    CANCELLED,
    COMPLETED,
    CRASHES_ALLOWED,
    FAILED,
    KEY_KEPT,
    RETRYING,
    RUNNING,
    Error,
    InvalidTransition,
    Move,
    Progress,
    Status,
    Task,
    after_failure,
    cancel,
    complete,
    fail,
    interrupt,
)
from asynctask.recorder import Suspect
from asynctask.wire import timestamp
from tests.store_contract import NOW, StoreTestCase

NO = Error("ValueError", "no")
NOBODY = "task_17000000000000" + "0" * 16


if TYPE_CHECKING:
    Base = StoreTestCase
else:
    Base = object


class ChangesContract(Base):
    """The contract of changes, to be mixed into a `StoreTestCase`."""

    def end(self, after: Task, now: float = NOW) -> Status | None:
        """Write how an attempt ended."""
        status: Status | None = self.wait(self.store.end(after, now))
        return status

    def cancel(self, task: Task, now: float = NOW) -> Task:
        found = self.wait(self.store.cancel(task.task_id, now))
        assert isinstance(found, Task)
        return found

    def retry(self, task: Task, now: float = NOW) -> Task:
        found = self.wait(self.store.retry(task.task_id, now))
        assert isinstance(found, Task)
        return found

    def delete(self, task: Task) -> Any:
        return self.wait(self.store.delete(task.task_id))

    def retrying(self, **given: Any) -> Task:
        """A task whose first attempt failed, and the second is due after 10 seconds."""
        task = self.run_one(retries=3, **given)
        self.assertIs(self.end(after_failure(task, NO, NOW, 10)), RETRYING)
        return self.get(task)

    def ended(self, status: Status, now: float = NOW, **given: Any) -> Task:
        task = self.run_one(**given)
        after = {
            COMPLETED: lambda: complete(task, "1", now),
            FAILED: lambda: fail(task, NO, now),
            CANCELLED: lambda: cancel(task, now),
        }[status]()
        self.assertIs(self.end(after, now), status)
        return self.get(task)

    def refused(self, change: Any, task: Task) -> InvalidTransition:
        """The refusal of a change, which leaves everything as it was."""
        before = self.get(task)
        refusal = self.assertRaises(InvalidTransition, change, task)
        self.assertEqual(self.get(task), before)
        assert isinstance(refusal, InvalidTransition)
        return refusal

    # A clock that was set

    def set_clock(self, step: float) -> None:
        self.wait(self.store.clock_was_set(NOW + 5, NOW + 5 + step))

    def waiting_ones(self) -> tuple[Task, Task, Task]:
        due, later = self.new("due", delay=5), self.new("later", delay=9)
        again = self.retrying(name="again")
        self.add(due, later)
        return due, later, again

    def test_when_the_clock_is_set_back_what_waits_is_no_later(self) -> None:
        tasks = self.waiting_ones()
        self.set_clock(-3_600)
        self.assertEqual([self.get(one).run_at - NOW for one in tasks], [-3_595, -3_591, -3_590])

    def test_when_the_clock_is_set_forward_what_waits_is_no_sooner(self) -> None:
        tasks = self.waiting_ones()
        self.set_clock(3_600)
        self.assertEqual([self.get(one).run_at - NOW for one in tasks], [5, 3_609, 3_610])

    def test_what_is_asked_for_after_the_clock_was_set_goes_by_it(self) -> None:
        before, after = self.new("before", delay=9), self.new("after", delay=9)
        asked = [self.store.add([before], []), self.store.clock_was_set(NOW, NOW + 60)]
        asked.append(self.store.add([after], []))
        for one in asked:
            self.wait(one)
        self.assertEqual([self.get(one).run_at - NOW for one in (before, after)], [69, 9])

    def test_a_clock_that_is_set_twice_is_followed_both_times(self) -> None:
        task = self.new(delay=9)
        self.add(task)
        first = self.store.clock_was_set(NOW, NOW + 3_600)
        self.wait(self.store.clock_was_set(NOW + 3_600, NOW))  # while the first is on its way
        self.wait(first)
        self.assertEqual(self.get(task).run_at - NOW, 9)

    def test_an_end_of_before_the_clock_was_set_follows_it_and_one_of_after_does_not(self) -> None:
        before, after = self.run_one(retries=3), self.run_one(retries=3)
        self.store.end(after_failure(before, NO, NOW, 9), NOW)
        self.store.clock_was_set(NOW, NOW + 60)
        self.wait(self.store.end(after_failure(after, NO, NOW + 60, 9), NOW + 60))
        self.assertEqual([self.get(one).run_at - NOW for one in (before, after)], [69, 69])

    def test_a_retry_after_the_clock_was_set_back_comes_at_once(self) -> None:
        task = self.ended(FAILED)
        self.assertEqual(self.retry(task, NOW - 3_600).run_at, NOW - 3_600)

    def test_what_has_ended_or_runs_knows_nothing_of_the_clock(self) -> None:
        done, running = self.ended(COMPLETED), self.run_one()
        before = self.get(done), self.get(running)
        self.set_clock(-3_600)
        self.assertEqual((self.get(done), self.get(running)), before)

    def test_keys_follow_the_clock(self) -> None:
        self.wait(self.add_with_key([self.new("a")], expires_at=NOW + KEY_KEPT))
        wrong = NOW + 9 * KEY_KEPT
        for before, now in ((NOW + 5, wrong), (wrong + 5, NOW + 10)):
            self.wait(self.store.clock_was_set(before, now))
            self.wait(self.store.forget(0, now))
            again = self.add_with_key([self.new("b")], now=now, expires_at=now + KEY_KEPT)
            self.assertEqual(self.wait(again), Known("d", "first"))

    def test_callbacks_follow_the_clock(self) -> None:
        told = self.ended(COMPLETED, callback_url="http://a/")
        outbox = self.store.outbox
        outcome = self.wait(outbox.outcome(ToTell(told.task_id, told.attempt, "http://a/"), NOW))
        tried = judge(outcome, NoAnswer("no"), NOW, 0.5)
        assert tried.due is not None
        self.wait(outbox.keep(tried))
        self.set_clock(-3_600)
        dues = self.wait(outbox.due(NOW - 3_600, None, 9))
        self.assertAlmostEqual(dues.next_due, tried.due - 3_600, 3)

    # Cancel

    def test_a_waiting_task_is_cancelled_at_once(self) -> None:
        task = self.new(delay=5)
        self.add(task)
        answered = self.cancel(task, NOW + 1)
        self.assertEqual((answered.status, answered.cancel_requested), (CANCELLED, True))
        self.assertEqual((answered.finished_at, answered.attempt), (NOW + 1, 0))
        self.assertEqual(answered, self.get(task))
        self.assertEqual(self.history(task), [("accepted", 0), ("cancelled", 0)])
        self.assertEqual(self.claim(now=NOW + 9).tasks, [])
        self.assertEqual(self.cancelling, [])

    def test_a_running_task_is_asked_to_end_and_goes_on_meanwhile(self) -> None:
        task = self.run_one()
        answered = self.cancel(task, NOW + 1)
        self.assertEqual((answered.status, answered.cancel_requested), (RUNNING, True))
        self.assertIsNone(answered.finished_at)
        self.assertEqual(answered.input, '{"duration":3}')
        self.assertEqual(self.history(task), [("accepted", 0), ("running", 1)])
        # More than once where processes share the store: a look may find it beside the commit.
        self.assertEqual({one.task_id for one in self.cancelling}, {task.task_id})
        self.assertIs(self.end(cancel(answered, NOW + 2), NOW + 2), CANCELLED)
        self.assertEqual(self.get(task).finished_at, NOW + 2)
        self.assertEqual(self.history(task)[2:], [("cancelled", 1)])

    def test_a_running_task_may_be_cancelled_again(self) -> None:
        task = self.run_one()
        self.assertEqual(self.cancel(task), self.cancel(task))

    def test_a_running_task_shows_its_progress_in_the_answer_to_a_cancel(self) -> None:
        task = self.run_one()
        self.report(task, Progress(1, 3))
        self.assertEqual(self.cancel(task).progress, Progress(1, 3))

    def test_a_task_that_would_be_tried_again_is_cancelled_at_once(self) -> None:
        task = self.retrying()
        answered = self.cancel(task, NOW + 1)
        self.assertEqual((answered.status, answered.finished_at), (CANCELLED, NOW + 1))
        self.assertEqual(self.history(task)[2:], [("retrying", 1), ("cancelled", 1)])
        self.assertEqual(self.claim(now=NOW + 99).tasks, [])

    def test_what_was_asked_for_before_an_attempt_ended_happens_after_it(self) -> None:
        task = self.run_one(retries=3)
        failed = after_failure(task, Error("ValueError", '{"at":"x"}'), NOW + 5, 10)
        asked = [self.store.end(failed, NOW + 5), self.store.cancel(task.task_id, NOW + 4)]
        for one in asked:
            self.wait(one)
        cancelled = self.get(task)
        self.assertEqual((cancelled.status, cancelled.finished_at), (CANCELLED, NOW + 5))
        times = [entry["at"] for entry in json.loads(cancelled.history or "")]
        self.assertEqual((times, len(times)), (sorted(times), 4))

    def test_a_task_that_has_ended_cannot_be_cancelled(self) -> None:
        for status in (COMPLETED, FAILED):
            refusal = self.refused(self.cancel, self.ended(status))
            self.assertIs(refusal.status, status)

    def test_a_task_that_was_cancelled_is_shown_to_who_asks_again_and_stays_as_it_is(self) -> None:
        for task in (self.ended(CANCELLED), self.cancel(self.retrying())):
            told, counted = len(self.changed), self.counted(self.store, CANCELLED)
            self.assertEqual(self.cancel(task), self.get(task))
            self.assertEqual((self.get(task).status, self.get(task).n), (CANCELLED, task.n))
            self.assertEqual((len(self.changed), self.counted(self.store, CANCELLED)), (told, counted))

    def test_nobody_can_be_cancelled_retried_or_deleted(self) -> None:
        for change in (self.store.cancel, self.store.retry):
            self.assertIsNone(self.wait(change(NOBODY, NOW)))
        self.assertIsNone(self.wait(self.store.delete(NOBODY)))

    def test_a_handler_that_swallows_its_cancel_and_returns_has_completed(self) -> None:
        task = self.run_one()
        after = complete(self.cancel(task), "7", NOW + 1)
        self.assertIs(self.end(after, NOW + 1), COMPLETED)
        found = self.get(task)
        self.assertEqual((found.status, found.result, found.cancel_requested), (COMPLETED, "7", True))

    def test_a_cancel_that_overtakes_the_end_of_an_attempt_leaves_no_next_one(self) -> None:
        for after in (
            lambda task: after_failure(task, NO, NOW + 2, 10),
            lambda task: interrupt(task, NOW + 2),
        ):
            task = self.run_one(retries=3)
            self.cancel(task, NOW + 1)
            # As the runner saw it, which had not heard of the cancel.
            self.assertIs(self.end(after(task), NOW + 2), CANCELLED)
            found = self.get(task)
            self.assertEqual((found.status, found.finished_at), (CANCELLED, NOW + 2))
            self.assertTrue(found.cancel_requested)
            entry = json.loads(found.history or "")[-1]
            self.assertEqual((entry["status"], entry["at"]), ("cancelled", timestamp(NOW + 2)))
            self.assertEqual(self.changed[-1], (task.task_id, CANCELLED))
        self.assertEqual(self.claim(now=NOW + 99).tasks, [])

    def test_an_error_that_reads_like_a_status_stays_as_it_was_in_the_history(self) -> None:
        for error in (Error("E", "retrying"), Error("retrying", ""), Error("E", '"status":"retrying"')):
            task = self.run_one(retries=3)
            self.cancel(task)
            self.assertIs(self.end(after_failure(task, error, NOW, 10)), CANCELLED)
            entry = json.loads(self.get(task).history or "")[-1]
            self.assertEqual(entry["error"], {"type": error.type, "message": error.message})

    def test_a_failure_for_good_stays_one_although_a_cancel_overtook_it(self) -> None:
        task = self.run_one()
        self.cancel(task)
        self.assertIs(self.end(fail(task, NO, NOW)), FAILED)
        self.assertEqual(self.get(task).error, NO)

    def test_what_was_to_be_cancelled_when_the_process_died_is_cancelled_at_the_start(self) -> None:
        task, other = self.run_one(), self.run_one(name="other")
        self.cancel(task)
        with capturedLogs() as logged:
            self.reopen(now=NOW + 9)
        told = [one["task_id"] for one in logged if one["log_format"] == "Task cancelled"]
        self.assertEqual((told, self.counted(self.store, CANCELLED)), ([task.task_id], 1))
        found = self.get(task)
        self.assertEqual((found.status, found.finished_at), (CANCELLED, NOW + 9))
        self.assertEqual(self.history(task)[2:], [("cancelled", 1)])
        self.assertEqual(self.store.unfinished, 1)
        self.assertEqual([one.task_id for one in self.claim().tasks], [other.task_id])

    def test_an_orphan_is_cancelled_at_once_since_nobody_is_there_who_would_end_it(self) -> None:
        task, other = self.run_one(), self.run_one(name="other")
        self.reopen()
        with capturedLogs() as logged:
            self.cancel(task, NOW + 9)
        told = [one["task_id"] for one in logged if one["log_format"] == "Task cancelled"]
        self.assertEqual((told, self.counted(self.store, CANCELLED)), ([task.task_id], 1))
        found = self.get(task)
        self.assertEqual((found.status, found.finished_at), (CANCELLED, NOW + 9))
        self.assertEqual(self.history(task)[2:], [("cancelled", 1)])
        self.assertEqual((self.store.unfinished, self.cancelling), (1, []))
        self.assertEqual([one.task_id for one in self.claim().tasks], [other.task_id])

    def test_that_a_waiting_task_was_cancelled_is_logged_and_that_a_running_one_was_asked_to_is_not(
        self,
    ) -> None:
        waiting, running = self.new(delay=5), self.run_one()
        self.add(waiting)
        with capturedLogs() as logged:
            self.cancel(waiting)
            self.cancel(running)
        told = [(one["task_id"], one["name"]) for one in logged if one["log_format"] == "Task cancelled"]
        self.assertEqual(told, [(waiting.task_id, waiting.name)])

    def test_an_attempt_that_was_cut_off_is_logged_and_counted_when_its_task_goes_on(self) -> None:
        task, blamed = self.run_one(), self.run_one(name="blamed")
        with capturedLogs() as logged:
            self.reopen([Suspect(blamed.task_id, 1)])
            self.claim()
        told = [(one["task_id"], one["name"]) for one in logged if one["log_format"] == "Task retrying"]
        self.assertEqual(told, [(blamed.task_id, "blamed"), (task.task_id, task.name)])

    def test_a_task_that_killed_its_process_once_too_often_is_logged_and_counted_as_failed(self) -> None:
        task = self.run_one()
        for attempt in range(1, CRASHES_ALLOWED + 1):
            self.reopen([Suspect(task.task_id, attempt)])
            self.claim()
        with capturedLogs() as logged:
            self.reopen([Suspect(task.task_id, CRASHES_ALLOWED + 1)])
            self.claim()
        told = [one["task_id"] for one in logged if one["log_format"] == "Task failed"]
        self.assertEqual((told, self.counted(self.store, FAILED)), ([task.task_id], 1))

    def test_a_task_to_be_cancelled_in_which_the_process_died_is_cancelled_too(self) -> None:
        task = self.run_one()
        self.cancel(task)
        self.reopen([Suspect(task.task_id, 1)])
        self.assertEqual((self.get(task).status, self.get(task).crashes), (CANCELLED, 1))
        self.assertEqual((self.store.unfinished, self.claim().tasks), (0, []))

    # Retry

    def test_a_retry_begins_afresh_and_only_the_attempt_goes_on_counting(self) -> None:
        task = self.run_one(retries=0, timeout=7.5)
        told = self.report(task, Progress(2, 3))
        failed = replace(after_failure(told, NO, NOW + 1, 0), longest_step=12.5)
        self.assertIs(self.end(failed, NOW + 1), FAILED)
        self.progress.clear()
        before = self.get(task)
        self.assertEqual((before.failures, before.longest_step, before.error), (1, 12.5, NO))
        self.assertEqual((before.progress, before.finished_at), (Progress(2, 3), NOW + 1))
        answered = self.retry(task, NOW + 5)
        self.assertEqual(
            answered,
            replace(
                before,
                status=ACCEPTED,
                run_at=NOW + 5,
                finished_at=None,
                failures=0,
                longest_step=None,
                error=None,
                progress=None,
                history=answered.history,
                n=4,
            ),
        )
        self.assertEqual(answered, self.get(task))
        self.assertEqual(self.history(task)[2:], [("failed", 1), ("accepted", 1)])
        self.assertIsNone(json.loads(answered.history or "")[-1]["error"])
        self.assertEqual([one.task_id for one in self.waiting], [task.task_id])
        (again,) = self.claim(now=NOW + 5).tasks
        self.assertEqual((again.task_id, again.attempt, again.failures), (task.task_id, 2, 0))
        self.assertEqual((again.timeout, again.input), (7.5, '{"duration":3}'))

    def test_many_retries_at_once_count_before_their_commit(self) -> None:
        tasks = [self.ended(status) for status in (FAILED, CANCELLED, COMPLETED)]
        self.assertEqual(self.store.unfinished, 0)
        retries = [self.store.retry(task.task_id, NOW) for task in (*tasks, self.new())]
        self.assertEqual(self.store.unfinished, 4)
        for retried in retries:
            with suppress(InvalidTransition):
                self.wait(retried)
        self.assertEqual(self.store.unfinished, 2)

    def test_a_cancelled_task_may_be_retried_and_is_not_to_be_cancelled_any_more(self) -> None:
        task = self.new(delay=60)
        self.add(task)
        self.cancel(task)
        answered = self.retry(task, NOW + 2)
        self.assertEqual((answered.status, answered.cancel_requested), (ACCEPTED, False))
        (again,) = self.claim(now=NOW + 2).tasks
        self.assertIs(self.end(after_failure(replace(again, retries=1), NO, NOW, 1)), RETRYING)

    def test_a_retry_forgives_crashes(self) -> None:
        task = self.run_one()
        for attempt in (1, 2, 3):
            self.reopen([Suspect(task.task_id, attempt)])
            self.claim()
        self.assertEqual((self.get(task).status, self.get(task).crashes), (FAILED, 3))
        self.assertEqual(self.retry(task).crashes, 0)
        self.assertEqual([one.attempt for one in self.claim().tasks], [4])
        self.reopen([Suspect(task.task_id, 4)])
        self.assertEqual((self.get(task).status, self.get(task).crashes), (RETRYING, 1))

    def test_what_has_neither_failed_nor_been_cancelled_cannot_be_retried(self) -> None:
        waiting = self.new(delay=5)
        self.add(waiting)
        for task in (waiting, self.run_one(), self.retrying(), self.ended(COMPLETED)):
            status = self.get(task).status
            refusal = self.refused(self.retry, task)
            self.assertIs(refusal.status, status)
            self.assertIn(Move.RETRY, str(refusal))

    def test_an_attempt_that_was_cancelled_and_retried_meanwhile_writes_nothing(self) -> None:
        task = self.run_one()
        self.assertIs(self.end(cancel(task, NOW)), CANCELLED)
        self.retry(task)
        self.assertIsNone(self.end(complete(task, "1", NOW)))
        self.assertEqual(self.get(task).status, ACCEPTED)
        self.claim()
        self.assertIsNone(self.end(complete(task, "1", NOW)))
        self.assertEqual((self.get(task).status, self.get(task).result), (RUNNING, None))

    # Delete and forget

    def test_a_task_that_has_ended_can_be_deleted(self) -> None:
        for status in (COMPLETED, FAILED, CANCELLED):
            task = self.ended(status)
            self.assertEqual(self.delete(task), task)
            self.assertIsNone(self.wait(self.store.get(task.task_id)))
            self.assertIsNone(self.delete(task))
        self.assertEqual(self.names(), [])

    def test_a_task_that_has_not_ended_cannot_be_deleted(self) -> None:
        waiting = self.new(delay=5)
        self.add(waiting)
        for task in (waiting, self.run_one(), self.retrying()):
            self.refused(self.delete, task)

    def test_a_deleted_task_is_not_written_again_by_a_late_attempt(self) -> None:
        task = self.run_one()
        self.assertIs(self.end(cancel(task, NOW)), CANCELLED)
        self.delete(task)
        self.assertIsNone(self.end(complete(task, "1", NOW)))
        self.assertEqual(self.names(), [])

    def test_what_ended_first_is_forgotten_first(self) -> None:
        for age in (3, 1, 4, 2):
            self.ended(COMPLETED, NOW - age, name=f"{age}")
        self.forget_at_once(2)
        self.assertIs(self.wait(self.store.forget(NOW - 1, NOW)), True)
        self.assertEqual(self.names(), ["2", "1"])
        self.assertIs(self.wait(self.store.forget(NOW - 1, NOW)), False)
        self.assertEqual(self.names(), ["1"])

    def test_it_is_forgotten_for_a_time_and_the_rest_later(self) -> None:
        for _ in range(9):
            self.ended(COMPLETED)
        self.patch(maintenance, "FEWEST", 2)
        self.patch(maintenance, "ENOUGH", 0.1)
        self.patch(maintenance, "monotonic", count(step=0.04).__next__)
        self.assertIs(self.wait(self.store.forget(NOW + 1, NOW)), True)
        self.assertEqual(len(self.names()), 3)
        self.assertIs(self.wait(self.store.forget(NOW + 1, NOW)), False)
        self.assertEqual(self.names(), [])

    def test_whatever_ended_is_forgotten_and_nothing_else(self) -> None:
        for status in (COMPLETED, FAILED, CANCELLED):
            self.ended(status)
        retried = self.ended(FAILED, name="retried")
        self.retry(retried)
        self.add(self.new("waiting", delay=5))
        self.run_one(name="running")
        self.retrying(name="retrying")
        self.wait(self.store.forget(NOW + 999, NOW))
        self.assertEqual(self.names(), ["retrying", "running", "waiting", "retried"])

    # What is told of it

    def test_unfinished_is_right_after_every_operation(self) -> None:
        def check(number: int) -> None:
            self.assertEqual(self.store.unfinished, number)
            self.assertEqual(self.store.answered, self.store.asked)
            statuses = (ACCEPTED, RUNNING, RETRYING)
            self.assertEqual(len(self.names(statuses=statuses)), number)

        one, two = self.new(delay=1), self.new(delay=1)
        self.add(one, two)
        check(2)
        running = self.run_one()
        check(3)
        self.assertIs(self.end(after_failure(replace(running, retries=9), NO, NOW, 0)), RETRYING)
        check(3)
        (running,) = self.claim().tasks
        check(3)
        self.cancel(running)
        check(3)
        self.end(cancel(running, NOW))
        check(2)
        self.assertIsNone(self.end(complete(running, "1", NOW)))
        check(2)
        self.cancel(one)
        check(1)
        self.cancel(one)
        check(1)
        self.retry(one)
        check(2)
        self.end(fail(self.claim().tasks[0], NO, NOW))
        check(1)
        self.delete(one)
        check(1)
        self.wait(self.store.forget(NOW + 1, NOW))
        check(1)
        self.assertIsNone(self.wait(self.add_with_key([self.new()], [self.new()])))
        check(3)
        self.wait(self.add_with_key([self.new()], [self.new()]))
        check(3)
        self.assertRaises(IntegrityError, self.add, two)
        check(3)

    def test_unfinished_counts_those_that_are_on_their_way(self) -> None:
        added = self.store.add([self.new(), self.new()], [self.new()])
        self.assertEqual(self.store.unfinished, 3)
        self.wait(added)
        self.assertEqual(self.store.unfinished, 3)
        first, second = self.add_with_key([self.new()]), self.add_with_key([self.new()])
        self.assertEqual(self.store.unfinished, 5)
        self.wait(first)
        self.wait(second)
        self.assertEqual(self.store.unfinished, 4)

    def test_unfinished_is_right_after_a_new_start(self) -> None:
        self.add(self.new(delay=1), self.new(kind="other"))
        self.run_one()
        self.retrying()
        for status in (COMPLETED, FAILED, CANCELLED):
            self.ended(status)
        self.assertIsNone(self.store.newest)
        newest = self.ended(COMPLETED).task_id
        self.reopen()
        self.assertEqual((self.store.unfinished, self.store.newest), (4, newest))

    def test_every_change_of_a_status_is_told(self) -> None:
        task = self.retrying()
        (again,) = self.claim(now=NOW + 10).tasks
        self.cancel(again)
        self.end(cancel(again, NOW))
        self.cancel(task)
        self.retry(task)
        self.end(fail(self.claim().tasks[0], NO, NOW))
        self.retry(task)
        self.cancel(task)
        told = [status for task_id, status in self.changed if task_id == task.task_id]
        self.assertEqual(told, [Status(status) for status, _ in self.history(task)])
        self.assertEqual(
            [status for status in told if status is not RUNNING],
            [ACCEPTED, RETRYING, CANCELLED, ACCEPTED, FAILED, ACCEPTED, CANCELLED],
        )

    def test_a_change_is_told_when_it_can_be_read(self) -> None:
        task = self.run_one()
        seen: list[Any] = []
        self.store.published = lambda _, news: seen.append(self.store.get(news[0].task_id))
        self.end(complete(task, "1", NOW))
        while not seen:  # where the changes of others are just being read, ours waits for its turn
            self.turns.turn()
        self.assertIs(self.wait(seen[0]).status, COMPLETED)

    def test_what_was_left_where_there_is_no_seat_is_to_go_on_elsewhere(self) -> None:
        running = self.run_one()
        self.reopen(now=NOW + 5, seated=())
        found = self.get(running)
        self.assertEqual((found.status, found.attempt, found.run_at), (RETRYING, 1, NOW + 5))
        self.assertEqual(self.history(running)[2:], [("retrying", 1)])
        self.assertEqual(self.gone, {})
        self.reopen(now=NOW + 6)
        [again] = self.claim(now=NOW + 6).tasks
        self.assertEqual((again.task_id, again.attempt), (running.task_id, 2))

    # Kinds that are gone

    def test_tasks_of_kinds_that_are_gone_are_counted_and_wait(self) -> None:
        self.add(self.new(kind="gone"), self.new(kind="gone", delay=9), self.new(kind="away"))
        self.add(self.new("still there"))
        running = self.run_one(kind="gone")
        self.end(complete(self.run_one(kind="gone"), "1", NOW))
        self.reopen(now=NOW + 5)
        self.assertEqual(self.gone, {"gone": 3, "away": 1})
        self.assertEqual(self.store.unfinished, 5)
        found = self.get(running)
        self.assertEqual((found.status, found.attempt, found.run_at), (RETRYING, 1, NOW + 5))
        self.assertEqual(self.history(running)[2:], [("retrying", 1)])
        self.assertEqual([task.name for task in self.claim(now=NOW + 99).tasks], ["still there"])

    def test_a_kind_that_comes_back_goes_on(self) -> None:
        running = self.run_one(kind="gone")
        self.reopen()
        self.reopen(kinds=("simulate", "gone"))
        self.assertEqual(self.gone, {})
        claim = self.wait(self.store.claim("gone", 10, NOW))
        self.assertEqual([(one.task_id, one.attempt) for one in claim.tasks], [(running.task_id, 2)])

    def test_without_any_kind_everything_waits(self) -> None:
        task = self.run_one()
        self.reopen(kinds=())
        self.assertEqual((self.gone, self.get(task).status), ({"simulate": 1}, RETRYING))
