"""`/openapi.json` against what the service does."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from asynctask.api import Api
from asynctask.description import describe
from asynctask.loading import load
from asynctask.problems import Invalid
from asynctask.registry import KINDS, Kind
from asynctask.submissions import _FIELDS, parse_batch, parse_one
from asynctask.works import refusal
from tests.test_api import Answer, ApiTestCase
from tests.test_http_file import FILE, Request, filled, parse

DESCRIBED: Final[Mapping[str, Kind]] = load(["tests.described"])
DOCUMENT: Final[dict[str, Any]] = json.loads(describe(DESCRIBED))


def validator(schema: Any) -> Draft202012Validator:
    """Of a schema in the document, whose references may lead anywhere in it."""
    whole = {"components": DOCUMENT["components"], "allOf": [schema]}
    return Draft202012Validator(whole, format_checker=FormatChecker(["date-time"]))


def component(name: str) -> Draft202012Validator:
    return validator({"$ref": f"#/components/schemas/{name}"})


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    found: Any = DOCUMENT
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def operation_of(method: str, path: str) -> dict[str, Any]:
    """The call that a request makes."""
    path = path.partition("?")[0]
    for known, item in DOCUMENT["paths"].items():
        if known == path and method.lower() in item:
            return dict(item[method.lower()])
    for known, item in DOCUMENT["paths"].items():
        if re.fullmatch(known.replace("{task_id}", "[^/]+"), path) and method.lower() in item:
            return dict(item[method.lower()])
    raise KeyError(f"{method} {path}")


def parts_of(part: Any) -> Iterator[dict[str, Any]]:
    """All objects in it, which may be schemas."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    for one in part if isinstance(part, list) else ():
        yield from parts_of(one)


