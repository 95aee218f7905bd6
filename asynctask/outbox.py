"""Callbacks in the store: which are due, what became of them, and the secret that signs them."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from asynctask import outboxstatements as statements
from asynctask.deliveries import Tried
from asynctask.istore import Dues, IOutbox, ToCall, ToTell
from asynctask.model import ENDED, News, Task
from asynctask.rows import task_of
from asynctask.signing import new_secret

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

    def answered(self) -> Deferred[list[str]]:
        """See `IOutbox`."""
        return self._read(lambda connection: list(connection.scalars(statements.DELIVERED_LAST)))

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
