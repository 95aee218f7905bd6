"""The log of the command, as whoever started it gets it: all of it, whatever ends the service."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.client import Client
from tests.faults.log import LogLine
from tests.faults.server import Server
from tests.turns import PATIENCE

HANDLERS = """
import os, signal, time
from asynctask import Context, task

def wait() -> None:
    while not os.path.exists("go on"):
        time.sleep(0.01)

@task
async def hold(*, context: Context) -> None:
    context.log.info("Holding")
    wait()

@task(place="thread")
def end(*, context: Context) -> None:
    context.log.info("Ending")
    wait()
    os._exit(3)

@task(place="thread")
def crash(*, context: Context) -> None:
    context.log.info("Crashing")
    wait()
    os.kill(os.getpid(), signal.SIGSEGV)
"""


class LogTestCase(SynchronousTestCase):
    """A service whose log is read."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        (self.folder / "mine.py").write_text(HANDLERS)
        self.all: list[LogLine] = []

    @property
    def lines(self) -> list[str]:
        """The messages so far."""
        return [line.message for line in self.all]

    def start(self, *options: str) -> Server:
        (self.folder / "go on").unlink(missing_ok=True)
        self.all.clear()
        self.server = Server(
            self.folder, options=["--tasks", "mine", *options], listener=self.all.append
        ).ready()
        self.addCleanup(self.server.__exit__)
        return self.server

    def go_on(self) -> None:
        """Let handlers go on."""
        (self.folder / "go on").touch()

    def post(self, client: Client, kind: str, **given: float) -> None:
        answer = client.post("/api/tasks", {"name": "a", "kind": kind, "input": given})
        self.assertEqual(answer.status, 202)

    def wait_for(self, message: str, within: float = PATIENCE) -> None:
        until = time.monotonic() + within
        while message not in self.lines:
            self.assertLess(time.monotonic(), until, f"{message} is not in {self.lines}")
            time.sleep(0.01)


class Ends(LogTestCase):
    """Nothing is missing at the end, whatever it is."""

    def test_a_stop_tells_its_last_words(self) -> None:
        server = self.start()
        server.terminate()
        self.assertEqual(self.lines[-2:], ["Main loop terminated.", "Server Shut Down."])

    def test_a_second_signal_loses_no_line(self) -> None:
        server = self.start("--grace", "60", "--access-log")
        with server.client() as client:
            self.post(client, "simulate", duration=60)
            self.wait_for("Task started")
            os.kill(server.pid, signal.SIGTERM)
            while client.get("/health/ready").status != 503:
                time.sleep(0.01)
            for _ in range(20):
                client.get("/health/live")
            client.get("/health/ready")  # an answer may be here before its line is made, not the next one
            os.kill(server.pid, signal.SIGTERM)
        self.assertEqual(server.wait(), 128 + signal.SIGTERM)
        live = [line for line in self.all if line.fields.get("path") == "/health/live"]
        self.assertEqual(len(live), 20)

    def test_a_handler_that_ends_the_process_takes_no_line_with_it_that_came_a_moment_before(self) -> None:
        for kind, message, code in (("end", "Ending", 3), ("crash", "Crashing", -signal.SIGSEGV)):
            server = self.start("--store", "sqlite://")
            with server.client() as client:
                self.post(client, kind)
                self.wait_for("Task started")
                self.wait_for(message)
            self.go_on()
            self.assertEqual(server.wait(), code)

    def test_a_held_reactor_does_not_hold_the_log(self) -> None:
        server = self.start()
        with server.client() as client:
            self.post(client, "hold")
            self.wait_for("Holding")
            self.wait_for("The reactor is held")
        self.assertNotIn("Task completed", self.lines)
        self.go_on()
        self.wait_for("Task completed")


class Readers(LogTestCase):
    """Whoever reads the log, or does not, the service goes on."""

    @contextmanager
    def service(self, output: IO[bytes] | int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """A service that logs there, and its port."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "asynctask", f"--port={port}", "--store=sqlite://", "--grace=0"]
        process = subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=subprocess.DEVNULL)
        try:
            self.wait_until_it_listens(port)
            yield process, port
        finally:
            process.kill()
            process.wait()

    def wait_until_it_listens(self, port: int) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except ConnectionError:
                self.assertLess(time.monotonic(), until)
                time.sleep(0.02)

    def assert_serves_and_stops(self, process: subprocess.Popen[bytes], port: int) -> None:
        with Client(port, 15) as client:
            for _ in range(3):
                answer = client.post("/api/tasks", {"name": "a", "duration": 0})
                while client.get(f"/api/tasks/{answer.body['task_id']}").body["status"] != "completed":
                    time.sleep(0.02)
        process.terminate()
        self.assertEqual(process.wait(PATIENCE), -signal.SIGTERM)

    def test_a_full_disk(self) -> None:
        with open("/dev/full", "wb") as full, self.service(full) as (process, port):
            self.assert_serves_and_stops(process, port)

    def test_a_reader_who_has_left(self) -> None:
        with self.service(subprocess.PIPE) as (process, port):
            assert process.stdout is not None
            process.stdout.close()
            self.assert_serves_and_stops(process, port)

    def test_a_reader_who_does_not_read(self) -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        with self.service(write) as (process, port):
            with Client(port, 15) as client:
                self.assertEqual(client.get("/health/ready").status, 200)
            try:
                while True:
                    os.write(write, b"x" * 4096)
            except BlockingIOError:
                os.set_blocking(write, True)
            self.assert_serves_and_stops(process, port)
        os.close(read)
        os.close(write)


class AccessLog(LogTestCase):
    """A line a request, for who asks for it."""

    def requests(self, *options: str) -> list[LogLine]:
        self.start(*options)
        with self.server.client() as client:
            client.post("/api/tasks", {"name": "a", "duration": 0})
            client.get("/nowhere%20at%20all?a=b")
            client._call("get", "/", None)
        self.server.terminate()
        return [line for line in self.all if line.message == "Request"]

    def test_it_is_off_unless_asked_for(self) -> None:
        self.assertEqual(self.requests(), [])

    def test_a_line_a_request(self) -> None:
        posted, asked, strange = (line.fields for line in self.requests("--access-log"))
        for line, expected in (
            (posted, {"method": "POST", "path": "/api/tasks", "status": "202"}),
            (asked, {"method": "GET", "path": "/nowhere%20at%20all?a=b", "status": "404"}),
            (strange, {"method": "get", "path": "/", "status": "404"}),
        ):
            self.assertEqual({key: line[key] for key in expected}, expected)
            self.assertEqual(line["client"], "127.0.0.1")
            self.assertGreaterEqual(float(line["ms"]), 0)
