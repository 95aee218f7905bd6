"""A line in the log for a request."""

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask.access import log_access
from asynctask.logs import text_line

CLIENT = IPv4Address("TCP", "192.0.2.1", 5_000)


class AccessTests(SynchronousTestCase):
    """What it says."""

    def line(self, method: bytes, uri: bytes, seconds: float = 0.0, client: Any = CLIENT) -> str:
        """Without its time."""
        with capturedLogs() as logged:
            log_access(method, uri, 200, 134, seconds, client)
        [event] = logged
        return text_line(event).partition(" ")[2]

    def test_it_is_as_the_page_shows_it(self) -> None:
        self.assertEqual(
            self.line(b"GET", b"/api/tasks", 0.00123),
            "info Request method=GET path=/api/tasks status=200 bytes=134 ms=1.2 client=192.0.2.1",
        )

    def test_a_path_is_told_as_it_came(self) -> None:
        self.assertIn(" path=/a?name=%C3%A9 ", self.line(b"GET", b"/a?name=%C3%A9"))
        self.assertIn(" path=/\u00e9 ", self.line(b"GET", "/\u00e9".encode()))
        self.assertIn(r' path="/\\xff" ', self.line(b"GET", b"/\xff"))

    def test_a_unix_socket_has_no_host(self) -> None:
        self.assertTrue(self.line(b"GET", b"/", client=UNIXAddress(None)).endswith(" client=null"))
