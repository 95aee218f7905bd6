"""Short forms of what `tests/faults` tries at length."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults import disk, follow, kill, start, strace, sync, tmpfs
from tests.faults.client import Answer, Client, Json
from tests.faults.crew import Crew
from tests.faults.ledger import Ledger, audit
from tests.faults.log import parse_line
from tests.faults.server import DATABASE


def _need(reason: str | None) -> None:
    if reason is not None:
        raise SkipTest(reason)


class FaultTestCase(SynchronousTestCase):
    """Gives each test an empty folder."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)


class Told(Client):
    """Tells of these tasks."""

    def __init__(self, *tasks: Json) -> None:
        super().__init__(port=0)
        self._tasks = tasks

    def tasks(self, **query: object) -> Iterator[Json]:
        """Those of a name, if one is asked for."""
        return (task for task in self._tasks if query.get("name", task["name"]) == task["name"])

    def get(self, path: str) -> Answer:
        """One of them."""
        (found,) = (task for task in self._tasks if path.endswith(task["task_id"]))
        return Answer(200, {}, found)


def _completed(task_id: str, name: str, *history: tuple[str, int]) -> Json:
    walk = history or (("accepted", 0), ("running", 1), ("completed", 1))
    return {
        "task_id": task_id,
        "name": name,
        "status": "completed",
        "error": None,
        "attempt": walk[-1][1],
        "finished_at": "2026-01-02T03:04:09.000Z",
        "history": [{"status": status, "attempt": attempt} for status, attempt in walk],
    }


class AuditTests(SynchronousTestCase):
    """A settled service, beside what it had answered."""

    def setUp(self) -> None:
        self.ledger = Ledger()
        self.ledger.acknowledge("task_1", "one", 0)

    def test_what_was_acknowledged_and_has_completed_is_right(self) -> None:
        self.assertListEqual(audit(Told(_completed("task_1", "one")), self.ledger), [])

    def test_a_lost_task_is_noticed(self) -> None:
        self.assertListEqual(audit(Told(), self.ledger), ["acknowledged task lost: task_1 one"])

    def test_ids_that_were_swapped_are_noticed(self) -> None:
        self.ledger.acknowledge("task_2", "two", 0)
        found = audit(Told(_completed("task_1", "two"), _completed("task_2", "one")), self.ledger)
        self.assertListEqual(
            found, ["another task: task_1 was one and is two", "another task: task_2 was two and is one"]
        )

    def test_a_task_that_nobody_was_told_of_is_noticed(self) -> None:
        found = audit(Told(_completed("task_1", "one"), _completed("task_2", "two")), self.ledger)
        self.assertListEqual(found, ["nobody was told of task_2 two"])

    def test_two_tasks_of_one_post_are_noticed(self) -> None:
        self.ledger.unknown.append("two")
        twice = _completed("task_2", "two"), _completed("task_3", "two")
        found = audit(Told(_completed("task_1", "one"), *twice), self.ledger)
        self.assertListEqual(found, ["2 tasks of one POST: two"])


class CrewTests(FaultTestCase):
    """Many processes, by their logs."""

    def judge(self, task: Json, *lines: str, frozen: bool = False) -> list[str]:
        crew = Crew(self.folder, "", 1, [], Ledger())
        for number, text in enumerate(lines):
            line = parse_line(f"2026-01-02T03:04:0{number + 1}.000Z info {text}")
            assert line is not None
            crew.seen.notice(line)
        return crew.judge(Told(task), [task], frozen=frozen)

    def test_a_task_that_completed_and_began_again_is_noticed(self) -> None:
        walk = [("accepted", 0), ("running", 1), ("completed", 1), ("running", 2), ("completed", 2)]
        task = _completed("task_1", "one", *walk)
        found = self.judge(
            task,
            "Task started task_id=task_1 name=one kind=simulate attempt=1",
            "Task completed task_id=task_1 name=one",
            "Task started task_id=task_1 name=one kind=simulate attempt=2",
            "Task completed task_id=task_1 name=one",
        )
        self.assertListEqual(
            found,
            [
                "task_1 began attempt 2 1.00 s after it had ended",
                "history of task_1: completed 1 -> running 2",
            ],
        )

    def test_of_frozen_processes_the_history_tells_it(self) -> None:
        walk = [("accepted", 0), ("running", 1), ("completed", 1), ("running", 2), ("completed", 2)]
        found = self.judge(_completed("task_1", "one", *walk), frozen=True)
        self.assertListEqual(found, ["history of task_1: completed 1 -> running 2"])

    def test_an_attempt_that_began_twice_is_noticed(self) -> None:
        started = "Task started task_id=task_1 name=one kind=simulate attempt=1"
        found = self.judge(_completed("task_1", "one"), started, started, frozen=True)
        self.assertListEqual(found, ["task_1 began attempt 1 2 times"])


class KillTests(FaultTestCase):
    """`kill -9` under load."""

    def test_nothing_acknowledged_is_lost_and_nothing_completed_runs_again(self) -> None:
        report = kill.run(self.folder, kills=3, stops=1, rate=100, seed=1, longest_life=1)
        self.assertListEqual(report.violations, [])
        self.assertGreaterEqual(report.kills, 3)
        self.assertGreaterEqual(report.stops, 1)
        self.assertGreater(report.acknowledged, 0)
        self.assertGreater(report.resumed, 0)


class FollowTests(FaultTestCase):
    """Tasks that are followed."""

    def test_across_a_kill_every_change_is_told_once_and_in_order(self) -> None:
        report = follow.run(self.folder, tasks=30, kills=1, seed=1)
        self.assertListEqual(report.violations, [])
        self.assertGreater(report.cut_off, 0)
        self.assertGreater(report.connections, 30)
        self.assertEqual(report.told, report.told_of_all)


class StartTests(SynchronousTestCase):
    """A first start that was cut short."""

    def test_a_journal_left_behind_keeps_no_one_from_starting(self) -> None:
        _need(strace.unavailable())
        report = start.check("unlink", f"{DATABASE}-journal")
        self.assertListEqual(report.violations, [])
        self.assertGreater(report.points, 0)


class SyncTests(FaultTestCase):
    """What strace sees of a POST."""

    def setUp(self) -> None:
        _need(strace.unavailable())
        super().setUp()

    def test_a_202_leaves_only_after_its_task_is_synced(self) -> None:
        report = sync.check(self.folder, posts=12)
        self.assertListEqual(report.violations, [])

    def test_the_check_notices_a_store_that_does_not_sync(self) -> None:
        report = sync.check(self.folder, posts=12, synchronous="off")
        self.assertGreaterEqual(len(report.violations), 12)


class DiskTests(FaultTestCase):
    """A store that cannot store."""

    def test_a_full_disk_refuses_and_goes_on_when_there_is_room(self) -> None:
        _need(tmpfs.unavailable())
        self.assertListEqual(disk.full_while_running(seconds=1).violations, [])

    def test_a_locked_database_refuses_and_goes_on_when_it_is_free(self) -> None:
        self.assertListEqual(disk.locked(self.folder, seconds=2).violations, [])

    def test_a_failed_sync_leaves_nothing_refused_behind(self) -> None:
        _need(strace.unavailable())
        report = disk.failing(self.folder, "every third sync", kill=True, seconds=0.7)
        self.assertListEqual(report.violations, [])
