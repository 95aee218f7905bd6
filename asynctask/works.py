"""What the writer is asked to do, in which transactions, and what those have come to."""

from collections.abc import Callable, Sequence
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import Any, Final, TypeVar

from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError
from twisted.internet.defer import Deferred

from asynctask.batches import Differs, End
from asynctask.model import News, Status
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
    adds: list[Work] = []
    saves: list[Work] = []
    calls: list[Call] = []
    for work in batch:  # by their types: to ask for an instance of another Struct takes long
        if type(work) is Add:
            adds.append(work)
        elif type(work) is Save:
            saves.append(work)
        elif type(work) is Call:
            calls.append(work)
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
