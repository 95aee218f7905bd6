"""The routes in memory: the HTTP contract, over a real store and a clock that the test moves."""

import json
from collections.abc import Mapping
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from asynctask.api import Api
from asynctask.feed import Feed
from asynctask.metrics import Metrics
from asynctask.model import Submission, accept
from asynctask.places import Places
from asynctask.problems import NOT_KEPT
from asynctask.recorder import FlightRecorder
from asynctask.registry import KINDS, Kind
from asynctask.runner import Runner
from asynctask.seats import Seats
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from asynctask.wire import Ids
from tests.turns import Turns
from tests.wires import Wire

START = 1_700_000_000.5
BASE = "http://localhost:8080"
JSON = {"Content-Type": "application/json"}


class Answer:
    """A whole answer."""

    def __init__(self, response: Any, body: bytes) -> None:
        self.status: int = response.code
        self.phrase: str = response.phrase.decode()
        self.body = body
        self._headers = response.headers

    def header(self, name: str) -> str | None:
        values = self._headers.getRawHeaders(name)
        return None if values is None else ", ".join(values)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ApiTestCase(SynchronousTestCase):
    """A service without sockets."""

    seats = 100
    max_waiting = 1_000
    kinds: Mapping[str, Kind] = KINDS

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns()
        self.metrics = Metrics(self.kinds)
        self.store = SqlStore(Place(None), self.turns, metrics=self.metrics)
        self.store.open([], START)
        self.addCleanup(lambda: self.turns.outcome(self.store.close()))
        self.free = Seats({"reactor": self.seats, "thread": 2, "asyncio": 2, "process": 0})
        places = Places(FlightRecorder(), self.clock, self.turns.callFromThread, 2, 0)
        self.addCleanup(places.stop)
        self.feed = Feed(self.clock)
        self.store.published = self.feed.publish
        self.store.progressed = self.feed.report
        self.feed.begin(self.store.epoch, self.store.seq)
        self.runner = Runner(
            self.store, self.free, places, self.kinds, self.clock, self.now, metrics=self.metrics
        )
        self.metrics.watch(
            not_ended=lambda: self.store.unfinished,
            healthy=lambda: self.store.healthy,
            free=self.free.free_in,
            abandoned=lambda: places.abandoned,
            followers=lambda: self.feed.followers,
            callbacks=lambda: 0,
        )
        self.runner.start()
        self.settle()
        api = Api(
            self.store,
            self.free,
            self.feed,
            self.kinds,
            self.clock,
            self.now,
            lambda: bytes([*range(16)]),
            ["tasks.example"],
            self.max_waiting,
            metrics=self.metrics,
        )
        self.server = self.server_of(api)
        self.treq: Any = self.client_of(api)

    def server_of(self, api: Api) -> Any:
        """The server that makes connections: twisted.web's."""
        return Site(api.resource(), reactor=self.clock)

    def client_of(self, api: Api) -> Any:
        """Whoever asks the service in memory: over twisted.web's connection."""
        return StubTreq(api.resource())

    def now(self) -> float:
        return START + self.clock.seconds()

    def settle(self) -> None:
        """Run all that is due now, and wait for the writer to have done what it was asked."""
        for _ in range(4):
            self.clock.advance(0)
            self.turns.outcome(self.store._writer.call(lambda _db, _news: None))

    def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.settle()

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = self.treq.request(method, BASE + path, data=body, headers=named)
        response = self._fired(asked)
        return Answer(response, self._fired(response.content()))

    def _fired(self, deferred: Deferred[Any]) -> Any:
        found: list[Any] = []
        deferred.addBoth(found.append)
        self.treq.flush()
        while not found:
            self.turns.turn()
            self.treq.flush()
        assert not isinstance(found[0], Failure), found[0]
        return found[0]

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, **headers)

    def post(self, body: object, path: str = "/api/tasks", **headers: str) -> Answer:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, sent, **{"Content_Type": "application/json", **headers})

    def submit(self, **body: object) -> str:
        answer = self.post({"name": "a", **body})
        self.assertEqual(answer.status, 202)
        self.settle()
        task_id: str = answer.json["task_id"]
        return task_id

    def assert_problem(self, answer: Answer, status: int, sentence: str) -> None:
        self.assertEqual((answer.status, answer.json["error"]), (status, sentence))
        self.assertEqual(answer.header("Content-Type"), "application/problem+json")
        self.assertEqual(answer.json["detail"], sentence)
        self.assertEqual(answer.json["status"], status)
        self.assertEqual(answer.json["type"], "about:blank")
        self.assertEqual(answer.json["title"], answer.phrase)


