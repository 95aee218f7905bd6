"""Handlers that do all that they should not, in the real service: it lives, and goes on serving."""

import shutil
import time
from pathlib import Path
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from tests import badtasks
from tests.faults.client import Client, Json
from tests.faults.log import LogLine
from tests.faults.server import Server
from tests.test_processes import gone

PATIENCE = 30
"""Seconds for a task to end."""

NO_JSON = dict.fromkeys(["set", "bytes", "cyclic", "nan", "surrogate"], "NotSerializable")
RAISES = {
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "generator exit": "GeneratorExit",
    "silent": "Silent",
}
EVERYWHERE = NO_JSON | RAISES | {"huge": "ResultTooLarge"}

BAD = {
    "on_reactor": EVERYWHERE | {"block": "Timeout"},
    "on_asyncio": EVERYWHERE,
    "in_thread": EVERYWHERE | {"loop": "Timeout"},
    "in_process": EVERYWHERE | {"die": "Crashed", "segfault": "Crashed", "loop": "Timeout"},
}
"""For each kind what it does, and the error that its task fails with."""

OTHERS = 1_000


class HandlersTestCase(SynchronousTestCase):
    """A service with the bad handlers."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        shutil.copy(badtasks.__file__, self.folder)
        self.lines: list[LogLine] = []

    def start(self, *options: str) -> Server:
        given = ("--tasks", "badtasks", *options)
        server = Server(self.folder, options=given, listener=self.lines.append)
        self.addCleanup(server.__exit__)
        return server.ready()

    def client(self, server: Server) -> Client:
        client = server.client(PATIENCE)
        self.addCleanup(client.close)
        return client

    def post(self, client: Client, kind: str, how: str | None = None, **fields: Any) -> str:
        given = {} if how is None else {"how": how}
        answer = client.post("/api/tasks", {"name": how or kind, "kind": kind, "input": given, **fields})
        self.assertEqual(answer.status, 202, answer)
        task_id: str = answer.body["task_id"]
        return task_id

    def get(self, client: Client, task_id: str) -> Json:
        return client.get(f"/api/tasks/{task_id}").body

    def until(self, client: Client, task_id: str, *statuses: str) -> Json:
        """The task, once it is one of these."""
        deadline = time.monotonic() + PATIENCE
        while (task := self.get(client, task_id))["status"] not in statuses:
            self.assertLess(time.monotonic(), deadline, task)
            time.sleep(0.02)
        return task

    def until_ended(self, client: Client, task_id: str) -> Json:
        return self.until(client, task_id, "completed", "failed", "cancelled")


class BadHandlers(HandlersTestCase):
    """Each fails its own task and no other, and gives its seat back."""

    def test_each_leaves_its_task_as_promised_and_its_seat_to_the_next(self) -> None:
        server = self.start("--concurrency", "processes=1")
        client = self.client(server)
        go_on, comply, waiting = (self.post(client, "clinging", how) for how in ("go on", "comply", "good"))
        client.post(f"/api/tasks/{go_on}/cancel", {})
        posted: dict[tuple[str, str], str] = {}
        for kind, ways in BAD.items():
            for how in ways:
                timeout = 1.0 if how in ("loop", "block") else None
                posted[kind, how] = self.post(client, kind, how, timeout=timeout)
        # Each kind has one seat, so that these come after all others, if every one has given it back.
        good = {kind: self.post(client, kind, "good") for kind in BAD}
        self.until(client, comply, "running")
        client.post(f"/api/tasks/{comply}/cancel", {})

        for kind, task_id in good.items():
            task = self.until_ended(client, task_id)
            self.assertEqual((task["status"], task["result"]), ("completed", "good"), kind)
        for (kind, how), task_id in posted.items():
            task = self.until_ended(client, task_id)
            self.assertEqual((task["status"], task["result"]), ("failed", None), (kind, how))
            self.assertEqual(task["error"]["type"], BAD[kind][how], (kind, how, task["error"]))
        given_up = self.until_ended(client, go_on)
        self.assertEqual((given_up["status"], given_up["cancel_requested"]), ("cancelled", True))
        complied = self.until_ended(client, comply)
        self.assertEqual((complied["status"], complied["cancel_requested"]), ("completed", True))
        self.assertEqual(complied["result"], "in spite of it")
        self.assertEqual(self.until_ended(client, waiting)["status"], "completed")

        blocked = posted["on_reactor", "block"]
        self.assertGreater(self.get(client, blocked)["longest_step"], 1_900)
        self.assertIn(blocked, self.named("The reactor is held"))
        self.assertIn(blocked, self.named("Task blocked the reactor"))
        self.assertEqual(self.named("This should not happen"), [])

        self.assertEqual(client.get("/health/ready").status, 200)
        # A thread is in its endless loop for ever, and holds up nobody.
        self.assertEqual(server.terminate(within=30), [])

    def named(self, message: str) -> list[str]:
        """The tasks that the log has this of."""
        return [line.fields.get("task_id", "") for line in self.lines if line.message == message]


class Deaths(HandlersTestCase):
    """The process dies."""

    def test_who_kills_the_process_is_failed_at_its_third_time_and_nobody_else(self) -> None:
        server = self.start()
        client = self.client(server)
        other = {"name": "other", "duration": 3}
        answer = client.post("/api/tasks/batch", cast(Json, [other] * OTHERS))
        self.assertEqual(answer.status, 202)
        killer = self.post(client, "kill_service")
        for _ in range(2):
            self.assertEqual(server.wait(PATIENCE), 7)
            server = self.start()
        self.assertEqual(server.wait(PATIENCE), 7)

        client = self.client(self.start())
        task = self.get(client, killer)
        self.assertEqual((task["status"], task["error"]["type"], task["attempt"]), ("failed", "Crashed", 3))
        deadline = time.monotonic() + PATIENCE
        while next(client.tasks(status="accepted,running,retrying"), None) is not None:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        others = list(client.tasks(name="other"))
        self.assertEqual(len(others), OTHERS)
        self.assertEqual({(one["status"], one["error"] is None) for one in others}, {("completed", True)})
        # They did run beside it, unless the machine is so busy that some had ended before.
        self.assertGreater(max(one["attempt"] for one in others), 1)

    def test_a_killed_service_takes_its_processes_with_it(self) -> None:
        server = self.start("--concurrency", "processes=2")
        client = self.client(server)
        busy = self.post(client, "in_process", "loop")
        deadline = time.monotonic() + PATIENCE
        while (progress := self.get(client, busy)["progress"]) is None:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        pid = progress["step"]
        self.assertFalse(gone(pid))
        server.kill()
        deadline = time.monotonic() + PATIENCE
        while not gone(pid):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
