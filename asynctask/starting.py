"""What the start of a store does with its database, and what it finds there."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from asynctask import statements
from asynctask.migrations import UnreadableSchemaError, upgrade
from asynctask.model import ENDED, News, Task
from asynctask.problems import StartError
from asynctask.recorder import Suspect
from asynctask.recovery import charge, moved_in, settle
from asynctask.works import Database, why


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
    """Give the database the schema of this version, in a transaction of its own."""
    with connection.begin():
        database.prepare(connection)
        upgrade(connection)


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
