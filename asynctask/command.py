"""A service as ``twistd`` and ``python -m asynctask`` run it: its log, its signals, its last words."""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any, ClassVar, Final, NoReturn, TextIO
from weakref import WeakKeyDictionary

from twisted.application.service import IServiceCollection, Service
from twisted.internet.defer import inlineCallbacks
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from asynctask import logs, printed, pythonlog
from asynctask.logqueue import PAUSE, LogQueue
from asynctask.problems import StartError
from asynctask.sdnotify import Notifier
from asynctask.spawned import lives
from asynctask.supervisor import Supervisor
from asynctask.threads import threads_at_the_start
from asynctask.timers import Wheel
from asynctask.watchdog import Watchdog

log = Logger(namespace="asynctask")

AT_ONCE: Final = 1.0
"""Seconds that processes have to end at once, before they are killed."""

LAST: Final = 1.0
"""Seconds at the end for what runs in threads of the reactor's own: its task has had its time before."""

LOOK: Final = 0.02
"""Seconds between two looks whether the processes, or the reactor's threads, have ended."""

ECHO: Final = 0.002
"""Seconds within which a second signal is the first once more: ``timeout`` sends it to a process, and
at once to its group. Nobody is so quick."""

INTERRUPTED: Final = "Interrupted before it had started"

FILES: Final = 65_536
"""Files that a process may have open, and each connection is one: a shell gives it 1,024.

More would cost programs that handlers start: some close each that they might have.
"""


