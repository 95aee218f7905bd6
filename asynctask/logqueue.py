"""The log off the hot path: who logs leaves an event behind, and a thread writes many lines at a time."""

import atexit
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, sleep, time
from typing import Any, Final

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, globalLogPublisher
from zope.interface import implementer

from asynctask import forked, refusals
from asynctask.logs import Render, Tell, Value
from asynctask.model import Task

PAUSE: Final = 0.02
"""Seconds that lines wait for more: a tenth of what a reader of the log is promised, and under full load so
few lines that the processor's cache still has them."""

CHUNK: Final = 50
"""Lines that are made and written in one go, while other threads may have to wait: some 0.2 ms.

A fiftieth of what waits where that is more, up to some 4 ms: else a service that is busy would lose lines.
"""

BREATH: Final = 0.00005
"""Seconds between two of them, in which whoever waits for the interpreter gets it."""

MAX_WAITING: Final = 50_000
"""Lines that may wait: some 10 MB, and half a second's of a service that does nothing else."""

MAX_CHARACTERS: Final = 16_000_000
"""Of lines that wait with their tracebacks."""

LAST_WORDS: Final = 2.0
"""Seconds at the end: any disk takes what waits in less."""


OBSERVERS: Final[list[ILogObserver]] = getattr(globalLogPublisher, "_observers", [])
"""Who is told of every event, as it is at any moment; empty where Twisted does not tell."""


class Line:
    """What is logged by the thousand: its text and the names of its fields are said once, here.

    Where a `LogQueue` is all that listens, it gets the values as they are. Every other observer is told an
    event, as by any logger.

    :param text: without fields in it.
    :param long: whether a value may be so long a text that its characters are to be counted.
    """

    __slots__ = ("_in_trace", "_logger", "long", "names", "text")

    def __init__(self, logger: Logger, text: str, *names: str, long: bool = False) -> None:
        self._logger = logger
        self.text = text
        self.names = names
        self.long = long
        self._in_trace: Line | None = None

    def write(self, *values: Value, trace: str | None = None) -> None:
        """Log it, with a value for each name: another thread may make a line of them, later.

        :param trace: the ``traceparent`` of what it tells of, if it has one, as a last field.
        """
        if trace is not None:
            self._with_trace().write(*values, trace)
            return
        observers = OBSERVERS
        if len(observers) == 1 and type(observers[0]) is LogQueue:
            observers[0].take(self, values)
        else:
            self._logger.info(self.text, **self.fields(values))

    def _with_trace(self) -> "Line":
        if self._in_trace is None:
            self._in_trace = Line(self._logger, self.text, *self.names, "traceparent", long=self.long)
        return self._in_trace

    def fields(self, values: tuple[Value, ...]) -> dict[str, Any]:
        """The values by their names."""
        return dict(zip(self.names, values, strict=True))


def trace_of(task: Task) -> dict[str, Any]:
    """The field of the trace that it belongs to, if it belongs to one."""
    return {} if task.traceparent is None else {"traceparent": task.traceparent}


Waiting = tuple[None, str] | tuple[Line, float, tuple[Value, ...]]
"""A line; or of what it is to be made, and when that was."""


def _length(values: tuple[Value, ...]) -> int:
    """Characters of the texts among them."""
    return sum([len(value) for value in values if isinstance(value, str)])


