"""What goes over the wire: ids, answers."""

import json
import os
from datetime import datetime
from itertools import pairwise
from time import tzset
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask import wire
from asynctask.model import Error, Progress, Status, Task
from asynctask.problems import FieldError, Invalid, OutcomeUnknown, Problem
from tests.json_bodies import LATEST, MOMENT, SHOWN_MOMENT, TASK_ID, encodable, values


def live_in(zone: str | None) -> None:
    """Have the process in another time zone, or in the machine's."""
    os.environ.pop("TZ", None)
    if zone is not None:
        os.environ["TZ"] = zone
    tzset()


class Ids(SynchronousTestCase):
    """Task ids."""

    def test_an_id_has_its_second_a_count_and_chance(self) -> None:
        ids = wire.Ids()
        self.assertEqual(ids.next(1_738_880_000.9, bytes(16)), "task_1738880000" + "0000" + "0" * 16)
        self.assertEqual(ids.next(1_738_880_000.9, b"\xff" * 16), "task_1738880000" + "0001" + "z" * 16)

    def test_the_count_begins_anew_with_each_second(self) -> None:
        ids = wire.Ids()
        seconds = [ids.next(now, bytes(16))[5:19] for now in (7.0, 7.999, 8.0, 8.1)]
        self.assertEqual(seconds, ["00000000070000", "00000000070001", "00000000080000", "00000000080001"])

    def test_an_id_of_the_contract_is_an_id(self) -> None:
        self.assertTrue(wire.TASK_ID.fullmatch(TASK_ID))

    def test_what_is_no_id_is_told_from_one(self) -> None:
        for text in (TASK_ID[:-1], TASK_ID + "0", TASK_ID.upper(), TASK_ID + "\n", TASK_ID[:-1] + "u", ""):
            self.assertFalse(wire.TASK_ID.fullmatch(text))

    def test_a_full_count_takes_the_next_second(self) -> None:
        ids = wire.Ids()
        ids.next(7, bytes(16))
        ids._count = wire.Ids.PER_SECOND - 1
        heads = [ids.next(now, bytes(16))[5:19] for now in (7.1, 7.2, 7.3, 8.5, 9)]
        self.assertEqual(
            heads,
            ["0000000007zzzz", "00000000080000", "00000000080001", "00000000080002", "00000000090000"],
        )

    def test_they_go_on_after_those_of_an_earlier_process(self) -> None:
        for count in ("0000", "0zzz", "z0a9", "zzzz"):
            ids = wire.Ids()
            newest = f"task_1738880000{count}{'z' * 16}"
            ids.go_on(newest, 1_738_870_000)
            made = [ids.next(now, bytes(16)) for now in (1_738_870_000, 1_738_870_001, 1_738_880_002)]
            self.assertEqual([newest, *made], sorted([newest, *made]))
            self.assertEqual(made[2][5:19], "17388800020000")

    def test_a_clock_that_was_far_ahead_once_is_forgotten(self) -> None:
        ids = wire.Ids()
        ids.go_on("task_1738880000" + "0" * 20, 1_738_880_000 - 1.1 * wire.Ids.AHEAD)
        self.assertEqual(ids.next(1_738_780_000, bytes(16))[5:19], "17387800000000")

    @given(
        st.integers(0, 9_999_000_000),
        st.lists(
            st.tuples(st.floats(-100, 100) | st.just(0.0), st.binary(min_size=16, max_size=16)),
            min_size=2,
            max_size=50,
        ),
    )
    def test_ids_sort_and_never_repeat_whatever_the_clock_does(
        self, start: int, steps: list[tuple[float, bytes]]
    ) -> None:
        ids = wire.Ids()
        now = latest = start + 100.0
        made: list[str] = []
        for step, chance in steps:
            now = max(0.0, now + step)
            latest = max(latest if made else now, now)
            made.append(ids.next(now, chance))
            self.assertTrue(wire.TASK_ID.fullmatch(made[-1]))
            self.assertEqual(int(made[-1][5:15]), int(latest))
        for before, after in pairwise(made):
            self.assertLess(before, after)

    @given(st.binary(min_size=16, max_size=16))
    def test_each_byte_of_chance_gives_five_bits(self, chance: bytes) -> None:
        drawn = wire.Ids().next(7, chance)[-16:]
        self.assertEqual([wire.ALPHABET.index(letter) for letter in drawn], [byte % 32 for byte in chance])


