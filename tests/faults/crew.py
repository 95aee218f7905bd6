"""Many processes of the service on one database, the load on each, and what they are seen to do."""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self

from asynctask.outbox import LEASE
from tests.faults.client import HOST, Client, Json, LostError, UnsentError
from tests.faults.ledger import Ledger
from tests.faults.load import Load, Target
from tests.faults.log import LogLine
from tests.faults.server import Server
from tests.faults.witness import check_history

TOLD_WITHIN = LEASE + 15
"""Seconds until a callback comes whose process was killed while it sent it."""

AFTER_THE_END = 0.05
"""Seconds by which the clocks of a start in the log and an end in the store may differ."""


@dataclass
class Seen:
    """What the logs of all processes tell.

    :param starts: of each task and attempt, when; seconds since the epoch.
    :param completed: of each task, when it first completed.
    :param dropped: ends of attempts that came too late.
    :param words: how often each warning or error.
    """

    starts: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    completed: dict[str, float] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    dropped: int = 0
    words: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def notice(self, line: LogLine) -> None:
        """One line of a process's log."""
        with self._lock:
            if line.message == "Task started":
                self.starts[line.fields["task_id"], int(line.fields["attempt"])].append(line.at)
                self.names.add(line.fields["name"])
            elif line.message == "Task completed":
                before = self.completed.get(line.fields["task_id"], line.at)
                self.completed[line.fields["task_id"]] = min(line.at, before)
            elif line.level in ("warn", "error", "critical"):
                self.dropped += line.message == "Task was given up, and its end dropped"
                self.words[f"{line.level} {line.message}"] += 1


class Member:
    """One process of the crew, through all its lives, and the load on it."""

    def __init__(self, name: str, seen: Seen) -> None:
        self.name = name
        self.server: Server | None = None
        self.target = Target()
        self.slowest_read = 0.0
        self.read_statuses: Counter[int] = Counter()
        self.loads: list[Load] = []
        self._seen = seen
        self._over = Event()
        self._reader = Thread(target=self._read)

    def start(self, folder: Path, store: str, options: Sequence[str]) -> None:
        """Start its next life."""
        self.server = Server(folder, store=store, options=options, listener=self._notice)

    def kill(self) -> None:
        """End this one."""
        assert self.server is not None
        self.target.port = None
        self.server.kill()

    def read_on(self) -> None:
        """GET a list now and then, and note how long that takes."""
        self._reader.start()

    def end_reading(self) -> None:
        """GET no more."""
        self._over.set()
        self._reader.join()

    def lag(self) -> dict[str, int]:
        """How often the loop was late, by the upper bounds of its histogram; seconds."""
        assert self.server is not None
        found: dict[str, int] = {}
        with self.server.client() as client:
            for line in client.text("/metrics").splitlines():
                if line.startswith("asynctask_loop_lag_seconds_bucket"):
                    found[line.partition('le="')[2].partition('"')[0]] = int(float(line.split()[-1]))
        return found

    def _notice(self, line: LogLine) -> None:
        self._seen.notice(line)
        self.target.notice(line)

    def _read(self) -> None:
        while not self._over.wait(0.25):
            port = self.target.port
            if port is None:
                continue
            began = time.monotonic()
            try:
                with Client(port) as client:
                    self.read_statuses[client.get("/api/tasks?limit=1").status] += 1
                self.slowest_read = max(self.slowest_read, time.monotonic() - began)
            except (LostError, UnsentError):
                continue


class Crew:
    """The processes, while it is entered; they are killed in the end.

    :param store: where each of them finds the database.
    :param options: further options of each.
    """

    def __init__(
        self, folder: Path, store: str, members: int, options: Sequence[str], ledger: Ledger
    ) -> None:
        self.seen = Seen()
        self.members = [Member(str(number), self.seen) for number in range(members)]
        self.ledger = ledger
        self._folder = folder
        self._store = store
        self._options = options
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for member in self.members:
            self.start(member)
        for member in self.members:
            assert member.server is not None
            member.server.ready()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()

    def start(self, member: Member) -> None:
        """Let a process live again."""
        member.start(self._folder, self._store, self._options)

    def load(self, rate: float, longest: int) -> ExitStack:
        """So many POSTs a second over all of them, and reads beside, while the result is entered."""
        stack = ExitStack()
        for member in self.members:
            member.read_on()
            stack.callback(member.end_reading)
            share = rate / len(self.members)
            stack.enter_context(
                Load(
                    member.target,
                    self.ledger,
                    rate=share,
                    seed=int(member.name),
                    threads=max(4, int(share / 8)),
                    longest=longest,
                    label=f"load-{member.name}",
                )
            )
        return stack

    def judge(self, client: Client, tasks: Sequence[Json], *, frozen: bool) -> list[str]:
        """What contradicts the store in what was seen: an attempt begun twice, or a task that had ended.

        :param frozen: whether processes were: such a one may tell later of what it began before.
        """
        ended = {task["task_id"]: _seconds(task["finished_at"]) for task in tasks}
        broken = []
        for (task_id, attempt), starts in self.seen.starts.items():
            if len(starts) > 1:
                broken.append(f"{task_id} began attempt {attempt} {len(starts)} times")
            end = min(ended.get(task_id, inf), self.seen.completed.get(task_id, inf))
            if not frozen and max(starts) > end + AFTER_THE_END:
                late = max(starts) - end
                broken.append(f"{task_id} began attempt {attempt} {late:.2f} s after it had ended")
        for task in tasks:
            if task["attempt"] > 1:
                broken += check_history(client.get(f"/api/tasks/{task['task_id']}").body)
        return broken


class Callbacks:
    """Takes callbacks while it is entered.

    :ivar ids: their `webhook-id`s, and how often each came.
    """

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        ids = self.ids

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                ids[self.headers["webhook-id"]] += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}/"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def judge(self, tasks: Sequence[Json]) -> list[str]:
        """Callbacks of attempts that are not those that ended their tasks, and tasks without theirs."""
        right = {f"{task['task_id']}.{task['attempt']}" for task in tasks}
        until = time.monotonic() + TOLD_WITHIN
        while right - self.ids.keys() and time.monotonic() < until:
            time.sleep(0.5)
        return [f"callback of a late writer: {one}" for one in self.ids.keys() - right] + [
            f"no callback: {one}" for one in right - self.ids.keys()
        ]


def _seconds(moment: str | None) -> float:
    return inf if moment is None else datetime.fromisoformat(moment).timestamp()
