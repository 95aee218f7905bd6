"""The same bytes to our own connection and to twisted.web's: the same answers, but for what is said here.

``python -m tests.test_differential 100000`` draws so many exchanges, others each time; the test draws few,
and the same.
"""

import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from asynctask import channel, httpserver, twistedweb
from asynctask.api import Api
from asynctask.door import MAX_BATCH_BODY, answer_too_large
from asynctask.feed import Feed
from asynctask.heads import END
from asynctask.metrics import Metrics
from asynctask.registry import KINDS
from asynctask.seats import Seats
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from tests.turns import Turns
from tests.wires import Answer, Wire

EXCHANGES: Final = int(os.environ.get("ASYNCTASK_TEST_EXCHANGES", "300"))
START: Final = 1_700_000_000.5
UNKNOWN: Final = b"task_1700000000" + b"0" * 20


class Stricter(NamedTuple):
    """What our own connection refuses on purpose, and twisted.web's serves or refuses in another way."""

    raw: bytes
    theirs: list[int]
    says: str
    """What our 400 says of the request; or the status that it is."""
    why: str


LIVE: Final = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
OLD: Final = b"GET /health/live HTTP/1.0\r\n"
CHUNKED: Final = (
    b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n"
    b'{"name": "some"}\r\n'
)
LENGTH: Final = b'POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: %b\r\n\r\n{"name": "a"}'

STRICTER: Final = (
    Stricter(
        LIVE + b"X: a\r\n b\r\n\r\n",
        [200],
        "a field of the head is folded",
        "RFC 9112 §5.2: refused, or read in another way by whoever stands before us",
    ),
    Stricter(
        LIVE.replace(b"\r\n", b"\n") + b"\n",
        [],
        "a line of the head does not end with CR and LF",
        "RFC 9112 §2.2 allows it; others end the head elsewhere",
    ),
    Stricter(
        LIVE.replace(b" HTTP", b"  HTTP") + b"\r\n",
        [400],
        "its first line is not 'METHOD target HTTP/1.1'",
        "both refuse; ours says why",
    ),
    Stricter(
        b"\x16\x03\x01", [], "it does not begin with a method", "TLS to a port without it is told at once"
    ),
    Stricter(
        b"GET health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        [404],
        "its target is neither a path nor a URL",
        "RFC 9112 §3.2",
    ),
    Stricter(LIVE + b"X: \x01\r\n\r\n", [200], "Invalid header value char", "RFC 9110 §5.5"),
    Stricter(LIVE + b"X : a\r\n\r\n", [400], "Invalid header token", "both refuse; ours says why"),
    Stricter(
        LIVE + b"Transfer-Encoding: identity\r\n\r\n",
        [200],
        "Request has invalid `Transfer-Encoding`",
        "RFC 9112 §7: no such coding is left",
    ),
    Stricter(
        LENGTH % b"13\r\nTransfer-Encoding: chunked",
        [400],
        "Transfer-Encoding can't be present with Content-Length",
        "RFC 9112 §6.3",
    ),
    Stricter(
        LENGTH.replace(b"Content-L", b"Transfer-Encoding: identity\r\nContent-L") % b"13",
        [202],
        "Content-Length can't be present with Transfer-Encoding",
        "RFC 9112 §6.3",
    ),
    Stricter(
        LENGTH % b"13\r\nContent-Length: 13",
        [400],
        "Duplicate Content-Length",
        "both refuse; ours says why",
    ),
    Stricter(LENGTH % b"+13", [400], "Invalid character in Content-Length", "both refuse; ours says why"),
    Stricter(
        OLD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        [200],
        "a Transfer-Encoding is 'chunked' alone, and of HTTP/1.1",
        "RFC 9112 §6.1: its framing cannot be trusted",
    ),
    Stricter(CHUNKED + b"0\r\nX\r\n\r\n", [202], "a field after its chunks is none", "RFC 9112 §7.1.2"),
    Stricter(
        CHUNKED + b"0 \r\n\r\n",
        [400],
        "the size of a chunk is not one number in hexadecimal digits",
        "RFC 9112 §7.1: spaces only before extensions",
    ),
    Stricter(
        CHUNKED + b"1\r\nab\r\n", [400], "a chunk is not as long as it says", "both refuse; ours says why"
    ),
    Stricter(LIVE + b"X: y\r\n" * 101 + b"\r\n", [200], "431", "api.md: 100 fields are enough"),
    Stricter(
        CHUNKED + b"0\r\n\n", [], "a line between its chunks has no end", "RFC 9112 §7.1: theirs waits"
    ),
)

