"""The threads that read from PostgreSQL, each on a connection of its own."""

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from asynctask.cutoff import Cutoff, Cutoffs
from asynctask.pgserver import TRY_AGAIN
from asynctask.problems import Unavailable
from asynctask.readers import LONGEST, NO_ANSWER, Readable, ReaderThreads

EARLY: Final = 0.3
"""Seconds that somebody may have waited until a connection is opened for him: that may take two more, and
more where one host after the other is tried."""

T = TypeVar("T")


class _Reader(threading.local):
    """What a thread reads with."""

    def __init__(self, cutoffs: Cutoffs) -> None:
        self.cutoff = cutoffs.new()
        self.connection: Connection | None = None


class Readers:
    """Reads, so that nobody waits longer than `asynctask.readers.LONGEST`.

    :param connect: opens a connection, and has it cut off by that.
    :param begin: begins a transaction that reads.
    """

    def __init__(
        self,
        cutoffs: Cutoffs,
        connect: "Callable[[Cutoff], psycopg.Connection[Any]]",
        begin: Callable[[Connection], None],
    ) -> None:
        self.threads = ReaderThreads()
        self._mine = _Reader(cutoffs)
        self._engine: Engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(self._mine.cutoff),
            poolclass=NullPool,
            pool_reset_on_return=None,
        )
        event.listen(self._engine, "begin", begin)
        self._opened: list[Connection] = []
        self._unreachable_until = 0.0
        self._readable = Readable()

    def start(self) -> None:
        """Start the threads."""
        self.threads.start()

    def stop(self) -> None:
        """Wait for reads under way, and close."""
        self.threads.stop()
        for connection in self._opened:
            connection.close()

    def read(self, run: Callable[[Connection], T], since: float) -> T:
        """Read; all is fetched when ``run`` returns.

        :param since: when it was asked for, by the monotonic clock.
        :raises Unavailable: the database cannot be read, or not in time.
        """
        now = monotonic()
        if now - since > LONGEST or now < self._unreachable_until:
            raise Unavailable(NO_ANSWER)
        try:
            with self._mine.cutoff.waiting(since):
                found = self._read(run, since)
        except (DBAPIError, OSError) as error:  # such as: no more descriptors
            self._readable.note(error)
            raise Unavailable(NO_ANSWER) from None
        self._readable.note(None)
        return found

    def _read(self, run: Callable[[Connection], T], since: float) -> T:
        """Read; once more on a new connection where the kept one was lost, if it is early enough."""
        kept = self._mine.connection
        if kept is not None:
            try:
                return self._run(kept, run)
            except DBAPIError as error:
                self._close(kept)
                if not error.connection_invalidated or self._mine.cutoff.is_cut:
                    raise
        if monotonic() - since > EARLY:
            raise Unavailable(NO_ANSWER)
        opened = self._open()
        if monotonic() - since > LONGEST / 2:
            raise Unavailable(NO_ANSWER)  # the next one finds it open, and has the time
        self._mine.cutoff.since = since
        try:
            return self._run(opened, run)
        except DBAPIError:
            self._close(opened)
            raise

    def _run(self, connection: Connection, run: Callable[[Connection], T]) -> T:
        with connection.begin() as transaction:
            found = run(connection)
            transaction.rollback()
        return found

    def _open(self) -> Connection:
        try:
            connection = self._engine.connect()
        except (DBAPIError, OSError):
            self._unreachable_until = monotonic() + TRY_AGAIN
            raise
        self._mine.connection = connection
        self._opened.append(connection)
        return connection

    def _close(self, connection: Connection) -> None:
        self._mine.connection = None
        self._opened.remove(connection)
        self._mine.cutoff.let_go()
        connection.close()
