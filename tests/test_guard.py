"""Who may speak to the service."""

import re
from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.guard import check_host, check_origin
from asynctask.problems import Forbidden, Invalid

CAME_IN_ON = "192.0.2.7"
NAMES = frozenset({"tasks.example"})

OURS = rb"localhost|127\.0\.0\.1|127\.255\.0\.42|\[::1\]|tasks\.example"
"""The names among `PIECES` that are always ours."""

PIECES = (
    *(b"localhost", b"LocalHost", b"127.0.0.1", b"127.255.0.42", b"[::1]", b"::1", b"192.0.2.7"),
    *(b"tasks.example", b"evil.example", b"0.0.0.0", b"[::]", b"[2001:db8::1]", b":80", b":8080"),
    *(b":", b".", b"@", b"/", b"?", b"#", b"%", b"[", b"]", b"\t", b" ", b"\\", b",", b"\xff", b"\0", b""),
)
pieces = st.sampled_from(PIECES)
hosts = st.binary(max_size=20) | st.tuples(pieces, pieces, pieces).map(b"".join)


def allowed(
    *hosts: bytes,
    version: bytes = b"HTTP/1.1",
    came_in_on: str = CAME_IN_ON,
    names: Collection[str] = NAMES,
) -> bool:
    try:
        check_host(hosts, version, came_in_on, names)
    except Forbidden:
        return False
    return True


class Host(SynchronousTestCase):
    """The name that a client knows us by."""

    def test_the_machine_itself_may_ask(self) -> None:
        for host in (b"localhost", b"127.0.0.1", b"127.1.2.3", b"[::1]"):
            self.assertTrue(allowed(host), host)

    def test_the_port_does_not_matter(self) -> None:
        for host in (b"localhost:80", b"127.0.0.1:8080", b"[::1]:65535", b"tasks.example:1", b"localhost:"):
            self.assertTrue(allowed(host), host)

    def test_the_case_does_not_matter(self) -> None:
        self.assertTrue(allowed(b"LOCALHOST"))
        self.assertTrue(allowed(b"Tasks.Example"))
        self.assertTrue(allowed(b"[2001:DB8::1]", came_in_on="2001:db8::1"))

    def test_the_address_that_the_connection_came_in_on_may_be_asked(self) -> None:
        self.assertTrue(allowed(b"192.0.2.7"))
        self.assertFalse(allowed(b"192.0.2.8"))
        self.assertTrue(allowed(b"[2001:db8::1]:8080", came_in_on="2001:db8::1"))

    def test_that_address_may_be_written_in_another_way(self) -> None:
        # What a socket on `::` says of a connection over IPv4.
        self.assertTrue(allowed(b"192.0.2.7:8080", came_in_on="::ffff:192.0.2.7"))
        self.assertTrue(allowed(b"[2001:db8:0::0:1]", came_in_on="2001:db8::1"))

    def test_a_name_of_the_operator_may_be_asked(self) -> None:
        self.assertTrue(allowed(b"tasks.example"))
        self.assertFalse(allowed(b"tasks.example", names=()))

    def test_another_name_is_refused(self) -> None:
        for host in (
            *(b"evil.example", b"evil.example:8080", b"localhost.evil.example", b"127.0.0.1.evil.example"),
            *(b"xtasks.example", b"tasks.example.", b"0.0.0.0", b"[::]", b"128.0.0.1", b"10.0.0.1"),
        ):
            self.assertFalse(allowed(host), host)

    def test_what_only_resembles_a_loopback_address_is_refused(self) -> None:
        for host in (
            b"127.1",
            b"2130706433",
            b"0x7f000001",
            b"127.0.0.1.",
            b"[127.0.0.1]",
            b"::1",
            b"[::1",
        ):
            self.assertFalse(allowed(host), host)

    def test_a_malformed_host_is_refused(self) -> None:
        for host in (
            *(b"", b":80", b"user@localhost", b"@localhost", b"localhost/", b"localhost/?", b"localhost:x"),
            *(b"localhost?", b"localhost#", b"local\thost", b"localhost,evil.example", b"local host"),
            *(b"[::1]evil.example", b"[::1].evil.example:80", b"evil.example[::1]", b"\xff", b"\0"),
        ):
            self.assertFalse(allowed(host), host)

    def test_a_malformed_host_is_refused_on_a_unix_socket_too(self) -> None:
        for host in (b"evil.example", b"evil.example/", b"user@evil.example", b"\xff"):
            self.assertFalse(allowed(host, came_in_on=""), host)

    @given(hosts, st.sampled_from([CAME_IN_ON, ""]))
    def test_only_our_names_are_ours(self, host: bytes, came_in_on: str) -> None:
        names = OURS + (b"|192\\.0\\.2\\.7" if came_in_on else b"")
        ours = re.fullmatch(rb"(%s)(:\d*)?" % names, host.strip(), re.IGNORECASE)
        self.assertEqual(allowed(host, came_in_on=came_in_on), ours is not None)

    def test_there_is_exactly_one_host(self) -> None:
        self.assertRaises(Invalid, allowed)
        for version in (b"HTTP/1.1", b"HTTP/1.0"):
            self.assertRaises(Invalid, allowed, b"localhost", b"localhost", version=version)

    def test_http_1_0_needs_no_host(self) -> None:
        self.assertTrue(allowed(version=b"HTTP/1.0"))

    def test_a_foreign_host_is_refused_over_http_1_0_too(self) -> None:
        self.assertFalse(allowed(b"evil.example", version=b"HTTP/1.0"))

    def test_the_refusal_says_what_to_do(self) -> None:
        with self.assertRaises(Forbidden) as caught:
            check_host([b"tasks.example"], b"HTTP/1.1", CAME_IN_ON, ())
        self.assertIn("--host", str(caught.exception))


