"""Many processes as one service: starts them, starts again those that die, and passes the end on.

It opens no store and answers nobody; it holds their port, writes their log, and adds up their numbers.
"""

from collections.abc import Callable, Sequence
from signal import SIGKILL, SIGQUIT, SIGTERM
from typing import Any, Final

from msgspec import Struct
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from asynctask.aggregation import Families, counted, merge
from asynctask.listening import announce
from asynctask.member import Member
from asynctask.pipes import Asked, Sum, Tell, Told, Up
from asynctask.timers import call_off

log = Logger(namespace="asynctask.supervisor")

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
"""Seconds until a process that died is started again: twice as long each time."""

SOUND: Final = 60.0
"""Seconds after which a process that dies is one that had been well."""

PATIENCE: Final = 1.0
"""Seconds for the processes to tell their numbers; of one that does not, those told before count."""

LAST_WORDS: Final = 0.5
"""Seconds for what a process that has ended left in its pipes."""

LAST: Final = 20.0
"""Seconds beyond the grace until a process that does not end is killed: more than handlers have to unwind,
and answers, callbacks and the store to end."""


def pause_before(last: float, lived: float) -> float:
    """How long to wait before a process is started again.

    :param last: how long it was the last time; 0 if there was none.
    :param lived: seconds that the process had lived since.
    """
    if not last or lived >= SOUND:
        return FIRST_PAUSE
    return min(2 * last, LONGEST_PAUSE)


