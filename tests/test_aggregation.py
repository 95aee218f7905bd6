"""The numbers of many processes, added up."""

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from asynctask import __version__
from asynctask.aggregation import Families, counted, merge
from asynctask.metrics import Metrics
from asynctask.model import ACCEPTED, COMPLETED
from tests.test_metrics import value


def metrics(*, accepted: int = 0, waited: float = 0, step: float = 0, healthy: bool = True) -> Metrics:
    """Those of one process, in which something has happened."""
    found = Metrics(["a"])
    found.longest_step = step
    found.watch(
        not_ended=lambda: 7,
        healthy=lambda: healthy,
        free=lambda _: 3,
        abandoned=lambda: 0,
        followers=lambda: 0,
        callbacks=lambda: 5,
    )
    for _ in range(accepted):
        found.became("a", ACCEPTED)
        found.began("a", "thread", waited)
    return found


class Merging(SynchronousTestCase):
    """What is shown of many."""

    def shown(self, families: Families, *, openmetrics: bool = False) -> str:
        one = Metrics()
        one.everyone = lambda: succeed(families)
        text, _ = self.successResultOf(Deferred.fromCoroutine(one.exposition(openmetrics=openmetrics)))
        return text.decode()

    def test_counters_and_what_is_there_now_are_added(self) -> None:
        text = self.shown(merge([metrics(accepted=1).families(), metrics(accepted=2).families()]))
        self.assertEqual(value(text.encode(), "tasks_accepted_total", kind="a"), 3)
        self.assertEqual(value(text.encode(), "seats_free", place="thread"), 6)
        self.assertEqual(value(text.encode(), "attempts_in_flight", place="thread"), 3)

    def test_histograms_are_added_bucket_by_bucket(self) -> None:
        parts = [metrics(accepted=1, waited=0.02).families(), metrics(accepted=2, waited=2).families()]
        text = self.shown(merge(parts)).encode()
        name = "task_waiting_seconds"
        self.assertEqual(value(text, f"{name}_bucket", kind="a", le="0.05"), 1)
        self.assertEqual(value(text, f"{name}_bucket", kind="a", le="+Inf"), 3)
        self.assertEqual(value(text, f"{name}_count", kind="a"), 3)
        self.assertEqual(value(text, f"{name}_sum", kind="a"), 4.02)

    def test_what_each_knows_of_all_is_not_added(self) -> None:
        parts = [metrics(step=0.2).families(), metrics(step=0.7, healthy=False).families()]
        text = self.shown(merge(parts)).encode()
        self.assertEqual(value(text, "tasks_not_ended"), 7)
        self.assertEqual(value(text, "callbacks_pending"), 5)
        self.assertEqual(value(text, "longest_step_seconds"), 0.7)
        self.assertEqual(value(text, "store_healthy"), 0)
        self.assertEqual(value(text, "build_info", version=__version__), 1)

    def test_what_only_one_has_seen_is_there(self) -> None:
        one, other = metrics(), metrics()
        other.became("a", COMPLETED)
        other.answered(b"GET", b"/health/live", 200, 0.01)
        text = self.shown(merge([one.families(), other.families()])).encode()
        self.assertEqual(value(text, "tasks_ended_total", kind="a", status="completed"), 1)
        self.assertEqual(value(text, "http_requests_total", route="other", method="GET", status="200"), 1)

    def test_one_alone_shows_what_it_would_show_without_others(self) -> None:
        one = metrics(accepted=3, waited=1)
        for openmetrics in (False, True):
            alone, _ = self.successResultOf(Deferred.fromCoroutine(one.exposition(openmetrics=openmetrics)))
            self.assertEqual(self.shown(merge([one.families()]), openmetrics=openmetrics), alone.decode())

    def test_of_one_that_has_gone_what_was_counted_stays(self) -> None:
        gone = counted(metrics(accepted=2).families())
        text = self.shown(merge([gone, metrics(accepted=1).families()])).encode()
        self.assertEqual(value(text, "tasks_accepted_total", kind="a"), 3)
        self.assertEqual(value(text, "task_waiting_seconds_count", kind="a"), 3)
        self.assertEqual(value(text, "seats_free", place="thread"), 3)
        self.assertEqual(value(text, "attempts_in_flight", place="thread"), 1)

    def test_nobody_has_no_numbers(self) -> None:
        self.assertEqual(merge([]), [])
