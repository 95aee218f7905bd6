"""Processes for handlers: spawned, killed at a cancel, gone with their parent."""

import atexit
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from asynctask.context import Facts
from asynctask.model import Progress
from asynctask.spawned import Spawned
from asynctask.threads import NotStartedError, Threads, Work
from asynctask.worker import Call, Logged, Raised, Reported, Returned

log = Logger(namespace="asynctask.processes")

NO_FOLDER: Final = "The working directory was removed, of which a process is told; start the service again"


class ProcessDiedError(Exception):
    """The process of a handler ended, and not by our hand."""


class _Run:
    """One call in a process."""

    def __init__(self, processes: "Processes", call: Call, report: Callable[[Progress], None]) -> None:
        self._processes = processes
        self._call = call
        self._report = report
        self._lock = Lock()
        self._asked: Spawned | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Kill it; in the reactor's thread."""
        with self._lock:
            self._cancelled = True
            if self._asked is not None:
                self._asked.kill()

    def __call__(self) -> Any:
        """Run it and wait for its end; in a thread that waits for processes."""
        asked = pickle.dumps(self._call)
        if self._cancelled:
            raise CancelledError
        worker = self._processes.take()
        try:
            end = self._converse(worker, asked)
        except Exception as error:
            if not isinstance(error, EOFError | OSError):
                log.failure("What a process said cannot be understood")
            end = None
        with self._lock:
            killed = self._cancelled and self._asked is not None
            self._asked = None
        lives = end is not None and not killed
        how = None if lives else worker.end()
        self._processes.give_back(worker, lives)
        if self._cancelled:
            raise CancelledError
        if end is None:
            raise ProcessDiedError(f"The process of the handler died ({how})")
        return _Remote(end) if isinstance(end, Raised) else end.text

    def _converse(self, worker: Spawned, asked: bytes) -> Returned | Raised:
        worker.begin(lambda: self._cancelled)
        with self._lock:
            if self._cancelled:
                return Returned("null")
            self._asked = worker
        worker.ask(asked)
        while True:
            word = worker.hear()
            if isinstance(word, Reported):
                # One after the other, so that the process cannot be faster than the reactor.
                told = Event()
                self._processes.from_thread(self._tell, Progress(*word), told)
                told.wait()
            elif isinstance(word, Logged):
                globalLogPublisher(word.event | {"log_level": LogLevel.lookupByName(word.level)})
            else:
                return word

    def _tell(self, progress: Progress, told: Event) -> None:
        try:
            if not self._cancelled:
                self._report(progress)
        except Exception:
            log.failure("Progress could not be told")
        finally:
            told.set()


class _Starter:
    """Starts processes in a thread of its own.

    Each dies with the one that has started it (PR_SET_PDEATHSIG), and those of the pool may be given up.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._asked: SimpleQueue[Future[Spawned] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self) -> Spawned:
        """Start one, and wait for that.

        :raises RuntimeError: the system gives no thread; or whatever `Spawned` raises.
        """
        with self._lock:
            if self._thread is None:
                thread = Thread(target=self._work, name="asynctask-starter", daemon=True)
                thread.start()
                self._thread = thread
            started: Future[Spawned] = Future()
            self._asked.put(started)
        return started.result()

    def stop(self) -> None:
        """Let the thread end."""
        with self._lock:
            if self._thread is not None:
                self._thread = None
                self._asked.put(None)

    def _work(self) -> None:
        while (started := self._asked.get()) is not None:
            try:
                started.set_result(Spawned())
            except BaseException as error:
                started.set_exception(error)
            del started


class Processes:
    """A pool of processes, each started when it is needed.

    :param size: processes at once; more calls than that wait.
    :param from_thread: ``reactor.callFromThread``.
    :param seconds: the time, of any clock.
    """

    def __init__(
        self, size: int, from_thread: Callable[..., object], seconds: Callable[[], float] = monotonic
    ) -> None:
        self.from_thread = from_thread
        self._threads = Threads(size, from_thread, seconds)
        self._starter = _Starter()
        self._lock = Lock()
        self._all: set[Spawned] = set()
        self._idle: list[Spawned] = []
        self._stopped = self._is_at_exit = False

    def run(
        self,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        context_name: str | None,
        facts: Facts,
        report: Callable[[Progress], None],
    ) -> Work:
        """Run a function that a process can import.

        :param context_name: the parameter that takes the context, if there is one.
        :param report: takes its progress, in the reactor's thread, in order and before the end.
        :returns: what waits for it: its Deferred fires with the result as JSON text, when the process has
            nothing more to do with it. A cancel kills the process; it then fails with `CancelledError`. It
            fails with `ProcessDiedError` when the process ends by itself, and with `ImportError` without
            pebble.
        """
        run = _Run(self, Call(function, arguments, context_name, facts), report)
        return self._threads.run(run, run.cancel)

    def stop(self) -> None:
        """Kill all of them."""
        with self._lock:
            self._stopped = True
            for worker in self._all:
                worker.kill()
            self._is_at_exit = False
        atexit.unregister(self.stop)
        self._threads.stop()
        self._starter.stop()

    def take(self) -> Spawned:
        """A process for one call.

        :raises NotStartedError: the system gives no more of them, or the working directory has gone.
        """
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.lives:
                    return worker
                worker.kill()  # it may never have come up
                self._all.discard(worker)
        try:
            worker = self._starter.start()
        except (OSError, RuntimeError) as error:
            of_no_file = isinstance(error, FileNotFoundError) and error.filename is None
            raise NotStartedError(NO_FOLDER if of_no_file else str(error)) from error
        with self._lock:
            self._all.add(worker)
            if not self._is_at_exit:  # before multiprocessing would wait for it at the exit, for ever
                self._is_at_exit = True
                atexit.register(self.stop)
        return worker

    def give_back(self, worker: Spawned, lives: bool) -> None:
        """It has ended the call, or by it."""
        with self._lock:
            if self._stopped:
                worker.kill()
            elif lives:
                self._idle.insert(len(self._idle) if worker.is_up else 0, worker)
            else:
                self._all.discard(worker)


class _Remote(Failure):
    """The failure of a handler in a process, with the traceback from there."""

    def __init__(self, raised: Raised) -> None:
        super().__init__(_rebuilt(raised))
        self._trace = raised.traceback
        self.place = raised.place

    def getTraceback(self, *_: object, **__: object) -> str:
        """See `twisted.python.failure.Failure`."""
        return self._trace


def _rebuilt(raised: Raised) -> BaseException:
    """An exception of the same name, below as much of its class as this process knows."""
    given = [raised.text] if raised.text else []  # as those have it that are raised with none
    for known, path in raised.kinds:
        with suppress(BaseException):  # it is not there, or has code of its own that fails
            error: BaseException = _below(attrgetter(path)(sys.modules[known]), *raised.kinds[0])(*given)
            error.__dict__["told"] = raised.text
            if raised.after is not None:
                error.__dict__["after"] = raised.after
            return error
    return Exception(raised.text)


@lru_cache(maxsize=256)
def _below(kind: type[BaseException], module: str, name: str) -> Any:
    """A class of this name below another one; made once, since only the collector lets go of a class."""
    shape = {
        "__module__": module,
        "__qualname__": name,
        "__init__": lambda _self, *_: None,  # what its class does may need more than a text
        "__str__": lambda self: self.__dict__["told"],
    }
    return type(name.rpartition(".")[2], (kind,), shape)
