"""HTTP requests read and answers rendered, over twisted.web's request and our own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import SEEK_END
from typing import Final

from twisted.web.server import Request

from asynctask import wire
from asynctask.headers import etag, matches
from asynctask.incoming import too_large
from asynctask.problems import MethodNotAllowed, Problem, UnsupportedMediaType
from asynctask.request import Request as OwnRequest

JSON: Final = "application/json"
_JSON: Final = JSON.encode()
PROBLEM: Final = "application/problem+json"

STRANGE: Final = b"-"
"""Put before a method that has small letters: it is another (RFC 9110 §9.1), but the same to Klein."""


def raw_fields(request: Request, name: bytes) -> Sequence[bytes]:
    """The values of a header field, none where it is missing.

    :param name: in lower case.
    """
    if isinstance(request, OwnRequest):
        return request.head.fields.get(name, ())
    return request.requestHeaders.getRawHeaders(name, [])


def fields(request: Request, name: str) -> list[str]:
    """The same as text; bytes that are no UTF-8 as ``\\xff``."""
    values = raw_fields(request, name.encode())
    return [value.decode("utf-8", "backslashreplace") for value in values] if values else []


def has_left(request: Request) -> bool:
    """Whether nobody waits for the answer any more."""
    return bool(request._disconnected)


def if_leaving(request: Request, hurry: Callable[[], object]) -> None:
    """Have this called when the request should be answered now, see `asynctask.request.Request`."""
    if isinstance(request, OwnRequest):
        request.hurry = hurry


def json_body(request: Request, limit: int) -> bytes:
    """The body of a request that says that it is JSON, or says nothing.

    :param limit: bytes that it may have.
    :raises UnsupportedMediaType: it says that it is something else.
    :raises TooLarge: it is over the limit.
    """
    check_body(request, length_of(request), limit)
    if isinstance(request, OwnRequest):
        return request.body
    return request.content.read() if request.content else b""


def length_of(request: Request) -> int:
    """Bytes of a body; of one that was not asked for and has not come, what its head tells."""
    if isinstance(request, OwnRequest):
        come, told = len(request.body), request.head.length
        return come if come >= told else told
    content = request.content
    if not content:
        return 0
    length: int = content.seek(0, SEEK_END)
    content.seek(0)
    return length


def check_body(request: Request, length: int, limit: int) -> None:
    """Refuse what `json_body` refuses, of a body that has so many bytes, or will have."""
    for given in raw_fields(request, b"content-type"):
        if given not in (b"", _JSON) and given.split(b";")[0].strip().lower() != _JSON:
            raise UnsupportedMediaType(f"The body must be {JSON}; say so with Content-Type: {JSON}")
    if length > limit:
        raise too_large(limit)


def answer(
    request: Request,
    status: int,
    body: bytes,
    headers: Mapping[str, str] = {},
    content_type: str = JSON,
) -> bytes:
    """Set the head of an answer, and give its body back."""
    request.setResponseCode(status)
    if body:
        headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}
    if isinstance(request, OwnRequest):
        request.set_headers(headers)
    else:
        for name, value in headers.items():
            request.setHeader(name, value)
    return body


def answer_tagged(request: Request, body: bytes, headers: Mapping[str, str] = {}) -> bytes:
    """Answer with a body and its validator, or 304 where the client has it already."""
    tag = etag(body)
    known = matches(tag, ", ".join(fields(request, "if-none-match")))
    return answer(request, 304 if known else 200, b"" if known else body, {**headers, "ETag": tag})


def answer_problem(request: Request, problem: Problem) -> bytes:
    """Answer with a problem (RFC 9457)."""
    body = answer(request, problem.status, wire.problem_json(problem), dict(problem.headers), PROBLEM)
    request.setResponseCode(problem.status, problem.title.encode())
    return body


def answer_method(request: Request, known: Iterable[str]) -> bytes:
    """Answer OPTIONS, or a method that is not among those of the path."""
    allowed = ", ".join(sorted({*known, "OPTIONS"}))
    if request.method == b"OPTIONS":
        return answer(request, 204, b"", {"Allow": allowed})
    method = wire.shown(request.method.removeprefix(STRANGE).decode("utf-8", "replace"))
    return answer_problem(
        request,
        MethodNotAllowed(f"There is no {method} here, only {allowed}", headers=(("Allow", allowed),)),
    )
