"""Many processes as one service, without any: their ends, and what is made of them."""

from collections.abc import Callable
from signal import Signals

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from asynctask import pipes
from asynctask.aggregation import Family, Sample
from asynctask.member import ERR, LONGEST, OUT, Member
from asynctask.pipes import SAYS, Asked, Sum, Tell, Told, Up
from asynctask.supervisor import LAST, LAST_WORDS, PATIENCE, SOUND, Supervisor, pause_before

GRACE = 5.0


def numbers(counted: float, free: float = 1) -> list[Family]:
    """Of one process."""
    return [
        Family("asynctask_c", "counter", "C.", [Sample("asynctask_c_total", {}, counted)]),
        Family("asynctask_g", "gauge", "G.", [Sample("asynctask_g", {}, free)]),
    ]


class Process:
    """One that does nothing, until it is told to end."""

    def __init__(self, member: Member, pid: int) -> None:
        self.pid = pid
        self.member = member
        self.signals: list[str] = []
        self.heard: list[pipes.Downwards] = []
        self.is_gone = self.is_deaf = False
        self.pipes = {1: None, 2: None, 4: None}
        member.makeConnection(self)

    def signalProcess(self, number: int) -> None:
        if self.is_gone:
            raise ProcessExitedAlready
        self.signals.append(Signals(number).name.removeprefix("SIG"))

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        if self.is_deaf:
            raise KeyError(descriptor)
        self.heard += [pipes._downwards.decode(line) for line in data.splitlines()]

    def closeChildFD(self, descriptor: int) -> None:
        del self.pipes[descriptor]

    def says(self, *words: pipes.Upwards) -> None:
        for word in words:
            self.member.childDataReceived(SAYS, pipes.dump(word))

    def up(self) -> None:
        self.says(Up("http://127.0.0.1:8080"))

    def end(self, code: int | None = None, signal: int | None = None) -> None:
        done = code is None and signal is None
        reason = Failure(ProcessDone(None) if done else ProcessTerminated(code, signal))
        self.member.processExited(reason)
        self.member.processEnded(reason)


class Reactor(Clock):
    """One that runs already."""

    def callWhenRunning(self, function: Callable[[], object]) -> None:
        function()


class Failed(Supervisor):
    """Remembers why it could not start."""

    failed = ""

    def fail(self, sentence: str) -> None:
        self.failed = sentence


class SupervisorTestCase(SynchronousTestCase):
    """Two processes, and a clock that the test moves."""

    def setUp(self) -> None:
        self.clock = Reactor()
        self.spawned: list[Process] = []
        self.lines: list[str] = []
        self.refuse: OSError | None = None
        self.events: list[LogEvent] = []
        observer: ILogObserver = self.events.append  # type: ignore[assignment]
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.supervisor = Failed(
            2, lambda: None, lambda: None, self.spawn, self.lines.append, self.clock, self.clock, GRACE
        )
        self.supervisor.startService()

    def spawn(self, member: Member) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.spawned.append(Process(member, 100 + len(self.spawned)))

    def both_up(self) -> None:
        for process in self.spawned:
            process.up()

    def logged(self, message: str) -> list[LogEvent]:
        return [event for event in self.events if event.get("log_format") == message]


