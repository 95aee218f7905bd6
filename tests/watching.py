"""Watches a handler at work, without a runner."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from asynctask.model import Progress


class Watching:
    """Keeps what it hears; `outcome` fires with the result or the failure."""

    def __init__(self) -> None:
        self.outcome: Deferred[Any] = Deferred()
        self.told: list[Progress] = []
        self.steps: list[float] = []

    def progressed(self, progress: Progress) -> None:
        self.told.append(progress)

    def took(self, seconds: float) -> None:
        self.steps.append(seconds)

    def returned(self, result: str) -> None:
        self.outcome.callback(result)

    def raised(self, failure: Failure) -> None:
        self.outcome.errback(failure)
