"""A line an event: what a person reads, or JSON for a program."""

import json
import os
import re
import select
import stat
import sys
import textwrap
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import lru_cache
from math import isfinite
from string import Formatter
from typing import Any, Final, NamedTuple, Protocol, TextIO, TypeVar

from twisted.logger import FileLogObserver, LogEvent, formatEvent
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from asynctask import forked
from asynctask.tracebacks import stack_of
from asynctask.wire import timestamp

ROTATE_AT: Final = 10_000_000
"""Bytes of one log file: some 100,000 lines, which any editor opens."""

FILES_KEPT: Final = 10
"""Rotated log files: with `ROTATE_AT`, a log that nobody looks after takes 110 MB."""

_OTHER_WAY: Final = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Turns the direction of what follows, so that a line looks like another one (Unicode TR 9)."""

_PLAIN: Final = re.compile(rf"[^\s\"\\\x00-\x1f\x7f-\x9f\u2028\u2029{_OTHER_WAY}]+")
_CONTROL: Final = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_OTHER_WAY}]")
"""What a terminal may obey, or a reader take for the end of a line."""

_NAME: Final = re.compile(r"\w*")
_NOT_TOLD: Final = frozenset(
    {"log_logger", "log_level", "log_namespace", "log_source", "log_format", "log_time"}
    # What events of Twisted's older log have.
    | {"message", "time", "system", "format", "isError", "failure", "why"}
)


Value = str | int | float | None
"""What a field may be of which a line is made later."""

Render = Callable[[LogEvent], str]
"""Makes a line of an event, without its end."""


class Message(Hashable, Protocol):
    """What is logged again and again.

    :ivar text: without fields in it.
    :ivar names: of its fields.
    """

    text: str
    names: tuple[str, ...]


Tell = Callable[[Message, Sequence[float], Sequence[tuple[Value, ...]]], list[str]]
"""Makes lines of a message at level info: of when each was, and of the values of its fields."""


class Standard:
    """Standard output, past all buffers of Python's: a failed write leaves nothing behind for later."""

    def __init__(self, file: TextIO) -> None:
        self._descriptor = file.fileno()

    def write(self, data: bytes) -> None:
        """Write all of it; where it is read slowly that takes as long, also if some other program that has
        it too has made it one that does not block.

        :raises OSError: nobody reads it any more, or there is no room.
        """
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                _until_writable(self._descriptor)


