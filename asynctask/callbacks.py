"""Tells how tasks ended: signed POSTs, tried again for three days, through restarts.

What is to be told lies in the store. Here are only the next ones, each host's in a queue of its own;
whatever has no room stays there, and is looked for again. A delivery that a stop cuts off is made again.
"""

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask import __version__
from asynctask.deliveries import (
    DELIVERED,
    Answer,
    NoAnswer,
    Refused,
    Tried,
    body,
    judge,
    webhook_id,
)
from asynctask.fairqueue import FairQueue
from asynctask.istore import IOutbox, ToTell
from asynctask.logqueue import trace_of
from asynctask.metrics import Metrics
from asynctask.model import Task
from asynctask.problems import Unavailable
from asynctask.signing import Signer
from asynctask.timers import call_off, no_later
from asynctask.tracebacks import without_frames
from asynctask.urls import host_of
from asynctask.wire import timestamp

log = Logger(namespace="asynctask.callbacks")

PAGE: Final = 500
"""Callbacks that one look in the store reads: some milliseconds."""

SOON: Final = 1.0
"""Seconds until the next look where there is more than fits in here, or the store did not answer."""

QUICK: Final = 1.0
"""Seconds within which a host that takes no connection has cost the others nothing."""

SELDOM: Final = 60.0
"""Seconds between two looks at most: the wall clock may have been set."""

USER_AGENT: Final = f"asynctask/{__version__}"

Post = Callable[[str, dict[str, str], bytes], Deferred[Answer]]
Key = tuple[str, int]


