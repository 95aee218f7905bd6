"""Events as they are sent, filters, and cursors: what comes back is what was given, or nothing."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from asynctask import sse
from asynctask.model import Deleted, Error, Progress, Status, Task
from asynctask.sse import Filter, Position, Progressed
from asynctask.stream import Events

TASK_ID = "task_1700000000000002k4qz7m0a9x3c8v5t"
OTHER_ID = "task_1700000000000012k4qz7m0a9x3c8v5w"
EPOCH = "0123456789ab"


def task(status: Status = Status.RUNNING, **given: Any) -> Task:
    return Task(TASK_ID, "a\nb", "simulate", status, 1, 0, 0, error=Error("E", "x\r\n\ny"), **given)


class FrameTests(SynchronousTestCase):
    """The bytes of an event, and what a client reads in them."""

    def test_a_change_is_the_task_as_in_lists(self) -> None:
        frame = sse.event(task(input="{}", result="1", history="[]"), "e.1.0")
        self.assertRegex(frame, rb'\Aevent: change\ndata: \{"task_id".*\}\nid: e\.1\.0\n\n\Z')
        (told,) = Events(None).feed(frame)
        self.assertEqual((told.type, told.id, told.data["name"]), ("change", "e.1.0", "a\nb"))
        self.assertEqual({"input", "result", "history"} & set(told.data), set())

    def test_whatever_is_in_it_it_is_one_line(self) -> None:
        self.assertEqual(sse.event(task(), "1").count(b"\n"), 4)
        self.assertNotIn(b"\r", sse.event(task(), "1"))

    def test_who_takes_it_for_latin_1_reads_every_text_in_it(self) -> None:
        for name in ("\x7f\x85 Åse", "a\u2028b", "\U0001f600é"):
            frame = sse.event(Task(TASK_ID, name, "simulate", Status.RUNNING, 1, 0, 0), "1")
            _, data, last, *_ = frame.decode("latin-1").splitlines()
            self.assertEqual((json.loads(data.removeprefix("data: "))["name"], last), (name, "id: 1"))

    def test_progress_has_no_id(self) -> None:
        self.assertEqual(
            sse.event(Progressed(TASK_ID, "simulate", 2, Progress(1, 3, "on")), "ignored"),
            b'event: progress\ndata: {"task_id":"%s","attempt":2,"progress":'
            b'{"step":1,"total":3,"message":"on"}}\n\n' % TASK_ID.encode(),
        )

    def test_a_task_that_is_gone_has_only_its_id(self) -> None:
        self.assertEqual(
            sse.event(Deleted(TASK_ID, "simulate"), "5"),
            b'event: deleted\ndata: {"task_id":"%s"}\nid: 5\n\n' % TASK_ID.encode(),
        )

    def test_a_reset_tells_where_one_is_now(self) -> None:
        self.assertEqual(sse.reset("e.9.0"), b"event: reset\ndata: {}\nid: e.9.0\n\n")

    def test_a_comment_is_no_event(self) -> None:
        events = Events(None)
        self.assertEqual(list(events.feed(sse.COMMENT * 3)), [])
        (told,) = events.feed(sse.reset("1"))
        self.assertEqual(told.type, "reset")


class FilterTests(SynchronousTestCase):
    """What passes."""

    def test_without_a_filter_everything_passes(self) -> None:
        for news in (task(), Deleted(TASK_ID, "x"), Progressed(TASK_ID, "x", 1, Progress(1, 2))):
            self.assertTrue(Filter().passes(news))

    def test_a_kind_filters_all_three(self) -> None:
        for news in (
            task(),
            Deleted(TASK_ID, "simulate"),
            Progressed(TASK_ID, "simulate", 1, Progress(1, 2)),
        ):
            self.assertTrue(Filter("simulate").passes(news))
            self.assertFalse(Filter("other").passes(news))

    def test_a_status_filters_changes(self) -> None:
        wanted = Filter(None, (Status.FAILED, Status.CANCELLED))
        passing = {status for status in Status if wanted.passes(task(status))}
        self.assertEqual(passing, {Status.FAILED, Status.CANCELLED})

    def test_progress_passes_where_running_does(self) -> None:
        progress = Progressed(TASK_ID, "simulate", 1, Progress(1, 2))
        self.assertTrue(Filter(None, (Status.FAILED, Status.RUNNING)).passes(progress))
        self.assertFalse(Filter(None, (Status.FAILED,)).passes(progress))

    def test_a_deletion_passes_whatever_the_status(self) -> None:
        deleted = Deleted(TASK_ID, "simulate")
        self.assertTrue(Filter(None, (Status.FAILED,)).passes(deleted))
        self.assertFalse(Filter("other", (Status.FAILED,)).passes(deleted))


class CursorTests(SynchronousTestCase):
    """Where to go on."""

    @given(st.integers(0, 10**18 - 1), st.integers(0, 10**9 - 1))
    def test_a_place_among_all_comes_back(self, seq: int, index: int) -> None:
        text = sse.position_id(EPOCH, Position(seq, index))
        self.assertRegex(text, r"\A[A-Za-z0-9._-]+\Z")
        self.assertEqual(sse.parse_position(text, EPOCH), Position(seq, index))

    @given(st.integers(0, 10**9 - 1))
    def test_a_count_of_one_task_s_changes_comes_back(self, told: int) -> None:
        text = sse.count_id(TASK_ID, told)
        self.assertRegex(text, r"\A[A-Za-z0-9._-]+\Z")
        self.assertEqual(sse.parse_count(text, TASK_ID), told)

    def test_of_another_database_or_task_it_is_nothing(self) -> None:
        self.assertIsNone(sse.parse_position(sse.position_id(EPOCH, Position(1)), "ba9876543210"))
        self.assertIsNone(sse.parse_count(sse.count_id(OTHER_ID, 1), TASK_ID))

    def test_one_kind_of_cursor_is_not_the_other(self) -> None:
        self.assertIsNone(sse.parse_position(sse.count_id(TASK_ID, 1), EPOCH))
        self.assertIsNone(sse.parse_count(sse.position_id(EPOCH, Position(1)), TASK_ID))

    def test_what_is_malformed_is_nothing(self) -> None:
        good = sse.position_id(EPOCH, Position(5, 1))
        for text in (
            "",
            "5",
            good + "\n",
            " " + good,
            good + ".1",
            f"{EPOCH}.5",
            f"{EPOCH}.-5.0",
            f"{EPOCH}.+5.0",
            f"{EPOCH}.5.٣",
            f"{EPOCH}.{'9' * 19}.0",
            f"{EPOCH}.5.{'9' * 10}",
            f"{EPOCH.upper()}.5.1",
        ):
            self.assertIsNone(sse.parse_position(text, EPOCH), text)
        for text in ("", "1", f"{TASK_ID}.1", sse.count_id(TASK_ID, 1) + "0" * 9, f"{TASK_ID[-16:]}.x"):
            self.assertIsNone(sse.parse_count(text, TASK_ID), text)

    @given(st.text())
    def test_any_text_is_a_cursor_or_nothing(self, text: str) -> None:
        self.assertIsNone(sse.parse_position(text, EPOCH))
        self.assertIsNone(sse.parse_count(text, TASK_ID))

    def test_the_data_is_json(self) -> None:
        (line,) = [one for one in sse.event(task(), "1").split(b"\n") if one.startswith(b"data: ")]
        self.assertEqual(json.loads(line.removeprefix(b"data: "))["error"]["message"], "x\r\n\ny")
