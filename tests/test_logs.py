"""A line an event."""

import contextlib
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, LogLevel
from twisted.logger import LogPublisher as Publisher
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher as LegacyPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask.command import log_of
from asynctask.logqueue import Line, LogQueue
from asynctask.logs import (
    FILES_KEPT,
    LONGEST_KNOWN,
    RENDERERS,
    ROTATE_AT,
    Rotating,
    Value,
    _remembered,
    destination,
    json_line,
    text_line,
    told,
    with_field,
)
from asynctask.tracebacks import MAX_TRACEBACK
from tests.test_sqlitefile import NOBODY, make_null, nobody

HEAD = "2026-11-24T18:00:00.123Z info "


def event(message: str, **fields: Any) -> LogEvent:
    return {
        "log_time": 1_795_543_200.123,
        "log_level": LogLevel.info,
        "log_format": message,
        "log_namespace": "asynctask.task",
        "log_source": None,
        **fields,
    }


def failure_of(call: Callable[[], object]) -> Failure:
    try:
        call()
    except Exception:
        return Failure()
    raise AssertionError


def failure(message: str = "no such file") -> Failure:
    def fail() -> None:
        raise ValueError(message)

    return failure_of(fail)


characters = st.characters(codec="utf-8") | st.sampled_from("\n\r\"\\ =\t\x1b\x00\x7f\x85\u2028'{}")
names = st.text(characters, max_size=30)
"""Names of tasks, as their clients choose them."""
some_names = st.sampled_from(("task_1", "", "7", "a b"))
values = st.none() | st.booleans() | st.integers() | st.floats() | names


