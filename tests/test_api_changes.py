"""Tasks that are cancelled, retried, deleted and looked at again, and the kinds that there are."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs

from asynctask.acceptance import CLOSED
from asynctask.context import Context
from asynctask.registry import KINDS, Kind, kinds_of, task
from tests.test_api import Answer, ApiTestCase

NOBODY = "task_" + "0" * 30
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@task(retries=2, timeout=60, concurrency=5)
async def greet(whom: str, times: Annotated[int, Meta(ge=1)] = 1, *, context: Context) -> str:
    """Greet somebody."""
    return f"Hello {whom}" * times


@task
async def refuse() -> None:
    raise ValueError("no")


@task
async def trace(*, context: Context) -> str | None:
    return context.traceparent


@task
async def linger() -> str:
    try:
        await Deferred()
    except CancelledError:
        return "swallowed"
    return "never"


@task
async def hang() -> None:
    while True:
        try:
            await Deferred()
        except CancelledError:
            continue


@task
def pause() -> None:
    """In a thread."""


FUNCTIONS: tuple[Callable[..., Any], ...] = (greet, refuse, trace, linger, hang, pause)
HANDLERS = {kind.name: kind for function in FUNCTIONS for kind in kinds_of(function)}
ALL: Mapping[str, Kind] = {**KINDS, **HANDLERS}


class ChangeTestCase(ApiTestCase):
    kinds: Mapping[str, Kind] = ALL

    def path(self, **body: object) -> str:
        """Where a new task is."""
        return f"/api/tasks/{self.submit(**body)}"

    def change(self, path: str, what: str, **headers: str) -> Answer:
        answer = self.request("POST", f"{path}/{what}", None, **headers)
        self.settle()
        return answer

    def ended(self, status: str) -> str:
        """A task that was completed or cancelled."""
        path = self.path(duration=0, delay=9 if status == "cancelled" else 0)
        if status == "cancelled":
            self.change(path, "cancel")
        self.assertEqual(self.get(path).json["status"], status)
        return path

    def failed(self) -> str:
        """A task that failed."""
        path = self.path(kind="refuse")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.get(path).json["status"], "failed")
        return path


class CancelTests(ChangeTestCase):
    """POST /api/tasks/{task_id}/cancel."""

    def test_a_waiting_task_is_cancelled(self) -> None:
        path = self.path(delay=60)
        answer = self.change(path, "cancel")
        self.assertEqual((answer.status, answer.json["status"]), (200, "cancelled"))
        self.assertEqual((answer.json["cancel_requested"], answer.json["attempt"]), (True, 0))
        self.assertEqual(answer.json["finished_at"], "2023-11-14T22:13:20.500Z")
        self.assertEqual(answer.json["result"], None)
        self.assertEqual((answer.body, answer.header("Retry-After")), (self.get(path).body, None))
        self.advance(99)
        self.assertEqual(self.get(path).json["attempt"], 0)

    def test_a_running_task_runs_until_it_has_unwound(self) -> None:
        path = self.path(duration=60)
        self.advance(2)
        answer = self.request("POST", f"{path}/cancel")
        self.assertEqual((answer.status, answer.json["status"]), (200, "running"))
        self.assertEqual(answer.json["cancel_requested"], True)
        self.assertEqual(answer.json["progress"], {"step": 2, "total": 60, "message": ""})
        self.assertEqual(answer.header("Retry-After"), "58")
        self.settle()
        found = self.get(path).json
        self.assertEqual((found["status"], found["error"]), ("cancelled", None))
        self.assertEqual(
            [entry["status"] for entry in found["history"]], ["accepted", "running", "cancelled"]
        )
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats)

    def test_a_running_task_may_be_cancelled_again(self) -> None:
        path = self.path(kind="hang")
        for _ in range(3):
            answer = self.change(path, "cancel")
            self.assertEqual((answer.status, answer.json["cancel_requested"]), (200, True))

    def test_a_task_that_does_not_unwind_is_given_up_however_often_it_is_asked(self) -> None:
        path = self.path(kind="hang")
        for _ in range(5):
            self.change(path, "cancel")
            self.advance(1)
        self.assertEqual(self.get(path).json["status"], "cancelled")
        self.assertEqual(self.free.free(KINDS["simulate"]), self.seats)

    def test_a_task_that_swallows_its_cancel_has_completed(self) -> None:
        path = self.path(kind="linger")
        self.change(path, "cancel")
        found = self.get(path).json
        self.assertEqual((found["status"], found["result"]), ("completed", "swallowed"))
        self.assertEqual(found["cancel_requested"], True)

    def test_a_task_that_has_ended_cannot_be_cancelled(self) -> None:
        for path, status in (
            (self.ended("completed"), "completed"),
            (self.failed(), "failed"),
        ):
            before = self.get(path).body
            self.assert_problem(
                self.change(path, "cancel"), 409, f"A task that is {status} cannot be cancelled"
            )
            self.assertEqual(self.get(path).body, before)

    def test_a_task_that_was_cancelled_is_the_answer_to_who_asks_again(self) -> None:
        path = self.ended("cancelled")
        before = self.get(path)
        again = self.change(path, "cancel")
        self.assertEqual((again.status, again.json), (200, before.json))
        self.assertEqual(self.get(path).body, before.body)

    def test_nobody_can_be_cancelled(self) -> None:
        self.assert_problem(self.change(f"/api/tasks/{NOBODY}", "cancel"), 404, "There is no such task")
        self.assert_problem(self.change("/api/tasks/x", "cancel"), 404, "There is no task 'x'")

    def test_a_page_of_another_site_cancels_nothing(self) -> None:
        path = self.path(delay=60)
        self.assertEqual(self.change(path, "cancel", Origin="http://evil.example").status, 403)
        self.assertEqual(self.get(path).json["status"], "accepted")

    def test_only_a_post_cancels(self) -> None:
        answer = self.get(f"{self.path()}/cancel")
        self.assertEqual((answer.status, answer.header("Allow")), (405, "OPTIONS, POST"))


class RetryTests(ChangeTestCase):
    """POST /api/tasks/{task_id}/retry."""

    def test_a_failed_task_begins_anew(self) -> None:
        path = self.failed()
        before = self.get(path).json
        self.assertEqual(before["error"], {"type": "ValueError", "message": "no"})
        self.advance(2)
        answer = self.request("POST", f"{path}/retry")
        self.assertEqual((answer.status, answer.json["status"]), (202, "accepted"))
        self.assertEqual((answer.json["error"], answer.json["finished_at"]), (None, None))
        self.assertEqual((answer.json["attempt"], answer.header("Retry-After")), (1, "1"))
        self.assertEqual(answer.json["run_at"], "2023-11-14T22:13:22.500Z")
        self.settle()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        found = self.get(path).json
        self.assertEqual((found["status"], found["attempt"]), ("failed", 2))
        self.assertEqual(
            [(entry["status"], entry["attempt"]) for entry in found["history"]],
            [
                ("accepted", 0),
                ("running", 1),
                ("failed", 1),
                ("accepted", 1),
                ("running", 2),
                ("failed", 2),
            ],
        )

    def test_a_cancelled_task_begins_anew(self) -> None:
        path = self.path(duration=9)
        self.advance(1)
        self.change(path, "cancel")
        answer = self.change(path, "retry")
        self.assertEqual((answer.status, answer.json["status"]), (202, "accepted"))
        self.assertEqual((answer.json["cancel_requested"], answer.json["progress"]), (False, None))
        self.assertEqual(answer.header("Retry-After"), "9")
        self.advance(9)
        found = self.get(path).json
        self.assertEqual((found["status"], found["attempt"]), ("completed", 2))

    def test_it_can_have_ended_at_once_where_it_takes_no_time(self) -> None:
        answer = self.change(self.ended("cancelled"), "retry")
        self.assertEqual((answer.status, answer.header("Retry-After")), (202, "0"))

    def test_what_has_neither_failed_nor_been_cancelled_cannot_be_retried(self) -> None:
        for path, status in (
            (self.path(delay=60), "accepted"),
            (self.path(duration=60), "running"),
            (self.ended("completed"), "completed"),
        ):
            self.assert_problem(
                self.change(path, "retry"), 409, f"A task that is {status} cannot be retried"
            )
            self.assertEqual(self.get(path).json["status"], status)

    def test_nobody_can_be_retried(self) -> None:
        self.assert_problem(self.change(f"/api/tasks/{NOBODY}", "retry"), 404, "There is no such task")
        self.assert_problem(self.change("/api/tasks/x", "retry"), 404, "There is no task 'x'")

    def test_while_the_service_stops_nothing_begins_anew(self) -> None:
        path = self.ended("cancelled")
        self.runner.drain(10)
        answer = self.change(path, "retry")
        self.assertEqual((answer.status, answer.header("Retry-After")), (503, "1"))
        self.assertEqual(self.get(path).json["status"], "cancelled")


class DeleteTests(ChangeTestCase):
    """DELETE /api/tasks/{task_id}."""

    def test_a_task_that_has_ended_is_gone(self) -> None:
        for path in (self.ended("completed"), self.ended("cancelled"), self.failed()):
            answer = self.request("DELETE", path)
            self.assertEqual((answer.status, answer.body), (204, b""))
            self.assertEqual(answer.header("Content-Type"), None)
            self.assertEqual(self.get(path).status, 404)
            self.assert_problem(self.request("DELETE", path), 404, "There is no such task")
            self.assertEqual(self.change(path, "retry").status, 404)
        self.assertEqual(self.get("/api/tasks").json["tasks"], [])

    def test_a_task_that_has_not_ended_stays(self) -> None:
        for path, status in ((self.path(delay=60), "accepted"), (self.path(duration=60), "running")):
            self.assert_problem(
                self.request("DELETE", path), 409, f"A task that is {status} cannot be deleted"
            )
            self.assertEqual(self.get(path).json["status"], status)

    def test_nobody_can_be_deleted(self) -> None:
        self.assert_problem(self.request("DELETE", "/api/tasks/x"), 404, "There is no task 'x'")

    def test_a_page_of_another_site_deletes_nothing(self) -> None:
        path = self.ended("completed")
        self.assertEqual(self.request("DELETE", path, Sec_Fetch_Site="cross-site").status, 403)
        self.assertEqual(self.get(path).status, 200)


class TagTests(ChangeTestCase):
    """ETag and If-None-Match."""

    def test_what_a_client_has_is_not_sent_again(self) -> None:
        path = self.path(duration=5)
        first = self.get(path)
        tag = first.header("ETag") or ""
        self.assertRegex(tag, '^"[0-9a-f]{32}"$')
        for method in ("GET", "HEAD"):
            for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                answer = self.request(method, path, If_None_Match=given)
                self.assertEqual((answer.status, answer.body), (304, b""), given)
                self.assertEqual((answer.header("ETag"), answer.header("Retry-After")), (tag, "5"))
                self.assertEqual(answer.header("Content-Type"), None)

    def test_a_change_has_another_tag(self) -> None:
        path = self.path(duration=2)
        seen = [self.get(path).header("ETag") or ""]
        for _ in range(2):
            self.advance(1)
            answer = self.get(path, If_None_Match=seen[-1])
            self.assertEqual(answer.status, 200)
            seen.append(answer.header("ETag") or "")
        self.assertEqual(len(set(seen)), 3)
        self.assertEqual(self.get(path, If_None_Match=seen[-1]).status, 304)
        self.assertEqual(self.get(path, If_None_Match=seen[0]).status, 200)

    def test_head_has_the_tag_of_get(self) -> None:
        path = self.path(duration=5)
        self.assertEqual(self.request("HEAD", path).header("ETag"), self.get(path).header("ETag"))

    def test_nobody_has_no_tag(self) -> None:
        answer = self.get(f"/api/tasks/{NOBODY}", If_None_Match="*")
        self.assertEqual((answer.status, answer.header("ETag")), (404, None))

    def test_a_change_is_answered_whatever_the_client_has(self) -> None:
        path = self.path(delay=60)
        self.assertEqual(self.change(path, "cancel", If_None_Match="*").status, 200)


class TraceTests(ChangeTestCase):
    """traceparent."""

    def traced(self, *given: str) -> Any:
        """What a task and its handler have of it."""
        headers = {"traceparent": given[0]} if given else {}
        answer = self.post({"name": "a", "kind": "trace"}, **headers)
        self.settle()
        found = self.get(answer.header("Location") or "").json
        self.assertEqual(found["traceparent"], found["result"])
        return found["traceparent"]

    def test_it_is_stored_shown_and_carried_to_the_handler(self) -> None:
        self.assertEqual(self.traced(TRACE), TRACE)
        (listed,) = self.get("/api/tasks").json["tasks"]
        self.assertEqual(listed["traceparent"], TRACE)

    def test_without_a_sound_one_there_is_none(self) -> None:
        self.assertIsNone(self.traced())
        self.assertIsNone(self.traced(TRACE.upper()))


class ClosedPlaceTests(ChangeTestCase):
    """A place that takes no more tasks."""

    kinds = ALL

    def test_a_kind_whose_threads_all_hang_takes_no_more(self) -> None:
        in_thread = {"name": "a", "kind": "pause"}
        self.free.closed = lambda place: place == "thread"
        answer = self.post(in_thread)
        self.assert_problem(answer, 503, CLOSED["thread"])
        self.assertEqual(answer.header("Retry-After"), "1")
        self.assertEqual(self.post([in_thread], "/api/tasks/batch").status, 503)
        self.assertEqual(self.post({"name": "a"}).status, 202)
        self.assertEqual((self.free.free_in("thread"), self.free.free_in("asyncio")), (0, 2))
        self.free.closed = lambda place: place == "asyncio"
        self.assertEqual(self.post(in_thread).status, 202)

    def test_the_log_says_when_it_takes_none_and_when_it_takes_them_again(self) -> None:
        closed = {"thread"}
        self.free.closed = closed.__contains__
        with capturedLogs() as logged:
            for _ in range(4):
                self.post({"name": "a", "kind": "pause", "delay": 60})
                self.post({"name": "a", "delay": 60})
                if len(logged) == 1:
                    closed.clear()
        self.assertEqual(
            [(event["log_level"], event["log_format"], event["place"]) for event in logged],
            [
                (
                    LogLevel.warn,
                    "Too many handlers that were given up run on; new tasks are refused",
                    "thread",
                ),
                (LogLevel.info, "New tasks are taken again", "thread"),
            ],
        )


class KindTests(ChangeTestCase):
    """GET /api/kinds, and tasks of other kinds than simulate."""

    kinds: Mapping[str, Kind] = MappingProxyType({**KINDS, "greet": HANDLERS["greet"]})

    def test_it_tells_which_kinds_there_are_and_what_they_take(self) -> None:
        answer = self.get("/api/kinds")
        self.assertEqual((answer.status, answer.header("Content-Type")), (200, "application/json"))
        simulate, shown = answer.json["kinds"]
        self.assertEqual(
            list(shown),
            [
                "kind",
                "description",
                "place",
                "input",
                "timeout",
                "retries",
                "concurrency",
                "next_run",
            ],
        )
        schema = shown.pop("input")
        self.assertEqual(
            shown,
            {
                "kind": "greet",
                "description": "Greet somebody.",
                "place": "reactor",
                "timeout": 60,
                "retries": 2,
                "concurrency": 5,
                "next_run": None,
            },
        )
        self.assertEqual(set(schema["properties"]), {"whom", "times"})
        self.assertEqual(schema["required"], ["whom"])
        self.assertEqual(schema["properties"]["times"]["minimum"], 1)
        self.assertEqual(schema["additionalProperties"], False)
        self.assertEqual((simulate["kind"], simulate["concurrency"]), ("simulate", None))
        self.assertEqual(simulate["input"]["properties"]["duration"]["maximum"], 86_400)

    def test_head_and_options(self) -> None:
        self.assertEqual(self.request("HEAD", "/api/kinds").status, 200)
        self.assertEqual(self.request("OPTIONS", "/api/kinds").header("Allow"), "GET, HEAD, OPTIONS")
        self.assertEqual(self.request("POST", "/api/kinds").status, 405)

    def test_another_kind_s_message_has_no_seconds(self) -> None:
        answer = self.post({"name": "a", "kind": "greet", "input": {"whom": "Ada"}})
        self.assertEqual(answer.json["message"], "Task will run in background")
        self.assertEqual(answer.header("Retry-After"), "1")
        self.settle()
        found = self.get(answer.header("Location") or "").json
        self.assertEqual((found["status"], found["result"]), ("completed", "Hello Ada"))
        self.assertEqual((found["kind"], found["input"]), ("greet", {"whom": "Ada"}))
        self.assertEqual((found["retries"], found["timeout"]), (2, 60))

    def test_it_can_have_ended_after_its_delay(self) -> None:
        for delay, seconds in ((0, "1"), (0.2, "1"), (1, "1"), (1.5, "2"), (60, "60")):
            body = {"name": "a", "kind": "greet", "input": {"whom": "Ada"}, "delay": delay}
            answer = self.post(body)
            self.assertEqual(answer.header("Retry-After"), seconds)
            self.assertEqual(answer.json["message"], "Task will run in background")

    def test_a_task_says_otherwise_than_its_kind(self) -> None:
        answer = self.post(
            {"name": "a", "kind": "greet", "input": {"whom": "Ada"}, "timeout": 0.5, "retries": 0}
        )
        found = self.get(answer.header("Location") or "").json
        self.assertEqual((found["retries"], found["timeout"]), (0, 0.5))

    def test_what_is_wrong_with_its_input_is_said_with_all_pointers(self) -> None:
        answer = self.post({"name": "a", "kind": "greet", "input": {"times": 0, "who": "Ada"}})
        self.assertEqual(answer.status, 400)
        pointers = {error["pointer"] for error in answer.json["errors"]}
        self.assertEqual(pointers, {"/input/whom", "/input/times", "/input/who"})
        self.assertEqual(self.get("/api/tasks").json["tasks"], [])

    def test_an_unknown_kind_is_named_with_the_one_that_it_resembles(self) -> None:
        answer = self.post({"name": "a", "kind": "great"})
        self.assert_problem(answer, 400, "Unknown kind 'great'; did you mean 'greet'?")
        self.assertEqual([error["pointer"] for error in answer.json["errors"]], ["/kind"])
