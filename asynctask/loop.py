"""One asyncio loop in a thread of its own, under any reactor."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from selectors import DefaultSelector
from socket import socketpair
from threading import Lock, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask import forked
from asynctask.patient import Patient
from asynctask.recorder import ASYNCIO, ATTEMPT, NOBODY, FlightRecorder
from asynctask.steps import WrongPlaceError, leave_with
from asynctask.threads import NotStartedError, Threads, Work
from asynctask.tracebacks import caught

log = Logger(namespace="asynctask.loop")

Start = Callable[[], Coroutine[Any, Any, Any]]

MAX_HELD: Final = 8
"""Loops that may be held at once: each keeps its thread and what waits in it, and none can be stopped."""

EXECUTOR: Final = 32
"""Threads for what handlers give to `asyncio.to_thread`, as asyncio has at most itself."""

UNWIND: Final = 1.0
"""Seconds that a stop leaves to what still runs; the exit of the process does not wait for them."""

GIVE_UP_AFTER: Final = 5.0
"""Seconds until a thread is given up in which `asyncio.to_thread` does what nobody waits for any more: as
long as a handler may take to its end."""

DEFERRED: Final = (
    'This handler awaits a Deferred, and runs on asyncio\'s loop: declare it with @task(place="reactor")'
)


class AsyncioLoop:
    """Runs coroutines that await what asyncio has.

    The loop starts with the first of them, in a daemon thread. While a coroutine that was given up holds
    it, those that come have another.

    :param from_thread: ``reactor.callFromThread``.
    :param seconds: the time, of any clock.
    """

    def __init__(
        self,
        from_thread: Callable[..., object],
        seconds: Callable[[], float] = monotonic,
        recorder: FlightRecorder | None = None,
    ) -> None:
        self.seconds = seconds
        self.from_thread = from_thread
        self._recorder = recorder or FlightRecorder()
        self._lock = Lock()
        self._thread: _LoopThread | None = None
        self._stopped = False
        self._threads: list[_LoopThread] = []
        self._held: set[_LoopThread] = set()

    @property
    def abandoned(self) -> int:
        """How many loops were left to coroutines that hold them."""
        return len(self._held)

    @property
    def full_of_abandoned(self) -> bool:
        """Whether `MAX_HELD` loops are held: one more that is held is not replaced."""
        return self.abandoned >= MAX_HELD

    @property
    def hanging(self) -> int:
        """How many threads of `asyncio.to_thread` were given up and still run."""
        with self._lock:
            return sum(thread.executor.abandoned for thread in self._threads)

    def run(self, start: Start, record: bytes) -> "LoopWork":
        """Run the coroutine that ``start`` gives; it is called in the loop's thread.

        :param record: whose it is, as the flight recorder names it.
        :raises NotStartedError: the system gives no thread for the loop.
        """
        with self._lock:
            if self._thread is None:
                slot = self._recorder.hold(NOBODY) if self._threads else ASYNCIO
                try:
                    self._thread = _LoopThread(self._recorder, slot, self._ended)
                except (OSError, RuntimeError) as error:
                    if slot != ASYNCIO:
                        self._recorder.let_go(slot)
                    raise NotStartedError(str(error)) from error
                self._threads.append(self._thread)
            run = LoopWork(start, record, self._thread, self)
            self._thread.call(run.begin)
        return run

    def leave(self, thread: "_LoopThread") -> None:
        """Somebody holds this loop: until it is free again, what comes gets another one."""
        with self._lock:
            if thread is not self._thread or self.full_of_abandoned:
                return
            self._thread = None
            self._held.add(thread)
        if self.full_of_abandoned:
            log.warn("Too many tasks hold asyncio loops; those that come are refused until one lets go")
        else:
            log.warn("A task holds the asyncio loop; those that come get another one")
        thread.call(self._freed, thread)

    def _freed(self, thread: "_LoopThread") -> None:
        """It goes on, and is used again: what handlers share may be bound to it. In its thread."""
        with self._lock:
            self._held.discard(thread)
            if self._stopped:
                return
            others = [self._thread] if self._thread is not None else []
            used = min([thread, *others], key=self._threads.index)
            for other in {thread, *others} - {used}:
                other.call(other.end_soon)
            self._thread = used

    def _ended(self, thread: "_LoopThread") -> None:
        with self._lock:
            self._threads.remove(thread)

    def stop(self) -> None:
        """Cancel what still runs, and let the threads end."""
        with self._lock:
            threads, self._thread, self._stopped = list(self._threads), None, True
        for thread in threads:
            with suppress(RuntimeError):  # it has ended meanwhile
                thread.call(thread.unwind)


class _Given(Future[Any]):
    """What `asyncio.to_thread` waits for."""

    work: Work | None = None

    def cancel(self) -> bool:
        """See `concurrent.futures.Future`; in the loop's thread. What runs cannot be stopped: if it does
        not end soon, another thread takes its thread's place."""
        if super().cancel():
            return True
        if self.work is not None:
            asyncio.get_running_loop().call_later(GIVE_UP_AFTER, self.work.abandon)
        return False


