"""What handlers print, as lines of the log."""

import os
import sys
from threading import Thread
from typing import cast

from twisted.logger import ILogObserver, LogEvent, Logger, LoggingFile, LogLevel
from twisted.trial.unittest import SynchronousTestCase

from asynctask import printed
from asynctask.printed import LONGEST, Printed


class PrintedTests(SynchronousTestCase):
    """`Printed`, and where it is put."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        logger = Logger(namespace="stdout", observer=cast(ILogObserver, self.events.append))
        self.patch(sys, "stdout", LoggingFile(logger, LogLevel.warn, "utf-8"))
        printed.listen()
        self.assertIs(type(sys.stdout), Printed)

    def told(self) -> list[str]:
        told = [event["log_io"] for event in self.events]
        self.assertEqual({event["log_level"] for event in self.events}, {LogLevel.warn} if told else set())
        self.events.clear()
        return told

    def test_each_line_is_told_once_it_is_ended(self) -> None:
        sys.stdout.write("a")
        self.assertEqual(self.told(), [])
        sys.stdout.write("b\nc\n\nd")
        self.assertEqual(self.told(), ["ab", "c", ""])
        sys.stdout.write(cast(str, " é\n".encode()))
        self.assertEqual(self.told(), ["d é"])

    def test_of_what_is_drawn_anew_the_last_state_is_told(self) -> None:
        for percent in range(0, 101, 10):
            sys.stdout.write(f"\r{percent} %")
        sys.stdout.write("\n")
        sys.stdout.write("abc\r")
        sys.stdout.write("de\r\nf\r")
        sys.stdout.write("\ng\n")
        self.assertEqual(self.told(), ["100 %", "de", "f", "g"])

    def test_what_is_never_ended_is_told_all_the_same(self) -> None:
        for _ in range(LONGEST + 2):
            sys.stdout.write(".")
        self.assertEqual(self.told(), ["." * (LONGEST + 1)])

    def test_a_bar_that_is_never_ended_takes_no_room(self) -> None:
        for _ in range(LONGEST):
            sys.stdout.write("\r10 %")
        sys.stdout.write("\r100 %\n")
        self.assertEqual(self.told(), ["100 %"])

    def test_threads_have_lines_of_their_own(self) -> None:
        sys.stdout.write("mine ")
        other = Thread(target=sys.stdout.write, args=("theirs\n",))
        other.start()
        other.join()
        sys.stdout.write("too\n")
        self.assertEqual(self.told(), ["theirs", "mine too"])

    def test_what_needs_a_descriptor_has_that_of_the_real_one(self) -> None:
        for level, name in ((LogLevel.info, "__stdout__"), (LogLevel.error, "__stderr__")):
            file = Printed(LoggingFile(Logger(), level))
            with open(os.devnull, "w") as real:
                self.patch(sys, name, real)
                self.assertEqual(file.fileno(), real.fileno())
            self.patch(sys, name, None)
            self.assertRaises(OSError, file.fileno)

    def test_what_is_no_log_stays_as_it_is(self) -> None:
        there = sys.stdout
        printed.listen()
        self.assertIs(sys.stdout, there)
        self.patch(sys, "stdout", None)
        printed.listen()
        self.assertIsNone(sys.stdout)
