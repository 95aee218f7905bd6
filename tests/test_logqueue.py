"""The log off the hot path. Its thread looks by the real clock."""

import socket
import threading
from collections.abc import Sequence
from errno import EAGAIN, EINVAL, EMFILE
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, cast

from twisted.internet import tcp
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask import logqueue
from asynctask.logqueue import CHUNK, MAX_CHARACTERS, MAX_WAITING, PAUSE, Line, LogQueue
from asynctask.logs import RENDERERS, Message, Value, text_line, told
from asynctask.refusals import OFTEN, Refusals
from tests.turns import PATIENCE


def without_time(event: LogEvent) -> str:
    return text_line(event).partition(" ")[2]


def told_without_time(
    message: Message, at: Sequence[float], values: Sequence[tuple[Value, ...]]
) -> list[str]:
    return [line.partition(" ")[2] for line in told(message, at, values)]


class Sink:
    """Where lines go: it can be full, broken, or stuck."""

    def __init__(self) -> None:
        self.written: Queue[bytes] = Queue()
        self.error: Exception | None = None
        self.stuck = Event()
        self.free = Event()
        self.free.set()

    def write(self, data: bytes) -> None:
        if not self.free.is_set():
            self.stuck.set()
            self.free.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        self.written.put(data)

    def hold(self) -> None:
        self.free.clear()

    def text(self) -> str:
        """All that was written since the last time."""
        found = b""
        while not self.written.empty():
            found += self.written.get()
        return found.decode()


class Reserved:
    """A file that is held for such times."""

    def available(self) -> bool:
        return True

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class QueueTestCase(SynchronousTestCase):
    """A queue, and loggers whose events it gets."""

    def setUp(self) -> None:
        self.sink = Sink()
        self.queue = LogQueue(self.sink.write, without_time, told_without_time, patience=PATIENCE)
        self.addCleanup(self.queue.stop)
        self.addCleanup(self.sink.free.set)
        self.patch(logqueue, "OBSERVERS", [self.queue])
        self.log = Logger("asynctask.test", observer=self.queue)

    def quick(self, text: str, **fields: Value) -> None:
        """Log a line of those that come by the thousand."""
        Line(self.log, text, *fields).write(*fields.values())

    def next_lines(self) -> list[str]:
        return self.sink.written.get(timeout=PATIENCE).decode().splitlines()

    def threads(self) -> list[threading.Thread]:
        """Those that write logs."""
        return [each for each in threading.enumerate() if each.name == "asynctask-log"]

    def until_stuck(self) -> None:
        """Let the thread hang in a write."""
        self.sink.hold()
        self.quick("stuck")
        self.assertTrue(self.sink.stuck.wait(PATIENCE))


class AtOnce(QueueTestCase):
    """While there may be no thread."""

    def test_before_the_start_a_line_is_out_at_once_without_a_thread(self) -> None:
        before = self.threads()
        self.quick("Task started", task_id="a")
        self.log.error("Cannot {do} it", do="start")
        self.assertEqual(self.sink.text(), "info Task started task_id=a\nerror Cannot start it\n")
        self.assertEqual(self.threads(), before)

    def test_without_a_thread_too(self) -> None:
        def no_more(**_: object) -> None:
            raise RuntimeError("can't start new thread")

        patched = self.patch(threading, "Thread", no_more)
        self.assertRaises(RuntimeError, self.queue.start)
        patched.restore()
        self.quick("Cannot go on")
        self.assertEqual(self.sink.text(), "info Cannot go on\n")

    def test_after_the_stop_too(self) -> None:
        self.queue.start()
        self.queue.stop()
        self.quick("Server Shut Down.")
        self.assertEqual(self.sink.text(), "info Server Shut Down.\n")

    def test_what_cannot_be_written_is_told_later(self) -> None:
        self.sink.error = OSError(28, "No space left on device")
        for _ in range(3):
            self.quick("lost")
        self.sink.error = None
        self.quick("out")
        self.quick("out too")
        lines = ["", "warn Log lines were lost lines=3", "info out", "info out too", ""]
        self.assertEqual(self.sink.text().split("\n"), lines)

    def test_a_file_that_was_closed_stops_nobody(self) -> None:
        self.sink.error = ValueError("I/O operation on closed file")
        self.quick("lost")
        self.log.info("lost")

    def test_an_event_that_cannot_be_told_is_named(self) -> None:
        class Shy:
            def __repr__(self) -> str:
                raise RuntimeError

        self.log.info("Hello", who=Shy())
        line = "warn This event cannot be told event='Hello' error=RuntimeError\n"
        self.assertEqual(self.sink.text().replace('"', ""), line)

    def test_a_lone_surrogate_does_not_cost_the_line(self) -> None:
        self.quick("Task failed", name="\ud800")
        self.assertEqual(self.sink.text(), "info Task failed name=\\ud800\n")


