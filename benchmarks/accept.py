"""Accepting under full load: the whole job, tasks of 1 to 5 steps with a log line each."""

import time
from collections.abc import Iterator
from typing import Any, Final

from benchmarks import checks
from benchmarks.catalog import OURS, Peer
from benchmarks.rounds import Bench, Record
from benchmarks.running import Running
from benchmarks.wrk import WHOLE_JOB, Load, load

PEERS: Final = (OURS, "asynctask-memory", "go", "go-buffered", "fastapi", "starlette")

ENDING: Final = 15.0
"""Seconds after the load in which all tasks have to end: the longest runs 5."""


def measure(bench: Bench) -> list[Record]:
    """Accepted/s, p50, p99, CPU and memory of each peer."""

    def once(peer: Peer) -> Iterator[Record]:
        settings = bench.settings
        with Running(peer, bench.cores) as server:
            begun, ended = server.lines(b"info Task started"), server.lines(b"info Task completed")
            with server.client() as client:
                asked = checks.check(client)
            warm_up = load(bench.cores, server.port, WHOLE_JOB, settings.warm_up)
            found, beside = loaded(bench, server, WHOLE_JOB)
            expected = asked + warm_up.accepted + found.accepted
            parts = {"started_of_accepted": round(min(1, begun.count() / expected), 4)}
            ended.wait_for(expected, ENDING)
            # With those whose 202 was on its way when the load ended.
            wanted = max(expected, begun.count())
            parts["ended_of_accepted"] = round(ended.wait_for(wanted, ENDING) / wanted, 4)
            server.check_alive()
            yield found.record() | beside | parts

    return bench.rounds(PEERS, once)


def loaded(bench: Bench, server: Running, bodies: tuple[str, ...]) -> tuple[Load, dict[str, Any]]:
    """Load a server, and see what it takes of the machine meanwhile."""
    cpu, database, begun = server.cpu(), server.database_cpu(), time.monotonic()
    found = load(bench.cores, server.port, bodies, bench.settings.seconds)
    seconds = time.monotonic() - begun
    beside = {
        "cpu_percent": round(100 * (server.cpu() - cpu) / seconds, 1),
        "memory_mb": round(server.memory() / 1e6, 1),
    }
    if server.peer.postgres:
        beside["database_cores"] = round((server.database_cpu() - database) / seconds, 2)
    return found, beside
