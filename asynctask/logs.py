"""A line an event: what a person reads, or JSON for a program."""

import json
import re
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any, Final, TextIO

from twisted.logger import ILogObserver, LogEvent, formatEvent
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from asynctask.wire import timestamp

ROTATE_AT: Final = 10_000_000
"""Bytes of one log file: some 100,000 lines, which any editor opens."""

FILES_KEPT: Final = 10
"""Rotated log files: with `ROTATE_AT`, a log that nobody looks after takes 110 MB."""

_PLAIN: Final = re.compile(r"[^\s\"\\\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_OF_TWISTED: Final = frozenset({"message", "time", "system", "format", "isError", "failure", "why"})


@implementer(ILogObserver)
class LineObserver:
    """Writes each event as one line, at once; from any thread.

    :param write: takes the line with its end.
    :param render: makes the line.
    """

    def __init__(self, write: Callable[[str], object], render: Callable[[LogEvent], str]) -> None:
        self._write = write
        self._render = render
        self._lock = threading.Lock()

    def __call__(self, event: LogEvent) -> None:
        line = self._render(event) + "\n"
        # A lone surrogate in somebody's error message must not cost the line.
        line = line.encode("utf-8", "backslashreplace").decode("utf-8")
        with self._lock:
            self._write(line)


def observer(file: TextIO | LogFile, log_format: str) -> LineObserver:
    """An observer for ``log_format``, ``text`` or ``json``."""

    def write(line: str) -> None:
        file.write(line)
        file.flush()

    return LineObserver(write, {"text": text_line, "json": json_line}[log_format])


def destination(path: str | None) -> TextIO | LogFile:
    """Standard output, or a file that rotates and stays bounded."""
    if path is None:
        return sys.stdout
    file: LogFile = LogFile.fromFullPath(path, rotateLength=ROTATE_AT, maxRotatedFiles=FILES_KEPT)
    return file


def text_line(event: LogEvent) -> str:
    """``2026-11-24T18:00:00.123Z info Task progress task_id=task_… step=1 total=5``."""
    parts = [timestamp(event["log_time"]), event["log_level"].name, _one_line(_message(event))]
    if "{" not in (event.get("log_format") or ""):  # else the message says them already
        parts += [f"{key}={_plain(value)}" for key, value in _fields(event).items()]
    return " ".join(parts) + _traceback(event)


def json_line(event: LogEvent) -> str:
    """The same as an object with ``time``, ``level``, ``message`` and the fields."""
    shape: dict[str, Any] = {
        "time": timestamp(event["log_time"]),
        "level": event["log_level"].name,
        "message": _message(event),
    }
    shape = shape | _fields(event) | shape
    if trace := _traceback(event):
        shape["traceback"] = textwrap.dedent(trace).strip()
    return json.dumps(shape, default=str).replace("\n", " ")


def _message(event: LogEvent) -> str:
    template = event.get("log_format")
    if template is not None and "{" not in template:
        return template or "Unhandled error"
    return formatEvent(event)


def _fields(event: LogEvent) -> dict[str, Any]:
    """What was logged beside the message."""
    return {
        key: value for key, value in event.items() if not key.startswith("log_") and key not in _OF_TWISTED
    }


def _plain(value: Any) -> str:
    """A field that cannot be taken for another one, nor for a line of its own."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _one_line(message: str) -> str:
    return " ".join(message.splitlines())


def _traceback(event: LogEvent) -> str:
    """The stack of a failure, or one that came with the event."""
    failure = event.get("log_failure")
    stack = failure.getTraceback() if isinstance(failure, Failure) else event.get("log_stack")
    if not stack:
        return ""
    # Indented, so that no line of somebody's message can be taken for an event.
    return "\n" + textwrap.indent(stack.rstrip(), "  ", lambda _: True)
