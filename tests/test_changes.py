"""The changes of a task by its history are those that were told when they happened."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from asynctask import changes, wire
from asynctask.metrics import Metrics
from asynctask.model import (
    ACCEPTED,
    CANCELLED,
    COMPLETED,
    FAILED,
    RETRYING,
    RUNNING,
    WAITING,
    Callback,
    Deleted,
    Error,
    InvalidTransition,
    News,
    Progress,
    Status,
    Submission,
    Task,
    accept,
    after_failure,
    cancel,
    complete,
    fail,
    interrupt,
)
from asynctask.sqlitefile import Place
from asynctask.statements import KEPT_CHANGES
from asynctask.store import SqlStore
from tests.turns import Turns

START = 1_700_000_000.25
NO = Error("ValueError", 'no "status":"retrying"')
ONLY_LATEST = ("progress", "longest_step", "run_at", "cancel_requested")
"""What a change that is not the latest need not tell as it was."""

Shape = dict[str, Any]


def shape(task: Task) -> Shape:
    """A task as an event tells it."""
    found: Shape = json.loads(bytes(wire.task_json(task, whole=False)))
    return found


def without(shape: Shape, *keys: str) -> Shape:
    return {key: value for key, value in shape.items() if key not in keys}


ENDS: Final[dict[str, Callable[[Task, float], Task]]] = {
    "complete": lambda task, now: replace(complete(task, "1", now), longest_step=2.5),
    "fail": lambda task, now: fail(task, NO, now),
    "try again": lambda task, now: after_failure(task, NO, now, 7.25),
    "interrupt": interrupt,
    "unwind": lambda task, now: cancel(task, now),
}


class Life:
    """A task in a store, and what was told of it."""

    def __init__(self, store: SqlStore, turns: Turns, wanted: Submission) -> None:
        self.store = store
        self.turns = turns
        self.now = START
        self.told: list[Task] = []
        self.store.published = self.hear
        self.progress: dict[str, tuple[int, Progress]] = {}
        self.store.told = self.progress.get
        self.ids = wire.Ids()
        self.wanted = wanted

    def hear(self, _seq: int, news: Sequence[News]) -> None:
        self.told += [one for one in news if isinstance(one, Task)]

    def accept(self, chance: bytes, *, starts: bool) -> None:
        task = accept(self.wanted, self.ids.next(self.now, chance), self.now)
        self.task_id = task.task_id
        waiting, starting = ([], [task]) if starts else ([task], [])
        self.turns.outcome(self.store.add(waiting, starting))

    def take(self, move: str) -> None:
        """Let something happen, if it can."""
        self.now += 1.5005
        if move == "late":
            self.now += 1_000
            move = "claim"
        task = self.task
        try:
            if move == "claim":
                self.turns.outcome(self.store.claim("simulate", 9, self.now))
            elif move == "cancel":
                self.turns.outcome(self.store.cancel(self.task_id, self.now))
            elif move == "retry":
                self.turns.outcome(self.store.retry(self.task_id, self.now))
            elif move == "report" and task.status is RUNNING:
                self.progress[task.task_id] = (task.attempt, Progress(1, 2))
                self.store.report(task, Progress(1, 2))
            elif move in ENDS and task.status is RUNNING:
                self.turns.outcome(self.store.end(ENDS[move](task, self.now), self.now))
                self.progress.clear()
        except InvalidTransition:
            pass

    @property
    def task(self) -> Task:
        task = self.turns.outcome(self.store.get(self.task_id))
        assert task is not None
        return task


MOVES = ["claim", "late", "cancel", "retry", "report", *ENDS]


class PastTests(SynchronousTestCase):
    """`past`, over the lives of tasks in a real store."""

    def setUp(self) -> None:
        self.turns = Turns()
        self.store = SqlStore(Place(None), self.turns, metrics=Metrics())
        self.store.open([], START)
        self.addCleanup(lambda: self.turns.outcome(self.store.close()))
        self.lives = 0

    def live(self, *moves: str, starts: bool = True, wanted: Submission | None = None) -> Life:
        life = Life(self.store, self.turns, wanted or Submission("a", "simulate", "{}", retries=9))
        self.lives += 1
        life.accept(bytes(14) + bytes(divmod(self.lives, 32)), starts=starts)
        for move in moves:
            life.take(move)
        return life

    @given(
        st.booleans(),
        st.sampled_from([0, 5.125]),
        st.integers(0, 2),
        st.sampled_from([None, "http://example.com/"]),
        st.lists(st.sampled_from(MOVES), max_size=14),
    )
    def test_it_is_what_was_told_as_near_as_it_is_kept(
        self, starts: bool, delay: float, retries: int, url: str | None, moves: list[str]
    ) -> None:
        wanted = Submission("a", "simulate", "{}", delay, retries=retries, callback_url=url)
        life = self.live(*moves, starts=starts, wanted=wanted)
        past = changes.past(life.task)
        told = [task for task in life.told if task.task_id == life.task_id]
        self.assertEqual([task.n for task in past], list(range(1, len(told) + 1)))
        self.assertEqual([task.n for task in told], [task.n for task in past])
        for then, kept in zip(told[:-1], past[:-1], strict=True):
            self.assertEqual(without(shape(kept), *ONLY_LATEST), without(shape(then), *ONLY_LATEST))
            self.assertEqual((kept.progress, kept.longest_step), (None, None))
            self.assertEqual(kept.cancel_requested, kept.status is CANCELLED)
        last = without(shape(past[-1]), "progress", "cancel_requested")
        self.assertEqual(last, without(shape(told[-1]), "progress", "cancel_requested"))
        self.assertEqual(without(shape(past[-1]), "progress"), without(shape(life.task), "progress"))
        self.assert_run_at(past, told)

    def assert_run_at(self, past: list[Task], told: list[Task]) -> None:
        """It is right where it still holds, and else when the task did start."""
        moved = any(task.status in WAITING for task in told[1:])
        for number, (kept, then) in enumerate(zip(past, told, strict=True)):
            starts = [task.started_at for task in told[number:] if task.status is RUNNING]
            if not moved or number == len(told) - 1:
                self.assertEqual(kept.run_at, then.run_at)
            elif kept.status in WAITING and starts:
                self.assertEqual(wire.timestamp(kept.run_at), wire.timestamp(starts[0] or 0))

    def statuses(self, life: Life) -> list[tuple[str, int]]:
        return [(task.status, task.attempt) for task in changes.past(life.task)]

    def test_an_error_lasts_until_the_next_end_or_beginning(self) -> None:
        life = self.live("try again", "late", "fail", "retry", "late", "complete")
        found = [(task.status, task.error) for task in changes.past(life.task)]
        self.assertEqual(
            found,
            [
                (ACCEPTED, None),
                (RUNNING, None),
                (RETRYING, NO),
                (RUNNING, NO),
                (FAILED, NO),
                (ACCEPTED, None),
                (RUNNING, None),
                (COMPLETED, None),
            ],
        )

    def test_an_interrupted_attempt_has_no_error_of_an_earlier_one(self) -> None:
        life = self.live("try again", "late", "interrupt", "late")
        told = [(task.status, task.error) for task in life.told]
        self.assertEqual(told[2:], [(RETRYING, NO), (RUNNING, NO), (RETRYING, None), (RUNNING, None)])
        self.assertEqual([(task.status, task.error) for task in changes.past(life.task)], told)

    def test_a_cancel_that_waited_for_the_handler_is_one_change(self) -> None:
        life = self.live("cancel", "try again")
        self.assertEqual(self.statuses(life), [("accepted", 0), ("running", 1), ("cancelled", 1)])

    def test_a_delay_is_told_also_of_one_that_was_retried(self) -> None:
        waits = Submission("a", "simulate", "{}", 100)
        life = self.live("cancel", starts=False, wanted=waits)
        self.assertEqual({task.run_at for task in changes.past(life.task)}, {START + 100})
        life.take("retry")
        life.take("claim")
        first, *_, last = changes.past(life.task)
        self.assertEqual(wire.timestamp(first.run_at), wire.timestamp(last.started_at or 0))

    def test_how_a_callback_went_is_told_with_the_latest_only(self) -> None:
        wanted = Submission("a", "simulate", "{}", callback_url="http://example.com/")
        task = replace(
            self.live("complete", wanted=wanted).task,
            callback=Callback("http://example.com/", "delivered", 2, "once too late"),
        )
        found = [task.callback and task.callback.state for task in changes.past(task)]
        self.assertEqual(found, ["pending", "pending", "delivered"])

    def test_a_task_without_a_history_has_no_past(self) -> None:
        self.assertEqual(changes.past(Task("t", "a", "simulate", ACCEPTED, 0, 0, 0)), [])

    def test_a_task_that_a_broken_machine_restarts_all_day_keeps_its_first_changes(self) -> None:
        life = self.live(*["interrupt", "claim"] * (KEPT_CHANGES // 2 + 5))
        task = life.task
        self.assertEqual((task.n, task.attempt), (KEPT_CHANGES + 12, KEPT_CHANGES // 2 + 6))
        past = changes.past(task)
        self.assertEqual([one.n for one in past], [*range(1, KEPT_CHANGES + 1), task.n])
        self.assertEqual((past[-1].status, past[-1].attempt), (RUNNING, task.attempt))
        self.assertEqual((past[-2].status, past[-2].attempt), (RUNNING, KEPT_CHANGES // 2))


class BodyTests(SynchronousTestCase):
    """The changes of a commit, as they are kept."""

    @given(
        st.lists(
            st.one_of(
                st.builds(Deleted, st.text(), st.text()),
                st.builds(
                    Task,
                    st.text(),
                    st.text(),
                    st.text(),
                    st.sampled_from(Status),
                    st.integers(0, 10**6),
                    st.floats(0, 1e10),
                    st.floats(0, 1e10),
                    error=st.none() | st.builds(Error, st.text(), st.text()),
                    callback=st.none() | st.builds(Callback, st.text()),
                    progress=st.none() | st.builds(Progress, st.just(1), st.just(2), st.text()),
                    n=st.integers(1, 10**6),
                ),
            )
        )
    )
    def test_what_was_kept_is_read_again(self, news: list[News]) -> None:
        self.assertEqual(changes.read(changes.body(news).decode()), news)

    def test_an_end_is_told_as_the_commit_left_it(self) -> None:
        running = Task("t", "a", "simulate", RUNNING, 1, START, START, input="{}", history="[]")
        again = replace(after_failure(replace(running, retries=1), NO, START, 5), result="1")
        told = changes.ended(again, False, 2, START)
        self.assertEqual((told.status, told.n, told.cancel_requested), (RETRYING, 3, False))
        told = changes.ended(again, True, 2, START + 1)
        self.assertEqual((told.status, told.n, told.finished_at), (CANCELLED, 3, START + 1))
        self.assertTrue(told.cancel_requested)

    def test_input_result_and_history_are_not_kept(self) -> None:
        task = Task("t", "a", "simulate", COMPLETED, 1, START, START, input="{}", result="1", history="[]")
        self.assertEqual(changes.read(changes.body([task]).decode()), [changes.listed(task)])
