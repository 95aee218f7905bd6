"""Numbers whose hashes crowd together in a set or a dict."""

from collections.abc import Hashable, Iterable
from random import Random
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from asynctask.collisions import FEW, SAME, collide

ZERO: Final = 2**61 - 1
"""All its multiples have the hash 0."""


class Crowding(SynchronousTestCase):
    """What takes a table long."""

    def crowded(self, values: Iterable[Hashable]) -> bool:
        given = [*values]
        return collide(given, [*map(hash, given)])

    def test_numbers_as_people_choose_them_are_not_crowded(self) -> None:
        random = Random(1)
        for name, numbers in {
            "ids": range(10**6, 10**6 + 5_000),
            "ids with a time in them": [(n // 3 << 22) + n % 3 + 10**17 for n in range(5_000)],
            "milliseconds": [1_700_000_000_000 + n * 86_400_000 for n in range(5_000)],
            "chance": [random.getrandbits(63) for _ in range(5_000)],
            "negative ones": range(-5_000, 0),
            "multiples": [n << 44 for n in range(5_000)],
            "fractions": [n / 1024 for n in range(5_000)],
            "cents": [n / 100 for n in range(5_000)],
            "powers": [2.0**n for n in range(-1074, 1024)],
            "pairs": [(n // 100, n % 100) for n in range(5_000)],
        }.items():
            self.assertFalse(self.crowded(numbers), name)

    def test_numbers_of_one_hash_are_crowded(self) -> None:
        numbers = [n * ZERO for n in range(SAME + 1)]
        self.assertEqual({*map(hash, numbers)}, {0})
        for others in (range(1, FEW), range(1, 5_000)):
            self.assertFalse(self.crowded([*numbers[:SAME], *others]))
            self.assertTrue(self.crowded([*numbers, *others]))

    def test_the_same_value_again_is_no_crowd(self) -> None:
        numbers = [n * ZERO for n in range(SAME)]
        self.assertFalse(self.crowded(numbers * 100))
        self.assertTrue(self.crowded([*numbers * 100, SAME * ZERO]))
