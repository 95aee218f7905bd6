"""Who gets the seats: the order in which waiting tasks are claimed, over a real store in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from asynctask.claims import AFTER_FAILURE, BATCH, BEHIND, FEW, LOOK_AGAIN, MANY, PAUSE, Claims
from asynctask.istore import Claim
from asynctask.metrics import Metrics
from asynctask.model import Submission, Task, accept, complete
from asynctask.problems import Unavailable
from asynctask.registry import KINDS, Kind
from asynctask.seats import Seats
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from asynctask.wire import Ids
from tests.turns import Turns

START = 1_700_000_000.0
SIMULATE = KINDS["simulate"]
SCALE = replace(SIMULATE, name="scale", place="thread")
CROP = replace(SIMULATE, name="crop", place="thread")
MAIL = replace(SIMULATE, name="mail", place="thread", concurrency=1)
FETCH = replace(SIMULATE, name="fetch", place="reactor")

fewer = settings(max_examples=settings().max_examples // 3)
"""Each example opens a store."""


class Office:
    """A store, seats, and the tasks that were claimed, in their order."""

    def __init__(self, kinds: Sequence[Kind], places: Mapping[str, int]) -> None:
        self.kinds = {kind.name: kind for kind in kinds}
        self.clock = Clock()
        self.turns = Turns()
        self.ids = Ids()
        self.store = SqlStore(Place(None), self.turns, metrics=Metrics())
        self.store.open([], START, self.kinds)
        self.seats = Seats(places)
        self.idle = 0
        self.claims = Claims(self.store, self.seats, self.kinds, self.clock, self.now, self.note_idle)
        self.running: list[Task] = []
        self.begun: list[str] = []
        self.store.started = self.begin
        self.store.waiting = self.claims.wait

    def now(self) -> float:
        return START + self.clock.seconds()

    def note_idle(self) -> None:
        self.idle += 1

    def begin(self, tasks: Sequence[Task]) -> None:
        self.running += tasks
        self.begun += [task.name for task in tasks]

    def submit(self, kind: str, *names: str, delay: float = 0) -> None:
        """Let tasks wait in the store, each accepted by a commit of its own."""
        for name in names:
            task = accept(
                Submission(name, kind, "{}", delay), self.ids.next(self.now(), bytes(16)), self.now()
            )
            self.turns.outcome(self.store.add([task], []))
        self.settle()

    def settle(self) -> None:
        """Wait until no look is under way."""
        self.clock.advance(0)
        self.turns.outcome(self.store._writer.call(lambda _db, _news: None))
        while self.claims.looking:
            self.turns.outcome(self.store._writer.call(lambda _db, _news: None))

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def end(self, name: str) -> None:
        """Let a running task complete, as the runner does."""
        (task,) = [task for task in self.running if task.name == name]
        self.running.remove(task)
        self.seats.give_back(self.kinds[task.kind])
        self.claims.seat_is_free(self.kinds[task.kind].place)
        self.turns.outcome(self.store.end(complete(task, "null", self.now()), self.now()))
        self.settle()

    def end_first(self) -> None:
        self.end(self.running[0].name)

    def close(self) -> None:
        self.turns.outcome(self.store.close())


class ClaimsTestCase(SynchronousTestCase):
    """Tasks wait, and seats become free."""

    def office(self, *kinds: Kind, **places: int) -> Office:
        """An office that has looked once, and found nothing."""
        made = Office(kinds or (SIMULATE,), {"reactor": 1, "thread": 1, **places})
        self.addCleanup(made.close)
        return made

    def open(self, *kinds: Kind, **places: int) -> Office:
        made = self.office(*kinds, **places)
        made.claims.start()
        made.settle()
        return made


class Order(ClaimsTestCase):
    """Within a kind, who came first is served first."""

    def test_who_came_first_is_served_first(self) -> None:
        office = self.open()
        office.submit("simulate", *"abcd")
        for begun in ("a", "ab", "abc", "abcd"):
            self.assertEqual("".join(office.begun), begun)
            office.end_first()

    def test_several_that_come_together_begin_in_their_order(self) -> None:
        office = self.open(reactor=3)
        for name in "abcdef":
            office.seats.note_waiting("simulate", True)
            office.submit("simulate", name)
        self.assertEqual(office.begun, list("abc"))
        office.end("b")
        office.end("a")
        self.assertEqual(office.begun, list("abcde"))

    def test_who_was_due_first_is_served_first(self) -> None:
        office = self.open()
        office.submit("simulate", "first")
        office.submit("simulate", "late", delay=3)
        office.submit("simulate", "early", delay=1)
        office.advance(5)
        office.submit("simulate", "now")
        for _ in range(4):
            office.end_first()
        self.assertEqual(office.begun, ["first", "early", "late", "now"])

    def test_a_new_task_waits_behind_those_that_wait(self) -> None:
        office = self.open()
        self.assertTrue(office.seats.take(SIMULATE))
        office.seats.give_back(SIMULATE)
        office.submit("simulate", *"ab")
        self.assertFalse(office.seats.take(SIMULATE))
        office.end("a")
        # b has the seat, and nobody waits any more.
        self.assertFalse(office.seats.take(SIMULATE))
        office.end("b")
        self.assertTrue(office.seats.take(SIMULATE))

    @fewer
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(1, 3))
    def test_whatever_the_delays_tasks_begin_as_they_are_due(self, delays: list[int], seats: int) -> None:
        office = Office((SIMULATE,), {"reactor": seats, "thread": 0})
        office.claims.start()
        office.settle()
        for number, delay in enumerate(delays):
            office.submit("simulate", f"{delay}.{number}", delay=delay)
        while len(office.begun) < len(delays):
            self.assertLessEqual(len(office.running), seats)
            if len(office.running) == seats:
                office.end_first()
            else:
                office.advance(1)
        self.assertEqual(office.begun, sorted(office.begun))
        office.close()


class Fairness(ClaimsTestCase):
    """Between kinds: none starves another."""

    def test_kinds_take_turns_for_a_seat(self) -> None:
        office = self.open(SCALE, CROP)
        office.submit("scale", *(f"s{number}" for number in range(6)))
        office.submit("crop", "c0", "c1")
        while office.running:
            office.end_first()
        first_six = office.begun[:6]
        self.assertIn("c0", first_six[:3])
        self.assertIn("c1", first_six[:5])
        self.assertEqual(len(office.begun), 8)
        self.assertEqual([name for name in office.begun if name[0] == "s"], [f"s{n}" for n in range(6)])

    def test_a_flood_of_one_kind_leaves_seats_to_the_others(self) -> None:
        office = self.open(SCALE, CROP, thread=4)
        office.submit("scale", *(f"s{number}" for number in range(12)))
        office.submit("crop", *(f"c{number}" for number in range(4)))
        self.assertEqual(len(office.running), 4)
        for _ in range(4):
            office.end_first()
        self.assertGreaterEqual(sum(name[0] == "c" for name in office.begun), 2)
        while office.running:
            office.end_first()
        self.assertEqual(len(office.begun), 16)

    def test_kinds_in_other_places_do_not_compete(self) -> None:
        office = self.open(SCALE, FETCH)
        office.submit("scale", "s0", "s1")
        office.submit("fetch", "f0")
        self.assertEqual(office.begun, ["s0", "f0"])

    def test_what_was_left_by_an_earlier_process_is_shared_too(self) -> None:
        office = self.office(SCALE, CROP, thread=4)
        office.store.waiting = lambda _tasks: None  # they are none of this process's
        for kind in ("scale", "crop"):
            for number in range(4):
                task = accept(
                    Submission(f"{kind}{number}", kind, "{}"),
                    office.ids.next(START, bytes(16)),
                    office.now(),
                )
                office.turns.outcome(office.store.add([task], []))
        office.claims.start()
        office.settle()
        self.assertEqual(len(office.running), 4)
        self.assertEqual({task.kind for task in office.running}, {"scale", "crop"})

    @fewer
    @given(st.lists(st.sampled_from(["scale", "crop", "mail"]), min_size=1, max_size=9), st.integers(1, 3))
    def test_every_task_gets_its_turn(self, kinds: list[str], seats: int) -> None:
        office = Office((SCALE, CROP, MAIL), {"reactor": 0, "thread": seats})
        office.claims.start()
        office.settle()
        for number, kind in enumerate(kinds):
            office.submit(kind, f"{kind}{number}")
        for _ in kinds:
            self.assertTrue(0 < len(office.running) <= seats)
            self.assertLessEqual(sum(task.kind == "mail" for task in office.running), 1)
            office.end_first()
        self.assertEqual(len(office.begun), len(kinds))
        for kind in set(kinds):
            begun = [name for name in office.begun if name.startswith(kind)]
            self.assertEqual(begun, sorted(begun))
        self.assertEqual(office.seats.free(SCALE), seats)
        office.close()


class Concurrency(ClaimsTestCase):
    """A kind that wants no more attempts at once than so many."""

    def test_a_kind_has_no_more_attempts_at_once_than_it_says(self) -> None:
        office = self.open(MAIL, thread=5)
        office.submit("mail", *"abc")
        for begun in ("a", "ab", "abc"):
            self.assertEqual("".join(office.begun), begun)
            office.end_first()

    def test_those_that_wait_for_their_kind_hold_no_seat(self) -> None:
        office = self.open(MAIL, SCALE, thread=2)
        office.submit("mail", "m0", "m1")
        office.submit("scale", "s0", "s1")
        self.assertEqual(office.begun, ["m0", "s0"])
        office.end("s0")
        self.assertEqual(office.begun, ["m0", "s0", "s1"])
        office.end("m0")
        self.assertEqual(office.begun, ["m0", "s0", "s1", "m1"])


class Looks(ClaimsTestCase):
    """When the store is looked into."""

    def test_a_look_that_fails_is_made_again_and_gives_its_seats_back(self) -> None:
        office = self.office(reactor=3)
        office.store._writer.healthy = False
        office.claims.start()
        self.assertEqual((office.seats.free(SIMULATE), office.claims.looking), (3, set()))
        self.assertFalse(office.seats.take(SIMULATE))
        office.store._writer.healthy = True
        office.submit("simulate", "a", delay=0.5)
        office.advance(AFTER_FAILURE)
        self.assertEqual(office.begun, ["a"])
        self.assertEqual(office.seats.free(SIMULATE), 2)

    def test_as_long_as_the_store_fails_looks_go_on(self) -> None:
        office = self.office()
        office.store._writer.healthy = False
        office.claims.start()
        for _ in range(3):
            office.clock.advance(AFTER_FAILURE)
        self.assertEqual(office.idle, 4)
        office.store._writer.healthy = True
        office.advance(AFTER_FAILURE)
        self.assertEqual(office.idle, 5)
        self.assertEqual(office.clock.getDelayedCalls(), [])

    def test_few_are_claimed_at_once_while_posts_come_and_many_when_none_does(self) -> None:
        office = self.open(FETCH, SIMULATE, reactor=10_000)
        claimed: list[int] = []
        claim = office.store.claim

        def spy(kind: str, limit: int, now: float, total: int | None = None) -> Deferred[Claim]:
            claimed.append(limit)
            return claim(kind, limit, now, total)

        office.store.claim = spy  # type: ignore[method-assign]
        for posts, pause in ((0, 0.0), (1, 0.0), (0, 0.0), (30, 0.0), (900, 0.0), (0, 0.9), (0, 0.1)):
            for _ in range(posts):
                office.seats.take(SIMULATE)
            office.clock.advance(pause)
            office.claims.look(["fetch"])
            office.settle()
        self.assertEqual(claimed, [BATCH, FEW + 1, FEW, FEW + 30, MANY, FEW, BATCH])

    def test_nothing_is_planned_when_nothing_waits(self) -> None:
        office = self.open()
        self.assertEqual((office.clock.getDelayedCalls(), office.idle), ([], 1))

    def test_one_look_is_planned_for_the_task_that_is_due_next(self) -> None:
        office = self.open(reactor=2)
        for delay in (30, 10, 20):
            office.submit("simulate", str(delay), delay=delay)
        (planned,) = office.clock.getDelayedCalls()
        self.assertEqual(planned.getTime(), 10)
        office.advance(10)
        self.assertEqual(office.begun, ["10"])
        (planned,) = office.clock.getDelayedCalls()
        self.assertEqual(planned.getTime(), 20)

    def test_a_task_that_is_due_in_a_year_is_looked_for_now_and_then(self) -> None:
        office = self.open()
        office.submit("simulate", "a", delay=31_536_000)
        (planned,) = office.clock.getDelayedCalls()
        self.assertEqual(planned.getTime(), LOOK_AGAIN)
        office.advance(LOOK_AGAIN)
        (planned,) = office.clock.getDelayedCalls()
        self.assertEqual((planned.getTime(), office.begun), (2 * LOOK_AGAIN, []))

    def test_a_task_of_a_kind_that_is_gone_waits(self) -> None:
        office = self.open()
        office.submit("who-knows", "a")
        self.assertEqual((office.begun, office.clock.getDelayedCalls()), ([], []))

    def test_without_seats_nobody_looks(self) -> None:
        office = self.office(reactor=0)
        office.claims.start()
        office.submit("simulate", "a")
        self.assertEqual((office.begun, office.claims.looking, office.idle), ([], set(), 0))

    def test_after_a_stop_nobody_looks(self) -> None:
        office = self.open()
        office.submit("simulate", "a", delay=1)
        office.seats.draining = True
        office.claims.stop()
        office.submit("simulate", "b")
        office.advance(2)
        self.assertEqual((office.begun, office.clock.getDelayedCalls()), ([], []))

    def test_a_stop_leaves_no_call_behind(self) -> None:
        office = self.open(SIMULATE, FETCH, reactor=2)
        office.submit("simulate", "a", delay=1)
        office.submit("fetch", "b", delay=9)
        office.advance(1)  # the first look has come, the second is still planned
        self.assertEqual((office.begun, len(office.clock.getDelayedCalls())), (["a"], 1))
        office.claims.stop()
        self.assertEqual(office.clock.getDelayedCalls(), [])


class Asked:
    """A store that answers claims when the test does."""

    def __init__(self) -> None:
        self.claims: list[tuple[str, Deferred[Claim]]] = []
        self.totals: list[int | None] = []

    def claim(self, kind: str, limit: int, now: float, total: int | None = None) -> Deferred[Claim]:
        """See `IStore`."""
        answer: Deferred[Claim] = Deferred()
        self.claims.append((kind, answer))
        self.totals.append(total)
        return answer

    def answer(self, *, more: bool = False, full: bool = False, next_due: float | None = None) -> None:
        """Answer the first claim that waits: it has found nothing."""
        _, answer = self.claims.pop(0)
        answer.callback(Claim([], more, next_due=next_due, orphans=False, full=full))


class UnderWay(SynchronousTestCase):
    """What comes while a look is under way."""

    def claims(self, *kinds: Kind) -> Claims:
        self.store, self.seats, self.clock = Asked(), Seats({"thread": 1}), Clock()
        for kind in kinds:
            self.seats.note_waiting(kind.name, False)
        store: Any = self.store
        named = {kind.name: kind for kind in kinds}
        return Claims(store, self.seats, named, self.clock, lambda: START, lambda: None)

    def asked(self) -> list[str]:
        return [kind for kind, _ in self.store.claims]

    def test_a_task_that_comes_meanwhile_is_looked_for_afterwards(self) -> None:
        claims = self.claims(SCALE)
        claims.look(["scale"])
        claims.look(["scale"])
        self.assertEqual(self.asked(), ["scale"])
        self.store.answer()
        self.assertEqual(self.asked(), ["scale"])
        self.assertTrue(self.seats.waits("scale"))
        self.store.answer()
        self.assertEqual(self.asked(), [])
        self.assertFalse(self.seats.waits("scale"))

    def test_a_kind_that_runs_elsewhere_is_not_looked_for_without_end(self) -> None:
        crop, scale = (replace(kind, concurrency_total=1) for kind in (CROP, SCALE))
        claims = self.claims(crop, scale)
        claims.look(["crop"])
        claims.look(["scale"])
        self.assertEqual(self.asked(), ["crop"])
        self.store.answer(full=True)
        self.assertEqual(self.asked(), ["scale"])
        self.store.answer(full=True)
        self.assertEqual(self.asked(), [])
        claims.seat_is_free("thread")
        self.assertEqual(len(self.asked()), 1)

    def test_the_store_is_told_how_many_may_run_in_all_processes(self) -> None:
        claims = self.claims(replace(CROP, concurrency_total=3), SCALE)
        for kind in ("crop", "scale"):
            claims.look([kind])
            self.store.answer()
        self.assertEqual(self.store.totals, [3, None])

    def test_who_found_no_seat_during_a_look_that_failed_is_looked_for_too(self) -> None:
        claims = self.claims(SCALE, CROP)
        claims.look(["scale"])
        claims.look(["crop"])
        self.store.claims.pop()[1].errback(Unavailable("no"))
        self.seats.reserve(SCALE, -1)  # there are two seats now
        self.clock.advance(AFTER_FAILURE)
        self.assertEqual(set(self.asked()), {"scale", "crop"})

    def test_one_that_has_ended_elsewhere_gets_the_next_seat(self) -> None:
        crop = replace(CROP, concurrency_total=1)
        claims = self.claims(crop, SCALE)
        claims.look(["crop"])
        self.store.answer(full=True)
        claims.look(["scale"])
        claims.look(["crop"])  # it has ended there; here is no seat now
        self.assertEqual(self.asked(), ["scale"])
        self.store.answer()
        self.assertEqual(self.asked(), ["crop"])

    def test_what_is_due_and_cannot_be_had_is_looked_for_after_a_pause(self) -> None:
        claims = self.claims(SCALE)
        claims.look(["scale"])
        self.store.answer(next_due=START)
        self.clock.advance(PAUSE * 0.9)
        self.assertEqual(self.asked(), [])
        self.clock.advance(PAUSE * 0.1)
        self.assertEqual(self.asked(), ["scale"])

    def test_nothing_is_claimed_for_a_place_where_too_many_hang(self) -> None:
        claims = self.claims(SCALE)
        hang = ["thread"]
        self.seats.closed = hang.__contains__
        claims.look(["scale"])
        self.assertEqual(self.asked(), [])
        hang.clear()
        self.clock.advance(AFTER_FAILURE)
        self.assertEqual(self.asked(), ["scale"])

    def test_nothing_is_claimed_while_the_store_is_behind(self) -> None:
        claims, behind = self.claims(SCALE), [True]
        self.seats.behind = lambda: behind[0]
        claims.look(["scale"])
        self.clock.pump([BEHIND] * 3)
        self.assertEqual((self.asked(), self.seats.free(SCALE)), ([], 1))
        self.assertTrue(self.seats.waits("scale"))
        behind[0] = False
        self.clock.advance(BEHIND * 0.9)
        self.assertEqual(self.asked(), [])
        self.clock.advance(BEHIND * 0.1)
        self.assertEqual(self.asked(), ["scale"])
