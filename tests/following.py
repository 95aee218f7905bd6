"""Connections that follow events: what they were sent, and whether they read it."""

import re
from collections.abc import Sequence
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from asynctask.responses import Event
from asynctask.stream import Events

_CHUNK = re.compile(rb"([0-9a-fA-F]+)\r\n")


class Following:
    """A client's connection to a service in memory, and the one request on it.

    :ivar over: whether the answer has ended.
    :ivar paused: whether the service was told to write no more.
    """

    def __init__(self, server: Any, path: str, method: str, **headers: str) -> None:
        self.paused = False
        self._transport: Any = StringTransport()
        self._channel: Any = server.buildProtocol(None)
        self._channel.makeConnection(self._transport)
        named = {"Host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
        self._channel.dataReceived("\r\n".join([*lines, "", ""]).encode())

    def pause(self) -> None:
        """Read no more: what the service writes from now on fills buffers."""
        self.paused = True
        self._transport.producer.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        self._transport.producer.resumeProducing()

    def unsent(self, size: int) -> None:
        """Let so many bytes wait to be sent."""
        self._transport.dataBuffer = bytes(size)

    def end_below(self) -> None:
        """Let TLS end the connection, below what the service sees of it."""
        self._transport.transport = StringTransport()
        self._transport.transport.disconnecting = True

    def leave(self) -> None:
        """Hang up."""
        self._channel.connectionLost(Failure(ConnectionDone()))

    @property
    def dropped(self) -> bool:
        """Whether the service hung up."""
        return bool(self._transport.disconnecting)

    @property
    def answered(self) -> bool:
        return bool(self._transport.value())

    @property
    def status(self) -> int:
        return int(self._transport.value().split(b" ", 2)[1])

    def header(self, name: str) -> str | None:
        head = self._transport.value().partition(b"\r\n\r\n")[0].decode()
        found = re.search(rf"^{name}: (.*?)\r?$", head, re.MULTILINE | re.IGNORECASE)
        return found and found[1]

    @property
    def over(self) -> bool:
        return self._sized or self._transport.value().endswith(b"\r\n0\r\n\r\n")

    @property
    def _sized(self) -> bool:
        return self.header("content-length") is not None

    @property
    def body(self) -> bytes:
        """All chunks."""
        rest: bytes = self._transport.value().partition(b"\r\n\r\n")[2]
        if self._sized:
            return rest
        body = b""
        while found := _CHUNK.match(rest):
            end = found.end() + int(found[1], 16)
            body, rest = body + rest[found.end() : end], rest[end + 2 :]
        return body

    @property
    def comments(self) -> int:
        return self.body.count(b":\n")

    @property
    def events(self) -> Sequence[Event]:
        return [*Events(None).feed(self.body)]

    @property
    def told(self) -> list[str]:
        """Each event in a word or two: ``running 1``, ``progress 2``, ``deleted``, ``reset``."""
        words = []
        for event in self.events:
            if event.task is not None:
                words.append(f"{event.task.status} {event.task.attempt}")
            elif event.progress is not None:
                words.append(f"progress {event.progress.step}")
            else:
                words.append(event.type)
        return words

    @property
    def last_id(self) -> str:
        """Where a client goes on."""
        ids = [event.id for event in self.events if event.id is not None]
        return ids[-1] if ids else self.header("last-event-id") or ""
