"""What the service answers its clients, as records and exceptions. Pure.

Keys that it does not know are passed over: a newer service may tell more.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Required, TypedDict, TypeVar

import msgspec
from msgspec import Struct

from asynctask.model import ACCEPTED, Error, Progress, Status
from asynctask.problems import FieldError
from asynctask.wire import UNREADABLE

T = TypeVar("T")


class New(TypedDict, total=False):
    """A task that is wanted: the body of a POST."""

    name: Required[str]
    kind: str
    duration: int
    input: Mapping[str, Any]
    delay: float
    timeout: float
    retries: int
    callback_url: str


class Accepted(Struct, frozen=True):
    """A task that was accepted: it runs, whatever happens."""

    task_id: str
    name: str
    message: str
    status: Status = ACCEPTED


class Change(Struct, frozen=True):
    """One entry of a task's history."""

    at: datetime
    status: Status
    attempt: int
    error: Error | None = None


class Callback(Struct, frozen=True):
    """Where the outcome is POSTed, and how far that is: `pending`, `delivered` or `failed`."""

    url: str
    state: str
    tries: int = 0
    error: str | None = None


class Task(Struct, frozen=True):
    """A task as the service shows it; out of lists and events without input, result and history."""

    task_id: str
    name: str
    kind: str
    status: Status
    attempt: int
    accepted_at: datetime
    run_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retries: int = 0
    timeout: float | None = None
    cancel_requested: bool = False
    progress: Progress | None = None
    error: Error | None = None
    longest_step: float | None = None
    traceparent: str | None = None
    callback: Callback | None = None
    input: dict[str, Any] | None = None
    result: Any = None
    history: tuple[Change, ...] = ()


class Kind(Struct, frozen=True):
    """A kind of task; ``input`` is its JSON Schema."""

    kind: str
    place: str
    input: dict[str, Any]
    description: str | None = None
    timeout: float | None = None
    retries: int = 0
    concurrency: int | None = None
    next_run: datetime | None = None


class Event(Struct, frozen=True):
    """What happened: ``type`` is `change`, `progress`, `deleted` or `reset`, and what newer services tell.

    ``task`` comes with a change, ``attempt`` and ``progress`` with progress, ``data`` always. An ``id``
    is a position: given as ``last_event_id``, the events after it follow.
    """

    type: str
    data: Any
    id: str | None = None
    task_id: str | None = None
    task: Task | None = None
    attempt: int | None = None
    progress: Progress | None = None


class ApiError(Exception):
    """The service refused.

    :ivar status: of the answer; 0 where there was none.
    :ivar errors: what is wrong with each field.
    :ivar type: a URI, where the status alone does not tell what it is.
    :ivar retry_after: seconds after which it may be tried again.
    :ivar uncertain: it, or an earlier try, may have been served all the same.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: tuple[FieldError, ...] = (),
        type: str = "about:blank",  # noqa: A002
        retry_after: float = 0,
        uncertain: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.type = type
        self.retry_after = retry_after
        self.uncertain = uncertain


class Invalid(ApiError):
    """The request itself is wrong."""


class Forbidden(ApiError):
    """Nobody may ask from here."""


class NotFound(ApiError):
    """There is no such task."""


class Conflict(ApiError):
    """The task's state forbids it."""


class TooLarge(ApiError):
    """The body is over the limit."""


class Mismatch(ApiError):
    """The idempotency key was used with another body."""


class Unavailable(ApiError):
    """Not now, and not at any of the tries."""


class Unreachable(Unavailable):
    """No whole answer came at any of the tries."""


class Unexpected(ApiError):
    """The answer is none that this service gives."""


_ERRORS: Final[Mapping[int, type[ApiError]]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Mismatch,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


class _Problem(Struct):
    type: str = "about:blank"
    detail: str = ""
    errors: tuple[FieldError, ...] = ()


class Page(Struct):
    """One page of the list, and the cursor of the next."""

    tasks: tuple[Task, ...]
    next: str | None = None


class Batch(Struct):
    """What a batch is answered with."""

    tasks: tuple[Accepted, ...]


class Kinds(Struct):
    """What `GET /api/kinds` is answered with."""

    kinds: tuple[Kind, ...]


class Answer(Struct):
    """A whole answer."""

    status: int
    retry_after: float
    body: bytes

    def read(self, shape: type[T]) -> T:
        """:raises Unexpected: it is something else."""
        return decode(self.body, shape, self.status)

    def error(self) -> ApiError:
        """What it means, where it is no success."""
        try:
            problem = msgspec.json.decode(self.body, type=_Problem)
        except UNREADABLE:
            problem = _Problem()
        uncertain = self.status in (502, 504) or problem.type.endswith("/outcome-unknown")
        return _ERRORS.get(self.status, ApiError)(
            self.status,
            problem.detail or f"The answer was {self.status}, without a reason",
            problem.errors,
            problem.type,
            self.retry_after,
            uncertain,
        )


def decode(text: bytes, shape: type[T], status: int = 200) -> T:
    """Read the JSON of an answer.

    :raises Unexpected: it is something else.
    """
    try:
        return msgspec.json.decode(text, type=shape)
    except UNREADABLE as error:
        told = f"This is no answer of asynctask: {error}"
        raise Unexpected(status, told, uncertain=True) from error