class TextLines(SynchronousTestCase):
    """What a person reads."""

    def test_a_line_has_time_level_message_and_fields(self) -> None:
        self.assertEqual(
            text_line(event("Task progress", task_id="task_1", step=1, total=5)),
            HEAD + "Task progress task_id=task_1 step=1 total=5",
        )

    def test_each_level_has_its_name(self) -> None:
        for level in LogLevel.iterconstants():
            line = text_line(event("Task progress") | {"log_level": level})
            self.assertEqual(line.split(" ")[1], level.name)

    def test_a_plain_string_stands_as_it_is(self) -> None:
        for plain in ("generate-report", "Größe", "a=b", "it's", "{name}", "\N{GRINNING FACE}"):
            self.assertEqual(text_line(event("M", name=plain)), f"{HEAD}M name={plain}")

    def test_a_string_with_a_space_or_a_quote_is_json_quoted(self) -> None:
        for name, quoted in (
            ("a b", '"a b"'),
            ('a"b', r'"a\"b"'),
            ('"', r'"\""'),
            ("a\\b", r'"a\\b"'),
            ("", '""'),
        ):
            self.assertEqual(text_line(event("M", name=name)), f"{HEAD}M name={quoted}")

    def test_a_string_with_a_control_character_is_json_quoted(self) -> None:
        for control in ("\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029"):
            line = text_line(event("M", name=f"a{control}b"))
            self.assertTrue(line.startswith(f'{HEAD}M name="a\\'), line)
            self.assertEqual(json.loads(line.partition("name=")[2]), f"a{control}b")

    def test_a_name_forges_no_line(self) -> None:
        name = f"a\n{HEAD}Task completed task_id=task_2"
        line = text_line(event("Task started", task_id="task_1", name=name, kind="simulate"))
        self.assertEqual(line.splitlines(), [line])
        self.assertTrue(line.endswith(" kind=simulate"))

    @given(names)
    def test_any_name_can_be_read_back_and_forges_nothing(self, name: str) -> None:
        line = text_line(event("M", task_id="task_1", name=name, step=1))
        start, end = f"{HEAD}M task_id=task_1 name=", " step=1"
        self.assertTrue(line.startswith(start) and line.endswith(end), line)
        told = line[len(start) : -len(end)]
        quoted = told.startswith('"')
        self.assertEqual(json.loads(told) if quoted else told, name)
        unfit = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]" if quoted else r"[\s\x00-\x1f\x7f-\x9f]"
        self.assertNotRegex(told, unfit)

    def test_other_values_are_told_as_json_tells_them(self) -> None:
        self.assertEqual(text_line(event("M", a=None, b=True, c=1.5)), HEAD + "M a=null b=true c=1.5")

    def test_what_json_cannot_tell_is_told_all_the_same(self) -> None:
        line = text_line(event("M", a=b"x y", b=object, c=[1, "d e"]))
        self.assertEqual(line.splitlines(), [line])
        self.assertIn("x y", line)

    def test_of_long_messages_none_is_remembered(self) -> None:
        kept: list[str] = []
        remembering = _remembered(kept.append)
        for message in ("short", "long" * LONGEST_KNOWN):
            for _ in range(2):
                remembering(message)
        self.assertEqual([len(message) for message in kept], [5, *[4 * LONGEST_KNOWN] * 2])

    def test_what_the_message_says_is_not_said_twice(self) -> None:
        self.assertEqual(
            text_line(event("Stopping; running tasks have {grace} seconds", grace=10)),
            HEAD + "Stopping; running tasks have 10 seconds",
        )

    def test_what_the_message_does_not_say_follows_it(self) -> None:
        for template in ("Looking for {path}", "Looking for {path!r:>3}", "{path.name} {path[0]}"):
            line = text_line(event(template, path="a.txt", task_id="task_1", size=None))
            self.assertTrue(line.endswith(" task_id=task_1 size=null"), line)
            self.assertNotIn("path=", line)
        self.assertEqual(text_line(event("{{}}", a=1)), HEAD + "{} a=1")
        self.assertTrue(text_line(event("Wrong {", a=1)).endswith(" a=1"))

    def test_objects_that_a_library_logs_for_its_message_are_not_told(self) -> None:
        line = text_line(event("{factory} starting", factory="F", service=object()))
        self.assertEqual(line, HEAD + "F starting")

    def test_a_traceback_obeys_nobody(self) -> None:
        try:
            raise ValueError("a\x1b[31m\0\r\u2028b\tc")
        except ValueError:
            line = text_line(event("M", log_failure=Failure()))
        self.assertIn("a\\x1b[31m\\x00\\r\\u2028b\tc", line)
        self.assertNotRegex(line, r"[\x00-\x08\x0b-\x1f\u2028]")

    def test_a_message_of_several_lines_is_one_line(self) -> None:
        self.assertEqual(text_line(event("One\ntwo {what}", what="a\r\nb")), HEAD + "One two a b")

    def test_a_message_obeys_nobody(self) -> None:
        line = text_line(event("Hello {name}\x07", name="a\x1b]0;pwned\x07"))
        self.assertEqual(line, HEAD + "Hello a\\x1b]0;pwned\\x07\\x07")
        self.assertEqual(text_line(event("Hello\x1b")), HEAD + "Hello\\x1b")

    def test_no_text_turns_the_direction_of_a_line(self) -> None:
        for turn in "\u061c\u200e\u200f\u202a\u202e\u2066\u2069":
            line = text_line(event("Hello {name}", name=f"a{turn}b", other=f"a{turn}b"))
            self.assertTrue(line.isascii(), line)
            self.assertNotIn(turn, text_line(event("M", log_failure=failure(f"a{turn}b"))))

    def test_a_field_s_name_forges_no_line(self) -> None:
        forged = {"a\n2026-11-24T18:00:00.123Z info Task completed": 1, "a b": 2}
        quoted = '"a\\n2026-11-24T18:00:00.123Z info Task completed"=1 "a b"=2'
        self.assertEqual(text_line(event("M", **forged)), f"{HEAD}M {quoted}")
        self.assertEqual(text_line(event("M {x}", x=0, **forged)), f"{HEAD}M 0 {quoted}")

    def test_a_failure_prints_its_traceback(self) -> None:
        first, *rest = text_line(event("Task failed", task_id="task_1", log_failure=failure())).splitlines()
        self.assertEqual(first, HEAD + "Task failed task_id=task_1")
        self.assertEqual(rest[0], "  Traceback (most recent call last):")
        self.assertIn("no such file", rest[-1])

    def test_a_failure_prints_what_it_came_from_its_notes_and_all_of_a_group(self) -> None:
        def fail() -> None:
            try:
                raise KeyError("the cause")
            except KeyError as error:
                others = ExceptionGroup("both", [OSError("one of them"), OSError("the other one")])
                others.add_note("a note")
                raise others from error

        told = text_line(event("Task failed", log_failure=failure_of(fail)))
        for said in ("KeyError: 'the cause'", "one of them", "the other one", "a note", "test_logs.py"):
            self.assertIn(said, told)

        def fail_later() -> None:
            try:
                fail()
            finally:
                raise ValueError("the last")

        self.assertIn("one of them", text_line(event("Task failed", log_failure=failure_of(fail_later))))

    def test_an_exception_with_code_of_its_own_keeps_no_line_from_the_log(self) -> None:
        class Strange(Exception):
            @property
            def __notes__(self) -> list[str]:  # type: ignore[override]
                raise ZeroDivisionError

        def fail() -> None:
            raise Strange("all the same")

        self.assertIn("all the same", text_line(event("Task failed", log_failure=failure_of(fail))))

    def test_of_a_long_traceback_the_beginning_and_the_end_are_told(self) -> None:
        told = text_line(event("M", log_failure=failure("so long " * MAX_TRACEBACK)))
        self.assertLess(len(told), MAX_TRACEBACK + 100)
        self.assertIn("raise ValueError(message)", told)
        self.assertTrue(told.rstrip().endswith("so long"))

    def test_a_failure_without_a_message_says_so(self) -> None:
        first = text_line(event("", log_failure=failure())).splitlines()[0]
        self.assertEqual(first, HEAD + "Unhandled error")

    def test_no_failure_has_no_traceback(self) -> None:
        self.assertEqual(text_line(event("Task failed", log_failure=None)), HEAD + "Task failed")