class SubmitTests(ApiTestCase):
    """POST /api/tasks."""

    def test_a_task_is_accepted_in_four_keys(self) -> None:
        answer = self.post({"name": "generate-report", "duration": 5})
        task_id = answer.json["task_id"]
        self.assertRegex(task_id, "^task_1700000000[0-9a-hjkmnp-tv-z]{20}$")
        self.assertEqual(answer.status, 202)
        self.assertEqual(
            answer.body,
            b'{"task_id":"%s","name":"generate-report","status":"accepted",'
            b'"message":"Task will run for 5 seconds in background"}' % task_id.encode(),
        )
        self.assertEqual(answer.header("Content-Type"), "application/json")
        self.assertEqual(answer.header("Location"), f"/api/tasks/{task_id}")
        self.assertEqual(answer.header("Retry-After"), "5")

    def test_the_wording_does_not_count(self) -> None:
        for body, message in (
            ({"name": "a", "duration": 1}, "Task will run for 1 seconds in background"),
            ({"name": "a"}, "Task will run for 3 seconds in background"),
            ({"name": "a", "duration": 5.0}, "Task will run for 5 seconds in background"),
        ):
            self.assertEqual(self.post(body).json["message"], message)

    def test_it_can_have_ended_after_delay_and_duration(self) -> None:
        self.assertEqual(self.post({"name": "a", "duration": 2, "delay": 0.5}).header("Retry-After"), "3")
        self.assertEqual(self.post({"name": "a", "duration": 0}).header("Retry-After"), "0")

    def test_whom_to_call_is_shown_before_and_after_the_end(self) -> None:
        url = "https://receiver.example/hook"
        task_id = self.submit(duration=1, callback_url=url)
        callback = {"url": url, "state": "pending", "tries": 0, "error": None}
        self.assertEqual(self.get(f"/api/tasks/{task_id}").json["callback"], callback)
        self.advance(1)
        self.assertEqual(self.get(f"/api/tasks/{task_id}").json["status"], "completed")
        self.assertEqual(self.get("/api/tasks").json["tasks"][0]["callback"], callback)
        batch = self.post([{"name": "a", "callback_url": url}, {"name": "b"}], "/api/tasks/batch").json
        ids = [one["task_id"] for one in batch["tasks"]]
        shown = [self.get(f"/api/tasks/{one}").json["callback"] for one in ids]
        self.assertEqual(shown, [callback, None])

    def test_no_content_type_is_taken_as_json(self) -> None:
        answer = self.request("POST", "/api/tasks", b'{"name":"a"}')
        self.assertEqual(answer.status, 202)

    def test_a_charset_is_no_other_type(self) -> None:
        answer = self.post({"name": "a"}, Content_Type="Application/JSON; charset=utf-8")
        self.assertEqual(answer.status, 202)

    def test_another_type_is_refused(self) -> None:
        answer = self.post({"name": "a"}, Content_Type="text/plain")
        self.assert_problem(
            answer,
            415,
            "The body must be application/json; say so with Content-Type: application/json",
        )

    def test_what_is_wrong_is_said_with_all_pointers(self) -> None:
        answer = self.post({"duration": True, "durration": 1, "kind": "simulat"})
        self.assert_problem(answer, 400, "Field 'name' is required (non-empty string)")
        self.assertEqual(
            [error["pointer"] for error in answer.json["errors"]],
            ["/name", "/duration", "/kind", "/durration"],
        )
        self.assertIn("did you mean 'simulate'?", answer.json["errors"][2]["detail"])
        self.assertIn("did you mean 'duration'?", answer.json["errors"][3]["detail"])

    def test_what_is_no_json_is_said_so(self) -> None:
        for body, what in (
            (b"", "The body is empty"),
            (b"{'name'", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            (b'{"name":"a"}x', "Something comes after the value: line 1 column 13 (char 12)"),
            (b"\xff", "The body is not UTF-8 at byte 0"),
            (b'{"name":NaN}', "NaN is no number of JSON"),
            (b'{"name":"a","name":"b"}', "Key 'name' is in one object twice"),
        ):
            answer = self.post(body)
            self.assert_problem(answer, 400, "Invalid JSON")
            self.assertEqual(answer.json["errors"], [{"detail": what, "pointer": ""}])
        self.assert_problem(self.post([]), 400, "The body must be a JSON object")

    def test_what_was_refused_is_not_there(self) -> None:
        self.post({"name": "a", "unknown": 1})
        self.assertEqual(self.get("/api/tasks").json["tasks"], [])

    def test_ids_sort_in_the_order_of_acceptance(self) -> None:
        ids = [self.submit() for _ in range(20)]
        self.assertEqual(ids, sorted(set(ids)))

    def test_while_the_service_stops_nothing_is_accepted(self) -> None:
        task_id = self.submit()
        self.runner.drain(10)
        answer = self.post({"name": "a"})
        self.assertEqual((answer.status, answer.header("Retry-After")), (503, "1"))
        self.assertEqual(self.get(f"/api/tasks/{task_id}").status, 200)
        self.assertEqual(self.get("/health/ready").status, 503)
        self.assertEqual(self.get("/health/live").status, 200)

    def test_without_a_store_nothing_is_accepted_and_the_seat_is_free_again(self) -> None:
        self.store._writer.healthy = False
        answer = self.post({"name": "a"})
        self.assertEqual((answer.status, answer.header("Retry-After")), (503, "1"))
        self.assert_problem(self.get("/health/ready"), 503, "The store does not answer")
        self.assertEqual(self.get("/health/live").status, 200)
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats)
        self.store._writer.healthy = True

    def test_a_task_that_cannot_be_stored_is_refused_and_the_log_tells_why(self) -> None:
        self.store._writer._connected().exec_driver_sql("DROP TABLE task").connection.commit()
        with capturedLogs() as logged:
            answer = self.post({"name": "a"})
        self.assert_problem(answer, 503, NOT_KEPT)
        told = [(event["log_format"], event["error"]) for event in logged]
        self.assertEqual(told, [("Store failed", "no such table: task")])
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats)

    def test_a_client_that_hangs_up_disturbs_nothing(self) -> None:
        agent = self.treq.request(
            "POST", BASE + "/api/tasks", data=b'{"name":"gone","duration":1}', headers=JSON
        )
        self.treq.flush()
        agent.addErrback(lambda _: None)
        agent.cancel()
        self.settle()
        self.advance(1)
        (task,) = self.get("/api/tasks").json["tasks"]
        self.assertEqual((task["name"], task["status"]), ("gone", "completed"))
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats)


