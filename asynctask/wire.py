"""Bytes to model and back: ids, results, task JSON, problems. Pure.

JSON is read as the contract has it, stricter than any library: see `asynctask.strictjson`.
"""

import difflib
import json
import re
from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from inspect import isawaitable
from math import floor
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from asynctask import strictjson
from asynctask.model import ACCEPTED, Error, Progress, Status, Task
from asynctask.problems import FieldError, Invalid, NotFound, Problem

MAX_HINTS: Final = 20
"""Unknown fields of one body for which a similar name is looked up: a search costs 20 µs."""

MAX_ERRORS: Final = 10_000
"""Bad fields that one answer lists: nobody reads more, and listing them holds the reactor."""

MAX_SHOWN: Final = 60
"""Characters of a client's own text that an error repeats."""

MAX_NAME: Final = 255

LABEL: Final = re.compile(rf"[^\0\ud800-\udfff]{{1,{MAX_NAME}}}")
"""A name of a task or a kind: a text that JSON can carry and every database keep."""

MAX_RESULT: Final = 1024 * 1024
"""Bytes of a result: it is read with its task, and kept as long."""

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_LETTERS: Final = ALPHABET.encode() * 8
"""What each value of a byte is as one of 32 characters."""

_PAIRS: Final = tuple(first + second for first in ALPHABET for second in ALPHABET)
TASK_ID: Final = re.compile(rf"task_[0-9]{{10}}[{ALPHABET}]{{20}}")

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what was to be read."""

encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class Ids:
    """Task ids that sort in the order in which they were made, by this process.

    ``task_``, the Unix second, 4 characters that count within it, 16 of chance. The second is never
    less than the last one given, and a full count takes the next second.
    """

    CHANCE: Final = 16
    """Bytes of chance in an id, of which each gives a character, and so five bits."""

    PER_SECOND: Final = len(_PAIRS) ** 2

    AHEAD: Final = 86_400.0
    """Seconds by which the ids of an earlier process may be ahead of the clock."""

    def __init__(self) -> None:
        self._second = 0
        self._count = 0

    def go_on(self, newest: str, now: float) -> None:
        """Give only ids that sort after this one, unless it is of a clock that was days ahead."""
        if TASK_ID.fullmatch(newest) and (second := int(newest[5:15])) < now + self.AHEAD:
            count = 0
            for letter in newest[15:19]:
                count = count * len(ALPHABET) + ALPHABET.index(letter)
            self._second, self._count = second, count + 1

    def next(self, now: float, chance: bytes) -> str:
        """:param now: seconds since the epoch. :param chance: `CHANCE` bytes, which the caller draws."""
        if now >= self._second + 1:
            self._second, self._count = int(now), 0
        elif self._count == self.PER_SECOND:
            self._second, self._count = self._second + 1, 0
        count = self._count
        self._count += 1
        drawn = chance.translate(_LETTERS).decode("ascii")
        return f"task_{self._second:010d}{_PAIRS[count >> 10]}{_PAIRS[count & 1023]}{drawn}"


def parse_json(body: bytes) -> Any:
    """Read JSON as strict as `asynctask.strictjson` has it.

    :raises Invalid: it is not; what and where is in its one error.
    """
    try:
        return strictjson.read(body)
    except strictjson.NotStrict as error:
        raise Invalid("Invalid JSON", (FieldError(str(error), ""),)) from None


class Wrong(Exception):
    """What is wrong with one value, as the end of a sentence about it or a sentence of its own."""


def unknown(what: str, given: str, known: Collection[str]) -> str:
    """Say that there is no such thing, and which one may have been meant."""
    similar = difflib.get_close_matches(given[:MAX_SHOWN], known, n=1)
    hint = f"; did you mean '{similar[0]}'?" if similar else ""
    return f"Unknown {what} '{shown(given)}'{hint}"


def shown(text: str) -> str:
    """A client's own text, short enough and printable, to be repeated to it or to a log."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: MAX_SHOWN + 1])
    return clean if len(clean) <= MAX_SHOWN else clean[:MAX_SHOWN] + "…"


def text_of(error: BaseException | None) -> str:
    """An exception's text, whatever its class makes of it."""
    try:
        return str.__str__(str(error))  # which may be of a class of its own
    except BaseException:
        return "(its text cannot be shown)"


def in_a_line(error: BaseException | None) -> str:
    """An exception's text in one line."""
    return " ".join(text_of(error).split())


def name_of(error: BaseException | None) -> str:
    """The name of an exception's class, without any code of that: a metaclass may have it raise."""
    return str.__str__(type.__dict__["__name__"].__get__(type(error)))


def pointer(*path: str | int) -> str:
    """A JSON pointer (RFC 6901 §3)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


_ENCODER: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def dump(value: Any) -> str:
    """JSON text of a value, as it is stored."""
    return _ENCODER.encode(value)


class NotSerializable(Exception):
    """A handler's result that is no JSON."""


class ResultTooLarge(Exception):
    """A handler's result that belongs into a file or a store, with its address as the result."""


