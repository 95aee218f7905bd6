"""Who is next: a queue for each host, so that one that is slow or dead keeps no other waiting. Pure."""

from collections import deque
from typing import Final, Generic, TypeVar

AT_ONCE: Final = 64
"""Deliveries under way in all."""

PART: Final = 4
"""One in so many of these is only for hosts that answered the last time: any number of names may be of
receivers that hang."""

REMEMBERED: Final = 10_000
"""Hosts of which it is known that they answer: some MiB."""

A_HOST: Final = 4
"""Deliveries under way to one host."""

LONGEST: Final = 1_000
"""What waits for one host here; the rest of it stays in the store."""

MOST: Final = 20_000
"""What waits here in all: some MiB."""

T = TypeVar("T")


class _OfHost(Generic[T]):
    __slots__ = ("answers", "under_way", "waiting")

    def __init__(self, *, answers: bool) -> None:
        self.waiting: deque[T] = deque()
        self.under_way = 0
        self.answers = answers


class FairQueue(Generic[T]):
    """What waits for each host, and how much is under way.

    A host with fewer deliveries under way comes first, and of those the one that has waited longest:
    the free place that a dead host leaves goes to whoever has none. A host at its limit holds no place, and
    hosts that did not answer the last time, or were never asked, do not get all places.

    :ivar wants_more: whether there is room again after something was refused.
    """

    def __init__(
        self, at_once: int = AT_ONCE, a_host: int = A_HOST, longest: int = LONGEST, most: int = MOST
    ) -> None:
        self.wants_more = False
        self.waiting = 0
        self.under_way = 0
        self._at_once = at_once
        self._a_host = a_host
        self._longest = longest
        self._most = most
        self._queues: dict[str, _OfHost[T]] = {}
        # Hosts with something waiting, by how much of theirs is under way; dicts for their order.
        self._turns: list[dict[str, None]] = [{} for _ in range(a_host)]
        self._turns_of_strangers: list[dict[str, None]] = [{} for _ in range(a_host)]
        self._strangers_under_way = 0
        self._answering: dict[str, None] = {}
        self._refused: set[str] = set()
        self._full = False

    def put(self, host: str, item: T) -> bool:
        """Let something wait for its turn; False if there is no room for it."""
        queue = self._queues.get(host)
        if self.waiting >= self._most:
            self._full = True
            return False
        if queue is None:
            queue = self._queues[host] = _OfHost(answers=host in self._answering)
        elif len(queue.waiting) >= self._longest:
            self._refused.add(host)
            return False
        queue.waiting.append(item)
        self.waiting += 1
        self._line_up(host, queue)
        return True

    def take(self) -> tuple[str, T] | None:
        """The next to be delivered, and its host; None while nothing may be."""
        if self.under_way >= self._at_once:
            return None
        turn = self._next_turn()
        if turn is None:
            return None
        host = next(iter(turn))
        del turn[host]
        queue = self._queues[host]
        item = queue.waiting.popleft()
        self.waiting -= 1
        self._count(queue, 1)
        self._line_up(host, queue)
        self._look_for_room(host, queue)
        return host, item

    def done(self, host: str, *, answers: bool | None = None) -> None:
        """Something that was taken is not under way any more.

        :param answers: whether the host has answered; None if it was not asked.
        """
        queue = self._queues[host]
        if queue.waiting and queue.under_way < self._a_host:
            del self._turns_of(queue)[queue.under_way][host]
        self._count(queue, -1)
        if answers is not None:
            self._remember(host, queue, answers=answers)
        if not queue.waiting and not queue.under_way:
            del self._queues[host]
        else:
            self._line_up(host, queue)

    def _next_turn(self) -> dict[str, None] | None:
        """The hosts of which one is next."""
        may_all = self._strangers_under_way < self._at_once - self._at_once // PART
        for known, strange in zip(self._turns, self._turns_of_strangers, strict=True):
            # Strangers first: however many they are, there are places that they do not get.
            if strange and may_all:
                return strange
            if known:
                return known
        return None

    def _turns_of(self, queue: _OfHost[T]) -> list[dict[str, None]]:
        return self._turns if queue.answers else self._turns_of_strangers

    def _count(self, queue: _OfHost[T], more: int) -> None:
        queue.under_way += more
        self.under_way += more
        if not queue.answers:
            self._strangers_under_way += more

    def _remember(self, host: str, queue: _OfHost[T], *, answers: bool) -> None:
        self._answering.pop(host, None)
        if answers:
            self._answering[host] = None
            if len(self._answering) > REMEMBERED:
                del self._answering[next(iter(self._answering))]
        if queue.answers is not answers:
            self._strangers_under_way += queue.under_way if queue.answers else -queue.under_way
            queue.answers = answers

    def _line_up(self, host: str, queue: _OfHost[T]) -> None:
        if queue.waiting and queue.under_way < self._a_host:
            self._turns_of(queue)[queue.under_way].setdefault(host)

    def _look_for_room(self, host: str, queue: _OfHost[T]) -> None:
        """Once half of what was full is empty, there may be more."""
        if host in self._refused and len(queue.waiting) <= self._longest // 2:
            self._refused.discard(host)
            self.wants_more = True
        if self._full and self.waiting <= self._most // 2:
            self._full = False
            self.wants_more = True