class FollowTests(ApiTestCase):
    """GET."""

    def test_a_task_has_all_its_keys_from_the_first_day_on(self) -> None:
        task_id = self.submit(duration=2, name="b")
        self.assertEqual(
            list(self.get(f"/api/tasks/{task_id}").json.items()),
            [
                ("task_id", task_id),
                ("name", "b"),
                ("kind", "simulate"),
                ("input", {"duration": 2}),
                ("status", "running"),
                ("progress", None),
                ("attempt", 1),
                ("retries", 0),
                ("timeout", None),
                ("cancel_requested", False),
                ("accepted_at", "2023-11-14T22:13:20.500Z"),
                ("run_at", "2023-11-14T22:13:20.500Z"),
                ("started_at", "2023-11-14T22:13:20.500Z"),
                ("finished_at", None),
                ("result", None),
                ("error", None),
                ("longest_step", None),
                ("traceparent", None),
                ("callback", None),
                (
                    "history",
                    [
                        {
                            "at": "2023-11-14T22:13:20.500Z",
                            "status": "accepted",
                            "attempt": 0,
                            "error": None,
                        },
                        {
                            "at": "2023-11-14T22:13:20.500Z",
                            "status": "running",
                            "attempt": 1,
                            "error": None,
                        },
                    ],
                ),
            ],
        )

    def test_a_running_task_shows_its_progress_and_what_is_left(self) -> None:
        task_id = self.submit(duration=5)
        self.advance(2)
        answer = self.get(f"/api/tasks/{task_id}")
        self.assertEqual(answer.json["progress"], {"step": 2, "total": 5, "message": ""})
        self.assertEqual(answer.header("Retry-After"), "3")

    def test_a_running_task_has_no_more_left_where_the_clock_was_set_back(self) -> None:
        task_id = self.submit(duration=5)
        self.clock.rightNow -= 3_600
        self.assertEqual(self.get(f"/api/tasks/{task_id}").header("Retry-After"), "5")

    def test_a_waiting_task_says_when_it_can_have_ended(self) -> None:
        task_id = self.submit(duration=5, delay=10)
        self.advance(1)
        self.assertEqual(self.get(f"/api/tasks/{task_id}").header("Retry-After"), "14")

    def test_a_task_that_has_ended_needs_no_other_look(self) -> None:
        task_id = self.submit(duration=1)
        self.advance(1)
        answer = self.get(f"/api/tasks/{task_id}")
        self.assertEqual((answer.json["status"], answer.header("Retry-After")), ("completed", None))

    def test_an_unknown_task_is_not_found(self) -> None:
        for task_id in ("task_1", "task_" + "0" * 30, "x" * 500, "%00", "%20"):
            self.assertEqual(self.get(f"/api/tasks/{task_id}").status, 404)
        self.assert_problem(self.get("/api/tasks/x"), 404, "There is no task 'x'")

    def test_the_list_goes_on_where_the_cursor_says(self) -> None:
        ids = [self.submit() for _ in range(5)][::-1]
        seen, path = [], "/api/tasks?limit=2"
        while True:
            page = self.get(path).json
            seen += [task["task_id"] for task in page["tasks"]]
            if page["next"] is None:
                break
            path = f"/api/tasks?limit=2&cursor={page['next']}"
        self.assertEqual(seen, ids)

    def test_the_list_leaves_out_what_is_long(self) -> None:
        self.submit()
        (task,) = self.get("/api/tasks").json["tasks"]
        self.assertEqual({"input", "result", "history"} & set(task), set())

    def test_the_list_is_filtered(self) -> None:
        self.submit(duration=1, name="done")
        self.advance(1)
        self.submit(name="née + 1")
        self.submit(delay=9)
        for query, names in (
            ("status=completed", ["done"]),
            ("status=running,completed", ["née + 1", "done"]),
            ("name=n%C3%A9e+%2B+1", ["née + 1"]),
            ("kind=simulate&status=accepted", ["a"]),
            ("kind=simulate&name=b", []),
        ):
            found = self.get(f"/api/tasks?{query}").json["tasks"]
            self.assertEqual([task["name"] for task in found], names, query)

    def test_a_task_whose_kind_is_gone_is_shown(self) -> None:
        gone = accept(Submission("gone", "gone", "{}"), Ids().next(START, bytes(16)), START)
        self.turns.outcome(self.store.add([gone], []))
        answer = self.get(f"/api/tasks/{gone.task_id}")
        self.assertEqual((answer.status, answer.header("Retry-After")), (200, "1"))
        self.assertEqual((answer.json["kind"], answer.json["status"]), ("gone", "accepted"))

    def test_a_kind_is_known_as_long_as_there_are_tasks_of_it(self) -> None:
        said = "Parameter 'kind': Unknown kind 'simulated'; did you mean 'simulate'?"
        self.assert_problem(self.get("/api/tasks?kind=simulated"), 400, said)
        gone = accept(Submission("gone", "simulated", "{}"), Ids().next(START, bytes(16)), START)
        self.turns.outcome(self.store.add([gone], []))
        for query, names in (("", ["gone"]), ("&status=completed", [])):
            found = self.get(f"/api/tasks?kind=simulated{query}").json["tasks"]
            self.assertEqual([task["name"] for task in found], names)

    def test_a_bad_query_is_refused(self) -> None:
        for query in (
            "stauts=x",
            "status=done",
            "status=",
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=1&limit=2",
            "cursor=x",
            "name=",
            "name=%ff",
            "unknown",
        ):
            self.assertEqual(self.get(f"/api/tasks?{query}").status, 400, query)
        self.assert_problem(
            self.get("/api/tasks?stauts=x"), 400, "Unknown parameter 'stauts'; did you mean 'status'?"
        )

    def test_health(self) -> None:
        for path in ("/health/live", "/health/ready"):
            answer = self.get(path)
            self.assertEqual((answer.status, answer.json), (200, {"status": "ok"}))


