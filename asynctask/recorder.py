"""The flight recorder: which task was being stepped when the process died.

A small memory-mapped file beside the store. Naming a task in it is a store into memory, no system call,
and what is in it survives the process, if not the machine: a power cut is no task's fault.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

SLOT: Final = struct.Struct("<?35sI")
"""Whether a task is being stepped, its id, its attempt."""

NOBODY: Final = bytes(SLOT.size)


class Suspect(NamedTuple):
    """An attempt that was being stepped when the process died."""

    task_id: str
    attempt: int


class FlightRecorder:
    """Names the task that holds the reactor right now.

    Until it is opened it keeps nothing, which suits a store that keeps nothing either.
    """

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, SLOT.size)
        self._now = NOBODY

    def open(self, path: Path) -> None:
        """Use this file, made where there is none.

        :raises OSError: it cannot be used.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, SLOT.size)
            self._map = mmap.mmap(descriptor, SLOT.size)
        finally:
            os.close(descriptor)

    def suspects(self) -> list[Suspect]:
        """Whom the last process died in; for the start, before anything is stepped."""
        stepped, task_id, attempt = SLOT.unpack(self._map[: SLOT.size])
        return [Suspect(task_id.decode("ascii", "replace"), attempt)] if stepped else []

    def clear(self) -> None:
        """Name nobody: the suspects were charged, or the process ends by a decision of its operator."""
        self._map[: SLOT.size] = self._now = NOBODY

    def swap(self, record: bytes) -> bytes:
        """Name another attempt, and tell which one was named before: steps may nest."""
        before, self._now = self._now, record
        self._map[: SLOT.size] = record
        return before

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()


def record(task_id: str, attempt: int) -> bytes:
    """An attempt as the recorder names it."""
    return SLOT.pack(True, task_id.encode(), attempt)
