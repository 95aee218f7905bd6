"""Single requests over one connection, as little as a measurement of one answer wants."""

import socket
from typing import Final

PATIENCE: Final = 30.0
"""Seconds for an answer."""


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """A request in bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body or method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Client:
    """A connection that is kept.

    :raises OSError: nothing listens, or the connection is lost; also from `send`.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and read its answer: status and body."""
        self._socket.sendall(request)
        status_line = self._file.readline()
        if not status_line:
            raise ConnectionResetError("the server has closed the connection")
        length = 0
        chunked = False
        while (line := self._file.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            chunked = chunked or (name.lower() == b"transfer-encoding" and b"chunked" in value.lower())
        if chunked:
            raise ConnectionError("an answer in chunks, which is not expected here")
        return int(status_line.split()[1]), self._file.read(length)

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def get(port: int, path: str) -> int:
    """The status of one GET.

    :raises OSError: there is no answer.
    """
    with Client(port) as client:
        return client.send(request("GET", path))[0]
