"""A disk that is full, a database that another program locked, a sync or write that fails.

What was refused never runs or appears, what was acknowledged completes, and the service goes on by
itself: ``python -m tests.faults.disk`` tries it all, ``… disk full`` or another name a part.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import strace, tmpfs
from tests.faults.client import Client
from tests.faults.ledger import SHOWN, Ledger, accepts_again, audit, settle
from tests.faults.load import Load, Target
from tests.faults.log import LogLine
from tests.faults.server import DATABASE, Server, StartError
from tests.faults.witness import LogWitness

ANSWERED_WITHIN = 5.0
RECOVERED_WITHIN = 5.0

SYNC = "fdatasync,fsync:error=EIO"
WRITE = "pwrite64:error=EIO"
FAULTS = {
    "one sync": f"{SYNC}:when=1",
    "every third sync": f"{SYNC}:when=2+3",
    "all syncs": SYNC,
    "one write": f"{WRITE}:when=2",
    "every seventh write": f"{WRITE}:when=3+7",
    "all writes": WRITE,
}


@dataclass
class Report:
    """How one trouble went; times in seconds.

    :param injected: how many system calls were made to fail.
    :param slow: what came too late, which on a busy machine says nothing of promises.
    """

    trouble: str
    ledger: Ledger = field(default_factory=Ledger)
    injected: int = 0
    slowest_read: float = 0
    recovered_after: float | None = None
    readiness: int = 0
    violations: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ledger, after = self.ledger, self.recovered_after
        lines = [
            f"{self.trouble}: {len(ledger.acknowledged)} acknowledged, "
            f"{len(ledger.refused)} refused, {len(ledger.unknown)} unknown, "
            f"statuses {dict(ledger.statuses)}, {self.injected} calls failed",
            f"  slowest answer {ledger.slowest:.2f} s, read {self.slowest_read:.2f} s, "
            f"/health/ready {self.readiness or '-'}, "
            f"accepts again after {'-' if after is None else f'{after:.2f} s'}",
            f"  violations: {len(self.violations)}",
            *(f"    {text}" for text in self.violations[:SHOWN]),
            f"  slow: {len(self.slow)}",
            *(f"    {text}" for text in self.slow[:SHOWN]),
        ]
        return "\n".join(lines)


class Trial:
    """One life of the service in trouble, and a second that tells what the first left behind."""

    def __init__(self, folder: Path, trouble: str) -> None:
        self.report = Report(trouble)
        self.ledger = self.report.ledger
        self.target = Target()
        self._folder = folder
        self._log = LogWitness()

    @contextmanager
    def service(self) -> Iterator[Server]:
        """The service, listening."""
        self._log.new_life()
        with Server(self._folder, listener=self._notice) as server:
            yield server.ready()

    def post_for(self, seconds: float, client: Client, label: str, rate: float = 40) -> None:
        """POST one after the other, at most `rate` a second, and read a list after each."""
        deadline = time.monotonic() + seconds
        number = 0
        while (began := time.monotonic()) < deadline:
            number += 1
            self.ledger.submit(client, f"{label}-{number}", 0)
            answered = time.monotonic()
            client.get("/api/tasks?limit=1")
            self.report.slowest_read = max(self.report.slowest_read, time.monotonic() - answered)
            time.sleep(max(0, 1 / rate - (time.monotonic() - began)))

    def expect_trouble(self) -> None:
        """At least one POST must have been refused, or nothing was tried."""
        if not self.ledger.statuses[503]:
            self.report.violations.append("inconclusive: not one POST was answered 503")

    def expect_recovery(self, server: Server) -> None:
        """Without a restart a 202 comes again, and all that was acknowledged completes."""
        with server.client() as client:
            after = accepts_again(client, self.ledger, self.report.trouble)
            self.report.recovered_after = after
            if after is None:
                self.report.violations.append("no 202 any more")
            elif after > RECOVERED_WITHIN:
                self.report.slow.append(f"a 202 only after {after:.2f} s")
            self._judge(client)

    def expect_after_restart(self) -> None:
        """Start again on the same store: the promises hold still."""
        try:
            with self.service() as server, server.client() as client:
                self._judge(client)
                self.report.violations += server.terminate()
        except StartError as failure:
            self.report.violations.append(f"the restart failed: {failure}")
        self.report.violations += self.ledger.violations + self._log.violations
        if self.ledger.slowest > ANSWERED_WITHIN:
            self.report.slow.append(f"a POST was answered after {self.ledger.slowest:.2f} s")

    def _judge(self, client: Client) -> None:
        self.report.violations += settle(client, 30)
        self.report.violations += audit(client, self.ledger, self._log.names)

    def _notice(self, line: LogLine) -> None:
        self._log.notice(line)
        self.target.notice(line)


def full(size: str = "16m", seconds: float = 4) -> Report:
    """Fill the disk of the store for some seconds, then make room again; it takes root."""
    with tmpfs.small_disk(size) as folder:
        trial = Trial(folder, "full disk")
        with trial.service() as server:
            with server.client() as client, tmpfs.filled(folder):
                trial.post_for(seconds, client, "full")
                trial.report.readiness = client.get("/health/ready").status
            trial.expect_trouble()
            trial.expect_recovery(server)
            server.kill()
        trial.expect_after_restart()
    return trial.report


def full_while_running(size: str = "16m", seconds: float = 4) -> Report:
    """Fill the disk while tasks run that end meanwhile: their ends wait, and are stored later."""
    with tmpfs.small_disk(size) as folder:
        trial = Trial(folder, "full disk under running tasks")
        with trial.service() as server:
            with server.client() as client:
                for number in range(30):
                    trial.ledger.submit(client, f"before-{number}", number % 2 + 1)
                with tmpfs.filled(folder):
                    trial.post_for(seconds, client, "full")
            trial.expect_trouble()
            trial.expect_recovery(server)
            server.kill()
        trial.expect_after_restart()
    return trial.report


def locked(folder: Path, seconds: float = 6, begin: str = "BEGIN IMMEDIATE") -> Report:
    """Let another program hold the database's write lock for some seconds."""
    trial = Trial(folder, f"locked by {begin}")
    with trial.service() as server:
        with server.client() as client:
            for number in range(10):
                trial.ledger.submit(client, f"before-{number}", number % 2 + 1)
            before = len(trial.ledger.acknowledged)
            with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as other:
                other.execute(begin)
                trial.post_for(seconds, client, "locked")
                trial.report.readiness = client.get("/health/ready").status
                other.execute("ROLLBACK")
        if len(trial.ledger.acknowledged) > before:
            trial.report.violations.append("a POST was answered 202 while the store was locked")
        trial.expect_trouble()
        trial.expect_recovery(server)
        server.kill()
    trial.expect_after_restart()
    return trial.report


