"""The head of a request, from its bytes: as strict as RFC 9112 allows. Pure.

llhttp reads the fields, and we read the first line, since llhttp knows a fixed list of methods and no URL
with a letter beyond ASCII. What some of its versions let pass is refused before it sees it: lines that end
without CR, folded fields, NUL.
"""

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from asynctask.problems import CLOSE, HeadTooLarge, Invalid

MAX_HEAD: Final = 16 * 1024
"""Bytes of a head with its last empty line: what proxies and servers usually take."""

MAX_FIELDS: Final = 100
"""Fields of a head."""

END: Final = b"\r\n\r\n"

NO_LINE: Final = "its first line is not 'METHOD target HTTP/1.1'"

CHUNKED: Final = -1
"""The length of a body that comes in chunks."""

_START: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00-\x20\x7f]+) HTTP/1\.([01])")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"[0-9]{1,40}")
_LLHTTPS_LINE: Final = b"GET / HTTP/1.1\r\n"


class Head:
    """What the head of a request says.

    :ivar uri: the target without scheme and host, as it came.
    :ivar path: the target without its query, as it came.
    :ivar version: ``HTTP/1.1`` or ``HTTP/1.0``.
    :ivar fields: the values of each field by its name in lower case; not to be changed.
    :ivar length: bytes of the body, or `CHUNKED`.
    :ivar persistent: whether the connection may have another request.
    :ivar expects: whether the client waits to be asked for the body, or has another expectation.
    :ivar allowed: free for whoever has checked it, since the same head comes again and again.
    """

    __slots__ = (
        *("method", "uri", "path", "version", "fields"),
        *("length", "persistent", "expects", "allowed"),
    )

    def __init__(self, method: bytes, uri: bytes, version: bytes, fields: dict[bytes, list[bytes]]) -> None:
        self.method = method
        self.version = version
        self.fields = fields
        self.uri = self._origin_form(uri)
        self.path = self.uri.partition(b"?")[0]
        self.length = self._length()
        words = b",".join(fields.get(b"connection", ())).lower().replace(b",", b" ").split()
        self.persistent = b"close" not in words and (version == b"HTTP/1.1" or b"keep-alive" in words)
        self.expects = version == b"HTTP/1.1" and b"expect" in fields
        self.allowed = False

    def _origin_form(self, uri: bytes) -> bytes:
        """The target without a host: one that it names is the request's (RFC 9112 §3.2.2)."""
        if uri.startswith(b"/") or (uri == b"*" and self.method == b"OPTIONS"):
            return uri
        parts = _ABSOLUTE.fullmatch(uri)
        if parts is None:
            raise malformed("its target is neither a path nor a URL")
        hosts = len(self.fields.get(b"host", ()))
        if hosts == 1 or (hosts == 0 and self.version == b"HTTP/1.0"):
            self.fields[b"host"] = [parts[1]]
        return parts[2] if parts[2].startswith(b"/") else b"/" + parts[2]

    def _length(self) -> int:
        """How long the body is; where two could read it in two ways, nobody reads it (RFC 9112 §6.3)."""
        codings, lengths = self.fields.get(b"transfer-encoding"), self.fields.get(b"content-length")
        if codings is not None:
            if lengths is not None:
                raise malformed("it has both Content-Length and Transfer-Encoding")
            if self.version != b"HTTP/1.1" or [each.lower() for each in codings] != [b"chunked"]:
                raise malformed("a Transfer-Encoding is 'chunked' alone, and of HTTP/1.1")
            return CHUNKED
        if lengths is None:
            return 0
        if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
            raise malformed("a Content-Length is one number")
        return int(lengths[0])


def malformed(why: str) -> Invalid:
    """What is no HTTP is refused, and nothing that comes after it can be trusted."""
    return Invalid(f"The request is malformed: {why}", headers=CLOSE)


def parse(raw: bytes) -> Head:
    """Read a whole head, with the empty line at its end.

    :raises Invalid: it is malformed.
    :raises HeadTooLarge: it has too many fields.
    """
    lines = raw.count(b"\r\n")
    if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
        raise malformed("a line of the head does not end with CR and LF")
    if b"\0" in raw:
        raise malformed("its head has a NUL character")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise malformed("a field of the head is folded")
    end = raw.index(b"\r\n")
    line = _LINE.fullmatch(raw, 0, end)
    if line is None:
        raise malformed(NO_LINE)
    if lines - 2 > MAX_FIELDS:
        raise HeadTooLarge(f"The head must have at most {MAX_FIELDS} fields", headers=CLOSE)
    version = b"HTTP/1.1" if line[3] == b"1" else b"HTTP/1.0"
    return Head(line[1], line[2], version, _fields(raw[end + 2 :]))


def check_beginning(begun: bytes) -> None:
    """Look at a head of which only the first bytes have come.

    :raises Invalid: no head can come of them.
    :raises HeadTooLarge: it is over the limit already.
    """
    lines = begun.count(b"\r\n", 0, MAX_HEAD)
    line_feeds, returns = begun.count(b"\n", 0, MAX_HEAD), begun.count(b"\r", 0, MAX_HEAD)
    if line_feeds != lines or returns - begun[:MAX_HEAD].endswith(b"\r") != lines:
        raise malformed("a line of the head does not end with CR and LF")
    if not _START.match(begun):
        raise malformed("it does not begin with a method")
    if lines and not _LINE.fullmatch(begun, 0, begun.index(b"\r\n")):
        raise malformed(NO_LINE)
    if len(begun) >= MAX_HEAD:
        raise HeadTooLarge(f"The head must have at most {MAX_HEAD} bytes", headers=CLOSE)


class _Fields:
    """What llhttp tells of the fields."""

    __slots__ = ("found", "whole")

    def __init__(self) -> None:
        self.found: dict[bytes, list[bytes]] = {}
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        values = self.found.setdefault(name.lower(), [])
        values.append(value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self.whole = True


def _fields(raw: bytes) -> dict[bytes, list[bytes]]:
    """The fields of a head without its first line."""
    fields = _Fields()
    try:
        HttpRequestParser(fields).feed_data(_LLHTTPS_LINE + raw)
    except HttpParserUpgrade:  # to what we do not speak: it is passed over
        pass
    except HttpParserError as error:
        raise malformed(str(error)) from None
    if not fields.whole:
        raise malformed("its head has no end")
    return fields.found