class Starts(SupervisorTestCase):
    """From nothing to all of them."""

    def test_it_says_where_it_listens_once_all_do(self) -> None:
        self.assertEqual([one.member.number for one in self.spawned], [1, 2])
        self.spawned[1].up()
        self.assertEqual(self.logged("Listening on {url}"), [])
        self.spawned[0].up()
        self.assertEqual(
            [one["url"] for one in self.logged("Listening on {url}")], ["http://127.0.0.1:8080"]
        )
        self.assertEqual([one["pid"] for one in self.logged("Process started")], [101, 100])
        self.assertEqual(self.logged("Process wrote to its standard error"), [])

    def test_what_a_handler_says_in_their_place_is_passed_over(self) -> None:
        first, second = self.spawned
        first.member.childDataReceived(SAYS, b'junk\n{"type":"Other"}\n\xff' + b"x" * 1_000 + b"\n")
        first.member.childDataReceived(SAYS, b'{"type":"Up","url":"x","z":' + b"[" * 100_000 + b"\n")
        first.up()
        second.up()
        told = self.logged("Process said what cannot be understood")
        self.assertEqual([one["text"][:4] for one in told], ["junk", '{"ty', "\ufffdxxx", '{"ty'])
        self.assertEqual(len(self.logged("Listening on {url}")), 1)

    def test_pure_workers_say_that_they_listen_nowhere(self) -> None:
        for one in self.spawned:
            one.says(Up(None))
        self.assertEqual(len(self.logged("Working without HTTP, on no port")), 1)

    def test_what_keeps_one_from_starting_ends_all_with_its_sentence(self) -> None:
        first, second = self.spawned
        first.up()
        second.member.childDataReceived(ERR, b"asynctask: Port 80 is ta")
        second.member.childDataReceived(ERR, b"ken\n")
        second.end(1)
        self.assertEqual((first.signals, self.supervisor.failed), (["QUIT"], ""))
        first.end(131)
        self.assertEqual(self.supervisor.failed, "Port 80 is taken")
        self.assertEqual(len(self.spawned), 2)

    def test_one_that_dies_at_the_start_without_a_word_ends_all_too(self) -> None:
        first, second = self.spawned
        second.end(signal=11)
        self.assertEqual(first.signals, ["KILL"])  # it has begun nothing
        first.end(signal=9)
        self.assertEqual(self.supervisor.failed, "Process 2 did not start (SIGSEGV)")

    def test_no_room_for_the_only_one_is_told(self) -> None:
        self.refuse = OSError(11, "Resource temporarily unavailable")
        supervisor = Failed(1, lambda: None, lambda: None, self.spawn, print, self.clock, self.clock, GRACE)
        supervisor.startService()
        self.assertEqual(supervisor.failed, "Process 1 did not start (Resource temporarily unavailable)")

    def test_who_is_ended_before_the_reactor_runs_does_not_begin(self) -> None:
        waiting: list[Callable[[], object]] = []
        begun: list[bool] = []
        self.patch(self.clock, "callWhenRunning", waiting.append)
        supervisor = Failed(1, lambda: None, lambda: None, self.spawn, print, self.clock, self.clock, GRACE)
        self.patch(supervisor, "_serving", lambda: begun.append(True))
        supervisor.startService()
        self.successResultOf(supervisor.stopService())
        for call in waiting:
            call()
        self.assertEqual((len(waiting), begun), (1, []))

    def test_one_that_serves_but_hears_nothing_is_killed(self) -> None:
        first, second = self.spawned
        first.up()
        second.end(1)
        self.clock.advance(LAST)
        self.assertEqual(first.signals, ["QUIT", "KILL"])
        first.end(signal=9)
        self.assertEqual(self.supervisor.failed, "Process 2 did not start (exit code 1)")

    def test_a_stop_in_the_middle_of_the_start_is_no_failure(self) -> None:
        stopped = self.supervisor.stopService()
        for one in self.spawned:
            self.assertEqual(one.signals, ["TERM"])
            one.end(signal=15)
        self.successResultOf(stopped)
        self.assertEqual(self.supervisor.failed, "")

    def test_after_one_that_could_not_be_started_there_is_no_other(self) -> None:
        begun: list[Process] = []

        def spawn(member: Member) -> None:
            if member.number == 2:
                raise OSError(11, "Resource temporarily unavailable")
            begun.append(Process(member, 100))

        supervisor = Failed(
            4, lambda: None, lambda: None, spawn, self.lines.append, self.clock, self.clock, GRACE
        )
        supervisor.startService()
        [first] = begun
        self.assertEqual((supervisor.failed, first.signals), ("", ["KILL"]))
        first.end(signal=9)
        self.assertIn("Resource temporarily unavailable", supervisor.failed)


