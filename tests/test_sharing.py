"""What the looks at the other processes mean here: without a database, and without their threads."""

import socket
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask import heartbeat, polling, sharing
from asynctask.cutoff import Cutoffs
from asynctask.heartbeat import AT_ONCE, BEATS, COMING_BACK, LONGEST_PAUSE, Heartbeat
from asynctask.model import News, Status, Task
from asynctask.pgserver import TRY_AGAIN, Server
from asynctask.polling import Poller, Seen
from asynctask.problems import Unavailable
from asynctask.sharing import SETTLE_AGAIN, STRAYS, Sharing

KINDS = ("crop", "scale")
ME, OTHER = "me", "other"


def running(attempt: int = 1) -> Task:
    return Task("task_1", "a", "crop", Status.RUNNING, attempt, 0, 0)


class Looking:
    """The heartbeat and the polling, each without its thread."""

    def __init__(self, *_: object) -> None:
        pass

    beat, owner = "beat", ME

    def hint(self) -> None:
        """See `asynctask.polling.Poller`."""


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
        self.set_back = False
        self.unknown: list[list[tuple[str, int]]] = []
        self.released: list[tuple[str, int]] = []

    def published(self, seq: int, news: Sequence[News]) -> None:
        self.told.append((seq, [*news]))

    def cancelling(self, tasks: Sequence[Task]) -> None:
        self.ended += tasks

    def due(self, kinds: Collection[str]) -> None:
        self.looked_for.append([*kinds])

    def gone(self) -> None:
        self.calls.append("gone")

    def lost(self) -> None:
        self.calls.append("lost")

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
        if self.set_back:
            return succeed(None)
        return succeed([(one, news) for one, news in sorted(self.commits.items()) if one >= seq][:limit])

    def unread(self) -> None:
        self.calls.append("unread")

    def recount(self) -> Deferred[None]:
        return succeed(None)

    def keep_progress(self) -> Deferred[None]:
        return succeed(None)

    def elsewhere(self, _task_ids: Collection[str] | None, _limit: int) -> Deferred[list[Task]]:
        return succeed([])

    def orphaned(self) -> None:
        self.calls.append("orphaned")

    def beat(self, write: object) -> Deferred[None]:
        self.calls.append(f"{write} in a transaction")
        return succeed(None)

    def strays(self) -> Deferred[list[tuple[str, int]]]:
        self.calls.append("strays")
        return succeed(self.unknown.pop(0) if self.unknown else [])

    def release(self, strays: Collection[tuple[str, int]]) -> Deferred[None]:
        self.released += strays
        return succeed(None)

    def settle(self) -> Deferred[bool]:
        self.calls.append("settle")
        return self.left.pop(0) if self.left else succeed(False)


