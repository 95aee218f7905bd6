"""Who is next: a queue for each host, so that one that is slow or dead keeps no other waiting. Pure."""

from collections import deque
from enum import IntEnum
from typing import Final, Generic, TypeVar

from msgspec import Struct, field

AT_ONCE: Final = 64
"""Deliveries under way in all."""

PART: Final = 4
"""One in so many of these is kept for hosts that answered the last time. As many more are kept from those
that did not: any number of receivers may hang."""

REMEMBERED: Final = 10_000
"""Hosts of which it is known that they answer, and as many that do not: some MiB."""

A_HOST: Final = 4
"""Deliveries under way to one host."""

LONGEST: Final = 1_000
"""What waits for one host here; the rest of it stays in the store."""

MOST: Final = 20_000
"""What waits here in all: some MiB."""

T = TypeVar("T")


class _Known(IntEnum):
    """What is known of a host: whether it answered the last time, if it was asked."""

    NOTHING = 0
    SILENT = 1
    ANSWERS = 2


class _OfHost(Struct, Generic[T]):
    known: _Known
    waiting: deque[T] = field(default_factory=deque)
    under_way: int = 0


class FairQueue(Generic[T]):
    """What waits for each host, and how much is under way.

    A host with fewer deliveries under way comes first, and of those the one that has waited longest:
    the free place that a dead host leaves goes to whoever has none. A host at its limit holds no place.
    Hosts that did not answer the last time get half of all places, and with those that were never asked
    three in four.

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
        # Hosts with something waiting, by how much of theirs is under way and what is known of them; dicts
        # for their order.
        self._turns: list[list[dict[str, None]]] = [[{} for _ in _Known] for _ in range(a_host)]
        self._under_way = [0 for _ in _Known]
        self._answering: dict[str, None] = {}
        self._silent: dict[str, None] = {}
        self._refused: set[str] = set()
        self._full = False

    def recall(self, host: str) -> None:
        """Know of a host that it has answered, before anything is put in."""
        self._answering[host] = None

    def put(self, host: str, item: T, *, again: bool = False) -> bool:
        """Let something wait for its turn; False if there is no room for it.

        :param again: whether it was tried before, so that the host has not answered, for all that is known.
        """
        queue = self._queues.get(host)
        # What hangs is not to keep out what would be on its way at once.
        is_next = host in self._answering and (queue is None or len(queue.waiting) < self._a_host)
        if self.waiting >= self._most and not is_next:
            self._full = True
            return False
        if queue is None:
            queue = self._queues[host] = _OfHost(self._known(host, again=again))
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

        :param answers: whether the host has answered; None if it was not asked, or was not waited for.
        """
        queue = self._queues[host]
        if queue.waiting and queue.under_way < self._a_host:
            del self._turns[queue.under_way][queue.known][host]
        self._count(queue, -1)
        if answers is not None:
            self._remember(host, queue, answers=answers)
        if not queue.waiting and not queue.under_way:
            del self._queues[host]
        else:
            self._line_up(host, queue)

    def _next_turn(self) -> dict[str, None] | None:
        """The hosts of which one is next."""
        part = self._at_once // PART
        silent = self._under_way[_Known.SILENT]
        left = self._at_once - part - silent - self._under_way[_Known.NOTHING]
        # In the order of `_Known`: however many strangers there are, there are places that they do not get.
        may = (left > 0, left > 0 and silent < self._at_once - 2 * part, True)
        for level in self._turns:
            for turn, may_begin in zip(level, may, strict=True):
                if turn and may_begin:
                    return turn
        return None

    def _known(self, host: str, *, again: bool) -> _Known:
        if host in self._answering:
            return _Known.ANSWERS
        return _Known.SILENT if again or host in self._silent else _Known.NOTHING

    def _count(self, queue: _OfHost[T], more: int) -> None:
        queue.under_way += more
        self.under_way += more
        self._under_way[queue.known] += more

    def _remember(self, host: str, queue: _OfHost[T], *, answers: bool) -> None:
        now, before = (self._answering, self._silent) if answers else (self._silent, self._answering)
        before.pop(host, None)
        now.pop(host, None)
        now[host] = None
        if len(now) > REMEMBERED:
            del now[next(iter(now))]
        self._under_way[queue.known] -= queue.under_way
        queue.known = _Known.ANSWERS if answers else _Known.SILENT
        self._under_way[queue.known] += queue.under_way

    def _line_up(self, host: str, queue: _OfHost[T]) -> None:
        if queue.waiting and queue.under_way < self._a_host:
            self._turns[queue.under_way][queue.known].setdefault(host)

    def _look_for_room(self, host: str, queue: _OfHost[T]) -> None:
        """Once half of what was full is empty, there may be more."""
        if host in self._refused and len(queue.waiting) <= self._longest // 2:
            self._refused.discard(host)
            self.wants_more = True
        if self._full and self.waiting <= self._most // 2:
            self._full = False
            self.wants_more = True
