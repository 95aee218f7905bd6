"""A child that a handler has forked: it is no part of the service, and keeps nothing from the next one."""

import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import Final, NoReturn, Protocol
from weakref import WeakSet

is_child = False
"""Whether this process was forked from a service."""


class Held(Protocol):
    """What only one process may have: a lock, a port, a pipe."""

    def close_in_child(self) -> None:
        """Let a child not have it."""


_HELD: Final[WeakSet[Held]] = WeakSet()

_STOPPING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""What a service hears."""
_FROM_TERMINALS: Final = (signal.SIGHUP, signal.SIGINT)
"""What a terminal sends to all processes: that is for the service to decide upon, whose tasks have time."""

_forking: Final = threading.local()


def hold(held: Held) -> None:
    """Have it closed in each child that is forked from now on, as long as it is there."""
    global is_child
    is_child = False  # or it has a service of its own
    _HELD.add(held)


def let_go(held: Held) -> None:
    """It is held no more."""
    _HELD.discard(held)


def _before() -> None:
    # What comes to a child before it has let go of our handlers would be lost with it.
    _forking.unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING) if _HELD else None


def _after() -> None:
    if _forking.unblocked is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.unblocked)


def _in_child() -> None:
    global is_child
    is_child = bool(_HELD)
    for held in list(_HELD):
        with suppress(OSError):
            held.close_in_child()
    if is_child:
        signal.set_wakeup_fd(-1)  # it is the reactor's, of which there is none
        for number in _STOPPING:
            if _is_ours(signal.getsignal(number)):
                signal.signal(number, pass_over if number in _FROM_TERMINALS else signal.SIG_DFL)
    _after()


def pass_over(*_: object) -> None:
    """What hears a signal and does nothing: a function, since programs that are started inherit SIG_IGN."""


def _is_ours(handler: object) -> bool:
    """Whether it stops a service, or a reactor; else a program around it has its own."""
    return str(getattr(handler, "__module__", "")).startswith(("asynctask.", "twisted."))


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)


def leave(error: BaseException | None = None) -> NoReturn:
    """End it when its code has come to its end, with the exit code and the last words that any program has.

    :param error: what was raised in it.
    """
    code = 0
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        code = (error.code or 0) & 0xFF
    elif error is not None:
        code = 1
        told = [f"{error.code}\n"] if isinstance(error, SystemExit) else traceback.format_exception(error)
        print("".join(told), end="", file=sys.__stderr__, flush=True)
    os._exit(code)
