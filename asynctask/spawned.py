"""One process for handlers, seen from its parent; pebble starts it and sees to its end."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, Final

from asynctask.worker import Begun, Logged, Raised, Reported, Returned, serve_handlers

LOOK: Final = 0.5
"""Seconds between two looks whether a busy process still lives, where its pipe does not tell: programs that
a handler has started may hold it open."""

LATE: Final = 30.0
"""Seconds that a process may take to come up: it imports the modules of handlers, as many others may."""

REAP: Final = 1.0
"""Seconds for pebble to tell how a process ended."""


class Spawned:
    """A process that runs handlers, with a pipe of its own.

    :raises ImportError: pebble is missing.
    """

    def __init__(self) -> None:
        start = starter()
        self._pipe, theirs = get_context("spawn").Pipe()
        self._pid: int | None = None
        self._started = monotonic()
        self._end = forgiving(start(theirs, os.getpid()))
        # Else we would not see it closed when the process dies.
        theirs.close()

    def begin(self, cancelled: Callable[[], bool]) -> None:
        """Wait until it is there, or nobody wants it any more: it comes up for the next call then.

        :raises EOFError: it has died.
        """
        while self._pid is None:
            if self._pipe.poll(LOOK):
                begun: Begun = self._pipe.recv()
                self._pid = begun.pid
            elif cancelled():
                return

    def ask(self, call: bytes) -> None:
        """Hand a call over."""
        self._pipe.send_bytes(call)

    def hear(self) -> Reported | Logged | Returned | Raised:
        """The next that it says.

        :raises EOFError: it has died.
        """
        while not self._pipe.poll(LOOK):
            if not self.lives:
                raise EOFError
        word: Reported | Logged | Returned | Raised = self._pipe.recv()
        return word

    @property
    def is_up(self) -> bool:
        """Whether it has come up."""
        return self._pid is not None

    @property
    def lives(self) -> bool:
        """Whether it could take a call, now or when it has come up."""
        if self._end.done():
            return False
        if self._pid is None:
            return monotonic() < self._started + LATE
        return lives(self._pid)

    def kill(self) -> None:
        """End it now, with what it has started."""
        if self._pid is None:
            self._end.cancel()
        elif not self._end.done():
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)  # it may have left its group
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def end(self) -> str:
        """Kill it with whatever it has started, and tell how it died: a signal's name, or its exit code."""
        if self._pid is None:  # pebble cannot be told of one that ends before it looks
            with suppress(EOFError, OSError):
                if self._pipe.poll(REAP):
                    begun: Begun = self._pipe.recv()
                    self._pid = begun.pid
        self.kill()
        wait([self._end], REAP)
        if not self._end.done():
            self._end.cancel()
        if self._end.cancelled():
            return "nobody knows how"
        code = getattr(self._end.exception(), "exitcode", None)
        return signal_name(-code) if code is not None and code < 0 else f"exit code {code}"


def lives(pid: int) -> bool:
    """Whether a child of ours has not ended; its exit code is left to whoever waits for it."""
    with suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def forgiving(end: Future[None]) -> Future[None]:
    """One that may fail after its cancel: pebble's thread may be about to tell how a process ended."""
    fail = end.set_exception

    def set_exception(error: BaseException | None) -> None:
        with suppress(InvalidStateError):
            fail(error)

    end.set_exception = set_exception  # type: ignore[assignment, method-assign]
    return end


def starter() -> Callable[[Connection, int], Future[None]]:
    """What starts a process.

    :raises ImportError: pebble is missing.
    """
    try:
        from pebble import concurrent
    except ImportError:
        raise ImportError(
            "Handlers in processes need pebble: pip install 'pebble>=5.1'", name="pebble"
        ) from None
    # Its annotations call the argument mp_context; its code reads context, and forks without it.
    started: Any = concurrent.process(daemon=False, context=get_context("spawn"))  # type: ignore[call-overload]
    return started(serve_handlers)  # type: ignore[no-any-return]
