"""How the schema came to be: one file a step in ``versions``, run by `upgrade`."""

from secrets import token_hex
from typing import Any, Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.schema import CreateIndex, CreateTable
from twisted.logger import Logger

from asynctask.tables import APPLICATION_ID, SCHEMA, meta, metadata

log = Logger(namespace="asynctask.store")

VERSION: Final = "SELECT version_num FROM alembic_version"
READABLE_FROM: Final = "SELECT value FROM meta WHERE key = 'readable_from'"

OLDEST_READER: Final = 3
"""What the last of the steps that set ``readable_from`` sets it to."""

INDEXES: Final = (
    *("task_status", "task_due", "task_owner", "idempotency_expires", "task_cancelling"),
    *("task_kind_status", "task_callback", "task_name_status", "task_finished"),
)
"""Those that the steps leave, in their order: where several would do, SQLite goes by it."""


class UnreadableSchemaError(Exception):
    """This version cannot use the database: another one wrote it, or it cannot keep all text."""


def upgrade(connection: Connection, *, again: bool = False) -> None:
    """Bring the database up to this version's schema, inside the transaction of the connection.

    A newer schema is left alone if it says that this version can read it.

    :param again: whether it was tried before, and the log knows.
    :raises UnreadableSchemaError: it says that it cannot.
    """
    current = _current(connection)
    if current == SCHEMA:
        return
    if current > SCHEMA:
        check_readable(current, connection.scalar(text(READABLE_FROM)))
    elif current == 0 and connection.dialect.name == "sqlite":
        _make(connection)
    else:
        if current and not again:
            log.info("The store gets a new schema; many tasks take a while", before=current, now=SCHEMA)
        _run(connection)
        if current:
            log.info("The store has a new schema", before=current, now=SCHEMA)


def check_readable(current: int, readable_from: str | None) -> None:
    """Look whether this version can read a database.

    :param current: the database's schema.
    :param readable_from: the oldest schema whose programs can read it, as the database says.
    :raises UnreadableSchemaError: it cannot.
    """
    if current > SCHEMA and int(readable_from or current) > SCHEMA:
        raise UnreadableSchemaError(
            f"has schema {current}, and this version of asynctask reads up to {SCHEMA}"
        )


def _current(connection: Connection) -> int:
    if not inspect(connection).has_table("alembic_version"):
        return 0
    version = connection.scalar(text(VERSION)) or "0"
    if not version.isdecimal():
        raise UnreadableSchemaError(
            f"is another program's (its alembic_version is {version}); give asynctask a database of its own"
        )
    return int(version)


def _make(connection: Connection) -> None:
    """What all steps lead to, at once: a first start does not wait for Alembic.

    A test holds the two together.
    """
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table))
    indexes = {str(index.name): index for table in metadata.sorted_tables for index in table.indexes}
    for name in INDEXES:
        connection.execute(CreateIndex(indexes[name]))
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    known = {"readable_from": str(OLDEST_READER), "epoch": token_hex(6)}
    connection.execute(meta.insert(), [{"key": key, "value": value} for key, value in known.items()])
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
    )
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (f"{SCHEMA:04d}",))


def _run(connection: Connection) -> None:
    # Imported here, since a start that has nothing to migrate should not wait for it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "asynctask:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, f"{SCHEMA:04d}")


def where(condition: str) -> dict[str, Any]:
    """The rows that an index is about, in each dialect."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}
