"""Threads of our own: the reactor's are shared with its resolver, and a stuck one holds up the exit."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from threading import Condition, Thread
from time import monotonic
from typing import Any

from twisted.python.failure import Failure

from asynctask.forked import leave
from asynctask.patient import Patient
from asynctask.problems import StartError
from asynctask.tracebacks import caught


@contextmanager
def threads_at_the_start() -> Iterator[None]:
    """Say in a sentence that the system gives none.

    :raises StartError: it gives none.
    """
    try:
        yield
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise StartError(
            f"The system gives no more threads ({error}); ulimit -u, or TasksMax= of systemd, says how many"
        ) from None


class NotStartedError(Exception):
    """The system gives no thread or process now: nothing of the work has begun."""


class _State(Enum):
    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()
    ABANDONED = auto()


class Work:
    """One call in a thread; see `asynctask.runs.AtWork`.

    :ivar deferred: fires in the reactor's thread with what the call returned or raised, whatever it was.
        A cancel asks the call to end, if there is a way to; the Deferred still waits for the real end.
    :ivar ended_at: when that was, which the reactor may hear later.
    """

    __slots__ = ("_call", "_pool", "_state", "deferred", "ended_at")

    def __init__(self, pool: "Threads", call: Callable[[], Any], cancel: Callable[[], object]) -> None:
        self.deferred = Patient(cancel)
        self._pool = pool
        self._call: Callable[[], Any] | None = call
        self._state = _State.WAITING
        self.ended_at: float | None = None

    def abandon(self) -> None:
        """Give it up: its result is dropped, and another thread takes its thread's place."""
        self._pool._abandon(self)

    def _outcome(self) -> Any:
        # Not kept: it knows whose work this is, and that has this.
        call, self._call = self._call, None
        assert call is not None
        try:
            return call()
        except BaseException:
            return caught()
        finally:
            self.ended_at = self._pool.seconds()

    def _end(self, outcome: Any) -> None:
        if self._state is not _State.ABANDONED:
            self.deferred.end(outcome)


class Threads:
    """A pool of daemon threads, each started when it is needed: the exit of the process waits for none.

    :param size: threads at once, those that were given up not counted; more calls than that wait.
    :param from_thread: ``reactor.callFromThread``.
    :param seconds: the time, of any clock.
    :ivar abandoned: threads that were given up and still run.
    """

    def __init__(
        self, size: int, from_thread: Callable[..., object], seconds: Callable[[], float] = monotonic
    ) -> None:
        self.abandoned = 0
        self.seconds = seconds
        self._size = size
        self._from_thread = from_thread
        self._changed = Condition()
        self._waiting: deque[Work] = deque()
        self._threads = 0
        self._idle = 0
        self._stopped = False

    def run(self, call: Callable[[], Any], cancel: Callable[[], object] = lambda: None) -> Work:
        """Call it in a thread.

        :param cancel: asks the call to end, when ``deferred`` is cancelled.
        :raises NotStartedError: the system gives no more threads.
        """
        work = Work(self, call, cancel)
        with self._changed:
            self._waiting.append(work)
            try:
                self._serve()
            except RuntimeError as error:
                self._waiting.pop()
                raise NotStartedError(str(error)) from error
        return work

    def stop(self) -> None:
        """Let idle threads end, and the others after what they run; stuck ones are left to the exit."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _serve(self) -> None:
        """See to it that what waits is taken by a thread."""
        if len(self._waiting) > self._idle and self._threads < self._size:
            Thread(target=self._work, name="asynctask", daemon=True).start()
            self._threads += 1
            self._idle += 1
        else:
            self._changed.notify()

    def _work(self) -> None:
        """What each thread does."""
        ours = os.getpid()
        while (work := self._next()) is not None:
            outcome = work._outcome()
            if os.getpid() != ours:
                leave(outcome.value if isinstance(outcome, Failure) else None)
            if not self._ended(work):
                return
            self._from_thread(work._end, outcome)
            # Neither is kept while the thread waits for the next one.
            del work, outcome

    def _next(self) -> Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            self._idle -= 1
            if not self._waiting:
                self._threads -= 1
                return None
            work = self._waiting.popleft()
            work._state = _State.RUNNING
            return work

    def _ended(self, work: Work) -> bool:
        """Whether the thread that ran it is still one of the pool."""
        with self._changed:
            if work._state is _State.ABANDONED:
                self.abandoned -= 1
                return False
            work._state = _State.ENDED
            # From now on, so that who hears of the end finds the thread free.
            self._idle += 1
            return True

    def _abandon(self, work: Work) -> None:
        with self._changed:
            before, work._state = work._state, _State.ABANDONED
            if before is _State.WAITING:
                self._waiting.remove(work)
                work._call = None
            elif before is _State.RUNNING:
                self.abandoned += 1
                self._threads -= 1
                if self._waiting:
                    with suppress(RuntimeError):  # else the next thread that is free takes it
                        self._serve()
