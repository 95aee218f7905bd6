"""A child that a handler has forked: it is no part of the service, and keeps nothing from the next one."""

import os
import sys
import traceback
from contextlib import suppress
from typing import Final, NoReturn, Protocol
from weakref import WeakSet

is_child = False
"""Whether this process was forked from a service."""


class Held(Protocol):
    """What only one process may have: a lock, a port."""

    def close_in_child(self) -> None:
        """Let a child not have it."""


_HELD: Final[WeakSet[Held]] = WeakSet()


def hold(held: Held) -> None:
    """Have it closed in each child that is forked from now on, as long as it is there."""
    global is_child
    is_child = False  # or it has a service of its own
    _HELD.add(held)


def let_go(held: Held) -> None:
    """It is held no more."""
    _HELD.discard(held)


def _forked() -> None:
    global is_child
    is_child = bool(_HELD)
    for held in list(_HELD):
        with suppress(OSError):
            held.close_in_child()


os.register_at_fork(after_in_child=_forked)


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
