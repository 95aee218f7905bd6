"""What a task is after an attempt, for every way in which one can end."""

from collections.abc import Callable
from itertools import product
from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from asynctask import model
from asynctask.attempts import MAX_MESSAGE, Attempt, error_of
from asynctask.context import Permanent
from asynctask.model import CANCELLED, COMPLETED, FAILED, RETRYING, Error, InvalidTransition, Task
from asynctask.processes import ProcessDiedError

NOW: Final = 200.0
LATER: Final = 7.0
"""Seconds that the backoff says."""

RAISED: Final = {
    "raised": ValueError("no"),
    "raised Permanent": Permanent("never"),
    "unwound": CancelledError(),
}
OUTCOMES: Final = ("returned", *RAISED, "given up")


class Silent(Exception):
    """Has no text to show."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def running(retries: int = 0, failures: int = 0) -> Task:
    new = model.Submission("a", "simulate", "{}", timeout=30.0, retries=retries)
    return replace(model.start(model.accept(new, "task_1", 100.0), 101.0), failures=failures)


def attempt(
    *, cancelled: bool = False, timed_out: bool = False, releasing: bool = False, **counts: int
) -> Attempt:
    """An attempt that is to end for these reasons."""
    made = Attempt(running(**counts))
    made.cancelled, made.timed_out, made.releasing = cancelled, timed_out, releasing
    return made


def ended(attempt: Attempt, outcome: str, backoff: Callable[[], float] = lambda: LATER) -> Task:
    """What its task is after that."""
    if outcome == "returned":
        return attempt.succeeded("[1]", NOW, backoff)
    if outcome == "given up":
        return attempt.given_up(NOW, backoff)
    return attempt.failed(Failure(RAISED[outcome]), NOW, backoff)


def meaning(outcome: str, cancelled: bool, timed_out: bool, releasing: bool) -> str:
    """What the contract says that this end is."""
    if cancelled and (outcome != "returned" or timed_out):
        return "cancelled"
    if timed_out:
        return "Timeout"
    if outcome == "given up" or (releasing and outcome != "returned"):
        return "interrupted"
    return "completed" if outcome == "returned" else type(RAISED[outcome]).__name__


def expected(means: str, task: Task) -> tuple[object, ...]:
    """Status, error, failures, when it may start, and whether it has ended."""
    failures = task.failures + 1
    if means == "completed":
        return COMPLETED, None, task.failures, task.run_at, True
    if means == "interrupted":
        return RETRYING, None, task.failures, NOW, False
    if means == "Permanent":
        return FAILED, "Permanent", task.failures, task.run_at, True
    if failures > task.retries:
        return FAILED, means, failures, task.run_at, True
    return RETRYING, means, failures, NOW + LATER, False


class EveryEnd(SynchronousTestCase):
    """All that can come together at the end of an attempt."""

    @given(
        st.sampled_from(OUTCOMES),
        *[st.booleans()] * 3,
        st.integers(0, 100),
        st.integers(0, 100),
    )
    def test_a_task_is_what_the_contract_says(
        self,
        outcome: str,
        cancelled: bool,
        timed_out: bool,
        releasing: bool,
        retries: int,
        failures: int,
    ) -> None:
        self.check_end(outcome, cancelled, timed_out, releasing, retries, failures)

    def test_a_task_is_what_the_contract_says_for_few_retries(self) -> None:
        yes_or_no = (False, True)
        for why in product(OUTCOMES, yes_or_no, yes_or_no, yes_or_no, range(3), range(3)):
            self.check_end(*why)

    def check_end(
        self,
        outcome: str,
        cancelled: bool,
        timed_out: bool,
        releasing: bool,
        retries: int,
        failures: int,
    ) -> None:
        under_way = attempt(
            cancelled=cancelled,
            timed_out=timed_out,
            releasing=releasing,
            retries=retries,
            failures=failures,
        )
        task = ended(under_way, outcome)
        means = meaning(outcome, cancelled, timed_out, releasing)
        self.assertEqual((task.attempt, task.retries), (1, retries))
        self.assertEqual(task.cancel_requested, cancelled)
        if means == "cancelled":
            self.assertEqual((task.status, task.finished_at), (CANCELLED, NOW))
            return
        error = None if task.error is None else task.error.type
        has_ended = task.finished_at == NOW
        self.assertEqual(
            (task.status, error, task.failures, task.run_at, has_ended), expected(means, under_way.task)
        )
        self.assertEqual(task.result, "[1]" if means == "completed" else None)

    def test_a_cancelled_attempt_that_unwound_too_late_is_no_timeout(self) -> None:
        for outcome in ("returned", *RAISED, "given up"):
            task = ended(attempt(cancelled=True, timed_out=True), outcome)
            self.assertEqual((task.status, task.error, task.failures), (CANCELLED, None, 0), outcome)

    def test_a_backoff_is_asked_only_for_an_attempt_that_may_come(self) -> None:
        yes_or_no = (False, True)
        for outcome, timed_out, retries, failures in product(OUTCOMES, yes_or_no, range(3), range(3)):
            asked: list[float] = []

            def backoff(asked: list[float] = asked) -> float:
                asked.append(LATER)
                return LATER

            under_way = attempt(timed_out=timed_out, retries=retries, failures=failures)
            task = ended(under_way, outcome, backoff)
            comes_later = task.status is RETRYING and task.failures > failures
            self.assertEqual(asked, [LATER] if comes_later else [], task)

    @given(st.sampled_from(OUTCOMES), st.sampled_from(sorted(set(model.Status) - {model.RUNNING})))
    def test_only_a_running_task_has_an_attempt_to_end(self, outcome: str, status: model.Status) -> None:
        not_running = Attempt(replace(running(), status=status))
        if status is RETRYING and outcome == "raised Permanent":
            self.assertEqual(ended(not_running, outcome).status, FAILED)
        else:
            self.assertRaises(InvalidTransition, ended, not_running, outcome)


class LongestStep(SynchronousTestCase):
    """How long the task held the reactor."""

    def test_no_step_was_none(self) -> None:
        for outcome in OUTCOMES:
            self.assertIsNone(ended(attempt(), outcome).longest_step)

    def test_it_is_kept_whatever_the_end(self) -> None:
        for outcome in OUTCOMES:
            under_way = attempt(retries=1)
            under_way.longest = 61.23456
            self.assertEqual(ended(under_way, outcome).longest_step, 61.235)

    def test_a_later_attempt_only_adds_a_longer_one(self) -> None:
        for before, now, longest in ((80.0, 60.0, 80.0), (60.0, 80.0, 80.0), (60.0, 0.0, 60.0)):
            later = Attempt(replace(running(), longest_step=before))
            later.longest = now
            self.assertEqual(ended(later, "returned").longest_step, longest)


class Errors(SynchronousTestCase):
    """What a task says of an exception."""

    def test_an_error_is_the_class_and_its_text(self) -> None:
        self.assertEqual(error_of(Failure(KeyError("x"))), Error("KeyError", "'x'"))
        self.assertEqual(error_of(Failure(SystemExit(3))), Error("SystemExit", "3"))

    def test_a_process_that_died_has_crashed(self) -> None:
        self.assertEqual(error_of(Failure(ProcessDiedError("SIGSEGV"))), Error("Crashed", "SIGSEGV"))

    def test_a_text_that_no_store_would_take_is_made_to_fit(self) -> None:
        message = error_of(Failure(ValueError("a\0b\ud800c" + "x" * 20_000))).message
        self.assertEqual(message[:5], "a\u2400b?c")
        self.assertEqual(len(message), MAX_MESSAGE)

    def test_a_text_that_cannot_be_had_is_none(self) -> None:
        self.assertEqual(error_of(Failure(Silent())), Error("Silent", "(its text cannot be shown)"))

    def test_an_empty_text_is_told_by_the_exception_itself(self) -> None:
        self.assertEqual(error_of(Failure(ValueError())), Error("ValueError", "ValueError()"))

    def test_a_timeout_says_how_long_the_attempt_might_take(self) -> None:
        self.assertEqual(
            ended(attempt(timed_out=True), "unwound").error,
            Error("Timeout", "The attempt took longer than 30 seconds"),
        )
