"""Tasks are followed across `kill -9`: every change once, in order, no gap.

``python -m tests.faults.follow --tasks 1000 --kills 2``; with ``--eventsource FOLDER`` the followers are
those of the npm package eventsource in ``FOLDER/node_modules``, else those of httpx-sse. Each task has a
follower of its own, and one follows all.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any, Self

from tests.faults.client import Client, Json
from tests.faults.ledger import report, settle
from tests.faults.server import Server
from tests.test_docs import free_port

ALL = "/api/events"
WITHIN = 60.0
"""Seconds for followers to have heard of everything: some pause for 3 seconds before they connect again."""

BATCH = 1_000
LONGEST = 4
KILLED_WITH = 0.2
"""The share of the tasks that run when the service is killed first."""


@dataclass
class Report:
    """What a run came to.

    :param told: changes that the followers of single tasks were told.
    :param told_of_all: changes that the follower of all was told.
    :param connections: how often those of single tasks connected.
    """

    seed: int
    tasks: int = 0
    kills: int = 0
    cut_off: int = 0
    told: int = 0
    told_of_all: int = 0
    progress: int = 0
    connections: int = 0
    seconds: float = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return report(vars(self))


class Followers:
    """A program that follows paths, and what it was told.

    :param command: the program, without the URL.
    """

    def __init__(self, command: Sequence[str], base: str, *more: str) -> None:
        self.told: dict[str, list[Json]] = defaultdict(list)
        self.opened: dict[str, int] = defaultdict(int)
        self.over: set[str] = set()
        self._process = subprocess.Popen(
            [*command, base, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def follow(self, path: str) -> None:
        """Begin with one more."""
        assert self._process.stdin is not None
        self._process.stdin.write(path + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                return
            event = json.loads(line)
            if event["event"] == "open":
                self.opened[event["path"]] += 1
            elif event["event"] == "end":
                self.over.add(event["path"])
            else:
                self.told[event["path"]].append(event)


def wait_for(done: Callable[[], bool], what: str, within: float = WITHIN) -> list[str]:
    """A violation if it has not come to pass after so many seconds."""
    deadline = time.monotonic() + within
    while not done():
        if time.monotonic() > deadline:
            return [f"after {within:.0f} s not yet: {what}"]
        time.sleep(0.05)
    return []


class Pursuit:
    """Tasks, those who follow them, and the service that is killed under them."""

    def __init__(
        self, folder: Path, followers: Followers, port: int, *, tasks: int, delay: float, seed: int
    ) -> None:
        self.report = Report(seed, tasks)
        self._delay = delay
        self._folder = folder
        self._followers = followers
        self._port = port
        self._random = Random(seed)
        self._ids: list[str] = []

    def run(self, kills: int) -> Report:
        """Kill the service so often, let everything end, and judge."""
        began = time.monotonic()
        with self._start() as server:
            self._begin(server)
            self._kill(server)
        for _ in range(kills - 1):
            with self._start() as server:
                time.sleep(self._random.uniform(0.5, 2))
                self._kill(server)
        with self._start() as server, server.client() as client:
            self.report.violations += settle(client)
            self._judge(client)
            self.report.violations += server.terminate()
        self.report.seconds = round(time.monotonic() - began, 2)
        return self.report

    def _start(self) -> Server:
        return Server(self._folder, options=["--port", str(self._port)]).ready()

    def _begin(self, server: Server) -> None:
        self._followers.follow(ALL)
        self._wait(lambda: self._followers.opened[ALL] > 0, "all tasks are followed")
        with server.client() as client:
            for first in range(0, self.report.tasks, BATCH):
                count = min(BATCH, self.report.tasks - first)
                answer = client.post("/api/tasks/batch", [self._task() for _ in range(count)])
                assert answer.status == 202, answer
                self._ids += [task["task_id"] for task in answer.body["tasks"]]
        for task_id in self._ids:
            self._followers.follow(_path(task_id))
        self._wait(
            lambda: all(self._followers.told[_path(task_id)] for task_id in self._ids),
            "each task is followed",
        )
        with server.client() as client:
            self._wait(lambda: self._running(client) >= self.report.tasks * KILLED_WITH, "many run")

    def _running(self, client: Client) -> int:
        return len([*client.tasks(status="running")])

    def _task(self) -> Json:
        return {
            "name": "followed",
            "delay": self._delay + self._random.choice([0, 0, 1.5, 4]),
            "duration": self._random.randint(0, LONGEST),
        }

    def _kill(self, server: Server) -> None:
        with server.client() as client:
            self.report.cut_off += self._running(client)
        server.kill()
        self.report.kills += 1

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        self.report.violations += wait_for(done, what)

    def _judge(self, client: Client) -> None:
        histories = {
            task_id: [
                (entry["status"], entry["attempt"])
                for entry in client.get(f"/api/tasks/{task_id}").body["history"]
            ]
            for task_id in self._ids
        }
        changes = sum(map(len, histories.values()))
        self._wait(
            lambda: {_path(task_id) for task_id in self._ids} <= self._followers.over,
            "each follower of a task was told that there is no more",
        )
        self._wait(lambda: len(_changes(self._followers.told[ALL])) >= changes, "all was told")
        for task_id, history in histories.items():
            self._judge_one(task_id, history)
        self._judge_all(histories)

    def _judge_one(self, task_id: str, history: list[tuple[str, int]]) -> None:
        told = self._followers.told[_path(task_id)]
        changes = _changes(told)
        self.report.told += len(changes)
        self.report.progress += sum(event["event"] == "progress" for event in told)
        self.report.connections += self._followers.opened[_path(task_id)]
        found = [_step(event) for event in changes]
        if found != history:
            self.report.violations.append(f"{task_id} has {history} and was told as {found}")
        counts = [int(event["id"].rpartition(".")[2]) for event in changes]
        if counts != [*range(1, len(changes) + 1)]:
            self.report.violations.append(f"{task_id} was told by the numbers {counts}")
        self._judge_kinds(told)

    def _judge_all(self, histories: dict[str, list[tuple[str, int]]]) -> None:
        told = self._followers.told[ALL]
        of_each: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for event in _changes(told):
            of_each[event["data"]["task_id"]].append(_step(event))
        self.report.told_of_all = sum(map(len, of_each.values()))
        for task_id, history in histories.items():
            if of_each[task_id] != history:
                found = of_each[task_id]
                self.report.violations.append(f"of all: {task_id} has {history}, was told as {found}")
        places = [tuple(map(int, event["id"].split(".")[1:])) for event in _changes(told)]
        if places != sorted(set(places)):
            self.report.violations.append("of all: the ids are not in order, or are there twice")
        self._judge_kinds(told)

    def _judge_kinds(self, told: list[Json]) -> None:
        others = {event["event"] for event in told} - {"change", "progress"}
        if others:
            self.report.violations.append(f"{told[0]['path']} was told {others}")


def _path(task_id: str) -> str:
    return f"/api/tasks/{task_id}/events"


def _changes(told: list[Json]) -> list[Json]:
    return [event for event in told if event["event"] == "change"]


def _step(event: Json) -> tuple[Any, Any]:
    return event["data"]["status"], event["data"]["attempt"]


def run(
    folder: Path, *, tasks: int, kills: int, seed: int, delay: float = 0, eventsource: str | None = None
) -> Report:
    """Follow so many tasks in the empty `folder`, and kill the service so often.

    :param delay: seconds before the first tasks start: the followers have to be there by then.
    """
    port = free_port()
    command, more = [sys.executable, "-m", "tests.faults.follow_httpx"], []
    if eventsource is not None:
        command = ["node", str(Path(__file__).parent / "follow_eventsource.mjs")]
        more = [str(Path(eventsource).absolute())]
    with Followers(command, f"http://127.0.0.1:{port}", *more) as followers:
        return Pursuit(folder, followers, port, tasks=tasks, delay=delay, seed=seed).run(kills)


def main() -> int:
    """The command; the exit code tells whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0, help="seconds before the first tasks start")
    parser.add_argument("--seed", type=int, default=Random().randrange(10**6))
    parser.add_argument("--eventsource", metavar="FOLDER", help="where npm has installed eventsource")
    options = parser.parse_args()
    print(f"running with seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), **vars(options))
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
