"""The kinds of task that there are, and the built-in one."""

import inspect
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any, Final

from msgspec import Struct
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from asynctask.context import Context

Steps = Generator[Any, Any, Any] | Coroutine[Any, Any, Any]

STEP: Final = 1.0
"""Seconds between two steps of `simulate`."""


class Kind(Struct, frozen=True):
    """What a task of one kind runs.

    :ivar steps: called with the context and the input as keyword arguments; gives what an
        ``async def`` or inlineCallbacks function gives, to be stepped by the runner.
    :ivar seconds: how long an attempt with this input takes, if that can be told.
    """

    name: str
    steps: Callable[..., Steps]
    seconds: Callable[[Mapping[str, Any]], float | None]


@inlineCallbacks
def simulate(context: Context, duration: int) -> Generator[Deferred[None], None, None]:
    """Run for ``duration`` seconds, one step a second."""
    for step in range(1, duration + 1):
        yield deferLater(context.clock, STEP)
        context.progress(step, duration)


KINDS: Final[Mapping[str, Kind]] = {
    "simulate": Kind("simulate", inspect.unwrap(simulate), lambda given: given["duration"]),
}
