"""`kill -9` at each write and each sync of the very first start: whatever it left, the next succeeds.

``python -m tests.faults.start``
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.faults.server import Server, StartError
from tests.faults.strace import unavailable

CALLS = ("pwrite64", "fdatasync,fsync", "ftruncate", "unlink")


@dataclass
class Report:
    """What a run came to.

    :param points: at how many moments the first start was killed.
    """

    points: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"killed at {self.points} points", f"violations: {len(self.violations)}"]
        return "\n".join([*lines, *(f"  {text}" for text in self.violations)])


def check(calls: str, file: str | None = None) -> Report:
    """Kill first starts at the first of `calls`, at the second and so on, and start again.

    :param calls: names of system calls, as strace takes them.
    :param file: count only those about this file of the folder.
    """
    report = Report()
    for number in count(1):
        with tempfile.TemporaryDirectory() as folder:
            path = None if file is None else Path(folder) / file
            if _survives(Path(folder), f"{calls}:signal=KILL:when={number}", path):
                return report
            report.points += 1
            left = {file.name: file.stat().st_size for file in sorted(Path(folder).iterdir())}
            report.violations += [
                f"killed at {calls} number {number}, which left {left}: {fault}"
                for fault in _second_start(Path(folder))
            ]
    raise AssertionError("unreachable")


def _survives(folder: Path, kill: str, file: Path | None) -> bool:
    prefix = ["strace", "-f", "-o", "/dev/null", f"--trace={kill.partition(':')[0]}", f"--inject={kill}"]
    if file is not None:
        prefix.append(f"--trace-path={file}")
    with Server(folder, prefix=prefix) as server:
        try:
            server.ready()
        except StartError:
            return False
        return True


def _second_start(folder: Path) -> Iterator[str]:
    try:
        with Server(folder).ready() as server, server.client() as client:
            answer = client.post("/api/tasks", {"name": "first", "duration": 0})
            if answer.status != 202:
                yield f"a POST was answered {answer.status}"
            yield from server.terminate()
    except StartError as failure:
        yield f"no start: {failure}"


def main() -> int:
    """The command; the exit code tells whether every start succeeded."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if (reason := unavailable()) is not None:
        print(f"skipped: {reason}")
        return 0
    broken = False
    for calls in CALLS:
        report = check(calls)
        print(f"{calls}: {report}", flush=True)
        broken = broken or bool(report.violations)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
