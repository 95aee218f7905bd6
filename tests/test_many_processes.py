"""``--processes``, as its user starts it: real processes on one port and one PostgreSQL."""

import os
import signal
import time
from pathlib import Path
from urllib.request import urlopen

from tests import postgres
from tests.faults.log import LogLine
from tests.faults.server import Server
from tests.test_command import CommandTestCase
from tests.test_metrics import value
from tests.turns import PATIENCE

HANDLERS = """
import os
from asynctask import task

@task
async def which() -> int:
    return os.getpid()
"""


class ProcessesTestCase(CommandTestCase):
    """In a folder and a database of the test's own."""

    def setUp(self) -> None:
        super().setUp()
        database = postgres.new_database()
        self.addCleanup(postgres.drop, database)
        self.store = postgres.uri_of(database)
        self.lines: list[LogLine] = []
        (self.folder / "mine.py").write_text(HANDLERS)

    def start(self, *options: str) -> Server:
        self.server = Server(
            self.folder,
            options=["--processes", "2", "--tasks", "mine", *options],
            store=self.store,
            listener=self.lines.append,
        )
        self.addCleanup(self.server.__exit__)
        return self.server

    def pids(self) -> list[int]:
        """Those that were started, in this order."""
        return [int(line.fields["pid"]) for line in self.lines if line.message == "Process started"]

    def wait_for(self, message: str, times: int = 1) -> LogLine:
        until = time.monotonic() + PATIENCE
        while len(found := [line for line in self.lines if line.message == message]) < times:
            self.assertLess(
                time.monotonic(), until, f"{message} in {[line.message for line in self.lines]}"
            )
            time.sleep(0.01)
        return found[-1]


def lives(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Life(ProcessesTestCase):
    """Start, a death, the end."""

    def until_gone(self, pids: list[int]) -> None:
        until = time.monotonic() + PATIENCE
        while any(map(lives, pids)):
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)

    def post(self, **body: object) -> str:
        """On a connection of its own, so that whoever gets it is left to the kernel."""
        until = time.monotonic() + PATIENCE
        while True:
            with self.server.client() as client:
                answer = client.post("/api/tasks", {"name": "a", **body})
            if answer.status == 202:
                return str(answer.body["task_id"])
            self.assertEqual(answer.status, 503, answer)  # a busy machine; nothing was kept
            self.assertLess(time.monotonic(), until)

    def metrics(self) -> bytes:
        with urlopen(f"http://127.0.0.1:{self.server.port}/metrics", timeout=PATIENCE) as answer:
            text: bytes = answer.read()
            return text

    def test_they_share_the_port_a_dead_one_is_replaced_and_all_end_together(self) -> None:
        self.start("--grace", "1").ready()
        first = self.pids()
        self.assertEqual(len(set(first)), 2)
        for _ in range(24):
            self.post(kind="which")
        self.wait_for("Task completed", 24)
        took = {line.fields["process"] for line in self.lines if line.message == "Task started"}
        self.assertEqual(took, {"1", "2"})
        text = self.metrics()
        self.assertEqual(value(text, "tasks_accepted_total", kind="which"), 24)
        self.assertEqual(value(text, "tasks_ended_total", kind="which", status="completed"), 24)
        self.assertEqual(value(text, "seats_free", place="thread"), 64)

        os.kill(first[0], signal.SIGKILL)
        told = self.wait_for("Process ended, and is started again")
        self.assertEqual((int(told.fields["pid"]), told.fields["how"]), (first[0], "SIGKILL"))
        self.assertEqual(value(self.metrics(), "tasks_accepted_total", kind="which"), 24)
        self.wait_for("Process started", 3)
        self.assertEqual(value(self.metrics(), "seats_free", place="thread"), 64)

        long = self.post(duration=60)
        self.wait_for("Task progress")
        os.kill(self.server.pid, signal.SIGTERM)
        self.assertEqual(self.server.wait(), -signal.SIGTERM)
        released = [line.fields["task_id"] for line in self.lines if line.message == "Task retrying"]
        self.assertEqual(released, [long])
        self.assertFalse(any(map(lives, self.pids())))

    def test_each_knows_soon_how_many_tasks_have_not_ended(self) -> None:
        self.start("--grace", "0").ready()
        for _ in range(8):
            self.post(duration=60)
        until = time.monotonic() + PATIENCE
        while (found := value(self.metrics(), "tasks_not_ended")) != 8:
            self.assertLess(time.monotonic(), until, found)
            time.sleep(0.1)

    def test_a_second_signal_ends_all_at_once_and_a_kill_takes_all_along(self) -> None:
        for end, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
            self.lines.clear()
            self.start("--grace", "60").ready()
            self.post(duration=60)
            self.wait_for("Task started")
            os.kill(self.server.pid, end)
            if end is signal.SIGTERM:
                self.wait_for("Stopping the processes")
                os.kill(self.server.pid, end)
            self.assertEqual(self.server.wait(PATIENCE), code)
            self.until_gone(self.pids())

    def test_a_closed_terminal_is_the_supervisor_s_to_decide_upon(self) -> None:
        self.start("--grace", "0").ready()
        for pid in self.pids():  # as if it were under nohup
            os.kill(pid, signal.SIGHUP)
        for _ in range(8):
            self.post(kind="which")
        self.wait_for("Task completed", 8)
        os.kill(self.server.pid, signal.SIGHUP)
        self.assertEqual(self.server.wait(), -signal.SIGHUP)
        told = [line.message for line in self.lines]
        self.assertEqual(told.count("Received SIGHUP, which is taken for a SIGTERM"), 1)
        self.assertNotIn("Process ended, and is started again", told)

    def test_workers_without_a_port_do_the_work(self) -> None:
        self.start("--concurrency", "0").ready()
        for _ in range(2):
            self.post(kind="which")
        self.server.kill()
        self.lines.clear()
        self.start("--no-http", "--lease", "1")
        self.wait_for("Working without HTTP, on no port")
        self.wait_for("Task completed", 2)


class StartErrors(ProcessesTestCase):
    """What keeps one from starting keeps all from starting."""

    def test_what_only_one_of_them_finds_wrong_is_one_sentence(self) -> None:
        with (self.folder / "mine.py").open("a") as module:
            module.write(f"if os.getppid() != {os.getpid()}: raise ValueError('not the first')")
        self.start()
        self.assertEqual(self.server.wait(), 1)
        self.assertIn("asynctask: --tasks mine cannot be imported: ValueError", "\n".join(self.server.tail))

    def test_in_the_background_they_log_into_one_file(self) -> None:
        status, text = self.run_twistd(
            *("asynctask", "--port", "0", "--processes", "2", "--store", self.store, "--tasks", "mine")
        )
        self.assertEqual((status, text), (0, ""))
        log, pid_file = self.folder / "twistd.log", self.folder / "twistd.pid"
        pid = int(pid_file.read_text())
        try:
            while "Listening on http://127.0.0.1:" not in log.read_text():
                time.sleep(0.02)
        finally:
            os.kill(pid, signal.SIGTERM)
            while pid_file.exists():
                time.sleep(0.02)
        self.assertEqual(log.read_text().count("Process started process="), 2)
        self.assertIn("Received SIGTERM, shutting down. process=2", log.read_text())
