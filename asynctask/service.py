"""The service as ``twistd`` and ``python -m asynctask`` run it.

The global reactor is touched only here, and by a client that is given none.
"""

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from twisted.internet.defer import inlineCallbacks
from twisted.logger import Logger

from asynctask import listening, pipes, shownsecret, storeurl
from asynctask.collector import Collector
from asynctask.command import (
    INTERRUPTED,
    OfCommand,
    Supervising,
    leave,
    log_lines,
    log_of,
    raise_file_limit,
)
from asynctask.composition import AsyncTask
from asynctask.loading import load
from asynctask.logqueue import LogQueue
from asynctask.member import Spawner
from asynctask.options import Options
from asynctask.pipes import Pipes, Setting
from asynctask.problems import StartError
from asynctask.registry import Kind, RegistryError
from asynctask.sdnotify import Notifier
from asynctask.signing import SecretError, read_secrets
from asynctask.spawned import starter
from asynctask.sqlitefile import Place
from asynctask.timers import Wheel
from asynctask.worker import die_with

if TYPE_CHECKING:
    from asynctask.pgserver import Server

__all__ = ["Options", "StartError", "makeService"]

log = Logger(namespace="asynctask")

SWITCH: Final = 0.0005
"""Seconds that a thread waits for the interpreter at most, a tenth of Python's own: a commit needs it a
dozen times while the loop is busy."""

GONE: Final = (
    "Threads that a module has started at its import are gone, since the service went into the background "
    "after that: start them in a handler, or the service with -n"
)


class Command(OfCommand, AsyncTask):
    """The service as ``twistd`` and ``python -m asynctask`` run it.

    :ivar pipes: to the supervisor, where this process is one of many.
    :ivar started_at_import: the threads that modules with handlers have started.
    """

    _collector: Collector | None = None
    _switched: ClassVar[list["Command"]] = []
    _switch: ClassVar[float] = 0.0
    pipes: Pipes | None = None
    started_at_import: Sequence[threading.Thread] = ()

    def join(self, setting: Setting) -> None:
        """Be one of many processes."""
        self._shared = setting.shared
        lost = partial(self._reactor.callLater, 0, self._stop)
        self.pipes = Pipes(self._metrics.families, lost, self._clock)
        self._metrics.everyone = self.pipes.everyone

    def _serving(self) -> None:
        self.or_fail(self._serve)

    def _serve(self) -> None:
        self.begin(supervised=self.pipes is not None, stepped=self._recorder.stepped)
        if os.getpid() != self._process:
            there = {thread.name for thread in threading.enumerate()}  # some are started again by a fork
            if gone := [thread.name for thread in self.started_at_import if thread.name not in there]:
                log.warn(GONE, threads=", ".join(gone))
        self._collector = Collector(self._clock, lambda: self._metrics.attempts)
        self._collector.start()
        if not self._switched:  # several may serve in one program
            Command._switch = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH)
        self._switched.append(self)
        super()._serving()

    @inlineCallbacks
    def stopService(self) -> Any:
        """See `AsyncTask`."""
        if self._collector is not None:
            self._collector.stop()
        yield super().stopService()
        if self in self._switched:
            self._switched.remove(self)
            sys.setswitchinterval(SWITCH if self._switched else self._switch)

    def _tell_that_it_serves(self, url: str | None) -> None:
        if self.pipes is None:
            super()._tell_that_it_serves(url)
            self.notifier.ready()
        else:
            self.pipes.hold(self._reactor)
            self.pipes.up(url)

    def _beat(self) -> None:
        super()._beat()
        self.notifier.alive()

    def _stop(self) -> None:
        if self._reactor.running and self.running:
            self._reactor.stop()

    def end_now(self, status: int) -> None:
        """End the process at once: what was accepted is on disk, and no task is to blame."""
        self._recorder.stop()
        super().end_now(status)


