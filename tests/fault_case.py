"""A store on a PostgreSQL that is in trouble, with connections of the test's own beside it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from asynctask.model import News
from asynctask.problems import Unavailable
from asynctask.store import SqlStore
from tests import postgres
from tests.test_postgres import OnServer

LEASE = 1.0
"""Seconds; the server has been up for longer."""

SOON = 10.0
"""Seconds in which a client has an answer, on a busy machine too; TCP by itself would take minutes."""

PATIENCE = 60.0
"""Seconds for what comes within a few, unless it never does."""


class FaultTestCase(OnServer):
    """With connections of the test's own beside the store's."""

    patient = False

    def outside(self) -> "psycopg.Connection[Any]":
        """Another program's connection to the same database."""
        connection = psycopg.connect(postgres.url_of(self.database))
        self.addCleanup(connection.close)
        return connection

    def execute(self, statement: str, *given: Any) -> Any:
        """The first row of a statement that is committed at once, or None."""
        with psycopg.connect(postgres.url_of(self.database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), given)
            return cursor.fetchone() if cursor.description else None

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that comes by itself."""
        deadline = time.monotonic() + PATIENCE
        self.turns.catch_up()
        while not condition():
            self.assertLess(time.monotonic(), deadline, "it never came")
            time.sleep(0.01)
            self.turns.catch_up()

    def until_one_waits(self) -> None:
        """Until a transaction waits for the lock that another one has."""
        self.until(
            lambda: self.execute(
                "SELECT pid FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )

    def until_it_has_looked(self, store: SqlStore) -> None:
        """Until what it writes when it first looks at the others is written."""
        sharing = store._sharing
        self.until(lambda: sharing is not None and sharing._processes is not None)
        self.wait(store.settle())

    def until_healthy(self) -> None:
        self.until(lambda: self.store.healthy)

    def refused(self, deferred: Callable[[], "Deferred[Any]"]) -> Unavailable:
        """It is answered in time, with a 503."""
        began = time.monotonic()
        try:
            self.wait(deferred())
        except Unavailable as refusal:
            self.assertLess(time.monotonic() - began, SOON)
            return refusal
        raise self.failureException("it was not refused")

    @contextmanager
    def logged(self) -> Iterator[list[str]]:
        """What is logged meanwhile."""
        lines: list[str] = []

        def note(event: LogEvent) -> None:
            lines.append(str(event.get("log_format")))

        observer = cast(ILogObserver, note)
        globalLogPublisher.addObserver(observer)
        yield lines
        globalLogPublisher.removeObserver(observer)

    @contextmanager
    def transaction_under_way(self) -> Iterator["Deferred[None]"]:
        """A transaction of the store's that takes as long as this, while others are asked for."""
        begun, go_on = threading.Event(), threading.Event()

        def run(_connection: Connection, _news: list[News]) -> None:
            begun.set()
            go_on.wait(PATIENCE)

        done = self.store._writer.call(run)
        self.until(begun.is_set)
        try:
            yield done
            self.turns.catch_up()
        finally:
            go_on.set()
