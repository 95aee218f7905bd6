"""PostgreSQL under the store: one connection that writes, a few that read, and one that keeps the lease."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, TypeVar

import psycopg
from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool
from twisted.python.threadpool import ThreadPool

from asynctask import __version__, pgbatches, statements
from asynctask.batches import End
from asynctask.model import News, Status, Unavailable
from asynctask.sqlite import StartError

READERS: Final = 4
"""Connections that read, each on a thread."""

PATIENCE: Final = 1.5
"""Seconds that a statement may take, or wait for a lock: a client's 503 waits for it."""

CONNECT: Final = 2
"""Seconds for a new connection, the least that libpq can count."""

MIGRATING: Final = 0x61746B6D
"""The lock under which the schema is brought up: many processes may start at once ("atkm")."""

SECONDS: Final = "extract(epoch FROM clock_timestamp())"
"""The time by the database's clock, which all processes share."""

NO_ANSWER: Final = "The store does not answer now; try again later"

T = TypeVar("T")


class Server(Struct, frozen=True):
    """Where a PostgreSQL store is.

    :ivar url: as libpq takes it.
    :ivar listen: another URL for LISTEN, where a pooler stands between.
    :ivar folder: where the flight recorder's file is.
    :ivar lease: seconds after which a silent process is taken for dead.
    """

    url: str
    listen: str | None = None
    folder: Path = Path()
    lease: float = 15.0

    @property
    def path(self) -> str:
        """How it is named to people, without a password."""
        known = conninfo_to_dict(self.url)
        return f"postgresql://{known.get('host', '')}/{known.get('dbname', '')}"

    @property
    def recorder_path(self) -> Path:
        """The flight recorder's file, for whichever process gets its lock."""
        name = sha256(self.url.encode()).hexdigest()[:12]
        return self.folder / f"asynctask-{name}-recorder"


def parse_url(url: str, folder: Path, lease: float = 15.0, listen: str | None = None) -> Server:
    """Read the URL of a database.

    :raises StartError: libpq does not understand it.
    """
    for given in (url, listen):
        if given is None:
            continue
        try:
            known = conninfo_to_dict(given)
            for port in str(known.get("port", "")).split(","):
                if port and not 0 < int(port) < 65_536:
                    raise ValueError(f"invalid port number: '{port}'")
        except (psycopg.Error, ValueError) as error:
            why = " ".join(str(error).split())
            raise StartError(f"--store is no URL of a PostgreSQL database ({why})") from None
    return Server(url, listen, folder, lease)


def check(server: Server) -> None:
    """Look whether the database can be reached.

    :raises StartError: it cannot.
    """
    try:
        connect(server.url).close()
    except psycopg.Error as error:
        raise StartError(f"--store {server.path} cannot be reached ({_why(error)})") from None


