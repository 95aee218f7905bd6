"""The schema as it is now. How it came to be is in ``migrations``; a test holds the two together."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    false,
    text,
)

SCHEMA: Final = 7
"""The newest migration that this version knows."""

APPLICATION_ID: Final = 0x61746B31
"""Marks a SQLite file as ours (``PRAGMA application_id``; "atk1")."""

ID_TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
"""Ids sort as their bytes do, whatever the database's language."""

NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")


def where(condition: str) -> dict[str, Any]:
    """The rows that an index is about.

    Only for SQLite: to name another dialect here would import it at each start, for 80 ms.
    """
    return {"sqlite_where": text(condition)}


metadata: Final = MetaData()

# JSON is kept as text, so that what went in comes out; times are seconds since the epoch.
task: Final = Table(
    "task",
    metadata,
    Column("task_id", ID_TEXT, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("owner", Text),
    Column("accepted_at", Double, nullable=False),
    Column("run_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("progress", Text),
    Column("result", Text),
    Column("error", Text),
    # The history: entries with commas between, and how many.
    Column("changes", Text, nullable=False),
    Column("n", Integer, nullable=False),
    Column("timeout", Double),
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("longest_step", Double),
    Column("traceparent", Text),
    Column("callback_url", Text),
    Column("callback_state", Text),
    Column("callback_due", Double),
    Column("callback_tries", Integer, nullable=False, server_default="0"),
    Column("callback_error", Text),
    Index("task_callback", "callback_due", "task_id", **where("callback_due IS NOT NULL")),
    Index("task_status", "status", "task_id"),
    # Its last column spares a look at each task of the name where those of one kind are asked for.
    Index("task_name_status", "name", "status", "task_id", "kind"),
    Index("task_kind_status", "kind", "status", "task_id"),
    Index(
        "task_due",
        "kind",
        "run_at",
        "task_id",
        **where("status IN ('accepted', 'retrying')"),
    ),
    # What may be forgotten, once it is old: a callback is told first.
    Index("task_finished", "finished_at", **where("finished_at IS NOT NULL AND callback_due IS NULL")),
    Index("task_owner", "owner", **where("status = 'running'")),
    # Who ended the latest attempt: its owner and its number.
    Column("ended_by", Text),
    Index("task_cancelling", "owner", **where("status = 'running' AND cancel_requested")),
)

event: Final = Table(
    "event",
    metadata,
    # One row a commit; numbers are never used again.
    Column("seq", NUMBER, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    # Bytes of all bodies up to this one, which is read by `asynctask.changes.read`.
    Column("upto", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    sqlite_autoincrement=True,
)

idempotency: Final = Table(
    "idempotency",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    # Of the parsed body; what was answered is its first answer, the body of the 202 with its headers.
    Column("digest", Text, nullable=False),
    Column("task_id", Text),
    Column("answer", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index("idempotency_expires", "expires_at"),
)

process: Final = Table(
    "process",
    metadata,
    # One row a process that is alive, on a database that many share; seen by the database's clock.
    Column("id", Text, primary_key=True),
    Column("seen", Double, nullable=False),
    Column("version", Text, nullable=False),
)

meta: Final = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