class Interrupted(QueueTestCase):
    """A signal comes while a line is taken, and its handler writes all that waits."""

    def test_its_own_thread_is_not_waited_for(self) -> None:
        self.queue._waiting.append((None, "one"))

        def interrupted() -> None:
            with self.queue._counting:
                self.queue.flush()

        thread = Thread(target=interrupted, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())
        self.assertEqual(self.sink.text(), "one\n")


class Queued(QueueTestCase):
    """While the service runs."""

    def setUp(self) -> None:
        super().setUp()
        self.queue.start()

    def test_a_line_comes_by_itself_and_soon(self) -> None:
        self.quick("Task started")
        self.assertEqual(self.next_lines(), ["info Task started"])
        self.log.info("Another")
        self.assertEqual(self.next_lines(), ["info Another"])
        self.assertLessEqual(PAUSE, 0.1)

    def test_many_lines_are_few_writes_and_in_order(self) -> None:
        self.until_stuck()
        expected = ["info stuck"]
        for number in range(300):
            (self.quick if number % 3 else self.log.info)("line", number=number)
            expected.append(f"info line number={number}")
        self.sink.free.set()
        self.queue.stop()
        self.assertLessEqual(self.sink.written.qsize(), 300 / CHUNK + 1)
        self.assertEqual(self.sink.text().splitlines(), expected)

    def test_a_line_tells_what_was_true_when_it_was_logged(self) -> None:
        todo = ["a"]
        self.log.info("To do: {todo}", todo=todo)
        self.log.info("To do", todo=todo)
        todo.clear()
        self.queue.flush()
        self.assertEqual(
            self.sink.text().splitlines(), ["info To do: ['a']", 'info To do todo="[\\"a\\"]"']
        )

    def test_a_failure_is_told_with_its_traceback(self) -> None:
        try:
            raise ValueError("no")
        except ValueError:
            self.log.failure("Broken")
        self.queue.flush()
        first, *rest = self.sink.text().splitlines()
        self.assertEqual(first, "critical Broken")
        self.assertIn("ValueError: no", rest[-1])

    def test_a_stop_writes_all(self) -> None:
        for number in range(5_000):
            self.quick("line", number=number)
        self.queue.stop()
        self.assertEqual(len(self.sink.text().splitlines()), 5_000)

    def test_lines_of_many_threads_are_whole_and_all_there(self) -> None:
        def work(name: str) -> None:
            for number in range(500):
                (self.quick if number % 2 else self.log.info)("line", name=name, number=number)

        threads = [Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.queue.stop()
        lines = self.sink.text().splitlines()
        self.assertEqual(len(lines), 2_000)
        for name in "abcd":
            mine = [line for line in lines if f"name={name}" in line]
            self.assertEqual(mine, [f"info line name={name} number={number}" for number in range(500)])

    def test_what_nobody_reads_is_bounded_and_counted(self) -> None:
        self.until_stuck()
        for number in range(MAX_WAITING + 7):
            self.quick("line", number=number)
        self.log.info("one more")
        self.assertEqual(len(self.queue._waiting), MAX_WAITING)
        self.sink.free.set()
        self.queue.stop()
        lines = self.sink.text().splitlines()
        self.assertEqual(len(lines), 1 + 1 + MAX_WAITING)
        self.assertEqual([line for line in lines if "lost" in line], ["warn Log lines were lost lines=8"])

    def test_long_lines_are_bounded_too(self) -> None:
        self.until_stuck()
        for _ in range(20):
            self.log.info("x" * (MAX_CHARACTERS // 10))
        self.assertEqual(len(self.queue._waiting), 10)
        self.sink.free.set()
        self.queue.stop()
        self.assertEqual(self.queue._characters, 0)
        self.assertIn("warn Log lines were lost lines=10\n", self.sink.text())

    def test_so_are_long_values(self) -> None:
        self.until_stuck()
        said = Line(self.log, "said", "n", "text", long=True)
        for _ in range(20):
            said.write(1, "x" * (MAX_CHARACTERS // 10))
        self.assertEqual(len(self.queue._waiting), 10)
        self.sink.free.set()
        self.queue.stop()
        self.assertEqual(self.queue._characters, 0)
        self.assertIn("warn Log lines were lost lines=10\n", self.sink.text())

    def test_who_does_not_read_keeps_nobody_from_logging_or_ending(self) -> None:
        self.queue._patience = 0.2
        self.until_stuck()
        self.log.info("more")
        self.queue.flush()
        self.queue.stop()
        self.quick("Server Shut Down.")
        self.assertEqual(self.sink.text(), "")

    def test_a_full_disk_costs_lines_and_nothing_else(self) -> None:
        self.sink.error = OSError(28, "No space left on device")
        for _ in range(3):
            self.quick("lost")
        self.queue.flush()
        self.sink.error = None
        self.quick("out")
        self.assertEqual(self.next_lines(), ["", "warn Log lines were lost lines=3", "info out"])

    def test_of_lines_that_were_passed_on_each_counts(self) -> None:
        self.sink.error = OSError(28, "No space left on device")
        self.queue.pass_on("a\nb\nc")
        self.queue.flush()
        self.sink.error = None
        self.quick("out")
        self.assertEqual(self.next_lines(), ["", "warn Log lines were lost lines=3", "info out"])

    def test_lines_of_another_process_are_passed_on_as_they_are(self) -> None:
        self.queue.pass_on("a x=1\nb {y}")
        self.assertEqual(self.sink.written.get(timeout=PATIENCE), b"a x=1\nb {y}\n")

    def test_nothing_to_write_is_no_write(self) -> None:
        self.assertRaises(Empty, self.sink.written.get, timeout=2 * PAUSE)

    def test_a_sleep_that_fails_does_not_end_the_log(self) -> None:
        def sleep(_seconds: float) -> None:
            raise OSError(EINVAL, "Invalid argument")

        self.patch(logqueue, "sleep", sleep)
        for line in ("first", "second", "third"):
            self.quick(line)
            self.assertEqual(self.next_lines(), [f"info {line}"])

    def test_a_second_start_starts_no_second_thread(self) -> None:
        before = self.threads()
        self.queue.start()
        self.assertEqual(self.threads(), before)


class Refused(QueueTestCase):
    """Connections for which there are no more files, as `twisted.internet.tcp` refuses them."""

    def refuse(self, times: int) -> None:
        for _ in range(times):
            clients = iter([OSError(EMFILE, ""), (socket.socket(), ("192.0.2.1", 5)), OSError(EAGAIN, "")])

            class Listener:
                def accept(self) -> object:
                    client = next(clients)  # noqa: B023
                    if isinstance(client, OSError):
                        raise client
                    return client

            accepted = tcp._accept(self.log, iter(range(3)), Listener(), Reserved())
            self.assertEqual(list(accepted), [])

    def test_there_is_a_warning_a_minute_and_one_of_ten_times_as_many_with_how_many_they_were(self) -> None:
        clock = Clock()
        self.queue._refusals = Refusals(clock.seconds)
        lines = []
        for seconds, times in ((0, 1), (0, 9), (1, 1), (0, 50), (OFTEN - 1, 49), (1, 1)):
            clock.advance(seconds)
            self.refuse(times)
            lines.append(self.sink.text())
        told = "warn Too many open files; connections are refused connections={}\n"
        self.assertEqual(lines, [told.format(1), "", told.format(10), "", "", told.format(100)])

    def test_what_else_twisted_tells_of_files_is_kept(self) -> None:
        self.log.info("Could not accept new connection ({acceptError})", acceptError="ENFILE")
        self.assertEqual(self.sink.text(), "info Could not accept new connection (ENFILE)\n")


class Lines(SynchronousTestCase):
    """What is logged by the thousand."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        self.log = Logger("asynctask.test")
        self.line = Line(self.log, "Task progress", "task_id", "step")

    def observe(self) -> None:
        """Be another observer of the whole program."""
        observer = cast(ILogObserver, lambda event: self.events.append(dict(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def queue_alone(self, *given: Any) -> Sink:
        """Where a queue writes that is the program's only observer."""
        sink = Sink()
        queue = LogQueue(sink.write, *given)
        before = list(logqueue.OBSERVERS)
        self.addCleanup(logqueue.OBSERVERS.__setitem__, slice(None), before)
        logqueue.OBSERVERS[:] = [queue]
        return sink

    def test_every_observer_is_told_an_event_as_by_any_logger(self) -> None:
        self.observe()
        self.log.info("Task progress", task_id="a", step=1)
        self.line.write("a", 1)
        usual, quick = self.events
        self.assertEqual(set(usual), set(quick))
        for key in (
            "log_level",
            "log_namespace",
            "log_source",
            "log_format",
            "log_logger",
            "task_id",
            "step",
        ):
            self.assertEqual(usual[key], quick[key], key)
        self.assertLess(abs(usual["log_time"] - quick["log_time"]), PATIENCE)

    def test_a_queue_that_is_alone_writes_the_same_line(self) -> None:
        for name in ("text", "json"):
            render, tell = RENDERERS[name]
            sink = self.queue_alone(render, tell)
            self.line.write("a b", 1)
            self.log.info("Task progress", task_id="a b", step=1)
            first, second = (
                line[24:] if name == "text" else line[36:] for line in sink.text().splitlines()
            )
            self.assertEqual(first, second)
            self.assertIn("a b", first)

    def test_the_trace_of_what_it_tells_is_its_last_field(self) -> None:
        sink = self.queue_alone(without_time, told_without_time)
        self.line.write("a", 1, trace="00-ab-cd-01")
        self.line.write("a", 2)
        self.assertEqual(
            sink.text().splitlines(),
            [
                "info Task progress task_id=a step=1 traceparent=00-ab-cd-01",
                "info Task progress task_id=a step=2",
            ],
        )

    def test_another_observer_of_the_program_is_told_too(self) -> None:
        sink = self.queue_alone(without_time, told_without_time)
        self.line.write("a", 1)
        self.observe()
        self.line.write("a", 2)
        self.assertEqual([event["step"] for event in self.events], [2])
        self.assertEqual(
            sink.text().splitlines(),
            ["info Task progress task_id=a step=1", "info Task progress task_id=a step=2"],
        )

    def test_a_line_that_cannot_be_made_is_named_and_costs_no_other(self) -> None:
        sink = self.queue_alone(without_time, told_without_time)
        queue = cast(LogQueue, logqueue.OBSERVERS[0])
        queue.start()
        self.addCleanup(queue.stop)
        self.line.write("a")
        self.line.write("a", 1)
        queue.flush()
        self.assertEqual(
            sink.text().splitlines(),
            [
                "warn This event cannot be told event=\"'Task progress'\" error=TypeError",
                "info Task progress task_id=a step=1",
            ],
        )