class Timestamps(SynchronousTestCase):
    """RFC 3339, in UTC."""

    def test_a_moment_is_told_to_the_millisecond(self) -> None:
        self.assertEqual(wire.timestamp(MOMENT), SHOWN_MOMENT)

    def test_a_whole_second_has_its_milliseconds_too(self) -> None:
        self.assertEqual(wire.timestamp(0), "1970-01-01T00:00:00.000Z")

    @given(st.integers(0, LATEST))
    def test_a_timestamp_leads_back_to_its_millisecond(self, milliseconds: int) -> None:
        text = wire.timestamp(milliseconds / 1000)
        self.assertRegex(text, r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")
        self.assertEqual(round(datetime.fromisoformat(text).timestamp() * 1000), milliseconds)

    @given(st.floats(0, LATEST / 1000), st.floats(0, LATEST / 1000))
    def test_timestamps_sort_as_their_moments(self, one: float, other: float) -> None:
        early, late = sorted([one, other])
        self.assertLessEqual(wire.timestamp(early), wire.timestamp(late))


class RetryAfter(SynchronousTestCase):
    """When it is worth asking again."""

    @given(st.text())
    def test_any_text_is_a_moment_or_nothing(self, text: str) -> None:
        found = wire.retry_at(text, 0)
        self.assertTrue(found is None or isinstance(found, float | int))

    def test_a_date_without_a_zone_is_in_utc(self) -> None:
        self.assertEqual(wire.retry_at("Tue, 14 Nov 2023 22:13:20 -0000", 0), 1_700_000_000)

    def test_so_it_is_wherever_it_runs(self) -> None:
        self.addCleanup(live_in, os.environ.get("TZ"))
        live_in("UTC-9")
        self.assertEqual(wire.retry_at("Tue, 14 Nov 2023 22:13:20 -0000", 0), 1_700_000_000)

    def test_a_zone_that_no_clock_can_hold_is_none(self) -> None:
        self.assertIsNone(wire.retry_at("Tue, 14 Nov 2023 22:13:20 +9999999999999", 0))


KEYS = [
    *("task_id", "name", "kind", "input", "status", "progress", "attempt", "retries", "timeout"),
    *("cancel_requested", "accepted_at", "run_at", "started_at", "finished_at", "result", "error"),
    *("longest_step", "traceparent", "callback", "history"),
]
"""All the keys of a task, as the contract lists them."""


def a_task(**different: Any) -> Task:
    usual: dict[str, Any] = {
        "task_id": TASK_ID,
        "name": "generate-report",
        "kind": "simulate",
        "status": Status.ACCEPTED,
        "attempt": 0,
        "accepted_at": MOMENT,
        "run_at": MOMENT,
        "input": '{"duration":5}',
    }
    return Task(**(usual | different))


def shape(task: Task, *, whole: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(wire.task_json(task, whole=whole)))
    return found


class Answers(SynchronousTestCase):
    """What clients are told of tasks."""

    def test_the_202_has_these_four_keys_in_this_order(self) -> None:
        body = wire.accepted_json(a_task(), "Task will run for 5 seconds in background")
        self.assertEqual(
            body.decode(),
            f'{{"task_id":"{TASK_ID}","name":"generate-report","status":"accepted",'
            '"message":"Task will run for 5 seconds in background"}',
        )

    def test_the_202_says_accepted_of_a_task_that_starts_at_once(self) -> None:
        body = json.loads(wire.accepted_json(a_task(status=Status.RUNNING, attempt=1), "…"))
        self.assertEqual(body["status"], "accepted")

    def test_a_task_has_all_its_keys_from_the_first_day_on(self) -> None:
        self.assertEqual(list(shape(a_task())), KEYS)

    def test_a_list_has_neither_input_nor_result_nor_history(self) -> None:
        listed = list(shape(a_task(), whole=False))
        self.assertEqual(listed, [key for key in KEYS if key not in ("input", "result", "history")])

    def test_a_new_task_has_nothing_to_tell_yet(self) -> None:
        told = shape(a_task())
        for key in (
            *("progress", "started_at", "finished_at", "result", "error", "longest_step"),
            *("timeout", "traceparent", "callback"),
        ):
            self.assertIsNone(told[key])
        self.assertEqual(told["status"], "accepted")
        self.assertEqual((told["attempt"], told["retries"]), (0, 0))
        self.assertIs(told["cancel_requested"], False)

    def test_an_ended_task_tells_it_all(self) -> None:
        told = shape(
            a_task(
                status=Status.FAILED,
                attempt=2,
                started_at=MOMENT + 1,
                finished_at=MOMENT + 2,
                progress=Progress(1, 5, "half way"),
                error=Error("ValueError", "no such file"),
                result='{"a":[1]}',
                history='[{"at":"…"}]',
            )
        )
        self.assertEqual(told["progress"], {"step": 1, "total": 5, "message": "half way"})
        self.assertEqual(told["error"], {"type": "ValueError", "message": "no such file"})
        self.assertEqual(told["result"], {"a": [1]})
        self.assertEqual(told["history"], [{"at": "…"}])
        self.assertEqual(told["input"], {"duration": 5})
        self.assertEqual(told["started_at"], "2026-11-24T18:00:01.123Z")
        self.assertEqual(told["finished_at"], "2026-11-24T18:00:02.123Z")
        self.assertEqual(told["accepted_at"], SHOWN_MOMENT)
        self.assertEqual(told["run_at"], SHOWN_MOMENT)

    def test_a_result_of_null_is_a_result(self) -> None:
        self.assertIsNone(shape(a_task(result="null"))["result"])

    def test_a_page_tells_where_the_next_one_begins(self) -> None:
        page = json.loads(wire.list_json([a_task(), a_task(name="b")], TASK_ID))
        self.assertEqual(list(page), ["tasks", "next"])
        self.assertEqual([task["name"] for task in page["tasks"]], ["generate-report", "b"])
        self.assertEqual(page["next"], TASK_ID)

    def test_the_last_page_has_no_next(self) -> None:
        self.assertEqual(wire.list_json([], None), b'{"tasks":[],"next":null}')

    def test_a_change_tells_when_what_and_why(self) -> None:
        failed = a_task(status=Status.FAILED, attempt=2, error=Error("ValueError", "no"))
        self.assertEqual(
            json.loads(wire.change_json(failed, MOMENT)),
            {
                "at": SHOWN_MOMENT,
                "status": "failed",
                "attempt": 2,
                "error": {"type": "ValueError", "message": "no"},
            },
        )

    def test_a_change_without_an_error_says_so(self) -> None:
        self.assertEqual(
            wire.change_json(a_task(), MOMENT),
            f'{{"at":"{SHOWN_MOMENT}","status":"accepted","attempt":0,"error":null}}',
        )

    @given(st.text(encodable, max_size=50))
    def test_any_name_is_told_as_it_was_given(self, name: str) -> None:
        self.assertEqual(shape(a_task(name=name))["name"], name)


class Problems(SynchronousTestCase):
    """What clients are told of errors."""

    def test_a_problem_says_what_rfc_9457_asks_for_and_the_older_error(self) -> None:
        self.assertEqual(
            json.loads(wire.problem_json(Invalid("The query must be UTF-8"))),
            {
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "detail": "The query must be UTF-8",
                "error": "The query must be UTF-8",
            },
        )

    def test_a_bad_body_has_every_bad_field(self) -> None:
        errors = (FieldError("No", "/name"), FieldError("Never", "/a~1b"))
        self.assertEqual(
            json.loads(wire.problem_json(Invalid("No", errors)))["errors"],
            [{"detail": "No", "pointer": "/name"}, {"detail": "Never", "pointer": "/a~1b"}],
        )

    def test_an_unknown_outcome_has_a_type_of_its_own(self) -> None:
        told = json.loads(wire.problem_json(OutcomeUnknown("Perhaps")))
        self.assertEqual(told["status"], 503)
        self.assertTrue(told["type"].endswith("/outcome-unknown"))

    def test_a_bug_is_a_500(self) -> None:
        told = json.loads(wire.problem_json(Problem("Something went wrong here")))
        self.assertEqual((told["status"], told["title"]), (500, "Internal Server Error"))


class Stored(SynchronousTestCase):
    """What is stored of a task, and read again."""

    def test_progress_is_read_as_it_was_stored(self) -> None:
        for progress in (Progress(1, 5), Progress(0, 0, "ü\n")):
            text = wire.progress_text(progress)
            assert text is not None
            self.assertEqual(wire.read_progress(text), progress)

    def test_an_error_is_read_as_it_was_stored(self) -> None:
        error = Error("ValueError", 'no "such" file\n')
        text = wire.error_text(error)
        assert text is not None
        self.assertEqual(wire.read_error(text), error)

    def test_nothing_is_stored_as_nothing(self) -> None:
        self.assertIsNone(wire.progress_text(None))
        self.assertIsNone(wire.error_text(None))

    def test_the_input_goes_to_the_handler(self) -> None:
        self.assertEqual(wire.read_input(a_task()), {"duration": 5})
        self.assertEqual(wire.read_input(a_task(input=None)), {})

    def test_what_is_dumped_is_short(self) -> None:
        self.assertEqual(wire.dump({"a": [1, "ü", None]}), '{"a":[1,"ü",null]}')

    def test_what_is_no_json_cannot_be_dumped(self) -> None:
        for value in (float("nan"), float("inf")):
            self.assertRaises(ValueError, wire.dump, value)
        self.assertRaises(TypeError, wire.dump, {"a": object()})

    @given(values)
    def test_a_result_is_kept_as_json_or_said_to_be_none(self, result: Any) -> None:
        try:
            text = wire.dump_result(result)
        except wire.NotSerializable:
            with self.assertRaises((ValueError, Invalid)):
                wire.parse_json(json.dumps(result, ensure_ascii=False, allow_nan=False).encode())
        else:
            self.assertEqual(json.loads(text.encode("utf-8")), result)

    def test_a_result_that_is_no_json_says_so(self) -> None:
        endless: list[object] = []
        endless.append(endless)
        for result in (float("nan"), "\ud800", {1, 2}, b"a", object(), {(1, 2): 3}, endless):
            with self.assertRaises(wire.NotSerializable) as caught:
                wire.dump_result(result)
            self.assertIn("The result is no JSON", str(caught.exception))
            self.assertEqual("to_builtins" in str(caught.exception), type(result) not in (float, str, list))

    def test_a_result_that_nobody_has_waited_for_says_so(self) -> None:
        async def handler() -> None: ...

        never = handler()
        self.addCleanup(never.close)
        with self.assertRaisesRegex(wire.NotSerializable, "let the handler be an async def that awaits it"):
            wire.dump_result(never)
