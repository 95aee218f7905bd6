"""Who waits for the end of a task, and who follows what happens."""

import contextlib
import json
import re
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from asynctask import feed as feeds
from asynctask.feed import BEAT, CHUNK, ITEM, RING_BYTES, SERVED, WRITTEN, Feed
from asynctask.model import ENDED, Deleted, Error, News, Progress, Status, Task
from asynctask.sse import Filter, Position, Progressed

TASK, OTHER = "task_1", "task_2"


class FeedTests(SynchronousTestCase):
    """`Feed`."""

    def setUp(self) -> None:
        self.feed = Feed(Clock())

    def publish(self, task_id: str, status: Status) -> None:
        task = Task(task_id, "a", "simulate", status, 1, 0, 0)
        self.feed.publish(self.feed.now.seq, [task])

    def assert_nobody_waits(self) -> None:
        self.assertEqual(self.feed._waiting, {})

    def test_every_way_to_end_is_one(self) -> None:
        for status in ENDED:
            waiter = self.feed.ended(TASK)
            self.publish(TASK, status)
            self.assertIsNone(self.successResultOf(waiter))
        self.assert_nobody_waits()

    def test_other_changes_are_no_end(self) -> None:
        waiter = self.feed.ended(TASK)
        for status in set(Status) - ENDED:
            self.publish(TASK, status)
        self.assertNoResult(waiter)

    def test_the_end_of_another_task_is_not_this_one_s(self) -> None:
        waiter = self.feed.ended(TASK)
        self.publish(OTHER, Status.COMPLETED)
        self.assertNoResult(waiter)

    def test_all_who_wait_hear_of_it_once(self) -> None:
        waiters = [self.feed.ended(TASK) for _ in range(3)]
        self.publish(TASK, Status.FAILED)
        self.publish(TASK, Status.COMPLETED)
        self.assertEqual([self.successResultOf(waiter) for waiter in waiters], [None] * 3)

    def test_who_comes_later_waits_for_the_next_end(self) -> None:
        self.publish(TASK, Status.FAILED)
        self.assertNoResult(self.feed.ended(TASK))

    def test_who_leaves_is_not_waited_for(self) -> None:
        leaves, stays = self.feed.ended(TASK), self.feed.ended(TASK)
        leaves.cancel()
        self.failureResultOf(leaves, CancelledError)
        self.publish(TASK, Status.COMPLETED)
        self.assertIsNone(self.successResultOf(stays))
        self.assert_nobody_waits()

    def test_the_last_one_who_leaves_takes_everything_along(self) -> None:
        waiters = [self.feed.ended(task_id) for task_id in (TASK, TASK, OTHER)]
        for waiter in waiters:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        self.assert_nobody_waits()

    def test_who_has_heard_may_leave_too(self) -> None:
        waiter = self.feed.ended(TASK)
        self.publish(TASK, Status.COMPLETED)
        waiter.cancel()
        self.assertIsNone(self.successResultOf(waiter))

    def test_who_hears_of_it_may_wait_again(self) -> None:
        again: list[Deferred[None]] = []
        self.feed.ended(TASK).addCallback(lambda _: again.append(self.feed.ended(TASK)))
        self.publish(TASK, Status.FAILED)
        self.assertNoResult(again[0])
        self.publish(TASK, Status.COMPLETED)
        self.assertIsNone(self.successResultOf(again[0]))

    def test_a_task_that_is_deleted_is_no_end(self) -> None:
        waiter = self.feed.ended(TASK)
        self.feed.publish(self.feed.now.seq, [Deleted(OTHER, "simulate"), Deleted(TASK, "simulate")])
        self.assertNoResult(waiter)

    def test_it_is_wanted_as_long_as_anybody_waits_or_follows(self) -> None:
        self.assertFalse(self.feed.wanted)
        waiter = self.feed.ended(TASK)
        self.assertTrue(self.feed.wanted)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.assertFalse(self.feed.wanted)
        reader = Reader(self.feed)
        self.assertTrue(self.feed.wanted)
        reader.leave()
        one = OneReader(self.feed, TASK)
        self.assertTrue(self.feed.wanted)
        self.feed.leave(one, TASK)
        self.assertFalse(self.feed.wanted)

    def test_when_the_service_stops_nobody_waits_any_more(self) -> None:
        waiters = [self.feed.ended(task_id) for task_id in (TASK, TASK, OTHER)]
        self.feed.close()
        waiters.append(self.feed.ended(TASK))
        self.assertEqual([self.successResultOf(waiter) for waiter in waiters], [None] * 4)
        self.assert_nobody_waits()


