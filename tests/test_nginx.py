"""Behind nginx: as many requests come to the service as nginx has sent, whatever bytes its clients sent."""

import contextlib  # trial takes a name "suppress" for its own
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, given, settings
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults.log import LogLine
from tests.faults.server import Server
from tests.test_differential import STRICTER, exchanges

DRAWN: Final = 60
"""Exchanges of each test: some seconds."""

WITHIN: Final = 5.0
"""Seconds in which nginx answers all that it has read and closes the connection."""

CONFIGURATION: Final = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    log_format sent '$upstream_addr';
    access_log {folder}/access.log sent;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream service {{
        server 127.0.0.1:{port};
        keepalive 2;
    }}
    server {{
        listen unix:{folder}/socket;
        client_header_timeout 100ms;
        client_body_timeout 100ms;
        keepalive_timeout 50ms;
        location / {{
            proxy_pass http://service;
            proxy_set_header Host 127.0.0.1:{port};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering {buffering};
            proxy_next_upstream off;
        }}
    }}
}}
"""

HIDDEN: Final = (
    b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 20\r\n\r\n{"name": "smuggled"}'
)
POST: Final = b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"

WAYS: Final = (
    # Length and chunks: one of the two reads less than the other.
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    POST
    + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(HIDDEN))
    + HIDDEN,
    # A coding that only one of them takes for chunks.
    *(
        POST + coding + b"\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN
        for coding in (
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding:\x0bchunked",
            b"Transfer_Encoding: chunked",
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding: chunked, identity",
            b"X: a\nTransfer-Encoding: chunked",
            b"Transfer-Encoding:\r\n chunked",
            b" Transfer-Encoding: chunked",
            b"Transfer-Encoding: CHUNKED\0",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            b"X: a\rTransfer-Encoding: chunked",
        )
    ),
    # A length that each may read in its own way, or none for a body that is there.
    *(
        POST + b"Content-Length: " + length + b"\r\n\r\n" + HIDDEN
        for length in (
            b"",
            b"00",
            b"0 0",
            b"0,0",
            b"+0",
            b"-1",
            b"0x0",
            b"1e1",
            b"0_0",
            b"0\r\nContent-Length: 9",
        )
    ),
    POST.replace(b"POST", b"GET") + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    POST + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    POST + b"Connection: Content-Length\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    # The sizes and ends of chunks.
    *(
        CHUNKED + chunks + HIDDEN
        for chunks in (
            b"",
            b"\r\n",
            b"0\n\n",
            b"0\r\n\n",
            b"0 \r\n\r\n",
            b"0;a\nb\r\n\r\n",
            b'0;a="\r\n\r\n"\r\n\r\n',
            b"0\r\nX: y\r\n\r\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\nContent-Length: 50\r\n\r\n",
            b"0x0\r\n\r\n",
            b"-0\r\n\r\n",
            b"00000000000000000000\r\n\r\n",
            b"10000000000000000\r\n\r\n",
            b"1\r\n{\r\n\r\n0\r\n\r\n",
            b"2\r\n{}0\r\n\r\n",
            b"2\r\n{}\n0\r\n\r\n",
            b"2\r\n{}xx0\r\n\r\n",
        )
    ),
    *(row.raw + HIDDEN for row in STRICTER),
)


class Behind(SynchronousTestCase):
    """nginx, with kept connections to the service, which is where one request could hide another."""

    def setUp(self) -> None:
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if nginx is None:
            raise SkipTest("nginx is not installed")
        self.nginx = nginx
        self.came = 0
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        server = Server(self.folder, store="sqlite://", options=["--access-log"], listener=self.count)
        self.server = self.enterContext(server).ready()

    def count(self, line: LogLine) -> None:
        if line.message == "Request":
            self.came += 1

    def start(self, buffering: str) -> None:
        folder = self.folder / buffering
        folder.mkdir()
        configuration = folder / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(folder=folder, port=self.server.port, buffering=buffering)
        )
        process = subprocess.Popen([self.nginx, "-p", folder, "-c", configuration], stderr=subprocess.PIPE)
        self.addCleanup(self.end, process)
        self.place = folder / "socket"
        until = time.monotonic() + 10
        while not self.place.exists():
            if process.poll() is not None or time.monotonic() > until:
                assert process.stderr is not None
                self.fail(process.stderr.read())
            time.sleep(0.02)

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.communicate()

    def send(self, raw: bytes) -> None:
        """Send this on one connection, and no more, and read until its end."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WITHIN)
            client.connect(str(self.place))
            client.sendall(raw)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(65_536):
                    pass

    def sent(self) -> int:
        """How many requests nginx has sent to the service."""
        lines = (self.place.parent / "access.log").read_text().splitlines()
        return sum(line != "-" for line in lines)

    def check(self, raw: bytes) -> None:
        self.send(raw)
        until = time.monotonic() + WITHIN
        while (came := self.came) != (sent := self.sent()):  # both logs are a moment late
            if time.monotonic() > until:
                self.fail(f"nginx has sent {sent} requests, and {came} came; the last bytes were {raw!r}")
            time.sleep(0.01)

    def assert_none(self, buffering: str) -> None:
        self.start(buffering)
        self.check(HIDDEN)
        self.assertEqual(self.came, 1)
        for raw in WAYS:
            self.check(raw)

        @settings(max_examples=DRAWN, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(exchanges())
        def drawn(raw: bytes) -> None:
            self.check(raw + HIDDEN)

        drawn()
        time.sleep(0.3)  # the service's log is out within 0.2 s
        self.check(HIDDEN)

    def test_no_request_hides_another(self) -> None:
        self.assert_none("on")

    def test_nor_where_bodies_are_passed_on_as_they_come(self) -> None:
        self.assert_none("off")
