"""Which PostgreSQL a store is in, and a connection to it."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import psycopg
from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asynctask.problems import StartError
from asynctask.wire import in_a_line

PATIENCE: Final = 1.5
"""Seconds that a statement may take, or wait for a lock: a client's 503 waits for it."""

CONNECT: Final = 2
"""Seconds for a new connection, the least that libpq can count."""

TRY_AGAIN: Final = 0.5
"""Seconds between two tries of a thread to reach a database that has not answered."""

STAY: Final = (
    b"SELECT set_config('extra_float_digits', '1', false), "
    b"(SELECT set_config('idle_session_timeout', '0', false) "
    b"WHERE EXISTS (SELECT 1 FROM pg_settings WHERE name = 'idle_session_timeout'))"
)
"""What a role or a database may have otherwise: times are told exactly, and an idle connection is kept, or
the first POST after a quiet time would meet its end. There is no such limit before PostgreSQL 14."""


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
        hosts = str(known.get("host", "")).split(",")
        ports = str(known.get("port", "")).split(",")
        if len(ports) < len(hosts):
            ports = ports[:1] * len(hosts)
        places = [f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False)]
        return f"postgresql://{','.join(places)}/{known.get('dbname', '')}"

    @property
    def recorder_path(self) -> Path:
        """The flight recorder's file, for whichever process gets its lock."""
        known = conninfo_to_dict(self.url)
        known.pop("password", None)  # a new one is for the same database
        name = sha256(make_conninfo("", **known).encode()).hexdigest()[:12]
        return self.folder / f"asynctask-{name}-recorder"


def parse_url(url: str, folder: Path, lease: float = 15.0, listen: str | None = None) -> Server:
    """Read the URL of a database.

    :raises StartError: libpq does not understand it.
    """
    for option, given in (("--store", url), ("--notify-store", listen)):
        if given is None:
            continue
        try:
            _check_places(conninfo_to_dict(given), given)
        except (psycopg.Error, ValueError) as error:
            told = _without_secrets(in_a_line(error), given)
            raise StartError(f"{option} is no URL of a PostgreSQL database ({told})") from None
    return Server(url, listen, folder, lease)


def _check_places(known: Mapping[str, Any], url: str) -> None:
    """A password that is not written as a URL's has to be may have become the name of something else.

    :raises ValueError: it looks like that; or a port is none.
    """
    for port in str(known.get("port", "")).split(","):
        if port and not (port.isdecimal() and 0 < int(port) < 65_536):
            raise ValueError(f"invalid port number: '{port}'")
    host, database = str(known.get("host", "")), str(known.get("dbname", ""))
    # One that begins with it is an abstract socket.
    if host.find("@") > 0 or ("@" in database and "%40" not in url):
        raise ValueError("its host or its database has an @")


def _without_secrets(text: str, url: str) -> str:
    """What libpq says of a URL: it quotes what it does not understand, which may be of the password."""
    if "@" not in url and "password" not in url.lower():
        return text
    hidden = re.sub(r"\"[^\"]*\"|'[^']*'", "…", text)
    return f"{hidden}; in a password, write special characters as %XX"


def check(server: Server) -> None:
    """Look whether the database can be reached.

    :raises StartError: it cannot.
    """
    try:
        connect(server.url).close()
    except psycopg.Error as error:
        raise StartError(f"--store {server.path} cannot be reached ({in_a_line(error)})") from None


def connect(url: str, **given: Any) -> "psycopg.Connection[Any]":
    """Open a connection that notices soon when there is nobody."""
    known = conninfo_to_dict(url)
    settings = {
        "connect_timeout": CONNECT,
        "application_name": "asynctask",
        # Also where the database has no encoding (SQL_ASCII): text is no text else.
        "client_encoding": "utf8",
        "keepalives_idle": 5,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": int(PATIENCE * 1_000),
        # Of several hosts the one that takes writes.
        "target_session_attrs": "read-write",
        **known,
    }
    return psycopg.connect(make_conninfo("", **settings), prepare_threshold=None, **given)
