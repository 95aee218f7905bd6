"""A TCP proxy before PostgreSQL, that may hold everything up, or lose the answer to a COMMIT."""

import socket
import time
from contextlib import suppress
from threading import Event, Thread
from typing import Self

COMMIT = b"COMMIT\0"
"""The end of the message (https://www.postgresql.org/docs/current/protocol-message-formats.html, Query)."""

OWNER = b"FOR KEY SHARE"
"""By which the connection that writes is known: each of its transactions begins so."""

CHUNK = 1 << 16


class Proxy:
    """Listens on a port of its own while it is entered.

    :param server: host and port of the server; or the path of its Unix socket.
    :ivar delay: seconds that each message takes, either way.
    :ivar losing: how many COMMITs are to lose their answer: the connection is cut after it was forwarded.
    :ivar late: how many seconds such a COMMIT is forwarded after that.
    :ivar lost: how many have lost it.
    """

    def __init__(self, server: tuple[str, int] | str) -> None:
        self.delay = 0.0
        self.losing = 0
        self.late = 0.0
        self.lost = 0
        self._server = server
        self._open = Event()
        self._open.set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def hold(self) -> None:
        """Forward nothing: the other end seems to hang."""
        self._open.clear()

    def go_on(self) -> None:
        """Forward again, what was held too."""
        self._open.set()

    def cut(self) -> None:
        """Cut all connections."""
        for one in self._sockets:
            _shut(one)
        self._sockets.clear()

    def __enter__(self) -> Self:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        _shut(self._listening)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = self._connect()
                except OSError:
                    client.close()
                    continue
                for one in (client, server):
                    if one.family != socket.AF_UNIX:
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                Thread(target=self._forward, args=(client, server), daemon=True).start()
                Thread(target=self._backward, args=(server, client), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._server, tuple):
            return socket.create_connection(self._server)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        return server

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        writes = False
        with suppress(OSError):
            while data := client.recv(CHUNK):
                self._wait()
                writes |= OWNER in data
                if writes and data.endswith(COMMIT) and self.losing > 0:
                    self.losing -= 1
                    self.lost += 1
                    _shut(client)
                    time.sleep(self.late)
                    server.sendall(data)
                    break
                server.sendall(data)
        # What was sent is served to the end, as over a network that is cut behind it.
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _backward(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK):
                self._wait()
                client.sendall(data)
        _shut(client)
        client.close()
        server.close()

    def _wait(self) -> None:
        if self.delay:
            time.sleep(self.delay)
        self._open.wait()


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
