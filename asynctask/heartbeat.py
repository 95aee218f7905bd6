"""The process's heartbeat on a shared database: it shows that it is alive, and finds out who is not.

In a thread of its own with a connection of its own, so that neither a busy loop nor a long transaction can
make a living process look dead.
"""

import threading
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Final

import psycopg
from twisted.logger import Logger

from asynctask.pgserver import PATIENCE, STAY, TRY_AGAIN, Server, connect
from asynctask.postgres import BRIEFLY, SECONDS, Postgres
from asynctask.wire import in_a_line

log = Logger(namespace="asynctask.store")

BEATS: Final = 4
"""Heartbeats of one lease: some may be lost."""

LONGEST_PAUSE: Final = 4.0
"""Seconds between two at most: another process may have a shorter lease, and takes us for dead by that."""

COMING_BACK: Final = 4.0
"""Seconds within which every process has reached a database that is back: each tries it every `TRY_AGAIN`.
Until they are over, a process that has just started takes nobody for dead."""

_LIGHTLY: Final = f"{BRIEFLY}; SET LOCAL synchronous_commit = off".encode()
"""A heartbeat is over before it would be on disk."""

_BEAT: Final = f"UPDATE process SET seen = {SECONDS} WHERE id = %s RETURNING seen".encode()  # noqa: S608

AT_ONCE: Final = 0.5
"""Seconds within which the answer to a heartbeat tells the time; the database is asked again soon."""

_SILENT: Final = f"{SECONDS} - %(lease)s"
_LOOK: Final = (
    f"SELECT id, seen, seen < {_SILENT} AND extract(epoch FROM pg_postmaster_start_time()) < {_SILENT} "  # noqa: S608
    "FROM process WHERE id <> %(me)s"
).encode()
"""The others, and whether they are silent; not while the server itself has just come back: they need a
moment too."""

_REAP: Final = (
    b"DELETE FROM process WHERE id IN (SELECT id FROM process WHERE id = %s AND abs(seen - %s) < 0.001 "
    b"FOR UPDATE SKIP LOCKED)"
)
"""One that has not been heard of since, and is not in the middle of a transaction, which holds its row."""


class Heartbeat:
    """The thread.

    :param troubled: told, in this thread, each time that the database does not answer, or does not know
        this process any more: a transaction will find out, and beat in its place if it can.
    :param reaped: told, in this thread, when another process was taken for dead.
    :param timed: told, in this thread, the database's time and this machine's, in seconds since the epoch.
    """

    def __init__(
        self,
        server: Server,
        database: Postgres,
        troubled: Callable[[], object],
        reaped: Callable[[], object],
        timed: Callable[[float, float], object],
    ) -> None:
        self._server = server
        self._database = database
        self._troubled = troubled
        self._reaped = reaped
        self._timed = timed
        self._cutoff = database.cutoffs.new()
        self._failing = False
        self._steady: float | None = None
        self._last = 0.0
        self._heard: dict[str, tuple[float, float, bool]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asynctask-heartbeat", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Beat no more; the lease ends with the process's row."""
        self._end.set()

    def join(self) -> None:
        """Wait for the end of the thread, but not for a server that hangs."""
        self._thread.join(2 * PATIENCE)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                with connect(self._server.url, autocommit=True) as connection:
                    self._cutoff.hold(connection)
                    self._beat_on(connection)
            except (psycopg.Error, OSError) as error:  # such as: no more descriptors
                if not self._failing:
                    log.warn("Store does not answer the heartbeat", error=in_a_line(error))
                self._failing = True
                self._troubled()
            finally:
                self._cutoff.let_go()
            self._end.wait(TRY_AGAIN)

    def _beat_on(self, connection: "psycopg.Connection[Any]") -> None:
        pause = min(self._server.lease / BEATS, LONGEST_PAUSE)
        with self._cutoff.waiting():
            connection.execute(STAY)
        while not self._end.is_set():
            with self._cutoff.waiting():
                self._beat(connection)
            if self._failing:
                self._failing = False
                log.info("Store answers the heartbeat again")
            self._end.wait(pause)

    def _beat(self, connection: "psycopg.Connection[Any]") -> None:
        with connection.transaction():
            connection.execute(_LIGHTLY)
            asked = time()
            seen = connection.execute(_BEAT, (self._database.owner,)).fetchone()
            took = time() - asked
        if seen is None:
            self._troubled()
        elif 0 <= took < AT_ONCE:
            self._timed(seen[0], asked + took / 2)
        now = monotonic()
        if self._steady is not None and now - self._last > self._server.lease / 2:
            # The database was away, for the others too: they are given as long as they would have had.
            self._steady = now + self._server.lease
        elif self._steady is None:
            # The database may have been away until now, and the others come back a little later.
            self._steady = now + min(self._server.lease, COMING_BACK)
        self._last = now
        silent = self._silent(connection, now)
        if now >= self._steady and (reaped := self._reap(connection, silent)):
            for owner in reaped:
                log.warn("Another process is silent, and its tasks go on elsewhere", owner=owner)
            self._reaped()

    def _silent(self, connection: "psycopg.Connection[Any]", now: float) -> list[tuple[str, float]]:
        """Who was not heard of for a lease by our clock; or for one by the database's, which may have been
        set, and half of one by ours."""
        lease = self._server.lease
        rows = connection.execute(_LOOK, {"lease": lease, "me": self._database.owner}).fetchall()
        before, self._heard = self._heard, {}
        silent = []
        for owner, seen, is_silent in rows:
            last, since, found = before.get(owner, (seen, now, not before))
            if last != seen:
                since, found = now, False
            self._heard[owner] = seen, since, found
            # Those that were there before us have most likely been gone for long.
            by_both = min(lease / 2, COMING_BACK) if found else lease / 2
            if now - since >= (by_both if is_silent else lease):
                silent.append((owner, seen))
        return silent

    def _reap(self, connection: "psycopg.Connection[Any]", silent: list[tuple[str, float]]) -> list[str]:
        if not silent:
            return []
        with connection.transaction():
            connection.execute(_LIGHTLY)
            return [one[0] for one in silent if connection.execute(_REAP, one).rowcount]
