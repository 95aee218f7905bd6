"""Server-Sent Events (WHATWG HTML §9.2), as asynctask sends them, and the cursors in them. Pure."""

import json
import re
from typing import Final

from msgspec import Struct

from asynctask import wire
from asynctask.model import Deleted, News, Progress, Status, Task

COMMENT: Final = b":\n"
"""Tells that the connection lives. No empty line follows, or some clients would make it an event."""

COMMENT_EVERY: Final = 15.0
"""Seconds after which one is sent: proxies close connections that are silent."""

_BEYOND_ASCII: Final = re.compile("[^\x00-\x7f]+")
_POSITION: Final = re.compile(r"([0-9a-f]{1,32})\.([0-9]{1,18})\.([0-9]{1,9})")
_COUNT: Final = re.compile(r"([0-9a-z]{1,32})\.([0-9]{1,9})")


class Position(Struct, frozen=True, order=True):
    """Where a follower of all tasks goes on: with which commit, and which of its changes."""

    seq: int
    index: int = 0


class Progressed(Struct, frozen=True, gc=False):
    """What a running attempt has told of itself."""

    task_id: str
    kind: str
    attempt: int
    progress: Progress


class Filter(Struct, frozen=True):
    """What a follower wants to hear of; ``statuses`` without any means all."""

    kind: str | None = None
    statuses: tuple[Status, ...] = ()

    def passes(self, news: News | Progressed) -> bool:
        """Whether it wants to hear of this."""
        if self.kind is not None and news.kind != self.kind:
            return False
        if not self.statuses or isinstance(news, Deleted):
            return True
        return (news.status if isinstance(news, Task) else Status.RUNNING) in self.statuses


def event(news: News | Progressed, identity: str | None = None) -> bytes:
    """One event.

    :param identity: its id; progress has none.
    """
    if isinstance(news, Task):
        return _frame(b"change", bytes(wire.task_json(news, whole=False)), identity)
    if isinstance(news, Deleted):
        return _frame(b"deleted", wire.encode({"task_id": news.task_id}), identity)
    told = {"task_id": news.task_id, "attempt": news.attempt, "progress": news.progress}
    return _frame(b"progress", wire.encode(told), None)


def reset(identity: str) -> bytes:
    """Tells that what was asked for is no longer kept.

    :param identity: the present position.
    """
    return _frame(b"reset", b"{}", identity)


def _frame(name: bytes, data: bytes, identity: str | None) -> bytes:
    last = b"" if identity is None else b"id: %b\n" % identity.encode()
    return b"event: %b\ndata: %b\n%b\n" % (name, data if data.isascii() else _in_ascii(data), last)


def _in_ascii(data: bytes) -> bytes:
    """JSON with escapes, for clients that take text for Latin-1, or U+2028 and U+0085 for ends of lines."""
    return _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], data.decode()).encode()


def position_id(epoch: str, position: Position) -> str:
    """The cursor of a follower of all tasks."""
    return f"{epoch}.{position.seq}.{position.index}"


def parse_position(text: str, epoch: str) -> Position | None:
    """Read such a cursor; None for one that is malformed or of another database."""
    found = _POSITION.fullmatch(text)
    if found is None or found[1] != epoch:
        return None
    return Position(int(found[2]), int(found[3]))


def count_id(task_id: str, told: int) -> str:
    """The cursor of a follower of one task.

    :param told: how many of its changes were told.
    """
    return f"{task_id[-16:]}.{told}"


def parse_count(text: str, task_id: str) -> int | None:
    """Read such a cursor; None for one that is malformed or of another task."""
    found = _COUNT.fullmatch(text)
    if found is None or found[1] != task_id[-16:]:
        return None
    return int(found[2])
