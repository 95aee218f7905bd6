"""strace: what a process asked of the kernel, and lies about what the kernel answered."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

INJECTED = "(INJECTED)"

_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (.*)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (.*)")
_DESCRIPTOR = re.compile(r"\d+<(.*?)>(?=,|$)")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call.

    :param arguments: as strace prints them.
    :param began: when the tracer saw it begin, as a position in the trace; a thread stands still
        until the tracer has seen it, so that positions of different threads compare.
    :param ended: when the tracer saw it end.
    """

    name: str
    arguments: str
    result: str
    began: int
    ended: int

    @property
    def file(self) -> str:
        """The path, or the two ends of the socket, of the descriptor that it is about."""
        match = _DESCRIPTOR.match(self.arguments)
        return match[1] if match else ""

    @property
    def succeeded(self) -> bool:
        """Whether it returned no error."""
        return not self.result.startswith(("-1", "?"))


def unavailable() -> str | None:
    """Why strace cannot be used here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    trial = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return f"strace may not trace: {trial.stderr.strip()}" if trial.returncode else None


def read_trace(lines: Iterable[str]) -> Iterator[Call]:
    """The calls of a trace written by ``strace -f -o``, in the order of their ends."""
    begun: dict[tuple[str, str], tuple[int, str]] = {}
    for position, line in enumerate(lines):
        text = line.rstrip("\n")
        if match := _BEGUN.fullmatch(text):
            thread, name, arguments = match.groups()
            begun[thread, name] = position, arguments
        elif match := _ENDED.fullmatch(text):
            thread, name, rest, result = match.groups()
            began, arguments = begun.pop((thread, name))
            yield Call(name, arguments + rest, result, began, position)
        elif match := _WHOLE.fullmatch(text):
            _, name, arguments, result = match.groups()
            yield Call(name, arguments, result, position, position)


class Injection:
    """Faults in a running process, from its making until :meth:`stop` or the process's end.

    :param fault: strace's ``-e inject=`` expression, such as ``fdatasync:error=EIO:when=1``.
    """

    def __init__(self, pid: int, fault: str, trace: Path) -> None:
        calls = fault.partition(":")[0]
        self._trace = trace
        what = [f"--attach={pid}", f"--trace={calls}", f"--inject={fault}", f"--output={trace}"]
        self._process = subprocess.Popen(
            ["strace", "--follow-forks", *what],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self.greeting = self._process.stderr.readline()
        self._await_threads(pid)

    def stop(self) -> int:
        """Let go of the process; how many calls were made to fail."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=10)
        return self._trace.read_text(errors="replace").count(INJECTED)

    def _await_threads(self, pid: int) -> None:
        deadline = monotonic() + 5
        while monotonic() < deadline:
            if all(_traced(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
                return
            sleep(0.01)
        self._process.kill()
        raise TimeoutError(f"strace did not attach: {self.greeting}")


@contextmanager
def trace_file() -> Iterator[Path]:
    """A path for a trace, outside of what is tested."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "trace"


def _traced(thread: Path) -> bool:
    try:
        return "TracerPid:\t0\n" not in (thread / "status").read_text()
    except OSError:
        return True
