"""A handler's steps on a loop: each is named in the flight recorder and timed."""

from collections.abc import Callable, Coroutine, Generator
from time import perf_counter
from types import TracebackType
from typing import Any, Final

from asynctask.recorder import REACTOR, FlightRecorder

Steps = Generator[Any, Any, Any] | Coroutine[Any, Any, Any]

WRONG_PLACE: Final = (
    "This handler awaits asyncio code, and runs on Twisted's reactor: declare it with "
    '@task(place="asyncio")'
)


class WrongPlaceError(Exception):
    """A coroutine on the reactor awaits what only asyncio can wait for."""


def _ignore(_seconds: float) -> None:
    """Nobody wants to know how long a step took."""


class Recorded(Coroutine[Any, Any, Any]):
    """Steps of a coroutine, or of a generator as inlineCallbacks has it, that leave a trace.

    `twisted.internet.defer.ensureDeferred` and asyncio drive it like the coroutine itself.

    :param slot: the recorder's slot of the loop.
    :param took: told the seconds of each step.
    """

    __slots__ = ("_record", "_recorder", "_slot", "_steps", "_took")

    def __init__(
        self,
        steps: Steps,
        recorder: FlightRecorder,
        record: bytes,
        slot: int = REACTOR,
        took: Callable[[float], None] = _ignore,
    ) -> None:
        self._steps = steps
        self._recorder = recorder
        self._record = record
        self._slot = slot
        self._took = took

    def send(self, value: Any) -> Any:
        """Take the next step with what was waited for."""
        return self._step(self._steps.send, value)

    def throw(
        self,
        kind: Any,
        value: BaseException | object = None,
        _trace: TracebackType | None = None,
    ) -> Any:
        """Take the next step with the error that was waited for."""
        return self._step(self._steps.throw, kind if value is None else value)

    def _step(self, take: Callable[[Any], Any], value: Any) -> Any:
        before = self._recorder.swap(self._record, self._slot)
        began = perf_counter()
        try:
            waits_for = take(value)
        except RuntimeError as error:
            if self._slot == REACTOR and str(error) == "no running event loop":
                raise WrongPlaceError(WRONG_PLACE) from error
            raise
        finally:
            self._recorder.swap(before, self._slot)
            self._took(perf_counter() - began)
        if self._slot == REACTOR and hasattr(waits_for, "_asyncio_future_blocking"):
            raise WrongPlaceError(WRONG_PLACE)
        return waits_for

    def close(self) -> None:
        """End without another step."""
        self._steps.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("It is driven by a loop, not awaited")