def may_change(
    *origins: bytes,
    host: bytes = b"localhost:8080",
    site: bytes | None = None,
    method: bytes = b"POST",
) -> bool:
    try:
        check_origin(method, host, origins, [] if site is None else [site])
    except Forbidden:
        return False
    return True


class Origin(SynchronousTestCase):
    """The page that makes a browser ask."""

    def test_a_program_has_no_origin(self) -> None:
        self.assertTrue(may_change())

    def test_our_own_page_may_change(self) -> None:
        self.assertTrue(may_change(b"http://localhost:8080", site=b"same-origin"))
        self.assertTrue(may_change(b"http://[::1]:8080", host=b"[::1]:8080"))
        self.assertTrue(may_change(b"HTTP://LocalHost:8080", host=b"localhost:8080"))

    def test_a_port_that_goes_without_saying_may_be_said(self) -> None:
        self.assertTrue(may_change(b"http://localhost", host=b"localhost:80"))
        self.assertTrue(may_change(b"http://localhost:80", host=b"localhost"))
        self.assertTrue(may_change(b"https://tasks.example", host=b"tasks.example:443"))
        self.assertTrue(may_change(b"https://tasks.example", host=b"tasks.example"))

    def test_a_page_of_another_host_may_not(self) -> None:
        for origin in (
            b"http://evil.example:8080",
            b"http://127.0.0.1:8080",
            b"http://localhost.evil:8080",
        ):
            self.assertFalse(may_change(origin), origin)

    def test_a_refused_origin_and_the_host_that_it_is_not_are_told(self) -> None:
        with self.assertRaises(Forbidden) as caught:
            check_origin(b"POST", b"localhost:8080", [b"http://localhost:5173"], [])
        self.assertIn("Origin is http://localhost:5173, and the Host localhost:8080", str(caught.exception))
        with self.assertRaises(Forbidden) as caught:
            check_origin(b"POST", b"localhost", [b"x" * 9_000], [])
        self.assertLess(len(str(caught.exception)), 500)

    def test_a_page_of_another_port_may_not(self) -> None:
        self.assertFalse(may_change(b"http://localhost:3000"))
        self.assertFalse(may_change(b"http://localhost"))
        self.assertFalse(may_change(b"https://localhost", host=b"localhost:80"))
        self.assertFalse(may_change(b"http://localhost:0", host=b"localhost"))

    def test_an_origin_that_is_none_may_not(self) -> None:
        for origin in (
            *(b"null", b"", b"localhost:8080", b"http://", b"http://localhost:8080/", b"file://"),
            *(b"http://user@localhost:8080", b"ftp://localhost:8080", b"chrome-extension://localhost:8080"),
            *(b"http://localhost:8080 http://evil.example", b"\xff://localhost:8080"),
        ):
            self.assertFalse(may_change(origin), origin)

    def test_each_origin_counts(self) -> None:
        self.assertFalse(may_change(b"http://localhost:8080", b"http://evil.example"))

    def test_a_page_of_another_site_may_not(self) -> None:
        for site in (b"cross-site", b"same-site", b"", b"anything"):
            self.assertFalse(may_change(site=site), site)
            self.assertFalse(may_change(b"http://localhost:8080", site=site), site)

    def test_what_a_person_typed_may(self) -> None:
        self.assertTrue(may_change(site=b"none"))
        self.assertTrue(may_change(site=b" Same-Origin "))

    def test_a_delete_is_looked_at_too(self) -> None:
        self.assertTrue(may_change(method=b"DELETE"))
        self.assertFalse(may_change(b"null", method=b"DELETE"))
        self.assertFalse(may_change(site=b"cross-site", method=b"DELETE"))

    def test_what_changes_nothing_may_come_from_anywhere(self) -> None:
        for method in (b"GET", b"HEAD", b"OPTIONS"):
            self.assertTrue(may_change(b"http://evil.example", site=b"cross-site", method=method))

    @given(hosts)
    def test_no_other_origin_than_ours_may_post(self, theirs: bytes) -> None:
        ours = theirs.strip().lower() == b"localhost:8080"
        self.assertEqual(may_change(b"http://" + theirs), ours)

    @given(hosts)
    def test_an_origin_does_not_match_a_host_that_is_none(self, host: bytes) -> None:
        ours = re.fullmatch(rb"tasks\.example(:(80)?)?", host.strip())
        self.assertEqual(may_change(b"http://tasks.example", host=host), ours is not None)
