"""`kill -9` at random moments under load: no accepted task is lost, no completed one runs again.

``python -m tests.faults.kill --kills 50 --rate 200 --seed 7``; with ``--stops 20`` as many lives besides
end by SIGTERM, which must end them within their grace.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.faults.ledger import SHOWN, Ledger, accepts_again, audit, settle
from tests.faults.load import Load, Target
from tests.faults.log import LogLine
from tests.faults.server import Server, StartError
from tests.faults.witness import LogWitness, Poller, check_history

RESUMED_WITHIN = 1.0
LOG_DELAY = 0.2
LEAST_GAP = 0.2
LONGEST_LIFE = 4.0
ABOUT_A_START = 1.0
STARTING_SHARE = 0.2
GRACE = 1.0
STOPPED_WITHIN = GRACE + 9
HISTORIES = 300


@dataclass
class Report:
    """What a run came to; times in seconds.

    :param seconds_up: how long the service listened under load.
    :param slow: what came too late, which on a busy machine says nothing of promises.
    :param cut_off_while_running: attempts that a kill or stop ended, of tasks that had been answered 202.
    """

    seed: int
    kills: int = 0
    stops: int = 0
    killed_while_starting: int = 0
    seconds: float = 0
    seconds_up: float = 0
    acknowledged: int = 0
    acknowledged_a_second_up: float = 0
    refused: int = 0
    slowest_answer: float = 0
    outcome_unknown: int = 0
    completed_before_the_last_kill: int = 0
    seen_completed: int = 0
    cut_off_while_running: int = 0
    resumed: int = 0
    highest_attempt: int = 0
    slowest_start: float = 0
    resumes_measured: int = 0
    slowest_first_resume: float = 0
    log_errors: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{name.replace('_', ' ')}: {value:.2f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' ')}: {value}"
            for name, value in vars(self).items()
            if not isinstance(value, list)
        ]
        for name, found in (
            ("log errors", self.log_errors),
            ("slow", self.slow),
            ("violations", self.violations),
        ):
            lines.append(f"{name}: {len(found)}")
            lines += [f"  {text}" for text in found[:SHOWN]]
        return "\n".join(lines)


class Massacre:
    """A load, its ledger and witnesses, and the service that is killed under them."""

    def __init__(self, folder: Path, *, rate: float, seed: int, longest_life: float) -> None:
        self.report = Report(seed)
        self._longest_life = longest_life
        self._folder = folder
        self._random = Random(seed)
        self._ledger = Ledger()
        self._target = Target()
        self._log = LogWitness()
        self._poller = Poller(self._target)
        self._load = Load(self._target, self._ledger, rate=rate, seed=seed)
        self._cut_off: list[str] = []
        self._ended_at = 0.0

    def run(self, kills: int, stops: int) -> Report:
        """Kill and stop so many times, let the last life end everything, and judge."""
        endings = [self._kill] * kills + [self._stop] * stops
        self._random.shuffle(endings)
        began = time.monotonic()
        try:
            with ExitStack() as stack:
                stack.enter_context(self._load)
                stack.enter_context(self._poller)
                for end in endings:
                    self._live_until(end)
            self.report.completed_before_the_last_kill = len(self._log.completed)
            self._last_life()
        except StartError as failure:
            self.report.violations.append(f"a start failed: {failure}")
        self._sum_up(time.monotonic() - began)
        return self.report

    def _notice(self, line: LogLine) -> None:
        self._log.notice(line)
        self._target.notice(line)

    def _start(self) -> Server:
        self._log.new_life()
        return Server(self._folder, listener=self._notice, options=["--grace", str(GRACE)])

    def _live_until(self, end: Callable[[Server], None]) -> None:
        spawned = time.monotonic()
        with self._start() as server:
            if end == self._kill and self._random.random() < STARTING_SHARE:
                time.sleep(self._random.uniform(LEAST_GAP, ABOUT_A_START))
            else:
                server.ready()
                self._note_start(time.monotonic() - spawned)
                time.sleep(self._random.uniform(LEAST_GAP, self._longest_life))
            if not server.alive:
                raise StartError("\n".join(server.tail))
            end(server)
        self._target.port = None
        self._judge_resume(self._ended_at)
        self._cut_off = self._log.cut_off_at(self._ended_at, self._ledger)
        self.report.cut_off_while_running += len(self._cut_off)

    def _kill(self, server: Server) -> None:
        self._note_end()
        server.kill()
        self.report.kills += 1

    def _stop(self, server: Server) -> None:
        self._note_end()
        self.report.violations += server.terminate(STOPPED_WITHIN)
        # What ran on within the grace was not cut off.
        self._ended_at = time.time()
        self.report.stops += 1

    def _note_end(self) -> None:
        self._ended_at = time.time()
        self.report.seconds_up += self._ended_at - (self._log.listening_at or self._ended_at)

    def _note_start(self, seconds: float) -> None:
        self.report.slowest_start = max(self.report.slowest_start, seconds)

    def _judge_resume(self, until: float) -> None:
        listening_at, resumed_at = self._log.listening_at, self._log.first_resumed_at
        if listening_at is None:
            self.report.killed_while_starting += 1
            return
        if not self._cut_off:
            return
        if resumed_at is None:
            # The last lines may have died with the process.
            if until - listening_at > RESUMED_WITHIN + LOG_DELAY:
                self.report.slow.append(
                    f"{len(self._cut_off)} tasks were cut off and none was resumed "
                    f"within {until - listening_at:.2f} s"
                )
            return
        took = max(0, resumed_at - listening_at)
        self.report.resumes_measured += 1
        self.report.slowest_first_resume = max(self.report.slowest_first_resume, took)
        if took > RESUMED_WITHIN:
            self.report.slow.append(f"the first resumed task ran after {took:.2f} s")

    def _last_life(self) -> None:
        spawned = time.monotonic()
        with self._start() as server, server.ready().client() as client:
            self._note_start(time.monotonic() - spawned)
            if accepts_again(client, self._ledger, "last") is None:
                self.report.violations.append("the last life accepts nothing")
            self.report.violations += settle(client)
            self._judge_resume(time.time())
            for task in client.tasks():
                self._poller.look(task)
            self.report.violations += audit(client, self._ledger, self._log.names)
            chosen = sorted(self._ledger.acknowledged)
            for task_id in self._random.sample(chosen, min(HISTORIES, len(chosen))):
                answer = client.get(f"/api/tasks/{task_id}")
                if answer.status == 200:
                    self.report.violations += check_history(answer.body)
            self.report.violations += server.terminate()

    def _sum_up(self, seconds: float) -> None:
        report, ledger, log = self.report, self._ledger, self._log
        report.seconds = seconds
        report.acknowledged = len(ledger.acknowledged)
        report.acknowledged_a_second_up = report.acknowledged / max(report.seconds_up, 0.001)
        report.refused = len(ledger.refused)
        report.slowest_answer = ledger.slowest
        report.outcome_unknown = len(ledger.unknown)
        report.seen_completed = len(self._poller.seen)
        report.resumed = log.resumed
        report.highest_attempt = max((start.attempt for start in log.starts.values()), default=0)
        report.log_errors = log.bad_lines
        report.violations += ledger.violations + log.violations + self._poller.violations
        if not (report.cut_off_while_running and report.resumed):
            report.violations.append("inconclusive: no accepted task was cut off and went on")


def run(
    folder: Path,
    *,
    kills: int,
    rate: float,
    seed: int,
    stops: int = 0,
    longest_life: float = LONGEST_LIFE,
) -> Report:
    """Kill the service `kills` times in the empty `folder` under `rate` POSTs a second.

    :param stops: how many times besides it is stopped by SIGTERM.
    :param longest_life: seconds from listening to the kill, at most.
    """
    return Massacre(folder, rate=rate, seed=seed, longest_life=longest_life).run(kills, stops)


def main() -> int:
    """The command; the exit code tells whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--rate", type=float, default=200, help="POSTs a second")
    parser.add_argument("--seed", type=int, default=Random().randrange(10**6))
    options = parser.parse_args()
    print(f"running with seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), **vars(options))
    print(report)
    return 1 if report.violations or report.slow else 0


if __name__ == "__main__":
    sys.exit(main())
