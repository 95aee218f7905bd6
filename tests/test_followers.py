"""Those who follow over HTTP: in memory, over a real store and a clock that the test moves."""

from typing import Any

from sqlalchemy import text
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from asynctask import api, sse, wire
from asynctask.followers import PATIENCE, TRY_AGAIN
from asynctask.model import CANCELLED, Deleted, Task
from asynctask.problems import Unavailable
from asynctask.sse import COMMENT_EVERY, Position
from tests.following import Following
from tests.test_api import ApiTestCase

LIFE = ["accepted 0", "running 1"]


class FollowTestCase(ApiTestCase):
    """A service in memory that is followed."""

    def follow(self, path: str, method: str = "GET", **headers: str) -> Following:
        following = Following(self.server, path, method, **headers)
        self.settle()
        return following

    def follow_one(self, task_id: str, **headers: str) -> Following:
        return self.follow(f"/api/tasks/{task_id}/events", **headers)

    def follow_all(self, query: str = "", **headers: str) -> Following:
        return self.follow("/api/events" + query, **headers)

    def act(self, task_id: str, what: str) -> None:
        self.assertIn(self.post(b"", f"/api/tasks/{task_id}/{what}").status, (200, 202))
        self.settle()

    def delete(self, task_id: str) -> None:
        self.assertEqual(self.request("DELETE", f"/api/tasks/{task_id}").status, 204)
        self.settle()

    def fail_reads(self, times: int) -> None:
        """Let the store be unreadable so often."""
        read, left = self.store._read, [times]

        def fail(run: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise Unavailable("The store does not answer now")
            return read(run)

        self.store._read = fail  # type: ignore[method-assign,assignment]


class OneTests(FollowTestCase):
    """GET /api/tasks/{task_id}/events."""

    def test_progress_of_an_attempt_that_is_over_is_no_news(self) -> None:
        task_id = self.submit(duration=9, timeout=1.5, retries=1)
        self.advance(1)
        self.clock.advance(0.5)
        self.settle()
        self.assertEqual(self.follow_one(task_id).told, [*LIFE, "retrying 1"])

    def test_it_begins_with_the_past_and_ends_with_the_task(self) -> None:
        task_id = self.submit(duration=2)
        self.advance(1)
        following = self.follow_one(task_id)
        self.assertEqual(following.told, [*LIFE, "progress 1"])
        self.assertFalse(following.over)
        self.advance(1)
        self.assertEqual(following.told, [*LIFE, "progress 1", "progress 2", "completed 1"])
        self.assertTrue(following.over)
        self.assertEqual(self.feed.followers, 0)

    def test_its_head_is_that_of_a_stream(self) -> None:
        following = self.follow_one(self.submit())
        self.assertEqual(following.status, 200)
        for name, value in (
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-store"),
            ("X-Accel-Buffering", "no"),
            ("Content-Length", None),
            ("Connection", "close"),
            ("Access-Control-Allow-Origin", None),
        ):
            self.assertEqual(following.header(name), value)
        self.assertRegex(following.header("Last-Event-ID") or "", r"\.0\Z")

    def test_head_is_answered_like_get_but_for_the_stream(self) -> None:
        path = f"/api/tasks/{self.submit()}/events"
        for following in (self.follow(path, "HEAD"), self.follow("/api/events", "HEAD")):
            self.assertEqual((following.status, following.body), (200, b""))
            self.assertEqual(following.header("Content-Type"), "text/event-stream")
            self.assertIsNone(following.header("Content-Length"))
        self.assertEqual(self.feed.followers, 0)
        self.patch(api, "MAX_FOLLOWERS", 0)
        self.assertEqual(self.follow(path, "HEAD").status, 503)

    def test_who_leaves_while_the_task_is_looked_for_does_not_stay(self) -> None:
        following = Following(self.server, f"/api/tasks/{self.submit()}/events", "GET")
        following.leave()
        self.settle()
        self.assertFalse(following.answered)
        self.assertEqual(self.feed.followers, 0)

    def test_changes_that_are_no_longer_kept_are_a_reset(self) -> None:
        task_id = self.submit(delay=100)
        entries = f",{wire.entry_json('2026-11-24T18:00:00.000Z', CANCELLED, 0)}" * 4
        given = {"entries": entries}
        statement = text("UPDATE task SET changes = changes || :entries, n = 9")
        self.turns.outcome(self.store._writer.call(lambda db, _: db.execute(statement, given).rowcount))
        for last, told in ((None, 5), (4, 1), (5, 0), (7, 0)):
            fields = {} if last is None else {"Last_Event_ID": sse.count_id(task_id, last)}
            following = self.follow_one(task_id, **fields)
            numbers = [event.id for event in following.events]
            ends = [sse.count_id(task_id, number) for number in (8, 9)]
            self.assertEqual(numbers[told:], ends, last)
            self.assertEqual(following.told[told:], ["reset", "accepted 0"])
            following.leave()
        self.assertEqual(
            self.follow_one(task_id, Last_Event_ID=sse.count_id(task_id, 8)).told, ["accepted 0"]
        )

    def test_what_is_told_live_is_what_the_past_tells(self) -> None:
        live = self.follow_one(task_id := self.submit(delay=1, duration=1))
        self.advance(3)
        past = self.follow_one(task_id)
        self.assertEqual([event.id for event in past.events], [e.id for e in live.events if e.id])
        self.assertEqual(past.events[-1].data, live.events[-1].data)

    def test_who_was_cut_off_goes_on_there(self) -> None:
        first = self.follow_one(task_id := self.submit(duration=2))
        first.leave()
        self.assertEqual(self.feed.followers, 0)
        self.advance(2)
        again = self.follow_one(task_id, Last_Event_ID=first.last_id)
        self.assertEqual(again.told, ["completed 1"])
        self.assertTrue(again.over)

    def test_who_knows_the_end_is_told_that_there_is_no_more(self) -> None:
        following = self.follow_one(task_id := self.submit(duration=0))
        self.assertEqual(following.told, [*LIFE, "completed 1"])
        again = self.follow_one(task_id, Last_Event_ID=following.last_id)
        self.assertEqual((again.status, again.body), (204, b""))
        self.assertIsNone(again.header("Content-Type"))

    def test_a_task_that_was_retried_by_hand_goes_on(self) -> None:
        following = self.follow_one(task_id := self.submit(delay=50))
        self.act(task_id, "cancel")
        self.assertEqual(following.told, ["accepted 0", "cancelled 0"])
        self.assertTrue(following.over)
        self.act(task_id, "retry")
        again = self.follow_one(task_id, Last_Event_ID=following.last_id)
        self.assertEqual(again.told, LIFE)
        self.assertFalse(again.over)
        self.advance(3)
        self.assertEqual(again.told[-1], "completed 1")

    def test_who_comes_while_it_runs_again_hears_of_the_end_before_too(self) -> None:
        task_id = self.submit(delay=50)
        self.act(task_id, "cancel")
        self.act(task_id, "retry")
        following = self.follow_one(task_id)
        self.assertEqual(following.told, ["accepted 0", "cancelled 0", *LIFE])
        self.assertFalse(following.over)

    def test_a_position_that_is_none_gives_a_reset_and_what_follows(self) -> None:
        task_id = self.submit(duration=2)
        for position in ("nonsense", "ü", f"{'0' * 16}.1", f"{task_id[-16:]}.99", "x" * 5_000):
            following = self.follow_one(task_id, Last_Event_ID=position)
            self.assertEqual(following.told[:1], ["reset"], position)
            self.assertRegex(following.events[0].id or "", r"\.2\Z")
        self.advance(2)
        self.assertEqual(following.told, ["reset", "progress 1", "progress 2", "completed 1"])

    def test_an_ended_task_gives_a_reset_and_then_nothing(self) -> None:
        task_id = self.submit(duration=0)
        following = self.follow_one(task_id, Last_Event_ID="nonsense")
        self.assertEqual(following.told, ["reset"])
        self.assertTrue(following.over)
        self.assertEqual(self.follow_one(task_id, Last_Event_ID=following.last_id).status, 204)

    def test_no_such_task(self) -> None:
        for task_id in ("nonsense", "task_17000000000000" + "0" * 16):
            answer = self.get(f"/api/tasks/{task_id}/events")
            self.assertEqual(
                (answer.status, answer.header("Content-Type")), (404, "application/problem+json")
            )

    def test_there_are_no_parameters(self) -> None:
        answer = self.get(f"/api/tasks/{self.submit()}/events?kind=simulate")
        self.assert_problem(answer, 400, "Unknown parameter 'kind'")

    def test_head_tells_what_get_would_and_ends(self) -> None:
        task_id = self.submit(duration=0)
        for path in (f"/api/tasks/{task_id}/events", "/api/events"):
            following = self.follow(path, "HEAD")
            self.assertEqual((following.status, following.body), (200, b""))
            self.assertEqual(following.header("Content-Type"), "text/event-stream")
        last = self.follow_one(task_id).last_id
        self.assertEqual(
            self.request("HEAD", f"/api/tasks/{task_id}/events", Last_Event_ID=last).status, 204
        )
        self.assertEqual(self.request("HEAD", "/api/tasks/nonsense/events").status, 404)
        self.assertEqual(self.feed.followers, 0)

    def test_who_pauses_is_told_afterwards_what_the_task_did(self) -> None:
        following = self.follow_one(task_id := self.submit(duration=3))
        following.pause()
        self.advance(2)
        self.assertEqual(following.told, LIFE)
        following.resume()
        self.settle()
        self.assertEqual(following.told, LIFE)
        self.advance(1)
        self.assertEqual(following.told, [*LIFE, "progress 3", "completed 1"])
        self.assertEqual(self.follow_one(task_id).told, [*LIFE, "completed 1"])

    def test_who_pauses_through_the_end_is_told_it(self) -> None:
        following = self.follow_one(self.submit(duration=1))
        following.pause()
        self.advance(2)
        following.resume()
        self.settle()
        self.assertEqual(following.told, [*LIFE, "completed 1"])
        self.assertTrue(following.over)

    def test_who_pauses_through_an_end_and_a_retry_is_told_both(self) -> None:
        following = self.follow_one(task_id := self.submit(delay=50))
        following.pause()
        self.act(task_id, "cancel")
        self.act(task_id, "retry")
        following.resume()
        self.settle()
        self.assertEqual(following.told, ["accepted 0", "cancelled 0", *LIFE])
        self.assertFalse(following.over)

    def test_who_pauses_while_the_past_is_told_goes_on_with_it(self) -> None:
        following = Following(self.server, f"/api/tasks/{self.submit(duration=5)}/events", "GET")
        while not following.answered:
            self.turns.turn()
        following.pause()
        self.settle()
        self.assertEqual(following.told, [])
        following.resume()
        self.settle()
        self.assertEqual(following.told, LIFE)

    def test_for_who_pauses_the_past_is_not_read_again_and_again(self) -> None:
        reads: list[str] = []
        get = self.store.get

        def counted(task_id: str) -> Deferred[Task | None]:
            reads.append(task_id)
            return get(task_id)

        self.patch(self.store, "get", counted)
        following = Following(self.server, f"/api/tasks/{self.submit(duration=5)}/events", "GET")
        while not following.answered:
            self.turns.turn()
        following.pause()
        self.settle()
        before = len(reads)
        self.settle()
        self.assertEqual(len(reads), before)

    def test_a_change_while_the_past_is_read_is_told_once(self) -> None:
        task_id = self.submit(delay=1, duration=5)
        following = Following(self.server, f"/api/tasks/{task_id}/events", "GET")
        while not following.answered:
            self.turns.turn()
        self.clock.advance(1)
        self.settle()
        self.assertEqual(following.told, LIFE)
        self.advance(1)
        self.assertEqual(following.told, [*LIFE, "progress 1"])

    def test_a_task_that_is_deleted_while_it_is_followed(self) -> None:
        paused = self.follow_one(task_id := self.submit(delay=50))
        paused.pause()
        self.act(task_id, "cancel")
        self.delete(task_id)
        paused.resume()
        self.settle()
        self.assertEqual(paused.told, ["accepted 0", "deleted"])
        self.assertEqual(paused.events[-1].data, {"task_id": task_id})
        self.assertTrue(paused.over)
        self.assertEqual(self.follow_one(task_id, Last_Event_ID=paused.last_id).status, 404)

    def test_who_follows_a_task_that_is_gone_before_its_end_is_told_so(self) -> None:
        following = self.follow_one(task_id := self.submit(delay=50))
        # Such as one whose commit failed, came back after all, and was taken back.
        self.feed.publish(self.feed.now.seq, [Deleted(task_id, "simulate")])
        self.assertEqual(following.told, ["accepted 0", "deleted"])
        self.assertEqual(following.last_id, sse.count_id(task_id, 2))
        self.assertTrue(following.over)

    def test_a_change_of_which_this_process_has_not_heard_is_read(self) -> None:
        following = self.follow_one(task_id := self.submit(delay=50))
        self.store.published = lambda _seq, _news: None
        self.act(task_id, "cancel")
        self.store.published = self.feed.publish
        self.act(task_id, "retry")
        self.assertEqual(following.told, ["accepted 0", "cancelled 0", *LIFE])

    def test_a_store_that_cannot_be_read_is_asked_again(self) -> None:
        task_id = self.submit(duration=9)
        following = Following(self.server, f"/api/tasks/{task_id}/events", "GET")
        self.fail_reads(2)
        self.settle()
        self.assertEqual(following.told, [])
        self.advance(int(2 * TRY_AGAIN))
        self.assertEqual(following.told[:2], LIFE)

    def test_a_store_that_cannot_be_read_refuses_who_comes(self) -> None:
        task_id = self.submit()
        self.fail_reads(1)
        self.assertEqual(self.get(f"/api/tasks/{task_id}/events").status, 503)


class AllTests(FollowTestCase):
    """GET /api/events."""

    def test_it_begins_now_and_goes_on(self) -> None:
        self.submit(duration=0)
        following = self.follow_all()
        self.assertEqual((following.told, following.status), ([], 200))
        self.submit(duration=1)
        self.advance(1)
        self.assertEqual(following.told, [*LIFE, "progress 1", "completed 1"])
        self.assertFalse(following.over)

    def test_a_change_is_the_task_as_it_was_then(self) -> None:
        following = self.follow_all()
        task_id = self.submit(duration=0)
        accepted, running, completed = (event.data for event in following.events)
        self.assertEqual((accepted["status"], accepted["started_at"]), ("accepted", None))
        self.assertEqual((running["attempt"], running["finished_at"]), (1, None))
        listed = self.get("/api/tasks").json["tasks"][0]
        self.assertEqual(completed, listed)
        self.assertEqual((listed["task_id"], "result" in listed), (task_id, False))

    def test_who_was_cut_off_goes_on_there(self) -> None:
        first = self.follow_all()
        self.submit(duration=2)
        first.leave()
        self.advance(2)
        self.assertEqual(self.feed.followers, 0)
        again = self.follow_all(Last_Event_ID=first.last_id)
        self.assertEqual(again.told, ["completed 1"])
        self.submit(duration=0)
        self.assertEqual(again.told, ["completed 1", *LIFE, "completed 1"])

    def test_who_was_cut_off_before_the_first_event_begins_where_the_head_said(self) -> None:
        first = self.follow_all()
        first.leave()
        self.submit(duration=0)
        again = self.follow_all(Last_Event_ID=first.header("Last-Event-ID") or "")
        self.assertEqual(again.told, [*LIFE, "completed 1"])

    def test_who_goes_on_in_the_middle_of_a_commit_misses_nothing(self) -> None:
        first = self.follow_all()
        self.post([{"name": name, "delay": 9} for name in "abc"], "/api/tasks/batch")
        self.settle()
        first.leave()
        for number, event in enumerate(first.events, 1):
            again = self.follow_all(Last_Event_ID=event.id or "")
            self.assertEqual([e.data["name"] for e in again.events], list("abc"[number:]))
            again.leave()

    def test_behind_the_last_of_a_commit_the_next_one_begins(self) -> None:
        self.submit(duration=1)
        at = Position(self.feed.now.seq - 1, len(LIFE))
        following = self.follow_all(Last_Event_ID=sse.position_id(self.feed.epoch, at))
        self.assertEqual(following.told, [])
        self.advance(1)
        self.assertEqual(following.told, ["progress 1", "completed 1"])

    def test_a_position_that_is_none_gives_a_reset_and_what_follows(self) -> None:
        task_id = self.submit(duration=0)
        epoch, now = self.store.epoch, self.feed.now.seq
        for position in (
            "nonsense",
            "ü",
            sse.count_id(task_id, 1),
            f"{'0' * 12}.1.0",
            f"{epoch}.{now + 1}.0",
            f"{epoch}.{now}.7",
            f"{epoch}.{now - 1}.77",
            f"{epoch}.0.0",
            f"{epoch}.{10**18 - 1}.0",
        ):
            following = self.follow_all(Last_Event_ID=position)
            self.assertEqual(following.told, ["reset"], position)
            self.assertEqual(following.last_id, f"{epoch}.{now}.0")
            following.leave()
        following = self.follow_all(Last_Event_ID="nonsense")
        self.submit(duration=0)
        self.assertEqual(following.told, ["reset", *LIFE, "completed 1"])

    def test_a_database_that_was_set_back_gives_a_reset_and_what_follows(self) -> None:
        self.submit(duration=0)
        self.submit(duration=0)
        following = self.follow_all()
        self.feed.publish(self.feed.now.seq - 3, [])
        self.assertEqual(following.told, ["reset"])
        self.assertEqual(following.last_id, f"{self.store.epoch}.{self.feed.now.seq}.0")

    def test_what_is_no_longer_kept_gives_a_reset(self) -> None:
        first = self.follow_all()
        first.leave()
        self.submit(duration=0)
        self.submit(duration=0)
        self.turns.outcome(self.store.forget_events(1e11, 10**9))
        again = self.follow_all(Last_Event_ID=first.last_id)
        self.assertEqual(again.told, ["reset"])
        self.submit(duration=0)
        self.assertEqual(again.told, ["reset", *LIFE, "completed 1"])

    def test_a_place_that_another_process_told_before_this_one_knows_it_is_no_reset(self) -> None:
        self.store.published = lambda _seq, _news: None
        self.submit(duration=0)
        self.store.published = self.feed.publish
        commits = self.turns.outcome(self.store.events(self.feed.now.seq, 9))
        assert commits is not None
        places = [sse.position_id(self.store.epoch, Position(seq)) for seq, _ in commits]
        ends = [self.follow_all(Last_Event_ID=place) for place in places]
        ends.append(
            self.follow_all(Last_Event_ID=sse.position_id(self.store.epoch, Position(commits[-1][0] + 1)))
        )
        life = [*LIFE, "completed 1"]
        # This process has not heard of the first place's news either.
        self.assertEqual([following.told for following in ends], [[], life[2:], []])
        self.submit(duration=0)
        self.assertEqual([following.told for following in ends], [life * 2, life[2:] + life, life])

    def test_filters(self) -> None:
        by_status = self.follow_all("?status=completed,cancelled")
        running = self.follow_all("?status=running")
        by_kind = self.follow_all("?kind=other")
        task_id = self.submit(duration=1)
        self.advance(1)
        self.delete(task_id)
        self.assertEqual(by_status.told, ["completed 1", "deleted"])
        self.assertEqual(running.told, ["running 1", "progress 1", "deleted"])
        self.assertEqual(by_kind.told, [])

    def test_a_bad_query_is_refused(self) -> None:
        for query, sentence in (
            ("?name=a", "Unknown parameter 'name'"),
            ("?state=running", "Unknown parameter 'state'; did you mean 'status'?"),
            ("?kind=", "Parameter 'kind' must have 1 to 255 characters, and no NUL"),
        ):
            self.assert_problem(self.get("/api/events" + query), 400, sentence)
        self.assertEqual(self.get("/api/events?status=done").status, 400)
        answer = self.get("/api/events?kind=simulat")
        self.assertEqual(answer.status, 400)
        self.assertIn(b"did you mean 'simulate'?", answer.body)

    def test_a_comment_comes_every_15_seconds_whatever_else_is_told(self) -> None:
        following = self.follow_all()
        self.assertEqual(following.comments, 1)
        self.advance(int(COMMENT_EVERY) - 1)
        self.assertEqual(following.comments, 1)
        self.advance(1)
        self.assertEqual(following.comments, 2)
        self.advance(int(COMMENT_EVERY) // 2)
        self.submit(delay=100)
        self.advance(int(COMMENT_EVERY) - int(COMMENT_EVERY) // 2)
        self.assertEqual(following.comments, 3)
        self.assertEqual(following.told, ["accepted 0"])

    def test_who_reads_nothing_for_15_seconds_is_dropped_and_others_are_not(self) -> None:
        reads, stopped = self.follow_all(), self.follow_all()
        one = self.follow_one(task_id := self.submit(delay=500))
        stopped.pause()
        one.pause()
        self.advance(int(PATIENCE) - 1)
        self.assertFalse(stopped.dropped or one.dropped)
        with capturedLogs() as logged:
            self.advance(1)
        self.assertTrue(stopped.dropped and one.dropped)
        text = "A follower does not read and was dropped"
        told = {(event["log_format"], event["client"], event["task_id"]) for event in logged}
        self.assertEqual(told, {(text, "192.168.1.1", None), (text, "192.168.1.1", task_id)})
        self.assertFalse(reads.dropped)
        stopped.leave()
        self.assertEqual(self.feed.followers, 1)

    def test_who_reads_now_and_then_is_kept(self) -> None:
        following = self.follow_all()
        for _ in range(3):
            following.pause()
            self.advance(int(PATIENCE) - 1)
            following.resume()
        self.assertFalse(following.dropped)

    def test_who_has_ended_has_no_beat_any_more(self) -> None:
        task_id = self.submit(delay=500)
        one = self.follow_one(task_id)
        (follower,) = self.feed._one[task_id]
        self.act(task_id, "cancel")
        self.assertTrue(one.over)
        told = one.comments
        self.clock.rightNow += COMMENT_EVERY
        follower.beat()
        self.assertEqual(one.comments, told)

    def test_who_reads_slowly_is_kept_and_dropped_once_he_reads_no_more(self) -> None:
        following = self.follow_all()
        following.pause()
        for unsent in range(30, 0, -1):
            following.unsent(unsent)
            self.advance(2)
        self.assertFalse(following.dropped)
        self.advance(int(PATIENCE))
        self.assertTrue(following.dropped)

    def test_who_has_said_goodbye_over_tls_does_not_stay(self) -> None:
        following, other = self.follow_all(), self.follow_all()
        following.end_below()
        self.advance(1)
        self.assertEqual((following.dropped, other.dropped), (True, False))
        self.assertEqual(self.feed.followers, 1)

    def test_progress_is_not_told_again_to_who_was_cut_off(self) -> None:
        self.follow_all()
        self.submit(duration=9)
        cut = self.follow_all()
        self.submit(delay=100)
        self.advance(2)
        self.assertEqual(cut.told, ["accepted 0", "progress 1", "progress 2"])
        cut.leave()
        self.submit(delay=100)
        again = self.follow_all(Last_Event_ID=cut.last_id)
        self.assertEqual(again.told, ["accepted 0"])
        self.advance(1)
        self.assertEqual(again.told, ["accepted 0", "progress 3"])

    def test_who_pauses_is_told_all_afterwards(self) -> None:
        following = self.follow_all()
        following.pause()
        self.submit(duration=0)
        self.assertEqual(following.told, [])
        following.resume()
        self.settle()
        self.assertEqual(following.told, [*LIFE, "completed 1"])

    def test_a_store_that_cannot_be_read_is_asked_again(self) -> None:
        first = self.follow_all()
        first.leave()
        self.submit(duration=0)
        self.fail_reads(2)
        again = self.follow_all(Last_Event_ID=first.last_id)
        self.assertEqual((again.told, again.over), ([], False))
        self.advance(int(2 * TRY_AGAIN))
        self.assertEqual(again.told, [*LIFE, "completed 1"])

    def test_news_do_not_make_it_ask_a_store_sooner_that_cannot_be_read(self) -> None:
        first = self.follow_all()
        first.leave()
        self.submit(delay=500)
        reads: list[int] = []
        self.fail_reads(99)
        events = self.store.events

        def count(seq: int, limit: int) -> Any:
            reads.append(seq)
            return events(seq, limit)

        self.patch(self.store, "events", count)
        self.follow_all()
        again = self.follow_all(Last_Event_ID=first.last_id)
        for _ in range(10):
            self.submit(delay=500)
        self.assertEqual(len(reads), 1)
        self.advance(3)
        self.assertEqual(len(reads), 1 + int(3 / TRY_AGAIN))
        again.leave()
        self.advance(3)
        self.assertEqual(len(reads), 1 + int(3 / TRY_AGAIN))

    def test_a_bug_ends_the_answer_and_is_logged(self) -> None:
        first = self.follow_all()
        first.leave()
        self.submit(duration=0)
        self.store.events = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
        again = self.follow_all(Last_Event_ID=first.last_id)
        self.assertTrue(again.over)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_who_leaves_while_the_past_is_read_is_sent_nothing(self) -> None:
        first = self.follow_all()
        first.leave()
        self.submit(duration=0)
        again = Following(self.server, "/api/events", "GET", Last_Event_ID=first.last_id)
        again.leave()
        self.settle()
        self.assertEqual((again.told, self.feed.followers), ([], 0))

    def test_there_is_a_limit(self) -> None:
        self.follow_all()
        self.patch(api, "MAX_FOLLOWERS", 1)
        answer = self.get("/api/events")
        self.assert_problem(answer, 503, "Too many clients follow events")
        self.assertEqual(answer.header("Retry-After"), "5")


class StopTests(FollowTestCase):
    """When the service stops, those who follow hear of the drain, and then their answers end."""

    def test_whoever_comes_is_refused_and_who_is_there_is_told_to_the_end(self) -> None:
        task_id = self.submit(duration=1)
        there = [self.follow_all(), self.follow_one(task_id)]
        self.free.draining = True
        for path in ("/api/events", f"/api/tasks/{task_id}/events"):
            answer = self.follow(path)
            self.assertEqual((answer.status, answer.header("Connection")), (503, "close"))
        self.feed.close()
        self.advance(1)
        self.feed.end()
        for following in there:
            self.assertEqual(following.told[-2:], ["progress 1", "completed 1"])
            self.assertTrue(following.over)
        self.assertEqual(self.feed.followers, 0)

    def test_who_is_being_told_the_past_is_not_written_to_after_the_end(self) -> None:
        first = self.follow_all()
        first.leave()
        task_id = self.submit(duration=9)
        late = [
            Following(self.server, "/api/events", "GET", Last_Event_ID=position)
            for position in (first.last_id, self.forgotten())
        ]
        one = Following(self.server, f"/api/tasks/{task_id}/events", "GET")
        while not one.answered:
            self.turns.turn()
        self.feed.end()
        self.settle()
        for following in (*late, one):
            self.assertTrue(following.over)

    def forgotten(self) -> str:
        """A position that is no longer kept."""
        return sse.position_id(self.store.epoch, Position(0))
