"""The SQLite file: where it is, whether it is sound, and who owns it."""

import fcntl
import os
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from stat import S_IRWXO, S_ISDIR, S_IWGRP
from tempfile import TemporaryFile
from typing import Final
from urllib.parse import parse_qsl

from msgspec import Struct

from asynctask import forked
from asynctask.migrations import READABLE_FROM, VERSION, UnreadableSchemaError, check_readable
from asynctask.ownfiles import open_own
from asynctask.problems import StartError
from asynctask.tables import APPLICATION_ID

OLDEST: Final = (3, 38, 0)
"""The first SQLite with the ``->>`` operator built in."""

BUSY: Final = 1.5
"""Seconds to wait for another program that holds the database: a client's 503 waits for it."""

CHECK: Final = 0.5
"""Seconds that the start spends on looking for damage; small files are read whole in that time."""

STOPPABLE: Final = (3, 41)
"""The first SQLite that can be told to look no longer."""

LOOKED_THROUGH: Final = 64 * 1024 * 1024
"""Bytes of the largest file that an earlier one is to look for damage in."""

SYNCHRONOUS: Final = ("full", "normal", "off")


class Place(Struct, frozen=True):
    """Where a SQLite store is.

    :ivar path: its file; None keeps everything in memory.
    :ivar synchronous: what SQLite waits for at a commit, one of `SYNCHRONOUS`.
    """

    path: Path | None
    synchronous: str = "full"

    @property
    def lock_path(self) -> Path | None:
        """The lock file, beside the real file, so that two names of one file share it."""
        return None if self.path is None else _beside(self.path, "-lock")

    @property
    def log_path(self) -> Path | None:
        """SQLite's write-ahead log, which is beside the real file too."""
        return None if self.path is None else _beside(self.path, "-wal")

    @property
    def recorder_path(self) -> Path | None:
        """The flight recorder's file."""
        return None if self.path is None else _beside(self.path, "-recorder")


def _beside(path: Path, suffix: str) -> Path:
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + suffix)


def _masked(url: str) -> str:
    """What may be shown of what was given for a URL: how it begins, where it may have a password."""
    if re.fullmatch(r"[^@=\s]*", url):
        return url
    begins = re.match(r"[A-Za-z0-9+.-]*(?::/{0,2}|=)?", url)
    return f"{begins[0] if begins else ''}…"


def parse_url(url: str, folder: Path) -> Place:
    """Read a store's URL; a relative path starts from ``folder``.

    :raises StartError: it is no URL of a store.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != "sqlite":
        raise StartError(f"--store must be a URL such as sqlite:///asynctask.sqlite, not '{_masked(url)}'")
    location, _, query = rest.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    options = dict(given)
    if len(options) < len(given):
        raise StartError("--store has a parameter twice")
    synchronous = options.pop("synchronous", "full")
    if options:
        raise StartError(f"--store has an unknown parameter '{next(iter(options))}'")
    if synchronous not in SYNCHRONOUS:
        raise StartError(f"--store has synchronous={synchronous}; it may be {', '.join(SYNCHRONOUS)}")
    if location == "/":  # of a variable that was not set
        raise StartError("--store sqlite:/// names no file; sqlite:// keeps everything in memory")
    if location in ("", "/:memory:"):
        return Place(None, synchronous)
    if not location.startswith("/"):
        raise StartError(f"--store needs three slashes before the file: sqlite:///{location}")
    return Place(folder / location[1:], synchronous)


def check(place: Place) -> None:
    """Look whether the store could be opened now, and leave everything as it is.

    :raises StartError: it could not.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        raise StartError(
            f"SQLite {sqlite3.sqlite_version} is too old: asynctask needs "
            f"{'.'.join(map(str, OLDEST))} or later"
        )
    path = place.path
    if path is None:
        return
    _check_folder(path)
    if place.lock_path is not None and os.path.exists(place.lock_path):
        # Not made by a mere look, which root may take for another user.
        Lock(place).close()
    if path.exists():
        _check_file(path)


