"""A body on its way: of a known length, or in chunks (RFC 9112 §6.2, §7.1), read strictly. Pure."""

import re
from typing import Final

from asynctask.heads import malformed
from asynctask.problems import CLOSE, TooLarge

MAX_LINE: Final = 1_024
"""Bytes of a line that says how long a chunk is, with its extensions, or of a trailer field."""

MAX_ASIDE: Final = 16 * 1024
"""Bytes of extensions and trailers, none of which we read; a plain size is none of them."""

_PLAIN: Final = 16
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


def too_large(limit: int, headers: tuple[tuple[str, str], ...] = ()) -> TooLarge:
    """What a client is told whose body has more bytes than it may have."""
    return TooLarge(f"The body must have at most {limit} bytes", headers=headers)


class Sized:
    """Takes a body of a known length.

    :param length: its bytes.
    :ivar body: what has come of it.
    """

    def __init__(self, length: int) -> None:
        self.body = bytearray()
        self.missing = length

    def feed(self, data: bytes) -> bytes | None:
        """Take what has come.

        :returns: what comes after the body, once that is whole; None while it is not.
        """
        taken = data[: self.missing]
        self.body += taken
        self.missing -= len(taken)
        return None if self.missing else data[len(taken) :]


class Chunks:
    """Takes a body out of its chunks, however they are cut.

    :param limit: bytes that it may have.
    :param told: bytes that it may have, as its client is told.
    :ivar body: what has come of it.
    """

    def __init__(self, limit: int, told: int) -> None:
        self.body = bytearray()
        self._limit = limit
        self._told = told
        self._buffer = b""
        self._aside = 0
        self._left = 0
        """Bytes of the chunk that are missing, the CR and LF at its end included."""
        self._in_trailers = False

    def feed(self, data: bytes) -> bytes | None:
        """Take what has come.

        :returns: what comes after the body, once that is whole; None while it is not.
        :raises Invalid: it is malformed.
        :raises TooLarge: it is over the limit.
        """
        self._buffer = data = self._buffer + data
        at = 0
        while True:
            if self._left:
                taken = data[at : at + self._left]
                at += len(taken)
                self._take(taken)
                if self._left:
                    break
            end = data.find(b"\r\n", at, at + MAX_LINE + 2)
            if end < 0:
                self._check_beginning(data[at:])
                break
            line, at = data[at:end], end + 2
            if self._in_trailers and not line:
                self._buffer = b""
                return data[at:]
            self._begin(line)
        self._buffer = data[at:]
        return None

    def _take(self, taken: bytes) -> None:
        """Some bytes of the chunk, or of the CR and LF that end it."""
        body = max(0, self._left - 2)
        end = b"\r\n"[2 - min(2, self._left) :]
        self._left -= len(taken)
        self.body += taken[:body]
        if not end.startswith(taken[body:]):
            raise malformed("a chunk is not as long as it says")

    def _begin(self, line: bytes) -> None:
        """A line that says how long the next chunk is, or a trailer field."""
        self._aside += len(line) if self._in_trailers else max(0, len(line) - _PLAIN)
        if self._aside > MAX_ASIDE:
            raise malformed("its chunks have too much aside of the body")
        if self._in_trailers:
            if not _TRAILER.fullmatch(line):
                raise malformed("a field after its chunks is none")
            return
        size = _SIZE.fullmatch(line)
        if size is None:
            raise malformed("the size of a chunk is not one number in hexadecimal digits")
        length = int(size[1], 16)
        if len(self.body) + length > self._limit:
            raise too_large(self._told, CLOSE)
        self._in_trailers = not length
        self._left = length + 2 if length else 0

    def _check_beginning(self, begun: bytes) -> None:
        """A line that has not ended yet."""
        if len(begun) > MAX_LINE + 1 or b"\n" in begun or b"\r" in begun[:-1]:
            raise malformed("a line between its chunks has no end")
