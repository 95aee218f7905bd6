"""What a supervisor and its processes say to each other."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from asynctask import pipes
from asynctask.aggregation import Family, Sample
from asynctask.listening import Shared
from asynctask.pipes import CONTINUED, PATIENCE, Asked, Lines, Pipes, Setting, Sum, Tell, Told, Up
from asynctask.problems import Unavailable

FAMILIES = [Family("asynctask_x", "counter", "X.", [Sample("asynctask_x_total", {"kind": "a\nb"}, 2.5)])]


class Cutting(SynchronousTestCase):
    """Lines, from pieces."""

    @given(st.lists(st.binary(max_size=5)))
    def test_nothing_is_lost_and_no_line_is_torn(self, pieces: list[bytes]) -> None:
        lines = Lines()
        taken = [lines.take(piece) for piece in pieces]
        for whole in taken:
            self.assertTrue(not whole or whole.endswith(b"\n"))
        rest = lines.rest()
        self.assertNotIn(b"\n", rest)
        self.assertEqual(b"".join(taken) + rest, b"".join(pieces))
        self.assertEqual(lines.rest(), b"")

    @given(st.lists(st.text("ab\n", max_size=5).map(str.encode)))
    def test_of_a_line_without_an_end_only_so_much_is_kept(self, pieces: list[bytes]) -> None:
        lines = Lines(6)
        taken = b""
        for number, piece in enumerate(pieces, 1):
            taken += lines.take(piece)
            left = sum(map(len, pieces[:number])) - len(taken.replace(CONTINUED, b""))
            self.assertLessEqual(left, 6)
        self.assertEqual((taken + lines.rest()).replace(CONTINUED, b""), b"".join(pieces))

    def test_what_is_too_much_is_given_with_all_before_it_and_the_next_line_is_whole(self) -> None:
        lines = Lines(6)
        self.assertEqual(
            [lines.take(piece) for piece in (b"abcd", b"ef", b"g", b"hi\njk")],
            [b"", b"", b"abcdefg", b"  hi\n"],
        )
        self.assertEqual(lines.rest(), b"jk")

    def test_nothing_is_left_of_a_line_that_was_given(self) -> None:
        lines = Lines(6)
        self.assertEqual((lines.take(b"abcdefg"), lines.rest()), (b"abcdefg", b""))


class TheSetting(SynchronousTestCase):
    """What makes a process one of many."""

    def test_it_comes_as_it_was_given(self) -> None:
        given = Setting(2, 17, "/srv/näh", Shared(descriptor=5))
        self.assertEqual(pipes.read(pipes.encode(given)), given)

    def test_a_process_that_is_alone_has_none(self) -> None:
        self.assertIsNone(pipes.read(None))


class TheProcess(SynchronousTestCase):
    """The process's end."""

    def setUp(self) -> None:
        self.lost = 0
        self.clock = Clock()
        self.pipes = Pipes(lambda: FAMILIES, self.lose, self.clock)
        self.transport = StringTransport()
        self.pipes.makeConnection(self.transport)

    def lose(self) -> None:
        self.lost += 1

    def said(self) -> list[pipes.Upwards]:
        words = [pipes.heard_from_below(line) for line in self.transport.value().splitlines()]
        self.transport.clear()
        return words

    def test_it_tells_that_it_serves(self) -> None:
        self.pipes.up("http://127.0.0.1:1")
        self.pipes.up(None)
        self.assertEqual(self.said(), [Up("http://127.0.0.1:1"), Up(None)])

    def test_it_tells_its_numbers_when_asked(self) -> None:
        self.pipes.dataReceived(pipes.dump(Tell(9)))
        self.assertEqual(self.said(), [Told(9, FAMILIES)])

    def test_each_question_has_its_answer_in_whatever_pieces(self) -> None:
        first, second = self.pipes.everyone(), self.pipes.everyone()
        asked = [word.question for word in self.said() if isinstance(word, Asked)]
        answers = pipes.dump(Sum(asked[1], FAMILIES)) + pipes.dump(Sum(asked[0], []))
        self.pipes.dataReceived(answers[:10])
        self.assertNoResult(second)
        self.pipes.dataReceived(answers[10:])
        self.assertEqual(self.successResultOf(first), [])
        self.assertEqual(self.successResultOf(second), FAMILIES)

    def test_an_answer_that_nobody_waits_for_any_more_is_dropped(self) -> None:
        asked = self.pipes.everyone()
        failed: list[Failure] = []
        asked.addErrback(failed.append)
        asked.cancel()
        self.assertEqual((self.pipes._waiting, self.clock.getDelayedCalls()), ({}, []))
        self.pipes.dataReceived(pipes.dump(Sum(0, [])) + pipes.dump(Sum(5, [])))
        self.assertEqual(len(self.said()), 1)
        self.assertIs(failed[0].type, CancelledError)

    def test_a_question_that_was_lost_is_not_waited_for(self) -> None:
        asked = self.pipes.everyone()
        self.clock.advance(PATIENCE)
        self.failureResultOf(asked, Unavailable)
        self.pipes.dataReceived(pipes.dump(Sum(0, [])))
        self.assertEqual((self.pipes._waiting, self.clock.getDelayedCalls()), ({}, []))

    def test_it_hears_that_the_supervisor_has_gone(self) -> None:
        self.pipes.connectionLost()
        self.assertEqual(self.lost, 1)
