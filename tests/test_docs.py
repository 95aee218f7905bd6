"""The commands, samples and files of README and docs, run as a newcomer would."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from treq.testing import StubTreq
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from asynctask import pgserver
from asynctask.metrics import Metrics
from asynctask.options import Options
from asynctask.registry import kinds_of
from asynctask.signing import Signer, new_secret
from asynctask.store import SqlStore
from tests import postgres
from tests.faults.server import Server
from tests.pages import ROOT, blocks, metric_rows, text
from tests.turns import Turns

SETUP = re.compile(r"^python3 -m venv \.venv && \.venv/bin/pip install \S+ && \.venv/bin/")
PATIENCE = 300
"""Seconds for an installation from an index far away."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


class ReadmeTests(SynchronousTestCase):
    """The README, from top to bottom."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        leave = shutil.ignore_patterns(".*", "_trial_temp*", "*.egg-info", "build", "__pycache__")
        shutil.copytree(ROOT, self.folder, ignore=leave)
        self.port = free_port()
        self.addCleanup(lambda: self.stop())

    def start(self, command: str) -> None:
        """Run the first command; without CI, with what is installed already."""
        if "CI" not in os.environ:
            command = SETUP.sub(".venv/bin/", command).replace(
                ".venv/bin", str(Path(sys.executable).parent)
            )
        self.log = (self.folder / "log").open("w+")
        self.service = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**os.environ, "ASYNCTASK_PORT": str(self.port), "PIP_QUIET": "1"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.wait_for(f"Listening on http://127.0.0.1:{self.port}")

    def stop(self) -> None:
        if self.service.poll() is None:
            os.killpg(self.service.pid, signal.SIGKILL)
            self.service.wait()
        self.log.close()

    def wait_for(self, text: str, seconds: float = PATIENCE) -> str:
        deadline = time.monotonic() + seconds
        while text not in (log := (self.folder / "log").read_text("utf-8")):
            self.assertIsNone(self.service.poll(), log)
            self.assertLess(time.monotonic(), deadline, log)
            time.sleep(0.05)
        return log

    def run_block(self, command: str) -> str:
        command = command.replace("localhost:8080", f"localhost:{self.port}")
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.folder, capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_its_commands_do_what_it_says(self) -> None:
        run, post, look, run_own, post_own, test = blocks("README.md", "sh")
        self.assertIn("twisted.trial tests", test)  # what runs this very test
        self.assertRegex(run, SETUP)
        self.start(run)
        answer = self.run_block(post)
        self.assertIn("202 Accepted", answer)
        self.assertIn("Task will run for 5 seconds in background", answer)
        self.wait_for("step=1 total=5", 5)
        self.assertIn('"generate-report"', self.run_block(look))
        self.wait_for("Task completed", 10)
        if shutil.which("sqlite3") is not None:
            (read,) = blocks("docs/operating.md", "sh")
            self.assertEqual(self.run_block(read), "completed|1\n")
            self.assertTrue((self.folder / "copy.sqlite").exists())
        self.stop()

        (handler,) = blocks("README.md", "python")
        self.assertLessEqual(len(handler.splitlines()), 12)
        (self.folder / "mytasks.py").write_text(handler)
        self.start(run_own)
        task = json.loads(self.run_block(post_own))
        self.assertEqual((task["status"], task["result"]["bytes"]), ("completed", 15))


class HttpTests(SynchronousTestCase):
    """The commands and samples of docs/http.md."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.server = self.enterContext(Server(folder)).ready()

    def test_a_task_is_followed_with_curl(self) -> None:
        (follow,) = blocks("docs/http.md", "sh")
        told = subprocess.run(
            ["bash", "-ec", follow.replace("localhost:8080", f"localhost:{self.server.port}")],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout
        events = [line for line in told.splitlines() if line.startswith("event: ")]
        kinds = ["change", "change", "progress", "progress", "change"]
        self.assertEqual(events, [f"event: {kind}" for kind in kinds])

    def test_tasks_are_followed_with_httpx_sse(self) -> None:
        (sample,) = blocks("docs/http.md", "python")
        names: dict[str, Any] = {"__name__": "sample"}
        exec(sample, names)
        with httpx.Client(base_url=f"http://localhost:{self.server.port}") as client:
            task_id = client.post("/api/tasks", json={"name": "a", "duration": 1}).json()["task_id"]
            told = list(names["follow"](client, f"/api/tasks/{task_id}/events"))
            self.assertEqual([event for event, _ in told], ["change", "change", "progress", "change"])
            event, _ = next(names["follow"](client, "/api/events", "nonsense"))
            self.assertEqual(event, "reset")
            with self.assertRaises(httpx.HTTPStatusError):
                next(names["follow"](client, "/api/tasks/nonsense/events"))


class FilesTests(SynchronousTestCase):
    """The statements and files of docs, looked at by those whose files they are."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def test_the_statements_run(self) -> None:
        _, *statements = (block for block in blocks("docs/scale.md", "sql") if "ALTER SYSTEM" not in block)
        self.assertEqual(len(statements), 2)
        database = postgres.new_database()
        self.addCleanup(postgres.drop, database)
        with psycopg.connect(postgres.url_of(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def test_a_database_of_its_own_is_enough_for_the_service(self) -> None:
        own = f"{postgres.TEMPLATE}_own"
        made, *_ = blocks("docs/scale.md", "sql")
        self.addCleanup(postgres.execute, f"DROP ROLE {own}")
        self.addCleanup(postgres.drop, own)
        for statement in made.split(";\n"):
            postgres.execute(re.sub(r"\basynctask\b", own, statement))
        url = make_conninfo(postgres.url_of(own), user=own, password="secret")
        turns = Turns()
        store = SqlStore(pgserver.Server(url), turns, metrics=Metrics())
        store.open([], 0)
        turns.outcome(store.close())

    def test_a_database_is_dumped_and_restored(self) -> None:
        database = postgres.new_database()
        self.addCleanup(postgres.drop, database)
        server = postgres.url_of(database)
        known = conninfo_to_dict(server)
        (commands,) = (block for block in blocks("docs/scale.md", "sh") if "pg_dump" in block)
        commands = commands.replace("--role=asynctask", f"--role={known['user']}")
        commands = re.sub(r"(-d|asynctask\.dump) asynctask\b", rf"\1 {database}", commands)
        dump, *others = commands.strip().splitlines()
        named = {f"PG{name.upper()}": str(value) for name, value in known.items() if name != "dbname"}
        with psycopg.connect(server, autocommit=True) as connection:
            ((programs,),) = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
            if not Path(programs, "pg_dump").exists():
                raise SkipTest("the server's own pg_dump is not there")
            environment = os.environ | named | {"PATH": f"{programs}:{os.environ['PATH']}"}
            connection.execute("INSERT INTO meta (key, value) VALUES ('a', 'before')")
            (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'")
            self.run_all([dump], environment)
            connection.execute("UPDATE meta SET value = 'after' WHERE key = 'a'")
        self.run_all(others, environment)
        with psycopg.connect(server) as connection:
            (found,) = connection.execute("SELECT value FROM meta WHERE key = 'a'")
            self.assertEqual(found, ("before",))
            (now,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'")
            self.assertNotEqual(now, epoch)

    def test_what_waits_in_a_file_is_worked_off_beside_a_database(self) -> None:
        (commands,) = (block for block in blocks("docs/scale.md", "sh") if "old.sock" in block)
        secret, new, old, look = commands.strip().splitlines()
        database = postgres.new_database()
        self.addCleanup(postgres.drop, database)
        (self.folder / "mytasks.py").write_text("from asynctask import task\n\n@task\ndef work(): pass\n")
        taker = Server(self.folder, store="sqlite:///asynctask.sqlite", options=["--concurrency", "0"])
        with self.enterContext(taker).ready().client() as client:
            client.post("/api/tasks", {"name": "left", "duration": 0})
        taker.kill()
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.run_all([secret], environment)
        new = re.sub(r"postgresql://\S+", lambda _: postgres.uri_of(database), new)
        for command, message in ((new, "Listening on"), (old, "Task completed")):
            service = subprocess.Popen(
                command.replace("python", sys.executable, 1).split(),
                cwd=self.folder,
                env=environment | {"ASYNCTASK_PORT": "0"},
                stdout=subprocess.PIPE,
                text=True,
            )
            self.addCleanup(service.kill)
            assert service.stdout is not None
            with service.stdout as log:
                self.assertTrue(any(message in line for line in log), command)
                if command == old:
                    self.assertIn('"tasks":[]', run("bash", "-c", f"cd {self.folder}; {look}").stdout)
                service.terminate()
                log.read()
            service.wait()
        self.assertRegex((self.folder / "secrets").read_text(), "^whsec_")

    def run_all(self, commands: Iterable[str], environment: Mapping[str, str]) -> None:
        """Run lines of a shell; each has to succeed."""
        for line in commands:
            command = ["bash", "-c", line]
            ran = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
            )
            self.assertEqual(ran.returncode, 0, ran.stderr)

    def test_nginx_takes_its_files(self) -> None:
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if nginx is None:
            raise SkipTest("nginx is not there")
        (machines,), (location,) = blocks("docs/scale.md", "nginx"), blocks("docs/operating.md", "nginx")
        conf = self.folder / "nginx.conf"
        for block in (machines, f"server {{ listen 80; {location} }}"):
            # Low ports are not everybody's.
            block = re.sub(r"listen \d+", lambda _: f"listen 127.0.0.1:{free_port()}", block)
            conf.write_text(f"pid {self.folder}/pid; events {{}} http {{ access_log off; {block} }}")
            tried = run(nginx, "-t", "-p", self.folder, "-e", "stderr", "-c", conf)
            self.assertEqual(tried.returncode, 0, tried.stderr)

    def test_systemd_takes_its_files(self) -> None:
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd-analyze is not there")
        for page in ("docs/scale.md", "docs/operating.md"):
            unit, *_ = blocks(page, "ini")
            unit = unit.replace("/srv/asynctask/.venv/bin/python", sys.executable)
            if not self.complaints(unit.replace("Restart=always", "Restart=perhaps")):
                raise SkipTest("systemd-analyze does not work here")
            self.assertEqual(self.complaints(unit), [], page)

    def complaints(self, unit: str) -> list[str]:
        """What systemd has to say of a unit."""
        (self.folder / "asynctask@.service").write_text(unit)
        tried = run("systemd-analyze", "verify", "--man=no", self.folder / "asynctask@worker.service")
        return [line for line in tried.stderr.splitlines() if "asynctask@" in line]

    def test_prometheus_takes_its_file_and_its_alerts(self) -> None:
        if shutil.which("promtool") is None:
            raise SkipTest("promtool (Debian's package prometheus) is not there")
        scrape, alerts, _ = blocks("docs/operating.md", "yaml")
        (self.folder / "prometheus.yml").write_text(scrape)
        tried = run("promtool", "check", "config", self.folder / "prometheus.yml")
        self.assertEqual(tried.returncode, 0, tried.stderr)
        (self.folder / "rules.yml").write_text(alerts)
        tried = run("promtool", "check", "rules", self.folder / "rules.yml")
        self.assertEqual(tried.returncode, 0, tried.stderr)
        named = {name.removesuffix("_bucket") for name in re.findall(r"asynctask_\w+", alerts)}
        self.assertLessEqual(named, metric_rows().keys())

    def test_the_variables_are_those_of_options(self) -> None:
        known = {name.replace("-", "_").upper() for name in Options({}).synonyms}
        for page in ("docs/scale.md", "docs/operating.md"):
            named = set(re.findall(r"(?:^|`|Environment=)ASYNCTASK_(\w+)=", text(page), re.MULTILINE))
            self.assertGreater(len(named), 5, page)
            self.assertLessEqual(named, known, page)


class CronTests(SynchronousTestCase):
    """The job of docs/operating.md."""

    def test_however_often_it_runs_on_a_day_there_is_one_task(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "mine.py").write_text("from asynctask import task\n\n@task\ndef report(): pass\n")
        server = self.enterContext(Server(folder, options=["--tasks", "mine"])).ready()
        (line,) = blocks("docs/operating.md", "crontab")
        *when, job = line.strip().split(" ", 5)
        self.assertEqual(when, ["30", "2", "*", "*", "*"])
        self.assertNotRegex(job, r"(?<!\\)%")  # which would end it
        job = job.replace(r"\%", "%").replace("$(date +%F)", "2026-11-24")
        job = job.replace("localhost:8080", f"localhost:{server.port}")
        told = [json.loads(run("bash", "-ec", job).stdout) for _ in range(2)]
        self.assertEqual(told[0]["task_id"], told[1]["task_id"])


class ContainerTests(SynchronousTestCase):
    """The command of a container."""

    def test_it_starts_and_is_stopped_in_time(self) -> None:
        *_, compose = blocks("docs/operating.md", "yaml")
        (command,) = re.findall(r"command: python (.*)", compose)
        (patience,) = re.findall(r"stop_grace_period: (\d+)s", compose)
        self.assertGreaterEqual(int(patience), Options({})["grace"] + 20)
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "mytasks.py").write_text("from asynctask import task\n\n@task\ndef work(): pass\n")
        port = free_port()
        command = command.replace("8080", f"{port}:interface=127.0.0.1")
        given = command.replace("/var/lib/asynctask", str(folder)).split()
        service = subprocess.Popen([sys.executable, *given], cwd=folder, stdout=subprocess.PIPE, text=True)
        self.addCleanup(service.kill)
        assert service.stdout is not None
        with service.stdout as log:
            self.assertTrue(any(f"Listening on http://127.0.0.1:{port}" in line for line in log))
            answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", headers={"Host": "asynctask:8080"})
            service.terminate()
            log.read()
        self.assertEqual((answer.status_code, service.wait()), (200, -signal.SIGTERM))
        self.assertTrue((folder / "tasks.sqlite").exists())


class ComingFromTests(SynchronousTestCase):
    """The samples of docs/coming-from.md."""

    def setUp(self) -> None:
        self.client, self.invoices = blocks("docs/coming-from.md", "python")
        self.names: dict[str, Any] = {"__name__": "sample"}

    def test_a_task_is_submitted_once_through_failures(self) -> None:
        exec(self.client, self.names)
        asked: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            if len(asked) == 1:
                raise httpx.ReadError("the connection was reset")
            status = 503 if len(asked) == 2 else 202
            return httpx.Response(status, json={"task_id": "task_1"}, request=request)

        transport = httpx.MockTransport(answer)
        self.names["service"] = httpx.Client(base_url="http://queue.example", transport=transport)
        self.names["time"] = SimpleNamespace(sleep=lambda _: None)
        self.assertEqual(self.names["submit"]("a", "double", number=2), "task_1")
        self.assertEqual(len({request.headers["Idempotency-Key"] for request in asked}), 1)
        body = {"name": "a", "kind": "double", "input": {"number": 2}}
        self.assertEqual([json.loads(request.content) for request in asked], [body] * 3)

    def test_the_end_of_a_task_is_waited_for(self) -> None:
        exec(self.client, self.names)
        ends = [None, "2026-11-24T18:00:05.123Z"]
        asked: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return httpx.Response(200, json={"finished_at": ends[len(asked) - 1]}, request=request)

        transport = httpx.MockTransport(answer)
        self.names["service"] = httpx.Client(base_url="http://queue.example", transport=transport)
        self.assertEqual(self.names["wait"]("task_1"), {"finished_at": ends[1]})
        self.assertEqual([request.headers["Prefer"] for request in asked], ["wait=50"] * 2)
        for request in asked:
            self.assertGreater(request.extensions["timeout"]["read"], 50)

    def test_a_handler_has_its_connections_looked_after_and_keeps_its_signature(self) -> None:
        closed: list[str] = []
        django, db = ModuleType("django"), ModuleType("django.db")
        vars(django).update(setup=lambda: closed.append("set up"), db=db)
        vars(db).update(close_old_connections=lambda: closed.append("looked after"))
        self.enterContext(self.modules({"django": django, "django.db": db}))
        exec(self.invoices, self.names)
        (kind,) = kinds_of(self.names["invoice"])
        self.assertEqual(list(kind.input.schema["properties"]), ["order"])
        self.assertRaises(ModuleNotFoundError, self.names["invoice"], 1)
        self.assertEqual(closed, ["set up", "looked after", "looked after"])

    @contextmanager
    def modules(self, made: Mapping[str, ModuleType]) -> Iterator[None]:
        """Have these while it lasts."""
        sys.modules.update(made)
        try:
            yield
        finally:
            for name in made:
                del sys.modules[name]


class CallbackTests(SynchronousTestCase):
    """The samples of docs/callbacks.md."""

    def setUp(self) -> None:
        secret = new_secret()
        self.told: list[tuple[Any, ...]] = []
        self.names: dict[str, Any] = {
            "__name__": "sample",
            "print": lambda *words: self.told.append(words),
        }
        for sample in blocks("docs/callbacks.md", "python"):
            exec(sample.replace("whsec_…", secret), self.names)
        body = '{"type":"task.completed","data":{"task_id":"task_1"}}'
        self.headers = Signer([secret]).headers("task_1.1", time.time(), body)
        self.body = body.encode()

    def test_a_receiver_takes_what_was_signed_and_nothing_else(self) -> None:
        received = self.names["received"]
        self.assertEqual(received(self.headers, self.body), 204)
        self.assertEqual(received(self.headers, self.body + b" "), 401)
        self.assertEqual(self.told, [("task.completed", "task_1")])

    def test_a_receiver_of_twisted_web_passes_on_what_came(self) -> None:
        treq: Any = StubTreq(self.names["Hook"]())
        for body, status in ((self.body, 204), (self.body + b" ", 401)):
            posted = treq.post("http://receiver.example/hooks", headers=self.headers, data=body)
            self.assertEqual(self.successResultOf(posted).code, status)
        self.assertEqual(self.told, [("task.completed", "task_1")])
