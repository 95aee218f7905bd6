"""What keeps the command from starting: one sentence, and its exit status."""

import os
import signal
import socket
import subprocess
import sys
import time

from tests import postgres
from tests.faults.log import parse_line
from tests.faults.server import Server
from tests.test_command import PATIENCE, CommandTestCase


class StartErrorTests(CommandTestCase):
    """What keeps it from starting is one sentence, in front and behind, and nothing is touched."""

    def assert_refused(self, sentence: str, *options: str) -> None:
        for front in (["-n"], []):
            status, text = self.run_twistd(*front, "asynctask", *options)
            self.assertEqual((status, text.count("\n")), (1, 1), text)
            self.assertIn(sentence, text)
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_wrong_options(self) -> None:
        self.assert_refused("--port takes a whole number from 0 to 65535, not 'x'", "--port", "x")
        self.assert_refused("option --prot not recognized", "--prot", "1")

    def test_a_url_with_a_typo(self) -> None:
        self.assert_refused("--store must be a URL such as", "--store", "sqlit:///x")

    def test_secrets_that_cannot_be_read(self) -> None:
        self.assert_refused("--callback-secret none cannot be read", "--callback-secret", "none")
        (self.folder / "secrets").write_text("hunter2")
        self.assert_refused(
            "--callback-secret secrets: line 1 is no secret", "--callback-secret", "secrets"
        )

    def test_a_taken_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            self.assert_refused(f"Port {port} on 127.0.0.1 is taken", "--port", port)

    def test_listening_beyond_loopback(self) -> None:
        self.assert_refused("--insecure", "--listen", "tcp:0")

    def test_a_file_that_is_no_database(self) -> None:
        file = self.folder / "notes.txt"
        file.write_text("not a database " * 100)
        self.assert_refused("notes.txt is no sound SQLite database", "--store", "sqlite:///notes.txt")
        self.assertEqual(file.read_text(), "not a database " * 100)

    def test_a_module_of_handlers_that_cannot_be_imported(self) -> None:
        (self.folder / "broken.py").write_text("width = 1 / 0\n")
        sentence = "--tasks broken cannot be imported: ZeroDivisionError: division by zero ("
        self.assert_refused(sentence, "--tasks", "broken", "--port", "0")

    def test_a_ctrl_c_while_it_starts(self) -> None:
        interrupt = (
            "from asynctask import task\n\n"
            "@task\ndef interrupt() -> None: raise KeyboardInterrupt\n\n"  # a signal may be ignored
        )
        modules = {
            "imported": "interrupt()",
            "opened": "from asynctask.store import SqlStore\n\nSqlStore.open = lambda *_: interrupt()",
        }
        for name, statements in modules.items():
            (self.folder / f"{name}.py").write_text(f"{interrupt}{statements}\n")
            status, text = self.run_twistd("-n", "asynctask", "--tasks", name, "--port", "0")
            told = [line for line in text.splitlines() if parse_line(line) is None]  # beside the log
            self.assertEqual((status, told), (1, ["asynctask: Interrupted before it had started"]))

    def test_a_module_that_has_started_a_thread(self) -> None:
        thread = "import threading, time\n\nthreading.Thread(target=time.sleep, args=(999,)).start()\n"
        modules = {
            "imported": "raise ValueError('no')",
            "opened": "from asynctask import task\nfrom asynctask.problems import StartError\n"
            "from asynctask.store import SqlStore\n\n"
            "@task\ndef handler(): ...\n\n"
            "def refuse(*_): raise StartError('It is locked')\n\nSqlStore.open = refuse",
        }
        for (name, statements), why in zip(modules.items(), ("ValueError", "It is locked"), strict=True):
            (self.folder / f"{name}.py").write_text(f"{thread}{statements}\n")
            status, text = self.run_twistd("-n", "asynctask", "--tasks", name, "--port", "0")
            told = [line for line in text.splitlines() if parse_line(line) is None]
            self.assertEqual((status, len(told)), (1, 1))
            self.assertIn(why, told[0])

    def test_many_processes_on_one_file(self) -> None:
        self.assert_refused("--processes needs --store postgresql://…; a SQLite file", "--processes", "2")

    def test_a_worker_whose_store_nobody_else_can_reach(self) -> None:
        self.assert_refused("would never get a task", "--no-http", "--store", "sqlite://")

    def test_a_database_that_may_not_be_written_to(self) -> None:
        database, stranger = f"{postgres.TEMPLATE}_strange", "asynctask_stranger"
        postgres.execute(f"CREATE DATABASE {database}")
        postgres.execute(f"CREATE ROLE {stranger} LOGIN")
        self.addCleanup(postgres.execute, f"DROP ROLE {stranger}")
        self.addCleanup(postgres.drop, database)
        store = postgres.uri_of(database).replace("user=postgres", f"user={stranger}")
        given = ("--store", store, "--port", "0")
        for options in (given, (*given, "--show-callback-secret")):
            status, text = self.run_twistd("-n", "asynctask", *options)
            self.assertEqual(status, 1)
            sentence = text.splitlines()[-1]  # the log comes before
            self.assertRegex(sentence, "^asynctask: --store .* cannot be used .permission denied .*[)]$")
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_a_store_that_is_no_file(self) -> None:
        os.mkfifo(self.folder / "s")
        self.assert_refused("is a device or a pipe, not a file", "--store", "sqlite:///s")

    def test_a_pid_file_is_written_here_wherever_twistd_goes(self) -> None:
        (self.folder / "there").mkdir()
        (self.folder / "run").mkdir()
        given = ("--rundir=there", "--pidfile=run/pid", "asynctask", "--port=0", "--store=sqlite://")
        self.assertEqual(self.run_twistd(*given), (0, ""))
        pid, log = self.folder / "run" / "pid", self.folder / "twistd.log"
        until = time.monotonic() + PATIENCE
        while "Listening" not in log.read_text():  # before, nobody hears a signal
            self.assertLess(time.monotonic(), until)
            time.sleep(0.02)
        os.kill(int(pid.read_text()), signal.SIGTERM)
        while pid.exists():
            self.assertLess(time.monotonic(), until)
            time.sleep(0.02)

    def test_a_pid_file_that_cannot_be_written(self) -> None:
        for front in (["-n"], []):
            status, text = self.run_twistd(*front, "--pidfile=none/pid", "asynctask", "--port", "0")
            self.assertEqual((status, text.count("\n")), (1, 1), text)
            self.assertIn("--pidfile none/pid cannot be written (there is no folder none)", text)

    def test_a_working_directory_that_cannot_be_entered(self) -> None:
        for folder in ("none", ""):
            status, text = self.run_twistd("-n", f"--rundir={folder}", "asynctask", "--store", "sqlite://")
            self.assertEqual((status, text.count("\n")), (1, 1), text)
            self.assertIn("asynctask: The working directory", text)

    def test_a_working_directory_that_was_removed(self) -> None:
        gone = self.folder / "gone"
        gone.mkdir()
        done = subprocess.run(
            f"rmdir {gone}; exec {sys.executable} -m asynctask --store sqlite:// --port 0",
            shell=True,
            cwd=gone,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        sentence = "asynctask: The working directory cannot be used (No such file or directory)\n"
        self.assertEqual((done.returncode, done.stderr), (1, sentence))

    def test_a_store_that_is_in_use(self) -> None:
        with Server(self.folder) as first:
            first.ready()
            self.assert_refused("in use by another", "--store", "sqlite:///t.sqlite", "--port", "0")
            with first.client() as client:
                self.assertEqual(client.get("/health/ready").status, 200)
