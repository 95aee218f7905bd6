"""The free seats."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from asynctask.registry import KINDS, Kind
from asynctask.seats import Seats

SIMULATE = KINDS["simulate"]
RESIZE = replace(SIMULATE, name="resize-image", place="thread", concurrency=2)
SCALE = replace(SIMULATE, name="scale-image", place="thread")
ALL = {kind.name: kind for kind in (SIMULATE, RESIZE, SCALE)}


def looked(reactor: int = 5, thread: int = 5) -> Seats:
    """Seats, and the store was looked at: nothing waits."""
    seats = Seats({"reactor": reactor, "thread": thread})
    for name in ALL:
        seats.note_waiting(name, False)
    return seats


class SeatsTests(SynchronousTestCase):
    """Who gets a seat, and who waits in the store."""

    def taken(self, seats: Seats, kind: Kind, tries: int) -> int:
        return sum(seats.take(kind) for _ in range(tries))

    def test_a_new_task_takes_a_seat(self) -> None:
        seats = looked(reactor=2)
        self.assertTrue(seats.take(SIMULATE))
        self.assertEqual(seats.free(SIMULATE), 1)

    def test_without_a_free_seat_a_task_waits(self) -> None:
        self.assertEqual(self.taken(looked(reactor=1), SIMULATE, 3), 1)
        self.assertEqual(self.taken(looked(reactor=0), SIMULATE, 3), 0)

    def test_a_seat_that_was_given_back_can_be_taken(self) -> None:
        seats = looked(reactor=1)
        seats.take(SIMULATE)
        seats.give_back(SIMULATE)
        self.assertTrue(seats.take(SIMULATE))

    def test_each_place_has_seats_of_its_own(self) -> None:
        seats = looked(reactor=1, thread=1)
        self.assertTrue(seats.take(SIMULATE))
        self.assertTrue(seats.take(SCALE))
        self.assertFalse(seats.take(RESIZE))

    def test_a_kind_takes_no_more_than_its_concurrency(self) -> None:
        seats = looked(thread=5)
        self.assertEqual(self.taken(seats, RESIZE, 4), 2)
        self.assertEqual(self.taken(seats, SCALE, 4), 3)
        seats.give_back(RESIZE)
        self.assertEqual(self.taken(seats, RESIZE, 4), 1)

    def test_a_new_task_does_not_jump_the_queue(self) -> None:
        seats = looked()
        seats.note_waiting("simulate", True)
        self.assertFalse(seats.take(SIMULATE))
        self.assertTrue(seats.take(RESIZE))

    def test_before_the_store_was_looked_at_tasks_may_wait_in_it(self) -> None:
        seats = Seats({"reactor": 5})
        self.assertTrue(seats.waits("simulate"))
        self.assertFalse(seats.take(SIMULATE))

    def test_when_the_service_stops_nothing_starts(self) -> None:
        seats = looked()
        seats.draining = True
        self.assertFalse(seats.take(SIMULATE))
        self.assertEqual(seats.free_in("reactor"), 0)

    def test_while_the_store_is_behind_nothing_starts(self) -> None:
        seats, behind = looked(reactor=2), [True]
        seats.behind = lambda: behind[0]
        self.assertEqual((seats.take(SIMULATE), seats.free(SIMULATE)), (False, 2))
        behind[0] = False
        self.assertTrue(seats.take(SIMULATE))

    def test_where_others_run_it_too_only_the_store_gives_seats_of_a_kind_with_a_total(self) -> None:
        total = replace(SIMULATE, concurrency_total=2)
        self.assertEqual(self.taken(looked(), total, 3), 2)
        seats = looked()
        seats.shared = True
        self.assertEqual((self.taken(seats, total, 3), seats.free(total)), (0, 2))
        self.assertEqual(self.taken(seats, SCALE, 3), 3)

    def test_kinds_that_wait_share_the_free_seats(self) -> None:
        seats = looked(thread=10)
        self.assertEqual(seats.share(SCALE, ALL), 10)
        seats.note_waiting("scale-image", True)
        seats.note_waiting("resize-image", True)
        self.assertEqual((seats.share(SCALE, ALL), seats.share(RESIZE, ALL)), (5, 2))

    def test_kinds_that_wait_come_in_turn(self) -> None:
        seats = looked()
        self.assertEqual(seats.next_in("thread", ALL), [])
        seats.note_waiting("scale-image", True)
        seats.note_waiting("resize-image", True)
        first = [seats.next_in("thread", ALL)[0].name for _ in range(4)]
        self.assertEqual(first, ["resize-image", "scale-image"] * 2)
        seats.note_waiting("resize-image", False)
        self.assertEqual([kind.name for kind in seats.next_in("thread", ALL)], ["scale-image"])

    def test_a_kind_whose_own_seats_are_taken_gives_no_turn_to_the_next_one(self) -> None:
        crop = replace(SCALE, name="crop-image")
        of = {kind.name: kind for kind in (RESIZE, SCALE, crop)}
        seats = Seats({"thread": 3})  # nobody has looked: all wait
        seats.reserve(RESIZE, 2)
        first = [seats.next_in("thread", of)[0].name for _ in range(6)]
        self.assertEqual(first, ["scale-image", "crop-image"] * 3)
        seats.reserve(SCALE, 1)
        self.assertEqual((seats.next_in("thread", of), seats.share(SCALE, of)), ([], 0))

    @given(st.integers(0, 3), st.lists(st.booleans(), max_size=20))
    def test_no_more_attempts_than_seats_are_under_way(self, count: int, calls: list[bool]) -> None:
        seats, under_way = looked(reactor=count), 0
        for asks in calls:
            if asks:
                taken = seats.take(SIMULATE)
                self.assertEqual(taken, under_way < count)
                under_way += taken
            elif under_way:
                seats.give_back(SIMULATE)
                under_way -= 1
            self.assertEqual(seats.free(SIMULATE), count - under_way)
