"""One of many processes, seen from its supervisor."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from signal import Signals
from typing import Any, Final, Protocol

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask import pipes
from asynctask.aggregation import Families
from asynctask.listening import Shared, reserve
from asynctask.pipes import HEARS, LISTENS, SAYS, Downwards, Lines, Setting, Upwards
from asynctask.sdnotify import VARIABLES
from asynctask.spawned import signal_name
from asynctask.wire import UNREADABLE

log = Logger(namespace="asynctask.supervisor")

OUT, ERR = 1, 2

LONGEST: Final = {OUT: 32 * 1024 * 1024, ERR: 64 * 1024}
"""Bytes kept of a line that has not ended: that of a progress bar never does. A line of the log does, and
is shorter, even with a client's text in a traceback."""

SHOWN: Final = 200
"""Bytes that are shown of what cannot be understood."""

MARK: Final = "asynctask: "
"""Begins the sentence of a start that failed."""


class Listener(Protocol):
    """Who is told of a member."""

    def wrote(self, lines: str) -> None:
        """It has written into its log."""

    def heard(self, member: "Member", word: Upwards) -> None:
        """It has said something."""

    def exited(self, member: "Member") -> None:
        """It has ended; others may still hold its pipes."""

    def ended(self, member: "Member", how: str) -> None:
        """It is there no more."""


class Member(ProcessProtocol):
    """A place among the processes, and the one that is in it now.

    :param number: from 1.
    :ivar began: when it was started, by the supervisor's clock.
    :ivar is_up: whether it serves.
    :ivar is_silent: whether it did not tell its numbers in time, when they were asked for last.
    :ivar numbers: those that it told last.
    :ivar complaint: why it could not start, in its own words.
    """

    def __init__(self, number: int, supervisor: Listener) -> None:
        self.number = number
        self.pid = 0
        self.began = 0.0
        self.is_alive = False
        self.is_up = False
        self.is_silent = False
        self.numbers: Families = []
        self.complaint = ""
        self._supervisor = supervisor

    def begin(self, now: float) -> None:
        """Another process is started in its place."""
        self.began = now
        self.is_alive = True
        self.is_silent = False
        self.complaint = ""
        self._lines = {OUT: Lines(LONGEST[OUT]), ERR: Lines(LONGEST[ERR]), SAYS: Lines(LONGEST[OUT])}

    def say(self, word: Downwards) -> None:
        """Say something to it."""
        if self.is_up:
            with suppress(KeyError):  # it has closed its end
                self._process.writeToChild(HEARS, pipes.dump(word))

    def send(self, signal: Signals) -> None:
        """Send it a signal."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(signal)

    def connectionMade(self) -> None:
        """See `twisted.internet.interfaces.IProcessProtocol`."""
        assert self.transport is not None
        self._process: Any = self.transport
        self.pid = self._process.pid

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """See `twisted.internet.interfaces.IProcessProtocol`."""
        self._take(childFD, self._lines[childFD].take(data))

    def let_go(self) -> None:
        """Read no more of what it has left: programs that it started may hold its pipes open for ever."""
        for descriptor in list(self._process.pipes):
            self._process.closeChildFD(descriptor)

    def processExited(self, _reason: Failure) -> None:
        """See `twisted.internet.interfaces.IProcessProtocol`."""
        self._supervisor.exited(self)

    def processEnded(self, reason: Failure) -> None:
        """See `twisted.internet.interfaces.IProcessProtocol`; its pipes are closed by now."""
        for descriptor in (OUT, ERR):
            self._take(descriptor, self._lines[descriptor].rest())
        self.is_alive = self.is_up = False
        self._supervisor.ended(self, how_it_ended(reason))

    def _take(self, descriptor: int, lines: bytes) -> None:
        if not lines:
            return
        if descriptor == SAYS:
            for said in lines.splitlines():
                self._hear(said)
            return
        text = lines.decode("utf-8", "replace").removesuffix("\n")
        if descriptor == OUT:
            self._supervisor.wrote(text)
            return
        for line in text.splitlines():
            if line.startswith(MARK):
                self.complaint = line.removeprefix(MARK)
            else:
                log.warn("Process wrote to its standard error", process=self.number, text=line)

    def _hear(self, said: bytes) -> None:
        """It has said a word to us."""
        try:
            word = pipes.heard_from_below(said)
        except UNREADABLE:
            # A handler has said it, which has the same descriptors.
            log.warn(
                "Process said what cannot be understood",
                process=self.number,
                text=said[:SHOWN].decode("utf-8", "replace"),
            )
            return
        self.is_up |= isinstance(word, pipes.Up)
        self._supervisor.heard(self, word)


def how_it_ended(reason: Failure) -> str:
    """In a few words: ``exit code 1``, ``SIGKILL``."""
    if reason.check(ProcessDone):
        return "exit code 0"
    if reason.check(ProcessTerminated):
        ended: Any = reason.value
        if ended.signal is not None:
            return signal_name(ended.signal)
        return f"exit code {ended.exitCode}"
    return reason.getErrorMessage()


class Spawner:
    """Starts members: this program again, with the same options.

    :param description: the endpoint that they share; None for none.
    :param arguments: the options.
    :param environment: the variables.
    :param start: the folder in which modules are looked for.
    """

    def __init__(
        self,
        reactor: Any,
        description: str | None,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        start: str,
    ) -> None:
        self._reactor = reactor
        self._description = description
        self._arguments = arguments
        self._environment = environment
        self._start = start
        self._shared: Shared | None = None
        self._held: socket.socket | None = None

    def open(self) -> None:
        """Take the port.

        :raises StartError: it cannot be had.
        """
        if self._description is not None:
            self._shared, self._held = reserve(self._description)

    def close(self) -> None:
        """Let others have the port."""
        if self._held is not None:
            self._held.close()

    def spawn(self, member: Member) -> None:
        """Start a process; never forked from this one, which has a reactor."""
        shared = self._shared
        files: dict[int, int | str] = {OUT: "r", ERR: "r", HEARS: "w", SAYS: "r"}
        if shared is not None and shared.descriptor is not None:
            files[LISTENS] = shared.descriptor
            shared = Shared(descriptor=LISTENS, family=shared.family)
        # As part of a program that is for the program to tell, and for the supervisor otherwise.
        inherited = {name: value for name, value in self._environment.items() if name not in VARIABLES}
        setting = Setting(member.number, os.getpid(), self._start, shared)
        with open(os.devnull, "rb") as nothing:
            self._reactor.spawnProcess(
                member,
                sys.executable,
                [sys.executable, "-m", "asynctask", *self._arguments],
                env={**inherited, pipes.VARIABLE: pipes.encode(setting)},
                childFDs={0: nothing.fileno(), **files},
            )
