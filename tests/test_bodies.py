"""Every body that anybody may send, to the real service: an answer, no traceback, no growth."""

import http.client
import socket
import threading
from pathlib import Path

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.log import LogLine
from tests.faults.server import Server
from tests.json_bodies import bodies

GIGABYTE = 2**30
CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

GROWTH = 20_000_000
"""Bytes that a process may take for what it does the first time: caches, threads, buffers."""


class BodyTests(SynchronousTestCase):
    """One service, many bodies."""

    def setUp(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.log: list[LogLine] = []
        self.server = Server(folder, listener=self.log.append).ready()
        self.addCleanup(self.server.__exit__)
        assert self.server.port is not None
        self.port = self.server.port
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        self.addCleanup(self.connection.close)

    def memory(self) -> int:
        """Bytes of the process that are in memory."""
        pages = int(Path(f"/proc/{self.server.pid}/statm").read_text().split()[1])
        return pages * 4_096

    def post(self, body: bytes) -> int:
        headers = {"Content-Type": "application/json"}
        self.connection.request("POST", "/api/tasks", body, headers)
        response = self.connection.getresponse()
        response.read()
        return response.status

    def assert_quiet(self) -> None:
        self.assertEqual([line for line in self.log if line.level != "info"], [])

    def test_whatever_comes_is_answered(self) -> None:
        @given(bodies)
        def every_body(body: bytes) -> None:
            status = self.post(body)
            self.assertTrue(status == 202 or 400 <= status < 500, (status, body))

        every_body()
        self.assert_quiet()

    def test_a_body_without_an_end_takes_no_memory(self) -> None:
        self.post(b"{}")
        before, most = self.memory(), 0
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            answers = connection.makefile("rb")
            connection.sendall(
                b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            self.sent = 0
            sender = threading.Thread(target=self.send_until_closed, args=(connection,))
            sender.start()
            self.assertEqual(answers.readline(), b"HTTP/1.1 413 Content Too Large\r\n")
            while sender.is_alive():
                most = max(most, self.memory())
                sender.join(0.05)
            answers.close()
        self.assertLess(most - before, GROWTH)
        self.assertEqual(self.post(b'{"name": "after"}'), 202)
        self.assert_quiet()

    def send_until_closed(self, connection: socket.socket) -> None:
        try:
            while self.sent < GIGABYTE:
                connection.sendall(CHUNK)
                self.sent += len(CHUNK)
        except OSError:
            pass
