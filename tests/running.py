"""The runner over a real store in memory, a clock that the test moves, and handlers of the test's own."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask.metrics import Metrics
from asynctask.model import RUNNING, Submission, Task, accept
from asynctask.places import Places
from asynctask.recorder import FlightRecorder
from asynctask.registry import KINDS, Kind, kinds_of, task
from asynctask.runner import Runner
from asynctask.seats import Seats
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from asynctask.wire import Ids, dump
from tests.turns import Turns

START = 1_700_000_000.0


class RunnerTestCase(SynchronousTestCase):
    """A runner, and what it logs."""

    def setUp(self) -> None:
        self.clock = self.new_clock()
        self.turns = Turns()
        self.ids = Ids()
        self.chance = 0.5
        self.recorder = FlightRecorder()
        self.store = SqlStore(Place(None), self.turns, metrics=Metrics())
        self.store.open([], START)
        self.addCleanup(lambda: self.turns.outcome(self.store.close()))
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.runner = self.make()

    def new_clock(self) -> Clock:
        return Clock()

    def make(self, seats: int = 100, kinds: Mapping[str, Kind] = KINDS) -> Runner:
        self.kinds = kinds
        self.seats = Seats({"reactor": seats, "thread": 2, "asyncio": 2, "process": 0})
        places = Places(self.recorder, self.clock, self.turns.callFromThread, 2, 0)
        self.addCleanup(places.stop)
        self.runner = Runner(
            self.store,
            self.seats,
            places,
            kinds,
            self.clock,
            self.now,
            lambda: self.chance,
            metrics=Metrics(kinds),
        )
        return self.runner

    def with_handler(self, function: Callable[..., Any], seats: int = 100, **settings: Any) -> None:
        """Let tasks of the one kind that there is run this."""
        self.kind = kinds_of(task(name="simulate", **settings)(function))[-1]
        self.make(seats, {"simulate": self.kind})

    @property
    def free(self) -> int:
        return self.seats.free(self.kinds["simulate"])

    def take(self) -> bool:
        return self.seats.take(self.kinds["simulate"])

    def now(self) -> float:
        return START + self.clock.seconds()

    def settle(self) -> None:
        """Run all that is due now, and wait for the writer to have done what it was asked."""
        for _ in range(5):
            self.clock.advance(0)
            self.turns.outcome(self.store._writer.call(lambda _db, _news: None))

    def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.settle()

    def pass_time(self, seconds: float) -> None:
        """Let the time go on while something holds the reactor, so that nothing else is called."""
        self.clock.rightNow += seconds

    def submit(
        self,
        duration: int | None = 3,
        delay: float = 0,
        starts: bool = True,
        name: str = "a",
        trace: str | None = None,
        **wanted: Any,
    ) -> str:
        """Accept a task, and let it start unless it is to wait in the store.

        :param duration: its input; None for one without any.
        :param trace: its traceparent.
        :param wanted: its timeout and retries.
        """
        given = {} if duration is None else {"duration": duration}
        new = Submission(name, "simulate", dump(given), delay, **wanted)
        task = accept(new, self.ids.next(self.now(), bytes(16)), self.now(), trace)
        if starts:
            self.seats.reserve(self.kinds["simulate"], 1)
        self.turns.outcome(self.store.add([] if starts else [task], [task] if starts else []))
        self.settle()
        return task.task_id

    def cancel(self, task_id: str) -> Task:
        """Ask for its end; the task as the client is shown it."""
        task = self.turns.outcome(self.store.cancel(task_id, self.now()))
        assert task is not None
        self.settle()
        return task

    def retry(self, task_id: str) -> Task:
        task = self.turns.outcome(self.store.retry(task_id, self.now()))
        assert task is not None
        self.settle()
        return task

    def get(self, task_id: str) -> Task:
        task = self.turns.outcome(self.store.get(task_id))
        assert task is not None
        return task

    def status(self, task_id: str) -> str:
        return self.get(task_id).status

    def until_ended(self, task_id: str) -> Task:
        """Turn until what runs in another thread has ended, and its end is written."""
        while (task := self.get(task_id)).status is RUNNING:
            self.turns.turn()
            self.settle()
        return task

    def error_type(self, task_id: str) -> str | None:
        error = self.get(task_id).error
        return None if error is None else error.type

    def logged(self, message: str) -> list[LogEvent]:
        return [event for event in self.events if event.get("log_format") == message]

    def until_logged(self, message: str, times: int = 1) -> None:
        """Turn until another thread has had it logged."""
        while len(self.logged(message)) < times:
            self.turns.turn()


class EndsTestCase(RunnerTestCase):
    """Handlers that end as the test wants."""

    def with_failing(self, error: BaseException | type[BaseException], **settings: Any) -> None:
        async def handler() -> None:
            raise error

        self.with_handler(handler, **settings)

    def outcome(self, task_id: str) -> tuple[str, str | None, int]:
        return self.status(task_id), self.error_type(task_id), self.get(task_id).attempt

    def fails(self, expected: type[BaseException], times: int = 1) -> None:
        """So many tracebacks of this kind were logged: one at each last failure."""
        self.assertEqual(len(self.flushLoggedErrors(expected)), times)
