"""Whether many values have one hash, so that a set of them, or a dict, is slow. Pure.

Python salts the hashes of strings, but not those of numbers and of what is made of numbers: the hash of
n * (2**61 - 1) is 0 for every n. A set of 20,000 of them takes seconds, since each that comes is compared
with all that are there.

Not looked for, since it would cost ten times what the set does: numbers of different hashes that meet on
their ways to a free slot. They are harder to find, and hold it for half as long.
"""

from collections.abc import Sequence
from operator import eq
from typing import Final

SAME: Final = 64
"""Values that may have one hash, and are compared with each other: of floats there are 34 powers of two."""

FEW: Final = 2 * SAME
"""Values that may have any hashes: each is compared with `SAME` at most, on the average."""


def are_crowded(hashes: Sequence[int]) -> bool:
    """Whether different values with these hashes take a set, or the keys of a dict, too long."""
    in_order = sorted(hashes)
    return len(hashes) > FEW and any(map(eq, in_order, in_order[SAME:]))
