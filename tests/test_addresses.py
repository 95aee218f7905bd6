"""Which addresses callbacks may reach."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.addresses import Allowed, NotAnAddressError, embedded, is_public

PUBLIC = ("8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00::1")

INTERNAL = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    *("198.18.0.1", "192.0.2.1", "224.0.0.1", "224.0.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
    *("ff0e::1", "100::1", "2001:db8::1", "3fff::1", "64:ff9b:1::808:808", "2606:4700::1%eth0"),
)

HIDING = (
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    *("2001:0:808:808::80ff:fffe", "2001:0:7f00:1::f7f7:f7f7", "2606:4700::5efe:a00:1"),
)
"""IPv6 addresses that lead to internal IPv4 ones."""

any_ipv4 = st.ip_addresses(v=4)


class PublicTests(SynchronousTestCase):
    """Without any option."""

    def test_public_ones_are_reached(self) -> None:
        for address in PUBLIC:
            self.assertTrue(Allowed().permits("receiver.example", [address]), address)

    def test_internal_ones_are_not(self) -> None:
        for address in (*INTERNAL, *HIDING):
            self.assertFalse(Allowed().permits("receiver.example", [address]), address)

    def test_what_is_no_address_is_not(self) -> None:
        for text in ("", "localhost", "0x7f000001", "127.1", "1.2.3.4.5"):
            self.assertFalse(Allowed().permits("receiver.example", [text]), text)

    def test_one_internal_address_among_public_ones_is_one_too_many(self) -> None:
        self.assertTrue(Allowed().permits("receiver.example", PUBLIC))
        self.assertFalse(Allowed().permits("receiver.example", [*PUBLIC, "10.0.0.1"]))

    @given(any_ipv4)
    def test_an_ipv4_address_in_an_ipv6_one_is_as_public_as_it_is_alone(self, address: IPv4Address) -> None:
        assert isinstance(address, IPv4Address)
        for text in (f"::ffff:{address}", f"64:ff9b::{address}"):
            self.assertEqual(is_public(ip_address(text)), is_public(address), text)
        number = int(address)
        sixtofour = IPv6Address((0x2002 << 112) | (number << 80))
        self.assertIn(address, list(embedded(sixtofour)))
        self.assertFalse(is_public(sixtofour) and not is_public(address))

    @given(st.ip_addresses())
    def test_nothing_is_public_that_python_knows_to_be_otherwise(
        self, address: IPv4Address | IPv6Address
    ) -> None:
        if is_public(address):
            for one in (address, *embedded(address)):
                self.assertFalse(one.is_loopback or one.is_link_local or one.is_multicast)


class NamedTests(SynchronousTestCase):
    """What ``--callbacks-to`` names."""

    def permits(self, named: str, host: str, *addresses: str) -> bool:
        return Allowed([named]).permits(host, addresses)

    def test_an_address(self) -> None:
        self.assertTrue(self.permits("10.0.0.1", "a.example", "10.0.0.1"))
        self.assertFalse(self.permits("10.0.0.1", "a.example", "10.0.0.2"))
        self.assertTrue(self.permits("[::1]", "a.example", "::1"))

    def test_a_network(self) -> None:
        self.assertTrue(self.permits("10.0.0.0/8", "a.example", "10.1.2.3", "8.8.8.8"))
        self.assertFalse(self.permits("10.0.0.0/8", "a.example", "10.1.2.3", "192.168.1.1"))
        self.assertTrue(self.permits("fd00::/8", "a.example", "fd00::1"))

    def test_a_network_by_way_of_ipv6(self) -> None:
        for address in ("::ffff:10.0.0.1", "64:ff9b::10.0.0.1"):
            self.assertTrue(self.permits("10.0.0.0/8", "a.example", address), address)
            self.assertFalse(self.permits("192.168.0.0/16", "a.example", address), address)

    def test_a_host_wherever_it_is(self) -> None:
        for host in ("internal.example", "INTERNAL.example", "internal.example."):
            self.assertTrue(self.permits("Internal.Example", host, "10.0.0.1", "::1"), host)
        for host in ("a.internal.example", "example", "internal.example.com"):
            self.assertFalse(self.permits("internal.example", host, "10.0.0.1"), host)

    def test_all_that_is_named_counts(self) -> None:
        allowed = Allowed(["127.0.0.1", "10.0.0.0/8", "localhost"])
        self.assertTrue(allowed.permits("a.example", ["127.0.0.1", "10.0.0.1"]))
        self.assertTrue(allowed.permits("localhost", ["::1"]))

    def test_bits_behind_the_mask_are_a_mistake(self) -> None:
        refusal = self.assertRaises(NotAnAddressError, Allowed, ["10.0.0.1/8"])
        self.assertIn("10.0.0.0/8", str(refusal))

    def test_a_host_has_a_name_as_long_as_dns_has_them(self) -> None:
        longest = ".".join(["a" * 63] * 3 + ["a" * 61])
        self.assertTrue(self.permits(longest, longest, "10.0.0.1"))
        for wrong in (longest + "a", "a" * 64):
            self.assertRaises(NotAnAddressError, Allowed, [wrong])

    def test_what_names_nothing_is_refused(self) -> None:
        for wrong in ("", "a b", "a/b", "a:80", "10.0.0.0/33", "999.1.1.1", "1.2.3", "http://a", "-a", "ä"):
            self.assertIn(f"'{wrong}'", str(self.assertRaises(NotAnAddressError, Allowed, [wrong])))
