"""test.http, sent to a running service: every answer has the status that its title promises."""

import http.client
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.trial.unittest import SynchronousTestCase

from asynctask.description import describe
from asynctask.registry import KINDS
from tests.faults.log import LogLine
from tests.faults.server import Server

FILE = Path(__file__).resolve().parent.parent / "test.http"
PATIENCE = 20.0
"""Seconds for an answer that takes milliseconds unless it hangs."""


@dataclass
class Request:
    """One request of the file, its placeholders not yet replaced."""

    title: str
    method: str
    url: str
    headers: Sequence[tuple[str, str]] = ()
    body: str = ""
    name: str | None = None

    @property
    def promised(self) -> int:
        """The status that the title begins with."""
        found = re.match(r"([1-5][0-9]{2}): \S", self.title)
        assert found, f"The title promises no status: {self.title!r}"
        return int(found[1])


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


BAD_NEWS = ("warn", "error", "critical")

STALLS = ("Task blocked the reactor", "The reactor is held")
"""What a machine that has others to serve makes the service say."""
"""Levels of log lines that no request may cause."""

HEADERS = {202: ("Retry-After",), 304: ("ETag",), 405: ("Allow",)}
"""What an answer of this status has to carry."""

HEADERS_TO = {("POST", "/api/tasks", 202): ("Location",), ("OPTIONS", None, 204): ("Allow",)}
"""What it has to carry besides, where it answers this method, and this path if one is given."""

Bodies = Mapping[str, Any]
"""What was answered to each request that has a name, as parsed JSON."""


def parse(text: str) -> tuple[dict[str, str], list[Request]]:
    """Read a file of requests: its variables, and the requests."""
    preamble, *blocks = re.split(r"^###[ \t]*(.*)\n", text, flags=re.MULTILINE)
    variables: dict[str, str] = {}
    for key, value in re.findall(r"^@(\w+) *= *(.*?) *$", preamble, flags=re.MULTILINE):
        variables[key] = filled(value, variables, {})
    pairs = zip(blocks[::2], blocks[1::2], strict=True)
    return variables, [_request(title, block) for title, block in pairs]


def _request(title: str, block: str) -> Request:
    head, _, body = block.lstrip("\n").partition("\n\n")
    name = re.search(r"^# @name (\w+)$", head, flags=re.MULTILINE)
    first, *rest = [line for line in head.splitlines() if not line.startswith("#")]
    method, url = first.split()
    headers = []
    for line in rest:
        key, _, value = line.partition(": ")
        headers.append((key, value))
    return Request(title.strip(), method, url, headers, body.rstrip("\n"), name and name[1])


def filled(text: str, variables: Mapping[str, str], bodies: Bodies) -> str:
    """The text with its placeholders replaced.

    :raises KeyError: there is no such variable, or the request of that name was not answered.
    """

    def value(found: re.Match[str]) -> str:
        name, dot, path = found[1].partition(".response.body.")
        return str(bodies[name][path]) if dot else variables[name]

    return re.sub(r"\{\{([\w.]+)\}\}", value, text)


