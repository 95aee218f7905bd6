"""Tasks in flight: what each takes of memory, and what they cost those that come after."""

import time
from collections.abc import Iterator
from typing import Any, Final

from benchmarks import checks
from benchmarks.accept import loaded
from benchmarks.catalog import OURS, Peer
from benchmarks.rounds import Bench, Record
from benchmarks.running import BenchError, Running
from benchmarks.wrk import NOOP, fill, load

PEERS: Final = (OURS, "go", "fastapi", "starlette")

WAIT: Final = '{"name": "waits", "kind": "wait"}'

BEGINNING: Final = 60.0
"""Seconds in which all that was accepted must have begun."""


def measure(bench: Bench) -> list[Record]:
    """Memory, CPU, accepted/s, p50 and p99 with more and more tasks that wait; those POSTed do nothing."""

    def once(peer: Peer) -> Iterator[Record]:
        with Running(peer, bench.cores) as server:
            waiting = server.lines(b"kind=wait attempt=")
            with server.client() as client:
                checks.check(client)
            # Whatever is made once, by the first requests, is not the tasks'.
            load(bench.cores, server.port, NOOP, bench.settings.warm_up)
            empty = server.memory()
            begun = time.monotonic()
            accepted = 0
            for level in sorted(bench.settings.levels):
                if level > peer.most:
                    bench.say(f"{peer.name} is not measured with {level:,} in flight: {peer.short_of}")
                    break
                left = bench.settings.filling - (time.monotonic() - begun)
                accepted += fill(
                    bench.cores, server.port, WAIT, level - accepted, batch=peer.batch, within=max(1, left)
                )
                in_flight = waiting.wait_for(accepted, BEGINNING)
                if in_flight < accepted:
                    raise BenchError(f"Of {accepted:,} accepted tasks only {in_flight:,} have begun")
                yield {"level": level} | at(bench, server, in_flight, empty)
                accepted = waiting.count()

    return bench.rounds(PEERS, once)


def at(bench: Bench, server: Running, in_flight: int, empty: int) -> dict[str, Any]:
    """The figures with so many in flight.

    :param empty: bytes resident with none.
    """
    each = (server.memory() - empty) / in_flight
    cpu = server.cpu()
    time.sleep(bench.settings.idle)
    idle = (server.cpu() - cpu) / bench.settings.idle
    found, beside = loaded(bench, server, NOOP)
    server.check_alive()
    return {
        "in_flight": in_flight,
        "bytes_each": round(each),
        "idle_cpu_percent": round(100 * idle, 1),
        **found.record(),
        **beside,
    }
