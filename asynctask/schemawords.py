"""Words of JSON Schema, those of which makers of clients make something that compiles."""

from collections.abc import Mapping
from typing import Any, Final

from asynctask import wire

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


def for_clients(schema: Schema) -> Schema:
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


def each_part(schema: Schema, change: Any) -> Schema:
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


def without_nul(schema: Any) -> Any:
    """A schema that forbids NUL characters too, in texts and in the names of fields."""
    if not isinstance(schema, dict):
        return schema
    types = schema.get("type", ())
    types = [types] if isinstance(types, str) else types
    if not schema.keys() - NOTES - ({"type"} if len(types) == len(TYPES) else set()):
        return {key: value for key, value in schema.items() if key in NOTES} | ref("Anything")
    strict = each_part(schema, without_nul)
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
