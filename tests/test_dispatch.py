"""From a request to its handler and back: on our own connection as in Klein's own way."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from klein import Klein, Response
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import InvalidHeaderName
from twisted.web.resource import Resource
from twisted.web.static import Data
from twisted.web.template import Element, TagLoader, tags
from werkzeug.exceptions import HTTPException, ImATeapot

from asynctask import httpserver, twistedweb
from asynctask.dispatch import LONGEST_FOUND, MOST_FOUND, Routes
from tests.wires import Answer, Wire

LIMIT = 1_000
current: ContextVar[str] = ContextVar("current", default="nobody")


class Refused(Exception):
    """Has an error handler."""


class Unexpected(Exception):
    """Has none, where there is no handler for all."""


class Broken(Exception):
    """Has an error handler that notes that it is asked."""


class Shop:
    """Handlers of every sort."""

    app = Klein()

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0

    def wait(self) -> Deferred[Any]:
        def cancelled(_: object) -> None:
            self.cancelled += 1

        self.waiting.append(Deferred(cancelled))
        return self.waiting[-1]

    @app.route("/bytes")
    def plain(self, request: Any) -> bytes:
        self.calls.append("bytes")
        return b"b"

    @app.route("/text")
    def text(self, request: Any) -> str:
        return "\u00e9"

    @app.route("/nothing")
    def nothing(self, request: Any) -> None:
        request.setResponseCode(202)

    @app.route("/deferred")
    def deferred(self, request: Any) -> Deferred[Any]:
        return self.wait()

    @app.route("/fired")
    def fired(self, request: Any) -> Deferred[bytes]:
        return succeed(b"fired")

    @app.route("/generator")
    @inlineCallbacks
    def generator(self, request: Any) -> Any:
        found = yield self.wait()
        return found

    @app.route("/coroutine")
    async def coroutine(self, request: Any) -> bytes:
        self.calls.append("coroutine")
        return b"at once"

    @app.route("/awaits")
    async def awaits(self, request: Any) -> bytes:
        current.set("the first")
        first = await self.wait()
        now = await succeed(b"-")
        second = await self.wait()
        self.calls.append(current.get())
        return bytes(first + now + second)

    @app.route("/stubborn")
    async def stubborn(self, request: Any) -> bytes:
        try:
            await self.wait()
        except CancelledError:
            self.calls.append("cancelled")
            await self.wait()
            self.calls.append("went on")
        return b"unheard"

    @app.route("/streams")
    async def streams(self, request: Any) -> None:
        for piece in (b"a", b"b"):
            request.write(piece)
            await self.wait()

    @app.route("/breaks")
    async def breaks(self, request: Any) -> None:
        if b"length" in request.args:
            request.setHeader("Content-Length", request.args[b"length"][0])
        request.write(b"begun")
        await self.wait()

    @app.route("/breaks/at/once")
    def breaks_at_once(self, request: Any) -> None:
        request.write(b"begun")
        raise Broken

    @app.route("/refuses")
    async def refuses(self, request: Any) -> bytes:
        self.calls.append("refuses")
        raise Refused("no")

    @app.route("/refuses/late")
    async def refuses_late(self, request: Any) -> bytes:
        await self.wait()
        raise Refused("late")

    @app.route("/unfit")
    def unfit(self, request: Any) -> Any:
        return Response(200, {"no name": "a"})

    @app.route("/fails")
    def fails(self, request: Any) -> Deferred[Any]:
        return self.wait()

    @app.route("/failure")
    def failure(self, request: Any) -> Any:
        return Failure(Refused("returned"))

    @app.route("/ends/late")
    async def ends_late(self, request: Any) -> bytes:
        request.write(b"by itself")
        request.finish()
        return b"too late"

    @app.route("/bug")
    def bug(self, request: Any) -> bytes:
        raise Unexpected

    @app.route("/teapot")
    def teapot(self, request: Any) -> bytes:
        raise ImATeapot

    @app.route("/resource")
    def resource(self, request: Any) -> Resource:
        return Data(b"data", "text/plain")

    @app.route("/element")
    def element(self, request: Any) -> Any:
        return Element(TagLoader(tags.p("hello")))

    @app.route("/response")
    def response(self, request: Any) -> Any:
        return Response(201, {"X-Mine": ["1"]}, b"made")

    @app.route("/response-later")
    def response_later(self, request: Any) -> Any:
        return Response(202, {}, self.wait())

    @app.route("/ends")
    def ends(self, request: Any) -> Deferred[Any]:
        request.write(b"by itself")
        request.finish()
        return self.wait()

    @app.route("/things/<name>/<int:number>", methods=["GET", "DELETE"])
    def thing(self, request: Any, name: str, number: int) -> bytes:
        return f"{name} {number + 1}".encode()

    @app.route("/branch/", branch=True)
    def branch(self, request: Any) -> Resource:
        root = Resource()
        root.putChild(b"leaf", Data(b"leaf", "text/plain"))
        return root

    @app.route("/folder/")
    def folder(self, request: Any) -> bytes:
        return b"folder"

    @app.handle_errors(Refused)
    async def refused(self, request: Any, failure: Failure) -> bytes:
        request.setResponseCode(409)
        return str(failure.value).encode()

    @app.handle_errors(Broken)
    def broken(self, request: Any, failure: Failure) -> bytes:
        self.calls.append("broken")
        return b"a second body"

    @app.handle_errors(ImATeapot)
    def fails_too(self, request: Any, failure: Failure) -> bytes:
        raise Refused("even the teapot")


class Strict(Shop):
    """The same, with a handler of everything that Werkzeug's routing says."""

    app = Klein()
    app.url_map.merge_slashes = False

    @app.route("/only", methods=["POST"])
    def only(self, request: Any) -> bytes:
        return b"only"

    @app.handle_errors(HTTPException)
    def unrouted(self, request: Any, failure: Any) -> bytes:
        request.setResponseCode(failure.value.code)
        return b"unrouted"


