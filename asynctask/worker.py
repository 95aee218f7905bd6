"""What runs in a process for handlers: one call after the other, until it is killed.

It speaks with its parent over a pipe that is its own alone, so that one that dies in the middle of a word
harms no other. What it says is made of Python's plain values, which the parent can read whatever they were.
"""

import ctypes
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Final, NamedTuple, cast

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure

from asynctask import forked, printed, pythonlog, wire
from asynctask.context import Context, Facts, Permanent, Retry
from asynctask.model import Progress
from asynctask.recorder import ATTEMPT, record
from asynctask.tracebacks import decisive, full_text_of, place_of, shortened, stack_of

PR_SET_PDEATHSIG: Final = 1
MAX_TEXT: Final = 10_000
"""Characters of an exception's text that are handed over."""


class Call(NamedTuple):
    """What the parent asks for; the function is pickled by its name."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    context_name: str | None
    facts: Facts


class Begun(NamedTuple):
    """The process is there, and leads a group of its own."""

    pid: int


class Reported(NamedTuple):
    """Progress."""

    step: int
    total: int
    message: str


class Logged(NamedTuple):
    """An event of the log."""

    level: str
    event: dict[str, Any]


class Returned(NamedTuple):
    """The end: a result, as JSON text."""

    text: str


class Raised(NamedTuple):
    """The end: an exception.

    :ivar kinds: module and qualified name of its class and of the classes above it.
    :ivar place: the file and the line.
    :ivar after: of a `Retry`.
    """

    kinds: list[tuple[str, str]]
    text: str
    traceback: str
    place: str = ""
    after: float | None = None


def serve_handlers(pipe: Connection, parent: int) -> None:
    """Run one call after the other; the process's main function."""
    die_with(parent)
    # What Ctrl-C and a service manager send to all processes is for the parent to decide upon.
    signal.signal(signal.SIGINT, forked.pass_over)
    signal.signal(signal.SIGTERM, forked.pass_over)
    # A group, so that a kill reaches the programs that a handler has started.
    os.setpgid(0, 0)
    mouth = _Mouth(pipe)
    forked.hold(mouth)
    mouth.say(Begun(os.getpid()))  # first: a program whose main module has begun a log is warned of ours
    globalLogBeginner.beginLoggingTo([cast(ILogObserver, mouth.log)], discardBuffer=True)
    printed.listen()
    while True:
        try:
            asked = pipe.recv_bytes()
        except EOFError:
            return
        mouth.end(_answer(asked, mouth))


class _Mouth:
    """What this process says, from any of its threads, but not what those say that it has forked."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = Lock()
        self._calls = 0

    def close_in_child(self) -> None:
        """See `asynctask.forked.Held`."""
        self._pipe.close()

    def say(self, word: Begun | Reported | Logged | Returned | Raised, call: int | None = None) -> None:
        """Say it, unless it is about a call that has ended."""
        if forked.is_child:
            return
        said = pickle.dumps(word)
        with self._lock:
            if call in (None, self._calls):
                self._pipe.send_bytes(said)

    def log(self, event: LogEvent) -> None:
        """See `twisted.logger.ILogObserver`."""
        if forked.is_child and "log_io" in event:
            print(event["log_io"], file=sys.__stdout__, flush=True)
        elif "log_level" in event:
            self.say(_logged(event))

    def reporter(self) -> Callable[[Progress], None]:
        """What tells the progress of the next call."""
        call = self._calls
        return lambda told: self.say(Reported(told.step, told.total, told.message), call)

    def end(self, word: Returned | Raised) -> None:
        """Say how the call ended, and nothing of it from now on."""
        said = pickle.dumps(word)
        with self._lock:
            self._calls += 1
            self._pipe.send_bytes(said)


def die_with(parent: int) -> None:
    """End at once when the parent does (``prctl(2)``, PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before that
        os._exit(1)


def _answer(asked: bytes, mouth: _Mouth) -> Returned | Raised:
    report = mouth.reporter()
    try:
        call: Call = pickle.loads(asked)  # noqa: S301  # from our own parent
        given = call.arguments
        if call.context_name is not None:
            given = given | {call.context_name: Context(call.facts, None, report)}
        pythonlog.listen()  # now that the handler's module is there, which may give `logging` a handler
        # Of its own: what it sets there is not for the next call.
        context = copy_context()
        context.run(ATTEMPT.set, record(call.facts.task_id, call.facts.attempt))
        context.run(pythonlog.TRACE.set, call.facts.traceparent)
        result = context.run(call.function, **given)
        if forked.is_child:
            forked.leave()
        return Returned(wire.dump_result(result))
    except BaseException as error:
        if forked.is_child:
            forked.leave(error)
        return _raised(error)


def _raised(error: BaseException) -> Raised:
    """An exception in words: many can be pickled but not unpickled, or the parent lacks their module."""
    one = decisive(error, Permanent, Retry)
    classes = type(error).__mro__ if one is error else (type(error), *type(one).__mro__)
    try:
        kinds = [(str(kind.__module__), str(kind.__qualname__)) for kind in classes]
    except BaseException:  # a metaclass may have any code of its own
        kinds = [(__name__, wire.name_of(error)), ("builtins", "Exception")]
    text = _text(full_text_of(error, Permanent, Retry))
    try:
        trace = _text("".join(traceback.format_exception(error)))
    except BaseException:
        trace = "(its traceback cannot be shown)"
    after = None
    if issubclass(type(one), Retry):
        with suppress(BaseException):
            after = float(one.after)  # type: ignore[attr-defined]
    place = place_of(one) or place_of(error)
    return Raised(kinds, text[:MAX_TEXT], shortened(trace), place, after)


def _text(text: str) -> str:
    """A string of the class itself, without lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _logged(event: LogEvent) -> Logged:
    """An event in words: only plain values, and a template that needs no others."""
    told = {key: pythonlog.plain(value) for key, value in event.items() if not key.startswith("log_")}
    template = event.get("log_format") or ""
    if "{" in template:
        template = _text(formatEvent(event)).replace("{", "{{").replace("}", "}}")
    told["log_format"] = template
    told["log_namespace"] = str(event.get("log_namespace", __name__))
    told["log_time"] = event["log_time"]
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        told["log_stack"] = _text(stack_of(failure))
    elif stack := event.get("log_stack"):
        told["log_stack"] = shortened(_text(str(stack)))
    level: LogLevel = event["log_level"]
    return Logged(level.name, told)