ANY = Filter()


class Reader:
    """One who follows all tasks, and reads when it is told to; also `Follower`."""

    def __init__(self, feed: Feed, of: Filter = ANY) -> None:
        self.feed = feed
        self.of = of
        self.at = feed.join(self, None)
        self.frames = b""
        self.served = 0
        self.beats = 0
        self.resets = 0
        self.ended = False
        self.lost = False

    def serve(self) -> None:
        self.served += 1
        while (read := self.feed.read(self.of, self.at)) and read.at != self.at:
            self.at, self.frames = read.at, self.frames + read.frames
        self.lost = read is None

    def hear(self, news: News | Progressed) -> None:
        raise AssertionError("this is for those who follow one task")

    def reset(self) -> None:
        self.resets += 1

    def beat(self) -> None:
        self.beats += 1

    def end(self) -> None:
        self.ended = True

    def leave(self) -> None:
        self.feed.leave(self, None)

    @property
    def told(self) -> list[str]:
        """The names of the tasks that it was told of."""
        return [json.loads(data)["name"] for data in re.findall(b"^data: (.*)$", self.frames, re.M)]


class OneReader(Reader):
    """One who follows one task."""

    def __init__(self, feed: Feed, task_id: str) -> None:
        self.feed = feed
        self.heard: list[News | Progressed] = []
        feed.join(self, task_id)

    def hear(self, news: News | Progressed) -> None:
        self.heard.append(news)


def task(name: str, **given: Any) -> Task:
    return Task(f"task_{name}", name, "simulate", Status.RUNNING, 1, 0, 0, **given)


class Turned(Clock):
    """Counts the turns of the reactor that were asked for."""

    turns = 0

    def callLater(self, delay: float, *args: Any, **kwargs: Any) -> IDelayedCall:
        self.turns += delay == 0
        return super().callLater(delay, *args, **kwargs)


