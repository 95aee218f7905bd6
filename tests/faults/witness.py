"""Two witnesses of what tasks do across many lives of the service: its log, and its answers."""

import time
from dataclasses import dataclass
from itertools import pairwise
from threading import Event, Thread
from typing import Self

from tests.faults.client import Client, Json, LostError, UnsentError
from tests.faults.ledger import Ledger
from tests.faults.load import Aim, Target
from tests.faults.log import LogLine
from tests.faults.server import listening_port

STEPS = {
    "accepted": {"running"},
    "running": {"completed", "retrying"},
    "retrying": {"running"},
    "completed": set(),
}


@dataclass(frozen=True, slots=True)
class Start:
    """One `Task started` of the log.

    :param at: seconds since the epoch, by the service's clock.
    """

    attempt: int
    at: float


class LogWitness:
    """What the logs say of tasks, and whether they contradict each other.

    :ivar starts: the latest start of each task.
    :ivar running: the tasks that started and have not completed.
    :ivar resumed: how many attempts were made after the first.
    :ivar listening_at: when the present life began to listen, or None.
    :ivar first_resumed_at: when it first started a task that an earlier life had not ended.
    """

    def __init__(self) -> None:
        self.starts: dict[str, Start] = {}
        self.names: set[str] = set()
        self.running: set[str] = set()
        self.completed: set[str] = set()
        self.resumed = 0
        self.bad_lines: list[str] = []
        self.violations: list[str] = []
        self.new_life()

    def new_life(self) -> None:
        """The service is about to start again; the log of its last life was read to the end."""
        self._cut_off = frozenset(self.running)
        self.listening_at: float | None = None
        self.first_resumed_at: float | None = None

    def notice(self, line: LogLine) -> None:
        """Take in one line of the log."""
        if line.message == "Task started":
            self._started(line)
        elif line.message == "Task completed":
            task_id = line.fields.get("task_id", "")
            self.running.discard(task_id)
            self.completed.add(task_id)
        elif listening_port(line) is not None:
            self.listening_at = line.at
        if line.level in ("error", "critical"):
            self.bad_lines.append(f"{line.level} {line.message}")

    def cut_off_at(self, moment: float, ledger: Ledger) -> list[str]:
        """The acknowledged tasks that cannot have ended by `moment`, by their duration."""
        return [
            task_id
            for task_id in self.running
            if (posted := ledger.acknowledged.get(task_id)) is not None
            and self.starts[task_id].at + posted.duration > moment
        ]

    def _started(self, line: LogLine) -> None:
        if missing := {"task_id", "name", "attempt"} - line.fields.keys():
            self.violations.append(f"{line} is without {missing}")
            return
        task_id, attempt = line.fields["task_id"], int(line.fields["attempt"])
        before = self.starts.get(task_id)
        if task_id in self.completed:
            self.violations.append(f"{task_id} started again (attempt {attempt}) after it completed")
        if before is not None and attempt <= before.attempt:
            self.violations.append(f"{task_id} began attempt {attempt} after {before.attempt}")
        self.resumed += attempt > 1
        self.starts[task_id] = Start(attempt, line.at)
        self.names.add(line.fields["name"])
        self.running.add(task_id)
        if task_id in self._cut_off and self.first_resumed_at is None:
            self.first_resumed_at = line.at


class Poller:
    """Looks at the completed tasks every `interval` seconds: what it saw once must stay so.

    :ivar seen: attempt, start and end of each task that was ever seen completed.
    """

    def __init__(self, target: Target, interval: float = 0.25) -> None:
        self.seen: dict[str, tuple[object, ...]] = {}
        self.violations: list[str] = []
        self._target = target
        self._interval = interval
        self._over = Event()
        self._thread = Thread(target=self._poll)

    def look(self, task: Json) -> None:
        """Compare one task with what was seen of it."""
        task_id = task["task_id"]
        if task["status"] == "completed":
            now = (task["attempt"], task["started_at"], task["finished_at"])
            if self.seen.setdefault(task_id, now) != now:
                self.violations.append(f"{task_id} was {self.seen[task_id]} and is {now}")
        elif task_id in self.seen:
            self.violations.append(f"{task_id} was completed and is {task['status']}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _poll(self) -> None:
        aim = Aim(self._target)
        while not self._over.wait(self._interval):
            client = aim.client()
            if client is None:
                continue
            try:
                self._look_around(client)
            except (LostError, UnsentError):
                time.sleep(0.05)
        aim.close()

    def _look_around(self, client: Client) -> None:
        for query in ("status=completed&limit=300", "limit=100"):
            answer = client.get(f"/api/tasks?{query}")
            if answer.status != 200:
                self.violations.append(f"GET /api/tasks?{query} was answered {answer.status}")
                return
            for task in answer.body["tasks"]:
                self.look(task)


def check_history(task: Json) -> list[str]:
    """Whether a completed task's history is a walk that its states allow, its attempts counted."""
    walk = [(entry["status"], entry["attempt"]) for entry in task["history"]]
    broken = [] if walk[0] == ("accepted", 0) else [f"begins with {walk[0]}"]
    for (status, attempt), (following, next_attempt) in pairwise(walk):
        if following not in STEPS[status] or next_attempt != attempt + (following == "running"):
            broken.append(f"{status} {attempt} -> {following} {next_attempt}")
    if walk[-1] != ("completed", task["attempt"]):
        broken.append(f"ends with {walk[-1]}")
    return [f"history of {task['task_id']}: {fault}" for fault in broken]
