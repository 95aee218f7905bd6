"""Our own connection: over real sockets what both promise, and in memory all else."""

import gc
import socket
import ssl
import weakref
from itertools import pairwise
from threading import Event
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.ssl import KeyPair
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource

from asynctask import channel
from asynctask.channel import BURST
from asynctask.deadlines import FLUSH, HEAD_TIME, LINGER, unsent
from asynctask.heads import MAX_FIELDS, MAX_HEAD
from asynctask.httpserver import HttpServer
from tests.channel_contract import LIMIT, ChannelContract
from tests.channels import BAD, CHUNKED, GET, LAST, POST, SLOW, Answers, InMemory
from tests.wires import Answer, Wire, parse_answers


class OverSockets(ChannelContract, TestCase):
    """`--http fast`."""

    def server_of(self, resource: Resource) -> Any:
        clock: Any = reactor
        return HttpServer(resource, LIMIT, clock)


class OverTls(TestCase):
    """The same server behind `ssl:`."""

    def setUp(self) -> None:
        self.serve(reactor)

    def serve(self, clock: Any, *given: Any) -> None:
        tcp: Any = reactor
        self.app = Answers()
        self.server = HttpServer(self.app, LIMIT, clock, *given)
        certificate = KeyPair.generate(size=2048).selfSignedCert(1, CN="localhost")
        listening = tcp.listenSSL(0, self.server, certificate.options(), interface="127.0.0.1")
        self.port: int = listening.getHost().port
        self.addCleanup(listening.stopListening)

    def ask(self, raw: bytes, reads: Event | None = None) -> tuple[str | None, bytes]:
        """What was agreed on, and all that is answered.

        :param reads: waited for before any of the answer is read.
        """
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        answer = b""
        connection = socket.socket()
        if reads is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(5)
        connection.connect(("127.0.0.1", self.port))
        with connection, context.wrap_socket(connection) as encrypted:
            encrypted.sendall(raw)
            if reads is not None:
                reads.wait()
            while chunk := encrypted.recv(65_536):
                answer += chunk
            return encrypted.selected_alpn_protocol(), answer

    async def answers(self, raw: bytes) -> list[Answer]:
        agreed, answer = await deferToThread(self.ask, raw)
        while self.server.connections:
            await deferLater(reactor, 0.01)
        self.assertEqual(agreed, "http/1.1")
        return parse_answers(answer)

    async def test_requests_are_answered(self) -> None:
        answers = await self.answers(POST + LAST)
        self.assertEqual([answer.body for answer in answers], [b"POST / abc", b"GET / "])
        self.assertTrue(self.app.secure)

    def come_and_go(self) -> None:
        """Be answered, and say goodbye first."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), 5)) as encrypted:
            encrypted.sendall(GET)
            encrypted.recv(65_536)
            encrypted.unwrap()

    async def test_one_that_has_left_leaves_nothing_for_the_collector(self) -> None:
        served: list[Any] = []
        add = self.server.add

        def note(connection: Any) -> None:
            served.append(weakref.ref(connection))
            add(connection)

        self.patch(self.server, "add", note)
        gc.disable()
        self.addCleanup(gc.enable)
        await deferToThread(self.come_and_go)
        while self.server.connections:
            await deferLater(reactor, 0.01)
        await deferLater(reactor, 0.01)
        self.assertEqual([connection() for connection in served], [None])

    async def test_a_large_answer_comes_whole(self) -> None:
        [answer] = await self.answers(LAST.replace(b"/", b"/big", 1))
        self.assertEqual(len(answer.body), 2**20)

    async def test_who_reads_it_slowly_has_the_whole_last_answer(self) -> None:
        clock, reads, told = Clock(), Event(), list[Any]()
        self.addCleanup(reads.set)
        self.serve(clock, lambda *request: told.append(request))
        answered = deferToThread(self.ask, LAST.replace(b"/", b"/some", 1), reads)
        while not told:
            await deferLater(reactor, 0.01)
        [connection] = self.server.connections
        while unsent(connection.transport):
            await deferLater(reactor, 0.01)
        clock.pump([1] * (FLUSH + 2))
        while self.server.connections:
            await deferLater(reactor, 0.01)
        reads.set()
        _, answer = await answered
        self.assertEqual(len(parse_answers(answer)[0].body), 2**17)

    async def test_what_is_refused_is_answered_too(self) -> None:
        for raw, status in ((BAD, 400), (POST.replace(b"3", b"3000") + b"x" * 2_997, 413)):
            [answer] = await self.answers(raw)
            self.assertEqual(answer.status, status)


class Exchanges(InMemory):
    """Requests and their answers."""

    def test_an_answer_is_one_write(self) -> None:
        self.assertEqual(self.send(POST), [200])
        [written] = self.wire.transport.writes
        self.assertEqual(
            written,
            b"HTTP/1.1 200 OK\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\nContent-Length: 10\r\n"
            b"Content-Type: text/html\r\n\r\nPOST / abc",
        )

    def test_the_connection_is_kept(self) -> None:
        self.assertEqual(self.send(GET, POST, GET), [200, 200, 200])
        self.assertEqual(self.wire.answers[1].body, b"POST / abc")
        self.assertFalse(self.wire.closed)

    def test_what_comes_at_once_is_answered_in_order_and_one_after_another(self) -> None:
        self.assertEqual(self.send(GET + SLOW + POST + GET), [200])
        self.assertEqual(len(self.app.asked), 2)
        self.app.asked[1].write(b"then")
        self.app.asked[1].finish()
        bodies = [answer.body for answer in self.wire.answers]
        self.assertEqual(bodies, [b"GET / ", b"then", b"POST / abc", b"GET / "])

    def test_very_many_at_once_let_others_have_a_turn(self) -> None:
        count = 5 * BURST
        self.assertEqual(len(self.send(GET * count)), BURST)
        other = Wire(self.server).send(GET)
        self.assertEqual(other.statuses, [200])
        for _ in range(5):
            self.clock.advance(0)
        self.assertEqual(len(self.wire.answers), count)
        self.assertEqual(self.wire.transport.producerState, "producing")

    def test_a_client_that_leaves_between_two_of_very_many_disturbs_nothing(self) -> None:
        self.send(GET * 2 * BURST)
        self.wire.leave()
        self.clock.advance(0)
        self.assertEqual(len(self.app.asked), BURST)

    def test_very_many_after_a_slow_one_do_so_too(self) -> None:
        self.send(SLOW + GET * 2 * BURST)
        self.app.asked[0].finish()
        self.assertEqual(len(self.wire.answers), 1 + BURST)
        self.clock.advance(0)
        self.assertEqual(len(self.wire.answers), 1 + 2 * BURST)

    def test_an_empty_line_before_a_request_is_passed_over(self) -> None:
        self.assertEqual(self.send(b"\r\n" + GET, b"\r", b"\n", GET), [200, 200])
        self.assertEqual(self.send(b"\r\n\r\n"), [200, 200, 400])

    def test_close_is_honoured_and_nothing_else_is_answered(self) -> None:
        self.assertEqual(self.send(LAST + GET, GET), [200])
        self.assertEqual(self.wire.answers[0].fields[b"connection"], b"close")
        self.assertTrue(self.wire.transport.disconnecting)

    def test_http_1_0_closes_unless_asked_not_to(self) -> None:
        old = b"GET / HTTP/1.0\r\n\r\n"
        kept = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        self.assertEqual(self.send(kept, kept, old, kept), [200, 200, 200])
        self.assertEqual([answer.version for answer in self.wire.answers], [b"HTTP/1.0"] * 3)
        self.assertEqual(self.wire.answers[0].fields[b"connection"], b"keep-alive")
        self.assertTrue(self.wire.closed)

    def test_a_stream_to_http_1_0_ends_with_the_connection(self) -> None:
        self.send(b"GET /slow HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        self.app.asked[0].write(b"a")
        self.app.asked[0].write(b"b")
        self.assertFalse(self.wire.closed)
        self.app.asked[0].finish()
        self.assertTrue(self.wire.closed)
        self.assertTrue(self.wire.raw.endswith(b"\r\n\r\nab"))
        self.assertNotIn(b"chunked", self.wire.raw)

    def test_head_has_the_head_only(self) -> None:
        self.assertEqual(self.send(GET.replace(b"GET", b"HEAD"), GET), [200, 200])
        head, get = self.wire.answers
        self.assertEqual((head.body, head.fields[b"content-length"]), (b"", b"7"))
        self.assertEqual(get.body, b"GET / ")

    def test_some_answers_have_no_body(self) -> None:
        for number, code in enumerate((204, 304)):
            self.send(SLOW)
            request = self.app.asked[-1]
            request.setResponseCode(code)
            request.setHeader("Content-Length", "5")
            request.write(b"never")
            request.finish()
            answer = self.wire.answers[number]
            self.assertEqual((answer.status, answer.body), (code, b""))
            self.assertNotIn(b"content-length", answer.fields)
            self.assertNotIn(b"transfer-encoding", answer.fields)

    def test_chunks_are_one_body(self) -> None:
        self.assertEqual(
            self.send(CHUNKED + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n" + GET), [200, 200]
        )
        self.assertEqual(self.wire.answers[0].body, b"POST / abcde")

    def test_a_bug_is_a_500_and_no_more(self) -> None:
        self.assertEqual(self.send(GET.replace(b"/ ", b"/bug ", 1), GET), [500, 200])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_bug_after_the_end_of_an_answer_is_told_and_disturbs_nothing(self) -> None:
        late = GET.replace(b"/ ", b"/late-bug ", 1)
        self.assertEqual(self.send(late + late, GET), [200, 200, 200])
        self.assertEqual(self.wire.answers[1].body, b"whole")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    @given(st.lists(st.integers(0, 600), max_size=12), st.permutations(range(7)))
    def test_it_does_not_matter_how_bytes_come(self, cuts: list[int], order: list[int]) -> None:
        chunked = CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"
        refused = CHUNKED + b"zz\r\n"
        all_of = (GET, POST, b"\r\n" + POST, chunked, GET.replace(b"GET", b"HEAD"), BAD, refused)
        raw = b"".join(all_of[index] for index in order)
        edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
        whole = Wire(self.server).send(raw)
        cut = Wire(self.server).send(*(raw[a:b] for a, b in pairwise(edges)))
        single = Wire(self.server).send(*(bytes([byte]) for byte in raw))
        self.assertEqual(cut.raw, whole.raw)
        self.assertEqual(single.statuses, whole.statuses)


class Refusals(InMemory):
    """What is refused by the connection itself."""

    def test_what_is_malformed_ends_the_connection(self) -> None:
        for raw in (
            *(BAD, b"\x16\x03\x01\x02", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GET.replace(b"\r\n", b"\n")),
            *(CHUNKED + b"g\r\n", CHUNKED + b"3\r\nabcd\r\n", b"GET / HTTP/1.1\r\nX : y\r\n\r\n"),
        ):
            wire = Wire(self.server).send(GET, raw + GET, GET)
            self.assertEqual(wire.statuses, [200, 400], raw)
            self.assert_refused(400, wire)

    def test_the_answers_before_it_come_first(self) -> None:
        self.send(SLOW + BAD + GET)
        self.assertEqual(self.wire.answers, [])
        self.app.asked[0].finish()
        self.assertEqual(self.wire.statuses, [200, 400])

    def test_a_head_has_a_limit(self) -> None:
        room = MAX_HEAD - len(b"GET / HTTP/1.1\r\nX: \r\n\r\n")
        largest = b"GET / HTTP/1.1\r\nX: " + b"y" * room + b"\r\n\r\n"
        self.assertEqual(self.send(largest), [200])
        self.send(largest.replace(b"yyy", b"yyyy", 1))
        self.assert_refused(431)
        endless = Wire(self.server).send(*[b"GET / HTTP/1.1\r\nX: " + b"y" * 1_000] + [b"y" * 1_000] * 20)
        self.assert_refused(431, endless)
        self.assertIn(b"HTTP/1.1 431 Request Header Fields Too Large\r\n", endless.raw)

    def test_a_head_may_have_so_many_fields(self) -> None:
        self.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_FIELDS + 1) + b"\r\n")
        self.assert_refused(431)

    def test_a_body_has_a_limit_and_is_refused_before_it_comes(self) -> None:
        self.send(POST.replace(b"3", b"%d" % (LIMIT + 1)))
        self.assert_refused(413)
        self.assertEqual(self.app.asked, [])
        chunked = Wire(self.server).send(CHUNKED + b"%x\r\n" % (LIMIT + 1))
        self.assert_refused(413, chunked)

    def test_a_refused_head_request_has_no_body(self) -> None:
        for raw, status in (
            (b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n", 413),
            (b"HEAD /\r\n\r\n", 400),
            (b"\r\nHEAD / HTTP/1.1\r\nX : y\r\n\r\n", 400),
            (b"HEAD / HTTP/1.1\nHost: a\n", 400),
            (b"HEAD / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_FIELDS + 1) + b"\r\n", 431),
        ):
            wire = Wire(self.server).send(raw)
            self.assertEqual(wire.statuses, [status], raw)
            self.assertTrue(wire.raw.endswith(b"\r\n\r\n"), raw)

    def test_nor_has_one_that_does_not_come_to_its_end(self) -> None:
        self.send(b"HEAD / HT")
        self.pass_seconds(HEAD_TIME + 2)
        self.assertEqual(self.wire.statuses, [408])
        self.assertTrue(self.wire.raw.endswith(b"\r\n\r\n"))

    def test_the_rest_of_a_refused_body_is_read_for_a_moment(self) -> None:
        self.send(POST.replace(b"3", b"2000"))
        self.assertTrue(self.wire.transport.write_closed)
        self.assertFalse(self.wire.transport.disconnecting)
        self.wire.send(b"x" * 1_996)
        self.assertFalse(self.wire.transport.disconnecting)
        self.wire.send(b"x")
        self.assertTrue(self.wire.transport.disconnecting)

    def test_and_not_for_longer(self) -> None:
        self.send(BAD)
        self.pass_seconds(LINGER - 1)
        self.assertFalse(self.wire.transport.disconnecting)
        self.wire.send(GET)
        self.pass_seconds(2)
        self.assertTrue(self.wire.transport.disconnecting)
        self.assertEqual(len(self.wire.answers), 1)

    def test_bodies_on_their_way_have_a_limit_together(self) -> None:
        self.patch(channel, "MOST_COMING", 500)
        begun = POST.replace(b"3", b"400")[:-3] + b"x" * 200
        one, other = Wire(self.server).send(begun), Wire(self.server).send(begun)
        refused = Wire(self.server).send(begun)
        self.assert_refused(503, refused)
        self.assertIn(b"Retry-After: 1\r\n", refused.raw)
        self.assertEqual(one.send(b"x" * 200).statuses, [200])
        self.assertEqual(Wire(self.server).send(begun).statuses, [])
        other.leave()
        chunk = b"c8\r\n" + b"x" * 200 + b"\r\n"
        self.assertEqual(Wire(self.server).send(CHUNKED + chunk, b"0\r\n\r\n").statuses, [200])
        self.assert_refused(503, Wire(self.server).send(CHUNKED + chunk, chunk))

    def test_an_upgrade_is_passed_over(self) -> None:
        upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        self.assertEqual(self.send(GET[:-2] + upgrade, POST[:-5] + upgrade + b"abc", GET), [200, 200, 200])


class Expectations(InMemory):
    """`Expect: 100-continue`."""

    asking = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    def test_the_client_is_asked_for_the_body(self) -> None:
        self.wire.send(self.asking)
        self.assertEqual(self.wire.raw, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertEqual(self.send(b"abc"), [100, 200])

    def test_it_is_not_asked_when_the_body_comes_already(self) -> None:
        self.assertEqual(self.send(self.asking + b"abc"), [200])

    def test_it_is_asked_only_once_it_has_its_earlier_answers(self) -> None:
        self.assertEqual(self.send(SLOW + self.asking), [])
        self.app.asked[0].finish()
        self.assertEqual(self.wire.statuses, [200, 100])

    def test_it_is_not_asked_for_what_is_too_large(self) -> None:
        self.send(self.asking.replace(b"3", b"3000"))
        self.assertEqual(self.wire.statuses, [413])

    def test_it_is_not_asked_for_what_would_be_refused_anyway(self) -> None:
        self.app.taking = False
        self.send(self.asking)
        self.assertEqual(self.wire.statuses, [200])  # whatever the refusal is
        self.assertEqual(self.wire.answers[0].fields[b"connection"], b"close")
        self.assertEqual(self.send(b"abc" + GET), [200])
        self.assertTrue(self.wire.transport.disconnecting)

    def test_http_1_0_has_none(self) -> None:
        self.assertEqual(self.send(self.asking.replace(b"1.1", b"1.0"), b"abc"), [200])


class Accesses(SynchronousTestCase):
    """Whoever wants to know of every request."""

    def test_it_is_told_of_all_that_are_over(self) -> None:
        told: list[tuple[Any, ...]] = []
        app, clock = Answers(), Clock()
        server = HttpServer(
            app, LIMIT, clock, lambda *request: told.append(request), now=lambda: -clock.seconds()
        )
        first = Wire(server).send(GET.replace(b"/", b"/a?b", 1), BAD)
        large = Wire(server).send(POST.replace(b"3", b"3000"))
        gone = Wire(server).send(SLOW)
        clock.advance(1.5)
        gone.leave()
        shown = [(method, path, status) for method, path, status, *_ in told]
        self.assertEqual(
            shown, [(b"GET", b"/a?b", 200), (b"", b"", 400), (b"POST", b"/", 413), (b"GET", b"/slow", 499)]
        )
        self.assertEqual([seconds for *_, seconds, _ in told], [0, 0, 0, 1.5])
        bodies = [len(one.body) for one in (*first.answers, *large.answers)]
        self.assertEqual([sent for *_, sent, _, _ in told], [*bodies, 0])
        self.assertEqual(told[0][-1].host, "127.0.0.1")
        self.assertEqual(len(parse_answers(gone.raw)), 0)