SAID: Final = {row.says for row in STRICTER}


class Other(NamedTuple):
    """What our own connection does otherwise, and is no stricter for it."""

    raw: bytes
    theirs: list[int]
    ours: list[int]
    applies: Callable[[bytes], object]
    """Whether bytes have something of it."""
    longer: bool
    """Whether it may only be that one of us answers more than the other."""
    why: str


def has(pattern: bytes) -> Callable[[bytes], object]:
    return re.compile(pattern, re.IGNORECASE).search


OTHERS: Final = (
    Other(
        LIVE.replace(b"/health", b"http://localhost/health") + b"\r\n",
        [404],
        [200],
        has(rb" https?://"),
        False,
        "RFC 9112 §3.2.2: a server has to take it",
    ),
    Other(
        b"GET /api/tasks?name=\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        [400],
        [200],
        has(rb"/\S*[\x80-\xff]\S* HTTP"),
        False,
        "curl sends them so, and the parser of the query takes them",
    ),
    Other(
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        [200],
        [204],
        has(rb"OPTIONS \*"),
        False,
        "api.md: OPTIONS is 204 with Allow",
    ),
    Other(
        (OLD + b"Connection: keep-alive\r\n\r\n") * 2,
        [200],
        [200, 200],
        has(rb"HTTP/1\.0"),
        True,
        "RFC 9112 §9.3",
    ),
    Other(
        (LIVE + b"Connection: x,close\r\n\r\n") * 2,
        [200, 200],
        [200],
        has(rb"connection:"),
        True,
        "RFC 9110 §7.6.1: a list has commas",
    ),
    Other(
        LIVE.replace(b"GET", b"DELETE") + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        [100],
        [405],
        has(rb"expect:"),
        True,
        "api.md: the body is asked for only when it will be taken",
    ),
    Other(
        b"HEAD / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n",
        [413],
        [413],
        has(rb"HEAD [^{]*content-length: \d{7}"),
        False,
        "no answer to HEAD has a body",
    ),
    Other(
        LENGTH % b"99999999999999999999999",
        [413],
        [400],
        has(rb"content-length: \d{16}"),
        False,
        "no such length",
    ),
)


class Service:
    """A service without sockets and without a runner.

    :param own: whether on our own connection.
    """

    def __init__(self, own: bool) -> None:
        self.turns = Turns()
        self.clock = Clock()
        self.store = SqlStore(Place(None), self.turns, metrics=Metrics())
        self.store.open([], START)
        seats = Seats({"reactor": 0, "thread": 0, "asyncio": 0, "process": 0})
        api = Api(
            self.store,
            seats,
            Feed(self.clock),
            KINDS,
            self.clock,
            lambda: START,
            lambda: bytes(16),
            (),
            10,
            metrics=Metrics(KINDS),
        )
        self.server: Any
        if own:
            self.server = httpserver.HttpServer(api.routes(), MAX_BATCH_BODY, self.clock, now=lambda: START)
        else:
            self.server = twistedweb.HttpServer(api.resource(), MAX_BATCH_BODY, answer_too_large)
            self.server.reactor = self.clock

    def close(self) -> None:
        self.turns.outcome(self.store.close())

    def answers(self, raw: bytes) -> list[Answer]:
        """What is answered until nothing is left to be answered."""
        wire = Wire(self.server)
        wire.send(raw)
        while self.is_answering(wire.protocol):
            self.turns.turn()
        wire.leave()
        return [like_others(answer) for answer in wire.answers]

    def is_answering(self, protocol: Any) -> bool:
        if isinstance(protocol, channel.Connection):
            return protocol._request is not None
        return bool(protocol.requests and protocol._handlingRequest)


def like_others(answer: Answer) -> Answer:
    """An answer without what differs from moment to moment, or for no client's eyes."""
    unlike = (b"date", b"server", b"transfer-encoding", b"content-length", b"connection")
    fields = {name: mask(value) for name, value in answer.fields.items() if name not in unlike}
    return answer._replace(fields=fields, body=mask(answer.body))


def mask(text: bytes) -> bytes:
    return re.sub(rb"task_\d{10}(?!0{20})[0-9a-z]{20}", b"task_", text)


def is_silent_refusal(answers: list[Answer]) -> bool:
    """What twisted.web says to what it refuses itself."""
    return [(each.status, each.body) for each in answers] == [(400, b"")]


