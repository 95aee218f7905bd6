"""The flight recorder: which tasks' handlers were at work in this process when it died.

A small memory-mapped file beside the store. Naming a task in it is a store into memory, no system call,
and what is in it survives the process, if not the machine: a power cut is no task's fault.
"""

import fcntl
import glob
import mmap
import os
import struct
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Final, NamedTuple

from asynctask import forked
from asynctask.ownfiles import open_own
from asynctask.wire import TASK_ID

SLOT: Final = struct.Struct("<?35sI")
"""Whether a task is named, its id, its attempt."""

REACTOR, ASYNCIO = 0, 1
"""The slots of the two loops, which step one task at a time; the others are for threads."""

NOBODY: Final = bytes(SLOT.size)

_IS_STEPPED: Final = REACTOR * SLOT.size
_STEPPED: Final = slice(_IS_STEPPED, _IS_STEPPED + SLOT.size)
"""Where in the map the reactor's slot begins, and where it is."""

MOST_FILES: Final = 1_000
"""Processes of one folder and one database of which each has a flight recorder."""

ATTEMPT: Final = ContextVar("asynctask.attempt", default=NOBODY)
"""The attempt that code on the asyncio loop, in a thread or in a process belongs to, as it is named."""


class Suspect(NamedTuple):
    """An attempt that was at work when the process died."""

    task_id: str
    attempt: int


class FlightRecorder:
    """Names the task that each loop is stepping, and those that threads are running.

    Until it is opened it keeps nothing, which suits a store that keeps nothing either.

    :param threads: how many threads there may be.
    :ivar at_work: the attempt that the reactor is stepping, as it is named, or `NOBODY`.
    """

    def __init__(self, threads: int = 0) -> None:
        self._slots = 2 + threads
        self._pid = os.getpid()
        self.at_work = NOBODY
        self._elsewhere: dict[int, bytes] = {}
        self._idle = list(range(self._slots - 1, ASYNCIO, -1))
        self._map = mmap.mmap(-1, self._slots * SLOT.size)

    def open(self, path: Path, *, alone: bool = False) -> None:
        """Use this file, made where there is none.

        :param alone: other processes may want it too: only one at a time has it.
        :raises BlockingIOError: another process has it.
        :raises OSError: it cannot be used.
        """
        descriptor = open_own(path)
        try:
            if alone:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # As long as an earlier process may have made it. A hole in a file has no room on a full
            # disk, and a store into it would kill the process.
            size = max(os.fstat(descriptor).st_size // SLOT.size, self._slots) * SLOT.size
            os.posix_fallocate(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
            if alone:
                forked.hold(self)  # the map has a descriptor of its own, and the lock by that
        finally:
            os.close(descriptor)

    def open_free(self, path: Path) -> bool:
        """Use the first file of this name and a number that no other process has; whether there was one.

        :raises OSError: it cannot be used.
        """
        for number in range(MOST_FILES):
            with suppress(BlockingIOError):
                self.open(path.with_name(f"{path.name}.{number}"), alone=True)
                return True
        return False

    def suspects(self) -> list[Suspect]:
        """Whom the last process died in, each task once; for the start, before anything is stepped."""
        named = (SLOT.unpack_from(self._map, start) for start in range(0, len(self._map), SLOT.size))
        latest: dict[str, int] = {}  # threads of its earlier attempts may hang
        for is_named, name, attempt in named:
            task_id = name.decode("ascii", "replace")
            if is_named and TASK_ID.fullmatch(task_id):  # a machine that dies may leave half a name
                latest[task_id] = max(attempt, latest.get(task_id, 0))
        return [Suspect(task_id, attempt) for task_id, attempt in latest.items()]

    def stepped(self) -> str:
        """The id of the task that the reactor is stepping, or nothing; from any thread."""
        return task_named(self.at_work)

    def clear(self) -> None:
        """Name nobody: the suspects were charged."""
        self._map[:] = bytes(len(self._map))
        self.at_work = NOBODY
        self._elsewhere.clear()

    def stop(self) -> None:
        """Name nobody any more, whatever still runs: the process ends by its operator's decision."""
        recorded, self._map = self._map, mmap.mmap(-1, len(self._map))
        recorded[:] = bytes(len(recorded))

    def swap(self, record: bytes) -> bytes:
        """Name what the reactor steps, and tell what was named before: a step may run the reactor."""
        before = self.at_work
        if record is NOBODY:
            self.leave()
        else:
            self.enter(record)
        return before

    def enter(self, record: bytes) -> None:
        """Name what the reactor steps, which was stepping nobody."""
        self.at_work = record
        self._map[_STEPPED] = record

    def leave(self) -> None:
        """The reactor steps nobody any more."""
        self.at_work = NOBODY
        self._map[_IS_STEPPED] = 0  # that nobody is named is enough

    def swap_in(self, slot: int, record: bytes) -> bytes:
        """The same in another slot."""
        before = self._elsewhere.get(slot, NOBODY)
        self._elsewhere[slot] = record
        self._map[slot * SLOT.size : (slot + 1) * SLOT.size] = record
        return before

    def hold(self, record: bytes) -> int | None:
        """Name an attempt that runs in a thread, until it is let go of; None where there is no slot."""
        try:
            slot = self._idle.pop()
        except IndexError:
            return None
        self._pid = os.getpid()
        self.swap_in(slot, record)
        return slot

    def let_go(self, slot: int | None) -> None:
        """The thread has ended; the memory of a child that was forked in it is our own."""
        if slot is not None and os.getpid() == self._pid:
            self.swap_in(slot, NOBODY)
            self._idle.append(slot)

    def close(self) -> None:
        """Let go of the file; what still runs names itself where nobody looks."""
        closed, self._map = self._map, mmap.mmap(-1, len(self._map))
        closed.close()
        forked.let_go(self)

    def close_in_child(self) -> None:
        """See `asynctask.forked.Held`."""
        self.close()


def abandoned(path: Path) -> list[FlightRecorder]:
    """The recorders of this path and a number that name an attempt, and whose processes are gone.

    Nobody else has them until they are closed. Where there is no way to look, there are none: it is more
    important that their tasks go on.
    """
    found: list[FlightRecorder] = []
    files: list[Path] = []
    with suppress(OSError):  # such as: too many open files
        files += path.parent.glob(f"{glob.escape(path.name)}.*")
    for file in files:
        if file.suffix[1:].isdecimal():  # no copy that somebody has made
            with suppress(OSError):  # another process has it
                recorder = FlightRecorder()
                recorder.open(file, alone=True)
                if recorder.suspects():
                    found.append(recorder)
                else:
                    recorder.close()
    return found


def record(task_id: str, attempt: int) -> bytes:
    """An attempt as the recorder names it."""
    return SLOT.pack(True, task_id.encode(), attempt)


def task_named(record: bytes) -> str:
    """The id of the task of an attempt as the recorder names it; nothing for nobody."""
    named, task_id, _ = SLOT.unpack(record)
    return task_id.decode() if named else ""
