"""How late the steps of many tasks are, by the log: step N is due N seconds after the start."""

import json
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from benchmarks.catalog import OURS, Peer
from benchmarks.client import Client, request
from benchmarks.figures import percentile
from benchmarks.rounds import Bench, Record
from benchmarks.running import BenchError, Running

PEERS: Final = (OURS, "go")

LIMIT: Final = 100.0
"""Milliseconds that a step may be late."""

PATIENCE: Final = 60.0
"""Seconds beyond their steps in which all tasks have to end."""

EACH: Final = 50
"""Tasks of a request, where a peer takes several: few enough that their steps are soon done."""

PAUSE: Final = 0.001
"""Seconds between two looks at what is to be POSTed."""

ACCEPTED: Final = 202

LINE: Final = re.compile(
    rb"(?P<time>\S+Z) info Task (?P<what>started|progress) task_id=(?P<id>\S+)(?:.* step=(?P<step>\d+) )?"
)


def measure(bench: Bench) -> list[Record]:
    """Lateness of each step, from the start of its task."""

    def once(peer: Peer) -> Iterator[Record]:
        tasks, steps = bench.settings.on_time, bench.settings.on_time_steps
        body = json.dumps({"name": "on-time", "duration": steps})
        with Running(peer, bench.cores) as server:
            with server.client() as client:
                post_evenly(client, body, tasks, bench.settings.on_time_over, EACH if peer.batch else 1)
            done = server.lines(b"info Task completed").wait_for(tasks, steps + PATIENCE)
            if done < tasks:
                raise BenchError(f"Of {tasks:,} tasks only {done:,} have ended in time")
            with server.log.open("rb") as log:
                yield {"tasks": tasks, "steps": steps} | lateness(log)

    return bench.rounds(PEERS, once)


def post_evenly(client: Client, body: str, tasks: int, seconds: float, each: int) -> None:
    """POST a task so many times, evenly over some seconds.

    What comes all at once has its steps at once, second by second, and that no core could do.

    :param each: tasks of one request at most.
    :raises BenchError: one was refused.
    """
    begun, posted = time.monotonic(), 0
    while posted < tasks:
        due = min(tasks, int((time.monotonic() - begun) / seconds * tasks))
        number = min(due - posted, each)
        if number < min(each, tasks - posted):
            time.sleep(PAUSE)
            continue
        several = f"[{','.join([body] * number)}]"
        path, sent = ("/api/tasks", body) if each == 1 else ("/api/tasks/batch", several)
        status, _ = client.send(request("POST", path, sent.encode()))
        if status != ACCEPTED:
            raise BenchError(f"A task was answered {status} after {posted:,}")
        posted += number


def lateness(log: Iterable[bytes]) -> dict[str, Any]:
    """How late the steps in a log are.

    `full_` figures are of the steps that were due when the last task had begun: all were in flight then.

    :raises BenchError: there is no step in it.
    """
    started: dict[bytes, float] = {}
    steps: list[tuple[float, float]] = []
    for line in log:
        found = LINE.match(line)
        if found is None:
            continue
        if found["what"] == b"started":
            started[found["id"]] = milliseconds(found["time"])
        elif found["step"] is not None:
            due = started[found["id"]] + 1000 * int(found["step"])
            steps.append((due, milliseconds(found["time"]) - due))
    if not steps:
        raise BenchError("There is no step in its log")
    last = max(started.values())
    return _summary("", [late for _, late in steps]) | _summary(
        "full_", [late for due, late in steps if due > last]
    )


def _summary(prefix: str, late: list[float]) -> dict[str, Any]:
    if not late:
        return {}
    ordered = sorted(late)
    return {
        f"{prefix}steps_timed": len(ordered),
        f"{prefix}late_p50_ms": percentile(ordered, 50),
        f"{prefix}late_p99_ms": percentile(ordered, 99),
        f"{prefix}late_worst_ms": ordered[-1],
        f"{prefix}on_time_percent": round(100 * sum(one <= LIMIT for one in ordered) / len(ordered), 3),
    }


def milliseconds(stamp: bytes) -> float:
    """A time of the log, in milliseconds since the epoch."""
    return round(datetime.fromisoformat(stamp.decode()).timestamp() * 1000)