def is_folder(path: Path) -> bool:
    """Whether it is a folder.

    :raises PermissionError: this user may not look; `Path.is_dir` says no to that from Python 3.14 on.
    """
    try:
        return S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _check_folder(path: Path) -> None:
    folder = path.parent
    try:
        if not is_folder(folder):
            raise StartError(f"--store is to be in {folder}, and there is no such folder")
        if path.is_dir():
            raise StartError(f"--store {path} is a folder, not a file")
        if path.exists() and not path.is_file():
            raise StartError(f"--store {path} is a device or a pipe, not a file")
        # Root passes os.access on a read-only file system's folder, so try.
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StartError(
            f"--store {path}: cannot write into the folder {folder} ({error.strerror})"
        ) from None
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise StartError(f"--store {path} cannot be read and written by this user")
    real = _beside(path, "").parent
    if not os.access(real, os.R_OK):
        raise StartError(f"--store {path}: cannot read the folder {real}, which is to be synced")


def _check_file(path: Path) -> None:
    """Refuse what is no database, another program's, or damaged as far as `CHECK` seconds show."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY)) as file:
            (ours,) = file.execute("PRAGMA application_id").fetchone()
            (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and ours != APPLICATION_ID:
                raise StartError(f"--store {path} is a database of another program")
            if tables:
                (version,) = file.execute(VERSION).fetchone()
                readable_from = file.execute(READABLE_FROM).fetchone()
                check_readable(int(version), readable_from and readable_from[0])
            if sqlite3.sqlite_version_info < STOPPABLE and path.stat().st_size > LOOKED_THROUGH:
                return
            deadline = time.monotonic() + CHECK
            file.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            (found,) = file.execute("PRAGMA quick_check(1)").fetchone()
    except UnreadableSchemaError as error:
        raise StartError(f"--store {path} {error}") from None
    except sqlite3.OperationalError as error:
        # Long files are not looked through; a crash may have left something that the real start mends.
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_READONLY):
            return
        raise StartError(f"--store {path} cannot be opened ({error})") from None
    except sqlite3.DatabaseError as error:
        raise StartError(f"--store {path} is no sound SQLite database ({error})") from None
    if found != "ok":
        raise StartError(f"--store {path} is damaged ({' '.join(found.split())})")


def is_missing(place: Place) -> bool:
    """Whether the file is not there, though what lies beside it since an earlier start is."""
    path, recorder = place.path, place.recorder_path
    # By `os.path`, which raises nothing: whoever opens them says what is wrong.
    return bool(path and recorder and os.path.exists(recorder) and not os.path.exists(path))


def create(place: Place) -> None:
    """Make a new file that only this user can read; SQLite gives those beside it the same mode.

    :raises StartError: it cannot be made.
    """
    if place.path is None:
        return
    try:
        os.close(os.open(place.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StartError(f"--store: cannot open {place.path} ({error.strerror})") from None


def is_of_others(place: Place) -> bool:
    """Whether other users than the file's may write it, or all may read it."""
    return place.path is not None and bool(place.path.stat().st_mode & (S_IRWXO | S_IWGRP))


class Lock:
    """One process a file: held from the start to the end, never unlinked.

    :raises StartError: another process has it, or it cannot be made.
    """

    def __init__(self, place: Place) -> None:
        self._descriptor = -1
        path = place.lock_path
        if path is None:
            return
        try:
            self._descriptor = open_own(path)
        except OSError as error:
            raise StartError(f"--store: cannot open {path} ({error.strerror})") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StartError(
                f"--store {place.path} is in use by another asynctask process; stop that one, "
                "or name another file"
            ) from None
        except OSError as error:
            self.close()
            raise StartError(f"--store: cannot lock {path} ({error.strerror})") from None
        forked.hold(self)

    def close_in_child(self) -> None:
        """See `asynctask.forked.Held`."""
        self.close()

    def close(self) -> None:
        """Let another process have the file."""
        forked.let_go(self)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
