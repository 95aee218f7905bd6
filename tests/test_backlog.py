"""What waits for the writer's thread."""

from math import inf
from threading import Thread

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from asynctask import backlog
from asynctask.backlog import (
    BATCH,
    BEHIND,
    CLAIMING,
    CLAIMS,
    LARGEST,
    LONGEST_WAIT,
    MANY,
    MANY_ENDS,
    MAX_WAITING,
    MOST,
    PART,
    Backlog,
)
from asynctask.batches import End
from asynctask.model import COMPLETED, Error, Task
from asynctask.works import ALONE, CLAIM, Add, Call, Save, Work
from tests.turns import PATIENCE


class BacklogBase(SynchronousTestCase):
    """Puts works there."""

    def setUp(self) -> None:
        self.backlog = Backlog(patient=False)

    def ask(self, *sizes: int) -> list[Add]:
        works = [Add([], [], size, Deferred()) for size in sizes]
        for work in works:
            self.backlog.put(work, work.size)
        self.backlog.hand_over()
        return works

    def end(self, *results: int) -> list[Save]:
        """Attempts end, with results of so many bytes."""
        tasks = [Task("", "", "", COMPLETED, 0, 0, 0, result="1" * size) for size in results]
        saves = [Save(End(task, 0), Deferred()) for task in tasks]
        for save, size in zip(saves, results, strict=True):
            self.backlog.put(save, kept=size)
        self.backlog.hand_over()
        return saves

    def claim(self, number: int) -> list[Call]:
        calls = [Call(lambda _db, _news: None, f"{CLAIM}{one:02}", Deferred()) for one in range(number)]
        for call in calls:
            self.backlog.put(call)
        self.backlog.hand_over()
        return calls

    def alone(self) -> Call:
        call = Call(lambda _db, _news: None, ALONE, Deferred())
        self.backlog.put(call)
        self.backlog.hand_over()
        return call


