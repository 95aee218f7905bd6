"""Who may speak to us: a page of another site may not, whatever name it has given our address."""

import ipaddress
import re
from collections.abc import Collection, Sequence
from typing import Final

from asynctask.problems import CLOSE, Forbidden, Invalid

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
LONGEST: Final = 200
"""Characters of a field that are told back."""

_HOST: Final = re.compile(rb"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{0,5}))?")
CHANGING: Final = frozenset({b"POST", b"DELETE"})
"""Methods that a browser may be made to send by a page of another site."""


def check_host(hosts: Sequence[bytes], version: bytes, came_in_on: str, names: Collection[str]) -> None:
    """Refuse a name that is not ours: it may be another's that was pointed at us (DNS rebinding).

    :param hosts: every ``Host`` field of the request.
    :param version: of HTTP, as the request has it.
    :param came_in_on: the address of this end of the connection.
    :param names: further names that we have, as `split_host` gives them.
    :raises Invalid: there is not exactly one (RFC 9112 §3.2); HTTP/1.0 needs none.
    :raises Forbidden: the name is not ours.
    """
    if not hosts and version == b"HTTP/1.0":
        return
    if len(hosts) != 1:
        raise Invalid("The request must have exactly one Host", headers=CLOSE)
    name, _ = split_host(hosts[0])
    if name and (is_loopback(name) or name == _shortest(came_in_on) or name in names):
        return
    raise Forbidden("This name is not one of the service's; allow it with --host")


def check_origin(
    method: bytes, host: bytes, origins: Sequence[bytes], fetch_sites: Sequence[bytes]
) -> None:
    """Refuse to be changed by a page of another site.

    :raises Forbidden: ``Sec-Fetch-Site`` or ``Origin`` says that this is one.
    """
    if method not in CHANGING:
        return
    if any(site.strip().lower() not in (b"same-origin", b"none") for site in fetch_sites):
        raise Forbidden("A page of another site may not do this (Sec-Fetch-Site)")
    for origin in origins:
        if not _same_site(origin, host):
            theirs, ours = (text.decode("latin-1")[:LONGEST] for text in (origin, host))
            raise Forbidden(
                f"A page of another site may not do this (its Origin is {theirs}, and the Host {ours}; "
                "a proxy has to pass on the Host that the page has)"
            )


def split_host(host: bytes) -> tuple[str, int | None]:
    """Name and port of a ``Host`` (RFC 9110 §7.2), an address in its shortest form.

    :returns: an empty name where it is malformed, and no port where none is given.
    """
    parts = _HOST.fullmatch(host.strip())
    if parts is None:
        return "", None
    name, port = parts["name"].decode("ascii").lower(), parts["port"]
    if name.startswith("["):
        try:
            name = _shortest(ipaddress.IPv6Address(name[1:-1]).compressed)
        except ValueError:
            return "", None
    return name, int(port) if port else None


def _shortest(address: str) -> str:
    """An IP address in its one shortest form, IPv4 where it is that; any other text as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address.lower()
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _same_site(origin: bytes, host: bytes) -> bool:
    scheme, _, authority = origin.strip().lower().partition(b"://")
    default = DEFAULT_PORTS.get(scheme.decode("latin-1"))
    if default is None:
        return False
    theirs, their_port = split_host(authority)
    ours, our_port = split_host(host)
    their_port = default if their_port is None else their_port
    our_port = default if our_port is None else our_port
    return bool(theirs) and (theirs, their_port) == (ours, our_port)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, and reached from it only."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"
