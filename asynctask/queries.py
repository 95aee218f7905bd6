"""The query strings of GETs: which tasks a list shows, and which events are told. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from asynctask.model import Query, Status
from asynctask.problems import Invalid
from asynctask.wire import LABEL, MAX_NAME, TASK_ID, Wrong, shown, unknown

MAX_LIMIT: Final = 1_000
"""Tasks of one page."""

MAX_PARAMETERS: Final = 100


def parse_query(query: bytes) -> Query:
    """Read the query string of the list.

    :raises Invalid: an unknown parameter or value.
    """
    return _read_query(query, _PARAMETERS)


def parse_filter(query: bytes) -> Query:
    """Read the query string of events: ``kind`` and ``status``.

    :raises Invalid: an unknown parameter or value.
    """
    return _read_query(query, {name: _PARAMETERS[name] for name in ("kind", "status")})


def parse_no_query(query: bytes) -> None:
    """:raises Invalid: there is a parameter, where none is known."""
    _read_query(query, {})


def _read_query(query: bytes, known: Mapping[str, tuple[str, Callable[[str], Any]]]) -> Query:
    read: dict[str, Any] = {}
    for name, value in _parameters(query):
        if name not in known:
            raise Invalid(unknown("parameter", name, known))
        field, parse = known[name]
        if field in read:
            raise Invalid(f"Parameter '{name}' is given twice")
        try:
            read[field] = parse(value)
        except Wrong as wrong:
            raise Invalid(f"Parameter '{name}' {wrong}") from None
    return Query(**read)


def _parameters(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except UnicodeDecodeError:
        raise Invalid("The query must be UTF-8") from None
    except ValueError:
        raise Invalid(f"The query must have at most {MAX_PARAMETERS} parameters") from None


def _statuses(value: str) -> tuple[Status, ...]:
    known = [status.value for status in Status]
    chosen = value.split(",")
    for one in chosen:
        if one not in known:
            raise Wrong(f"has no value '{shown(one)}'; there are {', '.join(known)}")
    return tuple(Status(one) for one in dict.fromkeys(chosen))


def _label(value: str) -> str:
    if not LABEL.fullmatch(value):
        raise Wrong(f"must have 1 to {MAX_NAME} characters, and no NUL")
    return value


def _limit(value: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", value) or not 1 <= int(value) <= MAX_LIMIT:
        raise Wrong(f"must be an integer from 1 to {MAX_LIMIT}")
    return int(value)


def _cursor(value: str) -> str:
    if not TASK_ID.fullmatch(value):
        raise Wrong("must be the 'next' of an earlier answer")
    return value


_PARAMETERS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "status": ("statuses", _statuses),
    "kind": ("kind", _label),
    "name": ("name", _label),
    "limit": ("limit", _limit),
    "cursor": ("cursor", _cursor),
}