class Restarts(SupervisorTestCase):
    """What dies later."""

    def setUp(self) -> None:
        super().setUp()
        self.both_up()

    def test_the_pause_grows_and_is_short_again_after_a_good_time(self) -> None:
        pauses = [pause_before(0, 0)]
        for _ in range(6):
            pauses.append(pause_before(pauses[-1], 3))
        self.assertEqual(pauses, [1, 2, 4, 8, 16, 30, 30])
        self.assertEqual(pause_before(30, SOUND), 1)

    def test_one_that_died_is_started_again_after_a_pause(self) -> None:
        self.clock.advance(1000)
        self.spawned[0].end(signal=9)
        [told] = self.logged("Process ended, and is started again")
        self.assertEqual(
            (told["process"], told["pid"], told["how"], told["seconds"]), (1, 100, "SIGKILL", 1)
        )
        self.clock.advance(0.9)
        self.assertEqual(len(self.spawned), 2)
        self.clock.advance(0.2)
        again = self.spawned[2]
        self.assertEqual(again.member.number, 1)
        again.up()
        self.assertEqual(len(self.logged("Listening on {url}")), 1)
        self.assertEqual([one.signals for one in self.spawned], [[], [], []])

    def test_one_that_cannot_start_again_is_tried_for_ever_and_says_why(self) -> None:
        self.spawned[0].end(signal=9)
        for _ in range(4):
            self.clock.advance(30)
            self.spawned[-1].member.childDataReceived(ERR, b"asynctask: it is gone\n")
            self.spawned[-1].end(1)
        told = self.logged("Process ended, and is started again")
        self.assertEqual([one["how"] for one in told[1:]], ["it is gone"] * 4)
        self.assertEqual([one["seconds"] for one in told], [1, 2, 4, 8, 16])

    def test_what_one_said_is_not_said_of_the_next(self) -> None:
        self.spawned[0].end(signal=9)
        self.clock.advance(1)
        self.spawned[2].member.childDataReceived(ERR, b"asynctask: it is gone\n")
        self.spawned[2].end(1)
        self.clock.advance(2)
        self.spawned[3].end(signal=11)
        told = self.logged("Process ended, and is started again")
        self.assertEqual([one["how"] for one in told], ["SIGKILL", "it is gone", "SIGSEGV"])

    def test_no_room_for_a_process_is_an_end_like_others(self) -> None:
        self.refuse = OSError(11, "Resource temporarily unavailable")
        self.spawned[0].end(0)
        self.clock.advance(1)
        self.assertEqual(
            self.logged("Process ended, and is started again")[-1]["how"],
            "Resource temporarily unavailable",
        )
        self.refuse = None
        self.clock.advance(2)
        self.assertEqual(len(self.spawned), 3)

    def test_one_for_which_there_was_no_room_is_not_waited_for(self) -> None:
        self.refuse = OSError(11, "Resource temporarily unavailable")
        self.spawned[0].end(0)
        self.clock.advance(1)
        stopped = self.supervisor.stopService()
        self.spawned[1].end(signal=15)
        self.successResultOf(stopped)

    def test_programs_that_it_left_with_its_pipes_are_not_waited_for(self) -> None:
        one = self.spawned[0]
        one.member.processExited(Failure(ProcessDone(None)))
        self.clock.advance(LAST_WORDS)
        self.assertEqual(one.pipes, {})


