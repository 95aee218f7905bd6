"""What happens here in numbers, for Prometheus; each service has a registry of its own.

Labels are bounded: kinds are the registered ones, routes are patterns, and everything else is ``other``.
What is counted on the way of a task is bound to its labels beforehand: well under 2 µs a call. What can be
read whenever somebody asks is kept by nobody: see `Metrics.watch`.
"""

import re
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry, Gauge, Info
from prometheus_client import generate_latest as prometheus_text
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from twisted.internet.defer import Deferred

from asynctask import __version__
from asynctask.aggregation import Families, Family, Sample
from asynctask.counters import Counter, Histogram
from asynctask.model import ACCEPTED, CANCELLED, COMPLETED, FAILED, Status
from asynctask.registry import PLACES

OTHER: Final = "other"
"""The label of what nobody has registered."""

METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")

CALLBACKS: Final = {"delivered": "delivered", "pending": "retried", "failed": "failed"}
"""The state in which a try leaves a callback, and the label under which the try is counted."""

TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = CONTENT_TYPE_LATEST

SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds in seconds of what should take milliseconds."""

LONG: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0)
"""Upper bounds in seconds of what may take hours."""

Count = Callable[[], object]
Observe = Callable[[float], object]

_PARAMETER: Final = re.compile(r"<(?:[^<>]*:)?(\w+)>")


class OfKind(Struct):
    """The numbers of one kind, bound to its labels."""

    became: dict[Status, Count]
    started: Count
    blocked: Count
    held: Observe
    waited: Observe
    ran: Observe


class _Kinds(dict[str, OfKind]):
    """By the names of kinds; all that nobody has registered are one."""

    def __missing__(self, kind: str) -> OfKind:
        return self[OTHER]


class Metrics:
    """The numbers of one service.

    All but `stored` is called in the reactor's thread.

    :param kinds: names of the kinds that have labels of their own.
    :ivar longest_step: seconds of the longest step of a handler on the reactor since the start.
    :ivar everyone: asks for the numbers of all processes; None where this one is alone.
    """

    everyone: Callable[[], Deferred[Families]] | None = None

    def __init__(self, kinds: Collection[str] = ()) -> None:
        self.longest_step = 0.0
        self._registry = CollectorRegistry()
        self._in_flight = dict.fromkeys(PLACES, 0)
        self._count_tasks(kinds)
        self._count_requests()
        self.lag = self._histogram("loop_lag", "How late the reactor's heartbeat came.").labels().observe
        self._batch = self._histogram("store_batch_duration", "Transactions of the store.").labels().observe
        self._rows = self._counter("store_rows", "Tasks, ends and other changes written.").labels().inc
        self._gauge("longest_step_seconds", "The longest step of a handler on the reactor.").set_function(
            lambda: self.longest_step
        )
        called = self._counter("callback_tries", "Tries to deliver a callback, and how.", ("outcome",))
        self._called = {how: called.labels(label).inc for how, label in CALLBACKS.items()}
        in_flight = self._gauge("attempts_in_flight", "Attempts under way.", ("place",))
        for place in PLACES:
            in_flight.labels(place).set_function(partial(self._in_flight.__getitem__, place))
        build = Info("asynctask_build", "Which asynctask this is.", registry=self._registry)
        build.info({"version": __version__})

    @property
    def attempts(self) -> int:
        """How many attempts are under way."""
        return sum(self._in_flight.values())

    def watch(
        self,
        *,
        not_ended: Callable[[], int],
        healthy: Callable[[], bool],
        free: Callable[[str], int],
        abandoned: Callable[[], int],
        followers: Callable[[], int],
        callbacks: Callable[[], int],
    ) -> None:
        """Show what others know, read whenever somebody asks.

        :param not_ended: tasks that have not ended.
        :param healthy: whether the store takes tasks.
        :param free: the free seats of a place.
        :param abandoned: threads that were given up and still run.
        :param followers: clients that follow events.
        :param callbacks: outcomes that are still to be told.
        """
        self._gauge("tasks_not_ended", "Tasks in the store that have not ended.").set_function(not_ended)
        self._gauge("store_healthy", "1 if tasks can be stored, else 0.").set_function(healthy)
        self._gauge("threads_abandoned", "Threads given up that still run.").set_function(abandoned)
        self._gauge("event_subscribers", "Clients that follow events.").set_function(followers)
        self._gauge("callbacks_pending", "Callbacks still to be delivered.").set_function(callbacks)
        seats = self._gauge("seats_free", "Attempts that may begin now.", ("place",))
        for place in PLACES:
            seats.labels(place).set_function(partial(free, place))

    def name_routes(self, patterns: Iterable[str]) -> None:
        """Tell which paths there are.

        :param patterns: as Werkzeug has them: ``/api/tasks/<task_id>``.
        """
        self._fixed: dict[bytes, str] = {}
        self._open: list[tuple[re.Pattern[bytes], str]] = []
        for pattern in dict.fromkeys(patterns):
            label = _PARAMETER.sub(r"{\1}", pattern)
            if label == pattern:
                self._fixed[pattern.encode()] = label
            else:
                parts = (re.escape(part) for part in _PARAMETER.sub("\0", pattern).split("\0"))
                self._open.append((re.compile("[^/]+".join(parts).encode()), label))

    def became(self, kind: str, status: Status) -> None:
        """A commit has brought a task into another state."""
        count = self._kinds[kind].became.get(status)
        if count is not None:
            count()

    def began(self, kind: str, place: str, waited: float) -> None:
        """An attempt begins.

        :param waited: seconds since it might have begun.
        """
        of_kind = self._kinds[kind]
        of_kind.started()
        of_kind.waited(waited if waited > 0.0 else 0.0)
        self._in_flight[place] += 1

    def ran(self, kind: str, place: str, seconds: float) -> None:
        """An attempt that had begun has ended, however it did."""
        self._kinds[kind].ran(seconds if seconds > 0.0 else 0.0)
        self._in_flight[place] -= 1

    def blocked(self, kind: str, seconds: float) -> None:
        """A step of a handler has held the reactor for too long."""
        of_kind = self._kinds[kind]
        of_kind.blocked()
        of_kind.held(seconds)

    def stored(self, rows: int, seconds: float) -> None:
        """A transaction was committed; called in the writer's thread."""
        self._batch(seconds)
        self._rows(rows)

    def called(self, state: str) -> None:
        """A try to deliver a callback has left it ``delivered``, ``failed``, or ``pending`` for another."""
        self._called[state]()

    def answered(self, method: bytes, path: bytes, status: int, seconds: float) -> None:
        """A request is over.

        :param path: as it came, without the query.
        """
        route = self._fixed.get(path) or self._route(path)
        key = (method, route, status)
        counted = self._counted.get(key)
        if counted is None:
            name = method.decode("latin-1")
            if name not in METHODS:
                key, name = (b"", route, status), OTHER
            requests = self._requests.labels(route, name, str(status)).inc
            counted = self._counted[key] = requests, self._durations.labels(route, name).observe
        counted[0]()
        counted[1](seconds if seconds > 0.0 else 0.0)

    def families(self) -> list[Family]:
        """The numbers of this process."""
        return [
            Family(
                metric.name,
                metric.type,
                metric.documentation,
                [Sample(one.name, one.labels, float(one.value)) for one in metric.samples],
            )
            for metric in self._registry.collect()
        ]

    async def exposition(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """All numbers as text, and its media type."""
        shown: CollectorRegistry | _Together = self._registry
        if self.everyone is not None:
            shown = _Together(await self.everyone())
        if openmetrics:
            return openmetrics_text(shown), OPENMETRICS_TYPE
        return prometheus_text(shown), TEXT_TYPE

    def _count_tasks(self, kinds: Collection[str]) -> None:
        accepted = self._counter("tasks_accepted", "Tasks accepted, anew by a retry too.", ("kind",))
        started = self._counter("attempts_started", "Attempts begun.", ("kind",))
        ended = self._counter("tasks_ended", "Tasks ended, and how.", ("kind", "status"))
        blocked = self._counter("blocked_steps", "Steps that held the reactor over 50 ms.", ("kind",))
        held = self._counter("blocked_seconds", "For how long these steps held it.", ("kind",))
        waited = self._histogram(
            "task_waiting", "From when it might start until it did.", ("kind",), buckets=LONG
        )
        ran = self._histogram("attempt_duration", "How long attempts ran.", ("kind",), buckets=LONG)
        of_each = {
            kind: OfKind(
                {
                    ACCEPTED: accepted.labels(kind).inc,
                    **{how: ended.labels(kind, how).inc for how in (COMPLETED, FAILED, CANCELLED)},
                },
                started.labels(kind).inc,
                blocked.labels(kind).inc,
                held.labels(kind).inc,
                waited.labels(kind).observe,
                ran.labels(kind).observe,
            )
            for kind in (*kinds, OTHER)
        }
        self._kinds = _Kinds(of_each)

    def _count_requests(self) -> None:
        self.name_routes(())
        self._counted: dict[tuple[bytes, str, int], tuple[Count, Observe]] = {}
        self._requests = self._counter("http_requests", "HTTP requests.", ("route", "method", "status"))
        self._durations = self._histogram(
            "http_request_duration", "Until a request's answer was written.", ("route", "method")
        )

    def _route(self, path: bytes) -> str:
        return next((label for pattern, label in self._open if pattern.fullmatch(path)), OTHER)

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(f"asynctask_{name}", text, labels, self._registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(f"asynctask_{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, labels: Iterable[str] = (), buckets: tuple[float, ...] = SHORT
    ) -> Histogram:
        return Histogram(f"asynctask_{name}_seconds", text, labels, buckets, self._registry)


class _Together:
    """The numbers of many processes."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.text, family.kind)
            for one in family.samples:
                metric.add_sample(one.name, one.labels, one.value)
            yield metric