class FollowedTests(SynchronousTestCase):
    """What is told to those who follow."""

    def setUp(self) -> None:
        self.clock = Turned()
        self.feed = self.new_feed(5)

    def new_feed(self, capacity: int) -> Feed:
        feed = Feed(self.clock, capacity)
        feed.begin("e", 7)
        return feed

    def publish(self, *names: str) -> None:
        self.feed.publish(self.feed.now.seq, [task(name) for name in names])

    def turn(self) -> None:
        self.clock.advance(0)

    def test_each_change_comes_once_in_order_with_where_one_is_then(self) -> None:
        reader = Reader(self.feed)
        self.publish("a", "b")
        self.publish("c")
        self.turn()
        self.assertEqual(reader.told, ["a", "b", "c"])
        self.assertEqual(re.findall(b"^id: (.*)$", reader.frames, re.M), [b"e.8.1", b"e.9.0", b"e.10.0"])

    def test_all_that_happens_in_one_turn_is_served_once(self) -> None:
        reader = Reader(self.feed)
        for name in "abc":
            self.publish(name)
        self.assertEqual(reader.served, 0)
        self.turn()
        self.assertEqual((reader.served, reader.told), (1, ["a", "b", "c"]))

    def test_who_joins_hears_of_nothing_earlier(self) -> None:
        first = Reader(self.feed)
        self.publish("a")
        second = Reader(self.feed)
        self.publish("b")
        self.turn()
        self.assertEqual((first.told, second.told), (["a", "b"], ["b"]))

    def test_who_is_faster_than_the_ring_never_loses_it(self) -> None:
        reader = Reader(self.feed)
        names = [str(number) for number in range(23)]
        for name in names:
            self.publish(name)
            self.turn()
        self.assertEqual((reader.told, reader.lost), (names, False))

    def test_who_is_slower_than_the_ring_is_told_that_it_was_lost(self) -> None:
        reader = Reader(self.feed)
        self.publish(*"abcde")
        self.assertIsNotNone(self.feed.read(Filter(), reader.at))
        self.publish("f")
        self.assertIsNone(self.feed.read(Filter(), reader.at))
        self.turn()
        self.assertEqual((reader.told, reader.lost), ([], True))

    def test_where_one_is_found_again_as_far_back_as_the_ring_reaches(self) -> None:
        start = Reader(self.feed).at
        self.publish("a", "b")
        self.feed.report(task("a"), Progress(1, 2))
        self.publish("c", "d", "e")
        self.assertEqual(self.feed.now, Position(10))
        for position, at in (
            (Position(8), None),
            (Position(8, 1), None),  # it is where the ring begins, but not in it
            (Position(9), start + 2),
            (Position(9, 1), start + 4),
            (Position(9, 2), start + 5),
            (Position(10), start + 6),
            (Position(8, 2), None),
            (Position(7), None),
            (Position(11), None),
        ):
            self.assertEqual(self.feed.find(position), at, position)

    def test_a_number_that_was_left_out_is_no_news_to_read_over(self) -> None:
        reader = Reader(self.feed)
        self.publish("a")
        self.turn()
        self.feed.publish(self.feed.now.seq + 1, [task("c")])
        self.assertIsNone(self.feed.find(Position(9)))
        self.turn()
        self.assertEqual((reader.told, reader.lost), (["a"], True))
        late = self.feed.find(Position(11))
        self.publish("d")
        assert late is not None
        read = self.feed.read(Filter(), late)
        assert read is not None
        self.assertIn(b'"name":"d"', read.frames)
        self.assertNotIn(b'"name":"c"', read.frames)

    def test_nothing_is_kept_for_nobody(self) -> None:
        self.publish("a")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        first, second = Reader(self.feed), Reader(self.feed)
        self.publish("b")
        first.leave()
        self.assertEqual(len(self.feed._ring), 1)
        second.leave()
        self.assertEqual((self.feed._ring, self.feed._ring_bytes), ({}, 0))
        again = Reader(self.feed)
        self.publish("c")
        self.turn()
        self.assertEqual(again.told, ["c"])

    def test_what_is_not_told_is_not_kept(self) -> None:
        Reader(self.feed)
        large = replace(task("a"), input="x" * 60_000, result="y" * 1_000_000, history="z" * 60_000)
        self.feed.publish(self.feed.now.seq, [large])
        (kept,) = [item.news for item in self.feed._ring.values()]
        self.assertEqual(kept, task("a"))

    def test_long_messages_are_kept_for_less_long(self) -> None:
        self.feed = self.new_feed(100)
        reader = Reader(self.feed)
        error = Error("ValueError", "x" * (RING_BYTES // WRITTEN // 2 - ITEM))
        for name in "abc":
            self.feed.publish(self.feed.now.seq, [replace(task(name), error=error)])
        self.assertEqual([item.news.task_id for item in self.feed._ring.values()], ["task_b", "task_c"])
        self.assertLessEqual(self.feed._ring_bytes, RING_BYTES)
        self.turn()
        self.assertTrue(reader.lost)

    def test_who_has_left_leaves_again_without_harm(self) -> None:
        reader, one = Reader(self.feed), OneReader(self.feed, "task_a")
        for _ in range(2):
            reader.leave()
            self.feed.leave(one, "task_a")
        self.assertEqual((self.feed.followers, self.feed._one), (0, {}))

    def test_who_leaves_takes_no_other_follower_of_the_task_along(self) -> None:
        leaves, stays = OneReader(self.feed, "task_a"), OneReader(self.feed, "task_a")
        self.feed.leave(leaves, "task_a")
        self.publish("a")
        self.assertEqual((leaves.heard, stays.heard), ([], [task("a")]))

    def test_many_are_served_in_portions(self) -> None:
        self.feed = self.new_feed(100)
        readers = [Reader(self.feed) for _ in range(2 * SERVED + 1)]
        self.publish("a")
        self.turn()
        self.assertEqual(self.clock.turns, 3)
        self.assertEqual([reader.told for reader in readers], [["a"]] * len(readers))

    def test_news_while_some_are_served_are_for_all(self) -> None:
        readers = [Reader(self.feed) for _ in range(SERVED + 1)]

        class Talker(Reader):
            def serve(talker) -> None:
                if not talker.served:
                    self.publish("b")
                super().serve()

        talker = Talker(self.feed)
        self.publish("a")
        self.turn()
        self.assertEqual([each.told for each in (*readers, talker)], [["a", "b"]] * (len(readers) + 1))

    def test_those_who_are_at_one_place_read_the_same_bytes(self) -> None:
        readers = [Reader(self.feed), Reader(self.feed), Reader(self.feed, Filter("other"))]
        self.publish("a")
        first, second, other = [self.feed.read(reader.of, reader.at) for reader in readers]
        self.assertIs(first, second)
        assert other is not None
        self.assertEqual((other.frames, other.position), (b"", Position(9)))

    def test_what_was_read_together_is_not_kept(self) -> None:
        reader = Reader(self.feed)
        self.publish("a")
        self.turn()
        self.feed.read(Filter(), reader.at)
        self.assertEqual(len(self.feed._together), 2)
        self.clock.advance(BEAT)
        self.assertEqual(self.feed._together, {})

    def test_a_read_is_about_a_chunk(self) -> None:
        self.feed = self.new_feed(1_000)
        reader = Reader(self.feed)
        self.publish(*map(str, range(200)))
        read = self.feed.read(Filter(), reader.at)
        assert read is not None
        self.assertTrue(CHUNK <= len(read.frames) < CHUNK + 1_000)
        self.assertEqual(read.position, Position(8, read.at - reader.at))
        self.turn()
        self.assertEqual(len(reader.told), 200)

    def test_a_filter_lets_pass_what_it_asks_for_and_goes_on(self) -> None:
        reader = Reader(self.feed, Filter("other"))
        self.publish("a")
        self.feed.publish(self.feed.now.seq, [replace(task("b"), kind="other"), Deleted("x", "simulate")])
        self.turn()
        self.assertEqual((reader.told, reader.lost), (["b"], False))

    def test_who_follows_one_hears_of_this_one_only(self) -> None:
        one, two = OneReader(self.feed, "task_a"), OneReader(self.feed, "task_b")
        self.publish("a", "c")
        self.feed.report(task("a"), Progress(1, 2))
        self.feed.report(task("c"), Progress(1, 2))
        self.feed.publish(self.feed.now.seq, [Deleted("task_a", "simulate")])
        self.assertEqual(
            one.heard,
            [
                task("a"),
                Progressed("task_a", "simulate", 1, Progress(1, 2)),
                Deleted("task_a", "simulate"),
            ],
        )
        self.assertEqual((two.heard, self.feed.followers), ([], 2))

    def test_progress_is_told_to_those_who_follow_and_has_no_place(self) -> None:
        self.feed.report(task("a"), Progress(0, 3))
        reader = Reader(self.feed)
        self.feed.report(task("a"), Progress(1, 3, "half"))
        self.publish("b")
        self.turn()
        progress, change, _ = reader.frames.split(b"\n\n")
        self.assertEqual(
            progress,
            b'event: progress\ndata: {"task_id":"task_a","attempt":1,'
            b'"progress":{"step":1,"total":3,"message":"half"}}',
        )
        self.assertTrue(change.endswith(b"id: e.9.0"))

    def test_long_messages_of_progress_are_kept_for_less_long_too(self) -> None:
        self.feed = self.new_feed(100)
        Reader(self.feed)
        message = "x" * (RING_BYTES // WRITTEN // 2 - ITEM)
        for step in range(3):
            self.feed.report(task("a"), Progress(step, 3, message))
        kept = [item.news for item in self.feed._ring.values()]
        self.assertEqual([one.progress.step for one in kept if isinstance(one, Progressed)], [1, 2])

    def test_nobody_is_told_of_progress_that_was_before_he_came(self) -> None:
        Reader(self.feed)
        self.publish("a")
        self.feed.report(task("a"), Progress(1, 3))
        self.publish("b")
        late = Reader(self.feed)
        begin = self.feed.find(Position(9))
        assert begin is not None
        self.feed.report(task("a"), Progress(2, 3))
        for joined, steps in ((late.at, [b"2"]), (0, [b"1", b"2"])):
            read = self.feed.read(ANY, begin, joined)
            assert read is not None
            self.assertEqual(re.findall(rb'"step":(\d)', read.frames), steps)
            self.assertIn(b'"name":"b"', read.frames)

    def test_nor_is_he_told_of_what_came_right_before_him(self) -> None:
        Reader(self.feed)
        self.publish("a")
        self.publish("b")
        self.feed.report(task("b"), Progress(1, 3))
        begin, joined = self.feed.find(Position(9)), Reader(self.feed).at
        assert begin is not None
        read = self.feed.read(ANY, begin, joined)
        assert read is not None
        self.assertEqual((read.at, read.frames.count(b"event: progress")), (joined, 0))

    def test_many_who_follow_one_task_are_told_in_portions_and_in_order(self) -> None:
        readers = [OneReader(self.feed, "task_a") for _ in range(2 * SERVED + 1)]
        self.publish("a")
        self.feed.report(task("a"), Progress(1, 2))
        self.assertEqual(sum(len(reader.heard) for reader in readers), SERVED)
        self.turn()
        self.assertEqual({tuple(map(type, reader.heard)) for reader in readers}, {(Task, Progressed)})
        self.assertEqual(self.clock.turns, 4)

    def test_progress_is_not_told_to_so_many_that_it_would_wait_ever_longer(self) -> None:
        self.patch(feeds, "UNHEARD", SERVED)
        readers = [OneReader(self.feed, "task_a") for _ in range(2 * SERVED + 1)]
        self.publish("a")
        self.feed.report(task("a"), Progress(1, 2))
        self.publish("a")
        self.turn()
        self.assertEqual({tuple(map(type, reader.heard)) for reader in readers}, {(Task, Task)})

    def test_many_have_their_beat_in_portions(self) -> None:
        readers = [Reader(self.feed) for _ in range(2 * SERVED + 1)]
        for beats in (1, 2):
            self.clock.advance(BEAT)
            self.assertEqual([reader.beats for reader in readers], [beats] * len(readers))
            self.assertEqual(self.clock.turns, 2 * beats)

    def test_one_that_fails_stops_nobody_else(self) -> None:
        class Failing(OneReader):
            def hear(self, news: News | Progressed) -> None:
                raise ZeroDivisionError

            beat = serve = None  # type: ignore[assignment]

        Failing(self.feed, "task_a")
        readers = [OneReader(self.feed, "task_a") for _ in range(SERVED)]
        for reader in readers:
            reader.beats = 0
        with self.assertRaises(ZeroDivisionError):
            self.publish("a")
            self.turn()
        while self.feed._told:
            self.turn()
        self.assertEqual({len(reader.heard) for reader in readers}, {1})
        for _ in range(3):
            with contextlib.suppress(TypeError):
                self.clock.advance(BEAT)
        while self.feed._beaten:
            self.turn()
        self.assertGreaterEqual(min(reader.beats for reader in readers), 2)

    def test_a_beat_comes_each_second_while_somebody_follows(self) -> None:
        reader = Reader(self.feed)
        self.clock.pump([BEAT] * 3)
        self.assertEqual(reader.beats, 3)
        reader.leave()
        self.clock.advance(BEAT)
        self.assertEqual((reader.beats, self.clock.getDelayedCalls()), (3, []))

    def test_the_end_of_the_service_is_the_end_for_all_who_follow(self) -> None:
        readers = [Reader(self.feed), OneReader(self.feed, "task_a")]
        self.publish("a")
        self.feed.end()
        self.assertEqual([reader.ended for reader in readers], [True, True])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_has_happened_is_told_before_the_end_of_the_service(self) -> None:
        of_all = Reader(self.feed)
        readers = [OneReader(self.feed, "task_a") for _ in range(SERVED + 1)]
        self.publish("a")
        self.feed.end()
        self.assertEqual(of_all.told, ["a"])
        self.assertEqual([len(reader.heard) for reader in readers], [1] * len(readers))
