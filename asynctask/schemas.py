"""JSON Schemas of what goes in and out, made of the Structs and of the kinds' signatures."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import json

from asynctask import wire
from asynctask.model import Progress, Status
from asynctask.problems import FieldError, Problem
from asynctask.registry import DURATION, MAX_DURATION, MAX_RETRIES, PLACES, Kind
from asynctask.strictjson import MAX_DEPTH
from asynctask.submissions import MAX_BATCH, MAX_DELAY
from asynctask.urls import MAX_URL, URL
from asynctask.wire import MAX_ERRORS, MAX_NAME, MAX_RESULT, TASK_ID, Change

Schema = dict[str, Any]

COMPONENTS: Final = "#/components/schemas/"

NO_NUL: Final = "^[^\\u0000]*$"
"""A pattern of the texts that a body may have."""

PARTS: Final = ("items", "additionalProperties", "propertyNames", "not", "if", "then", "else", "contains")
"""Keywords whose value is a schema."""
LISTS: Final = ("prefixItems", "anyOf", "oneOf", "allOf")
MAPS: Final = ("properties", "patternProperties")
TYPES: Final = ("object", "array", "string", "number", "boolean", "null")
_NAMES: Final = {int: "integer", str: "string", type(None): "null"}
"""Types of the values that an enumeration may have."""
NOTES: Final = {"title", "description", "default", "examples"}
"""Keywords that allow and forbid nothing."""

NULL: Final[Schema] = {"const": None}
"""What has no other value: makers of clients have no word for the type "null" that stands alone."""


def ref(name: str) -> Schema:
    return {"$ref": COMPONENTS + name}


def or_null(schema: Schema, description: str | None = None) -> Schema:
    given = {"anyOf": [schema, {"type": "null"}]}
    return given if description is None else {"description": description, **given}


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def number(description: str, kind: str = "integer", *, null: bool = False, **more: Any) -> Schema:
    return {"type": [kind, "null"] if null else kind, "description": description, **more}


def moment(description: str, *, null: bool = True) -> Schema:
    types = ["string", "null"] if null else "string"
    return {"type": types, "format": "date-time", "description": f"{description} RFC 3339, in UTC."}


def answered(description: str, properties: Mapping[str, Schema], *rare: str) -> Schema:
    """An object of ours: clients can count on its keys, except the ``rare`` ones, and ignore others."""
    required = [name for name in properties if name not in rare]
    return {
        "type": "object",
        "description": description,
        "properties": dict(properties),
        "required": required,
    }


_CLEAN: Final = {
    "pattern": NO_NUL,
    "items": ref("Anything"),
    "additionalProperties": ref("Anything"),
    "propertyNames": {"pattern": NO_NUL},
}
"""Without a type, each keyword is only about what it can be about."""

ANYTHING: Final = {"description": "Any JSON without NUL characters.", "not": {"not": _CLEAN}}
"""Makers of clients pass over ``not``; of the keywords in it they would make an array, or an object."""

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

_ANSWERS: Final[Mapping[str, Schema]] = {
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


def schemas(kinds: Iterable[Kind]) -> dict[str, Schema]:
    """All schemas by name; what they refer to is among them."""
    submissions: dict[str, Schema] = {}
    inputs: dict[str, Schema] = {}
    for kind in kinds:
        name = _free(kind.name, submissions)
        submissions[f"{name}-submission"] = _submission(kind, f"{name}-input")
        inputs |= _input(kind, f"{name}-input")
    return {
        "Submission": {
            "description": "A task to be accepted: the fields that all kinds share, and the kind's input. "
            f"Objects and arrays may be nested {MAX_DEPTH} deep.",
            "oneOf": [ref(name) for name in submissions],
        },
        **submissions,
        "Batch": {
            "type": "array",
            "items": ref("Submission"),
            "minItems": 1,
            "maxItems": MAX_BATCH,
            "description": "Tasks to be accepted, all of them or none.",
        },
        **_ANSWERS,
        **_structs(),
        **inputs,
        "Anything": ANYTHING,
    }


def _structs() -> dict[str, Schema]:
    _, found = json.schema_components([Change, Progress, FieldError], ref_template=COMPONENTS + "{name}")
    for schema in found.values():
        del schema["title"]
        if "description" in schema:  # not under -OO
            schema["description"] = schema["description"].replace("``", "`")
        if properties := schema.get("properties"):
            # A default is what the service fills in, not what it leaves out.
            schema["required"] = list(properties)
            for one in properties.values():
                one.pop("default", None)
    found["Change"]["properties"]["at"] = moment("When it happened.", null=False)
    return {name: _for_clients(schema) for name, schema in found.items()}


def _submission(kind: Kind, name: str) -> Schema:
    """What may be asked for with a kind; the schema of its input has this name."""
    needs_input = bool(kind.input.schema["required"])
    properties = {
        "name": text("A label for people.", minLength=1, maxLength=MAX_NAME, pattern=NO_NUL),
        "kind": {"type": "string", "const": kind.name},
        "input": ref(name) if needs_input else or_null(ref(name), "Nothing given is the same as {}."),
        # No defaults: clients would send them, also when the kind has others; or have to.
        "delay": number(
            "Seconds before it may start; 0 where none are given.",
            "number",
            null=True,
            minimum=0,
            maximum=MAX_DELAY,
        ),
        "timeout": number(
            f"Seconds that one attempt may take; {wire.dump(kind.timeout)} where none are given.",
            "number",
            null=True,
            exclusiveMinimum=0,
        ),
        "retries": number(
            f"Further attempts after failed ones; {kind.retries} where none are given.",
            null=True,
            minimum=0,
            maximum=MAX_RETRIES,
        ),
        "callback_url": or_null(
            text("Where its outcome is POSTed, signed.", maxLength=MAX_URL, pattern=URL)
        ),
        "duration": NULL | {"description": "Belongs to simulate."},
    }
    schema = {
        "type": "object",
        "description": kind.description or f"A task of kind {kind.name}.",
        "properties": properties,
        "required": ["name", "kind", *(["input"] if needs_input else [])],
        "additionalProperties": False,
    }
    return _of_simulate(schema) if kind.name == "simulate" else schema


def _of_simulate(schema: Schema) -> Schema:
    """The same of the kind that is meant where none is given, and has a field of its own in the body."""
    given = {
        "kind": {
            "type": ["string", "null"],
            "enum": ["simulate", None],
            "description": "What runs where no kind is given.",
        },
        "duration": number(
            "Seconds that it runs, a step a second; in place of an input. "
            f"{DURATION} where neither is given.",
            null=True,
            minimum=0,
            maximum=MAX_DURATION,
        ),
    }
    both = {"duration": {"type": "integer"}, "input": {"type": "object"}}
    return schema | {
        "properties": schema["properties"] | given,
        "required": ["name"],
        "not": {"properties": both, "required": [*both]},
    }


def _input(kind: Kind, name: str) -> dict[str, Schema]:
    """A kind's input, and what that refers to, as components."""
    given = kind.input.schema
    found = {name: {key: value for key, value in given.items() if key != "$defs"}}
    parts = given.get("$defs", {})
    moved = {f"#/$defs/{part}": f"{COMPONENTS}{name}_{_safe(part)}" for part in parts}
    found |= {f"{name}_{_safe(part)}": schema for part, schema in parts.items()}
    return {one: _without_nul(_moved(schema, moved)) for one, schema in found.items()}


