"""JSON Schemas of what goes in and out, made of the Structs and of the kinds' signatures."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import json

from asynctask import wire
from asynctask.answerschemas import ANSWERS
from asynctask.model import Progress
from asynctask.problems import FieldError
from asynctask.registry import DURATION, MAX_DURATION, MAX_RETRIES, Kind
from asynctask.schemawords import (
    ANYTHING,
    COMPONENTS,
    NO_NUL,
    NULL,
    Schema,
    each_part,
    for_clients,
    moment,
    number,
    or_null,
    ref,
    text,
    without_nul,
)
from asynctask.strictjson import MAX_DEPTH
from asynctask.submissions import MAX_BATCH, MAX_DELAY
from asynctask.urls import MAX_URL, URL
from asynctask.wire import MAX_NAME, Change


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
        **ANSWERS,
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
    return {name: for_clients(schema) for name, schema in found.items()}


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
    return {one: without_nul(_moved(schema, moved)) for one, schema in found.items()}


def _moved(schema: Any, to: Mapping[str, str]) -> Any:
    """A schema with its references changed to where their targets have moved."""
    if not isinstance(schema, dict):
        return schema
    moved = each_part(schema, lambda part: _moved(part, to))
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
    return for_clients(moved)


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
