"""Answers read as they come: a body, and the events in one (Server-Sent Events, WHATWG HTML §9.2)."""

import re
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from asynctask.model import Progress
from asynctask.responses import Event, Task, Unexpected, decode

MAX_EVENT: Final = 1024 * 1024
"""Bytes of one event."""

_LINE_END: Final = re.compile(b"\r\n|\r|\n")


class Body(Protocol):
    """The body of an answer, read no faster than it is asked for.

    :ivar position: where a stream of events begins, for who is cut off before the first one.
    """

    transport: Any

    def __init__(self, response: IResponse) -> None:
        [position] = response.headers.getRawHeaders(b"last-event-id", [b""])[:1]
        self.position = position.decode("utf-8", "replace") or None
        self._parts: list[bytes] = []
        self._reader: Deferred[bytes] | None = None
        self._ended: Failure | None = None
        response.deliverBody(self)

    def dataReceived(self, data: bytes) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        self._parts.append(data)
        if self._reader is None:
            self.transport.pauseProducing()
        self._hand_over()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        self._ended = reason
        self._hand_over()

    def read(self) -> Deferred[bytes]:
        """What has come since, or nothing at its end.

        :raises ResponseFailed: it was cut off.
        """
        reader = self._reader = Deferred(lambda _: self.stop())
        self._hand_over()
        if self._reader is not None:
            self.transport.resumeProducing()
        return reader

    def _hand_over(self) -> None:
        reader = self._reader
        if reader is None or not (self._parts or self._ended):
            return
        self._reader = None
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            reader.callback(data)
        elif self._ended and not self._ended.check(ResponseDone, PotentialDataLoss):
            reader.errback(self._ended)
        else:
            reader.callback(b"")

    def stop(self) -> None:
        """Nobody reads on: hang up, without waiting over TLS for an answer that nobody would read."""
        self._reader = None
        self.transport.stopProducing()


class Events:
    """Bytes to events.

    :ivar position: the id of the last whole event; where to go on after a cut.
    :ivar retry: seconds before the next connection that the service asks for.
    """

    def __init__(self, position: str | None) -> None:
        self.position = position
        self.retry = 0.0
        self.cut()

    def cut(self) -> None:
        """The connection is gone, and with it the event that had not come whole."""
        self._rest = b""
        self._after_cr = False
        self._clear()

    def _clear(self) -> None:
        self._type = ""
        self._data: list[bytes] = []
        self._size = 0
        self._id: str | None = None

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete.

        :raises Unexpected: they are none of asynctask's.
        """
        after_cr, self._after_cr = self._after_cr, data.endswith(b"\r")
        if after_cr and data.startswith(b"\n"):
            data = data[1:]
        *lines, self._rest = _LINE_END.split(self._rest + data)
        for line in lines:
            if line:
                self._field(line)
            elif (event := self._whole()) is not None:
                yield event
        self._check_size(len(self._rest))

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            self._check_size(0)
            self._data.append(value)
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and re.fullmatch(b"[0-9]{1,9}", value):
            self.retry = int(value) / 1000

    def _check_size(self, more: int) -> None:
        if self._size + more > MAX_EVENT:
            raise Unexpected(200, f"An event has more than {MAX_EVENT} bytes")

    def _whole(self) -> Event | None:
        """At an empty line: the event, unless it was only a comment."""
        kind, data, position = self._type, b"\n".join(self._data), self._id
        self._clear()
        if position is not None:
            self.position = position
        if not data:
            return None
        if kind == "change":
            task = decode(data, Task)
            return Event(kind, decode(data, dict), position, task.task_id, task)
        told = decode(data, _Told) if kind in ("progress", "deleted") else _Told()
        return Event(
            kind or "message",
            decode(data, object),
            position,
            told.task_id,
            attempt=told.attempt,
            progress=told.progress,
        )


class _Told(Struct):
    task_id: str | None = None
    attempt: int | None = None
    progress: Progress | None = None
