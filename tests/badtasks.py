"""Handlers as bad as they can be: `test_handlers` has the service import a copy of this file."""

import ctypes
import os
import time
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from asynctask import Context, task


class Silent(Exception):
    """Has no text to show."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def spoil(how: str) -> Any:
    """What can be done in every place."""
    cyclic: list[object] = []
    cyclic.append(cyclic)
    errors: dict[str, BaseException] = {
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "generator exit": GeneratorExit(),
        "silent": Silent(),
    }
    if how in errors:
        raise errors[how]
    if how == "huge":
        return "x" * 100_000_000
    results = {"set": {1}, "bytes": b"x", "cyclic": cyclic, "nan": float("nan"), "surrogate": "\ud800"}
    return results.get(how, how)


def hold() -> None:
    """Hold the loop, and everybody else on it."""
    time.sleep(2)


@task(concurrency=1)
async def on_reactor(how: str) -> Any:
    if how == "block":
        hold()
    return spoil(how)


@task(concurrency=1)
async def clinging(how: str) -> str:
    """Swallow the cancel."""
    if how != "good":
        with suppress(CancelledError):
            await Deferred()
    if how == "go on":
        await Deferred()
    return "in spite of it"


@task(concurrency=1, place="asyncio")
async def on_asyncio(how: str) -> Any:
    return spoil(how)


@task(concurrency=1)
def in_thread(how: str) -> Any:
    while how == "loop":
        pass
    return spoil(how)


@task(concurrency=1, place="process")
def in_process(how: str, context: Context) -> Any:
    context.progress(os.getpid(), 0)
    while how == "loop":
        pass
    if how == "die":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    return spoil(how)


@task
async def kill_service(context: Context) -> None:
    await deferLater(context.clock, 0.3)
    os._exit(7)