def unexplained(raw: bytes, ours: list[Answer], theirs: list[Answer]) -> str | None:
    """What differs without a reason that is written down here."""
    ours = [each for each in ours if each.status != 100]
    theirs = [each for each in theirs if each.status != 100]
    if ours == theirs:
        return None
    same = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    longer = same is None
    same = min(len(ours), len(theirs)) if same is None else same
    if not ours[same:] and is_silent_refusal(theirs[same:]) and not raw.endswith(END):
        return None  # ours refuses once the head is whole: `compare` sends that too
    refusal = ours[same] if same + 1 == len(ours) else None
    if refusal is not None and refusal.status in (400, 431):
        if is_silent_refusal(theirs[same:]) or (has(b"HEAD ")(raw) and not refusal.body):
            return None
        said = re.search(rb'"detail":"The request is malformed: ((?:[^"\\]|\\.)*)"', refusal.body)
        if str(refusal.status) in SAID or (said and said[1].decode().replace('\\"', '"') in SAID):
            return None
    if any(other.applies(raw) and (longer or not other.longer) for other in OTHERS):
        return None
    return f"{raw!r}\nours   {ours[same:]}\ntheirs {theirs[same:]}"


names = st.sampled_from(
    [
        *(
            b"Host",
            b"Content-Length",
            b"Transfer-Encoding",
            b"Connection",
            b"Expect",
            b"Origin",
            b"X-Other",
        ),
        *(
            b"Content-Type",
            b"If-None-Match",
            b"Idempotency-Key",
            b"Sec-Fetch-Site",
            b"Upgrade",
            b"traceparent",
        ),
        *(b"host", b"content-length", b"X_", b"Accept", b"Cookie", b"Authorization", b"TE", b"Trailer"),
    ]
)
values = st.sampled_from(
    [
        *(
            b"localhost",
            b"localhost:8080",
            b"evil.example",
            b"0",
            b"5",
            b"13",
            b"1000",
            b"99999999",
            b"",
            b" ",
            b"chunked",
        ),
        *(
            b"Chunked",
            b"gzip, chunked",
            b"identity",
            b"close",
            b"keep-alive",
            b"x,close",
            b"100-continue",
            b"text/plain",
        ),
        *(
            b"application/json",
            b"application/json; charset=utf-8",
            b"*",
            b'"a"',
            b"same-origin",
            b"cross-site",
            b"null",
        ),
        *(
            b"h2c",
            b"\xff\xfe",
            b"\t a \t b\t",
            b"http://localhost",
            b"http://evil.example",
            b"a" * 300,
            b"Basic aTpq",
            b"trailers",
        ),
    ]
)
methods = st.sampled_from(
    [b"GET", b"POST", b"HEAD", b"DELETE", b"OPTIONS", b"PUT", b"get", b"FOO", b"CONNECT", b"PATCH"]
)
targets = st.sampled_from(
    [
        *(
            b"/health/live",
            b"/api/tasks",
            b"/api/tasks/batch",
            b"/api/tasks?name=none",
            b"/api/tasks?limit=x",
            b"/api/kinds",
        ),
        *(
            b"/api/tasks/" + UNKNOWN,
            b"/api/tasks/" + UNKNOWN + b"/cancel",
            b"/api/tasks/" + UNKNOWN + b"/retry",
            b"/openapi.json",
        ),
        *(
            b"/api/tasks?name=\xc3\xa9",
            b"/%e9",
            b"/\xff",
            b"//health/live",
            b"/health/live/",
            b"/health//live",
            b"/health/live?x#y",
        ),
        *(
            b"/health%2flive",
            b"/health/%6cive",
            b"/../health/live",
            b"/./health/live",
            b"*",
            b"http://localhost/health/live",
            b"/",
            b"",
        ),
        *(b"/health/live;x", b"/health/live?a?b", b"/api/tasks/%00", b"/api/tasks/a%20b", b"/health/ready"),
    ]
)
bodies = st.sampled_from(
    [
        b"",
        b'{"name": "a"}',
        b'{"name": "a", "duration": 5}',
        b'[{"name": "a"}]',
        b"{",
        b"null",
        b"\xff",
        b"x" * 70_000,
    ]
)
fields = st.lists(st.builds(lambda name, value: name + b": " + value, names, values), max_size=4)
versions = st.sampled_from(
    [b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1"]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that is nearly, or wholly, as it should be."""
    body = draw(bodies)
    found = [draw(methods) + b" " + draw(targets) + b" " + draw(versions)]
    if draw(st.integers(0, 9)):
        found.append(b"Host: localhost:8080")
    found += draw(fields)
    framing = draw(st.integers(0, 5))
    if framing < 3 and body:
        found.append(b"Content-Length: %d" % len(body))
    elif framing == 3:
        found.append(b"Transfer-Encoding: chunked")
        size = draw(st.integers(1, 9_000))
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif framing == 4:
        body = b""
    return b"\r\n".join(found) + b"\r\n\r\n" + body


noise = st.sampled_from(
    [
        *(
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b" ",
            b"\t",
            b":",
            b"\0",
            b"\x0b",
            b"\xff",
            b",",
            b";",
            b"0",
            b"0\r\n\r\n",
            b"\r\n ",
        ),
    ]
)


@st.composite
def exchanges(draw: st.DrawFn) -> bytes:
    """Some requests on one connection, with a few bytes wrong or not."""
    raw = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, min(len(raw), 400)))
        raw = raw[:at] + draw(noise) + raw[at + draw(st.integers(0, 2)) :]
    return raw


