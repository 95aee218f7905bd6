"""Names to addresses, in threads that may hang."""

import socket
import threading
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from asynctask import threads
from asynctask.deliveries import NoAnswer
from asynctask.fairqueue import AT_ONCE
from asynctask.resolver import MAX_ABANDONED, Resolver
from tests.turns import PATIENCE, Turns


def info(address: str) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))


class NamesTests(SynchronousTestCase):
    """What is asked, and what comes of it."""

    def setUp(self) -> None:
        self.turns = Turns()
        self.asked: list[tuple[str, int]] = []
        self.answers: list[Any] = []
        self.hanging = threading.Event()
        self.addCleanup(self.hanging.set)
        self.names = Resolver(self.turns.callFromThread, self.resolve)
        self.addCleanup(self.names.stop)

    def resolve(self, host: str, port: int, **_: Any) -> Any:
        self.asked.append((host, port))
        if host == "hangs.example":
            self.hanging.wait(PATIENCE)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def lookup(self, host: str) -> list[str]:
        return self.turns.outcome(self.names.lookup(host, 80))

    def test_a_name_has_addresses_each_once_and_in_order(self) -> None:
        self.answers = [[info("192.0.2.2"), info("192.0.2.1"), info("192.0.2.2")]]
        self.assertEqual(self.lookup("a.example"), ["192.0.2.2", "192.0.2.1"])
        self.assertEqual(self.asked, [("a.example", 80)])

    def test_an_address_is_its_own(self) -> None:
        for address in ("192.0.2.1", "2001:db8::1", "::ffff:127.0.0.1"):
            self.assertEqual(self.successResultOf(self.names.lookup(address, 80)), [address])
        self.assertEqual(self.asked, [])

    def test_other_ways_to_write_an_address_are_left_to_the_resolver(self) -> None:
        real = Resolver(self.turns.callFromThread)
        self.addCleanup(real.stop)
        for text in ("127.1", "0x7f000001", "2130706433", "localhost"):
            self.assertIn("127.0.0.1", self.turns.outcome(real.lookup(text, 80)), text)

    def test_without_threads_no_name_is_resolved_now(self) -> None:
        def no_more(**_: object) -> None:
            raise RuntimeError("can't start new thread")

        self.patch(threads, "Thread", no_more)
        error = self.failureResultOf(self.names.lookup("a.example", 80), NoAnswer)
        self.assertEqual(error.getErrorMessage(), "No name can be resolved now")

    def test_a_name_that_cannot_be_resolved(self) -> None:
        for error in (socket.gaierror(-2, "not known"), UnicodeError("label too long"), OSError("no")):
            self.answers = [error]
            refusal = self.assertRaises(NoAnswer, self.lookup, "a.example")
            self.assertEqual(str(refusal), "The name 'a.example' cannot be resolved")

    def test_a_bug_is_not_hidden(self) -> None:
        self.answers = [TypeError("a bug")]
        self.assertRaises(TypeError, self.lookup, "a.example")

    def test_a_name_that_hangs_is_given_up_and_holds_up_no_other(self) -> None:
        hanging = [self.names.lookup("hangs.example", 80) for _ in range(AT_ONCE)]
        for lookup in hanging:
            lookup.cancel()
            self.failureResultOf(lookup, CancelledError)
        self.answers = [[info("192.0.2.1")]]
        self.assertEqual(self.lookup("a.example"), ["192.0.2.1"])

    def test_only_so_many_threads_hang(self) -> None:
        self.names._threads.abandoned = MAX_ABANDONED
        refusal = self.failureResultOf(self.names.lookup("a.example", 80), NoAnswer)
        self.assertEqual(refusal.getErrorMessage(), "No name can be resolved now")
        self.assertEqual(self.successResultOf(self.names.lookup("192.0.2.1", 80)), ["192.0.2.1"])
