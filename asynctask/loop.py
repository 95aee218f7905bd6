"""One asyncio loop in a thread of its own, under any reactor."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask.patient import Patient
from asynctask.threads import Threads

log = Logger(namespace="asynctask.loop")

Start = Callable[[], Coroutine[Any, Any, Any]]

UNWIND: Final = 1.0
"""Seconds that a stop leaves to what still runs; the exit of the process does not wait for them."""


class AsyncioLoop:
    """Runs coroutines that await what asyncio has.

    The loop starts with the first of them, in a daemon thread.

    :param from_thread: ``reactor.callFromThread``.
    """

    def __init__(self, from_thread: Callable[..., object]) -> None:
        self._from_thread = from_thread
        self._lock = Lock()
        self._thread: _LoopThread | None = None

    def run(self, start: Start) -> Patient:
        """Run the coroutine that ``start`` gives; it is called in the loop's thread.

        :returns: fires in the reactor's thread when the coroutine has really ended. A cancel arrives at its
            current ``await`` as `asyncio.CancelledError`: if it ends by that, this fails with Twisted's
            `CancelledError`, and else has what it returned or raised.
        """
        with self._lock:
            if self._thread is None:
                self._thread = _LoopThread()
            thread = self._thread
        run = _Run(start, thread, self._from_thread)
        thread.call(run.begin)
        return run.deferred

    def stop(self) -> None:
        """Cancel what still runs, and let the thread end."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.call(thread.unwind)


class _Executor(ThreadPoolExecutor):
    """Runs what handlers give to `asyncio.to_thread`, in threads that the exit of the process does not wait
    for."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = Threads(self._max_workers, lambda _end, _outcome: None)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """See `concurrent.futures.Executor`."""
        future: Future[Any] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        self._pool.run(call)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor`; it waits for nothing."""
        self._pool.stop()
        super().shutdown(wait, cancel_futures=cancel_futures)


class _LoopThread:
    """A loop, its thread, and the tasks in it: the loop itself holds them only weakly."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Executor())
        self.tasks: set[asyncio.Task[Any]] = set()
        self._unwinding: asyncio.Task[None] | None = None
        self._stopped = False
        self.call = self.loop.call_soon_threadsafe
        Thread(target=self._work, name="asynctask-asyncio", daemon=True).start()

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopped:
            try:
                self.loop.run_forever()
            except BaseException:
                # A task of a handler's own, with SystemExit: asyncio lets that out of the loop.
                log.failure("A task in the asyncio loop raised what ends a process, and went on")
        self.loop.close()

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


class _Driven(Generator[Any, Any, Any]):
    """Lets a coroutine be awaited step by step: not every one is Python's own.

    As an iterator that has all a generator has, it is what ``await`` passes steps and errors on to.
    """

    def __init__(self, steps: Coroutine[Any, Any, Any]) -> None:
        self._steps = steps

    def send(self, value: Any) -> Any:
        """Take the next step."""
        return self._steps.send(value)

    def throw(self, kind: Any, value: Any = None, _trace: TracebackType | None = None) -> Any:
        """Take the next step, with an error."""
        return self._steps.throw(kind if value is None else value)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self


class _Run:
    """One coroutine, and the Deferred that its end fires."""

    def __init__(self, start: Start, thread: _LoopThread, from_thread: Callable[..., object]) -> None:
        self.deferred = Patient(self._ask)
        self._start = start
        self._thread = thread
        self._from_thread = from_thread
        self._task: asyncio.Task[Any] | None = None

    def begin(self) -> None:
        """Take the first step soon; in the loop's thread."""
        self._task = self._thread.loop.create_task(self._outcome())
        self._thread.tasks.add(self._task)
        self._task.add_done_callback(self._ended)

    def _ask(self) -> None:
        with suppress(RuntimeError):  # the loop was stopped, is closed, and has cancelled it
            self._thread.call(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _outcome(self) -> Any:
        """What it returns or raises, SystemExit too, which would end the loop."""
        try:
            return await _Driven(self._start())
        except asyncio.CancelledError:
            raise
        except BaseException:
            return Failure()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._thread.tasks.discard(task)
        outcome = Failure(CancelledError()) if task.cancelled() else task.result()
        self._from_thread(self.deferred.end, outcome)
