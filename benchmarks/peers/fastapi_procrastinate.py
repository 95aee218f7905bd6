"""FastAPI in front of procrastinate on PostgreSQL; its worker is a process of its own.

Started twice: `app` by ``serving``, and this module itself, which is the worker.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from fastapi import FastAPI
from procrastinate import App, PsycopgConnector

from benchmarks.peers import job
from benchmarks.peers.web import Accepted, Submission, new_app

AT_ONCE = 10
"""Jobs: more a second than with the one that it has by itself; 30 and 100 were no faster."""

queue = App(connector=PsycopgConnector(conninfo=os.environ["PEER_POSTGRES"]))


@queue.task(name="noop")
async def noop(task_id: str, name: str) -> None:
    """Do nothing, and log it."""
    job.started(task_id, name, "noop")
    job.completed(task_id, name)


@asynccontextmanager
async def connected(_: FastAPI) -> AsyncIterator[None]:
    """Hold connections to PostgreSQL while it serves."""
    async with queue.open_async():
        yield


app = new_app(lifespan=connected)


@app.post("/api/tasks", status_code=202)
async def submit(given: Submission) -> Accepted:
    """Accept a task; the 202 leaves after PostgreSQL has committed it."""
    task_id = job.new_id()
    await noop.defer_async(task_id=task_id, name=given.name)
    return Accepted(**job.accepted(task_id, given.name, given.kind, given.duration))


async def work() -> None:
    """Do what is in the queue, and write no lines but the job's own."""
    job.start_log()
    async with queue.open_async():
        await queue.run_worker_async(concurrency=AT_ONCE)


if __name__ == "__main__":
    uvloop.run(work())