def _moved(schema: Any, to: Mapping[str, str]) -> Any:
    """A schema with its references changed to where their targets have moved."""
    if not isinstance(schema, dict):
        return schema
    moved = _each_part(schema, lambda part: _moved(part, to))
    moved.pop("title", None)
    if moved.get("maxItems") == len(moved.get("prefixItems", ())):
        # It says nothing more, and makers of clients know no schema that is not an object.
        moved.pop("items", None)
    if "$ref" in moved:
        moved["$ref"] = to.get(moved["$ref"], moved["$ref"])
    if "discriminator" in moved:
        known = moved["discriminator"]
        moved["discriminator"] = known | {
            "mapping": {key: to[one] for key, one in known["mapping"].items()}
        }
    return _for_clients(moved)


def _for_clients(schema: Schema) -> Schema:
    """The same in words of which makers of clients make something that compiles."""
    made = dict(schema)
    if "default" in made:
        # They write it as no language has objects and dates, send it though the kind has another one by
        # then, or make the field required.
        given = f"`{wire.encode(made.pop('default')).decode()}` where nothing is given."
        made["description"] = " ".join(filter(None, (made.get("description"), given)))
    if "enum" in made and "type" not in made:
        values: dict[str, list[Any]] = {}
        for value in made.pop("enum"):
            values.setdefault(_NAMES[type(value)], []).append(value)
        each = [{"type": name, "enum": some} for name, some in values.items()]
        made |= each[0] if len(each) == 1 else {"anyOf": each}
    if "discriminator" in made:  # each has a tag of its own, in texts if it can be
        made["oneOf"] = made.pop("anyOf")
        if any(isinstance(tag, int) for tag in made["discriminator"]["mapping"]):
            del made["discriminator"]
    if made.get("format") == "decimal":
        made["anyOf"] = [{"type": "string", "format": made.pop("format")}, {"type": "number"}]
        del made["type"]
    return made


def _each_part(schema: Schema, change: Any) -> Schema:
    """A schema with each of the schemas in it changed."""
    changed = dict(schema)
    for key, value in schema.items():
        if key in PARTS:
            changed[key] = change(value)
        elif key in LISTS:
            changed[key] = [change(part) for part in value]
        elif key in MAPS:
            changed[key] = {name: change(part) for name, part in value.items()}
    return changed


def _without_nul(schema: Any) -> Any:
    """A schema that forbids NUL characters too, in texts and in the names of fields."""
    if not isinstance(schema, dict):
        return schema
    types = schema.get("type", ())
    types = [types] if isinstance(types, str) else types
    if not schema.keys() - NOTES - ({"type"} if len(types) == len(TYPES) else set()):
        return {key: value for key, value in schema.items() if key in NOTES} | ref("Anything")
    strict = _each_part(schema, _without_nul)
    if "array" in types and not schema.keys() & {"items", "prefixItems"}:
        strict["items"] = ref("Anything")
    if "object" in types and "properties" not in schema:
        strict.setdefault("additionalProperties", ref("Anything"))
        strict["propertyNames"] = _no_nul(strict.get("propertyNames", {}))
    return _no_nul(strict) if "string" in types else strict


def _no_nul(schema: Schema) -> Schema:
    if "pattern" in schema:
        return schema | {"allOf": [*schema.get("allOf", []), {"pattern": NO_NUL}]}
    return schema | {"pattern": NO_NUL}


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """A name that a component may have, and none has yet."""
    safe = free = _safe(name)
    count = 1
    while f"{free}-submission" in taken:
        count += 1
        free = f"{safe}_{count}"
    return free


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)  # a full stop would be a module to some
