"""Queues that keep their tasks: how many are accepted a second, and how many are finished."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Final

from benchmarks import checks
from benchmarks.accept import loaded
from benchmarks.catalog import OURS, Peer
from benchmarks.rounds import Bench, Record
from benchmarks.running import BenchError, Lines, Running
from benchmarks.wrk import NOOP, load

PEERS: Final = (OURS, "huey", "arq-everysec", "arq-always")

WORKER: Final = 20.0
"""Seconds in which a worker must have done the first tasks."""


def measure(bench: Bench) -> list[Record]:
    """Accepted/s and finished/s of each peer, its worker at work on the same core.

    And what is finished a second afterwards, of what was left, when nothing more is asked for.
    """
    return bench.rounds(PEERS, partial(queue, bench))


def queue(bench: Bench, peer: Peer) -> Iterator[Record]:
    """One run of a queue with its worker.

    :raises BenchError: it cannot be measured.
    """
    with Running(peer, bench.cores) as server:
        finished = server.lines(b"info Task completed")
        with server.client() as client:
            asked = checks.check(client)
        if finished.wait_for(asked, WORKER) < asked:
            server.check_alive()
            raise BenchError(f"Its worker has not done the first {asked} tasks in {WORKER:.0f} s")
        asked += load(bench.cores, server.port, NOOP, bench.settings.warm_up).accepted
        before, begun = finished.count(), time.monotonic()
        found, beside = loaded(bench, server, NOOP)
        done, seconds = finished.count(), time.monotonic() - begun
        rate = (done - before) / seconds
        left = max(0, asked + found.accepted - done)
        yield (
            found.record()
            | beside
            | {
                "finished_per_s": round(rate, 1),
                "left": left,
                **alone(finished, left, rate, bench.settings.seconds),
            }
        )
        server.check_alive()


def alone(finished: Lines, left: int, rate: float, seconds: float) -> dict[str, float]:
    """What is finished a second of what was left, with no more coming in; nothing where it is little.

    :param rate: what was finished a second until now.
    :param seconds: how long to look at most.
    """
    if left < rate:
        return {}
    before, begun = finished.count(), time.monotonic()
    done = finished.wait_for(before + left, seconds) - before
    return {"then_finished_per_s": round(done / (time.monotonic() - begun), 1)}
