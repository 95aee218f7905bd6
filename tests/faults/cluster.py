"""Many processes on one PostgreSQL, with every trouble at once or one: nothing lost, nothing twice.

``python -m tests.faults.cluster --processes 4 --seconds 300 --kill-every 5``; or ``--lease 2 --freeze 50``;
or ``--seconds 120 --restart-every 10``, ``--terminate-every 1``, ``--lose-every 1``, ``--delay 0.5``,
``--lock-table 30``, ``--promote``; or ``--tasks 100000``; or ``--handovers 300``.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from math import inf
from pathlib import Path
from random import Random
from threading import Event, Thread

import psycopg

from tests.faults.client import Json
from tests.faults.crew import Callbacks, Crew, Member
from tests.faults.ledger import PATIENCE, SHOWN, Ledger, audit, settle
from tests.faults.pgserver import PostgresServer
from tests.faults.proxy import Proxy

BACK_WITHIN = 5.0
ANSWERED_WITHIN = 2.5
BEGIN_FREEZING = 1.0
BATCH = 1_000


class Run:
    """One run of the program: a crew, its load, and what troubles them.

    :param options: those of the command.
    :ivar troubles: how many there were.
    :ivar slow: what came too late, which on a busy machine says nothing of promises.
    """

    def __init__(self, options: argparse.Namespace, root: Path) -> None:
        self.options = options
        self.violations: list[str] = []
        self.slow: list[str] = []
        self.figures: dict[str, object] = {}
        self._random = Random(options.seed)
        self._ledger = Ledger()
        self._server = PostgresServer(root / "server")
        self._standby: PostgresServer | None = None
        self._folder = root / "processes"
        self._folder.mkdir()
        self._over = Event()
        self.troubles = 0
        self._connections_ended = 0
        self._ended: list[float] = []

    def run(self) -> None:
        """Run, judge and tell."""
        self._server.create()
        with ExitStack() as stack:
            stack.callback(self._server.remove)
            if self.options.promote:
                self._standby = PostgresServer(self._folder.parent / "standby")
                stack.callback(self._standby.remove)
                self._standby.copy(self._server, "standby")
                self._server.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
                self._server.execute("SELECT pg_reload_conf()")
                self._server.until("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
            self._proxy = stack.enter_context(Proxy(("127.0.0.1", self._server.port)))
            callbacks = stack.enter_context(Callbacks())
            if self.options.callbacks:
                self._ledger.callback_url = callbacks.url
            crew = Crew(
                self._folder, self._store, self.options.processes, self._command_options, self._ledger
            )
            self._crew = stack.enter_context(crew)
            if self.options.tasks:
                self._post_batches()
            elif self.options.handovers:
                self._hand_over()
            else:
                self._outage()
            self._judge(callbacks)

    @property
    def _store(self) -> str:
        if self._standby is not None:
            ports = f"127.0.0.1:{self._server.port},127.0.0.1:{self._standby.port}"
            return f"postgresql://postgres@{ports}/postgres"
        if self.options.lose_every or self.options.delay:
            return f"postgresql://postgres@127.0.0.1:{self._proxy.port}/postgres"
        return self._server.url

    @property
    def _command_options(self) -> list[str]:
        options = ["--lease", str(self.options.lease), "--grace", "1"]
        return options + (["--callbacks-to", "127.0.0.1"] if self.options.callbacks else [])

    def _outage(self) -> None:
        """Let all that was asked for happen under load."""
        given = self.options
        makers: list[Callable[[], None]] = []
        if given.kill_every:
            makers.append(lambda: self._every(given.kill_every, self._kill))
        if given.restart_every:
            makers.append(lambda: self._every(given.restart_every, self._server.restart))
        if given.terminate_every:
            makers.append(lambda: self._every(given.terminate_every, self._terminate))
        if given.lose_every:
            makers.append(lambda: self._every(given.lose_every, self._lose))
        if given.delay:
            makers.append(lambda: self._every(8, self._delay))
        if given.lock_table:
            makers.append(self._lock)
        if given.freeze:
            makers.append(self._freeze)
        if given.promote:
            makers.append(self._promote)
        threads = [Thread(target=self._make, args=(maker,)) for maker in makers]
        began = time.monotonic()
        with self._crew.load(given.rate, given.longest):
            for thread in threads:
                thread.start()
            if given.freeze or given.lock_table:
                for thread in threads:
                    thread.join()
            while time.monotonic() - began < given.seconds:
                time.sleep(0.2)
            self._over.set()
            for thread in threads:
                thread.join()
            self._ended.append(time.monotonic())
            while self._slowest_return() > time.monotonic() - self._ended[-1] < PATIENCE:
                time.sleep(0.2)
        self.figures["seconds"] = round(time.monotonic() - began)
        self.figures["troubles"] = self.troubles
        self.figures["COMMITs without an answer"] = self._proxy.lost
        self.figures["connections ended"] = self._connections_ended
        if (
            (makers and not self.troubles)
            or (given.lose_every and not self._proxy.lost)
            or (given.terminate_every and not self._connections_ended)
        ):
            self.violations.append("inconclusive: what was to happen did not")
        if not self._ledger.acknowledged:
            self.violations.append("inconclusive: nothing was accepted")
        self._judge_return()

    def _make(self, maker: Callable[[], None]) -> None:
        try:
            maker()
        except Exception as error:
            self.violations.append(f"inconclusive: a trouble ended early: {error!r}")

    def _every(self, seconds: float, happen: Callable[[], None]) -> None:
        while not self._over.wait(seconds):
            happen()
            self.troubles += 1

    def _kill(self) -> None:
        member = self._random.choice(self._crew.members)
        member.kill()
        self._crew.start(member)

    def _terminate(self) -> None:
        ended = self._server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'asynctask' AND pid <> pg_backend_pid()"
        )
        self._connections_ended += len(ended)

    def _lose(self) -> None:
        self._proxy.losing = 1

    def _delay(self) -> None:
        self._proxy.delay = self.options.delay
        self._over.wait(4)
        self._proxy.delay = 0.0

    def _lock(self) -> None:
        with psycopg.connect(self._server.url) as other:
            other.execute("LOCK TABLE task")
            time.sleep(self.options.lock_table)
        self._ended.append(time.monotonic())
        self.troubles += 1

    def _freeze(self) -> None:
        for _ in range(self.options.freeze):
            time.sleep(BEGIN_FREEZING)
            member = self._random.choice(self._crew.members)
            assert member.server is not None
            os.kill(member.server.pid, signal.SIGSTOP)
            time.sleep(2 * self.options.lease)
            os.kill(member.server.pid, signal.SIGCONT)
            self.troubles += 1

    def _promote(self) -> None:
        assert self._standby is not None
        self._over.wait(self.options.seconds / 2)
        self._server.stop()
        self._standby.promote()
        self.troubles += 1
        self._ended.append(time.monotonic())

    def _slowest_return(self) -> float:
        """Seconds after a trouble until each process accepts again; infinite where one does not."""
        slowest = 0.0
        for ended in self._ended:
            for member in self._crew.members:
                times = [
                    posted.at - ended
                    for posted in list(self._ledger.acknowledged.values())
                    if posted.name.startswith(f"load-{member.name}-") and posted.at > ended
                ]
                slowest = max(slowest, min(times, default=inf))
        return slowest

    def _judge_return(self) -> None:
        """After the last trouble each process accepts again, soon."""
        slowest = self._slowest_return()
        self.figures["back after, s"] = round(slowest, 2)
        if slowest == inf:
            self.violations.append("a process did not accept again")
        elif slowest > BACK_WITHIN:
            self.slow.append(f"a process accepted again only after {slowest:.2f} s")

    def _post_batches(self) -> None:
        """Post tasks that do nothing, a thousand in each request, to all of them in turn."""
        began = time.monotonic()
        clients = [member.server.client(60) for member in self._crew.members if member.server]
        for number in range(self.options.tasks // BATCH):
            tasks = [{"name": f"many-{number}-{one}", "duration": 0} for one in range(BATCH)]
            client = clients[number % len(clients)]
            answer = client.post_all("/api/tasks/batch", tasks)
            for task in answer.body["tasks"]:
                self._ledger.acknowledge(task["task_id"], task["name"], 0)
        self.figures["accepted in, s"] = round(time.monotonic() - began, 1)
        self.violations += settle(clients[0], 600)
        self.figures["ended in, s"] = round(time.monotonic() - began, 1)
        begun = sum(map(len, self._crew.seen.starts.values()))
        again = sum(attempt > 1 for _, attempt in self._crew.seen.starts)
        self.figures["begun"], self.figures["begun again"] = begun, again
        if again or begun != self.options.tasks:
            self.violations.append(f"{begun} attempts of {self.options.tasks} tasks, {again} not the first")

    def _hand_over(self) -> None:
        """Let a process that only accepts hand its tasks over to the others."""
        member = Member("idle", self._crew.seen)
        member.start(self._folder, self._store, [*self._command_options, "--concurrency", "0"])
        assert member.server is not None
        with member.server.ready().client() as client:
            for number in range(self.options.handovers):
                self._ledger.submit(client, f"handed-{number}", 0)
                time.sleep(self._random.uniform(0.02, 0.06))
            self.violations += settle(client)
            waits = sorted(
                1_000 * (_seconds(task["started_at"]) - _seconds(task["accepted_at"]))
                for task in client.tasks()
            )
        member.kill()
        self.figures["handed over, ms: median"] = round(statistics.median(waits))
        self.figures["p99"] = round(waits[int(len(waits) * 0.99)])

    def _judge(self, callbacks: Callbacks) -> None:
        ledger, seen = self._ledger, self._crew.seen
        member = self._crew.members[0]
        assert member.server is not None
        with member.server.ready().client() as client:
            self.violations += settle(client)
            tasks: list[Json] = list(client.tasks())
            self.violations += audit(client, ledger, seen.names) + ledger.violations
            self.violations += self._crew.judge(client, tasks, frozen=bool(self.options.freeze))
        if self.options.callbacks:
            time.sleep(2)
            self.violations += callbacks.judge(tasks)
            self.figures["callbacks"] = sum(callbacks.ids.values())
        reads: Counter[int] = Counter()
        for one in self._crew.members:
            reads += one.read_statuses
        self.figures |= {
            "acknowledged": len(ledger.acknowledged),
            "statuses": dict(ledger.statuses),
            "unknown": len(ledger.unknown),
            "slowest answer, s": round(ledger.slowest, 2),
            "slowest read, s": round(max(one.slowest_read for one in self._crew.members), 2),
            "reads": dict(reads),
            "tasks": len(tasks),
            "attempts after the first": sum(task["attempt"] > 1 for task in tasks),
            "late ends dropped": seen.dropped,
            "words": dict(seen.words.most_common(12)),
        }
        for one in self._crew.members:
            with suppress(Exception):
                lag = one.lag()
                self.figures[f"loop lag of {one.name}, beats by seconds"] = {
                    bound: count for bound, count in lag.items() if float(bound) >= 0.1
                }
        if not (self.options.freeze or self.options.tasks) and ledger.slowest > ANSWERED_WITHIN:
            self.slow.append(f"a POST was answered after {ledger.slowest:.2f} s")

    def lines(self) -> Iterator[str]:
        """What came of it."""
        for name, value in self.figures.items():
            yield f"{name}: {value}"
        yield f"violations: {len(self.violations)}"
        yield from (f"  {text}" for text in self.violations[:SHOWN])
        yield f"slow: {len(self.slow)}"
        yield from (f"  {text}" for text in self.slow[:SHOWN])


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def run(root: Path, arguments: str) -> Run:
    """Run with these arguments of the command, in an empty folder."""
    run = Run(_parser().parse_args(arguments.split()), root)
    run.run()
    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--processes", type=int, default=4)
    add("--seconds", type=float, default=60)
    add("--rate", type=float, default=200, help="POSTs a second, over all processes")
    add("--longest", type=int, default=3, help="seconds that the longest task takes")
    add("--lease", type=float, default=15)
    add("--kill-every", type=float, default=0, help="seconds between two kill -9 of a process")
    add("--freeze", type=int, default=0, help="how often one is stopped for twice its lease")
    add("--restart-every", type=float, default=0, help="seconds between two crashes of the server")
    add("--terminate-every", type=float, default=0, help="seconds between two ends of all connections")
    add("--lose-every", type=float, default=0, help="seconds between two COMMITs that lose their answer")
    add("--delay", type=float, default=0, help="seconds that messages take, half of the time")
    add("--lock-table", type=float, default=0, help="seconds that somebody locks the tasks")
    add("--promote", action="store_true", help="let a synchronous standby take over, half-way")
    add("--callbacks", action="store_true", help="give each task a callback")
    add("--tasks", type=int, default=0, help="so many tasks in batches instead of a load")
    add("--handovers", type=int, default=0, help="so many tasks of a process that only accepts")
    add("--seed", type=int, default=Random().randrange(10**6))
    return parser


def main() -> int:
    """The command; the exit code tells whether every promise was kept."""
    options = _parser().parse_args()
    print(f"running with seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        run = Run(options, root)
        run.run()
    print("\n".join(run.lines()))
    return 1 if run.violations or run.slow else 0


if __name__ == "__main__":
    sys.exit(main())
