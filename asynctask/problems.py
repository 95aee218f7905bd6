"""What went wrong, as a client can understand it (RFC 9457), and who starts the service."""

from typing import Final

from msgspec import Struct

CLOSE: Final = (("Connection", "close"),)
"""Headers of an answer after which the connection serves nothing more."""


class FieldError(Struct, frozen=True, gc=False):
    """What is wrong with one field of a body; ``pointer`` as in RFC 6901."""

    detail: str
    pointer: str


class Problem(Exception):
    """Something that the client can understand (RFC 9457).

    :param detail: a sentence for people.
    :param errors: for a body: every bad field.
    :param headers: further headers of the answer.
    """

    status = 500
    title = "Internal Server Error"
    type = "about:blank"

    def __init__(
        self,
        detail: str,
        errors: tuple[FieldError, ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.headers = headers


class Invalid(Problem):
    """The request itself is wrong."""

    status, title = 400, "Bad Request"


class Forbidden(Problem):
    """The request comes from where none may come from."""

    status, title = 403, "Forbidden"


class NotFound(Problem):
    """No such path or task."""

    status, title = 404, "Not Found"


class MethodNotAllowed(Problem):
    """The path exists, but not with this method."""

    status, title = 405, "Method Not Allowed"


class Conflict(Problem):
    """The task's state forbids it."""

    status, title = 409, "Conflict"


class Mismatch(Problem):
    """The idempotency key was used with another body."""

    status, title = 422, "Unprocessable Content"


class TooSlow(Problem):
    """The request did not come to its end in time."""

    status, title = 408, "Request Timeout"


class HeadTooLarge(Problem):
    """The head of the request is over the limit."""

    status, title = 431, "Request Header Fields Too Large"


class TooLarge(Problem):
    """The body is over the limit."""

    status, title = 413, "Content Too Large"


class UnsupportedMediaType(Problem):
    """The body is of a type that we do not read."""

    status, title = 415, "Unsupported Media Type"


class ExpectationFailed(Problem):
    """The request expects what we do not do."""

    status, title = 417, "Expectation Failed"


class Unavailable(Problem):
    """Not now: full, draining, or without a store; nothing of it was kept or will run."""

    status, title = 503, "Service Unavailable"

    def __init__(
        self, detail: str, retry_after: int = 1, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(detail, headers=(("Retry-After", str(retry_after)), *headers))


class Stopping(Unavailable):
    """The service ends; what this connection would bring next, nobody would answer."""

    def __init__(self) -> None:
        super().__init__("The service is stopping; try again when it is back", headers=CLOSE)


class OutcomeUnknown(Unavailable):
    """The commit neither succeeded nor failed for certain: what was asked for may have been done."""

    type = "urn:asynctask:problem/outcome-unknown"


NOT_KEPT: Final = "The store cannot keep this now; nothing of it was done, try again later"
MAY_BE_KEPT: Final = (
    "It is not known whether the store has kept this; repeat it, new tasks with their Idempotency-Key"
)
"""What is told of whatever was to be written: new tasks, a cancel, a retry, a removal."""


class StartError(Exception):
    """The service cannot start; the message is one plain sentence for its operator."""
