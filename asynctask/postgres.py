"""PostgreSQL under the store: one connection that writes, and a few that read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Any, Final, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool
from twisted.python.threadpool import ThreadPool

from asynctask import __version__, pgbatches, sharedstatements
from asynctask.batches import End
from asynctask.cutoff import Cutoff, Cutoffs
from asynctask.migrations import UnreadableSchemaError
from asynctask.model import News, Status
from asynctask.pgreaders import Readers
from asynctask.pgserver import PATIENCE, STAY, Server, connect

IDLE: Final = 1.0
"""Seconds that a transaction may rest between two statements: whoever is frozen in the middle of one must
not hold up all others."""

MIGRATING: Final = 0x61746B6D
"""The lock under which the schema is brought up: many processes may start at once ("atkm")."""

QUEUE: Final = 0.5
"""Seconds that a change of the schema waits for a table, and behind it whoever else wants it: so few that
no client loses its patience."""

UNREPLICATED: Final = ("01000", "57P01")
"""SQLSTATEs of the warnings of a COMMIT that is on the server's disk and has not waited for its replicas:
somebody has cancelled it, or ends the connection."""

_ROOM: Final = (
    "SAVEPOINT room",
    "INSERT INTO event (at, upto, body) SELECT 0, 0, string_agg(md5(random()::text), '') "
    "FROM generate_series(1, 4096)",
    "ROLLBACK TO SAVEPOINT room",
)
"""Takes 128 KiB, and leaves them to vacuum: where a disk is full, there is often room for a small row."""

_LOCK: Final = "LOCK TABLE task, event, idempotency IN ROW EXCLUSIVE MODE"

_COUNT_ON: Final = (
    "SELECT setval(seq, last) FROM (SELECT pg_get_serial_sequence('event', 'seq')::regclass AS seq, "
    "(SELECT max(seq) FROM event) AS last) AS told WHERE last > coalesce(pg_sequence_last_value(seq), 0)"
)
"""Logical replication takes no sequences along: events would be given numbers that are taken."""

SECONDS: Final = "extract(epoch FROM clock_timestamp())"
"""The time by the database's clock, which all processes share."""

T = TypeVar("T")


