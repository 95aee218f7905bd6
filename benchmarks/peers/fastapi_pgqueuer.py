"""FastAPI in front of pgqueuer on PostgreSQL; its worker is a process of its own.

Started twice: `app` by ``serving``, and this module itself, which is the worker.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from fastapi import FastAPI
from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, Job, PgQueuer, Queries

from benchmarks.peers import job
from benchmarks.peers.web import Accepted, Submission, new_app

URL = os.environ["PEER_POSTGRES"]


async def noop(given: Job) -> None:
    """Do nothing, and log it."""
    assert given.payload is not None
    task_id, name = json.loads(given.payload)
    job.started(task_id, name, "noop")
    job.completed(task_id, name)


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """Hold connections to PostgreSQL while it serves."""
    async with asyncpg.create_pool(URL) as pool:
        app.state.queue = Queries(AsyncpgPoolDriver(pool))
        yield


app = new_app(lifespan=connected)


@app.post("/api/tasks", status_code=202)
async def submit(given: Submission) -> Accepted:
    """Accept a task; the 202 leaves after PostgreSQL has committed it."""
    task_id = job.new_id()
    await app.state.queue.enqueue("noop", json.dumps([task_id, given.name]).encode())
    return Accepted(**job.accepted(task_id, given.name, given.kind, given.duration))


async def work() -> None:
    """Do what is in the queue, ten jobs a query as by itself: a hundred and a thousand were no faster."""
    job.start_log()
    connection = await asyncpg.connect(URL)
    try:
        queuer = PgQueuer(AsyncpgDriver(connection))
        queuer.entrypoint("noop")(noop)
        await queuer.run()
    finally:
        await connection.close()


if __name__ == "__main__":
    uvloop.run(work())
