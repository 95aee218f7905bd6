"""A PID file that a crash has left behind.

twistd refuses to start while the process of that number lives. After a crash, in a container above all,
that may be any other program, or what is left of the dead service until somebody reaps it. Two services
on one store are prevented by the store's lock, not by this file.
"""

import errno
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from asynctask.sqlitefile import is_folder

PROCESSES: Final = Path("/proc")

PROBE: Final = b"4194304\n"
"""As long as any number of a process."""


def forget_if_stale(path: Path) -> None:
    """Remove the file if it names nobody else, or a process that is dead, or no twistd."""
    try:
        if not path.is_file():  # such as /dev/null, which root could remove
            return
        text = path.read_text()
        # A power cut leaves it empty; in a container each start has the number of the one before.
        if not text or int(text) == os.getpid() or not _is_twistd(PROCESSES / str(int(text))):
            path.unlink()
    except (OSError, ValueError):
        return  # No such file, or one that twistd itself has something to say about.


def why_not_written(path: Path) -> str | None:
    """Why it cannot be written; None if it can."""
    try:
        if not is_folder(path.parent):
            return f"there is no folder {path.parent}"
        if is_folder(path):
            return "it is a folder"
        if path.exists() and not path.is_file():
            return "it is no file"
        may = os.access(path if path.exists() else path.parent, os.W_OK)
    except PermissionError:  # further up
        may = False
    if not may:
        return _why_not(path.parent)
    return None if path.exists() else _why_no_room(path.parent)


def _why_not(folder: Path) -> str:
    try:
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    except OSError:
        read_only = 0
    return os.strerror(errno.EROFS) if read_only else "this user may not"


def _why_no_room(folder: Path) -> str | None:
    """Why a file of some bytes cannot be written there; None if it can."""
    try:
        with TemporaryFile(dir=folder, buffering=0) as file:
            file.write(PROBE)
    except OSError as error:
        return os.strerror(error.errno or 0)
    return None


def _is_twistd(process: Path) -> bool:
    """Whether it lives, and may be a service; where nothing can be told it may."""
    try:
        return b"twistd" in (process / "cmdline").read_bytes()  # which is empty once it has ended
    except FileNotFoundError:
        return not PROCESSES.joinpath("self").exists()
