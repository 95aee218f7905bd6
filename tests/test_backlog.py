"""What waits for the writer's thread."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from asynctask.backlog import LARGEST, Backlog
from asynctask.works import Add


class BacklogTests(SynchronousTestCase):
    """What a transaction takes."""

    def setUp(self) -> None:
        self.backlog = Backlog(patient=False)

    def ask(self, *sizes: int) -> list[Add]:
        works = [Add([], [], size, Deferred()) for size in sizes]
        for work in works:
            self.backlog.put(work, work.size)
        self.backlog.hand_over()
        return works

    def test_it_takes_all_that_waits(self) -> None:
        works = self.ask(1, 2, 3)
        self.assertEqual(self.backlog.take(), works)
        self.assertFalse(self.backlog.waits)

    def test_it_takes_about_so_many_bytes_and_leaves_the_others_their_turn(self) -> None:
        first, second, third, last = self.ask(LARGEST // 2, LARGEST, 1, 1)
        self.assertEqual(self.backlog.take(), [first, second])
        self.assertEqual(self.backlog.take(), [third, last])

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
