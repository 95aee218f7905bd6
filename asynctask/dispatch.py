"""From a request to its route's handler, and from what that returns to the answer.

What `klein.Klein.resource` does with what handlers and error handlers return and raise, but: the route of a
path is looked up once, and a coroutine that ends without waiting, or waits for Deferreds, is driven without
one of its own. A request has nothing that no route of ours asks for: no ``url_for``, sessions, forms.
"""

from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from types import CoroutineType
from typing import Any, Final, cast

from klein import Klein, Response
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRenderable
from twisted.web.resource import IResource, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.template import renderElement
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, RequestRedirect
from zope.interface import implementer

from asynctask.request import Request as OwnRequest
from asynctask.tracebacks import let_go, thrown

log = Logger(namespace="asynctask.dispatch")

Handler = Callable[..., Any]

REST: Final = "__rest__"
"""Klein's own name for what is left of the path at a branch."""

MOST_FOUND: Final = 1_000
"""Paths whose handlers are remembered: whoever waits for a task asks for it again and again, and Werkzeug
leaves something to the garbage collector each time that it is asked."""

LONGEST_FOUND: Final = 200
"""Bytes of such a path: one of a task has 61."""


class Segment(BaseConverter):
    """A part of a path that is no name of ours: a batch is not the task ``batch``, and has no GET."""

    part_isolating = True
    regex = r"(?!batch\Z)[^/]+"


@implementer(IResource)
class Routes(Resource):
    """Serves the routes of an application.

    :param app: bound to its instance, if it has one.
    """

    isLeaf = True

    def __init__(self, app: Klein) -> None:
        super().__init__()
        self.app = app
        self._klein = app.resource()
        self._map = app.url_map.bind("localhost")
        self._handlers: dict[str, Handler] = {}
        self._found: dict[tuple[bytes, bytes], Handler] = {}

    def render(self, request: Request) -> bytes | int:
        """See `IResource`."""
        answering = Answering(self.app, request)
        try:
            handler = self._found.get((request.method, request.path)) or self._match(request)
        except HTTPException:
            answering.failed(Failure())
            return NOT_DONE_YET
        if handler is None:
            return cast(bytes | int, self._klein.render(request))
        answering.call(handler, request)
        return NOT_DONE_YET

    def takes(self, request: Request) -> bool:
        """Whether there is a handler for a request."""
        try:
            self._match(request)
        except HTTPException:
            return False
        return True

    def _match(self, request: Request) -> Handler | None:
        """The handler for a request, with the parameters in its path; None where Klein has to see to it.

        :raises HTTPException: there is none.
        """
        parts = request.postpath or []
        try:
            path = "/" + b"/".join(parts).decode()
            method = request.method.decode("ascii")
            rule, parameters = self._map.match(path, method, return_rule=True)
        except (UnicodeDecodeError, RequestRedirect):
            return None
        if REST in rule.arguments:
            return None
        handler = self._handler(rule.endpoint)
        if parameters:
            handler = partial(handler, **parameters)
        if len(request.path) <= LONGEST_FOUND:
            if len(self._found) >= MOST_FOUND:
                self._found.clear()
            self._found[request.method, request.path] = handler
        return handler

    def _handler(self, endpoint: str) -> Handler:
        """The function behind an endpoint, without Klein's around it, which makes a Deferred at once."""
        handler = self._handlers.get(endpoint)
        if handler is None:
            handler = self.app.endpoints[endpoint].__wrapped__  # type: ignore[attr-defined]
            instance = self.app._instance
            if instance is not None or getattr(handler, "__klein_bound__", False):
                handler = partial(handler, instance)
            self._handlers[endpoint] = handler
        return handler


