"""`SqlStore` on PostgreSQL keeps to the same contract as on SQLite."""

import re
from typing import Any, Final

import psycopg
from twisted.internet.defer import Deferred, ensureDeferred

from asynctask import backlog, cutoff, pgreaders, writer
from asynctask import postgres as asynctask_postgres
from asynctask.istore import Key, Known
from asynctask.metrics import Metrics
from asynctask.model import COMPLETED, RETRYING, News, Progress, complete
from asynctask.pgserver import Server
from asynctask.recorder import Suspect
from asynctask.store import SqlStore
from tests import postgres
from tests.store_changes_contract import ChangesContract
from tests.store_contract import NOW, StoreContract, StoreTestCase
from tests.store_events_contract import EventsContract
from tests.store_keys_contract import KeysContract

TIMEOUT: Final = re.compile(r"timeout = \d+")
"""Of the server's own."""


class OnServer(StoreTestCase):
    """In a database of the test's own.

    :ivar patient: whether its readers and its writer are; else a busy machine has them give up.
    """

    patient = True

    def open_store(self) -> SqlStore:
        if not hasattr(self, "database"):
            if self.patient:
                self.patch(pgreaders, "EARLY", 30.0)
                for module in (pgreaders, cutoff):
                    self.patch(module, "LONGEST", 60.0)
                self.patch(writer, "LATE", 60.0)
                self.patch(writer, "ENOUGH", 120.0)
                self.patch(backlog, "LONGEST_WAIT", 60.0)
                self.patch(
                    asynctask_postgres,
                    "_PATIENT",
                    TIMEOUT.sub("timeout = 60000", asynctask_postgres._PATIENT),
                )
            self.database = postgres.new_database()
            self.addCleanup(postgres.drop, self.database)
        return SqlStore(
            Server(postgres.url_of(self.database)), self.turns, metrics=Metrics(), try_again=0.01
        )


class PostgresStore(StoreContract, ChangesContract, KeysContract, EventsContract, OnServer):
    """On a server."""

    def open(self, *given: Any, **named: Any) -> SqlStore:
        store = super().open(*given, **named)
        store.followed = lambda: True
        return store

    @property
    def commits(self) -> list[tuple[int, list[News]]]:
        """What was told of each commit, once all is: one that a look saw first has to be read."""
        while self.wait(self.store.events(max([self.store.seq, *(seq for seq, _ in self.told_of)]) + 1, 1)):
            self.turns.turn()
        return self.told_of

    def test_numbers_that_a_failure_has_taken_are_not_mistaken_for_forgotten_commits(self) -> None:
        with psycopg.connect(postgres.url_of(self.database), autocommit=True) as other:
            other.execute("SELECT nextval('event_seq_seq')")
        begin = self.store.seq + 1
        self.add(self.new("é"))
        first = self.commits[0][0]
        self.assertGreater(first, begin)
        self.assertEqual([seq for seq, _ in self.kept(begin) or []], [first])
        self.add(self.new())
        self.wait(self.store.forget_events(0, 0))
        self.assertIsNone(self.kept(begin))

    def test_a_count_mistakes_nothing_that_is_on_its_way(self) -> None:
        sharing = self.store._sharing
        assert sharing is not None
        counts: list[Deferred[int]] = []

        def asked() -> Deferred[int]:
            counts.append(Deferred())
            return counts[-1]

        self.patch(self.store, "count", asked)

        def count() -> None:
            ensureDeferred(sharing._count())

        added = self.store.add([self.new()], [])
        count()
        counts[0].callback(0)  # before its commit
        self.assertEqual(self.store.unfinished, 1)
        count()
        self.wait(added)
        counts[1].callback(0)
        self.assertEqual(self.store.unfinished, 1)
        count()
        counts[2].callback(5)  # which are others'
        self.assertEqual(self.store.unfinished, 5)


