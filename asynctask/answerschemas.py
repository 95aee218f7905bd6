"""JSON Schemas of what the service answers."""

from collections.abc import Mapping
from typing import Final

from asynctask.model import Status
from asynctask.problems import Problem
from asynctask.registry import PLACES
from asynctask.schemawords import NULL, Schema, answered, moment, number, or_null, ref, text
from asynctask.wire import MAX_ERRORS, MAX_RESULT, TASK_ID

TASK_ID_SCHEMA: Final = text(
    "The task's id. Ids of one process sort in the order of acceptance.", pattern=f"^{TASK_ID.pattern}$"
)
ONLY_WHOLE: Final = ("input", "result", "history")
"""What a list leaves out of a task."""

_TASK: Final[Mapping[str, Schema]] = {
    "task_id": TASK_ID_SCHEMA,
    "name": text("The label that the client has given."),
    "kind": text("Which handler runs it."),
    "input": {"type": "object", "additionalProperties": True, "description": "The handler's arguments."},
    "status": ref("Status"),
    "progress": or_null(ref("Progress"), "What the latest attempt has told of itself."),
    "attempt": number("How many attempts have begun.", minimum=0),
    "retries": number("Further attempts after failed ones.", minimum=0),
    "timeout": number("Seconds that one attempt may take; null for no limit.", "number", null=True),
    "cancel_requested": {"type": "boolean", "description": "Somebody has asked for its end."},
    "accepted_at": moment("When it was accepted.", null=False),
    "run_at": moment("When it may start, or start again.", null=False),
    "started_at": moment("When the latest attempt began."),
    "finished_at": moment("When it ended."),
    "result": {
        "description": f"What the handler returned: any JSON of at most {MAX_RESULT} bytes, or null."
    },
    "error": or_null(ref("Error"), "Why the latest attempt failed."),
    "longest_step": number(
        "The longest that it held up the service, in milliseconds.", "number", null=True
    ),
    "traceparent": {"type": ["string", "null"], "description": "The trace that it belongs to (W3C)."},
    "callback": or_null(ref("Callback"), "How far the delivery of its outcome is."),
    "history": {"type": "array", "items": ref("Change"), "description": "The first 1,000 changes."},
}

ANSWERS: Final[Mapping[str, Schema]] = {
    "Task": answered("A task.", _TASK),
    "TaskInList": answered(
        f"A task as lists show it: without {', '.join(ONLY_WHOLE)}.",
        {name: schema for name, schema in _TASK.items() if name not in ONLY_WHOLE},
    ),
    "TaskList": answered(
        "One page of the list.",
        {
            "tasks": {"type": "array", "items": ref("TaskInList")},
            "next": {
                "type": ["string", "null"],
                "description": "The cursor of the next page; null at the end.",
            },
        },
    ),
    "Accepted": answered(
        "The task is on disk, and will run.",
        {
            "task_id": TASK_ID_SCHEMA,
            "name": text("The label that the client has given."),
            "status": {"type": "string", "const": Status.ACCEPTED.value},
            "message": text("What happens now, for people."),
        },
    ),
    "Submitted": {
        # Makers of clients know one answer of a call, the one with the lowest status, and many read no
        # ``oneOf``, or find that an answer is both; they pass over ``not``.
        **answered(
            "The task, where it has ended; else that it was accepted.",
            {**_TASK, "message": text("What happens now, for people, where it has not ended.")},
            *(_TASK.keys() - {"task_id", "name", "status"}),
            "message",
        ),
        "not": {"not": {"oneOf": [ref("Task"), ref("Accepted")]}},
    },
    "AcceptedBatch": answered(
        "All of the tasks are on disk, and will run.",
        {
            "tasks": {
                "type": "array",
                "items": ref("Accepted"),
                "description": "In the order of the request.",
            }
        },
    ),
    "Callback": answered(
        "The delivery of a task's outcome.",
        {
            "url": text("Where it goes."),
            "state": {"type": "string", "enum": ["pending", "delivered", "failed"]},
            "tries": number("How often it was tried.", minimum=0),
            "error": {
                "type": ["string", "null"],
                "description": "Why the last failed try did not succeed.",
            },
        },
    ),
    "Kind": answered(
        "A kind of task.",
        {
            "kind": text("Its name."),
            "description": {"type": ["string", "null"], "description": "The handler's docstring."},
            "place": {"type": "string", "enum": [*PLACES], "description": "Where its handler runs."},
            "input": {
                "type": "object",
                "additionalProperties": True,
                "description": "JSON Schema of its input.",
            },
            "timeout": number(
                "Seconds that one attempt may take, unless told otherwise.", "number", null=True
            ),
            "retries": number("Further attempts after failed ones, unless told otherwise.", minimum=0),
            "concurrency": number("Attempts at once in one process; null for no limit.", null=True),
            "next_run": NULL | {"description": "Not used yet."},
        },
    ),
    "Kinds": answered("The kinds of task.", {"kinds": {"type": "array", "items": ref("Kind")}}),
    "Health": answered("The service is up.", {"status": {"type": "string", "const": "ok"}}),
    "Problem": answered(
        "What went wrong (RFC 9457).",
        {
            "type": text(
                f"What kind of problem it is; {Problem.type} where the status says it all.", format="uri"
            ),
            "title": text("The status in words."),
            "status": number("The status of the answer.", minimum=400, maximum=599),
            "detail": text("What went wrong, in a sentence for people."),
            "error": text("The same sentence, for older clients."),
            "errors": {
                "type": "array",
                "items": ref("FieldError"),
                "minItems": 1,
                "description": f"Every bad field of the body (the first {MAX_ERRORS} or so), or what "
                "keeps the body from being JSON, and where.",
            },
        },
        "errors",
    ),
}