class SharingTests(SynchronousTestCase):
    """`Sharing`."""

    def setUp(self) -> None:
        self.patch(sharing, "Poller", Looking)
        self.patch(sharing, "Heartbeat", Looking)
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
        """Let the polling have seen this."""
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

    def test_a_database_that_was_set_back_is_gone_on_with_from_there(self) -> None:
        self.store.commits = {5: [], 6: [], 7: []}
        self.look(seq=7)
        self.store.told.clear()
        self.store.set_back = True
        self.look(seq=5)  # may have been taken before
        self.assertEqual(self.store.told, [])
        self.look(seq=5)
        self.assertEqual((self.store.told, self.asked("unread")), ([(5, [])], 1))
        self.store.set_back, self.store.commits = False, {6: [running()]}
        self.look(seq=6)
        self.assertEqual(self.store.told[1:], [(6, [running()])])

    def test_the_log_says_that_it_was_set_back_and_what_that_has_lost(self) -> None:
        self.store.unknown = [[("task_1", 1), ("task_2", 3)]]
        with capturedLogs() as logged:
            self.set_back()
            self.look(seq=5, polled=True)
        self.assertEqual(
            [(one["log_format"], one.get("seq"), one.get("told"), one.get("attempts")) for one in logged],
            [
                ("The database was set back, and has lost some changes", 5, 7, None),
                ("The database has lost how attempts ended; they are made again", None, None, 2),
            ],
        )

    def test_whom_the_others_take_for_dead_the_log_tells_until_the_end(self) -> None:
        with capturedLogs() as logged:
            self.sharing._lost("before")
            self.sharing._stopped = True
            self.sharing._lost("after")
        self.assertEqual(
            [(one["log_level"], one["log_format"], one["owner"], one["now"]) for one in logged],
            [
                (
                    LogLevel.error,
                    "The other processes took this one for dead; its attempts are stopped",
                    "before",
                    ME,
                )
            ],
        )
        self.assertEqual(self.asked("lost"), 1)

    def set_back(self) -> None:
        self.look(seq=7)
        self.store.set_back = True
        self.look(seq=5)
        self.look(seq=5)

    def test_attempts_whose_ends_were_lost_are_let_go_of_a_part_at_a_time(self) -> None:
        lost = [(f"task_{number}", 1) for number in range(STRAYS + 1)]
        self.store.unknown = [lost, lost[STRAYS:]]
        self.look(polled=True)
        self.assertEqual(self.asked("strays"), 0)
        self.set_back()
        for _ in range(5):
            self.look(seq=5, polled=True)
        self.assertEqual((self.store.released, self.asked("strays")), (lost, 3))

    def test_they_are_looked_for_too_where_the_database_was_away(self) -> None:
        self.sharing._find_out()
        self.assertEqual(self.asked("beat in a transaction"), 1)
        self.look(polled=True)
        self.assertEqual(self.asked("strays"), 1)

    def test_looks_that_were_only_late_change_nothing(self) -> None:
        self.store.commits = {5: [], 6: [], 7: []}
        self.look(seq=7)
        self.store.told.clear()
        for _ in range(3):
            self.look(seq=5)
        self.assertEqual((self.store.told, self.asked("events 8")), ([], 2))

    def test_what_a_process_leaves_is_looked_for_and_settled_once(self) -> None:
        for processes, times in (((ME, OTHER), 1), ((ME, OTHER), 1), ((ME, OTHER, "new"), 1), ((ME,), 2)):
            self.look(*processes)
            asked = [self.asked(call) for call in ("orphaned", "settle", "gone")]
            self.assertEqual(asked, [times] * 3, processes)
            self.assertEqual(self.store.looked_for, [[*KINDS]] * times)

    def test_what_it_leaves_is_gone_on_with_when_it_is_settled(self) -> None:
        first, last = Deferred[bool](), Deferred[bool]()
        self.store.left = [first, last]
        self.look()
        first.callback(True)
        self.assertEqual((self.asked("settle"), self.store.looked_for), (2, []))
        last.callback(False)
        self.assertEqual((self.asked("orphaned"), self.store.looked_for), (1, [[*KINDS]]))

    def test_a_settling_that_fails_is_made_again_after_some_polls_and_nothing_goes_on_before(self) -> None:
        self.store.left = [fail(Unavailable("Not now")), fail(ValueError("a bug"))]
        for polls, times, gone_on in (
            *((1, 1, 0), (SETTLE_AGAIN - 1, 1, 0), (1, 2, 0)),
            *((SETTLE_AGAIN, 3, 1), (SETTLE_AGAIN, 3, 1)),
        ):
            for _ in range(polls):
                self.look(polled=True)
            self.assertEqual((self.asked("settle"), self.asked("orphaned")), (times, gone_on))
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


class Processes:
    """A connection to a database that has the rows of the processes, and is asked by a `Heartbeat`."""

    owner = ME

    def __init__(self) -> None:
        self.cutoffs = Cutoffs()
        self.seen: dict[str, float] = {OTHER: 1.0}
        self.knows_me = True
        self.time = 500.0
        self.takes = 0.0
        self.asked: list[bytes] = []
        self.found: list[Any] = []
        self.rowcount = 0

    def transaction(self) -> AbstractContextManager[None]:
        return nullcontext()

    def execute(self, statement: bytes, given: Any = ()) -> "Processes":
        self.asked.append(statement)
        if statement == heartbeat._BEAT:
            assert given == (ME,)
            self.time += self.takes
            self.found = [(7_000.0,)] if self.knows_me else []
        elif statement == heartbeat._LOOK:
            self.found = [(owner, seen, True) for owner, seen in self.seen.items()]
        elif statement == heartbeat._REAP:
            self.rowcount = int(self.seen.get(given[0]) == given[1])
            del self.seen[given[0]]
        return self

    def fetchone(self) -> Any:
        return self.found[0] if self.found else None

    def fetchall(self) -> list[Any]:
        return self.found


