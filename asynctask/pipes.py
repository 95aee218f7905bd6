"""What a supervisor and its processes say to each other, over two pipes; and the process's end of them."""

import os
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Any, Final

import msgspec
from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from asynctask.aggregation import Families, Family
from asynctask.listening import Shared
from asynctask.problems import Unavailable

VARIABLE: Final = "_ASYNCTASK_SUPERVISED"
"""Carries the `Setting` from the supervisor to its processes."""

HEARS, SAYS, LISTENS = 3, 4, 5
"""File descriptors of a process: from its supervisor, to it, and a socket that it was handed."""


PATIENCE: Final = 8.0
"""Seconds for the supervisor to tell the numbers of all: it waits for each process itself, and a handler
may hold this one while the answer waits."""

NOT_TOLD: Final = "The other processes do not tell their numbers"


class Setting(Struct, frozen=True):
    """What makes a process one of many.

    :ivar number: from 1.
    :ivar parent: the supervisor's process id.
    :ivar start: the folder in which the supervisor was started.
    :ivar shared: what it listens on together with the others; None for nothing.
    """

    number: int
    parent: int
    start: str
    shared: Shared | None


class Up(Struct, tag=True, frozen=True):
    """The process serves.

    :ivar url: where it listens; None for nowhere.
    """

    url: str | None


class Asked(Struct, tag=True, frozen=True):
    """Somebody wants the numbers of all processes."""

    question: int


class Told(Struct, tag=True, frozen=True):
    """The numbers of this process."""

    question: int
    families: list[Family]


class Tell(Struct, tag=True, frozen=True):
    """The numbers of this process are wanted."""

    question: int


class Sum(Struct, tag=True, frozen=True):
    """The numbers of all."""

    question: int
    families: list[Family]


Upwards = Up | Asked | Told
Downwards = Tell | Sum

_upwards: Final = msgspec.json.Decoder(Upwards)
_downwards: Final = msgspec.json.Decoder(Downwards)


def encode(setting: Setting) -> str:
    """As the variable says it."""
    return msgspec.json.encode(setting).decode()


def read(setting: str | None) -> Setting | None:
    """What the variable says."""
    return None if setting is None else msgspec.json.decode(setting, type=Setting)


def dump(word: Upwards | Downwards) -> bytes:
    """A word as it is sent: a line."""
    return msgspec.json.encode(word) + b"\n"


def heard_from_below(line: bytes) -> Upwards:
    """A word of a process."""
    word: Upwards = _upwards.decode(line)
    return word


CONTINUED: Final = b"  "
"""How what goes on with a line begins, so that it is not taken for a line of its own."""


class Lines:
    """Cuts what comes in pieces into lines.

    :param most: bytes that are kept of a line that has not ended; of a longer one, what has come is given,
        and what comes of it later is `CONTINUED`.
    """

    def __init__(self, most: float = inf) -> None:
        self._most = most
        self._rest: list[bytes] = []
        self._kept = 0

    def take(self, data: bytes) -> bytes:
        """All lines that are whole by now, with their ends; or what is too much of one."""
        end = data.rfind(b"\n") + 1
        whole = b"".join((*self._rest, data[:end])) if end else b""
        if end:
            self._rest, self._kept = [], 0
        if end < len(data):
            self._rest.append(data[end:])
            self._kept += len(data) - end
        if self._kept > self._most:
            whole += self.rest()
            self._rest = [CONTINUED]
        return whole

    def rest(self) -> bytes:
        """What came after the last end of a line."""
        rest, self._rest, self._kept = self._rest, [], 0
        return b"" if len(rest) == 1 and rest[0] is CONTINUED else b"".join(rest)


class Pipes(Protocol):
    """The process's end.

    :param families: tells the numbers of this process.
    :param lost: told when the supervisor has gone.
    """

    def __init__(
        self, families: Callable[[], list[Family]], lost: Callable[[], object], clock: IReactorTime
    ) -> None:
        self._families = families
        self._lost = lost
        self._clock = clock
        self._lines = Lines()
        self._questions = count()
        self._waiting: dict[int, Deferred[Families]] = {}

    def hold(self, reactor: Any) -> None:
        """Use the two pipes, which no program that a handler starts may hold open."""
        for descriptor in (HEARS, SAYS):
            os.set_inheritable(descriptor, False)
        StandardIO(self, HEARS, SAYS, reactor)  # type: ignore[call-arg]  # mypy sees that of Windows

    def up(self, url: str | None) -> None:
        """Tell that this process serves."""
        self._say(Up(url))

    def everyone(self) -> Deferred[Families]:
        """The numbers of all processes; `Unavailable` where the supervisor does not tell them."""
        question = next(self._questions)
        answer = self._waiting[question] = Deferred[Families]()
        self._say(Asked(question))
        return answer.addTimeout(PATIENCE, self._clock).addErrback(self._not_told, question)

    def _not_told(self, failure: Failure, question: int) -> Failure:
        self._waiting.pop(question, None)
        return failure if failure.check(CancelledError) else Failure(Unavailable(NOT_TOLD))

    def dataReceived(self, data: bytes) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        for line in self._lines.take(data).splitlines():
            word = _downwards.decode(line)
            if isinstance(word, Tell):
                self._say(Told(word.question, self._families()))
            elif (waiting := self._waiting.pop(word.question, None)) is not None:
                waiting.callback(word.families)

    def connectionLost(self, _reason: Failure = connectionDone) -> None:
        """See `twisted.internet.interfaces.IProtocol`."""
        self._lost()

    def _say(self, word: Upwards) -> None:
        assert self.transport is not None
        self.transport.write(dump(word))
