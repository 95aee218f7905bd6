"""Thousands follow all tasks, and half of them stop reading: the others miss nothing, these are dropped.

``python -m tests.faults.crowd --readers 1000 --stopped 1000 --seconds 40 --rate 200``
"""

import argparse
import re
import selectors
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from tests.faults.client import HOST, Json
from tests.faults.ledger import report, settle
from tests.faults.server import Server

REQUEST = f"GET /api/events HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
SMALL = 16 * 1024
"""Bytes that the system may keep for one who reads nothing."""

AFTER = 60.0
"""Seconds for the readers to have read all, once nothing happens any more."""

_ID = re.compile(rb"^id: [0-9a-f]+\.([0-9]+)\.([0-9]+)$", re.MULTILINE)


@dataclass
class Report:
    """What a run came to; memory in MiB, of the service alone.

    :param memory: before anybody followed.
    :param memory_followed: when all followed, and nothing had happened yet.
    :param memory_most: at most, from then on.
    :param memory_after: a while after all had ended.
    """

    readers: int
    stopped: int
    changes: int = 0
    dropped: int = 0
    memory: float = 0
    memory_followed: float = 0
    memory_most: float = 0
    memory_after: float = 0
    bytes_read: int = 0
    slowest_answer: float = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return report(vars(self))


class Reader:
    """One who follows all and reads; only the ids are kept."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.places: list[tuple[int, int]] = []
        self.read = 0
        self.lost = False
        self._rest = b""

    def take(self) -> None:
        """Read what is there."""
        data = self.connection.recv(1 << 20)
        self.lost = not data
        self.read += len(data)
        whole, cut, rest = (self._rest + data).rpartition(b"\n\n")
        self._rest = rest if cut else whole + rest
        self.places += [(int(seq), int(index)) for seq, index in _ID.findall(whole)]


class Crowd:
    """All of them, read by one thread."""

    def __init__(self, port: int, readers: int, stopped: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._over = False
        self.readers = [Reader(_connect(port)) for _ in range(readers)]
        self.stopped = [_connect(port, SMALL) for _ in range(stopped)]
        self._reset: set[socket.socket] = set()
        for reader in self.readers:
            self._selector.register(reader.connection, selectors.EVENT_READ, reader)
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._over = True
        self._thread.join()
        for connection in (*self.stopped, *(reader.connection for reader in self.readers)):
            connection.close()

    def dropped(self) -> int:
        """How many of those who read nothing were dropped: what they never read, nobody will get."""
        self._reset |= {connection for connection in self.stopped if _is_reset(connection)}
        return len(self._reset)

    def quiet(self) -> int:
        """How many of the readers have not got the head of their answer yet."""
        return sum(not reader.read for reader in self.readers)

    def _read(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(0.1):
                key.data.take()
                if key.data.lost:
                    self._selector.unregister(key.fileobj)


def _connect(port: int, buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect((HOST, port))
    connection.sendall(REQUEST)
    return connection


def _is_reset(connection: socket.socket) -> bool:
    # The system tells it once.
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def _memory(server: Server) -> float:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return round(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024, 1)


def run(folder: Path, *, readers: int, stopped: int, seconds: float, rate: float) -> Report:
    """Let so many follow, and `rate` tasks a second happen, in batches of a tenth of a second."""
    report = Report(readers, stopped)
    with Server(folder, options=["--port", "0"]).ready() as server, server.client(60) as client:
        report.memory = _memory(server)
        assert server.port is not None
        crowd = Crowd(server.port, readers, stopped)
        while crowd.quiet():
            time.sleep(0.05)
        report.memory_followed = report.memory_most = _memory(server)
        batch: list[Json] = [{"name": "told", "duration": 0}] * max(1, round(rate / 10))
        ids, began = [], time.monotonic()
        while (gone := time.monotonic() - began) < seconds:
            posted = time.monotonic()
            answer = client.post("/api/tasks/batch", batch)
            report.slowest_answer = max(report.slowest_answer, round(time.monotonic() - posted, 3))
            ids += [task["task_id"] for task in answer.body["tasks"]]
            report.memory_most = max(report.memory_most, _memory(server))
            time.sleep(max(0, len(ids) / rate - gone))
        report.violations += settle(client)
        report.changes = 3 * len(ids)
        deadline = time.monotonic() + AFTER
        while time.monotonic() < deadline and not (
            crowd.dropped() == stopped
            and all(len(reader.places) >= report.changes for reader in crowd.readers)
        ):
            report.memory_most = max(report.memory_most, _memory(server))
            time.sleep(0.2)
        report.dropped = crowd.dropped()
        time.sleep(2)
        report.memory_after = _memory(server)
        _judge(report, crowd)
        crowd.close()
        server.kill()
    return report


def _judge(report: Report, crowd: Crowd) -> None:
    if report.dropped < report.stopped:
        report.violations.append(f"{report.stopped - report.dropped} of those who do not read are kept")
    first = crowd.readers[0].places
    for number, reader in enumerate(crowd.readers):
        report.bytes_read += reader.read
        if reader.lost:
            report.violations.append(f"reader {number} was dropped")
        if len(reader.places) != report.changes:
            report.violations.append(f"reader {number} was told {len(reader.places)} changes")
        elif reader.places != sorted(set(reader.places)) or reader.places != first:
            report.violations.append(f"reader {number} was told them in another order, or twice")


def main() -> int:
    """The command; the exit code tells whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--stopped", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rate", type=float, default=100, help="tasks a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), **vars(options))
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
