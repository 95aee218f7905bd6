"""`GET /openapi.json`: every call, described for programs (OpenAPI 3.1)."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from asynctask import __version__, sse, wire
from asynctask.answers import JSON
from asynctask.components import (
    DONE,
    ID,
    NEW,
    RUNNING,
    accepted,
    errors,
    headers,
    parameters,
    shown,
    status_of,
)
from asynctask.door import MAX_BATCH_BODY, MAX_BODY
from asynctask.metrics import OPENMETRICS_TYPE, TEXT_TYPE
from asynctask.model import Progress, request_cancel
from asynctask.registry import KINDS, Kind, kind_json
from asynctask.schemas import schemas
from asynctask.schemawords import Schema, ref
from asynctask.sse import Position, Progressed
from asynctask.submissions import MAX_BATCH

ABOUT: Final = """\
Accepts tasks, answers at once, and works on them in the background: what was answered 202 is on disk.

Keys may be added to answers, never taken away. `HEAD` works wherever `GET` does. `OPTIONS` is answered \
204, a method that a path has not 405, both with `Allow`; an unknown path 404. Every error is \
`application/problem+json`.\
"""

EVERYWHERE: Final = (
    *("BadRequest", "Forbidden", "TooSlow", "TooLarge", "ExpectationFailed", "HeadTooLarge", "Bug"),
)
STORED: Final = (*EVERYWHERE, "Unavailable")
ONE_TASK: Final = (*STORED, "NotFound")
CHANGE: Final = (*ONE_TASK, "Conflict")
SUBMIT: Final = (*STORED, "NotJson", "KeyUsed")


class Call(Struct, frozen=True):
    """One method of one path.

    :ivar body: the schema of the request's body.
    :ivar answers: by status, where all goes well.
    :ivar errors: what else may be answered.
    """

    name: str
    tag: str
    summary: str
    description: str
    answers: Mapping[int, Schema]
    errors: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    body: Schema | None = None


def _answer(
    description: str, schema: str, example: Any, *names: str, links: tuple[str, ...] = ()
) -> Schema:
    """An answer of JSON, with these headers, whose ``task_id`` leads on to these calls."""
    led = {
        name: {"operationId": name, "parameters": {"task_id": "$response.body#/task_id"}} for name in links
    }
    return {
        "description": description,
        **headers(*names),
        "content": {JSON: {"schema": ref(schema), "example": example}},
        **({"links": led} if led else {}),
    }


def _bare(description: str, *names: str) -> Schema:
    """An answer without a body."""
    return {"description": description, **headers(*names)}


def _stream(identity: str) -> Schema:
    """An answer that goes on: Server-Sent Events."""
    frames = sse.event(NEW, identity) + sse.event(Progressed(ID, NEW.kind, 1, Progress(2, 5)))
    # Without a type: some tools take this for the schema of the stream's text, some for that of each event.
    schema = {"description": "Server-Sent Events (WHATWG HTML §9.2)."}
    return {
        "description": "Events, as they happen.",
        **headers("Last-Event-ID?", "Cache-Control", "X-Accel-Buffering"),
        "content": {"text/event-stream": {"schema": schema, "example": frames.decode()}},
    }


def _body(schema: str, description: str, **examples: Any) -> Schema:
    shown = {name: {"value": value} for name, value in examples.items()}
    content = {JSON: {"schema": ref(schema), "examples": shown}}
    return {"description": description, "required": True, "content": content}


TAGS: Final = {
    "tasks": "Accept tasks, and follow them.",
    "about": "What the service says of itself.",
    "heads": "The heads of the answers to GET, without the bodies.",
}

TASK_CALLS: Final = ("getTask", "cancelTask", "retryTask", "deleteTask")
TASK_PATH: Final = "/api/tasks/{task_id}"
BODY: Final = {"name": "generate-report", "duration": 5}
IDEMPOTENT: Final = "Repeat a POST whose answer was lost with the `Idempotency-Key` that it had."
EVENTS: Final = (
    "Events are `change` (the task as it was then, as in lists), `progress`, `deleted`, and `reset`, which "
    "tells that what was asked for is no longer kept: read the list, and go on from there. A comment comes "
    f"every {sse.COMMENT_EVERY:.0f} seconds; a client that reads nothing for so long is dropped."
)
ENDS_AS: Final = "A task has ended when it is completed, failed or cancelled."

UP: Final = {200: _answer("Yes.", "Health", {"status": "ok"})}

CALLS: Final[Mapping[tuple[str, str], Call]] = {
    ("/api/tasks", "post"): Call(
        "submitTask",
        "tasks",
        "Accept a task",
        f"The answer comes as soon as the task is on disk. {IDEMPOTENT}",
        {
            202: _answer(
                "The task was accepted.",
                "Submitted",
                accepted(),
                *("Location", "Retry-After", "Preference-Applied?"),
                links=TASK_CALLS,
            ),
            200: _answer(
                "The task has ended within the seconds that `Prefer` asked to wait.",
                "Submitted",
                shown(DONE),
                "Preference-Applied",
                links=TASK_CALLS,
            ),
        },
        SUBMIT,
        ("Idempotency-Key", "Prefer", "traceparent"),
        _body("Submission", f"At most {MAX_BODY} bytes.", plain=BODY),
    ),
    ("/api/tasks/batch", "post"): Call(
        "submitBatch",
        "tasks",
        "Accept many tasks, or none",
        f"All are accepted in one commit. {IDEMPOTENT}",
        {202: _answer("All were accepted.", "AcceptedBatch", {"tasks": [accepted()]}, "Retry-After")},
        SUBMIT,
        ("Idempotency-Key", "traceparent"),
        _body(
            "Batch",
            f"1 to {MAX_BATCH} tasks, at most {MAX_BATCH_BODY} bytes.",
            plain=[BODY],
        ),
    ),
    ("/api/tasks", "get"): Call(
        "listTasks",
        "tasks",
        "List tasks, newest first",
        "A page of the list. A parameter that is not named here, or is given twice, is an error.",
        {200: _answer("A page.", "TaskList", {"tasks": [shown(RUNNING, whole=False)], "next": None})},
        STORED,
        ("status", "kind", "name", "limit", "cursor"),
    ),
    (TASK_PATH, "get"): Call(
        "getTask",
        "tasks",
        "Show a task",
        f"With `Prefer` the answer comes when the task has ended, or when the seconds are over. {ENDS_AS}",
        {
            200: _answer(
                "The task; with `Retry-After` until it has ended.",
                "Task",
                shown(RUNNING),
                *("ETag", "Retry-After?", "Preference-Applied?"),
            ),
            304: _bare("The client has it as it is.", "ETag", "Retry-After?", "Preference-Applied?"),
        },
        ONE_TASK,
        ("task_id", "Prefer", "If-None-Match"),
    ),
    (TASK_PATH, "delete"): Call(
        "deleteTask",
        "tasks",
        "Forget a task",
        f"Only one that has ended can be deleted. {ENDS_AS}",
        {204: _bare("It is gone, with its input and result.")},
        CHANGE,
        ("task_id",),
    ),
    (f"{TASK_PATH}/cancel", "post"): Call(
        "cancelTask",
        "tasks",
        "Ask for a task's end",
        "A waiting task is cancelled at once, a running one when it has unwound; until then "
        "`cancel_requested` is true. To ask again does no harm.",
        {200: _answer("The task.", "Task", shown(request_cancel(RUNNING, 0)), "Retry-After?")},
        CHANGE,
        ("task_id",),
    ),
    (f"{TASK_PATH}/retry", "post"): Call(
        "retryTask",
        "tasks",
        "Let a task begin anew",
        "Only one that has failed or was cancelled.",
        {202: _answer("The task, accepted again.", "Task", shown(NEW), "Retry-After")},
        CHANGE,
        ("task_id",),
    ),
    (f"{TASK_PATH}/events", "get"): Call(
        "followTask",
        "tasks",
        "Follow a task",
        f"Its changes, past ones first, and its progress; closed after the last. {EVENTS}",
        {
            200: _stream(sse.count_id(ID, 1)),
            204: _bare("It has ended, and all of it was told before `Last-Event-ID`."),
        },
        ONE_TASK,
        ("task_id", "Last-Event-ID"),
    ),
    ("/api/events", "get"): Call(
        "followTasks",
        "tasks",
        "Follow all tasks",
        "What happens from now on, or after `Last-Event-ID`, also across a restart. `status` is about "
        f"changes; progress passes where `running` does. {EVENTS}",
        {200: _stream(sse.position_id("2b83d11d2562", Position(17, 1)))},
        STORED,
        ("kind", "status", "Last-Event-ID"),
    ),
    ("/api/kinds", "get"): Call(
        "listKinds",
        "about",
        "Tell which kinds of task there are",
        "With the JSON Schema of what each takes as its input.",
        {200: _answer("The kinds.", "Kinds", {"kinds": [kind_json(KINDS["simulate"])]})},
        EVERYWHERE,
    ),
    ("/openapi.json", "get"): Call(
        "describe",
        "about",
        "Tell which calls there are",
        "This description.",
        {
            200: {
                **_bare("OpenAPI 3.1.", "ETag"),
                "content": {JSON: {"schema": {"type": "object", "required": ["openapi", "paths"]}}},
            },
            304: _bare("The client has it as it is.", "ETag"),
        },
        EVERYWHERE,
        ("If-None-Match",),
    ),
    ("/metrics", "get"): Call(
        "getMetrics",
        "about",
        "Tell the numbers, to Prometheus",
        "In the OpenMetrics format where `Accept` asks for that.",
        {
            200: {
                **_bare("The numbers.", "Vary"),
                "content": {one: {"schema": {"type": "string"}} for one in (TEXT_TYPE, OPENMETRICS_TYPE)},
            }
        },
        STORED,
    ),
    ("/health/live", "get"): Call(
        "isLive",
        "about",
        "Tell whether the process answers",
        "It says nothing of its store.",
        UP,
        EVERYWHERE,
    ),
    ("/health/ready", "get"): Call(
        "isReady",
        "about",
        "Tell whether tasks are taken",
        "Not while it stops, or cannot store.",
        UP,
        STORED,
    ),
}
"""Every method of every path, except HEAD; OPTIONS, which every path has, is told in `ABOUT`."""


def describe(kinds: Mapping[str, Kind]) -> bytes:
    """The description of a service with these kinds, as JSON."""
    return wire.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "asynctask", "version": __version__, "description": ABOUT},
            "servers": [{"url": "/"}],
            "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
            "paths": _paths(),
            "components": {
                "schemas": schemas(kinds.values()),
                "parameters": parameters(kinds),
                "responses": errors(),
            },
        }
    )


def _paths() -> dict[str, Schema]:
    paths: dict[str, Schema] = {}
    for (path, method), call in CALLS.items():
        item = paths.setdefault(path, {})
        item[method] = _operation(call)
        if method == "get":
            item["head"] = _head(item["get"])
    return paths


def _operation(call: Call) -> Schema:
    answers = {str(status): answer for status, answer in call.answers.items()}
    answers |= {str(status_of(error)): _ref("responses", error) for error in call.errors}
    operation = {
        "operationId": call.name,
        "tags": [call.tag],
        "summary": call.summary,
        "description": call.description,
        "parameters": [_ref("parameters", name) for name in call.parameters],
        "responses": dict(sorted(answers.items())),
    }
    return operation if call.body is None else operation | {"requestBody": call.body}


def _ref(where: str, name: str) -> Schema:
    return {"$ref": f"#/components/{where}/{name}"}


def _head(get: Schema) -> Schema:
    """HEAD, which is answered as GET is, without the body (RFC 9110 §9.3.2)."""
    known = errors()
    answers = {}
    for status, answer in get["responses"].items():
        whole = known[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
        answers[status] = {key: whole[key] for key in ("description", "headers") if key in whole}
    return get | {
        "operationId": f"{get['operationId']}Head",
        "tags": ["heads"],
        "summary": f"{get['summary']}: only the head of the answer",
        "responses": answers,
    }
