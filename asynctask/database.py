"""What the store needs of a database; `asynctask.sqlite` and `asynctask.postgres` have it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from twisted.python.threadpool import ThreadPool

from asynctask.batches import End
from asynctask.model import News, Status, Task

T = TypeVar("T")


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
