"""Watches the reactor from a thread of its own, and tells who holds it."""

import sys
import threading
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger(namespace="asynctask.watch")

HELD: Final = 1.0
"""Seconds after which a reactor that does not come back is worth its stack in the log."""

LOOK: Final = 0.2
"""Seconds between two looks."""


class Watchdog:
    """Prints the stack of whatever holds the reactor, once each time that it is held.

    :param clock: the reactor's time.
    :param suspects: names the task that is being stepped.
    :param late: told at each heartbeat by how many seconds it came late.
    """

    def __init__(
        self,
        clock: IReactorTime,
        suspects: Callable[[], str],
        late: Callable[[float], object] = lambda _seconds: None,
    ) -> None:
        self._clock = clock
        self._suspects = suspects
        self._late = late
        self._next: IDelayedCall | None = None
        self._beat = monotonic()
        self._told = False
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched = 0

    def start(self) -> None:
        """Watch the thread that calls this."""
        self._watched = threading.get_ident()
        self._heartbeat()
        self._thread = threading.Thread(target=self._watch, name="asynctask-watchdog", daemon=True)
        self._thread.start()

    def _heartbeat(self) -> None:
        """The reactor is alive."""
        before, self._beat = self._beat, monotonic()
        if self._next is not None:
            self._late(max(0.0, self._beat - before - LOOK))
        self._told = False
        self._next = self._clock.callLater(LOOK, self._heartbeat)

    def stop(self) -> None:
        """Watch no more."""
        self._end.set()
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _watch(self) -> None:
        while not self._end.wait(LOOK):
            held = monotonic() - self._beat
            if held > HELD + LOOK and not self._told:
                self._told = True
                frame = sys._current_frames().get(self._watched)
                stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
                log.warn(
                    "The reactor is held",
                    seconds=round(held, 1),
                    task_id=self._suspects(),
                    log_stack=stack,
                )
