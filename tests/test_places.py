"""The free seats."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.places import Places


def looked(seats: int) -> Places:
    """Seats, and the store was looked at: nothing waits."""
    places = Places(seats)
    places.note_waiting("simulate", False)
    return places


class Seats(SynchronousTestCase):
    """Who gets a seat, and who waits in the store."""

    def test_a_new_task_takes_a_seat(self) -> None:
        places = looked(2)
        self.assertTrue(places.take("simulate"))
        self.assertEqual(places.free, 1)

    def test_without_a_free_seat_a_task_waits(self) -> None:
        places = looked(1)
        self.assertEqual([places.take("simulate") for _ in range(3)], [True, False, False])
        self.assertEqual(places.free, 0)

    def test_a_seat_that_was_given_back_can_be_taken(self) -> None:
        places = looked(1)
        places.take("simulate")
        places.give_back()
        self.assertTrue(places.take("simulate"))

    def test_several_seats_can_be_given_back(self) -> None:
        places = looked(0)
        places.give_back(3)
        self.assertEqual(places.free, 3)

    def test_no_seats_only_accept(self) -> None:
        self.assertFalse(looked(0).take("simulate"))

    def test_a_new_task_does_not_jump_the_queue(self) -> None:
        places = looked(5)
        places.note_waiting("simulate", True)
        self.assertFalse(places.take("simulate"))
        self.assertEqual(places.free, 5)

    def test_before_the_store_was_looked_at_tasks_may_wait_in_it(self) -> None:
        self.assertTrue(Places(5).waits("simulate"))
        self.assertFalse(Places(5).take("simulate"))

    def test_a_queue_of_another_kind_is_not_in_the_way(self) -> None:
        places = looked(5)
        places.note_waiting("resize-image", True)
        self.assertTrue(places.take("simulate"))
        self.assertFalse(places.take("resize-image"))

    def test_when_the_service_stops_nothing_starts(self) -> None:
        places = looked(5)
        places.draining = True
        self.assertFalse(places.take("simulate"))
        self.assertEqual(places.free, 5)

    @given(st.integers(0, 3), st.lists(st.booleans(), max_size=20))
    def test_no_more_attempts_than_seats_are_under_way(self, seats: int, calls: list[bool]) -> None:
        places, under_way = looked(seats), 0
        for asks in calls:
            if asks:
                taken = places.take("simulate")
                self.assertEqual(taken, under_way < seats)
                under_way += taken
            elif under_way:
                places.give_back()
                under_way -= 1
            self.assertEqual(places.free, seats - under_way)