def send(request: Request, variables: Mapping[str, str], bodies: Bodies) -> Answer:
    """Send exactly what is written, and a Host and a Content-Length where there is none."""
    url = urlsplit(filled(request.url, variables, bodies))
    assert url.hostname is not None
    body = filled(request.body, variables, bodies).encode()
    headers = [(key, filled(value, variables, bodies)) for key, value in request.headers]
    if not any(key.lower() == "host" for key, _ in headers):
        headers.insert(0, ("Host", url.netloc))
    if body or request.method in ("POST", "PUT", "PATCH"):
        headers.append(("Content-Length", str(len(body))))
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
    try:
        target = f"{url.path}?{url.query}" if url.query else url.path
        connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for key, value in headers:
            connection.putheader(key, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def complaints(request: Request, answer: Answer) -> list[str]:
    """What of the answer is not as the file and the contract promise."""
    if answer.status != request.promised:
        return [f"answered {answer.status}: {answer.body[:200]!r}"]
    path = request.url.removeprefix("{{base}}")
    owed = [*HEADERS.get(answer.status, ())]
    for one in (path, None):
        owed += HEADERS_TO.get((request.method, one, answer.status), ())
    wrong = [f"no {header}" for header in owed if header not in answer.headers]
    type_ = answer.headers["Content-Type"]
    if answer.status >= 400 and type_ != "application/problem+json":
        wrong.append(f"an error of type {type_}")
    elif answer.status >= 400 and request.method != "HEAD":
        problem = json.loads(answer.body)
        if problem["status"] != answer.status or not problem["title"] or not problem["type"]:
            wrong.append(f"the problem says {problem}")
        if not problem["detail"] or problem["detail"] != problem["error"]:
            wrong.append(f"detail and error are {problem['detail']!r} and {problem['error']!r}")
    return wrong


class TheFile(SynchronousTestCase):
    """What test.http holds."""

    def setUp(self) -> None:
        self.variables, self.requests = parse(FILE.read_text("utf-8"))

    def test_every_request_gets_what_its_title_promises(self) -> None:
        logged: list[LogLine] = []
        folder = self.enterContext(tempfile.TemporaryDirectory())
        server = Server(Path(folder), store="sqlite://", listener=logged.append)
        self.enterContext(server).ready()
        variables = self.variables | {"base": f"http://127.0.0.1:{server.port}"}
        bodies: dict[str, Any] = {}
        wrong = []
        for request in self.requests:
            try:
                answer = send(request, variables, bodies)
            except (OSError, http.client.HTTPException) as error:
                wrong.append(f"{request.title}: {error!r}")
                continue
            wrong += [f"{request.title}: {what}" for what in complaints(request, answer)]
            if request.name:
                bodies[request.name] = json.loads(answer.body)
        server.kill()
        bad_news = [
            line.message for line in logged if line.level in BAD_NEWS and line.message not in STALLS
        ]
        wrong += [f"in the log: {message}" for message in bad_news]
        if wrong:
            self.fail("\n".join([*wrong, "", "The service's last lines:", *server.tail]))

    def test_every_path_and_method_is_there(self) -> None:
        shown = {
            (request.method, re.sub(r"\{\{[^}]*\}\}|[?].*", "", request.url.removeprefix("{{base}}")))
            for request in self.requests
        }
        paths = json.loads(describe(KINDS))["paths"]
        calls = {
            (method.upper(), path.replace("{task_id}", ""))
            for path, methods in paths.items()
            for method in methods
            if method != "parameters"
        }
        self.assertSetEqual(calls - shown, set())

    def test_every_title_is_there_once(self) -> None:
        titles = [request.title for request in self.requests]
        self.assertListEqual(sorted(titles), sorted(set(titles)))

    def test_every_status_is_shown(self) -> None:
        shown = {request.promised for request in self.requests}
        self.assertSetEqual(shown, {200, 202, 204, 304, 400, 403, 404, 405, 409, 413, 415, 417, 422})

    def test_every_variable_is_used(self) -> None:
        text = FILE.read_text("utf-8")
        self.assertListEqual([name for name in self.variables if f"{{{{{name}}}}}" not in text], [])


class TheParser(SynchronousTestCase):
    """What a file of requests may say."""

    def test_a_request_has_a_title_a_head_and_a_body(self) -> None:
        variables, requests = parse(
            "@a = b\n\n### 202: both\n# @name it\nPOST {{a}}/c\nX-Y: z: z\n\n{\n\n}\n\n### 200: x\nGET /\n"
        )
        self.assertDictEqual(variables, {"a": "b"})
        self.assertListEqual(
            requests,
            [
                Request("202: both", "POST", "{{a}}/c", [("X-Y", "z: z")], "{\n\n}", "it"),
                Request("200: x", "GET", "/", []),
            ],
        )
        self.assertListEqual([request.promised for request in requests], [202, 200])

    def test_a_title_without_a_status_is_refused(self) -> None:
        _, [request] = parse("### the smallest task\nGET /\n")
        with self.assertRaisesRegex(AssertionError, "the smallest task"):
            _ = request.promised

    def test_a_variable_may_be_made_of_others(self) -> None:
        variables, _ = parse("@a = 1\n@b = {{a}}{{a}}\n@c = {{b}}/{{a}}\n")
        self.assertDictEqual(variables, {"a": "1", "b": "11", "c": "11/1"})

    def test_a_placeholder_may_name_an_earlier_answer(self) -> None:
        bodies = {"created": {"task_id": "task_1"}}
        text = '{"{{created.response.body.task_id}}": {{a}}}'
        self.assertMultiLineEqual(filled(text, {"a": "2"}, bodies), '{"task_1": 2}')

    def test_an_unknown_placeholder_is_refused(self) -> None:
        for placeholder in ("{{base}}", "{{base.response.body.task_id}}"):
            with self.assertRaisesRegex(KeyError, "base"):
                filled(placeholder, {}, {})
