"""What the thread that writes has done, told in the reactor's: a few answers in each of its turns."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

ANSWERS: Final = 64
"""Answers that are given in one turn of the reactor: some 4 ms of it, since each may log a line or write to
a client. Fewer cost each of them more: what is at hand for one is at hand for the next."""

PART: Final = 8
"""Of the answers that wait, a turn gives an eighth where that is more: they must not become ever more."""


class Replies:
    """Answers, each a function and what it is told, given in their order.

    :param from_thread: runs a function in the reactor's thread.
    """

    def __init__(self, from_thread: Callable[..., object]) -> None:
        self._from_thread = from_thread
        self._answers: deque[tuple[Any, ...]] = deque()

    def send(self, *answers: tuple[Any, ...]) -> None:
        """In any thread: give these after all that came before them."""
        self._from_thread(self._queue, *answers)

    def _queue(self, *answers: tuple[Any, ...]) -> None:
        waits = bool(self._answers)
        self._answers += answers
        if not waits:
            self._give()

    def _give(self) -> None:
        """Give some, and the rest in the next turn."""
        try:
            for _ in range(min(max(ANSWERS, len(self._answers) // PART), len(self._answers))):
                give, *told = self._answers.popleft()
                give(*told)
        finally:
            if self._answers:
                self._from_thread(self._give)