class MethodTests(ApiTestCase):
    """HEAD, OPTIONS, and what there is not."""

    def test_head_is_get_without_the_body(self) -> None:
        task_id = self.submit()
        for path in ("/api/tasks", f"/api/tasks/{task_id}", "/health/live", "/health/ready"):
            head, whole = self.request("HEAD", path), self.get(path)
            self.assertEqual((head.status, head.body), (200, b""))
            self.assertEqual(head.header("Content-Length"), str(len(whole.body)))
            self.assertEqual(head.header("Content-Type"), whole.header("Content-Type"))

    def test_options_tells_what_is_allowed(self) -> None:
        for path, allowed in (
            ("/api/tasks", "GET, HEAD, OPTIONS, POST"),
            ("/api/tasks/x", "DELETE, GET, HEAD, OPTIONS"),
            ("/api/tasks/x/cancel", "OPTIONS, POST"),
            ("/health/live", "GET, HEAD, OPTIONS"),
        ):
            answer = self.request("OPTIONS", path)
            self.assertEqual((answer.status, answer.body, answer.header("Allow")), (204, b"", allowed))
        self.assertEqual(self.request("OPTIONS", "/nothing").status, 404)

    def test_another_method_is_refused(self) -> None:
        answer = self.request("DELETE", "/api/tasks")
        self.assert_problem(answer, 405, "There is no DELETE here, only GET, HEAD, OPTIONS, POST")
        self.assertEqual(answer.header("Allow"), "GET, HEAD, OPTIONS, POST")
        self.assertEqual(self.request("BREW", "/health/live").status, 405)

    def test_a_method_in_small_letters_is_another(self) -> None:
        for method in ("post", "pOsT", "get", "Head", "options"):
            wire = Wire(self.server).send(
                f"{method} /api/tasks HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
                "Content-Length: 12\r\n\r\n".encode()
                + b'{"name":"a"}'
            )
            self.settle()
            self.assertEqual(wire.statuses, [405], method)
            self.assertIn(b"There is no %b here, only GET, HEAD" % method.encode(), wire.raw)
        self.assertEqual(self.store.unfinished, 0)

    def test_an_unknown_path_is_not_found(self) -> None:
        for path in (
            "/",
            "/api",
            "/api/tasks/",
            "/api//tasks",
            "//api/tasks",
            "/api%2Ftasks",
            "/api/event",
            "/%ff",
            "/x?y",
        ):
            answer = self.get(path)
            self.assertEqual(answer.status, 404, path)
            self.assertEqual(answer.header("Content-Type"), "application/problem+json")

    def test_a_bug_is_logged_and_not_shown(self) -> None:
        def broken(_query: object) -> None:
            raise RuntimeError("secret")

        self.store.list = broken  # type: ignore[method-assign, assignment]
        with capturedLogs() as logged:
            answer = self.get("/api/tasks")
        self.assert_problem(answer, 500, "Something went wrong here; the log tells what")
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual([event["path"] for event in logged], ["/api/tasks"])


