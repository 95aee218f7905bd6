"""A body on its way, of a known length or in chunks."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask.incoming import MAX_ASIDE, MAX_LINE, Chunks, Sized
from asynctask.problems import Invalid, TooLarge

LIMIT = 100


def read(*pieces: bytes) -> tuple[bytes, bytes | None]:
    """The body of what comes in pieces, and what comes after it."""
    chunks = Chunks(LIMIT, LIMIT)
    rest = None
    for piece in pieces:
        rest = chunks.feed(piece) if rest is None else rest + piece
    return bytes(chunks.body), rest


class OfKnownLength(SynchronousTestCase):
    """As many bytes as its head says."""

    @given(st.binary(max_size=20), st.integers(1, 20), st.integers(1, 20))
    def test_it_ends_after_so_many_bytes(self, raw: bytes, length: int, size: int) -> None:
        sized = Sized(length)
        rests = []
        for start in range(0, len(raw), size):
            rests.append(sized.feed(raw[start : start + size]))
            if rests[-1] is not None:
                break
        self.assertEqual(bytes(sized.body), raw[:length])
        self.assertEqual(sized.missing, max(0, length - len(raw)))
        self.assertTrue(all(rest is None for rest in rests[:-1]))
        if len(raw) < length:
            self.assertTrue(all(rest is None for rest in rests))
        else:
            self.assertTrue(raw[length:].startswith(rests[-1] or b""))
            self.assertIsNotNone(rests[-1])


class InChunks(SynchronousTestCase):
    """What is a body in chunks."""

    def test_the_body_is_what_is_in_the_chunks(self) -> None:
        self.assertEqual(read(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGET"), (b"abc0123456789", b"GET"))
        self.assertEqual(read(b"0\r\n\r\n"), (b"", b""))

    def test_extensions_and_trailers_are_passed_over(self) -> None:
        raw = b'3;a=b;c="d e"\r\nabc\r\n000 ;x\r\nX: y\r\nContent-Length: 9\r\n\r\n!'
        self.assertEqual(read(raw), (b"abc", b"!"))

    def test_it_is_not_whole_before_its_end(self) -> None:
        raw = b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"
        for size in range(len(raw)):
            self.assertIsNone(read(raw[:size])[1])

    def test_it_may_be_as_large_as_the_limit(self) -> None:
        body = b"x" * LIMIT
        self.assertEqual(read(b"%x\r\n%b\r\n0\r\n\r\n" % (LIMIT, body)), (body, b""))
        self.assertEqual(read(b"1\r\nx\r\n" * LIMIT + b"0\r\n\r\n"), (body, b""))

    def test_however_small_its_chunks_are_their_sizes_are_nothing_aside(self) -> None:
        chunks = Chunks(2 * MAX_ASIDE, 2 * MAX_ASIDE)
        self.assertEqual(chunks.feed(b"1\r\nx\r\n" * (2 * MAX_ASIDE) + b"0\r\n\r\n"), b"")
        self.assertEqual(len(chunks.body), 2 * MAX_ASIDE)

    @given(
        st.lists(st.binary(min_size=1, max_size=9), max_size=4),
        st.binary(max_size=5),
        st.lists(st.integers(0, 80), max_size=5),
    )
    def test_it_does_not_matter_how_it_is_cut(
        self, parts: list[bytes], after: bytes, cuts: list[int]
    ) -> None:
        raw = (
            b"".join(b"%x;e\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX: y\r\n\r\n" + after
        )
        edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
        pieces = [raw[a:b] for a, b in pairwise(edges)]
        self.assertEqual(read(*pieces), (b"".join(parts), after))
        self.assertEqual(read(*(bytes([byte]) for byte in raw)), (b"".join(parts), after))


class Refusing(SynchronousTestCase):
    """What is none."""

    def test_what_is_malformed(self) -> None:
        for raw in (
            *(
                b"g\r\n",
                b"\r\n",
                b"-1\r\n",
                b"+1\r\n",
                b"0x3\r\n",
                b" 3\r\n",
                b"3 \r\n",
                b"3\n",
                b"1_0\r\n",
            ),
            *(b"11111111111111111\r\n", b"3\r\nabcd\r\n", b"3\r\nabc\n0", b"3\r\nab\r\n", b"3\r\nabc0\r\n"),
            *(
                b"3;a\nb\r\n",
                b"3;\x00\r\n",
                b"0\r\nX\r\n\r\n",
                b"0\r\n X: y\r\n\r\n",
                b"0\r\nX : y\r\n\r\n",
            ),
            *(b"0\r\nX: y\n\r\n", b"0\n\n", b"0\r\n\n", b"0\r\r\n"),
        ):
            for pieces in ([raw], [bytes([byte]) for byte in raw]):
                with self.assertRaises(Invalid, msg=raw):
                    read(*pieces)

    def test_what_is_too_large_is_refused_before_it_comes(self) -> None:
        for raw in (b"65\r\n", b"ffffffffffffffff\r\n", b"32\r\n" + b"x" * 50 + b"\r\n33\r\n"):
            with self.assertRaises(TooLarge):
                read(raw)

    def test_what_is_aside_has_a_limit_too(self) -> None:
        longest = b"3;" + b"a" * (MAX_LINE - 2) + b"\r\n"
        read(longest)
        read(*(bytes([byte]) for byte in longest))
        for raw in (b"3;" + b"a" * MAX_LINE, b"3;" + b"a" * MAX_LINE + b"\r\n"):
            with self.assertRaises(Invalid):
                read(raw)
        with self.assertRaises(Invalid):
            read(b"0\r\n" + (b"X: " + b"y" * 97 + b"\r\n") * (MAX_ASIDE // 80))
        with self.assertRaises(Invalid):
            read(b"0\r\n" + b"X:\r\n" * (MAX_ASIDE // 2 + 1))
