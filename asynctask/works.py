"""What the writer is asked to do, and what it needs of a database."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError
from twisted.internet.defer import Deferred
from twisted.python.threadpool import ThreadPool

from asynctask.batches import Differs, End
from asynctask.model import News, Status, Task
from asynctask.problems import MAY_BE_KEPT, NOT_KEPT, OutcomeUnknown, Problem, Unavailable
from asynctask.wire import in_a_line

T = TypeVar("T")


class Add(Struct, gc=False):
    """New tasks, all or none.

    :ivar news: what is told of them.
    :ivar at: when that was handed over, by the monotonic clock.
    """

    rows: list[tuple[Any, ...]]
    news: list[News]
    size: int
    done: Deferred[None]
    at: float = 0.0


class Save(Struct, gc=False):
    """How an attempt ended; answered with the status that it left, None if it was given up before.

    :ivar at: infinite: nobody waits for it, so it is never too late.
    """

    end: End
    done: Deferred[Status | None]
    at: float = inf


CLAIM: Final = "kind "
"""How the order of a claim begins, which locks a kind."""


ALONE: Final = "alone"
"""The order of what has a transaction of its own, after all that came before it and before all that comes
later, ends of attempts too."""


class Call(Struct, gc=False):
    """Anything else to be done in a transaction; answered with what it returns.

    :ivar run: is given a list too, for what it has to tell; it may be run again, after a transaction that
        was rolled back.
    :ivar order: what it locks; all processes lock in this order, or they would wait for each other. What
        locks a task says ``task`` and its id, and what locks whichever it finds, ``task`` alone; no other
        order comes after these.
    """

    run: Callable[[Connection, list[News]], Any]
    order: str
    done: Deferred[Any]
    size: int = 0
    at: float = 0.0


Work = Add | Save | Call


def in_turn(batch: Sequence[Work]) -> list[Work]:
    """As they are done and answered: new tasks, ends of attempts, and other things by what they lock. Who
    is answered later knows of all that was done before."""
    adds = [work for work in batch if isinstance(work, Add)]
    saves = [work for work in batch if isinstance(work, Save)]
    calls = [work for work in batch if isinstance(work, Call)]
    return [*adds, *saves, *sorted(calls, key=attrgetter("order"))]


def transactions(batch: Sequence[Work], *, shared: bool) -> list[list[Work]]:
    """Those in which a batch is done, one after the other.

    Where many share a database, what locks single tasks has one of its own, and locks them by their ids, as
    ends of attempts do: who had locked anything else before might wait for somebody who waits for that.
    """
    ordered = in_turn(batch)
    if not (shared and ordered and _of_tasks(ordered[-1])):
        return [ordered]
    return [list(some) for _, some in groupby(ordered, _of_tasks)]


def _of_tasks(work: Work) -> str:
    return work.order[: len("task ")] if isinstance(work, Call) and work.order.startswith("task") else ""


class Committed(Struct, gc=False):
    """What a transaction has to tell, and its number among all of them."""

    seq: int
    news: list[News]


NOTHING: Final = Committed(0, [])


OWN_FAULT: Final = (IntegrityError, DataError, InterfaceError, ProgrammingError)
"""Errors of the database that one row is to blame for."""

COLLISIONS: Final = ("40001", "40P01")
"""A serialization failure, a deadlock (the SQLSTATEs of PostgreSQL, appendix A)."""


def refusal(unknown: bool = False) -> Problem:
    """What clients are told of work that was not done, or of which that is not known."""
    return OutcomeUnknown(MAY_BE_KEPT) if unknown else Unavailable(NOT_KEPT)


def why(error: Exception) -> str:
    """What the database says, in one line."""
    return in_a_line(error.orig if isinstance(error, DBAPIError) else error)


def collided(error: Exception) -> bool:
    """Whether a transaction collided with another process's, or found a task other than it supposed: it may
    be done again."""
    return (
        isinstance(error, Differs) or getattr(getattr(error, "orig", None), "sqlstate", None) in COLLISIONS
    )


class Database(Protocol):
    """A database under the store.

    :ivar owner: this process, as the rows of its tasks name it.
    :ivar shared: whether other processes may use it too.
    :ivar orphans: the statement that finds tasks of processes that are gone.
    :ivar cut_off: the statement that finds running tasks that nobody is to run again.
    :ivar is_orphan: the statement that finds out whether a running task was left by a process that is gone.
    :ivar in_doubt: whether what the last `commit` should have committed may be there although it failed.
    :ivar readers: the threads that read; None where only the writer can.
    """

    owner: str
    shared: bool
    orphans: Any
    cut_off: Any
    is_orphan: Any
    in_doubt: bool
    readers: ThreadPool | None

    def open(self) -> None:
        """Take what is this process's alone."""

    def close(self) -> None:
        """Give it back."""

    def prepare(self, connection: Connection) -> None:
        """Before the schema is brought up, in its transaction."""

    def start(self, connection: Connection) -> None:
        """Let other processes know of this one, in the transaction of its start."""

    def start_reading(self) -> None:
        """Start the threads that read."""

    def stop_reading(self) -> None:
        """Wait for reads under way, and close."""

    def read(self, run: Callable[[Connection], T], since: float) -> T:
        """Read, in a thread that reads; `Unavailable` if that fails, or would take too long since then."""

    def connect(self) -> Connection:
        """Open a connection that writes."""

    def add(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert new tasks."""

    def claim(self, connection: Connection, given: Mapping[str, Any]) -> list[Task]:
        """Take due tasks, those due first, as ``given`` says: `asynctask.statements.CLAIM_DUE` takes it."""

    def end(self, connection: Connection, ends: Sequence[End], news: list[News]) -> list[Status | None]:
        """Write how attempts ended: the status of each task, None for one that was given up before."""

    def end_as_supposed(
        self, connection: Connection, ends: Sequence[End], news: list[News]
    ) -> list[Status | None]:
        """The same with less to ask; `Differs` where something is another than the ends suppose."""

    def tell(self, connection: Connection, news: Sequence[News], now: float) -> int:
        """Keep what the transaction changes for those who follow, and tell its number; 0 for nothing."""

    def waiting_since(self, since: float) -> None:
        """Somebody waits for what is written since then, by the monotonic clock; 0 for nobody."""

    def commit(self, connection: Connection, news: Sequence[News], now: float) -> int:
        """Do what `tell` does, and commit; the number that `tell` would give."""

    def leave(self, connection: Connection | None) -> None:
        """Let other processes know that this one ends.

        :param connection: the one that writes; None if the database cannot be reached.
        """

    def has_gone(self) -> bool:
        """Whether it is seen to be there no more, without asking it; then no commit succeeds."""

    def probe(self, connection: Connection) -> None:
        """Write something small, wherever it shows that tasks can be written."""

    def roll_back(self, connection: Connection) -> None:
        """Undo whatever transaction is open."""

    def keep_log_short(self, connection: Connection) -> None:
        """Copy the write-ahead log, and shorten it where it is too long; asked when all are answered."""