class _Executor(ThreadPoolExecutor):
    """Runs what handlers give to `asyncio.to_thread`, in threads that the exit of the process does not wait
    for. While they work for a task, the flight recorder names it."""

    def __init__(self, recorder: FlightRecorder) -> None:
        super().__init__(EXECUTOR)
        self._pool = Threads(EXECUTOR, lambda _end, _outcome: None)
        self._recorder = recorder

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """See `concurrent.futures.Executor`."""
        future = _Given()
        asks = ATTEMPT.get()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                slot = None if asks == NOBODY else self._recorder.hold(asks)
                try:
                    result = fn(*args, **kwargs)
                except BaseException as error:
                    self._recorder.let_go(slot)
                    future.set_exception(error)
                else:
                    self._recorder.let_go(slot)
                    future.set_result(result)

        try:
            future.work = self._pool.run(call)
        except NotStartedError as error:  # of a handler that has begun
            raise RuntimeError(str(error)) from error
        return future

    @property
    def abandoned(self) -> int:
        """How many threads were given up and still run."""
        return self._pool.abandoned

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor`; it waits for nothing."""
        self._pool.stop()
        super().shutdown(wait, cancel_futures=cancel_futures)


def _look_for_files() -> None:
    """:raises OSError: too few are left for a loop, which would be half made, and complain at its end."""
    with DefaultSelector():
        for end in socketpair():
            end.close()


class _LoopThread:
    """A loop, its thread, and the tasks in it: the loop itself holds them only weakly.

    :param slot: where the flight recorder names what it steps; None where there is no room.
    """

    def __init__(
        self, recorder: FlightRecorder, slot: int | None, ended: Callable[["_LoopThread"], None]
    ) -> None:
        self._slot = slot
        self._recorder = recorder
        self._tell_end = ended
        _look_for_files()
        self.loop = asyncio.new_event_loop()
        self.executor = _Executor(recorder)
        self.loop.set_default_executor(self.executor)
        self.tasks: set[asyncio.Task[Any]] = set()
        self._ending = False
        self._unwinding: asyncio.Task[None] | None = None
        self._stopped = False
        self.call = self.loop.call_soon_threadsafe
        try:
            Thread(target=self._work, name="asynctask-asyncio", daemon=True).start()
        except RuntimeError:
            self.loop.close()
            raise

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopped:
            try:
                self.loop.run_forever()
            except BaseException:
                # A task of a handler's own, with SystemExit: asyncio lets that out of the loop.
                log.failure("A task in the asyncio loop raised what ends a process, and went on")
        self.loop.close()
        self._tell_end(self)
        if self._slot != ASYNCIO:
            self._recorder.let_go(self._slot)

    def swap(self, record: bytes) -> bytes:
        """Name whom it steps from now on, and tell who was named before."""
        return NOBODY if self._slot is None else self._recorder.swap_in(self._slot, record)

    def end_soon(self) -> None:
        """End the loop when the last of its tasks has ended; in its thread."""
        self._ending = True
        if not self.tasks and self._unwinding is None:
            self.unwind()

    def ended(self, task: asyncio.Task[Any]) -> None:
        """One of its tasks has; in its thread."""
        self.tasks.discard(task)
        if self._ending:
            self.end_soon()

    def unwind(self) -> None:
        """End the loop, with a moment for what still runs; in its thread."""
        self._unwinding = self.loop.create_task(self._unwind())

    async def _unwind(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=UNWIND)
        await self.loop.shutdown_asyncgens()
        self._stopped = True
        self.loop.stop()


class _Steps(Generator[Any, Any, Any]):
    """The steps of a coroutine, which leave a trace; it need not be Python's own.

    As an iterator that has all a generator has, it is what ``await`` passes steps and errors on to.
    """

    def __init__(self, steps: Coroutine[Any, Any, Any], run: "LoopWork", record: bytes) -> None:
        self._steps = steps
        self._run = run
        self._record = record

    def send(self, value: Any) -> Any:
        """Take the next step with what was waited for."""
        return self._step(self._steps.send, value)

    def throw(self, kind: Any, value: Any = None, _trace: TracebackType | None = None) -> Any:
        """Take the next step with the error that was waited for."""
        try:
            return self._step(self._steps.throw, kind if value is None else value)
        finally:  # where it comes out again, it has this frame
            del kind, value

    def _step(self, take: Callable[[Any], Any], value: Any) -> Any:
        ATTEMPT.set(self._record)
        self._run.stepping = True
        before = self._run.thread.swap(self._record)
        try:
            return take(value)
        except BaseException as error:
            if forked.is_child:
                leave_with(error)
            raise
        finally:
            if forked.is_child:
                forked.leave()
            self._run.thread.swap(before)
            self._run.stepping = False
            del value

    def __await__(self) -> Generator[Any, Any, Any]:
        return self


class LoopWork:
    """One coroutine on a loop; see `asynctask.runs.AtWork`.

    :ivar deferred: fires in the reactor's thread when the coroutine has really ended. A cancel arrives at
        its current ``await`` as `asyncio.CancelledError`: if it ends by that, this fails with Twisted's
        `CancelledError`, and else has what it returned or raised.
    :ivar ended_at: when that was, which the reactor may hear later.
    :ivar stepping: whether it is taking a step now.
    :ivar thread: in which its loop runs.
    """

    def __init__(self, start: Start, record: bytes, thread: _LoopThread, loop: AsyncioLoop) -> None:
        self.deferred = Patient(self._ask)
        self.ended_at: float | None = None
        self._start: Start | None = start
        self._record = record
        self.thread = thread
        self._loop = loop
        self.stepping = self._asked = self._heard = False
        self._task: asyncio.Task[Any] | None = None

    def abandon(self) -> None:
        """Let go of it; and of its loop too, where it was asked to end and it, or something else, holds
        that."""
        if self._asked and (self.stepping or not self._heard):
            self._loop.leave(self.thread)

    def begin(self) -> None:
        """Take the first step soon; in the loop's thread."""
        self._task = self.thread.loop.create_task(self._outcome())
        self.thread.tasks.add(self._task)
        self._task.add_done_callback(self._ended)

    def _ask(self) -> None:
        self._asked = True
        with suppress(RuntimeError):  # the loop was stopped, is closed, and has cancelled it
            self.thread.call(self._cancel)

    def _cancel(self) -> None:
        self._heard = True
        if self._task is not None:
            self._task.cancel()

    async def _outcome(self) -> Any:
        """What it returns or raises, SystemExit too, which would end the loop."""
        # Not kept: it knows whose work this is, and that has this.
        start, self._start = self._start, None
        assert start is not None
        try:
            return await _Steps(start(), self, self._record)
        except asyncio.CancelledError:
            raise
        except RuntimeError as error:
            if str(error).startswith("Task got bad yield: <Deferred"):
                return Failure(WrongPlaceError(DEFERRED))
            return caught()
        except BaseException:
            return caught()
        finally:
            self.ended_at = self._loop.seconds()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._task = self._start = None
        self.thread.ended(task)
        outcome = Failure(CancelledError()) if task.cancelled() else task.result()
        self._loop.from_thread(self.deferred.end, outcome)
