"""What ids are made of."""

import os
from collections.abc import Iterator
from typing import Final

from asynctask.wire import Ids

DRAWN: Final = 256
"""Ids for which chance is drawn at once: a system call each would be a tenth of a request."""


def chances() -> Iterator[bytes]:
    """What `Ids` takes, as hard to guess as the system's; it is asked for much of it at a time."""
    while True:
        drawn = os.urandom(Ids.CHANCE * DRAWN)
        for begin in range(0, len(drawn), Ids.CHANCE):
            yield drawn[begin : begin + Ids.CHANCE]
