"""SQLite under the store: one connection that writes and checkpoints, a few that read."""

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool
from twisted.python.threadpool import ThreadPool

from asynctask import batches, statements
from asynctask.model import News
from asynctask.problems import StartError, Unavailable
from asynctask.readers import LONGEST, NO_ANSWER, READERS, Readable, ReaderThreads
from asynctask.sqlitefile import BUSY, Lock, Place, create

COPIED: Final = 600
"""Pages of the write-ahead log, 2 MB, after which they are copied into the file, when whoever waited for
the transaction has his answer. With more of them this takes longer, and others have to wait for it."""

BESIDE: Final = 8
"""Pages that a transaction writes beside one for each change: the ends of its indexes."""

LOG_PAGES: Final = 2_000
"""Pages after which SQLite does the same in a commit, should there be more to a change than a page."""

LARGE_LOG: Final = 64 * 1024 * 1024
"""Bytes of the write-ahead log above which readers are paused, since two slow ones that overlap would
keep it from ever being reset."""

LOOK_AT_LOG: Final = 1.0
"""Seconds between two looks at the size of the write-ahead log."""

LOOK_AT_FILE: Final = 1.0
"""Seconds between two looks whether the file is still the one that was opened."""

GONE: Final = "its file was removed or replaced while the service runs"
LOG_GONE: Final = "its write-ahead log (-wal) was removed while the service runs"

PAUSING: Final = 0.25
"""Seconds that the writer waits for readers to reset the log, and others for the writer; then it tries
again later. At twice `LARGE_LOG` it waits as long as a read may take, so that the log stays bounded."""

STEPS: Final = 10_000
"""Steps of SQLite between two looks at the time, some milliseconds."""

BUSY_LOG: Final = 30.0
"""Seconds until the log is looked at again, where another program reads what is in it."""

STATEMENTS: Final = 256
"""Statements that a connection keeps prepared: those of `asynctask.batches` are some 90."""

T = TypeVar("T")


