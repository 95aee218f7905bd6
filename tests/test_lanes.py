"""Whose turn it is."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.lanes import REMEMBERED, Lanes

ANSWERS = {"answered": True, "did not answer": False, "was not asked": None}


class LanesTests(SynchronousTestCase):
    """A lane for each host."""

    def take_all(self, lanes: Lanes[int]) -> list[str]:
        """The hosts that have a place now."""
        found = []
        while (taken := lanes.take()) is not None:
            found.append(taken[0])
        return found

    def fill(self, lanes: Lanes[int], host: str, count: int) -> None:
        for number in range(count):
            self.assertTrue(lanes.put(host, number))

    def answer(self, lanes: Lanes[int], host: str) -> None:
        """A host has answered."""
        lanes.put(host, 0)
        lanes.take()
        lanes.done(host, answers=True)

    def test_what_waits_for_one_host_comes_in_order(self) -> None:
        lanes: Lanes[int] = Lanes()
        self.fill(lanes, "a", 3)
        self.assertEqual([lanes.take() for _ in range(4)], [("a", 0), ("a", 1), ("a", 2), None])

    def test_a_host_has_only_so_many_places(self) -> None:
        lanes: Lanes[int] = Lanes(at_once=64, a_host=4)
        self.fill(lanes, "a", 10)
        self.assertEqual(self.take_all(lanes), ["a"] * 4)
        lanes.done("a")
        self.assertEqual(self.take_all(lanes), ["a"])

    def test_all_hosts_have_only_so_many_places(self) -> None:
        lanes: Lanes[int] = Lanes(at_once=3)
        for host in "abcde":
            self.fill(lanes, host, 2)
        self.assertEqual(self.take_all(lanes), ["a", "b", "c"])

    def test_whoever_has_the_fewest_places_comes_first(self) -> None:
        lanes: Lanes[int] = Lanes(at_once=5, a_host=4)
        self.fill(lanes, "dead", 100)
        self.take_all(lanes)
        self.fill(lanes, "b", 1)
        self.fill(lanes, "c", 1)
        lanes.done("dead")
        self.assertEqual(self.take_all(lanes), ["b"])
        lanes.done("dead")
        self.assertEqual(self.take_all(lanes), ["c"])

    def test_hosts_take_turns(self) -> None:
        lanes: Lanes[int] = Lanes(at_once=1)
        for host in "abc":
            self.fill(lanes, host, 2)
        order = []
        while (taken := lanes.take()) is not None:
            order.append(taken[0])
            lanes.done(taken[0])
        self.assertEqual("".join(order), "abcabc")

    def test_however_many_names_hang_hosts_that_answer_have_places(self) -> None:
        lanes: Lanes[int] = Lanes(at_once=8)
        self.answer(lanes, "good")
        for number in range(10):
            self.fill(lanes, f"dead{number}", 1)
        self.assertEqual(self.take_all(lanes), [f"dead{number}" for number in range(6)])
        self.fill(lanes, "good", 3)
        self.assertEqual(self.take_all(lanes), ["good"] * 2)
        lanes.done("dead0", answers=False)
        self.assertEqual(self.take_all(lanes), ["dead6"])

    def test_a_host_that_answers_no_more_is_like_one_that_never_did(self) -> None:
        lanes: Lanes[int] = Lanes(at_once=4)
        for host in "abcd":
            self.answer(lanes, host)
            self.fill(lanes, host, 2)
        self.assertEqual(self.take_all(lanes), ["a", "b", "c", "d"])
        for host in "abcd":
            lanes.done(host, answers=False)
        self.assertEqual(self.take_all(lanes), ["a", "b", "c"])

    def test_a_host_that_never_answered_is_a_stranger_when_it_comes_again(self) -> None:
        lanes: Lanes[int] = Lanes(at_once=4)
        for host in "abcd":
            self.fill(lanes, host, 1)
            lanes.take()
            lanes.done(host, answers=False)
        for host in "abcd":
            self.fill(lanes, host, 1)
        self.assertEqual(self.take_all(lanes), ["a", "b", "c"])

    def test_an_answer_tells_of_all_that_is_under_way_to_its_host(self) -> None:
        for known, answers, left in (
            (False, True, ["b", "c"]),
            (True, True, ["b", "c"]),
            (True, False, ["b"]),
            (False, False, ["b"]),
        ):
            lanes: Lanes[int] = Lanes(at_once=4)
            if known:
                self.answer(lanes, "a")
            self.fill(lanes, "a", 3)
            self.take_all(lanes)
            lanes.done("a", answers=answers)
            self.fill(lanes, "b", 1)
            self.fill(lanes, "c", 1)
            self.assertEqual(self.take_all(lanes), left, (known, answers))

    def test_only_so_many_hosts_are_remembered(self) -> None:
        lanes: Lanes[int] = Lanes()
        for number in range(REMEMBERED + 1):
            self.answer(lanes, f"host{number}")
        self.answer(lanes, "host1")
        self.answer(lanes, "one more")
        self.assertEqual(len(lanes._answering), REMEMBERED)
        self.assertEqual(["host1" in lanes._answering, "host2" in lanes._answering], [True, False])

    def test_a_lane_is_only_so_long_and_tells_when_there_is_room_again(self) -> None:
        lanes: Lanes[int] = Lanes(longest=4)
        self.fill(lanes, "a", 4)
        self.assertFalse(lanes.put("a", 5))
        self.assertTrue(lanes.put("b", 5))
        lanes.take()
        self.assertFalse(lanes.wants_more)
        for _ in range(2):
            lanes.take()
        self.assertTrue(lanes.wants_more)

    def test_all_lanes_are_only_so_long_together(self) -> None:
        lanes: Lanes[int] = Lanes(most=4)
        for host in "abcd":
            self.fill(lanes, host, 1)
        self.assertFalse(lanes.put("e", 5))
        lanes.take()
        self.assertFalse(lanes.wants_more)
        lanes.take()
        self.assertTrue(lanes.wants_more)

    def test_nothing_is_kept_of_a_host_that_is_done(self) -> None:
        lanes: Lanes[int] = Lanes()
        for number in range(100):
            lanes.put(f"host{number}", number)
            lanes.take()
            lanes.done(f"host{number}")
        self.assertEqual((len(lanes._lanes), lanes.waiting, lanes.under_way), (0, 0, 0))
        self.assertEqual(sum(map(len, (*lanes._turns, *lanes._turns_of_strangers))), 0)

    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["put", "take", *ANSWERS]))))
    def test_it_keeps_its_limits_and_loses_nothing(self, steps: list[tuple[str, str]]) -> None:
        lanes: Lanes[int] = Lanes(at_once=4, a_host=2, longest=3, most=6)
        waiting: Counter[str] = Counter()
        under_way: Counter[str] = Counter()
        known: set[str] = set()
        for host, step in steps:
            strangers = sum(under_way[one] for one in under_way if one not in known)
            if step == "put":
                room = waiting[host] < 3 and waiting.total() < 6
                self.assertEqual(lanes.put(host, 0), room)
                waiting[host] += room
            elif step == "take":
                allowed = [one for one in waiting if waiting[one] and under_way[one] < 2]
                ready = [one for one in allowed if one in known or strangers < 3]
                taken = lanes.take()
                self.assertEqual(taken is not None, bool(ready) and under_way.total() < 4)
                if taken is not None:
                    fewest = min(under_way[one] for one in ready)
                    self.assertEqual(under_way[taken[0]], fewest)
                    waiting[taken[0]] -= 1
                    under_way[taken[0]] += 1
            elif under_way[host]:
                lanes.done(host, answers=ANSWERS[step])
                under_way[host] -= 1
                if ANSWERS[step] is not None:
                    (known.add if ANSWERS[step] else known.discard)(host)
            self.assertEqual((lanes.waiting, lanes.under_way), (waiting.total(), under_way.total()))