class OfCommand(Service):
    """With its own log, with signals of which the second ends at once, and with errors in one sentence.

    Mixed into a service, before it.

    :ivar observer: the log; None where twistd writes one of its own.
    :ivar pid_file: removed at the end, whatever the end is.
    :ivar notifier: told when it is ready and when it ends, and as long as its reactor turns; where the
        service is part of a program, that is for the program to tell.
    :ivar port: where it listens; None for nowhere, or where that is for its processes to do.
    """

    _reactor: Any
    port: IListeningPort | None = None
    observer: LogQueue | None = None
    pid_file: Path | None = None
    notifier = Notifier({})
    _process = 0
    _signal = 0
    _signalled_at = 0.0
    _ours: ClassVar[WeakKeyDictionary[Any, tuple["OfCommand", Any]]] = WeakKeyDictionary()
    _stepped: pythonlog.Stepped = staticmethod(pythonlog.nobody)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handlers: dict[int, tuple[Any, Any]] = {}

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """See `twisted.application.service.IService`."""
        if self.observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.observer)
        self._process = os.getpid()
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """See `twisted.application.service.IService`."""
        with self._one_sentence():
            super().privilegedStartService()

    def startService(self) -> None:
        """See `twisted.application.service.IService`."""
        if self._is_all_there_is():
            self.notifier.take()
        with self._one_sentence():
            super().startService()

    @inlineCallbacks
    def stopService(self) -> Any:
        """See `twisted.application.service.IService`."""
        self.notifier.stopping()
        try:
            yield super().stopService()
        finally:
            if not getattr(self._reactor, "_stopped", True):
                self._give_signals_back()
            elif self._is_all_there_is():
                self._end_whatever_runs()
            pythonlog.stop_listening(self._stepped)
            if self.observer is not None:
                self.observer.stop()

    def _is_all_there_is(self) -> bool:
        """Whether the program has no other service, and was not started without any."""
        service: Any = self
        while service.parent is not None:
            if list(service.parent) != [service]:
                return False
            service = service.parent
        return service is not self

    def _end_whatever_runs(self) -> None:
        """The program has nothing else to do, and does not wait for ever for a `deferToThread`."""

        def end() -> None:
            # Until all else has been shut down, and only these threads are waited for.
            while not ((pool := self._reactor.threadpool) and pool.joined):
                time.sleep(LOOK)
            time.sleep(LAST)
            if self._reactor.threadpool is not pool:  # they have ended, and what comes after them goes on
                return
            log.warn("Something still runs in the reactor's threads, and is not waited for")
            self.end_now(128 + self._signal if self._signal else 0)

        with suppress(RuntimeError):  # the system gives no thread
            threading.Thread(target=end, name="asynctask-end", daemon=True).start()

    def _give_signals_back(self) -> None:
        """The program goes on without this service, and hears signals as it did before."""
        while self._handlers:
            number, (before, ours) = self._handlers.popitem()
            if signal.getsignal(number) is ours:
                while (known := self._known(before)) is not None and number not in known[0]._handlers:
                    before = known[1]  # of a service that has ended before
                signal.signal(number, before)

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        """In front, an error is its sentence; behind, twistd tells the error to who started it."""
        try:
            yield
        except (StartError, KeyboardInterrupt) as error:
            if os.getpid() != self._process or self._reactor.running:  # it is part of a program
                raise
            self._complain(str(error) or INTERRUPTED)
            self._remove_pid_file()
            leave(1)

    def _complain(self, sentence: str) -> None:
        if os.getpid() == self._process and sys.__stderr__ is not None:
            # Not the one that twistd has turned into a log.
            _say(sys.__stderr__, sentence)
        else:
            log.critical("Cannot go on: {sentence}", sentence=sentence)

    def or_fail(self, serve: Callable[[], object]) -> None:
        """Begin to serve; where that takes more threads than there are, the process ends."""
        try:
            with threads_at_the_start():
                serve()
        except StartError as error:
            if not self._is_all_there_is():  # that is for the program to tell
                raise
            self.fail(str(error))

    def fail(self, sentence: str) -> None:
        """End the process with one sentence, once the reactor runs."""
        self._complain(sentence)
        self.end_now(1)

    def begin(self, *, supervised: bool = False, stepped: pythonlog.Stepped = pythonlog.nobody) -> None:
        """The reactor runs: the log may have its thread, `logging` is heard, and signals are ours.

        :param supervised: the first signal may come twice, from a supervisor and from what ended that;
            what ends at once is SIGQUIT.
        :param stepped: tells which task the reactor is stepping.
        """
        if self.observer is not None:
            self.observer.start()
        self._stepped = stepped
        pythonlog.listen(stepped)
        printed.listen()
        if threading.current_thread() is threading.main_thread():  # elsewhere they are the program's
            self._take_signals(supervised=supervised)

    def _take_signals(self, *, supervised: bool) -> None:
        terminate: Any = signal.getsignal(signal.SIGTERM)

        def hang_up(number: int, frame: FrameType | None) -> None:
            log.info("Received SIGHUP, which is taken for a SIGTERM")
            terminate(number, frame)

        if supervised:  # it is the supervisor's to decide upon, which may be under nohup
            self._hear(signal.SIGHUP, lambda *_: None)
        # Not under nohup: the terminal was closed.
        elif callable(terminate) and self._is_free(signal.SIGHUP):
            self._stop_by(signal.SIGHUP, hang_up, supervised=supervised)
        self._stop_by(signal.SIGTERM, terminate, supervised=supervised)
        self._stop_by(signal.SIGINT, signal.getsignal(signal.SIGINT), supervised=supervised)
        for unused in (signal.SIGUSR1, signal.SIGUSR2):
            if self._is_free(unused):
                # By the first, twistd's own log is rotated; ours does that itself, and neither is to kill
                # anybody. A function, since the programs that a handler starts would inherit SIG_IGN.
                self._hear(unused, lambda *_: None)
        if supervised:
            self._hear(signal.SIGQUIT, lambda number, _frame: self.end_now(128 + number))

    def _stop_by(self, number: int, stop: Any, *, supervised: bool) -> None:
        """Stop by the first of these signals; by a second one, end at once."""
        if not callable(stop):  # ignored, as in the background of a script
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if number not in self._handlers:  # another service has given it back to us after our end
                stop(number, frame)
            elif not self._signal:
                self._signal, self._signalled_at = number, time.monotonic()
                # Not here, in the middle of whatever the reactor does: it may hold the log's lock.
                self._reactor.callFromThread(stop, number, None)
            elif not supervised and time.monotonic() > self._signalled_at + ECHO:
                self.end_now(128 + number)

        self._hear(number, handle)

    def _is_free(self, number: int) -> bool:
        """Whether a signal is nobody's; or another service's of this program, which may end before."""
        handler = signal.getsignal(number)
        return handler is signal.SIG_DFL or self._known(handler) is not None

    def _known(self, handler: Any) -> "tuple[OfCommand, Any] | None":
        """Which service's handler it is, and which there was before."""
        return self._ours.get(handler) if isinstance(handler, FunctionType) else None

    def _hear(self, number: int, handle: Callable[[int, FrameType | None], object]) -> None:
        before = signal.getsignal(number)
        self._ours[handle] = self, before
        self._handlers[number] = before, handle
        signal.signal(number, handle)

    def end_now(self, status: int) -> None:
        """End the process at once."""
        self._remove_pid_file()
        if self.observer is not None:
            self.observer.flush()
        os._exit(status)

    def _remove_pid_file(self) -> None:
        """Where its folder is another user's it stays, and the next start finds out that nobody has it."""
        if self.pid_file is not None:
            with suppress(OSError):
                self.pid_file.unlink()