class Supervisor(Service):
    """The service.

    :param processes: how many.
    :param open: takes what they share; raises `asynctask.problems.StartError` where it cannot.
    :param close: gives it back.
    :param spawn: starts one.
    :param relay: writes whole lines of their log.
    :param reactor: its ``callWhenRunning`` is used.
    :param clock: monotonic.
    :param grace: seconds that each leaves to running attempts.
    """

    name = "asynctask"

    def __init__(
        self,
        processes: int,
        open: Callable[[], object],  # noqa: A002
        close: Callable[[], object],
        spawn: Callable[[Member], object],
        relay: Callable[[str], object],
        reactor: Any,
        clock: IReactorTime,
        grace: float,
    ) -> None:
        self._open, self._close = open, close
        self._spawn = spawn
        self._relay = relay
        self._reactor = reactor
        self._clock = clock
        self._grace = grace
        self._members = [Member(number, self) for number in range(1, processes + 1)]
        self._starts: dict[int, IDelayedCall] = {}
        self._pauses = dict.fromkeys(range(1, processes + 1), 0.0)
        self._has_begun = False
        self._is_ending = False
        self._all_ended: Deferred[None] | None = None
        self._failure: str | None = None
        self._departed: Families = []
        self._questions: dict[int, _Question] = {}
        self._asked = 0

    def startService(self) -> None:
        """Take the port, and start them once the reactor runs.

        :raises StartError: the port cannot be had.
        """
        super().startService()
        self._open()
        self._reactor.callWhenRunning(self._reactor_runs)

    def stopService(self) -> Deferred[None]:
        """Let all of them end, and wait for it."""
        super().stopService()
        self._is_ending = True
        for start in self._starts.values():
            start.cancel()
        self._starts.clear()
        log.info("Stopping the processes", processes=len(self._alive))
        ended = self._all_ended = Deferred[None]()
        for member in self._alive:
            member.send(SIGTERM)
        late = self._clock.callLater(self._grace + LAST, self._kill)
        self._look_whether_all_ended()

        def forget(_result: object) -> None:
            call_off(late)
            self._close()

        return ended.addCallback(forget)

    def fail(self, sentence: str) -> None:
        """End the program: it could not be started."""
        raise NotImplementedError

    def quit(self) -> None:
        """Let all of them end at once."""
        for member in self._alive:
            member.send(SIGQUIT if member.is_up else SIGKILL)

    @property
    def pids(self) -> list[int]:
        """The processes that are there."""
        return [member.pid for member in self._alive]

    @property
    def _alive(self) -> list[Member]:
        return [member for member in self._members if member.is_alive]

    def _reactor_runs(self) -> None:
        if self.running:  # else it was ended before
            self._serving()

    def _serving(self) -> None:
        for member in self._members:
            if not self._is_ending:  # one before it could not be started
                self._start(member)

    def _start(self, member: Member) -> None:
        self._starts.pop(member.number, None)
        member.begin(self._clock.seconds())
        try:
            self._spawn(member)
        except OSError as error:
            member.is_alive = False
            self.ended(member, error.strerror or str(error))

    def _kill(self) -> None:
        for member in self._alive:
            log.error("Process does not end, and is killed", process=member.number, pid=member.pid)
            member.send(SIGKILL)

    # What the members tell.

    def wrote(self, lines: str) -> None:
        """A member has written into its log; whole lines, without the end of the last one."""
        self._relay(lines)

    def heard(self, member: Member, word: Up | Asked | Told) -> None:
        """A member has said something."""
        if isinstance(word, Up):
            self._is_up(member, word.url)
        elif isinstance(word, Asked):
            self._ask_all(member, word.question)
        else:
            member.numbers = word.families
            question = self._questions.get(word.question)
            if question is not None:
                if member.is_silent:
                    member.is_silent = False
                    log.info("Process answers again", process=member.number, pid=member.pid)
                self._answered(word.question, question, member)

    def exited(self, member: Member) -> None:
        """A member has ended; others may still hold its pipes."""
        self._clock.callLater(LAST_WORDS, member.let_go)

    def ended(self, member: Member, how: str) -> None:
        """A member is there no more."""
        self._departed = merge([self._departed, counted(member.numbers)])
        member.numbers = []
        for number, question in list(self._questions.items()):
            if question.member is member:
                question.late.cancel()
                del self._questions[number]
            else:
                self._answered(number, question, member)
        if self._is_ending:
            self._look_whether_all_ended()
        elif self._has_begun:
            pause = pause_before(self._pauses[member.number], self._clock.seconds() - member.began)
            self._pauses[member.number] = pause
            log.error(
                "Process ended, and is started again",
                process=member.number,
                pid=member.pid,
                how=member.complaint or how,
                seconds=pause,
            )
            self._starts[member.number] = self._clock.callLater(pause, self._start, member)
        else:
            self._is_ending = True
            self._failure = member.complaint or f"Process {member.number} did not start ({how})"
            self.quit()
            self._clock.callLater(LAST, self._kill)
            self._look_whether_all_ended()

    def _look_whether_all_ended(self) -> None:
        if self._alive:
            return
        if self._failure is not None:
            self.fail(self._failure)
        if self._all_ended is not None:
            ended, self._all_ended = self._all_ended, None
            ended.callback(None)

    def _is_up(self, member: Member, url: str | None) -> None:
        log.info("Process started", process=member.number, pid=member.pid)
        if self._has_begun or not all(one.is_up for one in self._members):
            return
        self._has_begun = True
        self._tell_that_it_serves(url)

    def _tell_that_it_serves(self, url: str | None) -> None:
        announce(url)

    # The numbers of all.

    def _ask_all(self, member: Member, question: int) -> None:
        self._asked = number = self._asked + 1
        asked = [one for one in self._members if one.is_up]
        late = self._clock.callLater(PATIENCE, self._tell, number)
        self._questions[number] = _Question(member, question, asked, late)
        for one in asked:
            one.say(Tell(number))

    def _answered(self, number: int, question: "_Question", member: Member) -> None:
        if member in question.missing:
            question.missing.remove(member)
            if not question.missing:
                question.late.cancel()
                self._tell(number)

    def _tell(self, number: int) -> None:
        question = self._questions.pop(number)
        for member in question.missing:
            if not member.is_silent:
                member.is_silent = True
                log.warn(
                    "Process does not answer; its numbers are old", process=member.number, pid=member.pid
                )
        parts: Sequence[Families] = [self._departed, *(member.numbers for member in self._members)]
        question.member.say(Sum(question.number, merge(parts)))


class _Question(Struct):
    """Somebody's question for the numbers of all, and who has not told them yet."""

    member: Member
    number: int
    missing: list[Member]
    late: IDelayedCall
