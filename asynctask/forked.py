"""A child that a handler in a thread or a process has forked, and whose code has come to its end.

It is no part of the service.
"""

import os
import sys
import traceback
from typing import NoReturn


def leave(error: BaseException | None = None) -> NoReturn:
    """End the process, with the exit code and the last words that any program has.

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
