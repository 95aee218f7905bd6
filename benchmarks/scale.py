"""Processes of asynctask on one PostgreSQL, beside other queues that keep their tasks in one."""

from functools import partial
from typing import Final

from benchmarks.catalog import OURS_ON_POSTGRES
from benchmarks.durable import queue
from benchmarks.rounds import Bench, Record

PEERS: Final = (OURS_ON_POSTGRES, "asynctask-pg-2", "asynctask-pg-4", "procrastinate", "pgqueuer")


def measure(bench: Bench) -> list[Record]:
    """Accepted/s and finished/s as of ``durable``, and the cores that PostgreSQL takes."""
    return bench.rounds(PEERS, partial(queue, bench))