class Together(SynchronousTestCase):
    """The log of many processes."""

    def test_each_line_says_whose_it_is(self) -> None:
        told = event("Task progress", step=1)
        self.assertEqual(
            [with_field(RENDERERS[name], "process", 2).render(told) for name in ("text", "json")],
            [
                HEAD + "Task progress step=1 process=2",
                '{"time": "2026-11-24T18:00:00.123Z", "level": "info", "message": "Task progress", '
                '"step": 1, "process": 2}',
            ],
        )
        self.assertNotIn("process", told)

    def test_so_does_a_line_that_is_made_of_values(self) -> None:
        message = Line(Logger("asynctask"), "Task progress", "step")
        tell = with_field(RENDERERS["text"], "process", 2).tell
        assert tell is not None
        first, second = tell(message, (0.0, 1.0), ((1,), (2,)))
        self.assertTrue(first.endswith("Z info Task progress step=1 process=2"))
        self.assertTrue(second.endswith("Z info Task progress step=2 process=2"))


class ManyLines(SynchronousTestCase):
    """Lines that are made of values, many at a time."""

    def setUp(self) -> None:
        self.log = Logger("asynctask")

    @given(st.lists(st.tuples(names | some_names, values | st.integers()), min_size=1))
    def test_each_is_as_if_it_were_alone(self, rows: list[tuple[str, Value]]) -> None:
        at = [number / 1_000 for number in range(len(rows))]
        events = [
            event("Task progress", log_time=moment, name=name, value=value)
            for moment, (name, value) in zip(at, rows, strict=True)
        ]
        message = Line(self.log, "Task progress", "name", "value")
        self.assertEqual(told(message, at, rows), list(map(text_line, events)))

    def test_one_may_have_no_fields(self) -> None:
        lines = told(Line(self.log, "100 %"), (0.0, 0.0), ((), ()))
        self.assertEqual([line.partition(" ")[2] for line in lines], ["info 100 %"] * 2)

    def test_none_has_more_or_less_than_its_fields(self) -> None:
        message = Line(self.log, "Task progress", "step")
        for rows in (((1,), (1, 2)), ((1, 2), (1, 2)), ((), ())):
            self.assertRaises((TypeError, ValueError), told, message, (0.0, 0.0), rows)


