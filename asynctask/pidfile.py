"""A PID file that a crash has left behind.

twistd refuses to start while the process of that number lives. After a crash, in a container above all,
that may be any other program, or what is left of the dead service until somebody reaps it. Two services
on one store are prevented by the store's lock, not by this file.
"""

from pathlib import Path
from typing import Final

PROCESSES: Final = Path("/proc")


def forget_if_stale(path: Path) -> None:
    """Remove the file if the process that it names is dead, or no twistd; else leave it alone."""
    try:
        pid = int(path.read_text())
        if not _is_twistd(PROCESSES / str(pid)):
            path.unlink()
    except (OSError, ValueError):
        return  # No such file, or one that twistd itself has something to say about.


def _is_twistd(process: Path) -> bool:
    """Whether it lives, and may be a service; where nothing can be told it may."""
    try:
        # The name, in parentheses, may hold anything; the state comes behind it.
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" and b"twistd" in (process / "cmdline").read_bytes()
    except FileNotFoundError:
        return not PROCESSES.joinpath("self").exists()