def media(part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from part.get("content", {}).items()


class TheDocument(SynchronousTestCase):
    """What it says, in itself."""

    def test_it_is_openapi(self) -> None:
        for kinds in (KINDS, DESCRIBED):
            document = json.loads(describe(kinds))
            self.assertEqual(
                [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()], []
            )

    def test_it_has_every_route_and_nothing_else(self) -> None:
        routes = {
            (re.sub("<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule), method.lower())
            for rule in Api.app.url_map.iter_rules()
            for method in rule.methods or ()
        }
        self.assertEqual({(path, method) for path, method, _ in operations()}, routes)

    def test_every_example_is_valid(self) -> None:
        count = 0
        for _, _, operation in operations():
            answers = [resolved(answer) for answer in operation["responses"].values()]
            for part in (operation.get("requestBody", {}), *answers):
                for _, content in media(part):
                    examples = [one["value"] for one in content.get("examples", {}).values()]
                    for example in [*examples, *([content["example"]] if "example" in content else [])]:
                        validator(content["schema"]).validate(example)
                        count += 1
            for parameter in map(resolved, operation["parameters"]):
                if "example" in parameter:
                    validator(parameter["schema"]).validate(parameter["example"])
                    count += 1
        self.assertGreater(count, 50)

    def test_what_a_store_that_fails_would_say_is_what_it_says(self) -> None:
        examples = DOCUMENT["components"]["responses"]["Unavailable"]["content"]["application/problem+json"]
        told = [one["value"]["detail"] for one in examples["examples"].values()]
        self.assertEqual(told[1:], [refusal().detail, refusal(unknown=True).detail])

    def test_a_stream_is_valid_to_who_reads_its_text_and_to_who_reads_its_events(self) -> None:
        for path in ("/api/events", "/api/tasks/{task_id}/events"):
            content = operation_of("GET", path)["responses"]["200"]["content"]["text/event-stream"]
            for read in (content["example"], {"event": "reset", "data": "{}", "id": "a.1"}):
                validator(content["schema"]).validate(read)

    def test_what_it_takes_is_what_the_service_reads(self) -> None:
        schemas = DOCUMENT["components"]["schemas"]
        self.assertEqual(schemas["simulate-submission"]["properties"].keys(), _FIELDS.keys())
        self.assertEqual(len(schemas["Submission"]["oneOf"]), len(DESCRIBED))

    def test_kinds_whose_names_look_alike_are_told_apart(self) -> None:
        submission = component("Submission")
        root: dict[str, Any] = {"name": "a", "kind": "tree of nodes", "input": {"root": {"name": "a"}}}
        shape: dict[str, Any] = {"shape": {"type": "Circle", "radius": 1}}
        self.assertTrue(submission.is_valid(root))
        self.assertTrue(submission.is_valid(root | {"kind": "tree_of_nodes", "input": shape}))
        self.assertFalse(submission.is_valid(root | {"input": shape}))

    def test_makers_of_clients_find_the_type_of_each_value(self) -> None:
        schemas = DOCUMENT["components"]["schemas"]
        values = [
            one for one in parts_of(schemas) if isinstance(one.get("enum", one.get("const")), str | list)
        ]
        self.assertGreater(len(values), 10)
        for one in values:
            self.assertIn("type", one)
        for name in ("Task", "Kind"):
            self.assertIs(schemas[name]["properties"]["input"]["additionalProperties"], True)

    def test_they_find_no_default_which_they_would_send(self) -> None:
        schemas = DOCUMENT["components"]["schemas"]
        self.assertEqual([one for one in parts_of(schemas) if "default" in one], [])
        retries = schemas["simulate-submission"]["properties"]["retries"]["description"]
        self.assertIn("0 where none are given", retries)

    def test_both_answers_of_a_post_have_one_schema_that_takes_nothing_else(self) -> None:
        given = operation_of("POST", "/api/tasks")["responses"]
        known = [resolved(given[status])["content"]["application/json"] for status in ("202", "200")]
        self.assertEqual(*[one["schema"] for one in known])
        for one in known:
            answer = one["example"]
            validator(one["schema"]).validate(answer)
            for key in answer:
                less = {name: value for name, value in answer.items() if name != key}
                self.assertFalse(validator(one["schema"]).is_valid(less), key)
            self.assertFalse(validator(one["schema"]).is_valid(answer | {"status": "done"}))

    def test_references_go_nowhere_but_into_the_components(self) -> None:
        text = json.dumps(DOCUMENT["components"]["schemas"])
        self.assertNotIn("$defs", text)
        for name in re.findall('"#/components/schemas/([^"]+)"', text):
            self.assertIn(name, DOCUMENT["components"]["schemas"])


class TheAnswers(ApiTestCase):
    """What the service answers, against what is described."""

    kinds = DESCRIBED

    def _fired(self, deferred: Deferred[Any]) -> Any:
        """Its result; the clock moves where the service waits for it."""
        found: list[Any] = []
        deferred.addBoth(found.append)
        for _ in range(100):
            self.treq.flush()
            self.settle()
            self.treq.flush()
            if found:
                break
            self.clock.advance(1)
        return found[0]

    def check(self, method: str, path: str, answer: Answer) -> None:
        """An answer is described: its status, its headers, its type, its body with every key."""
        told = f"{method} {path} {answer.status}"
        described = operation_of(method, path)["responses"]
        self.assertIn(str(answer.status), described, told)
        response = resolved(described[str(answer.status)])
        for name, header in response.get("headers", {}).items():
            value = answer.header(name)
            if value is None:
                self.assertFalse(header["required"], f"{told} has no {name}")
            else:
                plain = int(value) if header["schema"]["type"] == "integer" else value
                validator(header["schema"]).validate(plain)
        for name in ("Location", "Retry-After", "ETag", "Allow", "Preference-Applied"):
            if answer.header(name) is not None:
                self.assertIn(name, response.get("headers", {}), told)
        if method == "HEAD" or not answer.body:
            self.assertNotIn("content", response, told)
            return
        kind = answer.header("Content-Type")
        self.assertIn(kind, response["content"], told)
        if kind is not None and kind.endswith("json"):
            schema = response["content"][kind]["schema"]
            validator(schema).validate(answer.json)
            self.every_key(schema, answer.json, told)

    def every_key(self, schema: dict[str, Any], value: Any, told: str) -> None:
        """The service says nothing of which the schema does not know."""
        schema = resolved(schema)
        for choice in schema.get("anyOf", ()):
            if validator(choice).is_valid(value):
                self.every_key(choice, value, told)
        if isinstance(value, dict) and "properties" in schema:
            self.assertLessEqual(value.keys(), schema["properties"].keys(), told)
            for name, item in value.items():
                self.every_key(schema["properties"][name], item, told)
        for item in value if isinstance(value, list) else ():
            self.every_key(schema.get("items", {}), item, told)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.request(method, path, sent, **headers)
        self.check(method, path, answer)
        self.settle()
        return answer

    def statuses(self, *calls: tuple[Any, ...], **headers: str) -> list[int]:
        return [self.ask(*call, **headers).status for call in calls]

    def test_the_life_of_a_task(self) -> None:
        accepted = self.ask("POST", "/api/tasks", {"name": "a", "duration": 2}, Prefer="foo")
        path = accepted.header("Location")
        assert path is not None
        shown = self.ask("GET", path)
        tag = shown.header("ETag")
        assert tag is not None
        self.assertEqual(self.ask("GET", path, If_None_Match=tag).status, 304)
        self.assertEqual(self.ask("HEAD", path, If_None_Match=tag).status, 304)
        self.assertEqual(self.statuses(("DELETE", path), ("POST", f"{path}/retry")), [409, 409])
        self.advance(1)
        self.assertEqual(self.ask("GET", path).json["progress"]["step"], 1)
        self.assertTrue(self.ask("POST", f"{path}/cancel").json["cancel_requested"])
        self.assertEqual(self.ask("GET", path, Prefer="wait=3").json["status"], "cancelled")
        again = (("POST", f"{path}/cancel"), ("POST", f"{path}/retry"), ("GET", path), ("HEAD", path))
        self.assertEqual(self.statuses(*again), [200, 202, 200, 200])
        self.advance(3)
        self.assertEqual(self.ask("GET", path, Prefer="wait=3").json["status"], "completed")
        gone = (("DELETE", path), ("GET", path), ("DELETE", path), ("POST", f"{path}/cancel"))
        self.assertEqual(self.statuses(*gone, ("POST", f"{path}/retry")), [204, 404, 404, 404, 404])

    def test_a_task_that_fails(self) -> None:
        body = {"name": "a", "kind": "tree_of_nodes", "input": {"shape": {"type": "Circle", "radius": 1}}}
        answer = self.ask(
            "POST", "/api/tasks", body, Prefer="wait=5", Traceparent=f"00-{'a' * 32}-{'b' * 16}-01"
        )
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.json["error"]["type"], "ValueError")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_lists(self) -> None:
        several = [{"name": str(number), "delay": 5} for number in range(3)]
        self.assertEqual(self.ask("POST", "/api/tasks/batch", several).status, 202)
        page = self.ask("GET", "/api/tasks?limit=2&status=accepted,running&kind=simulate")
        self.ask("GET", f"/api/tasks?name=0&cursor={page.json['next']}")
        for query in (
            "limit=0",
            "cursor=a",
            "status=",
            "status=done",
            "kind=",
            "name=",
            "x=1",
            "limit=1&limit=1",
        ):
            self.assertEqual(self.ask("GET", f"/api/tasks?{query}").status, 400, query)

    def test_what_is_refused(self) -> None:
        for path, bad in (("/api/tasks", {"name": 3, "x": 1}), ("/api/tasks/batch", [{"name": ""}, 3])):
            self.assertEqual(
                self.statuses(("POST", path, bad), ("POST", path, b"{"), ("POST", path, 3)), [400] * 3
            )
            self.assertEqual(self.statuses(("POST", path, b" " * 1_100_000)), [413])
            self.assertEqual(self.statuses(("POST", path, bad), Content_Type="text/plain"), [415])
            self.assertEqual(self.statuses(("POST", path, bad), Origin="http://else.example"), [403])
        one, other = {"name": "a"}, {"name": "b"}
        same = (("POST", "/api/tasks", one), ("POST", "/api/tasks", one), ("POST", "/api/tasks", other))
        self.assertEqual(self.statuses(*same, Idempotency_Key="k"), [202, 202, 422])
        self.assertEqual(self.statuses(("POST", "/api/tasks/batch", [one]), Idempotency_Key="k"), [422])
        self.assertEqual(self.statuses(same[0], Idempotency_Key="k" * 256), [400])

    def test_every_call_everywhere(self) -> None:
        for path, method, _ in list(operations()):
            where = path.replace("{task_id}", f"task_{'0' * 30}")
            self.clock.callLater(5, self.feed.end)  # nothing else would end the answer of some
            self.ask(method.upper(), where)
            self.assertEqual(self.ask(method.upper(), where, Host="else.example").status, 403)
            self.assertEqual(self.ask(method.upper(), where, Expect="a miracle").status, 417)

    def test_while_it_stops(self) -> None:
        self.free.draining = True
        calls = (("POST", "/api/tasks", {"name": "a"}), ("POST", "/api/tasks/batch", [{"name": "a"}]))
        retry = ("POST", f"/api/tasks/task_{'0' * 30}/retry")
        ready = (("GET", "/health/ready"), ("HEAD", "/health/ready"))
        self.assertEqual(self.statuses(*calls, retry, *ready), [503] * 5)

    def test_the_requests_of_the_file(self) -> None:
        variables, requests = parse(FILE.read_text("utf-8"))
        bodies: dict[str, Any] = {}
        checked = 0
        for request in requests:
            answer = self._send(request, variables | {"base": ""}, bodies)
            if request.name:
                bodies[request.name] = answer.json
            path = filled(request.url, variables | {"base": ""}, bodies)
            if answer.status != 405 and request.method != "OPTIONS":
                try:
                    operation_of(request.method, path)
                except KeyError:
                    self.assertEqual(answer.status, 404, request.title)
                    continue
                self.check(request.method, path, answer)
                checked += 1
        self.assertGreater(checked, 100)

    def _send(self, request: Request, variables: dict[str, str], bodies: dict[str, Any]) -> Answer:
        headers = {
            name: filled(value, variables | {"base": "http://localhost:8080"}, bodies)
            for name, value in request.headers
        }
        body = filled(request.body, variables, bodies).encode() or None
        answer = self.request(request.method, filled(request.url, variables, bodies), body, **headers)
        self.settle()
        return answer

    def test_it_describes_the_service_that_answers(self) -> None:
        answer = self.ask("GET", "/openapi.json")
        self.assertEqual(answer.json, DOCUMENT)
        tag = answer.header("ETag")
        assert tag is not None
        self.assertEqual(self.ask("GET", "/openapi.json", If_None_Match=tag).status, 304)
        self.assertEqual(self.ask("HEAD", "/openapi.json").header("ETag"), tag)


TEXT: Final = st.text(max_size=5)
FEW: Final = st.sampled_from([1, 2, 5.0, 100])
NUMBERS: Final = FEW | st.sampled_from(
    [-1, 0, -0.0, 0.5, 101, 10_000, 10_001, 86_400, 86_400.0, 86_401, 31_536_000, 31_536_001, 1e300]
)
LEAVES: Final = st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["a\0", "abcdef"])
JSON: Final = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def record(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


SIZE: Final = record({"width": FEW}, {"height": FEW})
NODE: Final[st.SearchStrategy[Any]] = st.deferred(
    lambda: record({"name": TEXT}, {"children": st.lists(NODE, max_size=2)})
)
CIRCLE: Final = record({"type": st.just("Circle"), "radius": FEW}, {})
SQUARE: Final = record(
    {"type": st.just("Square"), "side": NUMBERS}, {"color": st.sampled_from(["red", "blue", "green"])}
)
NAMED: Final = record({}, {"first": TEXT, "last": TEXT | st.none()})
INPUTS: Final = {
    "simulate": record({}, {"duration": FEW}),
    "nothing": record({}, {}),
    "resize": record({"source": TEXT, "size": SIZE}, {"sharp": st.booleans()}),
    "tree of nodes": record({"root": NODE}, {"size": SIZE | st.none()}),
    "tree_of_nodes": record(
        {"shape": CIRCLE | SQUARE},
        {"names": st.lists(NAMED, max_size=4), "level": st.sampled_from(["low", "high", 3, 3.0, 4])},
    ),
    "anything": record(
        {"value": JSON},
        {
            "several": st.lists(JSON, max_size=3),
            "pair": st.tuples(FEW, TEXT).map(list),
            "more": st.dictionaries(TEXT, JSON, max_size=2),
            "tags": st.lists(FEW, max_size=3),
            "code": st.sampled_from(["a", "ab1", "1", "a\0", ""]),
            "old": JSON,
        },
    ),
}
SHARED: Final = {"delay": FEW | st.none(), "timeout": FEW | st.none(), "retries": FEW | st.none()}
NAME: Final = st.text(min_size=1, max_size=3) | st.sampled_from(["a" * 255, "é" * 255, "a" * 256, "\n"])


def bodies_of(kind: str) -> st.SearchStrategy[Any]:
    if kind != "simulate":
        return record({"name": NAME, "kind": st.just(kind), "input": INPUTS[kind]}, SHARED)
    named = record({"name": NAME}, {**SHARED, "kind": st.sampled_from([kind, None])})
    own = record({}, {"input": INPUTS[kind]}) | record({}, {"duration": FEW}) | st.just({"input": None})
    return st.builds(lambda one, other: one | other, named, own)


@st.composite
def spoiled(draw: st.DrawFn, strategy: st.SearchStrategy[Any]) -> Any:
    """What is meant, and in half of all cases something else in one or two places of it."""
    value = draw(strategy)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        value = spoil(draw, value)
    return value


def spoil(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or draw(st.integers(0, 9)) == 9:
        return draw(JSON)
    parts: dict[Any, Any] = dict(value if isinstance(value, dict) else enumerate(value))
    what = draw(st.sampled_from(["into", "into", "into", "less", "more"])) if parts else "more"
    if what == "more":
        parts["\0" if draw(st.integers(0, 9)) == 9 else draw(TEXT)] = draw(JSON)
    else:
        name = draw(st.sampled_from(list(parts)))
        part = parts.pop(name)
        if what == "into":
            parts[name] = spoil(draw, part)
    return parts if isinstance(value, dict) else list(parts.values())


BODIES: Final = spoiled(st.one_of(*map(bodies_of, INPUTS)))


class WhatItAccepts(SynchronousTestCase):
    """The schema takes what the service takes, and nothing else."""

    def test_every_kind_is_drawn(self) -> None:
        self.assertEqual(INPUTS.keys(), DESCRIBED.keys())

    @settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(body=BODIES)
    def test_a_body(self, body: Any) -> None:
        self.agree(parse_one, "Submission", body)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(body=st.lists(BODIES, max_size=3) | JSON)
    def test_a_batch(self, body: Any) -> None:
        self.agree(parse_batch, "Batch", body)

    def agree(self, read: Any, name: str, body: Any) -> None:
        refused: Invalid | None = None
        try:
            read(json.dumps(body).encode(), DESCRIBED)
        except Invalid as problem:
            refused = problem
        self.assertEqual(component(name).is_valid(body), refused is None, refused and refused.errors)
