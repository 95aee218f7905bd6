"""The URL of a callback: what is one, and its host. Pure."""

import re
from typing import Final
from urllib.parse import urlsplit

MAX_URL: Final = 2_048
"""Characters of a URL: what servers and proxies are known to take."""

_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = rf"(?:{_LABEL}\.)*{_LABEL}\.?"
_PORT: Final = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
_H16: Final = "[0-9A-Fa-f]{1,4}"
_BYTE: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"


def _ipv6() -> str:
    """An IPv6 address (RFC 3986 §3.2.2), which may end as an IPv4 one: each way to leave groups out."""
    forms = [f"(?:{_H16}:){{7}}{_H16}", f"(?:{_H16}:){{1,7}}:", f":(?::{_H16}){{1,7}}", "::"]
    forms += [f"(?:{_H16}:){{1,{n}}}(?::{_H16}){{1,{7 - n}}}" for n in range(1, 7)]
    dotted = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
    forms += [f"(?:{_H16}:){{6}}{dotted}", f"::(?:{_H16}:){{0,5}}{dotted}"]
    forms += [f"(?:{_H16}:){{1,{n}}}(?::{_H16}){{0,{5 - n}}}:{dotted}" for n in range(1, 6)]
    return f"(?:{'|'.join(forms)})"


URL: Final = (
    rf"^[Hh][Tt][Tt][Pp][Ss]?://(?:{_NAME}|\[{_ipv6()}\])(?::{_PORT})?"
    r"(?:[/?#](?:[!#$&-;=?-\[\]_a-z~]|%[0-9A-Fa-f]{2})*)?$"
)
"""An absolute URL of ours (RFC 3986), as a pattern that JSON Schema knows too."""

_URL: Final = re.compile(URL.removeprefix("^").removesuffix("$"))


def is_callback_url(text: str) -> bool:
    """Whether it is an absolute http or https URL with a host and no user in it."""
    return len(text) <= MAX_URL and _URL.fullmatch(text) is not None


def host_of(url: str) -> str:
    """The host of such a URL, in lower case and without brackets."""
    return urlsplit(url).hostname or ""