class JsonLines(SynchronousTestCase):
    """What a program reads."""

    def test_a_line_has_time_level_message_and_fields(self) -> None:
        self.assertEqual(
            json_line(event("Task progress", task_id="task_1", step=1, total=5)),
            '{"time": "2026-11-24T18:00:00.123Z", "level": "info", "message": "Task progress", '
            '"task_id": "task_1", "step": 1, "total": 5}',
        )

    @given(names)
    def test_any_name_can_be_read_back_and_forges_nothing(self, name: str) -> None:
        line = json_line(event("Task started", name=name))
        self.assertNotRegex(line, r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
        self.assertEqual(json.loads(line)["name"], name)

    def test_a_field_that_the_message_says_is_a_field_too(self) -> None:
        told = json.loads(json_line(event("Tasks have {grace} seconds", grace=10)))
        self.assertEqual(told["message"], "Tasks have 10 seconds")
        self.assertEqual(told["grace"], 10)

    def test_what_json_cannot_tell_is_told_all_the_same(self) -> None:
        self.assertIn("x y", json.loads(json_line(event("M", a=b"x y")))["a"])

    def test_numbers_that_json_has_not_are_words(self) -> None:
        line = json_line(event("Epoch done", loss=float("nan"), all=[1.5, float("-inf")], of={"a": 1e999}))
        told = json.loads(line, parse_constant=self.fail)
        self.assertEqual((told["loss"], told["all"], told["of"]), ("nan", [1.5, "-inf"], {"a": "inf"}))

    def test_a_failure_has_its_traceback_in_the_same_line(self) -> None:
        line = json_line(event("Task failed", log_failure=failure("line\nbreak")))
        self.assertEqual(line.splitlines(), [line])
        told = json.loads(line)
        self.assertEqual(told["message"], "Task failed")
        self.assertTrue(told["traceback"].startswith("Traceback"))
        self.assertIn("line\nbreak", told["traceback"])

    def test_no_failure_has_no_traceback(self) -> None:
        self.assertNotIn("traceback", json.loads(json_line(event("M"))))


class Events(SynchronousTestCase):
    """Events as Twisted makes them."""

    def setUp(self) -> None:
        self.lines: list[bytes] = []
        self.observer = LogQueue(self.lines.append, text_line)
        self.log = Logger("asynctask", observer=self.observer)

    def tail(self) -> str:
        """The one line without its time."""
        [line] = self.lines
        time, _, rest = line.decode().partition(" ")
        self.assertTrue(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time), time)
        return rest

    def test_a_logger_makes_a_line_of_an_event(self) -> None:
        self.log.warn("Task blocked the reactor", task_id="task_1", ms=250)
        self.assertEqual(self.tail(), "warn Task blocked the reactor task_id=task_1 ms=250\n")

    def test_a_logged_failure_prints_its_traceback(self) -> None:
        self.log.failure("This should not happen", failure())
        self.assertIn("critical This should not happen\n  Traceback", self.tail())
        self.assertIn("no such file", self.tail())

    def test_an_event_of_older_code_is_a_line_too(self) -> None:
        LegacyPublisher(publishPublisher=Publisher(self.observer)).msg("Starting", "up\nnow")
        self.assertEqual(self.tail(), "info Starting up now\n")

    def test_a_failure_of_older_code_prints_its_traceback(self) -> None:
        LegacyPublisher(publishPublisher=Publisher(self.observer)).msg(
            failure=failure(), why="Unhandled", isError=1
        )
        self.assertIn("no such file", self.tail())

    def test_a_lone_surrogate_does_not_cost_the_line(self) -> None:
        self.log.info("Task failed", name="\ud800")
        self.assertEqual(self.tail(), "info Task failed name=\\ud800\n")


