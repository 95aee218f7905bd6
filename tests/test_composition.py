"""What the service says of itself at its start."""

from pathlib import Path

from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask import recorder
from asynctask.composition import AsyncTask
from asynctask.pgserver import Server
from asynctask.sqlitefile import Place
from tests import postgres
from tests.test_metrics import Reactor

TASK = f"task_{10**9}{'0' * 20}"


class StartTests(SynchronousTestCase):
    """A service that listens nowhere."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.reactor = Reactor()

    def start(self, place: Place | Server | None = None) -> list[LogEvent]:
        """Begin; what is logged then."""
        service = AsyncTask(place or Place(self.path, "off"), None, self.reactor)
        with capturedLogs() as logged:
            service._begin()
        self.reactor.outcome(service._store.close())
        service._recorder.close()
        return list(logged)

    def test_it_names_the_store(self) -> None:
        (opened,) = self.start()
        self.assertEqual(
            (opened["log_level"], opened["log_format"], opened["store"], opened["not_ended"]),
            (LogLevel.info, "Store opened", str(self.path), 0),
        )

    def test_one_of_many_names_itself_as_its_tasks_do(self) -> None:
        database = postgres.new_database()
        self.addCleanup(postgres.drop, database)
        self.path.mkdir()
        (opened,) = self.start(Server(postgres.url_of(database), folder=self.path))
        self.assertRegex(opened["owner"], "^[0-9a-f]{16}$")
        self.assertEqual(opened["log_format"], "Store opened")

    def test_a_store_that_others_may_read_or_write_is_warned_of(self) -> None:
        self.start()
        for mode in (0o620, 0o604):
            self.path.chmod(mode)
            warned, _ = self.start()
            self.assertEqual(
                (warned["log_level"], warned["log_format"], warned["path"]),
                (LogLevel.warn, "Other users may read or write the store", str(self.path)),
            )

    def test_a_store_that_has_been_there_and_is_gone_is_warned_of(self) -> None:
        self.start()
        self.path.unlink()
        warned, _ = self.start()
        self.assertEqual(
            (warned["log_format"], warned["path"]),
            ("The store has been here, and its file is gone: it is made anew", str(self.path)),
        )

    def test_it_names_the_tasks_in_which_the_last_process_died(self) -> None:
        self.start()
        dying = recorder.FlightRecorder()
        dying.open(self.path.with_name(f"{self.path.name}-recorder"))
        dying.swap(recorder.record(TASK, 2))
        dying.close()
        named, _ = self.start()
        self.assertEqual(
            (named["log_level"], named["log_format"], named["task_id"], named["attempt"]),
            (LogLevel.warn, "A process died while it was at work on a task", TASK, 2),
        )
        self.assertEqual(len(self.start()), 1)

    def test_a_process_for_which_there_is_no_flight_recorder_says_so(self) -> None:
        self.patch(recorder, "MOST_FILES", 0)
        self.path.mkdir()
        service = AsyncTask(Server("dbname=a", folder=self.path), None, self.reactor)
        with capturedLogs() as logged:
            service._open_recorder()
        self.assertEqual(
            [(event["log_level"], event["log_format"], event["path"]) for event in logged],
            [
                (
                    LogLevel.warn,
                    "Too many processes for flight recorders: a crash of this one charges no task",
                    f"{service._place.recorder_path}.*",
                )
            ],
        )
