"""What handlers say to Python's `logging`, in Twisted's log."""

import json
import logging
from collections.abc import Callable
from io import StringIO
from math import nan
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import (
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    STDLibLogObserver,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.log import textFromEventDict
from twisted.trial.unittest import SynchronousTestCase, TestCase

from asynctask import logs, pythonlog
from asynctask.service import Options, makeService
from tests import handlers
from tests.running import EndsTestCase
from tests.test_processes import FACTS, ProcessesTestCase

SAID = logging.getLogger("a.library")


class Ears:
    """Lists what Twisted's log has of `logging`."""

    def __init__(self, case: SynchronousTestCase, stepped: pythonlog.Stepped = pythonlog.nobody) -> None:
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        case.addCleanup(globalLogPublisher.removeObserver, observer)
        pythonlog.listen(stepped)
        case.addCleanup(pythonlog.stop_listening, stepped)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(event["log_level"].name, formatEvent(event)) for event in self.heard]

    @property
    def heard(self) -> list[LogEvent]:
        return [event for event in self.events if event.get("logger") == SAID.name]


class Levels(SynchronousTestCase):
    """How a line comes."""

    def setUp(self) -> None:
        self.ears = Ears(self)

    def test_each_level_is_the_same_in_the_log(self) -> None:
        self.addCleanup(logging.root.setLevel, logging.root.level)
        logging.root.setLevel(logging.DEBUG)
        for level in (10, 20, 25, 30, 40, 50):
            SAID.log(level, "%d {curly}", level)
        names = ["debug", "info", "info", "warn", "error", "critical"]
        texts = [f"{level} {{curly}}" for level in (10, 20, 25, 30, 40, 50)]
        self.assertEqual(self.ears.told, list(zip(names, texts, strict=True)))

    def test_what_is_said_besides_is_fields(self) -> None:
        SAID.warning("Paid", extra={"order": 7, "log_level": "mine", "task_id": "mine"})
        (event,) = self.ears.heard
        self.assertEqual(event["log_level"].name, "warn")
        self.assertTrue(logs.text_line(event).endswith(" warn Paid order=7 task_id=mine logger=a.library"))
        self.assertEqual(json.loads(logs.json_line(event))["order"], 7)

    def test_whatever_it_is_the_line_is_told(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        for extra in (
            *(
                {"level": 2},
                {"self": 2},
                {"format": "x"},
                {"time": "noon"},
                {"isError": True, "failure": 1},
            ),
            *(
                {1: 2},
                {"d": {(1, 2): 3}},
                {"d": circle},
                {"d": handlers.Silent()},
                {"d": "\ud800"},
                {"d": nan},
            ),
        ):
            SAID.warning("Paid", extra=cast(dict[str, object], extra))
        self.assertEqual(self.ears.told, [("warn", "Paid")] * 11)
        for event in self.ears.heard:
            self.assertIn(" warn Paid ", logs.text_line(event))
            self.assertEqual(json.loads(logs.json_line(event))["message"], "Paid")
            older: list[LogEvent] = []
            LegacyLogObserverWrapper(cast(Any, older.append))(dict(event))
            self.assertIn("Paid", textFromEventDict(older[0]) or "")

    def test_the_root_logger_says_from_which_level_on(self) -> None:
        SAID.info("not")
        SAID.warning("heard")
        self.assertEqual(self.ears.told, [("warn", "heard")])

    def test_an_exception_comes_with_its_traceback(self) -> None:
        try:
            raise ValueError("no") from KeyError("why")
        except ValueError:
            SAID.exception("It failed")
        SAID.error("Nothing failed", exc_info=True)
        SAID.warning("Here", stack_info=True)
        failed, nothing, here = map(logs.text_line, self.ears.heard)
        self.assertIn(" error It failed logger=a.library\n  KeyError: 'why'\n", failed)
        self.assertIn("\n  Traceback ", failed)
        self.assertIn("\n  ValueError: no", failed)
        self.assertTrue(nothing.endswith(" error Nothing failed logger=a.library"), nothing)
        self.assertIn("\n  Stack (most recent call last):", here)

    def test_a_log_that_is_passed_on_to_logging_goes_no_circle(self) -> None:
        observer = STDLibLogObserver()
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        SAID.warning("once")
        self.assertEqual(self.ears.told, [("warn", "once")])

    def test_what_cannot_be_said_harms_nobody(self) -> None:
        self.patch(logging, "raiseExceptions", False)
        SAID.warning("%d", "no number")
        SAID.warning("on")
        self.assertEqual(self.ears.told, [("warn", "on")])


class Listening(SynchronousTestCase):
    """When it is heard."""

    def test_a_handler_of_somebody_else_keeps_the_log(self) -> None:
        records: list[logging.LogRecord] = []
        theirs = logging.Handler()
        theirs.handle = records.append  # type: ignore[method-assign, assignment]
        logging.root.addHandler(theirs)
        self.addCleanup(logging.root.removeHandler, theirs)
        ears = Ears(self)
        SAID.warning("theirs")
        self.assertEqual((ears.told, len(records)), ([], 1))

    def test_a_library_that_is_silent_by_itself_is_heard_once(self) -> None:
        silent = logging.NullHandler()
        for logger in (SAID, logging.getLogger("a")):
            logger.addHandler(silent)
            self.addCleanup(logger.removeHandler, silent)
        ears = Ears(self)
        SAID.warning("heard")
        self.assertEqual(ears.told, [("warn", "heard")])

    def test_a_handler_of_somebody_else_below_the_root_keeps_it_too(self) -> None:
        theirs = logging.StreamHandler(StringIO())
        SAID.addHandler(theirs)
        self.addCleanup(SAID.removeHandler, theirs)
        ears = Ears(self)
        SAID.warning("theirs")
        self.assertEqual((ears.told, theirs.stream.getvalue()), ([], "theirs\n"))

    def test_it_ends_with_the_last_who_listens(self) -> None:
        def other() -> str:
            return ""

        before = logging.lastResort, logging.basicConfig, logging.NullHandler.handle
        ears = Ears(self, other)
        pythonlog.listen()
        pythonlog.stop_listening()
        SAID.warning("still")
        self.assertEqual(ears.told, [("warn", "still")])
        pythonlog.stop_listening(other)
        pythonlog.stop_listening(other)
        self.assertEqual((logging.lastResort, logging.basicConfig, logging.NullHandler.handle), before)

    def test_whoever_configures_it_later_has_it(self) -> None:
        before = list(logging.root.handlers), logging.root.level
        ears = Ears(self)
        SAID.warning("ours")
        logging.basicConfig(level=logging.INFO, stream=StringIO())
        (theirs,) = logging.root.handlers
        self.addCleanup(logging.root.setLevel, before[1])
        self.addCleanup(logging.root.removeHandler, theirs)
        SAID.warning("theirs")
        self.assertEqual((before[0], logging.root.level, ears.told), ([], logging.INFO, [("warn", "ours")]))

    def test_what_is_said_without_a_logger_changes_nothing(self) -> None:
        ears = Ears(self)
        logging.warning("said to nobody")
        SAID.warning("heard")
        self.assertEqual((ears.told, logging.root.handlers), ([("warn", "heard")], []))
        plain = [
            (one["log_level"].name, formatEvent(one)) for one in ears.events if one.get("logger") == "root"
        ]
        self.assertEqual(plain, [("warn", "said to nobody")])

    def test_what_is_said_while_a_line_is_made_is_heard(self) -> None:
        class Talking:
            def __str__(self) -> str:
                SAID.warning("inner")
                return "outer"

        ears = Ears(self)
        SAID.warning("%s", Talking())
        self.assertEqual(ears.told, [("warn", "inner"), ("warn", "outer")])


class Tasks(EndsTestCase):
    """Whose line it is."""

    def test_it_tells_the_task_in_every_place(self) -> None:
        ears = Ears(self, self.recorder.stepped)
        self.patch(pythonlog, "isInIOThread", lambda: True)

        async def on_loop() -> None:
            SAID.warning("said")

        def in_thread() -> None:
            SAID.warning("said")

        for place in ("reactor", "asyncio", "thread"):
            self.with_handler(in_thread if place == "thread" else on_loop, place=place)
            for trace in (FACTS.traceparent, None):
                self.until_ended(task_id := self.submit(None, trace=trace))
                told = [(event.get("task_id"), event.get("traceparent")) for event in ears.heard]
                self.assertEqual(told, [(task_id, trace)])
                ears.events.clear()
        SAID.warning("by nobody")
        self.assertNotIn("task_id", ears.heard[0])
        self.assertNotIn("traceparent", ears.heard[0])

    def test_another_thread_does_not_speak_for_the_reactors_task(self) -> None:
        ears = Ears(self, lambda: "task_1")
        self.patch(pythonlog, "isInIOThread", lambda: False)
        SAID.warning("elsewhere")
        self.assertNotIn("task_id", ears.heard[0])


class InProcesses(ProcessesTestCase):
    """What is said in a process of handlers."""

    def heard(self, function: Callable[..., Any]) -> tuple[Any, list[LogEvent]]:
        ears = Ears(self)
        result = json.loads(self.turns.outcome(self.begin(function)))
        return result, ears.heard

    def test_it_comes_with_its_level_its_task_and_its_traceback(self) -> None:
        _, [warned, failed] = self.heard(handlers.say)
        self.assertEqual((warned["log_level"].name, formatEvent(warned)), ("warn", "7 {said}"))
        self.assertEqual((failed["log_level"].name, formatEvent(failed)), ("error", "It failed"))
        self.assertEqual({warned["task_id"], failed["task_id"]}, {FACTS.task_id})
        self.assertEqual({warned["traceparent"], failed["traceparent"]}, {FACTS.traceparent})
        self.assertIn("\n  ValueError: no", logs.text_line(failed))

    def test_a_child_that_was_forked_says_it_to_standard_output_as_ever(self) -> None:
        said, heard = self.heard(handlers.say_in_fork)
        self.assertEqual((said, heard), ("said\n", []))


class Services(TestCase):
    """The service listens while it runs."""

    async def test_it_hears_from_its_start_to_its_end_however_often(self) -> None:
        before = logging.lastResort
        for _ in range(2):
            options = Options({})
            options.parseOptions(["--port=0", "--store=sqlite://"])
            service: Any = makeService(options)
            service.startService()
            await deferLater(reactor, 0)
            try:
                self.assertIsNot(logging.lastResort, before)
            finally:
                await service.stopService()
            self.assertIs(logging.lastResort, before)