class Pauses:
    """Ends a thread after so many pauses."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seconds: list[float] = []

    def is_set(self) -> bool:
        return len(self.seconds) >= self.number

    def wait(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Resting(Heartbeat):
    """Does what the test says, and nothing by itself."""

    def _run(self) -> None:
        self.runs = super()._run


class HeartTests(SynchronousTestCase):
    """`Heartbeat`."""

    def setUp(self) -> None:
        self.now = 1_000.0
        self.patch(heartbeat, "monotonic", lambda: self.now)
        self.patch(heartbeat, "time", lambda: self.processes.time)
        self.told: list[str] = []
        self.times: list[tuple[float, float]] = []
        self.start(20.0)

    def start(self, lease: float) -> None:
        """Another process starts."""
        self.processes = Processes()
        database: Any = self.processes
        self.heartbeat: Any = Resting(
            Server("", lease=lease),
            database,
            lambda: self.told.append("troubled"),
            lambda: self.told.append("reaped"),
            lambda theirs, ours: self.times.append((theirs, ours)),
        )
        self.heartbeat.end()
        self.heartbeat.join()

    def beat(self, pause: float = 0, *, heard: bool = False) -> int:
        """Beat after a pause, in which the others may have done so too; tell how often one was reaped."""
        self.now += pause
        if heard:
            self.processes.seen[OTHER] += 1
        self.heartbeat._beat(self.processes)
        return self.told.count("reaped")

    def test_who_has_just_started_gives_the_others_the_time_to_come_back(self) -> None:
        for lease, seconds in ((50.0, COMING_BACK), (COMING_BACK - 1, COMING_BACK - 1)):
            self.told.clear()
            self.start(lease)
            beats = [self.beat(), self.beat(seconds / 2), self.beat(seconds / 2 - 0.1), self.beat(0.1)]
            self.assertEqual(beats, [0, 0, 0, 1], lease)

    def test_after_a_time_without_the_database_all_others_have_a_lease_again(self) -> None:
        for pause in (0, 5, 10):
            self.assertEqual(self.beat(pause, heard=True), 0)
        self.assertEqual(self.beat(10.1), 0)
        self.assertEqual([self.beat(5) for _ in range(3)], [0, 0, 0])
        self.assertEqual((self.beat(4.9), self.beat(0.1)), (0, 1))

    def test_the_log_says_that_another_one_is_silent(self) -> None:
        self.beat()
        with capturedLogs() as logged:
            self.beat(COMING_BACK)
            self.beat(COMING_BACK)
        self.assertEqual(
            [(one["log_format"], one["owner"]) for one in logged],
            [("Another process is silent, and its tasks go on elsewhere", OTHER)],
        )

    def test_one_that_comes_back_in_that_time_is_as_good_as_new(self) -> None:
        for pause in (0, 5, 10.1):
            self.beat(pause, heard=True)
        beats = [self.beat(9, heard=True), *(self.beat(9.9) for _ in range(2))]
        self.assertEqual(beats, [0, 0, 1])

    def test_it_tells_when_the_database_does_not_know_it_any_more(self) -> None:
        self.beat()
        self.processes.knows_me = False
        self.beat(1)
        self.assertEqual((self.told, len(self.times)), (["troubled"], 1))

    def test_the_time_is_what_it_was_in_the_middle_of_an_answer_that_came_at_once(self) -> None:
        for takes in (0.0, 0.25, AT_ONCE, -0.25):
            self.processes.takes = takes
            self.beat()
        self.assertEqual(self.times, [(7_000.0, 500.0), (7_000.0, 500.125)])

    def test_it_beats_some_times_in_a_lease_and_each_time_waits_for_an_answer(self) -> None:
        self.start(8.0)
        cutoff, waits = self.heartbeat._cutoff, []
        self.patch(self.heartbeat, "_beat", lambda _connection: waits.append(cutoff.since > 0))
        self.heartbeat._end = Pauses(3)
        self.heartbeat._beat_on(self.processes)
        self.assertEqual(self.heartbeat._end.seconds, [8.0 / BEATS] * 3)
        self.assertEqual((waits, cutoff.since), ([True] * 3, 0))

    def test_that_it_is_answered_again_is_told_once(self) -> None:
        self.patch(self.heartbeat, "_beat", lambda _connection: None)
        self.heartbeat._failing, self.heartbeat._end = True, Pauses(2)
        with capturedLogs() as logged:
            self.heartbeat._beat_on(self.processes)
        self.assertEqual([one["log_format"] for one in logged], ["Store answers the heartbeat again"])

    def test_with_a_long_lease_it_beats_for_those_too_that_have_a_shorter_one(self) -> None:
        self.start(600.0)
        self.patch(self.heartbeat, "_beat", lambda _connection: None)
        self.heartbeat._end = Pauses(1)
        self.heartbeat._beat_on(self.processes)
        self.assertEqual(self.heartbeat._end.seconds, [LONGEST_PAUSE])

    def test_nothing_that_it_writes_waits_for_long(self) -> None:
        self.beat()
        self.processes.asked.clear()
        self.beat(COMING_BACK)
        lightly = heartbeat._LIGHTLY
        self.assertEqual(
            self.processes.asked, [lightly, heartbeat._BEAT, heartbeat._LOOK, lightly, heartbeat._REAP]
        )

    def test_each_try_without_an_answer_is_told(self) -> None:
        answers = [psycopg.OperationalError(), OSError(), None, OSError(), None]
        held: list[object] = []
        self.patch(self.heartbeat._cutoff, "hold", held.append)
        self.patch(self.heartbeat._cutoff, "let_go", held.clear)

        def connect(_url: str, *, autocommit: bool) -> AbstractContextManager[Any]:
            self.assertEqual((autocommit, held), (True, []))
            if (error := answers.pop(0)) is not None:
                raise error
            return nullcontext(self.processes)

        def beat_on(connection: object) -> None:
            self.assertEqual(held, [connection])
            self.heartbeat._failing = False  # it has beaten for a while
            raise psycopg.OperationalError("it is closed")

        self.patch(heartbeat, "connect", connect)
        self.patch(self.heartbeat, "_beat_on", beat_on)
        self.heartbeat._end = Pauses(len(answers))
        self.heartbeat.runs()
        self.assertEqual((self.told, held, answers), (["troubled"] * 5, [], []))
        self.assertEqual(self.heartbeat._end.seconds, [TRY_AGAIN] * 5)


class Quiet(Poller):
    """Does what the test says, and nothing by itself."""

    def _run(self) -> None:
        pass


class Wire:
    """A connection for LISTEN, to what may have none."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self._ours, self._other = socket.socketpair()

    def fileno(self) -> int:
        """Of its socket."""
        return self._ours.fileno()

    def execute(self, statement: bytes) -> None:
        if self._error is not None and statement.startswith(b"LISTEN"):
            raise self._error

    def close(self) -> None:
        self._ours.close()
        self._other.close()


