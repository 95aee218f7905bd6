"""What is done often goes by an index."""

from typing import Any

from sqlalchemy import create_engine
from twisted.trial.unittest import SynchronousTestCase

from asynctask import batches, outboxstatements, statements
from asynctask.migrations import upgrade
from asynctask.model import ACCEPTED, RUNNING, Query, Status, Task
from asynctask.reading import page_of
from asynctask.rows import ENDED_COLUMNS, changed_row
from tests.store_contract import NOW


class QueryPlanTests(SynchronousTestCase):
    """Everything that is done often goes by an index."""

    def setUp(self) -> None:
        self.engine = create_engine("sqlite://")
        with self.engine.begin() as connection:
            upgrade(connection)
        self.addCleanup(self.engine.dispose)

    def page(self, query: Query) -> str:
        statement, given = page_of(query)
        return self.plan(statement, **given)

    def plan(self, statement: Any, **given: Any) -> str:
        whole = statement.compile(self.engine).construct_expanded_state(given)
        values = tuple(whole.parameters[name] for name in whole.positiontup or ())
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {whole.statement}", values)
            return "\n".join(row[3] for row in rows)

    def assert_indexed(self, plan: str, *indexes: str) -> None:
        for index in indexes:
            self.assertIn(index, plan)
        self.assertNotIn("SCAN task", plan.replace("SCAN task USING INDEX", ""))
        self.assertNotIn("TEMP B-TREE", plan)

    def test_a_task_is_found_by_its_id(self) -> None:
        self.assert_indexed(self.plan(statements.GET, task_id="x"), "autoindex_task_1 (task_id=?)")

    def test_due_tasks_are_found_in_order(self) -> None:
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {batches.DUE}", ("simulate", NOW, 9))
            plan = "\n".join(row[3] for row in rows)
        self.assert_indexed(plan.replace("SCAN (subquery", ""), "task_due (kind=? AND run_at<?)")
        plan = self.plan(statements.CLAIM, task_ids="[]", now=NOW, me="m", at="")
        self.assert_indexed(plan, "autoindex_task_1 (task_id=?)")
        self.assert_indexed(self.plan(statements.NEXT_DUE, of_kind="simulate"), "task_due (kind=?)")

    def test_orphans_are_found_among_the_running_ones_only(self) -> None:
        plan = self.plan(statements.ORPHANS, of_kind="simulate", limit=9, me="m")
        self.assertIn("SEARCH task USING INDEX task_owner (owner<?)", plan)
        self.assertIn("SEARCH task USING INDEX task_owner (owner>?)", plan)

    def test_ends_are_written_by_id(self) -> None:
        ending = batches.ending(2, ENDED_COLUMNS)
        for sql, values in ((batches.running(2), 2), (ending, len(ENDED_COLUMNS))):
            with self.engine.connect() as connection:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", (None,) * 2 * values)
                plan = "\n".join(row[3] for row in rows)
            self.assert_indexed(plan, "autoindex_task_1 (task_id=?)")

    def test_what_is_changed_from_outside_is_found_by_its_id(self) -> None:
        given = dict.fromkeys(changed_row(Task("", "", "", ACCEPTED, 0, 0, 0), NOW, moved=True))
        self.assert_indexed(self.plan(statements.CHANGE, **given), "autoindex_task_1 (task_id=?)")
        for statement in (statements.DELETE, statements.SUSPECT):
            plan = self.plan(statement, of_task="x", task_id="x", attempt=1)
            self.assert_indexed(plan, "autoindex_task_1 (task_id=?)")

    def test_what_is_to_be_cancelled_is_found_by_its_owner(self) -> None:
        plan = self.plan(statements.TO_BE_CANCELLED, me="x")
        self.assertEqual(plan, "SEARCH task USING INDEX task_cancelling (owner=?)")

    def test_what_ended_long_ago_is_found_in_order(self) -> None:
        plan = self.plan(statements.FORGET_OLD, before=NOW, limit=9)
        self.assert_indexed(plan, "task_finished (finished_at<?)", "autoindex_task_1 (task_id=?)")

    def test_callbacks_are_found_when_they_are_due(self) -> None:
        plan = self.plan(outboxstatements.CALLBACKS_DUE, now=NOW, after=0, after_task="", limit=9)
        found = "SEARCH task USING INDEX task_callback ((callback_due,task_id)>(?,?) AND callback_due<?)"
        self.assertEqual(plan, found)
        for statement in (outboxstatements.NEXT_CALLBACK, outboxstatements.PENDING_CALLBACKS):
            self.assertIn("COVERING INDEX task_callback", self.plan(statement, now=NOW))
        given = {"of_task": "x", "of_attempt": 1, "of_end": NOW}
        given |= {"new_state": "failed", "new_due": None, "new_error": None}
        self.assert_indexed(self.plan(outboxstatements.CALLED, **given), "autoindex_task_1 (task_id=?)")
        plan = self.plan(outboxstatements.OUTCOME, of_task="x", of_attempt=1, now=NOW)
        self.assert_indexed(plan, "autoindex_task_1 (task_id=?)")

    def test_events_are_found_by_their_number_and_forgotten_from_the_oldest_on(self) -> None:
        by_number = "SEARCH event USING INTEGER PRIMARY KEY (rowid>?)"
        self.assertEqual(self.plan(statements.EVENTS, from_seq=5, limit=9), by_number)
        for statement in (statements.FIRST_EVENT, statements.LAST_EVENT):
            self.assertEqual(self.plan(statement), "SEARCH event")
        self.assertNotIn("B-TREE", self.plan(statements.FORGET_EVENTS, before=NOW, most=9, limit=9))

    def test_keys_are_found_by_name_and_by_age(self) -> None:
        self.assertEqual(
            self.plan(statements.KEY, key="k", now=NOW),
            "SEARCH idempotency USING INDEX sqlite_autoindex_idempotency_1 (scope=? AND key=?)",
        )
        self.assertIn(
            "SEARCH idempotency USING INDEX idempotency_expires (expires_at<?)",
            self.plan(statements.FORGET_KEYS, now=NOW, limit=9),
        )

    def test_the_start_reads_nothing_of_what_has_ended(self) -> None:
        plan = self.plan(statements.UNFINISHED)
        self.assertIn("COVERING INDEX task_kind_status (kind=? AND status=?)", plan)
        self.assertNotIn("SCAN task", plan)
        self.assertIn("task_status (status=?)", self.plan(statements.CUT_OFF, kinds=["simulate"]))

    def test_lists_are_read_in_order(self) -> None:
        cursor = "task_x"
        self.assert_indexed(self.page(Query(cursor=cursor)), "autoindex_task_1")
        plan = self.page(Query(statuses=(ACCEPTED,), cursor=cursor))
        self.assert_indexed(plan, "task_status (status=? AND task_id<?)")
        plan = self.page(Query(statuses=(ACCEPTED, RUNNING)))
        self.assertEqual(plan.count("USING INDEX task_status (status=?)"), 2)
        plan = self.page(Query(statuses=(ACCEPTED,), kind="simulate", cursor=cursor))
        self.assert_indexed(plan, "task_kind_status (kind=? AND status=? AND task_id<?)")
        plan = self.page(Query(kind="simulate", cursor=cursor))
        self.assertEqual(plan.count("task_kind_status (kind=? AND status=? AND task_id<?)"), len(Status))

    def test_a_list_with_a_name_reads_only_what_has_it(self) -> None:
        for query in (
            Query(name="a", cursor="x"),
            Query(name="a", kind="simulate", cursor="x"),
            Query(name="a", kind="simulate", statuses=(ACCEPTED, RUNNING), cursor="x"),
            Query(name="a", statuses=(RUNNING,), cursor="x"),
        ):
            plan = self.page(query)
            found = plan.count("USING INDEX task_name_status (name=? AND status=? AND task_id<?)")
            self.assertEqual(found, len(query.statuses) or len(Status), plan)
            self.assertNotIn("SCAN task", plan)
