"""A Deferred that waits for the real end."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred


def _nobody() -> None:
    """There is nobody who could be asked."""


class Patient(Deferred[Any]):
    """What another thread or process does: a cancel asks it to end, and this fires when it has.

    `twisted.internet.defer.Deferred.cancel` fires at once whatever its canceller does, and so would free
    the place of something that still runs.

    :param ask: asks it to end; called in the reactor's thread, maybe more than once.
    """

    def __init__(self, ask: Callable[[], object] = _nobody) -> None:
        super().__init__()
        self._ask = ask

    def cancel(self) -> None:
        """Ask it to end."""
        if self.called:
            super().cancel()
        else:
            self._ask()

    def end(self, outcome: Any) -> None:
        """Fire with a result or a Failure; in the reactor's thread."""
        self._ask = _nobody  # who has this
        if isinstance(outcome, Deferred):
            # Of another thread, where nothing may be done with it.
            self.errback(TypeError("A handler that does not run on the reactor cannot return a Deferred"))
        else:
            self.callback(outcome)
