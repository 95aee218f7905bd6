"""What every store keeps to: mix it into a TestCase that can open one."""

import json
from collections.abc import Callable, Collection, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from sqlalchemy.exc import IntegrityError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from asynctask import changes, maintenance, reading
from asynctask.changes import listed
from asynctask.istore import Claim, IStore, Key
from asynctask.model import (
    ACCEPTED,
    CANCELLED,
    COMPLETED,
    FAILED,
    RETRYING,
    RUNNING,
    Error,
    News,
    Progress,
    Query,
    Status,
    Submission,
    Task,
    accept,
    after_failure,
    complete,
    fail,
    interrupt,
)
from asynctask.problems import Unavailable
from asynctask.recorder import Suspect
from asynctask.store import SqlStore
from asynctask.wire import Ids, timestamp
from tests.turns import Turns

NOW = 1_700_000_000.25


class StoreTestCase(SynchronousTestCase):
    """Opens a store for each test; `reopen` closes it and opens it anew, as another start."""

    def setUp(self) -> None:
        self.turns = Turns()
        self.ids = Ids()
        self.started: list[Task] = []
        self.waiting: list[Task] = []
        self.cancelling: list[Task] = []
        self.told_of: list[tuple[int, list[News]]] = []
        self.gone: dict[str, int] = {}
        self.progress: dict[str, tuple[int, Progress]] = {}
        self.store = self.open()
        self.store.told = self.progress.get
        self.addCleanup(lambda: self.wait(self.store.close()))

    def counted(self, store: SqlStore, status: Status) -> float:
        """How many tasks it has counted as ended so since it was opened."""
        return sum(
            sample.value
            for family in store._metrics.families()
            for sample in family.samples
            if sample.name == "asynctask_tasks_ended_total" and sample.labels["status"] == status
        )

    def open_store(self) -> SqlStore:
        """A store that is not open yet, always on the same database."""
        raise NotImplementedError

    def open(
        self,
        suspects: Sequence[Suspect] = (),
        kinds: Collection[str] = ("simulate",),
        now: float = NOW,
        seated: Collection[str] | None = None,
    ) -> SqlStore:
        store = self.open_store()
        store.started = self.started.extend
        store.waiting = self.waiting.extend
        store.cancelling = self.cancelling.extend
        store.published = self.publish
        self.gone = store.open(suspects, now, kinds, seated)
        return store

    def publish(self, seq: int, news: Sequence[News]) -> None:
        self.told_of.append((seq, list(news)))

    @property
    def commits(self) -> list[tuple[int, list[News]]]:
        """What was told of each commit."""
        return self.told_of

    @property
    def changed(self) -> list[tuple[str, Status]]:
        """Each task with the status that it came to."""
        news = (one for _, news in self.commits for one in news)
        return [(one.task_id, one.status) for one in news if isinstance(one, Task)]

    def reopen(self, suspects: Sequence[Suspect] = (), **given: Any) -> None:
        """:param given: further arguments of `open`."""
        self.wait(self.store.close())
        self.started.clear()
        self.store = self.open(suspects, **given)
        self.store.told = self.progress.get

    def wait(self, deferred: Any) -> Any:
        return self.turns.outcome(deferred)

    def new(self, name: str = "a", now: float = NOW, kind: str = "simulate", **given: Any) -> Task:
        """:param given: further fields of the submission."""
        submission = Submission(name=name, kind=kind, input='{"duration":3}', **given)
        return accept(submission, self.ids.next(now, bytes(16)), now)

    def add(self, *tasks: Task) -> None:
        self.wait(self.store.add(tasks, []))

    def add_with_key(
        self,
        waiting: Sequence[Task],
        starting: Sequence[Task] = (),
        *,
        key: str = "k",
        digest: str = "d",
        answer: str = "first",
        now: float = NOW,
        expires_at: float = NOW + 100,
    ) -> Any:
        return self.store.add_once(waiting, starting, Key(key, digest, answer, expires_at), now)

    def run_one(self, **given: Any) -> Task:
        """A task that its accepting commit has started."""
        self.wait(self.store.add([], [self.new(**given)]))
        return self.started.pop()

    def report(self, task: Task, progress: Progress) -> Task:
        """A running attempt tells how far it is; the task as it is then."""
        self.progress[task.task_id] = (task.attempt, progress)
        self.store.report(task, progress)
        return replace(task, progress=progress)

    def claim(self, limit: int = 10, now: float = NOW) -> Claim:
        claim: Claim = self.wait(self.store.claim("simulate", limit, now))
        return claim

    def forget_at_once(self, number: int) -> None:
        """Each look has time for a single statement, which forgets so many."""
        self.patch(maintenance, "FEWEST", number)
        self.patch(maintenance, "ENOUGH", 0.0)

    def get(self, task: Task) -> Task:
        found = self.wait(self.store.get(task.task_id))
        assert isinstance(found, Task)
        return found

    def history(self, task: Task) -> list[tuple[str, int]]:
        return [(one["status"], one["attempt"]) for one in json.loads(self.get(task).history or "")]

    def names(self, **query: Any) -> list[str]:
        tasks, _ = self.wait(self.store.list(Query(**query)))
        return [task.name for task in tasks]