class Postgres:
    """The connections to one database.

    :ivar owner: this process, as the rows of its tasks name it; another one after its lease was lost.
    :ivar lost: told, in the thread that writes, that the others have taken this process for dead, with the
        owner that it was; it is another one already.
    :ivar readers: the threads that read.
    :ivar cutoffs: cuts connections off that take too long.
    """

    shared = True
    orphans = sharedstatements.ABANDONED
    cut_off = sharedstatements.CUT_OFF_ABANDONED
    is_orphan = sharedstatements.IS_ABANDONED
    claim = staticmethod(pgbatches.claim)

    def __init__(self, server: Server) -> None:
        self._server = server
        # By which it knows ends that it has written, also those of before it was taken for dead.
        self._name = self.owner = token_hex(8)
        self.lost: Callable[[str], object] = lambda _owner: None
        self.cutoffs = Cutoffs()
        self._started = self._is_registered = False
        self._put_off: list[str] = []
        self._fenced = False
        self._warned = ""
        self.in_doubt = False
        self._cutoff = self.cutoffs.new()
        self._writing = create_engine(
            "postgresql+psycopg://",
            creator=self._open_writing,
            poolclass=NullPool,
            pool_reset_on_return=None,
        )
        event.listen(self._writing, "begin", self._begin)
        event.listen(self._writing, "before_cursor_execute", self._before)
        self._readers = Readers(self.cutoffs, self._open, _begin_reading)
        self.readers: ThreadPool | None = self._readers.threads

    def _open(self, cutoff: Cutoff) -> "psycopg.Connection[Any]":
        """Open a connection that begins its transactions itself, since it has more to say then."""
        driver = connect(self._server.url, autocommit=True)
        try:
            cutoff.hold(driver)
            driver.execute(STAY)
        except BaseException:
            cutoff.let_go()
            driver.close()
            raise
        return driver

    def _open_writing(self) -> "psycopg.Connection[Any]":
        driver = self._open(self._cutoff)
        driver.add_notice_handler(self._notice)
        return driver

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING" and notice.sqlstate in UNREPLICATED:
            self._warned = notice.message_primary or "a warning"

    def open(self) -> None:
        """Nothing is to be held: many processes share the database."""
        self.cutoffs.start()

    def close(self) -> None:
        """Cut off no more."""
        self.cutoffs.stop()

    def waiting_since(self, since: float) -> None:
        """Somebody waits for the connection that writes."""
        self._cutoff.since = since

    def connect(self) -> Connection:
        """Open the connection that writes, and make sure that this process is among those alive."""
        connection = self._writing.connect()
        try:
            if self._started:
                self._be_alive(connection)
        except BaseException:
            # Nobody else would: there is no looking for garbage in time.
            connection.close()
            raise
        return connection

    def _be_alive(self, connection: Connection) -> None:
        if self._is_registered and self._is_alive(_driver_of(connection)):
            return
        if self._is_registered:  # else the last try to be among them has failed
            before, self.owner = self.owner, token_hex(8)
            self._is_registered = False
            self.lost(before)
        with connection.begin():
            self.register(connection)

    def _is_alive(self, driver: "psycopg.Connection[Any]") -> bool:
        """Whether the others take this process for alive.

        It waits until a transaction that an earlier connection left has ended: each of them holds this row,
        and from then on it is known what it has written.
        """
        with _wrapped("connect", driver):
            mine = f"SELECT 1 FROM process WHERE id = '{self.owner}' FOR UPDATE"  # noqa: S608
            (found,) = _results(driver, f"{_PATIENT}; {mine}")
            driver.rollback()
        return bool(found)

    def prepare(self, connection: Connection) -> None:
        """Before the schema is brought up: one process after another.

        :raises UnreadableSchemaError: it cannot keep all text.
        """
        _take_time(connection)
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding not in ("UTF8", "SQL_ASCII"):  # the latter keeps whatever it is given
            raise UnreadableSchemaError(f"keeps text as {encoding}; make one with ENCODING 'UTF8'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATING})")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(QUEUE * 1_000)}")

    def start(self, connection: Connection) -> None:
        """Be among those alive, in a transaction that counts all tasks."""
        _take_time(connection)
        connection.exec_driver_sql(_COUNT_ON)
        self.register(connection)
        self._started = True

    def register(self, connection: Connection) -> None:
        """Be among those alive."""
        connection.exec_driver_sql(
            f"INSERT INTO process (id, seen, version) VALUES (%s, {SECONDS}, %s) "  # noqa: S608
            f"ON CONFLICT (id) DO UPDATE SET seen = {SECONDS}",
            (self.owner, __version__),
        )
        self._is_registered = True

    def leave(self, connection: Connection | None) -> None:
        """Say good-bye, so that nobody waits for the lease to end."""
        if connection is not None:
            with self._cutoff.waiting(), suppress(psycopg.Error):  # the lease ends by itself
                _driver_of(connection).execute("DELETE FROM process WHERE id = %s", (self.owner,))

    def _begin(self, _connection: Connection) -> None:
        """Begin, with the first statement, a transaction that dies before its client's patience."""
        self._put_off = [_PATIENT]
        self._fenced = self._is_registered
        if self._fenced:
            mine = f"SELECT 1 FROM process WHERE id = '{self.owner}' FOR KEY SHARE"  # noqa: S608
            self._put_off.append(mine)

    def _before(self, connection: Connection, *_: object) -> None:
        """SQLAlchemy is about to run a statement."""
        self._run(connection)

    def _run(self, connection: Connection, *statements: str) -> list[Any]:
        """Run what was put off, and these, all in one message: each of its own would be waited for.

        :returns: the rows of the last one that has any.
        :raises OperationalError: this process is taken for dead, and others may run its tasks.
        """
        message, fenced = "; ".join([*self._put_off, *statements]), self._fenced
        self._put_off, self._fenced = [], False
        if not message:
            return []
        driver = _driver_of(connection)
        with _wrapped("run", driver):
            found = _results(driver, message)
            if fenced and not found.pop(0):
                raise psycopg.OperationalError("the lease was lost")
        return found[-1] if found else []

    def commit(self, connection: Connection, news: Sequence[News], now: float) -> int:
        """See `asynctask.database.Database`; others wait for our turn to end, and for no answer of ours.

        :raises OperationalError: it failed, or the server has not waited for its replicas.
        """
        self._warned = ""
        self.in_doubt = False
        if self._fenced:
            self._run(connection)
        driver = _driver_of(connection)
        self.in_doubt = True
        seq = 0
        try:
            if news:
                ((seq,),) = self._run(connection, pgbatches.telling(driver, news, now), "COMMIT")
            else:
                self._run(connection, "COMMIT")
        except DBAPIError:
            # A server that says so has not come as far as COMMIT.
            self.in_doubt = driver.info.transaction_status is not TransactionStatus.INERROR
            raise
        connection.commit()  # of which the server hears no more
        if self._warned:
            raise OperationalError("commit", None, psycopg.OperationalError(self._warned))
        return seq

    def has_gone(self) -> bool:
        """See `asynctask.database.Database`: the heartbeat sees that."""
        return False

    def probe(self, connection: Connection) -> None:
        """Write something, and make sure that there is room, and that nobody keeps our tables from us."""
        self._run(connection, _LOCK, _COUNT_ON, *_ROOM)
        self.beat(connection)

    def beat(self, connection: Connection) -> None:
        """Be seen alive."""
        connection.exec_driver_sql(f"UPDATE process SET seen = {SECONDS} WHERE id = %s", (self.owner,))  # noqa: S608

    def add(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """See `asynctask.batches.add`."""
        self._run(connection, pgbatches.adding(_driver_of(connection), rows, self.owner))

    def end(self, connection: Connection, ends: Sequence[End], news: list[News]) -> list[Status | None]:
        """See `asynctask.batches.end`."""
        if not ends:
            return []
        driver = _driver_of(connection)
        running = self._run(connection, pgbatches.asking(driver, ends, self._name))
        left, saving = pgbatches.ending(driver, ends, running, news, self._name)
        self._put_off += saving
        return left

    end_as_supposed = end

    def tell(self, connection: Connection, news: Sequence[News], now: float) -> int:
        """See `asynctask.database.Database`."""
        if not news:
            return 0
        ((seq,),) = self._run(connection, pgbatches.telling(_driver_of(connection), news, now))
        return int(seq)

    def start_reading(self) -> None:
        """Start the threads that read."""
        self._readers.start()

    def stop_reading(self) -> None:
        """Wait for reads under way, and close."""
        self._readers.stop()

    def read(self, run: Callable[[Connection], T], since: float) -> T:
        """See `Readers.read`."""
        return self._readers.read(run, since)

    def keep_log_short(self, connection: Connection) -> None:
        """The server does that by itself."""

    def roll_back(self, connection: Connection) -> None:
        """Undo whatever is open; where it failed to begin, only the driver knows of it."""
        self._put_off, self._fenced = [], False
        if connection.invalidated:
            return  # it is lost, and would be opened again for this
        if _driver_of(connection).closed:
            connection.invalidate()
            return
        connection.rollback()
        with _wrapped("rollback", _driver_of(connection)):
            _driver_of(connection).rollback()


@contextmanager
def _wrapped(what: str, driver: "psycopg.Connection[Any]") -> Iterator[None]:
    """The driver's errors, as SQLAlchemy tells them."""
    try:
        yield
    except psycopg.Error as error:
        # In no variable: the error has this frame, and the frame would have the error.
        raise DBAPIError.instance(
            what, None, error, psycopg.Error, connection_invalidated=driver.closed
        ) from error


def _results(driver: "psycopg.Connection[Any]", statements: str) -> list[list[Any]]:
    """Run statements in one message; the rows of each that may have any."""
    cursor = driver.execute(statements.encode())
    found: list[list[Any]] = []
    while True:
        if cursor.description:
            found.append(cursor.fetchall())
        if not cursor.nextset():
            return found


_MILLISECONDS: Final = int(PATIENCE * 1_000)
BRIEFLY: Final = (
    f"SET LOCAL statement_timeout = {_MILLISECONDS}; "
    f"SET LOCAL idle_in_transaction_session_timeout = {int(IDLE * 1_000)}"
)
"""Said within a transaction, where no pooler changes the server under it. Should this process be frozen in
the middle, nobody waits for what it holds."""

_PATIENT: Final = (
    f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {BRIEFLY}; "
    f"SET LOCAL lock_timeout = {_MILLISECONDS}; "
    "SET LOCAL extra_float_digits = 1; SET LOCAL client_min_messages = warning"
)


def _take_time(connection: Connection) -> None:
    """Nobody waits for this transaction."""
    connection.exec_driver_sql(
        "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ('statement_timeout', "
        "'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
    )


def _begin_reading(connection: Connection) -> None:
    with _wrapped("begin", _driver_of(connection)):
        _driver_of(connection).execute(_PATIENT.encode())


def _driver_of(connection: Connection) -> "psycopg.Connection[Any]":
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
