"""Header fields of requests, read. Pure."""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from asynctask.model import Invalid

MAX_KEY: Final = 255
MAX_WAIT: Final = 50
"""Seconds that a client may wait: less than the minute after which proxies give up."""

_TRACEPARENT: Final = re.compile(
    "(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_WAIT: Final = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)
_ETAG: Final = re.compile(r'(?:W/)?("[^"]*")')


def parse_traceparent(value: str | None) -> str | None:
    """A trace's parent (W3C Trace Context §3.2); one that is malformed counts for nothing."""
    return value if value is not None and _TRACEPARENT.fullmatch(value) else None


def parse_key(values: Sequence[str]) -> str | None:
    """An ``Idempotency-Key``; with or without quotes it is the same.

    :raises Invalid: it is empty, too long, or given twice.
    """
    if not values:
        return None
    key = values[0].strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or not 1 <= len(key) <= MAX_KEY:
        raise Invalid(f"Idempotency-Key must be given once, with 1 to {MAX_KEY} characters")
    return key


def parse_wait(values: Sequence[str]) -> int | None:
    """The seconds of ``Prefer: wait=N`` (RFC 7240 §4.3), at most `MAX_WAIT`; other preferences pass."""
    for value in values:
        for preference in re.split("[,;]", value):
            if found := _WAIT.fullmatch(preference.strip()):
                return min(int(found[1]), MAX_WAIT)
    return None


def etag(body: bytes) -> str:
    """A strong validator of a body (RFC 9110 §8.8.3)."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(tag: str, if_none_match: str | None) -> bool:
    """Whether the client has this already (RFC 9110 §13.1.2)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in _ETAG.findall(if_none_match)
