"""What calls have in common, for their description: examples, errors, headers, parameters."""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Raw, Struct
from msgspec.structs import replace

from asynctask import wire
from asynctask.answers import JSON, PROBLEM
from asynctask.answerschemas import TASK_ID_SCHEMA
from asynctask.deadlines import BODY_TIME, HEAD_TIME, STALL
from asynctask.door import MAX_BODY
from asynctask.headers import MAX_KEY, MAX_WAIT
from asynctask.heads import MAX_HEAD
from asynctask.incoming import too_large
from asynctask.model import KEY_KEPT, Progress, Query, Submission, Task, accept, complete, start
from asynctask.problems import (
    MAY_BE_KEPT,
    NOT_KEPT,
    Conflict,
    ExpectationFailed,
    FieldError,
    Forbidden,
    HeadTooLarge,
    Invalid,
    Mismatch,
    NotFound,
    OutcomeUnknown,
    Problem,
    TooSlow,
    Unavailable,
    UnsupportedMediaType,
)
from asynctask.queries import MAX_LIMIT
from asynctask.registry import MAX_DURATION
from asynctask.schemawords import NO_NUL, Schema, ref

ID: Final = "task_17640072000000q4cmx2h8t6wd0zr5"
NEW: Final = accept(Submission("generate-report", "simulate", '{"duration":5}'), ID, 1_764_007_200.123)
RUNNING: Final = replace(start(NEW, NEW.accepted_at), progress=Progress(2, 5))
DONE: Final = complete(RUNNING, "null", NEW.accepted_at + 5)
"""A task in the course of time, for examples."""


def accepted() -> Raw:
    """The body of the 202."""
    return Raw(wire.accepted_json(NEW, "Task will run for 5 seconds in background"))


def shown(task: Task, *, whole: bool = True) -> Raw:
    """A task as clients see it, with a history of what led to it."""
    past = [(NEW, NEW.accepted_at), (RUNNING, NEW.accepted_at), (task, task.finished_at or task.run_at)]
    count = 1 + [one.status for one, _ in past].index(task.status)
    history = ",".join(wire.change_json(*one) for one in past[:count])
    return wire.task_json(replace(task, history=f"[{history}]"), whole=whole)


_DURATION: Final = FieldError(f"Field 'duration' must be from 0 to {MAX_DURATION}", "/duration")


class Refusal(Struct, frozen=True):
    """An error, and what may be told of it; all of it has one status."""

    description: str
    examples: list[Problem]


REFUSALS: Final[Mapping[str, Refusal]] = {
    "BadRequest": Refusal(
        "The request is wrong: its body, its query, or a header.",
        [
            Invalid(_DURATION.detail, (_DURATION,)),
            Invalid("Parameter 'limit' is given twice"),
            Invalid(
                "Invalid JSON", (FieldError("Expecting ',' delimiter: line 1 column 15 (char 14)", ""),)
            ),
        ],
    ),
    "Forbidden": Refusal(
        "`Host` is not a name of this service; or a page of another site asks for a change "
        "(`Origin`, `Sec-Fetch-Site`).",
        [Forbidden("This name is not one of the service's; allow it with --host")],
    ),
    "NotFound": Refusal("There is no such task.", [NotFound(wire.NO_TASK)]),
    "Conflict": Refusal(
        "The task's state forbids it.", [Conflict("A task that is completed cannot be cancelled")]
    ),
    "TooLarge": Refusal("The body is over the limit.", [too_large(MAX_BODY)]),
    "NotJson": Refusal(
        f"The body is not {JSON}; one without a `Content-Type` is taken for it.",
        [UnsupportedMediaType(f"The body must be {JSON}; say so with Content-Type: {JSON}")],
    ),
    "ExpectationFailed": Refusal(
        "`Expect` is other than `100-continue`.",
        [ExpectationFailed("Only 'Expect: 100-continue' is understood")],
    ),
    "TooSlow": Refusal(
        f"The request did not come in time: its head in {HEAD_TIME} seconds, its body in "
        f"{BODY_TIME}, and some of that every {STALL}.",
        [TooSlow("The request did not come to its end in time")],
    ),
    "HeadTooLarge": Refusal(
        "The head of the request is over the limit.",
        [HeadTooLarge(f"The head must have at most {MAX_HEAD} bytes")],
    ),
    "KeyUsed": Refusal(
        "The `Idempotency-Key` was used with another body.",
        [Mismatch("This Idempotency-Key was used with another body; take a new key")],
    ),
    "Bug": Refusal(
        "A bug; the log tells more.", [Problem("Something went wrong here; the log tells what")]
    ),
    "Unavailable": Refusal(
        "The service is full, is stopping, cannot store, or too much of it hangs. What was "
        f"refused will not run, except where `type` is `{OutcomeUnknown.type}`: it may have been "
        "accepted. Repeat it with an `Idempotency-Key`.",
        [
            Unavailable("The service is full: too many tasks have not ended"),
            Unavailable(NOT_KEPT),
            OutcomeUnknown(MAY_BE_KEPT),
        ],
    ),
}