def failing(folder: Path, fault: str, *, kill: bool, seconds: float = 1.5) -> Report:
    """Let system calls of the service fail for some seconds under load.

    :param fault: one of `FAULTS`.
    :param kill: `kill -9` while they still fail; else let it recover first.
    """
    trial = Trial(folder, f"{fault} fail{', then a kill' if kill else ''}")
    with strace.trace_file() as trace, trial.service() as server:
        load = Load(trial.target, trial.ledger, rate=80, seed=1, threads=4, longest=1)
        with load:
            time.sleep(0.5)
            injection = strace.Injection(server.pid, FAULTS[fault], trace)
            time.sleep(seconds)
            if kill:
                server.kill()
                trial.target.port = None
            trial.report.injected = injection.stop()
        if not kill:
            trial.expect_recovery(server)
        if not kill and not server.alive:
            trial.report.violations.append(f"the service ended: {server.tail[-1]}")
        server.kill()
    if not trial.report.injected:
        trial.report.violations.append("inconclusive: no system call was made to fail")
    trial.expect_after_restart()
    return trial.report


def _fresh(experiment: Callable[[Path], Report]) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        return experiment(Path(folder))


def _full() -> Iterator[Report]:
    if (reason := tmpfs.unavailable()) is not None:
        print(f"full disk skipped: {reason}")
        return
    yield full()
    yield full_while_running()


def _locked() -> Iterator[Report]:
    yield _fresh(lambda folder: locked(folder))
    yield _fresh(lambda folder: locked(folder, begin="BEGIN EXCLUSIVE"))


def _failing() -> Iterator[Report]:
    if (reason := strace.unavailable()) is not None:
        print(f"failing calls skipped: {reason}")
        return
    for fault in FAULTS:
        for kill in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                yield failing(Path(folder), fault, kill=kill)


PARTS = {"full": _full, "locked": _locked, "failing": _failing}


def main() -> int:
    """The command; the exit code tells whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", default=list(PARTS), metavar=f"{{{','.join(PARTS)}}}")
    broken = False
    for part in parser.parse_args().part:
        for report in PARTS[part]():
            print(report, flush=True)
            broken = broken or bool(report.violations or report.slow)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