@implementer(ILogObserver)
class LogQueue:
    """Writes each event as a line; from any thread.

    At once, until `start` and after `stop`: no thread may be there when a daemon forks, and what keeps a
    service from starting must be told before it ends. In between within 0.2 seconds, also while something
    holds the reactor. What cannot be written is counted, and the log says so as soon as it can.

    :param write: takes lines; raises OSError where it cannot.
    :param render: makes a line of an event, without its end.
    :param tell: makes many of the values of a `Line`; None where that needs an event.
    :param patience: seconds at the end, after which a reader who does not read is not waited for.
    :param pause: seconds that lines wait for more.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        render: Render,
        tell: Tell | None = None,
        patience: float = LAST_WORDS,
        pause: float = PAUSE,
    ) -> None:
        self._write = write
        self._render = render
        self._tell = tell or self._tell_by_event
        self._patience = patience
        self._pause = pause
        self._waiting: deque[Waiting] = deque()
        self._characters = 0
        self._lost = 0
        self._torn = False
        self._counting = threading.RLock()  # a signal handler may flush while its own thread counts
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._queues = False
        self._refusals = refusals.Refusals()

    def __call__(self, event: LogEvent) -> None:
        """See `twisted.logger.ILogObserver`."""
        if event.get("log_format") in refusals.FORMATS:
            refused = self._refusals.hear(event)
            if not refused:
                return
            event = _of_refused(refused)
        # Now, since what it tells of may be another by the time that it is written.
        self.pass_on(self._line(event))

    def take(self, line: Line, values: tuple[Value, ...]) -> None:
        """Write a line of these values."""
        if not self._queues:
            self.pass_on(self._made(line, (time(),), (values,))[0])
            return
        if line.long:
            self._put((line, time(), values), _length(values))
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((line, time(), values))
        else:
            self._lose(1)
        if not self._wake.is_set():
            self._wake.set()

    def pass_on(self, lines: str) -> None:
        """Write lines that another process has made, without the end of the last one."""
        self._put((None, lines), len(lines))
        self._wake.set()

    def start(self) -> None:
        """From now on keep lines for a moment."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="asynctask-log", daemon=True)
            thread.start()
            self._thread, self._queues = thread, True
            atexit.register(self.flush)
            forked.hold(self)

    def stop(self) -> None:
        """Write all that waits, and from now on each line at once."""
        if self._thread is not None:
            self._end.set()
            self._wake.set()
            self._thread.join(self._patience)
            if self._thread.is_alive():  # it hangs in a write
                self._patience = 0.0
            self._queues = False
            forked.let_go(self)
        self.flush()

    def close_in_child(self) -> None:
        """A child has no such thread, and writes its own lines at once; locks may have been held."""
        self._counting, self._writing, self._wake = threading.RLock(), threading.Lock(), threading.Event()
        self._waiting = deque()
        self._characters = self._lost = 0
        self._queues = False

    def flush(self) -> None:
        """Write all that waits; also from a signal handler."""
        until = monotonic() + self._patience
        while self._waiting and self._writing.acquire(timeout=max(0.0, until - monotonic())):
            try:
                self._write_some()
            finally:
                self._writing.release()

    def _work(self) -> None:
        """What the thread does."""
        while not self._end.is_set():
            self._wake.wait()
            self._end.wait(self._pause)
            self._wake.clear()
            while self._waiting:
                with self._writing:
                    self._write_some()
                with suppress(OSError):  # as it may under libfaketime
                    sleep(BREATH)

    def _put(self, waiting: Waiting, characters: int) -> None:
        with self._counting:
            full = self._characters >= MAX_CHARACTERS or len(self._waiting) >= MAX_WAITING
            if not full:
                self._characters += characters
                self._waiting.append(waiting)
        if full:
            self._lose(waiting[1].count("\n") + 1 if waiting[0] is None else 1)
        if not self._queues:
            self.flush()

    def _lose(self, lines: int) -> None:
        with self._counting:
            self._lost += lines

    def _write_some(self) -> None:
        waiting = self._waiting
        taken = [waiting.popleft() for _ in range(min(max(CHUNK, len(waiting) // CHUNK), len(waiting)))]
        of_a_kind: defaultdict[Line | None, list[Any]] = defaultdict(list)
        for one in taken:
            of_a_kind[one[0]].append(one)
        made = {line: iter(self._lines(line, some)) for line, some in of_a_kind.items()}
        self._write_lines([next(made[one[0]]) for one in taken])

    def _lines(self, line: Line | None, waiting: list[Any]) -> list[str]:
        """What is written of those that are lines already, or of those of one `Line`."""
        if line is None:
            lines = [text for _, text in waiting]
            characters = sum(map(len, lines))
        else:
            _, at, values = zip(*waiting, strict=True)
            lines = self._made(line, at, values)
            characters = sum(map(_length, values)) if line.long else 0
        if characters:
            with self._counting:
                self._characters -= characters
        return lines

    def _write_lines(self, lines: Sequence[str]) -> None:
        lost = self._lost
        told = [self._line(_of_lost(lost)), *lines] if lost else lines
        # A lone surrogate in somebody's error message must not cost the line.
        data = ("\n".join(told) + "\n").encode("utf-8", "backslashreplace")
        try:
            # What failed may have left half a line.
            self._write(b"\n" + data if self._torn else data)
        except (OSError, ValueError):
            self._torn = True
            self._lose(sum(text.count("\n") + 1 for text in lines))
        else:
            self._torn = False
            self._lose(-lost)

    def _line(self, event: LogEvent) -> str:
        try:
            return self._render(event)
        except Exception as error:
            return self._render(_of_unfit(event.get("log_format"), error))

    def _made(self, line: Line, at: Sequence[float], values: Sequence[tuple[Value, ...]]) -> list[str]:
        """Lines of these values; where one of them cannot be told, a line says so."""
        try:
            return self._tell(line, at, values)
        except Exception as error:
            if len(at) == 1:
                return [self._render(_of_unfit(line.text, error))]
            alone = [((moment,), (some,)) for moment, some in zip(at, values, strict=True)]
            return [made for one in alone for made in self._made(line, *one)]

    def _tell_by_event(
        self, line: Line, at: Sequence[float], values: Sequence[tuple[Value, ...]]
    ) -> list[str]:
        return [
            self._line(_event(line.text, LogLevel.info, moment, **line.fields(some)))
            for moment, some in zip(at, values, strict=True)
        ]


def _event(message: str, level: object, at: float, **fields: Any) -> LogEvent:
    return {"log_time": at, "log_level": level, "log_format": message, **fields}


def _of_lost(lines: int) -> LogEvent:
    return _event("Log lines were lost", LogLevel.warn, time(), lines=lines)


def _of_refused(connections: int) -> LogEvent:
    message = "Too many open files; connections are refused"
    return _event(message, LogLevel.warn, time(), connections=connections)


def _of_unfit(text: object, error: Exception) -> LogEvent:
    kind = type(error).__name__
    return _event("This event cannot be told", LogLevel.warn, time(), event=repr(text), error=kind)
