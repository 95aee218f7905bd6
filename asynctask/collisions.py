"""Whether many values have one hash, so that a set of them, or a dict, is slow. Pure.

Python salts the hashes of strings, but not those of numbers and of what is made of numbers: the hash of
n * (2**61 - 1) is 0 for every n. A set of 20,000 of them takes seconds, since each that comes is compared
with all that are there. A dict of keys with different hashes can be made as slow, by keys that meet on
their ways to a free slot. There is no quick way to find them, so that there may be so many keys only.
"""

from collections.abc import Hashable, Sequence
from typing import Final

SAME: Final = 64
"""Different values that may have one hash, and are compared with each other: of floats there are 34 powers
of two."""

FEW: Final = 2 * SAME
"""Values that may have any hashes: each is compared with `SAME` at most, on the average."""

MOST_KEYS: Final = 10_000
"""Keys of a dict that are no strings: at their worst they take a tenth of a second. A body of 64 KiB has
fewer; a batch may have more."""


def collide(values: Sequence[Hashable], hashes: Sequence[int]) -> bool:
    """Whether they take a set, or the keys of a dict, too long; the same value again takes no time."""
    in_order = sorted(hashes)
    crowded = {one for one, other in zip(in_order, in_order[SAME:], strict=False) if one == other}
    found: dict[int, set[Hashable]] = {one: set() for one in crowded}
    for one, value in zip(hashes, values, strict=True):
        if one in crowded:
            found[one].add(value)
            if len(found[one]) > SAME:
                return True
    return False
