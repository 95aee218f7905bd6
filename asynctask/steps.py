"""A handler's steps on a loop: each is named in the flight recorder and timed."""

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from inspect import iscoroutine
from threading import get_ident
from time import perf_counter
from typing import Any, Final, NoReturn

from twisted.internet import defer
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python import threadable
from twisted.python.failure import Failure

from asynctask import forked, wire
from asynctask.model import Progress
from asynctask.pythonlog import TRACE
from asynctask.recorder import NOBODY, FlightRecorder, record
from asynctask.runs import Reporter, Run
from asynctask.tracebacks import caught, thrown

Steps = Generator[Any, Any, Any] | Coroutine[Any, Any, Any]

NOTHING: Final = wire.dump_result(None)

WRONG_PLACE: Final = (
    "This handler awaits asyncio code, and runs on Twisted's reactor: declare it with "
    '@task(place="asyncio")'
)

NO_RUNNING_LOOP: Final = ("no running event loop", "'NoneType' object has no attribute 'create_future'")
"""What asyncio says there; the latter its locks, events and queues."""

NO_LOOP: Final = ("NoEventLoopError", "AsyncLibraryNotFoundError")
"""What anyio and sniffio raise, and so httpx, where they find no loop that they know."""


class WrongPlaceError(Exception):
    """A coroutine on the reactor awaits what only asyncio can wait for."""


class _Adding:
    """What a run waits for while it is not known whether it has to wait."""


_ADDING: Final = _Adding()


class _Again(Deferred[Any]):
    """What one waits for whom another's step has woken: the end of that step.

    To all others, what was waited for has fired already, so that a cancel of it does nothing.

    :ivar is_cancelled: whether the handler is to be cancelled at its next ``await``.
    """

    is_cancelled = False

    def cancel(self) -> None:
        """Nothing."""


