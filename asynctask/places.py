"""Where an attempt runs: on the reactor, in a thread, on the asyncio loop, or in a process."""

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime

from asynctask import wire
from asynctask.context import Context, Facts
from asynctask.loop import AsyncioLoop
from asynctask.model import Progress, Task
from asynctask.processes import Processes
from asynctask.recorder import ASYNCIO, REACTOR, FlightRecorder, record
from asynctask.registry import Kind
from asynctask.steps import Recorded
from asynctask.threads import Threads

MAX_ABANDONED: Final = 32
"""Threads that may hang: each keeps its stack and whatever it holds, and none can be stopped."""


class Run:
    """One handler at work.

    :param report: takes its progress, in the reactor's thread.
    :param took: told the seconds of each of its steps on the reactor.
    :ivar ended: fires with the result as JSON text, or with whatever went wrong.
    """

    def __init__(
        self,
        task: Task,
        kind: Kind,
        deadline: float | None,
        report: Callable[[Progress], None],
        took: Callable[[float], None],
    ) -> None:
        self.facts = Facts(task.task_id, task.name, task.attempt, deadline, task.traceparent)
        self.kind = kind
        self.record = record(task.task_id, task.attempt)
        self.report = report
        self.took = took
        self.cancelled = False
        self.ended: Deferred[str] = Deferred()
        self._abandon: Callable[[], None] | None = None
        self._input = wire.read_input(task)

    def arguments(self) -> dict[str, Any]:
        """What the handler takes besides the context."""
        return self.kind.input.arguments(self._input)

    def with_context(
        self, clock: IReactorTime | None, report: Callable[[Progress], None]
    ) -> dict[str, Any]:
        """All that the handler takes."""
        given = self.arguments()
        if self.kind.input.context is not None:
            given[self.kind.input.context] = Context(self.facts, clock, report, lambda: self.cancelled)
        return given

    def cancel(self) -> None:
        """Ask it to end: at its ``await``, by its flag, or with its process."""
        self.cancelled = True
        self.ended.cancel()

    def abandon(self) -> None:
        """Let go of it: it did not end, and what it does from now on counts for nothing."""
        if self._abandon is not None:
            self._abandon()


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
        self._threads = Threads(threads, from_thread)
        self._loop = AsyncioLoop(from_thread)
        self._processes = Processes(processes, from_thread)
        self._start = {
            "reactor": self._on_reactor,
            "thread": self._in_thread,
            "asyncio": self._on_loop,
            "process": self._in_process,
        }

    @property
    def abandoned(self) -> int:
        """How many threads were given up and still run."""
        return self._threads.abandoned

    @property
    def full_of_abandoned(self) -> bool:
        """Whether so many threads hang that no more work should be put into any."""
        return self.abandoned >= MAX_ABANDONED

    def start(self, run: Run) -> None:
        """Start a handler; `Run.ended` is set when this returns."""
        run.ended = maybeDeferred(self._start[run.kind.place], run)

    def stop(self) -> None:
        """Let go of threads and processes."""
        self._threads.stop()
        self._loop.stop()
        self._processes.stop()

    def _on_reactor(self, run: Run) -> Deferred[str]:
        given = run.with_context(self._clock, run.report)
        steps = self._stepped(run.kind.steps, given, run)
        return steps.addCallback(wire.dump_result)

    def _stepped(self, start: Callable[..., Any], given: dict[str, Any], run: Run) -> Deferred[Any]:
        async def plain() -> Any:
            return await maybeDeferred(start, **given)

        steps = start(**given) if run.kind.is_stepped else plain()
        return ensureDeferred(Recorded(steps, self._recorder, run.record, REACTOR, run.took))

    def _in_thread(self, run: Run) -> Deferred[str]:
        given = run.with_context(None, self._reporter(run))

        def call() -> str:
            slot = self._recorder.hold(run.record)
            try:
                return wire.dump_result(run.kind.function(**given))
            finally:
                self._recorder.let_go(slot)

        work = self._threads.run(call)
        run._abandon = work.abandon
        return work.deferred

    def _on_loop(self, run: Run) -> Deferred[str]:
        given = run.with_context(None, self._reporter(run))

        async def call() -> str:
            return wire.dump_result(await run.kind.function(**given))

        return self._loop.run(lambda: Recorded(call(), self._recorder, run.record, ASYNCIO))

    def _reporter(self, run: Run) -> Callable[[Progress], None]:
        """Takes progress in another thread, and tells it in the reactor's."""

        def report(progress: Progress) -> None:
            self._from_thread(run.report, progress)

        return report

    def _in_process(self, run: Run) -> Deferred[str]:
        return self._processes.run(
            run.kind.function, run.arguments(), run.kind.input.context, run.facts, run.report
        )