if TYPE_CHECKING:
    Base = StoreTestCase
else:
    Base = object


class StoreContract(Base):
    """The contract, to be mixed into a `StoreTestCase`."""

    def test_it_provides_the_interface(self) -> None:
        self.assertTrue(verifyObject(IStore, self.store))

    def test_a_waiting_task_is_kept_as_it_was_accepted(self) -> None:
        task = self.new(delay=5)
        self.add(task)
        found = self.get(task)
        self.assertEqual((found.status, found.attempt, found.run_at), (ACCEPTED, 0, NOW + 5))
        self.assertEqual(found.input, '{"duration":3}')
        self.assertEqual(
            json.loads(found.history or ""),
            [{"at": timestamp(NOW), "status": "accepted", "attempt": 0, "error": None}],
        )
        self.assertEqual((self.waiting, self.started), ([task], []))

    def test_the_accepting_commit_starts_a_task(self) -> None:
        task = self.run_one()
        self.assertEqual((task.status, task.attempt, task.started_at), (RUNNING, 1, NOW))
        self.assertEqual(self.get(task).status, RUNNING)
        self.assertEqual(self.history(task), [("accepted", 0), ("running", 1)])
        self.assertEqual(self.claim().tasks, [])

    def test_an_unknown_task_is_none(self) -> None:
        self.assertIsNone(self.wait(self.store.get("task_17000000000000" + "0" * 16)))

    def test_tasks_are_added_all_or_none(self) -> None:
        task, other = self.new(), self.new(name="b")
        self.add(task)
        self.assertRaises(IntegrityError, self.add, other, task)
        self.assertEqual(self.names(), ["a"])

    def test_one_bad_task_does_not_fail_its_neighbours(self) -> None:
        before, bad, after = self.new(), self.new(name="\ud800"), self.new(name="c")
        waits = [self.store.add([task], []) for task in (before, bad, after)]
        self.wait(waits[0])
        self.assertRaises(UnicodeEncodeError, self.wait, waits[1])
        self.wait(waits[2])
        self.assertEqual(self.names(), ["c", "a"])
        self.assertTrue(self.store.healthy)

    def test_every_character_comes_back(self) -> None:
        name = "".join(map(chr, [*range(1, 0x300), 0x2028, 0xFFFF, 0x1F600, 0x10FFFF]))
        task = self.new(name=name)
        self.add(task)
        self.assertEqual(self.get(task).name, name)

    def test_due_tasks_are_claimed_in_the_order_in_which_they_are_due(self) -> None:
        self.add(self.new("third", delay=3), self.new("first", delay=1), self.new("second", delay=2))
        claim = self.claim(now=NOW + 3)
        self.assertEqual([task.name for task in claim.tasks], ["first", "second", "third"])
        self.assertEqual({(task.status, task.attempt) for task in claim.tasks}, {(RUNNING, 1)})
        self.assertEqual(claim.tasks, self.started)
        self.assertEqual(self.history(claim.tasks[0]), [("accepted", 0), ("running", 1)])

    def test_a_claim_takes_no_more_than_asked_and_says_whether_there_is_more(self) -> None:
        self.add(*(self.new(name) for name in "abc"))
        claim = self.claim(limit=2)
        self.assertEqual(([task.name for task in claim.tasks], claim.more), (["a", "b"], True))
        claim = self.claim(limit=2)
        self.assertEqual(([task.name for task in claim.tasks], claim.more), (["c"], False))

    def test_what_is_not_due_is_not_claimed_but_announced(self) -> None:
        self.add(self.new(delay=7), self.new(delay=9))
        claim = self.claim(now=NOW + 6.9)
        self.assertEqual((claim.tasks, claim.more, claim.next_due), ([], False, NOW + 7))

    def test_a_claim_is_exclusive(self) -> None:
        self.add(*(self.new() for _ in range(20)))
        claims = [self.store.claim("simulate", 7, NOW) for _ in range(4)]
        taken = [task.task_id for claim in claims for task in self.wait(claim).tasks]
        self.assertEqual((len(taken), len(set(taken))), (20, 20))

    def test_a_claim_tells_a_task_as_it_is_kept_to_its_last_digit(self) -> None:
        task = self.new(
            'a "b" \\ ü \u2028 \x7f',
            now=NOW + 0.1234567,
            delay=0.1 + 0.2,
            timeout=1e-7 / 3,
            retries=9,
            callback_url="https://example.org/?a=%20",
        )
        self.add(task)
        for number in (1, 2):
            (claimed,) = self.claim(now=NOW + number * 7.7).tasks
            self.assertEqual(listed(claimed), listed(self.get(task)))
            self.assertEqual(
                (claimed.input, claimed.timeout, claimed.accepted_at),
                (task.input, task.timeout, task.accepted_at),
            )
            failed = after_failure(claimed, Error("E", "\u2028'\""), NOW + number * 7.7, 1 / 3)
            self.wait(self.store.end(failed, NOW + number * 7.7))

    def test_a_claim_leaves_other_kinds_alone(self) -> None:
        self.add(self.new(kind="other"))
        self.assertEqual((self.claim().tasks, self.claim().next_due), ([], None))

    def test_a_completed_task_has_its_result_and_never_starts_again(self) -> None:
        task = self.run_one()
        self.assertTrue(self.wait(self.store.end(complete(task, '{"a":[1]}', NOW + 3), NOW + 3)))
        found = self.get(task)
        self.assertEqual((found.status, found.result), (COMPLETED, '{"a":[1]}'))
        self.assertEqual((found.finished_at, found.error), (NOW + 3, None))
        self.reopen()
        self.assertEqual(self.claim(now=NOW + 99).tasks, [])

    def test_a_failed_task_has_its_error(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(fail(task, Error("Oops", 'no "luck"'), NOW), NOW))
        self.assertEqual(self.get(task).error, Error("Oops", 'no "luck"'))
        self.assertEqual(json.loads(self.get(task).history or "")[-1]["error"]["type"], "Oops")

    def test_an_attempt_that_was_given_up_writes_nothing(self) -> None:
        task = self.run_one()
        self.assertTrue(self.wait(self.store.end(interrupt(task, NOW), NOW)))
        again = self.claim().tasks[0]
        self.assertEqual(again.attempt, 2)
        self.assertFalse(self.wait(self.store.end(complete(task, "1", NOW), NOW)))
        self.assertEqual((self.get(task).status, self.get(task).attempt), (RUNNING, 2))
        self.assertTrue(self.wait(self.store.end(complete(again, "2", NOW), NOW)))
        self.assertFalse(self.wait(self.store.end(fail(again, Error("E", ""), NOW), NOW)))
        self.assertEqual((self.get(task).status, self.get(task).result), (COMPLETED, "2"))

    def test_ends_that_wait_together_are_all_written(self) -> None:
        tasks = [self.run_one() for _ in range(30)]
        ends = [self.store.end(complete(task, str(n), NOW), NOW) for n, task in enumerate(tasks)]
        self.assertTrue(all(self.wait(end) for end in ends))
        self.assertEqual([self.get(task).result for task in tasks], [str(n) for n in range(30)])

    def test_a_released_task_starts_again_as_the_next_attempt(self) -> None:
        task = self.run_one()
        self.wait(self.store.end(interrupt(task, NOW + 2), NOW + 2))
        found = self.get(task)
        self.assertEqual((found.status, found.run_at, found.attempt), (RETRYING, NOW + 2, 1))
        self.reopen()
        self.assertEqual([one.attempt for one in self.claim(now=NOW + 2).tasks], [2])

    def test_what_an_earlier_process_was_running_goes_on(self) -> None:
        task = self.run_one()
        self.add(self.new("waits"))
        self.reopen()
        claim = self.claim(limit=1)
        self.assertEqual([(one.task_id, one.attempt) for one in claim.tasks], [(task.task_id, 2)])
        self.assertTrue(claim.more)
        self.assertEqual([one.name for one in self.claim(limit=2).tasks], ["waits"])
        self.assertEqual(
            self.history(task), [("accepted", 0), ("running", 1), ("retrying", 1), ("running", 2)]
        )

    def test_what_goes_on_is_not_told_with_the_error_or_the_time_of_an_earlier_attempt(self) -> None:
        task = self.run_one(retries=3)
        error = Error("ValueError", "no")
        self.wait(self.store.end(after_failure(task, error, NOW, 5), NOW))
        (second,) = self.claim(now=NOW + 5).tasks
        self.assertEqual(second.error, error)
        self.reopen()
        (third,) = self.claim(now=NOW + 9).tasks
        self.assertEqual((third.attempt, third.error, third.run_at), (3, None, NOW + 9))
        kept = self.wait(self.store.events(1, 99))
        told = [one for _, news in kept for one in news if isinstance(one, Task)]
        self.assertEqual(told[-1], listed(third))
        self.assertEqual(changes.past(self.get(task))[-1], told[-1])
        self.assertEqual(
            [(one.status, one.error, one.run_at) for one in changes.past(self.get(task))],
            [(one.status, one.error, one.run_at) for one in told],
        )

    def test_many_orphans_are_claimed_in_batches(self) -> None:
        for _ in range(5):
            self.run_one()
        self.reopen()
        self.assertEqual([len(self.claim(limit=2).tasks) for _ in range(4)], [2, 2, 1, 0])

    def test_the_task_in_which_the_process_died_is_charged_and_nobody_else(self) -> None:
        guilty, other = self.run_one(name="guilty"), self.run_one(name="other")
        for attempt in (1, 2):
            self.reopen([Suspect(guilty.task_id, attempt)])
            self.assertEqual(len(self.claim().tasks), 2)
        self.reopen([Suspect(guilty.task_id, 3)])
        self.assertEqual([task.name for task in self.claim().tasks], ["other"])
        found = self.get(guilty)
        self.assertEqual((found.status, found.error and found.error.type), (FAILED, "Crashed"))
        self.assertEqual(self.get(other).crashes, 0)

    def test_a_task_is_charged_only_for_the_attempt_that_was_named(self) -> None:
        task = self.run_one()
        self.reopen([Suspect(task.task_id, 7), Suspect("task_unknown", 1)])
        self.assertEqual(self.get(task).crashes, 0)

    def test_once_it_is_closed_it_refuses_what_is_asked_for(self) -> None:
        task = self.run_one()
        self.wait(self.store.close())
        asks: list[Callable[[], object]] = [
            lambda: self.store.get(task.task_id),
            lambda: self.store.list(Query()),
            lambda: self.store.cancel(task.task_id, NOW),
            lambda: self.store.retry(task.task_id, NOW),
            lambda: self.store.delete(task.task_id),
            lambda: self.store.add([self.new()], []),
            lambda: self.add_with_key([self.new()]),
            lambda: self.store.claim("simulate", 1, NOW),
        ]
        for ask in asks:
            self.assertRaises(Unavailable, ask)
        self.assertFalse(self.store.healthy)
        self.store = self.open()

    def test_a_list_is_newest_first_in_pages(self) -> None:
        self.add(*(self.new(name) for name in "abcde"))
        self.assertEqual(self.names(), ["e", "d", "c", "b", "a"])
        tasks, cursor = self.wait(self.store.list(Query(limit=2)))
        self.assertEqual([task.name for task in tasks], ["e", "d"])
        self.assertEqual(self.names(limit=2, cursor=cursor), ["c", "b"])
        tasks, cursor = self.wait(self.store.list(Query(limit=5)))
        self.assertIsNone(cursor)
        self.assertIsNone(tasks[0].input)

    def test_a_page_of_long_errors_is_shorter(self) -> None:
        self.patch(reading, "LIST", 25)
        for name in "abc":
            ended = fail(self.run_one(name=name), Error("E", "x" * 10), NOW)
            self.wait(self.store.end(ended, NOW))
        tasks, cursor = self.wait(self.store.list(Query(limit=3)))
        self.assertEqual([task.name for task in tasks], ["c", "b"])
        tasks, none = self.wait(self.store.list(Query(limit=3, cursor=cursor)))
        self.assertEqual(([task.name for task in tasks], none), (["a"], None))
        self.patch(reading, "LIST", 5)
        self.assertEqual(self.names(limit=3), ["c"])

    def test_a_list_can_be_filtered(self) -> None:
        self.add(self.new("a"), self.new("b"), self.new("other", kind="other"))
        running = self.run_one(name="r")
        self.wait(self.store.end(complete(self.run_one(name="c"), "1", NOW), NOW))
        self.assertEqual(self.names(statuses=(ACCEPTED,)), ["other", "b", "a"])
        self.assertEqual(self.names(statuses=(RUNNING, COMPLETED)), ["c", "r"])
        self.assertEqual(self.names(statuses=(CANCELLED,)), [])
        self.assertEqual(self.names(kind="other"), ["other"])
        self.assertEqual(self.names(name="b"), ["b"])
        self.assertEqual(self.names(statuses=(ACCEPTED, RUNNING), kind="simulate", name="r"), ["r"])
        self.assertEqual(
            self.names(statuses=(ACCEPTED, RUNNING), limit=2, cursor=running.task_id), ["other", "b"]
        )

    def test_each_filter_of_a_list_holds_beside_the_others(self) -> None:
        for name, kind in product("ab", ("simulate", "other")):
            waiting, cancelled = self.new(name, kind=kind), self.new(name, kind=kind)
            self.add(waiting, cancelled)
            self.wait(self.store.cancel(cancelled.task_id, NOW))
        everything, _ = self.wait(self.store.list(Query()))
        several: tuple[tuple[Status, ...], ...] = ((), (CANCELLED,), (ACCEPTED, CANCELLED), (RUNNING,))
        for by_name, by_kind, statuses, cursor in product(
            (None, "a"), (None, "other"), several, (None, everything[3].task_id)
        ):
            query = Query(statuses, by_kind, by_name, cursor=cursor)
            found, _ = self.wait(self.store.list(query))
            expected = [
                one.task_id
                for one in everything
                if by_name in (None, one.name)
                and by_kind in (None, one.kind)
                and (not statuses or one.status in statuses)
                and (cursor is None or one.task_id < cursor)
            ]
            self.assertEqual([one.task_id for one in found], expected, query)

    def test_progress_is_shown_at_once_and_stored_with_the_end(self) -> None:
        task = self.run_one()
        told = self.report(task, Progress(1, 3, "one"))
        self.assertEqual(self.get(task).progress, Progress(1, 3, "one"))
        self.assertEqual(self.wait(self.store.list(Query()))[0][0].progress, Progress(1, 3, "one"))
        self.wait(self.store.end(complete(told, "null", NOW), NOW))
        self.progress.clear()
        self.reopen()
        self.assertEqual(self.get(task).progress, Progress(1, 3, "one"))

    def test_the_next_attempt_begins_without_progress(self) -> None:
        task = self.run_one()
        told = self.report(task, Progress(2, 3))
        self.wait(self.store.end(interrupt(told, NOW), NOW))
        self.claim()
        self.assertIsNone(self.get(task).progress)

    def test_the_history_is_bounded(self) -> None:
        task = self.run_one()
        for _ in range(505):
            self.wait(self.store.end(interrupt(task, NOW), NOW))
            task = self.claim().tasks[0]
        self.assertEqual((len(self.history(task)), self.get(task).attempt), (1_000, 506))
