"""Children that handlers fork, and threads that they leave, with the real service."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.faults.log import LogLine
from tests.faults.server import Server
from tests.test_command import CommandTestCase
from tests.turns import PATIENCE

HANDLERS = """
import logging, multiprocessing, os, time
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from asynctask import task

reactor.suggestThreadPoolSize(3)

def shut_down():
    return deferLater(reactor, 2).addCallback(lambda _: open("shut down", "w").close())

if os.environ["SLOWLY"]:
    reactor.addSystemEventTrigger("before", "shutdown", shut_down)

def stay(seconds: float) -> None:
    os.closerange(1, 3)  # who reads the log waits for its end
    time.sleep(seconds)

@task(place="thread")
def start(seconds: float) -> int:
    child = multiprocessing.get_context("fork").Process(target=stay, args=(seconds,))
    child.start()
    return child.pid

def of_a_child(target, *args) -> int:
    child = multiprocessing.get_context("fork").Process(target=target, args=args)
    child.start()
    if target is time.sleep:
        child.terminate()
    child.join()
    return child.exitcode

@task(place="thread")
def ended_in_thread() -> int:
    return of_a_child(time.sleep, 600)

@task(place="process")
def ended_in_process() -> int:
    return of_a_child(time.sleep, 600)

@task
async def ended_on_reactor() -> int:
    return of_a_child(time.sleep, 600)

def talk() -> None:
    print("a child prints")
    logging.warning("a child warns")

@task(place="thread")
def talks() -> int:
    return of_a_child(talk)

@task
async def on_reactor() -> int:
    return os.fork()

@task(place="asyncio")
async def on_asyncio() -> int:
    return os.fork()

@task
async def fails_in_child() -> int:
    if child := os.fork():
        return child
    raise SystemExit(3)

@task
async def hang() -> None:
    await deferToThread(time.sleep, 600)
"""


class ForkedTestCase(CommandTestCase):
    """A service with those handlers."""

    def start(self, port: str = "0", slowly: str = "") -> Server:
        (self.folder / "mine.py").write_text(HANDLERS)
        self.lines: list[LogLine] = []
        options = ("--tasks", "mine", "--grace", "0.2", "--port", port)
        env = {"SLOWLY": slowly}
        server = Server(self.folder, options=options, listener=self.lines.append, env=env).ready()
        self.addCleanup(server.__exit__)
        return server

    def result(self, server: Server, kind: str, **given: float) -> Any:
        """What a task returns."""
        with server.client() as client:
            body = {"name": "a", "kind": kind, "input": given}
            task_id = client.post("/api/tasks", body).body["task_id"]
            until = time.monotonic() + PATIENCE
            while (task := client.get(f"/api/tasks/{task_id}").body)["status"] != "completed":
                self.assertIn(task["status"], ("accepted", "running"), task)
                self.assertLess(time.monotonic(), until)
                time.sleep(0.01)
            return task["result"]


class Children(ForkedTestCase):
    """They are no part of the service."""

    def test_one_that_outlives_the_service_keeps_the_next_one_from_nothing(self) -> None:
        server = self.start()
        child = self.result(server, "start", seconds=600)
        self.addCleanup(os.kill, child, signal.SIGKILL)
        server.kill()
        again = self.start(str(server.port))
        self.assertEqual(again.port, server.port)
        os.kill(child, 0)

    def test_one_on_a_loop_ends_where_its_step_does(self) -> None:
        server = self.start()
        for kind in ("on_reactor", "on_asyncio", "fails_in_child"):
            child = self.result(server, kind)
            until = time.monotonic() + PATIENCE
            while not self.has_ended(child):
                self.assertLess(time.monotonic(), until, kind)
                time.sleep(0.01)
        self.result(server, "start", seconds=0)
        self.assertEqual(server.terminate(), [])

    def test_what_ends_any_program_ends_them(self) -> None:
        server = self.start()
        for kind in ("ended_in_thread", "ended_in_process", "ended_on_reactor") * 3:
            self.assertEqual(self.result(server, kind), -signal.SIGTERM, kind)
        self.assertEqual(server.terminate(), [])

    def test_what_a_terminal_sends_to_all_leaves_them_their_time(self) -> None:
        server = self.start()
        child = self.result(server, "start", seconds=600)
        self.addCleanup(os.kill, child, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(child, number)
        self.result(server, "start", seconds=0)
        self.assertFalse(self.has_ended(child))

    def test_what_they_say_is_in_the_log_once(self) -> None:
        server = self.start()
        for _ in range(3):
            self.assertEqual(self.result(server, "talks"), 0)
        self.assertEqual(server.terminate(), [])
        for said in ("a child prints", "a child warns"):
            self.assertEqual([said in line.message for line in self.lines].count(True), 3, said)

    def has_ended(self, pid: int) -> bool:
        """Whether it waits for its parent to take its exit code, or is there no more."""
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


class Threads(ForkedTestCase):
    """What hangs in the reactor's own pool, and what else is to be shut down."""

    def test_whoever_shuts_down_slowly_beside_it_has_his_time(self) -> None:
        server = self.start(slowly="1")
        os.kill(server.pid, signal.SIGTERM)
        self.assertEqual(server.wait(), -signal.SIGTERM)
        self.assertTrue((self.folder / "shut down").exists())

    def test_the_exit_does_not_wait_for_it(self) -> None:
        server = self.start()
        with server.client() as client:
            task_id = client.post("/api/tasks", {"name": "a", "kind": "hang"}).body["task_id"]
            while client.get(f"/api/tasks/{task_id}").body["status"] != "running":
                time.sleep(0.01)
        os.kill(server.pid, signal.SIGTERM)
        self.assertEqual(server.wait(), 128 + signal.SIGTERM)
        self.assertIn("in the reactor's threads", self.lines[-1].message)
