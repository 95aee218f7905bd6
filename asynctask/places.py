"""Where an attempt runs: on the reactor, in a thread, on the asyncio loop, or in a process."""

from collections.abc import Callable
from contextvars import copy_context
from inspect import iscoroutine
from typing import Any, Final

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime

from asynctask import wire
from asynctask.loop import AsyncioLoop
from asynctask.model import Progress, Task
from asynctask.processes import Processes
from asynctask.pythonlog import TRACE
from asynctask.recorder import ATTEMPT, FlightRecorder
from asynctask.registry import Kind
from asynctask.runs import Elsewhere, Reporter, Run, Watcher
from asynctask.steps import Stepped
from asynctask.threads import Threads
from asynctask.tracebacks import caught

MAX_ABANDONED: Final = 32
"""Threads that may hang: each keeps its stack and whatever it holds, and none can be stopped."""


class Places:
    """Starts handlers where they belong.

    :param clock: what handlers on the reactor wait by.
    :param from_thread: runs a function in the reactor's thread.
    """

    def __init__(
        self,
        recorder: FlightRecorder,
        clock: IReactorTime,
        from_thread: Callable[..., object],
        threads: int,
        processes: int,
    ) -> None:
        self._recorder = recorder
        self._clock = clock
        self._from_thread = from_thread
        self._threads = Threads(threads, from_thread, clock.seconds)
        self._loop = AsyncioLoop(from_thread, clock.seconds, recorder)
        self._processes = Processes(processes, from_thread, clock.seconds)
        self._start = {
            "thread": self._in_thread,
            "asyncio": self._on_loop,
            "process": self._in_process,
        }

    @property
    def abandoned(self) -> int:
        """How many threads were given up and still run, those of asyncio loops included."""
        return self._threads.abandoned + self._loop.abandoned + self._loop.hanging

    def closed(self, place: str) -> bool:
        """Whether so many threads hang there that no more work should be put into any."""
        if place == "asyncio":
            return self._loop.full_of_abandoned or self._loop.hanging >= MAX_ABANDONED
        return place == "thread" and self._threads.abandoned >= MAX_ABANDONED

    def start(self, task: Task, kind: Kind, deadline: float | None, watcher: Watcher) -> Run:
        """Start a handler; it may have ended when this returns.

        :param deadline: when it must have ended, seconds since the epoch; None for never.
        """
        if kind.place == "reactor":
            return self._on_reactor(Stepped(task, deadline, watcher), kind)
        run = Elsewhere(task, deadline, watcher)
        try:
            self._start[kind.place](run, kind)
        except BaseException:  # what it is given may have code of its own
            watcher.raised(caught())
        return run

    def stop(self) -> None:
        """Let go of threads and processes."""
        self._threads.stop()
        self._loop.stop()
        self._processes.stop()

    def _on_reactor(self, run: Stepped, kind: Kind) -> Run:
        before = self._recorder.swap(run.record)  # what it is given may have code of its own
        try:
            given = run.with_context(kind, self._clock, run.reporter(self._from_thread))
            steps = kind.steps(**given) if kind.is_stepped else _plain(kind.steps, given)
        except BaseException:
            self._recorder.swap(before)
            run.watcher.raised(caught())
        else:
            self._recorder.swap(before)
            run.begin(steps, self._recorder, self._clock)
        return run

    def _in_thread(self, run: Elsewhere, kind: Kind) -> None:
        given = run.with_context(kind, None, self._reporter(run, kind))
        context = copy_context()  # as on the reactor: what a handler sets there is not for the next one

        def call() -> str:
            slot = self._recorder.hold(run.record)
            context.run(ATTEMPT.set, run.record)
            context.run(TRACE.set, run.traceparent)
            try:
                return context.run(lambda: wire.dump_result(kind.function(**given)))
            finally:
                self._recorder.let_go(slot)

        run.follow(self._threads.run(call))

    def _on_loop(self, run: Elsewhere, kind: Kind) -> None:
        given = run.with_context(kind, None, self._reporter(run, kind))

        async def call() -> str:
            TRACE.set(run.traceparent)
            return wire.dump_result(await kind.function(**given))

        run.follow(self._loop.run(call, run.record))

    def _reporter(self, run: Run, kind: Kind) -> Callable[[Progress], None]:
        """Takes progress in another thread, and tells it in the reactor's."""
        report = run.watcher.progressed
        return report if kind.input.context is None else Reporter(self._from_thread, run.watcher)

    def _in_process(self, run: Elsewhere, kind: Kind) -> None:
        given = kind.input.arguments(wire.read_input(run.task))
        facts, report = run.facts, run.watcher.progressed
        run.follow(self._processes.run(kind.function, given, kind.input.context, facts, report))


async def _plain(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """A plain function on the reactor, which may return a Deferred, or a coroutine to take the steps of."""
    result = function(**given)
    return await (result if iscoroutine(result) else maybeDeferred(lambda: result))
