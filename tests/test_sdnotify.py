"""What systemd is told, by a socket that takes its place."""

import os
import shutil
import signal
import socket
import tempfile
import time
from typing import cast

from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask.sdnotify import Notifier
from tests import postgres
from tests.faults.server import STORE, Server
from tests.test_command import CommandTestCase
from tests.turns import PATIENCE

READY, ALIVE, STOPPING = b"READY=1", b"WATCHDOG=1", b"STOPPING=1"

HANDLERS = """
import os, time
from asynctask import task

@task
async def hold() -> None:
    time.sleep(60)

@task
async def variables() -> list[str]:
    return [name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_"))]
"""


PROGRAM = """
import os
from twisted.application.service import MultiService
from twisted.internet import reactor
from asynctask.service import Options, makeService

options = Options()
options.parseOptions(["--port", "0", "--store", "sqlite://"])
program = MultiService()
MultiService().setServiceParent(program)
makeService(options).setServiceParent(program)
program.startService()
reactor.callLater(2, lambda: program.stopService().addBoth(lambda _: reactor.stop()))
reactor.run()
print("it is there" if "NOTIFY_SOCKET" in os.environ else "it is gone")
"""


class Manager:
    """Somebody who hears what is told."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)

    def heard(self, patience: float = 0.0) -> list[bytes]:
        """All that has been told; where that is nothing, what is told within so many seconds."""
        told = []
        self.socket.settimeout(patience)
        try:
            while True:
                told.append(self.socket.recv(100))
                self.socket.setblocking(False)
        except (BlockingIOError, TimeoutError):
            return told


class Telling(SynchronousTestCase):
    """The notifier alone."""

    def setUp(self) -> None:
        self.now = 0.0
        folder = tempfile.mkdtemp()  # a path of a socket has at most 107 bytes
        self.addCleanup(shutil.rmtree, folder)
        self.manager = Manager(f"{folder}/notify")
        self.addCleanup(self.manager.socket.close)
        self.environment = {"NOTIFY_SOCKET": f"{folder}/notify", "HOME": "/"}

    def notifier(self, **variables: str) -> Notifier:
        notifier = Notifier(self.environment | variables, lambda: self.now)
        notifier.take()
        return notifier

    def test_the_start_and_the_end(self) -> None:
        notifier = self.notifier()
        notifier.ready()
        notifier.alive()
        notifier.stopping()
        self.assertEqual(self.manager.heard(), [READY, STOPPING])

    def test_no_sign_of_life_comes_before_it_serves(self) -> None:
        notifier = self.notifier(WATCHDOG_USEC="2000000")
        notifier.alive()
        self.assertEqual(self.manager.heard(), [])
        notifier.ready()
        notifier.alive()
        self.assertEqual(self.manager.heard(), [READY, ALIVE])

    def test_a_manager_that_is_busy_is_told_when_it_is_not(self) -> None:
        notifier = self.notifier()
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.addCleanup(other.close)
        with self.assertRaises(BlockingIOError):
            while True:
                other.sendto(b"", self.environment["NOTIFY_SOCKET"])
        notifier.ready()
        notifier.alive()
        self.assertEqual(set(self.manager.heard()), {b""})
        notifier.alive()
        notifier.alive()
        self.assertEqual(self.manager.heard(), [READY])

    def test_signs_of_life_are_four_in_the_time_that_is_asked_for(self) -> None:
        notifier = self.notifier(WATCHDOG_USEC="2000000", WATCHDOG_PID=str(os.getpid()))
        notifier.ready()
        for _ in range(10):
            self.now += 0.2
            notifier.alive()
        self.assertEqual(self.manager.heard(), [READY] + [ALIVE] * 4)

    def test_those_that_another_process_is_asked_for_are_not_ours(self) -> None:
        for variables in ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}):
            notifier = self.notifier(**variables)
            notifier.ready()
            notifier.alive()
        self.assertEqual(self.manager.heard(), [READY] * 2)

    def test_an_abstract_address(self) -> None:
        name = f"asynctask-{os.getpid()}"
        manager = Manager("\0" + name)
        self.addCleanup(manager.socket.close)
        self.environment["NOTIFY_SOCKET"] = "@" + name
        self.notifier().ready()
        self.assertEqual(manager.heard(), [READY])

    def test_what_it_is_asked_by_is_nobody_elses(self) -> None:
        environment = self.environment | {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
        Notifier(environment).take()
        self.assertEqual(environment, {"HOME": "/"})

    def test_who_is_part_of_a_program_tells_nothing_and_leaves_it_all_to_that(self) -> None:
        environment = self.environment | {"WATCHDOG_USEC": "1"}
        before = dict(environment)
        notifier = Notifier(environment)
        notifier.ready()
        notifier.alive()
        notifier.stopping()
        self.assertEqual((self.manager.heard(), environment), ([], before))

    def test_who_asks_for_nothing_is_told_nothing(self) -> None:
        notifier = Notifier({})
        notifier.ready()
        notifier.alive()
        notifier.stopping()
        self.assertEqual(self.manager.heard(), [])

    def test_a_socket_that_is_not_there_is_a_warning(self) -> None:
        self.environment |= {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1"}
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        notifier = self.notifier()
        notifier.ready()
        notifier.alive()
        notifier.stopping()
        (warning,) = events
        self.assertEqual(
            (warning["log_level"], warning["socket"], warning["error"]),
            (LogLevel.warn, "/nowhere/notify", "No such file or directory"),
        )


class Lives(CommandTestCase):
    """The service as systemd starts it."""

    def start(self, *options: str, store: str = STORE) -> Server:
        (self.folder / "mine.py").write_text(HANDLERS)
        address = str(self.folder / "n") if len(str(self.folder)) < 100 else f"@asynctask{os.getpid()}"
        self.manager = Manager(address.replace("@", "\0"))
        self.addCleanup(self.manager.socket.close)
        server = Server(
            self.folder,
            store=store,
            options=["--tasks", "mine", *options],
            env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000"},
        )
        self.addCleanup(server.__exit__)
        self.assertEqual(self.manager.heard(PATIENCE)[:1], [READY])
        return server.ready()

    def test_it_is_told_of_the_start_of_signs_of_life_and_of_the_end(self) -> None:
        server = self.start()
        self.assertIn(ALIVE, self.manager.heard(PATIENCE))
        with server.client() as client:
            task_id = client.post("/api/tasks", {"name": "a", "kind": "variables"}).body["task_id"]
            while (task := client.get(f"/api/tasks/{task_id}").body)["status"] != "completed":
                time.sleep(0.01)
            self.assertEqual(task["result"], [])
        os.kill(server.pid, signal.SIGTERM)
        server.wait()
        self.assertIn(STOPPING, self.manager.heard())

    def test_a_program_that_it_is_part_of_tells_that_itself(self) -> None:
        self.assertEqual(self.told_by(PROGRAM), ("it is there\n", []))

    def told_by(self, program: str) -> tuple[str, list[bytes]]:
        """What it prints, and what systemd is told meanwhile."""
        name = f"asynctask-program-{os.getpid()}"
        manager = Manager("\0" + name)
        self.addCleanup(manager.socket.close)
        ran = self.run_program(program, NOTIFY_SOCKET="@" + name)
        return ran.stdout, manager.heard()

    def test_so_do_many_processes_of_it(self) -> None:
        database = postgres.new_database()
        self.addCleanup(postgres.drop, database)
        many = f'"--store", {postgres.uri_of(database)!r}, "--processes", "2"'
        told = self.told_by(PROGRAM.replace('"--store", "sqlite://"', many))
        self.assertEqual(told, ("it is there\n", []))

    def test_a_reactor_that_is_held_gives_no_sign_of_life(self) -> None:
        server = self.start()
        with server.client() as client:
            client.post("/api/tasks", {"name": "a", "kind": "hold"})
        deadline = time.monotonic() + PATIENCE
        while self.manager.heard(2.0):
            self.assertLess(time.monotonic(), deadline, "it gives them all the same")
        server.kill()

    def test_many_processes_are_ready_together(self) -> None:
        database = postgres.new_database()
        self.addCleanup(postgres.drop, database)
        server = self.start("--processes", "2", store=postgres.uri_of(database))
        self.assertIn(ALIVE, self.manager.heard(PATIENCE))
        os.kill(server.pid, signal.SIGTERM)
        server.wait()
        told = self.manager.heard()
        self.assertEqual((told.count(READY), told.count(STOPPING)), (0, 1))
