"""What is asked of PostgreSQL all the time takes no longer where a great many tasks wait: by its plans."""

from typing import Any, Final

import psycopg
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import psycopg as dialect

from asynctask import pgbatches, polling, sharedstatements, statements
from asynctask.model import ACCEPTED, News, Query
from asynctask.reading import page_of
from tests import postgres
from tests.store_contract import NOW
from tests.test_postgres import OnServer

TASKS: Final = 30_000
"""So many that no plan reads them all unless it has to."""

FILL: Final = f"""
INSERT INTO task (task_id, name, kind, input, status, attempt, crashes, owner, accepted_at, run_at,
                  finished_at, changes, n)
SELECT 'task_' || lpad(i::text, 30, '0'), 'a', 'simulate', '{{}}', status, 1, 0,
       CASE WHEN status = 'running' THEN (SELECT id FROM process LIMIT 1) END, {NOW}, {NOW} - i,
       CASE WHEN status = 'completed' THEN {NOW} - i END, '', 1
FROM generate_series(1, {TASKS}) i,
     LATERAL (SELECT CASE i % 10 WHEN 0 THEN 'running' WHEN 1 THEN 'completed' ELSE 'accepted' END
              AS status) s
"""


class Emptied(OnServer):
    """What takes some of the tasks takes no more of a table that the server takes for empty."""

    def empty(self) -> None:
        """As retention leaves it, and the server's own look at it afterwards."""
        with psycopg.connect(postgres.url_of(self.database), autocommit=True) as connection:
            connection.execute(FILL.replace(str(TASKS), "100"))
            connection.execute("DELETE FROM task")
            connection.execute("ANALYZE task, idempotency")

    def test_a_claim_takes_as_many_as_it_may(self) -> None:
        self.empty()
        self.add(*[self.new() for _ in range(40)])
        self.assertEqual([len(self.claim(limit).tasks) for limit in (1, 5)], [1, 5])

    def test_retention_takes_as_many_as_it_may(self) -> None:
        self.empty()
        with psycopg.connect(postgres.url_of(self.database)) as connection:
            connection.execute(FILL.replace(str(TASKS), "40"))
            connection.execute(f"UPDATE task SET status = 'completed', finished_at = {NOW} - 1")
            connection.execute(
                "INSERT INTO idempotency (scope, key, digest, answer, expires_at) "
                f"SELECT '', i::text, '', '', {NOW} FROM generate_series(1, 40) i"
            )
        self.forget_at_once(5)
        self.wait(self.store.forget(NOW, NOW))
        with psycopg.connect(postgres.url_of(self.database)) as connection:
            [left] = connection.execute(
                "SELECT (SELECT count(*) FROM task WHERE status = 'completed'), "
                "(SELECT count(*) FROM idempotency)"
            )
        self.assertEqual(left, (35, 35))


class Plans(OnServer):
    """No statement on the way of a task reads all of them."""

    def setUp(self) -> None:
        super().setUp()
        # By a connection of its own: the store's has little time for a statement.
        with psycopg.connect(postgres.url_of(self.database)) as connection:
            connection.execute(FILL)
            connection.execute("ANALYZE task")

    def page(self, query: Query) -> str:
        statement, given = page_of(query)
        return self.plan(statement, **given)

    def plan(self, statement: Any, **given: Any) -> str:
        """How the server would go about a statement of ours, SQLAlchemy's or the driver's."""
        values: Any = tuple(given.values())
        sql = statement
        if isinstance(statement, bytes):
            sql = statement.decode()
        elif not isinstance(statement, str):
            expanded = statement.compile(dialect=dialect.dialect()).construct_expanded_state(given)
            sql, values = expanded.statement, expanded.parameters

        def explain(connection: Connection, _news: list[News]) -> str:
            return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {sql}", values))

        found: str = self.wait(self.store._writer.call(explain))
        self.assertNotIn("Seq Scan on task", found)
        return found

    def test_claims_take_the_first_that_are_due_by_their_index(self) -> None:
        given = {"me": "me", "of_kind": "simulate", "now": NOW, "at": "now", "limit": 50}
        plan = self.plan(statements.CLAIM_DUE, **given)
        self.assertIn("task_due", plan)
        self.assertNotIn("Sort", plan)
        plan = self.plan(statements.NEXT_DUE, of_kind="simulate")
        self.assertIn("Limit", plan)
        self.assertIn("task_due", plan)

    def test_orphans_are_found_among_those_that_run(self) -> None:
        self.assertIn("task_owner", self.plan(sharedstatements.GONE))
        given = {"of_kind": "simulate", "gone": ["one", "other"]}
        for statement, more in (
            (sharedstatements.ABANDONED, {"limit": 50}),
            (sharedstatements.CUT_OFF_ABANDONED, {"kinds": ["simulate"]}),
            (sharedstatements.LEFT, {"kinds": ["simulate"]}),
        ):
            self.assertIn("task_owner", self.plan(statement, **given, **more))

    def test_those_that_run_are_counted_by_an_index(self) -> None:
        self.assertRegex(self.plan(sharedstatements.RUNNING_OF, of_kind="simulate"), "task_(owner|running)")

    def test_ends_find_their_tasks_by_their_ids(self) -> None:
        self.assertIn("task_pkey", self.plan(pgbatches.ASK, asked="[]", owner="me"))
        self.assertIn("task_pkey", self.plan(pgbatches.SAVE, owner="me", saved="[]"))

    def test_looks_at_what_others_do_read_little(self) -> None:
        self.assertIn("task_due", self.plan(polling.DUE_KINDS, kinds=["simulate"], now=NOW))
        self.assertIn("task_cancelling", self.plan(polling.TO_END, owner="me"))
        self.assertIn("event_pkey", self.plan(polling.LAST_SEQ))

    def test_a_list_of_a_rare_kind_reads_little_of_the_others(self) -> None:
        plan = self.page(Query(kind="rare", statuses=(ACCEPTED,), cursor="task_x"))
        self.assertIn("task_kind_status", plan)
        self.assertNotIn("Sort", plan)

    def test_retention_finds_the_oldest_by_their_index(self) -> None:
        plan = self.plan(statements.FORGET_OLD, before=NOW, limit=100)
        self.assertIn("task_finished", plan)
