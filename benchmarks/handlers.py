"""What asynctask runs beside `simulate`: the two kinds that every peer has too."""

from collections.abc import Generator
from typing import Final

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from asynctask import Context, task

WAITING: Final = 600
"""Seconds: longer than it takes to fill a server with a million tasks and to measure it."""


@task
async def noop() -> None:
    """Do nothing."""


@task
@inlineCallbacks
def wait(*, context: Context) -> Generator[Deferred[None], None, None]:
    """Wait once, as `simulate` waits for a step."""
    yield deferLater(context.clock, WAITING)