HEADERS: Final[Mapping[str, Schema]] = {
    "Location": {
        "description": "Where the task can be followed.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {
        "description": "Seconds until the task can have ended, or until it is worth asking again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "ETag": {"description": "Changes with the body.", "schema": {"type": "string"}},
    "Vary": {"description": "What of the request the answer depends on.", "schema": {"type": "string"}},
    "Last-Event-ID": {
        "description": "Where the events begin: send it to go on from here, if no event has come yet.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]+$"},
    },
    "Cache-Control": {
        "description": "Events are not kept.",
        "schema": {"type": "string", "const": "no-store"},
    },
    "X-Accel-Buffering": {
        "description": "Asks a proxy (nginx) to pass each event on at once.",
        "schema": {"type": "string", "const": "no"},
    },
    "Preference-Applied": {
        "description": f"The `wait` that was asked for, at most {MAX_WAIT}; if there was one.",
        "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
    },
}

LABEL: Final = {"type": "string", "minLength": 1, "maxLength": wire.MAX_NAME, "pattern": NO_NUL}

PARAMETERS: Final[Mapping[str, Schema]] = {
    "task_id": {"in": "path", "required": True, "schema": TASK_ID_SCHEMA, "example": ID},
    "Idempotency-Key": {
        "in": "header",
        "description": f"The same key with the same body gives the first 202 again, for {KEY_KEPT // 3600} "
        f'hours. `"a"` and `a` are one key; it has 1 to {MAX_KEY} characters.',
        "schema": {
            "type": "string",
            "pattern": rf'^(".{{1,{MAX_KEY}}}"|[^"].{{0,{MAX_KEY - 1}}}|"(.{{0,{MAX_KEY - 2}}}[^"])?)$',
        },
    },
    "Prefer": {
        "in": "header",
        "description": f"`wait=N`: wait up to N seconds, at most {MAX_WAIT}, for the end (RFC 7240).",
        "schema": {"type": "string"},
        "example": "wait=1",
    },
    "traceparent": {
        "in": "header",
        "description": "The trace that the task belongs to (W3C Trace Context); a malformed one passes.",
        "schema": {"type": "string"},
        "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    },
    "If-None-Match": {
        "in": "header",
        "description": "The `ETag` that the client has; the answer is 304 if it still holds.",
        "schema": {"type": "string"},
        "example": '"5d41402abc4b2a76b9719d911017c592"',
    },
    "Last-Event-ID": {
        "in": "header",
        "description": "The id of the last event that the client has seen: what came after it follows.",
        "schema": {"type": "string"},
        "example": "2b83d11d2562.17.1",
    },
    "status": {
        "in": "query",
        "description": "Only tasks in one of these states.",
        "schema": {"type": "array", "items": ref("Status"), "minItems": 1},
        "style": "form",
        "explode": False,
        "example": ["accepted", "running"],
    },
    "kind": {
        "in": "query",
        "description": "Only tasks of this kind; also of one whose handler is gone, while it has tasks.",
        "example": "simulate",
    },
    "name": {
        "in": "query",
        "description": "Only tasks of exactly this name.",
        "schema": LABEL,
        "example": "generate-report",
    },
    "limit": {
        "in": "query",
        "description": "How many tasks a page has.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": Query().limit},
        "example": 10,
    },
    "cursor": {
        "in": "query",
        "description": "The `next` of an earlier answer: go on from there.",
        "schema": {"type": "string", "pattern": f"^{wire.TASK_ID.pattern}$"},
        "example": ID,
    },
}


def parameters(kinds: Iterable[str]) -> dict[str, Schema]:
    """The parameters as components."""
    found = {name: {"name": name, **parameter} for name, parameter in PARAMETERS.items()}
    found["kind"]["schema"] = {"type": "string", "enum": [*kinds]}
    return found


def errors() -> dict[str, Schema]:
    """The answers to what went wrong, as components."""
    return {name: _error(name, refusal) for name, refusal in REFUSALS.items()}


def status_of(error: str) -> int:
    return REFUSALS[error].examples[0].status


def _error(name: str, refusal: Refusal) -> Schema:
    bodies = {
        f"{name}{number}": {"value": Raw(wire.problem_json(one))}
        for number, one in enumerate(refusal.examples, 1)
    }
    more = headers("Retry-After") if name == "Unavailable" else {}
    return {
        "description": refusal.description,
        "content": {PROBLEM: {"schema": ref("Problem"), "examples": bodies}},
    } | more


def headers(*names: str) -> Schema:
    """The headers of an answer; of those with a question mark not every answer has one."""
    found = {}
    for name in names:
        plain = name.removesuffix("?")
        found[plain] = HEADERS[plain] | {"required": plain == name}
    return {"headers": found} if found else {}