class WhoMayAskTests(ApiTestCase):
    """The guard's answers, on every path and method."""

    def test_a_foreign_host_is_refused_everywhere(self) -> None:
        for method, path in (("GET", "/health/live"), ("GET", "/nothing"), ("OPTIONS", "/api/tasks")):
            answer = self.request(method, path, Host="evil.example")
            self.assertEqual(answer.status, 403)
        self.assertEqual(self.request("HEAD", "/health/live", Host="evil.example").body, b"")

    def test_our_names_are_served(self) -> None:
        for host in ("localhost", "LOCALHOST:1", "127.9.9.9:80", "[::1]:8080", "tasks.example"):
            self.assertEqual(self.get("/health/live", Host=host).status, 200, host)

    def test_a_page_of_another_site_changes_nothing(self) -> None:
        for headers in (
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:9999"},
        ):
            answer = self.post({"name": "a"}, **headers)
            self.assertEqual(answer.status, 403, headers)
        self.assertEqual(self.get("/api/tasks", Origin="http://evil.example").status, 200)
        self.assertIsNone(self.get("/api/tasks", Origin=BASE).header("Access-Control-Allow-Origin"))

    def test_our_own_page_may(self) -> None:
        for headers in ({"Sec_Fetch_Site": "same-origin", "Origin": BASE}, {"Sec_Fetch_Site": "none"}):
            self.assertEqual(self.post({"name": "a"}, **headers).status, 202, headers)

    def test_an_expectation_that_we_do_not_know_is_refused(self) -> None:
        self.assertEqual(self.post({"name": "a"}, Expect="200-ok").status, 417)


class FullTests(ApiTestCase):
    """Without a free seat a task waits."""

    seats = 1

    def test_a_task_without_a_seat_is_accepted_and_waits_its_turn(self) -> None:
        ids = [self.submit(duration=1) for _ in range(3)]
        shown = [self.get(f"/api/tasks/{task_id}").json["status"] for task_id in ids]
        self.assertEqual(shown, ["running", "accepted", "accepted"])
        self.advance(3)
        shown = [self.get(f"/api/tasks/{task_id}").json["status"] for task_id in ids]
        self.assertEqual(shown, ["completed"] * 3)