def _until_writable(descriptor: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    waiting.poll()


class Rotating(LogFile):
    """A file that rotates and stays bounded: for its user alone, unless it was there with another mode.

    What is no file, such as /dev/null or a pipe, does not rotate: it would be given another name.
    """

    def __init__(self, name: str, directory: str) -> None:
        mode = None if os.path.exists(os.path.join(directory, name)) else 0o600
        super().__init__(name, directory, ROTATE_AT, mode, FILES_KEPT)

    def give_to(self, user: int | None, group: int | None) -> None:
        """Let it be those's whom root becomes: else it would never rotate, for whom it was not.

        Not where its path leads to another file, of which root would know nothing.
        """
        known = os.fstat(self._file.fileno())
        if not (stat.S_ISREG(known.st_mode) and os.path.samestat(known, os.lstat(self.path))):
            return
        with suppress(PermissionError):  # it is not root, or one with fewer rights
            os.fchown(self._file.fileno(), -1 if user is None else user, -1 if group is None else group)

    def shouldRotate(self) -> bool:
        """See `LogFile`; a child that a handler has forked does not know how long it is by now."""
        return bool(super().shouldRotate()) and not forked.is_child

    def write(self, data: bytes) -> None:
        """Write all of it.

        :raises OSError: there is no room.
        """
        if self._file.closed:  # no new one could be made when it was rotated
            self._openFile()
        if self.shouldRotate() and stat.S_ISREG(mode := os.fstat(self._file.fileno()).st_mode):
            self.defaultMode = stat.S_IMODE(mode)
            self.flush()
            self.rotate()
        while data:  # a disk becomes full in the middle of a write
            written = self._file.write(data)
            self.size += written
            data = data[written:]


class Nowhere:
    """There is no standard output: its descriptor may be that of another file by now."""

    def write(self, data: bytes) -> None:
        """Write nothing."""


def destination(path: str | None, standard: TextIO | None = sys.stdout) -> Standard | Rotating | Nowhere:
    """Standard output, or the file of this path.

    :raises OSError: it cannot be opened.
    """
    if path is not None:
        file: Rotating = Rotating.fromFullPath(path)
        return file
    return Nowhere() if standard is None else Standard(standard)


def text_line(event: LogEvent) -> str:
    """``2026-11-24T18:00:00.123Z info Task progress task_id=task_… step=1 total=5``."""
    template = event.get("log_format") or ""
    line = f"{timestamp(event['log_time'])} {event['log_level'].name} "
    if "{" in template:
        line += _one_line(_message(event))
        said = _said(template)
        for key, value in tuple(event.items()):
            # What libraries log may have any object, for their message only.
            if _is_field(key) and key not in said and isinstance(value, str | int | float | None):
                line += f" {_plain(key)}={_plain(value)}"
    else:
        line += _known(template) if template else _one_line(_message(event))
        for key, begin in _fields(tuple(event)):  # another observer may add to it meanwhile
            value = event[key]
            line += f"{begin}{value if type(value) is int else _plain(value)}"
    return line + _traceback(event) if "log_failure" in event or "log_stack" in event else line


def text_observer() -> FileLogObserver:
    """What ``twistd --logger`` takes: the log of a program on standard output, as the service's own."""
    return FileLogObserver(sys.stdout, lambda event: text_line(event) + "\n")


def told(message: Message, at: Sequence[float], values: Sequence[tuple[Value, ...]]) -> list[str]:
    """The same of a `Message`, many at a time: field by field, of which most need only a look."""
    columns = zip(*values, strict=True)
    fields = [field if _is_plain(field) else tuple(map(_plain_value, field)) for field in columns]
    return list(map(_template(message).__mod__, zip(map(timestamp, at), *fields, strict=True)))


def _is_plain(field: Sequence[Value]) -> bool:
    """Whether none of these values is another as it is told."""
    kinds = set(map(type, field))
    if kinds != {str}:
        return kinds == {int}
    # What many texts are together, each is: letters, digits and underscores. Bytes are faster to look at.
    text = "".join(field)  # type: ignore[arg-type]
    return all(field) and text.isascii() and text.encode().replace(b"_", b"").isalnum()


def _plain_value(value: Value) -> Value:
    return value if type(value) is int else _plain(value)


@lru_cache(maxsize=256)
def _template(message: Message) -> str:
    fields = "".join(f" {_plain(name)}=%s" for name in message.names)
    return f"%s info {_one_line(message.text).replace('%', '%%')}{fields}"


def json_line(event: LogEvent) -> str:
    """The same as an object with ``time``, ``level``, ``message`` and the fields."""
    shape: dict[str, Any] = {
        "time": timestamp(event["log_time"]),
        "level": event["log_level"].name,
        "message": _message(event),
    }
    for key, value in tuple(event.items()):
        if _is_field(key):
            shape.setdefault(key, value)
    if trace := _traceback(event):
        shape["traceback"] = textwrap.dedent(trace).strip()
    try:
        return _to_strict_json(shape)
    except ValueError:
        return _to_strict_json(_finite(shape))


_to_json: Final = json.JSONEncoder(default=str).encode
_to_strict_json: Final = json.JSONEncoder(default=str, allow_nan=False).encode
"""Made once: `json.dumps` would make one for each line."""


def _finite(value: Any) -> Any:
    """The same with words for the numbers that JSON has not (RFC 8259 §6)."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


class Renderer(NamedTuple):
    """How lines are made; ``tell`` is None where it makes an event first."""

    render: Render
    tell: Tell | None


RENDERERS: Final = {"text": Renderer(text_line, told), "json": Renderer(json_line, None)}


def with_field(renderer: Renderer, name: str, value: Value) -> Renderer:
    """The same with a field more in each line."""
    render, tell = renderer
    ending = f" {_plain(name)}={_plain(value)}"
    return Renderer(
        lambda event: render({**event, name: value}),
        None if tell is None else lambda *lines: [line + ending for line in tell(*lines)],
    )


def _message(event: LogEvent) -> str:
    template = event.get("log_format")
    if template is not None and "{" not in template:
        return template or "Unhandled error"
    return formatEvent(event)


T = TypeVar("T")

LONGEST_KNOWN: Final = 1_000
"""Characters of a message that is remembered: more of them is a text, which does not come again."""


def _remembered(of: Callable[[str], T]) -> Callable[[str], T]:
    """The same, remembering what it says of messages that come again: of a few, and short ones."""
    known = lru_cache(maxsize=256)(of)
    return lambda message: known(message) if len(message) <= LONGEST_KNOWN else of(message)


def _is_field(key: str) -> bool:
    return key not in _NOT_TOLD and not key.startswith("log_")


@lru_cache(maxsize=256)
def _fields(keys: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Those of an event's keys that its line has, and how they begin there; most events have the same."""
    return tuple((key, f" {_plain(key)}=") for key in keys if _is_field(key))


@_remembered
def _said(template: str) -> frozenset[str]:
    """The fields that a message says itself."""
    try:
        names = [name or "" for _, name, _, _ in Formatter().parse(template)]
    except ValueError:  # what is wrong with it, the message says
        return frozenset()
    return frozenset(_NAME.match(name)[0] for name in names)  # type: ignore[index]


def _plain(value: Any) -> str:
    """A field that cannot be taken for another one, nor for a line of its own."""
    text = value if isinstance(value, str) else _to_json(value)
    return text if text.isidentifier() or _PLAIN.fullmatch(text) else json.dumps(text)


def _one_line(message: str) -> str:
    return _CONTROL.sub(_escaped, " ".join(message.splitlines()))


_known: Final = _remembered(_one_line)
"""The same of a message that comes again and again."""


def _traceback(event: LogEvent) -> str:
    """The stack of a failure, or one that came with the event."""
    failure = event.get("log_failure")
    stack = stack_of(failure) if isinstance(failure, Failure) else event.get("log_stack")
    if not stack:
        return ""
    # Indented, so that no line of somebody's message can be taken for an event.
    return "\n" + textwrap.indent(_CONTROL.sub(_escaped, stack.rstrip()), "  ", lambda _: True)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
