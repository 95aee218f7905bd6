"""Which URLs a callback may have."""

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI

from asynctask.agents import AsGiven
from asynctask.urls import MAX_URL, URL, host_of, is_callback_url

GOOD = (
    *("http://a", "https://a.example/", "HTTPS://A.Example:8443/x/y?z=1&a[]=%20#f", "http://127.0.0.1:1/"),
    *("http://[::1]:80/", "http://[fec0::1]", "http://[1:2:3:4:5:6:7:8]/", "http://a_b.example./"),
    *("http://localhost:65535?x", "http://a/?url=http://b@c/", "http://0x7f.1/"),
)
BAD = (
    *("", "a", "/x", "//a/", "http:a", "http:/a", "http://", "http:///x", "http://:80/", "ftp://a/"),
    *("http://user@a/", "http://user:password@a/", "http://@a/", "http://a:0/", "http://a:65536/"),
    *(
        "http://a:80b/",
        "http://a..b/",
        "http://.a/",
        "http://-a/",
        "http://a b/",
        "http://a/ b",
        " http://a",
    ),
    *(
        "http://a\n",
        "http://a/\x00",
        "http://a/\\b",
        "http://a\\@b/",
        "http://a/%zz",
        "http://ä/",
        "http://a/ä",
    ),
    *("http://[::1/", "http://[1:2]/", "http://[::1]a/", "http://[fe80::1%25eth0]/", "http://[v1.a]/"),
    *("javascript:alert(1)", "http://a%2eb/", f"http://{'a' * 64}/", 'http://a/"'),
)


class UrlTests(SynchronousTestCase):
    """Their syntax."""

    def test_an_absolute_url_with_a_host(self) -> None:
        for url in GOOD:
            self.assertTrue(is_callback_url(url), url)

    def test_anything_else(self) -> None:
        for url in BAD:
            self.assertFalse(is_callback_url(url), url)

    def test_its_length(self) -> None:
        longest = "http://a/" + "b" * (MAX_URL - len("http://a/"))
        self.assertTrue(is_callback_url(longest))
        self.assertFalse(is_callback_url(longest + "b"))

    @given(st.ip_addresses(v=6))
    def test_every_ipv6_address_is_a_host(self, address: IPv6Address) -> None:
        for text in (address.compressed, address.exploded, address.compressed.upper()):
            self.assertTrue(is_callback_url(f"http://[{text}]/"), text)

    @given(st.ip_addresses(v=6), st.ip_addresses(v=4))
    def test_it_may_end_as_an_ipv4_address(self, address: IPv6Address, end: IPv4Address) -> None:
        self.assertTrue(is_callback_url(f"http://[{address.exploded[:30]}{end}]/"))
        self.assertTrue(is_callback_url(f"http://[::ffff:{end}]/"))

    @given(
        st.text("0123456789abcdefF:", max_size=12)
        | st.lists(st.sampled_from((":", "::", "1:", "abcd:", "1.2.3.4", "0.0.0.256", "ffff"))).map("".join)
    )
    def test_nothing_else_in_brackets_is_one(self, text: str) -> None:
        try:
            sound = IPv6Address(text) is not None
        except ValueError:
            sound = False
        self.assertEqual(is_callback_url(f"http://[{text}]/"), sound)

    @given(st.from_regex(re.compile(URL, re.ASCII), fullmatch=True))
    def test_whoever_reads_it_finds_the_same_host(self, url: str) -> None:
        self.assertTrue(is_callback_url(url) or len(url) > MAX_URL)
        sent = AsGiven.from_text(url).to_uri().to_text()
        for found in (urlsplit(sent).hostname, URI.fromBytes(sent.encode()).host.decode().lower()):
            self.assertEqual(host_of(url), found)
        self.assertNotIn("@", urlsplit(sent).netloc)

    def test_a_host_is_told_without_its_case_and_brackets(self) -> None:
        self.assertEqual(host_of("HTTPS://A.Example:8443/x"), "a.example")
        self.assertEqual(host_of("http://[::1]:80/"), "::1")
