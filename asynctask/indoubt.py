"""What commits that failed may have kept, until the next one that succeeds has made sure of it."""

from collections.abc import Iterable

from sqlalchemy import Connection

from asynctask import changes, statements
from asynctask.batches import End
from asynctask.database import Database
from asynctask.model import RUNNING, Deleted, News, Task
from asynctask.recovery import unrun_starts
from asynctask.wire import dump
from asynctask.works import Add, Committed, Work


class InDoubt:
    """Keeps their new tasks and starts, in the thread that writes, until it undoes what is left of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._task_ids: list[str] = []
        self._started: list[Task] = []

    def note_starts(self, news: Iterable[News]) -> None:
        """A commit failed that had this to tell: it may have started attempts, which nobody runs."""
        self._started += [one for one in news if isinstance(one, Task) and one.status is RUNNING]

    def note_tasks(self, batch: Iterable[Work]) -> None:
        """It may have kept new tasks, which are refused."""
        self._task_ids += [row[0] for work in batch if isinstance(work, Add) for row in work.rows]

    def clear_up(self, connection: Connection, seq: int, now: float) -> list[Committed]:
        """Commit a small write over whatever failed commits left, without those tasks and starts.

        :param seq: the number of the last commit that is known.
        :returns: what came back of those that failed, each with its number, and then what was done.
        """
        commits = self._came_back(connection, seq)
        news: list[News] = []
        if self._task_ids:
            back = connection.execute(statements.FORGET, {"task_ids": dump(self._task_ids)})
            news += [Deleted(row.task_id, row.kind) for row in back]
        ours = unrun_starts(connection, self._started, self._database.owner)
        self._database.end(connection, [End(task, now) for task in ours], news)
        self._database.probe(connection)
        commits.append(Committed(self._database.commit(connection, news, now), news))
        self._task_ids.clear()
        self._started.clear()
        return commits

    def _came_back(self, connection: Connection, seq: int) -> list[Committed]:
        """What failed commits have told after all. Where others commit too, whoever reads on from the last
        number that was told here finds it."""
        if self._database.shared:
            return []
        found = connection.execute(statements.EVENTS, {"from_seq": seq + 1, "limit": 100})
        return [Committed(row.seq, changes.read(row.body)) for row in found]
