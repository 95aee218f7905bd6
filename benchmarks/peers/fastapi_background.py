"""FastAPI with its BackgroundTasks."""

from fastapi import BackgroundTasks

from benchmarks.peers import job
from benchmarks.peers.web import Accepted, Submission, new_app

app = new_app()


@app.post("/api/tasks", status_code=202)
async def submit(given: Submission, background: BackgroundTasks) -> Accepted:
    """Accept a task, to be run after the answer."""
    task_id = job.new_id()
    background.add_task(job.run, task_id, given.name, given.kind, given.duration)
    return Accepted(**job.accepted(task_id, given.name, given.kind, given.duration))
