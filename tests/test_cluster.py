"""Many processes on one server, in short forms of `tests.faults.cluster`."""

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.faults import cluster


class ManyProcesses(SynchronousTestCase):
    """Short forms of what `tests.faults.cluster` tries at length."""

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.root.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.root)

    def test_nothing_is_lost_when_they_are_killed(self) -> None:
        given = "--processes 2 --seconds 4 --rate 60 --lease 2 --kill-every 1.5 --seed 1"
        run = cluster.run(self.root, given)
        self.assertEqual(run.violations, [])
        self.assertGreater(run.troubles, 0)

    def test_nothing_is_lost_when_the_server_is_in_trouble(self) -> None:
        given = "--processes 2 --seconds 5 --rate 60 --seed 1"
        troubles = "--restart-every 3 --terminate-every 0.9 --lose-every 0.7"
        run = cluster.run(self.root, f"{given} {troubles}")
        self.assertEqual(run.violations, [])
        self.assertGreater(run.troubles, 5)
