"""How the schema came to be: one file a step in ``versions``, run by `upgrade`."""

from typing import Final

from sqlalchemy import Connection, inspect, text

from asynctask.tables import SCHEMA

READABLE_FROM: Final = "readable_from"
"""The key in ``meta`` of the oldest schema whose programs can still read this database."""


class UnreadableSchemaError(Exception):
    """The database was written by a version of the program that this one cannot read."""


def upgrade(connection: Connection) -> None:
    """Bring the database up to this version's schema, inside the transaction of the connection.

    A newer schema is left alone if it says that this version can read it.

    :raises UnreadableSchemaError: it says that it cannot.
    """
    current = _current(connection)
    if current == SCHEMA:
        return
    if current > SCHEMA:
        readable_from = connection.scalar(
            text("SELECT value FROM meta WHERE key = :key"), {"key": READABLE_FROM}
        )
        if readable_from is None or int(readable_from) > SCHEMA:
            raise UnreadableSchemaError(
                f"has schema {current}, and this version of asynctask reads up to {SCHEMA}"
            )
        return
    _run(connection)


def _current(connection: Connection) -> int:
    if not inspect(connection).has_table("alembic_version"):
        return 0
    return int(connection.scalar(text("SELECT version_num FROM alembic_version")) or 0)


def _run(connection: Connection) -> None:
    # Imported here, since a start that has nothing to migrate should not wait for it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "asynctask:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, f"{SCHEMA:04d}")
