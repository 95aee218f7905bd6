"""Short forms of what `tests/faults` tries at length."""

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults import disk, follow, kill, start, strace, sync, tmpfs
from tests.faults.server import DATABASE


def _need(reason: str | None) -> None:
    if reason is not None:
        raise SkipTest(reason)


class FaultTestCase(SynchronousTestCase):
    """Gives each test an empty folder."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)


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
