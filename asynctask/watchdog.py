"""Watches the reactor from a thread of its own, and tells who holds it."""

import sys
import threading
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Final

from twisted.logger import Logger

log = Logger(namespace="asynctask.watchdog")

HELD: Final = 1.0
"""Seconds after which a reactor that does not come back is worth its stack in the log."""

LOOK: Final = 0.2
"""Seconds between two looks."""


class Watchdog:
    """Asks the reactor from a thread whether it is alive, and prints the stack of whatever holds it.

    No timer of the reactor's is part of it: a clock that is set back would stop them.

    :param from_thread: ``reactor.callFromThread``.
    :param suspects: names the task that is being stepped.
    :param late: told at each heartbeat how many seconds the reactor took to come to it.
    :param beat: called in the reactor's thread at each heartbeat.
    """

    def __init__(
        self,
        from_thread: Callable[..., object],
        suspects: Callable[[], str],
        late: Callable[[float], object] = lambda _seconds: None,
        beat: Callable[[], object] = lambda: None,
    ) -> None:
        self._from_thread = from_thread
        self._suspects = suspects
        self._late = late
        self._beat = beat
        self._asked: float | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched = 0

    def start(self) -> None:
        """Watch the thread that calls this."""
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="asynctask-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._end.set()

    def _heartbeat(self, asked: float) -> None:
        """The reactor is alive."""
        self._asked = None
        if not self._end.is_set():
            self._late(monotonic() - asked)
            self._beat()

    def _watch(self) -> None:
        told = False
        while not self._end.wait(LOOK):
            asked = self._asked
            if asked is None:
                told = False
                asked = self._asked = monotonic()
                self._from_thread(self._heartbeat, asked)
            elif not told and monotonic() - asked > HELD:
                told = True
                self._tell(monotonic() - asked)

    def _tell(self, held: float) -> None:
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        log.warn("The reactor is held", seconds=round(held, 1), task_id=self._suspects(), log_stack=stack)
