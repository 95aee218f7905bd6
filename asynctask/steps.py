"""A handler's steps on the reactor, each of them named in the flight recorder."""

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any

from asynctask.recorder import FlightRecorder
from asynctask.registry import Steps


class Recorded(Coroutine[Any, Any, Any]):
    """Steps of a coroutine, or of a generator as inlineCallbacks has it, that leave a trace.

    `twisted.internet.defer.ensureDeferred` drives it like the coroutine itself.
    """

    __slots__ = ("_record", "_recorder", "_steps")

    def __init__(self, steps: Steps, recorder: FlightRecorder, record: bytes) -> None:
        self._steps = steps
        self._recorder = recorder
        self._record = record

    def send(self, value: Any) -> Any:
        """Take the next step with what was waited for."""
        before = self._recorder.swap(self._record)
        try:
            return self._steps.send(value)
        finally:
            self._recorder.swap(before)

    def throw(
        self,
        kind: Any,
        value: BaseException | object = None,
        _trace: TracebackType | None = None,
    ) -> Any:
        """Take the next step with the error that was waited for."""
        before = self._recorder.swap(self._record)
        try:
            return self._steps.throw(kind if value is None else value)  # type: ignore[arg-type]
        finally:
            self._recorder.swap(before)

    def close(self) -> None:
        """End without another step."""
        self._steps.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._steps)  # type: ignore[misc]