class Times(OnServer):
    """What time it is there."""

    change = 0.0

    def open_store(self) -> SqlStore:
        self.told: list[tuple[float, float]] = []
        store = super().open_store()

        def timed(theirs: float, ours: float) -> float:
            self.told.append((theirs, ours))
            return self.change

        store.timed = timed
        return store

    def test_the_database_tells_the_time_at_the_start_and_with_each_heartbeat(self) -> None:
        self.assertEqual(len(self.told), 1)
        while len(self.told) < 2:
            self.turns.turn()
        for theirs, ours in self.told:
            self.assertLess(abs(theirs - ours), 60)

    def test_the_start_goes_by_it_too(self) -> None:
        task = self.run_one()
        self.change = -300.0
        self.reopen([Suspect(task.task_id, task.attempt)], now=NOW + 300)
        self.assertEqual((self.get(task).status, self.get(task).run_at), (RETRYING, NOW))


class BothOpen(OnServer):
    """Two processes on one database."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.open()
        self.addCleanup(lambda: self.wait(self.other.close()))


class TwoProcesses(BothOpen):
    """Two processes share the tasks."""

    def claimed_by(self, store: SqlStore, total: int | None = None) -> int:
        return len(self.wait(store.claim("simulate", 9, NOW, total)).tasks)

    def test_a_kind_runs_only_so_often_in_all_of_them(self) -> None:
        self.add(*(self.new() for _ in range(5)))
        self.assertEqual(self.claimed_by(self.store, 2), 2)
        full = self.wait(self.other.claim("simulate", 9, NOW, 2))
        self.assertEqual((full.tasks, full.full, full.more), ([], True, False))
        self.wait(self.store.end(complete(self.started[0], "1", NOW), NOW))
        self.assertEqual(self.claimed_by(self.other, 2), 1)
        self.assertEqual(self.claimed_by(self.other, 9), 2)

    def test_how_far_an_attempt_is_reaches_the_other(self) -> None:
        task = self.run_one()
        self.report(task, Progress(1, 3, "one"))
        self.report(task, Progress(2, 3))
        self.wait(self.store.keep_progress())
        found = self.wait(self.other.get(task.task_id))
        self.assertEqual((found.progress, found.n), (Progress(2, 3), 2))
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        self.wait(self.store.keep_progress())
        self.assertIs(self.wait(self.other.get(task.task_id)).status, COMPLETED)

    def test_who_follows_a_task_in_the_other_is_told_how_far_it_is(self) -> None:
        task, another = self.run_one(), self.run_one()
        told: list[tuple[str, Progress]] = []
        for store in (self.store, self.other):
            store.progressed = lambda task, progress: told.append((task.task_id, progress))
        self.store.watched = self.other.watched = lambda: [task.task_id]
        self.report(task, Progress(1, 3))
        self.report(another, Progress(2, 3))
        self.wait(self.store.keep_progress())
        del told[:]
        for _ in range(2):
            self.hear(self.store)
            self.hear(self.other)
        self.assertEqual(told, [(task.task_id, Progress(1, 3))])
        self.other.watched = lambda: None
        self.hear(self.other)
        self.assertEqual(told[1:], [(another.task_id, Progress(2, 3))])
        self.other.watched = tuple
        self.hear(self.other)
        self.wait(self.store.end(complete(task, "1", NOW), NOW))
        self.other.watched = lambda: None
        del told[:]
        self.hear(self.other)
        self.assertEqual(told, [(another.task_id, Progress(2, 3))])

    def hear(self, store: SqlStore) -> None:
        """Look as each second, for those who follow."""
        assert store._sharing is not None
        self.wait(ensureDeferred(store._sharing._hear_progress()))

    def test_a_task_is_claimed_by_one_of_them(self) -> None:
        self.add(*(self.new() for _ in range(12)))
        self.assertEqual([self.claimed_by(self.store), self.claimed_by(self.other)], [9, 3])

    def test_a_key_is_known_to_both(self) -> None:
        key = Key("k", "digest", "answer", NOW + 9)
        self.assertIsNone(self.wait(self.store.add_once([self.new()], [], key, NOW)))
        known = self.wait(self.other.add_once([self.new()], [], key, NOW))
        self.assertEqual(known, Known("digest", "answer"))
        self.assertEqual(len(self.names()), 1)
