"""What the kernel knows of a server's processes (proc(5)), and which cores there are."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICK: Final = os.sysconf("SC_CLK_TCK")

PARENT: Final = 1
"""Where the parent stands in ``/proc/PID/stat``, counted from the state behind the command's name."""
SESSION: Final = 3
USER_TIME: Final = 11
SYSTEM_TIME: Final = 12
ENDED_SYSTEM_TIME: Final = 14
"""Of the children whose end it has seen; before it stands their user time."""


def fields(stat: str) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on; the name before may hold anything."""
    return stat.rpartition(")")[2].split()


def processes() -> Iterator[tuple[Path, list[str]]]:
    """All processes: their folders, and their fields as of `fields`."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                found = fields((entry / "stat").read_text())
            except OSError:
                continue  # it has ended meanwhile
            yield entry, found


def of_session(session: int) -> Iterator[Path]:
    """The processes of a session, as their folders."""
    return (entry for entry, found in processes() if int(found[SESSION]) == session)


def cpu_seconds(session: int) -> float:
    """CPU time that the processes of a session have used so far."""
    ticks = 0
    for entry in of_session(session):
        found = fields((entry / "stat").read_text())
        ticks += int(found[USER_TIME]) + int(found[SYSTEM_TIME])
    return ticks / TICK


def cpu_seconds_of_family(parent: int) -> float:
    """CPU time of a process and its children, those that have ended too.

    PostgreSQL gives each of its processes a session of its own.
    """
    ticks = 0
    for entry, found in processes():
        if int(entry.name) == parent:
            ticks += sum(int(each) for each in found[USER_TIME : ENDED_SYSTEM_TIME + 1])
        elif int(found[PARENT]) == parent:
            ticks += int(found[USER_TIME]) + int(found[SYSTEM_TIME])
    return ticks / TICK


def resident_bytes(session: int) -> int:
    """Memory of the processes of a session; pages that several share are counted in parts (Pss)."""
    return sum(proportional((entry / "smaps_rollup").read_text()) for entry in of_session(session))


def proportional(smaps: str) -> int:
    """Bytes of the ``Pss`` line of ``/proc/PID/smaps_rollup``."""
    for line in smaps.splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) * 1024
    return 0
