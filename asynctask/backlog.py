"""What waits for the writer: put here by the reactor in each turn, and taken by its thread in batches."""

import threading
from collections import deque
from math import inf
from time import monotonic
from typing import Final

from asynctask.works import ALONE, CLAIM, Add, Call, Save, Work

MAX_WAITING: Final = 64 * 1024 * 1024
"""Bytes of tasks that may wait for their commit: more than a disk takes in a second."""

MAX_KEPT: Final = 256 * 1024 * 1024
"""Characters of results that may wait while the database fails; the tasks of others are run again."""

IDLE: Final = 1.0
"""Seconds without work after which the writer looks whether the database is still there."""

BATCH: Final = 128
"""Ends of attempts of one transaction while nobody waits: some milliseconds."""

GATHER: Final = 0.025
"""Seconds from one transaction to the next, where only ends of attempts wait and many come: a hundred in
one go take less than half of the time that they take five by five. And so short that nobody notices."""

MANY_ENDS: Final = 8
"""Ends of one transaction that are many: of fewer, the next does not wait for others."""

FEWEST: Final = 20
"""Ends of attempts in a transaction that somebody waits for: so few that they do not delay a POST. One more
for each new task in it, or ends would pile up."""

MOST: Final = 200
"""Ends of attempts of one transaction: a batch of a thousand tasks takes as long as these."""

PART: Final = 8
"""Of the ends that wait, a transaction has an eighth where that is more: else tasks that begin in other
ways than as new ones without a key would end ever later."""

MANY: Final = 1_000
"""But no more than these: a server that is slow has a second for them too, and those who follow are told of
all in one go."""

LARGEST: Final = 1024 * 1024
"""Bytes of new tasks, and of results and errors, from which on a transaction takes no more of them: what it
tells those who follow is read and decoded in one go, and a server has a second for each statement."""

BEHIND: Final = 5_000
"""Ends that wait from which on no further task begins; nor does one with a quarter of `MAX_KEPT`."""

CLAIMS: Final = 4
"""Claims of one transaction with a server that many share, until it is known how long they take there: each
asks several times, and the server may be far."""

CLAIMING: Final = 0.3
"""Seconds that a transaction with claims is to take there: a client may wait for the next."""

GIVEN: Final = 0.05
"""Seconds that the writer waits until its answers are given: more than a turn under full load, and so short
that nobody notices when a handler holds the reactor."""

LONGEST_WAIT: Final = 1.0
"""Seconds that a new task waits for its transaction before others are told to come later."""


