"""FastAPI in front of arq on Redis; its worker is a process of its own.

Started twice: `app` by ``serving``, and ``arq`` on `WorkerSettings`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI

from benchmarks.peers import job
from benchmarks.peers.web import Accepted, Submission, new_app

REDIS = RedisSettings(port=int(os.environ.get("PEER_REDIS_PORT", "6379")))


async def noop(_: dict[str, Any], task_id: str, name: str) -> None:
    """Do nothing, and log it."""
    job.started(task_id, name, "noop")
    job.completed(task_id, name)


async def start_worker(_: dict[str, Any]) -> None:
    """Log as the others do."""
    job.start_log()


class WorkerSettings:
    """The worker's; what is not said here is as arq has it."""

    functions: ClassVar = [noop]
    on_startup = start_worker
    redis_settings = REDIS
    max_jobs = 100  # finishes three times as many a second as the 10 that it has by itself
    poll_delay = 0.01  # it takes 500 jobs at most after each; with its half second, 1,000 a second
    log_results = False


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """Hold connections to Redis while it serves."""
    app.state.queue = await create_pool(REDIS)
    yield
    await app.state.queue.aclose()


app = new_app(lifespan=connected)


@app.post("/api/tasks", status_code=202)
async def submit(given: Submission) -> Accepted:
    """Accept a task; the 202 leaves after Redis has taken it."""
    task_id = job.new_id()
    await app.state.queue.enqueue_job("noop", task_id, given.name, _job_id=task_id)
    return Accepted(**job.accepted(task_id, given.name, given.kind, given.duration))