class Sqlite:
    """The connections to one file.

    :param busy: seconds to wait for another program that holds the database.
    :param large_log: bytes of the write-ahead log above which it is reset.
    :ivar owner: this process, as the rows of its tasks name it.
    :ivar readers: the threads that read; None in memory, where the writer's connection is the only one.
    """

    shared = False
    in_doubt = False
    orphans = statements.ORPHANS
    cut_off = statements.CUT_OFF
    is_orphan = statements.IS_ORPHAN
    add = staticmethod(batches.add)
    claim = staticmethod(batches.claim)
    end = staticmethod(batches.end)
    end_as_supposed = staticmethod(batches.end_as_supposed)
    tell = staticmethod(batches.tell)

    def __init__(self, place: Place, busy: float = BUSY, large_log: int = LARGE_LOG) -> None:
        self.owner = token_hex(8)
        self._place = place
        self._busy = busy
        self._large_log = large_log
        self._writing = self._engine(NullPool)
        event.listen(self._writing, "connect", self._prepare_writing)
        event.listen(self._writing, "begin", _begin_immediate)
        self._reading = self._engine(QueuePool, pool_size=READERS, max_overflow=0)
        event.listen(self._reading, "connect", _prepare_reading)
        self._paused = threading.Semaphore(READERS)
        self._readable = Readable()
        self.readers: ThreadPool | None = None
        self._file: os.stat_result | None = None
        self._log: os.stat_result | None = None
        self._log_path = place.log_path  # once, since it takes a while
        self._gone: str | None = None
        self._look_at_file = 0.0
        self._look_at_log = 0.0
        self._written = 0
        """About how many pages were written since the last were copied."""

    def _engine(self, pool: type[NullPool] | type[QueuePool], **options: Any) -> Engine:
        return create_engine("sqlite://", creator=self._connect, poolclass=pool, **options)

    def _connect(self) -> sqlite3.Connection:
        if self._log_has_gone():  # of which another connection would begin a new one
            raise OperationalError("", None, sqlite3.OperationalError(LOG_GONE))
        # No isolation level: transactions are begun by us, not guessed by the driver.
        return sqlite3.connect(
            self._place.path or ":memory:",
            timeout=self._busy,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS,
        )

    def _prepare_writing(self, connection: sqlite3.Connection, _record: object) -> None:
        # Its answer is fetched, since an error comes with that: else the file would be left as it was.
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode not in ("wal", "memory"):
            raise sqlite3.OperationalError("it cannot have a write-ahead log here")
        connection.execute(f"PRAGMA synchronous = {self._place.synchronous}")
        # What a statement would have to undo: in a file it costs each transaction a tenth.
        connection.execute("PRAGMA temp_store = MEMORY")
        # Some builds write zeros over all that is deleted, which takes seconds for large results.
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        if self._log_path is not None:
            connection.execute("PRAGMA user_version").fetchone()  # with which the log is there
            self._log = self._log_path.stat()

    def open(self) -> None:
        """Have the file for this process alone, and for this user: it holds what signs callbacks.

        :raises StartError: another process has it, or it cannot be made.
        """
        self._lock = Lock(self._place)
        try:
            create(self._place)
        except StartError:
            self._lock.close()
            raise
        if self._place.path is not None:
            self._file = self._place.path.stat()

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    def connect(self) -> Connection:
        """Open the connection that writes.

        :raises OSError: the file is not there any more, or another one is: SQLite would go on with that.
        """
        if self._file_has_gone():
            raise OSError(GONE)
        if self._log_has_gone():
            with self._without_readers():  # the last connection copies what is only there
                self._reading.dispose()
        self._log = self._gone = None
        return self._writing.connect()

    def prepare(self, connection: Connection) -> None:
        """Before the schema is brought up: nobody else is there."""

    def start(self, connection: Connection) -> None:
        """Nobody else is there who would have to know."""

    def leave(self, connection: Connection | None) -> None:
        """Nobody else is there who would wait for it."""

    def waiting_since(self, since: float) -> None:
        """A file keeps nobody waiting for longer than the busy timeout."""

    def commit(self, connection: Connection, news: Sequence[News], now: float) -> int:
        """See `asynctask.database.Database`; what is committed is synced."""
        self.in_doubt = False
        self._look_for_file()
        self._written += BESIDE + len(news)
        seq = batches.tell(connection, news, now)
        self.in_doubt = True
        connection.commit()
        return seq

    def _look_for_file(self) -> None:
        """What is written into a file that was removed is lost at the next start.

        :raises OperationalError: it has none any more.
        """
        if monotonic() >= self._look_at_file:
            self._look_at_file = monotonic() + LOOK_AT_FILE
            self.has_gone()
        if self._gone is not None:
            raise OperationalError("COMMIT", None, sqlite3.OperationalError(self._gone))

    def has_gone(self) -> bool:
        """See `asynctask.database.Database`."""
        self._gone = GONE if self._file_has_gone() else LOG_GONE if self._log_has_gone() else None
        return self._gone is not None

    def _file_has_gone(self) -> bool:
        return _has_gone(self._place.path, self._file)

    def _log_has_gone(self) -> bool:
        return _has_gone(self._log_path, self._log)

    def probe(self, connection: Connection) -> None:
        """Write something small over whatever a failed commit left."""
        connection.execute(statements.PROBE, {"at": str(monotonic())})

    def start_reading(self) -> None:
        """Start the threads that read, and make sure that a new file survives a power cut.

        :raises StartError: that cannot be made sure of.
        """
        if self._log_path is None:
            return
        path = self._log_path
        try:
            _sync_folder(path.parent)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some file systems have no such sync
                raise StartError(
                    f"--store: cannot sync the folder {path.parent} ({error.strerror})"
                ) from None
        self.readers = ReaderThreads()
        self.readers.start()

    def stop_reading(self) -> None:
        """Wait for reads under way, and close: SQLite wants the writer to be the last."""
        if self.readers is not None:
            self.readers.stop()
        self._reading.dispose()

    def read(self, run: Callable[[Connection], T], since: float) -> T:
        """Read; all is fetched when ``run`` returns.

        :param since: when it was asked for, by the monotonic clock.
        :raises Unavailable: the database cannot be read, or not in time.
        """
        if monotonic() - since > LONGEST:
            raise Unavailable(NO_ANSWER)
        try:
            with self._paused, self._reading.connect() as connection:
                # What takes longer would keep others from reading, and the log from being reset.
                late = since + LONGEST
                _driver_of(connection).set_progress_handler(lambda: monotonic() > late, STEPS)
                found = run(connection)
        except DBAPIError as error:
            self._readable.note(error)
            raise Unavailable(NO_ANSWER) from None
        self._readable.note(None)
        return found

    def keep_log_short(self, connection: Connection) -> None:
        """Copy it into the file, and reset it where it has become large, with all readers paused."""
        if self._written >= COPIED:
            self._written = 0
            with suppress(sqlite3.Error):  # of which the next commit has more to say
                _driver_of(connection).execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if monotonic() < self._look_at_log:
            return
        self._look_at_log = monotonic() + LOOK_AT_LOG
        if self._log_path is None or not _is_larger(self._log_path, self._large_log):
            return
        # On the driver's connection, since SQLAlchemy would begin a transaction first.
        driver = _driver_of(connection)
        much = _is_larger(self._log_path, 2 * self._large_log)
        with self._without_readers(LONGEST if much else PAUSING) as alone:
            if not alone:
                return
            driver.execute("PRAGMA busy_timeout = 0")
            try:
                (busy, *_) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                driver.execute(f"PRAGMA busy_timeout = {int(self._busy * 1_000)}")
        if busy:
            self._look_at_log = monotonic() + BUSY_LOG

    @contextmanager
    def _without_readers(self, within: float = inf) -> Iterator[bool]:
        """While nobody reads; False if somebody still does after so many seconds."""
        until = monotonic() + within
        with ExitStack() as pause:
            alone = True
            for _ in range(READERS):
                left = min(max(0.0, until - monotonic()), threading.TIMEOUT_MAX)
                alone = alone and self._paused.acquire(timeout=left)
                if alone:
                    pause.callback(self._paused.release)
            yield alone

    def roll_back(self, connection: Connection) -> None:
        """Undo whatever is open; after a COMMIT that failed, only the driver knows of it."""
        connection.rollback()
        _driver_of(connection).rollback()


def _driver_of(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_reading(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA query_only = ON")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_gone(path: Path | None, opened: os.stat_result | None) -> bool:
    """Whether another file is there than the one that was opened, or none."""
    if path is None or opened is None:
        return False
    try:
        return not os.path.samestat(opened, path.stat())
    except FileNotFoundError:
        return True
    except OSError:  # nobody knows
        return False


def _is_larger(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size > size
    except FileNotFoundError:
        return False
