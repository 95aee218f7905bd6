"""What the start of a store does with its database, and what it finds there."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from time import sleep
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from twisted.logger import Logger

from asynctask import statements
from asynctask.database import Database
from asynctask.migrations import UnreadableSchemaError, upgrade
from asynctask.model import ENDED, News, Task
from asynctask.problems import StartError
from asynctask.recorder import Suspect
from asynctask.recovery import charge, moved_in, settle
from asynctask.sqlite import Sqlite
from asynctask.sqlitefile import BUSY, Place
from asynctask.works import why

if TYPE_CHECKING:
    from asynctask.pgserver import Server

log = Logger(namespace="asynctask.store")

LOCK_NOT_AVAILABLE: Final = "55P03"
"""SQLSTATE of a statement that another program's lock has kept waiting for too long."""

LET_OTHERS: Final = 5.0
"""Seconds between two tries to bring the schema up, for the requests of the processes that serve: ten times
what a try may hold them up."""


class Start(NamedTuple):
    """What a start has found.

    :ivar unfinished: for each kind, how many of its tasks have not ended.
    :ivar left: what an earlier process was running, as it is now: ended, or about to go on.
    :ivar epoch: see `asynctask.istore.IStore`, as ``seq`` and ``newest``.
    """

    unfinished: Counter[str]
    left: list[Task]
    epoch: str
    seq: int
    newest: str | None


def database_of(place: "Place | Server", busy: float = BUSY) -> Database:
    """The connections to the database of this place.

    :param busy: seconds to wait for another program that holds a SQLite file.
    """
    if isinstance(place, Place):
        return Sqlite(place, busy)
    # Not at the top: its driver is only there where it is wanted.
    from asynctask.postgres import Postgres

    return Postgres(place)


@contextmanager
def usable(path: object) -> Iterator[None]:
    """Say in a sentence why the store at this path cannot be used.

    :raises StartError: it cannot.
    """
    try:
        yield
    except UnreadableSchemaError as error:
        raise StartError(f"--store {path} {error}") from None
    except DBAPIError as error:
        raise StartError(f"--store {path} cannot be used ({why(error)})") from None


def bring_up(connection: Connection, database: Database) -> None:
    """Give the database the schema of this version, in a transaction of its own.

    A program that reads for long, as `pg_dump` does, is waited for, but not in the queue for its tables:
    whoever else wants them would wait there too.
    """
    told = False
    while True:
        try:
            with connection.begin():
                database.prepare(connection)
                upgrade(connection, again=told)
            return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
        if not told:
            log.warn("Another program holds the tables; the schema is brought up once it lets go")
            told = True
        sleep(LET_OTHERS)


def begin(
    connection: Connection,
    database: Database,
    suspects: Collection[Suspect],
    kinds: Collection[str],
    now: float,
) -> Start:
    """Charge whom processes died in, and settle what is not to run again of what they left.

    :param kinds: those that can run here.
    """
    # First of all: from `tell` on, commits of other processes wait for the end of this transaction.
    counted = Counter({row.kind: row.tasks for row in connection.execute(statements.UNFINISHED)})
    news: list[News] = []
    charge(connection, database, suspects, now, news)
    settle(connection, database, kinds, now, news)
    database.tell(connection, news, now)
    left = moved_in(news)
    return Start(
        counted - Counter(task.kind for task in left if task.status in ENDED),
        left,
        connection.scalar(statements.EPOCH) or "",
        connection.scalar(statements.LAST_EVENT) or 0,
        connection.scalar(statements.NEWEST),
    )
