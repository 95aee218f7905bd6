"""What is read from the store."""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import islice
from time import monotonic
from typing import Any, Final, TypeVar

from sqlalchemy import BindParameter, Connection, Integer, Select, bindparam, select, union_all
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool

from asynctask import changes, sharedstatements, statements
from asynctask.database import Database
from asynctask.istore import Hook
from asynctask.live import Live
from asynctask.model import WAITING, News, Query, Status, Task
from asynctask.problems import Unavailable
from asynctask.rows import task_of
from asynctask.tables import task
from asynctask.writer import Writer

PAGE: Final = 64 * 1024
"""Bytes of events that are read at once, or one commit's."""

LIST: Final = 1024 * 1024
"""Characters of errors from which on a page of a list has no further task: written as JSON, they may be six
times as many, and nobody else is answered meanwhile."""

LARGE: Final = 4
"""Commits of more than a page that are kept: who follows takes such a one in pieces, and is not alone."""

MOST_LISTS: Final = 128
"""Statements of lists that are kept, one for each kind of filter; the statuses alone have 64."""

RECOUNTS: Final = 10
"""Times that tasks are counted after a failed commit came back, until it is a sure count."""

T = TypeVar("T")


class Reading:
    """The part of a store that reads, and keeps its count of tasks right. Where no threads read, the writer
    does.

    :ivar unfinished: how many tasks have not ended, those included that are on their way.
    :ivar asked: how many changes of tasks that may end or begin anew, or new tasks, were ever asked for.
    :ivar answered: of how many of them it is known what came of them.
    """

    _reactor: IReactorFromThreads
    _database: Database
    _writer: Writer
    _live: Live
    _large: dict[int, list[News]]
    waiting: Hook
    cancelling: Hook
    unfinished: int
    asked: int
    answered: int

    def came_back(self, news: Sequence[News]) -> None:
        """What failed transactions have changed after all: look for what waits, and count anew.

        And look for what is to be cancelled, of which there is no news.
        """
        self.waiting([one for one in news if isinstance(one, Task) and one.status in WAITING])
        self._recount(RECOUNTS)

        def find(db: Connection) -> list[Task]:
            given = {"me": self._database.owner}
            return [task_of(row) for row in db.execute(statements.TO_BE_CANCELLED, given)]

        asked = maybeDeferred(self._read, find)
        asked.addCallback(self.cancelling).addErrback(lambda failure: failure.trap(Unavailable))

    def _recount(self, times: int) -> None:
        """Count until nothing was on its way meanwhile, or so often."""
        quiet = self.asked == self.answered

        def again(_: None) -> None:
            if times > 1 and not (quiet and self.asked == self.answered):
                self._recount(times - 1)

        counted = maybeDeferred(self.recount)
        counted.addCallback(again).addErrback(lambda failure: failure.trap(Unavailable))

    def recount(self) -> Deferred[None]:
        """Take over how many tasks have not ended, where that differs by more than what is on its way."""
        answered = self.answered

        def compare(found: int) -> None:
            # What was on its way then, or was asked for since, is in the count, or is not.
            if abs(found - self.unfinished) > self.asked - answered:
                self.unfinished = found

        return self.count().addCallback(compare)

    def count(self) -> Deferred[int]:
        """How many tasks have not ended, whoever accepted them."""
        return self._read(lambda db: sum(row.tasks for row in db.execute(statements.UNFINISHED)))

    def events(self, seq: int, limit: int) -> Deferred[Sequence[tuple[int, list[News]]] | None]:
        """See `IStore`."""
        if seq in self._large:
            return succeed([(seq, self._large[seq])])

        def read(db: Connection) -> list[tuple[int, str]] | None:
            found, size = [], 0
            with db.execute(statements.EVENTS, {"from_seq": seq, "limit": limit}) as rows:
                for number, body in rows:
                    found.append((number, body))
                    size += len(body)
                    if size > PAGE:
                        break
            # Afterwards: some may be forgotten between two statements.
            last = db.scalar(statements.LAST_EVENT) or 0
            first = db.scalar(statements.FIRST_EVENT) or last + 1
            is_whole = first <= seq <= last + 1 or (0 < seq < first and _is_whole(db))
            return found if is_whole else None

        def decode(found: list[tuple[int, str]] | None) -> list[tuple[int, list[News]]] | None:
            if found is None:
                return None
            commits = [(number, changes.read(body)) for number, body in found]
            if found and len(found[0][1]) > PAGE:
                self._large |= dict(commits)
                while len(self._large) > LARGE:
                    del self._large[next(iter(self._large))]
            return commits

        return self._read(read).addCallback(decode)

    def unread(self) -> None:
        """Commits that were read may not be there any more, and others have their numbers."""
        self._large.clear()

    def elsewhere(self, task_ids: Collection[str] | None, limit: int) -> Deferred[list[Task]]:
        """Tasks that run in another process and have told how far they are.

        :param task_ids: which of these; None for all.
        """
        asked = sharedstatements.ELSEWHERE if task_ids is None else sharedstatements.ELSEWHERE_OF
        which = {} if task_ids is None else {"task_ids": list(islice(task_ids, limit))}
        given = {"me": self._database.owner, "limit": limit, **which}
        return self._read(lambda db: [task_of(row) for row in db.execute(asked, given)])

    def get(self, task_id: str) -> Deferred[Task | None]:
        """See `IStore`."""

        return self._read(lambda db: find(db, task_id)).addCallback(
            lambda task: task and self._live.shown(task)
        )

    def list(self, query: Query) -> Deferred[tuple[list[Task], str | None]]:
        """See `IStore`."""

        def read(connection: Connection) -> list[Task]:
            return [task_of(row) for row in connection.execute(*page_of(query))]

        def page(found: list[Task]) -> tuple[list[Task], str | None]:
            tasks = [self._live.shown(task) for task in _page(found, query.limit)]
            return tasks, tasks[-1].task_id if len(found) > len(tasks) else None

        return self._read(read).addCallback(page)

    def _write(self, write: Callable[[Connection], T], order: str = "") -> Deferred[T]:
        return self._writer.call(lambda db, _: write(db), order=order)

    def _read(self, read: Callable[[Connection], T]) -> Deferred[T]:
        if self._database.readers is None:
            return self._write(read)
        readers = self._database.readers
        return deferToThreadPool(self._reactor, readers, self._database.read, read, monotonic())