class Ends(SupervisorTestCase):
    """The end, passed on."""

    def setUp(self) -> None:
        super().setUp()
        self.both_up()

    def test_a_stop_is_passed_on_and_waits_for_the_last(self) -> None:
        stopped = self.supervisor.stopService()
        self.assertEqual([one.signals for one in self.spawned], [["TERM"], ["TERM"]])
        self.spawned[0].end(signal=15)
        self.assertNoResult(stopped)
        self.spawned[1].end(signal=15)
        self.successResultOf(stopped)
        self.clock.advance(100)
        self.assertEqual((len(self.spawned), self.clock.getDelayedCalls()), (2, []))

    def test_one_that_waits_to_be_started_again_is_not_waited_for(self) -> None:
        self.spawned[0].end(1)
        stopped = self.supervisor.stopService()
        self.spawned[1].end(signal=15)
        self.successResultOf(stopped)
        self.clock.advance(100)
        self.assertEqual(len(self.spawned), 2)

    def test_where_all_wait_to_be_started_again_nobody_is_waited_for(self) -> None:
        for one in self.spawned:
            one.end(1)
        self.successResultOf(self.supervisor.stopService())
        self.clock.advance(LAST_WORDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_was_started_again_is_ended_as_the_others(self) -> None:
        self.spawned[0].end(1)
        self.clock.advance(1)
        stopped = self.supervisor.stopService()
        self.assertEqual([one.signals for one in self.spawned], [[], ["TERM"], ["TERM"]])
        for one in self.spawned[1:]:
            one.end(signal=15)
        self.successResultOf(stopped)

    def test_one_that_has_just_ended_by_itself_keeps_the_others_from_nothing(self) -> None:
        self.spawned[0].is_gone = True
        stopped = self.supervisor.stopService()
        self.assertEqual([one.signals for one in self.spawned], [[], ["TERM"]])
        for one in self.spawned:
            one.end(0)
        self.successResultOf(stopped)

    def test_one_that_does_not_end_is_killed(self) -> None:
        stopped = self.supervisor.stopService()
        self.spawned[0].end(signal=15)
        self.clock.advance(GRACE + LAST)
        self.assertEqual(self.spawned[1].signals, ["TERM", "KILL"])
        self.spawned[1].end(signal=9)
        self.successResultOf(stopped)
        self.assertEqual(len(self.logged("Process does not end, and is killed")), 1)

    def test_one_that_ends_a_moment_after_its_grace_is_not(self) -> None:
        stopped = self.supervisor.stopService()
        self.clock.advance(GRACE + LAST - 1)
        self.assertEqual([one.signals for one in self.spawned], [["TERM"], ["TERM"]])
        for one in self.spawned:
            one.end(signal=15)
        self.successResultOf(stopped)


class Logs(SupervisorTestCase):
    """Their lines."""

    def test_lines_are_passed_on_whole(self) -> None:
        one, other = self.spawned
        one.member.childDataReceived(OUT, b"a b\nc ")
        other.member.childDataReceived(OUT, b"x y\n")
        one.member.childDataReceived(OUT, b"d")
        one.member.childDataReceived(OUT, "\nläst".encode())
        one.end(0)
        other.end(0)
        self.assertEqual(self.lines, ["a b", "x y", "c d", "läst"])
        self.assertEqual(self.logged("Process wrote to its standard error"), [])

    def test_what_is_no_text_is_passed_on_as_well_as_may_be(self) -> None:
        for descriptor in (OUT, ERR):
            self.spawned[0].member.childDataReceived(descriptor, b"a\xff\n")
        [told] = self.logged("Process wrote to its standard error")
        self.assertEqual((self.lines, told["text"]), (["a\ufffd"], "a\ufffd"))

    def test_what_has_no_ends_of_lines_is_not_kept_for_ever(self) -> None:
        member = self.spawned[0].member
        for descriptor, longest in LONGEST.items():
            for _ in range(longest // 1_500 + 1):
                member.childDataReceived(descriptor, b"frame=12345678\r" * 100)
        self.assertGreater(sum(map(len, self.lines)), LONGEST[OUT])
        told = self.logged("Process wrote to its standard error")
        self.assertGreater(len(told), LONGEST[ERR] // 15)
        self.assertEqual({each["text"] for each in told}, {"frame=12345678"})

    def test_what_stands_on_standard_error_is_logged(self) -> None:
        self.spawned[1].member.childDataReceived(ERR, b"Fatal Python error\n")
        [told] = self.logged("Process wrote to its standard error")
        self.assertEqual((told["process"], told["text"]), (2, "Fatal Python error"))


class Numbers(SupervisorTestCase):
    """Those of all."""

    def setUp(self) -> None:
        super().setUp()
        self.both_up()
        self.one, self.other = self.spawned

    def ask(self, process: Process, question: int) -> int:
        """Have a process ask, and tell how the others are asked."""
        process.says(Asked(question))
        word = self.other.heard[-1]
        assert isinstance(word, Tell)
        return word.question

    def answers(self, process: Process) -> list[tuple[int, dict[str, float]]]:
        return [
            (word.question, {one.name: one.value for family in word.families for one in family.samples})
            for word in process.heard
            if isinstance(word, Sum)
        ]

    def test_whoever_asks_is_told_the_sum(self) -> None:
        tell = self.ask(self.one, 7)
        self.one.says(Told(tell, numbers(1)))
        self.assertEqual(self.answers(self.one), [])
        self.other.says(Told(tell, numbers(2)))
        self.assertEqual(self.answers(self.one), [(7, {"asynctask_c_total": 3, "asynctask_g": 2})])
        self.assertEqual(self.answers(self.other), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_log_says_who_does_not_tell_his_and_that_he_does_again(self) -> None:
        for number in range(2):
            tell = self.ask(self.one, number)
            self.one.says(Told(tell, numbers(6)))
            self.clock.advance(PATIENCE)
            self.other.says(Told(tell, numbers(6)))  # too late
        (silent,) = self.logged("Process does not answer; its numbers are old")
        self.assertEqual((silent["process"], silent["pid"]), (2, 101))
        self.assertEqual(self.logged("Process answers again"), [])
        self.other.says(Told(self.ask(self.one, 3), numbers(6)))
        (again,) = self.logged("Process answers again")
        self.assertEqual((again["process"], again["pid"]), (2, 101))

    def test_of_one_that_does_not_answer_counts_what_it_told_before(self) -> None:
        tell = self.ask(self.one, 1)
        for process in self.spawned:
            process.says(Told(tell, numbers(5)))
        tell = self.ask(self.one, 2)
        self.one.says(Told(tell, numbers(6)))
        self.clock.advance(PATIENCE)
        self.assertEqual(self.answers(self.one)[-1], (2, {"asynctask_c_total": 11, "asynctask_g": 2}))
        self.other.says(Told(tell, numbers(8)))  # too late
        self.assertEqual(len(self.answers(self.one)), 2)

    def test_what_one_counted_that_died_is_not_forgotten(self) -> None:
        tell = self.ask(self.one, 1)
        for process in self.spawned:
            process.says(Told(tell, numbers(5)))
        self.one.end(signal=9)
        tell = self.ask(self.other, 1)
        self.other.says(Told(tell, numbers(6)))
        self.assertEqual(self.answers(self.other), [(1, {"asynctask_c_total": 11, "asynctask_g": 1})])
        self.clock.advance(1)
        again = self.spawned[2]
        again.up()
        tell = self.ask(again, 1)
        self.other.says(Told(tell, numbers(6)))
        again.says(Told(tell, numbers(1)))
        self.assertEqual(self.answers(again), [(1, {"asynctask_c_total": 12, "asynctask_g": 2})])

    def test_one_that_has_closed_its_end_is_asked_nothing(self) -> None:
        self.one.is_deaf = True
        tell = self.ask(self.other, 1)
        self.other.says(Told(tell, numbers(6)))
        self.clock.advance(PATIENCE)
        self.assertEqual(self.answers(self.other), [(1, {"asynctask_c_total": 6, "asynctask_g": 1})])

    def test_one_that_dies_while_it_is_asked_holds_nobody_up(self) -> None:
        tell = self.ask(self.other, 1)
        self.other.says(Told(tell, numbers(6)))
        self.one.end(1)
        self.assertEqual(len(self.answers(self.other)), 1)

    def test_one_that_dies_after_it_asked_is_told_nothing_nor_is_its_successor(self) -> None:
        tell = self.ask(self.one, 0)
        self.one.end(1)
        self.other.says(Told(tell, numbers(6)))
        self.clock.advance(1)
        self.spawned[2].up()
        self.clock.advance(PATIENCE)
        self.assertEqual([self.answers(one) for one in self.spawned], [[], [], []])
        self.spawned[2].end(1)
        self.clock.advance(2)
        self.assertEqual(len(self.spawned), 4)