class BacklogTests(BacklogBase):
    """What a transaction takes."""

    def test_it_takes_all_that_waits(self) -> None:
        works = self.ask(1, 2, 3)
        self.assertEqual(self.backlog.take(), works)
        self.assertFalse(self.backlog.waits)

    def test_it_takes_about_so_many_bytes_and_leaves_the_others_their_turn(self) -> None:
        first, second, third, last = self.ask(LARGEST // 2, LARGEST, 1, 1)
        self.assertEqual(self.backlog.take(), [first, second])
        self.assertEqual(self.backlog.take(), [third, last])

    def take_in(self, seconds: float) -> int:
        """A transaction that takes so long; how many works it was."""
        works = len(self.backlog.take())
        self.now += seconds
        return works

    def test_a_transaction_with_a_server_has_as_many_claims_as_it_has_the_time_for(self) -> None:
        self.now = 5.0
        self.patch(backlog, "monotonic", lambda: self.now)
        self.claim(500)
        self.assertEqual(self.take_in(CLAIMING / 10), CLAIMS)
        self.assertEqual(self.take_in(0), 2 * CLAIMS)
        self.assertEqual(self.take_in(2 * CLAIMING), 2 * CLAIMS)
        self.assertEqual(self.take_in(99), CLAIMS)
        self.assertEqual(self.take_in(CLAIMING), 1)
        self.assertEqual(self.take_in(CLAIMING / 5), 1)
        self.assertEqual(self.take_in(CLAIMING / 5), 2)

    def test_claims_keep_no_client_waiting(self) -> None:
        self.now = 5.0
        self.patch(backlog, "monotonic", lambda: self.now)
        claims = self.claim(2 * CLAIMS)
        self.assertEqual(self.backlog.take(), claims[:CLAIMS])
        self.now += 2 * LONGEST_WAIT
        self.assertFalse(self.backlog.is_late())
        (add,) = self.ask(1)
        self.assertEqual(self.backlog.take(), [add, claims[CLAIMS]])
        self.assertEqual(claims[CLAIMS].at, self.now)
        self.assertTrue(self.backlog.waits)
        self.assertEqual(self.backlog.take_asked(), claims[CLAIMS + 1 :])
        self.assertFalse(self.backlog.waits)

    def test_an_end_is_never_too_late(self) -> None:
        (save,) = self.end(1)
        self.assertEqual(save.at, inf)

    def test_what_waits_at_the_end_is_still_taken(self) -> None:
        works = self.ask(1)
        self.backlog.close()
        self.assertTrue(self.backlog.wait())
        self.assertEqual(self.backlog.take(), works)
        self.assertFalse(self.backlog.wait())

    def test_what_is_alone_comes_after_all_before_it_and_before_all_after_it(self) -> None:
        early = [*self.ask(LARGEST, 1), *self.claim(1)]
        ended = self.end(*[0] * (MOST + 1))
        alone = self.alone()
        late = [*self.ask(1), *self.claim(1), *self.end(0)]
        other = self.alone()
        taken: list[list[Work]] = []
        while self.backlog.waits:
            taken.append(self.backlog.take())
        at, last = taken.index([alone]), taken.index([other])
        self.assertCountEqual([work for batch in taken[:at] for work in batch], [*early, *ended])
        self.assertCountEqual([work for batch in taken[at + 1 : last] for work in batch], late)
        self.assertEqual(last, len(taken) - 1)

    def test_what_is_alone_is_refused_with_all_that_is_asked(self) -> None:
        early, alone, late = self.ask(1), self.alone(), self.ask(2)
        other, save = self.alone(), self.end(0)
        self.assertCountEqual(self.backlog.take_asked(), [*early, alone, *late, other])
        self.assertEqual(self.backlog.take(), save)
        self.assertTrue(self.backlog.has_room(MAX_WAITING))

    def test_a_file_takes_all_claims_in_their_turn(self) -> None:
        self.backlog = Backlog(patient=True)
        claims = self.claim(9 * CLAIMS)
        (add,) = self.ask(1)
        self.assertEqual(self.backlog.take(), [*claims, add])

    def test_one_that_is_larger_has_its_turn_too(self) -> None:
        large, small = self.ask(3 * LARGEST, 1)
        self.assertEqual((self.backlog.take(), self.backlog.take()), ([large], [small]))

    def test_what_cannot_be_done_is_taken_whole(self) -> None:
        works = self.ask(LARGEST, LARGEST, 1)
        self.assertEqual(self.backlog.take_asked(), works)

    def test_room_is_counted_as_it_is_taken(self) -> None:
        self.ask(*[LARGEST] * 63)
        self.assertFalse(self.backlog.has_room(LARGEST + 1))
        self.backlog.take()
        self.assertTrue(self.backlog.has_room(LARGEST + 1))

    def test_what_has_not_been_handed_over_yet_takes_room_too(self) -> None:
        (asked,) = self.ask(MAX_WAITING - 5)
        self.backlog.put(asked, 3)
        self.assertEqual([self.backlog.has_room(size) for size in (2, 3)], [True, False])
        self.backlog.most_kept = 10
        (save,) = self.end(6)
        self.backlog.put(save, kept=2)
        self.assertEqual([self.backlog.has_room_for_result(size) for size in (2, 3)], [True, False])
        self.backlog.most_kept = 1
        self.assertTrue(self.backlog.has_room_for_result(0))

    def test_it_takes_about_so_many_bytes_of_results(self) -> None:
        first, second, third, last = self.end(LARGEST // 2, LARGEST, 1, 1)
        self.assertEqual(self.backlog.take(), [first, second])
        self.assertEqual(self.backlog.take(), [third, last])

    def test_a_result_that_is_larger_has_its_turn_too(self) -> None:
        large, small = self.end(3 * LARGEST, 1)
        asked = self.ask(LARGEST)
        self.assertEqual((self.backlog.take(), self.backlog.take()), ([*asked, large], [small]))

    def test_where_many_ends_wait_it_takes_an_eighth_of_them(self) -> None:
        saves = self.end(*[1] * 2 * MOST * PART)
        self.assertEqual(self.backlog.take(), saves[: 2 * MOST])
        asked = self.ask(1)
        left = saves[2 * MOST :]
        self.assertEqual(self.backlog.take(), [*asked, *left[: len(left) // PART]])

    def test_but_no_more_than_a_server_takes_in_time(self) -> None:
        saves = self.end(*[0] * (MANY + 1) * PART)
        self.assertEqual(self.backlog.take(), saves[:MANY])

    def test_errors_count_among_their_bytes(self) -> None:
        saves = self.end(0, 0)
        for save in saves:
            failed = replace(save.end.task, error=Error("E", "x" * LARGEST))
            save.end = save.end._replace(task=failed)
        self.assertEqual([self.backlog.take() for _ in saves], [[save] for save in saves])

    def test_it_is_behind_with_so_many_ends(self) -> None:
        self.end(*[1] * BEHIND)
        self.assertFalse(self.backlog.is_behind())
        self.end(1)
        self.assertTrue(self.backlog.is_behind())
        self.backlog.take()
        self.assertFalse(self.backlog.is_behind())

    def test_it_is_behind_with_a_quarter_of_the_bytes_that_may_wait(self) -> None:
        self.backlog.most_kept = 40
        self.end(4, 6)
        self.assertFalse(self.backlog.is_behind())
        last = self.end(1)
        self.assertTrue(self.backlog.is_behind())
        self.backlog.take()
        self.assertFalse(self.backlog.is_behind())
        self.backlog.put_back(last * 11)
        self.assertTrue(self.backlog.is_behind())


class GatherTests(BacklogBase):
    """Where only ends of attempts wait, and many come."""

    def writer(self, last: int = MANY_ENDS) -> Thread:
        """One who waits with an end at hand, after a transaction with so many."""
        self.patch(backlog, "GATHER", 60.0)
        self.end(*[0] * last)
        self.backlog.take()
        self.end(0)
        writer = Thread(target=self.backlog.wait)
        self.addCleanup(writer.join)
        self.addCleanup(self.backlog.close)
        writer.start()
        writer.join(0.05)
        return writer

    def test_a_transaction_waits_for_more_of_them(self) -> None:
        writer = self.writer()
        self.end(*[0] * (BATCH - 2))
        writer.join(0.05)
        self.assertTrue(writer.is_alive())
        self.end(0)
        writer.join(PATIENCE)
        self.assertFalse(writer.is_alive())

    def test_but_not_for_ever(self) -> None:
        self.end(*[0] * MANY_ENDS)
        self.backlog.take()
        self.end(0)
        self.assertTrue(self.backlog.wait())

    def test_nor_where_few_come(self) -> None:
        writer = self.writer(last=MANY_ENDS - 1)
        writer.join(PATIENCE)
        self.assertFalse(writer.is_alive())

    def test_nor_if_somebody_waits_for_it_or_nothing_comes_any_more(self) -> None:
        for asks in (lambda: self.ask(1), lambda: self.claim(1), self.alone, self.backlog.close):
            writer = self.writer()
            self.assertTrue(writer.is_alive())
            asks()
            writer.join(PATIENCE)
            self.assertFalse(writer.is_alive())
            while self.backlog.waits:
                self.backlog.take()