def _is_whole(connection: Connection) -> bool:
    """Whether all that was ever told is kept: one that failed may have taken the first numbers.

    It may be wrong where two processes told the first two at the same time, and only the second is left.
    """
    upto, body = connection.execute(statements.EARLIEST).one()
    return bool(upto == len(body.encode()))


def find(connection: Connection, task_id: str, *, locked: bool = False) -> Task | None:
    """Read a task.

    :param locked: so that no other process changes it before this transaction ends.
    """
    statement = statements.GET_LOCKED if locked else statements.GET
    row = connection.execute(statement, {"task_id": task_id}).one_or_none()
    return None if row is None else task_of(row)


def _page(found: Sequence[Task], limit: int) -> Sequence[Task]:
    """So many tasks, or fewer where their errors are long."""
    size = 0
    for place, one in enumerate(found[:limit]):
        size += 0 if one.error is None else len(one.error.message)
        if size > LIST and place:
            return found[:place]
    return found[:limit]


def page_of(query: Query) -> tuple[Select[Any], dict[str, Any]]:
    """The statement of a list, newest first, and what it is given.

    Each status is read by its index, and then the newest of all are taken.

    It finds one row more than the page has, which tells whether there is a next page.
    """
    by = {"of_kind": query.kind, "of_name": query.name, "before": query.cursor}
    given = {name: value for name, value in by.items() if value is not None}
    statuses = tuple(status for status in Status if status in query.statuses)
    return _list_by(frozenset(given), statuses), {**given, "rows": query.limit + 1}


@lru_cache(maxsize=MOST_LISTS)
def _list_by(by: frozenset[str], statuses: tuple[Status, ...]) -> Select[Any]:
    """Made once: of a statement in parts, only the collector lets go."""
    limit: BindParameter[int] = bindparam("rows", type_=Integer)
    wanted = select(*statements.LISTED).order_by(task.c.task_id.desc()).limit(limit)
    of_kind: BindParameter[str] = bindparam("of_kind")
    if "before" in by:
        wanted = wanted.where(task.c.task_id < bindparam("before"))
    if "of_name" in by:
        wanted = wanted.where(task.c.name == bindparam("of_name"))
    if "of_kind" in by:
        wanted = wanted.where(task.c.kind == of_kind)
    if {"of_kind", "of_name"} & by:
        statuses = statuses or tuple(Status)
    parts = [wanted.where(task.c.status == status) for status in statuses] or [wanted]
    if len(parts) == 1:
        return parts[0]
    together = union_all(*(select(part.subquery()) for part in parts)).subquery()
    return select(together).order_by(together.c.task_id.desc()).limit(limit)
