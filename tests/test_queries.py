"""The query strings of the list."""

from hypothesis import given
from hypothesis import strategies as st

from asynctask import queries, wire
from asynctask.model import Query, Status
from asynctask.problems import Invalid
from tests.json_bodies import TASK_ID, WireTestCase

PIECES = (
    *(b"status=", b"name=", b"limit=", b"cursor=", b"page=", b"&", b"=", b";", b"#", b"?", b",", b"+"),
    *(b"%", b"%0", b"%00", b"%ff", b"%C3%BC", b"\xc3\xbc", b"failed", b"7", TASK_ID.encode()),
)
anything = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join)


class Queries(WireTestCase):
    """What the list may be asked."""

    def test_nothing_asks_for_the_newest_fifty(self) -> None:
        self.assertEqual(queries.parse_query(b""), Query((), None, None, 50, None))

    def test_every_parameter_is_read(self) -> None:
        query = f"status=running,failed&kind=simulate&name=a+b&limit=7&cursor={TASK_ID}"
        self.assertEqual(
            queries.parse_query(query.encode()),
            Query((Status.RUNNING, Status.FAILED), "simulate", "a b", 7, TASK_ID),
        )

    def test_each_status_can_be_asked_for(self) -> None:
        for status in Status:
            self.assertEqual(queries.parse_query(f"status={status}".encode()).statuses, (status,))

    def test_a_status_given_twice_counts_once(self) -> None:
        self.assertEqual(
            queries.parse_query(b"status=failed,running,failed").statuses, (Status.FAILED, Status.RUNNING)
        )

    def test_commas_may_be_escaped(self) -> None:
        self.assertEqual(len(queries.parse_query(b"status=failed%2crunning").statuses), 2)

    def test_an_unknown_status_is_told_which_there_are(self) -> None:
        for query in (b"status=done", b"status=", b"status=failed,", b"status=Failed"):
            refusal = self.refusal(queries.parse_query, query)
            for status in Status:
                self.assertIn(status.value, refusal.detail)

    def test_a_name_may_hold_any_characters(self) -> None:
        for query, name in (
            (b"name=caf%C3%A9", "café"),
            (b"name=%F0%9F%98%80", "\N{GRINNING FACE}"),
            (b"name=a%26b%3Dc%2Bd", "a&b=c+d"),
            (b"name=a;b", "a;b"),
        ):
            self.assertEqual(queries.parse_query(query).name, name)

    def test_a_name_has_1_to_255_characters(self) -> None:
        self.assertEqual(queries.parse_query(b"name=" + b"a" * 255).name, "a" * 255)
        for query in (b"name=", b"name", b"name=%00", b"name=" + b"a" * 256, b"kind="):
            self.assertIn("1 to 255", self.refusal(queries.parse_query, query).detail)

    def test_a_limit_is_from_1_to_1000(self) -> None:
        self.assertEqual(queries.parse_query(b"limit=1").limit, 1)
        self.assertEqual(queries.parse_query(b"limit=1000").limit, 1000)
        for query in (b"0", b"1001", b"-1", b"5.0", b"", b"+5", b"1_0", b"5%0a", b"9" * 5000, b"x"):
            self.assertIn("from 1 to 1000", self.refusal(queries.parse_query, b"limit=" + query).detail)

    def test_a_cursor_is_one_that_was_given(self) -> None:
        for query in (b"cursor=", b"cursor=1", f"cursor={TASK_ID}0".encode(), b"cursor=task_"):
            self.assertIn("'next'", self.refusal(queries.parse_query, query).detail)

    def test_an_unknown_parameter_is_named(self) -> None:
        self.assertEqual(self.refusal(queries.parse_query, b"page=2").detail, "Unknown parameter 'page'")

    def test_an_unknown_parameter_is_told_which_one_it_resembles(self) -> None:
        self.assertEqual(
            self.refusal(queries.parse_query, b"statuses=failed").detail,
            "Unknown parameter 'statuses'; did you mean 'status'?",
        )

    def test_an_unknown_parameter_beyond_ascii_is_named(self) -> None:
        self.assertIn("'größe'", self.refusal(queries.parse_query, b"gr%C3%B6%C3%9Fe=2").detail)

    def test_a_parameter_cannot_be_given_twice(self) -> None:
        self.assertIn("twice", self.refusal(queries.parse_query, b"limit=5&limit=5").detail)

    def test_what_is_not_utf_8_is_told_so(self) -> None:
        for query in (b"name=%ff", b"%ff=1", b"name=\xff", b"name=%ED%A0%80"):
            self.assertEqual(self.refusal(queries.parse_query, query).detail, "The query must be UTF-8")

    def test_many_parameters_are_refused(self) -> None:
        refusal = self.refusal(queries.parse_query, b"&".join([b"name=a"] * 101))
        self.assertIn("at most 100", refusal.detail)

    @given(anything)
    def test_any_query_is_a_query_or_invalid(self, query: bytes) -> None:
        try:
            found = queries.parse_query(query)
        except Invalid as refusal:
            told = wire.parse_json(wire.problem_json(refusal))
            self.assertEqual(told["error"], refusal.detail)
        else:
            self.assertTrue(1 <= found.limit <= 1000)

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30))
    def test_any_name_can_be_looked_for(self, name: str) -> None:
        escaped = "".join(f"%{byte:02x}" for byte in name.encode())
        self.assertEqual(queries.parse_query(f"name={escaped}".encode()).name, name)
