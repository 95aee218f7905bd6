"""Cuts off what takes too long on a connection, since only statements end by themselves.

No COMMIT does, nor does the silence of a server that hangs.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

import psycopg
from twisted.logger import Logger

from asynctask.readers import LONGEST

log = Logger(namespace="asynctask.store")

LOOK: Final = 0.1
"""Seconds between two looks at what is under way."""

TELL: Final = 10.0
"""Seconds between two lines in the log: each connection may be cut off again and again."""


class Cutoff:
    """Holds one connection after the other, and cuts the one at hand off when somebody has waited too long.

    :ivar since: since when that somebody waits, by the monotonic clock; 0 for nobody.
    :ivar is_cut: whether the connection at hand was cut off.
    """

    def __init__(self) -> None:
        self.since = 0.0
        self._wire: socket.socket | None = None
        self.is_cut = False

    def hold(self, connection: "psycopg.Connection[Any]") -> None:
        """Cut this connection off from now on: it has its own time, whatever it took to open it."""
        self.let_go()
        self.is_cut = False
        if self.since:
            self.since = monotonic()
        # A descriptor of our own, since the number of the other may mean another socket at any time.
        self._wire = socket.socket(fileno=os.dup(connection.fileno()))

    def let_go(self) -> None:
        """The connection is closed."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    @contextmanager
    def waiting(self, since: float | None = None) -> Iterator[None]:
        """Somebody waits for what is done here."""
        self.since = monotonic() if since is None else since
        try:
            yield
        finally:
            self.since = 0.0

    def look(self, now: float) -> float:
        """Cut the connection off, from another thread, if it is time; tell after how many seconds."""
        since, wire = self.since, self._wire
        if not since or wire is None or self.is_cut or now - since <= LONGEST:
            return 0.0
        self.is_cut = True
        with suppress(OSError):  # it was closed just now
            wire.shutdown(socket.SHUT_RDWR)
        return now - since


class Cutoffs:
    """Looks after them, in a thread of its own."""

    def __init__(self) -> None:
        self._cutoffs: list[Cutoff] = []
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._untold: list[float] = []
        self._tell_at = 0.0

    def new(self) -> Cutoff:
        """A new one."""
        cutoff = Cutoff()
        self._cutoffs.append(cutoff)
        return cutoff

    def start(self) -> None:
        """Cut off from now on."""
        self._thread = threading.Thread(target=self._run, name="asynctask-cutoff", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cut off no more."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        for cutoff in self._cutoffs:
            cutoff.let_go()

    def _run(self) -> None:
        while not self._end.wait(LOOK):
            self._look(monotonic())

    def _look(self, now: float) -> None:
        cut = [seconds for cutoff in list(self._cutoffs) if (seconds := cutoff.look(now))]
        self._untold += cut
        if cut and now >= self._tell_at:
            seconds, times = round(max(self._untold), 1), len(self._untold)
            log.warn("Store takes too long, and was cut off", seconds=seconds, times=times)
            self._untold, self._tell_at = [], now + TELL
