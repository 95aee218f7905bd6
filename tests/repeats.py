"""Asks without waiting for the answer, and compares answers."""

import json
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from asynctask.registry import KINDS
from tests.test_api import BASE, JSON, Answer, ApiTestCase

SHOUT = replace(KINDS["simulate"], name="shout", function=print)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WHOLE = ("Content-Type", "Location", "Retry-After", "Content-Length")


class RepeatTestCase(ApiTestCase):
    """Asks without waiting for the answer."""

    def ask(self, method: str, path: str, body: object = None, **headers: str | bytes) -> Deferred[Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body).encode()
        asked: Deferred[Any] = self.treq.request(method, BASE + path, data=data, headers=JSON | named)
        self.treq.flush()
        return asked

    def answered(self, asked: Deferred[Any]) -> Answer:
        response = self._fired(asked)
        return Answer(response, self._fired(response.content()))

    def listed(self) -> list[str]:
        """The ids of all tasks."""
        return [task["task_id"] for task in self.get("/api/tasks?limit=1000").json["tasks"]]

    def assert_same(self, one: Answer, other: Answer) -> None:
        self.assertEqual((one.status, one.body), (other.status, other.body))
        for name in WHOLE:
            self.assertEqual(one.header(name), other.header(name), name)
