"""Which addresses a callback may reach: the public ones, and what the operator names. Pure."""

from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""All that IPv6 has given out so far (RFC 4291 §2.4); fec0::, fc00:: and their like lie outside."""

NAT64: Final = IPv6Network("64:ff9b::/96")
"""IPv4 behind a translator (RFC 6052 §2.1). Its local sibling 64:ff9b:1::/48 is not public."""

INTERNAL: Final[tuple[Network, ...]] = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments (RFC 6890); a cloud has its metadata there
    IPv4Network("168.63.129.16/32"),  # the platform behind each machine of another cloud
    IPv4Network("192.88.99.0/24"),  # relays of 6to4, abandoned (RFC 7526)
    IPv6Network("3fff::/20"),  # documentation (RFC 9637), younger than Python's tables
)
"""What `ipaddress` takes for public, and nobody's receiver has."""

_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)
"""Upper half of an interface's number that ends in an IPv4 address (RFC 5214 §6.1)."""


class NotAnAddressError(ValueError):
    """What was given names no address, network or host; the message is the end of a sentence."""


class Allowed:
    """What callbacks may reach besides public addresses.

    :param named: IP addresses, networks (CIDR) and host names.
    :raises NotAnAddressError: one of them is none of these.
    """

    def __init__(self, named: Iterable[str] = ()) -> None:
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for one in named:
            self._add(one)

    def _add(self, given: str) -> None:
        bare = given[1:-1] if given.startswith("[") and given.endswith("]") else given
        try:
            self._networks.append(ip_network(bare))
            return
        except ValueError as error:
            if "host bits" in str(error):
                wider = ip_network(bare, strict=False)
                raise NotAnAddressError(f"not '{given}', which has bits behind its mask: {wider}") from None
        name = normal_host(given)
        if not is_host_name(name):
            raise NotAnAddressError(f"not '{given}'")
        self._hosts.add(name)

    def permits(self, host: str, addresses: Iterable[str]) -> bool:
        """Whether a host may be reached at these addresses: at all of them, or at none.

        :param host: as the URL names it.
        :param addresses: what it resolves to.
        """
        return normal_host(host) in self._hosts or all(map(self.permits_address, addresses))

    def permits_address(self, text: str) -> bool:
        """Whether anybody's callback may go to this address."""
        try:
            address = ip_address(text)
        except ValueError:
            return False
        within = list(embedded(address))
        if self._is_named(address) or (within and all(map(self._is_named, within))):
            return True
        return is_public(address)

    def _is_named(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def is_public(address: Address) -> bool:
    """Whether everybody on the Internet could reach it, and any IPv4 address that is in it."""
    if any(address in network for network in INTERNAL):
        return False
    within = list(embedded(address))
    if isinstance(address, IPv6Address) and (address in NAT64 or address.ipv4_mapped is not None):
        return all(map(is_public, within))
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, IPv6Address) and (address not in GLOBAL_UNICAST or address.scope_id):
        return False
    return all(map(is_public, within))


def embedded(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that may be reached by way of an IPv6 one."""
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    number = int(address)
    if address in NAT64 or (number >> 32 & 0xFFFF_FFFF) in _ISATAP:
        yield IPv4Address(number & 0xFFFF_FFFF)


def normal_host(host: str) -> str:
    """A host's name as it is compared: case and a dot at the end mean nothing."""
    return host.lower().removesuffix(".")


def is_host_name(name: str) -> bool:
    """Whether it is made of labels as DNS has them, underscores included, and no address or part of one."""
    labels = name.split(".")
    if len(name) > 253 or labels[-1].isdecimal():
        return False
    return all(
        0 < len(label) <= 63
        and label.isascii()
        and label.replace("-", "").replace("_", "").isalnum()
        and label[0] != "-" != label[-1]
        for label in labels
    )
