"""What handlers say to Python's `logging`, heard in Twisted's log.

Where nobody has given the root logger a handler, `logging` writes to standard error, which is nowhere for a
service in the background, and knows neither levels nor tasks there.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from twisted.logger import Logger, LogLevel
from twisted.python.threadable import isInIOThread

from asynctask.recorder import ATTEMPT, task_named

Stepped = Callable[[], str]
"""The id of the task that a reactor is stepping, or nothing."""

LEVELS: Final = (
    (logging.CRITICAL, LogLevel.critical),
    (logging.ERROR, LogLevel.error),
    (logging.WARNING, LogLevel.warn),
    (logging.INFO, LogLevel.info),
)

_PLAIN: Final = (str, int, float, bool, type(None))

TRACE: Final[ContextVar[str | None]] = ContextVar("asynctask.traceparent", default=None)
"""The trace that a handler's code belongs to, where its task has one."""


class _Ear(logging.Handler):
    """What `logging` falls back on where there is no handler, while somebody listens."""

    def __init__(self) -> None:
        super().__init__()
        self.listening: list[Stepped] = []
        self.pid = os.getpid()
        self._hears = False
        self.before: logging.Handler | None = None
        self.configure = logging.basicConfig
        self.pass_over = logging.NullHandler.handle

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`; no two threads are in here at once."""
        if os.getpid() != self.pid:  # a child that a handler has forked is no part of the service
            if self.before is not None and record.levelno >= self.before.level:
                self.before.handle(record)
            return
        if self._hears:  # Twisted's log is itself passed on to `logging`
            return
        try:
            fields = self._fields(record)
            self._hears = True
            Logger(namespace=record.name).emit(_level(record.levelno), "{log_text}", **fields)
        except Exception:
            self.handleError(record)
        finally:
            self._hears = False

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        extra = {key: plain(value) for key, value in vars(record).items() if _is_extra(key)}
        fields: dict[str, Any] = extra | {"log_text": record.getMessage(), "logger": record.name}
        if task_id := self._task_id():
            fields["task_id"] = task_id
        if (trace := TRACE.get()) is not None:
            fields["traceparent"] = trace
        if record.exc_info and record.exc_info[1] is not None:
            fields["log_stack"] = _FORMATTER.formatException(record.exc_info)
        elif record.stack_info:
            fields["log_stack"] = record.stack_info
        return fields

    def _task_id(self) -> str:
        """The task that this is said in, or nothing."""
        named = [task_named(ATTEMPT.get())]
        if isInIOThread():
            named += [stepped() for stepped in self.listening]
        return next(filter(None, named), "")


_HEARD: Final = "asynctask_heard"
_KNOWN: Final = {
    *vars(logging.makeLogRecord({})),
    *("message", "asctime", _HEARD),
    # Twisted's own, for its logger and its older observers.
    *("self", "level", "format", "time", "system", "isError", "failure", "why"),
}


def _is_extra(key: object) -> bool:
    """Whether ``extra`` has brought it to a record, and it can be a field."""
    return isinstance(key, str) and key not in _KNOWN and not key.startswith("log_")


def plain(value: Any) -> Any:
    """A value of the log that any process can read: text in place of objects."""
    if type(value) in _PLAIN:
        return value
    try:
        return str(value).encode("utf-8", "backslashreplace").decode()
    except BaseException:
        return f"({type(value).__name__})"


_FORMATTER: Final = logging.Formatter()
_ear: Final = _Ear()


def _hear_if_nobody_does(null: logging.NullHandler, record: logging.LogRecord) -> Any:
    """In place of `logging.NullHandler.handle`: a library gives it to its logger to be silent where nobody
    wants to hear it, and it counts as a handler."""
    if not (hasattr(record, _HEARD) or _is_for_another(record)):
        setattr(record, _HEARD, True)  # another one may be above
        _ear.handle(record)
    return _ear.pass_over(null, record)


def _is_for_another(record: logging.LogRecord) -> bool:
    """Whether somebody's handler has it, of its logger or of one above."""
    # Not by `getLogger`, whose lock another thread may hold while it waits for ours.
    logger: Any = logging.root.manager.loggerDict.get(record.name, logging.root)
    while isinstance(logger, logging.Logger):
        if not all(isinstance(one, logging.NullHandler) for one in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _configure_if_asked(**settings: Any) -> None:
    """`logging.basicConfig`, but for the call that ``logging.warning`` makes by itself: the handler that it
    adds would have what every logger says from then on."""
    if sys._getframe(1).f_globals is not vars(logging):
        _ear.configure(**settings)


def nobody() -> str:
    """Where no reactor steps tasks."""
    return ""


def listen(stepped: Stepped = nobody) -> None:
    """Hear what is said to `logging` from now on, unless the root logger has a handler of somebody's."""
    if logging.lastResort is not _ear:
        _ear.pid, _ear.before = os.getpid(), logging.lastResort
        logging.lastResort = _ear
    if logging.basicConfig is not _configure_if_asked:
        _ear.configure, logging.basicConfig = logging.basicConfig, _configure_if_asked
    if logging.NullHandler.handle is not _hear_if_nobody_does:
        _ear.pass_over = logging.NullHandler.handle
        logging.NullHandler.handle = _hear_if_nobody_does  # type: ignore[method-assign, assignment]
    if stepped not in _ear.listening:
        _ear.listening.append(stepped)


def stop_listening(stepped: Stepped = nobody) -> None:
    """Hear nothing any more, once nobody listens."""
    if stepped in _ear.listening:
        _ear.listening.remove(stepped)
        if _ear.listening:
            return
        if logging.lastResort is _ear:
            logging.lastResort = _ear.before
        if logging.basicConfig is _configure_if_asked:
            logging.basicConfig = _ear.configure
        if logging.NullHandler.handle is _hear_if_nobody_does:
            logging.NullHandler.handle = _ear.pass_over  # type: ignore[method-assign]


def _level(number: int) -> Any:
    """The highest that this reaches."""
    return next((level for least, level in LEVELS if number >= least), LogLevel.debug)
