"""The bodies of POSTs: what a client asks for, checked against the kinds that there are."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from asynctask.model import Submission
from asynctask.problems import FieldError, Invalid
from asynctask.registry import DURATION, MAX_DURATION, MAX_RETRIES, Kind
from asynctask.shapes import MAX_TOLD, Hints, Path, canonical
from asynctask.urls import MAX_URL, is_callback_url
from asynctask.wire import MAX_ERRORS, MAX_NAME, Wrong, encode, parse_json, pointer

MAX_DELAY: Final = 31_536_000
"""Seconds before a task may start: a year."""

MAX_BATCH: Final = 1_000
"""Tasks of one batch: their commit must not keep others waiting."""

MAX_INPUTS: Final = 2 * 1024 * 1024
"""Bytes of all inputs of a body as they are stored: twice the largest body, for an integer may be 1e300."""

NAME_REQUIRED: Final = "Field 'name' is required (non-empty string)"
OBJECT: Final = "The body must be a JSON object"
BATCH: Final = f"The body must be a JSON array of 1 to {MAX_BATCH:,} objects"

Kinds = Mapping[str, Kind]


class Body(Struct, frozen=True):
    """What a POST asks for.

    :ivar value: the parsed body.
    """

    submissions: list[Submission]
    value: Any

    @property
    def digest(self) -> str:
        """The same for the same parsed body, whatever its spaces and the order of its keys."""
        return digest_of(self.value)


def parse_one(body: bytes, kinds: Kinds) -> Body:
    """Read the body of one task.

    :raises Invalid: with every bad field; one about ``name`` comes first.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise Invalid(OBJECT, (FieldError(OBJECT, ""),))
    submission, errors = _read(value, kinds, (), Hints())
    if submission is None:
        raise Invalid(errors[0].detail, tuple(errors))
    return Body(_sized([submission]), value)


def parse_batch(body: bytes, kinds: Kinds) -> Body:
    """Read the body of a batch.

    :raises Invalid: with every bad field of every task; a missing ``name`` is the one that it speaks of.
    """
    value = parse_json(body)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_BATCH:
        raise Invalid(BATCH, (FieldError(BATCH, ""),))
    errors: list[FieldError] = []
    submissions: list[Submission] = []
    hints, told = Hints(), 0
    for number, item in enumerate(value):
        if len(errors) >= MAX_ERRORS or told > MAX_TOLD:
            break
        if not isinstance(item, dict):
            errors.append(FieldError(BATCH, pointer(number)))
            continue
        submission, wrong = _read(item, kinds, (number,), hints)
        errors += wrong
        told += sum(len(error.pointer) for error in wrong)
        if submission is not None:
            submissions.append(submission)
    if errors:
        details = [error.detail for error in errors]
        raise Invalid(NAME_REQUIRED if NAME_REQUIRED in details else details[0], tuple(errors))
    return Body(_sized(submissions), value)


def _sized(submissions: list[Submission]) -> list[Submission]:
    if sum([len(submission.input) for submission in submissions]) > MAX_INPUTS:
        detail = f"The input is longer than {MAX_INPUTS} bytes once its numbers are written out"
        raise Invalid(detail, (FieldError(detail, ""),))
    return submissions


