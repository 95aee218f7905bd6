"""The real service in a process of its own, to be killed, starved and lied to."""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import MappingProxyType
from typing import Self

from tests.faults.client import Client
from tests.faults.log import LogLine, parse_line

DATABASE = "t.sqlite"
STORE = f"sqlite:///{DATABASE}"
STOPPED = {0, 128 + signal.SIGTERM, -signal.SIGTERM}

_LISTENING = re.compile(r"Listening on http://127\.0\.0\.1:(\d+)")


class StartError(Exception):
    """The service did not get as far as listening; the text is the end of its log."""


def listening_port(line: LogLine) -> int | None:
    """The port, where `line` is the one that announces it."""
    match = _LISTENING.fullmatch(line.message)
    return int(match[1]) if match else None


class Server:
    """One life of the service, from its start to its end.

    :param folder: its working directory, where the store lies.
    :param options: further options of the command.
    :param prefix: a command to run it under, such as strace.
    :param listener: is given every line of the log, in a thread of ours.
    :param env: further variables.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: str = STORE,
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        listener: Callable[[LogLine], None] | None = None,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.port: int | None = None
        self.tail: deque[str] = deque(maxlen=40)
        self._listener = listener
        self._announced = Event()
        self._prefixed = bool(prefix)
        command = [sys.executable, "-m", "asynctask", "--port", "0", "--store", store, *options]
        self._process = subprocess.Popen(
            [*prefix, *command],
            cwd=folder,
            env={key: value for key, value in os.environ.items() if "ASYNCTASK" not in key} | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def ready(self, within: float = 120) -> Self:
        """Wait until it listens.

        :param within: seconds.
        :raises StartError: it ended, or took longer and was killed.
        """
        self._announced.wait(within)
        if self.port is None:
            self.kill()
            raise StartError("\n".join(self.tail) or "no output")
        return self

    def client(self, timeout: float = 15) -> Client:
        """A connection to it; it must be :meth:`ready`."""
        assert self.port is not None
        return Client(self.port, timeout)

    @property
    def pid(self) -> int:
        """The service's own process, also where it runs under another command."""
        return _child_of(self._process.pid) if self._prefixed else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """`kill -9`, and wait until the process and its log have ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def terminate(self, within: float = 30) -> list[str]:
        """SIGTERM; a violation if it does not end well within so many seconds, and then it is killed."""
        os.kill(self.pid, signal.SIGTERM)
        try:
            code = self.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            return [f"SIGTERM did not end it within {within:.0f} s; its last words: {self.tail[-1]}"]
        return [] if code in STOPPED else [f"SIGTERM ended it with {code}: {self.tail[-1]}"]

    def wait(self, within: float = 30) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        code = self._process.wait(within)
        self._reader.join(within)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            self.tail.append(raw.rstrip("\n"))
            # A kill may cut the last line short.
            line = parse_line(self.tail[-1]) if raw.endswith("\n") else None
            if line is not None:
                self._take(line)
        self._announced.set()

    def _take(self, line: LogLine) -> None:
        if self.port is None and (port := listening_port(line)) is not None:
            self.port = port
            self._announced.set()
        if self._listener is not None:
            self._listener(line)


def _child_of(parent: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _parent_of(entry) == parent:
            return int(entry.name)
    raise ProcessLookupError(f"{parent} has no child")


def _parent_of(entry: Path) -> int | None:
    try:
        # The command's name, in parentheses, may itself hold spaces and parentheses.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
