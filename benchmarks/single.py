"""Single requests: a lone POST beside the disk's sync, and ``GET /health/live`` under full load."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from benchmarks import checks
from benchmarks.catalog import OURS, WORK, Peer
from benchmarks.client import Client, request
from benchmarks.figures import percentile
from benchmarks.rounds import Bench, Record
from benchmarks.running import BenchError, Running
from benchmarks.wrk import NOOP, WHOLE_JOB, Loading, load

LONE_PEERS: Final = (OURS, "asynctask-memory", "go", "huey", "arq-always")
LIVE_PEERS: Final = (OURS, "go", "fastapi")

PAUSE: Final = 0.02
"""Seconds between two requests: long enough for everything to be idle again."""

PAGE: Final = bytes(4096)
"""What is written before each sync: a page, the least that SQLite writes."""

LIVE: Final = request("GET", "/health/live")


def lone(bench: Bench) -> list[Record]:
    """POSTs one at a time, on a service that does nothing else; beside them the disk's own sync."""

    def once(peer: Peer) -> Iterator[Record]:
        post = request("POST", "/api/tasks", NOOP[0].encode())
        with Running(peer, bench.cores) as server, server.client() as client:
            timed(lambda: expect(client, post, 202), bench.settings.posts // 10)
            found = timed(lambda: expect(client, post, 202), bench.settings.posts)
        synced = syncs(WORK, bench.settings.posts)
        yield shown("post", found) | shown("sync", synced)

    return bench.rounds(LONE_PEERS, once)


def live(bench: Bench) -> list[Record]:
    """``GET /health/live``, fifty times a second, while 64 connections POST as fast as they can."""

    def once(peer: Peer) -> Iterator[Record]:
        settings = bench.settings
        with Running(peer, bench.cores) as server, server.client() as client:
            checks.check(client)
            load(bench.cores, server.port, WHOLE_JOB, settings.warm_up)
            loading = Loading(bench.cores, server.port, WHOLE_JOB, settings.seconds)
            try:
                found = timed(lambda: expect(client, LIVE, 200), None, settings.seconds - 0.5)
            finally:
                beside = loading.result()
        yield shown("live", found) | beside.record()

    return bench.rounds(LIVE_PEERS, once)


def expect(client: Client, what: bytes, wanted: int) -> None:
    """Send a request.

    :raises BenchError: the answer has another status.
    """
    status, _ = client.send(what)
    if status != wanted:
        raise BenchError(f"{what.split(b' HTTP')[0].decode()} is answered {status}, not {wanted}")


def timed(act: Callable[[], None], times: int | None, seconds: float = 600.0) -> list[float]:
    """Act so many times, or for so many seconds, with pauses; milliseconds of each, in order of length."""
    found: list[float] = []
    until = time.monotonic() + seconds
    while (times is None or len(found) < times) and time.monotonic() < until:
        begun = time.perf_counter()
        act()
        found.append((time.perf_counter() - begun) * 1000)
        time.sleep(PAUSE)
    return sorted(found)


def syncs(folder: Path, times: int) -> list[float]:
    """Append a page to a file and sync it, so many times; milliseconds of each, in order of length."""
    path = folder / "sync"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def act() -> None:
        os.write(descriptor, PAGE)
        os.fdatasync(descriptor)

    try:
        return timed(act, times)
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            path.unlink()


def shown(name: str, found: list[float]) -> dict[str, Any]:
    """The figures of times in order of length."""
    return {
        f"{name}_count": len(found),
        f"{name}_p50_ms": round(percentile(found, 50), 3),
        f"{name}_p99_ms": round(percentile(found, 99), 3),
        f"{name}_max_ms": round(found[-1], 3),
    }
