"""The command as its user starts it: in processes of its own."""

import json
import os
import re
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.scripts import twistd
from twisted.trial.unittest import SynchronousTestCase

from asynctask.command import ECHO, FILES
from asynctask.model import CRASHES_ALLOWED
from tests.faults.client import Answer, Client
from tests.faults.log import LogLine
from tests.faults.server import Server
from twisted.plugins import asynctask_plugin

BIN = Path(sys.executable).parent

PATIENCE = 60.0
"""Seconds for what comes within a few, unless it never does."""


class CommandTestCase(SynchronousTestCase):
    """Each test has a folder of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def run_twistd(self, *arguments: str) -> tuple[int, str]:
        """Exit status, and what it printed, of a command that ends by itself."""
        done = subprocess.run(
            [BIN / "twistd", *arguments],
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout

    def run_program(
        self, text: str, *arguments: str, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program of one's own."""
        return subprocess.run(
            [sys.executable, "-c", text, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, **variables},
        )


class HelpTests(CommandTestCase):
    """What twistd tells of it."""

    def test_twistd_lists_it_with_what_it_does_and_where(self) -> None:
        _, text = self.run_twistd("--help")
        self.assertIn("Take tasks at POST /api/tasks on port 8080", " ".join(text.split()))

    def test_its_help_explains_every_option(self) -> None:
        status, text = self.run_twistd("asynctask", "--help")
        self.assertEqual((status, text.isascii()), (0, True))  # for whatever a terminal can show
        options = ("port", "listen", "host", "insecure", "store", "concurrency", "grace", "log-format")
        for option in options:
            self.assertRegex(text, rf"--{option}\b=?\s+\S+")