if TYPE_CHECKING:
    Base = SynchronousTestCase
else:
    Base = object


class DispatchContract(Base):
    """What Klein promises of handlers."""

    def server_of(self, app: Klein) -> Any:
        raise NotImplementedError

    def setUp(self) -> None:
        self.shop = Shop()
        self.wire = Wire(self.server_of(self.shop.app))

    def ask(self, path: str, method: str = "GET") -> None:
        self.wire.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def answer(self, path: str, method: str = "GET") -> Answer:
        self.ask(path, method)
        return self.wire.answers[-1]

    def said(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        answer = self.answer(path, method)
        return answer.status, answer.body

    def test_a_handler_returns_bytes_or_text_or_nothing(self) -> None:
        self.assertEqual(self.said("/bytes"), (200, b"b"))
        self.assertEqual(self.said("/text"), (200, "\u00e9".encode()))
        self.assertEqual(self.said("/nothing"), (202, b""))
        self.assertEqual(self.answer("/text").fields[b"content-type"], b"text/html")

    def test_it_is_called_once(self) -> None:
        for _ in range(3):
            self.ask("/bytes?x")
        self.assertEqual(self.shop.calls, ["bytes"] * 3)
        self.ask("/refuses")
        self.assertEqual(self.shop.calls[3:], ["refuses"])

    def test_it_may_be_a_coroutine_that_does_not_wait(self) -> None:
        self.assertEqual(self.said("/coroutine"), (200, b"at once"))
        self.assertEqual(self.shop.calls, ["coroutine"])

    def test_it_may_be_a_coroutine_that_waits(self) -> None:
        self.ask("/awaits")
        self.assertEqual(self.wire.answers, [])
        self.shop.waiting[0].callback(b"one")
        self.shop.waiting[1].callback(b"two")
        self.assertEqual(self.wire.answers[0].body, b"one-two")

    def test_a_coroutine_has_a_context_of_its_own(self) -> None:
        self.ask("/awaits")
        self.assertEqual(current.get(), "nobody")
        current.set("another")
        self.addCleanup(current.set, "nobody")
        self.shop.waiting[0].callback(b"")
        self.shop.waiting[1].callback(b"")
        self.assertEqual(self.shop.calls, ["the first"])

    def test_it_may_return_a_deferred(self) -> None:
        self.ask("/deferred")
        self.shop.waiting[0].callback(b"later")
        self.ask("/generator")
        self.shop.waiting[1].callback("generated")
        self.assertEqual([answer.body for answer in self.wire.answers], [b"later", b"generated"])
        self.assertEqual(self.said("/fired"), (200, b"fired"))

    def test_it_may_stream(self) -> None:
        self.ask("/streams")
        self.assertTrue(self.wire.raw.endswith(b"1\r\na\r\n"))
        self.shop.waiting[0].callback(None)
        self.shop.waiting[1].callback(None)
        self.assertTrue(self.wire.raw.endswith(b"0\r\n\r\n"))
        self.assertEqual(self.wire.answers[0].body, b"ab")

    def test_it_may_return_what_renders_itself(self) -> None:
        self.assertEqual(self.said("/resource"), (200, b"data"))
        self.assertEqual(self.said("/element"), (200, b"<!DOCTYPE html>\n<p>hello</p>"))
        answer = self.answer("/response")
        self.assertEqual((answer.status, answer.body, answer.fields[b"x-mine"]), (201, b"made", b"1"))
        self.ask("/response-later")
        self.shop.waiting[0].callback(b"late")
        self.assertEqual((self.wire.answers[-1].status, self.wire.answers[-1].body), (202, b"late"))

    def test_parts_of_the_path_are_its_arguments(self) -> None:
        self.assertEqual(self.said("/things/a%20b/41"), (200, b"a b 42"))
        self.assertEqual(self.said("/things/a/41", "DELETE"), (200, b"a 42"))
        self.assertEqual(self.said("/things/a/x")[0], 404)

    def test_a_branch_takes_all_below_it(self) -> None:
        self.assertEqual(self.said("/branch/leaf"), (200, b"leaf"))
        self.assertEqual(self.said("/branch/other")[0], 404)

    def test_a_folder_is_redirected_to(self) -> None:
        self.assertEqual(self.said("/folder/"), (200, b"folder"))
        answer = self.answer("/folder")
        self.assertEqual(
            (answer.status, answer.fields[b"location"]), (308, b"http://localhost:8080/folder/")
        )

    def test_an_error_has_its_handler(self) -> None:
        self.assertEqual(self.said("/refuses"), (409, b"no"))
        self.ask("/refuses/late")
        self.shop.waiting[0].callback(None)
        self.assertEqual(self.wire.answers[-1].body, b"late")
        self.ask("/fails")
        self.shop.waiting[1].errback(Refused("failed"))
        self.assertEqual(self.wire.answers[-1].body, b"failed")
        self.assertEqual(self.said("/failure"), (409, b"returned"))

    def test_the_error_of_an_error_handler_goes_on_to_the_next(self) -> None:
        status, _ = self.said("/teapot")
        self.assertEqual(status, 500)
        self.assertEqual(len(self.flushLoggedErrors(Refused)), 1)

    def test_an_error_without_a_handler_is_logged_and_a_500(self) -> None:
        self.assertEqual(self.said("/bug")[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(Unexpected)), 1)

    def test_an_answer_that_cannot_be_given_is_a_500(self) -> None:
        self.assertEqual(self.said("/unfit")[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(InvalidHeaderName)), 1)

    def test_what_has_no_route(self) -> None:
        self.assertEqual(self.said("/none")[0], 404)
        answer = self.answer("/things/a/1", "PUT")
        self.assertEqual(answer.status, 405)
        self.assertEqual(set(answer.fields[b"allow"].split(b", ")), {b"GET", b"HEAD", b"DELETE"})

    def test_routing_errors_have_handlers_too(self) -> None:
        self.wire = Wire(self.server_of(Strict().app))
        for path, method, expected in (("/none", "GET", 404), ("/only", "GET", 405)):
            self.assertEqual(self.said(path, method), (expected, b"unrouted"))
        self.assertEqual(self.said("/only", "POST"), (200, b"only"))

    def test_a_client_that_leaves_cancels_its_handler(self) -> None:
        for path in ("/deferred", "/generator", "/awaits"):
            wire, self.wire = self.wire, Wire(self.server_of(self.shop.app))
            self.ask(path)
            self.wire.leave()
            self.wire = wire
        self.assertEqual(self.shop.cancelled, 3)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_handler_may_go_on_all_the_same(self) -> None:
        self.ask("/stubborn")
        self.wire.leave()
        self.assertEqual(self.shop.calls, ["cancelled"])
        self.shop.waiting[1].callback(None)
        self.assertEqual(self.shop.calls, ["cancelled", "went on"])
        self.assertEqual(self.wire.raw, b"")

    def test_an_error_after_the_client_left_is_logged(self) -> None:
        self.ask("/stubborn")
        self.wire.leave()
        self.shop.waiting[1].errback(Unexpected())
        self.assertEqual(len(self.flushLoggedErrors(Unexpected)), 1)

    def test_a_handler_may_end_its_request_itself(self) -> None:
        self.ask("/ends")
        self.assertEqual(self.wire.answers[0].body, b"by itself")
        self.shop.waiting[0].callback(None)
        self.assertEqual(self.said("/bytes"), (200, b"b"))


class OwnDispatch(DispatchContract, SynchronousTestCase):
    """Our own connection, our own way to the handlers."""

    def server_of(self, app: Klein) -> Any:
        return httpserver.HttpServer(Routes(app), LIMIT, Clock())

    def expect(self, line: str) -> int:
        """The first status that a client sees who asks before it sends a body."""
        wire = Wire(self.server_of(self.shop.app))
        head = f"{line} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        return wire.send(head.encode()).statuses[0]

    def test_a_body_is_asked_for_where_there_is_a_handler_for_it(self) -> None:
        for line, status in (
            ("GET /bytes", 100),
            ("DELETE /things/a/1", 100),
            ("GET /folder", 100),
            ("POST /things/a/1", 405),
            ("GET /none", 404),
        ):
            self.assertEqual(self.expect(line), status, line)

    def test_an_answer_that_breaks_off_is_cut_and_has_no_other_in_it(self) -> None:
        for path, begun in (
            ("/breaks?length=9", b"\r\n\r\nbegun"),
            ("/breaks?length=99", b"\r\n\r\nbegun"),
            ("/breaks", b"\r\n\r\n5\r\nbegun\r\n"),
            ("/breaks/at/once", b"\r\n\r\n5\r\nbegun\r\n"),
        ):
            self.wire = Wire(self.server_of(self.shop.app))
            self.ask(path)
            while self.shop.waiting:
                self.shop.waiting.pop().errback(Broken())
            self.assertTrue(self.wire.transport.ended, path)
            self.assertTrue(self.wire.raw.endswith(begun), self.wire.raw)
            self.assertEqual(self.wire.raw.count(b"HTTP/1.1"), 1)
            self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.assertEqual(self.shop.calls, [])

    def test_a_body_after_the_end_is_dropped(self) -> None:
        self.assertEqual(self.said("/ends/late"), (200, b"by itself"))
        self.assertEqual(self.said("/bytes"), (200, b"b"))


class StockDispatch(DispatchContract, SynchronousTestCase):
    """twisted.web's connection, Klein's way."""

    def server_of(self, app: Klein) -> Any:
        server = twistedweb.HttpServer(app.resource(), LIMIT, lambda _: b"")
        server.reactor = Clock()
        return server


class MixedDispatch(DispatchContract, SynchronousTestCase):
    """twisted.web's connection, our own way to the handlers."""

    def server_of(self, app: Klein) -> Any:
        server = twistedweb.HttpServer(Routes(app), LIMIT, lambda _: b"")
        server.reactor = Clock()
        return server


class WithoutAnInstance(SynchronousTestCase):
    """An application of functions."""

    def test_a_handler_is_given_the_request_only(self) -> None:
        app = Klein()
        route: Callable[..., Any] = app.route

        @route("/function")
        def function(request: Any) -> bytes:
            return bytes(request.method)

        wire = Wire(httpserver.HttpServer(Routes(app), LIMIT, Clock()))
        self.assertEqual(wire.send(b"GET /function HTTP/1.1\r\nHost: a\r\n\r\n").answers[0].body, b"GET")


class Remembered(SynchronousTestCase):
    """The route of a path is looked up once."""

    def setUp(self) -> None:
        app = Klein()
        route: Callable[..., Any] = app.route

        @route("/<thing>", methods=["GET"])
        def get(request: Any, thing: str) -> str:
            return f"get {thing}"

        @route("/<thing>", methods=["DELETE"])
        def delete(request: Any, thing: str) -> str:
            return f"delete {thing}"

        self.routes = Routes(app)
        self.server = httpserver.HttpServer(self.routes, LIMIT, Clock())

    def ask(self, method: str, path: str) -> bytes:
        wire = Wire(self.server).send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return wire.answers[0].body

    def test_by_method_and_path(self) -> None:
        for _ in range(2):
            for method in ("get", "delete"):
                for thing in ("a", "b"):
                    self.assertEqual(self.ask(method.upper(), f"/{thing}"), f"{method} {thing}".encode())
        self.assertEqual(len(self.routes._found), 4)

    def test_only_so_many_and_none_that_is_long(self) -> None:
        for number in range(MOST_FOUND + 2):
            self.assertEqual(self.ask("GET", f"/{number}"), f"get {number}".encode())
        self.assertEqual(len(self.routes._found), 2)
        self.assertEqual(self.ask("GET", "/" + "x" * LONGEST_FOUND), b"get " + b"x" * LONGEST_FOUND)
        self.assertEqual(len(self.routes._found), 2)
