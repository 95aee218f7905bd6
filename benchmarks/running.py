"""A server on one core, or on all, from its start to its end."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from benchmarks.catalog import ROOT, WORK, Peer, Site
from benchmarks.client import Client, get
from benchmarks.postgres import Postgres
from benchmarks.proc import cpu_seconds, resident_bytes

READY: Final = 60.0
"""Seconds that a server may take until it answers."""

POLL: Final = 0.01


class BenchError(Exception):
    """A measurement has failed; the message is one sentence."""


def cores() -> tuple[int, int]:
    """The core of the servers, and that of what loads them.

    :raises BenchError: there is only one.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise BenchError("Two cores are needed, one for the server and one for its load")
    return usable[0], usable[1]


class Cores:
    """The two cores, taken once: the harness itself moves to the one of the load."""

    def __init__(self) -> None:
        self.server, self.load = cores()
        self.all = os.sched_getaffinity(0)

    def settle(self) -> None:
        """Move this process off the server's core."""
        os.sched_setaffinity(0, {self.load})

    def on_server(self, command: list[str]) -> list[str]:
        """The command, to run on the server's core."""
        return ["taskset", "-c", str(self.server), *command]

    def on_all(self, command: list[str]) -> list[str]:
        """The command, to run on every core."""
        return ["taskset", "-c", ",".join(map(str, sorted(self.all))), *command]

    def on_load(self, command: list[str]) -> list[str]:
        """The command, to run on the core of the load."""
        return ["taskset", "-c", str(self.load), *command]


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Lines:
    """How often something stands in a file that grows; each look reads on from the last."""

    def __init__(self, path: Path, text: bytes) -> None:
        self._path = path
        self._text = text
        self._offset = 0
        self._tail = b""
        self._count = 0

    def count(self) -> int:
        """How often until now."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while block := file.read(1 << 24):
                self._offset += len(block)
                joined = self._tail + block
                self._count += joined.count(self._text)
                self._tail = joined[-(len(self._text) - 1) :]
        return self._count

    def wait_for(self, number: int, seconds: float) -> int:
        """Wait until it is there so often, or for so many seconds; how often it is then."""
        deadline = time.monotonic() + seconds
        while (found := self.count()) < number and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


class Running:
    """One life of a peer: its processes in sessions of their own, in a new folder, with its database.

    :param files: what is put into its folder before the start.
    """

    def __init__(self, peer: Peer, the_cores: Cores, files: tuple[Path, ...] = ()) -> None:
        WORK.mkdir(exist_ok=True)
        self.peer = peer
        self.site = Site(Path(tempfile.mkdtemp(dir=WORK)), free_port(), free_port())
        self.log = self.site.folder / "server.log"
        self.errors = self.site.folder / "server.err"
        self._cores = the_cores
        self._processes: list[subprocess.Popen[bytes]] = []
        self._postgres: Postgres | None = None
        for file in files:
            shutil.copy(file, self.site.folder)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.site.port

    def start(self) -> None:
        """Start its processes; they need not have come far yet.

        :raises BenchError: one of its programs is not there, or its database cannot be prepared.
        """
        if self.peer.postgres:
            self._start_postgres()
        environment = self._environment()
        on_cores = self._cores.on_all if self.peer.every_core else self._cores.on_server
        with self.log.open("ab") as log, self.errors.open("ab") as errors:
            for command in self.peer.commands(self.site):
                try:
                    process = subprocess.Popen(
                        on_cores(command),
                        cwd=self.site.folder,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=errors,
                        start_new_session=True,
                    )
                except OSError as error:
                    raise BenchError(f"{command[0]} cannot be started ({error.strerror})") from None
                self._processes.append(process)

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if "ASYNCTASK" not in key}
        return inherited | {
            "PYTHONPATH": str(ROOT),
            "PEER_REDIS_PORT": str(self.site.second_port),
            "PEER_POSTGRES": self.site.database,
        }

    def _start_postgres(self) -> None:
        try:
            self._postgres = Postgres(WORK, self._cores.all)
        except ImportError as error:
            raise BenchError(f"{error.name} is not installed, which brings PostgreSQL") from None
        except subprocess.SubprocessError as error:
            raise BenchError(f"PostgreSQL cannot be started ({error})") from None
        self.site = replace(self.site, database=self._postgres.url)
        for command in self.peer.prepare(self.site):
            ended = subprocess.run(
                command, cwd=self.site.folder, env=self._environment(), capture_output=True, check=False
            )
            if ended.returncode:
                raise BenchError(f"{' '.join(command)} has failed: {ended.stderr.decode().strip()[-300:]}")

    def wait_ready(self) -> None:
        """Wait until it answers.

        :raises BenchError: it ended before, or took too long.
        """
        deadline = time.monotonic() + READY
        while True:
            self.check_alive()
            try:
                if get(self.port, "/health/live") == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise BenchError(f"It did not answer within {READY:.0f} s")
            time.sleep(POLL)

    def check_alive(self) -> None:
        """Look whether all its processes are there.

        :raises BenchError: one has ended.
        """
        for process in self._processes:
            if process.poll() is not None:
                name = Path(str(process.args[3] if isinstance(process.args, list) else "")).name
                raise BenchError(f"{name} has ended with {process.returncode}: {self._last_words()}")

    def _last_words(self) -> str:
        for path in (self.errors, self.log):
            if lines := path.read_text("utf-8", "replace").strip().splitlines():
                return lines[-1]
        return "no output"

    def lines(self, text: bytes) -> Lines:
        """Count the lines of its log that have this in them."""
        return Lines(self.log, text)

    def client(self) -> Client:
        """A connection to it."""
        return Client(self.port)

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have used."""
        return sum(cpu_seconds(process.pid) for process in self._processes)

    def database_cpu(self) -> float:
        """Seconds of CPU that its PostgreSQL has used; 0 where it has none."""
        return self._postgres.cpu() if self._postgres else 0.0

    def memory(self) -> int:
        """Bytes that all its processes have resident."""
        return sum(resident_bytes(process.pid) for process in self._processes)

    def stop(self, within: float = 60) -> None:
        """SIGTERM to the last of its processes, and wait for its end.

        :raises BenchError: it did not end.
        """
        process = self._processes[-1]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            raise BenchError(f"SIGTERM did not end it within {within:.0f} s") from None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it at once, and leave nothing of it."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._postgres:
            self._postgres.close()
            self._postgres = None
        shutil.rmtree(self.site.folder, ignore_errors=True)