class Pair:
    """Both connections, with the same service behind each."""

    def __init__(self) -> None:
        self.own, self.stock = Service(own=True), Service(own=False)

    def close(self) -> None:
        self.own.close()
        self.stock.close()

    def renew(self) -> None:
        """Forget all tasks and keys: what one refused and the other took may have left a difference."""
        self.close()
        self.own, self.stock = Service(own=True), Service(own=False)

    def both(self, raw: bytes) -> tuple[list[Answer], list[Answer]]:
        return self.own.answers(raw), self.stock.answers(raw)

    def compare(self, raw: bytes) -> None:
        """Send the same to both, and once more with an end to a head that has none."""
        for whole in (raw, raw + END):
            if unexplained(whole, *self.both(whole)) is not None:
                self.renew()
                found = unexplained(whole, *self.both(whole))
                assert found is None, found

    def draw(self, count: int, *, others: bool = False) -> None:
        """Compare so many exchanges, others than the last time or the same."""

        @settings(
            max_examples=count,
            derandomize=settings().derandomize and not others,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(exchanges())
        @example(LIVE + b"\r\n")
        def compare(raw: bytes) -> None:
            self.compare(raw)

        compare()


class Differential(SynchronousTestCase):
    """What is the same, and what is not."""

    def setUp(self) -> None:
        self.pair = Pair()
        self.addCleanup(self.pair.close)

    def test_who_sends_more_than_anybody_may_is_told_what_may_be_sent_there(self) -> None:
        for target, limit in (
            (b"/api/tasks", 65_536),
            (b"/api/tasks?a=b", 65_536),
            (b"/api/tasks/batch", 1_048_576),
            (b"/api/tasks/b%61tch", 1_048_576),
            (b"/api/kinds", 65_536),
        ):
            head = b"POST " + target + b" HTTP/1.1\r\nHost: localhost\r\n"
            whole = head + b"Content-Length: 3000000\r\n\r\n"
            chunk = head + b"Transfer-Encoding: chunked\r\n\r\n200000\r\n" + b"x" * 0x200000
            for raw in (whole, chunk):
                for answers in self.pair.both(raw):
                    [refusal] = answers
                    self.assertEqual(refusal.status, 413)
                    self.assertIn(b'"The body must have at most %d bytes"' % limit, refusal.body)

    def test_what_is_stricter_is_so_on_purpose(self) -> None:
        for row in STRICTER:
            ours, theirs = self.pair.both(row.raw)
            self.assertEqual([answer.status for answer in theirs], row.theirs, row.why)
            [refusal] = ours
            if row.says == "431":
                self.assertEqual(refusal.status, 431, row.why)
            else:
                self.assertIn(row.says.encode(), refusal.body.replace(b"\\", b""), row.why)
            self.assertIsNone(unexplained(row.raw, ours, theirs))

    def test_what_is_done_otherwise_is_so_on_purpose(self) -> None:
        for row in OTHERS:
            ours, theirs = self.pair.both(row.raw)
            statuses = [answer.status for answer in ours], [answer.status for answer in theirs]
            self.assertEqual(statuses, (row.ours, row.theirs), row.why)
            self.assertTrue(row.applies(row.raw))

    def test_everything_else_is_the_same(self) -> None:
        self.pair.draw(EXCHANGES)


if __name__ == "__main__":
    pair = Pair()
    try:
        pair.draw(int(sys.argv[1]), others=True)
        sys.stdout.write(f"{sys.argv[1]} exchanges, no difference that is not explained\n")
    finally:
        pair.close()
