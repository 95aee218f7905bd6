"""Whether a peer does the job at all, asked before it is measured."""

import json
import re
from typing import Final

from benchmarks.client import Client, request
from benchmarks.running import BenchError

ID: Final = re.compile(r"task_[0-9]{10}[0-9a-hjkmnp-tv-z]{20}")

ACCEPTED: Final = (
    ('{"name": "a", "duration": 1}', "Task will run for 1 seconds in background"),
    ('{"name": "a"}', "Task will run for 3 seconds in background"),
    ('{"name": "a", "kind": "noop"}', "Task will run in background"),
)

REFUSED: Final = (
    "",
    "{",
    "[]",
    '"a"',
    "{}",
    '{"name": ""}',
    '{"name": null}',
    '{"name": 1}',
    '{"name": "a", "duration": -1}',
    '{"name": "a", "duration": 86401}',
    '{"name": "a", "duration": 1.5}',
    '{"name": "a", "duration": "1"}',
    '{"name": "a", "duration": true}',
    '{"name": "a", "kind": "none-of-them"}',
)


def check(client: Client) -> int:
    """Ask for tasks, good and bad ones.

    :returns: how many it has accepted.
    :raises BenchError: an answer is not as it has to be.
    """
    for body, message in ACCEPTED:
        status, answer = client.send(request("POST", "/api/tasks", body.encode()))
        if wrong := wrong_in(status, answer, message):
            raise BenchError(f"{body} is answered {wrong}")
    for body in REFUSED:
        status, answer = client.send(request("POST", "/api/tasks", body.encode()))
        if status != 400:
            raise BenchError(f"{body or 'An empty body'} is answered {status}, not 400")
    return len(ACCEPTED)


def wrong_in(status: int, answer: bytes, message: str) -> str | None:
    """What is not as it has to be in the answer to a good task named `a`."""
    if status != 202:
        return f"{status}, not 202"
    try:
        task = json.loads(answer)
    except ValueError:
        return "with no JSON"
    if not isinstance(task, dict) or list(task) != ["task_id", "name", "status", "message"]:
        return f"with {answer!r}, not with the four keys"
    if not ID.fullmatch(str(task["task_id"])):
        return f"with the id {task['task_id']}"
    if (task["name"], task["status"], task["message"]) != ("a", "accepted", message):
        return f"with {answer!r}"
    return None
