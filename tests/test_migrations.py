"""Old databases are brought up with what is in them, newer ones are read if they allow it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import cast

import psycopg
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from asynctask import starting
from asynctask.istore import Key, Known
from asynctask.metrics import Metrics
from asynctask.migrations import READABLE_FROM, VERSION, upgrade
from asynctask.model import ACCEPTED, COMPLETED, RETRYING, RUNNING, Progress, Task, complete
from asynctask.pgserver import Server, connect
from asynctask.postgres import Postgres
from asynctask.problems import StartError
from asynctask.recorder import Suspect
from asynctask.sqlitefile import Place, check
from asynctask.store import SqlStore
from asynctask.tables import SCHEMA, metadata
from tests import postgres
from tests.on_file import OnFile
from tests.store_contract import NOW
from tests.turns import Turns


def migrate(engine: Engine, to: str = f"{SCHEMA:04d}") -> None:
    """Take the steps, one after the other."""
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "asynctask:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def parts(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """All that a database consists of, but for its epoch, which is drawn."""
    asked = {
        "indexes in order": "SELECT name, tbl_name FROM sqlite_master WHERE sql LIKE 'CREATE INDEX%'",
        "columns": "SELECT m.name, c.* FROM sqlite_master m, pragma_table_xinfo(m.name) c ORDER BY 1, 2",
        "indexed": "SELECT m.name, c.* FROM sqlite_master m, pragma_index_xinfo(m.name) c ORDER BY 1, 2",
        "some": "SELECT name, substr(sql, instr(sql, 'WHERE')) FROM sqlite_master WHERE sql LIKE '%INDEX%'",
        "numbered": "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'",
        "version": VERSION,
        "meta": "SELECT key, CASE key WHEN 'epoch' THEN length(value) ELSE value END FROM meta ORDER BY 1",
        "application": "PRAGMA application_id",
    }
    with engine.connect() as connection:
        return {
            what: [tuple(row) for row in connection.exec_driver_sql(sql)] for what, sql in asked.items()
        }


class MigrationTests(SynchronousTestCase):
    """Old databases are brought up, new ones are read if they allow it."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.engine = create_engine(f"sqlite:///{self.path}")
        self.addCleanup(self.engine.dispose)

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def upgrade(self) -> None:
        with self.engine.begin() as connection:
            upgrade(connection)

    def test_migrations_lead_to_the_tables(self) -> None:
        migrate(self.engine)
        with self.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            self.assertEqual(compare_metadata(context, metadata), [])

    def test_a_new_database_is_what_the_migrations_lead_to(self) -> None:
        stepwise = create_engine(f"sqlite:///{self.mktemp()}")
        self.addCleanup(stepwise.dispose)
        migrate(stepwise)
        self.upgrade()
        self.assertEqual(parts(self.engine), parts(stepwise))

    def test_a_current_schema_is_left_alone(self) -> None:
        self.upgrade()
        before = self.path.read_bytes()
        self.upgrade()
        self.assertEqual(self.path.read_bytes(), before)

    def test_the_log_says_that_an_older_schema_was_brought_up(self) -> None:
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        migrate(self.engine, "0001")
        self.upgrade()
        self.upgrade()
        (told,) = [event for event in events if event.get("log_format") == "The store has a new schema"]
        self.assertEqual((told["before"], told["now"]), (1, SCHEMA))

    def test_a_newer_schema_that_cannot_be_read_is_refused(self) -> None:
        self.upgrade()
        self.execute(
            f"UPDATE alembic_version SET version_num = '{SCHEMA + 1:04d}'",
            f"UPDATE meta SET value = '{SCHEMA + 1}' WHERE key = 'readable_from'",
        )
        before = self.path.read_bytes()
        error = self.assertRaises(StartError, check, Place(self.path))
        self.assertIn(f"has schema {SCHEMA + 1}", str(error))
        self.assertEqual(self.path.read_bytes(), before)
        error = self.assertRaises(
            StartError, SqlStore(Place(self.path), Turns(), metrics=Metrics()).open, [], NOW
        )
        self.assertIn(f"has schema {SCHEMA + 1}", str(error))

    def test_one_of_another_program_is_refused(self) -> None:
        self.upgrade()
        self.execute("UPDATE alembic_version SET version_num = '1975ea83b712'")
        error = self.assertRaises(
            StartError, SqlStore(Place(self.path), Turns(), metrics=Metrics()).open, [], NOW
        )
        self.assertIn("another program's (its alembic_version is 1975ea83b712)", str(error))

    def test_a_newer_schema_that_can_be_read_is_used(self) -> None:
        self.upgrade()
        self.execute(f"UPDATE alembic_version SET version_num = '{SCHEMA + 1:04d}'")
        turns = Turns()
        store = SqlStore(Place(self.path), turns, metrics=Metrics())
        store.open([], NOW)
        turns.outcome(store.close())


