"""The secret that signs callbacks, shown to the operator of a store."""

import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from errno import EBADF
from typing import TYPE_CHECKING

from asynctask.logs import Standard
from asynctask.outbox import secret_of
from asynctask.problems import StartError
from asynctask.sqlitefile import BUSY, Place, check
from asynctask.starting import bring_up, database_of, usable

if TYPE_CHECKING:
    from asynctask.pgserver import Server


def show(place: "Place | Server") -> str:
    """The secret of a store for its operator, whether a service has it open or it has yet to be made.

    :raises StartError: it has none, and cannot be given one.
    """
    if isinstance(place, Place):
        if place.path is None:
            raise StartError(
                "--store sqlite:// is in memory, its secret too; give --callback-secret a file"
            )
        if kept := _kept(place):
            return kept
        check(place)
        if not place.path.exists():
            sys.stderr.write(f"asynctask: {place.path} was not there; it is made now, with this secret\n")
    return _shown(place)


def write(secrets: Sequence[str]) -> None:
    """Write them to standard output, one a line.

    :raises StartError: they cannot be written.
    """
    try:
        if sys.stdout is None:
            raise OSError(EBADF, "there is none")
        Standard(sys.stdout).write("".join(f"{secret}\n" for secret in secrets).encode())
    except OSError as error:
        raise StartError(
            f"--show-callback-secret cannot write to standard output ({error.strerror})"
        ) from None


def _shown(place: "Place | Server") -> str:
    """The secret of a database that is brought up for it, where it has yet to be."""
    database = database_of(place)
    database.open()
    try:
        with usable(place.path), database.connect() as connection:
            bring_up(connection, database)
            with connection.begin():
                return secret_of(connection)
    finally:
        database.close()


def _kept(place: Place) -> str | None:
    """What a store tells that a service may have open; None where it does not say."""
    assert place.path is not None
    try:
        with closing(sqlite3.connect(f"{place.path.as_uri()}?mode=ro", uri=True, timeout=BUSY)) as file:
            row = file.execute("SELECT value FROM meta WHERE key = 'callback_secret'").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if row is None else str(row[0])
