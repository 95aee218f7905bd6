"""Puts the service together, starts it, and ends it in order."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred, inlineCallbacks, succeed
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from asynctask import forked, listening, recovery, twistedweb
from asynctask.access import Access, log_access
from asynctask.addresses import Allowed
from asynctask.api import Api
from asynctask.callbacks import Callbacks
from asynctask.chance import chances
from asynctask.door import MAX_BATCH_BODY, answer_too_large
from asynctask.feed import Feed
from asynctask.httpserver import HttpServer, finish_answers
from asynctask.loop import EXECUTOR
from asynctask.metrics import Metrics
from asynctask.places import MAX_ABANDONED, Places
from asynctask.posting import Poster
from asynctask.problems import StartError
from asynctask.recorder import FlightRecorder, abandoned
from asynctask.registry import KINDS, Kind
from asynctask.resolver import Resolver
from asynctask.retention import LONG_STEP, Retention
from asynctask.runner import Runner
from asynctask.seats import DEFAULT, Seats
from asynctask.signing import Signer
from asynctask.sqlitefile import Place, is_missing, is_of_others
from asynctask.store import SqlStore
from asynctask.timers import Wheel
from asynctask.wallclock import WallClock
from asynctask.watchdog import Watchdog

if TYPE_CHECKING:
    from asynctask.pgserver import Server

log = Logger(namespace="asynctask")

LAST_CALLBACKS: Final = 2.0
"""Seconds that callbacks under way have to be answered."""


def _server(api: Api, http: str, clock: Wheel, access: Access | None) -> HttpServer | twistedweb.HttpServer:
    """The HTTP server."""
    if http == "fast":
        return HttpServer(api.routes(), MAX_BATCH_BODY, clock, access)
    return twistedweb.HttpServer(api.resource(), MAX_BATCH_BODY, answer_too_large, access)


class AsyncTask(Service):
    """The service.

    :param place: where its tasks are kept.
    :param description: the endpoint to listen on; None for none.
    :param reactor: the reactor that runs it.
    :param kinds: the kinds of task that it runs.
    :param seats: attempts at once in each place.
    :param keep: days until an ended task is forgotten.
    :param http: ``fast`` for our own connection, ``twisted.web`` for the stock one.
    :param access_log: whether every request has a line in the log.
    :param callbacks_to: what callbacks may reach besides public addresses.
    :param callback_secrets: the first signs callbacks; without any, the store's does.
    """

    name = "asynctask"

    _has_begun = False
    _was_handed_over = False
    _stopping: Deferred[None] | None = None

    def __init__(
        self,
        place: "Place | Server",
        description: str | None,
        reactor: Any,
        *,
        kinds: Mapping[str, Kind] = KINDS,
        seats: Mapping[str, int] = DEFAULT,
        max_waiting: int = 10_000_000,
        keep: float = 7,
        grace: float = 10,
        hosts: tuple[str, ...] = (),
        insecure: bool = False,
        http: str = "fast",
        access_log: bool = False,
        callbacks_to: Sequence[str] = (),
        callback_secrets: Sequence[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._place = place
        self._description = description
        self._reactor = reactor
        self._kinds = kinds
        self._grace = grace
        self._insecure = insecure
        now = self._now = WallClock(now)
        clock = self._clock = Wheel(reactor)
        self._recorder = FlightRecorder(seats["thread"] + MAX_ABANDONED + EXECUTOR)
        metrics = self._metrics = Metrics(kinds)
        self._store = SqlStore(place, reactor, metrics=metrics, now=now.read)
        self._feed = Feed(clock)
        self._let_the_store_tell()
        self._seats = Seats(seats)
        self._seats.shared = not isinstance(place, Place)
        self._places = Places(
            self._recorder, clock, reactor.callFromThread, seats["thread"], seats["process"]
        )
        self._seats.closed = self._places.closed
        self._runner = Runner(self._store, self._seats, self._places, kinds, clock, now, metrics=metrics)
        self._retention = Retention(self._store, keep, clock, now)
        self._resolver = Resolver(reactor.callFromThread)
        self._callbacks = Callbacks(
            self._store.outbox,
            Poster(reactor, Allowed(callbacks_to), self._resolver.lookup, clock).post,
            Signer(callback_secrets) if callback_secrets else None,
            clock,
            now,
            random,
            metrics=metrics,
        )
        self._watchdog = Watchdog(reactor.callFromThread, self._recorder.stepped, metrics.lag, self._beat)
        self._watch()
        api = self._api = Api(
            self._store,
            self._seats,
            self._feed,
            kinds,
            clock,
            now,
            chances().__next__,
            hosts,
            max_waiting,
            metrics=metrics,
        )
        self._server = _server(api, http, clock, log_access if access_log else None)
        self.port: IListeningPort | None = None
        self._shared: listening.Shared | None = None

    def _let_the_store_tell(self) -> None:
        self._store.timed = self._now.follow
        self._store.published = self._feed.publish
        self._store.progressed = self._feed.report
        self._store.followed = lambda: self._feed.wanted
        self._store.watched = self._feed.watched

    def _watch(self) -> None:
        """Let the metrics tell what is there when they are asked."""
        self._metrics.watch(
            not_ended=lambda: self._store.unfinished,
            healthy=lambda: self._store.healthy,
            free=self._seats.free_in,
            abandoned=lambda: self._places.abandoned,
            followers=lambda: self._feed.followers,
            callbacks=lambda: self._callbacks.pending,
        )

    def privilegedStartService(self) -> None:
        """Open the port; nothing comes in before the reactor runs.

        :raises StartError: it cannot be opened.
        """
        super().privilegedStartService()
        try:
            self._listen()
        except StartError:
            self._close_port()
            raise

    def startService(self) -> None:
        """Open the store, and go on with what had not ended.

        :raises StartError: it cannot be opened, or had been before: each service serves once.
        """
        if self._has_begun:
            raise StartError("This service was started before; make a new one to start again")
        self._has_begun = True
        super().startService()
        try:
            self._begin()
        except StartError:
            self.running = 0
            self._recorder.close()
            self._close_port()
            raise

    def _begin(self) -> None:
        self._listen()
        if isinstance(self._place, Place) and is_missing(self._place):
            log.warn(
                "The store has been here, and its file is gone: it is made anew",
                path=str(self._place.path),
            )
        self._open_recorder()
        seated = [kind.name for kind in self._kinds.values() if self._seats.free(kind) > 0]
        suspects = self._recorder.suspects()
        gone = self._store.open(suspects, self._now(), self._kinds, seated)
        recovery.name(suspects)
        self._recorder.clear()
        if isinstance(self._place, Place) and is_of_others(self._place):
            log.warn("Other users may read or write the store", path=str(self._place.path))
        named = {"owner": self._store.owner} if self._seats.shared else {}
        path, not_ended = str(self._place.path or "memory"), self._store.unfinished
        log.info("Store opened", store=path, not_ended=not_ended, **named)
        if self._seats.shared:  # whose clock is the one that counts
            self._store.timed = self._follow
            self._store.gone = self._callbacks.look
        else:
            self._now.was_set = self._clock_was_set
        self._feed.begin(self._store.epoch, self._store.seq)
        if self._store.newest is not None:
            self._api.ids.go_on(self._store.newest, self._now())
        for kind, tasks in gone.items():
            log.warn("There is no handler for tasks that wait", kind=kind, tasks=tasks)
        self._runner.start()
        self._retention.start()
        self._callbacks.start()
        self._reactor.callWhenRunning(self._reactor_runs)

    def _beat(self) -> None:
        self._clock.wake()
        self._store.look()
        self._now()  # hears of a clock that was set while nobody asks for the time

    def _clock_was_set(self, before: float, now: float) -> Deferred[None]:
        if now - before > LONG_STEP:
            self._retention.hold()
        return self._store.clock_was_set(before, now).addCallback(self._look_again)

    def _look_again(self, _: object) -> None:
        """What was on its way when the clock was set is looked for by the old time."""
        self._callbacks.look()
        self._store.due(self._kinds)

    def _follow(self, theirs: float, ours: float) -> float:
        change = self._now.follow(theirs, ours)
        if change > LONG_STEP:
            self._retention.hold()
        return change

    def _open_recorder(self) -> None:
        """Use the store's recorder file, or where processes share the store the first that is free."""
        path = self._place.recorder_path
        if path is None:
            return
        self._store.abandoned = partial(abandoned, path)
        try:
            if not self._seats.shared:
                self._recorder.open(path)
            elif not self._recorder.open_free(path):
                log.warn(
                    "Too many processes for flight recorders: a crash of this one charges no task",
                    path=f"{path}.*",
                )
        except OSError as error:
            more = "; start it in a folder that may be written to" if self._seats.shared else ""
            raise StartError(f"--store: cannot use {path} ({error.strerror}){more}") from None

    def _reactor_runs(self) -> None:
        if self.running:  # else it was ended before
            self._serving()

    def _serving(self) -> None:
        """The reactor runs: from now on connections are answered and signals are heard."""
        forked.hold(self)
        self._watchdog.start()
        url = self.port and self._description and listening.url(self.port, self._description)
        self._tell_that_it_serves(url or None)

    def _tell_that_it_serves(self, url: str | None) -> None:
        listening.announce(url)

    def _listen(self) -> None:
        if self.port is not None or self._description is None:
            return
        opened: list[Any] = []
        endpoint = listening.endpoint(self._reactor, self._description, self._shared)
        self._was_handed_over = isinstance(endpoint, AdoptedStreamServerEndpoint)
        endpoint.listen(self._server).addBoth(opened.append)
        port = opened[0]
        if not IListeningPort.providedBy(port):
            raise StartError(f"Cannot listen on {self._description} ({port.getErrorMessage()})")
        self.port = port
        listening.check_address(port, insecure=self._insecure)

    def close_in_child(self) -> None:
        """Let no child of a handler have the port; see `asynctask.forked.Held`."""
        if (listener := getattr(self.port, "socket", None)) is not None:
            listener.close()

    def _close_port(self) -> None:
        port, self.port = self.port, None
        if port is not None:
            port.stopListening()

    def stopService(self) -> Deferred[None]:
        """End in order; fires when all is done, however often it is asked for."""
        if self._stopping is None:
            if not self.running:  # it was not started, or not wholly
                self._close_port()
                return succeed(None)
            self._stopping = self._stop_in_order()
        done: Deferred[None] = Deferred()
        self._stopping.addBoth(done.callback)
        return done

    @inlineCallbacks
    def _stop_in_order(self) -> Any:
        """Refuse, drain, stop listening, close the store: in this order."""
        super().stopService()
        log.info("Stopping; running tasks have {grace} seconds", grace=self._grace)
        self._retention.stop()
        self._seats.draining = self._server.ending = True
        self._feed.close()
        self._recorder.stop()  # who has no patience for the rest kills us, which is no task's fault
        yield self._runner.drain(self._grace)
        self._feed.end()
        if self.port is not None:
            try:
                if not self._was_handed_over:  # in the turn in which it is closed, and before that
                    self._reactor.callLater(0, listening.accept_all, self.port)
                yield self.port.stopListening()
            except Exception:  # such as: somebody has removed the file of its socket
                log.failure("The port could not be closed in order")
        yield ensureDeferred(finish_answers(self._server.connections, self._clock))
        yield self._callbacks.stop(LAST_CALLBACKS)
        self._resolver.stop()
        yield self._store.close()
        self._places.stop()
        self._recorder.close()
        self._watchdog.stop()
        self._clock.stop()
        forked.let_go(self)
