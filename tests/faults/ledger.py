"""What the service was asked and what it answered, kept apart from it, to hold it to its word."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from tests.faults.client import Answer, Client, Json, LostError, UnsentError

UNFINISHED = "accepted,running,retrying"
SHOWN = 20

PATIENCE = 20.0
"""Seconds after which what has not come is taken never to come, also on a busy machine."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A task that was answered 202.

    :param duration: seconds.
    :param at: when the answer was here, in seconds of the monotonic clock.
    """

    name: str
    duration: int
    at: float


@dataclass
class Ledger:
    """The answers to every POST. Many threads may write to one.

    :param acknowledged: by task id, what was answered 202.
    :param refused: names that were answered 503 outright and must never appear.
    :param unknown: names that may or may not appear.
    :param unsent: names for which there was no connection.
    :param statuses: how many answers of each status.
    :param slowest: the seconds that the slowest answer took.
    :param violations: a sentence for every promise that an answer itself broke.
    :param callback_url: where the outcome of each task is to be told.
    """

    acknowledged: dict[str, Posted] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0
    violations: list[str] = field(default_factory=list)
    callback_url: str | None = None
    _lock: Lock = field(default_factory=Lock, repr=False)

    def submit(self, client: Client, name: str, duration: int, delay: float = 0) -> Answer | None:
        """POST a task of kind `simulate` and write down what became of it; None without an answer.

        :param name: one that no other POST bears.
        """
        body: Json = {"name": name, "duration": duration}
        if delay:
            body["delay"] = delay
        if self.callback_url is not None:
            body["callback_url"] = self.callback_url
        began = time.monotonic()
        try:
            answer = client.post("/api/tasks", body)
        except UnsentError:
            self.unsent.append(name)
            return None
        except LostError:
            with self._lock:  # it may have hung
                self.slowest = max(self.slowest, time.monotonic() - began)
            self.unknown.append(name)
            return None
        with self._lock:
            self.slowest = max(self.slowest, time.monotonic() - began)
            self._judge(answer, name, duration)
        return answer

    def acknowledge(self, task_id: str, name: str, duration: int) -> None:
        """Write down what was answered 202."""
        if task_id in self.acknowledged:
            self.violations.append(f"{task_id} was given twice")
        self.acknowledged[task_id] = Posted(name, duration, time.monotonic())

    def _judge(self, answer: Answer, name: str, duration: int) -> None:
        self.statuses[answer.status] += 1
        if answer.status == 202:
            self.acknowledge(answer.body["task_id"], name, duration)
        elif answer.status == 503:
            if (answer.retry_after or 0) < 1:
                self.violations.append(f"a 503 without a Retry-After: {answer}")
            may_exist = str(answer.body["type"]).endswith("/outcome-unknown")
            (self.unknown if may_exist else self.refused).append(name)
        else:
            self.unknown.append(name)
            self.violations.append(f"a POST was answered {answer.status}: {answer.body}")


def settle(client: Client, within: float = 60) -> list[str]:
    """Wait until every task has ended; a violation if some have not after so many seconds.

    A database that had trouble until now may make it refuse for a moment.
    """
    deadline = time.monotonic() + within
    while (left := client.get(f"/api/tasks?limit={SHOWN}&status={UNFINISHED}")).body.get("tasks") != []:
        if time.monotonic() > deadline:
            return [f"not all tasks had ended after {within:.0f} s: {left}"]
        time.sleep(0.2)
    return []


def accepts_again(client: Client, ledger: Ledger, label: str) -> float | None:
    """POST until a 202 comes; the seconds that it took, or None if it is taken never to come."""
    began = time.monotonic()
    attempt = 0
    while time.monotonic() - began < PATIENCE:
        attempt += 1
        answer = ledger.submit(client, f"{label}-again-{attempt}", 0)
        if answer is not None and answer.status == 202:
            return time.monotonic() - began
        time.sleep(0.1)
    return None


def audit(client: Client, ledger: Ledger, started_names: Iterable[str] = ()) -> list[str]:
    """Compare the settled service with the ledger.

    :param started_names: the names of which the log says that they ran.
    :returns: a sentence for each acknowledged task that is lost, another one or not completed, for each
        that nobody asked for, and for each refused one that is there or ran.
    """
    found = {task["task_id"]: task for task in client.tasks()}
    broken = [
        f"acknowledged task lost: {task_id} {posted.name}"
        for task_id, posted in ledger.acknowledged.items()
        if task_id not in found
    ]
    broken += [
        f"not completed: {task_id} is {task['status']} {task['error']}"
        for task_id, task in found.items()
        if task["status"] != "completed"
    ]
    broken += _unasked(found, ledger)
    never = {*ledger.refused, *ledger.unsent}
    broken += [
        f"refused task appeared: {task['task_id']} {task['name']}"
        for task in found.values()
        if task["name"] in never
    ]
    broken += [f"refused task ran: {name}" for name in never.intersection(started_names)]
    return broken + _by_name(client, ledger.refused)


def _unasked(found: Mapping[str, Json], ledger: Ledger) -> list[str]:
    """Tasks that no POST asked for: each asked for one, of a name of its own."""
    broken = []
    names = Counter(task["name"] for task in found.values())
    may_exist = {*ledger.unknown, *ledger.refused, *ledger.unsent}
    for task_id, task in found.items():
        posted = ledger.acknowledged.get(task_id)
        if posted is not None and posted.name != task["name"]:
            broken.append(f"another task: {task_id} was {posted.name} and is {task['name']}")
        elif posted is None and task["name"] not in may_exist:
            broken.append(f"nobody was told of {task_id} {task['name']}")
    return broken + [f"{count} tasks of one POST: {name}" for name, count in names.items() if count > 1]


def _by_name(client: Client, names: Iterable[str]) -> list[str]:
    return [
        f"refused task found by its name: {name}"
        for name in names
        if next(client.tasks(name=name), None) is not None
    ]


def report(found: dict[str, Any]) -> str:
    """What a program has found, a line each, and then its violations."""
    violations = found["violations"]
    facts = [f"{name.replace('_', ' ')}: {value}" for name, value in found.items() if name != "violations"]
    return "\n".join(
        [*facts, f"violations: {len(violations)}", *(f"  {text}" for text in violations[:SHOWN])]
    )