def digest_of(value: Any) -> str:
    """What tells parsed bodies apart."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _read(
    value: dict[str, Any], kinds: Kinds, path: Path, hints: Hints
) -> tuple[Submission | None, list[FieldError]]:
    """What is asked for, or everything that is wrong with it."""
    errors: list[FieldError] = []
    fields: dict[str, Any] = {}
    strange: list[str] = []
    try:  # most bodies are right, and have few fields
        fields = _NOT_GIVEN | {field: _FIELDS[field](given) for field, given in value.items()}
        fields["name"]
    except (Wrong, KeyError):
        fields = {}
        strange = [field for field in value if field not in _FIELDS]
        for field, read in _FIELDS.items():
            try:
                fields[field] = read(value.get(field))
            except Wrong as wrong:
                errors.append(FieldError(str(wrong), pointer(*path, field)))
    kind = kinds.get(fields.get("kind", ""))
    if kind is None and "kind" in fields:
        errors.append(FieldError(hints.unknown("kind", fields["kind"], kinds), pointer(*path, "kind")))
    given = _input(fields, kind, path, errors, hints)
    for field in strange[:MAX_ERRORS]:
        errors.append(FieldError(hints.unknown("field", field, _FIELDS), pointer(*path, field)))
    if errors or kind is None:
        return None, errors
    return Submission(
        name=fields["name"],
        kind=kind.name,
        input=encode(given).decode(),
        delay=fields["delay"],
        timeout=kind.timeout if fields["timeout"] is None else fields["timeout"],
        retries=kind.retries if fields["retries"] is None else fields["retries"],
        callback_url=fields["callback_url"],
    ), []


def _input(
    fields: dict[str, Any], kind: Kind | None, path: Path, errors: list[FieldError], hints: Hints
) -> dict[str, Any]:
    """The handler's arguments, and whatever is wrong with them."""
    duration, given = fields.get("duration"), fields.get("input")
    if kind is None:
        return {}
    if duration is not None and kind.name != "simulate":
        detail = f"Field 'duration' belongs to kind 'simulate', not to '{kind.name}'"
        errors.append(FieldError(detail, pointer(*path, "duration")))
    elif duration is not None and fields.get("input", {}) is not None:
        detail = "Field 'duration' is the input of simulate; give one of the two"
        errors.append(FieldError(detail, pointer(*path, "duration")))
    if "input" not in fields:  # of which it is known what is wrong
        return {}
    if given is None and kind.name == "simulate":
        return {"duration": DURATION if duration is None else duration}
    checked, wrong = kind.input.check(given or {}, (*path, "input"), hints)
    errors += wrong
    return {"duration": DURATION} | checked if kind.name == "simulate" else checked


def _name(value: Any) -> str:
    if type(value) is str and 0 < len(value) <= MAX_NAME and "\0" not in value:  # as most are
        return value
    if not isinstance(value, str) or not value:
        raise Wrong(NAME_REQUIRED)
    if len(value) > MAX_NAME:
        raise Wrong(f"Field 'name' must have at most {MAX_NAME} characters")
    return _text("name", value)


def _kind(value: Any) -> str:
    if value is None:
        return "simulate"
    if not isinstance(value, str):
        raise Wrong("Field 'kind' must be a string")
    return _text("kind", value)


def _text(field: str, value: str) -> str:
    if "\0" in value:
        raise Wrong(f"Field '{field}' must not contain a NUL character")
    return value


def _duration(value: Any) -> int | None:
    return None if value is None else _integer("duration", value, MAX_DURATION)


def _retries(value: Any) -> int | None:
    return None if value is None else _integer("retries", value, MAX_RETRIES)


def _integer(field: str, value: Any, highest: int) -> int:
    if type(value) is int and 0 <= value <= highest:  # as most are
        return value
    if not _is_number(value) or value != int(value):
        raise Wrong(f"Field '{field}' must be an integer from 0 to {highest}")
    if not 0 <= value <= highest:
        raise Wrong(f"Field '{field}' must be from 0 to {highest}")
    return int(value)


def _delay(value: Any) -> float:
    if value is None:
        return 0
    if not _is_number(value):
        raise Wrong(f"Field 'delay' must be a number from 0 to {MAX_DELAY}")
    if not 0 <= value <= MAX_DELAY:
        raise Wrong(f"Field 'delay' must be from 0 to {MAX_DELAY}")
    return float(value)


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not value > 0:
        raise Wrong("Field 'timeout' must be a number of seconds over 0")
    return value if value < 2**53 else float(value)


def _callback_url(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and is_callback_url(value)):
        raise Wrong(
            "Field 'callback_url' must be an absolute http or https URL with a host, without user "
            f"information, of at most {MAX_URL} ASCII characters"
        )
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _object(value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise Wrong("Field 'input' must be an object")
    return value


_FIELDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": _name,
    "duration": _duration,
    "kind": _kind,
    "input": _object,
    "delay": _delay,
    "timeout": _timeout,
    "retries": _retries,
    "callback_url": _callback_url,
}

_NOT_GIVEN: Final = {field: read(None) for field, read in _FIELDS.items() if field != "name"}
"""What the fields are that a body has not."""
