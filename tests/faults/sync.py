"""Under strace: no 202 is written to its socket before its task is synced to disk.

``python -m tests.faults.sync`` must find no violation, ``python -m tests.faults.sync off`` must:
with `?synchronous=off` nothing is synced, and a check that cannot fail would prove nothing.
"""

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from tests.faults.ledger import SHOWN, Ledger
from tests.faults.server import DATABASE, STORE, Server
from tests.faults.strace import Call, read_trace, trace_file, unavailable

READS = {"read", "readv", "recvfrom", "recvmsg"}
WRITES = {"write", "writev", "sendto", "sendmsg"}
STORES = {"write", "pwrite64", "pwritev", "pwritev2"}
SYNCS = {"fdatasync", "fsync"}
LOG = f"{DATABASE}-wal"
# Longer than a page of the database, so that the id in it is seen.
STRING_LENGTH = 8192

_LOCATION = re.compile(r"Location: /api/tasks/(task_\w{30})")


@dataclass
class SyncReport:
    """What the trace shows.

    :param answers: the 202s that were written to a socket.
    :param syncs: the syncs of the write-ahead log.
    """

    answers: int = 0
    syncs: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"202s: {self.answers}", f"syncs: {self.syncs}"]
        lines.append(f"violations: {len(self.violations)}")
        return "\n".join([*lines, *(f"  {text}" for text in self.violations[:SHOWN])])


class Trace:
    """The calls of a trace that matter, by what they did."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.reads: dict[str, list[Call]] = defaultdict(list)
        self.stores: list[Call] = []
        self.syncs: list[Call] = []
        self.answers: list[Call] = []
        for call in calls:
            self._sort(call)

    def _sort(self, call: Call) -> None:
        if not call.succeeded:
            return
        if call.name in SYNCS and call.file.endswith(LOG):
            self.syncs.append(call)
        elif call.name in STORES and call.file.endswith(LOG):
            self.stores.append(call)
        elif call.name in WRITES and '"HTTP/1.1 202 ' in call.arguments:
            self.answers.append(call)
        elif call.name in READS and call.result != "0":
            self.reads[call.file].append(call)

    def violations(self) -> Iterator[str]:
        """A sentence for each 202 that left too early."""
        for answer in self.answers:
            match = _LOCATION.search(answer.arguments)
            if match is None:
                yield f"a 202 without a task in its Location: {answer.arguments[:300]}"
            elif (fault := self._fault(answer, match[1])) is not None:
                yield f"202 for {match[1]} at {answer.began}: {fault}"

    def _fault(self, answer: Call, task_id: str) -> str | None:
        before = [read.ended for read in self.reads[answer.file] if read.ended < answer.began]
        if not before:
            return f"no request was read from {answer.file}"
        stored = [
            write.ended
            for write in self.stores
            if task_id in write.arguments and before[-1] < write.began < answer.began
        ]
        if not stored:
            return f"its task was not in {LOG}"
        if not self._synced(stored[0], answer.began):
            return f"its request was read at {before[-1]}, its task written at {stored[0]}, no sync"
        return None

    def _synced(self, after: int, before: int) -> bool:
        return any(after < sync.began and sync.ended < before for sync in self.syncs)


def check(folder: Path, *, synchronous: str | None = None, posts: int = 40) -> SyncReport:
    """Trace a service in the empty `folder` while it answers `posts` POSTs.

    :param synchronous: the store's option of that name, or None for the default.
    """
    store = STORE if synchronous is None else f"{STORE}?synchronous={synchronous}"
    calls = ",".join(sorted(READS | WRITES | STORES | SYNCS))
    with trace_file() as path:
        prefix = ["strace", "-f", "-yy", "-s", str(STRING_LENGTH), "-o", str(path)]
        with Server(folder, store=store, prefix=[*prefix, "-e", f"trace={calls}"]) as server:
            ledger = _post(server.ready(60), posts)
            server.kill()
        with path.open(errors="replace") as lines:
            trace = Trace(read_trace(lines))
    report = SyncReport(len(trace.answers), len(trace.syncs), list(trace.violations()))
    if len(ledger.acknowledged) != posts or report.answers != posts:
        report.violations.append(
            f"{posts} POSTs, {len(ledger.acknowledged)} acknowledged, {report.answers} 202s traced"
        )
    return report


def _post(server: Server, posts: int, connections: int = 4) -> Ledger:
    ledger = Ledger()

    def send(connection: int) -> None:
        with server.client(timeout=60) as client:
            for number in range(connection, posts, connections):
                ledger.submit(client, f"sync-{number}", 0)

    threads = [Thread(target=send, args=(connection,)) for connection in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ledger


def main() -> int:
    """The command; the exit code tells whether every 202 waited for its sync."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("synchronous", nargs="?", choices=["full", "normal", "off"])
    parser.add_argument("--posts", type=int, default=100)
    options = parser.parse_args()
    if (reason := unavailable()) is not None:
        print(f"skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = check(Path(folder), synchronous=options.synchronous, posts=options.posts)
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
