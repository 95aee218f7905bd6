"""Whose turn it is."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.fairqueue import REMEMBERED, FairQueue

ANSWERS = {"answered": True, "did not answer": False, "was not asked": None}


class LanesTests(SynchronousTestCase):
    """A queue for each host."""

    def take_all(self, queue: FairQueue[int]) -> list[str]:
        """The hosts that have a place now."""
        found = []
        while (taken := queue.take()) is not None:
            found.append(taken[0])
        return found

    def fill(self, queue: FairQueue[int], host: str, count: int) -> None:
        for number in range(count):
            self.assertTrue(queue.put(host, number))

    def answer(self, queue: FairQueue[int], host: str) -> None:
        """A host has answered."""
        queue.put(host, 0)
        queue.take()
        queue.done(host, answers=True)

    def test_what_waits_for_one_host_comes_in_order(self) -> None:
        queue: FairQueue[int] = FairQueue()
        self.fill(queue, "a", 3)
        self.assertEqual([queue.take() for _ in range(4)], [("a", 0), ("a", 1), ("a", 2), None])

    def test_a_host_has_only_so_many_places(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=64, a_host=4)
        self.fill(queue, "a", 10)
        self.assertEqual(self.take_all(queue), ["a"] * 4)
        queue.done("a")
        self.assertEqual(self.take_all(queue), ["a"])

    def test_all_hosts_have_only_so_many_places(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=3)
        for host in "abcde":
            self.fill(queue, host, 2)
        self.assertEqual(self.take_all(queue), ["a", "b", "c"])

    def test_whoever_has_the_fewest_places_comes_first(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=5, a_host=4)
        self.fill(queue, "dead", 100)
        self.take_all(queue)
        self.fill(queue, "b", 1)
        self.fill(queue, "c", 1)
        queue.done("dead")
        self.assertEqual(self.take_all(queue), ["b"])
        queue.done("dead")
        self.assertEqual(self.take_all(queue), ["c"])

    def test_hosts_take_turns(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=1)
        for host in "abc":
            self.fill(queue, host, 2)
        order = []
        while (taken := queue.take()) is not None:
            order.append(taken[0])
            queue.done(taken[0])
        self.assertEqual("".join(order), "abcabc")

    def test_however_many_names_hang_hosts_that_answer_have_places(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=8)
        self.answer(queue, "good")
        for number in range(10):
            self.fill(queue, f"dead{number}", 1)
        self.assertEqual(self.take_all(queue), [f"dead{number}" for number in range(6)])
        self.fill(queue, "good", 3)
        self.assertEqual(self.take_all(queue), ["good"] * 2)
        queue.done("dead0", answers=False)
        self.assertEqual(self.take_all(queue), ["dead6"])

    def test_a_host_that_answers_no_more_is_like_one_that_never_did(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=4)
        for host in "abcd":
            self.answer(queue, host)
            self.fill(queue, host, 2)
        self.assertEqual(self.take_all(queue), ["a", "b", "c", "d"])
        for host in "abcd":
            queue.done(host, answers=False)
        self.assertEqual(self.take_all(queue), ["a", "b"])

    def test_hosts_that_were_never_asked_have_places_that_silent_ones_do_not_get(
        self,
    ) -> None:
        queue: FairQueue[int] = FairQueue(at_once=8)
        self.answer(queue, "good")
        for number in range(10):
            self.assertTrue(queue.put(f"dead{number}", 0, again=True))
        self.assertEqual(self.take_all(queue), [f"dead{number}" for number in range(4)])
        for host in ("new", "newer", "newest", "good"):
            self.fill(queue, host, 1)
        self.assertEqual(self.take_all(queue), ["new", "newer", "good"])
        queue.done("dead0", answers=False)
        self.assertEqual(self.take_all(queue), ["newest"])
        queue.done("dead1", answers=False)
        self.assertEqual(self.take_all(queue), ["dead4"])

    def test_one_that_was_tried_again_may_be_of_a_host_that_answers(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=4)
        self.answer(queue, "good")
        for number in range(3):
            self.assertTrue(queue.put(f"dead{number}", 0, again=True))
        self.assertTrue(queue.put("good", 0, again=True))
        self.assertEqual(self.take_all(queue), ["dead0", "dead1", "good"])

    def test_what_hangs_does_not_keep_out_what_is_for_hosts_that_answer(self) -> None:
        queue: FairQueue[int] = FairQueue(most=4, a_host=2)
        self.answer(queue, "good")
        for number in range(4):
            self.fill(queue, f"dead{number}", 1)
        self.assertFalse(queue.put("dead4", 0))
        self.fill(queue, "good", 2)
        self.assertFalse(queue.put("good", 0))

    def test_a_host_that_never_answered_is_a_stranger_when_it_comes_again(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=4)
        for host in "abcd":
            self.fill(queue, host, 1)
            queue.take()
            queue.done(host, answers=False)
        for host in "abcd":
            self.fill(queue, host, 1)
        self.assertEqual(self.take_all(queue), ["a", "b"])

    def test_so_is_one_that_has_answered_before_that(self) -> None:
        queue: FairQueue[int] = FairQueue(at_once=4)
        for host in "abcd":
            self.answer(queue, host)
            self.fill(queue, host, 1)
            queue.take()
            queue.done(host, answers=False)
        for host in "abcd":
            self.fill(queue, host, 1)
        self.assertEqual(self.take_all(queue), ["a", "b"])

    def test_an_answer_tells_of_all_that_is_under_way_to_its_host(self) -> None:
        for known, answers, left in (
            (False, True, ["b", "c"]),
            (True, True, ["b", "c"]),
            (True, False, ["b"]),
            (False, False, ["b"]),
        ):
            queue: FairQueue[int] = FairQueue(at_once=4)
            if known:
                self.answer(queue, "a")
            self.fill(queue, "a", 3)
            self.take_all(queue)
            queue.done("a", answers=answers)
            self.fill(queue, "b", 1)
            self.fill(queue, "c", 1)
            self.assertEqual(self.take_all(queue), left, (known, answers))

    def test_only_so_many_hosts_are_remembered(self) -> None:
        queue: FairQueue[int] = FairQueue()
        for number in range(REMEMBERED + 1):
            self.answer(queue, f"host{number}")
        self.answer(queue, "host1")
        self.answer(queue, "one more")
        self.assertEqual(len(queue._answering), REMEMBERED)
        self.assertEqual(["host1" in queue._answering, "host2" in queue._answering], [True, False])

    def test_a_lane_is_only_so_long_and_tells_when_there_is_room_again(self) -> None:
        queue: FairQueue[int] = FairQueue(longest=4)
        self.fill(queue, "a", 4)
        self.assertFalse(queue.put("a", 5))
        self.assertTrue(queue.put("b", 5))
        queue.take()
        self.assertFalse(queue.wants_more)
        for _ in range(2):
            queue.take()
        self.assertTrue(queue.wants_more)

    def test_all_queues_are_only_so_long_together(self) -> None:
        queue: FairQueue[int] = FairQueue(most=4)
        for host in "abcd":
            self.fill(queue, host, 1)
        self.assertFalse(queue.put("e", 5))
        queue.take()
        self.assertFalse(queue.wants_more)
        queue.take()
        self.assertTrue(queue.wants_more)

    def test_nothing_is_kept_of_a_host_that_is_done(self) -> None:
        queue: FairQueue[int] = FairQueue()
        for number in range(100):
            queue.put(f"host{number}", number)
            queue.take()
            queue.done(f"host{number}")
        self.assertEqual((len(queue._queues), queue.waiting, queue.under_way), (0, 0, 0))
        self.assertEqual(sum(len(turn) for level in queue._turns for turn in level), 0)

    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["put", "take", *ANSWERS]))))
    def test_it_keeps_its_limits_and_loses_nothing(self, steps: list[tuple[str, str]]) -> None:
        queue: FairQueue[int] = FairQueue(at_once=4, a_host=2, longest=3, most=6)
        waiting: Counter[str] = Counter()
        under_way: Counter[str] = Counter()
        known: set[str] = set()
        for host, step in steps:
            strangers = sum(under_way[one] for one in under_way if one not in known)
            if step == "put":
                room = waiting[host] < 3 and waiting.total() < 6
                self.assertEqual(queue.put(host, 0), room)
                waiting[host] += room
            elif step == "take":
                allowed = [one for one in waiting if waiting[one] and under_way[one] < 2]
                ready = [one for one in allowed if one in known or strangers < 3]
                taken = queue.take()
                self.assertEqual(taken is not None, bool(ready) and under_way.total() < 4)
                if taken is not None:
                    fewest = min(under_way[one] for one in ready)
                    self.assertEqual(under_way[taken[0]], fewest)
                    waiting[taken[0]] -= 1
                    under_way[taken[0]] += 1
            elif under_way[host]:
                queue.done(host, answers=ANSWERS[step])
                under_way[host] -= 1
                if ANSWERS[step] is not None:
                    (known.add if ANSWERS[step] else known.discard)(host)
            self.assertEqual((queue.waiting, queue.under_way), (waiting.total(), under_way.total()))