class Backlog:
    """Work for the writer's thread.

    :param patient: whether that waits until the answers of the last transaction have been given.
    :ivar most_kept: characters of results that may wait.
    :ivar closing: whether only ends of attempts may still come.
    """

    def __init__(self, *, patient: bool) -> None:
        self.patient = patient
        self.most_kept = MAX_KEPT
        self._fresh: list[Work] = []
        self._fresh_bytes = 0
        self._fresh_kept = 0
        self._asked: deque[Add | Call] = deque()
        self._saves: deque[Save] = deque()
        self._claims: deque[Call] = deque()
        self._alone: Call | None = None
        self._later: list[Work] = []
        self._room = CLAIMS
        self._claimed = 0
        self._began = 0.0
        self._wakeup = threading.Condition()  # its lock may be taken again by the thread that has it
        self._bytes = 0
        self._kept = 0
        self.closing = False
        self._unanswered = 0
        self._many = False
        self._gathering = False

    # In the reactor's thread

    def has_room(self, size: int) -> bool:
        """Whether tasks of so many bytes may wait too."""
        return self._bytes + self._fresh_bytes + size <= MAX_WAITING

    def has_room_for_result(self, size: int) -> bool:
        """Whether a result of so many characters may wait too."""
        return not size or self._kept + self._fresh_kept + size <= self.most_kept

    def is_late(self) -> bool:
        """Whether somebody waits for so long that more should not come."""
        try:
            return monotonic() - self._asked[0].at > LONGEST_WAIT
        except IndexError:  # nobody waits, or not any more
            return False

    def is_behind(self) -> bool:
        """Whether so many ends of attempts wait that no more should begin."""
        return len(self._saves) > BEHIND or self._kept > self.most_kept // 4

    def put(self, work: Work, size: int = 0, kept: int = 0) -> bool:
        """Keep this until it is handed over; tell whether it is the first since the last time.

        :param size: its bytes, if it is a new task.
        :param kept: the characters of its result, if it is the end of an attempt.
        """
        self._fresh.append(work)
        self._fresh_bytes += size
        self._fresh_kept += kept
        return len(self._fresh) == 1

    def hand_over(self) -> None:
        """Let the writer have what was put here: all that a turn brings is one transaction."""
        fresh, self._fresh = self._fresh, []
        size, self._fresh_bytes = self._fresh_bytes, 0
        kept, self._fresh_kept = self._fresh_kept, 0
        now = monotonic()
        with self._wakeup:
            self._bytes += size
            self._kept += kept
            for work in fresh:
                if type(work) is not Save:
                    work.at = now
                self._line_up(work)
            if not self._gathering or self._has_enough():
                self._wakeup.notify()

    def _line_up(self, work: Work) -> None:
        if self._alone is not None:
            self._later.append(work)
        elif type(work) is Add:
            self._asked.append(work)
        elif isinstance(work, Save):
            self._saves.append(work)
        elif isinstance(work, Call) and work.order == ALONE:
            self._alone = work
        elif not self.patient and isinstance(work, Call) and work.order.startswith(CLAIM):
            self._claims.append(work)
        else:
            self._asked.append(work)

    def _take_alone(self) -> list[Work]:
        """What has a transaction of its own, when all before it is done; what came later may follow."""
        if self._alone is None:
            return []
        alone, later = self._alone, self._later
        self._alone, self._later = None, []
        for work in later:
            self._line_up(work)
        return [alone]

    def answered(self) -> None:
        """All answers of a transaction have been given."""
        with self._wakeup:
            self._unanswered -= 1
            self._wakeup.notify()

    def close(self) -> None:
        """Let the writer end when nothing waits any more."""
        with self._wakeup:
            self.closing = True
            self._wakeup.notify()

    # In the writer's thread

    def answering(self) -> None:
        """The answers of a transaction are about to be given."""
        with self._wakeup:
            self._unanswered += 1

    @property
    def waits(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._asked or self._saves or self._claims or self._alone)

    @property
    def ends(self) -> int:
        """How many ends of attempts wait."""
        return len(self._saves)

    def wait(self) -> bool:
        """Wait for work, as long as `IDLE`; tell whether to go on."""
        with self._wakeup:
            self._learn()
            self._wakeup.wait_for(lambda: self.waits or self.closing, IDLE)
            self._wakeup.wait_for(self._may_go_on, GIVEN)
            if self._many:
                self._gathering = True
                self._wakeup.wait_for(self._has_enough, self._began + GATHER - monotonic())
                self._gathering = False
            return self.waits or not self.closing

    def pause(self, seconds: float) -> bool:
        """Do nothing for so long; tell whether to go on."""
        with self._wakeup:
            self._wakeup.wait_for(lambda: self.closing, seconds)
            return not self.closing

    def take(self) -> list[Work]:
        """The next transaction: what somebody waits for, up to about `LARGEST`, some claims and some ends.

        Once nothing else waits it is what has a transaction of its own.
        """
        with self._wakeup:
            if not (self._asked or self._saves or self._claims):
                return self._take_alone()
            self._learn()
            batch = self._take_asked(LARGEST)
            claims = self._take_claims(self._room)
            self._claimed, self._began = len(claims), monotonic()
            batch += claims
            added = sum(len(work.rows) for work in batch if isinstance(work, Add))
            room = max(min(FEWEST + added if batch else BATCH, MOST), min(len(self._saves) // PART, MANY))
            saves: list[Save] = []
            size = 0
            while self._saves and len(saves) < room and size < LARGEST:
                saves.append(self._saves.popleft())
                task = saves[-1].end.task
                size += len(task.result or "") + (0 if task.error is None else len(task.error.message))
            self._kept -= _kept_by(saves)
            self._many = len(saves) >= MANY_ENDS
        return batch + saves

    def take_asked(self) -> list[Work]:
        """All but the ends of attempts."""
        asked: list[Work] = []
        with self._wakeup:
            while self._alone is not None:
                asked += self._take_alone()
            return asked + self._take_asked(inf) + self._take_claims(len(self._claims))

    def _take_asked(self, most: float) -> list[Work]:
        """What somebody waits for, about so many bytes of it."""
        asked: list[Work] = []
        size = 0
        while self._asked and size < most:
            work = self._asked.popleft()
            size += work.size
            asked.append(work)
        self._bytes -= size
        return asked

    def _take_claims(self, most: int) -> list[Call]:
        claims = [self._claims.popleft() for _ in range(min(most, len(self._claims)))]
        for claim in claims:
            claim.at = monotonic()  # nobody has waited for it
        return claims

    def _learn(self) -> None:
        """For how many claims a transaction has the time, by what the last one took until now."""
        if self._claimed:
            taken = monotonic() - self._began
            room = int(self._claimed * CLAIMING / taken) if taken else self._room
            self._room = max(1, min(room, 2 * self._room))
            self._claimed = 0

    def put_back(self, saves: list[Save]) -> None:
        """Keep these ends of attempts for a later transaction."""
        with self._wakeup:
            self._saves.extendleft(reversed(saves))
            self._kept += _kept_by(saves)

    def _may_go_on(self) -> bool:
        return not (self.patient and self._unanswered) or self.closing

    def _has_enough(self) -> bool:
        """Whether somebody waits, or as many attempts have ended as a transaction has."""
        asked = self._asked or self._claims or self._alone
        return bool(asked) or len(self._saves) >= BATCH or self.closing


def _kept_by(saves: list[Save]) -> int:
    """Characters of their results."""
    return sum(len(save.end.task.result or "") for save in saves)