class Callbacks:
    """Delivers callbacks.

    :param post: sends one POST: see `asynctask.posting.Poster.post`.
    :param clock: monotonic.
    :param now: wall time, seconds since the epoch.
    :param chance: draws from [0, 1).
    :ivar pending: how many outcomes are to be told, as far as is known since the last look.
    """

    def __init__(
        self,
        outbox: IOutbox,
        post: Post,
        signer: Signer | None,
        clock: IReactorTime,
        now: Callable[[], float],
        chance: Callable[[], float],
        queue: FairQueue[ToTell] | None = None,
        *,
        metrics: Metrics,
    ) -> None:
        self.pending = 0
        self._outbox = outbox
        self._post = post
        self._signer = signer
        self._clock = clock
        self._now = now
        self._chance = chance
        self._queue: FairQueue[ToTell] = queue or FairQueue()
        self._metrics = metrics
        self._known: set[Key] = set()
        self._under_way: set[Deferred[None]] = set()
        self._next: IDelayedCall | None = None
        self._looking = False
        self._has_recalled = False
        self._running = False
        outbox.to_call = self.add

    def start(self) -> None:
        """Deliver what is due, from before too; its store is open."""
        self._running = True
        if self._signer is None:
            self._signer = Signer([self._outbox.secret])
        self._look()

    def stop(self, grace: float) -> Deferred[None]:
        """Begin no more; what is not answered in so many seconds is tried again after the next start."""
        self._running = False
        call_off(self._next)
        under_way = list(self._under_way)

        def cut() -> None:
            for delivery in under_way:
                delivery.cancel()

        cut_off = self._clock.callLater(grace, cut)
        return DeferredList(under_way).addCallback(lambda _: call_off(cut_off))

    def add(self, due: ToTell) -> None:
        """An outcome is to be told: at once, if there is a free place."""
        self.pending += 1
        self._line_up(due)
        self._deliver()

    def _line_up(self, due: ToTell) -> None:
        key = (due.task_id, due.attempt)
        if not self._running or key in self._known:
            return
        if self._queue.put(host_of(due.url), due, again=due.tries > 0):
            self._known.add(key)

    def _deliver(self) -> None:
        """Begin as many deliveries as may be under way."""
        while self._running and self._outbox.healthy and (found := self._queue.take()) is not None:
            host, due = found
            delivery = ensureDeferred(self._call(host, due))
            self._under_way.add(delivery)
            delivery.addErrback(self._failed)
            delivery.addBoth(self._ended, delivery, due)
        if self._queue.wants_more or (self._queue.waiting and not self._outbox.healthy):
            self._queue.wants_more = False
            self._look_in(SOON)

    async def _call(self, host: str, due: ToTell) -> None:
        """One try, from the store and back to it."""
        outcome: Answer | Refused | NoAnswer | None = None
        began = self._clock.seconds()
        try:
            task = await self._outbox.outcome(due, self._now())
            began = self._clock.seconds()
            outcome = None if task is None else await self._tell(task, due.url)
        finally:
            self._queue.done(host, answers=_answers(outcome, self._clock.seconds() - began))
            # Others may have the place while this is written; not in here, or calls would nest.
            self._clock.callLater(0, self._deliver)
        if task is None or outcome is None:
            return
        if not (self._running or isinstance(outcome, Answer)):  # cut off by the stop
            await self._outbox.give_back(task, self._now())
            return
        tried = judge(task, outcome, self._now(), self._chance())
        kept = await self._keep(tried)
        if kept or (self._running and tried.state == DELIVERED):  # else it will be told again
            self._note(task, host, outcome, tried)
        if not kept:  # there is another outcome of the same attempt, maybe
            self._look_in(SOON)
        elif tried.due is not None:
            self._look_in(tried.due - self._now())
        else:
            self.pending -= 1

    async def _tell(self, task: Task, url: str) -> Answer | Refused | NoAnswer:
        assert self._signer is not None
        text = body(task)
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        headers |= self._signer.headers(webhook_id(task), self._now(), text)
        if task.traceparent is not None:
            headers["traceparent"] = task.traceparent
        try:
            return await self._post(url, headers, text.encode())
        except (Refused, NoAnswer) as error:
            return without_frames(error)
        except Exception as error:
            if self._running:
                log.failure("Callback cannot be sent", task_id=task.task_id, **trace_of(task))
            return NoAnswer(f"It could not be sent ({type(error).__name__})")

    async def _keep(self, tried: Tried) -> bool:
        """Write what a try has come to, as soon as there is a way: else it would be made again."""
        while True:
            try:
                return await self._outbox.keep(tried)
            except Unavailable:
                if not self._running:
                    return False
            await deferLater(self._clock, SOON)

    def _note(self, task: Task, host: str, outcome: Answer | Refused | NoAnswer, tried: Tried) -> None:
        """Count a try, and log what it has come to."""
        assert task.callback is not None
        told = {"task_id": task.task_id, "host": host, "tries": task.callback.tries + 1}
        if isinstance(outcome, Answer):
            told["status"] = outcome.status
        if tried.due is not None:
            told["again_at"] = timestamp(tried.due)
        told |= trace_of(task)
        self._metrics.called(tried.state)
        if tried.state == DELIVERED:
            log.info("Callback delivered", **told)
        else:
            log.warn("Callback failed", error=tried.error, **told)

    def _failed(self, failure: Failure) -> None:
        """It stays due, and is found again."""
        if not failure.check(Unavailable, CancelledError):
            log.failure("Callback cannot be delivered", failure)
        self._look_in(SOON)

    def _ended(self, _: None, delivery: Deferred[None], due: ToTell) -> None:
        self._under_way.discard(delivery)
        self._known.discard((due.task_id, due.attempt))

    def look(self) -> None:
        """Look in the store now: what is due may have changed."""
        self._look_in(0)

    def _look_in(self, seconds: float) -> None:
        """Look in the store then, or before."""
        if self._running:
            self._next = no_later(self._next, self._clock, min(max(seconds, 0.0), SELDOM), self._look)

    def _look(self) -> None:
        if self._looking:
            self._look_in(SOON)
            return
        self._looking = True
        ensureDeferred(self._look_through()).addBoth(self._looked)

    async def _look_through(self) -> float:
        """Line up all that is due and has room; the seconds until there may be more."""
        if not self._has_recalled:  # or what hangs would have the places of who answered before the start
            for url in await self._outbox.answered():
                self._queue.recall(host_of(url))
            self._has_recalled = True
        after = None
        while True:
            now = self._now()
            found = await self._outbox.due(now, after, PAGE)
            if found.pending is not None:
                self.pending = found.pending
            for due in found.found:
                self._line_up(due)
            self._deliver()
            after = found.after
            if after is None or not self._running:
                return SELDOM if found.next_due is None else found.next_due - now

    def _looked(self, result: float | Failure) -> None:
        self._looking = False
        if isinstance(result, Failure):
            if not result.check(Unavailable):
                log.failure("Callbacks cannot be looked for", result)
            result = SOON
        self._look_in(result)


def _answers(outcome: Answer | Refused | NoAnswer | None, took: float) -> bool | None:
    """What a try has shown of a host: one that refuses at once holds no place."""
    if outcome is None or (isinstance(outcome, NoAnswer) and took < QUICK):
        return None
    return not isinstance(outcome, NoAnswer)
