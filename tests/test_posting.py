"""One POST to receivers that are slow, broken or hostile, over real sockets."""

import gzip
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from itertools import count
from typing import Any

from cryptography import x509
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from asynctask.addresses import Allowed
from asynctask.deliveries import Answer, NoAnswer, Refused
from asynctask.posting import LINGER, MAX_ANSWER, Poster
from asynctask.tls import Named
from tests.certificates import ServerSettings, certificate_for

reactor: Any = global_reactor

PATIENCE = 8
"""Seconds: a receiver that answers at all does so at once."""

SHORT = 0.3
"""Seconds for those that do not."""

DROPS = 10
"""So many come after what came first."""

HEADERS = {"Content-Type": "application/json", "webhook-id": "a"}


def answer(status: int, *fields: str, body: bytes = b"") -> bytes:
    head = [f"HTTP/1.1 {status} Whatever", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


class Receiver(Protocol):
    """Does what the test wants once a whole request is there."""

    factory: "Receivers"

    def connectionMade(self) -> None:
        self.factory.connections += 1
        self.factory.most = max(self.factory.most, self.factory.connections)
        self.received = b""
        self.drip: LoopingCall | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        head, _, body = self.received.partition(b"\r\n\r\n")
        if f"content-length: {len(body)}\r\n".encode() in head.lower() + b"\r\n":
            self.factory.requests.append(self.received)
            self.factory.act(self)

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def reset(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections -= 1
        if self.drip is not None:
            self.drip.stop()
        for waiting in self.factory.closed:
            waiting.callback(None)
        self.factory.closed.clear()


class Receivers(Factory):
    """A port with receivers of one kind."""

    noisy = False

    def __init__(self, act: Callable[[Receiver], object]) -> None:
        self.protocol = Receiver  # type: ignore[assignment]
        self.act = act
        self.requests: list[bytes] = []
        self.connections = 0
        self.most = 0
        self.closed: list[Deferred[None]] = []

    async def until_closed(self) -> None:
        while self.connections:
            waiting: Deferred[None] = Deferred()
            self.closed.append(waiting)
            await waiting


def answers(data: bytes) -> Callable[[Receiver], object]:
    return lambda receiver: receiver.write(data)


def drips(first: bytes, then: Callable[[], object] = lambda: None) -> Callable[[Receiver], object]:
    """Begins an answer that has no end.

    :param then: called once what was first has long been read.
    """

    def begin(receiver: Receiver) -> None:
        drops = count(1)

        def drip() -> None:
            receiver.write(b"x")
            if next(drops) == DROPS:
                then()

        receiver.write(first)
        receiver.drip = LoopingCall(drip)
        receiver.drip.start(0.02)

    return begin


class PostingTestCase(TestCase):
    """Poster and receivers."""

    timeout = 10

    def serve(self, act: Callable[[Receiver], object]) -> int:
        """A port where this is done with each request."""
        self.receivers = Receivers(act)
        port = reactor.listenTCP(0, self.receivers, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def poster(self, *addresses: str, allowed: tuple[str, ...] = ("127.0.0.1",), **given: Any) -> Poster:
        """:param addresses: what every name resolves to."""
        self.asked: list[tuple[str, int]] = []

        def lookup(host: str, port: int) -> Deferred[list[str]]:
            self.asked.append((host, port))
            return succeed(list(addresses or ("127.0.0.1",)))

        return Poster(
            reactor, Allowed(allowed), lookup, **{"clock": reactor, "deadline": PATIENCE, **given}
        )

    async def post(self, act: Callable[[Receiver], object], **given: Any) -> Answer:
        """:param given: further arguments of the poster."""
        port = self.serve(act)
        poster = self.poster(**given)
        try:
            return await poster.post(f"http://receiver.example:{port}/x?y=%20z", HEADERS, b"{}")
        finally:
            await self.receivers.until_closed()

    async def reason(self, act: Callable[[Receiver], object], **given: Any) -> str:
        """Why there was no answer."""
        try:
            found = await self.post(act, **given)
        except NoAnswer as error:
            return str(error)
        raise AssertionError(found)


class RequestTests(PostingTestCase):
    """What a receiver gets."""

    async def test_it_is_the_url_of_the_task_and_no_cookies(self) -> None:
        poster = self.poster()
        port = self.serve(answers(answer(200, "Set-Cookie: a=b; Path=/")))
        for _ in range(2):
            await poster.post(f"http://Receiver.example:{port}/x%2f?y=%20z#f", HEADERS, b"{}")
        for request in self.receivers.requests:
            head = request.decode().split("\r\n")
            self.assertEqual(head[0], "POST /x%2f?y=%20z HTTP/1.1")
            self.assertIn(f"host: receiver.example:{port}", [line.lower() for line in head])
            self.assertIn("Content-Length: 2", head)
            self.assertIn("Accept-Encoding: identity", head)
            self.assertNotIn("cookie", request.decode().lower())
        self.assertEqual(self.asked, [("Receiver.example", port)] * 2)

    async def test_a_name_that_idna_has_not_is_asked_for_all_the_same(self) -> None:
        port = self.serve(answers(answer(200)))
        for host in ("my_service", "[::1]"):
            found = await self.poster().post(f"http://{host}:{port}/", HEADERS, b"{}")
            self.assertEqual(found, Answer(200))
            self.assertIn(f"Host: {host}:{port}".encode(), self.receivers.requests[-1])
        self.assertEqual(self.asked, [("::1", port)])


class AnswerTests(PostingTestCase):
    """What it may do with it."""

    async def test_its_status_is_the_answer(self) -> None:
        for status in (200, 202, 204, 404, 410, 500):
            self.assertEqual(await self.post(answers(answer(status))), Answer(status))

    async def test_it_may_ask_for_time(self) -> None:
        found = await self.post(answers(answer(503, "Retry-After: 7", "Retry-After: 9")))
        self.assertEqual(found, Answer(503, "7"))

    async def test_it_may_say_what_is_no_text(self) -> None:
        for name, asked in (("Retry-After", "\xe9"), ("Set-Cookie", None), ("Content-Type", None)):
            said = answer(200, f"{name}: value").replace(b"value", b"\xe9")
            self.assertEqual(await self.post(answers(said)), Answer(200, asked), name)
            self.assertEqual(len(self.receivers.requests), 1)

    async def test_a_redirect_is_not_followed(self) -> None:
        for location in ("http://169.254.169.254/latest/meta-data", "/elsewhere"):
            found = await self.post(answers(answer(302, f"Location: {location}")))
            self.assertEqual(found, Answer(302))
            self.assertEqual(len(self.receivers.requests), 1)

    async def test_a_gzip_bomb_is_not_unpacked_and_not_read_to_its_end(self) -> None:
        bomb = gzip.compress(bytes(20_000_000), mtime=0) * 20
        self.assertGreater(len(bomb), 4 * MAX_ANSWER)
        found = await self.post(answers(answer(200, "Content-Encoding: gzip", body=bomb)))
        self.assertEqual(found, Answer(200))

    async def test_a_body_that_never_ends_is_cut_off(self) -> None:
        endless = answer(200).replace(b"Content-Length: 0", b"X: y")
        self.assertEqual(await self.post(answers(endless + bytes(10 * MAX_ANSWER))), Answer(200))
        clock = Clock()
        late = partial(clock.advance, PATIENCE)
        self.assertEqual(await self.post(drips(endless, late), clock=clock), Answer(200))

    async def test_a_head_that_never_ends_is_no_answer(self) -> None:
        head = b"HTTP/1.1 200 OK\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 10_000
        self.assertIn("64 KiB", await self.reason(answers(head)))
        self.assertIn("64 KiB", await self.reason(answers(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)))
        self.assertIn("0.3 seconds", await self.reason(drips(b"HTTP/1.1 200 OK\r\nX: "), deadline=SHORT))

    async def test_silence_is_no_answer(self) -> None:
        self.assertEqual(await self.reason(lambda _: None, deadline=SHORT), "No answer within 0.3 seconds")

    async def test_a_receiver_that_does_not_even_read_is_no_answer(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            port = deaf.getsockname()[1]
            with self.assertRaises(NoAnswer) as caught:
                await self.poster(deadline=SHORT).post(
                    f"http://a.example:{port}/", HEADERS, bytes(30_000_000)
                )
        self.assertIn("0.3 seconds", str(caught.exception))

    async def test_one_that_answers_without_reading_does_not_keep_the_connection(self) -> None:
        deaf: list[Receiver] = []

        class Deaf(Receiver):
            """Answers at once."""

            def connectionMade(self) -> None:
                super().connectionMade()
                transport: Any = self.transport
                transport.pauseProducing()
                self.write(answer(200))
                deaf.append(self)

        clock, port = Clock(), self.serve(lambda _: None)
        self.receivers.protocol = Deaf  # type: ignore[assignment]
        sent = self.poster(clock=clock).post(f"http://a.example:{port}/", HEADERS, bytes(30_000_000))
        while LINGER not in [call.getTime() for call in clock.getDelayedCalls()]:
            await deferLater(reactor, 0.01)
        self.assertNoResult(sent)
        clock.advance(LINGER)
        self.assertEqual(await sent, Answer(200))
        deaf[0].reset()
        await self.receivers.until_closed()

    async def test_a_connection_that_is_closed_is_no_answer(self) -> None:
        for act in (
            lambda receiver: receiver.reset(),
            lambda receiver: receiver.transport.loseConnection(),
        ):
            self.assertIn("closed", await self.reason(act))

    async def test_what_is_no_http_is_no_answer(self) -> None:
        for data in (b"220 mail ready\r\n\r\n", answer(200).replace(b": 0", b": x"), b"HTTP/1.1 x\r\n\r\n"):
            self.assertIn("no HTTP", await self.reason(answers(data)))


class AddressTests(PostingTestCase):
    """Where it goes."""

    async def test_an_internal_address_is_not_connected_to(self) -> None:
        port = self.serve(answers(answer(200)))
        for named in ("127.0.0.1", "localhost", "receiver.example"):
            poster = self.poster(allowed=())
            with self.assertRaises(Refused) as caught:
                await poster.post(f"http://{named}:{port}/", HEADERS, b"{}")
            self.assertEqual(
                str(caught.exception),
                "The receiver's address is not public, and --callbacks-to does not name it",
            )
        with self.assertRaises(Refused):
            await self.poster("8.8.8.8", "127.0.0.1", allowed=()).post(
                f"http://a.example:{port}/", HEADERS, b"{}"
            )
        self.assertEqual(self.receivers.requests, [])

    async def test_a_name_is_resolved_once_whatever_it_means_a_moment_later(self) -> None:
        port = self.serve(answers(answer(200)))
        meanings = [["127.0.0.1"], ["169.254.169.254"]]
        poster = Poster(reactor, Allowed(["127.0.0.1"]), lambda *_: succeed(meanings.pop(0)), reactor)
        self.assertEqual(await poster.post(f"http://a.example:{port}/", HEADERS, b"{}"), Answer(200))
        with self.assertRaises(Refused):
            await poster.post(f"http://a.example:{port}/", HEADERS, b"{}")
        self.assertEqual(meanings, [])

    async def test_of_several_addresses_one_that_listens_is_taken(self) -> None:
        port = self.serve(answers(answer(200)))
        poster = self.poster("::1", "127.0.0.2", "127.0.0.1", allowed=("127.0.0.0/8", "::1"))
        self.assertEqual(await poster.post(f"http://a.example:{port}/", HEADERS, b"{}"), Answer(200))

    async def test_it_may_be_the_first_of_them(self) -> None:
        port = self.serve(answers(answer(200)))
        poster = self.poster("127.0.0.1", "127.0.0.2", allowed=("127.0.0.0/8",))
        self.assertEqual(await poster.post(f"http://a.example:{port}/", HEADERS, b"{}"), Answer(200))

    async def test_who_hangs_is_given_up_by_the_clock_that_it_is_given(self) -> None:
        for connects in (False, True):
            asked: Deferred[Receiver] = Deferred()
            clock, port = Clock(), self.serve(asked.callback)
            sent = self.poster(clock=clock, deadline=10.0).post(f"http://a.example:{port}/", HEADERS, b"{}")
            if connects:
                await asked
            clock.advance(9)
            self.assertNoResult(sent)
            clock.advance(1)
            clock.advance(LINGER)
            with self.assertRaisesRegex(NoAnswer, "No answer within 10 seconds"):
                await sent

    async def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with self.assertRaises(NoAnswer) as caught:
            await self.poster().post(f"http://a.example:{port}/", HEADERS, b"{}")
        self.assertEqual(str(caught.exception), "The connection was refused")

    async def test_there_is_no_way_to_it(self) -> None:
        everybody = "255.255.255.255"  # to which TCP has none
        with self.assertRaises(NoAnswer) as caught:
            await self.poster(everybody, allowed=(everybody,)).post("http://a.example/", HEADERS, b"{}")
        self.assertEqual(str(caught.exception), "The host cannot be reached")

    async def test_a_name_that_cannot_be_resolved_or_takes_too_long(self) -> None:
        for lookup, reason in (
            (lambda *_: fail(NoAnswer("No such name")), "No such name"),
            (lambda *_: Deferred(), "No answer within 0.3 seconds"),
        ):
            poster = Poster(reactor, Allowed(), lookup, reactor, deadline=SHORT)
            with self.assertRaises(NoAnswer) as caught:
                await poster.post("http://a.example/", HEADERS, b"{}")
            self.assertEqual(str(caught.exception), reason)


class TlsTests(PostingTestCase):
    """To https, with certificates of the test's own."""

    def serve_tls(
        self, *names: str | x509.GeneralName, act: Callable[[Receiver], object] | None = None
    ) -> int:
        """A port that has a certificate for these names, and notes the one that it is asked for."""
        named = (x509.DNSName(name) if isinstance(name, str) else name for name in names)
        context, self.certificate = certificate_for(*named, common="receiver.example")
        self.names: list[bytes | None] = []
        context.set_tlsext_servername_callback(lambda one: self.names.append(one.get_servername()))
        settings = ServerSettings(context)
        self.receivers = Receivers(act or answers(answer(200)))
        port = reactor.listenSSL(0, self.receivers, settings, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def post_tls(
        self, port: int, *, trusted: bool = True, host: str = "Receiver.example", **given: Any
    ) -> Answer:
        """To a receiver whose certificate is trusted, or only what this machine trusts."""
        if trusted:
            given["tls"] = lambda host: Named(host, self.certificate)
        poster = self.poster(**given)
        try:
            return await poster.post(f"https://{host}:{port}/", HEADERS, b"{}")
        finally:
            await self.receivers.until_closed()

    async def test_the_url_s_host_is_asked_for_though_an_address_is_connected_to(self) -> None:
        port = self.serve_tls("receiver.example")
        self.assertEqual(await self.post_tls(port), Answer(200))
        self.assertEqual(self.names, [b"receiver.example"])
        self.assertIn(f"host: receiver.example:{port}".encode(), self.receivers.requests[0].lower())

    async def test_a_certificate_of_another_host_is_refused(self) -> None:
        loopback = x509.IPAddress(ip_address("127.0.0.1"))
        others: tuple[tuple[str | x509.GeneralName, ...], ...] = (
            ("other.example",),
            # In which there is nothing to compare with: its common name is the host's, and does not count.
            (),
            (x509.RFC822Name("a@receiver.example"),),
            ("*.example",),
            ("*",),
            ("other.example", "*.other"),
            (loopback,),
        )
        for names in others:
            port = self.serve_tls(*names)
            with self.assertRaises(NoAnswer) as caught:
                await self.post_tls(port)
            self.assertEqual(str(caught.exception), "The TLS certificate is not the host's", names)
            self.assertEqual(self.receivers.requests, [])

    async def test_one_of_several_names_may_be_the_host_s(self) -> None:
        port = self.serve_tls("other.example", "*.receiver.example", "receiver.example")
        self.assertEqual(await self.post_tls(port), Answer(200))
        self.assertEqual(await self.post_tls(port, host="a.Receiver.example."), Answer(200))

    async def test_a_host_that_is_an_address_has_a_certificate_for_it(self) -> None:
        for names, fits in (((x509.IPAddress(ip_address("127.0.0.1")),), True), ((), False)):
            port = self.serve_tls("receiver.example", *names)
            if fits:
                self.assertEqual(await self.post_tls(port, host="127.0.0.1"), Answer(200))
            else:
                with self.assertRaises(NoAnswer) as caught:
                    await self.post_tls(port, host="127.0.0.1")
                self.assertEqual(str(caught.exception), "The TLS certificate is not the host's")

    async def test_a_name_that_tls_cannot_have_is_no_answer(self) -> None:
        port = self.serve_tls("receiver.example")
        with self.assertRaises(NoAnswer) as caught:
            await self.poster().post(f"https://{'x' * 64}.example:{port}/", HEADERS, b"{}")
        self.assertEqual(str(caught.exception), "TLS knows no host of this name")
        self.assertEqual(self.receivers.requests, [])

    async def test_a_certificate_that_nobody_trusts_is_refused(self) -> None:
        port = self.serve_tls("receiver.example")
        with self.assertRaises(NoAnswer) as caught:
            await self.post_tls(port, trusted=False)
        self.assertEqual(str(caught.exception), "TLS failed (certificate verify failed)")
        self.assertEqual(self.receivers.requests, [])

    async def test_a_receiver_without_tls_is_no_answer(self) -> None:
        self.certificate = certificate_for()[1]
        with self.assertRaises(NoAnswer) as caught:
            await self.post_tls(self.serve(lambda _: None), deadline=SHORT)
        self.assertIn("0.3 seconds", str(caught.exception))

    async def test_nothing_is_left_open_behind_a_receiver_that_never_ends(self) -> None:
        endless = answer(200).replace(b"Content-Length: 0", b"X: y")
        clock = Clock()
        port = self.serve_tls("receiver.example", act=drips(endless, partial(clock.advance, PATIENCE)))
        self.assertEqual(await self.post_tls(port, clock=clock), Answer(200))