def makeService(options: Options) -> OfCommand:
    """Make the service that the options describe.

    Whatever keeps it from starting ends the program with its sentence.

    :raises StartError: the same under a reactor that runs.
    """
    from twisted.internet import reactor

    setting = pipes.read(os.environ.pop(pipes.VARIABLE, None))
    if setting is not None:
        die_with(setting.parent)
    notifier = Notifier(os.environ)
    twistd: Any = getattr(options, "parent", None) or {}
    description = None if options["no-http"] else listening.describe(options["port"], options["listen"])
    try:
        here, folder = _working_directories(twistd.get("rundir", "."))
        start, number = (here, None) if setting is None else (setting.start, setting.number)
        place = storeurl.parse(options["store"], folder, options["lease"], options["notify-store"])
        file = options["callback-secret"]
        secrets = [] if file is None else read_secrets(Path(setting.start if setting else "", file))
        if options["show-callback-secret"]:
            shownsecret.write(secrets or [shownsecret.show(place)])
            sys.exit(0)
        many = options["processes"] > 1
        storeurl.check_use(place, options["processes"], with_http=not options["no-http"])
        storeurl.check(place)
        if description is not None and setting is None:
            listening.check(description, insecure=bool(options["insecure"]), shared=many)
        kinds, started = _load(options["modules"], start)
        if setting is None:
            for name, similar in options.misspelt().items():
                log.warn("Unknown variable", name=name, did_you_mean=similar)
        observer = log_of(twistd, options["log-format"], number, many=many)
    except (StartError, SecretError, RegistryError, ImportError) as error:
        if reactor.running:
            raise StartError(str(error)) from error
        leave(str(error))
    except KeyboardInterrupt:
        leave(INTERRUPTED)
    raise_file_limit()
    service: Command | Supervising
    if many and setting is None:
        service = _supervise(options, description, reactor, start, observer)
    else:
        service = _make(options, place, description, reactor, kinds, secrets)
        service.started_at_import = started
        if setting is not None:
            service.join(setting)
    service.observer = observer
    service.notifier = notifier
    if twistd.get("pidfile"):
        service.pid_file = folder / twistd["pidfile"]
    return service


def _working_directories(rundir: str) -> tuple[str, Path]:
    """The one that it is started in, and the one that it works in.

    :raises StartError: it can have no use of one.
    """
    try:
        here = os.getcwd()
    except OSError as error:
        raise StartError(f"The working directory cannot be used ({error.strerror})") from None
    folder = Path(here, rundir)
    if not (rundir and folder.is_dir() and os.access(folder, os.X_OK)):
        raise StartError(f"The working directory {rundir} cannot be entered")
    return here, folder


def _load(modules: Sequence[str], start: str) -> tuple[dict[str, Kind], list[threading.Thread]]:
    """The kinds, and the threads that their modules have started.

    :raises RegistryError: see `asynctask.loading.load`.
    :raises ImportError: what their processes need is missing.
    """
    before = threading.enumerate()
    kinds = load(modules, start)
    started = [thread for thread in threading.enumerate() if thread not in before]
    if any(kind.place == "process" for kind in kinds.values()):
        starter()
    return kinds, started


def _supervise(
    options: Options, description: str | None, reactor: Any, start: str, observer: LogQueue | None
) -> Supervising:
    spawner = Spawner(reactor, description, options.given, os.environ, start)
    relay = log_lines if observer is None else observer.pass_on
    return Supervising(
        options["processes"],
        spawner.open,
        spawner.close,
        spawner.spawn,
        relay,
        reactor,
        Wheel(reactor),
        options["grace"],
    )


def _make(
    options: Options,
    place: "Place | Server",
    description: str | None,
    reactor: Any,
    kinds: Mapping[str, Kind],
    secrets: Sequence[str],
) -> Command:
    return Command(
        place,
        description,
        reactor,
        kinds=kinds,
        seats={
            "reactor": options["concurrency"],
            "asyncio": options["concurrency"],
            "thread": options["threads"],
            "process": options["spawned"],
        },
        max_waiting=options["max-waiting"],
        keep=options["keep"],
        grace=options["grace"],
        hosts=tuple(options["hosts"]),
        insecure=bool(options["insecure"]),
        http=options["http"],
        access_log=bool(options["access-log"]),
        callbacks_to=options["callbacks-to"],
        callback_secrets=secrets,
    )
