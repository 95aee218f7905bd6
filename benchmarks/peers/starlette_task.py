"""Starlette alone, with checks by hand and ``asyncio.create_task``."""

import asyncio
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.peers import job

running: set[asyncio.Task[None]] = set()


def problem(given: Any) -> str | None:
    """What is wrong with a body, in a sentence."""
    if not isinstance(given, dict):
        return "The body must be a JSON object"
    name, kind = given.get("name"), given.get("kind", "simulate")
    if not isinstance(name, str) or not 0 < len(name) <= job.MAX_NAME:
        return job.NO_NAME
    duration = given.get("duration", job.DEFAULT_DURATION)
    if type(duration) is not int or not 0 <= duration <= job.MAX_DURATION:
        return "Field 'duration' must be an integer from 0 to 86400"
    return None if kind in job.KINDS else "Field 'kind' is none that there is"


async def submit(request: Request) -> JSONResponse:
    """Accept a task, and start it at once."""
    try:
        given = json.loads(await request.body())
    except ValueError:
        return JSONResponse({"error": "Invalid JSON"}, 400)
    if sentence := problem(given):
        return JSONResponse({"error": sentence}, 400)
    name, kind = given["name"], given.get("kind", "simulate")
    duration = given.get("duration", job.DEFAULT_DURATION)
    task_id = job.new_id()
    task = asyncio.create_task(job.run(task_id, name, kind, duration))
    running.add(task)  # the loop itself holds its tasks only weakly
    task.add_done_callback(running.discard)
    return JSONResponse(job.accepted(task_id, name, kind, duration), 202)


async def live(_: Request) -> JSONResponse:
    """Whether it answers."""
    return JSONResponse({"status": "ok"})


app = Starlette(
    routes=[Route("/api/tasks", submit, methods=["POST"]), Route("/health/live", live, methods=["GET"])]
)
