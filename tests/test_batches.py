"""Many rows in one statement: as many as there are, whatever sizes statements have."""

from typing import Any, Final

from msgspec.structs import replace
from sqlalchemy import Connection, create_engine, event, text
from twisted.trial.unittest import SynchronousTestCase

from asynctask import batches
from asynctask.batches import LARGE, SIZES, Differs, End
from asynctask.model import COMPLETED, News, Submission, Task, accept, complete, request_cancel, start
from asynctask.rows import claimed_row, new_row
from asynctask.tables import metadata
from asynctask.wire import Ids

NOW: Final = 1_700_000_000.25

COUNTS: Final = (*range(1, 70), 95, 96, 97, 127, 129, 255, 256, 257, 300, 600)


class Batches(SynchronousTestCase):
    """New tasks and ends of attempts, as SQLite is told of them."""

    def setUp(self) -> None:
        engine = create_engine("sqlite://")
        metadata.create_all(engine)
        self.db: Connection = engine.connect()
        self.addCleanup(engine.dispose)
        self.addCleanup(self.db.close)
        self.ids = Ids()
        self.statements: list[str] = []
        event.listen(engine, "before_cursor_execute", self.note)

    def note(self, _connection: object, _cursor: object, statement: str, *_: Any) -> None:
        self.statements.append(statement)

    def new(self, count: int, **given: Any) -> list[Task]:
        wanted = Submission("a", "simulate", "{}", **given)
        return [accept(wanted, self.ids.next(NOW, bytes(16)), NOW) for _ in range(count)]

    def kept(self) -> dict[str, str]:
        """All tasks, each with its status."""
        return {row.task_id: row.status for row in self.db.execute(text("SELECT * FROM task"))}

    def test_any_number_of_tasks_is_added_and_ended_and_nothing_else(self) -> None:
        for count in COUNTS:
            started = [
                start(task, NOW) for task in self.new(count, callback_url="http://a" if count % 2 else None)
            ]
            batches.add(self.db, [claimed_row(task, "me") for task in started])
            self.assertEqual(self.kept(), {task.task_id: "running" for task in started})
            news: list[News] = []
            ends = [End(complete(task, "1" * 9, NOW), NOW) for task in started]
            left = batches.end(self.db, ends, news)
            self.assertEqual((left, len(news)), ([COMPLETED] * count, count))
            self.assertEqual(self.kept(), {task.task_id: "completed" for task in started})
            self.db.execute(text("DELETE FROM task"))

    def test_of_many_ends_those_of_attempts_that_were_given_up_are_left_out(self) -> None:
        started = [start(task, NOW) for task in self.new(100)]
        batches.add(self.db, [claimed_row(task, "me") for task in started[:50]])
        batches.add(self.db, [new_row(task) for task in self.new(3)])
        left = batches.end(self.db, [End(complete(task, "1", NOW), NOW) for task in started], [])
        self.assertEqual(left, [COMPLETED] * 50 + [None] * 50)
        self.assertEqual(sorted(self.kept().values()), ["accepted"] * 3 + ["completed"] * 50)

    def test_of_due_tasks_with_large_inputs_a_few_are_claimed_in_one_go(self) -> None:
        large = [replace(task, input="x" * (LARGE // 2)) for task in self.new(5)]
        batches.add(self.db, [new_row(task) for task in large])
        given = {"me": "me", "of_kind": "simulate", "now": NOW, "at": "", "limit": 10}
        claimed = [[task.task_id for task in batches.claim(self.db, given)] for _ in range(4)]
        ids = [task.task_id for task in large]
        self.assertEqual(claimed, [ids[:2], ids[2:4], ids[4:], []])
        one = replace(self.new(1)[0], input="x" * 2 * LARGE)
        batches.add(self.db, [new_row(one)])
        self.assertEqual([task.task_id for task in batches.claim(self.db, given)], [one.task_id])

    def test_what_is_claimed_has_its_numbers_to_the_last_digit(self) -> None:
        at = NOW - 1 / 3
        [due] = [replace(task, accepted_at=at, run_at=at, timeout=0.1 + 0.2) for task in self.new(1)]
        batches.add(self.db, [new_row(due)])
        given = {"me": "me", "of_kind": "simulate", "now": NOW, "at": "", "limit": 1}
        [found] = batches.claim(self.db, given)
        self.assertEqual((found.accepted_at, found.run_at, found.timeout), (at, at, 0.1 + 0.2))

    def test_there_are_few_statements(self) -> None:
        for count in range(1, SIZES[-1] + 1):
            started = [start(task, NOW) for task in self.new(count)]
            self.statements.clear()
            batches.add(self.db, [claimed_row(task, "me") for task in started])
            batches.end(self.db, [End(complete(task, "1", NOW), NOW) for task in started], [])
            self.assertEqual(len(self.statements), 3)
            self.db.execute(text("DELETE FROM task"))

    def test_ends_of_attempts_that_are_as_they_suppose_are_one_statement(self) -> None:
        for count in (1, 2, 50, 256):
            started = [start(task, NOW) for task in self.new(count)]
            batches.add(self.db, [claimed_row(task, "me") for task in started])
            after = [complete(task, "1", NOW) for task in started]
            self.statements.clear()
            news: list[News] = []
            left = batches.end_as_supposed(self.db, [End(task, NOW) for task in after], news)
            self.assertEqual((left, news, len(self.statements)), ([COMPLETED] * count, after, 1))
            self.assertEqual(self.kept(), {task.task_id: "completed" for task in started})
            self.db.execute(text("DELETE FROM task"))

    def test_one_of_them_that_is_another_is_noticed(self) -> None:
        for other in ("status = 'retrying'", "n = 3", "cancel_requested = 1", "task_id = 'x'"):
            first, last = [start(task, NOW) for task in self.new(2)]
            batches.add(self.db, [claimed_row(task, "me") for task in (first, last)])
            self.db.execute(text(f"UPDATE task SET {other} WHERE task_id = '{last.task_id}'"))
            ends = [End(complete(task, "1", NOW), NOW) for task in (first, last)]
            self.assertRaises(Differs, batches.end_as_supposed, self.db, ends, [])

    def test_a_cancel_that_they_know_of_is_nothing_else(self) -> None:
        started = start(self.new(1)[0], NOW)
        batches.add(self.db, [claimed_row(started, "me")])
        self.db.execute(text("UPDATE task SET cancel_requested = 1"))
        ended = complete(request_cancel(started, NOW), "1", NOW)
        self.assertEqual(batches.end_as_supposed(self.db, [End(ended, NOW)], []), [COMPLETED])