def _why(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


def connect(url: str, **given: Any) -> "psycopg.Connection[Any]":
    """Open a connection that notices soon when there is nobody."""
    known = conninfo_to_dict(url)
    settings = {
        "connect_timeout": CONNECT,
        "application_name": "asynctask",
        "keepalives_idle": 5,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": int(PATIENCE * 1_000),
        **known,
    }
    return psycopg.connect(make_conninfo("", **settings), prepare_threshold=None, **given)


class Postgres:
    """The connections to one database.

    :ivar owner: this process, as the rows of its tasks name it; another one after its lease was lost.
    :ivar readers: the threads that read.
    """

    shared = True
    orphans = statements.ABANDONED
    cut_off = statements.CUT_OFF_ABANDONED
    add = staticmethod(pgbatches.add)
    tell = staticmethod(pgbatches.tell)

    def __init__(self, server: Server) -> None:
        self._server = server
        self.owner = token_hex(8)
        self.readers: ThreadPool | None = None
        self._is_registered = False
        self._writing = self._engine(NullPool)
        event.listen(self._writing, "begin", self._begin)
        self._reading = self._engine(QueuePool, pool_size=READERS, max_overflow=0, pool_pre_ping=True)
        event.listen(self._reading, "begin", _be_patient)
        self._driver: psycopg.Connection[Any] | None = None

    def _engine(self, pool: type[NullPool] | type[QueuePool], **options: Any) -> Engine:
        return create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(self._server.url),
            poolclass=pool,
            **options,
        )

    def open(self) -> None:
        """Nothing is to be held: many processes share the database."""

    def close(self) -> None:
        """Say good-bye, so that nobody waits for the lease to end."""
        if self._is_registered:
            try:
                with connect(self._server.url, autocommit=True) as goodbye:
                    goodbye.execute("DELETE FROM process WHERE id = %s", (self.owner,))
            except psycopg.Error:
                pass  # the lease ends by itself

    def connect(self) -> Connection:
        """Open the connection that writes, and make sure that this process is among those alive."""
        connection = self._writing.connect()
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        self._driver = driver
        if self._is_registered and not self._is_alive(driver):
            self._is_registered = False
            self.owner = token_hex(8)
            with connection.begin():
                self.register(connection)
        return connection

    def _is_alive(self, driver: "psycopg.Connection[Any]") -> bool:
        """Whether the others take this process for alive."""
        with _wrapped("connect"):
            found = driver.execute("SELECT 1 FROM process WHERE id = %s", (self.owner,)).fetchone()
            driver.rollback()
        return found is not None

    def prepare(self, connection: Connection) -> None:
        """Before the schema is brought up: one process after another."""
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATING})")

    def register(self, connection: Connection) -> None:
        """Be among those alive."""
        connection.exec_driver_sql(
            f"INSERT INTO process (id, seen, version) VALUES (%s, {SECONDS}, %s)",  # noqa: S608
            (self.owner, __version__),
        )
        self._is_registered = True

    def _begin(self, connection: Connection) -> None:
        """Begin a transaction that dies before its client's patience, and only while the lease holds.

        :raises OperationalError: this process is taken for dead, and others may run its tasks.
        """
        driver = _driver_of(connection)
        with _wrapped("begin"):
            driver.execute(_PATIENT)
            if not self._is_registered:
                return
            alive = driver.execute("SELECT 1 FROM process WHERE id = %s FOR KEY SHARE", (self.owner,))
            if alive.fetchone() is None:
                raise psycopg.OperationalError("the lease was lost")

    def end(self, connection: Connection, ends: Sequence[End], news: list[News]) -> list[Status | None]:
        """See `asynctask.batches.end`."""
        return pgbatches.end(connection, ends, news, self.owner)

    def start_reading(self) -> None:
        """Start the threads that read."""
        self.readers = ThreadPool(0, READERS, "asynctask-reader")
        self.readers.start()

    def stop_reading(self) -> None:
        """Wait for reads under way, and close."""
        if self.readers is not None:
            self.readers.stop()
        self._reading.dispose()

    def read(self, run: Callable[[Connection], T]) -> T:
        """Read; all is fetched when ``run`` returns.

        :raises Unavailable: the database cannot be read.
        """
        try:
            with self._reading.connect() as connection:
                return run(connection)
        except DBAPIError:
            raise Unavailable(NO_ANSWER) from None

    def keep_log_short(self, connection: Connection) -> None:
        """The server does that by itself."""

    def roll_back(self, connection: Connection) -> None:
        """Undo whatever is open."""
        connection.rollback()

    def cut(self) -> None:
        """Cut the writing connection off, from another thread: its transaction takes too long."""
        driver = self._driver
        if driver is not None and not driver.closed:
            with socket.socket(fileno=os.dup(driver.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)


@contextmanager
def _wrapped(what: str) -> Iterator[None]:
    """The driver's errors, as SQLAlchemy tells them."""
    try:
        yield
    except psycopg.Error as error:
        raise OperationalError(what, None, error) from error


_MILLISECONDS: Final = int(PATIENCE * 1_000)
_PATIENT: Final = (
    f"SET LOCAL statement_timeout = {_MILLISECONDS}; SET LOCAL lock_timeout = {_MILLISECONDS}".encode()
)


def _be_patient(connection: Connection) -> None:
    with _wrapped("begin"):
        _driver_of(connection).execute(_PATIENT)


def _driver_of(connection: Connection) -> "psycopg.Connection[Any]":
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
