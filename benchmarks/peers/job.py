"""The job itself, as the peers in Python do it: the id, the 202, the steps and their log lines."""

import asyncio
import logging
import secrets
import sys
import time
from typing import Final

WAITING: Final = 600
"""Seconds that a `wait` waits, as in ``benchmarks/handlers.py``."""

KINDS: Final = ("simulate", "noop", "wait")
MAX_DURATION: Final = 86_400
DEFAULT_DURATION: Final = 3
MAX_NAME: Final = 255

NO_NAME: Final = "Field 'name' is required (non-empty string)"

log = logging.getLogger("job")


def start_log() -> None:
    """Log to standard output, which the harness makes a file: lines like asynctask's."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.addLevelName(logging.INFO, "info")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def new_id() -> str:
    """A task's id: the second, and 20 random characters."""
    return f"task_{int(time.time()):010d}{secrets.token_hex(10)}"


def accepted(task_id: str, name: str, kind: str, duration: int) -> dict[str, str]:
    """The body of the 202."""
    how_long = f"for {duration} seconds " if kind == "simulate" else ""
    return {
        "task_id": task_id,
        "name": name,
        "status": "accepted",
        "message": f"Task will run {how_long}in background",
    }


async def run(task_id: str, name: str, kind: str, duration: int) -> None:
    """Run the task in this process."""
    started(task_id, name, kind)
    if kind == "simulate":
        for step in range(1, duration + 1):
            await asyncio.sleep(1)
            log.info("Task progress task_id=%s step=%d total=%d", task_id, step, duration)
    elif kind == "wait":
        await asyncio.sleep(WAITING)
    completed(task_id, name)


def started(task_id: str, name: str, kind: str) -> None:
    """Log the start."""
    log.info("Task started task_id=%s name=%s kind=%s attempt=1", task_id, name, kind)


def completed(task_id: str, name: str) -> None:
    """Log the end."""
    log.info("Task completed task_id=%s name=%s", task_id, name)
