"""Callbacks in the store: which are due, what became of them, and the secret that signs them."""

import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from asynctask import outboxstatements as statements
from asynctask.database import Sqlite
from asynctask.deliveries import Tried
from asynctask.istore import Dues, IOutbox, ToCall, ToTell
from asynctask.migrations import UnreadableSchemaError, upgrade
from asynctask.model import ENDED, News, Task
from asynctask.rows import task_of
from asynctask.signing import new_secret
from asynctask.sqlite import BUSY, Place, StartError, check
from asynctask.works import Database, why

if TYPE_CHECKING:
    from asynctask.pgserver import Server

FROM_THE_FIRST: Final = (0.0, "")
"""Before whatever is due: times are seconds since the epoch, and no id is empty."""

LEASE: Final = 30.0
"""Seconds that one of many processes has for a try, twice what it may take: if it dies, another tries."""

T = TypeVar("T")


class Run(Protocol):
    """Does something with a connection, in another thread."""

    def __call__(self, run: Callable[[Connection], T], /) -> Deferred[T]:
        """Fires with what it returns."""


class Write(Protocol):
    """Does something in the next transaction that writes.

    :param order: what it locks, see `asynctask.works.Call`.
    """

    def __call__(self, run: Callable[[Connection], T], /, order: str) -> Deferred[T]:
        """Fires with what it returns."""


@implementer(IOutbox)
class Outbox:
    """What is to be told, in a store.

    :param read: for what only reads; ``write`` for the rest.
    :param shared: whether other processes may tell the same.
    :param healthy: whether the store can be written to.
    """

    def __init__(self, read: Run, write: Write, shared: bool, healthy: Callable[[], bool]) -> None:
        self.to_call: ToCall = lambda _due: None
        self.secret = ""
        self._read = read
        self._write = write
        self._shared = shared
        self._healthy = healthy

    def open(self, connection: Connection) -> None:
        """The store is being opened, in this transaction."""
        self.secret = secret_of(connection)

    def tell(self, news: Sequence[News]) -> None:
        """A commit has changed tasks: some may have ended."""
        for task in news:
            if isinstance(task, Task) and task.callback is not None and task.status in ENDED:
                self.to_call(ToTell(task.task_id, task.attempt, task.callback.url))

    @property
    def healthy(self) -> bool:
        """See `IOutbox`."""
        return self._healthy()

    def due(self, now: float, after: tuple[float, str] | None, limit: int) -> Deferred[Dues]:
        """See `IOutbox`."""
        moment, task_id = after or FROM_THE_FIRST
        given = {"now": now, "after": moment, "after_task": task_id, "limit": limit}

        def read(connection: Connection) -> Dues:
            rows = connection.execute(statements.CALLBACKS_DUE, given).all()
            return Dues(
                found=[ToTell(*row[:4]) for row in rows],
                after=(rows[-1].callback_due, rows[-1].task_id) if len(rows) == limit else None,
                next_due=connection.scalar(statements.NEXT_CALLBACK, {"now": now}),
                pending=None if after else connection.scalar(statements.PENDING_CALLBACKS),
            )

        return self._read(read)

    def outcome(self, due: ToTell, now: float) -> Deferred[Task | None]:
        """See `IOutbox`."""
        given = {"of_task": due.task_id, "of_attempt": due.attempt, "now": now, "lease": now + LEASE}

        def find(statement: Any) -> Callable[[Connection], Task | None]:
            def run(connection: Connection) -> Task | None:
                row = connection.execute(statement, given).one_or_none()
                return None if row is None else task_of(row)

            return run

        if self._shared:
            return self._write(find(statements.CLAIM_OUTCOME), f"task {due.task_id}")
        return self._read(find(statements.OUTCOME))

    def give_back(self, task: Task, now: float) -> Deferred[None]:
        """See `IOutbox`."""
        if not self._shared:
            return succeed(None)
        given = {
            "of_task": task.task_id,
            "of_attempt": task.attempt,
            "of_end": task.finished_at,
            "now": now,
        }
        return self._write(
            lambda connection: connection.execute(statements.GIVE_BACK, given).rowcount,
            f"task {task.task_id}",
        ).addCallback(lambda _: None)

    def keep(self, tried: Tried) -> Deferred[bool]:
        """See `IOutbox`."""
        given = {
            "of_task": tried.task_id,
            "of_attempt": tried.attempt,
            "of_end": tried.finished_at,
            "new_state": tried.state,
            "new_due": tried.due,
            "new_error": tried.error,
        }
        return self._write(
            lambda connection: bool(connection.execute(statements.CALLED, given).rowcount),
            f"task {tried.task_id}",
        )


def secret_of(connection: Connection) -> str:
    """The secret that a database keeps; the first who asks draws it."""
    kept = connection.scalar(statements.SECRET)
    if kept is None:
        connection.execute(statements.KEEP_SECRET, {"secret": new_secret()})
        kept = connection.scalar(statements.SECRET)
    return str(kept)


def show_secret(place: "Place | Server") -> str:
    """The secret of a store for its operator, whether a service has it open or it has yet to be made.

    :raises StartError: it has none, and cannot be given one.
    """
    if isinstance(place, Place):
        if place.path is None:
            raise StartError(
                "--store sqlite:// is in memory, its secret too; give --callback-secret a file"
            )
        if kept := _kept(place):
            return kept
        check(place)
        if not place.path.exists():
            sys.stderr.write(f"asynctask: {place.path} was not there; it is made now, with this secret\n")
        return _shown(Sqlite(place), place)
    from asynctask.postgres import Postgres

    return _shown(Postgres(place), place)


def _shown(database: Database, place: "Place | Server") -> str:
    """The secret of a database that is brought up for it, where it has yet to be."""
    database.open()
    try:
        with database.connect() as connection:
            with connection.begin():
                database.prepare(connection)
                upgrade(connection)
            with connection.begin():
                return secret_of(connection)
    except UnreadableSchemaError as error:
        raise StartError(f"--store {place.path} {error}") from None
    except DBAPIError as error:
        raise StartError(f"--store {place.path} cannot be used ({why(error)})") from None
    finally:
        database.close()


def _kept(place: Place) -> str | None:
    """What a store tells that a service may have open; None where it does not say."""
    assert place.path is not None
    try:
        with closing(sqlite3.connect(f"{place.path.as_uri()}?mode=ro", uri=True, timeout=BUSY)) as file:
            row = file.execute("SELECT value FROM meta WHERE key = 'callback_secret'").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if row is None else str(row[0])
