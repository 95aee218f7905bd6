"""The service's text log, read back into fields."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

_VALUE = r'"(?:[^"\\]|\\.)*"|\S*'
_LINE = re.compile(rf"(\S+Z) (\w+) (.*?)((?: \w+=(?:{_VALUE}))*)")
_FIELD = re.compile(rf" (\w+)=({_VALUE})")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One event.

    :param at: seconds since the epoch, by the service's clock.
    """

    at: float
    level: str
    message: str
    fields: Mapping[str, str]


def parse_line(text: str) -> LogLine | None:
    """Read `2026-11-24T18:00:00.123Z info Task started task_id=…`; None for any other text."""
    match = _LINE.fullmatch(text)
    if match is None:
        return None
    time, level, message, fields = match.groups()
    try:
        at = datetime.fromisoformat(time).timestamp()
    except ValueError:
        return None
    return LogLine(at, level, message, {name: _plain(raw) for name, raw in _FIELD.findall(fields)})


def _plain(raw: str) -> str:
    return str(json.loads(raw)) if raw.startswith('"') else raw
