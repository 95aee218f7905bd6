"""Which database a store's URL names."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynctask import sqlitefile
from asynctask.problems import StartError
from asynctask.sqlitefile import Place

if TYPE_CHECKING:
    from asynctask.pgserver import Server

SCHEMES: Final = ("postgresql", "postgres")


def parse(url: str, folder: Path, lease: float, listen: str | None = None) -> "Place | Server":
    """Read the URL of a store.

    :param folder: where a relative path starts, and where files beside the store are.
    :param lease: seconds after which a silent process is taken for dead.
    :param listen: another URL of the same database, for LISTEN.
    :raises StartError: it is no URL of a store.
    """
    if url.partition("://")[0] not in SCHEMES:
        if listen is not None:
            raise StartError("--notify-store is for --store postgresql://…; SQLite has one process")
        return sqlitefile.parse_url(url, folder)
    try:
        from asynctask import pgserver
    except ImportError:
        raise StartError(
            "--store postgresql://… needs a driver: pip install 'psycopg[binary]>=3.3'"
        ) from None
    return pgserver.parse_url(url, folder, lease, listen)


def check(place: "Place | Server") -> None:
    """Look whether the store could be opened now, and leave everything as it is.

    :raises StartError: it could not.
    """
    if isinstance(place, Place):
        sqlitefile.check(place)
    else:
        from asynctask import pgserver

        pgserver.check(place)


def check_use(place: "Place | Server", processes: int, *, with_http: bool) -> None:
    """Look whether a store can be used in this way.

    :raises StartError: it cannot.
    """
    if isinstance(place, Place):
        if processes > 1:
            raise StartError("--processes needs --store postgresql://…; a SQLite file has one process")
        if not with_http and place.path is None:
            raise StartError("--no-http with a store in memory would never get a task")
