"""Every walk over the states, crashes included, keeps the promises: a state machine drives the real store.

What tasks should be is told a second time here, more simply: as the contract says it in words.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Final

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from asynctask import maintenance
from asynctask.istore import Key, Known
from asynctask.metrics import Metrics
from asynctask.model import (
    Error,
    InvalidTransition,
    Query,
    Submission,
    Task,
    accept,
    after_failure,
    cancel,
    complete,
    fail,
    interrupt,
)
from asynctask.recorder import Suspect
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from asynctask.wire import Ids
from tests.test_model import STEPS
from tests.turns import Turns

_MORE: Final = os.environ.get("ASYNCTASK_HYPOTHESIS_EXAMPLES")
EXAMPLES: Final = int(_MORE or 12)
PHASES: Final = tuple(Phase) if _MORE else (Phase.explicit, Phase.generate)
"""To find the shortest walk that breaks a promise takes minutes."""

START: Final = 1_700_000_000.0
KEPT: Final = 10
"""Seconds that a key is known here."""

AT_ONCE: Final = 2
"""Tasks that are forgotten at once here."""

NO: Final = Error("ValueError", "no")
WAITING: Final = ("accepted", "retrying")
ENDED: Final = ("completed", "failed", "cancelled")


@dataclass
class Expected:
    """What a task is promised to be."""

    retries: int
    run_at: float
    status: str = "accepted"
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    flag: bool = False
    finished_at: float | None = None
    result: str | None = None
    orphan: bool = False
    history: list[tuple[str, int]] = field(default_factory=lambda: [("accepted", 0)])

    def move(self, status: str, now: float) -> None:
        self.status = status
        self.history.append((status, self.attempt))
        self.finished_at = now if status in ENDED else None
        self.orphan = False

    def start(self, now: float) -> None:
        if self.orphan:
            self.move("retrying", now)
        self.attempt += 1
        self.move("running", now)

    def try_again(self, run_at: float, now: float) -> None:
        """There is another attempt, unless a cancel was asked for."""
        self.flag_or("retrying", now)
        self.run_at = run_at

    def flag_or(self, status: str, now: float) -> None:
        self.move("cancelled" if self.flag else status, now)

    def fail(self, run_at: float, now: float, *, heard: bool) -> None:
        self.failures += 1
        if self.flag and heard:
            self.move("cancelled", now)
        elif self.failures > self.retries:
            self.move("failed", now)
        else:
            self.try_again(run_at, now)

    def crash(self, now: float) -> None:
        self.crashes += 1
        if self.crashes == 3:
            self.move("failed", now)
        else:
            self.try_again(now, now)

    def retry(self, now: float) -> None:
        self.failures = self.crashes = 0
        self.flag, self.result, self.run_at = False, None, now
        self.move("accepted", now)


class Promises(RuleBasedStateMachine):
    """The store, driven like the service drives it, and what it has promised."""

    empty: ClassVar[Path]
    """A database without tasks, to be copied: migrating is slow."""

    lives: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        Promises.lives += 1
        self.path = Promises.empty.with_name(f"life-{Promises.lives}")
        shutil.copy(Promises.empty, self.path)
        self.turns = Turns()
        self.ids = Ids()
        self.now = START
        self.tasks: dict[str, Expected] = {}
        self.gone: set[str] = set()
        self.keys: dict[str, tuple[str, str, float]] = {}
        self.started: list[Task] = []
        self.held: list[Task] = []
        """Attempts under way here, as the runner has them."""
        self.late: list[Task] = []
        """Attempts that have ended or were given up."""
        self.open([])

    def open(self, suspects: list[Suspect]) -> None:
        self.store = SqlStore(Place(self.path, "off"), self.turns, metrics=Metrics())
        self.store.started = self.started.extend
        assert self.store.open(suspects, self.now) == {}

    def wait(self, deferred: Any) -> Any:
        return self.turns.outcome(deferred)

    def begun(self) -> list[Task]:
        """The attempts that the store has told to begin."""
        begun, self.started[:] = list(self.started), []
        self.held += begun
        return begun

    def teardown(self) -> None:
        for task_id in self.tasks:
            self.check_whole(task_id)
        self.wait(self.store.close())
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()

    # What clients and the clock do

    @rule(seconds=st.sampled_from((1, 5, 30)))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        delays=st.lists(st.sampled_from((0, 0, 7)), min_size=1, max_size=3),
        retries=st.integers(0, 2),
        seat=st.booleans(),
        key=st.sampled_from((None, None, "k1", "k2")),
        digest=st.sampled_from("dde"),
    )
    def submit(self, delays: list[int], retries: int, seat: bool, key: str | None, digest: str) -> None:
        self.now += 1
        new = [
            accept(
                Submission("a", "simulate", "{}", delay=delay, retries=retries),
                self.ids.next(self.now, bytes(16)),
                self.now,
            )
            for delay in delays
        ]
        starting = [task for task in new if seat and task.run_at <= self.now]
        waiting = [task for task in new if task not in starting]
        if key is None:
            self.wait(self.store.add(waiting, starting))
        elif not self.add_once(waiting, starting, Key(key, digest, new[0].task_id, self.now + KEPT)):
            assert self.begun() == []
            return
        for task in new:
            self.tasks[task.task_id] = Expected(retries, task.run_at)
        for task in starting:
            self.tasks[task.task_id].start(self.now)
        assert [task.task_id for task in self.begun()] == [task.task_id for task in starting]
        self.check_whole(new[0].task_id)

    def add_once(self, waiting: list[Task], starting: list[Task], key: Key) -> bool:
        """Whether it was new, as it should be."""
        digest, answer, expires_at = self.keys.get(key.key, ("", "", 0))
        known = self.wait(self.store.add_once(waiting, starting, key, self.now))
        if expires_at > self.now:
            assert known == Known(digest, answer)
            return False
        assert known is None
        self.keys[key.key] = (key.digest, key.answer, key.expires_at)
        return True

    def chosen(self, data: Any) -> str:
        """A task that there is, or was."""
        known = [*self.tasks, *sorted(self.gone)]
        task_id: str = data.draw(st.sampled_from(known))
        return task_id

    def change(self, task_id: str, *allowed: str, by: Any) -> Expected | None:
        """Ask for a change; gives the task if the store has made it, as it should."""
        self.now += 1
        expected = self.tasks.get(task_id)
        try:
            answer = self.wait(by())
        except InvalidTransition:
            assert expected is not None
            assert expected.status not in allowed
            return None
        assert (answer is None) == (expected is None)
        assert expected is None or expected.status in allowed
        return expected

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        task_id = self.chosen(data)
        ask = lambda: self.store.cancel(task_id, self.now)  # noqa: E731
        task = self.change(task_id, *WAITING, "running", "cancelled", by=ask)
        if task is not None and task.status != "cancelled":
            task.flag = True
            if task.status != "running" or task.orphan:  # nobody is there who would end it
                task.move("cancelled", self.now)
            self.check_whole(task_id)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        task_id = self.chosen(data)
        ask = lambda: self.store.retry(task_id, self.now)  # noqa: E731
        task = self.change(task_id, "failed", "cancelled", by=ask)
        if task is not None:
            task.retry(self.now)
            self.check_whole(task_id)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        task_id = self.chosen(data)
        if self.change(task_id, *ENDED, by=lambda: self.store.delete(task_id)) is not None:
            self.tasks.pop(task_id)
            self.gone.add(task_id)

    # What the service does

    @rule(limit=st.integers(1, 4))
    def claim_some(self, limit: int) -> None:
        self.claim(limit)

    def claim(self, limit: int) -> None:
        self.now += 1
        orphans = {task_id for task_id, task in self.tasks.items() if task.orphan}
        due = sorted(
            (task.run_at, task_id)
            for task_id, task in self.tasks.items()
            if task.status in WAITING and task.run_at <= self.now
        )
        claim = self.wait(self.store.claim("simulate", limit, self.now))
        taken = [task.task_id for task in claim.tasks]
        first = min(limit, len(orphans))
        assert len(set(taken[:first])) == first
        assert orphans.issuperset(taken[:first])
        assert taken[first:] == [task_id for _, task_id in due[: limit - first]]
        for task_id in taken:
            self.tasks[task_id].start(self.now)
        for task in claim.tasks:
            assert task.attempt == self.tasks[task.task_id].attempt
        assert self.begun() == claim.tasks
        waiting = [task.run_at for task in self.tasks.values() if task.status in WAITING]
        assert claim.next_due == min(waiting, default=None)
        if taken:
            self.check_whole(taken[0])

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        how=st.sampled_from(("complete", "fail", "fail", "time out", "give up", "release", "unwind")),
        delay=st.sampled_from((0, 3)),
        heard=st.booleans(),
    )
    def end(self, data: Any, how: str, delay: int, heard: bool) -> None:
        """An attempt ends; the runner may not have heard of its cancel yet."""
        self.now += 1
        held = data.draw(st.sampled_from(self.held))
        self.finish(held, how, delay, heard=heard or how == "unwind")

    def finish(self, held: Task, how: str, delay: int, *, heard: bool) -> None:
        self.held.remove(held)
        self.late.append(held)
        expected = self.tasks[held.task_id]
        task = replace(held, cancel_requested=expected.flag and heard)
        if how == "complete":
            after = complete(task, f'"{self.now:.0f}"', self.now)
            expected.result = after.result
            expected.move("completed", self.now)
        elif how in ("fail", "time out"):
            error = Error("Timeout", "too long") if how == "time out" else NO
            after = after_failure(task, error, self.now, delay)
            expected.fail(self.now + delay, self.now, heard=heard)
        elif how == "give up":
            after = fail(task, NO, self.now)
            expected.move("failed", self.now)
        elif how == "unwind" and expected.flag:
            after = cancel(task, self.now)
            expected.move("cancelled", self.now)
        else:
            after = interrupt(task, self.now)
            expected.try_again(self.now, self.now)
        assert self.wait(self.store.end(after, self.now)) == expected.status
        self.check_whole(held.task_id)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(("fail", "release", "complete")))
    def overtake(self, data: Any, how: str) -> None:
        """A cancel is committed before the end of an attempt that has not heard of it."""
        self.now += 1
        held = data.draw(st.sampled_from(self.held))
        assert self.wait(self.store.cancel(held.task_id, self.now)).cancel_requested
        self.tasks[held.task_id].flag = True
        self.finish(held, how, 0, heard=False)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def write_late(self, data: Any) -> None:
        """An attempt that was given up comes to its end after all."""
        self.now += 1
        late = data.draw(st.sampled_from(self.late))
        now = self.tasks.get(late.task_id)
        if now is not None and now.status == "running" and now.attempt == late.attempt:
            return  # of a process that died: nobody is left who could write it
        for after in (complete(late, '"late"', self.now), interrupt(late, self.now)):
            assert self.wait(self.store.end(after, self.now)) is None
        if now is not None:
            self.check_whole(late.task_id)

    @rule(data=st.data())
    def crash(self, data: Any) -> None:
        """The process dies, maybe by a handler, and another one starts."""
        guilty = []
        if self.held:
            guilty = data.draw(st.lists(st.sampled_from(self.held), max_size=2, unique_by=id))
        stale = []
        if self.late and data.draw(st.booleans()):
            # Of an earlier life, which the recorder still names.
            now = self.tasks.get(self.late[-1].task_id)
            if now is None or (now.status, now.attempt) != ("running", self.late[-1].attempt):
                stale = self.late[-1:]
        self.die(guilty, stale)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), times=st.integers(2, 4))
    def crash_again_and_again(self, data: Any, times: int) -> None:
        """One handler kills every process that runs it."""
        task_id = data.draw(st.sampled_from(self.held)).task_id
        for _ in range(times):
            self.die([task for task in self.held if task.task_id == task_id])
            self.claim(9)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def crash_before_a_cancel_is_heard(self, data: Any) -> None:
        self.now += 1
        held = data.draw(st.sampled_from(self.held))
        self.wait(self.store.cancel(held.task_id, self.now))
        self.tasks[held.task_id].flag = True
        self.die([])

    def die(self, guilty: list[Task], stale: Sequence[Task] = ()) -> None:
        """Start anew, with those named in which the last process died."""
        self.now += 1
        self.wait(self.store.close())
        for held in guilty:
            self.tasks[held.task_id].crash(self.now)
        for task in self.tasks.values():
            if task.status == "running" and task.flag:
                task.move("cancelled", self.now)
            task.orphan = task.status == "running"
        self.late += self.held
        self.held.clear()
        self.open([Suspect(task.task_id, task.attempt) for task in (*guilty, *stale)])

    @rule(age=st.sampled_from((0, 10, 100)))
    def forget(self, age: int) -> None:
        self.now += 1
        before = self.now - age
        old = sorted(
            task.finished_at
            for task in self.tasks.values()
            if task.finished_at is not None and task.finished_at < before
        )
        more = self.wait(self.store.forget(before, self.now))
        left = {task.task_id for task in self.listed()}
        lost = self.tasks.keys() - left
        assert more or len(lost) < AT_ONCE
        assert sorted(self.tasks[task_id].finished_at or 0 for task_id in lost) == old[:AT_ONCE]
        for task_id in lost:
            del self.tasks[task_id]
        self.gone |= lost

    # What is promised

    def listed(self) -> list[Task]:
        tasks, following = self.wait(self.store.list(Query(limit=1_000)))
        assert following is None
        found: list[Task] = tasks
        return found

    @invariant()
    def nothing_is_lost_and_nothing_comes_back(self) -> None:
        found = [(one.task_id, one.status, one.attempt, one.cancel_requested) for one in self.listed()]
        promised = [(key, one.status, one.attempt, one.flag) for key, one in self.tasks.items()]
        assert found == sorted(promised, reverse=True)

    @invariant()
    def those_that_have_not_ended_are_counted(self) -> None:
        assert self.store.unfinished == sum(task.status not in ENDED for task in self.tasks.values())

    def check_whole(self, task_id: str) -> None:
        """A task is as it should be, and so is the way that it came."""
        found, expected = self.wait(self.store.get(task_id)), self.tasks[task_id]
        assert found.status == expected.status
        assert (found.failures, found.crashes) == (expected.failures, expected.crashes)
        assert (found.finished_at, found.result) == (expected.finished_at, expected.result)
        assert found.status not in WAITING or found.run_at == expected.run_at
        way = [(entry["status"], entry["attempt"]) for entry in json.loads(found.history)]
        assert way == expected.history
        assert way[0] == ("accepted", 0)
        assert way[-1] == (found.status, found.attempt)
        for (before, attempt), (after, later) in pairwise(way):
            assert (before, after) in STEPS
            assert later == attempt + (after == "running")


class PromisesTests(SynchronousTestCase):
    """The promises of the contract."""

    def test_every_walk_keeps_them(self) -> None:
        self.patch(maintenance, "FEWEST", AT_ONCE)
        self.patch(maintenance, "ENOUGH", 0.0)
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        Promises.empty = folder / "empty"
        turns = Turns()
        store = SqlStore(Place(Promises.empty, "off"), turns, metrics=Metrics())
        store.open([], START)
        turns.outcome(store.close())
        run_state_machine_as_test(
            Promises, settings=settings(max_examples=EXAMPLES, stateful_step_count=40, phases=PHASES)
        )
