"""Handlers for the tests of processes, which import them by their name."""

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from twisted.logger import Logger

from asynctask.context import Context, Permanent, Retry

marked: list[str] = []
"""What a forked process would have from its parent, and a spawned one has not."""

NOTHING: Final = object()
LOCK: Final = threading.Lock()

own: ContextVar[int] = ContextVar("own", default=0)


class Awkward(Permanent):
    """Can be pickled, and not unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.lock = threading.Lock()


class Silent(Exception):
    """Has no text to show."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def add(one: int, two: int) -> int:
    return one + two


def pid() -> int:
    return os.getpid()


def value(kind: str) -> Any:
    return {"set": {1}, "big": "x" * (1024 * 1024), "lambda": lambda: None, "nan": float("nan")}[kind]


def look() -> dict[str, Any]:
    return {"marked": marked, "path": sys.path, "group": os.getpgid(0) == os.getpid()}


def raise_(kind: str) -> None:
    if kind == "local":

        class Local(ValueError):
            pass

        raise Local("from within")
    raise {
        "plain": ValueError("no"),
        "awkward": Awkward(1, 2),
        "silent": Silent(),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "long": ValueError("x" * 1_000_000),
        "unicode": UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        "busy": Retry("429", after=30),
        "group": ExceptionGroup("several", [ValueError("one"), Permanent("gone")]),
    }[kind]


def come_to_nothing(*_given: object) -> None:
    """A process that ends before it takes a call."""
    os._exit(3)


def die(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(int(how))


def tell(context: Context, steps: int) -> str:
    for step in range(1, steps + 1):
        context.progress(step, steps, f"step {step}")
    context.log.info("Told {what}", what="all", odd=object)
    Logger(namespace="mine").warn("plain", number=7)
    sys.stdout.write("{printed}\n")
    return "told"


def facts(given: Context) -> list[Any]:
    return [given.task_id, given.attempt, given.deadline, given.traceparent, given.cancelled]


def loop(context: Context) -> None:
    """Never end, wherever a signal handler of Python's would run."""
    context.progress(os.getpid(), 0)
    while True:
        pass


def stubborn(context: Context) -> None:
    """Never end, where none would."""
    context.progress(os.getpid(), 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    re.match("(a+)+$", "a" * 60 + "b")


def with_child(context: Context) -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        context.progress(child.pid, 0)


def leave_group(context: Context) -> None:
    """Never end, in the process group of the parent."""
    os.setpgid(0, os.getpgid(os.getppid()))
    loop(context)


def leave_child_and_die(context: Context) -> None:
    """Die, with the pipe kept open by a process that was forked."""
    child = os.fork()
    if child == 0:
        time.sleep(1000)
    context.progress(child, 0)
    os._exit(4)


def fork(how: str, context: Context) -> Any:
    """How a child ends that does not leave by itself, and what it writes to stderr."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        context.progress(2, 2)
        if how == "raise":
            raise ValueError("of the child")
        if how == "exit":
            sys.exit(3)
        return "the child's"
    os.close(writing)
    with open(reading) as stderr:
        told = stderr.read()
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told]


def say() -> None:
    logging.getLogger("a.library").warning("%d {said}", 7)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("a.library").exception("It failed")


def say_in_fork() -> str | None:
    """What a child's `logging` writes to standard output, as this process prints it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        logging.getLogger("a.library").warning("said")
        return None
    os.close(writing)
    with open(reading) as stdout:
        told = stdout.read()
    os.waitpid(child, 0)
    return told


def defaults(one: object = NOTHING, *, lock: object = LOCK) -> list[bool]:
    return [one is NOTHING, lock is LOCK]


def count() -> list[int]:
    own.set(own.get() + 1)
    return [own.get(), os.getpid()]


def late(context: Context) -> str:
    """Go on telling after the end."""

    def telling() -> None:
        for step in range(1000):
            context.progress(step, 0, "late")
            time.sleep(0.001)

    threading.Thread(target=telling, daemon=True).start()
    return "ended"


def signalled(folder: str) -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    Path(folder, "on").touch()
    return "went on"
