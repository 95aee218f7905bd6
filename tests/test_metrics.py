"""The numbers for Prometheus: that they are all there, that they are right, and that labels are bounded."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from asynctask import __version__, task
from asynctask.api import Api
from asynctask.composition import AsyncTask
from asynctask.headers import wants_openmetrics
from asynctask.metrics import METHODS, OTHER, Metrics
from asynctask.model import ACCEPTED, COMPLETED
from asynctask.registry import KINDS, Kind, kinds_of
from asynctask.sqlitefile import Place
from tests.pages import metric_rows
from tests.test_api import BASE, START, ApiTestCase
from tests.turns import Turns

FAMILIES = {
    "tasks_accepted": ("counter", {"kind"}),
    "attempts_started": ("counter", {"kind"}),
    "tasks_ended": ("counter", {"kind", "status"}),
    "blocked_steps": ("counter", {"kind"}),
    "blocked_seconds": ("counter", {"kind"}),
    "task_waiting_seconds": ("histogram", {"kind"}),
    "attempt_duration_seconds": ("histogram", {"kind"}),
    "tasks_not_ended": ("gauge", set()),
    "event_subscribers": ("gauge", set()),
    "attempts_in_flight": ("gauge", {"place"}),
    "seats_free": ("gauge", {"place"}),
    "threads_abandoned": ("gauge", set()),
    "loop_lag_seconds": ("histogram", set()),
    "longest_step_seconds": ("gauge", set()),
    "store_batch_duration_seconds": ("histogram", set()),
    "store_rows": ("counter", set()),
    "callback_tries": ("counter", {"outcome"}),
    "callbacks_pending": ("gauge", set()),
    "store_healthy": ("gauge", set()),
    "http_requests": ("counter", {"route", "method", "status"}),
    "http_request_duration_seconds": ("histogram", {"route", "method"}),
    "build_info": ("gauge", {"version"}),
}
"""Every metric, without the prefix that each has: its type and labels."""


def value(text: bytes, sample: str, **labels: str) -> float | None:
    """One number of an exposition; None where it is not there."""
    for family in parse_text(text.decode()):
        for one in family.samples:
            if one.name == f"asynctask_{sample}" and one.labels == labels:
                return float(one.value)
    return None


class MetricsTestCase(ApiTestCase):
    """A service without sockets, with handlers that end as they should not."""

    def setUp(self) -> None:
        async def fails() -> None:
            raise ValueError("no")

        async def holds() -> None:
            """Hold the reactor for longer than anybody may."""
            end = perf_counter() + 0.06
            while perf_counter() < end:
                pass
            await deferLater(self.clock, 100)  # it is told while the attempt goes on

        async def waits() -> None:
            await deferLater(self.clock, 100)

        own = [kinds_of(task(function))[-1] for function in (fails, holds, waits)]
        self.kinds: Mapping[str, Kind] = {**KINDS, **{kind.name: kind for kind in own}}
        super().setUp()

    def value(self, sample: str, **labels: str) -> float | None:
        return value(self.get("/metrics").body, sample, **labels)

    def values(self, sample: str, label: str) -> dict[str, float]:
        """All numbers of a metric that has one label."""
        return {
            one.labels[label]: one.value
            for family in self.families()
            for one in family.samples
            if one.name == f"asynctask_{sample}"
        }

    def families(self) -> list[Metric]:
        return list(parse_text(self.get("/metrics").body.decode()))

    def work(self) -> None:
        """Let something of everything happen."""
        for body in ({"duration": 1}, {"kind": "fails"}, {"kind": "holds"}, {"delay": 9}):
            self.submit(**body)
        self.get("/api/tasks/task_1")
        self.metrics.lag(0.2)
        self.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class FamilyTests(MetricsTestCase):
    """What there is."""

    def test_every_metric_is_there_with_its_type_and_its_labels(self) -> None:
        self.work()
        found = {}
        for family in self.families():
            labels = {name for one in family.samples for name in one.labels} - {"le"}
            found[family.name] = (family.type, labels)
        self.assertEqual(found, {f"asynctask_{name}": what for name, what in FAMILIES.items()})

    def test_the_page_tells_of_every_metric_with_its_labels(self) -> None:
        ends = {"counter": "_total"}
        expected = {
            f"asynctask_{name}{ends.get(kind, '')}": (labels, kind == "histogram")
            for name, (kind, labels) in FAMILIES.items()
        }
        told = {
            name: (set(re.findall(r"`(\w+)`", row.partition("|")[0])), "| histogram:" in row)
            for name, row in metric_rows().items()
        }
        self.assertEqual(told, expected)

    def test_every_metric_says_what_it_is(self) -> None:
        for family in self.families():
            self.assertRegex(family.documentation, r"^\w.*\.$", family.name)

    def test_registered_kinds_are_there_before_their_first_task(self) -> None:
        nothing = dict.fromkeys((*self.kinds, OTHER), 0.0)
        for sample in ("tasks_accepted_total", "attempts_started_total", "blocked_steps_total"):
            self.assertEqual(self.values(sample, "kind"), nothing)

    def test_the_version_is_told(self) -> None:
        self.assertEqual(self.value("build_info", version=__version__), 1)

    def test_promtool_finds_nothing_to_say(self) -> None:
        promtool = shutil.which("promtool")
        if promtool is None:
            raise SkipTest("promtool (Debian's package prometheus) is not there")
        self.work()
        text = self.get("/metrics").body
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, check=False
        )
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, b"", b""))


class TaskTests(MetricsTestCase):
    """A task's way in numbers."""

    def assert_counted(self, kind: str, accepted: int, started: int, **ended: int) -> None:
        text = self.get("/metrics").body
        self.assertEqual(value(text, "tasks_accepted_total", kind=kind), accepted)
        self.assertEqual(value(text, "attempts_started_total", kind=kind), started)
        for status in ("completed", "failed", "cancelled"):
            found = value(text, "tasks_ended_total", kind=kind, status=status)
            self.assertEqual(found, ended.get(status, 0), status)

    def test_completed_tasks_are_counted(self) -> None:
        for _ in range(3):
            self.submit(duration=1)
        self.assert_counted("simulate", accepted=3, started=3)
        self.advance(1)
        self.assert_counted("simulate", accepted=3, started=3, completed=3)

    def test_those_of_a_batch_are_counted_one_by_one(self) -> None:
        self.post([{"name": "a", "duration": 1}, {"name": "b", "delay": 9}], "/api/tasks/batch")
        self.settle()
        self.assert_counted("simulate", accepted=2, started=1)

    def test_failed_attempts_are_started_again_and_ended_once(self) -> None:
        self.submit(kind="fails", retries=1)
        self.assert_counted("fails", accepted=1, started=1)
        self.advance(4)
        self.assert_counted("fails", accepted=1, started=2, failed=1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_cancelled_tasks_are_counted_whether_they_had_begun_or_not(self) -> None:
        for task_id in (self.submit(kind="waits"), self.submit(kind="waits", delay=9)):
            for _ in range(2):  # the second is refused
                self.post(b"", f"/api/tasks/{task_id}/cancel")
                self.settle()
        self.assert_counted("waits", accepted=2, started=1, cancelled=2)

    def test_a_retry_on_request_is_accepted_anew(self) -> None:
        task_id = self.submit(kind="waits", delay=9)
        self.post(b"", f"/api/tasks/{task_id}/cancel")
        self.assertEqual(self.post(b"", f"/api/tasks/{task_id}/retry").status, 202)
        self.settle()
        self.assert_counted("waits", accepted=2, started=1, cancelled=1)

    def test_what_was_refused_or_repeated_is_not_accepted(self) -> None:
        self.post({"name": ""})
        for _ in range(2):
            self.post({"name": "a"}, Idempotency_Key="a")
        self.assert_counted("simulate", accepted=1, started=0)

    def test_waiting_ends_with_the_start_and_running_with_the_end(self) -> None:
        self.submit(duration=3)
        self.submit(duration=3, delay=2)
        self.advance(6)
        text = self.get("/metrics").body
        for sample, expected in (
            ("task_waiting_seconds_count", 2),
            ("task_waiting_seconds_sum", 0),
            ("attempt_duration_seconds_count", 2),
            ("attempt_duration_seconds_sum", 6),
        ):
            self.assertEqual(value(text, sample, kind="simulate"), expected, sample)

    def test_in_flight_and_free_are_told_by_place(self) -> None:
        self.submit(kind="waits")
        self.submit(kind="waits", delay=9)
        self.assertEqual(
            self.values("attempts_in_flight", "place"),
            {"reactor": 1, "thread": 0, "asyncio": 0, "process": 0},
        )
        self.assertEqual(
            self.values("seats_free", "place"), {"reactor": 99, "thread": 2, "asyncio": 2, "process": 0}
        )
        self.assertEqual(self.value("tasks_not_ended"), 2)
        self.advance(200)
        self.assertEqual(self.values("attempts_in_flight", "place")["reactor"], 0)
        self.assertEqual(self.value("tasks_not_ended"), 0)

    def test_a_step_that_holds_the_reactor_is_counted(self) -> None:
        self.submit(duration=0)
        longest = self.value("longest_step_seconds")
        assert longest is not None
        self.assertGreater(longest, 0)
        self.submit(kind="holds")
        self.assertEqual(self.value("blocked_steps_total", kind="holds"), 1)
        held = self.value("blocked_seconds_total", kind="holds")
        assert held is not None
        self.assertGreaterEqual(held, 0.06)
        longest = self.value("longest_step_seconds")
        assert longest is not None
        self.assertGreaterEqual(longest, 0.06)

    def test_for_how_long_steps_held_the_reactor_is_told_in_seconds(self) -> None:
        for seconds in (0.25, 0.5):
            self.metrics.blocked("fails", seconds)
        self.assertEqual(self.value("blocked_steps_total", kind="fails"), 2)
        self.assertEqual(self.value("blocked_seconds_total", kind="fails"), 0.75)

    def test_what_seems_to_end_before_it_began_took_no_time(self) -> None:
        """As it does where the clock was set back."""
        self.metrics.began("fails", "reactor", -5)
        self.metrics.ran("fails", "reactor", -5)
        self.metrics.answered(b"POST", b"/api/tasks", 202, -5)
        for sample, labels in (
            ("task_waiting_seconds", {"kind": "fails"}),
            ("attempt_duration_seconds", {"kind": "fails"}),
            ("http_request_duration_seconds", {"route": "/api/tasks", "method": "POST"}),
        ):
            self.assertEqual(self.value(f"{sample}_count", **labels), 1, sample)
            self.assertEqual(self.value(f"{sample}_sum", **labels), 0, sample)

    def test_a_kind_that_nobody_registered_has_no_label_of_its_own(self) -> None:
        for kind in ("gone", "gone too"):
            self.metrics.became(kind, ACCEPTED)
            self.metrics.became(kind, COMPLETED)
        self.assert_counted(OTHER, accepted=2, started=0, completed=2)
        self.assertEqual(set(self.values("tasks_accepted_total", "kind")), {*self.kinds, OTHER})


class WaitingTests(MetricsTestCase):
    """Without a free seat a task waits."""

    seats = 1

    def test_waiting_for_a_seat_is_waiting(self) -> None:
        for _ in range(3):
            self.submit(duration=2)
        self.assertEqual(self.values("seats_free", "place")["reactor"], 0)
        self.advance(6)
        self.assertEqual(self.value("task_waiting_seconds_sum", kind="simulate"), 0 + 2 + 4)
        self.assertEqual(self.value("attempt_duration_seconds_sum", kind="simulate"), 2 * 3)


class StoreTests(MetricsTestCase):
    """The store in numbers."""

    def test_batches_and_their_rows_are_counted(self) -> None:
        batches, rows = (
            self.value("store_batch_duration_seconds_count"),
            self.value("store_rows_total"),
        )
        assert batches is not None
        assert rows is not None
        self.post([{"name": "a", "delay": 9}] * 7, "/api/tasks/batch")
        self.assertEqual(self.value("store_batch_duration_seconds_count"), batches + 1)
        self.assertEqual(self.value("store_rows_total"), rows + 7)

    def test_whether_it_is_well_is_told(self) -> None:
        self.assertEqual(self.value("store_healthy"), 1)
        self.store._writer.healthy = False
        self.assertEqual(self.value("store_healthy"), 0)
        self.store._writer.healthy = True


class RequestTests(MetricsTestCase):
    """HTTP in numbers."""

    def requests(self) -> dict[tuple[str, str, str], float]:
        """By route, method and status."""
        return {
            (one.labels["route"], one.labels["method"], one.labels["status"]): one.value
            for family in self.families()
            for one in family.samples
            if one.name == "asynctask_http_requests_total"
        }

    def test_a_request_is_counted_by_its_route_method_and_status(self) -> None:
        task_id = self.submit()
        for path in (task_id, task_id, "task_1"):
            self.get(f"/api/tasks/{path}?a=b")
        self.request("HEAD", f"/api/tasks/{task_id}")
        self.post({})
        self.post([], "/api/tasks/batch")
        self.post(b"", f"/api/tasks/{task_id}/cancel")
        self.get("/health/live", Host="evil.example")
        self.request("OPTIONS", f"/api/tasks/{task_id}")
        self.request("DELETE", "/api/tasks/task_1")
        self.assertEqual(
            self.requests(),
            {
                ("/api/tasks", "POST", "202"): 1,
                ("/api/tasks", "POST", "400"): 1,
                ("/api/tasks/batch", "POST", "400"): 1,
                ("/api/tasks/{task_id}", "GET", "200"): 2,
                ("/api/tasks/{task_id}", "GET", "404"): 1,
                ("/api/tasks/{task_id}", "HEAD", "200"): 1,
                ("/api/tasks/{task_id}", "OPTIONS", "204"): 1,
                ("/api/tasks/{task_id}", "DELETE", "404"): 1,
                ("/api/tasks/{task_id}/cancel", "POST", "200"): 1,
                ("/health/live", "GET", "403"): 1,
            },
        )
        self.assertEqual(self.requests()["/metrics", "GET", "200"], 1)

    def test_unknown_paths_and_methods_share_their_labels(self) -> None:
        for number in range(20):
            self.get(f"/{number}")
            self.get(f"/api/tasks/{number}")
            self.get(f"/api/tasks/{number}/cancel/{number}")
            self.request(f"BREW{number}", "/health/live")
            self.request(f"BREW{number}", "/%ff")
        self.assertEqual(
            self.requests(),
            {
                (OTHER, "GET", "404"): 40,
                ("/api/tasks/{task_id}", "GET", "404"): 20,
                ("/health/live", OTHER, "405"): 20,
                (OTHER, OTHER, "404"): 20,
            },
        )
        self.assertNotIn("BREW", METHODS)

    def test_every_route_has_a_label(self) -> None:
        for rule in Api.app.url_map.iter_rules():
            path = rule.rule.replace("<task_id>", "task_1")
            self.metrics.answered(b"GET", path.encode(), 200, 0)
        self.assertNotIn(OTHER, {route for route, _, _ in self.requests()})

    def test_how_long_it_took_is_told(self) -> None:
        task_id = self.submit(duration=2)
        asked = self.treq.get(f"{BASE}/api/tasks/{task_id}", headers={"Prefer": "wait=9"})
        self.treq.flush()
        self.advance(2)
        self.treq.flush()
        self.assertEqual(self.successResultOf(asked).code, 200)
        labels = {"route": "/api/tasks/{task_id}", "method": "GET"}
        self.assertEqual(self.value("http_request_duration_seconds_count", **labels), 1)
        self.assertEqual(self.value("http_request_duration_seconds_sum", **labels), 2)

    def test_a_client_that_left_before_its_answer_is_counted_as_such(self) -> None:
        task_id = self.submit(duration=2)
        asked: Deferred[Any] = self.treq.get(f"{BASE}/api/tasks/{task_id}", headers={"Prefer": "wait=9"})
        self.treq.flush()
        self.settle()
        asked.cancel()
        self.treq.flush()
        self.failureResultOf(asked)
        self.assertEqual(self.requests()["/api/tasks/{task_id}", "GET", "499"], 1)


class FormatTests(MetricsTestCase):
    """How the numbers are written."""

    def test_plain_text_is_what_is_given_unasked(self) -> None:
        answer = self.get("/metrics")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8")
        self.assertEqual(answer.header("Vary"), "Accept")
        self.assertNotIn(b"# EOF", answer.body)
        self.assertNotIn(b"_created", answer.body)

    def test_openmetrics_is_given_where_asked_for(self) -> None:
        self.work()
        answer = self.get("/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        self.assertEqual(
            answer.header("Content-Type"), "application/openmetrics-text; version=1.0.0; charset=utf-8"
        )
        self.assertTrue(answer.body.endswith(b"# EOF\n"))
        names = {family.name for family in parse_openmetrics(answer.body.decode())}
        self.assertEqual(
            names - {"asynctask_build"},
            {f"asynctask_{name}" for name in FAMILIES} - {"asynctask_build_info"},
        )

    def test_who_accepts_what_is_read(self) -> None:
        openmetrics = "application/openmetrics-text"
        prometheus = (
            "application/openmetrics-text;version=1.0.0;q=0.5,"
            "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        )
        for values, wants in (
            ([], False),
            (["*/*"], False),
            (["text/plain"], False),
            ([openmetrics], True),
            (["Application/OpenMetrics-Text; Version=1.0.0 ; Q=0.5"], True),
            ([prometheus], True),
            ([f"{openmetrics};q=0"], False),
            ([f"{openmetrics};q=0.000, */*"], False),
            ([f"{openmetrics};q=0.2, text/plain"], False),
            ([f"{openmetrics};q=0.2", "text/plain;q=0.1"], True),
            ([f"{openmetrics};version=1.0.0, {openmetrics};q=0.1, text/plain;q=0.5"], True),
            ([f"{openmetrics};q=0.5", "text/plain;version=0.0.4;q=0.9, text/plain;q=0.1"], False),
            ([f"{openmetrics};q=nan"], False),
            ([f"{openmetrics};q=1e3"], False),
            ([f"x{openmetrics}, {openmetrics}x"], False),
            ([",;q=1;,"], False),
        ):
            self.assertIs(wants_openmetrics(values), wants, values)

    def test_head_is_get_without_the_body(self) -> None:
        head = self.request("HEAD", "/metrics")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8")
        self.assertGreater(int(head.header("Content-Length") or 0), 1_000)

    def test_nothing_is_changed_by_it(self) -> None:
        self.assertEqual(self.request("POST", "/metrics", b"").status, 405)


class Reactor(MemoryReactorClock, Turns):
    """A reactor without sockets, whose thread only moves when a test says so."""

    def __init__(self) -> None:
        MemoryReactorClock.__init__(self)
        Turns.__init__(self)


class ServiceTests(SynchronousTestCase):
    """The whole service."""

    def service(self, *names: str) -> tuple[AsyncTask, Reactor, Any]:
        async def handler() -> None:
            pass

        reactor = Reactor()
        kinds = {name: kinds_of(task(name=name)(handler))[-1] for name in names}
        seats = {"reactor": 5, "asyncio": 4, "thread": 3, "process": 2}
        service = AsyncTask(Place(None), "tcp:0", reactor, kinds=kinds, seats=seats, now=lambda: START)
        service._store.open([], START, kinds)
        self.addCleanup(lambda: reactor.outcome(service._store.close()))
        return service, reactor, StubTreq(service._server.resource)

    def ask(self, reactor: Reactor, treq: Any, method: str, path: str, json: Any = None) -> bytes:
        asked = treq.request(method, BASE + path, json=json)
        found: list[bytes] = []
        asked.addCallback(lambda response: response.content()).addCallback(found.append)
        treq.flush()
        while not found:
            reactor.turn()
            treq.flush()
        return found[0]

    def test_it_watches_its_own_parts(self) -> None:
        service, reactor, treq = self.service("a")
        self.ask(reactor, treq, "POST", "/api/tasks", {"name": "a", "kind": "a", "delay": 5})
        service._places._threads.abandoned = 7
        text = self.ask(reactor, treq, "GET", "/metrics")
        for sample, labels, expected in (
            ("tasks_accepted_total", {"kind": "a"}, 1),
            ("tasks_not_ended", {}, 1),
            ("store_healthy", {}, 1),
            ("threads_abandoned", {}, 7),
            ("seats_free", {"place": "reactor"}, 5),
            ("seats_free", {"place": "process"}, 2),
            ("http_requests_total", {"route": "/api/tasks", "method": "POST", "status": "202"}, 1),
        ):
            self.assertEqual(value(text, sample, **labels), expected, sample)

    def test_two_in_one_process_count_apart(self) -> None:
        _, reactor, treq = self.service("a")
        _, other_reactor, other_treq = self.service("b")
        self.ask(reactor, treq, "POST", "/api/tasks", {"name": "a", "kind": "a", "delay": 5})
        mine = self.ask(reactor, treq, "GET", "/metrics")
        others = self.ask(other_reactor, other_treq, "GET", "/metrics")
        self.assertEqual(value(mine, "tasks_accepted_total", kind="a"), 1)
        self.assertIsNone(value(mine, "tasks_accepted_total", kind="b"))
        self.assertEqual(value(others, "tasks_accepted_total", kind="b"), 0)
        self.assertEqual(value(others, "tasks_not_ended"), 0)

    def test_two_sets_of_numbers_need_not_know_of_each_other(self) -> None:
        first, second = Metrics(["a"]), Metrics(["a"])
        first.became("a", ACCEPTED)
        for metrics, expected in ((first, 1), (second, 0)):
            text, _ = self.successResultOf(Deferred.fromCoroutine(metrics.exposition(openmetrics=False)))
            self.assertEqual(value(text, "tasks_accepted_total", kind="a"), expected)
