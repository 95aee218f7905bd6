"""The alerts of the documentation: each comes when it should, and only then."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.pages import blocks

SEATS, UNDER_WAY = 'asynctask_seats_free{place="%s"}', 'asynctask_attempts_in_flight{place="%s"}'
REFUSED = 'asynctask_http_requests_total{method="%s",route="%s",status="503"}'
WAITED = 'asynctask_task_waiting_seconds_bucket{kind="a",le="%s"}'
ENDED = 'asynctask_tasks_ended_total{kind="a",status="%s"}'
ACCEPTED, STARTED = 'asynctask_tasks_accepted_total{kind="a"}', 'asynctask_attempts_started_total{kind="a"}'
CALLED = 'asynctask_callback_tries_total{outcome="%s"}'

CASES: dict[str, tuple[dict[str, str], list[str]]] = {
    "it is up": ({'up{job="asynctask"}': "1x240"}, []),
    "it is down": ({'up{job="asynctask"}': "0x240"}, ["AsynctaskDown"]),
    "it stores": ({"asynctask_store_healthy": "1x240"}, []),
    "it cannot store": ({"asynctask_store_healthy": "0x240"}, ["AsynctaskCannotStore"]),
    "steps hold it": (
        {'asynctask_blocked_seconds_total{kind="a"}': "0+4x240"},
        ["AsynctaskBlocked"],
    ),
    "threads hang": ({"asynctask_threads_abandoned": "5x240"}, ["AsynctaskThreadsHang"]),
    "POSTs are refused": ({REFUSED % ("POST", "/api/tasks"): "0+3x240"}, ["AsynctaskRefuses"]),
    "GETs are refused": ({REFUSED % ("GET", "/api/tasks/{task_id}"): "0+3x240"}, ["AsynctaskRefuses"]),
    "a load balancer is refused": ({REFUSED % ("GET", "/health/ready"): "0+15x240"}, []),
    "tasks are in time": ({WAITED % "60.0": "0+9x240", WAITED % "+Inf": "0+9x240"}, []),
    "tasks are late": (
        {WAITED % "60.0": "0+1x240", WAITED % "300.0": "0+9x240", WAITED % "+Inf": "0+9x240"},
        ["AsynctaskLate"],
    ),
    "no task begins": ({SEATS % "thread": "0x240", UNDER_WAY % "thread": "32x240"}, ["AsynctaskStuck"]),
    "a seat is free at times": ({SEATS % "thread": "0 0 1 " * 80, UNDER_WAY % "thread": "32x240"}, []),
    "a front door has no seats": ({SEATS % "thread": "0x240", UNDER_WAY % "thread": "0x240"}, []),
    "tasks come and none starts": (
        {ACCEPTED: "0+1x240", STARTED: "0x240"},
        ["AsynctaskNoneStarts"],
    ),
    "tasks come and start": ({ACCEPTED: "0+1x240", STARTED: "0+1x240"}, []),
    "tasks fail": ({ENDED % how: "0+1x240" for how in ("completed", "failed")}, ["AsynctaskTasksFail"]),
    "tasks complete": ({ENDED % "completed": "0+99x240", ENDED % "failed": "0+1x240"}, []),
    "callbacks fail": (
        {CALLED % "retried": "0+1x240", CALLED % "delivered": "0x240"},
        ["AsynctaskCallbacksFail"],
    ),
    "callbacks are delivered": ({CALLED % "retried": "0+1x240", CALLED % "delivered": "0+9x240"}, []),
}
"""The numbers of an hour, one every 15 seconds, as promtool writes them, and the alerts then."""


class AlertTests(SynchronousTestCase):
    """By Prometheus's own means."""

    def test_they_come_when_they_should(self) -> None:
        if shutil.which("promtool") is None:
            raise SkipTest("promtool (Debian's package prometheus) is not there")
        folder = Path(self.mktemp())
        folder.mkdir()
        _, alerts, _ = blocks("docs/operating.md", "yaml")
        (folder / "rules.yml").write_text(alerts)
        tests = [self.case(name, *of) for name, of in CASES.items()]
        (folder / "tests.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": tests}))
        command = ["promtool", "test", "rules", str(folder / "tests.yml")]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(tried.returncode, 0, tried.stdout + tried.stderr)

    def test_there_is_a_case_of_each(self) -> None:
        _, alerts, _ = blocks("docs/operating.md", "yaml")
        named = {line.split()[-1] for line in alerts.splitlines() if "alert:" in line}
        self.assertEqual(named, {one for _, expected in CASES.values() for one in expected})

    def case(self, name: str, numbers: dict[str, str], expected: list[str]) -> dict[str, Any]:
        """A test of promtool's."""
        return {
            "name": name,
            "interval": "15s",
            "input_series": [{"series": one, "values": values} for one, values in numbers.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "55m",
                    "exp_samples": [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in expected],
                }
            ],
        }
