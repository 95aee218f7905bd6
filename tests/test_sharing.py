"""What the looks at the other processes mean here: without a database, and without their threads."""

from collections.abc import Collection, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from asynctask import sharing
from asynctask.model import News, Status, Task, Unavailable
from asynctask.pulse import Seen
from asynctask.sharing import SETTLE_AGAIN, Sharing

KINDS = ("crop", "scale")
ME, OTHER = "me", "other"


def running(attempt: int = 1) -> Task:
    return Task("task_1", "a", "crop", Status.RUNNING, attempt, 0, 0)


class Looking:
    """The heart and the pulse, each without its thread."""

    def __init__(self, *_: object) -> None:
        pass

    def hint(self) -> None:
        """See `asynctask.pulse.Pulse`."""


class Others:
    """A store that notes what it is asked, and answers as the test says."""

    seq = 4

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.told: list[tuple[int, list[News]]] = []
        self.looked_for: list[Collection[str]] = []
        self.ended: list[Task] = []
        self.found: Task | None = running()
        self.commits: dict[int, list[News]] = {}
        self.follows = True
        self.left: list[Deferred[bool]] = []

    def published(self, seq: int, news: Sequence[News]) -> None:
        self.told.append((seq, [*news]))

    def cancelling(self, tasks: Sequence[Task]) -> None:
        self.ended += tasks

    def due(self, kinds: Collection[str]) -> None:
        self.looked_for.append([*kinds])

    def timed(self, theirs: float, ours: float) -> float:
        return 0.0

    def followed(self) -> bool:
        return self.follows

    def watched(self) -> Collection[str] | None:
        return None if self.follows else ()

    def get(self, _task_id: str) -> Deferred[Task | None]:
        return succeed(self.found)

    def events(self, seq: int, limit: int) -> Deferred[Sequence[tuple[int, list[News]]] | None]:
        self.calls.append(f"events {seq}")
        return succeed([(one, news) for one, news in sorted(self.commits.items()) if one >= seq][:limit])

    def recount(self) -> Deferred[None]:
        return succeed(None)

    def keep_progress(self) -> Deferred[None]:
        return succeed(None)

    def elsewhere(self, _task_ids: Collection[str] | None, _limit: int) -> Deferred[list[Task]]:
        return succeed([])

    def orphaned(self) -> None:
        self.calls.append("orphaned")

    def settle(self) -> Deferred[bool]:
        self.calls.append("settle")
        return self.left.pop(0) if self.left else succeed(False)


class SharingTests(SynchronousTestCase):
    """`Sharing`."""

    def setUp(self) -> None:
        self.patch(sharing, "Pulse", Looking)
        self.patch(sharing, "Heart", Looking)
        self.store = Others()
        store: Any = self.store
        looking: Any = Looking()
        self.sharing = Sharing(
            store, looking, looking, KINDS, lambda: 0.0, lambda call, *given: call(*given)
        )

    def look(
        self,
        *processes: str,
        polled: bool = False,
        cancelled: Collection[tuple[str, int]] = (),
        seq: int = 4,
    ) -> None:
        """Let the pulse have seen this."""
        alive = frozenset(processes or (ME, OTHER))
        self.sharing._look(Seen(alive, polled, frozenset(), frozenset(cancelled), seq))

    def asked(self, call: str) -> int:
        return self.store.calls.count(call)

    def test_what_others_have_committed_is_told_before_a_later_commit_of_its_own(self) -> None:
        self.store.commits = {seq: [running(seq)] for seq in (5, 6, 7)}
        self.sharing.committed(7, [running(7)])
        self.assertEqual(self.store.told, [(seq, [running(seq)]) for seq in (5, 6, 7)])
        self.look(seq=7)
        self.sharing.committed(8, [])
        self.assertEqual(self.store.told[3:], [(8, [])])

    def test_while_nobody_follows_only_the_number_is_told(self) -> None:
        self.store.follows = False
        self.look(seq=9)
        self.look(seq=9)
        self.assertEqual((self.store.told, self.asked("events 5")), ([(9, [])], 0))

    def test_commits_that_are_forgotten_already_are_left_out(self) -> None:
        self.look(seq=9)
        self.assertEqual((self.store.told, self.asked("events 5")), ([(9, [])], 1))
        self.store.commits = {10: [running()]}
        self.look(seq=10)
        self.assertEqual(self.store.told[1:], [(10, [running()])])

    def test_what_a_process_leaves_is_looked_for_and_settled_once(self) -> None:
        for processes, times in (((ME, OTHER), 1), ((ME, OTHER), 1), ((ME, OTHER, "new"), 1), ((ME,), 2)):
            self.look(*processes)
            self.assertEqual((self.asked("orphaned"), self.asked("settle")), (times, times), processes)
            self.assertEqual(self.store.looked_for, [[*KINDS]] * times)

    def test_what_it_leaves_is_gone_on_with_when_it_is_settled(self) -> None:
        first, last = Deferred[bool](), Deferred[bool]()
        self.store.left = [first, last]
        self.look()
        first.callback(True)
        self.assertEqual((self.asked("settle"), self.store.looked_for), (2, []))
        last.callback(False)
        self.assertEqual((self.asked("orphaned"), self.store.looked_for), (1, [[*KINDS]]))

    def test_a_settling_that_fails_is_made_again_after_some_polls(self) -> None:
        self.store.left = [fail(Unavailable("Not now")), fail(ValueError("a bug"))]
        for polls, times in ((1, 1), (SETTLE_AGAIN - 1, 1), (1, 2), (SETTLE_AGAIN, 3), (SETTLE_AGAIN, 3)):
            for _ in range(polls):
                self.look(polled=True)
            self.assertEqual((self.asked("settle"), self.asked("orphaned")), (times, times))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_cancel_reaches_its_attempt_once_and_again_at_each_poll(self) -> None:
        asked = [("task_1", 1)]
        for polled, times in ((False, 1), (False, 1), (True, 2), (False, 2)):
            self.look(polled=polled, cancelled=asked)
            self.assertEqual(self.store.ended, [running()] * times)

    def test_a_cancel_of_another_attempt_or_of_a_task_that_is_gone_reaches_nobody(self) -> None:
        for found in (running(2), None):
            self.store.found = found
            self.look(polled=True, cancelled=[("task_1", 1)])
        self.assertEqual(self.store.ended, [])