def dump_result(result: Any) -> str:
    """JSON text of a handler's result, as strict as a body.

    :raises NotSerializable: it has something that JSON has not.
    :raises ResultTooLarge: it has more than `MAX_RESULT` bytes.
    """
    if result is None:
        return "null"
    try:
        text = dump(result)
        size = len(text.encode("utf-8"))
        if size <= MAX_RESULT:
            strictjson.read(text.encode("utf-8"))
    except strictjson.NotStrict as error:
        raise NotSerializable(f"The result is no strict JSON: {error}") from None
    except (TypeError, ValueError, RecursionError) as error:
        hint = "; msgspec.to_builtins makes JSON of much" if isinstance(error, TypeError) else ""
        if isawaitable(result):
            hint = "; nobody has waited for it: let the handler be an async def that awaits it"
        raise NotSerializable(f"The result is no JSON: {error}{hint}") from error
    if size > MAX_RESULT:
        raise ResultTooLarge(f"The result has {size} bytes; at most {MAX_RESULT} are kept")
    return text


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    # What a float is short of its millisecond is far less than half a microsecond.
    return _to_the_millisecond(floor(seconds * 1_000.0 + 0.0005))


@lru_cache(maxsize=64)
def _to_the_millisecond(milliseconds: int) -> str:
    return f"{_to_the_second(milliseconds // 1_000)}.{milliseconds % 1_000:03d}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def retry_at(value: str, now: float) -> float | None:
    """The moment that a ``Retry-After`` names (RFC 9110 §10.2.3); None for one that is malformed.

    :param now: seconds since the epoch.
    """
    value = value.strip()
    if re.fullmatch("[0-9]{1,12}", value):
        return now + int(value)
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def accepted_json(task: Task, message: str) -> bytes:
    """The body of the 202: these four keys, in this order."""
    return encode(
        {
            "task_id": task.task_id,
            "name": task.name,
            "status": ACCEPTED,
            "message": message,
        }
    )


def task_json(task: Task, *, whole: bool) -> Raw:
    """A task as clients see it; not ``whole`` leaves out input, result and history, as in lists."""
    shape: dict[str, Any] = {
        "task_id": task.task_id,
        "name": task.name,
        "kind": task.kind,
        "input": _raw(task.input),
        "status": task.status,
        "progress": task.progress,
        "attempt": task.attempt,
        "retries": task.retries,
        "timeout": task.timeout,
        "cancel_requested": task.cancel_requested,
        "accepted_at": _moment(task.accepted_at),
        "run_at": _moment(task.run_at),
        "started_at": _moment(task.started_at),
        "finished_at": _moment(task.finished_at),
        "result": _raw(task.result),
        "error": task.error,
        "longest_step": task.longest_step,
        "traceparent": task.traceparent,
        "callback": task.callback,
        "history": _raw(task.history),
    }
    if not whole:
        for key in ("input", "result", "history"):
            del shape[key]
    return Raw(encode(shape))


def _raw(text: str | None) -> Raw | None:
    return None if text is None else Raw(text.encode())


NO_TASK: Final = "There is no such task"


def known_id(text: str) -> str:
    """A task's id out of a path.

    :raises NotFound: it cannot be one.
    """
    if not TASK_ID.fullmatch(text):
        raise NotFound(f"There is no task '{shown(text)}'")
    return text


def task_id_of(accepted: bytes) -> str:
    """The id in the body of a 202."""
    task_id: str = json.loads(accepted)["task_id"]
    return task_id


def batch_json(accepted: list[bytes]) -> bytes:
    """The body of a batch's 202, of the bodies of each."""
    return encode({"tasks": [Raw(one) for one in accepted]})


def list_json(tasks: list[Task], following: str | None) -> bytes:
    """A page of the list, and the cursor of the next one."""
    return encode({"tasks": [task_json(task, whole=False) for task in tasks], "next": following})


class Change(Struct, frozen=True, gc=False):
    """One entry of a task's history."""

    at: str
    status: Status
    attempt: int
    error: Error | None = None


def change_json(task: Task, at: float) -> str:
    """The history's entry for the state that a task has now."""
    if task.error is None:
        return entry_json(timestamp(at), task.status, task.attempt)
    return encode(Change(timestamp(at), task.status, task.attempt, task.error)).decode()


def entry_json(at: str, status: Status, attempt: int) -> str:
    """The same where nothing failed.

    :param at: as `timestamp` has it.
    """
    return f'{{"at":"{at}","status":"{status}","attempt":{attempt},"error":null}}'


def problem_json(problem: Problem) -> bytes:
    """The body of an error (RFC 9457), with ``error`` for older clients."""
    shape: dict[str, Any] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "error": problem.detail,
    }
    if problem.errors:
        shape["errors"] = problem.errors
    return encode(shape)


def progress_text(progress: Progress | None) -> str | None:
    """Progress as it is stored."""
    return None if progress is None else encode(progress).decode()


def error_text(error: Error | None) -> str | None:
    """An error as it is stored."""
    return None if error is None else encode(error).decode()


def read_input(task: Task) -> dict[str, Any]:
    """The input of a task, as it goes to the handler."""
    found: dict[str, Any] = _decode(task.input or "{}")
    return found


read_progress: Final = msgspec.json.Decoder(Progress).decode
read_error: Final = msgspec.json.Decoder(Error).decode
