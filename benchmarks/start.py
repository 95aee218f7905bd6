"""From the start of ``twistd -n asynctask`` to its first 202: with an empty store, and with a full one."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.catalog import OURS, WORK, Peer, asynctask
from benchmarks.client import Client, request
from benchmarks.inflight import WAIT
from benchmarks.rounds import Bench, Record
from benchmarks.running import BenchError, Running
from benchmarks.wrk import NOOP, fill

LONGEST: Final = 300.0
"""Seconds that a start may take."""

POLL: Final = 0.002
"""Seconds between two attempts to connect."""

STORE: Final = "t.sqlite"

STORES: Final = {
    "empty": None,
    "not due": json.dumps({"name": "waits", "kind": "wait", "delay": 86_400}),
    "due": WAIT,
}
"""What is in the store: nothing; tasks for tomorrow; tasks that may all begin at once."""


def measure(bench: Bench) -> list[Record]:
    """Seconds until the first 202, with each kind of store."""
    made: dict[str, Path] = {}

    def once(peer: Peer) -> Iterator[Record]:
        for name, task in STORES.items():
            if task is not None and name not in made:
                made[name] = make(bench, peer, name, task)
            files = (made[name],) if name in made else ()
            yield {
                "store": name,
                "waiting": bench.settings.waiting if files else 0,
                "seconds": round(first_accepted(bench, peer, files), 3),
            }

    try:
        return bench.rounds((OURS,), once)
    finally:
        for path in made.values():
            path.unlink(missing_ok=True)


def make(bench: Bench, peer: Peer, name: str, task: str) -> Path:
    """A store with tasks that wait: made by a service that only accepts, and stopped as it wants to be."""
    path = WORK / f"{name.replace(' ', '-')}.sqlite"
    accepting = replace(peer, commands=asynctask(f"sqlite:///{path}", "--concurrency", "0"))
    for old in WORK.glob(f"{path.name}*"):
        old.unlink()
    with Running(accepting, bench.cores) as server:
        wanted = bench.settings.waiting
        fill(bench.cores, server.port, task, wanted, batch=True, within=bench.settings.filling)
        server.stop()
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise BenchError("The service has left a write-ahead log, though it was stopped in peace")
    for beside in WORK.glob(f"{path.name}-*"):
        beside.unlink()
    return path


def first_accepted(bench: Bench, peer: Peer, files: tuple[Path, ...]) -> float:
    """Seconds from the start of the process to the first 202."""
    peer = replace(peer, commands=asynctask(f"sqlite:///{files[0].name if files else STORE}"))
    server = Running(peer, bench.cores, files)
    try:
        begun = time.monotonic()
        server.start()
        post = request("POST", "/api/tasks", NOOP[0].encode())
        while (passed := time.monotonic() - begun) < LONGEST:
            server.check_alive()
            try:
                with Client(server.port) as client:
                    status, _ = client.send(post)
            except OSError:
                time.sleep(POLL)
                continue
            if status == 202:
                return time.monotonic() - begun
            time.sleep(POLL)
        raise BenchError(f"There was no 202 within {passed:.0f} s of its start")
    finally:
        server.close()