class Supervising(OfCommand, Supervisor):
    """Many of them."""

    _clock: Wheel
    _watchdog: Watchdog | None = None

    def _serving(self) -> None:
        self.or_fail(self._serve)

    def _serve(self) -> None:
        self.begin()
        self._watchdog = Watchdog(self._reactor.callFromThread, lambda: "", beat=self._beat)
        self._watchdog.start()
        super()._serving()

    @inlineCallbacks
    def stopService(self) -> Any:
        """See `Supervisor`."""
        yield super().stopService()
        if self._watchdog is not None:
            self._watchdog.stop()
        self._clock.stop()

    def _beat(self) -> None:
        self._clock.wake()
        self.notifier.alive()

    def _tell_that_it_serves(self, url: str | None) -> None:
        super()._tell_that_it_serves(url)
        self.notifier.ready()

    def end_now(self, status: int) -> None:
        """End all processes at once, and this one."""
        self.quit()
        until = time.monotonic() + AT_ONCE
        while time.monotonic() < until and any(map(lives, self.pids)):
            time.sleep(LOOK)
        for pid in filter(lives, self.pids):
            os.kill(pid, signal.SIGKILL)
        super().end_now(status)


def leave(status: int | str) -> NoReturn:
    """Exit as `sys.exit` does, but wait for no thread that a module of handlers has started; where there is
    one, nothing of `atexit` runs either.

    :param status: or a sentence.
    """
    if any(not one.daemon for one in threading.enumerate() if one is not threading.main_thread()):
        if isinstance(status, str):
            _say(sys.stderr, status)
            status = 1
        os._exit(status)
    sys.exit(status if isinstance(status, int) else f"asynctask: {status}")


def _say(stream: TextIO, sentence: str) -> None:
    with suppress(OSError, ValueError):  # as where it is a file on a full disk
        stream.write(f"asynctask: {sentence}\n")
        stream.flush()


def raise_file_limit() -> None:
    """Have `FILES`, or as many as the system lets this process have, should that be less."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def log_lines(lines: str) -> None:
    """Log what other processes have logged, where twistd writes a log of its own."""
    for line in lines.splitlines():
        log.info("{line}", line=line)


def log_of(twistd: Any, log_format: str, number: int | None, *, many: bool) -> LogQueue | None:
    """The log that twistd's options ask for; None where they ask for one of twistd's own.

    :param number: of this process among many.
    :param many: whether there are many.
    :raises StartError: its file cannot be written.
    """
    if "nodaemon" not in twistd or twistd.get("logger") or twistd.get("syslog"):  # such as those of twist
        return None
    path = twistd.get("logfile")
    if path == "-" and not twistd["nodaemon"]:
        raise StartError("A daemon has no standard output; give --logfile a file")
    to_stdout = path == "-" or (not path and twistd["nodaemon"])
    path = None if to_stdout else path or "twistd.log"
    try:
        renderer = logs.RENDERERS[log_format]
        if number is not None:
            renderer = logs.with_field(renderer, "process", number)
        # Where lines go through two queues each takes half of the time that they have.
        pause = PAUSE / 2 if many else PAUSE
        file = logs.destination(path)
        if isinstance(file, logs.Rotating):
            file.give_to(twistd.get("uid"), twistd.get("gid"))
        return LogQueue(file.write, *renderer, pause=pause)
    except OSError as error:
        raise StartError(f"--logfile {path} cannot be written ({error.strerror})") from None