class ListeningTests(SynchronousTestCase):
    """How the `Poller` hears of hints."""

    def setUp(self) -> None:
        database: Any = Processes()
        self.poller: Any = Quiet(Server(""), database, KINDS, lambda: 0.0, lambda _seen: None)
        self.poller.end()
        self.poller.join()
        for end in (self.poller._bell, self.poller._rope):
            self.addCleanup(end.close)
        self.addCleanup(self.poller._stop_listening)

    def listen(self, error: Exception | None = None) -> list[tuple[LogLevel, str]]:
        """Try to; what is logged then."""
        self.poller._stop_listening()
        self.patch(polling, "connect", lambda _url, **_named: Wire(error))
        with capturedLogs() as logged:
            self.poller._listen()
        return [(one["log_level"], one["log_format"]) for one in logged]

    def test_a_database_without_it_is_told(self) -> None:
        text = "Store has no LISTEN; others are heard of within {seconds} s"
        self.assertEqual(self.listen(psycopg.errors.FeatureNotSupported()), [(LogLevel.info, text)])

    def test_where_it_fails_that_is_told_once_and_so_is_its_end(self) -> None:
        text = "Store cannot be listened to; others are heard of within {seconds} s"
        fails, again = (LogLevel.warn, text), (LogLevel.info, "Store can be listened to again")
        lost = psycopg.OperationalError("it is closed")
        self.assertEqual(
            [self.listen(error) for error in (None, lost, lost, None, None)], [[], [fails], [], [again], []]
        )

    def test_where_looks_fail_that_is_told_once_and_so_is_its_end(self) -> None:
        errors = [OSError("none left"), OSError("none left"), None, None, None]

        def look(_looking: object, *, polled: bool) -> None:
            if (error := errors.pop(0)) is not None:
                raise error
            self.poller._ending = not errors

        self.patch(polling, "connect", lambda _url, **_named: nullcontext(Wire(None)))
        self.patch(polling, "POLL", 0)
        self.poller._look, self.poller._ending = look, False
        self.patch(self.poller, "_listen", lambda: None)
        self.patch(self.poller, "_wait", lambda _connections, _seconds: False)
        self.poller._cutoff.hold = lambda _connection: None
        with capturedLogs() as logged:
            Poller._run(self.poller)
        self.assertEqual(
            [(one["log_level"], one["log_format"]) for one in logged],
            [
                (LogLevel.warn, "Store does not tell what others do"),
                (LogLevel.info, "Store tells again what others do"),
            ],
        )