class Stepped(Run):
    """A handler on the reactor, taken from step to step: a coroutine, or a generator of inlineCallbacks.

    Like `twisted.internet.defer.inlineCallbacks`, in a tenth of the objects: a million of them may wait.
    """

    __slots__ = ("_clock", "_context", "_from_thread", "_recorder", "_reporter", "_steps", "_waits")

    _steps: Steps | None
    _from_thread: Callable[..., object]
    _recorder: FlightRecorder
    _reporter: Reporter | None
    _clock: IReactorTime
    _context: Context
    _waits: Any

    def reporter(self, from_thread: Callable[..., object]) -> Callable[[Progress], None]:
        """What takes its progress, also from the threads that it waits for.

        :param from_thread: runs a function in the reactor's thread.
        """
        self._from_thread = from_thread
        self._reporter = None
        return self._report

    def _report(self, progress: Progress) -> None:
        if threadable.ioThread in (get_ident(), None):  # there is none before the reactor runs
            self.watcher.progressed(progress)
            return
        if self._reporter is None:  # two threads at once: one of them has told nothing yet
            self._reporter = Reporter(self._from_thread, self.watcher)
        self._reporter(progress)

    def begin(self, steps: Steps, recorder: FlightRecorder, clock: IReactorTime) -> None:
        """Take the first step, and all that need no waiting."""
        self._steps = steps
        self._recorder = recorder
        self._clock = clock
        self._context = copy_context()
        if self.task.traceparent is not None:
            self._context.run(TRACE.set, self.task.traceparent)
        self._waits = None
        self(None)

    def cancel(self) -> None:
        """Ask it to end, at its ``await``."""
        self.cancelled = True
        if isinstance(self._waits, _Again):
            self._waits.is_cancelled = True
        elif isinstance(self._waits, Deferred):
            self._waits.cancel()

    def __call__(self, result: Any) -> Any:
        """What was waited for is there: take steps, the first with it, until something is waited for."""
        if self._waits is _ADDING:
            self._waits = (result,)
            return None
        recorder, watcher, steps = self._recorder, self.watcher, self._steps
        if recorder.at_work is not NOBODY:
            return self._put_off(result)
        self._waits = None
        task = self.task
        named = record(task.task_id, task.attempt)
        assert steps is not None
        while True:
            recorder.enter(named)
            began = perf_counter()
            try:
                try:
                    if result is not None and isinstance(result, Failure):  # mostly it is nothing
                        waits_for = self._context.run(steps.throw, thrown(result))
                    else:
                        waits_for = self._context.run(steps.send, result)
                except BaseException as error:
                    if forked.is_child:
                        leave_with(error)
                    if type(error) is not StopIteration and _wants_asyncio(error):
                        raise WrongPlaceError(WRONG_PLACE) from error
                    raise
                finally:
                    if forked.is_child:
                        forked.leave()
                    recorder.leave()
                    watcher.took(perf_counter() - began)
            except (StopIteration, defer._DefGen_Return) as end:
                returned = end.value
                break
            except BaseException:
                self._end(caught())
                return None
            if not isinstance(waits_for, Deferred):
                # What only a loop of asyncio understands, ``sleep(0)`` among it.
                if isinstance(steps, Coroutine) or hasattr(waits_for, "_asyncio_future_blocking"):
                    self._end(Failure(WrongPlaceError(WRONG_PLACE)))
                    return None
                if not iscoroutine(waits_for):  # inlineCallbacks may yield whatever is there already
                    result = waits_for
                    continue
                waits_for = ensureDeferred(waits_for)
            self._waits = _ADDING
            waits_for.addBoth(self)
            if self._waits is _ADDING:
                self._waits = waits_for
                return None
            (result,), self._waits = self._waits, None
        # Not in there: an exception that its result causes would be told with that, whatever it is.
        self._returned(returned)
        return None

    def _put_off(self, result: Any) -> Deferred[Any]:
        """Go on after the step of another task that has brought this.

        Within it, the time would count as that task's, and of many that hand on one lock each would be
        deeper than the one before, until Python takes no more.
        """
        again = _Again()
        if self._waits is None:  # it begins
            again.addBoth(self)
        else:  # before who else waits for the same, which no public method does
            self._waits._callbacks.insert(0, ((self, (), {}), (self, (), {})))
        self._waits = again
        self._clock.callLater(0, self._wake, again, result)
        return again

    def _wake(self, again: _Again, result: Any) -> None:
        if self._recorder.at_work is not NOBODY:  # a step runs the reactor
            self._clock.callLater(0, self._wake, again, result)
            return
        # Before any cancel: what it was given may be a lock, which has to be released.
        again.callback(result)
        if again.is_cancelled and isinstance(self._waits, Deferred):
            self._waits.cancel()

    def _returned(self, result: Any) -> None:
        try:
            text = NOTHING if result is None else self._written(result)
        except BaseException:
            self._end(caught())
        else:
            self._steps = None
            self.watcher.returned(text)

    def _written(self, result: Any) -> str:
        """Its result is its own step too: it may be large, and have code of its own."""
        self._recorder.enter(self.record)
        began = perf_counter()
        try:
            return wire.dump_result(result)
        finally:
            self._recorder.leave()
            self.watcher.took(perf_counter() - began)

    def _end(self, failure: Failure) -> None:
        steps, self._steps = self._steps, None
        assert steps is not None
        with suppress(BaseException):  # a handler that waits in its ``finally`` too
            steps.close()
        self.watcher.raised(failure)


def leave_with(error: BaseException) -> NoReturn:
    """The step has ended so in a child that it has forked."""
    forked.leave(None if isinstance(error, StopIteration | defer._DefGen_Return) else error)


def _wants_asyncio(error: BaseException) -> bool:
    """Whether asyncio was asked for where it does not run, be it by a library with words of its own."""
    if type(error) in (RuntimeError, AttributeError):
        return str(error) in NO_RUNNING_LOOP
    return wire.name_of(error) in NO_LOOP