class HeldTables(SynchronousTestCase):
    """On a server, a schema that is older, while another program reads from a table of it."""

    def setUp(self) -> None:
        name = f"{postgres.TEMPLATE}_held"
        postgres.execute(f"CREATE DATABASE {name}")
        self.addCleanup(postgres.drop, name)
        self.url = postgres.url_of(name)
        engine = create_engine(
            "postgresql+psycopg://", creator=lambda: connect(self.url), poolclass=NullPool
        )
        migrate(engine, f"{SCHEMA - 1:04d}")
        self.database = Postgres(Server(self.url))
        self.database.open()
        self.addCleanup(self.database.close)
        self.warnings: list[LogEvent] = []
        observer = cast(ILogObserver, self.warnings.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def bring_up(self) -> None:
        connection = self.database.connect()
        self.addCleanup(connection.close)
        starting.bring_up(connection, self.database)

    def test_it_is_waited_for_and_nobody_else_waits(self) -> None:
        reader, other = psycopg.connect(self.url), psycopg.connect(self.url, autocommit=True)
        self.addCleanup(other.close)
        self.addCleanup(reader.close)
        # Should it be waited for in the queue, it goes in the end.
        reader.execute("SET idle_in_transaction_session_timeout = '5s'")
        reader.execute("LOCK TABLE task IN ACCESS SHARE MODE")
        other.execute("SET lock_timeout = '10ms'")
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            other.execute("UPDATE task SET kind = kind")
            if len(pauses) == 2:
                reader.rollback()

        self.patch(starting, "sleep", pause)
        self.bring_up()
        self.assertEqual(pauses, [starting.LET_OTHERS] * 2)
        self.assertEqual(other.execute(VERSION.encode()).fetchone(), (f"{SCHEMA:04d}",))
        for said in ("holds the tables", "gets a new schema"):
            told = [one for one in self.warnings if said in (one.get("log_format") or "")]
            self.assertEqual(len(told), 1, said)

    def test_another_error_is_none_to_try_again_after(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as other:
            other.execute("DROP INDEX task_name")
        self.patch(starting, "sleep", self.fail)
        self.assertRaises(DBAPIError, self.bring_up)


class FirstSchemaTests(OnFile):
    """A database that the first version left is brought up with its tasks intact."""

    ACCEPTED_ENTRY = '{"at":"2023-11-14T22:13:20.250Z","status":"accepted","attempt":0,"error":null}'
    ENDED_ENTRY = '{"at":"2023-11-14T22:13:23.250Z","status":"completed","attempt":1,"error":null}'

    def open_store(self) -> SqlStore:
        if not hasattr(self, "path"):
            self.path = Path(self.mktemp()).absolute()
            self.make_first()
        return super().open_store()

    def make_first(self) -> None:
        """A database as the first version made it, left by a kill."""
        engine = create_engine(f"sqlite:///{self.path}")
        self.addCleanup(engine.dispose)
        migrate(engine, "0001")
        with engine.begin() as connection:
            self.assertEqual(connection.exec_driver_sql(VERSION).scalar(), "0001")
            for number, (status, attempt, owner, result) in enumerate(
                (
                    ("accepted", 0, None, None),
                    ("running", 1, "earlier", None),
                    ("retrying", 1, None, None),
                    ("completed", 1, None, '{"a":[1]}'),
                )
            ):
                ended = status == "completed"
                row = {
                    "task_id": self.old_id(number),
                    "name": f"{status} 🚀",
                    "kind": "simulate",
                    "input": '{"duration":3}',
                    "status": status,
                    "attempt": attempt,
                    "crashes": int(status == "running"),
                    "owner": owner,
                    "accepted_at": NOW,
                    "run_at": NOW + number,
                    "started_at": NOW if attempt else None,
                    "finished_at": NOW + 3 if ended else None,
                    "progress": '{"step":3,"total":3,"message":""}' if ended else None,
                    "result": result,
                    "error": None,
                    "changes": self.ACCEPTED_ENTRY + (f",{self.ENDED_ENTRY}" if ended else ""),
                    "n": 2 if ended else 1,
                }
                columns, values = ", ".join(row), ", ".join(f":{name}" for name in row)
                connection.execute(text(f"INSERT INTO task ({columns}) VALUES ({values})"), row)

    def old_id(self, number: int) -> str:
        return f"task_1699999999000{number}{'0' * 16}"

    def old(self, number: int) -> Task:
        found = self.wait(self.store.get(self.old_id(number)))
        assert isinstance(found, Task)
        return found

    def test_its_tasks_are_intact(self) -> None:
        self.assertEqual(
            self.old(3),
            Task(
                task_id=self.old_id(3),
                name="completed 🚀",
                kind="simulate",
                status=COMPLETED,
                attempt=1,
                accepted_at=NOW,
                run_at=NOW + 3,
                started_at=NOW,
                finished_at=NOW + 3,
                timeout=None,
                retries=0,
                failures=0,
                crashes=0,
                cancel_requested=False,
                longest_step=None,
                traceparent=None,
                progress=Progress(3, 3),
                error=None,
                input='{"duration":3}',
                result='{"a":[1]}',
                history=f"[{self.ACCEPTED_ENTRY},{self.ENDED_ENTRY}]",
                n=2,
            ),
        )
        self.assertEqual([self.old(n).status for n in range(3)], [ACCEPTED, RUNNING, RETRYING])
        self.assertEqual((self.old(1).crashes, self.old(2).run_at), (1, NOW + 2))
        self.assertEqual(self.names(), ["completed 🚀", "retrying 🚀", "running 🚀", "accepted 🚀"])
        self.assertEqual((self.store.unfinished, self.gone), (3, {}))

    def test_its_tasks_go_on(self) -> None:
        claim = self.claim(now=NOW + 2)
        self.assertEqual([(task.name, task.attempt) for task in claim.tasks[:1]], [("running 🚀", 2)])
        self.assertEqual(
            {(task.name, task.attempt) for task in claim.tasks[1:]},
            {("accepted 🚀", 1), ("retrying 🚀", 2)},
        )
        for task in claim.tasks:
            self.assertIs(self.wait(self.store.end(complete(task, "1", NOW + 4), NOW + 4)), COMPLETED)
        self.wait(self.store.forget(NOW + 4, NOW))
        self.assertEqual(self.names(), ["retrying 🚀", "running 🚀", "accepted 🚀"])
        self.assertEqual(self.store.unfinished, 0)

    def test_its_crashes_still_count(self) -> None:
        self.reopen([Suspect(self.old_id(1), 1)])
        self.assertEqual(self.old(1).crashes, 2)

    def test_it_takes_new_tasks_and_keys(self) -> None:
        key = Key("k", "d", "answer", NOW + 9)
        self.assertIsNone(self.wait(self.store.add_once([self.new(retries=5)], [], key, NOW)))
        self.assertEqual(self.wait(self.store.add_once([self.new()], [], key, NOW)), Known("d", "answer"))
        self.assertEqual((self.names().count("a"), self.store.unfinished), (1, 4))

    def test_the_first_version_can_read_it_no_more(self) -> None:
        with closing(sqlite3.connect(self.path)) as file:
            self.assertEqual(file.execute(VERSION).fetchone(), (f"{SCHEMA:04d}",))
            self.assertEqual(file.execute(READABLE_FROM).fetchone(), ("3",))
