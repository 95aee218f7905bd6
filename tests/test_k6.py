"""k6.js, run small and short against a running service."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults.server import Server

SCRIPT = Path(__file__).resolve().parent.parent / "k6.js"
PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

MISSED = 99
"""k6's exit status where a threshold was missed: how fast it is, the benchmarks say."""


class Load(SynchronousTestCase):
    """The ramp at 0.3 % of its height and 10 % of its length: 300 arrivals a second, 8 seconds."""

    def test_the_ramp_is_answered(self) -> None:
        k6 = shutil.which("k6", path=PLACES)
        if k6 is None:
            raise SkipTest("k6 is not installed")
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        exported = folder / "summary.json"
        server = self.enterContext(Server(folder, store="sqlite://")).ready()
        settings = {
            "BASE_URL": f"http://127.0.0.1:{server.port}",
            "SCALE": "0.003",
            "TIME_SCALE": "0.1",
        }
        run = subprocess.run(
            [k6, "run", "--quiet", "--no-usage-report", "--summary-export", exported, SCRIPT],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if run.returncode not in (0, MISSED):
            self.fail("\n".join([run.stdout, run.stderr, *server.tail]))
        self.assertRegex(run.stdout, "(?s)Requests\n.*Checks\n.*Thresholds\n")
        summary = json.loads(exported.read_text())
        checks = summary["root_group"]["checks"]
        self.assertEqual(len(checks), 4)
        for name, check in checks.items():
            self.assertGreater(check["passes"], 0, name)
        failed = {name: check["fails"] for name, check in checks.items() if check["fails"]}
        self.assertDictEqual(failed, {}, run.stdout)