class Destinations(SynchronousTestCase):
    """Where lines go."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(TemporaryDirectory())) / "asynctask.log"

    def file(self) -> Rotating:
        file = destination(str(self.path))
        assert isinstance(file, Rotating)
        self.addCleanup(file.close)
        return file

    def log(self, file: Rotating, log_format: str = "text", **fields: Any) -> None:
        LogQueue(file.write, *RENDERERS[log_format])(event("Task started", **fields))

    def test_without_a_file_lines_go_to_standard_output(self) -> None:
        with self.path.open("w") as standard:
            LogQueue(destination(None, standard).write, text_line)(event("Task started", name="ü"))
            self.assertEqual(self.path.read_text(), HEAD + "Task started name=ü\n")

    def test_without_standard_output_they_go_nowhere(self) -> None:
        """Its descriptor may be that of the store by now."""
        standard = os.dup(1)
        with self.path.open("wb") as store:
            os.dup2(store.fileno(), 1)
            try:
                destination(None, None).write(b"a line\n")
            finally:
                os.dup2(standard, 1)
                os.close(standard)
        self.assertEqual(self.path.read_bytes(), b"")

    def test_a_reader_who_takes_little_at_a_time_gets_all(self) -> None:
        for blocks in (True, False):
            self.read_slowly(blocks)

    def read_slowly(self, blocks: bool) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, blocks)
        data = b"a line\n" * 100_000
        with open(write, "w") as standard:
            thread = Thread(target=destination(None, standard).write, args=(data,))
            thread.start()
            got = b""
            while len(got) < len(data):
                with contextlib.suppress(BlockingIOError):
                    got += os.read(read, 10_000)
            thread.join()
        os.close(read)
        self.assertEqual(got, data)

    def test_a_file_is_for_its_user_alone_before_and_after_it_is_rotated(self) -> None:
        for kept in (0o600, 0o640):
            before = os.umask(0o022)
            try:
                file = self.file()
            finally:
                os.umask(before)
            self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
            self.path.chmod(kept)  # as its operator wants it
            for again in (False, True):
                file = self.file() if again else file
                for _ in range(3):
                    self.assertEqual(self.path.stat().st_mode & 0o777, kept)
                    file.write(b"x" * ROTATE_AT)

    def test_who_root_becomes_rotates_it_too(self) -> None:
        self.path.parent.chmod(0o777)
        user = None if os.getuid() else NOBODY  # only root may give files away
        twistd = {"nodaemon": False, "logfile": str(self.path), "uid": user, "gid": None}
        log = log_of(twistd, "text", None, many=False)
        assert log is not None
        with nobody():
            for _ in range(2):
                log.pass_on("x" * ROTATE_AT)
        self.assertEqual(len(list(self.path.parent.iterdir())), 2)

    def test_a_file_elsewhere_is_not_given_away(self) -> None:
        elsewhere = self.path.with_name("elsewhere")
        elsewhere.touch()
        self.path.symlink_to(elsewhere)
        owner = elsewhere.stat().st_uid
        self.file().give_to(NOBODY, None)
        self.assertEqual(elsewhere.stat().st_uid, owner)

    def test_a_line_is_in_its_file_at_once(self) -> None:
        self.log(self.file(), "json", name="ü")
        self.assertEqual(json.loads(self.path.read_bytes())["name"], "ü")

    def test_a_disk_that_becomes_full_within_a_line_is_no_success(self) -> None:
        code = (
            "import resource, sys; from asynctask.logs import Rotating;"
            "file = Rotating.fromFullPath(sys.argv[1]); file.write(b'x' * 10);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (15, 15));"
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "try: file.write(b'y' * 10)\n"
            "except OSError as error: print(error.errno)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(self.path)], capture_output=True, text=True, check=True
        )
        self.assertEqual((done.stdout, done.stderr), (f"{errno.EFBIG}\n", ""))
        self.assertEqual(self.path.read_bytes(), b"x" * 10 + b"y" * 5)

    def test_a_log_goes_on_in_the_file_that_there_is(self) -> None:
        self.path.write_text("before\n")
        self.log(self.file())
        self.assertEqual(self.path.read_text(), f"before\n{HEAD}Task started\n")

    def test_a_full_file_makes_room_for_a_new_one(self) -> None:
        with self.path.open("wb") as full:
            full.truncate(ROTATE_AT)
        self.log(self.file())
        self.assertEqual(self.path.read_text(), HEAD + "Task started\n")
        self.assertEqual(self.path.with_name("asynctask.log.1").stat().st_size, ROTATE_AT)

    def test_it_is_full_by_what_was_written_to_it(self) -> None:
        file = self.file()
        file.write(bytes(ROTATE_AT - 1))
        file.write(b"\n")
        file.write(b"a line\n")
        self.assertEqual(self.path.read_bytes(), b"a line\n")
        self.assertEqual(self.path.with_name("asynctask.log.1").stat().st_size, ROTATE_AT)

    def test_what_is_no_file_keeps_its_name(self) -> None:
        make_null(self.path)
        file = self.file()
        for _ in range(2):
            file.write(bytes(ROTATE_AT))
        self.assertTrue(self.path.is_char_device())
        self.assertEqual(list(self.path.parent.iterdir()), [self.path])

    def test_a_log_that_nobody_looks_after_stays_bounded(self) -> None:
        self.assertLessEqual(ROTATE_AT * (FILES_KEPT + 1), 200_000_000)
        file = self.file()
        for _ in range(FILES_KEPT + 5):
            # As if it had been written full: sparse, so that it takes no time.
            with self.path.open("r+b") as full:
                full.truncate(ROTATE_AT)
            file.size = ROTATE_AT
            file.write(b"a line\n")
        self.assertEqual(len(list(self.path.parent.iterdir())), FILES_KEPT + 1)

    def test_a_rotation_that_failed_half_way_is_made_good_later(self) -> None:
        file = self.file()
        file.write(b"before\n")
        file._file.close()
        file.write(b"after\n")
        self.assertEqual(self.path.read_text(), "before\nafter\n")

    def test_another_format_is_unknown(self) -> None:
        self.assertEqual(set(RENDERERS), {"text", "json"})
