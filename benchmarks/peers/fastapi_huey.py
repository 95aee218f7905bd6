"""FastAPI in front of Huey on SQLite with ``synchronous=FULL``; its worker is a process of its own.

Started twice: `app` by ``serving``, and ``huey_consumer`` on `huey`.
"""

from huey import SqliteHuey

from benchmarks.peers import job
from benchmarks.peers.web import Accepted, Submission, new_app

huey = SqliteHuey("peer", filename="huey.sqlite", fsync=True)
app = new_app()


@huey.on_startup()
def start_worker() -> None:
    """Log as the others do."""
    if not job.log.handlers:
        job.start_log()


@huey.task()
def noop(task_id: str, name: str) -> None:
    """Do nothing, and log it."""
    job.started(task_id, name, "noop")
    job.completed(task_id, name)


@app.post("/api/tasks", status_code=202)
def submit(given: Submission) -> Accepted:
    """Accept a task; the 202 leaves after it was committed and synced."""
    task_id = job.new_id()
    noop(task_id, given.name)
    return Accepted(**job.accepted(task_id, given.name, given.kind, given.duration))
