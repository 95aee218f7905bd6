"""A tiny HTTP client: one kept connection, JSON in and out, and a clear word on what failed."""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

Json = dict[str, Any]

HOST = "127.0.0.1"


class UnsentError(Exception):
    """No connection could be made: the service cannot have seen the request."""


class LostError(Exception):
    """The connection broke before the whole answer came: the request may have been served."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    :param headers: the names in lower case.
    :param body: the parsed JSON; empty where there is none.
    """

    status: int
    headers: Mapping[str, str]
    body: Json

    @property
    def retry_after(self) -> int | None:
        """The whole seconds in `Retry-After`, or None where it is missing or not a number."""
        value = self.headers.get("retry-after", "")
        return int(value) if value.isdigit() else None


class Client:
    """One connection to the service at `port`, made at the first call and anew after a failure.

    :param timeout: seconds without a byte after which a call is :exc:`LostError`.
    """

    def __init__(self, port: int, timeout: float = 15) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection(HOST, port, timeout=timeout)

    def post(self, path: str, body: Json | list[Json]) -> Answer:
        """POST `body` as JSON.

        :raises UnsentError: nobody listens.
        :raises LostError: the outcome is unknown.
        """
        return self._call("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> Answer:
        """GET `path`; once more on a new connection where a kept one was closed meanwhile.

        :raises UnsentError: nobody listens.
        :raises LostError: no answer came.
        """
        try:
            return self._call("GET", path, None)
        except LostError:
            return self._call("GET", path, None)

    def post_all(self, path: str, bodies: list[Json]) -> Answer:
        """POST an array, as :meth:`post` does one of its elements."""
        return self._call("POST", path, json.dumps(bodies).encode())

    def text(self, path: str) -> str:
        """What a GET of something that is no JSON brings.

        :raises OSError: nothing.
        """
        self._connect()
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def tasks(self, **filters: str) -> Iterator[Json]:
        """Every task that matches, newest first, through as many pages as it takes."""
        query = {"limit": "1000", **filters}
        while True:
            answer = self.get(f"/api/tasks?{urlencode(query)}")
            if answer.status == 503:  # a busy machine's database
                time.sleep(float(answer.headers["retry-after"]))
                answer = self.get(f"/api/tasks?{urlencode(query)}")
            assert answer.status == 200, answer
            yield from answer.body["tasks"]
            if answer.body["next"] is None:
                return
            query["cursor"] = answer.body["next"]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._connect()
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise LostError(f"{method} {path}: {error!r}") from error
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, json.loads(content or b"{}"))

    def _connect(self) -> None:
        if self._connection.sock is not None:
            return
        try:
            self._connection.connect()
        except OSError as error:
            self.close()
            raise UnsentError(f"port {self.port}: {error!r}") from error
