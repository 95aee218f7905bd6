"""Bytes to a connection in memory, and the answers that come back."""

from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

SERVER = IPv4Address("TCP", "127.0.0.1", 8080)
CLIENT = IPv4Address("TCP", "127.0.0.1", 31_337)


class Answer(NamedTuple):
    """One whole answer."""

    version: bytes
    status: int
    fields: dict[bytes, bytes]
    body: bytes


@implementer(IHalfCloseableDescriptor)
class Transport(StringTransport):
    """A socket that counts what is written, and whether it is full."""

    producer: Any

    def __init__(self) -> None:
        super().__init__(SERVER, CLIENT)
        self.writes: list[bytes] = []
        self.write_closed = False
        self.ended = False
        self.full = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)
        if self.full and self.producer is not None:
            self.producer.pauseProducing()

    def loseWriteConnection(self) -> None:
        self.write_closed = True

    def abortConnection(self) -> None:
        self.ended = True
        super().abortConnection()

    def writeConnectionLost(self, reason: Failure) -> None:
        """See `IHalfCloseableDescriptor`."""

    def readConnectionLost(self, reason: Failure) -> None:
        """See `IHalfCloseableDescriptor`."""


class Wire:
    """A client's connection to a server in memory."""

    def __init__(self, server: Any) -> None:
        self.transport = Transport()
        self.protocol: Any = server.buildProtocol(CLIENT)
        self.protocol.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> "Wire":
        for piece in pieces:
            self.protocol.dataReceived(piece)
        return self

    def leave(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.transport.producer = None

    def close_half(self) -> None:
        """Send no more, and read on."""
        self.protocol.readConnectionLost()

    @property
    def raw(self) -> bytes:
        """All that the server has written."""
        return bytes(self.transport.value())

    @property
    def closed(self) -> bool:
        """Whether the server has closed, or says nothing else."""
        transport = self.transport
        return bool(transport.disconnecting or transport.write_closed or transport.ended)

    @property
    def answers(self) -> list[Answer]:
        """The whole answers so far; none to 100."""
        return parse_answers(self.raw)

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


def parse_answers(raw: bytes) -> list[Answer]:
    """Answers with a length, in chunks, or up to the end; one to HEAD is told by what follows it."""
    found = []
    while raw:
        head, separator, raw = raw.partition(b"\r\n\r\n")
        assert separator, head
        first, *lines = head.split(b"\r\n")
        version, code, _ = first.split(b" ", 2)
        fields = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}
        assert len(fields) == len(lines), head
        body = b""
        if fields.get(b"transfer-encoding") == b"chunked":
            body, raw = _unchunked(raw)
        elif b"content-length" in fields:
            if raw and not raw.startswith(b"HTTP/1."):
                length = int(fields[b"content-length"])
                body, raw = raw[:length], raw[length:]
        elif code[:1] != b"1" and code not in (b"204", b"304") and not raw.startswith(b"HTTP/1."):
            body, raw = raw, b""
        found.append(Answer(version, int(code), fields, body))
    return found


def _unchunked(raw: bytes) -> tuple[bytes, bytes]:
    """The body, and what comes after it; one that is not whole is taken as it is."""
    body = b""
    while True:
        size, separator, rest = raw.partition(b"\r\n")
        if not separator:
            return body, b""
        length = int(size, 16)
        if not length:
            return body, rest.removeprefix(b"\r\n")
        body, raw = body + rest[:length], rest[length + 2 :]
