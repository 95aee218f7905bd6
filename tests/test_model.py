"""What may happen to a task."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace
from twisted.trial.unittest import SynchronousTestCase

from asynctask import model
from asynctask.model import ENDED, TRANSITIONS, WAITING, Error, InvalidTransition, Move, Status, Task

CONTRACT = """
accepted   failed cancelled
running    accepted retrying
retrying   running
completed  running
failed     running retrying
cancelled  accepted retrying running
"""
"""The contract's table: each status, and those that it comes from (besides the new task's)."""

STEPS = {
    (Status(before), Status(after))
    for after, *befores in map(str.split, CONTRACT.strip().splitlines())
    for before in befores
}


class TheTable(SynchronousTestCase):
    """The states of a task, and the steps between them."""

    def test_no_other_step_exists_than_the_contract_has(self) -> None:
        steps = {(before, after) for (before, _), after in TRANSITIONS.items()}
        self.assertEqual(steps, STEPS)

    def test_each_move_leads_to_one_status(self) -> None:
        for move in Move:
            reached = {after for (_, made), after in TRANSITIONS.items() if made is move}
            self.assertEqual(len(reached), 1, move)

    def test_what_waits_can_start_and_nothing_else_can(self) -> None:
        self.assertEqual(WAITING, {Status.ACCEPTED, Status.RETRYING})

    def test_what_has_ended_is_completed_failed_or_cancelled(self) -> None:
        self.assertEqual(ENDED, {Status.COMPLETED, Status.FAILED, Status.CANCELLED})

    def test_ended_states_leave_only_by_a_retry(self) -> None:
        leaving = {(before, move) for before, move in TRANSITIONS if before in ENDED}
        self.assertEqual(leaving, {(Status.FAILED, Move.RETRY), (Status.CANCELLED, Move.RETRY)})

    def test_what_has_not_ended_can_be_cancelled(self) -> None:
        cancellable = {before for before, move in TRANSITIONS if move is Move.CANCEL}
        self.assertEqual(cancellable, set(Status) - ENDED)

    def test_every_status_is_reached_from_a_new_task(self) -> None:
        reached = {Status.ACCEPTED}
        for _ in Status:
            reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
        self.assertEqual(reached, set(Status))


def new(delay: float = 0, now: float = 100.0, retries: int = 0) -> Task:
    submission = model.Submission("a", "simulate", '{"duration":5}', delay, retries=retries)
    return model.accept(submission, "task_1", now)


def running() -> Task:
    return model.start(new(), 101.0)


NO = Error("ValueError", "no")

MOVES: dict[str, Callable[[Task, float], Task]] = {
    "start": model.start,
    "complete": lambda task, now: model.complete(task, "[1]", now),
    "fail": lambda task, now: model.fail(task, NO, now),
    "fail once": lambda task, now: model.after_failure(task, NO, now, DELAY),
    "interrupt": model.interrupt,
    "crash": model.crash,
    "cancel": model.cancel,
    "request cancel": model.request_cancel,
    "retry": model.retry,
}
"""What happens to tasks, called alike."""

RETRIES = 2
DELAY = 4.0
"""Seconds between a failure and the next attempt."""


@dataclass
class Expected:
    """The same task, told more simply: what the contract says in words."""

    status: str = "accepted"
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    run_at: float = 100.0
    started_at: float | None = None
    finished_at: float | None = None
    result: str | None = None
    error: str | None = None

    def move(self, name: str, now: float) -> bool:
        """Whether that may happen; and if so, it has."""
        waits = self.status in ("accepted", "retrying")
        if name == "start" and waits:
            self.status, self.started_at = "running", now
            self.attempt += 1
        elif name == "fail" and self.status in ("running", "retrying"):
            self.end("failed", now, error="ValueError")
        elif name == "complete" and self.status == "running":
            self.end("completed", now, result="[1]")
        elif name == "fail once" and self.status == "running":
            self.failures, self.error = self.failures + 1, "ValueError"
            self.try_again(now + DELAY, now, over=self.failures > RETRIES)
        elif name in ("interrupt", "crash") and self.status == "running":
            self.crashes += name == "crash"
            if self.crashes == 3:
                self.end("failed", now, error="Crashed")
            else:
                self.try_again(now, now)
        elif name == "request cancel" and self.status == "running":
            self.cancel_requested = True
        elif name in ("cancel", "request cancel") and (waits or self.status == "running"):
            self.cancel(now)
        elif name == "request cancel" and self.status == "cancelled":
            pass
        elif name == "retry" and self.status in ("failed", "cancelled"):
            self.status, self.run_at, self.finished_at = "accepted", now, None
            self.failures = self.crashes = 0
            self.cancel_requested, self.result, self.error = False, None, None
        else:
            return False
        return True

    def try_again(self, when: float, now: float, over: bool = False) -> None:
        if self.cancel_requested:
            self.cancel(now)
        elif over:
            self.end("failed", now, error=self.error)
        else:
            self.status, self.run_at = "retrying", when

    def cancel(self, now: float) -> None:
        self.cancel_requested = True
        self.end("cancelled", now, error=self.error)

    def end(self, status: str, now: float, result: str | None = None, error: str | None = None) -> None:
        self.status, self.finished_at, self.result, self.error = status, now, result, error


LIVELY = ["start"] * 4 + ["fail once", "interrupt", "crash", "request cancel", "retry"]

walks = st.lists(st.tuples(st.sampled_from(list(MOVES)), st.floats(0, 1e9)), max_size=25) | st.lists(
    st.tuples(st.sampled_from(LIVELY), st.floats(0, 1e9)), max_size=25
)
"""Moves and their times; half of the walks do not end soon."""


class EveryWalk(SynchronousTestCase):
    """Whatever happens to a task, in whatever order."""

    @given(walks)
    @example([("start", 1.0), ("fail once", 2.0)] * 2 + [("fail once", 3.0)])
    @example([("start", 1.0), ("crash", 2.0)] * 3 + [("retry", 3.0), ("start", 4.0), ("crash", 5.0)])
    @example([("start", 1.0), ("request cancel", 2.0), ("fail once", 3.0), ("retry", 4.0)])
    def test_a_walk_goes_where_the_contract_leads(self, walk: list[tuple[str, float]]) -> None:
        task, expected = new(retries=RETRIES), Expected()
        for name, now in walk:
            before = asdict(task)
            if expected.move(name, now):
                task = MOVES[name](task, now)
            else:
                with self.assertRaises(InvalidTransition):
                    MOVES[name](task, now)
                self.assertEqual(asdict(task), before)
            self.check_same(task, expected)

    def check_same(self, task: Task, expected: Expected) -> None:
        self.assertEqual(
            Expected(
                status=task.status,
                attempt=task.attempt,
                failures=task.failures,
                crashes=task.crashes,
                cancel_requested=task.cancel_requested,
                run_at=task.run_at,
                started_at=task.started_at,
                finished_at=task.finished_at,
                result=task.result,
                error=None if task.error is None else task.error.type,
            ),
            expected,
        )

    @given(walks)
    def test_the_attempt_only_grows_and_what_was_asked_for_stays(
        self, walk: list[tuple[str, float]]
    ) -> None:
        task = new(retries=RETRIES)
        for name, now in walk:
            try:
                after = MOVES[name](task, now)
            except InvalidTransition:
                continue
            self.assertEqual(after.attempt, task.attempt + (name == "start"))
            for kept in ("task_id", "name", "kind", "input", "accepted_at", "retries"):
                self.assertEqual(getattr(after, kept), getattr(task, kept))
            task = after

    @given(
        st.sampled_from(sorted(ENDED)), st.sampled_from(sorted(MOVES.keys() - {"retry"})), st.floats(0, 1e9)
    )
    def test_nothing_that_the_service_does_wakes_an_ended_task(
        self, status: Status, name: str, now: float
    ) -> None:
        ended = Task("task_1", "a", "simulate", status, 1, 100.0, 100.0)
        if name == "request cancel" and status == "cancelled":
            self.assertIs(MOVES[name](ended, now), ended)
            return
        with self.assertRaises(InvalidTransition):
            MOVES[name](ended, now)


class Lives(SynchronousTestCase):
    """The life of a task."""

    def test_a_submission_becomes_a_task_that_waits(self) -> None:
        self.assertEqual(
            asdict(new(delay=1.5)),
            {
                "task_id": "task_1",
                "name": "a",
                "kind": "simulate",
                "status": "accepted",
                "attempt": 0,
                "accepted_at": 100.0,
                "run_at": 101.5,
                "started_at": None,
                "finished_at": None,
                "timeout": None,
                "retries": 0,
                "failures": 0,
                "crashes": 0,
                "cancel_requested": False,
                "longest_step": None,
                "traceparent": None,
                "callback": None,
                "progress": None,
                "error": None,
                "input": '{"duration":5}',
                "result": None,
                "history": None,
                "n": 1,
            },
        )

    def test_a_task_may_start_when_its_delay_is_over(self) -> None:
        self.assertEqual(new().run_at, 100.0)
        self.assertEqual(new(delay=60).run_at, 160.0)

    def test_an_attempt_is_counted_when_it_starts(self) -> None:
        task = model.start(model.interrupt(running(), 102.0), 103.0)
        self.assertEqual((task.attempt, task.started_at), (2, 103.0))

    def test_an_attempt_begins_without_the_progress_of_the_one_before(self) -> None:
        from_before = replace(new(), progress=model.Progress(4, 5))
        self.assertIsNone(model.start(from_before, 103.0).progress)

    def test_a_completed_task_has_its_result(self) -> None:
        task = model.complete(running(), '{"pages":3}', 102.0)
        self.assertEqual(task.status, Status.COMPLETED)
        self.assertEqual((task.result, task.finished_at), ('{"pages":3}', 102.0))

    def test_a_failed_task_says_why(self) -> None:
        task = model.fail(running(), NO, 102.0)
        self.assertEqual(task.status, Status.FAILED)
        self.assertEqual((task.error, task.finished_at), (NO, 102.0))

    def test_an_interrupted_task_may_start_at_once(self) -> None:
        task = model.interrupt(running(), 102.0)
        self.assertEqual((task.status, task.run_at), (Status.RETRYING, 102.0))
        self.assertIsNone(task.finished_at)
        self.assertIsNone(task.error)

    def test_an_interrupted_attempt_has_not_failed_as_an_earlier_one(self) -> None:
        failed = model.after_failure(model.start(new(retries=1), 101.0), NO, 102.0, 0.0)
        self.assertIsNone(model.interrupt(model.start(failed, 103.0), 104.0).error)

    def test_an_end_that_cannot_be_kept_leaves_another_one_by_the_same_change(self) -> None:
        for end in ("complete", "fail"):
            ended = MOVES[end](running(), 102.0)
            self.assertEqual(model.lose(ended, 103.0), model.interrupt(running(), 103.0))
            self.assertEqual(model.reject(ended, 103.0), model.fail(running(), model.UNFIT, 103.0))

    def test_a_result_that_cannot_be_kept_of_a_task_that_was_to_end_cancels_it(self) -> None:
        ended = model.complete(model.request_cancel(running(), 102.0), "[1]", 103.0)
        self.assertIs(model.lose(ended, 103.0).status, Status.CANCELLED)

    def test_an_interruption_is_no_crash(self) -> None:
        task = new()
        for _ in range(100):
            task = model.interrupt(model.start(task, 101.0), 102.0)
        self.assertEqual((task.status, task.crashes, task.attempt), (Status.RETRYING, 0, 100))

    def test_a_task_that_kills_the_process_fails_at_its_third_time(self) -> None:
        task = new()
        statuses = []
        for _ in range(3):
            task = model.crash(model.start(task, 101.0), 102.0)
            statuses.append(task.status)
        self.assertEqual(statuses, [Status.RETRYING, Status.RETRYING, Status.FAILED])
        assert task.error is not None
        self.assertEqual(task.error.type, "Crashed")
        self.assertIn("3 times", task.error.message)
        self.assertEqual((task.attempt, task.finished_at), (3, 102.0))

    def test_only_a_running_task_can_crash(self) -> None:
        for crashes in range(4):
            waiting = replace(new(), status=Status.RETRYING, attempt=2, crashes=crashes)
            self.assertRaises(InvalidTransition, model.crash, waiting, 102.0)

    def test_a_failed_attempt_is_made_again_as_often_as_was_asked_for(self) -> None:
        task, seen = new(retries=2), []
        for failures in range(1, 4):
            task = model.after_failure(model.start(task, 101.0), NO, 102.0, DELAY)
            seen.append(task.status)
            self.assertEqual((task.failures, task.error), (failures, NO))
        self.assertEqual(seen, [Status.RETRYING, Status.RETRYING, Status.FAILED])
        self.assertEqual((task.attempt, task.finished_at), (3, 102.0))

    def test_the_next_attempt_waits_for_its_time(self) -> None:
        task = model.after_failure(model.start(new(retries=1), 101.0), NO, 102.0, DELAY)
        self.assertEqual((task.run_at, task.finished_at), (106.0, None))

    def test_what_a_stop_cuts_off_uses_no_retry(self) -> None:
        task = model.interrupt(model.start(new(retries=1), 101.0), 102.0)
        task = model.after_failure(model.start(task, 103.0), NO, 104.0, DELAY)
        self.assertEqual((task.status, task.attempt, task.failures), (Status.RETRYING, 2, 1))

    def test_a_waiting_task_is_cancelled_at_once(self) -> None:
        retrying = model.after_failure(model.start(new(retries=1), 101.0), NO, 102.0, DELAY)
        for waiting in (new(delay=60), retrying):
            task = model.request_cancel(waiting, 103.0)
            self.assertEqual((task.status, task.cancel_requested), (Status.CANCELLED, True))
            self.assertEqual(task.finished_at, 103.0)

    def test_a_running_task_is_only_asked_to_end(self) -> None:
        task = model.request_cancel(running(), 102.0)
        self.assertEqual((task.status, task.cancel_requested), (Status.RUNNING, True))
        self.assertIsNone(task.finished_at)
        self.assertEqual(model.request_cancel(task, 103.0), task)

    def test_a_task_that_was_asked_to_end_is_not_tried_again(self) -> None:
        asked = model.request_cancel(model.start(new(retries=5), 101.0), 102.0)
        for after in (
            model.after_failure(asked, NO, 103.0, DELAY),
            model.interrupt(asked, 103.0),
            model.crash(asked, 103.0),
            model.cancel(asked, 103.0),
        ):
            self.assertEqual((after.status, after.finished_at), (Status.CANCELLED, 103.0))
            self.assertTrue(after.cancel_requested)

    def test_a_task_that_was_asked_to_end_may_complete(self) -> None:
        task = model.complete(model.request_cancel(running(), 102.0), "[1]", 103.0)
        self.assertEqual((task.status, task.cancel_requested), (Status.COMPLETED, True))

    def test_a_retry_by_hand_is_a_new_beginning(self) -> None:
        failed = model.fail(model.crash(running(), 102.0), NO, 103.0)
        worn = replace(
            failed,
            failures=3,
            cancel_requested=True,
            longest_step=80.0,
            progress=model.Progress(1, 2),
            result="[1]",
        )
        task = model.retry(worn, 104.0)
        self.assertEqual(task, replace(new(), attempt=1, run_at=104.0, started_at=101.0, n=5))

    def test_after_a_retry_by_hand_attempts_go_on_counting(self) -> None:
        task = model.start(model.retry(model.cancel(running(), 102.0), 103.0), 104.0)
        self.assertEqual((task.status, task.attempt), (Status.RUNNING, 2))

    @given(st.integers(2, 2_000_000_000), st.floats(0, 1, exclude_max=True))
    def test_attempts_come_after_a_wait_that_chance_spreads(self, attempt: int, chance: float) -> None:
        seconds = model.backoff(attempt, chance)
        longest = 2**attempt if attempt < 12 else 3_600
        self.assertEqual(seconds, chance * longest)
        self.assertTrue(0 <= seconds < longest)

    def test_a_move_that_the_state_forbids_says_so(self) -> None:
        with self.assertRaises(InvalidTransition) as caught:
            model.complete(new(), "null", 102.0)
        self.assertEqual(str(caught.exception), "A task that is accepted cannot complete")

    def test_a_move_is_forbidden_unless_the_table_has_it(self) -> None:
        made = {
            "start": Move.START,
            "complete": Move.COMPLETE,
            "fail": Move.GIVE_UP,
            "fail once": Move.TRY_AGAIN,
            "interrupt": Move.TRY_AGAIN,
            "crash": Move.TRY_AGAIN,
            "cancel": Move.CANCEL,
            "retry": Move.RETRY,
        }
        for status, (name, move) in product(Status, made.items()):
            task = Task("task_1", "a", "simulate", status, 1, 100.0, 100.0, retries=1)
            if (status, move) in TRANSITIONS:
                self.assertEqual(MOVES[name](task, 102.0).status, TRANSITIONS[status, move])
            else:
                self.assertRaises(InvalidTransition, MOVES[name], task, 102.0)