class SecretTests(CommandTestCase):
    """What signs callbacks, for those who verify them."""

    def test_it_is_shown_and_stays_the_same(self) -> None:
        status, told = self.run_twistd("asynctask", "--show-callback-secret")
        self.assertEqual(status, 0)
        self.assertRegex(told, r"(?m)^asynctask: .*asynctask.sqlite was not there; it is made now")
        [first] = re.findall(r"(?m)^whsec_\S{32}\n", told)
        self.assertEqual(self.run_twistd("-n", "asynctask", "--show-callback-secret"), (0, first))
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_those_of_a_file_are_shown(self) -> None:
        secrets = f"whsec_{'a' * 32}\nwhsec_{'b' * 32}\n"
        (self.folder / "secrets").write_text(secrets)
        shown = self.run_twistd("asynctask", "--show-callback-secret", "--callback-secret", "secrets")
        self.assertEqual(shown, (0, secrets))

    def test_what_cannot_be_written_is_one_sentence(self) -> None:
        told = "--show-callback-secret cannot write to standard output"
        for where, why in ((">/dev/full", "No space left on device"), (">&-", "there is none")):
            done = subprocess.run(
                f"exec {sys.executable} -m asynctask --store sqlite:///{self.folder}/s "
                f"--show-callback-secret {where}",
                shell=True,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            self.assertEqual(
                (done.returncode, done.stderr.splitlines()[-1]), (1, f"asynctask: {told} ({why})")
            )


class LifeTests(CommandTestCase):
    """Start, stop, start again."""

    def start(self, *options: str, store: str = "sqlite:///t.sqlite") -> Server:
        self.events: list[str] = []
        listener = self.listen
        server = Server(self.folder, options=options, store=store, listener=listener).ready()
        self.addCleanup(server.__exit__)
        self.server = server
        return server

    def listen(self, line: LogLine) -> None:
        self.events.append(line.message)

    def wait_for(self, message: str) -> None:
        until = time.monotonic() + PATIENCE
        while message not in self.events:
            self.assertLess(time.monotonic(), until, self.events)
            time.sleep(0.01)

    def wait_until_not_ready(self, client: Client) -> Answer:
        """A signal was heard, and the next is another one."""
        until = time.monotonic() + PATIENCE
        while (answer := client.get("/health/ready")).status == 200:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)
        time.sleep(2 * ECHO)
        return answer

    def test_tasks_whose_handler_is_gone_are_counted_in_the_log_at_the_start(self) -> None:
        (self.folder / "mine.py").write_text(
            "from asynctask import task\n\n@task\nasync def gone() -> None: ...\n"
        )
        with self.start("--tasks", "mine").client() as client:
            for _ in range(2):
                client.post("/api/tasks", {"name": "a", "kind": "gone", "delay": 60})
        self.server.kill()
        lines: list[LogLine] = []
        server = Server(self.folder, store="sqlite:///t.sqlite", listener=lines.append)
        self.addCleanup(server.__exit__)
        server.ready()
        told = [line.fields for line in lines if line.message == "There is no handler for tasks that wait"]
        self.assertEqual(told, [{"kind": "gone", "tasks": "2"}])

    def test_a_stop_refuses_drains_and_releases_and_the_next_start_goes_on(self) -> None:
        server = self.start("--grace", "2")
        client = server.client()
        long = client.post("/api/tasks", {"name": "long", "duration": 5}).body["task_id"]
        later = client.post("/api/tasks", {"name": "later", "delay": 0.5, "duration": 0}).body["task_id"]
        self.wait_for("Task started")
        os.kill(server.pid, signal.SIGTERM)
        not_ready = self.wait_until_not_ready(client)
        self.assertEqual(client.get("/health/live").status, 200)
        for answer in (not_ready, client.post("/api/tasks", {"name": "late"})):
            self.assertEqual((answer.status, answer.retry_after), (503, 1))
        self.assertEqual(client.get(f"/api/tasks/{long}").body["status"], "running")
        self.assertEqual(server.wait(), -signal.SIGTERM)
        client.close()

        client = self.start().client()
        while (task := client.get(f"/api/tasks/{long}").body)["status"] != "completed":
            self.assertIn(task["status"], ("retrying", "running"))
            time.sleep(0.05)
        self.assertEqual(task["attempt"], 2)
        states = [(one["status"], one["attempt"]) for one in task["history"]]
        self.assertEqual(states[2:4], [("retrying", 1), ("running", 2)])
        self.assertEqual(client.get(f"/api/tasks/{later}").body["attempt"], 1)
        self.assertEqual(len(list(client.tasks())), 2)
        client.close()

    def test_a_second_signal_ends_at_once(self) -> None:
        server = self.start("--grace", "60")
        with server.client() as client:
            task_id = client.post("/api/tasks", {"name": "a", "duration": 60}).body["task_id"]
            self.wait_for("Task started")
            os.kill(server.pid, signal.SIGTERM)
            self.wait_until_not_ready(client)
        self.assertTrue(server.alive)
        os.kill(server.pid, signal.SIGTERM)
        self.assertEqual(server.wait(), 128 + signal.SIGTERM)
        with self.start().client() as client:
            self.assertEqual(client.get(f"/api/tasks/{task_id}").status, 200)

    def test_who_is_killed_while_it_stops_has_no_task_to_blame(self) -> None:
        (self.folder / "mine.py").write_text(WAITING)
        for attempt in range(1, CRASHES_ALLOWED + 2):
            server = self.start("--tasks", "mine", "--grace", "60")
            with server.client() as client:
                if attempt == 1:
                    client.post("/api/tasks", {"name": "a", "kind": "wait"})
                self.wait_for("Task started")
                os.kill(server.pid, signal.SIGTERM)
                self.wait_until_not_ready(client)
            server.kill()
        (self.folder / "go").touch()
        with self.start("--tasks", "mine").client() as client:
            self.wait_for("Task completed")
            (task,) = client.tasks()
            self.assertEqual((task["status"], task["attempt"]), ("completed", CRASHES_ALLOWED + 2))

    def test_who_has_connected_before_the_port_is_closed_is_answered(self) -> None:
        server = self.start()
        with server.client() as first:  # after whom the reactor accepts one in a turn, and then more
            first.get("/health/ready")
        os.kill(server.pid, signal.SIGSTOP)
        clients = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(400)]
        for client in clients:
            self.addCleanup(client.close)
            client.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        os.kill(server.pid, signal.SIGTERM)
        os.kill(server.pid, signal.SIGCONT)
        for client in clients:
            self.assertRegex(client.recv(12), rb"HTTP/1.1 (200|503)")
        self.assertEqual(server.wait(), -signal.SIGTERM)

    def test_one_that_comes_twice_is_one(self) -> None:
        server = self.start("--grace", "60")
        with server.client() as client:
            client.post("/api/tasks", {"name": "a", "duration": 60})
            self.wait_for("Task started")
            os.kill(server.pid, signal.SIGTERM)
            os.kill(server.pid, signal.SIGINT)
            self.wait_until_not_ready(client)
        self.assertTrue(server.alive)
        os.kill(server.pid, signal.SIGTERM)
        self.assertEqual(server.wait(), 128 + signal.SIGTERM)

    def test_nor_is_it_kept_by_a_pid_file_that_cannot_be_removed(self) -> None:
        (self.folder / "run").mkdir()
        options = ("-n", "--pidfile=run/pid", "asynctask", "--port=0", "--grace=60")
        with subprocess.Popen(
            [BIN / "twistd", *options], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as service:
            self.addCleanup(service.kill)
            assert service.stdout is not None
            port = next(int(line.split(b":")[-1]) for line in service.stdout if b" Listening on " in line)
            (self.folder / "run").rename(self.folder / "gone")
            (self.folder / "run").touch()
            with Client(port) as client:
                client.post("/api/tasks", {"name": "a", "duration": 60})
                next(line for line in service.stdout if b" Task started " in line)
                service.terminate()
                self.wait_until_not_ready(client)
            service.terminate()
            self.assertEqual(service.wait(PATIENCE), 128 + signal.SIGTERM)
            self.assertNotIn(b"Traceback", service.stdout.read())

    def test_a_closed_terminal_is_a_stop_and_nobody_dies_of_a_log_that_is_to_rotate(self) -> None:
        server = self.start("--grace", "0")
        with server.client() as client:
            client.post("/api/tasks", {"name": "a", "duration": 60})
            self.wait_for("Task started")
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                os.kill(server.pid, number)
            self.assertEqual(client.get("/health/live").status, 200)
        os.kill(server.pid, signal.SIGHUP)
        self.assertEqual(server.wait(), -signal.SIGHUP)
        self.wait_for("Received SIGHUP, which is taken for a SIGTERM")
        self.wait_for("Task retrying")

    def test_a_callback_that_a_kill_cut_off_is_sent_again(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as receiver:
            receiver.settimeout(20)
            port = receiver.getsockname()[1]
            server = self.start("--callbacks-to", "127.0.0.1")
            with server.client() as client:
                url = f"http://127.0.0.1:{port}/"
                body = {"name": "a", "duration": 0, "callback_url": url}
                task_id = client.post("/api/tasks", body).body["task_id"]
            with receiver.accept()[0] as first:
                before = self.head(first)
                server.kill()
            self.assertIn(f"webhook-id: {task_id}.1", before.lower().splitlines())
            with self.start("--callbacks-to", "127.0.0.1").client() as client:
                with receiver.accept()[0] as second:
                    self.assertIn(f"webhook-id: {task_id}.1", self.head(second).lower().splitlines())
                    second.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                while (task := client.get(f"/api/tasks/{task_id}").body)["callback"]["state"] == "pending":
                    time.sleep(0.02)
        told = {"url": url, "state": "delivered", "tries": 1, "error": None}
        self.assertEqual(task["callback"], told)

    def head(self, connection: socket.socket) -> str:
        """The head of the request that comes."""
        connection.settimeout(20)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65_536)
        return received.partition(b"\r\n\r\n")[0].decode()

    def test_a_store_in_memory_serves_too(self) -> None:
        with self.start(store="sqlite://").client() as client:
            task_id = client.post("/api/tasks", {"name": "a", "duration": 0}).body["task_id"]
            while client.get(f"/api/tasks/{task_id}").body["status"] != "completed":
                time.sleep(0.02)
        self.assertEqual(list(self.folder.iterdir()), [])

    def serves_on(self, path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.path.relpath(path))
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return client.makefile("rb").read().startswith(b"HTTP/1.1 200")

    def test_the_file_of_a_unix_socket_that_was_handed_over_is_left_alone(self) -> None:
        path = self.folder / "http.sock"
        variables = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http;"
        with socket.socket(socket.AF_UNIX) as given:
            given.bind(os.path.relpath(path))
            given.listen()
            path.chmod(0o600)
            for _ in range(2):
                service = subprocess.Popen(
                    [
                        *(
                            "sh",
                            "-c",
                            f'exec 3<&{given.fileno()}; {variables} exec "$0" "$@"',
                            sys.executable,
                        ),
                        *("-m", "asynctask", "--listen", "systemd:domain=UNIX:index=0"),
                    ],
                    cwd=self.folder,
                    stdout=subprocess.PIPE,
                    pass_fds=[given.fileno()],
                )
                self.addCleanup(service.kill)
                assert service.stdout is not None
                while b"Listening on unix:" not in service.stdout.readline():
                    self.assertIsNone(service.poll())
                self.assertTrue(self.serves_on(path))
                self.assertEqual(path.stat().st_mode & 0o777, 0o600)
                service.terminate()
                service.communicate(timeout=PATIENCE)
                self.assertTrue(path.is_socket())

    def test_a_stop_goes_on_where_the_port_cannot_be_closed(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        path = folder / "s"
        service = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "asynctask",
                "--listen",
                f"unix:{path}",
                "--store",
                "sqlite:///t.sqlite",
            ],
            cwd=self.folder,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(service.kill)
        assert service.stdout is not None
        while b"Listening on unix:" not in service.stdout.readline():
            self.assertIsNone(service.poll())
        path.unlink()
        service.terminate()
        told, _ = service.communicate(timeout=PATIENCE)
        self.assertIn(b"The port could not be closed in order", told)
        self.assertFalse((self.folder / "t.sqlite-wal").exists())  # else the store was not closed

    def test_without_http_it_runs_what_waits_in_the_file_and_listens_nowhere(self) -> None:
        with self.start("--concurrency", "0").client() as client:
            client.post("/api/tasks", {"name": "a", "duration": 0})
        self.server.kill()
        self.events.clear()
        worker = Server(
            self.folder, options=["--no-http"], store="sqlite:///t.sqlite", listener=self.listen
        )
        self.addCleanup(worker.__exit__)
        self.wait_for("Working without HTTP, on no port")
        self.wait_for("Task completed")
        self.assertEqual(
            [event for event in self.events if "istening" in event or "starting on" in event], []
        )
        os.kill(worker.pid, signal.SIGTERM)
        self.assertEqual(worker.wait(), -signal.SIGTERM)

    def test_it_has_more_files_than_a_shell_gives_it(self) -> None:
        files = resource.RLIMIT_NOFILE
        soft, hard = resource.getrlimit(files)
        resource.setrlimit(files, (min(soft, 256), hard))
        try:
            server = self.start()
        finally:
            resource.setrlimit(files, (soft, hard))
        self.assertEqual(resource.prlimit(server.pid, files), (min(FILES, hard), hard))

    def test_the_log_can_be_json(self) -> None:
        server = subprocess.Popen(
            [sys.executable, "-m", "asynctask", "--port=0", "--store=sqlite://", "--log-format=json"],
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        for line in server.stdout:
            event = json.loads(line)
            self.assertEqual(list(event)[:3], ["time", "level", "message"])
            if event["message"].startswith("Listening on"):
                break
        else:
            self.fail("It did not listen")


WAITING = """
import time
from pathlib import Path
from asynctask import task

@task
def wait() -> None:
    while not Path("go").exists():
        time.sleep(0.01)
"""


class TwistTests(CommandTestCase):
    """Under twist, which has other options than twistd, and a log of its own."""

    def test_it_serves_and_ends(self) -> None:
        service = subprocess.Popen(
            [BIN / "twist", "--log-format=text", "asynctask", "--port=0", "--store=sqlite://"],
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.addCleanup(service.kill)
        assert service.stdout is not None
        told = ""
        while "Listening on http://127.0.0.1:" not in told:
            self.assertIsNone(service.poll(), told)
            told += service.stdout.readline()
        service.terminate()
        told, _ = service.communicate(timeout=PATIENCE)
        self.assertIn("Main loop terminated.", told)


class MainTests(SynchronousTestCase):
    """`asynctask.__main__`."""

    def test_whoever_reads_it_besides_starts_nothing(self) -> None:
        before = list(sys.argv)
        runpy.run_module("asynctask.__main__", run_name="__mp_main__")
        self.assertEqual(sys.argv, before)

    def test_a_ctrl_c_while_it_is_read_is_told_in_a_sentence(self) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        self.patch(sys, "argv", ["asynctask"])
        self.patch(twistd, "run", interrupted)
        ended = self.assertRaises(SystemExit, runpy.run_module, "asynctask", run_name="__main__")
        self.assertEqual(ended.code, "asynctask: Interrupted before it had started")

    def test_so_is_one_while_twistd_reads_the_service(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "interrupted.py").write_text("raise KeyboardInterrupt\n")
        self.patch(sys, "path", [str(folder), *sys.path])
        maker = asynctask_plugin._Maker("a", "interrupted", "b", "c")
        ended = self.assertRaises(SystemExit, lambda: maker.options)
        self.assertEqual(ended.code, "asynctask: Interrupted before it had started")


class DaemonTests(CommandTestCase):
    """Behind, with a PID file and a log."""

    @contextmanager
    def daemon(self, *options: str) -> Iterator[int]:
        status, text = self.run_twistd("asynctask", "--port", "0", *options)
        self.assertEqual((status, text), (0, ""))
        pid = int((self.folder / "twistd.pid").read_text())
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGTERM)
            while (self.folder / "twistd.pid").exists():
                time.sleep(0.02)

    def test_it_goes_into_the_background_and_logs_into_a_file(self) -> None:
        log = self.folder / "twistd.log"
        with self.daemon():
            while "Listening on http://127.0.0.1:" not in log.read_text():
                time.sleep(0.02)
            self.assertTrue((self.folder / "asynctask.sqlite").exists())
        self.assertIn("Server Shut Down", log.read_text())
        self.assertNotIn("are gone", log.read_text())
        self.assertFalse((self.folder / "asynctask.sqlite-wal").exists())

    def test_threads_that_do_not_follow_it_there_are_named(self) -> None:
        started = (
            "import threading; threading.Thread(target=threading.Event().wait, name='drain').start()\n"
        )
        (self.folder / "mine.py").write_text(f"{started}from asynctask import task\n@task\ndef a(): pass\n")
        log = self.folder / "twistd.log"
        with self.daemon("--tasks", "mine"):
            while "Listening on http://127.0.0.1:" not in log.read_text():
                time.sleep(0.02)
        self.assertRegex(log.read_text(), "warn Threads .* are gone, .* threads=drain\n")