class Answering:
    """One request on its way through its handler, and the error handlers if that fails."""

    __slots__ = ("_app", "_context", "_errors", "_request", "_waiting", "_watching")

    def __init__(self, app: Klein, request: Request) -> None:
        self._app = app
        self._request = request
        self._context: Context = copy_context()
        self._errors = 0
        self._waiting: Deferred[Any] | None = None
        self._watching = False

    def call(self, function: Handler, *args: Any) -> None:
        """Answer with what a function returns, at once or later."""
        try:
            result = self._context.run(function, *args)
        except BaseException:
            self.failed(Failure())
        else:
            self._got(result)

    def failed(self, failure: Failure) -> None:
        """Answer with what the next error handler for it returns."""
        self._waiting = None
        if self._is_over():
            if not failure.check(CancelledError):
                log.failure("Unhandled error after the end of a request", failure)
            let_go(failure)
            return
        if self._request.startedWriting:  # the client sees that it broke off, and no second answer in it
            self._request.processingFailed(failure)
            return
        handlers = self._app._error_handlers
        while self._errors < len(handlers):
            kinds, handler = handlers[self._errors]
            self._errors += 1
            if failure.check(*kinds):
                self.call(self._app.execute_error_handler, handler, self._request, failure)
                return
        self._default(failure)

    def _got(self, result: Any) -> None:
        if type(result) is CoroutineType:
            self._step(None, result)
        elif type(result) is not bytes and isinstance(result, Deferred):  # whose class is asked in Python
            self._wait(result)
            result.addCallbacks(self._fired, self.failed)
        elif isinstance(result, Failure):
            self.failed(result)
        else:
            try:
                self._answer(result)
            except BaseException:
                self.failed(Failure())

    def _fired(self, result: Any) -> None:
        self._waiting = None
        self._got(result)

    def _step(self, result: Any, coroutine: "CoroutineType[Any, Any, Any]") -> None:
        """Let a coroutine go on with what it waited for."""
        self._waiting = None
        while True:
            try:
                if result is not None and isinstance(result, Failure):  # mostly it is nothing
                    waits_for = self._context.run(coroutine.throw, thrown(result))
                else:
                    waits_for = self._context.run(coroutine.send, result)
            except StopIteration as end:
                result = None  # an error that was thrown in has this frame
                self._got(end.value)
                return
            except BaseException:
                result = None
                self.failed(Failure())
                return
            result = waits_for
            if isinstance(result, Deferred):
                break
        self._wait(result)
        result.addBoth(self._step, coroutine)

    def _wait(self, deferred: Deferred[Any]) -> None:
        """From now on, what is waited for is cancelled if the client leaves."""
        self._waiting = deferred
        if self._watching:
            return
        self._watching = True
        if isinstance(self._request, OwnRequest):
            self._request.lost = self._lost
        else:
            self._request.notifyFinish().addErrback(self._lost)

    def _lost(self, _: Failure) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def _is_over(self) -> bool:
        return bool(self._request.finished or self._request._disconnected)

    def _answer(self, result: Any) -> None:
        """Answer with a result that is there."""
        request = self._request
        if type(result) is not bytes:
            if isinstance(result, Response):
                self._got(result._applyToRequest(request))
                return
            result = self._shown(result)
            if result is NOT_DONE_YET:
                return
        if self._is_over():
            if result and request.finished:
                log.error("A handler returned a body after it had ended its request", path=request.path)
            return
        if isinstance(request, OwnRequest) and not request.startedWriting:
            request.reply(result)
            return
        if result:
            request.write(result)
        request.finish()

    def _shown(self, result: Any) -> Any:
        """The bytes of a result that is something else, or `NOT_DONE_YET` for what shows itself."""
        request = self._request
        if isinstance(result, bytes):
            return result
        if isinstance(result, str):
            return result.encode()
        if IResource.providedBy(result):
            parts = request.postpath or []
            used = len(parts) - (parts[-1:] == [b""])
            request.prepath, request.postpath = parts[:used], parts[used:]
            request.render(getChildForRequest(result, request))
            return NOT_DONE_YET
        if IRenderable.providedBy(result):
            renderElement(request, result)
            return NOT_DONE_YET
        return b""

    def _default(self, failure: Failure) -> None:
        """What nobody else has handled."""
        error = failure.value
        if not isinstance(error, HTTPException):
            self._request.processingFailed(failure)
            return
        response: Any = error.get_response({})
        self._request.setResponseCode(response.status_code)
        for name, value in response.headers:
            self._request.setHeader(name, value)
        self._answer(b"".join(response.iter_encoded()))
