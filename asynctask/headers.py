"""Header fields of requests, read. Pure."""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from asynctask.problems import Invalid

MAX_KEY: Final = 255
MAX_WAIT: Final = 50
"""Seconds that a client may wait: less than the minute after which proxies give up."""

_TRACEPARENT: Final = re.compile(
    "(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_PREFERENCE: Final = re.compile(r'(?:"(?:\\.|[^"\\])*(?:"|\\?\Z)|[^",])+', re.DOTALL)
"""Up to a comma outside of quotes; one without an end goes on to the end, and is not looked for again."""
_WAIT: Final = re.compile(r'wait\s*=\s*(?:"([0-9]+)"|([0-9]+))\s*(?:;.*)?', re.IGNORECASE | re.DOTALL)
_QUALITY: Final = re.compile(r"q=[01](\.[0-9]{0,3})?")
_ETAG: Final = re.compile(r'(?:W/)?("[^"]*")')


def parse_traceparent(value: str) -> str | None:
    """A trace's parent (W3C Trace Context §3.2); one that is malformed, or empty, counts for nothing.

    What a later version of the standard has behind the fields of this one is left out (§3.2.4).
    """
    found = _TRACEPARENT.match(value)
    if found is None:
        return None
    more = value[found.end() :]
    return found[0] if not more or (more[0] == "-" and not value.startswith("00")) else None


def parse_last_event_id(values: Sequence[str]) -> str | None:
    """Where a client was (WHATWG HTML §9.2.4); what is given twice is no cursor of ours."""
    return ",".join(values) or None


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
        for preference in _PREFERENCE.findall(value):
            if found := _WAIT.fullmatch(preference.strip()):
                digits = (found[1] or found[2]).lstrip("0")[:9]  # more are no less
                return min(int(digits or 0), MAX_WAIT)
    return None


def wants_openmetrics(values: Sequence[str]) -> bool:
    """Whether an ``Accept`` names OpenMetrics, and likes it no less than plain text (RFC 9110 §12.5.1)."""
    likes = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for value in ",".join(values).lower().split(","):
        media_type, *parameters = (part.strip() for part in value.split(";"))
        if media_type in likes:
            quality = next((each for each in parameters if each.startswith("q=")), "q=1")
            like = float(quality[2:]) if _QUALITY.fullmatch(quality) else 0.0
            likes[media_type] = max(like, likes[media_type])
    return 0 < likes["application/openmetrics-text"] >= likes["text/plain"]


def etag(body: bytes) -> str:
    """A strong validator of a body (RFC 9110 §8.8.3)."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(tag: str, if_none_match: str) -> bool:
    """Whether the client has this already (RFC 9110 §13.1.2); where it says nothing, it has not."""
    return if_none_match.strip() == "*" or tag in _ETAG.findall(if_none_match)
