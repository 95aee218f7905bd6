"""Our own connection: what takes too long, and who leaves."""

import socket
from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from asynctask import httpserver
from asynctask.channel import BURST, EAGER
from asynctask.deadlines import (
    BODY_TIME,
    FLUSH,
    HEAD_TIME,
    IDLE,
    LEAVING,
    LINGER,
    STALL,
    TICK,
    close_idle,
    unread,
    unsent,
)
from asynctask.heads import MAX_HEAD
from tests.channel_contract import LIMIT
from tests.channels import BAD, GET, LAST, POST, SLOW, InMemory
from tests.wires import CLIENT, Transport, Wire


class Times(InMemory):
    """How long what may take."""

    def test_an_idle_connection_is_closed(self) -> None:
        self.send(GET)
        self.pass_seconds(IDLE - 1)
        self.assertFalse(self.wire.closed)
        self.pass_seconds(2)
        self.assertTrue(self.wire.closed)
        self.assertEqual(self.wire.statuses, [200])

    def test_so_is_one_on_which_nothing_was_ever_asked(self) -> None:
        self.pass_seconds(IDLE - 1)
        self.assertFalse(self.wire.closed)
        self.pass_seconds(2)
        self.assertTrue(self.wire.closed)

    def test_but_not_before_the_reactor_has_read_what_it_sent_while_something_held_that(self) -> None:
        self.send(GET)
        self.clock.pump([TICK / 2] * (2 * round(IDLE / TICK) + 1))
        self.clock.callLater(TICK / 2, self.send, GET)  # with the tick, and after it
        self.clock.pump([TICK / 2])
        self.assertEqual(self.wire.statuses, [200, 200])
        self.pass_seconds(IDLE - 1)
        self.assertFalse(self.wire.closed)

    def test_while_the_process_was_stopped_no_time_has_passed(self) -> None:
        begun = Wire(self.server).send(GET[:1])
        self.clock.advance(2 * IDLE)
        self.assertEqual([begun.send(GET[1:]).statuses, self.send(GET)], [[200], [200]])

    def test_a_head_has_its_time_from_its_first_byte_and_dripping_gains_none(self) -> None:
        self.pass_seconds(IDLE - 5)
        self.send(GET[:1])
        for index in range(1, HEAD_TIME):
            self.send(GET[index : index + 1])
            self.pass_seconds(1)
        self.assertFalse(self.wire.closed)
        self.pass_seconds(2)
        self.assert_refused(408)

    def test_a_head_has_the_whole_of_it_between_two_ticks_too(self) -> None:
        for begun in (0, 0.125, 0.5, 0.875):
            whole, broken = Wire(self.server), Wire(self.server)
            self.clock.pump([begun])
            whole.send(GET[:1])
            broken.send(GET[:1])
            self.clock.pump([0.125] * 79)
            self.assertEqual(whole.send(GET[1:]).statuses, [200], begun)
            self.clock.pump([0.125] * 3)
            self.assert_refused(408, broken)
            self.clock.pump([1 - begun])

    def test_a_body_has_its_time(self) -> None:
        self.send(POST[:-2])
        self.pass_seconds(STALL - 1)
        self.assertFalse(self.wire.closed)
        self.send(POST[-2:-1])
        self.pass_seconds(STALL - 1)
        self.assertFalse(self.wire.closed)
        self.pass_seconds(2)
        self.assert_refused(408)

    def test_a_body_that_drips_has_its_time_too(self) -> None:
        self.send(POST.replace(b"3", b"%d" % LIMIT))
        for _ in range(BODY_TIME // 10 + 1):
            self.pass_seconds(10)
            self.send(b"x")
        self.assert_refused(408)

    def test_an_answer_has_all_the_time_that_it_takes(self) -> None:
        self.send(SLOW)
        self.pass_seconds(10 * IDLE)
        self.assertFalse(self.wire.closed)
        self.app.asked[0].finish()
        self.pass_seconds(IDLE - 1)
        self.assertFalse(self.wire.closed)

    def test_a_client_that_does_not_take_its_last_answer_is_dropped(self) -> None:
        self.send(BAD)
        self.pass_seconds(LINGER + FLUSH + 2)
        self.assertTrue(self.wire.transport.ended)

    def test_one_that_reads_slowly_is_not(self) -> None:
        transport: Any = self.wire.transport
        transport.dataBuffer = b"x" * 4
        self.send(LAST)
        self.assertTrue(self.wire.closed)
        for left in (3, 2, 1):
            transport.dataBuffer = b"x" * left
            self.pass_seconds(FLUSH)
            self.assertFalse(transport.ended)
        self.pass_seconds(FLUSH)
        self.assertTrue(transport.ended)

    def test_nor_is_one_over_tls_that_has_not_said_goodbye(self) -> None:
        reading, deaf = Encrypted(), Encrypted()
        for transport in (reading, deaf):
            transport.transport.dataBuffer = b"x" * 2
            protocol: Any = self.server.buildProtocol(CLIENT)
            protocol.makeConnection(transport)
            protocol.dataReceived(LAST)
            self.assertTrue(transport.disconnecting)
        reading.transport.dataBuffer = b"x"
        self.pass_seconds(FLUSH + 1)
        self.assertEqual((reading.ended, deaf.ended), (False, True))
        reading.transport.dataBuffer = b""
        self.pass_seconds(FLUSH)
        self.assertFalse(reading.transport.disconnecting)
        self.pass_seconds(2 * FLUSH)
        self.assertTrue(reading.transport.disconnecting)
        self.assertEqual((reading.ended, reading.transport.ended), (False, False))

    def test_all_that_the_system_has_not_taken_is_still_to_go_out(self) -> None:
        transport = Encrypted()
        below = transport.transport
        below.dataBuffer, below.offset, below._tempDataLen = b"12345", 3, 4
        self.assertEqual(unsent(transport), 6)

    def test_the_timer_ends_with_the_last_connection(self) -> None:
        other = Wire(self.server)
        self.wire.leave()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        other.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Encrypted(Transport):
    """One over TLS, and the one below it."""

    def __init__(self) -> None:
        super().__init__()
        self.transport: Any = Transport()
        directlyProvides(self, ISSLTransport)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See `ITCPTransport`."""


class Leaving(InMemory):
    """Clients that go, and those that do not read."""

    def test_a_request_hears_that_its_client_has_gone(self) -> None:
        self.send(SLOW)
        heard: list[Any] = []
        self.app.asked[0].notifyFinish().addBoth(heard.append)
        self.wire.leave()
        self.assertEqual(len(heard), 1)
        self.assertIsNotNone(heard[0])
        self.app.asked[0].write(b"nobody reads this")
        self.assertRaises(RuntimeError, self.app.asked[0].finish)
        self.assertEqual(self.wire.raw, b"")

    def test_who_sends_no_more_has_his_answers(self) -> None:
        self.send(GET + SLOW + GET * (BURST + 2) + b"GET / HT")
        self.wire.close_half()
        self.assertEqual((self.wire.statuses, self.wire.closed), ([200], False))
        self.clock.advance(LEAVING - 1)
        self.app.asked[1].finish()
        self.clock.advance(0)
        self.assertEqual(self.wire.statuses, [200] * (BURST + 4))
        self.assertTrue(self.wire.closed)

    def test_who_sends_no_more_while_nothing_is_asked_has_left(self) -> None:
        for begun in (b"", GET, b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"):
            wire = Wire(self.server).send(begun) if begun else Wire(self.server)
            self.assertFalse(wire.closed)
            wire.close_half()
            self.assertTrue(wire.closed, begun)

    def test_who_sends_no_more_waits_for_no_late_answer_and_for_no_stream(self) -> None:
        self.send(SLOW)
        self.wire.close_half()
        self.clock.pump([1] * (LEAVING + 1))
        self.assertTrue(self.wire.transport.ended)
        stream = Wire(self.server).send(SLOW)
        self.app.asked[1].write(b"the first of many")
        stream.close_half()
        self.assertTrue(stream.transport.ended)

    def test_who_sends_no_more_has_what_can_be_answered_by_then(self) -> None:
        wires = [Wire(self.server).send(SLOW) for _ in range(2)]
        heard: list[int] = []
        soon, later = self.app.asked
        soon.hurry, later.hurry = soon.finish, lambda: heard.append(1)
        for wire in wires:
            wire.close_half()
        self.clock.pump([1] * LEAVING)
        self.assertEqual((wires[0].statuses, heard), ([], []))
        self.clock.pump([1])
        self.assertEqual((wires[0].statuses, heard), ([200], [1]))
        self.assertEqual([wire.closed for wire in wires], [True, False])
        self.clock.pump([1] * (LEAVING + 1))
        self.assertEqual([wire.transport.ended for wire in wires], [False, True])
        self.assertEqual(heard, [1])

    def test_a_request_hears_of_its_end(self) -> None:
        self.send(SLOW)
        heard: list[Any] = []
        self.app.asked[0].notifyFinish().addBoth(heard.append)
        self.app.asked[0].finish()
        self.assertEqual(heard, [None])
        self.wire.leave()

    def test_who_does_not_read_its_answers_is_not_read_either(self) -> None:
        transport = self.wire.transport
        self.send(GET)
        transport.producer.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        self.assertEqual(self.send(GET * 3), [200])
        transport.producer.resumeProducing()
        self.assertEqual(transport.producerState, "producing")
        self.assertEqual(self.wire.statuses, [200] * 4)

    def test_what_nobody_reads_has_a_limit_together(self) -> None:
        self.patch(httpserver, "MOST_UNREAD", 500)
        wires = [Wire(self.server).send(GET) for _ in range(4)]
        for wire, size in zip(wires, (100, 400, 300, 900), strict=True):
            transport: Any = wire.transport
            transport.dataBuffer = b"x" * size
        for wire in wires[:3]:
            wire.transport.producer.pauseProducing()
        self.pass_seconds(1)
        self.assertEqual([wire.transport.ended for wire in wires], [False, True, False, False])

    def test_that_is_so_too_when_an_answer_fills_the_buffer(self) -> None:
        transport = self.wire.transport
        transport.full = True
        self.assertEqual(self.send(GET * 2), [200])
        while transport.producerState == "producing":
            self.assertEqual(self.send(GET), [200])
        sent = len(self.wire.protocol._buffer)
        self.assertLessEqual(sent, EAGER + len(GET))
        transport.full = False
        transport.producer.resumeProducing()
        self.clock.pump([0] * (sent // len(GET) // BURST))
        self.assertEqual(transport.producerState, "producing")
        self.assertEqual(len(self.wire.answers), 1 + sent // len(GET))

    def test_who_sends_much_ahead_has_to_wait(self) -> None:
        self.send(SLOW, b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
        self.assertEqual(self.wire.transport.producerState, "producing")
        self.send(b"x" + GET * (EAGER // len(GET) + 1))
        self.assertEqual(self.wire.transport.producerState, "paused")
        self.app.asked[0].finish()
        while self.clock.getDelayedCalls()[0].getTime() <= self.clock.seconds():
            self.clock.advance(0)
        self.assertEqual(self.wire.transport.producerState, "producing")
        self.assertEqual(len(self.wire.answers), EAGER // len(GET) + 3)

    def test_who_waits_after_very_many_others_is_seen_to_leave(self) -> None:
        for count in (BURST, 2 * BURST + 1):
            wire = Wire(self.server).send(GET * count + SLOW)
            self.clock.pump([0] * 3)
            self.assertEqual(len(wire.answers), count)
            self.assertEqual(wire.transport.producerState, "producing", count)

    def test_who_waits_after_much_else_is_seen_to_leave(self) -> None:
        long = b"GET / HTTP/1.1\r\nX: " + b"y" * EAGER
        self.send(SLOW, long[: MAX_HEAD - 4] + b"\r\n\r\n" + SLOW)
        self.assertEqual(self.wire.transport.producerState, "paused")
        self.app.asked[0].finish()
        self.assertEqual((len(self.wire.answers), len(self.app.asked)), (2, 3))
        self.assertEqual(self.wire.transport.producerState, "producing")

    def test_a_producer_is_told_by_the_transport(self) -> None:
        self.send(SLOW)
        request, transport = self.app.asked[0], self.wire.transport
        producer = Producer()
        request.registerProducer(producer, True)
        request.write(b"a")
        transport.producer.pauseProducing()
        transport.producer.resumeProducing()
        self.assertEqual(producer.told, ["pause", "resume"])
        request.unregisterProducer()
        request.finish()
        transport.producer.pauseProducing()
        self.assertEqual((producer.told, transport.producerState), (["pause", "resume"], "paused"))

    def test_a_producer_may_be_asked_for_each_piece(self) -> None:
        self.send(SLOW)
        producer = Producer()
        self.app.asked[0].registerProducer(producer, False)
        self.assertFalse(self.wire.transport.streaming)
        self.wire.transport.producer.resumeProducing()
        self.assertEqual(producer.told, ["resume"])

    def test_a_producer_that_is_forgotten_does_not_outlive_its_request(self) -> None:
        self.send(SLOW)
        producer = Producer()
        self.app.asked[0].registerProducer(producer, True)
        self.app.asked[0].finish()
        self.assertEqual(self.send(GET), [200, 200])
        self.wire.transport.producer.pauseProducing()
        self.assertEqual(producer.told, [])

    def test_a_request_may_drop_its_client(self) -> None:
        self.send(SLOW)
        transport: Any = self.app.asked[0].transport
        transport.abortConnection()
        self.assertTrue(self.wire.transport.ended)

    def test_at_the_end_only_who_waits_for_an_answer_is_left(self) -> None:
        waiting, sending = Wire(self.server).send(SLOW), Wire(self.server).send(GET[:-1])
        self.assertEqual(close_idle(self.server.connections), 2)
        self.assertEqual([wire.closed for wire in (self.wire, waiting, sending)], [True, False, False])

    def test_and_who_still_reads_the_last_one_is_waited_for(self) -> None:
        transport: Any = self.wire.transport
        self.send(GET)
        transport.dataBuffer = b"x"
        self.assertEqual(close_idle(self.server.connections), 1)
        self.assertTrue(self.wire.closed)
        transport.dataBuffer = b""
        self.assertEqual(close_idle(self.server.connections), 0)


class Producer:
    """Hears what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class Below:
    """A transport over a socket, and one over that."""

    def __init__(self, of: socket.socket) -> None:
        self.dataBuffer = b"not taken"
        self.fileno = of.fileno


class Above:
    """As TLS has it."""

    def __init__(self, below: Below) -> None:
        self.transport = below


class Unread(SynchronousTestCase):
    """What has been written, and is not with the other end yet."""

    def test_what_the_system_has_taken_counts_until_the_other_end_has_it(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(listening.getsockname())
            with listening.accept()[0] as served:
                served.setblocking(False)
                transport = Above(Below(served))
                self.assertEqual(unread(transport), len(b"not taken"))
                served.send(bytes(200_000))
                before = unread(transport)
                self.assertGreater(before, 100_000)
                self.assertEqual(unsent(transport), len(b"not taken"))
                for _ in range(50):
                    client.recv(2_000)
                self.assertLess(unread(transport), before)
        self.assertEqual(unread(transport), len(b"not taken"))  # it is closed
